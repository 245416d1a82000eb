//! Clusters over TLS: is the promise the same, who may ask what, and do certificates change while leases are held?

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test: it looks from outside, at real time, and panics are how it fails"
)]

#[path = "common/certificates.rs"]
mod certificates;

use std::{path::Path, time::Duration};

use certificates::Authority;
use leasehold::{Agent, Builder, Client, ConfigFault, ConnectError, Role, StartError, Timing, Tls, TlsFault};
use tempfile::TempDir;

const NAMES: [&str; 3] = ["a", "b", "c"];
const PATIENCE: Duration = Duration::from_secs(30);

/// Addresses on which nobody listens.
fn addresses() -> Vec<String> {
    let free: Vec<_> = NAMES.iter().map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    free.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

struct Cluster {
    addresses: Vec<String>,
    agents: Vec<Agent>,
    tls: Vec<Tls>,
    authority: Authority,
    dir: TempDir,
}

fn write(dir: &Path, authority: &Authority, ca: &str, role: &str, name: &str) -> Tls {
    let [ca, cert, key] = authority.issue(role, name).write(dir, name, ca);
    Tls::from_files(ca, cert, key)
}

impl Cluster {
    async fn start(but: impl Fn(Builder) -> Builder) -> Self {
        let (addresses, authority, dir) = (addresses(), Authority::new(), tempfile::tempdir().unwrap());
        let timing = Timing { ttl: Duration::from_secs(2), ..Timing::fast_lan() };
        let mut starts = Vec::new();
        let mut all = Vec::new();
        for (name, address) in NAMES.iter().zip(&addresses) {
            let tls = write(dir.path(), &authority, &authority.pem, "member", name);
            all.push(tls.clone());
            let builder = Agent::builder(*name).listen(address).founders(addresses.clone()).tls(tls);
            starts.push(but(builder.timing(timing).start_within(PATIENCE)).start());
        }
        let agents = futures_util::future::try_join_all(starts).await.unwrap();
        Self { addresses, agents, tls: all, authority, dir }
    }

    fn tls(&self, role: &str, name: &str) -> Tls {
        write(self.dir.path(), &self.authority, &self.authority.pem, role, name)
    }

    async fn client(&self, role: &str, name: &str) -> Client {
        let builder = Client::builder(name).agents(self.addresses.clone()).tls(self.tls(role, name));
        builder.connect_within(PATIENCE).connect().await.unwrap()
    }

    async fn stop(self) {
        futures_util::future::join_all(self.agents.iter().map(Agent::shutdown)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_grants_and_hands_over_and_each_role_may_do_its_part() {
    let cluster = Cluster::start(|builder| builder).await;
    let (client, reader) =
        (cluster.client("client", "worker").await, cluster.client("reader", "monitor").await);
    let lease = cluster.agents[0].acquire("x").await.unwrap();
    assert_eq!(reader.holder("x").await.unwrap().unwrap().agent.as_str(), "a");
    let (next, ()) = tokio::join!(client.acquire("x"), async { drop(lease.release().await.unwrap()) });
    let next = next.unwrap();
    next.check().unwrap();
    let status = reader.status().await.unwrap();
    assert_eq!(reader.leases("", None, 10).await.unwrap().0.len(), 1);
    assert_eq!(reader.members().await.unwrap().len(), 3);
    assert!(reader.inspect("x").await.is_ok());
    // Who reads can change nothing; who has leases can't change the membership.
    let refused = [
        reader.acquire("y").await.err().unwrap().to_string(),
        reader.revoke("x", "why not").await.unwrap_err().to_string(),
        reader.leave(&cluster.addresses[2]).await.unwrap_err().to_string(),
    ];
    for error in refused {
        assert!(error.contains("the reader monitor may not ask this"), "{error}");
    }
    next.check().unwrap();
    let refused = [
        client.leave(&cluster.addresses[2]).await.unwrap_err().to_string(),
        client.promote(status.node).await.unwrap_err().to_string(),
        client.remove(status.node).await.unwrap_err().to_string(),
    ];
    for error in refused {
        assert!(error.contains("the client worker may not ask this"), "{error}");
    }
    assert_eq!(reader.members().await.unwrap().len(), 3);
    let revoked = client.revoke("x", "a client may").await.unwrap();
    assert_eq!(revoked.len(), 1);
    client.close().await;
    reader.close().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_a_new_authority_take_over_under_a_lease_that_is_held() {
    let cluster = Cluster::start(|builder| builder).await;
    let worker = cluster.tls("client", "worker");
    let builder = Client::builder("worker").agents(cluster.addresses.clone()).tls(worker.clone());
    let client = builder.connect_within(PATIENCE).connect().await.unwrap();
    let held = client.acquire("x").await.unwrap();
    let token = held.token();
    let new = Authority::new();
    let both = format!("{}{}", cluster.authority.pem, new.pem);
    let everybody = || {
        let members = NAMES.iter().zip(&cluster.tls).map(|(name, tls)| ("member", *name, tls));
        members.chain([("client", "worker", &worker)])
    };
    for (ca, authority) in [(&both, &cluster.authority), (&both, &new), (&new.pem, &new)] {
        for (role, name, tls) in everybody() {
            write(cluster.dir.path(), authority, ca, role, name);
            assert!(tls.reload().unwrap());
        }
        // More than a ttl passes over the connections that are made anew.
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(2_500) {
            held.check().unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(client.holder("x").await.unwrap().unwrap().token, token);
    let old = write(cluster.dir.path(), &cluster.authority, &both, "client", "late");
    let builder = Client::builder("late").agents(cluster.addresses.clone()).tls(old);
    let error = builder.connect_within(Duration::from_millis(500)).connect().await.err().unwrap();
    assert!(error.to_string().contains("trusts another certificate authority"), "{error}");
    held.release().await.unwrap();
    client.close().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_found_to_be_others_without_a_word() {
    let cluster = Cluster::start(|builder| builder).await;
    let before = cluster.tls[0].certificate().unwrap().fingerprint;
    cluster.tls("member", "a");
    let began = std::time::Instant::now();
    while cluster.tls[0].certificate().unwrap().fingerprint == before {
        assert!(began.elapsed() < PATIENCE, "nobody looked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_names_that_are_listed_are_let_in() {
    let cluster =
        Cluster::start(|builder| builder.allow(Role::Member, NAMES).allow(Role::Client, ["worker"])).await;
    cluster.client("client", "worker").await.close().await;
    cluster.client("reader", "anybody").await.close().await;
    let tls = cluster.tls("client", "other");
    let builder = Client::builder("other").agents(cluster.addresses.clone()).tls(tls);
    let error = builder.connect_within(Duration::from_millis(500)).connect().await.err().unwrap();
    assert!(error.to_string().contains("not among the names that are allowed"), "{error}");
    let [listen] = <[String; 1]>::try_from(addresses().split_off(2)).unwrap();
    let tls = cluster.tls("member", "d");
    let joining = Agent::builder("d").listen(&listen).join(cluster.addresses.clone()).tls(tls);
    let timing = Timing { ttl: Duration::from_secs(2), ..Timing::fast_lan() };
    let joined = joining.timing(timing).start_within(Duration::from_secs(1)).start().await;
    assert!(matches!(joined.err().unwrap(), StartError::NotReady { .. }));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_certificates_is_a_fault_of_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let start = async |name: &str, tls: Tls| {
        let started = Agent::builder(name).listen("10.0.0.1:7101").tls(tls).start().await;
        let Err(StartError::Config(error)) = started else { panic!("it starts") };
        assert!(
            error.faults.iter().any(|fault| matches!(fault, ConfigFault::NoFounders)),
            "all are listed: {error}"
        );
        let tls = error.faults.into_iter().find_map(|fault| match fault {
            ConfigFault::Tls(fault) => Some(fault),
            _ => None,
        });
        tls.expect("no fault of TLS")
    };
    let of = |role: &str, name: &str| write(dir.path(), &authority, &authority.pem, role, name);
    let fault = start("a", of("member", "b")).await;
    assert!(matches!(fault, TlsFault::NotItsBearer { .. }) && fault.to_string().contains("b.crt"), "{fault}");
    let fault = start("a", of("client", "a")).await;
    assert!(
        matches!(fault, TlsFault::NotItsBearer { .. }) && fault.to_string().contains("--role member"),
        "{fault}"
    );
    let [ca, cert, key] = authority.issue_expired("member", "a").write(dir.path(), "a", &authority.pem);
    let fault = start("a", Tls::from_files(&ca, &cert, &key)).await;
    assert!(matches!(fault, TlsFault::Expired { .. }) && fault.to_string().contains("a.crt"), "{fault}");
    let fault = start("a", Tls::from_files("/no/ca", cert, key)).await;
    assert!(matches!(fault, TlsFault::Unreadable { .. }) && fault.to_string().contains("/no/ca"), "{fault}");
    let client = Client::builder("c").agents(["10.0.0.1:1"]).tls(of("client", "d")).connect().await;
    let Err(ConnectError::Config(error)) = client else { panic!("it connects") };
    assert!(matches!(error.faults[..], [ConfigFault::Tls(TlsFault::NotItsBearer { .. })]), "{error}");
    // Without any.
    let plain = Agent::builder("a").listen("0.0.0.0:7101").advertise("a.example:7101");
    let error = plain.founders(["a.example:7101", "127.0.0.1:1"]).start().await.err().unwrap();
    let StartError::Config(error) = error else { panic!("{error}") };
    let [ConfigFault::Plaintext { addresses }] = &error.faults[..] else { panic!("{error}") };
    assert_eq!(addresses[..], ["0.0.0.0:7101", "a.example:7101"]);
}
