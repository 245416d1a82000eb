//! `watch`: a line for each change, at once, without a gap, and an end when nobody listens.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    harness::{Cluster, Process, until},
    solo::{Solo, objects},
};

/// Waits for this many changes of what is printed, and returns all.
#[track_caller]
fn changes(watch: &Process, count: usize) -> Vec<Value> {
    until(count, || Some(objects(&watch.out())).filter(|changes| changes.len() >= count))
}

fn events(changes: &[Value]) -> Vec<&str> {
    changes.iter().map(|change| change["event"].as_str().unwrap()).collect()
}

#[test]
fn each_change_is_told_with_all_that_is_to_be_said() {
    let solo = Solo::start("2s");
    let watch = solo.spawn(&["watch", "--prefix", "orders/", "--present", "--json"]);
    let others = solo.spawn(&["watch", "invoices"]);
    let people = solo.spawn(&["watch", "orders/eu"]);
    let present = &changes(&watch, 1)[0];
    assert_eq!((&present["event"], &present["held"]), (&"present".into(), &Value::Array(Vec::new())));
    assert_eq!((&present["complete"], &present["lagged"]), (&true.into(), &false.into()));

    let first = solo.hold("orders/eu", "one", &["--metadata", "host-1"]);
    let granted = &changes(&watch, 2)[1];
    assert_eq!((&granted["event"], &granted["name"]), (&"granted".into(), &"orders/eu".into()));
    assert_eq!((&granted["agent"], &granted["metadata"]), (&"one".into(), &"host-1".into()));
    assert_eq!((&granted["ttl_ms"], &granted["token"]), (&2000.into(), &first.out()[3..].trim().into()));
    assert!(granted["time"].as_str().unwrap().ends_with('Z') && granted["index"].is_u64(), "{granted}");

    let waits = solo.queue("orders/eu", "two", &["--wait", "300ms"]);
    assert_eq!(waits.ended().code, 75);
    assert_eq!(events(&changes(&watch, 4)[2..]), ["queued", "left"]);
    let second = solo.queue("orders/eu", "three", &[]);
    let by_hand = ["revoke", "orders/eu", "--reason", "a test", "--as", "ops"];
    assert_eq!(solo.ended(&by_hand).code, 0);
    let all = changes(&watch, 8);
    assert_eq!(events(&all[4..8]), ["queued", "revoked", "ended", "granted"]);
    let (revoked, ended) = (&all[5], &all[6]);
    assert_eq!(
        (&revoked["by"], &revoked["reason"], &revoked["heir"]),
        (&"ops".into(), &"a test".into(), &Value::Null)
    );
    assert_eq!(
        (&ended["how"], &ended["by"], &ended["token"]),
        (&"revoked".into(), &"ops".into(), &granted["token"])
    );
    assert_eq!(all[7]["agent"], "three");
    assert!(all.is_sorted_by_key(|change| change["index"].as_u64()), "{all:?}");

    // From any index on, as often as is wished.
    let again = solo.spawn(&["watch", "orders/eu", "--json", "--since", &all[4]["index"].to_string()]);
    assert_eq!(events(&changes(&again, 3)), ["revoked", "ended", "granted"]);

    second.signal(Signal::TERM);
    assert_eq!(second.ended().code, 128 + 15);
    let said = until("the release", || Some(people.out()).filter(|out| out.contains("released")));
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("orders/eu  granted  one  token "), "{said}");
    assert!(lines.iter().any(|line| line.contains("is being revoked by ops (a test)  one")), "{said}");
    assert!(!said.contains('\x1b'), "colour is for terminals");
    assert_eq!(others.out(), "", "other names are others' business");

    for (watch, signal) in [(watch, Signal::TERM), (others, Signal::INT)] {
        watch.signal(signal);
        let ended = watch.ended();
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    }
}

/// A test that fails leaves nothing behind.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nobody_reads_any_more() {
    let solo = Solo::start("2s");
    let mut watch = Killed(solo.command(&["watch"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    // It may still be connecting.
    until("a change that it hears of", || {
        assert_eq!(solo.ended(&["run", "x", "--", "true"]).code, 0);
        solo.json(&["status"])["applied"].as_u64().filter(|&applied| applied > 6)
    });
    assert!(lines.next().unwrap().unwrap().contains("granted"));
    // Nothing changes from now on: that the pipe is closed it has to find out by itself.
    drop(lines);
    let status = until("its end", || watch.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn it_goes_on_without_the_agent_that_it_talks_to() {
    let mut cluster = Cluster::start("2s");
    // The first address is the first that is asked.
    let watch = Process::start(&mut cluster.command(&["watch", "--json", "--present"]));
    changes(&watch, 1);
    let count = 4;
    for round in 0..count {
        if round == 1 {
            cluster.kill(0);
        }
        let ended = Process::start(&mut cluster.command(&["run", "x", "--", "true"])).ended();
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    let told = changes(&watch, 1 + 2 * count);
    let pair = ["granted", "ended"];
    assert_eq!(events(&told[1..]), pair.repeat(count), "no change is missing or told twice");
    watch.signal(Signal::INT);
    assert_eq!(watch.ended().code, 0);
}

/// An index that nobody remembers: what holds now, and that something is missing.
#[test]
fn who_asks_for_what_is_forgotten_is_told_so() {
    let mut cluster = Cluster::start("2s");
    let run = cluster.run("x", "log", &[]);
    run.wait_started();
    // Started anew, an agent remembers nothing of before its log's end.
    (0..3).for_each(|at| cluster.kill(at));
    cluster.start_all();
    let watch = Process::start(&mut cluster.command(&["watch", "--since", "0", "--json"]));
    let first = changes(&watch, 1).remove(0);
    if first["event"] == "present" {
        assert_eq!((&first["lagged"], &first["held"][0]["name"]), (&true.into(), &"x".into()), "{first}");
    } else {
        assert_eq!((&first["event"], &first["name"]), (&"granted".into(), &"x".into()), "{first}");
    }
}

/// Silence must not look like quiet.
#[test]
fn a_watch_that_is_cut_off_says_so() {
    let mut cluster = Cluster::start("2s");
    let watch = Process::start(&mut cluster.command(&["watch", "--json", "--present"]));
    changes(&watch, 1);
    (0..3).for_each(|at| cluster.kill(at));
    until("that nobody answers", || watch.err().contains("no agent answers").then_some(()));
    assert!(!watch.err().contains("answers again"), "{}", watch.err());
    cluster.start_all();
    until("that somebody does", || watch.err().contains("an agent answers again").then_some(()));
    // It goes on.
    let before = changes(&watch, 1).len();
    assert_eq!(Process::start(&mut cluster.command(&["run", "x", "--", "true"])).ended().code, 0);
    let told = changes(&watch, before + 2);
    assert!(events(&told).ends_with(&["granted", "ended"]), "{told:?}");
    watch.signal(Signal::TERM);
    assert_eq!(watch.ended().code, 0);
}
