//! An ordered map that wastes little memory.
//!
//! # The problem
//!
//! There is a map or three with an entry for every held lease. The nodes of std's B-tree have room for 11 entries;
//! after insertions at random some 7.6 are there, and an entry of 40 bytes takes 61 of resident memory.
//!
//! # The way
//!
//! Sorted blocks of up to [`BLOCK_MAX`] entries, each allocated as long as it is, or a few entries longer, in a B-tree
//! by the keys where they begin. Then 40 bytes take 44. Among 100,000 entries everything takes some tens of nanoseconds
//! longer than in a B-tree (measured: to look up 124 for 86, to insert and remove 207 for 190), and less among few.
//!
//! # Rejected
//!
//! *A hash map*: it doubles when it is full, so that the one lease that is too many costs as much as all before it and
//! moves all of them at once; and its order is none, where every replica and every replay must do the same.

use std::collections::BTreeMap;

/// The most entries in one block.
const BLOCK_MAX: usize = 64;
/// A block grows by so many entries.
const STEP: usize = 8;

/// See the file's head.
#[derive(Debug, Clone)]
pub(crate) struct Dense<K, V> {
    /// By a key that is not above their first and not below the last of the block before. None is empty.
    blocks: BTreeMap<K, Vec<(K, V)>>,
    len: usize,
}

impl<K, V> Default for Dense<K, V> {
    fn default() -> Self {
        Self { blocks: BTreeMap::new(), len: 0 }
    }
}

fn find<K: Ord, V>(block: &[(K, V)], key: &K) -> Result<usize, usize> {
    block.binary_search_by(|(other, _)| other.cmp(key))
}

fn put<K, V>(block: &mut Vec<(K, V)>, at: usize, key: K, value: V) {
    if block.len() == block.capacity() {
        block.reserve_exact(STEP);
    }
    block.insert(at, (key, value));
}

impl<K: Ord + Copy, V> Dense<K, V> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of this key.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let (_, block) = self.blocks.range(..=*key).next_back()?;
        let at = find(block, key).ok()?;
        block.get(at).map(|(_, value)| value)
    }

    /// The value of this key, to be changed.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (_, block) = self.blocks.range_mut(..=*key).next_back()?;
        let at = find(block, key).ok()?;
        block.get_mut(at).map(|(_, value)| value)
    }

    /// Sets the value of this key, and returns the one that it had.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some((_, block)) = self.blocks.range_mut(..=key).next_back() else {
            // Below all others: the first block begins here, if it has room.
            match self.blocks.first_entry().filter(|first| first.get().len() < BLOCK_MAX) {
                Some(first) => {
                    let mut block = first.remove();
                    put(&mut block, 0, key, value);
                    self.blocks.insert(key, block);
                }
                None => self.begin(key, value),
            }
            self.len += 1;
            return None;
        };
        match find(block, &key) {
            Ok(at) => return block.get_mut(at).map(|(_, old)| std::mem::replace(old, value)),
            Err(at) if block.len() < BLOCK_MAX => put(block, at, key, value),
            // Keys that only grow fill every block.
            Err(BLOCK_MAX) => self.begin(key, value),
            Err(at) => {
                let mut upper = block.split_off(BLOCK_MAX / 2);
                block.shrink_to(BLOCK_MAX / 2 + STEP);
                if at <= block.len() {
                    put(block, at, key, value);
                } else {
                    let at = at - block.len();
                    put(&mut upper, at, key, value);
                }
                if let Some((first, _)) = upper.first() {
                    self.blocks.insert(*first, upper);
                }
            }
        }
        self.len += 1;
        None
    }

    fn begin(&mut self, key: K, value: V) {
        let mut block = Vec::new();
        put(&mut block, 0, key, value);
        self.blocks.insert(key, block);
    }

    /// Takes this key out, and returns the value that it had.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (&first, block) = self.blocks.range_mut(..=*key).next_back()?;
        let at = find(block, key).ok()?;
        let (_, value) = block.remove(at);
        self.len -= 1;
        if block.is_empty() {
            self.blocks.remove(&first);
        } else if block.capacity() - block.len() >= 2 * STEP {
            block.shrink_to(block.len() + STEP);
        }
        Some(value)
    }

    /// The smallest key, and its value.
    pub(crate) fn first(&self) -> Option<(&K, &V)> {
        let (_, block) = self.blocks.first_key_value()?;
        block.first().map(|(key, value)| (key, value))
    }

    /// The largest key, and its value.
    pub(crate) fn last(&self) -> Option<(&K, &V)> {
        let (_, block) = self.blocks.last_key_value()?;
        block.last().map(|(key, value)| (key, value))
    }

    /// How many keys are below this one; `None` if it isn't there. It counts the blocks before its own, of which there are
    /// 1,600 among 100,000 keys that came in order.
    pub(crate) fn rank(&self, key: &K) -> Option<usize> {
        let (first, block) = self.blocks.range(..=*key).next_back()?;
        let at = find(block, key).ok()?;
        let before: usize = self.blocks.range(..*first).map(|(_, block)| block.len()).sum();
        Some(before + at)
    }

    /// All, by their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> + '_ {
        self.blocks.values().flatten().map(|(key, value)| (key, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What must hold of the blocks, whatever was done.
    fn check(map: &Dense<u16, u32>) {
        let mut below = None;
        for (first, block) in &map.blocks {
            assert!((1..=BLOCK_MAX).contains(&block.len()) && *first <= block[0].0);
            assert!(below.is_none_or(|below| below < *first), "blocks overlap at {first}");
            assert!(block.is_sorted_by(|(a, _), (b, _)| a < b));
            assert!(block.capacity() < block.len() + 2 * STEP, "{} for {}", block.capacity(), block.len());
            below = block.last().map(|(key, _)| *key);
        }
        assert_eq!(map.len, map.blocks.values().map(Vec::len).sum::<usize>());
    }

    proptest! {
        #[test]
        fn it_does_what_a_btree_does(
            steps in prop::collection::vec((0..3u8, 0..400u16, any::<u32>()), 1..2_000)
        ) {
            let (mut map, mut twin) = (Dense::default(), BTreeMap::new());
            for (what, key, value) in steps {
                match what {
                    0 | 1 => prop_assert_eq!(map.insert(key, value), twin.insert(key, value)),
                    _ => prop_assert_eq!(map.remove(&key), twin.remove(&key)),
                }
                prop_assert_eq!(map.get(&key), twin.get(&key));
                prop_assert_eq!(map.get_mut(&key), twin.get_mut(&key));
                prop_assert_eq!(map.first(), twin.first_key_value());
                prop_assert_eq!(map.last(), twin.last_key_value());
                prop_assert_eq!(map.rank(&key), twin.get(&key).map(|_| twin.range(..key).count()));
                prop_assert_eq!((map.len(), map.is_empty()), (twin.len(), twin.is_empty()));
            }
            check(&map);
            prop_assert!(map.iter().eq(twin.iter()));
        }
    }

    #[test]
    fn upwards_downwards_and_at_random_the_blocks_are_well_filled() {
        let scattered = |n: u16| n.wrapping_mul(40_503);
        for (how, key) in [("up", (|n| n) as fn(u16) -> u16), ("down", |n| 20_000 - n), ("random", scattered)]
        {
            let mut map = Dense::default();
            (0..20_000).for_each(|n| assert_eq!(map.insert(key(n), 7), None));
            check(&map);
            let room: usize = map.blocks.values().map(Vec::capacity).sum();
            assert!(room < 22_500, "{how}: room for {room} of 20000");
            assert!(map.blocks.len() < 800, "{how}: {} blocks", map.blocks.len());
            (0..20_000).for_each(|n| assert_eq!(map.remove(&key(n)), Some(7)));
            assert!(map.is_empty() && map.blocks.is_empty());
        }
    }
}
