//! What takes long: nobody waits for it here.

use std::{
    future::Future as _,
    task::{Context, Waker},
    time::Duration,
};

use leasehold::{
    Change, ChangeKind, Timing,
    chaos::{Sim, Weather},
};

use crate::storm::{MS, S};

const TTL: Duration = Duration::from_secs(3);

/// A future that is kept and not polled would otherwise hold the name for ever, once its turn has come: its place in the
/// queue is renewed in the background.
#[test]
fn a_waiter_that_nobody_polls_does_not_hold_the_name_for_ever() {
    let script = async |sim: Sim| {
        let held = sim.up(0).await.acquire("x").await.unwrap();
        let (unpolled, next) = (sim.up(1).await, sim.up(2).await);
        let mut kept = Box::pin(unpolled.lease("x").ttl(TTL).acquire());
        while sim.up(0).await.status().waiters == 0 {
            assert!(kept.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            sim.sleep(S / 10).await;
        }
        // While others hold the name it keeps its place for as long as it is looked after.
        for _ in 0..60 {
            sim.sleep(S).await;
            assert!(kept.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(sim.up(0).await.status().waiters, 1);
        }
        let token = held.token();
        drop(held);
        let released = sim.now();
        let lease = next.lease("x").ttl(TTL).wait_at_most(100 * S).acquire().await.unwrap();
        assert!(lease.token().get() > token.get() + 1, "its turn had come");
        let waited = sim.now() - released;
        assert!(waited < 15 * S + 3 * TTL, "{waited:?}");
        drop(lease);
        // It is none the worse for it.
        let lease = kept.await.unwrap();
        lease.check().unwrap();
    };
    Sim::builder().seed(1).agents(3).run(script).unwrap();
}

/// Each preset is for round trips up to so long: its leader stays, and leases are granted.
#[test]
fn agents_as_far_apart_as_their_timing_is_for_have_one_leader_all_along() {
    for (timing, round_trip) in
        [(Timing::default(), 60 * MS), (Timing::fast_lan(), 30 * MS), (Timing::wan(), 300 * MS)]
    {
        let delay = (round_trip / 2 - MS, round_trip / 2 - MS / 2);
        let weather = Weather { delay, slow: 0.0, ..Weather::default() };
        let script = async |sim: Sim| {
            let agent = sim.up(1).await;
            let term = agent.status().term;
            for _ in 0..20 {
                agent.lease("x").acquire().await.unwrap().release().await.unwrap();
                sim.sleep(S).await;
            }
            assert_eq!(agent.status().term, term);
        };
        Sim::builder().seed(1).agents(3).timing(timing).weather(weather).run(script).unwrap();
    }
}

/// Of an index that no agent has told: another cluster's, say, after this one was founded anew.
#[test]
fn a_watcher_from_beyond_the_log_is_told_so() {
    for beyond in [1_000_000, u64::MAX] {
        let script = async |sim: Sim| watches_from(beyond, &sim).await;
        Sim::builder().seed(1).agents(3).run(script).unwrap();
    }
}

async fn watches_from(beyond: u64, sim: &Sim) {
    let agent = sim.up(1).await;
    let lease = sim.up(0).await.acquire("x").await.unwrap();
    let mut watch = agent.watch("x").unwrap().since(beyond);
    let began = sim.now();
    let Change { index, kind: ChangeKind::Present { held, complete, lagged, .. }, .. } =
        watch.next().await.unwrap()
    else {
        panic!("it has missed what was before")
    };
    assert!(sim.now() - began < 15 * S);
    assert_eq!((held.len(), held[0].1.token, complete, lagged), (1, lease.token(), true, true));
    assert!(index < 1_000_000);
    // It goes on from there.
    lease.release().await.unwrap();
    assert!(matches!(watch.next().await.unwrap().kind, ChangeKind::Ended { .. }));
}
