//! What goes wrong in a run, and when: a schedule of episodes, drawn from the seed.
//!
//! A *swarm*: each seed has some kinds of trouble and not others, and more or less of it. A run in which everything may
//! happen at once is rarely quiet enough for the rare thing; one that has pauses and nothing else looks for what
//! pauses alone can do. Over many seeds all are there, and all pairs.
//!
//! An [`Episode`] begins, lasts, and is undone. That is the unit in which a failing schedule is
//! [shrunk](super::shrink()): it is taken out as a whole, and leaves the others where they were.
//!
//! # Fault points
//!
//! A third of the seeds have spans in which agents end, lose their power or wait at [fault points](super::Point): around each
//! persist, send and apply, which a crash by the clock hardly ever hits. They are drawn from dice of their own and have the
//! last numbers of the schedule, so that everything else is as it is without them.
//!
//! # What is not in a swarm, and why
//!
//! - *Clock rates beyond [`clock_drift_max`](crate::Timing::clock_drift_max), and clocks that jump forth*: rule L1
//!   assumes that they don't. [`Faults::beyond_the_drift_bound`] has them; then fencing alone must hold.
//! - A clock that goes back *is* there. By a little, it may go unnoticed: between two readings of it nobody can tell. So the
//!   checkers say nothing of the beliefs beside such a clock; by more, they must end at once.
//! - *A disk that loses what it said was synced*: no consensus survives that. A lying disk comes only in seeds in which
//!   nothing makes it lose what it has: neither power loss nor a sync that fails.
//! - *Rot of what was synced*: such an agent does not start again. [`DiskFault::Rot`](super::DiskFault::Rot) is for tests
//!   of their own.
//! - *Members that join and leave*: the simulated cluster's membership is fixed.

use std::{fmt, time::Duration};

use super::{
    kernel::{Chance, Stream},
    world::{DiskFault, PointEffect, PointFaults, Weather},
};
use crate::fault_point::Point;

/// To whom it happens; found out when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Whom {
    /// This agent.
    Agent(usize),
    /// Whoever leads then; agent 0 where nobody does.
    Leader,
    /// The agent that was granted a lease last which has not ended; the leader where there is none.
    Holder,
}

/// A clock for leases that goes back by this much or more is noticed by every holder that runs: that much never passes
/// between two of its readings. One that goes back by less may not be, nor one that does while its machine stands still, and
/// lets its holder believe for as much longer.
pub(crate) const NOTICED: Duration = Duration::from_secs(8);

/// One kind of trouble.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Trouble {
    /// The process is killed, and started again at the end.
    Crash(Whom),
    /// The machine's power goes, and comes back at the end.
    PowerLoss(Whom),
    /// The power of all goes at once, and comes back at the end.
    PowerLossOfAll,
    /// The agent is shut down in an orderly way, and started again at the end.
    ShutDown(Whom),
    /// The process stands still.
    Pause(Whom),
    /// The machine sleeps.
    Suspend(Whom),
    /// It is cut off from all others.
    Isolate(Whom),
    /// What the others send it vanishes.
    Deafen(Whom),
    /// What it sends vanishes.
    Mute(Whom),
    /// These are on one side, the others on the other.
    Split(Vec<usize>),
    /// Two halves that reach each other by one agent only.
    Bridge(usize),
    /// Each reaches its neighbours only; with five agents each is in a majority, and no two are in the same.
    Ring,
    /// It is cut off and comes back, again and again, each time for so long.
    Flap(Whom, Duration),
    /// The network is like this.
    Weather(Weather),
    /// The ways from and to it are like this.
    WeatherAround(Whom, Weather),
    /// Its clocks run off by so many parts per million.
    ClockRate(Whom, i64),
    /// Its clocks jump forth. Not undone.
    ClockForth(Whom, Duration),
    /// Its clock for leases jumps back. Not undone.
    ClockBack(Whom, Duration),
    /// Its wall clock is wrong by so many milliseconds. Not undone.
    WallClock(Whom, i64),
    /// Something is wrong with its disk.
    Disk(Whom, DiskFault),
    /// Agents end, lose their power or wait at fault points. They are started again a little later.
    FaultPoints(PointFaults),
}

impl Trouble {
    /// To whom it happens, if to one.
    #[must_use]
    pub fn whom(&self) -> Option<Whom> {
        match self {
            Self::Crash(whom)
            | Self::PowerLoss(whom)
            | Self::ShutDown(whom)
            | Self::Pause(whom)
            | Self::Suspend(whom)
            | Self::Isolate(whom)
            | Self::Deafen(whom)
            | Self::Mute(whom)
            | Self::Flap(whom, _)
            | Self::WeatherAround(whom, _)
            | Self::ClockRate(whom, _)
            | Self::ClockForth(whom, _)
            | Self::ClockBack(whom, _)
            | Self::WallClock(whom, _)
            | Self::Disk(whom, _) => Some(*whom),
            Self::PowerLossOfAll
            | Self::Split(_)
            | Self::Bridge(_)
            | Self::Ring
            | Self::Weather(_)
            | Self::FaultPoints(_) => None,
        }
    }

    /// What it is called, by itself.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Crash(_) => "crash",
            Self::PowerLoss(_) => "power loss",
            Self::PowerLossOfAll => "power loss of all",
            Self::ShutDown(_) => "shutdown",
            Self::Pause(_) => "pause",
            Self::Suspend(_) => "suspend",
            Self::Isolate(_) => "isolated",
            Self::Deafen(_) => "hears nobody",
            Self::Mute(_) => "heard by nobody",
            Self::Split(_) => "partition",
            Self::Bridge(_) => "bridge",
            Self::Ring => "ring of majorities",
            Self::Flap(..) => "flapping",
            Self::Weather(_) => "bad network",
            Self::WeatherAround(..) => "bad network around",
            Self::ClockRate(..) => "clock rate",
            Self::ClockForth(..) => "clock forth",
            Self::ClockBack(_, by) if *by < NOTICED => "clock back a little",
            Self::ClockBack(..) => "clock back",
            Self::WallClock(..) => "wall clock",
            Self::Disk(_, fault) => match fault {
                DiskFault::Slow(_) => "slow disk",
                DiskFault::Stall(_) => "stalling disk",
                DiskFault::Full(_) => "full disk",
                DiskFault::Fail(_) => "failing disk",
                DiskFault::Lie(_) => "lying disk",
                DiskFault::Flip(_) => "flipped bits",
                DiskFault::Rot(_) => "rot",
                DiskFault::Heal => "mended disk",
            },
            Self::FaultPoints(faults) => match faults.effect {
                PointEffect::Crash => "crash at a point",
                PointEffect::PowerLoss => "power loss at a point",
                PointEffect::Stall(_) => "stall at a point",
            },
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())?;
        match self {
            Self::Split(side) => write!(f, " {side:?}"),
            Self::Bridge(agent) => write!(f, " over agent {agent}"),
            Self::Flap(_, period) => write!(f, " every {period:?}"),
            Self::ClockRate(_, ppm) => write!(f, " {ppm:+} ppm"),
            Self::ClockForth(_, by) | Self::ClockBack(_, by) => write!(f, " by {by:?}"),
            Self::WallClock(_, ms) => write!(f, " {ms:+} ms"),
            Self::Disk(_, fault) => write!(f, " {fault:?}"),
            Self::FaultPoints(faults) => write!(f, ": {faults}"),
            _ => Ok(()),
        }?;
        match self.whom() {
            Some(Whom::Agent(agent)) => write!(f, ", agent {agent}"),
            Some(Whom::Leader) => f.write_str(", the leader"),
            Some(Whom::Holder) => f.write_str(", the holder"),
            None => Ok(()),
        }
    }
}

/// Something goes wrong for a while.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Episode {
    /// When it begins, after the workload did.
    pub from: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What goes wrong.
    pub trouble: Trouble,
}

impl Episode {
    /// Something goes wrong for a while.
    #[must_use]
    pub fn new(from: Duration, lasts: Duration, trouble: Trouble) -> Self {
        Self { from, lasts, trouble }
    }
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:8.3} s, for {:6.3} s: {}",
            self.from.as_secs_f64(),
            self.lasts.as_secs_f64(),
            self.trouble
        )
    }
}

/// Which faults a run has. [`Faults::none`] is the default.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    source: Source,
    /// Which episodes of the schedule are carried out; `None`: all.
    only: Option<Vec<usize>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Source {
    Swarm { beyond: bool },
    These(Vec<Episode>),
}

/// A kind of trouble that a seed has or has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Crash,
    PowerLoss,
    PowerLossOfAll,
    ShutDown,
    Pause,
    Suspend,
    Isolate,
    OneWay,
    Split,
    Shapes,
    Flap,
    Weather,
    ClockRate,
    ClockBack,
    WallClock,
    SlowDisk,
    BadDisk,
    Lie,
}

const KINDS: [Kind; 18] = [
    Kind::Crash,
    Kind::PowerLoss,
    Kind::PowerLossOfAll,
    Kind::ShutDown,
    Kind::Pause,
    Kind::Suspend,
    Kind::Isolate,
    Kind::OneWay,
    Kind::Split,
    Kind::Shapes,
    Kind::Flap,
    Kind::Weather,
    Kind::ClockRate,
    Kind::ClockBack,
    Kind::WallClock,
    Kind::SlowDisk,
    Kind::BadDisk,
    Kind::Lie,
];

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

impl Faults {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self::these([])
    }

    /// Each seed has some kinds of trouble, more or less of it, and a schedule of its own. Everything is within what the
    /// rules assume.
    #[must_use]
    pub fn swarm() -> Self {
        Self { source: Source::Swarm { beyond: false }, only: None }
    }

    /// A swarm, and clocks that break the one assumption that leases stand on: rates beyond the declared bound, and jumps
    /// forth. Two may believe then; what is protected by a fence must be in order all the same.
    #[must_use]
    pub fn beyond_the_drift_bound() -> Self {
        Self { source: Source::Swarm { beyond: true }, only: None }
    }

    /// These, for every seed.
    #[must_use]
    pub fn these(episodes: impl IntoIterator<Item = Episode>) -> Self {
        Self { source: Source::These(episodes.into_iter().collect()), only: None }
    }

    /// Of the schedule, these episodes alone, by their numbers from 0.
    #[must_use]
    pub fn only(mut self, episodes: impl IntoIterator<Item = usize>) -> Self {
        self.only = Some(episodes.into_iter().collect());
        self
    }

    /// Without anything left out.
    pub(super) fn whole(&self) -> Self {
        Self { only: None, ..self.clone() }
    }

    /// Whether the episode with this number is not left out.
    pub(super) fn keeps(&self, number: usize) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&number))
    }

    /// Whether clocks keep to the declared bound.
    #[must_use]
    pub fn keep_the_drift_bound(&self) -> bool {
        match &self.source {
            Source::Swarm { beyond } => !beyond,
            Source::These(episodes) => !episodes.iter().any(|episode| {
                matches!(episode.trouble, Trouble::ClockForth(..))
                    || matches!(episode.trouble, Trouble::ClockRate(_, ppm) if ppm.abs() > BOUND_PPM)
            }),
        }
    }

    /// What goes wrong with this seed, in the order of its beginnings, each with its number; then what a swarm has at fault
    /// points.
    #[must_use]
    pub fn schedule(&self, seed: u64, agents: usize, span: Duration) -> Vec<(usize, Episode)> {
        let (mut episodes, swarm) = match &self.source {
            Source::Swarm { beyond } => (draw(seed, agents, span, *beyond), true),
            Source::These(episodes) => (episodes.clone(), false),
        };
        episodes.sort_by_key(|episode| episode.from);
        if swarm {
            let lies = |episode: &Episode| matches!(episode.trouble, Trouble::Disk(_, DiskFault::Lie(_)));
            let power = !episodes.iter().any(lies);
            episodes.extend(draw_points(seed, span, power));
        }
        let kept = |(number, _): &(usize, Episode)| self.keeps(*number);
        episodes.into_iter().enumerate().filter(kept).collect()
    }
}

/// The default of [`clock_drift_max`](crate::Timing::clock_drift_max). It suffices that each clock is within it of true
/// time (ARCHITECTURE.md, "Time").
const BOUND_PPM: i64 = 10_000;
/// An episode lasts between these, all orders of magnitude alike.
const LASTS_MS: (u64, u64) = (20, 20_000);

fn draw(seed: u64, agents: usize, span: Duration, beyond: bool) -> Vec<Episode> {
    let mut chance = Stream::of(seed, Chance::Swarm);
    let share = 1 + chance.below(5);
    let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| chance.below(8) < share).collect();
    let loses = |kind: &Kind| matches!(kind, Kind::PowerLoss | Kind::PowerLossOfAll | Kind::BadDisk);
    if kinds.iter().any(loses) {
        kinds.retain(|kind| *kind != Kind::Lie);
    }
    if kinds.is_empty() {
        kinds.push(KINDS[chance.below(15) as usize]);
    }
    let gap_ms = chance.between(300, 6_000);
    let mut at = Duration::ZERO;
    let mut episodes = Vec::new();
    if beyond || kinds.contains(&Kind::ClockRate) {
        // Clocks are wrong from the beginning: that is when it matters most.
        for agent in 0..agents {
            let trouble = Trouble::ClockRate(Whom::Agent(agent), rate(&mut chance, beyond));
            episodes.push(Episode::new(Duration::ZERO, span, trouble));
        }
        kinds.retain(|kind| *kind != Kind::ClockRate);
    }
    loop {
        at += Duration::from_millis(chance.between(1, 2 * gap_ms));
        if at >= span {
            return episodes;
        }
        let lasts = Duration::from_millis(lasts_ms(&mut chance)).min(span - at);
        if beyond && chance.below(4) == 0 {
            let by = Duration::from_millis(lasts_ms(&mut chance));
            episodes.push(Episode::new(at, lasts, Trouble::ClockForth(whom(&mut chance, agents), by)));
        }
        // Where clocks alone are wrong nothing else happens.
        if let Some(kind) = kinds.get(chance.below(kinds.len() as u64) as usize) {
            episodes.push(Episode::new(at, lasts, trouble(&mut chance, *kind, agents)));
        }
    }
}

/// What goes wrong at fault points, one span after the other; `power`: whether it may go.
fn draw_points(seed: u64, span: Duration, power: bool) -> Vec<Episode> {
    let mut chance = Stream::of(seed, Chance::PointSwarm);
    let mut episodes = Vec::new();
    if chance.below(3) != 0 {
        return episodes;
    }
    // Its agents are founded before anything goes wrong.
    let points: Vec<Point> = Point::ALL.into_iter().filter(|point| !point.is_of_founding()).collect();
    let mut at = Duration::ZERO;
    loop {
        at += Duration::from_millis(chance.between(1, 6_000));
        if at >= span {
            return episodes;
        }
        let lasts = Duration::from_millis(chance.between(1_000, 15_000)).min(span - at);
        let effect = match chance.below(5) {
            0 => PointEffect::Stall(Duration::from_millis(1 << chance.below(12))),
            1 | 2 if power => PointEffect::PowerLoss,
            _ => PointEffect::Crash,
        };
        // At one point nearly each time, which finds the rare ones, or anywhere, seldom.
        let (at_one, one_in) = match chance.below(2) {
            0 => {
                let point = chance.below(points.len() as u64) as usize;
                (points.get(point).copied(), 1 << chance.below(6))
            }
            _ => (None, 100 << chance.below(8)),
        };
        let most = 1 + chance.below(6) as u32;
        let faults = PointFaults { at: at_one, one_in, most, effect };
        episodes.push(Episode::new(at, lasts, Trouble::FaultPoints(faults)));
        at += lasts;
    }
}

fn lasts_ms(chance: &mut Stream) -> u64 {
    // So that a pause of 50 ms is as likely as one of 5 s.
    let (least, most) = LASTS_MS;
    let doublings = u64::from((most / least).ilog2());
    let from = least << chance.below(doublings + 1);
    chance.between(from, (from * 2).min(most))
}

fn whom(chance: &mut Stream, agents: usize) -> Whom {
    match chance.below(8) {
        0..3 => Whom::Leader,
        3..5 => Whom::Holder,
        _ => Whom::Agent(chance.below(agents as u64) as usize),
    }
}

fn rate(chance: &mut Stream, beyond: bool) -> i64 {
    let most = if beyond { 30 * BOUND_PPM } else { BOUND_PPM };
    match chance.below(3) {
        // The worst that may be.
        0 => -most,
        1 => most,
        _ => chance.between(0, 2 * most.unsigned_abs()) as i64 - most,
    }
}

fn weather(chance: &mut Stream) -> Weather {
    let ms = |least, most| (Duration::from_millis(least), Duration::from_millis(most));
    let share = |chance: &mut Stream, most: u64| chance.below(most + 1) as f64 / 1_000.0;
    let slow = [5, 30, 120, 400][chance.below(4) as usize];
    Weather {
        delay: (Duration::from_micros(50), Duration::from_millis(chance.between(1, 1 + slow / 4))),
        slow: share(chance, 100),
        slow_delay: ms(1, slow * 5),
        loss: share(chance, 150),
        duplication: share(chance, 150),
        overtaking: share(chance, 200),
    }
}

fn trouble(chance: &mut Stream, kind: Kind, agents: usize) -> Trouble {
    let whom = whom(chance, agents);
    match kind {
        Kind::Crash => Trouble::Crash(whom),
        Kind::PowerLoss => Trouble::PowerLoss(whom),
        Kind::PowerLossOfAll => Trouble::PowerLossOfAll,
        Kind::ShutDown => Trouble::ShutDown(whom),
        Kind::Pause => Trouble::Pause(whom),
        Kind::Suspend => Trouble::Suspend(whom),
        Kind::Isolate => Trouble::Isolate(whom),
        Kind::OneWay if chance.below(2) == 0 => Trouble::Deafen(whom),
        Kind::OneWay => Trouble::Mute(whom),
        Kind::Split => {
            let side = 1 + chance.below((agents as u64).saturating_sub(1).max(1)) as usize;
            let first = chance.below(agents as u64) as usize;
            Trouble::Split((0..side).map(|at| (first + at) % agents).collect())
        }
        Kind::Shapes if chance.below(2) == 0 => Trouble::Ring,
        Kind::Shapes => Trouble::Bridge(chance.below(agents as u64) as usize),
        Kind::Flap => Trouble::Flap(whom, Duration::from_millis(chance.between(50, 1_500))),
        Kind::Weather if chance.below(2) == 0 => Trouble::Weather(weather(chance)),
        Kind::Weather => Trouble::WeatherAround(whom, weather(chance)),
        Kind::ClockRate => Trouble::ClockRate(whom, rate(chance, false)),
        Kind::ClockBack if chance.below(2) == 0 => {
            Trouble::ClockBack(whom, NOTICED + Duration::from_millis(lasts_ms(chance)))
        }
        Kind::ClockBack => Trouble::ClockBack(whom, Duration::from_millis(lasts_ms(chance))),
        Kind::WallClock => Trouble::WallClock(whom, chance.between(0, 20_000_000) as i64 - 10_000_000),
        Kind::SlowDisk if chance.below(2) == 0 => {
            Trouble::Disk(whom, DiskFault::Stall(Duration::from_millis(lasts_ms(chance))))
        }
        Kind::SlowDisk => Trouble::Disk(whom, DiskFault::Slow(chance.between(5, 200) as u32)),
        Kind::BadDisk => {
            let fault = match chance.below(3) {
                0 => DiskFault::Full(true),
                1 => DiskFault::Fail(0.001 * chance.between(1, 200) as f64),
                _ => DiskFault::Flip(0.001 * chance.between(1, 500) as f64),
            };
            Trouble::Disk(whom, fault)
        }
        Kind::Lie => Trouble::Disk(whom, DiskFault::Lie(true)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SPAN: Duration = Duration::from_secs(60);

    fn labels(faults: &Faults, seed: u64) -> BTreeSet<&'static str> {
        faults.schedule(seed, 5, SPAN).iter().map(|(_, episode)| episode.trouble.label()).collect()
    }

    #[test]
    fn seeds_have_different_kinds_and_together_all_of_them() {
        let per_seed: Vec<_> = (0..200).map(|seed| labels(&Faults::swarm(), seed)).collect();
        let all: BTreeSet<_> = per_seed.iter().flatten().copied().collect();
        assert_eq!(all.len(), 28, "{all:?}");
        assert!(!all.contains("clock forth"));
        let few = per_seed.iter().filter(|labels| labels.len() <= 4).count();
        let many = per_seed.iter().filter(|labels| labels.len() >= 12).count();
        assert!(few > 20 && many > 10, "{few} {many}");
    }

    #[test]
    fn a_schedule_follows_from_its_seed_and_keeps_its_numbers_when_episodes_are_left_out() {
        let all = Faults::swarm().schedule(7, 5, SPAN);
        assert_eq!(all, Faults::swarm().schedule(7, 5, SPAN));
        assert_ne!(all, Faults::swarm().schedule(8, 5, SPAN));
        let some = Faults::swarm().only([1, 3]).schedule(7, 5, SPAN);
        assert_eq!(some, [all[1].clone(), all[3].clone()]);
        assert!(all.iter().all(|(_, episode)| episode.from + episode.lasts <= SPAN));
    }

    #[test]
    fn no_disk_lies_where_power_may_go_and_clocks_keep_to_the_bound() {
        for seed in 0..500 {
            let labels = labels(&Faults::swarm(), seed);
            let power = ["power loss", "power loss of all", "power loss at a point"];
            let power = power.iter().any(|label| labels.contains(label));
            assert!(!(power && labels.contains("lying disk")), "{seed}");
            for (_, episode) in Faults::swarm().schedule(seed, 5, SPAN) {
                if let Trouble::ClockRate(_, ppm) = episode.trouble {
                    assert!(ppm.abs() <= BOUND_PPM);
                }
            }
        }
        assert!(Faults::swarm().keep_the_drift_bound());
        assert!(!Faults::beyond_the_drift_bound().keep_the_drift_bound());
        let beyond = Trouble::ClockRate(Whom::Agent(0), BOUND_PPM + 1);
        assert!(!Faults::these([Episode::new(SPAN, SPAN, beyond)]).keep_the_drift_bound());
    }
}
