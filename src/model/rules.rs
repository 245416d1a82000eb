//! What must always hold, and what must happen in some run, or the run shows nothing.

use stateright::Property;

use super::{
    Protocol,
    world::{CLIENTS, Id, Pending, Phase, State, Written},
};
use crate::{
    table::{Event, Outcome},
    token::Token,
};

/// A rule that a single step can break. L1 and L5 are seen in the state instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// L2.
    TokensIncrease,
    /// L4.
    NotEarly,
    /// L7.
    DeadForEver,
    /// The table's own.
    Invariants,
}

/// Something worth having seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    HandoverByExpiry,
    HandoverByWill,
    RenewalRacesExpiry,
    RenewedAfterDeadline,
    IgnoredByTerm,
    InheritedExpiry,
    Confirmed,
    GoneBeforeConfirmed,
    AnsweredFromMemory,
    TooOld,
    TwoLeaders,
    RetriedInTime,
    AnsweredTooLate,
    Stall,
    Thawed,
    WaiterExpired,
}

type Look = fn(&Protocol, &State) -> bool;

const NOTES: [(Note, &str, Look); 16] = [
    (
        Note::HandoverByExpiry,
        "a lease expires, and its waiter is granted it",
        brought::<{ Note::HandoverByExpiry as u32 }>,
    ),
    (
        Note::HandoverByWill,
        "a lease is given back, and its waiter is granted it",
        brought::<{ Note::HandoverByWill as u32 }>,
    ),
    (
        Note::RenewalRacesExpiry,
        "a renewal comes while its lease is being expired",
        brought::<{ Note::RenewalRacesExpiry as u32 }>,
    ),
    (
        Note::RenewedAfterDeadline,
        "a renewal comes after the deadline, before the timer, and counts",
        brought::<{ Note::RenewedAfterDeadline as u32 }>,
    ),
    (
        Note::IgnoredByTerm,
        "a deposed leader's expiry is ignored by its term",
        brought::<{ Note::IgnoredByTerm as u32 }>,
    ),
    (
        Note::InheritedExpiry,
        "an expiry commits under the next leader",
        brought::<{ Note::InheritedExpiry as u32 }>,
    ),
    (
        Note::Confirmed,
        "a lease is confirmed by a renewal before it is in hand",
        brought::<{ Note::Confirmed as u32 }>,
    ),
    (
        Note::GoneBeforeConfirmed,
        "a lease is gone before it could be confirmed",
        brought::<{ Note::GoneBeforeConfirmed as u32 }>,
    ),
    (
        Note::AnsweredFromMemory,
        "a copy of an acquire is answered from memory",
        brought::<{ Note::AnsweredFromMemory as u32 }>,
    ),
    (Note::TooOld, "an acquire is older than the memory of ended ids", brought::<{ Note::TooOld as u32 }>),
    (Note::TwoLeaders, "two nodes believe that they lead", brought::<{ Note::TwoLeaders as u32 }>),
    (
        Note::RetriedInTime,
        "a renewal is lost, and the next one is in time",
        brought::<{ Note::RetriedInTime as u32 }>,
    ),
    (
        Note::AnsweredTooLate,
        "a renewal is answered after the holder's deadline",
        brought::<{ Note::AnsweredTooLate as u32 }>,
    ),
    (Note::Stall, "a leader stands still while renewals wait to be read", brought::<{ Note::Stall as u32 }>),
    (Note::Thawed, "a leader hears no majority for a while", brought::<{ Note::Thawed as u32 }>),
    (Note::WaiterExpired, "a waiter expires in the queue", brought::<{ Note::WaiterExpired as u32 }>),
];

/// Whether the last step brought it.
fn brought<const NOTE: u32>(_: &Protocol, state: &State) -> bool {
    state.notes >> NOTE & 1 == 1
}

/// What has to happen in some run of this world.
pub(super) fn sometimes(wanted: &[Note]) -> impl Iterator<Item = Property<Protocol>> + '_ {
    let wanted = NOTES.iter().filter(move |(note, ..)| wanted.contains(note));
    wanted.map(|(_, name, look)| Property::sometimes(name, *look))
}

pub(super) const ONE_BELIEVER: &str = "L1: at most one check succeeds";
pub(super) const TOKENS_INCREASE: &str = "L2: the tokens of a name's grants increase";
pub(super) const NOT_EARLY: &str = "L4: no lease ends early";
pub(super) const BELIEVER_HOLDS: &str = "L5: whoever believes holds the lease in the committed table";
pub(super) const DEAD_FOR_EVER: &str = "L7: an id that has ended is never granted again";
pub(super) const INVARIANTS: &str = "the table's invariants hold";

/// All that must always hold.
pub(super) fn always() -> impl Iterator<Item = Property<Protocol>> {
    fn intact(state: &State, rule: Rule) -> bool {
        state.broken >> rule as u8 & 1 == 0
    }
    [
        Property::always(ONE_BELIEVER, |_, state: &State| state.believers().count() <= 1),
        Property::always(TOKENS_INCREASE, |_, state: &State| intact(state, Rule::TokensIncrease)),
        Property::always(NOT_EARLY, |_, state: &State| intact(state, Rule::NotEarly)),
        Property::always(BELIEVER_HOLDS, |_, state: &State| {
            state.believers().all(|client| state.is_holder(client))
        }),
        Property::always(DEAD_FOR_EVER, |_, state: &State| intact(state, Rule::DeadForEver)),
        Property::always(INVARIANTS, |_, state: &State| intact(state, Rule::Invariants)),
    ]
    .into_iter()
}

impl State {
    /// The clients whose `check()` succeeds now. Asked of copies: the look itself must not be what ends a lease.
    pub(super) fn believers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..CLIENTS).filter(|&client| match &self.clients[client].phase {
            Phase::Holding(_, session) => session.clone().check(self.client_now(client)).is_ok(),
            _ => false,
        })
    }

    fn is_holder(&self, client: usize) -> bool {
        let held =
            self.id_of(client).and_then(|id| self.table.lease(&id.lease()).map(|held| held.lease.token));
        matches!(&self.clients[client].phase, Phase::Holding(token, _) if held == Some(*token))
    }

    pub(super) fn note(&mut self, note: Note) {
        self.notes |= 1 << note as u32;
    }

    pub(super) fn breaks(&mut self, rule: Rule) {
        self.broken |= 1 << rule as u8;
    }

    pub(super) fn note_leaders(&mut self) {
        if (0..self.nodes.len()).all(|node| self.deadlines(node).is_some()) {
            self.note(Note::TwoLeaders);
        }
    }

    /// Looks at what an entry brought.
    pub(super) fn judge(
        &mut self,
        pending: &Pending,
        last_token: Option<Token>,
        outcome: &Outcome,
        events: &[Event],
    ) {
        if self.table.check_invariants().is_err() {
            self.breaks(Rule::Invariants);
        }
        let expires = matches!(pending.written, Written::Expire(_));
        let (mut granted, mut ended) = (false, false);
        for event in events {
            match event {
                Event::Queued { lease_id, .. } => self.begins(Id::of(*lease_id)),
                Event::Granted { lease_id, token, .. } => {
                    self.begins(Id::of(*lease_id));
                    granted = true;
                    if Some(*token) <= last_token {
                        self.breaks(Rule::TokensIncrease);
                    }
                }
                Event::Ended { lease_id, .. } | Event::Left { lease_id, .. } => {
                    let id = Id::of(*lease_id);
                    self.ended |= 1 << id.index();
                    let lasted = self.tick - self.acknowledged[id.index()];
                    if expires && lasted < self.ttl_ticks {
                        self.breaks(Rule::NotEarly);
                    }
                    ended |= matches!(event, Event::Ended { .. });
                    if expires && matches!(event, Event::Left { .. }) {
                        self.note(Note::WaiterExpired);
                    }
                }
                _ => {}
            }
        }
        match (&pending.written, outcome) {
            (Written::Asked(_, id), Outcome::Forbidden) => self.ended |= 1 << id.index(),
            (Written::Asked(..), Outcome::TooOld { .. }) => self.note(Note::TooOld),
            (
                Written::Asked(..),
                Outcome::Ended { .. } | Outcome::Granted { .. } | Outcome::Waiting { .. },
            ) if events.is_empty() => {
                self.note(Note::AnsweredFromMemory);
            }
            (Written::Expire(_), Outcome::OtherTerm { .. }) => self.note(Note::IgnoredByTerm),
            (Written::Expire(_), Outcome::Expired { ended: 1.. }) if pending.term < self.term => {
                self.note(Note::InheritedExpiry);
            }
            _ => {}
        }
        if granted && ended {
            self.note(if expires { Note::HandoverByExpiry } else { Note::HandoverByWill });
        }
    }

    fn begins(&mut self, id: Id) {
        if self.ended >> id.index() & 1 == 1 {
            self.breaks(Rule::DeadForEver);
        }
        self.acknowledged[id.index()] = self.tick;
    }
}
