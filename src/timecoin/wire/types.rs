//! The structures inside messages. Fields are in the order in which they are written.
//!
//! Unless a field says otherwise: hashes, ids and signatures are hexadecimal text; addresses are
//! the network's own text; amounts are in its smallest unit; times are in seconds since 1970.
//! Nothing is validated here; that is up to the application.

use serde::{Deserialize, Serialize};

use super::codec::byte_array;
use super::time::BlockTime;

/// Names an output of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OutPoint {
    /// The transaction.
    pub txid: String,
    /// The index of the output.
    pub vout: u32,
}

/// An output that a transaction spends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TxInput {
    /// The output.
    pub previous_output: OutPoint,
    /// The spender's public key.
    #[serde(serialize_with = "byte_array")]
    pub public_key: Vec<u8>,
    /// The spender's signature.
    #[serde(serialize_with = "byte_array")]
    pub signature: Vec<u8>,
    /// The input's sequence number; all ones if absent.
    #[serde(default = "last_sequence")]
    pub sequence: u32,
}

const fn last_sequence() -> u32 {
    u32::MAX
}

/// An output that a transaction creates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TxOutput {
    /// The amount.
    pub amount: u64,
    /// The receiver.
    pub address: String,
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transaction {
    /// Its id; see [`Transaction::computed_txid`].
    pub txid: String,
    /// Its format version.
    pub version: u32,
    /// The outputs it spends; none in a block's first transaction.
    pub inputs: Vec<TxInput>,
    /// The outputs it creates.
    pub outputs: Vec<TxOutput>,
    /// The height or time before which it is not valid.
    pub lock_time: u32,
    /// When it was created.
    pub timestamp: i64,
}

/// Number of masternodes by tier, at the time of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MasternodeCounts {
    /// Without collateral.
    pub free: u64,
    /// The lowest tier with collateral.
    pub bronze: u64,
    /// The middle tier.
    pub silver: u64,
    /// The highest tier.
    pub gold: u64,
}

/// A proof of elapsed time from a verifiable delay function.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VDFProof {
    /// The output of the function.
    pub output: String,
    /// Number of iterations.
    pub iterations: u64,
    /// Intermediate outputs.
    pub checkpoints: Vec<String>,
}

/// The header of a block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockHeader {
    /// The block's height.
    pub block_number: u64,
    /// When it was created.
    pub timestamp: BlockTime,
    /// The hash of the previous block.
    pub previous_hash: String,
    /// The Merkle root of its transactions.
    pub merkle_root: String,
    /// The validator's signature.
    pub validator_signature: String,
    /// The validator.
    pub validator_address: String,
    /// The masternodes at that time; zeros if absent.
    #[serde(default)]
    pub masternode_counts: MasternodeCounts,
    /// Proof that time has elapsed since the previous block; written as null if there is none.
    #[serde(default)]
    pub proof_of_time: Option<VDFProof>,
    /// Empty if absent.
    #[serde(default)]
    pub checkpoints: Vec<String>,
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Block {
    /// Its header.
    pub header: BlockHeader,
    /// Its transactions; the first creates the reward.
    pub transactions: Vec<Transaction>,
    /// Its hash; see [`BlockHeader::computed_hash`].
    pub hash: String,
}

/// A payment between two addresses, as sent to peers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TransactionMessage {
    /// Its id.
    pub txid: String,
    /// The payer.
    pub from: String,
    /// The payee.
    pub to: String,
    /// The amount.
    pub amount: u64,
    /// The network's fee.
    pub fee: u64,
    /// When it was created.
    pub timestamp: i64,
    /// The payer's signature.
    pub signature: String,
    /// The payer's counter.
    pub nonce: u64,
}

/// A node's decision about a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TransactionValidation {
    /// The transaction.
    pub txid: String,
    /// The deciding node.
    pub validator: String,
    /// Whether it approves.
    pub approved: bool,
    /// When it decided.
    pub timestamp: u64,
}

/// A block as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockData {
    /// The bytes, in the application's format.
    #[serde(serialize_with = "byte_array")]
    pub block: Vec<u8>,
    /// The block's height.
    pub height: u64,
}

/// A transaction as shown to a wallet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WalletTransaction {
    /// Its id.
    pub tx_hash: String,
    /// The payer.
    pub from_address: String,
    /// The payee.
    pub to_address: String,
    /// The amount.
    pub amount: u64,
    /// When it was created.
    pub timestamp: u64,
    /// The height of its block.
    pub block_height: u64,
    /// Number of blocks since then, its own included.
    pub confirmations: u32,
}

/// An unspent output as shown to a wallet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UtxoInfo {
    /// The transaction.
    pub txid: String,
    /// The index of the output.
    pub vout: u32,
    /// Its owner.
    pub address: String,
    /// The amount.
    pub amount: u64,
    /// The height of its block; `None` while unconfirmed.
    pub block_height: Option<u64>,
    /// Number of blocks since then, its own included.
    pub confirmations: u64,
}

/// A peer's address, as sent to others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerAddress {
    /// The IP address as text: some nodes send host names here.
    pub ip: String,
    /// The port.
    pub port: u16,
    /// The software version.
    pub version: String,
}

/// A masternode.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MasternodeInfo {
    /// Its IP address.
    pub node_id: String,
    /// The address that receives its rewards.
    pub wallet_address: String,
    /// The name of its tier.
    pub tier: String,
    /// Whether it is active.
    pub is_active: bool,
    /// When it was registered.
    pub registered_at: i64,
}

/// The state of an output.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UTXOState {
    /// Not spent.
    Unspent,
    /// Locked by a transaction.
    Locked {
        /// The transaction.
        txid: String,
        /// When it was locked.
        locked_at: i64,
    },
    /// Spent by a transaction that is being voted on.
    SpentPending {
        /// The transaction.
        txid: String,
        /// Votes so far.
        votes: u64,
        /// Number of voting nodes.
        total_nodes: u64,
        /// When it was spent.
        spent_at: i64,
    },
    /// Spent by a transaction that was approved.
    SpentFinalized {
        /// The transaction.
        txid: String,
        /// When it was approved.
        finalized_at: i64,
        /// Number of approving votes.
        votes: u64,
    },
    /// Spent by a transaction in a block.
    Confirmed {
        /// The transaction.
        txid: String,
        /// The height of the block.
        block_height: u64,
        /// When it was confirmed.
        confirmed_at: i64,
    },
}

/// A change of an output's state. Sent as text inside a message of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UTXOStateNotification {
    /// The output.
    pub outpoint: OutPoint,
    /// The previous state.
    pub old_state: UTXOState,
    /// The new state.
    pub new_state: UTXOState,
    /// When it changed.
    pub timestamp: i64,
    /// The node that changed it.
    pub originator: String,
}

/// An output that a lock covers. Sent as text inside a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UtxoInput {
    /// The transaction.
    pub txid: String,
    /// The index of the output.
    pub vout: u32,
    /// Its amount.
    pub amount: u64,
}

/// An output that the locking transaction creates. Sent as text inside a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UtxoOutput {
    /// The receiver.
    pub address: String,
    /// The amount.
    pub amount: u64,
}

/// The lock that conflicts with a refused one. Sent as text inside the refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConflictInfo {
    /// The transaction that holds the lock.
    pub existing_txid: String,
    /// When it was locked, in milliseconds.
    pub existing_timestamp: i64,
    /// Number of acknowledgements.
    pub existing_locks: u32,
}

/// A software version and its protocol version. Never sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProtocolVersion {
    /// The software version.
    pub software_version: String,
    /// The date of the commit it was built from.
    pub commit_date: String,
    /// The protocol version.
    pub protocol_version: u32,
}
