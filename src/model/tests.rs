//! The checker's runs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZero,
};

use stateright::{Checker, HasDiscoveries, Model};

use super::{Protocol, action::describe, mutants::Mutant, rules::*, world::*};

/// Holders believe for as long as any may, leaders wait for as short a time as any may.
const ADVERSE: Clocks = Clocks::new(Rate::Slow, Rate::Slow, Rate::Fast, Rate::Fast);
const KIND: Clocks = Clocks::new(Rate::Fast, Rate::Fast, Rate::Slow, Rate::Slow);
const MIXED: Clocks = Clocks::new(Rate::Slow, Rate::Fast, Rate::Slow, Rate::Fast);
const EQUAL: Clocks = Clocks::new(Rate::True, Rate::True, Rate::True, Rate::True);

/// What every world shows in which leaders change.
const COMMON: [Note; 12] = [
    Note::HandoverByExpiry,
    Note::HandoverByWill,
    Note::RenewalRacesExpiry,
    Note::RenewedAfterDeadline,
    Note::IgnoredByTerm,
    Note::InheritedExpiry,
    Note::Confirmed,
    Note::GoneBeforeConfirmed,
    Note::AnsweredFromMemory,
    Note::TwoLeaders,
    Note::AnsweredTooLate,
    Note::WaiterExpired,
];

/// Two clients and a leader that stays; nothing happens that is rare.
fn plain() -> World {
    World {
        clocks: vec![ADVERSE],
        ttl_ticks: 2,
        budget: Budget::default(),
        ids: [1, 1],
        mail_most: 1,
        memory: 1000,
        stall_ticks: 2,
        confirm_ticks: 1,
        slow_commits: false,
        mutant: None,
        sometimes: Vec::new(),
    }
}

/// How far a run went.
#[derive(Debug)]
struct Reach {
    unique: usize,
    /// Whether there is nothing else to see within the world's bounds.
    all: bool,
}

/// Sees what can be reached in this world (or the first `most` steps of it), and fails if a rule can be broken there, or
/// if something that has to happen doesn't.
fn sound(world: World, most: usize, threads: usize) -> Reach {
    let checker = Protocol { world }.checker().threads(threads).target_state_count(most);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    for rule in always() {
        if let Some(path) = found.get(rule.name) {
            panic!("broken: {}\n{}", rule.name, told(path.clone().into_vec()));
        }
    }
    let wanted = checker.model().properties();
    let missed: Vec<_> = wanted
        .iter()
        .map(|property| property.name)
        .filter(|name| is_wanted(name) && !found.contains_key(name))
        .collect();
    assert!(missed.is_empty(), "never seen: {missed:#?}");
    let (unique, steps) = (checker.unique_state_count(), checker.state_count());
    println!("{unique} states by {steps} steps, {} deep", checker.max_depth());
    Reach { unique, all: steps < most }
}

fn is_wanted(name: &str) -> bool {
    always().all(|rule| rule.name != name)
}

/// A counterexample, for people.
fn told(path: Vec<(State, Option<super::Action>)>) -> String {
    let steps = path.into_iter().filter_map(|(state, action)| Some((state.tick, describe(&state, action?))));
    steps.map(|(tick, step)| format!("{tick:>4}  {step}\n")).collect()
}

/// Whether this rule can be broken in this world, by which steps and after how many states; or that no rule can.
fn breaks(world: World, rule: &'static str) -> Option<(usize, String)> {
    let finish = HasDiscoveries::AnyOf(BTreeSet::from([rule]));
    let checker = Protocol { world }.checker().finish_when(finish).spawn_bfs().join();
    let path = checker.discovery(rule).map(|path| told(path.into_vec()));
    assert!(path.is_some() || checker.discoveries().is_empty(), "other rules are broken, {rule} isn't");
    Some((checker.unique_state_count(), path?))
}

#[test]
fn nothing_breaks_over_a_failover() {
    let budget = Budget { elections: 1, ..Budget::default() };
    let world = World { budget, slow_commits: true, sometimes: COMMON.to_vec(), ..plain() };
    let reach = sound(world, usize::MAX, 1);
    assert!(reach.all && reach.unique >= 1_000_000, "{reach:?}");
}

#[test]
fn nothing_breaks_when_messages_overtake_each_other() {
    let sometimes =
        vec![Note::AnsweredTooLate, Note::RenewalRacesExpiry, Note::Confirmed, Note::GoneBeforeConfirmed];
    let reach = sound(World { mail_most: 2, sometimes, ..plain() }, usize::MAX, 1);
    assert!(reach.all && reach.unique >= 200_000, "{reach:?}");

    // With a longer ttl there is time for a second renewal when the first one is lost.
    let alone =
        World { ttl_ticks: 4, ids: [1, 0], mail_most: 3, sometimes: vec![Note::RetriedInTime], ..plain() };
    let reach = sound(alone, usize::MAX, 1);
    assert!(reach.all, "{reach:?}");
}

#[test]
fn nothing_breaks_by_what_is_rare() {
    let budget = Budget { stalls: 1, failures: 1, doubts: 1, cancels: 1, ..Budget::default() };
    let mut sometimes = vec![Note::Stall, Note::Thawed, Note::HandoverByExpiry, Note::WaiterExpired];
    sound(World { budget, sometimes: sometimes.clone(), ..plain() }, 300_000, 1);

    // One client is enough to see what becomes of its lease.
    let alone = Budget { elections: 1, ..budget };
    sometimes = vec![Note::Stall, Note::Thawed, Note::TwoLeaders, Note::IgnoredByTerm, Note::InheritedExpiry];
    sound(World { budget: alone, ids: [1, 0], sometimes, ..plain() }, 400_000, 1);

    let copies = Budget { duplicates: 1, cancels: 1, releases: 2, ..Budget::default() };
    let sometimes = vec![Note::TooOld, Note::AnsweredFromMemory];
    sound(World { budget: copies, ids: [2, 2], memory: 1, sometimes, ..plain() }, 300_000, 1);
}

/// The large run: the first so many steps of worlds that are too large to be seen to their end.
#[test]
#[ignore = "minutes and GiB; run it by: cargo test --release --lib model::tests::large -- --ignored --nocapture"]
fn large() {
    // For whoever has a night.
    let steps = std::env::var("LEASEHOLD_MODEL_STEPS").map_or(12_000_000, |steps| steps.parse().unwrap());
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let elections = |elections| Budget { elections, releases: 1, ..Budget::default() };
    let clocks = vec![ADVERSE, KIND, MIXED, EQUAL];
    let sometimes = COMMON.to_vec();

    let every_pairing =
        World { clocks: clocks.clone(), budget: elections(1), sometimes: sometimes.clone(), ..plain() };
    sound(every_pairing, steps, threads);

    let there_and_back = World { budget: elections(2), slow_commits: true, sometimes, ..plain() };
    sound(there_and_back, steps, threads);

    let rare = Budget { stalls: 1, duplicates: 1, failures: 1, doubts: 1, cancels: 1, ..elections(2) };
    let everything = World {
        clocks,
        ttl_ticks: 3,
        budget: rare,
        ids: [2, 2],
        mail_most: 2,
        memory: 1,
        slow_commits: true,
        ..plain()
    };
    sound(everything, steps, threads);
}

/// Where a mistake shows, and the rule that it breaks there.
fn habitat(mutant: Mutant) -> (World, &'static str) {
    let elections = |elections| Budget { elections, ..Budget::default() };
    let (world, rule) = match mutant {
        Mutant::NoQuorum => (World { budget: elections(1), ids: [1, 0], ..plain() }, BELIEVER_HOLDS),
        Mutant::CountsFromAnswer => (World { ttl_ticks: 4, ..plain() }, ONE_BELIEVER),
        Mutant::HolderWithoutMargin => (plain(), ONE_BELIEVER),
        // A smaller drift needs a longer ttl to make a whole tick of difference.
        Mutant::LeaderWithoutMargin => (World { ttl_ticks: 6, ..plain() }, ONE_BELIEVER),
        Mutant::KeepsDeadlines => (World { budget: elections(2), ids: [1, 0], ..plain() }, NOT_EARLY),
        Mutant::NoTermCheck => (World { budget: elections(1), ids: [1, 0], ..plain() }, NOT_EARLY),
        Mutant::RenewsExpiring => (plain(), ONE_BELIEVER),
        Mutant::ForgetsEnded => {
            let budget = Budget { duplicates: 1, releases: 2, ..Budget::default() };
            (World { budget, ids: [2, 0], mail_most: 2, memory: 1, ..plain() }, DEAD_FOR_EVER)
        }
        Mutant::NoConfirmation => (plain(), BELIEVER_HOLDS),
        Mutant::NoCompensation => {
            (World { budget: Budget { stalls: 1, ..Budget::default() }, ..plain() }, NOT_EARLY)
        }
    };
    (World { mutant: Some(mutant), ..world }, rule)
}

#[test]
fn every_mutant_is_found() {
    for mutant in Mutant::ALL {
        let (world, rule) = habitat(mutant);
        let Some((states, path)) = breaks(world, rule) else { panic!("{mutant:?} breaks nothing") };
        println!("{mutant:?}: {rule}, after {states} states\n{path}");
    }
}

/// The reason for the clocks that drift: with clocks that don't, all that can be reached is in order, with or without the
/// margins. The other mistakes show with such clocks as well.
#[test]
fn with_equal_clocks_two_mutants_are_not_found() {
    let missed = Mutant::ALL.into_iter().filter(|mutant| {
        let (world, rule) = habitat(*mutant);
        breaks(World { clocks: vec![EQUAL], ..world }, rule).is_none()
    });
    assert_eq!(missed.collect::<Vec<_>>(), [Mutant::HolderWithoutMargin, Mutant::LeaderWithoutMargin]);
}

/// No mutant is found for the sake of its world: without the mistake, nothing breaks there.
#[test]
fn where_mutants_are_found_nothing_else_breaks() {
    for mutant in Mutant::ALL {
        let (world, _) = habitat(mutant);
        sound(World { mutant: None, ..world }, 100_000, 1);
    }
}

/// What the counts of states rest on: two states that pass for one have the same futures, and break the same rules.
#[test]
fn states_that_pass_for_one_have_the_same_futures() {
    let rare =
        Budget { elections: 1, stalls: 1, duplicates: 1, failures: 1, doubts: 1, cancels: 1, releases: 1 };
    let failover = Budget { elections: 1, ..Budget::default() };
    for world in [
        plain(),
        World { budget: failover, slow_commits: true, ..plain() },
        World { budget: rare, ids: [2, 2], mail_most: 2, ..plain() },
        World { budget: rare, ids: [2, 1], memory: 1, clocks: vec![MIXED], ..plain() },
    ] {
        let protocol = Protocol { world };
        let mut queue = VecDeque::from(protocol.init_states());
        let mut known = BTreeMap::new();
        let mut compared = 0;
        while let Some(state) = queue.pop_front().filter(|_| known.len() < 15_000) {
            let next: Vec<_> = protocol.next_steps(&state);
            let views: BTreeSet<_> = next.iter().map(|(_, next)| next.view()).collect();
            let rules: Vec<_> = always().map(|rule| (rule.condition)(&protocol, &state)).collect();
            match known.get(&state.view()) {
                Some(future) => {
                    compared += 1;
                    assert!(*future == (views, rules), "one of several is this:\n{state:#?}");
                }
                None => {
                    known.insert(state.view(), (views, rules));
                    queue.extend(next.into_iter().map(|(_, next)| next));
                }
            }
        }
        assert!(compared > 10_000, "only {compared}");
    }
}
