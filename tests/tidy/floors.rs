//! The house's floors: a file imports from its own floor or from a lower one. ARCHITECTURE.md draws them.

use std::collections::BTreeMap;

use crate::{
    docs,
    source::{Source, bracketed, finds, line_of, sources},
};

/// Each module at the crate's root, and its floor.
const FLOORS: &[(&str, u8)] = &[
    // Value types, settings, bounds.
    ("id", 0),
    ("name", 0),
    ("role", 0),
    ("token", 0),
    ("time", 0),
    ("mode", 0),
    ("limits", 0),
    ("config", 0),
    ("quotas", 0),
    ("codec", 0),
    ("dense", 0),
    ("backlog", 0),
    ("fault_point", 0),
    ("flaw", 0),
    ("fuzz", 0),
    ("golden", 0),
    // The pure machines.
    ("table", 1),
    ("deadlines", 1),
    ("session", 1),
    ("plan", 1),
    // The world, and what is said to others in it.
    ("clock", 2),
    ("runtime", 2),
    ("tasks", 2),
    ("storage", 2),
    ("transport", 2),
    ("holder", 2),
    ("change", 2),
    ("message", 2),
    ("replica", 2),
    ("model", 2),
    // Consensus.
    ("raft", 3),
    // What a user has in hand. `error` names what can go wrong anywhere below, so it can't stand lower.
    ("lease", 4),
    ("error", 4),
    ("metrics", 4),
    ("members", 4),
    // Who answers for it: a node of this process, or one elsewhere.
    ("agent", 5),
    ("client", 5),
    ("danger", 5),
    // What is built from these.
    ("provider", 6),
    ("test_support", 6),
    // The world in which all of it can be simulated.
    ("chaos", 7),
    // What is built from all of them.
    ("access", 7),
    // `lib.rs` and the command line see everything.
    ("lib", 8),
    ("bin", 8),
];

/// What a module doesn't know, although its floor would let it.
const STRANGERS: &[(&str, &[&str], &str)] = &[
    (
        "lease",
        &["storage", "raft", "replica"],
        "what a holder has in hand is written once, for agents and clients",
    ),
    (
        "access",
        &["agent", "client", "message", "table"],
        "it knows providers and leases, not how a cluster grants them",
    ),
    ("client", &["agent", "storage", "raft", "replica"], "a client embeds no node"),
    ("storage", &["table", "deadlines", "session", "message", "replica"], "what is stored is opaque bytes"),
    ("transport", &["table", "deadlines", "session", "message", "replica"], "what is sent is opaque bytes"),
    ("raft", &["deadlines", "session", "message"], "consensus decides nothing about leases"),
    ("deadlines", &["table", "session"], "the leader's half of the argument stands by itself"),
    ("session", &["table", "deadlines"], "the holder's half of the argument stands by itself"),
];

/// Words that have no place in the pure machines: they would make a replica, or a replay, differ.
const IMPURE: &[&str] = &[
    "tokio",
    "async",
    "await",
    "HashMap",
    "HashSet",
    "std::fs",
    "std::net",
    "std::thread",
    "rand",
    "runtime",
    "now()",
];

fn module_of(source: &Source) -> Option<&str> {
    let place = source.path.strip_prefix("src/")?;
    Some(place.split_once('/').map_or(place.trim_end_matches(".rs"), |(module, _)| module))
}

pub(crate) fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// The paths of a use tree (`a::{b, c::d}` has two), and of what merely looks like one.
pub(crate) fn paths_of(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let word = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
    if let Some(group) = tree.strip_prefix('{') {
        let mut items = vec![String::new()];
        let mut depth = 0;
        for c in group.strip_suffix('}').unwrap_or(group).chars() {
            match c {
                ',' if depth == 0 => items.push(String::new()),
                _ => {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    items.last_mut().unwrap().push(c);
                }
            }
        }
        return items.iter().filter(|item| !item.trim().is_empty()).flat_map(|item| paths_of(item)).collect();
    }
    let first = tree[..word].to_owned();
    match tree[word..].trim_start().strip_prefix("::") {
        None => vec![vec![first]],
        Some(rest) => {
            let rest = rest.trim_start();
            let rest = if rest.starts_with('{') { bracketed(rest) } else { rest };
            paths_of(rest).into_iter().map(|tail| [vec![first.clone()], tail].concat()).collect()
        }
    }
}

/// The modules that a file names by `crate::`, each with its line. Names that the root re-exports count as their
/// module's.
fn imports(code: &str, exported: &BTreeMap<String, String>) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in finds(code, "crate::").filter(|&at| !code[..at].ends_with('$')) {
        let tree = &code[at + "crate::".len()..];
        let tree = if tree.starts_with('{') { bracketed(tree) } else { tree };
        for path in paths_of(tree) {
            let module = exported.get(&path[0]).unwrap_or(&path[0]).clone();
            found.push((line_of(code, at), module));
        }
    }
    found
}

/// What `lib.rs` re-exports: name to module.
fn exported(sources: &[Source]) -> BTreeMap<String, String> {
    let lib = &sources.iter().find(|source| source.path == "src/lib.rs").unwrap().code;
    let mut names = BTreeMap::new();
    for at in finds(lib, "pub use crate::") {
        let tree = &lib[at + "pub use crate::".len()..];
        let tree = if tree.starts_with('{') { bracketed(tree) } else { tree.split(';').next().unwrap() };
        for path in paths_of(tree) {
            names.insert(path.last().unwrap().clone(), path[0].clone());
        }
    }
    assert!(names.len() > 20, "{names:?}");
    names
}

#[test]
fn nobody_imports_from_a_higher_floor() {
    let sources = sources();
    let exported = exported(&sources);
    let mut faults = Vec::new();
    let mut edges = 0;
    for source in sources.iter().filter(|source| !source.is_for_tests()) {
        let module = module_of(source).unwrap();
        if module == "bin" {
            // Another crate: what it sees of this one, the compiler decides. Its `crate::` is itself.
            continue;
        }
        let Some(floor) = floor_of(module) else {
            faults
                .push(format!("{}: {module} has no floor; give it one in tests/tidy/floors.rs", source.path));
            continue;
        };
        for (line, other) in imports(&source.shipped, &exported) {
            edges += usize::from(other != module);
            match floor_of(&other) {
                None => faults.push(format!("{}:{line}: crate::{other} has no floor", source.path)),
                Some(higher) if higher > floor => faults.push(format!(
                    "{}:{line}: {module} (floor {floor}) imports from {other} (floor {higher})",
                    source.path
                )),
                Some(_) => {}
            }
            for (_, others, why) in STRANGERS.iter().filter(|(name, ..)| *name == module) {
                if others.contains(&&*other) {
                    faults.push(format!("{}:{line}: {module} doesn't know {other}: {why}", source.path));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert!(edges > 100, "only {edges} imports were found: the search is broken");
}

#[test]
fn the_pure_machines_are_pure() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for source in sources().iter().filter(|source| !source.is_for_tests()) {
        if module_of(source).and_then(floor_of) != Some(1) {
            continue;
        }
        seen += 1;
        for word in IMPURE {
            for at in finds(&source.shipped, word) {
                faults.push(format!("{}:{}: {word}", source.path, line_of(&source.shipped, at)));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert!(seen > 8, "only {seen} files");
}

/// The code map of ARCHITECTURE.md has the same floors, and leaves no module out.
#[test]
fn architecture_draws_the_floors_as_they_are() {
    let rows = docs::table_rows("ARCHITECTURE.md", "## Code map");
    let mut drawn = BTreeMap::new();
    for row in &rows {
        let Ok(floor) = row[0].parse::<u8>() else { continue };
        for span in docs::spans(&row[1]) {
            drawn.insert(span.trim_end_matches(".rs").trim_end_matches('/').to_owned(), floor);
        }
    }
    let mut faults = Vec::new();
    for (module, floor) in &drawn {
        let place = module.split_once('/').map_or(&**module, |(first, _)| first);
        if floor_of(place) != Some(*floor) {
            faults.push(format!(
                "{module} is drawn on floor {floor}, the test has it on {:?}",
                floor_of(place)
            ));
        }
    }
    let mut modules: Vec<String> = sources()
        .iter()
        .filter(|source| !source.is_for_tests())
        .map(|source| module_of(source).unwrap().to_owned())
        .collect();
    modules.dedup();
    for module in modules {
        if !drawn.keys().any(|place| *place == module || place.starts_with(&format!("{module}/"))) {
            faults.push(format!("{module} is not drawn"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn a_use_tree_is_read_to_its_leaves() {
    let paths: Vec<String> =
        paths_of("{a, b::{c, d::E as F}, g::h}").iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["a", "b::c", "b::d::E", "g::h"]);
    let exported = BTreeMap::from([("Name".to_owned(), "name".to_owned())]);
    let code = "use crate::{Name, x::y}; fn f() { crate::z::g(); not_crate::no(); }";
    let found: Vec<String> = imports(code, &exported).into_iter().map(|(_, module)| module).collect();
    assert_eq!(found, ["name", "x", "z"]);
}
