//! The switches of the in-process network.

use super::*;
use crate::runtime::{Either, select2, timeout};

const SHORT: Duration = Duration::from_millis(30);

struct Net {
    network: InProcessNetwork,
    script: Arc<Script>,
    server: InProcessTransport,
    caller: InProcessTransport,
    peer: Peer,
}

impl Net {
    fn new() -> Self {
        let network = InProcessNetwork::new(7);
        let script = Script::new();
        let server = network.bind("b", fixed(member("b", 2, 1))).unwrap();
        server.serve(script.clone());
        let caller = network.bind("a", fixed(member("a", 1, 1))).unwrap();
        let peer = to(&server);
        Self { network, script, server, caller, peer }
    }

    async fn call(&self, payload: &'static [u8], span: Duration) -> Result<Bytes, CallError> {
        self.caller.call(&self.peer, Lane::Control, ECHO, Bytes::from_static(payload), span).await
    }
}

#[tokio::test]
async fn a_request_across_a_cut_vanishes_and_an_answer_does_too() {
    let net = Net::new();
    net.network.cut("a", "b");
    assert_eq!(unknown(net.call(b"1", SHORT).await), Unanswered::TimedOut { within: SHORT });
    assert_eq!(net.script.begun(), 0);
    net.network.heal("a", "b");
    net.network.cut("b", "a");
    assert_eq!(unknown(net.call(b"2", SHORT).await), Unanswered::TimedOut { within: SHORT });
    assert_eq!(net.script.begun(), 1, "only the answer was lost");
    net.network.heal_both("a", "b");
    assert_eq!(net.call(b"3", AMPLE).await.unwrap(), "3");
    net.network.isolate("b");
    assert!(net.call(b"4", SHORT).await.is_err());
    net.network.rejoin("b");
    net.call(b"5", AMPLE).await.unwrap();
}

#[tokio::test]
async fn a_refused_request_is_not_sent() {
    let net = Net::new();
    net.network.refuse("a", "b");
    assert!(matches!(not_sent(net.call(b"1", AMPLE).await), NotSent::Unreachable { .. }));
    net.network.heal_all();
    net.call(b"2", AMPLE).await.unwrap();
}

#[tokio::test]
async fn held_messages_arrive_in_their_order_when_released() {
    let net = Net::new();
    net.network.hold("a", "b");
    let calls = async { tokio::join!(net.call(b"1", AMPLE), net.call(b"2", AMPLE), net.call(b"3", AMPLE)) };
    let release = async {
        // All three are on their way once this fourth one, behind them, has timed out.
        assert!(net.call(b"4", SHORT).await.is_err());
        assert_eq!(net.script.begun(), 0);
        net.network.release("a", "b");
    };
    let ((one, two, three), ()) = within(async { tokio::join!(calls, release) }).await;
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    assert_eq!(net.script.begun.lock().unwrap()[..3], ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_paid_in_each_direction() {
    let net = Net::new();
    net.network.delay("a", "b", Duration::from_millis(300));
    net.network.delay("b", "a", Duration::from_millis(400));
    let ended = select2(net.call(b"1", AMPLE), runtime_sleep(690)).await;
    assert_eq!(ended, Either::Second(()));
    assert_eq!(timeout(Duration::from_millis(710), net.call(b"2", AMPLE)).await.unwrap().unwrap(), "2");
    // A cut catches what is under way.
    let cut = async {
        runtime_sleep(100).await;
        net.network.cut("a", "b");
    };
    let before = net.script.begun();
    let (lost, ()) = tokio::join!(net.call(b"3", Duration::from_secs(2)), cut);
    assert!(lost.unwrap_err().may_have_happened());
    assert_eq!(net.script.begun(), before);
}

async fn runtime_sleep(ms: u64) {
    crate::runtime::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn losses_are_the_seeds() {
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let net = Net::new();
        net.network.lose("a", "b", 0.5);
        let mut arrived = Vec::new();
        for _ in 0..64 {
            arrived.push(net.call(b"x", SHORT).await.is_ok());
        }
        assert!(arrived.contains(&true) && arrived.contains(&false));
        outcomes.push(arrived);
        net.server.shutdown().await;
    }
    assert_eq!(outcomes[0], outcomes[1]);
}
