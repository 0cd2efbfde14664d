//! The tables: every contender in the same run, in alternating short slices.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::Options;
use crate::contender::Goal;
use crate::contenders::{Contenders, Slice};

/// No more rounds of a cell after this long, if there were three.
const PATIENCE: Duration = Duration::from_secs(18);

/// A contender, one of its variants, and what that is called.
type Way = (usize, usize, String);

/// The medians of one contender in one cell.
#[derive(Clone, Debug)]
struct Line {
    name: &'static str,
    variant: String,
    /// Over the limit.
    ratio: f64,
    /// Peerpool over this one, if it ran.
    behind: Option<f64>,
    rate: f64,
    cpu: f64,
    lost: u64,
}

pub(crate) fn run(options: &Options) {
    let begun = Instant::now();
    let mut cells = BTreeMap::new();
    for &peers in &options.peers {
        let wanted = |name: &str| {
            options.only.is_empty() || options.only.iter().any(|only| name.contains(only.as_str()))
        };
        let mut contenders =
            Contenders::new(peers, options.workers, options.receivers, options.lowat, wanted);
        for &size in &options.sizes {
            let (lines, rounds) = cell(&mut contenders, size, options);
            println!(
                "\n{size} bytes to {peers} peers: {rounds} rounds of {} ms a slice",
                options.slice.as_millis()
            );
            show(&lines);
            cells.insert((size, peers), lines);
        }
    }
    summary(options, &cells);
    println!("\n{:.0} s in all", begun.elapsed().as_secs_f64());
}

fn cell(contenders: &mut Contenders, size: usize, options: &Options) -> (Vec<Line>, usize) {
    let ways: Vec<Way> = contenders
        .contenders
        .iter()
        .enumerate()
        .flat_map(|(at, contender)| {
            contender.variants().into_iter().enumerate().map(move |(variant, name)| (at, variant, name))
        })
        .collect();
    let ways = heats(contenders, size, ways, options);
    let mut slices: Vec<Vec<Slice>> = vec![Vec::new(); ways.len()];
    let begun = Instant::now();
    let mut rounds = 0;
    while rounds < options.rounds && (rounds < 3 || begun.elapsed() < PATIENCE) {
        for turn in 0..ways.len() {
            // Every other round runs backwards: neighbours change as well as places.
            let turn = if rounds % 2 == 0 { turn } else { ways.len() - 1 - turn };
            let at = (turn + rounds) % ways.len();
            let (contender, variant, _) = ways[at];
            slices[at].push(contenders.slice(contender, variant, size, Goal::Time(options.slice)));
        }
        rounds += 1;
    }
    let best = (0..ways.len()).filter(|at| ways[*at].0 == 0).max_by(|a, b| {
        let rate = |at: usize| median(slices[at].iter().map(|slice| slice.rate));
        rate(*a).total_cmp(&rate(*b))
    });
    let best = best.expect("the limit");
    let ours = (0..ways.len()).find(|at| contenders.contenders[ways[*at].0].name() == "peerpool");
    let over = |at: usize, other: usize| {
        median(slices[at].iter().zip(&slices[other]).map(|(one, other)| one.rate / other.rate))
    };
    let shown = (0..ways.len()).filter(|at| ways[*at].0 > 0 || *at == best);
    let lines = shown.map(|at| {
        let contender = &mut contenders.contenders[ways[at].0];
        Line {
            name: contender.name(),
            variant: ways[at].2.clone(),
            ratio: over(at, best),
            behind: ours.map(|ours| over(ours, at)),
            rate: median(slices[at].iter().map(|slice| slice.rate)),
            cpu: median(slices[at].iter().map(|slice| slice.cpu)),
            lost: contender.group().lost,
        }
    });
    let lines = lines.collect();
    if std::env::var_os("FANOUT_SLICES").is_some() {
        for (way, slices) in ways.iter().zip(&slices) {
            let shown: Vec<String> = slices
                .iter()
                .map(|s| format!("{:.1}M {:.0}ms", s.rate / 1e6, s.took.as_secs_f64() * 1e3))
                .collect();
            eprintln!("{} {}: {}", contenders.contenders[way.0].name(), way.2, shown.join(", "));
        }
    }
    (lines, rounds)
}

/// Warms everybody up, and keeps the best two ways of the limit: which of them is the best one, the rounds decide.
fn heats(contenders: &mut Contenders, size: usize, ways: Vec<Way>, options: &Options) -> Vec<Way> {
    let mut limits = Vec::new();
    let mut others = Vec::new();
    for way in ways {
        let mut rate = || contenders.slice(way.0, way.1, size, Goal::Time(options.slice / 4)).rate;
        let best = rate().max(rate());
        if way.0 == 0 { limits.push((best, way)) } else { others.push(way) }
    }
    limits.sort_by(|a, b| b.0.total_cmp(&a.0));
    limits.into_iter().take(2).map(|(_, way)| way).chain(others).collect()
}

fn show(lines: &[Line]) {
    println!("{:22} {:>8} {:>14} {:>14}  ", "", "of limit", "M deliveries/s", "CPU s/million");
    for line in lines {
        let Line { name, variant, ratio, rate, cpu, lost, .. } = line;
        let lost = if *lost > 0 { format!("{lost} BYTES LOST") } else { String::new() };
        println!("{name:22} {ratio:8.4} {:14.3} {cpu:14.4}  {variant}{lost}", rate / 1e6);
    }
}

fn summary(options: &Options, cells: &BTreeMap<(usize, usize), Vec<Line>>) {
    println!("\nRatios to the limit\n");
    let columns: Vec<String> = options
        .sizes
        .iter()
        .flat_map(|size| options.peers.iter().map(move |peers| format!("{size} B x {peers}")))
        .collect();
    println!("| | {} |", columns.join(" | "));
    println!("|---|{}", "--:|".repeat(columns.len()));
    let keys: Vec<(usize, usize)> = options
        .sizes
        .iter()
        .flat_map(|size| options.peers.iter().map(move |peers| (*size, *peers)))
        .collect();
    let names: Vec<&str> =
        cells.values().next().map_or(Vec::new(), |lines| lines.iter().map(|line| line.name).collect());
    let row = |title: &str, value: &dyn Fn(&[Line]) -> Option<String>| {
        let values: Vec<String> =
            keys.iter().map(|key| value(&cells[key]).unwrap_or_else(|| "-".into())).collect();
        println!("| {title} | {} |", values.join(" | "));
    };
    let find = |lines: &[Line], name: &str| lines.iter().find(|line| line.name == name).cloned();
    for name in &names {
        row(name, &|lines| find(lines, name).map(|line| format!("{:.3}", line.ratio)));
    }
    for other in names.iter().filter(|name| !["raw_write_limit", "peerpool"].contains(name)) {
        row(&format!("peerpool / {other}"), &|lines| {
            let ratio = find(lines, other)?.behind?;
            Some(if ratio < 2.0 { format!("{ratio:.2}") } else { format!("{ratio:.1}") })
        });
    }
    for name in ["peerpool", "raw_write_limit"] {
        row(&format!("CPU s/million: {name}"), &|lines| {
            find(lines, name).map(|line| format!("{:.4}", line.cpu))
        });
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}
