//! A hash table in lines of the cache: a look-up that is not in the cache waits for memory once, not twice.
//!
//! Tables that keep tags and entries apart fetch a line of each, one after the other. Here an entry brings its hash
//! along, four of them fill a line, and the line is where the hash says or, if that is full, the next.
//!
//! **Statement**: between the line that an entry's hash names and the line where it is, every line is full; so a look-up
//! ends at the first line with room. **Enforced by** [`Lines::add`], which takes the first line with room, and
//! [`Lines::take`], which closes the gap it leaves. There are no tombstones. **Breaks if** a line's entries are not its
//! first slots: room is asked of the last one.

use super::Hashed;

/// The table of one shard.
pub(super) struct Lines<E> {
    lines: Box<[Line<E>]>,
    len: usize,
}

/// Entries first, then room.
#[repr(align(64))]
struct Line<E>([Option<E>; A_LINE]);

/// Where an entry is. Holds until the table changes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    line: usize,
    slot: usize,
}

impl<E: Hashed> Lines<E> {
    pub(super) fn new() -> Self {
        Self { lines: Box::default(), len: 0 }
    }

    /// The first entry of this hash is compared outside the scan: there is one comparison to predict, not one for each
    /// slot, and the processor runs ahead to the next look-up while it waits for this one's memory.
    #[inline]
    pub(super) fn get(&self, hash: u32, is_it: impl Fn(&E) -> bool) -> Option<&E> {
        let mut at = self.home(hash);
        for _ in 0..self.lines.len() {
            let line = self.lines.get(at)?;
            if let Some(first) = line.0.iter().flatten().find(|entry| entry.hash() == hash) {
                return if is_it(first) { Some(first) } else { self.search(hash, is_it) };
            }
            if line.has_room() {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// [`Lines::get`] where two keys have the same hash.
    #[cold]
    fn search(&self, hash: u32, is_it: impl Fn(&E) -> bool) -> Option<&E> {
        let place = self.find(hash, is_it)?;
        self.at(place)
    }

    pub(super) fn get_mut(&mut self, hash: u32, is_it: impl Fn(&E) -> bool) -> Option<&mut E> {
        let place = self.find(hash, is_it)?;
        self.lines.get_mut(place.line)?.0.get_mut(place.slot)?.as_mut()
    }

    #[inline]
    pub(super) fn at(&self, place: Place) -> Option<&E> {
        self.lines.get(place.line)?.0.get(place.slot)?.as_ref()
    }

    #[inline]
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(&E) -> bool) -> Option<Place> {
        let mut at = self.home(hash);
        for _ in 0..self.lines.len() {
            let line = self.lines.get(at)?;
            for (slot, entry) in line.0.iter().enumerate() {
                if entry.as_ref().is_some_and(|entry| entry.hash() == hash && is_it(entry)) {
                    return Some(Place { line: at, slot });
                }
            }
            if line.has_room() {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Adds an entry whose key is not there.
    pub(super) fn add(&mut self, entry: E) {
        if self.len >= self.lines.len() * A_LINE / 8 * 7 {
            self.resize(self.lines.len() + self.lines.len() / 2 + FEWEST);
        }
        self.settle(entry);
        self.len += 1;
    }

    /// Takes an entry out, and closes the gap.
    pub(super) fn take(&mut self, place: Place) -> Option<E> {
        let mut gap = place.line;
        let was_full = !self.lines.get(gap)?.has_room();
        let taken = self.lines[gap].take(place.slot)?;
        self.len -= 1;
        let mut more = was_full;
        let mut at = gap;
        for _ in 1..self.lines.len() {
            if !more {
                break;
            }
            at = self.next(at);
            more = !self.lines[at].has_room();
            // Whoever was on its way past the gap, or to it, may move there.
            let late = |entry: &E| self.way(self.home(entry.hash()), at) >= self.way(gap, at);
            let slot = self.lines[at].0.iter().position(|entry| entry.as_ref().is_some_and(late));
            if let Some(moved) = slot.and_then(|slot| self.lines[at].take(slot)) {
                self.lines[gap].put(moved);
                gap = at;
            }
        }
        Some(taken)
    }

    /// Gives back memory if far less would do.
    pub(super) fn shrink(&mut self) {
        let enough = self.len / 3 + FEWEST;
        if self.lines.len() > enough * 2 {
            self.resize(enough);
        }
    }

    /// Cost: a walk over old and new lines in order; nothing behind an entry is looked at.
    fn resize(&mut self, lines: usize) {
        let lines = (0..lines).map(|_| Line([const { None }; A_LINE])).collect();
        let old = std::mem::replace(&mut self.lines, lines);
        old.into_iter().flat_map(|line| line.0).flatten().for_each(|entry| self.settle(entry));
    }

    /// Puts an entry in the first line with room on its way; there is one.
    fn settle(&mut self, entry: E) {
        let mut at = self.home(entry.hash());
        while !self.lines[at].has_room() {
            at = self.next(at);
        }
        self.lines[at].put(entry);
    }

    /// Where the way of this hash begins. By the high bits: the low ones chose the shard.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.lines.len() as u64) >> u32::BITS) as usize
    }

    #[inline]
    fn next(&self, line: usize) -> usize {
        if line + 1 == self.lines.len() { 0 } else { line + 1 }
    }

    /// How many steps from one line to another.
    fn way(&self, from: usize, to: usize) -> usize {
        if from <= to { to - from } else { to + self.lines.len() - from }
    }
}

impl<E> Line<E> {
    #[inline]
    fn has_room(&self) -> bool {
        self.0[A_LINE - 1].is_none()
    }

    /// Into a line with room.
    fn put(&mut self, entry: E) {
        if let Some(slot) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(entry);
        }
    }

    /// Takes one out; the last one moves into its slot.
    fn take(&mut self, slot: usize) -> Option<E> {
        let last = self.0.iter().rposition(Option::is_some)?;
        self.0.swap(slot, last);
        self.0[last].take()
    }
}

/// Entries of 16 bytes, of which a line of the cache holds four.
const A_LINE: usize = 4;
/// What an empty table grows to.
const FEWEST: usize = 4;

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use std::collections::HashMap;

    struct Numbered(u32, u64);

    impl Hashed for Numbered {
        fn hash(&self) -> u32 {
            self.0
        }
    }

    /// Every entry can be found, and every line on its way is full.
    fn check(lines: &Lines<Numbered>, all: &HashMap<u64, u32>) {
        assert_eq!(lines.len, all.len());
        assert_eq!(lines.lines.iter().flat_map(|line| line.0.iter().flatten()).count(), all.len());
        for (number, hash) in all {
            assert!(lines.get(*hash, |entry| entry.1 == *number).is_some(), "{number}");
        }
        for line in &lines.lines {
            let used = line.0.iter().take_while(|slot| slot.is_some()).count();
            assert!(line.0[used..].iter().all(Option::is_none));
        }
    }

    #[test]
    fn it_holds_what_a_plain_map_holds() {
        // Few hashes: long ways, whole lines of one hash, and ways around the end.
        for (few, shift) in [(5, 0), (40, 26), (u32::MAX, 0)] {
            let mut random = numbers(u64::from(few) + 1);
            let (mut lines, mut all) = (Lines::new(), HashMap::new());
            for step in 0..4_000_u64 {
                let number = random() % 300;
                let hash = ((number as u32).wrapping_mul(0x9E37_79B1) % few) << shift | (few << 31);
                let found = lines.find(hash, |entry: &Numbered| entry.1 == number);
                assert_eq!(found.is_some(), all.contains_key(&number));
                let leaving = step / 1_000 % 2 == 1;
                match found {
                    Some(place) if leaving || random().is_multiple_of(4) => {
                        assert_eq!(lines.take(place).map(|entry| entry.1), Some(number));
                        all.remove(&number);
                    }
                    None if !leaving || random().is_multiple_of(4) => {
                        lines.add(Numbered(hash, number));
                        all.insert(number, hash);
                    }
                    _ => {}
                }
                if step % 500 == 499 {
                    lines.shrink();
                }
                check(&lines, &all);
            }
        }
    }

    #[test]
    fn it_gives_memory_back() {
        let mut lines = Lines::new();
        let hash = |number: u64| (number as u32).wrapping_mul(0x9E37_79B1);
        (0..10_000).for_each(|number| lines.add(Numbered(hash(number), number)));
        let full = lines.lines.len();
        for number in 0..9_990 {
            let place = lines.find(hash(number), |entry| entry.1 == number);
            assert!(place.and_then(|place| lines.take(place)).is_some());
        }
        assert_eq!(lines.lines.len(), full);
        lines.shrink();
        assert!(lines.lines.len() < 20);
        assert!((9_990..10_000).all(|number| lines.get(hash(number), |entry| entry.1 == number).is_some()));
    }

    fn numbers(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }
}
