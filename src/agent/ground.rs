//! What an agent stands on: its network and its storage. Nobody above asks which kind they are.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::founding::{Keep, Plan};
#[cfg(feature = "chaos")]
use crate::replica::Applied;
use crate::{
    codec,
    error::StartError,
    flaw::planted,
    id::{ClusterId, NodeId},
    name::AgentName,
    quotas::Quotas,
    raft::Compaction,
    runtime::{self, watch},
    storage::{self, DataDir, DiskJournal, Journal, MemoryJournal, Options, Recovered, StorageError},
    transport::{BindError, Identity, InProcessNetwork, Security, Settings, TcpTransport, Transport},
};

/// A network and a storage that are simulated.
#[cfg(feature = "chaos")]
pub(crate) trait Site: Send + Sync {
    /// Listens.
    fn bind(
        &self,
        listen: &str,
        identity: watch::Receiver<Identity>,
    ) -> Result<Arc<dyn Transport>, BindError>;

    /// Opens the storage of the agent of this name; one that is used for the first time gets this id.
    fn open(&self, name: &AgentName, new_node_id: NodeId) -> Result<Storage, StorageError>;

    /// When a snapshot is taken.
    fn compaction(&self) -> Compaction;
}

/// Replaces a member's identity, durably.
#[cfg(feature = "chaos")]
pub(crate) type SaveIdentity = Box<dyn Fn(&storage::Identity) -> Result<(), StorageError> + Send + Sync>;

/// What a [`Site`] has of a member.
#[cfg(feature = "chaos")]
pub(crate) struct Storage {
    pub(crate) identity: storage::Identity,
    pub(crate) save: SaveIdentity,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) recovered: Recovered,
}

/// Where an agent's network and its storage come from.
#[derive(Default)]
pub(super) struct Ground {
    /// Where both are simulated; then the others don't count.
    #[cfg(feature = "chaos")]
    pub(super) site: Option<Arc<dyn Site>>,
    /// Who looks on at what is applied.
    #[cfg(feature = "chaos")]
    pub(super) onlooker: Option<Arc<dyn Applied>>,
    /// `None`: in memory.
    pub(super) data_dir: Option<PathBuf>,
    /// `None`: TCP.
    pub(super) network: Option<InProcessNetwork>,
    /// What others may take of it.
    pub(super) quotas: Quotas,
    /// Of TCP.
    pub(super) security: Security,
}

/// What storage has of a member.
pub(super) struct Opened {
    pub(super) node_id: NodeId,
    pub(super) plan: Option<Plan>,
    /// The cluster that it belongs to, by its founding or because it has joined it.
    pub(super) cluster: Option<ClusterId>,
    pub(super) keep: Keep,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) recovered: Recovered,
}

impl Ground {
    /// Whether others than this process could be at the other end.
    pub(super) fn is_tcp(&self) -> bool {
        #[cfg(feature = "chaos")]
        if self.site.is_some() {
            return false;
        }
        self.network.is_none()
    }

    /// Whether what is written outlives the process.
    pub(super) fn is_durable(&self) -> bool {
        #[cfg(feature = "chaos")]
        if self.site.is_some() {
            return true;
        }
        self.data_dir.is_some()
    }

    /// What the storage is called, for people.
    pub(super) fn storage_name(&self) -> String {
        self.data_dir.as_ref().map_or_else(|| "memory".to_owned(), |dir| dir.display().to_string())
    }

    /// Listens.
    pub(super) async fn bind(
        &self,
        listen: &str,
        identity: watch::Receiver<Identity>,
    ) -> Result<Arc<dyn Transport>, BindError> {
        #[cfg(feature = "chaos")]
        if let Some(site) = &self.site {
            return site.bind(listen, identity);
        }
        Ok(match &self.network {
            Some(network) => Arc::new(network.bind(listen, identity)?),
            None => {
                let (quotas, security) = (self.quotas, self.security.clone());
                let settings = Settings { quotas, security, ..Settings::default() };
                Arc::new(TcpTransport::bind(listen, identity, settings).await?)
            }
        })
    }

    /// Opens the storage of the agent of this name.
    pub(super) async fn open(&self, name: &AgentName) -> Result<Opened, StartError> {
        let new_node_id = if planted!(OldIdOnEmptyDisk) {
            NodeId::from_bits(u64::from(crc32fast::hash(name.as_str().as_bytes())))
        } else {
            NodeId::from_bits(runtime::random_u64())
        };
        #[cfg(feature = "chaos")]
        if let Some(site) = &self.site {
            let Storage { identity, save, journal, recovered } = site.open(name, new_node_id)?;
            return Ok(Opened::of(Path::new("the simulated disk"), identity, save, journal, recovered)?);
        }
        let Some(path) = self.data_dir.clone() else { return Ok(Opened::in_memory(new_node_id)) };
        let name = name.clone();
        let opened = runtime::spawn_blocking(move || Opened::on_disk(&path, &name, new_node_id)).await;
        Ok(opened.map_err(|_| StartError::Stopped)??)
    }

    /// When a snapshot is taken.
    pub(super) fn compaction(&self) -> Compaction {
        #[cfg(feature = "chaos")]
        if let Some(site) = &self.site {
            return site.compaction();
        }
        Compaction::default()
    }
}

impl Opened {
    fn in_memory(node_id: NodeId) -> Self {
        Self {
            node_id,
            plan: None,
            cluster: None,
            keep: Box::new(|_, _| Ok(())),
            journal: Arc::new(MemoryJournal::new()),
            recovered: Recovered::default(),
        }
    }

    /// Blocks.
    fn on_disk(path: &Path, name: &AgentName, new_node_id: NodeId) -> Result<Self, StorageError> {
        let directory = Arc::new(DataDir::open(path)?);
        let identity = directory.load_or_create(new_node_id, name)?;
        let (journal, recovered) = DiskJournal::open(&directory, &Options::default())?;
        Self::of(path, identity, move |identity| directory.save(identity), Arc::new(journal), recovered)
    }

    /// A member whose identity is kept by `save`.
    fn of(
        path: &Path,
        identity: storage::Identity,
        save: impl Fn(&storage::Identity) -> Result<(), StorageError> + Send + Sync + 'static,
        journal: Arc<dyn Journal>,
        recovered: Recovered,
    ) -> Result<Self, StorageError> {
        let plan = if identity.founding.is_empty() {
            None
        } else {
            Some(codec::decode(&identity.founding).map_err(|error| StorageError::Corrupted {
                path: path.join("identity"),
                detail: format!("its founding plan is unreadable: {error}"),
            })?)
        };
        let (node_id, cluster) = (identity.node_id, identity.cluster_id);
        let keep = move |cluster: ClusterId, plan: Option<&Plan>| {
            let founding = plan.map_or_else(Bytes::new, |plan| Bytes::from(codec::encode(plan)));
            save(&storage::Identity { cluster_id: Some(cluster), founding, ..identity.clone() })
        };
        Ok(Self { node_id, plan, cluster, keep: Box::new(keep), journal, recovered })
    }
}
