//! The replicated lease table: a pure, deterministic state machine. No clock, no I/O, no randomness, no task.
//!
//! Raft gives every member the same log. Each member feeds the log's entries to its own [`Table`], through
//! [`Table::apply`], which is the only way that a lease begins, changes hands or ends. Time is not in here: a
//! lease in the table ends when a command says so, and whoever proposes `Expire` (the leader, from deadlines that
//! it keeps in memory) answers for the waiting.
//!
//! | file | what it has |
//! | --- | --- |
//! | `command.rs` | what a log entry carries, and why each command is named as closely as it is |
//! | `apply.rs` | what each command does; the only place where a lease changes |
//! | `outcome.rs` | what the proposer is answered |
//! | `event.rs` | what changed, for watchers, sessions and deadlines |
//! | `holders.rs`, `queue.rs` | those who hold one name, and those who wait for it, in order |
//! | `ended.rs` | lease ids that are dead for ever, in bounded memory, with the proof |
//! | `lean.rs` | what keeps a held lease small in memory |
//! | `snapshot.rs` | the whole table as bytes, and back |
//! | `forced.rs` | the table that a forced recovery goes on with |
//! | `spoiled.rs` | planted bugs of a snapshot, for simulations |
//! | `twin.rs`, `world.rs` | the naive twin, and both side by side: for tests and the fuzzer |
//! | `invariants.rs` | what must hold after every entry, numbered |
//!
//! # The rules, as far as they rest on this module
//!
//! - **L1, one believer.** A name has one exclusive lease, or leases that may stand beside each other (invariant 8). A
//!   lease gives way to one that may not only by `Release`, `Cancel` and `Transfer`, which come from an agent that has
//!   stopped believing, and by `Expire`, which comes from the leader after the holder's own clock has stopped it.
//!   `Revoke` is *not* among them: `apply.rs` tells why. A delayed copy of a command must not do any of that to a
//!   holder that believes again, or for the first time: that is L7.
//! - **L2, tokens increase.** A grant takes the successor of the last token, which nothing ever lowers and which a
//!   snapshot carries. A newly founded cluster starts at `Found`'s floor, above whatever the old one issued.
//! - **L3, only a committed entry grants.** `&mut Table` is needed, and `apply` is all that has it.
//! - **L4, no early end.** A command that ends a lease names its lease id; `Expire` names its token, too, and the
//!   term in which it was proposed.
//! - **L6, the first waiter is next.** Whatever ends a lease, or takes a waiter out of the queue, grants the name in the
//!   same step to the first waiter, and to those after it who may stand beside it. So a queue stands only behind
//!   holders whom its first waiter excludes, or before a closed name: there is no state "free, but someone waits".
//! - **L7, any number of copies, late and out of order, have the effect of one.** An id that holds or waits answers
//!   as before. An id that has ended, or was refused for a reason that can pass, is dead: `ended.rs` has the proof
//!   that bounded memory is enough. `command.rs` has the table of what a late copy of each command finds.
//! - **L8, equal tables.** Everything is in ordered maps and decided by the entry, its index and its term. *The
//!   limits that `apply` enforces are part of that:* two members that run with different [`limits`](crate::limits)
//!   would part ways. Changing one of [`LEASES_MAX`], [`WAITERS_PER_NAME_MAX`], [`ENDED_IDS_MAX`], `EXPIRE_MAX`,
//!   `BATCH_MAX`, `METADATA_BYTES_MAX`, `REASON_BYTES_MAX`, `TTL_MAX`, `LOCK_DELAY_MAX`, `PERMITS_MAX` or the names'
//!   lengths is a change of format.
//! - **L10, every loss is told, with the reason.** One [`Event::Ended`] a grant; and an agent that missed it (its
//!   replica was filled by a snapshot) still finds the [`Ending`] under the id.

mod apply;
#[cfg(feature = "test-support")]
pub(crate) mod bench;
mod command;
mod ended;
mod event;
mod forced;
#[cfg(feature = "test-support")]
pub(crate) mod fuzz;
mod holders;
mod invariants;
mod lean;
mod outcome;
mod queue;
mod snapshot;
#[cfg(feature = "chaos")]
mod spoiled;

#[cfg(test)]
mod goldens;
#[cfg(test)]
mod random;
#[cfg(test)]
mod scripts;
#[cfg(any(test, feature = "test-support"))]
mod twin;
#[cfg(any(test, feature = "test-support"))]
mod world;

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use serde::{Deserialize, Serialize};

#[cfg(any(test, feature = "test-support"))]
use self::{command::Single, outcome::Refusal};
pub(crate) use self::{
    command::{Acquire, Command, Entry, Holder, TransferTo},
    event::{EndReason, Event, LeftReason, Revocation},
    invariants::Violation,
    outcome::{ClosedBy, Ending, HeldBy, Outcome, Successor},
    queue::Waiter,
};
use self::{
    ended::EndedIds,
    holders::Holders,
    lean::{HolderPool, Metadata},
    queue::{Queue, Ticket},
};
#[cfg(test)]
use self::{outcome::SingleOutcome, snapshot::SnapshotError};
use crate::{
    AgentName, LeaseId, Name, Token,
    dense::Dense,
    limits::{ENDED_IDS_MAX, LEASES_MAX, WAITERS_PER_NAME_MAX},
    mode::Mode,
};

/// A lease, beside its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// The acquisition that it was granted to.
    pub lease_id: LeaseId,
    /// Who holds it. Shared with the other leases of the same holder.
    pub holder: Arc<Holder>,
    /// The grant's token.
    pub token: Token,
    /// How long it lives without a renewal.
    pub ttl_ms: u64,
    /// What the holder wants others to see.
    pub metadata: Metadata,
    /// The log index that granted it.
    pub granted_at_index: u64,
    /// The granting leader's wall clock: for people.
    pub granted_wall_unix_ms: u64,
    /// Set once it is revoked: then it can't be renewed any more. Boxed because it is rare.
    pub revoked: Option<Box<Revocation>>,
    /// Transfer attempts up to this number were answered "no such waiter" and do nothing any more.
    pub transfers_closed: u64,
    /// How it shares the name.
    pub mode: Mode,
    /// How long the name stays closed after its expiry.
    pub lock_delay_ms: u64,
}

/// Why a name is closed, although nobody holds it: what its last holder has sent off may still arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Closure {
    /// The acquisition that ended.
    pub lease_id: LeaseId,
    /// Who held it: to it the name is open, unless its lease was revoked.
    pub holder: Holder,
    /// Its token.
    pub token: Token,
    /// For how long, as the leader counts it.
    pub delay_ms: u64,
    /// The log index that ended it.
    pub closed_at_index: u64,
    /// A token of its own, larger than that of its lease, that an `Expire` has to name to open the name: a second copy of
    /// the one that ended the lease names the lease's, and opens nothing.
    pub key: Token,
    /// Of a lease that was revoked before it expired: then its heir has the name when it opens, and its holder queues
    /// like everybody.
    pub revocation: Option<Box<Revocation>>,
}

/// A name that is held or closed, and those who wait for it.
#[derive(Debug, Clone, Default)]
struct Slot {
    holders: Holders,
    /// Only while there are no holders. Boxed because it is rare.
    closure: Option<Box<Closure>>,
    queue: Queue,
}

impl Slot {
    /// Whether a lease of this mode may be granted now: to this agent, or to the first in the queue.
    fn lets_in(&self, mode: Mode, agent: Option<&AgentName>) -> bool {
        match &self.closure {
            Some(closure) => agent.is_some_and(|agent| closure.is_open_to(agent)),
            None => self.holders.admit(mode),
        }
    }
}

/// Where a live lease id stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Holds(Name, Token),
    Waits(Name, Ticket),
}

/// The bounds of a table. All members of a cluster must have the same; only tests have others than the default.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    leases: usize,
    waiters_per_name: usize,
    ended_ids: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { leases: LEASES_MAX, waiters_per_name: WAITERS_PER_NAME_MAX, ended_ids: ENDED_IDS_MAX }
    }
}

/// The lease table. `apply.rs` changes it, this file looks things up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// The index of the last entry.
    applied: u64,
    /// The last token that was granted, or the founding's floor; `None` until the cluster is founded.
    last_token: Option<Token>,
    /// Every name that is held or closed. The slots are boxed because a tree has room for more than it holds, a third
    /// and more.
    names: BTreeMap<Name, Box<Slot>>,
    /// Every live lease id. It shares its names' text with `names`.
    live: Dense<LeaseId, Place>,
    /// The closed names, by the lease id after whose end each was closed.
    closures: BTreeMap<LeaseId, Name>,
    /// How many wait, in all queues.
    waiting: usize,
    /// Lease ids that are dead for ever.
    ended: EndedIds,
    /// Who holds or waits, and some who did.
    pool: HolderPool,
    bounds: Bounds,
}

/// A held lease, as it is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseView<'a> {
    /// The name that is held.
    pub name: &'a Name,
    /// The lease.
    pub lease: &'a Lease,
    /// How many wait for it.
    pub waiters: usize,
    /// How many hold the name.
    pub holders: usize,
}

impl<'a> LeaseView<'a> {
    fn of(name: &'a Name, slot: &'a Slot, lease: &'a Lease) -> Self {
        Self { name, lease, waiters: slot.queue.len(), holders: slot.holders.len() }
    }

    /// What someone else is told of it: all but the lease id.
    pub(crate) fn held_by(&self) -> HeldBy {
        let lease = self.lease;
        HeldBy {
            holder: lease.holder.as_ref().clone(),
            token: lease.token,
            since_unix_ms: lease.granted_wall_unix_ms,
            ttl_ms: lease.ttl_ms,
            metadata: lease.metadata.to_bytes(),
            revoked: lease.revoked.is_some(),
            waiters: self.waiters as u64,
            mode: lease.mode,
            holders: self.holders as u64,
        }
    }
}

/// What has become of a lease id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State<'a> {
    /// It holds this lease.
    Holding(LeaseView<'a>),
    /// It waits.
    Waiting {
        /// For this name.
        name: &'a Name,
        /// The place in the queue; 1 is the next.
        position: u64,
    },
    /// It is dead for ever.
    Ended(Ending),
    /// It was never seen, or ended so long ago that it is forgotten.
    Unknown,
}

/// What the leader's deadlines need to know of a holder, a waiter or a closed name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    /// A holder's token, or the key of a closed name; `None` for a waiter.
    pub token: Option<Token>,
    /// How long it lasts without a renewal.
    pub ttl_ms: u64,
    /// Whether a renewal makes it last longer: not if it is revoked, nor if it is a closed name.
    pub renewable: bool,
}

/// How much a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Held leases.
    pub leases: usize,
    /// Waiters, in all queues.
    pub waiters: usize,
    /// Closed names.
    pub closed: usize,
    /// Remembered lease ids that have ended.
    pub ended_ids: usize,
}

impl Table {
    /// A table before its cluster's founding.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A table with small bounds, so that a test can reach them.
    #[cfg(any(test, feature = "test-support"))]
    fn with_bounds(bounds: Bounds) -> Self {
        Self { ended: EndedIds::new(bounds.ended_ids), bounds, ..Self::default() }
    }

    /// A table that remembers so few ended lease ids.
    #[cfg(test)]
    pub(crate) fn with_memory(ended_ids: usize) -> Self {
        Self::with_bounds(Bounds { ended_ids, ..Bounds::default() })
    }

    /// The ended lease ids that are remembered, each with the index at which it ended, the first to be forgotten first.
    #[cfg(test)]
    pub(crate) fn endings(&self) -> impl Iterator<Item = (u64, LeaseId)> + '_ {
        self.ended.iter().map(|(index, id, _)| (index, id))
    }

    /// The index of the last entry that was applied; 0 before the first.
    #[cfg(any(test, feature = "test-support"))]
    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    /// Whether the cluster is founded.
    pub(crate) fn is_founded(&self) -> bool {
        self.last_token.is_some()
    }

    /// The last token that was granted, or the founding's floor; `None` until the cluster is founded.
    pub(crate) fn last_token(&self) -> Option<Token> {
        self.last_token
    }

    /// An acquire whose `seen` is smaller may be refused as too old.
    #[cfg(any(test, feature = "test-support"))]
    pub(crate) fn horizon(&self) -> u64 {
        self.ended.horizon()
    }

    /// The lease that this id holds.
    pub(crate) fn lease(&self, id: &LeaseId) -> Option<LeaseView<'_>> {
        match self.live.get(id)? {
            Place::Holds(name, token) => self.held(name, *token),
            Place::Waits(..) => None,
        }
    }

    /// How whoever lives by this id shares the name, or will, and its lock delay in milliseconds.
    #[cfg(feature = "chaos")]
    pub(crate) fn terms_of(&self, id: &LeaseId) -> Option<(Mode, u64)> {
        match self.live.get(id)? {
            Place::Holds(name, token) => {
                let lease = self.names.get(name)?.holders.get(*token)?;
                Some((lease.mode, lease.lock_delay_ms))
            }
            Place::Waits(name, ticket) => {
                let waiter = self.names.get(name)?.queue.get(*ticket)?;
                Some((waiter.mode, waiter.lock_delay_ms))
            }
        }
    }

    /// The lease on this name with this token.
    fn held(&self, name: &Name, token: Token) -> Option<LeaseView<'_>> {
        let (name, slot) = self.names.get_key_value(name)?;
        slot.holders.get(token).map(|lease| LeaseView::of(name, slot, lease))
    }

    /// What has become of this id. For a waiter it counts those ahead: [`live`](Self::live) does not.
    pub(crate) fn state(&self, id: &LeaseId) -> State<'_> {
        let state = match self.live.get(id) {
            Some(Place::Holds(name, token)) => self.held(name, *token).map(State::Holding),
            Some(Place::Waits(name, ticket)) => self.names.get_key_value(name).and_then(|(name, slot)| {
                Some(State::Waiting { name, position: slot.queue.position(*ticket)? })
            }),
            None => self.ended.get(id).map(State::Ended),
        };
        state.unwrap_or(State::Unknown)
    }

    /// What a renewal of this id needs to know: `None` if it neither holds nor waits. O(log n).
    #[cfg(any(test, feature = "test-support"))]
    pub(crate) fn live(&self, id: &LeaseId) -> Option<Live> {
        match self.live.get(id)? {
            Place::Holds(name, token) => self.held(name, *token).map(|held| Live::of_lease(held.lease)),
            Place::Waits(name, ticket) => self.names.get(name)?.queue.get(*ticket).map(Live::of_waiter),
        }
    }

    /// Every holder, closed name and waiter, for the deadlines of a leader that begins: by name, waiters last.
    pub(crate) fn all_live(&self) -> impl Iterator<Item = (LeaseId, Live)> + '_ {
        self.names.values().flat_map(|slot| {
            let holders = slot.holders.iter().map(|lease| (lease.lease_id, Live::of_lease(lease)));
            let closure = slot.closure.iter().map(|closure| (closure.lease_id, Live::of_closure(closure)));
            let waiters = slot.queue.iter().map(|waiter| (waiter.lease_id, Live::of_waiter(waiter)));
            holders.chain(closure).chain(waiters)
        })
    }

    /// Whose every lease and every place in a queue is, once for each.
    pub(crate) fn all_holders(&self) -> impl Iterator<Item = &Holder> + '_ {
        self.names.values().flat_map(|slot| {
            let holders = slot.holders.iter().map(|lease| &*lease.holder);
            holders.chain(slot.queue.iter().map(|waiter| &*waiter.holder))
        })
    }

    /// How many wait for this name.
    pub(crate) fn waiters_for(&self, name: &Name) -> usize {
        self.names.get(name).map_or(0, |slot| slot.queue.len())
    }

    /// The lease on this name, or of several the one that was granted first.
    pub(crate) fn holder(&self, name: &Name) -> Option<LeaseView<'_>> {
        self.holders(name).next()
    }

    /// All leases on this name, in the order of their tokens.
    pub(crate) fn holders(&self, name: &Name) -> impl Iterator<Item = LeaseView<'_>> + '_ {
        let found = self.names.get_key_value(name).into_iter();
        found.flat_map(|(name, slot)| slot.holders.iter().map(move |lease| LeaseView::of(name, slot, lease)))
    }

    /// Why the name is closed, if it is.
    pub(crate) fn closed(&self, name: &Name) -> Option<ClosedBy> {
        self.names.get(name)?.closure.as_deref().map(Closure::closed_by)
    }

    /// Those who wait for this name, the next first.
    pub(crate) fn waiters(&self, name: &Name) -> impl Iterator<Item = &Waiter> + '_ {
        self.names.get(name).into_iter().flat_map(|slot| slot.queue.iter())
    }

    /// The held leases whose names begin with this, in the order of names and tokens, from the one after `after` on: a
    /// page.
    pub(crate) fn leases<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<(&'a Name, Token)>,
    ) -> impl Iterator<Item = LeaseView<'a>> + 'a {
        let after = after.filter(|(name, _)| name.as_str() >= prefix);
        let from = after.map_or(prefix, |(name, _)| name.as_str());
        let page = self.names.range::<str, _>((Bound::Included(from), Bound::Unbounded));
        page.take_while(move |(name, _)| name.as_str().starts_with(prefix)).flat_map(move |(name, slot)| {
            let seen = after.filter(|(of, _)| *of == name).map_or(Token::new(0), |(_, token)| token);
            slot.holders.after(seen).map(move |lease| LeaseView::of(name, slot, lease))
        })
    }

    /// How much there is.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            leases: self.live.len() - self.waiting,
            waiters: self.waiting,
            closed: self.closures.len(),
            ended_ids: self.ended.len(),
        }
    }

    /// What counts towards the bound of the table.
    fn load(&self) -> usize {
        self.live.len() + self.closures.len()
    }
}

impl Closure {
    fn is_open_to(&self, agent: &AgentName) -> bool {
        self.revocation.is_none() && *agent == self.holder.agent
    }

    fn closed_by(&self) -> ClosedBy {
        ClosedBy { holder: self.holder.clone(), token: self.token, delay_ms: self.delay_ms }
    }
}

impl Live {
    fn of_lease(lease: &Lease) -> Self {
        Self { token: Some(lease.token), ttl_ms: lease.ttl_ms, renewable: lease.revoked.is_none() }
    }

    fn of_waiter(waiter: &Waiter) -> Self {
        Self { token: None, ttl_ms: waiter.ttl_ms, renewable: true }
    }

    fn of_closure(closure: &Closure) -> Self {
        Self { token: Some(closure.key), ttl_ms: closure.delay_ms, renewable: false }
    }
}
