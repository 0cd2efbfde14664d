//! The payload of a partly received message, and how its memory grows.

use super::buffer_pool::BufferPool;

/// Buffers up to this size grow by copying: that takes no longer than a few chunks.
pub(super) const MAX_SHORT_BYTES: usize = 128 * 1024;
/// Short buffers are rounded up to this size.
const PAGE_BYTES: usize = 4096;
/// A long buffer copies this many times the bytes of each chunk to its successor. The last quarter
/// of its capacity, four times, is all of it, so the copy is complete when the buffer is full.
const COPIED_PER_CHUNK: usize = 4;
/// A pooled buffer may be this many times as large as needed. A block of megabytes then reaches the
/// memory of the previous block before its first megabyte has arrived; with half of this,
/// reassembling 10 MB takes twice as long.
const MAX_POOLED_RATIO: usize = 16;
/// A complete message of at most this size moves out of a buffer that is twice as large.
const MAX_SHRUNK_BYTES: usize = 1024 * 1024;

/// A buffer that grows with the received bytes, without a long pause.
///
/// - Up to [`MAX_SHORT_BYTES`] it doubles by copying.
/// - A long buffer must not copy megabytes at once: that would delay every frame behind it, votes
///   included. When it is three quarters full it allocates a successor of twice the size. From then
///   on every chunk also copies [`COPIED_PER_CHUNK`] times its own length of older bytes to the
///   successor. When the buffer is full, the successor has all bytes and replaces it. A message
///   that ends earlier stays where it is.
/// - A pooled long buffer is used if its size fits: its pages are already mapped. It has at most
///   half of the limit and at most [`MAX_POOLED_RATIO`] times the needed bytes.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    bytes: Vec<u8>,
    /// The successor; it holds a prefix of `bytes`.
    next: Vec<u8>,
    /// Whether `bytes` came from the pool, so that its unwritten capacity occupies memory too.
    pooled: bool,
    /// The same for `next`.
    next_pooled: bool,
}

impl Reassembly {
    /// Received bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory held: at most twice the received bytes, plus a page, plus the excess of
    /// pooled buffers.
    ///
    /// A short buffer counts with its capacity. A long one counts with its written bytes, since
    /// untouched capacity occupies no memory; a pooled one has been written before and counts with
    /// its capacity.
    pub(super) fn memory(&self) -> usize {
        let of = |buffer: &Vec<u8>, pooled: bool| if pooled { buffer.capacity() } else { buffer.len() };
        if self.is_long() {
            of(&self.bytes, self.pooled) + of(&self.next, self.next_pooled)
        } else {
            self.bytes.capacity()
        }
    }

    fn is_long(&self) -> bool {
        self.bytes.capacity() > MAX_SHORT_BYTES
    }

    /// Appends the payload of a chunk. `more` says that further chunks follow; `cap` is the largest
    /// message in bytes.
    pub(super) fn push(&mut self, chunk: &[u8], more: bool, cap: usize, pool: &BufferPool) {
        let need = self.bytes.len() + chunk.len();
        if need > self.bytes.capacity() {
            self.grow(need, more, cap, pool);
        }
        self.bytes.extend_from_slice(chunk);
        if more {
            self.fill_successor(chunk.len(), cap, pool);
        }
    }

    /// Makes room for `need` bytes: in the successor, in a pooled buffer, or in a new one.
    fn grow(&mut self, need: usize, more: bool, cap: usize, pool: &BufferPool) {
        if self.next.capacity() >= need {
            self.next.extend_from_slice(&self.bytes[self.next.len()..]);
            pool.recycle(std::mem::replace(&mut self.bytes, std::mem::take(&mut self.next)));
            self.pooled = std::mem::take(&mut self.next_pooled);
            return;
        }
        // The successor is too small.
        (self.next, self.next_pooled) = (Vec::new(), false);
        // Doubling pays for each byte about once. Never above the cap, nor above `need` for the
        // last chunk.
        let capacity = if more { need.max(grown_capacity(need, cap)) } else { need };
        let pooled = if capacity > MAX_SHORT_BYTES {
            pool.take_long(need, max_pooled_capacity(capacity, cap))
        } else {
            pool.take(need, capacity)
        };
        self.pooled = pooled.is_some();
        match pooled {
            Some(mut larger) => {
                larger.extend_from_slice(&self.bytes);
                pool.recycle(std::mem::replace(&mut self.bytes, larger));
            }
            None => self.bytes.reserve_exact(capacity - self.bytes.len()),
        }
    }

    /// Copies older bytes of a long buffer to its successor, which is allocated at three quarters
    /// of the capacity.
    fn fill_successor(&mut self, chunk_len: usize, cap: usize, pool: &BufferPool) {
        let capacity = self.bytes.capacity();
        if !self.is_long() || self.bytes.len() <= capacity / 4 * 3 || capacity >= cap {
            return;
        }
        if self.next.capacity() == 0 {
            let larger = grown_capacity(capacity, cap);
            let pooled = pool.take_long(larger, max_pooled_capacity(capacity, cap));
            self.next_pooled = pooled.is_some();
            self.next = pooled.unwrap_or_else(|| Vec::with_capacity(larger));
        }
        let start = self.next.len();
        let end = self.bytes.len().min(start + COPIED_PER_CHUNK * chunk_len);
        self.next.extend_from_slice(&self.bytes[start..end]);
    }

    /// The complete payload. It pins at most twice its bytes of memory: the unused capacity of a
    /// long buffer is untouched or smaller than the payload.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let len = self.bytes.len();
        let is_sparse = len < self.bytes.capacity() / 2;
        if len <= MAX_SHORT_BYTES || is_sparse && (self.pooled || len <= MAX_SHRUNK_BYTES) {
            self.bytes.shrink_to_fit();
        }
        self.bytes
    }
}

/// A capacity of about twice `need`, at most `cap`.
///
/// A short one is a multiple of a page, so that full chunks less their fields fit in pairs. A long
/// one is `cap` halved repeatedly, so that a buffer and its successor together never exceed `cap`,
/// and is at least 1.5 times `need` if `cap` allows.
fn grown_capacity(need: usize, cap: usize) -> usize {
    let double = need.saturating_mul(2);
    if double <= MAX_SHORT_BYTES {
        return double.next_multiple_of(PAGE_BYTES).min(cap);
    }
    let mut capacity = cap;
    while capacity / 2 >= need.saturating_add(need / 2) {
        capacity /= 2;
    }
    capacity
}

/// Largest pooled buffer for a message that needs `capacity` bytes. A pooled buffer counts in full,
/// so a small message in a block's buffer would be refused for memory that it does not need.
fn max_pooled_capacity(capacity: usize, cap: usize) -> usize {
    capacity.saturating_mul(MAX_POOLED_RATIO).min(cap / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_copies_more_than_a_few_chunks_and_memory_stays_within_twice_the_received_bytes() {
        let (cap, chunk) = (32 << 20, vec![7; 16 * 1024 - 5]);
        let (mut buffer, pool) = (Reassembly::default(), BufferPool::default());
        let mut received = 0;
        while received + chunk.len() <= cap {
            // What a step may still have to copy when a long buffer is full.
            let left = buffer.bytes.len() - buffer.next.len();
            if buffer.is_long() && buffer.bytes.capacity() < buffer.len() + chunk.len() {
                assert!(left <= COPIED_PER_CHUNK * chunk.len(), "{left} bytes at once");
            }
            buffer.push(&chunk, true, cap, &pool);
            received += chunk.len();
            assert!(
                (received..=2 * received + PAGE_BYTES).contains(&buffer.memory()) && buffer.memory() <= cap
            );
        }
        assert_eq!(buffer.finish(), chunk.repeat(received / chunk.len()));
    }

    #[test]
    fn the_memory_of_a_block_serves_the_next_one_and_small_messages_do_not_pin_it() {
        let (cap, pool) = (32 << 20, std::sync::Arc::new(BufferPool::default()));
        let buffer = |size: usize| {
            let (mut buffer, chunk) = (Reassembly::default(), vec![7; 16_000]);
            for left in (0..size / chunk.len()).rev() {
                buffer.push(&chunk, left > 0, cap, &pool);
            }
            buffer.finish()
        };
        let message = |size: usize| pool.share(buffer(size));
        drop(message(10_000_000));
        assert_eq!(buffer(1_200_000).capacity(), 1_200_000, "a smaller message pins its own bytes only");
        let place = message(10_000_000).as_ptr();
        for size in [11_000_000, 9_000_000, 10_000_000] {
            let next = message(size);
            assert_eq!((next.as_ptr(), next.len()), (place, size / 16_000 * 16_000));
        }
    }

    #[test]
    fn a_small_message_does_not_take_the_memory_of_a_block() {
        let (cap, pool) = (32 << 20, std::sync::Arc::new(BufferPool::default()));
        let chunk = vec![7; 16_000];
        drop(pool.share(vec![1; 16 << 20]));
        let mut buffer = Reassembly::default();
        while buffer.len() < 700_000 {
            buffer.push(&chunk, true, cap, &pool);
            assert!(
                buffer.memory() <= 2 * buffer.len() + PAGE_BYTES,
                "{} for {}",
                buffer.memory(),
                buffer.len()
            );
        }
        while buffer.len() < 2_000_000 {
            buffer.push(&chunk, true, cap, &pool);
        }
        assert!(buffer.pooled && buffer.memory() >= 16 << 20, "a large one does");
    }

    #[test]
    fn pooled_memory_counts_in_full() {
        let (cap, pool) = (32 << 20, std::sync::Arc::new(BufferPool::default()));
        let chunk = vec![7; 16_000];
        let filled = |chunks: usize, more: bool| {
            let mut buffer = Reassembly::default();
            (1..=chunks).for_each(|at| buffer.push(&chunk, more || at < chunks, cap, &pool));
            buffer
        };
        // Each leaves its memory to the next one, which stays partial.
        let open: Vec<Reassembly> = (0..4)
            .map(|_| {
                drop(pool.share(filled(750, false).finish()));
                filled(60, true)
            })
            .collect();
        for buffer in &open {
            assert!(buffer.pooled || buffer.next_pooled);
            let room = buffer.bytes.capacity() + buffer.next.capacity();
            assert!(buffer.memory() * 2 + PAGE_BYTES >= room, "{} of {room}", buffer.memory());
        }
        // A complete message pins at most twice its own bytes.
        drop(pool.share(filled(750, false).finish()));
        let little = filled(80, false).finish();
        assert!(little.capacity() <= 2 * little.len(), "{} of {}", little.len(), little.capacity());
    }

    #[test]
    fn a_pooled_buffer_of_an_odd_size_neither_exceeds_the_cap_nor_costs_a_copy() {
        for cap in [4 << 20, 32 << 20] {
            let pool = std::sync::Arc::new(BufferPool::default());
            let chunk = vec![7; 16 * 1024 - 5];
            drop(pool.share(vec![1; 261_000]));
            let mut buffer = Reassembly::default();
            buffer.push(&chunk[..13_024], true, cap, &pool);
            while buffer.len() + chunk.len() <= cap {
                let left = buffer.bytes.len() - buffer.next.len();
                if buffer.is_long() && buffer.bytes.capacity() < buffer.len() + chunk.len() {
                    assert!(
                        left <= COPIED_PER_CHUNK * chunk.len(),
                        "{left} bytes at once, {} are here",
                        buffer.len()
                    );
                }
                buffer.push(&chunk, true, cap, &pool);
                assert!(buffer.memory() <= cap, "{} of {cap}", buffer.memory());
            }
        }
    }

    #[test]
    fn a_cap_that_is_no_power_of_two_is_reached_and_not_exceeded() {
        for cap in [MAX_SHORT_BYTES + 1, 300_001, 1_000_003] {
            let (mut buffer, pool) = (Reassembly::default(), BufferPool::default());
            while buffer.len() < cap {
                let size = (cap - buffer.len()).min(10_007);
                buffer.push(&vec![1; size], buffer.len() + size < cap, cap, &pool);
                assert!(buffer.memory() <= cap, "{} of {cap}", buffer.memory());
            }
            assert_eq!(buffer.finish().capacity(), cap);
        }
    }
}
