//! Nodes that neither dial nor ping by themselves.

use std::thread;
use std::time::{Duration, Instant};

use peerpool::pool::PoolConfig;
use peerpool::{Node, NodeBuilder, NodeConfig};
use tokio::runtime::Runtime;

/// Longer than any bench.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

pub(crate) fn runtime(workers: usize) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    runtime.expect("a runtime")
}

/// As shipped, but that the node asks its peers for nothing and does not judge their silence:
/// receivers answer nothing. It listens on nothing yet.
pub(crate) fn quiet_config() -> NodeConfig {
    let mut config = NodeConfig::local();
    config.runtime.limits = PoolConfig::test().limits;
    config.runtime.target_outbound = 0;
    (config.runtime.ping_interval, config.runtime.discovery_interval) = (NEVER, NEVER);
    config.runtime.liveness.stale_after = 3 * NEVER;
    config
}

/// A quiet configuration of a node that listens on loopback.
pub(crate) fn quiet_listener() -> NodeConfig {
    let mut config = quiet_config();
    config.listen.push(([127, 0, 0, 1], 0).into());
    config
}

pub(crate) fn start(runtime: &Runtime, builder: NodeBuilder) -> Node {
    runtime.block_on(builder.start()).expect("a node")
}

/// Waits until the node has this many peers.
///
/// # Panics
/// If they do not come.
pub(crate) fn wait_for_peers(node: &Node, peers: usize) {
    let since = Instant::now();
    while node.roster().iter().count() < peers {
        assert!(since.elapsed() < Duration::from_secs(10), "not all peers are live");
        thread::sleep(Duration::from_millis(1));
    }
}
