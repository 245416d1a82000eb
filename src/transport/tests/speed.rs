//! A call's round trip beside that of bare TCP. Prints; asserts nothing about time.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::clock::{Clock as _, SystemClock};

const ROUNDS: usize = 20_000;
const PAYLOAD: [u8; 200] = [7; 200];

/// `cargo test --release --lib transport::tests::speed -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, to be read and not to be passed"]
async fn a_call_beside_a_bare_round_trip() {
    measure("multi-thread").await;
}

#[tokio::test]
#[ignore = "a measurement, to be read and not to be passed"]
async fn a_call_beside_a_bare_round_trip_on_one_thread() {
    measure("one thread").await;
}

/// What TLS costs: a connection with its handshake and its first call, and a call on one that is there.
#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, to be read and not to be passed"]
async fn tls_beside_plaintext() {
    let over_tls = tls::OverTls::new();
    for _ in 0..3 {
        let plain = (first_calls(&Tcp).await, calls(&Tcp, 1).await, calls(&Tcp, 64).await);
        let tls = (first_calls(&over_tls).await, calls(&over_tls, 1).await, calls(&over_tls, 64).await);
        println!(
            "first call {:.0} µs, in TLS {:.0} µs; a call {:.1} µs, in TLS {:.1} µs; 64 at once {:.1} µs each, in TLS {:.1} µs",
            plain.0, tls.0, plain.1, tls.1, plain.2, tls.2
        );
    }
}

#[cfg(feature = "tls")]
async fn first_calls(world: &dyn World) -> f64 {
    const CALLERS: usize = 500;
    let server = world.bind(None, fixed(member("server", 1, 1))).await.unwrap();
    server.serve(Script::new());
    let callers: Vec<_> = (0..CALLERS).map(|_| world.caller(fixed(client()))).collect();
    let start = SystemClock.now();
    for caller in &callers {
        echo(&**caller, &to(&*server)).await.unwrap();
    }
    SystemClock.now().since(start).as_secs_f64() * 1e6 / CALLERS as f64
}

async fn measure(what: &str) {
    for _ in 0..3 {
        let bare = crate::runtime::spawn(bare()).await.unwrap();
        let tcp = crate::runtime::spawn(async { calls(&Tcp, 1).await }).await.unwrap();
        let busy = crate::runtime::spawn(async { calls(&Tcp, 64).await }).await.unwrap();
        let memory = crate::runtime::spawn(async { calls(&InProcess::new(), 1).await }).await.unwrap();
        println!(
            "{what}: bare {bare:.1} µs, call {tcp:.1} µs ({:.2} ×), 64 at once {busy:.1} µs each, in process {memory:.1} µs",
            tcp / bare
        );
    }
}

fn micros_each(since: crate::time::Moment) -> f64 {
    SystemClock.now().since(since).as_secs_f64() * 1e6 / ROUNDS as f64
}

async fn bare() -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    crate::runtime::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = [0; PAYLOAD.len()];
        while stream.read_exact(&mut buffer).await.is_ok() {
            stream.write_all(&buffer).await.unwrap();
        }
    });
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = PAYLOAD;
    let start = SystemClock.now();
    for _ in 0..ROUNDS {
        stream.write_all(&buffer).await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
    }
    micros_each(start)
}

async fn calls(world: &dyn World, at_once: usize) -> f64 {
    struct Echo;
    #[async_trait]
    impl Handler for Echo {
        async fn handle(&self, _: &Caller, _: Method, payload: Bytes) -> Result<Bytes, Refusal> {
            Ok(payload)
        }
    }
    let server = world.bind(None, fixed(member("server", 1, 1))).await.unwrap();
    server.serve(Arc::new(Echo));
    let caller: Arc<dyn Transport> = world.caller(fixed(client())).into();
    let peer = to(&*server);
    let payload = Bytes::from_static(&PAYLOAD);
    echo(&*caller, &peer).await.unwrap();
    let start = SystemClock.now();
    let workers: Vec<_> = (0..at_once)
        .map(|_| {
            let (caller, peer, payload) = (caller.clone(), peer.clone(), payload.clone());
            crate::runtime::spawn(async move {
                for _ in 0..ROUNDS / at_once {
                    caller.call(&peer, Lane::Control, ECHO, payload.clone(), AMPLE).await.unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    micros_each(start)
}
