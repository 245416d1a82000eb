//! What it costs: space, writes per second, the latency of one write. Small by default; for the real numbers:
//! `LEASEHOLD_STORAGE_PAIRS=1000000 cargo test --release --lib storage::tests::cost -- --nocapture`.

use std::{
    fs::{self, File},
    io::Write as _,
    time::Duration,
};

use super::*;
use crate::{Clock as _, SystemClock, time::Moment};

const TRAILING: u64 = 20_000;

fn folder_bytes(folder: &Path) -> u64 {
    let size = |item: io::Result<fs::DirEntry>| {
        let item = item.unwrap();
        let meta = item.metadata().unwrap();
        if meta.is_dir() { folder_bytes(&item.path()) } else { meta.len() }
    };
    fs::read_dir(folder).unwrap().map(size).sum()
}

fn since(start: Moment) -> Duration {
    SystemClock.now().since(start)
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() - 1) * percent / 100]
}

/// Purging gives its space back: the directory does not grow with what was ever written.
#[tokio::test]
async fn the_directory_stays_small() {
    let pairs: u64 =
        std::env::var("LEASEHOLD_STORAGE_PAIRS").ok().and_then(|pairs| pairs.parse().ok()).unwrap_or(20_000);
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path()).unwrap();
    let total = pairs * 2;
    let start = SystemClock.now();
    let (mut index, mut largest) = (0, 0);
    let mut slowest = Duration::ZERO;
    while index < total {
        // 64 tasks at once, each with an entry of 100 bytes.
        let before = SystemClock.now();
        let mut answers = Vec::new();
        for index in index..index + 64 {
            let (tell, told) = tokio::sync::oneshot::channel();
            let done = Box::new(move |outcome| drop(tell.send(outcome)));
            journal.append(vec![(index, Bytes::from(vec![index as u8; 100]))], done).await.unwrap();
            answers.push(told);
        }
        for told in answers {
            told.await.unwrap().unwrap();
        }
        slowest = slowest.max(since(before));
        index += 64;
        if index % 5_120 == 0 && index > TRAILING {
            journal.purge(index - TRAILING, bytes("mark")).await.unwrap();
            largest = largest.max(folder_bytes(folder.path()));
        }
    }
    let took = since(start);
    largest = largest.max(folder_bytes(folder.path()));
    journal.close().await.unwrap();
    let opening = SystemClock.now();
    let (journal, recovered) = open(folder.path()).unwrap();
    println!(
        "{index} entries: {:.1} MiB at most, {:.0} entries/s, slowest round {slowest:?}, reopened {} entries in {:?}",
        largest as f64 / 1048576.0,
        index as f64 / took.as_secs_f64(),
        recovered.entries.len(),
        since(opening),
    );
    assert!(largest <= 256 << 20, "{largest} bytes");
    journal.close().await.unwrap();
}

/// One durable append beside what the machine can do at best: 512 bytes and an fdatasync.
#[tokio::test]
async fn one_append_costs_little_more_than_its_sync() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path()).unwrap();
    let mut bare = File::create(folder.path().join("bare")).unwrap();
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for index in 0..300 {
        let start = SystemClock.now();
        bare.write_all(&[7; 512]).unwrap();
        bare.sync_data().unwrap();
        floor.push(since(start));
        let start = SystemClock.now();
        append(&journal, vec![(index, Bytes::from(vec![7; 512]))]).await.unwrap();
        ours.push(since(start));
    }
    for percent in [50, 99] {
        println!(
            "p{percent}: 512 bytes + fdatasync {:?}, durable append {:?}",
            percentile(&mut floor, percent),
            percentile(&mut ours, percent)
        );
    }
    journal.close().await.unwrap();
}
