//! Which states are one: the identity of a state is what decides about everything that can come after it.
//!
//! Absolute numbers don't. So moments are told by how far they lie from now on the clock that they were read on, terms
//! from the newest, tokens from the last; what has passed for good is all alike. And the two clients are alike, and the
//! two nodes: of the four ways to name them the least view counts.

use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
    time::Duration,
};

use super::mutants::Mutant;
use super::world::{
    Answer, Ask, CLIENTS, Expiry, Id, Mail, NODES, Node, Phase, Place, Reign, State, UNIT, Written,
    holders_drift,
};
use crate::{deadlines::view::Kept, id::LeaseId, table::State as Standing, time::Moment, token::Token};

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write(&self.view());
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.view() == other.view()
    }
}

/// A view that is being written.
struct View<'a> {
    state: &'a State,
    /// The new name of each.
    clients: [usize; CLIENTS],
    nodes: [usize; NODES],
    bytes: Vec<u8>,
}

impl<'a> View<'a> {
    /// The clients are named in the order of what there is to say of each; where it is the same of both, either name may be
    /// right, and the least view counts. The nodes differ: one of them leads the newest term.
    fn least(state: &'a State) -> Vec<u8> {
        let [a, b] = [0, 1].map(|client| {
            let mut view = Self::new(state, [0, 1]);
            view.client(client);
            view.bytes
        });
        match a.cmp(&b) {
            Ordering::Less => Self::named(state, [0, 1], &[a, b]),
            Ordering::Greater => Self::named(state, [1, 0], &[b, a]),
            Ordering::Equal => {
                let clients = [a, b];
                Self::named(state, [0, 1], &clients).min(Self::named(state, [1, 0], &clients))
            }
        }
    }

    fn new(state: &'a State, clients: [usize; CLIENTS]) -> Self {
        let nodes = if state.leader == 0 { [0, 1] } else { [1, 0] };
        Self { state, clients, nodes, bytes: Vec::with_capacity(256) }
    }

    /// All there is to say, with these names for the clients.
    fn named(state: &'a State, names: [usize; CLIENTS], clients: &[Vec<u8>; CLIENTS]) -> Vec<u8> {
        let mut view = Self::new(state, names);
        view.bytes.extend(clients.concat());
        view.node(state.leader);
        view.node(1 - state.leader);
        view.log();
        view.mail();
        let left = state.left;
        view.bytes.extend([
            state.broken,
            left.elections,
            left.stalls,
            left.duplicates,
            left.failures,
            left.doubts,
            left.cancels,
            left.releases,
        ]);
        view.bytes
    }

    fn put(&mut self, number: usize) {
        self.bytes.push(u8::try_from(number).unwrap());
    }

    fn id(&self, id: Id) -> u8 {
        u8::try_from(Id::new(self.clients[id.client()], id.serial()).index()).unwrap()
    }

    fn lease(&self, lease: LeaseId) -> u8 {
        self.id(Id::of(lease))
    }

    fn token(&self, token: Option<Token>) -> u8 {
        let back = |token| Some(self.state.table.last_token()?.get() - Token::get(token));
        token.and_then(back).map_or(u8::MAX, |back| u8::try_from(back).unwrap())
    }

    fn client(&mut self, client: usize) {
        let state = self.state;
        let now = state.client_now(client);
        let ttl = state.ttl();
        let age = |sent: Moment| now.since(sent);
        // Only a fresh grant or confirmation makes the lease a holder's; of what is older all is alike.
        let fresh = |sent: Moment| if age(sent) < ttl / 3 { units(age(sent)) } else { u8::MAX - 1 };
        let of = &state.clients[client];
        self.put(state.clocks.clients[client] as usize);
        let (tag, token, number, renewing) = match &of.phase {
            Phase::Idle => (0, None, 0, None),
            Phase::Asking(sent) => (1, None, fresh(*sent), None),
            // Of a place in the queue nobody believes anything; only that there is no second one in the same moment.
            Phase::Waiting => (2, None, 0, of.renewing.map(|sent| u8::from(sent < now))),
            Phase::Confirming(token) => (3, Some(*token), 0, of.renewing.map(fresh)),
            Phase::Holding(token, session) => {
                let left = session.deadline().since(now);
                // What was sent longer ago than this extends nothing.
                let useless =
                    if left.is_zero() { Duration::ZERO } else { holders_drift(state.mutant).shorten(ttl) };
                let renewing = of.renewing.map(|sent| units(age(sent).min(useless)));
                (4, Some(*token), units(left), renewing)
            }
        };
        let renewing = renewing.unwrap_or(u8::MAX);
        let token = self.token(token);
        self.bytes.extend([tag, token, number, renewing]);
        self.put(of.drawn);
        self.put(of.may_draw);
        for serial in 0..of.drawn {
            self.standing(Id::new(client, serial));
        }
    }

    /// What the table knows of an acquisition, and what the rules need.
    fn standing(&mut self, id: Id) {
        let state = self.state;
        let (tag, number) = match state.table.state(&id.lease()) {
            Standing::Holding(held) => (0, self.token(Some(held.lease.token))),
            Standing::Waiting { position, .. } => (1, u8::try_from(position).unwrap()),
            Standing::Ended(_) => (2, 0),
            Standing::Unknown => (3, 0),
        };
        let lives = tag < 2;
        let quiet = if lives { state.tick - state.acknowledged[id.index()] } else { 0 };
        let ended = state.ended >> id.index() & 1;
        self.bytes.extend([tag, number, u8::try_from(quiet.min(state.ttl_ticks)).unwrap(), ended]);
        // Of the memory's order and reach, an acquire that may still come needs only how many ends it would outlive.
        let seen = state.seen[id.index()];
        if state.table.horizon() > 0 || state.forgets {
            let place = state.table.endings().position(|(_, lease)| lease == id.lease());
            let later = state.table.endings().filter(|(index, _)| *index > seen).count();
            let too_old = seen < state.table.horizon();
            let may_come = state.may_come(id);
            self.put(place.map_or(0, |place| 1 + place));
            self.put(if may_come { 1 + later } else { 0 });
            self.put(usize::from(may_come && too_old));
        }
    }

    fn node(&mut self, node: usize) {
        let state = self.state;
        let Node { reign, stalled, kept } = &state.nodes[node];
        self.put(state.clocks.nodes[node] as usize);
        self.put(stalled.map_or(0, |since| 1 + usize::try_from(state.tick - since).unwrap()));
        let now = state.node_now(node);
        if let Some(reign) = reign {
            self.put(1 + usize::try_from(state.term - reign.term).unwrap());
            self.reign(reign, now);
        } else {
            self.put(0);
        }
        if let Some(kept) = kept {
            self.put(u8::MAX.into());
            self.deadlines(kept.kept(), now);
        }
    }

    fn reign(&mut self, reign: &Reign, now: Moment) {
        let Some(deadlines) = &reign.deadlines else { return self.put(0) };
        let moments = deadlines.moments();
        let frozen = moments.frozen_since.map_or(u8::MAX, |since| ahead(since, now));
        self.put(1);
        self.bytes.push(frozen);
        // With the first deadline that begins these begin anew.
        if deadlines.kept().next().is_some() {
            self.bytes.extend([ahead(moments.largest, now), ahead(moments.last_wake, now)]);
        }
        self.deadlines(deadlines.kept(), now);
    }

    fn deadlines(&mut self, kept: impl Iterator<Item = Kept>, now: Moment) {
        let mut all: Vec<_> = kept
            .map(|kept| {
                // When its expiry has failed it is due after now, whenever it was due before.
                let at = if kept.expiring { kept.at.max(now) } else { kept.at };
                let state = u8::from(kept.renewable) + 2 * u8::from(kept.expiring);
                [self.lease(kept.id), self.token(kept.token), ahead(at, now), state]
            })
            .collect();
        all.sort_unstable();
        self.put(all.len());
        self.bytes.extend(all.as_flattened());
    }

    fn log(&mut self) {
        let state = self.state;
        self.put(state.tail.len());
        for pending in &state.tail {
            self.put(usize::try_from(state.term - pending.term).unwrap());
            match &pending.written {
                Written::Blank => self.put(u8::MAX.into()),
                Written::Asked(ask, id) => {
                    let id = self.id(*id);
                    self.bytes.extend([*ask as u8, id]);
                }
                Written::Expire(expiry) => {
                    let expiry = self.expiry(expiry);
                    self.bytes.extend(expiry);
                }
            }
        }
        let mut expiries: Vec<_> = state.expiries.iter().map(|expiry| self.expiry(expiry)).collect();
        expiries.sort_unstable();
        self.put(expiries.len());
        self.bytes.extend(expiries.into_iter().flatten());
    }

    fn expiry(&self, expiry: &Expiry) -> Vec<u8> {
        let back = u8::try_from(self.state.term - expiry.term).unwrap();
        let mut all: Vec<_> =
            self.state.matching(expiry).map(|(id, token)| [self.lease(id), self.token(token)]).collect();
        all.sort_unstable();
        let node = u8::try_from(self.nodes[expiry.node]).unwrap();
        let mut bytes = vec![u8::MAX - 1, node, back, u8::try_from(all.len()).unwrap()];
        bytes.extend(all.as_flattened());
        bytes
    }

    fn mail(&mut self) {
        let mut all: Vec<[u8; 6]> = self.state.mail.iter().map(|mail| self.one(mail)).collect();
        all.sort_unstable();
        self.put(all.len());
        self.bytes.extend(all.as_flattened());
    }

    fn one(&self, mail: &Mail) -> [u8; 6] {
        let state = self.state;
        let of = |node: usize| u8::try_from(self.nodes[node]).unwrap();
        let age = |node: usize, at: Moment| {
            let ticks = state.tick - state.tick_at(node, at);
            u8::try_from(ticks).unwrap()
        };
        let (tag, a, b) = match mail.place {
            Place::Wire => (0, 0, 0),
            Place::Socket { node } => (1, of(node), 0),
            Place::Arrived { node, at } => (2, of(node), age(node, at)),
            Place::Confirmed { node, at, term } => {
                let back = u8::try_from(state.term - term).unwrap();
                (3 + back, of(node), age(node, at))
            }
            Place::Answered(Answer::Granted(token)) => (101, 0, self.token(Some(token))),
            Place::Answered(answer) => {
                let number = match answer {
                    Answer::Granted(_) | Answer::Waiting => 0,
                    Answer::Ended => 1,
                    Answer::Extended => 2,
                    Answer::Gone => 3,
                };
                (100, 0, number)
            }
        };
        [self.id(mail.id), mail.ask as u8, u8::from(mail.awaited), tag, a, b]
    }
}

impl State {
    /// What this state is told from others by.
    pub(super) fn view(&self) -> Vec<u8> {
        View::least(self)
    }

    /// What an expiry names that the table still has so: the rest has ended, for ever.
    pub(super) fn matching<'a>(
        &'a self,
        expiry: &'a Expiry,
    ) -> impl Iterator<Item = (LeaseId, Option<Token>)> + 'a {
        expiry.ended.iter().copied().filter(|(id, token)| self.has(*id, *token))
    }

    fn has(&self, id: LeaseId, token: Option<Token>) -> bool {
        self.table.live(&id).is_some_and(|live| live.token == token)
    }

    /// Whether anything can come of a deadline: with a deposed leader only of a lease that is still as it was, or of one
    /// that a renewal under way there is about.
    pub(super) fn matters(&self, node: usize, kept: &Kept) -> bool {
        self.has(kept.id, kept.token)
            || self.leader == node
            || self.mutant == Some(Mutant::NoQuorum)
            || self.mail.iter().any(|mail| mail.id.lease() == kept.id && mail.place.node() == Some(node))
    }

    /// Whether an acquire of this id may still be appended.
    fn may_come(&self, id: Id) -> bool {
        let asks = matches!(self.clients[id.client()].phase, Phase::Asking(_))
            && self.id_of(id.client()) == Some(id);
        asks || self.is_written(id) || self.mail.iter().any(|mail| mail.id == id && mail.ask == Ask::Acquire)
    }
}

fn units(span: Duration) -> u8 {
    const PER_UNIT: u64 = UNIT.as_nanos() as u64;
    let nanos = u64::try_from(span.as_nanos()).unwrap();
    debug_assert_eq!(nanos % PER_UNIT, 0);
    u8::try_from(nanos / PER_UNIT).unwrap()
}

/// How far this lies ahead of now, or behind it: 100 is now, and 0 whatever is long past.
fn ahead(moment: Moment, now: Moment) -> u8 {
    match now.since(moment) {
        Duration::ZERO => 100 + units(moment.since(now)),
        behind => 100 - units(behind.min(100 * UNIT)),
    }
}
