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
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    delivery::Pipe,
    link::SimTransport,
    weather::{Fate, Skies, Weather},
};
use crate::{
    chaos::{
        kernel::OUTSIDE,
        trace::{Event, Leg, Loss, Tracer},
    },
    runtime::{Spawner, select2, sleep, watch},
    transport::{BindError, Handler, Identity, Lane},
};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

pub(super) struct Shared {
    pub(super) tracer: Tracer,
    skies: Mutex<Skies>,
    ends: Mutex<Ends>,
    pub(super) messages: AtomicU64,
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
pub(super) struct End {
    pub(super) agent: usize,
    pub(super) address: String,
    spawner: Spawner,
    pub(super) identity: watch::Receiver<Identity>,
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
        self.0.let_go();
    }
}

/// Who calls first connects, and the others wait for it.
pub(super) type Slot = tokio::sync::Mutex<Option<Arc<Pipe>>>;

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
        Ok(SimTransport::new(&self.shared, end, true))
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
        SimTransport::new(&self.shared, end, false)
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
    pub(super) fn roll(&self, from: usize, to: usize) -> Fate {
        lock(&self.skies).roll(from, to)
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        lock(&self.skies).is_cut(from, to)
    }

    pub(super) fn is_dark(&self, address: &str) -> bool {
        lock(&self.ends).dark.contains(address)
    }

    pub(super) fn lost(&self, message: u64, leg: Leg, why: Loss) {
        self.tracer.note(Event::Lost { message, leg, why });
    }

    /// Whose address it is.
    pub(super) fn agent_at(&self, address: &str) -> Option<usize> {
        lock(&self.ends).agents.get(address).copied()
    }

    /// Who listens there now.
    pub(super) fn listening(&self, address: &str) -> Option<Arc<End>> {
        lock(&self.ends).listening.get(address).cloned()
    }

    /// An end leaves the network by itself.
    pub(super) fn leave(self: &Arc<Self>, end: &Arc<End>) {
        end.stop.cancel();
        {
            let mut ends = lock(&self.ends);
            if ends.listening.get(&end.address).is_some_and(|other| Arc::ptr_eq(other, end)) {
                ends.listening.remove(&end.address);
            }
        }
        self.bury(end, Death::Reset);
        end.let_go();
    }

    /// Starts a task that no machine takes with it.
    pub(super) fn outside(task: impl Future<Output = ()> + Send + 'static) {
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
            self.tell(end.agent, host, move || pipe.end());
        }
        for caller in others {
            for pipe in pipes_of(&caller).into_iter().filter(|pipe| Arc::ptr_eq(&pipe.host, end)) {
                self.tell(end.agent, caller.agent, move || pipe.break_off());
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

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawner.spawn(self.tasks.track_future(async move {
            select2(stop.cancelled(), task).await;
        }));
    }

    /// Frees what keeps it and others alive in a circle.
    fn let_go(&self) {
        self.handler.send_replace(None);
        lock(&self.pipes).clear();
    }

    /// Begins to answer, unless it does already or has stopped.
    pub(super) fn serve(&self, handler: Arc<dyn Handler>) {
        if !self.stop.is_cancelled() {
            self.handler.send_if_modified(|present| {
                let first = present.is_none();
                present.get_or_insert(handler);
                first
            });
        }
    }

    /// Where the connection to a peer is kept.
    pub(super) fn slot(&self, address: &str, lane: Lane) -> Arc<Slot> {
        lock(&self.pipes).entry((address.to_owned(), lane)).or_default().clone()
    }

    /// Resolves when it stops.
    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Resolves when all its tasks have ended.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Whether its machine lost its power.
    pub(super) fn is_silent(&self) -> bool {
        *lock(&self.death) == Some(Death::Silent)
    }

    pub(super) fn is_gone(&self) -> bool {
        lock(&self.death).is_some()
    }

    /// The handler, once there is one.
    pub(super) async fn handler(&self) -> Result<Arc<dyn Handler>, watch::RecvError> {
        let mut handlers = self.handler.subscribe();
        let found = handlers.wait_for(Option::is_some).await?;
        found.clone().ok_or(watch::RecvError)
    }
}
