//! What one life of a simulated agent stands on: its end of the network, its disk, and an ear for what it applies.

use std::{collections::BTreeSet, sync::Arc};

use super::{disk::Disk, journal::DiskJournal, network::Network};
use crate::{
    agent::{Site, Storage},
    chaos::{
        recorder::{Recorder, texts},
        trace::{Event, Tracer},
    },
    id::NodeId,
    name::AgentName,
    raft::Compaction,
    replica::{Applied, Configuration},
    runtime::watch,
    storage::StorageError,
    table::{Event as Change, Table},
    transport::{BindError, Identity, Transport},
};

/// See the file's head.
pub(super) struct SimSite {
    pub(super) agent: usize,
    pub(super) network: Network,
    pub(super) disk: Disk,
    pub(super) compaction: Compaction,
    pub(super) recorder: Recorder,
}

impl Site for SimSite {
    fn bind(
        &self,
        listen: &str,
        identity: watch::Receiver<Identity>,
    ) -> Result<Arc<dyn Transport>, BindError> {
        Ok(Arc::new(self.network.bind(self.agent, listen, identity)?))
    }

    fn open(&self, name: &AgentName, new_node_id: NodeId) -> Result<Storage, StorageError> {
        let (journal, recovered) = DiskJournal::open(&self.disk)?;
        let disk = self.disk.clone();
        let is_empty = disk.node().is_none();
        let identity = disk.identity(name, new_node_id);
        self.recorder.identified(self.agent, identity.node_id, is_empty);
        Ok(Storage {
            identity,
            save: Box::new(move |identity| disk.save_identity(identity)),
            journal: Arc::new(journal),
            recovered,
        })
    }

    fn compaction(&self) -> Compaction {
        self.compaction
    }
}

/// Traces and records what is applied.
pub(super) struct Ear {
    pub(super) agent: usize,
    /// Which of the agent's lives it is.
    pub(super) life: u32,
    pub(super) tracer: Tracer,
    pub(super) recorder: Recorder,
}

impl Applied for Ear {
    fn applied(&self, index: u64, term: u64, events: &[Change], table: &Table) {
        let agent = self.agent;
        let (changes, told) = texts(events);
        self.tracer.note(Event::Applied { agent, index, term, digest: told });
        self.recorder.applied((agent, self.life), (index, term, told), events, table);
        for change in changes {
            self.tracer.note(Event::Lease { agent, index, change });
        }
    }

    fn reconfigured(&self, index: u64, term: u64, configuration: &Configuration) {
        let Configuration { voters, members } = configuration;
        self.tracer.note(Event::Reconfigured {
            agent: self.agent,
            index,
            voters: voters.iter().map(BTreeSet::len).collect(),
            members: members.len(),
        });
        self.recorder.reconfigured(index, term, configuration);
    }

    fn replaced(&self, index: u64, table: &Table) {
        self.tracer.note(Event::Installed { agent: self.agent, index });
        self.recorder.installed((self.agent, self.life), index, table);
    }
}
