//! `peerpool ping`: the native handshake with a node, then round trips of the protocol's ping
//! frame.
//!
//! The command starts a node that does not listen and dials no peer by itself, connects it to the
//! first address of the target that answers, and sends one ping after the other.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use peerpool::wire::GoodbyeReason;
use peerpool::{ConnectError, Endpoint, Node, NodeConfig, Peer};

use super::output::{failure, print};
use super::signals::ShutdownSignals;
use super::target::resolve;

/// How long the connection may take to close at the end.
const SHUTDOWN: Duration = Duration::from_millis(500);

/// Connect to a node as a peer does, and measure round trips with the protocol's own pings.
///
/// Unlike a TCP connect, this shows whether a peerpool node of the same network answers, and how
/// fast the node itself is. Exits with 0 if at least one ping was answered. Ctrl-C ends it early
/// and prints the summary.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  peerpool ping 127.0.0.1:9000
  peerpool ping node.example.org:9000 --count 10 --interval 200ms")]
pub(super) struct PingArgs {
    /// The node, as HOST:PORT. If a name has several addresses, the first one that answers is
    /// pinged.
    addr: Endpoint,
    /// Number of pings.
    #[arg(long, short = 'n', default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Time between two pings.
    #[arg(long, default_value = "1s", value_parser = super::config_file::parse_duration)]
    interval: Duration,
    /// Time limit of the handshake and of each ping.
    #[arg(long, default_value = "5s", value_parser = parse_timeout)]
    timeout: Duration,
    /// The id of the network that the node belongs to.
    #[arg(long, default_value_t = 0)]
    network: u64,
}

/// Parses a duration of at least a millisecond.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = super::config_file::parse_duration(text)?;
    if time < Duration::from_millis(1) { Err("must be at least a millisecond".into()) } else { Ok(time) }
}

/// The pings sent and the round-trip times of the answered ones.
#[derive(Debug, Default)]
struct PingStats {
    sent: u32,
    round_trips: Vec<Duration>,
}

/// Runs the subcommand.
pub(super) async fn run(args: PingArgs) -> ExitCode {
    let mut signals = match ShutdownSignals::new() {
        Ok(signals) => signals,
        Err(message) => return failure(&message),
    };
    let reached = tokio::select! {
        reached = connect(&args) => reached,
        signal = signals.wait() => Err(format!("{signal}, before the node answered")),
    };
    let Connected { node, peer, handshake } = match reached {
        Ok(reached) => reached,
        Err(message) => return failure(&message),
    };
    let (addr, info) = (peer.addr(), peer.info());
    print(&format!(
        "PING {addr}: {}, protocol version {}, handshake {}",
        info.agent,
        info.version,
        millis(handshake)
    ));
    let stats = send_pings(&args, &peer, &mut signals).await;
    node.shutdown(SHUTDOWN).await;
    print_summary(addr, &stats)
}

/// The local node, its connection to the target, and the duration of the handshake.
struct Connected {
    node: Node,
    peer: Arc<Peer>,
    handshake: Duration,
}

async fn connect(args: &PingArgs) -> Result<Connected, String> {
    let addrs = resolve(&args.addr).await?;
    let mut config = NodeConfig::local();
    config.network = args.network;
    config.runtime.target_outbound = 0;
    config.runtime.handshake_timeout = args.timeout;
    // The node's own keep-alive pings must not mix with the measured ones.
    config.runtime.ping_interval = Duration::from_secs(3_600);
    config.runtime.liveness.stale_after = Duration::from_secs(7_200);
    let node = Node::builder().config(config).start().await.map_err(|error| error.to_string())?;
    let (peer, handshake) = connect_to_first(&node, &addrs).await?;
    Ok(Connected { node, peer, handshake })
}

/// Tries the addresses in order, and returns the first connection and the duration of its
/// handshake.
///
/// # Errors
/// A one-line message with the failure of each address.
async fn connect_to_first(node: &Node, addrs: &[SocketAddr]) -> Result<(Arc<Peer>, Duration), String> {
    let mut failures = Vec::new();
    for addr in addrs {
        let begun = Instant::now();
        match node.connect(*addr).await {
            Ok(peer) => return Ok((peer, begun.elapsed())),
            Err(error) => failures.push(format!("no answer from {addr}: {}", explain(&error))),
        }
    }
    Err(failures.join("; "))
}

async fn send_pings(args: &PingArgs, peer: &Peer, signals: &mut ShutdownSignals) -> PingStats {
    let addr = peer.addr();
    let mut stats = PingStats::default();
    for number in 1..=args.count {
        let ping = async {
            if number > 1 {
                sleep(args.interval).await;
            }
            timeout(args.timeout, peer.connection().ping()).await
        };
        let outcome = tokio::select! {
            outcome = ping => outcome,
            // A ping in flight counts neither as answered nor as lost.
            _ = signals.wait() => return stats,
        };
        stats.sent += 1;
        match outcome {
            Ok(Some(round_trip)) => {
                print(&format!("pong from {addr}: seq={number} time={}", millis(round_trip)));
                stats.round_trips.push(round_trip);
            }
            Ok(None) => {
                let why = peer.disconnect_reason().map_or("closed", peerpool::pool::DisconnectReason::name);
                print(&format!("no pong from {addr}: seq={number} the connection ended: {why}"));
                return stats;
            }
            Err(_) => print(&format!("no pong from {addr}: seq={number} within {:?}", args.timeout)),
        }
    }
    stats
}

fn print_summary(addr: SocketAddr, stats: &PingStats) -> ExitCode {
    let (sent, answered) = (stats.sent, stats.round_trips.len() as u32);
    let lost = f64::from(sent - answered) * 100.0 / f64::from(sent.max(1));
    print(&format!("--- {addr} ping statistics ---"));
    print(&format!("{sent} pings sent, {answered} answered, {lost:.0} % lost"));
    let (Some(min), Some(max)) = (stats.round_trips.iter().min(), stats.round_trips.iter().max()) else {
        return failure(&format!("no answer from {addr}"));
    };
    let mean = stats.round_trips.iter().sum::<Duration>() / answered;
    print(&format!("rtt min/avg/max = {}/{}/{}", millis(*min), millis(mean), millis(*max)));
    ExitCode::SUCCESS
}

/// Describes a failed connection attempt to the operator.
fn explain(error: &ConnectError) -> String {
    match error {
        ConnectError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "connection refused: no process listens there".into()
        }
        ConnectError::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            "not our protocol: the hello is too long".into()
        }
        ConnectError::Eof => {
            "closed during the handshake without an answer; the node may speak another protocol".into()
        }
        ConnectError::Timeout => "no hello in time; the node may speak another protocol".into(),
        ConnectError::Refused(goodbye) => {
            let retry = goodbye
                .retry_after
                .map_or_else(String::new, |wait| format!("; try again in {} s", wait.as_secs()));
            format!("refused: {}{retry}", describe_reason(goodbye.reason))
        }
        ConnectError::WrongNetwork { ours, theirs } => {
            format!("it is of network {theirs}, and this command asked for {ours} (see --network)")
        }
        other => other.to_string(),
    }
}

fn describe_reason(reason: GoodbyeReason) -> String {
    match reason {
        GoodbyeReason::Full => "the node has no free slot".into(),
        GoodbyeReason::Banned => "this host is banned".into(),
        GoodbyeReason::WrongNetwork => "it is of another network (see --network)".into(),
        GoodbyeReason::WrongVersion => "the node speaks another protocol version".into(),
        GoodbyeReason::WrongGenesis => "the node has another genesis hash".into(),
        GoodbyeReason::Shutdown => "the node is shutting down".into(),
        GoodbyeReason::Rejected => "the node's application rejected this peer".into(),
        other => format!("{other:?}"),
    }
}

fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_target_is_reached_at_any_of_its_addresses() {
        let start = async |listen: &[SocketAddr]| {
            let config = NodeConfig { listen: listen.to_vec(), ..NodeConfig::local() };
            Node::builder().config(config).start().await.unwrap()
        };
        let (node, remote) = (start(&[]).await, start(&["127.0.0.1:0".parse().unwrap()]).await);
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listening = remote.local_addrs()[0];
        let (peer, _) = connect_to_first(&node, &[unused, listening]).await.unwrap();
        assert_eq!(peer.addr(), listening);
        let error = connect_to_first(&node, &[unused, unused]).await.unwrap_err();
        assert_eq!(error.matches("no process listens there").count(), 2, "{error}");
    }
}
