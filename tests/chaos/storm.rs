//! A run in which much happens: clients on every agent, and everything that can go wrong, as the seed has it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::{Rc, Weak},
    time::Duration,
};

use leasehold::{
    Lease, Token,
    chaos::{DiskFault, Fault, Report, Sim, SimBuilder, Weather},
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

    pub(crate) fn grants(&self) -> u64 {
        *self.grants.borrow()
    }
}

/// One client beside an agent: acquires, holds for a while, gives back, or doesn't.
async fn client(sim: Sim, agent: usize, witness: Witness) {
    loop {
        let name = format!("name-{}", sim.random_below(3));
        sim.sleep(sim.random_span(Duration::ZERO, S)).await;
        let handle = sim.up(agent).await;
        let ttl = sim.random_span(2 * S, 6 * S);
        let ttl = Duration::from_millis(ttl.as_millis() as u64);
        let request = handle.lease(&name).ttl(ttl).wait_at_most(20 * S);
        let lease = match request.acquire().await {
            Ok(lease) => Rc::new(lease),
            Err(error) => {
                sim.note(format!("agent {agent} got no {name}: {error}"));
                continue;
            }
        };
        witness.saw(&sim, agent, &lease);
        let hold = sim.random_span(Duration::ZERO, 4 * S);
        let guarded = lease.guard(sim.sleep(hold)).await;
        if let Err(lost) = guarded {
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

/// Starts an agent, and clients beside it.
fn start(sim: &Sim, agent: usize, witness: &Witness) {
    sim.fault(Fault::Restart(agent));
    clients(sim, agent, witness);
}

fn clients(sim: &Sim, agent: usize, witness: &Witness) {
    for _ in 0..2 {
        drop(sim.on(agent, client(sim.clone(), agent, witness.clone())));
    }
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
    sim.fault(match sim.random_below(14) {
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
        _ => Fault::Weather(if sim.random_below(2) == 0 { Weather::rough() } else { Weather::default() }),
    });
}

/// The script. In the end everything is mended, and the leases are to be had again.
pub(crate) async fn storm(sim: Sim, span: Duration) -> u64 {
    let witness = Witness::default();
    for agent in 0..sim.agents() {
        clients(&sim, agent, &witness);
    }
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
        let patience = sim.now() + 120 * S;
        let got = sim.on(agent, {
            let (sim, witness) = (sim.clone(), witness.clone());
            async move {
                let lease = sim.up(agent).await.lease("last").wait_at_most(100 * S).acquire().await;
                let lease = lease.unwrap_or_else(|error| panic!("agent {agent} got nothing at all: {error}"));
                witness.saw(&sim, agent, &Rc::new(lease));
            }
        });
        got.await.unwrap_or_else(|error| panic!("agent {agent}: {error}"));
        assert!(sim.now() < patience);
    }
    witness.grants()
}

/// A cluster that takes snapshots early, in a rough network.
pub(crate) fn stormy(seed: u64) -> SimBuilder {
    Sim::builder().seed(seed).agents(if seed.is_multiple_of(3) { 5 } else { 3 }).snapshot_after(40, 10)
}

/// One run.
pub(crate) fn run(seed: u64, span: Duration) -> Report<u64> {
    stormy(seed).run(|sim| storm(sim, span)).unwrap_or_else(|error| panic!("{error}\n{}", error.trace))
}
