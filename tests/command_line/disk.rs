//! A disk that is full, and one that can't be written any more: the agent steps down rather than answer what is not
//! durable, and works again when there is room.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
    process::Command,
    time::Duration,
};

use leasehold::{Client, limits::METADATA_BYTES_MAX};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Ended, Process, free_addresses, leasehold, until};

/// More grants than fit into what a store may have set aside for itself.
const MANY: usize = 20_000;

/// A small file system of its own. Unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, said loudly, where this user may not mount.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", "size=24m", "tmpfs"], dir.path());
        if !mounted {
            // Past the test harness, which shows what a test prints only when it fails.
            let _ = io::stderr().write_all(b"\n*** SKIPPED: disks that are full or read-only were NOT tested: mounting a tmpfs needs root ***\n");
        }
        mounted.then(|| Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut filler =
            OpenOptions::new().create(true).append(true).open(self.path().join("filler")).unwrap();
        for bytes in [1 << 20, 1 << 12, 1] {
            while filler.write_all(&vec![1; bytes]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    Command::new("mount").args(args).arg(at).output().is_ok_and(|output| output.status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

struct Alone {
    address: String,
    disk: SmallDisk,
}

impl Alone {
    fn command(&self) -> Command {
        let mut command =
            leasehold(&["agent", "--name", "a", "--listen", &self.address, "--founder", &self.address]);
        command.arg("--data-dir").arg(self.disk.path().join("data"));
        command
    }

    fn start(&self) -> Process {
        let agent = Process::start(&mut self.command());
        until("the agent", || agent.out().starts_with("ready ").then_some(()));
        agent
    }

    /// Takes the lease and gives it back, by way of the program; its token.
    fn token(&self) -> u64 {
        let script = "echo $LEASEHOLD_TOKEN";
        let args = ["run", "x", "--connect", &self.address, "--wait", "10s", "--", "sh", "-c", script];
        let ended = Process::start(&mut leasehold(&args)).ended();
        ended.out.trim().parse().unwrap_or_else(|_| panic!("{ended:?}"))
    }

    /// Takes leases with as much metadata as they can have until none is granted any more; the last token.
    ///
    /// A full disk is noticed when the store next grows its files, so it takes some.
    fn exhaust(&self) -> u64 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::builder("hog").agents([&self.address]).connect().await.unwrap();
            let mut last = 0;
            for at in 0..MANY {
                let wish = client
                    .lease(&format!("hog/{at}"))
                    .metadata(vec![0; METADATA_BYTES_MAX])
                    .without_renewal();
                match wish.wait_at_most(Duration::from_secs(2)).try_acquire().await {
                    Ok(lease) => last = lease.token().get(),
                    Err(_) => return last,
                }
            }
            panic!("{MANY} grants on a full disk");
        })
    }
}

#[test]
fn a_full_disk() {
    let Some(disk) = SmallDisk::mount() else { return };
    let [address] = free_addresses();
    let alone = Alone { address, disk };
    let agent = alone.start();
    let first = alone.token();
    alone.disk.fill();
    let last = alone.exhaust().max(first);
    let Ended { code, err, .. } = agent.ended();
    assert_eq!(code, 74, "{err}");
    let said = err.lines().last().unwrap_or_default();
    assert!(said.contains("has stepped down") && said.contains("storage failed"), "{said}");
    assert!(said.contains("No space left") && said.contains("start it again"), "{said}");

    alone.disk.make_room();
    let agent = alone.start();
    let again = alone.token();
    assert!(again > last, "{again} {last}");
    agent.signal(Signal::TERM);
    assert_eq!(agent.ended().code, 0);
}

#[test]
fn a_read_only_disk() {
    let Some(disk) = SmallDisk::mount() else { return };
    let [address] = free_addresses();
    let alone = Alone { address, disk };
    let agent = alone.start();
    let first = alone.token();
    agent.kill();
    assert!(mount(&["-o", "remount,ro"], alone.disk.path()));
    let ended = Process::start(&mut alone.command()).ended();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.err.contains("Read-only file system") && ended.err.contains("may write there"),
        "{}",
        ended.err
    );
    assert!(mount(&["-o", "remount,rw"], alone.disk.path()));
    let _agent = alone.start();
    assert!(alone.token() > first);
}
