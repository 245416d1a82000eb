//! What each command does: the only place where a lease changes.
//!
//! Nothing in here can fail or panic, whatever has been committed: a buggy or malicious member may have put
//! anything into the log, and a replica that stops at an entry stops for ever. What can't be done is
//! [`Outcome::Refused`], and every replica refuses alike.
//!
//! # Why Revoke does not hand over
//!
//! An operator revokes a lease; the obvious reading is that it ends now and the first waiter has it. But the old
//! holder believes until it *hears* of it, and it may be cut off. In between two agents' `check()` would succeed:
//! rule L1 forbids it, and there is no way round it, since a holder believes by its own clock alone. So Revoke takes
//! the right to renew, not the lease:
//!
//! - The lease is marked, in replicated state, so that no later leader renews it either.
//! - Its agent hears of it (by its replica, or by being answered that the lease is gone when it renews), stops
//!   believing, and releases: the usual case takes one round trip.
//! - If it doesn't hear, it stops believing at its deadline, and after that the leader's Expire ends the lease.
//!
//! However it ends then, its reason is the revocation.
//!
//! # Why a refusal uses the lease id up
//!
//! An acquire that does not wait is answered `Held`; the caller goes away. If a second copy of it, delayed, found
//! the name free, it would take the lease for nobody, until the ttl ends it. So by rule L7 the first answer stands:
//! an id that was refused for a reason that can pass (held, no room, not founded) is dead. Reasons that can't pass
//! (a ttl of 0) need no memory: every copy is refused for itself.

use std::{collections::btree_map, sync::Arc};

use super::{
    Lease, LeaseView, Place, Slot, Table,
    command::{Acquire, Command, Entry, TransferTo},
    event::{EndReason, Event, LeftReason, Revocation},
    lean::Holders,
    outcome::{Ending, Outcome, Refusal, Successor},
    queue::{Queue, Ticket, Waiter},
};
use crate::{
    AgentName, LeaseId, Name, Token,
    limits::{BATCH_MAX, EXPIRE_MAX, METADATA_BYTES_MAX, REASON_BYTES_MAX, TTL_MAX},
};

/// The longest ttl, in the unit of the commands.
pub(super) const TTL_MS_MAX: u64 = TTL_MAX.as_secs() * 1_000;

/// What is the same for all commands of an entry.
struct Step<'a> {
    index: u64,
    term: u64,
    wall_unix_ms: u64,
    events: &'a mut Vec<Event>,
}

impl Table {
    /// Applies the entry at this index, which was proposed in this term, and appends what changed to `events`.
    ///
    /// Indices increase from call to call; entries that carry no command are told by [`skip`](Self::skip), or not
    /// at all.
    pub(crate) fn apply(&mut self, index: u64, term: u64, entry: &Entry, events: &mut Vec<Event>) -> Outcome {
        if index <= self.applied {
            return Outcome::Refused(Refusal::IndexNotAfter { index, applied: self.applied });
        }
        self.applied = index;
        let mut step = Step { index, term, wall_unix_ms: entry.wall_unix_ms, events };
        match &entry.command {
            Command::Batch(commands) if commands.len() > BATCH_MAX => {
                Outcome::Refused(Refusal::BatchTooLong { count: commands.len() as u64 })
            }
            Command::Batch(commands) => {
                Outcome::Batch(commands.iter().map(|command| self.single(&mut step, command)).collect())
            }
            command => self.single(&mut step, command),
        }
    }

    /// The entry at this index carries no command: it only counts as applied.
    pub(crate) fn skip(&mut self, index: u64) {
        self.applied = self.applied.max(index);
    }

    fn single<A, B>(&mut self, step: &mut Step<'_>, command: &Command<A>) -> Outcome<B> {
        match command {
            Command::Found { tokens_above } => self.found(step, *tokens_above),
            Command::Acquire(acquire) => self.acquire(step, acquire),
            Command::Release { lease_id } => self.give_up(step, *lease_id, EndReason::Released),
            Command::Cancel { lease_id } => self.give_up(step, *lease_id, EndReason::Cancelled),
            Command::Expire { term, ended } => self.expire(step, *term, ended),
            Command::Transfer { lease_id, to, attempt } => self.transfer(step, *lease_id, to, *attempt),
            Command::Revoke { name, token, by, reason } => self.revoke(step, name, *token, by, reason),
            Command::Batch(_) => Outcome::Refused(Refusal::NestedBatch),
        }
    }

    fn found<B>(&mut self, step: &mut Step<'_>, tokens_above: Token) -> Outcome<B> {
        if self.last_token.is_some() {
            return Outcome::AlreadyFounded;
        }
        self.last_token = Some(tokens_above);
        step.events.push(Event::Founded { tokens_above });
        Outcome::Founded
    }

    fn acquire<B>(&mut self, step: &mut Step<'_>, acquire: &Acquire) -> Outcome<B> {
        if let Some(refusal) = never_acceptable(acquire) {
            return Outcome::Refused(refusal);
        }
        if let Some(outcome) = self.answered_before(acquire) {
            return outcome;
        }
        if acquire.seen < self.ended.horizon() {
            return Outcome::TooOld { horizon: self.ended.horizon() };
        }
        // From here on it is the first of its copies (`ended.rs` has the proof), and its answer stands for all.
        match self.acquire_anew(step, acquire) {
            Ok(outcome) => outcome,
            Err(outcome) => {
                self.ended.insert(step.index, acquire.lease_id, Ending::Refused);
                outcome
            }
        }
    }

    /// What a copy of this acquire is answered, if the lease id is known.
    fn answered_before<B>(&self, acquire: &Acquire) -> Option<Outcome<B>> {
        let id = acquire.lease_id;
        if let Some(place) = self.live.get(&id) {
            let (Place::Holds(name) | Place::Waits(name, _)) = place;
            let slot = self.names.get(name)?;
            let (agent, outcome) = match place {
                Place::Holds(_) => (&slot.lease.holder.agent, Outcome::Granted { token: slot.lease.token }),
                Place::Waits(_, ticket) => (
                    &slot.queue.get(*ticket)?.holder.agent,
                    Outcome::Waiting { position: slot.queue.position(*ticket)? },
                ),
            };
            // An answer to another request would make a second believer of its sender. The node may differ: who
            // embeds no replica may retry through another agent.
            let same = *name == acquire.name && *agent == acquire.agent.agent;
            return Some(if same { outcome } else { Outcome::Refused(Refusal::LeaseIdTaken) });
        }
        let ending = self.ended.get(&id)?;
        // The retry of a try is still told who is in its way, if there is someone.
        let in_the_way = if ending == Ending::Refused { self.holder(&acquire.name) } else { None };
        Some(in_the_way.map_or(Outcome::Ended { ending }, |lease| Outcome::Held(lease.held_by())))
    }

    /// Grants, queues, or (`Err`) refuses for good.
    fn acquire_anew<B>(&mut self, step: &mut Step<'_>, acquire: &Acquire) -> Result<Outcome<B>, Outcome<B>> {
        let refuse = |refusal| Err(Outcome::Refused(refusal));
        let index = step.index;
        if acquire.seen >= index {
            return refuse(Refusal::SeenAhead { seen: acquire.seen, index });
        }
        let Some(last_token) = self.last_token else {
            return refuse(Refusal::NotFounded);
        };
        let full = self.names.len().saturating_add(self.waiting) >= self.bounds.leases;
        let table_full = Refusal::TableFull { max: self.bounds.leases as u64 };
        let lease_id = acquire.lease_id;
        let waiter = |holders: &mut Holders| Waiter {
            lease_id,
            holder: holders.share(&acquire.agent),
            ttl_ms: acquire.ttl_ms,
            metadata: acquire.metadata.clone().into(),
            queued_at_index: index,
        };
        match self.names.entry(acquire.name.clone()) {
            btree_map::Entry::Vacant(free) => {
                if full {
                    return refuse(table_full);
                }
                let Some(token) = last_token.next() else {
                    return refuse(Refusal::NoTokens);
                };
                let lease = lease_of(step, waiter(&mut self.holders), token);
                step.events.push(granted(free.key(), &lease, false));
                self.last_token = Some(token);
                self.live.insert(lease_id, Place::Holds(free.key().clone()));
                free.insert(Box::new(Slot { lease, queue: Queue::default() }));
                Ok(Outcome::Granted { token })
            }
            btree_map::Entry::Occupied(held) => {
                // The table's own copy, so that all who share the name share its text.
                let name = held.key().clone();
                let slot = held.into_mut();
                if !acquire.wait {
                    return Err(Outcome::Held(LeaseView::of(&name, slot).held_by()));
                }
                if full {
                    return refuse(table_full);
                }
                let queue_full = Refusal::QueueFull { max: self.bounds.waiters_per_name as u64 };
                if slot.queue.len() >= self.bounds.waiters_per_name {
                    return refuse(queue_full);
                }
                let Some(ticket) = slot.queue.push(waiter(&mut self.holders)) else {
                    return refuse(queue_full);
                };
                let position = slot.queue.len() as u64;
                let (holder, ttl_ms) = (acquire.agent.clone(), acquire.ttl_ms);
                self.waiting += 1;
                self.live.insert(lease_id, Place::Waits(name.clone(), ticket));
                step.events.push(Event::Queued { name, lease_id, holder, ttl_ms });
                Ok(Outcome::Waiting { position })
            }
        }
    }

    /// Release and Cancel: they differ in the reason alone.
    fn give_up<B>(&mut self, step: &mut Step<'_>, id: LeaseId, reason: EndReason) -> Outcome<B> {
        match self.live.get(&id).cloned() {
            Some(Place::Holds(name)) => Outcome::Released { next: self.end_lease(step, &name, reason, None) },
            Some(Place::Waits(name, ticket)) => {
                self.end_wait(step, &name, ticket, LeftReason::Cancelled);
                Outcome::Left
            }
            None => match self.ended.get(&id) {
                Some(ending) => Outcome::Ended { ending },
                None => {
                    // Its acquire may still be under way.
                    self.ended.insert(step.index, id, Ending::Forbidden);
                    Outcome::Forbidden
                }
            },
        }
    }

    fn expire<B>(
        &mut self,
        step: &mut Step<'_>,
        term: u64,
        pairs: &[(LeaseId, Option<Token>)],
    ) -> Outcome<B> {
        if term != step.term {
            return Outcome::OtherTerm { entry_term: step.term };
        }
        if pairs.len() > EXPIRE_MAX {
            return Outcome::Refused(Refusal::ExpireTooLong { count: pairs.len() as u64 });
        }
        let mut ended = 0;
        // Waiters first: else a lease could go to a waiter that the same entry declares dead, for one more ttl.
        for (id, _) in pairs.iter().filter(|(_, token)| token.is_none()) {
            if let Some(Place::Waits(name, ticket)) = self.live.get(id).cloned() {
                self.end_wait(step, &name, ticket, LeftReason::Expired);
                ended += 1;
            }
        }
        for (id, token) in pairs.iter().filter(|(_, token)| token.is_some()) {
            let held = self.lease(id).filter(|held| Some(held.lease.token) == *token);
            if let Some(name) = held.map(|held| held.name.clone()) {
                self.end_lease(step, &name, EndReason::Expired, None);
                ended += 1;
            }
        }
        Outcome::Expired { ended }
    }

    fn transfer<B>(&mut self, step: &mut Step<'_>, id: LeaseId, to: &TransferTo, attempt: u64) -> Outcome<B> {
        let name = match self.live.get(&id).cloned() {
            Some(Place::Holds(name)) => name,
            Some(Place::Waits(..)) => return Outcome::NotHolding,
            None => {
                return self.ended.get(&id).map_or(Outcome::NotHolding, |ending| Outcome::Ended { ending });
            }
        };
        let Some(slot) = self.names.get_mut(&name) else {
            return Outcome::NotHolding; // Not reached: a live id's name is held (invariant 1).
        };
        if attempt <= slot.lease.transfers_closed {
            return Outcome::NoSuchWaiter;
        }
        let Some(heir) = slot.queue.find(to) else {
            slot.lease.transfers_closed = attempt;
            return Outcome::NoSuchWaiter;
        };
        if self.last_token.and_then(Token::next).is_none() {
            return Outcome::Refused(Refusal::NoTokens);
        }
        match self.end_lease(step, &name, EndReason::Transferred, Some(heir)) {
            Some(to) => Outcome::Transferred { to },
            None => Outcome::Refused(Refusal::NoTokens), // Not reached: heir and token were just looked up.
        }
    }

    fn revoke<B>(
        &mut self,
        step: &mut Step<'_>,
        name: &Name,
        token: Token,
        by: &AgentName,
        reason: &Arc<str>,
    ) -> Outcome<B> {
        if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
            return Outcome::Refused(Refusal::Reason { bytes: reason.len() as u64 });
        }
        let Some(lease) = self.names.get_mut(name).map(|slot| &mut slot.lease).filter(|l| l.token == token)
        else {
            return Outcome::NotHeld;
        };
        if lease.revoked.is_some() {
            return Outcome::AlreadyRevoked;
        }
        let revocation = Revocation { by: by.clone(), reason: reason.clone() };
        lease.revoked = Some(Box::new(revocation.clone()));
        step.events.push(Event::Revoked {
            name: name.clone(),
            lease_id: lease.lease_id,
            token,
            holder: lease.holder.as_ref().clone(),
            revocation,
        });
        Outcome::Revoked
    }

    /// Ends the lease on this name and grants it to the heir, or to the first waiter: one step, so that a handoff
    /// costs one commit and no name is ever free while someone waits (rule L6).
    fn end_lease(
        &mut self,
        step: &mut Step<'_>,
        name: &Name,
        reason: EndReason,
        heir: Option<Ticket>,
    ) -> Option<Successor> {
        let slot = self.names.get_mut(name)?;
        let next = match heir {
            Some(ticket) => slot.queue.remove(ticket),
            None => slot.queue.pop(),
        };
        let (waiter, token) = match (next, self.last_token.and_then(Token::next)) {
            (Some(waiter), Some(token)) => (waiter, token),
            (next, _) => {
                // Nobody waits; or somebody does, and there will never be a token again.
                let slot = *self.names.remove(name)?;
                self.bury(step, name, slot.lease, reason);
                for waiter in next.into_iter().chain(slot.queue.into_waiters()) {
                    self.dismiss(step, name, waiter, LeftReason::NoTokens);
                }
                return None;
            }
        };
        let lease = lease_of(step, waiter, token);
        let event = granted(name, &lease, true);
        let successor = Successor { holder: lease.holder.as_ref().clone(), token };
        self.last_token = Some(token);
        self.waiting = self.waiting.saturating_sub(1);
        self.live.insert(lease.lease_id, Place::Holds(name.clone()));
        let old = std::mem::replace(&mut slot.lease, lease);
        self.bury(step, name, old, reason);
        step.events.push(event);
        Some(successor)
    }

    /// This waiter leaves its queue without a grant.
    fn end_wait(&mut self, step: &mut Step<'_>, name: &Name, ticket: Ticket, reason: LeftReason) {
        let waiter = self.names.get_mut(name).and_then(|slot| slot.queue.remove(ticket));
        if let Some(waiter) = waiter {
            self.dismiss(step, name, waiter, reason);
        }
    }

    /// Accounts for a waiter that has been taken from its queue.
    fn dismiss(&mut self, step: &mut Step<'_>, name: &Name, waiter: Waiter, reason: LeftReason) {
        let lease_id = waiter.lease_id;
        self.waiting = self.waiting.saturating_sub(1);
        self.live.remove(&lease_id);
        self.ended.insert(step.index, lease_id, reason.ending());
        let holder = waiter.holder.as_ref().clone();
        step.events.push(Event::Left { name: name.clone(), lease_id, holder, reason });
    }

    /// Accounts for a lease that has been taken from its slot.
    fn bury(&mut self, step: &mut Step<'_>, name: &Name, lease: Lease, reason: EndReason) {
        let Lease { lease_id, token, holder, revoked, .. } = lease;
        let reason = revoked.map_or(reason, |revocation| EndReason::Revoked(*revocation));
        self.live.remove(&lease_id);
        self.ended.insert(step.index, lease_id, reason.ending());
        let holder = holder.as_ref().clone();
        step.events.push(Event::Ended { name: name.clone(), lease_id, token, holder, reason });
    }
}

/// What no table would accept at any time, so that no memory of the refusal is needed.
fn never_acceptable(acquire: &Acquire) -> Option<Refusal> {
    if !(1..=TTL_MS_MAX).contains(&acquire.ttl_ms) {
        return Some(Refusal::Ttl { ttl_ms: acquire.ttl_ms });
    }
    if acquire.metadata.len() > METADATA_BYTES_MAX {
        return Some(Refusal::Metadata { bytes: acquire.metadata.len() as u64 });
    }
    None
}

/// The lease that this waiter (or, on a free name, this requester) is granted.
fn lease_of(step: &Step<'_>, waiter: Waiter, token: Token) -> Lease {
    let Waiter { lease_id, holder, ttl_ms, metadata, .. } = waiter;
    Lease {
        lease_id,
        holder,
        token,
        ttl_ms,
        metadata,
        granted_at_index: step.index,
        granted_wall_unix_ms: step.wall_unix_ms,
        revoked: None,
        transfers_closed: 0,
    }
}

fn granted(name: &Name, lease: &Lease, from_queue: bool) -> Event {
    Event::Granted {
        name: name.clone(),
        lease_id: lease.lease_id,
        token: lease.token,
        holder: lease.holder.as_ref().clone(),
        ttl_ms: lease.ttl_ms,
        from_queue,
    }
}
