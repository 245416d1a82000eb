//! Reads the log when it is opened, and believes it only as a whole.
//!
//! The head says which entries count. They must all be there, each record whole, each continuing the chain of the
//! one before, up to the value in the head: then they are exactly what was acknowledged. What lies outside of that
//! is the rest of something that the cut interrupted, and goes:
//!
//! - behind the end: an append whose head did not make it, or the keys of a truncation whose head did;
//! - before the first: keys that a purge had not come to.

use std::{io, path::Path};

use bytes::Bytes;

use super::{
    engine::{Engine, StoredBytes},
    error::StorageError,
    record::{self, Head, Span},
};

/// What the log holds.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The records that have entries which count, in order.
    pub(super) spans: Vec<Span>,
    /// Records that are purged, and still there.
    pub(super) purged: Vec<Span>,
    /// The entries that count.
    pub(super) entries: Vec<(u64, Bytes)>,
}

/// What is found in a log, and what has to be done about it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) log: Log,
    /// The keys behind the end.
    pub(super) behind: Vec<StoredBytes>,
    /// The last record, if it goes beyond the end, with the entries of it that stay.
    pub(super) cut: Option<(Span, Vec<(u64, Bytes)>)>,
}

/// Reads and verifies the log, and removes what lies behind its end. `path` is for errors.
pub(super) fn recover(engine: &mut Engine, head: &Head, path: &Path) -> Result<Log, StorageError> {
    let Found { mut log, behind, cut } =
        read(engine.scan(), head).map_err(|detail| StorageError::corrupted(path, detail))?;
    // Behind the end nothing may remain: the next append writes there.
    let written = (|| {
        for key in behind.iter().rev() {
            engine.remove(key)?;
        }
        if let Some((span, entries)) = cut {
            let (records, _) = record::pack(&entries, span.before);
            log.spans.pop();
            for record in records {
                log.spans.push(record.span);
                engine.insert(record)?;
            }
        }
        engine.sync()
    })();
    written.map_err(StorageError::io("cannot write", path))?;
    Ok(log)
}

type Pair = (StoredBytes, StoredBytes);

/// Reads and verifies what stands in the log, in the order of the keys; what is wrong with it otherwise. Pure.
pub(super) fn read(items: impl Iterator<Item = io::Result<Pair>>, head: &Head) -> Result<Found, String> {
    let mut reading = Reading { head, log: Log::default(), next: head.first, chain: None, cut: None };
    let mut behind = Vec::new();
    let mut record = Vec::new();
    for item in items {
        let (key, value) = item.map_err(|error| format!("its log can't be read ({error})"))?;
        let (first, part) =
            record::parse_key(&key).ok_or_else(|| "its log has a key of another form".to_owned())?;
        if first >= head.end {
            behind.push(key);
            continue;
        }
        if part == 0 {
            reading.record(&std::mem::take(&mut record))?;
        }
        record.push((key, value));
    }
    reading.record(&record)?;
    let Reading { log, cut, next, chain, .. } = reading;
    if next < head.end {
        return Err(format!(
            "log entries {} to {} count, and those from {next} on are gone",
            head.first,
            head.end - 1
        ));
    }
    if chain.is_some_and(|chain| chain != head.chain) {
        return Err(format!("log entry {} is not the one that was acknowledged", head.end - 1));
    }
    Ok(Found { log, behind, cut })
}

struct Reading<'a> {
    head: &'a Head,
    log: Log,
    /// The entry that must come next.
    next: u64,
    /// The chain up to there; `None` before the first record that counts.
    chain: Option<u32>,
    /// See [`Found::cut`].
    cut: Option<(Span, Vec<(u64, Bytes)>)>,
}

impl Reading<'_> {
    /// Takes the parts of one record; none is nothing.
    fn record(&mut self, pairs: &[Pair]) -> Result<(), String> {
        let pieces = pairs.iter().map(|(key, value)| record::parse_piece(key, value));
        let pieces = pieces.collect::<Result<Vec<_>, _>>()?;
        let Some(span) = pieces.first().map(|piece| piece.span) else { return Ok(()) };
        if span.last() < self.head.first {
            // It may lack parts: a purge removes them one by one.
            self.log.purged.push(span);
            return Ok(());
        }
        let (mut entries, mut after) = record::unpack(span, &pieces)?;
        let joins = match self.chain {
            // The first one may begin with entries that are purged.
            None => span.first <= self.next,
            Some(chain) => span.first == self.next && span.before == chain,
        };
        if !joins {
            return Err(format!("log entry {} does not continue what stands before it", span.first));
        }
        if span.last() >= self.head.end {
            entries.retain(|(index, _)| *index < self.head.end);
            after = entries
                .iter()
                .fold(span.before, |before, (index, entry)| record::chain(before, *index, entry));
            self.cut = Some((span, entries.clone()));
        }
        self.next = span.last().saturating_add(1).min(self.head.end);
        self.chain = Some(after);
        self.log.spans.push(span);
        self.log.entries.extend(entries.into_iter().filter(|(index, _)| *index >= self.head.first));
        Ok(())
    }
}
