//! The kernel by itself.

use std::{cell::Cell, sync::Mutex};

use tokio::sync::{Notify, oneshot};

use super::*;
use crate::{
    clock::{self, Clock as _},
    runtime::{self, Either, select2, sleep, spawn, timeout, watch},
};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// Without late timers, so that moments can be told to the nanosecond.
fn kernel(seed: u64, machines: usize) -> Kernel {
    let kernel = Kernel::new(seed, Pace { slack: Duration::ZERO, ..Pace::default() });
    for _ in 0..machines {
        kernel.add_machine();
    }
    kernel
}

/// What was noted, by whom, and when.
#[derive(Clone)]
struct Log(Kernel, Rc<RefCell<Vec<(Duration, String)>>>);

impl Log {
    fn new(kernel: &Kernel) -> Self {
        Self(kernel.clone(), Rc::default())
    }

    fn note(&self, text: impl Into<String>) {
        let at = Duration::from_nanos(self.0.clocks().now() - BEGINNING);
        self.1.borrow_mut().push((at, text.into()));
    }

    fn texts(&self) -> Vec<String> {
        self.1.borrow().iter().map(|(_, text)| text.clone()).collect()
    }
}

/// Notes each of its ticks, for ever.
async fn tick(log: Log, name: &'static str, every: Duration) {
    loop {
        sleep(every).await;
        log.note(name);
    }
}

#[test]
fn time_moves_from_alarm_to_alarm() {
    let kernel = kernel(1, 0);
    let _entered = kernel.enter();
    let log = Log::new(&kernel);
    kernel.spawn(OUTSIDE, tick(log.clone(), "a", 3 * S));
    kernel.spawn(OUTSIDE, tick(log.clone(), "b", 5 * S));
    kernel.run(sleep(12 * S + MS)).unwrap();
    let expected = [(3, "a"), (5, "b"), (6, "a"), (9, "a"), (10, "b"), (12, "a")];
    let expected = expected.map(|(at, name)| (Duration::from_secs(at), name.to_owned()));
    assert_eq!(*log.1.borrow(), expected);
    assert_eq!(kernel.clocks().now() - BEGINNING, 12_001_000_000);
    kernel.end();
}

#[test]
fn what_can_not_go_on_says_so() {
    let kernel = kernel(1, 0);
    let _entered = kernel.enter();
    assert_eq!(kernel.run(std::future::pending::<()>()), Err(Stuck::Deadlock));
    let busy = poll_fn_forever();
    assert_eq!(kernel.run(busy), Err(Stuck::Livelock));
    assert_eq!(kernel.run(async { kernel.run(async {}) }), Ok(Err(Stuck::Nested)));
    assert_eq!(kernel.run(async { 7 }), Ok(7));
}

async fn poll_fn_forever() {
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    })
    .await;
}

/// A task that tells of its end, even if it never ran.
struct Mourned(Log, &'static str);

impl Drop for Mourned {
    fn drop(&mut self) {
        self.0.note(self.1);
        // What a destructor spawns ends with it.
        let log = self.0.clone();
        drop(spawn(async { unreachable!() }));
        log.note(format!("{} gone", self.1));
    }
}

#[test]
fn a_machine_that_is_killed_runs_no_more_and_another_life_begins_empty() {
    let kernel = kernel(3, 2);
    let _entered = kernel.enter();
    let log = Log::new(&kernel);
    let (ours, spawned) = (log.clone(), Rc::new(Cell::new(0)));
    let counted = spawned.clone();
    kernel.spawn(kernel.place(1), async move {
        let _mourned = Mourned(ours.clone(), "first");
        // Inherited by what it spawns.
        let inner = ours.0.clone();
        inner.spawn(inner.0.place(), async move {
            loop {
                sleep(S).await;
                counted.set(counted.get() + 1);
            }
        });
        std::future::pending::<()>().await;
    });
    kernel.spawn(kernel.place(2), tick(log.clone(), "other", S));
    let old = kernel.place(1);
    kernel
        .run(async {
            sleep(S * 5 / 2).await;
            kernel.kill(1);
            sleep(S).await;
            // Its old place takes nothing more; nor does one that is off.
            kernel.spawn(old, async { unreachable!() });
            kernel.spawn(kernel.place(1), async { unreachable!() });
            kernel.revive(1);
            kernel.spawn(old, async { unreachable!() });
            let ours = log.clone();
            kernel.spawn(kernel.place(1), async move { ours.note("second") });
            sleep(S).await;
        })
        .unwrap();
    assert_eq!(spawned.get(), 2);
    assert_eq!(log.texts(), ["other", "other", "first", "first gone", "other", "second", "other"]);
}

#[test]
fn a_machine_that_kills_itself_stops_at_its_next_wait() {
    let kernel = kernel(3, 1);
    let _entered = kernel.enter();
    let log = Log::new(&kernel);
    let (ours, own) = (log.clone(), kernel.clone());
    kernel.spawn(kernel.place(1), async move {
        let _mourned = Mourned(ours.clone(), "self");
        own.kill(1);
        ours.note("still here");
        sleep(MS).await;
        unreachable!();
    });
    kernel.run(sleep(S)).unwrap();
    assert_eq!(log.texts(), ["still here", "self", "self gone"]);
}

#[test]
fn a_paused_machine_stands_still_and_its_clock_goes_on() {
    let kernel = kernel(5, 2);
    let _entered = kernel.enter();
    let log = Log::new(&kernel);
    kernel.spawn(kernel.place(1), tick(log.clone(), "one", S));
    kernel.spawn(kernel.place(2), tick(log.clone(), "two", S));
    let clock = |node| NodeClock { clocks: kernel.clocks().clone(), node }.now().as_nanos() - BEGINNING;
    let (bell, woken) = (Arc::new(Notify::new()), Rc::new(Cell::new(false)));
    let (rings, told) = (bell.clone(), woken.clone());
    kernel.spawn(kernel.place(1), async move {
        rings.notified().await;
        told.set(true);
    });
    kernel
        .run(async {
            sleep(S * 3 / 2).await;
            kernel.pause(1);
            bell.notify_one();
            sleep(S * 3).await;
            assert!(!woken.get());
            assert_eq!(clock(1), 4_500_000_000);
            kernel.resume(1);
            sleep(MS).await;
            assert!(woken.get());
            // The alarm that was due meanwhile went off at once, and the next counts from then.
            assert_eq!(log.texts(), ["one", "two", "two", "two", "two", "one"]);
            kernel.suspend(1);
            sleep(S * 10).await;
            kernel.resume(1);
            let before = log.texts().len();
            sleep(S / 2).await;
            assert_eq!(log.texts()[before..], ["two"], "its timers stood still while it slept");
            assert_eq!(clock(1), clock(2), "its lease clock did not");
        })
        .unwrap();
}

#[test]
fn each_machine_has_its_own_time() {
    let kernel = kernel(7, 3);
    let _entered = kernel.enter();
    let log = Log::new(&kernel);
    for (node, name) in [(1, "fast"), (2, "slow"), (3, "right")] {
        kernel.spawn(kernel.place(node), tick(log.clone(), name, S));
    }
    kernel.clocks().set_rate(1, 100_000);
    kernel.clocks().set_rate(2, -100_000);
    kernel.run(sleep(S * 20 + S / 2)).unwrap();
    let count = |name| log.texts().iter().filter(|text| *text == name).count();
    assert_eq!((count("fast"), count("right"), count("slow")), (22, 20, 18));
    // A jump forth makes due what lies within it; the changed rate holds for timers that are set.
    kernel.clocks().jump(3, 700_000_000);
    kernel.run(sleep(Duration::ZERO)).unwrap();
    kernel.run(sleep(MS)).unwrap();
    assert_eq!(count("right"), 21);
    // A jump back moves no timer.
    kernel.clocks().jump(3, -60_000_000_000);
    kernel.run(sleep(S)).unwrap();
    assert_eq!(count("right"), 22);
    let wall = clock::wall_unix_ms();
    assert_eq!(wall, 1_767_225_600_000 + 21_501);
    kernel.clocks().set_wall(0, -5_000);
    assert_eq!(clock::wall_unix_ms(), wall - 5_000);
    assert_eq!(clock::wall_after(S).timestamp_millis() as u64, wall - 4_000);
}

/// A run in which much depends on the order: what each did, and in which order.
fn tangle(seed: u64, shuffle: f64) -> (Vec<String>, u64) {
    let pace = Pace { shuffle: Share::of(shuffle), ..Pace::default() };
    let kernel = Kernel::new(seed, pace);
    let _entered = kernel.enter();
    let log = Log::new(&kernel);
    let (news, _) = watch::channel(0);
    let news = Rc::new(news);
    for node in 1..=4 {
        kernel.add_machine();
        for task in 0..3 {
            let (log, mut heard) = (log.clone(), news.subscribe());
            kernel.spawn(kernel.place(node), async move {
                loop {
                    let nap = Duration::from_micros(runtime::random_u64() % 3_000);
                    match select2(heard.changed(), sleep(nap)).await {
                        Either::First(_) => log.note(format!("{node} {task} heard {}", *heard.borrow())),
                        Either::Second(()) => log.note(format!("{node} {task} slept {nap:?}")),
                    }
                }
            });
        }
    }
    kernel
        .run(async {
            for number in 0..40 {
                sleep(MS).await;
                news.send_replace(number);
            }
        })
        .unwrap();
    kernel.end();
    (log.texts(), kernel.pulse())
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_another() {
    for seed in 0..20 {
        let (first, second) = (tangle(seed, 0.25), tangle(seed, 0.25));
        assert_eq!(first, second, "seed {seed}");
        assert_ne!(first.1, tangle(seed + 1, 0.25).1);
        assert_ne!(first.0, tangle(seed, 0.9).0, "another schedule");
    }
}

/// A budget of polls, as tokio gives its tasks, would change the run.
#[tokio::test]
async fn inside_of_a_tokio_runtime_it_is_the_same_run() {
    let within = tangle(3, 0.25);
    let without = std::thread::spawn(|| tangle(3, 0.25)).join().unwrap();
    assert_eq!(within, without);
}

#[test]
fn a_task_that_panics_is_told_of_and_the_others_go_on() {
    let kernel = kernel(1, 1);
    let _entered = kernel.enter();
    let (tell, told) = oneshot::channel();
    kernel.spawn(kernel.place(1), async {
        let task = spawn(async { panic!("as asked") });
        let _ = tell.send(task.await);
    });
    let joined = kernel.run(told).unwrap().unwrap();
    assert!(matches!(joined, Err(runtime::JoinError::Panicked)));
    assert_eq!(kernel.panics(), ["machine 1: as asked"]);
}

#[test]
fn a_time_out_is_at_its_moment() {
    let kernel = kernel(1, 0);
    let _entered = kernel.enter();
    let ended = kernel.run(async {
        let late = timeout(S, sleep(2 * S)).await;
        let now = kernel.clocks().now() - BEGINNING;
        let blocking = runtime::spawn_blocking(|| 7).await.unwrap();
        (late.is_err(), now, blocking, timeout(2 * S, sleep(S)).await.is_ok())
    });
    assert_eq!(ended, Ok((true, 1_000_000_000, 7, true)));
}

#[test]
fn ids_are_the_seeds_machine_by_machine() {
    let ids = |seed| {
        let kernel = kernel(seed, 2);
        let _entered = kernel.enter();
        let drawn = Arc::new(Mutex::new(Vec::new()));
        for node in [1, 2, 1] {
            let drawn = drawn.clone();
            kernel.spawn(kernel.place(node), async move {
                drawn.lock().unwrap().push((node, runtime::random_u128()))
            });
        }
        kernel.run(sleep(MS)).unwrap();
        let mut drawn = drawn.lock().unwrap().clone();
        drawn.sort_unstable();
        drawn
    };
    assert_eq!(ids(1), ids(1));
    let (one, two) = (ids(1), ids(2));
    let all: std::collections::BTreeSet<u128> = one.iter().chain(&two).map(|(_, id)| *id).collect();
    assert_eq!(all.len(), 6);
}
