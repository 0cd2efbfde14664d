//! `docs/INVARIANTS.md` and the code name the same invariants, and every test that the document
//! names exists.

#[path = "common/sources.rs"]
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use sources::sources;

/// One entry of the document.
#[derive(Debug, Default)]
struct Entry {
    has_statement: bool,
    tests: Vec<String>,
    held: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The texts between backticks.
fn quoted(line: &str) -> Vec<String> {
    line.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn is_snake_case(name: &str) -> bool {
    name.matches('_').count() >= 2 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

fn document() -> BTreeMap<String, Entry> {
    let text = fs::read_to_string(root().join("docs/INVARIANTS.md")).unwrap();
    let mut entries = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            current = quoted(heading).remove(0);
            assert!(entries.insert(current.clone(), Entry::default()).is_none(), "{current} is listed twice");
            continue;
        }
        let Some(entry) = entries.get_mut(&current) else { continue };
        if line.starts_with("- Statement: ") {
            entry.has_statement = true;
        } else if let Some(tests) = line.strip_prefix("- Tested by: ") {
            entry.tests = quoted(tests);
        } else if let Some(held) = line.strip_prefix("- Held: ") {
            entry.held = held.to_owned();
        }
    }
    entries
}

#[test]
fn every_entry_is_complete_and_says_whether_it_is_held() {
    let entries = document();
    assert_eq!(entries.len(), 63);
    for (name, entry) in &entries {
        assert!(entry.has_statement, "{name} has no statement");
        let (held, reason) = entry.held.split_once(':').unwrap_or((&entry.held, ""));
        match held {
            "yes" => assert!(!entry.tests.is_empty(), "{name} is held, and no test says so"),
            "partly" => assert!(!reason.is_empty(), "{name} is held in part: which part is not?"),
            "no" => {}
            other => panic!("{name}: held is `{other}`"),
        }
    }
}

#[test]
fn every_test_that_the_document_names_exists() {
    let mut functions = BTreeSet::new();
    for path in ["src", "tests"].into_iter().flat_map(|folder| sources(&root().join(folder))) {
        let text = fs::read_to_string(path).unwrap();
        for (at, _) in text.match_indices("fn ") {
            let name: String =
                text[at + 3..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            functions.insert(name);
        }
    }
    for (name, entry) in document() {
        for test in entry.tests {
            assert!(functions.contains(&test), "{name}: there is no test `{test}`");
        }
    }
}

#[test]
fn every_invariant_that_the_code_names_is_in_the_document() {
    let entries = document();
    let mut named = BTreeSet::new();
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|line| line.contains("Invariant: `")) {
            for name in quoted(line).into_iter().filter(|name| is_snake_case(name)) {
                assert!(entries.contains_key(&name), "{}: `{name}` is not in the document", path.display());
                named.insert(name);
            }
        }
    }
    assert!(named.len() > 15, "only {} names found: the reader is broken", named.len());
}
