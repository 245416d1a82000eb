//! Those who wait for one name, first come first served.
//!
//! A map from ticket to waiter: joining, leaving at the front and leaving from the middle are all O(log n); only a
//! position is counted out. A ticket means nothing outside of its queue. It is one more than the last one's, so an
//! emptied queue begins anew; snapshots carry the order, not the tickets.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::command::{Holder, TransferTo};
use crate::{LeaseId, mode::Mode};

/// An agent queued for a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiter {
    /// Its acquisition.
    pub lease_id: LeaseId,
    /// Who waits.
    pub holder: Holder,
    /// How long it stays without a renewal, and then the lease's ttl.
    pub ttl_ms: u64,
    /// The lease's metadata, once granted.
    pub metadata: Bytes,
    /// The log index that queued it.
    pub queued_at_index: u64,
    /// How it will share the name.
    pub mode: Mode,
    /// The lease's lock delay, once granted.
    pub lock_delay_ms: u64,
}

/// The order in one queue.
pub(super) type Ticket = u64;

/// The waiters of one name.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    waiters: BTreeMap<Ticket, Waiter>,
}

impl Queue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Joins at the end; `None`, and no one has joined, if 2^64 tickets were drawn without the queue ever being
    /// empty.
    pub(super) fn push(&mut self, waiter: Waiter) -> Option<Ticket> {
        let ticket = match self.waiters.last_key_value() {
            Some((last, _)) => last.checked_add(1)?,
            None => 0,
        };
        self.waiters.insert(ticket, waiter);
        Some(ticket)
    }

    /// The next one.
    pub(super) fn first(&self) -> Option<&Waiter> {
        self.waiters.first_key_value().map(|(_, waiter)| waiter)
    }

    /// The first leaves.
    pub(super) fn pop(&mut self) -> Option<Waiter> {
        self.waiters.pop_first().map(|(_, waiter)| waiter)
    }

    /// This one leaves.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        self.waiters.remove(&ticket)
    }

    /// This one.
    pub(super) fn get(&self, ticket: Ticket) -> Option<&Waiter> {
        self.waiters.get(&ticket)
    }

    /// Its place, 1 being the next. O(place).
    pub(super) fn position(&self, ticket: Ticket) -> Option<u64> {
        self.waiters.contains_key(&ticket).then(|| self.waiters.range(..=ticket).count() as u64)
    }

    /// The waiter to whom a holder wants to hand its lease. O(n) for one that is named by its agent.
    pub(super) fn find(&self, to: &TransferTo) -> Option<Ticket> {
        let mut waiters = self.waiters.iter();
        let found = match to {
            TransferTo::First => waiters.next(),
            TransferTo::Agent(agent) => waiters.find(|(_, waiter)| waiter.holder.agent == *agent),
        };
        found.map(|(ticket, _)| *ticket)
    }

    /// All, the next first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiter> + '_ {
        self.waiters.values()
    }

    /// All, the next first, with their tickets.
    pub(super) fn tickets(&self) -> impl Iterator<Item = (Ticket, &Waiter)> + '_ {
        self.waiters.iter().map(|(ticket, waiter)| (*ticket, waiter))
    }
}
