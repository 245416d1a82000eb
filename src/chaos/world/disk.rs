//! A simulated disk: what is on the device, what the system has in its cache, and what becomes of either.
//!
//! It stands below the storage contract ([`Journal`](crate::storage::Journal)), in the place of sled and its files, whose
//! threads can't be simulated; what *they* make of a power cut is the question of `tests/power_loss/`. So the unit here is
//! a call of that contract, and the cache is a list of calls, oldest first:
//!
//! | what happens | what is there afterwards |
//! | --- | --- |
//! | a call is written | it is at the end of the cache |
//! | the cache is synced | its calls are on the device, and are acknowledged |
//! | the process dies | device and cache: the system still has what it was handed |
//! | the power goes | the device, some of the first calls of the cache, and perhaps a part of the next one |
//! | the disk is opened | all of it is synced: a log that is read is a log that is there |
//! | the disk is wiped | nothing, not even who it belonged to |
//!
//! *Torn* is an append of which the first entries survive; every other call is whole or gone. A *flipped bit* in what was
//! not synced is found by its checksum, as on the real disk, and ends what is recovered. In what was synced it is
//! [`DiskFault::Rot`], and the disk can't be opened.
//!
//! What was acknowledged is there after reopening, unless the disk lied ([`DiskFault::Lie`]) or rotted.
//!
//! The identity file is small and replaced by rename: it is durable when its write returns.

use std::{
    collections::VecDeque,
    hash::{Hash, Hasher},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{
    chaos::{
        kernel::{Chance, Share, Stream},
        trace::{Digest, Event, Tracer},
    },
    id::NodeId,
    name::AgentName,
    runtime,
    storage::{Content, Identity, StorageError},
};

/// How long a disk takes. Each span is drawn anew between its two ends.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskPace {
    /// Handing a group of writes to the system. Default 10 µs to 100 µs.
    pub write: (Duration, Duration),
    /// Making it durable. Default 200 µs to 1 ms.
    pub sync: (Duration, Duration),
    /// How often a sync takes long, from 0 to 1. Default 0.01.
    pub slow: f64,
    /// How long it takes then. Default 5 ms to 50 ms.
    pub slow_sync: (Duration, Duration),
}

impl Default for DiskPace {
    fn default() -> Self {
        let us = Duration::from_micros;
        Self {
            write: (us(10), us(100)),
            sync: (us(200), us(1_000)),
            slow: 0.01,
            slow_sync: (us(5_000), us(50_000)),
        }
    }
}

/// What can be wrong with a disk. Each holds until it is set otherwise, or the disk is [replaced](Self::Heal).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum DiskFault {
    /// Everything takes so many times as long.
    Slow(u32),
    /// The next sync takes this much longer, or until the disk is replaced.
    Stall(Duration),
    /// Writes fail: there is no room.
    Full(bool),
    /// So many of the writes and of the syncs fail, from 0 to 1.
    Fail(f64),
    /// A sync says that it was done, and was not. For tests that must see something lost.
    Lie(bool),
    /// So many of the calls that a power cut would leave in part or whole have a flipped bit, from 0 to 1.
    Flip(f64),
    /// A bit has flipped in what was synced: the disk can't be opened any more.
    Rot(bool),
    /// Undoes all of these.
    Heal,
}

/// A call that changes what a journal holds.
#[derive(Debug, Clone, Hash)]
pub(super) enum Call {
    Append(Vec<(u64, Bytes)>),
    Vote(Bytes),
    Committed(Bytes),
    TruncateAfter(Option<u64>),
    Purge(u64, Bytes),
    Snapshot(Bytes, Bytes),
}

impl Call {
    /// Makes the change. A call that makes no sense changes nothing.
    pub(super) fn apply(self, content: &mut Content) -> io::Result<()> {
        match self {
            Self::Append(entries) => return content.append(entries),
            Self::Vote(vote) => content.save_vote(vote),
            Self::Committed(committed) => content.save_committed(committed),
            Self::TruncateAfter(last) => return content.truncate_after(last),
            Self::Purge(upto, mark) => return content.purge(upto, mark),
            Self::Snapshot(meta, data) => content.save_snapshot(meta, data),
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    slow: u32,
    stall: Duration,
    full: bool,
    fail: Share,
    lies: bool,
    flip: Share,
    rotten: bool,
}

struct Medium {
    device: Content,
    cache: VecDeque<Call>,
    identity: Option<Identity>,
    /// Which opening of it is the present one.
    opening: u64,
    faults: Faults,
    pace: DiskPace,
    chance: Stream,
}

/// One machine's disk. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Disk {
    agent: usize,
    tracer: Tracer,
    medium: Arc<Mutex<Medium>>,
    healed: Arc<Notify>,
}

impl Disk {
    /// An empty one, of this agent.
    pub(crate) fn new(seed: u64, agent: usize, pace: DiskPace, tracer: Tracer) -> Self {
        let medium = Medium {
            device: Content::default(),
            cache: VecDeque::new(),
            identity: None,
            opening: 0,
            faults: Faults::default(),
            pace,
            chance: Stream::of(seed, Chance::Disk(agent)),
        };
        Self { agent, tracer, medium: Arc::new(Mutex::new(medium)), healed: Arc::default() }
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_failure(&self, error: &io::Error) {
        self.tracer.note(Event::DiskFailed { agent: self.agent, error: error.to_string() });
    }

    /// Something goes wrong with it from now on.
    pub(crate) fn fault(&self, fault: DiskFault) {
        let faults = &mut self.medium().faults;
        match fault {
            DiskFault::Slow(times) => faults.slow = times,
            DiskFault::Stall(span) => faults.stall = span,
            DiskFault::Full(full) => faults.full = full,
            DiskFault::Fail(share) => faults.fail = Share::of(share),
            DiskFault::Lie(lies) => faults.lies = lies,
            DiskFault::Flip(share) => faults.flip = Share::of(share),
            DiskFault::Rot(rotten) => faults.rotten = rotten,
            DiskFault::Heal => {
                *faults = Faults::default();
                self.healed.notify_waiters();
            }
        }
    }

    /// The power goes.
    pub(crate) fn cut_power(&self) {
        let mut medium = self.medium();
        let Medium { device, cache, faults, chance, .. } = &mut *medium;
        let calls = cache.len();
        let whole = chance.below(calls as u64 + 1);
        let mut kept = 0;
        for (at, call) in cache.drain(..).enumerate() {
            // A bit has flipped, in this call or in what would have told that it is there.
            if at as u64 > whole || chance.happens(faults.flip) {
                break;
            }
            let survives = match call {
                call if (at as u64) < whole => Some(call),
                Call::Append(mut entries) => {
                    entries.truncate(chance.below(entries.len() as u64) as usize);
                    (!entries.is_empty()).then_some(Call::Append(entries))
                }
                _ => None,
            };
            if let Some(call) = survives {
                // It made sense when it was written, and all before it is there.
                let _ = call.apply(device);
                kept = at + 1;
            }
        }
        drop(medium);
        self.tracer.note(Event::PowerCut { agent: self.agent, kept, lost: calls - kept });
    }

    /// Opens it: what is found, under the number of this opening, which ends every earlier one.
    pub(super) fn open(&self) -> Result<(u64, Content), StorageError> {
        let mut medium = self.medium();
        if medium.faults.rotten {
            return Err(StorageError::Corrupted {
                path: self.path("log"),
                detail: "a simulated bit has flipped".to_owned(),
            });
        }
        let Medium { device, cache, opening, .. } = &mut *medium;
        for call in cache.drain(..) {
            let _ = call.apply(device);
        }
        *opening += 1;
        Ok((*opening, device.clone()))
    }

    /// Ends an opening.
    pub(super) fn close(&self, opening: u64) {
        let mut medium = self.medium();
        if medium.opening == opening {
            medium.opening += 1;
        }
    }

    pub(super) fn is_open(&self, opening: u64) -> bool {
        self.medium().opening == opening
    }

    /// An empty one takes its place. What is wrong with it stays: that is the machine's.
    pub(crate) fn wipe(&self) {
        let mut medium = self.medium();
        medium.device = Content::default();
        medium.cache.clear();
        medium.identity = None;
        medium.opening += 1;
    }

    /// The member that it belongs to, if it was used.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.medium().identity.as_ref().map(|identity| identity.node_id)
    }

    /// Whether what is on it belongs to a cluster.
    pub(crate) fn is_of_a_cluster(&self) -> bool {
        self.medium().identity.as_ref().is_some_and(|identity| identity.cluster_id.is_some())
    }

    fn path(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("agent-{}/{what}", self.agent))
    }

    /// The identity of the member whose disk it is; this one when it has none.
    pub(super) fn identity(&self, name: &AgentName, new_node_id: NodeId) -> Identity {
        let mut medium = self.medium();
        let new = || Identity {
            node_id: new_node_id,
            cluster_id: None,
            agent: name.clone(),
            founding: Bytes::new(),
        };
        medium.identity.get_or_insert_with(new).clone()
    }

    /// Replaces the identity.
    pub(super) fn save_identity(&self, identity: &Identity) -> Result<(), StorageError> {
        let failed = {
            let mut medium = self.medium();
            let failed = medium.write_fails();
            if failed.is_none() {
                medium.identity = Some(identity.clone());
            }
            failed
        };
        match failed {
            None => Ok(()),
            Some(source) => {
                self.note_failure(&source);
                Err(StorageError::Io { path: self.path("identity"), doing: "cannot write", source })
            }
        }
    }

    /// How long the next group of writes takes.
    pub(super) fn write_span(&self) -> Duration {
        let mut medium = self.medium();
        let pace = medium.pace.write;
        medium.span(pace)
    }

    /// How long the next sync takes.
    pub(super) fn sync_span(&self) -> Duration {
        let mut medium = self.medium();
        let slow = Share::of(medium.pace.slow);
        let pace = if medium.chance.happens(slow) { medium.pace.slow_sync } else { medium.pace.sync };
        medium.span(pace)
    }

    /// Waits for as long as the disk stalls, if it does.
    pub(super) async fn stall(&self) {
        let stall = std::mem::take(&mut self.medium().faults.stall);
        if !stall.is_zero() {
            runtime::select2(self.healed.notified(), runtime::sleep(stall)).await;
        }
    }

    /// How long a snapshot of so many bytes takes, beside its write and its sync.
    pub(super) fn bulk_span(&self, bytes: usize) -> Duration {
        // 100 MB a second.
        Duration::from_nanos(bytes as u64 * 10) * self.medium().faults.slow.max(1)
    }

    /// Hands calls to the system's cache. When it fails, some of the first may be there.
    pub(super) fn write(&self, opening: u64, calls: Vec<Call>) -> io::Result<()> {
        let mut digest = Digest::default();
        calls.hash(&mut digest);
        let count = calls.len();
        {
            let mut medium = self.medium();
            if medium.opening != opening {
                return Err(crate::storage::closed());
            }
            if let Some(error) = medium.write_fails() {
                let some = medium.chance.below(count as u64) as usize;
                medium.cache.extend(calls.into_iter().take(some));
                drop(medium);
                self.note_failure(&error);
                return Err(error);
            }
            medium.cache.extend(calls);
        }
        self.tracer.note(Event::Written { agent: self.agent, calls: count, digest: digest.finish() });
        Ok(())
    }

    /// Makes what is in the cache durable. When it fails, the system may have dropped it.
    pub(super) fn sync(&self, opening: u64) -> io::Result<()> {
        let mut medium = self.medium();
        if medium.opening != opening {
            return Err(crate::storage::closed());
        }
        let Medium { device, cache, faults, chance, .. } = &mut *medium;
        if chance.happens(faults.fail) {
            if chance.below(2) == 0 {
                cache.clear();
            }
            drop(medium);
            let error = io::Error::other("a simulated sync failed");
            self.note_failure(&error);
            return Err(error);
        }
        let lying = faults.lies;
        if !lying {
            for call in cache.drain(..) {
                let _ = call.apply(device);
            }
        }
        drop(medium);
        self.tracer.note(Event::Synced { agent: self.agent, lying });
        Ok(())
    }
}

impl Medium {
    fn span(&mut self, (least, most): (Duration, Duration)) -> Duration {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let span = Duration::from_nanos(self.chance.between(nanos(least), nanos(most)));
        span * self.faults.slow.max(1)
    }

    fn write_fails(&mut self) -> Option<io::Error> {
        if self.faults.full {
            return Some(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full"));
        }
        let fails = self.chance.happens(self.faults.fail);
        fails.then(|| io::Error::other("a simulated write failed"))
    }
}
