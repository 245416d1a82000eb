//! An agent's place in the membership: it says where it is, takes its place again when it was forgotten, and leaves.
//!
//! The membership in the log says who an agent is and where. An agent looks at its own copy of it: where it isn't listed,
//! or listed at another address, or hears of no leader for long (it may have been removed meanwhile, and then nobody
//! talks to it), it asks every agent that it knows to have it listed. That costs an entry only where it is news.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;

use super::{founding::Report, node::Node};
use crate::{
    codec,
    lease::Requester as _,
    message::{ASK, Asking, Failure, Request, Response},
    runtime,
    session::LossReason,
    transport::{Lane, Peer, Transport},
};

/// It looks, or asks, again after so long.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(150));
/// A placed agent looks again after so long.
const LOOKS_EVERY: (Duration, Duration) = (Duration::from_millis(800), Duration::from_millis(1_200));
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Who hears of no leader for so many of the longest election timeouts asks whether it is still a member.
const SILENT_ELECTIONS: u32 = 20;
/// How long leaving is tried, and so many of the longest election timeouts more: a leader that took over meanwhile does
/// not know its members at once.
const LEAVE_AT_MOST: Duration = Duration::from_secs(4);
const LEAVE_ELECTIONS: u32 = 5;
/// An agent that was told to leave by another one still answers that it has.
const LINGER: Duration = Duration::from_millis(300);
/// What an agent that has left says.
pub(super) const LEFT: &str = "it has left the cluster";

/// Asks the agent at the address once.
pub(super) async fn ask_at(
    transport: &dyn Transport,
    address: &str,
    request: Request,
) -> Result<Response, String> {
    let peer = Peer { address: address.to_owned(), node: None };
    let payload = Bytes::from(codec::encode(&Asking { request, within: PATIENCE }));
    let reply = transport.call(&peer, Lane::Request, ASK, payload, PATIENCE).await;
    codec::decode(&reply.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

impl Node {
    /// Returns when the membership has this agent where it is, and a leader has spoken to it. Cancel-safe.
    ///
    /// # Errors
    /// The leader's reason for not listing it.
    pub(crate) async fn take_place(&self) -> Result<(), String> {
        let silent = self.timing.election_timeout_max * SILENT_ELECTIONS;
        let (began, led) = (self.clock.now(), self.consensus.led());
        let mut report = Report::new(self.clock.as_ref());
        let mut asked = BTreeSet::new();
        loop {
            let membership = self.consensus.membership();
            let listed = membership.members.get(&self.holder.node);
            let is_right = listed.is_some_and(|(member, _)| *member == self.member);
            let is_led = self.consensus.led() > led || self.consensus.leadership().leading;
            if is_right && is_led || self.is_closing() {
                return Ok(());
            }
            // A founder hears of its own founding from whoever forms the cluster.
            let waits = is_right || listed.is_none() && self.is_founder;
            if !waits || self.clock.now().since(began) >= silent {
                let mut addresses: BTreeSet<&str> = self.known.iter().map(String::as_str).collect();
                addresses.extend(membership.members.values().map(|(member, _)| member.addr.as_str()));
                addresses.remove(self.member.addr.as_str());
                let mut pause = PAUSE;
                for address in addresses {
                    asked.insert(address.to_owned());
                    match ask_at(self.transport.as_ref(), address, self.join()).await {
                        Ok(Response::Done) => {
                            pause = LOOKS_EVERY;
                            break;
                        }
                        Ok(Response::Failed(Failure::Refused(detail))) => return Err(detail),
                        Ok(other) => tracing::debug!(address, ?other, "not listed by it"),
                        Err(error) => tracing::debug!(address, error, "not listed by it"),
                    }
                }
                report.say(
                    self.clock.as_ref(),
                    if is_right {
                        "waiting for a leader that speaks to this agent: can the others reach its address, and is a majority up?"
                    } else {
                        "waiting for a leader that lists this agent as a member; these were asked"
                    },
                    &asked,
                );
                self.rest(pause).await;
            } else {
                self.rest(PAUSE).await;
            }
        }
    }

    async fn rest(&self, pause: (Duration, Duration)) {
        runtime::sleep(runtime::random_between(pause.0, pause.1)).await;
    }

    fn join(&self) -> Request {
        Request::Join {
            node: self.holder.node,
            agent: self.holder.agent.clone(),
            address: self.member.addr.clone(),
            observer: self.member.observer,
            timing: self.timing,
        }
    }

    /// Keeps the place, until the node stops.
    pub(crate) async fn keep_place(self: Arc<Self>) {
        loop {
            runtime::sleep(runtime::random_between(LOOKS_EVERY.0, LOOKS_EVERY.1)).await;
            if let Err(detail) = self.take_place().await {
                tracing::warn!(detail, "this agent is not listed as a member any more, and was refused");
            }
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Gives the leases back, hands leadership over, and leaves the membership. If that fails the agent goes on as
    /// before, without the leases.
    pub(crate) async fn depart(&self) -> Result<(), Failure> {
        self.closing.store(true, Ordering::Release);
        let held = self.renewer.end_all(&LossReason::AgentStopped);
        self.give_back(held).await;
        let left = self.leave_membership().await;
        match &left {
            Ok(()) => {
                self.left.store(true, Ordering::Release);
                tracing::info!(agent = %self.holder.agent, "has left the cluster");
            }
            // Unless it is being shut down meanwhile.
            Err(_) if !self.is_stopping() => self.closing.store(false, Ordering::Release),
            Err(_) => {}
        }
        left
    }

    async fn leave_membership(&self) -> Result<(), Failure> {
        let patience = LEAVE_AT_MOST + self.timing.election_timeout_max * LEAVE_ELECTIONS;
        let until = self.clock.now() + patience;
        let request = Request::Depart { node: self.holder.node };
        loop {
            let mut last = if self.consensus.leadership().leading {
                match self.caretaker.find_an_heir().await {
                    Response::Done => {
                        self.consensus.hand_over(self.timing.election_timeout_max).await;
                        Failure::Unavailable("leadership was not taken over".to_owned())
                    }
                    Response::Failed(failure) => failure,
                    other => {
                        return Err(Failure::Unavailable(format!("an answer that fits none: {other:?}")));
                    }
                }
            } else {
                match self.ask(&request, PATIENCE).await.response {
                    Response::Done => return Ok(()),
                    Response::Failed(failure) => failure,
                    other => {
                        return Err(Failure::Unavailable(format!("an answer that fits none: {other:?}")));
                    }
                }
            };
            // What can't be now may be possible in a moment: one of the others restarts, or has just begun to lead.
            if matches!(last, Failure::Stopped(_)) || self.clock.now() >= until {
                if let Failure::NotLeader { .. } = last {
                    last = Failure::Unavailable("no leader was found".to_owned());
                }
                return Err(last);
            }
            runtime::sleep(runtime::random_between(PAUSE.0, PAUSE.1)).await;
        }
    }

    /// Leaves because another process asks for it, and stops as soon as that was answered.
    pub(crate) async fn depart_and_stop(self: &Arc<Self>) -> Response {
        let (tell, told) = tokio::sync::oneshot::channel();
        let node = self.clone();
        self.tasks.spawn_apart(async move {
            match node.depart().await {
                Ok(()) => {
                    let _ = tell.send(Response::Done);
                    // Whoever hears that it has stopped may end the process: not before it has answered.
                    runtime::sleep(LINGER).await;
                    node.stop_answering(LEFT);
                    node.shut_down().await;
                }
                Err(failure) => {
                    let _ = tell.send(Response::Failed(failure));
                }
            }
        });
        told.await.unwrap_or_else(|_| Response::Failed(Failure::Stopped("the agent is stopping".to_owned())))
    }
}
