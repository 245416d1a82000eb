//! One client floods three agents over many connections, with everything that a client may ask; a hundred others hold
//! leases meanwhile. None of them may lose its own.
//!
//! For longer: `LEASEHOLD_FLOOD_SECONDS=60 cargo test --release --test flood -- --nocapture`.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test: it looks from outside, at real time, and panics are how it fails"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use leasehold::{Agent, Client, ConnectError, Lease, Quotas, Timing};

const WITHIN: Duration = Duration::from_secs(30);
/// Short, so that a renewal that is held up for long is a lease lost.
const TTL: Duration = Duration::from_secs(3);
const HOLDERS: usize = 100;
const CONNECTIONS: usize = 40;
/// What each connection has under way at once.
const AT_ONCE: usize = 100;

fn flood_for() -> Duration {
    let seconds = std::env::var("LEASEHOLD_FLOOD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(8))
}

async fn agents(quotas: Quotas) -> (Vec<Agent>, Vec<String>) {
    let free: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = free.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
    drop(free);
    let starts = addresses.iter().enumerate().map(|(at, address)| {
        Agent::builder(format!("agent-{at}"))
            .listen(address)
            .founders(addresses.clone())
            .timing(Timing { ttl: TTL, ..Timing::default() })
            .quotas(quotas)
            .start_within(WITHIN)
            .start()
    });
    (try_join_all(starts).await.unwrap(), addresses)
}

async fn client(name: &str, addresses: &[String]) -> Result<Client, ConnectError> {
    Client::builder(name).agents(addresses.to_vec()).connect_within(WITHIN).connect().await
}

/// One of the flood's tasks: asks without rest, and takes no refusal to heart.
async fn ask(client: Client, number: u64, asked: Arc<AtomicU64>, over: Arc<AtomicBool>) {
    let own = format!("flood.{number}");
    let (mut kept, mut turn) = (Vec::new(), 0_u64);
    while !over.load(Ordering::Relaxed) {
        match number % 5 {
            0 => drop(client.leases("", None, 1_000).await),
            1 => drop(client.holder("held.7").await),
            2 => {
                // Never given back while it lasts.
                turn += 1;
                let name = format!("{own}.{turn}");
                let metadata = Bytes::from(vec![7; 4_000]);
                let lease = client.lease(&name).ttl(TTL).metadata(metadata).try_acquire().await;
                kept.extend(lease.ok());
            }
            3 => drop(client.lease("held.3").wait_at_most(Duration::from_millis(50)).acquire().await),
            _ => {
                if let Ok(lease) = client.try_acquire(&own).await {
                    drop(lease.release().await);
                }
            }
        }
        asked.fetch_add(1, Ordering::Relaxed);
        // What is refused at once must not keep the flood's own thread from the rest of it.
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_client_costs_nobody_else_a_lease() {
    let (agents, addresses) = agents(Quotas::default()).await;
    let holders: Vec<(Client, Lease)> = join_all((0..HOLDERS).map(|n| {
        let addresses = addresses.clone();
        async move {
            // Each talks to another agent at first.
            let mut addresses = addresses;
            addresses.rotate_left(n % 3);
            let client = client(&format!("holder-{n}"), &addresses).await.unwrap();
            let lease = client.acquire(&format!("held.{n}")).await.unwrap();
            (client, lease)
        }
    }))
    .await;

    let (asked, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    // On a thread of its own: the others are not to wait for it inside of this process, as they don't for another's.
    let elsewhere =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let connected = elsewhere.spawn(async move {
        let clients = (0..CONNECTIONS).map(|_| client("flooder", &addresses));
        try_join_all(clients).await.unwrap()
    });
    for (connection, client) in connected.await.unwrap().into_iter().enumerate() {
        for task in 0..AT_ONCE {
            let number = (connection * AT_ONCE + task) as u64;
            elsewhere.spawn(ask(client.clone(), number, asked.clone(), over.clone()));
        }
    }
    tokio::time::sleep(flood_for()).await;
    let lost: Vec<String> =
        holders.iter().filter_map(|(_, lease)| lease.check().err()).map(|lost| lost.to_string()).collect();
    over.store(true, Ordering::Relaxed);
    let shortest = holders.iter().map(|(_, lease)| lease.remaining()).min().unwrap_or_default();
    eprintln!(
        "{} requests of the flood in {:?}, {} of {HOLDERS} leases lost; the one nearest to its end had {shortest:?} of {TTL:?}",
        asked.load(Ordering::Relaxed),
        flood_for(),
        lost.len(),
    );
    assert!(lost.is_empty(), "{lost:?}");
    elsewhere.shutdown_background();
    for (client, lease) in holders {
        lease.release().await.unwrap();
        client.close().await;
    }
    join_all(agents.iter().map(Agent::shutdown)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_as_much_as_one_may_have_is_refused_by_the_quotas_name_and_others_are_not() {
    let mut quotas = Quotas::default();
    quotas.leases_per_agent = 2;
    quotas.metadata_bytes = 10;
    let (agents, addresses) = agents(quotas).await;
    let greedy = client("greedy", &addresses).await.unwrap();
    let first = greedy.acquire("one").await.unwrap();
    let _second = greedy.acquire("two").await.unwrap();
    let refused = greedy.acquire("three").await.unwrap_err().to_string();
    assert!(refused.contains("leases_per_agent") && refused.contains("greedy"), "{refused}");
    let other = client("other", &addresses).await.unwrap();
    let third = other.acquire("three").await.unwrap();
    let refused =
        other.lease("four").metadata(Bytes::from_static(b"0123456789a")).acquire().await.unwrap_err();
    assert!(refused.to_string().contains("metadata_bytes"), "{refused}");
    // What was given back is free for others.
    first.release().await.unwrap();
    third.release().await.unwrap();
    let third = greedy.acquire("three").await.unwrap();
    // Agents, too, have no more.
    let mut kept = Vec::new();
    for name in ["four", "five"] {
        kept.push(agents[0].acquire(name).await.unwrap());
    }
    let refused = agents[0].try_acquire("six").await.unwrap_err().to_string();
    assert!(refused.contains("leases_per_agent") && refused.contains("agent-0"), "{refused}");
    drop((kept, third));
    join_all(agents.iter().map(Agent::shutdown)).await;
}
