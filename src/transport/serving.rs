//! Running requests: in the order of their arrival, side by side, and never past their caller's time.

use std::{
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::{
    Caller, Handler, Method,
    error::{Refusal, request_bytes_max},
};
use crate::runtime::timeout;

/// What became of a request that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Response(Bytes),
    Refusal(Refusal),
    /// It was begun, and its outcome can't be told.
    Failed(String),
}

/// A request that runs. `None` when its caller's time is up: nobody waits for the answer.
pub(crate) type Running = Pin<Box<dyn Future<Output = Option<Answer>> + Send>>;

/// Makes the future that runs one request. It does nothing before its first poll.
pub(crate) fn run(
    handler: Arc<dyn Handler>,
    caller: Arc<Caller>,
    method: Method,
    payload: Bytes,
    within: Duration,
) -> Running {
    Box::pin(async move {
        // A handler that panics fails its request, not the connection that it shares with others.
        let handled = AssertUnwindSafe(timeout(within, handler.handle(&caller, method, payload)));
        match handled.catch_unwind().await {
            Ok(Ok(Ok(response))) if response.len() > request_bytes_max() => Some(Answer::Failed(format!(
                "its answer has {} bytes, the largest that fits is {}",
                response.len(),
                request_bytes_max()
            ))),
            Ok(Ok(Ok(response))) => Some(Answer::Response(response)),
            Ok(Ok(Err(refusal))) => Some(Answer::Refusal(refusal)),
            Ok(Err(_)) => None,
            Err(_) => {
                tracing::error!(?method, ?caller, "the handler of a request panicked");
                Some(Answer::Failed("its handler panicked".to_owned()))
            }
        }
    })
}

/// Polls a future once: what it returned, if it is ready.
///
/// This is what keeps the order of arrival: each request is begun here, by the one task that reads them; only what is
/// not ready at once moves to a task of its own.
pub(crate) async fn begin(running: &mut Running) -> Poll<Option<Answer>> {
    poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx))).await
}
