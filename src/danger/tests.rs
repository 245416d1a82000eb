use std::{
    fs,
    sync::{Mutex, PoisonError},
};

use super::*;
use crate::{Agent, Client, InProcessNetwork, Timing, limits::FORCED_INDEX_STEP, storage::tests::copy};

/// A stopped agent's directory, in which one client holds a lease of this ttl and another one waits for it.
async fn stopped(ttl: Duration) -> (tempfile::TempDir, Survey) {
    let folder = tempfile::tempdir().unwrap();
    let network = InProcessNetwork::new(1);
    let agent = Agent::builder("a")
        .listen("a:7101")
        .founders(["a:7101"])
        .network(&network)
        .timing(Timing::fast_lan())
        .data_dir(folder.path());
    let agent = agent.start().await.unwrap();
    let connect = |name: &str| Client::builder(name).agents(["a:7101"]).network(&network).connect();
    let (holder, waiter) = (connect("holder").await.unwrap(), connect("waiter").await.unwrap());
    for _ in 0..3 {
        agent.acquire("y").await.unwrap().release().await.unwrap();
    }
    let held = holder.lease("x").ttl(ttl).acquire().await.unwrap();
    let mut waits = Box::pin(waiter.lease("x").ttl(ttl).acquire());
    while agent.holder_local("x").unwrap().is_none_or(|held| held.waiters == 0) {
        assert!(runtime::timeout(Duration::from_millis(5), &mut waits).await.is_err());
    }
    let refused = survey(folder.path()).await.unwrap_err();
    assert!(matches!(refused, RecoverError::Storage(StorageError::Locked { .. })), "{refused}");
    agent.shutdown().await;
    let found = survey(folder.path()).await.unwrap();
    assert_eq!((found.leases, found.waiters, found.last_token), (1, 1, held.token()));
    (folder, found)
}

fn gone(found: &Survey) -> Recovery {
    Recovery::of(found.cluster, Holders::Gone)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovered_directory_has_what_it_had_under_the_next_generation() {
    let (folder, before) = stopped(Duration::from_secs(60)).await;
    assert_eq!((before.cluster.generation(), before.agent.as_str()), (0, "a"));
    assert_eq!(before.longest_ttl, Duration::from_secs(60));
    assert!(before.committed_index <= before.last_index && before.term > 0, "{before:?}");
    let mut before = before;
    for generation in 1..=2 {
        let made = recover(folder.path(), gone(&before)).await.unwrap();
        assert_eq!(made.cluster.generation(), generation);
        assert!(made.cluster.has_founding_of(before.cluster));
        assert_eq!(made.address, "a:7101");
        assert!(made.tokens_above > before.last_token);
        let kept = survey(&made.kept).await.unwrap();
        assert_eq!(kept, before, "the old content is kept as it was");
        let after = survey(folder.path()).await.unwrap();
        let expected = Survey {
            cluster: made.cluster,
            term: before.term + 1,
            last_term: before.term + 1,
            last_index: before.last_index + FORCED_INDEX_STEP,
            committed_index: before.last_index + FORCED_INDEX_STEP,
            last_token: made.tokens_above,
            ..before.clone()
        };
        assert_eq!(after, expected);
        before = after;
    }
    // By its old name it is found no more.
    let refused = recover(folder.path(), Recovery::of(ClusterId::from_bits(5), Holders::Gone)).await;
    assert!(matches!(&refused, Err(RecoverError::OtherCluster { .. })), "{refused:?}");
}

/// What a process that is killed at some step leaves, for each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_a_recovery_ends_the_old_content_is_there_or_the_new() {
    let (folder, before) = stopped(Duration::from_secs(60)).await;
    let copies = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (from, to, told) = (folder.path().to_owned(), copies.path().to_owned(), seen.clone());
    let step: Step = Box::new(move |what| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        copy(&from, &to.join(told.len().to_string()));
        told.push(what.to_owned());
        Ok(())
    });
    let made = recover_by(folder.path().to_owned(), gone(&before), step).await.unwrap();
    let after = survey(folder.path()).await.unwrap();
    let steps = seen.lock().unwrap().clone();
    let decided = steps.iter().position(|what| what == "sync the directory").unwrap();
    assert!(steps.len() >= decided + 7, "{steps:?}");
    for (at, what) in steps.iter().enumerate() {
        let path = copies.path().join(at.to_string());
        let expected = if at < decided { &before } else { &after };
        for _ in 0..2 {
            assert_eq!(&survey(&path).await.unwrap(), expected, "killed at step {at}, {what}");
        }
        let left: Vec<_> = fs::read_dir(&path).unwrap().map(|item| item.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("successor")), "{left:?}");
        // An agent may be started there, or the recovery be tried again.
        let again = recover(&path, gone(expected)).await.unwrap();
        assert_eq!(again.cluster.generation(), expected.cluster.generation() + 1);
    }
    assert_eq!(after.cluster, made.cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_fails_at_any_step_says_so_and_can_be_tried_again() {
    let (folder, before) = stopped(Duration::from_secs(60)).await;
    for fails_at in 0.. {
        let mut steps = 0;
        let step: Step = Box::new(move |_| {
            steps += 1;
            if steps > fails_at { Err(io::Error::other("no room left")) } else { Ok(()) }
        });
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("d");
        copy(folder.path(), &path);
        match recover_by(path.clone(), gone(&before), step).await {
            Ok(made) => {
                assert_eq!((made.cluster.generation(), fails_at > 10), (1, true));
                break;
            }
            Err(error) => assert!(error.to_string().contains("no room left"), "{error}"),
        }
        let found = survey(&path).await.unwrap();
        assert!(found.cluster.generation() <= 1 && found.leases == 1, "{found:?}");
        recover(&path, gone(&found)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_members_directory_is_refused_by_name_and_left_alone() {
    let empty = tempfile::tempdir().unwrap();
    let refused = survey(empty.path()).await.unwrap_err();
    assert!(matches!(refused, RecoverError::Storage(StorageError::Missing { .. })), "{refused}");
    assert!(refused.to_string().contains("no member's data directory"), "{refused}");
    let nowhere = survey(empty.path().join("nowhere")).await.unwrap_err();
    assert!(nowhere.to_string().contains("nowhere"), "{nowhere}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);

    fs::write(empty.path().join("thesis.tex"), "years of work").unwrap();
    let refused = survey(empty.path()).await.unwrap_err();
    assert!(matches!(refused, RecoverError::Storage(StorageError::Foreign { .. })), "{refused}");
    assert!(refused.to_string().contains("thesis.tex"), "{refused}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 1);

    // A founder that has promised itself and never heard of its cluster.
    let early = tempfile::tempdir().unwrap();
    let directory = Arc::new(DataDir::open(early.path()).unwrap());
    directory.load_or_create(NodeId::from_bits(7), &AgentName::new("a").unwrap()).unwrap();
    drop(DiskJournal::open(&directory, &Options::default()).unwrap().0.close().await);
    drop(directory);
    let refused = survey(early.path()).await.unwrap_err();
    assert!(matches!(refused, RecoverError::NotFounded { .. }), "{refused}");

    let (folder, found) = stopped(Duration::from_secs(60)).await;
    let identity = folder.path().join("identity");
    let good = fs::read(&identity).unwrap();
    let mut bad = good.clone();
    bad[20] ^= 1;
    fs::write(&identity, bad).unwrap();
    let refused = recover(folder.path(), gone(&found)).await.unwrap_err();
    assert!(refused.to_string().contains("identity\" is damaged"), "{refused}");
    fs::write(&identity, good).unwrap();
    fs::rename(folder.path().join("log"), folder.path().join("log.away")).unwrap();
    let refused = recover(folder.path(), gone(&found)).await.unwrap_err();
    assert!(matches!(refused, RecoverError::Storage(StorageError::Missing { .. })), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tokens_rest_on_is_looked_at() {
    let (folder, found) = stopped(Duration::from_secs(60)).await;
    let below = gone(&found).tokens_above(Token::new(found.last_token.get() - 1));
    let refused = recover(folder.path(), below).await.unwrap_err();
    assert!(matches!(refused, RecoverError::TokensBelow { .. }), "{refused}");
    // A cluster whose clock stood in the future.
    let future = Token::new(u64::MAX / 2);
    let made = recover(folder.path(), gone(&found).tokens_above(future)).await.unwrap();
    assert_eq!(made.tokens_above, future);
    let found = survey(folder.path()).await.unwrap();
    let refused = recover(folder.path(), gone(&found)).await.unwrap_err();
    assert!(matches!(refused, RecoverError::ClockBehind { .. }), "{refused}");
    assert!(refused.to_string().contains("set this machine's clock right"), "{refused}");
    assert_eq!(survey(folder.path()).await.unwrap(), found);
    recover(folder.path(), gone(&found).tokens_above(future)).await.unwrap();
    let found = survey(folder.path()).await.unwrap();
    let refused = recover(folder.path(), gone(&found).tokens_above(future).advertise("nowhere")).await;
    assert!(matches!(&refused, Err(RecoverError::Address { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_are_waited_out_and_not_for_less_than_is_known_of() {
    let ttl = Duration::from_secs(1);
    let (folder, found) = stopped(ttl).await;
    let short = Holders::WaitOut(ttl - Duration::from_millis(1));
    let refused = recover(folder.path(), Recovery::of(found.cluster, short)).await.unwrap_err();
    assert!(matches!(refused, RecoverError::SpanTooShort { .. }), "{refused}");
    // Given up meanwhile, nothing has happened.
    let waits = recover(folder.path(), Recovery::of(found.cluster, Holders::WaitOut(ttl)));
    assert!(runtime::timeout(ttl / 4, waits).await.is_err());
    assert_eq!(survey(folder.path()).await.unwrap(), found);
    let began = SystemClock.now();
    let made = recover(folder.path(), Recovery::of(found.cluster, Holders::WaitOut(ttl))).await.unwrap();
    assert!(SystemClock.now().since(began) >= ttl);
    assert_eq!(made.cluster.generation(), 1);
}
