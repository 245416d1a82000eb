//! The leader's part: it keeps a deadline for every holder and waiter, confirms renewals, and expires what nobody
//! renewed. The rules are in [`Deadlines`](crate::deadlines), which is pure; this file gives it the time, hands it
//! the applied changes, and proposes what it finds due.
//!
//! Why no lease ends early (L4), and none is confirmed that may be granted to another (L1, L5):
//!
//! 1. *When deadlines exist.* Only while this node leads term T and has applied an entry of T: then its table holds
//!    everything that earlier leaders committed. They are built under the table's read lock, from that table, all
//!    afresh; every later change reaches them through [`Applied`], under the table's write lock. So they always
//!    describe the applied table exactly, and a deadline never counts from before this leadership.
//! 2. *Renewal.* The moment of arrival is read first. Then a quorum confirms that this node leads (`ReadIndex`,
//!    asked after the arrival), and only if the term it confirms is the deadlines' own are they extended, counting
//!    from the arrival. A deposed leader gets no quorum: it confirms nothing. Once an expiry was proposed for a lease
//!    it isn't renewed any more, so no `Expire` in flight can hit a lease that was confirmed after it.
//! 3. *Expiry.* Proposed with "only in term T"; apply checks the term once more. While the last acknowledgement of a
//!    quorum is older than the leader lease, the deadlines are frozen: nothing is proposed.
//! 4. *Stalls.* The timer knows when it wanted to wake. Waking late, it first adds the delay to every deadline. It
//!    waits for nothing else, so that a slow commit isn't taken for a stall: proposals have tasks of their own.
//! 5. *Once a term.* Deadlines that were dropped are never built again for the same term: an `Expire` of that term may
//!    be under way for a lease that they would call renewable.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

use super::ledger::Ledger;
use crate::{
    clock::{self, Clock},
    deadlines::{Deadlines, Renewal, Wake},
    flaw::planted,
    id::LeaseId,
    limits::EXPIRE_MAX,
    message::{Failure, Gone, Verdict},
    name::AgentName,
    quotas::Quotas,
    raft::{Confirmed, Consensus, ConsensusError},
    replica::Replica,
    runtime,
    table::{Acquire, Command, Entry, Event},
    tasks::Tasks,
    time::{Drift, Moment},
    token::Token,
};

/// While there are no deadlines, or none is near, the timer sleeps for at most this long.
const NAP_MAX: Duration = Duration::from_secs(60);

/// This node's leadership: idle on a follower.
pub(crate) struct Leader {
    consensus: Consensus,
    replica: Arc<Replica>,
    clock: Arc<dyn Clock>,
    drift: Drift,
    /// How long an expiry may take to commit before it is proposed again.
    patience: Duration,
    /// Exactly while this node leads and is ready (argument 1).
    deadlines: Mutex<Kept>,
    /// Wakes the timer: a deadline came that is earlier than what it sleeps for, or leadership changed.
    wake: Notify,
    /// Tells the task that follows leadership to look again: an entry of the term that it waits for was applied.
    ready: Notify,
    /// The term that this node leads and isn't ready in; 0 if none.
    awaited: AtomicU64,
    /// When the timer means to wake; [`Moment::NEVER`] while it is awake.
    asked: Mutex<Moment>,
    barrier: Mutex<Barrier>,
    quotas: Quotas,
    tasks: Tasks,
}

/// An acquire that counts as under way.
pub(crate) struct Counted<'a> {
    kept: &'a Mutex<Kept>,
    agent: AgentName,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        lock(self.kept).ledger.over(&self.agent);
    }
}

/// The deadlines of the term that this node leads.
#[derive(Default)]
struct Kept {
    now: Option<Deadlines>,
    /// Of what they are about.
    ledger: Ledger,
    /// The last term whose deadlines were dropped.
    over: u64,
    /// The last that were dropped, where they are kept by mistake.
    #[cfg(feature = "chaos")]
    old: Option<Deadlines>,
}

impl Kept {
    fn drop_them(&mut self) -> Option<u64> {
        let dropped = self.now.take()?;
        self.ledger.stop();
        let term = dropped.term();
        self.over = self.over.max(term);
        #[cfg(feature = "chaos")]
        if planted!(OldDeadlines) {
            self.old = Some(dropped);
        }
        Some(term)
    }
}

/// Renewals that wait for the next confirmation of leadership.
#[derive(Default)]
struct Barrier {
    /// Whether a task is confirming.
    running: bool,
    waiting: Vec<oneshot::Sender<Result<Confirmed, ConsensusError>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leader {
    pub(crate) fn new(
        consensus: Consensus,
        replica: Arc<Replica>,
        clock: Arc<dyn Clock>,
        drift: Drift,
        patience: Duration,
        quotas: Quotas,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new(Self {
            consensus,
            replica,
            clock,
            drift,
            patience,
            deadlines: Mutex::default(),
            wake: Notify::new(),
            ready: Notify::new(),
            awaited: AtomicU64::new(0),
            asked: Mutex::new(Moment::NEVER),
            barrier: Mutex::default(),
            quotas,
            tasks,
        })
    }

    /// The term in which this node leads and is ready.
    pub(crate) fn ready_in(&self) -> Option<u64> {
        lock(&self.deadlines).now.as_ref().map(Deadlines::term)
    }

    /// Whether the founding is applied here.
    pub(crate) fn is_founded(&self) -> bool {
        self.replica.read().table().is_founded()
    }

    /// Resolves when this node may have become ready to lead: then [`lead`](Self::lead) is to be called again.
    /// Cancel-safe.
    pub(crate) async fn may_be_ready(&self) {
        self.ready.notified().await;
    }

    /// Called when openraft says who leads: in term `leads` this node, or another.
    ///
    /// Ready means: an entry of that very term is applied. See argument 1.
    pub(crate) fn lead(&self, leads: Option<u64>) {
        let reading = self.replica.read();
        let mut kept = lock(&self.deadlines);
        // Under the read lock: no entry is applied between this and the look at what has been.
        let awaited = leads.filter(|term| reading.term() < *term).unwrap_or(0);
        self.awaited.store(awaited, Ordering::Release);
        match leads {
            Some(term) if reading.term() == term => {
                if term > kept.over && kept.now.as_ref().is_none_or(|d| d.term() != term) {
                    kept.drop_them();
                    let table = reading.table();
                    let counts = table.counts();
                    tracing::info!(term, leases = counts.leases, waiters = counts.waiters, "leading");
                    let live = table.all_live();
                    let held = live.map(|(id, live)| (id, live.token, Duration::from_millis(live.ttl_ms)));
                    let now = self.clock.now();
                    #[cfg(feature = "chaos")]
                    let mut fresh = match kept.old.take() {
                        Some(old) => old.carried_over(term, now, held),
                        None => Deadlines::new(term, self.drift, now, held),
                    };
                    #[cfg(not(feature = "chaos"))]
                    let mut fresh = Deadlines::new(term, self.drift, now, held);
                    for (id, _) in table.all_live().filter(|(_, live)| !live.renewable) {
                        fresh.revoked(&id);
                    }
                    kept.now = Some(fresh);
                    kept.ledger.restart(table);
                    self.wake.notify_one();
                }
            }
            _ => {
                if let Some(term) = kept.drop_them() {
                    tracing::info!(term, "no longer leading");
                }
            }
        }
    }

    /// What an applied entry changed. Called under the table's write lock.
    pub(crate) fn applied(&self, term: u64, events: &[Event]) {
        if term == self.awaited.load(Ordering::Acquire) {
            self.ready.notify_one();
        }
        let mut guard = lock(&self.deadlines);
        let Kept { now: Some(deadlines), ledger, .. } = &mut *guard else { return };
        ledger.applied(events);
        let now = self.clock.now();
        let mut began = false;
        for event in events {
            match event {
                Event::Queued { lease_id, ttl_ms, .. } => {
                    deadlines.began(*lease_id, None, Duration::from_millis(*ttl_ms), now);
                    began = true;
                }
                Event::Granted { lease_id, token, ttl_ms, .. } => {
                    deadlines.began(*lease_id, Some(*token), Duration::from_millis(*ttl_ms), now);
                    began = true;
                }
                // After the end of its lease, under the same id: nothing renews it, and `Expire` opens the name.
                Event::Closed { lease_id, key, delay_ms, .. } => {
                    let delay_ms = if planted!(LockDelayHalved) { &(delay_ms / 2) } else { delay_ms };
                    deadlines.began(*lease_id, Some(*key), Duration::from_millis(*delay_ms), now);
                    deadlines.revoked(lease_id);
                    began = true;
                }
                Event::Ended { lease_id, .. }
                | Event::Left { lease_id, .. }
                | Event::Opened { lease_id, .. } => deadlines.ended(lease_id),
                Event::Revoked { lease_id, .. } => deadlines.revoked(lease_id),
                Event::Founded { .. } => {}
            }
        }
        if began {
            let next = deadlines.next_wake();
            drop(guard);
            if next.is_some_and(|next| next < *lock(&self.asked)) {
                self.wake.notify_one();
            }
        }
    }

    /// Whether the quotas let this acquire be proposed. It counts as under way until what is returned is dropped.
    ///
    /// # Errors
    /// Which quota is used up, and what to do.
    pub(crate) fn count(&self, acquire: &Acquire) -> Result<Option<Counted<'_>>, String> {
        let reading = self.replica.read();
        let counts = lock(&self.deadlines).ledger.begin(acquire, reading.table(), &self.quotas)?;
        Ok(counts.then(|| Counted { kept: &self.deadlines, agent: acquire.agent.agent.clone() }))
    }

    /// A snapshot replaced the table: a leader never installs one, so this node has been deposed.
    pub(crate) fn replaced(&self) {
        lock(&self.deadlines).drop_them();
    }

    /// Renews leases and waits. `arrived` is this node's clock when the message arrived.
    ///
    /// # Errors
    /// [`Failure::NotLeader`] where this node doesn't lead, or isn't ready yet: nothing happened.
    pub(crate) async fn renew(
        self: &Arc<Self>,
        arrived: Moment,
        leases: &[LeaseId],
    ) -> Result<Vec<Verdict>, Failure> {
        let confirmed = self.confirm_shared().await.map_err(super::route::failure_of)?;
        // What was committed before the confirmation counts: a revocation that is not applied yet, say.
        let index = confirmed.read_index;
        if self.replica.read().index() < index
            && runtime::timeout(self.patience, self.replica.reach(index)).await.is_err()
        {
            return Err(Failure::Unavailable(format!(
                "this leader has not applied log index {index} in time"
            )));
        }
        let reading = self.replica.read();
        let mut guard = lock(&self.deadlines);
        let deadlines = match guard.now.as_mut() {
            Some(deadlines) if deadlines.term() == confirmed.term => deadlines,
            _ => return Err(Failure::NotLeader { leader: None }),
        };
        Ok(leases
            .iter()
            .map(|id| match deadlines.renew(id, arrived) {
                Renewal::Extended => Verdict::Extended,
                Renewal::Gone => Verdict::Gone(Gone::of(reading.table(), id)),
            })
            .collect())
    }

    /// One confirmation for all that wait: those that come while one is under way share the next, so that each was
    /// asked for after its arrival. Cancel-safe: the confirming task belongs to no caller.
    pub(crate) async fn confirm_shared(self: &Arc<Self>) -> Result<Confirmed, ConsensusError> {
        let (tell, told) = oneshot::channel();
        let start = {
            let mut barrier = lock(&self.barrier);
            barrier.waiting.push(tell);
            !std::mem::replace(&mut barrier.running, true)
        };
        if start {
            let leader = self.clone();
            self.tasks.spawn(async move { leader.confirm_all().await });
        }
        told.await.unwrap_or_else(|_| Err(ConsensusError::Stopped("the confirming task is gone".to_owned())))
    }

    async fn confirm_all(&self) {
        loop {
            let waiting = {
                let mut barrier = lock(&self.barrier);
                if barrier.waiting.is_empty() {
                    barrier.running = false;
                    return;
                }
                std::mem::take(&mut barrier.waiting)
            };
            let confirmed = self.consensus.confirm().await;
            for tell in waiting {
                let _ = tell.send(confirmed.clone());
            }
        }
    }

    /// The timer: expires what is due, until the node stops.
    pub(crate) async fn keep_time(self: Arc<Self>) {
        loop {
            let now = self.clock.now();
            let asked = {
                let deadlines = lock(&self.deadlines);
                deadlines
                    .now
                    .as_ref()
                    .and_then(Deadlines::next_wake)
                    .unwrap_or(Moment::NEVER)
                    .min(now + NAP_MAX)
            };
            *lock(&self.asked) = asked;
            runtime::select2(self.wake.notified(), runtime::sleep(asked.since(now))).await;
            *lock(&self.asked) = Moment::NEVER;
            let mut clock_is_sound = true;
            let due = {
                let mut guard = lock(&self.deadlines);
                let Some(deadlines) = guard.now.as_mut() else { continue };
                // Read under the lock: a renewal handled in between would make this reading look like a clock gone back.
                let now = self.clock.now();
                match deadlines.woke(asked, now) {
                    Wake::Punctual => {}
                    Wake::Stalled(delay) => {
                        tracing::warn!(?delay, "this agent was stalled; every deadline is extended")
                    }
                    Wake::ClockBack(by) => {
                        tracing::error!(
                            ?by,
                            "this agent's clock went back; expiries wait for it, and leadership is handed over"
                        );
                        clock_is_sound = false;
                    }
                }
                if self.consensus.quorum_is_fresh() || planted!(ExpiryWithoutTerm) {
                    deadlines.thaw(now);
                } else {
                    deadlines.freeze(now);
                }
                let ids = deadlines.due(now, EXPIRE_MAX);
                (!ids.is_empty()).then(|| (deadlines.term(), ids))
            };
            if !clock_is_sound {
                let (consensus, patience) = (self.consensus.clone(), self.patience);
                self.tasks.spawn(async move { consensus.hand_over(patience).await });
            }
            if let Some((term, ids)) = due {
                let leader = self.clone();
                self.tasks.spawn(async move { leader.expire(term, ids).await });
            }
        }
    }

    async fn expire(&self, term: u64, ended: Vec<(LeaseId, Option<Token>)>) {
        tracing::info!(term, leases = ended.len(), "expiring");
        let ids: Vec<LeaseId> = ended.iter().map(|(id, _)| *id).collect();
        let entry = Entry { wall_unix_ms: clock::wall_unix_ms(), command: Command::Expire { term, ended } };
        #[cfg(feature = "chaos")]
        if planted!(ExpiryWithoutTerm) {
            return self.expire_whenever(entry).await;
        }
        let failed = match runtime::timeout(self.patience, self.consensus.propose_in(term, entry)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(runtime::TimedOut) => Some(format!("not committed within {:?}", self.patience)),
        };
        if let Some(error) = failed {
            tracing::warn!(term, leases = ids.len(), error, "an expiry failed; it will be proposed again");
            let mut guard = lock(&self.deadlines);
            if let Some(deadlines) = guard.now.as_mut().filter(|deadlines| deadlines.term() == term) {
                deadlines.proposal_failed(&ids, self.clock.now());
            }
        }
    }

    /// The flaw [`ExpiryWithoutTerm`](crate::flaw::Flaw::ExpiryWithoutTerm): what was due once is proposed until it is
    /// taken, whoever has led since.
    #[cfg(feature = "chaos")]
    async fn expire_whenever(&self, entry: Entry) {
        const TRIES: u32 = 300;
        for _ in 0..TRIES {
            let proposed = runtime::timeout(self.patience, self.consensus.propose(entry.clone())).await;
            if matches!(proposed, Ok(Ok(_))) {
                return;
            }
            runtime::sleep(Duration::from_millis(100)).await;
        }
    }
}
