//! Messages: a length, then JSON of one of 71 variants, in two writes.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Stream;

/// Exactly this much is accepted, both ways.
pub(crate) const MAX_MESSAGE: u32 = 10_485_760;

/// One captured sample of each variant, in the order of the legacy enum.
pub(crate) const SAMPLES: &str = include_str!("../../golden/timecoin_messages.jsonl");

/// Fields that may be null or absent.
const OPTIONAL: [(&str, &str); 5] = [
    ("BlockchainInfo", "height"),
    ("BlockResponse", "block"),
    ("UtxoCommit", "reason"),
    ("UtxoLockAcknowledge", "conflict"),
    ("UtxoUpdate", "block_height"),
];
/// Fields of a block's header that may be absent.
const DEFAULTED: [&str; 3] = ["masternode_counts", "proof_of_time", "checkpoints"];

static BY_NAME: LazyLock<HashMap<String, (&str, Value)>> = LazyLock::new(|| {
    let parse = |line: &'static str| {
        let value: Value = serde_json::from_str(line).unwrap();
        let (name, body) = split(&value).unwrap();
        (name.to_owned(), (line, body.clone()))
    };
    SAMPLES.lines().map(parse).collect()
});

/// The captured JSON of a variant.
///
/// # Panics
/// If there is no such variant.
pub(crate) fn sample(variant: &str) -> &'static str {
    BY_NAME.get(variant).unwrap_or_else(|| panic!("no variant {variant}")).0
}

/// A message that the legacy node could read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) variant: String,
    /// Null for a variant without one.
    pub(crate) body: Value,
    /// As it stood in the frame.
    pub(crate) text: String,
}

/// The variant's name and its body.
fn split(value: &Value) -> Result<(&str, &Value), String> {
    match value {
        Value::String(name) => Ok((name, &Value::Null)),
        Value::Object(fields) if fields.len() == 1 => {
            fields.iter().next().map(|(name, body)| (name.as_str(), body)).ok_or_else(String::new)
        }
        _ => Err("expected value".to_owned()),
    }
}

impl Message {
    /// Reads the JSON of a frame as the legacy node would: known variant, all fields, of the right
    /// types.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let (variant, body) = split(&value)?;
        let Some((_, like)) = BY_NAME.get(variant) else {
            return Err(format!("unknown variant `{variant}`"));
        };
        if like.is_null() && !body.is_null() {
            return Err(format!("invalid body of `{variant}`, expected unit"));
        }
        if body.is_null() && value.is_object() && !like.is_null() || value.is_string() && !like.is_null() {
            return Err(format!("invalid type: unit variant, expected the body of `{variant}`"));
        }
        alike(variant, body, like).map_err(|error| format!("{error} in `{variant}`"))?;
        let text = String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?;
        Ok(Self { variant: variant.to_owned(), body: body.clone(), text })
    }
}

/// Whether a value has all that the captured one has, of the same types.
fn alike(variant: &str, value: &Value, like: &Value) -> Result<(), String> {
    match (like, value) {
        (Value::Object(like), Value::Object(fields)) => {
            for (name, like) in like {
                let may_be_null = OPTIONAL.contains(&(variant, name.as_str())) || name == "proof_of_time";
                match fields.get(name) {
                    Some(Value::Null) if may_be_null => {}
                    None if may_be_null || DEFAULTED.contains(&name.as_str()) => {}
                    None => return Err(format!("missing field `{name}`")),
                    // What the sample has no value for cannot be compared.
                    Some(_) if like.is_null() => {}
                    Some(value) => alike(variant, value, like)?,
                }
            }
            Ok(())
        }
        // A struct as an array of all its fields.
        (Value::Object(like), Value::Array(fields)) if like.len() == fields.len() => Ok(()),
        (Value::Array(like), Value::Array(items)) => {
            let Some(first) = like.first() else { return Ok(()) };
            // An array of small numbers is bytes; the only other array of numbers holds times.
            let bytes = like.iter().all(|item| item.as_u64().is_some_and(|item| item < 256));
            items.iter().try_for_each(|item| match item.as_u64() {
                Some(256..) if bytes => Err(format!("invalid value: {item}, expected u8")),
                _ => alike(variant, item, first),
            })
        }
        (Value::Number(like), Value::Number(number)) if like.is_f64() || !number.is_f64() => Ok(()),
        (Value::String(_), Value::String(_)) | (Value::Bool(_), Value::Bool(_)) => Ok(()),
        (Value::Null, Value::Null) => Ok(()),
        _ => Err(format!("invalid type: {value}")),
    }
}

/// Writes one frame, in two writes.
pub(crate) async fn write(stream: &mut dyn Stream, json: &str) -> Result<(), String> {
    let length = u32::try_from(json.len()).ok().filter(|length| *length <= MAX_MESSAGE);
    let length = length.ok_or("Message too large (>10MB)")?;
    let failed = |error: std::io::Error| format!("Failed to send: {error}");
    stream.write_all(&length.to_be_bytes()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    stream.write_all(json.as_bytes()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)
}

/// Reads one frame. A read that is given up halfway loses what it had: the connection is then out
/// of step.
pub(crate) async fn read(stream: &mut dyn Stream) -> Result<Vec<u8>, String> {
    let length = stream.read_u32().await.map_err(|error| format!("Failed to read length: {error}"))?;
    if length > MAX_MESSAGE {
        return Err("Message too large (>10MB)".to_owned());
    }
    // What a peer announces is not allocated before it came.
    let mut bytes = Vec::new();
    let mut limited = stream.take(u64::from(length));
    limited.read_to_end(&mut bytes).await.map_err(|error| format!("Failed to read message: {error}"))?;
    if bytes.len() < length as usize {
        return Err("Failed to read message: early eof".to_owned());
    }
    Ok(bytes)
}
