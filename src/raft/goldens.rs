//! Golden files of openraft's messages and log entries as they are encoded with our types, and what hostile bytes do.
//!
//! The forms are openraft's; the pinned version keeps them, and these files tell when another one doesn't.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use openraft::{
    EntryPayload, Membership,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use super::{
    log::Log,
    network::Piece,
    types::{Append, Entry, LogId, Member, Proposal, SnapshotMeta, StoredMembership, Types, Vote, leader_of},
};
use crate::{
    codec, golden,
    id::{LeaseId, NodeId},
    storage::{MemoryJournal, Recovered},
    table::{Command, Entry as TableEntry},
};

/// Needs more than 32 bits: a field that was narrowed would not read it.
const LARGE: u64 = 1 << 40;

type Payload = EntryPayload<Proposal, NodeId, Member>;

fn node(n: u64) -> NodeId {
    NodeId::from_bits(n)
}

fn log_id(index: u64) -> LogId {
    LogId::new(leader_of(LARGE), index)
}

fn vote(committed: bool) -> Vote {
    let leader_id =
        openraft::impls::leader_id_std::LeaderId { term: LARGE, voted_for: node(0x0102_0304_0506_0708) };
    Vote { leader_id, committed }
}

/// A joint configuration with an observer.
fn membership() -> Membership<NodeId, Member> {
    let voters = |ids: &[u64]| ids.iter().map(|n| node(*n)).collect::<BTreeSet<_>>();
    let member =
        |n: u64| Member { agent: format!("agent-{n}"), addr: format!("127.0.0.1:710{n}"), observer: n == 4 };
    let nodes: BTreeMap<_, _> = (1..=4).map(|n| (node(n), member(n))).collect();
    Membership::new(vec![voters(&[1, 2, 3]), voters(&[1, 2])], nodes).unwrap()
}

fn meta() -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(log_id(LARGE)),
        last_membership: StoredMembership::new(Some(log_id(LARGE - 3)), membership()),
    }
}

fn payloads() -> [Payload; 3] {
    let command = Command::Release { lease_id: LeaseId::from_bits(u128::from_be_bytes([0x11; 16])) };
    let entry = TableEntry { wall_unix_ms: 1_700_000_000_000, command };
    [
        EntryPayload::Blank,
        EntryPayload::Normal(Proposal(Arc::new(entry))),
        EntryPayload::Membership(membership()),
    ]
}

fn entries() -> Vec<Entry> {
    (LARGE..).zip(payloads()).map(|(index, payload)| Entry { log_id: log_id(index), payload }).collect()
}

#[test]
fn every_payload_and_entry_is_encoded_as_ever() {
    let name = |payload: &Payload| match payload {
        EntryPayload::Blank => "blank",
        EntryPayload::Normal(_) => "normal",
        EntryPayload::Membership(_) => "membership",
    };
    let goldens =
        payloads().map(|payload| golden::check(&format!("raft/payload_{}", name(&payload)), &payload));
    golden::covers_variants::<Payload>(&goldens);
    let goldens: Vec<_> = entries()
        .iter()
        .map(|entry| golden::check(&format!("raft/entry_{}", name(&entry.payload)), entry))
        .collect();
    golden::withstands::<Entry>(&goldens);
}

#[test]
fn votes_log_ids_and_snapshot_descriptions_are_encoded_as_ever() {
    let votes = [golden::check("raft/vote", &vote(false)), golden::check("raft/vote_committed", &vote(true))];
    golden::withstands::<Vote>(&votes);
    golden::withstands::<LogId>(&[golden::check("raft/log_id", &log_id(LARGE))]);
    let metas = [
        golden::check("raft/snapshot_meta", &meta()),
        golden::check("raft/snapshot_meta_empty", &SnapshotMeta::default()),
    ];
    golden::withstands::<SnapshotMeta>(&metas);
}

#[test]
fn replication_is_encoded_as_ever() {
    let append = Append(AppendEntriesRequest {
        vote: vote(true),
        prev_log_id: Some(log_id(LARGE - 1)),
        entries: entries(),
        leader_commit: Some(log_id(LARGE - 2)),
    });
    let heartbeat = Append(AppendEntriesRequest {
        vote: vote(true),
        prev_log_id: None,
        entries: vec![],
        leader_commit: None,
    });
    let goldens = [
        golden::check("raft/append_entries_request", &append),
        golden::check("raft/append_entries_request_empty", &heartbeat),
    ];
    golden::withstands::<Append>(&goldens);

    let all = [
        AppendEntriesResponse::Success,
        AppendEntriesResponse::PartialSuccess(Some(log_id(LARGE))),
        AppendEntriesResponse::Conflict,
        AppendEntriesResponse::HigherVote(vote(false)),
    ];
    let goldens = all.map(|response: AppendEntriesResponse<Types>| {
        let name = match &response {
            AppendEntriesResponse::Success => "success",
            AppendEntriesResponse::PartialSuccess(_) => "partial_success",
            AppendEntriesResponse::Conflict => "conflict",
            AppendEntriesResponse::HigherVote(_) => "higher_vote",
        };
        golden::check(&format!("raft/append_entries_response_{name}"), &response)
    });
    golden::covers_variants::<AppendEntriesResponse<Types>>(&goldens);
    golden::withstands::<AppendEntriesResponse<Types>>(&goldens);
}

#[test]
fn votes_that_are_sent_are_encoded_as_ever() {
    let request = VoteRequest::<Types> {
        vote: vote(false),
        last_log_id: Some(log_id(LARGE)),
        leadership_transfer: true,
    };
    golden::withstands::<VoteRequest<Types>>(&[golden::check("raft/vote_request", &request)]);
    let response = VoteResponse::<Types>::new(vote(false), Some(log_id(LARGE)), true);
    golden::withstands::<VoteResponse<Types>>(&[golden::check("raft/vote_response", &response)]);
}

#[test]
fn a_transfer_of_the_leadership_is_encoded_as_ever() {
    let request = TransferLeaderRequest::<Types>::new(vote(true), node(2), Some(log_id(LARGE)));
    golden::withstands::<TransferLeaderRequest<Types>>(&[golden::check("raft/transfer_request", &request)]);

    let errors = [
        TransferLeaderError::VoteChanged { expected: vote(true), actual: vote(false) },
        TransferLeaderError::LogNotFlushed { expected: Some(log_id(LARGE)), actual: None },
    ];
    let bare = errors.clone().map(|error| codec::encode::<TransferLeaderError<Types>>(&error));
    golden::covers_variants::<TransferLeaderError<Types>>(&bare);
    let mut goldens =
        vec![golden::check("raft/transfer_response_ok", &TransferLeaderResponse::<Types>::Ok(()))];
    goldens.extend(errors.map(|error| {
        let name = match &error {
            TransferLeaderError::VoteChanged { .. } => "vote_changed",
            TransferLeaderError::LogNotFlushed { .. } => "log_not_flushed",
        };
        golden::check(&format!("raft/transfer_response_{name}"), &TransferLeaderResponse::<Types>::Err(error))
    }));
    golden::withstands::<TransferLeaderResponse<Types>>(&goldens);
}

#[test]
fn a_snapshots_piece_and_its_answer_are_encoded_as_ever() {
    let piece = Piece {
        vote: vote(true),
        meta: meta(),
        total: 2 * LARGE,
        offset: LARGE,
        data: Bytes::from_static(b"data"),
    };
    golden::withstands::<Piece>(&[golden::check("raft/piece", &piece)]);

    type Answered = Option<SnapshotResponse<Types>>;
    let goldens = [
        golden::check("raft/piece_response_more", &Answered::None),
        golden::check("raft/piece_response_taken", &Some(SnapshotResponse::<Types>::new(vote(true)))),
    ];
    golden::withstands::<Answered>(&goldens);
}

/// What is stored passed its checksum; it may still be of another program, or forged.
#[test]
fn a_log_that_is_none_is_an_error_and_no_panic() {
    let entries = entries().iter().map(codec::encode).collect::<Vec<_>>();
    let marks =
        vec![codec::encode(&log_id(LARGE - 1)), codec::encode(&log_id(u64::MAX)), codec::encode(&vote(true))];
    let forms = [entries, marks].concat();
    let open = |recovered| Log::new(Arc::new(MemoryJournal::new()), recovered).map(|_| ());
    let whole = Recovered {
        vote: Some(codec::encode(&vote(true)).into()),
        committed: Some(codec::encode(&log_id(LARGE)).into()),
        purged: Some((LARGE - 1, codec::encode(&log_id(LARGE - 1)).into())),
        entries: (LARGE..).zip(forms[..3].iter().cloned().map(Bytes::from)).collect(),
        snapshot: None,
    };
    open(whole.clone()).unwrap();
    golden::hostile(&forms, |bytes| {
        let bytes = Bytes::copy_from_slice(bytes);
        let _ = open(Recovered { vote: Some(bytes.clone()), ..whole.clone() });
        let _ = open(Recovered { committed: Some(bytes.clone()), ..whole.clone() });
        let _ = open(Recovered { purged: Some((LARGE - 1, bytes.clone())), ..whole.clone() });
        let _ =
            open(Recovered { purged: Some((LARGE - 1, bytes.clone())), entries: vec![], ..whole.clone() });
        let _ = open(Recovered { entries: vec![(LARGE, bytes)], ..whole.clone() });
    });
}
