//! What a lease does while nothing fails.

use std::{sync::Arc, time::Duration};

use leasehold::{
    AcquireError, ChangeKind, LeaseRequest, LossReason, Mode, Released, RenewError, Token, Watch, limits,
};

use crate::fixture::{Cluster, soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_goes_from_agent_to_agent() {
    let mut cluster = Cluster::durable(3).await;
    let mut last = None;
    for round in 0..6 {
        let agent = &cluster.agents[round % 3];
        let lease = agent.acquire("orders.db").await.unwrap();
        lease.check().unwrap();
        assert!(last < Some(lease.token()), "tokens increase (L2)");
        last = Some(lease.token());
        for other in &cluster.agents {
            let holder = other.holder("orders.db").await.unwrap().unwrap();
            assert_eq!((holder.token, holder.agent.as_str()), (lease.token(), agent.status().agent.as_str()));
            let held = other.try_acquire("orders.db").await.unwrap_err();
            assert!(
                matches!(&held, AcquireError::Held { holder, .. } if holder.token == lease.token()),
                "{held}"
            );
        }
        assert_eq!(lease.release().await.unwrap(), Released::Released);
    }
    assert_eq!(cluster.agents[0].holder("orders.db").await.unwrap(), None);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_come_first_served() {
    let mut cluster = Cluster::in_process(3).await;
    let held = cluster.agents[0].acquire("x").await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..6_u64 {
        let agent = cluster.agents[usize::try_from(n).unwrap() % 3].clone();
        waiting
            .push(tokio::spawn(async move { agent.lease("x").queue_behind_own().acquire().await.unwrap() }));
        cluster.until_waiting(0, "x", n + 1).await;
    }
    drop(held);
    for task in waiting {
        // Each gets its turn when the one before has given it back, so the order of completion is the queue's.
        let lease = soon("the next turn", task).await.unwrap();
        lease.check().unwrap();
        lease.release().await.unwrap();
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_what_it_has_is_told_so() {
    let mut cluster = Cluster::in_process(3).await;
    let (agent, other) = (&cluster.agents[0], &cluster.agents[1]);
    let own = async |request: LeaseRequest| match soon("an answer", request.acquire()).await {
        Err(AcquireError::HeldHere { name, token }) => {
            assert_eq!(name.as_str(), "x");
            token
        }
        other => panic!("{other:?}"),
    };
    let lease = agent.acquire("x").await.unwrap();
    assert_eq!(own(agent.lease("x")).await, Some(lease.token()));
    assert_eq!(
        own(agent.clone().lease("x").mode(Mode::Shared)).await,
        Some(lease.token()),
        "by a clone, too"
    );
    // Whoever doesn't wait is told who holds it, as ever.
    let held = agent.try_acquire("x").await.unwrap_err();
    assert!(matches!(held, AcquireError::Held { holder, .. } if holder.token == lease.token()));
    assert_eq!(other.status().waiters, 0, "nothing was asked for");
    // Dropping it is enough: what is on its way to the leader is not in the way.
    drop(lease);
    let lease = soon("the next lease", agent.acquire("x")).await.unwrap();
    // What was lost is held no more, although it is still there.
    other.revoke("x", "a test").await.unwrap();
    lease.lost().await;
    let elsewhere = soon("another's lease", other.acquire("x")).await.unwrap();

    // A call that waits is in the way as well: only one of them could be had.
    let first = tokio::spawn(agent.lease("x").acquire());
    cluster.until_waiting(1, "x", 1).await;
    assert_eq!(own(agent.lease("x")).await, None);
    drop(elsewhere);
    let first = soon("the first's turn", first).await.unwrap().unwrap();
    assert!(first.token() > lease.token());
    drop(first);

    // Those who share a name don't wait for each other.
    let shared = async || agent.lease("x").mode(Mode::Shared).acquire().await.unwrap();
    let (one, two) = (shared().await, shared().await);
    let token = own(agent.lease("x")).await;
    assert_eq!(token, Some(one.token()));
    // Unless somebody else waits between them.
    let writing = tokio::spawn(other.lease("x").acquire());
    cluster.until_waiting(0, "x", 1).await;
    assert_eq!(own(agent.lease("x").mode(Mode::Shared)).await, Some(one.token()));
    drop((one, two));
    soon("the writer's turn", writing).await.unwrap().unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_its_place() {
    let mut cluster = Cluster::in_process(3).await;
    let held = cluster.agents[0].acquire("x").await.unwrap();
    let first = tokio::spawn(cluster.agents[1].lease("x").acquire());
    cluster.until_waiting(0, "x", 1).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let telling = move |place| tell.send(place).unwrap_or_default();
    let second = tokio::spawn(cluster.agents[2].lease("x").on_wait(telling).acquire());
    assert_eq!(soon("the first place", told.recv()).await, Some(2));
    drop(held);
    let first = soon("the first's turn", first).await.unwrap().unwrap();
    assert_eq!(soon("the next place", told.recv()).await, Some(1));
    drop(first);
    drop(soon("the second's turn", second).await.unwrap().unwrap());
    assert_eq!(told.recv().await, None, "each place once");

    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let free = cluster.agents[0]
        .lease("y")
        .on_wait(move |place| tell.send(place).unwrap_or_default())
        .acquire()
        .await
        .unwrap();
    assert_eq!(told.recv().await, None, "nobody waited");
    drop(free);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_keep_a_lease_and_write_no_log_entry() {
    let mut cluster = Cluster::in_process(3).await;
    let follower = cluster.followers().await[0];
    let lease = cluster.agents[follower].lease("x").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    until("all replicas to be level", || {
        let applied: Vec<_> = cluster.agents.iter().map(|agent| agent.status().applied).collect();
        applied.iter().all(|index| *index == applied[0])
    })
    .await;
    let before = cluster.agents[follower].status().applied;
    // Three times the ttl: without renewals it would be gone.
    tokio::time::sleep(Duration::from_secs(3)).await;
    lease.check().unwrap();
    for _ in 0..10 {
        lease.renew().await.unwrap();
    }
    assert_eq!(cluster.agents[follower].status().applied, before, "renewals are not logged");
    lease.release().await.unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_renewal_it_runs_out_and_the_waiter_gets_it() {
    let mut cluster = Cluster::in_process(3).await;
    let ttl = Duration::from_secs(1);
    let lease = cluster.agents[0].lease("x").ttl(ttl).without_renewal().acquire().await.unwrap();
    let waiter = tokio::spawn({
        let agent = cluster.agents[1].clone();
        async move { agent.acquire("x").await.unwrap() }
    });
    let lost = soon("the loss", lease.lost()).await;
    assert_eq!(lost.reason, LossReason::ExpiredWithoutContact { ttl });
    assert_eq!(lease.check().unwrap_err(), lost, "the reason stays (L10)");
    assert!(!waiter.is_finished(), "the holder knows before anyone else is granted it (L5)");
    let next = soon("the waiter's turn", waiter).await.unwrap();
    assert!(next.token() > lease.token());
    assert!(matches!(lease.renew().await, Err(RenewError::Lost(_))));
    assert!(matches!(lease.release().await.unwrap(), Released::WasLost(_)), "release after loss is harmless");
    next.check().unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guarded_work_is_dropped_at_the_loss() {
    let mut cluster = Cluster::in_process(1).await;
    let lease = cluster.agents[0]
        .lease("x")
        .ttl(Duration::from_millis(500))
        .without_renewal()
        .acquire()
        .await
        .unwrap();
    assert_eq!(lease.guard(async { 7 }).await, Ok(7));
    let dropped = Arc::new(());
    let held = dropped.clone();
    let endless = async move {
        let _held = held;
        std::future::pending::<()>().await;
    };
    assert!(soon("the loss", lease.guard(endless)).await.is_err());
    assert_eq!(Arc::strong_count(&dropped), 1, "the work was dropped");
    assert!(lease.guard(async { 7 }).await.is_err(), "nothing starts under a lost lease");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_gives_back_wherever_it_is_dropped() {
    let mut cluster = Cluster::in_process(3).await;
    let lease = cluster.agents[1].lease("x").ttl(limits::TTL_MAX).acquire().await.unwrap();
    // A thread without a runtime.
    std::thread::spawn(move || drop(lease)).join().unwrap();
    let next = soon("the free name", cluster.agents[0].acquire("x")).await.unwrap();
    drop(next);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_gives_up_leaves_the_queue() {
    let mut cluster = Cluster::in_process(3).await;
    let held = cluster.agents[0].acquire("x").await.unwrap();
    let waiting = tokio::spawn({
        let agent = cluster.agents[1].clone();
        async move { agent.acquire("x").await }
    });
    cluster.until_waiting(0, "x", 1).await;
    waiting.abort();
    cluster.until_waiting(0, "x", 0).await;

    let late = cluster.agents[2].lease("x").wait_at_most(Duration::from_millis(100)).acquire().await;
    assert!(matches!(late, Err(AcquireError::TimedOut { .. })), "{late:?}");
    cluster.until_waiting(0, "x", 0).await;
    held.check().unwrap();
    cluster.stop_all().await;
}

/// Cancel-safety: dropped after each of its first polls, an acquisition leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acquisition_dropped_at_any_poll_leaves_nothing() {
    let mut cluster = Cluster::in_process(3).await;
    for polls in 1..24 {
        for held in [false, true] {
            let name = format!("x-{polls}-{held}");
            let holder = if held { Some(cluster.agents[0].acquire(&name).await.unwrap()) } else { None };
            let mut acquiring =
                Box::pin(cluster.agents[polls % 3].lease(&name).ttl(limits::TTL_MAX).acquire());
            for _ in 0..polls {
                let poll = std::future::poll_fn(|cx| std::task::Poll::Ready(acquiring.as_mut().poll(cx)));
                if poll.await.is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(acquiring);
            drop(holder);
            // With a ttl of a day, only giving up frees the name.
            let lease = soon("the free name", cluster.agents[1].acquire(&name)).await.unwrap();
            lease.release().await.unwrap();
        }
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_every_change_in_order() {
    let mut cluster = Cluster::in_process(3).await;
    let mut watch = cluster.agents[2].watch("x").unwrap();
    let mut tokens = Vec::new();
    for round in 0..5 {
        let lease = cluster.agents[round % 2].acquire("x").await.unwrap();
        cluster.agents[0].acquire("y").await.unwrap().release().await.unwrap();
        tokens.push(lease.token());
        lease.release().await.unwrap();
    }
    let mut last_index = 0;
    for token in tokens {
        let granted = soon("a grant", watch.next()).await.unwrap();
        assert!(matches!(granted.kind, ChangeKind::Granted { token: t, .. } if t == token), "{granted:?}");
        let ended = soon("an end", watch.next()).await.unwrap();
        assert!(matches!(ended.kind, ChangeKind::Ended { token: t, .. } if t == token), "{ended:?}");
        assert!(last_index < granted.index && granted.index < ended.index);
        last_index = ended.index;
    }
    cluster.stop_all().await;
}

/// The token of every grant and end that a watcher is told next, so many of them.
async fn told(watch: &mut Watch, count: usize) -> Vec<(u64, &'static str, Token)> {
    let mut told = Vec::new();
    while told.len() < count {
        let change = soon("a change", watch.next()).await.unwrap();
        match change.kind {
            ChangeKind::Granted { token, .. } => told.push((change.index, "granted", token)),
            ChangeKind::Ended { token, .. } => told.push((change.index, "ended", token)),
            _ => {}
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_at_another_agent_where_it_stopped() {
    let mut cluster = Cluster::in_process(3).await;
    let (mut whole, mut names) = (cluster.agents[0].watch_prefix("w/").unwrap(), Vec::new());
    for round in 0..6 {
        let name = if round % 3 == 2 { "other".to_owned() } else { format!("w/{round}") };
        cluster.agents[round % 3].acquire(&name).await.unwrap().release().await.unwrap();
        names.push(name);
    }
    let all = told(&mut whole, 8).await;
    assert!(all.is_sorted(), "{all:?}");
    for (at, (index, ..)) in all.iter().enumerate() {
        // In turn at each agent, from every point.
        let mut rest = cluster.agents[at % 3].watch_prefix("w/").unwrap().since(*index);
        assert_eq!(told(&mut rest, all.len() - at - 1).await, all[at + 1..]);
    }
    let mut one = cluster.agents[1].watch("w/1").unwrap().since(0);
    assert_eq!(told(&mut one, 2).await, all[2..4]);
    // One that is ahead of its agent waits for what comes.
    let last = all[all.len() - 1].0;
    let mut ahead = cluster.agents[2].watch_prefix("w/").unwrap().since(last + 1);
    for round in 0..2 {
        cluster.agents[0].acquire(&format!("w/{round}")).await.unwrap().release().await.unwrap();
    }
    let first = told(&mut ahead, 1).await[0];
    assert!(first.0 > last + 1, "{first:?} after {last}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_lags_is_told_so_and_what_holds_now() {
    let mut cluster = Cluster::in_process(1).await;
    let agent = &cluster.agents[0];
    let held = agent.lease("b").metadata("mine").acquire().await.unwrap();
    let also_held = agent.acquire("c").await.unwrap();
    let mut watch = agent.watch("b").unwrap();
    // Each pair is two changes.
    let pairs = limits::WATCH_BACKLOG_MAX / 2 + 64;
    let tasks = (0..64).map(|task| async move {
        for _ in 0..pairs / 64 {
            agent.acquire(&format!("a/{task}")).await.unwrap().release().await.unwrap();
        }
    });
    soon("the pairs", futures_util::future::join_all(tasks)).await;
    let change = soon("word of the lag", watch.next()).await.unwrap();
    let ChangeKind::Present { held: present, complete: true, lagged: true } = change.kind else {
        panic!("{change:?}")
    };
    let [(name, holder)] = present.as_slice() else { panic!("{present:?}") };
    assert_eq!((name.as_str(), holder.token, &holder.metadata[..]), ("b", held.token(), &b"mine"[..]));
    // From there on there is no gap.
    let token = held.token();
    held.release().await.unwrap();
    let ended = soon("the end", watch.next()).await.unwrap();
    assert!(matches!(ended.kind, ChangeKind::Ended { token: t, .. } if t == token), "{ended:?}");
    assert!(ended.index > change.index);
    let mut all = agent.watch_prefix("").unwrap().since(1);
    let lagged = soon("word of the lag", all.next()).await.unwrap().kind;
    let ChangeKind::Present { held: present, complete: true, lagged: true } = lagged else {
        panic!("{lagged:?}")
    };
    assert_eq!(present.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["c"]);
    drop(also_held);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused_before_anything_happens() {
    let mut cluster = Cluster::in_process(1).await;
    let agent = &cluster.agents[0];
    let before = agent.status().applied;
    let too_short = agent.lease("x").ttl(Duration::ZERO).acquire().await.unwrap_err();
    assert!(too_short.to_string().contains("0ns"), "{too_short}");
    let long_name = "x".repeat(limits::NAME_BYTES_MAX + 1);
    assert!(matches!(agent.acquire(&long_name).await, Err(AcquireError::Name(_))));
    let metadata = vec![0; limits::METADATA_BYTES_MAX + 1];
    let too_much = agent.lease("x").metadata(metadata).acquire().await;
    assert!(matches!(too_much, Err(AcquireError::Metadata { .. })));
    assert_eq!(agent.status().applied, before);
    let metadata = vec![7; limits::METADATA_BYTES_MAX];
    let lease = agent.lease("x").metadata(metadata.clone()).acquire().await.unwrap();
    assert_eq!(agent.holder("x").await.unwrap().unwrap().metadata, metadata);
    drop(lease);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_listed_in_pages() {
    let mut cluster = Cluster::in_process(1).await;
    let mut held = Vec::new();
    for n in 0..7 {
        held.push(cluster.agents[0].acquire(&format!("a/{n}")).await.unwrap());
    }
    held.push(cluster.agents[0].acquire("b").await.unwrap());
    let (mut after, mut names) = (None, Vec::new());
    loop {
        let (page, more) = cluster.agents[0]
            .leases("a/", after.as_ref().map(|(name, token)| (name, *token)), 3)
            .await
            .unwrap();
        names.extend(page.iter().map(|(name, _)| name.to_string()));
        after = page.last().map(|(name, held)| (name.clone(), held.token));
        if !more {
            break;
        }
    }
    assert_eq!(names, ["a/0", "a/1", "a/2", "a/3", "a/4", "a/5", "a/6"]);
    cluster.stop_all().await;
}

/// Whoever is alone is its own majority: its leases run out like all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_expires_leases_too() {
    let mut cluster = Cluster::in_process(1).await;
    let agent = &cluster.agents[0];
    let lease = agent.lease("x").ttl(Duration::from_millis(500)).without_renewal().acquire().await.unwrap();
    let next = soon("the next grant", agent.lease("x").queue_behind_own().acquire()).await.unwrap();
    assert!(lease.check().is_err() && next.check().is_ok());
    drop(next);
    cluster.stop_all().await;
}
