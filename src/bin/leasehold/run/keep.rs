//! Keeping the lease, and hearing of its revocation.
//!
//! The library would renew the lease by itself, and give a revoked one back as soon as a renewal says so: then the next
//! holder has it, while the command is still being ended. So `run` renews it, and gives it back when nothing of the
//! command is left. A revoked lease can't be renewed, and until its deadline the leader gives it to nobody else: that is
//! the time in which the command is ended.

use std::{collections::VecDeque, future::poll_fn, pin::Pin, task::Poll, time::Duration};

use leasehold::{AgentName, ChangeKind, Client, Lease, LeaseLost, RenewError};

use crate::seam::{self, Either, select2};

/// After this part of the ttl, within the bounds below, another attempt is made beside those that are not answered yet:
/// about as often as the library would. The next one after twice as long, up to the part of the ttl.
const ATTEMPTS_PER_TTL: u32 = 6;
const ATTEMPT_MIN: Duration = Duration::from_millis(100);
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// So many attempts are under way at once; then the oldest is given up. What is not answered by then is asked over a
/// connection that answers no more.
const UNDER_WAY_MAX: usize = 3;
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
    loop {
        // A third of the ttl after the renewal that counts was sent.
        seam::sleep(lease.remaining().saturating_sub(ttl * 2 / 3)).await;
        if let Err(lost) = renew_once(ttl, || lease.renew()).await {
            return lost;
        }
    }
}

/// Tries until one attempt is answered.
async fn renew_once<F>(ttl: Duration, attempt: impl Fn() -> F) -> Result<(), LeaseLost>
where
    F: Future<Output = Result<(), RenewError>>,
{
    let longest = (ttl / ATTEMPTS_PER_TTL).max(ATTEMPT_MIN);
    let mut patience = longest.min(ATTEMPT_MAX);
    let mut under_way: VecDeque<Pin<Box<F>>> = VecDeque::new();
    loop {
        if under_way.len() == UNDER_WAY_MAX {
            under_way.pop_front();
        }
        under_way.push_back(Box::pin(attempt()));
        match seam::timeout(patience, first_of(&mut under_way)).await {
            Some(Ok(())) => return Ok(()),
            Some(Err(RenewError::Lost(lost))) => return Err(lost),
            Some(Err(_)) => seam::sleep(ttl / PAUSES_PER_TTL).await,
            None => patience = (patience * 2).min(longest),
        }
    }
}

/// The output of the first that is done, which is taken out. Cancel-safe.
async fn first_of<F: Future>(under_way: &mut VecDeque<Pin<Box<F>>>) -> F::Output {
    poll_fn(|cx| {
        for at in 0..under_way.len() {
            let polled = under_way.get_mut(at).map(|attempt| attempt.as_mut().poll(cx));
            if let Some(Poll::Ready(output)) = polled {
                drop(under_way.remove(at));
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
    .await
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

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::pending};

    use super::*;

    struct Counted<'a>(&'a Cell<usize>);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_renewals_are_under_way_whatever_the_ttl() {
        for ttl in [Duration::from_millis(1_100), Duration::from_secs(360), Duration::from_secs(86_400)] {
            let (began, under_way, most) = (Cell::new(0), Cell::new(0), Cell::new(0));
            // None is ever answered.
            let attempt = || {
                began.set(began.get() + 1);
                under_way.set(under_way.get() + 1);
                most.set(most.get().max(under_way.get()));
                let counted = Counted(&under_way);
                async move {
                    let _counted = counted;
                    pending().await
                }
            };
            assert!(seam::timeout(ttl, renew_once(ttl, attempt)).await.is_none());
            assert_eq!((under_way.get(), most.get()), (0, UNDER_WAY_MAX), "{ttl:?}");
            assert!((6..=20).contains(&began.get()), "{ttl:?}: {}", began.get());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_counts() {
        let ttl = Duration::from_secs(12);
        let (began, third) = (Cell::new(0), tokio::sync::Notify::new());
        // The first is answered when the third has been made.
        let attempt = || {
            began.set(began.get() + 1);
            let number = began.get();
            if number == 3 {
                third.notify_one();
            }
            let third = &third;
            async move {
                if number == 1 {
                    third.notified().await;
                    return Ok(());
                }
                pending().await
            }
        };
        assert!(seam::timeout(ttl, renew_once(ttl, attempt)).await.is_some_and(|renewed| renewed.is_ok()));
        assert_eq!(began.get(), 3);
    }
}
