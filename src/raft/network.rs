//! openraft's network over the transport: each message one call, encoded by `codec`.
//!
//! Replication, votes and heartbeats share the control lane; snapshots travel in pieces on the bulk lane, so that a
//! heartbeat never waits behind one.

use std::{
    borrow::Cow,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use openraft::{
    OptionalSend,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    log::{Has, Log},
    membership::AddressBook,
    pace::{self, Paced},
    pipeline::{self, Pipeline},
    types::{Handle, Member, Snapshot, SnapshotMeta, Types, Vote},
};
#[cfg(feature = "chaos")]
use crate::fault_point::Point;
use crate::{
    codec,
    fault_point::fault_point,
    id::NodeId,
    limits::SNAPSHOT_CHUNK_BYTES,
    runtime::{self, Either},
    transport::{CallError, Lane, Method, Peer, Transport},
};

/// The methods that belong to this file. The numbers are part of the wire format.
pub(crate) const APPEND: Method = Method(1);
pub(crate) const VOTE: Method = Method(2);
pub(crate) const PRE_VOTE: Method = Method(3);
pub(crate) const TRANSFER: Method = Method(4);
pub(crate) const SNAPSHOT: Method = Method(5);

/// Where a process may end around a message: before it is sent, after it was answered, before it is answered.
#[cfg(feature = "chaos")]
fn points(method: Method) -> [Point; 3] {
    use Point::*;
    match method {
        APPEND => [BeforeAppendRequest, AfterAppendRequest, BeforeAppendAnswer],
        VOTE => [BeforeVoteRequest, AfterVoteRequest, BeforeVoteAnswer],
        PRE_VOTE => [BeforePreVoteRequest, AfterPreVoteRequest, BeforePreVoteAnswer],
        TRANSFER => [BeforeTransferRequest, AfterTransferRequest, BeforeTransferAnswer],
        _ => [BeforePieceRequest, AfterPieceRequest, BeforePieceAnswer],
    }
}

/// One piece of a snapshot. The last one is answered with openraft's response.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    /// Bytes in all pieces together.
    pub(super) total: u64,
    /// Where this piece belongs.
    pub(super) offset: u64,
    pub(super) data: Bytes,
}

/// Makes openraft's connections to its peers.
pub(crate) struct Network {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) book: AddressBook,
    pub(super) heartbeat: Duration,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Link {
        Link {
            transport: self.transport.clone(),
            book: self.book.clone(),
            heartbeat: self.heartbeat,
            peer: Peer { address: node.addr.clone(), node: Some(target) },
        }
    }
}

/// The way to one peer.
pub(crate) struct Link {
    transport: Arc<dyn Transport>,
    book: AddressBook,
    heartbeat: Duration,
    /// Where it was when this way was made.
    peer: Peer,
}

impl Link {
    /// Where it is now.
    fn peer(&self) -> Cow<'_, Peer> {
        let known = &self.peer.address;
        let moved = |address: &str| (address != known).then(|| address.to_owned());
        match self.peer.node.and_then(|node| self.book.with(node, moved)).flatten() {
            Some(address) => Cow::Owned(Peer { address, node: self.peer.node }),
            None => Cow::Borrowed(&self.peer),
        }
    }

    async fn call<Q: Serialize, R: DeserializeOwned>(
        &self,
        lane: Lane,
        method: Method,
        request: &Q,
        within: Duration,
    ) -> Result<R, RPCError<Types>> {
        let payload = codec::encode(request).into();
        fault_point!(= points(method)[0]);
        let reply = self.transport.call(&self.peer(), lane, method, payload, within).await;
        fault_point!(= points(method)[1]);
        let reply = reply.map_err(of_call_error)?;
        codec::decode(&reply).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }
}

/// A peer that can't be reached is tried again after a pause, any other fault at once.
fn of_call_error(error: CallError) -> RPCError<Types> {
    match error {
        CallError::NotSent { .. } | CallError::Refused { .. } => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
        _ => RPCError::Network(NetworkError::new(&error)),
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.call(Lane::Control, APPEND, &rpc, option.soft_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, pipeline::Answer>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let (link, within) = (&*self, option.soft_ttl());
        let call = move |rpc| async move { link.call(Lane::Control, APPEND, &rpc, within).await };
        let pause = || {
            let observers = link.peer.node.map_or(0, |node| link.book.observers_beside(node));
            pace::pause(observers, link.heartbeat)
        };
        let answers: BoxStream<'s, _> = Box::pin(Pipeline::new(Paced::new(input, pause), call));
        Box::pin(async move { Ok(answers) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(Lane::Control, VOTE, &rpc, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(Lane::Control, PRE_VOTE, &rpc, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(Lane::Control, TRANSFER, &rpc, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let mut cancel = pin!(cancel);
        let total = snapshot.snapshot.len();
        let mut offset = 0;
        loop {
            let end = (offset + SNAPSHOT_CHUNK_BYTES).min(total);
            let piece = Piece {
                vote,
                meta: snapshot.meta.clone(),
                total: total as u64,
                offset: offset as u64,
                data: snapshot.snapshot.slice(offset..end),
            };
            let sent = self.call::<_, Option<SnapshotResponse<Types>>>(
                Lane::Bulk,
                SNAPSHOT,
                &piece,
                option.soft_ttl(),
            );
            let reply = match runtime::select2(sent, cancel.as_mut()).await {
                Either::First(reply) => reply.map_err(|error| match error {
                    RPCError::Unreachable(e) => StreamingError::Unreachable(e),
                    RPCError::Timeout(e) => StreamingError::Timeout(e),
                    RPCError::Network(e) => StreamingError::Network(e),
                    RPCError::RemoteError(e) => StreamingError::Network(NetworkError::new(&e)),
                })?,
                Either::Second(closed) => return Err(StreamingError::Closed(closed)),
            };
            offset = end;
            match reply {
                Some(response) => return Ok(response),
                None if offset < total => {}
                None => {
                    return Err(StreamingError::Network(NetworkError::from_string(
                        "the peer has all pieces of the snapshot and did not answer that it took it",
                    )));
                }
            }
        }
    }
}

/// The receiving side: hands openraft's messages to it.
pub(crate) struct Receiver {
    raft: Handle,
    log: Log,
    /// How many messages of leaders were taken.
    led: Arc<AtomicU64>,
    /// The snapshot that is arriving; one at a time, a new one replaces it.
    arriving: Mutex<Option<Arriving>>,
}

struct Arriving {
    meta: SnapshotMeta,
    total: u64,
    data: BytesMut,
}

/// Why a message of openraft's got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    #[error("the node has stopped: {0}")]
    Stopped(String),
    #[error("the snapshot's pieces don't fit: expected byte {expected} of {total}, got byte {offset}")]
    Piece { expected: u64, offset: u64, total: u64 },
    #[error("what the snapshot covers is still being written here; it can be sent again")]
    Writing,
}

impl Receiver {
    pub(super) fn new(raft: Handle, log: Log, led: Arc<AtomicU64>) -> Self {
        Self { raft, log, led, arriving: Mutex::new(None) }
    }

    /// Answers one message; `None` for a method that isn't openraft's.
    pub(crate) async fn receive(
        &self,
        method: Method,
        payload: &[u8],
    ) -> Option<Result<Bytes, ReceiveError>> {
        let stopped = |error: &dyn std::fmt::Display| ReceiveError::Stopped(error.to_string());
        let answer = match method {
            APPEND => match codec::decode(payload) {
                Ok(rpc) => {
                    let answer = self.raft.append_entries(rpc).await;
                    self.is_led(!matches!(answer, Ok(AppendEntriesResponse::HigherVote(_)) | Err(_)));
                    answer.map(|r| codec::encode(&r)).map_err(|e| stopped(&e))
                }
                Err(error) => Err(error.into()),
            },
            VOTE => match codec::decode(payload) {
                Ok(rpc) => self.raft.vote(rpc).await.map(|r| codec::encode(&r)).map_err(|e| stopped(&e)),
                Err(error) => Err(error.into()),
            },
            PRE_VOTE => match codec::decode(payload) {
                Ok(rpc) => self.raft.pre_vote(rpc).await.map(|r| codec::encode(&r)).map_err(|e| stopped(&e)),
                Err(error) => Err(error.into()),
            },
            TRANSFER => match codec::decode(payload) {
                Ok(rpc) => self
                    .raft
                    .handle_transfer_leader(rpc)
                    .await
                    .map(|r| codec::encode(&r))
                    .map_err(|e| stopped(&e)),
                Err(error) => Err(error.into()),
            },
            SNAPSHOT => self.piece(payload).await,
            _ => return None,
        }
        .map(Bytes::from);
        fault_point!(= points(method)[2]);
        Some(answer)
    }

    /// Counts a message of a leader that was taken for one: of a deposed leader, which may come in long after, it says nothing.
    fn is_led(&self, taken: bool) {
        if taken {
            self.led.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether this node's log has, durably and under the same leadership, the entry up to which the snapshot goes: then it
    /// has everything that the leader wants it to have by it, and the leader may send on from there.
    ///
    /// So it is when entries that were under way for long come in before a snapshot that was sent later. openraft
    /// 0.10.0-alpha.37 would install it, and set the log's progress back to the snapshot's last entry although the log goes
    /// on behind it: with debug assertions that panics, and without them the node takes what it has acknowledged for not
    /// written.
    async fn has_already(&self, meta: &SnapshotMeta, vote: Vote) -> Result<bool, ReceiveError> {
        const LOOKS: u32 = 100;
        let Some(last) = meta.last_log_id else { return Ok(false) };
        for _ in 0..LOOKS {
            let known = self.raft.with_raft_state(|state| *state.vote_ref()).await;
            if known.map_err(|error| ReceiveError::Stopped(error.to_string()))? != vote {
                return Ok(false);
            }
            match self.log.has(&last) {
                Has::Not => return Ok(false),
                Has::Durably => return Ok(true),
                Has::Soon => runtime::sleep(Duration::from_millis(10)).await,
            }
        }
        // To install it now would do what this is to prevent; the leader sends it again.
        Err(ReceiveError::Writing)
    }

    async fn piece(&self, payload: &[u8]) -> Result<Vec<u8>, ReceiveError> {
        let piece: Piece = codec::decode(payload)?;
        let whole = {
            let mut arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
            if piece.offset == 0 {
                *arriving =
                    Some(Arriving { meta: piece.meta.clone(), total: piece.total, data: BytesMut::new() });
            }
            let expected = match arriving.as_ref() {
                Some(a) if a.meta == piece.meta && a.total == piece.total => a.data.len() as u64,
                _ => 0,
            };
            let end = piece.offset.saturating_add(piece.data.len() as u64);
            match arriving.as_mut() {
                Some(a) if expected == piece.offset && end <= piece.total => {
                    a.data.extend_from_slice(&piece.data)
                }
                _ => {
                    *arriving = None;
                    return Err(ReceiveError::Piece { expected, offset: piece.offset, total: piece.total });
                }
            }
            if end == piece.total { arriving.take() } else { None }
        };
        let response = match whole {
            None => None,
            Some(Arriving { meta, .. }) if self.has_already(&meta, piece.vote).await? => {
                Some(SnapshotResponse::new(piece.vote))
            }
            Some(Arriving { meta, data, .. }) => {
                let snapshot = Snapshot { meta, snapshot: data.freeze() };
                let installed = self.raft.install_full_snapshot(piece.vote, snapshot).await;
                let installed = installed.map_err(|error| ReceiveError::Stopped(error.to_string()))?;
                self.is_led(installed.vote == piece.vote);
                Some(installed)
            }
        };
        Ok(codec::encode(&response))
    }
}
