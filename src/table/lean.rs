//! What keeps a held lease small in memory. None of it shows in what is encoded, nor in what is equal.
//!
//! A table may have a million leases, held by a few agents and most of them without metadata. So equal holders are
//! one value that all their leases share ([`HolderPool`]), and metadata that is empty takes one word ([`Metadata`]).

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::command::Holder;

/// So many holders are kept before it is looked for the first time whether they still hold anything.
const FIRST_SWEEP: usize = 64;

/// What a holder wants others to see: nothing, usually.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata(Option<Box<Bytes>>);

impl Metadata {
    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |bytes| bytes.len())
    }

    /// The bytes.
    pub(crate) fn to_bytes(&self) -> Bytes {
        self.0.as_deref().cloned().unwrap_or_default()
    }
}

impl From<Bytes> for Metadata {
    fn from(bytes: Bytes) -> Self {
        Self((!bytes.is_empty()).then(|| Box::new(bytes)))
    }
}

/// As the bytes.
impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bytes::deserialize(deserializer).map(Self::from)
    }
}

/// The holders of a table's leases and waiters, each once.
///
/// A holder that has nothing left goes when the next sweep comes: at the latest when there are twice as many as the
/// last one left. So the set is bounded by who holds or waits, and nobody needs to tell it of an end.
#[derive(Debug, Clone)]
pub(super) struct HolderPool {
    known: BTreeSet<Arc<Holder>>,
    sweep_at: usize,
}

impl Default for HolderPool {
    fn default() -> Self {
        Self { known: BTreeSet::new(), sweep_at: FIRST_SWEEP }
    }
}

impl HolderPool {
    /// The one value that stands for this holder.
    pub(super) fn share(&mut self, holder: &Holder) -> Arc<Holder> {
        if let Some(known) = self.known.get(holder) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = FIRST_SWEEP.max(2 * self.known.len());
        }
        let new = Arc::new(holder.clone());
        self.known.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AgentName, NodeId, codec};

    fn holder(n: usize) -> Holder {
        Holder { agent: AgentName::new(format!("agent-{n}")).unwrap(), node: NodeId::from_bits(1) }
    }

    #[test]
    fn equal_holders_are_one_value() {
        let mut holders = HolderPool::default();
        let one = holders.share(&holder(1));
        assert!(Arc::ptr_eq(&one, &holders.share(&holder(1))));
        let elsewhere = Holder { node: NodeId::from_bits(2), ..holder(1) };
        assert_eq!(*holders.share(&elsewhere), elsewhere);
        assert_eq!(*one, holder(1));
    }

    #[test]
    fn those_who_hold_nothing_are_forgotten() {
        let mut holders = HolderPool::default();
        let mut held = Vec::new();
        for n in 0..10_000 {
            let holder = holders.share(&holder(n));
            if n % 100 == 0 {
                held.push(holder);
            }
            assert!(holders.known.len() <= FIRST_SWEEP.max(2 * held.len()), "{n}: {}", holders.known.len());
        }
        assert!(held.iter().all(|holder| holders.known.contains(holder)));
    }

    #[test]
    fn metadata_is_encoded_as_its_bytes() {
        for bytes in [Bytes::new(), Bytes::from_static(b"pid 7")] {
            let metadata = Metadata::from(bytes.clone());
            assert_eq!((metadata.len(), metadata.to_bytes()), (bytes.len(), bytes.clone()));
            let encoded = codec::encode(&metadata);
            assert_eq!(encoded, codec::encode(&bytes));
            assert_eq!(codec::decode(&encoded), Ok(metadata));
        }
        assert_eq!(size_of::<Metadata>(), 8);
    }
}
