//! Does code that is written against the seed interface compile and work unchanged?
//!
//! `foreign` is such code: it names nothing but what the seed has. Below it, what every kind of [`WriteLease`] must
//! do, written once. A kind is a [`Bench`]; one line of `conformance!` runs everything on it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use leasehold::{
    Agent, Error, InProcessNetwork, LeaseGuard, LocalLease, RaftLease, Result, Timing, WriteLease,
    WriteLeaseProvider,
};

/// A provider as someone else would write it.
mod foreign {
    use async_trait::async_trait;
    use chrono::{DateTime, TimeDelta, Utc};
    use leasehold::{Error, LeaseGuard, Result, WriteLeaseProvider};

    /// A lock table in memory, with a clock that is set by hand.
    #[derive(Default)]
    pub(crate) struct Table {
        pub(crate) held: super::Mutex<Option<LeaseGuard>>,
        pub(crate) granted: super::AtomicI64,
        pub(crate) clock_seconds: super::AtomicI64,
    }

    pub(crate) const TTL_SECONDS: i64 = 10;

    pub(crate) struct TableLease {
        pub(crate) table: super::Arc<Table>,
        pub(crate) owner: &'static str,
    }

    impl TableLease {
        fn now(&self) -> DateTime<Utc> {
            let seconds = self.table.clock_seconds.load(super::Ordering::SeqCst);
            DateTime::from_timestamp(seconds, 0).unwrap_or_default()
        }
    }

    #[async_trait]
    impl WriteLeaseProvider for TableLease {
        async fn acquire(&self) -> Result<LeaseGuard> {
            let mut held = self.table.held.lock().unwrap();
            if let Some(other) = held.as_ref().filter(|other| other.expires_at > self.now()) {
                return Err(Error::provider(format!("{} is writing", other.lease_id)));
            }
            let count = self.table.granted.fetch_add(1, super::Ordering::SeqCst);
            let lease_id = format!("{}-{count}", self.owner);
            let expires_at = self.now() + TimeDelta::seconds(TTL_SECONDS);
            *held = Some(LeaseGuard { lease_id: lease_id.clone(), expires_at });
            Ok(LeaseGuard { lease_id, expires_at })
        }

        async fn heartbeat(&self, guard: &LeaseGuard) -> Result<()> {
            let now = self.now();
            match self.table.held.lock().unwrap().as_mut() {
                Some(held) if held.lease_id == guard.lease_id && held.expires_at > now => {
                    held.expires_at = now + TimeDelta::seconds(TTL_SECONDS);
                    Ok(())
                }
                _ => Err(Error::provider("the lease is over")),
            }
        }

        async fn release(&self, guard: LeaseGuard) -> Result<()> {
            let mut held = self.table.held.lock().unwrap();
            if held.as_ref().is_some_and(|held| held.lease_id == guard.lease_id) {
                *held = None;
            }
            Ok(())
        }
    }
}

/// Two writers on one resource, and a way to let time pass.
trait Bench: Sized + Send + Sync {
    /// A resource that nobody writes to, and two writers that might.
    fn set_up() -> impl Future<Output = (Self, WriteLease, WriteLease)> + Send;
    /// Lets this part of the ttl pass, in percent.
    fn pass(&self, percent_of_ttl: u32) -> impl Future<Output = ()> + Send;
}

struct CustomBench(Arc<foreign::Table>);

impl Bench for CustomBench {
    async fn set_up() -> (Self, WriteLease, WriteLease) {
        let table = Arc::new(foreign::Table::default());
        let writer =
            |owner| WriteLease::Custom(Box::new(foreign::TableLease { table: Arc::clone(&table), owner }));
        let (a, b) = (writer("a"), writer("b"));
        (Self(table), a, b)
    }

    async fn pass(&self, percent_of_ttl: u32) {
        let seconds = foreign::TTL_SECONDS * i64::from(percent_of_ttl) / 100;
        self.0.clock_seconds.fetch_add(seconds, Ordering::SeqCst);
    }
}

/// A name that no other test has, in this process, and time that passes for real.
struct LocalBench;

impl LocalBench {
    const TTL: Duration = Duration::from_secs(2);
}

impl Bench for LocalBench {
    async fn set_up() -> (Self, WriteLease, WriteLease) {
        static NAMES: AtomicI64 = AtomicI64::new(0);
        let name = format!("graph-{}.db", NAMES.fetch_add(1, Ordering::SeqCst));
        let writer = || WriteLease::Custom(Box::new(LocalLease::new(&name).unwrap().ttl(Self::TTL)));
        (Self, writer(), writer())
    }

    #[expect(clippy::disallowed_methods, reason = "the world outside the seam")]
    async fn pass(&self, percent_of_ttl: u32) {
        tokio::time::sleep(Self::TTL * percent_of_ttl / 100).await;
    }
}

/// Two agents of a cluster of three, and time that passes for real.
struct RaftBench {
    agents: Vec<Agent>,
}

impl RaftBench {
    const TTL: Duration = Duration::from_secs(2);
}

impl Bench for RaftBench {
    async fn set_up() -> (Self, WriteLease, WriteLease) {
        let network = InProcessNetwork::new(1);
        let founders = ["a:1", "b:1", "c:1"];
        let start = |at: &&str| {
            Agent::builder(*at)
                .listen(*at)
                .founders(founders)
                .network(&network)
                .timing(Timing::fast_lan())
                .start()
        };
        let agents = futures_util::future::try_join_all(founders.iter().map(start)).await.unwrap();
        let writer = |agent| WriteLease::Raft(RaftLease::new(agent, "graph.db").unwrap().ttl(Self::TTL));
        let (a, b) = (writer(&agents[0]), writer(&agents[1]));
        (Self { agents }, a, b)
    }

    #[expect(clippy::disallowed_methods, reason = "the world outside the seam")]
    async fn pass(&self, percent_of_ttl: u32) {
        assert_eq!(self.agents.len(), 3, "the cluster lives as long as the bench");
        tokio::time::sleep(Self::TTL * percent_of_ttl / 100).await;
    }
}

/// What every kind of write lease must do.
mod must {
    use super::*;

    pub(crate) async fn be_exclusive<B: Bench>() {
        let (_bench, a, b) = B::set_up().await;
        let held = a.acquire().await.unwrap();
        b.acquire().await.unwrap_err();
        a.acquire().await.unwrap_err();
        a.heartbeat(&held).await.unwrap();
    }

    pub(crate) async fn be_kept_by_heartbeats<B: Bench>() {
        let (bench, a, b) = B::set_up().await;
        let held = a.acquire().await.unwrap();
        for _ in 0..4 {
            bench.pass(50).await;
            a.heartbeat(&held).await.unwrap();
        }
        b.acquire().await.unwrap_err();
    }

    pub(crate) async fn be_freed_by_expiry<B: Bench>() {
        let (bench, a, b) = B::set_up().await;
        let first = a.acquire().await.unwrap();
        bench.pass(150).await;
        let second = b.acquire().await.unwrap();
        assert_ne!(first.lease_id, second.lease_id);
        assert!(first.expires_at < second.expires_at);
        a.acquire().await.unwrap_err();
    }

    pub(crate) async fn be_freed_by_release<B: Bench>() {
        let (_bench, a, b) = B::set_up().await;
        let held = a.acquire().await.unwrap();
        a.release(held).await.unwrap();
        let held = b.acquire().await.unwrap();
        b.release(held).await.unwrap();
        a.acquire().await.unwrap();
    }

    /// Neither while it is free nor when another has it; and the heartbeat does not acquire it anew.
    pub(crate) async fn not_be_renewed_after_expiry<B: Bench>() {
        let (bench, a, b) = B::set_up().await;
        let over = a.acquire().await.unwrap();
        bench.pass(150).await;
        a.heartbeat(&over).await.unwrap_err();
        let held = b.acquire().await.unwrap();
        a.heartbeat(&over).await.unwrap_err();
        b.heartbeat(&held).await.unwrap();
    }

    pub(crate) async fn not_be_renewed_after_release<B: Bench>() {
        let (_bench, a, b) = B::set_up().await;
        let held = a.acquire().await.unwrap();
        let copy = LeaseGuard { lease_id: held.lease_id.clone(), expires_at: held.expires_at };
        a.release(held).await.unwrap();
        a.heartbeat(&copy).await.unwrap_err();
        b.acquire().await.unwrap();
        a.heartbeat(&copy).await.unwrap_err();
    }

    /// Whichever comes first: both done, nothing has come to life again.
    pub(crate) async fn not_be_revived_by_a_heartbeat_beside_the_release<B: Bench>() {
        let (_bench, a, b) = B::set_up().await;
        for heartbeat_first in [true, false] {
            let held = a.acquire().await.unwrap();
            let copy = LeaseGuard { lease_id: held.lease_id.clone(), expires_at: held.expires_at };
            let released = if heartbeat_first {
                futures_util::future::join(a.heartbeat(&copy), a.release(held)).await.1
            } else {
                futures_util::future::join(a.release(held), a.heartbeat(&copy)).await.0
            };
            released.unwrap();
            a.heartbeat(&copy).await.unwrap_err();
            let next = b.acquire().await.unwrap();
            a.heartbeat(&copy).await.unwrap_err();
            b.release(next).await.unwrap();
        }
    }

    pub(crate) async fn refuse_a_foreign_lease_id<B: Bench>() {
        let (_bench, a, b) = B::set_up().await;
        let held = a.acquire().await.unwrap();
        let ids =
            ["", "nobody's", "0123456789abcdef0123456789abcdef", "\u{0}\u{1F980}", &"x".repeat(100_000)];
        for lease_id in ids {
            let foreign = LeaseGuard { lease_id: lease_id.to_owned(), expires_at: held.expires_at };
            a.heartbeat(&foreign).await.unwrap_err();
            // An error or not; but whatever it says, the holder keeps its lease.
            let _ = a.release(foreign).await;
            b.acquire().await.unwrap_err();
        }
        a.heartbeat(&held).await.unwrap();
    }

    pub(crate) async fn bear_a_double_release<B: Bench>() {
        let (_bench, a, b) = B::set_up().await;
        let held = a.acquire().await.unwrap();
        let copy = LeaseGuard { lease_id: held.lease_id.clone(), expires_at: held.expires_at };
        a.release(held).await.unwrap();
        let next = b.acquire().await.unwrap();
        let _ = a.release(copy).await;
        // The late release is not the next holder's.
        a.acquire().await.unwrap_err();
        b.heartbeat(&next).await.unwrap();
    }

    pub(crate) async fn outlive_a_dropped_guard_until_expiry<B: Bench>() {
        let (bench, a, b) = B::set_up().await;
        drop(a.acquire().await.unwrap());
        b.acquire().await.unwrap_err();
        bench.pass(150).await;
        b.acquire().await.unwrap();
    }
}

macro_rules! conformance {
    ($kind:ident, $bench:ty) => {
        conformance!($kind, $bench: be_exclusive, be_kept_by_heartbeats, be_freed_by_expiry, be_freed_by_release,
            not_be_renewed_after_expiry, not_be_renewed_after_release,
            not_be_revived_by_a_heartbeat_beside_the_release, refuse_a_foreign_lease_id,
            bear_a_double_release, outlive_a_dropped_guard_until_expiry);
    };
    ($kind:ident, $bench:ty: $($what:ident),*) => {
        mod $kind {
            $(#[tokio::test]
            async fn $what() {
                super::must::$what::<$bench>().await;
            })*
        }
    };
}

conformance!(custom_must, super::CustomBench);
conformance!(local_must, super::LocalBench);
conformance!(raft_must, super::RaftBench);

/// The token travels beside the guard: the lease id alone finds it.
#[tokio::test]
async fn a_raft_guard_has_a_token_that_grows() {
    let (bench, a, _) = RaftBench::set_up().await;
    let WriteLease::Raft(lease) = &a else { panic!("{a:?}") };
    assert_eq!(format!("{a:?}"), "WriteLease::Raft { name: graph.db }");
    let guard = a.acquire().await.unwrap();
    let first = lease.token(&guard).unwrap();
    let by_id = LeaseGuard { lease_id: guard.lease_id.clone(), expires_at: guard.expires_at };
    assert_eq!(lease.token(&by_id), Some(first));
    // Another value for the same name, as after a restart, has granted nothing; the id alone renews and releases.
    let other = RaftLease::new(&bench.agents[2], "graph.db").unwrap();
    other.heartbeat(&by_id).await.unwrap();
    assert_eq!(other.token(&by_id), Some(first));
    let elsewhere = RaftLease::new(&bench.agents[2], "another.db").unwrap();
    elsewhere.heartbeat(&by_id).await.unwrap_err();
    assert_eq!(elsewhere.token(&by_id), None);
    other.release(guard).await.unwrap();
    other.heartbeat(&by_id).await.unwrap_err();
    let second = a.acquire().await.unwrap();
    assert!(lease.token(&second).unwrap() > first);
}

/// What becomes of the provider is no release: the writer has only its guard, and believes in that.
#[tokio::test]
async fn dropping_a_raft_provider_releases_nothing() {
    let (bench, a, b) = RaftBench::set_up().await;
    a.acquire().await.unwrap();
    drop(a);
    bench.pass(50).await;
    b.acquire().await.unwrap_err();
    bench.pass(100).await;
    b.acquire().await.unwrap();
}

#[tokio::test]
async fn a_write_lease_is_a_provider_itself() {
    let (_bench, a, _) = CustomBench::set_up().await;
    let nested = WriteLease::Custom(Box::new(a));
    let held = nested.provider().unwrap().acquire().await.unwrap();
    nested.release(held).await.unwrap();
}

#[tokio::test]
async fn a_kind_without_a_provider_says_what_to_do() {
    let lease = WriteLease::DynamoDB { table: "locks".into() };
    let error = lease.acquire().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }));
    let text = error.to_string();
    assert!(text.starts_with("WriteLease::DynamoDB (table \"locks\") is not available"), "{text}");
    assert!(text.contains("cargo feature `dynamodb`") && text.contains("WriteLease::Custom"), "{text}");
}

#[tokio::test]
async fn what_debug_prints() {
    assert_eq!(format!("{:?}", WriteLease::Local), "WriteLease::Local");
    let table = WriteLease::DynamoDB { table: "t".to_string() };
    assert_eq!(format!("{table:?}"), "WriteLease::DynamoDB { table: t }");
    assert_eq!(format!("{table:#?}"), "WriteLease::DynamoDB { table: t }");
    let (_bench, custom, _) = CustomBench::set_up().await;
    assert_eq!(format!("{custom:?}"), "WriteLease::Custom(...)");
    let guard = LeaseGuard { lease_id: "0123456789".into(), expires_at: chrono::DateTime::default() };
    assert_eq!(
        format!("{guard:?}"),
        r#"LeaseGuard { lease_id: "01234567…", expires_at: 1970-01-01T00:00:00Z }"#
    );
}

/// What a provider may fail with: an error of its own, one that is boxed already, or a message.
#[test]
fn a_foreign_error_passes_through() {
    fn io() -> Result<()> {
        std::fs::read("/no/such/file").map(|_| ()).map_err(Error::provider)
    }
    fn boxed() -> Result<()> {
        let parsed: Result<u8, Box<dyn std::error::Error + Send + Sync>> =
            "x".parse::<u8>().map_err(Into::into);
        parsed?;
        Ok(())
    }
    assert!(io().unwrap_err().to_string().starts_with("No such file"));
    assert_eq!(boxed().unwrap_err().to_string(), "invalid digit found in string");
    assert_eq!(Error::provider("held").to_string(), "held");
}

/// The interface can be used from any thread, behind any pointer.
#[test]
fn everything_is_send_and_sync() {
    fn is<T: Send + Sync + 'static>() {}
    is::<WriteLease>();
    is::<LeaseGuard>();
    is::<Error>();
    is::<Box<dyn WriteLeaseProvider>>();
    is::<leasehold::Fence>();
    is::<leasehold::LeaseLost>();
}
