//! A cache of [`WriteState`]s, one a thread.
//!
//! A connection takes a state when it wakes to write and gives it back when nothing is left. So a
//! wake-up for one message allocates nothing, and the memory is still in the processor's cache.

use std::cell::RefCell;

use super::write_state::WriteState;

/// States that a thread keeps. One connection writes at a time; a few more states are filled before
/// their connection is polled.
const MAX_CACHED_STATES: usize = 2;

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes are handed out and taken back")]
    static CACHE: RefCell<Vec<Box<WriteState>>> = const { RefCell::new(Vec::new()) };
}

/// A state from the cache, or a new one.
pub(super) fn take() -> Box<WriteState> {
    CACHE.try_with(|cache| cache.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

/// Takes back a state with nothing left to write. Its memory to gather in is kept, everything else
/// is reset.
pub(super) fn put(mut state: Box<WriteState>) {
    state.reset();
    // A thread that is ending has no cache any more.
    let _ = CACHE.try_with(|cache| {
        let mut cache = cache.borrow_mut();
        if cache.len() < MAX_CACHED_STATES {
            cache.push(state);
        }
    });
}
