//! Do members come, go and come back as they should? What a swarm has found in the product once, each by itself.

use leasehold::{
    MemberRole,
    chaos::{Fault, Sim},
};

use crate::storm::{MS, S};

fn leader(sim: &Sim, not: &[usize]) -> Option<usize> {
    let leads = |agent: &usize| {
        let role = sim.agent(*agent).map(|agent| agent.status().role);
        role == Some(MemberRole::Leader) && !not.contains(agent)
    };
    (0..sim.agents()).find(leads)
}

/// Whoever joins has no founders' list, and answered a founder that it has another one; so the founder gave up.
#[test]
fn a_founder_that_lost_its_disk_finds_the_cluster_among_agents_that_joined() {
    for seed in 0..5 {
        let ran = Sim::builder().seed(seed).agents(3).run(|sim| async move {
            for (agent, joins) in [(0, true), (1, false), (2, false)] {
                let before = sim.up(agent).await.status();
                sim.fault(Fault::Wipe { agent, joins });
                sim.sleep(S).await;
                sim.fault(Fault::Restart(agent));
                let after = sim.up(agent).await.status();
                assert_eq!(before.cluster, after.cluster);
                assert_ne!(before.node, after.node);
                // Its old self is replaced, and removed.
                sim.sleep(8 * S).await;
                let members = sim.up(agent).await.members().await.unwrap();
                assert_eq!(members.len(), 3, "{members:?}");
                assert!(members.iter().all(|member| member.role != MemberRole::Observer), "{members:?}");
            }
            sim.now()
        });
        assert!(ran.unwrap().value < 60 * S);
    }
}

/// A leader that stood still sends a message of its old term. To an agent that was removed meanwhile it was a sign that it
/// is a member still, and it waited for ever for more.
#[test]
fn an_agent_that_left_takes_no_word_of_a_deposed_leader_for_its_place() {
    for seed in 0..5 {
        let ran = Sim::builder().seed(seed).agents(5).run(|sim| async move {
            let deposed = leader(&sim, &[]).unwrap();
            sim.fault(Fault::Pause(deposed));
            let next = loop {
                sim.sleep(100 * MS).await;
                if let Some(next) = leader(&sim, &[deposed]) {
                    break next;
                }
            };
            sim.sleep(2 * S).await;
            let leaves = (0..5).find(|agent| ![deposed, next].contains(agent)).unwrap();
            let node = sim.up(leaves).await.status().node;
            sim.up(leaves).await.leave().await.unwrap();
            sim.fault(Fault::Restart(leaves));
            sim.sleep(S).await;
            sim.fault(Fault::Resume(deposed));
            let began = sim.now();
            let back = sim.up(leaves).await;
            assert_eq!(back.status().node, node, "it is itself");
            let members = back.members().await.unwrap();
            assert!(members.iter().any(|member| member.node == node), "{members:?}");
            sim.now() - began
        });
        let took = ran.unwrap().value;
        assert!(took < 20 * S, "{took:?}");
    }
}
