//! Draws the results of the benches and prints their tables.
//!
//! ```text
//! cargo run --example plots                  draws docs/plots/FAMILY.svg from benches/results/FAMILY.json
//! cargo run --example plots -- --tables      prints the tables of BENCHMARKS.md
//! cargo run --example plots -- --update      draws, and writes the tables into BENCHMARKS.md
//! ```
//!
//! A table stands in `BENCHMARKS.md` between the lines `<!-- results:NAME -->` and
//! `<!-- /results:NAME -->`.
#![allow(clippy::print_stdout)]

mod charts;
mod families;
#[allow(dead_code, reason = "benches use all of it")]
#[path = "../../benches/common/results.rs"]
mod results;
mod tables;

use std::error::Error;
use std::path::Path;

use families::FAMILIES;
use results::{Results, SCHEMA};

const RESULTS_DIR: &str = "benches/results";
const PLOTS_DIR: &str = "docs/plots";
const DOCUMENT: &str = "BENCHMARKS.md";

fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args().nth(1);
    let (draw, print, update) = match argument.as_deref() {
        None => (true, false, false),
        Some("--tables") => (false, true, false),
        Some("--update") => (true, false, true),
        Some(other) => return Err(format!("unknown argument {other}; known: --tables, --update").into()),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut document = std::fs::read_to_string(root.join(DOCUMENT))?;
    for family in &FAMILIES {
        let path = root.join(RESULTS_DIR).join(format!("{}.json", family.name));
        if !path.exists() {
            println!("{}: no results in {}", family.name, path.display());
            continue;
        }
        let results: Results = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        if results.schema != SCHEMA {
            return Err(format!("{}: schema {}, not {SCHEMA}", path.display(), results.schema).into());
        }
        if draw {
            let path = root.join(PLOTS_DIR).join(format!("{}.svg", family.name));
            charts::draw(&path, family.title, &(family.panels)(&results))?;
            println!("{} drawn", path.display());
        }
        for (name, table) in (family.tables)(&results) {
            let text = format!("{table}\n{}\n", tables::origin(&results));
            if print {
                println!("<!-- results:{name} -->\n{text}<!-- /results:{name} -->\n");
            }
            if update {
                document = tables::replace(&document, &name, &text)?;
            }
        }
    }
    if update {
        std::fs::write(root.join(DOCUMENT), document)?;
        println!("{DOCUMENT} updated");
    }
    Ok(())
}
