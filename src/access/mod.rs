//! Many readers, one writer: [`Access`], over any [`WriteLease`].
//!
//! | file | what lives there |
//! | --- | --- |
//! | `take.rs` | acquiring, and until when what was granted may be believed in |
//! | `keeper.rs` | the task of a guard: heartbeats, and the release at its end |
//! | `guard.rs` | the write guard, and what it shares with its keeper |
//!
//! # The problem
//!
//! A [`WriteLeaseProvider`](crate::WriteLeaseProvider) has three methods and a guard with a date in it. Whoever writes
//! by it must renew in time, must stop in time when renewing fails, and must not be fooled by a call that hangs or by a
//! date from another machine's wall clock. That is written once, here, for every provider.
//!
//! # The argument
//!
//! A guard is believed in by this process's own monotonic clock alone, through the same session as an agent's lease
//! ([`Held`](crate::lease::Held)): until `sent + left × (1 − drift)`.
//!
//! - `sent` is the clock just *before* the acquire was sent that succeeded, or the heartbeat. Whenever the provider
//!   counts from, it is later. Counted from the answer, a slow one would be believed in for too long.
//! - `left` is what `expires_at` leaves, by the wall clock read *after* the acquire was answered. The wall clock is read
//!   this once, for a span; no deadline is on it. What the answer took is thus taken off twice, to the safe side.
//! - A heartbeat that succeeds says that the lease lives from now for its whole length, and gives no new date. The
//!   length is at least `left`, so it counts as `left` from before that heartbeat was sent.
//! - `drift` allows for a provider whose clock runs faster than this one, within
//!   [`clock_drift_max`](Access::clock_drift_max).
//!
//! So the belief ends before the provider may grant the lease to another (rules L1 and L5), if the wall clocks agree.
//! What happens when they don't:
//!
//! | this machine's wall clock, beside the provider's | |
//! | --- | --- |
//! | is ahead by less than the lease's length | the guard is believed in for that much less |
//! | is ahead by more | [`AccessError::ClocksDisagree`](crate::AccessError::ClocksDisagree), and the grant is released |
//! | is behind | **the guard is believed in for too long by that much**, up to [`ttl_at_most`](Access::ttl_at_most) |
//! | jumps while a guard is held | nothing: it was read at the acquire |
//!
//! That the clock is not behind is an assumption on `Custom` providers; a [`ttl_at_most`](Access::ttl_at_most) that is
//! the provider's true ttl makes it unnecessary. `Local` and `Raft` need neither: the first has an exact ttl on this very
//! clock, the second is an agent's lease, with that lease's session, renewals and reasons.
//!
//! A loss has one reason, told to everybody who asks (rule L10). Belief ends first and the release leaves after it, by
//! one task, which lets a heartbeat under way come to its end before. An answer that comes after the end changes nothing.
//! So what is released is not revived here; a heartbeat that was given up, since it hung, may still arrive after the
//! release, and it is the provider that refuses it then ("it never acquires anew").
//!
//! # Readers
//!
//! There is no read lock, so nothing here can block a reader: read-only or not, an access never stands between a reader
//! and what it reads. A store that lets readers see a write half done needs snapshots of its own.

mod guard;
mod keeper;
mod take;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use self::guard::WriteGuard;
use self::{guard::Kept, keeper::Keeper, take::Taken};
use crate::{
    clock::{Clock, SystemClock},
    config::Timing,
    error::{AccessError, Result},
    limits::TTL_MAX,
    provider::{LeaseGuard, WriteLease},
    runtime::{Spawner, watch},
    session::LossReason,
    time::Drift,
    token::Token,
};

/// A way to something that many read and one at a time writes: read-only, or read-write with a [`WriteLease`].
///
/// [`write`](Self::write) gives a [`WriteGuard`]: it is kept alive in the background, tells of its loss, and releases
/// when dropped. Readers need no guard and never wait.
///
/// Cheap to clone; clones are the same access, with at most one guard that is held. Dropping the last one ends nothing:
/// a guard that was given out goes on. [`close`](Self::close) ends it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
/// use leasehold::{Access, AccessError, Error, WriteLease};
///
/// let access = Access::read_write(WriteLease::Local);
/// let guard = access.write().await?; // Err if another writer holds it: nobody queues here
/// guard.check()?;                    // before each write; and hand guard.token() to what is written to
/// guard.close().await?;              // dropping it releases too, in the background
///
/// let refused = Access::read_only().write().await;
/// assert!(matches!(refused, Err(Error::Access(AccessError::ReadOnly))));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Access {
    /// `None`: read-only.
    lease: Option<Arc<WriteLease>>,
    settings: Settings,
    slot: Arc<Mutex<Slot>>,
}

/// Finds the token of what a provider granted.
type Tokens = dyn Fn(&LeaseGuard) -> Option<Token> + Send + Sync;

/// How grants are judged.
#[derive(Clone)]
struct Settings {
    clock: Arc<dyn Clock>,
    clock_drift_max: Drift,
    ttl_at_most: Duration,
    tokens: Option<Arc<Tokens>>,
}

/// One access has one guard at a time.
#[derive(Default)]
struct Slot {
    closed: bool,
    acquiring: bool,
    /// The last guard's. It is held, or being released, or over.
    last: Option<Arc<Kept>>,
}

impl Access {
    /// For reading: [`write`](Self::write) is an error.
    #[must_use]
    pub fn read_only() -> Self {
        Self::of(None)
    }

    /// For reading and writing. Nothing is acquired before [`write`](Self::write) is called; a kind of lease that this
    /// build doesn't have is an error then (to find out at once, ask [`WriteLease::provider`] before).
    #[must_use]
    pub fn read_write(lease: WriteLease) -> Self {
        Self::of(Some(Arc::new(lease)))
    }

    fn of(lease: Option<Arc<WriteLease>>) -> Self {
        let settings = Settings {
            clock: Arc::new(SystemClock),
            clock_drift_max: Timing::default().clock_drift_max,
            ttl_at_most: TTL_MAX,
            tokens: None,
        };
        Self { lease, settings, slot: Arc::default() }
    }

    /// The longest that a guard of a `Custom` provider is believed in after one acquire or heartbeat, whatever
    /// `expires_at` says. Default 24 h, and never more.
    ///
    /// Give it the provider's true ttl where you know it: then no wall clock that is behind the provider's can make this
    /// process believe for too long. Hazard: longer than the true ttl, it protects from less.
    #[must_use]
    pub fn ttl_at_most(mut self, ttl: Duration) -> Self {
        self.settings.ttl_at_most = ttl.min(TTL_MAX);
        self
    }

    /// The largest difference in rate between this process's clock and that of a `Custom` provider. Default 1 %.
    ///
    /// Hazard: with a larger true drift two can believe at once; then only fencing protects.
    #[must_use]
    pub fn clock_drift_max(mut self, drift: Drift) -> Self {
        self.settings.clock_drift_max = drift;
        self
    }

    /// How to find the fencing token of what a `Custom` provider granted, where it has tokens: in the lease id, say.
    /// Default: [`WriteLease::token`] alone, which is asked first. It is called once for each grant, and must not block.
    ///
    /// ```
    /// # use leasehold::{Access, Token, WriteLease};
    /// # fn of(lease: WriteLease) -> Access {
    /// // A provider whose lease ids are "<random>-<version>".
    /// Access::read_write(lease).tokens_from(|guard| {
    ///     let (_, version) = guard.lease_id.rsplit_once('-')?;
    ///     version.parse().ok().map(Token::new)
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn tokens_from(
        mut self,
        find: impl Fn(&LeaseGuard) -> Option<Token> + Send + Sync + 'static,
    ) -> Self {
        self.settings.tokens = Some(Arc::new(find));
        self
    }

    /// The clock by which guards of a `Custom` provider run out. For tests; a clock that doesn't count suspend breaks
    /// rule L1. `Local` and `Raft` have clocks of their own.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Whether it was opened with [`read_only`](Self::read_only).
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.lease.is_none()
    }

    /// Acquires the right to write, without waiting for another writer. If the release of this access's last guard is
    /// still under way, it waits for that (a quarter of the ttl and 10 s at most). It takes as long as the provider's answer
    /// does: for `Raft` 10 s at most, for `Custom` whatever its provider takes.
    ///
    /// Cancel-safe: dropping the future gives the acquisition up; what was granted unseen is cancelled (`Raft`), or
    /// expires.
    ///
    /// # Errors
    /// What the provider says, [`AcquireError::Held`](crate::AcquireError::Held) for one (`Local`, `Raft`), when another
    /// writer holds the lease; [`Error::Unavailable`](crate::Error::Unavailable) when this build has no such provider;
    /// [`AccessError`] for everything else: for each variant it says whether something may have happened.
    pub async fn write(&self) -> Result<WriteGuard> {
        let lease = self.lease.as_ref().ok_or(AccessError::ReadOnly)?;
        let spawner = Spawner::try_current().ok_or(AccessError::NoRuntime)?;
        let turn = Turn::take(&self.slot)?;
        // Asked before it is released, the provider would say that another writer holds it.
        turn.last_is_over().await;
        let taken = take::take(lease, &self.settings, &spawner).await?;
        turn.give_out(taken, lease, &spawner)
    }

    /// Closes it for writing, for all clones: a guard that is held is lost ([`LossReason::AccessClosed`]) and released;
    /// waits for that. From then on [`write`](Self::write) is an error; an acquisition that is under way is released as
    /// soon as it is answered. Readers notice nothing. Any number may call it. Cancel-safe: dropping the future leaves
    /// the release to go on in the background.
    ///
    /// # Errors
    /// As [`WriteGuard::close`], when a release is not known to have succeeded. It is closed in any case.
    pub async fn close(&self) -> Result<()> {
        let last = {
            let mut slot = lock(&self.slot);
            slot.closed = true;
            slot.last.clone()
        };
        match last {
            Some(kept) => {
                kept.end(LossReason::AccessClosed);
                kept.released().await
            }
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.lease {
            None => f.write_str("Access::ReadOnly"),
            Some(lease) => write!(f, "Access::ReadWrite({lease:?})"),
        }
    }
}

/// No call leaves the slot half changed, so a thread that panicked with the lock held did no harm.
fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one acquisition that is under way through an access; dropping it lets the next one begin.
struct Turn<'a> {
    slot: &'a Mutex<Slot>,
    last: Option<Arc<Kept>>,
}

impl<'a> Turn<'a> {
    fn take(slot: &'a Mutex<Slot>) -> Result<Self, AccessError> {
        let mut locked = lock(slot);
        if locked.closed {
            return Err(AccessError::Closed);
        }
        // A guard that was lost may still be in someone's hand, and bars nobody.
        let is_held = locked.last.as_ref().is_some_and(|kept| kept.check().is_ok());
        if locked.acquiring || is_held {
            return Err(AccessError::AlreadyWriting);
        }
        locked.acquiring = true;
        Ok(Self { slot, last: locked.last.clone() })
    }

    /// Waits until nothing is done for the last guard any more.
    async fn last_is_over(&self) {
        if let Some(last) = &self.last {
            last.over().await;
        }
    }

    fn give_out(self, taken: Taken, lease: &Arc<WriteLease>, spawner: &Spawner) -> Result<WriteGuard> {
        let (over, told) = watch::channel(false);
        let kept = Arc::new(Kept::new(&taken, lease, told));
        let keeper = Keeper::new(lease.clone(), kept.clone(), taken.backing);
        let closed = {
            let mut slot = lock(self.slot);
            slot.last = Some(kept.clone());
            slot.closed
        };
        if closed {
            kept.end(LossReason::AccessClosed);
        }
        spawner.spawn(keeper.run(over));
        // From here on the keeper releases it, whatever becomes of the guard.
        let guard = WriteGuard::new(kept);
        if closed { Err(AccessError::Closed.into()) } else { Ok(guard) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(self.slot).acquiring = false;
    }
}
