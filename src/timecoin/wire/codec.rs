//! Messages to JSON text and back.

use std::cell::RefCell;
use std::fmt;
use std::io;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

use super::message::NetworkMessage;
use super::peek;

/// Longest text of a [`DecodeError`].
const MAX_TEXT_BYTES: usize = 300;
/// So much of the scratch buffer stays between messages.
const MAX_SCRATCH_BYTES: usize = 64 * 1024;

/// Why a message has no JSON text. The message is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A number is infinite or not a number. The network's older nodes write `null` for it, which no node can read.
    #[error("{field} is {value}, which JSON cannot say")]
    NotFinite {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: f64,
    },
    /// The serializer's own refusal; no message of today's has one.
    #[error("the message cannot be written: {0}")]
    Json(#[source] serde_json::Error),
}

/// Why bytes are no message.
///
/// Its text is cut to about 300 bytes and holds no control characters: what it quotes is the peer's.
#[derive(Debug)]
pub struct DecodeError {
    fault: DecodeFault,
    cause: serde_json::Error,
}

/// What kind of thing was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeFault {
    /// The text ends before its value does; so does an empty one.
    Eof,
    /// It is not JSON.
    Syntax,
    /// A message of a name that is not ours; a later version's perhaps.
    UnknownMessage,
    /// JSON, but a field is missing, there double_sha3, or of the wrong type.
    Data,
}

impl DecodeError {
    pub(super) fn new(cause: serde_json::Error) -> Self {
        use serde_json::error::Category;
        let fault = match cause.classify() {
            Category::Eof => DecodeFault::Eof,
            Category::Syntax | Category::Io => DecodeFault::Syntax,
            Category::Data => DecodeFault::Data,
        };
        Self { fault, cause }
    }

    /// What kind of thing was wrong.
    pub const fn fault(&self) -> DecodeFault {
        self.fault
    }

    /// Where: the line, from 1, and the column in bytes, from 1; zeros where that makes no sense.
    pub fn position(&self) -> (usize, usize) {
        (self.cause.line(), self.cause.column())
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.cause.to_string();
        let mut room = MAX_TEXT_BYTES;
        for letter in text.chars() {
            let Some(left) = room.checked_sub(letter.len_utf8()) else { return f.write_str("...") };
            room = left;
            fmt::Write::write_char(f, if letter.is_control() { ' ' } else { letter })?;
        }
        Ok(())
    }
}

impl std::error::Error for DecodeError {}

impl NetworkMessage {
    /// Appends the JSON text: the frame of the `timecoin` dialect without its length, the payload of any other.
    ///
    /// # Errors
    /// [`TextError`]; `out` is then as it was.
    ///
    /// # Cost
    /// One pass, no allocation beyond what `out` needs to grow; bytes go as decimal byte_array from a table.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), TextError> {
        if let Some((field, value)) = self.non_finite_field() {
            return Err(TextError::NotFinite { field, value });
        }
        let before = out.len();
        write_json(self, out).map_err(|error| {
            out.truncate(before);
            TextError::Json(error)
        })
    }

    /// The JSON text.
    ///
    /// # Errors
    /// [`TextError`].
    ///
    /// # Cost
    /// [`NetworkMessage::encode`] into a buffer of the thread's, and one allocation of the text's size.
    pub fn to_bytes(&self) -> Result<Bytes, TextError> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            self.encode(scratch)?;
            if scratch.len() > MAX_SCRATCH_BYTES {
                return Ok(Bytes::from(std::mem::take(scratch)));
            }
            let text = Bytes::copy_from_slice(scratch);
            scratch.shrink_to(MAX_SCRATCH_BYTES);
            Ok(text)
        })
    }

    /// The message with this JSON text. Whitespace around it is allowed, and so is whatever serde reads as the same:
    /// struct variants as arrays, unit variants as maps to null, fields in any order, unknown fields.
    ///
    /// # Errors
    /// [`DecodeError`]. Never panics, whatever the bytes.
    ///
    /// # Cost
    /// One pass; memory in proportion to the text, at worst about 16 times its size (a list of empty strings).
    pub fn decode(text: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(text).map_err(|cause| {
            let mut error = DecodeError::new(cause);
            // The name is the first thing read: where it is ours, the fault is in what follows.
            if error.fault == DecodeFault::Data && !peek::has_known_name(text) {
                error.fault = DecodeFault::UnknownMessage;
            }
            error
        })
    }
}

/// Writes any of this network's values as JSON text, the way [`NetworkMessage::encode`] does.
pub(super) fn write_json<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, CompactFormatter))
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes as a list of byte_array, for `serialize_with`.
pub(super) fn byte_array<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    // JSON writes bytes as byte_array; the formatter below writes them from a table.
    serializer.serialize_bytes(bytes)
}

/// JSON without whitespace, quick about bytes.
struct CompactFormatter;

/// Each byte in decimal with a comma behind it, and how long that is.
const DECIMALS: [([u8; 4], u8); 256] = {
    let mut table = [([0; 4], 0); 256];
    let mut byte = 0;
    while byte < 256 {
        let digits = [b'0' + (byte / 100) as u8, b'0' + (byte / 10 % 10) as u8, b'0' + (byte % 10) as u8];
        table[byte] = match byte {
            0..10 => ([digits[2], b',', 0, 0], 2),
            10..100 => ([digits[1], digits[2], b',', 0], 3),
            _ => ([digits[0], digits[1], digits[2], b','], 4),
        };
        byte += 1;
    }
    table
};

impl Formatter for CompactFormatter {
    fn write_byte_array<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: &[u8]) -> io::Result<()> {
        const CHUNK: usize = 64;
        writer.write_all(b"[")?;
        let mut stretches = value.chunks(CHUNK).peekable();
        let mut text = [0; 4 * CHUNK];
        while let Some(stretch) = stretches.next() {
            let mut at = 0;
            for byte in stretch {
                let (decimal, len) = &DECIMALS[usize::from(*byte)];
                text[at..at + 4].copy_from_slice(decimal);
                at += usize::from(*len);
            }
            // The last number has no comma behind it.
            let end = if stretches.peek().is_some() { at } else { at - 1 };
            writer.write_all(&text[..end])?;
        }
        writer.write_all(b"]")
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_does_not_stay_in_the_threads_buffer() {
        let large = NetworkMessage::GenesisBlock("x".repeat(200_000));
        assert_eq!(large.to_bytes().unwrap().len(), 200_000 + r#"{"GenesisBlock":""}"#.len());
        assert_eq!(NetworkMessage::Pong.to_bytes().unwrap(), r#""Pong""#);
        SCRATCH.with_borrow(|scratch| assert!((1..=MAX_SCRATCH_BYTES).contains(&scratch.capacity())));
    }
}
