//! The seed interface over an agent's leases.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::{LeaseGuard, WriteLeaseProvider};
use crate::{
    agent::Agent,
    error::{Error, Result},
    id::LeaseId,
    lease::{Lease, LeaseRequest},
    name::Name,
    token::Token,
};

/// One name's write lease, granted by the cluster that the agent belongs to.
///
/// - [`acquire`](WriteLeaseProvider::acquire) does not wait: it is an error when another writer holds the name.
/// - [`heartbeat`](WriteLeaseProvider::heartbeat) renews; nothing does in the background. After expiry it is an error,
///   never a silent re-acquire.
/// - A guard that is dropped without [`release`](WriteLeaseProvider::release) simply expires.
///
/// The fencing token travels beside the guard: [`token`](Self::token).
///
/// Clones share the guards that were granted through them. [`Access`](crate::Access) does all of this for its guards.
///
/// ```no_run
/// use leasehold::{Agent, RaftLease, WriteLease, WriteLeaseProvider};
///
/// async fn write(agent: &Agent) -> leasehold::Result<()> {
///     let lease = WriteLease::Raft(RaftLease::new(agent, "orders.db")?);
///     let guard = lease.acquire().await?;
///     lease.heartbeat(&guard).await?; // every now and then, well before guard.expires_at
///     lease.release(guard).await
/// }
/// ```
#[derive(Clone)]
pub struct RaftLease {
    agent: Agent,
    name: Name,
    ttl: Option<Duration>,
    granted: Arc<Mutex<BTreeMap<LeaseId, Arc<Lease>>>>,
}

impl RaftLease {
    /// The write lease on this name.
    ///
    /// # Errors
    /// [`AcquireError::Name`](crate::AcquireError::Name) when it can't be a name.
    pub fn new(agent: &Agent, name: &str) -> Result<Self> {
        let name = Name::new(name).map_err(crate::AcquireError::Name)?;
        Ok(Self { agent: agent.clone(), name, ttl: None, granted: Arc::default() })
    }

    /// With another ttl than the agent's default.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The fencing token of a guard: of one that was granted through this value, as long as it is held; of another one
    /// on this name, as far as this agent's replica knows.
    #[must_use]
    pub fn token(&self, guard: &LeaseGuard) -> Option<Token> {
        let id = Self::id(guard).ok()?;
        let granted = self.granted().get(&id).cloned();
        match granted {
            Some(lease) => lease.check().ok().map(|()| lease.token()),
            None => self.agent.find_local(id).filter(|(name, _)| *name == self.name).map(|(_, token)| token),
        }
    }

    /// A lease that is kept alive in the background: for those in this library who can hold one.
    pub(crate) async fn take(&self) -> Result<Lease> {
        Ok(self.request().try_acquire().await?)
    }

    fn request(&self) -> LeaseRequest {
        let request = self.agent.lease(self.name.as_str());
        match self.ttl {
            Some(ttl) => request.ttl(ttl),
            None => request,
        }
    }

    fn granted(&self) -> std::sync::MutexGuard<'_, BTreeMap<LeaseId, Arc<Lease>>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(guard: &LeaseGuard) -> Result<LeaseId> {
        guard
            .lease_id
            .parse()
            .map_err(|error: crate::IdError| Error::ForeignGuard { detail: error.to_string() })
    }

    /// A lease that was granted elsewhere (before a restart, or through another value): its id alone is enough.
    async fn find_elsewhere(&self, id: LeaseId) -> Result<bool> {
        let found = self.agent.find(id).await?;
        Ok(found.is_some_and(|(name, _)| name == self.name))
    }
}

#[async_trait]
impl WriteLeaseProvider for RaftLease {
    async fn acquire(&self) -> Result<LeaseGuard> {
        // The guard is all that the caller has: only its release, or its expiry, ends the lease, not what becomes of
        // this value.
        let lease = self.request().without_renewal().left_to_expire().try_acquire().await?;
        let guard = LeaseGuard { lease_id: lease.id().reveal(), expires_at: lease.expires_at() };
        let mut granted = self.granted();
        // Guards that were dropped without release have expired by now, or will before the next acquire.
        granted.retain(|_, lease| lease.check().is_ok());
        granted.insert(lease.id(), Arc::new(lease));
        Ok(guard)
    }

    async fn heartbeat(&self, guard: &LeaseGuard) -> Result<()> {
        let id = Self::id(guard)?;
        let granted = self.granted().get(&id).cloned();
        if let Some(lease) = granted {
            return Ok(lease.renew().await?);
        }
        if self.find_elsewhere(id).await? && self.agent.renew_by_id(id).await? {
            return Ok(());
        }
        let detail = format!("{id} holds no lease on {:?} any more; acquire anew", self.name);
        Err(Error::ForeignGuard { detail })
    }

    async fn release(&self, guard: LeaseGuard) -> Result<()> {
        let id = Self::id(&guard)?;
        let granted = self.granted().remove(&id);
        if let Some(lease) = granted {
            return lease.give_back().await.map(drop).map_err(Error::from);
        }
        if self.find_elsewhere(id).await? {
            self.agent.release_by_id(id).await?;
        }
        // Otherwise it was released or lost before: there is nothing to give back.
        Ok(())
    }
}

impl fmt::Debug for RaftLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RaftLease {{ name: {:?} }}", self.name)
    }
}
