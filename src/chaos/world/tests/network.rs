//! What the simulated network does to messages, beside what the transport's conformance suite asks of it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;

use super::*;
use crate::{
    chaos::world::{link::SimTransport, network::Death},
    id::NodeId,
    name::AgentName,
    runtime::{sleep, watch},
    transport::{
        CallError, Caller, Handler, Identity, Lane, Method, NotSent, Peer, Refusal, Role, Transport as _,
        Unanswered,
    },
};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// Answers at once.
const ECHO: Method = Method(1);
/// Answers after a while.
const SLOW: Method = Method(2);

/// Remembers what it was asked.
#[derive(Default)]
struct Memo(Mutex<Vec<Bytes>>);

impl Memo {
    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|payload| String::from_utf8_lossy(payload).into_owned()).collect()
    }
}

#[async_trait]
impl Handler for Memo {
    async fn handle(&self, _: &Caller, method: Method, payload: Bytes) -> Result<Bytes, Refusal> {
        self.0.lock().unwrap().push(payload.clone());
        if method == SLOW {
            sleep(100 * MS).await;
        }
        Ok(payload)
    }
}

/// Two machines: one calls, the other answers.
struct Two {
    bare: Bare,
    kernel: Kernel,
    memo: Arc<Memo>,
    caller: Arc<SimTransport>,
    machines: (usize, usize),
}

fn identity(node: u64) -> watch::Receiver<Identity> {
    let agent = AgentName::new(format!("agent-{node}")).unwrap();
    let node = Some(NodeId::from_bits(node));
    watch::channel(Identity { cluster: None, node, role: Role::Member, agent }).1
}

impl Two {
    async fn new(bare: Bare, kernel: Kernel, weather: Weather) -> Self {
        bare.network.change(|skies| skies.set_general(weather));
        let machines = (kernel.add_machine(), kernel.add_machine());
        bare.network.assign("a", 0);
        bare.network.assign("b", 1);
        let caller = Self::bind(&bare, &kernel, machines.0, 0, "a", Arc::default()).await;
        let memo = Arc::new(Memo::default());
        Self::bind(&bare, &kernel, machines.1, 1, "b", memo.clone()).await;
        Self { bare, kernel, memo, caller, machines }
    }

    async fn bind(
        bare: &Bare,
        kernel: &Kernel,
        machine: usize,
        agent: usize,
        at: &'static str,
        memo: Arc<Memo>,
    ) -> Arc<SimTransport> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let network = bare.network.clone();
        kernel.spawn(kernel.place(machine), async move {
            let transport = Arc::new(network.bind(agent, at, identity(agent as u64 + 1)).unwrap());
            transport.serve(memo);
            let _ = tell.send(transport.clone());
            // It lives as long as its machine.
            std::future::pending::<()>().await;
            drop(transport);
        });
        told.await.unwrap()
    }

    async fn call(&self, payload: impl Into<String>) -> Result<Bytes, CallError> {
        self.call_for(ECHO, payload, S).await
    }

    async fn call_for(
        &self,
        method: Method,
        payload: impl Into<String>,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let to = Peer { address: "b".to_owned(), node: Some(NodeId::from_bits(2)) };
        self.caller.call(&to, Lane::Control, method, Bytes::from(payload.into()), within).await
    }
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn requests_keep_their_order_and_some_overtake_where_that_is_the_weather() {
    with_seeds(0..5, |bare, kernel| async move {
        let two = Two::new(bare, kernel, Weather::default()).await;
        join_all((0..200).map(|number| two.call(number.to_string()))).await;
        assert_eq!(two.memo.asked(), numbers(0..200));
        two.bare.network.change(|skies| skies.set_general(Weather { overtaking: 0.3, ..Weather::default() }));
        let answers = join_all((200..400).map(|number| two.call(number.to_string()))).await;
        assert!(answers.iter().all(Result::is_ok));
        let mut asked = two.memo.asked().split_off(200);
        assert_ne!(asked, numbers(200..400));
        asked.sort();
        assert_eq!(asked, numbers(200..400), "each was delivered once");
    });
}

#[test]
fn a_copy_arrives_later_and_its_answer_goes_nowhere() {
    with_seeds(0..5, |bare, kernel| async move {
        let two = Two::new(bare, kernel, Weather { duplication: 0.5, ..Weather::default() }).await;
        for number in 0..100 {
            assert_eq!(two.call(number.to_string()).await.unwrap(), number.to_string());
        }
        sleep(S).await;
        let asked = two.memo.asked();
        assert!((120..180).contains(&asked.len()), "{}", asked.len());
        for number in numbers(0..100) {
            assert!((1..=2).contains(&asked.iter().filter(|asked| **asked == number).count()));
        }
        let mut sorted = asked.clone();
        sorted.sort_by_key(|number| number.parse::<u32>().unwrap());
        assert_ne!(asked, sorted, "a copy comes out of turn");
    });
}

#[test]
fn a_loss_leaves_the_caller_in_doubt_and_the_next_call_connects_anew() {
    with_seeds(0..5, |bare, kernel| async move {
        let two = Two::new(bare, kernel, Weather { loss: 0.2, ..Weather::default() }).await;
        let (mut told, mut silent, mut arrived, mut refused) = (0, 0, 0, 0);
        for number in 0..300 {
            match two.call(number.to_string()).await {
                Ok(_) => arrived += 1,
                Err(CallError::Unknown { reason: Unanswered::ConnectionLost { .. }, .. }) => told += 1,
                Err(CallError::Unknown { reason: Unanswered::TimedOut { .. }, .. }) => silent += 1,
                // The greeting was lost.
                Err(CallError::NotSent { reason: NotSent::ConnectTimedOut { .. }, .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(
            arrived > 100 && told > 20 && silent > 20 && refused > 5,
            "{arrived} {told} {silent} {refused}"
        );
        let asked = two.memo.asked().len();
        assert!(asked > arrived && asked < 300, "{asked}: some answers were lost as well");
    });
}

#[test]
fn a_cut_has_a_direction_and_catches_what_is_under_way() {
    with_seeds(0..5, |bare, kernel| async move {
        let two = Two::new(bare, kernel, Weather::default()).await;
        two.call("1").await.unwrap();
        two.bare.network.change(|skies| skies.cut(0, 1));
        assert!(matches!(two.call("2").await, Err(CallError::Unknown { .. })));
        two.bare.network.change(|skies| skies.heal(0, 1));
        two.bare.network.change(|skies| skies.cut(1, 0));
        assert!(matches!(two.call("3").await, Err(CallError::Unknown { .. })));
        two.bare.network.change(|skies| skies.heal_all());
        let (slow, ()) = tokio::join!(two.call_for(SLOW, "4", S), async {
            sleep(50 * MS).await;
            two.bare.network.change(|skies| skies.isolate(0));
        });
        assert!(slow.is_err(), "its answer met the cut");
        two.bare.network.change(|skies| skies.rejoin(0));
        two.call("5").await.unwrap();
        assert_eq!(two.memo.asked(), ["1", "3", "4", "5"]);
    });
}

#[test]
fn a_process_that_ends_is_told_of_and_a_machine_without_power_is_not() {
    with_seeds(0..5, |bare, kernel| async move {
        let two = Two::new(bare, kernel, Weather::default()).await;
        let end = async |death| {
            sleep(50 * MS).await;
            let remains = two.bare.network.unplug("b", death);
            two.kernel.kill(two.machines.1);
            drop(remains);
        };
        let (slow, ()) = tokio::join!(two.call_for(SLOW, "1", S), end(Death::Reset));
        assert!(
            matches!(slow, Err(CallError::Unknown { reason: Unanswered::ConnectionLost { .. }, .. })),
            "{slow:?}"
        );
        let reason = two.call("2").await.unwrap_err();
        assert!(
            matches!(reason, CallError::NotSent { reason: NotSent::Unreachable { .. }, .. }),
            "its system says that nobody listens: {reason}"
        );
        two.kernel.revive(two.machines.1);
        Two::bind(&two.bare, &two.kernel, two.machines.1, 1, "b", two.memo.clone()).await;
        two.call("3").await.unwrap();
        let (slow, ()) = tokio::join!(two.call_for(SLOW, "4", S), end(Death::Silent));
        assert!(
            matches!(slow, Err(CallError::Unknown { reason: Unanswered::TimedOut { .. }, .. })),
            "{slow:?}"
        );
        // On the old connection, of whose end nobody has told.
        assert!(matches!(two.call("5").await, Err(CallError::Unknown { .. })));
        two.kernel.revive(two.machines.1);
        two.bare.network.power_up("b");
        Two::bind(&two.bare, &two.kernel, two.machines.1, 1, "b", two.memo.clone()).await;
        // The machine knows nothing of that connection, and says so.
        let doubt = two.call("6").await;
        assert!(
            matches!(doubt, Err(CallError::Unknown { reason: Unanswered::ConnectionLost { .. }, .. })),
            "{doubt:?}"
        );
        two.call("7").await.unwrap();
        assert_eq!(two.memo.asked(), ["1", "3", "4", "7"]);
    });
}

#[test]
fn what_is_under_way_outlives_its_sender_and_waits_for_a_paused_receiver() {
    with_seeds(0..5, |bare, kernel| async move {
        let two = Two::new(bare, kernel, Weather::default()).await;
        two.call("1").await.unwrap();
        let (kernel, (a, b)) = (&two.kernel, two.machines);
        kernel.pause(b);
        let caller = two.caller.clone();
        kernel.spawn(kernel.place(a), async move {
            let to = Peer { address: "b".to_owned(), node: None };
            let _ = caller.call(&to, Lane::Control, ECHO, Bytes::from_static(b"2"), 10 * S).await;
        });
        // As long as it takes to be sent, and not until it arrives.
        sleep(Duration::from_nanos(1)).await;
        kernel.kill(a);
        sleep(5 * S).await;
        assert_eq!(two.memo.asked(), ["1"]);
        kernel.resume(b);
        sleep(S).await;
        assert_eq!(two.memo.asked(), ["1", "2"]);
    });
}
