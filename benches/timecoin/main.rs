//! Broadcasts over the TIME Coin wire: the old node's two structures, peerpool, and what the sockets can take.
//!
//! ```text
//! cargo bench --bench timecoin --features timecoin                    the tables
//! cargo bench --bench timecoin --features timecoin -- --peers 64 --rounds 15 --slice-ms 400 --at-once 16
//! ```
//!
//! Everyone sends the same JSON frames to receivers in a second process (those of the fan-out bench, and its limit and its rules: what is
//! counted was received while the producer produced; contenders take turns in an order that rotates; a
//! ratio is the median over rounds of the quotient within one round). Tips go as events, each of them to each peer. Afterwards
//! everyone sends tips once more, to receivers that look whether they come in order.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code, reason = "shared: the fan-out bench also counts messages")]
#[path = "../fanout/contender.rs"]
mod contender;
#[allow(dead_code, reason = "shared: the claims are counted, broadcasts are timed")]
mod counting_locks;
mod legacy;
mod messages;
mod native;
#[path = "../fanout/order.rs"]
mod order;
mod ours;
#[path = "../fanout/raw_write_limit.rs"]
mod raw_write_limit;
#[path = "../fanout/receiver_process.rs"]
mod receiver_process;
#[path = "../fanout/receivers.rs"]
mod receivers;
mod structures;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use contender::{Contender, Goal};
use legacy::{Cascade, Unified};
use messages::Sort;
use ours::Peerpool;
use raw_write_limit::RawWriteLimit;
use receiver_process::Taking;
use receivers::Receivers;
use structures::Legacy;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// What the command line says.
struct Options {
    peers: Vec<usize>,
    rounds: usize,
    slice: Duration,
    /// Broadcasts of the old structures that are under way at the same time.
    at_once: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    if args.first().is_some_and(|arg| arg == receiver_process::FLAG) {
        return receiver_process::main(
            args.get(1).and_then(|arg| Taking::named(arg)).unwrap_or(Taking::Discard),
        );
    }
    for sort in Sort::ALL {
        // The limit's bytes, the old structures' and the receivers' count are all of this size.
        assert_eq!(native::frame(sort.size()).len(), sort.size(), "{}", sort.name());
    }
    // A filter is for the other benches that the same command runs: nothing here has such a name.
    let Some(options) = parse(&args) else { return };
    for &peers in &options.peers {
        let mut contenders = Contenders::new(peers, Taking::Discard, &options);
        for sort in Sort::ALL {
            cell(&mut contenders, sort, &options);
        }
        drop(contenders);
        order(&mut Contenders::new(peers, Taking::Order, &options), &options);
    }
}

/// `None` where there is a filter among the arguments.
fn parse(args: &[String]) -> Option<Options> {
    // As a test each runs once and small.
    let bench = args.iter().any(|arg| arg == "--bench");
    let mut options = Options {
        peers: if bench { vec![64, 256] } else { vec![4] },
        rounds: if bench { 7 } else { 1 },
        slice: Duration::from_millis(if bench { 250 } else { 20 }),
        at_once: 4,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut list = || -> Vec<usize> {
            let value = args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
            value.split(',').map(|part| part.parse().expect("a number")).collect()
        };
        match arg.as_str() {
            "--peers" => options.peers = list(),
            "--rounds" => options.rounds = list()[0].max(1),
            "--slice-ms" => options.slice = Duration::from_millis(list()[0] as u64),
            "--at-once" => options.at_once = list()[0].max(1),
            "--bench" | "--ratios" => {}
            other if !other.starts_with('-') => return None,
            other => panic!("{other}? known: --peers, --rounds, --slice-ms, --at-once"),
        }
    }
    Some(options)
}

/// All contenders, each connected to as many receivers; the limit is the first.
struct Contenders {
    contenders: Vec<Box<dyn Contender>>,
    receivers: Receivers,
    _runtime: Arc<Runtime>,
}

impl Contenders {
    fn new(peers: usize, taking: Taking, options: &Options) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = Arc::new(runtime.expect("a runtime"));
        let mut receivers = Receivers::start(taking);
        let contenders: Vec<Box<dyn Contender>> = vec![
            Box::new(RawWriteLimit::new(&mut receivers, peers)),
            Box::new(Legacy::<Cascade<IpAddr, TcpStream>>::new(
                &runtime,
                &mut receivers,
                peers,
                options.at_once,
            )),
            Box::new(Legacy::<Unified<IpAddr, TcpStream>>::new(
                &runtime,
                &mut receivers,
                peers,
                options.at_once,
            )),
            Box::new(Peerpool::new(&runtime, &mut receivers, peers)),
        ];
        Self { contenders, receivers, _runtime: runtime }
    }

    /// Lets one contender send; messages received by all peers together in a second.
    fn slice(&mut self, at: usize, variant: usize, size: usize, time: Duration) -> f64 {
        let contender = &mut self.contenders[at];
        let produced = contender.produce(variant, size, Goal::Time(time));
        let (early, window) = (self.receivers.received(contender.group()), produced.since.elapsed());
        self.receivers.settle(contender.group(), produced.bytes, at > 0);
        early as f64 / contender.wire_len(size) as f64 / window.as_secs_f64()
    }
}

/// One message to so many peers.
fn cell(contenders: &mut Contenders, sort: Sort, options: &Options) {
    let size = sort.size();
    // The limit has ways to run; the best two of them take part in the rounds.
    let mut ways: Vec<(usize, usize)> =
        (0..contenders.contenders[0].variants().len()).map(|way| (0, way)).collect();
    let mut heat = |way: &(usize, usize)| contenders.slice(way.0, way.1, size, options.slice / 4);
    let mut heats: Vec<_> = ways.iter().map(|way| (heat(way).max(heat(way)), *way)).collect();
    heats.sort_by(|a, b| b.0.total_cmp(&a.0));
    ways = heats.into_iter().take(2).map(|(_, way)| way).collect();
    ways.extend((1..contenders.contenders.len()).map(|at| (at, 0)));
    for way in &ways[2..] {
        contenders.slice(way.0, way.1, size, options.slice / 4);
    }
    let mut rates = vec![Vec::new(); ways.len()];
    for round in 0..options.rounds {
        for turn in 0..ways.len() {
            // Every other round runs backwards: neighbours change as well as places.
            let turn = if round % 2 == 0 { turn } else { ways.len() - 1 - turn };
            let at = (turn + round) % ways.len();
            rates[at].push(contenders.slice(ways[at].0, ways[at].1, size, options.slice));
        }
    }
    let best = usize::from(median(&rates[1]) > median(&rates[0]));
    let ratio = |of: usize, to: usize| {
        let quotients: Vec<f64> = rates[of].iter().zip(&rates[to]).map(|(of, to)| of / to).collect();
        median(&quotients)
    };
    let (ours, peers) = (ways.len() - 1, contenders.contenders[3].group().peers());
    println!(
        "\n{} ({size} B) to {peers} peers, {} rounds of {:?} a slice\n",
        sort.name(),
        options.rounds,
        options.slice
    );
    println!("| | k deliveries/s | of the limit | peerpool is so many times as fast |");
    println!("|---|--:|--:|--:|");
    for at in (0..ways.len()).filter(|at| *at == best || *at > 1) {
        let contender = &mut contenders.contenders[ways[at].0];
        let lost = if contender.group().lost > 0 { " BYTES LOST" } else { "" };
        println!(
            "| {}{lost} | {:.0} | {:.3} | {:.2} |",
            contender.name(),
            median(&rates[at]) / 1e3,
            ratio(at, best),
            ratio(ours, at)
        );
    }
}

/// Tips at full speed, to receivers that look at their order.
fn order(contenders: &mut Contenders, options: &Options) {
    println!("\nUpdateTip, order at {} receivers\n", contenders.contenders[3].group().peers());
    println!("| | received | after a later one | |");
    println!("|---|--:|--:|--:|");
    for at in 1..contenders.contenders.len() {
        for _ in 0..options.rounds.min(3) {
            contenders.slice(at, 0, messages::TIP, options.slice);
        }
        let contender = &mut contenders.contenders[at];
        let (messages, overtaken) = contenders.receivers.order(contender.group());
        assert!(messages > 0, "{} sent nothing", contender.name());
        let share = overtaken as f64 / messages as f64 * 100.0;
        println!("| {} | {messages} | {overtaken} | {share:.2} % |", contender.name());
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
