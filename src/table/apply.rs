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

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Closure, Lease, Place, Slot, Table,
    command::{Acquire, Command, Entry, TransferTo},
    event::{EndReason, Event, LeftReason, Revocation},
    outcome::{Ending, Outcome, Refusal, Successor},
    queue::{Ticket, Waiter},
};
use crate::{
    AgentName, LeaseId, Name, Token,
    flaw::planted,
    limits::{BATCH_MAX, EXPIRE_MAX, LOCK_DELAY_MAX, METADATA_BYTES_MAX, REASON_BYTES_MAX, TTL_MAX},
    mode::Mode,
};

/// The longest ttl, in the unit of the commands.
pub(super) const TTL_MS_MAX: u64 = TTL_MAX.as_secs() * 1_000;
/// The longest lock delay, likewise.
pub(super) const LOCK_DELAY_MS_MAX: u64 = LOCK_DELAY_MAX.as_secs() * 1_000;

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
            Command::Revoke { name, token, by, reason, heir } => {
                self.revoke(step, name, *token, by, reason, heir.as_ref())
            }
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
            let (Place::Holds(name, _) | Place::Waits(name, _)) = place;
            let slot = self.names.get(name)?;
            let (agent, outcome) = match place {
                Place::Holds(_, token) => {
                    (&slot.holders.get(*token)?.holder.agent, Outcome::Granted { token: *token })
                }
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
        // What closes a name has ended, and stays known for as long as it does.
        let closes = self.closures.contains_key(&id).then_some(Ending::Expired);
        let ending = self.ended.get(&id).or(closes)?;
        // The retry of a try is still told who is in its way, if there is someone.
        let in_the_way = if ending == Ending::Refused { self.in_the_way(&acquire.name) } else { None };
        Some(in_the_way.unwrap_or(Outcome::Ended { ending }))
    }

    /// What keeps others from this name, as they are told.
    fn in_the_way<B>(&self, name: &Name) -> Option<Outcome<B>> {
        let held = self.holder(name).map(|lease| Outcome::Held(lease.held_by()));
        held.or_else(|| self.closed(name).map(Outcome::Closed))
    }

    /// Grants, queues, or (`Err`) refuses for good.
    fn acquire_anew<B>(&mut self, step: &mut Step<'_>, acquire: &Acquire) -> Result<Outcome<B>, Outcome<B>> {
        let refuse = |refusal| Err(Outcome::Refused(refusal));
        let index = step.index;
        if acquire.seen >= index {
            return refuse(Refusal::SeenAhead { seen: acquire.seen, index });
        }
        if self.last_token.is_none() {
            return refuse(Refusal::NotFounded);
        }
        let slot = self.names.get_key_value(&acquire.name);
        // Nobody overtakes those who wait, but for the one to whom a closed name is open.
        let free = slot.is_none_or(|(_, slot)| {
            slot.lets_in(acquire.mode, Some(&acquire.agent.agent))
                && (slot.queue.len() == 0 || slot.closure.is_some())
        });
        if !free && !acquire.wait {
            // A name that isn't free is held or closed.
            return Err(self.in_the_way(&acquire.name).unwrap_or(Outcome::NotHeld));
        }
        if self.load() >= self.bounds.leases {
            return refuse(Refusal::TableFull { max: self.bounds.leases as u64 });
        }
        // The table's own copy, so that all who share the name share its text.
        let name = slot.map_or(&acquire.name, |(name, _)| name).clone();
        let waiter = Waiter {
            lease_id: acquire.lease_id,
            holder: self.pool.share(&acquire.agent),
            ttl_ms: acquire.ttl_ms,
            metadata: acquire.metadata.clone().into(),
            queued_at_index: index,
            mode: acquire.mode,
            lock_delay_ms: acquire.lock_delay_ms,
        };
        if free {
            if self.last_token.and_then(Token::next).is_none() {
                return refuse(Refusal::NoTokens);
            }
            self.open(step, &name);
            let granted = self.grant(step, &name, waiter, false);
            // Whoever comes back to a closed name may leave room for the first waiters beside it.
            self.admit(step, &name);
            return granted
                .map(|token| Outcome::Granted { token })
                .ok_or(Outcome::Refused(Refusal::NoTokens));
        }
        let queue_full = Refusal::QueueFull { max: self.bounds.waiters_per_name as u64 };
        let slot = self.names.entry(name.clone()).or_default();
        if slot.queue.len() >= self.bounds.waiters_per_name {
            return refuse(queue_full);
        }
        let Some(ticket) = slot.queue.push(waiter) else {
            return refuse(queue_full);
        };
        let position = slot.queue.len() as u64;
        let (lease_id, holder, ttl_ms) = (acquire.lease_id, acquire.agent.clone(), acquire.ttl_ms);
        self.waiting += 1;
        self.live.insert(lease_id, Place::Waits(name.clone(), ticket));
        step.events.push(Event::Queued { name, lease_id, holder, ttl_ms });
        Ok(Outcome::Waiting { position })
    }

    /// Release and Cancel: they differ in the reason alone.
    fn give_up<B>(&mut self, step: &mut Step<'_>, id: LeaseId, reason: EndReason) -> Outcome<B> {
        match self.live.get(&id).cloned() {
            Some(Place::Holds(name, token)) => {
                let heir = self.end_lease(step, &name, token, reason);
                Outcome::Released { next: self.hand_over(step, &name, heir) }
            }
            Some(Place::Waits(name, ticket)) => {
                self.end_wait(step, &name, ticket, LeftReason::Cancelled);
                self.admit(step, &name);
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
        if term != step.term && !planted!(ExpiryWithoutTerm) {
            return Outcome::OtherTerm { entry_term: step.term };
        }
        if pairs.len() > EXPIRE_MAX {
            return Outcome::Refused(Refusal::ExpireTooLong { count: pairs.len() as u64 });
        }
        let mut ended = 0;
        // First all that ends, then who comes after it: else a lease could go to a waiter that the same entry declares
        // dead, for one more ttl. Waiters before holders: a dead one must not pass for a holder that has come back.
        let mut vacant: BTreeMap<Name, Option<Ticket>> = BTreeMap::new();
        for (id, _) in pairs.iter().filter(|(_, token)| token.is_none()) {
            let Some(Place::Waits(name, ticket)) = self.live.get(id).cloned() else { continue };
            self.end_wait(step, &name, ticket, LeftReason::Expired);
            vacant.entry(name).or_default();
            ended += 1;
        }
        for (id, token) in pairs.iter().filter_map(|(id, token)| Some((id, (*token)?))) {
            let (name, heir) = match self.live.get(id).cloned() {
                Some(Place::Holds(name, held)) if held == token => {
                    let heir = self.end_lease(step, &name, held, EndReason::Expired);
                    (name, heir)
                }
                None => {
                    let key_of = |name: &Name| Some(self.names.get(name)?.closure.as_ref()?.key);
                    let Some(name) =
                        self.closures.get(id).cloned().filter(|name| key_of(name) == Some(token))
                    else {
                        continue;
                    };
                    let heir = self.open(step, &name);
                    (name, heir)
                }
                _ => continue,
            };
            let named = vacant.entry(name).or_default();
            *named = heir.or(*named);
            ended += 1;
        }
        for (name, heir) in vacant {
            self.hand_over(step, &name, heir);
        }
        Outcome::Expired { ended }
    }

    fn transfer<B>(&mut self, step: &mut Step<'_>, id: LeaseId, to: &TransferTo, attempt: u64) -> Outcome<B> {
        let (name, token) = match self.live.get(&id).cloned() {
            Some(Place::Holds(name, token)) => (name, token),
            Some(Place::Waits(..)) => return Outcome::NotHolding,
            None => {
                return self.ended.get(&id).map_or(Outcome::NotHolding, |ending| Outcome::Ended { ending });
            }
        };
        let no_tokens = self.last_token.and_then(Token::next).is_none();
        let Some(slot) = self.names.get_mut(&name) else {
            return Outcome::NotHolding; // Not reached: a live id's name is held (invariant 1).
        };
        let heir = slot.heir(to, token);
        let Some(lease) = slot.holders.get_mut(token) else {
            return Outcome::NotHolding; // Not reached, likewise.
        };
        if attempt <= lease.transfers_closed {
            return Outcome::NoSuchWaiter;
        }
        let Some(heir) = heir else {
            lease.transfers_closed = attempt;
            return Outcome::NoSuchWaiter;
        };
        if no_tokens {
            return Outcome::Refused(Refusal::NoTokens);
        }
        self.end_lease(step, &name, token, EndReason::Transferred);
        match self.hand_over(step, &name, Some(heir)) {
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
        heir: Option<&AgentName>,
    ) -> Outcome<B> {
        if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
            return Outcome::Refused(Refusal::Reason { bytes: reason.len() as u64 });
        }
        let Some(slot) = self.names.get_mut(name) else {
            return Outcome::NotHeld;
        };
        let waits = heir.is_none_or(|agent| slot.queue.find(&TransferTo::Agent(agent.clone())).is_some());
        let Some(lease) = slot.holders.get_mut(token) else {
            return Outcome::NotHeld;
        };
        if lease.revoked.is_some() {
            return Outcome::AlreadyRevoked;
        }
        if !waits {
            return Outcome::NoSuchWaiter;
        }
        let revocation = Revocation { by: by.clone(), reason: reason.clone(), heir: heir.cloned() };
        lease.revoked = Some(Box::new(revocation.clone()));
        step.events.push(Event::Revoked {
            name: name.clone(),
            lease_id: lease.lease_id,
            token,
            holder: lease.holder.as_ref().clone(),
            revocation,
        });
        if planted!(RevokeEndsAtOnce) {
            let heir = self.end_lease(step, name, token, EndReason::Released);
            self.hand_over(step, name, heir);
        }
        Outcome::Revoked
    }

    /// Ends this lease, and closes the name if that is asked for. The name has then to be
    /// [handed over](Self::hand_over), in the same step: to the waiter that is returned, if one is.
    fn end_lease(
        &mut self,
        step: &mut Step<'_>,
        name: &Name,
        token: Token,
        reason: EndReason,
    ) -> Option<Ticket> {
        let slot = self.names.get_mut(name)?;
        let lease = slot.holders.remove(token)?;
        let expired = reason == EndReason::Expired;
        let Lease { lease_id, holder, revoked, lock_delay_ms, .. } = lease;
        let holder = holder.as_ref().clone();
        let of_agent = |agent: &AgentName| slot.queue.find(&TransferTo::Agent(agent.clone()));
        let mut heir = revoked.as_ref().and_then(|revocation| of_agent(revocation.heir.as_ref()?));
        let mut closes = expired && lock_delay_ms > 0;
        // If there is none, there will be no grant either.
        let key = self.last_token.and_then(Token::next).unwrap_or(token);
        // It has come back, and queued before its old lease was found expired: to it the name is open. Not so after a
        // revocation, which took the name from it.
        if let Some(back) = of_agent(&holder.agent).filter(|_| closes && revoked.is_none()) {
            (heir, closes) = (Some(back), false);
        }
        if closes {
            slot.closure = Some(Box::new(Closure {
                lease_id,
                holder: holder.clone(),
                token,
                delay_ms: lock_delay_ms,
                closed_at_index: step.index,
                key,
                revocation: revoked.clone(),
            }));
            self.closures.insert(lease_id, name.clone());
        }
        // Whatever ended a revoked lease, but for its holder's own handover, which a retry must hear of.
        let reason = match revoked.filter(|_| reason != EndReason::Transferred) {
            Some(revocation) => EndReason::Revoked(*revocation),
            None => reason,
        };
        self.live.remove(&lease_id);
        self.ended.insert(step.index, lease_id, reason.ending());
        step.events.push(Event::Ended {
            name: name.clone(),
            lease_id,
            token,
            holder: holder.clone(),
            reason,
        });
        if closes {
            let (name, delay_ms) = (name.clone(), lock_delay_ms);
            self.last_token = self.last_token.max(Some(key));
            step.events.push(Event::Closed { name, lease_id, token, key, holder, delay_ms });
        }
        heir
    }

    /// The name is not closed any more, if it was. Returns the heir that a revocation named, if it waits.
    fn open(&mut self, step: &mut Step<'_>, name: &Name) -> Option<Ticket> {
        let slot = self.names.get_mut(name)?;
        let closure = slot.closure.take()?;
        self.closures.remove(&closure.lease_id);
        step.events.push(Event::Opened { name: name.clone(), lease_id: closure.lease_id });
        slot.queue.find(&TransferTo::Agent(closure.revocation?.heir?))
    }

    /// Grants what has become vacant, in the step that made it so: a handoff costs one commit, and no name is ever free
    /// while someone waits (rule L6). The heir comes first, if it may have it. Returns the first who was granted it.
    fn hand_over(&mut self, step: &mut Step<'_>, name: &Name, heir: Option<Ticket>) -> Option<Successor> {
        let from = step.events.len();
        let waiter = heir.and_then(|ticket| {
            let slot = self.names.get_mut(name)?;
            let last = || slot.queue.tickets().last().map_or(ticket, |(last, _)| last);
            let ticket = if planted!(WrongHeir) { last() } else { ticket };
            let mode = slot.queue.get(ticket)?.mode;
            if slot.lets_in(mode, None) { slot.queue.remove(ticket) } else { None }
        });
        if let Some(waiter) = waiter {
            self.grant_next(step, name, waiter);
        }
        self.admit(step, name);
        step.events.iter().skip(from).find_map(|event| match event {
            Event::Granted { holder, token, .. } => Some(Successor { holder: holder.clone(), token: *token }),
            _ => None,
        })
    }

    /// Grants the name to the waiters at the head of the queue, as many as may hold it together, and forgets it if
    /// nobody is left.
    fn admit(&mut self, step: &mut Step<'_>, name: &Name) {
        while let Some(slot) = self.names.get_mut(name) {
            let Some(first) = slot.queue.first() else {
                if slot.holders.len() == 0 && slot.closure.is_none() {
                    self.names.remove(name);
                }
                return;
            };
            let idle = planted!(PermitsIdle) && slot.holders.len() > 0;
            if idle || !slot.lets_in(first.mode, None) {
                return;
            }
            let Some(waiter) = slot.queue.pop() else { return };
            self.grant_next(step, name, waiter);
        }
    }

    /// Grants the name to a waiter that has been taken from the queue, or dismisses it when the tokens are used up.
    fn grant_next(&mut self, step: &mut Step<'_>, name: &Name, waiter: Waiter) {
        if self.last_token.and_then(Token::next).is_none() {
            self.dismiss(step, name, waiter, LeftReason::NoTokens);
        } else {
            self.waiting = self.waiting.saturating_sub(1);
            self.grant(step, name, waiter, true);
        }
    }

    /// Grants the name under the next token, if there is one.
    fn grant(&mut self, step: &mut Step<'_>, name: &Name, waiter: Waiter, from_queue: bool) -> Option<Token> {
        let token = self.last_token.and_then(Token::next)?;
        let lease = lease_of(step, waiter, token);
        self.last_token = Some(token);
        self.live.insert(lease.lease_id, Place::Holds(name.clone(), token));
        step.events.push(granted(name, &lease, from_queue));
        self.names.entry(name.clone()).or_default().holders.insert(lease);
        Some(token)
    }

    /// This waiter leaves its queue without a grant. Who stood behind it has then to be [admitted](Self::admit).
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
}

impl Slot {
    /// The waiter to whom the holder with this token may hand its lease: one that fits beside the other holders.
    fn heir(&self, to: &TransferTo, token: Token) -> Option<Ticket> {
        let ticket = self.queue.find(to)?;
        let mode = self.queue.get(ticket)?.mode;
        let mut others = self.holders.iter().filter(|lease| lease.token != token);
        let fits = others.next().is_none_or(|first| mode.fits_beside(first.mode, 1 + others.count()));
        fits.then_some(ticket)
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
    let Acquire { mode, lock_delay_ms, .. } = *acquire;
    if let Mode::Permits { of } = mode
        && !mode.is_valid()
    {
        return Some(Refusal::Permits { of });
    }
    if lock_delay_ms > LOCK_DELAY_MS_MAX || lock_delay_ms > 0 && mode != Mode::Exclusive {
        return Some(Refusal::LockDelay { lock_delay_ms, mode });
    }
    None
}

/// The lease that this waiter (or, on a free name, this requester) is granted.
fn lease_of(step: &Step<'_>, waiter: Waiter, token: Token) -> Lease {
    let Waiter { lease_id, holder, ttl_ms, metadata, mode, lock_delay_ms, .. } = waiter;
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
        mode,
        lock_delay_ms,
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
        metadata: lease.metadata.to_bytes(),
    }
}
