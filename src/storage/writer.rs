//! The one thread that writes.
//!
//! It takes whatever is queued as one group, hands it to sled in order, syncs once, and answers in order. A group
//! grows while the disk is busy with the one before, so the cost of a sync is shared by all that wait for one.
//!
//! What a power cut leaves is the state after some prefix of the calls, because sled keeps a prefix of the inserts
//! and the head is the last insert of a group. A truncation needs more care: with the old head still in force, a
//! removed key would be a hole. So it first inserts a head that ends the log earlier, and then removes; the keys
//! that a cut leaves behind that end are removed at the next opening. A purge is the same at the other end.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, error::TryRecvError};

use super::{
    DataDir, Done, Failure,
    engine::Engine,
    record::{self, Head, STORED_ENTRY_BYTES_MAX, Span},
    refused,
};
use crate::limits::{PURGE_KEYS_MAX, STORAGE_QUEUE_MAX};

/// What there is to write.
#[derive(Debug)]
pub(super) enum Work {
    Append(Vec<(u64, Bytes)>),
    Vote(Bytes),
    TruncateAfter(Option<u64>),
    Purge(u64, Bytes),
    /// The snapshot with this number is on the device.
    Snapshot(u64),
    Close,
}

/// One call in the queue, and whom to tell.
pub(super) struct Op {
    /// What was known to be committed when the call was made: it rides along.
    pub(super) committed: Option<Bytes>,
    pub(super) work: Work,
    /// `None` for what nobody waits for.
    pub(super) done: Option<Done>,
}

/// What is committed, until the next op takes it along: alone it is not worth waking the thread.
#[derive(Debug, Default)]
pub(super) struct CommitMark(Mutex<Option<Bytes>>);

impl CommitMark {
    pub(super) fn put(&self, committed: Bytes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(committed);
    }

    pub(super) fn take(&self) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

pub(super) struct Writer {
    engine: Engine,
    head: Head,
    /// The head in sled is behind the one here.
    head_changed: bool,
    /// The records with entries that count, in order.
    spans: VecDeque<Span>,
    /// Records to be removed in the background.
    purged: VecDeque<Span>,
    /// Appended entries that are not yet packed into records: those of one group share them.
    unpacked: Vec<(u64, Bytes)>,
    failure: Arc<Failure>,
    committed: Arc<CommitMark>,
    directory: Arc<DataDir>,
}

impl Writer {
    pub(super) fn new(
        engine: Engine,
        head: Head,
        spans: Vec<Span>,
        purged: Vec<Span>,
        failure: Arc<Failure>,
        committed: Arc<CommitMark>,
        directory: Arc<DataDir>,
    ) -> Self {
        Self {
            engine,
            head,
            head_changed: false,
            spans: spans.into(),
            purged: purged.into(),
            unpacked: Vec::new(),
            failure,
            committed,
            directory,
        }
    }

    /// Writes until it is told to close, or nobody is left who could tell it anything.
    pub(super) fn run(mut self, mut queue: Receiver<Op>) {
        let mut closed = None;
        while closed.is_none() {
            let first = match queue.try_recv() {
                Ok(op) => Some(op),
                Err(TryRecvError::Empty) if self.has_purged_keys() => {
                    // A failure is remembered; there is nobody to tell yet.
                    let _ = self.group(|writer| writer.remove_purged().and_then(|()| writer.settle()));
                    continue;
                }
                Err(TryRecvError::Empty) => queue.blocking_recv(),
                Err(TryRecvError::Disconnected) => None,
            };
            let Some(first) = first else { break };
            closed = self.write(first, &mut queue);
        }
        self.stop(queue, closed);
    }

    /// Writes the op and all that are queued behind it. Returns whom to tell when a `Close` was among them.
    fn write(&mut self, first: Op, queue: &mut Receiver<Op>) -> Option<Option<Done>> {
        let mut works = Vec::new();
        let mut waiting = Vec::new();
        let mut closed = None;
        let mut next = Some(first);
        while let Some(Op { committed, work, done }) = next {
            self.note_committed(committed);
            if matches!(work, Work::Close) {
                closed = Some(done);
                break;
            }
            works.push(work);
            waiting.push((done, Ok(())));
            next = if works.len() < STORAGE_QUEUE_MAX { queue.try_recv().ok() } else { None };
        }
        let outcome = self.group(|writer| {
            for (work, (_, answer)) in works.into_iter().zip(&mut waiting) {
                match writer.apply(work) {
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => *answer = Err(error),
                    other => other?,
                }
            }
            writer.write_unpacked()?;
            writer.settle()
        });
        for (done, answer) in waiting {
            if let Some(done) = done {
                done(outcome.as_ref().map_or_else(|_| self.failure.check(), |()| answer));
            }
        }
        if self.has_purged_keys() && closed.is_none() {
            // They become durable with the next group, or when the queue is empty.
            let _ = self.group(Self::remove_purged);
        }
        closed
    }

    /// Runs one group of writes. From the first failure on, no group runs, and none succeeds that ran meanwhile.
    fn group(&mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        self.failure.check()?;
        let outcome = catch_unwind(AssertUnwindSafe(|| write(self)))
            .unwrap_or_else(|_| Err(io::Error::other("the storage thread panicked")));
        outcome.map_err(|error| self.failure.record(&error))?;
        self.failure.check()
    }

    /// Puts all that was written on the device, under a new head if that has changed.
    fn settle(&mut self) -> io::Result<()> {
        if self.head_changed {
            self.put_head()?;
        }
        self.engine.sync()?;
        self.engine.note_acknowledged(self.head.number)
    }

    fn put_head(&mut self) -> io::Result<()> {
        self.engine.put_head(&mut self.head)?;
        self.head_changed = false;
        Ok(())
    }

    fn apply(&mut self, work: Work) -> io::Result<()> {
        match work {
            Work::Append(entries) => return self.append(entries),
            Work::TruncateAfter(last) => return self.truncate_after(last),
            Work::Purge(upto, mark) => return self.purge(upto, mark),
            Work::Vote(vote) => self.head.vote = Some(vote),
            Work::Snapshot(number) => self.head.snapshot = number,
            Work::Close => {}
        }
        self.head_changed = true;
        Ok(())
    }

    fn note_committed(&mut self, committed: Option<Bytes>) {
        if committed.is_some() {
            self.head.committed = committed;
            self.head_changed = true;
        }
    }

    fn append(&mut self, entries: Vec<(u64, Bytes)>) -> io::Result<()> {
        let range = check_append(&self.head, self.head.end + self.unpacked_len(), &entries)?;
        if range.start != self.head.end + self.unpacked_len() {
            // The first entries of a log that was empty and never purged.
            (self.head.first, self.head.end) = (range.start, range.start);
            self.head.chain = 0;
        }
        self.unpacked.extend(entries);
        Ok(())
    }

    fn unpacked_len(&self) -> u64 {
        self.unpacked.len() as u64
    }

    fn write_unpacked(&mut self) -> io::Result<()> {
        let entries = std::mem::take(&mut self.unpacked);
        let Some((last, _)) = entries.last() else { return Ok(()) };
        let (records, chain) = record::pack(&entries, self.head.chain);
        for record in records {
            self.spans.push_back(record.span);
            self.engine.insert(record)?;
        }
        self.head.end = last + 1;
        self.head.chain = chain;
        self.head_changed = true;
        Ok(())
    }

    fn truncate_after(&mut self, last: Option<u64>) -> io::Result<()> {
        self.write_unpacked()?;
        let end = check_truncate(&self.head, last)?;
        if end >= self.head.end {
            return Ok(());
        }
        let mut chain = self.head.chain;
        let mut gone = Vec::new();
        while let Some(span) = self.spans.pop_back_if(|span| span.first >= end) {
            chain = span.before;
            gone.push(span);
        }
        // A record that begins before the end and goes beyond it is written anew, shorter.
        let mut shorter = None;
        if let Some(span) = self.spans.pop_back_if(|span| span.last() >= end) {
            let values = self.engine.read(span)?;
            let pieces = values.iter().map(|(key, value)| record::parse_piece(key, value));
            let unpacked = pieces.collect::<Result<Vec<_>, _>>().and_then(|p| record::unpack(span, &p));
            let (mut entries, _) =
                unpacked.map_err(|detail| io::Error::new(io::ErrorKind::InvalidData, detail))?;
            entries.retain(|(index, _)| *index < end);
            let (records, after) = record::pack(&entries, span.before);
            chain = after;
            shorter = Some(records);
        }
        self.head.end = end;
        self.head.chain = chain;
        self.put_head()?;
        for key in gone.into_iter().flat_map(Span::keys) {
            self.engine.remove(&key)?;
        }
        for record in shorter.into_iter().flatten() {
            self.spans.push_back(record.span);
            self.engine.insert(record)?;
        }
        Ok(())
    }

    fn purge(&mut self, upto: u64, mark: Bytes) -> io::Result<()> {
        self.write_unpacked()?;
        let Some(first) = check_purge(&self.head, upto)? else { return Ok(()) };
        if first > self.head.end {
            // The log goes on behind entries that it never had.
            self.head.end = first;
            self.head.chain = 0;
        }
        self.head.first = first;
        self.head.purged = Some((upto, mark));
        self.head_changed = true;
        Ok(())
    }

    fn has_purged_keys(&self) -> bool {
        self.failure.check().is_ok()
            && (!self.purged.is_empty()
                || self.spans.front().is_some_and(|span| span.last() < self.head.first))
    }

    /// Removes a slice of the keys that were purged. Their purge was acknowledged, so the head covers it.
    fn remove_purged(&mut self) -> io::Result<()> {
        while let Some(span) = self.spans.pop_front_if(|span| span.last() < self.head.first) {
            self.purged.push_back(span);
        }
        for _ in 0..PURGE_KEYS_MAX {
            let Some(span) = self.purged.front_mut() else { break };
            // The last part first, so that what is left of the span is always parts 0 to n.
            span.parts -= 1;
            let key = Span { parts: span.parts + 1, ..*span }.keys().last();
            if span.parts == 0 {
                self.purged.pop_front();
            }
            if let Some(key) = key {
                self.engine.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Closes the files, gives the directory free, and answers all that came too late.
    fn stop(mut self, mut queue: Receiver<Op>, closed: Option<Option<Done>>) {
        queue.close();
        // What no op took along.
        self.note_committed(self.committed.take());
        let settled = if self.head_changed { self.group(Self::settle) } else { self.failure.check() };
        let Self { engine, failure, directory, .. } = self;
        let outcome = engine.close().map_err(|error| failure.record(&error)).and(settled);
        directory.release();
        if let Some(done) = closed.flatten() {
            done(outcome);
        }
        while let Ok(op) = queue.try_recv() {
            if let Some(done) = op.done {
                done(Err(super::disk::closed()));
            }
        }
    }
}

/// The indexes that an append covers, if it continues a log which ends here.
pub(super) fn check_append(
    head: &Head,
    end: u64,
    entries: &[(u64, Bytes)],
) -> io::Result<std::ops::Range<u64>> {
    let Some((first, _)) = entries.first() else { return Ok(end..end) };
    if *first != end && (head.first != end || head.purged.is_some()) {
        return Err(refused(format!("entry {first} does not continue a log that ends before {end}")));
    }
    for (at, (index, entry)) in entries.iter().enumerate() {
        if Some(*index) != first.checked_add(at as u64) || *index == u64::MAX {
            return Err(refused(format!("entry {index} does not follow the one before it")));
        }
        if entry.len() > STORED_ENTRY_BYTES_MAX {
            return Err(refused(format!(
                "entry {index} has {} bytes, the largest is {STORED_ENTRY_BYTES_MAX}",
                entry.len()
            )));
        }
    }
    Ok(*first..first + entries.len() as u64)
}

/// Where the log ends after the truncation.
pub(super) fn check_truncate(head: &Head, last: Option<u64>) -> io::Result<u64> {
    match (last.map(|last| last.saturating_add(1)), &head.purged) {
        (Some(end), Some((upto, _))) if end < head.first => {
            Err(refused(format!("the log can't be cut before {end}: it is purged up to {upto}")))
        }
        (Some(end), _) => Ok(end.max(head.first)),
        (None, _) => Ok(head.first),
    }
}

/// Where the log begins after the purge; `None` when it begins there or later already.
pub(super) fn check_purge(head: &Head, upto: u64) -> io::Result<Option<u64>> {
    let first = upto.checked_add(1).ok_or_else(|| refused("the last index there is can't be purged"))?;
    Ok((head.purged.is_none() || first > head.first).then_some(first))
}
