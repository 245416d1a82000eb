//! Time as the pure machines see it: a number that they are given, and the drift between two agents' clocks.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::flaw::planted;

/// A reading of one agent's monotonic clock: nanoseconds since a moment of that clock's own choice.
///
/// Two agents' moments are not comparable; nothing sends one to another agent. 64 bits last 584 years.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// The clock's own zero.
    pub const ZERO: Self = Self(0);
    /// A moment that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment that stands this many nanoseconds after the clock's zero.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's zero.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How much later this moment is than `earlier`; zero if it isn't.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Saturates at [`Moment::NEVER`].
impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

/// Saturates at [`Moment::ZERO`].
impl Sub<Duration> for Moment {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:?}", Duration::from_nanos(self.0))
    }
}

/// The largest difference in *rate* between two agents' clocks, in parts per million.
///
/// The assumption on which rule L1 stands: while one clock advances by `t`, any other advances by no more than
/// `t × (1 + drift)` and no less than `t × (1 − drift)`. Nothing is assumed about what the clocks show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Drift {
    ppm: u32,
}

const MILLION: u32 = 1_000_000;

impl Drift {
    /// A drift of so many parts per million (10 000 is 1 %), or `None` from a million on: then no ttl is long enough.
    #[must_use]
    pub const fn from_ppm(ppm: u32) -> Option<Self> {
        if ppm < MILLION { Some(Self { ppm }) } else { None }
    }

    /// In parts per million.
    #[must_use]
    pub const fn ppm(self) -> u32 {
        self.ppm
    }

    /// `span × (1 − drift)`: how long a holder may believe, on its own clock. Rounded down.
    #[must_use]
    pub fn shorten(self, span: Duration) -> Duration {
        if planted!(NoDriftMargin) {
            return span;
        }
        scale(span, MILLION - self.ppm, false)
    }

    /// `span × (1 + drift)`: how long the leader waits, on its own clock. Rounded up.
    #[must_use]
    pub fn lengthen(self, span: Duration) -> Duration {
        if planted!(NoDriftMargin) {
            return span;
        }
        scale(span, MILLION + self.ppm, true)
    }
}

/// A number that is no [`Drift`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a clock drift of {ppm} parts per million; it must be below a million, or no ttl is long enough")]
pub struct DriftError {
    /// The number.
    pub ppm: u32,
}

impl TryFrom<u32> for Drift {
    type Error = DriftError;
    fn try_from(ppm: u32) -> Result<Self, DriftError> {
        Self::from_ppm(ppm).ok_or(DriftError { ppm })
    }
}

impl From<Drift> for u32 {
    fn from(drift: Drift) -> Self {
        drift.ppm
    }
}

/// In whole nanoseconds, so that every platform rounds alike.
fn scale(span: Duration, parts: u32, up: bool) -> Duration {
    let product = span.as_nanos() * u128::from(parts);
    let million = u128::from(MILLION);
    let nanos = if up { product.div_ceil(million) } else { product / million };
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The heart of L1: whatever the two rates within the bound, the holder's span ends first in true time.
    #[test]
    fn a_holders_span_ends_before_the_leaders() {
        for ppm in [0, 1, 500, 10_000, 100_000, 499_999] {
            let drift = Drift::from_ppm(ppm).unwrap();
            for nanos in [1, 999, 1_000_003, 10_000_000_000, 86_400_000_000_000] {
                let ttl = Duration::from_nanos(nanos);
                let believed = drift.shorten(ttl).as_nanos();
                let waited = drift.lengthen(ttl).as_nanos();
                // The leader's clock runs faster than the holder's by the whole bound: while the holder's
                // advances by `believed`, the leader's advances by at most believed × (1 + drift).
                assert!(
                    believed * u128::from(MILLION + ppm) <= waited * u128::from(MILLION),
                    "{ppm} {nanos}"
                );
            }
        }
    }

    #[test]
    fn moments_saturate() {
        assert_eq!(Moment::NEVER + Duration::from_secs(1), Moment::NEVER);
        assert_eq!(Moment::ZERO - Duration::from_secs(1), Moment::ZERO);
        assert_eq!(Moment::ZERO.since(Moment::NEVER), Duration::ZERO);
        assert_eq!(Drift::from_ppm(MILLION), None);
    }
}
