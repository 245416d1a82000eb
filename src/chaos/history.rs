//! What a run was like, in true time: what clients asked and were answered, when they believed, what the agents applied,
//! what a protected resource let in. The [checkers](super::check) are functions over it, and know nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use super::{swarm::NOTICED, world::PointEffect};
use crate::{
    change::{Change, ChangeKind},
    fault_point::Point,
    id::{LeaseId, NodeId},
    lease::TransferTo,
    mode::Mode,
    name::Name,
    session::LossReason,
    token::Token,
};

/// What a run was like. All times are true, since the beginning.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct History {
    /// How many agents there were.
    pub agents: usize,
    /// How many of them founded the cluster; those behind them join it.
    pub founders: usize,
    /// How many members vote at most; nothing where the membership stays as it was founded.
    pub voters_max: Option<usize>,
    /// Whether clocks kept to the declared bound. Where they did not, two may believe.
    pub drift_bounded: bool,
    /// The longest ttl and lock delay that the workload asked for: what bounds are made of.
    pub ttl_max: Duration,
    /// The log, by index: what each entry changed, as whoever applied it first had it.
    pub log: BTreeMap<u64, Committed>,
    /// The memberships, by the index of the entry that sets each.
    pub memberships: BTreeMap<u64, Membership>,
    /// Each opening of an agent's disk: which member it belongs to.
    pub openings: Vec<Opening>,
    /// Agents that tried to leave.
    pub departures: Vec<Departure>,
    /// Every entry that an agent applied, in each of its lives.
    pub applied: Vec<Applied>,
    /// When clients believed that they held something.
    pub beliefs: Vec<Belief>,
    /// What clients asked and were answered.
    pub calls: Vec<Call>,
    /// What reached the protected resources, in order.
    pub writes: Vec<Write>,
    /// What watchers were told.
    pub watchers: Vec<Watcher>,
    /// What was done to the cluster.
    pub disturbances: Vec<Disturbance>,
    /// What happened at fault points, in order.
    pub at_points: Vec<PointHit>,
    /// How often each fault point was passed.
    pub points_passed: BTreeMap<Point, u64>,
    /// The agents' lives.
    pub lives: Vec<Life>,
    /// Who led, as it was seen from time to time: no rule is about it.
    pub leaderships: Vec<Leadership>,
    /// When everything was mended, at the end.
    pub mended: Option<Duration>,
    /// Whether the membership became what it should be after that.
    pub settling: Option<Settling>,
    /// Whether just as many voters as a majority were left alive in the end, of more than one.
    pub bare_quorum: bool,
    /// Agents that were killed for good after that, so that a bare quorum was left.
    pub left_dead: Vec<usize>,
    /// What was to be granted after that, within a bound.
    pub probes: Vec<Probe>,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// Its term.
    pub term: u64,
    /// When it was applied for the first time anywhere.
    pub at: Duration,
    /// A digest of what it changed.
    pub digest: u64,
    /// What it changed, in order.
    pub changes: Vec<Changed>,
}

/// A membership, when its entry was applied for the first time anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Membership {
    /// The term of its entry.
    pub term: u64,
    /// When it was applied first.
    pub at: Duration,
    /// Of each of these sets a majority must agree. Two, where a change of voters is half done.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// All members, with their agents' names.
    pub members: BTreeMap<NodeId, String>,
}

impl Membership {
    /// Whether a change of voters is half done.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.voters.len() > 1
    }

    /// Whether this member votes.
    #[must_use]
    pub fn votes(&self, node: &NodeId) -> bool {
        self.voters.iter().any(|voters| voters.contains(node))
    }
}

/// An agent opened its disk, at the beginning of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opening {
    /// When.
    pub at: Duration,
    /// The agent.
    pub agent: usize,
    /// Which member it is.
    pub node: NodeId,
    /// Whether the disk was empty, so that this is a new one.
    pub is_new: bool,
}

/// An agent tried to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Departure {
    /// The agent.
    pub agent: usize,
    /// Since when
    pub from: Duration,
    /// until when; `None` if its process ended meanwhile.
    pub until: Option<Duration>,
    /// Whether it has left.
    pub left: bool,
    /// Whether it led when it began to.
    pub led: bool,
}

/// After everything was mended the membership was to become what it should be, within a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settling {
    /// From when.
    pub from: Duration,
    /// How long it may take.
    pub within: Duration,
    /// When it was so; `None` if it did not become so.
    pub at: Option<Duration>,
    /// What was wrong with it last.
    pub wrong: String,
}

/// One change of the table, with what watchers are not told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// As a watcher of everything is told.
    pub change: Change,
    /// The acquisition that it is about.
    pub lease_id: LeaseId,
    /// Of a grant, whether it was granted from the queue.
    pub from_queue: bool,
    /// Of a grant or a waiter, how it shares the name, or will.
    pub mode: Mode,
    /// Of a grant or a waiter, for how long the name is to be closed if it expires.
    pub lock_delay: Duration,
}

/// An agent applied an entry, or took a snapshot in the place of all up to it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// When.
    pub at: Duration,
    /// The agent.
    pub agent: usize,
    /// Which of its lives.
    pub life: u32,
    /// The entry's index.
    pub index: u64,
    /// Its term and a digest of its changes; nothing for a snapshot.
    pub entry: Option<(u64, u64)>,
    /// A digest of the whole table after it, now and then.
    pub table: Option<u64>,
}

/// Somebody believed that it held a lease: its `check()` would have succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Belief {
    /// Beside which agent.
    pub agent: usize,
    /// Of what.
    pub name: Name,
    /// By which acquisition.
    pub lease_id: LeaseId,
    /// With which token.
    pub token: Token,
    /// How it shares the name.
    pub mode: Mode,
    /// Since when: the lease was handed to its holder.
    pub from: Duration,
    /// The last moment at which it was found to believe. It is looked at whenever another belief of that name begins, and
    /// whenever an entry about that name is applied first: so no overlap goes unseen, however short.
    pub seen: Duration,
    /// When it was found to be over.
    pub over: Option<Duration>,
    /// From when to when it did not believe in between: its clock went back behind its deadline, before it noticed either.
    pub gaps: Vec<(Duration, Duration)>,
    /// The reasons that its holder was told, each time it asked.
    pub told: Vec<LossReason>,
    /// When it was told so first.
    pub told_at: Option<Duration>,
    /// Its holder gave it back, handed it over or dropped it.
    pub given_up: bool,
}

impl Belief {
    /// One that was seen from outside, of a real process, say: `check()` succeeded at both times. It is known by its token
    /// alone.
    #[must_use]
    pub fn seen(
        agent: usize,
        name: Name,
        token: Token,
        mode: Mode,
        (from, seen): (Duration, Duration),
    ) -> Self {
        let lease_id = LeaseId::from_bits(token.get().into());
        let (over, gaps, told, told_at, given_up) = (None, Vec::new(), Vec::new(), None, false);
        Self { agent, name, lease_id, token, mode, from, seen, over, gaps, told, told_at, given_up }
    }

    /// Whether it was found to believe at this moment, or before it and after it without a gap.
    #[must_use]
    pub fn is_at(&self, at: Duration) -> bool {
        let doubted = self.gaps.iter().any(|(from, until)| (*from..*until).contains(&at));
        self.from <= at && at <= self.seen && !doubted
    }

    /// When it began, and began again.
    pub fn beginnings(&self) -> impl Iterator<Item = Duration> + '_ {
        std::iter::once(self.from).chain(self.gaps.iter().map(|(_, until)| *until))
    }

    /// Whether it may not be beside a lease of this mode on this name.
    #[must_use]
    pub fn excludes(&self, name: &Name, mode: Mode) -> bool {
        self.name == *name && !self.mode.fits_beside(mode, 1)
    }
}

/// A client asked something.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// Beside which agent.
    pub agent: usize,
    /// About what.
    pub name: Name,
    /// What.
    pub asked: Asked,
    /// When.
    pub began: Duration,
    /// When it was answered; `None` if it never was.
    pub ended: Option<Duration>,
    /// How it was answered.
    pub answer: Answered,
}

impl Call {
    /// An exclusive lease that was asked for and granted, as a client tells from outside. It is known by its token alone.
    #[must_use]
    pub fn granted(agent: usize, name: Name, token: Token, (began, ended): (Duration, Duration)) -> Self {
        let answer = Answered::Granted(LeaseId::from_bits(token.get().into()), token);
        let asked = Asked::Acquire { mode: Mode::Exclusive, waits: true };
        Self { agent, name, asked, began, ended: Some(ended), answer }
    }
}

/// What a client asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asked {
    /// For a lease.
    Acquire {
        /// How to share the name.
        mode: Mode,
        /// Whether to wait for it.
        waits: bool,
    },
    /// To renew one at once.
    Renew(LeaseId),
    /// To give one back.
    Release(LeaseId),
    /// To hand one over to whoever waits.
    Transfer {
        /// Which.
        id: LeaseId,
        /// To whom.
        to: TransferTo,
    },
    /// To revoke whatever is held.
    Revoke,
    /// Who holds the name.
    Holder,
}

/// How a client was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answered {
    /// Not at all, yet.
    Pending,
    /// It has the lease.
    Granted(LeaseId, Token),
    /// Nothing happened, for this reason.
    Nothing(String),
    /// Nothing happened: the name is held, by the lease with this token among others.
    HeldBy(Token),
    /// Nothing happened: the name is closed after an expiry.
    Closed,
    /// It may have happened or not.
    Unknown(String),
    /// It is done.
    Done,
    /// The lease had been lost before.
    WasLost,
    /// Who holds the name: the token.
    Holder(Option<Token>),
    /// These were revoked.
    Revoked(Vec<Token>),
    /// It was handed over, to the lease with this token if that is known.
    HandedOver(Option<Token>),
}

/// A write reached a protected resource.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Write {
    /// When.
    pub at: Duration,
    /// From which agent.
    pub agent: usize,
    /// Which resource.
    pub name: Name,
    /// With which token.
    pub token: Token,
    /// Whether the fence let it in.
    pub admitted: bool,
}

impl Write {
    /// One that reached a resource, as it tells.
    #[must_use]
    pub fn new(at: Duration, agent: usize, name: Name, token: Token, admitted: bool) -> Self {
        Self { at, agent, name, token, admitted }
    }
}

/// What one watcher was told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Watcher {
    /// It asked for what comes after this index.
    pub after: u64,
    /// What it was told, in order, with the time and the agent that told it.
    pub told: Vec<(Duration, usize, Change)>,
    /// To whom it listened, in order.
    pub stints: Vec<Stint>,
}

/// A watcher listened to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stint {
    /// To this one.
    pub agent: usize,
    /// From when
    pub from: Duration,
    /// to when; `None` if to the end.
    pub until: Option<Duration>,
}

/// Something was done to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disturbance {
    /// The episode's number in its schedule.
    pub number: usize,
    /// What.
    pub text: String,
    /// In a word or two.
    pub label: &'static str,
    /// To whom; to all, where there is none.
    pub agents: Vec<usize>,
    /// From when
    pub from: Duration,
    /// to when.
    pub until: Duration,
}

/// Something happened to an agent at a fault point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PointHit {
    /// When.
    pub at: Duration,
    /// The agent.
    pub agent: usize,
    /// Where.
    pub point: Point,
    /// What.
    pub effect: PointEffect,
}

impl fmt::Display for PointHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, agent, point, effect } = self;
        write!(f, "     {:8.3} s: {effect}, agent {agent}, {point}", at.as_secs_f64())
    }
}

/// An agent's process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Life {
    /// The agent.
    pub agent: usize,
    /// From when
    pub from: Duration,
    /// to when; `None` if to the end.
    pub until: Option<Duration>,
    /// Whether it came to serve.
    pub served: bool,
}

/// An agent led, or took itself for a leader: one that is cut off does so for a while beside the next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leadership {
    /// The agent.
    pub agent: usize,
    /// In which term.
    pub term: u64,
    /// When that was seen first
    pub from: Duration,
    /// and last.
    pub seen: Duration,
}

/// After everything was mended a name was to be had within a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// What.
    pub name: Name,
    /// Beside which agent.
    pub agent: usize,
    /// When it was asked for.
    pub from: Duration,
    /// How long that may take.
    pub within: Duration,
    /// When it was granted; `None` if it was not.
    pub granted: Option<Duration>,
    /// Why it was not.
    pub error: Option<String>,
}

impl History {
    /// This entry had been applied somewhere by then: a watcher had been told of it, say, or a client had what it granted.
    pub fn happened_by(&mut self, index: u64, at: Duration) {
        if let Some(entry) = self.log.get_mut(&index) {
            entry.at = entry.at.min(at);
        }
    }

    /// All changes in the order of the log, with their indexes and the time at which each was first applied.
    pub fn changes(&self) -> impl Iterator<Item = (u64, Duration, &Changed)> {
        self.log
            .iter()
            .flat_map(|(index, entry)| entry.changes.iter().map(move |changed| (*index, entry.at, changed)))
    }

    /// Whether rules about belief are about this one at this moment: not where clocks broke the bound, nor for a while after
    /// the holder's clock went back unnoticed, by a little or while nobody could read it.
    ///
    /// Unnoticed is what lies between two readings of which the second is not below the first. From the second on the
    /// deadline is a ttl away at most.
    #[must_use]
    pub fn is_bounded_at(&self, belief: &Belief, at: Duration) -> bool {
        let of_agent = || self.disturbances.iter().filter(|it| it.agents.contains(&belief.agent));
        // The longest there is, if the log does not know it.
        let ttl = || self.ttl_of(&belief.lease_id).unwrap_or(crate::limits::TTL_MAX);
        let excuses = |jump: &Disturbance| {
            let mut read_again = jump.from + NOTICED;
            let mut stood_still = false;
            // They come in the order of their beginnings, so that one that goes on from another lengthens it.
            for pause in self.disturbances.iter().filter(|it| it.stops(belief.agent)) {
                if pause.from <= read_again && pause.until >= jump.from {
                    stood_still = true;
                    read_again = read_again.max(pause.until + NOTICED);
                }
            }
            let unnoticed = jump.label == "clock back a little" || jump.label == "clock back" && stood_still;
            // It may have been asked for before the jump, and handed out after it.
            let meanwhile = jump.from <= at && jump.from + NOTICED >= belief.from;
            unnoticed && meanwhile && at <= read_again + ttl()
        };
        self.drift_bounded && !of_agent().any(excuses)
    }

    /// The ttl with which it was granted; nothing if it never was.
    pub(super) fn ttl_of(&self, id: &LeaseId) -> Option<Duration> {
        let ttl = |changed: &Changed| match changed.change.kind {
            ChangeKind::Granted { ttl, .. } if changed.lease_id == *id => Some(ttl),
            _ => None,
        };
        self.changes().find_map(|(_, _, changed)| ttl(changed))
    }
}

impl Disturbance {
    /// Whether it makes this agent's process stand still.
    pub(super) fn stops(&self, agent: usize) -> bool {
        matches!(self.label, "pause" | "suspend") && self.agents.contains(&agent)
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, lasts) = (self.from.as_secs_f64(), (self.until - self.from).as_secs_f64());
        write!(f, "#{:<3} {from:8.3} s, for {lasts:6.3} s: {}", self.number, self.text)?;
        if self.agents.is_empty() { Ok(()) } else { write!(f, " (agent {:?})", self.agents) }
    }
}
