//! Conversion between the engine's [`Hello`] and the network's [`HandshakeMessage`].
//!
//! A [`Hello`] is what the engine knows of a handshake in any protocol. This network's handshake
//! names the software in more detail: [`Software`] adds our details to what is sent, and
//! [`PeerSoftware`] carries the peer's details in the application bytes of the received [`Hello`].

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::canonical;
use crate::wire::{EncodeError, Hello};

use super::codec::write_json;
use super::handshake::HandshakeMessage;
use super::hash::hex;
use super::network::NetworkType;

/// The genesis of a peer whose text is not a hash. It differs from every real one.
const INVALID_GENESIS: [u8; 32] = [0xff; 32];

/// What a handshake says of our software, beyond the fields of a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Software {
    /// The version; `None` sends the hello's agent.
    pub version: Option<String>,
    /// The date of the commit it was built from.
    pub commit_date: Option<String>,
    /// The number of commits it was built from.
    pub commit_count: Option<String>,
    /// The address that receives the node's rewards.
    pub wallet_address: Option<String>,
    /// The capabilities it announces. Legacy nodes ignore them.
    ///
    /// Nodes built on this crate recognise each other by `peerpool`, which the default contains. A
    /// node without it is treated as a legacy node: it gets no refusals, and no requests on a
    /// connection that it dialled.
    pub capabilities: Vec<String>,
}

impl Default for Software {
    fn default() -> Self {
        Self {
            version: None,
            commit_date: None,
            commit_count: None,
            wallet_address: None,
            capabilities: ["masternode", "sync", "peerpool"].map(str::to_owned).to_vec(),
        }
    }
}

impl Software {
    /// The handshake that announces this software and `hello` on `network`.
    ///
    /// # Errors
    /// [`EncodeError::Unsupported`] if the hello is for another network.
    pub(super) fn handshake(
        &self,
        network: NetworkType,
        hello: &Hello,
        timestamp: u64,
    ) -> Result<HandshakeMessage, EncodeError> {
        if hello.network != network.id() {
            return Err(EncodeError::Unsupported { what: "network but its own" });
        }
        let Self { version, commit_date, commit_count, wallet_address, capabilities } = self.clone();
        let not_listening = ([0, 0, 0, 0], 0).into();
        Ok(HandshakeMessage {
            version: version.unwrap_or_else(|| hello.agent.clone()),
            commit_date,
            commit_count,
            protocol_version: hello.version,
            network,
            listen_addr: hello.listen.map_or(not_listening, canonical),
            timestamp,
            capabilities,
            wallet_address,
            genesis_hash: hello.genesis.map(|hash| hex(&hash)),
        })
    }
}

/// What a received handshake says of the peer's software, beyond its version.
///
/// It travels as JSON in the application bytes of a [`Hello`]. Each text is cut to
/// [`PeerSoftware::MAX_TEXT`] bytes, and control characters are replaced by spaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSoftware {
    /// The date of the commit it was built from.
    pub commit_date: Option<String>,
    /// The number of commits it was built from.
    pub commit_count: Option<String>,
    /// The address that receives the peer's rewards.
    pub wallet_address: Option<String>,
    /// The first [`HandshakeMessage::MAX_CAPABILITIES`] capabilities that it announces.
    pub capabilities: Vec<String>,
}

impl PeerSoftware {
    /// Longest text, in bytes.
    pub const MAX_TEXT: usize = 256;

    /// Parses a hello's application bytes; `None` for those of another protocol.
    pub fn of(app: &[u8]) -> Option<Self> {
        serde_json::from_slice(app).ok()
    }
}

/// The engine's view of a received handshake.
pub(super) fn hello_from(handshake: HandshakeMessage) -> Hello {
    let short = |text: String| sanitized(&text, PeerSoftware::MAX_TEXT).into_owned();
    let software = PeerSoftware {
        commit_date: handshake.commit_date.map(short),
        commit_count: handshake.commit_count.map(short),
        wallet_address: handshake.wallet_address.map(short),
        capabilities: handshake.capabilities.into_iter().map(short).collect(),
    };
    let mut app = Vec::new();
    // Strings only: writing them to memory cannot fail.
    let _ = write_json(&software, &mut app);
    let listen = canonical(handshake.listen_addr);
    let not_listening = listen.ip().is_unspecified() && listen.port() == 0;
    Hello {
        version: handshake.protocol_version,
        network: handshake.network.id(),
        nonce: None,
        features: 0,
        listen: (!not_listening).then_some(listen),
        agent: sanitized(&handshake.version, Hello::MAX_AGENT).into_owned(),
        genesis: handshake.genesis_hash.map(|text| parse_hash(&text).unwrap_or(INVALID_GENESIS)),
        app: Bytes::from(app),
    }
}

/// The text cut to `max_bytes`, with spaces in place of control characters.
fn sanitized(text: &str, max_bytes: usize) -> Cow<'_, str> {
    let text = truncated(text, max_bytes);
    if text.chars().any(char::is_control) {
        // A control character takes one or two bytes and a space one, so the bound still holds.
        return text.replace(char::is_control, " ").into();
    }
    text.into()
}

/// The longest prefix of at most `max_bytes` that ends at a character.
pub(in crate::timecoin) fn truncated(text: &str, max_bytes: usize) -> &str {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let digit = |at: usize| char::from(text[at]).to_digit(16);
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = (digit(2 * at)? << 4 | digit(2 * at + 1)?) as u8;
    }
    Some(hash)
}
