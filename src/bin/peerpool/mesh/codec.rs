//! How the messages of the mesh are encoded.
//!
//! On the native protocol they are numbers and padding; on the TIME Coin protocol they are messages
//! of that network. Padding depends on the message number, so [`Codec::decode`] detects changed
//! bytes.

use std::net::SocketAddr;

use bytes::Bytes;

use peerpool::timecoin::wire::{Kind, NetworkMessage, PeerAddress, TransactionMessage};
use peerpool::{Lane, Message};

use super::clock::Micros;
use super::graph::Incarnation;

/// Kinds of messages on the native protocol.
const KIND_TIP: u16 = 1;
const KIND_VOTE: u16 = 2;
const KIND_PROPOSAL: u16 = 3;
const KIND_TRANSACTION: u16 = 4;
const KIND_BLOCK: u16 = 5;
/// Approximate size of an encoded TIME Coin transaction without its signature, in bytes.
const TRANSACTION_OVERHEAD: usize = 200;

/// How messages are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Codec {
    /// Little-endian numbers and padding, for the native protocol.
    #[default]
    Native,
    /// The JSON messages of the TIME Coin network.
    TimeCoin,
}

/// The classes of broadcast messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageClass {
    /// Urgent and small.
    Vote,
    /// Urgent and larger.
    Proposal,
    /// Normal lane.
    Transaction,
}

/// A decoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// The state of a node.
    Tip { incarnation: Incarnation, version: u64 },
    /// A broadcast, with its number and the time at which it was sent.
    Broadcast { number: u64, sent_at: Micros },
    /// A request for a block.
    BlockRequest { height: u64 },
    /// A request for addresses.
    PeersRequest,
    /// Not a message that a node of the mesh sends.
    Corrupt,
}

impl MessageClass {
    fn lane(self) -> Lane {
        match self {
            Self::Vote | Self::Proposal => Lane::Urgent,
            Self::Transaction => Lane::Normal,
        }
    }

    fn native_kind(self) -> u16 {
        match self {
            Self::Vote => KIND_VOTE,
            Self::Proposal => KIND_PROPOSAL,
            Self::Transaction => KIND_TRANSACTION,
        }
    }
}

impl Codec {
    /// Encodes a broadcast message, padded to about `size` bytes.
    pub(super) fn encode_broadcast(
        self,
        class: MessageClass,
        number: u64,
        sent_at: Micros,
        size: usize,
    ) -> Message {
        let lane = class.lane();
        match self {
            Self::Native => {
                let mut bytes = vec![number as u8; size.max(16)];
                bytes[..8].copy_from_slice(&number.to_le_bytes());
                bytes[8..16].copy_from_slice(&sent_at.to_le_bytes());
                Message { lane, kind: class.native_kind(), payload: bytes.into() }
            }
            Self::TimeCoin => {
                let message = match class {
                    MessageClass::Vote => NetworkMessage::ConsensusTxVote(padded_text(number, sent_at, size)),
                    MessageClass::Proposal => {
                        NetworkMessage::ConsensusBlockProposal(padded_text(number, sent_at, size))
                    }
                    MessageClass::Transaction => {
                        NetworkMessage::Transaction(transaction(number, sent_at, size))
                    }
                };
                Message { lane, ..encode_json(&message) }
            }
        }
    }

    /// Encodes a tip as the kind and the value of a state entry.
    pub(super) fn encode_tip(self, incarnation: Incarnation, version: u64) -> (u16, Bytes) {
        match self {
            Self::Native => {
                let mut bytes = Vec::with_capacity(12);
                bytes.extend_from_slice(&version.to_le_bytes());
                bytes.extend_from_slice(&incarnation.to_le_bytes());
                (KIND_TIP, bytes.into())
            }
            Self::TimeCoin => {
                let hash = incarnation.to_string();
                let message = encode_json(&NetworkMessage::UpdateTip { height: version, hash });
                (message.kind, message.payload)
            }
        }
    }

    pub(super) fn encode_block_request(self, height: u64) -> Message {
        match self {
            Self::Native => Message::new(KIND_BLOCK, Bytes::copy_from_slice(&height.to_le_bytes())),
            Self::TimeCoin => encode_json(&NetworkMessage::StateSnapshotRequest { height }),
        }
    }

    /// Encodes the answer to a block request.
    pub(super) fn encode_block(self, height: u64) -> Bytes {
        let mut bytes = vec![height as u8; self.block_bytes()];
        match self {
            Self::Native => {
                bytes[..8].copy_from_slice(&height.to_le_bytes());
                bytes.into()
            }
            Self::TimeCoin => {
                let snapshot = NetworkMessage::StateSnapshotResponse {
                    height,
                    utxo_merkle_root: format!("{height:016x}"),
                    snapshot_size_bytes: bytes.len() as u64,
                    state_data: bytes,
                    compressed: false,
                };
                encode_json(&snapshot).payload
            }
        }
    }

    /// Returns whether an answer is the complete block of this height.
    pub(super) fn is_block(self, height: u64, answer: &[u8]) -> bool {
        let is_padding = |bytes: &[u8]| bytes.iter().all(|byte| *byte == height as u8);
        match self {
            Self::Native => {
                answer.len() == self.block_bytes()
                    && read_u64(answer) == Some(height)
                    && is_padding(&answer[8..])
            }
            Self::TimeCoin => match NetworkMessage::decode(answer) {
                Ok(NetworkMessage::StateSnapshotResponse { height: answered, state_data, .. }) => {
                    answered == height && state_data.len() == self.block_bytes() && is_padding(&state_data)
                }
                _ => false,
            },
        }
    }

    /// The size of a block. JSON encodes each byte in up to four.
    fn block_bytes(self) -> usize {
        match self {
            Self::Native => 256 * 1024,
            Self::TimeCoin => 64 * 1024,
        }
    }

    /// The lane to relay a message on. `received_on` is the lane that it was received on.
    pub(super) fn relay_lane(self, kind: u16, size: usize, received_on: Lane) -> Lane {
        match self {
            Self::Native => received_on,
            // The TIME Coin protocol has no lanes on the wire, so the lane follows from the kind.
            Self::TimeCoin => Kind::from_code(kind).map_or(received_on, |kind| kind.lane_for(size)),
        }
    }

    /// Encodes a request for addresses; `None` if the protocol discovers peers by itself.
    pub(super) fn encode_peers_request(self) -> Option<Message> {
        (self == Self::TimeCoin).then(|| encode_json(&NetworkMessage::GetPeerList))
    }

    /// Decodes a message. A changed or missing byte gives [`Decoded::Corrupt`].
    pub(super) fn decode(self, kind: u16, payload: &[u8]) -> Decoded {
        let decoded = match self {
            Self::Native => decode_native(kind, payload),
            Self::TimeCoin => NetworkMessage::decode(payload).ok().and_then(decode_timecoin),
        };
        decoded.unwrap_or(Decoded::Corrupt)
    }
}

/// Encodes the answer to a request for addresses.
pub(super) fn encode_peer_list(addrs: impl Iterator<Item = SocketAddr>) -> Bytes {
    let entry = |addr: SocketAddr| PeerAddress {
        ip: addr.ip().to_string(),
        port: addr.port(),
        version: concat!("peerpool/", env!("CARGO_PKG_VERSION")).into(),
    };
    encode_json(&NetworkMessage::PeerList(addrs.map(entry).collect())).payload
}

/// Decodes such an answer. Entries that are no addresses are left out.
pub(super) fn decode_peer_list(answer: &[u8]) -> Vec<SocketAddr> {
    let Ok(NetworkMessage::PeerList(peers)) = NetworkMessage::decode(answer) else { return Vec::new() };
    let addr = |peer: &PeerAddress| Some(SocketAddr::new(peer.ip.parse().ok()?, peer.port));
    peers.iter().filter_map(addr).collect()
}

fn decode_native(kind: u16, payload: &[u8]) -> Option<Decoded> {
    let number = read_u64(payload)?;
    match kind {
        KIND_TIP => {
            let incarnation = Incarnation::from_le_bytes(payload.get(8..12)?.try_into().ok()?);
            Some(Decoded::Tip { incarnation, version: number })
        }
        KIND_VOTE | KIND_PROPOSAL | KIND_TRANSACTION => {
            let sent_at = read_u64(payload.get(8..)?)?;
            let is_intact = payload[16..].iter().all(|byte| *byte == number as u8);
            is_intact.then_some(Decoded::Broadcast { number, sent_at })
        }
        KIND_BLOCK => Some(Decoded::BlockRequest { height: number }),
        _ => None,
    }
}

fn decode_timecoin(message: NetworkMessage) -> Option<Decoded> {
    match message {
        NetworkMessage::UpdateTip { height, hash } => {
            Some(Decoded::Tip { incarnation: hash.parse().ok()?, version: height })
        }
        NetworkMessage::ConsensusTxVote(text) | NetworkMessage::ConsensusBlockProposal(text) => {
            let (number, sent_at) = read_padded_text(&text)?;
            Some(Decoded::Broadcast { number, sent_at })
        }
        NetworkMessage::Transaction(transaction) => {
            let (number, sent_at) = read_padded_text(&transaction.signature)?;
            let is_intact = transaction.nonce == number && transaction.txid == format!("{number:064x}");
            is_intact.then_some(Decoded::Broadcast { number, sent_at })
        }
        NetworkMessage::StateSnapshotRequest { height } => Some(Decoded::BlockRequest { height }),
        NetworkMessage::GetPeerList => Some(Decoded::PeersRequest),
        _ => None,
    }
}

/// Encodes a TIME Coin message. None of the mesh's messages contains a float, so this cannot fail.
fn encode_json(message: &NetworkMessage) -> Message {
    let payload = message.to_bytes().unwrap_or_default();
    let kind = message.kind();
    Message { lane: kind.lane_for(payload.len()), kind: kind.code(), payload }
}

/// The number, the time, and padding with a letter that depends on the number.
fn padded_text(number: u64, sent_at: Micros, size: usize) -> String {
    let mut text = format!("{number} {sent_at} ");
    let padding = size.saturating_sub(text.len()).max(1);
    text.extend(std::iter::repeat_n(padding_letter(number), padding));
    text
}

fn read_padded_text(text: &str) -> Option<(u64, Micros)> {
    let mut parts = text.splitn(3, ' ');
    let (number, sent_at) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let is_intact = parts.next()?.chars().all(|letter| letter == padding_letter(number));
    is_intact.then_some((number, sent_at))
}

fn padding_letter(number: u64) -> char {
    char::from(b'a' + (number % 26) as u8)
}

fn transaction(number: u64, sent_at: Micros, size: usize) -> TransactionMessage {
    TransactionMessage {
        txid: format!("{number:064x}"),
        from: "TIME1payer".into(),
        to: "TIME1payee".into(),
        amount: 1_000_000,
        fee: 1_000,
        timestamp: 1_765_000_000,
        signature: padded_text(number, sent_at, size.saturating_sub(TRANSACTION_OVERHEAD)),
        nonce: number,
    }
}

fn read_u64(payload: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(payload.get(..8)?.try_into().ok()?))
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    const BOTH: [Codec; 2] = [Codec::Native, Codec::TimeCoin];

    #[test]
    fn a_broadcast_decodes_and_a_changed_byte_is_noticed() {
        for codec in BOTH {
            for class in [MessageClass::Vote, MessageClass::Proposal, MessageClass::Transaction] {
                let message = codec.encode_broadcast(class, 300, 77, 400);
                assert!((380..470).contains(&message.payload.len()), "{}", message.payload.len());
                let decode = |bytes: &[u8]| codec.decode(message.kind, bytes);
                assert_eq!(decode(&message.payload), Decoded::Broadcast { number: 300, sent_at: 77 });
                let mut broken = message.payload.to_vec();
                let at = if codec == Codec::Native { 399 } else { broken.len() / 2 };
                broken[at] ^= 1;
                assert_eq!(decode(&broken), Decoded::Corrupt, "{codec:?} {class:?}");
                assert_eq!(decode(&message.payload[..15]), Decoded::Corrupt);
            }
            assert_eq!(codec.decode(99, b"0123456789abcdef"), Decoded::Corrupt);
        }
    }

    #[test]
    fn a_block_is_recognised_by_its_height() {
        for codec in BOTH {
            let block = codec.encode_block(9);
            assert!(codec.is_block(9, &block));
            assert!(!codec.is_block(9, &codec.encode_block(10)));
            assert!(!codec.is_block(9, &block[1..]));
            let request = codec.encode_block_request(9);
            assert_eq!(codec.decode(request.kind, &request.payload), Decoded::BlockRequest { height: 9 });
        }
    }

    #[test]
    fn tips_and_addresses_decode() {
        for codec in BOTH {
            let (kind, value) = codec.encode_tip(4, 2);
            assert_eq!(codec.decode(kind, &value), Decoded::Tip { incarnation: 4, version: 2 });
        }
        let addrs = ["127.0.0.2:24100".parse().unwrap(), "[::1]:7".parse().unwrap()];
        assert_eq!(decode_peer_list(&encode_peer_list(addrs.into_iter())), addrs);
        assert_eq!(decode_peer_list(b"\"Ping\""), []);
    }
}
