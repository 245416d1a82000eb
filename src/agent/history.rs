//! The latest applied changes, for watchers: a bounded memory that any of them reads at its own pace, from any point
//! that is still in it.
//!
//! Rejected: a channel for each watcher. It knows nothing from before it was made, so that nobody who lost its
//! connection could go on where it had been, and a slow watcher costs memory of its own.

use std::{collections::VecDeque, sync::Arc};

use crate::{limits::WATCH_BACKLOG_MAX, table::Event};

/// The changes of one applied entry.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) index: u64,
    pub(crate) events: Vec<Event>,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct History {
    batches: VecDeque<Arc<Batch>>,
    /// How many events there are in all batches.
    events: usize,
    /// Every change after this index is here.
    complete_after: u64,
}

impl History {
    /// An entry changed something. Indexes grow from call to call.
    pub(crate) fn push(&mut self, index: u64, events: &[Event]) {
        self.events += events.len();
        self.batches.push_back(Arc::new(Batch { index, events: events.to_vec() }));
        // The newest stays, however large it is.
        while self.events > WATCH_BACKLOG_MAX && self.batches.len() > 1 {
            if let Some(oldest) = self.batches.pop_front() {
                self.events -= oldest.events.len();
                self.complete_after = oldest.index;
            }
        }
    }

    /// A snapshot covers everything up to this index: what happened on the way is unknown.
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
    use crate::token::Token;

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
        history.push(110, &events(2 * WATCH_BACKLOG_MAX));
        assert_eq!(indexes(&history, 99), None);
        assert_eq!(indexes(&history, 100), Some(vec![110]), "the newest stays, however large");
        assert_eq!(history.events, 2 * WATCH_BACKLOG_MAX);
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
