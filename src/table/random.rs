//! Random command sequences, with delayed, repeated and reordered copies: the table and its naive twin must give the
//! same answers, and look the same after every entry (`world.rs`).

use std::collections::BTreeSet;

use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};

use super::{
    Bounds,
    world::{Op, Pick, World, conclude},
};

fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![1 => any::<usize>().prop_map(Pick::Any), 3 => any::<usize>().prop_map(Pick::Live)]
}

fn single() -> BoxedStrategy<Op> {
    let kind = (prop_oneof![4 => Just(0u8), 1 => 1..6u8], prop::bool::weighted(0.3));
    let acquire =
        (0..3usize, 0..4usize, prop::bool::weighted(0.7), 0..4u64, prop::bool::weighted(0.85), kind)
            .prop_map(|(name, agent, wait, lag, sent, (mode, delays))| Op::Acquire {
                name,
                agent,
                wait,
                lag,
                sent,
                mode,
                delays,
            });
    prop_oneof![
        1 => any::<u8>().prop_map(Op::Found),
        16 => acquire,
        2 => (any::<usize>(), any::<u8>()).prop_map(|(like, kind)| Op::Odd { like, kind }),
        8 => any::<usize>().prop_map(Op::Copy),
        8 => pick().prop_map(Op::Release),
        5 => pick().prop_map(Op::Cancel),
        5 => (prop::bool::weighted(0.85), prop::collection::vec((pick(), 0..3u8), 0..5))
            .prop_map(|(own_term, picks)| Op::Expire { own_term, picks }),
        5 => (pick(), any::<u8>(), 0..4u64)
            .prop_map(|(from, how, attempt)| Op::Transfer { from, how, attempt }),
        3 => (0..3usize, 0..4usize, prop::option::of(0..4usize))
            .prop_map(|(name, of, heir)| Op::Revoke { name, of, heir }),
        3 => prop::bool::weighted(0.8).prop_map(|right| Op::Open { right }),
    ]
    .boxed()
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => single(),
        2 => prop::collection::vec(single(), 0..6).prop_map(Op::Batch),
        1 => Just(Op::Restore),
        1 => Just(Op::Skip),
    ]
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (0..6usize, 2..12usize, 1..5usize).prop_map(|(ended_ids, leases, waiters_per_name)| Bounds {
        ended_ids,
        leases,
        waiters_per_name,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_get_the_twins_answers(
        bounds in bounds(),
        founded in prop::option::weighted(0.9, any::<u8>()),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(bounds);
        founded.iter().for_each(|floor| world.run(&Op::Found(*floor)));
        for op in &ops {
            world.run(op);
        }
        conclude(&mut world);
    }
}

/// A comparison proves nothing about what never comes up.
#[test]
fn random_commands_reach_every_outcome_and_event() {
    let mut runner = TestRunner::deterministic();
    let strategy = (bounds(), prop::option::weighted(0.9, any::<u8>()), prop::collection::vec(op(), 1..120));
    let mut kinds = BTreeSet::new();
    for _ in 0..300 {
        let (bounds, founded, ops) = strategy.new_tree(&mut runner).unwrap().current();
        let mut world = World::new(bounds);
        founded.iter().for_each(|floor| world.run(&Op::Found(*floor)));
        ops.iter().for_each(|op| world.run(op));
        kinds.append(&mut world.kinds);
    }
    let all = "AlreadyFounded AlreadyRevoked Closed Ended Expired Forbidden Founded Granted Held Left NoSuchWaiter NotHeld \
               NotHolding OtherTerm Released Revoked TooOld Transferred Waiting \
               EventClosed EventEnded EventFounded EventGranted EventLeft EventOpened EventQueued EventRevoked \
               EndingCancelled EndingExpired EndingForbidden EndingNoTokens EndingRefused EndingReleased \
               EndingRevoked EndingTransferred";
    let refused = [
        "LeaseIdTaken",
        "LockDelay",
        "Metadata",
        "NoTokens",
        "NotFounded",
        "Permits",
        "QueueFull",
        "SeenAhead",
    ];
    let refused = refused.into_iter().chain(["TableFull", "Ttl"]);
    let all = all.split_whitespace().map(str::to_owned).chain(refused.map(|why| format!("Refused {why}")));
    assert_eq!(kinds, all.collect());
}
