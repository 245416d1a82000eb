//! Rules L1, L4 and L5: who believes when.

use std::{collections::BTreeMap, time::Duration};

use super::Violation;
use crate::{
    change::{ChangeKind, EndKind},
    chaos::history::{Answered, Asked, Belief, History},
    mode::Mode,
};

/// At any instant at most one believes; of shared leases and permits, as many as may stand beside each other.
#[must_use]
pub fn l1(history: &History) -> Vec<Violation> {
    if !history.drift_bounded {
        return Vec::new();
    }
    let mut found = Vec::new();
    // An overlap is there when one of the two begins, or not at all.
    let beginnings = history.beliefs.iter().enumerate();
    for (number, at) in beginnings.flat_map(|(number, one)| one.beginnings().map(move |at| (number, at))) {
        let Some(beginner) = history.beliefs.get(number) else { continue };
        // One that begins for the first time does so by right; one that begins again does so by its clock.
        if at > beginner.from && !history.is_bounded_at(beginner, at) {
            continue;
        }
        let there = |(place, other): &(usize, &Belief)| {
            let began_before = other.from < at || *place < number;
            let differs = other.token != beginner.token && other.name == beginner.name;
            differs && began_before && other.is_at(at) && history.is_bounded_at(other, at)
        };
        let others: Vec<_> =
            history.beliefs.iter().enumerate().filter(there).map(|(_, other)| other).collect();
        for other in others.iter().filter(|other| other.excludes(&beginner.name, beginner.mode)) {
            let text = format!(
                "agent {} believes in {} with token {}, and agent {} still does with token {}",
                beginner.agent, beginner.name, beginner.token, other.agent, other.token
            );
            found.push(Violation::new("L1", at, text));
        }
        if let Mode::Permits { of } = beginner.mode
            && others.len() as u64 >= u64::from(of)
        {
            let (count, name) = (others.len() + 1, &beginner.name);
            let text = format!("{count} believe in a permit of {name} of which there are {of}");
            found.push(Violation::new("L1", at, text));
        }
    }
    found
}

/// No lease ends while its holder believes, and none expires before its ttl is over since its grant and since the last
/// renewal that a client was acknowledged.
#[must_use]
pub fn l4(history: &History) -> Vec<Violation> {
    if !history.drift_bounded {
        return Vec::new();
    }
    let mut granted = BTreeMap::new();
    let mut found = Vec::new();
    for (index, at, changed) in history.changes() {
        let id = changed.lease_id;
        match &changed.change.kind {
            ChangeKind::Granted { ttl, .. } => drop(granted.insert(id, (at, *ttl))),
            ChangeKind::Ended { name, token, how, .. } => {
                // At its end; or it begins after it, unless it was over when it was handed out.
                let believes = |belief: &&Belief| {
                    let is_at = |at| belief.is_at(at) && history.is_bounded_at(belief, at);
                    let begins = |from: &Duration| *from > at && belief.over != Some(*from);
                    belief.lease_id == id && (is_at(at) || belief.beginnings().filter(begins).any(is_at))
                };
                if let Some(belief) = history.beliefs.iter().find(believes) {
                    let text = format!(
                        "the lease on {name} with token {token} is {how} by entry {index}, and agent {} believes in it",
                        belief.agent
                    );
                    found.push(Violation::new("L4", at, text));
                }
                let Some((began, ttl)) = granted.get(&id).filter(|_| *how == EndKind::Expired) else {
                    continue;
                };
                let renewed = history.calls.iter().filter(|call| {
                    call.asked == Asked::Renew(id) && call.answer == Answered::Done && call.ended < Some(at)
                });
                let last = renewed.map(|call| call.began).fold(*began, Duration::max);
                if at < last + *ttl {
                    let text = format!(
                        "the lease on {name} with token {token} expires {:?} after its last renewal, its ttl is {ttl:?}",
                        at.saturating_sub(last)
                    );
                    found.push(Violation::new("L4", at, text));
                }
            }
            _ => {}
        }
    }
    found
}

/// Nobody is granted what another still believes to hold.
#[must_use]
pub fn l5(history: &History) -> Vec<Violation> {
    if !history.drift_bounded {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, at, changed) in history.changes() {
        let ChangeKind::Granted { name, token, .. } = &changed.change.kind else { continue };
        for belief in &history.beliefs {
            let there = belief.token < *token && belief.is_at(at);
            if there && belief.excludes(name, changed.mode) && history.is_bounded_at(belief, at) {
                let text = format!(
                    "entry {index} grants {name} with token {token}, and agent {} believes in its lease with token {}",
                    belief.agent, belief.token
                );
                found.push(Violation::new("L5", at, text));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::check::example::{S, belief, call, ended, example, granted, id};
    use crate::chaos::history::Disturbance;

    #[test]
    fn two_that_believe_at_one_instant_are_found() {
        let mut history = example();
        assert_eq!((l1(&history), l4(&history), l5(&history)), (vec![], vec![], vec![]));
        // The first holder believes for longer than it should: the second begins meanwhile.
        history.beliefs[0].seen = history.beliefs[1].from;
        assert_eq!(l1(&history).len(), 1);
        history.drift_bounded = false;
        assert_eq!((l1(&history), l4(&history), l5(&history)), (vec![], vec![], vec![]));
    }

    #[test]
    fn a_clock_that_went_back_unnoticed_says_nothing_of_its_neighbours() {
        let mut history = example();
        history.beliefs[0].seen = history.beliefs[1].from;
        let disturbance = |label, agent| Disturbance {
            number: 0,
            text: String::new(),
            label,
            agents: vec![agent],
            from: 10 * S,
            until: 11 * S,
        };
        let mut broken = |disturbances| {
            history.disturbances = disturbances;
            l1(&history).len()
        };
        assert_eq!(broken(vec![disturbance("clock back", 0)]), 1, "it was noticed");
        assert_eq!(broken(vec![disturbance("clock back a little", 0)]), 0);
        assert_eq!(broken(vec![disturbance("clock back a little", 1)]), 1, "another agent's");
        assert_eq!(broken(vec![disturbance("clock back", 0), disturbance("suspend", 0)]), 0);
        assert_eq!(broken(vec![disturbance("suspend", 0)]), 1, "its clock went on");
        // The overlap is at 21 s. Neither a jump that came later nor a pause that was elsewhere excuses it, nor a jump whose
        // reading is long past.
        let at = |label, from: u32, until: u32| Disturbance {
            from: from * S,
            until: until * S,
            ..disturbance(label, 0)
        };
        assert_eq!(broken(vec![at("clock back a little", 22, 23)]), 1);
        assert_eq!(broken(vec![at("clock back", 12, 13), at("pause", 1, 2)]), 1, "it was read before");
        assert_eq!(broken(vec![at("clock back", 3, 4), at("pause", 14, 15)]), 1, "it was read between");
        assert_eq!(broken(vec![at("clock back a little", 1, 2)]), 1, "its ttl is 10 s");
        assert_eq!(broken(vec![at("clock back a little", 1, 2), at("pause", 5, 9)]), 0, "and it stood still");
    }

    #[test]
    fn shared_leases_stand_beside_each_other_and_permits_are_counted() {
        let mut history = example();
        let shared =
            |agent, token| Belief { mode: Mode::Shared, ..belief(agent, "b", token, 10 * S, 20 * S) };
        history.beliefs = vec![shared(0, 1), shared(1, 2)];
        assert_eq!(l1(&history), []);
        history.beliefs.push(belief(2, "b", 3, 15 * S, 16 * S));
        assert_eq!(l1(&history).len(), 2);
        let permit = |agent, token| Belief {
            mode: Mode::Permits { of: 2 },
            ..belief(agent, "c", token, 10 * S, 20 * S)
        };
        history.beliefs = vec![permit(0, 1), permit(1, 2)];
        assert_eq!(l1(&history), []);
        history.beliefs.push(permit(2, 3));
        assert_eq!(l1(&history).len(), 1);
    }

    #[test]
    fn a_lease_that_ends_under_its_holders_feet_is_found() {
        let mut history = example();
        let end = history.log[&3].at;
        history.beliefs[0].seen = end;
        assert_eq!(l4(&history).len(), 1);
        assert_eq!(l5(&history).len(), 1, "the entry grants it to the next");
    }

    #[test]
    fn a_belief_that_begins_after_its_own_end_is_found() {
        let mut history = example();
        let (from, over) = (22 * S, history.log[&3].at);
        history.beliefs[0].from = from;
        history.beliefs[0].seen = from;
        assert!(from > over);
        assert_eq!(l4(&history).len(), 1);
        // It was lost on its way: nobody believed.
        history.beliefs[0].over = Some(from);
        assert_eq!(l4(&history), []);
    }

    #[test]
    fn a_belief_that_begins_again_is_looked_at_again() {
        let mut history = example();
        // The first holder's clock is behind its deadline again, and the second believes meanwhile.
        history.beliefs[0].seen = 23 * S;
        history.beliefs[0].gaps = vec![(19 * S, 22 * S)];
        assert_eq!((l1(&history).len(), l4(&history).len(), l5(&history).len()), (1, 1, 0));
        history.beliefs[0].gaps = vec![(19 * S, 26 * S)];
        history.beliefs[0].seen = 26 * S;
        assert_eq!((l1(&history).len(), l4(&history).len()), (0, 1), "the second has ended by then");
    }

    #[test]
    fn an_expiry_before_the_ttl_is_found() {
        let mut history = example();
        granted(&mut history, 10, 40 * S, "b", 9);
        ended(&mut history, 11, 50 * S - Duration::from_nanos(1), "b", 9, EndKind::Expired);
        assert_eq!(l4(&history).len(), 1);
        history.log.get_mut(&11).unwrap().at = 50 * S;
        assert_eq!(l4(&history), []);
        // A renewal that was acknowledged counts from when it was asked for.
        history.calls.push(call(Asked::Renew(id(9)), 41 * S, 42 * S, Answered::Done));
        assert_eq!(l4(&history).len(), 1);
    }

    #[test]
    fn a_grant_of_what_another_believes_in_is_found() {
        let mut history = example();
        granted(&mut history, 10, 32 * S, "b", 9);
        history.beliefs.push(belief(0, "b", 8, 31 * S, 32 * S));
        assert_eq!(l5(&history).len(), 1);
        history.beliefs.last_mut().unwrap().seen = 32 * S - Duration::from_nanos(1);
        assert_eq!(l5(&history), []);
    }
}
