//! `peerpool mesh`: a mesh of real nodes in one process, a realistic load, and an exact account of
//! every message.
//!
//! ```text
//! start_cluster:  cluster -> member (node + app), until the wiring is stable
//! drive_load:     traffic -> node.relay / request      chaos -> faulty_net (with --chaos)
//! account:        ledger (what was sent)   app (what was received)   graph (connections over time)
//!                 -> reconcile -> report -> summary (table, JSON)
//! ```
//!
//! A message must reach every node that an unbroken path joins with its sender, exactly once
//! ([`ledger`] defines this). After the shutdown no task, connection or permit may remain. The
//! command exits with 1 if any of this does not hold.

mod app;
mod chaos;
mod clock;
mod cluster;
mod codec;
mod fault_plan;
mod faulty_net;
mod graph;
mod ledger;
mod member;
mod progress_bar;
mod report;
mod summary;
mod traffic;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use peerpool::address_book::{AddressBook, AddressBookConfig};
use peerpool::{Backoff, ShutdownReport};

use super::open_files;
use super::output::failure;
use super::signals::ShutdownSignals;
use chaos::FaultCounts;
use clock::Micros;
use cluster::Cluster;
use ledger::DELIVERY_WINDOW_US;
use progress_bar::ProgressDisplay;
use report::RunReport;
use traffic::{Load, Traffic};

/// Added to the delivery window, because nodes stamp events in whole milliseconds.
const CLOCK_MARGIN_US: Micros = 100_000;
/// How long after the delivery window the newest tips may take to arrive.
const TIP_DEADLINE: Duration = Duration::from_secs(5);
/// How long a mesh may take to become stable again after the last fault.
const HEAL_DEADLINE: Duration = Duration::from_secs(30);
/// How long a node may take to shut down.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Start a mesh of real nodes in one process on loopback TCP, drive a realistic load through it and
/// account for every message.
///
/// Each node starts with the address of one other node and discovers the rest. Once the connections
/// are stable, the load begins: tips (state), votes and block proposals (urgent), transactions
/// (normal), and requests for 256 KiB blocks (bulk). Every message must reach every node that an
/// unbroken path joins with its sender, exactly once. After the shutdown no task and no connection
/// may remain. Otherwise the command reports what is wrong and exits with 1. Ctrl-C ends the load
/// early and still prints the account. A second Ctrl-C ends the command at once.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  peerpool mesh                              16 nodes, 10 seconds
  peerpool mesh --nodes 32 --seconds 20      a larger mesh, for longer
  peerpool mesh --chaos --seconds 30         with broken connections, crashes and partitions
  peerpool mesh --timecoin                   the same over the TIME Coin protocol
  peerpool mesh --chaos --seed 7 --json      repeat a fault plan, for a script")]
pub(super) struct MeshArgs {
    /// Number of nodes.
    #[arg(long, default_value_t = 16, value_parser = count(2, 1_000))]
    nodes: usize,
    /// Number of peers that each node wants.
    #[arg(long, default_value_t = 6, value_parser = count(1, 200))]
    degree: usize,
    /// How long the load lasts, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// New messages per second, in the whole mesh.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Break connections, kill and restart nodes, and partition the mesh during the run.
    #[arg(long)]
    chaos: bool,
    /// Use the TIME Coin protocol (testnet, JSON). Each node gets a loopback address of its own.
    #[arg(long)]
    timecoin: bool,
    /// Seed of the load and of the fault plan. It does not fix how tasks interleave. Default:
    /// random, printed in the summary.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the summary as one JSON object in the last line.
    #[arg(long)]
    json: bool,
}

#[cfg(all(test, not(peerpool_loom)))]
impl MeshArgs {
    /// The smallest mesh.
    fn minimal() -> Self {
        Self {
            nodes: 2,
            degree: 1,
            seconds: 1,
            rate: 1,
            chaos: false,
            timecoin: false,
            seed: None,
            json: false,
        }
    }
}

/// Parses a count between `min` and `max`.
fn count(min: u64, max: u64) -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    clap::value_parser!(u64).range(min..=max).map(|number| number as usize)
}

/// Runs the subcommand.
pub(super) async fn run(args: MeshArgs) -> ExitCode {
    // With too low a limit, nodes report the failure themselves.
    let _ = open_files::raise_limit();
    let mut signals = match ShutdownSignals::new() {
        Ok(signals) => signals,
        Err(message) => return failure(&message),
    };
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let display = ProgressDisplay::new();
    let (stop_sender, stop) = watch::channel(false);
    let outcome = tokio::select! {
        outcome = run_mesh(&args, seed, &display, stop) => outcome,
        signal = second_signal(&mut signals, &stop_sender, &display) => {
            Err(format!("{signal}, twice: ended without an account"))
        }
    };
    display.clear();
    match outcome {
        Ok(report) => summary::print_report(&report, args.json),
        Err(message) => failure(&format!("the mesh could not run: {message}")),
    }
}

/// Becomes `true` when the load must end early.
type StopFlag = watch::Receiver<bool>;

/// Waits until the flag is set.
async fn stopped(stop: &mut StopFlag) {
    if stop.wait_for(|set| *set).await.is_err() {
        // The sender is gone, so the flag can no longer be set.
        std::future::pending::<()>().await;
    }
}

/// Sets the stop flag at the first signal and returns the name of the second one.
async fn second_signal(
    signals: &mut ShutdownSignals,
    stop: &watch::Sender<bool>,
    display: &ProgressDisplay,
) -> &'static str {
    let signal = signals.wait().await;
    stop.send_replace(true);
    display.note(&format!(
        "{signal}: no more traffic; preparing the account. A second signal ends the command at once"
    ));
    signals.wait().await
}

async fn run_mesh(
    args: &MeshArgs,
    seed: u64,
    display: &ProgressDisplay,
    mut stop: StopFlag,
) -> Result<RunReport, String> {
    let cluster = Arc::new(Cluster::new(args));
    let started = tokio::select! {
        started = start_cluster(args, seed, &cluster, display) => started,
        () = stopped(&mut stop) => Err("interrupted before the connections were stable".into()),
    };
    if let Err(message) = started {
        shut_down_all(&cluster).await;
        return Err(message);
    }
    let mut report = RunReport::begin(args, seed, &cluster);
    let (traffic, faults) = drive_load(args, seed, &cluster, display, &stop).await;
    display.stage("waiting for the delivery window to pass");
    sleep(Duration::from_micros(DELIVERY_WINDOW_US + CLOCK_MARGIN_US)).await;
    if args.chaos
        && let Err(message) = cluster.wait_until_stable(HEAL_DEADLINE).await
    {
        report.add_failure(format!("the mesh did not heal after the chaos: {message}"));
    }
    check_tips(&cluster, &mut report).await;
    display.stage("shutting down");
    report.collect(&cluster, &traffic, &faults);
    let remaining = shut_down_all(&cluster).await;
    report.set_leaked(remaining);
    report.evaluate(&cluster);
    Ok(report)
}

/// Starts all nodes and waits until their connections are stable.
async fn start_cluster(
    args: &MeshArgs,
    seed: u64,
    cluster: &Cluster,
    display: &ProgressDisplay,
) -> Result<(), String> {
    display.stage(&format!("starting {} nodes", args.nodes));
    let mut rng = fastrand::Rng::with_seed(seed);
    cluster.start_all(args.nodes, &mut rng).await.map_err(|error| error.to_string())?;
    display.stage("waiting for stable connections");
    cluster.wait_until_stable(Duration::from_secs(30 + args.nodes as u64 / 4)).await
}

/// Drives the traffic and, with `--chaos`, injects faults. Returns when both have ended.
async fn drive_load(
    args: &MeshArgs,
    seed: u64,
    cluster: &Arc<Cluster>,
    display: &ProgressDisplay,
    stop: &StopFlag,
) -> (Arc<Traffic>, Arc<FaultCounts>) {
    let (traffic, faults) = (Arc::<Traffic>::default(), Arc::<FaultCounts>::default());
    let load = Load { messages_per_second: args.rate, duration: Duration::from_secs(args.seconds) };
    let plan =
        if args.chaos { fault_plan::draw(seed, args.nodes, args.degree, load.duration) } else { Vec::new() };
    let rng = |salt| fastrand::Rng::with_seed(seed ^ salt);
    let driving = traffic::drive(cluster, &traffic, load, rng(1), stop.clone());
    let injecting = chaos::inject(cluster, &faults, plan, rng(2), stop.clone());
    let both = async { tokio::join!(driving, injecting) };
    tokio::select! {
        _ = both => {}
        () = display.follow(cluster, load.duration) => {}
    }
    (traffic, faults)
}

/// Waits until the newest tip of each node has arrived over each of its connections.
async fn check_tips(cluster: &Cluster, report: &mut RunReport) {
    let deadline = Instant::now() + TIP_DEADLINE;
    while let Some(missing) = cluster.missing_tip() {
        if Instant::now() >= deadline {
            report.add_failure(format!("a tip did not arrive: {missing}"));
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Shuts down every incarnation, killed ones included, and returns the sum of what remained.
async fn shut_down_all(cluster: &Cluster) -> ShutdownReport {
    let mut shutdowns = tokio::task::JoinSet::new();
    for member in cluster.all() {
        shutdowns.spawn(async move { member.shut_down(SHUTDOWN).await });
    }
    let mut sum = ShutdownReport::default();
    while let Some(remaining) = shutdowns.join_next().await {
        // A shutdown that panicked counts as one remaining task.
        let remaining = remaining.unwrap_or(ShutdownReport { tasks: 1, ..ShutdownReport::default() });
        sum.permits += remaining.permits;
        sum.connections += remaining.connections;
        sum.peers += remaining.peers;
        sum.tasks += remaining.tasks;
    }
    sum
}

/// An address book with short backoffs: a node on the same machine restarts within seconds.
fn address_book() -> AddressBook {
    let backoff = Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(2) };
    AddressBook::in_memory(AddressBookConfig { backoff, ..AddressBookConfig::default() })
}

/// Adds one to a statistics counter.
fn increment(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Reads a statistics counter.
fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Locks a mutex. Poison is ignored: no critical section of the mesh leaves data half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
