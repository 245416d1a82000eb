//! How often an observer is sent what is new.
//!
//! Nothing waits for an observer: it has no vote. But a message to each of fifty, for each entry, would be sent while the
//! voters' answers come in, and every acquisition would wait behind them. So entries for an observer gather for a while,
//! the longer the more of them there are: a leader sends all its observers together so many messages in a second, however
//! many they are. One that is far behind, with more to come than goes into one message, is sent that at once.
//!
//! It costs observers an age: what they have applied is older by that while, at most a quarter of a heartbeat.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};

use super::pipeline::Request;
use crate::{limits::ENTRIES_PER_APPEND_MAX, runtime};

/// For each observer of a cluster, so that they are sent 2,000 messages a second in all.
const PER_OBSERVER: Duration = Duration::from_micros(500);

/// How long the entries for one of so many observers gather.
pub(super) fn pause(observers: u32, heartbeat: Duration) -> Duration {
    PER_OBSERVER.saturating_mul(observers).min(heartbeat / 4)
}

/// Requests, with a pause after each; entries that come meanwhile are in the next one.
pub(super) struct Paced<S, P> {
    input: S,
    /// How long, now: an observer may become a voter.
    pause: P,
    resting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S, P> Paced<S, P> {
    pub(super) fn new(input: S, pause: P) -> Self {
        Self { input, pause, resting: None }
    }
}

impl<S, P> Unpin for Paced<S, P> {}

impl<S, P> Stream for Paced<S, P>
where
    S: Stream<Item = Request> + Unpin,
    P: Fn() -> Duration,
{
    type Item = Request;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        let this = &mut *self;
        if let Some(resting) = &mut this.resting {
            ready!(resting.as_mut().poll(cx));
            this.resting = None;
        }
        let next = ready!(this.input.poll_next_unpin(cx));
        if next.as_ref().is_some_and(|request| (request.entries.len() as u64) < ENTRIES_PER_APPEND_MAX) {
            let pause = (this.pause)();
            if !pause.is_zero() {
                let mut resting = Box::pin(runtime::sleep(pause));
                // From now on, and not from when it is looked at next.
                if resting.as_mut().poll(cx).is_pending() {
                    this.resting = Some(resting);
                }
            }
        }
        Poll::Ready(next)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::{FutureExt as _, stream};
    use openraft::EntryPayload;

    use super::*;
    use crate::{
        id::NodeId,
        raft::types::{Entry, LogId, Vote, leader_of},
    };

    fn request(entries: u64) -> Request {
        let leader_id = openraft::impls::leader_id_std::LeaderId { term: 1, voted_for: NodeId::from_bits(1) };
        let id = |index| LogId::new(leader_of(1), index);
        Request {
            vote: Vote { leader_id, committed: true },
            prev_log_id: None,
            entries: (0..entries).map(|n| Entry { log_id: id(n), payload: EntryPayload::Blank }).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn fifty_observers_are_sent_as_much_as_one_and_none_waits_for_long() {
        let beat = Duration::from_millis(100);
        assert_eq!(pause(0, beat), Duration::ZERO);
        assert_eq!(pause(2, beat), Duration::from_millis(1));
        assert_eq!(pause(50, beat), Duration::from_millis(25));
        assert_eq!(pause(u32::MAX, beat), Duration::from_millis(25));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_meanwhile_waits_and_a_voter_or_one_that_is_far_behind_does_not() {
        let (full, ms) = (ENTRIES_PER_APPEND_MAX, Duration::from_millis);
        let span = Cell::new(ms(20));
        let input = stream::iter([1, full, 1, 1, 1].map(request)).chain(stream::pending());
        let mut paced = Paced::new(input, || span.get());
        let mut now = |what: &str| paced.next().now_or_never().unwrap_or_else(|| panic!("{what}"));
        now("the first");
        tokio::time::advance(ms(15)).await;
        assert!(paced.next().now_or_never().is_none());
        tokio::time::advance(ms(10)).await;
        let mut now = |what: &str| paced.next().now_or_never().unwrap_or_else(|| panic!("{what}"));
        now("a full one");
        now("what comes after a full one");
        tokio::time::advance(ms(25)).await;
        span.set(Duration::ZERO);
        let mut now = |what: &str| paced.next().now_or_never().unwrap_or_else(|| panic!("{what}"));
        now("one to a voter");
        now("another one to a voter");
    }
}
