//! Members that come and go: joining, voting, dying, coming back, leaving.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use leasehold::{
    Agent, Builder, LossReason, MemberError, MemberReport, MemberRole, NodeId, StartError, Timing,
};

use crate::fixture::{Cluster, addresses, soon, until};

/// As short as may be, for tests.
const DEAD_AFTER: Duration = Duration::from_secs(2);
const FORGET_AFTER: Duration = Duration::from_secs(3);

fn short(builder: Builder) -> Builder {
    builder.dead_after(DEAD_AFTER).forget_after(FORGET_AFTER)
}

impl Cluster {
    /// Founders that care for their members quickly.
    async fn caring(count: usize) -> Self {
        let mut cluster = Self::in_process_stopped(count);
        let starts = (0..count).map(|n| short(cluster.builder(n)).start());
        cluster.agents = soon("the founding", futures_util::future::try_join_all(starts)).await.unwrap();
        cluster
    }

    /// A joiner, not started yet.
    fn joiner(&self, name: &str) -> Builder {
        short(
            Agent::builder(name)
                .listen(format!("{name}:7101"))
                .join([&self.addresses[self.addresses.len() - 1]])
                .timing(self.timing)
                .network(self.network()),
        )
    }

    async fn joined(&self, name: &str) -> Agent {
        soon(name, self.joiner(name).start()).await.unwrap()
    }
}

/// Waits until the leader reports members of which this is true.
async fn until_members(agent: &Agent, what: &str, so: impl Fn(&[MemberReport]) -> bool) -> Vec<MemberReport> {
    soon(what, async {
        loop {
            match agent.members().await {
                Ok(members) if so(&members) => return members,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

fn voters(members: &[MemberReport]) -> BTreeSet<&str> {
    let votes = |member: &&MemberReport| member.role != MemberRole::Observer;
    members.iter().filter(votes).map(|member| member.agent.as_str()).collect()
}

fn nodes(members: &[MemberReport]) -> BTreeSet<NodeId> {
    members.iter().map(|member| member.node).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joiners_observe_and_vote_by_twos() {
    let mut cluster = Cluster::caring(1).await;
    let one = cluster.joined("one").await;
    assert_eq!(one.status().role, MemberRole::Observer);
    assert_eq!(one.status().cluster, cluster.agents[0].status().cluster);
    // Everything works from there.
    let lease = soon("a grant", one.acquire("x")).await.unwrap();
    assert_eq!(one.holder("x").await.unwrap().unwrap().token, lease.token());
    until("its own copy", || one.holder_local("x").unwrap().is_some()).await;
    // A second voter would bear no loss; with a third there are two more.
    let two = cluster.joined("two").await;
    let members = until_members(&two, "three voters", |members| voters(members).len() == 3).await;
    assert_eq!(voters(&members), BTreeSet::from(["agent-0", "one", "two"]));
    assert!(members.iter().all(|member| member.behind < 10 && member.heard_ago.is_some()), "{members:?}");
    // Now any one of them may go.
    lease.check().unwrap();
    cluster.agents.remove(0).shutdown().await;
    lease.check().unwrap();
    soon("the release", lease.release()).await.unwrap();
    soon("a grant of the two", two.acquire("x")).await.unwrap();
    for agent in [one, two] {
        agent.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_by_choice_never_votes_but_by_hand() {
    let mut cluster = Cluster::caring(1).await;
    let observer = soon("an observer", cluster.joiner("one").observer(true).start()).await.unwrap();
    let voter = cluster.joined("two").await;
    let other = cluster.joined("three").await;
    let members = until_members(&voter, "three voters", |members| voters(members).len() == 3).await;
    assert!(!voters(&members).contains("one"), "{members:?}");
    let mut watch = observer.watch("x").unwrap();
    let lease = soon("a grant", voter.acquire("x")).await.unwrap();
    assert!(soon("the grant, as the observer sees it", watch.next()).await.is_some());
    soon("the promotion", observer.promote(observer.status().node)).await.unwrap();
    let members = until_members(&voter, "four voters", |members| voters(members).len() == 4).await;
    assert!(voters(&members).contains("one"), "{members:?}");
    drop(lease);
    for agent in [observer, voter, other] {
        agent.shutdown().await;
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_voter_is_replaced_and_then_forgotten() {
    let mut cluster = Cluster::caring(3).await;
    let spare = cluster.joined("spare").await;
    let dead = cluster.followers().await[0];
    let lease = soon("a grant", spare.acquire("x")).await.unwrap();
    let gone = cluster.agents.remove(dead);
    let old = gone.status().node;
    gone.shutdown().await;
    // While the change is joint, both of them vote.
    let replaced = |members: &[MemberReport]| voters(members).contains("spare") && voters(members).len() == 3;
    let members = until_members(&spare, "the replacement", replaced).await;
    let name = format!("agent-{dead}");
    assert!(!voters(&members).contains(name.as_str()), "{members:?}");
    until_members(&spare, "it to be forgotten", |members| !nodes(members).contains(&old)).await;
    lease.check().unwrap();
    spare.shutdown().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_lost_its_memory_comes_back_as_a_new_member() {
    let mut cluster = Cluster::caring(3).await;
    let lost = cluster.followers().await[0];
    let agent = cluster.agents.remove(lost);
    let (old, id) = (agent.status().node, agent.status().cluster);
    agent.shutdown().await;
    // Nobody waits for it to be dead: whoever comes back at its address is not it.
    let began = Instant::now();
    let again = soon("the return", cluster.builder(lost).start()).await.unwrap();
    let new = again.status().node;
    assert_ne!(new, old, "an empty memory never takes an old id");
    assert_eq!(again.status().cluster, id);
    let members = until_members(&again, "its vote", |members| {
        !nodes(members).contains(&old) && voters(members).len() == 3
    })
    .await;
    assert!(members.iter().any(|member| member.node == new && member.role != MemberRole::Observer));
    println!("back as a voter after {:?}", began.elapsed());
    again.shutdown().await;
    cluster.stop_all().await;
}

/// Both, the one that only observes and the one that leads, holding a lease each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_gives_back_and_hands_over() {
    let mut cluster = Cluster::caring(3).await;
    let guest = cluster.joined("guest").await;
    let leader = cluster.leader().await;
    let leading = cluster.agents.remove(leader);
    let (of_guest, of_leader) =
        (guest.acquire("g").await.unwrap(), soon("a grant", leading.acquire("l")).await.unwrap());
    let heir = &cluster.agents[0];
    let (mut wants_g, mut wants_l) = (Box::pin(heir.acquire("g")), Box::pin(heir.acquire("l")));
    assert!(futures_util::poll!(&mut wants_g).is_pending() && futures_util::poll!(&mut wants_l).is_pending());

    soon("the guest's leaving", guest.leave()).await.unwrap();
    assert!(guest.has_left() && guest.status().stopped.is_some());
    assert_eq!(of_guest.lost().await.reason, LossReason::AgentStopped);
    soon("g, long before its ttl is over", wants_g).await.unwrap();
    until_members(heir, "three members", |members| members.len() == 3).await;

    let node = leading.status().node;
    soon("the leader's leaving", leading.leave()).await.unwrap();
    assert_eq!(of_leader.lost().await.reason, LossReason::AgentStopped);
    soon("l", wants_l).await.unwrap();
    let members = until_members(heir, "two members", |members| members.len() == 2).await;
    assert!(!nodes(&members).contains(&node));
    // And the last one but one; then there is nobody to hand over to.
    let last = cluster.agents.remove(0);
    soon("another's leaving", cluster.agents.remove(0).leave()).await.unwrap();
    until_members(&last, "one member", |members| members.len() == 1).await;
    let refused = soon("the refusal", last.leave()).await.unwrap_err();
    assert!(
        matches!(&refused, MemberError::Refused { detail } if detail.contains("votes alone")),
        "{refused}"
    );
    soon("it goes on", last.acquire("x")).await.unwrap();
    last.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_could_not_leave_goes_on() {
    let mut cluster = Cluster::in_process(3).await;
    let stays = cluster.followers().await[0];
    let held = soon("a grant", cluster.agents[stays].acquire("x")).await.unwrap();
    cluster.isolate(stays);
    soon("leaving", cluster.agents[stays].leave()).await.unwrap_err();
    assert!(held.check().is_err(), "it was given up for the departure");
    cluster.rejoin(stays);
    let lease = soon("a grant", cluster.agents[stays].acquire("y")).await.unwrap();
    lease.renew().await.unwrap();
    lease.check().unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_made_that_could_cost_the_quorum() {
    let mut cluster = Cluster::caring(3).await;
    let followers = cluster.followers().await;
    let (cut, other) = (followers[0], followers[1]);
    cluster.isolate(cut);
    let refused = soon("the refusal", cluster.agents[other].leave()).await.unwrap_err();
    assert!(matches!(refused, MemberError::Refused { .. }), "{refused}");
    assert!(!cluster.agents[other].has_left());
    soon("it goes on", cluster.agents[other].acquire("x")).await.unwrap();
    // Dead for long, and nobody there to take its place: with two voters no loss would be borne either.
    let node = cluster.agents[cut].status().node;
    let members = cluster.agents[other].members().await.unwrap();
    assert!(members.iter().any(|member| member.node == node), "{members:?}");
    cluster.rejoin(cut);
    soon("the third is back", cluster.agents[cut].acquire("y")).await.unwrap();
    // In reach it is not removed, but told to leave.
    until_members(&cluster.agents[other], "it to be heard", |members| {
        members
            .iter()
            .any(|m| m.node == node && m.heard_ago.is_some_and(|ago| ago < Duration::from_millis(100)))
    })
    .await;
    let refused = cluster.agents[other].remove(node).await.unwrap_err();
    assert!(refused.to_string().contains("tell it to leave"), "{refused}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_that_was_forgotten_is_a_member_again() {
    let mut cluster = Cluster::caring(1).await;
    let guest = cluster.joined("guest").await;
    let node = guest.status().node;
    cluster.network().isolate("guest:7101");
    until_members(&cluster.agents[0], "it to be forgotten", |members| members.len() == 1).await;
    cluster.network().rejoin("guest:7101");
    let members = until_members(&cluster.agents[0], "its return", |members| members.len() == 2).await;
    assert!(nodes(&members).contains(&node));
    soon("a grant", guest.acquire("x")).await.unwrap();
    guest.shutdown().await;
    cluster.stop_all().await;
}

/// Over TCP, with data directories.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_itself_again_at_another_address() {
    let mut cluster = Cluster::durable(3).await;
    let moved = cluster.followers().await[0];
    let node = cluster.agents[moved].status().node;
    cluster.agents[moved].shutdown().await;
    let address = addresses(1).remove(0);
    let builder = Agent::builder(format!("agent-{moved}"))
        .listen(&address)
        .join(cluster.addresses.clone())
        .timing(cluster.timing)
        .data_dir(cluster.data_dir(moved).unwrap());
    cluster.agents[moved] = soon("the restart", builder.start()).await.unwrap();
    assert_eq!(cluster.agents[moved].status().node, node);
    let members = cluster.agents[moved].members().await.unwrap();
    assert_eq!(members.len(), 3);
    assert!(members.iter().any(|member| member.node == node && member.address == address), "{members:?}");
    // Its vote counts there: without another one it is needed.
    let gone = cluster.followers().await.into_iter().find(|n| *n != moved).unwrap();
    let gone = cluster.agents.remove(gone);
    gone.shutdown().await;
    soon("a grant of the two", cluster.agents[0].acquire("x")).await.unwrap();
    cluster.stop_all().await;
}

/// A leader that could write the new addresses down takes votes, and these go to the old ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_moves_as_a_whole_is_itself_again() {
    let mut cluster = Cluster::durable(3).await;
    let before = nodes(&cluster.agents[0].members().await.unwrap());
    let token = soon("a grant", cluster.agents[0].acquire("x")).await.unwrap().token();
    cluster.stop_all().await;
    cluster.addresses = addresses(3);
    let moved = |n: usize| {
        Agent::builder(format!("agent-{n}"))
            .listen(&cluster.addresses[n])
            .join(cluster.addresses.clone())
            .timing(cluster.timing)
            .data_dir(cluster.data_dir(n).unwrap())
    };
    let starts = futures_util::future::try_join_all((0..3).map(|n| moved(n).start()));
    cluster.agents = soon("the restart", starts).await.unwrap();
    let members = cluster.agents[1].members().await.unwrap();
    assert_eq!(nodes(&members), before);
    assert!(members.iter().all(|member| cluster.addresses.contains(&member.address)), "{members:?}");
    let lease = soon("a grant", cluster.agents[2].acquire("x")).await.unwrap();
    assert!(lease.token() > token);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_with_a_data_directory_is_itself_again() {
    let mut cluster = Cluster::durable(1).await;
    let folder = tempfile::tempdir().unwrap();
    let address = addresses(1).remove(0);
    let joiner = || {
        Agent::builder("guest")
            .listen(&address)
            .join(cluster.addresses.clone())
            .timing(cluster.timing)
            .data_dir(folder.path())
    };
    let guest = soon("joining", joiner().start()).await.unwrap();
    let node = guest.status().node;
    guest.shutdown().await;
    let guest = soon("the restart", joiner().start()).await.unwrap();
    assert_eq!(guest.status().node, node);
    // Having left, it may come back with what it has.
    soon("leaving", guest.leave()).await.unwrap();
    until_members(&cluster.agents[0], "one member", |members| members.len() == 1).await;
    let guest = soon("the return", joiner().start()).await.unwrap();
    assert_eq!(guest.status().node, node);
    let members = until_members(&cluster.agents[0], "two members", |members| members.len() == 2).await;
    assert!(nodes(&members).contains(&node));
    guest.shutdown().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_removed_by_hand() {
    let mut cluster = Cluster::in_process(1).await;
    let guest = cluster.joined("guest").await;
    let node = guest.status().node;
    guest.shutdown().await;
    soon("the removal", async {
        while cluster.agents[0].remove(node).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(cluster.agents[0].members().await.unwrap().len(), 1);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_fit_is_refused_by_name() {
    let mut cluster = Cluster::in_process(1).await;
    let other = cluster.joiner("guest").timing(Timing::default());
    let other = other.dead_after(Duration::from_secs(30)).forget_after(Duration::from_secs(30));
    let refused = soon("the refusal", other.start()).await.unwrap_err();
    assert!(matches!(refused, StartError::TimingDiffers { .. }), "{refused}");
    assert!(refused.to_string().contains("heartbeat 100ms"), "{refused}");
    // Nobody there to join.
    let lonely = cluster.joiner("guest").join(["nowhere:7101"]).start_within(Duration::from_millis(300));
    let refused = lonely.start().await.unwrap_err();
    assert!(matches!(refused, StartError::NotReady { .. }), "{refused}");
    cluster.stop_all().await;

    let mut cluster = Cluster::in_process_stopped(1);
    let fixed = cluster.builder(0).danger_fixed_membership().start();
    cluster.agents = vec![soon("the founding", fixed).await.unwrap()];
    let refused = soon("the refusal", cluster.joiner("guest").start()).await.unwrap_err();
    assert!(matches!(refused, StartError::NotListed { .. }), "{refused}");
    assert!(refused.to_string().contains("is fixed"), "{refused}");
    cluster.stop_all().await;
}
