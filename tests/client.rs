//! A client: does it get, keep and lose leases as an agent does, over whatever agents it reaches?

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test: it looks from outside, at real time, and panics are how it fails"
)]

use std::time::Duration;

use leasehold::{
    AcquireError, Agent, AgentName, ChangeKind, Client, ConnectError, InProcessNetwork, LossReason, Released,
    RenewError, RevokeError, Timing,
};

const WITHIN: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_millis(900);
const ADDRESSES: [&str; 3] = ["a:1", "b:1", "c:1"];

/// Three agents: inside this process, or over TCP on free ports.
struct Cluster {
    network: Option<InProcessNetwork>,
    addresses: Vec<String>,
    agents: Vec<Agent>,
}

impl Cluster {
    async fn in_process() -> Self {
        Self::start(Some(InProcessNetwork::new(1)), ADDRESSES.map(str::to_owned).to_vec()).await
    }

    async fn over_tcp() -> Self {
        let free: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = free.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
        drop(free);
        Self::start(None, addresses).await
    }

    async fn start(network: Option<InProcessNetwork>, addresses: Vec<String>) -> Self {
        let starts = addresses.iter().enumerate().map(|(at, address)| {
            let builder = Agent::builder(format!("agent-{at}"))
                .listen(address)
                .founders(addresses.clone())
                .timing(Timing { ttl: TTL, ..Timing::fast_lan() })
                .start_within(WITHIN);
            match &network {
                Some(network) => builder.network(network),
                None => builder,
            }
            .start()
        });
        let agents = futures_util::future::try_join_all(starts).await.unwrap();
        Self { network, addresses, agents }
    }

    async fn client(&self, name: &str) -> Client {
        let builder = Client::builder(name).agents(self.addresses.clone()).connect_within(WITHIN);
        match &self.network {
            Some(network) => builder.network(network),
            None => builder,
        }
        .connect()
        .await
        .unwrap()
    }

    async fn stop(self) {
        futures_util::future::join_all(self.agents.iter().map(Agent::shutdown)).await;
    }
}

/// Polls until the future says `Some`.
async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WITHIN, looking).await.expect("it did not come to pass in time")
}

async fn gets_keeps_and_gives_back(cluster: Cluster) {
    let (one, other) = (cluster.client("one").await, cluster.client("other").await);
    assert_eq!(one.timing().ttl, TTL, "a client has the cluster's timing");

    let lease = one.acquire("x").await.unwrap();
    assert_eq!(lease.ttl(), TTL);
    let held = other.try_acquire("x").await.unwrap_err();
    let AcquireError::Held { holder, .. } = held else { panic!("{held}") };
    assert_eq!((holder.agent.as_str(), holder.token), ("one", lease.token()));
    assert_eq!(other.holder("x").await.unwrap().unwrap().token, lease.token());
    let (leases, more) = other.leases("", None, 10).await.unwrap();
    assert_eq!((leases.len(), leases[0].0.as_str(), more), (1, "x", false));

    // The background renewals carry it over several ttls.
    tokio::time::sleep(TTL * 5 / 2).await;
    lease.check().unwrap();
    lease.renew().await.unwrap();

    // Dropping it hands it to the waiter, long before its ttl is over.
    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.lease("x").ttl(Duration::from_secs(60)).wait_at_most(WITHIN).acquire().await }
    });
    until(async || (one.holder("x").await.unwrap()?.waiters == 1).then_some(())).await;
    let first = lease.token();
    drop(lease);
    let second = waiting.await.unwrap().unwrap();
    assert!(second.token() > first);

    // Closing gives back as well: a ttl of 60 s is not waited for.
    other.close().await;
    let lost = second.check().unwrap_err();
    assert_eq!(lost.reason, LossReason::ClientClosed);
    let third = one.lease("x").wait_at_most(WITHIN / 2).acquire().await.unwrap();
    third.release().await.unwrap();
    one.close().await;
    cluster.stop().await;
}

/// Nobody has to see its end, and whoever asks again does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closing_that_is_dropped_goes_on() {
    let cluster = Cluster::in_process().await;
    let client = cluster.client("c").await;
    let lease = client.lease("x").ttl(Duration::from_secs(60)).acquire().await.unwrap();
    for address in &cluster.addresses {
        cluster.network.as_ref().unwrap().isolate(address);
    }
    let mut closing = Box::pin(client.close());
    assert!(futures_util::poll!(&mut closing).is_pending());
    drop(closing);
    assert_eq!(lease.lost().await.reason, LossReason::ClientClosed);
    tokio::time::timeout(WITHIN, client.close()).await.unwrap();
    for address in &cluster.addresses {
        cluster.network.as_ref().unwrap().rejoin(address);
    }
    cluster.stop().await;
}

/// Then its tasks are gone already, and there is nothing to wait for.
#[test]
fn a_client_whose_runtime_has_ended_can_be_closed() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let (cluster, client) = first.block_on(async {
        let cluster = Cluster::in_process().await;
        let client = cluster.client("c").await;
        (cluster, client)
    });
    first.shutdown_timeout(WITHIN);
    second.block_on(async {
        tokio::time::timeout(WITHIN, client.close()).await.unwrap();
        tokio::time::timeout(WITHIN, cluster.stop()).await.unwrap();
    });
}

/// A client hears of a revocation by a renewal alone: if that is one of its own, it gives the lease back itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_lease_that_its_holder_renews_itself_is_given_back() {
    let cluster = Cluster::in_process().await;
    let (one, other) = (cluster.client("one").await, cluster.client("other").await);
    let wish = one.lease("x").ttl(Duration::from_secs(60)).without_renewal();
    let lease = wish.acquire().await.unwrap();
    other.revoke("x", "maintenance").await.unwrap();
    let lost = lease.renew().await.unwrap_err();
    assert!(
        matches!(&lost, RenewError::Lost(lost) if matches!(lost.reason, LossReason::Revoked { .. })),
        "{lost}"
    );
    assert!(matches!(lease.release().await.unwrap(), Released::WasLost(_)));
    let next =
        other.lease("x").ttl(Duration::from_secs(60)).wait_at_most(WITHIN / 2).acquire().await.unwrap();
    // Handed over by hand, while its end is settled already: by whom it is told.
    other.revoke("x", "again").await.unwrap();
    let refused = one.transfer("x", &AgentName::new("one").unwrap(), "mine").await.unwrap_err();
    assert!(matches!(refused, RevokeError::AlreadyRevoked { .. }), "{refused}");
    drop(next);
    one.close().await;
    other.close().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_keeps_and_gives_back_in_process() {
    gets_keeps_and_gives_back(Cluster::in_process().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_keeps_and_gives_back_over_tcp() {
    gets_keeps_and_gives_back(Cluster::over_tcp().await).await;
}

/// Whichever agent goes, and however: the lease stays, and the client still gets answers.
async fn agent_goes(cluster: Cluster, goes: impl AsyncFnOnce(&Cluster, &Agent, &str)) {
    let client = cluster.client("c").await;
    let lease = client.lease("x").ttl(Duration::from_secs(2)).acquire().await.unwrap();
    let talks_to = client.status().await.unwrap().address;
    let at = cluster.addresses.iter().position(|address| *address == talks_to).unwrap();
    goes(&cluster, &cluster.agents[at], &talks_to).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    lease.check().unwrap();
    assert_ne!(client.status().await.unwrap().address, talks_to);
    assert_eq!(client.holder("x").await.unwrap().unwrap().token, lease.token());
    lease.release().await.unwrap();
    client.close().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_agent_shuts_down_over_tcp() {
    agent_goes(Cluster::over_tcp().await, async |_, agent, _| agent.shutdown().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_agent_shuts_down_in_process() {
    agent_goes(Cluster::in_process().await, async |_, agent, _| agent.shutdown().await).await;
}

/// Silence without a word: nothing breaks, no answer comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_agent_is_cut_off_from_everyone() {
    agent_goes(Cluster::in_process().await, async |cluster, _, address| {
        cluster.network.as_ref().unwrap().isolate(address);
    })
    .await;
}

/// The agent answers, and reaches no majority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_agent_is_cut_off_from_the_other_agents() {
    agent_goes(Cluster::in_process().await, async |cluster, _, address| {
        for other in cluster.addresses.iter().filter(|other| *other != address) {
            cluster.network.as_ref().unwrap().cut_both(address, other);
        }
    })
    .await;
}

/// A waiter's turn comes although the agent that it waited at has gone silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_is_not_lost_with_its_agent() {
    let cluster = Cluster::in_process().await;
    let lease = cluster.agents[2].lease("x").acquire().await.unwrap();
    let client = cluster.client("c").await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.lease("x").ttl(Duration::from_secs(3)).wait_at_most(WITHIN).acquire().await }
    });
    until(async || (cluster.agents[2].holder("x").await.unwrap()?.waiters == 1).then_some(())).await;
    assert_eq!(client.status().await.unwrap().address, "a:1");
    cluster.network.as_ref().unwrap().isolate("a:1");
    // Its place in the queue outlives several ttls.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let first = lease.token();
    lease.release().await.unwrap();
    let began = std::time::Instant::now();
    let second = waiting.await.unwrap().unwrap();
    assert!(second.token() > first);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    cluster.network.as_ref().unwrap().heal_all();
    client.close().await;
    cluster.stop().await;
}

/// Cut off, it loses its lease by its own clock, before anyone else can have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_cut_off_loses_its_lease_first() {
    let cluster = Cluster::in_process().await;
    let (one, other) = (cluster.client("one").await, cluster.client("other").await);
    let lease = one.lease("x").ttl(Duration::from_secs(2)).acquire().await.unwrap();
    let waiting = tokio::spawn(async move {
        let lease = other.lease("x").wait_at_most(WITHIN).acquire().await.unwrap();
        (std::time::Instant::now(), lease, other)
    });
    until(async || (cluster.agents[2].holder("x").await.unwrap()?.waiters == 1).then_some(())).await;
    cluster.network.as_ref().unwrap().isolate("one");
    let lost = lease.lost().await;
    let lost_at = std::time::Instant::now();
    assert!(matches!(lost.reason, LossReason::ExpiredWithoutContact { .. }), "{lost}");
    assert!(lease.check().is_err());
    let (granted_at, second, other) = waiting.await.unwrap();
    assert!(lost_at < granted_at);
    assert!(second.token() > lease.token());
    drop(second);
    other.close().await;
    one.close().await;
    cluster.stop().await;
}

#[tokio::test]
async fn nobody_there_is_a_sentence() {
    let network = InProcessNetwork::new(1);
    let builder = Client::builder("c").network(&network).connect_within(Duration::from_millis(300));
    let error = builder.agents(["a:1", "b:1"]).connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(
        error.to_string().contains("a:1") && error.to_string().contains("check the addresses"),
        "{error}"
    );
    let error = Client::builder("c").agents(["nowhere", "x:0"]).connect().await.unwrap_err().to_string();
    assert!(error.contains("2 settings") && error.contains("nowhere") && error.contains("x:0"), "{error}");
    let error = Client::builder("").agents([""; 0]).connect().await.unwrap_err().to_string();
    assert!(error.contains("no agent to connect to") && error.contains("empty"), "{error}");
}

/// Two clusters behind one list of addresses: the client stays with the one that it met first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_never_talks_to_another_cluster() {
    let network = InProcessNetwork::new(1);
    let alone = async |address: &str| {
        Agent::builder("alone").listen(address).founders([address]).network(&network).start().await.unwrap()
    };
    let (mine, foreign) = (alone("a:1").await, alone("b:1").await);
    let client = Client::builder("c").agents(["a:1", "b:1"]).network(&network).connect().await.unwrap();
    network.refuse("c", "a:1");
    let lease = client.lease("x").wait_at_most(Duration::from_millis(500)).try_acquire().await;
    assert!(lease.is_err(), "granted by another cluster");
    assert_eq!(foreign.status().leases, 0);
    network.heal("c", "a:1");
    client.try_acquire("x").await.unwrap();
    client.close().await;
    mine.shutdown().await;
    foreign.shutdown().await;
}

/// The agent that it asks goes away, and comes back with nothing: no change is missed, none is told twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_has_no_gap_when_its_agent_goes() {
    let cluster = Cluster::in_process().await;
    let (watcher, writer) = (cluster.client("watcher").await, cluster.client("writer").await);
    let mut watch = watcher.watch_prefix("x/").await.unwrap();
    let watching = tokio::spawn(async move {
        let (mut tokens, mut last) = (Vec::new(), 0);
        loop {
            let change = watch.next().await.unwrap();
            assert!(change.index >= last, "in order");
            last = change.index;
            match change.kind {
                ChangeKind::Granted { name, .. } if name.as_str() == "x/over" => return tokens,
                ChangeKind::Granted { token, .. } => tokens.push(token),
                ChangeKind::Present { .. } => panic!("nothing was forgotten: {change:?}"),
                _ => {}
            }
        }
    });
    let mut granted = Vec::new();
    for round in 0..40 {
        if round == 20 {
            // Both clients talk to the first that answered.
            let talked_to = watcher.status().await.unwrap().node;
            let agent = cluster.agents.iter().find(|agent| agent.status().node == talked_to).unwrap();
            agent.shutdown().await;
        }
        let lease = writer.acquire(&format!("x/{}", round % 3)).await.unwrap();
        granted.push(lease.token());
        lease.release().await.unwrap();
    }
    let over = writer.acquire("x/over").await.unwrap();
    let told = tokio::time::timeout(WITHIN, watching).await.expect("all changes in time").unwrap();
    assert_eq!(told, granted);
    drop(over);
    watcher.close().await;
    writer.close().await;
    cluster.stop().await;
}
