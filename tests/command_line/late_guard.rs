//! A guard that is given no time to run, before or after it has started the command: no command begins or goes on when its
//! lease is over.

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{self, IoSlice, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg,
        sockopt::socket_domain,
    },
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open},
};

use crate::{
    harness::{Cluster, leasehold, lives, until},
    solo::Solo,
};

/// The guard alone, as `run` starts it, with this deadline from now on (in milliseconds); what it says until its end.
fn guarded(until_ms: i64, command: &str) -> String {
    let (mut own, its) = UnixStream::pair().unwrap();
    let mut guard = leasehold(&["__guard", "--grace-ms", "400", "--margin-ms", "100", "--terminal-of", "0"]);
    guard.args(["--", "sh", "-c", command]).process_group(0);
    guard.stdin(Stdio::from(OwnedFd::from(its))).stdout(Stdio::null());
    let mut running = guard.spawn().unwrap();
    // Its end of the socket is its own alone.
    drop(guard);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let deadline = now.tv_sec * 1_000_000_000 + now.tv_nsec + until_ms * 1_000_000;
    let word = format!("until {deadline}\n");
    let stream = own.try_clone().unwrap();
    let streams = [stream.as_fd(); 3];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&streams));
    sendmsg(&own, &[IoSlice::new(word.as_bytes())], &mut control, SendFlags::empty()).unwrap();
    let mut said = String::new();
    own.read_to_string(&mut said).unwrap();
    running.wait().unwrap();
    said
}

#[test]
fn a_guard_that_comes_too_late_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ran = dir.path().join("ran");
    let command = format!("echo ran > {}", ran.display());
    // It is over, and about to be over.
    for until_ms in [-5_000, 400] {
        assert_eq!(guarded(until_ms, &command), "failed late\n");
        assert!(!ran.exists());
    }
    assert_eq!(guarded(60_000, &command), "started\ncode 0\nnobody\n");
    assert!(ran.exists());
}

/// The guard below this process, as soon as it is there; `None` if it was not seen. It has its word within milliseconds,
/// so nothing sleeps here, and only those are looked at that began soon after its parent.
fn guard_of(run: i32) -> Option<i32> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        for pid in run + 1..run + 100 {
            let is_guard = || {
                fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|all| all.contains("__guard"))
            };
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
            if parent == Some(run) && is_guard() {
                return Some(pid);
            }
        }
    }
    None
}

fn kill(pid: i32, signal: Signal) {
    // It may have ended.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// It is stopped between its start and the command's: the lease runs out meanwhile, and somebody else is granted it.
#[test]
fn a_guard_that_is_stopped_before_it_starts_the_command_never_does() {
    let cluster = Cluster::start("2s");
    let (name, first, guard) = until("a guard that is stopped in time", || {
        static TRIES: AtomicU32 = AtomicU32::new(0);
        let name = format!("n{}", TRIES.fetch_add(1, Ordering::Relaxed));
        let first = cluster.run(&name, &name, &[]);
        let Some(guard) = guard_of(first.process.pid()) else {
            first.process.kill();
            return None;
        };
        kill(guard, Signal::STOP);
        until("it to stand still", || {
            let stat = fs::read_to_string(format!("/proc/{guard}/stat")).ok()?;
            stat.rsplit_once(") ").filter(|(_, rest)| rest.starts_with('T')).map(drop)
        });
        let is_early = first.started().is_none() && children_of(guard) == 0;
        if !is_early {
            kill(guard, Signal::CONT);
            first.process.kill();
            return None;
        }
        Some((name, first, guard))
    });
    let second = cluster.run(&name, "second", &[]);
    second.wait_started();
    kill(guard, Signal::CONT);
    assert_eq!(first.process.ended().code, 76);
    until("the guard to end", || (!lives(guard)).then_some(()));
    assert!(!cluster.path(&name).exists(), "two commands at once");
}

fn children_of(pid: i32) -> usize {
    let is_child = |stat: String| {
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok()) == Some(pid)
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok())
        .filter(|stat| is_child(stat.clone()))
        .count()
}

/// Fills the sockets of this process within the machine, so that it would wait for ever for room in one.
fn fill_sockets_of(pid: i32) -> rustix::io::Result<()> {
    let process = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty())?;
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let sockets =
        fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")));
    let mut filled = 0;
    for socket in sockets.map(|fd| fd.file_name().to_str().unwrap().parse().unwrap()) {
        let socket = pidfd_getfd(&process, socket, PidfdGetfdFlags::empty())?;
        if socket_domain(&socket)? == AddressFamily::UNIX {
            while send(&socket, b"until 0\n", SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok() {
                filled += 1;
            }
        }
    }
    assert!(filled > 0);
    Ok(())
}

/// `run` tells it later and later deadlines, which it doesn't hear. When there is no room for more (by themselves, that
/// takes hundreds of renewals), it doesn't wait for room.
#[test]
fn a_guard_that_hears_nothing_does_not_keep_run_from_ending_the_command() {
    let solo = Solo::start("1100ms");
    let script = "trap '' TERM; echo $$; while :; do sleep 0.05; done";
    let mut run = solo.spawn(&["run", "x", "--", "sh", "-c", script]);
    let pid: i32 = until("the command to start", || run.out().trim().parse().ok());
    let guard = guard_of(run.pid()).unwrap();
    kill(guard, Signal::STOP);
    if let Err(error) = fill_sockets_of(run.pid()) {
        let text = format!("\n*** SKIPPED: a guard that hears nothing was NOT tested: {error} ***\n");
        return io::stderr().write_all(text.as_bytes()).unwrap();
    }
    let next = solo.queue("x", "next", &[]);
    until("the end of run", || {
        assert!(!lives(pid) || !next.out().contains("on"), "two commands at once");
        (!run.runs()).then_some(())
    });
    assert!(!lives(pid) && !lives(guard));
    assert_eq!(run.ended().code, 76);
    until("the next one", || next.out().contains("on").then_some(()));
}
