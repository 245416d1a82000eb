//! Is what a failing seed takes found out? Flaws are planted, and the first seed that fails by each is shrunk.

use leasehold::{
    Clock as _, SystemClock,
    chaos::{Episode, Failure, Faults, Flaw, shrink, workload},
};

use crate::{flaws, storm::S, swarm};

/// A seed that fails by a flaw, and what was left of it.
struct Shrunk {
    failure: Box<Failure>,
    kept: Vec<usize>,
    runs: u32,
    again: Box<Failure>,
}

/// Shrinks the first seed that fails by the flaw, and runs what is left once more. Those that fail by a panic say less.
fn shrunk(flaw: Flaw) -> Shrunk {
    let failure = (0..flaws::SEEDS_MAX).find_map(|seed| flaws::run(seed, flaw, true).err()).unwrap();
    let mut runs = 0;
    let kept = shrink(&failure, |only| {
        runs += 1;
        flaws::run_only(failure.seed, flaw, only)
    });
    let again = flaws::run_only(failure.seed, flaw, &kept).unwrap_err();
    Shrunk { failure, kept, runs, again }
}

fn check(flaw: Flaw) -> Shrunk {
    let shrunk = shrunk(flaw);
    let rule = shrunk.failure.violations[0].rule;
    assert!(shrunk.again.violations.iter().any(|violation| violation.rule == rule), "{}", shrunk.again);
    // Nothing of it can be left out.
    for left_out in &shrunk.kept {
        let rest: Vec<usize> = shrunk.kept.iter().copied().filter(|number| number != left_out).collect();
        if let Err(failure) = flaws::run_only(shrunk.failure.seed, flaw, &rest) {
            assert!(failure.violations.iter().all(|violation| violation.rule != rule), "{flaw:?}: {rest:?}");
        }
    }
    // And it replays, to the bit.
    let once_more = flaws::run_only(shrunk.failure.seed, flaw, &shrunk.kept).unwrap_err();
    assert_eq!(once_more.trace.hash, shrunk.again.trace.hash);
    shrunk
}

#[test]
fn a_failing_seed_is_shrunk_to_what_it_takes() {
    let shrunk = check(Flaw::NoDriftMargin);
    assert!(shrunk.kept.len() <= 3 && shrunk.failure.schedule.len() > 10, "{:?}", shrunk.kept);
    // It takes no fault to find it: a revocation is enough.
    assert!(check(Flaw::RevokeEndsAtOnce).kept.is_empty());
}

/// What is left out changes nothing before its time, so that what comes after a failure can always be left out.
#[test]
fn until_the_first_that_is_left_out_it_is_the_same_run() {
    let span = 20 * S;
    let of = |seed| Faults::swarm().schedule(seed, 5, span);
    // What happens at fault points and to members stands last in a schedule, whenever it begins: a seed of which half is
    // left out, and none of it early.
    let left_out_from = |schedule: &[(usize, Episode)]| {
        schedule[schedule.len() / 2..].iter().map(|(_, episode)| episode.from).min()
    };
    let late = |seed: &u64| left_out_from(&of(*seed)).is_some_and(|from| from > span / 3);
    let seed = (3..).find(late).unwrap();
    let schedule = of(seed);
    let half = schedule.len() / 2;
    let run = |faults: Faults| {
        let report = swarm::cluster(seed, faults).span(span).workload(workload::leases).run().unwrap();
        report.history.applied
    };
    let (whole, part) = (run(Faults::swarm()), run(Faults::swarm().only(0..half)));
    let from = left_out_from(&schedule).unwrap();
    let before = whole.iter().filter(|applied| applied.at < from).count();
    assert!(before > 100 && part.len() > before, "{before}");
    let other = (0..before).find(|at| whole[*at] != part[*at]);
    assert!(
        other.is_none(),
        "seed {seed}: {:?} is {:?}",
        other.map(|at| &whole[at]),
        other.map(|at| &part[at])
    );
}

/// With as many flaws as are asked for, for the table in ARCHITECTURE.md:
/// `LEASEHOLD_FLAWS=1 cargo test --profile soak --features chaos --test chaos every_flaw_is_shrunk -- --nocapture`.
#[test]
fn every_flaw_is_shrunk() {
    if std::env::var_os("LEASEHOLD_FLAWS").is_none() {
        return;
    }
    for flaw in [
        Flaw::NoSync,
        Flaw::LeaderRestore,
        Flaw::LeaseRead,
        Flaw::AnswerBeforeQuorum,
        Flaw::DeadlineFromReceipt,
        Flaw::NoDriftMargin,
        Flaw::OldDeadlines,
        Flaw::ExpiryWithoutTerm,
        Flaw::SnapshotWithoutToken,
        Flaw::NoConfirmingRenewal,
        Flaw::LockDelayHalved,
        Flaw::HolderWithoutTimer,
    ] {
        let began = SystemClock.now();
        let Shrunk { failure, kept, runs, again } = check(flaw);
        let rules = |failure: &Failure| failure.violations.iter().map(|v| v.rule).collect::<Vec<_>>();
        println!(
            "| {flaw:?} | {} | {} | {} | {runs} | {:?} | {:?} | {:?}",
            failure.seed,
            failure.schedule.len(),
            kept.len(),
            SystemClock.now().since(began),
            rules(&failure).first(),
            rules(&again).first(),
        );
        for (number, episode) in failure.schedule.iter().filter(|(number, _)| kept.contains(number)) {
            println!("    #{number} {episode}");
        }
        if let Some(folder) = std::env::var_os("LEASEHOLD_PICTURES") {
            for (name, of) in [("whole", &failure), ("shrunk", &again)] {
                let page = leasehold::chaos::picture(&of.history, &of.violations, &format!("{flaw:?}"));
                std::fs::write(std::path::Path::new(&folder).join(format!("{flaw:?}-{name}.html")), page)
                    .unwrap();
            }
        }
    }
}
