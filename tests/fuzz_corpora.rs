//! What the fuzzer has found worth keeping (`fuzz/corpus/`), once more: do its targets still take all of it, and do they
//! stay within their memory? With the toolchain that builds the crate; the fuzzer itself needs another one.
//!
//! A file that failed once has a name that says so; all others have the name that the fuzzer gave them.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]

use std::{
    collections::BTreeSet,
    fs, panic,
    path::{Path, PathBuf},
};

use leasehold::test_support::{FUZZ_TARGETS, fuzz};

/// Small enough to be looked through in seconds, and to be in the repository.
const CORPORA_BYTES_MAX: usize = 400 * 1024;

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(path)
}

fn names(path: &str) -> BTreeSet<String> {
    let items = fs::read_dir(folder(path)).unwrap_or_else(|error| panic!("fuzz/{path}: {error}"));
    items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
}

/// The files of a target's corpus, with their names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = names(&format!("corpus/{target}"));
    files
        .into_iter()
        .map(|name| (name.clone(), fs::read(folder(&format!("corpus/{target}/{name}"))).unwrap()))
        .collect()
}

/// Runs a target, and says how much memory it held at most, in bytes.
fn run(target: &str, what: &str, bytes: &[u8]) -> usize {
    let measured = panic::catch_unwind(|| allocation_counter::measure(|| fuzz(target, bytes)));
    let measured = measured.unwrap_or_else(|_| panic!("the target {target} fails by {what}: {bytes:?}"));
    usize::try_from(measured.bytes_max).unwrap()
}

/// How much memory a target may hold for so many bytes. Of the targets that read once and give up what they have read.
fn memory_max(target: &str, bytes: usize) -> usize {
    match target {
        // The buffer of a connection, which is there before anything has come; a runtime for its timer.
        "frames" => 512 * 1024 + 8 * bytes,
        "handshake" => 64 * 1024 + 8 * bytes,
        // A log is drawn, written and read twice; a record of the log may claim entries of no length.
        "records" => 8 * 1024 * 1024,
        // A small element takes up to some two hundred bytes in memory, and the first one of a map a whole node of its tree.
        _ => 64 * 1024 + 1_024 * bytes,
    }
}

#[test]
fn every_target_has_a_corpus_and_a_program() {
    let targets: BTreeSet<String> = FUZZ_TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), FUZZ_TARGETS.len(), "two targets of one name");
    assert_eq!(names("corpus"), targets);
    let programs: BTreeSet<String> = targets.iter().map(|target| format!("{target}.rs")).collect();
    assert_eq!(names("fuzz_targets"), programs);
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    for target in &targets {
        assert!(
            manifest.contains(&format!("name = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"")),
            "{target}"
        );
        let program = fs::read_to_string(folder(&format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(program.contains(&format!("fuzz(\"{target}\", bytes)")), "{program}");
    }
}

#[test]
fn the_corpora_pass() {
    let mut all = 0;
    for (target, _) in FUZZ_TARGETS {
        let files = corpus(target);
        assert!(files.len() >= 20, "the corpus of {target} has only {} files", files.len());
        for (name, bytes) in &files {
            all += bytes.len();
            let held = run(target, name, bytes);
            let most = memory_max(target, bytes.len());
            let bounded = *target != "table";
            assert!(
                !bounded || held <= most,
                "{target}, {name}: {held} bytes for {}, at most {most}",
                bytes.len()
            );
        }
    }
    assert!(all <= CORPORA_BYTES_MAX, "{all} bytes: cargo +nightly fuzz cmin makes them fewer");
}

/// Wherever in a message a length may stand, it says that very many bytes, or elements, follow; and they don't.
#[test]
fn a_length_that_lies_costs_no_memory() {
    const LIES: [&[u8]; 4] = [
        &[251, 0xff, 0xff],
        &[252, 0, 0, 0, 2],
        &[252, 0xff, 0xff, 0xff, 0xff],
        &[253, 0, 0, 0, 0, 0, 0, 0, 0x7f],
    ];
    let mut tried = 0;
    for (name, bytes) in corpus("messages") {
        for at in 1..bytes.len().min(200) {
            for lie in LIES {
                let bytes = [&bytes[..at], lie].concat();
                let (held, most) = (run("messages", &name, &bytes), memory_max("messages", bytes.len()));
                assert!(
                    held <= most,
                    "{name}, lie at {at}: {held} bytes for {}, at most {most}: {bytes:?}",
                    bytes.len()
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 10_000, "only {tried} lies were tried");
}
