//! Requests of the peer that are being handled.

use smallvec::SmallVec;

use super::Link;

/// Requests of the peer that are being handled and not answered yet.
#[derive(Debug, Default)]
pub(super) struct Answering {
    pub(super) ids: SmallVec<[u32; 4]>,
}

/// What became of a request of the peer that wanted to be handled.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::link) enum Begun {
    /// It counts as being handled.
    Now,
    /// Another one of its id is being handled.
    Twice,
    /// As many as may be are being handled.
    TooMany,
}

/// Requests of the peer.
impl Link {
    /// Notes a request that is about to be handled, unless `most` are already, or one of its id is.
    pub(in crate::link) fn begin_answer(&self, id: u32, most: usize) -> Begun {
        let mut rare = self.rare.lock();
        let answering = &mut rare.answering;
        if answering.ids.contains(&id) {
            return Begun::Twice;
        }
        if answering.ids.len() >= most {
            return Begun::TooMany;
        }
        answering.ids.push(id);
        Begun::Now
    }

    /// `true` for exactly one of: the answer, the cancel.
    pub(in crate::link) fn end_answer(&self, id: u32) -> bool {
        let mut rare = self.rare.lock();
        let answering = &mut rare.answering;
        let Some(at) = answering.ids.iter().position(|open| *open == id) else { return false };
        answering.ids.swap_remove(at);
        if answering.ids.is_empty() && answering.ids.spilled() {
            // An idle link holds no buffers.
            answering.ids = SmallVec::new();
        }
        true
    }

    pub(in crate::link) fn is_answering(&self, id: u32) -> bool {
        self.rare.look(|rare| rare.answering.ids.contains(&id)) == Some(true)
    }
}
