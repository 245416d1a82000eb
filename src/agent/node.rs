//! The embedded node: everything that runs, wired together. [`Agent`](super::Agent) is the user's handle to it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use super::{care::Caretaker, hub::Hub, leader::Leader, route::Router, watching};
use crate::{
    clock::{self, Clock},
    config::Timing,
    holder::NameReport,
    id::{ClusterId, LeaseId},
    lease::{Answered, Renewer, Requester},
    limits::{PAGE_MAX, RENEW_MAX},
    message::{Failure, MemberRole, MemberStatus, Request, Response, StatusReport},
    name::Name,
    raft::{Consensus, Member, Receiver},
    replica::Replica,
    runtime::{self, Either, watch},
    session::LossReason,
    storage::Journal,
    table::{Command, Entry, HeldBy, Holder},
    tasks::Tasks,
    time::Moment,
    token::Token,
    transport::Transport,
};

/// How long a stopping agent gives back its leases, at most.
const GIVE_BACK_AT_MOST: Duration = Duration::from_secs(2);

/// See the file's head.
pub(crate) struct Node {
    pub(crate) holder: Holder,
    pub(crate) cluster: ClusterId,
    /// As the membership should have it.
    pub(crate) member: Member,
    pub(crate) timing: Timing,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) consensus: Consensus,
    pub(crate) receiver: Receiver,
    pub(crate) replica: Arc<Replica>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) leader: Arc<Leader>,
    pub(crate) router: Router,
    pub(crate) caretaker: Arc<Caretaker>,
    /// Addresses of other agents, as they were given.
    pub(crate) known: Vec<String>,
    /// Whether the cluster's founding lists it.
    pub(crate) is_founder: bool,
    pub(crate) renewer: Arc<Renewer>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) durable: bool,
    pub(crate) tasks: Tasks,
    /// What leases have begun in the background: renewals, releases, cancellations. They may end before the node does.
    pub(crate) errands: Tasks,
    /// Why the node has stopped, once it has.
    pub(crate) stopped: watch::Sender<Option<String>>,
    /// Nothing new is acquired: it is about to stop.
    pub(crate) closing: AtomicBool,
    /// It is no member any more, by its own will.
    pub(crate) left: AtomicBool,
    /// Whoever stops the node first does it; the others wait.
    pub(crate) stopping: Mutex<bool>,
    /// Everything is stopped, the port and the directory are free.
    pub(crate) down: watch::Sender<bool>,
}

/// Says at its end that the node is down, also where its runtime has ended and the task is never run.
struct Stopping(Arc<Node>);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.down.send_replace(true);
    }
}

impl Node {
    /// Starts the node's tasks. The consensus runs already.
    pub(crate) fn start(self: &Arc<Self>, tokens_above: Option<Token>) {
        self.hub.attach(self.leader.clone(), self.renewer.clone());
        self.tasks.spawn(self.leader.clone().keep_time());
        self.tasks.spawn(self.renewer.clone().run(self.clone()));
        self.tasks.spawn(self.clone().follow_leadership(tokens_above));
    }

    /// Hears who leads, and tells the leader's part.
    ///
    /// `tokens_above`: where the tokens begin, if this node founds the cluster. One that joins has a founding in its log
    /// before it can ever lead: nobody joins before a leader has applied it.
    async fn follow_leadership(self: Arc<Self>, tokens_above: Option<Token>) {
        let mut watch = self.consensus.watch();
        let mut told: Option<(u64, bool)> = None;
        loop {
            let now = watch.now();
            if told != Some((now.term, now.leading)) {
                told = Some((now.term, now.leading));
                #[cfg(feature = "metrics")]
                crate::metrics::leadership(&self.holder.agent, now.leading, now.term);
                tracing::debug!(term = now.term, leading = now.leading, leader = ?now.leader, "leadership");
            }
            self.leader.lead(now.leading.then_some(now.term));
            // The first leader of the cluster's life says where its tokens begin. Saying it twice is harmless.
            if self.leader.ready_in() == Some(now.term)
                && !self.replica.read().table().is_founded()
                && let Some(tokens_above) = tokens_above
            {
                // A plan may wait for its founders for long, and another cluster may have granted meanwhile.
                let wall_unix_ms = clock::wall_unix_ms();
                let tokens_above = tokens_above.max(Token::floor_of_founding(wall_unix_ms));
                let entry = Entry { wall_unix_ms, command: Command::Found { tokens_above } };
                if let Err(error) = self.consensus.propose_in(now.term, entry).await {
                    tracing::warn!(%error, "the founding could not be committed yet");
                    runtime::sleep(self.timing.heartbeat).await;
                }
                continue;
            }
            let gone = match runtime::select2(watch.changed(), self.leader.may_be_ready()).await {
                Either::First(changed) => changed.is_none(),
                Either::Second(()) => false,
            };
            if gone {
                // It says why before it goes.
                let reason = self.consensus.leadership().stopped;
                self.fail(reason.unwrap_or_else(|| "the consensus is gone".to_owned()));
                return;
            }
        }
    }

    /// The node can't go on: what it held is lost, and nobody is answered any more.
    fn fail(&self, reason: String) {
        let reason = match self.journal.failed() {
            Some(detail) => format!("its storage failed: {detail}"),
            None => reason,
        };
        if !self.tasks.is_stopping() {
            tracing::error!(agent = %self.holder.agent, reason, "the agent has stepped down");
        }
        // First, so that nothing new is begun that would not be told.
        self.stop_answering(&reason);
        self.leader.lead(None);
        self.renewer.end_all(&LossReason::AgentStopped);
    }

    /// From now on every request is answered with this reason. The first reason stays.
    pub(super) fn stop_answering(&self, reason: &str) {
        self.stopped.send_if_modified(|stopped| {
            let first = stopped.is_none();
            stopped.get_or_insert_with(|| reason.to_owned());
            first
        });
    }

    /// Resolves when the node has stopped answering, with the reason. Cancel-safe.
    pub(crate) async fn until_stopped(&self) -> String {
        let mut stopped = self.stopped.subscribe();
        match stopped.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the agent is gone".to_owned(),
        }
    }

    /// Resolves when this agent serves: it has applied the founding, and knows a leader.
    pub(crate) async fn ready(&self) {
        loop {
            let index = {
                let reading = self.replica.read();
                if reading.table().is_founded() {
                    break;
                }
                reading.index()
            };
            self.replica.reach(index + 1).await;
        }
        let mut watch = self.consensus.watch();
        while watch.now().leader.is_none() && watch.changed().await.is_some() {}
    }

    /// Stops everything. Any number may call it; all wait until the port and the directory are free. Dropping the
    /// future changes nothing: a task of its own does it.
    pub(crate) async fn shut_down(self: &Arc<Self>) {
        let first =
            !std::mem::replace(&mut *self.stopping.lock().unwrap_or_else(PoisonError::into_inner), true);
        if first {
            let stopping = Stopping(self.clone());
            self.tasks.spawn_apart(async move { stopping.0.take_down().await });
        }
        let mut down = self.down.subscribe();
        // The sender lives as long as `self`.
        let _ = down.wait_for(|down| *down).await;
    }

    /// In the order in which the cluster notices least.
    async fn take_down(&self) {
        // Nothing new is acquired from here on; what is in hand ends, and is given back.
        self.closing.store(true, Ordering::Release);
        let held = self.renewer.end_all(&LossReason::AgentStopped);
        let _ = runtime::timeout(GIVE_BACK_AT_MOST, async {
            self.give_back(held).await;
            // The releases of leases that were dropped just now.
            self.errands.ended().await;
        })
        .await;
        self.errands.stop();
        if self.consensus.leadership().leading {
            self.consensus.hand_over(self.timing.election_timeout_max).await;
        }
        self.stop_answering("it was shut down");
        self.tasks.stop();
        self.leader.lead(None);
        // What was granted to a request that was under way.
        self.renewer.end_all(&LossReason::AgentStopped);
        self.transport.shutdown().await;
        self.consensus.shutdown().await;
        if let Err(error) = self.journal.close().await {
            tracing::warn!(%error, "the storage was not closed cleanly; nothing that was answered is lost");
        }
        self.errands.ended().await;
        self.tasks.ended().await;
    }

    pub(super) async fn give_back(&self, held: Vec<LeaseId>) {
        let releases = held.into_iter().map(|lease_id| async move {
            let request = Request::Release { lease_id };
            self.router.ask(&request, GIVE_BACK_AT_MOST).await
        });
        futures_util::future::join_all(releases).await;
    }

    /// A linearizable position: this replica has applied everything that was acknowledged before the call.
    pub(crate) async fn catch_up(&self, within: Duration) -> Result<(), Failure> {
        let began = self.clock.now();
        let index = match self.router.ask(&Request::ReadIndex, within).await.response {
            Response::ReadIndex(index) => index,
            Response::Failed(failure) => return Err(failure),
            other => {
                return Err(Failure::Unavailable(format!("an answer that fits no read index: {other:?}")));
            }
        };
        let left = within.saturating_sub(self.clock.now().since(began));
        runtime::timeout(left, self.replica.reach(index)).await.map_err(|runtime::TimedOut| {
            Failure::Unavailable(format!("this replica has not applied log index {index} within {within:?}"))
        })
    }

    /// A page of leases from this replica.
    pub(crate) fn page(
        &self,
        prefix: &str,
        after: Option<(&Name, Token)>,
        limit: usize,
    ) -> (Vec<(Name, HeldBy)>, bool) {
        let reading = self.replica.read();
        let limit = limit.clamp(1, PAGE_MAX);
        let mut leases: Vec<_> = reading
            .table()
            .leases(prefix, after)
            .take(limit + 1)
            .map(|view| (view.name.clone(), view.held_by()))
            .collect();
        let more = leases.len() > limit;
        leases.truncate(limit);
        (leases, more)
    }

    /// How this agent is.
    pub(crate) fn status(&self) -> StatusReport {
        let leadership = self.consensus.leadership();
        let members: Vec<MemberStatus> = self
            .consensus
            .membership()
            .members
            .into_iter()
            .map(|(node, (member, voter))| MemberStatus {
                node,
                agent: member.agent,
                addr: member.addr,
                voter,
            })
            .collect();
        let votes = members.iter().any(|member| member.node == self.holder.node && member.voter);
        let (applied, counts) = {
            let reading = self.replica.read();
            (reading.index(), reading.table().counts())
        };
        StatusReport {
            agent: self.holder.agent.clone(),
            node: self.holder.node,
            cluster: self.cluster,
            address: self.member.addr.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: MemberRole::of(leadership.leading, votes),
            term: leadership.term,
            leader: leadership.leader,
            applied,
            members,
            leases: counts.leases as u64,
            waiters: counts.waiters as u64,
            durable: self.durable,
            timing: self.timing,
            stopped: self.stopped.borrow().clone(),
        }
    }

    /// Answers what doesn't need the leader, or not alone.
    async fn answer_here(&self, request: &Request, within: Duration) -> Response {
        if let Some(reason) = self.stopped.borrow().clone().filter(|_| !matches!(request, Request::Status)) {
            return Response::Failed(Failure::Stopped(reason));
        }
        match request {
            Request::Await { lease_id, at_most_ms } => {
                let at_most = Duration::from_millis(*at_most_ms).min(within);
                let clock = self.clock.as_ref();
                Response::Standing(self.hub.await_turn(&self.replica, clock, *lease_id, at_most).await)
            }
            Request::Holder { name } => match self.catch_up(within).await {
                Ok(()) => {
                    let reading = self.replica.read();
                    Response::Holder(reading.table().holder(name).map(|view| view.held_by()))
                }
                Err(failure) => Response::Failed(failure),
            },
            Request::Inspect { name } => match self.catch_up(within).await {
                Ok(()) => {
                    let report = NameReport::of(self.replica.read().table(), name);
                    Response::Inspected(Box::new(report))
                }
                Err(failure) => Response::Failed(failure),
            },
            Request::Leases { prefix, after, limit } => match self.catch_up(within).await {
                Ok(()) => {
                    let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
                    let after = after.as_ref().map(|(name, token)| (name, *token));
                    let (leases, more) = self.page(prefix, after, limit);
                    Response::Leases { leases, more }
                }
                Err(failure) => Response::Failed(failure),
            },
            Request::Watch { filter, after, at_most_ms } => {
                let at_most = Duration::from_millis(*at_most_ms).min(within);
                let changes = watching::changes(self, filter, *after, at_most);
                match runtime::select2(changes, self.until_stopped()).await {
                    Either::First(changes) => Response::Changes(changes),
                    Either::Second(reason) => Response::Failed(Failure::Stopped(reason)),
                }
            }
            Request::Position => Response::ReadIndex(self.replica.read().index()),
            Request::Status => Response::Status(Box::new(self.status())),
            other => Response::Failed(Failure::Refused(format!("{other:?} needs the leader"))),
        }
    }

    /// Serves as the leader; `arrived` is the clock when the request arrived.
    pub(crate) async fn lead(&self, request: Request, arrived: Moment) -> Response {
        if let Request::Renew { leases } = &request
            && leases.len() > RENEW_MAX
        {
            let detail = format!("{} leases in one renewal, the most is {RENEW_MAX}; split it", leases.len());
            return Response::Failed(Failure::Refused(detail));
        }
        if let Some(reason) = self.stopped.borrow().clone() {
            return Response::Failed(Failure::Stopped(reason));
        }
        self.router.lead(request, arrived).await
    }
}

#[async_trait]
impl Requester for Node {
    fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn timing(&self) -> &Timing {
        &self.timing
    }

    fn holder(&self) -> &Holder {
        &self.holder
    }

    async fn seen(&self, _within: Duration) -> Result<u64, Failure> {
        match self.stopped.borrow().clone() {
            Some(reason) => Err(Failure::Stopped(reason)),
            None if self.closing.load(Ordering::Acquire) => {
                Err(Failure::Stopped("it is being shut down".to_owned()))
            }
            None => Ok(self.replica.read().index()),
        }
    }

    async fn ask(&self, request: &Request, within: Duration) -> Answered {
        if request.needs_leader() {
            match runtime::select2(self.router.ask(request, within), self.until_stopped()).await {
                Either::First(answered) => answered,
                Either::Second(reason) => {
                    Answered { response: Response::Failed(Failure::Stopped(reason)), repeated: true }
                }
            }
        } else {
            Answered { response: self.answer_here(request, within).await, repeated: false }
        }
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.errands.spawn(task);
    }

    fn spawn_while_open(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.tasks.spawn(task);
    }
}
