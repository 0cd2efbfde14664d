//! Hashes of blocks and transactions: SHA3-256 applied twice.

use sha3::{Digest, Sha3_256};

use super::types::{BlockHeader, Transaction};

impl BlockHeader {
    /// The block's hash in hexadecimal, computed from number, time, previous hash, Merkle root and
    /// validator.
    pub fn computed_hash(&self) -> String {
        let mut hash = Sha3_256::new();
        hash.update(self.block_number.to_le_bytes());
        hash.update(self.timestamp.hashed_form().to_string());
        hash.update(&self.previous_hash);
        hash.update(&self.merkle_root);
        hash.update(&self.validator_address);
        double_sha3(hash)
    }
}

impl Transaction {
    /// The transaction's id in hexadecimal, computed from all fields except signatures. The id of a
    /// block's first transaction is a name instead.
    pub fn computed_txid(&self) -> String {
        let mut hash = Sha3_256::new();
        // The format has four bytes for a count; a longer list does not fit a frame.
        let count = |items: usize| (items as u32).to_le_bytes();
        hash.update(self.version.to_le_bytes());
        hash.update(count(self.inputs.len()));
        for input in &self.inputs {
            hash.update(&input.previous_output.txid);
            hash.update(input.previous_output.vout.to_le_bytes());
            hash.update(&input.public_key);
            hash.update(input.sequence.to_le_bytes());
        }
        hash.update(count(self.outputs.len()));
        for output in &self.outputs {
            hash.update(output.amount.to_le_bytes());
            hash.update(&output.address);
        }
        hash.update(self.lock_time.to_le_bytes());
        hash.update(self.timestamp.to_le_bytes());
        double_sha3(hash)
    }
}

fn double_sha3(hash: Sha3_256) -> String {
    hex(&Sha3_256::digest(hash.finalize()))
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}
