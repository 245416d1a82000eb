//! Are the metrics there that the documentation lists, and do they tell what happens?

use std::{collections::BTreeMap, time::Duration};

use leasehold::{Agent, InProcessNetwork, Timing};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// Everything that was recorded since the last look, by name and labels; of a histogram how many values.
fn look(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let value = match value {
            DebugValue::Counter(value) => value as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(values) => values.len() as f64,
        };
        all.insert(format!("{}{{{}}}", key.name(), labels.join(",")), value);
    }
    all
}

#[tokio::test]
async fn a_leases_life_is_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().unwrap();
    let network = InProcessNetwork::new(1);
    let agent = Agent::builder("agent-a")
        .listen("127.0.0.1:7101")
        .founders(["127.0.0.1:7101"])
        .timing(Timing::fast_lan())
        .network(&network)
        .start()
        .await
        .unwrap();

    let lease = agent.lease("x").ttl(Duration::from_millis(900)).acquire().await.unwrap();
    let unkept = agent.lease("y").ttl(Duration::from_millis(500)).without_renewal().acquire().await.unwrap();
    agent.try_acquire("x").await.unwrap_err();
    unkept.lost().await;
    let seen = look(&snapshotter);
    assert_eq!(seen["leasehold_leader{agent=agent-a}"], 1.0);
    assert!(seen["leasehold_term{agent=agent-a}"] >= 1.0);
    assert_eq!(seen["leasehold_acquire_seconds{outcome=granted}"], 2.0);
    assert_eq!(seen["leasehold_acquire_seconds{outcome=held}"], 1.0);
    assert_eq!(seen["leasehold_held{}"], 2.0, "a lost lease is in hand until it is dropped");
    assert_eq!(seen["leasehold_ended_total{reason=expired_without_contact}"], 1.0);
    assert!(seen["leasehold_renewals_total{outcome=extended}"] >= 1.0);

    lease.release().await.unwrap();
    drop(unkept);
    let seen = look(&snapshotter);
    assert_eq!(seen["leasehold_held{}"], -2.0, "since the last look");
    assert_eq!(seen["leasehold_ended_total{reason=released}"], 1.0);
    agent.shutdown().await;
}
