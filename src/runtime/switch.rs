//! The seam of a build that can simulate: inside of a simulation everything goes there, outside it is tokio as ever.
//! The same names as in `real.rs`, and a clock for timers, which openraft asks for.

use std::{
    future::Future,
    ops::{Add, Sub},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::{
    real,
    world::{Job, Nap, Panicked, Place, guarded, world},
};
use crate::time::Moment;

/// A spawned task. Dropping the handle leaves the task running.
#[derive(Debug)]
pub(crate) struct Task<T>(Inner<T>);

#[derive(Debug)]
enum Inner<T> {
    Real(real::Task<T>),
    Simulated(oneshot::Receiver<Result<T, JoinError>>),
}

/// Why a task has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// It panicked.
    #[error("the task panicked")]
    Panicked,
    /// It was dropped: its machine, or its runtime, is gone.
    #[error("the task was dropped")]
    Dropped,
}

impl<T> Future for Task<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inner::Real(task) => task
                .poll_unpin(cx)
                .map_err(|error| if error.is_panic() { JoinError::Panicked } else { JoinError::Dropped }),
            Inner::Simulated(told) => told.poll_unpin(cx).map(|told| told.unwrap_or(Err(JoinError::Dropped))),
        }
    }
}

/// A simulated task. A panic ends it and is reported, as it would end a task of tokio's.
fn job<F>(future: F) -> (Job, Task<F::Output>)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (tell, told) = oneshot::channel();
    let job = Box::pin(async move {
        let outcome = guarded(future).await.map_err(|Panicked| JoinError::Panicked);
        let _ = tell.send(outcome);
    });
    (job, Task(Inner::Simulated(told)))
}

/// Starts a task where the present one belongs.
pub(crate) fn spawn<F>(future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match world() {
        None => Task(Inner::Real(real::spawn(future))),
        Some(world) => {
            let (job, task) = job(future);
            world.spawn(world.place(), job);
            task
        }
    }
}

/// Spawns where it was made, from anywhere: a lease may be dropped where no runtime runs.
#[derive(Debug, Clone)]
pub(crate) struct Spawner(At);

#[derive(Debug, Clone)]
enum At {
    Real(real::Spawner),
    Simulated(Place),
}

impl Spawner {
    /// For the current runtime, or the present life of the simulated machine.
    pub(crate) fn current() -> Self {
        Self(match world() {
            None => At::Real(real::Spawner::current()),
            Some(world) => At::Simulated(world.place()),
        })
    }

    /// The same, if this is called on a runtime or in a simulation.
    pub(crate) fn try_current() -> Option<Self> {
        Some(Self(match world() {
            None => At::Real(real::Spawner::try_current()?),
            Some(world) => At::Simulated(world.place()),
        }))
    }

    /// For one life of a simulated machine.
    pub(crate) fn at(place: Place) -> Self {
        Self(At::Simulated(place))
    }

    /// Starts a task. Once the runtime is shut down, or that life is over, the task is dropped unpolled.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.0 {
            At::Real(spawner) => spawner.spawn(task),
            At::Simulated(place) => {
                if let Some(world) = world() {
                    world.spawn(*place, job(task).0);
                }
            }
        }
    }
}

/// Runs work that blocks where it blocks no other task; in a simulation at once: there nothing takes time by itself.
pub(crate) fn spawn_blocking<F, T>(work: F) -> Task<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    if world().is_none() {
        return Task(Inner::Real(real::spawn_blocking(work)));
    }
    let (tell, told) = oneshot::channel();
    let _ = tell.send(Ok(work()));
    Task(Inner::Simulated(told))
}

/// Waits. On Linux the timer does not count suspend: read the [`Clock`](crate::Clock) again after it.
pub(crate) async fn sleep(span: Duration) {
    // The world itself must not live over the wait: it belongs to one thread.
    match world().map(|world| world.now() + span) {
        None => real::sleep(span).await,
        Some(until) => Nap::until(until).await,
    }
}

/// 128 random bits.
pub(crate) fn random_u128() -> u128 {
    match world() {
        None => real::random_u128(),
        Some(world) => u128::from(world.random()) << 64 | u128::from(world.random()),
    }
}

/// 64 random bits.
pub(crate) fn random_u64() -> u64 {
    world().map_or_else(real::random_u64, |world| world.random())
}

/// A reading of the clock by which timers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Instant {
    Real(tokio::time::Instant),
    Simulated(Moment),
}

impl Instant {
    /// The present one.
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub(crate) fn now() -> Self {
        world().map_or_else(|| Self::Real(tokio::time::Instant::now()), |world| Self::Simulated(world.now()))
    }

    /// Waits until it has come.
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub(crate) async fn reached(self) {
        match self {
            Self::Real(instant) => tokio::time::sleep_until(instant).await,
            Self::Simulated(moment) => Nap::until(moment).await,
        }
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        match self {
            Self::Real(instant) => Self::Real(instant + span),
            Self::Simulated(moment) => Self::Simulated(moment + span),
        }
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        match self {
            Self::Real(instant) => Self::Real(instant - span),
            Self::Simulated(moment) => Self::Simulated(moment - span),
        }
    }
}

/// Nothing where the other is later, or of another world.
impl Sub for Instant {
    type Output = Duration;
    fn sub(self, other: Self) -> Duration {
        match (self, other) {
            (Self::Real(one), Self::Real(other)) => one.saturating_duration_since(other),
            (Self::Simulated(one), Self::Simulated(other)) => one.since(other),
            _ => Duration::ZERO,
        }
    }
}
