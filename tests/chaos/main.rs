//! Try.
use leasehold::chaos::Sim;
use std::time::Duration;

#[test]
fn it_runs() {
    tracing_subscriber::fmt().with_env_filter("leasehold=debug").with_target(false).without_time().init();
    let report = Sim::builder().seed(7).agents(3).run(|sim| async move {
        let lease = sim.up(0).await.acquire("orders.db").await.unwrap();
        for _ in 0..30 {
            sim.sleep(Duration::from_secs(1)).await;
            if let Err(lost) = lease.check() {
                sim.note(format!("{lost}"));
                break;
            }
        }
    });
    match report {
        Ok(report) => {
            println!(
                "{} events {} polls {:?} hash {:x}",
                report.trace.count, report.polls, report.simulated, report.trace.hash
            );
            print!("{}", report.trace);
        }
        Err(error) => {
            print!("{}", error.trace);
            panic!("{error}");
        }
    }
}
