//! The table as `benches/table.rs` drives it; there with the feature `test-support` only.

use bytes::Bytes;

use super::{Acquire, Command, Entry, Event, Holder, State, Table};
use crate::{AgentName, LeaseId, Name, NodeId, Token, mode::Mode};

const TERM: u64 = 1;

/// A table, and the log that is applied to it.
#[derive(Debug)]
pub struct TableBench {
    table: Table,
    events: Vec<Event>,
    holder: Holder,
    index: u64,
    ids: u128,
    /// The name that all queue for, and those that hold it or wait, the holder first.
    shared: Option<Name>,
    queue: std::collections::VecDeque<LeaseId>,
}

impl TableBench {
    /// A founded table; `None` never, but that names are checked.
    #[must_use]
    pub fn new() -> Option<Self> {
        let holder = Holder { agent: AgentName::new("agent-a").ok()?, node: NodeId::from_bits(1) };
        let mut new = Self {
            table: Table::new(),
            events: Vec::new(),
            holder,
            index: 0,
            ids: 0,
            shared: Name::new("bench/shared").ok(),
            queue: std::collections::VecDeque::new(),
        };
        new.apply(Command::Found { tokens_above: Token::floor_of_founding(0) });
        Some(new)
    }

    fn apply(&mut self, command: Command) {
        self.index += 1;
        self.events.clear();
        let entry = Entry { wall_unix_ms: 0, command };
        self.table.apply(self.index, TERM, &entry, &mut self.events);
    }

    fn acquire(&mut self, name: Name) -> LeaseId {
        self.ids += 1;
        // Spread over the map, as random ids are.
        let lease_id = LeaseId::from_bits(self.ids.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835));
        self.apply(Command::Acquire(Acquire {
            name,
            lease_id,
            agent: self.holder.clone(),
            ttl_ms: 10_000,
            wait: true,
            metadata: Bytes::new(),
            seen: self.index,
            mode: Mode::Exclusive,
            lock_delay_ms: 0,
        }));
        lease_id
    }

    /// Holds so many names.
    pub fn hold(&mut self, count: usize) {
        for name in (0..count).filter_map(|n| Name::new(format!("bench/held/{n:07}")).ok()) {
            self.acquire(name);
        }
    }

    /// An acquire and its release.
    pub fn pair(&mut self) {
        if let Ok(name) = Name::new("bench/pair") {
            let lease_id = self.acquire(name);
            self.apply(Command::Release { lease_id });
        }
    }

    /// So many queue for one name; the first holds it.
    pub fn queue(&mut self, count: usize) {
        for name in std::iter::repeat_n(self.shared.clone(), count).flatten() {
            let lease_id = self.acquire(name);
            self.queue.push_back(lease_id);
        }
    }

    /// The holder gives way to the next, and queues anew.
    pub fn handoff(&mut self) {
        if let (Some(lease_id), Some(name)) = (self.queue.pop_front(), self.shared.clone()) {
            self.apply(Command::Release { lease_id });
            let lease_id = self.acquire(name);
            self.queue.push_back(lease_id);
        }
    }

    /// What a renewal looks up.
    pub fn look_up(&self) -> bool {
        self.queue.front().is_some_and(|id| matches!(self.table.state(id), State::Holding(_)))
    }

    /// The stored form.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        self.table.snapshot()
    }

    /// Whether the stored form can be read.
    #[must_use]
    pub fn restores(bytes: &[u8]) -> bool {
        Table::restore(bytes).is_ok()
    }
}
