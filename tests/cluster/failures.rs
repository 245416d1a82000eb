//! What a lease does when the network or an agent fails.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use leasehold::{AcquireError, Fence, FenceError, Lease, LossReason, MemberRole};

use crate::fixture::{Cluster, soon, until};

/// L5: the holder knows by its own clock, before anyone else is granted it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_cut_off_loses_it_before_the_next_one_gets_it() {
    let mut cluster = Cluster::in_process(3).await;
    for holder in [cluster.leader().await, cluster.followers().await[0]] {
        let others: Vec<usize> = (0..3).filter(|n| *n != holder).collect();
        let lease = cluster.agents[holder].acquire("x").await.unwrap();
        let fence = Fence::in_memory();
        fence.admit(lease.token()).unwrap();
        cluster.isolate(holder);
        let next = tokio::spawn({
            let agent = cluster.agents[others[0]].clone();
            async move { agent.acquire("x").await.unwrap() }
        });
        let lost = soon("the loss", lease.lost()).await;
        assert!(matches!(lost.reason, LossReason::ExpiredWithoutContact { .. }), "{lost}");
        assert!(!next.is_finished(), "granted before the old holder knew");
        let next = soon("the next grant", next).await.unwrap();
        assert!(next.token() > lease.token());
        fence.admit(next.token()).unwrap();
        assert!(matches!(fence.admit(lease.token()), Err(FenceError::Stale { .. })));
        cluster.rejoin(holder);
        // The old holder sees the new one, and asking again is refused.
        until("the healed replica to catch up", || {
            let seen = cluster.agents[holder].holder_local("x").unwrap();
            seen.is_some_and(|seen| seen.token == next.token())
        })
        .await;
        next.release().await.unwrap();
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_outlive_their_leader() {
    let mut cluster = Cluster::in_process(3).await;
    let leader = cluster.leader().await;
    let followers = cluster.followers().await;
    let lease = cluster.agents[followers[0]].acquire("x").await.unwrap();
    let waiting = tokio::spawn({
        let agent = cluster.agents[followers[1]].clone();
        async move { agent.acquire("x").await.unwrap() }
    });
    cluster.until_waiting(followers[0], "x", 1).await;
    cluster.isolate(leader);
    let new_leader = cluster.leader_among(&followers).await;
    assert_ne!(new_leader, leader);
    // Beyond the ttl: the new leader renews it, and the place in the queue.
    tokio::time::sleep(cluster.timing.ttl * 3 / 2).await;
    lease.check().unwrap();
    assert!(!waiting.is_finished());
    lease.release().await.unwrap();
    let next = soon("the waiter's turn", waiting).await.unwrap();
    next.check().unwrap();
    cluster.rejoin(leader);
    cluster.stop_all().await;
}

/// Pre-vote: a member that was cut off comes back, and nobody is deposed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_returning_member_deposes_nobody() {
    let mut cluster = Cluster::in_process(3).await;
    let leader = cluster.leader().await;
    let away = cluster.followers().await[0];
    let term = cluster.agents[leader].status().term;
    cluster.isolate(away);
    // Many election timeouts (200 ms): without pre-vote it would have raised its term with each.
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.rejoin(away);
    let lease = cluster.agents[leader].acquire("x").await.unwrap();
    until("the returning member to catch up", || cluster.agents[away].holder_local("x").unwrap().is_some())
        .await;
    let status = cluster.agents[leader].status();
    assert_eq!((status.term, status.role), (term, MemberRole::Leader));
    drop(lease);
    cluster.stop_all().await;
}

/// L6, and the etcd bug 9921: the queue survives the leader, and no lease is returned that has run out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_keeps_its_order_over_a_change_of_leader() {
    let mut cluster = Cluster::in_process(5).await;
    let leader = cluster.leader().await;
    let others = cluster.followers().await;
    let held = cluster.agents[others[0]].acquire("x").await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..4_u64 {
        let agent = cluster.agents[others[usize::try_from(n).unwrap() % 4]].clone();
        waiting
            .push(tokio::spawn(async move { agent.lease("x").queue_behind_own().acquire().await.unwrap() }));
        cluster.until_waiting(others[0], "x", n + 1).await;
    }
    cluster.isolate(leader);
    cluster.leader_among(&others).await;
    held.release().await.unwrap();
    for task in waiting {
        let lease = soon("the next turn", task).await.unwrap();
        lease.check().unwrap();
        lease.release().await.unwrap();
    }
    cluster.rejoin(leader);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_dies_leaves_the_queue_within_its_ttl() {
    let mut cluster = Cluster::in_process(3).await;
    let (leader, followers) = (cluster.leader().await, cluster.followers().await);
    let held = cluster.agents[leader].acquire("x").await.unwrap();
    let waiting = tokio::spawn({
        let agent = cluster.agents[followers[0]].clone();
        async move { agent.acquire("x").await }
    });
    cluster.until_waiting(leader, "x", 1).await;
    cluster.isolate(followers[0]);
    cluster.until_waiting(leader, "x", 0).await;
    held.check().unwrap();
    // When it comes back it queues anew, by itself.
    cluster.rejoin(followers[0]);
    cluster.until_waiting(leader, "x", 1).await;
    held.release().await.unwrap();
    soon("its turn", waiting).await.unwrap().unwrap();
    cluster.stop_all().await;
}

/// Without a majority nothing is granted, and the error says what may have happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_granted() {
    let mut cluster = Cluster::in_process(3).await;
    let alone = cluster.followers().await[0];
    cluster.isolate(alone);
    let refused = cluster.agents[alone]
        .lease("x")
        .wait_at_most(Duration::from_secs(2))
        .try_acquire()
        .await
        .unwrap_err();
    assert!(matches!(refused, AcquireError::Unavailable { .. } | AcquireError::Unknown { .. }), "{refused}");
    assert!(cluster.agents[alone].holder_local("x").unwrap().is_none());
    cluster.rejoin(alone);
    // Whatever became of it, it is given up: the name is free for others.
    let lease = soon("the free name", cluster.agents[cluster.leader().await].acquire("x")).await.unwrap();
    drop(lease);
    cluster.stop_all().await;
}

/// L1 in the face of lost, late and repeated messages and changing leaders: no two leases on one name are believed in
/// at one time, and tokens grow from grant to grant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_one_believes() {
    let mut cluster = Cluster::in_process(3).await;
    let names = cluster.addresses.clone();
    for from in &names {
        for to in names.iter().filter(|to| *to != from) {
            cluster.network().delay(from, to, Duration::from_millis(3));
            cluster.network().lose(from, to, 0.03);
        }
    }
    let done = Arc::new(AtomicBool::new(false));
    let last_token = Arc::new(AtomicU64::new(0));
    let grants = Arc::new(AtomicU64::new(0));
    let believed: Arc<Mutex<Vec<Arc<Lease>>>> = Arc::default();
    let mut tasks = Vec::new();
    for n in 0..9 {
        let agent = cluster.agents[n % 3].clone();
        let (done, last_token, grants, believed) =
            (done.clone(), last_token.clone(), grants.clone(), believed.clone());
        tasks.push(tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let request = agent.lease("x").ttl(Duration::from_millis(600)).queue_behind_own();
                let Ok(lease) = request.wait_at_most(Duration::from_secs(5)).acquire().await else {
                    continue;
                };
                let lease = Arc::new(lease);
                {
                    let mut believed = believed.lock().unwrap();
                    for other in believed.iter() {
                        // This one was held before the other is asked, and still is after: so both at that moment.
                        let (other_believes, this_believes) = (other.check().is_ok(), lease.check().is_ok());
                        assert!(!(other_believes && this_believes), "{other:?} and {lease:?}");
                    }
                    if lease.check().is_ok() {
                        let before = last_token.swap(lease.token().get(), Ordering::SeqCst);
                        assert!(before < lease.token().get(), "L2");
                    }
                    believed.retain(|other| other.check().is_ok());
                    believed.push(lease.clone());
                }
                grants.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                believed.lock().unwrap().retain(|other| other.id() != lease.id());
                drop(lease);
            }
        }));
    }
    for round in 0..6 {
        let victim = if round % 2 == 0 { cluster.leader().await } else { round % 3 };
        cluster.isolate(victim);
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.rejoin(victim);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    done.store(true, Ordering::Relaxed);
    for task in tasks {
        soon("a task's end", task).await.unwrap();
    }
    let grants = grants.load(Ordering::Relaxed);
    assert!(grants > 20, "only {grants} grants: the test has seen too little");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_agent_gives_its_leases_back_and_hands_leadership_over() {
    let mut cluster = Cluster::in_process(3).await;
    let leader = cluster.leader().await;
    let followers = cluster.followers().await;
    let lease = cluster.agents[leader].lease("x").ttl(leasehold::limits::TTL_MAX).acquire().await.unwrap();
    let waiting = tokio::spawn({
        let agent = cluster.agents[followers[0]].clone();
        async move { agent.acquire("x").await.unwrap() }
    });
    cluster.until_waiting(leader, "x", 1).await;
    let dropped = cluster.agents[leader].lease("z").ttl(leasehold::limits::TTL_MAX).acquire().await.unwrap();
    drop(dropped);
    cluster.agents[leader].shutdown().await;
    assert_eq!(lease.check().unwrap_err().reason, LossReason::AgentStopped);
    let next = soon("the waiter's turn", waiting).await.unwrap();
    next.check().unwrap();
    let stopped = cluster.agents[leader].acquire("y").await.unwrap_err();
    assert!(matches!(stopped, AcquireError::Stopped { .. }), "{stopped}");
    cluster.leader_among(&followers).await;
    soon("the name of the dropped lease", cluster.agents[followers[1]].acquire("z")).await.unwrap();
    drop(next);
    cluster.stop_all().await;
}

/// However long there was no leader, a waiter that lives keeps its place: newcomers queue behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_in_the_queue_survives_the_loss_of_the_majority() {
    let mut cluster = Cluster::in_process(3).await;
    let held = cluster.agents[0].lease("x").ttl(Duration::from_secs(20)).acquire().await.unwrap();
    let first = tokio::spawn({
        let agent = cluster.agents[1].clone();
        async move { agent.lease("x").ttl(Duration::from_secs(1)).acquire().await.unwrap() }
    });
    cluster.until_waiting(0, "x", 1).await;
    (0..3).for_each(|n| cluster.isolate(n));
    // More than twice the waiter's ttl.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    (0..3).for_each(|n| cluster.rejoin(n));
    let second = tokio::spawn({
        let agent = cluster.agents[2].clone();
        async move { agent.acquire("x").await.unwrap() }
    });
    cluster.until_waiting(0, "x", 2).await;
    // Longer than the first one's ttl after the new leader began: it must have renewed.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    held.release().await.unwrap();
    let first = soon("the first waiter's turn", first).await.unwrap();
    assert!(!second.is_finished());
    first.release().await.unwrap();
    soon("the second waiter's turn", second).await.unwrap().release().await.unwrap();
    cluster.stop_all().await;
}
