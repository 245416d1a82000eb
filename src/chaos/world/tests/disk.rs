//! What a simulated disk has kept, whatever happened to it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;

use super::*;
use crate::{
    chaos::world::disk::DiskFault,
    id::NodeId,
    name::AgentName,
    runtime::{self, sleep},
    storage::{Journal as _, StorageError},
};

const MS: Duration = Duration::from_millis(1);

/// How a machine ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Kill,
    PowerCut,
}

/// What was found after a machine ended in the middle of its work.
struct Found {
    /// So many entries had been acknowledged,
    acknowledged: u64,
    /// so many were asked for,
    asked: u64,
    /// and so many are there.
    there: u64,
}

const ENTRIES_PER_APPEND: u64 = 4;

fn entry(index: u64) -> (u64, Bytes) {
    (index, Bytes::from(format!("entry {index}")))
}

/// Appends as fast as it is acknowledged, and twice as fast now and then, until the machine ends.
async fn interrupted(bare: &Bare, kernel: &Kernel, after: Duration, end: End) -> Found {
    let node = kernel.add_machine();
    let acknowledged = Arc::new(Mutex::new(0));
    let asked = Rc::new(Cell::new(0));
    let (disk, told, counted) = (bare.disk.clone(), acknowledged.clone(), asked.clone());
    kernel.spawn(kernel.place(node), async move {
        let (journal, _) = DiskJournal::open(&disk).unwrap();
        loop {
            for _ in 0..=runtime::random_u64() % 3 {
                let first = counted.get();
                let last = first + ENTRIES_PER_APPEND;
                counted.set(last);
                let told = told.clone();
                let done = move |outcome: std::io::Result<()>| {
                    if outcome.is_ok() {
                        let before = std::mem::replace(&mut *told.lock().unwrap(), last);
                        assert!(before < last, "out of order");
                    }
                };
                let _ = journal.append((first..last).map(entry).collect(), Box::new(done)).await;
            }
            let _ = journal.save_vote(Bytes::from_static(b"vote")).await;
        }
    });
    sleep(after).await;
    kernel.kill(node);
    if end == End::PowerCut {
        bare.disk.cut_power();
    }
    let (_, recovered) = DiskJournal::open(&bare.disk).unwrap();
    let whole: Vec<_> = (0..recovered.entries.len() as u64).map(entry).collect();
    assert_eq!(recovered.entries, whole, "what is there is a beginning of what was asked for");
    let acknowledged = *acknowledged.lock().unwrap();
    Found { acknowledged, asked: asked.get(), there: whole.len() as u64 }
}

/// All that was found over many seeds, at moments that differ by seed.
fn over_seeds(end: End, prepare: impl Fn(&Bare)) -> Vec<Found> {
    let all = RefCell::new(Vec::new());
    let at = Cell::new(0);
    with_seeds(0..300, |bare, kernel| {
        at.set(at.get() + 1);
        let (after, all) = (Duration::from_micros(60_000 + 97 * at.get()), &all);
        prepare(&bare);
        async move {
            let found = interrupted(&bare, &kernel, after, end).await;
            all.borrow_mut().push(found);
        }
    });
    all.into_inner()
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash_and_so_is_what_was_written() {
    let all = over_seeds(End::Kill, |_| {});
    assert!(all.iter().all(|found| found.acknowledged <= found.there && found.there <= found.asked));
    assert!(all.iter().all(|found| found.there.is_multiple_of(ENTRIES_PER_APPEND)), "a crash tears nothing");
    assert!(all.iter().any(|found| found.acknowledged < found.there), "the system kept what it had");
    assert!(all.iter().any(|found| found.there < found.asked), "what was queued died with the process");
    assert!(all.iter().all(|found| found.acknowledged > 0));
}

#[test]
fn what_was_acknowledged_is_there_after_a_power_cut_and_the_rest_may_be_torn() {
    let all = over_seeds(End::PowerCut, |_| {});
    assert!(all.iter().all(|found| found.acknowledged <= found.there && found.there <= found.asked));
    assert!(all.iter().any(|found| !found.there.is_multiple_of(ENTRIES_PER_APPEND)), "some appends are torn");
    assert!(all.iter().any(|found| found.acknowledged < found.there));
    assert!(all.iter().any(|found| found.there < found.asked));
}

#[test]
fn a_flipped_bit_ends_what_is_recovered_and_touches_nothing_acknowledged() {
    let kept = |all: &[Found]| all.iter().map(|found| found.there - found.acknowledged).sum::<u64>();
    let flipped = over_seeds(End::PowerCut, |bare| bare.disk.fault(DiskFault::Flip(0.5)));
    assert!(flipped.iter().all(|found| found.acknowledged <= found.there));
    assert!(kept(&flipped) < kept(&over_seeds(End::PowerCut, |_| {})));
    let all_flipped = over_seeds(End::PowerCut, |bare| bare.disk.fault(DiskFault::Flip(1.0)));
    assert_eq!(kept(&all_flipped), 0);
}

/// Without this the tests above would not see what they look for.
#[test]
fn a_disk_that_lies_loses_what_was_acknowledged_when_the_power_goes_and_only_then() {
    let lie = |bare: &Bare| bare.disk.fault(DiskFault::Lie(true));
    let lost = over_seeds(End::PowerCut, lie);
    assert!(lost.iter().filter(|found| found.there < found.acknowledged).count() > 200);
    assert!(over_seeds(End::Kill, lie).iter().all(|found| found.acknowledged <= found.there));
}

#[test]
fn a_failed_write_is_final_until_the_disk_is_opened_anew() {
    with_seeds(0..20, |bare, _| async move {
        let (journal, _) = DiskJournal::open(&bare.disk).unwrap();
        journal.save_vote(Bytes::from_static(b"1")).await.unwrap();
        bare.disk.fault(DiskFault::Full(true));
        let failed = journal.save_vote(Bytes::from_static(b"2")).await.unwrap_err();
        assert_eq!(failed.kind(), std::io::ErrorKind::StorageFull);
        bare.disk.fault(DiskFault::Heal);
        assert!(journal.save_vote(Bytes::from_static(b"3")).await.is_err());
        assert!(journal.failed().unwrap().contains("full"));
        let (journal, recovered) = DiskJournal::open(&bare.disk).unwrap();
        assert_eq!(recovered.vote.unwrap(), "1");
        journal.save_vote(Bytes::from_static(b"4")).await.unwrap();
        bare.disk.fault(DiskFault::Fail(1.0));
        assert!(journal.save_vote(Bytes::from_static(b"5")).await.is_err());
        bare.disk.fault(DiskFault::Rot(true));
        let rotten = DiskJournal::open(&bare.disk).map(|_| ()).unwrap_err();
        assert!(matches!(rotten, StorageError::Corrupted { .. }), "{rotten}");
        bare.disk.fault(DiskFault::Heal);
        DiskJournal::open(&bare.disk).map(|_| ()).unwrap();
    });
}

#[test]
fn an_opening_ends_the_one_before() {
    with_seeds(0..3, |bare, _| async move {
        let (old, _) = DiskJournal::open(&bare.disk).unwrap();
        let (new, _) = DiskJournal::open(&bare.disk).unwrap();
        assert!(old.save_vote(Bytes::from_static(b"old")).await.is_err());
        assert!(old.load_snapshot().await.is_err());
        new.save_vote(Bytes::from_static(b"new")).await.unwrap();
        let (_, recovered) = DiskJournal::open(&bare.disk).unwrap();
        assert_eq!(recovered.vote.unwrap(), "new");
    });
}

#[test]
fn a_slow_disk_is_slow_and_a_stall_is_once() {
    with_seeds(0..3, |bare, kernel| async move {
        let (journal, _) = DiskJournal::open(&bare.disk).unwrap();
        let took = async |fault| {
            bare.disk.fault(fault);
            let began = kernel.clocks().now();
            for _ in 0..10 {
                journal.save_vote(Bytes::from_static(b"x")).await.unwrap();
            }
            Duration::from_nanos(kernel.clocks().now() - began)
        };
        let (usual, stalled) = (took(DiskFault::Heal).await, took(DiskFault::Stall(700 * MS)).await);
        let slow = took(DiskFault::Slow(100)).await;
        assert!(usual < 600 * MS && stalled > 700 * MS && stalled < 1_300 * MS, "{usual:?} {stalled:?}");
        assert!(slow > 200 * MS, "{slow:?}");
        // A stall is over when the disk is replaced, and not before.
        let disk = bare.disk.clone();
        disk.fault(DiskFault::Stall(60 * 1_000 * MS));
        let heals = async {
            crate::runtime::sleep(900 * MS).await;
            disk.fault(DiskFault::Heal);
        };
        let began = kernel.clocks().now();
        let (saved, ()) = tokio::join!(journal.save_vote(Bytes::from_static(b"x")), heals);
        saved.unwrap();
        let took = Duration::from_nanos(kernel.clocks().now() - began);
        assert!(took >= 900 * MS && took < 1_300 * MS, "{took:?}");
    });
}

#[test]
fn an_identity_is_given_once() {
    with_seeds(0..2, |bare, _| async move {
        let name = AgentName::new("a").unwrap();
        let first = bare.disk.identity(&name, NodeId::from_bits(1));
        let kept = crate::storage::Identity { founding: Bytes::from_static(b"plan"), ..first.clone() };
        bare.disk.save_identity(&kept).unwrap();
        bare.disk.cut_power();
        assert_eq!(bare.disk.identity(&name, NodeId::from_bits(2)), kept);
        bare.disk.fault(DiskFault::Full(true));
        assert!(bare.disk.save_identity(&first).is_err());
        assert_eq!(bare.disk.identity(&name, NodeId::from_bits(2)), kept);
    });
}
