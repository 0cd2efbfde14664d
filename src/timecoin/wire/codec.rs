//! Encoding messages as JSON text, and decoding them.

use std::cell::RefCell;
use std::fmt;
use std::io;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

use super::message::NetworkMessage;
use super::peek;

/// Longest text of a [`DecodeError`], in bytes.
const MAX_TEXT_BYTES: usize = 300;
/// Capacity of the scratch buffer that is kept between messages, in bytes.
const MAX_SCRATCH_BYTES: usize = 64 * 1024;

/// Why a message has no JSON text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A number is infinite or NaN. Older nodes write `null` for it, which no node can read.
    #[error("{field} is {value}, which JSON cannot represent")]
    NotFinite {
        /// The name of the field.
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// The serializer refused the message; none of today's messages causes this.
    #[error("serialization failed: {0}")]
    Json(#[source] serde_json::Error),
}

/// Why bytes are not a message.
///
/// Its text quotes the peer, so it is cut to about 300 bytes and holds no control characters.
#[derive(Debug)]
pub struct DecodeError {
    fault: DecodeFault,
    cause: serde_json::Error,
}

/// The category of a decoding error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeFault {
    /// The text ends early, or is empty.
    Eof,
    /// The text is not JSON.
    Syntax,
    /// The message name is unknown; possibly a later version's.
    UnknownMessage,
    /// Valid JSON, but a field is missing, duplicated, or of the wrong type.
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

    /// The category.
    pub const fn fault(&self) -> DecodeFault {
        self.fault
    }

    /// The line and the byte column of the error, both from 1; zeros if there is no position.
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
    /// Appends the JSON text. It is the frame of the `timecoin` protocol without its length, and
    /// the payload in any other protocol.
    ///
    /// # Errors
    /// [`TextError`]; `out` is unchanged.
    ///
    /// # Cost
    /// One pass, no allocation except to grow `out`. Byte arrays are written as decimal numbers
    /// from a table.
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
    /// [`NetworkMessage::encode`] into a thread-local buffer, and one allocation of the text's
    /// size.
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

    /// Decodes a JSON text. Surrounding whitespace is allowed, and so is everything that serde
    /// reads as equal: struct variants as arrays, unit variants as maps to null, fields in any
    /// order, unknown fields.
    ///
    /// # Errors
    /// [`DecodeError`]. Never panics.
    ///
    /// # Cost
    /// One pass. Memory is proportional to the text: at worst about 16 times its size, for a list
    /// of empty strings.
    pub fn decode(text: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(text).map_err(|cause| {
            let mut error = DecodeError::new(cause);
            // The name is read first: if it is known, the error is in what follows.
            if error.fault == DecodeFault::Data && !peek::has_known_name(text) {
                error.fault = DecodeFault::UnknownMessage;
            }
            error
        })
    }
}

/// Writes any of the network's values as JSON text, as [`NetworkMessage::encode`] does.
pub(super) fn write_json<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, CompactFormatter))
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes bytes as an array of numbers; for `serialize_with`.
pub(super) fn byte_array<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    // Serde's default for JSON, written from a table by the formatter below.
    serializer.serialize_bytes(bytes)
}

/// Compact JSON with a fast path for byte arrays.
struct CompactFormatter;

/// Each byte in decimal with a trailing comma, and the length of that text.
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
            // The last number has no trailing comma.
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
