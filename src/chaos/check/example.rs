//! A small history in which everything is in order, for tests that spoil it; and what it is made of.
//!
//! "a" is granted to acquisition 1 at 1 s; 2 queues at 2 s; at 20 s 1 is expired, and 2 granted; 2 is released at 25 s.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    change::{Change, ChangeKind, EndKind},
    chaos::history::{Answered, Applied, Asked, Belief, Call, Changed, Committed, History},
    id::LeaseId,
    mode::Mode,
    name::{AgentName, Name},
    session::LossReason,
    token::Token,
};

pub(crate) const S: Duration = Duration::from_secs(1);

pub(crate) fn id(bits: u64) -> LeaseId {
    LeaseId::from_bits(bits.into())
}

pub(crate) fn token(bits: u64) -> Token {
    Token::new(bits)
}

fn agent() -> AgentName {
    AgentName::new("agent-0").unwrap()
}

pub(crate) fn enter(history: &mut History, index: u64, at: Duration, bits: u64, kind: ChangeKind) {
    let from_queue = matches!(kind, ChangeKind::Granted { .. })
        && history.changes().any(|(_, _, changed)| {
            changed.lease_id == id(bits) && matches!(changed.change.kind, ChangeKind::Queued { .. })
        });
    let changed = Changed {
        change: Change { index, kind },
        lease_id: id(bits),
        from_queue,
        mode: Mode::Exclusive,
        lock_delay: Duration::ZERO,
    };
    let entry = Committed { term: 1, at, digest: index, changes: vec![changed] };
    history.log.insert(index, entry);
}

/// The last change of this entry is of this agent.
pub(crate) fn by_agent(history: &mut History, index: u64, name: &str) {
    let changed = history.log.get_mut(&index).and_then(|entry| entry.changes.last_mut()).unwrap();
    if let ChangeKind::Queued { agent, .. } | ChangeKind::Granted { agent, .. } = &mut changed.change.kind {
        *agent = AgentName::new(name).unwrap();
    }
}

/// What this enters comes into the entry that is there, after what it has.
pub(crate) fn join(history: &mut History, index: u64, enter: impl FnOnce(&mut History)) {
    let before = history.log.get(&index).map(|entry| entry.changes.clone()).unwrap_or_default();
    enter(history);
    let entry = history.log.get_mut(&index).unwrap();
    entry.changes.splice(0..0, before);
}

/// An entry grants it; token and acquisition have the same number.
pub(crate) fn granted(history: &mut History, index: u64, at: Duration, name: &str, bits: u64) {
    let (name, metadata) = (Name::new(name).unwrap(), Bytes::new());
    let kind = ChangeKind::Granted { name, agent: agent(), token: token(bits), ttl: 10 * S, metadata };
    enter(history, index, at, bits, kind);
}

pub(crate) fn queued(history: &mut History, index: u64, at: Duration, name: &str, bits: u64) {
    let name = Name::new(name).unwrap();
    enter(history, index, at, bits, ChangeKind::Queued { name, agent: agent() });
}

pub(crate) fn ended(history: &mut History, index: u64, at: Duration, name: &str, bits: u64, how: EndKind) {
    let name = Name::new(name).unwrap();
    enter(history, index, at, bits, ChangeKind::Ended { name, agent: agent(), token: token(bits), how });
}

pub(crate) fn belief(agent: usize, name: &str, bits: u64, from: Duration, seen: Duration) -> Belief {
    let over = seen + Duration::from_nanos(1);
    Belief {
        over: Some(over),
        told: vec![LossReason::Released],
        told_at: Some(over),
        given_up: true,
        ..Belief::seen(agent, Name::new(name).unwrap(), token(bits), Mode::Exclusive, (from, seen))
    }
}

pub(crate) fn call(asked: Asked, began: Duration, ended: Duration, answer: Answered) -> Call {
    Call { agent: 0, name: Name::new("a").unwrap(), asked, began, ended: Some(ended), answer }
}

pub(crate) fn applied(agent: usize, index: u64) -> Applied {
    Applied { at: Duration::from_secs(index), agent, life: 1, index, entry: Some((1, index)), table: None }
}

pub(crate) fn example() -> History {
    let mut history = History { agents: 3, drift_bounded: true, ..History::default() };
    granted(&mut history, 1, S, "a", 1);
    queued(&mut history, 2, 2 * S, "a", 2);
    ended(&mut history, 3, 20 * S, "a", 1, EndKind::Expired);
    join(&mut history, 3, |history| granted(history, 3, 20 * S, "a", 2));
    ended(&mut history, 4, 25 * S, "a", 2, EndKind::Released);
    let acquire = Asked::Acquire { mode: Mode::Exclusive, waits: true };
    history.calls = vec![
        call(acquire.clone(), Duration::ZERO, S, Answered::Granted(id(1), token(1))),
        call(acquire, S, 21 * S, Answered::Granted(id(2), token(2))),
        call(Asked::Release(id(2)), 24 * S, 26 * S, Answered::Done),
    ];
    // The first one was cut off.
    history.beliefs = vec![belief(0, "a", 1, S, 19 * S), belief(1, "a", 2, 21 * S, 24 * S)];
    history.applied = (0..3).flat_map(|agent| (1..=4).map(move |index| applied(agent, index))).collect();
    history
}
