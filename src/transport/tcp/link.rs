//! The calling side: one link for each address and lane, with at most one connection that all its calls share.
//!
//! A link connects when it is called, and after a failure not before a pause, which doubles up to a bound: meanwhile
//! calls fail at once. Dialling and reading are one task's work, so that a call that is dropped takes nothing away from
//! the others.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, lookup_host},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};
use tokio_util::sync::DropGuard;

use super::{
    super::{
        Identity, Lane, Method, Peer, Role, Security,
        error::{CallError, NotSent, Refusal, Stage, Unanswered, tame},
        frame::{Frame, Kind},
        handshake::{self, Host},
        pipe::{self, Closed, Event, FrameReader, Outbox},
    },
    Settings, Shared, set_up,
    stream::{self, Reader, Stream},
};
use crate::runtime::{Either, random_between, select2, sleep, timeout, watch};

/// What came back.
enum Reply {
    Response(Bytes),
    Refusal(Refusal),
    Busy,
    Lost(Unanswered),
}

/// The calls that wait for an answer on one connection.
struct Calls {
    waiting: Mutex<Waiting>,
    /// Something came after the handshake: the peer is sound, and a loss is no reason to pause.
    proven: AtomicBool,
}

struct Waiting {
    next: u64,
    /// By call id, so that a lost connection tells its calls in the order in which they were made. Each with the room that it
    /// takes until it is answered, whether or not anybody looks at the answer then.
    calls: BTreeMap<u64, (oneshot::Sender<Reply>, OwnedSemaphorePermit)>,
    /// Why no call is taken any more.
    lost: Option<Unanswered>,
    /// Ticks since the last call.
    idle_ticks: u32,
}

impl Calls {
    fn new() -> Self {
        let waiting = Waiting { next: 1, calls: BTreeMap::new(), lost: None, idle_ticks: 0 };
        Self { waiting: Mutex::new(waiting), proven: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new call id and where its answer comes; `None` when the connection is lost.
    fn register(
        self: &Arc<Self>,
        room: OwnedSemaphorePermit,
    ) -> Option<(Registered, oneshot::Receiver<Reply>)> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.lost.is_some() {
            return None;
        }
        let id = waiting.next;
        waiting.next += 1;
        waiting.idle_ticks = 0;
        waiting.calls.insert(id, (reply, room));
        Some((Registered { calls: Arc::clone(self), id }, answer))
    }

    /// Hands over an answer. One that nobody waits for any more is ignored: its call was told "unknown".
    fn answer(&self, id: u64, reply: Reply) {
        let call = self.lock().calls.remove(&id);
        match call {
            Some((call, _room)) => drop(call.send(reply)),
            None => tracing::trace!(id, "an answer came after its call had ended"),
        }
    }

    /// Ends all calls. The first reason stays.
    fn lose(&self, reason: Unanswered) {
        let mut waiting = self.lock();
        let reason = waiting.lost.get_or_insert(reason).clone();
        let calls = std::mem::take(&mut waiting.calls);
        drop(waiting);
        for (call, _room) in calls.into_values() {
            drop(call.send(Reply::Lost(reason.clone())));
        }
    }

    fn is_lost(&self) -> bool {
        self.lock().lost.is_some()
    }

    /// Another tick without a call: closes the connection after so many. No call can slip in between.
    fn close_if_idle(&self, ticks: u32) -> bool {
        let mut waiting = self.lock();
        waiting.idle_ticks = if waiting.calls.is_empty() { waiting.idle_ticks + 1 } else { 0 };
        let close = waiting.idle_ticks > ticks;
        if close {
            waiting.lost = Some(Unanswered::ConnectionLost { detail: "it was idle".to_owned() });
        }
        close
    }
}

/// A call's place among those that wait; given up when the call ends or is dropped.
struct Registered {
    calls: Arc<Calls>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Dropped when the lock is free again.
        let call = self.calls.lock().calls.remove(&self.id);
        drop(call);
    }
}

/// A connection after its handshake.
struct Connection {
    host: Host,
    /// Who this side said it was.
    greeted_as: Identity,
    /// Whose certificate the other side has.
    peer: Arc<stream::Peer>,
    calls: Arc<Calls>,
    outbox: Outbox,
    flight: Arc<Semaphore>,
    /// Another one, with this side's new certificates, is being made.
    renewing: Arc<AtomicBool>,
    /// The last call that uses a connection, once its link has let it go, ends it.
    _stop: DropGuard,
}

impl Connection {
    /// Lost, or made by this side under another identity than the present one.
    fn is_stale(&self, shared: &Shared) -> bool {
        let ours = shared.identity.borrow();
        ours.cluster != self.greeted_as.cluster || ours.node != self.greeted_as.node || self.calls.is_lost()
    }

    /// Asks and waits for the answer; `None` when the connection was lost before anything was sent.
    async fn ask(&self, method: Method, payload: Bytes, within: Duration, stage: &Stage) -> Option<Reply> {
        let room = pipe::room(&self.flight, pipe::units(payload.len())).await.ok()?;
        let (registered, answer) = self.calls.register(room)?;
        let request = Frame::request(method, registered.id, within, payload);
        if self.outbox.push(request).await == Err(Closed) {
            // Now, not when the reading task comes to it: who took this connection for a sound one, again and again, would keep
            // that task from coming to it.
            self.calls.lose(Unanswered::ConnectionLost { detail: "it was closed".to_owned() });
            return None;
        }
        stage.sent();
        Some(answer.await.unwrap_or(Reply::Lost(Unanswered::ShutDown)))
    }
}

/// What connecting and greeting have come to.
struct Connected {
    stream: Stream,
    peer: stream::Peer,
    host: Host,
    greeted_as: Identity,
}

#[derive(Clone)]
enum State {
    /// The next call dials. So many attempts in a row have failed.
    Idle {
        failures: u32,
    },
    Dialling,
    Up(Arc<Connection>),
    /// Calls fail until the pause is over.
    Down {
        reason: NotSent,
    },
}

/// All that one transport has with one address on one lane.
pub(super) struct Link {
    address: String,
    lane: Lane,
    state: watch::Sender<State>,
}

impl Link {
    pub(super) fn new(address: &str, lane: Lane) -> Self {
        Self { address: address.to_owned(), lane, state: watch::Sender::new(State::Idle { failures: 0 }) }
    }

    /// Whether nothing is lost by forgetting it.
    pub(super) fn is_idle(&self) -> bool {
        matches!(*self.state.borrow(), State::Idle { .. })
    }

    /// What the other side has shown.
    #[cfg(feature = "tls")]
    pub(super) fn certificate(&self) -> Option<super::super::Certificate> {
        match &*self.state.borrow() {
            State::Up(connection) => connection.peer.certificate(),
            _ => None,
        }
    }

    /// See [`Transport::call`](super::super::Transport::call).
    pub(super) async fn call(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        to: &Peer,
        method: Method,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let stage = Stage::default();
        let attempt = timeout(within, self.attempt(shared, to, method, payload, within, &stage)).await;
        let not_sent = |reason| CallError::NotSent { address: self.address.clone(), reason };
        let unknown = |reason| CallError::Unknown { address: self.address.clone(), reason };
        match attempt {
            Ok(Ok(Reply::Response(response))) => Ok(response),
            Ok(Ok(Reply::Refusal(refusal))) => {
                Err(CallError::Refused { address: self.address.clone(), refusal })
            }
            Ok(Ok(Reply::Busy)) => Err(not_sent(NotSent::Busy)),
            Ok(Ok(Reply::Lost(reason))) => Err(unknown(reason)),
            Ok(Err(reason)) => Err(not_sent(reason)),
            Err(_) => Err(match stage.timed_out(within) {
                Ok(reason) => unknown(reason),
                Err(reason) => not_sent(reason),
            }),
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        to: &Peer,
        method: Method,
        payload: Bytes,
        within: Duration,
        stage: &Stage,
    ) -> Result<Reply, NotSent> {
        loop {
            let connection = self.connection(shared).await?;
            if let Some(expected) = to.node
                && connection.host.node != Some(expected)
            {
                return Err(NotSent::WrongNode { expected, found: connection.host.node });
            }
            stage.queueing();
            if let Some(reply) = connection.ask(method, payload.clone(), within, stage).await {
                return Ok(reply);
            }
            // Lost while the call waited for its turn, so nothing was sent: it may try the next connection.
            stage.connecting();
        }
    }

    /// The present connection, or the next one.
    async fn connection(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<Arc<Connection>, NotSent> {
        if let State::Up(connection) = &*self.state.borrow()
            && !connection.is_stale(shared)
        {
            if connection.peer.is_of_old_certificates() {
                self.renew(shared, connection);
            }
            return Ok(Arc::clone(connection));
        }
        let mut changes = self.state.subscribe();
        loop {
            if shared.stop.is_cancelled() {
                return Err(NotSent::ShutDown);
            }
            let state = changes.borrow_and_update().clone();
            match state {
                State::Up(connection) if !connection.is_stale(shared) => return Ok(connection),
                State::Down { reason } => return Err(reason),
                State::Dialling => {}
                State::Up(_) | State::Idle { .. } => self.dial(shared),
            }
            if changes.changed().await.is_err() {
                return Err(NotSent::ShutDown);
            }
        }
    }

    /// Starts to dial, unless somebody else has.
    fn dial(self: &Arc<Self>, shared: &Arc<Shared>) {
        let mut failures = 0;
        let begun = self.state.send_if_modified(|state| {
            match state {
                State::Up(connection) if connection.is_stale(shared) => failures = 0,
                State::Idle { failures: before } => failures = *before,
                _ => return false,
            }
            *state = State::Dialling;
            true
        });
        if begun {
            let (link, shared_too) = (Arc::clone(self), Arc::clone(shared));
            shared.spawn(async move { link.live(&shared_too, failures).await });
        }
    }

    /// Makes the next connection, with this side's new certificates, and goes on with the present one until it is there. That
    /// one was sound, and the other side says when it is no more; where the new one is refused, nothing is lost by trying.
    fn renew(self: &Arc<Self>, shared: &Arc<Shared>, connection: &Connection) {
        if connection.renewing.swap(true, Ordering::Relaxed) {
            return;
        }
        let (link, shared_too, renewing) = (self.clone(), shared.clone(), connection.renewing.clone());
        shared.spawn(async move {
            let connecting = link.connect(&shared_too);
            match select2(shared_too.stop.cancelled(), connecting).await {
                Either::First(()) => {}
                Either::Second(Ok(connected)) => {
                    if let Some(reason) = link.read(&shared_too, connected).await {
                        link.pause(&shared_too, reason, 0).await;
                    }
                }
                Either::Second(Err(reason)) => {
                    tracing::warn!(address = link.address, %reason, "not connected with the new certificates yet; the old connection goes on");
                    let pause = sleep(shared_too.settings.backoff_max);
                    let _: Either<(), ()> = select2(shared_too.stop.cancelled(), pause).await;
                    renewing.store(false, Ordering::Relaxed);
                }
            }
        });
    }

    /// The life of one connection: dial, read until it is lost, pause if it came to nothing.
    async fn live(&self, shared: &Arc<Shared>, failures: u32) {
        let dialled = match select2(shared.stop.cancelled(), self.connect(shared)).await {
            Either::First(()) => Err(NotSent::ShutDown),
            Either::Second(dialled) => dialled,
        };
        let reason = match dialled {
            Ok(connected) => match self.read(shared, connected).await {
                Some(reason) => reason,
                None => return,
            },
            Err(reason) => reason,
        };
        self.pause(shared, reason, failures).await;
    }

    /// Calls fail for a while.
    async fn pause(&self, shared: &Arc<Shared>, reason: NotSent, failures: u32) {
        tracing::debug!(address = self.address, lane = ?self.lane, %reason, "a link is down");
        self.state.send_replace(State::Down { reason });
        let pause = sleep(backoff(&shared.settings, failures));
        if let Either::Second(()) = select2(shared.stop.cancelled(), pause).await {
            self.state.send_if_modified(|state| {
                let is_down = matches!(state, State::Down { .. });
                if is_down {
                    *state = State::Idle { failures: failures.saturating_add(1) };
                }
                is_down
            });
        }
    }

    /// Connects and greets.
    async fn connect(&self, shared: &Arc<Shared>) -> Result<Connected, NotSent> {
        let within = shared.settings.connect_within;
        let stream = timeout(within, self.reach(&shared.settings.security)).await;
        let stream = stream.map_err(|_| NotSent::ConnectTimedOut { within })??;
        let ours = shared.identity.borrow().clone();
        let within = shared.settings.handshake_within;
        let greeting = timeout(within, async {
            let failed = |detail| NotSent::Handshake { detail };
            let security = &shared.settings.security;
            let (mut stream, peer) = stream::call(security, stream).await?;
            let hello = handshake::hello(&ours, self.lane);
            stream.write_all(&hello).await.map_err(|error| failed(error.to_string()))?;
            stream.flush().await.map_err(|error| failed(error.to_string()))?;
            let (head, body) = pipe::read_greeting(&mut stream).await.map_err(|e| failed(e.0))?;
            let host = handshake::conclude(&ours, &head, &body)?;
            if let Some(bearer) = peer.bearer() {
                // Only members answer.
                bearer.vouches_for(Role::Member, &host.agent, security).map_err(failed)?;
            }
            Ok((stream, peer, host))
        });
        let late = NotSent::Handshake { detail: format!("nobody answered the hello within {within:?}") };
        let (stream, peer, host) = greeting.await.unwrap_or(Err(late))?;
        tracing::debug!(address = self.address, lane = ?self.lane, peer = %host.agent, node = ?host.node,
            version = host.version, "connected");
        Ok(Connected { stream, peer, host, greeted_as: ours })
    }

    /// A TCP connection to the first of the address's hosts that takes one.
    async fn reach(&self, security: &Security) -> Result<TcpStream, NotSent> {
        let unresolved = |detail: String| NotSent::Unresolved { detail };
        let hosts = lookup_host(&self.address).await.map_err(|error| unresolved(error.to_string()))?;
        let mut last = unresolved("the name has no address".to_owned());
        for host in hosts {
            if !security.reaches(host.ip()) {
                let detail = "it is beyond this machine, and there are no certificates: give some (tls(…), --tls-…), or say danger_plaintext";
                last = NotSent::Unreachable { detail: detail.to_owned() };
                continue;
            }
            match TcpStream::connect(host).await.and_then(|stream| set_up(&stream).map(|()| stream)) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = NotSent::Unreachable { detail: error.to_string() },
            }
        }
        Err(last)
    }

    /// Publishes the connection and reads it until it is lost. Returns the reason if the link has to pause: when
    /// the peer took the connection, but nothing ever came from it.
    async fn read(
        &self,
        shared: &Arc<Shared>,
        Connected { stream, peer, host, greeted_as }: Connected,
    ) -> Option<NotSent> {
        let peer = Arc::new(peer);
        let (reader, writer) = stream.into_split();
        let stop = shared.stop.child_token();
        let calls = Arc::new(Calls::new());
        let (outbox, queue) = Outbox::new();
        let flight = pipe::flight();
        let connection = Connection {
            host,
            greeted_as,
            peer: Arc::clone(&peer),
            calls: Arc::clone(&calls),
            outbox: outbox.clone(),
            flight: Arc::clone(&flight),
            renewing: Arc::default(),
            _stop: stop.clone().drop_guard(),
        };
        shared.spawn({
            let (calls, stop, stall) = (Arc::clone(&calls), stop.clone(), shared.settings.write_stall);
            async move {
                let written = select2(stop.cancelled(), pipe::write_frames(writer, queue, stall)).await;
                if let Either::Second(Err(error)) = written {
                    calls.lose(Unanswered::ConnectionLost { detail: error.to_string() });
                }
                stop.cancel();
            }
        });
        self.state.send_replace(State::Up(Arc::new(connection)));

        let reader = FrameReader::new(reader, shared.settings.keepalive);
        let read = select2(peer.outlives(), receive(reader, &calls, &outbox, &shared.settings));
        let detail = match select2(stop.cancelled(), read).await {
            Either::First(()) => "it was closed".to_owned(),
            Either::Second(Either::First(detail) | Either::Second(detail)) => detail,
        };
        let down = shared.stop.is_cancelled();
        calls.lose(if down {
            Unanswered::ShutDown
        } else {
            Unanswered::ConnectionLost { detail: detail.clone() }
        });
        // Calls that wait for their turn see that it won't come.
        flight.close();
        stop.cancel();

        let proven = calls.proven.load(Ordering::Relaxed);
        let mut pause = None;
        self.state.send_if_modified(|state| match state {
            State::Up(current) if Arc::ptr_eq(&current.calls, &calls) => {
                if down || !proven {
                    let lost = NotSent::Unreachable { detail };
                    let reason = if down { NotSent::ShutDown } else { lost };
                    *state = State::Down { reason: reason.clone() };
                    pause = Some(reason);
                } else {
                    *state = State::Idle { failures: 0 };
                }
                true
            }
            // Another connection has taken its place.
            _ => false,
        });
        pause
    }
}

/// Hands out the answers that come, until none come any more; says why.
async fn receive(
    mut reader: FrameReader<Reader>,
    calls: &Calls,
    outbox: &Outbox,
    settings: &Settings,
) -> String {
    let idle_ticks = settings.idle_close.as_nanos().div_ceil(settings.keepalive.as_nanos().max(1));
    let idle_ticks = u32::try_from(idle_ticks).unwrap_or(u32::MAX);
    loop {
        let frame = match reader.next().await {
            Ok(Event::Frame(frame)) => frame,
            Ok(Event::Tick { quiet }) => {
                if calls.close_if_idle(idle_ticks) {
                    return "it was idle".to_owned();
                }
                if quiet {
                    outbox.offer(Frame::plain(Kind::Ping, 0, Bytes::new()));
                }
                continue;
            }
            Err(error) => return error.to_string(),
        };
        calls.proven.store(true, Ordering::Relaxed);
        match frame.kind {
            Kind::Response => calls.answer(frame.call, Reply::Response(frame.payload)),
            Kind::Refusal => calls.answer(frame.call, Reply::Refusal(Frame::read_refusal(frame.payload))),
            Kind::Busy => calls.answer(frame.call, Reply::Busy),
            Kind::Failed => {
                let detail = tame(&String::from_utf8_lossy(&frame.payload));
                calls.answer(frame.call, Reply::Lost(Unanswered::Failed { detail }));
            }
            Kind::Ping => outbox.offer(Frame::plain(Kind::Pong, frame.call, Bytes::new())),
            Kind::Pong => {}
            Kind::Request => return "it sent a request where only answers belong".to_owned(),
        }
    }
}

/// The pause after so many failures before this one, with the upper half of it random.
fn backoff(settings: &Settings, failures: u32) -> Duration {
    let doubled = settings.backoff_min.saturating_mul(1 << failures.min(16));
    let longest = doubled.min(settings.backoff_max);
    random_between(longest / 2, longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let settings = Settings::default();
        for failures in 0..200 {
            let pause = backoff(&settings, failures);
            assert!(pause <= settings.backoff_max && pause >= settings.backoff_min / 2, "{failures}");
        }
        assert!(backoff(&settings, 0) <= settings.backoff_min);
        assert!(backoff(&settings, 30) >= settings.backoff_max / 2);
    }

    #[test]
    fn a_call_that_is_dropped_leaves_nothing_behind_and_a_lost_connection_takes_no_more() {
        let calls = Arc::new(Calls::new());
        let flight = pipe::flight();
        let room = || Arc::clone(&flight).try_acquire_owned().unwrap();
        let (dropped, _answer) = calls.register(room()).unwrap();
        let (kept, mut answer) = calls.register(room()).unwrap();
        assert_ne!(dropped.id, kept.id);
        drop(dropped);
        assert_eq!(calls.lock().calls.len(), 1);
        assert!(!calls.close_if_idle(0), "a call is under way");
        calls.lose(Unanswered::ShutDown);
        calls.lose(Unanswered::ConnectionLost { detail: "later".to_owned() });
        assert!(matches!(answer.try_recv(), Ok(Reply::Lost(Unanswered::ShutDown))));
        assert!(calls.is_lost() && calls.register(room()).is_none());
    }

    #[test]
    fn an_idle_connection_is_closed_after_so_many_ticks_since_its_last_call() {
        let (calls, flight) = (Arc::new(Calls::new()), pipe::flight());
        let room = || Arc::clone(&flight).try_acquire_owned().unwrap();
        assert!(!calls.close_if_idle(2));
        assert!(!calls.close_if_idle(2));
        drop(calls.register(room()).unwrap());
        assert!(!calls.close_if_idle(2));
        assert!(!calls.close_if_idle(2));
        assert!(calls.close_if_idle(2));
        assert!(calls.register(room()).is_none(), "no call slips in after the decision");
    }
}
