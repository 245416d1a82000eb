//! Leases that share a name, names that stay closed, and what is done to leases by hand.

use std::time::Duration;

use leasehold::{
    AcquireError, AgentName, ChangeKind, Clock as _, EndKind, LossReason, Mode, RaftLease, RevokeError,
    SystemClock, TransferError, TransferTo, WriteLeaseProvider as _, limits,
};

use crate::fixture::{Cluster, soon, until};

const PERMITS: Mode = Mode::Permits { of: 2 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_share_and_a_writer_waits_for_all_of_them() {
    let mut cluster = Cluster::in_process(3).await;
    let reading = |n: usize| cluster.agents[n].lease("db").mode(Mode::Shared);
    let (first, second) = (reading(0).acquire().await.unwrap(), reading(1).acquire().await.unwrap());
    assert!(first.check().is_ok() && second.check().is_ok() && first.token() < second.token());
    let held = cluster.agents[2].try_acquire("db").await.unwrap_err();
    let AcquireError::Held { holder, .. } = &held else { panic!("{held}") };
    assert_eq!((holder.mode, holder.holders, holder.token), (Mode::Shared, 2, first.token()));
    let writing = tokio::spawn(cluster.agents[2].lease("db").acquire());
    until("the writer's place", || cluster.agents[0].status().waiters == 1).await;
    // Readers that come later don't overtake it, not even if they only try.
    assert!(matches!(reading(0).try_acquire().await, Err(AcquireError::Held { .. })));
    let late = tokio::spawn(reading(0).queue_behind_own().acquire());
    until("the late reader's place", || cluster.agents[0].status().waiters == 2).await;
    let report = cluster.agents[1].inspect("db").await.unwrap();
    let waiters: Vec<_> = report.waiters.iter().map(|w| (w.position, w.agent.as_str(), w.mode)).collect();
    assert_eq!(waiters, [(1, "agent-2", Mode::Exclusive), (2, "agent-0", Mode::Shared)]);
    first.release().await.unwrap();
    assert!(!writing.is_finished());
    second.release().await.unwrap();
    let writer = soon("the writer's turn", writing).await.unwrap().unwrap();
    assert!(writer.check().is_ok() && !late.is_finished());
    writer.release().await.unwrap();
    soon("the late reader's turn", late).await.unwrap().unwrap().release().await.unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permit_of_a_dead_holder_comes_back() {
    let mut cluster = Cluster::in_process(3).await;
    let permit = |n: usize| cluster.agents[n].lease("pool").mode(PERMITS);
    let kept = permit(0).acquire().await.unwrap();
    let abandoned = permit(1).ttl(Duration::from_millis(500)).without_renewal().acquire().await.unwrap();
    // Nobody renews it, and nobody gives it back.
    std::mem::forget(abandoned);
    let next = soon("the permit", permit(2).acquire()).await.unwrap();
    assert!(kept.check().is_ok() && next.check().is_ok());
    let none = Mode::Permits { of: 0 };
    assert!(matches!(
        cluster.agents[0].lease("x").mode(none).acquire().await,
        Err(AcquireError::Mode { .. })
    ));
    drop((kept, next));
    cluster.stop_all().await;
}

/// Time for what the old holder has sent off; the agent that held it need not wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_with_a_lock_delay_stays_closed_to_others() {
    const TTL: Duration = Duration::from_millis(500);
    const DELAY: Duration = Duration::from_secs(1);
    let mut cluster = Cluster::in_process(3).await;
    let lease = |n: usize| cluster.agents[n].lease("x").ttl(TTL).lock_delay(DELAY);
    // A release opens it at once.
    lease(0).acquire().await.unwrap().release().await.unwrap();
    let dead = lease(0).without_renewal().acquire().await.unwrap();
    let mut watch = cluster.agents[1].watch("x").unwrap();
    std::mem::forget(dead);
    let closed_at = loop {
        if let ChangeKind::Closed { agent, delay, .. } = soon("word", watch.next()).await.unwrap().kind {
            assert_eq!((agent.as_str(), delay), ("agent-0", DELAY));
            break SystemClock.now();
        }
    };
    let refused = cluster.agents[1].try_acquire("x").await.unwrap_err();
    assert!(
        matches!(&refused, AcquireError::Closed { agent, .. } if agent.as_str() == "agent-0"),
        "{refused}"
    );
    let report = cluster.agents[2].inspect("x").await.unwrap();
    assert!(report.holders.is_empty() && report.closed.is_some());
    let next = soon("the name", lease(1).acquire()).await.unwrap();
    let waited = SystemClock.now().since(closed_at);
    // What is seen of the closing may be late, what is counted from it is not.
    assert!(waited > DELAY / 2, "{waited:?}");
    next.release().await.unwrap();
    // To its own agent the name is open.
    std::mem::forget(lease(2).without_renewal().acquire().await.unwrap());
    let again = soon("the closing", async {
        loop {
            match cluster.agents[0].try_acquire("x").await {
                Err(AcquireError::Closed { .. }) => return cluster.agents[2].try_acquire("x").await,
                Err(AcquireError::Held { .. }) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    });
    again.await.unwrap().release().await.unwrap();
    let shared = cluster.agents[0].lease("x").mode(Mode::Shared).lock_delay(DELAY).acquire().await;
    assert!(matches!(shared, Err(AcquireError::LockDelay { .. })));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_holder_is_told_by_whom_and_why_and_the_next_has_it() {
    let mut cluster = Cluster::in_process(3).await;
    let lease = cluster.agents[0].acquire("x").await.unwrap();
    let next = tokio::spawn(cluster.agents[1].lease("x").acquire());
    until("a waiter", || cluster.agents[2].status().waiters == 1).await;
    let mut watch = cluster.agents[1].watch("x").unwrap();
    let revoked = cluster.agents[2].revoke("x", "maintenance").await.unwrap();
    assert_eq!(revoked.iter().map(|held| held.token).collect::<Vec<_>>(), [lease.token()]);
    let lost = soon("word of it", lease.lost()).await;
    let by = AgentName::new("agent-2").unwrap();
    let reason = "maintenance".to_owned();
    assert_eq!(lost.reason, LossReason::Revoked { by: by.clone(), reason: reason.clone() });
    let next = soon("the next turn", next).await.unwrap().unwrap();
    assert!(next.check().is_ok() && lease.check().is_err());
    let ended = soon("the end", async {
        loop {
            if let ChangeKind::Ended { how, .. } = watch.next().await.unwrap().kind {
                return how;
            }
        }
    });
    assert_eq!(ended.await, EndKind::Revoked { by, reason });
    next.release().await.unwrap();
    assert_eq!(cluster.agents[0].revoke("x", "nobody is there").await.unwrap(), []);
    let long = "r".repeat(leasehold::limits::REASON_BYTES_MAX + 1);
    assert!(matches!(cluster.agents[0].revoke("x", &long).await, Err(RevokeError::Reason { .. })));
    cluster.stop_all().await;
}

/// A holder that can't be told keeps its lease until its own clock ends it, and only then another has it.
/// Whoever has a guard of the seed interface has a date, and hears of nothing: nobody else may have the name before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_is_revoked_is_good_until_its_date_or_its_release() {
    let mut cluster = Cluster::in_process(3).await;
    let provider = RaftLease::new(&cluster.agents[0], "x").unwrap().ttl(Duration::from_secs(2));
    let guard = provider.acquire().await.unwrap();
    let next = tokio::spawn(cluster.agents[1].lease("x").acquire());
    cluster.until_waiting(0, "x", 1).await;
    cluster.agents[2].revoke("x", "maintenance").await.unwrap();
    let next = soon("the next's turn", next).await.unwrap().unwrap();
    assert!(chrono::Utc::now() >= guard.expires_at);
    assert!(provider.heartbeat(&guard).await.is_err());
    next.release().await.unwrap();

    let provider = provider.ttl(limits::TTL_MAX);
    let guard = provider.acquire().await.unwrap();
    let next = tokio::spawn(cluster.agents[1].lease("x").acquire());
    cluster.until_waiting(0, "x", 1).await;
    cluster.agents[2].revoke("x", "maintenance").await.unwrap();
    provider.release(guard).await.unwrap();
    soon("the next's turn", next).await.unwrap().unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_holder_that_is_cut_off_stops_before_the_next_begins() {
    let mut cluster = Cluster::in_process(3).await;
    let lease = cluster.agents[0].acquire("x").await.unwrap();
    let next = tokio::spawn(cluster.agents[1].lease("x").acquire());
    until("a waiter", || cluster.agents[2].status().waiters == 1).await;
    cluster.network.as_ref().unwrap().isolate(&cluster.addresses[0]);
    let revoked = soon("the revocation", async {
        loop {
            if let Ok(revoked) = cluster.agents[2].revoke("x", "now").await {
                return revoked;
            }
        }
    });
    assert_eq!(revoked.await.len(), 1);
    let next = soon("the next turn", next).await.unwrap().unwrap();
    assert!(lease.check().is_err() && next.check().is_ok());
    cluster.network.as_ref().unwrap().rejoin(&cluster.addresses[0]);
    drop((lease, next));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_handed_over_by_hand_to_the_waiter_that_is_named() {
    let mut cluster = Cluster::in_process(3).await;
    let lease = cluster.agents[0].acquire("x").await.unwrap();
    let (one, two) = (AgentName::new("agent-1").unwrap(), AgentName::new("agent-2").unwrap());
    let nobody = cluster.agents[1].transfer("x", &two, "deploy").await.unwrap_err();
    assert!(matches!(&nobody, RevokeError::NoSuchWaiter { to, .. } if *to == two), "{nobody}");
    lease.renew().await.unwrap();
    let first = tokio::spawn(cluster.agents[1].lease("x").acquire());
    until("the first waiter", || cluster.agents[0].status().waiters == 1).await;
    let second = tokio::spawn(cluster.agents[2].lease("x").acquire());
    until("the second waiter", || cluster.agents[0].status().waiters == 2).await;
    cluster.agents[1].transfer("x", &two, "deploy").await.unwrap();
    let second = soon("the heir's turn", second).await.unwrap().unwrap();
    assert!(!first.is_finished());
    let lost = soon("word of it", lease.lost()).await;
    let (by, reason) = (one.clone(), "deploy".to_owned());
    assert_eq!(lost.reason, LossReason::Transferred { to: two, by, reason });
    second.release().await.unwrap();
    soon("the first's turn", first).await.unwrap().unwrap().release().await.unwrap();
    // Several holders: nobody says which of them.
    let shared = [0, 1].map(|n| cluster.agents[n].lease("y").mode(Mode::Shared).acquire());
    let shared = futures_util::future::try_join_all(shared).await.unwrap();
    let several = cluster.agents[0].transfer("y", &one, "deploy").await.unwrap_err();
    assert!(matches!(several, RevokeError::Several { holders: 2, .. }), "{several}");
    assert_eq!(cluster.agents[2].revoke("y", "all of you").await.unwrap().len(), 2);
    for lease in &shared {
        soon("word of it", lease.lost()).await;
    }
    cluster.stop_all().await;
}

/// The heir's lease begins in the entry that ends the holder's: a watcher sees nothing in between, nor does anyone who
/// tries. Without such a waiter the lease comes back, as good as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_hands_its_lease_over_without_a_gap() {
    let mut cluster = Cluster::in_process(3).await;
    let two = AgentName::new("agent-2").unwrap();
    let lease = cluster.agents[0].acquire("x").await.unwrap();
    let (id, token) = (lease.id(), lease.token());
    let back = lease.transfer(two.clone()).await.unwrap_err();
    let TransferError::NoSuchWaiter { to, lease, .. } = back else { panic!("{back}") };
    assert_eq!((to, lease.id(), lease.token()), (TransferTo::Agent(two.clone()), id, token));
    lease.check().unwrap();
    lease.renew().await.unwrap();

    let first = tokio::spawn(cluster.agents[1].lease("x").acquire());
    cluster.until_waiting(0, "x", 1).await;
    let second = tokio::spawn(cluster.agents[2].lease("x").acquire());
    cluster.until_waiting(0, "x", 2).await;
    let mut watch = cluster.agents[1].watch("x").unwrap();
    let to = lease.transfer(two).await.unwrap().to.expect("nothing was lost");
    assert_eq!(to.agent.as_str(), "agent-2");
    let second = soon("the heir's turn", second).await.unwrap().unwrap();
    assert_eq!(second.token(), to.token);
    assert!(to.token > token && !first.is_finished());
    let ended = soon("the end", watch.next()).await.unwrap();
    assert!(
        matches!(ended.kind, ChangeKind::Ended { how: EndKind::Transferred, token: t, .. } if t == token)
    );
    let granted = soon("the grant", watch.next()).await.unwrap();
    assert!(matches!(granted.kind, ChangeKind::Granted { token, .. } if token == second.token()));
    assert_eq!(ended.index, granted.index);

    let to = second.transfer(TransferTo::First).await.unwrap().to.expect("nothing was lost");
    let first = soon("the first's turn", first).await.unwrap().unwrap();
    assert_eq!((to.agent.as_str(), to.token), ("agent-1", first.token()));
    first.release().await.unwrap();
    cluster.stop_all().await;
}

/// A lease that is lost already is not handed over, and says why; one whose handover nobody waits for is given back
/// when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handover_that_comes_to_nothing_leaves_nothing() {
    let mut cluster = Cluster::in_process(3).await;
    let lease = cluster.agents[0].acquire("x").await.unwrap();
    cluster.agents[1].revoke("x", "now").await.unwrap();
    soon("word of it", lease.lost()).await;
    let lost = lease.transfer(TransferTo::First).await.unwrap_err();
    assert!(
        matches!(&lost, TransferError::Lost(lost) if matches!(lost.reason, LossReason::Revoked { .. })),
        "{lost}"
    );

    for _ in 0..20 {
        let lease = cluster.agents[0].acquire("y").await.unwrap();
        // Its first poll sends it off.
        // The answer may be here already; then the lease that comes back is dropped with it.
        drop(futures_util::FutureExt::now_or_never(lease.transfer(TransferTo::First)));
        soon("the name", cluster.agents[1].acquire("y")).await.unwrap().release().await.unwrap();
    }
    cluster.stop_all().await;
}
