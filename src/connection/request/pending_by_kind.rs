//! Requests of ours in a protocol without ids: one at a time awaits its answer in each place.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::base::Lane;
use crate::wire::Payload;

use super::outbound_requests::{NoPlace, Waiters};
use super::{Answer, Answered, RequestDeclined};
use crate::connection::handle::Connection;

/// A place in which one request at a time awaits its answer.
///
/// Invariant 26. Statement: where the line carries no ids, an answer reaches only the request it answers. Enforced by: a
/// request that was sent and given up leaves its place [`ReplySlot::LazyBox`], and nothing is asked there until its answer came, the peer
/// said that there is none, or the connection ended, but for what no answer of its can be taken for
/// ([`ReplyMatcher::are_distinguishable`](crate::wire::ReplyMatcher::are_distinguishable)). What was followed so is forgotten: who asks the very same again after
/// that may be given the answer of before. Breaks if: a place is freed by a timeout.
///
/// Not promised for a request that the application sends or broadcasts as a message: that takes no place, so its answer reaches
/// whoever has asked in that place.
#[derive(Debug)]
pub(super) enum ReplySlot {
    /// A request awaits its answer; others wait for the place.
    Asked { asked: Asked, waiter: oneshot::Sender<Answered>, queue: Queue },
    /// Whoever was first in the queue has been told to take it; nobody else may.
    Open { queue: Queue },
    /// Nobody waits any more, but the answer may still come.
    LazyBox(Asked),
}

pub(super) type Queue = VecDeque<oneshot::Sender<()>>;

/// What was asked, to tell its answer from others.
#[derive(Debug)]
pub(super) struct Asked {
    /// The request's own number: places are used again, numbers are not.
    id: u32,
    kind: u16,
    payload: Bytes,
}

impl ReplySlot {
    pub(super) fn asked(&self) -> Option<&Asked> {
        match self {
            Self::Asked { asked, .. } | Self::LazyBox(asked) => Some(asked),
            Self::Open { .. } => None,
        }
    }
}

impl Waiters {
    pub(super) fn place(&self, place: u32) -> Option<usize> {
        self.places.iter().position(|(of, _)| *of == place)
    }

    pub(super) fn place_of(&self, id: u32) -> Option<usize> {
        self.places.iter().position(|(_, place)| place.asked().is_some_and(|asked| asked.id == id))
    }

    /// Takes a place's request out; who is next there, to be told outside the lock.
    pub(super) fn free(&mut self, at: usize) -> (u32, ReplySlot, Option<oneshot::Sender<()>>) {
        let (number, mut place) = self.places.swap_remove(at);
        let mut next = None;
        if let ReplySlot::Asked { queue, .. } | ReplySlot::Open { queue } = &mut place {
            next = queue.pop_front();
            if next.is_some() {
                self.places.push((number, ReplySlot::Open { queue: std::mem::take(queue) }));
            }
        }
        if self.places.is_empty() {
            // An idle connection holds no buffers.
            self.places = Vec::new();
        }
        (number, place, next)
    }

    /// The place for a request: taken now, or its turn awaited.
    pub(super) fn take_place(
        &mut self,
        place: u32,
        asked: (u16, &Bytes),
        its_turn: bool,
        queue_max: usize,
        gone: &mut Queue,
    ) -> Result<(u32, Answer), NoPlace> {
        let at = self.place(place);
        match at.map(|at| &mut self.places[at].1) {
            Some(ReplySlot::LazyBox(_)) => return Err(NoPlace::LazyBox),
            Some(ReplySlot::Open { .. }) if its_turn => {}
            Some(ReplySlot::Asked { queue, .. } | ReplySlot::Open { queue }) => {
                if queue.iter().any(oneshot::Sender::is_closed) {
                    (*gone, *queue) = queue.drain(..).partition(oneshot::Sender::is_closed);
                }
                if queue.len() >= queue_max {
                    return Err(NoPlace::TooMany);
                }
                let (next, turn) = oneshot::channel();
                queue.push_back(next);
                return Err(NoPlace::Taken { place, turn });
            }
            None => {}
        }
        let queue = match at.map(|at| self.places.swap_remove(at).1) {
            Some(ReplySlot::Open { queue }) => queue,
            _ => Queue::new(),
        };
        let (kind, payload) = asked;
        let id = self.next_id();
        let asked = Asked { id, kind, payload: payload.clone() };
        let (waiter, receiver) = oneshot::channel();
        self.places.push((place, ReplySlot::Asked { asked, waiter, queue }));
        Ok((id, receiver))
    }
}

/// Requests of ours.
impl Connection {
    /// These requests, kind and payload, were sent on this stream before it was the connection's, and may still be answered: their places
    /// are as if they had been given up here. Nothing in a protocol with ids.
    pub(crate) fn expect_replies(&self, requests: &[(u16, Bytes)]) {
        let Some(reply_matcher) = self.shared.reply_matcher.as_ref().filter(|_| !requests.is_empty()) else {
            return;
        };
        let mut waiters = self.waiters.lock();
        for (kind, payload) in requests {
            let Some(place) = reply_matcher.request_slot(*kind) else { continue };
            if waiters.place(place).is_none() {
                let asked = Asked { id: waiters.next_id(), kind: *kind, payload: payload.clone() };
                waiters.places.push((place, ReplySlot::LazyBox(asked)));
            }
        }
    }

    /// A request finds its place closed by one that was given up. Whether it may look again: no answer can be taken for the wrong
    /// one's, so that the place is free now, or it changed meanwhile.
    pub(in crate::connection) fn may_follow(&self, kind: u16, payload: &[u8]) -> bool {
        let Some(reply_matcher) = &self.shared.reply_matcher else { return false };
        let Some(place) = reply_matcher.request_slot(kind) else { return false };
        let (id, late_kind, late) = {
            let waiters = self.waiters.lock();
            let Some(ReplySlot::LazyBox(late)) = waiters.place(place).map(|at| &waiters.places[at].1) else {
                return true;
            };
            (late.id, late.kind, late.payload.clone())
        };
        // No parser runs under the lock.
        if !reply_matcher.are_distinguishable(late_kind, &late, kind, payload) {
            return false;
        }
        let mut waiters = self.waiters.lock();
        // Nobody waits for its turn at a place that is closed.
        let freed = waiters.place_of(id).map(|at| waiters.free(at));
        drop(waiters);
        drop(freed);
        true
    }

    /// A message arrived that may be an answer, in a protocol without ids. Hands it back if it answers nothing that anybody
    /// waits for; one that answers what was given up frees its place.
    pub(crate) fn answered_in_place<'p>(&self, kind: u16, payload: Payload<'p>) -> Option<Payload<'p>> {
        let Some(reply_matcher) = &self.shared.reply_matcher else { return Some(payload) };
        let Some(place) = reply_matcher.reply_slot(kind) else { return Some(payload) };
        let (id, asked_kind, asked) = {
            let waiters = self.waiters.lock();
            let open = waiters.place(place).and_then(|at| waiters.places[at].1.asked());
            let Some(Asked { id, kind, payload: asked }) = open else { return Some(payload) };
            (*id, *kind, asked.clone())
        };
        // No parser runs under the lock; the request may be given up meanwhile, or answered.
        if !reply_matcher.is_reply_to(asked_kind, &asked, kind, &payload) {
            return Some(payload);
        }
        let (number, freed, next) = {
            let mut waiters = self.waiters.lock();
            let Some(at) = waiters.place_of(id) else { return Some(payload) };
            waiters.free(at)
        };
        let unanswered = match freed {
            ReplySlot::Asked { waiter, .. } => {
                let unwanted = waiter.send(Ok(payload.into_bytes())).err();
                // Whoever asked has gone this very moment; its answer answers nothing any more.
                unwanted.and_then(Result::ok).map(Payload::Owned)
            }
            ReplySlot::Open { .. } | ReplySlot::LazyBox(_) => Some(payload),
        };
        self.call(number, next);
        unanswered
    }

    /// The request at a place has no answer: whoever asked hears it, and if that was given up the place is free again.
    pub(super) fn declined_in_place(&self, place: u32, declined: RequestDeclined) -> bool {
        let (number, freed, next) = {
            let mut waiters = self.waiters.lock();
            let Some(at) = waiters.place(place) else { return false };
            if waiters.places[at].1.asked().is_none() {
                return false;
            }
            waiters.free(at)
        };
        let heard = match freed {
            ReplySlot::Asked { waiter, .. } => waiter.send(Err(declined)).is_ok(),
            ReplySlot::Open { .. } | ReplySlot::LazyBox(_) => false,
        };
        self.call(number, next);
        heard
    }

    /// Tells whoever is next at a place that it is its turn.
    fn call(&self, place: u32, next: Option<oneshot::Sender<()>>) {
        // One that has gone is no reason to let the others wait.
        if next.is_some_and(|next| next.send(()).is_err()) {
            self.pass_on(place);
        }
    }

    /// Somebody no longer waits for its turn at this place: if it was its turn, it is the next one's.
    pub(in crate::connection) fn pass_on(&self, place: u32) {
        loop {
            let next = {
                let mut waiters = self.waiters.lock();
                let open = waiters.place(place);
                let Some(at) = open.filter(|at| matches!(waiters.places[*at].1, ReplySlot::Open { .. }))
                else {
                    return;
                };
                waiters.free(at).2
            };
            let Some(next) = next else { return };
            if next.send(()).is_ok() {
                return;
            }
        }
    }

    /// Nobody waits for the answer of this request any more. A request that was never sent frees its place; else the place stays
    /// closed until the answer came.
    pub(super) fn give_up_place(&self, lane: Lane, id: u32) {
        // Before anybody can see the place closed: one that is taken back closes none.
        if self.retract(lane, id).is_some() {
            return self.free_unsent(id);
        }
        let gone = {
            let mut waiters = self.waiters.lock();
            // Answered: the place is free, or another request's.
            let Some(at) = waiters.place_of(id) else { return };
            let (number, place) = waiters.places.swap_remove(at);
            let (late, gone) = match place {
                ReplySlot::Asked { asked, waiter, queue } => {
                    (ReplySlot::LazyBox(asked), Some((waiter, queue)))
                }
                other => (other, None),
            };
            waiters.places.push((number, late));
            gone
        };
        // Outside the lock: those in the queue are told that no turn of theirs will come.
        drop(gone);
    }

    /// Frees the place of a request that was never sent, for those who wait for it.
    pub(super) fn free_unsent(&self, id: u32) {
        let (number, place, next) = {
            let mut waiters = self.waiters.lock();
            let Some(at) = waiters.place_of(id) else { return };
            waiters.free(at)
        };
        drop(place);
        self.call(number, next);
    }
}
