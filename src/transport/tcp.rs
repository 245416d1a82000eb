//! The network between processes: TCP.

mod guests;
mod link;
mod server;
mod stream;
#[cfg(feature = "tls")]
mod tls_peer;

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub(super) use self::guests::Share;
use self::{guests::Guests, link::Link};
use super::{
    Handler, Identity, Lane, Method, Peer, Security, Transport,
    error::{BindError, CallError, request_bytes_max},
};
use crate::{
    limits::LINKS_MAX,
    quotas::Quotas,
    runtime::{Spawner, timeout, watch},
};

/// How patient a TCP transport is, which is about noticing and recovering, and no lease rule depends on it; how its
/// connections are protected, and what those who connect may take.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// For looking up a name, and for connecting. Default 1 s. Short: a peer that is down costs its callers this much.
    pub(crate) connect_within: Duration,
    /// For the handshake, on both sides. Default 3 s. It bounds how long a stranger keeps a connection.
    pub(crate) handshake_within: Duration,
    /// For a write that makes no progress. Default 5 s. After it the connection is dropped.
    pub(crate) write_stall: Duration,
    /// After so long a silence a ping is sent, and after another one the connection is dropped. Default 1 s, so that
    /// a peer which vanished without a word is noticed within three.
    pub(crate) keepalive: Duration,
    /// A connection without calls is closed after about this long. Default 5 min.
    pub(crate) idle_close: Duration,
    /// The pause after the first failed connection; doubled with each further one. Default 20 ms.
    pub(crate) backoff_min: Duration,
    /// The longest pause. Default 1 s: a lease cluster wants its peers back soon.
    pub(crate) backoff_max: Duration,
    /// What those who connect may take.
    pub(crate) quotas: Quotas,
    /// Default: plaintext.
    pub(crate) security: Security,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_within: Duration::from_secs(1),
            handshake_within: Duration::from_secs(3),
            write_stall: Duration::from_secs(5),
            keepalive: Duration::from_secs(1),
            idle_close: Duration::from_secs(300),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            quotas: Quotas::default(),
            security: Security::default(),
        }
    }
}

/// What all tasks of a transport share.
struct Shared {
    identity: watch::Receiver<Identity>,
    settings: Settings,
    /// One link for each address and lane that was ever called, in the order of [`Lane::ALL`].
    links: Mutex<BTreeMap<String, [Arc<Link>; Lane::ALL.len()]>>,
    /// Those who have connected.
    guests: Arc<Guests>,
    tasks: TaskTracker,
    /// Of the runtime that the transport was made on: it may be called from another, which ends sooner.
    spawner: Spawner,
    stop: CancellationToken,
}

impl Shared {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawner.spawn(self.tasks.track_future(task));
    }

    fn link(&self, address: &str, lane: Lane) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if !links.contains_key(address) {
            if links.len() >= LINKS_MAX {
                links.retain(|_, lanes| lanes.iter().any(|link| !link.is_idle()));
            }
            links.insert(address.to_owned(), Lane::ALL.map(|lane| Arc::new(Link::new(address, lane))));
        }
        match links.get(address) {
            Some(lanes) => Arc::clone(&lanes[usize::from(lane.number())]),
            // It has just been put there.
            None => Arc::new(Link::new(address, lane)),
        }
    }
}

/// An agent's, or a client's, end of the TCP network.
pub(crate) struct TcpTransport {
    shared: Arc<Shared>,
    address: Option<String>,
    listener: Mutex<Option<TcpListener>>,
    /// Dropping the transport ends its tasks.
    _stop: DropGuard,
}

impl TcpTransport {
    /// A transport that only calls.
    pub(crate) fn caller(identity: watch::Receiver<Identity>, settings: Settings) -> Self {
        Self::new(identity, settings, None)
    }

    /// A transport that listens on this address (`host:port`; port 0 takes a free one). Nobody is answered before
    /// [`Transport::serve`].
    ///
    /// # Errors
    /// [`BindError`] when the address is taken, or not one of this machine's.
    pub(crate) async fn bind(
        listen: &str,
        identity: watch::Receiver<Identity>,
        settings: Settings,
    ) -> Result<Self, BindError> {
        let bound = timeout(settings.connect_within, TcpListener::bind(listen)).await;
        let bound = bound.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        // tokio sets SO_REUSEADDR on Unix: a restarted agent gets its port back at once.
        let listener = bound.map_err(|error| BindError::of(listen, &error))?;
        let address = listener.local_addr().map_err(|error| BindError::of(listen, &error))?;
        Ok(Self::new(identity, settings, Some((listener, address.to_string()))))
    }

    fn new(
        identity: watch::Receiver<Identity>,
        settings: Settings,
        bound: Option<(TcpListener, String)>,
    ) -> Self {
        let stop = CancellationToken::new();
        let (listener, address) = bound.unzip();
        let shared = Arc::new(Shared {
            identity,
            guests: Guests::new(settings.quotas),
            settings,
            links: Mutex::new(BTreeMap::new()),
            tasks: TaskTracker::new(),
            spawner: Spawner::current(),
            stop: stop.clone(),
        });
        #[cfg(feature = "tls")]
        if let Some(tls) = shared.settings.security.tls.clone() {
            let stop = stop.clone();
            shared.spawn(async move {
                let _: crate::runtime::Either<(), ()> =
                    crate::runtime::select2(stop.cancelled(), tls_peer::keep(tls)).await;
            });
        }
        Self { shared, address, listener: Mutex::new(listener), _stop: stop.drop_guard() }
    }

    fn take_listener(&self) -> Option<TcpListener> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Small messages leave at once instead of waiting for more of them.
fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}

#[async_trait]
impl Transport for TcpTransport {
    fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        if let Some(listener) = self.take_listener()
            && !self.shared.stop.is_cancelled()
        {
            self.shared.spawn(server::accept(Arc::clone(&self.shared), listener, handler));
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
        if payload.len() > request_bytes_max() {
            return Err(CallError::Oversized { address: to.address.clone(), bytes: payload.len() });
        }
        let link = self.shared.link(&to.address, lane);
        link.call(&self.shared, to, method, payload, within).await
    }

    #[cfg(feature = "tls")]
    fn certificate(&self, address: &str) -> Option<super::Certificate> {
        let links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(address)?.iter().find_map(|link| link.certificate())
    }

    async fn shutdown(&self) {
        self.shared.stop.cancel();
        drop(self.take_listener());
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        // With the links go the last connections that nobody uses.
        self.shared.links.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
