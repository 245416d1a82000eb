//! An agent's place in the membership: it says where it is, takes its place again when it was forgotten, and leaves.
//!
//! The membership in the log says who an agent is and where. An agent looks at its own copy of it: where it isn't listed,
//! or listed at another address, or hears of no leader for long (it may have been removed meanwhile, and then nobody
//! talks to it), it asks every agent that it knows to have it listed. That costs an entry only where it is news.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{
    founding::{PATIENCE, PAUSE, Report, answer},
    node::Node,
};
use crate::{
    lease::{Requester as _, try_once},
    members,
    message::{Failure, Request, Response},
    raft::Membership,
    runtime,
    session::LossReason,
    transport::CallError,
};

/// A placed agent looks again after so long.
const LOOKS_EVERY: (Duration, Duration) = (Duration::from_millis(800), Duration::from_millis(1_200));
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

async fn rest(pause: (Duration, Duration)) {
    runtime::sleep(runtime::random_between(pause.0, pause.1)).await;
}

impl Node {
    /// Returns when the membership has this agent where it is, and a leader has spoken to it. Cancel-safe.
    ///
    /// # Errors
    /// The leader's reason for not listing it.
    pub(crate) async fn take_place(&self) -> Result<(), String> {
        let silent = self.timing.election_timeout_max * SILENT_ELECTIONS;
        let (mut began, led) = (self.clock.now(), self.consensus.led());
        let mut report = Report::new(self.clock.as_ref());
        let mut asked = BTreeMap::new();
        loop {
            let membership = self.consensus.membership();
            let listed = membership.members.get(&self.holder.node);
            let is_right = listed.is_some_and(|(member, _)| *member == self.member);
            let is_led = self.consensus.led() > led || self.consensus.leadership().leading;
            if is_right && is_led || self.is_closing() {
                return Ok(());
            }
            // A founder hears of its own founding from whoever forms the cluster. One that knows of members was listed once.
            let waits = is_right || membership.members.is_empty() && self.is_founder;
            let mut pause = PAUSE;
            let now = self.clock.now();
            // A clock that went back makes nobody wait for all that it lost.
            began = began.min(now);
            if !waits || now.since(began) >= silent {
                if self.ask_around(&membership, &mut asked).await? {
                    pause = LOOKS_EVERY;
                }
                let waiting_for = if is_right {
                    "waiting for a leader that speaks to this agent: can the others reach its address, and is a majority up?"
                } else {
                    "waiting for a leader that lists this agent as a member; these were asked"
                };
                report.say(self.clock.as_ref(), waiting_for, asked.iter().map(answer));
            }
            rest(pause).await;
        }
    }

    /// Asks every agent that it knows to have it listed, until one says that it is. False if none does.
    async fn ask_around(
        &self,
        membership: &Membership,
        asked: &mut BTreeMap<String, String>,
    ) -> Result<bool, String> {
        if self.consensus.leadership().leading {
            // Nobody else can: it may even be alone.
            return match self.ask(&self.join(), PATIENCE).await.response {
                Response::Done => Ok(true),
                Response::Failed(Failure::Refused(detail)) => Err(detail),
                _ => Ok(false),
            };
        }
        let mut addresses: BTreeSet<&str> = self.known.iter().map(String::as_str).collect();
        addresses.extend(membership.members.values().map(|(member, _)| member.addr.as_str()));
        addresses.remove(self.member.addr.as_str());
        let mut overtaken = None;
        for address in addresses {
            let why = match try_once(self.transport.as_ref(), address, &self.join(), PATIENCE).await {
                Ok(Response::Done) => return Ok(true),
                Ok(Response::Failed(Failure::Refused(detail))) => return Err(detail),
                // Not at once: where its majority was not lost after all, this generation goes on by itself.
                Err(CallError::NotSent { reason, .. }) if reason.is_overtaken() => {
                    overtaken = Some(format!("the agent at {address} is of a later generation: {reason}"));
                    reason.to_string()
                }
                Ok(Response::Failed(failure)) => failure.to_string(),
                Ok(other) => format!("an answer that fits no wish to be listed: {other:?}"),
                Err(error) => error.to_string(),
            };
            tracing::debug!(address, why, "not listed by it");
            asked.insert(address.to_owned(), why);
        }
        overtaken.map_or(Ok(false), Err)
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
            rest(LOOKS_EVERY).await;
            if let Err(detail) = self.take_place().await {
                tracing::warn!(detail, "this agent is not listed as a member any more, and was refused");
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Gives the leases back, hands leadership over, and leaves the membership. If that fails the agent goes on as
    /// before, without the leases.
    async fn depart(&self) -> Result<(), Failure> {
        self.closing.store(true, Ordering::Release);
        let held = self.renewer.end_all(&LossReason::AgentStopped);
        self.give_back(held).await;
        let left = self.leave_membership().await;
        match &left {
            Ok(()) => {
                self.left.store(true, Ordering::Release);
                tracing::info!(agent = %self.holder.agent, "has left the cluster");
            }
            Err(_) => self.go_on(),
        }
        left
    }

    /// It stays, unless it is being shut down meanwhile, or has stopped by itself.
    fn go_on(&self) {
        // Held, so that a shutdown comes before all of it or after.
        let stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        if !*stopping && self.stopped.borrow().is_none() {
            self.renewer.go_on();
            self.closing.store(false, Ordering::Release);
        }
    }

    async fn leave_membership(&self) -> Result<(), Failure> {
        let patience = LEAVE_AT_MOST + self.timing.election_timeout_max * LEAVE_ELECTIONS;
        let mut until = self.clock.now() + patience;
        let request = Request::Depart { node: self.holder.node };
        loop {
            let tried = if self.consensus.leadership().leading {
                // A majority that is gone by now would keep it for ever: it goes on in a task of its own.
                match runtime::timeout(PATIENCE, self.caretaker.find_an_heir()).await {
                    Err(runtime::TimedOut) => {
                        Err(Failure::Unavailable(format!("no heir was found within {PATIENCE:?}")))
                    }
                    Ok(Err(failure)) => Err(failure),
                    Ok(Ok(())) => {
                        self.consensus.hand_over(self.timing.election_timeout_max).await;
                        Err(Failure::Unavailable("leadership was not taken over".to_owned()))
                    }
                }
            } else {
                members::changed(self.ask(&request, PATIENCE).await.response)
            };
            let Err(failure) = tried else { return Ok(()) };
            // What can't be now may be possible in a moment: one of the others restarts, or has just begun to lead.
            let now = self.clock.now();
            until = until.min(now + patience);
            if matches!(failure, Failure::Stopped(_)) || now >= until {
                return Err(match failure {
                    Failure::NotLeader { .. } => Failure::Unavailable("no leader was found".to_owned()),
                    failure => failure,
                });
            }
            rest(PAUSE).await;
        }
    }

    /// Leaves because another process asks for it, and stops as soon as that was answered.
    pub(crate) async fn depart_and_stop(self: &Arc<Self>) -> Result<(), Failure> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let node = self.clone();
        self.tasks.spawn_apart(async move {
            let departed = node.depart().await;
            let stops = departed.is_ok();
            let _ = tell.send(departed);
            if stops {
                // Whoever hears that it has stopped may end the process: not before it has answered.
                runtime::sleep(LINGER).await;
                node.stop_answering(LEFT);
                node.shut_down().await;
            }
        });
        told.await.unwrap_or_else(|_| Err(Failure::Stopped("the agent is stopping".to_owned())))
    }
}
