//! The whole table as bytes, and back.
//!
//! ```text
//! "LHTABLE\n"
//! length (u32, little-endian), record      as often as there are records
//! crc32 of all that stands before it (u32, little-endian)
//! ```
//!
//! A record is encoded by the codec, version byte first. The header comes first, then the leases in the order of names
//! and tokens, the closed names in order, the waiters in their names' and queues' order, the ended ids in the order in
//! which they will be forgotten: each kind in records of at most [`SNAPSHOT_RECORDS_MAX`], so that no single one comes near
//! the codec's bound, however large the table is. Equal tables have equal bytes (rule L8).
//!
//! [`Table::restore`] trusts nothing: checksum, counts, every invariant. A snapshot that passes is a table that some
//! log could have produced, so that nothing after it needs to doubt it. It allocates no more than the input's size
//! warrants, beside one record.

use serde::{Deserialize, Serialize};

use super::{Bounds, Closure, EndedIds, Lease, Place, Table, Violation, Waiter, outcome::Ending};
use crate::{
    CodecError, LeaseId, Name, Token,
    codec::{append, decode},
    limits::SNAPSHOT_RECORDS_MAX,
};

const MAGIC: &[u8; 8] = b"LHTABLE\n";
const LENGTH_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 4;

/// Encoded by position: append variants; another header is another variant. Written, it borrows its parts from the
/// table; read, it owns them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Record<L = (Name, Lease), W = (Name, Waiter)> {
    Header(Header),
    Leases(Vec<L>),
    Waiters(Vec<W>),
    Ended(Vec<(u64, LeaseId, Ending)>),
    Closures(Vec<(Name, Closure)>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) applied: u64,
    pub(super) last_token: Option<Token>,
    pub(super) horizon: u64,
    pub(super) leases: u64,
    pub(super) waiters: u64,
    pub(super) ended: u64,
    pub(super) closed: u64,
}

/// Bytes that are no table. Nothing of them was used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// It doesn't begin as one.
    #[error("not a snapshot of a lease table: it begins otherwise; get the snapshot from another member")]
    NotASnapshot,
    /// It was damaged on disk or on the way.
    #[error(
        "a damaged snapshot of a lease table: checksum {computed:08x}, it should be {stored:08x}; get it from another member"
    )]
    Checksum {
        /// At its end.
        stored: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// A record is longer than what is left.
    #[error(
        "a snapshot of a lease table that is cut short in the record at byte {at}; get it from another member"
    )]
    CutShort {
        /// Where the record begins.
        at: usize,
    },
    /// A record is not of the form.
    #[error("the snapshot's record at byte {at}: {error}")]
    Record {
        /// Where the record begins.
        at: usize,
        /// What is wrong with it.
        error: CodecError,
    },
    /// The records contradict each other.
    #[error("a snapshot of a lease table that contradicts itself: {detail}; get it from another member")]
    Contradiction {
        /// How.
        detail: String,
    },
    /// No log leads to this table.
    #[error("a snapshot of an impossible lease table: {0}; get it from another member")]
    Impossible(#[from] Violation),
}

type Borrowed<'a> = Record<(&'a Name, &'a Lease), (&'a Name, &'a Waiter)>;

impl Table {
    /// The table as bytes.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let counts = self.counts();
        put(
            &mut bytes,
            &Borrowed::Header(Header {
                applied: self.applied,
                last_token: self.last_token,
                horizon: self.ended.horizon(),
                leases: counts.leases as u64,
                waiters: counts.waiters as u64,
                ended: counts.ended_ids as u64,
                closed: counts.closed as u64,
            }),
        );
        let leases =
            self.names.iter().flat_map(|(name, slot)| slot.holders.iter().map(move |lease| (name, lease)));
        put_all(&mut bytes, counts.leases, leases, Borrowed::Leases);
        let closures = self
            .names
            .iter()
            .filter_map(|(name, slot)| Some((name.clone(), (**slot.closure.as_ref()?).clone())));
        put_all(&mut bytes, counts.closed, closures, Borrowed::Closures);
        let waiters =
            self.names.iter().flat_map(|(name, slot)| slot.queue.iter().map(move |waiter| (name, waiter)));
        put_all(&mut bytes, counts.waiters, waiters, Borrowed::Waiters);
        put_all(&mut bytes, counts.ended_ids, self.ended.iter(), Borrowed::Ended);
        bytes.reserve_exact(CHECKSUM_BYTES);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The table that [`snapshot`](Self::snapshot) made these bytes of.
    ///
    /// # Errors
    /// [`SnapshotError`], naming what is wrong, for bytes that are no table.
    pub(crate) fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        Self::restore_within(bytes, Bounds::default())
    }

    pub(super) fn restore_within(bytes: &[u8], bounds: Bounds) -> Result<Self, SnapshotError> {
        let mut records = Records::new(bytes)?;
        let Some(Record::Header(header)) = records.next()? else {
            return Err(contradiction("its first record is no header"));
        };
        let mut table = Self {
            applied: header.applied,
            last_token: header.last_token,
            ended: EndedIds::resume(bounds.ended_ids, header.horizon),
            bounds,
            ..Self::default()
        };
        while let Some(record) = records.next()? {
            match record {
                Record::Header(_) => return Err(contradiction("it has two headers")),
                Record::Leases(leases) => {
                    for (name, lease) in leases {
                        table.put_lease(name, lease)?;
                    }
                }
                Record::Closures(closures) => {
                    for (name, closure) in closures {
                        table.put_closure(name, closure)?;
                    }
                }
                Record::Waiters(waiters) => {
                    for (name, waiter) in waiters {
                        table.put_waiter(&name, waiter)?;
                    }
                }
                Record::Ended(ended) => {
                    for (index, id, ending) in ended {
                        table.ended.insert(index, id, ending);
                    }
                }
            }
        }
        let counts = table.counts();
        for (what, said, found) in [
            ("leases", header.leases, counts.leases),
            ("waiters", header.waiters, counts.waiters),
            ("ended ids", header.ended, counts.ended_ids),
            ("closed names", header.closed, counts.closed),
        ] {
            if said != found as u64 {
                return Err(contradiction(format!("its header says {said} {what}, it has {found}")));
            }
        }
        table.check_invariants()?;
        Ok(table)
    }

    fn put_lease(&mut self, name: Name, mut lease: Lease) -> Result<(), SnapshotError> {
        let (id, token) = (lease.lease_id, lease.token);
        lease.holder = self.pool.share(&lease.holder);
        // The table's own copy, so that all who share the name share its text.
        let shared = self.names.get_key_value(&name).map_or(&name, |(name, _)| name).clone();
        if self.live.insert(id, Place::Holds(shared, token)).is_some() {
            return Err(contradiction(format!("lease id {id} is in it twice")));
        }
        let holders = &mut self.names.entry(name).or_default().holders;
        if holders.iter().next_back().is_some_and(|last| last.token >= token) {
            return Err(contradiction(format!("lease {id} is not in the order of the tokens")));
        }
        holders.insert(lease);
        Ok(())
    }

    fn put_closure(&mut self, name: Name, closure: Closure) -> Result<(), SnapshotError> {
        let id = closure.lease_id;
        let twice = self.closures.insert(id, name.clone()).is_some();
        let slot = self.names.entry(name).or_default();
        if twice || slot.closure.replace(Box::new(closure)).is_some() {
            return Err(contradiction(format!("lease id {id}, or the name that it closes, is in it twice")));
        }
        Ok(())
    }

    fn put_waiter(&mut self, name: &Name, mut waiter: Waiter) -> Result<(), SnapshotError> {
        let id = waiter.lease_id;
        waiter.holder = self.pool.share(&waiter.holder);
        // The lease's own copy, so that all who share the name share its text.
        let Some(shared) = self.names.get_key_value(name).map(|(name, _)| name.clone()) else {
            return Err(contradiction(format!(
                "lease id {id} waits for {name}, which is neither held nor closed"
            )));
        };
        let ticket = self.names.get_mut(name).and_then(|slot| slot.queue.push(waiter));
        let Some(ticket) = ticket else {
            return Err(contradiction(format!("the queue of {name} is too long")));
        };
        self.waiting += 1;
        if self.live.insert(id, Place::Waits(shared, ticket)).is_some() {
            return Err(contradiction(format!("lease id {id} is in it twice")));
        }
        Ok(())
    }
}

fn contradiction(detail: impl Into<String>) -> SnapshotError {
    SnapshotError::Contradiction { detail: detail.into() }
}

fn put(bytes: &mut Vec<u8>, record: &Borrowed<'_>) {
    let at = bytes.len();
    bytes.extend_from_slice(&[0; LENGTH_BYTES]);
    append(record, bytes);
    // A record has at most `SNAPSHOT_RECORDS_MAX` parts of a few KiB: `limits.rs` asserts that it is far below 4 GiB.
    let length = (bytes.len() - at - LENGTH_BYTES) as u32;
    if let Some(stored) = bytes[at..].first_chunk_mut() {
        *stored = length.to_le_bytes();
    }
}

/// Puts `count` parts into as many records as it takes.
fn put_all<'a, T>(
    bytes: &mut Vec<u8>,
    count: usize,
    mut parts: impl Iterator<Item = T>,
    record: impl Fn(Vec<T>) -> Borrowed<'a>,
) {
    let (before, mut done) = (bytes.len(), 0);
    loop {
        let some: Vec<T> = parts.by_ref().take(SNAPSHOT_RECORDS_MAX).collect();
        if some.is_empty() {
            return;
        }
        done += some.len();
        put(bytes, &record(some));
        // Room for the rest, should it be like what came so far: to double tens of megabytes takes twice of them, and
        // what is not used is never touched.
        let rest = (bytes.len() - before) / done * count.saturating_sub(done);
        if bytes.capacity() - bytes.len() < rest {
            bytes.reserve_exact(rest + rest / 8);
        }
    }
}

/// The records of a snapshot whose checksum is right.
struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, SnapshotError> {
        if !bytes.starts_with(MAGIC) {
            return Err(SnapshotError::NotASnapshot);
        }
        let Some((body, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(SnapshotError::CutShort { at: bytes.len() });
        };
        let (stored, computed) = (u32::from_le_bytes(*checksum), crc32fast::hash(body));
        if stored != computed {
            return Err(SnapshotError::Checksum { stored, computed });
        }
        Ok(Self { bytes: body, at: MAGIC.len() })
    }

    fn next(&mut self) -> Result<Option<Record>, SnapshotError> {
        let at = self.at;
        let rest = self.bytes.get(at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let cut_short = SnapshotError::CutShort { at };
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            return Err(cut_short);
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some(record) = rest.get(..length) else {
            return Err(cut_short);
        };
        self.at = at + LENGTH_BYTES + length;
        decode(record).map(Some).map_err(|error| SnapshotError::Record { at, error })
    }
}
