//! What one process asks for at once: so many acquisitions, and the rest wait behind them, in the order of their coming.
//!
//! Each acquisition is asked for again and again until it is answered. A hundred thousand of them would knock so often that
//! nothing else came through where they asked, elections included. Renewals, releases and whatever else a process asks for
//! pass by.
//!
//! A few are asked for by whoever wants them, which is the fastest; all beyond by tasks of the process. So a future that an
//! application keeps and does not poll is in nobody's way: at the worst it has one of the fast places for itself.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, resume_unwind},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, oneshot};

use crate::{
    backlog::{Backlog, Beginner},
    limits::{ACQUISITIONS_UNDER_WAY_MAX, ACQUISITIONS_WITHOUT_TASK_MAX},
    runtime::{self, Either},
};

/// A job, or a task that works jobs off.
type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the file's head.
pub(super) struct Crowd {
    /// Places that nobody waits for.
    fast: Semaphore,
    backlog: Backlog<Job>,
    /// How many tasks work it off.
    working: Arc<Mutex<usize>>,
}

/// How a job went.
pub(super) enum CarriedOut<T> {
    Done(T),
    /// Its time was over before.
    NeverBegun,
    /// The process asks for nothing any more.
    Stopped,
}

impl Default for Crowd {
    fn default() -> Self {
        Self {
            fast: Semaphore::new(ACQUISITIONS_WITHOUT_TASK_MAX),
            backlog: Backlog::default(),
            working: Arc::default(),
        }
    }
}

impl Crowd {
    /// Carries the job out, if it can be begun `within` that time. Dropping the future ends the job where it stands. `spawn`
    /// starts a task, which nobody waits for.
    pub(super) async fn carry_out<T: Send + 'static>(
        &self,
        spawn: impl FnOnce(Job),
        within: Option<Duration>,
        job: impl Future<Output = T> + Send + 'static,
    ) -> CarriedOut<T> {
        if self.backlog.is_empty()
            && let Ok(_place) = self.fast.try_acquire()
        {
            return CarriedOut::Done(job.await);
        }
        let (mut tell, mut told) = oneshot::channel();
        let job = AssertUnwindSafe(job).catch_unwind();
        let ticket = self.backlog.push(
            0,
            Box::pin(async move {
                if let Either::Second(done) = runtime::select2(tell.closed(), job).await {
                    // Where nobody takes it, it is dropped, and with it what it holds.
                    let _ = tell.send(done);
                }
            }),
        );
        self.see_that_somebody_works(spawn);
        let told = match within {
            None => told.await,
            Some(within) => match runtime::select2(&mut told, runtime::sleep(within)).await {
                Either::First(told) => told,
                Either::Second(()) if ticket.withdraw() => return CarriedOut::NeverBegun,
                Either::Second(()) => told.await,
            },
        };
        match told {
            Ok(Ok(done)) => CarriedOut::Done(done),
            // It is the caller's, as if the job had run in its own future.
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => CarriedOut::Stopped,
        }
    }

    fn see_that_somebody_works(&self, spawn: impl FnOnce(Job)) {
        let more = {
            let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
            let more = *working < ACQUISITIONS_UNDER_WAY_MAX - ACQUISITIONS_WITHOUT_TASK_MAX;
            *working += usize::from(more);
            more
        };
        if more {
            spawn(Box::pin(work(self.backlog.beginner(), self.working.clone())));
        }
    }
}

async fn work(beginner: Beginner<Job>, working: Arc<Mutex<usize>>) {
    loop {
        let job = {
            let mut working = working.lock().unwrap_or_else(PoisonError::into_inner);
            let job = beginner.pop();
            // Under the lock: whoever puts something there next finds one less at work, and starts another.
            *working -= usize::from(job.is_none());
            job
        };
        match job {
            Some(job) => job.await,
            None => break,
        }
    }
    beginner.leave();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::tasks::Tasks;

    const MAX: usize = ACQUISITIONS_UNDER_WAY_MAX;

    /// Jobs that wait for a gate, and how many have begun.
    struct Gate {
        crowd: Crowd,
        tasks: Tasks,
        open: Arc<Semaphore>,
        begun: Arc<AtomicUsize>,
    }

    impl Gate {
        fn new() -> Self {
            let (crowd, begun) = Default::default();
            Self { crowd, tasks: Tasks::new(), open: Arc::new(Semaphore::new(0)), begun }
        }

        fn ask(&self, within: Option<Duration>) -> impl Future<Output = CarriedOut<()>> + '_ {
            let (open, begun) = (self.open.clone(), self.begun.clone());
            let job = async move {
                begun.fetch_add(1, Ordering::Relaxed);
                open.acquire().await.unwrap().forget();
            };
            self.crowd.carry_out(|task| self.tasks.spawn(task), within, job)
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::Relaxed)
        }

        /// Lets all tasks run until nothing moves.
        async fn rest(&self) {
            for _ in 0..10 {
                runtime::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn so_many_are_asked_for_at_once_and_the_rest_in_their_order() {
        let gate = Gate::new();
        let mut all = std::pin::pin!(join_all((0..3 * MAX).map(|_| gate.ask(None))));
        let mut rest = async || {
            for _ in 0..10 {
                assert!(all.as_mut().now_or_never().is_none());
                runtime::yield_now().await;
            }
        };
        rest().await;
        assert_eq!(gate.begun(), MAX);
        gate.open.add_permits(ACQUISITIONS_WITHOUT_TASK_MAX + 10);
        rest().await;
        // A fast place is for who comes when nobody waits.
        assert_eq!(gate.begun(), MAX + 10);
        gate.open.add_permits(3 * MAX);
        assert!(all.await.iter().all(|turn| matches!(turn, CarriedOut::Done(()))));
        assert_eq!(*gate.crowd.working.lock().unwrap(), 0);
        assert_eq!(gate.crowd.fast.available_permits(), ACQUISITIONS_WITHOUT_TASK_MAX);
    }

    #[tokio::test]
    async fn who_is_not_polled_is_in_nobodys_way() {
        let gate = Gate::new();
        let mut kept: Vec<_> = (0..3 * MAX).map(|_| Box::pin(gate.ask(None))).collect();
        assert!(kept.iter_mut().all(|asked| asked.as_mut().now_or_never().is_none()));
        gate.open.add_permits(4 * MAX);
        assert!(matches!(gate.ask(None).await, CarriedOut::Done(())));
        assert_eq!(gate.begun(), 3 * MAX + 1);
    }

    #[tokio::test]
    async fn who_gives_up_is_not_asked_for_and_what_was_begun_ends() {
        let gate = Gate::new();
        let mut first: Vec<_> = (0..MAX).map(|_| Box::pin(gate.ask(None))).collect();
        assert!(first.iter_mut().all(|asked| asked.as_mut().now_or_never().is_none()));
        gate.rest().await;
        let mut late = Box::pin(gate.ask(None));
        assert!(late.as_mut().now_or_never().is_none());
        drop(late);
        // Its time is over before its turn comes.
        assert!(matches!(gate.ask(Some(Duration::from_millis(1))).await, CarriedOut::NeverBegun));
        drop(first);
        gate.rest().await;
        assert_eq!(gate.begun(), MAX);
        assert_eq!(*gate.crowd.working.lock().unwrap(), 0);
        // Begun in time, it has the time that it takes.
        let _fast = gate.crowd.fast.try_acquire_many(ACQUISITIONS_WITHOUT_TASK_MAX as u32).unwrap();
        let mut asked = std::pin::pin!(gate.ask(Some(Duration::from_millis(1))));
        assert!(asked.as_mut().now_or_never().is_none());
        gate.rest().await;
        assert_eq!(gate.begun(), MAX + 1);
        runtime::sleep(Duration::from_millis(2)).await;
        assert!(asked.as_mut().now_or_never().is_none());
        gate.open.add_permits(1);
        assert!(matches!(asked.await, CarriedOut::Done(())));
    }

    /// Those who have a time, and are answered in it.
    #[tokio::test]
    async fn a_time_that_is_not_needed_changes_nothing() {
        let gate = Gate::new();
        let within = Some(Duration::from_secs(10));
        let mut all = std::pin::pin!(join_all((0..2 * MAX).map(|_| gate.ask(within))));
        assert!(all.as_mut().now_or_never().is_none());
        gate.rest().await;
        gate.open.add_permits(2 * MAX);
        assert!(all.await.iter().all(|done| matches!(done, CarriedOut::Done(()))));
        let _fast = gate.crowd.fast.try_acquire_many(ACQUISITIONS_WITHOUT_TASK_MAX as u32).unwrap();
        let mut asked = std::pin::pin!(gate.ask(within));
        assert!(asked.as_mut().now_or_never().is_none());
        gate.tasks.stop();
        assert!(matches!(asked.await, CarriedOut::Stopped));
    }

    #[tokio::test]
    async fn a_job_that_panics_is_its_callers_alone() {
        let gate = Gate::new();
        let _fast = gate.crowd.fast.try_acquire_many(ACQUISITIONS_WITHOUT_TASK_MAX as u32).unwrap();
        let begun = gate.begun.clone();
        let job = async move { assert_eq!(begun.load(Ordering::Relaxed), 7, "on purpose") };
        let asked = gate.crowd.carry_out(|task| gate.tasks.spawn(task), None, job);
        assert!(AssertUnwindSafe(asked).catch_unwind().await.is_err());
        gate.open.add_permits(1);
        assert!(matches!(gate.ask(None).await, CarriedOut::Done(())));
        assert_eq!(*gate.crowd.working.lock().unwrap(), 0);
    }

    #[tokio::test]
    async fn all_are_told_when_the_process_stops() {
        let gate = Gate::new();
        let mut all = std::pin::pin!(join_all((0..2 * MAX).map(|_| gate.ask(None))));
        assert!(all.as_mut().now_or_never().is_none());
        gate.rest().await;
        gate.tasks.stop();
        // Who is asked for in a fast place is told by what it asks.
        gate.open.add_permits(ACQUISITIONS_WITHOUT_TASK_MAX);
        let all = all.await;
        assert!(
            all.iter().take(ACQUISITIONS_WITHOUT_TASK_MAX).all(|turn| matches!(turn, CarriedOut::Done(())))
        );
        assert!(
            all.iter().skip(ACQUISITIONS_WITHOUT_TASK_MAX).all(|turn| matches!(turn, CarriedOut::Stopped))
        );
    }
}
