//! The structures inside messages. Fields stand in the order in which they are written.
//!
//! Hashes, ids and signatures are hexadecimal text, addresses are the network's own text, amounts are in its smallest unit
//! and times in seconds since 1970, unless a field says otherwise. None of this is checked here: it is the caller's to judge.

use serde::{Deserialize, Serialize};

use super::codec::byte_array;
use super::time::BlockTime;

/// An output of a transaction, named.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OutPoint {
    /// The transaction.
    pub txid: String,
    /// Which of its outputs.
    pub vout: u32,
}

/// What a transaction spends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TxInput {
    /// The output that is spent.
    pub previous_output: OutPoint,
    /// The spender's key.
    #[serde(serialize_with = "byte_array")]
    pub public_key: Vec<u8>,
    /// The spender's signature.
    #[serde(serialize_with = "byte_array")]
    pub signature: Vec<u8>,
    /// The input's sequence number; all ones when absent.
    #[serde(default = "last_sequence")]
    pub sequence: u32,
}

const fn last_sequence() -> u32 {
    u32::MAX
}

/// What a transaction pays.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TxOutput {
    /// How much.
    pub amount: u64,
    /// To whom.
    pub address: String,
}

/// A transaction of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transaction {
    /// Its id; see [`Transaction::computed_txid`].
    pub txid: String,
    /// Its format.
    pub version: u32,
    /// What it spends; nothing in a block's first transaction.
    pub inputs: Vec<TxInput>,
    /// What it pays.
    pub outputs: Vec<TxOutput>,
    /// Not valid before this height or time.
    pub lock_time: u32,
    /// When it was made.
    pub timestamp: i64,
}

/// Masternodes by tier, at the time of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MasternodeCounts {
    /// Without collateral.
    pub free: u64,
    /// The first tier with collateral.
    pub bronze: u64,
    /// The second.
    pub silver: u64,
    /// The third.
    pub gold: u64,
}

/// A proof that time has passed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VDFProof {
    /// The delay function's result.
    pub output: String,
    /// How often it was applied.
    pub iterations: u64,
    /// Results in between.
    pub checkpoints: Vec<String>,
}

/// What a block's hash covers, and more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockHeader {
    /// Its height.
    pub block_number: u64,
    /// When it was made.
    pub timestamp: BlockTime,
    /// The block before it.
    pub previous_hash: String,
    /// What its transactions hash to.
    pub merkle_root: String,
    /// The maker's signature.
    pub validator_signature: String,
    /// The maker.
    pub validator_address: String,
    /// The masternodes of that time; zeros when absent.
    #[serde(default)]
    pub masternode_counts: MasternodeCounts,
    /// That time has passed since the block before it; written as null when there is none.
    #[serde(default)]
    pub proof_of_time: Option<VDFProof>,
    /// Empty when absent.
    #[serde(default)]
    pub checkpoints: Vec<String>,
}

/// A block of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Block {
    /// What its hash covers, and more.
    pub header: BlockHeader,
    /// Its transactions, the one that creates the reward first.
    pub transactions: Vec<Transaction>,
    /// Its hash; see [`BlockHeader::computed_hash`].
    pub hash: String,
}

/// A payment between two addresses, as told to peers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TransactionMessage {
    /// Its id.
    pub txid: String,
    /// Who pays.
    pub from: String,
    /// Who is paid.
    pub to: String,
    /// How much.
    pub amount: u64,
    /// What the network gets for it.
    pub fee: u64,
    /// When it was made.
    pub timestamp: i64,
    /// The payer's signature.
    pub signature: String,
    /// The payer's counter.
    pub nonce: u64,
}

/// One node's verdict on a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TransactionValidation {
    /// The transaction.
    pub txid: String,
    /// Whose verdict.
    pub validator: String,
    /// The verdict.
    pub approved: bool,
    /// When it was given.
    pub timestamp: u64,
}

/// A block as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockData {
    /// The bytes; their format is the application's.
    #[serde(serialize_with = "byte_array")]
    pub block: Vec<u8>,
    /// The block's height.
    pub height: u64,
}

/// A transaction as a wallet sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WalletTransaction {
    /// Its id.
    pub tx_hash: String,
    /// Who paid.
    pub from_address: String,
    /// Who was paid.
    pub to_address: String,
    /// How much.
    pub amount: u64,
    /// When.
    pub timestamp: u64,
    /// The block it is in.
    pub block_height: u64,
    /// Blocks since then, that one included.
    pub confirmations: u32,
}

/// An unspent output as a wallet sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UtxoInfo {
    /// The transaction.
    pub txid: String,
    /// Which of its outputs.
    pub vout: u32,
    /// Whose.
    pub address: String,
    /// How much.
    pub amount: u64,
    /// The block it is in; none while it is in none.
    pub block_height: Option<u64>,
    /// Blocks since then, that one included.
    pub confirmations: u64,
}

/// A peer's address, as told to others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerAddress {
    /// The IP address. JsonText: others have put host names here.
    pub ip: String,
    /// The port.
    pub port: u16,
    /// The software it runs.
    pub version: String,
}

/// A masternode.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MasternodeInfo {
    /// Its IP address.
    pub node_id: String,
    /// Where its rewards go.
    pub wallet_address: String,
    /// Its tier's name.
    pub tier: String,
    /// Whether it takes part.
    pub is_active: bool,
    /// Since when.
    pub registered_at: i64,
}

/// How far an output is from being spent for good.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UTXOState {
    /// Can be spent.
    Unspent,
    /// A transaction has claimed it.
    Locked {
        /// The transaction.
        txid: String,
        /// When.
        locked_at: i64,
    },
    /// The transaction is being voted on.
    SpentPending {
        /// The transaction.
        txid: String,
        /// Votes for it so far.
        votes: u64,
        /// Of so many.
        total_nodes: u64,
        /// When it was spent.
        spent_at: i64,
    },
    /// The vote went for the transaction.
    SpentFinalized {
        /// The transaction.
        txid: String,
        /// When.
        finalized_at: i64,
        /// Votes for it.
        votes: u64,
    },
    /// The transaction is in a block.
    Confirmed {
        /// The transaction.
        txid: String,
        /// The block's height.
        block_height: u64,
        /// When.
        confirmed_at: i64,
    },
}

/// That an output's state has changed. Travels as text inside a message of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UTXOStateNotification {
    /// The output.
    pub outpoint: OutPoint,
    /// What it was.
    pub old_state: UTXOState,
    /// What it is.
    pub new_state: UTXOState,
    /// When it changed.
    pub timestamp: i64,
    /// Who changed it.
    pub originator: String,
}

/// An output that a lock claims. Travels as text inside a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UtxoInput {
    /// The transaction.
    pub txid: String,
    /// Which of its outputs.
    pub vout: u32,
    /// How much it is worth.
    pub amount: u64,
}

/// What a lock's transaction pays. Travels as text inside a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UtxoOutput {
    /// To whom.
    pub address: String,
    /// How much.
    pub amount: u64,
}

/// Why a lock was refused: another came first. Travels as text inside the refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConflictInfo {
    /// The transaction that holds the output.
    pub existing_txid: String,
    /// Since when, in milliseconds.
    pub existing_timestamp: i64,
    /// How many have acknowledged it.
    pub existing_locks: u32,
}

/// A software and the protocol it speaks. Never sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProtocolVersion {
    /// The software's version.
    pub software_version: String,
    /// When it was committed.
    pub commit_date: String,
    /// The protocol.
    pub protocol_version: u32,
}
