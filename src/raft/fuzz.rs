//! openraft's messages and what of its is stored: parts of the targets `messages` and `records` of the fuzzer (feature
//! `test-support`).

use std::sync::Arc;

use openraft::raft::{
    AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};

use super::{
    log::Log,
    network::Piece,
    types::{Append, Entry, LogId, Member, SnapshotMeta, Types, Vote},
};
use crate::{
    codec::FORMAT_VERSION,
    fuzz::{Choices, withstands},
    storage::{MemoryJournal, Recovered},
};

/// One for each form.
pub(crate) const FORMS: &[fn(&[u8])] = &[
    withstands::<Append>,
    withstands::<AppendEntriesResponse<Types>>,
    withstands::<VoteRequest<Types>>,
    withstands::<VoteResponse<Types>>,
    withstands::<TransferLeaderRequest<Types>>,
    withstands::<TransferLeaderResponse<Types>>,
    withstands::<Piece>,
    withstands::<Option<SnapshotResponse<Types>>>,
    withstands::<Entry>,
    withstands::<Vote>,
    withstands::<LogId>,
    withstands::<SnapshotMeta>,
    withstands::<Member>,
];

/// Whatever a journal has under the right checksums, the log that is made of it is one, or refused.
pub(crate) fn log(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let some = |choices: &mut Choices<'_>| {
        let length = choices.byte();
        (length > 0).then(|| [&[FORMAT_VERSION], choices.bytes((length - 1).into())].concat().into())
    };
    let (vote, committed) = (some(&mut choices), some(&mut choices));
    let purged = some(&mut choices).map(|mark| (choices.number(), mark));
    let mut recovered = Recovered { vote, committed, purged, entries: Vec::new(), snapshot: None };
    while !choices.is_over() {
        let index = choices.number();
        recovered.entries.extend(some(&mut choices).map(|entry| (index, entry)));
    }
    let count = recovered.entries.len() as u64;
    let first = recovered.entries.first().map_or(0, |(index, _)| *index);
    let Ok(log) = Log::new(Arc::new(MemoryJournal::new()), recovered) else { return };
    let (found, end) = log.range();
    assert!(count == 0 || found == first, "it begins at {found}, it was given {first}");
    assert_eq!(end - found, count, "it has other entries than it was given");
}
