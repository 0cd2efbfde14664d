//! The wire format of the TIME Coin network: messages, framing and handshake. No I/O and no tasks;
//! the only clock is the source of the handshake's timestamp.
//!
//! ```text
//! handshake = magic (4 bytes) length (4 bytes, big endian) JSON      dialler first, the acceptor's is its acceptance
//! frame     = length (4 bytes, big endian) JSON of a NetworkMessage
//! ```
//!
//! A [`NetworkMessage`] is the typed form, its JSON text is the payload of a node's message, and
//! its position among the variants ([`Kind`]) is the message's kind. The text is compact, with the
//! fields in declared order, and is the same in every protocol that carries it.
//!
//! # Guarantees
//! - An announced length allocates nothing: a frame's buffer grows with the received bytes, JSON
//!   has no lengths, and parsed values grow with their text.
//! - A complete frame keeps the stream in step, whatever it contains: what is not a known message
//!   is delivered as [`UNKNOWN`] with its bytes.
//!
//! # Not guaranteed
//! A typed parse may take a multiple of the text's size: an empty string takes 3 bytes of JSON and
//! 24 bytes of memory.

mod codec;
mod decline;
mod decode;
mod handshake;
mod hash;
mod hello;
mod kinds;
mod message;
mod network;
mod peek;
mod protocol;
mod reply_matcher;
mod time;
mod types;

pub use codec::{DecodeError, DecodeFault, TextError};
pub use decode::TimeCoinDecoder;
pub(super) use decode::{FrameContent, peek_frame};
pub use handshake::{HandshakeMessage, HandshakeMismatch};
pub(super) use hello::truncated;
pub use hello::{PeerSoftware, Software};
pub use kinds::{Kind, UNKNOWN};
pub use message::NetworkMessage;
pub use network::{FIRST_EPHEMERAL_PORT, NetworkType, is_ephemeral};
pub use protocol::TimeCoin;
pub use time::{BlockTime, BlockTimeError};
pub use types::{
    Block, BlockData, BlockHeader, ConflictInfo, MasternodeCounts, MasternodeInfo, OutPoint, PeerAddress,
    ProtocolVersion, Transaction, TransactionMessage, TransactionValidation, TxInput, TxOutput, UTXOState,
    UTXOStateNotification, UtxoInfo, UtxoInput, UtxoOutput, VDFProof, WalletTransaction,
};
