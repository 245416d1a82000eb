//! What an agent answers on its port.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{
    founding::{Founding, Question},
    node::Node,
    turns::Turns,
};
use crate::{
    codec, config,
    fault_point::fault_point,
    lease::Requester as _,
    limits::{ASK_MAX, QUESTION_BYTES_MAX},
    message::{ASK, Asking, FOUND, LEAD, Request, Response, code},
    raft, runtime,
    transport::{Caller, Handler, Method, Refusal, Role},
};

/// Answers calls, as far as the agent has started.
pub(crate) struct Service {
    founding: Arc<Founding>,
    node: OnceLock<Arc<Node>>,
    turns: Turns,
}

impl Service {
    pub(crate) fn new(founding: Arc<Founding>) -> Arc<Self> {
        Arc::new(Self { founding, node: OnceLock::new(), turns: Turns::default() })
    }

    /// From now on everything is answered.
    pub(crate) fn open(&self, node: Arc<Node>) {
        let _ = self.node.set(node);
    }

    fn node(&self) -> Result<&Arc<Node>, Refusal> {
        self.node.get().ok_or_else(|| {
            Refusal::new(
                code::NOT_SERVING,
                "this agent belongs to no cluster yet; ask again when it is founded",
            )
        })
    }
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    if payload.len() > QUESTION_BYTES_MAX {
        let text =
            format!("a question of {} bytes, the largest has {QUESTION_BYTES_MAX}; split it", payload.len());
        return Err(Refusal::new(code::MALFORMED, text));
    }
    codec::decode(payload).map_err(|error| Refusal::new(code::MALFORMED, error.to_string()))
}

fn members_only(caller: &Caller) -> Result<(), Refusal> {
    match caller.role {
        Role::Member => Ok(()),
        Role::Client | Role::Reader => {
            Err(Refusal::new(code::NOT_PERMITTED, "only members of the cluster may ask this"))
        }
    }
}

/// Whether the caller may ask this, and in this name: by its certificate, where it has one.
fn permit(caller: &Caller, request: &Request) -> Result<(), Refusal> {
    let needs = request.needs();
    if !caller.rights.covers(needs) {
        let text = format!(
            "the {} {} may not ask this, it takes a {needs}'s certificate; `leasehold certs issue` makes one",
            caller.rights, caller.agent
        );
        return Err(Refusal::new(code::NOT_PERMITTED, text));
    }
    match request.in_name_of() {
        Some(name) if *name != caller.agent => {
            let text = format!("{} asks in the name of {name}; each asks in its own", caller.agent);
            Err(Refusal::new(code::NOT_PERMITTED, text))
        }
        _ => Ok(()),
    }
}

#[async_trait]
impl Handler for Service {
    async fn handle(&self, caller: &Caller, method: Method, payload: Bytes) -> Result<Bytes, Refusal> {
        match method {
            ASK => {
                let node = self.node()?;
                let Asking { request, within } = decode(&payload)?;
                permit(caller, &request)?;
                match &request {
                    Request::Join { node: of, .. } | Request::Depart { node: of } => {
                        members_only(caller)?;
                        if caller.node != Some(*of) {
                            let text = "a member joins and departs for itself alone";
                            return Err(Refusal::new(code::NOT_PERMITTED, text));
                        }
                        if let Request::Join { address, .. } = &request
                            && config::is_address(address, false)
                        {
                            node.consensus.hear_of(*of, address);
                        }
                    }
                    Request::Leave => {
                        return Ok(codec::encode(&Response::from(node.depart_and_stop().await)).into());
                    }
                    _ => {}
                }
                let asked = node.clock.now();
                let _turn = match caller.role {
                    Role::Member => None,
                    Role::Client | Role::Reader => self.turns.take(&caller.agent, &request).await,
                };
                // Who waited for its turn for so long that its caller waits no more has nothing done for it.
                let within = within.min(ASK_MAX).saturating_sub(node.clock.now().since(asked));
                let answered = node.ask(&request, within).await;
                fault_point!(BeforeRequestAnswer);
                Ok(codec::encode(&answered.response).into())
            }
            LEAD => {
                members_only(caller)?;
                let node = self.node()?;
                let arrived = node.clock.now();
                let request: Request = decode(&payload)?;
                let response = node.lead(request, arrived).await;
                fault_point!(BeforeRenewalAnswer if matches!(response, crate::message::Response::Renewed(_)));
                fault_point!(BeforeRequestAnswer if !matches!(response, crate::message::Response::Renewed(_)));
                Ok(codec::encode(&response).into())
            }
            FOUND => {
                members_only(caller)?;
                let question: Question = decode(&payload)?;
                fault_point!(BeforePromise if matches!(question, Question::Promise(_)));
                // A promise is written down: not on the task that reads the connection.
                let (founding, remote) = (self.founding.clone(), caller.remote.clone());
                let reply = runtime::spawn_blocking(move || founding.answer(question, &remote)).await;
                let reply = reply.map_err(|_| Refusal::new(code::NOT_SERVING, "this agent is stopping"))?;
                fault_point!(AfterPromise if matches!(reply, super::founding::Reply::Promised));
                fault_point!(BeforeFoundingAnswer);
                Ok(codec::encode(&reply).into())
            }
            _ => {
                members_only(caller)?;
                match self.node()?.receiver.receive(method, &payload).await {
                    Some(Ok(reply)) => Ok(reply),
                    Some(Err(error @ raft::ReceiveError::Codec(_))) => {
                        Err(Refusal::new(code::MALFORMED, error.to_string()))
                    }
                    Some(Err(error)) => Err(Refusal::new(code::CONSENSUS, error.to_string())),
                    None => Err(Refusal::new(
                        code::NO_SUCH_METHOD,
                        format!("this agent knows no method {}; is it of an older version?", method.0),
                    )),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LeaseId, limits::RENEW_MAX};

    #[test]
    fn a_question_beyond_its_bound_is_refused_before_it_is_decoded() {
        let renew = |count| codec::encode(&Request::Renew { leases: vec![LeaseId::from_bits(0); count] });
        assert!(decode::<Request>(&renew(RENEW_MAX)).is_ok());
        assert!(decode::<Request>(&renew(QUESTION_BYTES_MAX - 10)).is_ok());
        let refusal = decode::<Request>(&renew(QUESTION_BYTES_MAX)).unwrap_err();
        assert_eq!(refusal.code, code::MALFORMED);
        assert!(refusal.text.contains("the largest has"), "{}", refusal.text);
    }
}
