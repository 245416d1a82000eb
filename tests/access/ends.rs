//! How a guard ends by will, and that an access has one at a time. In paused time.

use std::{
    future::Future as _,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use leasehold::{Access, AccessError, Error, LossReason, Token, WriteLease};

use crate::shelf::{Answer::*, Call, SECOND, Shelf, TTL, access, at, is_near, lost_in_time, soon};

#[tokio::test(start_paused = true)]
async fn dropping_it_releases_and_closing_waits_for_that() {
    let shelf = Shelf::new();
    let access = access(&shelf);
    drop(soon(access.write()).await.unwrap());
    shelf.until(Call::Release, 1).await;
    assert!(!shelf.is_held());
    soon(soon(access.write()).await.unwrap().close()).await.unwrap();
    assert!(!shelf.is_held());
    assert_eq!(shelf.calls(Call::Release).len(), 2);
    assert_eq!(shelf.age(), Duration::ZERO, "no timer was needed");
}

/// Belief ends, then the release leaves: in the other order two could believe.
#[tokio::test(start_paused = true)]
async fn nobody_believes_in_what_is_being_released() {
    let shelf = Shelf::new();
    shelf.releases(LateAfter(SECOND));
    let access = access(&shelf);
    let guard = Arc::new(soon(access.write()).await.unwrap());
    shelf.watches(Arc::clone(&guard));
    soon(access.close()).await.unwrap();
    assert!(!shelf.believed_at_release());
    assert_eq!(guard.check().unwrap_err().reason, LossReason::AccessClosed);
    assert!(!shelf.is_held());
}

/// A heartbeat is under way when the guard is released, and the provider would take it even afterwards.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_races_the_release_revives_nothing() {
    let shelf = Shelf::new();
    shelf.revives();
    shelf.heartbeats(LateBefore(SECOND * 2));
    let access = access(&shelf);
    let guard = soon(access.write()).await.unwrap();
    shelf.until(Call::Heartbeat, 1).await;
    let closing = tokio::spawn({
        let access = access.clone();
        async move { access.close().await }
    });
    tokio::task::yield_now().await;
    let lost = guard.check().unwrap_err();
    assert_eq!(lost.reason, LossReason::AccessClosed, "at once, whatever is under way");
    soon(closing).await.unwrap().unwrap();
    assert_eq!(guard.check(), Err(lost), "the answer changed nothing");
    assert_eq!((shelf.calls(Call::Heartbeat).len(), shelf.calls(Call::HeartbeatDone).len()), (1, 1));
    at(&shelf, shelf.age() + SECOND * 4).await;
    assert!(!shelf.is_held(), "it came to life again");
    assert_eq!(shelf.calls(Call::Heartbeat).len(), 1, "none is sent after the end");
}

/// The same, where the heartbeat never ends: the release waits for a quarter of the ttl at most.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_hangs_delays_the_release_for_a_while_only() {
    let shelf = Shelf::new();
    shelf.heartbeats(Hangs);
    let guard = soon(access(&shelf).write()).await.unwrap();
    shelf.until(Call::Heartbeat, 1).await;
    soon(guard.close()).await.unwrap();
    assert!(is_near(shelf.age(), SECOND * 3 + TTL / 4), "{:?}", shelf.age());
    assert!(!shelf.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_or_hangs_is_told() {
    let shelf = Shelf::new();
    shelf.releases(Fails);
    let error = soon(soon(access(&shelf).write()).await.unwrap().close()).await.unwrap_err();
    assert_eq!(error.to_string(), "the shelf is out of reach");

    let shelf = Shelf::new();
    shelf.releases(Hangs);
    let access = access(&shelf);
    let guard = soon(access.write()).await.unwrap();
    let error = soon(access.close()).await.unwrap_err();
    assert!(matches!(error, Error::Access(AccessError::ReleaseUnknown { .. })), "{error}");
    assert!(is_near(shelf.age(), SECOND * 10), "{:?}", shelf.age());
    assert!(error.to_string().contains("WriteLease::Custom(...)"), "{error}");
    // Everybody who asks is told.
    assert_eq!(soon(guard.close()).await.unwrap_err().to_string(), error.to_string());
    assert_eq!(soon(access.close()).await.unwrap_err().to_string(), error.to_string());
}

/// Its task is gone; the guard stops all the same, and in time.
#[tokio::test(start_paused = true)]
async fn a_provider_that_panics_costs_the_guard_and_no_more() {
    let shelf = Shelf::new();
    shelf.heartbeats(Panics);
    let access = access(&shelf);
    let guard = soon(access.write()).await.unwrap();
    shelf.until(Call::Heartbeat, 1).await;
    tokio::task::yield_now().await;
    guard.check().unwrap();
    lost_in_time(&guard, &shelf).await;
    at(&shelf, TTL).await;
    shelf.heartbeats(Well);
    let guard = soon(access.write()).await.unwrap();
    shelf.heartbeats(Panics);
    shelf.until(Call::Heartbeat, 2).await;
    tokio::task::yield_now().await;
    let error = soon(guard.close()).await.unwrap_err();
    assert!(matches!(error, Error::Access(AccessError::ReleaseUnknown { .. })), "{error}");
}

#[tokio::test(start_paused = true)]
async fn one_access_has_one_guard() {
    let shelf = Shelf::new();
    let access = access(&shelf);
    let refused = async || {
        let error = access.clone().write().await.unwrap_err();
        assert!(matches!(error, Error::Access(AccessError::AlreadyWriting)), "{error}");
    };
    shelf.acquires(LateBefore(SECOND));
    let (guard, ()) = soon(futures_util::future::join(access.write(), refused())).await;
    let guard = guard.unwrap();
    refused().await;
    assert_eq!(shelf.calls(Call::Acquire).len(), 1, "the provider is not even asked");
    // The release of the dropped guard takes a while: it is waited for, or the provider would refuse.
    shelf.releases(LateBefore(SECOND));
    drop(guard);
    let guard = soon(access.write()).await.unwrap();
    refused().await;
    soon(guard.close()).await.unwrap();
    // A lost guard in somebody's hand bars nobody.
    shelf.heartbeats(Gone);
    let old = soon(access.write()).await.unwrap();
    soon(old.lost()).await;
    at(&shelf, shelf.age() + TTL).await;
    let new = soon(access.write()).await.unwrap();
    drop(old);
    new.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_that_is_given_up_bars_nobody() {
    let shelf = Shelf::new();
    let access = access(&shelf);
    shelf.acquires(Hangs);
    assert!(tokio::time::timeout(SECOND, access.write()).await.is_err());
    shelf.acquires(Fails);
    assert_eq!(soon(access.write()).await.unwrap_err().to_string(), "the shelf is out of reach");
    shelf.acquires(Well);
    soon(access.write()).await.unwrap().check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_closed_access_gives_no_guard() {
    let shelf = Shelf::new();
    let access = access(&shelf);
    shelf.acquires(LateBefore(SECOND));
    let (granted, closed) = soon(futures_util::future::join(access.write(), async {
        shelf.until(Call::Acquire, 1).await;
        access.close().await
    }))
    .await;
    closed.unwrap();
    assert!(matches!(granted, Err(Error::Access(AccessError::Closed))), "{granted:?}");
    shelf.until(Call::Release, 1).await;
    assert!(!shelf.is_held());
    let again = access.clone().write().await;
    assert!(matches!(again, Err(Error::Access(AccessError::Closed))), "{again:?}");
    soon(access.close()).await.unwrap();
}

/// Nothing of the access is needed for the guard to live.
#[tokio::test(start_paused = true)]
async fn a_guard_outlives_its_access() {
    let shelf = Shelf::new();
    let guard = soon(access(&shelf).write()).await.unwrap();
    at(&shelf, TTL * 3).await;
    guard.check().unwrap();
    drop(guard);
    shelf.until(Call::Release, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_custom_provider_has_a_token_if_one_is_found() {
    let shelf = Shelf::new();
    assert_eq!(soon(access(&shelf).write()).await.unwrap().token(), None);
    let shelf = Shelf::new();
    let access = access(&shelf).tokens_from(|guard| {
        guard.lease_id.strip_prefix("shelf-").and_then(|count| count.parse().ok()).map(Token::new)
    });
    for count in 1..4 {
        let guard = soon(access.write()).await.unwrap();
        assert_eq!(guard.token(), Some(Token::new(count)));
        let text = format!("{guard:?}");
        assert_eq!(
            text,
            format!("WriteGuard {{ lease: WriteLease::Custom(...), token: Some(Token({count})), .. }}")
        );
    }
    soon(access.close()).await.unwrap();
}

#[test]
fn outside_of_a_runtime_it_says_so() {
    let access = Access::read_write(WriteLease::Local);
    let mut writing = pin!(access.write());
    let Poll::Ready(Err(error)) = writing.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it has to fail at once")
    };
    assert!(matches!(error, Error::Access(AccessError::NoRuntime)), "{error}");
}
