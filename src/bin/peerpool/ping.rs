//! `peerpool ping`: the native handshake with a node, then round trips by the protocol's own pings.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use peerpool::node::{ConnectError, Node, NodeConfig, Peer};
use peerpool::wire::GoodbyeReason;

use super::signals::ShutdownSignals;
use super::target::Target;
use super::{failure, say};

/// Greet a node as a peer would, and measure round trips with the protocol's own pings.
///
/// Unlike a TCP connect this tells whether a peerpool node of the same network answers there, and how fast it is itself.
/// Exits with 0 if at least one ping was answered. Ctrl-C ends it early, with the summary.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  peerpool ping 127.0.0.1:9000
  peerpool ping node.example.org:9000 --count 10 --interval 200ms")]
pub(super) struct PingArgs {
    /// The node: an address or a name, and a port. Of a name's addresses the first that answers is pinged.
    addr: Target,
    /// How many pings.
    #[arg(long, short = 'n', default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Time between two pings.
    #[arg(long, default_value = "1s", value_parser = super::config_file::duration)]
    interval: Duration,
    /// How long the handshake, and the answer to each ping, may take.
    #[arg(long, default_value = "5s", value_parser = patience)]
    timeout: Duration,
    /// The network that the node belongs to.
    #[arg(long, default_value_t = 0)]
    network: u64,
}

/// A duration in which something can happen.
fn patience(text: &str) -> Result<Duration, String> {
    let time = super::config_file::duration(text)?;
    if time < Duration::from_millis(1) { Err("must be at least a millisecond".into()) } else { Ok(time) }
}

/// Round trips.
#[derive(Debug, Default)]
struct Trips {
    sent: u32,
    took: Vec<Duration>,
}

/// Pings.
pub(super) async fn run(args: PingArgs) -> ExitCode {
    let mut ending = match ShutdownSignals::new() {
        Ok(ending) => ending,
        Err(why) => return failure(&why),
    };
    let reached = tokio::select! {
        reached = reach(&args) => reached,
        signal = ending.wait() => Err(format!("{signal}, before there was an answer")),
    };
    let Reached { node, peer, took } = match reached {
        Ok(reached) => reached,
        Err(why) => return failure(&why),
    };
    let (addr, info) = (peer.addr(), peer.info());
    say(&format!(
        "PING {addr}: {}, dialect version {}, handshake {}",
        info.agent,
        info.version,
        millis(took)
    ));
    let trips = probe(&args, &peer, &mut ending).await;
    node.shutdown(Duration::from_millis(500)).await;
    summary(addr, &trips)
}

/// A node of our own, the one to ping, and how long the handshake took.
struct Reached {
    node: Node,
    peer: Arc<Peer>,
    took: Duration,
}

async fn reach(args: &PingArgs) -> Result<Reached, String> {
    let addrs = args.addr.resolve().await?;
    let mut config = NodeConfig::local();
    config.network = args.network;
    config.runtime.target_peers = 0;
    config.runtime.handshake_timeout = args.timeout;
    // The pings are ours alone: the maintenance sends none meanwhile.
    config.runtime.ping_interval = Duration::from_secs(3_600);
    config.runtime.liveness.stale_after = Duration::from_secs(7_200);
    let node = Node::builder().config(config).start().await.map_err(|error| error.to_string())?;
    let (peer, took) = first_that_answers(&node, &addrs).await?;
    Ok(Reached { node, peer, took })
}

/// Tries one address after the other.
///
/// # Errors
/// One line that says of each why not.
async fn first_that_answers(node: &Node, addrs: &[SocketAddr]) -> Result<(Arc<Peer>, Duration), String> {
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

async fn probe(args: &PingArgs, peer: &Peer, ending: &mut ShutdownSignals) -> Trips {
    let addr = peer.addr();
    let mut trips = Trips::default();
    for number in 1..=args.count {
        let trip = async {
            if number > 1 {
                sleep(args.interval).await;
            }
            timeout(args.timeout, peer.connection().handle().probe()).await
        };
        let ended = tokio::select! {
            ended = trip => ended,
            // One that is still under way is neither answered nor lost.
            _ = ending.wait() => return trips,
        };
        trips.sent += 1;
        match ended {
            Ok(Some(took)) => {
                say(&format!("pong from {addr}: seq={number} time={}", millis(took)));
                trips.took.push(took);
            }
            Ok(None) => {
                let why = peer.departure().map_or("closed", peerpool::pool::DisconnectReason::name);
                say(&format!("no pong from {addr}: seq={number} the connection ended: {why}"));
                return trips;
            }
            Err(_) => say(&format!("no pong from {addr}: seq={number} within {:?}", args.timeout)),
        }
    }
    trips
}

fn summary(addr: SocketAddr, trips: &Trips) -> ExitCode {
    let (sent, answered) = (trips.sent, trips.took.len() as u32);
    let lost = f64::from(sent - answered) * 100.0 / f64::from(sent.max(1));
    say(&format!("--- {addr} ping statistics ---"));
    say(&format!("{sent} pings sent, {answered} answered, {lost:.0} % lost"));
    let (Some(min), Some(max)) = (trips.took.iter().min(), trips.took.iter().max()) else {
        return failure(&format!("no answer from {addr}"));
    };
    let mean = trips.took.iter().sum::<Duration>() / answered;
    say(&format!("rtt min/avg/max = {}/{}/{}", millis(*min), millis(mean), millis(*max)));
    ExitCode::SUCCESS
}

/// The error in the words of whoever types commands.
fn explain(error: &ConnectError) -> String {
    match error {
        ConnectError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "connection refused: nobody listens there".into()
        }
        ConnectError::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            "not our protocol: the greeting is too long".into()
        }
        ConnectError::Eof => "closed during the handshake, without a word; perhaps another protocol".into(),
        ConnectError::Timeout => "no greeting in time; perhaps another protocol".into(),
        ConnectError::Refused(goodbye) => {
            let retry = goodbye
                .retry_after
                .map_or_else(String::new, |wait| format!("; try again in {} s", wait.as_secs()));
            format!("refused: {}{retry}", in_words(goodbye.reason))
        }
        other => other.to_string(),
    }
}

fn in_words(reason: GoodbyeReason) -> String {
    match reason {
        GoodbyeReason::Full => "it has no free slot".into(),
        GoodbyeReason::Banned => "we are banned".into(),
        GoodbyeReason::WrongNetwork => "it is of another network (see --network)".into(),
        GoodbyeReason::WrongVersion => "it speaks another version of the dialect".into(),
        GoodbyeReason::WrongGenesis => "it has another genesis".into(),
        GoodbyeReason::Shutdown => "it is shutting down".into(),
        GoodbyeReason::Rejected => "its application does not want us".into(),
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
    async fn a_name_is_reached_at_any_of_its_addresses() {
        let start = async |listen: &[SocketAddr]| {
            let config = NodeConfig { listen: listen.to_vec(), ..NodeConfig::local() };
            Node::builder().config(config).start().await.unwrap()
        };
        let (node, there) = (start(&[]).await, start(&["127.0.0.1:0".parse().unwrap()]).await);
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let answers = there.local_addrs()[0];
        let (peer, _) = first_that_answers(&node, &[nobody, answers]).await.unwrap();
        assert_eq!(peer.addr(), answers);
        let why = first_that_answers(&node, &[nobody, nobody]).await.unwrap_err();
        assert_eq!(why.matches("nobody listens there").count(), 2, "{why}");
    }
}
