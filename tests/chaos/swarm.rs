//! Do the rules hold, whatever goes wrong? Seeds by the hundred, each with faults of its own, under clients that try
//! everything; then the checkers of all rules.

use std::sync::Mutex;

use leasehold::chaos::{Failure, Faults, Report, SimBuilder, Tally, Trouble, seeds, workload};

use crate::{linearizable, storm::S};

const AGENTS: usize = 5;

/// A cluster of five. Each seed is for a minute of simulated time, and what it takes to settle.
pub(crate) fn cluster(seed: u64, faults: Faults) -> SimBuilder {
    workload::cluster(seed, AGENTS, faults)
}

/// Most are within what the rules assume.
fn faults(seed: u64) -> Faults {
    if seed % 8 == 7 { Faults::beyond_the_drift_bound() } else { Faults::swarm() }
}

fn run(seed: u64) -> Result<Report<()>, Box<Failure>> {
    let trial = cluster(seed, faults(seed)).workload(workload::leases);
    trial.check(|report| linearizable::check(&report.history)).run()
}

/// Runs the seeds on two threads, since a run takes one core.
fn on_two_threads(range: std::ops::Range<u64>) -> Tally {
    let middle = range.start + (range.end - range.start) / 2;
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for half in [range.start..middle, middle..range.end] {
            scope.spawn(|| {
                let half = seeds(half, run).unwrap();
                tally.lock().unwrap().join(&half);
            });
        }
    });
    tally.into_inner().unwrap()
}

#[test]
fn every_rule_holds_whatever_goes_wrong() {
    let tally = on_two_threads(0..200);
    println!("{tally:#?}");
    assert_eq!(tally.never_reached(), [] as [&str; 0]);
}

/// Seeds that found something in the product or below it, with what it was.
///
/// - 96: entries that had been under way for long came in just before a snapshot that was sent later and went less far;
///   openraft 0.10.0-alpha.37 set its log's progress back, which panics with debug assertions
///   (`Receiver::has_already` in `src/raft/network.rs`).
/// - 1008: a renewal that a holder asked for was waited for longer than a third of the ttl when the holder's clock went back
///   meanwhile (`Attempts::left` in `src/lease/attempts.rs`), and until then nobody told the holder.
/// - 4901: a grant to a request that had been repeated for long was taken for a fresh one, by a clock that had gone back since
///   (`LeaseRequest::ask_until_answered`): only a grant to the one copy that there was counts from when that was sent.
/// - 6042: a disk that stalled went on stalling after everything had been mended; the bound of L6 was not the product's fault.
/// - 222, 228: a founder that came back after it had left waited to be founded before it asked to be listed, and for as long as
///   its clock had gone back (`Node::take_place`).
/// - 241: an agent that could not leave went on, and lost each lease in the moment in which it was granted.
/// - 554: a member left while a change of voters was half done, and the next one was decided upon as if all that vote in either
///   set voted (`Caretaker::alone`).
#[test]
fn seeds_that_found_something_once() {
    for seed in [96, 1008, 4901, 6042] {
        // As they were then: without what happens at fault points, and with a membership that stays, which came later.
        let faults = faults(seed).with_fixed_membership();
        let schedule = faults.schedule(seed, AGENTS, 60 * S);
        let as_before =
            schedule.iter().filter(|(_, episode)| !matches!(episode.trouble, Trouble::FaultPoints(_)));
        let faults = faults.only(as_before.map(|(number, _)| *number));
        cluster(seed, faults).fixed_membership().workload(workload::leases).run().unwrap();
    }
    for seed in [222, 228, 241, 554] {
        run(seed).unwrap();
    }
}

/// As many seeds as are asked for, as fast as it gets; it tells of each that fails and goes on:
/// `LEASEHOLD_SWARM=0..10000 cargo test --profile soak --features chaos --test chaos swarms -- --nocapture`.
#[test]
fn swarms() {
    let Ok(asked) = std::env::var("LEASEHOLD_SWARM") else { return };
    let leasehold::chaos::Seeds(range) = asked.parse().unwrap();
    let began = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (mut tally, mut failed) = (Tally::default(), Vec::new());
    for seed in range {
        match run(seed) {
            Ok(report) => tally.add(&report.history, report.simulated),
            Err(failure) => {
                println!("{failure}");
                if std::env::var_os("LEASEHOLD_TELL").is_some() {
                    failure.history.disturbances.iter().for_each(|disturbance| println!("{disturbance}"));
                    println!("{}", failure.trace);
                }
                failed.push(seed);
            }
        }
        if tally.seeds.is_multiple_of(500) {
            println!("{} seeds, {} failed", tally.seeds, failed.len());
        }
    }
    let ended = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = (ended.tv_sec - began.tv_sec) as f64 + (ended.tv_nsec - began.tv_nsec) as f64 / 1e9;
    println!("{tally:#?}");
    println!("never reached: {:?}", tally.never_reached());
    println!("{:.0} simulated seconds in one of a core's", tally.simulated.as_secs_f64() / seconds);
    assert!(failed.is_empty(), "{failed:?}");
}
