//! One writer in this process: the seed interface without a cluster.
//!
//! For a program that runs as one process, and for tests of one that will not. It keeps two tasks, threads or database
//! handles of this process apart, and nothing else: another process has a registry of its own, and both grant.
//!
//! # The argument
//!
//! All leases of the process stand in one registry, under one lock, and run out by one clock, which is read under that
//! lock. So of two grants of a name the second begins after the first has been released or has run out.
//! [`Access`](crate::Access) counts its own deadline from before it asked, on the same clock: it has stopped believing
//! when the registry finds the lease over (rule L1, with no drift to allow for).
//!
//! Tokens rise over all names (rule L2). The first of a process lies above its start in milliseconds `<< 20`, as a
//! cluster's lies above its founding: a resource that outlives the process refuses no later one, as long as the wall
//! clock stands later at the next start.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::{LeaseGuard, WriteLeaseProvider};
use crate::{
    clock::{self, Clock, SystemClock},
    error::{AcquireError, Error, Result},
    holder::HolderInfo,
    id::{LeaseId, NodeId},
    limits::TTL_MAX,
    mode::Mode,
    name::{AgentName, Name},
    runtime,
    time::Moment,
    token::Token,
};

/// How long a lease lives without a heartbeat, unless another ttl is asked for.
const TTL: Duration = Duration::from_secs(10);
/// The shortest ttl: below it a task that is scheduled a little late has lost its lease.
const TTL_MIN: Duration = Duration::from_millis(1);

/// Every lease of this process.
static PROCESS: LazyLock<Arc<Registry>> = LazyLock::new(|| Arc::new(Registry::new(Arc::new(SystemClock))));

/// What [`WriteLease::Local`](crate::WriteLease::Local) is driven by.
static DEFAULT: LazyLock<LocalLease> =
    LazyLock::new(|| LocalLease::of(&PROCESS, Name::literal(LocalLease::DEFAULT_NAME)));

/// One name's write lease among the writers in this process: no network, and nothing that outlives the process.
///
/// [`WriteLease::Local`](crate::WriteLease::Local) is the lease on [`DEFAULT_NAME`](Self::DEFAULT_NAME): a process that
/// writes to one thing needs no name. One that writes to several has a `LocalLease` for each, in
/// [`WriteLease::Custom`](crate::WriteLease::Custom).
///
/// - [`acquire`](WriteLeaseProvider::acquire) does not wait: it is an error when another writer in this process holds
///   the name ([`AcquireError::Held`], where the holder is called `this process`).
/// - [`heartbeat`](WriteLeaseProvider::heartbeat) renews. After expiry it is an error, never a silent re-acquire.
/// - A guard that is dropped without [`release`](WriteLeaseProvider::release) simply expires.
///
/// Values for the same name, clones or not, compete for one lease; the lease id alone renews and releases it. Dropping a
/// value releases nothing.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
/// use leasehold::{Access, LocalLease, WriteLease};
///
/// let graph = LocalLease::new("graph.db")?;
/// let one = Access::read_write(WriteLease::Custom(Box::new(graph.clone())));
/// let other = Access::read_write(WriteLease::Custom(Box::new(graph)));
/// let guard = one.write().await?;
/// assert!(guard.token().is_some());
/// assert!(other.write().await.is_err());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct LocalLease {
    registry: Arc<Registry>,
    name: Name,
    ttl: Duration,
}

impl LocalLease {
    /// The name that [`WriteLease::Local`](crate::WriteLease::Local) is a lease on.
    pub const DEFAULT_NAME: &str = "leasehold.local";

    /// The write lease on this name in this process.
    ///
    /// # Errors
    /// [`AcquireError::Name`] when it can't be a name.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self::of(&PROCESS, Name::new(name).map_err(AcquireError::Name)?))
    }

    fn of(registry: &Arc<Registry>, name: Name) -> Self {
        Self { registry: registry.clone(), name, ttl: TTL }
    }

    /// With another ttl than 10 s, from 1 ms to 24 h; others are refused when it is acquired.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The fencing token of a guard on this name, as long as it is held: larger than that of every earlier grant in this
    /// process, on any name.
    #[must_use]
    pub fn token(&self, guard: &LeaseGuard) -> Option<Token> {
        let id = parse(guard).ok()?;
        self.registry.find(id).filter(|(name, _)| *name == self.name).map(|(_, token)| token)
    }

    /// How long what it grants lives without a heartbeat.
    pub(crate) fn ttl_granted(&self) -> Duration {
        self.ttl
    }

    /// The clock that its leases run out by.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.registry.clock
    }
}

/// The lease on [`DEFAULT_NAME`](LocalLease::DEFAULT_NAME).
impl Default for LocalLease {
    fn default() -> Self {
        default().clone()
    }
}

/// What [`WriteLease::Local`](crate::WriteLease::Local) is driven by.
pub(super) fn default() -> &'static LocalLease {
    &DEFAULT
}

/// The token of a guard that this process granted to itself, on whatever name.
pub(super) fn token(guard: &LeaseGuard) -> Option<Token> {
    PROCESS.find(parse(guard).ok()?).map(|(_, token)| token)
}

#[async_trait]
impl WriteLeaseProvider for LocalLease {
    async fn acquire(&self) -> Result<LeaseGuard> {
        if !(TTL_MIN..=TTL_MAX).contains(&self.ttl) {
            let detail = format!("a ttl of {:?}; give it {TTL_MIN:?} to {TTL_MAX:?}", self.ttl);
            return Err(AcquireError::Refused { name: self.name.clone(), detail }.into());
        }
        let id = LeaseId::from_bits(runtime::random_u128());
        self.registry.acquire(&self.name, id, self.ttl)?;
        Ok(LeaseGuard { lease_id: id.reveal(), expires_at: clock::wall_after(self.ttl) })
    }

    async fn heartbeat(&self, guard: &LeaseGuard) -> Result<()> {
        let id = parse(guard)?;
        if self.registry.renew(&self.name, id) {
            return Ok(());
        }
        let detail = format!("{id} holds no lease on {:?} any more; acquire anew", self.name);
        Err(Error::ForeignGuard { detail })
    }

    async fn release(&self, guard: LeaseGuard) -> Result<()> {
        // If it is not held, it was released or lost before: there is nothing to give back.
        self.registry.release(&self.name, parse(&guard)?);
        Ok(())
    }
}

fn parse(guard: &LeaseGuard) -> Result<LeaseId> {
    guard.lease_id.parse().map_err(|error: crate::IdError| Error::ForeignGuard { detail: error.to_string() })
}

impl fmt::Debug for LocalLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalLease {{ name: {:?} }}", self.name)
    }
}

/// Who holds what in one process.
struct Registry {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    /// The token of the latest grant.
    last: Token,
    held: BTreeMap<Name, Entry>,
}

struct Entry {
    id: LeaseId,
    token: Token,
    ttl: Duration,
    since_unix_ms: u64,
    /// The moment from which on it is over, unless a heartbeat comes before.
    deadline: Moment,
}

impl Registry {
    fn new(clock: Arc<dyn Clock>) -> Self {
        let last = Token::floor_of_founding(clock::wall_unix_ms());
        Self { clock, state: Mutex::new(State { last, held: BTreeMap::new() }) }
    }

    /// No call leaves the state half changed, so a thread that panicked with the lock held did no harm.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acquire(&self, name: &Name, id: LeaseId, ttl: Duration) -> Result<Token, AcquireError> {
        let mut state = self.lock();
        let now = self.clock.now();
        // All names: what was dropped without release would stay for ever otherwise.
        state.held.retain(|_, held| now < held.deadline);
        if let Some(held) = state.held.get(name) {
            return Err(AcquireError::Held { name: name.clone(), holder: Box::new(held.info()) });
        }
        let token = state.last.next().ok_or_else(|| AcquireError::Refused {
            name: name.clone(),
            detail: "the tokens are used up; set the wall clock right and start the process anew".to_owned(),
        })?;
        state.last = token;
        let entry = Entry { id, token, ttl, since_unix_ms: clock::wall_unix_ms(), deadline: now + ttl };
        state.held.insert(name.clone(), entry);
        Ok(token)
    }

    /// False if the id does not hold the name.
    fn renew(&self, name: &Name, id: LeaseId) -> bool {
        let mut state = self.lock();
        let now = self.clock.now();
        match state.held.get_mut(name).filter(|held| held.id == id && now < held.deadline) {
            Some(held) => {
                held.deadline = held.deadline.max(now + held.ttl);
                true
            }
            None => false,
        }
    }

    fn release(&self, name: &Name, id: LeaseId) {
        let mut state = self.lock();
        if state.held.get(name).is_some_and(|held| held.id == id) {
            state.held.remove(name);
        }
    }

    fn find(&self, id: LeaseId) -> Option<(Name, Token)> {
        let state = self.lock();
        let now = self.clock.now();
        let mut held = state.held.iter().filter(|(_, held)| now < held.deadline);
        held.find(|(_, held)| held.id == id).map(|(name, held)| (name.clone(), held.token))
    }
}

impl Entry {
    fn info(&self) -> HolderInfo {
        let ms = i64::try_from(self.since_unix_ms).unwrap_or(i64::MAX);
        HolderInfo {
            agent: AgentName::literal("this process"),
            node: NodeId::default(),
            token: self.token,
            since: chrono::DateTime::from_timestamp_millis(ms).unwrap_or(chrono::DateTime::UNIX_EPOCH),
            ttl: self.ttl,
            metadata: bytes::Bytes::new(),
            revoked: false,
            waiters: 0,
            mode: Mode::Exclusive,
            holders: 1,
        }
    }
}

#[cfg(test)]
mod tests;
