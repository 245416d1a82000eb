//! The leader's deadlines: when a holder or waiter has been silent for too long. Pure, in memory, never replicated.
//!
//! # The problem
//!
//! A lease has to end when its holder is gone, and nobody but the leader can say so; yet a holder cut off from
//! everybody stops believing by its own clock alone. So the leader's patience has to outlast the holder's belief,
//! on two clocks that agree neither on the time nor quite on its speed.
//!
//! # The argument
//!
//! A holder believes until `sent + ttl × (1 − drift)`, where `sent` is its clock before it sent the message that
//! succeeded ([`Session`](crate::session::Session)). The leader waits until at least
//! `arrived + ttl × (1 + drift)`, where `arrived` is its own clock when it had that message. A message arrives after
//! it was sent, and within the drift bound the first span is over before the second, so a lease that
//! [`due`](Deadlines::due) hands out is one in which its holder no longer believes (rules L1 and L5). From this:
//!
//! - **To extend is always safe, to shorten never is.** Whenever something is in doubt here (a stall, a clock that
//!   goes back, leadership, rounding) the answer is the later deadline, and no call but `ended` makes one earlier.
//! - **What is being expired is not renewed.** From the moment `due` names it a lease answers [`Renewal::Gone`],
//!   also after its proposal failed: an entry whose outcome is unknown may still commit.
//! - **A deadline is about one grant.** It carries that grant's token, `due` returns it, and the `Expire` that is
//!   proposed from it names it; the table ignores an `Expire` whose token is not the present one. That alone makes
//!   it sound that a waiter that becomes holder starts afresh while an `Expire` of the waiter is on its way. A grant
//!   reported a second time (a retried request) changes nothing, or it would make renewable what is being expired.
//! - **A new leader starts every deadline afresh**, since it knows of no renewal. So it is never early.
//!
//! # The bound
//!
//! With one leader, an unrenewed lease is due `ttl × (1 + drift)` after its last acknowledged renewal was handled,
//! plus what the leader was stalled or in doubt meanwhile, plus at most a timer's delay of [`STALL_TOLERANCE`].
//! Every change of leader starts the span anew: a dead holder lives on until some leader has stayed for one whole
//! `ttl × (1 + drift)`, and not longer (rule L6).
//!
//! # Rejected
//!
//! - *Deadlines in the replicated table*: a renewal would cost a log entry and an fsync.
//! - *Moving every deadline after a stall*: 100,000 moves at the very moment when the leader is behind. Deadlines
//!   are stored less a common `offset` instead; to grow the offset moves them all at once.
//! - *Following a clock that goes back*: two tasks that read the clock and call in the opposite order look the same,
//!   and time counted twice makes deadlines early. The largest reading counts instead; on a clock that went back
//!   far, leases run out late. [`Wake::ClockBack`] says so, and a leader had better hand over.

use std::time::Duration;

use crate::{
    dense::Dense,
    flaw::planted,
    id::LeaseId,
    limits::{EXPIRE_RETRY_PAUSE, STALL_TICK, STALL_TOLERANCE, TTL_MAX},
    time::{Drift, Moment},
    token::Token,
};

/// What a renewal brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// The deadline is now at least a whole span after the renewal's arrival.
    Extended,
    /// The lease has ended, is being expired, or is revoked: its holder is to be told so.
    Gone,
}

/// What the leader's timer found when it woke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Nothing unusual.
    Punctual,
    /// It woke so much later than asked; every deadline was moved by as much.
    Stalled(Duration),
    /// The clock shows so much less than it did before; deadlines wait until it has caught up.
    ClockBack(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Queued; a renewal extends it.
    Renewable,
    /// Queued; no renewal extends it: revoked, or an expiry of it failed.
    Final,
    /// Not queued: handed out by `due`, its expiry is being proposed.
    Expiring,
}

/// 24 bytes: the token of a waiter is stored as 0 beside `holds`, where an `Option` would take 16 by itself.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The deadline in nanoseconds, less the offset at the time of writing.
    at: u64,
    token: u64,
    /// ttl × (1 + drift), in milliseconds, rounded up: to extend is safe.
    span_ms: u32,
    holds: bool,
    state: State,
}

// The drift is below 1, so that no span is cut off.
const _: () = assert!(TTL_MAX.as_millis() * 2 < u32::MAX as u128);

impl Entry {
    fn token(&self) -> Option<Token> {
        self.holds.then(|| Token::new(self.token))
    }

    fn span(&self) -> Duration {
        Duration::from_millis(self.span_ms.into())
    }
}

/// A deadline in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    at: u64,
    id: LeaseId,
}

/// The deadlines of one leader in one term: one per holder and waiter.
///
/// Each call takes O(log n); each deadline about 75 bytes. A task drives it: sleep until
/// [`next_wake`](Self::next_wake) (or until something began), then [`woke`](Self::woke), then
/// [`due`](Self::due) and propose what it returns.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Deadlines {
    term: u64,
    drift: Drift,
    stall_tick: Duration,
    stall_tolerance: Duration,
    entries: Dense<LeaseId, Entry>,
    queue: Dense<Slot, ()>,
    /// In nanoseconds; a deadline is what its entry says plus this. It only grows.
    offset: u64,
    /// The largest reading so far: what begins, begins here or later, wherever the clock went.
    largest: Moment,
    /// When the timer last woke, or the freeze ended: delays up to here are in `offset` already, so that a stall and
    /// a freeze that overlap count once.
    last_wake: Moment,
    frozen_since: Option<Moment>,
}

impl Deadlines {
    /// The deadlines of a new leader, as soon as it has applied an entry of its own term: everything that its table
    /// holds or queues starts afresh. Those that the table has marked as revoked are then to be
    /// [`revoked`](Self::revoked) here too.
    ///
    /// A waiter has no token yet: `None`.
    pub(crate) fn new(
        term: u64,
        drift: Drift,
        now: Moment,
        held: impl IntoIterator<Item = (LeaseId, Option<Token>, Duration)>,
    ) -> Self {
        let mut new = Self {
            term,
            drift,
            stall_tick: STALL_TICK,
            stall_tolerance: STALL_TOLERANCE,
            entries: Dense::default(),
            queue: Dense::default(),
            offset: 0,
            largest: now,
            last_wake: now,
            frozen_since: None,
        };
        for (id, token, ttl) in held {
            new.began(id, token, ttl, now);
        }
        new
    }

    /// With another heartbeat, and another measure of what is a stall, than [`STALL_TICK`] and [`STALL_TOLERANCE`].
    #[cfg(test)]
    pub(crate) fn with_stall(mut self, tick: Duration, tolerance: Duration) -> Self {
        self.stall_tick = tick;
        self.stall_tolerance = tolerance;
        self
    }

    /// The flaw [`OldDeadlines`](crate::flaw::Flaw::OldDeadlines): goes on in another term as if nothing had been.
    #[cfg(feature = "chaos")]
    pub(crate) fn carried_over(
        mut self,
        term: u64,
        now: Moment,
        held: impl IntoIterator<Item = (LeaseId, Option<Token>, Duration)>,
    ) -> Self {
        (self.term, self.last_wake, self.frozen_since) = (term, now, None);
        for (id, token, ttl) in held {
            self.began(id, token, ttl, now);
        }
        self
    }

    /// The term in which these deadlines were kept. A renewal counts only if its leadership was confirmed in this
    /// very term, and an `Expire` is proposed in this term or not at all.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// How many deadlines there are, those being expired included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Present deadline of this lease, for people to see; what is being expired has it in the past.
    #[cfg(test)]
    pub(crate) fn deadline(&self, id: &LeaseId) -> Option<Moment> {
        self.entries.get(id).map(|entry| self.moment(entry.at))
    }

    /// A grant was applied (with its token) or a waiter was queued (with `None`): its deadline starts. A waiter that
    /// becomes holder starts afresh; the same grant reported again changes nothing.
    pub(crate) fn began(&mut self, id: LeaseId, token: Option<Token>, ttl: Duration, now: Moment) {
        if self.entries.is_empty() {
            // Nobody watched while there was nothing to watch: that was no stall.
            self.last_wake = now;
        }
        match self.entries.get(&id) {
            // `None < Some(_)`, and later grants have larger tokens: this is no news.
            Some(entry) if token <= entry.token() => return,
            Some(entry) => {
                self.queue.remove(&Slot { at: entry.at, id });
            }
            None => {}
        }
        let span_ms = whole_ms(self.drift.lengthen(ttl));
        let from = self.at_least(now);
        let at = self.stored(from, Duration::from_millis(span_ms.into()));
        self.queue.insert(Slot { at, id }, ());
        let entry = Entry {
            at,
            span_ms,
            token: token.map_or(0, Token::get),
            holds: token.is_some(),
            state: State::Renewable,
        };
        self.entries.insert(id, entry);
    }

    /// The lease, or the wait, has ended: applied by the table, for whatever reason.
    pub(crate) fn ended(&mut self, id: &LeaseId) {
        if let Some(entry) = self.entries.remove(id) {
            self.queue.remove(&Slot { at: entry.at, id: *id });
        }
    }

    /// A renewal that the leader may acknowledge: the term of these deadlines was confirmed *after* the renewal
    /// arrived. `arrived` is the leader's clock at the arrival.
    ///
    /// A renewal that comes after the deadline, but before [`due`](Self::due) has taken the lease up, still counts.
    /// It counts from its arrival, or from the largest reading known, so that a clock that went back for a while
    /// shortens nothing.
    pub(crate) fn renew(&mut self, id: &LeaseId, arrived: Moment) -> Renewal {
        let from = self.at_least(arrived);
        let renewable = |entry: &&Entry| entry.state == State::Renewable || planted!(RenewalAfterExpiry);
        let Some(&entry) = self.entries.get(id).filter(renewable) else {
            return Renewal::Gone;
        };
        self.requeue(*id, entry, self.stored(from, entry.span()).max(entry.at));
        Renewal::Extended
    }

    /// The lease was revoked: from here no renewal extends it, and it ends at its present deadline at the latest.
    pub(crate) fn revoked(&mut self, id: &LeaseId) {
        if let Some(entry) = self.entries.get_mut(id).filter(|entry| entry.state == State::Renewable) {
            entry.state = State::Final;
        }
    }

    /// When to wake next: at the first deadline, and at least every [`STALL_TICK`] while there is any, so that a
    /// stall shows. `None` while there is nothing to wait for. It may lie in the past.
    ///
    /// The moment that was slept for belongs into [`woke`](Self::woke).
    pub(crate) fn next_wake(&self) -> Option<Moment> {
        if self.entries.is_empty() {
            return None;
        }
        let heartbeat = self.last_wake + self.stall_tick;
        match self.queue.first() {
            Some((slot, ())) if self.frozen_since.is_none() => Some(heartbeat.min(self.moment(slot.at))),
            _ => Some(heartbeat),
        }
    }

    /// The leader's timer woke, asked for `asked`; call it after *every* sleep, before [`due`](Self::due).
    ///
    /// If that is later than the tolerance, the leader itself was stopped (SIGSTOP, a suspended VM, overload), and
    /// renewals may sit unread in its sockets: the whole delay is first added to every deadline.
    pub(crate) fn woke(&mut self, asked: Moment, now: Moment) -> Wake {
        let behind = self.at_least(now).since(now);
        // What passes while frozen is added by `thaw`.
        let until = self.frozen_since.map_or(now, |since| since.min(now));
        let delay = until.since(asked.max(self.last_wake));
        self.last_wake = now;
        if delay > self.stall_tolerance && !planted!(NoStallCompensation) {
            self.extend_all(delay);
            Wake::Stalled(delay)
        } else if behind > self.stall_tolerance {
            Wake::ClockBack(behind)
        } else {
            // Another task may have read the clock after this one, and called before it: that is no clock gone back.
            Wake::Punctual
        }
    }

    /// Leadership is in doubt (openraft says so, or the last acknowledgement of a quorum is older than the leader
    /// lease): nothing is due until [`thaw`](Self::thaw).
    pub(crate) fn freeze(&mut self, now: Moment) {
        let now = self.at_least(now);
        self.frozen_since.get_or_insert(now);
    }

    /// Leadership is beyond doubt again, in the same term: the span that was frozen is added to every deadline.
    pub(crate) fn thaw(&mut self, now: Moment) {
        let until = self.at_least(now);
        if let Some(since) = self.frozen_since.take() {
            self.extend_all(until.since(since));
            self.last_wake = now;
        }
    }

    /// Takes up to `most` of those whose deadline has come, the earliest first: they are to be proposed for expiry,
    /// and from here on their renewals are [`Renewal::Gone`].
    ///
    /// The token goes into the `Expire` (none for a waiter). What is left over is due at the next call.
    pub(crate) fn due(&mut self, now: Moment, most: usize) -> Vec<(LeaseId, Option<Token>)> {
        // Not `at_least`: on a clock that went back nothing is due before it has caught up.
        self.largest = self.largest.max(now);
        let mut due = Vec::new();
        if self.frozen_since.is_some() {
            return due;
        }
        while due.len() < most {
            let first = self.queue.first().map(|(slot, ())| *slot);
            let Some(slot) = first.filter(|slot| self.moment(slot.at) <= now) else { break };
            self.queue.remove(&slot);
            if let Some(entry) = self.entries.get_mut(&slot.id) {
                entry.state = State::Expiring;
                due.push((slot.id, entry.token()));
            }
        }
        due
    }

    /// The expiry of these could not be proposed, or nobody knows its outcome: they are due again, after
    /// [`EXPIRE_RETRY_PAUSE`]. They stay unrenewable, since an entry whose outcome is unknown may still commit.
    ///
    /// Those that have ended, or begun afresh as holders, in the meantime are left as they are.
    pub(crate) fn proposal_failed(&mut self, ids: &[LeaseId], now: Moment) {
        let again = self.at_least(now);
        for id in ids {
            let Some(&entry) = self.entries.get(id).filter(|entry| entry.state == State::Expiring) else {
                continue;
            };
            let at = self.stored(again, EXPIRE_RETRY_PAUSE);
            self.requeue(*id, Entry { state: State::Final, ..entry }, at.max(entry.at));
        }
    }

    fn requeue(&mut self, id: LeaseId, entry: Entry, at: u64) {
        self.queue.remove(&Slot { at: entry.at, id });
        self.queue.insert(Slot { at, id }, ());
        self.entries.insert(id, Entry { at, ..entry });
    }

    /// Notes a reading and returns the largest so far.
    fn at_least(&mut self, now: Moment) -> Moment {
        self.largest = self.largest.max(now);
        self.largest
    }

    fn extend_all(&mut self, by: Duration) {
        self.offset = self.offset.saturating_add(nanos(by));
    }

    /// A deadline as it is stored. It saturates upwards: rather late than early.
    fn stored(&self, from: Moment, span: Duration) -> u64 {
        (from + span).as_nanos().saturating_sub(self.offset)
    }

    /// A stored deadline as a moment.
    fn moment(&self, at: u64) -> Moment {
        Moment::from_nanos(at.saturating_add(self.offset))
    }
}

fn whole_ms(span: Duration) -> u32 {
    u32::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;
#[cfg(test)]
pub(crate) mod view;
