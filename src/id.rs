//! Identities: 128 random bits for a lease and a cluster, 64 for a node.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that isn't an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected 32 hexadecimal digits, found {found} characters")]
pub struct IdError {
    /// How many characters the text has.
    pub found: usize,
}

fn parse_hex(text: &str) -> Result<u128, IdError> {
    let err = || IdError { found: text.chars().count() };
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(err());
    }
    u128::from_str_radix(text, 16).map_err(|_| err())
}

/// Identifies one acquisition, and alone is enough to renew, release and transfer it.
///
/// The requester picks it at random, anew for each acquisition, and keeps it over retries. Whoever knows it can
/// release the lease, so it is a secret: `Debug` and `Display` show its first 8 hexadecimal digits;
/// [`reveal`](Self::reveal) shows the whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    // In halves: a `u128` is aligned to 16 bytes, which would cost 8 in most of what has an id. In this order they
    // compare as the whole does, and they are encoded as the whole.
    high: u64,
    low: u64,
}

impl LeaseId {
    /// The id with these bits.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }

    /// The bits.
    #[must_use]
    pub const fn to_bits(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    /// All 32 hexadecimal digits: keep them out of logs.
    #[must_use]
    pub fn reveal(self) -> String {
        format!("{:032x}", self.to_bits())
    }
}

impl Serialize for LeaseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_bits().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u128::deserialize(deserializer).map(Self::from_bits)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}…", (self.high >> 32) as u32)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({self})")
    }
}

impl FromStr for LeaseId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex(text).map(Self::from_bits)
    }
}

/// Identifies a cluster from its founding on.
///
/// Its first 16 bits are the [`generation`](Self::generation), the others are drawn at the founding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(u128);

/// The bits that are drawn. The generation is a part of the id and not a field beside it, so that every place which keeps
/// two clusters apart (handshake, identity file, founding) keeps two generations apart as well, in the form that it had.
const DRAWN_BITS: u32 = 112;
/// The bits that stay over all recoveries; those between them and the generation are drawn anew by each.
const FOUNDING: u128 = u128::MAX >> 48;

impl ClusterId {
    /// The id with these bits.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn to_bits(self) -> u128 {
        self.0
    }

    /// How often the cluster was recovered by force ([`danger`](crate::danger)): 0 as it is founded. Agents of different
    /// generations are agents of different clusters. (A cluster that was founded before there were generations has a
    /// random one, and counts on from there.)
    #[must_use]
    pub const fn generation(self) -> u16 {
        (self.0 >> DRAWN_BITS) as u16
    }

    /// The id of a cluster that is founded, from random bits.
    pub(crate) const fn of_founding(bits: u128) -> Self {
        Self(bits & (u128::MAX >> (u128::BITS - DRAWN_BITS)))
    }

    /// Whether both come of one founding.
    pub(crate) const fn has_founding_of(self, other: Self) -> bool {
        self.0 & FOUNDING == other.0 & FOUNDING
    }

    /// Whether both come of one founding, and this one is of an earlier generation.
    pub(crate) const fn is_before(self, other: Self) -> bool {
        self.has_founding_of(other) && self.generation() < other.generation()
    }

    /// The next generation; `None` after the last one. Of two copies of one directory that are recovered each has its own, by
    /// what is drawn: they are different clusters.
    pub(crate) const fn next_generation(self, drawn: u32) -> Option<Self> {
        match self.generation().checked_add(1) {
            Some(generation) => {
                let own = (generation as u128) << DRAWN_BITS | (drawn as u128) << FOUNDING.count_ones();
                Some(Self(own | self.0 & FOUNDING))
            }
            None => None,
        }
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl FromStr for ClusterId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex(text).map(Self)
    }
}

/// Identifies a member: 64 random bits that a data directory gets when first used, and keeps.
///
/// A member without a data directory gets a new one at each start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct NodeId(u64);

impl NodeId {
    /// The id with these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_id_is_not_printed_whole() {
        let id = LeaseId::from_bits(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(format!("{id} {id:?}"), "01234567… LeaseId(01234567…)");
        assert_eq!(id.reveal().parse(), Ok(id));
    }

    #[test]
    fn halves_are_ordered_and_encoded_as_the_whole() {
        let bits = [0, 1, u128::from(u64::MAX), 1 << 64, (1 << 64) + 1, u128::MAX];
        assert!(bits.map(LeaseId::from_bits).is_sorted());
        for bits in bits {
            let id = LeaseId::from_bits(bits);
            assert_eq!(id.to_bits(), bits);
            assert_eq!(crate::codec::encode(&id), crate::codec::encode(&bits));
        }
        assert_eq!(align_of::<LeaseId>(), 8);
    }

    #[test]
    fn generations_of_a_founding_are_told_apart_and_recognised() {
        let founded = ClusterId::of_founding(u128::MAX);
        assert_eq!((founded.generation(), founded.to_string().len()), (0, 32));
        assert!(founded.to_string().starts_with("0000f"), "{founded}");
        let next = founded.next_generation(5).unwrap();
        assert_eq!((next.generation(), next == founded), (1, false));
        assert!(next.has_founding_of(founded) && next.to_string().starts_with("000100000005f"), "{next}");
        assert!(!next.has_founding_of(ClusterId::of_founding(7)));
        assert_eq!(ClusterId::from_bits(u128::MAX).next_generation(5), None);
    }

    #[test]
    fn a_text_of_another_form_is_refused() {
        assert_eq!("+123".parse::<LeaseId>(), Err(IdError { found: 4 }));
        assert!(format!("+{}", "0".repeat(31)).parse::<LeaseId>().is_err());
    }
}
