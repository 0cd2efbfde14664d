//! Our requests in a protocol without ids: in each reply slot one request at a time awaits its
//! response.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::base::Lane;
use crate::connection::budget::MemoryReservation;
use crate::connection::handle::Connection;
use crate::wire::Payload;

use super::outbound_requests::RegisterError;
use super::{Delivery, RequestDeclined, RequestResult, ResponseReceiver};

/// The reply slots of one connection that are in use: a handful at most.
///
/// Invariant: `responses_match_id_and_connection`
/// Statement: where the protocol carries no ids, a response reaches only the request it answers.
/// Enforced by: a request that was sent and abandoned leaves its slot [`ReplySlot::Abandoned`].
/// Nothing is requested there until its response came, the peer declined, or the connection ended;
/// except a request that no response to the abandoned one can be taken for
/// ([`ReplyMatcher::are_distinguishable`](crate::wire::ReplyMatcher::are_distinguishable)). The
/// abandoned request is forgotten then, and a request equal to it may get its response.
/// Breaks if: a timeout frees a slot.
///
/// Not promised for a request that the application sends or broadcasts as a message: that takes no
/// slot, so its response reaches the request that waits in the slot.
#[derive(Debug, Default)]
pub(super) struct PendingByKind {
    /// By slot number.
    slots: Vec<(u32, ReplySlot)>,
}

#[derive(Debug)]
enum ReplySlot {
    /// A request awaits its response; others wait for the slot.
    Waiting { request: SentRequest, sender: oneshot::Sender<RequestResult>, queue: TurnQueue },
    /// The first request of the queue was given the slot and has not taken it yet.
    Reserved { queue: TurnQueue },
    /// Nobody waits any more, but the response may still come.
    Abandoned(SentRequest),
}

/// Requests that wait for their turn in a slot.
pub(super) type TurnQueue = VecDeque<oneshot::Sender<()>>;

/// A request, to tell its response from others.
#[derive(Clone, Debug)]
struct SentRequest {
    /// Unique, while slots are used again.
    id: u32,
    kind: u16,
    payload: Bytes,
}

/// A slot that a request has left, and the next request in its queue.
struct FreedSlot {
    number: u32,
    left: ReplySlot,
    next: Option<oneshot::Sender<()>>,
}

impl ReplySlot {
    fn request(&self) -> Option<&SentRequest> {
        match self {
            Self::Waiting { request, .. } | Self::Abandoned(request) => Some(request),
            Self::Reserved { .. } => None,
        }
    }
}

impl PendingByKind {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn position(&self, slot: u32) -> Option<usize> {
        self.slots.iter().position(|(number, _)| *number == slot)
    }

    pub(super) fn position_of_id(&self, id: u32) -> Option<usize> {
        self.slots.iter().position(|(_, slot)| slot.request().is_some_and(|request| request.id == id))
    }

    fn get(&self, slot: u32) -> Option<&ReplySlot> {
        self.position(slot).map(|at| &self.slots[at].1)
    }

    /// `None` if the request may occupy the slot now. Otherwise a receiver that resolves when it is
    /// its turn. Entries that were dropped move to `abandoned`.
    pub(super) fn wait_for_turn(
        &mut self,
        slot: u32,
        has_turn: bool,
        max_queue: usize,
        abandoned: &mut TurnQueue,
    ) -> Result<Option<oneshot::Receiver<()>>, RegisterError> {
        let at = self.position(slot);
        match at.map(|at| &mut self.slots[at].1) {
            Some(ReplySlot::Abandoned(_)) => Err(RegisterError::ReplyOutstanding),
            Some(ReplySlot::Reserved { .. }) if has_turn => Ok(None),
            Some(ReplySlot::Waiting { queue, .. } | ReplySlot::Reserved { queue }) => {
                if queue.iter().any(oneshot::Sender::is_closed) {
                    (*abandoned, *queue) = queue.drain(..).partition(oneshot::Sender::is_closed);
                }
                if queue.len() >= max_queue {
                    return Err(RegisterError::TooMany { ended: None });
                }
                let (sender, turn) = oneshot::channel();
                queue.push_back(sender);
                Ok(Some(turn))
            }
            None => Ok(None),
        }
    }

    /// Puts a request into a slot that is free, or was reserved for it.
    pub(super) fn occupy(&mut self, slot: u32, id: u32, kind: u16, payload: &Bytes) -> ResponseReceiver {
        let queue = match self.position(slot).map(|at| self.slots.swap_remove(at).1) {
            Some(ReplySlot::Reserved { queue }) => queue,
            _ => TurnQueue::new(),
        };
        let request = SentRequest { id, kind, payload: payload.clone() };
        let (sender, receiver) = oneshot::channel();
        self.slots.push((slot, ReplySlot::Waiting { request, sender, queue }));
        receiver
    }

    /// Takes a request out of its slot. If others wait, the slot is reserved for the next, which
    /// must be told outside the lock.
    fn free(&mut self, at: usize) -> FreedSlot {
        let (number, mut left) = self.slots.swap_remove(at);
        let mut next = None;
        if let ReplySlot::Waiting { queue, .. } | ReplySlot::Reserved { queue } = &mut left {
            next = queue.pop_front();
            if next.is_some() {
                let queue = std::mem::take(queue);
                self.slots.push((number, ReplySlot::Reserved { queue }));
            }
        }
        if self.slots.is_empty() {
            // An idle connection holds no buffers.
            self.slots = Vec::new();
        }
        FreedSlot { number, left, next }
    }
}

impl Connection {
    /// These requests, each a kind and a payload, were sent on this stream before the connection
    /// took it over, and may still be answered. Their slots are as if the requests had been sent
    /// and abandoned here. Does nothing in a protocol with ids.
    pub(crate) fn expect_replies(&self, requests: &[(u16, Bytes)]) {
        let Some(matcher) = self.shared.reply_matcher.as_ref().filter(|_| !requests.is_empty()) else {
            return;
        };
        let mut outbound = self.outbound.lock();
        for (kind, payload) in requests {
            let Some(slot) = matcher.request_slot(*kind) else { continue };
            if outbound.by_kind.position(slot).is_none() {
                let id = outbound.next_id();
                let request = SentRequest { id, kind: *kind, payload: payload.clone() };
                outbound.by_kind.slots.push((slot, ReplySlot::Abandoned(request)));
            }
        }
    }

    /// A request finds its slot closed by an abandoned one. `true` if it may try again: the two
    /// responses can be told apart, so that the slot is free now, or the slot changed meanwhile.
    pub(super) fn can_reuse_slot(&self, kind: u16, payload: &[u8]) -> bool {
        let Some(matcher) = &self.shared.reply_matcher else { return false };
        let Some(slot) = matcher.request_slot(kind) else { return false };
        let abandoned = {
            let outbound = self.outbound.lock();
            let Some(ReplySlot::Abandoned(abandoned)) = outbound.by_kind.get(slot) else { return true };
            abandoned.clone()
        };
        // No parser runs under the lock.
        if !matcher.are_distinguishable(abandoned.kind, &abandoned.payload, kind, payload) {
            return false;
        }
        let mut outbound = self.outbound.lock();
        // Nobody waits for a turn in a closed slot.
        let freed = outbound.by_kind.position_of_id(abandoned.id).map(|at| outbound.by_kind.free(at));
        drop(outbound);
        drop(freed);
        true
    }

    /// A message arrived that may be a response, in a protocol without ids. Hands it back if no
    /// request waits for it. A response to an abandoned request is handed back too, and frees its
    /// slot.
    pub(in crate::connection) fn match_reply<'p>(
        &self,
        kind: u16,
        payload: Payload<'p>,
        cover: Option<&mut MemoryReservation>,
    ) -> Option<Payload<'p>> {
        let Some(matcher) = &self.shared.reply_matcher else { return Some(payload) };
        let Some(slot) = matcher.reply_slot(kind) else { return Some(payload) };
        let request = {
            let outbound = self.outbound.lock();
            let Some(request) = outbound.by_kind.get(slot).and_then(ReplySlot::request) else {
                return Some(payload);
            };
            request.clone()
        };
        // No parser runs under the lock; meanwhile the request may be abandoned, or answered.
        if !matcher.is_reply_to(request.kind, &request.payload, kind, &payload) {
            return Some(payload);
        }
        let FreedSlot { number, left, next } = {
            let mut outbound = self.outbound.lock();
            let Some(at) = outbound.by_kind.position_of_id(request.id) else { return Some(payload) };
            outbound.by_kind.free(at)
        };
        let unmatched = match left {
            ReplySlot::Waiting { sender, .. } => {
                // If the requester has gone at this very moment, the response answers nothing any
                // more.
                let _counted = self.cover(&payload, cover);
                let delivery = Delivery { response: payload.into_bytes(), _counted };
                let unwanted = sender.send(Ok(delivery)).err();
                unwanted.and_then(Result::ok).map(|delivery| Payload::Owned(delivery.response))
            }
            ReplySlot::Reserved { .. } | ReplySlot::Abandoned(_) => Some(payload),
        };
        self.give_turn(number, next);
        unmatched
    }

    /// The peer declined the request in a slot. The requester is told; if the request was
    /// abandoned, the slot is free again.
    pub(super) fn decline_in_slot(&self, slot: u32, declined: RequestDeclined) {
        let FreedSlot { number, left, next } = {
            let mut outbound = self.outbound.lock();
            let Some(at) = outbound.by_kind.position(slot) else { return };
            if outbound.by_kind.slots[at].1.request().is_none() {
                return;
            }
            outbound.by_kind.free(at)
        };
        if let ReplySlot::Waiting { sender, .. } = left {
            // The requester may have gone at this very moment.
            let _ = sender.send(Err(declined));
        }
        self.give_turn(number, next);
    }

    /// Tells the next request of a slot that it is its turn.
    fn give_turn(&self, slot: u32, next: Option<oneshot::Sender<()>>) {
        // A request that has gone must not make the others wait.
        if next.is_some_and(|next| next.send(()).is_err()) {
            self.pass_turn(slot);
        }
    }

    /// A request no longer waits for its turn in this slot. If it was its turn, it is the next
    /// one's.
    pub(super) fn pass_turn(&self, slot: u32) {
        loop {
            let next = {
                let mut outbound = self.outbound.lock();
                let by_kind = &mut outbound.by_kind;
                let Some(at) = by_kind.position(slot) else { return };
                if !matches!(by_kind.slots[at].1, ReplySlot::Reserved { .. }) {
                    return;
                }
                by_kind.free(at).next
            };
            let Some(next) = next else { return };
            if next.send(()).is_ok() {
                return;
            }
        }
    }

    /// Nobody waits for the response to this request any more. A request that was never sent frees
    /// its slot; otherwise the slot stays closed until the response came.
    pub(super) fn abandon_slot(&self, lane: Lane, id: u32) {
        // First, before the slot is seen closed: a request that is taken back closes none.
        if self.retract(lane, id).is_some() {
            return self.free_unsent_slot(id);
        }
        let dropped = {
            let mut outbound = self.outbound.lock();
            // Without an entry it was answered: the slot is free, or another request's.
            let Some(at) = outbound.by_kind.position_of_id(id) else { return };
            let (number, slot) = outbound.by_kind.slots.swap_remove(at);
            let (slot, dropped) = match slot {
                ReplySlot::Waiting { request, sender, queue } => {
                    (ReplySlot::Abandoned(request), Some((sender, queue)))
                }
                other => (other, None),
            };
            outbound.by_kind.slots.push((number, slot));
            dropped
        };
        // Outside the lock: requests in the queue learn that no turn will come.
        drop(dropped);
    }

    /// Frees the slot of a request that was never sent.
    pub(super) fn free_unsent_slot(&self, id: u32) {
        let FreedSlot { number, left, next } = {
            let mut outbound = self.outbound.lock();
            let Some(at) = outbound.by_kind.position_of_id(id) else { return };
            outbound.by_kind.free(at)
        };
        drop(left);
        self.give_turn(number, next);
    }
}
