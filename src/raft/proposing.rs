//! Proposing entries, so many at once.
//!
//! An entry is in the log as soon as it was proposed, whether its proposer still waits for it or not. Proposers who get no answer
//! in time ask again. So whatever slows commits down would make the log longer, and a longer log commits more slowly still: a
//! hundred thousand who asked for one name at once, again and again, had a million entries in it, and the followers never caught
//! up. Therefore a proposal for a client takes a turn of [`PROPOSALS_UNDER_WAY_MAX`], and gives it back when its entry is
//! decided, not when its proposer gives up. What a leader proposes of its own, expiries above all, takes none.
//!
//! A task holds the turn, not the future of whoever asks: futures may be left unpolled (`buffer_unordered`, and a loop that works
//! on what is there), and neither time nor turn would be given back.

use std::sync::Arc;

use openraft::{errors::ClientWriteError, impls::ProgressResponder};
use tokio::sync::{Semaphore, oneshot};

use super::{
    Consensus, ConsensusError, not_leader,
    types::{self, Answer, Proposal},
};
use crate::{
    limits::PROPOSALS_UNDER_WAY_MAX,
    runtime::{self, Either},
    table::{Entry, Outcome},
    tasks::Tasks,
};

/// The turns, and where the tasks belong that hold them.
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

impl Consensus {
    /// Commits a client's entry, when it has its turn, and answers what applying it answered. Dropped before it has its turn,
    /// nothing is proposed; dropped later, it may be committed all the same.
    pub(crate) async fn propose(&self, entry: Entry) -> Result<Outcome, ConsensusError> {
        let (mut tell, told) = oneshot::channel();
        let consensus = self.clone();
        self.proposing.tasks.spawn(async move {
            let turns = &consensus.proposing.turns;
            let Either::First(Ok(turn)) = runtime::select2(turns.acquire(), tell.closed()).await else {
                return;
            };
            let decided = consensus.write(entry, None).await;
            drop(turn);
            let _ = tell.send(decided);
        });
        let stopped = || ConsensusError::Unknown("the node stopped while the entry was in flight".to_owned());
        told.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Commits an entry of the leader's own, only if this node leads `term` when it is appended.
    pub(crate) async fn propose_in(&self, term: u64, entry: Entry) -> Result<Outcome, ConsensusError> {
        self.write(entry, Some(term)).await
    }

    async fn write(&self, entry: Entry, term: Option<u64>) -> Result<Outcome, ConsensusError> {
        let (responder, answer) = ProgressResponder::complete_only();
        let mut request = self.raft.write(Proposal(Arc::new(entry))).responder(responder);
        if let Some(term) = term {
            request = request.with_leader(types::leader_of(term));
        }
        request.await.map_err(|error| ConsensusError::Stopped(error.to_string()))?;
        match answer.await {
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
