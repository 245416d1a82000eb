//! What agents and clients ask of agents: the lease requests, above consensus and below what a user holds.
//!
//! These forms are part of the wire format (golden files hold them): append variants, never move one.

#[cfg(test)]
mod goldens;
#[cfg(test)]
mod status_golden;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    change::{Changes, Filter},
    config::Timing,
    holder::NameReport,
    id::{ClusterId, LeaseId, NodeId},
    name::{AgentName, Name},
    role::Role,
    table::{Acquire, Ending, HeldBy, Outcome, Revocation, State, Table, TransferTo},
    token::Token,
    transport::Method,
};

/// To the leader alone: it serves or says that it doesn't lead. Members only.
pub(crate) const LEAD: Method = Method(16);
/// To any agent: it serves, or passes on to the leader.
pub(crate) const ASK: Method = Method(17);
/// Between founders, before there is a cluster.
pub(crate) const FOUND: Method = Method(18);

/// Codes of refusals; part of the wire format.
pub(crate) mod code {
    /// The payload is not of the form.
    pub(crate) const MALFORMED: u16 = 1;
    /// No such method in this version.
    pub(crate) const NO_SUCH_METHOD: u16 = 2;
    /// The caller's role may not ask this.
    pub(crate) const NOT_PERMITTED: u16 = 3;
    /// The agent has not started yet, or is stopping.
    pub(crate) const NOT_SERVING: u16 = 4;
    /// The consensus did not take the message.
    pub(crate) const CONSENSUS: u16 = 5;
}

/// A question to any agent, with the time that the asker has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asking {
    /// What is asked.
    pub(crate) request: Request,
    /// How long an answer is of use.
    pub(crate) within: Duration,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// One log entry. Idempotent by lease id.
    Acquire(Acquire),
    /// One log entry. Idempotent by lease id.
    Release {
        /// What is given back, or no longer waited for.
        lease_id: LeaseId,
    },
    /// One log entry. Idempotent by lease id.
    Cancel {
        /// What was asked for and is not wanted any more.
        lease_id: LeaseId,
    },
    /// No log entry, no disk. Leases and waits alike.
    Renew {
        /// At most [`RENEW_MAX`](crate::limits::RENEW_MAX).
        leases: Vec<LeaseId>,
    },
    /// Answered by the asked agent's own replica, once the lease id holds or has ended, or the time is over.
    Await {
        /// Whose turn is awaited.
        lease_id: LeaseId,
        /// How long, in milliseconds.
        at_most_ms: u64,
    },
    /// Who holds the name, linearizable.
    Holder {
        /// Which name.
        name: Name,
    },
    /// A page of the leases, in the order of names and tokens; from the asked agent's replica, linearizable.
    Leases {
        /// Names that begin with it; empty for all.
        prefix: String,
        /// Leases after this one.
        after: Option<(Name, Token)>,
        /// At most so many.
        limit: u32,
    },
    /// How the asked agent is.
    Status,
    /// A log index that the asked agent has applied, at once.
    Position,
    /// A log index; whoever has applied it reads linearizably. To the leader.
    ReadIndex,
    /// The changes after a log index, from the asked agent's replica: as soon as there are any, or when the time is
    /// over.
    Watch {
        /// Of which names.
        filter: Filter,
        /// The index that was told last; `None` asks for what holds now.
        after: Option<u64>,
        /// How long to wait, in milliseconds.
        at_most_ms: u64,
    },
    /// One log entry. Idempotent by lease id and attempt.
    Transfer {
        /// The lease.
        lease_id: LeaseId,
        /// To whom.
        to: TransferTo,
        /// See [`Command::Transfer`](crate::table::Command::Transfer).
        attempt: u64,
    },
    /// One log entry. Idempotent by token.
    Revoke {
        /// The name.
        name: Name,
        /// The grant that is meant.
        token: Token,
        /// Who asks.
        by: AgentName,
        /// Why.
        reason: String,
        /// For whom, if for one.
        heir: Option<AgentName>,
    },
    /// All about one name, linearizable.
    Inspect {
        /// Which name.
        name: Name,
    },
    /// The asking agent is, or wants to be, a member; at this address. Members only; one membership entry, or none.
    Join {
        /// Its node.
        node: NodeId,
        /// Its name.
        agent: AgentName,
        /// Where the others reach it.
        address: String,
        /// Whether it never wants to vote.
        observer: bool,
        /// Its timing, which must be the cluster's.
        timing: Timing,
    },
    /// The asking agent wants to be a member no more. Members only.
    Depart {
        /// Its node.
        node: NodeId,
    },
    /// The asked agent shall leave the cluster, and stop.
    Leave,
    /// The members, as the leader sees them.
    Members,
    /// An observer shall vote.
    Promote {
        /// Its node.
        node: NodeId,
    },
    /// A member that is out of reach shall be none any more.
    Remove {
        /// Its node.
        node: NodeId,
    },
}

impl Request {
    /// The least role that may ask it.
    pub(crate) fn needs(&self) -> Role {
        match self {
            Self::Join { .. }
            | Self::Depart { .. }
            | Self::Leave
            | Self::Promote { .. }
            | Self::Remove { .. } => Role::Member,
            Self::Acquire(_)
            | Self::Release { .. }
            | Self::Cancel { .. }
            | Self::Renew { .. }
            | Self::Await { .. }
            | Self::Transfer { .. }
            | Self::Revoke { .. } => Role::Client,
            Self::Holder { .. }
            | Self::Leases { .. }
            | Self::Status
            | Self::Position
            | Self::ReadIndex
            | Self::Watch { .. }
            | Self::Inspect { .. }
            | Self::Members => Role::Reader,
        }
    }

    /// In whose name it is, where it is in anybody's.
    pub(crate) fn in_name_of(&self) -> Option<&AgentName> {
        match self {
            Self::Acquire(acquire) => Some(&acquire.agent.agent),
            Self::Revoke { by, .. } => Some(by),
            Self::Join { agent, .. } => Some(agent),
            _ => None,
        }
    }

    /// Whether only the leader can answer.
    pub(crate) fn needs_leader(&self) -> bool {
        match self {
            Self::Acquire(_)
            | Self::Release { .. }
            | Self::Cancel { .. }
            | Self::Renew { .. }
            | Self::Transfer { .. }
            | Self::Revoke { .. }
            | Self::Join { .. }
            | Self::Depart { .. }
            | Self::Members
            | Self::Promote { .. }
            | Self::Remove { .. }
            | Self::ReadIndex => true,
            Self::Await { .. }
            | Self::Holder { .. }
            | Self::Leases { .. }
            | Self::Status
            | Self::Position
            | Self::Watch { .. }
            | Self::Leave
            | Self::Inspect { .. } => false,
        }
    }

    /// How long it waits for something to happen, if it does.
    pub(crate) fn waits(&self) -> Option<Duration> {
        match self {
            Self::Await { at_most_ms, .. } | Self::Watch { at_most_ms, .. } => {
                Some(Duration::from_millis(*at_most_ms))
            }
            _ => None,
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    /// To `Acquire`, `Release`, `Cancel`, `Transfer`, `Revoke`.
    Outcome(Outcome),
    /// To `Renew`: a verdict for each lease id, in order.
    Renewed(Vec<Verdict>),
    /// To `Await`.
    Standing(Standing),
    /// To `Holder`.
    Holder(Option<HeldBy>),
    /// To `Leases`.
    Leases {
        /// The page.
        leases: Vec<(Name, HeldBy)>,
        /// Whether there are more after it.
        more: bool,
    },
    /// To `Status`.
    Status(Box<StatusReport>),
    /// To `ReadIndex` and `Position`.
    ReadIndex(u64),
    /// No answer.
    Failed(Failure),
    /// To `Watch`.
    Changes(Changes),
    /// To `Inspect`.
    Inspected(Box<NameReport>),
    /// To `Join`, `Depart`, `Leave`, `Promote`, `Remove`: it is so.
    Done,
    /// To `Members`.
    Members(Vec<MemberReport>),
}

/// To a change of the membership.
impl From<Result<(), Failure>> for Response {
    fn from(changed: Result<(), Failure>) -> Self {
        changed.map_or_else(Self::Failed, |()| Self::Done)
    }
}

/// What the leader says of one renewed lease id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// Its deadline was extended.
    Extended,
    /// It is not held and not waiting any more, or about to be ended.
    Gone(Gone),
}

/// Why a lease id can't be renewed, as far as the table still knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Gone {
    /// It has ended so.
    Ended(Ending),
    /// It was revoked, and ends when it is given back.
    Revoked(Revocation),
    /// It was not renewed in time: its expiry is under way.
    Expiring,
    /// It was never seen, or is forgotten.
    Unknown,
}

impl Gone {
    /// As the table has it.
    pub(crate) fn of(table: &Table, lease_id: &LeaseId) -> Self {
        match table.state(lease_id) {
            State::Ended(ending) => Self::Ended(ending),
            State::Holding(view) => match view.lease.revoked.as_deref() {
                Some(revocation) => Self::Revoked(revocation.clone()),
                None => Self::Expiring,
            },
            State::Waiting { .. } => Self::Expiring,
            State::Unknown => Self::Unknown,
        }
    }
}

/// Where a lease id stands, as a waiter is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// It holds, with this token.
    Holding(Token),
    /// It waits.
    Waiting {
        /// The place in the queue; 1 is the next.
        position: u64,
    },
    /// It has ended.
    Ended(Ending),
    /// The asked replica has not seen it (yet), or has forgotten it.
    Unknown,
}

impl Standing {
    /// As the table has it.
    pub(crate) fn of(table: &Table, lease_id: &LeaseId) -> Self {
        match table.state(lease_id) {
            State::Holding(view) => Self::Holding(view.lease.token),
            State::Waiting { position, .. } => Self::Waiting { position },
            State::Ended(ending) => Self::Ended(ending),
            State::Unknown => Self::Unknown,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing happened.
    #[error("the asked agent does not lead")]
    NotLeader {
        /// Who may: its id and address.
        leader: Option<(NodeId, String)>,
    },
    /// Nothing happened: no leader was found in time.
    #[error("{0}")]
    Unavailable(String),
    /// It may have happened.
    #[error("{0}")]
    Unknown(String),
    /// Nothing happened, and asking again won't help.
    #[error("{0}")]
    Refused(String),
    /// Nothing happened: the asked agent has stopped or is stopping.
    #[error("{0}")]
    Stopped(String),
}

/// How an agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The agent's name.
    pub agent: AgentName,
    /// Its node id.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The address at which the other agents reach it.
    pub address: String,
    /// The version of the program.
    pub version: String,
    /// Its part: leader, follower or observer.
    pub role: MemberRole,
    /// The present term.
    pub term: u64,
    /// The leader's node id, if it knows one.
    pub leader: Option<NodeId>,
    /// The index of the last log entry it has applied.
    pub applied: u64,
    /// The members.
    pub members: Vec<MemberStatus>,
    /// How many leases are held.
    pub leases: u64,
    /// How many waiters are queued.
    pub waiters: u64,
    /// Whether it keeps its log on disk.
    pub durable: bool,
    /// The cluster's timing, as this agent has it.
    pub timing: Timing,
    /// Why it has stopped for good, if it has.
    pub stopped: Option<String>,
}

/// A member as the membership lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its node id.
    pub node: NodeId,
    /// Its agent's name.
    pub agent: String,
    /// Its address.
    pub addr: String,
    /// Whether it votes.
    pub voter: bool,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberReport {
    /// Its node id.
    pub node: NodeId,
    /// Its agent's name.
    pub agent: String,
    /// Its address.
    pub address: String,
    /// Its part. The leader is the one that answered.
    pub role: MemberRole,
    /// Whether it is willing to vote.
    pub may_vote: bool,
    /// How long ago the leader heard of it; `None` where it did not since it leads. Of the leader itself: no time.
    pub heard_ago: Option<Duration>,
    /// The index up to which its log is the leader's.
    pub log_index: u64,
    /// How many log entries the leader has beyond that.
    pub behind: u64,
}

/// A member's part in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MemberRole {
    /// It leads the present term.
    Leader,
    /// It votes.
    Follower,
    /// It does not vote.
    Observer,
}

impl MemberRole {
    /// Of a member that leads, or doesn't, and votes, or doesn't.
    pub(crate) fn of(leads: bool, votes: bool) -> Self {
        match (leads, votes) {
            (true, _) => Self::Leader,
            (false, true) => Self::Follower,
            (false, false) => Self::Observer,
        }
    }
}

impl std::fmt::Display for MemberRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Observer => "observer",
        })
    }
}
