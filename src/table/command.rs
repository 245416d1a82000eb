//! What a log entry carries: the commands of the lease table.
//!
//! A command that was sent once may be applied more than once, late, and in another order than it was sent (rule
//! L7). So every command names what it acts on closely enough for a second copy to find nothing left to do:
//!
//! | command | named by | what a late copy finds |
//! | --- | --- | --- |
//! | `Found` | the cluster itself | it is founded |
//! | `Acquire` | a lease id that was never used before | the id holds, waits or has ended; if that is forgotten, `seen` is too old |
//! | `Release`, `Cancel` | the lease id | the id has ended |
//! | `Expire` | lease id and token, and the term that proposed it | the id has ended, or the term is over |
//! | `Transfer` | lease id and attempt | the id has ended, or the attempt is closed |
//! | `Revoke` | name *and token* | that token holds the name no more, or is revoked |
//!
//! `Revoke` by name alone would not do: its retry could hit the next holder. `Transfer` without the attempt would
//! not do either: the first copy is answered "no such waiter", the holder goes on believing, a waiter arrives, and
//! then the second copy would give the lease away under the holder's feet (rule L1).

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{AgentName, LeaseId, Name, NodeId, Token, mode::Mode};

/// A log entry of the lease table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The proposing leader's wall clock, in milliseconds since 1970: shown to people, decides nothing.
    pub wall_unix_ms: u64,
    /// What to do.
    pub command: Command,
}

/// Short, and without a whole lease id: openraft prints entries.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.command {
            Command::Found { tokens_above } => write!(f, "found, tokens above {tokens_above}"),
            Command::Acquire(acquire) => write!(f, "acquire {} as {}", acquire.name, acquire.lease_id),
            Command::Release { lease_id } => write!(f, "release {lease_id}"),
            Command::Cancel { lease_id } => write!(f, "cancel {lease_id}"),
            Command::Expire { term, ended } => write!(f, "expire {} of term {term}", ended.len()),
            Command::Transfer { lease_id, .. } => write!(f, "transfer {lease_id}"),
            Command::Revoke { name, token, by, .. } => write!(f, "revoke {name} token {token} by {by}"),
            Command::Batch(commands) => write!(f, "batch of {}", commands.len()),
        }
    }
}

/// A command that is no batch: what a batch is made of.
pub(crate) type Single = Command<Never>;

/// Has no value. In the place of a batch it makes a nested one impossible: the type can't express it, and the
/// decoder refuses its bytes instead of recursing as deep as a hostile peer likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Never {}

/// A change of the lease table. What each does is told where it is applied, in `apply.rs`.
///
/// Encoded by position: append variants and fields' successors, never move or remove one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command<B = Vec<Single>> {
    /// The first command of a cluster's life; a second one is ignored. An acquire before it is refused.
    Found {
        /// Every token of this cluster is larger than this one.
        tokens_above: Token,
    },
    /// Asks for a lease, or for a place in its queue.
    Acquire(Acquire),
    /// Gives a lease back. Of a waiter: leaves the queue. Of an id never seen: forbids it for ever.
    Release {
        /// The acquisition.
        lease_id: LeaseId,
    },
    /// Gives an acquisition up, whatever has become of it: leaves the queue, or gives the lease back if it was
    /// granted meanwhile, or forbids an id never seen, so that an acquire that is still under way grants nothing.
    Cancel {
        /// The acquisition.
        lease_id: LeaseId,
    },
    /// Ends what was not renewed in time, and opens what was closed for long enough. Proposed only by the leader, for
    /// its own term.
    Expire {
        /// The term in which it was proposed; ignored as a whole when the entry's own term differs.
        term: u64,
        /// A lease with its token, a waiter with none, or the lease after whose end a name is closed, with the closure's
        /// key; a pair is ignored when it doesn't match any more.
        ended: Vec<(LeaseId, Option<Token>)>,
    },
    /// Ends a lease in favour of a waiter of the holder's choice. The holder has already stopped believing in it.
    Transfer {
        /// The lease.
        lease_id: LeaseId,
        /// The waiter.
        to: TransferTo,
        /// Counts the holder's transfers of this lease, from 1: a retry keeps the number, a new try takes the next.
        ///
        /// Once an attempt is answered [`NoSuchWaiter`](super::Outcome::NoSuchWaiter) no copy of it, nor of an
        /// earlier one, does anything any more. Only then may the holder believe in its lease again.
        attempt: u64,
    },
    /// Takes the right to renew from a lease. It does not end the lease: `apply.rs` tells why.
    Revoke {
        /// The name whose lease is revoked.
        name: Name,
        /// The grant that is meant; a newer one is left alone.
        token: Token,
        /// Who asked for it.
        by: AgentName,
        /// Why, for the holder and for logs: at most [`REASON_BYTES_MAX`](crate::limits::REASON_BYTES_MAX) bytes.
        reason: Arc<str>,
        /// The agent that is to have it next, if it then waits; otherwise the first waiter.
        heir: Option<AgentName>,
    },
    /// Commands that share a log entry, applied in order, each with its own outcome.
    ///
    /// At most [`BATCH_MAX`](crate::limits::BATCH_MAX) of them; a longer one is refused as a whole.
    Batch(B),
}

/// Asks for a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Acquire {
    /// On what.
    pub name: Name,
    /// 128 random bits, new for each acquisition, the same for each retry of it.
    pub lease_id: LeaseId,
    /// For whom.
    pub agent: Holder,
    /// How long the lease lives without a renewal, in milliseconds: 1 to [`TTL_MAX`](crate::limits::TTL_MAX).
    pub ttl_ms: u64,
    /// Whether to queue when the name is held. Without it the answer is
    /// [`Held`](super::Outcome::Held), and the lease id is used up.
    pub wait: bool,
    /// Whatever the holder wants others to see: at most
    /// [`METADATA_BYTES_MAX`](crate::limits::METADATA_BYTES_MAX) bytes.
    pub metadata: Bytes,
    /// A log index that was applied somewhere *before* the lease id was picked: the larger the better.
    ///
    /// It makes the bounded memory of ended ids safe, see `ended.rs`. It must not be refreshed in a retry.
    pub seen: u64,
    /// How it shares the name.
    pub mode: Mode,
    /// How long the name stays closed to other agents after this lease has expired, in milliseconds; 0 for not at all.
    /// Of exclusive leases only, at most [`LOCK_DELAY_MAX`](crate::limits::LOCK_DELAY_MAX).
    pub lock_delay_ms: u64,
}

/// Who holds or waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The agent's name, shown to people.
    pub agent: AgentName,
    /// The member through which it asked.
    pub node: NodeId,
}

/// The waiter to which a lease is transferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TransferTo {
    /// The first in the queue.
    First,
    /// The first waiter of the agent of this name. Found by looking through the queue.
    Agent(AgentName),
}
