//! The membership, cared for by the leader: what [`plan`](crate::plan) says is carried out, and what members and
//! operators ask for, one change at a time.
//!
//! *Why no change costs the quorum:* the plan makes one only where a majority of the old voters and one of the new were
//! heard a moment ago. *Why no change is made upon what is old:* each names the membership that it was decided upon and
//! the term, and openraft appends it only while both are so. *Why none is left half done:* a change runs in a task of its
//! own, which no caller's end takes down, and a joint membership that an earlier leader left is settled by the next.
//!
//! Nothing happens in the first moments of a leadership, nor before an entry of its term is applied, nor while a majority
//! is out of touch. Silence is counted from when this node began to lead, or first saw the member.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use super::leader::Leader;
use crate::{
    clock::Clock,
    config::Timing,
    id::NodeId,
    limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX},
    message::{Failure, MemberReport, MemberRole, Request, Response},
    plan::{Care, Seen, Situation, Step},
    raft::{Change, Consensus, ConsensusError, Leadership, Member, Membership},
    runtime,
    tasks::Tasks,
    time::Moment,
};

/// An observer whose log is behind by at most so many entries may vote.
const CAUGHT_UP_ENTRIES: u64 = 1_000;
/// How long is waited for a change that another one needs, and how often it is looked for.
const SETTLES_WITHIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(10));

/// The part of a node that cares for the membership, while it leads.
pub(crate) struct Caretaker {
    node: NodeId,
    consensus: Consensus,
    leader: Arc<Leader>,
    clock: Arc<dyn Clock>,
    timing: Timing,
    care: Care,
    /// Whether the membership stays as it is.
    fixed: bool,
    /// Held by whoever changes the membership.
    changing: Arc<tokio::sync::Mutex<()>>,
    known: Mutex<Option<Known>>,
    tasks: Tasks,
}

/// Since when this leadership has known of what.
struct Known {
    term: u64,
    since: Moment,
    /// When it looked last.
    looked: Moment,
    members: BTreeMap<NodeId, Moment>,
}

/// The members at one moment.
struct Look {
    term: u64,
    upon: Membership,
    members: BTreeMap<NodeId, Seen>,
    now: Moment,
}

impl Look {
    fn situation<'a>(&'a self, caretaker: &'a Caretaker) -> Situation<'a> {
        Situation { care: &caretaker.care, now: self.now, leader: caretaker.node, members: &self.members }
    }

    fn voters(&self) -> usize {
        self.upon.members.values().filter(|(_, votes)| *votes).count()
    }

    fn name(&self, node: NodeId) -> String {
        self.upon.members.get(&node).map_or_else(|| node.to_string(), |(member, _)| member.agent.clone())
    }

    fn names(&self, nodes: &BTreeSet<NodeId>) -> Vec<String> {
        nodes.iter().map(|node| self.name(*node)).collect()
    }
}

fn refused<T>(detail: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Refused(detail.into()))
}

fn failure_of(error: ConsensusError) -> Failure {
    match error {
        // A change is made anew upon what is then: to ask again is harmless.
        ConsensusError::Unknown(detail) => Failure::Unavailable(detail),
        other => super::route::failure_of(other),
    }
}

impl Caretaker {
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part of the node, named at the one place that calls it"
    )]
    pub(crate) fn new(
        node: NodeId,
        consensus: Consensus,
        leader: Arc<Leader>,
        clock: Arc<dyn Clock>,
        timing: Timing,
        care: Care,
        fixed: bool,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            consensus,
            leader,
            clock,
            timing,
            care,
            fixed,
            changing: Arc::default(),
            known: Mutex::default(),
            tasks,
        })
    }

    /// Answers what members and operators ask of the leader.
    pub(crate) async fn answer(self: &Arc<Self>, request: Request) -> Result<Response, Failure> {
        match request {
            Request::Join { node, agent, address, observer, timing } => {
                let member = Member { agent: agent.as_str().to_owned(), addr: address, observer };
                self.join(node, member, timing).await?;
            }
            Request::Depart { node } => self.depart(node).await?,
            Request::Promote { node } => self.promote(node).await?,
            Request::Remove { node } => self.remove(node).await?,
            _ => return self.report().map(Response::Members),
        }
        Ok(Response::Done)
    }

    /// Carries out what the plan says, until the node stops.
    pub(crate) async fn attend(self: Arc<Self>) {
        loop {
            runtime::sleep(self.care.in_touch_within / 2).await;
            let step = self.alone(|it, look| async move { it.next_step(&look).await }).await;
            if let Err(failed @ (Failure::Unknown(_) | Failure::Unavailable(_))) = step {
                tracing::debug!(%failed, "no change of the membership for now");
            }
        }
    }

    async fn next_step(&self, look: &Look) -> Result<(), Failure> {
        if !look.upon.members.get(&self.node).is_some_and(|(_, votes)| *votes) {
            // A change that a dead leader began has taken its vote. It would lead on, and could change nothing.
            tracing::info!("this leader votes no more, and hands leadership over");
            self.consensus.hand_over(self.timing.election_timeout_max).await;
            return Ok(());
        }
        match look.situation(self).next() {
            Some(step) => self.carry_out(look, step).await,
            None => Ok(()),
        }
    }

    /// Looks, and decides upon a change and makes it, in a task of its own; one at a time, and none upon one that is half done.
    async fn alone<F>(
        self: &Arc<Self>,
        decide: impl FnOnce(Arc<Self>, Look) -> F + Send + 'static,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let Ok(alone) = self.changing.clone().try_lock_owned() else {
            return Err(Failure::Unavailable("another change of the membership is under way".to_owned()));
        };
        let (tell, told) = oneshot::channel();
        let caretaker = self.clone();
        self.tasks.spawn(async move {
            let changed = match caretaker.look_at_what_is_settled().await {
                Ok(look) => decide(caretaker, look).await,
                Err(failure) => Err(failure),
            };
            drop(alone);
            let _ = tell.send(changed);
        });
        told.await.unwrap_or_else(|_| Err(Failure::Stopped("the agent is stopping".to_owned())))
    }

    /// Ends a change of voters that an earlier leader left half done, before anything else is decided: of what is half done
    /// both the old voters and the new would count as voters.
    async fn look_at_what_is_settled(&self) -> Result<Look, Failure> {
        let look = self.look()?;
        if !look.upon.is_joint {
            return Ok(look);
        }
        tracing::info!("a change of voters that an earlier leader left half done is ended");
        self.change(look.term, &look.upon, Change::Settle).await?;
        self.settled().await?;
        self.look()
    }

    /// The members, as this node sees them if it leads.
    fn look(&self) -> Result<Look, Failure> {
        let leadership = self.consensus.leadership();
        let term = leadership.term;
        if !leadership.leading || self.leader.ready_in() != Some(term) {
            return Err(not_leading(&leadership));
        }
        if !self.leader.is_founded() {
            return Err(Failure::Unavailable("the cluster is being founded".to_owned()));
        }
        if !self.consensus.quorum_is_fresh() {
            *self.known() = None;
            return Err(Failure::Unavailable("this leader has lost touch with its quorum".to_owned()));
        }
        let upon = self.consensus.membership();
        let (reached, last) = self.consensus.reached();
        let now = self.clock.now();
        let mut kept = self.known();
        // One that stood still, or heard nobody, has not listened: what it takes for the others' silence is its own.
        let listens_on =
            |known: &Known| known.term == term && now.since(known.looked) < self.care.in_touch_within * 2;
        if !kept.as_ref().is_some_and(listens_on) {
            *kept = None;
        }
        let known =
            kept.get_or_insert_with(|| Known { term, since: now, looked: now, members: BTreeMap::new() });
        known.looked = now;
        known.members.retain(|node, _| upon.members.contains_key(node));
        let heard = |node: &NodeId| reached.get(node).and_then(|reached| reached.heard_ago);
        let mut members = BTreeMap::new();
        for (node, (member, voter)) in &upon.members {
            let first = *known.members.entry(*node).or_insert(now);
            let heard_ago = heard(node);
            let later = |other: &NodeId| match (heard(other), heard_ago) {
                (Some(theirs), Some(ours)) => theirs < ours && theirs < self.care.in_touch_within,
                (Some(theirs), None) => theirs < self.care.in_touch_within,
                (None, _) => *other == self.node,
            };
            let superseded = upon
                .members
                .iter()
                .any(|(other, (theirs, _))| other != node && theirs.addr == member.addr && later(other));
            let matched = reached.get(node).map_or(0, |reached| reached.matched);
            members.insert(
                *node,
                Seen {
                    voter: *voter,
                    willing: !member.observer,
                    caught_up: heard_ago.is_some()
                        && matched > 0
                        && matched.saturating_add(CAUGHT_UP_ENTRIES) >= last,
                    heard: heard_ago.map_or(first, |ago| (now - ago).max(first)),
                    superseded: superseded && *node != self.node,
                },
            );
        }
        if now.since(known.since) < self.care.in_touch_within {
            return Err(Failure::Unavailable("this leader does not know its members yet".to_owned()));
        }
        Ok(Look { term, upon, members, now })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn change(&self, term: u64, upon: &Membership, change: Change) -> Result<(), Failure> {
        self.consensus.change(term, upon, change).await.map_err(failure_of)
    }

    async fn carry_out(&self, look: &Look, step: Step) -> Result<(), Failure> {
        let Step { promote, demote, remove, why } = step;
        tracing::info!(
            promoted = ?look.names(&promote),
            demoted = ?look.names(&demote),
            removed = ?look.names(&remove),
            "the membership changes: {why}"
        );
        if !promote.is_empty() || !demote.is_empty() {
            self.change(look.term, &look.upon, Change::Voters { promote, demote }).await?;
            if remove.is_empty() {
                return Ok(());
            }
            self.settled().await?;
        }
        self.change(look.term, &self.consensus.membership(), Change::Remove(remove)).await
    }

    /// Waits until the last change is committed as far as this node's view of it goes.
    async fn settled(&self) -> Result<(), Failure> {
        let (within, every) = SETTLES_WITHIN;
        let settled = async {
            loop {
                let membership = self.consensus.membership();
                if membership.is_committed && !membership.is_joint {
                    return;
                }
                runtime::sleep(every).await;
            }
        };
        runtime::timeout(within, settled).await.map_err(|runtime::TimedOut| {
            Failure::Unavailable("a change of the membership takes long".to_owned())
        })
    }

    /// A member is, or wants to be, one, at this address. An entry only where that is news.
    async fn join(self: &Arc<Self>, node: NodeId, member: Member, timing: Timing) -> Result<(), Failure> {
        if member.addr.len() > ADDRESS_BYTES_MAX || !crate::config::is_address(&member.addr, false) {
            return refused(format!("{:?} is not an address, which is host:port", member.addr));
        }
        if let Some(detail) = differing(&timing, &self.timing) {
            return refused(format!("its timing is not the cluster's: {detail}; give it the same"));
        }
        self.alone(move |it, look| async move { it.set(&look, node, member).await }).await
    }

    async fn set(&self, look: &Look, node: NodeId, member: Member) -> Result<(), Failure> {
        let known = look.upon.members.get(&node);
        if known.is_some_and(|(known, _)| *known == member) {
            return Ok(());
        }
        if known.is_none() && self.fixed {
            return refused("this cluster's membership is fixed: nobody joins it");
        }
        if known.is_none() && look.upon.members.len() >= MEMBERS_MAX {
            return refused(format!(
                "this cluster has {MEMBERS_MAX} members, and there can't be more; remove some"
            ));
        }
        tracing::info!(agent = member.agent, %node, address = member.addr, joins = known.is_none(), "a member says where it is");
        self.change(look.term, &look.upon, Change::Set(node, member)).await
    }

    /// A member wants to go.
    async fn depart(self: &Arc<Self>, node: NodeId) -> Result<(), Failure> {
        self.alone(move |it, look| async move { it.go(&look, node).await }).await
    }

    async fn go(&self, look: &Look, node: NodeId) -> Result<(), Failure> {
        if !look.upon.members.contains_key(&node) {
            return Ok(());
        }
        match look.situation(self).without(node) {
            Some(step) => self.carry_out(look, step).await,
            None => refused(format!(
                "without {} there could be no majority any more: others are out of reach, or it leads; see `members`",
                look.name(node)
            )),
        }
    }

    /// A member that is out of reach is to be none any more. One in reach would come back: it is told to leave.
    async fn remove(self: &Arc<Self>, node: NodeId) -> Result<(), Failure> {
        self.alone(move |it, look| async move {
            if look.upon.members.contains_key(&node) && look.situation(&it).is_in_touch(&node) {
                let name = look.name(node);
                return refused(format!("{name} is in reach, and would come back; tell it to leave instead"));
            }
            it.go(&look, node).await
        })
        .await
    }

    /// An observer is to vote.
    async fn promote(self: &Arc<Self>, node: NodeId) -> Result<(), Failure> {
        self.alone(move |it, look| async move {
            let Some((_, votes)) = look.upon.members.get(&node) else {
                return refused(format!("{node} is no member; see `members`"));
            };
            if *votes {
                return Ok(());
            }
            let (voters, most) = (look.voters(), it.care.voters_max);
            if voters >= most {
                return refused(format!(
                    "{voters} members vote, and voters_max is {most}; let one of them leave first"
                ));
            }
            match look.situation(&it).promoting(node) {
                Some(step) => it.carry_out(&look, step).await,
                None => refused(format!(
                    "{} can't vote yet: it is out of reach or has not caught up, or a majority is out of reach",
                    look.name(node)
                )),
            }
        })
        .await
    }

    /// Lets another one vote beside this node, if it leads and votes alone.
    pub(crate) async fn find_an_heir(self: &Arc<Self>) -> Result<(), Failure> {
        self.alone(|it, look| async move {
            if look.voters() > 1 {
                return Ok(());
            }
            match look.situation(&it).an_heir() {
                Some(step) => it.carry_out(&look, step).await,
                None => refused(
                    "it votes alone, and no other member can take over; to end the cluster, stop the agent",
                ),
            }
        })
        .await
    }

    /// The members, as this node sees them if it leads.
    fn report(&self) -> Result<Vec<MemberReport>, Failure> {
        let leadership = self.consensus.leadership();
        if !leadership.leading {
            return Err(not_leading(&leadership));
        }
        let (reached, last) = self.consensus.reached();
        let members = self.consensus.membership().members.into_iter();
        let report = members.map(|(node, (member, voter))| {
            let leads = node == self.node;
            let reached = reached.get(&node);
            let (heard_ago, log_index) = if leads {
                (Some(Duration::ZERO), last)
            } else {
                (reached.and_then(|it| it.heard_ago), reached.map_or(0, |it| it.matched))
            };
            MemberReport {
                node,
                agent: member.agent,
                address: member.addr,
                role: MemberRole::of(leads, voter),
                may_vote: !member.observer,
                heard_ago,
                log_index,
                behind: last.saturating_sub(log_index),
            }
        });
        Ok(report.collect())
    }
}

fn not_leading(leadership: &Leadership) -> Failure {
    Failure::NotLeader { leader: leadership.leader.map(|node| (node, String::new())) }
}

/// What is different in two agents' timing and must not be: all but the ttl, which each lease carries.
pub(super) fn differing(theirs: &Timing, ours: &Timing) -> Option<String> {
    let alike = Timing { ttl: ours.ttl, ..*theirs };
    if alike == *ours {
        return None;
    }
    let told = |timing: &Timing| {
        format!(
            "heartbeat {:?}, election timeout {:?} to {:?}, drift {} ppm",
            timing.heartbeat,
            timing.election_timeout_min,
            timing.election_timeout_max,
            timing.clock_drift_max.ppm()
        )
    };
    Some(format!("{} here, {} there", told(ours), told(theirs)))
}
