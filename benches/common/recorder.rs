//! Collects the results of a family and writes them.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::args::{Args, BENCH, JSON};
use super::results::{Case, Cell, Machine, Results, SCHEMA};
use super::stats::{median, quotients};
use super::system;

/// The results of one family under way.
#[derive(Debug)]
pub(crate) struct Recorder {
    results: Results,
    begun: Instant,
}

impl Recorder {
    /// Begins; the run's time counts from here.
    pub(crate) fn new(family: &str, rounds: usize) -> Self {
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let results = Results {
            schema: SCHEMA,
            family: family.to_owned(),
            machine: machine(),
            command: command(),
            unix_time,
            seconds: 0.0,
            rounds,
            cells: Vec::new(),
        };
        Self { results, begun: Instant::now() }
    }

    /// Adds one figure, given for every round.
    pub(crate) fn add(&mut self, case: &Case, contender: &str, metric: &str, values: &[f64]) {
        self.push(case, contender, None, metric, values);
    }

    /// Adds the quotient of two contenders, given for every round.
    pub(crate) fn add_ratio(
        &mut self,
        case: &Case,
        (contender, values): (&str, &[f64]),
        (over, by): (&str, &[f64]),
        metric: &str,
    ) {
        self.push(case, contender, Some(over), metric, &quotients(values, by));
    }

    fn push(&mut self, case: &Case, contender: &str, over: Option<&str>, metric: &str, values: &[f64]) {
        // JSON has no NaN and no infinity.
        let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        if finite.is_empty() {
            return;
        }
        self.results.cells.push(Cell {
            case: case.clone(),
            contender: contender.to_owned(),
            over: over.map(str::to_owned),
            metric: metric.to_owned(),
            median: median(finite.iter().copied()),
            min: finite.iter().copied().fold(f64::INFINITY, f64::min),
            max: finite.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            samples: finite.len(),
        });
    }

    /// Prints how long the run took and, with `--json DIRECTORY`, writes the file.
    pub(crate) fn finish(mut self, args: &Args) {
        self.results.seconds = (self.begun.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let Results { family, seconds, machine, .. } = &self.results;
        println!(
            "\n{family}: {seconds:.0} s in all; load average at the beginning: {:.2}",
            machine.load_before
        );
        let Some(directory) = args.json_directory() else { return };
        std::fs::create_dir_all(&directory).expect("a directory for results");
        let path = directory.join(format!("{family}.json"));
        let mut text = serde_json::to_string_pretty(&self.results).expect("finite numbers");
        text.push('\n');
        std::fs::write(&path, text).expect("results are written");
        println!("{} written", path.display());
    }
}

/// The command that cargo was given: the program's name ends with a hash.
fn command() -> String {
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    let bench = name.rsplit_once('-').map_or(name, |(bench, _)| bench);
    let mut kept = Vec::new();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            BENCH => {}
            // Where the results go is not part of what is measured.
            JSON => _ = args.next(),
            _ => kept.push(arg),
        }
    }
    format!("cargo bench --features timecoin,unstable --bench {bench} -- {}", kept.join(" "))
        .trim_end_matches(" -- ")
        .to_owned()
}

fn machine() -> Machine {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (info, memory) = (file("/proc/cpuinfo"), file("/proc/meminfo"));
    let cpu = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    Machine {
        cpu: cpu.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned()),
        cores: system::processors(),
        memory_mib: memory.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
        kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
        load_before: file("/proc/loadavg")
            .split(' ')
            .next()
            .and_then(|load| load.parse().ok())
            .unwrap_or(0.0),
    }
}
