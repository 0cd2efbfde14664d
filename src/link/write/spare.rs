//! A lane's batch, which an idle link does not have.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::link::log::Batch;

/// A batch that is there from its first use to [`SpareBatch::clear_idle`]; before and after, it reads as an empty one. It is
/// the thread's, so that a link that wakes for one message allocates nothing.
#[derive(Debug, Default)]
pub(super) struct SpareBatch(Option<Box<Batch>>);

impl SpareBatch {
    /// Forgets everything and keeps no memory.
    pub(super) fn clear_idle(&mut self) {
        let Some(mut batch) = self.0.take() else { return };
        batch.clear_idle();
        // A thread that is ending has no place for it any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(batch);
            }
        });
    }
}

impl Deref for SpareBatch {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        self.0.as_deref().unwrap_or(&EMPTY)
    }
}

impl DerefMut for SpareBatch {
    fn deref_mut(&mut self) -> &mut Batch {
        self.0.get_or_insert_with(|| {
            SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
        })
    }
}

static EMPTY: Batch = Batch::new();

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes go to and fro")]
    static SPARE: RefCell<Vec<Box<Batch>>> = const { RefCell::new(Vec::new()) };
}

/// As many as one link has lanes.
const SPARE_MAX: usize = 3;
