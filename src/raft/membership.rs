//! The membership as openraft has it: who is a member, how far each is, and how it is changed.
//!
//! It says nothing about which change is wise: that is `plan.rs`, and who carries it out is `agent/care.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use openraft::{
    ChangeMembers, Instant as _, Precondition,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, RaftError},
    type_config::alias::WatchReceiverOf,
};

use super::{
    Consensus, ConsensusError, not_leader,
    types::{LogId, Member, Metrics, Types, leader_of},
};
use crate::id::NodeId;

/// The membership, as this node has it: effective as soon as it is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The members, and whether each votes.
    pub(crate) members: BTreeMap<NodeId, (Member, bool)>,
    /// Whether a change of voters is half done: two majorities must agree.
    pub(crate) is_joint: bool,
    /// Whether its entry is committed; no other change may begin before.
    pub(crate) is_committed: bool,
    /// The entry that it comes from.
    from: Option<LogId>,
}

/// How far a member is, as the leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    /// How long ago a message was sent that it has answered since; `None` if none was, in this leadership.
    pub(crate) heard_ago: Option<Duration>,
    /// The index up to which its log is known to be the leader's.
    pub(crate) matched: u64,
}

/// A change of the membership, in one entry or, where voters change, in two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A new member, which observes; or another address, or another wish, of one that is known.
    Set(NodeId, Member),
    /// Some begin to vote, and some end; those observe from then on.
    Voters {
        /// Observers that vote from now on.
        promote: BTreeSet<NodeId>,
        /// Voters that only observe from now on.
        demote: BTreeSet<NodeId>,
    },
    /// Observers that are members no more.
    Remove(BTreeSet<NodeId>),
    /// Ends a change that an earlier leader left half done.
    Settle,
}

impl From<Change> for ChangeMembers<NodeId, Member> {
    fn from(change: Change) -> Self {
        match change {
            Change::Set(node, member) => Self::SetNodes(BTreeMap::from([(node, member)])),
            Change::Voters { promote, demote } => {
                Self::Batch(vec![Self::AddVoterIds(promote), Self::RemoveVoters(demote)])
            }
            Change::Remove(nodes) => Self::RemoveNodes(nodes),
            Change::Settle => Self::AddVoterIds(BTreeSet::new()),
        }
    }
}

/// What an entry has, for those who look on in a simulation.
#[cfg(feature = "chaos")]
pub(super) fn configuration(
    membership: &openraft::Membership<NodeId, Member>,
) -> crate::replica::Configuration {
    crate::replica::Configuration {
        voters: membership.get_joint_config().clone(),
        members: membership.nodes().map(|(node, member)| (*node, member.agent.clone())).collect(),
    }
}

impl Consensus {
    /// The membership, now.
    pub(crate) fn membership(&self) -> Membership {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let (effective, committed) = (&metrics.membership_config, &metrics.committed_membership_config);
        let membership = effective.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        Membership {
            members: membership
                .nodes()
                .map(|(node, member)| (*node, (member.clone(), voters.contains(node))))
                .collect(),
            is_joint: membership.get_joint_config().len() > 1,
            is_committed: effective.log_id() == committed.log_id(),
            from: *effective.log_id(),
        }
    }

    /// How far the others are, and how far this node's own log goes. Empty on a node that doesn't lead.
    pub(crate) fn reached(&self) -> (BTreeMap<NodeId, Reached>, u64) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.as_ref();
        let reached = metrics.replication.iter().flatten().filter(|(node, _)| **node != metrics.id);
        let reached = reached.map(|(node, matched)| {
            let heard = heard.and_then(|heard| heard.get(node).copied().flatten());
            let reached = Reached {
                heard_ago: heard.map(|heard| heard.into_inner().elapsed()),
                matched: matched.map_or(0, |id| id.index),
            };
            (*node, reached)
        });
        (reached.collect(), metrics.last_log_index.unwrap_or(0))
    }

    /// Changes the membership, if this node leads `term` and the membership is still the one that the change was
    /// decided upon. Returns when it is committed, with both its entries where it takes two. Not cancel-safe: dropped
    /// between the two, it leaves a joint membership, which [`Change::Settle`] ends.
    pub(crate) async fn change(
        &self,
        term: u64,
        upon: &Membership,
        change: Change,
    ) -> Result<(), ConsensusError> {
        let conditions = [
            Precondition::CommittedLeaderId { committed_leader_id: leader_of(term) },
            Precondition::LastMembershipLogId { last_membership_log_id: upon.from },
        ];
        match self.raft.change_membership_if(change, true, conditions).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => Err(not_leader(&forward)),
            Err(RaftError::APIError(error)) => Err(ConsensusError::Unknown(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(ConsensusError::Stopped(error.to_string())),
        }
    }
}

/// Who may take leadership over: the voters that were heard within this span, the one with the longest log first, and of
/// several the one that was heard last.
pub(super) fn heirs(
    membership: &Membership,
    reached: &BTreeMap<NodeId, Reached>,
    within: Duration,
) -> Vec<NodeId> {
    let votes = |node: &NodeId| membership.members.get(node).is_some_and(|(_, votes)| *votes);
    let voters = reached.iter().filter(|(node, _)| votes(node));
    let mut heard: Vec<(u64, Duration, NodeId)> = voters
        .filter_map(|(node, reached)| Some((reached.matched, reached.heard_ago?, *node)))
        .filter(|(_, ago, _)| *ago <= within)
        .collect();
    heard.sort_by_key(|(matched, ago, _)| (std::cmp::Reverse(*matched), *ago));
    heard.into_iter().map(|(_, _, node)| node).collect()
}

/// Where the members are reached: what the membership says at the moment of a call, so that a connection which openraft
/// keeps follows a member to its new address.
///
/// A member that has moved says so to everybody it knows, and as long as nobody leads, nobody can write it down. So what it
/// says of itself counts here until the membership says something else of it than it did then: else a majority that has
/// moved at once could elect nobody. No rule rests on an address: whoever answers there says which node it is.
#[derive(Clone, Default)]
pub(crate) struct AddressBook {
    /// Empty until the node is built. A receiver and not the node itself: that owns the book.
    metrics: Arc<OnceLock<WatchReceiverOf<Types, Metrics>>>,
    /// Of members alone, so there are no more than members.
    moved: Arc<Mutex<BTreeMap<NodeId, Moved>>>,
}

/// Where a member says that it is, and where the membership had it when it did.
struct Moved {
    from: String,
    to: String,
}

impl AddressBook {
    pub(super) fn fill(&self, metrics: WatchReceiverOf<Types, Metrics>) {
        let _ = self.metrics.set(metrics);
    }

    /// What this makes of a member's address, if it is one. Not to be slow: the address is borrowed from openraft.
    pub(super) fn with<T>(&self, node: NodeId, make: impl FnOnce(&str) -> T) -> Option<T> {
        let metrics = self.metrics.get()?.borrow_watched();
        let listed = &metrics.membership_config.membership().get_node(&node)?.addr;
        let moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        let said = moved.get(&node).filter(|moved| moved.from == *listed);
        Some(make(said.map_or(listed, |moved| &moved.to)))
    }

    /// How many observe, it among them, if this node does; none where it votes.
    pub(super) fn observers_beside(&self, node: NodeId) -> u32 {
        let Some(metrics) = self.metrics.get() else { return 0 };
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        if membership.voter_ids().any(|voter| voter == node) {
            return 0;
        }
        u32::try_from(membership.learner_ids().count()).unwrap_or(u32::MAX)
    }

    /// A node says of itself that it is reached there. Of one that is no member nothing is kept.
    pub(super) fn hear(&self, node: NodeId, address: &str) {
        let Some(metrics) = self.metrics.get() else { return };
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        moved.retain(|node, moved| membership.get_node(node).is_some_and(|listed| listed.addr == moved.from));
        let Some(from) = membership.get_node(&node).map(|listed| listed.addr.clone()) else { return };
        if from == address {
            moved.remove(&node);
        } else {
            moved.insert(node, Moved { from, to: address.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leadership_goes_to_a_voter_that_was_heard_and_has_the_longest_log() {
        let ms = Duration::from_millis;
        let members = [(1, true), (2, true), (3, true), (4, true), (5, false)];
        let members = members.map(|(n, votes)| (NodeId::from_bits(n), (Member::default(), votes)));
        let membership =
            Membership { members: BTreeMap::from(members), is_joint: false, is_committed: true, from: None };
        let heirs = |reached: &[(u64, Option<Duration>, u64)]| -> Vec<u64> {
            let reached = reached
                .iter()
                .map(|&(n, heard_ago, matched)| (NodeId::from_bits(n), Reached { heard_ago, matched }));
            super::heirs(&membership, &reached.collect(), ms(200)).into_iter().map(NodeId::to_bits).collect()
        };
        // Node 1 leads. The dead one, the one never heard and the observer are not asked, however long their logs are.
        assert_eq!(
            heirs(&[(2, Some(ms(5)), 7), (3, Some(ms(900)), 9), (4, Some(ms(10)), 8), (5, Some(ms(1)), 9)]),
            [4, 2]
        );
        assert_eq!(heirs(&[(2, Some(ms(50)), 7), (3, Some(ms(5)), 7), (4, None, 9)]), [3, 2]);
        assert!(heirs(&[(2, Some(ms(201)), 7), (4, None, 9)]).is_empty());
    }
}
