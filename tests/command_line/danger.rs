//! Forced recovery, by hand and by a script: nothing by accident.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Ended, Process, free_addresses, leasehold, until};

fn ended(args: &[&str]) -> Ended {
    Process::start(&mut leasehold(args)).ended()
}

fn agent(dir: &str, address: &str) -> Process {
    let args = ["agent", "--name", "a", "--listen", address, "--founder", address, "--data-dir", dir];
    let agent = Process::start(&mut leasehold(&args));
    until("the agent", || agent.out().starts_with("ready ").then_some(()));
    agent
}

fn stop(agent: Process) {
    agent.signal(Signal::TERM);
    assert_eq!(agent.ended().code, 0);
}

#[test]
fn nothing_is_recovered_by_accident_and_a_script_can_do_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("a");
    let dir = dir.to_str().unwrap();
    let [address] = free_addresses();
    let survey = |code: i32| {
        let ended = ended(&["danger", "survey", "--data-dir", dir, "--json"]);
        assert_eq!(ended.code, code, "{ended:?}");
        serde_json::from_str::<Value>(&ended.out).unwrap_or_default()
    };
    let recover = |args: &[&str]| ended(&[&["danger", "recover", "--data-dir", dir], args].concat());

    survey(1);
    assert!(!fs::exists(dir).unwrap(), "looking makes nothing");
    let running = agent(dir, &address);
    let refused = recover(&["--holders-gone"]);
    assert!(refused.code == 1 && refused.err.contains("another agent is running"), "{refused:?}");
    stop(running);

    let before = survey(0);
    let cluster = before["cluster"].as_str().unwrap();
    assert_eq!((&before["generation"], &before["members"][0]["agent"]), (&0.into(), &"a".into()));
    let other = "0000000000000000000000000000beef";
    for (args, says) in [
        (&[][..], "--wait-out"),
        (&["--holders-gone"], cluster),
        (&["--holders-gone", "--yes"], "--cluster"),
        (&["--holders-gone", "--cluster", cluster], "nobody can be asked"),
        (&["--holders-gone", "--yes", "--cluster", other], other),
        (&["--holders-gone", "--wait-out", "1s"], "cannot be used with"),
        (&["--wait-out", "0", "--yes", "--cluster", cluster, "--advertise", "nowhere"], "nowhere"),
    ] {
        let refused = recover(args);
        assert!(refused.code == 2 && refused.err.contains(says), "{args:?}: {refused:?}");
        assert_eq!(survey(0), before);
    }

    let done = recover(&["--wait-out", "300ms", "--yes", "--cluster", cluster]);
    assert_eq!(done.code, 0, "{done:?}");
    for says in [cluster, "waiting for 300ms", "generation 1", "before-generation-1", "--join"] {
        assert!(done.out.contains(says), "{says}: {done:?}");
    }
    let after = survey(0);
    let token = |of: &Value| of["last_token"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(after["generation"] == 1 && token(&after) > token(&before), "{after}");
    let again = agent(dir, &address);
    let run = ended(&["run", "x", "--connect", &address, "--", "sh", "-c", "echo $LEASEHOLD_TOKEN"]);
    assert!(run.out.trim().parse::<u64>().unwrap() > token(&after), "{run:?}");
    stop(again);
    let named = after["cluster"].as_str().unwrap();
    let json = recover(&["--holders-gone", "--yes", "--cluster", named, "--json"]);
    let done: Value = serde_json::from_str(&json.out).unwrap_or_else(|_| panic!("{json:?}"));
    assert!(done["generation"] == 2 && done["recovered"] == named && done["address"] == *address, "{done}");
}

/// Killed at any moment, the directory has what it had or what it was to have, and it can be done again.
#[test]
fn a_recovery_that_is_killed_at_any_moment_can_be_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("a");
    let dir = dir.to_str().unwrap();
    let [address] = free_addresses();
    let running = agent(dir, &address);
    stop(running);
    let mut generations = vec![0];
    for patience in 0..30 {
        let ended = ended(&["danger", "survey", "--data-dir", dir, "--json"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        let found: Value = serde_json::from_str(&ended.out).unwrap();
        generations.push(found["generation"].as_u64().unwrap());
        let cluster = found["cluster"].as_str().unwrap();
        let args = ["danger", "recover", "--data-dir", dir, "--holders-gone", "--yes", "--cluster", cluster];
        let recovering = Process::start(&mut leasehold(&args));
        // It has shown what it found, and is at work.
        until("it to begin", || recovering.out().contains("MEMBER").then_some(()));
        std::thread::sleep(std::time::Duration::from_millis(patience));
        recovering.signal(Signal::KILL);
        recovering.ended();
    }
    assert!(
        generations.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1),
        "{generations:?}"
    );
    agent(dir, &address).signal(Signal::TERM);
}
