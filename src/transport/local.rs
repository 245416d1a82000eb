//! What networks inside one process have in common: how two ends greet each other, and how a call ends.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{
    Caller, Handler, Identity, Lane, Method, Peer,
    error::{CallError, NotSent, RejectCode, Stage, Unanswered, request_bytes_max, tame},
    frame::Frame,
    handshake,
    serving::Answer,
};
use crate::{
    id::NodeId,
    runtime::{Either, select2, timeout},
};

/// Two ends that have named themselves, as over a socket, byte for byte.
#[derive(Clone)]
pub(crate) struct Greeted {
    pub(crate) caller: Arc<Caller>,
    /// The node that answers.
    host: Option<NodeId>,
    /// As whom the two greeted each other.
    between: (Identity, Identity),
}

impl Greeted {
    /// The greetings of a caller and a host.
    pub(crate) fn now(
        caller: &Identity,
        remote: &str,
        lane: Lane,
        host: &Identity,
        handler: &dyn Handler,
    ) -> Result<Self, NotSent> {
        let malformed = |text: handshake::Malformed| NotSent::Handshake { detail: text.0 };
        let hello = handshake::hello(caller, lane);
        let (head, body) = handshake::Head::split(&hello).map_err(malformed)?;
        let rejected = |code, text| NotSent::Rejected { code, text };
        let (called_by, version) = handshake::receive(host, &head, body, remote)
            .map_err(|rejection| rejected(rejection.code, rejection.text))?;
        handler.admit(&called_by).map_err(|refusal| rejected(RejectCode::Caller, refusal.text))?;
        let welcome = handshake::welcome(host, version);
        let (head, body) = handshake::Head::split(&welcome).map_err(malformed)?;
        let met = handshake::conclude(caller, &head, body)?;
        let between = (caller.clone(), host.clone());
        Ok(Self { caller: Arc::new(called_by), host: met.node, between })
    }

    /// Whether both are still who they said they are.
    pub(crate) fn holds(&self, caller: &Identity, host: &Identity) -> bool {
        self.between.0 == *caller && self.between.1 == *host
    }

    /// A call that means a certain node reaches no other one.
    pub(crate) fn check(&self, to: &Peer) -> Result<(), NotSent> {
        match to.node {
            Some(expected) if self.host != Some(expected) => {
                Err(NotSent::WrongNode { expected, found: self.host })
            }
            _ => Ok(()),
        }
    }
}

/// Refuses a request that is larger than a frame.
pub(crate) fn check_size(to: &Peer, payload: &Bytes) -> Result<(), CallError> {
    if payload.len() > request_bytes_max() {
        return Err(CallError::Oversized { address: to.address.clone(), bytes: payload.len() });
    }
    Ok(())
}

/// Runs one attempt until it ends, its time is up, or its own side stops; what is said then depends on how far it came.
pub(crate) async fn conclude(
    to: &Peer,
    within: Duration,
    stop: &CancellationToken,
    stage: &Stage,
    attempt: impl Future<Output = Result<Result<Answer, Unanswered>, NotSent>>,
) -> Result<Bytes, CallError> {
    let address = || to.address.clone();
    let ended = match select2(stop.cancelled(), timeout(within, attempt)).await {
        Either::First(()) => stage.shut_down().map(Err),
        Either::Second(Ok(ended)) => ended,
        Either::Second(Err(_)) => stage.timed_out(within).map(Err),
    };
    match ended {
        Ok(Ok(Answer::Response(response))) => Ok(response),
        Ok(Ok(Answer::Refusal(mut refusal))) => {
            refusal.text = tame(&refusal.text);
            Err(CallError::Refused { address: address(), refusal })
        }
        Ok(Ok(Answer::Failed(detail))) => {
            Err(CallError::Unknown { address: address(), reason: Unanswered::Failed { detail } })
        }
        Ok(Err(reason)) => Err(CallError::Unknown { address: address(), reason }),
        Err(reason) => Err(CallError::NotSent { address: address(), reason }),
    }
}

/// How long the caller of a request waits, as the other side learns it over a wire: in whole milliseconds.
pub(crate) fn told_wait(method: Method, within: Duration) -> Duration {
    Frame::request(method, 0, within, Bytes::new()).within()
}

/// Nobody has the address.
pub(crate) fn nobody_listens() -> NotSent {
    NotSent::Unreachable { detail: "nobody listens there".to_owned() }
}
