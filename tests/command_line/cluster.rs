//! Agents are killed and stopped under a lease that somebody holds and somebody waits for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::harness::{Cluster, Process, lives, until};

const TTL: Duration = Duration::from_secs(2);
/// How much later than its ttl a dead holder's lease may be granted to the next: the drift on both sides, the grant, and
/// starting the command, on a machine with other things to do.
const OVERSHOOT: Duration = Duration::from_millis(1_500);

#[test]
fn leader_and_holder_are_killed() {
    let mut cluster = Cluster::start("2s");
    let mut first = cluster.run("orders", "first", &[]);
    let (first_pid, first_token) = first.wait_started();
    let mut second = cluster.run("orders", "second", &[]);
    until("the second to queue", || (cluster.holder("orders")["waiters"] == 1).then_some(()));

    let leader = cluster.leader();
    cluster.kill(leader);
    let killed = Instant::now();
    assert_ne!(cluster.leader(), leader);
    until("two ttls", || (killed.elapsed() > TTL * 2).then_some(()));
    assert!(first.process.runs() && lives(first_pid), "{}", first.process.err());
    let holder = cluster.holder("orders");
    assert_eq!((&holder["token"], &holder["waiters"]), (&first_token.to_string().into(), &1.into()));
    assert!(second.started().is_none() && second.process.runs());

    let killed = Instant::now();
    first.process.kill();
    // What it ran is ended by its guard, long before anyone else is granted the lease.
    until("the first command to end", || (!lives(first_pid)).then_some(()));
    assert!(second.started().is_none());
    let (_, second_token) = second.wait_started();
    assert!(killed.elapsed() < TTL + OVERSHOOT, "{:?}", killed.elapsed());
    assert!(second_token > first_token);

    // The killed agent comes back, and is of use.
    cluster.restart(leader);
    until("the agent that came back to take part", || {
        let all = cluster.json(&["status"]);
        let same = |key: &str| all.iter().all(|status| status[key] == all[0][key]);
        (same("term") && same("leader") && same("applied")).then_some(())
    });
    // Not the present leader: what is seen is that it makes up a majority, not that another one leads soon enough.
    let follower = (0..3).find(|at| ![leader, cluster.leader()].contains(at)).unwrap();
    cluster.kill(follower);
    assert_eq!(cluster.holder("orders")["token"], second_token.to_string());
    second.process.signal(Signal::TERM);
    assert_eq!(second.process.ended().code, 128 + 15);
}

#[test]
fn all_agents_are_killed_at_once_and_restarted() {
    let mut cluster = Cluster::start("2s");
    let holds = cluster.run("orders", "first", &["--ttl", "30s"]);
    let (pid, token) = holds.wait_started();
    let waits = cluster.run("orders", "second", &["--ttl", "30s"]);
    until("the second to queue", || (cluster.holder("orders")["waiters"] == 1).then_some(()));
    let ended = Process::start(&mut cluster.command(&["run", "other", "--", "true"])).ended();
    assert_eq!(ended.code, 0, "{ended:?}");
    let before = (cluster.holder("orders"), cluster.json(&["leases"]));

    (0..3).for_each(|at| cluster.kill(at));
    cluster.start_all();

    assert_eq!((cluster.holder("orders"), cluster.json(&["leases"])), before);
    assert!(lives(pid) && waits.started().is_none());
    // Tokens go on where they were, the queue too.
    let out =
        Process::start(&mut cluster.command(&["run", "other", "--", "sh", "-c", "echo $LEASEHOLD_TOKEN"]));
    let third: u64 = out.ended().out.trim().parse().unwrap();
    assert_eq!(third, token + 2);
    holds.process.signal(Signal::INT);
    let (_, next) = waits.wait_started();
    assert_eq!(next, third + 1);
}

/// As an upgrade would be by somebody in a hurry: each agent killed and started again in turn, under load. Nobody loses a
/// lease, and nobody fails to get one.
#[test]
fn agents_are_killed_and_restarted_in_turn_under_load() {
    let mut cluster = Cluster::start("4s");
    let mut holds = cluster.run("orders", "first", &[]);
    let (pid, token) = holds.wait_started();
    let done = Arc::new(AtomicBool::new(false));
    let workers = ["own", "turns", "turns"].map(|name| {
        let mut command = cluster.command(&["run", name, "--wait", "25s", "--", "true"]);
        let done = done.clone();
        std::thread::spawn(move || {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                let ended = Process::start(&mut command).ended();
                assert_eq!(ended.code, 0, "{name}: {ended:?}");
                rounds += 1;
            }
            rounds
        })
    });
    let leader = cluster.leader();
    let in_turn = (0..3).filter(|at| *at != leader).chain([leader]);
    for at in in_turn {
        cluster.kill(at);
        cluster.restart(at);
        assert!(holds.process.runs() && lives(pid), "after agent {at}: {}", holds.process.err());
        assert_eq!(cluster.holder("orders")["token"], token.to_string());
    }
    done.store(true, Ordering::Relaxed);
    let rounds: Vec<u32> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    assert!(rounds.iter().all(|rounds| *rounds > 3), "{rounds:?}");
    holds.process.signal(Signal::TERM);
    assert_eq!(holds.process.ended().code, 128 + 15);
}

#[test]
fn a_stopped_leader_costs_nobody_a_lease() {
    let cluster = Cluster::start("2s");
    let mut runs: Vec<_> =
        (0..3).map(|at| cluster.run(&format!("n{at}"), &format!("log{at}"), &[])).collect();
    let tokens: Vec<_> = runs.iter().map(|run| run.wait_started().1).collect();
    let leader = cluster.leader();
    cluster.signal(leader, Signal::STOP);
    let stopped = Instant::now();
    // Past its election timeout (0.55 s), and past the ttl of every lease.
    until("more than a ttl", || (stopped.elapsed() > TTL * 3 / 2).then_some(()));
    cluster.signal(leader, Signal::CONT);
    let resumed = Instant::now();
    until("another ttl and more", || (resumed.elapsed() > TTL * 3 / 2).then_some(()));
    for (at, run) in runs.iter_mut().enumerate() {
        assert!(run.process.runs(), "{}", run.process.err());
        assert_eq!(cluster.holder(&format!("n{at}"))["token"], tokens[at].to_string());
    }
}

#[test]
fn agents_stop_cleanly_and_status_tells() {
    let mut cluster = Cluster::start("2s");
    let all = cluster.json(&["status"]);
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|status| status["reachable"] == true && status["durable"] == true), "{all:?}");
    assert_eq!(all.iter().filter(|status| status["role"] == "leader").count(), 1);

    let run = cluster.run("orders", "log", &[]);
    let (_, token) = run.wait_started();
    let table = Process::start(&mut cluster.command(&["leases"])).ended().out;
    let lines: Vec<_> = table.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("NAME") && lines[1].starts_with("orders"), "{table}");
    assert_eq!(lines[0].find("TOKEN"), lines[1].find(&token.to_string()), "aligned: {table}");
    let free = Process::start(&mut cluster.command(&["holder", "nobody's"])).ended();
    assert_eq!((free.code, free.out.as_str()), (0, "\"nobody's\" is free\n"));
    assert!(!table.contains('\x1b'), "colour is for terminals");

    for signal in [Signal::TERM, Signal::INT] {
        let leader = cluster.leader();
        let agent = cluster.take(leader);
        agent.signal(signal);
        let ended = agent.ended();
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert_eq!(ended.out.lines().count(), 1, "one line: {}", ended.out);
        let all = cluster.json(&["status"]);
        assert_eq!(all.iter().filter(|status| status["reachable"] == false).count(), 1);
        cluster.restart(leader);
    }
    assert_eq!(cluster.holder("orders")["token"], token.to_string());
}
