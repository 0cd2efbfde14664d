//! The messages that are broadcast: the three whose rates were measured with the legacy
//! implementation.
//!
//! The types are those of the legacy crate, not peerpool's own. The JSON of both must be the same.

use serde::Serialize;

/// A message of the legacy network.
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

/// The kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tip,
    Transaction,
    Proposal,
}

/// Sizes of two of the frames. The third is computed: 1 KiB as JSON numbers.
pub(crate) const TIP_BYTES: usize = 104;
pub(crate) const TRANSACTION_BYTES: usize = 347;

/// Heights run from here to 99,999 and start again, so that all frames have one size.
const FIRST_HEIGHT: u64 = 10_000;
const HEIGHTS: u64 = 90_000;

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Tip, Self::Transaction, Self::Proposal];

    /// By the size of the frame.
    pub(crate) fn of(size: usize) -> Self {
        match size {
            TIP_BYTES => Self::Tip,
            TRANSACTION_BYTES => Self::Transaction,
            _ => Self::Proposal,
        }
    }

    /// The size of the frame.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Tip => TIP_BYTES,
            Self::Transaction => TRANSACTION_BYTES,
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
            // Five digits of height; the hash is shorter by as many.
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
    FIRST_HEIGHT + number % HEIGHTS
}
