//! The answering side: accepts, greets, and runs what is asked.
//!
//! Whoever connects is a stranger until the handshake is done: it costs a bounded buffer, one of the places for handshakes
//! and at most the handshake's time, and a few lines a second in the log for all of them. What lies beyond the places is closed at once, so that
//! strangers can't use up the connections of those who are known. What these may have in hand, `guests.rs` counts.

use std::{net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
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
    Shared,
    guests::{Full, Greeting, Seat},
    set_up,
    stream::{self, Peer, Reader, Stream},
};
use crate::{
    clock::{Clock as _, SystemClock},
    runtime::{Either, select2, sleep, timeout},
};

/// How long the accepting task rests after an error: out of file descriptors, mostly, which only time heals.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is said instead of an answer that finds no room.
const UNREAD: &str = "the answers that are not read yet fill the quota `answer_bytes_per_peer`, or `answer_bytes`; ask for less \
                      at once, and read faster";

/// Accepts until the transport stops.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener, handler: Arc<dyn Handler>) {
    let stop = shared.stop.clone();
    let mut failing = false;
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    failing = false;
                    let Some(place) = shared.guests.greet(remote.ip()) else {
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
    place: Greeting,
    stop: &CancellationToken,
) {
    let within = shared.settings.handshake_within;
    let greeting = timeout(within, greet(shared, stream, remote, &*handler));
    let greeted = match select2(place.displaced(), greeting).await {
        Either::First(()) => {
            tracing::debug!(%remote, "closed a connection: the quota `handshakes` is used up, and its host has most of them");
            return;
        }
        Either::Second(greeted) => greeted,
    };
    drop(place);
    let (caller, seat, stream, peer) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(why)) => return tell(shared, remote, &why),
        Err(_) => return tell(shared, remote, &format!("its handshake took longer than {within:?}")),
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
    let reader = FrameReader::new(reader, shared.settings.keepalive).taking(seat.frame_bytes_max());
    let desk = Desk {
        shared: Arc::clone(shared),
        handler,
        caller: Arc::new(caller),
        outbox,
        seat: Arc::new(seat),
        stop: stop.clone(),
    };
    let why = match select2(peer.outlives(), desk.answer(reader)).await {
        Either::First(why) | Either::Second(why) => why,
    };
    tracing::debug!(%remote, peer = %desk.caller.agent, why, "a connection ended");
}

/// Says why somebody was refused, if that was not said a moment ago of another one.
fn tell(shared: &Shared, remote: SocketAddr, why: &str) {
    match shared.guests.tells(SystemClock.now()) {
        Some(untold) => tracing::warn!(%remote, why, refused_before = untold, "refused a connection"),
        None => tracing::debug!(%remote, why, "refused a connection"),
    }
}

/// Greets whoever connected. Who isn't welcome is told why, if it spoke our language at all.
async fn greet(
    shared: &Shared,
    stream: TcpStream,
    remote: SocketAddr,
    handler: &dyn Handler,
) -> Result<(Caller, Seat, Stream, Peer), String> {
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
            let seat = shared
                .guests
                .seat(&caller)
                .map_err(|text| Rejection { code: RejectCode::TooManyConnections, text })?;
            Ok((caller, version, seat))
        });
    match verdict {
        Ok((caller, version, seat)) => {
            let told = async {
                stream.write_all(&handshake::welcome(&ours, version)).await?;
                stream.flush().await
            };
            told.await.map_err(|error| error.to_string())?;
            Ok((caller, seat, stream, peer))
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
    seat: Arc<Seat>,
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
        let (Ok(slot), Ok(share)) =
            (Arc::clone(flight).try_acquire_many_owned(units), self.seat.request(units))
        else {
            return self.outbox.push(Frame::plain(Kind::Busy, frame.call, Bytes::new())).await;
        };
        let (call, within) = (frame.call, frame.within());
        let (handler, caller) = (Arc::clone(&self.handler), Arc::clone(&self.caller));
        let mut running = serving::run(handler, caller, frame.method, frame.payload, within);
        match serving::begin(&mut running).await {
            Poll::Ready(answer) => reply(&self.outbox, &self.seat, call, answer).await,
            Poll::Pending => {
                let (outbox, seat, stop) = (self.outbox.clone(), Arc::clone(&self.seat), self.stop.clone());
                self.shared.spawn(async move {
                    let finished = async {
                        let answer = running.await;
                        let _ = reply(&outbox, &seat, call, answer).await;
                        drop((slot, share));
                    };
                    select2(stop.cancelled(), finished).await;
                });
                Ok(())
            }
        }
    }
}

async fn reply(outbox: &Outbox, seat: &Seat, call: u64, answer: Option<Answer>) -> Result<(), Closed> {
    let frame = match answer {
        Some(Answer::Response(response)) => match seat.answer(response.len()) {
            Ok(share) => {
                return outbox.push_counted(Frame::plain(Kind::Response, call, response), share).await;
            }
            // It is let go: what its caller, and others, have not read yet fills all that answers may take.
            Err(Full) => Frame::plain(Kind::Failed, call, UNREAD.into()),
        },
        Some(Answer::Refusal(refusal)) => Frame::refusal(call, &refusal),
        Some(Answer::Failed(detail)) => Frame::plain(Kind::Failed, call, detail.into()),
        None => return Ok(()),
    };
    outbox.push(frame).await
}
