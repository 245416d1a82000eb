//! Faults for real agents over real TCP, where there is no root to have a network of one's own: a proxy in this process
//! that stands before each agent, and knows from the greeting who calls.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use leasehold::chaos::{FaultProxy, Line};
//!
//! let proxy = FaultProxy::new(7);
//! // The agent `a` listens on the second address, and advertises the first: so does each, and the founders are these.
//! let a = proxy.before("a", "127.0.0.1:7101").await?;
//! let b = proxy.before("b", "127.0.0.1:7102").await?;
//! let c = proxy.before("c", "127.0.0.1:7103").await?;
//! // … start the agents, let them work …
//! proxy.set("a", "b", Line::cut()); // what a says does not reach b; b is heard by a
//! proxy.isolate("c");
//! proxy.heal();
//! # Ok(())
//! # }
//! ```
//!
//! The agents speak plaintext, on loopback: what is in TLS names nobody whom a proxy could read.
//!
//! A cut holds bytes back, as a network does that drops packets: nobody is told, and what TCP has taken arrives when the
//! cut is healed, if both still wait for it. Time is real, and so a run does not replay; the seed decides which connections
//! are reset, and delays.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{
    kernel::{Chance, Share, Stream},
    world::lock,
};
use crate::{
    runtime::{self, watch},
    tasks::Tasks,
    transport::name_in_greeting,
};

/// What is under way on a connection, at most, in each direction.
const CHUNK_BYTES: usize = 16 << 10;
/// How long a listener that can't accept waits before it tries again.
const BREATH: Duration = Duration::from_millis(10);

/// What happens to what one says to another.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Line {
    /// Nothing arrives, until it is otherwise.
    pub is_cut: bool,
    /// How long what is sent is under way, between the two. The order stays.
    pub delay: (Duration, Duration),
    /// So many of the pieces that pass reset their connection, from 0 to 1; half of these arrive in part.
    pub resets: f64,
}

impl Line {
    /// Nothing arrives.
    #[must_use]
    pub fn cut() -> Self {
        Self { is_cut: true, ..Self::default() }
    }
}

type Lines = BTreeMap<(String, String), Line>;

struct Shared {
    seed: u64,
    connections: AtomicU64,
    lines: watch::Sender<Lines>,
    /// Counts the times at which everything was reset.
    resets: watch::Sender<u64>,
}

/// See the module. Ends with all its connections when it is dropped.
pub struct FaultProxy {
    shared: Arc<Shared>,
    tasks: Tasks,
    agents: Mutex<Vec<String>>,
}

impl FaultProxy {
    /// A proxy before nobody yet; on the tokio runtime that this is called on.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let (lines, _) = watch::channel(Lines::new());
        let (resets, _) = watch::channel(0);
        let shared = Arc::new(Shared { seed, connections: AtomicU64::new(0), lines, resets });
        Self { shared, tasks: Tasks::new(), agents: Mutex::default() }
    }

    /// Stands before the agent of this name, which listens on that address (`host:port`) or will. Returns the address that it
    /// is to advertise.
    ///
    /// # Errors
    /// What the system says, when no port of 127.0.0.1 can be had.
    pub async fn before(&self, agent: &str, listens: &str) -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        lock(&self.agents).push(agent.to_owned());
        let (shared, tasks) = (self.shared.clone(), self.tasks.clone());
        let (agent, listens) = (agent.to_owned(), listens.to_owned());
        self.tasks.spawn(async move {
            loop {
                let Ok((caller, _)) = listener.accept().await else {
                    runtime::sleep(BREATH).await;
                    continue;
                };
                let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
                let (shared, agent, listens) = (shared.clone(), agent.clone(), listens.clone());
                tasks.spawn(async move { connect(&shared, number, caller, agent, &listens).await });
            }
        });
        Ok(address)
    }

    /// From now on what `from` says to `to` fares like this. A client's name counts like an agent's.
    pub fn set(&self, from: &str, to: &str, line: Line) {
        let key = (from.to_owned(), to.to_owned());
        self.shared.lines.send_modify(|lines| _ = lines.insert(key, line));
    }

    /// From now on what anybody says to anybody fares like this, of those before whom the proxy stands.
    pub fn set_all(&self, line: Line) {
        self.set_where(line, |_, _| true);
    }

    /// Cuts this one off from all the others before whom the proxy stands, in both directions.
    pub fn isolate(&self, agent: &str) {
        self.set_where(Line::cut(), |from, to| from == agent || to == agent);
    }

    fn set_where(&self, line: Line, concerns: impl Fn(&str, &str) -> bool) {
        let agents = lock(&self.agents).clone();
        self.shared.lines.send_modify(|lines| {
            for (from, to) in agents.iter().flat_map(|from| agents.iter().map(move |to| (from, to))) {
                if from != to && concerns(from, to) {
                    lines.insert((from.clone(), to.clone()), line);
                }
            }
        });
    }

    /// From now on nothing happens to anything.
    pub fn heal(&self) {
        self.shared.lines.send_modify(Lines::clear);
    }

    /// Resets every connection; new ones may be made.
    pub fn reset_all(&self) {
        self.shared.resets.send_modify(|times| *times += 1);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl std::fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultProxy").field("agents", &*lock(&self.agents)).finish_non_exhaustive()
    }
}

/// One connection, from its first byte to its end.
async fn connect(shared: &Shared, number: u64, mut caller: TcpStream, to: String, listens: &str) {
    let mut resets = shared.resets.subscribe();
    let _ = resets.borrow_and_update();
    let carries = async {
        // Who greets by no name is nobody's.
        let (greeting, from) = greeting(&mut caller).await;
        let from = from.unwrap_or_default();
        let seed = shared.seed.wrapping_add(number << 32);
        let way = |from: &str, to: &str, chance| Way {
            from: from.to_owned(),
            to: to.to_owned(),
            lines: shared.lines.subscribe(),
            chance: Stream::of(seed, chance),
        };
        let mut there = way(&from, &to, Chance::Network);
        let back = way(&to, &from, Chance::Faults);
        // The call itself is under way like anything else.
        there.passes().await;
        let Ok(mut agent) = TcpStream::connect(listens).await else { return };
        let _ = (caller.set_nodelay(true), agent.set_nodelay(true));
        if agent.write_all(&greeting).await.is_err() {
            return;
        }
        let (caller, agent) = (caller.into_split(), agent.into_split());
        // When one direction has ended in a reset, so has the other; an orderly end of one leaves the other as it is.
        let (one, other) = (there.carry(caller.0, agent.1), back.carry(agent.0, caller.1));
        let _ = futures_util::future::try_join(one, other).await;
    };
    runtime::select2(resets.changed(), carries).await;
}

/// The first bytes of a connection, and who sends them.
async fn greeting(caller: &mut TcpStream) -> (Vec<u8>, Option<String>) {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match caller.read(&mut chunk).await {
            Ok(0) | Err(_) => return (bytes, None),
            Ok(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
        }
        match name_in_greeting(&bytes) {
            Ok(Some(name)) => return (bytes, Some(name.as_str().to_owned())),
            Ok(None) if bytes.len() < CHUNK_BYTES => {}
            _ => return (bytes, None),
        }
    }
}

/// A connection's bytes in one direction.
struct Way {
    from: String,
    to: String,
    lines: watch::Receiver<Lines>,
    chance: Stream,
}

/// The connection was reset.
struct Reset;

impl Way {
    fn line(&mut self) -> Line {
        let key = (self.from.clone(), self.to.clone());
        self.lines.borrow_and_update().get(&key).copied().unwrap_or_default()
    }

    /// Waits until what is sent now would be there.
    async fn passes(&mut self) {
        let (least, most) = self.line().delay;
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let delay = Duration::from_micros(self.chance.between(micros(least), micros(most)));
        if !delay.is_zero() {
            runtime::sleep(delay).await;
        }
        while self.line().is_cut {
            // Without the proxy nothing is healed any more.
            if self.lines.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn carry(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Result<(), Reset> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = from.read(&mut chunk).await.map_err(|_| Reset)?;
            self.passes().await;
            let bytes = chunk.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                return to.shutdown().await.map_err(|_| Reset);
            }
            let resets = Share::of(self.line().resets);
            if self.chance.happens(resets) {
                let part = self.chance.below(2 * count as u64) as usize;
                let _ = to.write_all(bytes.get(..part).unwrap_or_default()).await;
                return Err(Reset);
            }
            to.write_all(bytes).await.map_err(|_| Reset)?;
        }
    }
}
