//! What can be done to a simulated cluster.

use std::{fmt, time::Duration};

use super::{disk::DiskFault, points::PointFaults, weather::Weather};

/// One thing that is done to the world. Agents are named by their numbers, from 0.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The agent's process ends, as by `kill -9`: its disk keeps what the system was handed, its connections are reset.
    Crash(usize),
    /// The power of the agent's machine goes: its disk loses what was not synced, and nobody is told.
    PowerLoss(usize),
    /// The agent is started, on its disk. One that runs is crashed before.
    Restart(usize),
    /// The agent's process is stopped, as by `SIGSTOP`; its clocks go on.
    Pause(usize),
    /// The agent's machine is suspended: its timers stand still, the clock for leases doesn't.
    Suspend(usize),
    /// An agent that was paused or suspended goes on.
    Resume(usize),
    /// Messages of one direction vanish.
    Cut {
        /// From this agent
        from: usize,
        /// to this one.
        to: usize,
    },
    /// Undoes a cut.
    Heal {
        /// From this agent
        from: usize,
        /// to this one.
        to: usize,
    },
    /// An agent is cut off from all others, in both directions.
    Isolate(usize),
    /// Undoes that.
    Rejoin(usize),
    /// Undoes every cut.
    HealAll,
    /// From now on the network is like this, everywhere.
    Weather(Weather),
    /// From now on one way of it is.
    WeatherBetween {
        /// From this agent
        from: usize,
        /// to this one.
        to: usize,
        /// Like this.
        weather: Weather,
    },
    /// From now on the agent's clocks run too fast, or too slow.
    ClockRate {
        /// The agent.
        agent: usize,
        /// By so many parts per million; beyond -900 000 and 1 000 000 it counts as these.
        ppm: i64,
    },
    /// The agent's clocks jump forth.
    ClockForth {
        /// The agent.
        agent: usize,
        /// By this much.
        by: Duration,
    },
    /// The agent's clock for leases jumps back. Its timers don't notice.
    ClockBack {
        /// The agent.
        agent: usize,
        /// By this much.
        by: Duration,
    },
    /// The agent's wall clock is wrong from now on.
    WallClock {
        /// The agent.
        agent: usize,
        /// It shows so many milliseconds too much.
        wrong_ms: i64,
    },
    /// Something is wrong with the agent's disk.
    Disk {
        /// The agent.
        agent: usize,
        /// What.
        fault: DiskFault,
    },
    /// From now on this happens to agents at [fault points](crate::chaos::Point), in the place of what did before.
    ArmPoints(PointFaults),
    /// Undoes that.
    DisarmPoints,
    /// The agent's process ends, and its machine gets an empty disk: whoever is started on it next is a new member.
    Wipe {
        /// The agent.
        agent: usize,
        /// Whether it is told to join the others from then on; else a founder goes on with the founders' list.
        joins: bool,
    },
    /// An agent beyond the founders is started for the first time, and joins the others.
    Join {
        /// The agent.
        agent: usize,
        /// Whether it only observes.
        observer: bool,
    },
}

impl Fault {
    /// The agents that it is about.
    pub(super) fn agents(&self) -> Vec<usize> {
        match self {
            Self::Crash(agent)
            | Self::PowerLoss(agent)
            | Self::Restart(agent)
            | Self::Pause(agent)
            | Self::Suspend(agent)
            | Self::Resume(agent)
            | Self::Isolate(agent)
            | Self::Rejoin(agent)
            | Self::ClockRate { agent, .. }
            | Self::ClockForth { agent, .. }
            | Self::ClockBack { agent, .. }
            | Self::WallClock { agent, .. }
            | Self::Disk { agent, .. }
            | Self::Wipe { agent, .. }
            | Self::Join { agent, .. } => vec![*agent],
            Self::Cut { from, to } | Self::Heal { from, to } | Self::WeatherBetween { from, to, .. } => {
                vec![*from, *to]
            }
            Self::HealAll | Self::Weather(_) | Self::ArmPoints(_) | Self::DisarmPoints => Vec::new(),
        }
    }
}

/// As in a trace.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
