//! What must be when everything is mended: the membership is what it should be, and each name is to be had, also when as many
//! voters as may be are dead.

use std::{collections::BTreeMap, time::Duration};

use super::{check, history::Probe, history::Settling, sim::Sim, workload::soon, world::Fault};
use crate::{MemberRole, Name, NodeId};

const MS: Duration = Duration::from_millis(1);
/// How long electing a leader may take, when everything is mended.
const ELECTED_WITHIN: Duration = Duration::from_secs(10);
/// How long an agent may take to catch up: the time of a snapshot that was sent to it while it was dead, and of another.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(25);
/// A holder that died, a waiter that is granted next and is dead as well, and what a change of leader adds.
const SPANS_MAX: u32 = 3;
/// How long the membership may take to become what it should be: an election, and for each member that is to come or to go
/// a look of the leader and a change, one after the other; an agent that was removed while it was away asks when it has heard
/// of no leader for twenty of the longest election timeouts.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);

/// The longest ttl and the longest lock delay are `spans`.
pub(super) async fn ending(sim: &Sim, names: Vec<&'static str>, spans: (Duration, Duration)) {
    let (ttl_max, lock_delay_max) = spans;
    let within = ELECTED_WITHIN + SPANS_MAX * (ttl_max + ttl_max / 50) + 2 * lock_delay_max;
    let mut living: Vec<usize> = (0..sim.agents()).filter(|agent| sim.lives(*agent) > 0).collect();
    let (voters, count) = match sim.fleet().voters_max() {
        None => (living.clone(), living.len()),
        Some(voters_max) => {
            let probed = probe(sim, &names, &living, within);
            futures_util::join!(probed, settle(sim, &living, voters_max)).1
        }
    };
    let spare = voters.len().saturating_sub(count / 2 + 1);
    let mut dead_voters = 0;
    for _ in 0..sim.random_below(spare as u64 + 1) {
        let dead = living.remove(sim.random_below(living.len() as u64) as usize);
        dead_voters += usize::from(voters.contains(&dead));
        sim.fault(Fault::Crash(dead));
        sim.recorder().write(|history| history.left_dead.push(dead));
    }
    let is_bare = dead_voters > 0 && voters.len() - dead_voters == count / 2 + 1;
    sim.recorder().write(|history| history.bare_quorum = is_bare);
    probe(sim, &names, &living, within).await;
    // The others hear of it.
    let applied = |agent: &usize| sim.agent(*agent).map_or(0, |agent| agent.status().applied);
    let upto = living.iter().map(applied).max().unwrap_or(0);
    let began = sim.now();
    while living.iter().any(|agent| applied(agent) < upto) && sim.now() - began < CAUGHT_UP_WITHIN {
        sim.sleep(100 * MS).await;
    }
    sim.recorder().look(|_| true);
}

/// Each name is to be had beside one of these within the bound of rule L6.
async fn probe(sim: &Sim, names: &[&'static str], living: &[usize], within: Duration) {
    let mut probes = Vec::new();
    for (at, text) in names.iter().copied().enumerate() {
        let Ok(name) = Name::new(text) else { continue };
        let agent = living[at % living.len()];
        let (ours, from) = (sim.clone(), sim.now());
        let asked = async move {
            // One that was just started may not serve yet.
            let got = soon(&ours, within, async {
                loop {
                    let handle = ours.up(agent).await;
                    match handle.lease(text).wait_at_most(within).acquire().await {
                        Ok(lease) => return lease,
                        Err(error) => ours.note(format!("agent {agent} did not get {text} yet: {error}")),
                    }
                    ours.sleep(100 * MS).await;
                }
            });
            let lease = got.await;
            let granted = lease.as_ref().map(|_| ours.now());
            let error = lease.is_none().then(|| match ours.agent(agent) {
                Some(handle) => {
                    let status = handle.status();
                    format!("term {}, leader {:?}, stopped {:?}", status.term, status.leader, status.stopped)
                }
                None => format!("agent {agent} does not serve: {:?}", ours.start_error(agent)),
            });
            let probe = Probe { name, agent, from, within, granted, error };
            ours.recorder().write(|history| history.probes.push(probe));
        };
        // Outside, so that an agent that is gone is waited for.
        probes.push(asked);
    }
    futures_util::future::join_all(probes).await;
}

/// Waits until the membership is what it should be. Returns the agents that vote then, and how many voters there are.
async fn settle(sim: &Sim, living: &[usize], voters_max: usize) -> (Vec<usize>, usize) {
    let from = sim.now();
    let mut wrong = "no leader was found".to_owned();
    let mut turns = living.iter().cycle();
    while sim.now() - from < SETTLED_WITHIN {
        let asked = turns.next().and_then(|agent| sim.agent(*agent));
        if let Some(agent) = asked
            && let Some(Ok(members)) = soon(sim, SETTLED_WITHIN / 10, agent.members()).await
        {
            let member = |agent: usize| Some((sim.fleet().node(agent)?, sim.fleet().may_vote(agent)));
            let wanted: BTreeMap<NodeId, bool> = living.iter().filter_map(|agent| member(*agent)).collect();
            match check::wrong_members(&members, &wanted, voters_max) {
                None => {
                    let at = Some(sim.now());
                    let settling = Settling { from, within: SETTLED_WITHIN, at, wrong: String::new() };
                    sim.recorder().write(|history| history.settling = Some(settling));
                    let voters = || members.iter().filter(|member| member.role != MemberRole::Observer);
                    let votes = |agent: &&usize| {
                        voters().any(|member| Some(member.node) == sim.fleet().node(**agent))
                    };
                    return (living.iter().filter(votes).copied().collect(), voters().count());
                }
                Some(what) => wrong = what,
            }
        }
        sim.sleep(100 * MS).await;
    }
    let settling = Settling { from, within: SETTLED_WITHIN, at: None, wrong };
    sim.recorder().write(|history| history.settling = Some(settling));
    // Who may die is not known.
    (Vec::new(), 0)
}
