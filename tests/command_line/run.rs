//! `run`: the command's life is within the lease's, whatever happens to whom.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    harness::{Cluster, Process, lives, until},
    solo::{Solo, objects},
};

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
    let at_once = Process::start(&mut cluster.command(&["run", "x", "--wait", "0", "--", "true"])).ended();
    assert!(at_once.code == 75 && at_once.err.contains("the-first"), "{at_once:?}");
    let free = Process::start(&mut cluster.command(&["run", "free", "--wait", "0", "--", "true"])).ended();
    assert_eq!(free.code, 0, "a free name needs no wait: {free:?}");
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

#[test]
fn what_happens_is_told_as_json() {
    let solo = Solo::start("2s");
    let holder = solo.hold("x", "holder", &[]);
    let before = solo.queue("x", "before", &[]);
    let script = "echo not JSON >&2; exit 3";
    let run = solo.spawn(&["run", "x", "--json", "--as", "me", "--ttl", "3s", "--", "sh", "-c", script]);
    until("its place", || run.err().contains("\"position\":2").then_some(()));
    before.signal(Signal::TERM);
    until("the next place", || run.err().contains("\"position\":1").then_some(()));
    holder.signal(Signal::TERM);
    let ended = run.ended();
    assert_eq!(ended.code, 3, "{ended:?}");
    let events = objects(&ended.err.replace("not JSON\n", ""));
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["queued", "queued", "acquired", "released"], "{events:?}");
    assert!(events.iter().all(|event| event["name"] == "x"), "{events:?}");
    assert_eq!((&events[0]["position"], &events[0]["waiters"]), (&2.into(), &2.into()));
    assert_eq!((&events[2]["agent"], &events[2]["ttl_ms"]), (&"me".into(), &3000.into()));
    assert!(events[2]["token"].as_str().unwrap().parse::<u64>().is_ok());

    let holder = solo.hold("x", "holder", &[]);
    let event = |ended: &crate::harness::Ended| objects(&ended.err).pop().unwrap();
    let late = solo.ended(&["run", "x", "--json", "--no-wait", "--", "true"]);
    assert_eq!((late.code, &event(&late)["event"]), (75, &"not_acquired".into()), "{late:?}");
    assert!(event(&late)["detail"].as_str().unwrap().contains("held by holder"), "{late:?}");
    let missing = solo.ended(&["run", "y", "--json", "--", "/no/such/command"]);
    assert_eq!((missing.code, event(&missing)["name"].as_str()), (127, Some("y")));
    assert!(missing.err.contains("\"failed\"") && missing.err.contains("/no/such/command"), "{missing:?}");
    holder.signal(Signal::TERM);
    holder.ended();

    let lost = solo.hold("x", "loser", &["--json"]);
    assert_eq!(solo.ended(&["revoke", "x", "--reason", "a test"]).code, 0);
    let lost = lost.ended();
    assert_eq!((lost.code, &event(&lost)["event"]), (76, &"lost".into()), "{lost:?}");
    assert!(event(&lost)["reason"].as_str().unwrap().contains("a test"), "{lost:?}");
}

#[test]
fn leases_that_are_shared_or_closed() {
    let solo = Solo::start("2s");
    let _readers = [solo.hold("r", "one", &["--shared"]), solo.hold("r", "two", &["--shared"])];
    let _permits = [solo.hold("p", "one", &["--permits", "2"]), solo.hold("p", "two", &["--permits", "2"])];
    let full = solo.ended(&["run", "p", "--permits", "2", "--no-wait", "--", "true"]);
    assert_eq!(full.code, 75, "{full:?}");
    let _waits = solo.queue("p", "three", &["--permits", "2"]);
    let report = solo.json(&["holder", "p"]);
    assert_eq!(
        (&report["holders"], &report["waiters"], &report["permits"]),
        (&2.into(), &1.into(), &2.into())
    );
    assert_eq!(report["held_by"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(
        (&report["queue"][0]["agent"], &report["queue"][0]["mode"]),
        (&"three".into(), &"permits".into())
    );
    let people = solo.ended(&["holder", "p"]).out;
    assert!(
        people.contains("permit of 2, 2 held") && people.contains("PLACE") && people.contains("three"),
        "{people}"
    );
    let table = solo.ended(&["leases"]).out;
    assert!(table.contains("shared, 2 held"), "{table}");

    // It dies while it holds: the name is closed to others for a while.
    let dies = solo.hold("d", "dies", &["--lock-delay", "1m", "--ttl", "1100ms", "--metadata", "disk 7"]);
    assert_eq!(solo.json(&["holder", "d"])["metadata"], "disk 7");
    dies.kill();
    until("its expiry", || (solo.json(&["holder", "d"])["held"] == false).then_some(()));
    let report = solo.json(&["holder", "d"]);
    assert_eq!((&report["closed"]["agent"], &report["closed"]["delay_ms"]), (&"dies".into(), &60_000.into()));
    assert!(solo.ended(&["holder", "d"]).out.contains("closed to all but dies"));
    let closed = solo.ended(&["run", "d", "--no-wait", "--", "true"]);
    assert_eq!(closed.code, 75, "{closed:?}");
    assert!(
        closed.err.contains("closed to others for 60s") && closed.err.contains("--no-wait"),
        "{closed:?}"
    );
}

#[test]
fn every_signal_that_is_passed_on() {
    let solo = Solo::start("4s");
    let script = "trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo winch' WINCH; trap 'echo cont' CONT; \
                  echo on; while :; do sleep 0.02; done";
    let run = solo.spawn(&["run", "x", "--", "sh", "-c", script]);
    until("the command to start", || run.out().contains("on\n").then_some(()));
    let signals =
        [(Signal::USR1, "usr1"), (Signal::USR2, "usr2"), (Signal::WINCH, "winch"), (Signal::CONT, "cont")];
    for (signal, says) in signals {
        run.signal(signal);
        until(says, || run.out().contains(says).then_some(()));
    }
    run.signal(Signal::TERM);
    assert_eq!(run.ended().code, 128 + 15);
    // One that was ignored before stays so, as under nohup.
    let ignores = "trap '' HUP; exec \"$0\" \"$@\"";
    let program = env!("CARGO_BIN_EXE_leasehold");
    let args = [
        "-c",
        ignores,
        program,
        "run",
        "x",
        "--connect",
        &solo.address,
        "--",
        "sh",
        "-c",
        "echo on; sleep 0.5",
    ];
    let run = Process::start(std::process::Command::new("sh").args(args));
    until("the command to start", || run.out().contains("on").then_some(()));
    run.signal(Signal::HUP);
    assert_eq!(run.ended().code, 0);
}

/// A package's upgrade replaces the program's file, while a standby waits.
#[test]
#[cfg(target_os = "linux")]
fn a_waiter_whose_program_was_replaced_takes_its_turn() {
    let solo = Solo::start("2s");
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("leasehold");
    fs::copy(env!("CARGO_BIN_EXE_leasehold"), &program).unwrap();
    let first = solo.hold("x", "first", &[]);
    let mut standby = std::process::Command::new(&program);
    standby.args(["run", "x", "--connect", &solo.address, "--", "sh", "-c", "echo ran"]);
    let standby = Process::start(&mut standby);
    until("the queue", || (solo.json(&["holder", "x"])["waiters"] == 1).then_some(()));
    fs::remove_file(&program).unwrap();
    fs::write(&program, "#!/bin/sh\nexit 99\n").unwrap();
    first.signal(Signal::TERM);
    let ended = standby.ended();
    assert_eq!((ended.code, ended.out.as_str()), (0, "ran\n"), "{ended:?}");
}
