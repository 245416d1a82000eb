//! Fault points: is each of them reached, and does a cluster bear what happens there?

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use leasehold::chaos::{
    Episode, Event, Failure, Fault, Faults, Flaw, Point, PointEffect, PointFaults, Report, Seeds, Sim, Tally,
    Trace, Trouble, Whom, workload,
};

use crate::{
    storm::{MS, S},
    swarm,
};

const SPAN: Duration = Duration::from_secs(30);
/// No point may take more seeds than this to be reached.
const SEEDS_MAX: u64 = 6;

fn faults_at(at: Point, effect: PointEffect) -> PointFaults {
    PointFaults { at: Some(at), one_in: 3, most: 4, effect }
}

/// Something happens at this point all the time, and around it what leads to the rare ones: elections, members that fall
/// behind and catch up, leaders whose last entries come to nothing, leaderships that are handed over.
fn around(faults: PointFaults) -> Faults {
    let mut episodes = vec![Episode::new(Duration::ZERO, SPAN, Trouble::FaultPoints(faults))];
    for at in (0..3).map(|round| 10 * S * round) {
        episodes.push(Episode::new(at + S, 6 * S, Trouble::Isolate(Whom::Agent(1))));
        episodes.push(Episode::new(at + 2 * S, S, Trouble::Crash(Whom::Leader)));
        episodes.push(Episode::new(at + 4 * S, 2 * S, Trouble::Isolate(Whom::Leader)));
        episodes.push(Episode::new(at + 7 * S, S, Trouble::ShutDown(Whom::Leader)));
    }
    Faults::these(episodes)
}

fn run(seed: u64, faults: Faults, flaw: Option<Flaw>) -> Result<Report<()>, Box<Failure>> {
    let mut cluster = swarm::cluster(seed, faults).span(SPAN);
    if let Some(flaw) = flaw {
        cluster = cluster.flaw(flaw);
    }
    cluster.workload(workload::leases).run()
}

/// What happens next is that the process ends; nothing that is behind the point is between.
fn nothing_behind_is_done(trace: &Trace) {
    let mut events = trace.events.iter().map(|(_, event)| event);
    while let Some(event) = events.next() {
        let Event::AtPoint { agent, effect, .. } = event else { continue };
        let fault = if effect == "crash" { Fault::Crash(*agent) } else { Fault::PowerLoss(*agent) };
        assert_eq!(events.next().unwrap().to_string(), format!("fault: {fault}"), "{event}");
    }
}

/// A process that ends at each of them, and a machine whose power goes: every rule holds.
#[test]
fn an_agent_may_end_at_every_point() {
    let mut missed = BTreeSet::new();
    for (at, point) in Point::ALL.into_iter().enumerate().filter(|(_, point)| !point.is_of_founding()) {
        // Over the points, both; a swarm has all of each.
        let effect = if at % 2 == 0 { PointEffect::Crash } else { PointEffect::PowerLoss };
        let hit = (0..SEEDS_MAX).any(|seed| {
            let report = run(seed, around(faults_at(point, effect)), None).unwrap();
            assert!(report.history.at_points.iter().all(|hit| hit.point == point && hit.effect == effect));
            nothing_behind_is_done(&report.trace);
            !report.history.at_points.is_empty()
        });
        if !hit {
            missed.insert(point);
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}

/// Whatever ends while it is being founded, and however: there is one cluster afterwards.
#[test]
fn a_founder_may_end_at_every_point() {
    for point in Point::ALL.into_iter().filter(|point| point.is_of_founding()) {
        for (seed, effect) in (0..).zip([PointEffect::Crash, PointEffect::PowerLoss]) {
            let faults = PointFaults { one_in: 1, most: 2, ..faults_at(point, effect) };
            let report = Sim::builder().seed(seed).agents(3).unfounded().run(|sim| async move {
                sim.fault(Fault::ArmPoints(faults));
                (0..3).for_each(|agent| sim.fault(Fault::Restart(agent)));
                for _ in 0..20 {
                    sim.sleep(500 * MS).await;
                    for agent in 0..3 {
                        let has_ended = sim.trace().events.iter().rev().find_map(|(_, event)| match event {
                            Event::Started { agent: of, .. } if *of == agent => Some(false),
                            Event::AtPoint { agent: of, .. } if *of == agent => Some(true),
                            _ => None,
                        });
                        if has_ended == Some(true) {
                            sim.fault(Fault::Restart(agent));
                        }
                    }
                }
                let mut clusters = BTreeSet::new();
                for agent in 0..3 {
                    let agent = sim.up(agent).await;
                    clusters.insert(agent.status().cluster.to_string());
                    agent.acquire(&format!("of.{}", agent.status().node)).await.unwrap();
                }
                clusters.len()
            });
            let report = report.unwrap();
            assert_eq!(report.value, 1, "{point}");
            assert_eq!(report.history.at_points.len(), 2, "{point}");
        }
    }
}

/// Other dice: what has no points in it, or leaves them out, is the run that it was; and so it is with members that come and
/// go.
#[test]
fn points_and_members_move_nothing_of_a_schedule() {
    let is_at_points = |episode: &Episode| matches!(episode.trouble, Trouble::FaultPoints(_));
    let is_of_members = |episode: &Episode| {
        matches!(episode.trouble, Trouble::Join(..) | Trouble::Leave(_) | Trouble::LoseDisk(..))
    };
    let (mut with_points, mut with_members) = (0, 0);
    for seed in 0..300 {
        let whole = Faults::swarm().schedule(seed, 5, 60 * S);
        let schedule = Faults::swarm().with_fixed_membership().schedule(seed, 5, 60 * S);
        let (rest, members) = whole.split_at(schedule.len());
        assert_eq!(rest, schedule);
        assert!(members.iter().all(|(_, episode)| is_of_members(episode)));
        assert!(!schedule.iter().any(|(_, episode)| is_of_members(episode)));
        with_members += u64::from(!members.is_empty());
        let first = schedule.iter().position(|(_, episode)| is_at_points(episode));
        with_points += u64::from(first.is_some());
        let (before, points) = schedule.split_at(first.unwrap_or(schedule.len()));
        assert!(before.iter().enumerate().all(|(at, (number, _))| at == *number));
        assert!(points.iter().all(|(_, episode)| is_at_points(episode)));
        assert!(before.is_sorted_by_key(|(_, episode)| episode.from));
    }
    assert!((80..120).contains(&with_points), "{with_points}");
    assert!((200..250).contains(&with_members), "{with_members}");
}

/// A run whose points are armed all the time, for comparing digests.
pub(crate) fn hash(seed: u64) -> String {
    let faults = |effect| PointFaults { at: None, one_in: 200, most: 5, effect };
    let stall = PointEffect::Stall(300 * MS);
    let episodes = [PointEffect::Crash, stall, PointEffect::PowerLoss].into_iter().zip(0..);
    let episodes =
        episodes.map(|(effect, at)| Episode::new(2 * S * at, 2 * S, Trouble::FaultPoints(faults(effect))));
    let cluster = swarm::cluster(seed, Faults::these(episodes)).span(6 * S);
    let report = cluster.workload(workload::leases).run().unwrap();
    assert!(!report.history.at_points.is_empty());
    format!("{:016x} {}", report.trace.hash, report.polls)
}

/// What ends at a point finds by itself what is not durable when it is answered; and nothing, where it is.
#[test]
fn points_alone_find_what_is_not_persisted() {
    let synced = PointFaults { one_in: 40, most: 20, ..faults_at(Point::AfterSync, PointEffect::PowerLoss) };
    let answered = PointFaults { one_in: 100, most: 20, ..faults_at(Point::AfterAnswer, PointEffect::Crash) };
    for (flaw, faults) in [(Flaw::NoSync, synced), (Flaw::AnswerBeforeQuorum, answered)] {
        let faults = Faults::these([Episode::new(Duration::ZERO, SPAN, Trouble::FaultPoints(faults))]);
        let fails = |seed: u64, flaw| {
            // An assertion of openraft's finds it as well.
            let ran = catch_unwind(AssertUnwindSafe(|| run(seed, faults.clone(), flaw)));
            ran.map_or(true, |ran| ran.is_err())
        };
        assert!((0..5).any(|seed| fails(seed, Some(flaw))), "{flaw:?}");
        assert!(!(0..5).any(|seed| fails(seed, None)), "{flaw:?}");
    }
}

/// As many seeds as are asked for, each at one point with one effect, as fast as it gets:
/// `LEASEHOLD_POINTS=0..1000 cargo test --profile soak --features chaos --test chaos many_points -- --nocapture`.
#[test]
fn many_points() {
    let Ok(asked) = std::env::var("LEASEHOLD_POINTS") else { return };
    let Seeds(range) = asked.parse().unwrap();
    let points: Vec<Point> = Point::ALL.into_iter().filter(|point| !point.is_of_founding()).collect();
    let effects = [PointEffect::Crash, PointEffect::PowerLoss, PointEffect::Stall(2 * S)];
    let (mut tally, mut failed) = (Tally::default(), Vec::new());
    for seed in range {
        let point = points[seed as usize % points.len()];
        let effect = effects[seed as usize / points.len() % effects.len()];
        let faults = PointFaults { one_in: 1 << (seed % 7), most: 20, ..faults_at(point, effect) };
        match run(seed, around(faults), None) {
            Ok(report) => tally.add(&report.history, report.simulated),
            Err(failure) => {
                println!("{faults}: {failure}");
                failed.push(seed);
            }
        }
    }
    println!("{tally:#?}");
    assert!(failed.is_empty(), "{failed:?}");
}
