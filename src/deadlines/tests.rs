//! The edges one by one. That no holder still believes in what is due (rule
//! L1) is tested beside the holder's half, in `session/tests.rs`.

use super::*;

const TTL: Duration = Duration::from_secs(10);
/// ttl × (1 + 1 %).
const SPAN: Duration = Duration::from_millis(10_100);
const NS: Duration = Duration::from_nanos(1);

fn drift() -> Drift {
    Drift::from_ppm(10_000).unwrap()
}

fn at(ms: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(ms)
}

fn id(n: u128) -> LeaseId {
    LeaseId::from_bits(n)
}

fn token(n: u64) -> Option<Token> {
    Some(Token::new(n))
}

/// A leader since moment 1 000 ms with lease 1, held since then with token 7.
fn leader() -> Deadlines {
    Deadlines::new(3, drift(), at(1_000), [(id(1), token(7), TTL)])
}

/// A driver that is never late asks for `now` and wakes at `now`.
fn due(deadlines: &mut Deadlines, now: Moment) -> Vec<LeaseId> {
    deadlines.woke(now, now);
    deadlines.due(now, usize::MAX).into_iter().map(|(id, _)| id).collect()
}

#[test]
fn due_at_the_deadline_and_not_a_nanosecond_before() {
    let mut d = leader();
    assert_eq!(d.term(), 3);
    assert_eq!(due(&mut d, at(1_000) + SPAN - NS), []);
    d.woke(at(1_000) + SPAN, at(1_000) + SPAN);
    assert_eq!(d.due(at(1_000) + SPAN, 9), [(id(1), token(7))]);
    assert_eq!(due(&mut d, at(60_000)), [], "it is handed out once");
}

#[test]
fn a_renewal_counts_from_its_arrival() {
    for (arrived, first) in [(at(1_000) + NS, NS), (at(5_000), Duration::from_secs(4))] {
        let mut d = leader();
        assert_eq!(d.renew(&id(1), arrived), Renewal::Extended);
        assert_eq!(d.deadline(&id(1)), Some(at(1_000) + SPAN + first));
        assert_eq!(due(&mut d, arrived + SPAN - NS), []);
        assert_eq!(due(&mut d, arrived + SPAN), [id(1)]);
    }
}

#[test]
fn a_renewal_never_shortens() {
    let mut d = leader();
    d.renew(&id(1), at(5_000));
    // Arrived earlier, confirmed later.
    assert_eq!(d.renew(&id(1), at(2_000)), Renewal::Extended);
    assert_eq!(d.renew(&id(1), Moment::ZERO), Renewal::Extended);
    assert_eq!(d.deadline(&id(1)), Some(at(5_000) + SPAN));
    // Nor after a freeze that moved the deadline further than this renewal would.
    d.freeze(at(5_000));
    d.renew(&id(1), at(8_000));
    d.thaw(at(9_000));
    assert_eq!(d.renew(&id(1), at(9_000)), Renewal::Extended);
    assert_eq!(d.deadline(&id(1)), Some(at(12_000) + SPAN));
}

#[test]
fn renewal_racing_expiry() {
    let deadline = at(1_000) + SPAN;
    for arrived in [deadline - NS, deadline, deadline + NS] {
        // Confirmed before the timer took the lease up: it counts, however late.
        let mut d = leader();
        assert_eq!(d.renew(&id(1), arrived), Renewal::Extended);
        assert_eq!(due(&mut d, deadline + NS), []);
        // Confirmed after: gone, however early it arrived.
        let mut d = leader();
        assert_eq!(due(&mut d, deadline), [id(1)]);
        assert_eq!(d.renew(&id(1), arrived), Renewal::Gone);
    }
}

#[test]
fn what_is_unknown_or_ended_is_gone() {
    let mut d = leader();
    assert_eq!(d.renew(&id(2), at(1_000)), Renewal::Gone);
    d.ended(&id(2));
    d.ended(&id(1));
    assert_eq!((d.len(), d.next_wake(), d.queue.len()), (0, None, 0));
    assert_eq!(d.renew(&id(1), at(1_000)), Renewal::Gone);
    assert_eq!(due(&mut d, at(100_000)), []);
}

#[test]
fn a_revoked_lease_ends_at_its_present_deadline() {
    let mut d = leader();
    d.renew(&id(1), at(2_000));
    d.revoked(&id(1));
    d.revoked(&id(9));
    assert_eq!(d.renew(&id(1), at(3_000)), Renewal::Gone);
    assert_eq!(due(&mut d, at(2_000) + SPAN - NS), []);
    assert_eq!(due(&mut d, at(2_000) + SPAN), [id(1)]);
}

#[test]
fn a_waiter_that_becomes_holder_starts_afresh() {
    let mut d = leader();
    d.began(id(2), None, TTL, at(1_000));
    assert_eq!(due(&mut d, at(1_000) + SPAN), [id(1), id(2)]);
    // Granted in the very apply that expired lease 1, while the waiter's own expiry was on its way.
    d.ended(&id(1));
    d.began(id(2), token(8), TTL, at(12_000));
    assert_eq!(d.renew(&id(2), at(12_000)), Renewal::Extended);
    // The waiter's expiry was ignored, or failed: neither touches the holder.
    d.proposal_failed(&[id(2)], at(12_000));
    assert_eq!(d.renew(&id(2), at(12_000)), Renewal::Extended);
    d.woke(at(12_000) + SPAN, at(12_000) + SPAN);
    assert_eq!(d.due(at(12_000) + SPAN, 9), [(id(2), token(8))], "its expiry names the grant");
}

#[test]
fn the_same_grant_reported_again_changes_nothing() {
    let mut d = leader();
    d.began(id(1), token(7), TTL, at(9_000));
    d.began(id(1), None, TTL, at(9_000));
    assert_eq!(due(&mut d, at(1_000) + SPAN), [id(1)]);
    // Else a retried acquire would make renewable what is being expired.
    d.began(id(1), token(7), TTL, at(12_000));
    assert_eq!(d.renew(&id(1), at(12_000)), Renewal::Gone);
}

#[test]
fn a_new_leader_starts_every_deadline_afresh() {
    let held = [(id(1), token(7), TTL), (id(2), None, TTL * 2)];
    let mut d = Deadlines::new(4, drift(), at(50_000), held);
    assert_eq!(due(&mut d, at(50_000) + SPAN - NS), []);
    assert_eq!(due(&mut d, at(50_000) + SPAN), [id(1)]);
    assert_eq!(due(&mut d, at(50_000) + SPAN * 2 - NS), []);
    assert_eq!(due(&mut d, at(50_000) + SPAN * 2), [id(2)]);
}

#[test]
fn a_failed_proposal_is_made_again_and_not_renewed() {
    let mut d = leader();
    let now = at(1_000) + SPAN;
    for round in 0..3 {
        let now = now + EXPIRE_RETRY_PAUSE * round;
        assert_eq!(due(&mut d, now), [id(1)]);
        assert_eq!(due(&mut d, now), []);
        d.proposal_failed(&[id(1), id(9)], now);
        assert_eq!(d.renew(&id(1), now), Renewal::Gone);
        assert_eq!(d.next_wake(), Some(now + EXPIRE_RETRY_PAUSE), "a pause, so that failures don't spin");
        assert_eq!(due(&mut d, now + EXPIRE_RETRY_PAUSE - NS), []);
    }
    // Only what was handed out can have failed.
    let mut d = leader();
    d.proposal_failed(&[id(1)], at(2_000));
    assert_eq!(d.renew(&id(1), at(2_000)), Renewal::Extended);
}

#[test]
fn no_more_than_asked_for_and_the_earliest_first() {
    let mut d = Deadlines::new(1, drift(), at(0), (0..10).map(|n| (id(9 - n), None, TTL)));
    d.renew(&id(0), at(1));
    let now = at(1) + SPAN;
    d.woke(now, now);
    let first: Vec<_> = d.due(now, 4).into_iter().map(|(id, _)| id).collect();
    assert_eq!(first, [id(1), id(2), id(3), id(4)]);
    assert!(d.next_wake().unwrap() <= now, "the rest doesn't wait for the heartbeat");
    assert_eq!(due(&mut d, now).last(), Some(&id(0)));
}

#[test]
fn a_clock_that_goes_back_makes_nothing_due_early() {
    let mut d = leader();
    due(&mut d, at(9_000));
    // Back by 7 s. What begins and is renewed meanwhile counts from the largest reading.
    assert_eq!(d.woke(at(2_000), at(2_000)), Wake::ClockBack(Duration::from_secs(7)));
    d.began(id(2), token(8), TTL, at(2_000));
    assert_eq!(d.renew(&id(1), at(2_100)), Renewal::Extended);
    assert_eq!(d.next_wake(), Some(at(2_000) + STALL_TICK), "the heartbeat follows the clock");
    // And forth again, between two heartbeats.
    assert_eq!(due(&mut d, at(9_000) + SPAN - NS), []);
    assert_eq!(due(&mut d, at(9_000) + SPAN), [id(1), id(2)]);
    // A failed expiry on a clock that went back does not come earlier either.
    d.proposal_failed(&[id(1)], at(0));
    assert_eq!(due(&mut d, at(9_000) + SPAN), []);
}

#[test]
fn a_clock_that_goes_back_while_nothing_is_counted() {
    let mut d = Deadlines::new(1, drift(), at(9_000), []);
    d.began(id(1), None, TTL, at(2_000));
    assert_eq!(d.next_wake(), Some(at(2_000) + STALL_TICK));
    assert_eq!(due(&mut d, at(9_000) + SPAN - NS), []);
    assert_eq!(due(&mut d, at(9_000) + SPAN), [id(1)]);
}

#[test]
fn a_stall_moves_every_deadline() {
    let mut d = leader();
    let asked = d.next_wake().unwrap();
    assert_eq!(asked, at(1_000) + STALL_TICK);
    // Stopped for a minute; the renewals of that minute sit in the sockets.
    let stall = Duration::from_secs(60);
    assert_eq!(d.woke(asked, asked + stall), Wake::Stalled(stall));
    assert_eq!(d.due(asked + stall, 9), []);
    assert_eq!(d.deadline(&id(1)), Some(at(1_000) + SPAN + stall));
    assert_eq!(d.woke(asked, asked + stall), Wake::Punctual, "the same stall counts once");
    assert_eq!(due(&mut d, at(1_000) + SPAN + stall - NS), []);
    assert_eq!(due(&mut d, at(1_000) + SPAN + stall), [id(1)]);
}

#[test]
fn what_begins_after_a_stall_is_not_moved_by_it() {
    let mut d = leader();
    let now = at(61_000);
    d.woke(at(1_000) + STALL_TICK, now);
    d.began(id(2), None, TTL, now);
    assert_eq!(d.deadline(&id(2)), Some(now + SPAN));
    // Earlier by the common offset than the clock's zero: it saturates, to the later side.
    let mut d = Deadlines::new(1, drift(), at(0), [(id(1), None, TTL)]);
    d.woke(at(0), at(60_000));
    d.began(id(2), None, NS, at(0));
    assert!(d.deadline(&id(2)).unwrap() >= at(60_000) + NS);
}

#[test]
fn a_delay_within_the_tolerance_is_no_stall() {
    let mut d = leader();
    let asked = d.next_wake().unwrap();
    assert_eq!(d.woke(asked, asked + STALL_TOLERANCE), Wake::Punctual);
    assert_eq!(d.deadline(&id(1)), Some(at(1_000) + SPAN));
    assert_eq!(d.woke(at(9_000), at(2_000)), Wake::Punctual, "woken before its time");
    let late = at(2_000) + STALL_TOLERANCE + NS;
    assert_eq!(d.woke(at(2_000), late), Wake::Stalled(STALL_TOLERANCE + NS));
}

/// Two tasks read the clock and call in the opposite order.
#[test]
fn a_reading_overtaken_by_another_does_not_hide_a_stall() {
    let mut d = leader();
    d.renew(&id(1), at(61_000) + NS);
    assert_eq!(d.woke(at(1_250), at(61_000)), Wake::Stalled(Duration::from_millis(59_750)));
}

#[test]
fn idle_time_is_no_stall() {
    let mut d = Deadlines::new(1, drift(), at(0), []);
    assert_eq!(d.next_wake(), None);
    d.began(id(1), None, TTL, at(60_000));
    let asked = d.next_wake().unwrap();
    assert_eq!(asked, at(60_000) + STALL_TICK);
    assert_eq!(d.woke(asked, asked), Wake::Punctual);
    assert_eq!(d.deadline(&id(1)), Some(at(60_000) + SPAN));
}

#[test]
fn the_timer_wakes_at_the_heartbeat_or_the_first_deadline() {
    let mut d = leader().with_stall(Duration::from_secs(6), STALL_TOLERANCE);
    assert_eq!(d.next_wake(), Some(at(7_000)));
    d.woke(at(7_000), at(7_000));
    assert_eq!(d.next_wake(), Some(at(1_000) + SPAN));
    // While all that there is is being expired, a stall still shows.
    due(&mut d, at(1_000) + SPAN);
    assert_eq!(d.next_wake(), Some(at(7_000) + SPAN));
}

#[test]
fn nothing_is_due_while_frozen_and_the_span_is_added() {
    let mut d = leader();
    d.woke(at(3_000), at(3_000));
    d.freeze(at(3_000));
    d.freeze(at(5_000)); // Still the same freeze.
    assert_eq!(due(&mut d, at(100_000)), []);
    assert_eq!(d.next_wake(), Some(at(100_000) + STALL_TICK), "no spinning on a deadline that can't be due");
    d.thaw(at(103_000));
    d.thaw(at(200_000)); // Not frozen: nothing to add.
    let deadline = at(1_000) + SPAN + Duration::from_secs(100);
    assert_eq!(d.deadline(&id(1)), Some(deadline));
    assert_eq!(due(&mut d, deadline - NS), []);
    assert_eq!(due(&mut d, deadline), [id(1)]);
}

#[test]
fn a_stall_and_a_freeze_that_overlap_count_once() {
    let total = Duration::from_secs(60);
    let moved = |d: &Deadlines| d.deadline(&id(1)).unwrap().since(at(1_000) + SPAN);
    // Stopped from 1.25 s to 61.25 s; the doubt is found before or after the timer's own look.
    let (asked, now) = (at(1_250), at(61_250));
    let mut d = leader();
    d.freeze(now);
    assert_eq!(d.woke(asked, now), Wake::Stalled(total));
    d.thaw(now);
    assert_eq!(moved(&d), total);

    let mut d = leader();
    d.woke(asked, now);
    d.freeze(now);
    d.thaw(now);
    assert_eq!(moved(&d), total);

    // Frozen before the stall and after it.
    for thaw_first in [false, true] {
        let mut d = leader();
        d.freeze(at(1_250));
        if thaw_first {
            d.thaw(now);
        }
        d.woke(asked, now);
        d.thaw(now);
        assert_eq!(moved(&d), total, "thawed before the timer's look: {thaw_first}");
    }
}

#[test]
fn the_ends_of_the_number_range() {
    let end = Moment::from_nanos(u64::MAX - 1);
    let mut d = Deadlines::new(1, drift(), end, [(id(1), None, TTL)]);
    assert_eq!(d.deadline(&id(1)), Some(Moment::NEVER));
    assert_eq!(due(&mut d, end), []);
    d.began(id(u128::MAX), token(u64::MAX), Duration::MAX, end);
    assert_eq!(due(&mut d, Moment::NEVER), [id(1), id(u128::MAX)]);
}

/// 100,000 leases: every one renewed, a tenth ended, the rest expired, in order; and what their size rests on.
#[test]
fn a_hundred_thousand() {
    const N: u128 = 100_000;
    let scattered = |n: u128| id(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    let mut d = Deadlines::new(1, drift(), at(0), (0..N).map(|n| (scattered(n), token(1), TTL)));
    for n in 0..N {
        let arrived = at(1_000) + NS * u32::try_from(n).unwrap();
        assert_eq!(d.renew(&scattered(n), arrived), Renewal::Extended);
    }
    for n in (0..N).step_by(10) {
        d.ended(&scattered(n));
    }
    let now = at(2_000) + SPAN;
    d.woke(now, now);
    let mut taken = Vec::new();
    loop {
        let some = d.due(now, 512);
        if some.is_empty() {
            break;
        }
        taken.extend(some.into_iter().map(|(id, _)| id));
    }
    let expected: Vec<_> = (0..N).filter(|n| n % 10 != 0).map(scattered).collect();
    assert!(taken == expected, "in the order of their deadlines");
    assert_eq!((size_of::<(LeaseId, Entry)>(), size_of::<Slot>()), (40, 24));
}
