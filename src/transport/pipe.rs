//! The two ends of a connection: a queue whose frames one task gathers and writes, and a buffer from which frames are
//! cut as they arrive. For any byte stream, so that an encrypted one fits as well.

use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use bytes::{BufMut as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc},
};

use super::{
    frame::{Frame, FrameError},
    handshake::{self, Malformed},
    tcp::Share,
};
use crate::{
    limits::{FLIGHT_UNIT_BYTES, FRAME_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX, SOCKET_BATCH_BYTES},
    runtime::{Either, select2, sleep, timeout},
};

/// How much of what may be in flight, or queued, a payload takes up. See [`FLIGHT_UNIT_BYTES`].
pub(crate) fn units(payload_bytes: usize) -> u32 {
    u32::try_from(1 + payload_bytes / FLIGHT_UNIT_BYTES).unwrap_or(u32::MAX)
}

/// What may be in flight on a connection: [`REQUESTS_IN_FLIGHT_MAX`] units.
pub(crate) fn flight() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX))
}

/// Takes so many units of room, waiting for them if need be; first come, first served.
///
/// Where there is room it doesn't wait at all, not even for the scheduler's sake: a call that is polled first, is sent
/// first.
pub(crate) async fn room(of: &Arc<Semaphore>, units: u32) -> Result<OwnedSemaphorePermit, Closed> {
    match Arc::clone(of).try_acquire_many_owned(units) {
        Ok(room) => Ok(room),
        Err(TryAcquireError::Closed) => Err(Closed),
        Err(TryAcquireError::NoPermits) => Arc::clone(of).acquire_many_owned(units).await.map_err(|_| Closed),
    }
}

/// A frame on its way to the socket, and the room that it takes up until it is there.
pub(super) struct Outgoing {
    frame: Frame,
    _room: OwnedSemaphorePermit,
    /// What it is counted in beside that.
    _share: Option<Share>,
}

/// The frames that wait for the socket: a bounded number, and a bounded number of bytes.
#[derive(Clone)]
pub(super) struct Outbox {
    queue: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
}

/// The connection has ended; nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

impl Outbox {
    /// A queue, and the end for [`write_frames`].
    pub(super) fn new() -> (Self, mpsc::Receiver<Outgoing>) {
        // A frame takes at least one unit of room, so the queue is never full before the room is.
        let (queue, writer) = mpsc::channel(REQUESTS_IN_FLIGHT_MAX);
        (Self { queue, room: flight() }, writer)
    }

    /// Queues a frame, when there is room. Dropped while it waits, it has queued nothing.
    pub(super) async fn push(&self, frame: Frame) -> Result<(), Closed> {
        self.push_counted(frame, None).await
    }

    /// As [`push`](Self::push); what it is counted in is free when the frame is written, or lost.
    pub(super) async fn push_counted(&self, frame: Frame, share: Option<Share>) -> Result<(), Closed> {
        let room = room(&self.room, units(frame.payload.len())).await?;
        let outgoing = Outgoing { frame, _room: room, _share: share };
        self.queue.try_send(outgoing).map_err(|_| Closed)
    }

    /// Queues a frame that may as well be left out, if there is room at once.
    pub(super) fn offer(&self, frame: Frame) {
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(units(frame.payload.len())) {
            let _ = self.queue.try_send(Outgoing { frame, _room: room, _share: None });
        }
    }
}

/// Writes what is queued until the queue's senders are gone, or the socket fails or takes nothing for `stall`.
///
/// It takes all that waits, up to [`SOCKET_BATCH_BYTES`], and writes it at once. Large payloads aren't copied.
pub(super) async fn write_frames<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut queue: mpsc::Receiver<Outgoing>,
    stall: Duration,
) -> io::Result<()> {
    const FRAMES_AT_ONCE: usize = 128;
    let mut waiting = Vec::with_capacity(FRAMES_AT_ONCE);
    let mut buffer = BytesMut::with_capacity(SOCKET_BATCH_BYTES);
    while queue.recv_many(&mut waiting, FRAMES_AT_ONCE).await > 0 {
        for outgoing in waiting.drain(..) {
            let frame = &outgoing.frame;
            if buffer.len() + frame.bytes() > SOCKET_BATCH_BYTES {
                write_all(&mut writer, &buffer, stall).await?;
                buffer.clear();
            }
            frame.put_head(&mut buffer);
            if frame.bytes() > SOCKET_BATCH_BYTES {
                write_all(&mut writer, &buffer, stall).await?;
                buffer.clear();
                write_all(&mut writer, &frame.payload, stall).await?;
            } else {
                buffer.put_slice(&frame.payload);
            }
        }
        write_all(&mut writer, &buffer, stall).await?;
        buffer.clear();
        within(stall, writer.flush()).await?;
    }
    Ok(())
}

/// The time-out is for each bit of progress, not for the whole: a slow line is not a dead one.
async fn write_all<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut bytes: &[u8],
    stall: Duration,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = within(stall, writer.write(bytes)).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

async fn within<T>(stall: Duration, write: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(stall, write).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("it took no bytes for {stall:?}")))
    })
}

/// What comes from a connection.
#[derive(Debug)]
pub(super) enum Event {
    /// A frame.
    Frame(Frame),
    /// Another keep-alive interval is over; `quiet` when nothing arrived in it, and a ping is due.
    Tick {
        /// Whether nothing arrived.
        quiet: bool,
    },
}

/// Why nothing comes from a connection any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the other side closed it")]
    Closed,
    #[error("the other side closed it in the middle of a frame")]
    CutShort,
    #[error("{0}")]
    Failed(#[from] io::Error),
    #[error("it sent a frame of {bytes} bytes; the quota `request_bytes` is {most}")]
    TooLong { bytes: usize, most: usize },
    #[error("it sent {0}")]
    Malformed(#[from] FrameError),
    #[error("nothing came for {silence:?}, not even the answer to a ping")]
    Silent { silence: Duration },
}

type Alarm = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Cuts frames from a byte stream, and keeps watch over its silence.
pub(super) struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    keepalive: Duration,
    alarm: Alarm,
    heard: bool,
    quiet_ticks: u32,
    frame_bytes_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(reader: R, keepalive: Duration) -> Self {
        Self {
            reader,
            buffer: BytesMut::with_capacity(SOCKET_BATCH_BYTES),
            keepalive,
            alarm: Box::pin(sleep(keepalive)),
            heard: true,
            quiet_ticks: 0,
            frame_bytes_max: FRAME_BYTES_MAX,
        }
    }

    /// Takes no frame that is larger than this.
    pub(super) fn taking(mut self, frame_bytes_max: Option<usize>) -> Self {
        self.frame_bytes_max = frame_bytes_max.unwrap_or(FRAME_BYTES_MAX);
        self
    }

    /// How many bytes have arrived and were not taken, and for how many there is room.
    #[cfg(feature = "test-support")]
    pub(super) fn holds(&self) -> (usize, usize) {
        (self.buffer.len(), self.buffer.capacity())
    }

    /// The next frame or tick. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Event, ReadError> {
        loop {
            let taken = Frame::take(&mut self.buffer)?;
            let bytes = taken.as_ref().map_or_else(|wanted| *wanted, Frame::bytes);
            if bytes > self.frame_bytes_max {
                return Err(ReadError::TooLong { bytes, most: self.frame_bytes_max });
            }
            let wanted = match taken {
                Ok(frame) => return Ok(Event::Frame(frame)),
                Err(wanted) => wanted,
            };
            // Memory follows what has arrived (it at most doubles), not what a length field promises.
            let missing = wanted.saturating_sub(self.buffer.len());
            let ahead = SOCKET_BATCH_BYTES.max(self.buffer.len());
            if self.buffer.capacity() - self.buffer.len() < missing.min(ahead) {
                self.buffer.reserve(ahead);
            }
            match select2(self.reader.read_buf(&mut self.buffer), &mut self.alarm).await {
                Either::First(read) => {
                    if read? == 0 {
                        return Err(if self.buffer.is_empty() {
                            ReadError::Closed
                        } else {
                            ReadError::CutShort
                        });
                    }
                    self.heard = true;
                }
                Either::Second(()) => {
                    self.alarm = Box::pin(sleep(self.keepalive));
                    let quiet = !std::mem::take(&mut self.heard);
                    self.quiet_ticks = if quiet { self.quiet_ticks + 1 } else { 0 };
                    if self.quiet_ticks > 1 {
                        return Err(ReadError::Silent { silence: self.keepalive * self.quiet_ticks });
                    }
                    return Ok(Event::Tick { quiet });
                }
            }
        }
    }
}

/// Reads a greeting. A stranger is told by the first bytes; nobody makes it hold more than the bound.
pub(super) async fn read_greeting<R: AsyncRead + Unpin>(
    reader: &mut R,
) -> Result<(handshake::Head, Vec<u8>), Malformed> {
    let failed = |error: io::Error| Malformed(format!("the greeting did not arrive: {error}"));
    let mut head = [0; handshake::HEAD_BYTES];
    let (magic, rest) = head.split_at_mut(handshake::MAGIC.len());
    reader.read_exact(magic).await.map_err(failed)?;
    // Whoever starts otherwise may never send as much as a head.
    if *magic == handshake::MAGIC {
        reader.read_exact(rest).await.map_err(failed)?;
    }
    let head = handshake::Head::read(&head)?;
    let mut body = vec![0; head.body_bytes];
    reader.read_exact(&mut body).await.map_err(failed)?;
    Ok((head, body))
}
