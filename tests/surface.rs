//! The public surface stays small: `docs/public-api.txt` lists it, and `.ci/public-api` compares
//! that list with the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Items (modules, types, traits, free functions, constants) outside `pool` and `timecoin`.
const MAX_ITEMS: usize = 150;

/// Modules whose items do not count against the bound.
const UNCOUNTED: &[&str] = &["peerpool::pool", "peerpool::timecoin"];

/// Kinds of items that are counted wherever they stand.
const KINDS: &[&str] = &["mod", "struct", "enum", "trait", "macro", "static"];

/// Kinds that are members when they stand inside a type or trait, and items when they stand in a
/// module.
const MEMBER_KINDS: &[&str] = &["fn", "const", "type"];

/// The path of the item that a line of the list declares, if it declares one.
fn declared_item(line: &str) -> Option<String> {
    let rest = line.trim_start_matches("#[non_exhaustive] ").strip_prefix("pub ")?;
    let rest = ["unsafe ", "async "].iter().fold(rest, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
    let rest = rest.strip_prefix("const fn ").map_or(rest.to_owned(), |name| format!("fn {name}"));
    let (kind, path) = rest.split_once(' ')?;
    let path: String = path.chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
    let path = path.trim_end_matches(':').to_owned();
    let is_member =
        path.rsplit("::").nth(1).is_some_and(|parent| parent.chars().next().is_some_and(char::is_uppercase));
    let is_item = KINDS.contains(&kind) || (MEMBER_KINDS.contains(&kind) && !is_member);
    is_item.then_some(path)
}

#[test]
fn at_most_150_public_items_outside_pool_and_timecoin() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/public-api.txt");
    let text = fs::read_to_string(list).unwrap();
    let items: BTreeSet<String> = text
        .lines()
        .filter_map(declared_item)
        .filter(|path| !UNCOUNTED.iter().any(|module| path.starts_with(module)))
        .collect();
    assert!(items.len() > 50, "only {} items found: the reader is broken", items.len());
    assert!(items.len() <= MAX_ITEMS, "{} public items:\n{:#?}", items.len(), items);
}

#[test]
fn internal_modules_are_not_in_the_list() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/public-api.txt");
    let text = fs::read_to_string(list).unwrap();
    for module in ["base", "sync", "broadcast", "connection", "node"] {
        let path = format!("peerpool::{module}::");
        let leaks: Vec<&str> = text.lines().filter(|line| line.contains(&path)).collect();
        assert!(leaks.is_empty(), "`{module}` is internal, but the surface names it:\n{}", leaks.join("\n"));
    }
}

#[test]
fn the_reader_tells_items_from_members() {
    assert_eq!(declared_item("pub struct peerpool::Node").as_deref(), Some("peerpool::Node"));
    assert_eq!(
        declared_item("pub fn peerpool::canonical(a: X) -> X").as_deref(),
        Some("peerpool::canonical")
    );
    assert_eq!(declared_item("pub const fn peerpool::Message::new(k: u16) -> Self"), None);
    assert_eq!(declared_item("pub peerpool::Lane::Bulk"), None);
    assert_eq!(
        declared_item("#[non_exhaustive] pub enum peerpool::SendError").as_deref(),
        Some("peerpool::SendError")
    );
}
