//! What can go wrong with an [`Access`](crate::Access) and its write guard.

use std::{fmt, time::Duration};

use crate::{session::LossReason, token::Token};

/// Why an [`Access`](crate::Access) gave no write guard, or a guard no release. What a provider itself fails with is
/// passed on as it is, and not in here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// *Nothing happened*: it was opened for reading.
    #[error("this access is read-only; open it with Access::read_write(…) to write")]
    ReadOnly,
    /// *Nothing happened*: it has a write guard that is held, or is about to have one.
    #[error("this access is being written through already; drop or close its write guard first")]
    AlreadyWriting,
    /// *Nothing happened*, or what was granted meanwhile is being released.
    #[error("this access was closed; open another one to write")]
    Closed,
    /// *Nothing happened*: guards are kept alive by a task, and there is nothing to run it.
    #[error("write() was called outside of a tokio runtime; call it on one, with its time enabled")]
    NoRuntime,
    /// *Nothing is held*: what was granted had ended already by this machine's wall clock. It is being released.
    #[error(
        "{lease} was granted until {expires_at}, but this machine's clock shows {shown} already: the provider's clock and this one disagree, or its answer took longer than the lease; set both clocks right (NTP), or have it grant for longer"
    )]
    ClocksDisagree {
        /// The write lease.
        lease: String,
        /// When it ends by the provider's clock.
        expires_at: chrono::DateTime<chrono::Utc>,
        /// What this machine's wall clock showed when the answer was here.
        shown: chrono::DateTime<chrono::Utc>,
    },
    /// *Nothing is held*: the grant took longer than it may be believed in. It is being released.
    #[error(
        "{lease} was granted for {left:?} more, but that answer took {took:?}; have it grant for longer, or find out what is slow"
    )]
    TooLate {
        /// The write lease.
        lease: String,
        /// How long it was to last when the answer was here.
        left: Duration,
        /// How long the answer took.
        took: Duration,
    },
    /// *Outcome unknown*: the guard is not held any more, but it is not known to be released.
    #[error("it is unknown whether {lease} was released ({detail}); it expires within {ttl:?} at the latest")]
    ReleaseUnknown {
        /// The write lease.
        lease: String,
        /// What was tried.
        detail: String,
        /// How long it lives without a heartbeat.
        ttl: Duration,
    },
    /// The guard is held no more, and what was written since must be taken for refused.
    #[error(transparent)]
    Lost(#[from] WriteLost),
}

/// A write guard that is held no more: of which lease, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteLost {
    /// The write lease, as [`WriteLease`](crate::WriteLease) prints it.
    pub lease: String,
    /// Its fencing token, where it had one.
    pub token: Option<Token>,
    /// Why it is lost.
    pub reason: LossReason,
    /// What the provider answered to the last heartbeat, if that failed and the loss may come from it.
    pub last_failure: Option<Box<str>>,
}

impl fmt::Display for WriteLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the write guard of {}", self.lease)?;
        if let Some(token) = self.token {
            write!(f, " (token {token})")?;
        }
        write!(f, " is lost: {}", self.reason)?;
        match &self.last_failure {
            Some(failure) => write!(f, " (the last heartbeat failed: {failure})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for WriteLost {}
