//! The answering side: accepts, greets, and runs what is asked.
//!
//! Whoever connects is a stranger until the handshake is done: it costs a bounded buffer, one of
//! [`HANDSHAKES_MAX`](crate::limits::HANDSHAKES_MAX) places and at most the handshake's time, and one line in the log.
//! What lies beyond the places is closed at once, so that strangers can't use up the connections of those who are known.

use std::{net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Caller, Handler,
        error::RejectCode,
        frame::{Frame, Kind},
        handshake::{self, Rejection},
        pipe::{self, Closed, Event, FrameReader, Outbox},
        serving::{self, Answer},
    },
    Shared, set_up,
    stream::{self, Peer, Reader, Stream},
};
use crate::{
    limits::CONNECTIONS_MAX,
    runtime::{Either, select2, sleep, timeout},
};

/// How long the accepting task rests after an error: out of file descriptors, mostly, which only time heals.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the transport stops.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener, handler: Arc<dyn Handler>) {
    let stop = shared.stop.clone();
    let mut failing = false;
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    failing = false;
                    let Ok(place) = Arc::clone(&shared.handshakes).try_acquire_owned() else {
                        tracing::debug!(%remote, "closed a connection: too many handshakes are under way");
                        continue;
                    };
                    let host = Arc::clone(&shared);
                    let handler = Arc::clone(&handler);
                    shared.spawn(async move {
                        let stop = host.stop.child_token();
                        select2(stop.cancelled(), receive(&host, stream, remote, handler, place, &stop))
                            .await;
                        // The writer and the requests under way end with their connection.
                        stop.cancel();
                    });
                }
                Err(error) => {
                    // Once for each time that it begins.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "can't accept connections; trying again");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    let _: Either<(), ()> = select2(stop.cancelled(), accepting).await;
}

/// One connection, from greeting to end.
async fn receive(
    shared: &Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
    handler: Arc<dyn Handler>,
    place: OwnedSemaphorePermit,
    stop: &CancellationToken,
) {
    let within = shared.settings.handshake_within;
    let greeted = timeout(within, greet(shared, stream, remote, &*handler)).await;
    drop(place);
    let (caller, _connection, stream, peer) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(why)) => {
            tracing::warn!(%remote, %why, "refused a connection");
            return;
        }
        Err(_) => {
            tracing::warn!(%remote, ?within, "closed a connection: its handshake took too long");
            return;
        }
    };
    tracing::debug!(%remote, peer = %caller.agent, node = ?caller.node, lane = ?caller.lane, "accepted");
    let (reader, writer) = stream.into_split();
    let (outbox, queue) = Outbox::new();
    shared.spawn({
        let (stop, stall) = (stop.clone(), shared.settings.write_stall);
        async move {
            let _ = select2(stop.cancelled(), pipe::write_frames(writer, queue, stall)).await;
            stop.cancel();
        }
    });
    let reader = FrameReader::new(reader, shared.settings.keepalive);
    let desk =
        Desk { shared: Arc::clone(shared), handler, caller: Arc::new(caller), outbox, stop: stop.clone() };
    let why = match select2(peer.outlives(), desk.answer(reader)).await {
        Either::First(why) | Either::Second(why) => why,
    };
    tracing::debug!(%remote, peer = %desk.caller.agent, why, "a connection ended");
}

/// Greets whoever connected. Who isn't welcome is told why, if it spoke our language at all.
async fn greet(
    shared: &Shared,
    stream: TcpStream,
    remote: SocketAddr,
    handler: &dyn Handler,
) -> Result<(Caller, OwnedSemaphorePermit, Stream, Peer), String> {
    set_up(&stream).map_err(|error| error.to_string())?;
    let (mut stream, peer) = stream::answer(&shared.settings.security, stream).await?;
    let (head, body) = pipe::read_greeting(&mut stream).await.map_err(|malformed| malformed.0)?;
    let ours = shared.identity.borrow().clone();
    let verdict =
        handshake::receive(&ours, &head, &body, &remote.to_string()).and_then(|(mut caller, version)| {
            if let Some(bearer) = peer.bearer() {
                bearer
                    .vouches_for(caller.role, &caller.agent, &shared.settings.security)
                    .map_err(|text| Rejection { code: RejectCode::Security, text })?;
                caller.rights = bearer.role;
            }
            handler
                .admit(&caller)
                .map_err(|refusal| Rejection { code: RejectCode::Caller, text: refusal.text })?;
            let connection = Arc::clone(&shared.connections).try_acquire_owned().map_err(|_| Rejection {
                code: RejectCode::TooManyConnections,
                text: format!("this agent has {CONNECTIONS_MAX} connections already; ask another one"),
            })?;
            Ok((caller, version, connection))
        });
    match verdict {
        Ok((caller, version, connection)) => {
            let told = async {
                stream.write_all(&handshake::welcome(&ours, version)).await?;
                stream.flush().await
            };
            told.await.map_err(|error| error.to_string())?;
            Ok((caller, connection, stream, peer))
        }
        Err(rejection) => {
            let told = async {
                stream.write_all(&rejection.write()).await?;
                stream.shutdown().await
            };
            let _ = told.await;
            Err(rejection.to_string())
        }
    }
}

/// Where the requests of one connection are answered.
struct Desk {
    shared: Arc<Shared>,
    handler: Arc<dyn Handler>,
    caller: Arc<Caller>,
    outbox: Outbox,
    stop: CancellationToken,
}

impl Desk {
    /// Answers until the connection ends; says why it did.
    async fn answer(&self, mut reader: FrameReader<Reader>) -> String {
        let flight = pipe::flight();
        loop {
            let frame = match reader.next().await {
                Ok(Event::Frame(frame)) => frame,
                Ok(Event::Tick { quiet }) => {
                    if quiet {
                        self.outbox.offer(Frame::plain(Kind::Ping, 0, Bytes::new()));
                    }
                    continue;
                }
                Err(error) => return error.to_string(),
            };
            // A full outbox holds up the reading, and so, by and by, the sender.
            let went_on = match frame.kind {
                Kind::Request if self.is_of_another_cluster() => {
                    tracing::warn!(
                        remote = self.caller.remote,
                        "a caller turned out to be of another cluster"
                    );
                    return "the caller is of another cluster, which was not known when it connected"
                        .to_owned();
                }
                Kind::Request => self.begin(frame, &flight).await,
                Kind::Ping => self.outbox.push(Frame::plain(Kind::Pong, frame.call, Bytes::new())).await,
                Kind::Pong => Ok(()),
                kind => {
                    tracing::warn!(remote = self.caller.remote, ?kind, "a caller sent an answer");
                    return format!("it sent {kind:?} where only requests belong");
                }
            };
            if went_on == Err(Closed) {
                return "its writer ended".to_owned();
            }
        }
    }

    /// At the handshake this side may not have known its cluster yet.
    fn is_of_another_cluster(&self) -> bool {
        let ours = self.shared.identity.borrow().cluster;
        matches!((ours, self.caller.cluster), (Some(ours), Some(theirs)) if ours != theirs)
    }

    /// Begins a request; what isn't answered at once goes on in a task of its own.
    ///
    /// Beyond what may be in flight it answers "busy" rather than leave off reading, which would leave pings unanswered
    /// too. A caller of ours never gets there, unless it gave up calls before their time.
    async fn begin(&self, frame: Frame, flight: &Arc<Semaphore>) -> Result<(), Closed> {
        let units = pipe::units(frame.payload.len());
        let Ok(slot) = Arc::clone(flight).try_acquire_many_owned(units) else {
            return self.outbox.push(Frame::plain(Kind::Busy, frame.call, Bytes::new())).await;
        };
        let (call, within) = (frame.call, frame.within());
        let (handler, caller) = (Arc::clone(&self.handler), Arc::clone(&self.caller));
        let mut running = serving::run(handler, caller, frame.method, frame.payload, within);
        match serving::begin(&mut running).await {
            Poll::Ready(answer) => reply(&self.outbox, call, answer).await,
            Poll::Pending => {
                let (outbox, stop) = (self.outbox.clone(), self.stop.clone());
                self.shared.spawn(async move {
                    let finished = async {
                        let answer = running.await;
                        let _ = reply(&outbox, call, answer).await;
                        drop(slot);
                    };
                    select2(stop.cancelled(), finished).await;
                });
                Ok(())
            }
        }
    }
}

async fn reply(outbox: &Outbox, call: u64, answer: Option<Answer>) -> Result<(), Closed> {
    let frame = match answer {
        Some(Answer::Response(response)) => Frame::plain(Kind::Response, call, response),
        Some(Answer::Refusal(refusal)) => Frame::refusal(call, &refusal),
        Some(Answer::Failed(detail)) => Frame::plain(Kind::Failed, call, detail.into()),
        None => return Ok(()),
    };
    outbox.push(frame).await
}
