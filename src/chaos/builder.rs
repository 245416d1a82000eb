//! How a run is made.

use std::{future::Future, time::Duration};

use super::{
    kernel::{Pace, Share},
    sim::Sim,
    swarm::{Faults, SPARES},
    trial::Trial,
    world::{DiskPace, Fault, Setup, Weather},
};
use crate::{Timing, flaw::Flaw, raft::Compaction};

/// For how long faults come where nothing is said.
const SPAN: Duration = Duration::from_secs(60);

/// How a run is made; by [`Sim::builder`].
///
/// | setting | default | |
/// | --- | --- | --- |
/// | [`seed`](Self::seed) | 0 | everything that is left to chance follows from it |
/// | [`agents`](Self::agents) | 3 | how many found the cluster, on a machine each |
/// | [`spares`](Self::spares) | 0; a swarm's | how many machines there are for agents that join later |
/// | [`voters_max`](Self::voters_max) | 5 | how many members vote at most |
/// | [`fixed_membership`](Self::fixed_membership) | no | whether the membership stays as it was founded |
/// | [`timing`](Self::timing) | [`Timing::default`] | the cluster's timing |
/// | [`weather`](Self::weather) | [`Weather::default`] | how the network is |
/// | [`disk`](Self::disk) | [`DiskPace::default`] | how long disks take |
/// | [`snapshot_after`](Self::snapshot_after) | as ever | after how many entries a snapshot is taken |
/// | [`shuffle`](Self::shuffle) | 0.25 | how often the next task is any that may run |
/// | [`timer_slack`](Self::timer_slack) | 1 ms | how late a timer may be |
/// | [`clock_rates`](Self::clock_rates) | 100 ppm | how wrong clocks' rates are |
/// | [`at`](Self::at) | nothing | what is done to the cluster, and when |
/// | [`faults`](Self::faults) | none | which faults come by themselves |
/// | [`span`](Self::span) | 60 s | for how long; then everything is mended |
/// | [`unfounded`](Self::unfounded) | no | whether the script starts the agents itself |
#[derive(Debug, Clone)]
#[must_use = "nothing runs until run() is called"]
pub struct SimBuilder {
    pub(super) seed: u64,
    pub(super) setup: Setup,
    pub(super) pace: Pace,
    pub(super) schedule: Vec<(Duration, Fault)>,
    pub(super) founded: bool,
    /// Whether the number of spares was set.
    spares_said: bool,
    pub(super) faults: Option<Faults>,
    pub(super) span: Duration,
    pub(super) flaw: Option<Flaw>,
}

impl SimBuilder {
    pub(super) fn new() -> Self {
        Self {
            seed: 0,
            setup: Setup {
                agents: 3,
                spares: 0,
                fixed: false,
                voters_max: 5,
                timing: Timing::default(),
                weather: Weather::default(),
                disk: DiskPace::default(),
                compaction: Compaction::default(),
                ppm_max: 100,
            },
            pace: Pace::default(),
            schedule: Vec::new(),
            founded: true,
            spares_said: false,
            faults: None,
            span: SPAN,
            flaw: None,
        }
    }

    /// Everything that is left to chance follows from it.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How many agents found the cluster.
    pub fn agents(mut self, agents: usize) -> Self {
        self.setup.agents = agents;
        self
    }

    /// How many machines there are for agents that join later ([`Fault::Join`]). They are numbered behind the founders. A
    /// [swarm](Faults::swarm) whose members come and go has [`SPARES`](super::SPARES), unless something is said here.
    pub fn spares(mut self, spares: usize) -> Self {
        self.setup.spares = spares;
        self.spares_said = true;
        self
    }

    /// How many members vote at most.
    pub fn voters_max(mut self, voters: usize) -> Self {
        self.setup.voters_max = voters;
        self
    }

    /// The membership stays as it was founded; so nobody joins or leaves, and no disk is lost.
    pub fn fixed_membership(mut self) -> Self {
        self.setup.fixed = true;
        self
    }

    /// The cluster's timing.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.setup.timing = timing;
        self
    }

    /// How the network is, everywhere.
    pub fn weather(mut self, weather: Weather) -> Self {
        self.setup.weather = weather;
        self
    }

    /// How long disks take.
    pub fn disk(mut self, pace: DiskPace) -> Self {
        self.setup.disk = pace;
        self
    }

    /// After how many entries a snapshot is taken, and how many stay behind it.
    pub fn snapshot_after(mut self, entries: u64, kept: u64) -> Self {
        self.setup.compaction = Compaction { entries, kept };
        self
    }

    /// How often the next task to run is any of those that may, and not the one that waits longest: from 0 to 1.
    pub fn shuffle(mut self, share: f64) -> Self {
        self.pace.shuffle = Share::of(share);
        self
    }

    /// How late a timer may be.
    pub fn timer_slack(mut self, slack: Duration) -> Self {
        self.pace.slack = slack;
        self
    }

    /// How wrong the rates of the agents' clocks are at most, in parts per million.
    pub fn clock_rates(mut self, ppm_max: u32) -> Self {
        self.setup.ppm_max = u64::from(ppm_max);
        self
    }

    /// Does this so long after the script began.
    pub fn at(mut self, after: Duration, fault: Fault) -> Self {
        self.schedule.push((after, fault));
        self
    }

    /// Which faults come by themselves, beside those of [`at`](Self::at) and of the script. Agents that stop are then
    /// started again, as by a service manager, and after the [span](Self::span) everything is mended.
    pub fn faults(mut self, faults: Faults) -> Self {
        if faults.moves_members() && !self.spares_said {
            self.setup.spares = SPARES;
        }
        self.faults = Some(faults);
        self
    }

    /// For how long faults come.
    pub fn span(mut self, span: Duration) -> Self {
        self.span = span;
        self
    }

    /// Plants a bug in the product, to see that it is found.
    pub fn flaw(mut self, flaw: Flaw) -> Self {
        self.flaw = Some(flaw);
        self
    }

    /// What uses the cluster while all this happens: a script, as for [`run`](Self::run), that is to come to its end, at
    /// the latest when everything is mended ([`Sim::mended`]). [`workload::leases`](super::workload::leases) is one that
    /// tries everything that can be done with leases.
    ///
    /// What comes of it is [checked](Trial::check).
    pub fn workload<F, Fut>(mut self, script: F) -> Trial<F, Fut::Output>
    where
        F: FnOnce(Sim) -> Fut,
        Fut: Future,
    {
        self.faults.get_or_insert_with(Faults::none);
        Trial::new(self, script)
    }

    /// The seed that was set.
    pub(crate) fn seed_set(&self) -> u64 {
        self.seed
    }

    /// What the faults' schedule is made of: which, how many agents, how long.
    pub(crate) fn faults_set(&self) -> (Option<Faults>, usize, Duration) {
        let fixed = |faults: Faults| if self.setup.fixed { faults.with_fixed_membership() } else { faults };
        (self.faults.clone().map(fixed), self.setup.agents, self.span)
    }

    /// No agent runs when the script begins: [`Fault::Restart`] starts one.
    pub fn unfounded(mut self) -> Self {
        self.founded = false;
        self
    }
}
