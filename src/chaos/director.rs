//! Carries a schedule of faults out: begins its episodes, undoes them, and keeps the agents going in between, as a service
//! manager would.

use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Duration};

use super::{
    history::Disturbance,
    sim::Sim,
    swarm::{Episode, Faults, Trouble, Whom},
    turnover::Turnover,
    world::{DiskFault, Fault, Weather},
};
use crate::{message::MemberRole, runtime};

/// An agent that has stopped by itself is started again after so long.
const RESTART_AFTER: Duration = Duration::from_millis(700);
/// One that ended at a fault point is started after a span between these.
const DOWN_AT_POINT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(3));
/// How often it is looked for such agents.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// How many episodes hold an agent down, so that nobody else starts it.
type Down = Rc<[Cell<u32>]>;

/// Carries the schedule out, but for what is left out of it, until its span is over, and mends everything then.
pub(super) async fn direct(sim: &Sim, whole: Vec<(usize, Episode)>, faults: &Faults, span: Duration) {
    let down: Down = (0..sim.agents()).map(|_| Cell::new(0)).collect();
    let turnover = Rc::new(Turnover::default());
    let began = sim.now();
    for (number, episode) in whole {
        let (ours, down, keeps) = (sim.clone(), down.clone(), faults.keeps(number));
        let turnover = turnover.clone();
        sim.outside(async move {
            ours.sleep(episode.from).await;
            // One that is left out has its task all the same: before its time, the run is the same to the bit.
            if !keeps {
                return;
            }
            carry_out(&ours, number, &episode, &down, &turnover).await;
        });
    }
    let watched = runtime::select2(keep_up(sim, &down, began + span), watch_points(sim, &down, began + span));
    watched.await;
    // Episodes end with the span, at this very moment or in a moment.
    sim.sleep(Duration::from_millis(10)).await;
    mend(sim);
}

/// Starts agents again that have stopped by themselves.
async fn keep_up(sim: &Sim, down: &Down, end: Duration) {
    let mut stopped: BTreeMap<usize, Duration> = BTreeMap::new();
    loop {
        let left = end.saturating_sub(sim.now());
        if left.is_zero() {
            break;
        }
        sim.sleep(left.min(LOOK_EVERY)).await;
        for agent in 0..sim.agents() {
            if down.get(agent).is_none_or(|down| down.get() > 0)
                || is_sound(sim, agent)
                || !is_wanted(sim, agent)
            {
                stopped.remove(&agent);
                continue;
            }
            let since = *stopped.entry(agent).or_insert_with(|| sim.now());
            if sim.now() - since >= RESTART_AFTER {
                stopped.remove(&agent);
                sim.fault(Fault::Restart(agent));
            }
        }
    }
}

/// Holds agents down for a while that ended at a fault point, and starts them then.
async fn watch_points(sim: &Sim, down: &Down, end: Duration) {
    loop {
        let agent = sim.points().next_end().await;
        let (least, most) = DOWN_AT_POINT;
        let span = sim.points().span(least, most).min(end.saturating_sub(sim.now()));
        hold_down(down, agent);
        let (ours, down) = (sim.clone(), down.clone());
        sim.outside(async move {
            ours.sleep(span).await;
            let_go(&ours, &down, agent, false);
        });
    }
}

fn hold_down(down: &Down, agent: usize) {
    if let Some(down) = down.get(agent) {
        down.set(down.get() + 1);
    }
}

/// Starts it unless somebody else holds it down for longer; one that `runs_out` even if it runs.
fn let_go(sim: &Sim, down: &Down, agent: usize, runs_out: bool) {
    let Some(down) = down.get(agent) else { return };
    down.set(down.get().saturating_sub(1));
    if down.get() == 0 && (runs_out || !is_sound(sim, agent)) && is_wanted(sim, agent) {
        sim.fault(Fault::Restart(agent));
    }
}

/// Whether it runs, or is on its way to.
fn is_sound(sim: &Sim, agent: usize) -> bool {
    match sim.agent(agent) {
        Some(agent) => agent.status().stopped.is_none(),
        None => sim.has_process(agent) && sim.start_error(agent).is_none(),
    }
}

/// Undoes everything, and starts all agents that have stopped.
fn mend(sim: &Sim) {
    sim.fault(Fault::HealAll);
    sim.fault(Fault::Weather(Weather::default()));
    for agent in 0..sim.agents() {
        sim.fault(Fault::Disk { agent, fault: DiskFault::Heal });
        sim.fault(Fault::Resume(agent));
        if !is_sound(sim, agent) && is_wanted(sim, agent) {
            sim.fault(Fault::Restart(agent));
        }
    }
}

/// Whether it was ever started: one beyond the founders may not be.
fn is_wanted(sim: &Sim, agent: usize) -> bool {
    sim.lives(agent) > 0
}

/// Who leads.
fn leader(sim: &Sim) -> Option<usize> {
    (0..sim.agents()).find(|agent| {
        sim.agent(*agent).is_some_and(|agent| {
            let status = agent.status();
            status.role == MemberRole::Leader && status.stopped.is_none()
        })
    })
}

fn found(sim: &Sim, whom: Whom) -> usize {
    let last = sim.agents().saturating_sub(1);
    match whom {
        Whom::Agent(agent) => agent.min(last),
        Whom::Leader => leader(sim).unwrap_or(0),
        Whom::Holder => {
            let holder = sim.recorder().last_holder();
            let number = holder.and_then(|name| name.strip_prefix("agent-")?.parse().ok());
            number.filter(|agent| *agent <= last).or_else(|| leader(sim)).unwrap_or(0)
        }
    }
}

async fn carry_out(sim: &Sim, number: usize, episode: &Episode, down: &Down, turnover: &Rc<Turnover>) {
    let whom = episode.trouble.whom().map(|whom| found(sim, whom));
    let from = sim.now();
    if !may_be(sim, &episode.trouble, whom.unwrap_or(0), turnover) {
        sim.note(format!("does not begin: #{number}"));
        return;
    }
    let disturbance = Disturbance {
        number,
        text: episode.trouble.to_string(),
        label: episode.trouble.label(),
        agents: match &episode.trouble {
            Trouble::Split(side) => side.clone(),
            Trouble::Bridge(agent) => vec![*agent],
            _ => whom.into_iter().collect(),
        },
        from,
        until: from + episode.lasts,
    };
    sim.note(format!("begins: {disturbance}"));
    sim.recorder().write(|history| history.disturbances.push(disturbance));
    let ways = ways((sim.founders(), sim.agents()), &episode.trouble, whom.unwrap_or(0));
    let agent = whom.unwrap_or(0);
    let holds_down = matches!(
        episode.trouble,
        Trouble::Crash(_)
            | Trouble::PowerLoss(_)
            | Trouble::PowerLossOfAll
            | Trouble::ShutDown(_)
            | Trouble::Leave(_)
            | Trouble::LoseDisk(..)
    );
    let of: Vec<usize> = match episode.trouble {
        Trouble::PowerLossOfAll => (0..sim.agents()).collect(),
        _ => vec![agent],
    };
    if holds_down {
        of.iter().for_each(|agent| hold_down(down, *agent));
    }
    begin(sim, &episode.trouble, agent, &ways);
    let leaving = matches!(episode.trouble, Trouble::Leave(_)).then(|| leave(sim, agent, turnover));
    if let Trouble::Flap(_, period) = episode.trouble {
        let end = sim.now() + episode.lasts;
        while sim.now() + 2 * period < end {
            sim.sleep(period).await;
            sim.fault(Fault::Rejoin(agent));
            sim.sleep(period).await;
            sim.fault(Fault::Isolate(agent));
        }
        sim.sleep(end.saturating_sub(sim.now())).await;
    } else {
        sim.sleep(episode.lasts).await;
    }
    if holds_down {
        // One that still shuts down, or leaves, has had its time.
        let still_leaves = leaving.is_some_and(|leaving| leaving.get());
        let runs_out = still_leaves || matches!(episode.trouble, Trouble::ShutDown(_));
        of.into_iter().for_each(|agent| let_go(sim, down, agent, runs_out));
    } else {
        end(sim, &episode.trouble, agent, &ways);
    }
    sim.note(format!("ends: #{number}"));
}

/// Whether it may begin now: nobody leaves, or loses its disk, where what is promised could not survive it.
fn may_be(sim: &Sim, trouble: &Trouble, agent: usize, turnover: &Turnover) -> bool {
    match trouble {
        Trouble::Leave(_) => {
            let serves = sim.agent(agent).is_some_and(|agent| agent.status().stopped.is_none());
            serves && turnover.leaves(sim)
        }
        Trouble::LoseDisk(..) => is_wanted(sim, agent) && turnover.loses_disk(sim, agent),
        _ => true,
    }
}

/// Lets the agent leave. What is returned is true while it does.
fn leave(sim: &Sim, agent: usize, turnover: &Rc<Turnover>) -> Rc<Cell<bool>> {
    let goes_on = Rc::new(Cell::new(true));
    if let Some(handle) = sim.agent(agent) {
        let departure = sim.recorder().departs(agent, leader(sim) == Some(agent));
        let job = sim.on(agent, async move { handle.leave().await.is_ok() });
        let (ours, turnover, goes_on) = (sim.clone(), turnover.clone(), goes_on.clone());
        sim.outside(async move {
            // What it does not say, its process has ended.
            if let Ok(left) = job.await {
                ours.recorder().departed(departure, left);
            }
            goes_on.set(false);
            turnover.has_left(&ours);
        });
    }
    goes_on
}

/// The ways that it cuts. Its shapes are those of the founders, and the others stand beside them.
fn ways((founders, agents): (usize, usize), trouble: &Trouble, agent: usize) -> Vec<(usize, usize)> {
    let others = (0..agents).filter(|other| *other != agent);
    let cut = |apart: &dyn Fn(usize, usize) -> bool| {
        let all = (0..founders).flat_map(|from| (0..founders).map(move |to| (from, to)));
        all.filter(|(from, to)| from != to && apart(*from, *to)).collect()
    };
    match trouble {
        Trouble::Deafen(_) => others.map(|other| (other, agent)).collect(),
        Trouble::Mute(_) => others.map(|other| (agent, other)).collect(),
        Trouble::Split(side) => {
            let all = (0..agents).flat_map(|from| (0..agents).map(move |to| (from, to)));
            all.filter(|(from, to)| side.contains(from) != side.contains(to)).collect()
        }
        Trouble::Bridge(over) => {
            // The bridge is counted to neither half.
            let half = |agent: usize| (agent + founders - over) % founders > founders / 2;
            cut(&|from, to| from != *over && to != *over && half(from) != half(to))
        }
        Trouble::Ring => {
            let apart = |from: usize, to: usize| (from + founders - to) % founders;
            // Of three founders each is the others' neighbour: the ring is broken in one place.
            match founders {
                0..=3 => vec![(0, founders.saturating_sub(1)), (founders.saturating_sub(1), 0)],
                _ => cut(&|from, to| !matches!(apart(from, to).min(apart(to, from)), 1)),
            }
        }
        _ => Vec::new(),
    }
}

fn begin(sim: &Sim, trouble: &Trouble, agent: usize, ways: &[(usize, usize)]) {
    for (from, to) in ways {
        sim.fault(Fault::Cut { from: *from, to: *to });
    }
    match trouble {
        Trouble::Crash(_) => sim.fault(Fault::Crash(agent)),
        Trouble::PowerLoss(_) => sim.fault(Fault::PowerLoss(agent)),
        Trouble::PowerLossOfAll => (0..sim.agents()).for_each(|agent| sim.fault(Fault::PowerLoss(agent))),
        Trouble::ShutDown(_) => {
            if let Some(handle) = sim.agent(agent) {
                drop(sim.on(agent, async move { handle.shutdown().await }));
            }
        }
        Trouble::Pause(_) => sim.fault(Fault::Pause(agent)),
        Trouble::Suspend(_) => sim.fault(Fault::Suspend(agent)),
        Trouble::Isolate(_) | Trouble::Flap(..) => sim.fault(Fault::Isolate(agent)),
        Trouble::Deafen(_) | Trouble::Mute(_) | Trouble::Split(_) | Trouble::Bridge(_) | Trouble::Ring => {}
        Trouble::Weather(weather) => sim.fault(Fault::Weather(weather.clone())),
        Trouble::WeatherAround(_, weather) => around(sim, agent, weather),
        Trouble::ClockRate(_, ppm) => sim.fault(Fault::ClockRate { agent, ppm: *ppm }),
        Trouble::ClockForth(_, by) => sim.fault(Fault::ClockForth { agent, by: *by }),
        Trouble::ClockBack(_, by) => sim.fault(Fault::ClockBack { agent, by: *by }),
        Trouble::WallClock(_, wrong_ms) => sim.fault(Fault::WallClock { agent, wrong_ms: *wrong_ms }),
        Trouble::Disk(_, fault) => sim.fault(Fault::Disk { agent, fault: *fault }),
        Trouble::FaultPoints(faults) => sim.fault(Fault::ArmPoints(*faults)),
        Trouble::Join(_, observer) => sim.fault(Fault::Join { agent, observer: *observer }),
        // It takes a while: see `leave`.
        Trouble::Leave(_) => {}
        Trouble::LoseDisk(_, joins) => sim.fault(Fault::Wipe { agent, joins: *joins }),
    }
}

fn end(sim: &Sim, trouble: &Trouble, agent: usize, ways: &[(usize, usize)]) {
    for (from, to) in ways {
        sim.fault(Fault::Heal { from: *from, to: *to });
    }
    match trouble {
        Trouble::Pause(_) | Trouble::Suspend(_) => sim.fault(Fault::Resume(agent)),
        Trouble::Isolate(_) | Trouble::Flap(..) => sim.fault(Fault::Rejoin(agent)),
        Trouble::Weather(_) => sim.fault(Fault::Weather(Weather::default())),
        Trouble::WeatherAround(..) => around(sim, agent, &Weather::default()),
        Trouble::ClockRate(..) => sim.fault(Fault::ClockRate { agent, ppm: 0 }),
        Trouble::Disk(..) => sim.fault(Fault::Disk { agent, fault: DiskFault::Heal }),
        Trouble::FaultPoints(_) => sim.fault(Fault::DisarmPoints),
        _ => {}
    }
}

fn around(sim: &Sim, agent: usize, weather: &Weather) {
    for other in (0..sim.agents()).filter(|other| *other != agent) {
        for (from, to) in [(agent, other), (other, agent)] {
            sim.fault(Fault::WeatherBetween { from, to, weather: weather.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which agents an agent reaches in both directions, itself included.
    fn reached(agents: usize, ways: &[(usize, usize)], from: usize) -> Vec<usize> {
        (0..agents).filter(|to| !ways.contains(&(from, *to)) && !ways.contains(&(*to, from))).collect()
    }

    #[test]
    fn a_ring_is_one_of_majorities_and_a_bridge_joins_two_halves() {
        let ring = ways((5, 5), &Trouble::Ring, 0);
        assert_eq!(reached(5, &ring, 0), [0, 1, 4]);
        assert_eq!(reached(5, &ring, 3), [2, 3, 4]);
        let bridge = ways((5, 5), &Trouble::Bridge(2), 0);
        assert_eq!(reached(5, &bridge, 2), [0, 1, 2, 3, 4]);
        assert_eq!(reached(5, &bridge, 3), [2, 3, 4]);
        assert_eq!(reached(5, &bridge, 0), [0, 1, 2]);
        assert_eq!(reached(3, &ways((3, 3), &Trouble::Ring, 0), 0), [0, 1]);
    }

    #[test]
    fn one_way_is_one_way() {
        assert_eq!(ways((3, 3), &Trouble::Deafen(Whom::Agent(1)), 1), [(0, 1), (2, 1)]);
        assert_eq!(ways((3, 3), &Trouble::Mute(Whom::Agent(1)), 1), [(1, 0), (1, 2)]);
        assert_eq!(reached(3, &ways((3, 3), &Trouble::Split(vec![0, 2]), 0), 1), [1]);
    }
}
