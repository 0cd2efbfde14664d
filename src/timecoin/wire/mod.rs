//! What TIME Coin nodes put on the line. No I/O and no task; the only clock is the one the handshake's timestamp is read from.
//!
//! ```text
//! handshake = magic (4 bytes) length (4 bytes, big endian) JSON      dialler first, the acceptor's is its acceptance
//! frame     = length (4 bytes, big endian) JSON of a NetworkMessage
//! ```
//!
//! A [`NetworkMessage`] is the typed form, its JSON text the payload of a node's message, and its place among the variants
//! ([`Kind`]) the message's kind. The text is compact, with the fields in declared order, and is the same whichever dialect
//! carries it.
//!
//! # Invariants
//! - **Nothing is allocated because a peer announced it.** *Enforced by*: a frame's buffer grows with the bytes that came;
//!   JSON announces no lengths, and parsed values grow with the text that stands for them. *Breaks if* a buffer is reserved
//!   from a length field.
//! - **A frame that was read whole leaves the stream in step**, whatever it holds: what is no message of ours is delivered
//!   as [`UNKNOWN`] with its bytes. *Breaks if* a parse error ends the decoder.
//!
//! # Not promised
//! A typed parse may take a multiple of the text's size: an empty string takes 3 bytes of JSON and 24 of memory.

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
