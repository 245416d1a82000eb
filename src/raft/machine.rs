//! openraft's state machine over the lease table. It decides nothing: [`Replica`] holds the table, `table/` the rules.
//!
//! The table lives in memory. What survives a restart is the last snapshot, which is on disk before openraft hears
//! of it, and the log after it.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};

use tokio::sync::Mutex;

use super::types::{Answer, LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::{codec, fault_point::fault_point, replica::Replica, storage::Journal};

/// The state machine of one node.
pub(crate) struct Machine {
    journal: Arc<dyn Journal>,
    replica: Arc<Replica>,
    applied: Option<LogId>,
    membership: StoredMembership,
    stored: Arc<Stored>,
}

/// What the snapshot on disk covers. openraft may install a received snapshot while an older one is still being
/// built: the older one must not be written over it, since the log is purged up to the newer.
#[derive(Default)]
struct Stored(Mutex<Option<LogId>>);

impl Stored {
    /// Writes the snapshot unless a newer one, or this one, is on disk.
    async fn save(&self, journal: &dyn Journal, meta: &SnapshotMeta, data: Bytes) -> io::Result<()> {
        let mut newest = self.0.lock().await;
        if newest.is_some() && *newest >= meta.last_log_id {
            return Ok(());
        }
        fault_point!(BeforeSnapshot);
        journal.save_snapshot(codec::encode(meta).into(), data).await?;
        fault_point!(AfterSnapshot);
        *newest = meta.last_log_id;
        Ok(())
    }
}

impl Machine {
    pub(crate) fn new(journal: Arc<dyn Journal>, replica: Arc<Replica>) -> Self {
        Self {
            journal,
            replica,
            applied: None,
            membership: StoredMembership::default(),
            stored: Arc::default(),
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            fault_point!(BeforeApply);
            let (index, term) = (entry.log_id.index, entry.log_id.committed_leader_id().term);
            let outcome = match entry.payload {
                EntryPayload::Normal(proposal) => Some(self.replica.apply(index, term, &proposal.0)),
                EntryPayload::Blank => {
                    self.replica.pass(index, term);
                    None
                }
                EntryPayload::Membership(membership) => {
                    #[cfg(feature = "chaos")]
                    self.replica.reconfigured(index, term, &super::membership::configuration(&membership));
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    self.replica.pass(index, term);
                    None
                }
            };
            self.applied = Some(entry.log_id);
            fault_point!(AfterApply);
            if let Some(responder) = responder {
                responder.send(Answer(outcome));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder {
            journal: self.journal.clone(),
            stored: self.stored.clone(),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            data: self.replica.snapshot().into(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Bytes) -> Result<(), io::Error> {
        fault_point!(BeforeInstall);
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let term = meta.last_log_id.map_or(0, |id| id.committed_leader_id().term);
        // Checked before anything is replaced; on disk before openraft hears of it.
        let table = self.replica.decode(&data)?;
        self.stored.save(self.journal.as_ref(), meta, data).await?;
        self.replica.replace(index, term, table);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        fault_point!(AfterInstall);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let Some((meta, data)) = self.journal.load_snapshot().await? else { return Ok(None) };
        let meta: SnapshotMeta = codec::decode(&meta).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot's description: {error}"))
        })?;
        let mut newest = self.stored.0.lock().await;
        *newest = (*newest).max(meta.last_log_id);
        drop(newest);
        Ok(Some(Snapshot { meta, snapshot: data }))
    }
}

/// Writes one snapshot: the table's bytes were taken when this was made, later changes don't touch them.
pub(crate) struct Builder {
    journal: Arc<dyn Journal>,
    stored: Arc<Stored>,
    meta: SnapshotMeta,
    data: Bytes,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.stored.save(self.journal.as_ref(), &self.meta, self.data.clone()).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: self.data.clone() })
    }
}
