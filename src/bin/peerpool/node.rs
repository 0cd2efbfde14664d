//! `peerpool node`: one node that other nodes connect to.
//!
//! Flow: [`run`] installs the signal handlers, [`start`] merges the configuration file with the
//! arguments and starts the node, the addresses go to stdout, and a signal shuts the node down.
//! [`Forwarder`] is the application: it relays every broadcast once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use peerpool::address_book::AddressBook;
use peerpool::timecoin::PeerManager;
use peerpool::transport::Tcp;
use peerpool::wire::Status;
use peerpool::{Context, Endpoint, Event, Handled, Handler, Node, PeerId, RelayOutcome, Request, Responder};

use super::config_file::Settings;
use super::open_files;
use super::output::{failure, print};
use super::signals::ShutdownSignals;
use super::timecoin_node::{self, Network};

/// How long the shutdown may take.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Run a node that other nodes connect to.
///
/// Prints `listening ADDR` for each address once it listens, and logs connecting and disconnecting
/// peers to stderr. It relays the broadcasts of its peers, each message once. Ctrl-C, SIGTERM or
/// SIGHUP shuts it down cleanly.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  peerpool node --listen 0.0.0.0:9000
  peerpool node --listen 127.0.0.1:0 --peer 127.0.0.1:9000 --book node.redb
  peerpool node --network testnet --timecoin 192.0.2.7:24100
  peerpool config > node.toml && peerpool node --listen 0.0.0.0:9000 --config node.toml")]
pub(super) struct NodeArgs {
    /// Addresses to listen on; port 0 takes any free port. Optional if the configuration file has
    /// `listen`.
    #[arg(long, value_name = "ADDR", num_args = 1.., required_unless_present_any = ["config", "timecoin", "network"])]
    listen: Vec<SocketAddr>,
    /// An address to listen on for nodes of the TIME Coin network, which speak a JSON protocol. The
    /// usual port is 24000, on testnet 24100. With --listen the node serves both protocols.
    #[arg(long, value_name = "ADDR", requires = "network")]
    timecoin: Option<SocketAddr>,
    /// The TIME Coin network to join.
    #[arg(long, value_name = "NETWORK", requires = "timecoin")]
    network: Option<Network>,
    /// The address to announce to TIME Coin peers, if it differs from the one listened on.
    #[arg(long, value_name = "ADDR", requires = "timecoin")]
    public: Option<SocketAddr>,
    /// Peers to dial first, as HOST:PORT. A name stands for all its addresses, and is looked up again
    /// every ten minutes.
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    peer: Vec<Endpoint>,
    /// File of the address book. Default: in memory.
    #[arg(long, value_name = "FILE")]
    book: Option<PathBuf>,
    /// Configuration file, in the format that `peerpool config` prints.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the node until a signal arrives.
pub(super) async fn run(args: NodeArgs) -> ExitCode {
    let open_files = open_files::raise_limit();
    // Installed before the node listens, so that an early signal also shuts it down cleanly.
    let mut signals = match ShutdownSignals::new() {
        Ok(signals) => signals,
        Err(message) => return failure(&message),
    };
    let started = tokio::select! {
        started = start(args) => started,
        signal = signals.wait() => {
            tracing::info!(signal, "stopped before the node has started");
            return ExitCode::SUCCESS;
        }
    };
    let running = match started {
        Ok(running) => running,
        Err(message) => return failure(&message),
    };
    let node = running.node();
    for addr in node.local_addrs() {
        print(&format!("listening {addr}"));
    }
    match open_files {
        Ok(limit) => tracing::info!(now = limit.now, before = limit.before, "limit of open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
    let signal = signals.wait().await;
    tracing::info!(signal, "shutting down");
    let left = match &running {
        Running::Native(node) => node.shutdown(SHUTDOWN).await,
        Running::TimeCoin(manager) => manager.shutdown(SHUTDOWN).await,
    };
    if left.is_clean() {
        return ExitCode::SUCCESS;
    }
    failure(&format!("left over after the shutdown: {left:?}"))
}

/// The running node.
enum Running {
    Native(Node),
    TimeCoin(PeerManager),
}

impl Running {
    fn node(&self) -> &Node {
        match self {
            Self::Native(node) => node,
            Self::TimeCoin(manager) => manager.node(),
        }
    }
}

async fn start(args: NodeArgs) -> Result<Running, String> {
    let mut settings = match &args.config {
        Some(path) => {
            let path = path.clone();
            // Reading from a pipe may block.
            tokio::task::spawn_blocking(move || Settings::load(&path))
                .await
                .map_err(|error| error.to_string())??
        }
        None => Settings::default(),
    };
    settings.node.listen.extend(args.listen);
    if settings.node.listen.is_empty() && args.timecoin.is_none() {
        return Err("no address to listen on: use --listen, or `listen` in the configuration file".into());
    }
    settings.node.seeds.extend(args.peer);
    let book_config = settings.book.clone();
    let book = match args.book {
        Some(path) => {
            let opened = tokio::task::spawn_blocking(move || AddressBook::open(path, book_config)).await;
            opened.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?
        }
        None => AddressBook::in_memory(book_config),
    };
    if let (Some(listen), Some(network)) = (args.timecoin, args.network) {
        let addrs = timecoin_node::ListenAddrs { network: network.into(), listen, public: args.public };
        return timecoin_node::start(addrs, settings, book).await.map(Running::TimeCoin);
    }
    let Settings { node, tcp, .. } = settings;
    let builder = Node::builder().config(node).transport(Tcp::new(tcp)).book(book).handler(Forwarder);
    builder.start().await.map(Running::Native).map_err(|error| timecoin_node::describe(&error))
}

/// The application of the node: it relays every message and declines every request.
struct Forwarder;

impl Handler for Forwarder {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        let message = event.into_message();
        let from: &PeerId = cx.peer().key();
        match cx.node().relay(&message, Some(cx.peer())) {
            Ok(RelayOutcome::New) => {
                tracing::debug!(%from, kind = message.kind, bytes = message.payload.len(), "relayed")
            }
            Ok(RelayOutcome::Duplicate) => {}
            Ok(RelayOutcome::Full) => {
                tracing::debug!(%from, kind = message.kind, "not relayed: the relay's memory is full")
            }
            Err(error) => tracing::debug!(%from, kind = message.kind, %error, "not relayed"),
        }
        Handled::Done
    }

    fn request(&self, cx: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        tracing::debug!(from = %cx.peer().key(), kind = request.kind, "declined a request");
        // An error means that the peer no longer waits for the answer.
        let _ = responder.decline(Status::UnknownKind, "this node has no application");
        Handled::Done
    }
}
