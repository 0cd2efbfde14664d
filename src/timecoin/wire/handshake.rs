//! The JSON text of a handshake.

use std::fmt;
use std::net::SocketAddr;

use serde::de::{self, SeqAccess};
use serde::{Deserialize, Deserializer, Serialize};

use super::codec::{DecodeError, write_json};
use super::network::NetworkType;

/// The first message in each direction, after the magic and a length.
///
/// All fields are written, absent ones as null. Optional fields may be missing when read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeMessage {
    /// The software version.
    pub version: String,
    /// The date of the commit it was built from.
    #[serde(default)]
    pub commit_date: Option<String>,
    /// The number of commits it was built from. Text: legacy nodes refuse a number.
    #[serde(default)]
    pub commit_count: Option<String>,
    /// The protocol version: [`HandshakeMessage::PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// The sender's network.
    pub network: NetworkType,
    /// The address that the sender says it listens on.
    pub listen_addr: SocketAddr,
    /// The sender's time, in seconds. Not checked.
    pub timestamp: u64,
    /// The sender's capabilities. When read, the first [`HandshakeMessage::MAX_CAPABILITIES`] are
    /// kept.
    #[serde(deserialize_with = "first_capabilities")]
    pub capabilities: Vec<String>,
    /// The address that receives its rewards.
    #[serde(default)]
    pub wallet_address: Option<String>,
    /// The hash of its genesis block, if known.
    #[serde(default)]
    pub genesis_hash: Option<String>,
}

/// Why a handshake does not fit this node. The texts are those that legacy nodes log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeMismatch {
    /// The sender belongs to the other network.
    #[error("Network mismatch: expected {expected}, got {got}")]
    Network {
        /// Our network.
        expected: NetworkType,
        /// The sender's network.
        got: NetworkType,
    },
    /// The sender uses another protocol version.
    #[error("Protocol version mismatch: expected {expected}, got {got}")]
    Version {
        /// Our version.
        expected: u32,
        /// The sender's version.
        got: u32,
    },
}

impl HandshakeMessage {
    /// The protocol version of these messages.
    pub const PROTOCOL_VERSION: u32 = 1;
    /// Longest JSON text, in bytes.
    pub const MAX_SIZE: usize = 1024 * 1024;
    /// Maximum number of a peer's capabilities that are kept.
    pub const MAX_CAPABILITIES: usize = 16;

    /// Decodes a handshake.
    ///
    /// # Errors
    /// [`DecodeError`].
    ///
    /// # Cost
    /// Memory of at most the text's size.
    pub fn decode(text: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(text).map_err(DecodeError::new)
    }

    /// Appends the JSON text.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Strings and numbers only: writing them to memory cannot fail.
        let _ = write_json(self, out);
    }

    /// Checks network and protocol version.
    ///
    /// # Errors
    /// The first difference; the network is checked first.
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

/// Reads the first capabilities. The others are skipped, because a short string takes more memory
/// than it has bytes.
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

/// A string that is not kept.
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
