//! The tables: every contender in the same run, in alternating short slices.

use std::collections::BTreeMap;

use crate::Options;
use crate::common::args::Args;
use crate::common::contest::{Line, RAW_WRITE_LIMIT, record, show};
use crate::common::recorder::Recorder;
use crate::common::results::case;
use crate::common::stats::{median, ratio};
use crate::common::table;
use crate::contenders::contest;

/// Lines by size and number of peers.
type Cells = BTreeMap<(usize, usize), Vec<Line>>;

pub(crate) fn run(args: &Args, options: &Options) {
    let mut recorder = Recorder::new("fanout", options.effort.rounds);
    let mut cells = Cells::new();
    for &peers in &options.peers {
        let mut contest = contest(peers, options.setup, |name| args.selects(name));
        for &size in &options.sizes {
            let lines = contest.cell(size, options.effort);
            let (rounds, slice) = (lines[0].rates.len(), options.effort.slice.as_millis());
            println!("\n{size} bytes to {peers} peers: {rounds} rounds of {slice} ms a slice");
            show(&lines);
            record(&mut recorder, &case(&[("payload_bytes", &size), ("peers", &peers)]), &lines);
            cells.insert((size, peers), lines);
        }
    }
    summary(&cells);
    recorder.finish(args);
}

/// One table of ratios over all cells.
fn summary(cells: &Cells) {
    println!("\nRatios to the raw writes\n");
    let columns = cells.keys().map(|(size, peers)| format!("{size} B x {peers}"));
    table::header(&std::iter::once(String::new()).chain(columns).collect::<Vec<_>>());
    let names: Vec<&str> =
        cells.values().next().map_or(Vec::new(), |lines| lines.iter().map(|line| line.name).collect());
    let row = |title: String, value: &dyn Fn(&[Line]) -> Option<String>| {
        let values = cells.values().map(|lines| value(lines).unwrap_or_else(|| "-".into()));
        table::row(std::iter::once(title).chain(values));
    };
    let find = |lines: &[Line], name: &str| lines.iter().find(|line| line.name == name).cloned();
    for name in &names {
        row((*name).to_owned(), &|lines| {
            Some(format!("{:.3}", ratio(&find(lines, name)?.rates, &lines[0].rates)))
        });
    }
    for other in names.iter().filter(|name| ![RAW_WRITE_LIMIT, "peerpool"].contains(name)) {
        row(format!("peerpool / {other}"), &|lines| {
            Some(format!("{:.2}", ratio(&find(lines, "peerpool")?.rates, &find(lines, other)?.rates)))
        });
    }
    for name in ["peerpool", RAW_WRITE_LIMIT] {
        row(format!("CPU s/million: {name}"), &|lines| {
            Some(format!("{:.4}", median(find(lines, name)?.cpu)))
        });
    }
}
