//! Rule L6: who is next, and how soon.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Violation;
use crate::{
    change::{ChangeKind, EndKind},
    chaos::history::{Asked, Changed, Committed, History},
    id::LeaseId,
    lease::TransferTo,
    mode::Mode,
    name::{AgentName, Name},
    token::Token,
};

/// A name, as the log has it.
#[derive(Default)]
struct Slot {
    /// Their modes and lock delays.
    holders: BTreeMap<Token, (Mode, Duration)>,
    closed: Option<Closure>,
    queue: Vec<Waiter>,
    /// The leases that were revoked, and for whom.
    revoked: BTreeMap<Token, Option<AgentName>>,
}

struct Waiter {
    id: LeaseId,
    agent: AgentName,
    mode: Mode,
}

struct Closure {
    at: Duration,
    delay: Duration,
    /// To it the name is open, unless its lease was revoked.
    agent: AgentName,
    token: Token,
}

impl Slot {
    fn first_of(&self, agent: &AgentName) -> Option<LeaseId> {
        self.queue.iter().find(|waiter| waiter.agent == *agent).map(|waiter| waiter.id)
    }

    /// Whether a lease of this mode may stand beside those that are there.
    fn has_room(&self, mode: Mode) -> bool {
        self.holders.values().all(|(other, _)| mode.fits_beside(*other, self.holders.len()))
    }
}

/// First come, first served, but for the heir of a transfer or a revocation and for who comes back to a name that is closed
/// to others; a closed name opens when its delay is over; no name has room while someone waits who would fit; and after
/// everything was mended each name is to be had within a bound.
#[must_use]
pub fn l6(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut slots: BTreeMap<Name, Slot> = BTreeMap::new();
    for (index, entry) in &history.log {
        let fault = |text: String| Violation::new("L6", entry.at, format!("entry {index} {text}"));
        found.extend(apply(&mut slots, entry, history).into_iter().map(fault));
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

/// Applies an entry, and tells what it may not do.
fn apply(slots: &mut BTreeMap<Name, Slot>, entry: &Committed, history: &History) -> Vec<String> {
    let mut faults = Vec::new();
    // Who may be granted a name by this entry before the first of its queue.
    let mut heirs = BTreeSet::new();
    // Names that it opened, and whether before their time: for the agent that held them last alone.
    let mut opened: BTreeMap<&Name, (Closure, bool)> = BTreeMap::new();
    for changed in &entry.changes {
        let Some(name) = changed.change.kind.name() else { continue };
        let slot = slots.entry(name.clone()).or_default();
        let id = changed.lease_id;
        match &changed.change.kind {
            ChangeKind::Queued { agent, .. } => {
                slot.queue.push(Waiter { id, agent: agent.clone(), mode: changed.mode });
            }
            ChangeKind::Left { .. } => slot.queue.retain(|other| other.id != id),
            ChangeKind::Granted { token, agent, .. } => {
                let comes_back = opened.remove(name).is_some_and(|(closure, early)| {
                    let is_it = closure.agent == *agent && !slot.revoked.contains_key(&closure.token);
                    if early && !is_it {
                        faults.push(format!("opens {name} for {agent} before its lock delay is over"));
                    }
                    is_it
                });
                if let Some(closure) = &slot.closed {
                    faults.push(format!("grants {name} to {agent}, and it is closed by {}", closure.agent));
                }
                if !slot.has_room(changed.mode) {
                    let beside = slot.holders.keys().map(Token::to_string).collect::<Vec<_>>().join(", ");
                    faults.push(format!("grants {name} with token {token} beside {beside}"));
                }
                let place = slot.queue.iter().position(|other| other.id == id);
                match place {
                    Some(place) if place > 0 && !heirs.contains(&id) => {
                        faults.push(format!("grants {name} to number {} of the queue", place + 1));
                    }
                    None if changed.from_queue => {
                        faults.push(format!("grants {name} to a waiter that does not wait"));
                    }
                    None if !slot.queue.is_empty() && !comes_back => {
                        faults.push(format!("grants {name} past a queue of {}", slot.queue.len()));
                    }
                    _ => {}
                }
                slot.queue.retain(|other| other.id != id);
                slot.holders.insert(*token, (changed.mode, changed.lock_delay));
            }
            ChangeKind::Ended { token, agent, how, .. } => {
                let lock_delay = slot.holders.remove(token).map_or(Duration::ZERO, |(_, delay)| delay);
                match how {
                    EndKind::Transferred => heirs.extend(chosen(slot, history, id)),
                    EndKind::Revoked { .. } => {
                        let heir = slot.revoked.get(token).cloned().flatten();
                        heirs.extend(heir.and_then(|heir| slot.first_of(&heir)));
                    }
                    EndKind::Expired if !lock_delay.is_zero() => {
                        let closes = |other: &Changed| matches!(&other.change.kind, ChangeKind::Closed { token: closes, .. } if closes == token);
                        // Its agent had come back and waited: to it the name was open.
                        match slot.first_of(agent) {
                            _ if entry.changes.iter().any(closes) => {}
                            Some(back) => drop(heirs.insert(back)),
                            None => faults
                                .push(format!("leaves {name} open, and its lock delay is {lock_delay:?}")),
                        }
                    }
                    _ => {}
                }
            }
            ChangeKind::Revoked { token, heir, .. } => drop(slot.revoked.insert(*token, heir.clone())),
            ChangeKind::Closed { agent, token, delay, .. } => {
                let (at, agent) = (entry.at, agent.clone());
                slot.closed = Some(Closure { at, delay: *delay, agent, token: *token });
            }
            ChangeKind::Opened { .. } => {
                let Some(closure) = slot.closed.take() else { continue };
                let heir = slot.revoked.get(&closure.token).cloned().flatten();
                heirs.extend(heir.and_then(|heir| slot.first_of(&heir)));
                let early = history.drift_bounded && entry.at < closure.at + closure.delay;
                opened.insert(name, (closure, early));
            }
            ChangeKind::Present { .. } => {}
        }
    }
    let early = opened.iter().filter(|(_, (_, early))| *early);
    faults.extend(early.map(|(name, _)| format!("opens {name} before its lock delay is over")));
    let names: BTreeSet<&Name> =
        entry.changes.iter().filter_map(|changed| changed.change.kind.name()).collect();
    for (name, slot) in names.into_iter().filter_map(|name| slots.get_key_value(name)) {
        let waits = slot.queue.first().filter(|first| slot.closed.is_none() && slot.has_room(first.mode));
        if let Some(first) = waits {
            faults.push(format!("leaves room on {name} for {}, who waits", first.agent));
        }
    }
    faults
}

/// Whom the holder of this lease chose, if the client is known that did; else whomever it may have chosen.
fn chosen(slot: &Slot, history: &History, lease: LeaseId) -> Vec<LeaseId> {
    let asked = history.calls.iter().filter_map(|call| match &call.asked {
        Asked::Transfer { id, to } if *id == lease => Some(to),
        _ => None,
    });
    let asked: Vec<&TransferTo> = asked.collect();
    let may =
        |waiter: &&Waiter| asked.is_empty() || asked.contains(&&TransferTo::Agent(waiter.agent.clone()));
    slot.queue.iter().filter(may).filter_map(|waiter| slot.first_of(&waiter.agent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::example::{S, by_agent, call, ended, enter, example, granted, id, join, queued, token},
        history::{Answered, Probe},
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

    /// Three wait for "b": 8 and 10 of agent-0, and 9 of agent-1; entry 24 ends the lease of 7 in this way, and grants this.
    fn heir(how: EndKind, heir: u64) -> usize {
        let mut history = example();
        let revokes = matches!(how, EndKind::Revoked { .. });
        granted(&mut history, 20, 40 * S, "b", 7);
        for (index, bits) in [(21, 8), (22, 9), (23, 10)] {
            queued(&mut history, index, 41 * S, "b", bits);
        }
        by_agent(&mut history, 22, "agent-1");
        let agent = AgentName::new("agent-1").unwrap();
        let (name, reason) = (Name::new("b").unwrap(), String::new());
        if revokes {
            let kind = ChangeKind::Revoked {
                name,
                agent: agent.clone(),
                token: token(7),
                by: agent.clone(),
                reason,
                heir: Some(agent),
            };
            join(&mut history, 23, |history| enter(history, 23, 41 * S, 7, kind));
        }
        ended(&mut history, 24, 50 * S, "b", 7, how);
        join(&mut history, 24, |history| granted(history, 24, 50 * S, "b", heir));
        l6(&history).len()
    }

    #[test]
    fn only_the_heir_comes_before_the_first() {
        let revoked = || EndKind::Revoked { by: AgentName::new("agent-2").unwrap(), reason: String::new() };
        assert_eq!((heir(revoked(), 8), heir(revoked(), 9), heir(revoked(), 10)), (0, 0, 1));
        // To whom it was handed over is not known here: to the first, or to the first of an agent.
        let given = || EndKind::Transferred;
        assert_eq!((heir(given(), 8), heir(given(), 9), heir(given(), 10)), (0, 0, 1));
        assert_eq!((heir(EndKind::Released, 8), heir(EndKind::Released, 9)), (0, 1));
        // Without a lock delay its own agent is one among others.
        assert_eq!((heir(EndKind::Expired, 8), heir(EndKind::Expired, 10)), (0, 1));
    }

    #[test]
    fn whom_a_client_chose_is_its_heir_and_nobody_else() {
        let look = |to: TransferTo, heir: u64| {
            let mut history = example();
            granted(&mut history, 20, 40 * S, "b", 7);
            queued(&mut history, 21, 41 * S, "b", 8);
            queued(&mut history, 22, 41 * S, "b", 9);
            by_agent(&mut history, 22, "agent-1");
            let answer = Answered::HandedOver(Some(token(heir)));
            history.calls.push(call(Asked::Transfer { id: id(7), to }, 42 * S, 43 * S, answer));
            ended(&mut history, 23, 43 * S, "b", 7, EndKind::Transferred);
            join(&mut history, 23, |history| granted(history, 23, 43 * S, "b", heir));
            l6(&history).len()
        };
        assert_eq!((look(TransferTo::First, 8), look(TransferTo::First, 9)), (0, 1));
        let to = TransferTo::Agent(AgentName::new("agent-1").unwrap());
        assert_eq!(look(to, 9), 0);
    }

    /// A lease on "b" with a lock delay of 5 s expires at 50 s; then this.
    fn after_a_closure(then: impl FnOnce(&mut History)) -> usize {
        let mut history = example();
        granted(&mut history, 20, 40 * S, "b", 7);
        history.log.get_mut(&20).unwrap().changes[0].lock_delay = 5 * S;
        ended(&mut history, 21, 50 * S, "b", 7, EndKind::Expired);
        let (name, agent) = (Name::new("b").unwrap(), AgentName::new("agent-0").unwrap());
        let closed = ChangeKind::Closed { name, agent, token: token(7), delay: 5 * S };
        join(&mut history, 21, |history| enter(history, 21, 50 * S, 7, closed));
        then(&mut history);
        l6(&history).len()
    }

    fn opened(history: &mut History, index: u64, at: Duration) {
        enter(history, index, at, 7, ChangeKind::Opened { name: Name::new("b").unwrap() });
    }

    #[test]
    fn a_closed_name_opens_when_its_delay_is_over_or_for_whom_it_is_open() {
        assert_eq!(after_a_closure(|_| ()), 0);
        assert_eq!(after_a_closure(|history| opened(history, 22, 55 * S)), 0);
        assert_eq!(after_a_closure(|history| opened(history, 22, 55 * S - Duration::from_nanos(1))), 1);
        assert_eq!(after_a_closure(|history| granted(history, 22, 60 * S, "b", 8)), 1, "it is closed");
        let comes_back = |agent: &'static str, at: Duration| {
            after_a_closure(|history| {
                queued(history, 22, 51 * S, "b", 9);
                opened(history, 23, at);
                join(history, 23, |history| granted(history, 23, at, "b", 8));
                by_agent(history, 23, agent);
            })
        };
        assert_eq!((comes_back("agent-0", 52 * S), comes_back("agent-0", 56 * S)), (0, 0));
        assert_eq!(comes_back("agent-1", 52 * S), 2, "too early, and past the queue");
        assert_eq!(comes_back("agent-1", 56 * S), 1, "past the queue");
    }

    #[test]
    fn a_name_that_is_left_open_in_spite_of_a_lock_delay_is_found() {
        let mut history = example();
        granted(&mut history, 20, 40 * S, "b", 7);
        ended(&mut history, 21, 50 * S, "b", 7, EndKind::Expired);
        assert_eq!(l6(&history), []);
        history.log.get_mut(&20).unwrap().changes[0].lock_delay = 5 * S;
        assert_eq!(l6(&history).len(), 1);
    }

    #[test]
    fn room_that_is_left_while_someone_waits_is_found_and_room_that_there_is_not() {
        let permits = |of: u32, holders: &[u64]| {
            let mut history = example();
            let mode = Mode::Permits { of };
            for bits in holders {
                granted(&mut history, 20 + bits, 40 * S, "b", *bits);
                history.log.get_mut(&(20 + bits)).unwrap().changes[0].mode = mode;
            }
            queued(&mut history, 40, 41 * S, "b", 19);
            history.log.get_mut(&40).unwrap().changes[0].mode = mode;
            l6(&history).len()
        };
        assert_eq!((permits(2, &[7, 8]), permits(2, &[7]), permits(3, &[7, 8])), (0, 1, 1));
        assert_eq!(permits(2, &[7, 8, 9]), 1, "one more than there are");
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
