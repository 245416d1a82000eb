//! Lease ids that are dead for ever, remembered in bounded memory (rule L7).
//!
//! # The problem
//!
//! An acquire is sent, times out, is sent again, is granted, and the lease is released. Then the first copy, held
//! up somewhere, reaches the log. Granting it would give the name to nobody. So the table remembers ids that have
//! ended. It can't remember all of them: a busy cluster ends thousands a second.
//!
//! Rejected: forgetting by age (needs a clock, and every bound is too short for some delay); numbering each agent's
//! requests, as sessions in other systems do (then the sessions are what must be remembered and forgotten); ids
//! with a time inside (trusts the requester's wall clock).
//!
//! # The way
//!
//! Ids are forgotten in the order in which they ended. The *horizon* is the largest log index at which a forgotten
//! id ended. An acquire carries `seen`: a log index that was already applied somewhere when its lease id was
//! picked. An id that neither lives nor is remembered is accepted only if `seen >= horizon`.
//!
//! # Why that is enough
//!
//! *Claim:* an acquire is never granted or queued under an id that has ended before.
//!
//! Let the id have ended at index `e`, by an entry that named it, or that named the name it held. Either way some
//! entry up to `e` named the id.
//!
//! 1. The id was picked after index `seen` was applied somewhere, so after `seen` was committed. Entries that name
//!    the id were proposed after it was picked, and a log has one entry an index: they have indices above `seen`.
//!    The id can't have ended before it was first named. Hence `e > seen`.
//! 2. While the id is remembered, the acquire is answered from memory.
//! 3. Once it is forgotten, `horizon >= e`, then and for ever: the horizon never decreases. With 1,
//!    `horizon >= e > seen`: the acquire is refused as too old. ∎
//!
//! Copies carry the same `seen`; a requester that refreshed it in a retry would break 1. One that claims an index
//! that its entry doesn't follow lies, is refused, and its id is used up; that catches agents that mixed up two
//! clusters, not malice: who can write to the log can pick a fresh id as well.
//!
//! The price: an acquire that took longer to reach the log than the memory reaches back
//! ([`ENDED_IDS_MAX`] endings) is refused although it was never seen. Nothing has
//! happened then; the requester picks a new id.

use std::collections::{BTreeMap, VecDeque};

use super::outcome::Ending;
use crate::{LeaseId, flaw::planted, limits::ENDED_IDS_MAX};

/// The ended ids that are remembered, and how far back the memory reaches.
#[derive(Debug, Clone)]
pub(super) struct EndedIds {
    endings: BTreeMap<LeaseId, Ending>,
    /// With the index at which each ended, the first to be forgotten first.
    order: VecDeque<(u64, LeaseId)>,
    horizon: u64,
    max: usize,
}

impl Default for EndedIds {
    fn default() -> Self {
        Self::new(ENDED_IDS_MAX)
    }
}

impl EndedIds {
    /// No id has ended; at most `max` will be remembered.
    pub(super) fn new(max: usize) -> Self {
        Self::resume(max, 0)
    }

    /// As [`new`](Self::new), where a snapshot says that ids up to this index are forgotten.
    pub(super) fn resume(max: usize, horizon: u64) -> Self {
        Self { endings: BTreeMap::new(), order: VecDeque::new(), horizon, max }
    }

    /// The largest index at which a forgotten id ended; 0 while all are remembered.
    pub(super) fn horizon(&self) -> u64 {
        self.horizon
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// How it ended, if that is remembered.
    pub(super) fn get(&self, id: &LeaseId) -> Option<Ending> {
        if planted!(EndedForgotten) {
            return None;
        }
        self.endings.get(id).copied()
    }

    /// The id is dead from this index on. One that is remembered already keeps its first ending and its age.
    pub(super) fn insert(&mut self, index: u64, id: LeaseId, ending: Ending) {
        if self.endings.contains_key(&id) {
            return;
        }
        self.endings.insert(id, ending);
        self.order.push_back((index, id));
        while self.order.len() > self.max {
            let Some((index, id)) = self.order.pop_front() else { return };
            self.endings.remove(&id);
            self.horizon = self.horizon.max(index);
        }
    }

    /// All, the first to be forgotten first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, LeaseId, Ending)> + '_ {
        self.order.iter().filter_map(|(index, id)| Some((*index, *id, self.get(id)?)))
    }

    /// What is wrong with it, if anything is (invariant 5).
    pub(super) fn check(&self, applied: u64) -> Result<(), String> {
        if self.order.len() != self.endings.len() || self.iter().count() != self.order.len() {
            return Err(format!("{} in order, {} by id", self.order.len(), self.endings.len()));
        }
        if self.order.len() > self.max {
            return Err(format!("{} remembered, the most is {}", self.order.len(), self.max));
        }
        let mut last = self.horizon;
        for (index, id) in &self.order {
            if *index < last {
                return Err(format!("{id} ended at {index}, one before it at {last}"));
            }
            last = *index;
        }
        if last > applied {
            return Err(format!("one ended at {last}, applied is {applied}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(bits: u128) -> LeaseId {
        LeaseId::from_bits(bits)
    }

    #[test]
    fn the_oldest_is_forgotten_and_moves_the_horizon() {
        let mut ended = EndedIds::new(2);
        ended.insert(5, id(1), Ending::Released);
        ended.insert(6, id(2), Ending::Expired);
        assert_eq!((ended.horizon(), ended.len()), (0, 2));
        // Ending again neither renews its memory nor changes how it ended.
        ended.insert(7, id(1), Ending::Cancelled);
        assert_eq!(ended.get(&id(1)), Some(Ending::Released));
        ended.insert(8, id(3), Ending::Released);
        assert_eq!((ended.horizon(), ended.len(), ended.get(&id(1))), (5, 2, None));
        ended.insert(9, id(4), Ending::Released);
        assert_eq!(ended.horizon(), 6);
        assert_eq!(ended.check(9), Ok(()));
        assert!(ended.check(8).is_err());
    }

    #[test]
    fn no_memory_at_all_is_a_horizon_at_once() {
        let mut ended = EndedIds::new(0);
        ended.insert(5, id(1), Ending::Released);
        assert_eq!((ended.horizon(), ended.len(), ended.get(&id(1))), (5, 0, None));
    }
}
