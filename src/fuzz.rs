//! What the targets of the fuzzer share (feature `test-support`): arbitrary bytes as choices, and what is asked of every
//! form that the codec reads.
//!
//! The targets stand where what they look at stands: `src/transport/fuzz.rs`, `src/storage/fuzz.rs`, `src/table/fuzz.rs`,
//! `src/raft/fuzz.rs`, `src/agent/fuzz.rs`. A target is a function of bytes that returns, whatever the bytes are; what must
//! not be is an assertion in it. The fuzzer calls them (`fuzz/`), and so does `tests/fuzz_corpora.rs`, over what the fuzzer
//! has found worth keeping.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use crate::codec::{self, FORMAT_VERSION};

/// Bytes, taken one after the other; behind their end there are zeros, so that what was chosen is followed by what is
/// the least.
#[derive(Debug, Clone)]
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// One of so many.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    /// True in so many of 256 cases.
    pub(crate) fn chance(&mut self, of_256: u8) -> bool {
        self.byte() < of_256
    }

    /// A number: small ones, those at the edges, and any.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=239 => u64::from(small),
            240..=243 => u64::MAX - u64::from(self.byte()),
            244..=247 => 1 << (self.byte() % 64),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// At most so many bytes, fewer where they end.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (some, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        some
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// These bytes, behind a version byte, are refused or a value of the form; what is read is written so that the same is
/// read again.
pub(crate) fn withstands<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) {
    if let Ok(value) = codec::decode::<T>(&[&[FORMAT_VERSION], body].concat()) {
        let encoded = codec::encode(&value);
        assert_eq!(codec::decode(&encoded), Ok(value), "what was written is not what was read");
    }
}

/// With the checksum that they ask for at their end.
pub(crate) fn sealed(body: &[u8]) -> Vec<u8> {
    [body, &crc32fast::hash(body).to_le_bytes()].concat()
}
