//! The holder's view of one lease: does it still hold, and when to renew next. Pure: `now` is a parameter.
//!
//! # The problem
//!
//! Nobody can call a holder back that hears nothing. So it has to stop by itself, by its own clock, before the
//! leader gives the lease to anyone else.
//!
//! # The argument
//!
//! The deadline is `sent + ttl × (1 − drift)`, where `sent` is this clock just *before* the acquire or the renewal
//! was sent that succeeded: whenever the leader had the message, that was later, and it waits
//! `ttl × (1 + drift)` from then ([`Deadlines`](crate::deadlines::Deadlines)). Both clocks may be off true speed by
//! the drift bound, in opposite directions, and the holder's span is still over first (rules L1 and L5).
//!
//! - **At the deadline it is lost**, not a nanosecond later, and for ever: an answer that arrives afterwards does
//!   not bring it back, since guarded work was cancelled already.
//! - **A clock that goes back** would let the holder believe for longer: the first reading below the largest seen
//!   loses the lease.
//! - **It ends once** (rule L10): the first reason stays, whatever is reported later.
//!
//! [`Held`](crate::lease::Held) is this machine shared between threads; a test drives both with the same readings.

use std::time::Duration;

use crate::{
    name::{AgentName, Name},
    time::{Drift, Moment},
    token::Token,
};

/// A renewal is sent when this part of the ttl has passed since the last that succeeded was sent.
const RENEWALS_PER_TTL: u32 = 3;
/// The pause after the first failure is this part of the ttl, then it doubles …
const FIRST_PAUSES_PER_TTL: u32 = 48;
/// … up to this part of it.
const LONGEST_PAUSES_PER_TTL: u32 = 6;

/// Why a lease is held no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LossReason {
    /// No renewal succeeded for the whole ttl: no majority of agents (or not the provider) was in reach, or this process
    /// stood still.
    #[error(
        "no renewal was answered within its ttl of {ttl:?}; check that this process reaches a majority of the agents, or whoever else grants it (and was not suspended), then acquire it anew"
    )]
    ExpiredWithoutContact {
        /// The ttl of the lease.
        ttl: Duration,
    },
    /// Whoever granted it, the leader of the agents for one, answered a renewal, and said that the lease had ended.
    #[error(
        "it had ended already, where it was granted, when a renewal came: its ttl had run out there, or it was released by its lease id from elsewhere; acquire it anew, with a longer ttl if this recurs"
    )]
    ExpiredInContact,
    /// It was revoked by hand.
    #[error("{by} revoked it ({reason}); settle that with them before you acquire it anew")]
    Revoked {
        /// Who revoked it.
        by: AgentName,
        /// The reason that they gave.
        reason: String,
    },
    /// It was revoked by hand, in favour of another agent.
    #[error("{by} handed it over to {to} ({reason}); acquire it anew to wait for your turn")]
    Transferred {
        /// The agent that is to have it next.
        to: AgentName,
        /// Who handed it over.
        by: AgentName,
        /// The reason that they gave.
        reason: String,
    },
    /// The clock that leases run out by showed less than it had shown before.
    #[error(
        "this machine's monotonic clock went back from {from:?} to {to:?}, so no deadline can be trusted; acquire it anew, and find out what moves that clock"
    )]
    ClockWentBack {
        /// The largest reading before.
        from: Moment,
        /// The reading below it.
        to: Moment,
    },
    /// The agent in this process has stopped, and nothing renews its leases.
    #[error("the agent in this process has stopped; start it again and acquire it anew")]
    AgentStopped,
    /// The client in this process was closed, and nothing renews its leases.
    #[error("the client in this process was closed; connect again and acquire it anew")]
    ClientClosed,
    /// The [`Access`](crate::Access) that it was acquired through was closed, and released it.
    #[error("the access that it was acquired through was closed; open another one and acquire it anew")]
    AccessClosed,
    /// Its holder released it.
    #[error("it was released; acquire it anew")]
    Released,
}

/// A lease that is held no more: which, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lease on {name:?} (token {token}) is lost: {reason}")]
#[non_exhaustive]
pub struct LeaseLost {
    /// What the lease was on.
    pub name: Name,
    /// Its fencing token.
    pub token: Token,
    /// Why it is lost.
    pub reason: LossReason,
}

/// One lease as its holder sees it.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// In nanoseconds: a `Duration` takes twice as much, and there may be a hundred thousand sessions.
    ttl: u64,
    drift: Drift,
    /// When the acquire or renewal was sent that succeeded, the latest of them.
    sent: Moment,
    /// When to send the next renewal.
    next: Moment,
    /// Attempts that failed since the last success.
    failures: u32,
    /// The largest reading so far.
    largest: Moment,
    /// Boxed because most sessions have not ended.
    ended: Option<Box<LossReason>>,
}

impl LossReason {
    /// Whether the holder ended it, and did not lose it.
    pub(crate) fn is_by_will(&self) -> bool {
        matches!(self, Self::Released | Self::AccessClosed)
    }
}

impl Session {
    /// The lease was granted to a request sent at `sent`, on this clock.
    ///
    /// It may have run out already: [`check`](Self::check) it before it is handed to anyone.
    pub(crate) fn granted(sent: Moment, ttl: Duration, drift: Drift) -> Self {
        Self {
            ttl: u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX),
            drift,
            sent,
            next: sent + ttl / RENEWALS_PER_TTL,
            failures: 0,
            largest: sent,
            ended: None,
        }
    }

    /// How long it lives without a renewal.
    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl)
    }

    /// Is it held at `now`? A reading at the deadline or below an earlier one ends it.
    ///
    /// # Errors
    /// The reason for which it ended, the same at every call.
    pub(crate) fn check(&mut self, now: Moment) -> Result<(), &LossReason> {
        if self.ended.is_none() {
            if now < self.largest {
                self.end(LossReason::ClockWentBack { from: self.largest, to: now });
            } else if now >= self.deadline() {
                self.end(LossReason::ExpiredWithoutContact { ttl: self.ttl() });
            }
            self.largest = self.largest.max(now);
        }
        self.ended().map_or(Ok(()), Err)
    }

    /// How long it is still held at `now` without a renewal; nothing once it has ended.
    pub(crate) fn remaining(&mut self, now: Moment) -> Duration {
        if self.check(now).is_err() { Duration::ZERO } else { self.deadline().since(now) }
    }

    /// A renewal sent at `sent` succeeded, as is known at `now`. Never moves the deadline backwards.
    ///
    /// # Errors
    /// As for [`check`](Self::check): an answer at the deadline or after it is too late.
    pub(crate) fn renewed(&mut self, sent: Moment, now: Moment) -> Result<(), &LossReason> {
        self.saw(sent);
        if self.check(now).is_ok() && sent > self.sent {
            self.sent = sent;
            self.next = sent + self.ttl() / RENEWALS_PER_TTL;
            self.failures = 0;
        }
        self.check(now)
    }

    /// An attempt to renew failed, or was not answered, as is known at `now`. It says nothing about the lease: the
    /// next attempt is a little later, with pauses that grow from ttl/48 to ttl/6, and shrink again towards the
    /// deadline.
    pub(crate) fn renewal_failed(&mut self, now: Moment) {
        let first = self.ttl() / FIRST_PAUSES_PER_TTL;
        let grown = first * (1 << self.failures.min(8));
        let half_of_what_is_left = self.deadline().since(now) / 2;
        let pause = grown.min(self.ttl() / LONGEST_PAUSES_PER_TTL).min(half_of_what_is_left).max(first);
        self.failures = self.failures.saturating_add(1);
        self.next = now + pause;
    }

    /// When to send the next renewal; `None` when it would come too late, or the lease has ended.
    pub(crate) fn next_renewal(&self) -> Option<Moment> {
        (self.ended.is_none() && self.next < self.deadline()).then_some(self.next)
    }

    /// The moment from which on the lease is lost unless a renewal succeeds. It grows with `sent`, and never goes back.
    pub(crate) fn deadline(&self) -> Moment {
        self.sent + self.drift.shorten(self.ttl())
    }

    /// The lease ends for this reason, unless it has ended before.
    ///
    /// True if this call ended it: then, and only then, is it to be told.
    pub(crate) fn end(&mut self, reason: LossReason) -> bool {
        let news = self.ended.is_none();
        if news {
            self.ended = Some(Box::new(reason));
        }
        news
    }

    /// Why it has ended, as far as is known without looking at the clock.
    pub(crate) fn ended(&self) -> Option<&LossReason> {
        self.ended.as_deref()
    }

    /// The largest reading so far: one below it loses the lease.
    pub(crate) fn largest(&self) -> Moment {
        self.largest
    }

    /// Notes a reading taken earlier, or by someone else on the same clock.
    pub(crate) fn saw(&mut self, reading: Moment) {
        self.largest = self.largest.max(reading);
    }
}

#[cfg(test)]
mod tests;
