//! Messages for errors in a configuration file.

use peerpool::ConfigError;

use super::template;

/// Describes an error in one line: the line number, the setting and what is wrong.
pub(super) fn describe(text: &str, name: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
    let message = error.message().replace('\n', " ");
    if let Some(unknown) = unknown_field(&message) {
        return format!("line {line}: {}", describe_unknown(&full_name(name, unknown)));
    }
    if name.is_empty() {
        format!("line {line}: {message}")
    } else {
        format!("line {line}: {name}: {message}")
    }
}

/// Describes settings that contradict each other, or are out of their bounds, in one line.
pub(super) fn describe_contradiction(ConfigError { field, why, .. }: &ConfigError) -> String {
    let suffix = format!(".{field}");
    let name = template::names().into_iter().find(|name| name == field || name.ends_with(&suffix));
    format!("{}: {why}", name.as_deref().unwrap_or(field))
}

/// Extracts the name from the message that serde gives for an unknown field.
fn unknown_field(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

/// Appends an unknown field to the path of its section, unless the path ends with it.
fn full_name(path: &str, field: &str) -> String {
    match path {
        "" | "." => field.to_owned(),
        path if path == field || path.ends_with(&format!(".{field}")) => path.to_owned(),
        path => format!("{path}.{field}"),
    }
}

/// Names an unknown setting and the known one that is spelt most like it.
fn describe_unknown(name: &str) -> String {
    let last_part = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |known: &str| {
        // A setting in the wrong section counts as one misspelt letter.
        let in_other_section = strsim::levenshtein(&last_part(known), &last_part(name)) + 1;
        strsim::levenshtein(known, name).min(in_other_section)
    };
    let known = template::names();
    let nearest = known.iter().map(|known| (distance(known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= name.len() / 3 + 1 => {
            format!("unknown setting `{name}`; did you mean `{known}`?")
        }
        _ => format!("unknown setting `{name}`; `peerpool config` lists all settings"),
    }
}
