//! Reuses the memory of reassembled messages for later ones.
//!
//! An allocator returns the memory of a freed message of tens of kilobytes to the system. The next
//! message then pays for each page again, which costs more than copying the bytes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::sync::Mutex;

use super::reassembly::MAX_SHORT_BYTES;

/// Most pooled buffers: as many as the answers that are handed out together.
const MAX_BUFFERS: usize = 64;
/// Smallest pooled buffer: two of the largest chunks. No chunked message fits less for long.
const MIN_BUFFER_BYTES: usize = 32 * 1024;
/// Largest of the [`MAX_BUFFERS`] buffers. Together they hold at most 8 MiB, and 4 MiB if messages
/// have 64 KiB.
const MAX_BUFFER_BYTES: usize = MAX_SHORT_BYTES;
/// Largest long buffer: a 10 MB block that has grown by halves of a limit of 32 MiB.
const MAX_LONG_BUFFER_BYTES: usize = 16 << 20;

/// Unused buffers: at most [`MAX_BUFFERS`] of at most [`MAX_BUFFER_BYTES`], and one of at most
/// [`MAX_LONG_BUFFER_BYTES`].
#[derive(Default)]
pub(super) struct BufferPool {
    buffers: Mutex<Vec<Vec<u8>>>,
    long: Mutex<Vec<u8>>,
}

impl BufferPool {
    /// The smallest empty buffer with a capacity of `min` to `max` bytes.
    pub(super) fn take(&self, min: usize, max: usize) -> Option<Vec<u8>> {
        if min > MAX_BUFFER_BYTES {
            return None;
        }
        let mut buffers = self.buffers.lock();
        let fitting =
            buffers.iter().enumerate().filter(|(_, buffer)| (min..=max).contains(&buffer.capacity()));
        let index = fitting.min_by_key(|(_, buffer)| buffer.capacity())?.0;
        Some(buffers.swap_remove(index))
    }

    /// The long buffer, if its capacity is `min` to `max` bytes.
    pub(super) fn take_long(&self, min: usize, max: usize) -> Option<Vec<u8>> {
        let mut long = self.long.lock();
        (min..=max).contains(&long.capacity()).then(|| std::mem::take(&mut *long))
    }

    /// Returns an unused buffer to the pool. Frees it if its size is out of range or the pool is
    /// full.
    pub(super) fn recycle(&self, mut buffer: Vec<u8>) {
        if !is_poolable(&buffer) {
            return;
        }
        buffer.clear();
        if buffer.capacity() > MAX_BUFFER_BYTES {
            // The larger of the two stays. The lock is released before the other one is freed.
            let mut long = self.long.lock();
            if long.capacity() < buffer.capacity() {
                std::mem::swap(&mut *long, &mut buffer);
            }
            drop(long);
            return;
        }
        let mut buffers = self.buffers.lock();
        if buffers.len() < MAX_BUFFERS {
            buffers.push(buffer);
            return;
        }
        // The lock is released before the buffer is freed.
        drop(buffers);
        drop(buffer);
    }

    /// A complete message. Its memory returns to the pool when the last clone is dropped.
    pub(super) fn share(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        if is_poolable(&bytes) {
            Bytes::from_owner(PooledBuffer { bytes, pool: Arc::clone(self) })
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

fn is_poolable(buffer: &Vec<u8>) -> bool {
    (MIN_BUFFER_BYTES..=MAX_LONG_BUFFER_BYTES).contains(&buffer.capacity())
}

/// A message's memory. Dropping it returns the memory to the pool.
struct PooledBuffer {
    bytes: Vec<u8>,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.pool.recycle(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_dropped_message_serves_the_next_one_that_fits() {
        let pool = Arc::new(BufferPool::default());
        let message = pool.share(vec![1; 64 * 1024]);
        let (address, slice) = (message.as_ptr(), message.slice(5..10));
        drop(message);
        assert!(pool.take(1, usize::MAX).is_none(), "a slice is still alive");
        drop(slice);
        assert!(pool.take(64 * 1024 + 1, usize::MAX).is_none(), "too small");
        assert!(pool.take(1, 64 * 1024 - 1).is_none(), "too large");
        let again = pool.take(40_000, 80_000).expect("it fits");
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
        assert!(pool.take(40_000, 80_000).is_none(), "there was one");
    }

    #[test]
    fn the_pool_is_bounded() {
        let pool = BufferPool::default();
        pool.recycle(Vec::with_capacity(MAX_LONG_BUFFER_BYTES + 1));
        pool.recycle(Vec::with_capacity(MIN_BUFFER_BYTES - 1));
        assert!(pool.take(0, usize::MAX).is_none() && pool.take_long(1, usize::MAX).is_none());
        for room in [1 << 20, 8 << 20, 4 << 20] {
            pool.recycle(Vec::with_capacity(room));
        }
        assert!(pool.take_long(1, (8 << 20) - 1).is_none(), "too large");
        assert_eq!(pool.take_long(1, usize::MAX).map(|long| long.capacity()), Some(8 << 20));
        assert!(pool.take_long(1, usize::MAX).is_none(), "one is kept");
        (0..2 * MAX_BUFFERS).for_each(|_| pool.recycle(Vec::with_capacity(MIN_BUFFER_BYTES)));
        assert_eq!(pool.buffers.lock().len(), MAX_BUFFERS);
    }
}
