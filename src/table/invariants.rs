//! What must hold after every entry, numbered; assertions, tests and checkers cite the numbers.
//!
//! | number | always | serves |
//! | --- | --- | --- |
//! | 1 | a name's lease and its lease id point at each other; no id holds twice | L1 |
//! | 2 | a waiter stands behind a holder, its lease id points at its place, and the counts agree | L6 |
//! | 3 | no live id is remembered as ended | L7 |
//! | 4 | no two leases share a token; a larger token was granted by no earlier entry; none is above the last one | L2, L3 |
//! | 5 | the memory of ended ids is within its bound, in order, and reaches back to the horizon | L7 |
//! | 6 | every ttl, metadata, queue and count is within its limit | L8 |
//! | 7 | a queue is in the order of the entries that queued; nothing is newer than the last applied entry | L3, L6 |

use super::{Place, Table, apply::TTL_MS_MAX};
use crate::limits::{METADATA_BYTES_MAX, REASON_BYTES_MAX};

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
        self.check_order()
    }

    /// 1, 2 and 3.
    fn check_places(&self) -> Result<(), Violation> {
        let mut waiting = 0;
        for (name, slot) in &self.names {
            let id = slot.lease.lease_id;
            let holds = matches!(self.live.get(&id), Some(Place::Holds(of)) if of == name);
            require(holds, 1, || format!("{name} is held by {id}, which doesn't know"))?;
            for (ticket, waiter) in slot.queue.tickets() {
                let id = waiter.lease_id;
                let place = self.live.get(&id);
                let waits = matches!(place, Some(Place::Waits(of, at)) if of == name && *at == ticket);
                require(waits, 2, || format!("{id} is queued for {name}, which it doesn't know"))?;
                waiting += 1;
            }
        }
        require(self.waiting == waiting, 2, || format!("{} said to wait, {waiting} do", self.waiting))?;
        // Each place was found from its own name above, so equal numbers mean that no id points elsewhere.
        let places = self.names.len() + waiting;
        require(self.live.len() == places, 1, || format!("{} live ids, {places} places", self.live.len()))?;
        let undead = self.live.iter().map(|(id, _)| id).find(|id| self.ended.get(id).is_some());
        require(undead.is_none(), 3, || format!("{undead:?} is live, and remembered as ended"))
    }

    /// 4.
    fn check_tokens(&self) -> Result<(), Violation> {
        let mut grants: Vec<_> =
            self.names.values().map(|slot| (slot.lease.token, slot.lease.granted_at_index)).collect();
        grants.sort_unstable();
        for pair in grants.windows(2) {
            if let [(token, index), (next_token, next_index)] = pair {
                require(token < next_token && index <= next_index, 4, || {
                    format!("token {token} was granted at {index}, token {next_token} at {next_index}")
                })?;
            }
        }
        let largest = grants.last().map(|(token, _)| *token);
        require(largest <= self.last_token, 4, || {
            format!("token {largest:?} is held, the last one granted is {:?}", self.last_token)
        })
    }

    /// 6.
    fn check_limits(&self) -> Result<(), Violation> {
        let live = self.live.len();
        require(live <= self.bounds.leases, 6, || format!("{live} leases and waiters"))?;
        for (name, slot) in &self.names {
            let waiters = slot.queue.len();
            require(waiters <= self.bounds.waiters_per_name, 6, || format!("{waiters} wait for {name}"))?;
            let lease = &slot.lease;
            let mut sizes = vec![(lease.lease_id, lease.ttl_ms, lease.metadata.len())];
            sizes.extend(slot.queue.iter().map(|w| (w.lease_id, w.ttl_ms, w.metadata.len())));
            for (id, ttl_ms, metadata) in sizes {
                let fits = (1..=TTL_MS_MAX).contains(&ttl_ms) && metadata <= METADATA_BYTES_MAX;
                require(fits, 6, || format!("{id} has a ttl of {ttl_ms} ms, {metadata} bytes of metadata"))?;
            }
            let reason = lease.revoked.as_ref().map_or(0, |revocation| revocation.reason.len());
            require(reason <= REASON_BYTES_MAX, 6, || format!("a reason of {reason} bytes"))?;
        }
        Ok(())
    }

    /// 7.
    fn check_order(&self) -> Result<(), Violation> {
        for (name, slot) in &self.names {
            let granted = slot.lease.granted_at_index;
            require(granted <= self.applied, 7, || {
                format!("{name} was granted at {granted}, applied is {}", self.applied)
            })?;
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
}
