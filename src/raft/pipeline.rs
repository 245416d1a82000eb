//! Replication to one follower, with the next entries on their way before the last commit mark is acknowledged.
//!
//! openraft's own way is one request at a time. After an entry is committed it tells the followers so, in a request
//! without entries, and the next entry waits until that one is answered: a round trip of the control lane, on the path
//! of every acquisition that closely follows another. Here requests without entries hold nothing up. Those with
//! entries still go one at a time: while one is under way the next ones gather, and share its successor.
//!
//! # Why an answer is held back
//!
//! openraft counts an acknowledgement from the moment at which the request was sent, and a `ReadIndex` is confirmed by
//! a quorum of acknowledgements that were *sent* after the question. It matches answers to requests by log id: an
//! answer for the id X acknowledges every request under way that ends at X or before, and takes the time of the newest
//! of them. Two requests without entries end at the same X. So the answer to the first would vouch for the second,
//! which the follower may not have seen, nor ever see: a deposed leader could confirm a renewal by it (rules L1, L5).
//!
//! Therefore an answer for X is handed on only when every request under way that ends at X or before is answered as
//! well; and when one of these failed, its failure is handed on instead, and the stream ends.
//!
//! Rejected: several requests with entries under way. A batch then ends as soon as the first entry is there, and 64
//! tasks pay for 64 small requests.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt as _};
use openraft::{
    errors::{NetworkError, RPCError},
    raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError},
};

use super::types::{LogId, Types};
use crate::limits::APPENDS_UNDER_WAY_MAX;

pub(super) type Request = AppendEntriesRequest<Types>;
pub(super) type Response = Result<AppendEntriesResponse<Types>, RPCError<Types>>;
/// What openraft is handed: the log id up to which the follower agrees, or why not.
pub(super) type Answer = Result<Result<Option<LogId>, StreamAppendError<Types>>, RPCError<Types>>;

/// A request under way.
struct UnderWay<F> {
    prev: Option<LogId>,
    last: Option<LogId>,
    state: State<F>,
}

enum State<F> {
    Waiting(Pin<Box<F>>),
    Answered(Answer),
}

impl<F: Future<Output = Response>> UnderWay<F> {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let State::Waiting(call) = &mut self.state
            && let Poll::Ready(response) = call.as_mut().poll(cx)
        {
            self.state = State::Answered(match response {
                // openraft takes this for impossible, and a peer's answer must not make it panic.
                Ok(AppendEntriesResponse::Conflict) if self.prev.is_none() => Err(RPCError::Network(
                    NetworkError::from_string("the peer reports a conflict before the first entry"),
                )),
                Ok(response) => Ok(response.into_stream_result(self.prev, self.last)),
                Err(error) => Err(error),
            });
        }
    }

    /// It was answered, and the follower agrees with all of it.
    fn agrees(&self) -> bool {
        matches!(&self.state, State::Answered(Ok(Ok(upto))) if *upto == self.last)
    }
}

/// The answers to a stream of requests, in the order of the requests. It ends with the first that is no full agreement.
pub(super) struct Pipeline<S, C, F> {
    /// `None` when it has ended.
    input: Option<S>,
    call: C,
    under_way: VecDeque<UnderWay<F>>,
}

impl<S, C, F> Pipeline<S, C, F>
where
    S: Stream<Item = Request> + Unpin,
    C: FnMut(Request) -> F,
    F: Future<Output = Response>,
{
    /// `call` sends one request; what it returns is polled for the first time in the order of the requests.
    pub(super) fn new(input: S, call: C) -> Self {
        Self { input: Some(input), call, under_way: VecDeque::new() }
    }

    /// Sends what may be sent now.
    fn send(&mut self, cx: &mut Context<'_>) {
        while self.under_way.len() < APPENDS_UNDER_WAY_MAX
            && self.under_way.iter().all(|request| request.last == request.prev)
            && let Some(input) = &mut self.input
        {
            match input.poll_next_unpin(cx) {
                Poll::Ready(Some(request)) => {
                    let last = request.entries.last().map(|entry| entry.log_id);
                    let (prev, last) = (request.prev_log_id, last.or(request.prev_log_id));
                    let call = Box::pin((self.call)(request));
                    let mut request = UnderWay { prev, last, state: State::Waiting(call) };
                    request.poll(cx);
                    self.under_way.push_back(request);
                }
                Poll::Ready(None) => self.input = None,
                Poll::Pending => return,
            }
        }
    }

    /// The answer to the first request, if it may be handed on; see the file's head.
    fn take(&mut self) -> Option<Answer> {
        let first = self.under_way.front()?;
        if matches!(first.state, State::Waiting(_)) {
            return None;
        }
        let mut at = 0;
        if first.agrees() {
            let upto = first.last;
            for (later, request) in self.under_way.iter().enumerate().skip(1) {
                if request.last > upto {
                    break;
                }
                match &request.state {
                    State::Waiting(_) => return None,
                    State::Answered(_) if request.agrees() => {}
                    State::Answered(_) => {
                        at = later;
                        break;
                    }
                }
            }
        }
        let taken = self.under_way.remove(at)?;
        if !taken.agrees() {
            self.input = None;
            self.under_way.clear();
        }
        match taken.state {
            State::Answered(answer) => Some(answer),
            State::Waiting(_) => None,
        }
    }
}

impl<S, C, F> Unpin for Pipeline<S, C, F> {}

impl<S, C, F> Stream for Pipeline<S, C, F>
where
    S: Stream<Item = Request> + Unpin,
    C: FnMut(Request) -> F,
    F: Future<Output = Response>,
{
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        let this = &mut *self;
        this.under_way.iter_mut().for_each(|request| request.poll(cx));
        // Before an answer is taken: what is sent now may be a request that it would vouch for.
        this.send(cx);
        match this.take() {
            Some(answer) => Poll::Ready(Some(answer)),
            None if this.input.is_none() && this.under_way.is_empty() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests;
