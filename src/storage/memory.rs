//! The journal in memory: the same contract, and durable for as long as the value lives.
//!
//! Each start of an agent without a data directory is a new member, so nobody relies on what is kept here. It is
//! kept all the same: [`MemoryJournal::restart`] stands for a member that comes back with its disk, for tests.
//! Everything happens inline, on the caller's thread.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Done, Failure, Journal, content::Content, disk::closed};

/// A journal without a disk.
#[derive(Debug)]
pub(crate) struct MemoryJournal {
    disk: Arc<Mutex<Disk>>,
    /// Which opening of the disk this is; an older one is closed.
    opening: u64,
    failure: Failure,
}

#[derive(Debug, Default)]
struct Disk {
    content: Content,
    opening: u64,
}

impl MemoryJournal {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { disk: Arc::default(), opening: 0, failure: Failure::default() }
    }

    /// Opens what this one holds anew, as a restarted agent would; this one is closed by that.
    #[cfg(test)]
    pub(crate) fn restart(&self) -> (Self, super::Recovered) {
        let mut disk = self.lock();
        disk.opening += 1;
        let recovered = disk.content.recovered();
        let reopened =
            Self { disk: Arc::clone(&self.disk), opening: disk.opening, failure: Failure::default() };
        (reopened, recovered)
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, write: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        self.failure.check()?;
        let mut disk = self.lock();
        if disk.opening != self.opening {
            return Err(closed());
        }
        write(&mut disk)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        self.write(|disk| Ok(change(&mut disk.content)))
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) -> io::Result<()> {
        // As on disk, it is the callback that hears of a hole.
        let outcome = self.change(|content| content.append(entries))?;
        done(outcome);
        Ok(())
    }

    async fn save_vote(&self, vote: Bytes) -> io::Result<()> {
        self.change(|content| content.save_vote(vote))
    }

    async fn save_committed(&self, committed: Bytes) -> io::Result<()> {
        self.change(|content| content.save_committed(committed))
    }

    async fn truncate_after(&self, last: Option<u64>) -> io::Result<()> {
        self.change(|content| content.truncate_after(last))?
    }

    async fn purge(&self, upto: u64, mark: Bytes) -> io::Result<()> {
        self.change(|content| content.purge(upto, mark))?
    }

    async fn save_snapshot(&self, meta: Bytes, data: Bytes) -> io::Result<()> {
        self.change(|content| content.save_snapshot(meta, data))
    }

    async fn load_snapshot(&self) -> io::Result<Option<(Bytes, Bytes)>> {
        self.change(|content| content.snapshot())
    }

    async fn close(&self) -> io::Result<()> {
        self.write(|disk| {
            disk.opening += 1;
            Ok(())
        })
    }

    fn failed(&self) -> Option<String> {
        self.failure.text()
    }
}
