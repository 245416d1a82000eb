//! Rule L10, and watching: what is told, once and truly.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Violation,
    log::{State, States, states},
};
use crate::{
    change::{Change, ChangeKind},
    chaos::history::{Answered, Asked, Belief, Departure, Disturbance, History, Life, Stint, Watcher},
    holder::HolderInfo,
    name::Name,
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
            LossReason::ExpiredWithoutContact { ttl } => {
                history.ttl_of(&belief.lease_id) == Some(*ttl) && is_without_contact(history, belief, *ttl)
            }
            LossReason::Released => belief.given_up,
            // It has stopped; so its process ended, and another one was started. Or it tried to leave.
            LossReason::AgentStopped if departs(history, belief) => true,
            LossReason::AgentStopped => history.lives.iter().any(|life| {
                life.agent == belief.agent
                    && life.from <= belief.from
                    && life.until.is_some_and(|until| until >= belief.from)
            }),
            // Nobody here has a client or an access that could be closed.
            LossReason::ClientClosed | LossReason::AccessClosed => false,
        };
        if !is_true {
            fault(format!("its holder was told something that did not happen: {reason}"));
        }
        if belief.over.is_none() {
            fault(format!("its holder was told {reason}, and it believes all the same"));
        }
    }
    found.extend(silence(history));
    let states = states(history);
    for (number, watcher) in history.watchers.iter().enumerate() {
        let fault =
            |(at, text): (Duration, String)| Violation::new("L10", at, format!("watcher {number}: {text}"));
        found.extend(watched(history, &states, watcher).map(fault));
        found.extend(watcher.stints.iter().filter_map(|stint| unheard(history, watcher, stint)).map(fault));
    }
    found
}

/// Whether no renewal of it that a client was acknowledged lies so near its end that it can't have run out by then.
fn is_without_contact(history: &History, belief: &Belief, ttl: Duration) -> bool {
    let Some(over) = over(history, belief).filter(|_| history.drift_bounded) else { return true };
    !history.calls.iter().any(|call| {
        call.asked == Asked::Renew(belief.lease_id)
            && call.answer == Answered::Done
            && call.ended.is_some_and(|ended| ended < over)
            && call.began + ttl.mul_f64(1.0 - ALLOWANCE) > over
    })
}

/// Whether the holder's agent tried to leave while it had the lease, before it told that it stops.
fn departs(history: &History, belief: &Belief) -> bool {
    let told = belief.told_at.unwrap_or(Duration::MAX);
    let covers = |departure: &Departure| {
        departure.from <= told && departure.until.is_none_or(|until| until >= belief.from)
    };
    history.departures.iter().any(|departure| departure.agent == belief.agent && covers(departure))
}

/// What a holder's span may lack of its ttl: its own drift allowance and what its clock is too fast, a hundredth each, and a
/// little.
const ALLOWANCE: f64 = 0.03;

/// A holder that is busy with something asks again within this time.
const ASKS_WITHIN: Duration = Duration::from_secs(4);

/// Who was told nothing in time, although it is there to be told: its process lives and runs, and its lease was over a while
/// before the clients went home.
fn silence(history: &History) -> Vec<Violation> {
    let late = |belief: &&Belief| {
        let Some(over) = over(history, belief) else { return false };
        let in_time = |told: Duration| told <= over + ASKS_WITHIN;
        !belief.given_up
            && Some(over + ASKS_WITHIN) < history.mended
            && !belief.told_at.is_some_and(in_time)
            && !stood_still(history, belief.agent, over, ASKS_WITHIN)
            && lives_on(history, belief, over + ASKS_WITHIN)
    };
    let text = |belief: &Belief| {
        let (name, token) = (&belief.name, belief.token);
        let when = belief.told_at.map_or("never".to_owned(), |at| format!("at {at:?} only"));
        format!(
            "agent {}, {name} with token {token}: its holder was told {when} why it is over",
            belief.agent
        )
    };
    let found = history.beliefs.iter().filter(late);
    found.map(|belief| Violation::new("L10", belief.seen, text(belief))).collect()
}

/// Whether the process that held it is there until then.
fn lives_on(history: &History, belief: &Belief, until: Duration) -> bool {
    let its = |life: &&Life| life.agent == belief.agent && life.from <= belief.from;
    let life = history.lives.iter().rfind(its);
    life.is_some_and(|life| life.until.is_none_or(|ended| ended > until))
}

/// When the belief was over, if that is known. Not where the agent's clock had gone back by a little: if its holder did not read
/// it before it came up again, there was nothing to be told, and it was not over. It was found not to believe by a look of ours
/// that fell between, and believed afterwards.
fn over(history: &History, belief: &Belief) -> Option<Duration> {
    let went_back = |it: &Disturbance, at: Duration| {
        let covers = it.from <= at && at <= it.until;
        it.label == "clock back a little" && it.agents.contains(&belief.agent) && covers
    };
    belief.over.filter(|at| !history.disturbances.iter().any(|it| went_back(it, *at)))
}

/// Whether the agent's process stood still at some moment between so long before this one and so long after it.
fn stood_still(history: &History, agent: usize, at: Duration, around: Duration) -> bool {
    history.disturbances.iter().any(|it| it.stops(agent) && it.until + around >= at && it.from <= at + around)
}

/// What a watcher was told that is not what came next in the log.
fn watched(history: &History, states: &States<'_>, watcher: &Watcher) -> Option<(Duration, String)> {
    let mut expected = history.changes().map(|(_, _, changed)| &changed.change).peekable();
    let mut told_upto = watcher.after;
    let skip = |expected: &mut std::iter::Peekable<_>, upto: u64| {
        while expected.next_if(|change: &&Change| change.index <= upto).is_some() {}
    };
    skip(&mut expected, watcher.after);
    for (at, agent, change) in &watcher.told {
        let fault = |text: String| Some((*at, format!("agent {agent} told it {text}")));
        if let ChangeKind::Present { held, complete, .. } = &change.kind {
            if change.index < told_upto {
                return fault(format!("the present at {}, and it was at {told_upto}", change.index));
            }
            if let Some(wrong) = wrong_present(states, change.index, held, *complete) {
                return fault(format!("the present at {}: {wrong}", change.index));
            }
            skip(&mut expected, change.index);
        } else {
            match expected.next() {
                Some(next) if next == change => {}
                Some(next) => return fault(format!("{change:?}, and next was {next:?}")),
                None => return fault(format!("{change:?}, which is not in the log")),
            }
        }
        told_upto = change.index;
    }
    None
}

/// What is not as the log has it after this entry.
fn wrong_present(
    states: &States<'_>,
    index: u64,
    held: &[(Name, HolderInfo)],
    complete: bool,
) -> Option<String> {
    let then =
        |states: &Vec<State>| states.iter().rfind(|state| state.index <= index).map(|it| it.holders.clone());
    let holders = states.iter().filter_map(|(name, states)| Some((*name, then(states)?)));
    let holders: BTreeMap<_, _> = holders.filter(|(_, tokens)| !tokens.is_empty()).collect();
    for (name, info) in held {
        let Some(tokens) = holders.get(name) else { return Some(format!("nobody held {name}")) };
        if !tokens.contains(&info.token) || info.holders != tokens.len() as u64 {
            let (token, count) = (info.token, info.holders);
            return Some(format!("{name} by {token}, {count} in all; the log has {tokens:?}"));
        }
    }
    let names = held.iter().map(|(name, _)| name).collect::<BTreeSet<_>>();
    let missing = holders.keys().find(|name| complete && !names.contains(*name))?;
    Some(format!("{missing} was held, and is not in it"))
}

/// An agent tells those who listen to it within this time of applying something.
const TELLS_WITHIN: Duration = Duration::from_secs(1);

/// Something that the agent applied while the watcher listened to it, and did not tell it in time.
fn unheard(history: &History, watcher: &Watcher, stint: &Stint) -> Option<(Duration, String)> {
    let until = stint.until.or(history.mended)?;
    let upto = watcher.told.iter().take_while(|told| told.0 <= until).map(|told| told.2.index).max();
    let upto = upto.unwrap_or(0).max(watcher.after);
    let missed = history.applied.iter().find(|applied| {
        applied.agent == stint.agent
            && applied.at >= stint.from
            && applied.at + TELLS_WITHIN < until
            && applied.index > upto
            && applied.entry.is_some()
            && history.log.get(&applied.index).is_some_and(|entry| !entry.changes.is_empty())
    })?;
    let stood_still = stood_still(history, stint.agent, missed.at, until.saturating_sub(missed.at));
    let text = format!("agent {} applied entry {}, and never told it", stint.agent, missed.index);
    (!stood_still).then_some((missed.at, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chaos::check::example::{S, call, example, id, token},
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
        for reason in [LossReason::AgentStopped, LossReason::ClientClosed, LossReason::AccessClosed] {
            history.beliefs[0].told = vec![reason];
            assert_eq!(l10(&history).len(), 1, "nobody stopped or closed anything");
        }
        history.beliefs[0].given_up = false;
        history.beliefs[0].told = vec![LossReason::Released];
        assert_eq!(l10(&history).len(), 1, "it was not released");
        history.beliefs[0].told = vec![LossReason::ExpiredWithoutContact { ttl: 9 * S }];
        assert_eq!(l10(&history).len(), 1, "its ttl is another");
        history.beliefs[0].told = vec![expired.clone()];
        let over = history.beliefs[0].over.unwrap();
        history.calls.push(call(Asked::Renew(id(1)), over - 5 * S, over - 4 * S, Answered::Done));
        assert_eq!(l10(&history).len(), 1, "it was renewed a moment ago");
        let (text, agents) = (String::new(), vec![0]);
        let label = "clock back a little";
        history.disturbances =
            vec![Disturbance { number: 0, text, label, agents, from: over, until: over + S }];
        assert_eq!(l10(&history), [], "it was not over yet: its clock came up again");
        history.disturbances.clear();
        history.calls.pop();
        history.beliefs[0].told = vec![expired];
        history.beliefs[0].over = None;
        assert_eq!(l10(&history).len(), 1, "it believes all the same");
    }

    #[test]
    fn a_holder_that_is_never_told_is_found() {
        let mut history = example();
        history.mended = Some(60 * S);
        history.beliefs[0].told.clear();
        history.beliefs[0].told_at = None;
        history.beliefs[0].given_up = false;
        history.lives = vec![Life { agent: 0, from: Duration::ZERO, until: Some(20 * S), served: true }];
        assert_eq!(l10(&history), []);
        history.lives[0].until = None;
        assert_eq!(l10(&history).len(), 1);
        let pause = |from: u32, until: u32| Disturbance {
            number: 0,
            text: String::new(),
            label: "pause",
            agents: vec![0],
            from: from * S,
            until: until * S,
        };
        history.beliefs[0].told_at = Some(24 * S);
        assert_eq!(l10(&history).len(), 1, "it was over at 19 s");
        history.beliefs[0].told_at = Some(22 * S);
        assert_eq!(l10(&history), []);
        history.beliefs[0].told_at = None;
        history.disturbances = vec![pause(18, 50)];
        assert_eq!(l10(&history), [], "it stands still");
        history.disturbances = vec![pause(25, 50)];
        assert_eq!(l10(&history).len(), 1, "it had time enough before it stood still");
        let back = |from, agent| Disturbance {
            label: "clock back a little",
            agents: vec![agent],
            ..pause(from, 50)
        };
        history.disturbances = vec![back(18, 0)];
        assert_eq!(l10(&history), [], "its clock came up again before it was read");
        history.disturbances = vec![back(20, 0), back(18, 1)];
        assert_eq!(l10(&history).len(), 1, "later, or another's");
    }

    #[test]
    fn a_watcher_that_is_told_nothing_any_more_is_found() {
        let mut history = example();
        let all: Vec<_> = history.changes().map(|(_, at, changed)| (at, 0, changed.change.clone())).collect();
        let stint = |until| vec![Stint { agent: 0, from: Duration::ZERO, until: Some(until) }];
        let watcher = |told, until| Watcher { after: 0, told, stints: stint(until) };
        history.watchers = vec![watcher(all.clone(), 60 * S)];
        assert_eq!(l10(&history), []);
        history.watchers = vec![watcher(all[..2].to_vec(), 60 * S)];
        assert_eq!(l10(&history).len(), 1);
        history.watchers = vec![watcher(all[..2].to_vec(), 3 * S)];
        assert_eq!(l10(&history), [], "it did not listen for long enough");
    }

    #[test]
    fn a_present_that_is_not_as_the_log_has_it_is_found() {
        let history = example();
        let name = Name::new("a").unwrap();
        let info = |bits, holders| HolderInfo {
            agent: AgentName::new("agent-0").unwrap(),
            node: crate::NodeId::from_bits(1),
            token: token(bits),
            since: chrono::DateTime::UNIX_EPOCH,
            ttl: 10 * S,
            metadata: bytes::Bytes::new(),
            revoked: false,
            waiters: 0,
            mode: crate::Mode::Exclusive,
            holders,
        };
        let look = |index, held, complete| {
            let kind = ChangeKind::Present { held, complete, lagged: true };
            let later = history.changes().filter(|(at, ..)| *at > index);
            let later = later.map(|(_, at, changed)| (at, 0, changed.change.clone()));
            let told = std::iter::once((S, 0, Change { index, kind })).chain(later).collect();
            let watchers = vec![Watcher { after: 0, told, stints: Vec::new() }];
            l10(&History { watchers, ..history.clone() }).len()
        };
        assert_eq!(look(2, vec![(name.clone(), info(1, 1))], true), 0);
        assert_eq!(look(3, vec![(name.clone(), info(1, 1))], true), 1, "another holder's");
        assert_eq!(look(3, vec![(name.clone(), info(2, 2))], true), 1, "another number");
        assert_eq!(look(3, vec![], true), 1, "it was held");
        assert_eq!(look(3, vec![], false), 0, "it is a part");
        assert_eq!(look(4, vec![(name, info(2, 1))], true), 1, "nobody's any more");
        assert_eq!(look(4, vec![], true), 0);
    }

    #[test]
    fn a_watcher_with_a_gap_is_found() {
        let mut history = example();
        let all: Vec<_> = history.changes().map(|(_, at, changed)| (at, 0, changed.change.clone())).collect();
        assert!(all.len() > 3);
        history.watchers = vec![Watcher { told: all.clone(), ..Watcher::default() }];
        assert_eq!(l10(&history), []);
        history.watchers =
            vec![Watcher { after: all[0].2.index, told: all[1..].to_vec(), ..Watcher::default() }];
        assert_eq!(l10(&history), []);
        for wrong in [
            [&all[..1], &all[2..]].concat(),
            [&all[..2], &all[1..]].concat(),
            [all[1].clone(), all[0].clone()].to_vec(),
        ] {
            history.watchers = vec![Watcher { told: wrong, ..Watcher::default() }];
            assert_eq!(l10(&history).len(), 1);
        }
        // A gap that it is told of is none.
        let index = all[1].2.index;
        let kind = ChangeKind::Present { held: Vec::new(), complete: false, lagged: true };
        let present = (S, 0, Change { index, kind });
        let later = all.iter().filter(|told| told.2.index > index).cloned();
        let told = std::iter::once(present).chain(later).collect();
        history.watchers = vec![Watcher { told, ..Watcher::default() }];
        assert_eq!(l10(&history), []);
    }
}
