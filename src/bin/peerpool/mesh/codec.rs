//! How the mesh's application puts its messages: as bytes of its own on the native wire, as the messages of a chain on the
//! TIME Coin network's.

use bytes::Bytes;

use peerpool::base::Lane;
use peerpool::node::Message;
use peerpool::timecoin::wire::{Kind, NetworkMessage, PeerAddress, TransactionMessage};

use super::clock::Micros;
use super::graph::Incarnation;

/// The wire's way to put things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Codec {
    /// Numbers and filling.
    #[default]
    Native,
    /// JSON.
    TimeCoin,
}

/// The classes of what is told to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Urgent and small.
    Vote,
    /// Urgent and larger.
    Proposal,
    /// The bulk of the gossip.
    Transaction,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// How far a node is.
    Tip { of: Incarnation, version: u64 },
    /// Something told to everybody: its number, and when it was sent.
    Gossip { number: u64, at: Micros },
    /// A question for a block.
    Block { height: u64 },
    /// A question for addresses.
    Peers,
    /// Not what any node of the mesh says.
    Corrupt,
}

impl Class {
    fn lane(self) -> Lane {
        match self {
            Self::Vote | Self::Proposal => Lane::Urgent,
            Self::Transaction => Lane::Normal,
        }
    }
}

impl Codec {
    /// A message to everybody, filled up to about `size` bytes.
    pub(super) fn gossip(self, class: Class, number: u64, at: Micros, size: usize) -> Message {
        let lane = class.lane();
        match self {
            Self::Native => {
                let mut bytes = vec![number as u8; size.max(16)];
                bytes[..8].copy_from_slice(&number.to_le_bytes());
                bytes[8..16].copy_from_slice(&at.to_le_bytes());
                let kind = match class {
                    Class::Vote => VOTE,
                    Class::Proposal => PROPOSAL,
                    Class::Transaction => TRANSACTION,
                };
                Message { lane, kind, payload: bytes.into() }
            }
            Self::TimeCoin => {
                let said = match class {
                    Class::Vote => NetworkMessage::ConsensusTxVote(filled(number, at, size)),
                    Class::Proposal => NetworkMessage::ConsensusBlockProposal(filled(number, at, size)),
                    Class::Transaction => NetworkMessage::Transaction(payment(number, at, size)),
                };
                Message { lane, ..put(&said) }
            }
        }
    }

    /// A tip's kind and value.
    pub(super) fn tip(self, of: Incarnation, version: u64) -> (u16, Bytes) {
        match self {
            Self::Native => {
                let mut bytes = Vec::with_capacity(12);
                bytes.extend_from_slice(&version.to_le_bytes());
                bytes.extend_from_slice(&of.to_le_bytes());
                (TIP, bytes.into())
            }
            Self::TimeCoin => {
                let said = put(&NetworkMessage::UpdateTip { height: version, hash: of.to_string() });
                (said.kind, said.payload)
            }
        }
    }

    /// A question for a block.
    pub(super) fn block_request(self, height: u64) -> Message {
        match self {
            Self::Native => Message::new(BLOCK, Bytes::copy_from_slice(&height.to_le_bytes())),
            Self::TimeCoin => put(&NetworkMessage::StateSnapshotRequest { height }),
        }
    }

    /// The block of this height.
    pub(super) fn block(self, height: u64) -> Bytes {
        let filling = vec![height as u8; self.block_bytes()];
        match self {
            Self::Native => {
                let mut bytes = filling;
                bytes[..8].copy_from_slice(&height.to_le_bytes());
                bytes.into()
            }
            Self::TimeCoin => {
                let utxo_merkle_root = format!("{height:016x}");
                put(&NetworkMessage::StateSnapshotResponse {
                    height,
                    utxo_merkle_root,
                    snapshot_size_bytes: filling.len() as u64,
                    state_data: filling,
                    compressed: false,
                })
                .payload
            }
        }
    }

    /// Whether an answer is the block of this height, whole.
    pub(super) fn is_block(self, height: u64, answer: &[u8]) -> bool {
        let full = |bytes: &[u8]| bytes.iter().all(|byte| *byte == height as u8);
        match self {
            Self::Native => {
                answer.len() == self.block_bytes()
                    && read_number(answer) == Some(height)
                    && full(&answer[8..])
            }
            Self::TimeCoin => match NetworkMessage::decode(answer) {
                Ok(NetworkMessage::StateSnapshotResponse { height: of, state_data, .. }) => {
                    of == height && state_data.len() == self.block_bytes() && full(&state_data)
                }
                _ => false,
            },
        }
    }

    /// Bytes of a block. As JSON each takes up to four.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::Native => 256 * 1024,
            Self::TimeCoin => 64 * 1024,
        }
    }

    /// The lane that a message which came on `lane` is passed on in.
    pub(super) fn lane(self, kind: u16, size: usize, lane: Lane) -> Lane {
        match self {
            Self::Native => lane,
            // This wire does not tell lanes.
            Self::TimeCoin => Kind::from_code(kind).map_or(lane, |kind| kind.lane_for(size)),
        }
    }

    /// A question for addresses, where the wire itself has none.
    pub(super) fn peers_request(self) -> Option<Message> {
        (self == Self::TimeCoin).then(|| put(&NetworkMessage::GetPeerList))
    }

    /// What came, whole or not at all.
    pub(super) fn read(self, kind: u16, payload: &[u8]) -> Decoded {
        let heard = match self {
            Self::Native => read_native(kind, payload),
            Self::TimeCoin => NetworkMessage::decode(payload).ok().and_then(read_typed),
        };
        heard.unwrap_or(Decoded::Corrupt)
    }
}

/// Addresses as an answer.
pub(super) fn peer_list(addrs: impl Iterator<Item = std::net::SocketAddr>) -> Bytes {
    let one = |addr: std::net::SocketAddr| PeerAddress {
        ip: addr.ip().to_string(),
        port: addr.port(),
        version: concat!("peerpool/", env!("CARGO_PKG_VERSION")).into(),
    };
    put(&NetworkMessage::PeerList(addrs.map(one).collect())).payload
}

/// The addresses in an answer.
pub(super) fn read_peer_list(answer: &[u8]) -> Vec<std::net::SocketAddr> {
    let Ok(NetworkMessage::PeerList(peers)) = NetworkMessage::decode(answer) else { return Vec::new() };
    let addr = |peer: &PeerAddress| Some(std::net::SocketAddr::new(peer.ip.parse().ok()?, peer.port));
    peers.iter().filter_map(addr).collect()
}

/// Native kinds.
const TIP: u16 = 1;
const VOTE: u16 = 2;
const PROPOSAL: u16 = 3;
const TRANSACTION: u16 = 4;
const BLOCK: u16 = 5;

fn read_native(kind: u16, payload: &[u8]) -> Option<Decoded> {
    let number = read_number(payload)?;
    match kind {
        TIP => {
            let of = payload.get(8..12)?.try_into().ok()?;
            Some(Decoded::Tip { of: Incarnation::from_le_bytes(of), version: number })
        }
        VOTE | PROPOSAL | TRANSACTION => {
            let at = read_number(payload.get(8..)?)?;
            let whole = payload[16..].iter().all(|byte| *byte == number as u8);
            whole.then_some(Decoded::Gossip { number, at })
        }
        BLOCK => Some(Decoded::Block { height: number }),
        _ => None,
    }
}

fn read_typed(said: NetworkMessage) -> Option<Decoded> {
    match said {
        NetworkMessage::UpdateTip { height, hash } => {
            Some(Decoded::Tip { of: hash.parse().ok()?, version: height })
        }
        NetworkMessage::ConsensusTxVote(text) | NetworkMessage::ConsensusBlockProposal(text) => {
            read_filled(&text)
        }
        NetworkMessage::Transaction(payment) => {
            let Decoded::Gossip { number, at } = read_filled(&payment.signature)? else { return None };
            let whole = payment.nonce == number && payment.txid == format!("{number:064x}");
            whole.then_some(Decoded::Gossip { number, at })
        }
        NetworkMessage::StateSnapshotRequest { height } => Some(Decoded::Block { height }),
        NetworkMessage::GetPeerList => Some(Decoded::Peers),
        _ => None,
    }
}

/// A typed message as the node takes it. None of these can fail to be put as text: no number in them is a float.
fn put(said: &NetworkMessage) -> Message {
    let payload = said.to_bytes().unwrap_or_default();
    let kind = said.kind();
    Message { lane: kind.lane_for(payload.len()), kind: kind.code(), payload }
}

/// The number and the time, and letters that follow from the number.
fn filled(number: u64, at: Micros, size: usize) -> String {
    let mut text = format!("{number} {at} ");
    let letter = letter(number);
    text.extend(std::iter::repeat_n(letter, size.saturating_sub(text.len()).max(1)));
    text
}

fn read_filled(text: &str) -> Option<Decoded> {
    let mut words = text.splitn(3, ' ');
    let (number, at) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let whole = words.next()?.chars().all(|one| one == letter(number));
    whole.then_some(Decoded::Gossip { number, at })
}

fn letter(number: u64) -> char {
    char::from(b'a' + (number % 26) as u8)
}

fn payment(number: u64, at: Micros, size: usize) -> TransactionMessage {
    TransactionMessage {
        txid: format!("{number:064x}"),
        from: "TIME1payer".into(),
        to: "TIME1payee".into(),
        amount: 1_000_000,
        fee: 1_000,
        timestamp: 1_765_000_000,
        signature: filled(number, at, size.saturating_sub(PAYMENT)),
        nonce: number,
    }
}

/// Bytes of a payment without its signature, about.
const PAYMENT: usize = 200;

fn read_number(payload: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(payload.get(..8)?.try_into().ok()?))
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    const BOTH: [Codec; 2] = [Codec::Native, Codec::TimeCoin];

    #[test]
    fn gossip_reads_back_and_a_changed_byte_is_noticed() {
        for codec in BOTH {
            for class in [Class::Vote, Class::Proposal, Class::Transaction] {
                let message = codec.gossip(class, 300, 77, 400);
                assert!((380..470).contains(&message.payload.len()), "{}", message.payload.len());
                let heard = |bytes: &[u8]| codec.read(message.kind, bytes);
                assert_eq!(heard(&message.payload), Decoded::Gossip { number: 300, at: 77 });
                let mut broken = message.payload.to_vec();
                let at = if codec == Codec::Native { 399 } else { broken.len() / 2 };
                broken[at] ^= 1;
                assert_eq!(heard(&broken), Decoded::Corrupt, "{codec:?} {class:?}");
                assert_eq!(heard(&message.payload[..15]), Decoded::Corrupt);
            }
            assert_eq!(codec.read(99, b"0123456789abcdef"), Decoded::Corrupt);
        }
    }

    #[test]
    fn a_block_is_known_by_its_height() {
        for codec in BOTH {
            let block = codec.block(9);
            assert!(codec.is_block(9, &block));
            assert!(!codec.is_block(9, &codec.block(10)));
            assert!(!codec.is_block(9, &block[1..]));
            assert_eq!(
                codec.read(codec.block_request(9).kind, &codec.block_request(9).payload),
                Decoded::Block { height: 9 }
            );
        }
    }

    #[test]
    fn tips_and_addresses_read_back() {
        for codec in BOTH {
            let (kind, value) = codec.tip(4, 2);
            assert_eq!(codec.read(kind, &value), Decoded::Tip { of: 4, version: 2 });
        }
        let addrs = ["127.0.0.2:24100".parse().unwrap(), "[::1]:7".parse().unwrap()];
        assert_eq!(read_peer_list(&peer_list(addrs.into_iter())), addrs);
        assert_eq!(read_peer_list(b"\"Ping\""), []);
    }
}
