//! The payload of a message that has begun and not ended.

use super::buffer_pool::BufferPool;

/// Bytes that grow with what comes, and never by a step that others would feel.
///
/// Up to [`SHORT`] bytes it doubles by copying, which is over in no time. Copying megabytes would hold up all that follows on the
/// line, votes among it. So a large one that is three quarters full begins its successor, of twice the size, and each chunk that
/// comes takes four chunks' worth of older bytes over; when it is full the successor has them all. A message that ends before is
/// where it is. Where the memory of an earlier large message is at hand, of half of the cap at the most and not far more than it
/// needs, it goes on in that: it has its pages.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    bytes: Vec<u8>,
    /// The front of `bytes`, in the memory that comes next.
    next: Vec<u8>,
    /// Whether they had an earlier message, so that the room behind their bytes takes memory too.
    used: bool,
    next_used: bool,
}

impl Reassembly {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Memory held: the room of a short one; of a longer one the bytes that were written, since the room behind them has not
    /// been touched and takes no memory yet, and all of what had an earlier message. At most twice what came, and a page, and what
    /// earlier messages left.
    pub(super) fn memory(&self) -> usize {
        let of = |bytes: &Vec<u8>, used: bool| if used { bytes.capacity() } else { bytes.len() };
        if self.is_long() {
            of(&self.bytes, self.used) + of(&self.next, self.next_used)
        } else {
            self.bytes.capacity()
        }
    }

    fn is_long(&self) -> bool {
        self.bytes.capacity() > SHORT
    }

    /// Adds what a chunk brought, `more` to come; `cap` is the most that a message may be.
    pub(super) fn push(&mut self, chunk: &[u8], more: bool, cap: usize, spares: &BufferPool) {
        let need = self.bytes.len() + chunk.len();
        if need > self.bytes.capacity() {
            self.grow(need, more, cap, spares);
        }
        self.bytes.extend_from_slice(chunk);
        if more {
            self.prepare(chunk.len(), cap, spares);
        }
    }

    fn grow(&mut self, need: usize, more: bool, cap: usize, spares: &BufferPool) {
        if self.next.capacity() >= need {
            self.next.extend_from_slice(&self.bytes[self.next.len()..]);
            spares.put(std::mem::replace(&mut self.bytes, std::mem::take(&mut self.next)));
            self.used = std::mem::take(&mut self.next_used);
            return;
        }
        // One that is too small serves nobody.
        (self.next, self.next_used) = (Vec::new(), false);
        // Room for as much again pays for each byte about once. Never above the cap, nor, at the end, above what is needed.
        let room = if more { need.max(roomy(need, cap)) } else { need };
        let spare =
            if room > SHORT { spares.take_long(need, most_used(room, cap)) } else { spares.take(need, room) };
        self.used = spare.is_some();
        match spare {
            Some(mut larger) => {
                larger.extend_from_slice(&self.bytes);
                spares.put(std::mem::replace(&mut self.bytes, larger));
            }
            None => self.bytes.reserve_exact(room - self.bytes.len()),
        }
    }

    /// Takes the successor of a large body further.
    fn prepare(&mut self, came: usize, cap: usize, spares: &BufferPool) {
        let room = self.bytes.capacity();
        if !self.is_long() || self.bytes.len() <= room / 4 * 3 || room >= cap {
            return;
        }
        if self.next.capacity() == 0 {
            let larger = roomy(room, cap);
            let spare = spares.take_long(larger, most_used(room, cap));
            self.next_used = spare.is_some();
            self.next = spare.unwrap_or_else(|| Vec::with_capacity(larger));
        }
        let begin = self.next.len();
        let end = self.bytes.len().min(begin + TAKEN_OVER * came);
        self.next.extend_from_slice(&self.bytes[begin..end]);
    }

    /// The whole payload. Whoever keeps it pins no more memory than twice its bytes: the room behind those of a long one has not been
    /// touched, or is less than they are.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let len = self.bytes.len();
        if len <= SHORT || len < self.bytes.capacity() / 2 && (self.used || len <= LITTLE) {
            self.bytes.shrink_to_fit();
        }
        self.bytes
    }
}

/// Room for about twice so much. A short one in whole pages, so that full chunks less their fields fit in twos; a long one in
/// halves of the cap, so that it and its successor are never more than the cap, and with room for half as much at least.
fn roomy(need: usize, cap: usize) -> usize {
    let double = need.saturating_mul(2);
    if double <= SHORT {
        return double.next_multiple_of(PAGE).min(cap);
    }
    let mut room = cap;
    while room / 2 >= need.saturating_add(need / 2) {
        room /= 2;
    }
    room
}

/// The most memory of an earlier message that one of this room goes on in. It counts in full: a small message in that of a block would
/// be refused for lack of memory that it does not need.
fn most_used(room: usize, cap: usize) -> usize {
    room.saturating_mul(USED).min(cap / 2)
}

/// What the size of a short one is rounded up to.
const PAGE: usize = 4096;
/// Up to so many bytes a copy takes no longer than a few chunks.
pub(super) const SHORT: usize = 128 * 1024;
/// Chunks taken over with each that comes: what is behind three quarters of the memory, four times, is all of it.
const TAKEN_OVER: usize = 4;
/// So a block of megabytes reaches the memory of the last one when less than one has come; with half of this, putting 10 MB together
/// takes twice as long.
const USED: usize = 16;
/// A message of so little in memory twice as large moves to its own.
const LITTLE: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_copies_more_than_a_few_chunks_and_no_room_goes_beyond_twice_what_came() {
        let (cap, chunk) = (32 << 20, vec![7; 16 * 1024 - 5]);
        let (mut body, spares) = (Reassembly::default(), BufferPool::default());
        let mut came = 0;
        while came + chunk.len() <= cap {
            // What a step may still have to take over from a large body that is full.
            let left = body.bytes.len() - body.next.len();
            if body.is_long() && body.bytes.capacity() < body.len() + chunk.len() {
                assert!(left <= TAKEN_OVER * chunk.len(), "{left} bytes at once");
            }
            body.push(&chunk, true, cap, &spares);
            came += chunk.len();
            assert!((came..=2 * came + PAGE).contains(&body.memory()) && body.memory() <= cap);
        }
        assert_eq!(body.finish(), chunk.repeat(came / chunk.len()));
    }

    #[test]
    fn the_memory_of_a_block_serves_the_next_one_and_small_messages_do_not_pin_it() {
        let (cap, spares) = (32 << 20, std::sync::Arc::new(BufferPool::default()));
        let body = |size: usize| {
            let (mut body, chunk) = (Reassembly::default(), vec![7; 16_000]);
            for left in (0..size / chunk.len()).rev() {
                body.push(&chunk, left > 0, cap, &spares);
            }
            body.finish()
        };
        let message = |size: usize| spares.share(body(size));
        drop(message(10_000_000));
        assert_eq!(body(1_200_000).capacity(), 1_200_000, "a message of a fraction pins its own bytes only");
        let place = message(10_000_000).as_ptr();
        for size in [11_000_000, 9_000_000, 10_000_000] {
            let next = message(size);
            assert_eq!((next.as_ptr(), next.len()), (place, size / 16_000 * 16_000));
        }
    }

    #[test]
    fn a_small_message_does_not_go_on_in_the_memory_of_a_block() {
        let (cap, spares) = (32 << 20, std::sync::Arc::new(BufferPool::default()));
        let chunk = vec![7; 16_000];
        drop(spares.share(vec![1; 16 << 20]));
        let mut body = Reassembly::default();
        while body.len() < 700_000 {
            body.push(&chunk, true, cap, &spares);
            assert!(body.memory() <= 2 * body.len() + PAGE, "{} for {}", body.memory(), body.len());
        }
        while body.len() < 2_000_000 {
            body.push(&chunk, true, cap, &spares);
        }
        assert!(body.used && body.memory() >= 16 << 20, "a large one does");
    }

    #[test]
    fn memory_that_earlier_messages_left_counts_in_full() {
        let (cap, spares) = (32 << 20, std::sync::Arc::new(BufferPool::default()));
        let chunk = vec![7; 16_000];
        let filled = |chunks: usize, more: bool| {
            let mut body = Reassembly::default();
            (1..=chunks).for_each(|at| body.push(&chunk, more || at < chunks, cap, &spares));
            body
        };
        // Each leaves its memory to the next one, which stays open.
        let open: Vec<Reassembly> = (0..4)
            .map(|_| {
                drop(spares.share(filled(750, false).finish()));
                filled(60, true)
            })
            .collect();
        for body in &open {
            assert!(body.used || body.next_used);
            let room = body.bytes.capacity() + body.next.capacity();
            assert!(body.memory() * 2 + PAGE >= room, "{} of {room}", body.memory());
        }
        // One that is complete pins no more than twice itself.
        drop(spares.share(filled(750, false).finish()));
        let little = filled(80, false).finish();
        assert!(little.capacity() <= 2 * little.len(), "{} of {}", little.len(), little.capacity());
    }

    #[test]
    fn a_spare_of_an_odd_size_neither_passes_the_cap_nor_costs_a_copy() {
        for cap in [4 << 20, 32 << 20] {
            let spares = std::sync::Arc::new(BufferPool::default());
            let chunk = vec![7; 16 * 1024 - 5];
            drop(spares.share(vec![1; 261_000]));
            let mut body = Reassembly::default();
            body.push(&chunk[..13_024], true, cap, &spares);
            while body.len() + chunk.len() <= cap {
                let left = body.bytes.len() - body.next.len();
                if body.is_long() && body.bytes.capacity() < body.len() + chunk.len() {
                    assert!(
                        left <= TAKEN_OVER * chunk.len(),
                        "{left} bytes at once, {} are here",
                        body.len()
                    );
                }
                body.push(&chunk, true, cap, &spares);
                assert!(body.memory() <= cap, "{} of {cap}", body.memory());
            }
        }
    }

    #[test]
    fn a_cap_that_is_no_power_of_two_is_reached_and_not_passed() {
        for cap in [SHORT + 1, 300_001, 1_000_003] {
            let (mut body, spares) = (Reassembly::default(), BufferPool::default());
            while body.len() < cap {
                let size = (cap - body.len()).min(10_007);
                body.push(&vec![1; size], body.len() + size < cap, cap, &spares);
                assert!(body.memory() <= cap, "{} of {cap}", body.memory());
            }
            assert_eq!(body.finish().capacity(), cap);
        }
    }
}
