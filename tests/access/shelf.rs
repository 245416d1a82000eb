//! A provider as someone else would write it, whose every call can go wrong: what a write guard may believe is held
//! against what the provider would grant.
//!
//! It lives in tokio's time, real or paused. Its dates are on the real wall clock, which paused time doesn't move.

use std::{
    future::{Future, pending},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use leasehold::{
    Access, Clock, Error, LeaseGuard, Moment, Result, WriteGuard, WriteLease, WriteLeaseProvider, WriteLost,
};
use tokio::{sync::watch, time::Instant};

/// What it grants lives so long.
pub(crate) const TTL: Duration = Duration::from_secs(9);

/// How a call is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    /// At once, as it should be.
    Well,
    /// As it should be, but the answer takes this long after it was done.
    LateAfter(Duration),
    /// It takes this long, and then it is done and answered.
    LateBefore(Duration),
    /// It is not done, and fails.
    Fails,
    /// It is not done, and never answered.
    Hangs,
    /// It is done, and never answered.
    DoneAndHangs,
    /// A heartbeat says that it knows no such guard.
    Gone,
    /// It panics.
    Panics,
}

/// A call, and when it came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Call {
    Acquire,
    Heartbeat,
    HeartbeatDone,
    Release,
}

/// The provider's side. Clones are the same.
#[derive(Clone)]
pub(crate) struct Shelf(Arc<Inside>);

struct Inside {
    began: Instant,
    ttl: Duration,
    state: Mutex<State>,
    calls: watch::Sender<usize>,
}

struct State {
    held: Option<(String, Instant)>,
    granted: u64,
    acquires: Answer,
    heartbeats: Answer,
    releases: Answer,
    /// Added to every date that is given out.
    date_is_off_by: TimeDelta,
    /// A heartbeat takes whatever it is told, even after release.
    revives: bool,
    calls: Vec<(Call, Duration)>,
    /// Looked at when a release comes: nobody may believe in what is being released.
    believer: Option<Arc<WriteGuard>>,
    believed_at_release: bool,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self::with_ttl(TTL)
    }

    pub(crate) fn with_ttl(ttl: Duration) -> Self {
        let state = State {
            held: None,
            granted: 0,
            acquires: Answer::Well,
            heartbeats: Answer::Well,
            releases: Answer::Well,
            date_is_off_by: TimeDelta::zero(),
            revives: false,
            calls: Vec::new(),
            believer: None,
            believed_at_release: false,
        };
        let (calls, _) = watch::channel(0);
        Self(Arc::new(Inside { began: Instant::now(), ttl, state: Mutex::new(state), calls }))
    }

    pub(crate) fn lease(&self) -> WriteLease {
        WriteLease::Custom(Box::new(self.clone()))
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.state.lock().unwrap())
    }

    pub(crate) fn acquires(&self, answer: Answer) {
        self.with(|state| state.acquires = answer);
    }

    pub(crate) fn heartbeats(&self, answer: Answer) {
        self.with(|state| state.heartbeats = answer);
    }

    pub(crate) fn releases(&self, answer: Answer) {
        self.with(|state| state.releases = answer);
    }

    pub(crate) fn date_is_off_by(&self, off: TimeDelta) {
        self.with(|state| state.date_is_off_by = off);
    }

    pub(crate) fn revives(&self) {
        self.with(|state| state.revives = true);
    }

    pub(crate) fn watches(&self, believer: Arc<WriteGuard>) {
        self.with(|state| state.believer = Some(believer));
    }

    pub(crate) fn believed_at_release(&self) -> bool {
        self.with(|state| state.believed_at_release)
    }

    /// Whether it would refuse another writer now.
    pub(crate) fn is_held(&self) -> bool {
        self.with(|state| state.is_held())
    }

    /// Since when it exists.
    pub(crate) fn age(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// When such calls came.
    pub(crate) fn calls(&self, call: Call) -> Vec<Duration> {
        self.with(|state| state.calls.iter().filter(|(was, _)| *was == call).map(|(_, at)| *at).collect())
    }

    /// Waits until as many such calls have come.
    pub(crate) async fn until(&self, call: Call, count: usize) {
        let mut calls = self.0.calls.subscribe();
        soon(calls.wait_for(|_| self.calls(call).len() >= count)).await.unwrap();
    }

    fn came(&self, call: Call) {
        self.with(|state| state.calls.push((call, self.age())));
        self.0.calls.send_modify(|calls| *calls += 1);
    }

    async fn answer<T>(&self, answer: Answer, done: impl FnOnce() -> Result<T>) -> Result<T> {
        match answer {
            Answer::Well => done(),
            Answer::LateAfter(span) => {
                let answer = done();
                tokio::time::sleep(span).await;
                answer
            }
            Answer::LateBefore(span) => {
                tokio::time::sleep(span).await;
                done()
            }
            Answer::Fails => Err(Error::provider("the shelf is out of reach")),
            Answer::Hangs => pending().await,
            Answer::DoneAndHangs => {
                let _ = done();
                pending().await
            }
            Answer::Gone => Err(Error::ForeignGuard { detail: "the shelf knows no such guard".into() }),
            Answer::Panics => panic!("the shelf falls over"),
        }
    }
}

impl State {
    fn is_held(&self) -> bool {
        self.held.as_ref().is_some_and(|(_, until)| Instant::now() < *until)
    }
}

#[async_trait]
impl WriteLeaseProvider for Shelf {
    async fn acquire(&self) -> Result<LeaseGuard> {
        self.came(Call::Acquire);
        let answer = self.with(|state| state.acquires);
        self.answer(answer, || {
            self.with(|state| {
                if state.is_held() {
                    return Err(Error::provider("another writer has it"));
                }
                state.granted += 1;
                let lease_id = format!("shelf-{}", state.granted);
                state.held = Some((lease_id.clone(), Instant::now() + self.0.ttl));
                let ttl = TimeDelta::from_std(self.0.ttl).unwrap();
                let date = Utc::now() + ttl;
                let expires_at = date.checked_add_signed(state.date_is_off_by);
                Ok(LeaseGuard { lease_id, expires_at: expires_at.unwrap_or(DateTime::<Utc>::MAX_UTC) })
            })
        })
        .await
    }

    async fn heartbeat(&self, guard: &LeaseGuard) -> Result<()> {
        self.came(Call::Heartbeat);
        let answer = self.with(|state| state.heartbeats);
        let answered = self.answer(answer, || {
            self.with(|state| {
                let until = Instant::now() + self.0.ttl;
                let is_its =
                    state.is_held() && state.held.as_ref().is_some_and(|(id, _)| *id == guard.lease_id);
                if !(is_its || state.revives) {
                    return Err(Error::provider("it is over"));
                }
                state.held = Some((guard.lease_id.clone(), until));
                Ok(())
            })
        });
        let answered = answered.await;
        self.came(Call::HeartbeatDone);
        answered
    }

    async fn release(&self, guard: LeaseGuard) -> Result<()> {
        self.came(Call::Release);
        let answer = self.with(|state| {
            let believer = state.believer.take();
            state.believed_at_release |= believer.is_some_and(|guard| guard.check().is_ok());
            state.releases
        });
        self.answer(answer, || {
            self.with(|state| state.held.take_if(|(id, _)| *id == guard.lease_id));
            Ok(())
        })
        .await
    }
}

/// A process's clock that goes with tokio's time.
pub(crate) struct TokioClock(Instant);

impl TokioClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Moment {
        Moment::ZERO + Duration::from_secs(1) + self.0.elapsed()
    }
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// What the real wall clock may move between a date and its reading, on a busy machine.
const GRAIN: Duration = Duration::from_millis(200);

/// For all that must come to pass: fails the test otherwise.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TTL * 4, future).await.unwrap()
}

/// To such a provider, in tokio's time.
pub(crate) fn access(shelf: &Shelf) -> Access {
    Access::read_write(shelf.lease()).clock(TokioClock::new())
}

/// Waits until the shelf is so old.
pub(crate) async fn at(shelf: &Shelf, age: Duration) {
    tokio::time::sleep(age.saturating_sub(shelf.age())).await;
}

pub(crate) fn is_near(moment: Duration, expected: Duration) -> bool {
    moment + GRAIN >= expected && moment <= expected + GRAIN
}

/// Waits for the loss, which must come before the provider would grant it to another.
pub(crate) async fn lost_in_time(guard: &WriteGuard, shelf: &Shelf) -> WriteLost {
    let lost = soon(guard.lost()).await;
    assert!(shelf.is_held(), "the provider's own time came first, at {:?}", shelf.age());
    assert_eq!(guard.check(), Err(lost.clone()), "everybody is told the same");
    assert_eq!(guard.lost().await, lost);
    assert_eq!(guard.remaining(), Duration::ZERO);
    lost
}
