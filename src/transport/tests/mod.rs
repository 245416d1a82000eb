//! The contract, on both networks; hostile peers on the one that has them; and how fast it is.

mod conformance;
mod goldens;
mod hostile_peer;
mod in_process;
mod speed;
#[cfg(feature = "tls")]
mod tls;

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Semaphore;

use super::*;
use crate::{limits::FRAME_BYTES_MAX, quotas::Quotas, runtime::watch};

/// What the tests' handler is asked for.
const ECHO: Method = Method(0);
/// Refuses with code 7 and the payload as text.
const REFUSE: Method = Method(1);
/// Answers when a permit is added to the gate.
const GATE: Method = Method(2);
/// Answers with one byte more than fits.
const BURST: Method = Method(3);
const PANIC: Method = Method(4);
/// Answers with the caller, in its debug form.
const WHO: Method = Method(5);

const AMPLE: Duration = Duration::from_secs(20);

/// Does as it is asked, and remembers the order in which requests were begun.
struct Script {
    gate: Semaphore,
    begun: Mutex<Vec<Bytes>>,
    count: watch::Sender<usize>,
    admits: bool,
}

impl Script {
    fn new() -> Arc<Self> {
        Self::with(true)
    }

    fn with(admits: bool) -> Arc<Self> {
        let count = watch::Sender::new(0);
        Arc::new(Self { gate: Semaphore::new(0), begun: Mutex::new(Vec::new()), count, admits })
    }

    /// Waits until so many requests have been begun.
    async fn has_begun(&self, count: usize) {
        let mut counts = self.count.subscribe();
        within(counts.wait_for(|begun| *begun >= count)).await.unwrap();
    }

    fn begun(&self) -> usize {
        *self.count.borrow()
    }
}

#[async_trait]
impl Handler for Script {
    async fn handle(&self, caller: &Caller, method: Method, payload: Bytes) -> Result<Bytes, Refusal> {
        self.begun.lock().unwrap().push(payload.clone());
        self.count.send_modify(|count| *count += 1);
        match method {
            ECHO => Ok(payload),
            REFUSE => Err(Refusal::new(7, String::from_utf8_lossy(&payload))),
            GATE => {
                self.gate.acquire().await.unwrap().forget();
                Ok(payload)
            }
            BURST => Ok(vec![0; request_bytes_max() + 1].into()),
            PANIC => panic!("as asked"),
            WHO => Ok(format!("{caller:?}").into()),
            _ => Err(Refusal::new(404, "no such method")),
        }
    }

    fn admit(&self, _: &Caller) -> Result<(), Refusal> {
        if self.admits { Ok(()) } else { Err(Refusal::new(1, "removed from the cluster")) }
    }
}

/// Fails a test that hangs.
async fn within<F: Future>(future: F) -> F::Output {
    crate::runtime::timeout(AMPLE, future).await.expect("it hangs")
}

fn member(name: &str, node: u64, cluster: u128) -> Identity {
    Identity {
        cluster: (cluster != 0).then(|| ClusterId::from_bits(cluster)),
        node: Some(NodeId::from_bits(node)),
        role: Role::Member,
        agent: AgentName::new(name).unwrap(),
    }
}

/// An identity that doesn't change.
fn fixed(identity: Identity) -> watch::Receiver<Identity> {
    watch::Sender::new(identity).subscribe()
}

fn client() -> Identity {
    Identity { cluster: None, node: None, role: Role::Client, agent: AgentName::new("client").unwrap() }
}

/// As by default, with short pauses after failures: the tests wait for them. And a client may send what a member may, so
/// that the contract is the same on all networks.
fn brisk() -> Settings {
    Settings {
        quotas: Quotas { request_bytes: FRAME_BYTES_MAX, ..Quotas::default() },
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(10),
        ..Settings::default()
    }
}

fn to(transport: &dyn Transport) -> Peer {
    Peer { address: transport.address().unwrap().to_owned(), node: None }
}

async fn echo(from: &dyn Transport, peer: &Peer) -> Result<Bytes, CallError> {
    from.call(peer, Lane::Control, ECHO, Bytes::from_static(b"hello"), AMPLE).await
}

fn not_sent(ended: Result<Bytes, CallError>) -> NotSent {
    match ended {
        Err(CallError::NotSent { reason, .. }) => reason,
        other => panic!("expected that nothing was sent, found {other:?}"),
    }
}

fn unknown(ended: Result<Bytes, CallError>) -> Unanswered {
    match ended {
        Err(CallError::Unknown { reason, .. }) => reason,
        other => panic!("expected that nobody knows, found {other:?}"),
    }
}

/// A network on which the contract is tried.
#[async_trait]
trait World: Send + Sync {
    /// Listens at an address of its own choice, or at this one.
    async fn bind(
        &self,
        at: Option<&str>,
        identity: watch::Receiver<Identity>,
    ) -> Result<Box<dyn Transport>, BindError>;

    fn caller(&self, identity: watch::Receiver<Identity>) -> Box<dyn Transport>;

    /// A server with this handler, and a client.
    async fn pair(&self, handler: Arc<Script>) -> (Box<dyn Transport>, Box<dyn Transport>) {
        let server = self.bind(None, fixed(member("server", 1, 1))).await.unwrap();
        server.serve(handler);
        (server, self.caller(fixed(client())))
    }
}

struct Tcp;

#[async_trait]
impl World for Tcp {
    async fn bind(
        &self,
        at: Option<&str>,
        identity: watch::Receiver<Identity>,
    ) -> Result<Box<dyn Transport>, BindError> {
        let bound = TcpTransport::bind(at.unwrap_or("127.0.0.1:0"), identity, brisk()).await?;
        Ok(Box::new(bound))
    }

    fn caller(&self, identity: watch::Receiver<Identity>) -> Box<dyn Transport> {
        Box::new(TcpTransport::caller(identity, brisk()))
    }
}

#[cfg(feature = "chaos")]
struct Simulated {
    network: crate::chaos::world::tests::Bare,
    next: AtomicU64,
}

#[cfg(feature = "chaos")]
impl Simulated {
    fn new(network: crate::chaos::world::tests::Bare) -> Self {
        Self { network, next: AtomicU64::new(1) }
    }

    fn name(&self) -> (usize, String) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number as usize, format!("end-{number}"))
    }
}

#[cfg(feature = "chaos")]
#[async_trait]
impl World for Simulated {
    async fn bind(
        &self,
        at: Option<&str>,
        identity: watch::Receiver<Identity>,
    ) -> Result<Box<dyn Transport>, BindError> {
        let (number, name) = self.name();
        let address = at.map_or(name, str::to_owned);
        let bound = self.network.network.bind(number, &address, identity)?;
        self.network.network.assign(&address, number);
        Ok(Box::new(bound))
    }

    fn caller(&self, identity: watch::Receiver<Identity>) -> Box<dyn Transport> {
        let (number, name) = self.name();
        Box::new(self.network.network.caller(number, &name, identity))
    }
}

struct InProcess {
    network: InProcessNetwork,
    next: AtomicU64,
}

impl InProcess {
    fn new() -> Self {
        Self { network: InProcessNetwork::new(1), next: AtomicU64::new(1) }
    }

    fn name(&self) -> String {
        format!("end-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }
}

#[async_trait]
impl World for InProcess {
    async fn bind(
        &self,
        at: Option<&str>,
        identity: watch::Receiver<Identity>,
    ) -> Result<Box<dyn Transport>, BindError> {
        let address = at.map_or_else(|| self.name(), str::to_owned);
        Ok(Box::new(self.network.bind(&address, identity)?))
    }

    fn caller(&self, identity: watch::Receiver<Identity>) -> Box<dyn Transport> {
        Box::new(self.network.caller(&self.name(), identity))
    }
}
