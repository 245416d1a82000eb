//! Try.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]
mod storm;

#[test]
fn it_storms() {
    let seeds = std::env::var("SEEDS").unwrap_or("0..10".into());
    let (a, b) = seeds.split_once("..").unwrap();
    for seed in a.parse::<u64>().unwrap()..b.parse().unwrap() {
        let t = std::time::Instant::now();
        let caught = std::panic::catch_unwind(|| storm::run(seed, std::time::Duration::from_secs(60)));
        match caught {
            Ok(report) => println!(
                "seed {seed} grants {} events {} polls {} {:?} hash {:016x} {:.0}x",
                report.value,
                report.trace.count,
                report.polls,
                report.simulated,
                report.trace.hash,
                report.simulated.as_secs_f64() / t.elapsed().as_secs_f64()
            ),
            Err(_) => println!("seed {seed} FAILED"),
        }
    }
}

#[test]
fn it_shows() {
    let Ok(seed) = std::env::var("SHOW") else { return };
    let report = storm::run(seed.parse().unwrap(), std::time::Duration::from_secs(60));
    print!("{}", report.trace);
}
