//! What an applied entry changed, in order: for watchers, for the agents' sessions, for the leader's deadlines.
//!
//! An event carries lease ids, and a lease id is a secret: it stays in the process. What a watcher is told is a
//! [`Change`](crate::Change), which names holder and token instead.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{command::Holder, outcome::Ending};
use crate::{AgentName, LeaseId, Name, Token};

/// One change. Its log index is the entry's, which the caller of `apply` knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The cluster's life begins.
    Founded {
        /// Every token is larger than this one.
        tokens_above: Token,
    },
    /// An agent queued. The leader starts a deadline for it.
    Queued {
        /// For this name.
        name: Name,
        /// Its acquisition.
        lease_id: LeaseId,
        /// Who.
        holder: Holder,
        /// How long it stays in the queue without a renewal.
        ttl_ms: u64,
    },
    /// A lease was granted. The leader starts its deadline afresh; the agent renews once, then believes.
    Granted {
        /// The name.
        name: Name,
        /// The acquisition.
        lease_id: LeaseId,
        /// The grant's token.
        token: Token,
        /// Who.
        holder: Holder,
        /// How long it lives without a renewal.
        ttl_ms: u64,
        /// Whether it waited before.
        from_queue: bool,
        /// What the holder wants others to see.
        metadata: Bytes,
    },
    /// A lease ended.
    Ended {
        /// The name.
        name: Name,
        /// The acquisition.
        lease_id: LeaseId,
        /// The grant's token.
        token: Token,
        /// Who held it.
        holder: Holder,
        /// Why: told to the holder once (rule L10).
        reason: EndReason,
    },
    /// A waiter left the queue without a grant.
    Left {
        /// The name.
        name: Name,
        /// The acquisition.
        lease_id: LeaseId,
        /// Who waited.
        holder: Holder,
        /// Why.
        reason: LeftReason,
    },
    /// The name is closed after the abnormal end of this lease. The leader starts a deadline for it.
    Closed {
        /// The name.
        name: Name,
        /// The acquisition that has ended.
        lease_id: LeaseId,
        /// Its token.
        token: Token,
        /// What an `Expire` names to open it.
        key: Token,
        /// Who held it: to it the name is open, unless its lease was revoked.
        holder: Holder,
        /// For how long.
        delay_ms: u64,
    },
    /// The name is open again.
    Opened {
        /// The name.
        name: Name,
        /// The acquisition after whose end it was closed.
        lease_id: LeaseId,
    },
    /// A lease was marked as revoked; it has not ended yet. Its agent gives it back at once.
    Revoked {
        /// The name.
        name: Name,
        /// The acquisition.
        lease_id: LeaseId,
        /// The grant's token.
        token: Token,
        /// Who holds it.
        holder: Holder,
        /// By whom, and why.
        revocation: Revocation,
    },
}

impl Event {
    /// The name that it is about; `None` for the founding.
    pub(crate) fn name(&self) -> Option<&Name> {
        match self {
            Self::Founded { .. } => None,
            Self::Queued { name, .. }
            | Self::Granted { name, .. }
            | Self::Ended { name, .. }
            | Self::Left { name, .. }
            | Self::Closed { name, .. }
            | Self::Opened { name, .. }
            | Self::Revoked { name, .. } => Some(name),
        }
    }

    /// About how many bytes it takes, in memory and on the wire.
    pub(crate) fn weight(&self) -> usize {
        const FIXED: usize = 256;
        let more = match self {
            Self::Granted { metadata, .. } => metadata.len(),
            Self::Revoked { revocation, .. } | Self::Ended { reason: EndReason::Revoked(revocation), .. } => {
                revocation.reason.len()
            }
            _ => 0,
        };
        FIXED + more + self.name().map_or(0, |name| name.as_str().len())
    }
}

/// Why a lease ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The holder gave it back.
    Released,
    /// The acquisition was given up after it had been granted.
    Cancelled,
    /// It was not renewed in time.
    Expired,
    /// The holder handed it to another.
    Transferred,
    /// It had been revoked, and was then given back or expired.
    Revoked(Revocation),
}

impl EndReason {
    /// What the table remembers of it: bounded, so without names and texts.
    pub(crate) fn ending(&self) -> Ending {
        match self {
            Self::Released => Ending::Released,
            Self::Cancelled => Ending::Cancelled,
            Self::Expired => Ending::Expired,
            Self::Transferred => Ending::Transferred,
            Self::Revoked(_) => Ending::Revoked,
        }
    }
}

/// Who revoked a lease, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revocation {
    /// Who asked for it.
    pub by: AgentName,
    /// The reason that was given.
    pub reason: Arc<str>,
    /// The agent for which it was revoked, if for one.
    pub heir: Option<AgentName>,
}

/// Why a waiter left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeftReason {
    /// It gave up.
    Cancelled,
    /// It was not renewed in time.
    Expired,
    /// There is no larger token, so there will be no grant.
    NoTokens,
}

impl LeftReason {
    /// What the table remembers of it.
    pub(crate) fn ending(self) -> Ending {
        match self {
            Self::Cancelled => Ending::Cancelled,
            Self::Expired => Ending::Expired,
            Self::NoTokens => Ending::NoTokens,
        }
    }
}
