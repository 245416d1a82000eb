//! The renewer: keeps the leases and the places in queues of one agent or client alive.
//!
//! One task. It sleeps until the next renewal is due, then sends one message for everything that is due or will be
//! soon. A message that is not answered costs nothing but time: it is tried again, with growing pauses, until the
//! deadline of each lease; what the holder may believe is decided by its session alone, never here.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    agenda::{Agenda, Taken},
    held::Held,
    requester::Requester,
};
use crate::{
    clock::Clock,
    dense::Dense,
    flaw::planted,
    id::LeaseId,
    limits::RENEW_MAX,
    message::{Gone, Request, Response, Verdict},
    runtime::{self, watch},
    session::LossReason,
    table::{EndReason, Event, Revocation, State as Standing, Table},
    time::Moment,
};

/// While nothing is due, the task looks at the clock this often: the timer doesn't count suspend, the clock does.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// A place in a queue is renewed when this part of its ttl has passed, as a lease is …
const RENEWALS_PER_TTL: u32 = 3;
/// … and tried again after this part of it.
const PAUSES_PER_TTL: u32 = 12;
/// A place in a queue is given up when whoever waits in it has not been seen for so long, and through so many renewals:
/// else a future that is kept and not polled would hold the name once its turn has come, for ever. Longer than any wait
/// in `acquire.rs` for one answer; the renewals, because a machine that was suspended has seen nobody meanwhile.
const UNSEEN_MAX: Duration = Duration::from_secs(15);
const UNSEEN_RENEWALS_MAX: u32 = 1;
/// One attempt may take this part of the shortest ttl among its leases, within the bounds below.
const ATTEMPT_PER_TTL: u32 = 6;
const ATTEMPT_MIN: Duration = Duration::from_millis(100);
const ATTEMPT_MAX: Duration = Duration::from_secs(2);

/// See the file's head.
pub(crate) struct Renewer {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    kept: Dense<LeaseId, Kept>,
    /// When each is due, unless it is on its way or not renewed here.
    agenda: Agenda,
    /// How many messages were begun: the number of the last one.
    messages: u64,
    /// How many attempts to hand leases over were begun.
    attempts: u64,
    /// When the task means to look again; what is due later need not wake it.
    looks_at: Moment,
    /// Revoked leases, whose holders have been told, and their ttls: they are given back, so that the next waiter gets
    /// its turn.
    give_back: Vec<(LeaseId, Duration)>,
    /// The agent stops: what is granted from now on has ended for this reason.
    over: Option<LossReason>,
}

/// As small as it can be: an agent may keep a hundred thousand leases alive.
struct Kept {
    what: What,
    next: Next,
}

/// Where it stands with its next renewal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// None is meant to come.
    Idle,
    /// It is in the agenda.
    Due(Moment),
    /// It is in the message of this number: another message's verdict is not about it.
    Asked(u64),
}

enum What {
    /// A lease in hand. Weak: who drops the lease ends the renewals.
    Lease { held: Weak<Held>, upkeep: Upkeep },
    /// A place in a queue. Boxed because it is rare.
    Queued(Box<Queued>),
}

/// What is done for a lease in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Upkeep {
    /// It is renewed in the background.
    pub(super) renewed: bool,
    /// Whoever believes in it asks this process's lease each time, so once that has ended it may be given back. Not so
    /// for the guards of the seed interface: their owners have a date, and nobody can tell them anything.
    pub(super) given_back: bool,
}

/// A place in a queue. Nobody believes in it, so no clock of this process ends it: it is kept alive until the leader
/// says that it is gone. A new leader starts its deadline afresh, however long there was none.
struct Queued {
    ttl: Duration,
    next: Moment,
    lost: watch::Sender<bool>,
    /// When whoever waits in it was last seen, …
    seen: Moment,
    /// … and how many renewals were sent since.
    renewals_since: u32,
}

impl Queued {
    /// It is renewed once more. False if nobody seems to wait in it.
    fn is_waited_in(&mut self, now: Moment) -> bool {
        self.renewals_since += 1;
        self.renewals_since <= UNSEEN_RENEWALS_MAX || now.since(self.seen) <= UNSEEN_MAX
    }
}

impl Kept {
    /// When to renew it, if it is to be renewed, and its ttl.
    fn wants(&self) -> Option<(Moment, Duration)> {
        match &self.what {
            What::Lease { upkeep: Upkeep { renewed: false, .. }, .. } => None,
            What::Lease { held, .. } => {
                let held = held.upgrade()?;
                Some((held.next_renewal()?, held.ttl()))
            }
            What::Queued(place) => Some((place.next, place.ttl)),
        }
    }

    fn ttl(&self) -> Duration {
        match &self.what {
            // Dropped just now: whoever did that gives it back as well.
            What::Lease { held, .. } => held.upgrade().map_or(ATTEMPT_MAX, |held| held.ttl()),
            What::Queued(place) => place.ttl,
        }
    }

    fn renewed(&mut self, sent: Moment) {
        match &mut self.what {
            What::Lease { held, .. } => {
                if let Some(held) = held.upgrade() {
                    // If it had ended before the answer came, its holder was told then.
                    let _ = held.renewed(sent);
                }
            }
            What::Queued(place) => place.next = sent + place.ttl / RENEWALS_PER_TTL,
        }
    }

    fn failed(&mut self, now: Moment) {
        match &mut self.what {
            What::Lease { held, .. } => {
                if let Some(held) = held.upgrade() {
                    held.renewal_failed();
                }
            }
            What::Queued(place) => place.next = now + place.ttl / PAUSES_PER_TTL,
        }
    }

    fn end(&self, reason: LossReason) {
        match &self.what {
            What::Lease { held, .. } => {
                if let Some(held) = held.upgrade() {
                    held.end(reason);
                }
            }
            What::Queued(place) => {
                place.lost.send_replace(true);
            }
        }
    }
}

impl State {
    fn requeue(&mut self, id: LeaseId) {
        let Some(kept) = self.kept.get_mut(&id) else { return };
        if let Next::Due(due) = kept.next {
            self.agenda.remove(&id, due);
        }
        kept.next = kept.wants().map_or(Next::Idle, |(at, ttl)| Next::Due(self.agenda.put(id, at, ttl)));
    }

    /// Its right to be renewed was taken away: its holder is told, and then it is given back.
    fn revoked(&mut self, id: &LeaseId, revocation: &Revocation) {
        let Some(kept) = self.kept.get(id) else { return };
        kept.end(revocation.into());
        if let What::Lease { upkeep: Upkeep { given_back: false, .. }, .. } = kept.what {
            return;
        }
        let ttl = kept.ttl();
        self.remove(id);
        self.give_back.push((*id, ttl));
    }

    fn remove(&mut self, id: &LeaseId) -> Option<Kept> {
        let kept = self.kept.remove(id)?;
        if let Next::Due(due) = kept.next {
            self.agenda.remove(id, due);
        }
        Some(kept)
    }
}

/// Why a lease is lost whose right to be renewed was taken away.
impl From<&Revocation> for LossReason {
    fn from(revocation: &Revocation) -> Self {
        let (by, reason) = (revocation.by.clone(), revocation.reason.as_ref().to_owned());
        match revocation.heir.clone() {
            Some(to) => Self::Transferred { to, by, reason },
            None => Self::Revoked { by, reason },
        }
    }
}

fn loss_of_end(reason: &EndReason) -> LossReason {
    match reason {
        EndReason::Revoked(revocation) => revocation.into(),
        EndReason::Released | EndReason::Cancelled | EndReason::Expired | EndReason::Transferred => {
            LossReason::ExpiredInContact
        }
    }
}

/// A place in a queue that is kept alive; given up when dropped.
pub(super) struct Place {
    renewer: Arc<Renewer>,
    id: LeaseId,
    lost: watch::Receiver<bool>,
}

impl Place {
    /// It is kept alive no more. False if it was lost before: what was granted to it may have been given back already.
    pub(super) fn leave(self) -> bool {
        self.renewer.forget(&self.id).is_some() && !*self.lost.borrow()
    }

    /// Resolves when the leader says that the place is gone. Cancel-safe.
    pub(super) async fn lost(&mut self) {
        if self.lost.wait_for(|lost| *lost).await.is_err() {
            // Taken out of the renewer otherwise than by loss: only `drop` does that.
            std::future::pending::<()>().await;
        }
    }

    /// Somebody still waits in it: to be told at least every [`UNSEEN_MAX`].
    pub(super) fn seen(&self) {
        let now = self.renewer.clock.now();
        if let Some(What::Queued(place)) =
            self.renewer.lock().kept.get_mut(&self.id).map(|kept| &mut kept.what)
        {
            (place.seen, place.renewals_since) = (now, 0);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.renewer.forget(&self.id);
    }
}

impl Renewer {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, state: Mutex::new(State::default()), wake: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a lease alive, or only listens for its end. False if it has ended already, because the agent stops.
    pub(super) fn keep(&self, id: LeaseId, held: &Arc<Held>, upkeep: Upkeep) -> bool {
        let over = self.insert(id, What::Lease { held: Arc::downgrade(held), upkeep });
        over.is_none_or(|reason| {
            held.end(reason);
            false
        })
    }

    /// Keeps a place in a queue alive until the returned value is dropped; it was asked for at `sent`.
    pub(super) fn wait_in_queue(self: &Arc<Self>, id: LeaseId, ttl: Duration, sent: Moment) -> Place {
        let next = sent + ttl / RENEWALS_PER_TTL;
        let (lost, receiver) = watch::channel(false);
        let seen = self.clock.now();
        self.insert(id, What::Queued(Box::new(Queued { ttl, next, lost, seen, renewals_since: 0 })));
        Place { renewer: self.clone(), id, lost: receiver }
    }

    /// Why it was not taken in, if it wasn't.
    fn insert(&self, id: LeaseId, what: What) -> Option<LossReason> {
        let mut state = self.lock();
        state.remove(&id);
        if state.over.is_some() {
            return state.over.clone();
        }
        state.kept.insert(id, Kept { what, next: Next::Idle });
        state.requeue(id);
        if state.agenda.first().is_some_and(|at| at < state.looks_at) {
            drop(state);
            self.wake.notify_one();
        }
        None
    }

    /// Renews no more, and listens no more for its end. Whether it did renew, if it was still listened for.
    pub(super) fn forget(&self, id: &LeaseId) -> Option<bool> {
        let forgotten = self.lock().remove(id)?;
        Some(!matches!(forgotten.what, What::Lease { upkeep: Upkeep { renewed: false, .. }, .. }))
    }

    /// The number of an attempt to hand a lease over: larger than all before.
    pub(super) fn next_attempt(&self) -> u64 {
        let mut state = self.lock();
        state.attempts += 1;
        state.attempts
    }

    /// Every lease ends for this reason, those that are granted later as well: the agent stops. Returns the ids of those
    /// that are to be given back.
    pub(crate) fn end_all(&self, reason: &LossReason) -> Vec<LeaseId> {
        let old = {
            let mut state = self.lock();
            let over = Some(state.over.clone().unwrap_or_else(|| reason.clone()));
            // The answers of the last messages may still come, and handovers still be under way.
            let new = State { over, messages: state.messages, attempts: state.attempts, ..State::default() };
            std::mem::replace(&mut *state, new)
        };
        let mut ids: Vec<LeaseId> = old.give_back.iter().map(|(id, _)| *id).collect();
        for (id, kept) in old.kept.iter() {
            kept.end(reason.clone());
            if !matches!(kept.what, What::Lease { upkeep: Upkeep { given_back: false, .. }, .. }) {
                ids.push(*id);
            }
        }
        ids
    }

    /// The agent goes on after all: what is granted from here on is kept again.
    pub(crate) fn go_on(&self) {
        self.lock().over = None;
    }

    /// Tells holders and waiters of ends that this agent's replica has applied. Short: the table's lock is held.
    pub(crate) fn applied(&self, events: &[Event]) {
        let mut state = self.lock();
        if state.kept.is_empty() {
            return;
        }
        for event in events {
            match event {
                Event::Ended { lease_id, reason, .. } => {
                    if let Some(kept) = state.remove(lease_id) {
                        kept.end(loss_of_end(reason));
                    }
                }
                Event::Left { lease_id, .. } => {
                    if let Some(kept) = state.kept.get(lease_id) {
                        kept.end(LossReason::ExpiredInContact);
                    }
                }
                Event::Revoked { lease_id, revocation, .. } => {
                    state.revoked(lease_id, revocation);
                    self.wake.notify_one();
                }
                Event::Founded { .. }
                | Event::Queued { .. }
                | Event::Granted { .. }
                | Event::Closed { .. }
                | Event::Opened { .. } => {}
            }
        }
    }

    /// A snapshot replaced the replica's table. It may be older than the newest grant, so only what it *knows* to
    /// have ended has ended.
    pub(crate) fn replaced(&self, table: &Table) {
        let state = self.lock();
        for (id, kept) in state.kept.iter() {
            if let Standing::Ended(_) = table.state(id) {
                kept.end(LossReason::ExpiredInContact);
            }
        }
    }

    /// The task: renews until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, requester: Arc<dyn Requester>) {
        loop {
            for (lease_id, ttl) in std::mem::take(&mut self.lock().give_back) {
                let asking = requester.clone();
                requester.spawn(Box::pin(async move {
                    // For as long as it may stand in somebody's way.
                    asking.ask(&Request::Release { lease_id }, ttl).await;
                }));
            }
            let now = self.clock.now();
            let Some((message, due)) = self.take_due(now) else {
                let nap = {
                    let mut state = self.lock();
                    let next = state.agenda.first();
                    let nap = next.map(|at| at.since(now).min(LOOK_AT_LEAST_EVERY));
                    state.looks_at = nap.map_or(Moment::NEVER, |nap| now + nap);
                    nap
                };
                match nap {
                    None => self.wake.notified().await,
                    Some(nap) => drop(runtime::select2(self.wake.notified(), runtime::sleep(nap)).await),
                }
                continue;
            };
            // Its own task: an answer that is lost or late holds up nothing else.
            let (renewer, asking) = (self.clone(), requester.clone());
            requester.spawn(Box::pin(async move { renewer.send(asking, message, due).await }));
        }
    }

    /// Takes what is due out of the agenda, for a message of its own.
    fn take_due(&self, now: Moment) -> Option<(u64, Taken)> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut due = state.agenda.take(now, RENEW_MAX)?;
        state.messages += 1;
        due.ids.retain(|id| {
            let Some(kept) = state.kept.get_mut(id) else { return false };
            // Nobody believes any more in what has ended meanwhile: to renew it would keep others waiting.
            let wanted = kept.wants().is_some();
            kept.next = if wanted { Next::Asked(state.messages) } else { Next::Idle };
            let What::Queued(place) = &mut kept.what else { return wanted };
            let is_waited_in = place.is_waited_in(now);
            if !is_waited_in {
                tracing::warn!(%id, "a place in a queue is given up: its future has not been polled for long");
                kept.next = Next::Idle;
                place.lost.send_replace(true);
            }
            is_waited_in
        });
        Some((state.messages, due))
    }

    async fn send(&self, requester: Arc<dyn Requester>, message: u64, due: Taken) {
        let Taken { ids, shortest_ttl } = due;
        if ids.is_empty() {
            return;
        }
        let within = (shortest_ttl / ATTEMPT_PER_TTL).clamp(ATTEMPT_MIN, ATTEMPT_MAX);
        let sent = self.clock.now();
        let answered = requester.ask(&Request::Renew { leases: ids.clone() }, within).await;
        let now = self.clock.now();
        let verdicts = match answered.response {
            Response::Renewed(verdicts) if verdicts.len() == ids.len() => Some(verdicts),
            other => {
                tracing::debug!(leases = ids.len(), response = ?other, "a renewal was not answered; it is tried again");
                None
            }
        };
        let sent = if planted!(DeadlineFromReceipt) { now } else { sent };
        self.answered(message, &ids, verdicts, sent, now);
        self.wake.notify_one();
    }

    /// Takes an answer in, or the want of one.
    fn answered(
        &self,
        message: u64,
        ids: &[LeaseId],
        verdicts: Option<Vec<Verdict>>,
        sent: Moment,
        now: Moment,
    ) {
        let mut state = self.lock();
        // What is gone was forgotten meanwhile; what is in no message, or in another one, was a place in a queue when
        // it was asked for, and has become a lease since.
        let is_about = |kept: &Kept| kept.next == Next::Asked(message);
        let Some(verdicts) = verdicts else {
            #[cfg(feature = "metrics")]
            crate::metrics::renewals("unanswered", ids.len());
            for id in ids {
                if let Some(kept) = state.kept.get_mut(id).filter(|kept| is_about(kept)) {
                    kept.failed(now);
                    state.requeue(*id);
                }
            }
            return;
        };
        #[cfg(feature = "metrics")]
        {
            let extended = verdicts.iter().filter(|verdict| **verdict == Verdict::Extended).count();
            crate::metrics::renewals("extended", extended);
            crate::metrics::renewals("gone", verdicts.len() - extended);
        }
        for (id, verdict) in ids.iter().zip(verdicts) {
            let Some(kept) = state.kept.get_mut(id).filter(|kept| is_about(kept)) else { continue };
            match verdict {
                Verdict::Extended => {
                    kept.renewed(sent);
                    state.requeue(*id);
                }
                Verdict::Gone(Gone::Revoked(revocation)) => {
                    state.revoked(id, &revocation);
                }
                Verdict::Gone(_) => {
                    if let Some(kept) = state.remove(id) {
                        kept.end(LossReason::ExpiredInContact);
                    }
                }
            }
        }
    }
}
