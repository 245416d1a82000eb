//! Is a run the same each time? Seeds are run in processes of their own, and the digests of what happened compared.

use std::{collections::BTreeMap, process::Command, time::Duration};

use leasehold::chaos::Trace;

use crate::{
    points,
    storm::{self, S},
};

/// Tells a child which seeds to run.
const SEEDS: &str = "LEASEHOLD_CHAOS_SEEDS";
const SPAN: Duration = Duration::from_secs(8);

fn hashes(seeds: &str) -> BTreeMap<u64, String> {
    let (first, end) = seeds.split_once("..").unwrap();
    let seeds = first.parse::<u64>().unwrap()..end.parse().unwrap();
    seeds
        .map(|seed| {
            let report = storm::run(seed, SPAN);
            let Trace { hash, count, .. } = report.trace;
            // Another run of the seed, with what happens at fault points.
            (seed, format!("{hash:016x} {count} {} and {}", report.polls, points::hash(seed)))
        })
        .collect()
}

/// What a child does; by itself it is no test.
#[test]
fn child() {
    let Ok(seeds) = std::env::var(SEEDS) else { return };
    for (seed, hash) in hashes(&seeds) {
        println!("seed {seed}: {hash}");
    }
}

/// Runs the seeds in another process.
fn in_a_child(seeds: &str) -> BTreeMap<u64, String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "replay::child", "--nocapture"])
        .env(SEEDS, seeds)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // The harness's own words stand before the first line.
    let lines = text.lines().filter_map(|line| line.split_once("seed ")?.1.split_once(": "));
    lines.map(|(seed, hash)| (seed.parse().unwrap(), hash.to_owned())).collect()
}

#[test]
fn twelve_seeds_are_the_same_runs_in_two_processes_and_no_two_are_alike() {
    let (one, other) = (in_a_child("0..12"), in_a_child("0..12"));
    assert_eq!(one.len(), 12, "{one:?}");
    assert_eq!(one, other);
    let mut hashes: Vec<&String> = one.values().collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 12, "{one:?}");
}

/// What looks on changes nothing, and neither does a runtime that happens to be there.
#[test]
fn neither_a_subscriber_nor_a_runtime_makes_a_difference() {
    let plain = hashes("1..3");
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(std::io::sink);
    assert_eq!(tracing::subscriber::with_default(subscriber.finish(), || hashes("1..3")), plain);
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    assert_eq!(tokio.block_on(async { hashes("1..3") }), plain);
    // Nor does the thread, nor how much it has done before.
    let elsewhere = std::thread::spawn(|| hashes("1..3")).join().unwrap();
    assert_eq!(elsewhere, plain);
}

/// Streams are apart: a script that rolls more dice of its own meets the same network and the same disks.
#[test]
fn other_dice_of_the_script_move_nobody_elses() {
    let founded = |rolls: u64| {
        let report = storm::stormy(7).run(|sim| async move {
            assert!((0..rolls).all(|_| sim.random_below(10) < 10));
            sim.sleep(10 * S).await;
        });
        report.unwrap().trace.hash
    };
    assert_eq!(founded(0), founded(100));
}
