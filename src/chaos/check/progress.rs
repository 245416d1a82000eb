//! Rule L6: who is next, and how soon.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Violation;
use crate::{
    change::{ChangeKind, EndKind},
    chaos::history::{Committed, History},
    id::LeaseId,
    name::{AgentName, Name},
    token::Token,
};

#[derive(Default)]
struct Slot {
    holders: BTreeSet<Token>,
    closed: bool,
    queue: Vec<LeaseId>,
    /// For whom its last revoked lease was revoked: should it close the name, that agent is let in first when it opens.
    heir: Option<AgentName>,
}

/// First come, first served, but for the heir of a transfer and for who comes back to a name that is closed to others; no
/// name is free while someone waits; and after everything was mended each name is to be had within a bound.
#[must_use]
pub fn l6(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut slots: BTreeMap<Name, Slot> = BTreeMap::new();
    for (index, entry) in &history.log {
        apply(&mut slots, *index, entry, &mut found);
    }
    for probe in &history.probes {
        let late = probe.granted.is_none_or(|granted| granted > probe.from + probe.within);
        if late {
            let text = format!(
                "{} was not to be had beside agent {} within {:?} of everything being mended: {}",
                probe.name,
                probe.agent,
                probe.within,
                probe.error.as_deref().unwrap_or("it was granted too late")
            );
            found.push(Violation::new("L6", probe.from + probe.within, text));
        }
    }
    found
}

fn apply(slots: &mut BTreeMap<Name, Slot>, index: u64, entry: &Committed, found: &mut Vec<Violation>) {
    let mut fault = |at: Duration, text: String| found.push(Violation::new("L6", at, text));
    // Heirs of this entry's ends may come before the first: those whom the holder or an operator chose, and the agent of
    // the lease that expired, which a lock delay would keep out no more than nobody.
    let is_heir = |heir: &AgentName| {
        entry.changes.iter().any(|changed| match &changed.change.kind {
            ChangeKind::Ended { how: EndKind::Transferred | EndKind::Revoked { .. }, .. } => true,
            ChangeKind::Ended { agent, how: EndKind::Expired, .. } => agent == heir,
            _ => false,
        })
    };
    let opened = entry.changes.iter().any(|changed| matches!(changed.change.kind, ChangeKind::Opened { .. }));
    for changed in &entry.changes {
        let Some(name) = changed.change.kind.name() else { continue };
        let slot = slots.entry(name.clone()).or_default();
        let id = changed.lease_id;
        match &changed.change.kind {
            ChangeKind::Queued { .. } => slot.queue.push(id),
            ChangeKind::Left { .. } => slot.queue.retain(|other| *other != id),
            ChangeKind::Granted { token, agent, .. } => {
                match slot.queue.iter().position(|other| *other == id) {
                    Some(place) => {
                        let awaited = opened && slot.heir.as_ref() == Some(agent);
                        if place > 0 && !is_heir(agent) && !awaited {
                            fault(
                                entry.at,
                                format!("entry {index} grants {name} to number {} of the queue", place + 1),
                            );
                        }
                        slot.queue.remove(place);
                    }
                    None if changed.from_queue => {
                        fault(
                            entry.at,
                            format!("entry {index} grants {name} to a waiter that does not wait"),
                        );
                    }
                    // To the agent that held it last a closed name is open.
                    None if !slot.queue.is_empty() && !opened => {
                        fault(
                            entry.at,
                            format!("entry {index} grants {name} past a queue of {}", slot.queue.len()),
                        );
                    }
                    None => {}
                }
                slot.holders.insert(*token);
            }
            ChangeKind::Ended { token, .. } => drop(slot.holders.remove(token)),
            ChangeKind::Revoked { heir, .. } => slot.heir.clone_from(heir),
            ChangeKind::Closed { .. } => slot.closed = true,
            ChangeKind::Opened { .. } => slot.closed = false,
            _ => {}
        }
    }
    for changed in &entry.changes {
        let Some((name, slot)) = changed.change.kind.name().and_then(|name| slots.get_key_value(name)) else {
            continue;
        };
        if !slot.queue.is_empty() && slot.holders.is_empty() && !slot.closed {
            fault(entry.at, format!("after entry {index} {name} is free, and {} wait", slot.queue.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::example::{S, ended, example, granted, join, queued},
        history::Probe,
    };

    #[test]
    fn whoever_overtakes_is_found() {
        let mut history = example();
        assert_eq!(l6(&history), []);
        granted(&mut history, 20, 40 * S, "b", 7);
        queued(&mut history, 21, 41 * S, "b", 8);
        queued(&mut history, 22, 42 * S, "b", 9);
        ended(&mut history, 23, 43 * S, "b", 7, EndKind::Released);
        let mut fair = history.clone();
        join(&mut fair, 23, |history| granted(history, 23, 43 * S, "b", 8));
        assert_eq!(l6(&fair), []);
        join(&mut history, 23, |history| granted(history, 23, 43 * S, "b", 9));
        assert_eq!(l6(&history).len(), 1);
    }

    #[test]
    fn a_name_that_is_free_while_someone_waits_is_found() {
        let mut history = example();
        granted(&mut history, 20, 40 * S, "b", 7);
        queued(&mut history, 21, 41 * S, "b", 8);
        ended(&mut history, 22, 43 * S, "b", 7, EndKind::Released);
        assert_eq!(l6(&history).len(), 1);
        granted(&mut history, 23, 44 * S, "b", 9);
        assert_eq!(l6(&history).len(), 2, "and granted past the queue");
    }

    #[test]
    fn a_grant_that_does_not_come_in_time_is_found() {
        let mut history = example();
        let name = Name::new("a").unwrap();
        let probe = |granted| Probe {
            name: name.clone(),
            agent: 0,
            from: 60 * S,
            within: 9 * S,
            granted,
            error: None,
        };
        history.probes = vec![probe(Some(69 * S))];
        assert_eq!(l6(&history), []);
        history.probes = vec![probe(None), probe(Some(69 * S + Duration::from_nanos(1)))];
        assert_eq!(l6(&history).len(), 2);
    }
}
