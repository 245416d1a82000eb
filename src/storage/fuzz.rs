//! What a disk may hand back: half of the targets `records` and `snapshots` of the fuzzer (feature `test-support`).
//!
//! A checksum can't be guessed, so what is drawn gets the one that it asks for: looked at is what stands behind it.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;

use super::{
    engine::{self, StoredBytes},
    identity,
    record::{self, Head},
    recovery::{self, Found},
    snapshots,
};
use crate::{
    codec::FORMAT_VERSION,
    fuzz::{Choices, sealed},
    limits::RECORD_BYTES_MAX,
};

const HERE: &str = "fuzzed";

/// Anything that stands in a data directory beside the snapshot.
pub(crate) fn record(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.byte() % 8 {
        0 => piece(&mut choices),
        1 => head(choices.rest()),
        2 => identity(choices.rest()),
        3 => acknowledged(choices.rest()),
        _ => log(&mut choices),
    }
}

/// One value of the log, by itself.
fn piece(choices: &mut Choices<'_>) {
    let (key, value) = (choices.bytes(10).to_vec(), choices.rest());
    let _ = record::parse_piece(&key, value);
    let Some((_, rest)) = value.split_first_chunk::<4>() else { return };
    let value = with_checksum(&key, rest);
    if let Ok(piece) = record::parse_piece(&key, &value) {
        let (first, last) = (piece.span.first, piece.span.last());
        assert!(piece.part < piece.span.parts && first <= last && last < u64::MAX, "{piece:?}");
        if let Ok((entries, _)) = record::unpack(piece.span, &[piece]) {
            assert!(entries.iter().map(|(index, _)| *index).eq(first..=last));
            assert!(entries.iter().map(|(_, entry)| entry.len()).sum::<usize>() <= value.len());
        }
    }
}

fn with_checksum(key: &[u8], rest: &[u8]) -> Vec<u8> {
    [&crc32fast::hash(&[key, rest].concat()).to_le_bytes(), rest].concat()
}

fn head(body: &[u8]) {
    let _ = Head::parse(body);
    if let Ok(head) = Head::parse(&sealed(&[&[FORMAT_VERSION], body].concat())) {
        assert_eq!(Head::parse(&head.form()), Ok(head));
    }
}

fn identity(body: &[u8]) {
    let here = Path::new(HERE);
    assert!(identity::parse(here, body).is_err() || body.len() > 12);
    let _ = identity::parse(here, &sealed(body));
    if let Ok(stored) = identity::parse(here, &sealed(&[&b"leasehld"[..], &[FORMAT_VERSION], body].concat()))
    {
        let again = identity::parse(here, &identity::form(&stored));
        assert!(again.as_ref().is_ok_and(|again| *again == stored), "{again:?}, {stored:?} was written");
    }
}

fn acknowledged(bytes: &[u8]) {
    let here = Path::new(HERE);
    let _ = engine::parse_acknowledged(here, bytes);
    if let Ok(number) = engine::parse_acknowledged(here, &sealed(bytes)) {
        assert_eq!(engine::form_acknowledged(number), sealed(bytes));
    }
}

/// What a log is made of, and what was done to it.
struct Drawn {
    items: BTreeMap<Vec<u8>, Vec<u8>>,
    /// All entries that were ever packed, by index.
    entries: BTreeMap<u64, Vec<Bytes>>,
    head: Head,
    /// Nothing that a disk may not do was done to it.
    honest: bool,
}

/// Runs of entries, as they are written; and what a disk, or whoever forges one, may make of them.
fn draw(choices: &mut Choices<'_>) -> Drawn {
    let mut next = choices.number().min(u64::MAX / 2);
    let mut chain = 0;
    let mut drawn = Drawn {
        items: BTreeMap::new(),
        entries: BTreeMap::new(),
        head: Head { first: next, ..Head::default() },
        honest: true,
    };
    let mut honest: Vec<(u64, Bytes)> = Vec::new();
    let runs = choices.below(6);
    for _ in 0..runs {
        let trick = choices.byte();
        match trick {
            // Behind the end of an older log, or from another one.
            200..=209 => next = next.wrapping_add(choices.number()),
            210..=219 => chain ^= u32::from(choices.byte()),
            _ => {}
        }
        drawn.honest &= !(200..250).contains(&trick);
        let count = choices.below(8) as u64;
        let entries: Vec<(u64, Bytes)> = (0..count)
            .map(|at| {
                let size = match choices.byte() {
                    small @ 0..=247 => usize::from(small),
                    large => RECORD_BYTES_MAX / 2 * usize::from(large - 246),
                };
                let mut entry = choices.bytes(size.min(16)).to_vec();
                entry.resize(size, at as u8);
                (next.wrapping_add(at), entry.into())
            })
            .collect();
        if next.checked_add(count).is_none_or(|end| end == u64::MAX) {
            break;
        }
        next += count;
        let (records, after) = record::pack(&entries, chain);
        chain = after;
        for (index, entry) in &entries {
            drawn.entries.entry(*index).or_default().push(entry.clone());
        }
        honest.extend(entries);
        for (key, mut value) in records.into_iter().flat_map(|record| record.values) {
            match trick {
                220..=229 if choices.chance(128) => continue,
                // Another header.
                230..=239 => {
                    let at = 4 + choices.below(12);
                    if let Some(byte) = value.get_mut(at) {
                        *byte = choices.byte();
                    }
                    value = with_checksum(&key, &value[4..]);
                }
                // Damage.
                240..=249 => {
                    let at = choices.byte() as usize * 16 % value.len();
                    value[at] ^= choices.byte();
                }
                _ => {}
            }
            drawn.items.insert(key.to_vec(), value);
        }
    }
    // The head: what was written last, or what was before it, or anything.
    let head = &mut drawn.head;
    head.end = next;
    match choices.byte() {
        0..=99 => {}
        100..=179 => head.end = next.saturating_sub(choices.number()).max(head.first),
        180..=219 => head.first = head.first.saturating_add(choices.number()).min(head.end),
        _ => {
            (head.first, head.end) = (choices.number(), choices.number());
            drawn.honest = false;
        }
    }
    let counts = honest.iter().filter(|(index, _)| *index < head.end);
    head.chain = counts.fold(0, |before, (index, entry)| record::chain(before, *index, entry));
    if choices.chance(16) {
        head.chain ^= 1;
        drawn.honest = false;
    }
    // A key of another form.
    if choices.chance(8) {
        let length = choices.below(20);
        drawn.items.insert(choices.bytes(length).to_vec(), choices.rest().to_vec());
        drawn.honest = false;
    }
    drawn
}

fn read(items: &BTreeMap<Vec<u8>, Vec<u8>>, head: &Head) -> Result<Found, String> {
    let stored = |bytes: &Vec<u8>| StoredBytes::from(&bytes[..]);
    recovery::read(items.iter().map(|(key, value)| Ok((stored(key), stored(value)))), head)
}

/// A log is read in full, as it was written, or refused.
fn log(choices: &mut Choices<'_>) {
    let Drawn { mut items, entries, head, honest } = draw(choices);
    let found = match read(&items, &head) {
        Ok(found) => found,
        Err(why) => {
            assert!(!honest, "a log that is in order is refused: {why}; {head:?}");
            return;
        }
    };
    assert!(
        found.log.entries.iter().map(|(index, _)| *index).eq(head.first..head.end),
        "not what {head:?} says"
    );
    // A forged header may cut the same bytes at other places.
    for (index, entry) in found.log.entries.iter().filter(|_| honest) {
        let written = entries.get(index).is_some_and(|written| written.contains(entry));
        assert!(written, "entry {index} is not what was written: {entry:?}");
    }
    for span in found.log.spans.iter().chain(&found.log.purged) {
        assert!(span.parts > 0 && span.count > 0);
    }
    // What recovery leaves is found again, and nothing has to be done to it any more.
    for key in &found.behind {
        items.remove(&key.to_vec());
    }
    if let Some((span, entries)) = found.cut {
        let (records, _) = record::pack(&entries, span.before);
        items.extend(
            records.into_iter().flat_map(|record| record.values).map(|(key, value)| (key.to_vec(), value)),
        );
    }
    match read(&items, &head) {
        Ok(again) => {
            assert_eq!(again.log.entries, found.log.entries);
            assert!(again.behind.is_empty() && again.cut.is_none(), "it is not mended: {again:?}");
        }
        Err(why) => assert!(!honest, "what recovery left is refused: {why}"),
    }
}

/// The file of a snapshot: its two parts, or an error.
pub(crate) fn snapshot_file(bytes: &[u8]) {
    let here = Path::new(HERE);
    let _ = snapshots::parse(here, Bytes::copy_from_slice(bytes));
    let mut choices = Choices::new(bytes);
    let meta = choices.byte();
    let (meta, data) = (choices.bytes(meta.into()), choices.rest());
    let Ok(header) = snapshots::header(meta, data) else { return };
    let mut file = [&header[..], meta, data].concat();
    let parts = snapshots::parse(here, file.clone().into());
    let same = parts.as_ref().is_ok_and(|(m, d)| (&m[..], &d[..]) == (meta, data));
    assert!(same, "what was written is read as {parts:?}");
    // Any one byte counts.
    let at = data.first().copied().map_or(0, usize::from) % file.len();
    file[at] ^= 1 << (meta.len() % 8);
    assert!(snapshots::parse(here, file.into()).is_err(), "a flipped bit in byte {at} is not noticed");
}
