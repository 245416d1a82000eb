//! When each lease and each place in a queue is to be renewed. Pure: `now` is a parameter.
//!
//! Those that are due at about the same time form a group, and a group is what is kept in order. That is how they are
//! sent anyway, many in one message; and it takes 16 bytes each where a tree of single moments takes 40, and gives
//! and takes a few large pieces of memory where that takes and gives many small ones, all the time.

use std::{collections::BTreeMap, time::Duration};

use crate::{id::LeaseId, time::Moment};

/// A renewal joins a group that is due earlier by up to this part of its ttl.
const JOIN_PER_TTL: u32 = 96;
/// A group that is due within this part of its shortest ttl rides along with one that is due now.
const RIDE_ALONG_PER_TTL: u32 = 12;
/// The most in one group: to take one out of it, it is looked through.
const GROUP_MAX: usize = 256;
/// The most groups whose room is kept for others.
const SPARE_MAX: usize = 128;
/// When a group is full, the next one is due a nanosecond later; up to this far away, one is joined that has room.
const OVERFLOW: Duration = Duration::from_micros(1);

#[derive(Debug)]
struct Group {
    /// Never empty.
    ids: Vec<LeaseId>,
    /// Of all that ever joined.
    shortest_ttl: Duration,
}

/// What is to be renewed now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// At least one.
    pub(super) ids: Vec<LeaseId>,
    /// None of their ttls is shorter.
    pub(super) shortest_ttl: Duration,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    groups: BTreeMap<Moment, Group>,
    /// The rooms of groups that were taken, for those that come. Given back by one thread and asked for by another, they
    /// would take their memory twice.
    spare: Vec<Vec<LeaseId>>,
}

impl Agenda {
    /// When the first is due.
    pub(super) fn first(&self) -> Option<Moment> {
        self.groups.first_key_value().map(|(due, _)| *due)
    }

    /// Puts it down for about `at`, and returns when it will come. It must not be in the agenda already.
    pub(super) fn put(&mut self, id: LeaseId, at: Moment, ttl: Duration) -> Moment {
        let mut due = at;
        if let Some((latest, group)) =
            self.groups.range_mut(at - ttl / JOIN_PER_TTL..=at + OVERFLOW).next_back()
        {
            due =
                if group.ids.len() < GROUP_MAX { *latest } else { at.max(*latest + Duration::from_nanos(1)) };
        }
        let group = self
            .groups
            .entry(due)
            .or_insert_with(|| Group { ids: self.spare.pop().unwrap_or_default(), shortest_ttl: ttl });
        group.ids.push(id);
        group.shortest_ttl = group.shortest_ttl.min(ttl);
        due
    }

    /// Takes it out; `due` is what [`put`](Self::put) returned for it.
    pub(super) fn remove(&mut self, id: &LeaseId, due: Moment) {
        let Some(group) = self.groups.get_mut(&due) else { return };
        if let Some(at) = group.ids.iter().position(|other| other == id) {
            group.ids.swap_remove(at);
        }
        if group.ids.is_empty() {
            self.groups.remove(&due);
        }
    }

    /// Takes out up to `most` that are due, and that will be soon, if any is due.
    pub(super) fn take(&mut self, now: Moment, most: usize) -> Option<Taken> {
        if self.first().is_none_or(|at| at > now) {
            return None;
        }
        let mut taken = Taken { ids: Vec::new(), shortest_ttl: Duration::MAX };
        while let Some(mut first) = self.groups.first_entry() {
            let room = most.saturating_sub(taken.ids.len());
            if room == 0 || *first.key() > now + first.get().shortest_ttl / RIDE_ALONG_PER_TTL {
                break;
            }
            let group = first.get_mut();
            taken.shortest_ttl = taken.shortest_ttl.min(group.shortest_ttl);
            let stay = group.ids.len().saturating_sub(room);
            taken.ids.extend(group.ids.drain(stay..));
            if group.ids.is_empty() {
                let room = first.remove().ids;
                if self.spare.len() < SPARE_MAX {
                    self.spare.push(room);
                }
            }
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(9_600);

    fn id(n: u128) -> LeaseId {
        LeaseId::from_bits(n)
    }

    fn at(secs: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(secs)
    }

    fn ids(agenda: &mut Agenda, now: Moment) -> Vec<u128> {
        agenda
            .take(now, usize::MAX)
            .map_or_else(Vec::new, |t| t.ids.into_iter().map(LeaseId::to_bits).collect())
    }

    #[test]
    fn those_of_about_the_same_time_are_one_group() {
        let mut agenda = Agenda::default();
        let first = agenda.put(id(1), at(1_000), TTL);
        // Up to 100 s after the first of the group, not before it.
        assert_eq!(agenda.put(id(2), at(1_100), TTL), first);
        assert_ne!(agenda.put(id(3), at(1_101), TTL), first);
        assert_ne!(agenda.put(id(4), at(999), TTL), first);
        // A short ttl joins within less.
        assert_ne!(agenda.put(id(5), at(1_050), TTL / 4), first);
        assert_eq!((agenda.groups.len(), agenda.first()), (4, Some(at(999))));
    }

    #[test]
    fn what_is_due_soon_rides_along() {
        let mut agenda = Agenda::default();
        for (n, secs) in [(1, 1_000), (2, 1_500), (3, 1_800), (4, 1_901)] {
            agenda.put(id(n), at(secs), TTL);
        }
        assert_eq!(agenda.take(at(999), 9), None);
        assert_eq!(ids(&mut agenda, at(1_000)), [1, 2, 3]);
        assert_eq!(agenda.first(), Some(at(1_901)));
        agenda.put(id(5), at(2_000), TTL / 12);
        assert_eq!(ids(&mut agenda, at(1_901)), [4], "within less of a short ttl");
    }

    #[test]
    fn one_message_has_room_for_so_many_and_knows_the_shortest_ttl() {
        let mut agenda = Agenda::default();
        for n in 0..600 {
            agenda.put(id(n), at(1_000), if n == 300 { TTL / 2 } else { TTL });
        }
        assert_eq!(agenda.groups.len(), 3, "no group is larger than {GROUP_MAX}");
        let taken: Vec<_> = std::iter::from_fn(|| agenda.take(at(1_000) + OVERFLOW, 300)).collect();
        assert_eq!(taken.iter().map(|t| t.ids.len()).collect::<Vec<_>>(), [300, 300]);
        assert_eq!(taken.iter().map(|t| t.shortest_ttl).min(), Some(TTL / 2));
        let mut all: Vec<_> = taken.into_iter().flat_map(|t| t.ids).collect();
        all.sort_unstable();
        assert_eq!(all, (0..600).map(id).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_taken_out_is_not_renewed() {
        let mut agenda = Agenda::default();
        let due = [1, 2, 3].map(|n| agenda.put(id(n), at(1_000), TTL));
        agenda.remove(&id(2), due[1]);
        agenda.remove(&id(2), due[1]);
        assert_eq!(ids(&mut agenda, at(1_000)), [1, 3]);
        agenda.remove(&id(3), due[2]);
        assert_eq!(agenda.first(), None);
        let due = agenda.put(id(4), at(1_000), TTL);
        agenda.remove(&id(4), due);
        assert_eq!(agenda.first(), None, "no group is empty");
    }

    proptest! {
        /// Nothing is lost, doubled, late, or earlier than it may be.
        #[test]
        fn each_comes_once_and_in_time(
            steps in prop::collection::vec((0..40u128, 0..400u64, 1..40u64, 0..4u8), 1..200)
        ) {
            let mut agenda = Agenda::default();
            let mut put: BTreeMap<LeaseId, (Moment, Moment, Duration)> = BTreeMap::new();
            let mut now = at(10_000);
            for (n, secs, ttl, what) in steps {
                let ttl = Duration::from_secs(ttl * 96);
                match what {
                    0 => now = now + Duration::from_secs(secs),
                    1 => if let Some((due, ..)) = put.remove(&id(n)) {
                        agenda.remove(&id(n), due);
                    },
                    _ => if let std::collections::btree_map::Entry::Vacant(free) = put.entry(id(n)) {
                        let wanted = now + Duration::from_secs(secs);
                        let due = agenda.put(id(n), wanted, ttl);
                        prop_assert!(due <= wanted + OVERFLOW && due >= wanted - ttl / JOIN_PER_TTL);
                        free.insert((due, wanted, ttl));
                    },
                }
                while let Some(taken) = agenda.take(now, 3) {
                    prop_assert!((1..=3).contains(&taken.ids.len()));
                    for id in taken.ids {
                        let (due, _, ttl) = put.remove(&id).unwrap();
                        prop_assert!(taken.shortest_ttl <= ttl && due <= now + ttl / RIDE_ALONG_PER_TTL);
                    }
                }
                prop_assert_eq!(agenda.first(), put.values().map(|(due, ..)| *due).min());
                prop_assert!(put.values().all(|(due, ..)| *due > now));
            }
        }
    }
}
