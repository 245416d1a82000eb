//! What a watcher is told. Agents send these to clients as they are: part of the wire format (golden files hold them).
//!
//! A change names holder and token, never a lease id, which is a secret.

#[cfg(test)]
mod goldens;

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    holder::HolderInfo,
    name::{AgentName, Name, NameError},
    table::{EndReason, Event, LeftReason},
    token::Token,
};

/// Which names a watcher hears of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Filter {
    /// This one.
    Name(Name),
    /// Those that begin with it; with nothing, all.
    Prefix(String),
}

impl Filter {
    /// The names that begin with this.
    ///
    /// # Errors
    /// [`NameError`] when no name can.
    pub(crate) fn prefix(prefix: &str) -> Result<Self, NameError> {
        if !prefix.is_empty() {
            Name::new(prefix)?;
        }
        Ok(Self::Prefix(prefix.to_owned()))
    }

    pub(crate) fn admits(&self, name: &Name) -> bool {
        match self {
            Self::Name(wanted) => wanted == name,
            Self::Prefix(prefix) => name.as_str().starts_with(prefix),
        }
    }
}

/// One applied change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// The log index of the entry that made it; several changes may share one, in order. Watching goes on after it with
    /// [`Watch::since`](crate::Watch::since), at any agent.
    pub index: u64,
    /// What changed.
    pub kind: ChangeKind,
}

/// What changed.
///
/// Encoded by position: append variants, never move or remove one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ChangeKind {
    /// A lease was granted.
    Granted {
        /// On what.
        name: Name,
        /// To whom.
        agent: AgentName,
        /// Its token.
        token: Token,
        /// How long it lives without a renewal.
        ttl: Duration,
        /// What the holder wants others to see.
        metadata: Bytes,
    },
    /// A lease ended.
    Ended {
        /// On what.
        name: Name,
        /// Whose.
        agent: AgentName,
        /// Its token.
        token: Token,
        /// How.
        how: EndKind,
    },
    /// A lease was revoked; it ends when its agent gives it back, or at its deadline.
    Revoked {
        /// On what.
        name: Name,
        /// Whose.
        agent: AgentName,
        /// Its token.
        token: Token,
        /// By whom.
        by: AgentName,
        /// Why.
        reason: String,
        /// Who is to have it next, if it was for someone.
        heir: Option<AgentName>,
    },
    /// An agent queued.
    Queued {
        /// For what.
        name: Name,
        /// Which.
        agent: AgentName,
    },
    /// An agent left the queue without a grant.
    Left {
        /// For what.
        name: Name,
        /// Which.
        agent: AgentName,
    },
    /// A name is closed to all but its last holder, whose lease expired with a lock delay.
    Closed {
        /// Which.
        name: Name,
        /// Who held it.
        agent: AgentName,
        /// Its token.
        token: Token,
        /// About for how long.
        delay: Duration,
    },
    /// A name is open again.
    Opened {
        /// Which.
        name: Name,
    },
    /// What holds at this index; changes after it follow without a gap.
    Present {
        /// The watched names that are held, in order, with their holders.
        held: Vec<(Name, HolderInfo)>,
        /// False if there are more than [`WATCH_PRESENT_MAX`](crate::limits::WATCH_PRESENT_MAX): then list them with
        /// `leases`.
        complete: bool,
        /// Changes before this index are missing: the watcher was too slow, or asked for those since an index that the
        /// agent remembers no more. False where it asked for the present ([`Watch::with_present`]).
        ///
        /// [`Watch::with_present`]: crate::Watch::with_present
        lagged: bool,
    },
}

impl ChangeKind {
    /// The name that it is about; `None` for [`Present`](Self::Present).
    #[must_use]
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Granted { name, .. }
            | Self::Ended { name, .. }
            | Self::Revoked { name, .. }
            | Self::Queued { name, .. }
            | Self::Left { name, .. }
            | Self::Closed { name, .. }
            | Self::Opened { name } => Some(name),
            Self::Present { .. } => None,
        }
    }
}

/// How a lease ended.
///
/// Encoded by position: append variants, never move or remove one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EndKind {
    /// Its holder gave it back.
    Released,
    /// The acquisition was given up after it had been granted.
    GivenUp,
    /// It was not renewed in time.
    Expired,
    /// Its holder handed it to another.
    Transferred,
    /// It had been revoked, and was then given back or expired.
    Revoked {
        /// By whom.
        by: AgentName,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for EndKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Released => f.pad("released"),
            Self::GivenUp => f.pad("given up"),
            Self::Expired => f.pad("expired"),
            Self::Transferred => f.pad("transferred"),
            Self::Revoked { by, reason } => write!(f, "revoked by {by} ({reason})"),
        }
    }
}

impl From<&EndReason> for EndKind {
    fn from(reason: &EndReason) -> Self {
        match reason {
            EndReason::Released => Self::Released,
            EndReason::Cancelled => Self::GivenUp,
            EndReason::Expired => Self::Expired,
            EndReason::Transferred => Self::Transferred,
            EndReason::Revoked(revocation) => {
                Self::Revoked { by: revocation.by.clone(), reason: revocation.reason.as_ref().to_owned() }
            }
        }
    }
}

impl Change {
    /// What a watcher with this filter is told of an event of the table; `None` if nothing.
    pub(crate) fn of(index: u64, event: &Event, filter: &Filter) -> Option<Self> {
        if !filter.admits(event.name()?) {
            return None;
        }
        let kind = match event {
            Event::Founded { .. } => return None,
            Event::Queued { name, holder, .. } => {
                ChangeKind::Queued { name: name.clone(), agent: holder.agent.clone() }
            }
            Event::Granted { name, holder, token, ttl_ms, metadata, .. } => ChangeKind::Granted {
                name: name.clone(),
                agent: holder.agent.clone(),
                token: *token,
                ttl: Duration::from_millis(*ttl_ms),
                metadata: metadata.clone(),
            },
            Event::Ended { name, holder, token, reason, .. } => ChangeKind::Ended {
                name: name.clone(),
                agent: holder.agent.clone(),
                token: *token,
                how: reason.into(),
            },
            Event::Left { name, holder, reason, .. } => {
                let (LeftReason::Cancelled | LeftReason::Expired | LeftReason::NoTokens) = reason;
                ChangeKind::Left { name: name.clone(), agent: holder.agent.clone() }
            }
            Event::Revoked { name, holder, token, revocation, .. } => ChangeKind::Revoked {
                name: name.clone(),
                agent: holder.agent.clone(),
                token: *token,
                by: revocation.by.clone(),
                reason: revocation.reason.as_ref().to_owned(),
                heir: revocation.heir.clone(),
            },
            Event::Closed { name, holder, token, delay_ms, .. } => ChangeKind::Closed {
                name: name.clone(),
                agent: holder.agent.clone(),
                token: *token,
                delay: Duration::from_millis(*delay_ms),
            },
            Event::Opened { name, .. } => ChangeKind::Opened { name: name.clone() },
        };
        Some(Self { index, kind })
    }

    /// About how many bytes it takes on the wire.
    pub(crate) fn weight(&self) -> usize {
        const FIXED: usize = 256;
        let more = match &self.kind {
            ChangeKind::Granted { metadata, .. } => metadata.len(),
            ChangeKind::Revoked { reason, .. } => reason.len(),
            _ => 0,
        };
        FIXED + more + self.kind.name().map_or(0, |name| name.as_str().len())
    }
}

/// Changes, and up to where they are all that there were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changes {
    /// In order. At most the first is [`ChangeKind::Present`].
    pub(crate) changes: Vec<Change>,
    /// Nothing up to this index is missing.
    pub(crate) upto: u64,
}
