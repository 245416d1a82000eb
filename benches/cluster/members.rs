//! Many observers, and a member that was away for so long that it takes a snapshot to come back.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::{
    Options, floor,
    local::{self, Local},
    ms_pair,
    report::{Report, Samples},
};

const VOTERS: usize = 5;
/// A snapshot is taken, and what is before it purged, after 20,000 entries; each pair has two.
const PAIRS_BEYOND_THE_PURGE: usize = 24_000;

/// Acquiring, with five voters, while nobody and while fifty observe.
pub(crate) async fn observers(options: &Options, folder: &Path, report: &mut Report) {
    let count = options.pick(10, 50);
    let span = options.span();
    for durable in [true, false] {
        let kind = if durable { "durable" } else { "memory" };
        let folder = folder.join(format!("observers-{kind}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut cluster = Local::start_of(VOTERS, durable.then_some(folder.as_path())).await;
        let leader = cluster.leader().await;
        let before = local::alone(&leader, span).await.acquire_ms;
        cluster.observed_by(count).await;
        let leader = cluster.leader().await;
        let mut sync = Samples::default();
        tokio::task::block_in_place(|| floor::append_and_sync(&folder, span / 3, &mut sync));
        let after = local::alone(&leader, span).await.acquire_ms;
        report.note(&format!("{kind}: acquire with {VOTERS} voters, p50 / p99"), ms_pair(&before));
        let (bar, text) = if durable {
            (3.0 * sync.p50(), format!("3 × the sync = {:.3} ms", 3.0 * sync.p50()))
        } else {
            (0.25, "0.25 ms".to_owned())
        };
        let what = format!("{kind}: the same with {count} observers");
        report.at_most(&what, ms_pair(&after), after.p50(), bar, &text);
        cluster.stop().await;
    }
}

/// Acquiring at another agent, while a crowd asks a follower for one name, all at once.
pub(crate) async fn crowd(options: &Options, folder: &Path, report: &mut Report) {
    let count = options.pick(5_000, 100_000);
    let folder = folder.join("crowd");
    std::fs::create_dir_all(&folder).expect("a folder");
    let cluster = Local::start(Some(&folder)).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let normal = local::alone(&leader, options.span()).await.acquire_ms;
    report.note("acquire alone, p50 / p99", ms_pair(&normal));
    let held = leader.acquire("bench/crowd").await.expect("a free name");
    let (term, done, began) = (leader.status().term, AtomicBool::new(false), Instant::now());
    let (meanwhile, mut waiting) =
        tokio::join!(local::alone_while(&leader, || !done.load(Ordering::Relaxed)), async {
            let waiting = local::waited_for(&follower, "bench/crowd", count).await;
            done.store(true, Ordering::Relaxed);
            waiting
        });
    let took = began.elapsed().as_secs_f64();
    report
        .note(&format!("until {count} who ask a follower at once are in the queue"), format!("{took:.2} s"));
    report.note("acquire meanwhile, p50 / p99", ms_pair(&meanwhile.acquire_ms));
    report.note("changes of leader meanwhile", format!("{}", leader.status().term - term));
    waiting.shutdown().await;
    drop(held);
    cluster.stop().await;
}

/// Acquiring while a member is away, and while it comes back by a snapshot, with many leases and as many waiters.
pub(crate) async fn away(options: &Options, folder: &Path, report: &mut Report) {
    let count = options.pick(5_000, 100_000);
    let folder = folder.join("away");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut cluster = Local::start(Some(&folder)).await;
    let leader = cluster.leader().await;
    let (_held, mut waiting) = local::held_and_waited_for(&leader, count).await;
    let normal = local::alone(&leader, options.span() * 2).await.acquire_ms;
    report.note(&format!("acquire with {count} leases and {count} waiters, p50 / p99"), ms_pair(&normal));

    let gone = cluster.follower().await;
    let at = cluster.agents.iter().position(|agent| agent.status().node == gone.status().node);
    let at = at.expect("it is one of them");
    gone.shutdown().await;
    cluster.agents.remove(at);
    // What one client sees while the others' pairs go by, snapshots and purges among them.
    let done = AtomicBool::new(false);
    let (compacting, ()) =
        tokio::join!(local::alone_while(&leader, || !done.load(Ordering::Relaxed)), async {
            local::pairs(&leader, 64, PAIRS_BEYOND_THE_PURGE).await;
            done.store(true, Ordering::Relaxed);
        });
    report.note("the same beside 64 tasks, one member away, p50 / p99", ms_pair(&compacting.acquire_ms));

    let began = Instant::now();
    let least = options.span() * 2;
    done.store(false, Ordering::Relaxed);
    let so = || !done.load(Ordering::Relaxed) || began.elapsed() < least;
    let (returning, (again, took)) = tokio::join!(local::alone_while(&leader, so), async {
        let again = cluster.restart(at).await;
        let target = leader.status().applied;
        while again.status().applied < target {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        done.store(true, Ordering::Relaxed);
        (again, began.elapsed())
    });
    let returning = returning.acquire_ms;
    report.note(
        "until a member that was away is there again, by a snapshot",
        format!("{:.2} s", took.as_secs_f64()),
    );
    let bar = 5.0 * normal.p99();
    report.at_most(
        "acquire meanwhile, p50 / p99",
        ms_pair(&returning),
        returning.p99(),
        bar,
        &format!("5 × its normal p99 = {bar:.3} ms"),
    );
    waiting.shutdown().await;
    cluster.agents.push(again);
    cluster.stop().await;
}
