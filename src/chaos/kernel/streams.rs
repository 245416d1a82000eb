//! Randomness by name: one stream for each thing that is left to chance, all from one seed.
//!
//! They are apart, so that a change in one place moves nothing elsewhere: another workload meets the same network, and a
//! fault that is taken out of a schedule leaves the others where they were.

use crate::runtime::Dice;

/// What is left to chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chance {
    /// Which task runs next, and how late a timer is.
    Schedule,
    /// How long messages take, and which get lost.
    Network,
    /// How long writes take, and what a power cut leaves. One for each machine.
    Disk(usize),
    /// What clients do.
    Workload,
    /// What goes wrong, and when.
    Faults,
    /// Which faults a swarm has.
    Swarm,
    /// What the agent's own code rolls: ids, jitter, election timeouts. One for each life of a machine.
    Node(usize, u32),
    /// What happens at fault points, and when.
    Points,
    /// Which faults at points a swarm has.
    PointSwarm,
    /// Which members come and go in a swarm.
    MemberSwarm,
}

impl Chance {
    fn number(self) -> u64 {
        let (kind, node, life) = match self {
            Self::Schedule => (1, 0, 0),
            Self::Network => (2, 0, 0),
            Self::Disk(node) => (3, node, 0),
            Self::Workload => (4, 0, 0),
            Self::Faults => (5, 0, 0),
            Self::Swarm => (7, 0, 0),
            Self::Node(node, life) => (6, node, life),
            Self::Points => (8, 0, 0),
            Self::PointSwarm => (9, 0, 0),
            Self::MemberSwarm => (10, 0, 0),
        };
        kind << 56 | (node as u64) << 32 | u64::from(life)
    }
}

/// One stream.
#[derive(Debug, Clone)]
pub(crate) struct Stream(Dice);

impl Stream {
    /// The stream for this, of the run with this seed.
    pub(crate) fn of(seed: u64, chance: Chance) -> Self {
        // Seeds are often 1, 2, 3: a throw before the two are joined, and one after, leave no likeness.
        let mixed = Dice::new(seed).roll() ^ chance.number();
        Self(Dice::new(Dice::new(mixed).roll()))
    }

    /// The next 64 bits.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0.roll()
    }

    /// A number below this one; 0 if there is none.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // The upper half of the product: no remainder, whose bias would be on the low numbers.
        ((u128::from(self.roll()) * u128::from(end)) >> 64) as u64
    }

    /// A number from the first to the last, both included.
    pub(crate) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first).saturating_add(1))
    }

    /// Whether something of this probability happens. Rolls in any case, so that the stream doesn't shift when a
    /// probability is set to nothing.
    pub(crate) fn happens(&mut self, share: Share) -> bool {
        (self.roll() >> 32) < share.0
    }
}

/// A probability, in parts of 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Share(u64);

impl Share {
    /// From 0 to 1; what is beyond counts as these.
    pub(crate) fn of(probability: f64) -> Self {
        // The cast is the rounding that is meant.
        Self((probability.clamp(0.0, 1.0) * 2f64.powi(32)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_apart_and_their_seeds() {
        let start = |seed, chance| {
            let mut stream = Stream::of(seed, chance);
            [stream.roll(), stream.roll()]
        };
        let all = [
            Chance::Schedule,
            Chance::Network,
            Chance::Disk(0),
            Chance::Disk(1),
            Chance::Workload,
            Chance::Faults,
            Chance::Swarm,
            Chance::Node(1, 0),
            Chance::Node(1, 1),
            Chance::Node(2, 0),
            Chance::Points,
            Chance::PointSwarm,
            Chance::MemberSwarm,
        ];
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            for chance in all {
                assert_eq!(start(seed, chance), start(seed, chance));
                assert!(seen.insert(start(seed, chance)), "{seed} {chance:?}");
            }
        }
    }

    #[test]
    fn numbers_keep_to_their_bounds() {
        let mut stream = Stream::of(1, Chance::Workload);
        let mut seen = [0; 5];
        for _ in 0..5_000 {
            seen[stream.between(3, 7) as usize - 3] += 1;
        }
        assert!(seen.iter().all(|count| (850..1_150).contains(count)), "{seen:?}");
        assert_eq!((stream.below(0), stream.below(1), stream.between(9, 9)), (0, 0, 9));
        let share = Share::of(0.25);
        let happened = (0..4_000).filter(|_| stream.happens(share)).count();
        assert!((850..1_150).contains(&happened), "{happened}");
        assert!(!(0..100).any(|_| stream.happens(Share::default())));
        assert!((0..100).all(|_| stream.happens(Share::of(7.0))));
    }
}
