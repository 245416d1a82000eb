//! The embedded agent: a Raft node, and a handle to it that grants leases.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `builder.rs`, `starting.rs`, `founding.rs` | settings; starting; how founders become one cluster |
//! | `place.rs`, `care.rs` | an agent's own place in the membership; the membership, while this node leads |
//! | `ground.rs` | the network and the storage that it stands on |
//! | `node.rs` | what runs, and who ends it |
//! | `leader.rs` | deadlines, renewals and expiries, while this node leads |
//! | `route.rs`, `serve.rs` | requests to the leader, and from others |
//! | `hub.rs`, `history.rs`, `watching.rs` | who hears of applied changes; the latest of them; what watchers are answered |

mod builder;
mod care;
mod founding;
#[cfg(feature = "test-support")]
pub(crate) mod fuzz;
#[cfg(test)]
mod goldens;
mod ground;
mod history;
mod hub;
mod leader;
mod ledger;
mod node;
mod place;
mod route;
mod serve;
mod starting;
mod turns;
mod watching;

use std::{fmt, sync::Arc, time::Duration};

pub use self::builder::Builder;
#[cfg(feature = "chaos")]
pub(crate) use self::ground::{Site, Storage};
use self::node::Node;
use crate::{
    change::Filter,
    error::{AcquireError, MemberError, ReadError, RevokeError},
    holder::{HolderInfo, NameReport},
    id::{LeaseId, NodeId},
    lease::{Election, Holding, Lease, LeaseRequest, Requester as _, Watch, by_hand},
    members,
    message::{Failure, MemberReport, Request, Response, StatusReport, Verdict},
    name::{AgentName, Name, NameError},
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
    holding: Arc<Holding>,
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

    fn of(node: Arc<Node>, tasks: Tasks) -> Self {
        let holding = Holding::new(node.clone(), node.renewer.clone());
        Self { handle: Arc::new(Handle { node, holding, tasks }) }
    }

    fn node(&self) -> &Arc<Node> {
        &self.handle.node
    }

    /// A lease with options, see [`LeaseRequest`].
    pub fn lease(&self, name: &str) -> LeaseRequest {
        LeaseRequest::new(self.handle.holding.clone(), name)
    }

    /// An election for the office of this name.
    ///
    /// # Errors
    /// [`NameError`] when it can't be a name.
    pub fn election(&self, name: &str) -> Result<Election, NameError> {
        Ok(Election::new(self.handle.holding.clone(), Name::new(name)?))
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
        reading.table().holder(name).map(|view| view.held_by().into())
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

    /// All about one name: who holds it, who waits, whether it is closed. Linearizable; cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when nobody could say within 10 s.
    pub async fn inspect(&self, name: &str) -> Result<NameReport, ReadError> {
        by_hand::inspect(self.node().as_ref(), name).await
    }

    /// Revokes the lease on the name, or all of them where it is shared, whoever holds it. Returns whose they were;
    /// nobody's, where the name is free.
    ///
    /// A revoked lease can't be renewed any more. Its holder is told ([`LossReason::Revoked`]) and stops, and the next
    /// waiter has it about a round trip later; a holder that can't be reached stops at its deadline.
    ///
    /// Not cancel-safe: dropped, it may have revoked the lease or not. To call it again is harmless.
    ///
    /// # Errors
    /// [`RevokeError`]: for each variant it says whether something may have happened.
    ///
    /// [`LossReason::Revoked`]: crate::LossReason::Revoked
    pub async fn revoke(&self, name: &str, reason: &str) -> Result<Vec<HolderInfo>, RevokeError> {
        by_hand::revoke(self.node().as_ref(), name, reason, None).await
    }

    /// Revokes the lease on the name in favour of a waiter of this agent, who has it next instead of the first in the
    /// queue. Otherwise as [`revoke`](Self::revoke); its holder is told [`LossReason::Transferred`]. A holder hands its
    /// own lease over with [`Lease::transfer`], which leaves no gap.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke), and [`RevokeError::NoSuchWaiter`], [`RevokeError::Several`].
    ///
    /// [`LossReason::Transferred`]: crate::LossReason::Transferred
    pub async fn transfer(
        &self,
        name: &str,
        to: &AgentName,
        reason: &str,
    ) -> Result<Vec<HolderInfo>, RevokeError> {
        by_hand::revoke(self.node().as_ref(), name, reason, Some(to.clone())).await
    }

    /// The held leases whose names begin with the prefix, in the order of names and tokens: at most `limit` (and 1000)
    /// after the lease `after`, and whether there are more. Each page is linearizable by itself. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when no leader confirmed within 10 s, and [`ReadError::Name`] when no name can begin so.
    pub async fn leases(
        &self,
        prefix: &str,
        after: Option<(&Name, Token)>,
        limit: usize,
    ) -> Result<(Vec<(Name, HolderInfo)>, bool), ReadError> {
        Filter::prefix(prefix)?;
        self.node().catch_up(READ_AT_MOST).await.map_err(read_error)?;
        let (leases, more) = self.node().page(prefix, after, limit);
        Ok((leases.into_iter().map(|(name, held)| (name, held.into())).collect(), more))
    }

    /// The changes of a name that this replica applies from now on, or since a log index, in order. No network.
    ///
    /// # Errors
    /// [`ReadError::Name`].
    pub fn watch(&self, name: &str) -> Result<Watch, ReadError> {
        Ok(self.watching(Filter::Name(Name::new(name)?)))
    }

    /// The changes of all names that begin with this prefix, which may be empty. As [`watch`](Self::watch).
    ///
    /// # Errors
    /// [`ReadError::Name`] when no name can begin so.
    pub fn watch_prefix(&self, prefix: &str) -> Result<Watch, ReadError> {
        Ok(self.watching(Filter::prefix(prefix)?))
    }

    fn watching(&self, filter: Filter) -> Watch {
        let now = self.node().replica.read().index();
        Watch::new(self.node().clone(), filter, now)
    }

    /// The members, as the leader sees them: who votes, who was heard when, how far each is. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when no leader answered within 10 s.
    pub async fn members(&self) -> Result<Vec<MemberReport>, ReadError> {
        members::members(self.node().as_ref()).await
    }

    /// Lets an observer vote, before the leader does so by itself. Not cancel-safe: dropped, it may have happened or not.
    ///
    /// # Errors
    /// [`MemberError`]: for each variant it says whether something may have happened.
    pub async fn promote(&self, node: NodeId) -> Result<(), MemberError> {
        members::change(self.node().as_ref(), &Request::Promote { node }).await
    }

    /// Removes a member that is out of reach, before the leader does so by itself; should it come back, it is a member
    /// again. One in reach is told to [`leave`](Self::leave). Not cancel-safe: dropped, it may have happened or not.
    ///
    /// # Errors
    /// [`MemberError::Refused`] when it is in reach, or without it there could be no majority.
    pub async fn remove(&self, node: NodeId) -> Result<(), MemberError> {
        members::change(self.node().as_ref(), &Request::Remove { node }).await
    }

    /// Leaves the cluster: gives the leases back, hands leadership over, ends being a member, and stops as
    /// [`shutdown`](Self::shutdown) does. Whoever leaves for a while only shuts down instead.
    ///
    /// It can come back: with its data directory as itself, without one as a new member.
    ///
    /// Dropping the future leaves it to finish in the background.
    ///
    /// # Errors
    /// [`MemberError`] when it could not leave within about 10 s: where others are out of reach, its vote may be needed. Then the
    /// agent goes on, without the leases.
    pub async fn leave(&self) -> Result<(), MemberError> {
        self.node().depart_and_stop().await?;
        self.node().stop_answering(place::LEFT);
        self.node().shut_down().await;
        Ok(())
    }

    /// Whether the agent has stopped because it has left the cluster.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.node().left.load(std::sync::atomic::Ordering::Acquire)
    }

    /// How this agent is: its part, its term, who leads, the members. At once, no network.
    #[must_use]
    pub fn status(&self) -> StatusReport {
        self.node().status()
    }

    /// Who votes, if this agent leads, was heard by a quorum a moment ago, and has no change of them under way.
    #[cfg(feature = "chaos")]
    pub(crate) fn settled_voters(&self) -> Option<std::collections::BTreeSet<NodeId>> {
        let consensus = &self.node().consensus;
        let membership = consensus.membership();
        let is_settled = membership.is_committed && !membership.is_joint && consensus.quorum_is_fresh();
        let voters = membership.members.into_iter().filter(|(_, (_, votes))| *votes);
        is_settled.then(|| voters.map(|(node, _)| node).collect())
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
