//! Handing a lease over to a waiter of the holder's choice: no moment in between when nobody holds it, and a new token.
//!
//! The holder stops believing before the request leaves (L1). The table then ends its lease and grants the name to the
//! heir in one entry, or, where no such waiter is there, leaves the lease as it is and closes this attempt for good: no
//! late copy can take the lease away afterwards. Only then may the holder believe again; it renews the lease once, and
//! counts from before that renewal, as whoever waited for it does.

use std::sync::{Arc, atomic::Ordering};

use super::{Held, Lease, renewer::Upkeep};
use crate::{
    error::TransferError,
    message::{Failure, Request, Response, Verdict},
    name::AgentName,
    session::{LossReason, Session},
    table::{self, Ending, Outcome, Successor},
    token::Token,
};

/// To whom a lease is handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferTo {
    /// Whoever has waited for the longest.
    First,
    /// The first waiter of the agent of this name.
    Agent(AgentName),
}

impl From<AgentName> for TransferTo {
    fn from(agent: AgentName) -> Self {
        Self::Agent(agent)
    }
}

impl std::fmt::Display for TransferTo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::First => f.write_str("the first waiter"),
            Self::Agent(agent) => write!(f, "{agent}"),
        }
    }
}

/// A lease was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transferred {
    /// Who holds the name since. `None` when the answer that told it was lost on its way, and a later one only told
    /// that the handover had taken place.
    pub to: Option<Heir>,
}

/// Who a lease was handed over to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Heir {
    /// The agent.
    pub agent: AgentName,
    /// The fencing token of its lease: larger than that of the one that was handed over.
    pub token: Token,
}

impl Lease {
    /// Hands the lease over to a waiter: its lease begins in the same log entry that ends this one, with a larger token.
    /// Where no such waiter is there, this one comes back in the error, still held.
    ///
    /// From the call on it is not held any more, unless it comes back. Cancel-safe: dropping the future leaves the
    /// handover to go on in the background; a lease that would come back is released.
    ///
    /// # Errors
    /// [`TransferError`]: each variant says who holds the name.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let network = leasehold::InProcessNetwork::new(1);
    /// # let agent = leasehold::Agent::builder("agent-a").listen("127.0.0.1:7101").founders(["127.0.0.1:7101"])
    /// #     .network(&network).start().await?;
    /// use leasehold::{AgentName, TransferError, TransferTo};
    ///
    /// let lease = agent.acquire("orders.db").await?;
    /// let lease = match lease.transfer(AgentName::new("agent-b")?).await {
    ///     Err(TransferError::NoSuchWaiter { lease, .. }) => *lease, // still held
    ///     other => panic!("{other:?}"),
    /// };
    /// assert!(lease.check().is_ok());
    /// # drop(lease); agent.shutdown().await; Ok(()) }
    /// ```
    pub async fn transfer(self, to: impl Into<TransferTo>) -> Result<Transferred, TransferError> {
        let (to, name) = (to.into(), self.name().clone());
        self.open.store(false, Ordering::Release);
        // Nothing renews it meanwhile.
        let kept = self.holding.renewer.forget(&self.grant.id);
        let upkeep = Upkeep { renewed: kept.unwrap_or(true), given_back: self.released_by_drop };
        if !self.held.end(LossReason::Released) {
            if kept.is_some() && self.is_revoked() {
                // Found out by a renewal of its holder's own: nobody else gives it back.
                let release = self.request_release();
                self.holding.requester.spawn(Box::pin(async move { drop(release.await) }));
            }
            return Err(match self.check() {
                Err(lost) => TransferError::Lost(lost),
                Ok(()) => self.unknown("its end was not found out"), // Not reached: it was not held.
            });
        }
        let (tell, told) = tokio::sync::oneshot::channel();
        let requester = self.holding.requester.clone();
        requester.spawn(Box::pin(async move {
            // Where nobody listens any more, a lease that came back is dropped here, which releases it.
            drop(tell.send(self.hand_over(to, upkeep).await));
        }));
        told.await.unwrap_or_else(|_| {
            Err(TransferError::Stopped { name, detail: "the agent in this process has stopped".to_owned() })
        })
    }

    async fn hand_over(self, to: TransferTo, upkeep: Upkeep) -> Result<Transferred, TransferError> {
        let heir = match &to {
            TransferTo::First => table::TransferTo::First,
            TransferTo::Agent(agent) => table::TransferTo::Agent(agent.clone()),
        };
        let attempt = self.holding.renewer.next_attempt();
        let request = Request::Transfer { lease_id: self.grant.id, to: heir, attempt };
        let answered = self.holding.requester.ask(&request, self.ttl()).await;
        match answered.response {
            Response::Outcome(Outcome::Transferred { to: Successor { holder, token } }) => {
                Ok(Transferred { to: Some(Heir { agent: holder.agent, token }) })
            }
            // Only a handover ends a lease in this way, and an attempt that is answered once is the last one.
            Response::Outcome(Outcome::Ended { ending: Ending::Transferred }) => Ok(Transferred { to: None }),
            Response::Outcome(Outcome::NoSuchWaiter) => Err(self.take_back(to, upkeep).await),
            // The table's memory of ended ids is bounded: this may be the answer to a second copy, long after the first.
            Response::Outcome(Outcome::NotHolding) if answered.repeated => {
                Err(self.unknown("it is over, and how is forgotten"))
            }
            Response::Outcome(Outcome::Ended { .. } | Outcome::NotHolding) => {
                Err(TransferError::Lost(self.loss(LossReason::ExpiredInContact)))
            }
            Response::Failed(Failure::Stopped(detail)) => {
                Err(TransferError::Stopped { name: self.name().clone(), detail })
            }
            Response::Failed(failure) => Err(self.unknown(&failure.to_string())),
            other => Err(self.unknown(&format!("an answer that fits no transfer: {other:?}"))),
        }
    }

    fn unknown(&self, detail: &str) -> TransferError {
        TransferError::Unknown { name: self.name().clone(), ttl: self.ttl(), detail: detail.to_owned() }
    }

    /// This attempt is closed, and the lease is still this one's: after one renewal it may be believed in again.
    async fn take_back(self, to: TransferTo, upkeep: Upkeep) -> TransferError {
        let (requester, ttl) = (&self.holding.requester, self.ttl());
        let sent = requester.clock().now();
        let request = Request::Renew { leases: vec![self.grant.id] };
        match requester.ask(&request, ttl / 3).await.response {
            Response::Renewed(verdicts) => match verdicts.into_iter().next() {
                Some(Verdict::Extended) => {
                    let session = Session::granted(sent, ttl, requester.timing().clock_drift_max);
                    let held = Arc::new(Held::new(requester.clock().clone(), session));
                    let again =
                        Self::new(self.holding.clone(), self.grant.clone(), held, upkeep, self.exclusive);
                    TransferError::NoSuchWaiter { name: self.name().clone(), to, lease: Box::new(again) }
                }
                verdict => {
                    // If it was revoked meanwhile, nobody else gives it back.
                    let release = self.request_release();
                    requester.spawn(Box::pin(async move { drop(release.await) }));
                    TransferError::Lost(self.loss(super::loss_of(verdict)))
                }
            },
            other => {
                // It is held until its deadline by a holder that doesn't know of it: rather give it back.
                let release = self.request_release();
                requester.spawn(Box::pin(async move { drop(release.await) }));
                self.unknown(&format!("there was no such waiter, and it could not be renewed ({other:?})"))
            }
        }
    }
}
