//! Inner floors for this repository's own tests and benchmarks: the storage alone, for `tests/power_loss` (it kills a
//! process that writes, takes away what was not synced, and looks at what is left), the table alone, for
//! `benches/table.rs`, and whatever reads bytes, for the fuzzer and `tests/fuzz_corpora.rs`. Behind the feature `test-support`, and not a part of the interface: it may change or go
//! in any release.

use std::{io, path::Path};

use bytes::Bytes;

pub use crate::table::bench::TableBench;
use crate::{
    agent, raft,
    storage::{self, DiskJournal, Journal as _, Options, StorageError, open_for_test},
    table, transport,
};

/// A function of any bytes that returns, whatever the bytes are.
pub type FuzzTarget = fn(&[u8]);

/// The targets of the fuzzer, each with its name.
pub const FUZZ_TARGETS: &[(&str, FuzzTarget)] = &[
    ("frames", transport::fuzz::frames),
    ("handshake", transport::fuzz::handshake),
    ("messages", agent::fuzz::messages),
    ("records", |bytes| by_first_byte(bytes, storage::fuzz::record, raft::fuzz::log)),
    ("snapshots", |bytes| by_first_byte(bytes, table::fuzz::snapshot, storage::fuzz::snapshot_file)),
    ("table", table::fuzz::table),
];

/// Most go to the first.
fn by_first_byte(bytes: &[u8], one: FuzzTarget, other: FuzzTarget) {
    match bytes.split_first() {
        Some((..=223, rest)) => one(rest),
        Some((_, rest)) => other(rest),
        None => {}
    }
}

/// Calls one of [`FUZZ_TARGETS`]; without effect where there is none of this name.
pub fn fuzz(target: &str, bytes: &[u8]) {
    for (_, judge) in FUZZ_TARGETS.iter().filter(|(name, _)| *name == target) {
        judge(bytes);
    }
}

/// A journal on disk.
#[derive(Debug)]
pub struct Store(DiskJournal);

/// What it held when it was opened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// The last vote.
    pub vote: Option<Bytes>,
    /// The last note of what is committed.
    pub committed: Option<Bytes>,
    /// Up to where it was purged, with the mark.
    pub purged: Option<(u64, Bytes)>,
    /// The entries after that.
    pub entries: Vec<(u64, Bytes)>,
    /// The snapshot, as (meta, data).
    pub snapshot: Option<(Bytes, Bytes)>,
}

impl Store {
    /// Opens the directory. Without `fdatasync`, writes are acknowledged before they are durable: a test must see
    /// them lost.
    ///
    /// # Errors
    /// [`StorageError`] when the directory is not as it was left.
    pub fn open(path: &Path, fdatasync: bool) -> Result<(Self, Found), StorageError> {
        let (journal, recovered) = open_for_test(path, &Options { fdatasync })?;
        let found = Found {
            vote: recovered.vote,
            committed: recovered.committed,
            purged: recovered.purged,
            entries: recovered.entries,
            snapshot: recovered.snapshot,
        };
        Ok((Self(journal), found))
    }

    /// Adds entries; `done` is called when they are durable.
    ///
    /// # Errors
    /// When the journal has failed, or is closed; this goes for all calls.
    pub async fn append(
        &self,
        entries: Vec<(u64, Bytes)>,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        self.0.append(entries, Box::new(done)).await
    }

    /// Replaces the vote.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn save_vote(&self, vote: Bytes) -> io::Result<()> {
        self.0.save_vote(vote).await
    }

    /// Replaces the note of what is committed; durable with the next other write.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn save_committed(&self, committed: Bytes) -> io::Result<()> {
        self.0.save_committed(committed).await
    }

    /// Drops the entries after this index.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn truncate_after(&self, last: Option<u64>) -> io::Result<()> {
        self.0.truncate_after(last).await
    }

    /// Drops the entries up to this index.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn purge(&self, upto: u64, mark: Bytes) -> io::Result<()> {
        self.0.purge(upto, mark).await
    }

    /// Replaces the snapshot.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn save_snapshot(&self, meta: Bytes, data: Bytes) -> io::Result<()> {
        self.0.save_snapshot(meta, data).await
    }

    /// Why nothing is accepted any more.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        self.0.failed()
    }

    /// Writes what is queued and gives the directory free.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn close(&self) -> io::Result<()> {
        self.0.close().await
    }
}
