//! What must hold after every entry, numbered; assertions, tests and checkers cite the numbers.
//!
//! | number | always | serves |
//! | --- | --- | --- |
//! | 1 | a name's leases and their lease ids point at each other; no id holds twice | L1 |
//! | 2 | a waiter's lease id points at its place, the first in a queue has to wait, and the counts agree | L6 |
//! | 3 | no live id is remembered as ended, nor closes a name | L7 |
//! | 4 | no two leases share a token; a larger token was granted by no earlier entry; none is above the last one | L2, L3 |
//! | 5 | the memory of ended ids is within its bound, in order, and reaches back to the horizon | L7 |
//! | 6 | every ttl, metadata, reason, queue and count is within its limit | L8 |
//! | 7 | a queue is in the order of the entries that queued; nothing is newer than the last applied entry | L3, L6 |
//! | 8 | who holds a name together may; a name is held or closed, not both and not neither | L1 |

use super::{
    Place, Table,
    apply::{LOCK_DELAY_MS_MAX, TTL_MS_MAX},
};
use crate::{
    limits::{METADATA_BYTES_MAX, REASON_BYTES_MAX},
    mode::Mode,
};

/// A broken invariant: a defect of the program, or a forged snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {number} is broken: {detail}")]
pub(crate) struct Violation {
    /// Its number in `invariants.rs`.
    pub number: u8,
    /// What was found.
    pub detail: String,
}

fn require(holds: bool, number: u8, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { number, detail: detail() }) }
}

impl Table {
    /// Checks all of them, in O(n log n).
    ///
    /// # Errors
    /// The first [`Violation`] that is found.
    pub(crate) fn check_invariants(&self) -> Result<(), Violation> {
        self.check_places()?;
        self.check_tokens()?;
        self.ended.check(self.applied).map_err(|detail| Violation { number: 5, detail })?;
        self.check_limits()?;
        self.check_order()?;
        self.check_modes()
    }

    /// 1, 2 and 3.
    fn check_places(&self) -> Result<(), Violation> {
        let (mut holding, mut waiting, mut closed) = (0, 0, 0);
        for (name, slot) in &self.names {
            for lease in slot.holders.iter() {
                let id = lease.lease_id;
                let place = self.live.get(&id);
                let holds =
                    matches!(place, Some(Place::Holds(of, token)) if of == name && *token == lease.token);
                require(holds, 1, || format!("{name} is held by {id}, which doesn't know"))?;
                holding += 1;
            }
            for (ticket, waiter) in slot.queue.tickets() {
                let id = waiter.lease_id;
                let place = self.live.get(&id);
                let waits = matches!(place, Some(Place::Waits(of, at)) if of == name && *at == ticket);
                require(waits, 2, || format!("{id} is queued for {name}, which it doesn't know"))?;
                let open_to_it =
                    slot.closure.as_ref().is_some_and(|closed| closed.is_open_to(&waiter.holder.agent));
                require(!open_to_it, 2, || format!("{id} waits for {name}, which is open to it"))?;
                waiting += 1;
            }
            let first = slot.queue.first();
            require(first.is_none_or(|first| !slot.lets_in(first.mode, None)), 2, || {
                format!("the first to wait for {name} might have it")
            })?;
            if let Some(closure) = &slot.closure {
                let id = closure.lease_id;
                require(self.closures.get(&id) == Some(name), 1, || format!("{name} is closed by {id}"))?;
                closed += 1;
            }
        }
        require(self.waiting == waiting, 2, || format!("{} said to wait, {waiting} do", self.waiting))?;
        // Each place was found from its own name above, so equal numbers mean that no id points elsewhere.
        let places = holding + waiting;
        require(self.live.len() == places, 1, || format!("{} live ids, {places} places", self.live.len()))?;
        let closures = self.closures.len();
        require(closures == closed, 1, || format!("{closures} said to be closed, {closed} are"))?;
        let mut ids = self.live.iter().map(|(id, _)| id);
        let undead = ids.find(|id| self.ended.get(id).is_some() || self.closures.contains_key(id));
        require(undead.is_none(), 3, || format!("{undead:?} is live, and has ended"))
    }

    /// 4.
    fn check_tokens(&self) -> Result<(), Violation> {
        let mut grants: Vec<_> = Vec::new();
        for slot in self.names.values() {
            grants.extend(slot.holders.iter().map(|lease| (lease.token, lease.granted_at_index)));
        }
        grants.sort_unstable();
        for pair in grants.windows(2) {
            if let [(token, index), (next_token, next_index)] = pair {
                require(token < next_token && index <= next_index, 4, || {
                    format!("token {token} was granted at {index}, token {next_token} at {next_index}")
                })?;
            }
        }
        let mut largest = grants.last().map(|(token, _)| *token);
        for closed in self.names.values().filter_map(|slot| slot.closure.as_ref()) {
            require(closed.token <= closed.key, 4, || {
                format!("the key {} of a closed name is below its token {}", closed.key, closed.token)
            })?;
            largest = largest.max(Some(closed.key));
        }
        require(largest <= self.last_token, 4, || {
            format!("token {largest:?} was granted, the last one is said to be {:?}", self.last_token)
        })
    }

    /// 6.
    fn check_limits(&self) -> Result<(), Violation> {
        let load = self.load();
        require(load <= self.bounds.leases, 6, || format!("{load} leases, waiters and closed names"))?;
        for (name, slot) in &self.names {
            let waiters = slot.queue.len();
            require(waiters <= self.bounds.waiters_per_name, 6, || format!("{waiters} wait for {name}"))?;
            let held = slot.holders.iter().map(|lease| {
                (lease.lease_id, lease.ttl_ms, lease.metadata.len(), lease.mode, lease.lock_delay_ms)
            });
            let waiting =
                slot.queue.iter().map(|w| (w.lease_id, w.ttl_ms, w.metadata.len(), w.mode, w.lock_delay_ms));
            for (id, ttl_ms, metadata, mode, delay_ms) in held.chain(waiting) {
                let fits = (1..=TTL_MS_MAX).contains(&ttl_ms) && metadata <= METADATA_BYTES_MAX;
                require(fits, 6, || format!("{id} has a ttl of {ttl_ms} ms, {metadata} bytes of metadata"))?;
                let delays = delay_ms == 0 || mode == Mode::Exclusive && delay_ms <= LOCK_DELAY_MS_MAX;
                require(mode.is_valid() && delays, 6, || {
                    format!("{id} is {mode}, with a lock delay of {delay_ms} ms")
                })?;
            }
            let delay_ms = slot.closure.as_ref().map_or(1, |closed| closed.delay_ms);
            require((1..=LOCK_DELAY_MS_MAX).contains(&delay_ms), 6, || {
                format!("{name} is closed for {delay_ms} ms")
            })?;
            for reason in slot
                .holders
                .iter()
                .filter_map(|lease| lease.revoked.as_ref())
                .chain(slot.closure.iter().filter_map(|closed| closed.revocation.as_ref()))
                .map(|r| &r.reason)
            {
                let fits = reason.len() <= REASON_BYTES_MAX && !reason.chars().any(char::is_control);
                require(fits, 6, || format!("a reason of {} bytes: {reason:?}", reason.len()))?;
            }
        }
        Ok(())
    }

    /// 7.
    fn check_order(&self) -> Result<(), Violation> {
        for (name, slot) in &self.names {
            let granted = slot.holders.iter().map(|lease| lease.granted_at_index);
            let closed = slot.closure.iter().map(|closed| closed.closed_at_index);
            for index in granted.chain(closed) {
                require(index <= self.applied, 7, || {
                    format!("{name} was granted or closed at {index}, applied is {}", self.applied)
                })?;
            }
            let mut last = 0;
            for waiter in slot.queue.iter() {
                let index = waiter.queued_at_index;
                require((last..=self.applied).contains(&index), 7, || {
                    format!(
                        "{} queued at {index}, after {last}, applied is {}",
                        waiter.lease_id, self.applied
                    )
                })?;
                last = index;
            }
        }
        Ok(())
    }

    /// 8.
    fn check_modes(&self) -> Result<(), Violation> {
        for (name, slot) in &self.names {
            let count = slot.holders.len();
            require((count == 0) == slot.closure.is_some(), 8, || {
                format!("{name} has {count} holders, and is {}", if count == 0 { "open" } else { "closed" })
            })?;
            for lease in slot.holders.iter() {
                let beside = slot.holders.iter().find(|other| other.token != lease.token);
                let fits = beside.is_none_or(|other| lease.mode.fits_beside(other.mode, count - 1));
                require(fits, 8, || format!("{name} is held by {count}, one of them is {}", lease.mode))?;
            }
        }
        Ok(())
    }
}
