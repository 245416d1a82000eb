//! openraft's log storage over a [`Journal`].
//!
//! The journal makes bytes durable; this keeps the decoded entries since the last purge in memory, so that readers
//! (one replication task per peer, and apply) never touch the disk. Two orders matter:
//!
//! - An entry is readable before `append` returns, and reported as flushed only by the journal's completion (L9).
//! - The vote is readable only once it is durable: a replication task that reads a vote may act on it.
//!
//! All writes come from openraft's core task, one at a time; the journal keeps their order on disk.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader,
    entry::RaftEntry as _,
    storage::{IOFlushed, RaftLogStorage},
};

use super::types::{Entry, LogId, Member, Types, Vote};
use crate::{
    codec,
    fault_point::{ends_at, fault_point},
    flaw::planted,
    limits::MEMBERSHIP_BYTES_PER_APPEND,
    storage::{Journal, Recovered},
};

/// The log of one node. Clones share it; openraft takes one as the log and more as readers.
#[derive(Clone)]
pub(crate) struct Log {
    journal: Arc<dyn Journal>,
    cache: Arc<RwLock<Cache>>,
}

#[derive(Default)]
struct Cache {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Consecutive; the first has the index after `purged`.
    entries: VecDeque<Entry>,
    /// Entries before this index are on the device.
    durable_end: u64,
}

/// What a log has of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Has {
    /// Nothing, or another entry in its place.
    Not,
    /// The entry, on its way to the device.
    Soon,
    /// The entry, on the device.
    Durably,
}

impl Cache {
    /// The index of the first entry, or of the next one where there is none.
    fn first_index(&self) -> u64 {
        match self.entries.front() {
            Some(entry) => entry.index(),
            None => self.purged.as_ref().map_or(0, |id| id.index + 1),
        }
    }

    fn end_index(&self) -> u64 {
        self.first_index() + self.entries.len() as u64
    }

    /// The entries of the range that are there, as positions in the deque.
    fn positions(&self, range: &impl RangeBounds<u64>) -> (usize, usize) {
        let first = self.first_index();
        let start = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        }
        .max(first);
        let end = match range.end_bound() {
            Bound::Included(&index) => index.saturating_add(1),
            Bound::Excluded(&index) => index,
            Bound::Unbounded => u64::MAX,
        }
        .min(self.end_index());
        if start >= end { (0, 0) } else { ((start - first) as usize, (end - first) as usize) }
    }
}

fn invalid(what: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} in the log is unreadable: {error}"))
}

fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: Option<Bytes>) -> io::Result<Option<T>> {
    bytes.map(|bytes| codec::decode(&bytes)).transpose().map_err(|error| invalid(what, error))
}

impl Log {
    /// Takes over what the journal found on opening.
    ///
    /// # Errors
    /// `InvalidData` where a record passed its checksum and yet is no entry, vote or log id of this version, or
    /// where entries are missing in the middle.
    pub(crate) fn new(journal: Arc<dyn Journal>, recovered: Recovered) -> io::Result<Self> {
        let mut cache = Cache {
            vote: decode("the vote", recovered.vote)?,
            committed: decode("the commit mark", recovered.committed)?,
            purged: decode("the purge mark", recovered.purged.map(|(_, mark)| mark))?,
            entries: VecDeque::with_capacity(recovered.entries.len()),
            durable_end: 0,
        };
        // Every index below has one after it: that is what the arithmetic here, and openraft's, relies on.
        if cache.purged.is_some_and(|id| id.index == u64::MAX) {
            return Err(invalid("the purge mark", "it is the last index there is"));
        }
        for (index, bytes) in recovered.entries {
            let entry: Entry = codec::decode(&bytes).map_err(|error| invalid("an entry", error))?;
            if index == u64::MAX {
                return Err(invalid("an entry", "its index is the last one there is"));
            }
            if entry.index() != index || index != cache.end_index() {
                return Err(invalid(
                    "an entry",
                    format!(
                        "expected index {}, found {} stored at {index}",
                        cache.end_index(),
                        entry.index()
                    ),
                ));
            }
            cache.entries.push_back(entry);
        }
        cache.durable_end = cache.end_index();
        Ok(Self { journal, cache: Arc::new(RwLock::new(cache)) })
    }

    /// The index of the first entry, and the one after the last.
    #[cfg(feature = "test-support")]
    pub(super) fn range(&self) -> (u64, u64) {
        let cache = self.read();
        (cache.first_index(), cache.end_index())
    }

    fn read(&self) -> RwLockReadGuard<'_, Cache> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Cache> {
        self.cache.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is, or was, any entry: the cluster was formed.
    pub(crate) fn has_entries(&self) -> bool {
        let cache = self.read();
        !cache.entries.is_empty() || cache.purged.is_some()
    }

    /// What it has of the entry with this id.
    pub(super) fn has(&self, id: &LogId) -> Has {
        let cache = self.read();
        let place = id.index.checked_sub(cache.first_index()).and_then(|place| usize::try_from(place).ok());
        let entry = place.and_then(|place| cache.entries.get(place));
        match entry {
            Some(entry) if entry.log_id() != *id => Has::Not,
            Some(_) if id.index < cache.durable_end => Has::Durably,
            Some(_) => Has::Soon,
            None => Has::Not,
        }
    }

    /// Whether a vote was ever stored: this node has taken part in an election before.
    pub(crate) fn has_voted(&self) -> bool {
        self.read().vote.is_some()
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let cache = self.read();
        let (start, end) = cache.positions(&range);
        Ok(cache.entries.range(start..end).cloned().collect())
    }

    /// What is sent to a follower at once. Entries of ours are so small that the most of them fit a frame
    /// ([`ENTRIES_PER_APPEND_MAX`](crate::limits::ENTRIES_PER_APPEND_MAX)); one that carries the membership lists all
    /// members, so these are counted.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let cache = self.read();
        let (start, end) = cache.positions(&(start..end));
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let before = bytes;
            if let EntryPayload::Membership(membership) = &entry.payload {
                // Two node ids, two lengths and a wish, at most.
                let of_member = |(_, m): (&_, &Member)| m.agent.len() + m.addr.len() + 32;
                bytes += membership.nodes().map(of_member).sum::<usize>();
            }
            before < MEMBERSHIP_BYTES_PER_APPEND
        };
        Ok(cache.entries.range(start..end).take_while(fits).cloned().collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.read().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let cache = self.read();
        let last = cache.entries.back().map(openraft::entry::RaftEntry::log_id).or(cache.purged);
        Ok(LogState { last_purged_log_id: cache.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        fault_point!(BeforeVote);
        if !planted!(VoteNotSaved) {
            self.journal.save_vote(codec::encode(vote).into()).await?;
        }
        fault_point!(AfterVote);
        self.write().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            fault_point!(BeforeCommitMark);
            self.journal.save_committed(codec::encode(&committed).into()).await?;
            fault_point!(AfterCommitMark);
        }
        self.write().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.read().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        fault_point!(BeforeAppend);
        let mut records = Vec::new();
        {
            let mut cache = self.write();
            for entry in entries {
                let (index, next) = (entry.index(), cache.end_index());
                if index != next && !(cache.entries.is_empty() && cache.purged.is_none()) {
                    return Err(invalid("an entry", format!("index {index} does not follow {next}")));
                }
                records.push((index, Bytes::from(codec::encode(&entry))));
                cache.entries.push_back(entry);
            }
        }
        let end = records.last().map_or(0, |(index, _)| index + 1);
        // Not the log itself, which owns the journal: the journal's own thread must not be the last to own it.
        let cache = Arc::clone(&self.cache);
        let done = move |result: io::Result<()>| {
            if ends_at!(AfterAppend) {
                return;
            }
            if result.is_ok() {
                let mut cache = cache.write().unwrap_or_else(PoisonError::into_inner);
                // What is being truncated does not count; nothing is appended anew before that is done.
                cache.durable_end = cache.durable_end.max(end.min(cache.end_index()));
            }
            callback.io_completed(result);
        };
        self.journal.append(records, Box::new(done)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        fault_point!(BeforeTruncation);
        let last = last.map(|id| id.index);
        {
            let mut cache = self.write();
            let keep = last.map_or(0, |index| (index + 1).saturating_sub(cache.first_index()));
            cache.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
            cache.durable_end = cache.durable_end.min(cache.end_index());
        }
        self.journal.truncate_after(last).await?;
        fault_point!(AfterTruncation);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        fault_point!(BeforePurge);
        {
            let mut cache = self.write();
            let gone = (log_id.index + 1).saturating_sub(cache.first_index());
            let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(cache.entries.len());
            cache.entries.drain(..gone);
            cache.purged = Some(log_id);
        }
        self.journal.purge(log_id.index, codec::encode(&log_id).into()).await?;
        fault_point!(AfterPurge);
        Ok(())
    }
}
