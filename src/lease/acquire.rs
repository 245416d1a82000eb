//! The wish for a lease, with its options. What becomes of it is in `acquisition.rs`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Lease,
    acquisition::{ASK_AT_MOST, Acquisition, OnWait},
    crowd::Crowd,
    own::{InTheWay, Own},
    renewer::{Renewer, Upkeep},
    requester::Requester,
};
use crate::{
    config::TtlError,
    error::AcquireError,
    limits::{LOCK_DELAY_MAX, METADATA_BYTES_MAX},
    mode::Mode,
    name::{Name, NameError},
    runtime,
};

/// What every lease of an agent or client shares: one value, so that each lease has one pointer for it.
pub(crate) struct Holding {
    pub(crate) requester: Arc<dyn Requester>,
    pub(crate) renewer: Arc<Renewer>,
    pub(crate) own: Own,
    pub(super) crowd: Crowd,
}

impl Holding {
    pub(crate) fn new(requester: Arc<dyn Requester>, renewer: Arc<Renewer>) -> Arc<Self> {
        Arc::new(Self { requester, renewer, own: Own::default(), crowd: Crowd::default() })
    }
}

/// A wish for a lease, with its options; made by [`Agent::lease`](crate::Agent::lease).
///
/// | option | default | |
/// | --- | --- | --- |
/// | [`ttl`](Self::ttl) | the agent's (10 s) | how long the lease outlives its holder |
/// | [`wait_at_most`](Self::wait_at_most) | without end | how long to queue |
/// | [`metadata`](Self::metadata) | none | what others see of this holder |
/// | [`without_renewal`](Self::without_renewal) | renewed | whether it is kept alive in the background |
/// | [`mode`](Self::mode) | exclusive | whether others may hold the name beside it |
/// | [`lock_delay`](Self::lock_delay) | none | how long the name stays closed to others after an expiry |
/// | [`on_wait`](Self::on_wait) | nothing | what is told the place in the queue |
/// | [`queue_behind_own`](Self::queue_behind_own) | an error | whether to wait for what this agent itself holds |
#[must_use = "nothing is asked for until acquire() or try_acquire() is awaited"]
pub struct LeaseRequest {
    holding: Arc<Holding>,
    name: Result<Name, NameError>,
    ttl: Option<Duration>,
    wait_at_most: Option<Duration>,
    metadata: Bytes,
    upkeep: Upkeep,
    mode: Mode,
    lock_delay: Duration,
    on_wait: Option<OnWait>,
    behind_own: bool,
}

impl LeaseRequest {
    pub(crate) fn new(holding: Arc<Holding>, name: &str) -> Self {
        Self {
            holding,
            name: Name::new(name),
            ttl: None,
            wait_at_most: None,
            metadata: Bytes::new(),
            upkeep: Upkeep { renewed: true, given_back: true },
            mode: Mode::Exclusive,
            lock_delay: Duration::ZERO,
            on_wait: None,
            behind_own: false,
        }
    }

    /// How long the lease lives without a renewal: from two election timeouts ([`Timing::ttl_min`]) to 24 h.
    ///
    /// A short one frees the name sooner when the holder dies; a long one outlasts longer disturbances.
    ///
    /// [`Timing::ttl_min`]: crate::Timing::ttl_min
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Gives up after this long, with [`AcquireError::TimedOut`].
    pub fn wait_at_most(mut self, span: Duration) -> Self {
        self.wait_at_most = Some(span);
        self
    }

    /// Up to 4 KiB that others see beside the holder's name.
    pub fn metadata(mut self, metadata: impl Into<Bytes>) -> Self {
        self.metadata = metadata.into();
        self
    }

    /// Leaves renewing to the caller ([`Lease::renew`]); otherwise it happens in the background every ttl/3.
    pub fn without_renewal(mut self) -> Self {
        self.upkeep.renewed = false;
        self
    }

    /// Whoever believes in it can't be told of its end: neither dropping nor revoking it gives it back.
    pub(crate) fn left_to_expire(mut self) -> Self {
        self.upkeep.given_back = false;
        self
    }

    /// How it shares the name with others: see [`Mode`]. Tasks of one agent that share a name should ask with
    /// [`queue_behind_own`](Self::queue_behind_own): somebody else may wait between them.
    ///
    /// A [`Fence`](crate::Fence) orders *exclusive* leases. Of leases that are held at the same time it would refuse all
    /// but the youngest: let shared ones read, and permits do what needs no order.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// After this lease has *expired* (its holder died, or was cut off) the name stays closed for this long, to all but
    /// the agent that held it, known by its name, which should therefore be its own: time for what it has sent off to arrive, where no fence can refuse it. Off by default; at
    /// most 24 h; of exclusive leases only. A lease that is released opens the name at once.
    ///
    /// A change of leader starts the span afresh, as it does a ttl.
    pub fn lock_delay(mut self, span: Duration) -> Self {
        self.lock_delay = span;
        self
    }

    /// Calls this with the place in the queue, 1 for the next: when it queues, and within about 1 s of each change.
    /// Not called when it need not wait. After a leader's end or a long pause the place may be a later one than before.
    ///
    /// It runs where the future is polled: it must not block.
    ///
    /// ```no_run
    /// # async fn example(agent: leasehold::Agent) -> leasehold::Result<()> {
    /// let lease = agent.lease("orders.db").on_wait(|place| println!("number {place} in the queue")).acquire().await?;
    /// # drop(lease); Ok(()) }
    /// ```
    pub fn on_wait(mut self, tell: impl FnMut(u64) + Send + 'static) -> Self {
        self.on_wait = Some(Box::new(tell));
        self
    }

    /// Waits for a name even if this agent (or this client) itself holds it or waits for it, so that its tasks take
    /// turns. Without it that is [`AcquireError::HeldHere`]: a task that asks for what it already holds would wait for
    /// itself, for as long as the lease is renewed.
    pub fn queue_behind_own(mut self) -> Self {
        self.behind_own = true;
        self
    }

    /// Acquires, waiting for its turn behind those who asked before.
    ///
    /// The future must be polled: one that is kept and not polled for 15 s loses its place in the queue (and the lease,
    /// if its turn has come) within two ttls, and queues anew when it is polled again.
    ///
    /// Cancel-safe: dropping the future gives the acquisition up; see the errors for what else may have happened.
    ///
    /// # Errors
    /// [`AcquireError`]: for each variant it says whether something may have happened.
    pub async fn acquire(mut self) -> Result<Lease, AcquireError> {
        let mut on_wait = self.on_wait.take();
        let acquisition = self.check(true)?;
        let exclusive = acquisition.mode == Mode::Exclusive;
        let _waits =
            match Own::wait(&acquisition.holding, &acquisition.name, exclusive, acquisition.behind_own) {
                Ok(call) => call,
                Err(in_the_way) => {
                    // Nothing was waited for: a loop that asks again at once would keep its thread to itself.
                    runtime::yield_now().await;
                    let token = match in_the_way {
                        InTheWay::Lease(token) => Some(token),
                        InTheWay::Call => None,
                    };
                    return Err(AcquireError::HeldHere { name: acquisition.name.clone(), token });
                }
            };
        Arc::new(acquisition).run(&mut on_wait).await
    }

    /// Acquires if the name is free.
    ///
    /// Cancel-safe, as [`acquire`](Self::acquire) is. `wait_at_most` bounds how long an answer of the cluster is
    /// waited for (default 10 s); it never queues.
    ///
    /// # Errors
    /// [`AcquireError::Held`] says who holds it, since when, and with which token.
    pub async fn try_acquire(self) -> Result<Lease, AcquireError> {
        let acquisition = self.check(false)?;
        Arc::new(acquisition).run(&mut None).await
    }

    fn check(self, wait: bool) -> Result<Acquisition, AcquireError> {
        let name = self.name?;
        let timing = self.holding.requester.timing();
        let ttl = self.ttl.unwrap_or(timing.ttl);
        timing.check_ttl(ttl)?;
        if self.metadata.len() > METADATA_BYTES_MAX {
            return Err(AcquireError::Metadata { bytes: self.metadata.len() });
        }
        if !self.mode.is_valid() {
            return Err(AcquireError::Mode { mode: self.mode });
        }
        let span = self.lock_delay;
        if span > LOCK_DELAY_MAX || !span.is_zero() && self.mode != Mode::Exclusive {
            return Err(AcquireError::LockDelay { span, mode: self.mode });
        }
        // Whole milliseconds travel; the name must not open early.
        let lock_delay_ms = u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        // Whole milliseconds travel; the holder must not believe longer than the leader waits.
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let within =
            if wait { self.wait_at_most } else { Some(self.wait_at_most.unwrap_or(ASK_AT_MOST * 2)) };
        Ok(Acquisition {
            began: self.holding.requester.clock().now(),
            holding: self.holding,
            name,
            ttl: Duration::from_millis(ttl_ms),
            ttl_ms,
            within,
            wait,
            metadata: self.metadata,
            upkeep: self.upkeep,
            behind_own: self.behind_own,
            mode: self.mode,
            lock_delay_ms,
        })
    }
}

impl From<TtlError> for AcquireError {
    fn from(error: TtlError) -> Self {
        Self::Ttl(error)
    }
}
