//! Proposing entries, so many at once.
//!
//! An entry is in the log as soon as it was proposed, whether its proposer still waits for it or not. Proposers who get no answer
//! in time ask again. So whatever slows commits down would make the log longer, and a longer log commits more slowly still: a
//! hundred thousand who asked for one name at once, again and again, had a million entries in it, and the followers never caught
//! up. Therefore a proposal for a client takes a turn of [`PROPOSALS_UNDER_WAY_MAX`], and gives it back when its entry is
//! decided, not when its proposer gives up. What a leader proposes of its own, expiries above all, takes none.

use std::sync::Arc;

use openraft::{
    errors::ClientWriteError, impls::ProgressResponder, raft::ClientWriteResult,
    type_config::alias::OneshotReceiverOf,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Consensus, ConsensusError, not_leader,
    types::{self, Answer, Proposal, Types},
};
use crate::{
    limits::PROPOSALS_UNDER_WAY_MAX,
    table::{Entry, Outcome},
    tasks::Tasks,
};

/// The turns, and a place for those who left before their entries were decided.
#[derive(Clone)]
pub(super) struct Proposing {
    turns: Arc<Semaphore>,
    tasks: Tasks,
}

impl Proposing {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self { turns: Arc::new(Semaphore::new(PROPOSALS_UNDER_WAY_MAX)), tasks }
    }
}

type Decided = ClientWriteResult<Types>;

/// An answer that somebody waits for. Dropped before it is there, it leaves its turn with the entry.
struct Pending<'a> {
    answer: Option<OneshotReceiverOf<Types, Decided>>,
    turn: Option<OwnedSemaphorePermit>,
    tasks: &'a Tasks,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let (Some(answer), Some(turn)) = (self.answer.take(), self.turn.take()) {
            self.tasks.spawn(async move {
                let _ = answer.await;
                drop(turn);
            });
        }
    }
}

impl Consensus {
    /// Commits a client's entry, when it has its turn, and answers what applying it answered. Dropped before, it may be
    /// committed all the same.
    pub(crate) async fn propose(&self, entry: Entry) -> Result<Outcome, ConsensusError> {
        let turn = self.proposing.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|error| ConsensusError::Stopped(error.to_string()))?;
        self.write(entry, None, Some(turn)).await
    }

    /// Commits an entry of the leader's own, only if this node leads `term` when it is appended.
    pub(crate) async fn propose_in(&self, term: u64, entry: Entry) -> Result<Outcome, ConsensusError> {
        self.write(entry, Some(term), None).await
    }

    async fn write(
        &self,
        entry: Entry,
        term: Option<u64>,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Outcome, ConsensusError> {
        let (responder, answer) = ProgressResponder::complete_only();
        let mut request = self.raft.write(Proposal(Arc::new(entry))).responder(responder);
        if let Some(term) = term {
            request = request.with_leader(types::leader_of(term));
        }
        let mut pending = Pending { answer: None, turn, tasks: &self.proposing.tasks };
        let answer = pending.answer.insert(answer);
        request.await.map_err(|error| ConsensusError::Stopped(error.to_string()))?;
        let answer = answer.await;
        pending.answer = None;
        match answer {
            Ok(Ok(response)) => {
                let Answer(outcome) = response.data;
                outcome.ok_or_else(|| ConsensusError::Unknown("the entry has no outcome".to_owned()))
            }
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => Err(not_leader(&forward)),
            Ok(Err(error)) => Err(ConsensusError::Unknown(error.to_string())),
            // The core dropped the responder: it stopped with the entry in flight.
            Err(_) => {
                Err(ConsensusError::Unknown("the node stopped while the entry was in flight".to_owned()))
            }
        }
    }
}
