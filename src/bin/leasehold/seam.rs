//! Timers, tasks and signals for the command line. It is not part of what a simulation replays, so it takes them from
//! tokio; in one place all the same.

use std::{
    future::poll_fn,
    io,
    os::fd::AsFd,
    task::{Context, Poll, Waker},
    time::Duration,
};

use chrono::{DateTime, Utc};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
};
use tokio::signal::unix::{self, SignalKind};

use crate::exit::{Failed, SIGNAL};

/// How often it is looked whether somebody still reads.
const LOOK_FOR_READER: Duration = Duration::from_millis(250);

/// Waits.
#[expect(clippy::disallowed_methods, reason = "nothing replays the command line")]
pub(crate) async fn sleep(span: Duration) {
    tokio::time::sleep(span).await;
}

/// Runs the future for at most this long.
#[expect(clippy::disallowed_methods, reason = "nothing replays the command line")]
pub(crate) async fn timeout<F: Future>(span: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(span, future).await.ok()
}

/// Does what may block for long, a write to a pipe that nobody reads, on a thread of its own. `None` if it panics, or if
/// the process is about to end. Dropping the future doesn't end it.
#[expect(clippy::disallowed_methods, reason = "nothing replays the command line")]
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// The same, for what nobody waits for.
#[expect(clippy::disallowed_methods, reason = "nothing replays the command line")]
pub(crate) fn begin(work: impl FnOnce() + Send + 'static) {
    drop(tokio::task::spawn_blocking(work));
}

/// The wall clock, for people.
#[expect(clippy::disallowed_methods, reason = "shown beside a change; nothing is decided by it")]
pub(crate) fn wall() -> DateTime<Utc> {
    Utc::now()
}

/// Resolves when nobody reads what is written there any more; never for a file.
pub(crate) async fn nobody_reads(stream: impl AsFd) {
    loop {
        let mut polled = [PollFd::new(&stream, PollFlags::empty())];
        // Nothing is asked for: what is returned all the same is that the other end is closed.
        if poll(&mut polled, Some(&Timespec::default())).is_ok_and(|told| told > 0) {
            return;
        }
        sleep(LOOK_FOR_READER).await;
    }
}

/// Which of two futures was ready first.
pub(crate) enum Either<A, B> {
    /// The first, also when both were ready.
    First(A),
    /// The second.
    Second(B),
}

/// Waits for the first of two futures, and drops the other.
pub(crate) async fn select2<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    poll_fn(|cx| match a.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Either::First(output)),
        Poll::Pending => b.as_mut().poll(cx).map(Either::Second),
    })
    .await
}

/// Signals that come to this process. While (and after) this value lives, they don't end it.
pub(crate) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Hears of these from now on, but for those that were ignored when the process began (as `nohup` does): they stay
    /// ignored, here and in what is started.
    pub(crate) fn of(signals: &[Signal]) -> Result<Self, Failed> {
        let ignored = ignored();
        let heard = signals.iter().filter(|signal| ignored & (1 << (signal.as_raw() - 1)) == 0);
        let listen = |signal: &Signal| Ok((*signal, unix::signal(SignalKind::from_raw(signal.as_raw()))?));
        heard
            .map(listen)
            .collect::<io::Result<_>>()
            .map(Self)
            .map_err(|error: io::Error| Failed::new(format!("signals can't be caught: {error}")))
    }

    /// Forgets those that came until now.
    pub(crate) fn forget(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for (_, listener) in &mut self.0 {
            let _ = listener.poll_recv(&mut cx);
        }
    }

    /// The next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|cx| {
            for (signal, listener) in &mut self.0 {
                if listener.poll_recv(cx).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The exit code of a process that this signal ended.
pub(crate) fn code_of(signal: i32) -> u8 {
    SIGNAL.saturating_add(u8::try_from(signal).unwrap_or(0))
}

/// The mask of ignored signals, where the system tells it (Linux); bit 0 is signal 1.
fn ignored() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
