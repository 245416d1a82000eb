use std::{thread, time::Instant};

use proptest::prelude::*;

use super::*;
use crate::{
    clock::{ManualClock, SystemClock},
    time::Drift,
};

const TTL: Duration = Duration::from_secs(10);
const NS: Duration = Duration::from_nanos(1);

fn at(ms: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(ms)
}

fn drift() -> Drift {
    Drift::from_ppm(10_000).unwrap()
}

fn on(clock: Arc<dyn Clock>, session: Session) -> Held {
    Held::new(clock, session)
}

/// Granted at 1 000 ms, held until 10 900 ms.
fn held() -> (Arc<ManualClock>, Held) {
    let clock = Arc::new(ManualClock::at(at(1_000)));
    let held = on(Arc::clone(&clock) as _, Session::granted(at(1_000), TTL, drift()));
    (clock, held)
}

fn reason(held: &Held) -> Option<LossReason> {
    held.check().err()
}

#[test]
fn it_is_lost_at_its_deadline_and_says_which() {
    let (clock, held) = held();
    clock.set(at(10_900) - NS);
    assert_eq!(held.check(), Ok(()));
    clock.advance(NS);
    let expired = LossReason::ExpiredWithoutContact { ttl: TTL };
    assert_eq!(held.check(), Err(expired.clone()));
    assert_eq!(held.renewed(at(10_000)), Err(expired), "too late");
    assert!(!held.end(LossReason::AgentStopped));
}

#[test]
fn a_deadline_that_passed_unseen_comes_before_any_other_reason() {
    let (clock, held) = held();
    clock.set(at(60_000));
    assert!(!held.end(LossReason::Released));
    assert_eq!(reason(&held), Some(LossReason::ExpiredWithoutContact { ttl: TTL }));
}

#[test]
fn the_clock_below_the_grant_or_below_a_look_is_a_loss() {
    let (clock, held_once) = held();
    clock.set(at(1_000) - NS);
    assert!(matches!(reason(&held_once), Some(LossReason::ClockWentBack { .. })));

    let (clock, held) = held();
    clock.set(at(5_000));
    held.check().unwrap();
    clock.set(at(5_000) - NS);
    let back = LossReason::ClockWentBack { from: at(5_000), to: at(5_000) - NS };
    assert_eq!(reason(&held), Some(back.clone()));
    clock.set(at(6_000));
    assert_eq!(reason(&held), Some(back), "for ever");
}

/// A clock that is back for a single reading.
struct Hiccup(std::sync::atomic::AtomicU32);

impl Clock for Hiccup {
    fn now(&self) -> Moment {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            1 => at(1_500),
            _ => at(2_000),
        }
    }
}

#[test]
fn one_reading_back_is_enough() {
    let held = on(Arc::new(Hiccup(0.into())), Session::granted(at(1_000), TTL, drift()));
    assert_eq!(held.check(), Ok(()));
    assert!(matches!(reason(&held), Some(LossReason::ClockWentBack { .. })));
}

/// A clock that, while `check` reads it, lets a renewal of another thread come between.
struct Interrupted {
    now: ManualClock,
    held: Mutex<Option<Arc<Held>>>,
}

impl Clock for Interrupted {
    fn now(&self) -> Moment {
        let now = self.now.now();
        let held = self.held.lock().unwrap().take();
        if let Some(held) = held {
            held.renewed(at(10_000)).unwrap();
            self.now.set(at(11_000));
            return at(11_000);
        }
        now
    }
}

#[test]
fn a_renewal_between_the_reading_and_the_verdict_counts() {
    let clock = Arc::new(Interrupted { now: ManualClock::at(at(10_800)), held: Mutex::new(None) });
    let held = Arc::new(on(Arc::clone(&clock) as _, Session::granted(at(1_000), TTL, drift())));
    *clock.held.lock().unwrap() = Some(Arc::clone(&held));
    assert_eq!(held.check(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn everyone_who_waits_is_told_the_one_reason() {
    let (_clock, held) = held();
    let held = Arc::new(held);
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let held = Arc::clone(&held);
            runtime::spawn(async move { held.lost().await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert!(held.end(LossReason::ExpiredInContact));
    assert!(!held.end(LossReason::AgentStopped));
    for task in waiting {
        assert_eq!(task.await.unwrap(), LossReason::ExpiredInContact);
    }
    assert_eq!(held.lost().await, LossReason::ExpiredInContact, "and whoever asks later");
}

#[tokio::test(start_paused = true)]
async fn an_end_wakes_those_who_wait_without_their_timer() {
    let (_clock, held) = held();
    let held = Arc::new(held);
    let began = tokio_now();
    let task = {
        let held = Arc::clone(&held);
        runtime::spawn(async move { held.lost().await })
    };
    tokio::task::yield_now().await;
    held.end(LossReason::AgentStopped);
    task.await.unwrap();
    assert_eq!(tokio_now(), began, "no timer was needed");
}

#[expect(clippy::disallowed_methods, reason = "tokio's paused time, to see that none passed")]
fn tokio_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// The machine slept: the clock counted it, the timer didn't.
#[tokio::test(start_paused = true)]
async fn a_loss_in_suspend_is_told_soon_after() {
    let (clock, held) = held();
    let held = Arc::new(held);
    let task = {
        let held = Arc::clone(&held);
        runtime::spawn(async move { held.lost().await })
    };
    tokio::task::yield_now().await;
    let woke = tokio_now();
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(task.await.unwrap(), LossReason::ExpiredWithoutContact { ttl: TTL });
    assert!(tokio_now() - woke <= LOOK_AT_LEAST_EVERY + Duration::from_millis(1));
}

/// `check` found the deadline passed, and waited for the lock while another thread took a newer reading.
#[test]
fn a_reading_that_waited_for_the_lock_accuses_no_clock() {
    let (clock, held) = held();
    clock.set(at(5_000));
    assert!(held.remaining() > Duration::ZERO);
    assert_eq!(held.decide(at(1_000), at(4_000)), Ok(()));
}

/// Threads that overtake each other between reading and publishing accuse no clock.
#[test]
fn many_threads_on_a_true_clock() {
    let clock = SystemClock;
    let held = on(Arc::new(clock), Session::granted(clock.now(), Duration::from_secs(3_600), drift()));
    thread::scope(|scope| {
        for n in 0..4 {
            let held = &held;
            scope.spawn(move || {
                for i in 0..20_000 {
                    held.check().unwrap();
                    match (i + n) % 5 {
                        0 => held.renewed(clock.now()).unwrap(),
                        1 => assert!(held.remaining() > Duration::ZERO),
                        _ => {}
                    }
                }
            });
        }
    });
}

/// Of threads that end it at once, one is told that it did.
#[test]
fn of_many_who_end_it_one_does() {
    for _ in 0..200 {
        let (_clock, held) = held();
        let ended = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..3).map(|_| scope.spawn(|| held.end(LossReason::ExpiredInContact))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).filter(|&did| did).count()
        });
        assert_eq!(ended, 1);
    }
}

/// Prints what a check costs; `cargo test --release check_costs -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "measured on another clock")]
fn what_a_check_costs() {
    let clock = SystemClock;
    let held = on(Arc::new(clock), Session::granted(clock.now(), Duration::from_secs(3_600), drift()));
    for what in ["clock alone", "check"] {
        let began = Instant::now();
        for _ in 0..1_000_000 {
            if what == "check" {
                held.check().unwrap();
            } else {
                std::hint::black_box(held.clock.now());
            }
        }
        println!("{what}: {} ns", began.elapsed().as_nanos() / 1_000_000);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Back(u64),
    Check,
    Remaining,
    Renewed { ago_ms: u64 },
    Failed,
    End(LossReason),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop_oneof![0..4_000_000_000u64, Just(9_900_000_000)].prop_map(Step::Pass),
        1 => (0..2_000_000_000u64).prop_map(Step::Back),
        4 => Just(Step::Check),
        2 => Just(Step::Remaining),
        6 => (0..5_000u64).prop_map(|ago_ms| Step::Renewed { ago_ms }),
        2 => Just(Step::Failed),
        1 => prop_oneof![Just(LossReason::ExpiredInContact), Just(LossReason::Released)].prop_map(Step::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// The session is the specification: the same readings give the same answers.
    #[test]
    fn it_does_what_the_session_does(steps in prop::collection::vec(step(), 1..40)) {
        let (clock, held) = held();
        let mut session = Session::granted(at(1_000), TTL, drift());
        for step in steps {
            let now = clock.now();
            match step {
                Step::Pass(ns) => clock.advance(Duration::from_nanos(ns)),
                Step::Back(ns) => clock.set(now - Duration::from_nanos(ns)),
                Step::Check => prop_assert_eq!(reason(&held), session.check(now).err().cloned()),
                Step::Remaining => prop_assert_eq!(held.remaining(), session.remaining(now)),
                Step::Renewed { ago_ms } => {
                    let sent = now - Duration::from_millis(ago_ms);
                    let answer = held.renewed(sent).err();
                    prop_assert_eq!(answer, session.renewed(sent, now).err().cloned());
                }
                Step::Failed => {
                    held.renewal_failed();
                    session.renewal_failed(now);
                }
                Step::End(why) => {
                    let told = session.check(now).is_ok() && session.end(why.clone());
                    prop_assert_eq!(held.end(why), told);
                }
            }
            let ended = session.ended().is_some();
            prop_assert_eq!(held.deadline(), if ended { Moment::ZERO } else { session.deadline() });
            prop_assert_eq!(held.next_renewal(), session.next_renewal());
        }
    }
}

/// What 100,000 leases in hand cost: this, two counters and malloc's word, and the name.
#[test]
fn a_lease_in_hand_is_small() {
    assert_eq!((size_of::<Held>(), size_of::<crate::Lease>()), (96, 64));
}
