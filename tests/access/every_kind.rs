//! What every kind of write lease must do behind an `Access`, written once. A kind is a [`World`]; one line of
//! `every_kind!` runs everything in it.

use std::{
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use leasehold::{
    Access, AccessError, AcquireError, Agent, Error, InProcessNetwork, LocalLease, LossReason, RaftLease,
    Timing, WriteGuard, WriteLease,
};
use tokio::sync::{Mutex, MutexGuard};

use crate::shelf::{Answer, Call, Shelf, soon};

/// How long a cluster may take to start, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// One resource, and two ways to it.
trait World: Sized + Send + Sync {
    /// How long a guard lives without a heartbeat.
    const TTL: Duration;
    fn set_up() -> impl Future<Output = (Self, WriteLease, WriteLease)> + Send;
}

/// The unit variant: one name for all tests of this process, so they take turns, and each closes what it acquired.
struct Local(#[expect(dead_code, reason = "held as long as the world")] MutexGuard<'static, ()>);

impl World for Local {
    const TTL: Duration = Duration::from_secs(10);

    async fn set_up() -> (Self, WriteLease, WriteLease) {
        static TURN: Mutex<()> = Mutex::const_new(());
        (Self(TURN.lock().await), WriteLease::Local, WriteLease::default())
    }
}

/// A name that no other test has.
struct Named;

impl World for Named {
    const TTL: Duration = Duration::from_secs(2);

    async fn set_up() -> (Self, WriteLease, WriteLease) {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let name = format!("graph-{}.db", NAMES.fetch_add(1, Ordering::SeqCst));
        let writer = || WriteLease::Custom(Box::new(LocalLease::new(&name).unwrap().ttl(Self::TTL)));
        (Self, writer(), writer())
    }
}

/// A provider from elsewhere.
struct Custom(Shelf);

impl World for Custom {
    const TTL: Duration = Duration::from_secs(2);

    async fn set_up() -> (Self, WriteLease, WriteLease) {
        let shelf = Shelf::with_ttl(Self::TTL);
        let (a, b) = (shelf.lease(), shelf.lease());
        (Self(shelf), a, b)
    }
}

/// Two agents of three.
struct Raft {
    network: InProcessNetwork,
    agents: Vec<Agent>,
}

impl World for Raft {
    const TTL: Duration = Duration::from_secs(2);

    async fn set_up() -> (Self, WriteLease, WriteLease) {
        let network = InProcessNetwork::new(1);
        let founders = ["a:1", "b:1", "c:1"];
        let start = |at: &&str| {
            Agent::builder(*at)
                .listen(*at)
                .founders(founders)
                .network(&network)
                .timing(Timing::fast_lan())
                .start_within(PATIENCE)
                .start()
        };
        let agents = futures_util::future::try_join_all(founders.iter().map(start)).await.unwrap();
        let writer = |agent| WriteLease::Raft(RaftLease::new(agent, "graph.db").unwrap().ttl(Self::TTL));
        let (a, b) = (writer(&agents[0]), writer(&agents[1]));
        (Self { network, agents }, a, b)
    }
}

/// Asks until it is granted, or fails the test.
async fn gets(access: &Access) -> WriteGuard {
    soon(async {
        loop {
            match access.write().await {
                Ok(guard) => return guard,
                Err(Error::Access(error)) => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
}

/// What every kind must do.
mod must {
    use super::*;

    async fn two<W: World>() -> (W, Access, Access) {
        let (world, a, b) = W::set_up().await;
        (world, Access::read_write(a), Access::read_write(b))
    }

    pub(crate) async fn let_one_write_at_a_time<W: World>() {
        let (_world, a, b) = two::<W>().await;
        let guard = soon(a.write()).await.unwrap();
        guard.check().unwrap();
        assert!(guard.remaining() > W::TTL / 2 && guard.remaining() < W::TTL, "{:?}", guard.remaining());
        let error = soon(b.write()).await.unwrap_err();
        assert!(!matches!(error, Error::Access(_)), "the provider says who: {error}");
        // The second guard of one access is its own fault.
        let error = soon(a.write()).await.unwrap_err();
        assert!(matches!(error, Error::Access(AccessError::AlreadyWriting)), "{error}");
        guard.check().unwrap();
        soon(guard.close()).await.unwrap();
        // Closed is released: no need to ask twice.
        let guard = soon(b.write()).await.unwrap();
        soon(a.write()).await.unwrap_err();
        guard.check().unwrap();
        soon(guard.close()).await.unwrap();
    }

    pub(crate) async fn keep_a_guard_beyond_its_ttl<W: World>() {
        let (_world, a, b) = two::<W>().await;
        let guard = soon(a.write()).await.unwrap();
        let kept = guard.guard(tokio::time::sleep(W::TTL * 13 / 10)).await;
        kept.unwrap();
        soon(b.write()).await.unwrap_err();
        guard.check().unwrap();
        soon(guard.close()).await.unwrap();
    }

    /// And the same access may write again at once.
    pub(crate) async fn release_a_dropped_guard<W: World>() {
        let (_world, a, b) = two::<W>().await;
        drop(soon(a.write()).await.unwrap());
        drop(soon(a.write()).await.unwrap());
        let guard = gets(&b).await;
        assert!(guard.remaining() > W::TTL / 2);
        soon(guard.close()).await.unwrap();
    }

    pub(crate) async fn end_its_guard_when_it_is_closed<W: World>() {
        let (_world, a, b) = two::<W>().await;
        let guard = soon(a.write()).await.unwrap();
        let waiting = guard.lost();
        soon(a.close()).await.unwrap();
        let lost = soon(waiting).await;
        assert_eq!(lost.reason, LossReason::AccessClosed);
        assert_eq!(guard.check(), Err(lost));
        soon(soon(b.write()).await.unwrap().close()).await.unwrap();
        soon(guard.close()).await.unwrap();
        let error = a.write().await.unwrap_err();
        assert!(matches!(error, Error::Access(AccessError::Closed)), "{error}");
    }

    pub(crate) async fn leave_its_guard_when_it_is_dropped<W: World>() {
        let (_world, a, b) = two::<W>().await;
        let guard = soon(a.write()).await.unwrap();
        drop(a);
        soon(b.write()).await.unwrap_err();
        guard.check().unwrap();
        soon(guard.close()).await.unwrap();
        soon(soon(b.write()).await.unwrap().close()).await.unwrap();
    }

    /// Larger each time, for kinds that have any.
    pub(crate) async fn have_tokens_that_rise<W: World>() {
        let (_world, a, b) = two::<W>().await;
        let mut last = None;
        for access in [&a, &b, &a, &b] {
            let guard = soon(access.write()).await.unwrap();
            assert!(guard.token() > last, "{:?} after {last:?}", guard.token());
            last = guard.token();
            soon(guard.close()).await.unwrap();
        }
    }

    /// A reader's access asks nobody, and whoever holds the lease holds up no reader.
    pub(crate) async fn never_stand_in_a_readers_way<W: World>() {
        let (_world, a, _) = two::<W>().await;
        let guard = soon(a.write()).await.unwrap();
        let reader = Access::read_only();
        assert!(reader.is_read_only() && !a.is_read_only());
        let error = reader.write().await.unwrap_err();
        assert!(matches!(error, Error::Access(AccessError::ReadOnly)), "{error}");
        reader.close().await.unwrap();
        soon(guard.close()).await.unwrap();
    }
}

macro_rules! every_kind {
    ($kind:ident, $world:ty: $($what:ident),*) => {
        mod $kind {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $what() {
                super::must::$what::<$world>().await;
            })*
        }
    };
}

macro_rules! every_must {
    ($kind:ident, $world:ty $(, $more:ident)*) => {
        every_kind!($kind, $world: let_one_write_at_a_time, keep_a_guard_beyond_its_ttl, release_a_dropped_guard,
            end_its_guard_when_it_is_closed, leave_its_guard_when_it_is_dropped, never_stand_in_a_readers_way
            $(, $more)*);
    };
}

every_must!(local_must, super::Local, have_tokens_that_rise);
every_must!(named_local_must, super::Named, have_tokens_that_rise);
every_must!(raft_must, super::Raft, have_tokens_that_rise);
every_must!(custom_must, super::Custom);

/// Cut off from the others, the writer stops before the next one begins; the reason and the token are the agent's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_cut_off_loses_its_guard_before_the_next_has_one() {
    let (world, a, b) = Raft::set_up().await;
    let (a, b) = (Access::read_write(a), Access::read_write(b));
    let old = soon(a.write()).await.unwrap();
    world.network.isolate("a:1");
    old.check().unwrap();
    let new = gets(&b).await;
    let lost = old.check().unwrap_err();
    assert_eq!(lost.reason, LossReason::ExpiredWithoutContact { ttl: Raft::TTL });
    assert_eq!(lost, old.lost().await);
    assert_eq!((lost.lease.as_str(), lost.token), ("WriteLease::Raft { name: graph.db }", old.token()));
    assert!(new.token() > old.token());
}

/// The same for a provider that is out of reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_out_of_its_providers_reach_loses_its_guard_before_the_next_has_one() {
    let (world, a, b) = Custom::set_up().await;
    let (a, b) = (Access::read_write(a), Access::read_write(b));
    let old = soon(a.write()).await.unwrap();
    world.0.heartbeats(Answer::Fails);
    let new = gets(&b).await;
    let lost = old.check().unwrap_err();
    assert!(matches!(lost.reason, LossReason::ExpiredWithoutContact { .. }), "{lost}");
    new.check().unwrap();
}

/// The date is read when it is here, and counts from before it was asked for: what that took is taken off twice.
#[tokio::test]
async fn what_the_answer_took_is_not_believed_in() {
    let (world, a, _) = Custom::set_up().await;
    let took = Duration::from_millis(600);
    world.0.acquires(Answer::LateBefore(took));
    let guard = Access::read_write(a).write().await.unwrap();
    assert!(guard.remaining() <= Custom::TTL - took, "{:?}", guard.remaining());
    // Nor does a heartbeat bring it back: the lease is no longer than its date left.
    world.0.heartbeats(Answer::LateAfter(Duration::ZERO));
    world.0.until(Call::HeartbeatDone, 1).await;
    world.0.heartbeats(Answer::Fails);
    soon(guard.lost()).await;
    assert!(world.0.is_held(), "the provider's own time came first");
}

/// What happens to an agent's lease is told through the guard as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_own_reasons_are_told() {
    let (world, a, b) = Raft::set_up().await;
    let guard = soon(Access::read_write(a).write()).await.unwrap();
    let Err(Error::Acquire(AcquireError::Held { holder, .. })) = Access::read_write(b).write().await else {
        panic!("two were granted")
    };
    assert_eq!((holder.agent.as_str(), Some(holder.token)), ("a:1", guard.token()));
    world.agents[0].shutdown().await;
    assert_eq!(soon(guard.lost()).await.reason, LossReason::AgentStopped);
}

/// A guard keeps its agent, when nobody else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_keeps_its_agent() {
    let (world, a, b) = Raft::set_up().await;
    let (a, b) = (Access::read_write(a), Access::read_write(b));
    let guard = soon(a.write()).await.unwrap();
    drop(a);
    let Raft { agents, network: _network } = world;
    let others = agents.into_iter().skip(1).collect::<Vec<_>>();
    guard.guard(tokio::time::sleep(Raft::TTL * 5 / 4)).await.unwrap();
    drop(guard);
    gets(&b).await.check().unwrap();
    futures_util::future::join_all(others.iter().map(Agent::shutdown)).await;
}

#[tokio::test]
async fn a_kind_without_a_provider_is_an_error_that_says_what_to_do() {
    let access = Access::read_write(WriteLease::DynamoDB { table: "locks".into() });
    for _ in 0..2 {
        let error = access.write().await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("`dynamodb`"), "{error}");
    }
    assert_eq!(format!("{access:?}"), "Access::ReadWrite(WriteLease::DynamoDB { table: locks })");
    assert_eq!(format!("{:?}", Access::read_only()), "Access::ReadOnly");
}

#[test]
fn everything_is_send_and_sync() {
    fn is<T: Send + Sync + 'static>() {}
    is::<Access>();
    is::<WriteGuard>();
    is::<leasehold::WriteLost>();
    is::<LocalLease>();
    fn is_send<T: Send>(_: T) {}
    let access = Access::read_only();
    is_send(access.write());
    is_send(access.close());
    is_send(WriteGuard::close);
}
