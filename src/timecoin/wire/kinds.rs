//! The table of messages: name, number, lane, and which message answers which.
//!
//! # Reply slots
//! The wire carries no request ids. A request therefore waits in a *reply slot*, and a reply is
//! matched by the slot it fills. The slot is the number of the reply's kind; if a request has two
//! kinds of reply, the number of the first. Requests with the same kind of reply share a slot.
//!
//! Three pairs are not matched on purpose, because both halves are broadcasts and every one must be
//! delivered:
//!
//! - `RequestBlockProposal` and `ConsensusBlockProposal`
//! - `UtxoLockBroadcast` and `UtxoLockAcknowledge`
//! - `Transaction` and `ValidationResponse`

use std::fmt;

use crate::base::Lane;

use super::message::NetworkMessage;

/// The kind of a frame whose message name is unknown; its payload is the frame's text.
pub const UNKNOWN: u16 = u16::MAX;

/// Generates [`Kind`] and its tables from lines `Variant, lane[, expects Reply][, fills Reply];`.
macro_rules! kinds {
    ($($name:ident, $lane:ident $(, expects $expects:ident)? $(, fills $fills:ident)?;)*) => {
        /// The kind of a message: a variant of [`NetworkMessage`] without its content. Its number
        /// is the position of the variant, and the kind of the node's messages that carry it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Kind {
            $(#[doc = concat!("See [`NetworkMessage::", stringify!($name), "`].")] $name,)*
        }

        impl Kind {
            /// All kinds, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The kind of a message.
            pub const fn of(message: &NetworkMessage) -> Self {
                match message {
                    $(NetworkMessage::$name { .. } => Self::$name,)*
                }
            }
        }

        /// The rows of the table, by number.
        static ROWS: [Row; Kind::ALL.len()] = [$(Row {
            name: stringify!($name),
            lane: Lane::$lane,
            expects: kinds!(@kind $($expects)?),
            fills: kinds!(@kind $($fills)?),
        }),*];
    };
    (@kind) => { None };
    (@kind $kind:ident) => { Some(Kind::$kind) };
}

/// One row of the table.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    lane: Lane,
    expects: Option<Kind>,
    fills: Option<Kind>,
}

kinds! {
    Ping, Normal;
    Pong, Normal;
    TimeRequest, Normal, expects TimeResponse;
    TimeResponse, Normal, fills TimeResponse;
    Transaction, Normal;
    ValidationResponse, Urgent;
    BlockProposal, Urgent;
    GetBlockchainHeight, Normal, expects BlockchainHeight;
    BlockchainHeight, Normal, fills BlockchainHeight;
    GetBlocks, Normal, expects Blocks;
    BlocksData, Bulk, fills Blocks;
    Blocks, Bulk, fills Blocks;
    CatchUpRequest, Normal, expects CatchUpAcknowledge;
    CatchUpAcknowledge, Urgent, fills CatchUpAcknowledge;
    TransactionBroadcast, Normal;
    FinalizedTransactionBroadcast, Normal;
    InstantFinalityRequest, Normal, expects TransactionApproved;
    InstantFinalityVote, Urgent;
    MempoolAdd, Normal;
    MempoolQuery, Normal, expects MempoolResponse;
    MempoolResponse, Normal, fills MempoolResponse;
    ConsensusBlockProposal, Urgent;
    ConsensusBlockVote, Urgent, expects ConsensusVoteAck;
    ConsensusVoteAck, Urgent, fills ConsensusVoteAck;
    RequestMissingTransactions, Normal, expects MissingTransactionsResponse;
    MissingTransactionsResponse, Normal, fills MissingTransactionsResponse;
    TransactionRejection, Normal;
    RequestBlockProposal, Normal;
    UpdateTip, Normal;
    RegisterXpub, Normal, expects XpubRegistered;
    XpubRegistered, Normal, fills XpubRegistered;
    UtxoUpdate, Normal;
    RequestWalletTransactions, Normal, expects WalletTransactionsResponse;
    WalletTransactionsResponse, Normal, fills WalletTransactionsResponse;
    GetPeerList, Normal, expects PeerList;
    NewTransactionNotification, Normal;
    GetGenesis, Normal, expects GenesisBlock;
    GenesisBlock, Bulk, fills GenesisBlock;
    GetMempool, Normal, expects MempoolResponse;
    GetBlockchainInfo, Normal, expects BlockchainInfo;
    BlockchainInfo, Normal, fills BlockchainInfo;
    HeightRequest, Normal, expects HeightResponse;
    HeightResponse, Normal, fills HeightResponse;
    BlockRequest, Normal, expects BlockResponse;
    BlockResponse, Bulk, fills BlockResponse;
    ChainRequest, Normal, expects ChainResponse;
    ChainResponse, Bulk, fills ChainResponse;
    StateSnapshotRequest, Normal, expects StateSnapshotResponse;
    StateSnapshotResponse, Bulk, fills StateSnapshotResponse;
    PeerList, Normal, fills PeerList;
    ConsensusTxProposal, Urgent;
    RequestFinalizedTransactions, Normal, expects FinalizedTransactionsResponse;
    FinalizedTransactionsResponse, Normal, fills FinalizedTransactionsResponse;
    ConsensusTxVote, Urgent;
    TransactionApproved, Normal, fills TransactionApproved;
    TransactionRejected, Normal, fills TransactionApproved;
    TransactionRejectedByNetwork, Normal;
    UTXOStateQuery, Normal, expects UTXOStateResponse;
    UTXOStateResponse, Normal, fills UTXOStateResponse;
    UTXOStateNotification, Normal;
    UTXOSubscribe, Normal;
    UTXOUnsubscribe, Normal;
    UtxoLockBroadcast, Normal;
    UtxoLockAcknowledge, Urgent;
    UtxoCommit, Normal;
    UtxoConflictResolution, Normal;
    GetMasternodeList, Normal, expects MasternodeList;
    MasternodeList, Normal, fills MasternodeList;
    MasternodeAnnouncement, Normal;
    GetMasternodeHash, Normal, expects MasternodeHash;
    MasternodeHash, Normal, fills MasternodeHash;
}

impl Kind {
    /// Longest text of a message that travels on [`Lane::Urgent`], in bytes. A longer one would
    /// delay the votes behind it.
    pub const URGENT_SIZE: usize = 64 * 1024;
    /// Longest text of a message that travels on [`Lane::Normal`], in bytes.
    pub const NORMAL_SIZE: usize = 1024 * 1024;

    /// The kind with this number; `None` for [`UNKNOWN`] and other numbers without a variant.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    const fn row(self) -> Row {
        ROWS[self as usize]
    }

    /// Its number.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The name of the variant, as in JSON.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The lane for a message of usual size: urgent for votes, proposals and acknowledgements; bulk
    /// for blocks, chains and snapshots; normal for the others.
    pub const fn lane(self) -> Lane {
        self.row().lane
    }

    /// The lane for a message whose text has `size` bytes: its own, or a less urgent one if the
    /// text is long. With default limits, the lanes of the native protocol accept every such
    /// message of up to 10 MiB.
    pub const fn lane_for(self, size: usize) -> Lane {
        match self.lane() {
            _ if size > Self::NORMAL_SIZE => Lane::Bulk,
            Lane::Urgent if size > Self::URGENT_SIZE => Lane::Normal,
            usual => usual,
        }
    }

    /// The usual kind of reply, if this kind is a request.
    pub const fn reply_kind(self) -> Option<Self> {
        self.row().expects
    }

    /// The reply slot in which a request of this kind waits.
    pub const fn request_slot(self) -> Option<u32> {
        slot_of(self.row().expects)
    }

    /// The reply slot that a message of this kind fills.
    pub const fn reply_slot(self) -> Option<u32> {
        slot_of(self.row().fills)
    }

    /// The kind with this name.
    ///
    /// # Cost
    /// A few comparisons: only names of the same length are compared.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let from = usize::from(*BY_LENGTH.starts.get(name.len())?);
        let to = usize::from(*BY_LENGTH.starts.get(name.len() + 1)?);
        let same_length = BY_LENGTH.order.get(from..to)?;
        same_length.iter().copied().find(|kind| kind.name().as_bytes() == name)
    }
}

const fn slot_of(reply: Option<Kind>) -> Option<u32> {
    match reply {
        Some(kind) => Some(kind as u32),
        None => None,
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl NetworkMessage {
    /// The kind of the message.
    pub const fn kind(&self) -> Kind {
        Kind::of(self)
    }
}

/// Length of the longest name, in bytes.
pub(super) const MAX_NAME_BYTES: usize = {
    let (mut longest, mut at) = (0, 0);
    while at < Kind::ALL.len() {
        let len = Kind::ALL[at].name().len();
        if len > longest {
            longest = len;
        }
        at += 1;
    }
    longest
};

/// The kinds ordered by the length of their names: those of length `n` are
/// `order[starts[n]..starts[n + 1]]`.
struct ByLength {
    starts: [u8; MAX_NAME_BYTES + 2],
    order: [Kind; Kind::ALL.len()],
}

static BY_LENGTH: ByLength = {
    let mut table = ByLength { starts: [0; MAX_NAME_BYTES + 2], order: [Kind::Ping; Kind::ALL.len()] };
    let (mut length, mut placed) = (0, 0);
    while length <= MAX_NAME_BYTES {
        table.starts[length] = placed as u8;
        let mut at = 0;
        while at < Kind::ALL.len() {
            if Kind::ALL[at].name().len() == length {
                table.order[placed] = Kind::ALL[at];
                placed += 1;
            }
            at += 1;
        }
        length += 1;
    }
    table.starts[length] = placed as u8;
    table
};
