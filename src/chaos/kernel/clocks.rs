//! Time: the simulation's own, and what each machine's clocks show of it.
//!
//! The simulation's time is true: it moves only when nothing is left to do, from one alarm to the next. A machine sees it
//! through its oscillator, which runs a little fast or slow. Two clocks hang on that, as on Linux:
//!
//! - *for timers* (`CLOCK_MONOTONIC`): it never goes back, and stands still while the machine is suspended. openraft's
//!   `Instant` and every sleep go by it.
//! - *for leases* (`CLOCK_BOOTTIME`): it counts suspend. [`NodeClock`] shows it, and a jump back is its alone: what
//!   the agent must bear is a lease clock that goes back, while timers, which the system guarantees, don't.
//!
//! A jump forth (a virtual machine that is restored) moves both.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::{clock::Clock, time::Moment};

const MILLION: i64 = 1_000_000;

/// The true time in the beginning. Not 0, so that something can have been before it.
pub(crate) const BEGINNING: u64 = 1_000_000_000_000;
/// What a right wall clock shows in the beginning: 1 January 2026, in milliseconds since 1970.
const BEGINNING_UNIX_MS: i64 = 1_767_225_600_000;

/// One machine's.
#[derive(Debug, Clone)]
struct Oscillator {
    /// When the numbers below were true.
    since: u64,
    timers: u64,
    /// How far the clock for leases is ahead of that for timers.
    ahead: i64,
    /// How much too fast.
    ppm: i64,
    suspended: bool,
    /// How much the wall clock shows too much.
    wall_ms: i64,
}

impl Oscillator {
    fn passed(&self, now: u64) -> u64 {
        let true_nanos = u128::from(now.saturating_sub(self.since));
        (true_nanos * (MILLION + self.ppm) as u128 / MILLION as u128) as u64
    }

    fn timers(&self, now: u64) -> u64 {
        if self.suspended { self.timers } else { self.timers + self.passed(now) }
    }

    fn leases(&self, now: u64) -> u64 {
        (self.timers + self.passed(now)).saturating_add_signed(self.ahead)
    }

    /// From now on with other numbers.
    fn settle(&mut self, now: u64) {
        let passed = self.passed(now);
        if self.suspended {
            self.ahead = self.ahead.saturating_add_unsigned(passed);
        } else {
            self.timers += passed;
        }
        self.since = now;
    }
}

/// All clocks of a simulation.
#[derive(Debug)]
pub(crate) struct Clocks {
    now: AtomicU64,
    machines: Mutex<Vec<Oscillator>>,
}

impl Clocks {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { now: AtomicU64::new(BEGINNING), machines: Mutex::default() })
    }

    fn machines(&self) -> MutexGuard<'_, Vec<Oscillator>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a machine's clocks from now on.
    fn change(&self, node: usize, change: impl FnOnce(&mut Oscillator)) {
        let now = self.now();
        if let Some(oscillator) = self.machines().get_mut(node) {
            oscillator.settle(now);
            change(oscillator);
        }
    }

    fn read<T>(&self, node: usize, read: impl FnOnce(&Oscillator, u64) -> T) -> Option<T> {
        let now = self.now();
        self.machines().get(node).map(|oscillator| read(oscillator, now))
    }

    /// The true time, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn advance_to(&self, now: u64) {
        self.now.fetch_max(now, Ordering::Relaxed);
    }

    /// Another machine, whose clocks show the true time.
    pub(super) fn add(&self) {
        let now = self.now();
        let right = Oscillator { since: now, timers: now, ahead: 0, ppm: 0, suspended: false, wall_ms: 0 };
        self.machines().push(right);
    }

    /// What a machine's clock for timers shows.
    pub(super) fn timers(&self, node: usize) -> Moment {
        Moment::from_nanos(self.read(node, Oscillator::timers).unwrap_or(0))
    }

    /// What a machine's clock for leases shows.
    pub(crate) fn leases(&self, node: usize) -> Moment {
        Moment::from_nanos(self.read(node, Oscillator::leases).unwrap_or(0))
    }

    /// The first true moment at which a machine's clock for timers shows this, unless it stands still.
    pub(super) fn due(&self, node: usize, at: Moment) -> Option<u64> {
        let oscillator = self.machines().get(node)?.clone();
        if oscillator.suspended {
            return None;
        }
        let missing = u128::from(at.as_nanos().saturating_sub(oscillator.timers));
        let spans = (missing * MILLION as u128).div_ceil((MILLION + oscillator.ppm) as u128);
        Some(oscillator.since.saturating_add(u64::try_from(spans).unwrap_or(u64::MAX)))
    }

    /// What a machine's wall clock shows, in milliseconds since 1970.
    pub(super) fn wall_unix_ms(&self, node: usize) -> u64 {
        let wrong = self.read(node, |oscillator, _| oscillator.wall_ms).unwrap_or(0);
        let passed = (self.now() - BEGINNING) / 1_000_000;
        u64::try_from((BEGINNING_UNIX_MS + wrong).saturating_add_unsigned(passed)).unwrap_or(0)
    }

    /// A machine's clocks run too fast by so many parts per million, or too slow.
    pub(crate) fn set_rate(&self, node: usize, ppm: i64) {
        // Slower than by nine tenths, or more than twice as fast, is no clock.
        self.change(node, |oscillator| oscillator.ppm = ppm.clamp(-MILLION / 10 * 9, MILLION));
    }

    /// A machine's clocks jump: forth, or the one for leases back.
    pub(crate) fn jump(&self, node: usize, nanos: i64) {
        self.change(node, |oscillator| match u64::try_from(nanos) {
            Ok(forth) => oscillator.timers = oscillator.timers.saturating_add(forth),
            Err(_) => oscillator.ahead = oscillator.ahead.saturating_add(nanos),
        });
    }

    /// The machine is switched on, and its clocks begin at this reading, as after a reboot.
    pub(crate) fn reboot(&self, node: usize, reading: Moment) {
        self.change(node, |oscillator| {
            (oscillator.timers, oscillator.ahead, oscillator.suspended) = (reading.as_nanos(), 0, false);
        });
    }

    /// The machine's wall clock shows so many milliseconds too much, or too little.
    pub(crate) fn set_wall(&self, node: usize, wrong_ms: i64) {
        self.change(node, |oscillator| oscillator.wall_ms = wrong_ms);
    }

    /// While a machine is suspended its clock for timers stands still.
    pub(super) fn suspend(&self, node: usize, suspended: bool) {
        self.change(node, |oscillator| oscillator.suspended = suspended);
    }
}

/// The clock by which the leases of a simulated machine run out.
pub(crate) struct NodeClock {
    pub(crate) clocks: Arc<Clocks>,
    pub(crate) node: usize,
}

impl Clock for NodeClock {
    fn now(&self) -> Moment {
        self.clocks.leases(self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn two() -> Arc<Clocks> {
        let clocks = Clocks::new();
        clocks.add();
        clocks.add();
        clocks
    }

    fn shown(clocks: &Clocks) -> (u64, u64) {
        let since = |moment: Moment| moment.as_nanos() - BEGINNING;
        (since(clocks.timers(1)), since(clocks.leases(1)))
    }

    #[test]
    fn a_fast_clock_gains_and_is_due_at_the_first_true_moment() {
        for ppm in [-300_000, -77, 0, 1, 77, 300_000, 999_983] {
            let clocks = two();
            clocks.advance_to(BEGINNING + 7);
            clocks.set_rate(1, ppm);
            clocks.advance_to(BEGINNING + S);
            let expected = 7 + ((S - 7) as i128 * i128::from(MILLION + ppm) / 1_000_000) as u64;
            assert_eq!(shown(&clocks), (expected, expected));
            for wanted in (expected + 1..expected + 2_000).step_by(37) {
                let at = Moment::from_nanos(BEGINNING + wanted);
                let due = clocks.due(1, at).unwrap();
                let oscillator = clocks.machines()[1].clone();
                assert!(oscillator.timers(due) >= at.as_nanos(), "{ppm}");
                assert!(oscillator.timers(due - 1) < at.as_nanos(), "{ppm}");
            }
        }
    }

    #[test]
    fn suspend_is_counted_by_one_clock_and_a_jump_back_moves_the_same() {
        let clocks = two();
        clocks.advance_to(BEGINNING + S);
        clocks.suspend(1, true);
        assert_eq!(clocks.due(1, Moment::from_nanos(BEGINNING + 9 * S)), None);
        clocks.advance_to(BEGINNING + 3 * S);
        assert_eq!(shown(&clocks), (S, 3 * S));
        clocks.suspend(1, false);
        clocks.advance_to(BEGINNING + 4 * S);
        assert_eq!(shown(&clocks), (2 * S, 4 * S));
        clocks.jump(1, -(S as i64) / 2);
        assert_eq!(shown(&clocks), (2 * S, 4 * S - S / 2));
        clocks.jump(1, S as i64);
        assert_eq!(shown(&clocks), (3 * S, 5 * S - S / 2));
        clocks.reboot(1, Moment::from_nanos(BEGINNING));
        assert_eq!(shown(&clocks), (0, 0));
        // The others see nothing of it.
        assert_eq!(clocks.timers(0).as_nanos(), BEGINNING + 4 * S);
    }
}
