//! What a command's proposer is answered.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::command::{Holder, Never};
use crate::{
    Token,
    limits::{
        BATCH_MAX, EXPIRE_MAX, LOCK_DELAY_MAX, METADATA_BYTES_MAX, PERMITS_MAX, REASON_BYTES_MAX, TTL_MAX,
    },
    mode::Mode,
};

/// The outcome of a command in a batch.
pub(crate) type SingleOutcome = Outcome<Never>;

/// What became of a command.
///
/// Encoded by position: append variants, never move or remove one. It names no lease id but the proposer's own,
/// which the proposer knows: a lease id is a secret, whoever knows it can release the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome<B = Vec<SingleOutcome>> {
    /// Found: the cluster is founded.
    Founded,
    /// Found: it was founded before, nothing changed.
    AlreadyFounded,
    /// Acquire: the lease is held, by this command or by an earlier copy of it.
    Granted {
        /// The grant's token.
        token: Token,
    },
    /// Acquire: queued, by this command or by an earlier copy of it.
    Waiting {
        /// The place in the queue; 1 is the next.
        position: u64,
    },
    /// Acquire without waiting: someone holds the name, or waits for it before this one. The lease id is used up: the
    /// next try takes a new one.
    Held(HeldBy),
    /// The lease id ended before; nothing changed, and nothing ever will for this id.
    Ended {
        /// How it ended.
        ending: Ending,
    },
    /// Acquire: it is older than the memory of ended ids. Nothing changed; try again with a new lease id.
    TooOld {
        /// The smallest `seen` that is new enough.
        horizon: u64,
    },
    /// Release or Cancel: the lease has ended by it.
    Released {
        /// Who holds the name now.
        next: Option<Successor>,
    },
    /// Release or Cancel: the waiter has left the queue by it.
    Left,
    /// Release or Cancel: the id was never seen; from now on it counts as ended.
    Forbidden,
    /// Expire: so many of its pairs still matched and have ended.
    Expired {
        /// How many.
        ended: u64,
    },
    /// Expire: proposed in another term than its entry's; nothing changed.
    OtherTerm {
        /// The entry's term.
        entry_term: u64,
    },
    /// Transfer: done.
    Transferred {
        /// Who holds the name now.
        to: Successor,
    },
    /// Transfer: no waiter answers to the description and fits beside the other holders. The lease stays as it is, and
    /// this attempt is closed: no late copy of it will do anything. Revoke: the heir doesn't wait. Nothing changed.
    NoSuchWaiter,
    /// Transfer: the lease id doesn't hold a lease (it waits, or was never seen). Nothing changed.
    NotHolding,
    /// Revoke: the lease is marked; its agent gives it back, or the leader's Expire ends it.
    Revoked,
    /// Revoke: it was marked before, nothing changed.
    AlreadyRevoked,
    /// Revoke: the name is not held, or by another grant than the one that was meant. Nothing changed.
    NotHeld,
    /// The command can't be done.
    Refused(Refusal),
    /// One outcome for each command of the batch.
    Batch(B),
    /// Acquire without waiting: the name is closed after an abnormal end. The lease id is used up.
    Closed(ClosedBy),
}

/// How a lease id ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ending {
    /// The holder gave the lease back.
    Released,
    /// Given up, as a holder or as a waiter.
    Cancelled,
    /// Not renewed in time, as a holder or as a waiter.
    Expired,
    /// Handed to a waiter of the holder's choice.
    Transferred,
    /// Revoked, then given back or expired.
    Revoked,
    /// Released or cancelled before it was ever seen.
    Forbidden,
    /// The acquire was refused, because the name was held, or for want of room.
    Refused,
    /// The tokens were used up while it waited.
    NoTokens,
}

/// Who holds a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldBy {
    /// The holder.
    pub holder: Holder,
    /// Its token.
    pub token: Token,
    /// The granting leader's wall clock, for people.
    pub since_unix_ms: u64,
    /// The lease's ttl.
    pub ttl_ms: u64,
    /// What the holder wants others to see.
    pub metadata: Bytes,
    /// Whether it has been revoked and is about to end.
    pub revoked: bool,
    /// How many wait for the name.
    pub waiters: u64,
    /// How it shares the name.
    pub mode: Mode,
    /// How many hold the name, this one included.
    pub holders: u64,
}

/// After whose end a name is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClosedBy {
    /// Who held it: to it the name is open.
    pub holder: Holder,
    /// Its token.
    pub token: Token,
    /// For how long it is closed in all, in milliseconds.
    pub delay_ms: u64,
}

/// Who was granted the name that someone else gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Successor {
    /// The new holder.
    pub holder: Holder,
    /// Its token.
    pub token: Token,
}

/// Why a command can't be done.
///
/// Nothing is held or queued because of a refused command. Of an acquire, the reasons that could pass (no room, not
/// founded, `seen` ahead) use its lease id up, so that a late copy can't be granted what the first was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    /// No Found has been applied.
    #[error("the cluster is not founded yet; try again when it is")]
    NotFounded,
    /// The ttl is 0 or too long.
    #[error("a ttl of {ttl_ms} ms; give it 1 to {} ms", TTL_MAX.as_millis())]
    Ttl {
        /// The ttl.
        ttl_ms: u64,
    },
    /// Too much metadata.
    #[error(
        "{bytes} bytes of metadata, the most is {METADATA_BYTES_MAX}; store it elsewhere and keep a reference"
    )]
    Metadata {
        /// Its length.
        bytes: u64,
    },
    /// The reason of a revocation is too long or has control characters.
    #[error("a reason of {bytes} bytes; give it at most {REASON_BYTES_MAX} bytes without control characters")]
    Reason {
        /// Its length.
        bytes: u64,
    },
    /// The lease id is live for another name or agent.
    #[error("the lease id is already used for another name or by another agent; pick a new one at random")]
    LeaseIdTaken,
    /// The acquire claims to have seen an index that was not applied before it.
    #[error(
        "the request has seen log index {seen}, which is not before its own, {index}; take it from an agent"
    )]
    SeenAhead {
        /// What it claims.
        seen: u64,
        /// The entry's index.
        index: u64,
    },
    /// The table is full.
    #[error("the cluster holds {max} leases and waiters, its most; release some")]
    TableFull {
        /// The bound.
        max: u64,
    },
    /// The name's queue is full.
    #[error("{max} agents wait for this name, the most; try again later")]
    QueueFull {
        /// The bound.
        max: u64,
    },
    /// There is no larger token.
    #[error("the 64 bits of the tokens are used up; found a new cluster")]
    NoTokens,
    /// An Expire names too many.
    #[error("an expiry of {count} leases, the most is {EXPIRE_MAX}; split it")]
    ExpireTooLong {
        /// How many.
        count: u64,
    },
    /// A batch has too many commands.
    #[error("a batch of {count} commands, the most is {BATCH_MAX}; split it")]
    BatchTooLong {
        /// How many.
        count: u64,
    },
    /// A batch within a batch.
    #[error("a batch within a batch; flatten it")]
    NestedBatch,
    /// The entry's index was applied before.
    #[error("log index {index} after {applied} was applied; an entry is applied once, in order")]
    IndexNotAfter {
        /// The entry's index.
        index: u64,
        /// The last applied index.
        applied: u64,
    },
    /// There is no such mode.
    #[error("{of} permits; give 1 to {PERMITS_MAX}")]
    Permits {
        /// How many.
        of: u32,
    },
    /// The delay is too long, or the lease isn't exclusive.
    #[error(
        "a lock delay of {lock_delay_ms} ms on a lease that is {mode}; give an exclusive lease at most {} ms, others none",
        LOCK_DELAY_MAX.as_millis()
    )]
    LockDelay {
        /// The delay.
        lock_delay_ms: u64,
        /// The lease's mode.
        mode: Mode,
    },
}
