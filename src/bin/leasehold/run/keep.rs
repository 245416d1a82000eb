//! Keeping the lease, and hearing of its revocation.
//!
//! The library would renew the lease by itself, and give a revoked one back as soon as a renewal says so: then the next
//! holder has it, while the command is still being ended. So `run` renews it, and gives it back when nothing of the
//! command is left. A revoked lease can't be renewed, and until its deadline the leader gives it to nobody else: that is
//! the time in which the command is ended.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use leasehold::{AgentName, ChangeKind, Client, Lease, LeaseLost, RenewError};

use crate::seam::{self, Either, select2};

/// After this part of the ttl, within the bounds below, another attempt is made beside those that are not answered yet:
/// about as often as the library would.
const ATTEMPTS_PER_TTL: u32 = 6;
const ATTEMPT_MIN: Duration = Duration::from_millis(100);
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// The pause after an attempt that failed.
const PAUSES_PER_TTL: u32 = 48;

/// Renews the lease until it is lost.
pub(super) async fn keep(lease: &Lease) -> LeaseLost {
    match select2(lease.lost(), renew(lease)).await {
        Either::First(lost) | Either::Second(lost) => lost,
    }
}

async fn renew(lease: &Lease) -> LeaseLost {
    let ttl = lease.ttl();
    let attempt = (ttl / ATTEMPTS_PER_TTL).clamp(ATTEMPT_MIN, ATTEMPT_MAX);
    loop {
        // A third of the ttl after the renewal that counts was sent.
        seam::sleep(lease.remaining().saturating_sub(ttl * 2 / 3)).await;
        // Each gives up by itself after a third of the ttl, so there are never many.
        let mut under_way = FuturesUnordered::new();
        loop {
            under_way.push(lease.renew());
            match seam::timeout(attempt, under_way.next()).await {
                Some(Some(Ok(()))) => break,
                Some(Some(Err(RenewError::Lost(lost)))) => return lost,
                Some(Some(Err(_)) | None) => seam::sleep(ttl / PAUSES_PER_TTL).await,
                None => {}
            }
        }
    }
}

/// Resolves when this very lease is revoked, with the sentence that tells so. Nothing hangs on it: a renewal says it
/// too, later.
pub(super) async fn revoked(client: &Client, lease: &Lease) -> String {
    if let Ok(mut watch) = client.watch(lease.name().as_str()).await {
        // It may have been revoked before the watch began.
        if let Ok(report) = client.inspect(lease.name().as_str()).await {
            let own = report.holders.iter().find(|holder| holder.token == lease.token());
            if own.is_some_and(|own| own.revoked) {
                return format!("the lease on {:?} (token {}) is revoked", lease.name(), lease.token());
            }
        }
        while let Some(change) = watch.next().await {
            match change.kind {
                ChangeKind::Revoked { token, by, reason, heir, .. } if token == lease.token() => {
                    return sentence(lease, &by, &reason, heir.as_ref());
                }
                ChangeKind::Present { held, .. } => {
                    let own = held.iter().find(|(_, holder)| holder.token == lease.token());
                    if own.is_some_and(|(_, own)| own.revoked) {
                        return format!(
                            "the lease on {:?} (token {}) is revoked",
                            lease.name(),
                            lease.token()
                        );
                    }
                }
                _ => {}
            }
        }
    }
    std::future::pending().await
}

fn sentence(lease: &Lease, by: &AgentName, reason: &str, heir: Option<&AgentName>) -> String {
    let (name, token) = (lease.name(), lease.token());
    match heir {
        Some(heir) => format!("{by} handed the lease on {name:?} (token {token}) over to {heir} ({reason})"),
        None => format!("{by} revoked the lease on {name:?} (token {token}): {reason}"),
    }
}
