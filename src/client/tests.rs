//! The line against agents that are played by a script: what each failure makes it do, and what it says in the end.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::line::Line;
use crate::{
    clock::SystemClock,
    codec,
    config::Timing,
    id::NodeId,
    lease::Requester as _,
    message::{Asking, Failure, Request, Response, Standing, code},
    name::AgentName,
    runtime,
    table::Holder,
    tasks::Tasks,
    transport::{CallError, Handler, Lane, Method, NotSent, Peer, Refusal, Transport, Unanswered},
};

/// What the script makes of one call.
enum Play {
    Answer(Response),
    NotSent,
    Lost,
    Refuse(u16),
    Silence,
}

struct Stage {
    script: Mutex<VecDeque<Play>>,
    calls: Mutex<Vec<(String, Request)>>,
}

#[async_trait]
impl Transport for Stage {
    fn address(&self) -> Option<&str> {
        None
    }

    fn serve(&self, _handler: Arc<dyn Handler>) {}

    async fn call(
        &self,
        to: &Peer,
        _lane: Lane,
        _method: Method,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let asking: Asking = codec::decode(&payload).unwrap();
        self.calls.lock().unwrap().push((to.address.clone(), asking.request));
        assert!(asking.within < within, "the agent must be able to answer in time");
        let play = self.script.lock().unwrap().pop_front().unwrap_or(Play::NotSent);
        let address = to.address.clone();
        match play {
            Play::Answer(response) => Ok(codec::encode(&response).into()),
            Play::NotSent => Err(CallError::NotSent { address, reason: NotSent::ShutDown }),
            Play::Lost => Err(CallError::Unknown { address, reason: Unanswered::TimedOut { within } }),
            Play::Refuse(code) => Err(CallError::Refused { address, refusal: Refusal::new(code, "no") }),
            Play::Silence => {
                runtime::sleep(within).await;
                Err(CallError::Unknown { address, reason: Unanswered::TimedOut { within } })
            }
        }
    }

    async fn shutdown(&self) {}
}

fn line(script: impl IntoIterator<Item = Play>) -> (Arc<Line>, Arc<Stage>) {
    let stage =
        Arc::new(Stage { script: Mutex::new(script.into_iter().collect()), calls: Mutex::new(Vec::new()) });
    let holder = Holder { agent: AgentName::new("c").unwrap(), node: NodeId::from_bits(1) };
    let addresses = ["a:1", "b:1", "c:1"].map(str::to_owned).to_vec();
    let line = Line::new(
        addresses,
        0,
        stage.clone(),
        Arc::new(SystemClock),
        Timing::default(),
        holder,
        Tasks::new(),
    );
    (line, stage)
}

fn asked(stage: &Stage) -> Vec<String> {
    stage.calls.lock().unwrap().iter().map(|(address, _)| address.clone()).collect()
}

fn ok() -> Play {
    Play::Answer(Response::ReadIndex(7))
}

fn failed(failure: Failure) -> Play {
    Play::Answer(Response::Failed(failure))
}

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(60);

#[tokio::test]
async fn it_stays_with_the_agent_that_answers() {
    let (line, stage) = line([Play::NotSent, ok(), ok(), ok()]);
    for _ in 0..3 {
        assert_eq!(line.seen(LONG).await, Ok(7));
    }
    assert_eq!(asked(&stage), ["a:1", "b:1", "b:1", "b:1"]);
}

#[tokio::test]
async fn every_kind_of_silence_makes_it_move_on_with_the_same_request() {
    let unavailable = || failed(Failure::Unavailable("no leader".to_owned()));
    let stopped = || failed(Failure::Stopped("disk full".to_owned()));
    let (line, stage) =
        line([Play::NotSent, Play::Lost, Play::Refuse(code::NOT_SERVING), unavailable(), stopped(), ok()]);
    let request = Request::Release { lease_id: crate::LeaseId::from_bits(5) };
    let answered = line.ask(&request, LONG).await;
    assert_eq!(answered.response, Response::ReadIndex(7));
    assert!(answered.repeated);
    assert_eq!(asked(&stage), ["a:1", "b:1", "c:1", "a:1", "b:1", "c:1"]);
    assert!(stage.calls.lock().unwrap().iter().all(|(_, asked)| *asked == request));
}

#[tokio::test]
async fn without_an_answer_it_knows_whether_something_may_have_happened() {
    let verdict = async |play| {
        let (line, _) = line([play]);
        match line.ask(&Request::Position, SHORT).await.response {
            Response::Failed(Failure::Unavailable(_)) => "nothing happened",
            Response::Failed(Failure::Unknown(_)) => "unknown",
            Response::Failed(Failure::Refused(_)) => "refused",
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(verdict(Play::NotSent).await, "nothing happened");
    assert_eq!(verdict(failed(Failure::Unavailable(String::new()))).await, "nothing happened");
    assert_eq!(verdict(Play::Lost).await, "unknown");
    assert_eq!(verdict(failed(Failure::Unknown(String::new()))).await, "unknown");
    // It may have passed the request on before it stopped.
    assert_eq!(verdict(failed(Failure::Stopped(String::new()))).await, "unknown");
    assert_eq!(verdict(Play::Refuse(code::MALFORMED)).await, "refused");
    assert_eq!(verdict(failed(Failure::Refused(String::new()))).await, "refused");
}

/// As a stopped or cut-off one is: the connection is there, no answer comes.
#[tokio::test]
async fn a_silent_agent_leaves_time_for_the_next() {
    let (line, stage) = line([Play::Silence, ok()]);
    assert_eq!(line.seen(Duration::from_millis(400)).await, Ok(7));
    assert_eq!(asked(&stage), ["a:1", "b:1"]);
}

/// A wait hangs for seconds by design; word that its agent is silent comes from the renewals beside it.
#[tokio::test]
async fn a_wait_moves_on_with_everyone_else() {
    let standing = || Play::Answer(Response::Standing(Standing::Unknown));
    let (line, stage) = line([Play::Silence, Play::NotSent, ok(), standing()]);
    let wait = Request::Await { lease_id: crate::LeaseId::from_bits(5), at_most_ms: 60_000 };
    let waiting = runtime::spawn({
        let line = line.clone();
        async move { line.ask(&wait, Duration::from_secs(120)).await.response }
    });
    while asked(&stage).is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(line.seen(LONG).await, Ok(7));
    let answer = runtime::timeout(LONG, waiting).await.unwrap().unwrap();
    assert_eq!(answer, Response::Standing(Standing::Unknown));
    assert_eq!(asked(&stage), ["a:1", "a:1", "b:1", "b:1"]);
}

#[tokio::test]
async fn a_closed_client_asks_no_more() {
    let (line, stage) = line([]);
    let clock: Arc<dyn crate::Clock> = Arc::new(SystemClock);
    line.close(&crate::lease::Renewer::new(clock)).await;
    assert!(matches!(line.seen(LONG).await, Err(Failure::Stopped(_))));
    assert_eq!(asked(&stage), [""; 0]);
}
