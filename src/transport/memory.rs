//! The network inside one process: the contract of the TCP one, and switches for its faults.
//!
//! The greetings are the same, byte for byte, and so are the bounds and the order in which requests start. What
//! differs: there are no connections to lose. A cut makes messages vanish, as a network does that drops packets, so
//! a call across it ends as unknown when its time is up; where callers shall be told at once, *refuse* instead.

mod faults;

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    oneshot::{self, error::TryRecvError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::faults::{Fate, Fault, Faults};
use super::{
    Handler, Identity, Lane, Method, Peer, Transport,
    error::{BindError, CallError, NotSent, Stage, Unanswered},
    local::{Greeted, check_size, conclude, nobody_listens, told_wait},
    pipe,
    serving::{self, Answer, Running},
};
use crate::runtime::{self, Either, select2, sleep, watch};

/// A network inside one process, for tests, demonstrations and simulations: make one, and hand it to several agents.
///
/// Agents are told apart by their addresses, any texts. Everything here is from the one to the other, in that direction
/// only, unless it says otherwise; it holds for messages that are under way as well, and for answers as for requests.
/// Clones are the same network.
///
/// All agents of a network run on one tokio runtime.
#[derive(Clone)]
pub struct InProcessNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    faults: Mutex<Faults>,
    ends: Mutex<BTreeMap<String, Arc<End>>>,
    /// Told whenever a fault changes, so that held messages look again.
    changed: watch::Sender<()>,
}

impl InProcessNetwork {
    /// A sound network. The seed is for the dice that decide which messages get lost.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let shared = Shared {
            faults: Mutex::new(Faults::new(seed)),
            ends: Mutex::new(BTreeMap::new()),
            changed: watch::Sender::new(()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Messages vanish, until [`heal`](Self::heal). The sender is told nothing.
    pub fn cut(&self, from: &str, to: &str) {
        self.change(from, to, |fault| fault.cut = true);
    }

    /// Messages vanish in both directions, until [`heal_both`](Self::heal_both).
    pub fn cut_both(&self, one: &str, other: &str) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Requests are refused at once, as by a machine on which nobody listens, until [`heal`](Self::heal). Answers
    /// vanish.
    pub fn refuse(&self, from: &str, to: &str) {
        self.change(from, to, |fault| fault.refused = true);
    }

    /// Messages arrive again: undoes [`cut`](Self::cut) and [`refuse`](Self::refuse).
    pub fn heal(&self, from: &str, to: &str) {
        self.change(from, to, |fault| (fault.cut, fault.refused) = (false, false));
    }

    /// [`heal`](Self::heal) in both directions.
    pub fn heal_both(&self, one: &str, other: &str) {
        self.heal(one, other);
        self.heal(other, one);
    }

    /// Cuts an address off from all others, in both directions, until [`rejoin`](Self::rejoin).
    pub fn isolate(&self, address: &str) {
        self.with_faults(|faults| faults.isolate(address));
    }

    /// Undoes [`isolate`](Self::isolate); cuts between pairs stay.
    pub fn rejoin(&self, address: &str) {
        self.with_faults(|faults| faults.rejoin(address));
    }

    /// Messages take this long; zero undoes it. They keep their order.
    pub fn delay(&self, from: &str, to: &str, delay: Duration) {
        self.change(from, to, |fault| fault.delay = delay);
    }

    /// Messages get lost with this probability, from 0 to 1; zero undoes it.
    pub fn lose(&self, from: &str, to: &str, probability: f64) {
        // The cast is the rounding that is meant; beyond 0 and 1 it is clamped.
        let loss = (probability.clamp(0.0, 1.0) * 2f64.powi(32)) as u64;
        self.change(from, to, |fault| fault.loss = loss);
    }

    /// Messages stand still, until [`release`](Self::release), and then arrive in their order.
    pub fn hold(&self, from: &str, to: &str) {
        self.change(from, to, |fault| fault.held = true);
    }

    /// Undoes [`hold`](Self::hold).
    pub fn release(&self, from: &str, to: &str) {
        self.change(from, to, |fault| fault.held = false);
    }

    /// Undoes every fault.
    pub fn heal_all(&self) {
        self.with_faults(Faults::heal);
    }

    fn change(&self, from: &str, to: &str, change: impl FnOnce(&mut Fault)) {
        self.with_faults(|faults| faults.change(from, to, change));
    }

    fn with_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut lock(&self.shared.faults));
        self.shared.changed.send_replace(());
    }

    /// A transport that listens on this address.
    ///
    /// # Errors
    /// [`BindError::Taken`] when another one does.
    pub(crate) fn bind(
        &self,
        listen: &str,
        identity: watch::Receiver<Identity>,
    ) -> Result<InProcessTransport, BindError> {
        let end = Arc::new(End::new(listen, identity));
        let mut ends = lock(&self.shared.ends);
        if ends.contains_key(listen) {
            return Err(BindError::Taken { address: listen.to_owned() });
        }
        ends.insert(listen.to_owned(), Arc::clone(&end));
        Ok(InProcessTransport { network: self.clone(), end, listens: true })
    }

    /// A transport that only calls. The name stands for its address where faults are set.
    pub(crate) fn caller(&self, name: &str, identity: watch::Receiver<Identity>) -> InProcessTransport {
        InProcessTransport { network: self.clone(), end: Arc::new(End::new(name, identity)), listens: false }
    }
}

impl std::fmt::Debug for InProcessNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses: Vec<_> = lock(&self.shared.ends).keys().cloned().collect();
        f.debug_struct("InProcessNetwork").field("addresses", &addresses).finish_non_exhaustive()
    }
}

impl Shared {
    /// Takes one message to its destination. `false`: it vanished.
    async fn carry(&self, from: &str, to: &str, mut fate: Fate) -> bool {
        let mut changes = self.changed.subscribe();
        loop {
            fate = match fate {
                Fate::Vanishes | Fate::Refused => return false,
                Fate::Arrives { after } if after.is_zero() => return true,
                Fate::Arrives { after } => {
                    sleep(after).await;
                    match self.present(from, to) {
                        Fate::Arrives { .. } => return true,
                        changed => changed,
                    }
                }
                Fate::Held => match self.present(from, to) {
                    Fate::Held => {
                        // It can't fail: the sender is a field of this very value.
                        let _ = changes.changed().await;
                        self.present(from, to)
                    }
                    changed => changed,
                },
            };
        }
    }

    fn send(&self, from: &str, to: &str) -> Fate {
        lock(&self.faults).send(from, to)
    }

    fn present(&self, from: &str, to: &str) -> Fate {
        lock(&self.faults).present(from, to)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One side of the network.
struct End {
    address: String,
    identity: watch::Receiver<Identity>,
    handler: watch::Sender<Option<Arc<dyn Handler>>>,
    /// What stands for the connections that others have to this one, by their address and lane.
    pipes: Mutex<BTreeMap<(String, Lane), Pipe>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What stands for a connection.
#[derive(Clone)]
struct Pipe {
    greeted: Greeted,
    flight: Arc<Semaphore>,
    /// Resolves when the last request has begun, so that the next one doesn't overtake it.
    last: Arc<Mutex<Option<oneshot::Receiver<()>>>>,
}

impl End {
    fn new(address: &str, identity: watch::Receiver<Identity>) -> Self {
        Self {
            address: address.to_owned(),
            identity,
            handler: watch::Sender::new(None),
            pipes: Mutex::new(BTreeMap::new()),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        runtime::spawn(self.tasks.track_future(async move {
            select2(stop.cancelled(), task).await;
        }));
    }

    /// The handler, once there is one.
    async fn handler(&self) -> Result<Arc<dyn Handler>, NotSent> {
        if let Some(handler) = &*self.handler.borrow() {
            return Ok(Arc::clone(handler));
        }
        let mut handlers = self.handler.subscribe();
        let served =
            async { handlers.wait_for(Option::is_some).await.ok().and_then(|handler| handler.clone()) };
        match select2(self.stop.cancelled(), served).await {
            Either::Second(Some(handler)) => Ok(handler),
            Either::First(()) | Either::Second(None) => Err(nobody_listens()),
        }
    }

    /// The pipe from a caller to this end, with greetings made anew when one of the two has changed.
    fn pipe(&self, from: &Self, lane: Lane, handler: &dyn Handler) -> Result<Pipe, NotSent> {
        let (caller, host) = (from.identity.borrow().clone(), self.identity.borrow().clone());
        let place = (from.address.clone(), lane);
        let before = lock(&self.pipes).get(&place).cloned();
        if let Some(pipe) = before.filter(|pipe| pipe.greeted.holds(&caller, &host)) {
            return Ok(pipe);
        }
        let greeted = Greeted::now(&caller, &from.address, lane, &host, handler)?;
        let pipe = Pipe { greeted, flight: pipe::flight(), last: Arc::new(Mutex::new(None)) };
        lock(&self.pipes).insert(place, pipe.clone());
        Ok(pipe)
    }
}

/// An agent's, or a client's, end of an [`InProcessNetwork`].
pub(crate) struct InProcessTransport {
    network: InProcessNetwork,
    end: Arc<End>,
    listens: bool,
}

impl InProcessTransport {
    /// Gives the address free, unless somebody else has it already.
    fn leave(&self) {
        self.end.stop.cancel();
        self.end.handler.send_replace(None);
        let mut ends = lock(&self.network.shared.ends);
        if ends.get(&self.end.address).is_some_and(|end| Arc::ptr_eq(end, &self.end)) {
            ends.remove(&self.end.address);
        }
    }

    async fn attempt(
        &self,
        to: &Peer,
        lane: Lane,
        method: Method,
        payload: Bytes,
        within: Duration,
        stage: &Stage,
    ) -> Result<Result<Answer, Unanswered>, NotSent> {
        let (network, from) = (&self.network.shared, &self.end);
        let fate = network.send(&from.address, &to.address);
        match fate {
            Fate::Refused => return Err(nobody_listens()),
            Fate::Vanishes => {
                stage.sent();
                return pending().await;
            }
            Fate::Held | Fate::Arrives { .. } => {}
        }
        let Some(host) = lock(&network.ends).get(&to.address).cloned() else { return Err(nobody_listens()) };
        let handler = host.handler().await?;
        let pipe = host.pipe(from, lane, &*handler)?;
        pipe.greeted.check(to)?;
        stage.queueing();
        let slot = pipe::room(&pipe.flight, pipe::units(payload.len())).await;
        let slot = slot.map_err(|_| NotSent::ShutDown)?;
        let within = told_wait(method, within);
        let running = serving::run(handler, Arc::clone(&pipe.greeted.caller), method, payload, within);
        stage.sent();

        let (begun, next) = oneshot::channel();
        let before = lock(&pipe.last).replace(next);
        let (reply, answer) = oneshot::channel();
        let delivery = Delivery {
            network: Arc::clone(network),
            from: from.address.clone(),
            host: Arc::clone(&host),
            slot,
            reply,
        };
        delivery.start(fate, before, begun, running).await;
        match answer.await {
            Ok(Some(answer)) => Ok(Ok(answer)),
            Ok(None) => pending().await,
            // The host was shut down: its connections break, if word of it gets here.
            Err(_) if network.present(&to.address, &from.address) == Fate::Vanishes => pending().await,
            Err(_) => {
                let detail = "the other side was shut down".to_owned();
                Ok(Err(Unanswered::ConnectionLost { detail }))
            }
        }
    }
}

/// A request on its way to the host, and its answer on the way back.
struct Delivery {
    network: Arc<Shared>,
    from: String,
    host: Arc<End>,
    slot: OwnedSemaphorePermit,
    /// `None`: no answer will come, nor word of it.
    reply: oneshot::Sender<Option<Answer>>,
}

impl Delivery {
    /// Delivers at once where nothing is in the way, and otherwise leaves it to a task of the host's.
    async fn start(
        self,
        fate: Fate,
        mut before: Option<oneshot::Receiver<()>>,
        begun: oneshot::Sender<()>,
        mut running: Running,
    ) {
        let waits = |before: &mut oneshot::Receiver<()>| before.try_recv() == Err(TryRecvError::Empty);
        if fate == (Fate::Arrives { after: Duration::ZERO }) && !before.as_mut().is_some_and(waits) {
            let beginning = serving::begin(&mut running).await;
            drop(begun);
            return match beginning {
                Poll::Ready(answer) => self.answer(answer).await,
                Poll::Pending => self.host.clone().spawn(async move { self.answer(running.await).await }),
            };
        }
        self.host.clone().spawn(async move {
            if !self.network.carry(&self.from, &self.host.address, fate).await {
                let _ = self.reply.send(None);
                return;
            }
            if let Some(before) = before {
                // Begun, or gone: either way it is this one's turn.
                let _ = before.await;
            }
            let beginning = serving::begin(&mut running).await;
            drop(begun);
            let answer = match beginning {
                Poll::Ready(answer) => answer,
                Poll::Pending => running.await,
            };
            self.answer(answer).await;
        });
    }

    /// Takes the answer back.
    async fn answer(self, answer: Option<Answer>) {
        let Self { network, from, host, slot, reply } = self;
        drop(slot);
        let arrived = match answer {
            Some(answer) => {
                let fate = network.send(&host.address, &from);
                network.carry(&host.address, &from, fate).await.then_some(answer)
            }
            // The caller's time is up.
            None => None,
        };
        let _ = reply.send(arrived);
    }
}

#[async_trait]
impl Transport for InProcessTransport {
    fn address(&self) -> Option<&str> {
        self.listens.then_some(self.end.address.as_str())
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        if self.listens && !self.end.stop.is_cancelled() {
            self.end.handler.send_if_modified(|present| {
                let first = present.is_none();
                if first {
                    *present = Some(handler);
                }
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
        let attempt = self.attempt(to, lane, method, payload, within, &stage);
        conclude(to, within, &self.end.stop, &stage, attempt).await
    }

    async fn shutdown(&self) {
        self.leave();
        self.end.tasks.close();
        self.end.tasks.wait().await;
    }
}

impl Drop for InProcessTransport {
    fn drop(&mut self) {
        self.leave();
    }
}
