//! **Danger.** Forced recovery: what to do when a majority of a cluster's voters is gone for good, disks and all.
//!
//! One data directory that is left is made into a cluster of one, which others then join as new members. That can't be
//! safe by itself, and so it is a deliberate act on the directory of an agent that is stopped: [`survey`] shows what it
//! has, [`recover`] replaces it. Where a majority can still be brought back, bring it back instead.
//!
//! # What may be wrong afterwards, and why nothing else is
//!
//! *The copy may be behind.* Whatever the lost majority answered after this copy's last entry is forgotten: grants,
//! releases, places in queues. That can't be helped; what must not come of it is this:
//!
//! 1. **Two believers** (L1). Somebody may hold a lease that this copy doesn't know of, and believes until its own
//!    deadline. No renewal can succeed any more, since that takes the majority. So before the new content counts, no
//!    holder of the old cluster may believe any more: either somebody states that ([`Holders::Gone`]), or the recovery
//!    waits for as long as the longest lease can live ([`Holders::WaitOut`]). A holder believes for `ttl × (1 − drift)` of
//!    its clock, in which this machine's advances by less than `ttl`, and its last renewal was before the waiting began.
//!    The leases that the copy knows of stay held, and run out a ttl after the new cluster has a leader: whoever had them is
//!    of the old generation, whose requests are refused.
//! 2. **Tokens that go back** (L2). New ones begin above the wall clock's `ms << 20`, as those of a cluster that is founded
//!    anew do, and by the same argument: the lost majority's began at its founding's `ms << 20`, or at its last
//!    recovery's, so to come above it would have had to grant a million leases in each millisecond since. Where the clock
//!    stands below the last token that the copy knows of, it is wrong, or was: then nothing is recovered without a token
//!    from outside ([`Recovery::tokens_above`]).
//! 3. **Old members among new ones.** The cluster's id gets the next [generation](ClusterId::generation). The handshake
//!    keeps different ids apart, on both sides, and names the older one. An old directory comes back by being moved away
//!    only: its agent then joins as a new member.
//! 4. **Old requests** (L7) and **watchers** that were further than this copy: `table/forced.rs` has both.
//!
//! *The majority may not be gone.* If it comes back it goes on by itself, under the old generation, and grants: two
//! clusters, which never mix, and two believers. Then a resource that has seen a token of the new one refuses the old
//! one's, and nothing else protects it. So be sure.
//!
//! A crash at any point leaves the old content or the new one (`storage/successor.rs`); the old one is kept beside it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    clock::{self, Clock as _, SystemClock},
    config,
    error::RecoverError,
    id::{ClusterId, NodeId},
    limits::FORCED_TOKEN_STEP,
    message::MemberStatus,
    name::AgentName,
    raft::{Member, Remains},
    runtime,
    storage::{self, DataDir, DiskJournal, Identity, Journal as _, Options, StorageError},
    token::Token,
};

/// How often the waiting looks at the clock: timers don't count suspend, the clock does.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// What a stopped agent's data directory has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Its member.
    pub node: NodeId,
    /// What that member's agent is called.
    pub agent: AgentName,
    /// The members that it knows of, itself among them.
    pub members: Vec<MemberStatus>,
    /// The latest term that it has heard of.
    pub term: u64,
    /// The term of its last log entry. Of several copies the one with the largest goes on, and of those the one with the
    /// largest `last_index`: the latest term that one has *heard* of says nothing of what it has.
    pub last_term: u64,
    /// The index of its last log entry. All are kept, also those that are not known to be committed: one of them may be.
    pub last_index: u64,
    /// Up to which index it knows its entries to be committed.
    pub committed_index: u64,
    /// The last token that it knows of.
    pub last_token: Token,
    /// How many leases are held.
    pub leases: u64,
    /// How many wait.
    pub waiters: u64,
    /// The longest ttl, with lock delay, of what is held, waits or is closed.
    pub longest_ttl: Duration,
}

/// What is known of those who held leases when the majority was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holders {
    /// A statement: nobody believes in a lease of the old cluster any more. All processes that held any are stopped, or
    /// their longest ttl has gone by since the majority was lost.
    Gone,
    /// So long is waited before anything is changed: the longest ttl, with lock delay, that anybody asks for. A
    /// [`TTL_MAX`](crate::limits::TTL_MAX) is always enough for ttls.
    WaitOut(Duration),
}

/// How to recover.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is recovered until it is given to recover()"]
pub struct Recovery {
    cluster: ClusterId,
    holders: Holders,
    advertise: Option<String>,
    tokens_above: Option<Token>,
}

impl Recovery {
    /// Of this cluster, which the directory has to belong to: who names it has looked.
    pub fn of(cluster: ClusterId, holders: Holders) -> Self {
        Self { cluster, holders, advertise: None, tokens_above: None }
    }

    /// The address at which others reach the agent. Without it, the one that the membership has.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// New tokens are larger than this one as well. **Danger:** where the wall clock is not to be trusted this is all that
    /// they rest on, so let it be larger than every token that any protected resource has seen.
    pub fn tokens_above(mut self, token: Token) -> Self {
        self.tokens_above = Some(token);
        self
    }
}

/// What a recovery has made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// The cluster as it is called now.
    pub cluster: ClusterId,
    /// Every new token is larger than this one.
    pub tokens_above: Token,
    /// The address at which the agent is listed.
    pub address: String,
    /// Where the old content is kept. Nobody needs it any more but people.
    pub kept: PathBuf,
}

/// Called before each step that changes the disk.
type Step = Box<dyn FnMut(&str) -> io::Result<()> + Send>;

/// A directory that is locked, and what it has.
struct Found {
    directory: DataDir,
    identity: Identity,
    cluster: ClusterId,
    last_token: Token,
    remains: Remains,
}

/// Reads what the data directory of a stopped agent has. Nothing in it is changed.
///
/// Needs a tokio runtime. Cancel-safe.
///
/// # Errors
/// [`RecoverError`]: the directory is in use, or has nothing that could be recovered.
pub async fn survey(data_dir: impl Into<PathBuf>) -> Result<Survey, RecoverError> {
    let path = data_dir.into();
    let found = blocking(&path.clone(), move || find(&path)).await?;
    let Found { identity, cluster, last_token, remains, .. } = found;
    let counts = remains.table.counts();
    let member = |(node, (member, voter)): (NodeId, (Member, bool))| MemberStatus {
        node,
        agent: member.agent,
        addr: member.addr,
        voter,
    };
    Ok(Survey {
        cluster,
        node: identity.node_id,
        agent: identity.agent,
        term: remains.term,
        last_term: remains.last_term,
        last_index: remains.last,
        committed_index: remains.committed,
        last_token,
        leases: counts.leases as u64,
        waiters: counts.waiters as u64,
        longest_ttl: Duration::from_millis(remains.table.longest_ms()),
        members: remains.members.into_iter().map(member).collect(),
    })
}

/// **Danger.** Makes the data directory of a stopped agent into a cluster of that agent alone, of the next generation; see
/// the [module](self) for what that means, and for what has to be sure before.
///
/// Afterwards start the agent as ever, and let others join it, with empty directories.
///
/// Needs a tokio runtime with time enabled. The directory is locked meanwhile. Dropping the future while it waits changes
/// nothing; later, the directory has then what it had, or what it was to have.
///
/// # Errors
/// [`RecoverError`].
pub async fn recover(data_dir: impl Into<PathBuf>, recovery: Recovery) -> Result<Recovered, RecoverError> {
    recover_by(data_dir.into(), recovery, Box::new(|_| Ok(()))).await
}

async fn recover_by(path: PathBuf, recovery: Recovery, step: Step) -> Result<Recovered, RecoverError> {
    let reading = path.clone();
    let found = blocking(&path, move || find(&reading)).await?;
    // The directory is locked: nobody renews by it any more.
    let began = SystemClock.now();
    let Recovery { cluster: named, holders, advertise, tokens_above } = recovery;
    let (node, cluster) = (found.identity.node_id, found.cluster);
    if cluster != named {
        return Err(RecoverError::OtherCluster { path, found: cluster, named });
    }
    let next = cluster
        .next_generation(runtime::random_u128() as u32)
        .ok_or(RecoverError::NoGeneration { cluster })?;
    let listed = found.remains.members.get(&node).map(|(member, _)| member.addr.clone());
    let address = advertise.or(listed).unwrap_or_default();
    if !config::is_address(&address, false) {
        return Err(RecoverError::Address { address });
    }
    // Looked at twice: nobody shall wait for what will be refused.
    let _ = floor(tokens_above, found.last_token)?;
    if let Holders::WaitOut(span) = holders {
        let known = Duration::from_millis(found.remains.table.longest_ms());
        if span < known {
            return Err(RecoverError::SpanTooShort { span, known });
        }
        loop {
            let waited = SystemClock.now().since(began);
            if waited >= span {
                break;
            }
            runtime::sleep((span - waited).min(LOOKS_EVERY)).await;
        }
    }
    let tokens_above = floor(tokens_above, found.last_token)?;
    let identity = Identity { cluster_id: Some(next), founding: Bytes::new(), ..found.identity };
    let member = Member { agent: identity.agent.as_str().to_owned(), addr: address.clone(), observer: false };
    let made = make(&path, &found.directory, found.remains, identity, member, tokens_above, step).await;
    let step = match made {
        Ok(step) => step,
        Err(error) => {
            let directory = found.directory;
            // What is left of it would be removed by the next opening as well.
            let _ = blocking(&path, move || Ok(directory.clear_successor()?)).await;
            return Err(error);
        }
    };
    let (directory, mut step) = (found.directory, step);
    let kept = blocking(&path, move || Ok(directory.replace(&mut *step)?)).await?;
    Ok(Recovered { cluster: next, tokens_above, address, kept })
}

/// Where tokens go on: above this one.
fn floor(given: Option<Token>, last: Token) -> Result<Token, RecoverError> {
    let wall_unix_ms = clock::wall_unix_ms();
    let floor = Token::floor_of_founding(wall_unix_ms);
    // The copy's last, which an operator may name, is not the lost majority's: more is left than it can have granted.
    let beyond = floor.max(Token::new(last.get().saturating_add(FORCED_TOKEN_STEP)));
    match given {
        Some(given) if given < last => Err(RecoverError::TokensBelow { given, last }),
        Some(given) => Ok(given.max(beyond)),
        None if floor <= last => Err(RecoverError::ClockBehind { wall_unix_ms, floor, last }),
        None => Ok(floor),
    }
}

/// Locks the directory and reads it. Blocks.
fn find(path: &Path) -> Result<Found, RecoverError> {
    let directory = DataDir::open_existing(path)?;
    let identity = directory.load()?;
    let recovered = storage::read_all(&directory)?;
    let remains = Remains::read(&recovered).map_err(|error| unreadable(path, &error))?;
    let not_founded = || RecoverError::NotFounded { path: path.to_owned() };
    let last_token = remains.table.last_token().ok_or_else(not_founded)?;
    let cluster = identity.cluster_id.ok_or_else(not_founded)?;
    Ok(Found { directory, identity, cluster, last_token, remains })
}

fn unreadable(path: &Path, error: &io::Error) -> RecoverError {
    RecoverError::Unreadable { path: path.to_owned(), detail: error.to_string() }
}

fn not_written(path: &Path) -> impl Fn(io::Error) -> RecoverError + use<> {
    let path = path.to_owned();
    move |error| RecoverError::Write { path: path.clone(), detail: error.to_string() }
}

/// Makes the new content beside the old one, whole and closed, and reads it back.
async fn make(
    path: &Path,
    directory: &DataDir,
    remains: Remains,
    identity: Identity,
    member: Member,
    tokens_above: Token,
    mut step: Step,
) -> Result<Step, RecoverError> {
    let failed = not_written(path);
    let place = directory.successor();
    let leases = remains.table.counts();
    step("make the successor").map_err(&failed)?;
    let (of, at) = (identity.clone(), place.clone());
    let opened = blocking(path, move || {
        let directory = Arc::new(DataDir::open(&at)?);
        directory.load_or_create(of.node_id, &of.agent)?;
        let (journal, _) = DiskJournal::open(&directory, &Options::default())?;
        Ok((directory, journal))
    });
    let (made, journal) = opened.await?;
    step("write its log and snapshot").map_err(&failed)?;
    remains.go_on_alone(&journal, identity.node_id, member, tokens_above).await.map_err(&failed)?;
    step("write its identity").map_err(&failed)?;
    let saved = identity.clone();
    blocking(path, move || Ok(made.save(&saved)?)).await?;
    journal.close().await.map_err(&failed)?;
    step("read it back").map_err(&failed)?;
    let again = blocking(path, move || find(&place)).await?;
    let is_whole = again.identity == identity
        && again.last_token >= tokens_above
        && (again.remains.table.counts().leases, again.remains.table.counts().waiters)
            == (leases.leases, leases.waiters);
    if !is_whole {
        return Err(failed(io::Error::other("what was written is not what is read back")));
    }
    Ok(step)
}

/// Where blocking on the disk holds nobody up.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, RecoverError> + Send + 'static,
) -> Result<T, RecoverError> {
    match runtime::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(RecoverError::Storage(StorageError::Io {
            path: path.to_owned(),
            doing: "cannot read or write",
            source: io::Error::other(error.to_string()),
        })),
    }
}

#[cfg(test)]
mod tests;
