//! The configuration file: every knob of a node, documented, with its default; and `peerpool config`, which prints it.

mod kinds;
mod table;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use toml::{Table, Value};

use peerpool::address_book::AddressBookConfig;
use peerpool::node::NodeConfig;
use peerpool::transport::{KeepAlive, TcpConfig};

use super::output::{failure, try_print as print};
pub(super) use kinds::duration;
use table::{KNOBS, Knob};

/// Print every knob of a node as a commented TOML file with its defaults, ready for `peerpool node --config`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  peerpool config > node.toml                     start from the defaults
  peerpool config --config node.toml              what a file amounts to, with everything it leaves out")]
pub(super) struct ConfigArgs {
    /// Print the settings of this file instead of the defaults; also checks it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Everything that the file sets.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) node: NodeConfig,
    pub(super) tcp: TcpConfig,
    pub(super) book: AddressBookConfig,
    keepalive: bool,
    keepalive_times: KeepAlive,
}

impl Default for Settings {
    fn default() -> Self {
        let tcp = TcpConfig::default();
        Self {
            node: NodeConfig::recommended(),
            book: AddressBookConfig::default(),
            keepalive: tcp.keepalive.is_some(),
            keepalive_times: tcp.keepalive.unwrap_or_default(),
            tcp,
        }
    }
}

impl Settings {
    /// The settings of a file.
    ///
    /// # Errors
    /// One line that names the file, the key and what is wrong.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let table = text.parse::<Table>().map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            format!("line {line}: {}", error.message().replace('\n', " "))
        })?;
        let mut settings = Self::default();
        settings.set_all("", &table)?;
        settings.tcp.keepalive = settings.keepalive.then_some(settings.keepalive_times);
        settings.node.check().map_err(|error| error.to_string())?;
        Ok(settings)
    }

    fn set_all(&mut self, section: &str, table: &Table) -> Result<(), String> {
        for (key, value) in table {
            let name = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
            if let Some(knob) = knobs().find(|knob| knob.name == name) {
                (knob.set)(self, value).map_err(|why| format!("{name}: {why}"))?;
                continue;
            }
            match value {
                Value::Table(below) if is_section(&name) => self.set_all(&name, below)?,
                _ => return Err(unknown(&name)),
            }
        }
        Ok(())
    }

    /// The settings as a commented file.
    pub(super) fn to_toml(&self) -> String {
        let mut out = String::from(HEAD);
        for section in KNOBS {
            if let Some((section, _)) = section.first().and_then(|knob| knob.name.rsplit_once('.')) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\n[{section}]\n");
            }
            for knob in *section {
                let key = knob.name.rsplit('.').next().unwrap_or(knob.name);
                let _ = match (knob.get)(self) {
                    Some(value) => writeln!(out, "\n# {}\n{key} = {value}", knob.doc),
                    None => writeln!(out, "\n# {}\n# {key} = {}", knob.doc, knob.example),
                };
            }
        }
        out
    }
}

fn knobs() -> impl Iterator<Item = &'static Knob> {
    KNOBS.iter().flat_map(|section| section.iter())
}

fn is_section(name: &str) -> bool {
    knobs().any(|knob| knob.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// Names a key that there is not, and the one that was probably meant.
fn unknown(name: &str) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |knob: &&Knob| {
        // A key in the wrong section is as near as a slip of the finger.
        let moved = distance(&last(knob.name), &last(name)) + 1;
        distance(knob.name, name).min(moved)
    };
    let near = knobs().min_by_key(distance).filter(|knob| distance(knob) <= name.len() / 3 + 1);
    match near {
        Some(knob) => format!("unknown key `{name}`; did you mean `{}`?", knob.name),
        None => format!("unknown key `{name}`; `peerpool config` lists all keys"),
    }
}

/// How many characters must be put in, taken out or changed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

/// Prints the configuration.
pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let settings = match &args.config {
        Some(path) => match Settings::load(path) {
            Ok(settings) => settings,
            Err(why) => return failure(&why),
        },
        None => Settings::default(),
    };
    match print(settings.to_toml().trim_end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failure(&why),
    }
}

const HEAD: &str = "\
# Every knob of a peerpool node, with its default. What is left out keeps it; a key that does not exist is an error.
# Durations carry their unit: \"250ms\", \"10s\", \"5min\", \"24h\". Sizes are bytes: 4096, \"64 KiB\", \"8 MiB\".
# Counts are whole numbers. Knobs under [runtime] may change while a node runs.
";

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_parses_to_what_was_printed() {
        let defaults = Settings::default().to_toml();
        let parsed = Settings::parse(&defaults).unwrap();
        assert_eq!(parsed.to_toml(), defaults);
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Settings::default()));
    }

    #[test]
    fn every_example_of_an_unset_knob_parses() {
        let text: String = Settings::default()
            .to_toml()
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => rest,
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n");
        let parsed = Settings::parse(&text).unwrap();
        assert!(parsed.node.genesis.is_some() && parsed.tcp.send_buffer.is_some());
        assert!(!parsed.to_toml().contains("\n# genesis ="));
    }

    #[test]
    fn names_are_unique_and_sections_hold_together() {
        let mut names: Vec<_> = knobs().map(|knob| knob.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for section in KNOBS {
            let of = |knob: &Knob| knob.name.rsplit_once('.').map(|(section, _)| section);
            assert!(section.iter().all(|knob| of(knob) == of(&section[0])));
        }
    }

    #[test]
    fn no_field_is_forgotten() {
        // What `Debug` derives names every field; each that holds a value must be some knob's last word.
        let text = format!("{:#?}", Settings::default());
        let fields = text.lines().filter_map(|line| line.trim().split_once(": "));
        let holds = |(_, value): &(&str, &str)| !value.ends_with('{') && !value.ends_with('(');
        // Set by the dialect; the penalties are an array; the rest are parts of values that are shown whole.
        let excused = ["window"];
        for (field, _) in fields.filter(holds).filter(|(field, _)| !excused.contains(field)) {
            let last = |knob: &Knob| knob.name.rsplit('.').next().is_some_and(|last| last.ends_with(field));
            assert!(knobs().any(last), "no knob sets `{field}`");
        }
    }

    /// Another value of the same kind.
    fn another(value: &Value) -> Value {
        match value {
            Value::Integer(number) if *number == 100 => Value::Integer(99),
            Value::Integer(number) => Value::Integer(number ^ 1),
            Value::Boolean(yes) => Value::Boolean(!yes),
            Value::Array(_) => Value::Array(vec![Value::String("127.0.0.1:1".into())]),
            Value::String(text) => Value::String(match text.as_str() {
                "skip" => "disconnect".into(),
                "disconnect" => "skip".into(),
                "" => "00ff".into(),
                text => format!("1{text}"),
            }),
            other => panic!("no other value than {other}"),
        }
    }

    #[test]
    fn every_knob_turns_and_turns_nothing_else() {
        let before = Settings::default();
        let value = |text: &str| format!("x = {text}").parse::<Table>().unwrap()["x"].clone();
        for knob in knobs() {
            let mut after = before.clone();
            let wanted = match (knob.get)(&before) {
                Some(shown) => another(&value(&shown)),
                None => value(knob.example),
            };
            (knob.set)(&mut after, &wanted).unwrap_or_else(|why| panic!("{}: {why}", knob.name));
            for other in knobs() {
                let turned = (other.get)(&before) != (other.get)(&after);
                assert_eq!(turned, other.name == knob.name, "{} turns {}", knob.name, other.name);
            }
        }
    }

    #[test]
    fn a_wrong_key_is_named_with_the_one_that_was_meant() {
        let error = |text| Settings::parse(text).unwrap_err();
        assert_eq!(
            error("[runtime]\nping_intervl = \"1s\""),
            "unknown key `runtime.ping_intervl`; did you mean `runtime.ping_interval`?"
        );
        assert_eq!(
            error("ping_interval = \"1s\""),
            "unknown key `ping_interval`; did you mean `runtime.ping_interval`?"
        );
        assert!(error("[hto]\nmaintenance_interval = \"1s\"").contains("`hto`"));
        assert!(error("zebra_crossing_lights = 1").contains("`peerpool config` lists all keys"));
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key() {
        let error = |text| Settings::parse(text).unwrap_err();
        assert!(
            error("[runtime]\nmaintenance_interval = 5")
                .starts_with("runtime.maintenance_interval: a duration")
        );
        assert!(error("network = \"x\"").starts_with("network: a whole number"));
        assert!(error("[runtime]\nurgent_lag = \"wait\"").contains("\"skip\" or \"disconnect\""));
        assert!(error("[relay]\npeer_share_percent = 300").contains("255 is the most"));
        assert!(error("[runtime]\nping_interval = \"1h\"").starts_with("stale_after"));
        assert!(error("[wire]\nchunk = \"1 MiB\"").starts_with("wire.chunk: must be from 1024 to 16384"));
        assert!(error("[runtime.limits]\nmax_inbound = 2000000").starts_with("limits.max_inbound: must be"));
        assert!(error("network = 1\nring =").starts_with("line 2: "));
        assert!(error("link = 3").contains("unknown key `link`"));
        assert!(!error("[runtime]\nmaintenance_interval = \"\"").contains('\n'));
    }
}
