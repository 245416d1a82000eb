//! Those who wait for one name, first come first served.
//!
//! A map from ticket to waiter: joining, leaving at the front and leaving from the middle are all O(log n). Every waiter
//! asks for its position again and again, so that is counted out by blocks, not one by one: of 100,000 the last one's takes
//! microseconds. A ticket means nothing outside of its queue. It is one more than the last one's, so an emptied queue
//! begins anew; snapshots carry the order, not the tickets.
//!
//! Nobody waits for most names: such a queue is one word.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    command::{Holder, TransferTo},
    lean::Metadata,
};
use crate::{LeaseId, dense::Dense, flaw::planted, mode::Mode};

/// An agent queued for a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiter {
    /// Its acquisition.
    pub lease_id: LeaseId,
    /// Who waits. Shared with what else the same agent holds or waits for.
    pub holder: Arc<Holder>,
    /// How long it stays without a renewal, and then the lease's ttl.
    pub ttl_ms: u64,
    /// The lease's metadata, once granted.
    pub metadata: Metadata,
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
    /// `None` when it is empty.
    waiters: Option<Box<Dense<Ticket, Waiter>>>,
}

impl Queue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiters.as_ref().map_or(0, |waiters| waiters.len())
    }

    /// Joins at the end; `None`, and no one has joined, if 2^64 tickets were drawn without the queue ever being
    /// empty.
    pub(super) fn push(&mut self, waiter: Waiter) -> Option<Ticket> {
        let waiters = self.waiters.get_or_insert_default();
        let ticket = match waiters.last() {
            Some((last, _)) => last.checked_add(1)?,
            None => 0,
        };
        waiters.insert(ticket, waiter);
        Some(ticket)
    }

    /// The next one.
    pub(super) fn first(&self) -> Option<&Waiter> {
        self.iter().next()
    }

    /// The first leaves.
    pub(super) fn pop(&mut self) -> Option<Waiter> {
        self.take(|waiters| {
            let next = if planted!(LastComeFirstServed) { waiters.last() } else { waiters.first() };
            let ticket = *next?.0;
            waiters.remove(&ticket)
        })
    }

    /// This one leaves.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        self.take(|waiters| waiters.remove(&ticket))
    }

    fn take(&mut self, one: impl FnOnce(&mut Dense<Ticket, Waiter>) -> Option<Waiter>) -> Option<Waiter> {
        let waiters = self.waiters.as_deref_mut()?;
        let taken = one(waiters);
        if waiters.is_empty() {
            self.waiters = None;
        }
        taken
    }

    /// This one.
    pub(super) fn get(&self, ticket: Ticket) -> Option<&Waiter> {
        self.waiters.as_ref()?.get(&ticket)
    }

    /// Its place, 1 being the next.
    pub(super) fn position(&self, ticket: Ticket) -> Option<u64> {
        let before = self.waiters.as_ref()?.rank(&ticket)?;
        Some(before as u64 + 1)
    }

    /// The waiter to whom a holder wants to hand its lease. O(n) for one that is named by its agent.
    pub(super) fn find(&self, to: &TransferTo) -> Option<Ticket> {
        let mut waiters = self.tickets();
        let found = match to {
            TransferTo::First => waiters.next(),
            TransferTo::Agent(agent) => waiters.find(|(_, waiter)| waiter.holder.agent == *agent),
        };
        found.map(|(ticket, _)| ticket)
    }

    /// All, the next first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiter> + '_ {
        self.tickets().map(|(_, waiter)| waiter)
    }

    /// All, the next first, with their tickets.
    pub(super) fn tickets(&self) -> impl Iterator<Item = (Ticket, &Waiter)> + '_ {
        let waiters = self.waiters.iter().flat_map(|waiters| waiters.iter());
        waiters.map(|(ticket, waiter)| (*ticket, waiter))
    }
}
