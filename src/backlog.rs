//! What waits to be begun, first come first begun. It is gone from there when nobody waits for it any more.
//!
//! A semaphore's turn goes to the first future in its line, also where nobody polls that one: with as many of those as there
//! are turns nobody gets any, and an application may keep as many as it likes. Here the *work* waits, whoever begins it is
//! always polled, and no future of an application's ever has a turn.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// See the file's head. Clones share it. It has no bound of its own: each item has a future that waits for it.
pub(crate) struct Backlog<T>(Arc<Mutex<Waiting<T>>>);

struct Waiting<T> {
    /// By rank, then by number: the lowest is begun first.
    items: BTreeMap<(u8, u64), T>,
    /// The last number that was given.
    numbers: u64,
    /// Nobody begins anything any more.
    closed: bool,
}

/// Who begins what is in it. Dropped before it [leaves](Self::leave), it closes: all that waits there is dropped, and so is
/// what comes later.
pub(crate) struct Beginner<T> {
    backlog: Backlog<T>,
    closes: bool,
}

/// What an item can be taken back with. Dropped, the item is gone, unless it was begun.
pub(crate) struct Ticket<T> {
    backlog: Backlog<T>,
    key: (u8, u64),
}

impl<T> Clone for Backlog<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Backlog<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Waiting { items: BTreeMap::new(), numbers: 0, closed: false })))
    }
}

impl<T> Backlog<T> {
    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Behind all that came before, but for those of a higher rank number.
    pub(crate) fn push(&self, rank: u8, item: T) -> Ticket<T> {
        let mut waiting = self.lock();
        waiting.numbers += 1;
        let key = (rank, waiting.numbers);
        let refused = if waiting.closed { Some(item) } else { waiting.items.insert(key, item) };
        // Here and below: only when the lock is free again, for it may wake somebody.
        drop(waiting);
        drop(refused);
        Ticket { backlog: self.clone(), key }
    }

    /// The next to be begun.
    pub(crate) fn pop(&self) -> Option<T> {
        self.lock().items.pop_first().map(|(_, item)| item)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    pub(crate) fn beginner(&self) -> Beginner<T> {
        Beginner { backlog: self.clone(), closes: true }
    }
}

impl<T> Beginner<T> {
    /// It ends as it should: nothing is closed.
    pub(crate) fn leave(mut self) {
        self.closes = false;
    }
}

impl<T> Deref for Beginner<T> {
    type Target = Backlog<T>;

    fn deref(&self) -> &Backlog<T> {
        &self.backlog
    }
}

impl<T> Drop for Beginner<T> {
    fn drop(&mut self) {
        if self.closes {
            let mut waiting = self.backlog.lock();
            waiting.closed = true;
            let left = std::mem::take(&mut waiting.items);
            drop(waiting);
            drop(left);
        }
    }
}

impl<T> Ticket<T> {
    /// Takes the item back; false if it was begun.
    pub(crate) fn withdraw(&self) -> bool {
        let item = self.backlog.lock().items.remove(&self.key);
        item.is_some()
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_come_is_begun_first_within_its_rank() {
        let backlog = Backlog::default();
        let _tickets = [(1, "c"), (0, "a"), (1, "d"), (0, "b")].map(|(rank, item)| backlog.push(rank, item));
        let begun: Vec<_> = std::iter::from_fn(|| backlog.pop()).collect();
        assert_eq!(begun, ["a", "b", "c", "d"]);
        assert!(backlog.is_empty());
    }

    #[test]
    fn what_nobody_waits_for_is_gone_and_what_was_begun_is_not_taken_back() {
        let backlog = Backlog::default();
        let [first, second, third] = ["a", "b", "c"].map(|item| backlog.push(0, item));
        drop(first);
        assert_eq!(backlog.pop(), Some("b"));
        assert!(!second.withdraw());
        assert!(third.withdraw());
        assert!(!third.withdraw());
        assert_eq!(backlog.pop(), None);
    }

    #[test]
    fn who_leaves_closes_nothing_and_keeps_nothing_and_who_is_dropped_closes() {
        let backlog = Backlog::default();
        let first = backlog.push(0, "a");
        backlog.beginner().leave();
        assert_eq!(Arc::strong_count(&backlog.0), 2);
        assert_eq!(backlog.pop(), Some("a"));
        drop(first);
        let second = backlog.push(0, "b");
        drop(backlog.beginner());
        assert!(!second.withdraw());
        let third = backlog.push(0, "c");
        assert!(!third.withdraw());
        assert!(backlog.is_empty());
        drop((second, third));
        assert_eq!(Arc::strong_count(&backlog.0), 1);
    }
}
