//! The journal on disk: what callers hold. The work is done by the writer's thread.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{
    DataDir, Done, Failure, Journal, Recovered, StorageError,
    engine::Engine,
    recovery,
    snapshots::Snapshots,
    writer::{CommitMark, Op, Work, Writer},
};
use crate::{limits::STORAGE_QUEUE_MAX, runtime};

/// How to open a journal.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Whether each group is followed by an `fdatasync`. False loses acknowledged writes when the power goes: it
    /// exists for the test that shows that.
    pub(crate) fdatasync: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { fdatasync: true }
    }
}

/// A journal in a data directory.
///
/// Dropping it without [`close`](Journal::close) has what is queued written, and stops the thread, in the
/// background; the directory is locked until that is done.
#[derive(Debug)]
pub(crate) struct DiskJournal {
    queue: mpsc::Sender<Op>,
    /// What is committed, until the next op takes it along: alone it is not worth waking the thread.
    committed: Arc<CommitMark>,
    failure: Arc<Failure>,
    /// One snapshot is written at a time. Not by the writer: a large one would hold up every vote.
    snapshots: Arc<tokio::sync::Mutex<()>>,
    newest: Arc<Mutex<Snapshots>>,
}

impl DiskJournal {
    /// Opens the journal of the directory, whose identity was read, and creates it the first time. Blocks on the
    /// disk for as long as it takes to read the log: call it through [`runtime::spawn_blocking`].
    ///
    /// # Errors
    /// [`StorageError`]. Whatever is missing or damaged is an error; nothing is made up.
    pub(crate) fn open(
        directory: &Arc<DataDir>,
        options: &Options,
    ) -> Result<(Self, Recovered), StorageError> {
        directory.ensure_log(Engine::create)?;
        let folder = directory.log();
        let mut engine = Engine::open(&folder, options.fdatasync)?;
        let head = engine.head()?;
        let log = recovery::recover(&mut engine, &head, &folder)?;
        let snapshots = Snapshots::open(directory.snapshots(), head.snapshot)?;
        let recovered = Recovered {
            vote: head.vote.clone(),
            committed: head.committed.clone(),
            purged: head.purged.clone(),
            entries: log.entries,
            snapshot: snapshots.load()?,
        };
        // The state that is now on the device is the one that the caller goes on from.
        engine.note_acknowledged(head.number).map_err(StorageError::io("cannot write", &folder))?;
        tracing::debug!(path = ?directory.path(), state = head.number, ?recovered, "storage is open");

        let failure = Arc::new(Failure::default());
        let committed = Arc::new(CommitMark::default());
        let writer = Writer::new(
            engine,
            head,
            log.spans,
            log.purged,
            Arc::clone(&failure),
            Arc::clone(&committed),
            Arc::clone(directory),
        );
        let (queue, ops) = mpsc::channel(STORAGE_QUEUE_MAX);
        // A thread, and not a task: it blocks on the disk all its life. It ends with `close`, or with the last
        // sender.
        let _ = thread::Builder::new()
            .name("leasehold-storage".to_owned())
            .spawn(move || writer.run(ops))
            .map_err(StorageError::io("cannot start the storage thread for", &folder))?;
        let newest = Arc::new(Mutex::new(snapshots));
        let journal = Self { queue, committed, failure, snapshots: Arc::default(), newest };
        Ok((journal, recovered))
    }

    async fn send(&self, work: Work, done: Option<Done>) -> io::Result<()> {
        self.failure.check()?;
        self.hand_over(work, done).await
    }

    /// Cancelled while it waits for room, it leaves the commit mark to the next op.
    async fn hand_over(&self, work: Work, done: Option<Done>) -> io::Result<()> {
        let room = self.queue.reserve().await.map_err(|_| closed())?;
        let committed = self.committed.take();
        room.send(Op { committed, work, done });
        Ok(())
    }

    /// Queues the work and waits until it is durable.
    async fn carry_out(&self, work: Work) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        self.send(work, Some(Box::new(move |outcome| drop(tell.send(outcome))))).await?;
        told.await.unwrap_or_else(|_| Err(closed()))
    }
}

/// Reads all that the journal of the directory holds, whose identity was loaded, and closes it again; the directory stays
/// locked. Blocks on the disk.
///
/// # Errors
/// As [`DiskJournal::open`].
pub(crate) fn read_all(directory: &DataDir) -> Result<Recovered, StorageError> {
    let folder = directory.log();
    let mut engine = Engine::open(&folder, true)?;
    let head = engine.head()?;
    let log = recovery::recover(&mut engine, &head, &folder)?;
    let snapshot = Snapshots::open(directory.snapshots(), head.snapshot)?.load()?;
    engine.close().map_err(StorageError::io("cannot close", &folder))?;
    Ok(Recovered {
        vote: head.vote,
        committed: head.committed,
        purged: head.purged,
        entries: log.entries,
        snapshot,
    })
}

/// The answer after [`Journal::close`].
pub(crate) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the data directory was closed; open it anew")
}

/// A panic while it was locked leaves what is on disk, which is looked at again.
fn locked(newest: &Mutex<Snapshots>) -> std::sync::MutexGuard<'_, Snapshots> {
    newest.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Journal for DiskJournal {
    async fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) -> io::Result<()> {
        self.send(Work::Append(entries), Some(done)).await
    }

    async fn save_vote(&self, vote: Bytes) -> io::Result<()> {
        self.carry_out(Work::Vote(vote)).await
    }

    async fn save_committed(&self, committed: Bytes) -> io::Result<()> {
        self.failure.check()?;
        if self.queue.is_closed() {
            return Err(closed());
        }
        self.committed.put(committed);
        Ok(())
    }

    async fn truncate_after(&self, last: Option<u64>) -> io::Result<()> {
        self.carry_out(Work::TruncateAfter(last)).await
    }

    async fn purge(&self, upto: u64, mark: Bytes) -> io::Result<()> {
        self.carry_out(Work::Purge(upto, mark)).await
    }

    async fn save_snapshot(&self, meta: Bytes, data: Bytes) -> io::Result<()> {
        let turn = Arc::clone(&self.snapshots).lock_owned().await;
        self.failure.check()?;
        let (newest, failure) = (Arc::clone(&self.newest), Arc::clone(&self.failure));
        let written = runtime::spawn_blocking(move || {
            let mut newest = locked(&newest);
            newest.write(&meta, &data).map_err(|error| failure.record(&error))?;
            // The turn goes with the work: a caller that is cancelled does not end it for the next one.
            io::Result::Ok((newest.newest(), turn))
        });
        let (number, turn) =
            written.await.map_err(|error| self.failure.record(&io::Error::other(error)))??;
        self.carry_out(Work::Snapshot(number)).await?;
        let newest = Arc::clone(&self.newest);
        let removed = runtime::spawn_blocking(move || {
            let removed = locked(&newest).remove_older();
            drop(turn);
            removed
        });
        // The new one stands; a leftover is removed at the next opening.
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(%error, "an old snapshot could not be removed");
        }
        Ok(())
    }

    async fn load_snapshot(&self) -> io::Result<Option<(Bytes, Bytes)>> {
        let newest = Arc::clone(&self.newest);
        let loaded = runtime::spawn_blocking(move || locked(&newest).load());
        loaded.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    async fn close(&self) -> io::Result<()> {
        // A snapshot that is being written is written first: the directory is not ours after this.
        let _turn = self.snapshots.lock().await;
        let (tell, told) = oneshot::channel();
        // Also after a failure: the thread and the lock are given back.
        let done: Done = Box::new(move |outcome| drop(tell.send(outcome)));
        self.hand_over(Work::Close, Some(done)).await?;
        told.await.unwrap_or_else(|_| Err(closed()))
    }

    fn failed(&self) -> Option<String> {
        self.failure.text()
    }
}

/// Opens the directory and its journal in one go, for a test.
#[cfg(any(test, feature = "test-support"))]
pub(crate) fn open_for_test(
    path: &std::path::Path,
    options: &Options,
) -> Result<(DiskJournal, Recovered), StorageError> {
    let directory = Arc::new(DataDir::open(path)?);
    let agent = crate::AgentName::new("test").map_err(|e| StorageError::corrupted(path, e.to_string()))?;
    let _ = directory.load_or_create(crate::NodeId::from_bits(7), &agent)?;
    DiskJournal::open(&directory, options)
}
