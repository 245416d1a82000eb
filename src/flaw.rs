//! Bugs that are planted on purpose, so that the simulation proves that it would find them: each is one switch, read where
//! the sound code stands. In a build without the feature `chaos` none of them is there: [`planted!`] is `false`.
//!
//! A flaw belongs to the run of a simulation, and so to its thread: nothing else of the process is concerned.

#[cfg(feature = "chaos")]
use std::cell::Cell;

/// A bug, of those that are known to be easily made.
#[cfg(feature = "chaos")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Flaw {
    /// What is acknowledged is in the system's cache, and not on the device.
    NoSync,
    /// A leader that restarts goes on in its old term.
    LeaderRestore,
    /// Leadership is confirmed by openraft's own read lease, and not by asking a quorum; and whoever restarts is not
    /// silent for as long as one that it granted may last.
    LeaseRead,
    /// A release is answered before a quorum has it.
    AnswerBeforeQuorum,
    /// Leadership is confirmed without asking anybody.
    ConfirmAlone,
    /// The vote is not written down.
    VoteNotSaved,
    /// A holder counts from when the answer came, and not from before it asked.
    DeadlineFromReceipt,
    /// Neither side leaves room for the clocks' drift.
    NoDriftMargin,
    /// A node that leads again goes on with the deadlines of its earlier leadership.
    OldDeadlines,
    /// An expiry is proposed in any term, and applied in any, whether or not a quorum is in reach.
    ExpiryWithoutTerm,
    /// A lease whose expiry was proposed is renewed all the same.
    RenewalAfterExpiry,
    /// Ids that have ended are not remembered.
    EndedForgotten,
    /// A snapshot has no last token.
    SnapshotWithoutToken,
    /// A snapshot has no queues.
    SnapshotWithoutWaiters,
    /// A snapshot has no ended ids.
    SnapshotWithoutEnded,
    /// A waiter has its lease without the renewal that confirms it.
    NoConfirmingRenewal,
    /// Applying an entry reads the wall clock.
    WallClockInApply,
    /// A leader that stood still does not extend its deadlines.
    NoStallCompensation,
    /// A revocation ends the lease at once.
    RevokeEndsAtOnce,
    /// Whoever came last is granted first.
    LastComeFirstServed,
    /// A watcher that goes on at another agent misses an entry.
    WatchWithGap,
    /// A closed name opens after half of its lock delay.
    LockDelayHalved,
    /// In the place of its heir a lease goes to whoever waits last.
    WrongHeir,
    /// Permits that come free are not handed on while others are held.
    PermitsIdle,
    /// A holder that hears nothing does not find out by its own timer.
    HolderWithoutTimer,
    /// An empty disk takes the node id that its agent had before.
    OldIdOnEmptyDisk,
}

#[cfg(feature = "chaos")]
impl Flaw {
    /// All.
    pub const ALL: [Self; 26] = [
        Self::NoSync,
        Self::LeaderRestore,
        Self::LeaseRead,
        Self::AnswerBeforeQuorum,
        Self::ConfirmAlone,
        Self::VoteNotSaved,
        Self::DeadlineFromReceipt,
        Self::NoDriftMargin,
        Self::OldDeadlines,
        Self::ExpiryWithoutTerm,
        Self::RenewalAfterExpiry,
        Self::EndedForgotten,
        Self::SnapshotWithoutToken,
        Self::SnapshotWithoutWaiters,
        Self::SnapshotWithoutEnded,
        Self::NoConfirmingRenewal,
        Self::WallClockInApply,
        Self::NoStallCompensation,
        Self::RevokeEndsAtOnce,
        Self::LastComeFirstServed,
        Self::WatchWithGap,
        Self::LockDelayHalved,
        Self::WrongHeir,
        Self::PermitsIdle,
        Self::HolderWithoutTimer,
        Self::OldIdOnEmptyDisk,
    ];
}

#[cfg(feature = "chaos")]
thread_local! {
    static PLANTED: Cell<Option<Flaw>> = const { Cell::new(None) };
}

/// Whether this flaw is planted in the run of this thread.
#[cfg(feature = "chaos")]
pub(crate) fn is_planted(flaw: Flaw) -> bool {
    // None while the thread is torn down.
    PLANTED.try_with(Cell::get).ok().flatten() == Some(flaw)
}

/// Plants it until the guard is dropped.
#[cfg(feature = "chaos")]
pub(crate) fn plant(flaw: Option<Flaw>) -> Planted {
    Planted { before: PLANTED.with(|planted| planted.replace(flaw)) }
}

/// See [`plant`].
#[cfg(feature = "chaos")]
pub(crate) struct Planted {
    before: Option<Flaw>,
}

#[cfg(feature = "chaos")]
impl Drop for Planted {
    fn drop(&mut self) {
        let _ = PLANTED.try_with(|planted| planted.set(self.before));
    }
}

/// Whether this flaw is planted; `false` in a build without the feature `chaos`.
macro_rules! planted {
    ($flaw:ident) => {{
        #[cfg(feature = "chaos")]
        let planted = $crate::flaw::is_planted($crate::flaw::Flaw::$flaw);
        #[cfg(not(feature = "chaos"))]
        let planted = false;
        planted
    }};
}
pub(crate) use planted;
