//! Real agents over real TCP, and a proxy between them: does it do what it says, and do they bear it?

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test: it looks from outside, at real time, and panics are how it fails"
)]

use std::{net::TcpListener, time::Duration};

use leasehold::{
    Agent, LossReason, Timing,
    chaos::{FaultProxy, Line},
};
use tokio::time::{Instant, sleep, timeout};

const NAMES: [&str; 3] = ["a", "b", "c"];
const PATIENCE: Duration = Duration::from_secs(40);
const TTL: Duration = Duration::from_secs(1);

/// Agents `a`, `b` and `c`, each behind the proxy.
async fn cluster(proxy: &FaultProxy) -> Vec<Agent> {
    let listens: Vec<String> = {
        let held: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        held.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
    };
    let mut fronts = Vec::new();
    for (name, listens) in NAMES.iter().zip(&listens) {
        fronts.push(proxy.before(name, listens).await.unwrap());
    }
    let start = |at: usize| {
        let agent = Agent::builder(NAMES[at]).listen(&listens[at]).advertise(&fronts[at]);
        agent.founders(fronts.clone()).timing(Timing::fast_lan()).start_within(PATIENCE).start()
    };
    futures_util::future::try_join_all((0..3).map(start)).await.unwrap()
}

async fn stop(agents: Vec<Agent>) {
    for agent in agents {
        agent.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_cut_off_loses_its_lease_and_the_next_one_has_it() {
    let proxy = FaultProxy::new(1);
    let agents = cluster(&proxy).await;
    let held = agents[0].lease("x").ttl(TTL).acquire().await.unwrap();
    let waits = agents[1].lease("x").ttl(TTL).wait_at_most(PATIENCE);
    let waits = tokio::spawn(async move { waits.acquire().await });
    proxy.isolate("a");
    let lost = timeout(PATIENCE, held.lost()).await.unwrap();
    assert!(matches!(lost.reason, LossReason::ExpiredWithoutContact { .. }), "{lost}");
    let next = timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap();
    assert!(next.token() > held.token());
    // Healed, what was held back arrives, and it is one of them again.
    proxy.heal();
    next.release().await.unwrap();
    drop(timeout(PATIENCE, agents[0].acquire("x")).await.unwrap().unwrap());
    stop(agents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delays_and_resets_cost_time_and_nothing_else() {
    let proxy = FaultProxy::new(2);
    let agents = cluster(&proxy).await;
    let ms = Duration::from_millis;
    proxy.set_all(Line { delay: (ms(1), ms(8)), resets: 0.02, ..Line::default() });
    let mut last = 0;
    for round in 0..30 {
        let lease = timeout(PATIENCE, agents[round % 3].acquire("x")).await.unwrap().unwrap();
        assert!(lease.token().get() > last);
        last = lease.token().get();
        // Whether it is answered or not, it is free at last.
        let _ = timeout(PATIENCE, lease.release()).await.unwrap();
        if round % 10 == 5 {
            proxy.reset_all();
        }
    }
    proxy.heal();
    stop(agents).await;
}

#[tokio::test]
async fn each_way_is_cut_by_itself_and_what_was_held_back_arrives() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FaultProxy::new(3);
    let front = proxy.before("b", &listener.local_addr().unwrap().to_string()).await.unwrap();
    // Who greets by no name is nobody's: the name is empty.
    let mut caller = tokio::net::TcpStream::connect(&front).await.unwrap();
    caller.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (mut called, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut bytes = [0; 18];
    timeout(PATIENCE, called.read_exact(&mut bytes)).await.unwrap().unwrap();
    assert_eq!(&bytes, b"GET / HTTP/1.1\r\n\r\n");

    proxy.set("b", "", Line::cut());
    called.write_all(b"answer").await.unwrap();
    let mut answer = [0; 6];
    assert!(timeout(Duration::from_millis(200), caller.read_exact(&mut answer)).await.is_err());
    caller.write_all(b"more").await.unwrap();
    let mut more = [0; 4];
    timeout(PATIENCE, called.read_exact(&mut more)).await.unwrap().unwrap();
    assert_eq!(&more, b"more", "the other way is open");
    proxy.heal();
    timeout(PATIENCE, caller.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"answer");

    let began = Instant::now();
    proxy.set(
        "",
        "b",
        Line { delay: (Duration::from_millis(150), Duration::from_millis(160)), ..Line::default() },
    );
    caller.write_all(b"late").await.unwrap();
    timeout(PATIENCE, called.read_exact(&mut more)).await.unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(150));

    proxy.reset_all();
    assert_eq!(timeout(PATIENCE, called.read(&mut more)).await.unwrap().unwrap_or(0), 0);
    // It goes with all it has.
    let mut again = tokio::net::TcpStream::connect(&front).await.unwrap();
    drop(proxy);
    assert_eq!(timeout(PATIENCE, again.read(&mut more)).await.unwrap().unwrap_or(0), 0);
    let gone = async {
        while tokio::net::TcpStream::connect(&front).await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}
