//! The simulated network: the transport's contract over connections that take time, break, and come back.
//!
//! # What a message may meet, and what that means for the contract
//!
//! The contract ([`transport`](crate::transport)) is that of TCP connections: a request is delivered at most once *per
//! call*, and the requests of one connection start in their order. So a single packet can't be lost, doubled or
//! reordered behind the callers' backs. What can happen is what connections do:
//!
//! - *Loss* breaks the connection. The call is unknown, whether its caller is told or waits for its time to end, and the
//!   next call connects anew.
//! - *Overtaking* is a request on another connection than its neighbours: one was replaced, and what was under way on the
//!   old one arrives earlier or later than what is sent on the new.
//! - *Duplication* is a caller that got no answer and asked again. Whoever repeats a request sends the same bytes
//!   anew, to whoever listens at the address by then, over another connection that greets anew; and the first copy may
//!   arrive all the same, before it or long after. Here the network plays that caller: the copy meets whatever the
//!   receiver has become since, and its answer goes nowhere. No payload's method is spared: consensus sends an
//!   append again after a failure as well as the router sends a request (rule L7).
//! - *A cut* swallows messages of one direction, those under way as well. A connection survives it.
//! - *A process that ends* leaves a system that answers for it: its connections are reset. A machine without power
//!   answers nothing, also not those who connect.
//!
//! # Who runs what
//!
//! What is under way belongs to the world outside, and outlives its sender. What has arrived belongs to the machine that it
//! arrived at: it waits while that is paused, and dies with it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::{Future, pending},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::weather::{Fate, Skies, Weather};
use crate::{
    chaos::{
        kernel::OUTSIDE,
        trace::{Event, Leg, Loss, Tracer, digest},
    },
    runtime::{Either, Spawner, select2, sleep, timeout, watch},
    transport::{
        BindError, CallError, Handler, Identity, Lane, Method, NotSent, Peer, Stage, Transport, Unanswered,
        local::{Greeted, check_size, conclude, nobody_listens, told_wait},
        pipe,
        serving::{self, Answer},
    },
};

/// A caller gives up connecting after this long, as over TCP.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How an end of the network ceased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// Its process ended: its system resets the connections.
    Reset,
    /// Its machine has no power.
    Silent,
}

/// A simulated network. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    tracer: Tracer,
    skies: Mutex<Skies>,
    ends: Mutex<Ends>,
    messages: AtomicU64,
}

#[derive(Default)]
struct Ends {
    /// Whose address it is.
    agents: BTreeMap<String, usize>,
    listening: BTreeMap<String, Arc<End>>,
    /// All, those that only call as well, in the order of their making.
    all: Vec<Arc<End>>,
    /// Without power.
    dark: BTreeSet<String>,
}

/// One side of the network, for one life of its machine.
struct End {
    agent: usize,
    address: String,
    spawner: Spawner,
    identity: watch::Receiver<Identity>,
    handler: watch::Sender<Option<Arc<dyn Handler>>>,
    /// Its connections to others.
    pipes: Mutex<BTreeMap<(String, Lane), Arc<Slot>>>,
    death: Mutex<Option<Death>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What is left of an end: it and its agent own each other, and nobody has told the agent to stop.
pub(crate) struct Remains(Arc<End>);

impl Drop for Remains {
    fn drop(&mut self) {
        self.0.handler.send_replace(None);
        lock(&self.0.pipes).clear();
    }
}

/// Who calls first connects, and the others wait for it.
type Slot = tokio::sync::Mutex<Option<Arc<Pipe>>>;

/// A connection.
struct Pipe {
    greeted: Greeted,
    host: Arc<End>,
    flight: Arc<Semaphore>,
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
enum Reply {
    Answered(Answer),
    /// The connection broke.
    Broke,
    /// Nothing, for ever.
    Silence,
}

impl Network {
    /// A network in which nobody listens yet.
    pub(crate) fn new(seed: u64, weather: Weather, tracer: Tracer) -> Self {
        let shared = Shared {
            tracer,
            skies: Mutex::new(Skies::new(seed, weather)),
            ends: Mutex::default(),
            messages: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The address is this agent's.
    pub(crate) fn assign(&self, address: &str, agent: usize) {
        lock(&self.shared.ends).agents.insert(address.to_owned(), agent);
    }

    /// Changes what happens to messages.
    pub(super) fn change(&self, change: impl FnOnce(&mut Skies)) {
        change(&mut lock(&self.shared.skies));
    }

    /// A transport that listens, of the present life of the present machine.
    pub(crate) fn bind(
        &self,
        agent: usize,
        listen: &str,
        identity: watch::Receiver<Identity>,
    ) -> Result<SimTransport, BindError> {
        let end = Arc::new(End::new(agent, listen, identity));
        let mut ends = lock(&self.shared.ends);
        if ends.listening.contains_key(listen) {
            return Err(BindError::Taken { address: listen.to_owned() });
        }
        ends.listening.insert(listen.to_owned(), Arc::clone(&end));
        ends.all.push(Arc::clone(&end));
        Ok(SimTransport { shared: Arc::clone(&self.shared), end, listens: true })
    }

    /// A transport that only calls.
    #[cfg(test)]
    pub(crate) fn caller(
        &self,
        agent: usize,
        name: &str,
        identity: watch::Receiver<Identity>,
    ) -> SimTransport {
        let end = Arc::new(End::new(agent, name, identity));
        lock(&self.shared.ends).all.push(Arc::clone(&end));
        SimTransport { shared: Arc::clone(&self.shared), end, listens: false }
    }

    /// Takes an address off the network, as its process or its machine goes. What is returned is dropped when that has
    /// gone.
    pub(crate) fn unplug(&self, address: &str, death: Death) -> Option<Remains> {
        let end = {
            let mut ends = lock(&self.shared.ends);
            if death == Death::Silent {
                ends.dark.insert(address.to_owned());
            }
            ends.listening.remove(address)
        };
        let end = end?;
        self.shared.bury(&end, death);
        Some(Remains(end))
    }

    /// The machine has power again.
    pub(crate) fn power_up(&self, address: &str) {
        lock(&self.shared.ends).dark.remove(address);
    }
}

impl Shared {
    fn roll(&self, from: usize, to: usize) -> Fate {
        lock(&self.skies).roll(from, to)
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        lock(&self.skies).is_cut(from, to)
    }

    fn is_dark(&self, address: &str) -> bool {
        lock(&self.ends).dark.contains(address)
    }

    fn lost(&self, message: u64, leg: Leg, why: Loss) {
        self.tracer.note(Event::Lost { message, leg, why });
    }

    /// Starts a task that no machine takes with it.
    fn outside(task: impl Future<Output = ()> + Send + 'static) {
        Spawner::at(OUTSIDE).spawn(task);
    }

    /// An end is no more. Word of it reaches those who are connected with it, if it can.
    fn bury(self: &Arc<Self>, end: &Arc<End>, death: Death) {
        if end.is_gone() {
            return;
        }
        *lock(&end.death) = Some(death);
        let others = {
            let mut ends = lock(&self.ends);
            ends.all.retain(|other| !Arc::ptr_eq(other, end));
            ends.all.clone()
        };
        if death == Death::Silent {
            return;
        }
        let pipes_of = |end: &End| -> Vec<Arc<Pipe>> {
            // One that is locked is being made.
            lock(&end.pipes).values().filter_map(|slot| slot.try_lock().ok()?.clone()).collect()
        };
        for pipe in pipes_of(end) {
            let host = pipe.host.agent;
            self.tell(end.agent, host, move || pipe.over.cancel());
        }
        for caller in others {
            for pipe in pipes_of(&caller).into_iter().filter(|pipe| Arc::ptr_eq(&pipe.host, end)) {
                self.tell(end.agent, caller.agent, move || pipe.broken.store(true, Ordering::Relaxed));
            }
        }
    }

    /// Word of an end, on its way from one agent's machine to another's.
    fn tell(self: &Arc<Self>, from: usize, to: usize, tell: impl FnOnce() + Send + 'static) {
        let (shared, fate) = (Arc::clone(self), self.roll(from, to));
        Self::outside(async move {
            sleep(fate.delay).await;
            if !shared.is_cut(from, to) {
                tell();
            }
        });
    }

    /// Sends a request over a connection. What comes back is told by the receiver, or by its end.
    fn post(
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
                pipe.broken.store(true, Ordering::Relaxed);
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
            pipe.broken.store(true, Ordering::Relaxed);
        }
        let _ = tell.send(reply);
    }

    /// A caller's second attempt is at the door of whoever has the address now.
    fn deliver_copy(&self, from: &End, to: &Peer, lane: Lane, request: Request) {
        let (message, leg) = (request.message, Leg::Copy);
        let host = lock(&self.ends).listening.get(&to.address).cloned();
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
            Poll::Ready(answer) => shared.answer(message, &pipe.host, from, answer, back),
            Poll::Pending => Arc::clone(&pipe.host).spawn(async move {
                if let Either::Second(answer) = select2(pipe.over.cancelled(), running).await {
                    shared.answer(message, &pipe.host, from, answer, back);
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

impl End {
    fn new(agent: usize, address: &str, identity: watch::Receiver<Identity>) -> Self {
        Self {
            agent,
            address: address.to_owned(),
            spawner: Spawner::current(),
            identity,
            handler: watch::Sender::new(None),
            pipes: Mutex::default(),
            death: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawner.spawn(self.tasks.track_future(async move {
            select2(stop.cancelled(), task).await;
        }));
    }

    fn is_gone(&self) -> bool {
        lock(&self.death).is_some()
    }

    /// The handler, once there is one.
    async fn handler(&self) -> Result<Arc<dyn Handler>, watch::RecvError> {
        let mut handlers = self.handler.subscribe();
        let found = handlers.wait_for(Option::is_some).await?;
        found.clone().ok_or(watch::RecvError)
    }
}

impl Pipe {
    /// Whether a caller would use it.
    fn is_good(&self, caller: &End) -> bool {
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

/// An agent's end of a simulated [`Network`].
pub(crate) struct SimTransport {
    shared: Arc<Shared>,
    end: Arc<End>,
    listens: bool,
}

impl SimTransport {
    fn leave(&self) {
        self.end.stop.cancel();
        self.end.handler.send_replace(None);
        {
            let mut ends = lock(&self.shared.ends);
            if ends.listening.get(&self.end.address).is_some_and(|end| Arc::ptr_eq(end, &self.end)) {
                ends.listening.remove(&self.end.address);
            }
        }
        self.shared.bury(&self.end, Death::Reset);
        lock(&self.end.pipes).clear();
    }

    /// The connection to a peer, made now if there is none.
    async fn pipe(&self, to: &Peer, lane: Lane) -> Result<Arc<Pipe>, NotSent> {
        let slot = lock(&self.end.pipes).entry((to.address.clone(), lane)).or_default().clone();
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
        let Some(them) = lock(&shared.ends).agents.get(&to.address).copied() else {
            return Err(nobody_listens());
        };
        let (there, back) = (shared.roll(us, them), shared.roll(them, us));
        sleep(there.delay).await;
        if shared.is_cut(us, them) || there.lost.is_some() || shared.is_dark(&to.address) {
            return pending().await;
        }
        let host = lock(&shared.ends).listening.get(&to.address).cloned();
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
                    Err(_) if *lock(&host.death) == Some(Death::Silent) => return pending().await,
                    Err(_) => Err(nobody_listens()),
                }
            }
        };
        sleep(back.delay).await;
        if shared.is_cut(them, us) || back.lost.is_some() {
            return pending().await;
        }
        let (greeted, Some(host)) = (greeted?, host) else { return Err(nobody_listens()) };
        let pipe = Arc::new(Pipe {
            greeted,
            host: Arc::clone(&host),
            flight: pipe::flight(),
            inbox: Mutex::default(),
            bell: Notify::new(),
            broken: AtomicBool::new(false),
            over: CancellationToken::new(),
        });
        host.spawn(Arc::clone(&pipe).read(Arc::clone(shared)));
        Ok(pipe)
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
        pipe.greeted.check(to)?;
        stage.queueing();
        let slot = pipe::room(&pipe.flight, pipe::units(payload.len())).await;
        let slot = slot.map_err(|_| NotSent::ShutDown)?;
        stage.sent();
        let request = (method, payload, told_wait(method, within));
        let reply = self.shared.post(&self.end, to, &pipe, request, slot).await;
        let detail = match reply {
            Ok(Reply::Answered(answer)) => return Ok(Ok(answer)),
            Ok(Reply::Silence) => return pending().await,
            Ok(Reply::Broke) => "the connection broke",
            // What the host was doing ended with it.
            Err(_) => {
                let (us, them) = (self.end.agent, pipe.host.agent);
                sleep(self.shared.roll(them, us).delay).await;
                let silent = *lock(&pipe.host.death) == Some(Death::Silent);
                if silent || self.shared.is_cut(them, us) {
                    return pending().await;
                }
                "the other side is gone"
            }
        };
        pipe.broken.store(true, Ordering::Relaxed);
        Ok(Err(Unanswered::ConnectionLost { detail: detail.to_owned() }))
    }
}

#[async_trait]
impl Transport for SimTransport {
    fn address(&self) -> Option<&str> {
        self.listens.then_some(self.end.address.as_str())
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        if self.listens && !self.end.stop.is_cancelled() {
            self.end.handler.send_if_modified(|present| {
                let first = present.is_none();
                present.get_or_insert(handler);
                first
            });
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
        let attempt = self.attempt(to, lane, (method, payload, within), &stage);
        conclude(to, within, &self.end.stop, &stage, attempt).await
    }

    async fn shutdown(&self) {
        self.leave();
        self.end.tasks.close();
        self.end.tasks.wait().await;
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        self.leave();
    }
}
