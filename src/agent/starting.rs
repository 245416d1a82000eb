//! An agent on its way up: from settings without a fault to a node that serves, and back again where that fails.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use super::{
    care::{self, Caretaker},
    founding::{Founding, PATIENCE, PAUSE, Plan, Report, answer},
    ground::{Ground, Opened},
    hub::Hub,
    leader::Leader,
    node::Node,
    route::Router,
    serve::Service,
};
use crate::{
    clock::Clock,
    config::Timing,
    error::StartError,
    flaw::planted,
    id::{ClusterId, NodeId},
    lease::{Renewer, ask_once},
    message::{Request, Response},
    name::AgentName,
    plan::Care,
    raft::{Consensus, Member},
    replica::Replica,
    runtime::{self, watch},
    storage::{Journal, Recovered},
    table::Holder,
    tasks::Tasks,
    token::Token,
    transport::{Identity, Role, Transport},
};

/// An expiry, or one attempt at a request, may take so many of the longest election timeouts.
const PATIENCE_ELECTIONS: u32 = 2;

/// Undoes a start whose future was dropped.
pub(super) struct Armed(pub(super) Option<Arc<Starting>>);

impl Drop for Armed {
    fn drop(&mut self) {
        if let Some(starting) = self.0.take() {
            let tasks = starting.tasks.clone();
            tasks.spawn_apart(async move { starting.undo().await });
        }
    }
}

/// Settings without a fault.
pub(super) struct Checked {
    pub(super) name: AgentName,
    pub(super) listen: String,
    pub(super) address: String,
    pub(super) origin: Origin,
    pub(super) observer: bool,
    pub(super) care: Care,
    pub(super) fixed_membership: bool,
    pub(super) timing: Timing,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ground: Ground,
}

/// How an agent comes to its cluster; addresses.
pub(super) enum Origin {
    /// It forms it with these, itself among them.
    Founders(Vec<String>),
    /// It joins these.
    Join(Vec<String>),
}

/// An agent on its way up: what must be undone if it doesn't get there.
pub(super) struct Starting {
    settings: Checked,
    node_id: NodeId,
    durable: bool,
    transport: Arc<dyn Transport>,
    identity: watch::Sender<Identity>,
    founding: Arc<Founding>,
    journal: Arc<dyn Journal>,
    recovered: Mutex<Option<Recovered>>,
    consensus: Mutex<Option<Consensus>>,
    /// What those who were asked for a cluster to join have answered.
    asked: Mutex<BTreeMap<String, String>>,
    pub(super) tasks: Tasks,
    errands: Tasks,
}

impl Starting {
    /// Takes the port and opens the storage: what can fail at once does.
    pub(super) async fn new(settings: Checked) -> Result<Self, StartError> {
        let (identity, identity_changes) = watch::channel(Identity {
            cluster: None,
            node: None,
            role: Role::Member,
            agent: settings.name.clone(),
        });
        let transport = settings.ground.bind(&settings.listen, identity_changes).await?;
        let Opened { node_id, plan, cluster, keep, journal, recovered } =
            match settings.ground.open(&settings.name).await {
                Ok(opened) => opened,
                Err(error) => {
                    transport.shutdown().await;
                    return Err(error);
                }
            };
        identity.send_modify(|identity| {
            identity.node = Some(node_id);
            identity.cluster = cluster;
        });
        let joined = cluster.filter(|_| plan.is_none());
        let founding = Founding::new(
            node_id,
            settings.name.as_str().to_owned(),
            settings.address.clone(),
            match &settings.origin {
                Origin::Founders(founders) => founders.clone(),
                Origin::Join(_) => Vec::new(),
            },
            plan,
            joined,
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
            asked: Mutex::default(),
            tasks: Tasks::new(),
            errands: Tasks::new(),
        })
    }

    pub(super) async fn run(&self) -> Result<Arc<Node>, StartError> {
        let settings = &self.settings;
        let timing = settings.timing;
        let replica = Replica::new();
        let hub = Hub::new();
        let recovered = lock(&self.recovered).take().unwrap_or_default();
        let weak: std::sync::Weak<Hub> = Arc::downgrade(&hub);
        replica.listen(weak);
        #[cfg(feature = "chaos")]
        if let Some(onlooker) = &settings.ground.onlooker {
            replica.show(onlooker.clone());
        }
        let (consensus, past) = Consensus::build(
            self.node_id,
            &timing,
            settings.ground.compaction(),
            self.transport.clone(),
            (self.journal.clone(), recovered),
            replica.clone(),
            self.tasks.clone(),
        )
        .await
        .map_err(|error| StartError::Recover {
            dir: settings.ground.storage_name(),
            detail: error.to_string(),
        })?;
        *lock(&self.consensus) = Some(consensus.clone());

        let service = Service::new(self.founding.clone());
        self.transport.serve(service.clone());
        let (cluster, plan) = self.belong(past.has_log).await?;
        self.identity.send_modify(|identity| identity.cluster = Some(cluster));

        let patience = timing.election_timeout_max * PATIENCE_ELECTIONS;
        let leader = Leader::new(
            consensus.clone(),
            replica.clone(),
            settings.clock.clone(),
            timing.clock_drift_max,
            patience,
            settings.ground.quotas,
            self.tasks.clone(),
        );
        let caretaker = Caretaker::new(
            self.node_id,
            consensus.clone(),
            leader.clone(),
            settings.clock.clone(),
            timing,
            settings.care,
            settings.fixed_membership,
            self.tasks.clone(),
        );
        let (Origin::Founders(known) | Origin::Join(known)) = &settings.origin;
        let node = Arc::new(Node {
            holder: Holder { agent: settings.name.clone(), node: self.node_id },
            cluster,
            member: Member {
                agent: settings.name.as_str().to_owned(),
                addr: settings.address.clone(),
                observer: settings.observer,
            },
            known: known.clone(),
            is_founder: plan.is_some(),
            timing,
            clock: settings.clock.clone(),
            receiver: consensus.receiver(),
            router: Router {
                node: self.node_id,
                consensus: consensus.clone(),
                leader: leader.clone(),
                caretaker: caretaker.clone(),
                transport: self.transport.clone(),
                clock: settings.clock.clone(),
                patience,
            },
            consensus: consensus.clone(),
            replica,
            hub,
            leader,
            caretaker,
            renewer: Renewer::new(settings.clock.clone()),
            transport: self.transport.clone(),
            journal: self.journal.clone(),
            durable: self.durable,
            tasks: self.tasks.clone(),
            errands: self.errands.clone(),
            stopped: watch::channel(None).0,
            closing: AtomicBool::new(false),
            left: AtomicBool::new(false),
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
        if let Some(plan) = plan.as_ref().filter(|plan| plan.former == self.node_id)
            && !consensus.is_founded().await.map_err(|_| StartError::Stopped)?
        {
            tracing::info!(%cluster, members = plan.members.len(), "forming the cluster");
            consensus.found(plan.members.clone()).await.map_err(|_| StartError::Stopped)?;
        }
        node.start(plan.map(|plan| Token::floor_of_founding(plan.unix_ms)));
        let placed = async {
            // Who joins a fixed membership hears of it.
            if !settings.fixed_membership || !node.is_founder {
                node.take_place().await.map_err(|detail| StartError::NotListed { cluster, detail })?;
            }
            if settings.fixed_membership {
                node.ready().await;
            } else {
                // It may lose its place again before it knows who leads.
                runtime::select2(node.ready(), node.clone().keep_place()).await;
            }
            Ok::<(), StartError>(())
        };
        match runtime::select2(placed, node.until_stopped()).await {
            runtime::Either::First(placed) => placed?,
            runtime::Either::Second(reason) => return Err(StartError::SteppedDown { reason }),
        }
        if !settings.fixed_membership {
            self.tasks.spawn(node.clone().keep_place());
            self.tasks.spawn(node.caretaker.clone().attend());
        }
        let listening = self.transport.address().unwrap_or_default();
        tracing::info!(agent = %settings.name, node = %self.node_id, %cluster, listening, "ready");
        Ok(node)
    }

    /// The cluster that this agent belongs to, written down; and its founding, if it has promised itself to one.
    async fn belong(&self, has_log: bool) -> Result<(ClusterId, Option<Plan>), StartError> {
        let settings = &self.settings;
        let known = self.identity.borrow().cluster.filter(|_| self.founding.plan().is_none());
        if let Some(cluster) = known {
            return Ok((cluster, None));
        }
        let (addresses, expected) = match &settings.origin {
            Origin::Join(addresses) => match self.founding.plan() {
                // It has founded its cluster, and is told now where others of it are.
                Some(plan) if has_log || plan.former != self.node_id => {
                    return Ok((plan.cluster, Some(plan)));
                }
                // Drawn, and perhaps not promised by all: it is gone on with, not skipped.
                Some(_) => {
                    let (transport, clock) = (self.transport.as_ref(), settings.clock.as_ref());
                    let plan = self.founding.settle(transport, clock, has_log).await?;
                    return Ok((plan.cluster, Some(plan)));
                }
                None => (addresses, None),
            },
            Origin::Founders(founders) => {
                let clock = settings.clock.as_ref();
                match self.founding.settle(self.transport.as_ref(), clock, has_log).await {
                    Ok(plan) => return Ok((plan.cluster, Some(plan))),
                    // The same list, and the founding is over: this founder has lost what it had, or keeps nothing.
                    Err(StartError::AlreadyFounded { by, cluster })
                        if !settings.fixed_membership && self.founding.plan().is_none() =>
                    {
                        tracing::warn!(
                            by,
                            %cluster,
                            "the cluster is founded already, without this agent as it starts now: it joins as a new member"
                        );
                        (founders, Some(cluster))
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let cluster = self.find_cluster(addresses, expected).await?;
        let founding = self.founding.clone();
        let written = runtime::spawn_blocking(move || founding.belong(cluster)).await;
        written.map_err(|_| StartError::Stopped)??;
        Ok((cluster, None))
    }

    /// Asks these until one says which cluster it belongs to.
    async fn find_cluster(
        &self,
        addresses: &[String],
        expected: Option<ClusterId>,
    ) -> Result<ClusterId, StartError> {
        let mut report = Report::new(self.settings.clock.as_ref());
        loop {
            for address in addresses.iter().filter(|address| **address != self.settings.address) {
                match ask_once(self.transport.as_ref(), address, &Request::Status, PATIENCE).await {
                    // A founder that is promised and no more has no members yet.
                    Response::Status(status)
                        if !status.members.is_empty() && expected.is_none_or(|id| id == status.cluster) =>
                    {
                        if let Some(detail) = care::differing(&self.settings.timing, &status.timing) {
                            return Err(StartError::TimingDiffers { at: address.clone(), detail });
                        }
                        return Ok(status.cluster);
                    }
                    other => {
                        tracing::debug!(address, ?other, "not the cluster to join, or no answer yet");
                        let why = match other {
                            Response::Failed(failure) => failure.to_string(),
                            _ => "not the cluster to join".to_owned(),
                        };
                        lock(&self.asked).insert(address.clone(), why);
                    }
                }
            }
            report.say(
                self.settings.clock.as_ref(),
                match expected {
                    None => "waiting for a member of the cluster to join",
                    Some(_) => {
                        "waiting for the cluster to show that it was formed; if it never was, stop its founders, delete \
                         their data directories, and start them anew"
                    }
                },
                lock(&self.asked).iter().map(answer),
            );
            runtime::sleep(runtime::random_between(PAUSE.0, PAUSE.1)).await;
        }
    }

    /// What the start is waiting for, as far as that is known.
    pub(super) fn waiting_for(&self) -> String {
        let asked = lock(&self.asked);
        if asked.is_empty() {
            return "the others did not answer, or have no leader".to_owned();
        }
        let answers: Vec<String> = asked.iter().map(answer).collect();
        format!("a member of the cluster to join; {}", answers.join("; "))
    }

    pub(super) async fn undo(&self) {
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
