//! Enforces the layers of the crate: imports point down only, siblings never import each other, the
//! command uses the library's public API only, and the pure modules do no I/O and read no clock.

#[path = "common/sources.rs"]
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use sources::sources;

/// The top-level modules ("rooms") by layer, lowest first. Rooms of one layer are siblings.
const LAYERS: &[&[&str]] = &[
    &["base", "sync"],
    &["pool", "wire", "transport", "address_book", "broadcast"],
    &["connection"],
    &["node"],
    &["timecoin"],
];

/// Rooms without I/O, clock and runtime.
const PURE_ROOMS: &[&str] = &["pool", "wire"];

/// What a pure room must not mention.
const IMPURE: &[&str] =
    &["tokio", "Instant::now", "SystemTime", "TcpStream", "TcpListener", "thread::spawn", "std::fs"];

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The code of a file without comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The rooms that a file names after `crate::`, including those in the braces of a grouped import.
fn named_rooms(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| -> String {
            text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => rooms.push(word(std::mem::take(&mut item).trim())),
                    _ if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            rooms.push(word(item.trim()));
        } else {
            rooms.push(word(rest));
        }
    }
    rooms
}

fn room_of(path: &Path, src: &Path) -> String {
    let below = path.strip_prefix(src).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn imports_point_down_only() {
    let src = src();
    let mut checked = 0;
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let room = room_of(&path, &src);
        if room == "lib" || room == "bin" {
            continue;
        }
        let own = layer(&room).unwrap_or_else(|| panic!("the room `{room}` has no layer"));
        for named in named_rooms(&code(&path)) {
            let Some(other) = layer(&named) else { continue };
            checked += 1;
            let allowed = named == room || other < own;
            if !allowed {
                wrong.push(format!("{} uses crate::{named}", path.strip_prefix(&src).unwrap().display()));
            }
        }
    }
    assert!(checked > 100, "only {checked} imports found: the scanner is broken");
    assert!(wrong.is_empty(), "imports that point up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn the_command_uses_the_public_api_only() {
    let bin = src().join("bin");
    let files = sources(&bin);
    assert!(files.len() > 5, "only {} files found: the scanner is broken", files.len());
    let modules: Vec<String> = files.iter().map(|path| code(path)).collect();
    assert!(modules.iter().any(|code| code.contains("peerpool::")), "the command does not use the library");
    for (path, code) in files.iter().zip(&modules) {
        // `crate::` is the command itself. A room of the library is reachable through `peerpool::`
        // only.
        assert!(!code.contains("#[path"), "{} includes a file by path", path.display());
        assert!(!code.contains("include!("), "{} includes a file", path.display());
    }
}

#[test]
fn pool_and_wire_do_no_io_and_read_no_clock() {
    for room in PURE_ROOMS {
        for path in sources(&src().join(room)) {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            if ["models", "tests"].contains(&name) {
                continue;
            }
            let code = code(&path);
            let shipped = code.split("#[cfg(all(test").next().unwrap_or_default();
            for word in IMPURE {
                assert!(!shipped.contains(word), "{} mentions {word}", path.display());
            }
        }
    }
}

#[test]
fn the_scanner_sees_grouped_and_plain_imports() {
    let code = "use crate::{base::{Lane, Tick}, pool::Pool};\nfn f() { crate::wire::x(); my_crate::connection::y(); }";
    assert_eq!(named_rooms(code), ["base", "pool", "wire"]);
}
