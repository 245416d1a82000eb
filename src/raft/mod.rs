//! Consensus: openraft's traits over storage, transport and table. It decides nothing about leases.
//!
//! Every openraft type stays in this folder. The rest of the crate sees [`Consensus`]: propose, confirm that this
//! node leads, see who leads.

mod forced;
#[cfg(feature = "test-support")]
pub(crate) mod fuzz;
#[cfg(test)]
mod goldens;
pub(crate) mod log;
pub(crate) mod machine;
mod membership;
pub(crate) mod network;
mod pace;
mod pipeline;
mod proposing;
#[cfg(feature = "chaos")]
mod seam;
mod settings;
#[cfg(test)]
mod tests;
mod types;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{
    Instant as _, ReadPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{ForwardToLeader, InitializeError, LinearizableReadError, RaftError},
};

pub(crate) use self::{
    forced::Remains,
    membership::{Change, Membership},
    network::{ReceiveError, Receiver},
    settings::Compaction,
    types::Member,
};
use self::{
    log::Log,
    machine::Machine,
    membership::AddressBook,
    network::Network,
    proposing::Proposing,
    types::{Handle, Metrics, Types},
};
use crate::{
    config::Timing,
    flaw::planted,
    id::NodeId,
    replica::Replica,
    runtime,
    storage::{Journal, Recovered},
    tasks::Tasks,
    transport::Transport,
};

/// So many voters are asked to take leadership over, one after the other.
const HEIRS_ASKED_MAX: u32 = 2;

/// This node's part in the consensus. Clones share it.
#[derive(Clone)]
pub(crate) struct Consensus {
    raft: Handle,
    log: Log,
    book: AddressBook,
    /// See [`led`](Self::led).
    led: Arc<AtomicU64>,
    /// How long an acknowledgement of a quorum counts.
    leader_lease: Duration,
    proposing: Proposing,
}

/// What a node finds of its earlier life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Past {
    /// It has taken part in an election, and may have granted a leader lease.
    pub(crate) has_voted: bool,
    /// Its log has, or had, entries: the cluster was formed.
    pub(crate) has_log: bool,
}

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leadership {
    /// The present term.
    pub(crate) term: u64,
    /// The leader of that term, if known.
    pub(crate) leader: Option<NodeId>,
    /// Whether this node leads the term.
    pub(crate) leading: bool,
    /// Why the node has stopped for good, if it has.
    pub(crate) stopped: Option<String>,
}

/// A proof that this node led `term` at some moment after the confirmation was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Confirmed {
    pub(crate) term: u64,
    /// Whoever has applied this index reads linearizably.
    pub(crate) read_index: u64,
}

/// Why a proposal or a confirmation got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConsensusError {
    /// Nothing happened: this node does not lead.
    #[error("this node does not lead")]
    NotLeader {
        /// Who may.
        leader: Option<NodeId>,
    },
    /// It may or may not be committed.
    #[error("it is unknown whether the entry was committed: {0}")]
    Unknown(String),
    /// The node has stopped for good.
    #[error("the node has stopped: {0}")]
    Stopped(String),
}

fn not_leader(forward: &ForwardToLeader<Types>) -> ConsensusError {
    ConsensusError::NotLeader { leader: forward.leader_id }
}

impl Consensus {
    /// Builds the node without starting it: it recovers its state and neither votes nor stands for election until
    /// [`run`](Self::run).
    pub(crate) async fn build(
        node: NodeId,
        timing: &Timing,
        compaction: Compaction,
        transport: Arc<dyn Transport>,
        (journal, recovered): (Arc<dyn Journal>, Recovered),
        replica: Arc<Replica>,
        tasks: Tasks,
    ) -> io::Result<(Self, Past)> {
        let config = settings::of(timing, compaction).map_err(io::Error::other)?;
        let log = Log::new(journal.clone(), recovered)?;
        let past = Past { has_voted: log.has_voted(), has_log: log.has_entries() };
        let machine = Machine::new(journal, replica);
        let book = AddressBook::default();
        let network = Network { transport, book: book.clone(), heartbeat: timing.heartbeat };
        let raft = openraft::Raft::build(node, Arc::new(config), network, log.clone(), machine)
            .await
            .map_err(io::Error::other)?;
        book.fill(raft.metrics());
        let (led, leader_lease) = (Arc::default(), timing.election_timeout_max);
        let proposing = Proposing::new(raft.clone(), &tasks);
        Ok((Self { raft, log, book, led, leader_lease, proposing }, past))
    }

    /// Starts it.
    pub(crate) fn run(&self) {
        self.raft.run();
    }

    /// What peers' messages are handed to.
    pub(crate) fn receiver(&self) -> Receiver {
        Receiver::new(self.raft.clone(), self.log.clone(), self.led.clone())
    }

    /// Forms the cluster, once, on one founder. True if it did, false if there is a cluster already.
    pub(crate) async fn found(&self, members: BTreeMap<NodeId, Member>) -> Result<bool, ConsensusError> {
        match self.raft.initialize(members).await {
            Ok(()) => Ok(true),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(false),
            Err(error) => Err(ConsensusError::Stopped(error.to_string())),
        }
    }

    /// Whether this node's log has a first entry.
    pub(crate) async fn is_founded(&self) -> Result<bool, ConsensusError> {
        self.raft.is_initialized().await.map_err(|error| ConsensusError::Stopped(error.to_string()))
    }

    /// Makes sure that this node still leads: a quorum acknowledged it *after* this call began.
    ///
    /// `ReadIndex`, never `LeaseRead`: a restarted follower forgets the leader lease it granted.
    pub(crate) async fn confirm(&self) -> Result<Confirmed, ConsensusError> {
        if planted!(ConfirmAlone) {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.state.is_leader() {
                let read_index = metrics.last_applied.as_ref().map_or(0, |id| id.index);
                return Ok(Confirmed { term: metrics.current_term, read_index });
            }
        }
        let policy = if planted!(LeaseRead) { ReadPolicy::LeaseRead } else { ReadPolicy::ReadIndex };
        match self.raft.get_read_linearizer(policy).await {
            Ok(linearizer) => {
                let read = linearizer.read_log_id();
                Ok(Confirmed { term: read.committed_leader_id().term, read_index: read.index() })
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(not_leader(&forward))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ConsensusError::NotLeader { leader: None })
            }
            Err(RaftError::Fatal(error)) => Err(ConsensusError::Stopped(error.to_string())),
        }
    }

    /// Who leads, now.
    pub(crate) fn leadership(&self) -> Leadership {
        of_metrics(&self.raft.metrics().borrow_watched())
    }

    /// Hears of changes of leadership. Made for one task.
    pub(crate) fn watch(&self) -> LeadershipWatch {
        LeadershipWatch::of(&self.raft)
    }

    /// How many messages of leaders were taken. It moves at every heartbeat while this node is a member in reach; that it
    /// knows a leader says less, for an observer never forgets the last one.
    pub(crate) fn led(&self) -> u64 {
        self.led.load(Ordering::Relaxed)
    }

    /// The address at which a member is reached.
    pub(crate) fn address_of(&self, node: NodeId) -> Option<String> {
        self.book.with(node, str::to_owned)
    }

    /// A member says that it is reached there, which the membership may not know yet.
    pub(crate) fn hear_of(&self, node: NodeId, address: &str) {
        self.book.hear(node, address);
    }

    /// Whether a quorum acknowledged a message that was *sent* within the last leader lease. A cut-off leader is told
    /// by openraft only after the cut heals; this tells it at once. False on a node that doesn't lead.
    pub(crate) fn quorum_is_fresh(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        // Whoever votes alone is its own quorum, and openraft notes no acknowledgement of its own.
        let mut voters = metrics.membership_config.membership().voter_ids();
        if voters.next() == Some(metrics.id) && voters.next().is_none() {
            return metrics.state.is_leader();
        }
        match metrics.last_quorum_acked {
            Some(acked) => acked.into_inner().elapsed() < self.leader_lease,
            None => false,
        }
    }

    /// Hands leadership to a voter that was heard a moment ago, to the one whose log is the furthest first, and waits at
    /// most `within` for one to take over. Where nobody was heard nobody is asked: who waits for a dead one to take over
    /// leads no more, and nobody else does.
    pub(crate) async fn hand_over(&self, within: Duration) {
        let (reached, _) = self.reached();
        let heirs = membership::heirs(&self.membership(), &reached, self.leader_lease);
        let each = within / u32::try_from(heirs.len()).unwrap_or(1).clamp(1, HEIRS_ASKED_MAX);
        for target in heirs.into_iter().take(HEIRS_ASKED_MAX as usize) {
            if self.raft.trigger().transfer_leader(target).await.is_err() {
                return;
            }
            let mut watch = self.watch();
            let gone = async {
                while watch.now().leading {
                    if watch.changed().await.is_none() {
                        return;
                    }
                }
            };
            if runtime::timeout(each, gone).await.is_ok() {
                return;
            }
            tracing::info!(%target, "leadership was not taken over in time");
        }
    }

    /// Stops the node.
    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not stop cleanly");
        }
    }
}

/// One task's view of who leads. It watches openraft's *server* metrics, which change with vote, state and leader; the
/// others change with every entry, and would wake this task a dozen times for each.
pub(crate) struct LeadershipWatch {
    server: openraft::type_config::alias::WatchReceiverOf<Types, openraft::metrics::RaftServerMetrics<Types>>,
}

/// Who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reign {
    /// The term of the last vote that is on disk.
    pub(crate) term: u64,
    /// The leader, if known.
    pub(crate) leader: Option<NodeId>,
    /// Whether this node leads.
    pub(crate) leading: bool,
}

impl LeadershipWatch {
    fn of(raft: &Handle) -> Self {
        Self { server: raft.server_metrics() }
    }

    /// As it is now.
    pub(crate) fn now(&self) -> Reign {
        let server = self.server.borrow_watched();
        Reign {
            term: server.vote.leader_id.term,
            leader: server.current_leader,
            leading: server.state.is_leader(),
        }
    }

    /// Waits for a change; `None` once the node is gone. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> Option<Reign> {
        self.server.changed().await.ok()?;
        Some(self.now())
    }
}

fn of_metrics(metrics: &Metrics) -> Leadership {
    Leadership {
        term: metrics.current_term,
        leader: metrics.current_leader,
        leading: metrics.state.is_leader() && metrics.running_state.is_ok(),
        stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
    }
}
