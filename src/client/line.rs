//! One request, over as many agents and attempts as it takes.
//!
//! The client talks to one agent and stays with it while it answers. When it doesn't (nobody there, no answer in time,
//! not serving, stopped, or out of reach of a leader), the *next* address is the current one, for all requests alike,
//! and the same request goes there.
//!
//! No attempt takes more than half of the time that is left: an agent that is silent without a broken connection (cut
//! off, or stopped by a signal) must not use up a renewal's whole time while others would answer.
//!
//! What the asked agent answers is as good as the leader's own: it asks the leader in turn (`Renew`, `Acquire`), or
//! reads its replica once that has caught up with a position that the leader confirmed. `Await` and `Watch` are the
//! exceptions: they are answered by the replica alone. There a lagging agent costs time, never safety: whoever is told
//! "you hold it" renews at the leader before believing it, and a watcher says itself what it was told last.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    clock::Clock,
    config::Timing,
    id::LeaseId,
    lease::{Answered, Attempts, Renewer, Requester, ask_once},
    message::{Failure, Request, Response},
    runtime::{self, Either, watch},
    session::LossReason,
    table::Holder,
    tasks::Tasks,
    transport::Transport,
};

/// How long a closing client gives back its leases, at most.
const GIVE_BACK_AT_MOST: Duration = Duration::from_secs(2);
/// The longest that one agent is asked before it is the next one's turn. It has to look for the leader itself: in an
/// election longer than this, the next agent would do no better.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// The least that one attempt gets, while there is as much.
const ATTEMPT_MIN: Duration = Duration::from_millis(50);

/// The way from a client to its cluster.
pub(super) struct Line {
    addresses: Vec<String>,
    /// The index of the address that is talked to.
    current: watch::Sender<usize>,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    timing: Timing,
    holder: Holder,
    /// What runs for as long as the client does.
    tasks: Tasks,
    /// What leases have begun: releases, cancellations, renewals. A closing client lets them finish.
    errands: Tasks,
    closing: AtomicBool,
    /// It is closed.
    down: watch::Sender<bool>,
}

impl Line {
    pub(super) fn new(
        addresses: Vec<String>,
        current: usize,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        timing: Timing,
        holder: Holder,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new(Self {
            addresses,
            current: watch::channel(current).0,
            transport,
            clock,
            timing,
            holder,
            tasks,
            errands: Tasks::new(),
            closing: AtomicBool::new(false),
            down: watch::channel(false).0,
        })
    }

    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    #[cfg(feature = "tls")]
    pub(super) fn certificate(&self, address: &str) -> Option<crate::Certificate> {
        self.transport.certificate(address)
    }

    /// Asks the agent at this address, once.
    pub(super) async fn ask_at(&self, address: &str, request: &Request, within: Duration) -> Response {
        ask_once(self.transport.as_ref(), address, request, within).await
    }

    /// How long one attempt may take, of what is left.
    fn patience(&self, request: &Request, left: Duration) -> Duration {
        if let Some(waits) = request.waits() {
            return left.min(waits + ATTEMPT_MAX);
        }
        if self.addresses.len() == 1 {
            return left;
        }
        (left / 2).clamp(ATTEMPT_MIN, ATTEMPT_MAX).min(left)
    }

    /// The next address, unless somebody else has moved on from this one already.
    fn move_on(&self, from: usize, failure: &Failure) {
        let next = (from + 1) % self.addresses.len().max(1);
        self.current.send_if_modified(|current| {
            let moves = *current == from && next != from;
            if moves {
                tracing::debug!(to = self.addresses[next], %failure, "moving on to the next agent");
                *current = next;
            }
            moves
        });
    }

    /// One attempt at the current agent; `None` when a wait was broken off because that has changed.
    async fn attempt(&self, request: &Request, at: usize, within: Duration) -> Option<Response> {
        let asked = self.ask_at(&self.addresses[at], request, within);
        if request.waits().is_none() {
            return Some(asked.await);
        }
        // It would go on waiting at an agent that others have found silent.
        let mut current = self.current.subscribe();
        let moved = async {
            if current.wait_for(|current| *current != at).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        match runtime::select2(asked, moved).await {
            Either::First(response) => Some(response),
            Either::Second(()) => None,
        }
    }

    async fn ask_around(&self, request: &Request, within: Duration) -> Answered {
        let mut attempts = Attempts::new(self.clock.now(), within);
        let mut failed = 0;
        loop {
            let Some(left) = attempts.left(self.clock.now()) else { return attempts.over("no agent") };
            let at = *self.current.borrow();
            let failure = match self.attempt(request, at, self.patience(request, left)).await {
                None => continue,
                Some(Response::Failed(failure)) => failure,
                Some(response) => return attempts.answered(response),
            };
            if matches!(failure, Failure::Refused(_)) {
                return attempts.answered(Response::Failed(failure));
            }
            attempts.failed(&failure);
            self.move_on(at, &failure);
            failed += 1;
            // Each address gets its try at once; only then it is time to wait.
            if failed % self.addresses.len() == 0 {
                attempts.pause(left).await;
            }
        }
    }

    /// See [`Client::close`](super::Client::close).
    pub(super) async fn close(self: &Arc<Self>, renewer: &Arc<Renewer>) {
        if !self.closing.swap(true, Ordering::AcqRel) {
            // Its own task: whoever asked for it first may not stay to see its end.
            let (closing, renewer) = (Closing(self.clone()), renewer.clone());
            self.tasks.spawn_apart(async move { closing.0.take_down(&renewer).await });
        }
        let mut down = self.down.subscribe();
        // The sender lives as long as `self`.
        let _ = down.wait_for(|down| *down).await;
    }

    async fn take_down(&self, renewer: &Renewer) {
        let held = renewer.end_all(&LossReason::ClientClosed);
        let _ = runtime::timeout(GIVE_BACK_AT_MOST, async {
            self.give_back(held).await;
            self.errands.ended().await;
        })
        .await;
        self.errands.stop();
        self.transport.shutdown().await;
        self.errands.ended().await;
        self.tasks.stop();
        self.tasks.ended().await;
    }

    async fn give_back(&self, held: Vec<LeaseId>) {
        let releases = held.into_iter().map(|lease_id| async move {
            self.ask_around(&Request::Release { lease_id }, GIVE_BACK_AT_MOST).await
        });
        futures_util::future::join_all(releases).await;
    }
}

/// Says at its end that the client is closed, also where its runtime has ended and the task is never run.
struct Closing(Arc<Line>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.down.send_replace(true);
    }
}

#[async_trait]
impl Requester for Line {
    fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn timing(&self) -> &Timing {
        &self.timing
    }

    fn holder(&self) -> &Holder {
        &self.holder
    }

    async fn seen(&self, within: Duration) -> Result<u64, Failure> {
        match self.ask(&Request::Position, within).await.response {
            Response::ReadIndex(index) => Ok(index),
            Response::Failed(failure) => Err(failure),
            other => Err(Failure::Unavailable(format!("an answer that fits no position: {other:?}"))),
        }
    }

    async fn ask(&self, request: &Request, within: Duration) -> Answered {
        let gives_up = matches!(request, Request::Release { .. } | Request::Cancel { .. });
        let stopped = || Answered {
            response: Response::Failed(Failure::Stopped("the client was closed".to_owned())),
            repeated: true,
        };
        // A closing client still gives back what it held.
        if self.closing.load(Ordering::Acquire) && !gives_up {
            return stopped();
        }
        match runtime::select2(self.tasks.stopping(), self.ask_around(request, within)).await {
            Either::First(()) => stopped(),
            Either::Second(answered) => answered,
        }
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.errands.spawn(task);
    }

    fn spawn_while_open(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.tasks.spawn(task);
    }
}
