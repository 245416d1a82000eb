//! What is asked badly is answered with a sentence that says what to do, and an exit code that is not 0.

use std::fs;

use crate::harness::{Cluster, Process, free_addresses, leasehold, until};

/// Runs it, and checks code and sentence.
#[track_caller]
fn refused(args: &[&str], code: i32, says: &[&str]) {
    let ended = Process::start(&mut leasehold(args)).ended();
    assert_eq!(ended.code, code, "{args:?}: {ended:?}");
    assert_eq!(ended.out, "", "errors go to standard error");
    for part in says {
        assert!(ended.err.contains(part), "{part:?} is missing in {}", ended.err);
    }
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
}

#[test]
fn an_agent_says_why_it_does_not_start() {
    let [address, other] = free_addresses();
    let dir = tempfile::tempdir().unwrap();
    let agent = |more: &[&str], code, says: &[&str]| {
        let args = [&["agent", "--name", "a", "--listen", &address, "--founder", &address], more].concat();
        refused(&args, code, says);
    };

    let taken = std::net::TcpListener::bind(&address).unwrap();
    agent(&[], 1, &["can't listen on", &address, "stop that process, or choose another port"]);
    drop(taken);

    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("letters.txt"), "Dear Ada").unwrap();
    agent(
        &["--data-dir", foreign.to_str().unwrap()],
        1,
        &["foreign", "not an agent's data directory", "letters.txt", "give an empty directory"],
    );
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1, "a foreign directory is left as it was");

    let below_a_file = foreign.join("letters.txt").join("data");
    agent(
        &["--data-dir", below_a_file.to_str().unwrap()],
        1,
        &["letters.txt", "check that the path is right"],
    );

    agent(&["--ttl", "0s"], 2, &["a ttl of 0", "the shortest is"]);
    agent(&["--ttl", "10"], 2, &["has no unit", "10s"]);
    agent(&["--quota", "lease=5"], 2, &["there is no quota \"lease\"", "leases_per_agent"]);
    agent(&["--quota", "leases=many"], 2, &["leases=many is no number"]);
    agent(&["--quota", "leases=5,connections=0"], 2, &["the quota connections is 0", "--quota"]);
    agent(&["--founder", &address], 2, &["listed twice"]);
    refused(
        &["agent", "--name", "a", "--listen", "0.0.0.0:7101", "--join", &other, "--danger-plaintext"],
        2,
        &["listens on 0.0.0.0:7101", "no address at which others reach it", "--advertise"],
    );
    refused(
        &["agent", "--name", "", "--listen", "nowhere", "--founder", &other],
        2,
        &["settings are wrong", "is empty", "nowhere", "host:port"],
    );
    refused(
        &["agent", "--name", "a", "--listen", &address, "--founder", &other],
        2,
        &["not among the founders", "--advertise"],
    );
    refused(&["agent", "--name", "a", "--listen", &address], 2, &["--founder"]);
}

#[test]
fn founders_that_disagree_both_say_so() {
    let [one, other, third] = free_addresses();
    let start = |address: &str, founders: &str| {
        Process::start(&mut leasehold(&["agent", "--name", "a", "--listen", address, "--founder", founders]))
    };
    let agents = [start(&one, &format!("{one},{other}")), start(&other, &format!("{one},{other},{third}"))];
    for agent in agents {
        let ended = agent.ended();
        assert_eq!(ended.code, 1, "{ended:?}");
        let said = ended.err.lines().last().unwrap_or_default();
        assert!(said.contains("lists disagree") && said.contains(&third), "{said}");
        assert!(said.contains("give every founder the same list"), "{said}");
    }
}

/// A directory in use, and one that belonged to another cluster's member.
#[test]
fn a_directory_has_one_agent() {
    let [address, other] = free_addresses();
    let dir = tempfile::tempdir().unwrap();
    let args = |listen: &str| {
        ["agent", "--name", "a", "--listen", listen, "--founder", listen, "--data-dir"].map(str::to_owned)
    };
    let mut first = leasehold(&args(&address));
    let first = Process::start(first.arg(dir.path()));
    until("the agent", || first.out().starts_with("ready ").then_some(()));
    let mut second = leasehold(&args(&other));
    let ended = Process::start(second.arg(dir.path())).ended();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("another agent is running on"), "{}", ended.err);
    // Nothing of a member's directory is believed that was changed behind its back.
    first.kill();
    fs::write(dir.path().join("identity"), "not an identity").unwrap();
    let mut damaged = leasehold(&args(&address));
    let ended = Process::start(damaged.arg(dir.path())).ended();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("identity") && ended.err.contains("is damaged"), "{}", ended.err);
}

#[test]
fn nobody_at_the_address() {
    let [address] = free_addresses();
    let says: &[&str] = &["no agent answers at", &address, "check"];
    let all: [&[&str]; 7] = [
        &["holder", "x"],
        &["status"],
        &["leases"],
        &["watch"],
        &["revoke", "x", "--reason", "r"],
        &["transfer", "x", "--to", "y"],
        &["run", "x", "--no-wait"],
    ];
    // Each looks for an agent for a while: all at once.
    let asking = all.map(|args| {
        let mut command = leasehold(args);
        command.args(["--connect", &address]);
        let command = if args[0] == "run" { command.args(["--", "true"]) } else { &mut command };
        (args, Process::start(command))
    });
    for (args, process) in asking {
        let ended = process.ended();
        assert_eq!((ended.code, ended.out.as_str()), (1, ""), "{args:?}: {ended:?}");
        for part in says {
            assert!(ended.err.contains(part), "{part:?} is missing in {}", ended.err);
        }
    }
    refused(&["holder", "x", "--connect", "nowhere"], 2, &["\"nowhere\" is not an address", "host:port"]);
    refused(&["holder", "x"], 2, &["--connect"]);
    // Somebody listens there who is no agent.
    let deaf = std::net::TcpListener::bind(&address).unwrap();
    refused(&["holder", "x", "--connect", &address], 1, says);
    drop(deaf);
}

#[test]
fn names_and_spans_out_of_their_bounds() {
    let cluster = Cluster::start("2s");
    let run = |args: &[&str], says: &[&str]| {
        let ended = Process::start(&mut cluster.command(args)).ended();
        assert_eq!(ended.code, 2, "{ended:?}");
        for part in says {
            assert!(ended.err.contains(part), "{part:?} is missing in {}", ended.err);
        }
        assert_eq!(ended.out, "");
    };
    let long = "x".repeat(513);
    run(&["run", &long, "--", "echo", "ran"], &["513 bytes", "the largest is 512", "shorten it"]);
    run(&["holder", &long], &["513 bytes"]);
    run(&["watch", &long], &["513 bytes"]);
    run(&["watch", "--prefix", &long], &["513 bytes"]);
    run(&["watch", "x", "--prefix", "x"], &["cannot be used with"]);
    run(&["watch", "--since", "1", "--present"], &["cannot be used with"]);
    run(&["watch", "--since=-1"], &["--since", "invalid digit"]);
    run(&["run", "", "--", "echo", "ran"], &["is empty"]);
    run(&["run", "x", "--ttl", "0", "--", "echo", "ran"], &["a ttl of 0"]);
    run(&["run", "x", "--ttl", "1ms", "--", "echo", "ran"], &["1ms is too short", "the shortest is 1.1s"]);
    run(&["run", "x", "--ttl", "25h", "--", "echo", "ran"], &["too long"]);
    run(&["run", "x", "--wait", "soon", "--", "echo", "ran"], &["not a span of time"]);
    run(&["run", "x", "--wait", "1s", "--no-wait", "--", "echo", "ran"], &["cannot be used with"]);
    run(&["run", "x", "--grace", "1", "--", "echo", "ran"], &["has no unit"]);
    run(&["run", "x", "--permits", "0", "--", "echo", "ran"], &["a permit of 0", "1 to 100000"]);
    run(&["run", "x", "--permits", "2", "--shared", "--", "echo", "ran"], &["cannot be used with"]);
    run(&["run", "x", "--lock-delay", "25h", "--", "echo", "ran"], &["a lock delay of 90000s"]);
    run(&["run", "x", "--metadata", &"m".repeat(4097), "--", "echo", "ran"], &["4097 bytes of metadata"]);
    run(&["run", "x", "--as", "", "--", "echo", "ran"], &["the agent's name is empty"]);
    run(&["run", "x"], &["COMMAND"]);
    // The longest that is allowed works.
    let ended = Process::start(&mut cluster.command(&["run", &long[1..], "--", "echo", "ran"])).ended();
    assert_eq!((ended.code, ended.out.as_str()), (0, "ran\n"), "{}", ended.err);
}

/// The library's remedies are methods; here they are commands.
#[test]
fn a_cluster_without_a_majority() {
    let mut cluster = Cluster::start("2s");
    (0..2).for_each(|at| cluster.kill(at));
    let ended = Process::start(&mut cluster.command(&["holder", "x"])).ended();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("no linearizable answer"), "{}", ended.err);
    assert!(ended.err.contains("leasehold status") && !ended.err.contains("holder_local"), "{}", ended.err);
}
