//! A run in which much happens: clients on every agent, and everything that can go wrong, as the seed has it.
//!
//! It is not the last word on what can go wrong: it is there to have much to replay, and looks for the coarse things on
//! the way. Two that believe at once, tokens that do not rise, reads that are old, tables that differ, a cluster that
//! does not come back.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::{Rc, Weak},
    time::Duration,
};

use leasehold::{
    Agent, Lease, Timing, Token,
    chaos::{DiskFault, Event, Fault, Report, Sim, SimBuilder, Trace, Weather},
};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const S: Duration = Duration::from_secs(1);

/// Leases that somebody has in hand, and the largest token of each name.
#[derive(Clone, Default)]
pub(crate) struct Witness {
    held: Rc<RefCell<Vec<Weak<Lease>>>>,
    tokens: Rc<RefCell<BTreeMap<String, Token>>>,
    grants: Rc<RefCell<u64>>,
}

impl Witness {
    /// Somebody got a lease: its token is larger than those before (L2).
    pub(crate) fn saw(&self, sim: &Sim, agent: usize, lease: &Rc<Lease>) {
        let name = lease.name().to_string();
        sim.note(format!("agent {agent} has {name} with {}", lease.token()));
        let before = self.tokens.borrow_mut().insert(name.clone(), lease.token());
        assert!(
            before.is_none_or(|before| before < lease.token()),
            "{name}: {} after {before:?}",
            lease.token()
        );
        self.held.borrow_mut().push(Rc::downgrade(lease));
        *self.grants.borrow_mut() += 1;
        self.look();
    }

    /// At most one believes, for each name (L1).
    pub(crate) fn look(&self) {
        let mut believers = BTreeMap::new();
        self.held.borrow_mut().retain(|lease| lease.strong_count() > 0);
        for lease in self.held.borrow().iter().filter_map(Weak::upgrade) {
            if lease.check().is_ok() {
                let other = believers.insert(lease.name().clone(), lease.token());
                assert_eq!(other, None, "two believe that they hold {}", lease.name());
            }
        }
    }

    /// The largest token of the name so far.
    fn largest(&self, name: &str) -> Option<Token> {
        self.tokens.borrow().get(name).copied()
    }
}

/// One client beside an agent: acquires in one way or another, holds for a while, and gives back, or doesn't.
async fn client(sim: Sim, agent: usize, witness: Witness) {
    loop {
        let name = format!("name-{}", sim.random_below(3));
        sim.sleep(sim.random_span(Duration::ZERO, S)).await;
        let handle = sim.up(agent).await;
        if sim.random_below(4) == 0 {
            read(&sim, &handle, &name, &witness).await;
            continue;
        }
        let ttl = Duration::from_millis(2_000 + sim.random_below(4_000));
        let mut request =
            handle.lease(&name).queue_behind_own().ttl(ttl).wait_at_most(sim.random_span(MS, 30 * S));
        if sim.random_below(5) == 0 {
            request = request.without_renewal();
        }
        let patience = sim.random_span(100 * MS, 60 * S);
        let acquired = async {
            if sim.random_below(4) == 0 { request.try_acquire().await } else { request.acquire().await }
        };
        let lease = match soon(&sim, patience, acquired).await {
            Some(Ok(lease)) => Rc::new(lease),
            Some(Err(error)) => {
                sim.note(format!("agent {agent} got no {name}: {error}"));
                continue;
            }
            None => continue,
        };
        witness.saw(&sim, agent, &lease);
        let hold = sim.random_span(Duration::ZERO, 4 * S);
        if let Err(lost) = lease.guard(sim.sleep(hold)).await {
            sim.note(format!("agent {agent} lost {name}: {}", lost.reason));
        }
        match (Rc::try_unwrap(lease), sim.random_below(3)) {
            (Ok(lease), 0) => drop(lease),
            (Ok(lease), _) => {
                let released = lease.release().await;
                sim.note(format!("agent {agent} released {name}: {}", released.is_ok()));
            }
            (Err(_), _) => {}
        }
    }
}

/// Drops the future when it takes longer.
async fn soon<T>(sim: &Sim, patience: Duration, future: impl Future<Output = T>) -> Option<T> {
    let late = sim.sleep(patience);
    let (future, late) = (std::pin::pin!(future), std::pin::pin!(late));
    match futures_util::future::select(future, late).await {
        futures_util::future::Either::Left((output, _)) => Some(output),
        futures_util::future::Either::Right(_) => None,
    }
}

/// Whoever asks who holds a name is told of no holder before the last one that was seen when it asked.
async fn read(sim: &Sim, agent: &Agent, name: &str, witness: &Witness) {
    let before = witness.largest(name);
    if let Ok(Some(holder)) = agent.holder(name).await {
        sim.note(format!("{name} is held with {}", holder.token));
        assert!(
            before.is_none_or(|before| before <= holder.token),
            "an old answer: {} of {before:?}",
            holder.token
        );
    }
}

fn clients(sim: &Sim, agent: usize, witness: &Witness) {
    for _ in 0..2 {
        drop(sim.on(agent, client(sim.clone(), agent, witness.clone())));
    }
}

/// Starts an agent, and clients beside it.
fn start(sim: &Sim, agent: usize, witness: &Witness) {
    sim.fault(Fault::Restart(agent));
    clients(sim, agent, witness);
}

/// Undoes what was done to an agent.
fn mend(sim: &Sim, agent: usize, witness: &Witness) {
    sim.fault(Fault::Disk { agent, fault: DiskFault::Heal });
    sim.fault(Fault::Rejoin(agent));
    sim.fault(Fault::Resume(agent));
    let sound = sim.agent(agent).is_some_and(|agent| agent.status().stopped.is_none());
    if !sound {
        start(sim, agent, witness);
    }
}

/// One thing goes wrong.
fn harm(sim: &Sim, agent: usize) {
    let other = (agent + 1 + sim.random_below(sim.agents() as u64 - 1) as usize) % sim.agents();
    let span = |least, most| sim.random_span(least, most);
    let disk = |fault| Fault::Disk { agent, fault };
    sim.fault(match sim.random_below(15) {
        0 | 1 => Fault::Crash(agent),
        2 | 3 => Fault::PowerLoss(agent),
        4 => Fault::Pause(agent),
        5 => Fault::Suspend(agent),
        6 => Fault::Isolate(agent),
        7 => Fault::Cut { from: agent, to: other },
        8 => Fault::ClockBack { agent, by: span(MS, 20 * S) },
        9 => disk(DiskFault::Slow(50)),
        10 => disk(DiskFault::Stall(span(MS, 2 * S))),
        11 => disk(DiskFault::Full(true)),
        12 => disk(DiskFault::Fail(0.05)),
        13 => Fault::Weather(if sim.random_below(2) == 0 { Weather::rough() } else { Weather::default() }),
        _ => {
            if let Some(handle) = sim.agent(agent) {
                sim.note(format!("agent {agent} is shut down"));
                drop(sim.on(agent, async move { handle.shutdown().await }));
            }
            return;
        }
    });
}

/// The script. In the end everything is mended, and the leases are to be had again.
pub(crate) async fn storm(sim: Sim, span: Duration) -> u64 {
    let witness = Witness::default();
    (0..sim.agents()).for_each(|agent| clients(&sim, agent, &witness));
    let end = sim.now() + span;
    while sim.now() < end {
        let agent = sim.random_below(sim.agents() as u64) as usize;
        match sim.random_below(10) {
            0..5 => harm(&sim, agent),
            5..9 => mend(&sim, agent, &witness),
            _ if sim.random_below(4) == 0 => {
                (0..sim.agents()).for_each(|agent| sim.fault(Fault::PowerLoss(agent)));
                sim.sleep(S).await;
                (0..sim.agents()).for_each(|agent| start(&sim, agent, &witness));
            }
            _ => sim.fault(Fault::HealAll),
        }
        let pause = sim.now() + sim.random_span(100 * MS, 4 * S);
        while sim.now() < pause {
            sim.sleep(10 * MS).await;
            witness.look();
        }
    }
    sim.fault(Fault::HealAll);
    sim.fault(Fault::Weather(Weather::default()));
    (0..sim.agents()).for_each(|agent| mend(&sim, agent, &witness));
    for agent in 0..sim.agents() {
        let got = sim.on(agent, {
            let (sim, witness) = (sim.clone(), witness.clone());
            async move {
                // One that was just being shut down is started again.
                while sim.up(agent).await.status().stopped.is_some() {
                    sim.sleep(S).await;
                }
                let lease = sim.up(agent).await.lease("last").wait_at_most(100 * S).acquire().await;
                lease.map(|lease| witness.saw(&sim, agent, &Rc::new(lease)))
            }
        });
        match soon(&sim, 200 * S, got).await {
            Some(Ok(Ok(()))) => {}
            // It was on its way down when everything was mended.
            Some(Err(_) | Ok(Err(leasehold::AcquireError::Stopped { .. }))) | None => {
                start(&sim, agent, &witness);
                let handle = soon(&sim, 100 * S, sim.up(agent)).await;
                let handle = handle.unwrap_or_else(|| panic!("agent {agent} does not start"));
                let lease = handle.lease("last").wait_at_most(100 * S).acquire().await;
                lease.unwrap_or_else(|error| panic!("agent {agent} got nothing at all: {error}"));
            }
            Some(Ok(Err(error))) => panic!("agent {agent} got nothing at all: {error}"),
        }
    }
    *witness.grants.borrow()
}

/// Replicas that have applied the same entry were changed by it in the same way (L8).
fn agree(trace: &Trace) {
    let mut applied = BTreeMap::new();
    for (_, event) in &trace.events {
        if let Event::Applied { agent, index, term, digest } = event {
            let (first, before) = *applied.entry(*index).or_insert((*agent, (*term, *digest)));
            assert_eq!(before, (*term, *digest), "entry {index} of agents {first} and {agent}");
        }
    }
}

/// A cluster of three or five that takes snapshots early; its pace, its network and its clocks differ from seed to seed.
/// Clocks run apart by as much as the agents are told to bear, and no more.
pub(crate) fn stormy(seed: u64) -> SimBuilder {
    Sim::builder()
        .seed(seed)
        .agents(if seed.is_multiple_of(3) { 5 } else { 3 })
        .snapshot_after(40, 10)
        .timing(if seed.is_multiple_of(4) { Timing::fast_lan() } else { Timing::default() })
        .weather(if seed.is_multiple_of(5) { Weather::rough() } else { Weather::default() })
        .shuffle([0.0, 0.1, 0.5, 1.0][seed as usize % 4])
        .clock_rates(if seed.is_multiple_of(2) { 4_900 } else { 100 })
}

/// One run.
pub(crate) fn run(seed: u64, span: Duration) -> Report<u64> {
    let report = stormy(seed).run(|sim| storm(sim, span)).unwrap_or_else(|error| panic!("{error}"));
    agree(&report.trace);
    report
}

/// As many seeds as are asked for, each for a minute of simulated time, as fast as it gets:
/// `LEASEHOLD_STORMS=0..1000 cargo test --profile soak --features chaos --test chaos storms -- --nocapture`.
#[test]
fn storms() {
    let Ok(seeds) = std::env::var("LEASEHOLD_STORMS") else { return };
    let (first, end) = seeds.split_once("..").unwrap();
    let failed = (first.parse::<u64>().unwrap()..end.parse().unwrap()).filter(|seed| {
        let ran = std::panic::catch_unwind(|| run(*seed, 60 * S));
        match &ran {
            Ok(report) => println!("seed {seed}: {:016x}, {} grants", report.trace.hash, report.value),
            Err(_) => println!("seed {seed}: failed"),
        }
        ran.is_err()
    });
    let failed: Vec<u64> = failed.collect();
    assert!(failed.is_empty(), "{failed:?}");
}
