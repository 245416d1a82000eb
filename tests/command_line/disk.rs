//! A disk that is full, and one that can't be written any more: the agent steps down rather than answer what is not
//! durable, and works again when there is room.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    process::Command,
};

use tempfile::TempDir;

use crate::harness::{Ended, Process, free_addresses, leasehold, until};

/// A small file system of its own. Unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, said loudly, where this user may not mount.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", "size=24m", "tmpfs"], dir.path());
        if !mounted {
            eprintln!("\n*** SKIPPED: the full disk was NOT tested: mounting a tmpfs needs root ***\n");
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
    fn start(&self) -> Process {
        let agent = Process::start(
            leasehold(&["agent", "--name", "a", "--listen", &self.address, "--founder", &self.address])
                .arg("--data-dir")
                .arg(self.disk.path().join("data")),
        );
        until("the agent", || agent.out().starts_with("ready ").then_some(()));
        agent
    }

    fn run(&self) -> Process {
        let script = "echo $LEASEHOLD_TOKEN";
        Process::start(&mut leasehold(&[
            "run",
            "x",
            "--connect",
            &self.address,
            "--wait",
            "2s",
            "--",
            "sh",
            "-c",
            script,
        ]))
    }

    fn token(&self) -> u64 {
        let ended = self.run().ended();
        ended.out.trim().parse().unwrap_or_else(|_| panic!("{ended:?}"))
    }

    /// Writes until the agent steps down, and checks how it does.
    fn steps_down(&self, agent: Process) -> u64 {
        let mut agent = Some(agent);
        let mut last = 0;
        until("the agent to step down", || {
            let ended = self.run().ended();
            match ended.code {
                0 => last = ended.out.trim().parse().unwrap(),
                code => {
                    assert!(code == 1 || code == 75, "{ended:?}");
                    assert_eq!(ended.out, "", "a lease from a full disk");
                }
            }
            (ended.code != 0).then_some(())
        });
        let Ended { code, err, .. } = agent.take().unwrap().ended();
        assert_eq!(code, 74, "{err}");
        let said = err.lines().last().unwrap_or_default();
        assert!(said.contains("has stepped down") && said.contains("storage failed"), "{said}");
        last
    }
}

#[test]
fn a_full_disk_and_a_read_only_one() {
    let Some(disk) = SmallDisk::mount() else { return };
    let [address] = free_addresses();
    let alone = Alone { address, disk };
    let agent = alone.start();
    let first = alone.token();

    alone.disk.fill();
    let last = alone.steps_down(agent).max(first);
    alone.disk.make_room();
    let agent = alone.start();
    let again = alone.token();
    assert!(again > last, "{again} {last}");

    assert!(mount(&["-o", "remount,ro"], alone.disk.path()));
    let last = alone.steps_down(agent).max(again);
    assert!(mount(&["-o", "remount,rw"], alone.disk.path()));
    let agent = alone.start();
    assert!(alone.token() > last);
    agent.signal(rustix::process::Signal::TERM);
    assert_eq!(agent.ended().code, 0);
}
