//! What can go wrong: one enum for each kind of call. Each variant says whether something may have happened.

mod access;
mod members;
mod recover;

use std::time::Duration;

pub use self::{
    access::{AccessError, WriteLost},
    members::MemberError,
    recover::RecoverError,
};
use crate::{
    config::{ConfigError, TtlError},
    holder::HolderInfo,
    id::{ClusterId, NodeId},
    lease::{FenceError, Lease, TransferTo},
    limits::{LOCK_DELAY_MAX, METADATA_BYTES_MAX, PERMITS_MAX, REASON_BYTES_MAX},
    mode::Mode,
    name::{AgentName, Name, NameError},
    session::LeaseLost,
    storage::StorageError,
    token::Token,
    transport::BindError,
};

/// What the seed interface and everything at the crate's root returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Gathers the errors of the single calls.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An agent did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A lease was not acquired.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// A lease was not renewed.
    #[error(transparent)]
    Renew(#[from] RenewError),
    /// A release is not known to be committed.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A lease was not handed over by its holder.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// A lease was not revoked, or not handed over by hand.
    #[error(transparent)]
    Revoke(#[from] RevokeError),
    /// See [`MemberError`].
    #[error(transparent)]
    Member(#[from] MemberError),
    /// See [`RecoverError`].
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// A question was not answered.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A client did not connect.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A text can't be a name. *Nothing happened.*
    #[error(transparent)]
    Name(#[from] NameError),
    /// A lease is held no more.
    #[error(transparent)]
    Lost(#[from] LeaseLost),
    /// A protected resource refused a token.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// An access gave no write guard, or its guard is held no more.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A guard's lease id is none of this provider's. *Nothing happened.*
    #[error("the guard's lease id is not one that this provider can use: {detail}")]
    ForeignGuard {
        /// What is wrong with it.
        detail: String,
    },
    /// A [`WriteLeaseProvider`](crate::WriteLeaseProvider) failed, in its own words. Whether it had an effect before,
    /// only its documentation can say.
    #[error(transparent)]
    Provider(Box<dyn std::error::Error + Send + Sync>),
    /// This build has no such kind of write lease. *Nothing happened.*
    #[error("{what} is not available in this build of leasehold; {remedy}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// What to use instead.
        remedy: &'static str,
    },
}

impl Error {
    /// What a provider returns that has an error of its own, or just a message.
    ///
    /// ```
    /// let held = leasehold::Error::provider("agent-b is writing; try again after 12:00");
    /// assert_eq!(held.to_string(), "agent-b is writing; try again after 12:00");
    /// ```
    pub fn provider(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Provider(error.into())
    }
}

/// So that `?` works on a write guard's check.
impl From<WriteLost> for Error {
    fn from(lost: WriteLost) -> Self {
        Self::Access(AccessError::Lost(lost))
    }
}

/// So that `?` works on an error that is boxed already.
impl From<Box<dyn std::error::Error + Send + Sync>> for Error {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self::Provider(error)
    }
}

/// Why an agent did not start. Nothing is left behind: no task, no port, no lock.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Settings are wrong; all faults are listed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address can't be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data directory can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The stored log can't be read back.
    #[error(
        "the log of {dir} can't be read back: {detail}; restore the directory from a copy of the same agent, or delete it and let the agent come back as a new member"
    )]
    Recover {
        /// The data directory, or "memory".
        dir: String,
        /// What is wrong.
        detail: String,
    },
    /// Two founders have different lists.
    #[error(
        "founders' lists disagree: {from} has {theirs:?}, this agent has {ours:?}; give every founder the same list"
    )]
    FoundersDisagree {
        /// Who has the other list.
        from: String,
        /// This agent's list.
        ours: Vec<String>,
        /// The other one.
        theirs: Vec<String>,
    },
    /// Two founders' addresses lead to one agent.
    #[error(
        "the founder {address} is node {node}, which answers at another founder's address too; each address must lead to an agent of its own"
    )]
    SameNode {
        /// The node that answers at both.
        node: NodeId,
        /// One of the addresses.
        address: String,
    },
    /// Another founder belongs to a cluster that this agent is no member of.
    #[error(
        "the founder {by} already belongs to cluster {cluster}, and this agent, as it starts now, doesn't: it was given an empty data directory, or keeps none; start it with the directory that it had, or, if that cluster never came to be, delete the data directories of all its founders and start them anew"
    )]
    AlreadyFounded {
        /// Who belongs to it.
        by: String,
        /// The cluster.
        cluster: ClusterId,
    },
    /// The members to join have another timing.
    #[error(
        "the timing of the member at {at} is another one: {detail}; give all agents of a cluster the same"
    )]
    TimingDiffers {
        /// Its address.
        at: String,
        /// Both.
        detail: String,
    },
    /// The cluster's leader does not list this agent as a member.
    #[error("cluster {cluster} does not take this agent: {detail}")]
    NotListed {
        /// The cluster.
        cluster: ClusterId,
        /// The leader's reason, and what to do.
        detail: String,
    },
    /// A founder is another node than the one that the founding was planned with.
    #[error(
        "the founder {address} is now node {node}, which the founding of cluster {cluster} was not planned with: it was started with an empty data directory, or without one, before the cluster was formed; that cluster can't come to be, so stop all founders, delete their data directories, and start them anew"
    )]
    FounderChanged {
        /// Its address.
        address: String,
        /// The node that answers there now.
        node: NodeId,
        /// The cluster that was to be.
        cluster: ClusterId,
    },
    /// The founders that must answer did not, in the time that was given.
    #[error(
        "not ready within {within:?}: {waiting_for}; start the other agents, or give it more time with start_within"
    )]
    NotReady {
        /// The time that was given.
        within: Duration,
        /// What was waited for.
        waiting_for: String,
    },
    /// The agent started, and stepped down before it served: its storage failed, most likely.
    #[error(
        "the agent stepped down while it started: {reason}; mend that and start it again, nothing that was answered is lost"
    )]
    SteppedDown {
        /// Why.
        reason: String,
    },
    /// The agent was stopped while it started.
    #[error("the agent was stopped while it started")]
    Stopped,
}

/// Why a lease was not acquired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// *Nothing happened*: the name can't be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// *Nothing happened*: the ttl is out of its bounds.
    #[error(transparent)]
    Ttl(TtlError),
    /// *Nothing happened*: there is too much metadata.
    #[error(
        "{bytes} bytes of metadata, the most is {METADATA_BYTES_MAX}; store it elsewhere and keep a reference"
    )]
    Metadata {
        /// Its length.
        bytes: usize,
    },
    /// *Nothing happened*: there is no such mode.
    #[error("a {mode}; give 1 to {PERMITS_MAX} permits")]
    Mode {
        /// What was asked.
        mode: Mode,
    },
    /// *Nothing happened*: the lock delay is too long, or the lease isn't exclusive.
    #[error(
        "a lock delay of {span:?} on a lease that is {mode}; give an exclusive lease at most {LOCK_DELAY_MAX:?}, others none"
    )]
    LockDelay {
        /// What was asked.
        span: Duration,
        /// The mode.
        mode: Mode,
    },
    /// *Nothing happened*: nobody holds the name, it is closed after an expiry, and this call doesn't wait.
    #[error(
        "{name:?} is closed to others for {delay:?} after the lease of {agent} has expired; try again later, or wait for it with Agent::acquire or Client::acquire"
    )]
    Closed {
        /// The name.
        name: Name,
        /// Whose lease expired.
        agent: AgentName,
        /// For how long it is closed in all.
        delay: Duration,
    },
    /// *Nothing happened*: someone holds the name, and this call doesn't wait.
    #[error("{name:?} is {holder}; try again later, or wait for it with Agent::acquire or Client::acquire")]
    Held {
        /// The name.
        name: Name,
        /// Who holds it.
        holder: Box<HolderInfo>,
    },
    /// *Nothing happened*: this agent (or this client) itself holds the name, or waits for it in another call. Who waits
    /// for its own lease would wait for itself.
    #[error(
        "{name:?} is {} this process itself; use that lease, or drop it first, or take turns by queue_behind_own()",
        if token.is_some() { "held by" } else { "being waited for by" }
    )]
    HeldHere {
        /// The name.
        name: Name,
        /// The token of the lease that is held; `None` when a call waits.
        token: Option<Token>,
    },
    /// *Nothing is held*: the turn did not come in time, in the queue of the name, where the place is given up, or among what
    /// this process asks for at once ([`ACQUISITIONS_UNDER_WAY_MAX`](crate::limits::ACQUISITIONS_UNDER_WAY_MAX)).
    #[error("{name:?} did not become free within {within:?}; wait longer, or see who holds it")]
    TimedOut {
        /// The name.
        name: Name,
        /// How long was waited.
        within: Duration,
    },
    /// *Nothing happened*: no leader could be asked in time.
    #[error(
        "{name:?} could not be asked for: {detail}; check that a majority of the agents runs and is connected"
    )]
    Unavailable {
        /// The name.
        name: Name,
        /// What was tried.
        detail: String,
    },
    /// *Outcome unknown*: it may have been granted. It is cancelled in the background, and if that fails, it ends
    /// within its ttl.
    #[error(
        "it is unknown whether {name:?} was granted ({detail}); it is being cancelled, and is free again within {ttl:?} at the latest"
    )]
    Unknown {
        /// The name.
        name: Name,
        /// What was tried.
        detail: String,
        /// The ttl that was asked for.
        ttl: Duration,
    },
    /// *Nothing happened*, and asking again in the same way won't help.
    #[error("{name:?} was refused: {detail}")]
    Refused {
        /// The name.
        name: Name,
        /// Why.
        detail: String,
    },
    /// The agent has stopped. *Outcome unknown* if it stopped during this call: then what may have been granted is free
    /// again within its ttl.
    #[error("the agent has stopped ({detail}); start it again")]
    Stopped {
        /// Why.
        detail: String,
    },
}

/// Why a lease was not renewed by hand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewError {
    /// It is held no more.
    #[error(transparent)]
    Lost(#[from] LeaseLost),
    /// *Outcome unknown*, and harmless: it is still held until its deadline. Try again.
    #[error(
        "the lease on {name:?} could not be renewed ({detail}); it is still held until its deadline, try again"
    )]
    Unavailable {
        /// The name.
        name: Name,
        /// What was tried.
        detail: String,
    },
}

/// Why it is not known that a release was committed. The lease is not held by the caller any more in any case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// *Outcome unknown*: no leader answered. The name is free within the ttl at the latest.
    #[error(
        "it is unknown whether the release of {name:?} was committed ({detail}); the name is free within {ttl:?} at the latest"
    )]
    Unknown {
        /// The name.
        name: Name,
        /// The ttl.
        ttl: Duration,
        /// What was tried.
        detail: String,
    },
    /// *Nothing happened*: the request was refused.
    #[error("the release of {name:?} was refused: {detail}")]
    Refused {
        /// The name.
        name: Name,
        /// Why.
        detail: String,
    },
}

/// Why a lease was not handed over by its holder, and who holds it now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// *Nothing happened*: no such waiter is there, and the lease is back in the caller's hands, still held.
    #[error(
        "the lease on {name:?} can't be handed over to {to}, which doesn't wait for it; it is still held: keep it, release it, or let the other acquire the name first"
    )]
    NoSuchWaiter {
        /// The name.
        name: Name,
        /// Who was to have it.
        to: TransferTo,
        /// The lease. Dropping it releases it.
        lease: Box<Lease>,
    },
    /// *Nothing happened*: it was lost before.
    #[error(transparent)]
    Lost(#[from] LeaseLost),
    /// *Outcome unknown*: it may be handed over. It is not held by the caller any more in any case, and where it was not
    /// handed over the name is free within the ttl.
    #[error(
        "it is unknown whether the lease on {name:?} was handed over ({detail}); if not, the name is free within {ttl:?} at the latest"
    )]
    Unknown {
        /// The name.
        name: Name,
        /// The ttl.
        ttl: Duration,
        /// What was tried.
        detail: String,
    },
    /// The agent has stopped. *Outcome unknown* if it stopped during this call; the lease is not held any more.
    #[error("the lease on {name:?} was not handed over: the agent has stopped ({detail}); start it again")]
    Stopped {
        /// The name.
        name: Name,
        /// Why.
        detail: String,
    },
}

/// Why a question about leases was not answered. *Nothing happened.*
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The name can't be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No leader confirmed in time that the answer is the latest.
    #[error(
        "no linearizable answer: {detail}; ask again, or ask this replica alone (it may be behind) with holder_local"
    )]
    Unavailable {
        /// What was tried.
        detail: String,
    },
    /// The agent has stopped.
    #[error("the agent has stopped ({detail}); start it again")]
    Stopped {
        /// Why.
        detail: String,
    },
}

/// Why a lease was not revoked by hand, or not handed over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// *Nothing happened*: the name's leases could not be looked at.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// *Nothing happened*: the reason is too long, or has control characters.
    #[error("a reason of {bytes} bytes; give it at most {REASON_BYTES_MAX} bytes without control characters")]
    Reason {
        /// Its length.
        bytes: usize,
    },
    /// *Nothing happened*: nobody of this agent waits for the name.
    #[error(
        "{name:?} can't be handed over to {to}, which doesn't wait for it; let it acquire the name first, or revoke the lease for the first waiter"
    )]
    NoSuchWaiter {
        /// The name.
        name: Name,
        /// Who was to have it.
        to: AgentName,
    },
    /// *Nothing happened*: the lease is revoked already, not by this call, and about to end: who has it next is settled.
    #[error(
        "{name:?} can't be handed over to {to}: its lease is revoked already, and ends soon; see who holds it then, and hand that lease over"
    )]
    AlreadyRevoked {
        /// The name.
        name: Name,
        /// Who was to have it.
        to: AgentName,
    },
    /// *Nothing happened*: several hold the name, and it is not said which of them is to hand it over.
    #[error(
        "{name:?} is held by {holders} at once, so that nobody hands it over; revoke them all, if that is meant"
    )]
    Several {
        /// The name.
        name: Name,
        /// How many hold it.
        holders: u64,
    },
    /// *Nothing happened*: no leader could be asked in time. Of several leases, some may be revoked already.
    #[error(
        "{name:?} could not be revoked: {detail}; check that a majority of the agents runs and is connected"
    )]
    Unavailable {
        /// The name.
        name: Name,
        /// What was tried.
        detail: String,
    },
    /// *Outcome unknown*: it may be revoked. To ask again is harmless.
    #[error("it is unknown whether {name:?} was revoked ({detail}); see who holds it, or revoke it again")]
    Unknown {
        /// The name.
        name: Name,
        /// What was tried.
        detail: String,
    },
    /// The agent has stopped. *Outcome unknown* if it stopped during this call.
    #[error("the agent has stopped ({detail}); start it again")]
    Stopped {
        /// Why.
        detail: String,
    },
}

/// Why a client did not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No addresses, or malformed ones; all faults are listed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// None of the agents answered.
    #[error(
        "no agent answers at {addresses:?}: {detail}; check the addresses, and that an agent runs at one of them"
    )]
    Unreachable {
        /// The addresses that were tried.
        addresses: Vec<String>,
        /// What the last one said.
        detail: String,
    },
}
