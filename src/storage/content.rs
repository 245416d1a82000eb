//! What a journal holds, as its contract describes it: entries, vote, marks and the newest snapshot, and what each call
//! makes of them. For journals that keep it in memory; on disk `writer.rs` does the same over sled.

use std::{collections::VecDeque, io};

use bytes::Bytes;

use super::{
    record::Head,
    writer::{check_append, check_purge, check_truncate},
};

/// The content of a journal. A call that makes no sense changes nothing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Content {
    head: Head,
    entries: VecDeque<(u64, Bytes)>,
    snapshot: Option<(Bytes, Bytes)>,
}

impl Content {
    /// Adds entries to the log.
    pub(crate) fn append(&mut self, entries: Vec<(u64, Bytes)>) -> io::Result<()> {
        let range = check_append(&self.head, self.head.end, &entries)?;
        if self.entries.is_empty() {
            self.head.first = range.start;
        }
        self.head.end = range.end;
        self.entries.extend(entries);
        Ok(())
    }

    /// Replaces the vote.
    pub(crate) fn save_vote(&mut self, vote: Bytes) {
        self.head.vote = Some(vote);
    }

    /// Replaces the note of what is committed.
    pub(crate) fn save_committed(&mut self, committed: Bytes) {
        self.head.committed = Some(committed);
    }

    /// Drops the entries after this index.
    pub(crate) fn truncate_after(&mut self, last: Option<u64>) -> io::Result<()> {
        let end = check_truncate(&self.head, last)?.min(self.head.end);
        self.head.end = end;
        while self.entries.pop_back_if(|(index, _)| *index >= end).is_some() {}
        Ok(())
    }

    /// Drops the entries up to this index.
    pub(crate) fn purge(&mut self, upto: u64, mark: Bytes) -> io::Result<()> {
        let Some(first) = check_purge(&self.head, upto)? else { return Ok(()) };
        self.head.first = first;
        self.head.end = self.head.end.max(first);
        self.head.purged = Some((upto, mark));
        while self.entries.pop_front_if(|(index, _)| *index < first).is_some() {}
        Ok(())
    }

    /// Replaces the snapshot.
    pub(crate) fn save_snapshot(&mut self, meta: Bytes, data: Bytes) {
        self.snapshot = Some((meta, data));
    }

    /// The newest snapshot.
    pub(crate) fn snapshot(&self) -> Option<(Bytes, Bytes)> {
        self.snapshot.clone()
    }

    /// All of it, as it is found on opening.
    #[cfg(any(test, feature = "chaos"))]
    pub(crate) fn recovered(&self) -> super::Recovered {
        super::Recovered {
            vote: self.head.vote.clone(),
            committed: self.head.committed.clone(),
            purged: self.head.purged.clone(),
            entries: self.entries.iter().cloned().collect(),
            snapshot: self.snapshot.clone(),
        }
    }
}
