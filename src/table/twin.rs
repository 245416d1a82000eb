//! The naive twin: the same rules over two vectors, written to be obviously right and not to be fast. Every question
//! is answered by looking through everything. It shares the commands, outcomes and events with the table, no logic
//! and no limit: those it has in figures of its own.

#![expect(clippy::unwrap_used, reason = "it fails as loudly as the tests and the fuzzer that use it")]

use bytes::Bytes;

use super::*;

/// A live acquisition: a holder if it has a token, else a waiter.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) name: Name,
    pub(super) id: LeaseId,
    agent: Holder,
    pub(super) ttl_ms: u64,
    metadata: Bytes,
    pub(super) token: Option<Token>,
    since: u64,
    revoked: Option<Revocation>,
    pub(super) closed: u64,
    pub(super) mode: Mode,
    delay_ms: u64,
}

/// A closed name, and whose lease on it expired.
#[derive(Debug, Clone)]
pub(super) struct Shut {
    pub(super) name: Name,
    pub(super) id: LeaseId,
    pub(super) agent: Holder,
    pub(super) token: Token,
    pub(super) delay_ms: u64,
    pub(super) key: Token,
    pub(super) revocation: Option<Revocation>,
}

/// All live claims in the order in which they came, and every lease id that ever ended, oldest first.
#[derive(Debug, Clone)]
pub(super) struct Twin {
    pub(super) bounds: Bounds,
    pub(super) last_token: Option<u64>,
    pub(super) claims: Vec<Claim>,
    pub(super) shut: Vec<Shut>,
    pub(super) graves: Vec<(u64, LeaseId, Ending)>,
}

impl Twin {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, last_token: None, claims: vec![], shut: vec![], graves: vec![] }
    }

    pub(super) fn find(&self, id: LeaseId) -> Option<&Claim> {
        self.claims.iter().find(|c| c.id == id)
    }

    /// The first to be granted it first.
    pub(super) fn holders(&self, name: &Name) -> Vec<&Claim> {
        let mut holders: Vec<_> =
            self.claims.iter().filter(|c| c.name == *name && c.token.is_some()).collect();
        holders.sort_by_key(|c| c.token);
        holders
    }

    pub(super) fn holder(&self, name: &Name) -> Option<&Claim> {
        self.holders(name).first().copied()
    }

    pub(super) fn is_shut(&self, name: &Name) -> Option<&Shut> {
        self.shut.iter().find(|shut| shut.name == *name)
    }

    /// Whether a lease of this mode may stand beside the holders of this name, leaving one of them out.
    fn fits(&self, name: &Name, mode: Mode, but: Option<LeaseId>) -> bool {
        let others: Vec<_> = self.holders(name).into_iter().filter(|c| Some(c.id) != but).collect();
        match mode {
            _ if others.is_empty() => true,
            Mode::Exclusive => false,
            Mode::Shared => others.iter().all(|c| c.mode == Mode::Shared),
            Mode::Permits { of } => others.len() < of as usize && others.iter().all(|c| c.mode == mode),
        }
    }

    pub(super) fn waiters(&self, name: &Name) -> Vec<&Claim> {
        self.claims.iter().filter(|c| c.name == *name && c.token.is_none()).collect()
    }

    pub(super) fn position(&self, id: LeaseId) -> u64 {
        let name = &self.find(id).unwrap().name;
        self.waiters(name).iter().position(|c| c.id == id).unwrap() as u64 + 1
    }

    pub(super) fn forgotten(&self) -> usize {
        self.graves.len().saturating_sub(self.bounds.ended_ids)
    }

    pub(super) fn horizon(&self) -> u64 {
        self.graves[..self.forgotten()].iter().map(|g| g.0).max().unwrap_or(0)
    }

    pub(super) fn ending(&self, id: LeaseId) -> Option<Ending> {
        self.graves[self.forgotten()..].iter().find(|g| g.1 == id).map(|g| g.2)
    }

    pub(super) fn held_by(&self, name: &Name) -> Option<HeldBy> {
        let c = self.holder(name)?;
        Some(HeldBy {
            holder: c.agent.clone(),
            token: c.token?,
            since_unix_ms: c.since,
            ttl_ms: c.ttl_ms,
            metadata: c.metadata.clone(),
            revoked: c.revoked.is_some(),
            waiters: self.waiters(name).len() as u64,
            mode: c.mode,
            holders: self.holders(name).len() as u64,
        })
    }

    fn in_the_way<B>(&self, name: &Name) -> Option<Outcome<B>> {
        if let Some(held) = self.held_by(name) {
            return Some(Outcome::Held(held));
        }
        self.is_shut(name).map(|shut| {
            let Shut { agent, token, delay_ms, .. } = shut.clone();
            Outcome::Closed(ClosedBy { holder: agent, token, delay_ms })
        })
    }

    fn grant(&mut self, at: usize, wall: u64, from_queue: bool, out: &mut Vec<Event>) -> Option<Successor> {
        let token = self.last_token.unwrap().checked_add(1)?;
        self.last_token = Some(token);
        let c = &mut self.claims[at];
        c.token = Some(Token::new(token));
        c.since = wall;
        out.push(Event::Granted {
            name: c.name.clone(),
            lease_id: c.id,
            token: Token::new(token),
            holder: c.agent.clone(),
            ttl_ms: c.ttl_ms,
            from_queue,
            metadata: c.metadata.clone(),
        });
        Some(Successor { holder: c.agent.clone(), token: Token::new(token) })
    }

    fn drop_waiter(&mut self, index: u64, id: LeaseId, reason: LeftReason, out: &mut Vec<Event>) {
        let at = self.claims.iter().position(|c| c.id == id).unwrap();
        let c = self.claims.remove(at);
        let ending = match reason {
            LeftReason::Cancelled => Ending::Cancelled,
            LeftReason::Expired => Ending::Expired,
            LeftReason::NoTokens => Ending::NoTokens,
        };
        self.graves.push((index, id, ending));
        out.push(Event::Left { name: c.name, lease_id: id, holder: c.agent, reason });
    }

    /// The holder `id` goes; returns the waiter that comes first after it, if one does.
    fn end(
        &mut self,
        index: u64,
        id: LeaseId,
        reason: EndReason,
        out: &mut Vec<Event>,
    ) -> (Name, Option<LeaseId>) {
        let at = self.claims.iter().position(|c| c.id == id).unwrap();
        let c = self.claims.remove(at);
        let first_of =
            |agent: &AgentName| self.waiters(&c.name).iter().find(|w| w.agent.agent == *agent).map(|w| w.id);
        let mut heir = c.revoked.as_ref().and_then(|r| r.heir.as_ref()).and_then(first_of);
        let shuts = reason == EndReason::Expired && c.delay_ms > 0;
        let back = first_of(&c.agent.agent).filter(|_| c.revoked.is_none());
        if shuts && back.is_some() {
            heir = back;
        }
        let revocation = c.revoked.clone();
        let reason = match c.revoked {
            Some(revocation) if reason != EndReason::Transferred => EndReason::Revoked(revocation),
            _ => reason,
        };
        let ending = match &reason {
            EndReason::Released => Ending::Released,
            EndReason::Cancelled => Ending::Cancelled,
            EndReason::Expired => Ending::Expired,
            EndReason::Transferred => Ending::Transferred,
            EndReason::Revoked(_) => Ending::Revoked,
        };
        let token = c.token.unwrap();
        self.graves.push((index, id, ending));
        out.push(Event::Ended { name: c.name.clone(), lease_id: id, token, holder: c.agent.clone(), reason });
        if shuts && back.is_none() {
            let (name, agent, delay_ms) = (c.name.clone(), c.agent, c.delay_ms);
            let key = self.last_token.unwrap().checked_add(1).map_or(token, Token::new);
            self.last_token = self.last_token.max(Some(key.get()));
            out.push(Event::Closed {
                name: name.clone(),
                lease_id: id,
                token,
                key,
                holder: agent.clone(),
                delay_ms,
            });
            self.shut.push(Shut { name, id, agent, token, delay_ms, key, revocation });
        }
        (c.name, heir)
    }

    fn unshut(&mut self, name: &Name, out: &mut Vec<Event>) -> Option<LeaseId> {
        let at = self.shut.iter().position(|shut| shut.name == *name)?;
        let shut = self.shut.remove(at);
        out.push(Event::Opened { name: shut.name, lease_id: shut.id });
        let heir = shut.revocation?.heir?;
        self.waiters(name).iter().find(|w| w.agent.agent == heir).map(|w| w.id)
    }

    /// Grants the name to the heir, if it may have it, and then to the first waiters for as long as they may.
    fn follow(
        &mut self,
        (index, wall): (u64, u64),
        name: &Name,
        mut heir: Option<LeaseId>,
        out: &mut Vec<Event>,
    ) -> Option<Successor> {
        let mut first = None;
        while self.is_shut(name).is_none() {
            let waiters = self.waiters(name);
            let chosen = heir.take().and_then(|id| waiters.iter().find(|w| w.id == id).copied());
            let chosen = chosen.filter(|w| self.fits(name, w.mode, None));
            let Some(next) = chosen.or(waiters.first().copied()) else { break };
            if !self.fits(name, next.mode, None) {
                break;
            }
            let id = next.id;
            let at = self.claims.iter().position(|c| c.id == id).unwrap();
            match self.grant(at, wall, true, out) {
                Some(granted) => first = first.or(Some(granted)),
                None => self.drop_waiter(index, id, LeftReason::NoTokens, out),
            }
        }
        first
    }

    pub(super) fn apply(&mut self, index: u64, term: u64, entry: &Entry, out: &mut Vec<Event>) -> Outcome {
        match &entry.command {
            Command::Batch(all) if all.len() > 512 => {
                Outcome::Refused(Refusal::BatchTooLong { count: all.len() as u64 })
            }
            Command::Batch(all) => Outcome::Batch(
                all.iter().map(|c| self.one(index, term, entry.wall_unix_ms, c, out)).collect(),
            ),
            one => self.one(index, term, entry.wall_unix_ms, one, out),
        }
    }

    fn one<A, B>(
        &mut self,
        index: u64,
        term: u64,
        wall: u64,
        command: &Command<A>,
        out: &mut Vec<Event>,
    ) -> Outcome<B> {
        match command {
            Command::Batch(_) => Outcome::Refused(Refusal::NestedBatch),
            Command::Found { .. } if self.last_token.is_some() => Outcome::AlreadyFounded,
            Command::Found { tokens_above } => {
                self.last_token = Some(tokens_above.get());
                out.push(Event::Founded { tokens_above: *tokens_above });
                Outcome::Founded
            }
            Command::Acquire(a) => self.acquire(index, wall, a, out),
            Command::Release { lease_id: id } | Command::Cancel { lease_id: id } => {
                let reason = match command {
                    Command::Release { .. } => EndReason::Released,
                    _ => EndReason::Cancelled,
                };
                match self.find(*id).map(|c| c.token) {
                    Some(Some(_)) => {
                        let (name, heir) = self.end(index, *id, reason, out);
                        Outcome::Released { next: self.follow((index, wall), &name, heir, out) }
                    }
                    Some(None) => {
                        let name = self.find(*id).unwrap().name.clone();
                        self.drop_waiter(index, *id, LeftReason::Cancelled, out);
                        self.follow((index, wall), &name, None, out);
                        Outcome::Left
                    }
                    None => match self.ending(*id) {
                        Some(ending) => Outcome::Ended { ending },
                        None => {
                            self.graves.push((index, *id, Ending::Forbidden));
                            Outcome::Forbidden
                        }
                    },
                }
            }
            Command::Expire { term: proposed, .. } if *proposed != term => {
                Outcome::OtherTerm { entry_term: term }
            }
            Command::Expire { ended, .. } if ended.len() > 512 => {
                Outcome::Refused(Refusal::ExpireTooLong { count: ended.len() as u64 })
            }
            Command::Expire { ended: pairs, .. } => {
                let (mut ended, mut vacant) = (0, vec![]);
                let waits = |(_, token): &&(LeaseId, Option<Token>)| token.is_none();
                let holds = |(_, token): &&(LeaseId, Option<Token>)| token.is_some();
                for (id, token) in pairs.iter().filter(waits).chain(pairs.iter().filter(holds)) {
                    let shut = self.shut.iter().find(|shut| shut.id == *id && Some(shut.key) == *token);
                    match (self.find(*id).cloned(), shut.cloned()) {
                        (Some(c), _) if c.token != *token => continue,
                        (Some(c), _) if c.token.is_none() => {
                            self.drop_waiter(index, *id, LeftReason::Expired, out);
                            vacant.push((c.name, None));
                        }
                        (Some(_), _) => vacant.push(self.end(index, *id, EndReason::Expired, out)),
                        (None, Some(shut)) => {
                            let heir = self.unshut(&shut.name, out);
                            vacant.push((shut.name, heir));
                        }
                        (None, None) => continue,
                    }
                    ended += 1;
                }
                let mut names: Vec<_> = vacant.iter().map(|(name, _)| name.clone()).collect();
                names.sort();
                names.dedup();
                for name in names {
                    let heir = vacant.iter().rev().filter(|(of, _)| *of == name).find_map(|(_, heir)| *heir);
                    self.follow((index, wall), &name, heir, out);
                }
                Outcome::Expired { ended }
            }
            Command::Transfer { lease_id: id, to, attempt } => {
                let Some(c) = self.find(*id) else {
                    return self.ending(*id).map_or(Outcome::NotHolding, |ending| Outcome::Ended { ending });
                };
                if c.token.is_none() {
                    return Outcome::NotHolding;
                }
                if c.closed >= *attempt {
                    return Outcome::NoSuchWaiter;
                }
                let heir = self.waiters(&c.name).into_iter().find(|w| match to {
                    TransferTo::First => true,
                    TransferTo::Agent(agent) => w.agent.agent == *agent,
                });
                let heir = heir.filter(|w| self.fits(&c.name, w.mode, Some(*id)));
                match heir.map(|w| w.id) {
                    None => {
                        self.claims.iter_mut().find(|c| c.id == *id).unwrap().closed = *attempt;
                        Outcome::NoSuchWaiter
                    }
                    Some(_) if self.last_token == Some(u64::MAX) => Outcome::Refused(Refusal::NoTokens),
                    heir => {
                        let (name, _) = self.end(index, *id, EndReason::Transferred, out);
                        Outcome::Transferred { to: self.follow((index, wall), &name, heir, out).unwrap() }
                    }
                }
            }
            Command::Revoke { reason, .. } if reason.len() > 512 || reason.chars().any(char::is_control) => {
                Outcome::Refused(Refusal::Reason { bytes: reason.len() as u64 })
            }
            Command::Revoke { name, token, by, reason, heir } => {
                let waits = self.waiters(name).iter().any(|w| Some(&w.agent.agent) == heir.as_ref());
                let Some(c) = self.claims.iter_mut().find(|c| c.name == *name && c.token == Some(*token))
                else {
                    return Outcome::NotHeld;
                };
                if c.revoked.is_some() {
                    return Outcome::AlreadyRevoked;
                }
                if heir.is_some() && !waits {
                    return Outcome::NoSuchWaiter;
                }
                let revocation = Revocation { by: by.clone(), reason: reason.clone(), heir: heir.clone() };
                c.revoked = Some(revocation.clone());
                out.push(Event::Revoked {
                    name: name.clone(),
                    lease_id: c.id,
                    token: *token,
                    holder: c.agent.clone(),
                    revocation,
                });
                Outcome::Revoked
            }
        }
    }

    fn acquire<B>(&mut self, index: u64, wall: u64, a: &Acquire, out: &mut Vec<Event>) -> Outcome<B> {
        if a.ttl_ms == 0 || a.ttl_ms > 86_400_000 {
            return Outcome::Refused(Refusal::Ttl { ttl_ms: a.ttl_ms });
        }
        if a.metadata.len() > 4096 {
            return Outcome::Refused(Refusal::Metadata { bytes: a.metadata.len() as u64 });
        }
        match a.mode {
            Mode::Permits { of } if of == 0 || of > 100_000 => {
                return Outcome::Refused(Refusal::Permits { of });
            }
            mode if a.lock_delay_ms > 86_400_000 || (a.lock_delay_ms > 0 && mode != Mode::Exclusive) => {
                return Outcome::Refused(Refusal::LockDelay { lock_delay_ms: a.lock_delay_ms, mode });
            }
            _ => {}
        }
        if let Some(c) = self.find(a.lease_id) {
            if c.name != a.name || c.agent.agent != a.agent.agent {
                return Outcome::Refused(Refusal::LeaseIdTaken);
            }
            return match c.token {
                Some(token) => Outcome::Granted { token },
                None => Outcome::Waiting { position: self.position(a.lease_id) },
            };
        }
        let shuts = self.shut.iter().any(|shut| shut.id == a.lease_id);
        let ending = self.ending(a.lease_id).or(shuts.then_some(Ending::Expired));
        match (ending, self.in_the_way(&a.name)) {
            (Some(Ending::Refused), Some(outcome)) => return outcome,
            (Some(ending), _) => return Outcome::Ended { ending },
            (None, _) => {}
        }
        if a.seen < self.horizon() {
            return Outcome::TooOld { horizon: self.horizon() };
        }
        let full = self.claims.len() + self.shut.len() >= self.bounds.leases;
        let queue = self.waiters(&a.name).len();
        let free = match self.is_shut(&a.name) {
            Some(shut) => shut.revocation.is_none() && shut.agent.agent == a.agent.agent,
            None => queue == 0 && self.fits(&a.name, a.mode, None),
        };
        let refusal = if a.seen >= index {
            Some(Outcome::Refused(Refusal::SeenAhead { seen: a.seen, index }))
        } else if self.last_token.is_none() {
            Some(Outcome::Refused(Refusal::NotFounded))
        } else if !free && !a.wait {
            self.in_the_way(&a.name)
        } else if full {
            Some(Outcome::Refused(Refusal::TableFull { max: self.bounds.leases as u64 }))
        } else if !free && queue >= self.bounds.waiters_per_name {
            Some(Outcome::Refused(Refusal::QueueFull { max: self.bounds.waiters_per_name as u64 }))
        } else if free && self.last_token == Some(u64::MAX) {
            Some(Outcome::Refused(Refusal::NoTokens))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.graves.push((index, a.lease_id, Ending::Refused));
            return refusal;
        }
        self.claims.push(Claim {
            name: a.name.clone(),
            id: a.lease_id,
            agent: a.agent.clone(),
            ttl_ms: a.ttl_ms,
            metadata: a.metadata.clone(),
            token: None,
            since: 0,
            revoked: None,
            closed: 0,
            mode: a.mode,
            delay_ms: a.lock_delay_ms,
        });
        if !free {
            let (name, lease_id) = (a.name.clone(), a.lease_id);
            out.push(Event::Queued { name, lease_id, holder: a.agent.clone(), ttl_ms: a.ttl_ms });
            return Outcome::Waiting { position: self.position(a.lease_id) };
        }
        self.unshut(&a.name, out);
        let granted = self.grant(self.claims.len() - 1, wall, false, out).unwrap();
        self.follow((index, wall), &a.name, None, out);
        Outcome::Granted { token: granted.token }
    }
}
