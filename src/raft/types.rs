//! The types with which openraft is instantiated, and short names for its own. No other module names openraft's.

use std::{fmt, sync::Arc};

use openraft::{OptionalSend, RaftTypeConfig};
use serde::{Deserialize, Serialize};

#[cfg(not(feature = "chaos"))]
use openraft_rt_tokio::TokioRuntime as Runtime;

#[cfg(feature = "chaos")]
use super::seam::Runtime;
use crate::{
    id::NodeId,
    table::{Entry as TableEntry, Outcome},
};

/// What a log entry of ours carries: shared, because the log, replication and apply each hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal(pub(crate) Arc<TableEntry>);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Lease ids and names stay out of openraft's logs.
        f.write_str("proposal")
    }
}

/// What applying an entry answered; `None` for entries that are openraft's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer(pub(crate) Option<Outcome>);

/// What the membership says of a member.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Member {
    /// The agent's name.
    pub(crate) agent: String,
    /// The address at which the other agents reach it.
    pub(crate) addr: String,
    /// Whether it never wants to vote.
    pub(crate) observer: bool,
}

/// openraft with our types. By hand, because its macro has no word for a responder of one's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Proposal;
    type R = Answer;
    type NodeId = NodeId;
    type Node = Member;
    type Term = u64;
    /// One leader a term, so that a term alone names a leadership: that is what `Expire` carries and what deadlines belong
    /// to.
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Proposal, NodeId, Member>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    /// The seam for time, tasks and channels.
    type AsyncRuntime = Runtime;
    /// It carries an entry's turn.
    type Responder<T: OptionalSend + 'static> = super::proposing::Responder<T>;
    type Batch<T: OptionalSend + 'static> = openraft::impls::InlineBatch<T>;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// The log test suite of openraft counts nodes from 0.
impl From<u64> for NodeId {
    fn from(bits: u64) -> Self {
        Self::from_bits(bits)
    }
}

pub(super) type Handle = openraft::Raft<Types, super::machine::Machine>;
pub(super) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(super) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(super) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(super) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub(super) type Snapshot = openraft::type_config::alias::SnapshotOf<Types, bytes::Bytes>;
pub(super) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(super) type Metrics = openraft::RaftMetrics<Types>;

/// What `write(..).with_leader(..)` takes for "only the leader of this term".
pub(super) fn leader_of(term: u64) -> openraft::type_config::alias::CommittedLeaderIdOf<Types> {
    use openraft::vote::RaftLeaderId as _;
    openraft::impls::leader_id_std::LeaderId { term, voted_for: NodeId::default() }.to_committed()
}

/// A replication message that can be compared, as tests and the fuzzer do: openraft's has no equality.
#[cfg(any(test, feature = "test-support"))]
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Append(pub(super) openraft::raft::AppendEntriesRequest<Types>);

#[cfg(any(test, feature = "test-support"))]
impl PartialEq for Append {
    fn eq(&self, other: &Self) -> bool {
        let openraft::raft::AppendEntriesRequest { vote, prev_log_id, entries, leader_commit } = &self.0;
        (vote, prev_log_id, entries, leader_commit)
            == (&other.0.vote, &other.0.prev_log_id, &other.0.entries, &other.0.leader_commit)
    }
}
