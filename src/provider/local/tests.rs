use super::*;
use crate::{clock::ManualClock, provider::WriteLease};

const NS: Duration = Duration::from_nanos(1);

fn at(ms: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(ms)
}

/// A registry of its own, with a clock that is set by hand, and two leases in it.
fn registry() -> (Arc<ManualClock>, Arc<Registry>, [LocalLease; 2]) {
    let clock = Arc::new(ManualClock::at(at(1_000)));
    let registry = Arc::new(Registry::new(Arc::clone(&clock) as _));
    let leases = ["graph.db", "orders.db"].map(|name| LocalLease::of(&registry, Name::new(name).unwrap()));
    (clock, registry, leases)
}

#[tokio::test]
async fn it_is_over_at_its_deadline_and_not_a_nanosecond_before() {
    let (clock, _, [graph, _]) = registry();
    let first = graph.acquire().await.unwrap();
    clock.set(at(11_000) - NS);
    graph.acquire().await.unwrap_err();
    assert!(graph.token(&first).is_some());
    clock.advance(NS);
    assert_eq!(graph.token(&first), None);
    graph.heartbeat(&first).await.unwrap_err();
    graph.acquire().await.unwrap();
}

#[tokio::test]
async fn a_heartbeat_counts_from_its_arrival_and_for_the_whole_ttl() {
    let (clock, _, [graph, _]) = registry();
    let guard = graph.acquire().await.unwrap();
    clock.set(at(4_000));
    // The ttl is the grant's, whatever the value has that brings the heartbeat.
    graph.clone().ttl(Duration::from_secs(1)).heartbeat(&guard).await.unwrap();
    clock.set(at(14_000) - NS);
    graph.heartbeat(&guard).await.unwrap();
    // A clock that goes back shortens nothing.
    clock.set(at(5_000));
    graph.heartbeat(&guard).await.unwrap();
    clock.set(at(24_000) - NS - NS);
    graph.acquire().await.unwrap_err();
    clock.advance(NS);
    graph.acquire().await.unwrap();
}

#[tokio::test]
async fn tokens_rise_over_all_names_and_are_found_by_the_lease_id() {
    let (clock, registry, [graph, orders]) = registry();
    let mut last = Token::new(0);
    for _ in 0..3 {
        for lease in [&graph, &orders] {
            let guard = lease.acquire().await.unwrap();
            let token = lease.token(&guard).unwrap();
            assert!(token > last);
            last = token;
            lease.release(guard).await.unwrap();
        }
    }
    let guard = graph.acquire().await.unwrap();
    assert_eq!(orders.token(&guard), None, "another name's");
    orders.release(guard.clone()).await.unwrap();
    assert!(graph.token(&guard).is_some(), "nor does the other release it");
    clock.advance(TTL);
    drop(orders.acquire().await.unwrap());
    assert_eq!(registry.lock().held.len(), 1, "what is over takes no room");
}

/// A process that starts later grants larger tokens.
#[test]
fn tokens_begin_where_a_cluster_founded_now_would() {
    let floor = Token::floor_of_founding(clock::wall_unix_ms());
    let (_, registry, _) = registry();
    assert!(registry.lock().last >= floor);
}

#[tokio::test]
async fn the_second_writer_is_told_who_holds_it() {
    let (_, _, [graph, _]) = registry();
    let guard = graph.acquire().await.unwrap();
    let Err(Error::Acquire(AcquireError::Held { name, holder })) = graph.acquire().await else {
        panic!("two were granted")
    };
    assert_eq!((&name, Some(holder.token)), (graph.name(), graph.token(&guard)));
    assert_eq!((holder.agent.as_str(), holder.ttl), ("this process", TTL));
}

#[tokio::test]
async fn what_can_not_be_granted_is_refused() {
    let (_, registry, [graph, _]) = registry();
    for ttl in [Duration::ZERO, TTL_MIN - NS, TTL_MAX + NS] {
        let error = graph.clone().ttl(ttl).acquire().await.unwrap_err();
        assert!(error.to_string().contains("give it 1ms to 86400s"), "{error}");
    }
    assert!(LocalLease::new("a\nb").is_err());
    registry.lock().last = Token::new(u64::MAX);
    let error = graph.acquire().await.unwrap_err();
    assert!(error.to_string().contains("used up"), "{error}");
}

/// The unit variant and a value for its name compete for one lease.
#[tokio::test]
async fn the_unit_variant_is_the_lease_on_the_default_name() {
    let named = LocalLease::new(LocalLease::DEFAULT_NAME).unwrap();
    let unit = WriteLease::default();
    let guard = unit.acquire().await.unwrap();
    named.acquire().await.unwrap_err();
    LocalLease::default().acquire().await.unwrap_err();
    assert!(unit.token(&guard).is_some() && unit.token(&guard) == named.token(&guard));
    named.release(guard).await.unwrap();
    let other = LocalLease::new("another").unwrap();
    let guard = other.acquire().await.unwrap();
    assert_eq!(unit.token(&guard), None, "another name's");
    let custom = WriteLease::Custom(Box::new(other.clone()));
    assert!(custom.token(&guard).is_some() && custom.token(&guard) == other.token(&guard));
    other.release(guard).await.unwrap();
}
