//! A provider that is late, fails, hangs, lies about the time: the guard stops first, and says why. In paused time, so
//! that every moment is exact.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use leasehold::{Access, AccessError, Clock as _, Error, LossReason, ManualClock, Moment};

use crate::shelf::{
    Answer::{self, *},
    Call, SECOND, Shelf, TTL, access, at, is_near, lost_in_time, soon,
};

#[tokio::test(start_paused = true)]
async fn heartbeats_come_at_a_third_of_what_is_left() {
    let shelf = Shelf::new();
    let guard = soon(access(&shelf).write()).await.unwrap();
    at(&shelf, SECOND * 31).await;
    guard.check().unwrap();
    let beats = shelf.calls(Call::Heartbeat);
    assert_eq!(beats.len(), 10, "{beats:?}");
    for (n, beat) in (1..).zip(beats) {
        assert!(is_near(beat, SECOND * 3 * n), "heartbeat {n} at {beat:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_fails_is_tried_again_until_the_deadline() {
    let shelf = Shelf::new();
    shelf.heartbeats(Fails);
    let guard = soon(access(&shelf).write()).await.unwrap();
    let lost = lost_in_time(&guard, &shelf).await;
    assert!(matches!(lost.reason, LossReason::ExpiredWithoutContact { ttl } if is_near(ttl, TTL)), "{lost}");
    assert!(is_near(shelf.age(), TTL * 99 / 100), "{:?}", shelf.age());
    assert_eq!(lost.last_failure.as_deref(), Some("the shelf is out of reach"));
    let text = lost.to_string();
    assert!(text.starts_with("the write guard of WriteLease::Custom(...) is lost: no renewal"), "{text}");
    assert!(text.ends_with("(the last heartbeat failed: the shelf is out of reach)"), "{text}");
    let beats = shelf.calls(Call::Heartbeat);
    let pauses: Vec<Duration> = beats.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(beats.len() > 6 && pauses[0] < pauses[1] && pauses[1] < pauses[2], "{beats:?}");
    // What was lost is not released, and nothing more is sent for it.
    assert!(
        matches!(soon(guard.close()).await, Err(Error::Access(AccessError::Lost(again))) if again == lost)
    );
    at(&shelf, TTL * 3).await;
    assert_eq!(shelf.calls(Call::Heartbeat), beats);
    assert_eq!(shelf.calls(Call::Release), []);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_succeeds_again_keeps_it() {
    let shelf = Shelf::new();
    shelf.heartbeats(Fails);
    let guard = soon(access(&shelf).write()).await.unwrap();
    at(&shelf, SECOND * 6).await;
    shelf.heartbeats(Well);
    at(&shelf, TTL * 2).await;
    guard.check().unwrap();
    // An old failure explains no later loss.
    shelf.heartbeats(Hangs);
    let lost = lost_in_time(&guard, &shelf).await;
    assert_eq!(
        lost.last_failure.as_deref().map(|failure| &failure[..16]),
        Some("no answer within"),
        "{lost}"
    );
}

/// One that is never answered is given up, and the next one keeps the lease.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_hangs_is_given_up() {
    for hangs in [Hangs, DoneAndHangs] {
        let shelf = Shelf::new();
        shelf.heartbeats(hangs);
        let guard = soon(access(&shelf).write()).await.unwrap();
        shelf.until(Call::Heartbeat, 1).await;
        shelf.heartbeats(Well);
        at(&shelf, TTL * 3).await;
        guard.check().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_that_hangs_keeps_a_guard_beyond_its_deadline() {
    let shelf = Shelf::new();
    shelf.heartbeats(Hangs);
    let guard = soon(access(&shelf).write()).await.unwrap();
    let dropped = Arc::new(AtomicBool::new(false));
    struct Tell(Arc<AtomicBool>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let tell = Tell(Arc::clone(&dropped));
    let lost = guard.guard(async move {
        let _tell = tell;
        pending::<()>().await;
    });
    let lost = soon(lost).await.unwrap_err();
    assert!(dropped.load(Ordering::SeqCst), "guarded work is dropped at the loss");
    assert_eq!(lost_in_time(&guard, &shelf).await, lost);
    assert!(is_near(shelf.age(), TTL * 99 / 100), "{:?}", shelf.age());
    assert_eq!(guard.guard(async { 1 }).await, Err(lost));
}

/// The provider grants at once, and its answer takes a good part of the ttl.
#[tokio::test(start_paused = true)]
async fn it_counts_from_before_the_acquire_was_sent() {
    let shelf = Shelf::new();
    shelf.acquires(LateAfter(SECOND * 5));
    shelf.heartbeats(Fails);
    let guard = soon(access(&shelf).write()).await.unwrap();
    guard.check().unwrap();
    assert!(is_near(guard.remaining(), TTL * 99 / 100 - SECOND * 5), "{:?}", guard.remaining());
    lost_in_time(&guard, &shelf).await;
}

/// The provider renews at once, and its answer takes long.
#[tokio::test(start_paused = true)]
async fn it_counts_from_before_the_heartbeat_was_sent() {
    let shelf = Shelf::new();
    shelf.heartbeats(LateAfter(SECOND * 2));
    let guard = soon(access(&shelf).write()).await.unwrap();
    shelf.until(Call::HeartbeatDone, 2).await;
    guard.check().unwrap();
    shelf.heartbeats(Fails);
    lost_in_time(&guard, &shelf).await;
}

/// Answers at random: at no moment is a guard believed in that the provider holds for over.
#[tokio::test(start_paused = true)]
async fn whatever_the_provider_does_belief_ends_first() {
    const ANSWERS: [Answer; 8] = [
        Well,
        Well,
        Fails,
        Hangs,
        DoneAndHangs,
        LateAfter(Duration::from_millis(1_900)),
        LateAfter(Duration::from_millis(400)),
        LateBefore(Duration::from_millis(2_100)),
    ];
    let (mut lost, mut kept) = (0, 0);
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    for _ in 0..200 {
        let shelf = Shelf::new();
        shelf.acquires([Well, LateAfter(SECOND * 2), LateBefore(SECOND * 2)][next(3)]);
        let guard = soon(access(&shelf).write()).await.unwrap();
        for _ in 0..20 {
            shelf.heartbeats(ANSWERS[next(ANSWERS.len())]);
            for _ in 0..next(60) {
                tokio::time::sleep(SECOND / 20).await;
                assert!(guard.check().is_err() || shelf.is_held(), "believed in at {:?}", shelf.age());
            }
        }
        *(if guard.check().is_ok() { &mut kept } else { &mut lost }) += 1;
    }
    assert!(lost > 20 && kept > 20, "{lost} lost, {kept} kept");
}

#[tokio::test(start_paused = true)]
async fn a_date_that_is_past_says_that_the_clocks_disagree() {
    let shelf = Shelf::new();
    shelf.date_is_off_by(TimeDelta::hours(-1));
    let access = access(&shelf);
    let error = soon(access.write()).await.unwrap_err();
    assert!(matches!(error, Error::Access(AccessError::ClocksDisagree { .. })), "{error}");
    assert!(error.to_string().contains("the provider's clock and this one disagree"), "{error}");
    shelf.until(Call::Release, 1).await;
    assert!(!shelf.is_held(), "what can't be used is given back");
    shelf.date_is_off_by(TimeDelta::zero());
    soon(access.write()).await.unwrap().check().unwrap();
}

/// This machine's clock is ahead: less is believed, and renewed sooner.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_costs_what_it_is_ahead() {
    let shelf = Shelf::new();
    shelf.date_is_off_by(TimeDelta::seconds(-6));
    let guard = soon(access(&shelf).write()).await.unwrap();
    shelf.until(Call::Heartbeat, 3).await;
    assert!(is_near(shelf.age(), SECOND * 3), "{:?}", shelf.age());
    shelf.heartbeats(Fails);
    lost_in_time(&guard, &shelf).await;
    assert!(is_near(shelf.age(), SECOND * 3 + SECOND * 3 * 99 / 100), "{:?}", shelf.age());
}

/// The documented assumption, and what makes it unnecessary.
#[tokio::test(start_paused = true)]
async fn a_date_far_ahead_is_believed_up_to_the_longest_ttl() {
    let shelf = Shelf::new();
    shelf.date_is_off_by(TimeDelta::MAX);
    shelf.heartbeats(Fails);
    let guard = soon(access(&shelf).write()).await.unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    assert!(is_near(guard.remaining(), day * 99 / 100), "{:?}", guard.remaining());
    soon(guard.close()).await.unwrap();

    let shelf = Shelf::new();
    shelf.date_is_off_by(TimeDelta::MAX);
    shelf.heartbeats(Fails);
    let guard = access(&shelf).ttl_at_most(TTL).write().await.unwrap();
    lost_in_time(&guard, &shelf).await;
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_took_too_long_is_none() {
    let shelf = Shelf::new();
    shelf.acquires(LateAfter(TTL));
    let error = soon(access(&shelf).write()).await.unwrap_err();
    assert!(matches!(error, Error::Access(AccessError::TooLate { took, .. }) if took >= TTL), "{error}");
    shelf.until(Call::Release, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_goes_back_while_it_is_acquired_grants_nothing() {
    let shelf = Shelf::new();
    shelf.acquires(LateAfter(SECOND));
    let clock = Arc::new(ManualClock::at(Moment::ZERO + SECOND * 100));
    let access = Access::read_write(shelf.lease()).clock(Arc::clone(&clock) as _);
    let (granted, ()) = soon(futures_util::future::join(access.write(), async {
        shelf.until(Call::Acquire, 1).await;
        clock.set(clock.now() - SECOND);
    }))
    .await;
    let error = granted.unwrap_err();
    let Error::Access(AccessError::Lost(lost)) = &error else { panic!("{error}") };
    assert!(matches!(lost.reason, LossReason::ClockWentBack { .. }), "{lost}");
    shelf.until(Call::Release, 1).await;
}

/// An error that is about the lease ends it at once; no other does.
#[tokio::test(start_paused = true)]
async fn a_provider_that_knows_no_such_guard_ends_it() {
    let shelf = Shelf::new();
    shelf.heartbeats(Gone);
    let guard = soon(access(&shelf).write()).await.unwrap();
    let lost = soon(guard.lost()).await;
    assert!(is_near(shelf.age(), SECOND * 3), "{:?}", shelf.age());
    assert_eq!(lost.reason, LossReason::ExpiredInContact);
    assert!(lost.last_failure.is_some_and(|failure| failure.contains("knows no such guard")));
}
