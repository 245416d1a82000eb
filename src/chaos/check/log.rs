//! Rules L3 and L7: what clients were told, against the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Violation;
use crate::{
    change::ChangeKind,
    chaos::history::{Answered, Asked, Call, History},
    id::LeaseId,
    name::Name,
    token::Token,
};

/// A grant of the log. What stands in the log was committed before it was applied anywhere.
struct Grant<'a> {
    name: &'a Name,
    token: Token,
    from: Duration,
}

fn grants(history: &History) -> BTreeMap<LeaseId, Grant<'_>> {
    let mut grants = BTreeMap::new();
    for (_, from, changed) in history.changes() {
        if let ChangeKind::Granted { name, token, .. } = &changed.change.kind {
            grants.entry(changed.lease_id).or_insert(Grant { name, token: *token, from });
        }
    }
    grants
}

/// What a client was granted, or believes in, is in the log. Who holds a name, it is told as the log had it at some moment
/// of the call.
#[must_use]
pub fn l3(history: &History) -> Vec<Violation> {
    let grants = grants(history);
    let is_granted = |id: &LeaseId, name: &Name, token: Token, at: Duration| {
        grants.get(id).is_some_and(|grant| grant.name == name && grant.token == token && grant.from <= at)
    };
    let mut found = Vec::new();
    for belief in &history.beliefs {
        if !is_granted(&belief.lease_id, &belief.name, belief.token, belief.from) {
            let text = format!(
                "agent {} believes in {} with token {}, which no entry granted until then",
                belief.agent, belief.name, belief.token
            );
            found.push(Violation::new("L3", belief.from, text));
        }
    }
    let (states, nobody) = (states(history), [State::default()]);
    for call in &history.calls {
        let Some(ended) = call.ended else { continue };
        match &call.answer {
            Answered::Granted(id, token) if !is_granted(id, &call.name, *token, ended) => {
                let text = format!(
                    "a client got {} with token {token}, which no entry granted until then",
                    call.name
                );
                found.push(Violation::new("L3", ended, text));
            }
            Answered::Holder(answer) => {
                let states = states.get(&call.name).map_or(&nobody[..], Vec::as_slice);
                if let Some(wrong) = wrong_reading(states, call, ended, *answer) {
                    let text = format!("of {} asked at {:?}: {wrong}", call.name, call.began);
                    found.push(Violation::new("L3", ended, text));
                }
            }
            _ => {}
        }
    }
    found
}

/// Who held a name after an entry that changed that, until the next one: from when that entry was applied anywhere.
#[derive(Default)]
pub(super) struct State {
    pub(super) index: u64,
    from: Duration,
    pub(super) holders: BTreeSet<Token>,
}

/// For each name, in the order of the log, from when nobody held it.
pub(super) type States<'a> = BTreeMap<&'a Name, Vec<State>>;

pub(super) fn states(history: &History) -> States<'_> {
    let mut states = States::new();
    for (index, entry) in &history.log {
        let mut after: BTreeMap<&Name, BTreeSet<Token>> = BTreeMap::new();
        for changed in &entry.changes {
            let Some(name) = changed.change.kind.name() else { continue };
            let before = || states.get(name).and_then(|all| all.last()).map(|state| state.holders.clone());
            let holders = after.entry(name).or_insert_with(|| before().unwrap_or_default());
            match &changed.change.kind {
                ChangeKind::Granted { token, .. } => drop(holders.insert(*token)),
                ChangeKind::Ended { token, .. } => drop(holders.remove(token)),
                _ => {}
            }
        }
        for (name, holders) in after {
            let all = states.entry(name).or_insert_with(|| vec![State::default()]);
            all.push(State { index: *index, from: entry.at, holders });
        }
    }
    states
}

/// Entries that were applied anywhere before the call began are in the answer; those in the answer were applied before it
/// ended, by whoever answered. So the answer is one of the states that were there in between; an entry that hands a name
/// over leaves no moment at which nobody has it.
fn wrong_reading(states: &[State], call: &Call, ended: Duration, answer: Option<Token>) -> Option<String> {
    let goes_on = |at: usize| states.get(at + 1).is_none_or(|next| next.from >= call.began);
    let meanwhile = states.iter().enumerate().filter(|(at, state)| goes_on(*at) && state.from <= ended);
    let had: Vec<_> = meanwhile.map(|(_, state)| &state.holders).collect();
    let is_true = |holders: &&BTreeSet<Token>| match answer {
        Some(token) => holders.contains(&token),
        None => holders.is_empty(),
    };
    if had.iter().any(is_true) {
        return None;
    }
    let answer = answer.map_or("nobody".to_owned(), |token| format!("token {token}"));
    Some(format!("the answer was {answer}, and meanwhile it was held by {had:?}"))
}

/// An acquisition is queued once, granted once, and neither after its end.
#[must_use]
pub fn l7(history: &History) -> Vec<Violation> {
    let (mut queued, mut granted, mut over) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut found = Vec::new();
    for (index, at, changed) in history.changes() {
        let id = changed.lease_id;
        let wrong = match &changed.change.kind {
            ChangeKind::Queued { .. } if over.contains(&id) => Some("is queued after its end"),
            ChangeKind::Queued { .. } if granted.contains(&id) => Some("is queued, and was granted before"),
            ChangeKind::Queued { .. } => (!queued.insert(id)).then_some("is queued twice"),
            ChangeKind::Granted { .. } if over.contains(&id) => Some("is granted after its end"),
            ChangeKind::Granted { .. } => (!granted.insert(id)).then_some("is granted twice"),
            ChangeKind::Ended { .. } | ChangeKind::Left { .. } => (!over.insert(id)).then_some("ends twice"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            let name = changed.change.kind.name().map_or("", Name::as_str);
            found.push(Violation::new(
                "L7",
                at,
                format!("entry {index}: acquisition {id} of {name} {wrong}"),
            ));
        }
    }
    for call in &history.calls {
        let (Asked::Acquire { .. }, Answered::Granted(id, token), Some(ended)) =
            (&call.asked, &call.answer, call.ended)
        else {
            continue;
        };
        let same = history.calls.iter().filter(|other| other.answer == Answered::Granted(*id, *token));
        if same.count() > 1 {
            found.push(Violation::new(
                "L7",
                ended,
                format!("acquisition {id} was handed out more than once"),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::EndKind,
        chaos::check::example::{S, belief, call, ended, example, granted, id, queued, token},
    };

    #[test]
    fn what_no_entry_granted_is_found() {
        let mut history = example();
        assert_eq!(l3(&history), []);
        history.beliefs.push(belief(1, "b", 77, 30 * S, 31 * S));
        assert_eq!(l3(&history).len(), 1);
        let acquire = Asked::Acquire { mode: crate::Mode::Exclusive, waits: false };
        history.calls.push(call(acquire, 30 * S, 31 * S, Answered::Granted(id(78), token(78))));
        assert_eq!(l3(&history).len(), 2);
    }

    #[test]
    fn an_old_answer_to_a_reader_is_found() {
        let mut history = example();
        granted(&mut history, 20, 40 * S, "a", 5);
        ended(&mut history, 21, 50 * S, "a", 5, EndKind::Released);
        let mut look = |began, ended, answer| {
            history.calls = vec![call(Asked::Holder, began, ended, Answered::Holder(answer))];
            l3(&history).len()
        };
        assert_eq!(look(41 * S, 42 * S, Some(token(5))), 0);
        assert_eq!(look(41 * S, 42 * S, None), 1, "it was held throughout");
        assert_eq!(look(39 * S, 42 * S, None), 0, "it was granted meanwhile");
        assert_eq!(look(51 * S, 52 * S, Some(token(5))), 1, "it had ended before");
        assert_eq!(look(49 * S, 52 * S, Some(token(5))), 0, "it ended meanwhile");
        assert_eq!(look(30 * S, 39 * S, Some(token(5))), 1, "it was granted afterwards");
        assert_eq!(look(41 * S, 42 * S, Some(token(99))), 1, "it never was");
    }

    #[test]
    fn nobody_is_no_answer_while_one_entry_hands_over() {
        // "a" goes from 1 to 2 by the entry at 20 s, and 2 is released at 25 s.
        let look = |began: u32, ended: u32, answer| {
            let mut history = example();
            history.calls.push(call(Asked::Holder, began * S, ended * S, Answered::Holder(answer)));
            l3(&history).len()
        };
        assert_eq!((look(19, 21, Some(token(1))), look(19, 21, Some(token(2)))), (0, 0));
        assert_eq!((look(19, 21, None), look(19, 26, None), look(26, 27, None)), (1, 0, 0));
    }

    #[test]
    fn an_acquisition_that_comes_back_to_life_is_found() {
        let mut history = example();
        assert_eq!(l7(&history), []);
        granted(&mut history, 20, 40 * S, "a", 1);
        assert_eq!(l7(&history).len(), 1, "granted after its end");
        let mut history = example();
        queued(&mut history, 20, 40 * S, "a", 1);
        assert_eq!(l7(&history).len(), 1, "queued after its end");
        let mut history = example();
        queued(&mut history, 20, 40 * S, "b", 9);
        queued(&mut history, 21, 40 * S, "b", 9);
        assert_eq!(l7(&history).len(), 1, "queued twice");
    }
}
