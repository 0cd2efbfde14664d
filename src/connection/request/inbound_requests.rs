//! The peer's requests that are being handled.

use smallvec::SmallVec;

use crate::connection::handle::Connection;

/// The peer's requests that are being handled and not answered yet.
///
/// Invariant: `responses_match_id_and_connection`
/// Statement: a response goes to the request it answers, and a peer has no more requests in our
/// hands than the bound, whatever it cancels.
/// Enforced by: each request has a number of its own, because the peer may use an id again once it
/// has cancelled it. A cancelled request counts until its responder is gone.
/// Breaks if: a cancel frees the entry, or the numbers start over while a handler is identified by
/// one.
#[derive(Debug, Default)]
pub(in crate::connection) struct InboundRequests {
    entries: SmallVec<[InboundRequest; 4]>,
    /// The number of the last request. Starts over only with [`Connection::drop_idle_state`].
    last_number: u32,
}

#[derive(Debug)]
struct InboundRequest {
    id: u32,
    number: u32,
    is_cancelled: bool,
}

/// Whether a request of the peer may be handled now.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::connection) enum Admission {
    /// It counts as being handled, under this number.
    Accepted(u32),
    /// Another request with its id is being handled.
    DuplicateId,
    /// The bound is reached.
    TooMany,
}

impl InboundRequests {
    pub(in crate::connection) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there has been no request yet.
    pub(in crate::connection) fn is_unused(&self) -> bool {
        self.entries.is_empty() && self.last_number == 0
    }

    pub(in crate::connection) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn has_id(&self, id: u32) -> bool {
        self.entries.iter().any(|entry| entry.is_active(id))
    }

    fn admit(&mut self, id: u32, max: usize) -> Admission {
        if self.has_id(id) {
            return Admission::DuplicateId;
        }
        if self.entries.len() >= max {
            return Admission::TooMany;
        }
        self.last_number = self.last_number.wrapping_add(1);
        let number = self.last_number;
        self.entries.push(InboundRequest { id, number, is_cancelled: false });
        Admission::Accepted(number)
    }

    /// Removes a request. `true` if the peer still wants its response.
    fn remove(&mut self, number: u32) -> Option<bool> {
        let at = self.entries.iter().position(|entry| entry.number == number)?;
        let is_wanted = !self.entries.swap_remove(at).is_cancelled;
        if self.entries.is_empty() && self.entries.spilled() {
            // An idle connection holds no buffers.
            self.entries = SmallVec::new();
        }
        Some(is_wanted)
    }
}

impl InboundRequest {
    fn is_active(&self, id: u32) -> bool {
        self.id == id && !self.is_cancelled
    }
}

impl Connection {
    /// Counts a request as being handled, unless `max` are already, or one with its id is.
    pub(in crate::connection) fn admit_request(&self, id: u32, max: usize) -> Admission {
        self.rare.lock().inbound.admit(id, max)
    }

    /// The request's responder responds or is dropped; called once. `true` if the peer still wants
    /// the response.
    pub(in crate::connection) fn finish_request(&self, number: u32) -> bool {
        let Some(is_wanted) = self.rare.lock().inbound.remove(number) else { return false };
        if !is_wanted {
            // Nothing is queued for it that would tell the task of the free entry.
            self.wake.notify();
        }
        is_wanted
    }

    /// The peer no longer wants this response. Returns the request's number if it is being handled.
    pub(in crate::connection) fn cancel_inbound(&self, id: u32) -> Option<u32> {
        let mut rare = self.rare.lock();
        let entry = rare.inbound.entries.iter_mut().find(|entry| entry.is_active(id))?;
        entry.is_cancelled = true;
        Some(entry.number)
    }

    /// Whether a request with this id is being handled and not cancelled.
    pub(in crate::connection) fn is_handling(&self, id: u32) -> bool {
        self.rare.with(|rare| rare.inbound.has_id(id)) == Some(true)
    }

    /// Whether the peer still waits for the response to the request with this number.
    pub(in crate::connection) fn is_response_wanted(&self, number: u32) -> bool {
        let is_wanted = |entry: &InboundRequest| entry.number == number && !entry.is_cancelled;
        self.rare.with(|rare| rare.inbound.entries.iter().any(is_wanted)) == Some(true)
    }
}
