//! `revoke` and `transfer`: whose lease it was, who has it next, and that the two never run at once.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    harness::{Cluster, Process, lives, until},
    solo::Solo,
};

#[test]
fn a_revoked_holder_is_ended_politely_and_the_next_one_starts_after_it() {
    let cluster = Cluster::start("4s");
    let log = cluster.path("log");
    // It takes its time to end, and says what it does.
    let script = "trap 'echo asked >> $LOG; sleep 0.4; echo gone >> $LOG; exit' TERM; \
                  echo began >> $LOG; echo $$; while :; do sleep 0.05; done";
    let first = ["run", "x", "--as", "one", "--", "sh", "-c", script];
    let first = Process::start(cluster.command(&first).env("LOG", &log));
    let pid: i32 = until("the command to start", || first.out().trim().parse().ok());
    let second = ["run", "x", "--as", "two", "--", "sh", "-c", "echo next >> $LOG; echo $LEASEHOLD_TOKEN"];
    let second = Process::start(cluster.command(&second).env("LOG", &log));
    until("the queue", || (cluster.holder("x")["waiters"] == 1).then_some(()));

    let revoke = ["revoke", "x", "--reason", "the host is needed", "--as", "ops", "--wait", "20s"];
    let ended = Process::start(&mut cluster.command(&revoke)).ended();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("revoked: x, held by one with token "), "{}", ended.out);
    assert!(!lives(pid), "over means that nothing of it is left");
    let ended = first.ended();
    assert_eq!(ended.code, 76, "{ended:?}");
    assert!(ended.err.contains("ops revoked the lease on \"x\"") && ended.err.contains("the host is needed"));
    assert_eq!(second.ended().code, 0);
    assert_eq!(fs::read_to_string(log).unwrap(), "began\nasked\ngone\nnext\n");
}

#[test]
fn a_lease_is_handed_over_to_the_one_that_is_named() {
    let solo = Solo::start("2s");
    let first = solo.hold("x", "one", &[]);
    let early = solo.queue("x", "early", &[]);
    let heir = solo.queue("x", "heir", &[]);

    let ended = solo.ended(&["transfer", "x", "--to", "stranger"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.err.contains("can't be handed over to stranger, which doesn't wait for it"),
        "{}",
        ended.err
    );
    assert_eq!(solo.json(&["holder", "x"])["agent"], "one");

    let answer = solo.json(&["transfer", "x", "--to", "heir", "--reason", "its turn", "--wait", "20s"]);
    assert_eq!((&answer["name"], &answer["revoked"][0]["agent"]), (&"x".into(), &"one".into()), "{answer}");
    assert_eq!(answer["next"][0]["agent"], "heir", "{answer}");
    let ended = first.ended();
    assert_eq!(ended.code, 76);
    assert!(ended.err.contains("handed the lease on \"x\"") && ended.err.contains("over to heir (its turn)"));
    until("the heir", || heir.out().contains("on").then_some(()));
    assert_eq!(early.out(), "");
    let queue = &solo.json(&["holder", "x"])["queue"];
    assert_eq!((&queue[0]["agent"], &queue[0]["position"]), (&"early".into(), &1.into()));
}

#[test]
fn nobody_and_several_and_out_of_reach() {
    let solo = Solo::start("4s");
    for args in [&["revoke", "x", "--reason", "r"][..], &["transfer", "x", "--to", "y"]] {
        let ended = solo.ended(args);
        assert_eq!((ended.code, ended.out.as_str()), (1, ""), "{ended:?}");
        assert!(ended.err.contains("nobody holds \"x\", so nothing was revoked"), "{}", ended.err);
    }
    let readers = [solo.hold("x", "one", &["--shared"]), solo.hold("x", "two", &["--shared"])];
    let _writer = solo.queue("x", "writer", &[]);
    let ended = solo.ended(&["transfer", "x", "--to", "writer"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("is held by 2 at once"), "{}", ended.err);
    let answer = solo.json(&["revoke", "x", "--reason", "r", "--wait", "20s"]);
    let agents: Vec<&Value> =
        answer["revoked"].as_array().unwrap().iter().map(|held| &held["agent"]).collect();
    assert_eq!((agents, &answer["next"][0]["agent"]), (vec![&"one".into(), &"two".into()], &"writer".into()));
    for reader in readers {
        assert_eq!(reader.ended().code, 76);
    }

    // A holder that hears of nothing: it is revoked, and not over yet.
    let deaf = solo.hold("y", "deaf", &[]);
    deaf.signal(Signal::STOP);
    let ended = solo.ended(&["revoke", "y", "--reason", "r", "--wait", "100ms"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.out.contains("revoked: y"), "{}", ended.out);
    assert!(ended.err.contains("not given back within 100ms") && ended.err.contains("4s"), "{}", ended.err);
    // A program hears of both: what was revoked, and that it is not known who is next.
    let ended = solo.ended(&["revoke", "y", "--reason", "r", "--wait", "100ms", "--json"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let answer: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&answer["revoked"][0]["agent"], answer.get("next")), (&"deaf".into(), Some(&Value::Null)));
    deaf.signal(Signal::CONT);
    assert_eq!(deaf.ended().code, 76);

    let long = "x".repeat(513);
    for (args, says) in [
        (&["revoke", &long, "--reason", "r"][..], "513 bytes"),
        (&["transfer", &long, "--to", "y"], "513 bytes"),
        (&["revoke", "x", "--reason", &long], "a reason of 513 bytes"),
        (&["revoke", "x"], "--reason"),
        (&["transfer", "x"], "--to"),
        (&["transfer", "x", "--to", ""], "is empty"),
        (&["revoke", "x", "--reason", "r", "--wait", "soon"], "not a span of time"),
    ] {
        let ended = solo.ended(args);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.err.contains(says), "{says:?} is missing in {}", ended.err);
    }
}
