//! Fault points: the places around everything that is persisted, sent and applied, at which a simulation may end the
//! process, take its power, or let it wait. In a build without the feature `chaos` none of them is there: [`fault_point!`]
//! is nothing at all.
//!
//! A crash that comes by the clock seldom falls between a write and its answer: that moment has no length. Here it is met
//! on purpose. A point that is passed asks whoever has put itself in its way on this thread, which is a simulation or nobody.
//! What is handed back is awaited: for a while, or for ever where the process ends; then nothing behind the point is done.
//!
//! Points stand where a task may wait, so that none of them is passed with a lock in hand that a destructor could want.
//! The writer's thread on a real disk and the real sockets have none: neither is simulated. What stands in their place,
//! `chaos/world/`, has its own ([`BeforeSync`](Point::BeforeSync), [`AfterSend`](Point::AfterSend) and their like).

#[cfg(feature = "chaos")]
use std::{cell::RefCell, fmt, future::Future, pin::Pin, rc::Rc};

/// The points: their names in the code, and for people.
#[cfg(feature = "chaos")]
macro_rules! points {
    ($($point:ident $name:literal,)*) => {
        /// A place at which a process may end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Point {
            $(#[doc = concat!("A process ends ", $name, ".")] $point,)*
        }

        impl Point {
            /// All.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$point),*];

            /// What it is called.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

#[cfg(feature = "chaos")]
points! {
    // Persisting.
    BeforeAppend "before it hands entries to its journal",
    AfterAppend "after entries are durable, before consensus hears of it",
    BeforeVote "before it writes its vote down",
    AfterVote "after its vote is durable",
    BeforeCommitMark "before it notes what is committed",
    AfterCommitMark "after it noted what is committed",
    BeforeTruncation "before it cuts its log",
    AfterTruncation "after it cut its log",
    BeforePurge "before it purges its log",
    AfterPurge "after it purged its log",
    BeforeSnapshot "before it writes a snapshot",
    AfterSnapshot "after a snapshot is durable",
    BeforePromise "before it writes its promise to a founding down",
    AfterPromise "after its promise to a founding is durable",
    BeforeSync "after a write, before it is synced",
    AfterSync "after a sync, before anybody hears of it",
    // Sending.
    BeforeAppendRequest "before it sends entries or a heartbeat",
    AfterAppendRequest "after entries or a heartbeat were answered",
    BeforeAppendAnswer "before it answers entries or a heartbeat",
    BeforeVoteRequest "before it asks for a vote",
    AfterVoteRequest "after it was answered about a vote",
    BeforeVoteAnswer "before it answers about its vote",
    BeforePreVoteRequest "before it asks for a pre-vote",
    AfterPreVoteRequest "after it was answered about a pre-vote",
    BeforePreVoteAnswer "before it answers about a pre-vote",
    BeforePieceRequest "before it sends a piece of a snapshot",
    AfterPieceRequest "after a piece of a snapshot was answered",
    BeforePieceAnswer "before it answers a piece of a snapshot",
    BeforeTransferRequest "before it hands leadership over",
    AfterTransferRequest "after it was answered about leadership",
    BeforeTransferAnswer "before it answers about leadership",
    BeforeRequest "before it sends a request to the leader",
    AfterRequest "after a request to the leader was answered",
    BeforeRequestAnswer "before it answers a request as the leader",
    BeforeRenewal "before it sends renewals to the leader",
    AfterRenewal "after renewals were answered",
    BeforeRenewalAnswer "before it answers renewals as the leader",
    BeforeFoundingRequest "before it asks another founder",
    AfterFoundingRequest "after another founder answered",
    BeforeFoundingAnswer "before it answers another founder",
    AfterSend "after a request has left",
    AfterAnswer "after an answer has left",
    // Applying.
    BeforeApply "before it applies an entry",
    AfterApply "after it applied an entry, before whoever proposed it hears of it",
    BeforeInstall "before it takes a snapshot for its table",
    AfterInstall "after it took a snapshot for its table",
}

#[cfg(feature = "chaos")]
impl Point {
    /// Whether it is passed while a cluster is founded, and hardly ever later.
    #[must_use]
    pub fn is_of_founding(self) -> bool {
        matches!(
            self,
            Self::BeforePromise
                | Self::AfterPromise
                | Self::BeforeFoundingRequest
                | Self::AfterFoundingRequest
                | Self::BeforeFoundingAnswer
        )
    }

    /// Whether a task may be held up there. Not where none can wait ([`ends_at!`]). Nor where a replication stream sends: that
    /// is in the order in which its futures are polled first, which the transport promises to keep, so that a wait in
    /// between would be a fault of the harness.
    pub(crate) fn may_wait(self) -> bool {
        !matches!(self, Self::AfterAppend | Self::BeforeAppendRequest)
    }
}

#[cfg(feature = "chaos")]
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a task waits for at a point.
#[cfg(feature = "chaos")]
pub(crate) type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whoever stands in the way at the points of a thread.
#[cfg(feature = "chaos")]
pub(crate) trait Watch {
    /// The present task passes a point; unless it is to wait.
    fn passes(&self, point: Point) -> Option<Wait>;
}

#[cfg(feature = "chaos")]
thread_local! {
    static WATCH: RefCell<Option<Rc<dyn Watch>>> = const { RefCell::new(None) };
}

/// The present task passes a point; unless it is to wait.
#[cfg(feature = "chaos")]
pub(crate) fn passes(point: Point) -> Option<Wait> {
    // None while the thread is torn down.
    WATCH.try_with(|watch| watch.borrow().clone()).ok().flatten()?.passes(point)
}

/// Puts somebody in the way until the guard is dropped.
#[cfg(feature = "chaos")]
pub(crate) fn guard(watch: Rc<dyn Watch>) -> Guarded {
    Guarded { before: WATCH.with(|present| present.borrow_mut().replace(watch)) }
}

/// See [`guard`].
#[cfg(feature = "chaos")]
pub(crate) struct Guarded {
    before: Option<Rc<dyn Watch>>,
}

#[cfg(feature = "chaos")]
impl Drop for Guarded {
    fn drop(&mut self) {
        let before = self.before.take();
        // The old one is dropped outside of the borrow: what it owns may pass points.
        let old = WATCH.try_with(|present| std::mem::replace(&mut *present.borrow_mut(), before));
        drop(old);
    }
}

/// A point, where a task may wait: by its name, by its name under a condition, or (`=`) by an expression. Nothing, without
/// the feature `chaos`; then neither condition nor expression is evaluated.
macro_rules! fault_point {
    ($point:ident) => {
        $crate::fault_point::fault_point!(= $crate::fault_point::Point::$point)
    };
    ($point:ident if $condition:expr) => {
        #[cfg(feature = "chaos")]
        if $condition {
            $crate::fault_point::fault_point!($point);
        }
    };
    (= $point:expr) => {
        #[cfg(feature = "chaos")]
        if let Some(wait) = $crate::fault_point::passes($point) {
            wait.await;
        }
    };
}
pub(crate) use fault_point;

/// A point where no task can wait. Whether the process ends there: then nothing behind it may be done. `false` without the
/// feature `chaos`.
macro_rules! ends_at {
    ($point:ident) => {{
        #[cfg(feature = "chaos")]
        let ends = $crate::fault_point::passes($crate::fault_point::Point::$point).is_some();
        #[cfg(not(feature = "chaos"))]
        let ends = false;
        ends
    }};
}
pub(crate) use ends_at;

#[cfg(test)]
mod tests {
    #[cfg(feature = "chaos")]
    use super::Point;

    /// In every build: where nobody simulates, a point is passed at once.
    #[tokio::test]
    async fn without_a_simulation_a_point_is_nothing() {
        fault_point!(BeforeAppend);
        fault_point!(BeforeAppend if true);
        assert!(!ends_at!(AfterAppend));
    }

    /// What is behind `=` and `if` is not even compiled where there are no points.
    #[cfg(not(feature = "chaos"))]
    #[test]
    fn without_the_feature_nothing_is_compiled() {
        let nothing: () = {
            fault_point!(NoSuchPoint);
            fault_point!(NoSuchPoint if no_such_value);
            fault_point!(= no_such_function());
        };
        assert_eq!(size_of_val(&nothing), 0);
    }

    #[cfg(feature = "chaos")]
    #[test]
    fn points_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
