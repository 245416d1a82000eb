//! What stands under one key of the log, and the head that says how much of it counts. Pure: bytes in, bytes out.
//!
//! ```text
//! key      index of the first entry  u64, big endian     part  u16, big endian
//! value    crc32 of key and all that follows  u32
//!          chain before the first entry       u32
//!          parts  u16     entries  u16        (all little endian)
//!          body: for each entry its length  u32, and its bytes; of a record in parts, this part's piece
//! ```
//!
//! A value has at most [`RECORD_BYTES_MAX`] bytes. Small entries share a record: it is sled's cost per insert that
//! counts. A larger entry has a record of its own, in parts: a page of sled's that grows over 128 KiB would be
//! written to a file that sled never syncs, and a page holds some 26 values.
//!
//! # Why a chain
//!
//! sled's own checksums make it *skip* what is damaged: a rotten page falls back to an older version of itself, and
//! a rotten tail looks like a write that the power cut off. Either would be a log with a hole, an old entry in the
//! place of a new one, or a shorter log, and each is an acknowledged entry lost without a word. So each entry
//! continues a checksum over all entries before it (since the last purge), each record repeats the value that it
//! continues, and the head has the last one. What sled hands back is believed when the chain closes.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, CodecError},
    limits::RECORD_BYTES_MAX,
};

const KEY_BYTES: usize = 10;
const HEADER_BYTES: usize = 4 + 4 + 2 + 2;
const BODY_BYTES_MAX: usize = RECORD_BYTES_MAX - HEADER_BYTES;
const LENGTH_BYTES: usize = 4;
/// The largest entry: as many parts as can be numbered.
pub(super) const STORED_ENTRY_BYTES_MAX: usize = u16::MAX as usize * BODY_BYTES_MAX - LENGTH_BYTES;

/// The checksum of all entries up to and with this one.
pub(super) fn chain(before: u32, index: u64, entry: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&before.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    hasher.update(entry);
    hasher.finalize()
}

/// Where a record stands, and what it continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// Index of its first entry.
    pub(super) first: u64,
    /// How many entries it has, at least one.
    pub(super) count: u16,
    /// How many keys it takes, at least one.
    pub(super) parts: u16,
    /// The chain before its first entry.
    pub(super) before: u32,
}

impl Span {
    /// Index of its last entry.
    pub(super) fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }

    /// Its keys.
    pub(super) fn keys(self) -> impl Iterator<Item = [u8; KEY_BYTES]> {
        (0..self.parts).map(move |part| key(self.first, part))
    }
}

fn key(first: u64, part: u16) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&first.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The index and the part that a key names; `None` if it isn't one.
pub(super) fn parse_key(bytes: &[u8]) -> Option<(u64, u16)> {
    let bytes: &[u8; KEY_BYTES] = bytes.try_into().ok()?;
    let (first, part) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*first), u16::from_be_bytes(part.try_into().ok()?)))
}

/// One record, as it is written.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) span: Span,
    pub(super) values: Vec<([u8; KEY_BYTES], Vec<u8>)>,
}

/// Packs consecutive entries into records, as full as the bound allows. Returns the records and the chain after the
/// last entry. No entry is longer than [`STORED_ENTRY_BYTES_MAX`].
pub(super) fn pack(entries: &[(u64, Bytes)], mut before: u32) -> (Vec<Record>, u32) {
    let mut records = Vec::new();
    let mut rest = entries;
    while let Some((first, _)) = rest.first() {
        let mut bytes = 0;
        let fits = rest.iter().take(usize::from(u16::MAX)).take_while(|(_, entry)| {
            bytes += LENGTH_BYTES + entry.len();
            bytes <= BODY_BYTES_MAX
        });
        let count = fits.count().max(1);
        let (group, others) = rest.split_at(count);
        rest = others;

        let mut body = Vec::new();
        let mut after = before;
        for (index, entry) in group {
            body.put_u32_le(entry.len() as u32);
            body.extend_from_slice(entry);
            after = chain(after, *index, entry);
        }
        let parts = body.len().div_ceil(BODY_BYTES_MAX) as u16;
        let span = Span { first: *first, count: count as u16, parts, before };
        let pieces = body.chunks(BODY_BYTES_MAX).zip(span.keys());
        let values = pieces.map(|(piece, key)| (key, value(span, &key, piece))).collect();
        records.push(Record { span, values });
        before = after;
    }
    (records, before)
}

fn value(span: Span, key: &[u8], piece: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER_BYTES + piece.len());
    value.put_u32_le(0);
    value.put_u32_le(span.before);
    value.put_u16_le(span.parts);
    value.put_u16_le(span.count);
    value.extend_from_slice(piece);
    let crc = checksum(key, &value[4..]);
    value[..4].copy_from_slice(&crc.to_le_bytes());
    value
}

fn checksum(key: &[u8], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(rest);
    hasher.finalize()
}

/// One value, checked.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    pub(super) span: Span,
    pub(super) part: u16,
    body: &'a [u8],
}

/// Reads one value of the log; what is wrong with it otherwise.
pub(super) fn parse_piece<'a>(key: &[u8], value: &'a [u8]) -> Result<Piece<'a>, String> {
    let (first, part) = parse_key(key).ok_or_else(|| format!("it has a key of {} bytes", key.len()))?;
    let damaged = || format!("the record of entry {first}, part {part}, does not match its checksum");
    let (header, body) = value.split_first_chunk::<HEADER_BYTES>().ok_or_else(damaged)?;
    let [c0, c1, c2, c3, b0, b1, b2, b3, p0, p1, n0, n1] = *header;
    if u32::from_le_bytes([c0, c1, c2, c3]) != checksum(key, &value[4..]) {
        return Err(damaged());
    }
    let parts = u16::from_le_bytes([p0, p1]);
    let count = u16::from_le_bytes([n0, n1]);
    let overflows = first.checked_add(u64::from(count)).is_none();
    if part >= parts || count == 0 || overflows {
        return Err(format!("the record of entry {first} has {count} entries and part {part} of {parts}"));
    }
    let span = Span { first, count, parts, before: u32::from_le_bytes([b0, b1, b2, b3]) };
    Ok(Piece { span, part, body })
}

/// The entries of a record whose pieces are all there, in order, and the chain after the last.
pub(super) fn unpack(span: Span, pieces: &[Piece<'_>]) -> Result<(Vec<(u64, Bytes)>, u32), String> {
    let whole = pieces.len() == usize::from(span.parts)
        && pieces.iter().enumerate().all(|(at, piece)| piece.span == span && usize::from(piece.part) == at);
    if !whole {
        return Err(format!(
            "the record of entry {} has {} of its {} parts",
            span.first,
            pieces.len(),
            span.parts
        ));
    }
    let malformed = || format!("the record of entry {} is malformed", span.first);
    let mut body = BytesMut::with_capacity(pieces.iter().map(|piece| piece.body.len()).sum());
    for piece in pieces {
        body.extend_from_slice(piece.body);
    }
    let mut body = body.freeze();
    let mut after = span.before;
    let mut entries = Vec::with_capacity(usize::from(span.count));
    for index in span.first..=span.last() {
        let (length, _) = body.split_first_chunk::<LENGTH_BYTES>().ok_or_else(malformed)?;
        let length = u32::from_le_bytes(*length) as usize;
        let _ = body.split_to(LENGTH_BYTES);
        if length > body.len() {
            return Err(malformed());
        }
        let entry = body.split_to(length);
        after = chain(after, index, &entry);
        entries.push((index, entry));
    }
    if body.is_empty() { Ok((entries, after)) } else { Err(malformed()) }
}

/// How much of the log counts, and the small things beside it. It is written last in each group (before the keys
/// of a truncation go): what it doesn't cover was never acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// How many heads were written before it.
    pub(super) number: u64,
    /// Index of the first entry that counts, if there is one.
    pub(super) first: u64,
    /// One more than the index of the last entry; no entry counts when it equals `first`.
    pub(super) end: u64,
    /// The chain after the last entry.
    pub(super) chain: u32,
    /// Entries up to this index, which is `first - 1`, were purged; with the caller's mark.
    pub(super) purged: Option<(u64, Bytes)>,
    /// The caller's vote.
    pub(super) vote: Option<Bytes>,
    /// What the caller knows to be committed.
    pub(super) committed: Option<Bytes>,
    /// The number of the newest snapshot that was acknowledged; 0 for none.
    pub(super) snapshot: u64,
}

impl Head {
    /// The bytes that are stored: codec form, then its crc32.
    pub(super) fn form(&self) -> Vec<u8> {
        let mut bytes = codec::encode(self);
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32_le(crc);
        bytes
    }

    /// Reads what [`form`](Self::form) wrote.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, CodecError> {
        let malformed = |detail: &str| CodecError::Malformed { what: "head", detail: detail.to_owned() };
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| malformed("too short"))?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(malformed("its checksum does not match"));
        }
        codec::decode(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(sizes: &[usize]) -> Vec<(u64, Bytes)> {
        let entry = |(at, size): (usize, &usize)| (7 + at as u64, Bytes::from(vec![at as u8; *size]));
        sizes.iter().enumerate().map(entry).collect()
    }

    fn unpacked(records: &[Record]) -> Vec<(u64, Bytes)> {
        let of = |record: &Record| {
            let pieces: Vec<_> = record.values.iter().map(|(k, v)| parse_piece(k, v).unwrap()).collect();
            unpack(record.span, &pieces).unwrap().0
        };
        records.iter().flat_map(of).collect()
    }

    #[test]
    fn whatever_the_sizes_what_is_packed_is_unpacked() {
        let full = BODY_BYTES_MAX - LENGTH_BYTES;
        let cases: [&[usize]; 8] = [
            &[0],
            &[full],
            &[full + 1],
            &[full - 1, 0, full + 1, 1],
            &[3 * BODY_BYTES_MAX],
            &[100; 500],
            &[0; 3000],
            &[100, 100_000, 100],
        ];
        for sizes in cases {
            let given = entries(sizes);
            let (records, after) = pack(&given, 5);
            assert_eq!(unpacked(&records), given);
            assert!(records.iter().flat_map(|r| &r.values).all(|(_, v)| v.len() <= RECORD_BYTES_MAX));
            assert_eq!(after, given.iter().fold(5, |before, (index, entry)| chain(before, *index, entry)));
        }
    }

    #[test]
    fn small_entries_share_a_record_and_large_ones_are_split() {
        let (records, _) = pack(&entries(&[100; 39]), 0);
        assert_eq!(records.len(), 1);
        let (records, _) = pack(&entries(&[100, 9_000, 100]), 0);
        assert_eq!(records.iter().map(|r| r.span.parts).collect::<Vec<_>>(), [1, 3, 1]);
    }

    #[test]
    fn any_flipped_bit_of_a_value_or_its_key_is_noticed() {
        let (records, _) = pack(&entries(&[30, 40]), 9);
        let (key, value) = &records[0].values[0];
        for at in 0..value.len() {
            let mut bad = value.clone();
            bad[at] ^= 1;
            assert!(parse_piece(key, &bad).is_err(), "byte {at}");
        }
        for at in 0..key.len() {
            let mut bad = *key;
            bad[at] ^= 1;
            assert!(parse_piece(&bad, value).is_err(), "byte {at} of the key");
        }
        assert!(parse_piece(key, &value[..5]).is_err());
    }

    #[test]
    fn a_record_that_lacks_a_part_is_refused() {
        let (records, _) = pack(&entries(&[10_000]), 0);
        let pieces: Vec<_> = records[0].values.iter().map(|(k, v)| parse_piece(k, v).unwrap()).collect();
        assert!(unpack(records[0].span, &pieces).is_ok());
        assert!(unpack(records[0].span, &pieces[..2]).is_err());
        assert!(unpack(records[0].span, &pieces[1..]).is_err());
    }

    #[test]
    fn a_head_is_read_back_and_a_damaged_one_is_not() {
        let head = Head { number: 3, end: 9, vote: Some(Bytes::from_static(b"v")), ..Head::default() };
        let bytes = head.form();
        assert_eq!(Head::parse(&bytes), Ok(head));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(Head::parse(&bad).is_err(), "byte {at}");
        }
    }
}
