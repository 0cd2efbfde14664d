//! The 71 messages of the network.

use serde::{Deserialize, Serialize, Serializer};

use super::codec::byte_array;
use super::types::{
    Block, BlockData, MasternodeInfo, PeerAddress, Transaction, TransactionMessage, TransactionValidation,
    UtxoInfo, WalletTransaction,
};

/// A message of the network. The variants are in the order of [`Kind`](super::Kind).
///
/// Heights are block numbers. Ids, amounts and times are as described in `types.rs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NetworkMessage {
    /// Checks that the peer is alive.
    Ping,
    /// The reply to a ping.
    Pong,
    /// Requests the peer's time.
    TimeRequest {
        /// The requester's time, in milliseconds.
        request_time_ms: i64,
    },
    /// The time of a peer.
    TimeResponse {
        /// The time in the request.
        request_time_ms: i64,
        /// The responder's time, in milliseconds.
        peer_time_ms: i64,
    },
    /// A payment.
    Transaction(TransactionMessage),
    /// A node's decision about a payment.
    ValidationResponse(TransactionValidation),
    /// A proposed block as bytes.
    BlockProposal(#[serde(serialize_with = "byte_array")] Vec<u8>),
    /// Requests the height of the chain.
    GetBlockchainHeight,
    /// The height of a chain.
    BlockchainHeight(u64),
    /// Requests the blocks of a range of heights.
    GetBlocks {
        /// The first height.
        start_height: u64,
        /// The last height, inclusive.
        end_height: u64,
    },
    /// Blocks as bytes.
    BlocksData(Vec<BlockData>),
    /// Blocks.
    Blocks {
        /// In ascending order.
        blocks: Vec<Block>,
    },
    /// Tells that a node is behind.
    CatchUpRequest {
        /// The node that is behind.
        requester: String,
        /// Its height.
        current_height: u64,
        /// The height it should have.
        expected_height: u64,
    },
    /// Acknowledges a [`NetworkMessage::CatchUpRequest`].
    CatchUpAcknowledge {
        /// The acknowledging node.
        responder: String,
    },
    /// A new transaction.
    TransactionBroadcast(Transaction),
    /// A transaction that was finalized by vote.
    FinalizedTransactionBroadcast(Transaction),
    /// Requests a node's decision about a transaction.
    InstantFinalityRequest(Transaction),
    /// A vote on a transaction.
    InstantFinalityVote {
        /// The transaction.
        txid: String,
        /// The voter.
        voter: String,
        /// Whether the voter approves.
        approve: bool,
        /// When it was cast.
        timestamp: u64,
    },
    /// A transaction for the mempool.
    MempoolAdd(Transaction),
    /// Requests the content of the mempool.
    MempoolQuery,
    /// The content of a mempool.
    MempoolResponse(Vec<Transaction>),
    /// A proposed block as JSON text; its fields are the application's.
    ConsensusBlockProposal(String),
    /// A vote on a block as JSON text; its fields are the application's.
    ConsensusBlockVote(String),
    /// Acknowledges a vote on a block.
    ConsensusVoteAck {
        /// The block that was voted on.
        block_hash: String,
        /// The voter.
        voter: String,
        /// When the vote arrived.
        received_at: u64,
    },
    /// Requests transactions of a proposed block.
    RequestMissingTransactions {
        /// The transaction ids.
        txids: Vec<String>,
        /// The requester.
        requester: String,
        /// The block's height.
        block_height: u64,
    },
    /// Transactions of a proposed block.
    MissingTransactionsResponse {
        /// The known ones.
        transactions: Vec<Transaction>,
        /// The block's height.
        block_height: u64,
    },
    /// Tells that a transaction was rejected.
    TransactionRejection {
        /// The transaction.
        txid: String,
        /// The reason, such as `double_spend`.
        reason: String,
        /// The owner's wallet.
        wallet_address: String,
    },
    /// Asks the leader of a height to propose a block.
    RequestBlockProposal {
        /// The height.
        block_height: u64,
        /// The leader.
        leader_ip: String,
        /// The requester.
        requester_ip: String,
    },
    /// The sender's chain tip.
    UpdateTip {
        /// Its height.
        height: u64,
        /// The hash of its last block.
        hash: String,
    },
    /// Requests notifications about a wallet.
    RegisterXpub {
        /// The wallet's extended public key.
        xpub: String,
    },
    /// Whether the wallet was registered.
    XpubRegistered {
        /// Whether it was.
        success: bool,
        /// A description.
        message: String,
    },
    /// A wallet's unspent outputs.
    UtxoUpdate {
        /// The wallet's extended public key.
        xpub: String,
        /// The outputs.
        utxos: Vec<UtxoInfo>,
    },
    /// Requests the transactions of a wallet.
    RequestWalletTransactions {
        /// The wallet's extended public key.
        xpub: String,
    },
    /// The transactions of a wallet.
    WalletTransactionsResponse {
        /// The transactions.
        transactions: Vec<WalletTransaction>,
        /// The height up to which the list is complete.
        last_synced_height: u64,
    },
    /// Requests the peers that a node knows.
    GetPeerList,
    /// Tells a wallet of a new transaction.
    NewTransactionNotification {
        /// The transaction.
        transaction: WalletTransaction,
    },
    /// Requests the genesis block.
    GetGenesis,
    /// The genesis block as JSON text.
    GenesisBlock(String),
    /// Requests the content of the mempool, like [`NetworkMessage::MempoolQuery`].
    GetMempool,
    /// Requests height and tip of the chain.
    GetBlockchainInfo,
    /// Height and tip of a chain.
    BlockchainInfo {
        /// Its height; `None` without a genesis block.
        height: Option<u64>,
        /// The hash of its last block.
        best_block_hash: String,
    },
    /// Requests height and tip of a chain that has a genesis block.
    HeightRequest,
    /// Height and tip of a chain.
    HeightResponse {
        /// Its height.
        height: u64,
        /// The hash of its last block.
        best_block_hash: String,
    },
    /// Requests one block.
    BlockRequest {
        /// Its height.
        height: u64,
    },
    /// One block.
    BlockResponse {
        /// The block; `None` if it is not known.
        block: Option<Block>,
    },
    /// Requests a part of the chain.
    ChainRequest {
        /// The first height.
        from_height: u64,
    },
    /// A part of the chain.
    ChainResponse {
        /// In ascending order.
        blocks: Vec<Block>,
        /// Whether it reaches the chain's tip.
        complete: bool,
    },
    /// Requests all unspent outputs after a block.
    StateSnapshotRequest {
        /// The block's height.
        height: u64,
    },
    /// All unspent outputs after a block.
    StateSnapshotResponse {
        /// The block's height.
        height: u64,
        /// The Merkle root of the outputs.
        utxo_merkle_root: String,
        /// The outputs, in the application's format.
        #[serde(serialize_with = "byte_array")]
        state_data: Vec<u8>,
        /// Whether they are compressed with gzip.
        compressed: bool,
        /// Their uncompressed size in bytes, as stated by the sender. Decompress with a limit of
        /// your own.
        snapshot_size_bytes: u64,
    },
    /// Peers that the sender knows.
    PeerList(Vec<PeerAddress>),
    /// A proposed transaction as JSON text; its fields are the application's.
    ConsensusTxProposal(String),
    /// Requests the transactions finalized since a time.
    RequestFinalizedTransactions {
        /// The time.
        since_timestamp: i64,
    },
    /// Finalized transactions.
    FinalizedTransactionsResponse {
        /// The transactions.
        transactions: Vec<Transaction>,
        /// Their finalization times, in the same order.
        finalized_at: Vec<i64>,
    },
    /// A vote on a transaction as JSON text; its fields are the application's.
    ConsensusTxVote(String),
    /// A node approves a transaction.
    TransactionApproved {
        /// The transaction.
        txid: String,
        /// The node.
        approver: String,
        /// When it decided.
        timestamp: i64,
    },
    /// A node rejects a transaction.
    TransactionRejected {
        /// The transaction.
        txid: String,
        /// The node.
        rejector: String,
        /// The reason.
        reason: String,
        /// When it decided.
        timestamp: i64,
    },
    /// A vote rejected a transaction.
    TransactionRejectedByNetwork {
        /// The transaction.
        txid: String,
        /// The rejecting nodes.
        rejections: Vec<String>,
        /// Their reasons, in the same order.
        reasons: Vec<String>,
        /// When it was rejected.
        timestamp: i64,
    },
    /// Requests the states of outputs.
    UTXOStateQuery {
        /// Each an [`OutPoint`](super::OutPoint) as JSON text.
        outpoints: Vec<String>,
    },
    /// The states of outputs.
    UTXOStateResponse {
        /// A list of pairs of [`OutPoint`](super::OutPoint) and [`UTXOState`](super::UTXOState), as
        /// JSON text.
        states: String,
    },
    /// Tells that the state of an output changed.
    UTXOStateNotification {
        /// A [`UTXOStateNotification`](super::UTXOStateNotification) as JSON text.
        notification: String,
    },
    /// Subscribes to state changes.
    UTXOSubscribe {
        /// The outputs, each an [`OutPoint`](super::OutPoint) as JSON text.
        outpoints: Vec<String>,
        /// Addresses, for all of their outputs.
        addresses: Vec<String>,
        /// The id of the subscription.
        subscriber_id: String,
    },
    /// Ends a subscription.
    UTXOUnsubscribe {
        /// The id of the subscription.
        subscriber_id: String,
    },
    /// A transaction locks outputs.
    UtxoLockBroadcast {
        /// The transaction.
        txid: String,
        /// Each a [`UtxoInput`](super::UtxoInput) as JSON text.
        inputs: Vec<String>,
        /// Each a [`UtxoOutput`](super::UtxoOutput) as JSON text.
        outputs: Vec<String>,
        /// When, in milliseconds.
        timestamp: i64,
        /// The proposing node.
        proposer: String,
        /// Its signature.
        signature: String,
    },
    /// A masternode's reply to a lock.
    UtxoLockAcknowledge {
        /// The transaction.
        txid: String,
        /// The masternode.
        masternode: String,
        /// The name of its tier.
        tier: String,
        /// Whether it accepts the lock.
        success: bool,
        /// The conflict if it does not: a [`ConflictInfo`](super::ConflictInfo) as JSON text.
        conflict: Option<String>,
        /// When, in milliseconds.
        timestamp: i64,
    },
    /// The outcome of a lock.
    UtxoCommit {
        /// The transaction.
        txid: String,
        /// `Approved` or `Rejected`.
        status: String,
        /// Number of acknowledgements.
        ack_count: u32,
        /// Their weight. Must be finite: the network has no form for other values that its nodes
        /// can read.
        #[serde(serialize_with = "finite")]
        total_weight: f64,
        /// When, in milliseconds.
        timestamp: i64,
        /// The reason of a rejection.
        reason: Option<String>,
    },
    /// Decides between two conflicting locks.
    UtxoConflictResolution {
        /// The transaction that keeps its lock.
        winner_txid: String,
        /// The transaction that loses its lock.
        loser_txid: String,
        /// The rule applied.
        resolution_rule: String,
        /// When, in milliseconds.
        timestamp: i64,
    },
    /// Requests the known masternodes.
    GetMasternodeList,
    /// Masternodes that the sender knows.
    MasternodeList {
        /// The masternodes.
        masternodes: Vec<MasternodeInfo>,
    },
    /// Announces a masternode.
    MasternodeAnnouncement {
        /// The masternode.
        masternode: MasternodeInfo,
    },
    /// Requests the hash of the masternode list.
    GetMasternodeHash,
    /// The hash of a masternode list.
    MasternodeHash {
        /// The hash.
        hash: String,
    },
}

impl NetworkMessage {
    /// The first field whose value JSON cannot represent, with the value.
    pub(super) fn non_finite_field(&self) -> Option<(&'static str, f64)> {
        match self {
            Self::UtxoCommit { total_weight, .. } if !total_weight.is_finite() => {
                Some(("total_weight", *total_weight))
            }
            _ => None,
        }
    }
}

/// Refuses values that are not finite. JSON cannot represent them, and readers refuse `null` in
/// their place.
fn finite<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if !value.is_finite() {
        return Err(serde::ser::Error::custom(format_args!(
            "total_weight is {value}, which JSON cannot represent"
        )));
    }
    serializer.serialize_f64(*value)
}
