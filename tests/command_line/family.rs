//! Who ends with the command, who doesn't, and what becomes of the lease when somebody can't be ended.

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{self, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::{
    harness::{Process, lives, until},
    solo::Solo,
};

fn skipped(what: &str) {
    let _ = io::stderr().write_all(format!("\n*** SKIPPED: {what} ***\n").as_bytes());
}

fn pid_in(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A process that is ended when the test is over, whoever has started it.
struct Ends(i32);

impl Drop for Ends {
    fn drop(&mut self) {
        if threads(self.0) > 0 {
            let _ = kill_process(Pid::from_raw(self.0).unwrap(), Signal::KILL);
        }
    }
}

/// How many threads it has, other than a first one that has ended.
fn threads(pid: i32) -> usize {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(") ") else { return 0 };
    let threads: usize = rest.split(' ').nth(17).unwrap().parse().unwrap();
    threads - usize::from(rest.starts_with('Z')).min(threads)
}

#[test]
fn a_process_whose_first_thread_has_ended_ends_with_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("zombie-leader");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/command_line/zombie_leader.c");
    let mut compiler = Command::new("cc");
    compiler.arg("-pthread").arg("-o").arg(&program).arg(source);
    if !compiler.status().is_ok_and(|status| status.success()) {
        return skipped("a process that looks like a zombie was NOT tested: it needs a C compiler");
    }
    let solo = Solo::start("4s");
    let file = dir.path().join("pid");
    let script = "$PROGRAM $FILE & while ! test -s $FILE; do sleep 0.01; done; sleep 0.3; exit 3";
    let mut command = solo.command(&["run", "x", "--grace", "100ms", "--", "sh", "-c", script]);
    let run = Process::start(command.env("PROGRAM", program).env("FILE", &file));
    let pid = until("the process", || pid_in(&file));
    let _ends = Ends(pid);
    until("its first thread's end", || (!lives(pid)).then_some(()));
    assert_eq!(run.ended().code, 3);
    assert_eq!(threads(pid), 0, "it goes on");
}

/// A shell that replaces itself by `run` leaves it its children.
#[test]
fn what_was_there_before_is_let_be() {
    let solo = Solo::start("4s");
    for (command, code) in [("exit 4", 4), ("kill -9 $PPID; sleep 600", 1)] {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        // A child, and a child's child.
        let script = "sh -c 'echo $$ > $DIR/side; sleep 600 & echo $! > $DIR/below; wait' &
            while ! test -s $DIR/below; do sleep 0.01; done
            exec $PROGRAM run x -- sh -c \"$COMMAND\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).env("DIR", dir.path()).env("COMMAND", command);
        shell.env("PROGRAM", env!("CARGO_BIN_EXE_leasehold")).env("LEASEHOLD_CONNECT", &solo.address);
        let run = Process::start(&mut shell);
        let [side, below] = ["side", "below"].map(|name| until(name, || pid_in(&file(name))));
        let _ends = (Ends(side), Ends(below));
        assert_eq!(run.ended().code, code);
        assert!(lives(side) && lives(below), "they are none of the command's");
    }
}

/// A child that has become another user's can't be signalled: while it lives, nobody else may be granted the lease.
#[test]
fn the_lease_is_not_given_back_while_something_lives_that_can_not_be_killed() {
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    // Root's, whoever starts it.
    let program = dir.path().join("setpriv");
    let is_there = ["/usr/bin/setpriv", "/bin/setpriv"].iter().any(|path| fs::copy(path, &program).is_ok());
    let is_readable = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .arg("--version")
        .uid(NOBODY)
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !geteuid().is_root() || !is_there || !is_readable {
        return skipped("another user's process was NOT tested: it needs root and setpriv");
    }
    open(dir.path(), 0o777);
    open(&program, 0o4755);
    let solo = Solo::start("6s");
    let file = dir.path().join("pid");
    let script = "$PROGRAM --reuid 0 --regid 0 --clear-groups sh -c 'echo $$ > $FILE; exec sleep 600' &
        while ! test -s $FILE; do sleep 0.01; done; exit 3";
    let mut command = solo.command(&["run", "x", "--grace", "100ms", "--", "sh", "-c", script]);
    command.env("PROGRAM", &program).env("FILE", &file).uid(NOBODY).gid(NOBODY);
    let run = Process::start(&mut command);
    let pid = until("the process", || pid_in(&file));
    let ends = Ends(pid);
    let next = solo.queue("x", "next", &[]);
    let began = Instant::now();
    until("much of the ttl", || {
        assert!(!next.out().contains("on"), "two commands at once");
        (began.elapsed() > Duration::from_secs(3)).then_some(())
    });
    assert!(lives(pid));
    let ended = run.ended();
    assert_eq!(ended.code, 76, "{ended:?}");
    assert!(ended.err.contains(&pid.to_string()) && ended.err.contains("not given back"), "{}", ended.err);
    drop(ends);
    until("the next one", || next.out().contains("on").then_some(()));
    next.signal(Signal::TERM);
    next.ended();

    // Who ends in time is waited for, and then the lease is given back.
    fs::remove_file(&file).unwrap();
    let run = Process::start(&mut command);
    let pid = until("the process", || pid_in(&file));
    let ends = Ends(pid);
    until("it to be waited for", || run.err().contains("lives although it was killed").then_some(()));
    drop(ends);
    assert_eq!(run.ended().code, 3);
    assert_eq!(solo.json(&["holder", "x"])["held"], false);
}

/// To find a family among many processes takes time, and SIGKILL must not come late for it.
#[test]
fn the_command_is_gone_in_time_among_many_processes() {
    const MANY: usize = 2_000;
    let solo = Solo::start("1100ms");
    // They wait for their input, and end when it does.
    let crowd = "i=0; while test $i -lt $MANY; do { read line <&3; } & i=$((i+1)); done 3<&0; echo up; wait";
    let mut crowd = Command::new("sh")
        .args(["-c", crowd])
        .env("MANY", MANY.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    io::Read::read_exact(crowd.stdout.as_mut().unwrap(), &mut [0; 3]).unwrap();
    // A sign of life every few milliseconds, by builtins alone.
    let script = "trap '' TERM; echo on; while :; do read now rest < /proc/uptime; echo $now >> $FILE; done";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("alive");
    for _ in 0..2 {
        let mut command = solo.command(&["run", "x", "--grace", "0", "--", "sh", "-c", script]);
        let run = Process::start(command.env("FILE", &file));
        until("the command to start", || run.out().contains("on").then_some(()));
        let next =
            ["run", "x", "--", "sh", "-c", "read now rest < /proc/uptime; echo $now; sleep 600 & wait"];
        let next = solo.spawn(&next);
        until("the queue", || (solo.json(&["holder", "x"])["waiters"] == 1).then_some(()));
        run.signal(Signal::STOP);
        let began: f64 = until("the next one", || next.out().trim().parse().ok());
        let settled = Instant::now();
        until("it to be settled", || (settled.elapsed() > Duration::from_millis(500)).then_some(()));
        let signs = fs::read_to_string(&file).unwrap();
        // The last one may be half a line.
        let (signs, _) = signs.rsplit_once('\n').unwrap();
        let last: f64 = signs.lines().next_back().unwrap().parse().unwrap();
        // They are told in hundredths of a second.
        assert!(last <= began, "{} s after the next one has started", last - began);
        run.signal(Signal::CONT);
        assert_eq!(run.ended().code, 76);
        next.signal(Signal::TERM);
        next.ended();
    }
    drop(crowd.stdin.take());
    crowd.wait().unwrap();
}
