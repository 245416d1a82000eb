//! What comes of passing a [fault point](crate::fault_point): nothing, or the end of the process, or of its power, or a wait.
//!
//! An end is carried out as soon as the present poll is over, before any other task is polled; and what is left of that poll
//! passes no further point, so that nothing more is persisted, sent or applied. To end the process inside of the poll would
//! run the destructors of all its tasks in the middle of one of them.
//!
//! The dice have a stream of their own, and are not rolled while nothing is armed: a run without points is what it was.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    fmt,
    future::pending,
    rc::Rc,
    time::Duration,
};

use tokio::sync::Notify;

use super::fleet::machine;
use crate::{
    chaos::{
        history::PointHit,
        kernel::{Chance, Kernel, OUTSIDE, Stream},
        recorder::Recorder,
        trace::{Event, Tracer},
    },
    fault_point::{Point, Wait, Watch},
    runtime,
};

/// What happens to who passes a point, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointFaults {
    /// At this point alone; `None`: at all of them.
    pub at: Option<Point>,
    /// To one pass in so many.
    pub one_in: u64,
    /// So many times at most.
    pub most: u32,
    /// What.
    pub effect: PointEffect,
}

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PointEffect {
    /// The process ends, as by `kill -9`.
    Crash,
    /// The machine's power goes.
    PowerLoss,
    /// The task that passes it waits, for as long as this at most. Where a wait would break what those around the point
    /// promise each other, it does not.
    Stall(Duration),
}

impl fmt::Display for PointEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash => f.write_str("crash"),
            Self::PowerLoss => f.write_str("power loss"),
            Self::Stall(most) => write!(f, "stall of up to {most:?}"),
        }
    }
}

impl fmt::Display for PointFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, one_in, most, effect } = self;
        write!(f, "{effect}, one pass in {one_in}, {most} times at most")?;
        match at {
            Some(point) => write!(f, ", {point}"),
            None => f.write_str(", anywhere"),
        }
    }
}

struct Shared {
    kernel: Kernel,
    tracer: Tracer,
    recorder: Recorder,
    armed: Cell<Option<PointFaults>>,
    chance: RefCell<Stream>,
    /// The machine that ends when the present poll is over.
    doomed: Cell<Option<usize>>,
    passed: RefCell<BTreeMap<Point, u64>>,
    /// Agents that ended at a point, and were not asked for yet.
    ended: RefCell<VecDeque<usize>>,
    news: Notify,
    /// Ends an agent's process, or its power.
    end: Box<dyn Fn(usize, PointEffect)>,
}

/// See the file's head. Clones are the same ones.
#[derive(Clone)]
pub(crate) struct Points(Rc<Shared>);

impl Points {
    /// Nothing is armed. `end` ends an agent.
    pub(crate) fn new(
        seed: u64,
        kernel: &Kernel,
        (tracer, recorder): (&Tracer, &Recorder),
        end: impl Fn(usize, PointEffect) + 'static,
    ) -> Self {
        Self(Rc::new(Shared {
            kernel: kernel.clone(),
            tracer: tracer.clone(),
            recorder: recorder.clone(),
            armed: Cell::new(None),
            chance: RefCell::new(Stream::of(seed, Chance::Points)),
            doomed: Cell::new(None),
            passed: RefCell::default(),
            ended: RefCell::default(),
            news: Notify::new(),
            end: Box::new(end),
        }))
    }

    /// From now on this happens at points; or nothing.
    pub(crate) fn arm(&self, faults: Option<PointFaults>) {
        self.0.armed.set(faults);
    }

    /// The next agent that ended at a point. Cancel-safe.
    pub(crate) async fn next_end(&self) -> usize {
        loop {
            let news = self.0.news.notified();
            let ended = self.0.ended.borrow_mut().pop_front();
            if let Some(agent) = ended {
                return agent;
            }
            news.await;
        }
    }

    /// A span between the two, of the stream for points.
    pub(crate) fn span(&self, least: Duration, most: Duration) -> Duration {
        self.0.span(least, most)
    }

    /// How often which point was passed.
    pub(crate) fn passed(&self) -> BTreeMap<Point, u64> {
        self.0.passed.borrow().clone()
    }

    /// As who stands in the way.
    pub(crate) fn watch(&self) -> Rc<dyn Watch> {
        Rc::new(self.clone())
    }
}

impl Shared {
    fn span(&self, least: Duration, most: Duration) -> Duration {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.chance.borrow_mut().between(nanos(least), nanos(most)))
    }

    /// Whether something happens at this pass, and what.
    fn effect(&self, point: Point) -> Option<PointEffect> {
        let faults = self.armed.get()?;
        if faults.most == 0 || faults.at.is_some_and(|at| at != point) {
            return None;
        }
        if matches!(faults.effect, PointEffect::Stall(_)) && !point.may_wait() {
            return None;
        }
        if self.chance.borrow_mut().below(faults.one_in.max(1)) != 0 {
            return None;
        }
        self.armed.set(Some(PointFaults { most: faults.most - 1, ..faults }));
        Some(faults.effect)
    }
}

impl Watch for Points {
    fn passes(&self, point: Point) -> Option<Wait> {
        let shared = &self.0;
        let here = shared.kernel.here();
        // Destructors of a life that is over pass points as well.
        if here == OUTSIDE || shared.kernel.place(here.node) != here {
            return None;
        }
        if shared.doomed.get() == Some(here.node) {
            return Some(Box::pin(pending()));
        }
        *shared.passed.borrow_mut().entry(point).or_default() += 1;
        let effect = shared.effect(point)?;
        let agent = here.node - machine(0);
        shared.tracer.note(Event::AtPoint { agent, point, effect: effect.to_string() });
        let at = shared.tracer.now();
        shared.recorder.write(|history| history.at_points.push(PointHit { at, agent, point, effect }));
        if let PointEffect::Stall(most) = effect {
            return Some(Box::pin(runtime::sleep(shared.span(Duration::ZERO, most))));
        }
        shared.doomed.set(Some(here.node));
        let ours = self.clone();
        shared.kernel.afterwards(move || {
            ours.0.doomed.set(None);
            (ours.0.end)(agent, effect);
            ours.0.ended.borrow_mut().push_back(agent);
            ours.0.news.notify_waiters();
        });
        Some(Box::pin(pending()))
    }
}
