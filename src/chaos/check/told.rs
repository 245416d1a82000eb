//! Rule L10, and watching: what is told, once and truly.

use std::{collections::BTreeMap, time::Duration};

use super::Violation;
use crate::{
    change::{Change, ChangeKind},
    chaos::history::{Belief, History, Life, Watcher},
    session::LossReason,
};

/// A holder is told one reason, however often it asks, and one that is true. A watcher is told every change after the index
/// that it asked for, in order, without a gap that it isn't told of.
#[must_use]
pub fn l10(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut ends = BTreeMap::new();
    let mut revocations = BTreeMap::new();
    for (_, at, changed) in history.changes() {
        match &changed.change.kind {
            ChangeKind::Ended { .. } => drop(ends.entry(changed.lease_id).or_insert(at)),
            ChangeKind::Revoked { token, by, reason, heir, .. } => {
                revocations.insert(*token, (by.clone(), reason.clone(), heir.clone()));
            }
            _ => {}
        }
    }
    for belief in &history.beliefs {
        let Some(reason) = belief.told.first() else { continue };
        let mut fault = |text: String| {
            let text = format!("agent {}, {} with token {}: {text}", belief.agent, belief.name, belief.token);
            found.push(Violation::new("L10", belief.seen, text));
        };
        if let Some(other) = belief.told.iter().find(|other| *other != reason) {
            fault(format!("its holder was told first that {reason}, and then that {other}"));
        }
        let revoked = revocations.get(&belief.token);
        let is_true = match reason {
            LossReason::Revoked { by, reason } => {
                revoked.is_some_and(|(b, r, heir)| (b, r) == (by, reason) && heir.is_none())
            }
            LossReason::Transferred { to, by, reason } => {
                revoked.is_some_and(|(b, r, heir)| (b, r) == (by, reason) && heir.as_ref() == Some(to))
            }
            // What a leader calls ended has ended by an entry, or is about to.
            LossReason::ExpiredInContact => ends.contains_key(&belief.lease_id) || history.mended.is_none(),
            LossReason::ClockWentBack { .. } => history.disturbances.iter().any(|disturbance| {
                disturbance.label.starts_with("clock back") && disturbance.agents.contains(&belief.agent)
            }),
            _ => true,
        };
        if !is_true {
            fault(format!("its holder was told something that did not happen: {reason}"));
        }
        if belief.over.is_none() {
            fault(format!("its holder was told {reason}, and it believes all the same"));
        }
    }
    found.extend(silence(history));
    found.extend(
        history.watchers.iter().enumerate().filter_map(|(number, watcher)| watched(history, number, watcher)),
    );
    found
}

/// A holder that is busy with something asks again within this time.
const ASKS_WITHIN: Duration = Duration::from_secs(4);

/// Who was told nothing although it is there to be told: its process lives and runs, and its lease was over a while before
/// the clients went home.
fn silence(history: &History) -> Vec<Violation> {
    let stands_still = |belief: &Belief, over: Duration| {
        history.disturbances.iter().any(|disturbance| {
            matches!(disturbance.label, "pause" | "suspend")
                && disturbance.agents.contains(&belief.agent)
                && disturbance.until + ASKS_WITHIN >= over
        })
    };
    let in_time = |belief: &Belief| {
        belief
            .over
            .is_some_and(|over| Some(over + ASKS_WITHIN) < history.mended && !stands_still(belief, over))
    };
    let late = |belief: &&Belief| belief.told.is_empty() && in_time(belief) && lives_on(history, belief);
    let text = |belief: &Belief| {
        format!(
            "agent {}, {} with token {}: its holder was never told why it is over",
            belief.agent, belief.name, belief.token
        )
    };
    history
        .beliefs
        .iter()
        .filter(late)
        .map(|belief| Violation::new("L10", belief.seen, text(belief)))
        .collect()
}

/// Whether the process that held it is there in the end.
fn lives_on(history: &History, belief: &Belief) -> bool {
    let its = |life: &Life| life.agent == belief.agent && life.from <= belief.from;
    history.lives.iter().any(|life| its(life) && life.until.is_none())
}

fn watched(history: &History, number: usize, watcher: &Watcher) -> Option<Violation> {
    let fault =
        |at: Duration, text: String| Some(Violation::new("L10", at, format!("watcher {number}: {text}")));
    let mut expected = history.changes().map(|(_, _, changed)| &changed.change).peekable();
    let skip = |expected: &mut std::iter::Peekable<_>, upto: u64| {
        while expected.next_if(|change: &&Change| change.index <= upto).is_some() {}
    };
    skip(&mut expected, watcher.after);
    for (at, agent, change) in &watcher.told {
        if let ChangeKind::Present { .. } = change.kind {
            skip(&mut expected, change.index);
            continue;
        }
        match expected.next() {
            Some(next) if next == change => {}
            Some(next) => {
                return fault(*at, format!("agent {agent} told it {change:?}, and next was {next:?}"));
            }
            None => return fault(*at, format!("agent {agent} told it {change:?}, which is not in the log")),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chaos::check::example::{S, example},
        name::AgentName,
    };

    #[test]
    fn two_reasons_or_a_wrong_one_are_found() {
        let mut history = example();
        assert_eq!(l10(&history), []);
        let expired = LossReason::ExpiredWithoutContact { ttl: 10 * S };
        history.beliefs[0].told = vec![expired.clone(), expired.clone()];
        assert_eq!(l10(&history), []);
        history.beliefs[0].told.push(LossReason::AgentStopped);
        assert_eq!(l10(&history).len(), 1);
        let by = AgentName::new("agent-1").unwrap();
        history.beliefs[0].told = vec![LossReason::Revoked { by, reason: "so".to_owned() }];
        assert_eq!(l10(&history).len(), 1, "nobody revoked it");
        let back = LossReason::ClockWentBack { from: crate::Moment::NEVER, to: crate::Moment::ZERO };
        history.beliefs[0].told = vec![back];
        assert_eq!(l10(&history).len(), 1, "no clock went back");
        history.beliefs[0].told = vec![expired];
        history.beliefs[0].over = None;
        assert_eq!(l10(&history).len(), 1, "it believes all the same");
    }

    #[test]
    fn a_holder_that_is_never_told_is_found() {
        let mut history = example();
        history.mended = Some(60 * S);
        history.beliefs[0].told.clear();
        history.lives = vec![Life { agent: 0, from: Duration::ZERO, until: Some(50 * S), served: true }];
        assert_eq!(l10(&history), []);
        history.lives[0].until = None;
        assert_eq!(l10(&history).len(), 1);
    }

    #[test]
    fn a_watcher_with_a_gap_is_found() {
        let mut history = example();
        let all: Vec<_> = history.changes().map(|(_, at, changed)| (at, 0, changed.change.clone())).collect();
        assert!(all.len() > 3);
        history.watchers = vec![Watcher { after: 0, told: all.clone() }];
        assert_eq!(l10(&history), []);
        history.watchers = vec![Watcher { after: all[0].2.index, told: all[1..].to_vec() }];
        assert_eq!(l10(&history), []);
        for wrong in [
            [&all[..1], &all[2..]].concat(),
            [&all[..2], &all[1..]].concat(),
            [all[1].clone(), all[0].clone()].to_vec(),
        ] {
            history.watchers = vec![Watcher { after: 0, told: wrong }];
            assert_eq!(l10(&history).len(), 1);
        }
        // A gap that it is told of is none.
        let index = all[1].2.index;
        let kind = ChangeKind::Present { held: Vec::new(), complete: true, lagged: true };
        let present = (S, 0, Change { index, kind });
        let later = all.iter().filter(|told| told.2.index > index).cloned();
        let told = std::iter::once(present).chain(later).collect();
        history.watchers = vec![Watcher { after: 0, told }];
        assert_eq!(l10(&history), []);
    }
}
