//! Frames: what travels on a connection after the handshake. Pure.
//!
//! All numbers little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | length of what follows, at most [`FRAME_BYTES_MAX`] with these four |
//! | 1 | [`Kind`] |
//! | 1 | method, 0 where it means nothing |
//! | 8 | call id: the caller's number, which the answer repeats |
//! | 4 | of a request: for how many milliseconds the caller waits; else 0 |
//! | rest | payload |
//!
//! A decoder holds only what has arrived: a length field alone makes it allocate nothing.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{
    Method,
    error::{Refusal, tame},
};
use crate::limits::FRAME_BYTES_MAX;

/// The bytes before the payload.
pub(super) const HEAD_BYTES: usize = 18;
/// The length field, which doesn't count itself.
const LENGTH_BYTES: usize = 4;

/// What a frame is, as a number on the wire: never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Asks for a method.
    Request = 1,
    /// A handler's answer.
    Response = 2,
    /// A handler's no: a `u16` code, then text.
    Refusal = 3,
    /// Are you there?
    Ping = 4,
    /// Yes.
    Pong = 5,
    /// The request was not begun: too many are in hand.
    Busy = 6,
    /// The request was begun, its outcome can't be told: text.
    Failed = 7,
}

impl Kind {
    const fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Refusal,
            4 => Self::Ping,
            5 => Self::Pong,
            6 => Self::Busy,
            7 => Self::Failed,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) method: Method,
    pub(super) call: u64,
    pub(super) within_ms: u32,
    pub(super) payload: Bytes,
}

/// Bytes that are no frame. The connection is of no use any more: nobody knows where the next frame begins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// The length is below a frame's head.
    #[error("a frame of {bytes} bytes, the smallest has {HEAD_BYTES}")]
    TooShort { bytes: usize },
    /// The length is above the bound.
    #[error("a frame of {bytes} bytes, the largest has {FRAME_BYTES_MAX}")]
    TooLong { bytes: usize },
    /// The kind is none of ours.
    #[error("a frame of unknown kind {kind}")]
    Kind { kind: u8 },
}

impl Frame {
    /// A request. The wait is rounded up to a millisecond.
    pub(super) fn request(method: Method, call: u64, within: Duration, payload: Bytes) -> Self {
        let within_ms = u32::try_from(within.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX);
        Self { kind: Kind::Request, method, call, within_ms, payload }
    }

    /// A frame that carries no method.
    pub(super) const fn plain(kind: Kind, call: u64, payload: Bytes) -> Self {
        Self { kind, method: Method(0), call, within_ms: 0, payload }
    }

    /// A handler's no.
    pub(super) fn refusal(call: u64, refusal: &Refusal) -> Self {
        let text = tame(&refusal.text);
        let mut payload = BytesMut::with_capacity(2 + text.len());
        payload.put_u16_le(refusal.code);
        payload.put_slice(text.as_bytes());
        Self::plain(Kind::Refusal, call, payload.freeze())
    }

    /// How long the caller of a request waits.
    pub(super) const fn within(&self) -> Duration {
        Duration::from_millis(self.within_ms as u64)
    }

    /// Its length on the wire.
    pub(super) const fn bytes(&self) -> usize {
        HEAD_BYTES + self.payload.len()
    }

    /// Appends what comes before the payload.
    pub(super) fn put_head(&self, buffer: &mut BytesMut) {
        // Nothing larger than FRAME_BYTES_MAX is ever queued; were it, the peer would refuse the length.
        buffer.put_u32_le(u32::try_from(self.bytes() - LENGTH_BYTES).unwrap_or(u32::MAX));
        buffer.put_u8(self.kind as u8);
        buffer.put_u8(self.method.0);
        buffer.put_u64_le(self.call);
        buffer.put_u32_le(self.within_ms);
    }

    /// Takes the first frame off the buffer, or says at least how many bytes it must hold first.
    ///
    /// The payload shares the buffer's memory: whoever keeps it for long, copies it.
    pub(super) fn take(buffer: &mut BytesMut) -> Result<Result<Self, usize>, FrameError> {
        let Some((length, _)) = buffer.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(Err(HEAD_BYTES));
        };
        let bytes = (u32::from_le_bytes(*length) as usize).saturating_add(LENGTH_BYTES);
        if bytes < HEAD_BYTES {
            return Err(FrameError::TooShort { bytes });
        }
        if bytes > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { bytes });
        }
        if let Some(&kind) = buffer.get(LENGTH_BYTES)
            && Kind::of(kind).is_none()
        {
            return Err(FrameError::Kind { kind });
        }
        if buffer.len() < bytes {
            return Ok(Err(bytes));
        }
        let mut frame = buffer.split_to(bytes).freeze();
        frame.advance(LENGTH_BYTES);
        let number = frame.get_u8();
        let Some(kind) = Kind::of(number) else { return Err(FrameError::Kind { kind: number }) };
        let method = Method(frame.get_u8());
        let call = frame.get_u64_le();
        let within_ms = frame.get_u32_le();
        Ok(Ok(Self { kind, method, call, within_ms, payload: frame }))
    }

    /// What a handler said, of a frame that is a refusal; from a peer that keeps to no form, what can be read.
    pub(super) fn read_refusal(mut payload: Bytes) -> Refusal {
        let code = if payload.len() >= 2 { payload.get_u16_le() } else { u16::MAX };
        Refusal { code, text: tame(&String::from_utf8_lossy(&payload)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(frame: &Frame) -> BytesMut {
        let mut buffer = BytesMut::new();
        frame.put_head(&mut buffer);
        buffer.put_slice(&frame.payload);
        buffer
    }

    #[test]
    fn golden_bytes_of_a_request_and_a_refusal() {
        let request =
            Frame::request(Method(3), 0x0102, Duration::from_micros(1_500), Bytes::from_static(b"hi"));
        assert_eq!(
            whole(&request).as_ref(),
            [16, 0, 0, 0, 1, 3, 2, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, b'h', b'i']
        );
        let refusal = Frame::refusal(9, &Refusal::new(0x0304, "no"));
        assert_eq!(
            whole(&refusal).as_ref(),
            [18, 0, 0, 0, 3, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 3, b'n', b'o']
        );
        assert_eq!(Frame::read_refusal(refusal.payload), Refusal::new(0x0304, "no"));
    }

    #[test]
    fn lengths_and_kinds_out_of_bounds_are_refused_before_the_rest_arrives() {
        let take = |bytes: &[u8]| Frame::take(&mut BytesMut::from(bytes));
        assert_eq!(take(&[13, 0, 0, 0]), Err(FrameError::TooShort { bytes: 17 }));
        assert_eq!(take(&[14, 0, 0, 0]), Ok(Err(18)));
        let largest = u32::try_from(FRAME_BYTES_MAX - LENGTH_BYTES).unwrap();
        assert_eq!(take(&largest.to_le_bytes()), Ok(Err(FRAME_BYTES_MAX)));
        assert_eq!(
            take(&(largest + 1).to_le_bytes()),
            Err(FrameError::TooLong { bytes: FRAME_BYTES_MAX + 1 })
        );
        assert!(matches!(take(&[255; 4]), Err(FrameError::TooLong { .. })));
        assert_eq!(take(&[14, 0, 0, 0, 8]), Err(FrameError::Kind { kind: 8 }));
    }

    #[test]
    fn a_refusal_without_form_is_still_a_refusal() {
        assert_eq!(Frame::read_refusal(Bytes::from_static(&[1])).code, u16::MAX);
        let wild = Frame::read_refusal(Bytes::from_static(&[1, 0, b'a', b'\n', 0xff, b'b']));
        assert_eq!(wild, Refusal::new(1, "a \u{fffd}b"));
        let long = Frame::refusal(1, &Refusal::new(1, "é".repeat(10_000)));
        assert_eq!(long.payload.len(), 2 + crate::limits::REFUSAL_TEXT_BYTES_MAX);
    }

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let frame =
            (1u8..=7, any::<u8>(), any::<u64>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(kind, method, call, within_ms, payload)| Frame {
                    kind: Kind::of(kind).unwrap(),
                    method: Method(method),
                    call,
                    within_ms,
                    payload: payload.into(),
                });
        prop::collection::vec(frame, 0..12)
    }

    proptest! {
        /// Whatever the cuts between reads, the same frames come out.
        #[test]
        fn frames_survive_being_cut_anywhere(frames in frames(), cut in 1usize..50) {
            let wire: Vec<u8> = frames.iter().flat_map(|frame| whole(frame).to_vec()).collect();
            let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(cut) {
                buffer.put_slice(piece);
                while let Ok(frame) = Frame::take(&mut buffer).unwrap() {
                    read.push(frame);
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(read, frames);
        }

        /// Arbitrary bytes end in an error or in waiting for more, never in a panic, and never in asking for more
        /// than the bound.
        #[test]
        fn arbitrary_bytes_are_bounded(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            loop {
                let capacity = buffer.capacity();
                match Frame::take(&mut buffer) {
                    Ok(Ok(frame)) => prop_assert!(frame.bytes() <= FRAME_BYTES_MAX),
                    Ok(Err(wanted)) => {
                        prop_assert!(wanted <= FRAME_BYTES_MAX && wanted > buffer.len());
                        prop_assert_eq!(buffer.capacity(), capacity);
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
    }
}
