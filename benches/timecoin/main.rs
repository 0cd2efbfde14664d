//! Broadcasts over the TIME Coin wire: the legacy node's two structures, peerpool, and what the
//! sockets can take.
//!
//! ```text
//! cargo bench --bench timecoin --features timecoin                    the tables
//! cargo bench --bench timecoin --features timecoin -- --peers 64 --rounds 15 --slice-ms 400 --at-once 16
//! ```
//!
//! Every contender sends the same JSON frames to receivers in a second process, as in the fan-out
//! bench and by its rules. Tips go as events, each of them to each peer. Afterwards every contender
//! sends tips once more, to receivers that check whether they come in order.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "shared: the claims are counted, broadcasts are timed")]
mod counting_locks;
mod legacy;
mod legacy_contender;
mod messages;
mod node;
mod wire_format;

use std::net::IpAddr;
use std::time::Duration;

use common::args::Args;
use common::contest::{Contest, Effort, Goal, RAW_WRITE_LIMIT, record};
use common::receivers::{self, ReadMode};
use common::recorder::Recorder;
use common::results::case;
use common::stats::{median, ratio};
use common::{system, table};
use legacy::{Cascade, Unified};
use legacy_contender::LegacyContender;
use messages::Kind;
use node::Peerpool;
use tokio::net::TcpStream;
use wire_format::TIMECOIN;

/// What the command line asks for.
struct Options {
    peers: Vec<usize>,
    effort: Effort,
    /// Broadcasts of the legacy structures that are under way at the same time.
    at_once: usize,
}

fn main() {
    let args = Args::parse();
    system::allow_open_files(0);
    if let Some(args) = args.after_child_flag(receivers::FLAG) {
        return receivers::child::main(args, TIMECOIN);
    }
    for kind in Kind::ALL {
        // The bytes of the limit, of the legacy structures and of the receivers' count all have
        // this size.
        assert_eq!((TIMECOIN.frame)(kind.size()).len(), kind.size(), "{}", kind.name());
    }
    // As a test everything runs once and small.
    let bench = args.is_bench();
    let (peers, rounds, slice): (&[usize], _, _) = if bench { (&[64, 256], 7, 250) } else { (&[4], 1, 20) };
    let options = Options {
        peers: args.numbers("--peers", peers),
        effort: Effort {
            rounds: args.number("--rounds", rounds).max(1),
            slice: Duration::from_millis(args.number("--slice-ms", slice)),
        },
        at_once: args.number("--at-once", 4).max(1),
    };
    let with_value = ["--peers", "--rounds", "--slice-ms", "--at-once"];
    if args.words().any(|word| !with_value.iter().any(|flag| args.value(flag) == Some(word))) {
        // A filter for the other benches that the same command runs: nothing here has such a name.
        return;
    }
    args.check(&with_value, &[]);
    let mut recorder = Recorder::new("timecoin", options.effort.rounds);
    for &peers in &options.peers {
        let mut contest = contest(peers, ReadMode::Discard, &options);
        for kind in Kind::ALL {
            cell(&mut contest, kind, &options, &mut recorder);
        }
        drop(contest);
        order(&mut self::contest(peers, ReadMode::Order, &options), &options, &mut recorder);
    }
    recorder.finish(&args);
}

/// All contenders, each connected to as many receivers; the limit is the first, peerpool the last.
fn contest(peers: usize, mode: ReadMode, options: &Options) -> Contest {
    let mut contest = Contest::new(peers, 2, mode, TIMECOIN);
    let cascade = LegacyContender::<Cascade<IpAddr, TcpStream>>::new(&mut contest, options.at_once);
    let unified = LegacyContender::<Unified<IpAddr, TcpStream>>::new(&mut contest, options.at_once);
    let peerpool = Peerpool::new(&mut contest);
    contest.contenders.extend([Box::new(cascade) as _, Box::new(unified) as _, Box::new(peerpool) as _]);
    contest
}

/// One message to all peers.
fn cell(contest: &mut Contest, kind: Kind, options: &Options, recorder: &mut Recorder) {
    let (size, peers) = (kind.size(), contest.peers);
    let lines = contest.cell(size, options.effort);
    record(recorder, &case(&[("message", &kind.name()), ("peers", &peers)]), &lines);
    let (rounds, slice) = (lines[0].rates.len(), options.effort.slice);
    println!("\n{} ({size} B) to {peers} peers, {rounds} rounds of {slice:?} a slice\n", kind.name());
    table::header(&["", "k deliveries/s", "of the limit", "times as fast as it: peerpool"]);
    let ours = lines.last().expect("peerpool");
    for line in &lines {
        let lost = if line.lost > 0 { " BYTES LOST" } else { "" };
        table::row([
            format!("{}{lost}", line.name),
            format!("{:.0}", median(line.rates.iter().copied()) / 1e3),
            format!("{:.3}", ratio(&line.rates, &lines[0].rates)),
            format!("{:.2}", ratio(&ours.rates, &line.rates)),
        ]);
    }
}

/// Tips at full speed, to receivers that check their order.
fn order(contest: &mut Contest, options: &Options, recorder: &mut Recorder) {
    println!("\nUpdateTip, order at {} receivers\n", contest.peers);
    table::header(&["", "received", "after a later one", "%"]);
    for at in 0..contest.contenders.len() {
        if contest.contenders[at].name() == RAW_WRITE_LIMIT {
            continue;
        }
        for _ in 0..options.effort.rounds.min(3) {
            contest.slice(at, 0, messages::TIP_BYTES, Goal::Time(options.effort.slice));
        }
        let contender = &mut contest.contenders[at];
        let (messages, overtaken) = contest.receivers.order(contender.group());
        assert!(messages > 0, "{} sent nothing", contender.name());
        let share = overtaken as f64 / messages as f64;
        let case = case(&[("message", &"UpdateTip"), ("peers", &contest.peers)]);
        recorder.add(&case, contender.name(), "overtaken_share", &[share]);
        table::row([
            contender.name().to_owned(),
            messages.to_string(),
            overtaken.to_string(),
            format!("{:.2}", share * 100.0),
        ]);
    }
}
