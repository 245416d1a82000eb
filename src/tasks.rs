//! One owner for every task of an agent or a client: all end when it stops, and stopping waits for them.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::runtime::{self, Spawner};

/// The tasks of one agent or client.
#[derive(Clone)]
pub(crate) struct Tasks {
    spawner: Spawner,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// Tasks on the runtime that this is called on. They can be spawned from any thread.
    pub(crate) fn new() -> Self {
        Self { spawner: Spawner::current(), stop: CancellationToken::new(), tracker: TaskTracker::new() }
    }

    /// Starts a task that ends when the owner stops, wherever it then waits.
    pub(crate) fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        let tracked = self.tracker.track_future(async move {
            let _ = runtime::select2(stop.cancelled(), future).await;
        });
        self.spawner.spawn(tracked);
    }

    /// Starts a task that nothing here ends or waits for: the one that stops the owner.
    pub(crate) fn spawn_apart<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawner.spawn(future);
    }

    /// Whether the owner is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Resolves when the owner stops.
    pub(crate) async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Tells every task to end, without waiting.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
    }

    /// Waits until every task has ended.
    pub(crate) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
