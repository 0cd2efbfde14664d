//! The sources use the words of the field: words of the project's earlier private vocabulary do not
//! come back.

#[path = "common/sources.rs"]
mod sources;

use std::fs;
use std::path::Path;

use sources::sources;

/// Words that are refused, as a whole word or as a part of an identifier (`SeatGuard`,
/// `seat_guard`), in code and comments.
const REFUSED: &[&str] = &[
    "bears",
    "blame",
    "clump",
    "contender",
    "crowd",
    "deed",
    "deeds",
    "dialect",
    "dialects",
    "doze",
    "duel",
    "foothold",
    "footing",
    "glance",
    "heir",
    "judge",
    "kick",
    "kin",
    "knob",
    "knobs",
    "leftover",
    "leftovers",
    "mend",
    "parcel",
    "prelude",
    "seat",
    "seats",
    "shelf",
    "shelves",
    "sleeper",
    "sleepers",
    "speaker",
    "storm",
    "storms",
    "stride",
    "suspect",
    "tally",
    "tongue",
    "tongues",
    "twin",
    "verdict",
    "vitals",
    "voice",
    "weather",
    "whoever",
    "whom",
    "witness",
    "witnesses",
    "wreak",
];

/// `std::prelude` and the like are names of others.
const ALLOWED_LINES: &[&str] = &["::prelude"];

/// The words of a line, in lower case: identifiers are split at underscores and at changes of case.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut last_was_lower = false;
    for c in line.chars() {
        if !c.is_ascii_alphabetic() || (c.is_ascii_uppercase() && last_was_lower) {
            words.push(String::new());
        }
        if c.is_ascii_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.push(c.to_ascii_lowercase());
        }
        last_was_lower = c.is_ascii_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

fn refused_words(line: &str) -> Vec<String> {
    if ALLOWED_LINES.iter().any(|allowed| line.contains(allowed)) {
        return Vec::new();
    }
    words(line).into_iter().filter(|word| REFUSED.contains(&word.as_str())).collect()
}

#[test]
fn no_source_uses_a_refused_word() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut files = 0;
    for path in sources(&root.join("src")) {
        files += 1;
        let name = path.strip_prefix(root).unwrap().display().to_string();
        for word in refused_words(&name) {
            found.push(format!("{name}: the file is named `{word}`"));
        }
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            for word in refused_words(line) {
                found.push(format!("{name}:{}: `{word}`", number + 1));
            }
        }
    }
    assert!(files > 100, "only {files} files were read");
    assert!(found.is_empty(), "{} refused words:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_reader_sees_words_inside_identifiers() {
    assert_eq!(
        refused_words("let seat_count = SeatGuard::new(voices, MOST_SEATS);"),
        ["seat", "seat", "seats"]
    );
    assert_eq!(refused_words("// inverse, prejudged, seating"), Vec::<String>::new());
}
