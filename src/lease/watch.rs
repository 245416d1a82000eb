//! Watching: the changes of a name, or of all names with a prefix, in order and without a gap.
//!
//! Every change has the log index of its entry, the same at every agent. A watcher asks for what comes after the last
//! index that it has heard of; an agent answers from its own replica as soon as there is something, from a bounded
//! memory. So a client goes on at the next agent where it stopped at the last, and an agent's own watcher asks itself in
//! the same way. Who asks for more than is remembered is told so, with what holds now.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use super::requester::Requester;
use crate::{
    change::{Change, ChangeKind, Filter},
    message::{Failure, Request, Response},
    runtime,
};

/// How long one question for changes waits; then it is asked anew.
const WATCH_AT_MOST: Duration = Duration::from_secs(5);
/// What the answer may take beyond that.
const ANSWER_AT_MOST: Duration = Duration::from_secs(5);
/// How long to wait after one that was not answered: some failures come at once.
const PAUSE: Duration = Duration::from_millis(200);

/// A stream of changes, in order, without a gap; made by [`Agent::watch`](crate::Agent::watch) and
/// [`Client::watch`](crate::Client::watch). Dropping it ends it.
///
/// An agent's watcher hears what this agent's replica applies, with no network; a client's asks one agent at a time, and
/// moves on with it to the next. Both may be behind the leader, but never miss a change unless they say so
/// ([`ChangeKind::Present`](crate::ChangeKind::Present) with `lagged`).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
/// # let network = leasehold::InProcessNetwork::new(1);
/// # let agent = leasehold::Agent::builder("agent-a").listen("127.0.0.1:7101").founders(["127.0.0.1:7101"])
/// #     .network(&network).start().await?;
/// use leasehold::ChangeKind;
///
/// let mut watch = agent.watch_prefix("orders/")?;
/// let lease = agent.acquire("orders/eu").await?;
/// let change = watch.next().await.expect("the agent runs");
/// assert!(matches!(change.kind, ChangeKind::Granted { token, .. } if token == lease.token()));
///
/// // Later, or elsewhere: on from there.
/// lease.release().await?;
/// let mut watch = agent.watch_prefix("orders/")?.since(change.index);
/// assert!(matches!(watch.next().await.expect("the agent runs").kind, ChangeKind::Ended { .. }));
/// # agent.shutdown().await; Ok(()) }
/// ```
#[must_use = "changes are told by next()"]
pub struct Watch {
    requester: Arc<dyn Requester>,
    filter: Filter,
    /// All changes up to this index are told, or ready; `None` before the present is.
    told: Option<u64>,
    ready: VecDeque<Change>,
}

impl Watch {
    pub(crate) fn new(requester: Arc<dyn Requester>, filter: Filter, from: u64) -> Self {
        Self { requester, filter, told: Some(from), ready: VecDeque::new() }
    }

    /// The changes after this log index instead of those from now on: to go on where another watcher stopped, also one
    /// of another agent. Of an index that the cluster has not reached, another cluster's for instance, it is told after
    /// some seconds, as one that lagged.
    pub fn since(mut self, index: u64) -> Self {
        self.told = Some(index);
        self.ready.clear();
        self
    }

    /// At first what holds now, as [`ChangeKind::Present`](crate::ChangeKind::Present), then the changes after it.
    pub fn with_present(mut self) -> Self {
        self.told = None;
        self.ready.clear();
        self
    }

    /// The next change; `None` when the agent or client in this process has stopped.
    ///
    /// Cancel-safe: nothing is lost between two calls.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(change);
            }
            let at_most_ms = u64::try_from(WATCH_AT_MOST.as_millis()).unwrap_or(u64::MAX);
            let request = Request::Watch { filter: self.filter.clone(), after: self.told, at_most_ms };
            match self.requester.ask(&request, WATCH_AT_MOST + ANSWER_AT_MOST).await.response {
                Response::Changes(news) => {
                    // What holds now is a new beginning, also where it is an earlier index: of a cluster that was
                    // founded anew.
                    let anew =
                        matches!(news.changes.first(), Some(Change { kind: ChangeKind::Present { .. }, .. }));
                    self.told = if anew { Some(news.upto) } else { self.told.max(Some(news.upto)) };
                    self.ready.extend(news.changes);
                }
                Response::Failed(Failure::Stopped(_)) => return None,
                // Nobody answered in all that time: nothing is missed by asking on.
                other => {
                    tracing::debug!(response = ?other, "no answer to a watcher yet");
                    runtime::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("filter", &self.filter)
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}
