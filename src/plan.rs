//! Which change of the membership comes next. Pure: `now` is a parameter.
//!
//! # The problem
//!
//! Agents appear, leave and die without an operator. The cluster should always have as many voters as it may, odd where
//! possible, and all of them alive; and no change may ever cost it its quorum, not even if somebody falls silent in the
//! middle of it.
//!
//! # The argument
//!
//! A change of voters goes through a joint configuration, in which a majority of the old voters *and* one of the new must
//! agree. So a change is planned only if both majorities are in touch now ([`Care::in_touch_within`], far shorter than
//! what makes a member dead): then it commits, and what it leaves behind has a quorum in touch as well.
//!
//! - **One change at a time**, and none while another is under way, is the caller's to keep: openraft refuses a second.
//! - **Nothing during elections.** Only a leader plans, and a new one counts everybody's silence from the moment at which
//!   it began to lead, so that nobody is taken for dead because the *leader* has not listened for long.
//! - **Odd where possible.** One more voter than an odd number has to be bought by a larger majority and bears no further
//!   loss. So from an odd number two are added at once, or none; dead voters without a replacement are dropped in twos.
//! - **It comes to rest.** Each step brings the voters nearer to what is wanted; without news there is no step after the
//!   last (a test applies plans until there are none).
//!
//! # Rejected
//!
//! - *Dropping a single dead voter without a replacement*: of five, four are left, which bear the loss of one, as five
//!   with one dead do; and when it comes back it has to be added again.
//! - *Deciding by wall clock, or by who joined first*: health alone counts, ties go to the smaller id.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use crate::{id::NodeId, time::Moment};

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Care {
    /// The most voters.
    pub(crate) voters_max: usize,
    /// A member that was heard within this span is in touch.
    pub(crate) in_touch_within: Duration,
    /// A voter that is silent for this long is replaced.
    pub(crate) dead_after: Duration,
    /// An observer that is silent for this long is removed.
    pub(crate) forget_after: Duration,
}

/// A member, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Whether it votes.
    pub(crate) voter: bool,
    /// Whether it is willing to vote.
    pub(crate) willing: bool,
    /// Whether its log is nearly as long as the leader's.
    pub(crate) caught_up: bool,
    /// When the leader heard of it last; not before it began to lead.
    pub(crate) heard: Moment,
    /// Whether another member was heard at the same address later: then this is what it was before it lost its data
    /// directory, and won't come back.
    pub(crate) superseded: bool,
}

/// The next change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Observers that vote from now on.
    pub(crate) promote: BTreeSet<NodeId>,
    /// Voters that only observe from now on.
    pub(crate) demote: BTreeSet<NodeId>,
    /// Observers that are members no more.
    pub(crate) remove: BTreeSet<NodeId>,
    /// Why.
    pub(crate) why: Why,
}

/// The reason of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// There may be more voters.
    MoreVoters,
    /// A voter is dead, and an observer takes its place.
    DeadReplaced,
    /// Voters are dead, and without them the rest bears more losses.
    DeadDropped,
    /// There are more voters than wanted.
    FewerVoters,
    /// An observer has been silent for too long.
    Forgotten,
    /// It has come back under another id.
    Superseded,
    /// It is its own wish, or an operator's.
    ByWill,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MoreVoters => "there may be more voters",
            Self::DeadReplaced => "a voter was silent for too long, and an observer takes its place",
            Self::DeadDropped => {
                "voters were silent for too long, and the others bear more losses without them"
            }
            Self::FewerVoters => "there are more voters than wanted",
            Self::Forgotten => "an observer was silent for too long",
            Self::Superseded => "its agent has come back as another member",
            Self::ByWill => "it was asked for",
        })
    }
}

/// By how much to change so many voters: an even number is made odd by one, an odd one stays odd by two.
fn to_odd(voters: usize) -> usize {
    1 + voters % 2
}

/// The members as the leader sees them, at one moment.
pub(crate) struct Situation<'a> {
    pub(crate) care: &'a Care,
    pub(crate) now: Moment,
    pub(crate) leader: NodeId,
    pub(crate) members: &'a BTreeMap<NodeId, Seen>,
}

impl Situation<'_> {
    /// The next change, if there is to be one. Deterministic.
    pub(crate) fn next(&self) -> Option<Step> {
        self.replace_a_dead_voter()
            .or_else(|| self.drop_dead_voters())
            .or_else(|| self.add_voters())
            .or_else(|| self.drop_voters_too_many())
            .or_else(|| self.forget())
    }

    /// The change by which a member goes that is asked to, or wants to: somebody takes its vote, if anybody can. `None`
    /// where it could cost the quorum, or where it leads (it hands over first).
    pub(crate) fn without(&self, node: NodeId) -> Option<Step> {
        let none = BTreeSet::new;
        if !self.members.get(&node)?.voter {
            return Some(Step { promote: none(), demote: none(), remove: [node].into(), why: Why::ByWill });
        }
        let heir = self.candidates().next();
        let step = self.change(heir.into_iter().collect(), [node].into(), Why::ByWill)?;
        Some(Step { remove: [node].into(), ..step })
    }

    /// The change by which an observer votes from now on. `None` where it can't yet, or could cost the quorum.
    pub(crate) fn promoting(&self, node: NodeId) -> Option<Step> {
        let seen = self.members.get(&node)?;
        if seen.voter || !seen.caught_up || !self.is_in_touch(&node) {
            return None;
        }
        self.change([node].into(), BTreeSet::new(), Why::ByWill)
    }

    /// The change by which another one votes beside a leader that votes alone and wants to go.
    pub(crate) fn an_heir(&self) -> Option<Step> {
        self.promoting(self.candidates().next()?)
    }

    /// Whether the leader has heard of it lately.
    pub(crate) fn is_in_touch(&self, node: &NodeId) -> bool {
        self.silence(node) < self.care.in_touch_within
    }

    fn silence(&self, node: &NodeId) -> Duration {
        if *node == self.leader {
            return Duration::ZERO;
        }
        self.members.get(node).map_or(Duration::MAX, |seen| self.now.since(seen.heard))
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.members.iter().filter(|(_, seen)| seen.voter).map(|(node, _)| *node).collect()
    }

    /// The longest silent first.
    fn dead_voters(&self) -> Vec<NodeId> {
        let superseded = |node: &NodeId| self.members.get(node).is_some_and(|seen| seen.superseded);
        let is_dead = |node: &NodeId| {
            self.silence(node) >= self.care.dead_after || superseded(node) && !self.is_in_touch(node)
        };
        let mut dead: Vec<NodeId> = self.voters().into_iter().filter(is_dead).collect();
        dead.sort_by_key(|node| std::cmp::Reverse(self.silence(node)));
        dead
    }

    /// Observers that may vote, in order.
    fn candidates(&self) -> impl Iterator<Item = NodeId> + '_ {
        let fits = |(node, seen): &(&NodeId, &Seen)| {
            !seen.voter && seen.willing && seen.caught_up && !seen.superseded && self.is_in_touch(node)
        };
        self.members.iter().filter(fits).map(|(node, _)| *node)
    }

    /// Whether a majority of these is in touch.
    fn has_quorum(&self, voters: &BTreeSet<NodeId>) -> bool {
        voters.iter().filter(|node| self.is_in_touch(node)).count() > voters.len() / 2
    }

    /// How many of those in touch may be lost before there is no quorum.
    fn bears(&self, voters: &BTreeSet<NodeId>) -> usize {
        let in_touch = voters.iter().filter(|node| self.is_in_touch(node)).count();
        in_touch.saturating_sub(voters.len() / 2 + 1)
    }

    /// The change, if both majorities are in touch.
    fn change(&self, promote: BTreeSet<NodeId>, demote: BTreeSet<NodeId>, why: Why) -> Option<Step> {
        let old = self.voters();
        let new: BTreeSet<NodeId> = old.difference(&demote).chain(&promote).copied().collect();
        let safe = new.contains(&self.leader) && self.has_quorum(&old) && self.has_quorum(&new);
        safe.then_some(Step { promote, demote, remove: BTreeSet::new(), why })
    }

    fn replace_a_dead_voter(&self) -> Option<Step> {
        let dead = self.dead_voters().into_iter().next()?;
        let candidate = self.candidates().next()?;
        self.change([candidate].into(), [dead].into(), Why::DeadReplaced)
    }

    fn drop_dead_voters(&self) -> Option<Step> {
        let voters = self.voters();
        let count = to_odd(voters.len());
        let demote: BTreeSet<NodeId> = self.dead_voters().into_iter().take(count).collect();
        let rest = voters.difference(&demote).copied().collect();
        if demote.len() < count || self.bears(&rest) <= self.bears(&voters) {
            return None;
        }
        self.change(BTreeSet::new(), demote, Why::DeadDropped)
    }

    fn add_voters(&self) -> Option<Step> {
        let voters = self.voters().len();
        let room = self.care.voters_max.saturating_sub(voters);
        let wanted = to_odd(voters);
        let promote: BTreeSet<NodeId> = self.candidates().take(wanted).collect();
        if room < wanted || promote.len() < wanted {
            return None;
        }
        self.change(promote, BTreeSet::new(), Why::MoreVoters)
    }

    fn drop_voters_too_many(&self) -> Option<Step> {
        let voters = self.voters();
        let over = voters.len().saturating_sub(self.care.voters_max.max(1));
        if over == 0 {
            return None;
        }
        // The longest silent first, then the larger id; never the leader.
        let mut order: Vec<NodeId> = voters.into_iter().filter(|node| *node != self.leader).collect();
        order.sort_by_key(|node| std::cmp::Reverse((self.silence(node), *node)));
        self.change(BTreeSet::new(), order.into_iter().take(over).collect(), Why::FewerVoters)
    }

    fn forget(&self) -> Option<Step> {
        let old = self.voters();
        if !self.has_quorum(&old) {
            return None;
        }
        let observers = || self.members.iter().filter(|(_, seen)| !seen.voter);
        let step = |node: NodeId, why| Step {
            promote: BTreeSet::new(),
            demote: BTreeSet::new(),
            remove: [node].into(),
            why,
        };
        let superseded = observers().find(|(node, seen)| seen.superseded && !self.is_in_touch(node));
        let forgotten = || observers().find(|(node, _)| self.silence(node) >= self.care.forget_after);
        superseded
            .map(|(node, _)| step(*node, Why::Superseded))
            .or_else(|| forgotten().map(|(node, _)| step(*node, Why::Forgotten)))
    }
}

#[cfg(test)]
mod tests;
