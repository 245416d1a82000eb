//! One owner for every task of a node: all end when it stops, and stopping waits for them.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::runtime::{self, Task};

/// The tasks of one node.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// Starts a task that ends when the node stops, wherever it then waits.
    pub(crate) fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        let tracked = self.tracker.track_future(async move {
            let _ = runtime::select2(stop.cancelled(), future).await;
        });
        let _: Task<()> = runtime::spawn(tracked);
    }

    /// Whether the node is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Resolves when the node stops.
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
