//! What comes over a socket from those who don't keep to the protocol, and how little it does.

use std::{io, sync::Mutex as StdMutex};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    super::frame::{Frame, Kind},
    *,
};
use crate::limits::REQUESTS_IN_FLIGHT_MAX;

/// As impatient as a loaded test machine allows.
fn impatient() -> Settings {
    Settings {
        handshake_within: Duration::from_millis(150),
        write_stall: Duration::from_millis(150),
        keepalive: Duration::from_millis(150),
        ..brisk()
    }
}

async fn server(script: Arc<Script>, settings: Settings) -> TcpTransport {
    let server = TcpTransport::bind("127.0.0.1:0", fixed(member("server", 1, 1)), settings).await.unwrap();
    server.serve(script);
    server
}

async fn connect(server: &TcpTransport) -> TcpStream {
    TcpStream::connect(server.address().unwrap()).await.unwrap()
}

/// Whether the other side closes the connection, whatever it says before.
async fn is_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is as good an end as any.
    let _ = within(stream.read_to_end(&mut said)).await;
    said
}

/// A caller that knows the handshake, and then does as it likes.
async fn greeted(server: &TcpTransport) -> TcpStream {
    let mut stream = connect(server).await;
    stream.write_all(&handshake::hello(&client(), Lane::Control)).await.unwrap();
    within(pipe::read_greeting(&mut stream)).await.unwrap();
    stream
}

fn whole(frame: &Frame) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    frame.put_head(&mut buffer);
    buffer.extend_from_slice(&frame.payload);
    buffer.to_vec()
}

fn request(method: Method, call: u64) -> Vec<u8> {
    whole(&Frame::request(method, call, AMPLE, Bytes::from_static(b"x")))
}

async fn next_frame(stream: &mut TcpStream, buffer: &mut BytesMut) -> Frame {
    loop {
        if let Ok(frame) = Frame::take(buffer).unwrap() {
            // Its pings are of no interest here.
            if frame.kind == Kind::Ping {
                continue;
            }
            return frame;
        }
        assert_ne!(within(stream.read_buf(buffer)).await.unwrap(), 0, "closed");
    }
}

/// What was logged from warnings up.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<StdMutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    #[cfg(feature = "tls")]
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn lines(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count()
    }

    /// Until the guard is dropped, for this thread: the tests' runtimes have only one.
    pub(super) fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }
}

#[tokio::test]
async fn strangers_are_closed_with_one_line_in_the_log_each_and_friends_are_served() {
    let script = Script::new();
    let server = server(script.clone(), brisk()).await;
    let tls: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7, 7, 7, 7];
    let mut endless_hello = handshake::MAGIC.to_vec();
    endless_hello.extend([1, 1, 0, 1, 0, 0xff, 0xff, 0xff, 0xff]);
    let mut wrong_kind = handshake::welcome(&client(), *handshake::VERSIONS.end());
    wrong_kind.extend([0; 8]);
    let cut_short = handshake::hello(&client(), Lane::Control);
    let strangers: [(&str, &[u8]); 7] = [
        ("a browser", b"GET / HTTP/1.1\r\nHost: leasehold\r\n\r\n"),
        ("a TLS client", tls),
        ("random bytes", &[0xa7; 5_000]),
        ("a hello of 4 GiB", &endless_hello),
        ("a welcome for a hello", &wrong_kind),
        ("half a hello", &cut_short[..20]),
        ("nothing at all", b""),
    ];
    for (who, bytes) in strangers {
        let log = Log::default();
        let _listening = log.listen();
        let mut stream = connect(&server).await;
        // The server may close before all is written.
        let _ = stream.write_all(bytes).await;
        if bytes.len() < 30 {
            let _ = stream.shutdown().await;
        }
        let said = is_closed(&mut stream).await;
        assert!(said.is_empty() || said.starts_with(&handshake::MAGIC), "{who}: {said:?}");
        assert!(log.lines() <= 1, "{who}: {:?}", log.0);
    }
    assert_eq!(script.begun(), 0);
    let caller = TcpTransport::caller(fixed(client()), brisk());
    echo(&caller, &to(&server)).await.unwrap();
}

#[tokio::test]
async fn who_says_nothing_or_trickles_is_closed_when_the_handshakes_time_is_up() {
    let server = server(Script::new(), impatient()).await;
    let log = Log::default();
    let _listening = log.listen();
    let mut silent = connect(&server).await;
    let (mut reader, mut writer) = connect(&server).await.into_split();
    let trickle = async {
        for byte in handshake::hello(&client(), Lane::Control) {
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
            crate::runtime::sleep(Duration::from_millis(20)).await;
        }
    };
    let trickled = async {
        let mut said = Vec::new();
        let _ = within(reader.read_to_end(&mut said)).await;
        said
    };
    let (said, trickled, ()) = tokio::join!(is_closed(&mut silent), trickled, trickle);
    assert!(said.is_empty() && trickled.is_empty());
    assert_eq!(log.lines(), 2, "{:?}", log.0);
}

/// With the quotas of an agent that has none of its own, but for these.
fn strict(quotas: Quotas) -> Settings {
    Settings { quotas, ..brisk() }
}

/// Calls again and again until there is an answer.
async fn until_served(caller: &TcpTransport, server: &TcpTransport) {
    within(async {
        while echo(caller, &to(server)).await.is_err() {
            // A call that fails at once waits for nothing, and the connection's task is of this thread too.
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// What one client is refused, a client of another name is not.
async fn another_is_served(server: &TcpTransport) {
    let another = Identity { agent: AgentName::new("another").unwrap(), ..client() };
    echo(&TcpTransport::caller(fixed(another), brisk()), &to(server)).await.unwrap();
}

#[tokio::test]
async fn many_silent_strangers_take_a_bounded_number_of_places() {
    let quotas = Quotas { handshakes: 7, handshakes_per_host: 5, ..Quotas::default() };
    let settings = Settings { handshake_within: AMPLE, ..strict(quotas) };
    let server = server(Script::new(), settings).await;
    let mut strangers = Vec::new();
    for _ in 0..quotas.handshakes_per_host {
        strangers.push(connect(&server).await);
    }
    // There is no place for this one, so it is closed at once and not in 20 seconds.
    let mut one_more = connect(&server).await;
    assert!(is_closed(&mut one_more).await.is_empty());
    // One leaves, and there is a place again.
    drop(strangers.pop());
    let caller = TcpTransport::caller(fixed(client()), brisk());
    until_served(&caller, &server).await;
}

#[tokio::test]
async fn a_peer_of_many_connections_is_refused_by_name_and_others_are_not() {
    let quotas = Quotas { connections_per_peer: 3, ..Quotas::default() };
    let server = server(Script::new(), strict(quotas)).await;
    let mut kept = Vec::new();
    for _ in 0..quotas.connections_per_peer {
        kept.push(greeted(&server).await);
    }
    let caller = TcpTransport::caller(fixed(client()), brisk());
    let reason = not_sent(echo(&caller, &to(&server)).await);
    assert!(matches!(reason, NotSent::Rejected { code: RejectCode::TooManyConnections, .. }), "{reason}");
    assert!(reason.to_string().contains("connections_per_peer"), "{reason}");
    another_is_served(&server).await;
    drop(kept);
    until_served(&caller, &server).await;
}

#[tokio::test]
async fn a_client_that_floods_over_several_connections_is_busy_on_all_of_them_and_others_are_served() {
    let quotas = Quotas { requests_per_peer: 10, ..Quotas::default() };
    let script = Script::new();
    let server = server(script.clone(), strict(quotas)).await;
    let flood: Vec<u8> = (0..10).flat_map(|call| request(GATE, call)).collect();
    let mut one = greeted(&server).await;
    one.write_all(&flood).await.unwrap();
    script.has_begun(10).await;
    let mut two = greeted(&server).await;
    two.write_all(&flood).await.unwrap();
    let mut buffer = BytesMut::new();
    for call in 0..10 {
        let frame = next_frame(&mut two, &mut buffer).await;
        assert_eq!((frame.kind, frame.call), (Kind::Busy, call));
    }
    another_is_served(&server).await;
    assert_eq!(script.begun(), 11);
}

#[tokio::test]
async fn a_clients_frames_are_as_large_as_questions_are() {
    let server = server(Script::new(), strict(Quotas::default())).await;
    let caller = TcpTransport::caller(fixed(client()), brisk());
    let send = async |bytes| {
        caller.call(&to(&server), Lane::Control, ECHO, Bytes::from(vec![7; bytes]), AMPLE).await
    };
    let most = Quotas::default().request_bytes;
    assert_eq!(send(most - 64).await.unwrap().len(), most - 64);
    assert!(matches!(unknown(send(most).await), Unanswered::ConnectionLost { .. }));
    // A member's are not bounded by it: entries and snapshots are larger.
    let member = TcpTransport::caller(fixed(member("other", 2, 1)), brisk());
    let large = Bytes::from(vec![7; 4 * most]);
    member.call(&to(&server), Lane::Control, ECHO, large, AMPLE).await.unwrap();
}

#[tokio::test]
async fn answers_that_are_not_read_are_let_go_beyond_their_share() {
    const LARGE: usize = 4 << 20;
    // Two of them fit.
    let quotas = Quotas { answer_bytes_per_peer: 10 << 20, request_bytes: 8 << 20, ..Quotas::default() };
    let script = Script::new();
    let server = server(script.clone(), Settings { write_stall: AMPLE, ..strict(quotas) }).await;
    let mut stream = greeted(&server).await;
    let large = |call| whole(&Frame::request(ECHO, call, AMPLE, Bytes::from(vec![0; LARGE])));
    for call in 0..8 {
        within(stream.write_all(&large(call))).await.unwrap();
    }
    script.has_begun(8).await;
    let mut buffer = BytesMut::new();
    let mut kinds = Vec::new();
    for _ in 0..8 {
        kinds.push(next_frame(&mut stream, &mut buffer).await.kind);
    }
    let failed = kinds.iter().filter(|kind| **kind == Kind::Failed).count();
    assert!((1..=6).contains(&failed), "{kinds:?}");
    // What was read is free again.
    stream.write_all(&large(9)).await.unwrap();
    assert_eq!(next_frame(&mut stream, &mut buffer).await.kind, Kind::Response);
}

#[tokio::test]
async fn a_program_from_the_future_is_refused_by_version() {
    let server = server(Script::new(), brisk()).await;
    let mut hello = handshake::hello(&client(), Lane::Control);
    hello[9..13].copy_from_slice(&[7, 0, 9, 0]);
    let mut stream = connect(&server).await;
    stream.write_all(&hello).await.unwrap();
    let said = is_closed(&mut stream).await;
    let (head, body) = handshake::Head::split(&said).unwrap();
    let reason = handshake::conclude(&client(), &head, body).unwrap_err();
    assert!(matches!(reason, NotSent::Rejected { code: RejectCode::Version, .. }), "{reason}");
    assert!(reason.to_string().contains("7 to 9"), "{reason}");
}

#[tokio::test]
async fn frames_without_form_end_their_connection_only() {
    let script = Script::new();
    let server = server(script.clone(), brisk()).await;
    let caller = TcpTransport::caller(fixed(client()), brisk());
    let peer = to(&server);
    let other = caller.call(&peer, Lane::Control, GATE, Bytes::from_static(b"other"), AMPLE);
    let hostile = async {
        script.has_begun(1).await;
        let answer = whole(&Frame::plain(Kind::Response, 1, Bytes::new()));
        let frames: [(&str, &[u8]); 4] = [
            ("a frame of 4 GiB", &[0xff; 40]),
            ("a frame of no length", &[0; 40]),
            ("an unknown kind", &[14, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("an answer from a caller", &answer),
        ];
        for (what, bytes) in frames {
            let mut stream = greeted(&server).await;
            stream.write_all(bytes).await.unwrap();
            assert!(is_closed(&mut stream).await.is_empty(), "{what}");
        }
        script.gate.add_permits(1);
    };
    let (other, ()) = tokio::join!(other, hostile);
    assert_eq!(other.unwrap(), "other");
    assert_eq!(script.begun(), 1);
}

#[tokio::test]
async fn a_flood_of_requests_is_begun_up_to_the_bound_and_told_busy_beyond_it() {
    const FLOOD: usize = 3_000;
    let script = Script::new();
    let server = server(script.clone(), brisk()).await;
    let mut stream = greeted(&server).await;
    let flood: Vec<u8> = (0..FLOOD as u64).flat_map(|call| request(GATE, call)).collect();
    within(stream.write_all(&flood)).await.unwrap();
    let mut buffer = BytesMut::new();
    for call in REQUESTS_IN_FLIGHT_MAX..FLOOD {
        let frame = next_frame(&mut stream, &mut buffer).await;
        assert_eq!((frame.kind, frame.call), (Kind::Busy, call as u64));
    }
    assert_eq!(script.begun(), REQUESTS_IN_FLIGHT_MAX);
    // It still answers, and what it had begun it finishes.
    stream.write_all(&whole(&Frame::plain(Kind::Ping, 77, Bytes::new()))).await.unwrap();
    let pong = next_frame(&mut stream, &mut buffer).await;
    assert_eq!((pong.kind, pong.call), (Kind::Pong, 77));
    script.gate.add_permits(REQUESTS_IN_FLIGHT_MAX);
    for _ in 0..REQUESTS_IN_FLIGHT_MAX {
        assert_eq!(next_frame(&mut stream, &mut buffer).await.kind, Kind::Response);
    }
}

#[tokio::test]
async fn who_takes_no_answers_is_held_up_and_then_closed() {
    let script = Script::new();
    let server = server(script.clone(), impatient()).await;
    let mut stream = greeted(&server).await;
    let large = whole(&Frame::request(ECHO, 1, AMPLE, Bytes::from(vec![0; 256 * 1024])));
    let sent = within(async {
        let mut sent = 0;
        while stream.write_all(&large).await.is_ok() {
            sent += 1;
        }
        sent
    })
    .await;
    // What fits into the outbox (32 MiB) and both sides' sockets, and not what it would have liked to send.
    assert!(sent < 400, "{sent}");
    assert!(script.begun() <= sent + 1);
}

#[tokio::test]
async fn a_dropped_connection_takes_its_requests_with_it() {
    let script = Script::new();
    let server = server(script.clone(), brisk()).await;
    let mut stream = greeted(&server).await;
    stream.write_all(&request(GATE, 1)).await.unwrap();
    script.has_begun(1).await;
    let held = Arc::strong_count(&script);
    drop(stream);
    within(async {
        // The request's hold on the handler, and the connection's.
        while Arc::strong_count(&script) > held - 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A server that does as it likes with each connection.
async fn rogue<F, Doing>(doing: F) -> Peer
where
    F: Fn(TcpStream) -> Doing + Send + 'static,
    Doing: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    crate::runtime::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            crate::runtime::spawn(doing(stream));
        }
    });
    Peer { address, node: None }
}

async fn welcomed(mut stream: TcpStream) -> TcpStream {
    pipe::read_greeting(&mut stream).await.unwrap();
    stream.write_all(&handshake::welcome(&member("rogue", 6, 0), *handshake::VERSIONS.end())).await.unwrap();
    stream
}

#[tokio::test]
async fn a_server_that_speaks_something_else_or_nothing_gets_no_request() {
    let mail = rogue(|mut stream| async move {
        let _ = stream.write_all(b"220 mail.example ESMTP at your service\r\n").await;
        let _ = is_closed(&mut stream).await;
    });
    let mute = rogue(|mut stream| async move { drop(is_closed(&mut stream).await) });
    let caller = TcpTransport::caller(fixed(client()), impatient());
    for (peer, hint) in [(mail.await, "first bytes"), (mute.await, "nobody answered")] {
        let reason = not_sent(echo(&caller, &peer).await);
        assert!(matches!(reason, NotSent::Handshake { .. }), "{reason}");
        assert!(reason.to_string().contains(hint), "{reason}");
    }
}

#[tokio::test]
async fn nobody_there_is_told_at_once_and_not_hammered() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let settings = Settings { backoff_min: AMPLE, backoff_max: AMPLE, ..Settings::default() };
    let caller = TcpTransport::caller(fixed(client()), settings);
    let peer = Peer { address: unused.clone(), node: None };
    let first = not_sent(echo(&caller, &peer).await);
    assert!(matches!(first, NotSent::Unreachable { .. }), "{first}");
    // Now somebody is there; but the pause, with the first reason, isn't over.
    let listener = TcpListener::bind(&unused).await.unwrap();
    for _ in 0..3 {
        assert_eq!(not_sent(echo(&caller, &peer).await), first);
        let knocked = crate::runtime::timeout(Duration::from_millis(20), listener.accept()).await;
        assert!(knocked.is_err());
    }
    let nowhere = Peer { address: "no port".to_owned(), node: None };
    let reason = not_sent(echo(&caller, &nowhere).await);
    assert!(
        matches!(reason, NotSent::Unresolved { .. }) && reason.to_string().contains("host:port"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_server_that_welcomes_and_hangs_up_is_not_hammered() {
    let knocks = watch::Sender::new(0);
    let counted = knocks.clone();
    let peer = rogue(move |stream| {
        counted.send_modify(|count| *count += 1);
        async move { drop(welcomed(stream).await) }
    })
    .await;
    let settings = Settings { backoff_min: AMPLE, backoff_max: AMPLE, ..Settings::default() };
    let caller = TcpTransport::caller(fixed(client()), settings);
    within(async {
        for _ in 0..100 {
            echo(&caller, &peer).await.unwrap_err();
        }
    })
    .await;
    assert_eq!(*knocks.borrow(), 1);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_noticed_by_ping() {
    let peer = rogue(|stream| async move { drop(is_closed(&mut welcomed(stream).await).await) }).await;
    let caller = TcpTransport::caller(fixed(client()), impatient());
    let Unanswered::ConnectionLost { detail } = unknown(within(echo(&caller, &peer)).await) else {
        panic!("it was not noticed")
    };
    assert!(detail.contains("ping"), "{detail}");
}

#[tokio::test]
async fn answers_to_calls_that_nobody_made_are_ignored() {
    let peer = rogue(|stream| async move {
        let mut stream = welcomed(stream).await;
        let request = next_frame(&mut stream, &mut BytesMut::new()).await;
        for call in [request.call + 1, 0, u64::MAX, request.call, request.call] {
            let payload = Bytes::copy_from_slice(&call.to_le_bytes());
            stream.write_all(&whole(&Frame::plain(Kind::Response, call, payload))).await.unwrap();
        }
        is_closed(&mut stream).await;
    })
    .await;
    let caller = TcpTransport::caller(fixed(client()), brisk());
    let answer = within(echo(&caller, &peer)).await.unwrap();
    assert_eq!(answer, 1u64.to_le_bytes().as_slice(), "the answer with the call's own number");
}

#[tokio::test]
async fn answers_without_form_end_the_call_as_unknown() {
    for bytes in [&[0xff; 40][..], &request(ECHO, 1)] {
        let bytes = bytes.to_vec();
        let peer = rogue(move |stream| {
            let bytes = bytes.clone();
            async move {
                let mut stream = welcomed(stream).await;
                next_frame(&mut stream, &mut BytesMut::new()).await;
                stream.write_all(&bytes).await.unwrap();
                is_closed(&mut stream).await;
            }
        })
        .await;
        let caller = TcpTransport::caller(fixed(client()), brisk());
        let reason = unknown(within(echo(&caller, &peer)).await);
        assert!(matches!(reason, Unanswered::ConnectionLost { .. }), "{reason}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_the_next_call_opens_another() {
    let settings =
        Settings { keepalive: Duration::from_millis(10), idle_close: Duration::from_millis(30), ..brisk() };
    // With a keep-alive this short a loaded machine may drop a connection that isn't idle, which is all the same here.
    let knocks = watch::Sender::new(0);
    let hung_up = watch::Sender::new(0);
    let counted = (knocks.clone(), hung_up.clone());
    let peer = rogue(move |stream| {
        counted.0.send_modify(|count| *count += 1);
        let hung_up = counted.1.clone();
        async move {
            let mut stream = welcomed(stream).await;
            let mut buffer = BytesMut::new();
            let request = next_frame(&mut stream, &mut buffer).await;
            let answer = Frame::plain(Kind::Response, request.call, request.payload);
            let _ = stream.write_all(&whole(&answer)).await;
            while stream.write_all(&whole(&Frame::plain(Kind::Ping, 0, Bytes::new()))).await.is_ok() {
                crate::runtime::sleep(Duration::from_millis(5)).await;
            }
            hung_up.send_modify(|count| *count += 1);
        }
    })
    .await;
    let caller = TcpTransport::caller(fixed(client()), settings);
    within(echo(&caller, &peer)).await.unwrap();
    within(hung_up.subscribe().wait_for(|count| *count == 1)).await.unwrap();
    within(echo(&caller, &peer)).await.unwrap();
    assert_eq!(*knocks.borrow(), 2);
}
