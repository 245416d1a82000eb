//! A run: agents that are founded, a script that uses and disturbs them, and what came of it.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::{
    builder::SimBuilder,
    director,
    history::History,
    kernel::{Chance, Kernel, OUTSIDE, Power, Stream, Stuck},
    recorder::Recorder,
    trace::{Event, Trace, Tracer},
    world::{Fault, Fleet, Points, machine},
};
use crate::{
    Agent, Lease, Mode, Moment, clock, fault_point, flaw,
    id::NodeId,
    runtime::{self, watch, world},
};

/// How long agents may take to found their cluster.
const FOUNDED_WITHIN: Duration = Duration::from_secs(60);
/// Between a client's end and its next life.
const BREATH: Duration = Duration::from_millis(200);
/// A simulated cluster, to the script of its run. Clones are the same one.
///
/// Everything that a script awaits must be of this simulation: agents and leases, [`sleep`](Self::sleep),
/// [`on`](Self::on), and what knows no time, such as `tokio::sync`'s channels. A timer or a task of tokio's panics, or
/// waits for ever.
///
/// ```
/// use leasehold::chaos::{Fault, Sim};
/// use std::time::Duration;
///
/// let report = Sim::builder().seed(7).agents(3).run(|sim| async move {
///     let lease = sim.up(0).await.acquire("orders.db").await.unwrap();
///     sim.fault(Fault::Isolate(0));
///     lease.lost().await;
///     sim.fault(Fault::Rejoin(0));
///     sim.up(1).await.acquire("orders.db").await.unwrap().token() > lease.token()
/// });
/// assert!(report.unwrap().value);
/// ```
#[derive(Clone)]
pub struct Sim {
    shared: Rc<Shared>,
}

struct Shared {
    kernel: Kernel,
    tracer: Tracer,
    recorder: Recorder,
    fleet: Fleet,
    seed: u64,
    workload: RefCell<Stream>,
    /// Whether the time of the faults is over.
    mended: watch::Sender<bool>,
}

/// What came of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report<T> {
    /// The run's seed.
    pub seed: u64,
    /// What the script returned.
    pub value: T,
    /// What happened. Its hash is the same for each run with this seed.
    pub trace: Trace,
    /// What it was like, for checkers.
    pub history: Box<History>,
    /// How long the run was, in simulated time.
    pub simulated: Duration,
    /// How often a task was polled.
    pub polls: u64,
}

/// Why a run came to nothing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SimError {
    /// The run's seed.
    pub seed: u64,
    /// Why.
    pub kind: SimErrorKind,
    /// What happened until then.
    pub trace: Trace,
    /// What it was like until then.
    pub history: Box<History>,
}

/// See [`SimError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SimErrorKind {
    /// Tasks panicked, of the agents' or of [`Sim::on`].
    #[error("a task panicked: {}", .0.join("; "))]
    Panicked(
        /// The machine and the text of each.
        Vec<String>,
    ),
    /// It could not go on, or did not end.
    #[error("it got stuck: {0}")]
    Stuck(
        /// How.
        String,
    ),
    /// The agents did not found a cluster.
    #[error("the agents founded no cluster within {FOUNDED_WITHIN:?}: {0}")]
    NotFounded(
        /// What is known of it.
        String,
    ),
}

impl fmt::Display for SimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.kind)
    }
}

impl std::error::Error for SimError {}

impl SimBuilder {
    /// Runs the script on the cluster, once that is founded, until it is done. Takes no simulated time but what the
    /// script and the agents wait for, and no real one but the processor's.
    ///
    /// # Errors
    /// [`SimError`] where agents panicked, or the run came to no end. A panic of the script itself goes on.
    pub fn run<F, Fut, T>(self, script: F) -> Result<Report<T>, SimError>
    where
        F: FnOnce(Sim) -> Fut,
        Fut: Future<Output = T>,
    {
        let faults = self.faults_set().0;
        let Self { seed, mut setup, pace, schedule, founded, span, flaw, .. } = self;
        if setup.fixed {
            setup.spares = 0;
        }
        let _planted = flaw::plant(flaw);
        let kernel = Kernel::new(seed, pace);
        let _entered = kernel.enter();
        let tracer = Tracer::new(kernel.clocks());
        let voters_max = (!setup.fixed).then_some(setup.voters_max);
        let recorder = Recorder::new(&tracer, setup.agents + setup.spares, setup.agents, voters_max);
        let sim = Sim {
            shared: Rc::new(Shared {
                fleet: Fleet::new(seed, &kernel, (&tracer, &recorder), setup),
                kernel: kernel.clone(),
                tracer: tracer.clone(),
                recorder: recorder.clone(),
                seed,
                workload: RefCell::new(Stream::of(seed, Chance::Workload)),
                mended: watch::Sender::new(false),
            }),
        };
        let _guarded = fault_point::guard(sim.shared.fleet.points().watch());
        let run = || {
            if founded {
                sim.found()?;
            }
            if let Some(faults) = faults {
                recorder.write(|history| history.drift_bounded = faults.keep_the_drift_bound());
                let (ours, episodes) = (sim.clone(), faults.whole().schedule(seed, sim.founders(), span));
                sim.outside(async move {
                    director::direct(&ours, episodes, &faults, span).await;
                    ours.recorder().write(|history| history.mended = Some(ours.now()));
                    ours.shared.mended.send_replace(true);
                });
            }
            for (after, fault) in schedule {
                let sim = sim.clone();
                kernel.spawn(kernel.place(0), async move {
                    runtime::sleep(after).await;
                    sim.fault(fault);
                });
            }
            kernel.run(script(sim.clone())).map_err(SimErrorKind::from)
        };
        // Whatever the script does, what it began is ended while the simulation is still there.
        let ran = catch_unwind(AssertUnwindSafe(run));
        let (pulse, polls, simulated) = (kernel.pulse(), kernel.polls(), tracer.now());
        let trace = tracer.finish(pulse);
        let panics = kernel.panics();
        recorder.write(|history| history.points_passed = sim.shared.fleet.points().passed());
        let history = Box::new(recorder.finish());
        sim.shared.fleet.end_all();
        kernel.end();
        let ran = ran.unwrap_or_else(|payload| {
            tracing::error!(seed, "the script panicked");
            resume_unwind(payload)
        });
        match ran {
            _ if !panics.is_empty() => {
                Err(SimError { seed, kind: SimErrorKind::Panicked(panics), trace, history })
            }
            Ok(value) => Ok(Report { seed, value, trace, history, simulated, polls }),
            Err(kind) => Err(SimError { seed, kind, trace, history }),
        }
    }
}

impl From<Stuck> for SimErrorKind {
    fn from(stuck: Stuck) -> Self {
        Self::Stuck(stuck.to_string())
    }
}

impl Sim {
    /// A run, to be set up.
    pub fn builder() -> SimBuilder {
        SimBuilder::new()
    }

    /// Starts all agents and waits until they serve.
    fn found(&self) -> Result<(), SimErrorKind> {
        let fleet = &self.shared.fleet;
        (0..fleet.founders()).for_each(|agent| fleet.start(agent));
        let all_up = async {
            for agent in 0..fleet.founders() {
                fleet.up(agent).await;
            }
        };
        if self.shared.kernel.run(runtime::timeout(FOUNDED_WITHIN, all_up))?.is_ok() {
            return Ok(());
        }
        let of = |agent| fleet.start_error(agent).map(|error| format!("agent {agent}: {error}"));
        let errors: Vec<String> = (0..fleet.count()).filter_map(of).collect();
        Err(SimErrorKind::NotFounded(errors.join("; ")))
    }

    /// How many agents there are; they are numbered from 0. Those that found the cluster come first, and behind them the
    /// [spares](SimBuilder::spares).
    #[must_use]
    pub fn agents(&self) -> usize {
        self.shared.fleet.count()
    }

    /// How many agents found the cluster.
    #[must_use]
    pub fn founders(&self) -> usize {
        self.shared.fleet.founders()
    }

    /// The agent, if it serves.
    #[must_use]
    pub fn agent(&self, agent: usize) -> Option<Agent> {
        self.shared.fleet.agent(agent)
    }

    /// The agent, as soon as it serves. Cancel-safe.
    pub async fn up(&self, agent: usize) -> Agent {
        self.shared.fleet.up(agent).await
    }

    /// Why the agent did not start when it was started last; nothing while it starts, and when it has.
    #[must_use]
    pub fn start_error(&self, agent: usize) -> Option<String> {
        self.shared.fleet.start_error(agent)
    }

    /// From its next start on the agent is told that these agents, itself among them, found the cluster: in the place of all
    /// that do.
    pub fn tell_founders(&self, agent: usize, founders: impl IntoIterator<Item = usize>) {
        self.shared.fleet.tell_founders(agent, founders.into_iter().collect());
    }

    /// Resolves when the time of the [faults](SimBuilder::faults) is over and everything is mended. Cancel-safe.
    pub async fn mended(&self) {
        let mut mended = self.shared.mended.subscribe();
        // The sender lives as long as `self`.
        let _ = mended.wait_for(|mended| *mended).await;
    }

    /// Somebody beside this agent was handed this lease: from now on it is looked whether it believes in it, for the
    /// checkers. Returns a number for [`told`](Self::told).
    pub fn believes(&self, agent: usize, lease: &Arc<Lease>, mode: Mode) -> usize {
        self.note(format!("agent {agent} has {} with {}", lease.name(), lease.token()));
        self.shared.recorder.believes(agent, lease, mode)
    }

    /// A holder was told why a lease in which it [believed](Self::believes) is over.
    pub fn told(&self, belief: usize, reason: crate::LossReason) {
        self.shared.recorder.told(belief, reason);
    }

    /// A holder gives a lease in which it [believed](Self::believes) up by will: releases it, hands it over or drops it. To be
    /// said before it does.
    pub fn gives_up(&self, belief: usize) {
        self.shared.recorder.gives_up(belief);
    }

    pub(crate) fn points(&self) -> &Points {
        self.shared.fleet.points()
    }

    /// The voters, if this agent leads, and knows them for certain.
    pub(crate) fn settled_voters(&self, agent: usize) -> Option<BTreeSet<NodeId>> {
        let handle = self.agent(agent)?;
        let runs = self.shared.kernel.power(machine(agent)) == Power::On;
        runs.then(|| self.shared.kernel.as_seen_from(machine(agent), || handle.settled_voters())).flatten()
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.shared.fleet
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    /// Starts a task in the world outside of all machines.
    pub(crate) fn outside(&self, task: impl Future<Output = ()> + 'static) {
        self.shared.kernel.spawn(OUTSIDE, task);
    }

    /// Whether the agent's process is there, running or standing still.
    pub(crate) fn has_process(&self, agent: usize) -> bool {
        self.shared.fleet.has_process(agent)
    }

    /// Whether the agent's process is there, and neither serves nor has given up.
    #[must_use]
    pub fn is_starting(&self, agent: usize) -> bool {
        self.has_process(agent) && self.agent(agent).is_none() && self.start_error(agent).is_none()
    }

    /// How often the agent was started.
    #[must_use]
    pub fn lives(&self, agent: usize) -> u32 {
        self.shared.fleet.lives(agent)
    }

    /// Does something to the world, now.
    pub fn fault(&self, fault: Fault) {
        self.shared.fleet.fault(&fault);
    }

    /// Runs a client beside an agent, in its process: it stands still when the agent does, goes by its clock, and is
    /// dropped when it ends. Where there is no process it is dropped at once.
    pub fn on<F>(&self, agent: usize, client: F) -> Job<F::Output>
    where
        F: Future + 'static,
    {
        let (tell, told) = oneshot::channel();
        let place = self.shared.kernel.place(machine(agent));
        self.shared.kernel.spawn(place, async move {
            if let Ok(output) = world::guarded(client).await {
                let _ = tell.send(output);
            }
        });
        Job(told)
    }

    /// Runs a client beside an agent in each of its lives, as [`on`](Self::on) does in the present one: again where the
    /// process has ended, or the client has, until the time of the [faults](SimBuilder::faults) is over. Then it is dropped.
    pub fn in_each_life<F, Fut>(&self, agent: usize, client: F)
    where
        F: Fn(Agent) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let sim = self.clone();
        self.outside(async move {
            let lives = async {
                loop {
                    let client = client(sim.up(agent).await);
                    let ours = sim.clone();
                    // What tells of its end is that it has ended, however.
                    let _ = sim.on(agent, async move { runtime::select2(ours.mended(), client).await }).await;
                    sim.sleep(BREATH).await;
                }
            };
            runtime::select2(sim.mended(), lives).await;
        });
    }

    /// Waits; beside an agent, by its clock, elsewhere by the true time. Cancel-safe.
    pub async fn sleep(&self, span: Duration) {
        runtime::sleep(span).await;
    }

    /// The true time since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.tracer.now()
    }

    /// What the agent's clock for leases shows.
    #[must_use]
    pub fn clock(&self, agent: usize) -> Moment {
        self.shared.kernel.clocks().leases(machine(agent))
    }

    /// The wall clock where this is asked, in milliseconds since 1970.
    #[must_use]
    pub fn wall_unix_ms(&self) -> u64 {
        clock::wall_unix_ms()
    }

    /// The run's seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// A random number below this one, of the stream for workloads; 0 if there is none.
    #[must_use]
    pub fn random_below(&self, end: u64) -> u64 {
        self.shared.workload.borrow_mut().below(end)
    }

    /// A random span between the two, of the stream for workloads.
    #[must_use]
    pub fn random_span(&self, least: Duration, most: Duration) -> Duration {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.shared.workload.borrow_mut().between(nanos(least), nanos(most)))
    }

    /// Writes something into the trace, and with that into its hash.
    pub fn note(&self, text: impl Into<String>) {
        self.shared.tracer.note(Event::Note(text.into()));
    }

    /// What has happened so far.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.shared.tracer.trace(self.shared.kernel.pulse())
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("seed", &self.shared.seed)
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

/// A client that runs beside an agent. Dropping it leaves the client running.
#[derive(Debug)]
#[must_use = "it tells what became of the client"]
pub struct Job<T>(oneshot::Receiver<T>);

/// The client ended with its agent's process, or panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client ended with its agent's process")]
pub struct JobEnded;

impl<T> Future for Job<T> {
    type Output = Result<T, JobEnded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx).map_err(|_| JobEnded)
    }
}
