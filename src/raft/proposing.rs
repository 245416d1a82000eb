//! Proposing entries, so many at once.
//!
//! An entry is in the log as soon as it was proposed, whether its proposer still waits for it or not. Proposers who get no answer
//! in time ask again. So whatever slows commits down would make the log longer, and a longer log commits more slowly still: a
//! hundred thousand who asked for one name at once, again and again, had a million entries in it, and the followers never caught
//! up. Therefore an entry for a client takes a turn of [`PROPOSALS_UNDER_WAY_MAX`], and has it until it is decided: the turn
//! travels with the entry, through openraft ([`Responder`]), and no future that waits for an answer has any part in it. Where
//! no turn is left, the entry waits in a [`Backlog`], from which one task proposes. What a leader proposes of its own, expiries
//! above all, takes none.

use std::sync::Arc;

use futures_util::FutureExt as _;
use openraft::{OptionalSend, errors::ClientWriteError, raft::ClientWriteResult};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    task::unconstrained,
};

use super::{
    Consensus, ConsensusError, LeadershipWatch, not_leader,
    types::{self, Answer, Handle, Proposal, Types},
};
use crate::{
    backlog::{Backlog, Beginner, Ticket},
    limits::PROPOSALS_UNDER_WAY_MAX,
    runtime::{self, Either},
    table::{Command, Entry, Outcome},
    tasks::Tasks,
};

type Decided = ClientWriteResult<Types>;

/// What openraft hands the answer to, and drops when there will be none.
pub(crate) struct Responder<T> {
    tell: oneshot::Sender<T>,
    /// Until the entry is decided.
    turn: Option<OwnedSemaphorePermit>,
}

impl<T: OptionalSend + 'static> openraft::raft::responder::Responder<Types, T> for Responder<T> {
    fn on_complete(self, result: T) {
        drop(self.turn);
        // Its proposer may have given up.
        let _ = self.tell.send(result);
    }
}

/// The turns, and what has none yet.
#[derive(Clone)]
pub(super) struct Proposing {
    turns: Arc<Semaphore>,
    backlog: Backlog<Wanted>,
    arrived: Arc<Notify>,
    tasks: Tasks,
}

struct Wanted {
    entry: Entry,
    tell: oneshot::Sender<Decided>,
}

impl Proposing {
    /// Its task ends with the owner of the tasks.
    pub(super) fn new(raft: Handle, tasks: &Tasks) -> Self {
        let turns = Arc::new(Semaphore::new(PROPOSALS_UNDER_WAY_MAX));
        let (backlog, arrived) = (Backlog::default(), Arc::new(Notify::new()));
        tasks.spawn(propose_all(raft, turns.clone(), backlog.beginner(), arrived.clone()));
        Self { turns, backlog, arrived, tasks: tasks.clone() }
    }

    /// Proposes it, if there is a turn and nobody waits for one. Else it waits, until what is returned is dropped.
    fn propose(&self, raft: &Handle, wanted: Wanted) -> Option<Ticket<Wanted>> {
        if self.backlog.is_empty()
            && let Ok(turn) = self.turns.clone().try_acquire_owned()
        {
            let mut proposing = Box::pin(propose(raft.clone(), wanted, Some(turn)));
            // More fit into openraft's channel than have turns, so it is done at once. Where it is not, no future of a proposer's
            // may have it.
            if unconstrained(proposing.as_mut()).now_or_never().is_none() {
                self.tasks.spawn(proposing);
            }
            return None;
        }
        // What gives something back goes before what wants something: a crowd that asks is not in its way.
        let rank = u8::from(matches!(wanted.entry.command, Command::Acquire(_)));
        let ticket = self.backlog.push(rank, wanted);
        self.arrived.notify_one();
        Some(ticket)
    }
}

async fn propose(raft: Handle, Wanted { entry, tell }: Wanted, turn: Option<OwnedSemaphorePermit>) {
    let request = raft.write(Proposal(Arc::new(entry))).responder(Responder { tell, turn });
    if let Err(error) = request.await {
        // It has dropped the responder, which says the rest.
        tracing::debug!(%error, "an entry was not proposed");
    }
}

async fn propose_all(raft: Handle, turns: Arc<Semaphore>, backlog: Beginner<Wanted>, arrived: Arc<Notify>) {
    let mut leadership = LeadershipWatch::of(&raft);
    loop {
        arrived.notified().await;
        while !backlog.is_empty() {
            let turn = turn(&turns, &mut leadership).await;
            let Some(wanted) = backlog.pop() else { break };
            propose(raft.clone(), wanted, turn).await;
        }
    }
}

/// None is needed on a node that does not lead: openraft refuses the entry, and says who may.
async fn turn(turns: &Arc<Semaphore>, leadership: &mut LeadershipWatch) -> Option<OwnedSemaphorePermit> {
    while leadership.now().leading {
        match runtime::select2(turns.clone().acquire_owned(), leadership.changed()).await {
            Either::First(turn) => return turn.ok(),
            Either::Second(Some(_)) => {}
            Either::Second(None) => break,
        }
    }
    None
}

impl Consensus {
    /// Commits a client's entry, when it has its turn, and answers what applying it answered. Dropped before, it may be
    /// committed all the same.
    pub(crate) async fn propose(&self, entry: Entry) -> Result<Outcome, ConsensusError> {
        let (tell, told) = oneshot::channel();
        let _ticket = self.proposing.propose(&self.raft, Wanted { entry, tell });
        outcome(told.await.ok())
    }

    /// Commits an entry of the leader's own, only if this node leads `term` when it is appended.
    pub(crate) async fn propose_in(&self, term: u64, entry: Entry) -> Result<Outcome, ConsensusError> {
        let (tell, told) = oneshot::channel();
        let request = self.raft.write(Proposal(Arc::new(entry))).with_leader(types::leader_of(term));
        let written = request.responder(Responder { tell, turn: None }).await;
        written.map_err(|error| ConsensusError::Stopped(error.to_string()))?;
        outcome(told.await.ok())
    }
}

/// `None`: nobody is there any more who could say.
fn outcome(decided: Option<Decided>) -> Result<Outcome, ConsensusError> {
    match decided {
        Some(Ok(response)) => {
            let Answer(outcome) = response.data;
            outcome.ok_or_else(|| ConsensusError::Unknown("the entry has no outcome".to_owned()))
        }
        Some(Err(ClientWriteError::ForwardToLeader(forward))) => Err(not_leader(&forward)),
        Some(Err(error)) => Err(ConsensusError::Unknown(error.to_string())),
        None => Err(ConsensusError::Unknown("the node stopped before the entry was decided".to_owned())),
    }
}
