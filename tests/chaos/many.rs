//! Do two hundred agents work? Five vote, and the others observe.

use std::time::Duration;

use leasehold::{
    MemberRole,
    chaos::{Fault, Sim},
};

use crate::storm::{MS, S};

const VOTERS: usize = 5;
const AGENTS: usize = 200;

/// They join, hold, hand over, and bear that whoever leads dies.
#[test]
fn two_hundred_agents_hold_and_hand_over() {
    let cluster = Sim::builder().seed(1).agents(VOTERS).spares(AGENTS - VOTERS);
    let report = cluster.run(|sim| async move {
        for agent in VOTERS..AGENTS {
            sim.fault(Fault::Join { agent, observer: false });
            sim.sleep(5 * MS).await;
        }
        for agent in 0..AGENTS {
            sim.up(agent).await;
        }
        let joined = sim.now();
        let members = sim.up(7).await.members().await.unwrap();
        assert_eq!(members.len(), AGENTS);
        let votes = members.iter().filter(|member| member.role != MemberRole::Observer).count();
        assert_eq!(votes, VOTERS);
        // Each waits for the one before it, from one end to the other.
        let mut lease = sim.up(0).await.acquire("orders.db").await.unwrap();
        for agent in (10..AGENTS).step_by(10) {
            let waiter = sim.up(agent).await;
            let turn = sim.on(agent, async move { waiter.acquire("orders.db").await.unwrap() });
            sim.sleep(20 * MS).await;
            let before = lease.token();
            lease.release().await.unwrap();
            lease = turn.await.unwrap();
            assert!(lease.token() > before);
        }
        let leads = (0..VOTERS)
            .find(|agent| sim.agent(*agent).is_some_and(|agent| agent.status().role == MemberRole::Leader));
        sim.fault(Fault::Crash(leads.unwrap()));
        sim.sleep(3 * S).await;
        lease.check().unwrap();
        lease.release().await.unwrap();
        sim.up(AGENTS - 1).await.acquire("orders.db").await.unwrap();
        joined
    });
    let report = report.unwrap();
    assert!(report.value < Duration::from_secs(20), "{:?} until all had joined", report.value);
}
