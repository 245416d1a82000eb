//! The agents and their machines: starting them, through the agent's own builder, and doing things to them.
//!
//! Agent `n` lives on the kernel's machine `n + 1`; machine 0 is the world outside.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    disk::{Disk, DiskPace},
    fault::Fault,
    network::{Death, Network},
    points::{PointEffect, Points},
    site::{Ear, SimSite},
    weather::Weather,
};
use crate::{
    Agent, Timing,
    chaos::{
        kernel::{Chance, Kernel, NodeClock, Power, Stream},
        recorder::Recorder,
        trace::{Event, Tracer},
    },
    id::NodeId,
    raft::Compaction,
    time::Moment,
};

/// How a fleet is made.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// How many found the cluster.
    pub(crate) agents: usize,
    /// How many machines there are beside theirs, for agents that join.
    pub(crate) spares: usize,
    /// Whether the membership stays as it was founded.
    pub(crate) fixed: bool,
    /// How many members vote at most.
    pub(crate) voters_max: usize,
    pub(crate) timing: Timing,
    pub(crate) weather: Weather,
    pub(crate) disk: DiskPace,
    pub(crate) compaction: Compaction,
    /// No clock is off by more than this rate, in the beginning.
    pub(crate) ppm_max: u64,
}

/// One agent's place: what is there at the moment.
#[derive(Default)]
struct Seat {
    agent: Option<Agent>,
    /// Why it did not start.
    error: Option<String>,
    lives: u32,
    /// Whether it is told whom to join, and not who founds the cluster.
    joins: bool,
    observer: bool,
    /// The founders that it is told of, where these are others than all.
    list: Option<Vec<usize>>,
}

struct Shared {
    kernel: Kernel,
    tracer: Tracer,
    recorder: Recorder,
    setup: Setup,
    network: Network,
    disks: Vec<Disk>,
    seats: RefCell<Vec<Seat>>,
    chance: RefCell<Stream>,
    /// Told when a seat changes.
    news: Notify,
    points: Points,
    /// Members whose disks are gone.
    lost: RefCell<BTreeSet<NodeId>>,
}

/// A voter that is silent for so many of the longest election timeouts is replaced, and an observer is forgotten after
/// twice that. About as short as may be: so both happen within a simulated minute.
const DEAD_ELECTIONS: u32 = 11;
/// Who joins is told of all founders, and of so many others.
const TOLD_OF: usize = 2;

/// See the file's head. Clones are the same fleet.
#[derive(Clone)]
pub(crate) struct Fleet(Rc<Shared>);

/// The kernel's machine of an agent.
pub(crate) const fn machine(agent: usize) -> usize {
    agent + 1
}

fn address(agent: usize) -> String {
    format!("agent-{agent}:7101")
}

impl Fleet {
    /// Machines with empty disks, on which nothing runs.
    pub(crate) fn new(
        seed: u64,
        kernel: &Kernel,
        (tracer, recorder): (&Tracer, &Recorder),
        setup: Setup,
    ) -> Self {
        let network = Network::new(seed, setup.weather.clone(), tracer.clone());
        let mut chance = Stream::of(seed, Chance::Faults);
        let disks = (0..setup.agents + setup.spares)
            .map(|agent| {
                network.assign(&address(agent), agent);
                let machine = kernel.add_machine();
                kernel.kill(machine);
                let clocks = kernel.clocks();
                clocks.reboot(machine, uptime(&mut chance));
                let spread = i64::try_from(setup.ppm_max).unwrap_or(0);
                clocks.set_rate(machine, chance.between(0, 2 * setup.ppm_max) as i64 - spread);
                // As far as machines are apart that ask a time server now and then.
                clocks.set_wall(machine, chance.between(0, 200) as i64 - 100);
                Disk::new(seed, agent, setup.disk.clone(), tracer.clone())
            })
            .collect();
        Self(Rc::new_cyclic(|fleet: &Weak<Shared>| Shared {
            kernel: kernel.clone(),
            points: Points::new(seed, kernel, (tracer, recorder), ends(fleet.clone())),
            tracer: tracer.clone(),
            recorder: recorder.clone(),
            seats: RefCell::new(
                (0..setup.agents + setup.spares)
                    .map(|agent| Seat { joins: agent >= setup.agents, ..Seat::default() })
                    .collect(),
            ),
            lost: RefCell::default(),
            setup,
            network,
            disks,
            chance: RefCell::new(chance),
            news: Notify::new(),
        }))
    }

    /// How many agents there are.
    pub(crate) fn count(&self) -> usize {
        self.0.disks.len()
    }

    /// How many of them found the cluster; those behind them join it.
    pub(crate) fn founders(&self) -> usize {
        self.0.setup.agents
    }

    /// From its next start on the agent is told that these found the cluster.
    pub(crate) fn tell_founders(&self, agent: usize, founders: Vec<usize>) {
        if let Some(seat) = self.0.seats.borrow_mut().get_mut(agent) {
            (seat.joins, seat.list) = (false, Some(founders));
        }
    }

    /// How many members vote at most; nothing where the membership stays as it was founded.
    pub(crate) fn voters_max(&self) -> Option<usize> {
        (!self.0.setup.fixed).then_some(self.0.setup.voters_max)
    }

    /// The member that the agent's disk belongs to, if it was used.
    pub(crate) fn node(&self, agent: usize) -> Option<NodeId> {
        self.0.disks.get(agent)?.node()
    }

    /// Whether the agent is willing to vote.
    pub(crate) fn may_vote(&self, agent: usize) -> bool {
        self.0.seats.borrow().get(agent).is_some_and(|seat| !seat.observer)
    }

    /// Members whose disks are gone.
    pub(crate) fn lost(&self) -> BTreeSet<NodeId> {
        self.0.lost.borrow().clone()
    }

    /// How many founders beside this agent have a disk that belongs to a cluster.
    pub(crate) fn founded_beside(&self, agent: usize) -> usize {
        let founders = self.0.disks.iter().take(self.founders()).enumerate();
        founders.filter(|(other, disk)| *other != agent && disk.is_of_a_cluster()).count()
    }

    /// The agent, if it serves.
    pub(crate) fn agent(&self, agent: usize) -> Option<Agent> {
        self.0.seats.borrow().get(agent)?.agent.clone()
    }

    /// Why the agent did not start, if it didn't.
    pub(crate) fn start_error(&self, agent: usize) -> Option<String> {
        self.0.seats.borrow().get(agent)?.error.clone()
    }

    /// The agent, once it serves.
    pub(crate) async fn up(&self, agent: usize) -> Agent {
        loop {
            let news = self.0.news.notified();
            if let Some(agent) = self.agent(agent) {
                return agent;
            }
            news.await;
        }
    }

    /// Whether the agent's process is there, running or standing still.
    pub(crate) fn has_process(&self, agent: usize) -> bool {
        self.0.kernel.power(machine(agent)) != Power::Off
    }

    /// How often the agent was started.
    pub(crate) fn lives(&self, agent: usize) -> u32 {
        self.0.seats.borrow().get(agent).map_or(0, |seat| seat.lives)
    }

    /// Does something to the world, now.
    pub(crate) fn fault(&self, fault: &Fault) {
        self.0.tracer.note(Event::Fault(fault.to_string()));
        if fault.agents().iter().any(|agent| *agent >= self.count()) {
            return;
        }
        let Shared { kernel, network, disks, points, .. } = &*self.0;
        let clocks = kernel.clocks();
        let nanos = |span: &Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        match fault {
            Fault::Crash(agent) => self.end(*agent, Death::Reset),
            Fault::PowerLoss(agent) => {
                self.end(*agent, Death::Silent);
                disks[*agent].cut_power();
            }
            Fault::Restart(agent) => self.start(*agent),
            Fault::Pause(agent) => kernel.pause(machine(*agent)),
            Fault::Suspend(agent) => kernel.suspend(machine(*agent)),
            Fault::Resume(agent) => kernel.resume(machine(*agent)),
            Fault::Cut { from, to } => network.change(|skies| skies.cut(*from, *to)),
            Fault::Heal { from, to } => network.change(|skies| skies.heal(*from, *to)),
            Fault::Isolate(agent) => network.change(|skies| skies.isolate(*agent)),
            Fault::Rejoin(agent) => network.change(|skies| skies.rejoin(*agent)),
            Fault::HealAll => network.change(|skies| skies.heal_all()),
            Fault::Weather(weather) => network.change(|skies| skies.set_general(weather.clone())),
            Fault::WeatherBetween { from, to, weather } => {
                network.change(|skies| skies.set(*from, *to, weather.clone()));
            }
            Fault::ClockRate { agent, ppm } => clocks.set_rate(machine(*agent), *ppm),
            Fault::ClockForth { agent, by } => clocks.jump(machine(*agent), nanos(by)),
            Fault::ClockBack { agent, by } => clocks.jump(machine(*agent), -nanos(by)),
            Fault::WallClock { agent, wrong_ms } => clocks.set_wall(machine(*agent), *wrong_ms),
            Fault::Disk { agent, fault } => disks[*agent].fault(*fault),
            Fault::ArmPoints(faults) => points.arm(Some(*faults)),
            Fault::DisarmPoints => points.arm(None),
            Fault::Wipe { agent, joins } => {
                self.end(*agent, Death::Silent);
                self.0.lost.borrow_mut().extend(disks[*agent].node());
                disks[*agent].wipe();
                if let Some(seat) = self.0.seats.borrow_mut().get_mut(*agent) {
                    seat.joins = *joins || *agent >= self.founders();
                }
            }
            Fault::Join { agent, observer } if self.lives(*agent) == 0 && *agent >= self.founders() => {
                if let Some(seat) = self.0.seats.borrow_mut().get_mut(*agent) {
                    seat.observer = *observer;
                }
                self.start(*agent);
            }
            Fault::Join { .. } => {}
        }
    }

    /// What comes of passing fault points.
    pub(crate) fn points(&self) -> &Points {
        &self.0.points
    }

    /// Ends an agent's process, and its machine with it if that has no power.
    fn end(&self, agent: usize, death: Death) {
        let remains = self.0.network.unplug(&address(agent), death);
        self.0.recorder.died(agent);
        // First the tasks, then what they shared: its destructors find a machine on which nothing can be started.
        self.0.kernel.kill(machine(agent));
        let old = self.0.seats.borrow_mut().get_mut(agent).map(|seat| seat.agent.take());
        drop(old);
        drop(remains);
        if death == Death::Silent {
            let reading = uptime(&mut self.0.chance.borrow_mut());
            self.0.kernel.clocks().reboot(machine(agent), reading);
        }
    }

    /// Starts an agent on its disk.
    pub(crate) fn start(&self, agent: usize) {
        let Shared { kernel, tracer, recorder, network, setup, .. } = &*self.0;
        if kernel.power(machine(agent)) != Power::Off {
            self.end(agent, Death::Reset);
        }
        network.power_up(&address(agent));
        kernel.revive(machine(agent));
        let disk = self.0.disks[agent].clone();
        let (life, joins, observer, list) = {
            let mut seats = self.0.seats.borrow_mut();
            let Some(seat) = seats.get_mut(agent) else { return };
            seat.lives += 1;
            seat.error = None;
            (seat.lives, seat.joins, seat.observer, seat.list.clone())
        };
        recorder.born(agent);
        tracer.note(Event::Started { agent, life });
        let (network, recorder, compaction) = (network.clone(), recorder.clone(), setup.compaction);
        let ear = Ear { agent, life, tracer: tracer.clone(), recorder: recorder.clone() };
        let site = SimSite { agent, network, disk, compaction, recorder };
        let clock = NodeClock { clocks: kernel.clocks().clone(), node: machine(agent) };
        let dead_after = setup.timing.election_timeout_max * DEAD_ELECTIONS;
        let builder = Agent::builder(format!("agent-{agent}"))
            .listen(address(agent))
            .timing(setup.timing)
            .voters_max(setup.voters_max)
            .dead_after(dead_after)
            .forget_after(dead_after * 2)
            .clock(Arc::new(clock))
            .onlooker(Arc::new(ear))
            .site(Arc::new(site));
        let builder = match joins {
            false => {
                let founders = list.unwrap_or_else(|| (0..setup.agents).collect());
                builder.founders(founders.into_iter().map(address))
            }
            true => {
                let others = (0..self.count().min(setup.agents + TOLD_OF)).filter(|other| *other != agent);
                builder.join(others.map(address)).observer(observer)
            }
        };
        let builder = if setup.fixed { builder.danger_fixed_membership() } else { builder };
        let fleet = self.clone();
        kernel.spawn_guarded(kernel.place(machine(agent)), async move {
            let started = builder.start().await;
            fleet.started(agent, started.map_err(|error| error.to_string()));
        });
    }

    fn started(&self, agent: usize, started: Result<Agent, String>) {
        if started.is_ok() {
            self.0.recorder.serves(agent);
        }
        self.0.tracer.note(match &started {
            Ok(_) => Event::Ready { agent },
            Err(error) => Event::NotStarted { agent, error: error.clone() },
        });
        if let Some(seat) = self.0.seats.borrow_mut().get_mut(agent) {
            match started {
                Ok(agent) => seat.agent = Some(agent),
                Err(error) => seat.error = Some(error),
            }
        }
        self.0.news.notify_waiters();
    }

    /// Lets go of all agents, at the end.
    pub(crate) fn end_all(&self) {
        for agent in 0..self.count() {
            self.end(agent, Death::Silent);
        }
    }
}

/// How the fleet ends an agent that passed a fault point.
fn ends(fleet: Weak<Shared>) -> impl Fn(usize, PointEffect) {
    move |agent, effect| {
        let Some(fleet) = fleet.upgrade().map(Fleet) else { return };
        match effect {
            PointEffect::Crash => fleet.fault(&Fault::Crash(agent)),
            PointEffect::PowerLoss => fleet.fault(&Fault::PowerLoss(agent)),
            PointEffect::Stall(_) => {}
        }
    }
}

/// What a machine's clocks show that was switched on a while ago.
fn uptime(chance: &mut Stream) -> Moment {
    Moment::from_nanos(chance.between(100, 1_000_000) * 1_000_000_000)
}
