//! May we use what we use? Licences, sources and pins of every package, against `deny.toml`.
//!
//! cargo-deny asks the same and more. This asks it wherever the tests run, without an installation and offline. What it
//! can't ask is whether a new advisory concerns a package: for that, run `cargo deny check advisories`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// An alpha may change with each release, and what is stored must stay readable.
const PINNED: [&str; 6] =
    ["openraft", "openraft-macros", "openraft-rt", "openraft-rt-tokio", "bincode", "sled"];

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn cargo_metadata(more: &[&str]) -> Result<Value, String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--all-features"])
        .args(more)
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The packages: of all platforms where their sources are here, else of this one; and whether it is all.
fn packages() -> (Vec<Value>, bool) {
    let of_all = cargo_metadata(&[]);
    let all = of_all.is_ok();
    let metadata = of_all.or_else(|_| {
        let rustc = Command::new("rustc").arg("-vV").output().unwrap();
        let text = String::from_utf8(rustc.stdout).unwrap();
        let host = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        cargo_metadata(&["--filter-platform", host])
    });
    let mut metadata = metadata.unwrap_or_else(|error| panic!("cargo metadata: {error}"));
    let packages: Vec<Value> = metadata["packages"].as_array_mut().unwrap().drain(..).collect();
    assert!(packages.len() > 80, "only {} packages", packages.len());
    (packages, all)
}

/// The strings of a list in `deny.toml`, by the line that opens it; comments don't count.
fn listed(file: &str, section: &str, opening: &str) -> BTreeSet<String> {
    let behind = file.split_once(section).unwrap().1;
    let list = behind.split_once(opening).unwrap().1.split_once("\n]").unwrap().0;
    let lines = list.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// Whether an SPDX expression can be met with these licences. `A/B` is the old form of `A OR B`.
fn permits(allowed: &BTreeSet<String>, expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let (permitted, rest) = any_of(allowed, &tokens);
    permitted && rest.is_empty()
}

fn any_of<'a>(allowed: &BTreeSet<String>, tokens: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut permitted, mut rest) = all_of(allowed, tokens);
    while let ["OR", behind @ ..] = rest {
        let (other, behind) = all_of(allowed, behind);
        (permitted, rest) = (permitted | other, behind);
    }
    (permitted, rest)
}

fn all_of<'a>(allowed: &BTreeSet<String>, tokens: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut permitted, mut rest) = one(allowed, tokens);
    while let ["AND", behind @ ..] = rest {
        let (other, behind) = one(allowed, behind);
        (permitted, rest) = (permitted & other, behind);
    }
    (permitted, rest)
}

fn one<'a>(allowed: &BTreeSet<String>, tokens: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    match tokens {
        ["(", inner @ ..] => {
            let (permitted, rest) = any_of(allowed, inner);
            (permitted && rest.first() == Some(&")"), rest.get(1..).unwrap_or_default())
        }
        [licence, "WITH", exception, rest @ ..] => {
            (allowed.contains(&format!("{licence} WITH {exception}")), rest)
        }
        [licence, rest @ ..] => (allowed.contains(*licence), rest),
        [] => (false, tokens),
    }
}

#[test]
fn every_package_comes_from_crates_io_under_a_licence_that_is_allowed() {
    let allowed = listed(&read("deny.toml"), "[licenses]", "allow = [");
    let mut faults = Vec::new();
    let mut needed = BTreeSet::new();
    let (packages, all) = packages();
    for package in packages {
        let (name, licence) = (package["name"].as_str().unwrap(), package["license"].as_str().unwrap_or(""));
        if !permits(&allowed, licence) {
            faults.push(format!("{name}: the licence {licence:?}"));
        }
        for one in &allowed {
            let without: BTreeSet<String> = allowed.iter().filter(|other| *other != one).cloned().collect();
            if !permits(&without, licence) {
                needed.insert(one.clone());
            }
        }
        let source = package["source"].as_str();
        if source != Some(CRATES_IO) && name != env!("CARGO_PKG_NAME") {
            faults.push(format!("{name}: the source {source:?}"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    // What another platform's packages need is not seen without their sources.
    assert!(
        !all || needed == allowed,
        "{needed:?}, and deny.toml allows {allowed:?}: one that no package needs"
    );
}

/// The lock file has all platforms' packages, also those whose sources aren't here.
#[test]
fn the_lock_file_knows_one_source_and_every_checksum() {
    let lock = read("Cargo.lock");
    let mut seen = 0;
    for package in
        lock.split("[[package]]").skip(1).filter(|package| !package.contains("name = \"leasehold\""))
    {
        seen += 1;
        assert!(package.contains(&format!("source = \"{CRATES_IO}\"")), "{package}");
        assert!(package.contains("checksum = \""), "{package}");
    }
    assert!(seen > 100, "only {seen} packages");
}

/// What the fuzzer finds is about what is shipped: it is built of the same versions, and of its own driver.
#[test]
fn the_fuzzer_is_built_of_the_same_packages() {
    const ITS_OWN: [&str; 4] = ["arbitrary", "jobserver", "leasehold-fuzz", "libfuzzer-sys"];
    let (ours, fuzzers) = (read("Cargo.lock"), read("fuzz/Cargo.lock"));
    // Name, version, source and checksum; which of several versions another one takes doesn't matter here.
    let packages = |lock: &str| -> BTreeSet<String> {
        let blocks = lock.split("[[package]]").skip(1);
        blocks.map(|package| package.split("dependencies = [").next().unwrap().trim().to_owned()).collect()
    };
    let ours = packages(&ours);
    let fuzzers = packages(&fuzzers);
    assert!(fuzzers.len() > 100, "only {} packages", fuzzers.len());
    for package in fuzzers.difference(&ours) {
        let name = package.split('"').nth(1).unwrap();
        assert!(ITS_OWN.contains(&name), "copy Cargo.lock to fuzz/Cargo.lock and build it anew: {package}");
    }
}

#[test]
fn what_must_not_move_is_pinned() {
    let (manifest, lock) = (read("Cargo.toml"), read("Cargo.lock"));
    let mut versions = BTreeSet::new();
    for name in PINNED {
        let line = manifest.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap();
        let version = line.split("version = \"=").nth(1).unwrap_or_else(|| panic!("not pinned: {line}"));
        let version = version.split('"').next().unwrap();
        let locked: Vec<&str> =
            lock.split("[[package]]").filter(|p| p.contains(&format!("name = \"{name}\"\n"))).collect();
        assert_eq!(locked.len(), 1, "{name}");
        assert!(locked[0].contains(&format!("version = \"{version}\"")), "{name}: {}", locked[0]);
        if name.starts_with("openraft") {
            versions.insert(version.to_owned());
        }
    }
    assert_eq!(versions.len(), 1, "{versions:?}");
    let version = versions.first().unwrap();
    assert_eq!(
        read("deny.toml").matches(&format!("{version}\"")).count(),
        2,
        "deny.toml bans other versions"
    );
}

/// An advisory is set aside with a reason, for a package that is there: its name begins the reason.
#[test]
fn advisories_are_set_aside_for_packages_that_are_there() {
    let (deny, lock) = (read("deny.toml"), read("Cargo.lock"));
    let list = deny.split_once("ignore = [").unwrap().1.split_once("\n]").unwrap().0;
    let mut seen = 0;
    for line in list.lines().filter(|line| line.contains("id = ")) {
        seen += 1;
        let reason = line.split_once("reason = \"").unwrap().1;
        let package = reason.split(' ').next().unwrap();
        assert!(lock.contains(&format!("name = \"{package}\"\n")), "no package {package:?}: {line}");
        assert!(reason.len() > 60, "{line}");
    }
    assert!(seen > 0);
}

#[test]
fn expressions_of_licences() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "Apache-2.0".to_owned(), "A WITH B".to_owned()]);
    for good in ["MIT", "X OR MIT", "X/MIT", "(X OR MIT) AND Apache-2.0", "A WITH B", "X AND Y OR MIT"] {
        assert!(permits(&allowed, good), "{good}");
    }
    for bad in ["", "X", "MIT AND X", "(MIT OR X) AND Y", "A", "A WITH C", "(MIT", "MIT MIT"] {
        assert!(!permits(&allowed, bad), "{bad}");
    }
}
