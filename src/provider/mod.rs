//! The seed interface: how existing code asks for a write lease, whatever grants it.
//!
//! The names, fields and signatures here are a contract with code that is written already; they stay as they are. A
//! provider written elsewhere compiles unchanged, so what is new travels beside the guard and never in it: the
//! lease id alone is enough to renew, to release, and to look up the fencing token.

mod local;
mod raft;

use std::fmt;

use async_trait::async_trait;

pub use self::{local::LocalLease, raft::RaftLease};
use crate::{
    error::{Error, Result},
    token::Token,
};

/// What a provider grants: the right to write, until it expires.
///
/// Dropping it releases nothing: a lease that is neither renewed nor released expires by itself.
#[derive(Clone, PartialEq, Eq)]
pub struct LeaseGuard {
    /// Identifies the lease to its provider. Whoever knows it can release it: keep it out of logs.
    pub lease_id: String,
    /// When it expires unless it is renewed, by the wall clock of the machine that granted it. For people to see:
    /// no clock of another machine quite agrees with it, so renew well before. [`Access`](crate::Access) takes the
    /// length of what a `Custom` provider grants from it: it must not be later than the true end.
    pub expires_at: chrono::DateTime<chrono::Utc>,
}

/// How many characters of a lease id `Debug` shows.
const SHOWN_CHARS: usize = 8;

/// Shows the beginning of the lease id only: it is a secret.
impl fmt::Debug for LeaseGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown: String = self.lease_id.chars().take(SHOWN_CHARS).collect();
        if shown.len() < self.lease_id.len() {
            shown.push('…');
        }
        f.debug_struct("LeaseGuard").field("lease_id", &shown).field("expires_at", &self.expires_at).finish()
    }
}

/// Grants a write lease to one writer at a time.
///
/// What every provider has to keep: between `acquire` and the expiry, release or loss of what it granted, no other
/// `acquire` on the same resource succeeds. Its futures may be dropped at any await; what was granted unseen then
/// expires.
#[async_trait]
pub trait WriteLeaseProvider: Send + Sync {
    /// Acquires the lease, without waiting for another writer.
    ///
    /// # Errors
    /// If another writer holds it, or the provider can't tell.
    async fn acquire(&self) -> Result<LeaseGuard>;

    /// Renews the lease, from now for its whole length. Call it well before it expires.
    ///
    /// # Errors
    /// If the lease has expired, was released, or is not this provider's; it never acquires anew. Other errors (an
    /// unreachable network) say nothing about the lease: call again until it expires. [`Access`](crate::Access) can tell
    /// the two apart by [`Error::ForeignGuard`] and [`Error::Lost`]; after any other it tries again.
    async fn heartbeat(&self, guard: &LeaseGuard) -> Result<()>;

    /// Releases the lease, so that the next writer need not wait for its expiry. For a graceful shutdown.
    ///
    /// To release what is not held any more changes nothing; whether it is an error is the provider's choice.
    ///
    /// # Errors
    /// If it is not known to be released: it expires by itself then.
    async fn release(&self, guard: LeaseGuard) -> Result<()>;
}

/// Where a write lease comes from.
#[derive(Default)]
#[non_exhaustive]
pub enum WriteLease {
    /// One writer in this process: the lease on [`LocalLease::DEFAULT_NAME`], for 10 s without a heartbeat. Another
    /// process has its own.
    #[default]
    Local,
    /// A DynamoDB table. Reserved: this version has no provider for it.
    DynamoDB {
        /// The name of the table.
        table: String,
    },
    /// Any other provider.
    Custom(Box<dyn WriteLeaseProvider>),
    /// The cluster of agents that this process belongs to.
    Raft(RaftLease),
}

impl WriteLease {
    /// The provider behind this kind of lease.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if this build has none.
    pub fn provider(&self) -> Result<&dyn WriteLeaseProvider> {
        match self {
            Self::Local => Ok(local::default()),
            Self::Custom(provider) => Ok(provider.as_ref()),
            Self::Raft(lease) => Ok(lease),
            Self::DynamoDB { table } => Err(Error::Unavailable {
                what: format!("WriteLease::DynamoDB (table {table:?})"),
                remedy: "enable the cargo feature `dynamodb` once your version of leasehold has it (this one doesn't yet), or pass a provider that speaks to the table in `WriteLease::Custom`",
            }),
        }
    }

    /// The fencing token of a guard, as far as it is known to this process; `None` when the guard is held no more.
    ///
    /// Without a network: for `Raft` see [`RaftLease::token`]. A `Custom` provider has none that this could find, unless
    /// it hands out what a [`LocalLease`] of this process granted; where it has tokens of its own, tell
    /// [`Access::tokens_from`](crate::Access::tokens_from) how to find them.
    #[must_use]
    pub fn token(&self, guard: &LeaseGuard) -> Option<Token> {
        match self {
            Self::Local => local::default().token(guard),
            // 128 random bits: an id that is in this process's registry was granted by it.
            Self::Custom(_) => local::token(guard),
            Self::Raft(lease) => lease.token(guard),
            Self::DynamoDB { .. } => None,
        }
    }
}

/// Any kind of lease is driven like a provider.
#[async_trait]
impl WriteLeaseProvider for WriteLease {
    async fn acquire(&self) -> Result<LeaseGuard> {
        self.provider()?.acquire().await
    }

    async fn heartbeat(&self, guard: &LeaseGuard) -> Result<()> {
        self.provider()?.heartbeat(guard).await
    }

    async fn release(&self, guard: LeaseGuard) -> Result<()> {
        self.provider()?.release(guard).await
    }
}

impl fmt::Debug for WriteLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("WriteLease::Local"),
            Self::DynamoDB { table } => write!(f, "WriteLease::DynamoDB {{ table: {table} }}"),
            Self::Custom(_) => f.write_str("WriteLease::Custom(...)"),
            Self::Raft(lease) => write!(f, "WriteLease::Raft {{ name: {} }}", lease.name()),
        }
    }
}
