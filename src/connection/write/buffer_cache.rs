//! What a writer needs while it writes, and gives back when it sleeps: a connection that wakes for one message allocates nothing, and
//! finds memory that is still in the cache.

use std::cell::RefCell;

use super::WriteState;

/// The thread's, or a new one.
pub(super) fn take() -> Box<WriteState> {
    SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

/// Of one that has nothing left to write. Forgets everything but the memory to gather in.
pub(super) fn put(mut busy: Box<WriteState>) {
    for lane in &mut busy.lanes {
        lane.batch.clear();
        (lane.pinned, lane.opened, lane.logs_turn, lane.served) = (0, 0, false, 0);
    }
    (busy.own, busy.held, busy.written) = (0, None, 0);
    busy.flight.reset();
    // Nothing is in it, but it may refer to what was written.
    busy.control = bytes::BytesMut::new();
    // A thread that is ending has no place for it any more.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(busy);
        }
    });
}

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes go to and fro")]
    static SPARE: RefCell<Vec<Box<WriteState>>> = const { RefCell::new(Vec::new()) };
}

/// One connection writes at a time; a few more are filled before their connection is polled.
const SPARE_MAX: usize = 2;
