//! Elections: one leader among those who campaign. A lease by another name, with what a candidate proposes beside it.
//!
//! Nothing is added to what a lease guarantees, so nothing can be weaker: who leads holds the lease, who campaigns waits
//! in its queue, who observes watches its name. [`Leadership::is_leader`] is the lease's own `check`: it can't be true
//! past the deadline, however long the network has been silent.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Lease, LeaseRequest, Released, acquire::Holding, watch::Watch};
use crate::{
    change::{ChangeKind, Filter},
    error::{AcquireError, ReadError, ReleaseError},
    holder::HolderInfo,
    message::{Failure, Request, Response},
    name::Name,
    session::LeaseLost,
    token::Token,
};

/// How long a question about the leader is asked.
const READ_AT_MOST: Duration = Duration::from_secs(10);

/// One office, and those who stand for it; made by [`Agent::election`](crate::Agent::election) and
/// [`Client::election`](crate::Client::election). Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
/// # let network = leasehold::InProcessNetwork::new(1);
/// # let agent = leasehold::Agent::builder("agent-a").listen("127.0.0.1:7101").founders(["127.0.0.1:7101"])
/// #     .network(&network).start().await?;
/// let election = agent.election("scheduler")?;
/// let leadership = election.campaign("http://10.0.0.7:8080").await?; // waits until it is elected
/// assert!(leadership.is_leader());
///
/// let leader = election.leader().await?.expect("there is one");
/// assert_eq!(leader.metadata, "http://10.0.0.7:8080");
/// leadership.resign().await?;
/// # agent.shutdown().await; Ok(()) }
/// ```
#[derive(Clone)]
pub struct Election {
    holding: Arc<Holding>,
    name: Name,
}

impl Election {
    pub(crate) fn new(holding: Arc<Holding>, name: Name) -> Self {
        Self { holding, name }
    }

    /// The office: the name of the lease behind it.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// A lease on the office with more options than [`campaign`](Self::campaign) has; what it acquires leads.
    pub fn candidacy(&self) -> LeaseRequest {
        LeaseRequest::new(self.holding.clone(), self.name.as_str())
    }

    /// Stands for the office and waits until it is elected, first come first served. The proposal, at most 4 KiB, is
    /// what observers see: an address, for instance.
    ///
    /// Cancel-safe: dropping the future withdraws.
    ///
    /// # Errors
    /// [`AcquireError`]: for each variant it says whether something may have happened.
    pub async fn campaign(&self, proposal: impl Into<Bytes>) -> Result<Leadership, AcquireError> {
        self.candidacy().metadata(proposal).acquire().await.map(Leadership::from)
    }

    /// Campaigns, runs `work` while it leads, and drops it when leadership is lost; then campaigns anew, until `work`
    /// ends by itself. Then it resigns and returns what `work` returned.
    ///
    /// Cancel-safe: dropping the future withdraws, or resigns in the background.
    ///
    /// # Errors
    /// [`AcquireError`] when a campaign fails for good. An answer that is unknown or late is no reason to give up: it
    /// campaigns again.
    pub async fn lead_while<F, Fut>(
        &self,
        proposal: impl Into<Bytes>,
        mut work: F,
    ) -> Result<Fut::Output, AcquireError>
    where
        F: FnMut(Token) -> Fut,
        Fut: Future,
    {
        let proposal = proposal.into();
        loop {
            let leadership = match self.campaign(proposal.clone()).await {
                Ok(leadership) => leadership,
                Err(error @ (AcquireError::Unavailable { .. } | AcquireError::Unknown { .. })) => {
                    tracing::info!(name = %self.name, %error, "campaigning again");
                    continue;
                }
                Err(error) => return Err(error),
            };
            match leadership.lease.guard(work(leadership.token())).await {
                Ok(output) => {
                    if let Err(error) = leadership.resign().await {
                        tracing::info!(name = %self.name, %error, "resigned, and nobody confirmed it");
                    }
                    return Ok(output);
                }
                Err(lost) => tracing::info!(%lost, "no longer leading; campaigning again"),
            }
        }
    }

    /// Who leads. Linearizable; cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`] when nobody could say within 10 s.
    pub async fn leader(&self) -> Result<Option<HolderInfo>, ReadError> {
        let request = Request::Holder { name: self.name.clone() };
        match self.holding.requester.ask(&request, READ_AT_MOST).await.response {
            Response::Holder(held) => Ok(held.map(HolderInfo::from)),
            Response::Failed(Failure::Stopped(detail)) => Err(ReadError::Stopped { detail }),
            Response::Failed(failure) => Err(ReadError::Unavailable { detail: failure.to_string() }),
            other => {
                Err(ReadError::Unavailable { detail: format!("an answer that fits no holder: {other:?}") })
            }
        }
    }

    /// Who leads, and then every change of that, in order: as the replica knows it that is asked, possibly old.
    #[must_use]
    pub fn observe(&self) -> Observer {
        let filter = Filter::Name(self.name.clone());
        let watch = Watch::new(self.holding.requester.clone(), filter, 0).with_present();
        Observer { watch, leads: None }
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The office, held. Dropping it resigns in the background, best effort.
#[derive(Debug)]
pub struct Leadership {
    lease: Lease,
}

/// Whoever holds the lease on an election's name leads.
impl From<Lease> for Leadership {
    fn from(lease: Lease) -> Self {
        Self { lease }
    }
}

impl Leadership {
    /// Does it lead now? One reading of the clock, no network; never true past the deadline.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.lease.check().is_ok()
    }

    /// The fencing token of this leadership: larger than that of every one before.
    #[must_use]
    pub fn token(&self) -> Token {
        self.lease.token()
    }

    /// Resolves when leadership is lost, with the reason. Cancel-safe; any number of tasks may wait.
    pub async fn lost(&self) -> LeaseLost {
        self.lease.lost().await
    }

    /// The lease behind it, with all that a lease can do.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The lease, to be handed over to another candidate, for one: [`Lease::transfer`].
    #[must_use]
    pub fn into_lease(self) -> Lease {
        self.lease
    }

    /// Gives the office up, and waits until the next candidate has it, if there is one.
    ///
    /// Cancel-safe: dropping the future leaves that to go on in the background.
    ///
    /// # Errors
    /// [`ReleaseError`] when no leader of the cluster answered within 10 s: the office is free within the ttl.
    pub async fn resign(self) -> Result<Released, ReleaseError> {
        self.lease.release().await
    }
}

/// Who leads, and every change of it; made by [`Election::observe`]. Dropping it ends it.
#[derive(Debug)]
pub struct Observer {
    watch: Watch,
    /// The token of the leader that was told last; none while nobody leads.
    leads: Option<Token>,
}

/// A leader, as observers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// The agent's name.
    pub agent: crate::AgentName,
    /// Its fencing token: larger than that of every leader before it.
    pub token: Token,
    /// What it proposed in its campaign.
    pub proposal: Bytes,
}

impl From<HolderInfo> for Leader {
    fn from(info: HolderInfo) -> Self {
        Self { agent: info.agent, token: info.token, proposal: info.metadata }
    }
}

impl Observer {
    /// At first who leads (`Some(None)` for nobody), then each change; `None` when the agent or client in this process
    /// has stopped. One that lagged skips to the present. Cancel-safe.
    pub async fn next(&mut self) -> Option<Option<Leader>> {
        loop {
            let leader = match self.watch.next().await?.kind {
                ChangeKind::Granted { agent, token, metadata, .. } => {
                    Some(Leader { agent, token, proposal: metadata })
                }
                ChangeKind::Present { held, .. } => held.into_iter().next().map(|(_, holder)| holder.into()),
                // A handover tells the end of the old lease before the grant of the new one.
                ChangeKind::Ended { token, .. } if self.leads == Some(token) => None,
                _ => continue,
            };
            self.leads = leader.as_ref().map(|leader| leader.token);
            return Some(leader);
        }
    }
}
