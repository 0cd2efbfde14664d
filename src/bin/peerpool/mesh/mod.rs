//! `peerpool mesh`: a mesh of real nodes in one process, a realistic load, and an exact account of what became of it.

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
mod traffic;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use peerpool::address_book::{AddressBook, AddressBookConfig};
use peerpool::base::Backoff;
use peerpool::node::ShutdownReport;
use peerpool::sync::atomic::Ordering;

use super::failure;
use super::signals::ShutdownSignals;
use chaos::FaultCounts;
use cluster::Cluster;
use ledger::WINDOW;
use progress_bar::ProgressDisplay;
use report::RunReport;
use traffic::Traffic;

/// Start a mesh of real nodes in one process on loopback TCP, drive a realistic load through it and account for every message.
///
/// The nodes wire themselves up: each is told one address and discovers the rest. Once the wiring is stable, tips (state),
/// votes and block proposals (urgent), transactions (normal) and requests for 256 KiB blocks (bulk) begin. Every message must
/// reach every node that an unbroken path joins with its origin, exactly once; after the shutdown nothing may be left. If
/// anything is missing the command says what and exits with 1. Ctrl-C ends the traffic early, and the account is made up all
/// the same; a second one ends the command at once.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  peerpool mesh                              16 nodes, 10 seconds
  peerpool mesh --nodes 32 --seconds 20      a larger one, for longer
  peerpool mesh --chaos --seconds 30         with cuts, crashes and partitions
  peerpool mesh --timecoin                   the same over the TIME Coin network's wire
  peerpool mesh --chaos --seed 7 --json      the same plan again, for a script")]
pub(super) struct MeshArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 16, value_parser = count(2, 1_000))]
    nodes: usize,
    /// How many peers each node wants.
    #[arg(long, default_value_t = 6, value_parser = count(1, 200))]
    degree: usize,
    /// How long the traffic lasts, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// New messages a second, of the whole mesh.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Cut connections, kill and restart nodes, partition and heal during the run.
    #[arg(long)]
    chaos: bool,
    /// Speak the TIME Coin network's wire (testnet, JSON), each node at a loopback address of its own.
    #[arg(long)]
    timecoin: bool,
    /// Repeats the plan of a run (not its interleaving). Default: drawn, and told in the summary.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the summary as one JSON object, as the last line.
    #[arg(long)]
    json: bool,
}

#[cfg(all(test, not(peerpool_loom)))]
impl MeshArgs {
    /// The least there is.
    fn least() -> Self {
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

/// A number of things, within bounds.
fn count(from: u64, to: u64) -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    clap::value_parser!(u64).range(from..=to).map(|number| number as usize)
}

/// Runs the mesh.
pub(super) async fn run(args: MeshArgs) -> ExitCode {
    let _ = super::files::raise();
    let mut ending = match ShutdownSignals::new() {
        Ok(ending) => ending,
        Err(why) => return failure(&why),
    };
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let show = ProgressDisplay::new();
    let (cut, stop) = watch::channel(false);
    let outcome = tokio::select! {
        outcome = play(&args, seed, &show, stop) => outcome,
        signal = given_up(&mut ending, &cut, &show) => Err(format!("{signal}, twice: given up without an account")),
    };
    show.clear();
    match outcome {
        Ok(facts) => report::tell(&facts, args.json),
        Err(why) => failure(&format!("the mesh could not run: {why}")),
    }
}

/// Whether whoever started the run has had stop of it.
type StopSignal = watch::Receiver<bool>;

/// Waits for that.
async fn stopped(stop: &mut StopSignal) {
    if stop.wait_for(|had| *had).await.is_err() {
        // Nobody is left who could.
        std::future::pending::<()>().await;
    }
}

/// The first signal cuts the run short; returns at the second.
async fn given_up(
    ending: &mut ShutdownSignals,
    cut: &watch::Sender<bool>,
    show: &ProgressDisplay,
) -> &'static str {
    let signal = ending.wait().await;
    cut.send_replace(true);
    show.note(&format!("{signal}: no more traffic; the account is made up, a second signal ends it at once"));
    ending.wait().await
}

async fn play(
    args: &MeshArgs,
    seed: u64,
    show: &ProgressDisplay,
    mut stop: StopSignal,
) -> Result<RunReport, String> {
    let cluster = Arc::new(Cluster::new(args));
    let wired = tokio::select! {
        wired = wire(args, seed, &cluster, show) => wired,
        () = stopped(&mut stop) => Err("interrupted before the wiring was stable".into()),
    };
    if let Err(why) = wired {
        end(&cluster).await;
        return Err(why);
    }
    let mut facts = RunReport::begin(args, seed, &cluster);
    let (traffic, fault_counts) = load(args, seed, &cluster, show, &stop).await;
    show.stage("waiting until every promise is due");
    sleep(Duration::from_micros(WINDOW + MARGIN)).await;
    if args.chaos
        && let Err(why) = cluster.settle(chaos::HEALING).await
    {
        facts.complain(format!("after the chaos the mesh did not heal: {why}"));
    }
    check_tips(&cluster, &mut facts).await;
    show.stage("shutting down");
    facts.close(&cluster, &traffic, &fault_counts);
    let leaked = end(&cluster).await;
    facts.leaked(leaked);
    facts.judge(&cluster);
    Ok(facts)
}

/// Starts all nodes and waits until they have found each other.
async fn wire(args: &MeshArgs, seed: u64, cluster: &Cluster, show: &ProgressDisplay) -> Result<(), String> {
    show.stage(&format!("starting {} nodes", args.nodes));
    let mut rng = fastrand::Rng::with_seed(seed);
    cluster.start(args.nodes, &mut rng).await.map_err(|error| error.to_string())?;
    show.stage("waiting for stable wiring");
    cluster.settle(Duration::from_secs(30 + args.nodes as u64 / 4)).await
}

/// Traffic, and chaos if asked for.
async fn load(
    args: &MeshArgs,
    seed: u64,
    cluster: &Arc<Cluster>,
    show: &ProgressDisplay,
    stop: &StopSignal,
) -> (Arc<Traffic>, Arc<FaultCounts>) {
    let (traffic, fault_counts) = (Arc::<Traffic>::default(), Arc::<FaultCounts>::default());
    let lasting = Duration::from_secs(args.seconds);
    let plan = if args.chaos { fault_plan::draw(seed, args.nodes, args.degree, lasting) } else { Vec::new() };
    let rng = |salt| fastrand::Rng::with_seed(seed ^ salt);
    let driving = traffic::drive(cluster, &traffic, (args.rate, lasting), rng(1), stop.clone());
    let injecting = chaos::inject(cluster, &fault_counts, plan, rng(2), stop.clone());
    let both = async { tokio::join!(driving, injecting) };
    tokio::select! {
        _ = both => {}
        () = show.follow(cluster, lasting) => {}
    }
    (traffic, fault_counts)
}

/// The newest tip must arrive over every link, soon after the last one was set.
async fn check_tips(cluster: &Cluster, facts: &mut RunReport) {
    let until = Instant::now() + TIPS;
    while let Some(missing) = cluster.missing_tip() {
        if Instant::now() >= until {
            facts.complain(format!("a tip did not arrive: {missing}"));
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Ends every incarnation, killed ones included; the sum of what was left of them.
async fn end(cluster: &Cluster) -> ShutdownReport {
    let mut ending = tokio::task::JoinSet::new();
    for member in cluster.all() {
        ending.spawn(async move { member.end(SHUTDOWN).await });
    }
    let mut sum = ShutdownReport::default();
    while let Some(left) = ending.join_next().await {
        // A shutdown that panicked has left its own task at the least.
        let left = left.unwrap_or(ShutdownReport { tasks: 1, ..ShutdownReport::default() });
        sum.permits += left.permits;
        sum.connections += left.connections;
        sum.peers += left.peers;
        sum.tasks += left.tasks;
    }
    sum
}

/// The book of a node: on one machine there is no reason to wait long for somebody who restarts.
fn book() -> AddressBook {
    let backoff = Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(2) };
    AddressBook::in_memory(AddressBookConfig { backoff, ..AddressBookConfig::default() })
}

/// A relaxed look at a counter.
fn read(counter: &peerpool::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Added to the window for what clocks in milliseconds blur.
const MARGIN: clock::Micros = 100_000;
/// How long after the window the newest tips may take.
const TIPS: Duration = Duration::from_secs(5);
/// How long a node may take to shut down.
const SHUTDOWN: Duration = Duration::from_secs(10);
