//! End to end: three agents, beside the floor of the machine that they run on, beside what was to be reached.
//!
//! `cargo bench --bench cluster` measures everything in one run and prints one table. `-- --quick` is shorter and
//! rougher, `-- NAME…` measures only the groups whose name contains one of these (see [`GROUPS`]), `-- --long` writes
//! the full million pairs for the size of the data directory.
//!
//! Latency and throughput: three agents on one runtime in this process, over loopback TCP; so the numbers are of all
//! three agents' and the clients' work on this machine's cores together. Leaders killed, idle cost and memory: three
//! processes.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark runs in real time, tells people, and gives up at the first fault"
)]

mod floor;
mod local;
mod members;
mod process;
mod report;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use local::Local;
use process::Processes;
use report::{Report, Samples};

/// What can be measured alone.
const GROUPS: [&str; 10] =
    ["durable", "memory", "kill", "expiry", "idle", "held", "disk", "observers", "crowd", "away"];

/// How thoroughly.
struct Options {
    quick: bool,
    long: bool,
    names: Vec<String>,
}

impl Options {
    fn wants(&self, group: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| group.contains(name.as_str()))
    }

    fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// How long one measurement of a rate or a latency takes.
    fn span(&self) -> Duration {
        self.pick(Duration::from_secs(1), Duration::from_secs(3))
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == process::CHILD) {
        return process::child(&args[1..]);
    }
    let options = Options {
        quick: args.iter().any(|arg| arg == "--quick"),
        long: args.iter().any(|arg| arg == "--long"),
        names: args.iter().filter(|arg| !arg.starts_with("--")).cloned().collect(),
    };
    if let Some(unknown) =
        options.names.iter().find(|name| !GROUPS.iter().any(|group| group.contains(name.as_str())))
    {
        eprintln!("nothing is called {unknown}; there are {}", GROUPS.join(", "));
        std::process::exit(2);
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on this disk");
    let mut report = Report::default();
    println!("cores: {}, {}", std::thread::available_parallelism().map_or(0, usize::from), load());

    let round_trip = floor::round_trip(options.span() / 2);
    report.note("loopback TCP round trip, p50 / p99", ms_pair(&round_trip));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for durable in [true, false] {
        if options.wants(if durable { "durable" } else { "memory" }) {
            let folder = folder.path();
            runtime.block_on(local_cluster(&options, folder, durable, &mut report));
        }
    }
    if options.wants("expiry") {
        runtime.block_on(expiry(&options, &mut report));
    }
    if options.wants("kill") {
        kills(&options, folder.path(), &mut report);
    }
    if options.wants("idle") {
        idle(&options, folder.path(), &mut report);
    }
    if options.wants("held") {
        held(&options, folder.path(), &mut report);
    }
    if options.wants("disk") {
        runtime.block_on(disk(&options, folder.path(), &mut report));
    }
    if options.wants("observers") {
        runtime.block_on(members::observers(&options, folder.path(), &mut report));
    }
    if options.wants("crowd") {
        runtime.block_on(members::crowd(&options, folder.path(), &mut report));
    }
    if options.wants("away") {
        runtime.block_on(members::away(&options, folder.path(), &mut report));
    }
    println!("at the end: {}", load());
    report.print();
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load average {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn ms_pair(samples: &Samples) -> String {
    format!("{:.3} / {:.3} ms", samples.p50(), samples.p99())
}

/// The median of several rates, with the smallest and the largest.
fn rates(samples: &Samples) -> String {
    let (least, most) = samples.range();
    format!("{:.0} /s ({least:.0}–{most:.0})", samples.p50())
}

/// Latency and throughput.
async fn local_cluster(options: &Options, folder: &Path, durable: bool, report: &mut Report) {
    let kind = if durable { "durable" } else { "memory" };
    let folder = folder.join(kind);
    std::fs::create_dir_all(&folder).expect("a folder");
    let cluster = Local::start(durable.then_some(folder.as_path())).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let (span, rounds) = (options.span(), options.pick(1, 3));

    // The floor before and after each look at the latency, so that both see the same machine.
    let mut floor = Samples::default();
    let (mut at_leader, mut at_follower) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        if durable {
            tokio::task::block_in_place(|| floor::append_and_sync(&folder, span / 3, &mut floor));
        }
        at_leader.push(local::alone(&leader, span).await);
        if durable {
            tokio::task::block_in_place(|| floor::append_and_sync(&folder, span / 3, &mut floor));
        }
        at_follower.push(local::alone(&follower, span).await);
    }
    let here = Latency::of(&at_leader);
    if durable {
        let value = format!("{} (p10 {:.3})", ms_pair(&floor), floor.quantile(0.1));
        report.note("512-byte append + fdatasync, p50 / p99", value);
        let what = "durable: acquire at the leader, p50 / p99";
        let bar = 3.0 * floor.p50();
        report.at_most(what, here.acquire(), here.acquire_p50, bar, &format!("3 × the sync = {bar:.3} ms"));
        // On a busy machine the median of the sync is that of waiting for a core, and a bar made of it is too easy.
        let (p10, bar) = (here.acquire_p10, 3.0 * floor.quantile(0.1));
        let what = "durable: the same at the tenth percentile of both";
        report.at_most(what, format!("{p10:.3} ms"), p10, bar, &format!("3 × the sync = {bar:.3} ms"));
    } else {
        report.at_most(
            "memory: acquire at the leader, p50 / p99",
            here.acquire(),
            here.acquire_p50,
            0.25,
            "0.25 ms",
        );
    }
    report.note(&format!("{kind}: acquire + release at the leader, p50 / p99"), here.pair());
    let far = Latency::of(&at_follower);
    report.note(&format!("{kind}: acquire at a follower, p50 / p99"), far.acquire());
    report.note(&format!("{kind}: acquire + release at a follower, p50 / p99"), far.pair());
    let alone_per_second = 1_000.0 / here.pair_p50;

    let (mut few, mut many, mut far, mut handoffs, mut renewals, mut far_renewals) =
        <(Samples, Samples, Samples, Samples, Samples, Samples)>::default();
    let mut grown = 0;
    for _ in 0..rounds {
        few.add(local::pairs_per_second(&leader, 64, span).await);
        many.add(local::pairs_per_second(&leader, 512, span).await);
        far.add(local::pairs_per_second(&follower, 64, span).await);
        handoffs.add(local::handoffs_per_second(&cluster.agents, 8, span).await);
        let (rate, entries) = local::renewals_per_second(&leader, 64, span).await;
        renewals.add(rate);
        grown += entries;
        far_renewals.add(local::renewals_per_second(&follower, 64, span).await.0);
    }
    let what = format!("{kind}: pairs, 64 tasks at the leader");
    if durable {
        let bar = 12.0 * alone_per_second;
        report.at_least(&what, rates(&few), few.p50(), bar, &format!("12 × one client alone = {bar:.0} /s"));
    } else {
        report.note(&what, rates(&few));
    }
    report.note(&format!("{kind}: pairs, 512 tasks at the leader"), rates(&many));
    report.note(&format!("{kind}: pairs, 64 tasks at a follower"), rates(&far));
    report.note(&format!("{kind}: handoffs, 8 tasks on one name, all agents"), rates(&handoffs));
    let what = format!("{kind}: renewals, 64 tasks at the leader");
    if durable {
        let bar = 10.0 * few.p50();
        report.at_least(&what, rates(&renewals), renewals.p50(), bar, &format!("10 × pairs = {bar:.0} /s"));
    } else {
        report.note(&what, rates(&renewals));
    }
    report.note(&format!("{kind}: renewals, 64 tasks at a follower"), rates(&far_renewals));
    let what = format!("{kind}: log entries that the renewals at the leader added");
    report.at_most(&what, grown.to_string(), grown as f64, 0.0, "0");
    if !durable {
        let (one, two) = (local::check_ns(&leader, 1).await, local::check_ns(&leader, 2).await);
        report.at_most("check(), 1 thread", format!("{one:.0} ns"), one, 100.0, "100 ns");
        report.note("check(), 2 threads on 2 leases, the slower", format!("{two:.0} ns"));
    }
    cluster.stop().await;
}

/// What one client alone sees, in ms: the median of several looks.
struct Latency {
    acquire_p10: f64,
    acquire_p50: f64,
    acquire_p99: f64,
    pair_p50: f64,
    pair_p99: f64,
}

impl Latency {
    fn of(looks: &[local::Alone]) -> Self {
        let median = |of: &dyn Fn(&local::Alone) -> f64| {
            let mut each = Samples::default();
            looks.iter().for_each(|look| each.add(of(look)));
            each.p50()
        };
        Self {
            acquire_p10: median(&|look| look.acquire_ms.quantile(0.1)),
            acquire_p50: median(&|look| look.acquire_ms.p50()),
            acquire_p99: median(&|look| look.acquire_ms.p99()),
            pair_p50: median(&|look| look.pair_ms.p50()),
            pair_p99: median(&|look| look.pair_ms.p99()),
        }
    }

    /// With the tenth percentile: about what a machine shows that nobody else uses.
    fn acquire(&self) -> String {
        format!("{:.3} / {:.3} ms (p10 {:.3})", self.acquire_p50, self.acquire_p99, self.acquire_p10)
    }

    fn pair(&self) -> String {
        format!("{:.3} / {:.3} ms", self.pair_p50, self.pair_p99)
    }
}

/// Holders that are gone.
async fn expiry(options: &Options, report: &mut Report) {
    let cluster = Local::start(None).await;
    let samples = local::overshoots_ms(&cluster, options.pick(9, 45)).await;
    let value = format!("{:.0} / {:.0} ms ({} expiries)", samples.p50(), samples.p99(), samples.len());
    report.at_most("expiry overshoot, ttl 2 s, p50 / p99", value, samples.p50(), 100.0, "100 ms");
    cluster.stop().await;
}

/// Leaders that are killed.
fn kills(options: &Options, folder: &Path, report: &mut Report) {
    for (timing, bar_ms) in [("default", 1_200.0), ("fast_lan", 500.0)] {
        let folder = folder.join(format!("kill-{timing}"));
        let mut processes = Processes::start(Some(&folder), timing);
        let mut samples = Samples::default();
        for round in 0..options.pick(5, 15) {
            samples.add_ms(processes.kill_the_leader(round));
        }
        let (least, most) = samples.range();
        let value = format!("{:.0} ms ({least:.0}–{most:.0}, {} kills)", samples.p50(), samples.len());
        let what = format!("leader killed to next grant, durable, {timing}, p50");
        report.at_most(&what, value, samples.p50(), bar_ms, &format!("{bar_ms} ms"));
    }
}

/// Agents with nothing to do.
fn idle(options: &Options, folder: &Path, report: &mut Report) {
    for durable in [true, false] {
        let kind = if durable { "durable" } else { "memory" };
        let folder = folder.join("idle");
        let mut processes = Processes::start(durable.then_some(folder.as_path()), "default");
        std::thread::sleep(Duration::from_secs(2));
        let (began, before) = (Instant::now(), processes.usage());
        std::thread::sleep(options.pick(Duration::from_secs(5), Duration::from_secs(20)));
        let seconds = began.elapsed().as_secs_f64();
        for (at, (before, after)) in before.into_iter().zip(processes.usage()).take(2).enumerate() {
            let part = ["leader", "follower"][at];
            let percent = (after.cpu_seconds - before.cpu_seconds) / seconds * 100.0;
            let what = format!("idle {part}, {kind}: share of a core over {seconds:.0} s");
            report.at_most(&what, format!("{percent:.2} %"), percent, 1.5, "1.5 %");
            let (what, mib) = (format!("idle {part}, {kind}: resident"), after.resident_mib);
            report.at_most(&what, format!("{mib:.1} MiB"), mib, 40.0, "40 MiB");
        }
    }
}

/// Many leases: spread over the agents, and all at the one that leads as well.
fn held(options: &Options, folder: &Path, report: &mut Report) {
    let count = options.pick(20_000, 100_000);
    for spread in [true, false] {
        let by = if spread { "by all three" } else { "by the leader's agent" };
        let mut processes = Processes::start(Some(&folder.join(format!("held-{spread}"))), "default");
        let before = processes.usage();
        let began = Instant::now();
        processes.hold(count, spread);
        let rate = count as f64 / began.elapsed().as_secs_f64();
        std::thread::sleep(Duration::from_secs(5));
        let early = processes.usage();
        std::thread::sleep(Duration::from_secs(10));
        let late = processes.usage();
        for (at, part) in ["the leader", "a follower"].into_iter().enumerate() {
            let more = (late[at].resident_mib - before[at].resident_mib) * 100_000.0 / count as f64;
            let from = if count < 100_000 { format!(", EXTRAPOLATED from {count}") } else { String::new() };
            let what = format!("100,000 leases held {by}{from}: more resident, {part}");
            report.at_most(&what, format!("{more:.1} MiB"), more, 100.0, "100 MiB");
            let share = (late[at].cpu_seconds - early[at].cpu_seconds) / 10.0 * 100.0;
            let what = format!("{count} leases held and renewed {by}: share of a core, {part}");
            report.note(&what, format!("{share:.1} %"));
        }
        let intact = processes.intact();
        report.note(
            &format!("{count} leases {by}: acquired at, still held"),
            format!("{rate:.0} /s, {intact}"),
        );
    }
}

/// What many pairs leave on the disk.
async fn disk(options: &Options, folder: &Path, report: &mut Report) {
    const MILLION: usize = 1_000_000;
    const TASKS: usize = 512;
    let folder = folder.join("disk");
    std::fs::create_dir_all(&folder).expect("a folder");
    let cluster = Local::start(Some(&folder)).await;
    let leader = cluster.leader().await;
    let pairs = if options.long { MILLION } else { options.pick(20_000, 50_000) };
    let (began, mut done, mut half, mut peak) = (Instant::now(), 0, 0.0, 0.0_f64);
    const SLICES: usize = 10;
    for slice in 0..SLICES {
        done += local::pairs(&leader, TASKS, pairs / SLICES).await;
        let size = largest(&folder);
        peak = peak.max(size);
        if slice + 1 == SLICES / 2 {
            half = size;
        }
    }
    let (size, rate) = (largest(&folder), done as f64 / began.elapsed().as_secs_f64());
    report.note(
        &format!("data directory after {done} pairs (largest on the way), pairs"),
        format!("{size:.1} MiB ({peak:.1}), {rate:.0} /s"),
    );
    if options.long {
        report.at_most(
            "data directory after 1,000,000 pairs",
            format!("{size:.1} MiB"),
            size,
            256.0,
            "256 MiB",
        );
    } else {
        let slope = ((size - half) / (done as f64 / 2.0)).max(0.0);
        let far = size + slope * (MILLION - done) as f64;
        let what = format!("data directory after 1,000,000 pairs, EXTRAPOLATED from {done}");
        report.at_most(&what, format!("{far:.1} MiB"), far, 256.0, "256 MiB");
    }
    cluster.stop().await;
}

/// The largest of the three data directories, in MiB.
fn largest(folder: &Path) -> f64 {
    (0..3).map(|at| process::folder_mib(&folder.join(format!("agent-{at}")))).fold(0.0, f64::max)
}
