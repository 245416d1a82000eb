//! Acquiring: from a [`WriteLease`] to what a guard may believe in. The head of the module has the argument.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    Settings,
    keeper::{self, Backing},
};
use crate::{
    clock,
    error::{AccessError, Result, WriteLost},
    lease::Held,
    provider::{LocalLease, WriteLease},
    runtime::Spawner,
    session::{LossReason, Session},
    token::Token,
};

/// What was granted, and how it is held.
pub(super) struct Taken {
    pub(super) held: Arc<Held>,
    pub(super) token: Option<Token>,
    /// How long it lives without a heartbeat.
    pub(super) ttl: Duration,
    pub(super) backing: Backing,
}

/// Acquires it. What was granted and can't be believed in is released in the background.
pub(super) async fn take(lease: &Arc<WriteLease>, settings: &Settings, spawner: &Spawner) -> Result<Taken> {
    if let WriteLease::Raft(raft) = lease.as_ref() {
        // It has a session that counts from its own grant, on the agent's clock: no date is asked.
        let granted = raft.take().await?;
        return Ok(Taken {
            held: granted.held().clone(),
            token: Some(granted.token()),
            ttl: granted.ttl(),
            backing: Backing::Lease(granted),
        });
    }
    let provider = lease.provider()?;
    let (clock, exact) = match lease.as_ref() {
        WriteLease::Local => {
            let local = LocalLease::default();
            (local.clock().clone(), Some(local.ttl_granted()))
        }
        _ => (settings.clock.clone(), None),
    };
    let sent = clock.now();
    let guard = provider.acquire().await?;
    let took = clock.now().since(sent);
    let shown = clock::wall_now();
    let expires_at = guard.expires_at;
    let left = exact.unwrap_or_else(|| left_of(expires_at, shown).min(settings.ttl_at_most));
    let held = Arc::new(Held::new(clock, Session::granted(sent, left, settings.clock_drift_max)));
    let token = lease.token(&guard).or_else(|| settings.tokens.as_ref().and_then(|find| find(&guard)));

    let called = format!("{lease:?}");
    let refused = match held.check() {
        Ok(()) => {
            return Ok(Taken { held, token, ttl: left, backing: Backing::Provider(guard) });
        }
        Err(_) if exact.is_none() && expires_at <= shown => {
            AccessError::ClocksDisagree { lease: called, expires_at, shown }
        }
        Err(LossReason::ExpiredWithoutContact { .. }) => AccessError::TooLate { lease: called, left, took },
        Err(reason) => AccessError::Lost(WriteLost { lease: called, token, reason, last_failure: None }),
    };
    let lease = lease.clone();
    spawner.spawn(async move {
        if let Err(error) = keeper::release(&lease, guard, left).await {
            tracing::debug!(?lease, %error, "a grant that could not be used was not released; it expires");
        }
    });
    Err(refused.into())
}

/// What is left at `shown`; nothing of what is past.
fn left_of(expires_at: DateTime<Utc>, shown: DateTime<Utc>) -> Duration {
    expires_at.signed_duration_since(shown).to_std().unwrap_or_default()
}
