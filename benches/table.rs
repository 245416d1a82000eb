//! What applying entries to the lease table costs by itself: no network, no disk, no consensus, one thread.
//!
//! `cargo bench --bench table --features test-support`; `-- --quick` for fewer rounds.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark runs in real time and tells people"
)]

use std::time::Instant;

use leasehold::test_support::TableBench;

fn main() {
    let rounds = if std::env::args().any(|arg| arg == "--quick") { 50_000 } else { 500_000 };
    println!(
        "| held beforehand | ns per pair | ns per handoff | ns per lookup | snapshot ms | snapshot MiB | restore ms |"
    );
    println!(
        "| --------------- | ----------- | -------------- | ------------- | ----------- | ------------ | ---------- |"
    );
    for held in [0, 1_000, 100_000] {
        let Some(mut table) = TableBench::new() else { return };
        table.hold(held);
        let pair = ns_each(rounds, || table.pair());
        table.queue(64);
        let handoff = ns_each(rounds, || table.handoff());
        let lookup = ns_each(rounds, || assert!(table.look_up(), "the holder is gone"));
        let began = Instant::now();
        let bytes = table.snapshot();
        let (snapshot, mib) = (began.elapsed().as_secs_f64() * 1e3, bytes.len() as f64 / 1024.0 / 1024.0);
        let began = Instant::now();
        let whole = TableBench::restores(&bytes);
        let restore = began.elapsed().as_secs_f64() * 1e3;
        assert!(whole, "the table's own snapshot is refused");
        println!(
            "| {held:15} | {pair:11.0} | {handoff:14.0} | {lookup:13.0} | {snapshot:11.2} | {mib:12.2} | {restore:10.2} |"
        );
    }
}

/// The median of ten blocks, so that one disturbance doesn't count.
fn ns_each(rounds: u32, mut once: impl FnMut()) -> f64 {
    let mut blocks: Vec<f64> = (0..10)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..rounds / 10 {
                once();
            }
            began.elapsed().as_secs_f64() * 1e9 / f64::from(rounds / 10)
        })
        .collect();
    blocks.sort_by(f64::total_cmp);
    blocks[5]
}
