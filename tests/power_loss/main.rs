//! What was acknowledged survives a power cut (rule L9).
//!
//! A child process (this binary again) opens a store and calls it at random, from a seed; it tells on standard
//! output which calls were acknowledged. `shim.c`, preloaded into it, writes down every operation on its files, and
//! kills it before the n-th. `disk.rs` rebuilds from that what a disk may hold after the power went at that moment.
//! What the store finds there must be the state after *some prefix* of the calls that has every acknowledged one.
//! Then the next child goes on from what is left, so that recovery itself is cut as well.
//!
//! With the `fdatasync` taken out the same test must find a loss: a checker that can't is no evidence.

//!
//! A disk that fails, or is full, is the same question: one operation fails, those after it succeed again, and
//! nothing may be acknowledged from then on, whatever the later ones say.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test")]

mod disk;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use leasehold::test_support::{Found, Store};

use crate::disk::{Disk, Loss};

/// How many calls a child makes if it is let.
const CALLS: u64 = 400;
const CHILD: &str = "LEASEHOLD_POWER_LOSS_CHILD";

/// A small generator: the same seed, the same run.
pub(crate) struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// One call.
#[derive(Debug, Clone)]
enum Call {
    Append(Vec<(u64, Bytes)>),
    Vote(Bytes),
    Committed(Bytes),
    TruncateAfter(Option<u64>),
    Purge(u64, Bytes),
    Snapshot(Bytes, Bytes),
}

/// What a store holds, in the plainest form, and the calls that come next: parent and child compute the same.
struct Twin {
    state: Found,
    random: Random,
    number: u64,
}

impl Twin {
    fn new(state: Found, seed: u64) -> Self {
        Self { state, random: Random::new(seed), number: 0 }
    }

    fn text(&self) -> Bytes {
        Bytes::from(format!("call {} {:x}", self.number, self.random.0))
    }

    /// Chooses the next call and carries it out on the state.
    fn call(&mut self) -> Call {
        self.number += 1;
        let begin = self.state.purged.as_ref().map_or(0, |(upto, _)| upto + 1);
        let end = self.state.entries.last().map_or(begin, |(index, _)| index + 1);
        match self.random.below(40) {
            0..=25 => {
                let count = 1 + self.random.below(9);
                let mut entries = Vec::new();
                for index in end..end + count {
                    let size =
                        [20, 90, 300, 2_000, 14_000][[0, 0, 1, 1, 1, 2, 3, 4][self.random.below(8) as usize]];
                    let mut entry = format!("{index} {:x} ", self.random.next()).into_bytes();
                    entry.resize(size, self.random.next() as u8);
                    entries.push((index, Bytes::from(entry)));
                }
                self.state.entries.extend(entries.iter().cloned());
                Call::Append(entries)
            }
            26..=29 => {
                self.state.vote = Some(self.text());
                Call::Vote(self.text())
            }
            30..=33 => {
                self.state.committed = Some(self.text());
                Call::Committed(self.text())
            }
            34..=35 => {
                // Mostly a short way back, as a new leader does it.
                let back = self.random.below(12).min(end - begin);
                let after = if self.random.below(10) == 0 { begin } else { end - back };
                self.state.entries.retain(|(index, _)| *index < after);
                Call::TruncateAfter(after.checked_sub(1))
            }
            36..=38 => {
                let upto = begin + self.random.below((end - begin).max(1));
                self.state.purged = Some((upto, self.text()));
                self.state.entries.retain(|(index, _)| *index > upto);
                Call::Purge(upto, self.text())
            }
            _ => {
                let data = Bytes::from(vec![self.number as u8; self.random.below(40_000) as usize]);
                self.state.snapshot = Some((self.text(), data.clone()));
                Call::Snapshot(self.text(), data)
            }
        }
    }
}

/// The other side of [`Rig::run`]: does nothing unless it was started by it.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let seed = std::env::var("POWER_SEED").unwrap().parse().unwrap();
    let fdatasync = std::env::var("POWER_FDATASYNC").unwrap() == "true";
    let tell = |number: u64| writeln!(std::io::stdout(), "acknowledged {number}").unwrap();
    let run = async {
        let (store, found) = match Store::open(Path::new(&path), fdatasync) {
            Ok(opened) => opened,
            Err(error) => return println!("not opened: {error}"),
        };
        let mut twin = Twin::new(found, seed);
        let mut failed = false;
        for _ in 0..CALLS {
            let call = twin.call();
            let number = twin.number;
            let outcome = match call {
                // Not awaited: appends are in flight while other calls are made.
                Call::Append(entries) => {
                    let done = move |outcome: std::io::Result<()>| {
                        if outcome.is_ok() {
                            tell(number);
                        }
                    };
                    store.append(entries, done).await
                }
                Call::Committed(committed) => store.save_committed(committed).await,
                Call::Vote(vote) => store.save_vote(vote).await.map(|()| tell(number)),
                Call::TruncateAfter(last) => store.truncate_after(last).await.map(|()| tell(number)),
                Call::Purge(upto, mark) => store.purge(upto, mark).await.map(|()| tell(number)),
                Call::Snapshot(meta, data) => store.save_snapshot(meta, data).await.map(|()| tell(number)),
            };
            // The first error is final.
            assert!(outcome.is_err() || !failed, "call {number} succeeded after a failure");
            assert!(outcome.is_ok() || store.failed().is_some(), "{outcome:?}, and the store goes on");
            failed |= outcome.is_err();
        }
        let failed_before = store.failed().is_some();
        match store.close().await {
            Ok(()) => {
                assert!(!failed_before, "a failed store was closed as if it were well");
                tell(CALLS);
            }
            Err(error) => println!("failed: {error}"),
        }
    };
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run);
}

/// Killed when it is dropped: no process is left behind by a test that fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What happens to one child.
#[derive(Debug)]
struct Plan {
    /// The seed of its calls.
    calls: u64,
    /// The operation before which the power goes; 0 for after the last one.
    cut: u64,
    /// The operation that fails; 0 for none.
    fail: u64,
    errno: i32,
    loss: Loss,
    fdatasync: bool,
}

impl Plan {
    fn at_random(mode: Mode, random: &mut Random) -> Self {
        let calls = random.next();
        // All calls take about 500 operations. Often early, to hit the creation and the recovery; now and then
        // after the last one.
        let at = match random.below(10) {
            0..=2 => 1 + random.below(60),
            3..=8 => 1 + random.below(450),
            _ => 1 + random.below(900),
        };
        let (cut, fail) = if mode == Mode::FailingDisk { (0, at) } else { (at, 0) };
        let errno = if random.coin() { libc_errno::EIO } else { libc_errno::ENOSPC };
        let loss = [Loss::All, Loss::All, Loss::All, Loss::Half, Loss::Half, Loss::Half, Loss::None]
            [random.below(7) as usize];
        Self { calls, cut, fail, errno, loss, fdatasync: mode != Mode::NoFdatasync }
    }
}

/// On Linux.
mod libc_errno {
    pub(crate) const EIO: i32 = 5;
    pub(crate) const ENOSPC: i32 = 28;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    PowerCut,
    /// The bug, brought back.
    NoFdatasync,
    FailingDisk,
}

/// Where it all happens: a folder that is removed at the end, with the shim in it.
struct Rig {
    folder: tempfile::TempDir,
    shim: PathBuf,
}

impl Rig {
    /// `None` where there is no C compiler; loudly.
    fn new() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("leasehold-power-").tempdir().unwrap();
        let shim = folder.path().join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_loss/shim.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&shim, &source])
            .args(["-lpthread"])
            .status();
        match built {
            Ok(status) => {
                assert!(status.success(), "cc can't compile {source:?}");
                Some(Self { folder, shim })
            }
            Err(error) => {
                eprintln!(
                    "\n*** SKIPPED: the power-loss test needs a C compiler, and `cc` can't run: {error} ***\n"
                );
                None
            }
        }
    }

    /// Runs a child on `data` as the plan says. Returns the disk, and the last acknowledged call.
    fn run(&self, data: &Path, plan: &Plan) -> (Disk, u64) {
        let trace = self.folder.path().join("trace");
        let _ = fs::remove_file(&trace);
        let mut disk = Disk::scan(data);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, data)
            .env("POWER_SEED", plan.calls.to_string())
            .env("POWER_FDATASYNC", plan.fdatasync.to_string())
            .env("POWER_ROOT", data)
            .env("POWER_TRACE", &trace)
            .env("POWER_CUT", plan.cut.to_string())
            .env("POWER_FAIL", plan.fail.to_string())
            .env("POWER_ERRNO", plan.errno.to_string())
            .env("LD_PRELOAD", &self.shim)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        let mut acknowledged = 0;
        for line in BufReader::new(child.0.stdout.take().unwrap()).lines() {
            // The test harness writes to the same pipe, and the first line may follow its text.
            let line = line.unwrap();
            if let Some((_, number)) = line.split_once("acknowledged ") {
                let number = number.parse().unwrap();
                assert!(number >= acknowledged, "{number} was acknowledged after {acknowledged}");
                acknowledged = number;
            }
        }
        let status = child.0.wait().unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        assert!(status.success() || status.signal() == Some(9), "the child ended by itself: {status}");
        disk.replay(&fs::read(&trace).unwrap_or_default());
        (disk, acknowledged)
    }
}

/// What a store finds in a copy of `data`: the original stays as the cut left it.
fn look(data: &Path, copy: &Path) -> Result<Found, String> {
    Disk::scan(data).cut(Loss::None, &mut Random::new(0), copy);
    let (store, found) = Store::open(copy, true).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.close()).map_err(|error| error.to_string())?;
    fs::remove_dir_all(copy).unwrap();
    Ok(found)
}

/// The state that was found is that after some prefix of the calls, which has all that were acknowledged.
fn check(before: &Found, seed: u64, acknowledged: u64, found: &Found) -> Result<(), String> {
    let mut twin = Twin::new(before.clone(), seed);
    let mut snapshots = Vec::new();
    let mut same = false;
    loop {
        if twin.number >= acknowledged {
            let Found { vote, committed, purged, entries, snapshot } = &twin.state;
            // A snapshot is written beside the queue, so it may be ahead of it.
            snapshots.push(snapshot.clone());
            same |= (vote, committed, purged, entries)
                == (&found.vote, &found.committed, &found.purged, &found.entries);
        }
        if twin.number == CALLS {
            break;
        }
        twin.call();
    }
    if !snapshots.contains(&found.snapshot) {
        return Err("the snapshot is not one that was acknowledged, or written later".to_owned());
    }
    if !same {
        return Err(format!(
            "no state after {acknowledged} or more calls has vote {:?}, committed {:?}, purged {:?} and the {} entries to {:?}",
            found.vote,
            found.committed,
            found.purged,
            found.entries.len(),
            found.entries.last().map(|(index, _)| index)
        ));
    }
    Ok(())
}

/// What a series of cuts saw.
#[derive(Debug, Default)]
struct Seen {
    rounds: usize,
    acknowledged: u64,
    /// Before the first call was acknowledged.
    in_recovery: usize,
    /// After the last one was.
    to_the_end: usize,
}

/// Cuts the power of one directory, or fails its disk, again and again.
fn rounds(rig: &Rig, seed: u64, times: usize, mode: Mode, seen: &mut Seen) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut data = rig.folder.path().join(format!("{mode:?}-{seed}-0"));
    let copy = rig.folder.path().join("copy");
    fs::create_dir(&data).unwrap();
    let mut before = Found::default();
    for round in 1..=times {
        let plan = Plan::at_random(mode, &mut random);
        let (disk, acknowledged) = rig.run(&data, &plan);
        fs::remove_dir_all(&data).unwrap();
        data = rig.folder.path().join(format!("{mode:?}-{seed}-{round}"));
        disk.cut(plan.loss, &mut random, &data);
        let context = |error| format!("seed {seed}, round {round}, {plan:?}: {error}");
        let _ = fs::remove_dir_all(&copy);
        let found = look(&data, &copy).map_err(context)?;
        check(&before, plan.calls, acknowledged, &found).map_err(context)?;
        seen.rounds += 1;
        seen.acknowledged += acknowledged;
        seen.in_recovery += usize::from(acknowledged == 0);
        seen.to_the_end += usize::from(acknowledged == CALLS);
        before = found;
    }
    fs::remove_dir_all(&data).unwrap();
    Ok(())
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

const ROUNDS_PER_DIRECTORY: usize = 10;

/// `LEASEHOLD_POWER_CUTS` and `LEASEHOLD_POWER_SEED` choose how many, and which.
#[test]
fn nothing_that_was_acknowledged_is_lost() {
    let Some(rig) = Rig::new() else { return };
    let directories = number("LEASEHOLD_POWER_CUTS", 60).div_ceil(ROUNDS_PER_DIRECTORY as u64);
    let first = number("LEASEHOLD_POWER_SEED", 1);
    let mut seen = Seen::default();
    for seed in first..first + directories {
        if let Err(loss) = rounds(&rig, seed, ROUNDS_PER_DIRECTORY, Mode::PowerCut, &mut seen) {
            panic!("{loss}");
        }
    }
    println!("{seen:?}");
    // Otherwise it has shown little.
    assert!(seen.rounds >= 50 || directories < 5, "{seen:?}");
    assert!(seen.acknowledged as usize > 10 * seen.rounds && seen.in_recovery > 0, "{seen:?}");
}

/// The checker sees a loss when there is one.
#[test]
fn without_the_fdatasync_something_is_lost() {
    const SERIES: u64 = 10;
    let Some(rig) = Rig::new() else { return };
    let mut seen = Seen::default();
    let found = (1..=SERIES).find_map(|seed| rounds(&rig, seed, 4, Mode::NoFdatasync, &mut seen).err());
    println!("{seen:?}, then: {found:?}");
    assert!(found.is_some(), "{} cuts without fdatasync, and no loss was seen", seen.rounds);
}

#[test]
fn after_a_failed_operation_nothing_is_acknowledged() {
    let Some(rig) = Rig::new() else { return };
    let mut seen = Seen::default();
    for seed in 1..=number("LEASEHOLD_POWER_FAILURES", 30).div_ceil(ROUNDS_PER_DIRECTORY as u64) {
        if let Err(loss) = rounds(&rig, seed, ROUNDS_PER_DIRECTORY, Mode::FailingDisk, &mut seen) {
            panic!("{loss}");
        }
    }
    println!("{seen:?}");
    // Most failures came before the end, and most of those after the opening.
    assert!(seen.to_the_end * 2 < seen.rounds && seen.in_recovery * 2 < seen.rounds, "{seen:?}");
}
