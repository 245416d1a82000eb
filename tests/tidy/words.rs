//! Words that have one place, or none.

use crate::{
    floors::paths_of,
    source::{Source, bracketed, files, finds, line_of, sources},
};

/// Where a rule looks.
#[derive(Clone, Copy, PartialEq)]
enum Scope {
    /// What is compiled into the library and the binary.
    Shipped,
    /// The same, and the tests inside `src/`.
    Src,
    /// Everything, tests and benchmarks too.
    Everywhere,
}

struct Rule {
    words: &'static [&'static str],
    scope: Scope,
    why: &'static str,
    /// Files and folders (with a slash) where the word has its place, each with the reason.
    places: &'static [(&'static str, &'static str)],
}

const RULES: &[Rule] = &[
    Rule {
        words: &["todo!", "unimplemented!", "dbg!"],
        scope: Scope::Everywhere,
        why: "nothing is left half done",
        places: &[],
    },
    Rule {
        words: &[".unwrap()", ".expect(", ".unwrap_err()", ".expect_err(", "panic!", "unimplemented!"],
        scope: Scope::Shipped,
        why: "no panic reaches a user: return an error that says what to do",
        places: &[],
    },
    Rule {
        words: &["unreachable!"],
        scope: Scope::Shipped,
        why: "let the types say it",
        places: &[("src/config.rs", "in a constant: evaluated by the compiler, or not at all")],
    },
    Rule {
        words: &["unsafe"],
        scope: Scope::Everywhere,
        why: "there is none, and none is needed",
        places: &[],
    },
    Rule {
        words: &["Instant::now", "SystemTime::now", "Utc::now", "Local::now", "elapsed()"],
        scope: Scope::Src,
        why: "the time comes from `clock.rs`",
        places: &[
            ("src/clock.rs", "the place itself"),
            ("src/raft/membership.rs", "how long ago a member was heard, on openraft's own clock"),
            ("src/raft/mod.rs", "the age of a quorum's acknowledgement, on openraft's own clock"),
            ("src/bin/leasehold/seam.rs", "the time that people are shown beside a change"),
            ("src/lease/held/tests.rs", "measures what a check costs, and that paused time stood still"),
            ("src/runtime/switch.rs", "the clock by which tokio's timers go, for openraft"),
            ("src/raft/seam.rs", "openraft's trait for it, over the seam's"),
        ],
    },
    Rule {
        words: &["tokio::spawn", "tokio::task", "tokio::time", "select!", "rand"],
        scope: Scope::Shipped,
        why: "tasks, timers and randomness come from `runtime.rs`, so that a run can be replayed",
        places: &[
            ("src/runtime/", "the place itself"),
            ("src/raft/seam.rs", "openraft's trait for dice is the crate's"),
            ("src/chaos/kernel/mod.rs", "switches tokio's budget of polls off"),
            ("src/bin/", "a process of its own: signals, children"),
        ],
    },
    Rule {
        words: &["openraft"],
        scope: Scope::Src,
        why: "its types stay in one folder",
        places: &[("src/raft/", "the place itself")],
    },
    Rule {
        words: &["bincode"],
        scope: Scope::Src,
        why: "another encoding is one file's change",
        places: &[("src/codec.rs", "the place itself")],
    },
    Rule {
        words: &["sled"],
        scope: Scope::Src,
        why: "what it does not promise is made good in one file",
        places: &[
            ("src/storage/engine.rs", "the place itself"),
            ("src/storage/tests/goldens.rs", "holds what the database contains to its golden files"),
        ],
    },
    Rule {
        words: &["HashMap", "HashSet", "RandomState"],
        scope: Scope::Src,
        why: "their order differs from run to run",
        places: &[],
    },
    Rule {
        words: &["unbounded_channel", "unbounded"],
        scope: Scope::Src,
        why: "every queue has a bound in `limits.rs`",
        places: &[],
    },
    Rule {
        words: &["println!", "eprintln!", "print!", "eprint!"],
        scope: Scope::Shipped,
        why: "the library is silent; events go to `tracing`",
        places: &[("src/bin/", "a command line speaks")],
    },
    Rule {
        words: &["thread::spawn", "thread::Builder"],
        scope: Scope::Shipped,
        why: "every thread has an owner and an end, told in ARCHITECTURE.md",
        places: &[("src/storage/disk.rs", "the storage thread")],
    },
];

/// Tests that sleep, and why they can't wait for something instead.
const SLEEPERS: &[(&str, &str)] = &[
    ("src/client/tests.rs", "an agent is silent on purpose"),
    ("src/lease/crowd.rs", "the time in which something is to be begun passes"),
    ("src/clock.rs", "the clock's going forward is what is tested"),
    ("src/transport/tests/in_process.rs", "a delay is what is tested"),
    ("src/transport/tests/hostile_peer.rs", "the peer is slow on purpose"),
    ("tests/cluster/fixture.rs", "asks again and again, for all the others"),
    ("tests/cluster/failures.rs", "cuts last for a while; that nothing happens can only be waited for"),
    ("tests/cluster/leases.rs", "a ttl passes, and the lease is still held"),
    ("tests/cluster/members.rs", "asks the leader again and again"),
    ("tests/cluster/recovery.rs", "asks again and again who votes"),
    ("tests/cluster/starting.rs", "that an agent does not start can only be waited for"),
    ("tests/cluster/upgrading.rs", "a voter is away for a while; looks again and again at the load"),
    ("tests/real_processes/hosts.rs", "asks other processes again and again"),
    ("tests/real_processes/main.rs", "trouble lasts for a while; asks other processes again and again"),
    ("tests/real_processes/skewed.rs", "looks again and again whether its agent has stepped down"),
    ("tests/real_processes/worker.rs", "a holder works for a while, for others to see"),
    ("tests/fault_proxy.rs", "asks again and again until a port is closed"),
    ("tests/flood.rs", "the flood lasts for a while"),
    ("tests/client.rs", "asks again and again; a disturbance lasts for a while"),
    ("tests/command_line/danger.rs", "a process is killed a moment after it has begun"),
    ("tests/tls.rs", "a lease is held for longer than its ttl; asks again until files were read"),
    ("tests/command_line/harness.rs", "asks other processes again and again, for all the others"),
    ("tests/seed_interface.rs", "lets the ttl of a real cluster pass"),
    ("tests/access/shelf.rs", "the provider is slow on purpose; paused time passes"),
    ("tests/access/belief.rs", "paused time passes, and at no step is anything believed that is over"),
    ("tests/access/every_kind.rs", "a ttl passes, and the guard is still held; asks again and again"),
    ("examples/embedded_database.rs", "readers take a breath between two reads"),
];

/// Where to sleep costs no time: it is simulated.
const SIMULATED: &[&str] = &["src/chaos/", "tests/chaos/", "examples/chaos_ledger.rs"];

fn has_its_place(rule: &Rule, path: &str) -> bool {
    rule.places.iter().any(|(place, _)| path == *place || (place.ends_with('/') && path.starts_with(place)))
}

fn text(rule: &Rule, source: &Source) -> String {
    let in_src = source.path.starts_with("src/");
    match rule.scope {
        Scope::Shipped => source.shipped.clone(),
        Scope::Src if !in_src => String::new(),
        Scope::Src | Scope::Everywhere => source.code.clone(),
    }
}

#[test]
fn every_word_in_its_place() {
    let sources = sources();
    let mut faults = Vec::new();
    for rule in RULES {
        for source in sources.iter().filter(|source| !has_its_place(rule, &source.path)) {
            let text = text(rule, source);
            for word in rule.words {
                for at in finds(&text, word) {
                    faults.push(format!("{}:{}: {word}: {}", source.path, line_of(&text, at), rule.why));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// tokio's `watch` wakes those who wait in random order.
#[test]
fn watch_comes_from_the_seam() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for source in sources().iter().filter(|source| source.path.starts_with("src/")) {
        let code = if source.is_for_tests() { &source.code } else { &source.shipped };
        for at in finds(code, "tokio::") {
            let tree = &code[at..];
            let path =
                &tree[..tree.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(0)];
            let behind = &tree[path.len()..];
            let group = if behind.starts_with('{') { bracketed(behind) } else { "" };
            for path in paths_of(&format!("{path}{group}")) {
                seen += 1;
                if path.iter().take(3).eq(["tokio", "sync", "watch"]) && source.path != "src/runtime.rs" {
                    faults.push(format!("{}:{}", source.path, line_of(code, at)));
                }
            }
        }
    }
    assert!(faults.is_empty(), "take `runtime::watch`: {faults:?}");
    assert!(seen > 30, "only {seen} paths of tokio's were found");
}

/// An exception that nobody needs any more is taken back.
#[test]
fn every_exception_is_needed() {
    let sources = sources();
    let mut stale = Vec::new();
    for rule in RULES {
        for (place, _) in rule.places {
            let here = |path: &str| path == *place || (place.ends_with('/') && path.starts_with(place));
            let needs = |source: &Source| {
                let text = text(rule, source);
                rule.words.iter().any(|word| finds(&text, word).next().is_some())
            };
            // The command line is free to print, whether it does or not.
            if *place != "src/bin/" && !sources.iter().filter(|source| here(&source.path)).any(needs) {
                stale.push(format!("{place} for {:?}", rule.words));
            }
        }
    }
    assert!(stale.is_empty(), "exceptions that nothing needs: {stale:?}");
}

#[test]
fn no_test_sleeps_without_a_reason() {
    let mut faults = Vec::new();
    let sources = sources();
    for (path, _) in SLEEPERS {
        let source = sources.iter().find(|source| source.path == *path);
        if source.is_none_or(|source| finds(&source.code, "sleep(").next().is_none()) {
            faults.push(format!("{path} does not sleep any more: take it from SLEEPERS"));
        }
    }
    for source in sources {
        if SLEEPERS.iter().any(|(path, _)| source.path == *path)
            || SIMULATED.iter().any(|folder| source.path.starts_with(folder))
            || source.path.starts_with("benches/")
        {
            continue;
        }
        for at in finds(&source.code, "sleep(") {
            let line = line_of(&source.code, at);
            let shipped = source.shipped.lines().nth(line - 1).unwrap_or_default();
            if !shipped.contains("sleep(") {
                faults.push(format!(
                    "{}:{line}: wait for what shall happen, or say why in SLEEPERS",
                    source.path
                ));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// What is switched off says why.
#[test]
fn attributes_that_silence_have_a_reason() {
    let mut faults = Vec::new();
    for source in sources() {
        for word in ["allow", "expect", "ignore"] {
            for at in finds(&source.code, word) {
                let before = source.code[..at].trim_end();
                if !(before.ends_with("#[") || before.ends_with("#![")) {
                    continue;
                }
                let raw: String = {
                    // Literals are blanked, so brackets in them don't count.
                    let open = before.len() - 1;
                    let end = open + crate::source::bracketed(&source.code[open..]).len();
                    let line = line_of(&source.code, at);
                    let lines = source.code[at..end].matches('\n').count() + 1;
                    source.raw.lines().skip(line - 1).take(lines).collect::<Vec<_>>().join("\n")
                };
                let has_reason = raw.contains("reason = \"") || raw.contains("ignore = \"");
                if !has_reason {
                    faults.push(format!("{}:{}: {}", source.path, line_of(&source.code, at), raw.trim()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "without a reason:\n{}", faults.join("\n"));
}

#[test]
fn files_are_short() {
    const LINES_MAX: usize = 600;
    let long: Vec<String> = sources()
        .iter()
        .filter(|source| source.raw.lines().count() > LINES_MAX)
        .map(|source| format!("{} has {} lines", source.path, source.raw.lines().count()))
        .collect();
    assert!(long.is_empty(), "more than {LINES_MAX} lines: something wants to move out: {long:?}");
}

#[test]
fn no_tabs_and_nothing_behind_the_last_word() {
    let folders = [
        "src",
        "tests",
        "benches",
        "examples",
        "fuzz/fuzz_targets",
        "fuzz/Cargo.toml",
        "docs",
        ".ci",
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "Cargo.toml",
    ];
    let mut faults = Vec::new();
    for (path, text) in files(&folders, &[".rs", ".md", ".toml", ".c", ".svg", ".hex", "/run"]) {
        for (line, content) in text.split('\n').enumerate() {
            if content.contains('\t') || content.ends_with(' ') || content.ends_with('\r') {
                faults.push(format!("{path}:{}", line + 1));
            }
        }
        if !text.ends_with('\n') || text.ends_with("\n\n") {
            faults.push(format!("{path}: ends in {:?}", text.chars().next_back()));
        }
    }
    assert!(faults.is_empty(), "{faults:?}");
}

/// Bounds that follow from others: `limits.rs` itself asserts that they do.
const DERIVED: &[&str] = &["ENTRY_BYTES_MAX"];

/// Each bound has a unit, in its type, its name or its doc; and somebody enforces it.
#[test]
fn every_limit_has_a_unit_and_a_use() {
    const UNITS: &[&str] = &["bytes", "The most", "How many", "how many", "The largest number"];
    let sources = sources();
    let limits = sources.iter().find(|source| source.path == "src/limits.rs").unwrap();
    let mut faults = Vec::new();
    let mut doc = String::new();
    let mut seen = 0;
    for line in limits.raw.lines() {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(": ")) {
            seen += 1;
            if doc.is_empty() {
                faults.push(format!("{name} has no doc"));
            }
            if !kind.starts_with("Duration")
                && !name.contains("BYTES")
                && !UNITS.iter().any(|unit| doc.contains(unit))
            {
                faults.push(format!("{name} has no unit: {doc}"));
            }
            let used = |source: &&Source| {
                source.path != limits.path && finds(&source.shipped, name).next().is_some()
            };
            let asserted = limits.code.matches(name).count() > 2;
            let follows = DERIVED.contains(&name) && asserted;
            if !follows && !sources.iter().any(|source| used(&source)) {
                faults.push(format!("{name} is enforced by nobody"));
            }
        }
        doc.clear();
    }
    assert!(faults.is_empty(), "{faults:?}");
    assert!(seen > 20, "only {seen} limits were found");
}
