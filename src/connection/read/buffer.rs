//! The read buffer of a thread.

use std::cell::Cell;

/// Bytes of a thread's buffer. It fits half a batch of the sender; a larger one falls out of the
/// second-level cache.
pub(super) const READ_BUFFER_BYTES: usize = 128 * 1024;

thread_local! {
    static CACHE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The thread's read buffer, borrowed for one pass of a reader. A nested pass gets a buffer of its
/// own.
pub(super) struct ReadBuffer {
    pub(super) bytes: Vec<u8>,
}

impl ReadBuffer {
    /// Borrows the buffer and puts `unparsed` in front. Behind it, or behind the longest piece that
    /// the decoder leaves (`window`), there is room for a read: a read into no room looks like the
    /// end of the stream.
    pub(super) fn with(unparsed: &[u8], window: usize) -> Self {
        let mut bytes = CACHE.take();
        let min_len = unparsed.len().max(window).saturating_add(READ_BUFFER_BYTES / 2).max(READ_BUFFER_BYTES);
        if min_len > bytes.len() {
            bytes.resize(min_len, 0);
        }
        bytes[..unparsed.len()].copy_from_slice(unparsed);
        Self { bytes }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(READ_BUFFER_BYTES);
        bytes.shrink_to(READ_BUFFER_BYTES);
        // A thread that is ending has no cache any more.
        let _ = CACHE.try_with(|cache| cache.set(bytes));
    }
}
