//! A cluster of agents, on real sockets: does it grant, renew, expire and hand over?

use std::time::Duration;

use leasehold::{AcquireError, Agent, InProcessNetwork, Timing};

async fn three(network: &InProcessNetwork) -> Vec<Agent> {
    let addrs = ["a:1", "b:1", "c:1"];
    let starts = addrs.iter().map(|addr| {
        Agent::builder(format!("agent-{}", &addr[..1]))
            .listen(*addr)
            .founders(addrs)
            .network(network)
            .timing(Timing::fast_lan())
            .start_within(Duration::from_secs(20))
            .start()
    });
    futures_util::future::try_join_all(starts).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_goes_round() {
    let network = InProcessNetwork::new(1);
    let agents = three(&network).await;
    let lease = agents[0].acquire("x").await.unwrap();
    lease.check().unwrap();
    let held = agents[1].try_acquire("x").await.unwrap_err();
    assert!(matches!(held, AcquireError::Held { .. }), "{held}");
    println!("{held}");
    let first = lease.token();
    let waiting = tokio::spawn({
        let agent = agents[2].clone();
        async move { agent.acquire("x").await }
    });
    while agents[0].holder("x").await.unwrap().unwrap().waiters == 0 {}
    lease.release().await.unwrap();
    let second = waiting.await.unwrap().unwrap();
    assert!(second.token() > first);
    drop(second);
    for agent in &agents {
        println!("{:?}", agent.status());
        agent.shutdown().await;
    }
}
