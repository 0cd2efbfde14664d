//! `peerpool node`: one node that others connect to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use peerpool::address_book::AddressBook;
use peerpool::base::PeerId;
use peerpool::node::{
    Context, Event, Handled, Handler, Node, NodeEvent, RelayOutcome, Request, Responder, Subscription,
    SubscriptionItem,
};
use peerpool::timecoin::PeerManager;
use peerpool::transport::Tcp;
use peerpool::wire::Status;

use super::config_file::Settings;
use super::signals::ShutdownSignals;
use super::target::Target;
use super::timecoin_node::{self, Network};
use super::{failure, files, say};

/// Run a node that others connect to.
///
/// Prints `listening ADDR` once it listens (one line an address) and logs peers as they come and go to stderr. What its peers
/// broadcast it passes on, each message once. Ctrl-C or SIGTERM shuts it down in good order.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  peerpool node --listen 0.0.0.0:9000
  peerpool node --listen 127.0.0.1:0 --peer 127.0.0.1:9000 --book node.redb
  peerpool node --network testnet --timecoin 192.0.2.7:24100
  peerpool config > node.toml && peerpool node --listen 0.0.0.0:9000 --config node.toml")]
pub(super) struct NodeArgs {
    /// Addresses to listen on; port 0 takes any. May be left out where the configuration names some.
    #[arg(long, value_name = "ADDR", num_args = 1.., required_unless_present_any = ["config", "timecoin", "network"])]
    listen: Vec<SocketAddr>,
    /// An address to listen on for nodes of the TIME Coin network, over their JSON wire; the usual port is 24000, on testnet
    /// 24100. With --listen the node speaks to both kinds.
    #[arg(long, value_name = "ADDR", requires = "network")]
    timecoin: Option<SocketAddr>,
    /// Which TIME Coin network.
    #[arg(long, value_name = "NETWORK", requires = "timecoin")]
    network: Option<Network>,
    /// The address that TIME Coin peers are told, where it is not the one listened on.
    #[arg(long, value_name = "ADDR", requires = "timecoin")]
    public: Option<SocketAddr>,
    /// Addresses to dial first: an address or a name, and a port. A name stands for all its addresses.
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    peer: Vec<Target>,
    /// Where the address book is kept. Default: in memory.
    #[arg(long, value_name = "FILE")]
    book: Option<PathBuf>,
    /// The configuration, as `peerpool config` prints it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the node until it is told to end.
pub(super) async fn run(args: NodeArgs) -> ExitCode {
    let files = files::raise();
    // Before anything listens, so that a signal that comes early ends it in good order too.
    let mut ending = match ShutdownSignals::new() {
        Ok(ending) => ending,
        Err(why) => return failure(&why),
    };
    let started = tokio::select! {
        started = start(args) => started,
        signal = ending.wait() => {
            tracing::info!(signal, "ending before it has started");
            return ExitCode::SUCCESS;
        }
    };
    let running = match started {
        Ok(running) => running,
        Err(why) => return failure(&why),
    };
    let node = running.node();
    for addr in node.local_addrs() {
        say(&format!("listening {addr}"));
    }
    match files {
        Ok(got) => tracing::info!(now = got.now, before = got.before, "limit of open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
    let watcher = tokio::spawn(watch(node.subscribe()));
    let signal = ending.wait().await;
    tracing::info!(signal, "ending");
    let left = match &running {
        Running::Plain(node) => node.shutdown(SHUTDOWN).await,
        Running::TimeCoin(manager) => manager.shutdown(SHUTDOWN).await,
    };
    watcher.abort();
    if left.is_clean() {
        return ExitCode::SUCCESS;
    }
    failure(&format!("left over after the shutdown: {left:?}"))
}

/// What runs.
enum Running {
    Plain(Node),
    TimeCoin(PeerManager),
}

impl Running {
    fn node(&self) -> &Node {
        match self {
            Self::Plain(node) => node,
            Self::TimeCoin(manager) => manager.node(),
        }
    }
}

async fn start(args: NodeArgs) -> Result<Running, String> {
    let mut settings = match &args.config {
        Some(path) => {
            let path = path.clone();
            // A pipe may keep whoever reads it waiting.
            tokio::task::spawn_blocking(move || Settings::load(&path))
                .await
                .map_err(|error| error.to_string())??
        }
        None => Settings::default(),
    };
    settings.node.listen.extend(args.listen);
    if settings.node.listen.is_empty() && args.timecoin.is_none() {
        return Err("no address to listen on: give --listen, or `listen` in the configuration".into());
    }
    for peer in &args.peer {
        settings.node.seeds.extend(peer.resolve().await?);
    }
    let kept = settings.book.clone();
    let book = match args.book {
        Some(path) => {
            let opened = tokio::task::spawn_blocking(move || AddressBook::open(path, kept)).await;
            opened.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?
        }
        None => AddressBook::in_memory(kept),
    };
    if let (Some(listen), Some(network)) = (args.timecoin, args.network) {
        let place = timecoin_node::Place { network: network.into(), listen, public: args.public };
        return timecoin_node::start(place, settings, book).await.map(Running::TimeCoin);
    }
    let Settings { node, tcp, .. } = settings;
    let builder = Node::builder().config(node).transport(Tcp::new(tcp)).book(book).handler(Plain);
    builder.start().await.map(Running::Plain).map_err(|error| timecoin_node::words(&error))
}

/// Logs what the node does not log itself, until dropped.
async fn watch(mut events: Subscription) {
    loop {
        match events.next().await {
            SubscriptionItem::Event(NodeEvent::Up { peer, .. }) => {
                let info = peer.info();
                tracing::info!(peer = %peer.key(), agent = &*info.agent, listen = ?info.listen, "connected");
            }
            SubscriptionItem::Event(NodeEvent::PeerLagged { key, lane, missed, .. }) => {
                tracing::warn!(peer = %key, ?lane, missed, "too slow for our broadcasts");
            }
            SubscriptionItem::Lagged(missed) => tracing::warn!(missed, "events went unread"),
            _ => {}
        }
    }
}

/// The application of a plain node: it passes on what it hears, and has no answers.
struct Plain;

impl Handler for Plain {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        let message = event.into_message();
        let from: &PeerId = cx.peer().key();
        match cx.node().relay(&message, Some(cx.peer().id())) {
            Ok(RelayOutcome::New) => {
                tracing::debug!(%from, kind = message.kind, bytes = message.payload.len(), "passed on")
            }
            Ok(RelayOutcome::Duplicate) => {}
            Ok(RelayOutcome::Full) => {
                tracing::debug!(%from, kind = message.kind, "not passed on: the relay's memory is full")
            }
            Err(error) => tracing::debug!(%from, kind = message.kind, %error, "not passed on"),
        }
        Handled::Done
    }

    fn request(&self, cx: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        tracing::debug!(from = %cx.peer().key(), kind = request.kind, "no answer to a request of this kind");
        // Whether the peer still waits for it does not matter.
        let _ = responder.decline(Status::UnknownKind, "this node has no application");
        Handled::Done
    }
}

/// How long the shutdown may take.
const SHUTDOWN: Duration = Duration::from_secs(5);
