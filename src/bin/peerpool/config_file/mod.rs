//! The configuration file of a node, and `peerpool config`, which prints and checks it.
//!
//! ```text
//! file --toml--> Settings (NodeConfig, TcpConfig, AddressBookConfig) --check--> node
//! Settings --toml--> table --template::render--> documented file
//! ```
//!
//! The configuration types of the library derive serde, so the file has their fields under their
//! names: those of [`NodeConfig`] at the top level, those of the TCP transport in `[tcp]`, and
//! those of the address book in `[book]`. An error names the file, the line and the setting.

mod error;
mod template;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Table;
use toml::de::{DeTable, Deserializer, ValueDeserializer};

use peerpool::NodeConfig;
use peerpool::address_book::AddressBookConfig;
use peerpool::transport::TcpConfig;

use super::output::{failure, try_print};

/// The most bytes of a configuration file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Print all settings of a node as a documented TOML file, ready for `peerpool node --config`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  peerpool config > node.toml                     start from the defaults
  peerpool config --config node.toml              check a file and print all its settings")]
pub(super) struct ConfigArgs {
    /// Check this file and print its settings instead of the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Everything that the file sets.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Settings {
    #[serde(flatten)]
    pub(super) node: NodeConfig,
    pub(super) tcp: TcpConfig,
    pub(super) book: AddressBookConfig,
}

impl Settings {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// A one-line message with the file, the line, the setting and what is wrong.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let in_file = |message: &dyn std::fmt::Display| format!("{}: {message}", path.display());
        let file = std::fs::File::open(path).map_err(|error| in_file(&error))?;
        let mut text = String::new();
        // One byte more than is allowed, to see that there is more.
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| in_file(&error))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(in_file(&format_args!(
                "is larger than {MAX_FILE_BYTES} bytes, the most of a configuration"
            )));
        }
        Self::parse(&text).map_err(|message| in_file(&message))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut document = DeTable::parse(text).map_err(|error| error::describe(text, "", &error))?;
        let tcp = document.get_mut().remove("tcp").map(ValueDeserializer::from);
        let book = document.get_mut().remove("book").map(ValueDeserializer::from);
        let settings = Self {
            tcp: read_section(text, "tcp", tcp)?,
            book: read_section(text, "book", book)?,
            node: read_section(text, "", Some(Deserializer::from(document)))?,
        };
        settings.node.check().map_err(|error| error::describe_contradiction(&error))?;
        Ok(settings)
    }

    /// The settings as a documented file.
    ///
    /// # Errors
    /// A one-line message with a value that TOML cannot represent.
    pub(super) fn to_toml(&self) -> Result<String, String> {
        let table = Table::try_from(self).map_err(|error| error.to_string())?;
        Ok(template::render(&table))
    }
}

/// Reads the part of the file below `section`; the defaults if it is missing.
fn read_section<'de, T, D>(text: &str, section: &str, deserializer: Option<D>) -> Result<T, String>
where
    T: DeserializeOwned + Default,
    D: serde::Deserializer<'de, Error = toml::de::Error>,
{
    let Some(deserializer) = deserializer else { return Ok(T::default()) };
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let name = match (section, path.as_str()) {
            ("", name) | (name, ".") => name.to_owned(),
            (section, name) => format!("{section}.{name}"),
        };
        error::describe(text, &name, error.inner())
    })
}

/// Parses a duration with a unit, like "250ms" or "1.5s".
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// Runs the subcommand.
pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let settings = match &args.config {
        Some(path) => Settings::load(path),
        None => Ok(Settings::default()),
    };
    let printed =
        settings.and_then(|settings| settings.to_toml()).and_then(|text| try_print(text.trim_end()));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => failure(&message),
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Settings::parse(text).unwrap_err()
    }

    #[test]
    fn the_default_file_is_the_template_and_reads_back_equal() {
        let defaults = Settings::default().to_toml().unwrap();
        assert_eq!(defaults, include_str!("template.toml"));
        assert_eq!(Settings::parse(&defaults), Ok(Settings::default()));
        assert_eq!(Settings::parse(""), Ok(Settings::default()));
    }

    #[test]
    fn other_settings_read_back_equal() {
        let settings = Settings::parse(&template::with_examples()).unwrap();
        assert!(settings.node.genesis.is_some() && settings.tcp.dial_from_v6.is_some());
        let printed = settings.to_toml().unwrap();
        assert!(!printed.contains("\n# genesis ="), "{printed}");
        assert_eq!(Settings::parse(&printed), Ok(settings));

        let mut settings = Settings::default();
        settings.node.network = u64::MAX;
        settings.node.app = vec![0, 255].into();
        settings.node.seeds = vec!["[::1]:7".parse().unwrap()];
        settings.node.runtime.stable_after = Duration::from_millis(61_001);
        settings.node.runtime.memory_limit = (1 << 30) + 1;
        settings.tcp.keepalive = None;
        settings.tcp.notsent_lowat = None;
        settings.book.seed = Some(9);
        let printed = settings.to_toml().unwrap();
        assert!(printed.contains("\nkeepalive = false\n") && printed.contains("\n# [tcp.keepalive]\n"));
        assert_eq!(Settings::parse(&printed), Ok(settings));
    }

    #[test]
    fn the_template_has_exactly_the_settings_of_the_types() {
        let names = template::names();
        let sections = names.iter().filter(|name| names.iter().any(|other| is_below(other, name)));
        for section in sections.map(String::as_str).chain([""]) {
            let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
            let error = serde_error(&format!("{header}no_such_setting = 1\n"));
            let (_, expected) = error.split_once("expected ").unwrap_or_else(|| panic!("{section}: {error}"));
            let mut expected: Vec<_> = expected.split('`').skip(1).step_by(2).collect();
            let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
            let mut found: Vec<_> = names
                .iter()
                .filter_map(|name| name.strip_prefix(&prefix))
                .filter(|name| !name.contains('.'))
                // These are read apart from the fields of `NodeConfig`.
                .filter(|name| !(section.is_empty() && ["tcp", "book"].contains(name)))
                .collect();
            expected.sort_unstable();
            found.sort_unstable();
            found.dedup();
            assert_eq!(found, expected, "[{section}]");
        }
    }

    fn is_below(name: &str, section: &str) -> bool {
        name.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
    }

    /// The error of serde itself, which lists the expected names.
    fn serde_error(text: &str) -> String {
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(default)]
        struct Sections {
            tcp: TcpConfig,
            book: AddressBookConfig,
        }
        let sections = toml::from_str::<Sections>(text).map(drop);
        sections.and_then(|()| toml::from_str::<NodeConfig>(text).map(drop)).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_setting_is_refused_and_the_likely_one_is_named() {
        assert_eq!(
            error("[runtime]\ntarget_outbound = 1\nping_intervl = \"1s\""),
            "line 3: unknown setting `runtime.ping_intervl`; did you mean `runtime.ping_interval`?"
        );
        assert_eq!(
            error("ping_interval = \"1s\""),
            "line 1: unknown setting `ping_interval`; did you mean `runtime.ping_interval`?"
        );
        assert_eq!(
            error("[tcp]\nno_delay = true"),
            "line 2: unknown setting `tcp.no_delay`; did you mean `tcp.nodelay`?"
        );
        assert!(error("[book.backof]\nbase = \"1s\"").contains("did you mean `book.backoff`?"));
        assert!(error("[tcp.keepalive]\nidel = \"1s\"").contains("did you mean `tcp.keepalive.idle`?"));
        assert!(error("[rutnime]\nping_interval = \"1s\"").contains("`rutnime`; did you mean `runtime`?"));
        assert!(error("zebra_crossing_lights = 1").contains("`peerpool config` lists all settings"));
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_line_and_its_setting() {
        for (text, wanted) in [
            ("[runtime]\nmaintenance_interval = 5", "line 2: runtime.maintenance_interval: "),
            ("[runtime]\n\nping_interval = \"10 parsecs\"", "line 3: runtime.ping_interval: "),
            ("log_ring_bytes = \"8 parsecs\"", "line 1: log_ring_bytes: "),
            ("[tcp]\nsend_buffer = -1", "line 2: tcp.send_buffer: "),
            ("[tcp.keepalive]\nretries = 0", "line 2: tcp.keepalive.retries: "),
            ("[book]\nmax_bans = 0", "line 2: book.max_bans: "),
            ("[runtime]\nurgent_lag = \"wait\"", "line 2: runtime.urgent_lag: "),
            ("[relay]\nsource_share_percent = 300", "line 2: relay.source_share_percent: "),
            ("network = \"x\"", "line 1: network: "),
            ("connection = 3", "line 1: connection: "),
            ("listen = [\"127.0.0.1:1\", \"here\"]", "line 1: listen[1]: "),
            ("network = 1\nagent =", "line 2: "),
            ("network = 1\nnetwork = 2", "line 2: "),
        ] {
            let error = error(text);
            assert!(error.starts_with(wanted) && !error.contains('\n'), "{text:?}: {error}");
        }
        assert!(error("[runtime]\nurgent_lag = \"wait\"").contains("`skip`"));
        assert!(error("[runtime]\nping_interval = \"\"").contains("runtime.ping_interval"));
    }

    #[test]
    fn contradicting_settings_are_refused() {
        assert!(error("[runtime]\nping_interval = \"1h\"").starts_with("runtime.liveness.stale_after: "));
        assert!(error("[wire]\nchunk = \"1 MiB\"").starts_with("wire.chunk: must be from 1024 to 16384"));
        assert!(error("[runtime.limits]\nmax_inbound = 2000000").starts_with("runtime.limits.max_inbound: "));
        assert!(error("[runtime.health.penalties]\nflood = 101").starts_with("runtime.health.penalties: "));
    }
}
