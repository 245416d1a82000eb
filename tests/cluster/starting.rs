//! Founding, restarting, and what is refused.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use leasehold::{Agent, ConfigFault, InProcessNetwork, StartError, Timing};

use crate::fixture::{Cluster, addresses, soon, until};

/// L9: what was acknowledged is there after all have stopped. Leases, queue and tokens are as they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_a_restart_of_all() {
    let mut cluster = Cluster::durable(3).await;
    let lease =
        cluster.agents[0].lease("x").ttl(Duration::from_secs(5)).without_renewal().acquire().await.unwrap();
    let (token, ids) = (lease.token(), cluster.agents.iter().map(|a| a.status().node).collect::<Vec<_>>());
    let cluster_id = cluster.agents[0].status().cluster;
    cluster.stop_all().await;
    drop(lease);
    cluster.start_all().await;
    for (n, agent) in cluster.agents.iter().enumerate() {
        let status = agent.status();
        assert_eq!((status.node, status.cluster), (ids[n], cluster_id), "an agent keeps its identity");
    }
    // Unless it was given back while the agents stopped, it is held as it was.
    if let Some(holder) = cluster.agents[2].holder("x").await.unwrap() {
        assert_eq!((holder.token, holder.agent.as_str()), (token, "agent-0"));
    }
    let next = soon("the next grant", cluster.agents[1].acquire("x")).await.unwrap();
    assert!(next.token() > token);
    drop(next);
    cluster.stop_all().await;
}

/// A member that has voted keeps the leader lease that it may have granted before it restarted: it is silent for one
/// longest election timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_voter_is_silent_for_a_while() {
    let mut cluster = Cluster::durable_stopped(3);
    cluster.timing = Timing {
        election_timeout_min: Duration::from_millis(1_400),
        election_timeout_max: Duration::from_millis(1_500),
        ttl: Duration::from_secs(5),
        ..Timing::default()
    };
    cluster.start_all().await;
    let follower = cluster.followers().await[0];
    let restarted = cluster.agents.remove(follower);
    restarted.shutdown().await;
    let began = Instant::now();
    let again = cluster.builder(follower).start().await.unwrap();
    let silence = cluster.timing.clock_drift_max.lengthen(cluster.timing.election_timeout_max);
    assert!(began.elapsed() >= silence, "it spoke after {:?}", began.elapsed());
    again.shutdown().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_may_come_up_one_after_the_other() {
    let network = InProcessNetwork::new(1);
    let founders = ["a:1", "b:1", "c:1"];
    let start = |at: usize| {
        Agent::builder(format!("agent-{at}"))
            .listen(founders[at])
            .founders(founders)
            .network(&network)
            .timing(Timing::fast_lan())
            .start()
    };
    // The one that forms the cluster comes last.
    let late = tokio::spawn(start(2));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let later = tokio::spawn(start(1));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!late.is_finished() && !later.is_finished());
    let first = soon("the founding", start(0)).await.unwrap();
    let (second, third) = (soon("b", later).await.unwrap().unwrap(), soon("c", late).await.unwrap().unwrap());
    let clusters = [first.status().cluster, second.status().cluster, third.status().cluster];
    assert!(clusters.iter().all(|cluster| *cluster == clusters[0]));
    for agent in [first, second, third] {
        agent.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_disagree_are_refused_by_name_on_both_sides() {
    let network = InProcessNetwork::new(1);
    let start = |at: &str, founders: &[&str]| {
        Agent::builder(at).listen(at).founders(founders.iter().copied()).network(&network).start()
    };
    let one = start("a:1", &["a:1", "b:1"]);
    let other = start("b:1", &["b:1", "a:1", "c:1"]);
    let (one, other) = soon("both refusals", futures_util::future::join(one, other)).await;
    for refused in [one, other] {
        let error = refused.unwrap_err();
        assert!(matches!(error, StartError::FoundersDisagree { .. }), "{error}");
        assert!(error.to_string().contains("c:1"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_fixed_membership_an_agent_that_lost_its_memory_is_none() {
    let mut cluster = Cluster::in_process_stopped(3);
    let starts = (0..3).map(|n| cluster.builder(n).danger_fixed_membership().start());
    cluster.agents = futures_util::future::try_join_all(starts).await.unwrap();
    let lost = cluster.followers().await[0];
    let agent = cluster.agents.remove(lost);
    agent.shutdown().await;
    let again = cluster.builder(lost).danger_fixed_membership();
    let error = soon("the refusal", again.start()).await.unwrap_err();
    assert!(matches!(error, StartError::AlreadyFounded { .. }), "{error}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_and_a_used_directory_are_refused() {
    let mut cluster = Cluster::durable(1).await;
    let taken = cluster.builder(0).start().await.unwrap_err();
    assert!(matches!(taken, StartError::Bind(_)), "{taken}");

    let other = addresses(1).remove(0);
    let locked = Agent::builder("b").listen(&other).founders([&other]).data_dir(cluster.data_dir(0).unwrap());
    let locked = locked.start().await.unwrap_err();
    assert!(matches!(locked, StartError::Storage(_)), "{locked}");
    assert!(locked.to_string().contains("another agent is running"), "{locked}");
    // Nothing is left behind: the address is free again.
    let free = Agent::builder("b").listen(&other).founders([&other]).start().await.unwrap();
    free.shutdown().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_faults_of_the_settings_are_listed() {
    let error = Agent::builder("").founders(["a:1", "a:1", "b"]).start().await.unwrap_err();
    let StartError::Config(error) = error else { panic!("{error}") };
    assert!(error.faults.iter().any(|fault| matches!(fault, ConfigFault::Name(_))));
    assert!(error.faults.iter().any(|fault| matches!(fault, ConfigFault::NoListen)));
    assert!(error.faults.iter().any(|fault| matches!(fault, ConfigFault::FounderTwice { .. })));
    assert!(error.faults.iter().any(|fault| matches!(fault, ConfigFault::Address { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_last_handle_stops_the_agent() {
    let mut cluster = Cluster::durable(1).await;
    let lease = cluster.agents[0].acquire("x").await.unwrap();
    let twin = cluster.agents[0].clone();
    cluster.agents.clear();
    lease.check().unwrap();
    drop(twin);
    soon("the loss", lease.lost()).await;
    // Its port and its directory come free: it can be started again.
    let mut again = None;
    soon("the restart", async {
        while again.is_none() {
            again = cluster.builder(0).start().await.ok();
        }
    })
    .await;
    let again = again.unwrap();
    until("its own founding", || again.status().applied > 0).await;
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_gives_up_in_its_time_and_leaves_nothing() {
    let founders = addresses(2);
    let start = || {
        Agent::builder("a")
            .listen(&founders[0])
            .founders(founders.clone())
            .start_within(Duration::from_millis(200))
    };
    for _ in 0..2 {
        let error = start().start().await.unwrap_err();
        assert!(matches!(error, StartError::NotReady { .. }), "{error}");
    }
}

/// The founder that formed the cluster comes back while another one is down: two of three are enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_founder_restarts_while_another_is_down() {
    let mut cluster = Cluster::durable(3).await;
    for (down, restarted) in [(0, 1), (1, 2), (2, 0)] {
        cluster.agents[down].shutdown().await;
        cluster.agents[restarted].shutdown().await;
        cluster.agents[restarted] = soon("the restart", cluster.builder(restarted).start()).await.unwrap();
        let lease = soon("a grant", cluster.agents[restarted].acquire("x")).await.unwrap();
        drop(lease);
        cluster.agents[down] = soon("the other's restart", cluster.builder(down).start()).await.unwrap();
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_dropped_leaves_nothing() {
    let cluster = Cluster::durable_stopped(2);
    // It waits for the other founder.
    let starting = tokio::time::timeout(Duration::from_millis(300), cluster.builder(0).start()).await;
    assert!(starting.is_err());
    // Port and directory come free by themselves.
    let mut again = Err(StartError::Stopped);
    until_started(&mut again, || cluster.builder(0).start_within(Duration::from_millis(100)).start()).await;
    assert!(matches!(again, Err(StartError::NotReady { .. })), "{again:?}");
}

/// Starts until the port and the directory are free.
async fn until_started<F: Future<Output = Result<Agent, StartError>>>(
    result: &mut Result<Agent, StartError>,
    mut start: impl FnMut() -> F,
) {
    soon("the port and the directory", async {
        loop {
            *result = start().await;
            if !matches!(result, Err(StartError::Bind(_) | StartError::Storage(_) | StartError::Stopped)) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_shutdown_finds_everything_free() {
    let cluster = Cluster::durable(1).await;
    let agent = &cluster.agents[0];
    let mut watch = agent.watch_prefix("").unwrap();
    // One is dropped half-way, two more wait.
    let mut dropped = Box::pin(agent.shutdown());
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(dropped.as_mut().poll(cx))).await;
    assert!(polled.is_pending());
    drop(dropped);
    soon("the shutdown", futures_util::future::join(agent.shutdown(), agent.shutdown())).await;
    let again = cluster.builder(0).start().await.unwrap();
    assert_eq!(soon("the end of the watch", watch.next()).await, None);
    again.shutdown().await;
}
