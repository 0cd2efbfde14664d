//! Requests on their way: ours that await an answer, the peer's that are being handled.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::base::Lane;
use crate::link::message::Response;
use crate::link::outbox::Outgoing;
use crate::wire::{Head, Payload, Status};

use super::{Answer, Declined, Link};

type Waiter = oneshot::Sender<Result<Response, Declined>>;

#[derive(Debug, Default)]
pub(super) struct Waiters {
    next: u32,
    /// By id.
    pub(super) table: HashMap<u32, Waiter, foldhash::fast::RandomState>,
    /// By place, where the dialect has no ids. A handful at the most.
    pub(super) places: Vec<(u32, Place)>,
    pub(super) closed: bool,
}

/// A place in which one request at a time awaits its answer.
///
/// Invariant 26. Statement: where the line carries no ids, an answer reaches only the request it answers. Enforced by: a
/// request that was sent and given up leaves its place [`Place::Late`], and nothing is asked there until its answer came or
/// the link ended. Breaks if: a place is freed by a timeout.
#[derive(Debug)]
pub(super) enum Place {
    /// A request awaits its answer; others wait for the place.
    Asked { asked: Asked, waiter: Waiter, queue: Vec<oneshot::Sender<()>> },
    /// Nobody waits any more, but the answer may still come.
    Late(Asked),
}

/// What was asked, to tell its answer from others.
#[derive(Debug)]
pub(super) struct Asked {
    /// The request's own number: places are used again, numbers are not.
    id: u32,
    kind: u16,
    payload: Bytes,
}

impl Place {
    fn asked(&self) -> &Asked {
        let (Self::Asked { asked, .. } | Self::Late(asked)) = self;
        asked
    }
}

/// Why a request got no place to wait in.
#[derive(Debug)]
pub(in crate::link) enum NoPlace {
    /// The link is closed.
    Closed,
    /// As many requests as may wait do.
    TooMany,
    /// The dialect knows no answer to this kind.
    NoQuestion,
    /// An answer that was given up would be taken for this one's.
    Late,
    /// Another request waits there; resolves when it no longer does.
    Taken(oneshot::Receiver<()>),
}

impl Waiters {
    pub(super) fn len(&self) -> usize {
        self.table.len() + self.places.len()
    }

    /// The table is far smaller than the number space, so a free number is near.
    fn next_id(&mut self) -> u32 {
        loop {
            self.next = self.next.wrapping_add(1);
            let next = self.next;
            if !self.table.contains_key(&next)
                && self.places.iter().all(|(_, place)| place.asked().id != next)
            {
                return next;
            }
        }
    }

    fn place(&self, place: u32) -> Option<usize> {
        self.places.iter().position(|(of, _)| *of == place)
    }

    fn place_of(&self, id: u32) -> Option<usize> {
        self.places.iter().position(|(_, place)| place.asked().id == id)
    }

    fn free(&mut self, at: usize) -> (u32, Place) {
        let place = self.places.swap_remove(at);
        if self.places.is_empty() {
            // An idle link holds no buffers.
            self.places = Vec::new();
        }
        place
    }
}

/// Requests of the peer that are being handled and not answered yet.
#[derive(Debug, Default)]
pub(super) struct Answering {
    pub(super) ids: Vec<u32>,
}

/// Requests of ours.
impl Link {
    /// A waiter for the answer to a request, and the request's number.
    pub(in crate::link) fn add_waiter(&self, kind: u16, payload: &Bytes) -> Result<(u32, Answer), NoPlace> {
        let mut waiters = self.waiters.lock();
        if waiters.closed {
            return Err(NoPlace::Closed);
        }
        if waiters.len() >= self.common.config.waiters {
            return Err(NoPlace::TooMany);
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(correlator) = &self.common.correlator {
            let place = correlator.awaits(kind).ok_or(NoPlace::NoQuestion)?;
            match waiters.place(place) {
                None => {
                    let id = waiters.next_id();
                    let asked = Asked { id, kind, payload: payload.clone() };
                    let open = Place::Asked { asked, waiter: sender, queue: Vec::new() };
                    waiters.places.push((place, open));
                    return Ok((id, receiver));
                }
                Some(at) => match &mut waiters.places[at].1 {
                    Place::Late(_) => return Err(NoPlace::Late),
                    Place::Asked { queue, .. } => {
                        queue.retain(|waiting| !waiting.is_closed());
                        if queue.len() >= self.common.config.waiters {
                            return Err(NoPlace::TooMany);
                        }
                        let (next, turn) = oneshot::channel();
                        queue.push(next);
                        return Err(NoPlace::Taken(turn));
                    }
                },
            }
        }
        let id = waiters.next_id();
        waiters.table.insert(id, sender);
        Ok((id, receiver))
    }

    /// An answer arrived. `false` if nobody waits for it: late, or never asked.
    pub(in crate::link) fn answered(&self, id: u32, status: Status, payload: Response) -> bool {
        let Some(waiter) = self.waiters.lock().table.remove(&id) else { return false };
        let answer =
            if status == Status::Ok { Ok(payload) } else { Err(Declined { status, detail: payload }) };
        waiter.send(answer).is_ok()
    }

    /// A message arrived that may be an answer, in a dialect without ids. Hands it back if it answers nothing that anybody
    /// waits for; one that answers what was given up frees its place.
    pub(in crate::link) fn answered_in_place<'p>(
        &self,
        kind: u16,
        payload: Payload<'p>,
    ) -> Option<Payload<'p>> {
        let Some(correlator) = &self.common.correlator else { return Some(payload) };
        let Some(place) = correlator.fills(kind) else { return Some(payload) };
        let (id, asked_kind, asked) = {
            let waiters = self.waiters.lock();
            let Some(at) = waiters.place(place) else { return Some(payload) };
            let Asked { id, kind, payload } = waiters.places[at].1.asked();
            (*id, *kind, payload.clone())
        };
        // No parser runs under the lock; the request may be given up meanwhile, or answered.
        if !correlator.answers(asked_kind, &asked, kind, &payload) {
            return Some(payload);
        }
        let freed = {
            let mut waiters = self.waiters.lock();
            let Some(at) = waiters.place_of(id) else { return Some(payload) };
            waiters.free(at)
        };
        // Outside the lock: dropping the queue lets the next ones try.
        match freed.1 {
            Place::Late(_) => Some(payload),
            Place::Asked { waiter, queue, .. } => {
                let unwanted = waiter.send(Ok(payload.into_bytes())).err();
                drop(queue);
                // Whoever asked has gone this very moment; its answer answers nothing any more.
                unwanted.and_then(Result::ok).map(Payload::Owned)
            }
        }
    }

    /// Nobody waits for this answer any more: the request is taken back if it was not sent. Where it was, the peer is told by a
    /// cancel; in a dialect without ids its place stays closed until the answer came.
    pub(in crate::link) fn give_up(&self, lane: Lane, id: u32) {
        if self.common.correlator.is_some() {
            return self.give_up_place(lane, id);
        }
        let waiter = self.waiters.lock().table.remove(&id);
        if waiter.is_none() {
            return;
        }
        let retracted = self.outbox.lock().retract(lane, id);
        if retracted.is_none() {
            let cancel = Outgoing { head: Head::Cancel { id }, payload: Response::new() };
            // A closed link needs no cancel.
            let _ = self.queue(lane, cancel, true);
        }
    }

    fn give_up_place(&self, lane: Lane, id: u32) {
        let queue = {
            let mut waiters = self.waiters.lock();
            // Answered: the place is free, or another request's.
            let Some(at) = waiters.place_of(id) else { return };
            match waiters.free(at) {
                (place, Place::Asked { asked, queue, .. }) => {
                    waiters.places.push((place, Place::Late(asked)));
                    queue
                }
                late => {
                    waiters.places.push(late);
                    Vec::new()
                }
            }
        };
        if self.outbox.lock().retract(lane, id).is_some() {
            // Never sent, so nothing can come of it.
            let mut waiters = self.waiters.lock();
            if let Some(at) = waiters.place_of(id) {
                waiters.free(at);
            }
        }
        // Only now the next ones may try.
        drop(queue);
    }
}

/// Requests of the peer.
impl Link {
    /// Notes a request that is about to be handled; `false` if its id is being handled already.
    pub(in crate::link) fn begin_answer(&self, id: u32) -> bool {
        let mut answering = self.answering.lock();
        if answering.ids.contains(&id) {
            return false;
        }
        answering.ids.push(id);
        true
    }

    /// `true` for exactly one of: the answer, the cancel.
    pub(in crate::link) fn end_answer(&self, id: u32) -> bool {
        let mut answering = self.answering.lock();
        let Some(at) = answering.ids.iter().position(|open| *open == id) else { return false };
        answering.ids.swap_remove(at);
        if answering.ids.is_empty() {
            answering.ids = Vec::new();
        }
        true
    }

    pub(in crate::link) fn is_answering(&self, id: u32) -> bool {
        self.answering.lock().ids.contains(&id)
    }

    pub(in crate::link) fn answers_open(&self) -> usize {
        self.answering.lock().ids.len()
    }
}
