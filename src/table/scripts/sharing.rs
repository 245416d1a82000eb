//! Stories of leases that stand beside each other, and of names that stay closed.

use super::*;

fn shares(n: u128, mode: Mode) -> Command {
    Command::Acquire(Acquire { mode, ..acquire(n) })
}

fn granted(at: u64) -> Outcome {
    Outcome::Granted { token: token(at) }
}

fn waiting(position: u64) -> Outcome {
    Outcome::Waiting { position }
}

#[test]
fn readers_share_and_a_writer_is_not_starved() {
    let mut story = Story::new();
    assert_eq!(story.does(shares(1, Mode::Shared)), granted(1));
    assert_eq!(story.does(shares(2, Mode::Shared)), granted(2));
    assert_eq!(story.does(shares(3, Mode::Exclusive)), waiting(1));
    // Readers that come later don't overtake the writer.
    assert_eq!(story.does(shares(4, Mode::Shared)), waiting(2));
    assert_eq!(story.does(shares(5, Mode::Shared)), waiting(3));
    let tries = Acquire { mode: Mode::Shared, wait: false, ..acquire(6) };
    let Outcome::Held(held) = story.does(Command::Acquire(tries)) else { panic!() };
    assert_eq!((held.mode, held.holders, held.waiters, held.token), (Mode::Shared, 2, 3, token(1)));
    assert_eq!(story.releases(1), Outcome::Released { next: None });
    assert!(!story.holds(3), "a reader is left");
    assert_eq!(story.releases(2), Outcome::Released { next: Some(successor(3, 3)) });
    // All who may share follow together.
    assert_eq!(story.releases(3), Outcome::Released { next: Some(successor(4, 4)) });
    assert!(story.holds(4) && story.holds(5));
    let tokens: Vec<_> = story.table.holders(&name("orders")).map(|held| held.lease.token).collect();
    assert_eq!(tokens, [token(4), token(5)]);
}

#[test]
fn when_a_writer_gives_up_waiting_the_readers_behind_it_get_in() {
    for expires in [false, true] {
        let mut story = Story::new();
        story.does(shares(1, Mode::Shared));
        story.does(shares(2, Mode::Exclusive));
        story.does(shares(3, Mode::Shared));
        if expires {
            story.expires(&[(2, None)]);
        } else {
            story.cancels(2);
        }
        assert!(matches!(&story.events[..], [Event::Left { .. }, Event::Granted { from_queue: true, .. }]));
        assert!(story.holds(1) && story.holds(3));
    }
}

#[test]
fn there_are_as_many_permits_as_were_named() {
    let mut story = Story::new();
    let of = |of| Mode::Permits { of };
    assert_eq!(story.does(shares(1, of(2))), granted(1));
    assert_eq!(story.does(shares(2, of(2))), granted(2));
    assert_eq!(story.does(shares(3, of(2))), waiting(1));
    assert_eq!(story.does(shares(4, of(3))), waiting(2), "another number excludes");
    assert_eq!(story.does(shares(5, Mode::Shared)), waiting(3));
    assert_eq!(story.releases(1), Outcome::Released { next: Some(successor(3, 3)) });
    story.releases(2);
    assert!(!story.holds(4));
    story.releases(3);
    assert!(story.holds(4) && !story.holds(5));
    assert_eq!(story.does(shares(6, of(0))), Outcome::Refused(Refusal::Permits { of: 0 }));
}

#[test]
fn a_shared_lease_is_transferred_to_whom_it_fits() {
    let mut story = Story::new();
    story.does(shares(1, Mode::Shared));
    story.does(shares(2, Mode::Shared));
    story.does(shares(3, Mode::Exclusive));
    story.does(shares(4, Mode::Shared));
    assert_eq!(
        story.does(attempt(1, TransferTo::First, 1)),
        Outcome::NoSuchWaiter,
        "another reader is there"
    );
    let to = TransferTo::Agent(agent(4));
    assert_eq!(story.does(attempt(1, to, 2)), Outcome::Transferred { to: successor(4, 3) });
    assert!(story.holds(2) && story.holds(4) && !story.holds(3));
}

/// An exclusive acquire with a lock delay.
fn delays(n: u128) -> Command {
    Command::Acquire(Acquire { lock_delay_ms: 500, ..acquire(n) })
}

#[test]
fn a_name_stays_closed_after_an_expiry_but_not_to_its_last_holder() {
    let mut story = Story::new();
    story.does(delays(1));
    story.acquires(2);
    assert_eq!(story.expires(&[(1, Some(1))]), Outcome::Expired { ended: 1 });
    assert!(matches!(&story.events[..], [Event::Ended { .. }, Event::Closed { delay_ms: 500, .. }]));
    assert!(!story.holds(2));
    assert_eq!(story.acquires(3), waiting(2));
    let tries = Command::Acquire(Acquire { wait: false, ..acquire(4) });
    let closed = ClosedBy { holder: holder("a1"), token: token(1), delay_ms: 500 };
    assert_eq!(story.does(tries.clone()), Outcome::Closed(closed.clone()));
    assert_eq!(story.does(tries), Outcome::Closed(closed), "the retry is told the same");
    // Its own agent is let in, whoever waits.
    assert_eq!(story.expires(&[(1, Some(1))]), Outcome::Expired { ended: 0 }, "a second copy opens nothing");
    let again = Acquire { lease_id: id(11), lock_delay_ms: 500, ..acquire(1) };
    assert_eq!(story.does(Command::Acquire(again)), granted(3), "the closure's key is a token");
    assert!(matches!(&story.events[..], [Event::Opened { .. }, Event::Granted { .. }]));
    assert_eq!(story.expires(&[(1, Some(2))]), Outcome::Expired { ended: 0 }, "a late copy opens nothing");
    story.expires(&[(11, Some(3))]);
    assert_eq!(story.expires(&[(11, Some(3))]), Outcome::Expired { ended: 0 }, "the key has to match");
    assert_eq!(story.expires(&[(11, Some(4))]), Outcome::Expired { ended: 1 });
    assert!(matches!(&story.events[..], [Event::Opened { .. }, Event::Granted { from_queue: true, .. }]));
    assert!(story.holds(2));
    assert_eq!(story.table.closed(&name("orders")), None);
}

#[test]
fn a_release_closes_nothing_and_a_closed_name_that_opens_is_free() {
    let mut story = Story::new();
    story.does(delays(1));
    story.releases(1);
    assert_eq!(story.does(delays(2)), granted(2));
    story.expires(&[(2, Some(2))]);
    assert_eq!(story.table.counts(), Counts { leases: 0, waiters: 0, closed: 1, ended_ids: 2 });
    story.expires(&[(2, Some(3))]);
    assert_eq!(story.table.counts(), Counts { leases: 0, waiters: 0, closed: 0, ended_ids: 2 });
    assert_eq!(story.acquires(3), granted(4));
}

/// A dead agent's own waiter is as dead as its lease, in whatever order they are named.
#[test]
fn a_waiter_that_expires_with_its_agents_lease_keeps_no_name_open() {
    for pairs in [[(1, Some(1)), (11, None)], [(11, None), (1, Some(1))]] {
        let mut story = Story::new();
        story.does(delays(1));
        story.does(Command::Acquire(Acquire { lease_id: id(11), ..acquire(1) }));
        story.acquires(2);
        assert_eq!(story.expires(&pairs), Outcome::Expired { ended: 2 });
        assert!(story.table.closed(&name("orders")).is_some() && !story.holds(2));
    }
}

/// Whoever was cut off loses its lease by its own clock, and queues anew before the leader has found it expired.
#[test]
fn a_name_is_not_closed_to_its_last_holder_that_waits_already() {
    let mut story = Story::new();
    story.does(delays(1));
    story.acquires(2);
    let back = Acquire { lease_id: id(11), lock_delay_ms: 500, ..acquire(1) };
    assert_eq!(story.does(Command::Acquire(back)), waiting(2));
    story.expires(&[(1, Some(1))]);
    assert!(story.holds(11) && !story.holds(2));
    assert_eq!(story.table.closed(&name("orders")), None);
}

/// A revocation takes the name from its holder, also where that one comes back to a name that is closed for others.
#[test]
fn a_name_that_closes_after_a_revocation_opens_to_the_heir() {
    let back = |n| Command::Acquire(Acquire { lease_id: id(n), ..acquire(1) });
    let mut story = Story::new();
    story.does(delays(1));
    story.acquires(2);
    story.acquires(3);
    story.does(for_agent(1, agent(3)));
    assert_eq!(story.does(back(11)), waiting(3));
    story.expires(&[(1, Some(1))]);
    assert!(
        matches!(&story.events[..], [Event::Ended { .. }, Event::Closed { .. }]),
        "also to its own holder"
    );
    assert_eq!(story.does(back(12)), waiting(4));
    story.table = Table::restore(&story.table.snapshot()).unwrap();
    story.expires(&[(1, Some(2))]);
    assert!(story.holds(3), "the heir");
    story.releases(3);
    assert!(story.holds(2), "then the first");
}

#[test]
fn only_an_exclusive_lease_has_a_lock_delay() {
    let mut story = Story::new();
    let acquire = Acquire { mode: Mode::Shared, lock_delay_ms: 1, ..acquire(1) };
    let refusal = Refusal::LockDelay { lock_delay_ms: 1, mode: Mode::Shared };
    assert_eq!(story.does(Command::Acquire(acquire)), Outcome::Refused(refusal));
}
