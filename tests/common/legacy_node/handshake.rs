//! The handshake: magic, length, JSON, in three writes.

use std::io;
use std::net::SocketAddr;

use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Stream;

/// Exactly this much is accepted.
pub(crate) const MAX_HANDSHAKE: u32 = 1_048_576;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Mainnet,
    Testnet,
}

impl Network {
    pub(crate) fn magic(self) -> [u8; 4] {
        match self {
            Self::Mainnet => [0xc0, 0x1d, 0x7e, 0x4d],
            Self::Testnet => *b"TIME",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mainnet => "Mainnet",
            Self::Testnet => "Testnet",
        }
    }
}

/// What a handshake says. All fields can be set, to say something wrong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Handshake {
    pub(crate) magic: [u8; 4],
    pub(crate) version: String,
    pub(crate) commit_date: Option<String>,
    pub(crate) commit_count: Option<String>,
    pub(crate) protocol_version: u32,
    pub(crate) network: String,
    pub(crate) listen_addr: SocketAddr,
    pub(crate) timestamp: u64,
    pub(crate) capabilities: Vec<String>,
    pub(crate) wallet_address: Option<String>,
    pub(crate) genesis_hash: Option<String>,
}

impl Handshake {
    pub(crate) fn new(network: Network, version: &str, listen_addr: SocketAddr) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            magic: network.magic(),
            version: version.to_owned(),
            commit_date: Some("2026-04-11T15:10:01-07:00".to_owned()),
            commit_count: Some("2059".to_owned()),
            protocol_version: 1,
            network: network.name().to_owned(),
            listen_addr,
            timestamp: now.map_or(0, |now| now.as_secs()),
            capabilities: vec!["masternode".to_owned(), "sync".to_owned()],
            wallet_address: None,
            genesis_hash: None,
        }
    }

    /// All ten keys, null where there is nothing, in the legacy node's order.
    pub(crate) fn json(&self) -> String {
        let optional = |value: &Option<String>| Value::from(value.clone()).to_string();
        let text = |value: &str| Value::from(value).to_string();
        format!(
            concat!(
                r#"{{"version":{},"commit_date":{},"commit_count":{},"protocol_version":{},"network":{},"#,
                r#""listen_addr":"{}","timestamp":{},"capabilities":{},"wallet_address":{},"genesis_hash":{}}}"#
            ),
            text(&self.version),
            optional(&self.commit_date),
            optional(&self.commit_count),
            self.protocol_version,
            text(&self.network),
            self.listen_addr,
            self.timestamp,
            Value::from(self.capabilities.clone()),
            optional(&self.wallet_address),
            optional(&self.genesis_hash),
        )
    }

    /// Magic, length and JSON in one piece.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let json = self.json();
        let length = u32::try_from(json.len()).unwrap();
        [&self.magic[..], &length.to_be_bytes(), json.as_bytes()].concat()
    }

    /// Three writes, as the legacy node does.
    pub(crate) async fn send(&self, stream: &mut dyn Stream) -> io::Result<()> {
        let bytes = self.bytes();
        for piece in [&bytes[..4], &bytes[4..8], &bytes[8..]] {
            stream.write_all(piece).await?;
            stream.flush().await?;
        }
        Ok(())
    }

    /// Reads one of `network`, checking in the legacy node's order.
    pub(crate) async fn receive(stream: &mut dyn Stream, network: Network) -> Result<Self, String> {
        let mut magic = [0; 4];
        stream.read_exact(&mut magic).await.map_err(|error| format!("Failed to read magic: {error}"))?;
        if magic != network.magic() {
            return Err(format!("Invalid magic bytes: expected {:?}, got {magic:?}", network.magic()));
        }
        let length = stream.read_u32().await.map_err(|error| format!("Failed to read length: {error}"))?;
        if length > MAX_HANDSHAKE {
            return Err("Too large".to_owned());
        }
        let mut json = vec![0; length as usize];
        stream.read_exact(&mut json).await.map_err(|error| format!("Failed to read handshake: {error}"))?;
        let value: Value = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
        let handshake = Self::parse(magic, &value)?;
        if handshake.network != network.name() {
            return Err(format!("Network mismatch: expected {}, got {}", network.name(), handshake.network));
        }
        if handshake.protocol_version != 1 {
            let got = handshake.protocol_version;
            return Err(format!("Protocol version mismatch: expected 1, got {got}"));
        }
        Ok(handshake)
    }

    fn parse(magic: [u8; 4], value: &Value) -> Result<Self, String> {
        let fields = value.as_object().ok_or("expected struct HandshakeMessage")?;
        let network = string(fields, "network")?;
        if !["Mainnet", "Testnet"].contains(&network.as_str()) {
            return Err(format!("unknown variant `{network}`, expected one of `Mainnet`, `Testnet`"));
        }
        let capabilities = fields.get("capabilities").and_then(Value::as_array);
        let capabilities = capabilities.ok_or("missing field `capabilities`")?.iter();
        let capabilities: Option<Vec<String>> =
            capabilities.map(|capability| capability.as_str().map(str::to_owned)).collect();
        Ok(Self {
            magic,
            version: string(fields, "version")?,
            commit_date: optional(fields, "commit_date")?,
            commit_count: optional(fields, "commit_count")?,
            protocol_version: u32::try_from(number(fields, "protocol_version")?)
                .map_err(|_| "invalid value for `protocol_version`, expected u32")?,
            network,
            listen_addr: string(fields, "listen_addr")?
                .parse()
                .map_err(|_| "invalid socket address syntax".to_owned())?,
            timestamp: number(fields, "timestamp")?,
            capabilities: capabilities.ok_or("invalid type in `capabilities`, expected a string")?,
            wallet_address: optional(fields, "wallet_address")?,
            genesis_hash: optional(fields, "genesis_hash")?,
        })
    }
}

fn string(fields: &Map<String, Value>, name: &str) -> Result<String, String> {
    match fields.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("invalid type for `{name}`, expected a string")),
        None => Err(format!("missing field `{name}`")),
    }
}

fn optional(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => string(fields, name).map(Some),
    }
}

fn number(fields: &Map<String, Value>, name: &str) -> Result<u64, String> {
    let value = fields.get(name).ok_or_else(|| format!("missing field `{name}`"))?;
    value.as_u64().ok_or_else(|| format!("invalid type or value for `{name}`, expected u64"))
}
