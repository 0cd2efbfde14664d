//! The 71 messages.

use serde::{Deserialize, Serialize, Serializer};

use super::codec::byte_array;
use super::types::{
    Block, BlockData, MasternodeInfo, PeerAddress, Transaction, TransactionMessage, TransactionValidation,
    UtxoInfo, WalletTransaction,
};

/// A message of the network. The variants stand in the order of [`Kind`](super::Kind).
///
/// Heights are block byte_array; what is said of ids, amounts and times in the structures holds here too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NetworkMessage {
    /// Are you there?
    Ping,
    /// I am: the answer to a ping.
    Pong,
    /// What time is it?
    TimeRequest {
        /// The asker's time, in milliseconds.
        request_time_ms: i64,
    },
    /// The time.
    TimeResponse {
        /// What the request said.
        request_time_ms: i64,
        /// The answerer's time, in milliseconds.
        peer_time_ms: i64,
    },
    /// A payment.
    Transaction(TransactionMessage),
    /// A verdict on a payment.
    ValidationResponse(TransactionValidation),
    /// A proposed block as bytes.
    BlockProposal(#[serde(serialize_with = "byte_array")] Vec<u8>),
    /// How high is your chain?
    GetBlockchainHeight,
    /// So high.
    BlockchainHeight(u64),
    /// Give me the blocks of these heights.
    GetBlocks {
        /// The first.
        start_height: u64,
        /// The last.
        end_height: u64,
    },
    /// Blocks as bytes.
    BlocksData(Vec<BlockData>),
    /// Blocks.
    Blocks {
        /// In ascending order.
        blocks: Vec<Block>,
    },
    /// I am behind.
    CatchUpRequest {
        /// Who.
        requester: String,
        /// At this height.
        current_height: u64,
        /// And should be at this one.
        expected_height: u64,
    },
    /// I have heard that you are behind.
    CatchUpAcknowledge {
        /// Who has.
        responder: String,
    },
    /// A new transaction.
    TransactionBroadcast(Transaction),
    /// A transaction that the vote went for.
    FinalizedTransactionBroadcast(Transaction),
    /// Do you approve of this transaction?
    InstantFinalityRequest(Transaction),
    /// A vote on a transaction.
    InstantFinalityVote {
        /// The transaction.
        txid: String,
        /// Whose vote.
        voter: String,
        /// For it?
        approve: bool,
        /// When it was cast.
        timestamp: u64,
    },
    /// A transaction for the mempool.
    MempoolAdd(Transaction),
    /// What is in your mempool?
    MempoolQuery,
    /// A mempool's content.
    MempoolResponse(Vec<Transaction>),
    /// A proposed block as JSON text; its fields are the application's.
    ConsensusBlockProposal(String),
    /// A vote on a block as JSON text; its fields are the application's.
    ConsensusBlockVote(String),
    /// A vote on a block has arrived.
    ConsensusVoteAck {
        /// The block voted on.
        block_hash: String,
        /// Who voted.
        voter: String,
        /// When it arrived.
        received_at: u64,
    },
    /// Give me these transactions of a proposed block.
    RequestMissingTransactions {
        /// Which.
        txids: Vec<String>,
        /// Who asks.
        requester: String,
        /// The block's height.
        block_height: u64,
    },
    /// Transactions of a proposed block.
    MissingTransactionsResponse {
        /// Those that are known.
        transactions: Vec<Transaction>,
        /// The block's height.
        block_height: u64,
    },
    /// A transaction is refused.
    TransactionRejection {
        /// Which.
        txid: String,
        /// Why, such as `double_spend`.
        reason: String,
        /// Whose.
        wallet_address: String,
    },
    /// The leader of this height should propose a block.
    RequestBlockProposal {
        /// The height.
        block_height: u64,
        /// The leader.
        leader_ip: String,
        /// Who asks.
        requester_ip: String,
    },
    /// My chain ends here.
    UpdateTip {
        /// Its height.
        height: u64,
        /// Its last block.
        hash: String,
    },
    /// Tell me about this wallet from now on.
    RegisterXpub {
        /// The wallet's public key.
        xpub: String,
    },
    /// Whether a wallet will be told about.
    XpubRegistered {
        /// It will.
        success: bool,
        /// More, in words.
        message: String,
    },
    /// A wallet's unspent outputs.
    UtxoUpdate {
        /// The wallet's public key.
        xpub: String,
        /// What it can spend.
        utxos: Vec<UtxoInfo>,
    },
    /// Which transactions has this wallet?
    RequestWalletTransactions {
        /// The wallet's public key.
        xpub: String,
    },
    /// A wallet's transactions.
    WalletTransactionsResponse {
        /// The transactions.
        transactions: Vec<WalletTransaction>,
        /// Complete up to this height.
        last_synced_height: u64,
    },
    /// Which peers do you know?
    GetPeerList,
    /// A wallet has a new transaction.
    NewTransactionNotification {
        /// The transaction.
        transaction: WalletTransaction,
    },
    /// What is your first block?
    GetGenesis,
    /// The first block as JSON text.
    GenesisBlock(String),
    /// What is in your mempool? Answered as [`NetworkMessage::MempoolQuery`] is.
    GetMempool,
    /// How high is your chain, and what is its end?
    GetBlockchainInfo,
    /// A chain's height and end.
    BlockchainInfo {
        /// Its height; none before there is a first block.
        height: Option<u64>,
        /// Its last block.
        best_block_hash: String,
    },
    /// How high is your chain?
    HeightRequest,
    /// A chain's height and end.
    HeightResponse {
        /// Its height.
        height: u64,
        /// Its last block.
        best_block_hash: String,
    },
    /// Give me this block.
    BlockRequest {
        /// Its height.
        height: u64,
    },
    /// A block.
    BlockResponse {
        /// The block; none when it is not known.
        block: Option<Block>,
    },
    /// Give me the chain.
    ChainRequest {
        /// From this height on.
        from_height: u64,
    },
    /// A stretch of the chain.
    ChainResponse {
        /// In ascending order.
        blocks: Vec<Block>,
        /// Whether it reaches the chain's end.
        complete: bool,
    },
    /// Give me what is unspent.
    StateSnapshotRequest {
        /// After this block.
        height: u64,
    },
    /// What is unspent.
    StateSnapshotResponse {
        /// After this block.
        height: u64,
        /// What it hashes to.
        utxo_merkle_root: String,
        /// The outputs; their format is the application's.
        #[serde(serialize_with = "byte_array")]
        state_data: Vec<u8>,
        /// Whether they are packed with gzip.
        compressed: bool,
        /// Their size unpacked, in bytes. Says the sender: unpack with a limit of your own.
        snapshot_size_bytes: u64,
    },
    /// Peers that the sender knows.
    PeerList(Vec<PeerAddress>),
    /// A proposed transaction as JSON text; its fields are the application's.
    ConsensusTxProposal(String),
    /// Which transactions were finalized?
    RequestFinalizedTransactions {
        /// After this time.
        since_timestamp: i64,
    },
    /// Finalized transactions.
    FinalizedTransactionsResponse {
        /// Which.
        transactions: Vec<Transaction>,
        /// When, in the same order.
        finalized_at: Vec<i64>,
    },
    /// A vote on a transaction as JSON text; its fields are the application's.
    ConsensusTxVote(String),
    /// A node approves of a transaction.
    TransactionApproved {
        /// The transaction.
        txid: String,
        /// Who does.
        approver: String,
        /// When.
        timestamp: i64,
    },
    /// A node does not approve of a transaction.
    TransactionRejected {
        /// The transaction.
        txid: String,
        /// Who does not.
        rejector: String,
        /// Why.
        reason: String,
        /// When.
        timestamp: i64,
    },
    /// The vote went against a transaction.
    TransactionRejectedByNetwork {
        /// The transaction.
        txid: String,
        /// Who was against it.
        rejections: Vec<String>,
        /// Why, in the same order.
        reasons: Vec<String>,
        /// When.
        timestamp: i64,
    },
    /// In what state are these outputs?
    UTXOStateQuery {
        /// Each an [`OutPoint`](super::OutPoint) as JSON text.
        outpoints: Vec<String>,
    },
    /// States of outputs.
    UTXOStateResponse {
        /// A list of reply_matcher, [`OutPoint`](super::OutPoint) and [`UTXOState`](super::UTXOState), as JSON text.
        states: String,
    },
    /// An output's state has changed.
    UTXOStateNotification {
        /// An [`UTXOStateNotification`](super::UTXOStateNotification) as JSON text.
        notification: String,
    },
    /// Tell me when these change.
    UTXOSubscribe {
        /// Each an [`OutPoint`](super::OutPoint) as JSON text.
        outpoints: Vec<String>,
        /// And all outputs of these.
        addresses: Vec<String>,
        /// Under which name to end it.
        subscriber_id: String,
    },
    /// Tell me no more.
    UTXOUnsubscribe {
        /// The subscription's name.
        subscriber_id: String,
    },
    /// A transaction claims outputs.
    UtxoLockBroadcast {
        /// The transaction.
        txid: String,
        /// Each an [`UtxoInput`](super::UtxoInput) as JSON text.
        inputs: Vec<String>,
        /// Each an [`UtxoOutput`](super::UtxoOutput) as JSON text.
        outputs: Vec<String>,
        /// When, in milliseconds.
        timestamp: i64,
        /// Who says so.
        proposer: String,
        /// Their signature.
        signature: String,
    },
    /// One masternode's answer to such a claim.
    UtxoLockAcknowledge {
        /// The transaction.
        txid: String,
        /// Which masternode.
        masternode: String,
        /// Its tier's name.
        tier: String,
        /// Whether it agrees.
        success: bool,
        /// If not: a [`ConflictInfo`](super::ConflictInfo) as JSON text.
        conflict: Option<String>,
        /// When, in milliseconds.
        timestamp: i64,
    },
    /// How such a claim ended.
    UtxoCommit {
        /// The transaction.
        txid: String,
        /// `Approved` or `Rejected`.
        status: String,
        /// How many have agreed.
        ack_count: u32,
        /// What they weigh. Not a number cannot be written: the network has no form for it that its nodes can read.
        #[serde(serialize_with = "finite")]
        total_weight: f64,
        /// When, in milliseconds.
        timestamp: i64,
        /// Why it was rejected.
        reason: Option<String>,
    },
    /// Which of two claims holds.
    UtxoConflictResolution {
        /// The one that does.
        winner_txid: String,
        /// The one that does not.
        loser_txid: String,
        /// By which rule.
        resolution_rule: String,
        /// When, in milliseconds.
        timestamp: i64,
    },
    /// Which masternodes do you know?
    GetMasternodeList,
    /// Masternodes that the sender knows.
    MasternodeList {
        /// The masternodes.
        masternodes: Vec<MasternodeInfo>,
    },
    /// A masternode is there.
    MasternodeAnnouncement {
        /// Which.
        masternode: MasternodeInfo,
    },
    /// What does your list of masternodes hash to?
    GetMasternodeHash,
    /// What a list of masternodes hashes to.
    MasternodeHash {
        /// The hash.
        hash: String,
    },
}

impl NetworkMessage {
    /// The field that JSON has no number for, if there is one.
    pub(super) fn non_finite_field(&self) -> Option<(&'static str, f64)> {
        match self {
            Self::UtxoCommit { total_weight, .. } if !total_weight.is_finite() => {
                Some(("total_weight", *total_weight))
            }
            _ => None,
        }
    }
}

/// JSON has no way to write what is not finite; `null`, in its place, is refused by every reader.
fn finite<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if !value.is_finite() {
        return Err(serde::ser::Error::custom(format_args!(
            "total_weight is {value}, which JSON cannot say"
        )));
    }
    serializer.serialize_f64(*value)
}
