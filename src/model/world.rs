//! What a state of the model is made of: the product's own machines, and the little around them.
//!
//! Whatever decides about leases is the product's: a [`Session`] for each holder, [`Deadlines`] for each leader, one
//! [`Table`] for the committed log. Around them stand a network that is a bag of messages, a log that is its uncommitted
//! tail, and true time, which no machine sees.

use std::{sync::Arc, time::Duration};

use super::{mutants::Mutant, rules::Note};
use crate::{
    deadlines::Deadlines,
    id::LeaseId,
    session::Session,
    table::Table,
    time::{Drift, Moment},
    token::Token,
};

pub(super) const CLIENTS: usize = 2;
pub(super) const NODES: usize = 2;
/// The most lease ids that one client draws.
pub(super) const IDS_PER_CLIENT: usize = 3;
pub(super) const IDS: usize = CLIENTS * IDS_PER_CLIENT;

/// What a clock's reading is counted in. A clock that is exact shows five units more after each tick.
pub(super) const UNIT: Duration = Duration::from_millis(10);
const UNITS_PER_TICK: u64 = 5;
/// One unit in five: a slow clock shows four units a tick, a fast one six.
pub(super) const DRIFT: Drift = drift(200_000);
const NO_DRIFT: Drift = drift(0);

const fn drift(ppm: u32) -> Drift {
    match Drift::from_ppm(ppm) {
        Some(drift) => drift,
        None => panic!("below a million"),
    }
}

/// A leader's timer wakes at every tick, however slow its clock is.
pub(super) const HEARTBEAT: Duration = UNIT.saturating_mul(4);
/// What a fast clock may show at a tick beyond the moment that was asked for, although nothing was late.
pub(super) const TOLERANCE: Duration = UNIT.saturating_mul(5);

/// How fast a clock runs: one of the extremes of what the drift bound allows, or exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rate {
    Slow,
    True,
    Fast,
}

impl Rate {
    pub(super) fn units_per_tick(self) -> u64 {
        match self {
            Self::Slow => UNITS_PER_TICK - 1,
            Self::True => UNITS_PER_TICK,
            Self::Fast => UNITS_PER_TICK + 1,
        }
    }
}

/// The clocks of one run: two clients' and two nodes'.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    pub(super) clients: [Rate; CLIENTS],
    pub(super) nodes: [Rate; NODES],
}

impl Clocks {
    pub(super) const fn new(client: Rate, other_client: Rate, node: Rate, other_node: Rate) -> Self {
        Self { clients: [client, other_client], nodes: [node, other_node] }
    }
}

/// How often in one run what is rare may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Budget {
    pub(super) elections: u8,
    pub(super) stalls: u8,
    /// Messages that arrive twice.
    pub(super) duplicates: u8,
    /// Expiries of which the leader doesn't hear, or that it can't propose.
    pub(super) failures: u8,
    /// Times at which a leader hears no majority, and freezes its deadlines.
    pub(super) doubts: u8,
    /// Acquisitions that are given up.
    pub(super) cancels: u8,
    pub(super) releases: u8,
}

/// The bounds of one run.
#[derive(Debug, Clone)]
pub(super) struct World {
    /// Each is one initial state.
    pub(super) clocks: Vec<Clocks>,
    /// In ticks of true time.
    pub(super) ttl_ticks: u64,
    pub(super) budget: Budget,
    /// How many lease ids each client draws.
    pub(super) ids: [usize; CLIENTS],
    /// The most messages of one client that are under way.
    pub(super) mail_most: usize,
    /// How many ended lease ids the table remembers.
    pub(super) memory: usize,
    /// The most ticks that a leader stands still, or hears no majority and doesn't resign.
    pub(super) stall_ticks: u64,
    /// The most ticks that a renewal waits at a node for its confirmation.
    pub(super) confirm_ticks: u64,
    /// Whether time passes while entries wait for their commit.
    pub(super) slow_commits: bool,
    pub(super) mutant: Option<Mutant>,
    /// What has to happen in some run.
    pub(super) sometimes: Vec<Note>,
}

impl World {
    pub(super) fn ttl(&self) -> Duration {
        ttl(self.ttl_ticks)
    }

    pub(super) fn holders_drift(&self) -> Drift {
        holders_drift(self.mutant)
    }

    /// The drift that the leaders allow for.
    pub(super) fn leaders_drift(&self) -> Drift {
        if self.is(Mutant::LeaderWithoutMargin) { NO_DRIFT } else { DRIFT }
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

/// The drift that the holders allow for.
pub(super) fn holders_drift(mutant: Option<Mutant>) -> Drift {
    if mutant == Some(Mutant::HolderWithoutMargin) { NO_DRIFT } else { DRIFT }
}

/// So many ticks of true time.
pub(super) fn ttl(ticks: u64) -> Duration {
    UNIT * u32::try_from(UNITS_PER_TICK * ticks).unwrap()
}

/// One acquisition: the client that drew its lease id, and which of its own it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(u8);

impl Id {
    pub(super) fn new(client: usize, serial: usize) -> Self {
        Self(u8::try_from(client * IDS_PER_CLIENT + serial).unwrap())
    }

    pub(super) fn of(lease: LeaseId) -> Self {
        Self(u8::try_from(lease.to_bits() - 1).unwrap())
    }

    pub(super) fn lease(self) -> LeaseId {
        LeaseId::from_bits(u128::from(self.0) + 1)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn client(self) -> usize {
        self.index() / IDS_PER_CLIENT
    }

    pub(super) fn serial(self) -> usize {
        self.index() % IDS_PER_CLIENT
    }
}

/// What a client is about, with its latest lease id.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Idle,
    /// It has asked for the lease, first at this moment.
    Asking(Moment),
    Waiting,
    /// It knows that it is granted, and owes the confirming renewal.
    Confirming(Token),
    /// It has the lease in hand, and believes for as long as the session says so.
    Holding(Token, Session),
}

#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) phase: Phase,
    /// How many lease ids it has drawn.
    pub(super) drawn: usize,
    /// How many it may draw.
    pub(super) may_draw: usize,
    /// When the renewal was sent that it awaits the answer of.
    pub(super) renewing: Option<Moment>,
}

/// What is asked of a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    Acquire,
    Renew,
    Release,
    Cancel,
}

/// What a client is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Granted(Token),
    Waiting,
    Ended,
    Extended,
    Gone,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the network, for as long as it likes.
    Wire,
    /// Before a node that stands still.
    Socket { node: usize },
    /// The node has read it, at this moment of its clock, and has asked for a confirmation.
    Arrived { node: usize, at: Moment },
    /// The same, at a node that has been deposed since: before that a majority confirmed that it led this term.
    Confirmed { node: usize, at: Moment, term: u64 },
    /// The answer is on its way.
    Answered(Answer),
}

/// A message, from its sending to its answer's arrival.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mail {
    pub(super) id: Id,
    pub(super) ask: Ask,
    /// Whether its client still waits for the answer.
    pub(super) awaited: bool,
    pub(super) place: Place,
}

/// What a log entry has.
#[derive(Debug, Clone)]
pub(super) enum Written {
    /// A leader's first.
    Blank,
    Asked(Ask, Id),
    Expire(Expiry),
}

/// An entry that is not committed.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// The term that it was appended in.
    pub(super) term: u64,
    pub(super) written: Written,
}

/// What a leader's timer found due.
#[derive(Debug, Clone)]
pub(super) struct Expiry {
    pub(super) node: usize,
    /// The term that it was found in.
    pub(super) term: u64,
    pub(super) ended: Arc<Vec<(LeaseId, Option<Token>)>>,
}

/// A leadership, as its node sees it: it may be over.
#[derive(Debug, Clone)]
pub(super) struct Reign {
    pub(super) term: u64,
    /// From when it has applied an entry of its term.
    pub(super) deadlines: Option<Arc<Deadlines>>,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) reign: Option<Reign>,
    /// The tick at which it stood still.
    pub(super) stalled: Option<u64>,
    /// What the mutant that doesn't start afresh has kept.
    pub(super) kept: Option<Arc<Deadlines>>,
}

/// A state of the world. Its identity is in `view.rs`.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(super) clocks: Clocks,
    pub(super) ttl_ticks: u64,
    pub(super) confirm_ticks: u64,
    /// True time.
    pub(super) tick: u64,
    pub(super) clients: [Client; CLIENTS],
    pub(super) nodes: [Node; NODES],
    /// The newest term, and who leads it.
    pub(super) term: u64,
    pub(super) leader: usize,
    /// The committed log: its last index, and what comes of it.
    pub(super) index: u64,
    pub(super) table: Arc<Table>,
    /// What the newest leader has appended or taken over, and is not committed.
    pub(super) tail: Vec<Pending>,
    /// Expiries that are to be proposed.
    pub(super) expiries: Vec<Expiry>,
    pub(super) mail: Vec<Mail>,
    pub(super) left: Budget,
    /// The log index that each lease id's request has seen.
    pub(super) seen: [u64; IDS],
    /// When each lease id began, or its last acknowledged renewal arrived: in true time, for L4.
    pub(super) acknowledged: [u64; IDS],
    /// Which lease ids have ended, for L7: one bit each.
    pub(super) ended: u8,
    /// The rules that a step has broken: one bit each.
    pub(super) broken: u8,
    /// Whether the table forgets ended lease ids within one run.
    pub(super) forgets: bool,
    pub(super) mutant: Option<Mutant>,
    /// What the last step brought, one bit each. No part of the identity.
    pub(super) notes: u32,
}

impl State {
    /// A node leads, nobody has asked for anything yet.
    pub(super) fn initial(world: &World, clocks: Clocks) -> Self {
        let node = Node { reign: None, stalled: None, kept: None };
        let mut state = Self {
            clocks,
            ttl_ticks: world.ttl_ticks,
            confirm_ticks: world.confirm_ticks,
            tick: 0,
            clients: world.ids.map(|may_draw| Client {
                phase: Phase::Idle,
                drawn: 0,
                may_draw,
                renewing: None,
            }),
            nodes: [node.clone(), node],
            term: 1,
            leader: 0,
            index: 1,
            table: Arc::new(Table::with_memory(world.memory)),
            tail: Vec::new(),
            expiries: Vec::new(),
            mail: Vec::new(),
            left: world.budget,
            seen: [0; IDS],
            acknowledged: [0; IDS],
            ended: 0,
            broken: 0,
            forgets: world.memory < IDS,
            mutant: world.mutant,
            notes: 0,
        };
        state.found();
        let deadlines = Some(Arc::new(state.fresh_deadlines(world, 0)));
        state.nodes[0].reign = Some(Reign { term: 1, deadlines });
        state
    }

    /// What this client's clock shows. Each clock begins elsewhere.
    pub(super) fn client_now(&self, client: usize) -> Moment {
        reading(10_000 * (1 + client as u64), self.clocks.clients[client], self.tick)
    }

    /// What this node's clock shows.
    pub(super) fn node_now(&self, node: usize) -> Moment {
        reading(50_000 * (1 + node as u64), self.clocks.nodes[node], self.tick)
    }

    /// The true time at which this node's clock showed `at`.
    pub(super) fn tick_at(&self, node: usize, at: Moment) -> u64 {
        let units = self.node_now(node).since(at).as_nanos() / UNIT.as_nanos();
        self.tick - u64::try_from(units).unwrap() / self.clocks.nodes[node].units_per_tick()
    }

    pub(super) fn ttl(&self) -> Duration {
        ttl(self.ttl_ticks)
    }

    /// This client's latest lease id.
    pub(super) fn id_of(&self, client: usize) -> Option<Id> {
        Some(Id::new(client, self.clients[client].drawn.checked_sub(1)?))
    }

    pub(super) fn runs(&self, node: usize) -> bool {
        self.nodes[node].stalled.is_none()
    }

    pub(super) fn deadlines(&self, node: usize) -> Option<&Deadlines> {
        self.nodes[node].reign.as_ref()?.deadlines.as_deref()
    }

    /// How many messages of this client are under way.
    pub(super) fn mail_of(&self, client: usize) -> usize {
        self.mail.iter().filter(|mail| mail.id.client() == client).count()
    }
}

fn reading(begins_at: u64, rate: Rate, tick: u64) -> Moment {
    let unit = u64::try_from(UNIT.as_nanos()).unwrap();
    Moment::from_nanos((begins_at + tick * rate.units_per_tick()) * unit)
}
