//! `run`: the command's life is within the lease's, whatever happens to whom.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::harness::{Cluster, Process, lives, until};

const TTL: Duration = Duration::from_secs(2);

#[test]
fn codes_signals_and_surroundings_are_passed_on() {
    let cluster = Cluster::start("2s");
    let run = |args: &[&str]| Process::start(cluster.command(&["run", "x"]).args(args));
    let code = |script: &str| run(&["--", "sh", "-c", script]).ended().code;
    assert_eq!((code("exit 0"), code("exit 7"), code("exit 255"), code("kill -9 $$")), (0, 7, 255, 137));

    let ended = run(&["--", "sh", "-c", "echo $LEASEHOLD_NAME $LEASEHOLD_TOKEN $LEASEHOLD_LEASE_ID"]).ended();
    let words: Vec<_> = ended.out.split_whitespace().collect();
    let [name, token, id] = words[..] else { panic!("{ended:?}") };
    assert_eq!(name, "x");
    assert!(token.parse::<u64>().unwrap() > 0);
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");

    // A signal goes to the command, whose answer to it counts.
    let script = "trap 'kill $!; exit 9' TERM; trap 'kill $!; exit 10' HUP; echo on; sleep 600 & wait";
    for (signal, code) in [(Signal::TERM, 9), (Signal::HUP, 10), (Signal::INT, 130), (Signal::QUIT, 131)] {
        // A shell's background processes ignore SIGINT and SIGQUIT; the guard ends them.
        let run = run(&["--", "sh", "-c", script]);
        until("the command to start", || run.out().contains("on").then_some(()));
        run.signal(signal);
        assert_eq!(run.ended().code, code, "{signal:?}");
    }

    // What the command leaves behind is ended, politely first.
    let log = cluster.path("left");
    let script = "(trap 'echo asked >> $LOG; exit' TERM; echo $(exec sh -c 'echo $PPID') > $LOG; sleep 600 & wait) & \
                  while ! test -s $LOG; do sleep 0.01; done; exit 3";
    let ended =
        Process::start(cluster.command(&["run", "x", "--", "sh", "-c", script]).env("LOG", &log)).ended();
    assert_eq!(ended.code, 3, "{ended:?}");
    let log = fs::read_to_string(log).unwrap();
    let (pid, asked) = log.trim().split_once('\n').unwrap_or_else(|| panic!("{log:?}"));
    assert!(!lives(pid.parse().unwrap()));
    assert_eq!(asked, "asked");

    let missing = run(&["--", "/no/such/command"]).ended();
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(missing.err.contains("/no/such/command"), "{}", missing.err);
    assert_eq!(run(&["--", "/"]).ended().code, 126);
    assert_eq!(cluster.holder("x")["held"], false);
}

#[test]
fn what_is_held_is_not_acquired() {
    let cluster = Cluster::start("2s");
    let first = cluster.run("x", "first", &["--as", "the-first"]);
    let (_, token) = first.wait_started();
    let now = Process::start(&mut cluster.command(&["run", "x", "--no-wait", "--", "true"])).ended();
    assert_eq!(now.code, 75, "{now:?}");
    assert!(now.err.contains("the-first") && now.err.contains(&token.to_string()), "{}", now.err);
    let later = Process::start(&mut cluster.command(&["run", "x", "--wait", "300ms", "--", "true"])).ended();
    assert_eq!(later.code, 75, "{later:?}");
    assert!(later.err.contains("within 300ms"), "{}", later.err);
    // Who gives up leaves the queue.
    until("an empty queue", || (cluster.holder("x")["waiters"] == 0).then_some(()));
    let waits = cluster.run("x", "second", &[]);
    until("the queue", || (cluster.holder("x")["waiters"] == 1).then_some(()));
    waits.process.signal(Signal::INT);
    assert_eq!(waits.process.ended().code, 130);
    until("an empty queue", || (cluster.holder("x")["waiters"] == 0).then_some(()));
}

#[test]
fn a_stopped_run_does_not_keep_its_command() {
    let cluster = Cluster::start("2s");
    let run = cluster.run("x", "first", &[]);
    let (pid, token) = run.wait_started();
    let next = cluster.run("x", "second", &[]);
    until("the second to queue", || (cluster.holder("x")["waiters"] == 1).then_some(()));
    run.process.signal(Signal::STOP);
    // The guard ends it while `run` can't, before the next is granted the lease.
    until("the command to end", || {
        let lives = lives(pid);
        assert!(!lives || next.started().is_none(), "two commands at once");
        (!lives).then_some(())
    });
    assert!(next.wait_started().1 > token);
    let resumed = Instant::now();
    run.process.signal(Signal::CONT);
    let ended = run.process.ended();
    assert_eq!(ended.code, 76, "{ended:?}");
    assert!(resumed.elapsed() < TTL, "{:?}", resumed.elapsed());
    assert!(ended.err.contains("is lost"), "{}", ended.err);
}

#[test]
fn out_of_contact_the_command_ends_before_the_deadline() {
    let cluster = Cluster::start("2s");
    let log = cluster.path("asked");
    // It hears SIGTERM and goes on: SIGKILL must come.
    let script = "trap 'date +%s%N > $LOG' TERM; echo $$; while :; do sleep 0.05; done";
    let run = Process::start(cluster.command(&["run", "x", "--", "sh", "-c", script]).env("LOG", &log));
    let pid: i32 = until("the command to start", || run.out().trim().parse().ok());
    (0..3).for_each(|at| cluster.signal(at, Signal::STOP));
    let silent = Instant::now();
    until("the command to end", || (!lives(pid)).then_some(()));
    // The last renewal was answered before the silence, so the deadline is no later than a ttl after it.
    assert!(silent.elapsed() < TTL, "{:?}", silent.elapsed());
    assert!(log.exists(), "SIGTERM came first");
    (0..3).for_each(|at| cluster.signal(at, Signal::CONT));
    let ended = run.ended();
    assert_eq!(ended.code, 76, "{ended:?}");
    assert!(ended.err.contains("before the deadline"), "{}", ended.err);
}

#[test]
fn a_killed_run_does_not_keep_its_command() {
    let cluster = Cluster::start("10s");
    // Long enough that the ttl has nothing to do with it; the command is deaf to SIGTERM for a while.
    let script = "trap 'echo asked' TERM; echo $$; while :; do sleep 0.05; done";
    let run = Process::start(&mut cluster.command(&["run", "x", "--", "sh", "-c", script]));
    let pid: i32 = until("the command to start", || run.out().trim().parse().ok());
    let killed = Instant::now();
    run.signal(Signal::KILL);
    until("the command to end", || (!lives(pid)).then_some(()));
    // A grace of ttl/4 after SIGTERM.
    let took = killed.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(6), "{took:?}");
    assert!(run.out().contains("asked"), "{}", run.out());
}
