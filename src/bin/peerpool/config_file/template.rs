//! The documented configuration file: every setting with its description and its value.
//!
//! [`TEMPLATE`] is checked in and holds the defaults; [`render`] puts other values into it. Tests
//! ensure that it has exactly the settings that the configuration types have, and their defaults.

use toml::{Table, Value};

/// Every setting with its description and its default. A setting without a default is commented
/// out.
const TEMPLATE: &str = include_str!("template.toml");

/// A line of the template.
enum Line<'t> {
    /// `[section]`
    Section(&'t str),
    /// `key = value`, commented out or not.
    Setting(&'t str),
    /// A description or an empty line.
    Text,
}

impl<'t> Line<'t> {
    fn parse(line: &'t str) -> Self {
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return Self::Section(section);
        }
        let setting = line.strip_prefix("# ").unwrap_or(line);
        match setting.split_once(" = ") {
            Some((key, _)) if key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {
                Self::Setting(key)
            }
            _ => Self::Text,
        }
    }
}

/// Returns the template with the values of `settings`.
pub(super) fn render(settings: &Table) -> String {
    let mut out = String::new();
    let mut section = Some(settings);
    for line in TEMPLATE.lines() {
        match Line::parse(line) {
            Line::Section(name) => {
                section = table_at(settings, name);
                // A section that is turned off is commented out with all its settings.
                out.push_str(if section.is_some() { "" } else { "# " });
                out.push_str(line);
            }
            Line::Setting(key) => match section.and_then(|section| section.get(key)) {
                // The section of this name follows.
                Some(Value::Table(_)) => out.push_str(line),
                Some(value) => out.push_str(&format!("{key} = {value}")),
                None if line.starts_with('#') => out.push_str(line),
                None => out.push_str(&format!("# {line}")),
            },
            Line::Text => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

fn table_at<'t>(root: &'t Table, name: &str) -> Option<&'t Table> {
    name.split('.').try_fold(root, |table, part| table.get(part)?.as_table())
}

/// Returns the dotted names of all settings and sections.
pub(super) fn names() -> Vec<String> {
    let mut section = "";
    let mut names = Vec::new();
    for line in TEMPLATE.lines() {
        match Line::parse(line) {
            Line::Section(name) => {
                section = name;
                names.push(name.to_owned());
            }
            Line::Setting(key) if section.is_empty() => names.push(key.to_owned()),
            Line::Setting(key) => names.push(format!("{section}.{key}")),
            Line::Text => {}
        }
    }
    names
}

/// The template with all settings that are commented out turned on.
#[cfg(all(test, not(peerpool_loom)))]
pub(super) fn with_examples() -> String {
    let on = |line| match Line::parse(line) {
        // It contradicts the section of this name.
        Line::Setting("keepalive") => line,
        Line::Setting(_) => line.trim_start_matches("# "),
        _ => line,
    };
    TEMPLATE.lines().map(on).collect::<Vec<_>>().join("\n")
}
