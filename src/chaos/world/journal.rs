//! The storage contract over a simulated [`Disk`]: one writer, as on the real one, which takes whatever is queued as one
//! group, writes it, syncs it, and answers in order. Its time is that of the machine, whose tasks it belongs to: it stands
//! still when the machine does, and dies with it, and what it had not written yet dies with it.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::disk::{Call, Disk};
use crate::{
    fault_point::fault_point,
    flaw::planted,
    limits::STORAGE_QUEUE_MAX,
    runtime,
    storage::{Content, Done, Failure, Journal, Recovered, StorageError, closed},
};

/// An opening of a disk.
pub(crate) struct DiskJournal {
    disk: Disk,
    opening: u64,
    queue: mpsc::Sender<Op>,
    failure: Arc<Failure>,
    /// What the log says with everything that is queued before: what a call must make sense with, and what is read.
    content: Arc<Mutex<Content>>,
    /// One snapshot is written at a time.
    snapshots: tokio::sync::Mutex<()>,
}

/// What is queued.
struct Op {
    /// `None` closes.
    call: Option<Call>,
    done: Option<Done>,
}

impl DiskJournal {
    /// Opens the disk, and starts its writer where the present task belongs.
    pub(crate) fn open(disk: &Disk) -> Result<(Self, Recovered), StorageError> {
        let (opening, content) = disk.open()?;
        let recovered = content.recovered();
        let content = Arc::new(Mutex::new(content));
        let (queue, ops) = mpsc::channel(STORAGE_QUEUE_MAX);
        let failure = Arc::new(Failure::default());
        let writer =
            Writer { disk: disk.clone(), opening, failure: failure.clone(), content: content.clone() };
        drop(runtime::spawn(writer.run(ops)));
        let journal =
            Self { disk: disk.clone(), opening, queue, failure, content, snapshots: Default::default() };
        Ok((journal, recovered))
    }

    async fn send(&self, call: Option<Call>, done: Option<Done>) -> io::Result<()> {
        let room = self.queue.reserve().await.map_err(|_| closed())?;
        room.send(Op { call, done });
        Ok(())
    }

    /// Queues the call and waits until it is durable.
    async fn carry_out(&self, call: Call) -> io::Result<()> {
        self.failure.check()?;
        self.wait_for(Some(call)).await
    }

    async fn wait_for(&self, call: Option<Call>) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        self.send(call, Some(Box::new(move |outcome| drop(tell.send(outcome))))).await?;
        told.await.unwrap_or_else(|_| Err(closed()))
    }
}

fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Journal for DiskJournal {
    async fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) -> io::Result<()> {
        self.failure.check()?;
        self.send(Some(Call::Append(entries)), Some(done)).await
    }

    async fn save_vote(&self, vote: Bytes) -> io::Result<()> {
        self.carry_out(Call::Vote(vote)).await
    }

    async fn save_committed(&self, committed: Bytes) -> io::Result<()> {
        self.failure.check()?;
        self.send(Some(Call::Committed(committed)), None).await
    }

    async fn truncate_after(&self, last: Option<u64>) -> io::Result<()> {
        self.carry_out(Call::TruncateAfter(last)).await
    }

    async fn purge(&self, upto: u64, mark: Bytes) -> io::Result<()> {
        self.carry_out(Call::Purge(upto, mark)).await
    }

    async fn save_snapshot(&self, meta: Bytes, data: Bytes) -> io::Result<()> {
        let _turn = self.snapshots.lock().await;
        self.failure.check()?;
        // Into a file of its own, which holds nobody up; the log then says that it is there.
        runtime::sleep(self.disk.bulk_span(meta.len() + data.len())).await;
        self.carry_out(Call::Snapshot(meta, data)).await
    }

    async fn load_snapshot(&self) -> io::Result<Option<(Bytes, Bytes)>> {
        if !self.disk.is_open(self.opening) {
            return Err(closed());
        }
        Ok(lock(&self.content).snapshot())
    }

    async fn close(&self) -> io::Result<()> {
        let _turn = self.snapshots.lock().await;
        self.wait_for(None).await
    }

    fn failed(&self) -> Option<String> {
        self.failure.text()
    }
}

/// See the file's head.
struct Writer {
    disk: Disk,
    opening: u64,
    failure: Arc<Failure>,
    content: Arc<Mutex<Content>>,
}

impl Writer {
    async fn run(self, mut queue: mpsc::Receiver<Op>) {
        let mut closed = None;
        // Notes of what is committed ride along with the next call of another kind.
        let mut notes = Vec::new();
        while closed.is_none() {
            let Some(first) = queue.recv().await else { break };
            let mut calls = std::mem::take(&mut notes);
            let mut waiting = Vec::new();
            let mut next = Some(first);
            while let Some(Op { call, done }) = next {
                let Some(call) = call else {
                    closed = Some(done);
                    break;
                };
                if let (Call::Committed(_), Some(Call::Committed(_))) = (&call, calls.last()) {
                    calls.pop();
                }
                calls.push(call);
                waiting.extend(done.map(|done| (calls.len() - 1, done)));
                next = if calls.len() < STORAGE_QUEUE_MAX { queue.try_recv().ok() } else { None };
            }
            if waiting.is_empty() && closed.is_none() {
                notes = calls;
                continue;
            }
            let answers = self.group(calls).await;
            for (at, done) in waiting {
                done(match &answers {
                    Ok(refused) => refused
                        .iter()
                        .find(|(call, _)| *call == at)
                        .map_or(Ok(()), |(_, error)| Err(io::Error::new(error.kind(), error.to_string()))),
                    Err(_) => self.failure.check(),
                });
            }
        }
        self.stop(queue, closed.flatten());
    }

    /// Writes one group and syncs it. Returns the calls that made no sense, by their places.
    async fn group(&self, calls: Vec<Call>) -> io::Result<Vec<(usize, io::Error)>> {
        self.failure.check()?;
        let mut refused = Vec::new();
        let mut accepted = Vec::new();
        {
            let mut content = lock(&self.content);
            for (at, call) in calls.into_iter().enumerate() {
                match call.clone().apply(&mut content) {
                    Ok(()) => accepted.push(call),
                    Err(error) => refused.push((at, error)),
                }
            }
        }
        if accepted.is_empty() {
            return Ok(refused);
        }
        runtime::sleep(self.disk.write_span()).await;
        self.disk.write(self.opening, accepted).map_err(|error| self.failure.record(&error))?;
        fault_point!(BeforeSync);
        runtime::sleep(self.disk.sync_span()).await;
        self.disk.stall().await;
        if !planted!(NoSync) {
            self.disk.sync(self.opening).map_err(|error| self.failure.record(&error))?;
        }
        fault_point!(AfterSync);
        Ok(refused)
    }

    /// Gives the disk free, and answers all that came too late.
    fn stop(self, mut queue: mpsc::Receiver<Op>, closer: Option<Done>) {
        queue.close();
        self.disk.close(self.opening);
        if let Some(done) = closer {
            done(self.failure.check());
        }
        while let Ok(op) = queue.try_recv() {
            if let Some(done) = op.done {
                done(Err(closed()));
            }
        }
    }
}
