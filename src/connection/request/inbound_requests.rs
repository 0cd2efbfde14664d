//! Requests of the peer that are being handled.

use smallvec::SmallVec;

use crate::connection::handle::Connection;

/// Requests of the peer that are being handled and not answered yet.
///
/// Invariant 26. Statement: an answer goes to the request it answers, and a peer has no more requests in our hands than the bound,
/// whatever it cancels. Enforced by: each has a number of its own, since the peer may use an id again once it has cancelled; one that
/// was cancelled counts until its responder is gone. Breaks if: a cancel frees the place, or the numbers start over while a handler
/// is known by one.
#[derive(Debug, Default)]
pub(in crate::connection) struct Answering {
    pub(in crate::connection) all: SmallVec<[Entry; 4]>,
    /// The number of the last one. Starts over with [`Connection::forget`] only.
    last: u32,
}

/// One that is being handled.
#[derive(Debug)]
pub(in crate::connection) struct Entry {
    id: u32,
    number: u32,
    cancelled: bool,
}

/// What became of a request of the peer that wanted to be handled.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::connection) enum Begun {
    /// It counts as being handled, under this number.
    Now(u32),
    /// Another one of its id is being handled.
    Twice,
    /// As many as may be are being handled.
    TooMany,
}

/// Requests of the peer.
impl Connection {
    /// Notes a request that is about to be handled, unless `most` are already, or one of its id is.
    pub(in crate::connection) fn begin_answer(&self, id: u32, most: usize) -> Begun {
        let mut rare = self.rare.lock();
        let answering = &mut rare.answering;
        if answering.all.iter().any(|one| one.is(id)) {
            return Begun::Twice;
        }
        if answering.all.len() >= most {
            return Begun::TooMany;
        }
        answering.last = answering.last.wrapping_add(1);
        let number = answering.last;
        answering.all.push(Entry { id, number, cancelled: false });
        Begun::Now(number)
    }

    /// Its responder answers, or goes. `true` if the peer still wants the answer. Called once.
    pub(in crate::connection) fn end_answer(&self, number: u32) -> bool {
        let wanted = {
            let mut rare = self.rare.lock();
            let answering = &mut rare.answering;
            let Some(at) = answering.all.iter().position(|one| one.number == number) else { return false };
            let wanted = !answering.all.swap_remove(at).cancelled;
            if answering.all.is_empty() && answering.all.spilled() {
                // An idle connection holds no buffers.
                answering.all = SmallVec::new();
            }
            wanted
        };
        if !wanted {
            // Nothing is queued for it that would tell the task of the place.
            self.calls.call();
        }
        wanted
    }

    /// The peer no longer wants this answer; the number of the request, if it is being handled.
    pub(in crate::connection) fn cancel_answer(&self, id: u32) -> Option<u32> {
        let mut rare = self.rare.lock();
        let one = rare.answering.all.iter_mut().find(|one| one.is(id))?;
        one.cancelled = true;
        Some(one.number)
    }

    /// Whether the peer waits for an answer to a request of this id.
    pub(in crate::connection) fn is_answering(&self, id: u32) -> bool {
        self.rare.look(|rare| rare.answering.all.iter().any(|one| one.is(id))) == Some(true)
    }

    /// Whether the peer still waits for the answer to the request of this number.
    pub(in crate::connection) fn is_wanted(&self, number: u32) -> bool {
        let wanted = |one: &Entry| one.number == number && !one.cancelled;
        self.rare.look(|rare| rare.answering.all.iter().any(wanted)) == Some(true)
    }

    /// Tells the task that a request ended for which nothing was queued.
    pub(in crate::connection) fn answered_silently(&self) {
        self.calls.call();
    }
}

impl Entry {
    fn is(&self, id: u32) -> bool {
        self.id == id && !self.cancelled
    }
}
