//! Memory that messages were put together in, for the next ones.
//!
//! An allocator gives the memory of a freed message of tens of kilobytes back to the system, and the next one pays for each of
//! its pages again: that costs more than copying the bytes does.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::sync::Mutex;

/// Buffers that nobody uses: at most [`BUFFERS`] of at most [`LARGEST`] bytes, and one of at most [`LONGEST`].
#[derive(Default)]
pub(super) struct BufferPool {
    buffers: Mutex<Vec<Vec<u8>>>,
    long: Mutex<Vec<u8>>,
}

impl BufferPool {
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

    /// The long buffer, if it has room for at least `least` and at most `most` bytes.
    pub(super) fn take_long(&self, least: usize, most: usize) -> Option<Vec<u8>> {
        let mut long = self.long.lock();
        (least..=most).contains(&long.capacity()).then(|| std::mem::take(&mut *long))
    }

    /// Keeps a buffer that is no longer used, if it is worth it and there is a place.
    pub(super) fn put(&self, mut buffer: Vec<u8>) {
        if !is_worth(&buffer) {
            return;
        }
        buffer.clear();
        if buffer.capacity() > LARGEST {
            // The larger one stays. The lock is not held while the allocator works.
            let mut long = self.long.lock();
            if long.capacity() < buffer.capacity() {
                std::mem::swap(&mut *long, &mut buffer);
            }
            drop(long);
            return;
        }
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
    pub(super) fn share(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        if is_worth(&bytes) {
            Bytes::from_owner(PooledBuffer { bytes, home: Arc::clone(self) })
        } else {
            Bytes::from(bytes)
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool").field("buffers", &self.buffers.lock().len()).finish()
    }
}

fn is_worth(buffer: &Vec<u8>) -> bool {
    (SMALLEST..=LONGEST).contains(&buffer.capacity())
}

struct PooledBuffer {
    bytes: Vec<u8>,
    home: Arc<BufferPool>,
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.bytes));
    }
}

/// As many as answers are handed out together.
const BUFFERS: usize = 64;
/// Two of the largest chunks: a smaller one holds no message in chunks for long.
const SMALLEST: usize = 32 * 1024;
/// So all together hold at most 8 MiB, and 4 MiB where messages are of 64 KiB.
const LARGEST: usize = super::reassembly::SHORT;
/// A block of 10 MB that has grown by halves of a cap of 32 MiB.
const LONGEST: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_dropped_message_serves_the_next_that_it_fits() {
        let spares = Arc::new(BufferPool::default());
        let message = spares.share(vec![1; 64 * 1024]);
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
        let spares = BufferPool::default();
        spares.put(Vec::with_capacity(LONGEST + 1));
        spares.put(Vec::with_capacity(SMALLEST - 1));
        assert!(spares.take(0, usize::MAX).is_none() && spares.take_long(1, usize::MAX).is_none());
        for room in [1 << 20, 8 << 20, 4 << 20] {
            spares.put(Vec::with_capacity(room));
        }
        assert!(spares.take_long(1, (8 << 20) - 1).is_none(), "too large");
        assert_eq!(spares.take_long(1, usize::MAX).map(|long| long.capacity()), Some(8 << 20));
        assert!(spares.take_long(1, usize::MAX).is_none(), "one is kept");
        (0..2 * BUFFERS).for_each(|_| spares.put(Vec::with_capacity(SMALLEST)));
        assert_eq!(spares.buffers.lock().len(), BUFFERS);
    }
}
