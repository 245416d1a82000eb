//! Is there one cluster, whatever happens while it is founded? Founders that come up minutes apart, that crash and lose their
//! power in the middle, over a network that loses, delays and splits; lists that overlap, and second attempts.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, time::Duration};

use leasehold::chaos::{Fault, PointEffect, PointFaults, Seeds, Sim, Weather};

use crate::storm::{MS, S};

/// When all are up and connected, a cluster may take so long: the founders ask each other every quarter of a second, and
/// one that was turned away is started again after a second.
const FOUNDED_WITHIN: Duration = Duration::from_secs(30);
const AGENTS: usize = 5;

/// The clusters that anybody serves, at any time.
type Clusters = Rc<RefCell<BTreeSet<String>>>;

/// Starts agents again that have stopped or did not start, and notes which cluster each serves.
async fn keep_up(sim: Sim, wanted: Rc<RefCell<BTreeSet<usize>>>, clusters: Clusters) {
    loop {
        for agent in wanted.borrow().clone() {
            match sim.agent(agent) {
                Some(handle) if handle.status().stopped.is_none() => {
                    clusters.borrow_mut().insert(handle.status().cluster.to_string());
                }
                _ if sim.is_starting(agent) => {}
                _ => sim.fault(Fault::Restart(agent)),
            }
        }
        sim.sleep(S).await;
    }
}

/// One thing goes wrong.
fn harm(sim: &Sim, agents: usize) {
    let agent = sim.random_below(agents as u64) as usize;
    let other = (agent + 1 + sim.random_below(agents as u64 - 1) as usize) % agents;
    let point = |effect| {
        let one_in = 1 + sim.random_below(30);
        Fault::ArmPoints(PointFaults { at: None, one_in, most: 2, effect })
    };
    sim.fault(match sim.random_below(8) {
        0 => Fault::Crash(agent),
        1 => Fault::PowerLoss(agent),
        2 => Fault::Isolate(agent),
        3 => Fault::Cut { from: agent, to: other },
        4 => Fault::Weather(Weather { loss: 0.2, ..Weather::rough() }),
        5 => point(PointEffect::Crash),
        6 => point(PointEffect::PowerLoss),
        _ => Fault::HealAll,
    });
}

/// What was drawn of a seed.
#[derive(Clone, Copy)]
struct Drawn {
    /// So many found the cluster in the end. The others have a list that overlaps with theirs.
    founders: usize,
    /// It is in both lists.
    shared: usize,
    /// Whether it is told the other one at first.
    is_wrong: bool,
}

/// Founders come up one after the other, while things go wrong; some are told other lists at first, or for good. Returns the
/// clusters that there were, and whether all that were told the same list found one in time.
async fn founding(sim: Sim) -> (BTreeSet<String>, Result<(), String>) {
    let clusters = Clusters::default();
    let wanted = Rc::new(RefCell::new(BTreeSet::new()));
    let founders = if sim.random_below(2) == 0 { AGENTS } else { 3 };
    let shared = sim.random_below(founders as u64) as usize;
    let is_wrong = founders < AGENTS && sim.random_below(3) == 0;
    for agent in 0..AGENTS {
        if agent >= founders || agent == shared && is_wrong {
            sim.tell_founders(agent, (founders..AGENTS).chain([shared]));
        } else {
            sim.tell_founders(agent, 0..founders);
        }
    }
    let drawn = Drawn { founders, shared, is_wrong };
    let keeps = keep_up(sim.clone(), wanted.clone(), clusters.clone());
    let founds = found(sim, wanted, drawn);
    let (founds, keeps) = (std::pin::pin!(founds), std::pin::pin!(keeps));
    let ended = match futures_util::future::select(founds, keeps).await {
        futures_util::future::Either::Left((ended, _)) => ended,
        futures_util::future::Either::Right(_) => Err("it is kept up without end".to_owned()),
    };
    let clusters = clusters.borrow().clone();
    (clusters, ended)
}

async fn found(
    sim: Sim,
    wanted: Rc<RefCell<BTreeSet<usize>>>,
    Drawn { founders, shared, is_wrong }: Drawn,
) -> Result<(), String> {
    let apart = [MS * 100, S, 30 * S, 300 * S][sim.random_below(4) as usize];
    let mut order: Vec<usize> = (0..AGENTS).collect();
    while !order.is_empty() {
        let agent = order.remove(sim.random_below(order.len() as u64) as usize);
        wanted.borrow_mut().insert(agent);
        sim.fault(Fault::Restart(agent));
        sim.sleep(sim.random_span(Duration::ZERO, apart)).await;
        if sim.random_below(2) == 0 {
            harm(&sim, AGENTS);
        }
    }
    for _ in 0..sim.random_below(8) {
        sim.sleep(sim.random_span(Duration::ZERO, 500 * MS)).await;
        harm(&sim, AGENTS);
    }
    // Everything is mended, and the list that was wrong is put right: a second attempt, on a directory that was used.
    sim.fault(Fault::DisarmPoints);
    sim.fault(Fault::HealAll);
    sim.fault(Fault::Weather(Weather::default()));
    sim.sleep(S).await;
    if is_wrong {
        sim.tell_founders(shared, 0..founders);
        sim.fault(Fault::Restart(shared));
    } else {
        // As long as these ask with another list, nothing comes of this one.
        wanted.borrow_mut().retain(|agent| *agent < founders);
        (founders..AGENTS).for_each(|agent| sim.fault(Fault::Crash(agent)));
    }
    let began = sim.now();
    let mut ended = Err(String::new());
    while sim.now() - began < FOUNDED_WITHIN {
        let of = |agent: usize| sim.agent(agent).map(|agent| agent.status().cluster);
        let all: Vec<_> = (0..founders).map(of).collect();
        if all.iter().all(|cluster| cluster.is_some() && *cluster == all[0]) {
            let lease = sim.up(0).await.acquire("orders.db").await;
            ended = lease.map(drop).map_err(|error| error.to_string());
            break;
        }
        let errors: Vec<_> = (0..founders).map(|agent| sim.start_error(agent)).collect();
        ended = Err(format!("{all:?} {errors:?}"));
        sim.sleep(100 * MS).await;
    }
    // It may have promised itself to the others' cluster, or be in it: then there is none but that one.
    if is_wrong { Ok(()) } else { ended }
}

/// Whether the seed's founding came to what it should.
fn run(seed: u64) -> Result<(), String> {
    let report = Sim::builder().seed(seed).agents(AGENTS).unfounded().run(founding);
    let report = report.map_err(|error| format!("seed {seed}: {error}"))?;
    let (clusters, ended) = report.value;
    if clusters.len() > 1 {
        return Err(format!("seed {seed}: {clusters:?}"));
    }
    let violations = leasehold::chaos::check::all(&report.history);
    if !violations.is_empty() {
        return Err(format!("seed {seed}: {violations:?}"));
    }
    ended.map_err(|error| format!("seed {seed}: no cluster within {FOUNDED_WITHIN:?}: {error}"))
}

fn all(range: std::ops::Range<u64>) -> Vec<String> {
    range.filter_map(|seed| run(seed).err()).collect()
}

#[test]
fn one_cluster_is_founded_whatever_goes_wrong() {
    let failed = std::thread::scope(|scope| {
        let halves = [scope.spawn(|| all(0..100)), scope.spawn(|| all(100..200))];
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(failed.is_empty(), "{failed:#?}");
}

/// As many seeds as are asked for:
/// `LEASEHOLD_FOUNDINGS=0..10000 cargo test --profile soak --features chaos --test chaos many_foundings -- --nocapture`.
#[test]
fn many_foundings() {
    let Ok(asked) = std::env::var("LEASEHOLD_FOUNDINGS") else { return };
    let Seeds(range) = asked.parse().unwrap();
    let failed = range.filter_map(|seed| run(seed).err()).inspect(|failed| println!("{failed}")).count();
    assert_eq!(failed, 0);
}
