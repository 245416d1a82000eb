//! One suite for all implementations.

use super::*;
use crate::limits::{ENTRY_BYTES_MAX, PURGE_KEYS_MAX, STORAGE_QUEUE_MAX};

macro_rules! on_all {
    ($($name:ident),* $(,)?) => {
        mod on_disk {
            $(#[tokio::test] async fn $name() { super::$name(super::Subject::disk()).await; })*
        }
        mod in_memory {
            $(#[tokio::test] async fn $name() { super::$name(super::Subject::memory()).await; })*
        }
        #[cfg(feature = "chaos")]
        mod simulated {
            $(#[test] fn $name() {
                crate::chaos::world::tests::in_simulations(|bare| async {
                    super::$name(super::Subject::simulated(bare)).await;
                });
            })*
        }
    };
}

on_all!(
    an_empty_journal_is_empty_again,
    what_was_written_is_read_back,
    callbacks_come_in_the_order_of_the_calls,
    entries_of_every_size,
    hundreds_of_groups,
    a_hole_is_refused_and_the_journal_goes_on,
    a_truncation_at_every_place,
    truncated_entries_never_come_back,
    a_truncation_between_appends_of_one_group,
    purged_entries_are_gone_and_the_rest_stays,
    a_purge_inside_a_record,
    a_purge_beyond_the_end,
    a_purge_below_an_older_one_does_nothing,
    purged_and_truncated_to_nothing,
    a_first_entry_at_any_index,
    the_last_vote_wins,
    committed_rides_along,
    a_snapshot_is_replaced,
    a_closed_journal_accepts_nothing,
    random_calls_against_a_naive_twin,
);

async fn an_empty_journal_is_empty_again(mut subject: Subject) {
    for _ in 0..3 {
        let (journal, recovered) = subject.reopen().await;
        assert_eq!(recovered, Recovered::default());
        assert_eq!(journal.load_snapshot().await.unwrap(), None);
        assert_eq!(journal.failed(), None);
    }
}

async fn what_was_written_is_read_back(mut subject: Subject) {
    let journal = subject.journal();
    append(&*journal, entries(0..10, 1)).await.unwrap();
    journal.save_vote(bytes("vote")).await.unwrap();
    append(&*journal, vec![]).await.unwrap();
    append(&*journal, entries(10..12, 2)).await.unwrap();
    let (journal, recovered) = subject.reopen().await;
    let mut all = entries(0..10, 1);
    all.extend(entries(10..12, 2));
    assert_eq!(recovered.entries, all);
    assert_eq!(recovered.vote, Some(bytes("vote")));
    // And it goes on from there.
    append(&*journal, entries(12..13, 2)).await.unwrap();
    all.extend(entries(12..13, 2));
    assert_eq!(subject.reopen().await.1.entries, all);
}

async fn callbacks_come_in_the_order_of_the_calls(subject: Subject) {
    let journal = subject.journal();
    let (tell, told) = mpsc::channel();
    for index in 0..500 {
        let tell = tell.clone();
        let done = Box::new(move |outcome: io::Result<()>| tell.send((index, outcome.is_ok())).unwrap());
        journal.append(entries(index..index + 1, 1), done).await.unwrap();
    }
    journal.save_vote(bytes("after all")).await.unwrap();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), (0..500).map(|i| (i, true)).collect::<Vec<_>>());
}

async fn entries_of_every_size(mut subject: Subject) {
    let sizes = [0, 1, 4_079, 4_080, 4_084, 4_085, 9_000, ENTRY_BYTES_MAX, 100_000, 3];
    let given: Vec<_> =
        sizes.iter().enumerate().map(|(at, size)| (at as u64, Bytes::from(vec![at as u8; *size]))).collect();
    append(&*subject.journal(), given.clone()).await.unwrap();
    let (journal, recovered) = subject.reopen().await;
    assert_eq!(recovered.entries, given);
    // A truncation takes all parts of a large one away.
    journal.truncate_after(Some(7)).await.unwrap();
    append(&*journal, entries(8..9, 2)).await.unwrap();
    let (_, recovered) = subject.reopen().await;
    assert_eq!(recovered.entries[..8], given[..8]);
    assert_eq!(recovered.entries[8..], entries(8..9, 2));
}

async fn hundreds_of_groups(mut subject: Subject) {
    let mut index = 0;
    for round in 0..3 {
        let journal = subject.journal();
        for group in 0..150 {
            append(&*journal, entries(index..index + group % 7, round)).await.unwrap();
            index += group % 7;
        }
        let recovered = subject.reopen().await.1;
        assert_eq!(recovered.entries.len() as u64, index);
        assert!(recovered.entries.iter().enumerate().all(|(at, (index, _))| at as u64 == *index));
    }
}

async fn a_hole_is_refused_and_the_journal_goes_on(mut subject: Subject) {
    let journal = subject.journal();
    append(&*journal, entries(0..3, 1)).await.unwrap();
    for wrong in [4..5, 2..4, 0..1] {
        let error = append(&*journal, entries(wrong, 9)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
    let mut gap = entries(3..4, 9);
    gap.extend(entries(5..6, 9));
    assert_eq!(append(&*journal, gap).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(journal.failed(), None);
    append(&*journal, entries(3..4, 1)).await.unwrap();
    assert_eq!(subject.reopen().await.1.entries, entries(0..4, 1));
}

async fn a_truncation_at_every_place(mut subject: Subject) {
    for place in 0..12 {
        let journal = subject.journal();
        journal.truncate_after(None).await.unwrap();
        // Two records of several entries each.
        append(&*journal, entries(0..6, 1)).await.unwrap();
        append(&*journal, entries(6..12, 1)).await.unwrap();
        journal.truncate_after(Some(place)).await.unwrap();
        let (journal, recovered) = subject.reopen().await;
        assert_eq!(recovered.entries, entries(0..place + 1, 1));
        append(&*journal, entries(place + 1..14, 2)).await.unwrap();
        let (_, recovered) = subject.reopen().await;
        let mut all = entries(0..place + 1, 1);
        all.extend(entries(place + 1..14, 2));
        assert_eq!(recovered.entries, all);
    }
}

async fn truncated_entries_never_come_back(mut subject: Subject) {
    let journal = subject.journal();
    append(&*journal, entries(0..200, 1)).await.unwrap();
    journal.truncate_after(None).await.unwrap();
    assert_eq!(subject.reopen().await.1.entries, []);
    let journal = subject.journal();
    append(&*journal, entries(0..2, 2)).await.unwrap();
    // Beyond the end there is nothing to truncate.
    journal.truncate_after(Some(50)).await.unwrap();
    assert_eq!(subject.reopen().await.1.entries, entries(0..2, 2));
}

async fn a_truncation_between_appends_of_one_group(mut subject: Subject) {
    let journal = subject.journal();
    append(&*journal, entries(0..4, 1)).await.unwrap();
    let mut answers = Vec::new();
    let mut call = async |range: std::ops::Range<u64>, term| {
        let (done, told) = answer();
        journal.append(entries(range, term), done).await.unwrap();
        answers.push(told);
    };
    call(4..9, 1).await;
    call(9..12, 1).await;
    let cut = journal.truncate_after(Some(6));
    cut.await.unwrap();
    call(7..10, 2).await;
    journal.truncate_after(Some(8)).await.unwrap();
    call(9..10, 3).await;
    journal.save_vote(bytes("v")).await.unwrap();
    assert!(answers.iter().all(|told| told.try_recv().unwrap().is_ok()));
    let mut all = entries(0..7, 1);
    all.extend(entries(7..9, 2));
    all.extend(entries(9..10, 3));
    assert_eq!(subject.reopen().await.1.entries, all);
}

async fn purged_entries_are_gone_and_the_rest_stays(mut subject: Subject) {
    let journal = subject.journal();
    // More keys than one slice takes.
    let many = PURGE_KEYS_MAX as u64 * 5;
    for index in 0..many {
        append(&*journal, entries(index..index + 1, 1)).await.unwrap();
    }
    journal.purge(many - 3, bytes("mark")).await.unwrap();
    append(&*journal, entries(many..many + 1, 1)).await.unwrap();
    for _ in 0..2 {
        let (_, recovered) = subject.reopen().await;
        assert_eq!(recovered.purged, Some((many - 3, bytes("mark"))));
        assert_eq!(recovered.entries, entries(many - 2..many + 1, 1));
    }
    let error = subject.journal().truncate_after(Some(5)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
}

async fn a_purge_inside_a_record(mut subject: Subject) {
    append(&*subject.journal(), entries(0..20, 1)).await.unwrap();
    for upto in [4, 5, 11] {
        subject.journal().purge(upto, bytes("m")).await.unwrap();
        let (_, recovered) = subject.reopen().await;
        assert_eq!(recovered.entries, entries(upto + 1..20, 1));
    }
    let journal = subject.journal();
    journal.truncate_after(Some(15)).await.unwrap();
    append(&*journal, entries(16..17, 2)).await.unwrap();
    let mut all = entries(12..16, 1);
    all.extend(entries(16..17, 2));
    assert_eq!(subject.reopen().await.1.entries, all);
}

async fn a_purge_beyond_the_end(mut subject: Subject) {
    let journal = subject.journal();
    append(&*journal, entries(0..5, 1)).await.unwrap();
    journal.purge(99, bytes("from a snapshot")).await.unwrap();
    assert!(append(&*journal, entries(5..6, 1)).await.is_err());
    assert!(append(&*journal, entries(101..102, 1)).await.is_err());
    append(&*journal, entries(100..103, 2)).await.unwrap();
    let (_, recovered) = subject.reopen().await;
    assert_eq!(recovered.purged, Some((99, bytes("from a snapshot"))));
    assert_eq!(recovered.entries, entries(100..103, 2));
}

async fn a_purge_below_an_older_one_does_nothing(mut subject: Subject) {
    let journal = subject.journal();
    append(&*journal, entries(0..9, 1)).await.unwrap();
    journal.purge(5, bytes("five")).await.unwrap();
    journal.purge(3, bytes("three")).await.unwrap();
    let (_, recovered) = subject.reopen().await;
    assert_eq!((recovered.purged, recovered.entries), (Some((5, bytes("five"))), entries(6..9, 1)));
}

async fn purged_and_truncated_to_nothing(mut subject: Subject) {
    let journal = subject.journal();
    append(&*journal, entries(0..9, 1)).await.unwrap();
    journal.purge(3, bytes("m")).await.unwrap();
    journal.truncate_after(Some(3)).await.unwrap();
    assert_eq!(subject.reopen().await.1.entries, []);
    let journal = subject.journal();
    assert!(append(&*journal, entries(0..1, 2)).await.is_err());
    append(&*journal, entries(4..6, 2)).await.unwrap();
    journal.truncate_after(None).await.unwrap();
    let (_, recovered) = subject.reopen().await;
    assert_eq!((recovered.purged, recovered.entries), (Some((3, bytes("m"))), vec![]));
}

async fn a_first_entry_at_any_index(mut subject: Subject) {
    append(&*subject.journal(), entries(41..43, 1)).await.unwrap();
    let (journal, recovered) = subject.reopen().await;
    assert_eq!(recovered.entries, entries(41..43, 1));
    assert!(append(&*journal, entries(0..1, 1)).await.is_err());
    journal.truncate_after(Some(7)).await.unwrap();
    append(&*journal, entries(3..4, 1)).await.unwrap();
    assert_eq!(subject.reopen().await.1.entries, entries(3..4, 1));
}

async fn the_last_vote_wins(mut subject: Subject) {
    for round in 0..20 {
        subject.journal().save_vote(bytes(format!("{round}"))).await.unwrap();
    }
    assert_eq!(subject.reopen().await.1.vote, Some(bytes("19")));
}

async fn committed_rides_along(mut subject: Subject) {
    let journal = subject.journal();
    journal.save_committed(bytes("1")).await.unwrap();
    journal.save_vote(bytes("v")).await.unwrap();
    assert_eq!(subject.reopen().await.1.committed, Some(bytes("1")));
    // Closing is a write as well.
    subject.journal().save_committed(bytes("2")).await.unwrap();
    assert_eq!(subject.reopen().await.1.committed, Some(bytes("2")));
}

async fn a_snapshot_is_replaced(mut subject: Subject) {
    for round in 0..4u8 {
        let data = Bytes::from(vec![round; 1_000_000 * usize::from(round)]);
        let journal = subject.journal();
        journal.save_snapshot(bytes([round]), data.clone()).await.unwrap();
        assert_eq!(journal.load_snapshot().await.unwrap(), Some((bytes([round]), data.clone())));
        let (journal, recovered) = subject.reopen().await;
        assert_eq!(recovered.snapshot, Some((bytes([round]), data.clone())));
        assert_eq!(journal.load_snapshot().await.unwrap(), Some((bytes([round]), data)));
        if let Subject::Disk(folder, _) = &subject {
            assert_eq!(std::fs::read_dir(folder.path().join("snapshots")).unwrap().count(), 1);
        }
    }
}

async fn a_closed_journal_accepts_nothing(subject: Subject) {
    let journal = subject.journal();
    journal.close().await.unwrap();
    let (done, told) = answer();
    assert!(journal.append(entries(0..1, 1), done).await.is_err());
    assert!(told.try_recv().is_err());
    assert!(journal.save_vote(bytes("v")).await.is_err());
    assert!(journal.save_committed(bytes("v")).await.is_err());
    assert!(journal.truncate_after(None).await.is_err());
    assert!(journal.purge(1, bytes("m")).await.is_err());
    assert!(journal.save_snapshot(bytes("m"), bytes("d")).await.is_err());
    assert!(journal.close().await.is_err());
    assert_eq!(journal.failed(), None);
}

/// What the journal should hold, in the plainest form.
#[derive(Default)]
struct Twin {
    entries: Vec<(u64, Bytes)>,
    purged: Option<(u64, Bytes)>,
    vote: Option<Bytes>,
}

async fn random_calls_against_a_naive_twin(mut subject: Subject) {
    // A small generator with a fixed seed: the run is the same each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut twin = Twin::default();
    for step in 0..1_500 {
        let journal = subject.journal();
        let begin = twin.purged.as_ref().map_or(0, |(upto, _)| upto + 1);
        let end = twin.entries.last().map_or(begin, |(index, _)| index + 1);
        match random(20) {
            0..=11 => {
                let sizes: Vec<_> =
                    (0..random(12)).map(|_| [10, 60, 700, 5_000][random(4) as usize]).collect();
                let new = sizes
                    .iter()
                    .zip(end..)
                    .map(|(size, index)| (index, Bytes::from(vec![step as u8; *size])));
                let new: Vec<_> = new.collect();
                twin.entries.extend(new.iter().cloned());
                append(&*journal, new).await.unwrap();
            }
            12..=13 => {
                let after = begin + random(end - begin + 1);
                twin.entries.retain(|(index, _)| *index < after);
                let last = after.checked_sub(1);
                journal.truncate_after(last).await.unwrap();
            }
            14..=15 => {
                let upto = begin + random(end - begin + 2);
                twin.purged = Some((upto, bytes(format!("{step}"))));
                twin.entries.retain(|(index, _)| *index > upto);
                journal.purge(upto, bytes(format!("{step}"))).await.unwrap();
            }
            16..=17 => {
                twin.vote = Some(bytes(format!("{step}")));
                journal.save_vote(bytes(format!("{step}"))).await.unwrap();
            }
            _ => {
                if random(4) == 0 {
                    let (_, recovered) = subject.reopen().await;
                    assert_eq!(recovered.entries, twin.entries, "step {step}");
                    assert_eq!((recovered.purged, recovered.vote), (twin.purged.clone(), twin.vote.clone()));
                }
            }
        }
    }
}

/// The queue is bounded: an append waits for room instead of growing it.
#[tokio::test]
async fn an_append_waits_for_room_in_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path()).unwrap();
    // A callback that holds the writer up.
    let (let_go, held) = mpsc::channel::<()>();
    let (done, first) = answer();
    let holding: Done = Box::new(move |outcome| {
        done(outcome);
        let _ = held.recv();
    });
    journal.append(entries(0..1, 1), holding).await.unwrap();
    first.recv().unwrap().unwrap();
    let mut index = 1;
    let mut full = false;
    while !full {
        let (done, _) = answer();
        // Without tokio's budget, which makes a call wait now and then for no reason of ours.
        let call = tokio::task::unconstrained(journal.append(entries(index..index + 1, 1), done));
        let mut call = std::pin::pin!(call);
        full = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
        if full {
            assert_eq!(index as usize, STORAGE_QUEUE_MAX + 1);
            let_go.send(()).unwrap();
            call.await.unwrap();
        }
        index += 1;
    }
    journal.close().await.unwrap();
    assert_eq!(open(folder.path()).unwrap().1.entries, entries(0..index, 1));
}

#[tokio::test]
async fn a_journal_that_is_dropped_writes_what_is_queued() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path()).unwrap();
    let (done, told) = answer();
    append(&journal, entries(0..50, 1)).await.unwrap();
    // Alone in its group, and so not written yet.
    journal.save_committed(bytes("b")).await.unwrap();
    drop(journal);
    let (journal, recovered) = open_when_free(folder.path());
    assert_eq!((recovered.entries, recovered.committed), (entries(0..50, 1), Some(bytes("b"))));
    journal.append(entries(50..100, 1), done).await.unwrap();
    journal.save_committed(bytes("c")).await.unwrap();
    drop(journal);
    told.recv().unwrap().unwrap();
    let (_, recovered) = open_when_free(folder.path());
    assert_eq!((recovered.entries, recovered.committed), (entries(0..100, 1), Some(bytes("c"))));
}

/// The thread of a journal that was dropped gives the directory free when it is done.
fn open_when_free(path: &Path) -> (DiskJournal, Recovered) {
    loop {
        match open(path) {
            Err(StorageError::Locked { .. }) => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    }
}
