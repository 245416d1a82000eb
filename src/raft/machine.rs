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

use super::types::{Answer, LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::{codec, replica::Replica, storage::Journal};

/// The state machine of one node.
pub(crate) struct Machine {
    journal: Arc<dyn Journal>,
    replica: Arc<Replica>,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// What the snapshot on disk covers, so that restoring it at a start doesn't write it again.
    stored: Option<SnapshotMeta>,
}

impl Machine {
    pub(crate) fn new(journal: Arc<dyn Journal>, replica: Arc<Replica>) -> Self {
        Self { journal, replica, applied: None, membership: StoredMembership::default(), stored: None }
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
            let (index, term) = (entry.log_id.index, entry.log_id.committed_leader_id().term);
            let outcome = match entry.payload {
                EntryPayload::Normal(proposal) => Some(self.replica.apply(index, term, &proposal.0)),
                EntryPayload::Blank => {
                    self.replica.pass(index, term);
                    None
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    self.replica.pass(index, term);
                    None
                }
            };
            self.applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(Answer(outcome));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder {
            journal: self.journal.clone(),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            data: self.replica.snapshot().into(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Bytes) -> Result<(), io::Error> {
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let term = meta.last_log_id.map_or(0, |id| id.committed_leader_id().term);
        // Checked before anything is replaced; on disk before openraft hears of it.
        let table = self.replica.decode(&data)?;
        if self.stored.as_ref() != Some(meta) {
            self.journal.save_snapshot(codec::encode(meta).into(), data).await?;
            self.stored = Some(meta.clone());
        }
        self.replica.replace(index, term, table);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let Some((meta, data)) = self.journal.load_snapshot().await? else { return Ok(None) };
        let meta: SnapshotMeta = codec::decode(&meta).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot's description: {error}"))
        })?;
        self.stored = Some(meta.clone());
        Ok(Some(Snapshot { meta, snapshot: data }))
    }
}

/// Writes one snapshot: the table's bytes were taken when this was made, later changes don't touch them.
pub(crate) struct Builder {
    journal: Arc<dyn Journal>,
    meta: SnapshotMeta,
    data: Bytes,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.journal.save_snapshot(codec::encode(&self.meta).into(), self.data.clone()).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: self.data.clone() })
    }
}
