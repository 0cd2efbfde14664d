//! Memory that messages were put together in, for the next ones.
//!
//! An allocator gives the memory of a freed message of tens of kilobytes back to the system, and the next one pays for each of
//! its pages again: that costs more than copying the bytes does.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::sync::Mutex;

/// Buffers that nobody uses: at most [`BUFFERS`] of at most [`LARGEST`] bytes.
#[derive(Default)]
pub(super) struct Spares {
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl Spares {
    /// The smallest empty buffer with room for at least `least` and at most `most` bytes.
    pub(super) fn take(&self, least: usize, most: usize) -> Option<Vec<u8>> {
        if least > LARGEST {
            return None;
        }
        let mut buffers = self.buffers.lock();
        let fitting = buffers.iter().enumerate().filter(|(_, one)| (least..=most).contains(&one.capacity()));
        let at = fitting.min_by_key(|(_, one)| one.capacity())?.0;
        Some(buffers.swap_remove(at))
    }

    /// Keeps a buffer that is no longer used, if it is worth it and there is a place.
    pub(super) fn put(&self, mut buffer: Vec<u8>) {
        if !(SMALLEST..=LARGEST).contains(&buffer.capacity()) {
            return;
        }
        buffer.clear();
        let mut buffers = self.buffers.lock();
        if buffers.len() < BUFFERS {
            buffers.push(buffer);
            return;
        }
        // The lock is not held while the allocator works.
        drop(buffers);
        drop(buffer);
    }

    /// A complete message, whose memory comes back here when nobody keeps it any more.
    pub(super) fn lend(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        if (SMALLEST..=LARGEST).contains(&bytes.capacity()) {
            Bytes::from_owner(Lent { bytes, home: Arc::clone(self) })
        } else {
            Bytes::from(bytes)
        }
    }
}

impl fmt::Debug for Spares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spares").field("buffers", &self.buffers.lock().len()).finish()
    }
}

struct Lent {
    bytes: Vec<u8>,
    home: Arc<Spares>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.bytes));
    }
}

/// As many as answers are handed out together.
const BUFFERS: usize = 64;
/// Two of the largest chunks: a smaller one holds no message in chunks for long.
const SMALLEST: usize = 32 * 1024;
/// So all together hold at most 8 MiB, and 4 MiB where messages are of 64 KiB.
const LARGEST: usize = super::body::SHORT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_dropped_message_serves_the_next_that_it_fits() {
        let spares = Arc::new(Spares::default());
        let message = spares.lend(vec![1; 64 * 1024]);
        let (place, kept) = (message.as_ptr(), message.slice(5..10));
        drop(message);
        assert!(spares.take(1, usize::MAX).is_none(), "somebody still keeps a part");
        drop(kept);
        assert!(spares.take(64 * 1024 + 1, usize::MAX).is_none(), "too small");
        assert!(spares.take(1, 64 * 1024 - 1).is_none(), "too large");
        let again = spares.take(40_000, 80_000).expect("it fits");
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert!(spares.take(40_000, 80_000).is_none(), "there was one");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let spares = Spares::default();
        spares.put(Vec::with_capacity(LARGEST + 1));
        spares.put(Vec::with_capacity(SMALLEST - 1));
        assert!(spares.take(0, usize::MAX).is_none());
        (0..2 * BUFFERS).for_each(|_| spares.put(Vec::with_capacity(SMALLEST)));
        assert_eq!(spares.buffers.lock().len(), BUFFERS);
    }
}
