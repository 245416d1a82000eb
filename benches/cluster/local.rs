//! Three agents in this process, over loopback TCP, on one runtime: latency and throughput.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use leasehold::{Agent, Lease, MemberRole, Timing};
use tokio::task::JoinSet;

use crate::report::Samples;

/// Addresses that were free a moment ago.
pub(crate) fn free_addresses(count: usize) -> Vec<String> {
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a loopback port")).collect();
    listeners.iter().map(|l| l.local_addr().expect("its address").to_string()).collect()
}

/// The builder of one agent; in memory without a folder.
pub(crate) fn builder(
    at: usize,
    addresses: &[String],
    folder: Option<&Path>,
    timing: Timing,
) -> leasehold::Builder {
    let builder = Agent::builder(format!("agent-{at}"))
        .listen(&addresses[at])
        .founders(addresses.to_vec())
        .timing(timing)
        .start_within(Duration::from_secs(60));
    match folder {
        Some(folder) => builder.data_dir(folder.join(format!("agent-{at}"))),
        None => builder,
    }
}

/// A cluster in this process.
pub(crate) struct Local {
    pub(crate) agents: Vec<Agent>,
    addresses: Vec<String>,
    folder: Option<PathBuf>,
}

impl Local {
    pub(crate) async fn start(folder: Option<&Path>) -> Self {
        Self::start_of(3, folder).await
    }

    /// As many founders as that.
    pub(crate) async fn start_of(count: usize, folder: Option<&Path>) -> Self {
        let addresses = free_addresses(count);
        let starts = (0..count).map(|at| builder(at, &addresses, folder, Timing::default()).start());
        let agents = futures_util::future::try_join_all(starts).await.expect("agents on loopback");
        Self { agents, addresses, folder: folder.map(Path::to_owned) }
    }

    /// So many observers join, in memory, since on one disk they would measure each other's syncs.
    pub(crate) async fn observed_by(&mut self, count: usize) {
        let starts = free_addresses(count).into_iter().enumerate().map(|(at, address)| {
            let observer = Agent::builder(format!("observer-{at}")).listen(address).join(&self.addresses);
            observer.observer(true).start_within(Duration::from_secs(60)).start()
        });
        let observers = futures_util::future::try_join_all(starts).await.expect("observers on loopback");
        self.agents.extend(observers);
    }

    /// The founder of this number is started anew, from its directory.
    pub(crate) async fn restart(&self, at: usize) -> Agent {
        let again = builder(at, &self.addresses, self.folder.as_deref(), Timing::default());
        again.start().await.expect("an agent with its directory")
    }

    /// The leader, when there is one and all agree.
    pub(crate) async fn leader(&self) -> Agent {
        loop {
            let statuses: Vec<_> = self.agents.iter().map(Agent::status).collect();
            let leads = statuses.iter().position(|s| s.role == MemberRole::Leader);
            let agreed = statuses.iter().all(|s| s.leader.is_some() && s.leader == statuses[0].leader);
            if let Some(at) = leads.filter(|_| agreed) {
                return self.agents[at].clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn follower(&self) -> Agent {
        let leader = self.leader().await.status().node;
        self.agents.iter().find(|agent| agent.status().node != leader).cloned().expect("two followers")
    }

    pub(crate) async fn stop(self) {
        futures_util::future::join_all(self.agents.iter().map(Agent::shutdown)).await;
    }
}

/// One client alone.
pub(crate) struct Alone {
    pub(crate) acquire_ms: Samples,
    pub(crate) pair_ms: Samples,
}

/// Acquires and releases, one after the other, for so long.
pub(crate) async fn alone(agent: &Agent, span: Duration) -> Alone {
    let end = Instant::now() + span;
    alone_while(agent, || Instant::now() < end).await
}

/// The same, for as long as it is so.
pub(crate) async fn alone_while(agent: &Agent, so: impl Fn() -> bool) -> Alone {
    let mut result = Alone { acquire_ms: Samples::default(), pair_ms: Samples::default() };
    let mut warm = 20;
    while so() {
        let began = Instant::now();
        let lease = agent.acquire("bench/alone").await.expect("a free name");
        let acquired = began.elapsed();
        lease.release().await.expect("a release");
        if warm > 0 {
            warm -= 1;
            continue;
        }
        result.acquire_ms.add_ms(acquired);
        result.pair_ms.add_ms(began.elapsed());
    }
    result
}

/// What so many tasks reach together, a second: each calls `once` again and again.
async fn per_second<F, Fut>(tasks: usize, span: Duration, once: F) -> f64
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let (stop, done, once) = (stop.clone(), done.clone(), once.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    once(task).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // What comes before is warming up.
    tokio::time::sleep(span / 5).await;
    let (began, before) = (Instant::now(), done.load(Ordering::Relaxed));
    tokio::time::sleep(span).await;
    let rate = (done.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for task in running {
        task.await.expect("a task of the benchmark");
    }
    rate
}

/// So many pairs of acquire and release, or a few less, as many for each task; returns how many.
pub(crate) async fn pairs(agent: &Agent, tasks: usize, pairs: usize) -> usize {
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let agent = agent.clone();
            tokio::spawn(async move {
                for _ in 0..pairs / tasks {
                    let lease = agent.acquire(&format!("bench/pairs/{task}")).await.expect("a free name");
                    lease.release().await.expect("a release");
                }
            })
        })
        .collect();
    for task in running {
        task.await.expect("a task of the benchmark");
    }
    pairs / tasks * tasks
}

const TTL: Duration = Duration::from_secs(60);

/// So many leases that stay, and as many waiters that wait for one of them: as long as what is returned is there.
pub(crate) async fn held_and_waited_for(agent: &Agent, count: usize) -> (Vec<Lease>, JoinSet<()>) {
    const AT_ONCE: usize = 512;
    let mut held = Vec::with_capacity(count);
    for from in (0..count).step_by(AT_ONCE) {
        let some = (from..count.min(from + AT_ONCE)).map(|at| {
            let agent = agent.clone();
            async move { agent.lease(&format!("bench/held/{at}")).ttl(TTL).acquire().await }
        });
        held.extend(futures_util::future::try_join_all(some).await.expect("free names"));
    }
    let waiting = waited_for(agent, "bench/held/0", count).await;
    (held, waiting)
}

/// So many who ask for one name that is held, all at once; returns when all of them wait.
pub(crate) async fn waited_for(agent: &Agent, name: &'static str, count: usize) -> JoinSet<()> {
    let mut waiting = JoinSet::new();
    for _ in 0..count {
        let agent = agent.clone();
        waiting.spawn(async move {
            let turn = agent.lease(name).ttl(TTL).queue_behind_own().acquire().await;
            std::mem::drop(turn);
        });
    }
    let waiters = async || agent.inspect(name).await.map_or(0, |all| all.waiters_in_all);
    while waiters().await < count as u64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    waiting
}

/// Pairs of acquire and release a second, each task on a name of its own.
pub(crate) async fn pairs_per_second(agent: &Agent, tasks: usize, span: Duration) -> f64 {
    let agent = agent.clone();
    per_second(tasks, span, move |task| {
        let agent = agent.clone();
        async move {
            let lease = agent.acquire(&format!("bench/pairs/{task}")).await.expect("a free name");
            lease.release().await.expect("a release");
        }
    })
    .await
}

/// Grants a second on one name for which all tasks queue, spread over the agents.
pub(crate) async fn handoffs_per_second(agents: &[Agent], tasks: usize, span: Duration) -> f64 {
    let agents = agents.to_vec();
    per_second(tasks, span, move |task| {
        let agent = agents[task % agents.len()].clone();
        async move {
            let lease = agent.lease("bench/handoff").queue_behind_own().acquire().await.expect("a turn");
            lease.release().await.expect("a release");
        }
    })
    .await
}

/// Renewals a second, each task with a lease of its own, and by how much the log grew meanwhile.
pub(crate) async fn renewals_per_second(agent: &Agent, tasks: usize, span: Duration) -> (f64, u64) {
    let mut leases = Vec::new();
    for task in 0..tasks {
        leases.push(agent.acquire(&format!("bench/renew/{task}")).await.expect("a free name"));
    }
    let leases = Arc::new(leases);
    let before = agent.status().applied;
    let shared = leases.clone();
    let rate = per_second(tasks, span, move |task| {
        let leases = shared.clone();
        async move { leases[task].renew().await.expect("a renewal") }
    })
    .await;
    let grown = agent.status().applied - before;
    for lease in Arc::into_inner(leases).expect("all tasks have ended") {
        lease.release().await.expect("a release");
    }
    (rate, grown)
}

/// Nanoseconds a check, with so many threads that each check a lease of their own.
pub(crate) async fn check_ns(agent: &Agent, threads: usize) -> f64 {
    const CHECKS: u32 = 3_000_000;
    let mut running = Vec::new();
    for thread in 0..threads {
        let lease = agent.acquire(&format!("bench/check/{thread}")).await.expect("a free name");
        running.push(tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            for _ in 0..CHECKS {
                std::hint::black_box(lease.check()).expect("a lease that is renewed");
            }
            began.elapsed().as_secs_f64() * 1e9 / f64::from(CHECKS)
        }));
    }
    let mut worst: f64 = 0.0;
    for thread in running {
        worst = worst.max(thread.await.expect("a thread of the benchmark"));
    }
    worst
}

/// Milliseconds beyond the ttl until a waiter at another agent has the lease of a holder that is gone.
pub(crate) async fn overshoots_ms(cluster: &Local, rounds: usize) -> Samples {
    const TTL: Duration = Duration::from_secs(2);
    let mut waiting = Vec::new();
    for round in 0..rounds {
        let holder = cluster.agents[round % 3].clone();
        let waiter = cluster.agents[(round + 1) % 3].clone();
        waiting.push(tokio::spawn(async move {
            let name = format!("bench/expiry/{round}");
            let lease = holder.lease(&name).ttl(TTL).without_renewal().acquire().await.expect("a free name");
            let last_sign_of_life = Instant::now();
            // Nobody renews it, nobody gives it back: so a holder is gone.
            std::mem::forget(lease);
            let next = waiter.lease(&name).ttl(TTL).acquire().await.expect("a turn");
            let after = last_sign_of_life.elapsed();
            next.release().await.expect("a release");
            after.saturating_sub(TTL)
        }));
        // So that each expires alone.
        tokio::time::sleep(Duration::from_millis(97)).await;
    }
    let mut samples = Samples::default();
    for waiter in waiting {
        samples.add_ms(waiter.await.expect("a task of the benchmark"));
    }
    samples
}
