//! Standard output and standard error that nobody reads, or that can't be written: nothing hangs on them, and no failure
//! looks like success.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Stdio,
};

use rustix::process::Signal;

use crate::{
    harness::{Process, free_addresses, leasehold, until},
    solo::Solo,
};

/// A stream that is full already, and whoever could read it, but doesn't.
fn full() -> (UnixStream, Stdio) {
    let (reader, mut writer) = UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    for piece in [4096, 1] {
        loop {
            match writer.write(&vec![b'x'; piece]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    writer.set_nonblocking(false).unwrap();
    (reader, Stdio::from(OwnedFd::from(writer)))
}

/// A disk without room.
fn no_room() -> Stdio {
    Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap())
}

#[test]
fn a_waiter_whose_errors_nobody_reads_takes_its_turn() {
    let solo = Solo::start("2s");
    let first = solo.hold("x", "first", &[]);
    let (_reader, stream) = full();
    let mut command = solo.command(&["run", "x", "--as", "stuck", "--json", "--", "sh", "-c", "echo ran"]);
    let stuck = Process::saying_to(&mut command, None, Some(stream));
    until("the queue", || (solo.json(&["holder", "x"])["waiters"] == 1).then_some(()));
    // Its place changes, too.
    let behind = solo.queue("x", "behind", &[]);
    first.signal(Signal::TERM);
    let ended = stuck.ended();
    assert_eq!((ended.code, ended.out.as_str()), (0, "ran\n"));
    until("the one behind it", || behind.out().contains("on").then_some(()));
}

#[test]
#[cfg(target_os = "linux")]
fn a_disk_without_room_costs_nobody_the_end() {
    let solo = Solo::start("2s");
    for json in [&["--json"][..], &[]] {
        let args = [&["run", "x"], json, &["--", "sh", "-c", "echo on; sleep 600 & wait"]].concat();
        let run = Process::saying_to(&mut solo.command(&args), None, Some(no_room()));
        until("the command", || run.out().contains("on").then_some(()));
        assert_eq!(solo.ended(&["revoke", "x", "--reason", "a test"]).code, 0);
        assert_eq!(run.ended().code, 76);
        assert_eq!(solo.json(&["holder", "x"])["held"], false, "the lease is given back");
    }
    // An agent goes on, whatever it has to say.
    let [address] = free_addresses();
    let args = ["agent", "--name", "a", "--listen", &address, "--founder", &address];
    let agent = Process::saying_to(leasehold(&args).env("RUST_LOG", "debug"), None, Some(no_room()));
    until("the agent", || agent.out().starts_with("ready ").then_some(()));
    agent.signal(Signal::TERM);
    assert_eq!(agent.ended().code, 0);
    // An error that can't be told is an error.
    let usage = &mut leasehold(&["run", "", "--connect", "127.0.0.1:1", "--", "true"]);
    assert_eq!(Process::saying_to(usage, None, Some(no_room())).ended().code, 2);
}

#[test]
#[cfg(target_os = "linux")]
fn an_answer_that_can_not_be_written_is_no_success() {
    let solo = Solo::start("2s");
    let _held = solo.hold("x", "holder", &["--shared"]);
    let commands: &[&[&str]] = &[
        &["leases"],
        &["leases", "--json"],
        &["status"],
        &["status", "--json"],
        &["holder", "x"],
        &["holder", "x", "--json"],
        &["holder", "free"],
        &["man", "run"],
        &["completions", "bash"],
        &["revoke", "x", "--reason", "a test", "--json"],
    ];
    for args in commands {
        let ended = Process::saying_to(&mut solo.command(args), Some(no_room()), None).ended();
        assert_eq!(ended.code, 1, "{args:?}: {ended:?}");
        assert!(ended.err.contains("can't be written to standard output"), "{args:?}: {ended:?}");
    }
}

#[test]
fn a_watch_that_nobody_reads_hears_signals() {
    let solo = Solo::start("2s");
    for signal in [Signal::TERM, Signal::INT] {
        let (_reader, stream) = full();
        let watch = &mut solo.command(&["watch", "--json", "--present"]);
        let watch = Process::saying_to(watch, Some(stream), None);
        // Nothing shows that it writes; that it has listened for signals before it asked.
        until("it to listen", || catches(watch.pid(), signal).then_some(()));
        for _ in 0..3 {
            assert_eq!(solo.ended(&["run", "x", "--", "true"]).code, 0);
        }
        watch.signal(signal);
        assert_eq!(watch.ended().code, 0);
    }
}

fn catches(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    // Where the system doesn't tell, it is hoped for.
    mask.is_none_or(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (signal.as_raw() - 1)) != 0)
}
