//! What an in-process network does to messages. Pure, but for being asked in the order in which messages are sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::runtime::Dice;

/// What happens to what one address sends to another.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Fault {
    pub(super) cut: bool,
    pub(super) refused: bool,
    pub(super) held: bool,
    pub(super) delay: Duration,
    /// Lost messages in 2^32.
    pub(super) loss: u64,
}

/// What becomes of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Arrives { after: Duration },
    Held,
    Vanishes,
    Refused,
}

/// All faults, and the dice for lost messages.
#[derive(Debug)]
pub(super) struct Faults {
    pairs: BTreeMap<(String, String), Fault>,
    isolated: BTreeSet<String>,
    dice: Dice,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self { pairs: BTreeMap::new(), isolated: BTreeSet::new(), dice: Dice::new(seed) }
    }

    /// Changes what happens to messages from the one to the other.
    pub(super) fn change(&mut self, from: &str, to: &str, change: impl FnOnce(&mut Fault)) {
        let pair = (from.to_owned(), to.to_owned());
        let fault = self.pairs.entry(pair.clone()).or_default();
        change(fault);
        if *fault == Fault::default() {
            self.pairs.remove(&pair);
        }
    }

    pub(super) fn isolate(&mut self, address: &str) {
        self.isolated.insert(address.to_owned());
    }

    pub(super) fn rejoin(&mut self, address: &str) {
        self.isolated.remove(address);
    }

    pub(super) fn heal(&mut self) {
        self.pairs.clear();
        self.isolated.clear();
    }

    /// What becomes of a message that is sent now. Rolls the dice only where messages get lost.
    pub(super) fn send(&mut self, from: &str, to: &str) -> Fate {
        let fate = self.present(from, to);
        let loss = self.fault(from, to).loss;
        if loss > 0 && matches!(fate, Fate::Arrives { .. } | Fate::Held) && (self.dice.roll() >> 32) < loss {
            return Fate::Vanishes;
        }
        fate
    }

    /// What becomes of a message that is on its way, with the dice left alone.
    pub(super) fn present(&self, from: &str, to: &str) -> Fate {
        let fault = self.fault(from, to);
        if fault.cut || self.isolated.contains(from) || self.isolated.contains(to) {
            Fate::Vanishes
        } else if fault.refused {
            Fate::Refused
        } else if fault.held {
            Fate::Held
        } else {
            Fate::Arrives { after: fault.delay }
        }
    }

    fn fault(&self, from: &str, to: &str) -> Fault {
        if self.pairs.is_empty() {
            return Fault::default();
        }
        self.pairs.get(&(from.to_owned(), to.to_owned())).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u64 = 1 << 31;

    #[test]
    fn losses_keep_to_their_share_and_their_seed() {
        let run = |seed| {
            let mut faults = Faults::new(seed);
            faults.change("a", "b", |fault| fault.loss = HALF);
            (0..1_000).map(|_| faults.send("a", "b") == Fate::Vanishes).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let lost = run(1).into_iter().filter(|lost| *lost).count();
        assert!((400..600).contains(&lost), "{lost}");
    }

    #[test]
    fn faults_have_a_direction_and_end() {
        let fine = Fate::Arrives { after: Duration::ZERO };
        let mut faults = Faults::new(0);
        faults.change("a", "b", |fault| fault.cut = true);
        assert_eq!((faults.present("a", "b"), faults.present("b", "a")), (Fate::Vanishes, fine));
        faults.change("a", "b", |fault| fault.cut = false);
        assert!(faults.pairs.is_empty());
        faults.isolate("b");
        assert_eq!((faults.present("a", "b"), faults.present("b", "a")), (Fate::Vanishes, Fate::Vanishes));
        faults.rejoin("b");
        faults.change("b", "a", |fault| fault.held = true);
        assert_eq!((faults.present("a", "b"), faults.present("b", "a")), (fine, Fate::Held));
        faults.heal();
        assert_eq!(faults.present("b", "a"), fine);
    }
}
