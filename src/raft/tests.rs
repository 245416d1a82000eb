//! openraft held to our storage and our settings.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use openraft::{
    EntryPayload, StorageError,
    raft::{AppendEntriesRequest, SnapshotResponse},
    testing::log::{StoreBuilder, Suite},
};

use super::{
    Compaction, Consensus, Member,
    log::Log,
    machine::Machine,
    network, settings,
    types::{self, LogId, Types, Vote},
};
use crate::{
    AgentName, Timing, codec,
    id::NodeId,
    limits::PROPOSALS_UNDER_WAY_MAX,
    replica::Replica,
    runtime::watch,
    storage::{DataDir, DiskJournal, Done, Journal, MemoryJournal, Options, Recovered},
    table::{Command, Entry, Outcome},
    tasks::Tasks,
    token::Token,
    transport::{Identity, InProcessNetwork, Role, Transport},
};

fn parts(journal: Arc<dyn Journal>, recovered: Recovered) -> (Log, Machine) {
    let log = Log::new(journal.clone(), recovered).unwrap();
    (log, Machine::new(journal, Replica::new()))
}

struct InMemory;

impl StoreBuilder<Types, Log, Machine> for InMemory {
    async fn build(&self) -> Result<((), Log, Machine), StorageError<Types>> {
        let (log, machine) = parts(Arc::new(MemoryJournal::new()), Recovered::default());
        Ok(((), log, machine))
    }
}

struct OnDisk;

impl StoreBuilder<Types, Log, Machine, tempfile::TempDir> for OnDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Machine), StorageError<Types>> {
        let folder = tempfile::tempdir().unwrap();
        let directory = Arc::new(DataDir::open(folder.path()).unwrap());
        directory.load_or_create(NodeId::from_bits(1), &AgentName::new("a").unwrap()).unwrap();
        let (journal, recovered) = DiskJournal::open(&directory, &Options::default()).unwrap();
        let (log, machine) = parts(Arc::new(journal), recovered);
        Ok((folder, log, machine))
    }
}

#[tokio::test]
async fn openrafts_own_suite_in_memory() {
    Suite::test_all(InMemory).await.unwrap();
}

#[tokio::test]
async fn openrafts_own_suite_on_disk() {
    Suite::test_all(OnDisk).await.unwrap();
}

#[test]
fn the_settings_that_are_safety() {
    for timing in [Timing::default(), Timing::fast_lan(), Timing::wan()] {
        let config = settings::of(&timing, Compaction::default()).unwrap();
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.enable_pre_vote, Some(true));
        let election_max = u64::try_from(timing.election_timeout_max.as_millis()).unwrap();
        assert!(config.quorum_loss_probe_interval.is_some_and(|ms| ms >= 2 * election_max));
        assert_eq!(config.allow_log_reversion, None, "a log never goes back");
    }
}

/// A cluster of one, on a network of its own.
async fn alone(journal: Arc<dyn Journal>, recovered: Recovered) -> (Consensus, Arc<Replica>) {
    let identity = Identity {
        cluster: None,
        node: Some(NodeId::from_bits(1)),
        role: Role::Member,
        agent: AgentName::new("a").unwrap(),
    };
    let network = InProcessNetwork::new(1);
    let transport: Arc<dyn Transport> = Arc::new(network.bind("a:1", watch::channel(identity).1).unwrap());
    let replica = Replica::new();
    let timing = Timing::fast_lan();
    let compaction = Compaction::default();
    let built = Consensus::build(
        NodeId::from_bits(1),
        &timing,
        compaction,
        transport,
        (journal, recovered),
        replica.clone(),
        Tasks::new(),
    )
    .await;
    let (consensus, _) = built.unwrap();
    consensus.run();
    (consensus, replica)
}

async fn until_leading(consensus: &Consensus) -> u64 {
    let mut watch = consensus.watch();
    let leading = async {
        while !watch.now().leading {
            watch.changed().await.unwrap();
        }
        watch.now().term
    };
    within_10_s(leading).await
}

/// Forms a cluster of this node alone; the term in which it leads.
async fn founded(consensus: &Consensus) -> u64 {
    let member = Member { agent: "a".to_owned(), addr: "a:1".to_owned(), observer: false };
    assert!(consensus.found(BTreeMap::from([(NodeId::from_bits(1), member)])).await.unwrap());
    until_leading(consensus).await
}

async fn within_10_s<T>(future: impl Future<Output = T>) -> T {
    crate::runtime::timeout(Duration::from_secs(10), future).await.expect("it takes longer than 10 s")
}

fn found(tokens_above: u64) -> Entry {
    Entry { wall_unix_ms: 0, command: Command::Found { tokens_above: Token::new(tokens_above) } }
}

/// openraft's default would go on in the old term, with log ids that may have been used before.
#[tokio::test]
async fn a_restarted_leader_stands_for_election() {
    let journal = MemoryJournal::new();
    let second = {
        let journal: Arc<MemoryJournal> = Arc::new(journal);
        let (consensus, _) = alone(journal.clone(), Recovered::default()).await;
        let term = founded(&consensus).await;
        assert_eq!(consensus.propose(found(7)).await, Ok(Outcome::Founded));
        consensus.shutdown().await;
        (journal.restart(), term)
    };
    let ((journal, recovered), first_term) = second;
    assert!(recovered.vote.is_some());
    let (consensus, replica) = alone(Arc::new(journal), recovered).await;
    let term = until_leading(&consensus).await;
    assert!(term > first_term, "it went on in term {term}");
    // What was acknowledged is there again (L9), and a second founding changes nothing.
    assert_eq!(within_10_s(consensus.propose(found(9))).await, Ok(Outcome::AlreadyFounded));
    assert_eq!(replica.read().table().last_token(), Some(Token::new(7)));
    consensus.shutdown().await;
}

/// The term binds a proposal: `Expire` is never taken by a later leadership.
#[tokio::test]
async fn a_proposal_for_another_term_changes_nothing() {
    let (consensus, replica) = alone(Arc::new(MemoryJournal::new()), Recovered::default()).await;
    let term = founded(&consensus).await;
    for other in [term - 1, term + 1] {
        let refused = consensus.propose_in(other, found(7)).await;
        assert!(matches!(refused, Err(super::ConsensusError::NotLeader { .. })), "{refused:?}");
    }
    assert!(!replica.read().table().is_founded());
    assert_eq!(consensus.propose_in(term, found(7)).await, Ok(Outcome::Founded));
    let confirmed = consensus.confirm().await.unwrap();
    assert_eq!(confirmed.term, term);
    consensus.shutdown().await;
}

/// A journal that is slow: it takes entries, and makes them durable when it is told to.
struct Slow {
    journal: MemoryJournal,
    /// What is to be called, while it is slow.
    held: Mutex<Option<Vec<Done>>>,
    taken: AtomicUsize,
}

impl Slow {
    fn new() -> Arc<Self> {
        let (held, taken) = (Mutex::new(None), AtomicUsize::new(0));
        Arc::new(Self { journal: MemoryJournal::new(), held, taken })
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Vec<Done>>> {
        self.held.lock().unwrap()
    }
}

#[async_trait::async_trait]
impl Journal for Slow {
    async fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) -> io::Result<()> {
        self.taken.fetch_add(entries.len(), Ordering::Relaxed);
        let done = match &mut *self.held() {
            Some(held) => {
                held.push(done);
                Box::new(|_| ())
            }
            None => done,
        };
        self.journal.append(entries, done).await
    }

    async fn save_vote(&self, vote: Bytes) -> io::Result<()> {
        self.journal.save_vote(vote).await
    }

    async fn save_committed(&self, committed: Bytes) -> io::Result<()> {
        self.journal.save_committed(committed).await
    }

    async fn truncate_after(&self, last: Option<u64>) -> io::Result<()> {
        self.journal.truncate_after(last).await
    }

    async fn purge(&self, upto: u64, mark: Bytes) -> io::Result<()> {
        self.journal.purge(upto, mark).await
    }

    async fn save_snapshot(&self, meta: Bytes, data: Bytes) -> io::Result<()> {
        self.journal.save_snapshot(meta, data).await
    }

    async fn load_snapshot(&self) -> io::Result<Option<(Bytes, Bytes)>> {
        self.journal.load_snapshot().await
    }

    async fn close(&self) -> io::Result<()> {
        self.journal.close().await
    }

    fn failed(&self) -> Option<String> {
        self.journal.failed()
    }
}

/// Those who ask give up, and ask again; each time another entry would come into the log.
#[tokio::test]
async fn a_log_that_is_slow_grows_by_what_may_be_under_way() {
    let slow = Slow::new();
    let (consensus, _) = alone(slow.clone(), Recovered::default()).await;
    let term = founded(&consensus).await;
    assert_eq!(within_10_s(consensus.propose(found(7))).await, Ok(Outcome::Founded));

    *slow.held() = Some(Vec::new());
    let before = slow.taken.load(Ordering::Relaxed);
    let grown = || slow.taken.load(Ordering::Relaxed) - before;
    for _ in 0..3 {
        let ask = || crate::runtime::timeout(Duration::from_millis(200), consensus.propose(found(9)));
        let asks = (0..PROPOSALS_UNDER_WAY_MAX).map(|_| ask());
        let answers = futures_util::future::join_all(asks).await;
        assert!(answers.iter().all(Result::is_err), "nothing is decided");
    }
    assert_eq!(grown(), PROPOSALS_UNDER_WAY_MAX);
    // The leader's own are not kept waiting: it may have to expire leases.
    let own = crate::runtime::timeout(Duration::from_millis(200), consensus.propose_in(term, found(9))).await;
    assert!(own.is_err());
    assert_eq!(grown(), PROPOSALS_UNDER_WAY_MAX + 1);

    let held = slow.held().take().unwrap();
    held.into_iter().for_each(|done| done(Ok(())));
    assert_eq!(within_10_s(consensus.propose(found(9))).await, Ok(Outcome::AlreadyFounded));
    consensus.shutdown().await;
}

/// Whoever asks may keep the future and not poll it: what was decided has given its turn back, and what waits is in line.
#[tokio::test]
async fn who_is_not_polled_keeps_no_turn() {
    let (consensus, _) = alone(Arc::new(MemoryJournal::new()), Recovered::default()).await;
    founded(&consensus).await;
    let mut kept: Vec<_> =
        (0..3 * PROPOSALS_UNDER_WAY_MAX).map(|_| Box::pin(consensus.propose(found(7)))).collect();
    assert!(kept.iter_mut().all(|asked| asked.as_mut().now_or_never().is_none()));
    assert_eq!(within_10_s(consensus.propose(found(9))).await, Ok(Outcome::AlreadyFounded));
    consensus.shutdown().await;
}

/// What waits behind the entries of a leader that leads no more is told so at once: nothing of it was proposed.
#[tokio::test]
async fn who_waits_for_a_turn_hears_that_the_leader_is_deposed() {
    let slow = Slow::new();
    let (consensus, _) = alone(slow.clone(), Recovered::default()).await;
    let term = founded(&consensus).await;

    *slow.held() = Some(Vec::new());
    let all = (0..2 * PROPOSALS_UNDER_WAY_MAX).map(|_| consensus.propose(found(7)));
    let mut all = Box::pin(futures_util::future::join_all(all));
    assert!(crate::runtime::timeout(Duration::from_millis(200), all.as_mut()).await.is_err());
    // It votes alone, and would lead again in a moment.
    consensus.raft.runtime_config().elect(false);
    let (term, leader) = (term + 1, NodeId::from_bits(2));
    let leader_id = openraft::impls::leader_id_std::LeaderId { term, voted_for: leader };
    let append = AppendEntriesRequest::<Types> {
        vote: Vote { leader_id, committed: true },
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let (receiver, append) = (consensus.receiver(), codec::encode(&append));
    let deposed = receiver.receive(network::APPEND, &append);
    let last = crate::runtime::select2(consensus.propose(found(7)), async {
        let _ = deposed.await;
        std::future::pending::<()>().await;
    });
    let crate::runtime::Either::First(last) = within_10_s(last).await else { unreachable!() };
    assert!(matches!(last, Err(crate::raft::ConsensusError::NotLeader { .. })), "{last:?}");
    drop(all);
    consensus.shutdown().await;
}

/// Entries of a leader come in, and then a snapshot of that leader's that goes less far. openraft would set the progress of
/// its log back, which panics here.
#[tokio::test]
async fn a_snapshot_of_what_the_log_has_already_is_not_installed() {
    let (consensus, replica) = alone(Arc::new(MemoryJournal::new()), Recovered::default()).await;
    let receiver = consensus.receiver();
    let (term, leader) = (7, NodeId::from_bits(2));
    let leader_id = openraft::impls::leader_id_std::LeaderId { term, voted_for: leader };
    let vote = Vote { leader_id, committed: true };
    let log_id = |index| LogId::new(types::leader_of(term), index);
    let entry = |index| types::Entry { log_id: log_id(index), payload: EntryPayload::Blank };
    let append = |prev_log_id, entries| AppendEntriesRequest::<Types> {
        vote,
        prev_log_id,
        entries,
        leader_commit: None,
    };
    let send = |append| async {
        let append: AppendEntriesRequest<Types> = append;
        within_10_s(receiver.receive(network::APPEND, &codec::encode(&append))).await.unwrap().unwrap()
    };
    send(append(None, (0..5).map(entry).collect())).await;

    let data = bytes::Bytes::from(crate::table::Table::new().snapshot());
    let meta = types::SnapshotMeta { last_log_id: Some(log_id(2)), ..Default::default() };
    let piece = network::Piece { vote, meta, total: data.len() as u64, offset: 0, data };
    let answer =
        within_10_s(receiver.receive(network::SNAPSHOT, &codec::encode(&piece))).await.unwrap().unwrap();
    let taken: Option<SnapshotResponse<Types>> = codec::decode(&answer).unwrap();
    assert_eq!(taken.unwrap().vote, vote);

    // It goes on: what comes next is appended, and a snapshot that goes further is installed.
    send(append(Some(log_id(4)), vec![entry(5)])).await;
    assert_eq!(consensus.leadership().stopped, None);
    assert_eq!(replica.read().index(), 0);
    let further = types::SnapshotMeta { last_log_id: Some(log_id(9)), ..Default::default() };
    let piece = network::Piece { meta: further, ..piece };
    within_10_s(receiver.receive(network::SNAPSHOT, &codec::encode(&piece))).await.unwrap().unwrap();
    assert_eq!(replica.read().index(), 9);
    consensus.shutdown().await;
}
