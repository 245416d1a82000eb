//! Requests find their leader: from any agent, over leader changes, with the same lease id.
//!
//! Every request that goes to the leader is harmless to repeat; [`Attempts`] says why, and what is known when the
//! time is over.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{care::Caretaker, leader::Leader};
use crate::{
    clock::{self, Clock},
    codec,
    fault_point::fault_point,
    flaw::planted,
    id::NodeId,
    lease::{Answered, Attempts, failure_of_call},
    limits::REASON_BYTES_MAX,
    message::{Failure, LEAD, Request, Response},
    raft::{Consensus, ConsensusError},
    runtime,
    table::{Command, Entry, Outcome},
    time::Moment,
    transport::{Lane, Peer, Transport},
};

/// Finds the leader for requests.
pub(crate) struct Router {
    pub(crate) node: NodeId,
    pub(crate) consensus: Consensus,
    pub(crate) leader: Arc<Leader>,
    pub(crate) caretaker: Arc<Caretaker>,
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
        let mut attempts = Attempts::new(self.clock.now(), within);
        loop {
            let Some(left) = attempts.left(self.clock.now()) else { return attempts.over("no leader") };
            let failure = match self.attempt(request, left.min(self.patience)).await {
                Response::Failed(failure) => failure,
                response => return attempts.answered(response),
            };
            // Of this agent itself: it is over. Of another: a new leader will be found.
            let over =
                matches!(&failure, Failure::Stopped(_)) && self.consensus.leadership().stopped.is_some();
            if over || matches!(&failure, Failure::Refused(_)) {
                return attempts.answered(Response::Failed(failure));
            }
            attempts.failed(&failure);
            attempts.pause(left).await;
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
            Some(leader) => match self.consensus.address_of(leader) {
                Some(address) => self.forward(request, leader, address, within).await,
                None => Response::Failed(Failure::NotLeader { leader: None }),
            },
            None => Response::Failed(Failure::NotLeader { leader: None }),
        }
    }

    async fn forward(&self, request: &Request, node: NodeId, address: String, within: Duration) -> Response {
        let peer = Peer { address, node: Some(node) };
        let payload = Bytes::from(codec::encode(request));
        fault_point!(BeforeRenewal if matches!(request, Request::Renew { .. }));
        fault_point!(BeforeRequest if !matches!(request, Request::Renew { .. }));
        let answered = self.transport.call(&peer, Lane::Request, LEAD, payload, within).await;
        fault_point!(AfterRenewal if matches!(request, Request::Renew { .. }));
        fault_point!(AfterRequest if !matches!(request, Request::Renew { .. }));
        let failure = match answered {
            Ok(reply) => match codec::decode(&reply) {
                Ok(response) => return response,
                Err(error) => Failure::Unknown(format!("the leader's answer is unreadable: {error}")),
            },
            Err(error) => failure_of_call(&error),
        };
        Response::Failed(failure)
    }

    /// Serves as the leader, or says that this node isn't. `arrived` is the clock when the request arrived.
    pub(crate) async fn lead(&self, request: Request, arrived: Moment) -> Response {
        let mut counted = None;
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
            Request::Join { .. }
            | Request::Depart { .. }
            | Request::Members
            | Request::Promote { .. }
            | Request::Remove { .. } => {
                // Boxed: these are rare, and every other request would carry their size.
                return match Box::pin(self.caretaker.answer(request)).await {
                    Ok(response) => response,
                    Err(failure) => Response::Failed(self.with_address(failure)),
                };
            }
            Request::Acquire(acquire) => {
                // Before it is in the log, where an entry larger than a frame would wedge replication.
                counted = match self.leader.count(&acquire) {
                    Ok(counted) => counted,
                    Err(quota) => return Response::Failed(Failure::Refused(quota)),
                };
                Command::Acquire(acquire)
            }
            Request::Release { lease_id } => Command::Release { lease_id },
            Request::Cancel { lease_id } => Command::Cancel { lease_id },
            Request::Transfer { lease_id, to, attempt } => Command::Transfer { lease_id, to, attempt },
            Request::Revoke { reason, .. } if reason.len() > REASON_BYTES_MAX => {
                return Response::Failed(Failure::Refused(format!(
                    "a reason of {} bytes, the longest has {REASON_BYTES_MAX}",
                    reason.len()
                )));
            }
            Request::Revoke { name, token, by, reason, heir } => {
                Command::Revoke { name, token, by, reason: reason.into(), heir }
            }
            other => {
                return Response::Failed(Failure::Refused(format!(
                    "{other:?} is not a request for the leader"
                )));
            }
        };
        let entry = Entry { wall_unix_ms: clock::wall_unix_ms(), command };
        if planted!(AnswerBeforeQuorum)
            && matches!(entry.command, Command::Release { .. })
            && self.leader.ready_in().is_some()
        {
            let consensus = self.consensus.clone();
            drop(runtime::spawn(async move { drop(consensus.propose(entry).await) }));
            return Response::Outcome(Outcome::Released { next: None });
        }
        let proposed = self.consensus.propose(entry).await;
        drop(counted);
        match proposed {
            Ok(outcome) => Response::Outcome(outcome),
            Err(error) => Response::Failed(self.with_address(failure_of(error))),
        }
    }

    fn with_address(&self, failure: Failure) -> Failure {
        match failure {
            Failure::NotLeader { leader: Some((node, _)) } => {
                Failure::NotLeader { leader: self.consensus.address_of(node).map(|address| (node, address)) }
            }
            other => other,
        }
    }
}
