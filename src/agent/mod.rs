//! The embedded agent: a Raft node, and a handle to it that grants leases.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `builder.rs`, `founding.rs` | starting; how founders become one cluster |
//! | `ground.rs` | the network and the storage that it stands on |
//! | `node.rs` | what runs, and who ends it |
//! | `leader.rs` | deadlines, renewals and expiries, while this node leads |
//! | `route.rs`, `serve.rs` | requests to the leader, and from others |
//! | `hub.rs`, `watch.rs` | who hears of applied changes |

mod builder;
mod founding;
#[cfg(test)]
mod goldens;
mod ground;
mod hub;
mod leader;
mod node;
mod route;
mod serve;
mod watch;

use std::{fmt, sync::Arc, time::Duration};

#[cfg(feature = "chaos")]
pub(crate) use self::ground::{Site, Storage};
use self::node::Node;
pub use self::{
    builder::Builder,
    watch::{Change, ChangeKind, Watch},
};
use crate::{
    error::{AcquireError, HolderInfo, ReadError},
    id::LeaseId,
    lease::{Holding, Lease, LeaseRequest, Requester as _},
    message::{Failure, Request, Response, StatusReport, Verdict},
    name::Name,
    tasks::Tasks,
    token::Token,
};

/// How long a linearizable read is tried.
const READ_AT_MOST: Duration = Duration::from_secs(10);

/// One agent of the cluster: a Raft node in this process, and the way to its leases.
///
/// Cheap to clone; all clones are the same agent. Dropping the last one stops the node in the background (leases
/// that are still in hand are lost with [`LossReason::AgentStopped`](crate::LossReason::AgentStopped));
/// [`shutdown`](Self::shutdown) waits for it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
/// # let network = leasehold::InProcessNetwork::new(1);
/// use leasehold::Agent;
///
/// let agent = Agent::builder("agent-a")
///     .listen("127.0.0.1:7101")
///     .founders(["127.0.0.1:7101"])
/// #   .network(&network)
///     .start()
///     .await?;
/// let lease = agent.acquire("orders.db").await?;
/// assert!(lease.check().is_ok());
/// lease.release().await?;
/// # agent.shutdown().await; Ok(()) }
/// ```
#[derive(Clone)]
pub struct Agent {
    handle: Arc<Handle>,
}

/// What the clones share; its end is the agent's.
struct Handle {
    node: Arc<Node>,
    tasks: Tasks,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.tasks.is_stopping() {
            let node = self.node.clone();
            self.tasks.spawn_apart(async move { node.shut_down().await });
        }
    }
}

impl Agent {
    /// An agent of this name, 1 to 128 bytes: it is shown to people as the holder of its leases.
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder::new(name.into())
    }

    fn of(handle: Arc<Handle>) -> Self {
        Self { handle }
    }

    fn node(&self) -> &Arc<Node> {
        &self.handle.node
    }

    /// A lease with options, see [`LeaseRequest`].
    pub fn lease(&self, name: &str) -> LeaseRequest {
        let node = self.node().clone();
        LeaseRequest::new(Holding { renewer: node.renewer.clone(), requester: node }, name)
    }

    /// Acquires a lease on the name, waiting for its turn, first come first served. It is kept alive in the background.
    ///
    /// Cancel-safe: dropping the future gives the acquisition up.
    ///
    /// # Errors
    /// [`AcquireError`]: for each variant it says whether something may have happened.
    pub async fn acquire(&self, name: &str) -> Result<Lease, AcquireError> {
        self.lease(name).acquire().await
    }

    /// Acquires a lease on the name if it is free. Cancel-safe, as [`acquire`](Self::acquire) is.
    ///
    /// # Errors
    /// [`AcquireError::Held`] says who holds it, since when, and with which token.
    pub async fn try_acquire(&self, name: &str) -> Result<Lease, AcquireError> {
        self.lease(name).try_acquire().await
    }

    /// Who holds the name. Linearizable: the leader confirms that it leads, and this replica catches up to it.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when no leader confirmed within 10 s.
    pub async fn holder(&self, name: &str) -> Result<Option<HolderInfo>, ReadError> {
        let name = Name::new(name)?;
        self.node().catch_up(READ_AT_MOST).await.map_err(read_error)?;
        Ok(self.look(&name))
    }

    /// Who holds the name as far as this replica knows: possibly old, at once, no network.
    ///
    /// # Errors
    /// [`ReadError::Name`].
    pub fn holder_local(&self, name: &str) -> Result<Option<HolderInfo>, ReadError> {
        Ok(self.look(&Name::new(name)?))
    }

    fn look(&self, name: &Name) -> Option<HolderInfo> {
        let reading = self.node().replica.read();
        reading.table().holder(name).map(|view| HolderInfo::of(&view.held_by()))
    }

    /// What the lease id holds, as far as this replica knows.
    pub(crate) fn find_local(&self, id: LeaseId) -> Option<(Name, Token)> {
        let reading = self.node().replica.read();
        reading.table().lease(&id).map(|view| (view.name.clone(), view.lease.token))
    }

    /// What the lease id holds. Linearizable.
    pub(crate) async fn find(&self, id: LeaseId) -> Result<Option<(Name, Token)>, ReadError> {
        self.node().catch_up(READ_AT_MOST).await.map_err(read_error)?;
        Ok(self.find_local(id))
    }

    /// Renews a lease that this agent has no session of. False if it is held no more.
    pub(crate) async fn renew_by_id(&self, id: LeaseId) -> Result<bool, ReadError> {
        match self.node().ask(&Request::Renew { leases: vec![id] }, READ_AT_MOST).await.response {
            Response::Renewed(verdicts) => Ok(verdicts == [Verdict::Extended]),
            Response::Failed(failure) => Err(read_error(failure)),
            other => {
                Err(ReadError::Unavailable { detail: format!("an answer that fits no renewal: {other:?}") })
            }
        }
    }

    /// Releases a lease that this agent has no session of.
    pub(crate) async fn release_by_id(&self, id: LeaseId) -> Result<(), ReadError> {
        match self.node().ask(&Request::Release { lease_id: id }, READ_AT_MOST).await.response {
            Response::Failed(failure) => Err(read_error(failure)),
            _ => Ok(()),
        }
    }

    /// The held leases whose names begin with the prefix, by name: at most `limit` (and 1000) after the name `after`,
    /// and whether there are more. Linearizable. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when no leader confirmed within 10 s.
    pub async fn leases(
        &self,
        prefix: &str,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<(Vec<(Name, HolderInfo)>, bool), ReadError> {
        self.node().catch_up(READ_AT_MOST).await.map_err(read_error)?;
        let (leases, more) = self.node().page(prefix, after, limit);
        Ok((leases.into_iter().map(|(name, held)| (name, HolderInfo::of(&held))).collect(), more))
    }

    /// The changes of a name that this replica applies from now on, in order. No network.
    ///
    /// # Errors
    /// [`ReadError::Name`].
    pub fn watch(&self, name: &str) -> Result<Watch, ReadError> {
        Ok(Watch::new(self.node().clone(), Some(Name::new(name)?)))
    }

    /// The changes of all names that this replica applies from now on, in order. No network.
    #[must_use]
    pub fn watch_all(&self) -> Watch {
        Watch::new(self.node().clone(), None)
    }

    /// How this agent is: its part, its term, who leads, the members. At once, no network.
    #[must_use]
    pub fn status(&self) -> StatusReport {
        self.node().status()
    }

    /// Resolves when the agent has stopped for good, with the reason: it was shut down, or its storage failed and it
    /// stepped down. Cancel-safe.
    pub async fn stopped(&self) -> String {
        self.node().until_stopped().await
    }

    /// Stops the agent: gives its leases back, hands leadership over, ends every task, closes the storage, frees the
    /// port. Any number may call it; all wait. Dropping the future leaves it to finish in the background.
    pub async fn shutdown(&self) {
        self.node().shut_down().await;
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holder = self.node().holder();
        f.debug_struct("Agent")
            .field("name", &holder.agent)
            .field("node", &holder.node)
            .finish_non_exhaustive()
    }
}

fn read_error(failure: Failure) -> ReadError {
    match failure {
        Failure::Stopped(detail) => ReadError::Stopped { detail },
        other => ReadError::Unavailable { detail: other.to_string() },
    }
}
