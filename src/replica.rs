//! This node's copy of the lease table, and who is told of its changes.
//!
//! Consensus applies committed entries to it one after the other; everyone else reads. The one [`Applied`] listener
//! is called after each entry *under the table's write lock*: whoever holds a read lock therefore sees a state that
//! the listener has been told of completely. The leader's deadlines rely on it: they are built under a read lock,
//! and no grant can slip between the table that they were built from and the first event that they hear of.

#[cfg(feature = "chaos")]
use std::collections::{BTreeMap, BTreeSet};
use std::{
    io,
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
};

#[cfg(feature = "chaos")]
use crate::{flaw::planted, id::NodeId};
use crate::{
    runtime::watch,
    table::{Entry, Event, Outcome, Table},
};

/// Hears of every applied entry, in order. Must be quick, and must not read the table through the replica.
pub(crate) trait Applied: Send + Sync {
    /// An entry was applied; `table` is the state after it.
    fn applied(&self, index: u64, term: u64, events: &[Event], table: &Table);

    /// The table was replaced by a snapshot: some entries were applied unseen.
    fn replaced(&self, index: u64, table: &Table);

    /// An entry that is about to be applied sets this membership. For those who look on in a simulation.
    #[cfg(feature = "chaos")]
    fn reconfigured(&self, _index: u64, _term: u64, _configuration: &Configuration) {}
}

/// A membership, as an entry has it.
#[cfg(feature = "chaos")]
pub(crate) struct Configuration {
    /// Of each of these sets a majority must agree. Two, where a change of voters is half done.
    pub(crate) voters: Vec<BTreeSet<NodeId>>,
    /// All members, with their agents' names.
    pub(crate) members: BTreeMap<NodeId, String>,
}

/// The table and its position in the log.
pub(crate) struct Replica {
    state: RwLock<State>,
    /// The index of the last applied entry, for those who wait for one.
    index: watch::Sender<u64>,
    listener: OnceLock<Weak<dyn Applied>>,
    /// Hears of everything before the listener.
    #[cfg(feature = "chaos")]
    onlooker: OnceLock<Arc<dyn Applied>>,
}

struct State {
    table: Table,
    index: u64,
    term: u64,
    /// Kept, so that applying allocates nothing in the steady state.
    events: Vec<Event>,
}

/// A read lock on the table. Keep it short: applying waits for it.
pub(crate) struct Reading<'a>(RwLockReadGuard<'a, State>);

impl Reading<'_> {
    /// The table.
    pub(crate) fn table(&self) -> &Table {
        &self.0.table
    }

    /// The index of the last applied entry; 0 before the first.
    pub(crate) fn index(&self) -> u64 {
        self.0.index
    }

    /// The term of the last applied entry.
    pub(crate) fn term(&self) -> u64 {
        self.0.term
    }
}

impl Replica {
    /// An empty table.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(State { table: Table::new(), index: 0, term: 0, events: Vec::new() }),
            index: watch::channel(0).0,
            listener: OnceLock::new(),
            #[cfg(feature = "chaos")]
            onlooker: OnceLock::new(),
        })
    }

    /// Who hears of changes, from now on. Only the first call counts.
    pub(crate) fn listen(&self, listener: Weak<dyn Applied>) {
        let _ = self.listener.set(listener);
    }

    /// Who looks on from now on, and hears of changes before anybody else. Only the first call counts.
    #[cfg(feature = "chaos")]
    pub(crate) fn show(&self, onlooker: Arc<dyn Applied>) {
        let _ = self.onlooker.set(onlooker);
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the table.
    pub(crate) fn read(&self) -> Reading<'_> {
        Reading(self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Applies a committed entry of ours.
    pub(crate) fn apply(&self, index: u64, term: u64, entry: &Entry) -> Outcome {
        let mut guard = self.write();
        let state = &mut *guard;
        state.events.clear();
        #[cfg(feature = "chaos")]
        let entry = &if planted!(WallClockInApply) {
            Entry { wall_unix_ms: crate::clock::wall_unix_ms(), command: entry.command.clone() }
        } else {
            entry.clone()
        };
        let outcome = state.table.apply(index, term, entry, &mut state.events);
        (state.index, state.term) = (index, term);
        self.tell(state);
        drop(guard);
        self.index.send_replace(index);
        outcome
    }

    /// An entry of openraft's own was committed.
    pub(crate) fn pass(&self, index: u64, term: u64) {
        let mut state = self.write();
        state.events.clear();
        state.table.skip(index);
        (state.index, state.term) = (index, term);
        self.tell(&state);
        drop(state);
        self.index.send_replace(index);
    }

    /// Tells of a membership that is about to be [passed](Self::pass).
    #[cfg(feature = "chaos")]
    pub(crate) fn reconfigured(&self, index: u64, term: u64, configuration: &Configuration) {
        if let Some(onlooker) = self.onlooker.get() {
            onlooker.reconfigured(index, term, configuration);
        }
    }

    fn tell(&self, state: &State) {
        self.each_listener(|listener| {
            listener.applied(state.index, state.term, &state.events, &state.table);
        });
    }

    fn each_listener(&self, tell: impl Fn(&dyn Applied)) {
        #[cfg(feature = "chaos")]
        if let Some(onlooker) = self.onlooker.get() {
            tell(&**onlooker);
        }
        if let Some(listener) = self.listener.get().and_then(Weak::upgrade) {
            tell(&*listener);
        }
    }

    /// The table's stored form.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        self.read().table().snapshot()
    }

    /// Reads a stored form, changing nothing.
    pub(crate) fn decode(&self, bytes: &[u8]) -> io::Result<Table> {
        let restored = Table::restore(bytes).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot's table: {error}"))
        });
        #[cfg(feature = "chaos")]
        let restored = restored.map(Table::spoiled);
        restored
    }

    /// Replaces the table.
    pub(crate) fn replace(&self, index: u64, term: u64, table: Table) {
        let mut state = self.write();
        state.table = table;
        (state.index, state.term) = (index, term);
        self.each_listener(|listener| listener.replaced(index, &state.table));
        drop(state);
        self.index.send_replace(index);
    }

    /// Waits until this replica has applied the index. Cancel-safe.
    pub(crate) async fn reach(&self, index: u64) {
        let mut seen = self.index.subscribe();
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = seen.wait_for(|applied| *applied >= index).await;
    }
}
