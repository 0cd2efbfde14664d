//! Markdown tables on standard output.

use std::fmt::Display;

/// Prints the names of the columns and the line below them; the first column is aligned left.
pub(crate) fn header(columns: &[impl AsRef<str>]) {
    row(columns.iter().map(AsRef::as_ref));
    println!("|---|{}", "--:|".repeat(columns.len().saturating_sub(1)));
}

/// Prints one row.
pub(crate) fn row(cells: impl IntoIterator<Item = impl Display>) {
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.to_string()).collect();
    println!("| {} |", cells.join(" | "));
}

/// Prints a row of a title and numbers with this many decimals.
pub(crate) fn numbers(title: &str, values: &[f64], decimals: usize) {
    let values = values.iter().map(|value| format!("{value:.decimals$}"));
    row(std::iter::once(title.to_owned()).chain(values));
}
