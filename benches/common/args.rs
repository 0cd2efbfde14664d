//! The command line of a bench: switches, flags with a value, and words.

use std::fmt::Debug;
use std::path::PathBuf;
use std::str::FromStr;

/// Prints tables instead of running criterion.
const TABLES: &str = "--ratios";
/// Writes the results of tables to a directory.
pub(crate) const JSON: &str = "--json";
/// Set by `cargo bench`, not by `cargo test`.
pub(crate) const BENCH: &str = "--bench";

/// The arguments of this process.
#[derive(Clone, Debug)]
pub(crate) struct Args(Vec<String>);

impl Args {
    pub(crate) fn parse() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    /// The arguments after `flag` if this process was started as a child process by that flag.
    pub(crate) fn after_child_flag(&self, flag: &str) -> Option<&[String]> {
        self.0.split_first().and_then(|(first, rest)| (first == flag).then_some(rest))
    }

    /// Whether tables are wanted instead of criterion.
    pub(crate) fn wants_tables(&self) -> bool {
        self.has(TABLES)
    }

    /// Whether `cargo bench` runs this, and not `cargo test`.
    pub(crate) fn is_bench(&self) -> bool {
        self.has(BENCH)
    }

    /// Where to write results.
    pub(crate) fn json_directory(&self) -> Option<PathBuf> {
        self.value(JSON).map(PathBuf::from)
    }

    /// # Panics
    /// At an argument that is neither one of these nor known to every bench.
    pub(crate) fn check(&self, with_value: &[&str], switches: &[&str]) {
        let mut args = self.0.iter();
        while let Some(arg) = args.next() {
            if with_value.contains(&arg.as_str()) || arg == JSON {
                assert!(args.next().is_some(), "{arg} needs a value");
            } else if !switches.contains(&arg.as_str()) && arg != TABLES && arg != BENCH {
                panic!(
                    "unknown argument {arg}; known: {TABLES}, {JSON} DIRECTORY, {with_value:?} VALUE, {switches:?}"
                );
            }
        }
    }

    pub(crate) fn has(&self, switch: &str) -> bool {
        self.0.iter().any(|arg| arg == switch)
    }

    /// The text after `flag`.
    pub(crate) fn value(&self, flag: &str) -> Option<&str> {
        let at = self.0.iter().position(|arg| arg == flag)?;
        Some(self.0.get(at + 1).unwrap_or_else(|| panic!("{flag} needs a value")))
    }

    /// The parsed value of `flag`, if it is given.
    pub(crate) fn parsed<T: FromStr<Err: Debug>>(&self, flag: &str) -> Option<T> {
        self.value(flag).map(|text| parse(flag, text))
    }

    /// The parsed value of `flag`, or `default`.
    pub(crate) fn number<T: FromStr<Err: Debug>>(&self, flag: &str, default: T) -> T {
        self.parsed(flag).unwrap_or(default)
    }

    /// The values of `flag`, separated by commas.
    pub(crate) fn numbers(&self, flag: &str, default: &[usize]) -> Vec<usize> {
        let list = |text: &str| text.split(',').map(|part| parse(flag, part)).collect();
        self.value(flag).map_or_else(|| default.to_vec(), list)
    }

    /// Whether `name` contains one of the texts after `--only`, or there is no `--only`.
    pub(crate) fn selects(&self, name: &str) -> bool {
        self.value("--only").is_none_or(|only| only.split(',').any(|part| name.contains(part)))
    }

    /// Arguments that are neither flags nor the value of `--json`.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        let value = self.value(JSON);
        self.0.iter().map(String::as_str).filter(move |arg| !arg.starts_with('-') && Some(*arg) != value)
    }
}

fn parse<T: FromStr<Err: Debug>>(flag: &str, text: &str) -> T {
    text.parse().unwrap_or_else(|error| panic!("{flag} {text}: {error:?}"))
}
