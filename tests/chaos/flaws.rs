//! Would the checkers find the bugs that are easily made? Each is planted, one at a time, and has to be found.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use leasehold::{
    ChangeKind, MemberRole, Mode,
    chaos::{
        DiskFault, Episode, Failure, Fault, Faults, Flaw, Report, Sim, Trouble, Weather, Whom, workload,
    },
};

use crate::{
    storm::{MS, S},
    swarm,
};

/// No flaw may take more seeds.
pub(crate) const SEEDS_MAX: u64 = 200;

/// What goes wrong while it is looked for: the swarm, but for flaws that show only where several things come together that
/// a swarm seldom brings together.
fn faults(flaw: Flaw) -> Faults {
    let again = |every: Duration, episodes: &dyn Fn(Duration) -> Vec<Episode>| {
        let times = (0..).map(|round| every * round).take_while(|at| *at < 55 * S);
        Faults::these(times.flat_map(episodes))
    };
    match flaw {
        // The leader sleeps, and its clock for timers with it; it wakes and still hears nobody.
        Flaw::LeaseRead => again(5 * S, &|at| {
            vec![
                Episode::new(at, 3 * S, Trouble::Isolate(Whom::Leader)),
                Episode::new(at + MS, 2 * S, Trouble::Suspend(Whom::Leader)),
            ]
        }),
        // A leader is cut off for longer than any ttl, and leads again a little later.
        Flaw::ExpiryWithoutTerm => {
            again(9 * S, &|at| vec![Episode::new(at, 8 * S, Trouble::Isolate(Whom::Leader))])
        }
        // Answers are slow, and then there are none: a holder has its last one late, and nothing afterwards.
        Flaw::DeadlineFromReceipt => again(6 * S, &|at| {
            vec![
                Episode::new(at, 3 * S, Trouble::WeatherAround(Whom::Holder, slow())),
                Episode::new(at + 2 * S, 4 * S, Trouble::Isolate(Whom::Holder)),
            ]
        }),
        _ => Faults::swarm(),
    }
}

fn slow() -> Weather {
    Weather { delay: (100 * MS, 250 * MS), ..Weather::default() }
}

/// One run, under the faults in which this flaw is looked for; with it, or without.
pub(crate) fn run(seed: u64, flaw: Flaw, planted: bool) -> Result<(), Box<Failure>> {
    run_with(seed, flaw, planted, faults(flaw))
}

/// The same with the flaw, and of what goes wrong these episodes alone.
pub(crate) fn run_only(seed: u64, flaw: Flaw, only: &[usize]) -> Result<(), Box<Failure>> {
    run_with(seed, flaw, true, faults(flaw).only(only.iter().copied()))
}

fn run_with(seed: u64, flaw: Flaw, planted: bool, faults: Faults) -> Result<(), Box<Failure>> {
    if flaw == Flaw::NoStallCompensation {
        return alone_and_stopped(seed, planted.then_some(flaw)).map(drop);
    }
    if flaw == Flaw::RenewalAfterExpiry {
        return confirmed_late(seed, planted.then_some(flaw)).map(drop);
    }
    let mut cluster = swarm::cluster(seed, faults);
    if planted {
        cluster = cluster.flaw(flaw);
    }
    cluster.workload(workload::leases).run().map(drop)
}

/// Whoever leads alone is never out of doubt about its leadership, so that what it does after it stood still depends on its
/// stall compensation alone. A waiter beside it can't be renewed meanwhile, and must not lose its place by that.
fn alone_and_stopped(seed: u64, flaw: Option<Flaw>) -> Result<Report<()>, Box<Failure>> {
    let stops = Episode::new(10 * S, 5 * S, Trouble::Pause(Whom::Agent(0)));
    let mut cluster = Sim::builder().seed(seed).agents(1).faults(Faults::these([stops])).span(20 * S);
    if let Some(flaw) = flaw {
        cluster = cluster.flaw(flaw);
    }
    let trial = cluster.workload(|sim| async move {
        let agent = sim.up(0).await;
        let lease = agent.lease("orders.db").ttl(60 * S).acquire().await.unwrap();
        drop(sim.on(0, async move {
            agent.lease("orders.db").ttl(2 * S).queue_behind_own().acquire().await.map(drop)
        }));
        sim.mended().await;
        lease.release().await.unwrap();
        sim.sleep(S).await;
    });
    let left = |report: &Report<()>| {
        report.history.changes().any(|(_, _, changed)| matches!(changed.change.kind, ChangeKind::Left { .. }))
    };
    trial
        .check(move |report| if left(report) { Err("the waiter lost its place".to_owned()) } else { Ok(()) })
        .run()
}

/// A waiter is cut off when its turn comes, and comes back about when its lease is found to have run out; committing that takes
/// a while. Its confirming renewal may come in between, and must not count. Each seed has another moment.
fn confirmed_late(seed: u64, flaw: Option<Flaw>) -> Result<Report<()>, Box<Failure>> {
    const TTL: Duration = Duration::from_secs(2);
    let mut cluster = Sim::builder().seed(seed).agents(3).span(10 * S);
    if let Some(flaw) = flaw {
        cluster = cluster.flaw(flaw);
    }
    let trial = cluster.workload(move |sim| async move {
        (0..3).for_each(|agent| sim.fault(Fault::Disk { agent, fault: DiskFault::Slow(100) }));
        let leads =
            |agent: &usize| sim.agent(*agent).is_some_and(|agent| agent.status().role == MemberRole::Leader);
        let leader = (0..3).find(leads).unwrap_or(0);
        let waiter = (leader + 1) % 3;
        let lease = sim.up(leader).await.lease("orders.db").ttl(30 * S).acquire().await.unwrap();
        let (ours, handle) = (sim.clone(), sim.up(waiter).await);
        let waits = sim.on(waiter, async move {
            let Ok(lease) = handle.lease("orders.db").ttl(TTL).without_renewal().acquire().await else {
                return;
            };
            let lease = Arc::new(lease);
            let belief = ours.believes(waiter, &lease, Mode::Exclusive);
            let lost = lease.lost().await;
            ours.told(belief, lost.reason);
        });
        sim.sleep(2 * S).await;
        sim.fault(Fault::Isolate(waiter));
        lease.release().await.unwrap();
        sim.sleep(1_700 * MS + (seed % 100) as u32 * 5 * MS).await;
        sim.fault(Fault::Rejoin(waiter));
        let _ = waits.await;
        sim.mended().await;
    });
    trial.run()
}

/// What finds a flaw must be the flaw.
#[test]
fn nothing_is_found_where_nothing_is_planted() {
    for flaw in [
        Flaw::LeaseRead,
        Flaw::ExpiryWithoutTerm,
        Flaw::NoStallCompensation,
        Flaw::DeadlineFromReceipt,
        Flaw::RenewalAfterExpiry,
    ] {
        for seed in 0..4 {
            run(seed, flaw, false).unwrap();
        }
    }
}

/// The first seed with which the flaw is found, and by which rule.
fn found(flaw: Flaw) -> Option<(u64, String)> {
    (0..SEEDS_MAX).find_map(|seed| match catch_unwind(AssertUnwindSafe(|| run(seed, flaw, true))) {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => {
            let mut rules: Vec<_> = failure.violations.iter().map(|violation| violation.rule).collect();
            rules.dedup();
            rules.truncate(4);
            Some((seed, format!("{}: {}", rules.join(", "), failure.violations[0])))
        }
        Err(_) => Some((seed, "panicked".to_owned())),
    })
}

/// Those that a seed or two find.
#[test]
fn flaws_that_are_found_at_once() {
    for flaw in
        [Flaw::LastComeFirstServed, Flaw::WatchWithGap, Flaw::RevokeEndsAtOnce, Flaw::WallClockInApply]
    {
        let (seed, how) = found(flaw).unwrap_or_else(|| panic!("{flaw:?} is not found"));
        assert!(seed < 5, "{flaw:?} is found with seed {seed} only: {how}");
    }
}

/// All of them, as fast as it gets, for the table in ARCHITECTURE.md:
/// `LEASEHOLD_FLAWS=1 cargo test --profile soak --features chaos --test chaos every_flaw -- --nocapture`.
#[test]
fn every_flaw_is_found() {
    let Ok(asked) = std::env::var("LEASEHOLD_FLAWS") else { return };
    let mut missed = Vec::new();
    for flaw in Flaw::ALL {
        let name = format!("{flaw:?}");
        if asked != "1" && !asked.split(',').any(|asked| asked == name) {
            continue;
        }
        match found(flaw) {
            Some((seed, how)) => println!("| {name} | {} | {how} |", seed + 1),
            None => {
                println!("| {name} | not within {SEEDS_MAX} | |");
                missed.push(name);
            }
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}
