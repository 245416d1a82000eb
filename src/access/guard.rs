//! The write guard, and what it shares with its keeper and its access.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use super::take::Taken;
use crate::{
    error::{AccessError, Error, Result, WriteLost},
    lease::Held,
    provider::WriteLease,
    runtime::{self, Either, watch},
    session::LossReason,
    token::Token,
};

/// The right to write, until it is lost: given by [`Access::write`](crate::Access::write).
///
/// It is kept alive in the background: a heartbeat at a third of what `expires_at` leaves, tried again when it fails (or
/// takes longer than a quarter), until the deadline. There it is lost: [`check`](Self::check) fails and [`lost`](Self::lost) resolves, with no
/// provider needed, by this process's own clock, before the provider may grant it to another.
///
/// *Dropping* it ends it at once and releases it in the background, best effort; [`close`](Self::close) waits for that.
/// What was lost is not released: the provider's own time ends it. It is not `Clone`: one owner decides when it ends.
///
/// Time can't protect a write by a process that is paused between `check` and the write: hand [`token`](Self::token) to
/// what is written to, and let a [`Fence`](crate::Fence) there refuse older ones.
#[must_use = "dropping it releases it"]
pub struct WriteGuard {
    kept: Arc<Kept>,
}

impl WriteGuard {
    pub(super) fn new(kept: Arc<Kept>) -> Self {
        Self { kept }
    }

    /// Is it held now? One reading of the clock: no provider, no lock, tens of nanoseconds.
    ///
    /// # Errors
    /// [`WriteLost`] with the reason, the same at every call.
    pub fn check(&self) -> Result<(), WriteLost> {
        self.kept.check()
    }

    /// Resolves when it is lost, at the deadline at the latest (a suspended machine tells within 1 s of waking).
    /// Cancel-safe; any number of tasks may wait.
    pub async fn lost(&self) -> WriteLost {
        let reason = self.kept.held.lost().await;
        self.kept.loss(reason)
    }

    /// Runs the future while it is held, and drops it at the moment of loss.
    ///
    /// Cancel-safe if the future is. What the future has sent off when it is dropped may still arrive: fencing
    /// protects against that, cancelling can't.
    ///
    /// # Errors
    /// [`WriteLost`] if it was lost before the future was done, or is at that moment.
    pub async fn guard<F: Future>(&self, future: F) -> Result<F::Output, WriteLost> {
        match runtime::select2(self.lost(), future).await {
            Either::First(lost) => Err(lost),
            Either::Second(output) => self.check().map(|()| output),
        }
    }

    /// The fencing token, larger than that of every earlier grant: always there with `Local` and `Raft`; with `Custom`
    /// if [`Access::tokens_from`](crate::Access::tokens_from) finds one.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        self.kept.token
    }

    /// How long it is still held without another heartbeat, by this process's own clock; zero once it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.kept.held.remaining()
    }

    /// Releases it and waits until the provider has answered: then the next writer may have it.
    ///
    /// From the call on it is not held any more. A heartbeat that is under way is let finish first (for a quarter of the
    /// ttl at most), then the release is given 10 s. Cancel-safe: dropping the future leaves the release to go on in the
    /// background.
    ///
    /// # Errors
    /// [`AccessError::Lost`] when it had been lost before: what was written since must be taken for refused. What the
    /// provider says, or [`AccessError::ReleaseUnknown`], when it is not known to be released: it expires by itself.
    pub async fn close(self) -> Result<()> {
        self.kept.end(LossReason::Released);
        match self.kept.check() {
            Err(lost) if !lost.reason.is_by_will() => Err(lost.into()),
            _ => self.kept.released().await,
        }
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        // The keeper hears of it, and releases.
        self.kept.end(LossReason::Released);
    }
}

impl fmt::Debug for WriteGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteGuard")
            .field("lease", &format_args!("{}", self.kept.lease))
            .field("token", &self.kept.token)
            .finish_non_exhaustive()
    }
}

/// What a write guard, its keeper and its access share.
pub(super) struct Kept {
    held: Arc<Held>,
    /// The write lease, for people.
    lease: String,
    token: Option<Token>,
    ttl: Duration,
    /// What the last heartbeat failed with, if it failed.
    failure: Mutex<Option<String>>,
    /// Made once, so that everybody is told the same.
    loss: OnceLock<WriteLost>,
    /// What became of the release, until somebody asks.
    outcome: Mutex<Option<Error>>,
    /// True when the keeper has done all that it will. It goes when the keeper does.
    over: watch::Receiver<bool>,
}

impl Kept {
    pub(super) fn new(taken: &Taken, lease: &WriteLease, over: watch::Receiver<bool>) -> Self {
        Self {
            held: taken.held.clone(),
            lease: format!("{lease:?}"),
            token: taken.token,
            ttl: taken.ttl,
            failure: Mutex::default(),
            loss: OnceLock::new(),
            outcome: Mutex::default(),
            over,
        }
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// How it is called to people.
    pub(super) fn lease(&self) -> &str {
        &self.lease
    }

    /// How long it lives without a heartbeat.
    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) fn check(&self) -> Result<(), WriteLost> {
        self.held.check().map_err(|reason| self.loss(reason))
    }

    /// It ends for this reason, unless it has ended before.
    pub(super) fn end(&self, reason: LossReason) {
        self.held.end(reason);
    }

    /// A heartbeat failed with this, or (`None`) did not.
    pub(super) fn last_heartbeat(&self, failure: Option<String>) {
        *locked(&self.failure) = failure;
    }

    /// What it ended with, as it is told.
    fn loss(&self, reason: LossReason) -> WriteLost {
        let told = self.loss.get_or_init(|| {
            let may_come_from_it =
                matches!(reason, LossReason::ExpiredWithoutContact { .. } | LossReason::ExpiredInContact);
            let last_failure =
                locked(&self.failure).clone().filter(|_| may_come_from_it).map(String::into_boxed_str);
            WriteLost { lease: self.lease.clone(), token: self.token, reason, last_failure }
        });
        told.clone()
    }

    /// The release failed with this.
    pub(super) fn not_released(&self, error: Error) {
        *locked(&self.outcome) = Some(error);
    }

    /// Waits until the keeper is done. False if it will never be: it ended with its runtime.
    pub(super) async fn over(&self) -> bool {
        self.over.clone().wait_for(|over| *over).await.is_ok()
    }

    /// Waits for the release of what has ended by will. Cancel-safe.
    pub(super) async fn released(&self) -> Result<()> {
        if !self.over().await {
            let detail = "its runtime ended, or the provider panicked, before it was".to_owned();
            return Err(
                AccessError::ReleaseUnknown { lease: self.lease.clone(), detail, ttl: self.ttl }.into()
            );
        }
        let mut outcome = locked(&self.outcome);
        let Some(error) = outcome.take() else { return Ok(()) };
        // The next to ask is told the same, as far as an error can be told twice.
        let detail = match &error {
            Error::Access(AccessError::ReleaseUnknown { detail, .. }) => detail.clone(),
            other => other.to_string(),
        };
        *outcome =
            Some(AccessError::ReleaseUnknown { lease: self.lease.clone(), detail, ttl: self.ttl }.into());
        Err(error)
    }
}

/// What is locked here is a single value, whole at any time.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::keeper::Backing,
        clock::ManualClock,
        provider::LeaseGuard,
        session::Session,
        time::{Drift, Moment},
    };

    /// A heartbeat's failure may be here a moment after somebody was told of the loss without it.
    #[test]
    fn everybody_is_told_what_the_first_was_told() {
        let clock = Arc::new(ManualClock::default());
        let ttl = Duration::from_secs(9);
        let session = Session::granted(Moment::ZERO, ttl, Drift::from_ppm(0).unwrap());
        let guard = LeaseGuard { lease_id: "1".to_owned(), expires_at: chrono::DateTime::UNIX_EPOCH };
        let taken = Taken {
            held: Arc::new(Held::new(clock.clone(), session)),
            token: None,
            ttl,
            backing: Backing::Provider(guard),
        };
        let kept = Kept::new(&taken, &WriteLease::Local, watch::channel(false).1);
        clock.advance(ttl);
        let told = kept.check();
        kept.last_heartbeat(Some("it was too late anyway".to_owned()));
        assert_eq!(kept.check(), told);
        assert!(told.is_err_and(|lost| lost.last_failure.is_none()));
    }
}
