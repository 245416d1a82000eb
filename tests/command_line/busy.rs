//! What happens often must not keep `run` or its guard from looking at the clock, and what hangs must not keep `run` from
//! ending.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    harness::{Cluster, Process, lives, until},
    solo::Solo,
};

#[test]
fn signals_that_come_often_cost_no_lease() {
    let solo = Solo::start("1100ms");
    let script = "trap : USR1; echo on; while :; do sleep 0.02; done";
    let mut run = solo.spawn(&["run", "x", "--", "sh", "-c", script]);
    until("the command to start", || run.out().contains("on").then_some(()));
    let began = Instant::now();
    // Closer together than the guard is told a deadline.
    until("two ttls and more", || {
        run.signal(Signal::USR1);
        assert!(run.runs(), "{}", run.err());
        (began.elapsed() > Duration::from_millis(3_000)).then_some(())
    });
    run.signal(Signal::TERM);
    let ended = run.ended();
    assert_eq!(ended.code, 128 + 15, "{ended:?}");
}

/// A guard hears of every process that ends below it, and there may be many of them. Here it is told so all the time.
#[test]
#[cfg(target_os = "linux")]
fn children_that_end_all_the_time_do_not_keep_the_guard_from_the_clock() {
    let cluster = Cluster::start("2s");
    let script = "trap '' TERM; echo $$ $PPID; while :; do sleep 0.05; done";
    let run = Process::start(&mut cluster.command(&["run", "x", "--", "sh", "-c", script]));
    let (pid, guard): (i32, i32) = until("the command to start", || {
        let (pid, guard) = run.out().trim().split_once(' ').map(|(a, b)| (a.parse(), b.parse()))?;
        Some((pid.ok()?, guard.ok()?))
    });
    let next = cluster.run("x", "second", &[]);
    until("the second to queue", || (cluster.holder("x")["waiters"] == 1).then_some(()));
    run.signal(Signal::STOP);
    let is_over = Arc::new(AtomicBool::new(false));
    let telling = std::thread::spawn({
        let (guard, is_over) = (Pid::from_raw(guard).unwrap(), is_over.clone());
        move || {
            while !is_over.load(Ordering::Relaxed) && kill_process(guard, Signal::CHILD).is_ok() {
                std::thread::yield_now();
            }
        }
    });
    let seen = until("the command to end", || {
        let two_at_once = lives(pid) && next.started().is_some();
        (two_at_once || !lives(pid)).then_some(two_at_once)
    });
    is_over.store(true, Ordering::Relaxed);
    telling.join().unwrap();
    assert!(!seen, "two commands at once");
    next.wait_started();
    run.signal(Signal::CONT);
    assert_eq!(run.ended().code, 76);
}

/// Nobody answers: giving the lease back would take its time.
#[test]
fn who_gives_the_lease_back_hears_signals() {
    let cluster = Cluster::start("30s");
    let script = "trap 'exit 3' HUP; echo $$; while :; do sleep 0.02; done";
    let mut run = Process::start(&mut cluster.command(&["run", "x", "--", "sh", "-c", script]));
    let pid: i32 = until("the command to start", || run.out().trim().parse().ok());
    (0..3).for_each(|at| cluster.signal(at, Signal::STOP));
    run.signal(Signal::HUP);
    until("the command to end", || (!lives(pid)).then_some(()));
    let ended = Instant::now();
    until("the end of run", || {
        run.signal(Signal::TERM);
        let later = Instant::now() + Duration::from_millis(200);
        until("a moment", || (Instant::now() > later).then_some(()));
        (!run.runs()).then_some(())
    });
    // A release alone may take 10 s, and closing 2 s.
    assert!(ended.elapsed() < Duration::from_secs(8), "{:?}", ended.elapsed());
    (0..3).for_each(|at| cluster.signal(at, Signal::CONT));
    assert_eq!(run.ended().code, 3);
}
