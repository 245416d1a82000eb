//! A majority is gone for good, and one directory is recovered by force.

use std::{path::Path, time::Duration};

use leasehold::{
    Agent, ChangeKind, Client, MemberRole, RecoverError, StartError, Timing, Token,
    danger::{self, Holders, Recovery},
};

use crate::fixture::{Cluster, addresses, soon, until};

/// What the lost majority granted after the survivor had stopped.
struct Lost {
    cluster: Cluster,
    survivor: usize,
    /// The last token that the survivor has seen, and the last that was granted.
    seen: Token,
    last: Token,
    /// The log index up to which somebody watched.
    watched: u64,
}

/// Three agents; one of them stops; the others go on, and stop too.
async fn lost() -> Lost {
    let cluster = Cluster::durable(3).await;
    let survivor = cluster.followers().await[0];
    let others: Vec<usize> = (0..3).filter(|n| *n != survivor).collect();
    let client = Client::builder("client").agents(&cluster.addresses).connect().await.unwrap();
    let held = client.lease("held").ttl(Duration::from_secs(3)).acquire().await.unwrap();
    let mut waits = Box::pin(client.lease("held").queue_behind_own().acquire());
    soon("a place in the queue", async {
        while cluster.agents[survivor].holder_local("held").unwrap().is_none_or(|held| held.waiters == 0) {
            assert!(tokio::time::timeout(Duration::from_millis(5), &mut waits).await.is_err());
        }
    })
    .await;
    let seen = held.token();
    cluster.agents[survivor].shutdown().await;
    let mut watch = cluster.agents[others[0]].watch_prefix("").unwrap();
    let mut last = seen;
    for _ in 0..20 {
        let lease = soon("a grant of the two", client.acquire("other")).await.unwrap();
        last = lease.token();
        lease.release().await.unwrap();
    }
    let mut watched = 0;
    while watched == 0 {
        let change = soon("a change", watch.next()).await.unwrap();
        if matches!(change.kind, ChangeKind::Granted { token, .. } if token == last) {
            watched = change.index;
        }
    }
    // By will, and the survivor doesn't know.
    drop(waits);
    held.release().await.unwrap();
    for n in others {
        cluster.agents[n].shutdown().await;
    }
    client.close().await;
    Lost { cluster, survivor, seen, last, watched }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &to);
        } else {
            std::fs::copy(item.path(), to).unwrap();
        }
    }
}

async fn recover(dir: &Path) -> danger::Recovered {
    let found = danger::survey(dir).await.unwrap();
    danger::recover(dir, Recovery::of(found.cluster, Holders::Gone)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_goes_on_and_others_join_it() {
    let Lost { cluster, survivor, seen, last, watched } = lost().await;
    let dir = cluster.data_dir(survivor).unwrap();
    let found = danger::survey(&dir).await.unwrap();
    assert_eq!((found.last_token, found.members.len()), (seen, 3), "it lags");
    assert!(last > seen, "the test's own assumption");
    for n in (0..3).filter(|n| *n != survivor) {
        std::fs::remove_dir_all(cluster.data_dir(n).unwrap()).unwrap();
    }
    let made = recover(&dir).await;
    assert_eq!((made.cluster.generation(), &made.address), (1, &cluster.addresses[survivor]));

    let one = soon("the survivor", cluster.builder(survivor).start()).await.unwrap();
    assert_eq!((one.status().cluster, one.status().members.len()), (made.cluster, 1));
    let refused = danger::survey(&dir).await.unwrap_err();
    assert!(matches!(refused, RecoverError::Storage(_)), "{refused}");
    assert!(refused.to_string().contains("another agent is running"), "{refused}");
    // What it knew of is as it was, and runs out: nobody renews it.
    let held = one.holder("held").await.unwrap().expect("held");
    assert_eq!((held.token, held.waiters), (seen, 1));
    // A watcher that was further than this copy is told so.
    let mut watch = one.watch_prefix("").unwrap().since(watched);
    let told = soon("what holds", watch.next()).await.unwrap();
    assert!(matches!(told.kind, ChangeKind::Present { lagged: true, .. }), "{told:?}");

    // One with the list of founders that it always had, and an empty directory; one by --join, elsewhere.
    let other = (survivor + 1) % 3;
    let two = soon("a founder without its directory", cluster.builder(other).start()).await.unwrap();
    let three = Agent::builder("three")
        .listen(addresses(1).remove(0))
        .join([&made.address])
        .timing(cluster.timing)
        .start_within(Duration::from_secs(30));
    let three = soon("a joiner", three.start()).await.unwrap();
    let all = [&one, &two, &three];
    soon("three voters", async {
        let voters = || three.status().members.iter().filter(|member| member.voter).count();
        while voters() < 3 || all.iter().all(|agent| agent.status().role != MemberRole::Leader) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let lease = soon("a grant", two.acquire("new")).await.unwrap();
    assert!(lease.token() > last, "{} after {last}", lease.token());
    assert!(lease.token() > made.tokens_above);
    let next = soon("what was held", three.acquire("held")).await.unwrap();
    assert!(next.token() > lease.token());
    // Any one of them may go now.
    one.shutdown().await;
    soon("a grant of the other two", three.acquire("newer")).await.unwrap();
    lease.check().unwrap();
    drop((lease, next));
    for agent in [two, three] {
        agent.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_member_is_refused_by_name_and_the_old_majority_mixes_with_nobody() {
    let Lost { mut cluster, survivor, .. } = lost().await;
    let dir = cluster.data_dir(survivor).unwrap();
    let kept = dir.parent().unwrap().join("kept");
    copy(&dir, &kept);
    let made = recover(&dir).await;
    let one = soon("the survivor", cluster.builder(survivor).start()).await.unwrap();
    let old: Vec<usize> = (0..3).filter(|n| *n != survivor).collect();
    // One old member alone hears of no leader, and of the recovered one why.
    let refused = soon("the refusal", cluster.builder(old[0]).start()).await.unwrap_err();
    assert!(matches!(refused, StartError::NotListed { .. }), "{refused}");
    for says in ["of generation 0", "generation 1", &made.cluster.to_string(), "move its data directory away"]
    {
        assert!(refused.to_string().contains(says), "{says}: {refused}");
    }
    // Two of them were not lost after all: they go on by themselves.
    let starts = old.iter().map(|n| cluster.builder(*n).start());
    let again = soon("the old majority", futures_util::future::try_join_all(starts)).await.unwrap();
    assert!(again.iter().all(|agent| agent.status().cluster.generation() == 0));
    let theirs = soon("their grant", again[0].acquire("x")).await.unwrap();
    let ours = soon("the recovered one's grant", one.acquire("x")).await.unwrap();
    assert!(ours.token() > theirs.token(), "a fence that has seen ours refuses theirs");
    // A client of the one gets no answer from the others.
    let addresses = [&cluster.addresses[survivor], &cluster.addresses[old[0]]];
    let client = Client::builder("c").agents(addresses).connect().await.unwrap();
    assert_eq!(client.status().await.unwrap().cluster, made.cluster);
    client.close().await;
    assert_eq!((again[0].status().members.len(), one.status().members.len()), (3, 1));
    drop((theirs, ours));
    one.shutdown().await;
    for agent in &again {
        agent.shutdown().await;
    }
    // The member that was recovered, as it was before: one of the old ones.
    std::fs::rename(&dir, dir.with_extension("recovered")).unwrap();
    std::fs::rename(&kept, &dir).unwrap();
    cluster.start_all().await;
    soon("a grant of the three", cluster.agents[survivor].acquire("x")).await.unwrap();
    cluster.stop_all().await;
}

/// The handshake of one generation with another, by real agents and a joiner that belongs to the newer one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_done_twice_and_each_generation_refuses_those_before() {
    let cluster = Cluster::durable(1).await;
    let dir = cluster.data_dir(0).unwrap();
    let joiner = |dir: &Path, address: &str| {
        Agent::builder("joiner")
            .listen(address)
            .join([&cluster.addresses[0]])
            .timing(Timing { ttl: Duration::from_secs(2), ..Timing::fast_lan() })
            .data_dir(dir)
            .start_within(Duration::from_secs(30))
    };
    let folder = tempfile::tempdir().unwrap();
    let address = addresses(1).remove(0);
    let first = soon("a joiner", joiner(folder.path(), &address).start()).await.unwrap();
    let lease = soon("a grant", first.acquire("x")).await.unwrap();
    let mut last = lease.token();
    drop(lease);
    first.shutdown().await;
    cluster.agents[0].shutdown().await;
    for generation in 1..=2 {
        let made = recover(&dir).await;
        assert_eq!(made.cluster.generation(), generation);
        let again = soon("the recovered one", cluster.builder(0).start()).await.unwrap();
        let refused = soon("the refusal", joiner(folder.path(), &address).start()).await.unwrap_err();
        assert!(refused.to_string().contains(&format!("generation {generation}")), "{refused}");
        let lease = soon("a grant", again.acquire("x")).await.unwrap();
        assert!(lease.token() > last);
        last = lease.token();
        again.shutdown().await;
    }
    // Its directory moved away, it is welcome.
    let again = soon("the recovered one", cluster.builder(0).start()).await.unwrap();
    let empty = tempfile::tempdir().unwrap();
    let new = soon("a new member", joiner(empty.path(), &address).start()).await.unwrap();
    until("its copy", || new.status().members.len() == 2).await;
    new.shutdown().await;
    again.shutdown().await;
}
