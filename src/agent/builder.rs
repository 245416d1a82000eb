//! Starting: from settings to a node that serves. What goes wrong on the way leaves nothing behind.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use super::{
    Agent,
    founding::Founding,
    ground::{Ground, Opened},
    hub::Hub,
    leader::Leader,
    node::Node,
    route::Router,
    serve::Service,
};
use crate::{
    clock::{Clock, SystemClock},
    config::{self, ConfigError, ConfigFault, Timing},
    error::StartError,
    flaw::planted,
    id::NodeId,
    lease::Renewer,
    limits::FOUNDERS_MAX,
    name::AgentName,
    raft::Consensus,
    replica::Replica,
    runtime::{self, watch},
    storage::{Journal, Recovered},
    table::Holder,
    tasks::Tasks,
    transport::{Identity, InProcessNetwork, Role, Transport},
};

/// An expiry, or one attempt at a request, may take so many of the longest election timeouts.
const PATIENCE_ELECTIONS: u32 = 2;

/// How an agent starts; made by [`Agent::builder`].
///
/// | setting | default | |
/// | --- | --- | --- |
/// | [`listen`](Self::listen) | none, must be given | where the agent is reached |
/// | [`founders`](Self::founders) | none, must be given | who forms the cluster: the same list on every agent |
/// | [`advertise`](Self::advertise) | the listening address | the address under which the founders list this agent |
/// | [`data_dir`](Self::data_dir) | none: in memory | where log, vote and identity are kept |
/// | [`timing`](Self::timing) | [`Timing::default`] | the cluster's timing: the same on every agent |
/// | [`ttl`](Self::ttl) | 10 s | the ttl of a lease for which none is asked |
/// | [`start_within`](Self::start_within) | without end | how long to wait for the other founders |
/// | [`clock`](Self::clock) | [`SystemClock`] | the clock by which leases run out |
/// | [`network`](Self::network) | TCP | an in-process network instead |
#[must_use = "nothing starts until start() is awaited"]
pub struct Builder {
    name: String,
    listen: Option<String>,
    advertise: Option<String>,
    founders: Vec<String>,
    timing: Timing,
    start_within: Option<Duration>,
    clock: Arc<dyn Clock>,
    ground: Ground,
}

impl Builder {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            listen: None,
            advertise: None,
            founders: Vec::new(),
            timing: Timing::default(),
            start_within: None,
            clock: Arc::new(SystemClock),
            ground: Ground::default(),
        }
    }

    /// The address to listen on, `host:port`. Port 0 takes a free one, which is of use with `advertise` only.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// The address at which the others reach this agent, when it isn't the one it listens on.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// The addresses of the agents that form the cluster, this one's among them: the same list on every agent. Three
    /// or five; a cluster of `n` goes on while more than half of them run and are connected.
    pub fn founders<S: Into<String>>(mut self, addresses: impl IntoIterator<Item = S>) -> Self {
        self.founders = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// The directory that keeps this member's log, vote and identity. It is made if it isn't there.
    ///
    /// Without one everything is kept in memory, and each start is a new member. Hazard: a cluster that loses a
    /// majority of such agents at once has lost its leases.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.ground.data_dir = Some(path.into());
        self
    }

    /// The cluster's timing.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// The ttl of a lease for which none is asked.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.timing.ttl = ttl;
        self
    }

    /// Gives up starting after this long, with [`StartError::NotReady`].
    pub fn start_within(mut self, span: Duration) -> Self {
        self.start_within = Some(span);
        self
    }

    /// The clock by which leases run out. For tests; a clock that doesn't count suspend breaks rule L1.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// A network inside this process instead of TCP, for tests and demonstrations.
    pub fn network(mut self, network: &InProcessNetwork) -> Self {
        self.ground.network = Some(network.clone());
        self
    }

    /// A simulated network and storage.
    #[cfg(feature = "chaos")]
    pub(crate) fn site(mut self, site: Arc<dyn super::Site>) -> Self {
        self.ground.site = Some(site);
        self
    }

    fn check(self) -> Result<Checked, ConfigError> {
        let mut faults = Vec::new();
        let name = AgentName::new(&self.name).map_err(|error| faults.push(error.into())).ok();
        let listen = self.listen.unwrap_or_default();
        if listen.is_empty() {
            faults.push(ConfigFault::NoListen);
        } else if !config::is_address(&listen, true) {
            faults.push(ConfigFault::Address { what: "the listening address", addr: listen.clone() });
        }
        if let Some(advertise) = self.advertise.as_ref().filter(|addr| !config::is_address(addr, false)) {
            faults.push(ConfigFault::Address { what: "the advertised address", addr: advertise.clone() });
        }
        let address = self.advertise.unwrap_or_else(|| listen.clone());
        let mut founders = self.founders;
        founders.sort();
        for addr in founders.iter().filter(|addr| !config::is_address(addr, false)) {
            faults.push(ConfigFault::Address { what: "the founder", addr: addr.clone() });
        }
        for pair in founders.windows(2).filter(|pair| pair[0] == pair[1]) {
            faults.push(ConfigFault::FounderTwice { addr: pair[0].clone() });
        }
        if founders.is_empty() {
            faults.push(ConfigFault::NoFounders);
        } else if founders.len() > FOUNDERS_MAX {
            faults.push(ConfigFault::TooManyFounders { count: founders.len() });
        } else if !listen.is_empty() && !founders.contains(&address) {
            faults.push(ConfigFault::NotAFounder { advertise: address.clone(), founders: founders.clone() });
        }
        self.timing.faults(&mut faults);
        match name {
            Some(name) if faults.is_empty() => Ok(Checked {
                name,
                listen,
                address,
                founders,
                timing: self.timing,
                clock: self.clock,
                ground: self.ground,
            }),
            _ => Err(ConfigError { faults }),
        }
    }

    /// Starts the agent, and returns when it serves: the cluster is formed, has a leader, and this agent has caught
    /// up with its founding. The other founders must be started as well; while they are not, an `info` event tells
    /// every 5 s who is missing.
    ///
    /// Needs a tokio runtime with time and, for TCP, I/O enabled. Dropping the future stops what has been started.
    ///
    /// # Errors
    /// [`StartError`]. Nothing is left behind.
    pub async fn start(self) -> Result<Agent, StartError> {
        let within = self.start_within;
        let starting = Arc::new(Starting::new(self.check()?).await?);
        let mut armed = Armed(Some(starting.clone()));
        let result = match within {
            None => starting.run().await,
            Some(within) => {
                runtime::timeout(within, starting.run()).await.unwrap_or_else(|runtime::TimedOut| {
                    let waiting_for = "the other founders did not answer, or elected no leader".to_owned();
                    Err(StartError::NotReady { within, waiting_for })
                })
            }
        };
        armed.0 = None;
        match result {
            Ok(node) => Ok(Agent::of(node, starting.tasks.clone())),
            Err(error) => {
                starting.undo().await;
                Err(error)
            }
        }
    }
}

/// Undoes a start whose future was dropped.
struct Armed(Option<Arc<Starting>>);

impl Drop for Armed {
    fn drop(&mut self) {
        if let Some(starting) = self.0.take() {
            let tasks = starting.tasks.clone();
            tasks.spawn_apart(async move { starting.undo().await });
        }
    }
}

/// Settings without a fault.
struct Checked {
    name: AgentName,
    listen: String,
    address: String,
    founders: Vec<String>,
    timing: Timing,
    clock: Arc<dyn Clock>,
    ground: Ground,
}

/// An agent on its way up: what must be undone if it doesn't get there.
struct Starting {
    settings: Checked,
    node_id: NodeId,
    durable: bool,
    transport: Arc<dyn Transport>,
    identity: watch::Sender<Identity>,
    founding: Arc<Founding>,
    journal: Arc<dyn Journal>,
    recovered: Mutex<Option<Recovered>>,
    consensus: Mutex<Option<Consensus>>,
    tasks: Tasks,
    errands: Tasks,
}

impl Starting {
    /// Takes the port and opens the storage: what can fail at once does.
    async fn new(settings: Checked) -> Result<Self, StartError> {
        let (identity, identity_changes) = watch::channel(Identity {
            cluster: None,
            node: None,
            role: Role::Member,
            agent: settings.name.clone(),
        });
        let transport = settings.ground.bind(&settings.listen, identity_changes).await?;
        let Opened { node_id, plan, keep, journal, recovered } =
            match settings.ground.open(&settings.name).await {
                Ok(opened) => opened,
                Err(error) => {
                    transport.shutdown().await;
                    return Err(error);
                }
            };
        identity.send_modify(|identity| {
            identity.node = Some(node_id);
            identity.cluster = plan.as_ref().map(|plan| plan.cluster);
        });
        let founding = Founding::new(
            node_id,
            settings.name.as_str().to_owned(),
            settings.address.clone(),
            settings.founders.clone(),
            plan,
            keep,
        );
        Ok(Self {
            node_id,
            durable: settings.ground.is_durable(),
            settings,
            transport,
            identity,
            founding,
            journal,
            recovered: Mutex::new(Some(recovered)),
            consensus: Mutex::new(None),
            tasks: Tasks::new(),
            errands: Tasks::new(),
        })
    }

    async fn run(&self) -> Result<Arc<Node>, StartError> {
        let settings = &self.settings;
        let timing = settings.timing;
        let replica = Replica::new();
        let hub = Hub::new();
        let recovered = lock(&self.recovered).take().unwrap_or_default();
        let weak: std::sync::Weak<Hub> = Arc::downgrade(&hub);
        replica.listen(settings.ground.listener(weak));
        let (consensus, past) = Consensus::build(
            self.node_id,
            &timing,
            settings.ground.compaction(),
            self.transport.clone(),
            self.journal.clone(),
            recovered,
            replica.clone(),
        )
        .await
        .map_err(|error| StartError::Recover {
            dir: settings.ground.storage_name(),
            detail: error.to_string(),
        })?;
        *lock(&self.consensus) = Some(consensus.clone());

        let service = Service::new(self.founding.clone());
        self.transport.serve(service.clone());
        let plan =
            self.founding.settle(self.transport.as_ref(), settings.clock.as_ref(), past.has_log).await?;
        self.identity.send_modify(|identity| identity.cluster = Some(plan.cluster));

        let patience = timing.election_timeout_max * PATIENCE_ELECTIONS;
        let leader = Leader::new(
            consensus.clone(),
            replica.clone(),
            settings.clock.clone(),
            timing.clock_drift_max,
            patience,
            self.tasks.clone(),
        );
        let node = Arc::new(Node {
            holder: Holder { agent: settings.name.clone(), node: self.node_id },
            cluster: plan.cluster,
            address: settings.address.clone(),
            timing,
            clock: settings.clock.clone(),
            receiver: consensus.receiver(),
            router: Router {
                node: self.node_id,
                consensus: consensus.clone(),
                leader: leader.clone(),
                transport: self.transport.clone(),
                clock: settings.clock.clone(),
                patience,
            },
            consensus: consensus.clone(),
            replica,
            hub,
            leader,
            renewer: Renewer::new(settings.clock.clone()),
            transport: self.transport.clone(),
            journal: self.journal.clone(),
            durable: self.durable,
            tasks: self.tasks.clone(),
            errands: self.errands.clone(),
            stopped: watch::channel(None).0,
            closing: AtomicBool::new(false),
            stopping: Mutex::new(false),
            down: watch::channel(false).0,
        });
        // Whoever trusts openraft's own leader lease forgets this as well: the two belong together.
        if past.has_voted && !planted!(LeaseRead) {
            // Before it restarted, this node may have granted the leader lease of the leader of its term. It keeps
            // that promise, which it has forgotten, by being silent for as long as it can have been worth.
            runtime::sleep(timing.clock_drift_max.lengthen(timing.election_timeout_max)).await;
        }
        consensus.run();
        service.open(node.clone());
        if plan.former == self.node_id && !consensus.is_founded().await.map_err(|_| StartError::Stopped)? {
            tracing::info!(cluster = %plan.cluster, members = plan.members.len(), "forming the cluster");
            consensus.found(plan.members.clone()).await.map_err(|_| StartError::Stopped)?;
        }
        node.start(&plan);
        if let runtime::Either::Second(reason) = runtime::select2(node.ready(), node.until_stopped()).await {
            return Err(StartError::SteppedDown { reason });
        }
        let listening = self.transport.address().unwrap_or_default();
        tracing::info!(agent = %settings.name, node = %self.node_id, cluster = %plan.cluster, listening, "ready");
        Ok(node)
    }

    async fn undo(&self) {
        self.tasks.stop();
        self.errands.stop();
        self.transport.shutdown().await;
        let consensus = lock(&self.consensus).take();
        if let Some(consensus) = consensus {
            consensus.shutdown().await;
        }
        if let Err(error) = self.journal.close().await {
            tracing::debug!(%error, "the storage of an agent that did not start was not closed cleanly");
        }
        self.tasks.ended().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
