//! What a stranger may send: the targets `frames` and `handshake` of the fuzzer (feature `test-support`).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    Identity, Lane, Role,
    error::NotSent,
    frame::{Frame, HEAD_BYTES, Kind},
    handshake::{self, Rejection},
    pipe::{self, Event, FrameReader, ReadError},
};
use crate::{
    fuzz::Choices,
    id::{ClusterId, NodeId},
    limits::{FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX, REFUSAL_TEXT_BYTES_MAX, SOCKET_BATCH_BYTES},
    name::AgentName,
};

/// Bytes that arrive in pieces, each as long as its turn in the choices says.
struct Pieces<'a> {
    bytes: &'a [u8],
    cuts: Choices<'a>,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let cut = match self.cuts.byte() {
            0 => usize::MAX,
            few @ 1..=127 => usize::from(few),
            many => usize::from(many - 127) * 512,
        };
        let (piece, rest) = self.bytes.split_at(cut.min(self.bytes.len()).min(buffer.remaining()));
        buffer.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

/// Whatever arrives, in whatever pieces: the reader of a connection gives the frames that are there, byte for byte, and
/// an error where they end to be frames; it holds little more than what has arrived and was not taken yet.
pub(crate) fn frames(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let cuts = usize::from(choices.byte());
    let cuts = Choices::new(choices.bytes(cuts));
    let wire = choices.rest();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    runtime.block_on(async {
        let mut reader = FrameReader::new(Pieces { bytes: wire, cuts }, Duration::from_secs(3600));
        let mut taken = 0;
        loop {
            let next = reader.next().await;
            let (held, capacity) = reader.holds();
            assert!(
                capacity <= 4 * (held + SOCKET_BATCH_BYTES)
                    && held <= FRAME_BYTES_MAX + 2 * SOCKET_BATCH_BYTES,
                "{held} bytes are held in room for {capacity}"
            );
            match next {
                Ok(Event::Frame(frame)) => {
                    let whole = &wire[taken..taken + frame.bytes()];
                    look_at(&frame, whole);
                    taken += frame.bytes();
                }
                Ok(Event::Tick { .. }) => {}
                Err(ReadError::Closed) => {
                    assert_eq!(taken, wire.len(), "bytes are left over, and it ended in order");
                    break;
                }
                Err(ReadError::CutShort) => {
                    may_go_on(&wire[taken..]);
                    break;
                }
                Err(ReadError::Malformed(_)) => {
                    let mut rest = BytesMut::from(&wire[taken..]);
                    assert!(Frame::take(&mut rest).is_err(), "a frame that is one is refused in pieces");
                    break;
                }
                Err(error) => {
                    assert!(matches!(error, ReadError::Silent { .. }), "{error}");
                    break;
                }
            }
        }
    });
}

/// What is there of a frame that was waited for: the rest of it may come.
fn may_go_on(begun: &[u8]) {
    assert!(!begun.is_empty(), "nothing is left over, and it ended within a frame");
    if let Some((length, rest)) = begun.split_first_chunk::<4>() {
        let whole = u64::from(u32::from_le_bytes(*length)) + 4;
        assert!(
            (HEAD_BYTES as u64..=FRAME_BYTES_MAX as u64).contains(&whole),
            "{whole} bytes were waited for"
        );
        assert!(
            rest.first().is_none_or(|kind| (1..=7).contains(kind)),
            "waited for a frame of kind {rest:?}"
        );
    }
}

/// A frame that was read, and the bytes that it was read from.
fn look_at(frame: &Frame, whole: &[u8]) {
    assert!(frame.bytes() <= FRAME_BYTES_MAX, "a frame of {} bytes was taken", frame.bytes());
    let mut again = BytesMut::new();
    frame.put_head(&mut again);
    assert_eq!(again.len(), HEAD_BYTES);
    again.put_slice(&frame.payload);
    assert!(again == whole, "a frame is written otherwise than it was read");
    if frame.kind == Kind::Refusal {
        let refusal = Frame::read_refusal(frame.payload.clone());
        assert!(refusal.text.len() <= REFUSAL_TEXT_BYTES_MAX && !refusal.text.contains(char::is_control));
        let again = Frame::refusal(frame.call, &refusal);
        assert_eq!(Frame::read_refusal(again.payload), refusal);
    }
}

fn identity(choices: &mut Choices<'_>) -> Option<Identity> {
    let flags = choices.byte();
    Some(Identity {
        cluster: (flags & 1 != 0).then(|| ClusterId::from_bits(u128::from(flags >> 4))),
        node: (flags & 2 != 0).then(|| NodeId::from_bits(u64::from(flags >> 4))),
        role: match flags & 14 {
            6 | 14 => Role::Member,
            8.. => Role::Reader,
            _ => Role::Client,
        },
        agent: AgentName::new("agent-a").ok()?,
    })
}

/// Whatever a stranger greets with, or answers to a greeting: it is refused, or says who it is, and both sides agree on
/// that.
pub(crate) fn handshake(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let Some(ours) = identity(&mut choices) else { return };
    if choices.chance(16) {
        return between_two(&ours, &mut choices);
    }
    let cuts = choices.below(16);
    let mut pieces = Pieces { cuts: Choices::new(choices.bytes(cuts)), bytes: choices.rest() };
    let greeting = pieces.bytes;
    // Nothing in it waits for anything but the reader, which is always ready.
    let read = futures_util::FutureExt::now_or_never(pipe::read_greeting(&mut pieces));
    let Some(Ok((head, body))) = read else { return };
    assert!(body.len() + handshake::HEAD_BYTES <= HANDSHAKE_BYTES_MAX, "a greeting of {} bytes", body.len());
    assert!(greeting[handshake::HEAD_BYTES..].starts_with(&body), "not what has arrived");
    match handshake::receive(&ours, &head, &body, "remote") {
        Ok((caller, version)) => {
            assert!(handshake::VERSIONS.contains(&version));
            assert!(caller.role != Role::Member || caller.node.is_some());
            assert!(ours.cluster.is_none() || caller.cluster.is_none() || ours.cluster == caller.cluster);
            // As it would say it itself.
            let theirs = Identity {
                cluster: caller.cluster,
                node: caller.node,
                role: caller.role,
                agent: caller.agent.clone(),
            };
            let again = handshake::hello(&theirs, caller.lane);
            let split = handshake::Head::split(&again);
            let heard = split.map(|(head, body)| handshake::receive(&ours, &head, body, "remote"));
            assert_eq!(heard, Ok(Ok((caller, version))), "a hello says something else when it is said again");
        }
        Err(rejection) => is_told(&ours, &rejection),
    }
    match handshake::conclude(&ours, &head, &body) {
        Ok(host) => {
            assert!(handshake::VERSIONS.contains(&host.version));
            assert!(ours.cluster.is_none() || host.cluster.is_none() || ours.cluster == host.cluster);
        }
        Err(NotSent::Rejected { text, .. }) => {
            assert!(text.len() <= REFUSAL_TEXT_BYTES_MAX && !text.contains(char::is_control));
        }
        Err(_) => {}
    }
}

/// Whoever is refused is told why, within the bounds.
fn is_told(ours: &Identity, rejection: &Rejection) {
    let bytes = rejection.write();
    assert!(bytes.len() <= HANDSHAKE_BYTES_MAX, "a refusal of {} bytes", bytes.len());
    let told = handshake::Head::split(&bytes).map(|(head, body)| handshake::conclude(ours, &head, body));
    assert!(
        matches!(&told, Ok(Err(NotSent::Rejected { code, .. })) if *code == rejection.code),
        "{rejection} arrives as {told:?}"
    );
}

/// Both sides are ours: they meet, unless they know different clusters.
fn between_two(ours: &Identity, choices: &mut Choices<'_>) {
    let (Some(theirs), Some(lane)) = (identity(choices), Lane::ALL.get(choices.below(3))) else { return };
    let hello = handshake::hello(&theirs, *lane);
    let heard = handshake::Head::split(&hello).map(|(head, body)| handshake::receive(ours, &head, body, ""));
    let strangers = ours.cluster.is_some() && theirs.cluster.is_some() && ours.cluster != theirs.cluster;
    match heard {
        Ok(Ok((caller, version))) => {
            assert!(!strangers, "two clusters meet");
            assert_eq!((caller.cluster, caller.node, caller.lane), (theirs.cluster, theirs.node, *lane));
            let welcome = handshake::welcome(ours, version);
            let host = handshake::Head::split(&welcome)
                .map(|(head, body)| handshake::conclude(&theirs, &head, body));
            assert!(
                matches!(&host, Ok(Ok(host)) if (host.cluster, host.node) == (ours.cluster, ours.node)),
                "a welcome arrives as {host:?}"
            );
        }
        Ok(Err(rejection)) => {
            assert!(strangers, "{rejection}");
            is_told(&theirs, &rejection);
        }
        Err(malformed) => assert!(strangers, "{malformed}"),
    }
}
