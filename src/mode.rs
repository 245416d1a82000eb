//! How a lease shares its name with others.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::PERMITS_MAX;

/// How a lease shares its name with others. Leases that exclude each other queue, first come first served: nobody
/// overtakes a writer that waits behind readers, so none starves.
///
/// Encoded by position: append variants, never move or remove one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Mode {
    /// Alone: a lock.
    #[default]
    Exclusive,
    /// Beside any number of other shared leases, and beside nothing else: the readers of a readers-writer lock, whose
    /// writers are exclusive.
    Shared,
    /// One of so many permits: a semaphore. Those who name another number exclude each other.
    Permits {
        /// How many there are of them in all: 1 to 100,000.
        of: u32,
    },
}

impl Mode {
    /// Whether a lease of this mode may be granted beside so many others of `present`.
    pub(crate) fn fits_beside(self, present: Self, count: usize) -> bool {
        match self {
            Self::Exclusive => false,
            Self::Shared => present == Self::Shared,
            Self::Permits { of } => present == self && u64::from(of) > count as u64,
        }
    }

    /// Whether there is such a mode.
    pub(crate) fn is_valid(self) -> bool {
        match self {
            Self::Exclusive | Self::Shared => true,
            Self::Permits { of } => (1..=PERMITS_MAX).contains(&of),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive => f.pad("exclusive"),
            Self::Shared => f.pad("shared"),
            Self::Permits { of } => f.pad(&format!("permit of {of}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fits_beside_whom() {
        let of = |of| Mode::Permits { of };
        let all = [Mode::Exclusive, Mode::Shared, of(1), of(2), of(3)];
        for one in all {
            for other in all {
                let fits = one.fits_beside(other, 1);
                let expected = matches!(
                    (one, other),
                    (Mode::Shared, Mode::Shared)
                        | (Mode::Permits { of: 2 }, Mode::Permits { of: 2 })
                        | (Mode::Permits { of: 3 }, Mode::Permits { of: 3 })
                );
                assert_eq!(fits, expected, "{one} beside {other}");
            }
        }
        assert!(of(3).fits_beside(of(3), 2) && !of(3).fits_beside(of(3), 3));
        assert!(Mode::Shared.fits_beside(Mode::Shared, usize::MAX));
        assert!(!of(0).is_valid() && of(1).is_valid() && !of(PERMITS_MAX + 1).is_valid());
    }
}
