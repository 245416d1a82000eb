//! Elections: one leader, told to all, and none past its time.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use leasehold::{Client, Leader, Observer};

use crate::fixture::{Cluster, soon, until};

async fn next(observer: &mut Observer) -> Option<Leader> {
    soon("a change of leader", observer.next()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candidates_are_elected_in_turn_and_observed_by_all() {
    let mut cluster = Cluster::in_process(3).await;
    let network = cluster.network.clone().unwrap();
    let client = Client::builder("client").agents(cluster.addresses.clone()).network(&network);
    let client = client.connect().await.unwrap();
    let elections: Vec<_> = cluster.agents.iter().map(|agent| agent.election("office").unwrap()).collect();
    let mut observers: Vec<_> = elections.iter().map(|election| election.observe()).collect();
    observers.push(client.election("office").unwrap().observe());
    for observer in &mut observers {
        assert_eq!(next(observer).await, None);
    }
    let first = elections[0].campaign("at a").await.unwrap();
    assert!(first.is_leader());
    let waiting = tokio::spawn({
        let election = client.election("office").unwrap();
        async move { election.campaign("at the client's").await.unwrap() }
    });
    let leader = elections[1].leader().await.unwrap().unwrap();
    assert_eq!((leader.token, &leader.metadata[..]), (first.token(), &b"at a"[..]));
    for observer in &mut observers {
        let leader = next(observer).await.unwrap();
        assert_eq!((leader.token, &leader.proposal[..]), (first.token(), &b"at a"[..]));
    }
    let mut late = elections[2].observe();
    assert_eq!(next(&mut late).await.map(|leader| leader.token), Some(first.token()));
    // Else the client might still be on its way to the queue.
    while elections[0].leader().await.unwrap().unwrap().waiters == 0 {
        tokio::task::yield_now().await;
    }
    first.resign().await.unwrap();
    let second = soon("the next election", waiting).await.unwrap();
    observers.push(late);
    for observer in &mut observers {
        assert_eq!(next(observer).await, None);
        let leader = next(observer).await.unwrap();
        assert_eq!((leader.token, &leader.proposal[..]), (second.token(), &b"at the client's"[..]));
    }
    second.resign().await.unwrap();
    client.close().await;
    assert_eq!(soon("the end", observers[3].next()).await, None, "the client was closed");
    cluster.stop_all().await;
}

/// `is_leader` is not stale past the deadline: whoever is cut off has stopped leading before the next one begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_stops_leading_before_the_next_leads() {
    let mut cluster = Cluster::in_process(3).await;
    let old = cluster.agents[0].election("office").unwrap().campaign("").await.unwrap();
    let next = tokio::spawn({
        let election = cluster.agents[1].election("office").unwrap();
        async move { election.campaign("").await.unwrap() }
    });
    cluster.network.as_ref().unwrap().isolate(&cluster.addresses[0]);
    let new = soon("the next election", next).await.unwrap();
    assert!(!old.is_leader() && new.is_leader() && new.token() > old.token());
    let lost = soon("word of the loss", old.lost()).await;
    assert_eq!(lost.token, old.token());
    cluster.network.as_ref().unwrap().rejoin(&cluster.addresses[0]);
    drop((old, new));
    cluster.stop_all().await;
}

/// Work is dropped when leadership is lost, begun anew when it is won again, and resigns when it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_done_while_leading() {
    let mut cluster = Cluster::in_process(3).await;
    let begun = Arc::new(AtomicU32::new(0));
    let (election, counting) = (cluster.agents[0].election("office").unwrap(), begun.clone());
    let working = tokio::spawn(async move {
        election
            .lead_while("", |_| {
                let before = counting.fetch_add(1, Ordering::SeqCst);
                async move {
                    if before == 0 {
                        std::future::pending::<()>().await;
                    }
                    before
                }
            })
            .await
    });
    until("the work's beginning", || begun.load(Ordering::SeqCst) == 1).await;
    let network = cluster.network.as_ref().unwrap();
    network.isolate(&cluster.addresses[0]);
    let other =
        soon("another leader", cluster.agents[1].election("office").unwrap().campaign("")).await.unwrap();
    network.rejoin(&cluster.addresses[0]);
    other.resign().await.unwrap();
    assert_eq!(soon("the work", working).await.unwrap().unwrap(), 1);
    assert_eq!(cluster.agents[2].election("office").unwrap().leader().await.unwrap(), None);
    cluster.stop_all().await;
}
