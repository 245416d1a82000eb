//! The contract of a transport, each clause a function that runs on every network.

use futures_util::future::join_all;

use super::*;
use crate::{limits::REQUESTS_IN_FLIGHT_MAX, runtime};

macro_rules! on_every_network {
    ($($clause:ident)*) => {
        mod tcp {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() { super::$clause(&super::Tcp).await })*
        }
        #[cfg(feature = "tls")]
        mod over_tls {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() { super::$clause(&super::tls::OverTls::new()).await })*
        }
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() { super::$clause(&super::InProcess::new()).await })*
        }
        #[cfg(feature = "chaos")]
        mod simulated {
            $(#[test]
            fn $clause() {
                crate::chaos::world::tests::in_simulations(|bare| async {
                    super::$clause(&super::Simulated::new(bare)).await;
                });
            })*
        }
    };
}

on_every_network! {
    a_call_is_answered_and_both_know_each_other
    many_calls_at_once_get_each_its_own_answer
    the_largest_payload_passes_and_one_byte_more_is_refused
    an_answer_too_large_is_told_as_such
    an_unanswered_call_ends_as_unknown
    an_answer_that_comes_after_its_call_is_ignored
    a_refusal_arrives_with_code_and_text
    a_server_that_restarts_is_found_again
    another_cluster_is_refused_by_name
    another_node_is_refused_by_name
    a_caller_that_is_not_admitted_is_told_so
    a_slow_request_holds_up_no_fast_one
    a_full_lane_delays_no_other_lane
    requests_start_in_the_order_in_which_they_were_sent
    calls_beyond_the_bound_are_not_sent
    large_requests_count_by_their_bytes
    shutdown_ends_everything_and_frees_the_address
    a_caller_that_shuts_down_ends_its_calls
    those_who_go_on_calling_hear_of_a_shutdown
    dropping_a_transport_ends_its_tasks
    a_handler_that_panics_fails_its_request_only
    a_handler_ends_with_its_callers_time
    nobody_is_answered_before_serving
    a_cluster_that_becomes_known_is_told_to_peers
    a_server_that_turns_out_to_be_of_another_cluster_begins_nothing
}

async fn a_call_is_answered_and_both_know_each_other(world: &dyn World) {
    let script = Script::new();
    let (server, _) = world.pair(script).await;
    let caller = world.caller(fixed(member("caller", 9, 1)));
    let expected = Peer { node: Some(NodeId::from_bits(1)), ..to(&*server) };
    assert_eq!(echo(&*caller, &expected).await.unwrap(), "hello");
    assert_eq!(caller.address(), None);
    let who = caller.call(&expected, Lane::Bulk, WHO, Bytes::new(), AMPLE).await.unwrap();
    let who = String::from_utf8(who.to_vec()).unwrap();
    for part in ["\"caller\"", "0000000000000009", "Member", "Bulk", "00000000000000000000000000000001"] {
        assert!(who.contains(part), "{part} is missing in {who}");
    }
}

async fn many_calls_at_once_get_each_its_own_answer(world: &dyn World) {
    let (server, caller) = world.pair(Script::new()).await;
    let peer = to(&*server);
    let calls = (0..3_000u32).map(|number| {
        let (caller, peer) = (&caller, &peer);
        async move {
            let mut payload = number.to_le_bytes().to_vec();
            payload.resize(4 + number as usize % 700, 0xa5);
            let payload = Bytes::from(payload);
            let answer = caller.call(peer, Lane::Request, ECHO, payload.clone(), AMPLE).await;
            assert_eq!(answer.unwrap(), payload);
        }
    });
    join_all(calls).await;
}

async fn the_largest_payload_passes_and_one_byte_more_is_refused(world: &dyn World) {
    let (server, caller) = world.pair(Script::new()).await;
    let peer = to(&*server);
    let call = |bytes: usize| {
        let payload = Bytes::from((0..bytes).map(|at| (at / 251) as u8).collect::<Vec<_>>());
        let call = caller.call(&peer, Lane::Bulk, ECHO, payload.clone(), AMPLE);
        async move { (call.await, payload) }
    };
    let (answer, payload) = call(request_bytes_max()).await;
    assert!(answer.unwrap() == payload);
    let (answer, _) = call(request_bytes_max() + 1).await;
    let error = answer.unwrap_err();
    assert!(matches!(error, CallError::Oversized { .. }) && !error.may_have_happened());
    assert!(error.to_string().contains(&(request_bytes_max() + 1).to_string()), "{error}");
}

async fn an_answer_too_large_is_told_as_such(world: &dyn World) {
    let (server, caller) = world.pair(Script::new()).await;
    let peer = to(&*server);
    let answer = caller.call(&peer, Lane::Control, BURST, Bytes::new(), AMPLE).await;
    let Unanswered::Failed { detail } = unknown(answer) else { panic!("it was not told") };
    assert!(detail.contains(&request_bytes_max().to_string()), "{detail}");
    echo(&*caller, &peer).await.unwrap();
}

async fn an_unanswered_call_ends_as_unknown(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let peer = to(&*server);
    echo(&*caller, &peer).await.unwrap();
    let span = Duration::from_millis(30);
    let answer = caller.call(&peer, Lane::Control, GATE, Bytes::new(), span).await;
    assert!(answer.as_ref().unwrap_err().may_have_happened());
    assert_eq!(unknown(answer), Unanswered::TimedOut { within: span });
}

async fn an_answer_that_comes_after_its_call_is_ignored(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let peer = to(&*server);
    {
        let call = caller.call(&peer, Lane::Control, GATE, Bytes::from_static(b"late"), AMPLE);
        let ended = runtime::select2(script.has_begun(1), call).await;
        assert_eq!(ended, runtime::Either::First(()));
    }
    script.gate.add_permits(2);
    let next = caller.call(&peer, Lane::Control, GATE, Bytes::from_static(b"next"), AMPLE).await;
    assert_eq!(next.unwrap(), "next");
    echo(&*caller, &peer).await.unwrap();
}

async fn a_refusal_arrives_with_code_and_text(world: &dyn World) {
    let (server, caller) = world.pair(Script::new()).await;
    let answer =
        caller.call(&to(&*server), Lane::Control, REFUSE, Bytes::from_static(b"not\nnow"), AMPLE).await;
    let error = answer.unwrap_err();
    let CallError::Refused { ref refusal, .. } = error else { panic!("{error}") };
    assert_eq!(*refusal, Refusal::new(7, "not now"));
    assert!(!error.may_have_happened() && error.to_string().contains("not now"), "{error}");
}

async fn a_server_that_restarts_is_found_again(world: &dyn World) {
    let (server, caller) = world.pair(Script::new()).await;
    let peer = to(&*server);
    echo(&*caller, &peer).await.unwrap();
    server.shutdown().await;
    within(async {
        // The first call may go out on the connection that is just ending.
        while !matches!(echo(&*caller, &peer).await, Err(CallError::NotSent { .. })) {}
    })
    .await;
    let again = world.bind(Some(&peer.address), fixed(member("server", 2, 1))).await.unwrap();
    again.serve(Script::new());
    within(async {
        while echo(&*caller, &peer).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn another_cluster_is_refused_by_name(world: &dyn World) {
    let script = Script::new();
    let (server, _) = world.pair(script.clone()).await;
    let stranger = world.caller(fixed(member("stranger", 9, 0xbad)));
    let reason = not_sent(echo(&*stranger, &to(&*server)).await);
    assert!(matches!(reason, NotSent::Rejected { code: RejectCode::Cluster, .. }), "{reason}");
    for id in [1, 0xbad] {
        assert!(reason.to_string().contains(&ClusterId::from_bits(id).to_string()), "{reason}");
    }
    assert_eq!(script.begun(), 0);
}

async fn another_node_is_refused_by_name(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let expected = NodeId::from_bits(0x77);
    let wrong = Peer { node: Some(expected), ..to(&*server) };
    for _ in 0..2 {
        // On a new connection, and on one that is there already.
        let reason = not_sent(echo(&*caller, &wrong).await);
        assert_eq!(reason, NotSent::WrongNode { expected, found: Some(NodeId::from_bits(1)) });
        for id in [0x77, 1] {
            assert!(reason.to_string().contains(&NodeId::from_bits(id).to_string()), "{reason}");
        }
        assert_eq!(script.begun(), 0);
    }
    echo(&*caller, &to(&*server)).await.unwrap();
}

async fn a_caller_that_is_not_admitted_is_told_so(world: &dyn World) {
    let script = Script::with(false);
    let (server, caller) = world.pair(script.clone()).await;
    let reason = not_sent(echo(&*caller, &to(&*server)).await);
    assert!(matches!(reason, NotSent::Rejected { code: RejectCode::Caller, .. }), "{reason}");
    assert!(reason.to_string().contains("removed from the cluster"), "{reason}");
    assert_eq!(script.begun(), 0);
}

async fn a_slow_request_holds_up_no_fast_one(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let peer = to(&*server);
    let slow = caller.call(&peer, Lane::Control, GATE, Bytes::from_static(b"slow"), AMPLE);
    let fast = async {
        script.has_begun(1).await;
        for _ in 0..100 {
            echo(&*caller, &peer).await.unwrap();
        }
        script.gate.add_permits(1);
    };
    let (slow, ()) = within(async { tokio::join!(slow, fast) }).await;
    assert_eq!(slow.unwrap(), "slow");
}

async fn a_full_lane_delays_no_other_lane(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let peer = to(&*server);
    // The bulk lane takes no more: all that may be in flight on it is, and more waits.
    let piece = Bytes::from(vec![7; crate::limits::SNAPSHOT_CHUNK_BYTES]);
    let slow = join_all((0..64).map(|_| caller.call(&peer, Lane::Bulk, GATE, piece.clone(), AMPLE)));
    let fast = async {
        script.has_begun(REQUESTS_IN_FLIGHT_MAX / pipe::units(piece.len()) as usize).await;
        for lane in [Lane::Control, Lane::Request] {
            for _ in 0..100 {
                caller.call(&peer, lane, ECHO, Bytes::from_static(b"beat"), AMPLE).await.unwrap();
            }
        }
        script.gate.add_permits(64);
    };
    let (slow, ()) = within(async { tokio::join!(slow, fast) }).await;
    assert!(slow.into_iter().all(|answer| answer.unwrap() == piece));
}

async fn requests_start_in_the_order_in_which_they_were_sent(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let peer = to(&*server);
    let payload = |number: u32| Bytes::copy_from_slice(&number.to_le_bytes());
    echo(&*caller, &peer).await.unwrap();
    let calls = (0..900).map(|number| {
        let method = if number % 3 == 0 { GATE } else { ECHO };
        caller.call(&peer, Lane::Control, method, payload(number), AMPLE)
    });
    script.gate.add_permits(300);
    assert!(join_all(calls).await.into_iter().all(|answer| answer.is_ok()));
    let begun = script.begun.lock().unwrap();
    let first_astray = (0..900u32).find(|&number| begun[number as usize + 1] != payload(number));
    assert_eq!((first_astray, begun.len()), (None, 901));
}

async fn calls_beyond_the_bound_are_not_sent(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let peer = to(&*server);
    let calls = (0..REQUESTS_IN_FLIGHT_MAX)
        .map(|_| caller.call(&peer, Lane::Request, GATE, Bytes::from_static(b"x"), AMPLE));
    let more = async {
        script.has_begun(REQUESTS_IN_FLIGHT_MAX).await;
        let span = Duration::from_millis(30);
        let one_more = caller.call(&peer, Lane::Request, ECHO, Bytes::new(), span).await;
        assert_eq!(not_sent(one_more), NotSent::QueueFull { within: span });
        script.gate.add_permits(REQUESTS_IN_FLIGHT_MAX);
    };
    let (answers, ()) = within(async { tokio::join!(join_all(calls), more) }).await;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(script.begun(), REQUESTS_IN_FLIGHT_MAX);
}

async fn large_requests_count_by_their_bytes(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let peer = to(&*server);
    let huge = Bytes::from(vec![0; request_bytes_max()]);
    let fit = REQUESTS_IN_FLIGHT_MAX / pipe::units(huge.len()) as usize;
    let calls = (0..fit).map(|_| caller.call(&peer, Lane::Bulk, GATE, huge.clone(), AMPLE));
    let more = async {
        script.has_begun(fit).await;
        let span = Duration::from_millis(30);
        let one_more = caller.call(&peer, Lane::Bulk, ECHO, huge.clone(), span).await;
        assert_eq!(not_sent(one_more), NotSent::QueueFull { within: span });
        script.gate.add_permits(fit);
    };
    let (answers, ()) = within(async { tokio::join!(join_all(calls), more) }).await;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
}

async fn shutdown_ends_everything_and_frees_the_address(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let peer = to(&*server);
    let taken = world.bind(Some(&peer.address), fixed(member("second", 2, 1))).await;
    let error = taken.err().expect("two listen at one address");
    assert!(matches!(error, BindError::Taken { .. }) && error.to_string().contains(&peer.address), "{error}");
    let call = caller.call(&peer, Lane::Control, GATE, Bytes::new(), AMPLE);
    let stop = async {
        script.has_begun(1).await;
        server.shutdown().await;
        // Every task has ended: nobody else holds the handler.
        assert_eq!(Arc::strong_count(&script), 1);
        server.shutdown().await;
    };
    let (answer, ()) = within(async { tokio::join!(call, stop) }).await;
    assert!(matches!(unknown(answer), Unanswered::ConnectionLost { .. }));
    world.bind(Some(&peer.address), fixed(member("second", 2, 1))).await.unwrap();
}

async fn a_caller_that_shuts_down_ends_its_calls(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let peer = to(&*server);
    let call = caller.call(&peer, Lane::Control, GATE, Bytes::new(), AMPLE);
    let stop = async {
        script.has_begun(1).await;
        caller.shutdown().await;
    };
    let (answer, ()) = within(async { tokio::join!(call, stop) }).await;
    assert_eq!(unknown(answer), Unanswered::ShutDown);
    assert_eq!(not_sent(echo(&*caller, &peer).await), NotSent::ShutDown);
    assert_eq!(script.begun(), 1);
}

/// More of them than there are workers: one that called again and again without end would leave none to the transport's own
/// tasks.
async fn those_who_go_on_calling_hear_of_a_shutdown(world: &dyn World) {
    let (server, _) = world.pair(Script::new()).await;
    let peer = to(&*server);
    for _ in 0..10 {
        let caller: Arc<dyn Transport> = world.caller(fixed(member("caller", 9, 1))).into();
        let calling = (0..16).map(|_| {
            let (caller, peer) = (caller.clone(), peer.clone());
            runtime::spawn(async move {
                loop {
                    match echo(&*caller, &peer).await {
                        Err(CallError::NotSent { reason: NotSent::ShutDown, .. }) => break,
                        other => drop(other),
                    }
                }
            })
        });
        let calling: Vec<_> = calling.collect();
        echo(&*caller, &peer).await.unwrap();
        caller.shutdown().await;
        for ended in within(join_all(calling)).await {
            assert!(ended.is_ok());
        }
    }
}

async fn dropping_a_transport_ends_its_tasks(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let peer = to(&*server);
    let call = caller.call(&peer, Lane::Control, GATE, Bytes::new(), AMPLE);
    let stop = async {
        script.has_begun(1).await;
        drop(server);
        while Arc::strong_count(&script) > 1 {
            tokio::task::yield_now().await;
        }
    };
    let (answer, ()) = within(async { tokio::join!(call, stop) }).await;
    assert!(matches!(unknown(answer), Unanswered::ConnectionLost { .. }));
    world.bind(Some(&peer.address), fixed(member("second", 2, 1))).await.unwrap();
}

async fn a_handler_that_panics_fails_its_request_only(world: &dyn World) {
    let script = Script::new();
    let (server, caller) = world.pair(script.clone()).await;
    let peer = to(&*server);
    let other = caller.call(&peer, Lane::Control, GATE, Bytes::from_static(b"other"), AMPLE);
    let panics = async {
        script.has_begun(1).await;
        let answer = caller.call(&peer, Lane::Control, PANIC, Bytes::new(), AMPLE).await;
        assert!(matches!(unknown(answer), Unanswered::Failed { .. }));
        script.gate.add_permits(1);
    };
    let (other, ()) = within(async { tokio::join!(other, panics) }).await;
    assert_eq!(other.unwrap(), "other");
}

async fn a_handler_ends_with_its_callers_time(world: &dyn World) {
    struct Dropped(Arc<Semaphore>);
    struct Waits(Arc<Semaphore>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.add_permits(1);
        }
    }
    #[async_trait]
    impl Handler for Waits {
        async fn handle(&self, _: &Caller, _: Method, _: Bytes) -> Result<Bytes, Refusal> {
            let _dropped = Dropped(self.0.clone());
            std::future::pending().await
        }
    }
    let ended = Arc::new(Semaphore::new(0));
    let server = world.bind(None, fixed(member("server", 1, 1))).await.unwrap();
    server.serve(Arc::new(Waits(ended.clone())));
    let caller = world.caller(fixed(client()));
    let span = Duration::from_millis(100);
    let answer = caller.call(&to(&*server), Lane::Control, ECHO, Bytes::new(), span).await;
    assert!(answer.is_err());
    if answer.unwrap_err().may_have_happened() {
        within(ended.acquire()).await.unwrap().forget();
    }
}

async fn nobody_is_answered_before_serving(world: &dyn World) {
    let server = world.bind(None, fixed(member("server", 1, 1))).await.unwrap();
    let caller = world.caller(fixed(client()));
    let peer = to(&*server);
    let span = Duration::from_millis(30);
    let early = caller.call(&peer, Lane::Control, ECHO, Bytes::new(), span).await;
    assert_eq!(not_sent(early), NotSent::ConnectTimedOut { within: span });
    let call = echo(&*caller, &peer);
    let serve = async { server.serve(Script::new()) };
    let (answer, ()) = within(async { tokio::join!(call, serve) }).await;
    assert_eq!(answer.unwrap(), "hello");
}

async fn a_cluster_that_becomes_known_is_told_to_peers(world: &dyn World) {
    let script = Script::new();
    let ours = watch::Sender::new(member("caller", 9, 0));
    let theirs = watch::Sender::new(member("server", 1, 0));
    let server = world.bind(None, theirs.subscribe()).await.unwrap();
    server.serve(script.clone());
    let caller = world.caller(ours.subscribe());
    let peer = to(&*server);
    let slow = caller.call(&peer, Lane::Control, GATE, Bytes::from_static(b"slow"), AMPLE);
    let founding = async {
        script.has_begun(1).await;
        ours.send_modify(|identity| identity.cluster = Some(ClusterId::from_bits(5)));
        let who = caller.call(&peer, Lane::Control, WHO, Bytes::new(), AMPLE).await.unwrap();
        let five = format!("{:?}", ClusterId::from_bits(5));
        assert!(String::from_utf8_lossy(&who).contains(&five), "{who:?}");
        theirs.send_modify(|identity| identity.cluster = Some(ClusterId::from_bits(6)));
        ours.send_modify(|identity| identity.node = Some(NodeId::from_bits(10)));
        let reason = not_sent(echo(&*caller, &peer).await);
        assert!(matches!(reason, NotSent::Rejected { code: RejectCode::Cluster, .. }), "{reason}");
        script.gate.add_permits(1);
    };
    // What was under way on the old connection is answered all the same.
    let (slow, ()) = within(async { tokio::join!(slow, founding) }).await;
    assert_eq!(slow.unwrap(), "slow");
}

async fn a_server_that_turns_out_to_be_of_another_cluster_begins_nothing(world: &dyn World) {
    let script = Script::new();
    let theirs = watch::Sender::new(member("server", 1, 0));
    let server = world.bind(None, theirs.subscribe()).await.unwrap();
    server.serve(script.clone());
    let caller = world.caller(fixed(member("caller", 9, 5)));
    echo(&*caller, &to(&*server)).await.unwrap();
    theirs.send_modify(|identity| identity.cluster = Some(ClusterId::from_bits(6)));
    // Over TCP the first one finds out on the old connection, and so can't know that it was not begun.
    within(async {
        loop {
            match echo(&*caller, &to(&*server)).await {
                Err(CallError::NotSent { reason: NotSent::Rejected { code, .. }, .. }) => {
                    return assert_eq!(code, RejectCode::Cluster);
                }
                other => drop(other.unwrap_err()),
            }
        }
    })
    .await;
    assert_eq!(script.begun(), 1);
}
