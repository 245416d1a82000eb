//! A process that works with leases, and writes down what it saw: when it asked and was granted, when its `check()`
//! succeeded, what it wrote to what is protected. Each line is written at once, so that nothing is lost when it is killed.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use leasehold::{Change, ChangeKind, Client, Fence, Lease};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::skewed::Skewed;

/// In the environment of a worker: where it writes, a seed, its clock's rate, and the agents, each after a space.
pub(crate) const WORKER: &str = "LEASEHOLD_TEST_WORKER";
pub(crate) const NAMES: [&str; 3] = ["orders", "users", "mail"];
/// How many ask for leases in each worker.
const TASKS: usize = 3;
const TTL: Duration = Duration::from_secs(2);

/// The time of the machine, the same in every namespace, in nanoseconds.
pub(crate) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// What a worker has written down, a line each.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Line {
    /// It asked at the first time, and was granted this at the second.
    Granted(u64, u64, String, u64),
    /// `check()` succeeded at some moment between the two times.
    Held(u64, u64, String, u64),
    /// Its watcher was told this at this time.
    Told(u64, Change),
}

impl Line {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        if let Some((at, change)) = line.strip_prefix("told ").and_then(|rest| rest.split_once(' ')) {
            return Some(Self::Told(at.parse().ok()?, serde_json::from_str(change).ok()?));
        }
        let mut words = line.split(' ');
        let kind = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let (from, to, token) = (number()?, number()?, number()?);
        let name = words.next()?.to_owned();
        match kind {
            "granted" => Some(Self::Granted(from, to, name, token)),
            "held" => Some(Self::Held(from, to, name, token)),
            _ => None,
        }
    }
}

/// A checker would take it for a bound from when the grant was applied; here that may be known too late.
pub(crate) fn without_ttl(change: &mut Change) {
    if let ChangeKind::Granted { ttl, .. } = &mut change.kind {
        *ttl = Duration::ZERO;
    }
}

struct Desk {
    log: File,
    fences: BTreeMap<&'static str, (Fence, File)>,
}

impl Desk {
    fn write(&self, kind: &str, (from, to): (u64, u64), lease: &Lease) {
        let line = format!("{kind} {from} {to} {} {}\n", lease.token(), lease.name());
        // One call: a line is there or not.
        let _ = (&self.log).write_all(line.as_bytes());
    }

    /// Whether it is held, and the line of it.
    fn check(&self, lease: &Lease) -> bool {
        let before = now();
        let held = lease.check().is_ok();
        let after = now();
        if held {
            self.write("held", (before, after), lease);
        }
        held
    }
}

fn appending(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// The protected resource of a name: every write that was let in, in order.
pub(crate) fn resource(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.resource"))
}

/// Works until it is killed.
pub(crate) fn work(asked: &str) {
    let mut words = asked.split(' ');
    let log = PathBuf::from(words.next().unwrap());
    let mut chance = StdRng::seed_from_u64(words.next().unwrap().parse().unwrap());
    let clock = Arc::new(Skewed(words.next().unwrap().parse().unwrap()));
    let agents: Vec<&str> = words.collect();
    let dir = log.parent().unwrap();
    let fence = |name| {
        let fence = Fence::in_file(dir.join(format!("{name}.fence"))).unwrap();
        (name, (fence, appending(&resource(dir, name))))
    };
    let desk = Rc::new(Desk { log: appending(&log), fences: NAMES.into_iter().map(fence).collect() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let client = loop {
            match Client::builder("worker")
                .agents(agents.iter().copied())
                .clock(clock.clone())
                .danger_plaintext()
                .connect()
                .await
            {
                Ok(client) => break client,
                Err(error) => println!("{error}"),
            }
        };
        let seeds: Vec<u64> = (0..TASKS).map(|_| chance.random()).collect();
        tokio::task::spawn_local(watch(desk.clone(), client.clone()));
        let asks = seeds.into_iter().map(|seed| {
            tokio::task::spawn_local(ask(desk.clone(), client.clone(), StdRng::seed_from_u64(seed)))
        });
        futures_util::future::join_all(asks.collect::<Vec<_>>()).await;
    });
}

/// Watches everything, from the beginning.
async fn watch(desk: Rc<Desk>, client: Client) {
    let mut watch = client.watch_prefix("").await.unwrap().since(0);
    while let Some(mut change) = watch.next().await {
        let at = now();
        without_ttl(&mut change);
        let line = format!("told {at} {}\n", serde_json::to_string(&change).unwrap());
        let _ = (&desk.log).write_all(line.as_bytes());
    }
}

async fn ask(desk: Rc<Desk>, client: Client, mut chance: StdRng) {
    loop {
        let name = NAMES[chance.random_range(0..NAMES.len())];
        let began = now();
        let request = client.lease(name).ttl(TTL).wait_at_most(Duration::from_secs(6)).queue_behind_own();
        let lease = match request.acquire().await {
            Ok(lease) => lease,
            Err(error) => {
                println!("{error}");
                continue;
            }
        };
        desk.write("granted", (began, now()), &lease);
        hold(&desk, lease, &mut chance).await;
    }
}

async fn hold(desk: &Desk, lease: Lease, chance: &mut StdRng) {
    let span = Duration::from_millis(chance.random_range(0..1_500));
    let began = now();
    while desk.check(&lease) && u128::from(now() - began) < span.as_nanos() {
        if chance.random_bool(0.3) {
            let (fence, resource) = &desk.fences[lease.name().as_str()];
            let mut resource = resource;
            let line = format!("{}\n", lease.token());
            let _ = fence.admit_then(lease.token(), || resource.write_all(line.as_bytes()));
        }
        tokio::time::sleep(Duration::from_millis(chance.random_range(1..20))).await;
    }
    match chance.random_range(0..4) {
        0 => drop(lease),
        _ => drop(lease.release().await),
    }
}
