//! Where a lease's requests go: an agent routes them to the leader, a client to any agent. What is above this line
//! is written once for both.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    clock::Clock,
    config::Timing,
    message::{Failure, Request, Response},
    table::Holder,
};

/// The answer to a request, and how it came about.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The answer.
    pub(crate) response: Response,
    /// Whether an earlier copy may have been taken: then the answer may be about that one.
    pub(crate) repeated: bool,
}

/// Asks, on behalf of leases.
#[async_trait]
pub(crate) trait Requester: Send + Sync + 'static {
    /// The clock by which this process's leases run out.
    fn clock(&self) -> &Arc<dyn Clock>;

    /// The cluster's timing.
    fn timing(&self) -> &Timing;

    /// Who asks.
    fn holder(&self) -> &Holder;

    /// A log index that was applied somewhere before this call ended, not before it began: what an acquisition's
    /// `seen` must be.
    async fn seen(&self, within: Duration) -> Result<u64, Failure>;

    /// Asks until there is an answer or the time is over, over leader changes and lost answers, with the same request.
    /// Dropping the future sends nothing more; what was sent may still take effect.
    async fn ask(&self, request: &Request, within: Duration) -> Answered;

    /// Starts a task that this requester, when it stops, lets finish for a while.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>);

    /// Starts a task that ends where it stands when this requester stops.
    fn spawn_while_open(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>);
}
