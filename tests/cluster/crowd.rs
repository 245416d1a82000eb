//! Many who ask at once, polled or not, and those who come beside them.

use std::time::Duration;

use futures_util::{FutureExt as _, future::join_all};
use leasehold::{AcquireError, limits::ACQUISITIONS_UNDER_WAY_MAX};

use crate::fixture::{Cluster, soon, until};

const CROWD: usize = 3 * ACQUISITIONS_UNDER_WAY_MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_gets_what_each_of_it_asks_for() {
    let mut cluster = Cluster::in_process(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.followers().await[0]);
    for n in [leader, follower] {
        let agent = &cluster.agents[n];
        let names: Vec<_> = (0..CROWD).map(|at| format!("{n}/{at}")).collect();
        let held = soon("all of them", join_all(names.iter().map(|name| agent.try_acquire(name)))).await;
        let held: Vec<_> = held.into_iter().map(Result::unwrap).collect();
        assert!(held.iter().all(|lease| lease.check().is_ok()));
        let others = &cluster.agents[follower];
        let refused =
            names.iter().map(|name| others.lease(name).wait_at_most(Duration::from_secs(10)).try_acquire());
        let refused = soon("all answers", join_all(refused)).await;
        assert!(refused.iter().all(|refused| matches!(refused, Err(AcquireError::Held { .. }))));
        soon("all releases", join_all(held.into_iter().map(leasehold::Lease::release))).await;
    }
    until("all to be free", || cluster.agents[leader].status().leases == 0).await;
    cluster.stop_all().await;
}

/// Futures that were polled once and are kept are in the way of nobody: not of who asks, holds or gives back at that agent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_and_is_not_polled_is_in_nobodys_way() {
    let mut cluster = Cluster::in_process(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.followers().await[0]);
    // However busy the machine is: what is looked at is who waits for whom.
    const TTL: Duration = Duration::from_secs(60);
    let held = cluster.agents[leader].lease("held").ttl(TTL).acquire().await.unwrap();
    for n in [leader, follower] {
        let agent = &cluster.agents[n];
        let kept = agent.lease(&format!("kept-{n}")).ttl(TTL).acquire().await.unwrap();
        let mut crowd: Vec<_> =
            (0..CROWD).map(|_| Box::pin(agent.lease("held").ttl(TTL).queue_behind_own().acquire())).collect();
        assert!(crowd.iter_mut().all(|asked| asked.as_mut().now_or_never().is_none()));
        let other = soon("a free name", agent.acquire(&format!("other-{n}"))).await.unwrap();
        soon("a release", other.release()).await.unwrap();
        soon("a renewal", kept.renew()).await.unwrap();
        assert!(kept.check().is_ok() && held.check().is_ok());
        soon("another release", kept.release()).await.unwrap();
        // Those who give up leave nothing behind.
        drop(crowd);
        until("nobody to wait", || cluster.agents[leader].status().waiters == 0).await;
    }
    held.release().await.unwrap();
    cluster.stop_all().await;
}
