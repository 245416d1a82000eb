//! The guide's recipes under contention: does a protected resource refuse every writer whose time is over, however the
//! writes interleave? (That each recipe works at all, the guide's own examples show.)

#![allow(clippy::unwrap_used, reason = "a test: panics are how it fails")]

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use leasehold::{Fence, FenceError, Token};

/// How many holders follow each other, each with a larger token. All go on writing for as long as they are let.
const HOLDERS: u64 = 8;
const WRITES: u64 = 40;

/// Each holder begins when the one before it has written a few times, and writes on until it is refused or done.
///
/// `write` says whether the write was let through; what was written is looked at afterwards, in its order.
fn holders_in_turn<W: Fn(Token, u64) -> bool>(writer: impl Fn() -> W + Sync) {
    let begun = AtomicU64::new(1);
    thread::scope(|threads| {
        for holder in 1..=HOLDERS {
            let (begun, writer) = (&begun, &writer);
            threads.spawn(move || {
                let _passes_on = PassesOn(begun);
                let write = writer();
                while begun.load(Ordering::SeqCst) < holder {
                    thread::yield_now();
                }
                for n in 0..WRITES {
                    if !write(Token::new(holder), n) {
                        return;
                    }
                    if n == 2 {
                        begun.fetch_max(holder + 1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
}

/// A holder that panics lets the others go on: else they would wait for it, and nobody would hear of it.
struct PassesOn<'a>(&'a AtomicU64);

impl Drop for PassesOn<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(u64::MAX, Ordering::SeqCst);
        }
    }
}

/// Tokens never step back in what was written, and the last holder wrote all it wanted.
fn in_order(written: &[(u64, u64)]) {
    assert!(written.is_sorted(), "{written:?}");
    let last = written.iter().filter(|(token, _)| *token == HOLDERS).count() as u64;
    assert_eq!(last, WRITES);
    assert!(written.iter().any(|(token, _)| *token == 1), "the first holder wrote as well");
}

#[test]
fn a_file_is_written_by_one_holder_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mark) = (folder.path().join("log"), folder.path().join("fence"));
    let writer = || {
        // Each in a process of its own, for all that the fence knows.
        let (fence, path) = (Fence::in_file(&mark).unwrap(), path.clone());
        move |token: Token, n: u64| {
            let append = || {
                let mut file = std::fs::File::options().append(true).create(true).open(&path).unwrap();
                writeln!(file, "{token} {n}").unwrap();
            };
            match fence.admit_then(token, append) {
                Ok(()) => true,
                Err(FenceError::Stale { .. }) => false,
                Err(other) => panic!("{other}"),
            }
        }
    };
    holders_in_turn(writer);
    let text = std::fs::read_to_string(&path).unwrap();
    let numbers = |line: &str| {
        let (token, n) = line.split_once(' ').unwrap();
        (token.parse().unwrap(), n.parse().unwrap())
    };
    in_order(&text.lines().map(numbers).collect::<Vec<_>>());
}

fn open(path: &Path) -> rusqlite::Connection {
    let database = rusqlite::Connection::open(path).unwrap();
    database.busy_timeout(Duration::from_secs(20)).unwrap();
    database
}

/// One row with the token, in the same transaction as the writes that it protects.
#[test]
fn a_row_in_a_database_refuses_whoever_is_late() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    let database = open(&path);
    database
        .execute_batch(
            "CREATE TABLE fence (id TEXT PRIMARY KEY, token INTEGER);
             INSERT INTO fence VALUES ('orders', 0);
             CREATE TABLE written (at INTEGER PRIMARY KEY, token INTEGER, n INTEGER);",
        )
        .unwrap();
    let writer = || {
        let path = path.clone();
        move |token: Token, n: u64| {
            let mut database = open(&path);
            let transaction =
                database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
            let token = i64::try_from(token.get()).unwrap();
            let admitted = transaction
                .execute("UPDATE fence SET token = ?1 WHERE id = 'orders' AND token <= ?1", [token])
                .unwrap();
            if admitted == 0 {
                return false;
            }
            transaction
                .execute("INSERT INTO written (token, n) VALUES (?1, ?2)", (token, i64::try_from(n).unwrap()))
                .unwrap();
            transaction.commit().unwrap();
            true
        }
    };
    holders_in_turn(writer);
    let mut rows = database.prepare("SELECT token, n FROM written ORDER BY at").unwrap();
    let number = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(|n| u64::try_from(n).unwrap());
    let written = rows.query_map((), |row| Ok((number(row, 0)?, number(row, 1)?))).unwrap();
    in_order(&written.map(Result::unwrap).collect::<Vec<_>>());
}

/// An object store that writes only if the object is what the writer has seen.
#[derive(Default)]
struct Store {
    objects: Mutex<BTreeMap<&'static str, (u64, Token)>>,
    written: Mutex<Vec<(u64, u64)>>,
}

impl Store {
    fn head(&self, key: &'static str) -> Option<(u64, Token)> {
        self.objects.lock().unwrap().get(key).copied()
    }

    fn put(&self, key: &'static str, if_match: Option<u64>, token: Token, n: u64) -> bool {
        let mut objects = self.objects.lock().unwrap();
        let matches = objects.get(key).map(|(etag, _)| *etag) == if_match;
        if matches {
            objects.insert(key, (if_match.unwrap_or(0) + 1, token));
            self.written.lock().unwrap().push((token.get(), n));
        }
        matches
    }
}

#[test]
fn a_conditional_put_refuses_whoever_is_late() {
    let store = Store::default();
    let writer = || {
        |token: Token, n: u64| loop {
            let present = store.head("orders.json");
            if present.is_some_and(|(_, largest)| largest > token) {
                return false;
            }
            // Others get in between more often so.
            thread::yield_now();
            if store.put("orders.json", present.map(|(etag, _)| etag), token, n) {
                return true;
            }
        }
    };
    holders_in_turn(writer);
    in_order(&store.written.lock().unwrap());
}
