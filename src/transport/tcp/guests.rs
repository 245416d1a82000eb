//! Who is connected, and what each has in use: the connecting half of [`Quotas`].
//!
//! A peer is a role and a name, as they were said in the handshake. What the clients of one name ask for is counted
//! together, over all their connections; a member is bounded for each connection, by what every connection has room for.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::super::Caller;
use crate::{name::AgentName, quotas::Quotas, role::Role, time::Moment};

/// Answers are counted in units of so many bytes, one at least.
const ANSWER_UNIT_BYTES: usize = 1_024;

/// See [`Guests::tells`].
const TELLS_EVERY: Duration = Duration::from_secs(1);
const TELLS_MOST: u32 = 8;

type Key = (Role, AgentName);

/// See the file's head.
pub(super) struct Guests {
    quotas: Quotas,
    book: Mutex<Book>,
    /// What all clients together may have in hand, and the answers to them that nobody has taken yet.
    shares: Shares,
}

#[derive(Default)]
struct Book {
    /// Handshakes under way, by where they come from, the oldest of each first; and what ends each.
    greeting: BTreeMap<IpAddr, BTreeMap<u64, CancellationToken>>,
    /// How many there have been.
    greeted: u64,
    /// Since when, and how many were told of who were refused; and how many more there were.
    telling: Option<Moment>,
    told: u32,
    untold: u64,
    connections: usize,
    peers: BTreeMap<Key, Peer>,
}

struct Peer {
    connections: usize,
    shares: Shares,
}

#[derive(Clone)]
struct Shares {
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl Shares {
    fn new(requests: usize, answer_bytes: usize) -> Self {
        let of = |units| Arc::new(Semaphore::new(units));
        Self { requests: of(requests), answers: of(answer_bytes.div_ceil(ANSWER_UNIT_BYTES)) }
    }
}

/// So much of a peer's share and of that for all, until it is dropped.
pub(crate) struct Share {
    _of_peer: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Guests {
    pub(super) fn new(quotas: Quotas) -> Arc<Self> {
        let shares = Shares::new(quotas.requests, quotas.answer_bytes);
        Arc::new(Self { quotas, book: Mutex::default(), shares })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a handshake with somebody at this address; `None` when there is none left. When all are taken, whoever
    /// has most of them gives one up to whoever has fewer: a flood from some hosts keeps no other one out.
    pub(super) fn greet(self: &Arc<Self>, host: IpAddr) -> Option<Greeting> {
        let host = network_of(host);
        let mut book = self.book();
        let from_there = book.greeting.get(&host).map_or(0, BTreeMap::len);
        if from_there >= self.quotas.handshakes_per_host {
            return None;
        }
        let in_all: usize = book.greeting.values().map(BTreeMap::len).sum();
        if in_all >= self.quotas.handshakes {
            let (_, most) = book.greeting.iter_mut().max_by_key(|(_, handshakes)| handshakes.len())?;
            if most.len() <= from_there + 1 {
                return None;
            }
            let (_, displaced) = most.pop_first()?;
            displaced.cancel();
        }
        book.greeted += 1;
        let (number, displaced) = (book.greeted, CancellationToken::new());
        book.greeting.entry(host).or_default().insert(number, displaced.clone());
        drop(book);
        Some(Greeting { guests: self.clone(), host, number, displaced })
    }

    /// Of those who are refused, a few in each second are told of, so that strangers don't fill a log: how many were not since
    /// the last one that was, or `None` where this one is not either.
    pub(super) fn tells(&self, now: Moment) -> Option<u64> {
        let mut book = self.book();
        if book.telling.is_none_or(|since| now.since(since) >= TELLS_EVERY) {
            (book.telling, book.told) = (Some(now), 0);
        }
        if book.told == TELLS_MOST {
            book.untold += 1;
            return None;
        }
        book.told += 1;
        Some(std::mem::take(&mut book.untold))
    }

    /// A place for a connection of this caller.
    ///
    /// # Errors
    /// What is used up, and what to do.
    pub(super) fn seat(self: &Arc<Self>, caller: &Caller) -> Result<Seat, String> {
        let Quotas { connections, connections_per_peer, .. } = self.quotas;
        // A quarter is kept for members, so that clients can't come between them.
        let most = if caller.role != Role::Member { connections - connections / 4 } else { connections };
        let key = (caller.role, caller.agent.clone());
        let mut book = self.book();
        if book.connections >= most {
            return Err(format!(
                "this agent has {} connections already, the quota `connections` is {connections}, and a quarter of it is \
                 for members alone; ask another agent",
                book.connections
            ));
        }
        let of_peer = book.peers.get(&key).map_or(0, |peer| peer.connections);
        if of_peer >= connections_per_peer {
            return Err(format!(
                "{} has {of_peer} connections to this agent, and the quota `connections_per_peer` is no more; close some, \
                 or use one for several tasks",
                caller.agent
            ));
        }
        book.connections += 1;
        let peer = book.peers.entry(key.clone()).or_insert_with(|| Peer {
            connections: 0,
            shares: Shares::new(self.quotas.requests_per_peer, self.quotas.answer_bytes_per_peer),
        });
        peer.connections += 1;
        let shares = (caller.role != Role::Member).then(|| peer.shares.clone());
        Ok(Seat { guests: self.clone(), key, shares })
    }
}

/// Whose an address is: the same host's by both families, and by IPv6 all that one network has (64 bits of it).
fn network_of(host: IpAddr) -> IpAddr {
    match host.to_canonical() {
        IpAddr::V6(host) => IpAddr::V6((host.to_bits() >> 64 << 64).into()),
        host @ IpAddr::V4(_) => host,
    }
}

/// A handshake under way.
pub(super) struct Greeting {
    guests: Arc<Guests>,
    host: IpAddr,
    number: u64,
    displaced: CancellationToken,
}

impl Greeting {
    /// Until it has to give way to another host's. Cancel-safe.
    pub(super) async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        let mut book = self.guests.book();
        if let Some(handshakes) = book.greeting.get_mut(&self.host) {
            handshakes.remove(&self.number);
            if handshakes.is_empty() {
                book.greeting.remove(&self.host);
            }
        }
    }
}

/// A connection's place.
pub(super) struct Seat {
    guests: Arc<Guests>,
    key: Key,
    /// Of a client.
    shares: Option<Shares>,
}

impl Seat {
    /// The largest frame that may come from there, in bytes, where it isn't the largest of all.
    pub(super) fn frame_bytes_max(&self) -> Option<usize> {
        self.shares.as_ref().map(|_| self.guests.quotas.request_bytes)
    }

    /// Room for a request; `Err` when it has to be turned away.
    pub(super) fn request(&self, units: u32) -> Result<Option<Share>, Full> {
        self.take(units, |shares| &shares.requests)
    }

    /// Room for an answer of so many bytes; `Err` when it can't be kept until somebody reads it.
    pub(super) fn answer(&self, bytes: usize) -> Result<Option<Share>, Full> {
        self.take(u32::try_from(1 + bytes / ANSWER_UNIT_BYTES).unwrap_or(u32::MAX), |shares| &shares.answers)
    }

    fn take(&self, units: u32, of: impl Fn(&Shares) -> &Arc<Semaphore>) -> Result<Option<Share>, Full> {
        let Some(own) = &self.shares else { return Ok(None) };
        let room = |shares| Arc::clone(of(shares)).try_acquire_many_owned(units).map_err(|_| Full);
        Ok(Some(Share { _of_peer: room(own)?, _of_all: room(&self.guests.shares)? }))
    }
}

/// A share is used up.
#[derive(Debug)]
pub(super) struct Full;

impl Drop for Seat {
    fn drop(&mut self) {
        let mut book = self.guests.book();
        book.connections -= 1;
        if let Some(peer) = book.peers.get_mut(&self.key) {
            peer.connections -= 1;
            if peer.connections == 0 {
                book.peers.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::{super::super::Lane, *};

    fn caller(role: Role, name: &str) -> Caller {
        Caller {
            cluster: None,
            node: None,
            role,
            rights: role,
            agent: AgentName::new(name).unwrap(),
            lane: Lane::Request,
            remote: String::new(),
        }
    }

    fn quotas() -> Quotas {
        Quotas {
            connections: 4,
            connections_per_peer: 2,
            handshakes: 3,
            handshakes_per_host: 2,
            requests: 3,
            requests_per_peer: 2,
            ..Quotas::default()
        }
    }

    #[test]
    fn one_host_can_not_take_all_handshakes() {
        let guests = Guests::new(quotas());
        let [one, two] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let held: Vec<_> = (0..2).map(|_| guests.greet(one).unwrap()).collect();
        assert!(guests.greet(one).is_none());
        let other = guests.greet(two).unwrap();
        assert!(guests.greet(two).is_none(), "all are taken");
        drop(held);
        assert!(guests.greet(two).is_some());
        drop(other);
        assert!(guests.book().greeting.is_empty());
    }

    #[test]
    fn a_flood_of_handshakes_gives_way_to_a_host_that_has_fewer() {
        let is_displaced = |greeting: &Greeting| greeting.displaced().now_or_never().is_some();
        let guests = Guests::new(Quotas { handshakes: 4, handshakes_per_host: 3, ..quotas() });
        let [one, two, three] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let flood: Vec<_> = (0..3).map(|_| guests.greet(one).unwrap()).collect();
        let other = guests.greet(two).unwrap();
        let member = guests.greet(three).unwrap();
        assert_eq!(flood.iter().map(is_displaced).collect::<Vec<_>>(), [true, false, false]);
        assert!(!is_displaced(&other) && !is_displaced(&member));
        // Now the flood has two of four, and one more would only turn the tables.
        assert!(guests.greet(two).is_none() && guests.greet(one).is_none());
        drop((flood, other, member));
        assert!(guests.book().greeting.is_empty());
    }

    #[test]
    fn of_those_who_are_refused_a_few_in_a_second_are_told_of() {
        let (guests, at) = (Guests::new(quotas()), |ms: u64| Moment::from_nanos(ms * 1_000_000));
        assert!((0..TELLS_MOST).all(|n| guests.tells(at(5_000 + u64::from(n))) == Some(0)));
        let told: Vec<_> = [5_500, 5_999, 6_000, 6_500].map(|ms| guests.tells(at(ms))).into();
        assert_eq!(told, [None, None, Some(2), Some(0)]);
    }

    #[test]
    fn a_network_of_many_addresses_is_one_host() {
        let [one, two, other] = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"]
            .map(|address| network_of(address.parse().unwrap()));
        assert!(one == two && one != other);
        let [four, mapped] =
            ["10.0.0.1", "::ffff:10.0.0.1"].map(|address| network_of(address.parse().unwrap()));
        assert_eq!(four, mapped);
    }

    #[test]
    fn a_peer_has_its_share_of_connections_and_members_have_some_for_themselves() {
        let guests = Guests::new(quotas());
        let flooder = caller(Role::Client, "flooder");
        let seats: Vec<_> = (0..2).map(|_| guests.seat(&flooder).unwrap()).collect();
        let refused = guests.seat(&flooder).map(drop).unwrap_err();
        assert!(refused.contains("connections_per_peer") && refused.contains("flooder"), "{refused}");
        let other = guests.seat(&caller(Role::Client, "other")).unwrap();
        let refused = guests.seat(&caller(Role::Client, "third")).map(drop).unwrap_err();
        assert!(refused.contains("`connections` is 4"), "{refused}");
        let member = guests.seat(&caller(Role::Member, "member")).unwrap();
        assert!(guests.seat(&caller(Role::Member, "another")).is_err());
        drop((seats, other, member));
        let book = guests.book();
        assert!(book.connections == 0 && book.peers.is_empty());
    }

    #[test]
    fn requests_of_one_name_are_counted_over_its_connections_and_members_are_not() {
        let guests = Guests::new(quotas());
        let flooder = caller(Role::Client, "flooder");
        let [one, two] = [0, 1].map(|_| guests.seat(&flooder).unwrap());
        let first = one.request(1).unwrap();
        let _second = two.request(1).unwrap();
        assert!(one.request(1).is_err() && two.request(1).is_err());
        let other = guests.seat(&caller(Role::Client, "other")).unwrap();
        let _third = other.request(1).unwrap();
        assert!(other.request(1).is_err(), "all clients together have used up theirs");
        drop(first);
        assert!(other.request(1).is_ok());
        drop(other);
        let member = guests.seat(&caller(Role::Member, "member")).unwrap();
        assert!((0..100).all(|_| matches!(member.request(1), Ok(None))));
        assert!(member.frame_bytes_max().is_none());
    }

    #[test]
    fn answers_that_nobody_reads_are_bounded_in_bytes() {
        let quotas = Quotas { answer_bytes: 16 << 20, answer_bytes_per_peer: 12 << 20, ..Quotas::default() };
        let guests = Guests::new(quotas);
        let [one, two] = ["one", "two"].map(|name| guests.seat(&caller(Role::Client, name)).unwrap());
        let _kept = one.answer(8 << 20).unwrap();
        assert!(one.answer(8 << 20).is_err());
        assert!(two.answer(8 << 20).is_err(), "what is left of all is less");
        assert!(two.answer(4 << 20).is_ok());
    }
}
