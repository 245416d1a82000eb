//! What a [`Lease`](crate::Lease) and its renewer share: a [`Session`] that any thread can ask at any time.
//!
//! The session is the specification and, behind a mutex, the authority. `check` is asked before every guarded write,
//! so a lease that is held answers from two atomic words of its own, with one reading of the clock: no lock, no
//! allocation. Only when these words say *not held* is the session asked, once, under its lock; so every end is
//! decided there, happens once and has one reason (rule L10).
//!
//! # Why the words can be trusted
//!
//! - `deadline` is the session's, written under the lock; it only grows. Read *after* the clock, it is at least what
//!   it was when the reading was taken; a value that is behind makes the session decide, never the caller believe.
//! - Whatever ends the session makes it [`OVER`], under the lock and for ever: no reading is before that. Whoever reads
//!   the value before may be a moment ahead of an end by will (a release, a revocation); it can't be ahead of the
//!   deadline, which is its own to find.
//! - `largest` is read *before* the clock. What another thread has published there it had read from the clock
//!   before; so a monotonic clock can't show less now, and if it does it went back. (Comparing with the previous
//!   value of a `fetch_max` made after the reading would accuse the clock whenever two threads overtake each other.)

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    clock::Clock,
    flaw::planted,
    runtime,
    session::{LossReason, Session},
    time::Moment,
};

/// The longest that [`Held::lost`] sleeps between two looks at the clock: the timer doesn't count suspend, the clock
/// does, so this is how late a suspended machine tells of a loss after it woke.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// The deadline of what has ended.
const OVER: u64 = 0;

/// One lease in hand, shared between its handle, its renewer and those who wait for its loss. What it is on, its owner
/// knows.
pub(crate) struct Held {
    clock: Arc<dyn Clock>,
    /// In nanoseconds; [`OVER`] once it has ended.
    deadline: AtomicU64,
    /// The largest reading, in nanoseconds.
    largest: AtomicU64,
    inner: Mutex<Inner>,
}

/// What is behind the lock.
struct Inner {
    session: Session,
    /// Who waits for the end listens to it; `None` until somebody does, since for most leases nobody does.
    ended: Option<Arc<Notify>>,
}

impl Held {
    /// The lease as `session` has it from here on, on this clock.
    pub(crate) fn new(clock: Arc<dyn Clock>, session: Session) -> Self {
        Self {
            clock,
            deadline: AtomicU64::new(deadline_of(&session)),
            largest: AtomicU64::new(session.largest().as_nanos()),
            inner: Mutex::new(Inner { session, ended: None }),
        }
    }

    /// The clock that it runs out by.
    pub(crate) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// How long it lives without a renewal.
    pub(crate) fn ttl(&self) -> Duration {
        self.lock().session.ttl()
    }

    /// Is it held now? No network, no lock while it is.
    ///
    /// # Errors
    /// The reason for which it ended, the same at every call.
    pub(crate) fn check(&self) -> Result<(), LossReason> {
        let seen = self.largest.load(Ordering::Acquire);
        let now = self.clock.now().as_nanos();
        self.largest.fetch_max(now, Ordering::AcqRel);
        if now >= seen && now < self.deadline.load(Ordering::Acquire) {
            return Ok(());
        }
        self.decide(Moment::from_nanos(seen), Moment::from_nanos(now))
    }

    /// Would [`check`](Self::check) succeed? Nobody is told by this look: neither of an end nor of the clock.
    #[cfg(feature = "chaos")]
    pub(crate) fn peek(&self) -> bool {
        let now = self.clock.now().as_nanos();
        now >= self.largest.load(Ordering::Acquire) && now < self.deadline.load(Ordering::Acquire)
    }

    /// Whether it has ended for good. What [`peek`](Self::peek) says no to may be held again, by a clock that goes back.
    #[cfg(feature = "chaos")]
    pub(crate) fn is_over(&self) -> bool {
        self.deadline.load(Ordering::Acquire) == OVER
    }

    /// How long it is still held without a renewal; nothing once it has ended.
    pub(crate) fn remaining(&self) -> Duration {
        let mut inner = self.lock();
        let now = self.read_for(&mut inner.session);
        let remaining = inner.session.remaining(now);
        self.publish(&inner);
        remaining
    }

    /// A renewal succeeded that was sent at `sent`, on this lease's clock.
    ///
    /// # Errors
    /// The reason, when it had ended before the answer was here: the answer changes nothing then.
    pub(crate) fn renewed(&self, sent: Moment) -> Result<(), LossReason> {
        let mut inner = self.lock();
        self.largest.fetch_max(sent.as_nanos(), Ordering::AcqRel);
        let now = self.read_for(&mut inner.session);
        // What it answers is read from the session below.
        let _ = inner.session.renewed(sent, now);
        self.publish(&inner);
        as_it_says(&inner.session)
    }

    /// An attempt to renew failed, or was not answered.
    pub(crate) fn renewal_failed(&self) {
        let mut inner = self.lock();
        inner.session.renewal_failed(self.clock.now());
    }

    /// When to send the next renewal; `None` when it would come too late, or the lease has ended.
    pub(crate) fn next_renewal(&self) -> Option<Moment> {
        self.lock().session.next_renewal()
    }

    /// The moment from which on the lease is lost unless a renewal succeeds; the clock's zero once it has ended.
    pub(crate) fn deadline(&self) -> Moment {
        Moment::from_nanos(self.deadline.load(Ordering::Acquire))
    }

    /// The lease ends for this reason, unless it has ended before: a deadline that has passed unseen comes first.
    ///
    /// True if it ended for the reason given.
    pub(crate) fn end(&self, reason: LossReason) -> bool {
        let mut inner = self.lock();
        let now = self.read_for(&mut inner.session);
        let news = inner.session.check(now).is_ok() && inner.session.end(reason);
        self.publish(&inner);
        news
    }

    /// Resolves when the lease has ended, by its own timer if nobody else finds out. Every caller gets the reason.
    ///
    /// Cancel-safe: dropping the future changes nothing.
    pub(crate) async fn lost(&self) -> LossReason {
        loop {
            let ended = Arc::clone(self.lock().ended.get_or_insert_default());
            // Made before the look: an end between the two wakes it.
            let ended = ended.notified();
            if let Err(lost) = self.check() {
                return lost;
            }
            let nap = self.deadline().since(self.clock.now()).min(LOOK_AT_LEAST_EVERY);
            let nap = if planted!(HolderWithoutTimer) { Duration::from_secs(3_600) } else { nap };
            runtime::select2(ended, runtime::sleep(nap)).await;
        }
    }

    /// A new reading for the session, after what other threads have published.
    ///
    /// Taken with its lock held, as every reading that the session gets: else a thread that waited for the lock would
    /// bring an old one after a newer, and accuse the clock.
    fn read_for(&self, session: &mut Session) -> Moment {
        session.saw(Moment::from_nanos(self.largest.load(Ordering::Acquire)));
        let now = self.clock.now();
        self.largest.fetch_max(now.as_nanos(), Ordering::AcqRel);
        now
    }

    #[cold]
    fn decide(&self, seen: Moment, now: Moment) -> Result<(), LossReason> {
        let mut inner = self.lock();
        if now < seen {
            // Proof enough, even if the clock has jumped forth again by now.
            inner.session.end(LossReason::ClockWentBack { from: seen, to: now });
        } else {
            // The reading is old by now, and the deadline may have moved: the session takes its own.
            let now = self.read_for(&mut inner.session);
            let _ = inner.session.check(now);
        }
        self.publish(&inner);
        as_it_says(&inner.session)
    }

    /// Copies what the session decided to where `check` reads it.
    fn publish(&self, inner: &Inner) {
        let deadline = deadline_of(&inner.session);
        if self.deadline.swap(deadline, Ordering::AcqRel) != OVER && deadline == OVER {
            #[cfg(feature = "metrics")]
            if let Some(reason) = inner.session.ended() {
                crate::metrics::ended(reason);
            }
            // Whoever begins to listen after this takes the lock after this, and finds that it is over.
            if let Some(ended) = &inner.ended {
                ended.notify_waiters();
            }
        }
    }

    /// A thread that panicked with the lock held left a session that is whole: each of its calls ends in a state
    /// that it could have stopped in.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn deadline_of(session: &Session) -> u64 {
    if session.ended().is_some() { OVER } else { session.deadline().as_nanos() }
}

fn as_it_says(session: &Session) -> Result<(), LossReason> {
    session.ended().map_or(Ok(()), |reason| Err(reason.clone()))
}

#[cfg(test)]
mod tests;
