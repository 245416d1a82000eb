//! Does a simulated cluster do what a real one does? To the moment: nothing here waits, and nothing is approximate.

use std::{rc::Rc, time::Duration};

use leasehold::{
    AcquireError, LossReason, MemberRole,
    chaos::{DiskFault, Event, Fault, Report, Sim, SimBuilder, Weather},
};

use crate::storm::{MS, S, Witness};

/// Few, since a debug build is ten times slower; `storm.rs` runs as many as it is asked for.
const SEEDS: std::ops::Range<u64> = 0..2;
/// The default.
const TTL: Duration = Duration::from_secs(10);

fn sim(seed: u64, agents: usize) -> SimBuilder {
    Sim::builder().seed(seed).agents(agents)
}

/// Runs the script for some seeds, on three agents and on five.
fn on_three_and_five<Fut: Future<Output = ()>>(script: impl Fn(Sim) -> Fut) {
    for seed in SEEDS {
        for agents in [3, 5] {
            sim(seed, agents).run(&script).unwrap();
        }
    }
}

/// The agent that leads, as soon as one does that these don't exclude.
async fn leader_beside(sim: &Sim, not: &[usize]) -> usize {
    loop {
        let leads = |agent: &usize| {
            sim.agent(*agent).is_some_and(|agent| {
                let status = agent.status();
                status.role == MemberRole::Leader && status.stopped.is_none()
            })
        };
        if let Some(leader) = (0..sim.agents()).filter(|agent| !not.contains(agent)).find(leads) {
            return leader;
        }
        sim.sleep(10 * MS).await;
    }
}

async fn leader(sim: &Sim) -> usize {
    leader_beside(sim, &[]).await
}

#[test]
fn a_lease_is_granted_renewed_and_released() {
    on_three_and_five(|sim| async move {
        for agent in [0, sim.agents() - 1] {
            let began = sim.now();
            let lease = sim.up(agent).await.acquire("orders.db").await.unwrap();
            assert!(sim.now() - began < S, "{:?}", sim.now() - began);
            sim.sleep(2 * TTL).await;
            lease.check().unwrap();
            let other = sim.up((agent + 1) % sim.agents()).await;
            assert!(matches!(other.try_acquire("orders.db").await, Err(AcquireError::Held { .. })));
            assert_eq!(other.holder("orders.db").await.unwrap().unwrap().token, lease.token());
            lease.release().await.unwrap();
            assert_eq!(other.holder("orders.db").await.unwrap(), None);
        }
    });
}

#[test]
fn a_holder_that_crashes_is_succeeded_within_the_bound() {
    on_three_and_five(|sim| async move {
        let leads = leader(&sim).await;
        let (holds, waits) = ((leads + 1) % sim.agents(), (leads + 2) % sim.agents());
        let lease = sim.up(holds).await.acquire("orders.db").await.unwrap();
        let token = lease.token();
        let waiter = sim.up(waits).await;
        let turn = sim.on(waits, async move { waiter.acquire("orders.db").await.unwrap().token() });
        sim.sleep(2 * TTL + 137 * MS).await;
        let crashed = sim.now();
        sim.fault(Fault::Crash(holds));
        assert!(turn.await.unwrap() > token);
        let took = sim.now() - crashed;
        // Since the last renewal, which was at most a third of the ttl before; one leader all the time.
        assert!(took > TTL / 2 && took < TTL + TTL / 50, "{took:?}");
        // Its own belief died with it.
        assert!(lease.check().is_err());
    });
}

#[test]
fn leases_outlive_their_leader_and_the_holder_notices_nothing() {
    on_three_and_five(|sim| async move {
        let mut leads = leader(&sim).await;
        let holds = (leads + 1) % sim.agents();
        let lease = sim.up(holds).await.acquire("orders.db").await.unwrap();
        // Until the holder leads itself.
        for _ in 0..2 {
            if leads == holds {
                break;
            }
            sim.fault(Fault::PowerLoss(leads));
            let began = sim.now();
            let next = leader_beside(&sim, &[leads]).await;
            assert!(sim.now() - began < 3 * S, "{:?}", sim.now() - began);
            sim.fault(Fault::Restart(leads));
            sim.sleep(2 * TTL).await;
            lease.check().unwrap();
            leads = next;
        }
    });
}

#[test]
fn power_loss_of_all_loses_nothing_that_was_acknowledged() {
    on_three_and_five(|sim| async move {
        let agents = sim.agents();
        let mut tokens = Vec::new();
        for round in 0..2 {
            let lease = sim.up(round % agents).await.acquire("orders.db").await.unwrap();
            tokens.push(lease.token());
            let other = sim.up((round + 1) % agents).await.lease("other.db").without_renewal();
            let other = other.acquire().await.unwrap();
            tokens.push(other.token());
            // At a moment that no two rounds share.
            sim.sleep(sim.random_span(Duration::ZERO, 50 * MS)).await;
            (0..agents).for_each(|agent| sim.fault(Fault::PowerLoss(agent)));
            drop((lease, other));
            sim.sleep(200 * MS).await;
            (0..agents).for_each(|agent| sim.fault(Fault::Restart(agent)));
            let reader = sim.up(agents - 1).await;
            let held = reader.holder("orders.db").await.unwrap().unwrap();
            assert_eq!(Some(&held.token), tokens.iter().rev().nth(1));
            // Whoever held it died with its process; the next one waits for its time to end.
            let next = reader.acquire("orders.db").await.unwrap();
            assert!(tokens.iter().all(|token| *token < next.token()));
            tokens.push(next.token());
            next.release().await.unwrap();
        }
    });
}

#[test]
fn a_holder_that_is_cut_off_stops_before_the_next_one_starts() {
    on_three_and_five(|sim| async move {
        let holds = leader(&sim).await;
        let witness = Witness::default();
        let lease = Rc::new(sim.up(holds).await.acquire("orders.db").await.unwrap());
        witness.saw(&sim, holds, &lease);
        sim.fault(Fault::Isolate(holds));
        let waits = (holds + 1) % sim.agents();
        let next = sim.on(waits, {
            let (sim, witness) = (sim.clone(), witness.clone());
            async move {
                let lease = Rc::new(sim.up(waits).await.acquire("orders.db").await.unwrap());
                witness.saw(&sim, waits, &lease);
                sim.sleep(TTL).await;
                lease.check().unwrap();
            }
        });
        let lost = lease.lost().await;
        assert!(matches!(lost.reason, LossReason::ExpiredWithoutContact { .. }), "{}", lost.reason);
        next.await.unwrap();
    });
}

#[test]
fn a_holder_that_was_stopped_finds_out_at_its_first_look() {
    on_three_and_five(|sim| async move {
        for stop in [Fault::Pause, Fault::Suspend] {
            let holds = (leader(&sim).await + 1) % sim.agents();
            let waits = (holds + 1) % sim.agents();
            let looks = sim.on(holds, {
                let sim = sim.clone();
                async move {
                    let lease = sim.up(holds).await.acquire("orders.db").await.unwrap();
                    let mut last = sim.clock(holds);
                    loop {
                        sim.sleep(10 * MS).await;
                        let now = sim.clock(holds);
                        // The first thing that it does after it stood still.
                        if now.since(last) > S {
                            return lease.check();
                        }
                        last = now;
                    }
                }
            });
            sim.sleep(S).await;
            sim.fault(stop(holds));
            let next = sim.up(waits).await.acquire("orders.db").await.unwrap();
            sim.fault(Fault::Resume(holds));
            assert!(looks.await.unwrap().is_err());
            next.release().await.unwrap();
        }
    });
}

#[test]
fn a_clock_that_goes_back_ends_a_lease_at_once() {
    on_three_and_five(|sim| async move {
        let holds = (leader(&sim).await + 1) % sim.agents();
        let lease = sim.up(holds).await.acquire("orders.db").await.unwrap();
        sim.sleep(S).await;
        lease.check().unwrap();
        sim.fault(Fault::ClockBack { agent: holds, by: MS });
        let lost = lease.check().unwrap_err();
        assert!(matches!(lost.reason, LossReason::ClockWentBack { .. }), "{}", lost.reason);
    });
}

#[test]
fn an_agent_whose_disk_fails_steps_down_and_comes_back_when_it_is_mended() {
    on_three_and_five(|sim| async move {
        let fails = leader(&sim).await;
        let holds = (fails + 1) % sim.agents();
        let lease = sim.up(holds).await.acquire("orders.db").await.unwrap();
        sim.fault(Fault::Disk { agent: fails, fault: DiskFault::Full(true) });
        // A write is needed for it to notice.
        let other = sim.up(holds).await.acquire("other.db").await.unwrap();
        let reason = sim.up(fails).await.stopped().await;
        assert!(reason.contains("full"), "{reason}");
        sim.sleep(TTL).await;
        assert!(lease.check().is_ok() && other.check().is_ok());
        sim.fault(Fault::Disk { agent: fails, fault: DiskFault::Heal });
        sim.fault(Fault::Restart(fails));
        sim.up(fails).await.acquire("third.db").await.unwrap();
    });
}

#[test]
fn an_agent_that_was_away_for_long_comes_back_by_a_snapshot() {
    for seed in SEEDS {
        let report: Report<usize> = sim(seed, 3)
            .snapshot_after(20, 5)
            .run(|sim| async move {
                let away = (leader(&sim).await + 1) % 3;
                sim.fault(Fault::Crash(away));
                let busy = sim.up(leader(&sim).await).await;
                for _ in 0..50 {
                    busy.acquire("orders.db").await.unwrap().release().await.unwrap();
                }
                let lease = busy.acquire("orders.db").await.unwrap();
                sim.fault(Fault::Restart(away));
                let back = sim.up(away).await;
                assert_eq!(back.holder("orders.db").await.unwrap().unwrap().token, lease.token());
                away
            })
            .unwrap();
        let installed = |(_, event): &(Duration, Event)| matches!(event, Event::Installed { agent, index } if *agent == report.value && *index > 40);
        assert!(report.trace.events.iter().any(installed), "seed {seed}");
    }
}

/// Founders crash, messages get lost: there is one cluster in the end, or none.
#[test]
fn founders_that_crash_found_one_cluster() {
    for seed in 0..10 {
        let builder = sim(seed, 3).weather(Weather { loss: 0.05, ..Weather::rough() }).unfounded();
        let clusters = builder.run(|sim| async move {
            (0..3).for_each(|agent| sim.fault(Fault::Restart(agent)));
            for _ in 0..6 {
                sim.sleep(sim.random_span(Duration::ZERO, 100 * MS)).await;
                let agent = sim.random_below(3) as usize;
                sim.fault(if sim.random_below(2) == 0 {
                    Fault::Crash(agent)
                } else {
                    Fault::PowerLoss(agent)
                });
                sim.sleep(sim.random_span(Duration::ZERO, 50 * MS)).await;
                sim.fault(Fault::Restart(agent));
            }
            let mut clusters = Vec::new();
            for agent in 0..3 {
                clusters.push(sim.up(agent).await.status().cluster);
            }
            sim.up(0).await.acquire("orders.db").await.unwrap();
            clusters
        });
        let clusters = clusters.unwrap().value;
        assert!(clusters.iter().all(|cluster| *cluster == clusters[0]), "{clusters:?}");
    }
}

/// Without this, what the others say of power loss would say nothing.
#[test]
fn disks_that_lie_are_found_out() {
    let noticed = (0..8).filter(|seed| {
        let ran = sim(*seed, 3).run(|sim| async move {
            (0..3).for_each(|agent| sim.fault(Fault::Disk { agent, fault: DiskFault::Lie(true) }));
            let token = sim.up(0).await.acquire("orders.db").await.unwrap().token();
            (0..3).for_each(|agent| sim.fault(Fault::PowerLoss(agent)));
            (0..3).for_each(|agent| sim.fault(Fault::Restart(agent)));
            let late = sim.sleep(30 * S);
            let again = async { sim.up(0).await.acquire("orders.db").await.unwrap().token() };
            let (late, again) = (std::pin::pin!(late), std::pin::pin!(again));
            match futures_util::future::select(again, late).await {
                futures_util::future::Either::Left((again, _)) => again <= token,
                // They can't go on at all.
                futures_util::future::Either::Right(_) => true,
            }
        });
        ran.map_or(true, |report| report.value)
    });
    // Of the others enough disks kept by chance what they had not synced.
    assert!((2..8).contains(&noticed.count()));
}
