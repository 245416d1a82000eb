//! The naive twin: the same rules over two vectors, written to be obviously right and not to be fast. Every question
//! is answered by looking through everything. It shares the commands, outcomes and events with the table, no logic
//! and no limit: those it has in figures of its own.

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
}

/// All live claims in the order in which they came, and every lease id that ever ended, oldest first.
#[derive(Debug, Clone)]
pub(super) struct Twin {
    pub(super) bounds: Bounds,
    pub(super) last_token: Option<u64>,
    pub(super) claims: Vec<Claim>,
    pub(super) graves: Vec<(u64, LeaseId, Ending)>,
}

impl Twin {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, last_token: None, claims: vec![], graves: vec![] }
    }

    pub(super) fn find(&self, id: LeaseId) -> Option<&Claim> {
        self.claims.iter().find(|c| c.id == id)
    }

    pub(super) fn holder(&self, name: &Name) -> Option<&Claim> {
        self.claims.iter().find(|c| c.name == *name && c.token.is_some())
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

    /// The holder `id` goes; `heir`, or the first waiter, follows.
    fn succeed(
        &mut self,
        (index, wall): (u64, u64),
        id: LeaseId,
        reason: EndReason,
        heir: Option<LeaseId>,
        out: &mut Vec<Event>,
    ) -> Option<Successor> {
        let at = self.claims.iter().position(|c| c.id == id).unwrap();
        let c = self.claims.remove(at);
        let reason = c.revoked.map_or(reason, EndReason::Revoked);
        let ending = match &reason {
            EndReason::Released => Ending::Released,
            EndReason::Cancelled => Ending::Cancelled,
            EndReason::Expired => Ending::Expired,
            EndReason::Transferred => Ending::Transferred,
            EndReason::Revoked(_) => Ending::Revoked,
        };
        self.graves.push((index, id, ending));
        out.push(Event::Ended {
            name: c.name.clone(),
            lease_id: id,
            token: c.token.unwrap(),
            holder: c.agent,
            reason,
        });
        let heir = heir.or_else(|| self.waiters(&c.name).first().map(|w| w.id))?;
        let at = self.claims.iter().position(|c| c.id == heir).unwrap();
        let granted = self.grant(at, wall, true, out);
        if granted.is_none() {
            for id in self.waiters(&c.name).iter().map(|w| w.id).collect::<Vec<_>>() {
                self.drop_waiter(index, id, LeftReason::NoTokens, out);
            }
        }
        granted
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
                        Outcome::Released { next: self.succeed((index, wall), *id, reason, None, out) }
                    }
                    Some(None) => {
                        self.drop_waiter(index, *id, LeftReason::Cancelled, out);
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
                let mut ended = 0;
                for waiters in [true, false] {
                    for (id, token) in pairs.iter().filter(|p| p.1.is_none() == waiters) {
                        if self.find(*id).is_none_or(|c| c.token != *token) {
                            continue;
                        }
                        ended += 1;
                        if waiters {
                            self.drop_waiter(index, *id, LeftReason::Expired, out);
                        } else {
                            self.succeed((index, wall), *id, EndReason::Expired, None, out);
                        }
                    }
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
                    TransferTo::Waiter(other) => w.id == *other,
                    TransferTo::Agent(agent) => w.agent.agent == *agent,
                });
                match heir.map(|w| w.id) {
                    None => {
                        self.claims.iter_mut().find(|c| c.id == *id).unwrap().closed = *attempt;
                        Outcome::NoSuchWaiter
                    }
                    Some(_) if self.last_token == Some(u64::MAX) => Outcome::Refused(Refusal::NoTokens),
                    heir => Outcome::Transferred {
                        to: self.succeed((index, wall), *id, EndReason::Transferred, heir, out).unwrap(),
                    },
                }
            }
            Command::Revoke { reason, .. } if reason.len() > 512 || reason.contains('\n') => {
                Outcome::Refused(Refusal::Reason { bytes: reason.len() as u64 })
            }
            Command::Revoke { name, token, by, reason } => {
                let Some(c) = self.claims.iter_mut().find(|c| c.name == *name && c.token == Some(*token))
                else {
                    return Outcome::NotHeld;
                };
                if c.revoked.is_some() {
                    return Outcome::AlreadyRevoked;
                }
                let revocation = Revocation { by: by.clone(), reason: reason.clone() };
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
        if let Some(c) = self.find(a.lease_id) {
            if c.name != a.name || c.agent.agent != a.agent.agent {
                return Outcome::Refused(Refusal::LeaseIdTaken);
            }
            return match c.token {
                Some(token) => Outcome::Granted { token },
                None => Outcome::Waiting { position: self.position(a.lease_id) },
            };
        }
        match (self.ending(a.lease_id), self.held_by(&a.name)) {
            (Some(Ending::Refused), Some(held)) => return Outcome::Held(held),
            (Some(ending), _) => return Outcome::Ended { ending },
            (None, _) => {}
        }
        if a.seen < self.horizon() {
            return Outcome::TooOld { horizon: self.horizon() };
        }
        let full = self.claims.len() >= self.bounds.leases;
        let held = self.held_by(&a.name);
        let refusal = if a.seen >= index {
            Some(Outcome::Refused(Refusal::SeenAhead { seen: a.seen, index }))
        } else if self.last_token.is_none() {
            Some(Outcome::Refused(Refusal::NotFounded))
        } else if let (Some(held), false) = (&held, a.wait) {
            Some(Outcome::Held(held.clone()))
        } else if full {
            Some(Outcome::Refused(Refusal::TableFull { max: self.bounds.leases as u64 }))
        } else if held.as_ref().is_some_and(|h| h.waiters as usize >= self.bounds.waiters_per_name) {
            Some(Outcome::Refused(Refusal::QueueFull { max: self.bounds.waiters_per_name as u64 }))
        } else if held.is_none() && self.last_token == Some(u64::MAX) {
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
        });
        if held.is_some() {
            let (name, lease_id) = (a.name.clone(), a.lease_id);
            out.push(Event::Queued { name, lease_id, holder: a.agent.clone(), ttl_ms: a.ttl_ms });
            return Outcome::Waiting { position: self.position(a.lease_id) };
        }
        let granted = self.grant(self.claims.len() - 1, wall, false, out).unwrap();
        Outcome::Granted { token: granted.token }
    }
}
