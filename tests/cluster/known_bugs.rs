//! Known bugs of other systems, each brought about here on purpose. The names in brackets are theirs.
//!
//! One more is in `tests/command_line/`: a partitioned holder's command keeps running beside the next one (consul 1843).

use std::time::Duration;

use leasehold::{AcquireError, Clock as _, LossReason, Moment, Released, SystemClock};

use crate::fixture::{Cluster, soon, until};

const TTL: Duration = Duration::from_millis(800);

fn now() -> Moment {
    SystemClock.now()
}

/// etcd 9921, 11456: a lock is returned whose lease had expired while it was waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lease_is_returned_that_ran_out_while_it_was_waited_for() {
    let mut cluster = Cluster::in_process(3).await;
    let followers = cluster.followers().await;
    let (holder, waiter) = (followers[0], followers[1]);
    let held = cluster.agents[holder].acquire("x").await.unwrap();
    let waiting = tokio::spawn(cluster.agents[waiter].lease("x").ttl(TTL).acquire());
    cluster.until_waiting(holder, "x", 1).await;
    // The waiter's turn comes while it hears nothing: granted, expired, and gone before it knows.
    cluster.isolate(waiter);
    held.release().await.unwrap();
    until("its turn", || cluster.agents[holder].holder_local("x").unwrap().is_some()).await;
    let over = soon("the end of its turn", cluster.agents[holder].acquire("x")).await.unwrap();
    assert!(!waiting.is_finished(), "what ran out was returned");
    cluster.rejoin(waiter);
    // It goes on waiting, and what it is returned in the end is held.
    cluster.until_waiting(holder, "x", 1).await;
    let token = over.token();
    over.release().await.unwrap();
    let lease = soon("its second turn", waiting).await.unwrap().unwrap();
    assert!(lease.check().is_ok() && lease.token() > token);
    assert_eq!(cluster.agents[holder].holder("x").await.unwrap().unwrap().token, lease.token());
    drop(lease);
    cluster.stop_all().await;
}

/// dynamolock 280: the answer to a renewal is lost, and the holder can't renew any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_renewal_locks_nobody_out() {
    let mut cluster = Cluster::in_process(3).await;
    let (leader, holder) = (cluster.leader().await, cluster.followers().await[0]);
    let lease = cluster.agents[holder].lease("x").ttl(TTL).without_renewal().acquire().await.unwrap();
    for _ in 0..3 {
        // Requests arrive, answers don't.
        cluster.network().cut(&cluster.addresses[leader], &cluster.addresses[holder]);
        assert!(lease.renew().await.is_err(), "no answer could come");
        cluster.network().heal(&cluster.addresses[leader], &cluster.addresses[holder]);
        soon("a renewal", async { while lease.renew().await.is_err() {} }).await;
        lease.check().unwrap();
    }
    assert_eq!(lease.release().await.unwrap(), Released::Released);
    cluster.stop_all().await;
}

/// dynamodb-lock-client 116: a heartbeat that races the release brings the lock back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_under_way_brings_no_released_lease_back() {
    let mut cluster = Cluster::in_process(3).await;
    let (leader, followers) = (cluster.leader().await, cluster.followers().await);
    for round in 0..10 {
        let name = format!("x{round}");
        let lease = cluster.agents[followers[0]].lease(&name).without_renewal().acquire().await.unwrap();
        let (from, to) = (&cluster.addresses[followers[0]], &cluster.addresses[leader]);
        // The renewal stands still on its way, the release overtakes it, at last both are there.
        cluster.network().hold(from, to);
        let mut renewing = Box::pin(lease.renew());
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(renewing.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
        drop(renewing);
        let token = lease.token();
        let releasing = tokio::spawn(lease.release());
        cluster.network().release(from, to);
        soon("the release", releasing).await.unwrap().unwrap();
        let next = soon("the next grant", cluster.agents[followers[1]].try_acquire(&name)).await.unwrap();
        assert!(next.token() > token);
        next.release().await.unwrap();
        assert_eq!(cluster.agents[leader].holder(&name).await.unwrap(), None);
    }
    cluster.stop_all().await;
}

/// redisson 775, consul 912: the loop that renews stops at the first error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_go_on_after_errors() {
    let mut cluster = Cluster::in_process(3).await;
    let holder = cluster.followers().await[0];
    let lease = cluster.agents[holder].lease("x").ttl(2 * TTL).acquire().await.unwrap();
    for _ in 0..3 {
        cluster.isolate(holder);
        // A renewal falls due, and fails: what is left sinks below what it never sinks to otherwise.
        until("a renewal to be overdue", || lease.remaining() < TTL).await;
        cluster.rejoin(holder);
        until("a renewal", || lease.remaining() > TTL || lease.check().is_err()).await;
        lease.check().unwrap();
    }
    drop(lease);
    cluster.stop_all().await;
}

/// kubernetes 114872: a candidate measures the holder's lease by its own ttl.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiters_short_ttl_does_not_shorten_the_holders() {
    let mut cluster = Cluster::in_process(3).await;
    let long = 3 * TTL;
    let began = now();
    let held = cluster.agents[0].lease("x").ttl(long).without_renewal().acquire().await.unwrap();
    std::mem::forget(held);
    let next = soon("the next grant", cluster.agents[1].lease("x").ttl(TTL).acquire()).await.unwrap();
    assert!(now().since(began) >= long, "{:?}", now().since(began));
    drop(next);
    cluster.stop_all().await;
}

/// kubernetes 23731: the callback for the loss is never called.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_loss_is_told_to_whoever_waits_for_it() {
    let mut cluster = Cluster::in_process(3).await;
    let holder = cluster.followers().await[0];
    let agent = cluster.agents[holder].clone();
    let request = |name: &str| agent.lease(name).ttl(TTL);
    let expires = std::sync::Arc::new(request("expires").without_renewal().acquire().await.unwrap());
    let revoked = std::sync::Arc::new(request("revoked").acquire().await.unwrap());
    let cut_off = std::sync::Arc::new(request("cut off").acquire().await.unwrap());
    // Each is waited for before it happens, and by two.
    let waiters = |lease: &std::sync::Arc<leasehold::Lease>| {
        [lease.clone(), lease.clone()].map(|lease| tokio::spawn(async move { lease.lost().await.reason }))
    };
    let (a, b, c) = (waiters(&expires), waiters(&revoked), waiters(&cut_off));
    for waiter in a {
        let reason = soon("the expiry", waiter).await.unwrap();
        assert_eq!(reason, LossReason::ExpiredWithoutContact { ttl: TTL });
    }
    agent.revoke("revoked", "test").await.unwrap();
    for waiter in b {
        assert!(matches!(soon("the revocation", waiter).await.unwrap(), LossReason::Revoked { .. }));
    }
    cluster.isolate(holder);
    for waiter in c {
        let reason = soon("the loss", waiter).await.unwrap();
        assert_eq!(reason, LossReason::ExpiredWithoutContact { ttl: TTL });
    }
    cluster.rejoin(holder);
    let stopped = std::sync::Arc::new(agent.acquire("stopped").await.unwrap());
    let waiting = waiters(&stopped);
    agent.shutdown().await;
    for waiter in waiting {
        assert_eq!(soon("the stop", waiter).await.unwrap(), LossReason::AgentStopped);
    }
    cluster.stop_all().await;
}

/// hazelcast 17697: a lock() that fails leaks its session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acquisitions_that_fail_leave_nothing_behind() {
    let mut cluster = Cluster::in_process(3).await;
    let held = cluster.agents[0].acquire("x").await.unwrap();
    let agent = &cluster.agents[1];
    for _ in 0..100 {
        let tried = agent.try_acquire("x").await;
        assert!(matches!(tried, Err(AcquireError::Held { .. })), "{tried:?}");
    }
    let impatient = (0..20).map(|_| agent.lease("x").wait_at_most(Duration::from_millis(50)).acquire());
    for outcome in futures_util::future::join_all(impatient).await {
        assert!(matches!(outcome, Err(AcquireError::TimedOut { .. })), "{outcome:?}");
    }
    // Nobody waits who isn't there any more, and nothing has to run out for that.
    until("the queue to empty", || cluster.agents[0].status().waiters == 0).await;
    assert_eq!(cluster.agents[0].status().leases, 1);
    held.release().await.unwrap();
    assert_eq!(agent.holder("x").await.unwrap(), None);
    cluster.stop_all().await;
}

/// dlock 0.2: tokens begin anew after a clean release.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_rise_over_releases_names_and_agents() {
    let mut cluster = Cluster::in_process(3).await;
    let mut last = None;
    for round in 0..30 {
        let lease = cluster.agents[round % 3].acquire(["x", "y"][round % 2]).await.unwrap();
        assert!(Some(lease.token()) > last);
        last = Some(lease.token());
        lease.release().await.unwrap();
    }
    cluster.stop_all().await;
}

/// consul 1172: an expiry takes twice the ttl.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_takes_the_ttl_and_little_more() {
    let mut cluster = Cluster::in_process(3).await;
    for round in 0..3 {
        let name = format!("x{round}");
        let agent = &cluster.agents[round];
        let held = agent.lease(&name).ttl(2 * TTL).without_renewal().acquire().await.unwrap();
        std::mem::forget(held);
        // The measure is another lease, of twice the ttl and as little renewed: it must not have run out.
        let measure = agent.lease("y").ttl(4 * TTL).without_renewal().acquire().await.unwrap();
        let next = soon("the next grant", cluster.agents[(round + 1) % 3].acquire(&name)).await.unwrap();
        assert!(measure.check().is_ok(), "it took twice its ttl");
        measure.release().await.unwrap();
        drop(next);
    }
    cluster.stop_all().await;
}
