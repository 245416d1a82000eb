//! Who may leave, or lose its disk, so that what is promised survives it.
//!
//! # The rule
//!
//! A disk that is gone never votes again under its old id: to the others its member is one that is down for ever. So nothing
//! that was acknowledged is lost as long as a majority of the voters have theirs; but if they don't, the cluster can't go on,
//! and no rule would say that it should. Everything else that a swarm does is undone. Therefore, of the disks of all that
//! vote, **at most one is gone at any time**, and then there are three voters at least:
//!
//! - A disk goes only while a leader knows its voters for certain ([`Agent::settled_voters`](crate::Agent)): no change of
//!   them is under way, and a quorum has answered it within the shortest time in which another leader could have changed
//!   them, which holds still for twice as long first. One that stood still a moment ago is not asked.
//! - None of those voters is on a disk that is gone.
//! - Of a voter it goes only if there are three or more. From three, one is left of each two that must agree; and a plan never
//!   lowers their number to two while one of them is silent.
//! - What began a moment before is over: the last disk went, or the last departure ended, [`GAP`] ago, and nobody is just
//!   leaving. A leader takes a member for alive for a second after its disk has gone, so that a departure at this moment could
//!   make it one of two. (To lose a disk and a voter of three at once is to lose two of three.)
//! - A founder that loses its disk leaves at least two founders whose disks belong to the cluster: founders that have *all*
//!   lost what they had found a new one, as [`Builder::founders`](crate::Builder::founders) says.
//!
//! Who may leave follows the same rule, since that lowers the number of voters.

use std::{cell::Cell, collections::BTreeSet, time::Duration};

use super::sim::Sim;
use crate::id::NodeId;

/// Between two that leave or lose their disks.
const GAP: Duration = Duration::from_secs(4);
/// Whoever stood still does not know for so long what happened meanwhile.
const KNOWS_AFTER: Duration = Duration::from_secs(4);
/// Whoever keeps the rest together: so many voters.
const VOTERS_MIN: usize = 3;
/// Founders whose disks belong to the cluster.
const FOUNDERS_MIN: usize = 2;

/// See the file's head.
#[derive(Default)]
pub(super) struct Turnover {
    /// When a disk went, or a departure ended, last.
    last: Cell<Option<Duration>>,
    leaving: Cell<u32>,
}

impl Turnover {
    /// The voters, if they are known for certain, all of them have their disks, and nothing else is under way.
    fn voters(&self, sim: &Sim) -> Option<BTreeSet<NodeId>> {
        let now = sim.now();
        if self.leaving.get() > 0 || self.last.get().is_some_and(|last| now < last + GAP) {
            return None;
        }
        let stood_still: BTreeSet<usize> = sim.recorder().write(|history| {
            let agents = 0..history.agents;
            let stood = |agent: &usize| {
                history.disturbances.iter().any(|it| it.stops(*agent) && now < it.until + KNOWS_AFTER)
            };
            agents.filter(stood).collect()
        });
        let known = (0..sim.agents()).filter(|agent| !stood_still.contains(agent));
        let mut known = known.filter_map(|agent| sim.settled_voters(agent));
        let voters = known.next()?;
        let agree = known.all(|other| other == voters);
        (agree && voters.is_disjoint(&sim.fleet().lost())).then_some(voters)
    }

    /// Whether the agent may lose its disk now. If so, it does.
    pub(super) fn loses_disk(&self, sim: &Sim, agent: usize) -> bool {
        let Some(voters) = self.voters(sim) else { return false };
        let votes = sim.fleet().node(agent).is_some_and(|node| voters.contains(&node));
        let is_founder = agent < sim.founders();
        let may = (!votes || voters.len() >= VOTERS_MIN)
            && (!is_founder || sim.fleet().founded_beside(agent) >= FOUNDERS_MIN);
        if may {
            self.last.set(Some(sim.now()));
        }
        may
    }

    /// Whether the agent may leave now. If so, it does, until [`has_left`](Self::has_left).
    pub(super) fn leaves(&self, sim: &Sim) -> bool {
        let may = self.voters(sim).is_some();
        if may {
            self.leaving.set(self.leaving.get() + 1);
        }
        may
    }

    /// It has left, or goes on, or has ended meanwhile.
    pub(super) fn has_left(&self, sim: &Sim) {
        self.leaving.set(self.leaving.get().saturating_sub(1));
        self.last.set(Some(sim.now()));
    }
}
