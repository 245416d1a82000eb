//! Asking again: what an agent that looks for the leader, and a client that looks for an agent, have in common.
//!
//! Every request is harmless to repeat (rule L7: commands are idempotent by lease id, a renewal only ever extends, a
//! position only grows). So after a lost answer the same request is simply sent again, to whoever may answer then,
//! until it is answered or its time is over. Then the outcome is *unknown* if any copy may have been taken, and
//! *nothing happened* otherwise. The second is said only when every single attempt is known to have had no effect:
//! who believes it asks anew with another lease id, and would otherwise leave a grant behind that nobody knows of.

use std::time::Duration;

use bytes::Bytes;

use super::requester::Answered;
use crate::{
    codec,
    message::{ASK, Asking, Failure, Request, Response, code},
    runtime,
    time::Moment,
    transport::{CallError, Lane, Peer, Transport},
};

/// How long to wait before asking again: random between the two, so that nobody knocks in step.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(40));

/// This part of an attempt's time is left for the answer's way back.
const ANSWER_PART: u32 = 8;

/// One request on its way, over all its attempts.
pub(crate) struct Attempts {
    within: Duration,
    /// What is left of it, and the reading at which that was found.
    left: (Duration, Moment),
    /// Whether an earlier copy may have been taken.
    repeated: bool,
    last: String,
}

impl Attempts {
    /// The request is asked for from now on, for this long.
    pub(crate) fn new(now: Moment, within: Duration) -> Self {
        Self { within, left: (within, now), repeated: false, last: "nobody was there to ask".to_owned() }
    }

    /// What is left of its time; `None` when it is over. A clock that goes back meanwhile gives back nothing of what has
    /// passed.
    pub(crate) fn left(&mut self, now: Moment) -> Option<Duration> {
        let (left, before) = self.left;
        let left = left.saturating_sub(now.since(before));
        self.left = (left, now);
        (!left.is_zero()).then_some(left)
    }

    /// An attempt failed, in a way that another one may not.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.repeated |= matches!(failure, Failure::Unknown(_));
        self.last = failure.to_string();
    }

    /// Waits a little before the next attempt. Cancel-safe.
    pub(crate) async fn pause(&self, left: Duration) {
        runtime::sleep(runtime::random_between(PAUSE.0, PAUSE.1).min(left)).await;
    }

    /// It is answered.
    pub(crate) fn answered(self, response: Response) -> Answered {
        Answered { response, repeated: self.repeated }
    }

    /// Its time is over; `nobody` is who gave no answer.
    pub(crate) fn over(self, nobody: &str) -> Answered {
        let Self { within, repeated, last, .. } = self;
        let detail = format!(
            "{nobody} answered within {within:?} ({last}); check that a majority of the agents runs and is connected"
        );
        let failure = if repeated { Failure::Unknown(detail) } else { Failure::Unavailable(detail) };
        Answered { response: Response::Failed(failure), repeated }
    }
}

/// What a call that got no answer says about the request. A refusal of the peer's handler means that it did nothing.
pub(crate) fn failure_of_call(error: &CallError) -> Failure {
    match error {
        CallError::Unknown { .. } => Failure::Unknown(error.to_string()),
        CallError::Oversized { .. } => Failure::Refused(error.to_string()),
        CallError::NotSent { .. } | CallError::Refused { .. } => Failure::Unavailable(error.to_string()),
    }
}

/// One question to one agent, once.
pub(crate) async fn ask_once(
    transport: &dyn Transport,
    address: &str,
    request: &Request,
    within: Duration,
) -> Response {
    try_once(transport, address, request, within)
        .await
        .unwrap_or_else(|error| Response::Failed(failure_of_call(&error)))
}

/// The same, for who has to know why there was no answer.
pub(crate) async fn try_once(
    transport: &dyn Transport,
    address: &str,
    request: &Request,
    within: Duration,
) -> Result<Response, CallError> {
    let peer = Peer { address: address.to_owned(), node: None };
    // The agent's own verdict ("no leader, nothing happened") says more than silence: it gets a little less time.
    let asking = Asking { request: request.clone(), within: within - within / ANSWER_PART };
    let payload = Bytes::from(codec::encode(&asking));
    let failure = match transport.call(&peer, Lane::Request, ASK, payload, within).await {
        Ok(reply) => match codec::decode(&reply) {
            // Of the asked agent, not of this one. It may have passed the request on before.
            Ok(Response::Failed(Failure::Stopped(detail))) => {
                Failure::Unknown(format!("the agent at {address} has stopped: {detail}"))
            }
            Ok(response) => return Ok(response),
            Err(error) => Failure::Unknown(format!("the answer of {address} is unreadable: {error}")),
        },
        Err(CallError::Refused { refusal, .. }) if refusal.code != code::NOT_SERVING => {
            Failure::Refused(format!("the agent at {address} {refusal}"))
        }
        Err(error) => return Err(error),
    };
    Ok(Response::Failed(failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over_after(failures: &[Failure]) -> Failure {
        let mut attempts = Attempts::new(Moment::ZERO, Duration::from_secs(1));
        for failure in failures {
            attempts.failed(failure);
        }
        match attempts.over("nobody").response {
            Response::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_happened_is_said_only_when_no_copy_can_have_been_taken() {
        let away = || Failure::Unavailable("away".to_owned());
        let lost = || Failure::Unknown("lost".to_owned());
        assert!(matches!(over_after(&[]), Failure::Unavailable(_)));
        assert!(matches!(
            over_after(&[away(), Failure::NotLeader { leader: None }]),
            Failure::Unavailable(_)
        ));
        assert!(matches!(over_after(&[lost(), away(), away()]), Failure::Unknown(_)));
    }

    #[test]
    fn the_time_is_over_at_its_end() {
        let mut attempts = Attempts::new(Moment::from_nanos(10), Duration::from_nanos(5));
        assert_eq!(attempts.left(Moment::from_nanos(12)), Some(Duration::from_nanos(3)));
        assert_eq!(attempts.left(Moment::from_nanos(14)), Some(Duration::from_nanos(1)));
        assert_eq!(attempts.left(Moment::from_nanos(15)), None);
    }

    #[test]
    fn a_clock_that_goes_back_prolongs_nothing() {
        let mut attempts = Attempts::new(Moment::from_nanos(10), Duration::from_nanos(5));
        assert_eq!(attempts.left(Moment::from_nanos(13)), Some(Duration::from_nanos(2)));
        assert_eq!(attempts.left(Moment::from_nanos(1)), Some(Duration::from_nanos(2)));
        assert_eq!(attempts.left(Moment::from_nanos(2)), Some(Duration::from_nanos(1)));
        assert_eq!(attempts.left(Moment::from_nanos(3)), None);
    }
}
