//! The leader's half of a step: what `agent/leader.rs` does, around the product's [`Deadlines`] and [`Table`]; and the
//! consensus below it, as far as leases rest on it.
//!
//! # Consensus, abstractly
//!
//! - One committed log. Its end is `tail`: what the newest leader has appended or taken over. It commits in order.
//! - An election makes the other node lead a new term, with any beginning of the old leader's tail, and an entry of its
//!   own behind it; the rest of the tail is lost. The old leader may not know for as long as it likes.
//! - A confirmation succeeds at a moment at which the node leads the newest term; it hears of that at any time after.
//! - **Less than openraft does:** an expiry is appended by whoever leads when it arrives, in that leader's term, although
//!   openraft would refuse it. What is shown is that the table's own look at the term is enough.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    mutants::Mutant,
    rules::{Note, Rule},
    world::{
        Answer, Ask, CLIENTS, Expiry, HEARTBEAT, Id, Mail, Pending, Phase, Place, Reign, State, TOLERANCE,
        World, Written,
    },
};
use crate::{
    deadlines::{Deadlines, Renewal, Wake},
    id::NodeId,
    limits::EXPIRE_MAX,
    mode::Mode,
    name::{AgentName, Name},
    table::{Acquire, Command, Entry, Event, Holder, Outcome, Table},
    time::Moment,
    token::Token,
};

impl State {
    /// The cluster's first entry.
    pub(super) fn found(&mut self) {
        let entry = Entry { wall_unix_ms: 0, command: Command::Found { tokens_above: Token::new(0) } };
        Arc::make_mut(&mut self.table).apply(self.index, self.term, &entry, &mut Vec::new());
    }

    /// The deadlines of a new leader.
    pub(super) fn fresh_deadlines(&self, world: &World, node: usize) -> Deadlines {
        let live = self.table.all_live();
        let held = live.map(|(id, live)| (id, live.token, Duration::from_millis(live.ttl_ms)));
        let fresh = Deadlines::new(self.term, world.leaders_drift(), self.node_now(node), held);
        fresh.with_stall(HEARTBEAT, TOLERANCE)
    }

    /// The mutant's: each lease that the node knew in its earlier term has the deadline that it had then.
    fn kept_deadlines(&self, world: &World, node: usize, kept: &Deadlines) -> Deadlines {
        let span = world.leaders_drift().lengthen(world.ttl());
        let mut began: Vec<(Moment, _, _)> = self
            .table
            .all_live()
            .map(|(id, live)| {
                let at = kept.deadline(&id).unwrap_or(self.node_now(node) + span);
                (at - span, id, live.token)
            })
            .collect();
        began.sort_unstable();
        let mut deadlines = Deadlines::new(self.term, world.leaders_drift(), Moment::ZERO, []);
        for (from, id, token) in began {
            deadlines.began(id, token, world.ttl(), from);
        }
        // It slept for nothing meanwhile, so it is no stall.
        let now = self.node_now(node);
        deadlines.woke(now, now);
        deadlines.with_stall(HEARTBEAT, TOLERANCE)
    }

    pub(super) fn deadlines_mut(&mut self, node: usize) -> Option<&mut Deadlines> {
        self.nodes[node].reign.as_mut()?.deadlines.as_mut().map(Arc::make_mut)
    }

    /// Whether this node leads, and knows.
    fn leads(&self, node: usize) -> Option<u64> {
        self.nodes[node].reign.as_ref().map(|reign| reign.term)
    }

    /// A request reaches a node that believes that it leads.
    pub(super) fn deliver(&mut self, world: &World, mail: usize, node: usize, copy: bool) -> Option<()> {
        let Mail { id, ask, place: Place::Wire, .. } = *self.mail.get(mail)? else { return None };
        if copy {
            self.left.duplicates = self.left.duplicates.checked_sub(1)?;
            if self.mail_of(id.client()) == world.mail_most {
                return None;
            }
            self.mail.push(self.mail[mail]);
        }
        let term = self.leads(node)?;
        if ask == Ask::Renew {
            // At a deposed leader it gets no confirmation: as if it was lost.
            if term != self.term && !world.is(Mutant::NoQuorum) {
                return None;
            }
            self.mail[mail].place = match self.runs(node) {
                true => Place::Arrived { node, at: self.node_now(node) },
                false => Place::Socket { node },
            };
        } else {
            // What a deposed leader appends is lost: as if the request was.
            if term != self.term || !self.runs(node) {
                return None;
            }
            self.mail.remove(mail);
            self.tail.push(Pending { term, written: Written::Asked(ask, id) });
        }
        Some(())
    }

    /// A node that stood still reads what has come meanwhile.
    pub(super) fn read(&mut self, mail: usize) -> Option<()> {
        let Place::Socket { node } = self.mail.get(mail)?.place else { return None };
        if !self.runs(node) {
            return None;
        }
        self.mail[mail].place = Place::Arrived { node, at: self.node_now(node) };
        Some(())
    }

    /// A node answers a renewal, once it knows that a majority has confirmed, after the arrival, that it leads.
    ///
    /// While it leads the newest term that can be at any time, so it is one step; what was confirmed before it was
    /// deposed is chosen when it is deposed.
    pub(super) fn handle(&mut self, world: &World, mail: usize) -> Option<()> {
        let Mail { id, awaited, place, .. } = *self.mail.get(mail)?;
        let (node, at, term) = match place {
            Place::Arrived { node, at } => (node, at, self.leads(node)?),
            Place::Confirmed { node, at, term } => (node, at, term),
            Place::Wire | Place::Socket { .. } | Place::Answered(_) => return None,
        };
        let confirmed = term == self.term || matches!(place, Place::Confirmed { .. });
        if !self.runs(node) || !(confirmed || world.is(Mutant::NoQuorum)) {
            return None;
        }
        let arrived_at_tick = self.tick_at(node, at);
        let now = self.node_now(node);
        let Some(deadlines) = self.deadlines_mut(node).filter(|deadlines| deadlines.term() == term) else {
            self.mail.remove(mail);
            return Some(());
        };
        let known = deadlines.deadline(&id.lease());
        let mut renewal = deadlines.renew(&id.lease(), at);
        if renewal == Renewal::Gone && known.is_some() {
            self.note(Note::RenewalRacesExpiry);
            if world.is(Mutant::RenewsExpiring) {
                renewal = Renewal::Extended;
            }
        }
        if renewal == Renewal::Extended {
            let acknowledged = &mut self.acknowledged[id.index()];
            *acknowledged = arrived_at_tick.max(*acknowledged);
            if known.is_some_and(|deadline| deadline <= now) {
                self.note(Note::RenewedAfterDeadline);
            }
        }
        let answer = if renewal == Renewal::Extended { Answer::Extended } else { Answer::Gone };
        if awaited {
            self.mail[mail].place = Place::Answered(answer);
        } else {
            self.mail.remove(mail);
        }
        Some(())
    }

    /// Whether the node's timer is to wake now.
    pub(super) fn is_to_wake(&self, node: usize) -> bool {
        let asked = self.deadlines(node).and_then(Deadlines::next_wake);
        self.runs(node) && asked.is_some_and(|asked| asked <= self.node_now(node))
    }

    /// The node's timer wakes, and what is due is to be proposed for expiry.
    pub(super) fn wake(&mut self, world: &World, node: usize) -> Option<()> {
        if !self.is_to_wake(node) {
            return None;
        }
        let (term, now) = (self.leads(node)?, self.node_now(node));
        let asked = self.deadlines(node)?.next_wake()?;
        // Of what lay further ahead than this, no renewal that waits to be read comes too late.
        let unread: Vec<_> = self.mail.iter().filter(|mail| mail.place == Place::Socket { node }).collect();
        let owed: Vec<_> = unread
            .iter()
            .map(|mail| mail.id.lease())
            .filter(|id| {
                self.deadlines(node).and_then(|d| d.deadline(id)).is_some_and(|at| at > asked + TOLERANCE)
            })
            .collect();
        let waits = !unread.is_empty();
        let deadlines = self.deadlines_mut(node)?;
        let asked = if world.is(Mutant::NoCompensation) { now } else { asked };
        let woke = deadlines.woke(asked, now);
        let ended = deadlines.due(now, EXPIRE_MAX);
        if matches!(woke, Wake::Stalled(_)) && waits {
            self.note(Note::Stall);
        }
        if ended.iter().any(|(id, _)| owed.contains(id)) {
            self.breaks(Rule::NotEarly);
        }
        if !ended.is_empty() {
            self.expiries.push(Expiry { node, term, ended: Arc::new(ended) });
        }
        Some(())
    }

    pub(super) fn stall(&mut self, node: usize) -> Option<()> {
        self.left.stalls = self.left.stalls.checked_sub(1)?;
        if !self.runs(node) || self.nodes[node].reign.is_none() {
            return None;
        }
        self.nodes[node].stalled = Some(self.tick);
        Some(())
    }

    pub(super) fn resume(&mut self, node: usize) -> Option<()> {
        let since = self.nodes[node].stalled.take()?;
        (since < self.tick).then_some(())
    }

    /// The node hears no majority: it freezes its deadlines.
    pub(super) fn doubt(&mut self, node: usize) -> Option<()> {
        let now = self.node_now(node);
        self.left.doubts = self.left.doubts.checked_sub(1)?;
        if !self.runs(node) || self.deadlines(node)?.moments().frozen_since.is_some() {
            return None;
        }
        self.deadlines_mut(node)?.freeze(now);
        Some(())
    }

    /// Whether the node has heard no majority for so many ticks.
    pub(super) fn has_doubted(&self, node: usize, ticks: u64) -> bool {
        let since = self.deadlines(node).and_then(|deadlines| deadlines.moments().frozen_since);
        since.is_some_and(|since| self.tick - self.tick_at(node, since) >= ticks)
    }

    pub(super) fn trust(&mut self, node: usize) -> Option<()> {
        let now = self.node_now(node);
        let since = self.deadlines(node)?.moments().frozen_since?;
        if !self.runs(node) || since == now {
            return None;
        }
        self.deadlines_mut(node)?.thaw(now);
        self.note(Note::Thawed);
        Some(())
    }

    /// The other node is elected; so much of the old leader's tail survives. What waits at the old one for its
    /// confirmation had it before, or gets none any more.
    pub(super) fn elect(
        &mut self,
        world: &World,
        node: usize,
        survive: usize,
        confirmed: bool,
    ) -> Option<()> {
        self.left.elections = self.left.elections.checked_sub(1)?;
        if node == self.leader || !self.runs(node) || survive > self.tail.len() {
            return None;
        }
        let (old, term) = (self.leader, self.term);
        if confirmed {
            let mut some = false;
            for mail in &mut self.mail {
                if let Place::Arrived { node, at } = mail.place
                    && node == old
                {
                    mail.place = Place::Confirmed { node, at, term };
                    some = true;
                }
            }
            if !some {
                return None;
            }
        }
        self.term += 1;
        self.leader = node;
        self.tail.truncate(survive);
        self.tail.push(Pending { term: self.term, written: Written::Blank });
        let over = self.nodes[node].reign.replace(Reign { term: self.term, deadlines: None });
        if world.is(Mutant::KeepsDeadlines) && over.is_some() {
            self.nodes[node].kept = over.and_then(|reign| reign.deadlines);
        }
        Some(())
    }

    /// An expiry is appended by whoever leads.
    pub(super) fn propose(&mut self, expiry: usize) -> Option<()> {
        let node = self.expiries.get(expiry)?.node;
        if !self.runs(node) || !self.runs(self.leader) {
            return None;
        }
        let expiry = self.expiries.remove(expiry);
        self.tail.push(Pending { term: self.term, written: Written::Expire(expiry) });
        Some(())
    }

    /// An expiry is not appended, and its leader hears so.
    pub(super) fn fail(&mut self, expiry: usize) -> Option<()> {
        if expiry >= self.expiries.len() {
            return None;
        }
        let expiry = self.expiries.remove(expiry);
        self.take_failure(&expiry)
    }

    /// An expiry is appended, and its leader waits no longer to hear of it.
    pub(super) fn give_up(&mut self, at: usize) -> Option<()> {
        let Written::Expire(expiry) = &self.tail.get(at)?.written else { return None };
        self.take_failure(&expiry.clone())
    }

    fn take_failure(&mut self, expiry: &Expiry) -> Option<()> {
        self.left.failures = self.left.failures.checked_sub(1)?;
        let now = self.node_now(expiry.node);
        if !self.runs(expiry.node) {
            return None;
        }
        let ids: Vec<_> = expiry.ended.iter().map(|(id, _)| *id).collect();
        let deadlines =
            self.deadlines_mut(expiry.node).filter(|deadlines| deadlines.term() == expiry.term)?;
        deadlines.proposal_failed(&ids, now);
        Some(())
    }

    /// The first entry of the tail commits, and the leader applies it.
    pub(super) fn commit(&mut self, world: &World) -> Option<()> {
        if self.tail.is_empty() || !self.runs(self.leader) {
            return None;
        }
        let pending = self.tail.remove(0);
        let Pending { term, ref written } = pending;
        self.index += 1;
        let (leader, index) = (self.leader, self.index);
        let command = match written {
            Written::Blank => {
                Arc::make_mut(&mut self.table).skip(index);
                let deadlines = match self.nodes[leader].kept.take() {
                    Some(kept) => self.kept_deadlines(world, leader, &kept),
                    None => self.fresh_deadlines(world, leader),
                };
                self.nodes[leader].reign = Some(Reign { term, deadlines: Some(Arc::new(deadlines)) });
                self.note_leaders();
                return Some(());
            }
            Written::Asked(ask, id) => self.command(world, *ask, *id),
            Written::Expire(expiry) => {
                // Without the check an expiry counts in whatever term it stands.
                let found = if world.is(Mutant::NoTermCheck) { term } else { expiry.term };
                Command::Expire { term: found, ended: expiry.ended.to_vec() }
            }
        };
        let mut events = Vec::new();
        let last_token = self.table.last_token();
        let entry = Entry { wall_unix_ms: 0, command };
        let table: &mut Table = Arc::make_mut(&mut self.table);
        let outcome = table.apply(index, term, &entry, &mut events);
        self.judge(&pending, last_token, &outcome, &events);
        self.tell_deadlines(leader, &events);
        if let Written::Asked(Ask::Acquire, id) = pending.written {
            self.answer(term, id, &outcome);
        }
        Some(())
    }

    fn command(&self, world: &World, ask: Ask, id: Id) -> Command {
        let lease_id = id.lease();
        match ask {
            Ask::Release => Command::Release { lease_id },
            Ask::Cancel => Command::Cancel { lease_id },
            Ask::Acquire | Ask::Renew => Command::Acquire(Acquire {
                name: Name::new("name").unwrap(),
                lease_id,
                agent: Holder {
                    agent: AgentName::new(["a", "b"][id.client() % CLIENTS]).unwrap(),
                    node: NodeId::from_bits(id.client() as u64),
                },
                ttl_ms: u64::try_from(world.ttl().as_millis()).unwrap(),
                wait: true,
                metadata: Bytes::new(),
                // The mutant's retry refreshes what it must not.
                seen: match world.is(Mutant::ForgetsEnded) {
                    true => self.index - 1,
                    false => self.seen[id.index()],
                },
                mode: Mode::Exclusive,
                lock_delay_ms: 0,
            }),
        }
    }

    /// As `Leader::applied` does.
    fn tell_deadlines(&mut self, leader: usize, events: &[Event]) {
        let now = self.node_now(leader);
        let Some(deadlines) = self.deadlines_mut(leader) else { return };
        for event in events {
            match event {
                Event::Queued { lease_id, ttl_ms, .. } => {
                    deadlines.began(*lease_id, None, Duration::from_millis(*ttl_ms), now);
                }
                Event::Granted { lease_id, token, ttl_ms, .. } => {
                    deadlines.began(*lease_id, Some(*token), Duration::from_millis(*ttl_ms), now);
                }
                Event::Ended { lease_id, .. } | Event::Left { lease_id, .. } => deadlines.ended(lease_id),
                Event::Founded { .. }
                | Event::Closed { .. }
                | Event::Opened { .. }
                | Event::Revoked { .. } => {}
            }
        }
    }

    /// The leader that appended an acquire answers it, if its client still asks.
    fn answer(&mut self, term: u64, id: Id, outcome: &Outcome) {
        let client = id.client();
        let asks = self.id_of(client) == Some(id) && matches!(self.clients[client].phase, Phase::Asking(_));
        if term != self.term || !asks {
            return;
        }
        let answer = match outcome {
            Outcome::Granted { token } => Answer::Granted(*token),
            Outcome::Waiting { .. } => Answer::Waiting,
            _ => Answer::Ended,
        };
        let place = Place::Answered(answer);
        if !self.mail.iter().any(|mail| mail.id == id && mail.place == place) {
            self.mail.push(Mail { id, ask: Ask::Acquire, awaited: true, place });
        }
    }

    /// Whether an acquire of this id stands in the tail.
    pub(super) fn is_written(&self, id: Id) -> bool {
        let stands = |written: &Written| matches!(written, Written::Asked(Ask::Acquire, of) if *of == id);
        self.tail.iter().any(|pending| stands(&pending.written))
    }
}

impl Place {
    /// The node at which the message is.
    pub(super) fn node(self) -> Option<usize> {
        match self {
            Self::Wire | Self::Answered(_) => None,
            Self::Socket { node } | Self::Arrived { node, .. } | Self::Confirmed { node, .. } => Some(node),
        }
    }
}
