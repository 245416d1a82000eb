//! A forced recovery, as far as consensus has a part in it: what a stopped member has, and the state from which it alone
//! goes on.
//!
//! openraft starts from a vote, a log and a snapshot, and a log that was purged up to the snapshot's last entry is an
//! everyday state: that of any member after a compaction. So that is what is made. The snapshot has the table, and a
//! membership of this node alone; its last log id is one that nobody has had, of a later term and at a far later index
//! than all that this copy knows; the vote is of that term, so that no election before it counts.
//!
//! *Entries that are not known to be committed* are applied like the others. An entry that was committed, and answered, may
//! be one of them: this copy can't tell, and to lose it would lose a lease. One that was not committed, and perhaps gave way to
//! another, grants a name to somebody who doesn't know of it (nobody renews it, so it ends by its ttl), or takes it from
//! somebody who has it by the lost majority's log: that is covered as everything is which this copy doesn't know of, since
//! nobody of the old generation believes any more when the new one begins ([`danger`](crate::danger)).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use bytes::Bytes;
use openraft::{EntryPayload, entry::RaftEntry as _};

use super::types::{Entry, LogId, Member, SnapshotMeta, StoredMembership, Vote, leader_of};
use crate::{
    codec,
    id::NodeId,
    limits::FORCED_INDEX_STEP,
    replica::Replica,
    storage::{Journal, Recovered},
    table::Table,
    token::Token,
};

/// What a stopped member has.
pub(crate) struct Remains {
    /// The table, with every entry of the log applied.
    pub(crate) table: Table,
    /// The members that it knows of, and whether each votes.
    pub(crate) members: BTreeMap<NodeId, (Member, bool)>,
    /// The term of its last entry.
    pub(crate) last_term: u64,
    /// The index of its last entry.
    pub(crate) last: u64,
    /// Up to which index it knows its entries to be committed; there may be more.
    pub(crate) committed: u64,
    /// The latest term that it has heard of.
    pub(crate) term: u64,
}

fn unreadable(what: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {error}"))
}

fn decoded<T: serde::de::DeserializeOwned>(what: &str, bytes: &Bytes) -> io::Result<T> {
    codec::decode(bytes).map_err(|error| unreadable(what, error))
}

impl Remains {
    /// Makes it of what a journal has.
    ///
    /// # Errors
    /// `InvalidData`, naming what can't be read or does not fit together.
    pub(crate) fn read(recovered: &Recovered) -> io::Result<Self> {
        let vote: Option<Vote> = recovered.vote.as_ref().map(|v| decoded("the vote", v)).transpose()?;
        let committed: Option<LogId> =
            recovered.committed.as_ref().map(|c| decoded("the commit mark", c)).transpose()?;
        let replica = Replica::new();
        let mut membership = StoredMembership::default();
        let mut last: Option<LogId> = None;
        if let Some((meta, data)) = &recovered.snapshot {
            let meta: SnapshotMeta = decoded("the snapshot's description", meta)?;
            let table = replica.decode(data)?;
            last = meta.last_log_id;
            replica.replace(last.map_or(0, |id| id.index), last.map_or(0, term_of), table);
            membership = meta.last_membership;
        }
        let purged = recovered.purged.as_ref().map(|(index, _)| *index);
        if purged > last.map(|id| id.index) {
            return Err(unreadable(
                "the snapshot",
                format!("it goes up to {last:?}, and the log begins after {purged:?}"),
            ));
        }
        for (_, bytes) in &recovered.entries {
            let entry: Entry = decoded("an entry of the log", bytes)?;
            let id = entry.log_id();
            match last {
                // A log whose entry at the snapshot's end is another one gave way to the snapshot, with all after it.
                Some(covered) if id.index == covered.index && id != covered => break,
                Some(covered) if id.index <= covered.index => continue,
                _ => {}
            }
            match &entry.payload {
                EntryPayload::Normal(proposal) => {
                    let _ = replica.apply(id.index, term_of(id), &proposal.0);
                }
                EntryPayload::Blank => replica.pass(id.index, term_of(id)),
                EntryPayload::Membership(new) => {
                    membership = StoredMembership::new(Some(id), new.clone());
                    replica.pass(id.index, term_of(id));
                }
            }
            last = Some(id);
        }
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let members = membership
            .nodes()
            .map(|(node, member)| (*node, (member.clone(), voters.contains(node))))
            .collect();
        let table = replica.read().table().clone();
        Ok(Self {
            table,
            members,
            last_term: last.map_or(0, term_of),
            last: last.map_or(0, |id| id.index),
            committed: committed.map_or(0, |id| id.index),
            term: vote.map_or(0, |vote| vote.leader_id.term).max(last.map_or(0, term_of)),
        })
    }

    /// Writes the state from which this node alone goes on into a journal that is empty.
    ///
    /// # Errors
    /// The journal's, and `InvalidData` where terms or indexes are used up.
    pub(crate) async fn go_on_alone(
        self,
        journal: &dyn Journal,
        node: NodeId,
        member: Member,
        tokens_above: Token,
    ) -> io::Result<()> {
        let used_up = || unreadable("the log", "its terms or indexes are used up");
        let index = self.last.checked_add(FORCED_INDEX_STEP).filter(|index| *index < u64::MAX);
        let (Some(index), Some(term)) = (index, self.term.checked_add(1)) else { return Err(used_up()) };
        let last = LogId::new(leader_of(term), index);
        let members = BTreeMap::from([(node, member)]);
        let alone = openraft::Membership::new(vec![BTreeSet::from([node])], members)
            .map_err(|error| unreadable("the membership", error))?;
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(Some(last), alone),
        };
        let table = self.table.forced(index, tokens_above);
        table.check_invariants().map_err(|error| unreadable("the table", error))?;
        let leader_id = openraft::impls::leader_id_std::LeaderId { term, voted_for: node };
        let vote = Vote { leader_id, committed: false };
        journal.save_vote(codec::encode(&vote).into()).await?;
        journal.save_snapshot(codec::encode(&meta).into(), table.snapshot().into()).await?;
        journal.save_committed(codec::encode(&last).into()).await?;
        journal.purge(index, codec::encode(&last).into()).await
    }
}

fn term_of(id: LogId) -> u64 {
    id.committed_leader_id().term
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::types::Proposal;
    use super::*;
    use crate::{
        AgentName, LeaseId, Name,
        mode::Mode,
        storage::MemoryJournal,
        table::{Acquire, Command, Entry as TableEntry, Holder},
    };

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(leader_of(term), index)
    }

    fn entry(term: u64, index: u64, command: Command) -> (u64, Bytes) {
        let proposal = Proposal(Arc::new(TableEntry { wall_unix_ms: 1, command }));
        let entry = Entry { log_id: id(term, index), payload: EntryPayload::Normal(proposal) };
        (index, codec::encode(&entry).into())
    }

    fn found() -> Command {
        Command::Found { tokens_above: Token::new(10) }
    }

    fn acquire(name: &str) -> Command {
        Command::Acquire(Acquire {
            name: Name::new(name).unwrap(),
            lease_id: LeaseId::from_bits(name.len() as u128),
            agent: Holder { agent: AgentName::new("a").unwrap(), node: NodeId::from_bits(1) },
            ttl_ms: 1_000,
            wait: true,
            metadata: Bytes::new(),
            seen: 0,
            mode: Mode::Exclusive,
            lock_delay_ms: 0,
        })
    }

    fn recovered() -> Recovered {
        Recovered {
            committed: Some(codec::encode(&id(2, 2)).into()),
            entries: vec![entry(2, 1, found()), entry(2, 2, acquire("x")), entry(2, 3, acquire("yy"))],
            ..Recovered::default()
        }
    }

    #[test]
    fn entries_that_may_be_committed_are_kept() {
        let remains = Remains::read(&recovered()).unwrap();
        assert_eq!((remains.last, remains.committed, remains.term), (3, 2, 2));
        assert_eq!((remains.table.counts().leases, remains.table.last_token()), (2, Some(Token::new(12))));
        let vote = Vote {
            leader_id: openraft::impls::leader_id_std::LeaderId { term: 9, voted_for: NodeId::from_bits(1) },
            committed: false,
        };
        let voted = Recovered { vote: Some(codec::encode(&vote).into()), ..recovered() };
        assert_eq!(Remains::read(&voted).unwrap().term, 9);
    }

    fn with_snapshot(last: LogId) -> Recovered {
        let mut table = Table::new();
        let founded = TableEntry { wall_unix_ms: 1, command: found() };
        table.apply(1, 2, &founded, &mut Vec::new());
        table.skip(last.index);
        let meta = SnapshotMeta { last_log_id: Some(last), ..SnapshotMeta::default() };
        let data = Bytes::from(table.snapshot());
        Recovered { snapshot: Some((codec::encode(&meta).into(), data)), ..recovered() }
    }

    #[test]
    fn the_log_goes_on_where_the_snapshot_ends_unless_it_is_another_log() {
        let goes_on = Remains::read(&with_snapshot(id(2, 2))).unwrap();
        assert_eq!((goes_on.last, goes_on.table.counts().leases), (3, 1), "x is not in the snapshot");
        let another = Remains::read(&with_snapshot(id(7, 2))).unwrap();
        assert_eq!((another.last, another.table.counts().leases, another.term), (2, 0, 7));
        let beyond = Remains::read(&with_snapshot(id(7, 50))).unwrap();
        assert_eq!((beyond.last, beyond.table.counts().leases), (50, 0));
        let gap = Recovered { purged: Some((3, Bytes::new())), ..with_snapshot(id(2, 2)) };
        assert!(Remains::read(&gap).is_err_and(|error| error.to_string().contains("snapshot")));
    }

    #[tokio::test]
    async fn what_is_written_is_read_back_by_the_log_and_the_machine() {
        use openraft::storage::{RaftLogStorage as _, RaftStateMachine as _};

        let node = NodeId::from_bits(7);
        let member = Member { agent: "a".to_owned(), addr: "a:1".to_owned(), observer: false };
        let journal = MemoryJournal::new();
        let remains = Remains::read(&recovered()).unwrap();
        remains.go_on_alone(&journal, node, member.clone(), Token::new(99)).await.unwrap();
        let (journal, recovered) = journal.restart();
        let again = Remains::read(&recovered).unwrap();
        assert_eq!((again.last, again.term), (3 + FORCED_INDEX_STEP, 3));
        assert_eq!(again.members, BTreeMap::from([(node, (member, true))]));
        assert_eq!((again.table.counts().leases, again.table.last_token()), (2, Some(Token::new(99))));
        let journal = Arc::new(journal);
        let mut log = super::super::log::Log::new(journal.clone(), recovered).unwrap();
        let state = log.get_log_state().await.unwrap();
        assert_eq!(state.last_log_id, state.last_purged_log_id);
        assert_eq!(state.last_log_id, Some(id(3, 3 + FORCED_INDEX_STEP)));
        assert!(log.has_voted());
        let mut machine = super::super::machine::Machine::new(journal, Replica::new());
        assert_eq!(
            machine.get_current_snapshot().await.unwrap().unwrap().meta.last_log_id,
            state.last_log_id
        );
    }
}
