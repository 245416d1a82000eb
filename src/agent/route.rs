//! Requests find their leader: from any agent, over leader changes, with the same lease id.
//!
//! Every request that goes to the leader is harmless to repeat (rule L7: commands are idempotent by lease id, a
//! renewal only ever extends, a read index only grows). So after a lost answer the same request is simply sent
//! again, to whoever leads then, until it is answered or its time is over. Then the outcome is *unknown* if any
//! copy may have been taken, and *nothing happened* otherwise.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::leader::Leader;
use crate::{
    clock::{self, Clock},
    codec,
    id::NodeId,
    lease::Answered,
    message::{Failure, LEAD, Request, Response},
    raft::{Consensus, ConsensusError},
    runtime,
    table::{Command, Entry},
    time::Moment,
    transport::{CallError, Lane, Peer, Transport},
};

/// How long to wait before asking again, when nobody is known to lead or an attempt failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(40));

/// Finds the leader for requests.
pub(crate) struct Router {
    pub(crate) node: NodeId,
    pub(crate) consensus: Consensus,
    pub(crate) leader: Arc<Leader>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long one attempt may take.
    pub(crate) patience: Duration,
}

/// What a failed attempt says about the request.
pub(crate) fn failure_of(error: ConsensusError) -> Failure {
    match error {
        ConsensusError::NotLeader { leader } => {
            Failure::NotLeader { leader: leader.map(|node| (node, String::new())) }
        }
        ConsensusError::Unknown(detail) => Failure::Unknown(detail),
        ConsensusError::Stopped(detail) => Failure::Stopped(detail),
    }
}

impl Router {
    /// Asks the leader until it answers or `within` is over. Dropping the future sends nothing more; what was sent
    /// may still take effect.
    pub(crate) async fn ask(&self, request: &Request, within: Duration) -> Answered {
        let began = self.clock.now();
        let mut repeated = false;
        let mut last = "no leader is known".to_owned();
        loop {
            let left = within.saturating_sub(self.clock.now().since(began));
            if left.is_zero() {
                let detail = format!(
                    "no answer from a leader within {within:?} ({last}); check that a majority of the agents runs and is connected"
                );
                let failure = if repeated { Failure::Unknown(detail) } else { Failure::Unavailable(detail) };
                return Answered { response: Response::Failed(failure), repeated };
            }
            let failure = match self.attempt(request, left.min(self.patience)).await {
                Response::Failed(failure) => failure,
                response => return Answered { response, repeated },
            };
            match failure {
                Failure::Refused(_) => return Answered { response: Response::Failed(failure), repeated },
                Failure::Unknown(_) => repeated = true,
                Failure::NotLeader { .. } | Failure::Unavailable(_) => {}
                // Of this agent itself: it is over. Of another: a new leader will be found.
                Failure::Stopped(_) if self.consensus.leadership().stopped.is_some() => {
                    return Answered { response: Response::Failed(failure), repeated };
                }
                Failure::Stopped(_) => {}
            }
            last = failure.to_string();
            runtime::sleep(runtime::random_between(PAUSE.0, PAUSE.1).min(left)).await;
        }
    }

    /// Asks whoever leads now, once.
    async fn attempt(&self, request: &Request, within: Duration) -> Response {
        let leadership = self.consensus.leadership();
        if let Some(reason) = leadership.stopped {
            return Response::Failed(Failure::Stopped(reason));
        }
        match leadership.leader {
            Some(leader) if leader == self.node => {
                let arrived = self.clock.now();
                match runtime::timeout(within, self.lead(request.clone(), arrived)).await {
                    Ok(response) => response,
                    Err(runtime::TimedOut) => {
                        Response::Failed(Failure::Unknown(format!("not committed within {within:?}")))
                    }
                }
            }
            Some(leader) => match self.address_of(leader) {
                Some(address) => self.forward(request, leader, address, within).await,
                None => Response::Failed(Failure::NotLeader { leader: None }),
            },
            None => Response::Failed(Failure::NotLeader { leader: None }),
        }
    }

    fn address_of(&self, node: NodeId) -> Option<String> {
        self.consensus.members().into_iter().find(|(id, _, _)| *id == node).map(|(_, member, _)| member.addr)
    }

    async fn forward(&self, request: &Request, node: NodeId, address: String, within: Duration) -> Response {
        let peer = Peer { address, node: Some(node) };
        let payload = Bytes::from(codec::encode(request));
        let failure = match self.transport.call(&peer, Lane::Request, LEAD, payload, within).await {
            Ok(reply) => match codec::decode(&reply) {
                Ok(response) => return response,
                Err(error) => Failure::Unknown(format!("the leader's answer is unreadable: {error}")),
            },
            Err(error @ CallError::Unknown { .. }) => Failure::Unknown(error.to_string()),
            Err(error @ CallError::Oversized { .. }) => Failure::Refused(error.to_string()),
            Err(error) => Failure::Unavailable(error.to_string()),
        };
        Response::Failed(failure)
    }

    /// Serves as the leader, or says that this node isn't. `arrived` is the clock when the request arrived.
    pub(crate) async fn lead(&self, request: Request, arrived: Moment) -> Response {
        let command = match request {
            Request::Renew { leases } => {
                return match self.leader.renew(arrived, &leases).await {
                    Ok(verdicts) => Response::Renewed(verdicts),
                    Err(failure) => Response::Failed(self.with_address(failure)),
                };
            }
            Request::ReadIndex => {
                return match self.leader.confirm_shared().await {
                    Ok(confirmed) => Response::ReadIndex(confirmed.read_index),
                    Err(error) => Response::Failed(self.with_address(failure_of(error))),
                };
            }
            Request::Acquire(acquire) => Command::Acquire(acquire),
            Request::Release { lease_id } => Command::Release { lease_id },
            Request::Cancel { lease_id } => Command::Cancel { lease_id },
            other => {
                return Response::Failed(Failure::Refused(format!(
                    "{other:?} is not a request for the leader"
                )));
            }
        };
        let entry = Entry { wall_unix_ms: clock::wall_unix_ms(), command };
        match self.consensus.propose(entry).await {
            Ok(outcome) => Response::Outcome(outcome),
            Err(error) => Response::Failed(self.with_address(failure_of(error))),
        }
    }

    fn with_address(&self, failure: Failure) -> Failure {
        match failure {
            Failure::NotLeader { leader: Some((node, _)) } => {
                Failure::NotLeader { leader: self.address_of(node).map(|address| (node, address)) }
            }
            other => other,
        }
    }
}
