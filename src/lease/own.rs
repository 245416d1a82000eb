//! What this process itself holds or waits for, by name.
//!
//! Whoever waits for a name that its own process holds may wait for itself: no expiry ends that, because the lease is
//! renewed meanwhile. So it is told instead, before anything is asked. Nothing here decides what is safe: the cluster
//! takes two acquisitions of one agent for what they are, two.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{Grant, acquire::Holding, held::Held};
use crate::{name::Name, token::Token};

/// See the file's head.
#[derive(Default)]
pub(crate) struct Own {
    state: Mutex<State>,
}

/// Neither map has more entries than the process has leases in hand and calls under way.
#[derive(Default)]
struct State {
    /// The leases in hand. One that is lost is none, although its value is still there.
    leases: BTreeMap<(Name, Token), OwnLease>,
    /// The calls that wait, by their numbers, and whether they ask for an exclusive lease.
    calls: BTreeMap<(Name, u64), bool>,
    /// The number of the last call.
    numbers: u64,
}

struct OwnLease {
    held: Weak<Held>,
    exclusive: bool,
}

/// What of this process's own is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InTheWay {
    /// A lease that is held.
    Lease(Token),
    /// Another call that waits.
    Call,
}

/// A call that waits; until it is dropped.
pub(super) struct Call {
    holding: Arc<Holding>,
    name: Name,
    number: u64,
}

impl Own {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hold(&self, grant: &Grant, held: &Arc<Held>, exclusive: bool) {
        let lease = OwnLease { held: Arc::downgrade(held), exclusive };
        self.lock().leases.insert((grant.name.clone(), grant.token), lease);
    }

    /// The lease is in hand no more. One that came back from a handover is another value, and stays.
    pub(super) fn let_go(&self, grant: &Grant, held: &Arc<Held>) {
        let key = (grant.name.clone(), grant.token);
        let leases = &mut self.lock().leases;
        if leases.get(&key).is_some_and(|lease| std::ptr::eq(lease.held.as_ptr(), Arc::as_ptr(held))) {
            leases.remove(&key);
        }
    }

    /// The oldest lease on the name that is held here.
    pub(super) fn held(&self, name: &Name) -> Option<Token> {
        self.lock().held(name, |_| true)
    }

    /// A call begins to wait. `beside`: whatever else of this process's own is there.
    pub(super) fn wait(
        holding: &Arc<Holding>,
        name: &Name,
        exclusive: bool,
        beside: bool,
    ) -> Result<Call, InTheWay> {
        let mut state = holding.own.lock();
        if let Some(in_the_way) = state.in_the_way(name, exclusive).filter(|_| !beside) {
            return Err(in_the_way);
        }
        state.numbers += 1;
        let number = state.numbers;
        state.calls.insert((name.clone(), number), exclusive);
        Ok(Call { holding: holding.clone(), name: name.clone(), number })
    }
}

impl State {
    /// Those who share a name wait for each other only if somebody else waits between them, which the cluster tells.
    fn in_the_way(&self, name: &Name, exclusive: bool) -> Option<InTheWay> {
        if let Some(token) = self.held(name, |lease| exclusive || lease.exclusive) {
            return Some(InTheWay::Lease(token));
        }
        let mut calls = self.calls.range((name.clone(), 0)..=(name.clone(), u64::MAX));
        calls.any(|(_, other)| exclusive || *other).then_some(InTheWay::Call)
    }

    fn held(&self, name: &Name, counts: impl Fn(&OwnLease) -> bool) -> Option<Token> {
        let mut leases =
            self.leases.range((name.clone(), Token::new(0))..=(name.clone(), Token::new(u64::MAX)));
        let held = |lease: &OwnLease| lease.held.upgrade().is_some_and(|held| held.check().is_ok());
        leases.find(|(_, lease)| counts(lease) && held(lease)).map(|((_, token), _)| *token)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.holding.own.lock().calls.remove(&(self.name.clone(), self.number));
    }
}
