//! Markdown tables: metric, target, result, verdict.

use std::error::Error;

use crate::results::{Cell, Results};

/// What a figure must hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// No target: the figure is only stated.
    Stated,
}

/// How a figure is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// A figure is divided by this first.
    pub(crate) divisor: f64,
    pub(crate) decimals: usize,
    pub(crate) name: &'static str,
}

impl Unit {
    pub(crate) const fn new(divisor: f64, decimals: usize, name: &'static str) -> Self {
        Self { divisor, decimals, name }
    }

    /// A target, with as many decimals as it has.
    fn exact(self, value: f64) -> String {
        grouped(&(value / self.divisor).to_string())
    }

    fn number(self, value: f64) -> String {
        let value = value / self.divisor;
        // Large quotients do not need decimals.
        let decimals = if value.abs() >= 20.0 { 0 } else { self.decimals };
        grouped(&format!("{value:.decimals$}"))
    }
}

/// A quotient.
pub(crate) const RATIO: Unit = Unit::new(1.0, 2, "");

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) metric: String,
    pub(crate) target: Target,
    pub(crate) unit: Unit,
    /// `None` if it was not measured.
    pub(crate) cell: Option<Cell>,
    /// What stands behind the figure.
    pub(crate) note: String,
}

impl Row {
    pub(crate) fn new(metric: impl Into<String>, target: Target, unit: Unit, cell: Option<&Cell>) -> Self {
        Self { metric: metric.into(), target, unit, cell: cell.cloned(), note: String::new() }
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn text(&self) -> String {
        let Unit { name, .. } = self.unit;
        let target = match self.target {
            Target::AtLeast(least) => format!("≥ {}{name}", self.unit.exact(least)),
            Target::AtMost(most) => format!("≤ {}{name}", self.unit.exact(most)),
            Target::Stated => "–".to_owned(),
        };
        let Some(Cell { median, min, max, samples, .. }) = &self.cell else {
            return format!("| {} | {target} | not measured | – |", self.metric);
        };
        let mut result = format!("**{}**{name}", self.unit.number(*median));
        if *samples > 1 {
            result += &format!(" ({} to {})", self.unit.number(*min), self.unit.number(*max));
        }
        if !self.note.is_empty() {
            result += &format!("; {}", self.note);
        }
        let verdict = match self.target {
            Target::AtLeast(least) if *median >= least => "met",
            Target::AtMost(most) if *median <= most => "met",
            Target::Stated => "–",
            _ => "**missed**",
        };
        format!("| {} | {target} | {result} | {verdict} |", self.metric)
    }
}

/// The table of some rows.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text =
        "| metric | target | result: median (min to max) | verdict |\n|---|---|---|---|\n".to_owned();
    for row in rows {
        text += &row.text();
        text.push('\n');
    }
    text
}

/// Figures of several contenders side by side.
pub(crate) fn wide(first: &str, columns: &[&str], rows: &[(String, Vec<Option<f64>>)], unit: Unit) -> String {
    let mut text = format!("| {first} | {} |\n|---|{}\n", columns.join(" | "), "--:|".repeat(columns.len()));
    for (name, values) in rows {
        let values: Vec<String> =
            values.iter().map(|value| value.map_or("–".to_owned(), |value| unit.number(value))).collect();
        text += &format!("| {name} | {} |\n", values.join(" | "));
    }
    text
}

/// Where the figures come from.
pub(crate) fn origin(results: &Results) -> String {
    let Results { machine, command, rounds, seconds, .. } = results;
    format!(
        "`{}`: {rounds} rounds, {seconds:.0} s; {} cores of {}, Linux {}, load average {:.2} before.",
        command, machine.cores, machine.cpu, machine.kernel, machine.load_before
    )
}

/// Puts a text between the markers of this name.
///
/// # Errors
/// If the markers are not there.
pub(crate) fn replace(document: &str, name: &str, text: &str) -> Result<String, Box<dyn Error>> {
    let (begin, end) = (format!("<!-- results:{name} -->\n"), format!("<!-- /results:{name} -->"));
    let missing = || format!("the markers of {name} are missing in the document");
    let (before, rest) = document.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{begin}{text}{end}{after}"))
}

/// Commas between groups of three digits.
pub(crate) fn grouped(number: &str) -> String {
    let (whole, fraction) =
        number.split_once('.').map_or((number, None), |(whole, part)| (whole, Some(part)));
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        let left = whole.len() - at;
        if at > 0 && left.is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    fraction.map_or(text.clone(), |fraction| format!("{text}.{fraction}"))
}
