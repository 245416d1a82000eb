//! The keeper: one task for each write guard. It keeps the guard alive as long as it is held, and releases it when it
//! ends by will. What the guard may believe is decided by its session alone, never here: if this task is late, hangs or
//! dies, the guard is lost at its deadline.

use std::{pin::pin, sync::Arc, time::Duration};

use super::guard::Kept;
use crate::{
    error::{AccessError, Error, RenewError, Result},
    lease::Lease,
    provider::{LeaseGuard, WriteLease, WriteLeaseProvider as _},
    runtime::{self, Either, watch},
    session::LossReason,
};

/// While no heartbeat is due, the task looks at the clock this often: the timer doesn't count suspend, the clock does.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// One heartbeat may take this part of the ttl; then it counts as unanswered, and is tried again. From a third of the
/// ttl to its end there is room for two that hang and one that is answered.
const HEARTBEAT_PER_TTL: u32 = 4;
/// How long a release may take; then its outcome is unknown.
const RELEASE_AT_MOST: Duration = Duration::from_secs(10);

/// Who answers for a guard.
pub(super) enum Backing {
    /// An agent's lease: the agent renews it, together with all its others.
    Lease(Lease),
    /// A provider, which wants heartbeats.
    Provider(LeaseGuard),
}

/// See the file's head.
pub(super) struct Keeper {
    /// Kept for as long as the guard: with it lives the agent, or the provider.
    lease: Arc<WriteLease>,
    kept: Arc<Kept>,
    backing: Backing,
}

impl Keeper {
    pub(super) fn new(lease: Arc<WriteLease>, kept: Arc<Kept>, backing: Backing) -> Self {
        Self { lease, kept, backing }
    }

    /// The task: from the grant until nothing is left to do, which it tells.
    pub(super) async fn run(self, over: watch::Sender<bool>) {
        let Self { lease, kept, backing } = self;
        let reason = match &backing {
            Backing::Lease(_) => kept.held().lost().await,
            Backing::Provider(guard) => beat(&lease, &kept, guard).await,
        };
        // What was lost is left to the provider's own time: a release that arrives after another has been granted it
        // would rely on the provider to tell the two apart.
        if reason.is_by_will() {
            let released = match backing {
                Backing::Lease(lease) => lease.give_back_ended().await.map_err(Error::from),
                Backing::Provider(guard) => release(&lease, guard, kept.ttl()).await,
            };
            if let Err(error) = released {
                tracing::debug!(lease = kept.lease(), %error, "a write guard was not released; it expires");
                kept.not_released(error);
            }
        } else {
            tracing::warn!(lease = kept.lease(), %reason, "a write guard is lost");
        }
        over.send_replace(true);
    }
}

/// Sends heartbeats until the guard has ended, and says why it has.
async fn beat(lease: &WriteLease, kept: &Kept, guard: &LeaseGuard) -> LossReason {
    let held = kept.held();
    let mut lost = pin!(held.lost());
    loop {
        // Before the heartbeat is sent: whatever the provider counts from is later.
        let sent = held.clock().now();
        match held.next_renewal() {
            // It would come too late, or it has ended.
            None => return lost.await,
            Some(due) if due > sent => {
                let nap = due.since(sent).min(LOOK_AT_LEAST_EVERY);
                if let Either::First(reason) = runtime::select2(lost.as_mut(), runtime::sleep(nap)).await {
                    return reason;
                }
                continue;
            }
            Some(_) => {}
        }
        let within = kept.ttl() / HEARTBEAT_PER_TTL;
        let mut answer = pin!(runtime::timeout(within, lease.heartbeat(guard)));
        let (verdict, failure) = match runtime::select2(lost.as_mut(), answer.as_mut()).await {
            Either::First(reason) => {
                if reason.is_by_will() {
                    // The release comes after it, not beside it: the two may overtake each other on their way.
                    let _ = answer.await;
                }
                return reason;
            }
            Either::Second(Ok(Ok(()))) => {
                // If it had ended before the answer came, the loss was told then.
                let _ = held.renewed(sent);
                kept.last_heartbeat(None);
                continue;
            }
            Either::Second(Ok(Err(error))) => (verdict(&error), error.to_string()),
            Either::Second(Err(runtime::TimedOut)) => (None, format!("no answer within {within:?}")),
        };
        tracing::debug!(lease = kept.lease(), failure, "a heartbeat failed");
        kept.last_heartbeat(Some(failure));
        match verdict {
            Some(reason) => kept.end(reason),
            None => held.renewal_failed(),
        }
    }
}

/// What an error says about the lease; mostly nothing: then the heartbeat is tried again.
fn verdict(error: &Error) -> Option<LossReason> {
    match error {
        Error::Lost(lost) | Error::Renew(RenewError::Lost(lost)) if !lost.reason.is_by_will() => {
            Some(lost.reason.clone())
        }
        // By its lease id, from elsewhere: nobody here wanted it.
        Error::Lost(_) | Error::Renew(RenewError::Lost(_)) | Error::ForeignGuard { .. } => {
            Some(LossReason::ExpiredInContact)
        }
        _ => None,
    }
}

/// Releases it, for at most 10 s.
pub(super) async fn release(lease: &WriteLease, guard: LeaseGuard, ttl: Duration) -> Result<()> {
    match runtime::timeout(RELEASE_AT_MOST, lease.release(guard)).await {
        Ok(released) => released,
        Err(runtime::TimedOut) => {
            let detail = format!("no answer within {RELEASE_AT_MOST:?}");
            Err(AccessError::ReleaseUnknown { lease: format!("{lease:?}"), detail, ttl }.into())
        }
    }
}
