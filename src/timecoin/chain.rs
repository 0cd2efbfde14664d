//! The application's side of the network.
//!
//! The application implements [`ChainSource`]. The manager calls it to answer requests, and passes
//! on every message that it does not handle itself. Chain data never leaves the application's
//! ownership.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::node::Peer;

use super::wire::{
    Block, Kind, MasternodeInfo, NetworkMessage, OutPoint, Transaction, UTXOState, UtxoInfo,
    WalletTransaction,
};

/// Maximum number of blocks in one reply.
pub const MAX_BLOCKS: u64 = 100;

/// A reply: none, immediate, or later.
pub enum Reply<T> {
    /// No reply. A peerpool node receives a refusal, except for messages that are also broadcast
    /// (votes, instant finality). A legacy node receives nothing: its network refuses by silence.
    None,
    /// This reply.
    Now(T),
    /// The output of this future. It runs in the task of the requesting connection, concurrently
    /// with other requests.
    Later(Pin<Box<dyn Future<Output = Option<T>> + Send>>),
}

impl<T> Reply<T> {
    /// A reply that is the output of this future.
    pub fn later(future: impl Future<Output = Option<T>> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }

    /// Waits for the reply.
    pub async fn get(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::Now(reply) => Some(reply),
            Self::Later(future) => future.await,
        }
    }
}

impl<T> From<Option<T>> for Reply<T> {
    fn from(reply: Option<T>) -> Self {
        reply.map_or(Self::None, Self::Now)
    }
}

impl<T> std::fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Now(_) => "Now(..)",
            Self::Later(_) => "Later(..)",
        })
    }
}

/// The peer that sent a message.
#[derive(Clone, Debug)]
pub struct Sender {
    peer: Arc<Peer>,
    addr: SocketAddr,
}

impl Sender {
    pub(super) fn new(peer: Arc<Peer>, addr: SocketAddr) -> Self {
        Self { peer, addr }
    }

    /// Its IP address, which identifies a peer in this network.
    pub fn ip(&self) -> IpAddr {
        self.addr.ip()
    }

    /// The address it listens on, as far as known.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The pool entry: health, round-trip time, traffic counters, and whether the peer is still
    /// connected.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

/// A message that the manager does not handle itself.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are messages; a box would cost each an allocation")]
pub enum Incoming {
    /// A message that is not answered by a more specific method of [`ChainSource`]: an event, an
    /// unmatched reply, or a request that got no reply.
    Message(NetworkMessage),
    /// A complete frame that is not a message: an unknown variant, or not JSON.
    Unreadable(Bytes),
}

/// The last block of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainTip {
    /// The height of the last block; `None` for a chain without a genesis block.
    pub height: Option<u64>,
    /// The hash of the last block; `"no_genesis"` for a chain without one, as legacy nodes expect.
    pub hash: String,
}

impl ChainTip {
    /// The tip of a chain without a genesis block.
    pub fn none() -> Self {
        Self { height: None, hash: "no_genesis".into() }
    }
}

/// The transactions of a wallet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WalletHistory {
    /// The transactions.
    pub transactions: Vec<WalletTransaction>,
    /// The height up to which the list is complete.
    pub last_synced_height: u64,
}

/// All unspent outputs after a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateSnapshot {
    /// The height of that block.
    pub height: u64,
    /// The Merkle root of the outputs.
    pub utxo_merkle_root: String,
    /// The outputs, in the application's own format.
    pub state_data: Vec<u8>,
    /// Whether `state_data` is compressed with gzip.
    pub compressed: bool,
    /// The uncompressed size, in bytes.
    pub snapshot_size_bytes: u64,
}

/// The acknowledgement of a vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoteAck {
    /// The block that was voted on.
    pub block_hash: String,
    /// The voter.
    pub voter: String,
}

/// A node's decision about a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finality {
    /// The node approves the transaction.
    Approved {
        /// The deciding node.
        approver: String,
    },
    /// The node rejects the transaction.
    Rejected {
        /// The deciding node.
        rejector: String,
        /// The reason.
        reason: String,
    },
}

/// What a node knows of its chain, and how it handles incoming messages.
///
/// Every method has a default that gives no reply, so an implementation names only what it has.
///
/// Calls are made from the connection's task and must not block; slow work belongs into a
/// [`Reply::later`]. A panic ends that one connection.
///
/// The manager enforces the network's limits before it calls: a range of blocks has at most
/// [`MAX_BLOCKS`].
pub trait ChainSource: Send + Sync + 'static {
    /// The last block of the chain. Answers `GetBlockchainHeight`, `GetBlockchainInfo` and
    /// `HeightRequest`.
    fn tip(&self) -> Reply<ChainTip> {
        Reply::None
    }

    /// The known blocks of these heights, in ascending order. Answers `GetBlocks`, `BlockRequest`
    /// and `ChainRequest`.
    fn blocks(&self, heights: RangeInclusive<u64>) -> Reply<Vec<Block>> {
        let _ = heights;
        Reply::None
    }

    /// The genesis block. Answers `GetGenesis`. Default: the block of height 0.
    fn genesis(&self) -> Reply<Block> {
        let blocks = self.blocks(0..=0);
        Reply::later(async { blocks.get().await?.into_iter().next() })
    }

    /// The transactions in the mempool. Answers `GetMempool` and `MempoolQuery`.
    fn mempool(&self) -> Reply<Vec<Transaction>> {
        Reply::None
    }

    /// The known transactions among these. Answers `RequestMissingTransactions`.
    fn transactions(&self, txids: Vec<String>) -> Reply<Vec<Transaction>> {
        let _ = txids;
        Reply::None
    }

    /// Transactions finalized after `since`, each with its finalization time. Both in seconds since
    /// 1970. Answers `RequestFinalizedTransactions`.
    fn finalized(&self, since: i64) -> Reply<Vec<(Transaction, i64)>> {
        let _ = since;
        Reply::None
    }

    /// The transactions of a wallet. Answers `RequestWalletTransactions`; a reply also subscribes
    /// the requester to the wallet.
    fn wallet_history(&self, xpub: &str) -> Reply<WalletHistory> {
        let _ = xpub;
        Reply::None
    }

    /// The unspent outputs of a wallet. If there are any, they are sent after the reply to
    /// `RegisterXpub`.
    fn wallet_utxos(&self, xpub: &str) -> Reply<Vec<UtxoInfo>> {
        let _ = xpub;
        Reply::None
    }

    /// Whether a transaction that touches these addresses concerns this wallet. Default: yes,
    /// because only the application can derive addresses from a key. Must not block: it is called
    /// once for each subscribed wallet.
    fn concerns(&self, xpub: &str, addresses: &[String]) -> bool {
        let _ = (xpub, addresses);
        true
    }

    /// All unspent outputs after this block. Answers `StateSnapshotRequest`.
    fn state_snapshot(&self, height: u64) -> Reply<StateSnapshot> {
        let _ = height;
        Reply::None
    }

    /// The known masternodes. Answers `GetMasternodeList`.
    fn masternodes(&self) -> Reply<Vec<MasternodeInfo>> {
        Reply::None
    }

    /// The hash of the masternode list. Answers `GetMasternodeHash`.
    fn masternode_hash(&self) -> Reply<String> {
        Reply::None
    }

    /// The states of the known outputs among these. Answers `UTXOStateQuery`.
    fn utxo_states(&self, outpoints: Vec<OutPoint>) -> Reply<Vec<(OutPoint, UTXOState)>> {
        let _ = outpoints;
        Reply::None
    }

    /// Handles a vote on a block, given as JSON text. The reply acknowledges the vote; without one
    /// the vote is passed to [`ChainSource::on_message`].
    fn block_vote(&self, from: &Sender, vote: &str) -> Reply<VoteAck> {
        let _ = (from, vote);
        Reply::None
    }

    /// Decides about a transaction. Answers `InstantFinalityRequest`.
    fn finality(&self, from: &Sender, transaction: Transaction) -> Reply<Finality> {
        let _ = (from, transaction);
        Reply::None
    }

    /// Handles every other message: events, unmatched replies, and requests without a reply from a
    /// method above. The returned message is sent back, as the reply if the message was a request.
    fn on_message(&self, from: &Sender, message: Incoming) -> Reply<NetworkMessage> {
        let _ = (from, message);
        Reply::None
    }

    /// Whether [`ChainSource::on_message`] wants messages of this kind. Unwanted messages are not
    /// parsed, which saves CPU time. Default: all.
    fn wants(&self, kind: Kind) -> bool {
        let _ = kind;
        true
    }

    /// A peer has connected.
    fn connected(&self, peer: &Sender) {
        let _ = peer;
    }

    /// A peer has disconnected.
    fn disconnected(&self, peer: &Sender) {
        let _ = peer;
    }
}

/// A node without a chain. It answers requests for peers and the time only.
impl ChainSource for () {}
