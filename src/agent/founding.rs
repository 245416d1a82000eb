//! Founding: how agents that know only each other's addresses become one cluster, once.
//!
//! Every founder has the same list of addresses. The founder whose address is the smallest of the list *forms* the
//! cluster; the others wait for it.
//!
//! 1. All greet all, until each has seen every other one with the same list.
//! 2. The former draws a cluster id, writes down the plan (all node ids and addresses), and asks each founder to
//!    promise itself to it. A founder writes the promise down before it answers, and promises to at most one plan in
//!    the life of its data directory.
//! 3. With all promises, the former makes the plan the first log entry. The others get it by replication.
//!
//! A founder that comes back without what it had greets the others, finds that they are promised to a plan without it, and
//! joins their cluster as a new member, if one of them shows that it was formed. It promises nothing any more.
//!
//! *Why there can't be two clusters:* a cluster needs the promise of every founder of its list, a founder gives one.
//! Two lists that share a founder therefore make at most one cluster, and the greeting says so by name. If the
//! former dies after some have promised, it goes on with the same plan when it restarts with its data directory. If
//! it lost the directory, no cluster exists, and none can come of the old promises; the error says what to do.
//!
//! *What nothing can prevent:* founders that have *all* lost what they had found a cluster anew, also where others, who
//! joined later, go on with the old one: they ask nobody but each other. So a founding is for the first start;
//! [`Builder::founders`](super::Builder::founders) says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    clock::{self, Clock},
    codec,
    error::StartError,
    fault_point::fault_point,
    id::{ClusterId, NodeId},
    message::FOUND,
    raft::Member,
    runtime::{self, watch},
    storage::StorageError,
    time::Moment,
    transport::{Lane, Peer, Transport},
};

/// A founder, and whoever joins, asks again after so long.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(150));
/// How long one question may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long a founder that is about to give up still answers.
const LINGER: Duration = Duration::from_millis(300);
/// How often is told who is still missing.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// The plan that a founder promises itself to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The cluster that is to be.
    pub(crate) cluster: ClusterId,
    /// The founding time, in milliseconds since 1970: the floor of its tokens.
    pub(crate) unix_ms: u64,
    /// Who forms it.
    pub(crate) former: NodeId,
    /// All members, all voters.
    pub(crate) members: BTreeMap<NodeId, Member>,
}

/// What founders ask each other. Part of the wire format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Question {
    /// Here I am, with this list.
    Greet {
        /// The asker's list, sorted.
        founders: Vec<String>,
        /// The asker.
        node: NodeId,
    },
    /// Promise yourself to this plan.
    Promise(Plan),
}

/// What they answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// To `Greet`: the same list.
    Greeting {
        /// The answering founder.
        node: NodeId,
        /// Its agent's name.
        agent: String,
        /// What it has promised itself to, if anything.
        promised: Option<ClusterId>,
        /// Whether the asker is a member of that.
        with_you: bool,
    },
    /// To `Greet`: another list.
    OtherList {
        /// The answering founder's list.
        founders: Vec<String>,
    },
    /// To `Promise`: written down.
    Promised,
    /// To `Promise`: promised to another plan before.
    PromisedElsewhere {
        /// That plan's cluster.
        cluster: ClusterId,
    },
    /// To `Promise`: the promise could not be written down.
    CannotPromise {
        /// Why.
        detail: String,
    },
    /// To `Promise`: the plan has another node at this founder's address.
    NotInPlan {
        /// The answering founder.
        node: NodeId,
    },
}

/// Writes down which cluster this member belongs to, durably where there is a data directory, and the founding that it
/// has promised itself to, if it has founded it.
pub(crate) type Keep = Box<dyn Fn(ClusterId, Option<&Plan>) -> Result<(), StorageError> + Send + Sync>;

/// One founder's part.
pub(crate) struct Founding {
    node: NodeId,
    agent: String,
    address: String,
    /// Sorted; contains `address`.
    founders: Vec<String>,
    keep: Keep,
    /// The cluster that this agent joins or has joined, without founding it. The lock is held while it, or a promise, is
    /// written down.
    joined: Mutex<Option<ClusterId>>,
    plan: watch::Sender<Option<Plan>>,
    /// A list that differs from ours, and who has it.
    disagreement: watch::Sender<Option<(String, Vec<String>)>>,
}

impl Founding {
    pub(crate) fn new(
        node: NodeId,
        agent: String,
        address: String,
        mut founders: Vec<String>,
        promised: Option<Plan>,
        joined: Option<ClusterId>,
        keep: Keep,
    ) -> Arc<Self> {
        founders.sort();
        Arc::new(Self {
            node,
            agent,
            address,
            founders,
            keep,
            joined: Mutex::new(joined),
            plan: watch::channel(promised).0,
            disagreement: watch::channel(None).0,
        })
    }

    /// The plan that this founder has promised itself to.
    pub(crate) fn plan(&self) -> Option<Plan> {
        self.plan.borrow().clone()
    }

    /// Answers another founder. Blocks while a promise is written down.
    pub(crate) fn answer(&self, question: Question, from: &str) -> Reply {
        match question {
            // One that joins founds nothing: it says which cluster it belongs to, as soon as it does.
            Question::Greet { founders, .. } if founders != self.founders && !self.knows_of_a_cluster() => {
                if self.plan.borrow().is_none() {
                    self.disagreement.send_replace(Some((from.to_owned(), founders)));
                }
                Reply::OtherList { founders: self.founders.clone() }
            }
            Question::Greet { node, .. } => {
                // Under the lock: a cluster that is about to be joined counts.
                let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
                let plan = self.plan();
                Reply::Greeting {
                    node: self.node,
                    agent: self.agent.clone(),
                    promised: plan.as_ref().map(|plan| plan.cluster).or(*joined),
                    with_you: plan.is_some_and(|plan| plan.members.contains_key(&node)),
                }
            }
            Question::Promise(plan) => match self.promise(plan) {
                Ok(()) => Reply::Promised,
                Err(PromiseError::Elsewhere(cluster)) => Reply::PromisedElsewhere { cluster },
                Err(PromiseError::Storage(error)) => Reply::CannotPromise { detail: error.to_string() },
                Err(PromiseError::NotInPlan) => Reply::NotInPlan { node: self.node },
            },
        }
    }

    fn promise(&self, plan: Plan) -> Result<(), PromiseError> {
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = *joined {
            return Err(PromiseError::Elsewhere(cluster));
        }
        match self.plan() {
            Some(old) if old == plan => return Ok(()),
            Some(old) => return Err(PromiseError::Elsewhere(old.cluster)),
            None => {}
        }
        // A founder that lost its directory, or its memory, is another node: it can't keep the old one's promise.
        if plan.members.get(&self.node).is_none_or(|member| member.addr != self.address) {
            return Err(PromiseError::NotInPlan);
        }
        (self.keep)(plan.cluster, Some(&plan)).map_err(PromiseError::Storage)?;
        self.plan.send_replace(Some(plan));
        Ok(())
    }

    /// This agent joins a cluster that is there: it is written down, and no founding is promised any more. Blocks.
    ///
    /// # Errors
    /// When it has promised itself to a founding meanwhile: a promise is kept.
    pub(crate) fn belong(&self, cluster: ClusterId) -> Result<(), StartError> {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = self.plan() {
            return Err(StartError::AlreadyFounded { by: self.address.clone(), cluster: plan.cluster });
        }
        if *joined != Some(cluster) {
            (self.keep)(cluster, None)?;
            *joined = Some(cluster);
        }
        Ok(())
    }

    /// Whether it has no founders' list of its own, and belongs to a cluster.
    fn knows_of_a_cluster(&self) -> bool {
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        self.founders.is_empty() && (joined.is_some() || self.plan.borrow().is_some())
    }

    fn is_former(&self) -> bool {
        self.founders.first() == Some(&self.address)
    }

    fn others(&self) -> impl Iterator<Item = &String> {
        self.founders.iter().filter(|address| **address != self.address)
    }

    async fn ask(&self, transport: &dyn Transport, address: &str, question: &Question) -> Option<Reply> {
        let peer = Peer { address: address.to_owned(), node: None };
        let payload = Bytes::from(codec::encode(question));
        fault_point!(BeforeFoundingRequest);
        let answered = transport.call(&peer, Lane::Request, FOUND, payload, PATIENCE).await;
        fault_point!(AfterFoundingRequest);
        match answered {
            Ok(reply) => match codec::decode(&reply) {
                Ok(reply) => Some(reply),
                Err(error) => {
                    tracing::warn!(address, %error, "a founder's answer is unreadable");
                    None
                }
            },
            Err(error) => {
                tracing::debug!(address, %error, "a founder does not answer yet");
                None
            }
        }
    }

    /// Takes part until this founder has promised itself to a plan, and returns it; on the former, all have.
    ///
    /// `has_log` says that this member's log has entries: then the cluster was formed long ago, with all promises, and
    /// the others, who may be down now, are not asked again.
    ///
    /// # Errors
    /// When lists disagree, also with the one for which this founder drew a plan before; when another founder belongs to another plan, when the promise can't be written down.
    pub(crate) async fn settle(
        &self,
        transport: &dyn Transport,
        clock: &dyn Clock,
        has_log: bool,
    ) -> Result<Plan, StartError> {
        if let Some(plan) = self.plan().filter(|_| has_log) {
            return Ok(plan);
        }
        if let Some(plan) = self.plan().filter(|plan| plan.former == self.node) {
            // It would ask others than those that it was drawn for.
            let mut drawn_for: Vec<String> =
                plan.members.values().map(|member| member.addr.clone()).collect();
            drawn_for.sort();
            // Who joins has no list.
            if !self.founders.is_empty() && drawn_for != self.founders {
                return Err(self.disagree("its own data directory".to_owned(), drawn_for));
            }
        }
        let mut disagreement = self.disagreement.subscribe();
        let contradicted = async {
            match disagreement.wait_for(Option::is_some).await {
                Ok(found) => found.clone(),
                Err(_) => None,
            }
        };
        match runtime::select2(self.take_part(transport, clock), contradicted).await {
            runtime::Either::First(plan) => plan,
            runtime::Either::Second(Some((from, theirs))) => {
                // The other founder is to hear of it too: our answer is on its way, and stopping would take it back.
                runtime::sleep(LINGER).await;
                Err(self.disagree(from, theirs))
            }
            runtime::Either::Second(None) => Err(StartError::Stopped),
        }
    }

    fn disagree(&self, from: String, theirs: Vec<String>) -> StartError {
        StartError::FoundersDisagree { from, ours: self.founders.clone(), theirs }
    }

    async fn take_part(&self, transport: &dyn Transport, clock: &dyn Clock) -> Result<Plan, StartError> {
        let mut report = Report::new(clock);
        let mut plan_changes = self.plan.subscribe();
        let plan = match self.plan() {
            Some(plan) => plan,
            None => {
                let greeted = self.greet_all(transport, clock, &mut report);
                let promised =
                    async { plan_changes.wait_for(Option::is_some).await.ok().and_then(|plan| plan.clone()) };
                match runtime::select2(promised, greeted).await {
                    runtime::Either::First(Some(plan)) => plan,
                    runtime::Either::First(None) => return Err(StartError::Stopped),
                    runtime::Either::Second(Err(error)) => return Err(error),
                    runtime::Either::Second(Ok(members)) if self.is_former() => {
                        fault_point!(BeforePromise);
                        let plan = self.draw(members)?;
                        fault_point!(AfterPromise);
                        plan
                    }
                    runtime::Either::Second(Ok(_)) => self.wait_for_former(clock, &mut report).await?,
                }
            }
        };
        if plan.former == self.node {
            self.collect(transport, clock, &mut report, &plan).await?;
        }
        Ok(plan)
    }

    /// Step 1. Returns the members once every founder has greeted.
    async fn greet_all(
        &self,
        transport: &dyn Transport,
        clock: &dyn Clock,
        report: &mut Report,
    ) -> Result<BTreeMap<NodeId, Member>, StartError> {
        let mut members = BTreeMap::from([(self.node, self.member(self.agent.clone(), &self.address))]);
        let mut missing: BTreeSet<String> = self.others().cloned().collect();
        let greeting = Question::Greet { founders: self.founders.clone(), node: self.node };
        loop {
            for address in missing.clone() {
                match self.ask(transport, &address, &greeting).await {
                    Some(Reply::Greeting { node, agent, promised, with_you }) => {
                        if let Some(cluster) = promised.filter(|_| !with_you) {
                            return Err(StartError::AlreadyFounded { by: address, cluster });
                        }
                        missing.remove(&address);
                        if members.insert(node, self.member(agent, &address)).is_some() {
                            return Err(StartError::SameNode { node, address });
                        }
                    }
                    // It joins, and does not belong to a cluster yet.
                    Some(Reply::OtherList { founders }) if founders.is_empty() => {}
                    Some(Reply::OtherList { founders }) => return Err(self.disagree(address, founders)),
                    _ => {}
                }
            }
            if missing.is_empty() {
                return Ok(members);
            }
            report.say(clock, "waiting for founders", missing.iter().cloned());
            runtime::sleep(runtime::random_between(PAUSE.0, PAUSE.1)).await;
        }
    }

    fn member(&self, agent: String, address: &str) -> Member {
        Member { agent, addr: address.to_owned(), observer: false }
    }

    /// Step 2, on the former: the plan, written down before anyone is asked.
    fn draw(&self, members: BTreeMap<NodeId, Member>) -> Result<Plan, StartError> {
        let plan = Plan {
            cluster: ClusterId::of_founding(runtime::random_u128()),
            unix_ms: clock::wall_unix_ms(),
            former: self.node,
            members,
        };
        match self.promise(plan.clone()) {
            Ok(()) => Ok(plan),
            Err(PromiseError::Storage(error)) => Err(error.into()),
            Err(PromiseError::Elsewhere(cluster)) => {
                Err(StartError::AlreadyFounded { by: self.address.clone(), cluster })
            }
            Err(PromiseError::NotInPlan) => {
                Err(StartError::SameNode { node: self.node, address: self.address.clone() })
            }
        }
    }

    async fn wait_for_former(&self, clock: &dyn Clock, report: &mut Report) -> Result<Plan, StartError> {
        let former: BTreeSet<String> = self.founders.first().cloned().into_iter().collect();
        let mut changes = self.plan.subscribe();
        loop {
            let promised = changes.wait_for(Option::is_some);
            match runtime::timeout(REPORT_EVERY, promised).await {
                Ok(Ok(plan)) => return plan.clone().ok_or(StartError::Stopped),
                Ok(Err(_)) => return Err(StartError::Stopped),
                Err(runtime::TimedOut) => {
                    report.say(clock, "waiting for the founder that forms the cluster", former.clone())
                }
            }
        }
    }

    /// Step 2, on the former: everyone's promise.
    async fn collect(
        &self,
        transport: &dyn Transport,
        clock: &dyn Clock,
        report: &mut Report,
        plan: &Plan,
    ) -> Result<(), StartError> {
        let others = plan.members.iter().filter(|(node, _)| **node != self.node);
        let mut missing: BTreeSet<String> = others.map(|(_, member)| member.addr.clone()).collect();
        loop {
            for address in missing.clone() {
                match self.ask(transport, &address, &Question::Promise(plan.clone())).await {
                    Some(Reply::Promised) => {
                        missing.remove(&address);
                    }
                    Some(Reply::PromisedElsewhere { cluster }) => {
                        return Err(StartError::AlreadyFounded { by: address, cluster });
                    }
                    Some(Reply::NotInPlan { node }) => {
                        return Err(StartError::FounderChanged { address, node, cluster: plan.cluster });
                    }
                    Some(Reply::CannotPromise { detail }) => {
                        tracing::warn!(address, detail, "a founder can't write its promise down");
                    }
                    _ => {}
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            report.say(clock, "waiting for promises of founders", missing.iter().cloned());
            runtime::sleep(runtime::random_between(PAUSE.0, PAUSE.1)).await;
        }
    }
}

enum PromiseError {
    Elsewhere(ClusterId),
    NotInPlan,
    Storage(StorageError),
}

/// Who was asked, and what came of it, for a [`Report`].
pub(super) fn answer((address, why): (&String, &String)) -> String {
    format!("{address}: {why}")
}

/// Tells now and then what is waited for.
pub(super) struct Report {
    last: Moment,
}

impl Report {
    pub(super) fn new(clock: &dyn Clock) -> Self {
        Self { last: clock.now() }
    }

    pub(super) fn say(&mut self, clock: &dyn Clock, what: &str, who: impl IntoIterator<Item = String>) {
        let now = clock.now();
        if now.since(self.last) >= REPORT_EVERY {
            self.last = now;
            let who: Vec<String> = who.into_iter().collect();
            tracing::info!(?who, "{what}");
        }
    }
}
