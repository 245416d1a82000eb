//! The pipeline driven by hand: which requests are under way, which answers are handed on, and when.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, task::Waker};

use futures_util::{FutureExt as _, StreamExt as _};
use openraft::{EntryPayload, errors::Unreachable};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::oneshot;

use super::*;
use crate::{
    id::NodeId,
    raft::types::{Entry, Vote, leader_of},
};

fn at(index: u64) -> Option<LogId> {
    Some(LogId::new(leader_of(1), index))
}

fn vote(term: u64) -> Vote {
    let leader_id = openraft::impls::leader_id_std::LeaderId { term, voted_for: NodeId::from_bits(1) };
    Vote { leader_id, committed: true }
}

/// The entries after `prev` up to `last`; a commit mark when there are none.
fn request(prev: u64, last: u64) -> Request {
    let entries = (prev + 1..=last)
        .map(|index| Entry { log_id: LogId::new(leader_of(1), index), payload: EntryPayload::Blank })
        .collect();
    Request { vote: vote(1), prev_log_id: at(prev), entries, leader_commit: at(prev) }
}

fn lost() -> Response {
    Err(RPCError::Unreachable(Unreachable::from_string("lost")))
}

/// Requests that are to be sent, and those that were, each with where its response goes.
#[derive(Default)]
struct Script {
    to_send: VecDeque<Request>,
    over: bool,
    sent: Vec<(Option<LogId>, Option<oneshot::Sender<Response>>)>,
}

struct Driven {
    script: Rc<RefCell<Script>>,
    answers: Pin<Box<dyn Stream<Item = Answer>>>,
}

impl Driven {
    fn new() -> Self {
        let script = Rc::new(RefCell::new(Script::default()));
        let (source, sink) = (script.clone(), script.clone());
        let input = futures_util::stream::poll_fn(move |_| {
            let mut script = source.borrow_mut();
            match script.to_send.pop_front() {
                Some(request) => Poll::Ready(Some(request)),
                None if script.over => Poll::Ready(None),
                None => Poll::Pending,
            }
        });
        let call = move |request: Request| {
            let (respond, response) = oneshot::channel();
            let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
            sink.borrow_mut().sent.push((last, Some(respond)));
            response.map(|response| response.unwrap_or_else(|_| lost()))
        };
        Self { script, answers: Box::pin(Pipeline::new(input, call)) }
    }

    fn send(&self, prev: u64, last: u64) {
        self.script.borrow_mut().to_send.push_back(request(prev, last));
    }

    /// `None` for "not yet", `Some(None)` for "it has ended".
    fn next(&mut self) -> Option<Option<Answer>> {
        match self.answers.poll_next_unpin(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    fn agreed(&mut self) -> Option<LogId> {
        match self.next() {
            Some(Some(Ok(Ok(upto)))) => upto,
            other => panic!("{other:?}"),
        }
    }

    fn sent(&self) -> usize {
        self.script.borrow().sent.len()
    }

    fn respond(&self, nth: usize, response: Response) {
        let respond = self.script.borrow_mut().sent[nth].1.take();
        // One that was given up hears nothing.
        let _ = respond.expect("it was answered already").send(response);
    }

    fn agree(&self, nth: usize) {
        self.respond(nth, Ok(AppendEntriesResponse::Success));
    }
}

#[test]
fn entries_do_not_wait_for_a_commit_mark_to_be_acknowledged() {
    let mut driven = Driven::new();
    driven.send(5, 5);
    driven.send(5, 6);
    assert!(driven.next().is_none());
    assert_eq!(driven.sent(), 2);
    driven.agree(0);
    assert_eq!(driven.agreed(), at(5));
    driven.agree(1);
    assert_eq!(driven.agreed(), at(6));
}

#[test]
fn of_requests_with_entries_one_is_under_way_and_so_they_gather() {
    let mut driven = Driven::new();
    driven.send(5, 6);
    driven.send(6, 7);
    assert!(driven.next().is_none());
    assert_eq!(driven.sent(), 1);
    driven.agree(0);
    assert_eq!(driven.agreed(), at(6));
    assert!(driven.next().is_none());
    assert_eq!(driven.sent(), 2);
}

#[test]
fn commit_marks_under_way_are_bounded() {
    let mut driven = Driven::new();
    (0..2 * APPENDS_UNDER_WAY_MAX).for_each(|_| driven.send(5, 5));
    assert!(driven.next().is_none());
    assert_eq!(driven.sent(), APPENDS_UNDER_WAY_MAX);
}

/// Rules L1 and L5: openraft takes an agreement up to 5 for an answer to both, and the later one's time for its time.
#[test]
fn an_agreement_that_would_vouch_for_a_later_request_waits_for_its_answer() {
    let mut driven = Driven::new();
    driven.send(5, 5);
    driven.send(5, 5);
    assert!(driven.next().is_none());
    assert_eq!(driven.sent(), 2);
    driven.agree(0);
    assert!(driven.next().is_none(), "the second is not answered");
    driven.agree(1);
    assert_eq!(driven.agreed(), at(5));
    assert_eq!(driven.agreed(), at(5));
    assert!(driven.next().is_none());
}

/// What is sent in the very poll that finds an answer counts too.
#[test]
fn a_request_that_is_sent_as_the_answer_comes_is_waited_for() {
    let mut driven = Driven::new();
    driven.send(5, 5);
    assert!(driven.next().is_none());
    driven.agree(0);
    driven.send(5, 5);
    assert!(driven.next().is_none());
    assert_eq!(driven.sent(), 2);
}

#[test]
fn where_the_later_request_fails_its_failure_is_the_answer_to_both() {
    for failure in [lost(), Ok(AppendEntriesResponse::HigherVote(vote(2)))] {
        let higher = failure.is_ok();
        let mut driven = Driven::new();
        driven.send(5, 5);
        driven.send(5, 5);
        assert!(driven.next().is_none());
        driven.agree(0);
        driven.respond(1, failure);
        match driven.next() {
            Some(Some(Ok(Err(StreamAppendError::HigherVote(_))))) => assert!(higher),
            Some(Some(Err(RPCError::Unreachable(_)))) => assert!(!higher),
            other => panic!("{other:?}"),
        }
        assert!(matches!(driven.next(), Some(None)), "it has ended");
    }
}

#[test]
fn the_first_disagreement_ends_it_and_gives_the_rest_up() {
    let mut driven = Driven::new();
    driven.send(5, 5);
    driven.send(5, 6);
    assert!(driven.next().is_none());
    driven.respond(0, Ok(AppendEntriesResponse::Conflict));
    assert!(
        matches!(driven.next(), Some(Some(Ok(Err(StreamAppendError::Conflict(id)))) ) if Some(id) == at(5))
    );
    let script = driven.script.borrow();
    assert!(script.sent[1].1.as_ref().is_some_and(oneshot::Sender::is_closed));
    drop(script);
    driven.send(6, 7);
    assert!(matches!(driven.next(), Some(None)));
    assert_eq!(driven.sent(), 2);
}

/// openraft would panic on it.
#[test]
fn a_conflict_before_the_first_entry_is_a_fault_of_the_peer() {
    let mut driven = Driven::new();
    let first = Request { prev_log_id: None, ..request(0, 1) };
    driven.script.borrow_mut().to_send.push_back(first);
    assert!(driven.next().is_none());
    driven.respond(0, Ok(AppendEntriesResponse::Conflict));
    assert!(matches!(driven.next(), Some(Some(Err(RPCError::Network(_))))));
}

#[test]
fn it_ends_with_its_input_after_the_last_answer() {
    let mut driven = Driven::new();
    driven.send(5, 6);
    driven.script.borrow_mut().over = true;
    assert!(driven.next().is_none());
    driven.agree(0);
    assert_eq!(driven.agreed(), at(6));
    assert!(matches!(driven.next(), Some(None)));
}

/// Whatever the order of the responses: an agreement up to X is handed on only when every request that was sent and
/// ends at X or before has been agreed to.
#[test]
fn no_agreement_vouches_for_a_request_without_one() {
    let mut rng = StdRng::seed_from_u64(7);
    let (mut handed_on, mut held_back) = (0, 0);
    for _ in 0..2_000 {
        let mut driven = Driven::new();
        let mut end = 5;
        let mut agreed = Vec::new();
        for _ in 0..40 {
            match rng.random_range(0..4) {
                0 => driven.send(end, end),
                1 => {
                    let more = rng.random_range(1..4);
                    driven.send(end, end + more);
                    end += more;
                }
                2 => {
                    let waiting: Vec<usize> =
                        (0..driven.sent()).filter(|n| driven.script.borrow().sent[*n].1.is_some()).collect();
                    if !waiting.is_empty() {
                        let nth = waiting[rng.random_range(0..waiting.len())];
                        let fails = rng.random_range(0..20) == 0;
                        driven.respond(nth, if fails { lost() } else { Ok(AppendEntriesResponse::Success) });
                        agreed.resize(driven.sent(), false);
                        agreed[nth] = !fails;
                    }
                }
                _ => match driven.next() {
                    Some(Some(Ok(Ok(upto)))) => {
                        agreed.resize(driven.sent(), false);
                        for (nth, (last, _)) in driven.script.borrow().sent.iter().enumerate() {
                            assert!(*last > upto || agreed[nth], "{upto:?} vouches for {last:?}");
                        }
                        handed_on += 1;
                    }
                    Some(_) => break,
                    None => held_back += usize::from(agreed.first() == Some(&true)),
                },
            }
        }
    }
    assert!(handed_on > 1_000 && held_back > 100, "{handed_on} {held_back}");
}
