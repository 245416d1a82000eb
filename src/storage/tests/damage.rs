//! Directories that are damaged, foreign or in use: a clear error each, and never an empty start.

use super::*;
use crate::{
    AgentName, ClusterId, NodeId,
    codec::FORMAT_VERSION,
    storage::{
        DataDir, Identity,
        engine::Engine,
        record::{self, Record, Span},
    },
};

/// A directory with a log, a vote and a snapshot, and what it holds.
async fn full() -> (tempfile::TempDir, Recovered) {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path()).unwrap();
    for group in 0..60 {
        append(&journal, entries(group * 10..group * 10 + 10, 1)).await.unwrap();
    }
    journal.truncate_after(Some(590)).await.unwrap();
    append(&journal, entries(591..600, 2)).await.unwrap();
    journal.save_snapshot(bytes("meta"), Bytes::from(vec![7; 50_000])).await.unwrap();
    journal.purge(20, bytes("mark")).await.unwrap();
    journal.save_vote(bytes("vote")).await.unwrap();
    journal.close().await.unwrap();
    let (journal, recovered) = open(folder.path()).unwrap();
    journal.close().await.unwrap();
    assert_eq!(recovered.entries.len(), 579);
    (folder, recovered)
}

fn text(outcome: Result<(DiskJournal, Recovered), StorageError>) -> String {
    outcome.map(|(_, recovered)| recovered).unwrap_err().to_string()
}

#[tokio::test]
async fn a_second_opening_is_refused_while_the_first_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path()).unwrap();
    let error = open(folder.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
    let shown = error.to_string();
    assert!(shown.contains(folder.path().to_str().unwrap()) && shown.contains("running"), "{shown}");
    journal.close().await.unwrap();
    open(folder.path()).unwrap();
}

#[tokio::test]
async fn somebody_elses_files_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "years of work").unwrap();
    let error = open(folder.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("thesis.tex"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_file_instead_of_a_directory_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(open(file.path()), Err(StorageError::Io { .. })));
}

#[tokio::test]
async fn a_log_without_an_identity_is_refused() {
    let (folder, _) = full().await;
    fs::remove_file(folder.path().join("identity")).unwrap();
    assert!(matches!(open(folder.path()), Err(StorageError::Foreign { .. })));
}

#[tokio::test]
async fn an_identity_without_its_log_is_refused() {
    for part in ["log", "log/db", "log/conf", "log/acknowledged"] {
        let (folder, _) = full().await;
        let path = folder.path().join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap()
        } else {
            fs::remove_file(&path).unwrap()
        }
        let error = open(folder.path()).map(|_| ()).unwrap_err();
        assert!(matches!(error, StorageError::Missing { .. }), "{part}: {error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn any_flipped_bit_of_the_identity_is_noticed() {
    let (folder, _) = full().await;
    let path = folder.path().join("identity");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        fs::write(&path, bad).unwrap();
        let shown = text(open(folder.path()));
        assert!(shown.contains("identity") && shown.contains("damaged"), "byte {at}: {shown}");
    }
    for cut in 0..good.len() {
        fs::write(&path, &good[..cut]).unwrap();
        assert!(matches!(open(folder.path()), Err(StorageError::Corrupted { .. })), "{cut} bytes");
    }
    fs::write(&path, good).unwrap();
    open(folder.path()).unwrap();
}

#[tokio::test]
async fn another_format_version_is_named() {
    let (folder, _) = full().await;
    let path = folder.path().join("identity");
    let mut form = fs::read(&path).unwrap();
    form[8] += 1;
    let body = form.len() - 4;
    let crc = crc32fast::hash(&form[..body]);
    form[body..].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, form).unwrap();
    let error = open(folder.path()).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, StorageError::FormatVersion { found, known: FORMAT_VERSION, .. } if found == FORMAT_VERSION + 1),
        "{error}"
    );
}

#[tokio::test]
async fn any_damage_of_the_snapshot_is_noticed() {
    let (folder, _) = full().await;
    let path = fs::read_dir(folder.path().join("snapshots")).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&path).unwrap();
    for at in (0..40).chain([good.len() / 2, good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        let shown = text(open(folder.path()));
        assert!(shown.contains("snapshot-") && shown.contains("damaged"), "byte {at}: {shown}");
    }
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(matches!(open(folder.path()), Err(StorageError::Corrupted { .. })));
    fs::remove_file(&path).unwrap();
    assert!(matches!(open(folder.path()), Err(StorageError::Missing { .. })));
}

/// Flips bytes all over sled's files. Either the opening says so, or nothing that was acknowledged is lost: sled
/// keeps much that is stale. It never ends in less than there was.
#[tokio::test]
async fn damage_in_the_log_is_noticed_or_harmless() {
    let (folder, whole) = full().await;
    let pristine = tempfile::tempdir().unwrap();
    copy(folder.path(), pristine.path());
    let (mut noticed, mut harmless) = (0, 0);
    let files = ["db", "conf", "acknowledged"].map(|name| format!("log/{name}"));
    let snap = fs::read_dir(folder.path().join("log")).unwrap().map(|item| item.unwrap().file_name());
    let snap = snap.map(|name| format!("log/{}", name.to_str().unwrap())).find(|name| name.contains("snap."));
    for file in files.into_iter().chain(snap) {
        let good = fs::read(pristine.path().join(&file)).unwrap();
        let used = good.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let tries = if file.ends_with("db") { 120 } else { 6 };
        for attempt in 0..tries {
            let at = used * attempt / tries;
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            let damaged = tempfile::tempdir().unwrap();
            copy(pristine.path(), damaged.path());
            fs::write(damaged.path().join(&file), bad).unwrap();
            match open(damaged.path()) {
                Ok((journal, recovered)) => {
                    assert_eq!(recovered, whole, "byte {at} of {file}");
                    journal.close().await.unwrap();
                    harmless += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("log"), "byte {at} of {file}: {error}");
                    noticed += 1;
                }
            }
        }
    }
    assert!(noticed > 10, "noticed {noticed}, harmless {harmless}");
}

/// sled takes a cut tail for a write that the power interrupted, and goes on without it.
#[tokio::test]
async fn a_log_that_lost_its_tail_is_refused() {
    let (folder, _) = full().await;
    let db = folder.path().join("log/db");
    let good = fs::read(&db).unwrap();
    // No recovery snapshot either, so that sled has nothing to compare with.
    for item in fs::read_dir(folder.path().join("log")).unwrap() {
        let path = item.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("snap.") {
            fs::remove_file(path).unwrap();
        }
    }
    let used = good.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for part in [0, 1, 30, 90, 99] {
        let mut bad = good.clone();
        bad[used * part / 100..].fill(0);
        fs::write(&db, &bad).unwrap();
        let error = open(folder.path()).map(|_| ()).unwrap_err();
        assert!(matches!(error, StorageError::Corrupted { .. }), "{part} %: {error}");
    }
    fs::write(&db, b"").unwrap();
    assert!(matches!(open(folder.path()), Err(StorageError::Corrupted { .. })));
}

/// What sled would do if it fell back to older pages: keys that are gone, and old values under new keys. Each value
/// is sound by itself.
#[tokio::test]
async fn a_record_that_is_gone_or_not_the_newest_is_noticed() {
    type Change = fn(&mut Engine);
    fn old(first: u64, before: u32) -> Record {
        record::pack(&entries(first..first + 10, 77), before).0.remove(0)
    }
    fn span(engine: &Engine, index: u64) -> Span {
        let pair =
            engine.scan().map(Result::unwrap).find(|(key, _)| record::parse_key(key) == Some((index, 0)));
        let (key, value) = pair.unwrap();
        record::parse_piece(&key, &value).unwrap().span
    }
    fn remove(engine: &mut Engine, index: u64) {
        span(engine, index).keys().for_each(|key| engine.remove(&key).unwrap());
    }
    let changes: [(&str, Change); 7] = [
        ("the first is gone", |engine| remove(engine, 20)),
        ("one in the middle is gone", |engine| remove(engine, 300)),
        ("the last is gone", |engine| remove(engine, 591)),
        ("all are gone", |engine| {
            (2..60).for_each(|n| remove(engine, n * 10));
            remove(engine, 591);
        }),
        ("an old one in the middle", |engine| {
            let before = span(engine, 300).before;
            engine.insert(old(300, before)).unwrap();
        }),
        ("an old one that continues another chain", |engine| engine.insert(old(300, 5)).unwrap()),
        ("an old one at the end", |engine| {
            let before = span(engine, 591).before;
            let (mut records, _) = record::pack(&entries(591..600, 77), before);
            engine.insert(records.remove(0)).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (folder, _) = full().await;
        let mut engine = Engine::open(&folder.path().join("log"), true).unwrap();
        change(&mut engine);
        engine.sync().unwrap();
        engine.close().unwrap();
        match open(folder.path()) {
            Err(StorageError::Corrupted { .. }) => {}
            other => panic!("{what}: {:?}", other.map(|(_, recovered)| recovered)),
        }
    }
}

/// What stands behind the end was never acknowledged, and must not come back when the log has grown over it.
#[tokio::test]
async fn what_lies_behind_the_end_is_removed() {
    let (folder, whole) = full().await;
    let mut engine = Engine::open(&folder.path().join("log"), true).unwrap();
    // An append whose head did not make it: some records, one of them without its second part.
    let mut rest = entries(600..640, 3);
    rest.push((640, Bytes::from(vec![1; 9_000])));
    let (mut records, _) = record::pack(&rest, 99);
    records.last_mut().unwrap().values.remove(1);
    records.into_iter().for_each(|record| engine.insert(record).unwrap());
    engine.sync().unwrap();
    engine.close().unwrap();
    let (journal, recovered) = open(folder.path()).unwrap();
    assert_eq!(recovered, whole);
    append(&journal, entries(600..601, 4)).await.unwrap();
    append(&journal, entries(601..660, 4)).await.unwrap();
    journal.close().await.unwrap();
    let (_, recovered) = open(folder.path()).unwrap();
    assert_eq!(recovered.entries[579..], entries(600..660, 4));
}

/// sled does not sync what it puts into `blobs/`: a file there means that something acknowledged may be lost.
#[tokio::test]
async fn a_blob_fails_the_journal_for_good() {
    let (folder, whole) = full().await;
    let (journal, _) = open(folder.path()).unwrap();
    let blob = folder.path().join("log/blobs/a-blob");
    fs::write(&blob, "large").unwrap();
    let error = append(&journal, entries(600..601, 2)).await.unwrap_err();
    assert!(error.to_string().contains("a-blob"), "{error}");
    assert_ne!(error.kind(), io::ErrorKind::InvalidInput);
    // It has failed for good, also when the reason is gone.
    fs::remove_file(&blob).unwrap();
    assert!(journal.failed().unwrap().contains("a-blob"));
    let (done, told) = answer();
    assert!(journal.append(entries(601..602, 2), done).await.is_err());
    assert!(told.try_recv().is_err());
    assert!(journal.save_vote(bytes("v")).await.is_err());
    assert!(journal.save_committed(bytes("v")).await.is_err());
    assert!(journal.truncate_after(Some(30)).await.is_err());
    assert!(journal.purge(30, bytes("m")).await.is_err());
    assert!(journal.save_snapshot(bytes("m"), bytes("d")).await.is_err());
    assert!(journal.close().await.is_err());
    // Closing gave the directory free all the same. What failed may be there or not.
    let (journal, recovered) = open(folder.path()).unwrap();
    assert_eq!(recovered.entries[..579], whole.entries);
    assert_eq!((recovered.vote, recovered.snapshot), (whole.vote, whole.snapshot));
    journal.close().await.unwrap();
    fs::write(&blob, "large").unwrap();
    assert!(text(open(folder.path())).contains("a-blob"));
}

#[tokio::test]
async fn the_leftovers_of_a_first_start_that_was_killed_are_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lock"), "").unwrap();
    fs::write(folder.path().join("identity.new"), "half").unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    open(folder.path()).unwrap().0.close().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let directory = Arc::new(DataDir::open(folder.path()).unwrap());
    directory.load_or_create(NodeId::from_bits(1), &AgentName::new("a").unwrap()).unwrap();
    fs::create_dir_all(folder.path().join("log.new/blobs")).unwrap();
    fs::write(folder.path().join("log.new/db"), "half").unwrap();
    DiskJournal::open(&directory, &Options::default()).unwrap();
}

#[test]
fn a_directory_keeps_its_identity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    let agent = AgentName::new("agent-a").unwrap();
    let directory = Arc::new(DataDir::open(&path).unwrap());
    let first = directory.load_or_create(NodeId::from_bits(1), &agent).unwrap();
    assert_eq!(first.node_id, NodeId::from_bits(1));
    let founded =
        Identity { cluster_id: Some(ClusterId::from_bits(5)), founding: bytes("promise"), ..first.clone() };
    directory.save(&founded).unwrap();
    // The log is made after the caller has read the identity, and what the caller saves does not unmake it.
    let (journal, _) = DiskJournal::open(&directory, &Options::default()).unwrap();
    directory.save(&founded).unwrap();
    let other = Identity { node_id: NodeId::from_bits(2), ..founded.clone() };
    assert!(matches!(directory.save(&other), Err(StorageError::OtherMember { .. })));
    drop(journal);
    directory.release();
    assert!(directory.save(&founded).is_err());
    drop(directory);

    let directory = DataDir::open(&path).unwrap();
    let again = directory.load_or_create(NodeId::from_bits(9), &AgentName::new("other").unwrap()).unwrap();
    assert_eq!(again, founded);
    drop(directory);
    fs::remove_dir_all(path.join("log")).unwrap();
    let directory = Arc::new(DataDir::open(&path).unwrap());
    directory.load_or_create(NodeId::from_bits(9), &agent).unwrap();
    assert!(matches!(DiskJournal::open(&directory, &Options::default()), Err(StorageError::Missing { .. })));
}
