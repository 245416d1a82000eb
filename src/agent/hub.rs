//! Who hears of applied changes on this node: the leader's deadlines, those who await their turn, the leases that
//! this agent holds, and watchers. Called by the replica under the table's write lock, so everything here is short.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{history::History, leader::Leader};
use crate::{
    clock::Clock,
    id::LeaseId,
    lease::Renewer,
    message::Standing,
    replica::{Applied, Replica},
    runtime,
    table::{Event, Table},
};

/// See the file's head.
pub(crate) struct Hub {
    leader: OnceLock<Arc<Leader>>,
    renewer: OnceLock<Arc<Renewer>>,
    turns: Mutex<BTreeMap<LeaseId, Vec<oneshot::Sender<()>>>>,
    history: Mutex<History>,
}

impl Hub {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            leader: OnceLock::new(),
            renewer: OnceLock::new(),
            turns: Mutex::new(BTreeMap::new()),
            history: Mutex::default(),
        })
    }

    pub(crate) fn attach(&self, leader: Arc<Leader>, renewer: Arc<Renewer>) {
        let _ = self.leader.set(leader);
        let _ = self.renewer.set(renewer);
    }

    /// The latest applied changes. Read under the table's read lock, it ends where the table stands.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the id holds or has ended, at most `within`; answers where it stands then. Cancel-safe.
    pub(crate) async fn await_turn(
        &self,
        replica: &Replica,
        clock: &dyn Clock,
        lease_id: LeaseId,
        within: Duration,
    ) -> Standing {
        let began = clock.now();
        loop {
            // Registered before the look, so that no change falls between the two.
            let (tell, told) = oneshot::channel();
            let _registered = self.register(lease_id, tell);
            let standing = Standing::of(replica.read().table(), &lease_id);
            let left = within.saturating_sub(clock.now().since(began));
            if matches!(standing, Standing::Holding(_) | Standing::Ended(_)) || left.is_zero() {
                // Before the registration is dropped, which keeps only those that still listen.
                drop(told);
                return standing;
            }
            if runtime::timeout(left, told).await.is_err() {
                return Standing::of(replica.read().table(), &lease_id);
            }
        }
    }

    fn turns(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Vec<oneshot::Sender<()>>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, lease_id: LeaseId, tell: oneshot::Sender<()>) -> Registered<'_> {
        self.turns().entry(lease_id).or_default().push(tell);
        Registered { hub: self, lease_id }
    }
}

/// Cleans up after a waiter that was told, or went away.
struct Registered<'a> {
    hub: &'a Hub,
    lease_id: LeaseId,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut turns = self.hub.turns();
        if let Some(waiting) = turns.get_mut(&self.lease_id) {
            waiting.retain(|tell| !tell.is_closed());
            if waiting.is_empty() {
                turns.remove(&self.lease_id);
            }
        }
    }
}

impl Applied for Hub {
    fn applied(&self, index: u64, term: u64, events: &[Event], _table: &Table) {
        if let Some(leader) = self.leader.get() {
            leader.applied(term, events);
        }
        if events.is_empty() {
            return;
        }
        if let Some(renewer) = self.renewer.get() {
            renewer.applied(events);
        }
        {
            let mut turns = self.turns();
            for event in events {
                if let Event::Granted { lease_id, .. }
                | Event::Ended { lease_id, .. }
                | Event::Left { lease_id, .. } = event
                {
                    // Dropping the sender tells.
                    turns.remove(lease_id);
                }
            }
        }
        self.history().push(index, events);
    }

    fn replaced(&self, index: u64, table: &Table) {
        if let Some(leader) = self.leader.get() {
            leader.replaced();
        }
        if let Some(renewer) = self.renewer.get() {
            renewer.replaced(table);
        }
        // Everyone who awaits a turn looks again.
        self.turns().clear();
        self.history().restart(index);
    }
}
