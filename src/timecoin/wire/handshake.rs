//! The JSON of a handshake.

use std::fmt;
use std::net::SocketAddr;

use serde::de::{self, SeqAccess};
use serde::{Deserialize, Deserializer, Serialize};

use super::codec::{DecodeError, write_json};
use super::network::NetworkType;

/// What each side says first, after the magic and a length.
///
/// All fields are written, absent ones as null; those that may be absent may be missing when read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeMessage {
    /// The sender's software.
    pub version: String,
    /// When it was committed.
    #[serde(default)]
    pub commit_date: Option<String>,
    /// How many commits it has; text, since a number is refused by the network's other nodes.
    #[serde(default)]
    pub commit_count: Option<String>,
    /// The protocol it speaks: [`HandshakeMessage::PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// Its network.
    pub network: NetworkType,
    /// Where it listens, it says.
    pub listen_addr: SocketAddr,
    /// Its time, in seconds. Nobody checks it.
    pub timestamp: u64,
    /// What it can do. Of what is read the first [`HandshakeMessage::MAX_CAPABILITIES`] are kept.
    #[serde(deserialize_with = "first_capabilities")]
    pub capabilities: Vec<String>,
    /// Where its rewards go.
    #[serde(default)]
    pub wallet_address: Option<String>,
    /// Its first block, where it knows one.
    #[serde(default)]
    pub genesis_hash: Option<String>,
}

/// Why the sender of a handshake does not belong here. The text is what the network's nodes have always logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeMismatch {
    /// It is of the other network.
    #[error("Network mismatch: expected {expected}, got {got}")]
    Network {
        /// Ours.
        expected: NetworkType,
        /// Theirs.
        got: NetworkType,
    },
    /// It speaks another protocol.
    #[error("Protocol version mismatch: expected {expected}, got {got}")]
    Version {
        /// Ours.
        expected: u32,
        /// Theirs.
        got: u32,
    },
}

impl HandshakeMessage {
    /// The protocol of these messages.
    pub const PROTOCOL_VERSION: u32 = 1;
    /// Longest JSON, in bytes.
    pub const MAX_SIZE: usize = 1024 * 1024;
    /// Most capabilities that are kept of a peer's.
    pub const MAX_CAPABILITIES: usize = 16;

    /// The handshake with this JSON text.
    ///
    /// # Errors
    /// [`DecodeError`].
    ///
    /// # Cost
    /// Memory of the text's size at most.
    pub fn decode(text: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(text).map_err(DecodeError::new)
    }

    /// Appends the JSON text.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Text and byte_array only: writing them to memory cannot fail.
        let _ = write_json(self, out);
    }

    /// Whether the sender belongs to this network and speaks our protocol.
    ///
    /// # Errors
    /// What is different; the network is looked at first.
    pub fn validate(&self, expected: NetworkType) -> Result<(), HandshakeMismatch> {
        if self.network != expected {
            return Err(HandshakeMismatch::Network { expected, got: self.network });
        }
        if self.protocol_version != Self::PROTOCOL_VERSION {
            let expected = Self::PROTOCOL_VERSION;
            return Err(HandshakeMismatch::Version { expected, got: self.protocol_version });
        }
        Ok(())
    }
}

/// The first few of a list of texts; the others are only looked at, since a short text takes more memory than it has bytes.
fn first_capabilities<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct FirstCapabilities;
    impl<'de> de::Visitor<'de> for FirstCapabilities {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
            let mut kept = Vec::new();
            while kept.len() < HandshakeMessage::MAX_CAPABILITIES {
                match seq.next_element()? {
                    Some(capability) => kept.push(capability),
                    None => return Ok(kept),
                }
            }
            while seq.next_element::<IgnoredText>()?.is_some() {}
            Ok(kept)
        }
    }
    deserializer.deserialize_seq(FirstCapabilities)
}

/// A text that is not kept.
struct IgnoredText;

impl<'de> Deserialize<'de> for IgnoredText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = IgnoredText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<IgnoredText, E> {
                Ok(IgnoredText)
            }
        }
        deserializer.deserialize_str(Text)
    }
}
