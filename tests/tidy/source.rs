//! Reads the repository's files, and tells code from comments, and what ships from what tests.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// One Rust file.
pub(crate) struct Source {
    /// From the repository's root, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) raw: String,
    /// With comments and the contents of literals blanked out, line by line as in `raw`.
    pub(crate) code: String,
    /// As `code`, with everything under `#[cfg(test)]` blanked out as well. Empty for what only tests need.
    pub(crate) shipped: String,
}

impl Source {
    fn new(path: String, raw: String) -> Self {
        let code = blank(&raw);
        let shipped = if path.starts_with("src/") { without_tests(&code) } else { String::new() };
        Self { path, raw, code, shipped }
    }

    /// Whether it is compiled for tests only.
    pub(crate) fn is_for_tests(&self) -> bool {
        self.shipped.is_empty()
    }
}

/// The files in these folders that end so, sorted, as (path from the root, content).
pub(crate) fn files(folders: &[&str], ends: &[&str]) -> Vec<(String, String)> {
    fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
        let Ok(items) = fs::read_dir(folder) else { return };
        for item in items {
            let path = item.unwrap().path();
            if path.is_dir() { walk(&path, into) } else { into.push(path) }
        }
    }
    let root = root();
    let mut found = Vec::new();
    for folder in folders {
        let path = root.join(folder);
        if path.is_file() { found.push(path) } else { walk(&path, &mut found) }
    }
    found.sort();
    let relative = |path: &Path| {
        path.strip_prefix(&root).unwrap().to_str().unwrap().replace(std::path::MAIN_SEPARATOR, "/")
    };
    let wanted = found.iter().filter(|path| ends.iter().any(|end| path.to_str().unwrap().ends_with(end)));
    wanted.map(|path| (relative(path), fs::read_to_string(path).unwrap())).collect()
}

/// Every Rust file of the repository.
pub(crate) fn sources() -> Vec<Source> {
    let mut sources: Vec<Source> =
        files(&["src", "tests", "benches", "examples", "fuzz/fuzz_targets"], &[".rs"])
            .into_iter()
            .map(|(path, raw)| Source::new(path, raw))
            .collect();
    assert!(sources.len() > 50, "only {} files were found: the search is broken", sources.len());
    let test_modules: BTreeSet<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs");
        if test_modules.iter().any(|module| stem == module || stem.starts_with(&format!("{module}/"))) {
            source.shipped.clear();
        }
    }
    sources
}

/// What says that a module is for tests; the second that the fuzzer, which asserts as they do, uses it as well.
const FOR_TESTS: [&str; 2] = ["#[cfg(test)]", "#[cfg(any(test, feature = \"test-support\"))]"];

/// The paths, without `.rs`, of the modules that this file declares under one of [`FOR_TESTS`].
fn test_modules(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap();
    let inside = match file {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        other => format!("{folder}/{}", other.trim_end_matches(".rs")),
    };
    let attributes = source.raw.lines().map(|line| FOR_TESTS.contains(&line.trim()));
    let items = attributes.zip(source.code.lines().skip(1)).filter(|(is_for_tests, _)| *is_for_tests);
    items
        .filter_map(|(_, item)| {
            let item = item.trim_start();
            let item = item.strip_prefix("pub(crate) ").unwrap_or(item).strip_prefix("mod ")?;
            let (name, _) = item.split_once(';').filter(|(name, _)| !name.contains('{'))?;
            Some(format!("{inside}/{name}"))
        })
        .collect()
}

/// The line, from 1, of a place in a text.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Where `needle` stands in the code as a word of its own.
pub(crate) fn finds<'a>(code: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(needle).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + needle.len()..].chars().next();
        let begins = needle.starts_with(is_word) && before.is_some_and(is_word);
        let ends = needle.ends_with(is_word) && after.is_some_and(is_word);
        !begins && !ends
    })
}

/// From an opening bracket at the text's start to behind the one that closes it.
pub(crate) fn bracketed(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..=at];
        }
    }
    text
}

/// Blanks comments and the contents of literals.
fn blank(raw: &str) -> String {
    let chars: Vec<char> = raw.chars().collect();
    let mut out = String::with_capacity(raw.len());
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut i = 0;
    let keep_line = |c: char| if c == '\n' { '\n' } else { ' ' };
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                out.push(' ');
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            while i < chars.len() {
                let opens = at(i) == '/' && at(i + 1) == '*';
                let closes = at(i) == '*' && at(i + 1) == '/';
                depth = depth + i32::from(opens) - i32::from(closes);
                let step = if opens || closes { 2 } else { 1 };
                (i..i + step).for_each(|i| out.push(keep_line(at(i))));
                i += step;
                if depth == 0 {
                    break;
                }
            }
        } else if c == 'r'
            && (at(i + 1) == '"' || at(i + 1) == '#')
            && !(i > 0 && is_word(at(i - 1)) && at(i - 1) != 'b')
        {
            let hashes = (i + 1..chars.len()).take_while(|&j| chars[j] == '#').count();
            if at(i + 1 + hashes) != '"' {
                // A raw identifier.
                out.push(c);
                i += 1;
                continue;
            }
            let ends = |j: usize| chars[j] == '"' && (1..=hashes).all(|k| at(j + k) == '#');
            let body = i + 2 + hashes;
            let close = (body..chars.len()).find(|&j| ends(j)).unwrap_or(chars.len() - 1);
            (i..body).for_each(|j| out.push(chars[j]));
            (body..close).for_each(|j| out.push(keep_line(chars[j])));
            (close..=close + hashes).for_each(|j| out.push(at(j)));
            i = close + hashes + 1;
        } else if c == '"' || (c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'')) {
            out.push(c);
            i += 1;
            while i < chars.len() && chars[i] != c {
                let step = if chars[i] == '\\' { 2 } else { 1 };
                (i..i + step).for_each(|j| out.push(keep_line(at(j))));
                i += step;
            }
            out.push(c);
            i += 1;
        } else {
            out.push(c);
            i += 1;
        }
    }
    out
}

/// Blanks every item under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(ATTRIBUTE) {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let body = ATTRIBUTE.len() + item[ATTRIBUTE.len()..].find(['{', ';']).unwrap_or(0);
        let end = body + if item[body..].starts_with('{') { bracketed(&item[body..]).len() } else { 1 };
        out.extend(item[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

#[test]
fn code_is_told_from_comments_and_literals() {
    let code = blank(
        "a // x::y\nlet s = \"crate::b\\\"\"; /* c\n /* d */ */ 'l' '\\'' &'e str r#\"f\"g\"# b\"h\" i\n",
    );
    assert_eq!(code.lines().count(), 3);
    for gone in ["x::y", "crate", "c\n", "d", "l'", "f", "g", "h"] {
        assert!(!code.contains(gone), "{gone:?} in {code:?}");
    }
    for kept in ["a ", "let s", "&'e str", " i"] {
        assert!(code.contains(kept), "{kept:?} in {code:?}");
    }
    assert_eq!(finds("unwrap() my_unwrap() unwrap_or()", "unwrap").count(), 1);
    let modules = "#[cfg(test)]\nmod a;\n    #[cfg(any(test, feature = \"test-support\"))]\npub(crate) mod b;\n\
                   #[cfg(feature = \"test-support\")]\nmod c;\n#[cfg(test)]\nmod d {}\nmod e;\n";
    assert_eq!(
        test_modules(&Source::new("src/x/mod.rs".to_owned(), modules.to_owned())),
        ["src/x/a", "src/x/b"]
    );
    let shipped = without_tests("a #[cfg(test)] mod t { b { } } c #[cfg(test)] mod u; d");
    assert!(shipped.split_whitespace().eq(["a", "c", "d"]), "{shipped:?}");
}
