//! Tasks: what there is to run, whose it is, and who has asked to be run.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use super::streams::{Chance, Stream};
use crate::{runtime::world::Place, time::Moment};

/// A task. It never leaves the simulation's thread.
pub(super) type Job = Pin<Box<dyn Future<Output = ()>>>;

/// Names a task for good; slots are used again, numbers are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TaskId {
    pub(super) slot: usize,
    pub(super) number: u64,
}

impl TaskId {
    /// The future that the simulation runs for.
    pub(super) const ROOT: Self = Self { slot: usize::MAX, number: 0 };
}

/// Those that were woken and not seen since, in the order of the wakes.
#[derive(Debug, Default)]
pub(super) struct Woken(Mutex<Vec<TaskId>>);

impl Woken {
    pub(super) fn push(&self, id: TaskId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    pub(super) fn drain_into(&self, ready: &mut VecDeque<TaskId>) {
        ready.extend(self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
    }
}

/// Wakes one task.
pub(super) struct Bell {
    id: TaskId,
    rung: AtomicBool,
    woken: Arc<Woken>,
}

impl Bell {
    pub(super) fn new(id: TaskId, woken: &Arc<Woken>) -> Arc<Self> {
        Arc::new(Self { id, rung: AtomicBool::new(false), woken: Arc::clone(woken) })
    }

    /// The task is about to run: whoever wakes it from now on wakes it anew.
    pub(super) fn rest(&self) {
        self.rung.store(false, Ordering::Relaxed);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::Relaxed) {
            self.woken.push(self.id);
        }
    }
}

/// A task and what belongs to it.
pub(super) struct Task {
    pub(super) number: u64,
    pub(super) place: Place,
    /// `None` while it runs.
    pub(super) job: Option<Job>,
    pub(super) bell: Arc<Bell>,
    pub(super) waker: Waker,
}

/// All tasks, in slots.
#[derive(Default)]
pub(super) struct Tasks {
    slots: Vec<Option<Task>>,
    free: Vec<usize>,
    numbers: u64,
}

impl Tasks {
    pub(super) fn add(&mut self, place: Place, job: Job, woken: &Arc<Woken>) -> TaskId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.numbers += 1;
        let id = TaskId { slot, number: self.numbers };
        let bell = Bell::new(id, woken);
        let waker = Waker::from(Arc::clone(&bell));
        self.slots[slot] = Some(Task { number: id.number, place, job: Some(job), bell, waker });
        id
    }

    pub(super) fn find(&mut self, id: TaskId) -> Option<&mut Task> {
        self.slots.get_mut(id.slot)?.as_mut().filter(|task| task.number == id.number)
    }

    pub(super) fn remove(&mut self, id: TaskId) -> Option<Task> {
        self.find(id)?;
        self.free.push(id.slot);
        self.slots[id.slot].take()
    }

    /// Takes the tasks of a machine away, the oldest first.
    pub(super) fn remove_all(&mut self, node: usize) -> Vec<Task> {
        let mut gone = Vec::new();
        for (slot, task) in self.slots.iter_mut().enumerate() {
            if let Some(task) = task.take_if(|task| task.place.node == node) {
                self.free.push(slot);
                gone.push(task);
            }
        }
        gone.sort_by_key(|task| task.number);
        gone
    }
}

/// What a machine does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    /// It runs.
    On,
    /// Its process is stopped, as by `SIGSTOP`: nothing of it runs, its clocks go on.
    Paused,
    /// It sleeps as a whole: nothing runs, and the clock for timers stands still.
    Suspended,
    /// There is no process.
    Off,
}

/// One machine.
pub(super) struct Machine {
    pub(super) life: u32,
    pub(super) power: Power,
    pub(super) random: Stream,
    /// Tasks that were woken while nothing of it runs.
    pub(super) parked: Vec<TaskId>,
    /// By the reading of its clock for timers.
    pub(super) alarms: BTreeMap<(Moment, u64), Waker>,
}

impl Machine {
    pub(super) fn new(seed: u64, node: usize) -> Self {
        Self {
            life: 0,
            power: Power::On,
            random: Stream::of(seed, Chance::Node(node, 0)),
            parked: Vec::new(),
            alarms: BTreeMap::new(),
        }
    }
}
