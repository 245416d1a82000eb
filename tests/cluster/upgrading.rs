//! Upgrades: an older program's greetings and files, refused by name; and all members restarted in turn under load.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use leasehold::{Agent, Client, StartError, Timing};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::fixture::{Cluster, addresses, soon};

/// What the program of an earlier version wrote, or sent.
fn golden(version: u8, name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}/{name}.hex"));
    let text: String = fs::read_to_string(path).unwrap().split_whitespace().collect();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The versions of the wire before this one.
const EARLIER: [u8; 2] = [1, 2];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_program_that_calls_is_refused_by_its_version() {
    let mut cluster = Cluster::durable(1).await;
    for version in EARLIER {
        let mut stream = TcpStream::connect(&cluster.addresses[0]).await.unwrap();
        stream.write_all(&golden(version, "transport/hello_member_request")).await.unwrap();
        let mut answer = Vec::new();
        soon("the refusal", stream.read_to_end(&mut answer)).await.unwrap();
        // Its form is outside of all versions: the earlier program reads it.
        let earlier = golden(version, "transport/refuse_version");
        let (same, number) = (8 + 1, 17..19);
        assert_eq!((&answer[..same], &answer[number.clone()]), (&earlier[..same], &earlier[number]));
        let text = String::from_utf8_lossy(&answer[19..]).into_owned();
        for says in ["versions 3 to 3", &format!("{version} to {version}"), "upgrade the older program"] {
            assert!(text.contains(says), "{says}: {text}");
        }
    }
    cluster.stop_all().await;
}

/// An agent of an earlier version, as far as greetings go: what it answers to whoever calls.
async fn earlier_agent(version: u8, answer: &'static str) -> (String, tokio::task::JoinHandle<()>) {
    let address = addresses(1).remove(0);
    let listener = TcpListener::bind(&address).await.unwrap();
    let answering = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 17];
            if stream.read_exact(&mut head).await.is_ok() {
                let mut body = vec![0; usize::from(u16::from_le_bytes([head[13], head[14]]))];
                let _ = stream.read_exact(&mut body).await;
                let _ = stream.write_all(&golden(version, answer)).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (address, answering)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_program_that_is_called_is_told_from_one_that_is_away() {
    for version in EARLIER {
        for (answer, says) in [
            ("transport/refuse_version", "protocol version".to_owned()),
            ("transport/welcome", format!("protocol version {version}, which was not offered")),
        ] {
            let (address, answering) = earlier_agent(version, answer).await;
            let client = Client::builder("c").agents([&address]).connect_within(Duration::from_secs(1));
            let refused = soon("a client's refusal", client.connect()).await.unwrap_err().to_string();
            assert!(refused.contains(&says), "{says}: {refused}");
            let joiner = Agent::builder("j")
                .listen(addresses(1).remove(0))
                .join([&address])
                .start_within(Duration::from_secs(1));
            let refused = soon("an agent's refusal", joiner.start()).await.unwrap_err();
            assert!(matches!(refused, StartError::NotReady { .. }), "{refused}");
            assert!(refused.to_string().contains(&says), "{says}: {refused}");
            assert!(refused.to_string().contains(&address), "{refused}");
            answering.abort();
        }
    }
}

/// All files below, with their content.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for item in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = item.file_name().into_string().unwrap();
        if item.path().is_dir() {
            let below = content(&item.path());
            found.extend(below.into_iter().map(|(path, bytes)| (format!("{name}/{path}"), bytes)));
        } else {
            found.insert(name, fs::read(item.path()).unwrap());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_an_earlier_format_is_refused_by_its_version_and_left_alone() {
    for version in EARLIER {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in [
            ("identity", golden(version, "storage/identity")),
            ("lock", Vec::new()),
            ("log/acknowledged", golden(version, "storage/acknowledged")),
            ("log/db", b"what sled made of it".to_vec()),
            ("snapshots/snapshot-0000000000000001", golden(version, "storage/snapshot")),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let before = content(folder.path());
        let address = addresses(1).remove(0);
        let agent = Agent::builder("a").listen(&address).founders([&address]).data_dir(folder.path());
        let refused = agent.start().await.unwrap_err();
        assert!(matches!(refused, StartError::Storage(_)), "{refused}");
        let surveyed = leasehold::danger::survey(folder.path()).await.unwrap_err();
        for text in [refused.to_string(), surveyed.to_string()] {
            for says in [
                "identity\" has",
                &format!("format version {version}, this program knows version 3"),
                "use the program version that wrote it",
            ] {
                assert!(text.contains(says), "{says}: {text}");
            }
        }
        assert_eq!(content(folder.path()), before);
    }
}

/// What the load has seen.
#[derive(Default)]
struct Seen {
    done: AtomicBool,
    rounds: AtomicU64,
    last_token: AtomicU64,
}

/// Every member is stopped and started again in turn, while clients hold leases and others come and go: no lease is lost,
/// and nothing fails.
async fn rolling_restart(count: usize) {
    let mut cluster = Cluster::durable_stopped(count);
    cluster.timing = Timing { ttl: Duration::from_secs(4), ..Timing::default() };
    cluster.start_all().await;
    let connect = |name: String| Client::builder(name).agents(&cluster.addresses).connect();
    let keeper = connect("keeper".to_owned()).await.unwrap();
    let mut held = Vec::new();
    for n in 0..8 {
        held.push(soon("a grant", keeper.acquire(&format!("held-{n}"))).await.unwrap());
    }
    let next = connect("next".to_owned()).await.unwrap();
    let waiting = tokio::spawn(async move {
        let lease = next.acquire("held-0").await.unwrap();
        lease.check().unwrap();
        lease.release().await.unwrap();
        next.close().await;
    });
    cluster.until_waiting(0, "held-0", 1).await;

    let seen = Arc::new(Seen::default());
    let mut load = Vec::new();
    for n in 0..6 {
        let (seen, client) = (seen.clone(), connect(format!("worker-{n}")).await.unwrap());
        load.push(tokio::spawn(async move {
            // Half of them have a name of their own, half take turns.
            let name = if n < 3 { format!("own-{n}") } else { "turns".to_owned() };
            while !seen.done.load(Ordering::Relaxed) {
                let lease = client.lease(&name).wait_at_most(Duration::from_secs(15)).acquire().await;
                let lease = lease.unwrap_or_else(|error| panic!("{name}: {error}"));
                if n >= 3 {
                    let before = seen.last_token.swap(lease.token().get(), Ordering::SeqCst);
                    assert!(before < lease.token().get(), "L2");
                }
                lease.check().unwrap_or_else(|lost| panic!("{name}: {lost}"));
                lease.release().await.unwrap_or_else(|error| panic!("{name}: {error}"));
                seen.rounds.fetch_add(1, Ordering::Relaxed);
            }
            client.close().await;
        }));
    }
    // The one that leads last, as an operator would; and then once more, in order of the list.
    let leader = cluster.leader().await;
    let mut order: Vec<usize> = (0..count).filter(|n| *n != leader).chain([leader]).collect();
    order.extend(0..count);
    for n in order {
        let before = seen.rounds.load(Ordering::Relaxed);
        soon("a stop", cluster.agents[n].shutdown()).await;
        cluster.agents[n] = soon("a start", cluster.builder(n).start()).await.unwrap();
        for lease in &held {
            lease.check().unwrap_or_else(|lost| panic!("after the restart of agent {n}: {lost}"));
        }
        assert!(load.iter().all(|task| !task.is_finished()), "a worker has failed");
        soon("the load to go on", async {
            while seen.rounds.load(Ordering::Relaxed) < before + 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    seen.done.store(true, Ordering::Relaxed);
    for task in load {
        soon("a worker", task).await.unwrap();
    }
    assert!(!waiting.is_finished(), "the name was held all the time");
    for lease in held {
        lease.check().unwrap();
        soon("a release", lease.release()).await.unwrap();
    }
    soon("the waiter's turn", waiting).await.unwrap();
    keeper.close().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_restart_in_turn_under_load() {
    rolling_restart(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_members_restart_in_turn_under_load() {
    rolling_restart(5).await;
}

/// Whoever stops while it leads asks nobody to take over who is out of reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_at_once_although_a_voter_is_away() {
    let mut cluster = Cluster::in_process_stopped(5);
    cluster.timing = Timing {
        election_timeout_min: Duration::from_millis(1_900),
        election_timeout_max: Duration::from_secs(2),
        ttl: Duration::from_secs(8),
        ..Timing::default()
    };
    cluster.start_all().await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let followers = cluster.followers().await;
        // Of those whose logs are equally long, it was the last by its node id that was asked.
        let away = *followers.iter().max_by_key(|n| cluster.agents[**n].status().node).unwrap();
        let heirs: Vec<usize> = followers.into_iter().filter(|n| *n != away).collect();
        cluster.isolate(away);
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let began = std::time::Instant::now();
        cluster.agents[leader].shutdown().await;
        cluster.leader_among(&heirs).await;
        assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
        cluster.rejoin(away);
        cluster.agents[leader] = soon("its return", cluster.builder(leader).start()).await.unwrap();
    }
    cluster.stop_all().await;
}
