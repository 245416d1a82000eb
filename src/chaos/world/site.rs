//! What one life of a simulated agent stands on: its end of the network, its disk, and an ear for what it applies.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock, Weak},
};

use super::{disk::Disk, journal::DiskJournal, network::Network};
use crate::{
    agent::{Site, Storage},
    chaos::{
        recorder::Recorder,
        trace::{Event, Tracer, digest},
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
    agent: usize,
    network: Network,
    disk: Disk,
    tracer: Tracer,
    compaction: Compaction,
    recorder: Recorder,
    /// Which of the agent's lives it is.
    life: u32,
    ear: OnceLock<Arc<Ear>>,
}

impl SimSite {
    pub(super) fn new(
        (agent, life): (usize, u32),
        network: Network,
        disk: Disk,
        (tracer, recorder): (Tracer, Recorder),
        compaction: Compaction,
    ) -> Self {
        Self { agent, network, disk, tracer, compaction, recorder, life, ear: OnceLock::new() }
    }
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

    fn listener(&self, hub: Weak<dyn Applied>) -> Weak<dyn Applied> {
        let ear = Arc::new(Ear {
            agent: self.agent,
            life: self.life,
            tracer: self.tracer.clone(),
            recorder: self.recorder.clone(),
            hub: hub.clone(),
        });
        let weak: Weak<Ear> = Arc::downgrade(&ear);
        // An agent is started once; whoever came second would be heard by nobody.
        if self.ear.set(ear).is_ok() { weak } else { hub }
    }

    fn compaction(&self) -> Compaction {
        self.compaction
    }
}

/// Traces and records what is applied, and passes it on.
struct Ear {
    agent: usize,
    life: u32,
    tracer: Tracer,
    recorder: Recorder,
    hub: Weak<dyn Applied>,
}

impl Applied for Ear {
    fn applied(&self, index: u64, term: u64, events: &[Change], table: &Table) {
        let agent = self.agent;
        // A lease id shows its first digits only, which tell leases of one run apart.
        let changes: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
        let told = digest(&changes);
        self.tracer.note(Event::Applied { agent, index, term, digest: told });
        self.recorder.applied((agent, self.life), (index, term, told), events, table);
        for change in changes {
            self.tracer.note(Event::Lease { agent, index, change });
        }
        if let Some(hub) = self.hub.upgrade() {
            hub.applied(index, term, events, table);
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
        if let Some(hub) = self.hub.upgrade() {
            hub.replaced(index, table);
        }
    }
}
