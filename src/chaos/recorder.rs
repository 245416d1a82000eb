//! Writes the [history](super::history) of a run, while it goes on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use super::{
    history::{
        Applied, Belief, Changed, Committed, Departure, History, Leadership, Life, Membership, Opening,
    },
    sim::Sim,
    trace::{Tracer, digest},
};
use crate::{
    MemberRole,
    change::{Change, ChangeKind, Filter},
    id::{LeaseId, NodeId},
    lease::Lease,
    mode::Mode,
    name::Name,
    replica::Configuration,
    session::LossReason,
    table::{Event, Table},
    token::Token,
};

/// Every so many entries the whole table is digested: all of them would be most of what a run costs.
const TABLE_EVERY: u64 = 8;

/// Where a history is written. Clones write the same one.
#[derive(Clone)]
pub(crate) struct Recorder {
    tracer: Tracer,
    pages: Arc<Mutex<Pages>>,
}

#[derive(Default)]
struct Pages {
    history: History,
    /// Who may believe, with the number of its belief.
    held: Vec<(usize, Weak<Lease>)>,
    /// The exclusive leases of the log that have not ended, with their agents' names.
    holders: BTreeMap<Token, String>,
    /// The life of each agent that goes on.
    alive: BTreeMap<usize, usize>,
    terms: Terms,
}

impl Recorder {
    /// Of `agents` the first `founders` found the cluster, and at most so many vote, unless the membership stays as it is.
    pub(crate) fn new(tracer: &Tracer, agents: usize, founders: usize, voters_max: Option<usize>) -> Self {
        let history = History { agents, founders, voters_max, drift_bounded: true, ..History::default() };
        let pages = Pages { history, ..Pages::default() };
        Self { tracer: tracer.clone(), pages: Arc::new(Mutex::new(pages)) }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The true time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.tracer.now()
    }

    /// Writes something.
    pub(crate) fn write<T>(&self, write: impl FnOnce(&mut History) -> T) -> T {
        write(&mut self.pages().history)
    }

    /// The whole history, at the end. Nothing is written any more.
    pub(crate) fn finish(&self) -> History {
        self.look(|_| true);
        std::mem::take(&mut self.pages().history)
    }

    /// The name of the agent that was granted a lease last which has not ended.
    pub(crate) fn last_holder(&self) -> Option<String> {
        self.pages().holders.last_key_value().map(|(_, agent)| agent.clone())
    }

    /// Somebody was handed a lease: it believes from now on. Returns the number of its belief.
    pub(crate) fn believes(&self, agent: usize, lease: &Arc<Lease>, mode: Mode) -> usize {
        let now = self.now();
        let name = lease.name().clone();
        self.look(|other| *other == name);
        let mut pages = self.pages();
        let number = pages.history.beliefs.len();
        let belief = Belief::seen(agent, name, lease.token(), mode, (now, now));
        pages.history.beliefs.push(Belief { lease_id: lease.id(), ..belief });
        // One that was lost on its way is none.
        if lease.held().peek() {
            pages.held.push((number, Arc::downgrade(lease)));
        } else if let Some(belief) = pages.history.beliefs.get_mut(number) {
            belief.over = Some(now);
        }
        number
    }

    /// Its holder was told why it is over.
    pub(crate) fn told(&self, belief: usize, reason: LossReason) {
        let now = self.now();
        if let Some(belief) = self.pages().history.beliefs.get_mut(belief) {
            belief.told.push(reason);
            belief.told_at.get_or_insert(now);
        }
    }

    /// Its holder gives it up by will.
    pub(crate) fn gives_up(&self, belief: usize) {
        if let Some(belief) = self.pages().history.beliefs.get_mut(belief) {
            belief.given_up = true;
        }
    }

    /// Looks who of these still believes. The look tells nobody: a holder finds out by itself, or never.
    pub(crate) fn look(&self, of: impl Fn(&Name) -> bool) {
        let now = self.now();
        let mut pages = self.pages();
        let Pages { history, held, .. } = &mut *pages;
        held.retain(|(number, lease)| {
            let Some(belief) = history.beliefs.get_mut(*number) else { return false };
            if !of(&belief.name) {
                return true;
            }
            // Dropped with its holder: nobody is there to believe.
            let lease = lease.upgrade();
            if lease.as_ref().is_some_and(|lease| lease.held().peek()) {
                belief.seen = now;
                belief.gaps.extend(belief.over.take().map(|over| (over, now)));
            } else {
                belief.over.get_or_insert(now);
            }
            lease.is_some_and(|lease| !lease.held().is_over())
        });
    }

    /// An agent applied an entry.
    pub(crate) fn applied(
        &self,
        (agent, life): (usize, u32),
        (index, term, events_digest): (u64, u64, u64),
        events: &[Event],
        state: &Table,
    ) {
        let at = self.now();
        let table = table_digest(index, state);
        let first = {
            let mut pages = self.pages();
            let entry = Some((term, events_digest));
            pages.history.applied.push(Applied { at, agent, life, index, entry, table });
            let first = !pages.history.log.contains_key(&index);
            if first {
                let changes = pages.terms.changed(index, events, state);
                pages.note(index, Committed { term, at, digest: events_digest, changes });
            }
            first
        };
        if first && !events.is_empty() {
            let about = |name: &Name| events.iter().any(|event| event.name() == Some(name));
            self.look(about);
        }
    }

    /// An agent is about to apply an entry that sets the membership.
    pub(crate) fn reconfigured(&self, index: u64, term: u64, configuration: &Configuration) {
        let (at, Configuration { voters, members }) = (self.now(), configuration);
        let membership = || Membership { term, at, voters: voters.clone(), members: members.clone() };
        self.write(|history| {
            history.memberships.entry(index).or_insert_with(membership);
        });
    }

    /// An agent opened its disk, which belongs to this member.
    pub(crate) fn identified(&self, agent: usize, node: NodeId, is_new: bool) {
        let at = self.now();
        self.write(|history| history.openings.push(Opening { at, agent, node, is_new }));
    }

    /// An agent begins to leave. Returns a number for [`departed`](Self::departed).
    pub(crate) fn departs(&self, agent: usize, led: bool) -> usize {
        let from = self.now();
        self.write(|history| {
            history.departures.push(Departure { agent, from, until: None, left: false, led });
            history.departures.len() - 1
        })
    }

    /// It has left, or goes on.
    pub(crate) fn departed(&self, departure: usize, left: bool) {
        let until = Some(self.now());
        self.write(|history| {
            if let Some(departure) = history.departures.get_mut(departure) {
                (departure.until, departure.left) = (until, left);
            }
        });
    }

    /// An agent took a snapshot.
    pub(crate) fn installed(&self, (agent, life): (usize, u32), index: u64, table: &Table) {
        let (at, table) = (self.now(), Some(digest(&table.snapshot())));
        self.write(|history| history.applied.push(Applied { at, agent, life, index, entry: None, table }));
    }

    /// An agent's process was started.
    pub(crate) fn born(&self, agent: usize) {
        let from = self.now();
        let mut pages = self.pages();
        let number = pages.history.lives.len();
        pages.history.lives.push(Life { agent, from, until: None, served: false });
        pages.alive.insert(agent, number);
    }

    /// An agent serves.
    pub(crate) fn serves(&self, agent: usize) {
        let mut pages = self.pages();
        let Some(number) = pages.alive.get(&agent).copied() else { return };
        if let Some(life) = pages.history.lives.get_mut(number) {
            life.served = true;
        }
    }

    /// An agent's process ended.
    pub(crate) fn died(&self, agent: usize) {
        let until = self.now();
        let mut pages = self.pages();
        let Some(number) = pages.alive.remove(&agent) else { return };
        if let Some(life) = pages.history.lives.get_mut(number) {
            life.until = Some(until);
        }
    }
}

/// Writes down who leads, for people.
pub(crate) fn see_who_leads(sim: &Sim) {
    for agent in 0..sim.agents() {
        let Some(status) = sim.agent(agent).map(|agent| agent.status()) else { continue };
        if status.role != MemberRole::Leader || status.stopped.is_some() {
            continue;
        }
        let (term, seen) = (status.term, sim.now());
        sim.recorder().write(|history| {
            let mut all = history.leaderships.iter_mut();
            match all.rfind(|other| other.agent == agent && other.term == term) {
                Some(same) => same.seen = seen,
                None => history.leaderships.push(Leadership { agent, term, from: seen, seen }),
            }
        });
    }
}

impl Pages {
    fn note(&mut self, index: u64, entry: Committed) {
        for changed in &entry.changes {
            match &changed.change.kind {
                ChangeKind::Granted { token, agent, .. } => {
                    self.holders.insert(*token, agent.as_str().to_owned());
                }
                ChangeKind::Ended { token, .. } => drop(self.holders.remove(token)),
                _ => {}
            }
        }
        self.history.log.insert(index, entry);
    }
}

/// A digest of the whole table after this entry; `None` for most of them.
pub(super) fn table_digest(index: u64, table: &Table) -> Option<u64> {
    index.is_multiple_of(TABLE_EVERY).then(|| digest(&table.snapshot()))
}

/// What an entry changed, as texts, and a digest of them. A lease id shows its first digits only, which tell leases of one run
/// apart.
pub(super) fn texts(events: &[Event]) -> (Vec<String>, u64) {
    let texts: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
    let digest = digest(&texts);
    (texts, digest)
}

/// Mode and lock delay of whoever waited or held: one that ends in the entry that grants it is in no table.
#[derive(Default)]
pub(super) struct Terms(BTreeMap<LeaseId, (Mode, u64)>);

impl Terms {
    /// What an entry changed; `table` is the state after it.
    pub(super) fn changed(&mut self, index: u64, events: &[Event], table: &Table) -> Vec<Changed> {
        let all = Filter::Prefix(String::new());
        let mut of = |event: &Event| {
            let change = Change::of(index, event, &all)?;
            let (lease_id, from_queue) = match event {
                Event::Founded { .. } => return None,
                Event::Granted { lease_id, from_queue, .. } => (*lease_id, *from_queue),
                Event::Queued { lease_id, .. }
                | Event::Ended { lease_id, .. }
                | Event::Left { lease_id, .. }
                | Event::Closed { lease_id, .. }
                | Event::Opened { lease_id, .. }
                | Event::Revoked { lease_id, .. } => (*lease_id, false),
            };
            self.learn(lease_id, table);
            let (mode, lock_delay_ms) = self.0.get(&lease_id).copied().unwrap_or_default();
            let lock_delay = Duration::from_millis(lock_delay_ms);
            Some(Changed { change, lease_id, from_queue, mode, lock_delay })
        };
        events.iter().filter_map(&mut of).collect()
    }

    fn learn(&mut self, id: LeaseId, table: &Table) {
        if let Some(found) = table.terms_of(&id) {
            self.0.insert(id, found);
        }
    }

    /// Everything is another's from now on.
    pub(super) fn replaced(&mut self, table: &Table) {
        table.all_live().for_each(|(id, _)| self.learn(id, table));
    }
}
