//! The fencing token.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many bits of a token count grants; the bits above them are the founding time in milliseconds.
const GRANT_BITS: u32 = 20;

/// A fencing token: every grant in the cluster's life gets a larger one (rule L2).
///
/// A cluster's tokens start at its founding time (ms since 1970) `<< 20`. A cluster that is founded anew starts
/// above whatever the old one can have issued, as long as that one granted on average fewer than 2^20 leases
/// (about a million) a millisecond, and the founder's wall clock stands after the old founding. 44 bits of
/// milliseconds last until the year 2527.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(u64);

impl Token {
    /// The token with this value, as a resource that stores tokens reads it back.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// Its value, as a resource stores and compares it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The token below which a cluster founded at this time issues none.
    pub(crate) const fn floor_of_founding(unix_ms: u64) -> Self {
        let ms_max = u64::MAX >> GRANT_BITS;
        Self((if unix_ms > ms_max { ms_max } else { unix_ms }) << GRANT_BITS)
    }

    /// The token of the grant after this one; `None` when the 64 bits are used up.
    pub(crate) const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        token.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_founding_starts_above() {
        let mut token = Token::floor_of_founding(1_000);
        for _ in 0..1000 {
            token = token.next().unwrap();
        }
        assert!(token < Token::floor_of_founding(1_001));
        assert_eq!(Token::new(u64::MAX).next(), None);
        assert_eq!(Token::floor_of_founding(u64::MAX).get() >> GRANT_BITS, u64::MAX >> GRANT_BITS);
    }
}
