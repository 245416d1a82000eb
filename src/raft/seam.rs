//! openraft's runtime in a build that can simulate: the seam in openraft's words. Outside of a simulation it is tokio.
//!
//! Channels and locks are tokio's in both: they need no runtime, and wake in the order of arrival. `watch` is our own.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    io,
    ops::{Add, AddAssign, Sub, SubAssign},
    panic::resume_unwind,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt as _;
use openraft_rt::{AsyncRuntime, OptionalSend, OptionalSync, watch};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime};

use crate::runtime::{self, JoinError, Task, TimedOut, world::world};

/// A runtime of openraft's. It holds one of tokio's when it was made outside of a simulation, for openraft's tests.
#[derive(Debug)]
pub(crate) struct Runtime(Option<TokioRuntime>);

/// A timer that was set when it was made.
type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

impl AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = Task<T>;
    type Sleep = Timer;
    type Instant = Instant;
    type TimeoutError = TimedOut;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = Dice;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        runtime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Self::sleep_until(<Instant as openraft_rt::Instant>::now() + duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Box::pin(deadline.0.reached())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Timeout { future: Box::pin(future), timer: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Timeout { future: Box::pin(future), timer: Self::sleep_until(deadline) }
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        matches!(join_error, JoinError::Panicked)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Dice
    }

    type Mpsc = TokioMpsc;
    type Watch = Watch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn new(threads: usize) -> Self {
        Self(world().is_none().then(|| TokioRuntime::new(threads)))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        if let Some(tokio) = &mut self.0 {
            return tokio.block_on(future);
        }
        let mut output = None;
        if let Some(world) = world() {
            world.block_on(pin!(async { output = Some(future.await) }));
        }
        match output {
            Some(output) => output,
            // Only openraft's tests come here, and their trait has no other way to say it.
            None => resume_unwind(Box::new("the simulation can't go on, and the future isn't done")),
        }
    }

    async fn spawn_blocking<F, T>(f: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        runtime::spawn_blocking(f).await.map_err(io::Error::other)
    }
}

/// The seam's instant, to openraft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(runtime::Instant);

impl openraft_rt::Instant for Instant {
    fn now() -> Self {
        Self(runtime::Instant::now())
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0 + span)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self(self.0 - span)
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, span: Duration) {
        *self = *self - span;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, other: Self) -> Duration {
        self.0 - other.0
    }
}

/// A future and its end.
pub(crate) struct Timeout<F> {
    future: Pin<Box<F>>,
    timer: Timer,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.poll_unpin(cx) {
            return Poll::Ready(Ok(output));
        }
        self.timer.poll_unpin(cx).map(|()| Err(TimedOut))
    }
}

/// The seam's randomness, to openraft: election timeouts, and the phase of its ticks.
pub(crate) struct Dice;

impl rand::TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((runtime::random_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(runtime::random_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let rolled = runtime::random_u64().to_le_bytes();
            chunk.iter_mut().zip(rolled).for_each(|(byte, rolled)| *byte = rolled);
        }
        Ok(())
    }
}

/// The seam's `watch`, to openraft.
pub(crate) struct Watch;

/// See [`Watch`].
pub(crate) struct Sender<T>(runtime::watch::Sender<T>);

/// See [`Watch`].
pub(crate) struct Receiver<T>(runtime::watch::Receiver<T>);

impl watch::Watch for Watch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = runtime::watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = runtime::watch::channel(init);
        (Sender(sender), Receiver(receiver))
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        self.0.send(value).map_err(|runtime::watch::SendError(value)| watch::SendError(value))
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> runtime::watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver(self.0.subscribe())
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), watch::RecvError> {
        self.0.changed().await.map_err(|runtime::watch::RecvError| watch::RecvError(()))
    }

    fn borrow_watched(&self) -> runtime::watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> runtime::watch::Ref<'_, T> {
        self.0.borrow_and_update()
    }
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time is up")
    }
}

#[cfg(test)]
mod tests;
