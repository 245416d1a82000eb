//! What the simulated network does to messages, by chance and by decree. Pure, but for being asked in the order in which
//! messages are sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::chaos::kernel::{Chance, Share, Stream};

/// How a way between two agents is, in one direction. Shares are from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Weather {
    /// How long a message takes, between the two. Default 50 µs to 500 µs.
    pub delay: (Duration, Duration),
    /// How many take long. Default 0.01.
    pub slow: f64,
    /// How long these take. Default 1 ms to 20 ms.
    pub slow_delay: (Duration, Duration),
    /// How many get lost. Default none.
    pub loss: f64,
    /// Of how many requests another copy arrives, later. Default none.
    pub duplication: f64,
    /// How many requests overtake others, or are overtaken. Default none.
    pub overtaking: f64,
}

impl Default for Weather {
    fn default() -> Self {
        let us = Duration::from_micros;
        Self {
            delay: (us(50), us(500)),
            slow: 0.01,
            slow_delay: (us(1_000), us(20_000)),
            loss: 0.0,
            duplication: 0.0,
            overtaking: 0.0,
        }
    }
}

impl Weather {
    /// Something of everything: one message in a hundred is lost, one comes twice, five come out of turn.
    #[must_use]
    pub fn rough() -> Self {
        let ms = Duration::from_millis;
        Self {
            delay: (Duration::from_micros(100), ms(5)),
            slow: 0.02,
            slow_delay: (ms(10), ms(150)),
            loss: 0.01,
            duplication: 0.01,
            overtaking: 0.05,
        }
    }
}

/// What becomes of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fate {
    /// How long it takes.
    pub(super) delay: Duration,
    /// It gets lost; then, whether its sender is told.
    pub(super) lost: Option<bool>,
    /// It keeps to no order.
    pub(super) overtakes: bool,
    /// How much later a copy arrives.
    pub(super) copy: Option<Duration>,
}

/// The weather of all ways.
pub(super) struct Skies {
    chance: Stream,
    general: Weather,
    /// By (from, to).
    ways: BTreeMap<(usize, usize), Weather>,
    cuts: BTreeSet<(usize, usize)>,
    isolated: BTreeSet<usize>,
}

impl Skies {
    pub(super) fn new(seed: u64, general: Weather) -> Self {
        Self {
            chance: Stream::of(seed, Chance::Network),
            general,
            ways: BTreeMap::new(),
            cuts: BTreeSet::new(),
            isolated: BTreeSet::new(),
        }
    }

    /// What becomes of a message that is sent now. Every message takes the same throws, whatever becomes of it.
    pub(super) fn roll(&mut self, from: usize, to: usize) -> Fate {
        let weather = self.ways.get(&(from, to)).unwrap_or(&self.general);
        let chance = &mut self.chance;
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let mut span = |(least, most): (Duration, Duration)| {
            Duration::from_nanos(chance.between(nanos(least), nanos(most)))
        };
        let (usual, slow, copy_after) = (
            span(weather.delay),
            span(weather.slow_delay),
            span((Duration::ZERO, weather.slow_delay.1 * 10)),
        );
        let mut happens = |share| chance.happens(Share::of(share));
        let is_slow = happens(weather.slow);
        let (lost, told) = (happens(weather.loss), happens(0.5));
        let (copied, overtakes) = (happens(weather.duplication), happens(weather.overtaking));
        Fate {
            delay: if is_slow { slow } else { usual },
            lost: lost.then_some(told),
            overtakes,
            copy: copied.then_some(copy_after),
        }
    }

    /// Whether messages of this direction vanish.
    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        from != to
            && (self.cuts.contains(&(from, to))
                || self.isolated.contains(&from)
                || self.isolated.contains(&to))
    }

    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    pub(super) fn heal(&mut self, from: usize, to: usize) {
        self.cuts.remove(&(from, to));
    }

    pub(super) fn isolate(&mut self, agent: usize) {
        self.isolated.insert(agent);
    }

    pub(super) fn rejoin(&mut self, agent: usize) {
        self.isolated.remove(&agent);
    }

    /// Undoes every cut; the weather stays.
    pub(super) fn heal_all(&mut self) {
        self.cuts.clear();
        self.isolated.clear();
    }

    pub(super) fn set_general(&mut self, weather: Weather) {
        self.ways.clear();
        self.general = weather;
    }

    pub(super) fn set(&mut self, from: usize, to: usize, weather: Weather) {
        self.ways.insert((from, to), weather);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_takes_the_same_throws() {
        // What one message meets does not depend on the weather of those before it.
        let fates = |rough: usize| {
            let mut skies = Skies::new(1, Weather::default());
            skies.set(1, 2, Weather::rough());
            (0..200)
                .map(|at| if at < rough { skies.roll(1, 2) } else { skies.roll(0, 1) })
                .collect::<Vec<_>>()
        };
        assert_eq!(fates(0)[100..], fates(100)[100..]);
        assert_ne!(fates(0)[..100], fates(100)[..100]);
        assert!(fates(0).iter().all(|fate| fate.lost.is_none() && !fate.overtakes && fate.copy.is_none()));
    }

    #[test]
    fn shares_are_kept_to() {
        let mut skies =
            Skies::new(1, Weather { loss: 0.1, duplication: 0.2, overtaking: 0.3, ..Weather::default() });
        let fates: Vec<Fate> = (0..10_000).map(|_| skies.roll(0, 1)).collect();
        let count = |is: fn(&Fate) -> bool| fates.iter().filter(|fate| is(fate)).count();
        for (counted, expected) in [
            (count(|fate| fate.lost.is_some()), 1_000),
            (count(|fate| fate.copy.is_some()), 2_000),
            (count(|fate| fate.overtakes), 3_000),
            (count(|fate| fate.delay > Duration::from_micros(500)), 100),
        ] {
            assert!(counted.abs_diff(expected) < expected / 3, "{counted} instead of {expected}");
        }
    }

    #[test]
    fn cuts_have_a_direction_and_end() {
        let mut skies = Skies::new(1, Weather::default());
        skies.cut(0, 1);
        assert_eq!((skies.is_cut(0, 1), skies.is_cut(1, 0)), (true, false));
        skies.isolate(2);
        assert!(skies.is_cut(2, 0) && skies.is_cut(1, 2) && !skies.is_cut(2, 2));
        skies.heal(0, 1);
        skies.rejoin(2);
        assert!(!skies.is_cut(0, 1) && !skies.is_cut(2, 0));
        skies.cut(0, 1);
        skies.isolate(1);
        skies.heal_all();
        assert!(!skies.is_cut(0, 1));
    }
}
