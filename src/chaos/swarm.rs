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
//! # Members that come and go
//!
//! Three quarters of the seeds have agents beyond the founders that join, agents that leave and join again, and machines
//! that lose their disks, whose agents come back as new members. These have dice of their own, too, and the last numbers of
//! all. Only as many at once as what is promised survives (`turnover.rs` has the rule): a cluster that loses the disks of a
//! majority of its voters has lost what it acknowledged, by definition.
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

use std::{fmt, time::Duration};

use super::{
    draw,
    world::{DiskFault, PointEffect, PointFaults, Weather},
};

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
    /// This agent, which is beyond the founders, is started for the first time, and joins; whether it only observes. Not
    /// undone.
    Join(usize, bool),
    /// The agent leaves, and joins again at the end.
    Leave(Whom),
    /// The agent's machine loses its power and its disk; at the end the agent is started on an empty one. Whether it is told
    /// whom to join; else a founder goes on with the founders' list.
    LoseDisk(Whom, bool),
}

/// How many agents beyond its founders a swarm's cluster may have.
pub const SPARES: usize = 2;

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
            | Self::Disk(whom, _)
            | Self::Leave(whom)
            | Self::LoseDisk(whom, _) => Some(*whom),
            Self::Join(agent, _) => Some(Whom::Agent(*agent)),
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
            Self::Join(..) => "joins",
            Self::Leave(_) => "leaves",
            Self::LoseDisk(..) => "loses its disk",
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
            Self::Join(_, true) => f.write_str(" and observes"),
            Self::LoseDisk(_, true) => f.write_str(" and joins"),
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
    /// Whether clocks are beyond what is assumed, and whether members come and go.
    Swarm {
        beyond: bool,
        members: bool,
    },
    These(Vec<Episode>),
}

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
        Self { source: Source::Swarm { beyond: false, members: true }, only: None }
    }

    /// A swarm, and clocks that break the one assumption that leases stand on: rates beyond the declared bound, and jumps
    /// forth. Two may believe then; what is protected by a fence must be in order all the same.
    #[must_use]
    pub fn beyond_the_drift_bound() -> Self {
        Self { source: Source::Swarm { beyond: true, members: true }, only: None }
    }

    /// These, for every seed.
    #[must_use]
    pub fn these(episodes: impl IntoIterator<Item = Episode>) -> Self {
        Self { source: Source::These(episodes.into_iter().collect()), only: None }
    }

    /// A swarm in which nobody joins or leaves, and no disk is lost: as it was before there was that, to the bit.
    #[must_use]
    pub fn with_fixed_membership(mut self) -> Self {
        if let Source::Swarm { members, .. } = &mut self.source {
            *members = false;
        }
        self
    }

    /// Whether it is a swarm in which members come and go.
    pub(super) fn moves_members(&self) -> bool {
        matches!(self.source, Source::Swarm { members: true, .. })
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
            Source::Swarm { beyond, .. } => !beyond,
            Source::These(episodes) => !episodes.iter().any(|episode| {
                matches!(episode.trouble, Trouble::ClockForth(..))
                    || matches!(episode.trouble, Trouble::ClockRate(_, ppm) if ppm.abs() > BOUND_PPM)
            }),
        }
    }

    /// What goes wrong with this seed in a cluster that so many agents found: in the order of its beginnings, each with its
    /// number; then what a swarm has at fault points; then who comes and goes.
    #[must_use]
    pub fn schedule(&self, seed: u64, founders: usize, span: Duration) -> Vec<(usize, Episode)> {
        let mut episodes = match &self.source {
            Source::Swarm { beyond, .. } => draw::draw(seed, founders, span, *beyond),
            Source::These(episodes) => episodes.clone(),
        };
        episodes.sort_by_key(|episode| episode.from);
        if let Source::Swarm { members, .. } = self.source {
            let lies = |episode: &Episode| matches!(episode.trouble, Trouble::Disk(_, DiskFault::Lie(_)));
            let power = !episodes.iter().any(lies);
            episodes.extend(draw::draw_points(seed, span, power));
            if members {
                episodes.extend(draw::draw_members(seed, founders, span));
            }
        }
        let kept = |(number, _): &(usize, Episode)| self.keeps(*number);
        episodes.into_iter().enumerate().filter(kept).collect()
    }
}

/// The default of [`clock_drift_max`](crate::Timing::clock_drift_max). It suffices that each clock is within it of true
/// time (ARCHITECTURE.md, "Time").
pub(super) const BOUND_PPM: i64 = 10_000;
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
        assert_eq!(all.len(), 31, "{all:?}");
        assert!(!all.contains("clock forth"));
        // Who comes and goes is drawn apart, and would be in nearly all of them.
        let fixed = Faults::swarm().with_fixed_membership();
        let per_seed: Vec<_> = (0..200).map(|seed| labels(&fixed, seed)).collect();
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
