//! Documents that name what no longer exists are worse than none.

use std::collections::BTreeSet;

use crate::source::{Source, bracketed, finds, root, sources};

const DOCUMENTS: &[&str] = &["README.md", "ARCHITECTURE.md", "CHANGELOG.md"];

/// Names in documents that look like folders of the repository and are inside a data directory.
const IN_A_DATA_DIRECTORY: &[&str] = &["blobs/", "log/", "snapshots/"];

pub(crate) fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// The document without its fenced blocks.
fn prose(document: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in read(document).lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if !fenced && !fence {
            prose.push_str(line);
        }
        prose.push('\n');
    }
    assert!(!fenced, "{document}: a fenced block has no end");
    prose
}

/// The code spans of a text.
pub(crate) fn spans(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows of the first table behind a heading, as cells.
pub(crate) fn table_rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let text = prose(document);
    let behind = text.split_once(heading).unwrap_or_else(|| panic!("{document} has no {heading:?}")).1;
    let rows =
        behind.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).collect()
}

/// The names of all tests: functions with a test's attribute, and what macros that write such functions are given.
fn tests(sources: &[Source]) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for source in sources {
        for attribute in ["#[test]", "#[tokio::test"] {
            for (at, _) in source.code.match_indices(attribute) {
                let behind = &source.code[at..];
                let behind = &behind[1 + bracketed(&behind[1..]).len()..];
                if let Some(function) = finds(behind, "fn ").next() {
                    names.insert(word(&behind[function + 3..]));
                }
            }
        }
        for macro_at in finds(&source.code, "macro_rules!") {
            let behind = source.code[macro_at + "macro_rules!".len()..].trim_start();
            let name = word(behind);
            let body = bracketed(behind[name.len()..].trim_start());
            if !(body.contains("#[test]") || body.contains("#[tokio::test")) {
                continue;
            }
            let call = format!("{name}!");
            for at in finds(&source.code, &call) {
                let given = bracketed(source.code[at + call.len()..].trim_start());
                names.extend(given.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned));
            }
        }
    }
    assert!(names.len() > 150, "only {} tests were found: the search is broken", names.len());
    names
}

/// Long names in code spans are tests' names, and so is everything in a paragraph that begins with "Guarded by".
fn cited_tests(text: &str) -> Vec<String> {
    let is_path = |span: &str| {
        span.split("::").all(|part| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
    };
    let mut cited = Vec::new();
    for paragraph in text.split("\n\n") {
        let guards = paragraph.split_once("Guarded by").map_or("", |(_, behind)| behind);
        cited.extend(spans(guards).into_iter().filter(|span| is_path(span)));
        let long =
            |span: &String| is_path(span) && span.rsplit("::").next().unwrap().matches('_').count() >= 3;
        cited.extend(spans(paragraph).into_iter().filter(long));
    }
    cited
}

#[test]
fn every_test_that_is_cited_exists() {
    let sources = sources();
    let tests = tests(&sources);
    let constants: String = sources.iter().map(|source| &*source.code).collect();
    let mut faults = Vec::new();
    let mut seen = 0;
    for document in DOCUMENTS {
        for cited in cited_tests(&prose(document)) {
            seen += 1;
            let name = cited.rsplit("::").next().unwrap();
            // A setting or a function of ours or of a dependency may have a long name as well.
            let known = |name: &str| finds(&constants, name).next().is_some();
            let guard = prose(document).contains(&format!("Guarded by `{cited}`"));
            if !tests.contains(name) && (guard || !known(name)) {
                faults.push(format!("{document}: {cited}"));
            }
        }
    }
    // Comments that promise a test.
    for source in &sources {
        for line in source.raw.lines().filter(|line| line.contains("Pinned by")) {
            for cited in spans(line) {
                seen += 1;
                if !tests.contains(cited.rsplit("::").next().unwrap()) {
                    faults.push(format!("{}: {cited}", source.path));
                }
            }
        }
    }
    assert!(faults.is_empty(), "tests that don't exist:\n{}", faults.join("\n"));
    assert!(seen > 30, "only {seen} citations were found");
}

/// Every rule of the protocol has an argument, and a test that guards it.
#[test]
fn every_rule_has_its_guard() {
    let text = prose("ARCHITECTURE.md");
    let rules = text.split_once("## The rules").unwrap().1;
    let rules = rules.split_once("\n## ").map_or(rules, |(rules, _)| rules);
    for number in 1..=10 {
        let heading = format!("### L{number}. ");
        let rule = rules.split_once(&heading).unwrap_or_else(|| panic!("there is no {heading:?}")).1;
        let rule = rule.split_once("\n### ").map_or(rule, |(rule, _)| rule);
        assert!(rule.contains("Guarded by `"), "L{number} names no test");
        assert!(rule.len() > 300, "L{number} has no argument");
    }
}

/// Every file that a document or the head of a source file names.
#[test]
fn every_file_that_is_named_exists() {
    let root = root();
    let is_file = |span: &str| {
        let ends = [".rs", ".toml", ".md", ".svg", ".c", ".lock"].iter().any(|end| span.ends_with(end));
        (ends || span.ends_with('/'))
            && span.len() > 3
            && span.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
            && !IN_A_DATA_DIRECTORY.contains(&span)
    };
    let mut faults = Vec::new();
    let mut seen = 0;
    let mut look = |from: &str, span: &str, folders: &[&str]| {
        seen += 1;
        if !folders.iter().any(|folder| root.join(folder).join(span).exists()) {
            faults.push(format!("{from}: {span}"));
        }
    };
    for document in DOCUMENTS {
        let text = prose(document);
        for span in spans(&text).iter().filter(|span| is_file(span)) {
            look(document, span, &["", "src", "tests"]);
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let target = link.0.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                look(document, target, &[""]);
            }
        }
    }
    for source in sources() {
        let folder = source.path.rsplit_once('/').unwrap().0;
        let own = source.path.trim_end_matches(".rs");
        for line in source.raw.lines().filter(|line| line.trim_start().starts_with("//")) {
            // Also outside of code spans, in drawings.
            let words = line.split(|c: char| !c.is_ascii_alphanumeric() && !"_-./".contains(c));
            for word in words.filter(|word| word.ends_with(".rs") && is_file(word)) {
                look(&source.path, word, &["", "src", folder, own, "src/table", "tests"]);
            }
        }
    }
    assert!(faults.is_empty(), "files that don't exist:\n{}", faults.join("\n"));
    assert!(seen > 50, "only {seen} names were found");
}
