//! Connections, and what travels over them: requests to the host, in their order or out of it, and answers back.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::network::{End, Shared, lock};
use crate::{
    chaos::trace::{Event, Leg, Loss, digest},
    fault_point::fault_point,
    runtime::{Either, select2, sleep},
    transport::{
        Lane, Method, Peer,
        local::Greeted,
        pipe,
        serving::{self, Answer},
    },
};

/// A connection.
pub(super) struct Pipe {
    pub(super) greeted: Greeted,
    pub(super) host: Arc<End>,
    pub(super) flight: Arc<Semaphore>,
    inbox: Mutex<Inbox>,
    bell: Notify,
    /// The caller knows that it is broken: the next call connects anew.
    broken: AtomicBool,
    /// The host knows that it is: what it does for the caller ends.
    over: CancellationToken,
}

#[derive(Default)]
struct Inbox {
    arrived: VecDeque<Request>,
    /// When the last one arrives, in true time: the next one doesn't before.
    last: Duration,
}

/// A request that arrived.
struct Request {
    message: u64,
    from: usize,
    method: Method,
    payload: Bytes,
    within: Duration,
    /// `None` for a copy: nobody waits for its answer.
    back: Option<(OwnedSemaphorePermit, oneshot::Sender<Reply>)>,
}

/// What the caller hears.
pub(super) enum Reply {
    Answered(Answer),
    /// The connection broke.
    Broke,
    /// Nothing, for ever.
    Silence,
}

impl Shared {
    /// Sends a request over a connection. What comes back is told by the receiver, or by its end.
    pub(super) fn post(
        self: &Arc<Self>,
        from: &Arc<End>,
        to: &Peer,
        pipe: &Arc<Pipe>,
        (method, payload, within): (Method, Bytes, Duration),
        slot: OwnedSemaphorePermit,
    ) -> oneshot::Receiver<Reply> {
        let message = self.messages.fetch_add(1, Ordering::Relaxed);
        let (caller, host) = (from.agent, pipe.host.agent);
        let fate = self.roll(caller, host);
        let sent = |leg| Event::Sent {
            message,
            leg,
            from: caller,
            to: host,
            method: method.0,
            bytes: payload.len(),
            digest: u64::from(crc32fast::hash(&payload)),
        };
        self.tracer.note(sent(Leg::Request));
        let (reply, answer) = oneshot::channel();
        let request =
            |back| Request { message, from: caller, method, payload: payload.clone(), within, back };
        if let Some(later) = fate.copy {
            self.tracer.note(sent(Leg::Copy));
            let (shared, from, to) = (Arc::clone(self), Arc::clone(from), to.clone());
            let lane = pipe.greeted.caller.lane;
            let copy = request(None);
            Self::outside(async move {
                sleep(fate.delay + later).await;
                shared.deliver_copy(&from, &to, lane, copy);
            });
        }
        match fate.lost {
            Some(told) => {
                pipe.break_off();
                self.lost(message, Leg::Request, Loss::Chance);
                Self::outside(async move {
                    sleep(fate.delay * 2).await;
                    let _ = reply.send(if told { Reply::Broke } else { Reply::Silence });
                    drop(slot);
                });
            }
            None => {
                let now = self.tracer.now();
                let mut arrives = now + fate.delay;
                if !fate.overtakes {
                    let mut inbox = lock(&pipe.inbox);
                    arrives = arrives.max(inbox.last + Duration::from_nanos(1));
                    inbox.last = arrives;
                }
                let request = request(Some((slot, reply)));
                let (shared, pipe) = (Arc::clone(self), Arc::clone(pipe));
                Self::outside(async move {
                    sleep(arrives - now).await;
                    shared.deliver(pipe, request, fate.overtakes).await;
                });
            }
        }
        answer
    }

    /// A request is at the door of its host.
    async fn deliver(self: Arc<Self>, pipe: Arc<Pipe>, request: Request, overtakes: bool) {
        let (message, caller, host) = (request.message, request.from, pipe.host.agent);
        let (loss, reply) = if self.is_cut(caller, host) {
            (Loss::Cut, Reply::Silence)
        } else if pipe.host.is_gone() {
            let dark = self.is_dark(&pipe.host.address);
            (Loss::Nobody, if dark { Reply::Silence } else { Reply::Broke })
        } else {
            self.tracer.note(Event::Arrived { message, leg: Leg::Request });
            if overtakes {
                let host = Arc::clone(&pipe.host);
                host.spawn(async move { self.serve(&pipe, request).await });
            } else {
                lock(&pipe.inbox).arrived.push_back(request);
                pipe.bell.notify_one();
            }
            return;
        };
        self.lost(message, Leg::Request, loss);
        let Some((_slot, tell)) = request.back else { return };
        if matches!(reply, Reply::Broke) {
            // Its system says that there is no such connection.
            sleep(self.roll(host, caller).delay).await;
            if self.is_cut(host, caller) {
                return drop(tell.send(Reply::Silence));
            }
            pipe.break_off();
        }
        let _ = tell.send(reply);
    }

    /// A caller's second attempt is at the door of whoever has the address now.
    fn deliver_copy(&self, from: &End, to: &Peer, lane: Lane, request: Request) {
        let (message, leg) = (request.message, Leg::Copy);
        let host = self.listening(&to.address);
        let Some(host) = host else { return self.lost(message, leg, Loss::Nobody) };
        if self.is_cut(from.agent, host.agent) {
            return self.lost(message, leg, Loss::Cut);
        }
        self.tracer.note(Event::Arrived { message, leg });
        let (caller, address, peer) = (from.identity.borrow().clone(), from.address.clone(), to.clone());
        host.clone().spawn(async move {
            let Ok(handler) = host.handler().await else { return };
            let greeted = Greeted::now(&caller, &address, lane, &host.identity.borrow(), &*handler);
            let Ok(greeted) = greeted.and_then(|greeted| greeted.check(&peer).map(|()| greeted)) else {
                return;
            };
            let Request { method, payload, within, .. } = request;
            let _ = serving::run(handler, greeted.caller, method, payload, within).await;
        });
    }

    /// Begins a request, on its host; what isn't done at once goes on in a task of its own.
    async fn serve(self: &Arc<Self>, pipe: &Arc<Pipe>, request: Request) {
        let Request { message, from, method, payload, within, back } = request;
        let Ok(handler) = pipe.host.handler().await else { return };
        let caller = Arc::clone(&pipe.greeted.caller);
        let mut running = serving::run(handler, caller, method, payload, within);
        let (shared, pipe) = (Arc::clone(self), Arc::clone(pipe));
        match serving::begin(&mut running).await {
            Poll::Ready(answer) => {
                shared.answer(message, &pipe.host, from, answer, back);
                fault_point!(AfterAnswer);
            }
            Poll::Pending => Arc::clone(&pipe.host).spawn(async move {
                if let Either::Second(answer) = select2(pipe.over.cancelled(), running).await {
                    shared.answer(message, &pipe.host, from, answer, back);
                    fault_point!(AfterAnswer);
                }
            }),
        }
    }

    /// Sends an answer back.
    fn answer(
        self: Arc<Self>,
        message: u64,
        host: &End,
        to: usize,
        answer: Option<Answer>,
        back: Option<(OwnedSemaphorePermit, oneshot::Sender<Reply>)>,
    ) {
        let (Some((slot, reply)), from) = (back, host.agent) else { return };
        drop(slot);
        // The caller's time is up.
        let Some(answer) = answer else { return drop(reply.send(Reply::Silence)) };
        let (bytes, text) = match &answer {
            Answer::Response(payload) => (payload.len(), u64::from(crc32fast::hash(payload))),
            Answer::Refusal(refusal) => (refusal.text.len(), digest(&(refusal.code, &refusal.text))),
            Answer::Failed(detail) => (detail.len(), digest(detail)),
        };
        let (fate, leg) = (self.roll(from, to), Leg::Answer);
        self.tracer.note(Event::Sent { message, leg, from, to, method: 0, bytes, digest: text });
        Self::outside(async move {
            sleep(fate.delay).await;
            let _ = reply.send(match fate.lost {
                _ if self.is_cut(from, to) => {
                    self.lost(message, leg, Loss::Cut);
                    Reply::Silence
                }
                Some(told) => {
                    self.lost(message, leg, Loss::Chance);
                    if told { Reply::Broke } else { Reply::Silence }
                }
                None => {
                    self.tracer.note(Event::Arrived { message, leg });
                    Reply::Answered(answer)
                }
            });
        });
    }
}

impl Pipe {
    /// A connection, whose host begins to read.
    pub(super) fn open(greeted: Greeted, host: Arc<End>, shared: &Arc<Shared>) -> Arc<Self> {
        let pipe = Arc::new(Self {
            greeted,
            host: Arc::clone(&host),
            flight: pipe::flight(),
            inbox: Mutex::default(),
            bell: Notify::new(),
            broken: AtomicBool::new(false),
            over: CancellationToken::new(),
        });
        host.spawn(Arc::clone(&pipe).read(Arc::clone(shared)));
        pipe
    }

    /// The caller knows that it is broken.
    pub(super) fn break_off(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// The host knows that its caller is gone.
    pub(super) fn end(&self) {
        self.over.cancel();
    }

    /// Whether a caller would use it.
    pub(super) fn is_good(&self, caller: &End) -> bool {
        !self.broken.load(Ordering::Relaxed)
            && self.greeted.holds(&caller.identity.borrow(), &self.host.identity.borrow())
    }

    /// Begins what arrives, in its order, on the host.
    async fn read(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            let request = lock(&self.inbox).arrived.pop_front();
            match request {
                Some(request) => shared.serve(&self, request).await,
                None if self.over.is_cancelled() => return,
                None => drop(select2(self.over.cancelled(), self.bell.notified()).await),
            }
        }
    }
}
