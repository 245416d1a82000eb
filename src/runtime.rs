//! The seam: the one place through which everything above the transport spawns, sleeps, waits and rolls dice.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `runtime/real.rs` | tokio, and the operating system's randomness: what every build without the feature `chaos` is |
//! | `runtime/world.rs` | what a simulation must be able to do, and which one runs on this thread |
//! | `runtime/switch.rs` | the one inside of a simulation, the other outside |
//! | `runtime/watch.rs` | tokio's `watch` with an order of wakes that replays |
//!
//! A simulated cluster replays a run from a seed. For that, nothing else may spawn, sleep or select by itself:
//! `clippy.toml` bans it. What needs no runtime comes from `tokio::sync` directly: it wakes in the order of arrival, and
//! knows neither time nor dice. `watch` is the exception.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

mod real;
#[cfg(feature = "chaos")]
mod switch;
#[cfg(feature = "chaos")]
pub(crate) mod watch;
#[cfg(feature = "chaos")]
pub(crate) mod world;

#[cfg(not(feature = "chaos"))]
pub(crate) use self::real::{Spawner, random_u64, random_u128, sleep, spawn, spawn_blocking};
#[cfg(feature = "chaos")]
pub(crate) use self::switch::{
    Instant, JoinError, Spawner, Task, random_u64, random_u128, sleep, spawn, spawn_blocking,
};

/// A value that tasks wait on. Behind the seam, because the order in which it wakes its waiters must replay.
#[cfg(not(feature = "chaos"))]
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
