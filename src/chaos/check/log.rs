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
    mode::Mode,
    name::Name,
    token::Token,
};

/// A grant of the log: from when, and to when. What stands in the log was committed before it was applied anywhere.
struct Grant {
    id: LeaseId,
    name: Name,
    token: Token,
    mode: Mode,
    from: Duration,
    until: Option<Duration>,
}

fn grants(history: &History) -> Vec<Grant> {
    let mut grants: Vec<Grant> = Vec::new();
    let mut places = BTreeMap::new();
    for (_, at, changed) in history.changes() {
        match &changed.change.kind {
            ChangeKind::Granted { name, token, .. } => {
                places.insert(*token, grants.len());
                let (id, name, mode) = (changed.lease_id, name.clone(), changed.mode);
                grants.push(Grant { id, name, token: *token, mode, from: at, until: None });
            }
            ChangeKind::Ended { token, .. } => {
                if let Some(grant) = places.get(token).and_then(|place| grants.get_mut(*place)) {
                    grant.until.get_or_insert(at);
                }
            }
            _ => {}
        }
    }
    grants
}

/// What a client was granted, or believes in, is in the log. Who holds a name, it is told as the log had it at some moment
/// of the call.
#[must_use]
pub fn l3(history: &History) -> Vec<Violation> {
    let grants = grants(history);
    let by_id: BTreeMap<LeaseId, &Grant> = grants.iter().map(|grant| (grant.id, grant)).collect();
    let is_granted = |id: &LeaseId, name: &Name, token: Token, at: Duration| {
        by_id.get(id).is_some_and(|grant| grant.name == *name && grant.token == token && grant.from <= at)
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
    let mut of_name: BTreeMap<&Name, Vec<&Grant>> = BTreeMap::new();
    for grant in &grants {
        of_name.entry(&grant.name).or_default().push(grant);
    }
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
                let grants = of_name.get(&call.name).map_or(&[][..], Vec::as_slice);
                if let Some(wrong) = wrong_reading(grants, call, ended, *answer) {
                    let text = format!("of {} asked at {:?}: {wrong}", call.name, call.began);
                    found.push(Violation::new("L3", ended, text));
                }
            }
            _ => {}
        }
    }
    found
}

/// Entries that were applied anywhere before the call began are in the answer; those in the answer were applied before it
/// ended, by whoever answered.
fn wrong_reading(grants: &[&Grant], call: &Call, ended: Duration, answer: Option<Token>) -> Option<String> {
    match answer {
        Some(token) => match grants.iter().find(|grant| grant.token == token) {
            None => Some(format!("the answer was token {token}, which was never granted")),
            Some(grant) if grant.from > ended => Some(format!("token {token} was granted only afterwards")),
            Some(grant) if grant.until.is_some_and(|until| until < call.began) => {
                Some(format!("the answer was token {token}, which had ended before"))
            }
            Some(_) => None,
        },
        None => {
            let through =
                |grant: &&&Grant| grant.from < call.began && grant.until.is_none_or(|until| until > ended);
            let held = grants.iter().find(through)?;
            Some(format!(
                "the answer was nobody, and token {} held it throughout ({})",
                held.token, held.mode
            ))
        }
    }
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
        let acquire = Asked::Acquire { mode: Mode::Exclusive, waits: false };
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
