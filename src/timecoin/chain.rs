//! The caller's side: chain data stays the caller's, and a node answers with what this trait gives.

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

/// Blocks in one answer at the most.
pub const MAX_BLOCKS: u64 = 100;

/// An answer: none, at once, or later.
pub enum Reply<T> {
    /// No reply. A node of ours is told so, unless what it asked is broadcast too (votes, instant finality); an old one is told
    /// nothing, as its network refuses by silence.
    None,
    /// This one.
    Now(T),
    /// What this future comes to. It runs in the task of the link that asked, beside other requests.
    Later(Pin<Box<dyn Future<Output = Option<T>> + Send>>),
}

impl<T> Reply<T> {
    /// What this future comes to.
    pub fn later(future: impl Future<Output = Option<T>> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }

    /// The answer, waited for.
    pub async fn get(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::Now(answer) => Some(answer),
            Self::Later(future) => future.await,
        }
    }
}

impl<T> From<Option<T>> for Reply<T> {
    fn from(answer: Option<T>) -> Self {
        answer.map_or(Self::None, Self::Now)
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

/// Who sent something.
#[derive(Clone, Debug)]
pub struct Sender {
    peer: Arc<Peer>,
    addr: SocketAddr,
}

impl Sender {
    pub(super) fn new(peer: Arc<Peer>, addr: SocketAddr) -> Self {
        Self { peer, addr }
    }

    /// Its IP address: what the old network knows a peer by.
    pub fn ip(&self) -> IpAddr {
        self.addr.ip()
    }

    /// Where it listens, as far as we know.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The pool's entry: health, round-trip time, bytes, and whether it is still there.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

/// A message that nobody else deals with.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are messages; a box would cost each an allocation")]
pub enum Incoming {
    /// A message: one that is no question of the kinds below, one that answers nothing, or a question that had no answer.
    Message(NetworkMessage),
    /// A frame that was read whole and is no message: a variant we do not know, or not JSON at all.
    Unreadable(Bytes),
}

/// Where a chain ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainTip {
    /// The height of its last block; `None` without a first one.
    pub height: Option<u64>,
    /// The hash of its last block; `"no_genesis"` without a first one, in the old network's words.
    pub hash: String,
}

impl ChainTip {
    /// A chain without a first block.
    pub fn none() -> Self {
        Self { height: None, hash: "no_genesis".into() }
    }
}

/// A wallet's transactions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WalletHistory {
    /// The transactions.
    pub transactions: Vec<WalletTransaction>,
    /// Complete up to this height.
    pub last_synced_height: u64,
}

/// All unspent outputs after a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateSnapshot {
    /// After this block.
    pub height: u64,
    /// What the outputs hash to.
    pub utxo_merkle_root: String,
    /// The outputs, in the application's own format.
    pub state_data: Vec<u8>,
    /// Whether they are packed with gzip.
    pub compressed: bool,
    /// Their size unpacked, in bytes.
    pub snapshot_size_bytes: u64,
}

/// The receipt for a vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoteAck {
    /// The block that was voted on.
    pub block_hash: String,
    /// Who voted.
    pub voter: String,
}

/// What a node says to a transaction that it is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finality {
    /// It approves.
    Approved {
        /// Who does.
        approver: String,
    },
    /// It does not.
    Rejected {
        /// Who does not.
        rejector: String,
        /// Why.
        reason: String,
    },
}

/// What a node knows of its chain, and what it makes of what arrives. Every method has a default that gives no reply, so an
/// implementation names what it has and leaves out the rest.
///
/// All calls are made from the task of the link concerned and must not block; what takes time is an [`Reply::later`].
/// A panic costs that one link.
///
/// The bounds of the network are kept by whoever calls: ranges of blocks have at most [`MAX_BLOCKS`].
pub trait ChainSource: Send + Sync + 'static {
    /// Where the chain ends. Answers `GetBlockchainHeight`, `GetBlockchainInfo` and `HeightRequest`.
    fn tip(&self) -> Reply<ChainTip> {
        Reply::None
    }

    /// The blocks of these heights, in ascending order, as far as they are there. Answers `GetBlocks`, `BlockRequest` and
    /// `ChainRequest`.
    fn blocks(&self, heights: RangeInclusive<u64>) -> Reply<Vec<Block>> {
        let _ = heights;
        Reply::None
    }

    /// The first block. Answers `GetGenesis`. Default: the block of height 0.
    fn genesis(&self) -> Reply<Block> {
        let blocks = self.blocks(0..=0);
        Reply::later(async { blocks.get().await?.into_iter().next() })
    }

    /// Transactions that wait for a block. Answers `GetMempool` and `MempoolQuery`.
    fn mempool(&self) -> Reply<Vec<Transaction>> {
        Reply::None
    }

    /// Those of these transactions that are known. Answers `RequestMissingTransactions`.
    fn transactions(&self, txids: Vec<String>) -> Reply<Vec<Transaction>> {
        let _ = txids;
        Reply::None
    }

    /// Transactions finalized after this time, and when, in seconds. Answers `RequestFinalizedTransactions`.
    fn finalized(&self, since: i64) -> Reply<Vec<(Transaction, i64)>> {
        let _ = since;
        Reply::None
    }

    /// A wallet's transactions. Answers `RequestWalletTransactions`; whoever asks is subscribed to the wallet too.
    fn wallet_history(&self, xpub: &str) -> Reply<WalletHistory> {
        let _ = xpub;
        Reply::None
    }

    /// A wallet's unspent outputs. Told after `RegisterXpub`, where there are any.
    fn wallet_utxos(&self, xpub: &str) -> Reply<Vec<UtxoInfo>> {
        let _ = xpub;
        Reply::None
    }

    /// Whether a transaction that touches these addresses concerns this wallet. Default yes: only the application can derive
    /// addresses from a key. Must not block: it is asked for every wallet somebody subscribed to.
    fn concerns(&self, xpub: &str, addresses: &[String]) -> bool {
        let _ = (xpub, addresses);
        true
    }

    /// All unspent outputs after this block. Answers `StateSnapshotRequest`.
    fn state_snapshot(&self, height: u64) -> Reply<StateSnapshot> {
        let _ = height;
        Reply::None
    }

    /// The masternodes. Answers `GetMasternodeList`.
    fn masternodes(&self) -> Reply<Vec<MasternodeInfo>> {
        Reply::None
    }

    /// What the list of masternodes hashes to. Answers `GetMasternodeHash`.
    fn masternode_hash(&self) -> Reply<String> {
        Reply::None
    }

    /// The states of those of these outputs that are known. Answers `UTXOStateQuery`.
    fn utxo_states(&self, outpoints: Vec<OutPoint>) -> Reply<Vec<(OutPoint, UTXOState)>> {
        let _ = outpoints;
        Reply::None
    }

    /// A vote on a block arrived, as JSON text; an answer acknowledges it. Without one the vote goes on to
    /// [`ChainSource::on_message`].
    fn block_vote(&self, from: &Sender, vote: &str) -> Reply<VoteAck> {
        let _ = (from, vote);
        Reply::None
    }

    /// Somebody asks whether this node approves of a transaction. Answers `InstantFinalityRequest`.
    fn finality(&self, from: &Sender, transaction: Transaction) -> Reply<Finality> {
        let _ = (from, transaction);
        Reply::None
    }

    /// Everything else that arrives: events, answers that nobody waits for, questions without an answer above. What this
    /// gives is sent back, as the answer if it was a question.
    fn on_message(&self, from: &Sender, message: Incoming) -> Reply<NetworkMessage> {
        let _ = (from, message);
        Reply::None
    }

    /// Whether [`ChainSource::on_message`] wants messages of this kind. Those it does not want are not parsed, which saves the
    /// time of it. Default: all.
    fn wants(&self, kind: Kind) -> bool {
        let _ = kind;
        true
    }

    /// A peer is live.
    fn connected(&self, peer: &Sender) {
        let _ = peer;
    }

    /// A peer is gone.
    fn disconnected(&self, peer: &Sender) {
        let _ = peer;
    }
}

/// A node that has no chain and answers nothing but for its peers and the time.
impl ChainSource for () {}
