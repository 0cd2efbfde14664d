//! A message as chunks that share its payload.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;

/// The bytes of a frame before its payload, held inline: at most [`HeadBytes::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HeadBytes {
    bytes: [u8; Self::MAX],
    len: u8,
}

impl HeadBytes {
    /// Most bytes before a payload, in any dialect.
    pub const MAX: usize = 15;

    /// These bytes; `None` if there are more than [`HeadBytes::MAX`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut head = Self::default();
        head.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        head.len = bytes.len() as u8;
        Some(head)
    }
}

impl Deref for HeadBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl DerefMut for HeadBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }
}

impl AsRef<[u8]> for HeadBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// One frame: its head, and a slice of the message's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// What goes on the line first.
    pub head: HeadBytes,
    /// What follows it; shares the message's payload.
    pub body: Bytes,
    /// Whether it ends its message.
    pub last: bool,
}

impl Chunk {
    /// Bytes on the line.
    pub fn wire_len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// How the chunks at one place of a message begin, and what fits them.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The head, but for what depends on the chunk's length and place.
    pub head: HeadBytes,
    /// Most payload bytes in such a chunk; at least 1.
    pub room: usize,
}

/// The chunks of one message, in order; at least one, the last one marked.
///
/// # Cost
/// One reference count a chunk; no copy, no allocation.
#[derive(Clone, Debug)]
pub struct Chunks {
    next: Opening,
    rest: Opening,
    seal: fn(HeadBytes, usize, bool) -> HeadBytes,
    // `None` once the last chunk has been handed out.
    body: Option<Bytes>,
}

impl Chunks {
    /// The one chunk of a message in a dialect without chunking.
    pub fn single(head: HeadBytes, body: Bytes) -> Self {
        let opening = Opening { head, room: usize::MAX };
        Self { next: opening, rest: opening, seal: |head, _, _| head, body: Some(body) }
    }

    /// Splits `body` into a first chunk and as many more as it takes. `seal(head, body_len, last)` completes each head.
    pub fn split(
        body: Bytes,
        first: Opening,
        rest: Opening,
        seal: fn(HeadBytes, usize, bool) -> HeadBytes,
    ) -> Self {
        Self { next: first, rest, seal, body: Some(body) }
    }
}

impl Iterator for Chunks {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let mut body = self.body.take()?;
        let Opening { head, room } = std::mem::replace(&mut self.next, self.rest);
        let last = body.len() <= room;
        if !last {
            // A room of zero would never end.
            let rest = body.split_off(room.max(1));
            self.body = Some(rest);
        }
        Some(Chunk { head: (self.seal)(head, body.len(), last), body, last })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.body {
            None => 0,
            Some(body) => {
                1 + body.len().saturating_sub(self.next.room.max(1)).div_ceil(self.rest.room.max(1))
            }
        };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Chunks {}

impl std::iter::FusedIterator for Chunks {}
