//! What a snapshot would be worth that left something out: planted bugs, for the simulation to find.

use super::{EndedIds, Table};
use crate::{flaw::planted, token::Token};

impl Table {
    /// The restored table, without what the planted flaw leaves out.
    pub(crate) fn spoiled(mut self) -> Self {
        if planted!(SnapshotWithoutToken) {
            let held =
                self.names.values().flat_map(|slot| slot.holders.iter().map(|lease| lease.token)).max();
            // Where nothing is held, what the founding began with.
            let floor = self.last_token.map(|last| Token::new(last.get() >> 20 << 20));
            self.last_token = held.or(floor);
        }
        if planted!(SnapshotWithoutEnded) {
            self.ended = EndedIds::new(self.bounds.ended_ids);
        }
        if planted!(SnapshotWithoutWaiters) {
            let queues: Vec<_> =
                self.names.values_mut().map(|slot| std::mem::take(&mut slot.queue)).collect();
            for waiter in queues.iter().flat_map(|queue| queue.iter()) {
                self.live.remove(&waiter.lease_id);
                self.waiting = self.waiting.saturating_sub(1);
            }
        }
        self
    }
}
