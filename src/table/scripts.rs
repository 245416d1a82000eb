//! The rules told as short stories, and the edges of every limit.

mod sharing;

use bytes::Bytes;

use super::*;
use crate::{
    AgentName, NodeId,
    limits::{BATCH_MAX, EXPIRE_MAX, METADATA_BYTES_MAX, REASON_BYTES_MAX},
};

/// A founded table, its next index, and the events of the last entry.
struct Story {
    table: Table,
    index: u64,
    events: Vec<Event>,
}

const FLOOR: u64 = 1_000;

fn id(n: u128) -> LeaseId {
    LeaseId::from_bits(n)
}

fn token(n: u64) -> Token {
    Token::new(FLOOR + n)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn holder(text: &str) -> Holder {
    Holder { agent: AgentName::new(text).unwrap(), node: NodeId::from_bits(text.len() as u64) }
}

/// An acquire of "orders" that waits, by agent "a<n>".
fn acquire(n: u128) -> Acquire {
    Acquire {
        name: name("orders"),
        lease_id: id(n),
        agent: holder(&format!("a{n}")),
        ttl_ms: 10_000,
        wait: true,
        metadata: Bytes::from_static(b"m"),
        seen: 0,
        mode: Mode::Exclusive,
        lock_delay_ms: 0,
    }
}

fn attempt(n: u128, to: TransferTo, attempt: u64) -> Command {
    Command::Transfer { lease_id: id(n), to, attempt }
}

fn revoke(token: Token, reason: &str) -> Command {
    Command::Revoke {
        name: name("orders"),
        token,
        by: AgentName::new("operator").unwrap(),
        reason: reason.into(),
        heir: None,
    }
}

fn agent(n: u128) -> AgentName {
    AgentName::new(format!("a{n}")).unwrap()
}

fn revocation(reason: &str) -> Revocation {
    Revocation { by: AgentName::new("operator").unwrap(), reason: reason.into(), heir: None }
}

fn successor(n: u128, at: u64) -> Successor {
    Successor { holder: holder(&format!("a{n}")), token: token(at) }
}

impl Story {
    fn new() -> Self {
        Self::within(Bounds::default())
    }

    fn within(bounds: Bounds) -> Self {
        let mut story = Self { table: Table::with_bounds(bounds), index: 0, events: vec![] };
        assert_eq!(story.does(Command::Found { tokens_above: Token::new(FLOOR) }), Outcome::Founded);
        story
    }

    /// Agents a1 to an: the first holds with token 1, the others wait.
    fn queued(n: u128) -> Self {
        let mut story = Self::new();
        (1..=n).for_each(|n| _ = story.acquires(n));
        story
    }

    fn does(&mut self, command: Command) -> Outcome {
        self.index += 1;
        self.events.clear();
        let entry = Entry { wall_unix_ms: 7, command };
        let outcome = self.table.apply(self.index, 1, &entry, &mut self.events);
        self.table.check_invariants().unwrap();
        outcome
    }

    fn acquires(&mut self, n: u128) -> Outcome {
        self.does(Command::Acquire(acquire(n)))
    }

    fn releases(&mut self, n: u128) -> Outcome {
        self.does(Command::Release { lease_id: id(n) })
    }

    fn cancels(&mut self, n: u128) -> Outcome {
        self.does(Command::Cancel { lease_id: id(n) })
    }

    fn expires(&mut self, ended: &[(u128, Option<u64>)]) -> Outcome {
        let ended = ended.iter().map(|(n, at)| (id(*n), at.map(token))).collect();
        self.does(Command::Expire { term: 1, ended })
    }

    fn holds(&self, n: u128) -> bool {
        self.table.lease(&id(n)).is_some()
    }
}

#[test]
fn a_release_hands_over_in_the_same_step() {
    let mut story = Story::queued(3);
    assert_eq!(story.releases(1), Outcome::Released { next: Some(successor(2, 2)) });
    let [
        Event::Ended { reason: EndReason::Released, token: old, .. },
        Event::Granted { from_queue: true, .. },
    ] = &story.events[..]
    else {
        panic!("{:?}", story.events)
    };
    assert_eq!(*old, token(1));
    assert_eq!(story.releases(1), Outcome::Ended { ending: Ending::Released });
    assert!(story.events.is_empty());
    assert_eq!(story.table.state(&id(3)), State::Waiting { name: &name("orders"), position: 1 });
    assert_eq!(story.releases(2), Outcome::Released { next: Some(successor(3, 3)) });
    assert_eq!(story.releases(3), Outcome::Released { next: None });
    assert_eq!(story.table.counts(), Counts { leases: 0, waiters: 0, closed: 0, ended_ids: 3 });
}

#[test]
fn a_retry_is_answered_as_before() {
    let mut story = Story::queued(3);
    assert_eq!(story.acquires(1), Outcome::Granted { token: token(1) });
    assert_eq!(story.acquires(3), Outcome::Waiting { position: 2 });
    story.cancels(2);
    assert_eq!(story.acquires(3), Outcome::Waiting { position: 1 });
    story.releases(1);
    assert_eq!(story.acquires(3), Outcome::Granted { token: token(2) });
}

#[test]
fn a_delayed_copy_never_comes_back_to_life() {
    let mut story = Story::queued(1);
    story.releases(1);
    assert_eq!(story.acquires(1), Outcome::Ended { ending: Ending::Released });
    // The cancel overtakes the acquire.
    assert_eq!(story.cancels(2), Outcome::Forbidden);
    assert_eq!(story.acquires(2), Outcome::Ended { ending: Ending::Forbidden });
    assert_eq!(story.releases(3), Outcome::Forbidden);
    assert_eq!(story.acquires(3), Outcome::Ended { ending: Ending::Forbidden });
    assert_eq!(story.table.counts().leases, 0);
}

#[test]
fn a_try_that_was_refused_is_not_granted_by_its_copy() {
    let mut story = Story::queued(1);
    let attempt = Command::Acquire(Acquire { wait: false, ..acquire(2) });
    let Outcome::Held(held) = story.does(attempt.clone()) else { panic!() };
    assert_eq!((held.holder, held.token, held.since_unix_ms, held.waiters), (holder("a1"), token(1), 7, 0));
    // Its retry is told the same; and once the name is free, that it is too late.
    assert!(matches!(story.does(attempt.clone()), Outcome::Held(_)));
    story.releases(1);
    assert_eq!(story.does(attempt), Outcome::Ended { ending: Ending::Refused });
    // The same agent asking again is told like any other.
    story.acquires(4);
    let again = Acquire { wait: false, agent: holder("a4"), ..acquire(5) };
    assert!(matches!(story.does(Command::Acquire(again)), Outcome::Held(_)));
}

#[test]
fn a_request_older_than_the_memory_is_refused() {
    let mut story = Story::within(Bounds { ended_ids: 1, ..Bounds::default() });
    story.acquires(1); // index 2
    story.releases(1); // index 3: ended
    story.cancels(2); // index 4: forgets 1
    assert_eq!(story.table.horizon(), 3);
    assert_eq!(story.table.state(&id(1)), State::Unknown);
    // A copy of 1 has seen at most index 1.
    let copy = Acquire { seen: 1, ..acquire(1) };
    assert_eq!(story.does(Command::Acquire(copy)), Outcome::TooOld { horizon: 3 });
    let slow = Acquire { seen: 2, ..acquire(3) };
    assert_eq!(story.does(Command::Acquire(slow.clone())), Outcome::TooOld { horizon: 3 });
    let fresh = Acquire { seen: 3, ..slow };
    assert_eq!(story.does(Command::Acquire(fresh)), Outcome::Granted { token: token(2) });
}

#[test]
fn a_request_that_claims_to_have_seen_the_future_is_refused_for_good() {
    let mut story = Story::new();
    let liar = Acquire { seen: 2, ..acquire(1) };
    let refusal = Outcome::Refused(Refusal::SeenAhead { seen: 2, index: 2 });
    assert_eq!(story.does(Command::Acquire(liar.clone())), refusal);
    assert_eq!(story.does(Command::Acquire(liar)), Outcome::Ended { ending: Ending::Refused });
    assert_eq!(
        story.does(Command::Acquire(Acquire { seen: 3, ..acquire(2) })),
        Outcome::Granted { token: token(1) }
    );
}

#[test]
fn an_id_answers_only_to_its_own_name_and_agent() {
    let mut story = Story::queued(2);
    for n in [1, 2] {
        let other_name = Acquire { name: name("users"), ..acquire(n) };
        let other_agent = Acquire { agent: holder("thief"), ..acquire(n) };
        for request in [other_name, other_agent] {
            assert_eq!(story.does(Command::Acquire(request)), Outcome::Refused(Refusal::LeaseIdTaken));
        }
    }
    let agent = Holder { node: NodeId::from_bits(99), ..holder("a1") };
    let elsewhere = Acquire { agent, ..acquire(1) };
    assert_eq!(story.does(Command::Acquire(elsewhere)), Outcome::Granted { token: token(1) });
}

#[test]
fn expiry_needs_the_term_the_id_and_the_token() {
    let mut story = Story::queued(2);
    let pairs = vec![(id(1), Some(token(1)))];
    let stale = Command::Expire { term: 0, ended: pairs.clone() };
    assert_eq!(story.does(stale), Outcome::OtherTerm { entry_term: 1 });
    assert_eq!(
        story.expires(&[(1, None), (1, Some(2)), (2, Some(1)), (9, Some(1))]),
        Outcome::Expired { ended: 0 }
    );
    assert!(story.holds(1) && story.events.is_empty());
    assert_eq!(story.expires(&[(1, Some(1)), (1, Some(1))]), Outcome::Expired { ended: 1 });
    assert!(story.holds(2));
    // The waiter that has become the holder is not expired as a waiter.
    assert_eq!(story.expires(&[(2, None)]), Outcome::Expired { ended: 0 });
}

#[test]
fn an_expired_lease_does_not_go_to_a_waiter_that_expires_with_it() {
    let mut story = Story::queued(3);
    assert_eq!(story.expires(&[(1, Some(1)), (2, None)]), Outcome::Expired { ended: 2 });
    assert!(story.holds(3));
    assert_eq!(story.table.state(&id(2)), State::Ended(Ending::Expired));
}

#[test]
fn a_transfer_picks_its_waiter() {
    let mut story = Story::queued(4);
    let to = |n| TransferTo::Agent(agent(n));
    assert_eq!(story.does(attempt(1, to(3), 1)), Outcome::Transferred { to: successor(3, 2) });
    assert_eq!(story.does(attempt(3, to(4), 1)), Outcome::Transferred { to: successor(4, 3) });
    assert_eq!(story.does(attempt(4, TransferTo::First, 1)), Outcome::Transferred { to: successor(2, 4) });
    assert_eq!(story.does(attempt(4, TransferTo::First, 1)), Outcome::Ended { ending: Ending::Transferred });
    assert_eq!(story.does(attempt(9, TransferTo::First, 1)), Outcome::NotHolding);
    // A waiter of another name is no waiter of this one.
    story.does(Command::Acquire(Acquire { name: name("users"), ..acquire(5) }));
    story.does(Command::Acquire(Acquire { name: name("users"), ..acquire(6) }));
    assert_eq!(story.does(attempt(6, TransferTo::First, 1)), Outcome::NotHolding);
    assert_eq!(story.does(attempt(2, to(6), 1)), Outcome::NoSuchWaiter);
}

#[test]
fn a_late_copy_of_a_failed_transfer_takes_nothing_from_a_holder_that_believes_again() {
    let mut story = Story::queued(1);
    assert_eq!(story.does(attempt(1, TransferTo::First, 2)), Outcome::NoSuchWaiter);
    story.acquires(2);
    for late in [2, 1, 0] {
        assert_eq!(story.does(attempt(1, TransferTo::First, late)), Outcome::NoSuchWaiter);
    }
    assert!(story.holds(1));
    assert_eq!(story.does(attempt(1, TransferTo::First, 3)), Outcome::Transferred { to: successor(2, 2) });
}

#[test]
fn a_revoked_lease_goes_on_until_it_is_given_back() {
    let mut story = Story::queued(2);
    assert_eq!(story.does(revoke(token(1), "maintenance")), Outcome::Revoked);
    assert!(matches!(&story.events[..], [Event::Revoked { .. }]));
    assert!(story.holds(1));
    assert!(!story.table.live(&id(1)).unwrap().renewable);
    assert_eq!(story.does(revoke(token(1), "again")), Outcome::AlreadyRevoked);
    story.releases(1);
    let Event::Ended { reason, .. } = &story.events[0] else { panic!() };
    assert_eq!(*reason, EndReason::Revoked(revocation("maintenance")));
    assert_eq!(story.table.state(&id(1)), State::Ended(Ending::Revoked));
    // A late copy means the old grant, not the new one.
    assert_eq!(story.does(revoke(token(1), "maintenance")), Outcome::NotHeld);
    assert!(story.table.live(&id(2)).unwrap().renewable);
    // If the holder never hears of it, the leader ends it, for the same reason.
    story.does(revoke(token(2), "cut off"));
    story.expires(&[(2, Some(2))]);
    let Event::Ended { reason, .. } = &story.events[0] else { panic!() };
    assert_eq!(*reason, EndReason::Revoked(revocation("cut off")));
}

/// Revoked in favour of this agent.
fn for_agent(at: u64, heir: AgentName) -> Command {
    let Command::Revoke { name, by, reason, .. } = revoke(token(at), "yours") else { panic!() };
    Command::Revoke { name, token: token(at), by, reason, heir: Some(heir) }
}

/// A retry of a handover hears that it took place, not that the lease was lost.
#[test]
fn a_revoked_holder_that_hands_over_meanwhile_has_handed_over() {
    let mut story = Story::queued(3);
    story.does(for_agent(1, agent(3)));
    let to = || attempt(1, TransferTo::Agent(agent(2)), 1);
    assert_eq!(story.does(to()), Outcome::Transferred { to: successor(2, 2) });
    assert_eq!(story.does(to()), Outcome::Ended { ending: Ending::Transferred });
}

#[test]
fn a_revoked_lease_goes_to_the_heir_that_it_was_revoked_for() {
    let mut story = Story::queued(4);
    assert_eq!(story.does(for_agent(1, agent(9))), Outcome::NoSuchWaiter);
    assert!(story.table.live(&id(1)).unwrap().renewable, "nothing has changed");
    assert_eq!(story.does(for_agent(1, agent(3))), Outcome::Revoked);
    assert_eq!(story.releases(1), Outcome::Released { next: Some(successor(3, 2)) });
    // An heir that has left the queue meanwhile leaves its turn to the first.
    story.does(for_agent(2, agent(4)));
    story.cancels(4);
    story.expires(&[(3, Some(2))]);
    assert!(story.holds(2));
}

#[test]
fn tokens_go_on_over_names_and_a_second_founding_is_ignored() {
    let mut story = Story::queued(1);
    let users = Acquire { name: name("users"), ..acquire(2) };
    assert_eq!(story.does(Command::Acquire(users)), Outcome::Granted { token: token(2) });
    assert_eq!(story.does(Command::Found { tokens_above: Token::new(0) }), Outcome::AlreadyFounded);
    story.releases(1);
    assert_eq!(story.acquires(3), Outcome::Granted { token: token(3) });
}

#[test]
fn an_acquire_before_the_founding_is_refused_for_good() {
    let mut story = Story { table: Table::new(), index: 0, events: vec![] };
    assert_eq!(story.acquires(1), Outcome::Refused(Refusal::NotFounded));
    story.does(Command::Found { tokens_above: Token::new(FLOOR) });
    assert_eq!(story.acquires(1), Outcome::Ended { ending: Ending::Refused });
}

#[test]
fn when_the_tokens_run_out_nothing_is_granted_and_nobody_waits_in_vain() {
    let mut story = Story { table: Table::new(), index: 0, events: vec![] };
    story.does(Command::Found { tokens_above: Token::new(u64::MAX - 1) });
    (1..=3).for_each(|n| _ = story.acquires(n));
    assert_eq!(story.does(attempt(1, TransferTo::First, 1)), Outcome::Refused(Refusal::NoTokens));
    assert!(story.holds(1));
    assert_eq!(story.releases(1), Outcome::Released { next: None });
    assert!(matches!(
        &story.events[..],
        [
            Event::Ended { .. },
            Event::Left { reason: LeftReason::NoTokens, .. },
            Event::Left { reason: LeftReason::NoTokens, .. }
        ]
    ));
    assert_eq!(story.acquires(4), Outcome::Refused(Refusal::NoTokens));
    assert_eq!(story.table.counts().waiters, 0);
}

#[test]
fn the_edges_of_an_acquire() {
    let mut story = Story::new();
    for ttl_ms in [0, 86_400_001, u64::MAX] {
        let outcome = story.does(Command::Acquire(Acquire { ttl_ms, ..acquire(1) }));
        assert_eq!(outcome, Outcome::Refused(Refusal::Ttl { ttl_ms }));
    }
    let metadata = Bytes::from(vec![0; METADATA_BYTES_MAX + 1]);
    let outcome = story.does(Command::Acquire(Acquire { metadata, ..acquire(1) }));
    assert_eq!(outcome, Outcome::Refused(Refusal::Metadata { bytes: 4_097 }));
    let metadata = Bytes::from(vec![0; METADATA_BYTES_MAX]);
    let largest = Acquire { ttl_ms: 86_400_000, metadata, ..acquire(1) };
    assert_eq!(story.does(Command::Acquire(largest)), Outcome::Granted { token: token(1) });
    assert_eq!(
        story.does(Command::Acquire(Acquire { ttl_ms: 1, ..acquire(2) })),
        Outcome::Waiting { position: 1 }
    );
}

#[test]
fn the_edges_of_the_other_commands() {
    let mut story = Story::queued(1);
    for reason in ["x".repeat(REASON_BYTES_MAX + 1), "a\nb".to_owned(), "a\0b".to_owned()] {
        let refusal = Outcome::Refused(Refusal::Reason { bytes: reason.len() as u64 });
        assert_eq!(story.does(revoke(token(1), &reason)), refusal);
    }
    assert_eq!(story.does(revoke(token(1), &"x".repeat(REASON_BYTES_MAX))), Outcome::Revoked);

    let mut pairs = vec![(9, None); EXPIRE_MAX];
    assert_eq!(story.expires(&pairs), Outcome::Expired { ended: 0 });
    pairs.push((1, Some(1)));
    assert_eq!(story.expires(&pairs), Outcome::Refused(Refusal::ExpireTooLong { count: 513 }));

    let mut batch = vec![Single::Release { lease_id: id(1) }; BATCH_MAX + 1];
    assert_eq!(
        story.does(Command::Batch(batch.clone())),
        Outcome::Refused(Refusal::BatchTooLong { count: 513 })
    );
    assert!(story.holds(1));
    batch.pop();
    let Outcome::Batch(outcomes) = story.does(Command::Batch(batch)) else { panic!() };
    assert_eq!(outcomes[0], Outcome::Released { next: None });
    assert_eq!(outcomes[511], Outcome::Ended { ending: Ending::Revoked });
}

#[test]
fn a_full_table_and_a_full_queue_refuse_for_good() {
    let bounds = Bounds { leases: 3, waiters_per_name: 1, ended_ids: 100 };
    let mut story = Story::within(bounds);
    story.acquires(1);
    story.acquires(2);
    assert_eq!(story.acquires(3), Outcome::Refused(Refusal::QueueFull { max: 1 }));
    let users = |n| Command::Acquire(Acquire { name: name("users"), ..acquire(n) });
    story.does(users(4));
    assert_eq!(story.does(users(5)), Outcome::Refused(Refusal::TableFull { max: 3 }));
    // A handover takes no room.
    assert_eq!(story.releases(1), Outcome::Released { next: Some(successor(2, 3)) });
    assert_eq!(story.acquires(3), {
        let held = story.table.holder(&name("orders")).unwrap().held_by();
        Outcome::Held(held)
    });
    story.releases(2);
    assert_eq!(story.acquires(3), Outcome::Ended { ending: Ending::Refused });
}

#[test]
fn an_index_is_applied_once() {
    let mut story = Story::queued(1);
    let again = Entry { wall_unix_ms: 0, command: Command::Release { lease_id: id(1) } };
    for index in [0, 1, 2] {
        let outcome = story.table.apply(index, 1, &again, &mut story.events);
        assert_eq!(outcome, Outcome::Refused(Refusal::IndexNotAfter { index, applied: 2 }));
    }
    assert!(story.holds(1));
    story.table.skip(9);
    story.table.skip(4);
    assert_eq!(story.table.applied(), 9);
}

#[test]
fn leases_are_listed_by_prefix() {
    let mut story = Story::new();
    for (n, text) in ["b", "a/1", "a/2", "a", "å"].into_iter().enumerate() {
        story.does(Command::Acquire(Acquire { name: name(text), ..acquire(n as u128) }));
    }
    let listed = |prefix| {
        story.table.leases(prefix, None).map(|lease| lease.name.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(""), ["a", "a/1", "a/2", "b", "å"]);
    assert_eq!(listed("a/"), ["a/1", "a/2"]);
    assert_eq!(listed("c"), [""; 0]);
    let unknown = name("nobody's");
    assert!(story.table.holder(&unknown).is_none() && story.table.waiters(&unknown).next().is_none());
}

/// 100,000 held leases may cost 30 MB in the table: what is on the heap beside these are the name, once, and whatever
/// metadata it has. The holder is shared.
#[test]
fn a_lease_is_small() {
    let in_nodes = size_of::<(Name, Box<Slot>)>() + size_of::<(LeaseId, Place)>();
    let boxed = size_of::<Slot>();
    assert_eq!((in_nodes, boxed), (72, 112));
    // A B-tree's nodes are at least half full; names are shared, with two counters; malloc has a word for each.
    let worst = 2 * in_nodes + (boxed + 8) + (16 + 16 + 8);
    assert!(worst < 310, "{worst} at worst");
}
