//! The real runtime: tokio, and the operating system's random generator by way of the thread's.

use std::{future::Future, time::Duration};

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

    /// For the current runtime, if this is called on one.
    pub(crate) fn try_current() -> Option<Self> {
        tokio::runtime::Handle::try_current().ok().map(Self)
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

/// 128 random bits.
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
