//! The seam: the one place through which everything above the transport spawns, sleeps, waits and rolls dice.
//!
//! Today it is tokio and the thread's random generator. A simulated cluster replaces what is behind these
//! functions (and openraft's runtime, which [`crate::raft`] builds on them), and replays a run from a seed.
//! For that, nothing else may spawn, sleep or select by itself: `clippy.toml` bans it.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use rand::Rng as _;

/// A spawned task. Dropping the handle leaves the task running.
pub(crate) type Task<T> = tokio::task::JoinHandle<T>;

/// Starts a task on the current runtime.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub(crate) fn spawn<F>(future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Spawns on the runtime on which it was made, from any thread: a lease may be dropped where no runtime runs.
#[derive(Debug, Clone)]
pub(crate) struct Spawner(tokio::runtime::Handle);

impl Spawner {
    /// For the current runtime.
    pub(crate) fn current() -> Self {
        Self(tokio::runtime::Handle::current())
    }

    /// Starts a task. Once the runtime is shut down, the task is dropped unpolled.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }
}

/// Runs work that blocks (a file, a database that opens) where it blocks no other task.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub(crate) fn spawn_blocking<F, T>(work: F) -> Task<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(work)
}

/// Waits. On Linux the timer does not count suspend: read the [`Clock`](crate::Clock) again after it.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub(crate) async fn sleep(span: Duration) {
    tokio::time::sleep(span).await;
}

/// A value that tasks wait on. Behind the seam, because the order in which it wakes its waiters must replay.
pub(crate) mod watch {
    pub(crate) use tokio::sync::watch::{Receiver, Sender, channel};
}

/// The span was over before the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimedOut;

/// Runs the future for at most this long; dropped when the span is over.
pub(crate) async fn timeout<F: Future>(span: Duration, future: F) -> Result<F::Output, TimedOut> {
    match select2(future, sleep(span)).await {
        Either::First(output) => Ok(output),
        Either::Second(()) => Err(TimedOut),
    }
}

/// Which of two futures was ready first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Either<A, B> {
    /// The first, also when both were ready.
    First(A),
    /// The second.
    Second(B),
}

/// Waits for the first of two futures. Polls in the order of the arguments, so the same wakes give the same choice.
/// Drops the other.
pub(crate) async fn select2<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let mut a = pin!(a);
    let mut b = pin!(b);
    poll_fn(|cx| {
        if let Poll::Ready(output) = a.as_mut().poll(cx) {
            return Poll::Ready(Either::First(output));
        }
        b.as_mut().poll(cx).map(Either::Second)
    })
    .await
}

/// Dice that fall as their seed says, on every machine and in every version: splitmix64 (Steele, Lea and Flood, 2014).
/// For what must replay; never for ids that others must not guess.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice with this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// 128 random bits, from the operating system's generator by way of the thread's.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub(crate) fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    u128::from_le_bytes(bytes)
}

/// 64 random bits.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub(crate) fn random_u64() -> u64 {
    rand::rng().next_u64()
}

/// A random span between the two, both included: for back-off, so that agents don't knock in step.
pub(crate) fn random_between(least: Duration, most: Duration) -> Duration {
    let width = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX);
    least + Duration::from_nanos(if width == u64::MAX { random_u64() } else { random_u64() % (width + 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_argument_wins_a_tie() {
        for _ in 0..100 {
            assert_eq!(select2(async { 1 }, async { 2 }).await, Either::First(1));
        }
        assert_eq!(timeout(Duration::from_millis(1), std::future::pending::<()>()).await, Err(TimedOut));
    }

    #[test]
    fn jitter_keeps_to_its_bounds() {
        let (least, most) = (Duration::from_millis(3), Duration::from_millis(5));
        assert!((0..1000).map(|_| random_between(least, most)).all(|span| span >= least && span <= most));
        assert_eq!(random_between(least, least), least);
    }
}
