//! What a holder has in hand: the [`Lease`], its renewal, the [`Fence`].
//!
//! Nothing here knows of storage or consensus: requests go through [`Requester`], which an agent and a client
//! implement each in its own way.

mod acquire;
mod acquisition;
mod agenda;
mod attempts;
pub(crate) mod by_hand;
mod crowd;
mod election;
mod fence;
mod held;
mod own;
mod renewer;
mod requester;
mod transfer;
mod watch;

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

use self::renewer::Upkeep;
pub(crate) use self::{
    acquire::Holding,
    attempts::{Attempts, ask_once, failure_of_call, try_once},
    held::Held,
    renewer::Renewer,
    requester::{Answered, Requester},
};
pub use self::{
    acquire::LeaseRequest,
    election::{Election, Leader, Leadership, Observer},
    fence::{Fence, FenceError},
    transfer::{Heir, TransferTo, Transferred},
    watch::Watch,
};
use crate::{
    clock,
    error::{ReleaseError, RenewError},
    flaw::planted,
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
    grant: Grant,
    held: Arc<Held>,
    /// Not given back yet.
    open: AtomicBool,
    /// Whether dropping it gives it back.
    released_by_drop: bool,
    /// Whether it shares its name with none.
    exclusive: bool,
}

/// What was granted.
#[derive(Clone)]
pub(crate) struct Grant {
    pub(crate) name: Name,
    pub(crate) id: LeaseId,
    pub(crate) token: Token,
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
    fn new(holding: Arc<Holding>, grant: Grant, held: Arc<Held>, upkeep: Upkeep, exclusive: bool) -> Self {
        let stays = holding.renewer.keep(grant.id, &held, upkeep);
        holding.own.hold(&grant, &held, exclusive);
        #[cfg(feature = "metrics")]
        crate::metrics::in_hand(1.0);
        let released_by_drop = upkeep.given_back;
        let lease = Self { holding, grant, held, open: AtomicBool::new(true), released_by_drop, exclusive };
        if !stays {
            // It was granted while the agent stops: nobody else knows of it.
            let release = lease.request_release();
            lease.holding.requester.spawn(Box::pin(async move { drop(release.await) }));
        }
        lease
    }

    /// What it shares with those who watch over it.
    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    fn loss(&self, reason: LossReason) -> LeaseLost {
        LeaseLost { name: self.grant.name.clone(), token: self.grant.token, reason }
    }

    /// What the lease is on.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.grant.name
    }

    /// The lease id: a secret, whoever knows it can release the lease.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.grant.id
    }

    /// The fencing token: larger than that of every earlier grant (rule L2).
    #[must_use]
    pub fn token(&self) -> Token {
        self.grant.token
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
        self.held.check().map_err(|reason| self.loss(reason))
    }

    /// Resolves when the lease is lost, at the deadline at the latest (a suspended machine tells within 1 s of
    /// waking). Cancel-safe; any number of tasks may wait.
    pub async fn lost(&self) -> LeaseLost {
        self.loss(self.held.lost().await)
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
        let request = Request::Renew { leases: vec![self.grant.id] };
        let answered = requester.ask(&request, self.ttl() / 3).await;
        match answered.response {
            Response::Renewed(verdicts) => match verdicts.into_iter().next() {
                Some(Verdict::Extended) => Ok(self
                    .held
                    .renewed(if planted!(DeadlineFromReceipt) { requester.clock().now() } else { sent })
                    .map_err(|reason| self.loss(reason))?),
                verdict => {
                    self.held.end(loss_of(verdict));
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

    /// See [`release`](Self::release).
    pub(crate) async fn give_back(&self) -> Result<Released, ReleaseError> {
        if let Some(release) = self.close() {
            self.sent(release).await?;
        }
        Ok(match self.check() {
            Err(lost) if lost.reason != LossReason::Released => Released::WasLost(lost),
            _ => Released::Released,
        })
    }

    /// Gives back what its session has ended by will already: whoever shares [`held`](Self::held) did that.
    pub(crate) async fn give_back_ended(&self) -> Result<(), ReleaseError> {
        if !self.open.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        self.holding.renewer.forget(&self.grant.id);
        self.sent(self.request_release()).await
    }

    /// Waits for a release, which goes on in the background if this future is dropped.
    async fn sent(
        &self,
        release: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) -> Result<(), ReleaseError> {
        let (name, ttl) = (self.grant.name.clone(), self.ttl());
        let (tell, told) = tokio::sync::oneshot::channel();
        self.holding.requester.spawn(Box::pin(async move {
            let _ = tell.send(release.await);
        }));
        match told.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Failure::Refused(detail))) => Err(ReleaseError::Refused { name, detail }),
            Ok(Err(failure)) => Err(ReleaseError::Unknown { name, ttl, detail: failure.to_string() }),
            Err(_) => {
                let detail = "the agent in this process has stopped".to_owned();
                Err(ReleaseError::Unknown { name, ttl, detail })
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
        let kept = self.holding.renewer.forget(&self.grant.id).is_some();
        // One that is lost has ended, or will; but a revoked one whose holder found that out itself, by a renewal of its
        // own, is still there, and whoever comes next would wait for its deadline.
        (was_held || kept && self.is_revoked()).then(|| self.request_release())
    }

    fn is_revoked(&self) -> bool {
        let reason = self.held.check().err();
        matches!(reason, Some(LossReason::Revoked { .. } | LossReason::Transferred { .. }))
    }

    fn request_release(&self) -> impl Future<Output = Result<(), Failure>> + Send + use<> {
        let (requester, lease_id) = (self.holding.requester.clone(), self.grant.id);
        async move {
            match requester.ask(&Request::Release { lease_id }, RELEASE_AT_MOST).await.response {
                Response::Outcome(_) => Ok(()),
                Response::Failed(failure) => Err(failure),
                other => Err(Failure::Unknown(format!("an answer that fits no release: {other:?}"))),
            }
        }
    }
}

/// What a verdict other than "extended" says of a lease.
fn loss_of(verdict: Option<Verdict>) -> LossReason {
    match verdict {
        Some(Verdict::Gone(Gone::Revoked(revocation))) => (&revocation).into(),
        _ => LossReason::ExpiredInContact,
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.holding.own.let_go(&self.grant, &self.held);
        #[cfg(feature = "metrics")]
        crate::metrics::in_hand(-1.0);
        if !self.released_by_drop {
            self.holding.renewer.forget(&self.grant.id);
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
            .field("id", &self.grant.id)
            .field("token", &self.token())
            .finish_non_exhaustive()
    }
}
