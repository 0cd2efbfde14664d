//! Splits one message into frames that share its payload.
//!
//! A [`Chunk`] is one frame: its header bytes, held inline, and a slice of the message's payload.
//! [`Chunks`] yields the frames of one message in order. The connection writes header and payload
//! with one vectored write, so the payload is never copied (invariant
//! `encode_once_share_the_bytes`).

use std::ops::{Deref, DerefMut};

use bytes::Bytes;

/// The bytes of a frame before its payload, held inline: at most [`HeaderBytes::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HeaderBytes {
    bytes: [u8; Self::MAX],
    len: u8,
}

impl HeaderBytes {
    /// Capacity in bytes; no protocol puts more before a payload.
    pub const MAX: usize = 15;

    /// Copies `bytes`. Returns `None` for more than [`HeaderBytes::MAX`] bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut header = Self::default();
        header.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        header.len = bytes.len() as u8;
        Some(header)
    }
}

impl Deref for HeaderBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl DerefMut for HeaderBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }
}

impl AsRef<[u8]> for HeaderBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// One encoded frame: header bytes, then a slice of the message's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The bytes to write first.
    pub header: HeaderBytes,
    /// The bytes to write next. Shares the message's payload.
    pub payload: Bytes,
    /// Whether this is the last chunk of its message.
    pub last: bool,
}

impl Chunk {
    /// Bytes of the frame, header included.
    pub fn wire_len(&self) -> usize {
        self.header.len() + self.payload.len()
    }
}

/// The header and the size limit of the chunks in one position: the first one, or any later one.
#[derive(Clone, Copy, Debug)]
pub struct ChunkTemplate {
    /// The header, with placeholders for what depends on the chunk's length and position.
    pub header: HeaderBytes,
    /// Most payload bytes in such a chunk. Zero counts as 1.
    pub max_payload: usize,
}

/// Fills the placeholders of a [`ChunkTemplate::header`]. Arguments: the header, the payload's
/// length in bytes, and whether the chunk is the last one.
pub type CompleteHeader = fn(HeaderBytes, usize, bool) -> HeaderBytes;

/// The chunks of one message, in order: at least one, and exactly the last one has [`Chunk::last`]
/// set.
///
/// # Cost
/// One reference count per chunk; no copy, no allocation.
#[derive(Clone, Debug)]
pub struct Chunks {
    next: ChunkTemplate,
    rest: ChunkTemplate,
    complete_header: CompleteHeader,
    /// What has not been handed out; `None` after the last chunk.
    payload: Option<Bytes>,
}

impl Chunks {
    /// The only chunk of a message, for a protocol without chunking.
    pub fn single(header: HeaderBytes, payload: Bytes) -> Self {
        let template = ChunkTemplate { header, max_payload: usize::MAX };
        Self {
            next: template,
            rest: template,
            complete_header: |header, _, _| header,
            payload: Some(payload),
        }
    }

    /// Splits `payload` into a first chunk and as many later ones as it takes.
    pub fn split(
        payload: Bytes,
        first: ChunkTemplate,
        rest: ChunkTemplate,
        complete_header: CompleteHeader,
    ) -> Self {
        Self { next: first, rest, complete_header, payload: Some(payload) }
    }
}

impl Iterator for Chunks {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let mut payload = self.payload.take()?;
        let ChunkTemplate { header, max_payload } = std::mem::replace(&mut self.next, self.rest);
        let last = payload.len() <= max_payload;
        if !last {
            // `max(1)`: an empty chunk would leave the payload as it is, and the iterator would
            // never end.
            let rest = payload.split_off(max_payload.max(1));
            self.payload = Some(rest);
        }
        Some(Chunk { header: (self.complete_header)(header, payload.len(), last), payload, last })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.payload {
            None => 0,
            Some(payload) => {
                let after_next = payload.len().saturating_sub(self.next.max_payload.max(1));
                1 + after_next.div_ceil(self.rest.max_payload.max(1))
            }
        };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Chunks {}

impl std::iter::FusedIterator for Chunks {}
