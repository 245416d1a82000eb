//! Rules L8 and L9: what the agents applied.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::{
    change::ChangeKind,
    chaos::history::{Answered, Asked, History},
    id::LeaseId,
};

/// Agents that applied the same entry were changed by it in the same way, and have the same table after it.
#[must_use]
pub fn l8(history: &History) -> Vec<Violation> {
    let (mut entries, mut tables) = (BTreeMap::new(), BTreeMap::new());
    let mut found = Vec::new();
    for applied in &history.applied {
        let (agent, index) = (applied.agent, applied.index);
        if let Some(entry) = applied.entry {
            let (first, before) = entries.entry(index).or_insert((agent, entry));
            if *before != entry {
                let text = format!(
                    "entry {index}: agent {agent} applied {:016x} of term {}, agent {first} {:016x} of term {}",
                    entry.1, entry.0, before.1, before.0
                );
                found.push(Violation::new("L8", applied.at, text));
            }
        }
        if let Some(table) = applied.table {
            let (first, before) = tables.entry(index).or_insert((agent, table));
            if *before != table {
                let text = format!("after entry {index} agent {agent} has another table than agent {first}");
                found.push(Violation::new("L8", applied.at, text));
            }
        }
    }
    found
}

/// What was acknowledged to a client is in the log by then, and in the end every agent that lives has applied it.
#[must_use]
pub fn l9(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut ended: BTreeMap<LeaseId, u64> = BTreeMap::new();
    let mut granted = BTreeMap::new();
    let mut revoked = BTreeMap::new();
    for (index, _, changed) in history.changes() {
        match &changed.change.kind {
            ChangeKind::Granted { token, .. } => drop(granted.insert(*token, index)),
            ChangeKind::Ended { token, .. } => {
                ended.entry(changed.lease_id).or_insert(index);
                revoked.entry(*token).or_insert(index);
            }
            ChangeKind::Revoked { token, .. } => drop(revoked.entry(*token).or_insert(index)),
            _ => {}
        }
    }
    // The last entry that somebody relies on.
    let mut relied_on = 0;
    for call in &history.calls {
        let Some(at) = call.ended else { continue };
        let (what, index) = match (&call.asked, &call.answer) {
            (_, Answered::Granted(_, token)) => ("the grant", granted.get(token).copied()),
            (Asked::Release(id), Answered::Done) => ("the release", ended.get(id).copied()),
            // One entry ends the lease and grants the next.
            (Asked::Transfer { id, .. }, Answered::HandedOver(next)) => {
                let index = ended.get(id).copied();
                let grants = |index: &u64| next.is_none_or(|next| granted.get(&next) == Some(index));
                ("the transfer", index.filter(grants))
            }
            (Asked::Revoke, Answered::Revoked(tokens)) => {
                let indexes: Vec<_> = tokens.iter().map(|token| revoked.get(token).copied()).collect();
                ("the revocation", indexes.into_iter().min().unwrap_or(Some(0)))
            }
            _ => continue,
        };
        match index {
            Some(index) if history.log.get(&index).is_none_or(|entry| entry.at <= at) => {
                relied_on = relied_on.max(index);
            }
            Some(index) => {
                let text = format!(
                    "{what} of {} was acknowledged to agent {} before anybody had applied entry {index}",
                    call.name, call.agent
                );
                found.push(Violation::new("L9", at, text));
            }
            None => {
                let text = format!(
                    "{what} of {} was acknowledged to agent {}, and is not in the log",
                    call.name, call.agent
                );
                found.push(Violation::new("L9", at, text));
            }
        }
    }
    let Some(mended) = history.mended else { return found };
    let mut upto = BTreeMap::new();
    for applied in &history.applied {
        let last = upto.entry(applied.agent).or_insert((0, 0));
        *last = (*last).max((applied.life, applied.index));
    }
    let dead: BTreeSet<usize> = history.left_dead.iter().copied().collect();
    for (agent, (_, index)) in upto.into_iter().filter(|(agent, _)| !dead.contains(agent)) {
        if index < relied_on {
            let text = format!(
                "in the end agent {agent} has applied {index} entries, and {relied_on} was acknowledged"
            );
            found.push(Violation::new("L9", mended, text));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::example::{S, applied, call, example, id, token},
        history::Applied,
    };
    use crate::lease::TransferTo;

    #[test]
    fn another_entry_or_another_table_is_found() {
        let mut history = example();
        assert_eq!(l8(&history), []);
        history.applied.push(Applied { entry: Some((1, 99)), ..applied(2, 3) });
        assert_eq!(l8(&history).len(), 1, "another change");
        history.applied.push(Applied { entry: Some((2, 3)), ..applied(2, 3) });
        assert_eq!(l8(&history).len(), 2, "another term");
        history.applied.push(Applied { entry: None, table: Some(1), ..applied(0, 3) });
        history.applied.push(Applied { entry: None, table: Some(1), ..applied(1, 3) });
        assert_eq!(l8(&history).len(), 2);
        history.applied.push(Applied { entry: None, table: Some(2), ..applied(2, 3) });
        assert_eq!(l8(&history).len(), 3);
    }

    #[test]
    fn an_acknowledged_operation_that_is_not_in_the_log_is_found() {
        let mut history = example();
        assert_eq!(l9(&history), []);
        let transfer = |bits| Asked::Transfer { id: id(bits), to: TransferTo::First };
        for (asked, answer) in [
            (Asked::Release(id(9)), Answered::Done),
            (transfer(9), Answered::HandedOver(None)),
            (transfer(1), Answered::HandedOver(Some(token(9)))),
            (Asked::Revoke, Answered::Revoked(vec![token(9)])),
            (Asked::Holder, Answered::Granted(id(50), token(50))),
        ] {
            let mut history = history.clone();
            history.calls.push(call(asked, 30 * S, 31 * S, answer));
            assert_eq!(l9(&history).len(), 1);
        }
        let mut early = history.clone();
        early.calls.push(call(Asked::Release(id(2)), 23 * S, 24 * S, Answered::Done));
        assert_eq!(l9(&early).len(), 1, "it is in the log, and was not when it was acknowledged");
        // Not acknowledged: nobody relies on it.
        let answer = Answered::Unknown("no leader".to_owned());
        history.calls.push(call(Asked::Release(id(9)), 30 * S, 31 * S, answer));
        assert_eq!(l9(&history), []);
    }

    #[test]
    fn an_agent_that_never_gets_what_was_acknowledged_is_found() {
        let mut history = example();
        history.applied.retain(|applied| applied.agent != 2 || applied.index < 3);
        assert_eq!(l9(&history), [], "it is not over yet");
        history.mended = Some(60 * S);
        assert_eq!(l9(&history).len(), 1);
        history.left_dead = vec![2];
        assert_eq!(l9(&history), []);
    }
}
