//! An agent's end of the simulated network: it connects, calls, and listens.

use std::{future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    delivery::{Pipe, Reply},
    network::{End, Shared},
};
use crate::{
    fault_point::fault_point,
    runtime::{sleep, timeout},
    transport::{
        CallError, Handler, Lane, Method, NotSent, Peer, Stage, Transport, Unanswered,
        local::{Greeted, check_size, conclude, nobody_listens, told_wait},
        pipe,
        serving::Answer,
    },
};

/// A caller gives up connecting after this long, as over TCP.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// An agent's end of a simulated [`Network`](super::network::Network).
pub(crate) struct SimTransport {
    shared: Arc<Shared>,
    end: Arc<End>,
    listens: bool,
}

impl SimTransport {
    pub(super) fn new(shared: &Arc<Shared>, end: Arc<End>, listens: bool) -> Self {
        Self { shared: Arc::clone(shared), end, listens }
    }

    /// The connection to a peer, made now if there is none.
    async fn pipe(&self, to: &Peer, lane: Lane) -> Result<Arc<Pipe>, NotSent> {
        let slot = self.end.slot(&to.address, lane);
        let mut present = slot.lock().await;
        if let Some(pipe) = present.as_ref().filter(|pipe| pipe.is_good(&self.end)) {
            return Ok(Arc::clone(pipe));
        }
        *present = None;
        let within = CONNECT_WITHIN;
        let dialled = timeout(within, self.dial(to, lane)).await;
        let pipe = dialled.unwrap_or(Err(NotSent::ConnectTimedOut { within }))?;
        *present = Some(Arc::clone(&pipe));
        Ok(pipe)
    }

    async fn dial(&self, to: &Peer, lane: Lane) -> Result<Arc<Pipe>, NotSent> {
        let shared = &self.shared;
        let us = self.end.agent;
        let Some(them) = shared.agent_at(&to.address) else { return Err(nobody_listens()) };
        let (there, back) = (shared.roll(us, them), shared.roll(them, us));
        sleep(there.delay).await;
        if shared.is_cut(us, them) || there.lost.is_some() || shared.is_dark(&to.address) {
            return pending().await;
        }
        let host = shared.listening(&to.address);
        let greeted = match &host {
            None => Err(nobody_listens()),
            Some(host) => {
                let (tell, told) = oneshot::channel();
                let (caller, address) = (self.end.identity.borrow().clone(), self.end.address.clone());
                let greeting = Arc::clone(host);
                host.spawn(async move {
                    let Ok(handler) = greeting.handler().await else { return };
                    let met = Greeted::now(&caller, &address, lane, &greeting.identity.borrow(), &*handler);
                    let _ = tell.send(met);
                });
                match told.await {
                    Ok(met) => met,
                    Err(_) if host.is_silent() => return pending().await,
                    Err(_) => Err(nobody_listens()),
                }
            }
        };
        sleep(back.delay).await;
        if shared.is_cut(them, us) || back.lost.is_some() {
            return pending().await;
        }
        let (greeted, Some(host)) = (greeted?, host) else { return Err(nobody_listens()) };
        Ok(Pipe::open(greeted, host, shared))
    }

    async fn attempt(
        &self,
        to: &Peer,
        lane: Lane,
        (method, payload, within): (Method, Bytes, Duration),
        stage: &Stage,
    ) -> Result<Result<Answer, Unanswered>, NotSent> {
        stage.connecting();
        let pipe = self.pipe(to, lane).await?;
        if let Err(other) = pipe.greeted.check(to) {
            // Whom it led to is gone without a word. Over TCP a ping that stays unanswered would have found that out by now.
            if pipe.host.is_gone() {
                pipe.break_off();
            }
            return Err(other);
        }
        stage.queueing();
        let slot = pipe::room(&pipe.flight, pipe::units(payload.len())).await;
        let slot = slot.map_err(|_| NotSent::ShutDown)?;
        stage.sent();
        let request = (method, payload, told_wait(method, within));
        let reply = self.shared.post(&self.end, to, &pipe, request, slot);
        fault_point!(AfterSend);
        let reply = reply.await;
        let detail = match reply {
            Ok(Reply::Answered(answer)) => return Ok(Ok(answer)),
            Ok(Reply::Silence) => return pending().await,
            Ok(Reply::Broke) => "the connection broke",
            // What the host was doing ended with it.
            Err(_) => {
                let (us, them) = (self.end.agent, pipe.host.agent);
                sleep(self.shared.roll(them, us).delay).await;
                if pipe.host.is_silent() || self.shared.is_cut(them, us) {
                    return pending().await;
                }
                "the other side is gone"
            }
        };
        pipe.break_off();
        Ok(Err(Unanswered::ConnectionLost { detail: detail.to_owned() }))
    }
}

#[async_trait]
impl Transport for SimTransport {
    fn address(&self) -> Option<&str> {
        self.listens.then_some(self.end.address.as_str())
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        if self.listens {
            self.end.serve(handler);
        }
    }

    async fn call(
        &self,
        to: &Peer,
        lane: Lane,
        method: Method,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        check_size(to, &payload)?;
        let stage = Stage::default();
        // It is large, and would be moved from future to future.
        let attempt = Box::pin(self.attempt(to, lane, (method, payload, within), &stage));
        conclude(to, within, self.end.stopping(), &stage, attempt).await
    }

    async fn shutdown(&self) {
        self.shared.leave(&self.end);
        self.end.ended().await;
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        self.shared.leave(&self.end);
    }
}
