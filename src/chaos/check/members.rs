//! The membership: how it changes, who is who, and what it comes to.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::{
    chaos::history::{History, Membership},
    id::NodeId,
    message::{MemberReport, MemberRole},
};

/// Each membership follows from the one before it as joint consensus demands, one change of voters at a time; no empty disk
/// takes an id that was used; one agent leads a term; and when everything is mended, the membership becomes what it should be
/// within a bound.
#[must_use]
pub fn members(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut before: Option<&Membership> = None;
    for (index, membership) in &history.memberships {
        let mut fault = |text: &str| {
            let text = format!("the membership of entry {index} {text}: {:?}", membership.voters);
            found.push(Violation::new("members", membership.at, text));
        };
        if !membership.voters.iter().flatten().all(|node| membership.members.contains_key(node)) {
            fault("has a voter that is no member");
        }
        if membership.voters.iter().any(BTreeSet::is_empty) {
            fault("has no voters");
        }
        if let Some(wrong) = before.and_then(|before| wrong_change(before, membership)) {
            fault(wrong);
        }
        before = Some(membership);
    }
    found.extend(identities(history));
    let mut leaders = BTreeMap::new();
    for leadership in &history.leaderships {
        let first = *leaders.entry(leadership.term).or_insert(leadership.agent);
        if first != leadership.agent {
            let text = format!("agents {first} and {} lead term {}", leadership.agent, leadership.term);
            found.push(Violation::new("members", leadership.from, text));
        }
    }
    if let Some(settling) = &history.settling
        && settling.at.is_none_or(|at| at > settling.from + settling.within)
    {
        let text = format!(
            "within {:?} of everything being mended the membership was not what it should be: {}",
            settling.within, settling.wrong
        );
        found.push(Violation::new("members", settling.from + settling.within, text));
    }
    found
}

/// A majority of the one and of the other overlap where both need a majority of the same set. So voters change in two steps,
/// and no other change begins between them.
fn wrong_change(before: &Membership, after: &Membership) -> Option<&'static str> {
    let overlaps = before.voters.iter().any(|voters| after.voters.contains(voters));
    match (before.is_joint(), after.is_joint()) {
        _ if before.voters == after.voters => None,
        _ if !overlaps => Some("shares no quorum with the one before it"),
        (true, true) => Some("begins a change of voters before another one has ended"),
        _ if before.term > after.term => Some("is of an earlier term than the one before it"),
        _ => None,
    }
}

/// What was forgotten under an id, a vote or an entry, could make two leaders: so an empty disk never takes an old one.
fn identities(history: &History) -> Vec<Violation> {
    let mut used: BTreeSet<NodeId> = BTreeSet::new();
    let mut last = BTreeMap::new();
    let mut found = Vec::new();
    for opening in &history.openings {
        let mut fault = |text: String| {
            let text = format!("agent {} opens its disk as member {}, {text}", opening.agent, opening.node);
            found.push(Violation::new("members", opening.at, text));
        };
        if opening.is_new && used.contains(&opening.node) {
            fault("which is an old one, and the disk is empty".to_owned());
        }
        if !opening.is_new
            && let Some(before) = last.get(&opening.agent).filter(|before| **before != opening.node)
        {
            fault(format!("and it was {before} on this disk"));
        }
        used.insert(opening.node);
        last.insert(opening.agent, opening.node);
    }
    found
}

/// What is wrong with the membership that a leader reports, where these live, willing to vote or not, and nobody else does.
#[must_use]
pub fn wrong_members(
    reported: &[MemberReport],
    wanted: &BTreeMap<NodeId, bool>,
    voters_max: usize,
) -> Option<String> {
    let name = |member: &MemberReport| format!("{} ({})", member.agent, member.node);
    let is_gone = |member: &&MemberReport| !wanted.contains_key(&member.node);
    let gone: Vec<&MemberReport> = reported.iter().filter(is_gone).collect();
    if let Some(missing) = wanted.keys().find(|node| reported.iter().all(|member| member.node != **node)) {
        return Some(format!("{missing} is no member, and lives"));
    }
    let (voters, observers): (Vec<&MemberReport>, Vec<&MemberReport>) =
        reported.iter().partition(|member| member.role != MemberRole::Observer);
    let unwilling = |member: &&&MemberReport| wanted.get(&member.node) == Some(&false);
    if let Some(unwilling) = voters.iter().find(unwilling) {
        return Some(format!("{} votes, and only wants to observe", name(unwilling)));
    }
    if voters.len() > voters_max {
        return Some(format!("{} vote, and there may be {voters_max}", voters.len()));
    }
    let willing = observers.iter().filter(|member| wanted.get(&member.node) == Some(&true)).count();
    // One of an odd number may stay if nobody can take its place: without it they would bear no more losses.
    let votes = |member: &&&MemberReport| member.role != MemberRole::Observer;
    let may_stay = usize::from(voters.len() % 2 == 1 && willing == 0 && voters.len() > 1);
    if let Some(gone) = gone.iter().find(|member| !votes(member)).or(gone.get(may_stay)) {
        return Some(format!("{} is a member, and is gone", name(gone)));
    }
    // As many as there may be; an odd number, as long as nobody has to be excluded for that.
    let wants = 1 + voters.len() % 2;
    let more = willing >= wants && voters.len() + wants <= voters_max;
    more.then(|| format!("{} vote, and {willing} more would; there may be {voters_max}", voters.len()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chaos::{
        check::example::{S, example},
        history::{Leadership, Opening, Settling},
    };

    fn node(bits: u64) -> NodeId {
        NodeId::from_bits(bits)
    }

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().map(|bits| node(*bits)).collect()
    }

    fn changing(all: &[&[&[u64]]]) -> usize {
        let mut history = example();
        for (index, voters) in (1..).zip(all) {
            let members = voters.iter().flat_map(|set| *set).map(|bits| (node(*bits), "x".to_owned()));
            let voters: Vec<_> = voters.iter().map(|nodes| set(nodes)).collect();
            let (at, members) = (Duration::from_secs(index), members.collect());
            history.memberships.insert(index, Membership { term: index, at, voters, members });
        }
        members(&history).len()
    }

    #[test]
    fn voters_change_in_two_steps_one_change_at_a_time() {
        assert_eq!(changing(&[&[&[1, 2, 3]], &[&[1, 2, 3], &[1, 2, 4]], &[&[1, 2, 4]]]), 0);
        assert_eq!(changing(&[&[&[1, 2, 3]], &[&[1, 2, 3], &[1, 2, 4]], &[&[1, 2, 3]]]), 0, "it is undone");
        assert_eq!(changing(&[&[&[1, 2, 3]], &[&[1, 2, 4]]]), 1, "in one step");
        assert_eq!(changing(&[&[&[1, 2, 3]], &[&[1, 2, 4], &[1, 4, 5]]]), 1, "from another one");
        let two: [&[&[u64]]; 2] = [&[&[1, 2, 3], &[1, 2, 4]], &[&[1, 2, 4], &[1, 4, 5]]];
        assert_eq!(changing(&two), 1, "two at once");
        assert_eq!(changing(&[&[&[]]]), 1, "nobody votes");
    }

    #[test]
    fn an_empty_disk_with_an_old_id_is_found_and_two_leaders_of_a_term() {
        let opening = |agent, bits, is_new| Opening { at: S, agent, node: node(bits), is_new };
        let of = |openings: &[Opening]| members(&History { openings: openings.to_vec(), ..example() }).len();
        let sound = [opening(0, 1, true), opening(0, 1, false), opening(0, 2, true), opening(1, 3, true)];
        assert_eq!(of(&sound), 0);
        assert_eq!(of(&[opening(0, 1, true), opening(0, 1, true)]), 1);
        assert_eq!(of(&[opening(0, 1, true), opening(1, 1, true)]), 1);
        assert_eq!(of(&[opening(0, 1, true), opening(0, 2, false)]), 1);
        let leads = |agent, term| Leadership { agent, term, from: S, seen: S };
        let of = |leaderships: Vec<_>| members(&History { leaderships, ..example() }).len();
        assert_eq!(of(vec![leads(0, 1), leads(1, 2), leads(0, 3), leads(0, 3)]), 0);
        assert_eq!(of(vec![leads(0, 1), leads(1, 1)]), 1);
    }

    #[test]
    fn a_membership_that_does_not_become_what_it_should_be_is_found() {
        let of = |at| {
            let settling = Some(Settling { from: S, within: 2 * S, at, wrong: String::new() });
            members(&History { settling, ..example() }).len()
        };
        assert_eq!((of(Some(3 * S)), of(Some(4 * S)), of(None)), (0, 1, 1));
    }

    #[test]
    fn what_is_wrong_with_a_membership_is_found() {
        let member = |bits, role| MemberReport {
            node: node(bits),
            agent: "x".to_owned(),
            address: String::new(),
            role,
            may_vote: true,
            heard_ago: None,
            log_index: 0,
            behind: 0,
        };
        let wrong = |voters: u64, observers: u64, wanted: &[(u64, bool)], most| {
            let role = |bits| if bits <= voters { MemberRole::Follower } else { MemberRole::Observer };
            let reported: Vec<_> = (1..=voters + observers).map(|bits| member(bits, role(bits))).collect();
            let wanted = wanted.iter().map(|(bits, may)| (node(*bits), *may)).collect();
            wrong_members(&reported, &wanted, most).is_some()
        };
        let all: Vec<_> = (1..=7).map(|bits| (bits, true)).collect();
        assert!(!wrong(5, 2, &all, 5) && !wrong(3, 1, &all[..4], 5) && !wrong(4, 0, &all[..4], 5));
        assert!(wrong(3, 2, &all[..5], 5), "two more would vote");
        assert!(wrong(4, 1, &all[..5], 5), "one more would");
        assert!(wrong(5, 0, &all[..5], 3), "too many");
        assert!(wrong(4, 0, &all[..3], 5) && wrong(3, 0, &all[..1], 5), "more are gone than may stay");
        assert!(!wrong(3, 0, &all[..2], 5), "nobody is there for its place");
        let others = [(1, true), (2, true), (4, true)];
        assert!(wrong(3, 1, &others, 5), "somebody is");
        assert!(wrong(3, 1, &all[..3], 5), "it only observes");
        assert!(wrong(3, 0, &all[..4], 5), "one is missing");
        let some = [(1, true), (2, true), (3, true), (4, false), (5, false)];
        assert!(!wrong(3, 2, &some, 5), "they only observe");
        assert!(wrong(4, 1, &some, 5), "it votes");
    }
}
