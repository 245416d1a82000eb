//! Plans for situations that one can draw, and for thousands that nobody would.

use proptest::prelude::*;

use super::*;

const CARE: Care = Care {
    voters_max: 5,
    in_touch_within: Duration::from_secs(1),
    dead_after: Duration::from_secs(30),
    forget_after: Duration::from_secs(300),
};

/// Long after every silence that is told of.
const NOW: Moment = Moment::from_nanos(10_000_000_000_000);

fn node(n: u64) -> NodeId {
    NodeId::from_bits(n)
}

fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().map(|n| node(*n)).collect()
}

/// A member that has been silent for so many seconds.
fn silent(voter: bool, seconds: u64) -> Seen {
    Seen {
        voter,
        willing: true,
        caught_up: true,
        heard: NOW - Duration::from_secs(seconds),
        superseded: false,
    }
}

/// Members 1, 2, 3 … where 1 leads: `v` a voter and `o` an observer in touch, `V` and `O` dead ones, `q` a voter that is
/// silent, and not dead yet.
fn members(drawn: &str) -> BTreeMap<NodeId, Seen> {
    let member = |letter| match letter {
        'v' => silent(true, 0),
        'V' => silent(true, 60),
        'q' => silent(true, 5),
        'o' => silent(false, 0),
        'O' => silent(false, 60),
        other => panic!("{other}"),
    };
    drawn.chars().zip(1..).map(|(letter, n)| (node(n), member(letter))).collect()
}

fn plan_of(members: &BTreeMap<NodeId, Seen>, care: &Care) -> Option<Step> {
    Situation { care, now: NOW, leader: node(1), members }.next()
}

fn plan(drawn: &str) -> Option<(BTreeSet<NodeId>, BTreeSet<NodeId>, Why)> {
    plan_of(&members(drawn), &CARE).map(|step| (step.promote, step.demote, step.why))
}

#[test]
fn voters_are_added_in_twos_and_kept_odd() {
    for rest in ["v", "vo", "vvv", "vvvo", "vvvvv", "vvvvvooo"] {
        assert_eq!(plan(rest), None, "{rest}");
    }
    assert_eq!(plan("voo"), Some((nodes(&[2, 3]), nodes(&[]), Why::MoreVoters)));
    assert_eq!(plan("vvvoo"), Some((nodes(&[4, 5]), nodes(&[]), Why::MoreVoters)));
    assert_eq!(plan("vvo"), Some((nodes(&[3]), nodes(&[]), Why::MoreVoters)), "an even number is made odd");
    assert_eq!(plan("vvvvo"), Some((nodes(&[5]), nodes(&[]), Why::MoreVoters)));
}

#[test]
fn a_dead_voter_is_replaced_in_one_change() {
    assert_eq!(plan("vvVo"), Some((nodes(&[4]), nodes(&[3]), Why::DeadReplaced)));
    assert_eq!(plan("vvqo"), None, "it may come back");
    assert_eq!(plan("vvVO"), None, "nobody is there to take its place");
    // Nobody in touch would be left to decide.
    assert_eq!(plan("vVVo"), None);
    assert_eq!(plan("vVqo"), None);
}

#[test]
fn of_dead_voters_without_a_replacement_so_many_are_dropped_that_the_rest_bears_more() {
    assert_eq!(plan("vvvvV"), None, "four bear no more than five with one dead");
    assert_eq!(plan("vvvVV"), Some((nodes(&[]), nodes(&[4, 5]), Why::DeadDropped)));
    assert_eq!(plan("vvvV"), Some((nodes(&[]), nodes(&[4]), Why::DeadDropped)));
    assert_eq!(plan("vvV"), None);
    assert_eq!(plan("vvVV"), None, "no majority of four is in touch");
}

#[test]
fn who_can_not_or_will_not_vote_is_not_asked_to() {
    for spoil in [
        |seen: &mut Seen| seen.willing = false,
        |seen: &mut Seen| seen.caught_up = false,
        |seen: &mut Seen| seen.heard = NOW - Duration::from_secs(2),
        |seen: &mut Seen| seen.superseded = true,
    ] {
        let mut members = members("vvVo");
        spoil(members.get_mut(&node(4)).unwrap());
        assert!(plan_of(&members, &CARE).is_none_or(|step| step.promote.is_empty()));
    }
}

#[test]
fn the_silent_are_forgotten_later_and_the_superseded_at_once() {
    let mut members = members("vvvO");
    assert_eq!(plan_of(&members, &CARE), None);
    members.get_mut(&node(4)).unwrap().heard = NOW - CARE.forget_after;
    let step = plan_of(&members, &CARE).unwrap();
    assert_eq!((step.remove, step.why), (nodes(&[4]), Why::Forgotten));
    let mut members = self::members("vvvO");
    members.get_mut(&node(4)).unwrap().superseded = true;
    assert_eq!(plan_of(&members, &CARE).unwrap().why, Why::Superseded);
    // A voter that has come back under another id: its own new self takes its place.
    let mut members = self::members("vvqo");
    members.get_mut(&node(3)).unwrap().superseded = true;
    let step = plan_of(&members, &CARE).unwrap();
    assert_eq!((step.promote, step.demote, step.why), (nodes(&[4]), nodes(&[3]), Why::DeadReplaced));
}

#[test]
fn the_leader_stays_when_there_are_too_many() {
    let care = Care { voters_max: 3, ..CARE };
    let step = plan_of(&members("vvqvv"), &care).unwrap();
    assert_eq!((step.demote, step.why), (nodes(&[3, 5]), Why::FewerVoters), "the silent one first");
    let alone = Care { voters_max: 0, ..CARE };
    assert_eq!(plan_of(&members("vvv"), &alone).unwrap().demote, nodes(&[2, 3]));
}

fn situations() -> impl Strategy<Value = BTreeMap<NodeId, Seen>> {
    let silence = prop_oneof![4 => Just(0u64), 1 => 1..30u64, 2 => 30..300u64, 1 => 300..600u64];
    let member = (any::<bool>(), prop::bool::weighted(0.8), prop::bool::weighted(0.8), silence, 0..20u8);
    prop::collection::vec(member, 1..10).prop_map(|members| {
        let mut members: BTreeMap<NodeId, Seen> = members
            .into_iter()
            .zip(1..)
            .map(|((voter, willing, caught_up, silence, superseded), n)| {
                let seen = Seen { willing, caught_up, superseded: superseded == 0, ..silent(voter, silence) };
                (node(n), seen)
            })
            .collect();
        members.get_mut(&node(1)).unwrap().voter = true;
        members
    })
}

fn in_touch(members: &BTreeMap<NodeId, Seen>, of: &BTreeSet<NodeId>) -> usize {
    of.iter().filter(|id| **id == node(1) || NOW.since(members[id].heard) < CARE.in_touch_within).count()
}

fn voters(members: &BTreeMap<NodeId, Seen>) -> BTreeSet<NodeId> {
    members.iter().filter(|(_, seen)| seen.voter).map(|(id, _)| *id).collect()
}

fn apply(members: &mut BTreeMap<NodeId, Seen>, step: &Step) {
    for (id, seen) in &mut *members {
        seen.voter = (seen.voter || step.promote.contains(id)) && !step.demote.contains(id);
    }
    members.retain(|id, _| !step.remove.contains(id));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// No change can cost the quorum; each is about members that are there; and at last there is none.
    #[test]
    fn every_plan_is_safe_and_they_come_to_rest(
        mut members in situations(),
        voters_max in 1..8usize,
    ) {
        let care = Care { voters_max, ..CARE };
        let mut steps = 0;
        while let Some(step) = plan_of(&members, &care) {
            let old = voters(&members);
            prop_assert!(step.promote.iter().all(|id| members.contains_key(id) && !old.contains(id)));
            prop_assert!(step.demote.is_subset(&old) && !step.demote.contains(&node(1)));
            prop_assert!(step.remove.iter().all(|id| members.contains_key(id) && !old.contains(id)));
            prop_assert!(step.promote.is_disjoint(&step.remove));
            let before = members.clone();
            apply(&mut members, &step);
            let new = voters(&members);
            for majority in [&old, &new] {
                prop_assert!(in_touch(&before, majority) > majority.len() / 2, "{step:?} {before:?}");
            }
            prop_assert!(new.len() <= voters_max.max(old.len()));
            if step.why == Why::MoreVoters {
                prop_assert!(new.len() % 2 == 1);
            }
            steps += 1;
            prop_assert!(steps < 30, "it does not come to rest");
        }
    }

    /// Where nobody is missing and all may vote, there are as many voters as may be, and they are odd.
    #[test]
    fn in_good_health_there_are_as_many_voters_as_may_be(count in 1..12u64, begin in 1..6usize, most in 1..8usize) {
        let mut members: BTreeMap<NodeId, Seen> =
            (1..=count).map(|n| (node(n), silent(n <= begin as u64, 0))).collect();
        let care = Care { voters_max: most, ..CARE };
        while let Some(step) = plan_of(&members, &care) {
            apply(&mut members, &step);
        }
        let voters = voters(&members).len();
        let may = (count as usize).min(most);
        let begun = (begin as u64).min(count) as usize;
        // Where it began with an even number that can't grow, it stays: nobody healthy is sent away for that.
        let odd = may - usize::from(may % 2 == 0);
        prop_assert!(voters == odd || voters == may && begun >= may, "{voters} of {count}, at most {most}");
    }
}
