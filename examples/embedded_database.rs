//! An embedded database with many readers and one writer, in a few processes that share its storage.
//!
//! The database is a small graph store. What it knows of leases is in `open`, `write` and `commit`: it is given an
//! `Access`, takes a write guard from it, and hands the guard's token to the storage, which has a fence. Readers know
//! nothing of it.
//!
//! The "processes" here are three agents in this one, and the storage is in memory, so that it runs by itself:
//!
//! ```sh
//! cargo run --release --example embedded_database
//! ```
//!
//! It checks what it tells, and fails if that is not so.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "an example shows what happens, in real time"
)]

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use leasehold::{
    Access, AccessError, Agent, Fence, FenceError, InProcessNetwork, RaftLease, Timing, Token, WriteGuard,
    WriteLease,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Which node leads to which.
type Graph = BTreeMap<String, Vec<String>>;

/// What the processes share: a disk, say. It takes a write only with a token that its fence admits.
struct Storage {
    fence: Fence,
    /// Readers take the latest version and go on with it, whatever is written meanwhile.
    latest: RwLock<Arc<Graph>>,
}

impl Storage {
    fn new() -> Arc<Self> {
        Arc::new(Self { fence: Fence::in_memory(), latest: RwLock::default() })
    }

    fn latest(&self) -> Arc<Graph> {
        self.latest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The fence is asked and the version put in its place as one step: no other write comes between.
    fn commit(&self, token: Token, graph: Graph) -> Result<(), FenceError> {
        self.fence.admit_then(token, || {
            *self.latest.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(graph);
        })
    }
}

/// The database, as one process opens it.
struct Database {
    storage: Arc<Storage>,
    access: Access,
}

impl Database {
    fn open(storage: &Arc<Storage>, access: Access) -> Self {
        Self { storage: storage.clone(), access }
    }

    /// No lease, no guard, no waiting.
    fn neighbours(&self, node: &str) -> Vec<String> {
        self.storage.latest().get(node).cloned().unwrap_or_default()
    }

    /// The right to write, if nobody else has it.
    async fn write(&self) -> leasehold::Result<Writer<'_>> {
        Ok(Writer { guard: self.access.write().await?, storage: &self.storage })
    }
}

/// A transaction is prepared on a copy, and committed with the guard's token.
struct Writer<'a> {
    guard: WriteGuard,
    storage: &'a Storage,
}

impl Writer<'_> {
    fn connect(&self, from: &str, to: &str) -> leasehold::Result<()> {
        let prepared = self.prepare(from, to)?;
        self.commit(prepared)
    }

    /// Nothing is prepared by a writer whose time is over.
    fn prepare(&self, from: &str, to: &str) -> leasehold::Result<Graph> {
        self.guard.check()?;
        let mut graph = Graph::clone(&self.storage.latest());
        graph.entry(from.to_owned()).or_default().push(to.to_owned());
        Ok(graph)
    }

    /// It may be, by now: the clock can't stop a write that is on its way, so the storage decides.
    fn commit(&self, prepared: Graph) -> leasehold::Result<()> {
        // A kind of lease without tokens protects by its clock alone; this database wants more.
        let token =
            self.guard.token().ok_or_else(|| leasehold::Error::provider("this lease has no tokens"))?;
        Ok(self.storage.commit(token, prepared)?)
    }
}

/// What this tells must be so.
fn so(holds: bool, what: &str) -> Outcome<()> {
    if holds { Ok(()) } else { Err(format!("it was to be seen that {what}").into()) }
}

/// Three agents found a cluster. With `data_dir`s, on three machines, nothing else here would change.
async fn agents(network: &InProcessNetwork) -> Outcome<Vec<Agent>> {
    let founders = ["anna:7101", "bert:7101", "cleo:7101"];
    let start = |address: &&str| {
        Agent::builder(address.trim_end_matches(":7101"))
            .listen(*address)
            .founders(founders)
            .network(network)
            .timing(Timing { ttl: Duration::from_secs(1), ..Timing::fast_lan() })
            .start()
    };
    Ok(futures_util::future::try_join_all(founders.iter().map(start)).await?)
}

async fn shown() -> Outcome<()> {
    let network = InProcessNetwork::new(1);
    let agents = agents(&network).await?;
    let storage = Storage::new();
    let opened = |agent| -> leasehold::Result<Database> {
        Ok(Database::open(&storage, Access::read_write(WriteLease::Raft(RaftLease::new(agent, "graph.db")?))))
    };
    let (anna, bert) = (opened(&agents[0])?, opened(&agents[1])?);

    // Readers, from the first moment to the last.
    let (done, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let reader = Database::open(&storage, Access::read_only());
            let (done, reads) = (done.clone(), reads.clone());
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    reader.neighbours("Rome");
                    reads.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
            })
        })
        .collect();
    let told = tells(&network, &storage, &anna, &bert, &reads).await;
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        so(reader.join().is_ok(), "no reader fails")?;
    }
    told?;
    println!("readers   read {} times on the way, and asked nobody", reads.load(Ordering::Relaxed));

    anna.access.close().await?;
    bert.access.close().await?;
    futures_util::future::join_all(agents.iter().map(Agent::shutdown)).await;
    Ok(())
}

async fn tells(
    network: &InProcessNetwork,
    storage: &Arc<Storage>,
    anna: &Database,
    bert: &Database,
    reads: &AtomicU64,
) -> Outcome<()> {
    let refused = Database::open(storage, Access::read_only()).write().await.err();
    so(
        matches!(refused, Some(leasehold::Error::Access(AccessError::ReadOnly))),
        "a database that is opened for reading gives no writer",
    )?;

    let first = anna.write().await?;
    first.connect("Rome", "Ostia")?;
    println!("anna      writes, with token {}", first.guard.token().map_or(0, Token::get));
    let refused = bert.write().await.err().map(|error| error.to_string()).unwrap_or_default();
    so(refused.contains("anna"), "bert hears who writes")?;
    println!("bert      wants to write, and hears: {refused}");

    // Prepared while all is well; it will be on its way for too long.
    let late = first.prepare("Rome", "Carthage")?;
    network.isolate("anna:7101");
    println!("network   anna is cut off from the others");
    let reads_before = reads.load(Ordering::Relaxed);
    let lost = first.guard.lost().await;
    println!("anna      stops, by her own clock: {}", lost.reason);
    let second = loop {
        match bert.write().await {
            Ok(writer) => break writer,
            // Held, until the cluster's clock has come to the end of anna's lease as well.
            Err(leasehold::Error::Acquire(_)) => tokio::task::yield_now().await,
            Err(error) => return Err(error.into()),
        }
    };
    second.connect("Rome", "Capua")?;
    println!("bert      takes over, with token {}", second.guard.token().map_or(0, Token::get));

    let refused = first.commit(late).err();
    so(
        matches!(refused, Some(leasehold::Error::Fence(FenceError::Stale { .. }))),
        "the storage refuses what anna sent before she was cut off",
    )?;
    println!(
        "anna      her last write arrives only now: {}",
        refused.map_or(String::new(), |e| e.to_string())
    );
    so(first.prepare("Rome", "Carthage").is_err(), "anna prepares nothing more")?;
    so(anna.neighbours("Rome") == ["Ostia", "Capua"], "everybody reads what the writers wrote, anna too")?;
    so(reads.load(Ordering::Relaxed) > reads_before, "readers read on while nobody could write")?;

    network.rejoin("anna:7101");
    second.guard.close().await?;
    let third = loop {
        match anna.write().await {
            Ok(writer) => break writer,
            // Her agent has to find the others again.
            Err(leasehold::Error::Acquire(_)) => tokio::task::yield_now().await,
            Err(error) => return Err(error.into()),
        }
    };
    third.connect("Capua", "Brindisi")?;
    println!("anna      is back and writes, with token {}", third.guard.token().map_or(0, Token::get));
    Ok(third.guard.close().await?)
}

pub(crate) fn main() -> Outcome<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(shown())
}
