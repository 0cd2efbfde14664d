//! What is broadcast: the three messages whose rates were measured of the old implementation.
//!
//! Typed as the old crate had them, and apart from peerpool's own types: the JSON of both must be the same.

use serde::Serialize;

/// A message of the old network.
#[derive(Clone, Debug, Serialize)]
pub(crate) enum Message {
    UpdateTip { height: u64, hash: String },
    Transaction(Payment),
    BlockProposal(Vec<u8>),
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Payment {
    pub(crate) txid: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) amount: u64,
    pub(crate) fee: u64,
    pub(crate) timestamp: i64,
    pub(crate) signature: String,
    pub(crate) nonce: u64,
}

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Tip,
    Transaction,
    Proposal,
}

/// Sizes of their frames on the line; the proposal's is what 1 KiB as numbers come to.
pub(crate) const TIP: usize = 104;
pub(crate) const TRANSACTION: usize = 347;

/// Heights go round from here to five nines, so that all frames are of one size.
const FIRST: u64 = 10_000;
const ROUND: u64 = 90_000;

impl Sort {
    pub(crate) const ALL: [Self; 3] = [Self::Tip, Self::Transaction, Self::Proposal];

    /// By the size of the frame.
    pub(crate) fn of(size: usize) -> Self {
        match size {
            TIP => Self::Tip,
            TRANSACTION => Self::Transaction,
            _ => Self::Proposal,
        }
    }

    /// The size of the frame.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Tip => TIP,
            Self::Transaction => TRANSACTION,
            Self::Proposal => serde_json::to_vec(&self.message(0)).expect("a message").len() + 4,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tip => "UpdateTip",
            Self::Transaction => "Transaction",
            Self::Proposal => "BlockProposal",
        }
    }

    /// The `number`th message.
    pub(crate) fn message(self, number: u64) -> Message {
        match self {
            // Five digits of height, and as many fewer of hash.
            Self::Tip => Message::UpdateTip { height: height(number), hash: "cd".repeat(30) },
            Self::Transaction => Message::Transaction(Payment {
                txid: "a3857d97ebe698c62d32404d4532eb7e796933160ef2030005c6d08dc49b6c0c".to_owned(),
                from: "TIME1sender".to_owned(),
                to: "TIME1recipient".to_owned(),
                amount: 150_000_000,
                fee: 1_000_000,
                timestamp: 1_765_000_000,
                signature: "0".repeat(128),
                nonce: 7,
            }),
            Self::Proposal => Message::BlockProposal((0..1024u32).map(|at| (at % 256) as u8).collect()),
        }
    }
}

/// The height of the `number`th tip.
pub(crate) fn height(number: u64) -> u64 {
    FIRST + number % ROUND
}
