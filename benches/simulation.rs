//! How fast a simulation is: simulated seconds in one second of a core's time, so that a busy machine makes no difference.
//!
//! `cargo bench --bench simulation --features chaos`; `-- --quick` for shorter runs. Each row is a cluster with the default
//! timing (a heartbeat of 100 ms), the median of some seeds.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark tells people, and gives up at the first fault"
)]

use std::time::Duration;

use leasehold::chaos::{Fault, Faults, Sim, SimBuilder, Weather, workload};

const SEEDS: u64 = 5;
const S: Duration = Duration::from_secs(1);

/// Clients beside every agent, which acquire, hold for a moment and release.
fn clients(sim: &Sim, each: usize) {
    for agent in 0..sim.agents() {
        for client in 0..each {
            let ours = sim.clone();
            drop(sim.on(agent, async move {
                loop {
                    let name = format!("name-{}", client % 4);
                    let handle = ours.up(agent).await;
                    if let Ok(lease) = handle.lease(&name).queue_behind_own().acquire().await {
                        ours.sleep(ours.random_span(S / 100, S / 10)).await;
                        drop(lease.release().await);
                    }
                    ours.sleep(ours.random_span(S / 100, S / 10)).await;
                }
            }));
        }
    }
}

async fn idle(sim: Sim, span: Duration) {
    sim.sleep(span).await;
}

async fn busy(sim: Sim, span: Duration) {
    clients(&sim, 4);
    sim.sleep(span).await;
}

/// An agent crashes or is cut off every few seconds, and comes back.
async fn faulty(sim: Sim, span: Duration) {
    clients(&sim, 4);
    let end = sim.now() + span;
    while sim.now() < end {
        let agent = sim.random_below(sim.agents() as u64) as usize;
        sim.fault(if sim.random_below(2) == 0 { Fault::Crash(agent) } else { Fault::Isolate(agent) });
        sim.sleep(sim.random_span(S, 3 * S)).await;
        sim.fault(Fault::HealAll);
        if sim.agent(agent).is_none() {
            sim.fault(Fault::Restart(agent));
        }
        sim.sleep(sim.random_span(S, 3 * S)).await;
    }
}

/// Clients that try everything, among faults of all kinds; a little longer than the span, since it ends with a probe.
async fn swarm(sim: Sim, _: Duration) {
    workload::leases(sim).await;
}

/// The time that this thread has had on a core, in seconds.
fn core_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn row<Fut: Future<Output = ()>>(
    what: &str,
    span: Duration,
    builder: impl Fn() -> SimBuilder,
    script: fn(Sim, Duration) -> Fut,
) {
    let mut runs: Vec<(f64, f64, f64)> = (0..SEEDS)
        .map(|seed| {
            let began = core_seconds();
            let report = builder().seed(seed).run(|sim| script(sim, span)).expect("the run ends well");
            let simulated = report.simulated.as_secs_f64();
            let per_second = |count: u64| count as f64 / simulated;
            (simulated / (core_seconds() - began), per_second(report.trace.count), per_second(report.polls))
        })
        .collect();
    runs.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (speed, events, polls) = runs[runs.len() / 2];
    println!("| {what:<46} | {speed:>7.0} | {events:>6.0} | {polls:>6.0} |");
}

fn main() {
    let span = if std::env::args().any(|arg| arg == "--quick") { 20 * S } else { 200 * S };
    println!("| {:<46} | times real | events/s | polls/s |", "simulated");
    println!("| {:-<46} | ------- | ------ | ------ |", "");
    let calm = |agents| move || Sim::builder().agents(agents);
    let rough = || Sim::builder().agents(5).weather(Weather::rough());
    row("3 agents, idle", span, calm(3), idle);
    row("5 agents, idle", span, calm(5), idle);
    row("5 agents, 20 clients", span, calm(5), busy);
    row("5 agents, 20 clients, rough network", span, rough, busy);
    row("5 agents, 20 clients, rough network, faults", span, rough, faulty);
    let swarmed = || workload::cluster(0, 5, Faults::swarm()).span(span);
    row("5 agents, 15 clients, swarm faults", span, swarmed, swarm);
}
