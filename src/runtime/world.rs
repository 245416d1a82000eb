//! The socket into which a simulation is plugged: what one must be able to do, and which one runs on this thread.
//!
//! A simulation lies floors above and is not known here. While it runs it enters its thread ([`enter`]); from then on
//! everything on that thread that goes through `runtime.rs` comes to it, and nothing of it reaches tokio or the
//! operating system. Other threads are not concerned, so a real cluster may run beside it.

use std::{
    any::Any,
    cell::RefCell,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use futures_util::FutureExt as _;

use crate::time::Moment;

/// One life of one simulated machine. What is spawned at it is dropped when that life is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) node: usize,
    pub(crate) life: u32,
}

/// A timer that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Alarm {
    pub(crate) node: usize,
    pub(crate) at: Moment,
    pub(crate) number: u64,
}

/// A task as a simulation runs it.
pub(crate) type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A simulation, to whatever runs in it.
pub(crate) trait World {
    /// Where the task that runs now belongs.
    fn place(&self) -> Place;

    /// Starts a task at a place; drops it where that life is over.
    fn spawn(&self, place: Place, job: Job);

    /// The present machine's clock for timers.
    fn now(&self) -> Moment;

    /// Wakes when the present machine's clock for timers has come so far, or a little later.
    fn set_alarm(&self, at: Moment, waker: Waker) -> Alarm;

    /// Takes an alarm back, unless it has gone off.
    fn unset(&self, alarm: Alarm);

    /// 64 random bits of the present machine's.
    fn random(&self) -> u64;

    /// The present machine's wall clock, in milliseconds since 1970.
    fn wall_unix_ms(&self) -> u64;

    /// A task panicked.
    fn panicked(&self, message: &str);

    /// Runs everything until this future is done. False if it can't be any more.
    fn block_on(&self, root: Pin<&mut (dyn Future<Output = ()> + '_)>) -> bool;
}

thread_local! {
    static PRESENT: RefCell<Option<Rc<dyn World>>> = const { RefCell::new(None) };
}

/// The simulation that runs on this thread, if one does.
pub(crate) fn world() -> Option<Rc<dyn World>> {
    // Nothing is there any more while the thread is being torn down: then destructors find no simulation.
    PRESENT.try_with(|present| present.borrow().clone()).ok().flatten()
}

/// Puts the thread into a simulation, until the guard is dropped.
pub(crate) fn enter(world: Rc<dyn World>) -> Entered {
    let before = PRESENT.with(|present| present.borrow_mut().replace(world));
    Entered { before }
}

/// See [`enter`].
pub(crate) struct Entered {
    before: Option<Rc<dyn World>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        // The old value is dropped outside of the borrow: what it owns may look for the world again.
        let old = PRESENT.try_with(|present| std::mem::replace(&mut *present.borrow_mut(), before));
        drop(old);
    }
}

/// The future panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Runs the future; should it panic, the simulation is told, and the panic goes no further.
pub(crate) async fn guarded<F: Future>(future: F) -> Result<F::Output, Panicked> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|payload| {
        if let Some(world) = world() {
            world.panicked(text_of(payload.as_ref()));
        }
        Panicked
    })
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "a panic without a text",
    }
}

/// Waits until the machine on which it is polled shows this moment.
#[derive(Debug)]
pub(crate) struct Nap {
    until: Moment,
    set: Option<(Alarm, Waker)>,
}

impl Nap {
    pub(crate) fn until(until: Moment) -> Self {
        Self { until, set: None }
    }
}

impl Future for Nap {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(world) = world() else { return Poll::Pending };
        if world.now() >= self.until {
            return Poll::Ready(());
        }
        // An alarm that has gone off did so at its moment or later, so one that is set still is.
        if self.set.as_ref().is_none_or(|(_, waker)| !waker.will_wake(cx.waker())) {
            if let Some((alarm, _)) = self.set.take() {
                world.unset(alarm);
            }
            let alarm = world.set_alarm(self.until, cx.waker().clone());
            self.set = Some((alarm, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl Drop for Nap {
    fn drop(&mut self) {
        if let Some((alarm, _)) = self.set.take()
            && let Some(world) = world()
        {
            world.unset(alarm);
        }
    }
}
