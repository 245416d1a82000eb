//! The latest applied changes, for watchers: a bounded memory that any of them reads at its own pace, from any point
//! that is still in it.
//!
//! Rejected: a channel for each watcher. It knows nothing from before it was made, so that nobody who lost its
//! connection could go on where it had been, and a slow watcher costs memory of its own.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    limits::{WATCH_BACKLOG_BYTES, WATCH_BACKLOG_MAX, WATCH_ENTRY_BYTES},
    table::Event,
};

/// The changes of one applied entry.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) index: u64,
    pub(crate) events: Vec<Event>,
    /// About how many bytes they take.
    weight: usize,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct History {
    batches: VecDeque<Arc<Batch>>,
    /// How many events there are in all batches.
    events: usize,
    /// About how many bytes they take.
    weight: usize,
    /// Every change after this index is here.
    complete_after: u64,
}

impl History {
    /// An entry changed something. Indexes grow from call to call.
    pub(crate) fn push(&mut self, index: u64, events: &[Event]) {
        let weight = events.iter().map(Event::weight).sum();
        if weight > WATCH_ENTRY_BYTES || events.len() > WATCH_BACKLOG_MAX {
            // No answer to a watcher could hold them: it is told what holds now instead.
            return self.restart(index);
        }
        self.events += events.len();
        self.weight += weight;
        self.batches.push_back(Arc::new(Batch { index, events: events.to_vec(), weight }));
        while self.events > WATCH_BACKLOG_MAX || self.weight > WATCH_BACKLOG_BYTES {
            let Some(oldest) = self.batches.pop_front() else { return };
            self.events -= oldest.events.len();
            self.weight -= oldest.weight;
            self.complete_after = oldest.index;
        }
    }

    /// What happened up to this index is unknown: a snapshot covers it, for instance.
    pub(crate) fn restart(&mut self, index: u64) {
        *self = Self { complete_after: index, ..Self::default() };
    }

    /// All changes after this index, the oldest first; `None` where some of them are forgotten.
    pub(crate) fn after(&self, index: u64) -> Option<impl Iterator<Item = &Arc<Batch>> + '_> {
        if index < self.complete_after {
            return None;
        }
        let from = self.batches.partition_point(|batch| batch.index <= index);
        Some(self.batches.range(from..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{LeaseId, NodeId},
        name::{AgentName, Name},
        table::{Holder, Revocation},
        token::Token,
    };

    fn events(count: usize) -> Vec<Event> {
        vec![Event::Founded { tokens_above: Token::new(1) }; count]
    }

    fn indexes(history: &History, after: u64) -> Option<Vec<u64>> {
        history.after(after).map(|batches| batches.map(|batch| batch.index).collect())
    }

    #[test]
    fn it_is_read_from_any_point_that_it_has() {
        let mut history = History::default();
        assert_eq!(indexes(&history, 0), Some(vec![]));
        [3, 4, 9].iter().for_each(|index| history.push(*index, &events(1)));
        assert_eq!(indexes(&history, 0), Some(vec![3, 4, 9]));
        assert_eq!(indexes(&history, 3), Some(vec![4, 9]));
        assert_eq!(indexes(&history, 5), Some(vec![9]));
        // A watcher that comes from an agent which is further.
        assert_eq!(indexes(&history, 100), Some(vec![]));
    }

    #[test]
    fn what_is_forgotten_is_a_gap_and_nothing_else_is() {
        let mut history = History::default();
        (1..=10).for_each(|index| history.push(index * 10, &events(WATCH_BACKLOG_MAX / 4)));
        assert_eq!(indexes(&history, 59), None, "60 is gone");
        assert_eq!(indexes(&history, 60), Some(vec![70, 80, 90, 100]));
        history.push(110, &events(WATCH_BACKLOG_MAX));
        assert_eq!(indexes(&history, 99), None);
        assert_eq!(indexes(&history, 100), Some(vec![110]), "the newest stays");
        history.push(120, &events(WATCH_BACKLOG_MAX + 1));
        assert_eq!(indexes(&history, 119), None, "but for one that is too large");
        assert_eq!(indexes(&history, 120), Some(vec![]));
    }

    #[test]
    fn its_bytes_are_bounded_too() {
        let heavy = |bytes: usize| {
            let revocation =
                Revocation { by: AgentName::new("a").unwrap(), reason: "r".repeat(bytes).into(), heir: None };
            let holder = Holder { agent: AgentName::new("b").unwrap(), node: NodeId::from_bits(1) };
            let (name, lease_id) = (Name::new("x").unwrap(), LeaseId::from_bits(1));
            Event::Revoked { name, lease_id, token: Token::new(1), holder, revocation }
        };
        let mut history = History::default();
        let quarter = heavy(WATCH_ENTRY_BYTES - 1024);
        for index in 1..=10 {
            history.push(index, std::slice::from_ref(&quarter));
        }
        assert!(history.weight <= WATCH_BACKLOG_BYTES, "{}", history.weight);
        assert_eq!(indexes(&history, 6), Some(vec![7, 8, 9, 10]));
        history.push(11, &[quarter.clone(), quarter]);
        assert_eq!(indexes(&history, 10), None);
        assert_eq!((indexes(&history, 11), history.weight), (Some(vec![]), 0));
    }

    #[test]
    fn what_a_snapshot_covers_is_unknown() {
        let mut history = History::default();
        history.push(5, &events(1));
        history.restart(20);
        assert_eq!(indexes(&history, 5), None);
        assert_eq!(indexes(&history, 20), Some(vec![]));
        history.push(21, &events(1));
        assert_eq!(indexes(&history, 20), Some(vec![21]));
    }
}
