//! Would the checkers find the bugs that are easily made? Each is planted, one at a time, and has to be found.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use leasehold::{
    ChangeKind,
    chaos::{Episode, Failure, Faults, Flaw, Report, Sim, Trouble, Whom, workload},
};

use crate::{
    storm::{MS, S},
    swarm,
};

/// No flaw may take more seeds.
const SEEDS_MAX: u64 = 200;

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
        _ => Faults::swarm(),
    }
}

/// One run, under the faults in which this flaw is looked for; with it, or without.
fn run(seed: u64, flaw: Flaw, planted: bool) -> Result<(), Box<Failure>> {
    if flaw == Flaw::NoStallCompensation {
        return alone_and_stopped(seed, planted.then_some(flaw)).map(drop);
    }
    let mut cluster = swarm::cluster(seed, faults(flaw));
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
        drop(sim.on(0, async move { agent.lease("orders.db").ttl(2 * S).acquire().await.map(drop) }));
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

/// What finds a flaw must be the flaw.
#[test]
fn nothing_is_found_where_nothing_is_planted() {
    for flaw in [Flaw::LeaseRead, Flaw::ExpiryWithoutTerm, Flaw::NoStallCompensation] {
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

/// All of them, in a release build, for the table in ARCHITECTURE.md:
/// `LEASEHOLD_FLAWS=1 cargo test --release --features chaos --test chaos every_flaw -- --nocapture`.
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
