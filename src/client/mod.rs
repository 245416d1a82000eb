//! The client: the same leases from a process that embeds no replica, over the agents' addresses.
//!
//! It is as safe as an agent's own lease: what a holder may believe is decided by its session, by its own clock, with
//! the cluster's drift bound ([`Line`] takes it from the agents when it connects). It only learns less. It has no
//! replica to hear ends from, so it is told of a revocation by its next renewal, at most ttl/3 later; and it has no
//! `holder_local`.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `builder.rs` | settings, and the first contact |
//! | `line.rs` | one request, over as many agents and attempts as it takes |

mod builder;
mod line;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

pub use self::builder::ClientBuilder;
use self::line::Line;
use crate::{
    change::Filter,
    config::Timing,
    error::{AcquireError, MemberError, ReadError, RevokeError},
    holder::{HolderInfo, NameReport},
    id::NodeId,
    lease::{Election, Holding, Lease, LeaseRequest, Renewer, Requester as _, Watch, by_hand},
    members,
    message::{Failure, MemberReport, Request, Response, StatusReport},
    name::{AgentName, Name, NameError},
    tasks::Tasks,
    token::Token,
};

/// How long a question about leases is asked.
const READ_AT_MOST: Duration = Duration::from_secs(10);
/// How long one agent is asked how it is.
const STATUS_AT_MOST: Duration = Duration::from_secs(2);
/// How long an agent has to leave: longer than it tries.
const LEAVE_AT_MOST: Duration = Duration::from_secs(28);

/// Leases of a cluster, for a process that embeds no agent.
///
/// It talks to one of the agents, and moves on to the next when that one doesn't answer. Its leases don't hang on any
/// single agent: they stay while a majority of the cluster runs and any of the addresses is in reach.
///
/// Each wait for a turn is a request that is under way, and an agent takes 1,024 of one name at once (`requests_per_peer` of
/// its [`Quotas`](crate::Quotas)). A client that waits for more turns than that has no room left for its renewals: embed an
/// agent then, or wait with clients of other names.
///
/// Cheap to clone; all clones are the same client. Dropping the last one closes it in the background (leases that are
/// still in hand are lost with [`LossReason::ClientClosed`](crate::LossReason::ClientClosed));
/// [`close`](Self::close) waits for it.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
/// use leasehold::Client;
///
/// let client = Client::builder("nightly-backup").agents(["127.0.0.1:7101", "127.0.0.1:7102"]).connect().await?;
/// let lease = client.acquire("orders.db").await?;
/// assert!(lease.check().is_ok());
/// lease.release().await?;
/// client.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

/// What the clones share; its end is the client's.
struct Handle {
    line: Arc<Line>,
    holding: Arc<Holding>,
    tasks: Tasks,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.tasks.is_stopping() {
            let (line, holding) = (self.line.clone(), self.holding.clone());
            self.tasks.spawn_apart(async move { line.close(&holding.renewer).await });
        }
    }
}

impl Client {
    /// A client of this name, 1 to 128 bytes: it is shown to people as the holder of its leases. Give each its own: a
    /// [`lock_delay`](crate::LeaseRequest::lock_delay) and [`transfer`](Self::transfer) know holders by name.
    pub fn builder(name: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(name.into())
    }

    fn new(line: Arc<Line>, tasks: Tasks) -> Self {
        let renewer = Renewer::new(line.clock().clone());
        tasks.spawn(renewer.clone().run(line.clone()));
        let holding = Holding::new(line.clone(), renewer);
        Self { handle: Arc::new(Handle { line, holding, tasks }) }
    }

    fn line(&self) -> &Arc<Line> {
        &self.handle.line
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

    /// Who holds the name. Linearizable. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when no agent could answer within 10 s.
    pub async fn holder(&self, name: &str) -> Result<Option<HolderInfo>, ReadError> {
        let request = Request::Holder { name: Name::new(name)? };
        match self.line().ask(&request, READ_AT_MOST).await.response {
            Response::Holder(held) => Ok(held.map(HolderInfo::from)),
            other => Err(read_error(other)),
        }
    }

    /// All about one name: who holds it, who waits, whether it is closed. Linearizable; cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when nobody could say within 10 s.
    pub async fn inspect(&self, name: &str) -> Result<NameReport, ReadError> {
        by_hand::inspect(self.line().as_ref(), name).await
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
        by_hand::revoke(self.line().as_ref(), name, reason, None).await
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
        by_hand::revoke(self.line().as_ref(), name, reason, Some(to.clone())).await
    }

    /// The held leases whose names begin with the prefix, in the order of names and tokens: at most `limit` (and 1000)
    /// after the lease `after`, and whether there are more. Each page is linearizable by itself. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when no agent could answer within 10 s, and [`ReadError::Name`] when no name can begin so.
    pub async fn leases(
        &self,
        prefix: &str,
        after: Option<(&Name, Token)>,
        limit: usize,
    ) -> Result<(Vec<(Name, HolderInfo)>, bool), ReadError> {
        Filter::prefix(prefix)?;
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let request = Request::Leases {
            prefix: prefix.to_owned(),
            after: after.map(|(name, token)| (name.clone(), token)),
            limit,
        };
        match self.line().ask(&request, READ_AT_MOST).await.response {
            Response::Leases { leases, more } => {
                Ok((leases.into_iter().map(|(name, held)| (name, held.into())).collect(), more))
            }
            other => Err(read_error(other)),
        }
    }

    /// The changes of a name from now on, or since a log index, in order, without a gap also where the client moves on
    /// to another agent. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when no agent could say within 10 s what "now" is.
    pub async fn watch(&self, name: &str) -> Result<Watch, ReadError> {
        self.watching(Filter::Name(Name::new(name)?)).await
    }

    /// The changes of all names that begin with this prefix, which may be empty. As [`watch`](Self::watch).
    ///
    /// # Errors
    /// As [`watch`](Self::watch), and [`ReadError::Name`] when no name can begin so.
    pub async fn watch_prefix(&self, prefix: &str) -> Result<Watch, ReadError> {
        self.watching(Filter::prefix(prefix)?).await
    }

    async fn watching(&self, filter: Filter) -> Result<Watch, ReadError> {
        match self.line().ask(&Request::Position, READ_AT_MOST).await.response {
            Response::ReadIndex(now) => Ok(Watch::new(self.line().clone(), filter, now)),
            other => Err(read_error(other)),
        }
    }

    /// How the agent is that this client talks to. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when no agent answered within 10 s.
    pub async fn status(&self) -> Result<StatusReport, ReadError> {
        match self.line().ask(&Request::Status, READ_AT_MOST).await.response {
            Response::Status(report) => Ok(*report),
            other => Err(read_error(other)),
        }
    }

    /// The certificate that the agent at this address has shown, while there is a connection to it: after an answer of
    /// [`status_of`](Self::status_of), say. `None` without TLS.
    #[cfg(feature = "tls")]
    pub fn certificate_of(&self, address: &str) -> Option<crate::Certificate> {
        self.line().certificate(address)
    }

    /// How the agent at this address is, asked once, for at most 2 s. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when it did not answer.
    pub async fn status_of(&self, address: &str) -> Result<StatusReport, ReadError> {
        match self.line().ask_at(address, &Request::Status, STATUS_AT_MOST).await {
            Response::Status(report) => Ok(*report),
            other => Err(read_error(other)),
        }
    }

    /// The members, as the leader sees them: who votes, who was heard when, how far each is. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when no leader answered within 10 s.
    pub async fn members(&self) -> Result<Vec<MemberReport>, ReadError> {
        members::members(self.line().as_ref()).await
    }

    /// As [`Agent::promote`](crate::Agent::promote).
    ///
    /// # Errors
    /// [`MemberError`]: for each variant it says whether something may have happened.
    pub async fn promote(&self, node: NodeId) -> Result<(), MemberError> {
        members::change(self.line().as_ref(), &Request::Promote { node }).await
    }

    /// As [`Agent::remove`](crate::Agent::remove).
    ///
    /// # Errors
    /// [`MemberError`]: for each variant it says whether something may have happened.
    pub async fn remove(&self, node: NodeId) -> Result<(), MemberError> {
        members::change(self.line().as_ref(), &Request::Remove { node }).await
    }

    /// Tells the agent at this address to leave the cluster and to stop, as [`Agent::leave`](crate::Agent::leave) does, and
    /// waits until it is no member any more. Not cancel-safe: dropped, it may leave all the same.
    ///
    /// # Errors
    /// [`MemberError`] when it did not answer, or could not leave within 10 s.
    pub async fn leave(&self, address: &str) -> Result<(), MemberError> {
        Ok(members::changed(self.line().ask_at(address, &Request::Leave, LEAVE_AT_MOST).await)?)
    }

    /// The name under which others see its leases.
    #[must_use]
    pub fn name(&self) -> &AgentName {
        &self.line().holder().agent
    }

    /// The id that it drew when it connected: by it, its own leases and places are told from those of others of its name.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.line().holder().node
    }

    /// The addresses that it was given.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        self.line().addresses()
    }

    /// The cluster's timing.
    #[must_use]
    pub fn timing(&self) -> Timing {
        *self.line().timing()
    }

    /// Closes the client: its leases are lost here and given back (for at most 2 s; then they end within their ttl),
    /// and every task of it ends. Any number may call it; all wait. Cancel-safe: dropping the future leaves it to be closed
    /// in the background.
    pub async fn close(&self) {
        self.line().close(&self.handle.holding.renewer).await;
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.line().holder().agent)
            .field("agents", &self.line().addresses())
            .finish_non_exhaustive()
    }
}

fn read_error(response: Response) -> ReadError {
    match response {
        Response::Failed(Failure::Stopped(detail)) => ReadError::Stopped { detail },
        Response::Failed(other) => ReadError::Unavailable { detail: other.to_string() },
        other => {
            ReadError::Unavailable { detail: format!("an answer that fits no such question: {other:?}") }
        }
    }
}
