//! What a holder has in hand: the [`Lease`], its renewal, the [`Fence`].
//!
//! Nothing here knows of storage or consensus: requests go through [`Requester`], which an agent and a client
//! implement each in its own way.

mod acquire;
mod agenda;
mod attempts;
mod fence;
mod held;
mod renewer;
mod requester;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};

pub(crate) use self::{
    acquire::Holding,
    attempts::{Attempts, failure_of_call},
    held::Held,
    renewer::Renewer,
    requester::{Answered, Requester},
};
pub use self::{
    acquire::LeaseRequest,
    fence::{Fence, FenceError},
};
use crate::{
    clock,
    error::{ReleaseError, RenewError},
    id::LeaseId,
    message::{Failure, Gone, Request, Response, Verdict},
    name::Name,
    runtime::{self, Either},
    session::{LeaseLost, LossReason},
    token::Token,
};

/// How long a release is asked for at most; then the lease ends by its ttl.
const RELEASE_AT_MOST: Duration = Duration::from_secs(10);

/// A lease in hand: the exclusive right to a name, until its deadline.
///
/// It is kept alive in the background (every ttl/3, one message for all leases of the agent) and is lost when
/// renewals fail for a whole ttl: then [`check`](Self::check) fails and [`lost`](Self::lost) resolves, with no network
/// needed.
///
/// *Dropping* it gives it back in the background, best effort; [`release`](Self::release) waits for that. It is not
/// `Clone`: one owner decides when it ends. Share it in an `Arc` where tasks need it.
///
/// Time can't protect a write by a process that is paused between `check` and the write: hand
/// [`token`](Self::token) to the protected resource, and let a [`Fence`] there refuse older ones.
pub struct Lease {
    holding: Arc<Holding>,
    id: LeaseId,
    held: Arc<Held>,
    /// Not given back yet.
    open: AtomicBool,
    /// Whether dropping it gives it back.
    released_by_drop: bool,
}

/// What became of a lease that was released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    /// It was held until now, and the name is free, or the next waiter's.
    Released,
    /// It had been lost before.
    WasLost(LeaseLost),
}

impl Lease {
    pub(crate) fn new(holding: Arc<Holding>, id: LeaseId, held: Arc<Held>, renewed: bool) -> Self {
        holding.renewer.keep(id, &held, renewed);
        Self { holding, id, held, open: AtomicBool::new(true), released_by_drop: true }
    }

    /// What the lease is on.
    #[must_use]
    pub fn name(&self) -> &Name {
        self.held.name()
    }

    /// The lease id: a secret, whoever knows it can release the lease.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The fencing token: larger than that of every earlier grant (rule L2).
    #[must_use]
    pub fn token(&self) -> Token {
        self.held.token()
    }

    /// How long the lease lives without a renewal.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.held.ttl()
    }

    /// How long it is still held without another renewal, by this process's own clock; zero once it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.held.remaining()
    }

    /// About when it ends without another renewal, on the wall clock: for people. Nothing may trust it.
    #[must_use]
    pub fn expires_at(&self) -> DateTime<Utc> {
        clock::wall_after(self.remaining())
    }

    /// Is it held now? One reading of the clock: no network, no lock, tens of nanoseconds.
    ///
    /// # Errors
    /// [`LeaseLost`] with the reason, the same at every call.
    pub fn check(&self) -> Result<(), LeaseLost> {
        self.held.check()
    }

    /// Resolves when the lease is lost, at the deadline at the latest (a suspended machine tells within 1 s of
    /// waking). Cancel-safe; any number of tasks may wait.
    pub async fn lost(&self) -> LeaseLost {
        self.held.lost().await
    }

    /// Runs the future while the lease is held, and drops it at the moment of loss.
    ///
    /// Cancel-safe if the future is. What the future has sent off when it is dropped may still arrive: fencing
    /// protects against that, cancelling can't.
    ///
    /// # Errors
    /// [`LeaseLost`] if the lease was lost before the future was done, or is at that moment.
    pub async fn guard<F: Future>(&self, future: F) -> Result<F::Output, LeaseLost> {
        match runtime::select2(self.lost(), future).await {
            Either::First(lost) => Err(lost),
            Either::Second(output) => self.check().map(|()| output),
        }
    }

    /// Renews it now, instead of in the background. Cancel-safe: a renewal that was sent may or may not count.
    ///
    /// # Errors
    /// [`RenewError::Lost`] when it is held no more; [`RenewError::Unavailable`] when no leader answered within a
    /// third of the ttl: it is still held until its deadline.
    pub async fn renew(&self) -> Result<(), RenewError> {
        self.check()?;
        let requester = &self.holding.requester;
        let sent = requester.clock().now();
        let answered = requester.ask(&Request::Renew { leases: vec![self.id] }, self.ttl() / 3).await;
        match answered.response {
            Response::Renewed(verdicts) => match verdicts.into_iter().next() {
                Some(Verdict::Extended) => Ok(self.held.renewed(sent)?),
                Some(Verdict::Gone(Gone::Revoked(revocation))) => {
                    let reason = revocation.reason.as_ref().to_owned();
                    self.held.end(LossReason::Revoked { by: revocation.by, reason });
                    Ok(self.check()?)
                }
                _ => {
                    self.held.end(LossReason::ExpiredInContact);
                    Ok(self.check()?)
                }
            },
            Response::Failed(failure) => {
                Err(RenewError::Unavailable { name: self.name().clone(), detail: failure.to_string() })
            }
            other => Err(RenewError::Unavailable {
                name: self.name().clone(),
                detail: format!("an answer that fits no renewal: {other:?}"),
            }),
        }
    }

    /// Gives the lease back and waits until that is committed: then the name is free, or the next waiter's.
    ///
    /// From the call on it is not held any more. Cancel-safe: dropping the future leaves the release to go on in the
    /// background.
    ///
    /// # Errors
    /// [`ReleaseError`] when no leader answered within 10 s: the lease ends within its ttl.
    pub async fn release(self) -> Result<Released, ReleaseError> {
        self.give_back().await
    }

    /// From now on dropping it leaves it to expire.
    pub(crate) fn left_to_expire(mut self) -> Self {
        self.released_by_drop = false;
        self
    }

    /// See [`release`](Self::release).
    pub(crate) async fn give_back(&self) -> Result<Released, ReleaseError> {
        let name = self.name().clone();
        let Some(release) = self.close() else {
            return match self.held.check() {
                Err(lost) => Ok(Released::WasLost(lost)),
                Ok(()) => Ok(Released::Released),
            };
        };
        let (tell, told) = tokio::sync::oneshot::channel();
        self.holding.requester.spawn(Box::pin(async move {
            let _ = tell.send(release.await);
        }));
        match told.await {
            Ok(Ok(())) => Ok(Released::Released),
            Ok(Err(Failure::Refused(detail))) => Err(ReleaseError::Refused { name, detail }),
            Ok(Err(failure)) => {
                Err(ReleaseError::Unknown { name, ttl: self.ttl(), detail: failure.to_string() })
            }
            Err(_) => {
                let detail = "the agent in this process has stopped".to_owned();
                Err(ReleaseError::Unknown { name, ttl: self.ttl(), detail })
            }
        }
    }

    /// Stops believing, then gives back; `None` when there is nothing to give back.
    fn close(&self) -> Option<impl Future<Output = Result<(), Failure>> + Send + use<>> {
        if !self.open.swap(false, Ordering::AcqRel) {
            return None;
        }
        // Before the request leaves: from then on another may be granted it (rule L1).
        let was_held = self.held.end(LossReason::Released);
        self.holding.renewer.forget(&self.id);
        let (requester, lease_id) = (self.holding.requester.clone(), self.id);
        was_held.then_some(async move {
            match requester.ask(&Request::Release { lease_id }, RELEASE_AT_MOST).await.response {
                Response::Outcome(_) => Ok(()),
                Response::Failed(failure) => Err(failure),
                other => Err(Failure::Unknown(format!("an answer that fits no release: {other:?}"))),
            }
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.released_by_drop {
            self.holding.renewer.forget(&self.id);
            return;
        }
        if let Some(release) = self.close() {
            let name = self.name().clone();
            self.holding.requester.spawn(Box::pin(async move {
                if let Err(error) = release.await {
                    tracing::debug!(%name, %error, "a dropped lease was not given back; it ends within its ttl");
                }
            }));
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", self.name())
            .field("id", &self.id)
            .field("token", &self.token())
            .finish_non_exhaustive()
    }
}
