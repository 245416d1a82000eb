//! What must happen sometimes. A run that never comes into a situation says nothing about it; so a batch of seeds in which
//! one of these was never reached is not done.

use std::collections::BTreeSet;

use crate::{
    change::{ChangeKind, EndKind},
    chaos::{
        PointEffect,
        history::{Answered, Applied, Asked, Changed, History, Opening, PointHit},
    },
    fault_point::Point,
    id::NodeId,
    mode::Mode,
    session::LossReason,
};

/// Whether a run came into a situation.
pub type Reached = fn(&History) -> bool;

/// The catalogue.
pub const SITUATIONS: [(&str, Reached); 37] = [
    ("a lease expires", |h| ends(h, |how| *how == EndKind::Expired)),
    ("a lease is released", |h| ends(h, |how| *how == EndKind::Released)),
    ("a grant is given up by a requester that did not wait", |h| ends(h, |how| *how == EndKind::GivenUp)),
    ("a lease is handed over", |h| ends(h, |how| *how == EndKind::Transferred)),
    ("a revoked lease ends", |h| ends(h, |how| matches!(how, EndKind::Revoked { .. }))),
    ("a waiter is granted from the queue", |h| h.changes().any(|(_, _, changed)| changed.from_queue)),
    ("a waiter leaves the queue", |h| changes(h, |kind| matches!(kind, ChangeKind::Left { .. }))),
    ("a name is closed after an expiry", |h| changes(h, |kind| matches!(kind, ChangeKind::Closed { .. }))),
    ("three wait for one name", |h| queue_of(h, 3)),
    ("two believe in a shared lease at once", |h| beside(h, Mode::Shared)),
    ("two believe in a permit at once", |h| beside(h, Mode::Permits { of: 2 })),
    ("a lease is held over a change of leader", held_over_a_change),
    ("a holder is lost without contact", |h| {
        told(h, |r| matches!(r, LossReason::ExpiredWithoutContact { .. }))
    }),
    ("a holder is told that it was revoked", |h| told(h, |r| matches!(r, LossReason::Revoked { .. }))),
    ("a holder is told that it is to make room for another", |h| {
        told(h, |r| matches!(r, LossReason::Transferred { .. }))
    }),
    ("a holder's clock goes back", |h| told(h, |r| matches!(r, LossReason::ClockWentBack { .. }))),
    ("a holder's agent stops", |h| told(h, |r| matches!(r, LossReason::AgentStopped))),
    ("an operation has an unknown outcome", |h| {
        h.calls.iter().any(|call| matches!(call.answer, Answered::Unknown(_)))
    }),
    ("an acquisition is never answered", |h| h.calls.iter().any(|call| call.answer == Answered::Pending)),
    ("a lease is renewed by hand", |h| {
        h.calls.iter().any(|call| matches!(call.asked, Asked::Renew(_)) && call.answer == Answered::Done)
    }),
    ("a late write is refused by its fence", |h| h.writes.iter().any(|write| !write.admitted)),
    ("an agent catches up by a snapshot", |h| {
        h.applied.iter().any(|applied| applied.entry.is_none() && applied.index > 0)
    }),
    ("an agent is started again", |h| h.lives.iter().any(|life| life.until.is_some())),
    ("an entry is applied in three terms or more", |h| {
        h.log.values().map(|entry| entry.term).collect::<BTreeSet<_>>().len() >= 3
    }),
    ("a bare quorum is left in the end", |h| h.bare_quorum),
    ("a watcher goes from agent to agent", |h| {
        h.watchers.iter().any(|w| w.told.iter().map(|told| told.1).collect::<BTreeSet<_>>().len() > 1)
    }),
    ("a process ends between persisting and answering", |h| {
        use Point::{AfterAppend, AfterPurge, AfterSnapshot, AfterSync, AfterTruncation, AfterVote};
        ends_at(h, &[AfterAppend, AfterVote, AfterTruncation, AfterPurge, AfterSnapshot, AfterSync])
    }),
    ("a process ends between applying and answering", |h| {
        ends_at(h, &[Point::AfterApply, Point::AfterInstall, Point::BeforeRequestAnswer])
    }),
    ("a process ends when what it sent is under way", |h| {
        ends_at(h, &[Point::AfterSend, Point::AfterAnswer])
    }),
    ("the power goes between a write and its sync", |h| {
        let unsynced = |hit: &PointHit| hit.point == Point::BeforeSync;
        h.at_points.iter().any(|hit| unsynced(hit) && hit.effect == PointEffect::PowerLoss)
    }),
    ("a member that joined becomes a voter", joiner_votes),
    ("an observer takes a voter's place", |h| {
        changes_of_voters(h).any(|(from, to)| from.len() == to.len() && from != to)
    }),
    ("a member leaves, and a lease of it is handed over", leaves_with_a_lease),
    ("whoever lost its disk is a new member, and the old one is removed", replaces_itself),
    ("a leader leaves", |h| h.departures.iter().any(|departure| departure.left && departure.led)),
    ("a change of voters is ended by another leader than began it", |h| {
        let pairs = h.memberships.values().zip(h.memberships.values().skip(1));
        pairs.into_iter().any(|(joint, next)| joint.is_joint() && !next.is_joint() && joint.term < next.term)
    }),
    ("a new member gets a snapshot", |h| {
        let first = |opening: &Opening| {
            let later = |applied: &&Applied| applied.agent == opening.agent && applied.at >= opening.at;
            h.applied.iter().find(later)
        };
        let new = h.openings.iter().filter(|opening| opening.is_new && !is_founding(h, &opening.node));
        new.filter_map(first).any(|applied| applied.entry.is_none() && applied.index > 0)
    }),
];

/// The situations that a run came into.
#[must_use]
pub fn situations(history: &History) -> Vec<&'static str> {
    SITUATIONS.iter().filter(|(_, reached)| reached(history)).map(|(name, _)| *name).collect()
}

/// Whether it was there when the cluster was founded.
fn is_founding(history: &History, node: &NodeId) -> bool {
    history.memberships.values().next().is_some_and(|first| first.members.contains_key(node))
}

/// The voters before each change of them, and after it.
fn changes_of_voters(history: &History) -> impl Iterator<Item = (&BTreeSet<NodeId>, &BTreeSet<NodeId>)> {
    let pairs = history.memberships.values().zip(history.memberships.values().skip(1));
    let ended = pairs.filter(|(before, after)| before.is_joint() && !after.is_joint());
    ended.filter_map(|(before, after)| Some((before.voters.first()?, after.voters.first()?)))
}

fn joiner_votes(history: &History) -> bool {
    let spare = |opening: &&Opening| opening.agent >= history.founders;
    let mut joined = history.openings.iter().filter(spare).map(|opening| opening.node);
    joined.any(|node| history.memberships.values().any(|membership| membership.votes(&node)))
}

fn leaves_with_a_lease(history: &History) -> bool {
    history.departures.iter().filter(|departure| departure.left).any(|departure| {
        let name = format!("agent-{}", departure.agent);
        let meanwhile = |at| departure.from <= at && departure.until.is_some_and(|until| at <= until);
        let hands_over = |changes: &[Changed]| {
            let gives = |changed: &Changed| match &changed.change.kind {
                ChangeKind::Ended { agent, how: EndKind::Released, .. } => agent.as_str() == name,
                _ => false,
            };
            changes.iter().any(gives) && changes.iter().any(|changed| changed.from_queue)
        };
        history.log.values().any(|entry| meanwhile(entry.at) && hands_over(&entry.changes))
    })
}

fn replaces_itself(history: &History) -> bool {
    history.openings.iter().enumerate().filter(|(_, opening)| opening.is_new).any(|(number, new)| {
        let mut before = history.openings.iter().take(number).rev();
        let Some(old) = before.find(|old| old.agent == new.agent) else { return false };
        let mut later = history.memberships.values().skip_while(|it| !it.members.contains_key(&old.node));
        later.any(|it| it.members.contains_key(&new.node) && !it.members.contains_key(&old.node))
    })
}

fn changes(history: &History, is: impl Fn(&ChangeKind) -> bool) -> bool {
    history.changes().any(|(_, _, changed)| is(&changed.change.kind))
}

fn ends(history: &History, is: impl Fn(&EndKind) -> bool) -> bool {
    changes(history, |kind| matches!(kind, ChangeKind::Ended { how, .. } if is(how)))
}

fn told(history: &History, is: impl Fn(&LossReason) -> bool) -> bool {
    history.beliefs.iter().flat_map(|belief| &belief.told).any(is)
}

/// Whether a process ended, with its machine or without, at one of these.
fn ends_at(history: &History, points: &[Point]) -> bool {
    history
        .at_points
        .iter()
        .any(|hit| points.contains(&hit.point) && !matches!(hit.effect, PointEffect::Stall(_)))
}

fn queue_of(history: &History, count: usize) -> bool {
    let mut waiting = std::collections::BTreeMap::new();
    history.changes().any(|(_, _, changed)| {
        let Some(name) = changed.change.kind.name() else { return false };
        let queue: &mut BTreeSet<_> = waiting.entry(name).or_default();
        if matches!(changed.change.kind, ChangeKind::Queued { .. }) {
            queue.insert(changed.lease_id);
        } else {
            queue.remove(&changed.lease_id);
        }
        queue.len() >= count
    })
}

fn beside(history: &History, mode: Mode) -> bool {
    let beliefs: Vec<_> = history.beliefs.iter().filter(|belief| belief.mode == mode).collect();
    beliefs.iter().enumerate().any(|(at, later)| {
        beliefs.iter().take(at).any(|earlier| earlier.name == later.name && earlier.seen > later.from)
    })
}

fn held_over_a_change(history: &History) -> bool {
    let mut terms = Vec::new();
    for entry in history.log.values() {
        if terms.last().is_none_or(|(_, term)| *term < entry.term) {
            terms.push((entry.at, entry.term));
        }
    }
    history.beliefs.iter().any(|belief| terms.iter().any(|(at, _)| belief.from < *at && belief.seen > *at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::check::example::example;

    #[test]
    fn a_history_is_in_the_situations_that_it_shows() {
        let reached = situations(&example());
        for expected in ["a lease expires", "a lease is released", "a waiter is granted from the queue"] {
            assert!(reached.contains(&expected), "{expected}");
        }
        assert!(!reached.contains(&"a lease is handed over"));
        assert!(situations(&History::default()).is_empty());
    }
}
