//! The manager of the TIME Coin network: two of them, strangers, and a legacy node.

#![cfg(all(feature = "timecoin", not(peerpool_loom)))]

#[path = "../../examples/timecoin_responder/chain.rs"]
mod chain;
mod connections;
mod legacy;
mod legacy_faults;
#[path = "../common/legacy_node.rs"]
mod legacy_node;
mod lifecycle;
mod messaging;
mod requests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chain::MemoryChain;
use peerpool::timecoin::wire::{
    Block, BlockHeader, BlockTime, Kind, MasternodeCounts, OutPoint, Transaction, TransactionMessage,
    TxInput, TxOutput, WalletTransaction,
};
use peerpool::timecoin::{
    ChainSource, Incoming, ManagerConfig, NetworkMessage, NetworkType, PeerInfo, PeerManager,
};
use peerpool::transport::MemoryNet;

/// Bounds every wait.
const WAIT: Duration = Duration::from_secs(20);
const TESTNET: NetworkType = NetworkType::Testnet;

/// An address that no other test, in this process or another one, uses: the network fixes the port,
/// so the IP address differs.
fn address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(next < 254, "a process has one net of addresses");
    // Processes that live at the same time have numbers that differ in their lower 15 bits, unless
    // there are more than that.
    let process = std::process::id();
    let [high, low] = [128 + (process >> 8 & 0x7f) as u8, process as u8];
    SocketAddr::from(([127, high, low, 1 + next as u8], TESTNET.port()))
}

fn config() -> ManagerConfig {
    ManagerConfig::local(TESTNET)
}

fn chain(name: &str) -> Arc<MemoryChain> {
    Arc::new(MemoryChain { name: name.into(), ..MemoryChain::default() })
}

/// A manager on real sockets that listens.
async fn manager(chain: Arc<dyn ChainSource>) -> PeerManager {
    manager_with(config(), chain).await
}

async fn manager_with(config: ManagerConfig, chain: Arc<dyn ChainSource>) -> PeerManager {
    let addr = address();
    PeerManager::builder(TESTNET, addr, addr).config(config).chain(chain).start().await.unwrap()
}

/// A manager in a world in memory, where hours take milliseconds.
async fn manager_in(
    net: &MemoryNet,
    host: u8,
    config: ManagerConfig,
    chain: Arc<dyn ChainSource>,
) -> PeerManager {
    let addr = in_memory(host);
    let builder = PeerManager::builder(TESTNET, addr, addr).config(config).chain(chain);
    builder.transport(net.host(addr.ip())).start().await.unwrap()
}

fn in_memory(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], TESTNET.port()))
}

fn ip_of(manager: &PeerManager) -> IpAddr {
    manager.listen_addr().ip()
}

fn info_of(manager: &PeerManager) -> PeerInfo {
    PeerInfo::new(manager.listen_addr(), TESTNET)
}

/// The first dials the second, and both know it.
async fn connect(one: &PeerManager, other: &PeerManager) {
    one.connect_to_peer(info_of(other)).await.unwrap();
    until("the acceptor knows its peer", || other.connection(ip_of(one)).is_some()).await;
}

/// Two connected managers, and the chain of the second.
async fn pair() -> (PeerManager, PeerManager, Arc<MemoryChain>) {
    let heard = chain("b");
    let (one, other) = (manager(chain("a")).await, manager(Arc::clone(&heard) as _).await);
    connect(&one, &other).await;
    (one, other, heard)
}

/// Waits until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(WAIT, waiting).await.is_ok(), "never: {what}");
}

/// What a chain has heard of a kind.
fn heard(chain: &MemoryChain, kind: Kind) -> Vec<NetworkMessage> {
    let heard = chain.heard.lock().unwrap();
    let messages = heard.iter().filter_map(|incoming| match incoming {
        Incoming::Message(message) if message.kind() == kind => Some(message.clone()),
        _ => None,
    });
    messages.collect()
}

fn payment(nonce: u64) -> TransactionMessage {
    TransactionMessage {
        txid: "ab".into(),
        from: "TIME1a".into(),
        to: "TIME1b".into(),
        amount: 5,
        fee: 1,
        timestamp: 1_765_000_000,
        signature: String::new(),
        nonce,
    }
}

fn transaction(lock_time: u32) -> Transaction {
    let mut transaction = Transaction {
        txid: String::new(),
        version: 1,
        inputs: vec![TxInput {
            previous_output: OutPoint { txid: "ab".into(), vout: 0 },
            public_key: vec![1, 2],
            signature: vec![3],
            sequence: u32::MAX,
        }],
        outputs: vec![TxOutput { amount: 9, address: "TIME1c".into() }],
        lock_time,
        timestamp: 1_765_000_000,
    };
    transaction.txid = transaction.computed_txid();
    transaction
}

fn wallet_transaction() -> WalletTransaction {
    WalletTransaction {
        // Short ones made the legacy node panic.
        tx_hash: "x".into(),
        from_address: "TIME1a".into(),
        to_address: "TIME1b".into(),
        amount: 5,
        timestamp: 1_765_000_000,
        block_height: 1,
        confirmations: 2,
    }
}

fn block(number: u64) -> Block {
    let header = BlockHeader {
        block_number: number,
        timestamp: BlockTime::from_seconds(1_765_000_000).unwrap(),
        previous_hash: "00".into(),
        merkle_root: "00".into(),
        validator_signature: String::new(),
        validator_address: "TIME1validator".into(),
        masternode_counts: MasternodeCounts::default(),
        proof_of_time: None,
        checkpoints: Vec::new(),
    };
    let hash = header.computed_hash();
    Block { header, transactions: Vec::new(), hash }
}
