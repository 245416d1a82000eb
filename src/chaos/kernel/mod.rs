//! The kernel: a single-threaded executor whose time is simulated and whose schedule comes from a seed.
//!
//! # Why an executor of our own
//!
//! Two ways were open: tokio's current-thread runtime with paused time, every task wrapped; or this. What the product
//! awaits comes from `runtime.rs`, or from `tokio::sync`, which needs no runtime; so nothing of tokio's scheduler is
//! needed, and each part of it that is there has to be kept from disturbing: its budget of polls, its batches of events,
//! its slot for the task that was woken last, its timers of one millisecond, its global queue. Here a run is a function
//! of the seed because there is nothing else: one thread, one list of tasks that may run, one stream of dice. A machine
//! dies at once, with all its tasks, and not at their next poll. It is also the faster way, and some 400 lines.
//!
//! # What replays, and why
//!
//! - *Order.* Tasks enter the list in the order of their wakes. The next one is the first, or, with a probability that
//!   the run is given, any of them, by the schedule's dice ([`Chance::Schedule`]).
//! - *Time* stands still while anything can run, and then moves to the next alarm of any machine.
//! - *Whose.* Each task belongs to a [`Place`], one life of one machine, and what it spawns belongs there too. Machine 0
//!   is the world outside: messages under way, the script of the run. Its clock is true.
//! - *Ends.* A machine that dies has its tasks dropped, the oldest first. What their destructors spawn is dropped too.
//! - *Nothing else.* No thread, no clock, no randomness of the system's: `clippy.toml` and `tests/tidy/words.rs` ban
//!   them, [`world`](crate::runtime::world) catches the seam. tokio's budget of polls is switched off, so that a run is
//!   the same inside of a tokio runtime and outside of one.
//!
//! [`Kernel::pulse`] digests every poll, task by task: two runs that differ anywhere differ there first.
//!
//! This floor knows nothing of networks, disks and agents: those are in `world/`.

mod clocks;
mod streams;
mod tasks;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::task::coop::unconstrained;

use self::tasks::{Bell, Job, Machine, TaskId, Tasks, Woken};
pub(crate) use self::{
    clocks::{BEGINNING, Clocks, NodeClock},
    streams::{Chance, Share, Stream},
    tasks::Power,
};
use crate::{
    runtime::world::{self, Alarm, Entered, Place, World},
    time::Moment,
};

/// The world outside of all machines.
pub(crate) const OUTSIDE: Place = Place { node: 0, life: 0 };
/// Without a moment passing no sound run polls so often.
const POLLS_IN_A_MOMENT_MAX: u64 = 2_000_000;

/// How tasks are chosen and timers kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// How often the next task is any of those that may run, and not the first of them.
    pub(crate) shuffle: Share,
    /// How late a timer may be.
    pub(crate) slack: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        // tokio's timers go by whole milliseconds.
        Self { shuffle: Share::of(0.25), slack: Duration::from_millis(1) }
    }
}

/// Why a run ended before its future was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stuck {
    /// Nobody can run, and nobody will wake.
    #[error("every task waits, and no timer is set")]
    Deadlock,
    /// Tasks wake each other for ever.
    #[error("{POLLS_IN_A_MOMENT_MAX} polls, and no time has passed")]
    Livelock,
    /// It runs already.
    #[error("it was started from within itself")]
    Nested,
}

struct State {
    tasks: Tasks,
    ready: VecDeque<TaskId>,
    machines: Vec<Machine>,
    here: Place,
    seed: u64,
    pace: Pace,
    schedule: Stream,
    alarms: u64,
    polls: u64,
    pulse: u64,
    panics: Vec<String>,
    running: bool,
}

struct Core {
    clocks: Arc<Clocks>,
    woken: Arc<Woken>,
    state: RefCell<State>,
    /// See [`Kernel::afterwards`].
    afterwards: RefCell<Option<Box<dyn FnOnce()>>>,
}

/// A simulation's kernel. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Kernel(Rc<Core>);

impl Kernel {
    /// A kernel without machines but for the world outside.
    pub(crate) fn new(seed: u64, pace: Pace) -> Self {
        let kernel = Self(Rc::new(Core {
            clocks: Clocks::new(),
            woken: Arc::default(),
            state: RefCell::new(State {
                tasks: Tasks::default(),
                ready: VecDeque::new(),
                machines: Vec::new(),
                here: OUTSIDE,
                seed,
                pace,
                schedule: Stream::of(seed, Chance::Schedule),
                alarms: 0,
                polls: 0,
                pulse: 0,
                panics: Vec::new(),
                running: false,
            }),
            afterwards: RefCell::default(),
        }));
        kernel.add_machine();
        kernel
    }

    /// Puts this thread into the simulation, until the guard is dropped.
    pub(crate) fn enter(&self) -> Entered {
        world::enter(self.0.clone())
    }

    /// All clocks.
    pub(crate) fn clocks(&self) -> &Arc<Clocks> {
        &self.0.clocks
    }

    /// Another machine, which is on. Returns its number.
    pub(crate) fn add_machine(&self) -> usize {
        let mut state = self.0.state.borrow_mut();
        let (seed, node) = (state.seed, state.machines.len());
        state.machines.push(Machine::new(seed, node));
        self.0.clocks.add();
        node
    }

    /// The present life of a machine.
    pub(crate) fn place(&self, node: usize) -> Place {
        let life = self.0.state.borrow().machines.get(node).map_or(0, |machine| machine.life);
        Place { node, life }
    }

    /// Looks at something from where this machine stands, by its clocks.
    pub(crate) fn as_seen_from<T>(&self, node: usize, look: impl FnOnce() -> T) -> T {
        let place = self.place(node);
        let before = std::mem::replace(&mut self.0.state.borrow_mut().here, place);
        let seen = look();
        self.0.state.borrow_mut().here = before;
        seen
    }

    /// Where the task that runs now belongs.
    pub(crate) fn here(&self) -> Place {
        self.0.state.borrow().here
    }

    /// Does this as soon as the task that runs now waits, before any other runs; it belongs to the world outside. Of two
    /// for one task the later counts.
    pub(crate) fn afterwards(&self, job: impl FnOnce() + 'static) {
        *self.0.afterwards.borrow_mut() = Some(Box::new(job));
    }

    /// What a machine does.
    pub(crate) fn power(&self, node: usize) -> Power {
        self.0.state.borrow().machines.get(node).map_or(Power::Off, |machine| machine.power)
    }

    /// Starts a task at a place. It may own what can't leave the thread.
    pub(crate) fn spawn(&self, place: Place, job: impl Future<Output = ()> + 'static) {
        self.0.spawn(place, Box::pin(unconstrained(job)));
    }

    /// Starts a task at a place; should it panic, that is told of and ends it, as with every task of the product.
    pub(crate) fn spawn_guarded(&self, place: Place, job: impl Future<Output = ()> + 'static) {
        self.spawn(place, world::guarded(job).map(drop));
    }

    /// Ends all tasks of a machine at once; nothing of them is polled again, also of the one that calls this.
    pub(crate) fn kill(&self, node: usize) {
        self.0.kill(node);
    }

    /// Switches a machine that is off on again, without tasks.
    pub(crate) fn revive(&self, node: usize) {
        if self.power(node) == Power::Off {
            self.0.set_power(node, Power::On);
        }
    }

    /// Stops a machine that is on, until [`resume`](Self::resume).
    pub(crate) fn pause(&self, node: usize) {
        if self.power(node) == Power::On {
            self.0.set_power(node, Power::Paused);
        }
    }

    /// Suspends a machine that is on, until [`resume`](Self::resume).
    pub(crate) fn suspend(&self, node: usize) {
        if self.power(node) == Power::On {
            self.0.clocks.suspend(node, true);
            self.0.set_power(node, Power::Suspended);
        }
    }

    /// Lets a machine go on that was paused or suspended.
    pub(crate) fn resume(&self, node: usize) {
        if matches!(self.power(node), Power::Paused | Power::Suspended) {
            self.0.clocks.suspend(node, false);
            self.0.set_power(node, Power::On);
        }
    }

    /// A digest of every poll so far.
    pub(crate) fn pulse(&self) -> u64 {
        self.0.state.borrow().pulse
    }

    /// How often a task was polled.
    pub(crate) fn polls(&self) -> u64 {
        self.0.state.borrow().polls
    }

    /// The panics of tasks, in their order.
    pub(crate) fn panics(&self) -> Vec<String> {
        self.0.state.borrow().panics.clone()
    }

    /// Runs everything until the future is done. It belongs to the world outside.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> Result<T, Stuck> {
        let mut output = None;
        self.0.run(pin!(async { output = Some(future.await) }))?;
        output.ok_or(Stuck::Deadlock)
    }

    /// Ends all tasks. The simulation is over.
    pub(crate) fn end(&self) {
        let machines = self.0.state.borrow().machines.len();
        // The world outside last: it carries the others' messages.
        for node in (0..machines).rev() {
            self.kill(node);
        }
    }
}

impl Core {
    fn spawn(&self, place: Place, job: Job) {
        let mut state = self.state.borrow_mut();
        match state.machines.get(place.node) {
            Some(machine) if machine.life == place.life && machine.power != Power::Off => {
                let id = state.tasks.add(place, job, &self.woken);
                drop(state);
                self.woken.push(id);
            }
            _ => {
                drop(state);
                drop(job);
            }
        }
    }

    fn kill(&self, node: usize) {
        let (here, gone) = {
            let mut state = self.state.borrow_mut();
            let seed = state.seed;
            let Some(machine) = state.machines.get_mut(node) else { return };
            let dead = Place { node, life: machine.life };
            machine.life += 1;
            machine.power = Power::Off;
            machine.random = Stream::of(seed, Chance::Node(node, machine.life));
            machine.parked.clear();
            let alarms = std::mem::take(&mut machine.alarms);
            let tasks = state.tasks.remove_all(node);
            (std::mem::replace(&mut state.here, dead), (alarms, tasks))
        };
        self.clocks.suspend(node, false);
        // Outside of the borrow: destructors come back here.
        drop(gone);
        self.state.borrow_mut().here = here;
    }

    fn set_power(&self, node: usize, power: Power) {
        let mut state = self.state.borrow_mut();
        let Some(machine) = state.machines.get_mut(node) else { return };
        machine.power = power;
        if power == Power::On {
            let parked = std::mem::take(&mut machine.parked);
            state.ready.extend(parked);
        }
    }

    fn run(&self, mut root: Pin<&mut (dyn Future<Output = ()> + '_)>) -> Result<(), Stuck> {
        if std::mem::replace(&mut self.state.borrow_mut().running, true) {
            return Err(Stuck::Nested);
        }
        let _running = Running(self);
        let bell = Bell::new(TaskId::ROOT, &self.woken);
        let waker = Waker::from(Arc::clone(&bell));
        self.woken.push(TaskId::ROOT);
        let mut root = pin!(unconstrained(root.as_mut()));
        let mut moment = (self.clocks.now(), 0);
        loop {
            match self.next() {
                Some(TaskId::ROOT) => {
                    bell.rest();
                    self.note(0);
                    if root.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                        return Ok(());
                    }
                }
                Some(id) => self.poll(id),
                None if self.advance() => {}
                None => return Err(Stuck::Deadlock),
            }
            let now = self.clocks.now();
            moment = if moment.0 == now { (now, moment.1 + 1) } else { (now, 0) };
            if moment.1 > POLLS_IN_A_MOMENT_MAX {
                return Err(Stuck::Livelock);
            }
        }
    }

    /// Which task runs next.
    fn next(&self) -> Option<TaskId> {
        let mut state = self.state.borrow_mut();
        let State { ready, schedule, pace, .. } = &mut *state;
        self.woken.drain_into(ready);
        // Where there is no choice nothing is rolled.
        if ready.len() > 1 && schedule.happens(pace.shuffle) {
            let any = schedule.below(ready.len() as u64) as usize;
            ready.swap(0, any);
        }
        ready.pop_front()
    }

    /// Digests that a task is polled now.
    fn note(&self, task: u64) {
        let mut state = self.state.borrow_mut();
        let mixed =
            (state.pulse ^ task ^ self.clocks.now().rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state.pulse = mixed ^ (mixed >> 29);
        state.polls += 1;
    }

    fn poll(&self, id: TaskId) {
        let (mut job, waker, before) = {
            let mut state = self.state.borrow_mut();
            let State { tasks, machines, here, .. } = &mut *state;
            // It may be gone since it was woken.
            let Some(task) = tasks.find(id) else { return };
            let Some(machine) = machines.get_mut(task.place.node) else { return };
            if machine.power != Power::On {
                machine.parked.push(id);
                return;
            }
            let Some(job) = task.job.take() else { return };
            task.bell.rest();
            (job, task.waker.clone(), std::mem::replace(here, task.place))
        };
        self.note(id.number);
        let polled = job.as_mut().poll(&mut Context::from_waker(&waker));
        let mut state = self.state.borrow_mut();
        let over = match (polled, state.tasks.find(id)) {
            (Poll::Pending, Some(task)) => {
                task.job = Some(job);
                None
            }
            // Done, or it killed its own machine.
            (_, _) => Some((job, state.tasks.remove(id))),
        };
        drop(state);
        drop(over);
        self.state.borrow_mut().here = before;
        let afterwards = self.afterwards.take();
        if let Some(afterwards) = afterwards {
            afterwards();
        }
    }

    /// Moves the time to the next alarm, and wakes all that are due then. False if there is none.
    fn advance(&self) -> bool {
        let woken = {
            let mut state = self.state.borrow_mut();
            let next = |(node, machine): (usize, &Machine)| match machine.power {
                Power::On => self.clocks.due(node, machine.alarms.first_key_value()?.0.0),
                Power::Paused | Power::Suspended | Power::Off => None,
            };
            let Some(next) = state.machines.iter().enumerate().filter_map(next).min() else { return false };
            self.clocks.advance_to(next);
            let mut woken = Vec::new();
            for (node, machine) in state.machines.iter_mut().enumerate() {
                if machine.power == Power::On {
                    let now = self.clocks.timers(node);
                    let later = machine.alarms.split_off(&(now + Duration::from_nanos(1), 0));
                    woken.extend(std::mem::replace(&mut machine.alarms, later).into_values());
                }
            }
            woken
        };
        woken.into_iter().for_each(Waker::wake);
        true
    }
}

impl World for Core {
    fn place(&self) -> Place {
        self.state.borrow().here
    }

    fn spawn(&self, place: Place, job: world::Job) {
        Core::spawn(self, place, Box::pin(unconstrained(job)));
    }

    fn now(&self) -> Moment {
        self.clocks.timers(self.place().node)
    }

    fn set_alarm(&self, at: Moment, waker: Waker) -> Alarm {
        let mut state = self.state.borrow_mut();
        let node = state.here.node;
        // The world outside keeps its time: a message's delay is not a timer's.
        let slack = if node == OUTSIDE.node { 0 } else { state.pace.slack.as_nanos() as u64 };
        let late = Duration::from_nanos(if slack == 0 { 0 } else { state.schedule.below(slack + 1) });
        state.alarms += 1;
        let alarm = Alarm { node, at: at + late, number: state.alarms };
        if let Some(machine) = state.machines.get_mut(node) {
            machine.alarms.insert((alarm.at, alarm.number), waker);
        }
        alarm
    }

    fn unset(&self, alarm: Alarm) {
        let mut state = self.state.borrow_mut();
        let waker = state
            .machines
            .get_mut(alarm.node)
            .and_then(|machine| machine.alarms.remove(&(alarm.at, alarm.number)));
        drop(state);
        drop(waker);
    }

    fn random(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        let node = state.here.node;
        state.machines.get_mut(node).map_or(0, |machine| machine.random.roll())
    }

    fn wall_unix_ms(&self) -> u64 {
        self.clocks.wall_unix_ms(self.place().node)
    }

    fn panicked(&self, message: &str) {
        let mut state = self.state.borrow_mut();
        let here = state.here.node;
        state.panics.push(format!("machine {here}: {message}"));
    }

    fn block_on(&self, root: Pin<&mut (dyn Future<Output = ()> + '_)>) -> bool {
        self.run(root).is_ok()
    }
}

/// What runs has ended, however.
struct Running<'a>(&'a Core);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        (state.running, state.here) = (false, OUTSIDE);
    }
}
