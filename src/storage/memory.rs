//! The journal in memory: the same contract, and durable for as long as the value lives.
//!
//! Each start of an agent without a data directory is a new member, so nobody relies on what is kept here. It is
//! kept all the same: [`MemoryJournal::restart`] stands for a member that comes back with its disk, for tests and
//! for a simulated cluster. Everything happens inline, on the caller's thread, so that a run can be replayed.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Done, Failure, Journal,
    disk::closed,
    record::Head,
    writer::{check_append, check_purge, check_truncate},
};

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
    head: Head,
    entries: VecDeque<(u64, Bytes)>,
    snapshot: Option<(Bytes, Bytes)>,
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
        let recovered = super::Recovered {
            vote: disk.head.vote.clone(),
            committed: disk.head.committed.clone(),
            purged: disk.head.purged.clone(),
            entries: disk.entries.iter().cloned().collect(),
            snapshot: disk.snapshot.clone(),
        };
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
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) -> io::Result<()> {
        let mut outcome = Ok(());
        self.write(|disk| {
            match check_append(&disk.head, disk.head.end, &entries) {
                Ok(range) => {
                    if disk.entries.is_empty() {
                        disk.head.first = range.start;
                    }
                    disk.head.end = range.end;
                    disk.entries.extend(entries);
                }
                // As on disk, it is the callback that hears of it.
                Err(error) => outcome = Err(error),
            }
            Ok(())
        })?;
        done(outcome);
        Ok(())
    }

    async fn save_vote(&self, vote: Bytes) -> io::Result<()> {
        self.write(|disk| {
            disk.head.vote = Some(vote);
            Ok(())
        })
    }

    async fn save_committed(&self, committed: Bytes) -> io::Result<()> {
        self.write(|disk| {
            disk.head.committed = Some(committed);
            Ok(())
        })
    }

    async fn truncate_after(&self, last: Option<u64>) -> io::Result<()> {
        self.write(|disk| {
            let end = check_truncate(&disk.head, last)?.min(disk.head.end);
            disk.head.end = end;
            while disk.entries.pop_back_if(|(index, _)| *index >= end).is_some() {}
            Ok(())
        })
    }

    async fn purge(&self, upto: u64, mark: Bytes) -> io::Result<()> {
        self.write(|disk| {
            let Some(first) = check_purge(&disk.head, upto)? else { return Ok(()) };
            disk.head.first = first;
            disk.head.end = disk.head.end.max(first);
            disk.head.purged = Some((upto, mark));
            while disk.entries.pop_front_if(|(index, _)| *index < first).is_some() {}
            Ok(())
        })
    }

    async fn save_snapshot(&self, meta: Bytes, data: Bytes) -> io::Result<()> {
        self.write(|disk| {
            disk.snapshot = Some((meta, data));
            Ok(())
        })
    }

    async fn load_snapshot(&self) -> io::Result<Option<(Bytes, Bytes)>> {
        self.write(|disk| Ok(disk.snapshot.clone()))
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
