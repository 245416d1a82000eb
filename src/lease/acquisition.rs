//! Acquiring: from the wish for a lease to a [`Lease`] in hand.
//!
//! The lease id is drawn here and kept over every retry, so that asking again is harmless (L7). Two things make the
//! returned lease safe to believe in (L1):
//!
//! - Granted at once: the leader counts its deadline from the moment the grant was applied, which is after the first
//!   copy of the request was sent; the holder counts from *before* that first copy. If asking took a good part of the
//!   ttl, the lease is renewed once before it is returned.
//! - Granted after waiting: the waiter renews once, successfully, and counts from before that renewal. No lease is
//!   returned that has already run out.
//!
//! Whoever would wait for what its own process has is told so before anything is asked: see `own.rs`. Where many ask at once,
//! their first requests go out in turn: see `crowd.rs`.
//!
//! Dropping the future at any await leaves nothing behind: [`Abandon`] cancels the lease id in the background, and
//! should the cancellation never arrive, nobody renews it, so it ends within its ttl.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Grant, Lease, acquire::Holding, crowd::CarriedOut, held::Held, renewer::Upkeep, requester::Requester,
};
use crate::{
    error::AcquireError,
    flaw::planted,
    id::LeaseId,
    message::{Failure, Request, Response, Standing, Verdict},
    mode::Mode,
    name::Name,
    runtime::{self, Either},
    session::Session,
    table::{Acquire, Outcome},
    time::Moment,
    token::Token,
};

/// How long one request is asked for before it is looked whether to go on.
pub(super) const ASK_AT_MOST: Duration = Duration::from_secs(5);
/// How long one wait for the turn takes before it is asked for again.
const AWAIT_AT_MOST: Duration = Duration::from_secs(5);
/// The same while somebody wants to know the place in the queue.
const AWAIT_AT_MOST_TELLING: Duration = Duration::from_secs(1);

/// How long to wait after the cluster said that this agent's view of the log is too old.
const TOO_OLD_PAUSE: Duration = Duration::from_millis(50);

/// What is told the place in the queue.
pub(super) type OnWait = Box<dyn FnMut(u64) + Send>;

/// A checked request under way.
pub(super) struct Acquisition {
    pub(super) holding: Arc<Holding>,
    pub(super) name: Name,
    pub(super) ttl: Duration,
    pub(super) ttl_ms: u64,
    /// `None`: without end.
    pub(super) within: Option<Duration>,
    pub(super) wait: bool,
    pub(super) metadata: Bytes,
    pub(super) upkeep: Upkeep,
    pub(super) behind_own: bool,
    pub(super) began: Moment,
    pub(super) mode: Mode,
    pub(super) lock_delay_ms: u64,
}

/// What the cluster said of a lease id.
struct Said {
    id: LeaseId,
    outcome: Outcome,
    /// Before the first copy of the request was sent.
    sent: Moment,
    /// When the answered copy was sent, if no earlier one can have been taken. Else the grant may be an old one, and how old
    /// is for a clock to say that nobody has read meanwhile: it may have gone back. A renewal says it anew.
    only_copy: Option<Moment>,
    abandon: Abandon,
}

/// How one lease id fared.
enum Tried {
    Got(Lease),
    /// The id is used up without a grant that can be believed in; another one may be tried.
    Again,
}

impl Acquisition {
    fn now(&self) -> Moment {
        self.holding.requester.clock().now()
    }

    /// What is left of the time; `None`: it has no end.
    fn rest(&self) -> Option<Duration> {
        self.within.map(|within| within.saturating_sub(self.now().since(self.began)))
    }

    /// What is left of the time, at most `most`; `None` when it is over.
    fn left(&self, most: Duration) -> Option<Duration> {
        let left = self.rest().map_or(most, |rest| rest.min(most));
        (!left.is_zero()).then_some(left)
    }

    pub(super) async fn run(self: Arc<Self>, on_wait: &mut Option<OnWait>) -> Result<Lease, AcquireError> {
        let outcome = loop {
            match self.try_id(on_wait).await {
                Ok(Tried::Got(lease)) => break Ok(lease),
                Ok(Tried::Again) => {}
                Err(error) => break Err(error),
            }
        };
        #[cfg(feature = "metrics")]
        crate::metrics::acquired(outcome.as_ref().map(drop), self.now().since(self.began));
        outcome
    }

    /// One lease id, from the first request to its end.
    async fn try_id(self: &Arc<Self>, on_wait: &mut Option<OnWait>) -> Result<Tried, AcquireError> {
        let acquisition = self.clone();
        let asked = async move { acquisition.ask().await };
        let spawn = |task| self.holding.requester.spawn_while_open(task);
        let Said { id, outcome, sent, only_copy, mut abandon } =
            match self.holding.crowd.carry_out(spawn, self.rest(), asked).await {
                CarriedOut::Done(said) => said?,
                CarriedOut::NeverBegun => {
                    let within = self.within.unwrap_or_default();
                    return Err(AcquireError::TimedOut { name: self.name.clone(), within });
                }
                CarriedOut::Stopped => {
                    return Err(AcquireError::Stopped { detail: "it asks for nothing any more".to_owned() });
                }
            };
        match outcome {
            Outcome::Granted { token } => {
                match only_copy.filter(|sent| self.now().since(*sent) < self.ttl / 3) {
                    Some(sent) => Ok(Tried::Got(self.hold(id, token, sent, abandon))),
                    None => self.confirm(id, token, abandon).await,
                }
            }
            Outcome::Waiting { position } => {
                if let Some(token) = self.holding.own.held(&self.name).filter(|_| !self.behind_own) {
                    // Leases that share a name, with somebody else between them: it would wait for itself as well.
                    return Err(AcquireError::HeldHere { name: self.name.clone(), token: Some(token) });
                }
                let place = Place { position, on_wait };
                self.wait_turn(id, place, sent, abandon).await
            }
            Outcome::Held(by) => {
                abandon.keep();
                Err(AcquireError::Held { name: self.name.clone(), holder: Box::new(by.into()) })
            }
            Outcome::Closed(by) => {
                abandon.keep();
                Err(AcquireError::Closed {
                    name: self.name.clone(),
                    agent: by.holder.agent,
                    delay: Duration::from_millis(by.delay_ms),
                })
            }
            Outcome::Ended { .. } => {
                abandon.keep();
                Ok(Tried::Again)
            }
            Outcome::TooOld { .. } => {
                abandon.keep();
                // The position that was taken is behind the cluster's memory: let it catch up.
                runtime::sleep(TOO_OLD_PAUSE).await;
                Ok(Tried::Again)
            }
            Outcome::Refused(refusal) => {
                abandon.keep();
                Err(AcquireError::Refused { name: self.name.clone(), detail: refusal.to_string() })
            }
            other => Err(AcquireError::Refused {
                name: self.name.clone(),
                detail: format!("the leader gave an answer that fits no acquisition: {other:?}"),
            }),
        }
    }

    /// Draws a lease id and asks for it until there is an answer.
    async fn ask(&self) -> Result<Said, AcquireError> {
        let seen = self.seen().await?;
        let id = LeaseId::from_bits(runtime::random_u128());
        let mut abandon = Abandon::new(self, id);
        let request = Request::Acquire(Acquire {
            name: self.name.clone(),
            lease_id: id,
            agent: self.holding.requester.holder().clone(),
            ttl_ms: self.ttl_ms,
            wait: self.wait,
            metadata: self.metadata.clone(),
            seen,
            mode: self.mode,
            lock_delay_ms: self.lock_delay_ms,
        });
        let sent = self.now();
        let (outcome, only_copy) = self.ask_until_answered(&request, &mut abandon).await?;
        Ok(Said { id, outcome, sent, only_copy, abandon })
    }

    async fn seen(&self) -> Result<u64, AcquireError> {
        loop {
            let Some(left) = self.left(ASK_AT_MOST) else {
                return Err(AcquireError::Unavailable {
                    name: self.name.clone(),
                    detail: "no agent answered in time".to_owned(),
                });
            };
            match self.holding.requester.seen(left).await {
                Ok(seen) => return Ok(seen),
                Err(Failure::Stopped(detail)) => return Err(AcquireError::Stopped { detail }),
                Err(Failure::Refused(detail)) => {
                    return Err(AcquireError::Refused { name: self.name.clone(), detail });
                }
                Err(error) => tracing::debug!(%error, "the log's position is not known yet"),
            }
        }
    }

    /// The outcome, and when the request was sent, if no earlier copy can have been taken.
    async fn ask_until_answered(
        &self,
        request: &Request,
        abandon: &mut Abandon,
    ) -> Result<(Outcome, Option<Moment>), AcquireError> {
        let mut sent_before = false;
        loop {
            let sent = self.now();
            let name = self.name.clone();
            let Some(left) = self.left(ASK_AT_MOST) else {
                let detail = format!("no leader answered within {:?}", self.within.unwrap_or_default());
                if !sent_before {
                    abandon.keep();
                    return Err(AcquireError::Unavailable { name, detail });
                }
                return Err(AcquireError::Unknown { name, detail, ttl: self.ttl });
            };
            let answered = self.holding.requester.ask(request, left).await;
            sent_before |= answered.repeated;
            match answered.response {
                Response::Outcome(outcome) => return Ok((outcome, (!sent_before).then_some(sent))),
                Response::Failed(Failure::Unknown(detail)) => {
                    sent_before = true;
                    tracing::debug!(name = %self.name, detail, "asking again");
                }
                Response::Failed(Failure::Unavailable(detail)) => {
                    tracing::debug!(name = %self.name, detail, "asking again");
                }
                Response::Failed(Failure::Refused(detail)) if sent_before => {
                    return Err(AcquireError::Unknown { name, detail, ttl: self.ttl });
                }
                Response::Failed(Failure::Refused(detail)) => {
                    abandon.keep(); // It is the only copy.
                    return Err(AcquireError::Refused { name, detail });
                }
                other => return Err(self.not_understood(other)),
            }
        }
    }

    fn hold(&self, id: LeaseId, token: Token, sent: Moment, mut abandon: Abandon) -> Lease {
        abandon.keep();
        let sent = if planted!(DeadlineFromReceipt) { self.now() } else { sent };
        let requester = &self.holding.requester;
        let session = Session::granted(sent, self.ttl, requester.timing().clock_drift_max);
        let held = Held::new(requester.clock().clone(), session);
        let grant = Grant { name: self.name.clone(), id, token };
        Lease::new(self.holding.clone(), grant, Arc::new(held), self.upkeep, self.mode == Mode::Exclusive)
    }

    /// The renewal without which no waited-for lease is returned.
    async fn confirm(&self, id: LeaseId, token: Token, abandon: Abandon) -> Result<Tried, AcquireError> {
        if planted!(NoConfirmingRenewal) {
            return Ok(Tried::Got(self.hold(id, token, self.now(), abandon)));
        }
        loop {
            let Some(left) = self.left(ASK_AT_MOST) else {
                return Err(AcquireError::TimedOut {
                    name: self.name.clone(),
                    within: self.within.unwrap_or_default(),
                });
            };
            let sent = self.now();
            let answered = self.holding.requester.ask(&Request::Renew { leases: vec![id] }, left).await;
            match answered.response {
                Response::Renewed(verdicts) => match verdicts.as_slice() {
                    // Counted from before the first copy was sent: if that was long ago, once more.
                    [Verdict::Extended] if self.now().since(sent) < self.ttl / 3 => {
                        return Ok(Tried::Got(self.hold(id, token, sent, abandon)));
                    }
                    [Verdict::Extended] => {}
                    _ => return Ok(Tried::Again),
                },
                Response::Failed(Failure::Unavailable(detail) | Failure::Unknown(detail)) => {
                    tracing::debug!(name = %self.name, detail, "a granted lease could not be confirmed yet");
                }
                other => return Err(self.not_understood(other)),
            }
        }
    }

    /// An answer that asking again would not change.
    fn not_understood(&self, response: Response) -> AcquireError {
        let name = self.name.clone();
        match response {
            Response::Failed(Failure::Stopped(detail)) => AcquireError::Stopped { detail },
            Response::Failed(Failure::Refused(detail)) => AcquireError::Refused { name, detail },
            other => AcquireError::Unknown {
                name,
                detail: format!("an unexpected answer: {other:?}"),
                ttl: self.ttl,
            },
        }
    }

    async fn wait_turn(
        &self,
        id: LeaseId,
        mut place: Place<'_>,
        sent: Moment,
        abandon: Abandon,
    ) -> Result<Tried, AcquireError> {
        tracing::debug!(name = %self.name, position = place.position, "queued");
        // Keeps the place in the queue alive, and tells when it is lost.
        let mut kept = self.holding.renewer.wait_in_queue(id, self.ttl, sent);
        let await_at_most = if place.on_wait.is_some() { AWAIT_AT_MOST_TELLING } else { AWAIT_AT_MOST };
        place.tell();
        loop {
            kept.seen();
            let Some(left) = self.left(await_at_most) else {
                return Err(AcquireError::TimedOut {
                    name: self.name.clone(),
                    within: self.within.unwrap_or_default(),
                });
            };
            let at_most_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
            let request = Request::Await { lease_id: id, at_most_ms };
            let asked = self.holding.requester.ask(&request, left + ASK_AT_MOST);
            let answered = match runtime::select2(asked, kept.lost()).await {
                Either::First(answered) => answered,
                Either::Second(()) => return Ok(Tried::Again),
            };
            match answered.response {
                Response::Standing(Standing::Holding(token)) => {
                    if !kept.leave() {
                        // Revoked meanwhile, and perhaps given back: no renewal may make up for that.
                        return Ok(Tried::Again);
                    }
                    return self.confirm(id, token, abandon).await;
                }
                Response::Standing(Standing::Ended(_)) => return Ok(Tried::Again),
                Response::Standing(Standing::Waiting { position }) => place.is_now(position),
                Response::Standing(Standing::Unknown) => {}
                Response::Failed(Failure::Unavailable(detail) | Failure::Unknown(detail)) => {
                    tracing::debug!(name = %self.name, detail, "the turn could not be asked for");
                }
                other => return Err(self.not_understood(other)),
            }
        }
    }
}

/// A place in a queue, and who is told of it.
struct Place<'a> {
    position: u64,
    on_wait: &'a mut Option<OnWait>,
}

impl Place<'_> {
    fn tell(&mut self) {
        if let Some(on_wait) = self.on_wait {
            on_wait(self.position);
        }
    }

    fn is_now(&mut self, position: u64) {
        if self.position != position {
            self.position = position;
            self.tell();
        }
    }
}

/// Cancels a lease id when dropped, unless the lease was handed on.
struct Abandon {
    requester: Option<Arc<dyn Requester>>,
    id: LeaseId,
    within: Duration,
}

impl Abandon {
    fn new(acquisition: &Acquisition, id: LeaseId) -> Self {
        Self { requester: Some(acquisition.holding.requester.clone()), id, within: acquisition.ttl }
    }

    /// There is nothing to cancel.
    fn keep(&mut self) {
        self.requester = None;
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        let Some(requester) = self.requester.take() else { return };
        let (id, within) = (self.id, self.within);
        let asking = requester.clone();
        requester.spawn(Box::pin(async move {
            let answered = asking.ask(&Request::Cancel { lease_id: id }, within).await;
            tracing::debug!(%id, response = ?answered.response, "gave an acquisition up");
        }));
    }
}
