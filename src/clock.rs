//! The clock by which leases run out, and the only reads of an OS clock.
//!
//! Leases need a clock that is monotonic *and counts suspend*: `std::time::Instant` stops on Linux while a laptop
//! or VM sleeps, and a holder that slept through its ttl would go on believing. Linux has `CLOCK_BOOTTIME`;
//! on macOS `CLOCK_MONOTONIC` counts sleep. Elsewhere [`SystemClock`] falls back to `Instant`: there, do not
//! suspend a machine whose agents hold leases, or rely on fencing alone.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::time::Moment;

/// A monotonic clock that counts suspend.
///
/// Two readings are compared only with each other, never with another agent's. A reading that goes backwards makes
/// every holder on this clock treat its leases as lost.
pub trait Clock: Send + Sync + 'static {
    /// The present reading. It costs tens of nanoseconds: [`Lease::check`](crate::Lease::check) reads it each time.
    fn now(&self) -> Moment;
}

/// The machine's clock: `CLOCK_BOOTTIME` on Linux and Android, `CLOCK_MONOTONIC` on macOS, `Instant` elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        system_now()
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn system_now() -> Moment {
    of_timespec(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
}

#[cfg(target_vendor = "apple")]
fn system_now() -> Moment {
    of_timespec(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn of_timespec(t: rustix::time::Timespec) -> Moment {
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    Moment::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
#[expect(clippy::disallowed_methods, reason = "the documented fallback")]
fn system_now() -> Moment {
    use std::{sync::OnceLock, time::Instant};
    static ZERO: OnceLock<Instant> = OnceLock::new();
    let zero = *ZERO.get_or_init(Instant::now);
    Moment::ZERO + zero.elapsed()
}

/// A clock that a test moves by hand.
#[derive(Debug, Default)]
pub struct ManualClock {
    nanos: AtomicU64,
}

impl ManualClock {
    /// A clock that shows this moment.
    #[must_use]
    pub fn at(moment: Moment) -> Self {
        Self { nanos: AtomicU64::new(moment.as_nanos()) }
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Sets it, also backwards.
    pub fn set(&self, moment: Moment) {
        self.nanos.store(moment.as_nanos(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        Moment::from_nanos(self.nanos.load(Ordering::SeqCst))
    }
}

/// The wall clock, in milliseconds since 1970: shown to people and to callers of the seed interface, and the floor
/// of the tokens of a new cluster, and of a process.
#[expect(clippy::disallowed_methods, reason = "the only read of the wall clock")]
pub(crate) fn wall_unix_ms() -> u64 {
    #[cfg(feature = "chaos")]
    if let Some(world) = crate::runtime::world::world() {
        return world.wall_unix_ms();
    }
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The wall clock: against it the date of a provider from elsewhere is read, for a span. Nothing else trusts it.
#[expect(clippy::disallowed_methods, reason = "the wall clock, for the seed interface")]
pub(crate) fn wall_now() -> chrono::DateTime<chrono::Utc> {
    #[cfg(feature = "chaos")]
    if let Some(world) = crate::runtime::world::world() {
        let now = i64::try_from(world.wall_unix_ms()).ok().and_then(chrono::DateTime::from_timestamp_millis);
        return now.unwrap_or_default();
    }
    chrono::Utc::now()
}

/// What the wall clock will show after this span: for people and for the seed interface.
pub(crate) fn wall_after(span: Duration) -> chrono::DateTime<chrono::Utc> {
    let now = wall_now();
    chrono::Duration::from_std(span).ok().and_then(|span| now.checked_add_signed(span)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "real time must pass")]
    fn the_system_clock_goes_forward() {
        let first = SystemClock.now();
        std::thread::sleep(Duration::from_millis(5));
        assert!(SystemClock.now().since(first) >= Duration::from_millis(4));
    }

    /// On Linux the clock that counts suspend is never behind the one that doesn't.
    #[test]
    #[cfg(target_os = "linux")]
    fn it_counts_suspend() {
        let monotonic = of_timespec(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic));
        assert!(SystemClock.now() >= monotonic);
        let boottime = of_timespec(rustix::time::clock_gettime(rustix::time::ClockId::Boottime));
        assert!(boottime.since(SystemClock.now()) < Duration::from_secs(1));
    }
}
