//! Where a member's promises are kept: its log, its vote, its identity, its snapshot. On disk, over sled and plain
//! files, and in memory, with one contract. Entries, votes and marks are opaque bytes here.
//!
//! # What durable means
//!
//! Raft counts a vote or an entry as soon as a member has answered for it. So nothing is answered before it is on
//! the *device*: it must survive a power cut, not only a crash. Three things that look like it and are not:
//!
//! - A write that returned: it is in the system's cache.
//! - sled's `flush()` that returned. On Linux it is a `sync_file_range`, which persists neither the file's size nor
//!   the device's own cache; its `conf` is never synced, nor are the files in `blobs/`, nor the names in its folder.
//! - An fsync that succeeded after one that failed: the system may have dropped the pages of the first.
//!
//! The argument, by file:
//!
//! 1. `engine.rs`: after opening, every file and folder is synced. After each group of writes: `flush()`, then
//!    `fdatasync` of the `db` file, and only then are the callbacks called. `blobs/` stays empty, or the group fails.
//! 2. `writer.rs`: one thread writes, in the order of the calls, so what a cut leaves is a prefix of the calls, and
//!    every acknowledged call is in it. After the first failure nothing is acknowledged any more ([`Failure`]).
//! 3. `record.rs`, `recovery.rs`: what was acknowledged is there in full at the next opening, or the opening fails:
//!    sled drops damaged pages silently, so a chain of checksums runs through the entries, a head says where it
//!    ends, and a file beside sled's says which head was acknowledged.
//! 4. `snapshots.rs`, `identity.rs`: whole files, synced, renamed, folder synced.
//! 5. `directory.rs`: one process at a time; never an empty start under an old id.
//! 6. `successor.rs`: a forced recovery replaces everything at one moment, or nothing.
//!
//! Readers never come here: what the log holds is read once, when it is opened ([`Recovered`]), and kept in memory
//! by the caller.

mod content;
mod directory;
mod disk;
mod engine;
mod error;
mod failure;
mod files;
#[cfg(feature = "test-support")]
pub(crate) mod fuzz;
mod identity;
mod memory;
mod record;
mod recovery;
mod snapshots;
mod successor;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

use std::{fmt, io};

use async_trait::async_trait;
use bytes::Bytes;

#[cfg(any(test, feature = "test-support"))]
pub(crate) use self::disk::open_for_test;
pub use self::error::StorageError;
#[cfg(not(feature = "chaos"))]
use self::failure::Failure;
#[cfg(feature = "chaos")]
pub(crate) use self::{content::Content, disk::closed, failure::Failure};
pub(crate) use self::{
    directory::DataDir,
    disk::{DiskJournal, Options, read_all},
    identity::Identity,
    memory::MemoryJournal,
};

/// Called once, on the writer's thread (on disk) or before `append` returns (in memory), when the write is durable
/// or has failed. It must not block, and not panic.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A member's durable state. The order of the calls is the order on disk, also between calls of different kinds.
///
/// **Errors.** [`io::ErrorKind::InvalidInput`] says that the call made no sense (a hole in the log, say); nothing
/// was done, and the journal goes on. Any other error is final: this and all later calls fail until the process
/// opens the directory anew ([`failed`](Self::failed)). What the failed call wrote may be found at that opening
/// or not.
///
/// **Cancelling.** A call that is dropped before its turn in the queue does nothing. One that is dropped later is
/// carried out all the same, as if its answer had been lost; so do not drop one and then call another that relies
/// on the first not having happened.
#[async_trait]
pub(crate) trait Journal: Send + Sync + 'static {
    /// Adds entries, each with its index. The indexes follow each other and the last one of the log; into a log
    /// that is empty and was never purged, any index may come first. Returns when they are queued, waiting for room
    /// in the queue; `done` is called when they are durable, in the order of the calls. When this returns an
    /// error, `done` is not called.
    async fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) -> io::Result<()>;

    /// Replaces the vote. Durable when it returns.
    async fn save_vote(&self, vote: Bytes) -> io::Result<()>;

    /// Replaces the note of what is committed. Queued when it returns; it becomes durable with the next write of
    /// another kind, or at [`close`](Self::close), and may be lost before that.
    async fn save_committed(&self, committed: Bytes) -> io::Result<()>;

    /// Drops the entries after this index, or all that are not purged. Durable when it returns.
    async fn truncate_after(&self, last: Option<u64>) -> io::Result<()>;

    /// Entries up to this index, included, don't count any more; also beyond the end of the log, which then goes on
    /// after it. Index and mark are durable when it returns; the space comes back in the background.
    ///
    /// The mark is opaque (the id of the last purged entry) and comes back in [`Recovered::purged`]. Purging less
    /// than before does nothing.
    async fn purge(&self, upto: u64, mark: Bytes) -> io::Result<()>;

    /// Replaces the snapshot. Durable under its name when it returns; the older one is removed after that.
    async fn save_snapshot(&self, meta: Bytes, data: Bytes) -> io::Result<()>;

    /// The newest snapshot, as (meta, data), its checksum verified.
    async fn load_snapshot(&self) -> io::Result<Option<(Bytes, Bytes)>>;

    /// Writes what is queued, stops, and gives the directory free. Later calls fail.
    async fn close(&self) -> io::Result<()>;

    /// Why nothing is accepted any more, if so.
    fn failed(&self) -> Option<String>;
}

/// What a journal holds when it is opened.
#[derive(Default, Clone, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// The last vote.
    pub(crate) vote: Option<Bytes>,
    /// The last note of what is committed that became durable.
    pub(crate) committed: Option<Bytes>,
    /// Up to where the log was purged, with the caller's mark.
    pub(crate) purged: Option<(u64, Bytes)>,
    /// The entries after that, without a hole.
    pub(crate) entries: Vec<(u64, Bytes)>,
    /// The newest snapshot, as (meta, data).
    pub(crate) snapshot: Option<(Bytes, Bytes)>,
}

impl fmt::Debug for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovered")
            .field("vote", &self.vote)
            .field("committed", &self.committed)
            .field("purged", &self.purged)
            .field("entries", &self.entries.len())
            .field("first", &self.entries.first().map(|(index, _)| index))
            .field("snapshot_bytes", &self.snapshot.as_ref().map(|(_, data)| data.len()))
            .finish()
    }
}

/// A call that made no sense: nothing was done.
fn refused(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.into())
}
