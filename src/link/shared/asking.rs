//! Requests of ours that await an answer.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::base::Lane;
use crate::base::sync::atomic::Ordering;
use crate::link::message::Response;
use crate::link::outbox::Outgoing;
use crate::link::pipeline::Ticket;
use crate::wire::{Head, Payload, Status};

use super::{Answer, Answered, Declined, Link};

/// Who awaits an answer.
#[derive(Debug)]
pub(super) enum Waiter {
    /// One request's future.
    One(oneshot::Sender<Answered>),
    /// One of a pipeline's.
    Ticket(Ticket),
}

impl Waiter {
    /// `false` if whoever asked has gone this very moment.
    fn answer(self, answer: Answered) -> bool {
        match self {
            Self::One(sender) => sender.send(answer).is_ok(),
            Self::Ticket(ticket) => {
                ticket.answer(answer);
                true
            }
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Waiters {
    next: u32,
    /// By id.
    pub(super) table: HashMap<u32, Waiter, foldhash::fast::RandomState>,
    /// Those in the table that are a pipeline's.
    tickets: usize,
    /// By place, where the dialect has no ids. A handful at the most.
    pub(super) places: Vec<(u32, Place)>,
}

/// A place in which one request at a time awaits its answer.
///
/// Invariant 26. Statement: where the line carries no ids, an answer reaches only the request it answers. Enforced by: a
/// request that was sent and given up leaves its place [`Place::Late`], and nothing is asked there until its answer came, the peer
/// said that there is none, or the link ended. Breaks if: a place is freed by a timeout.
#[derive(Debug)]
pub(super) enum Place {
    /// A request awaits its answer; others wait for the place.
    Asked { asked: Asked, waiter: oneshot::Sender<Answered>, queue: Queue },
    /// Whoever was first in the queue has been told to take it; nobody else may.
    Open { queue: Queue },
    /// Nobody waits any more, but the answer may still come.
    Late(Asked),
}

type Queue = VecDeque<oneshot::Sender<()>>;

/// What was asked, to tell its answer from others.
#[derive(Debug)]
pub(super) struct Asked {
    /// The request's own number: places are used again, numbers are not.
    id: u32,
    kind: u16,
    payload: Bytes,
}

impl Place {
    fn asked(&self) -> Option<&Asked> {
        match self {
            Self::Asked { asked, .. } | Self::Late(asked) => Some(asked),
            Self::Open { .. } => None,
        }
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
    /// Another request waits there. Resolves when it is this one's turn; whoever no longer wants it calls
    /// [`Link::pass_on`].
    Taken { place: u32, turn: oneshot::Receiver<()> },
}

impl Waiters {
    pub(super) fn len(&self) -> usize {
        self.table.len() + self.places.len()
    }

    /// Requests that a task of its own awaits, each.
    pub(super) fn alone(&self) -> usize {
        self.len() - self.tickets
    }

    /// A place in the table, and its number.
    fn insert(&mut self, waiter: Waiter) -> u32 {
        let id = self.next_id();
        self.tickets += usize::from(matches!(waiter, Waiter::Ticket(_)));
        self.table.insert(id, waiter);
        id
    }

    fn remove(&mut self, id: u32) -> Option<Waiter> {
        let waiter = self.table.remove(&id)?;
        self.tickets -= usize::from(matches!(waiter, Waiter::Ticket(_)));
        if self.table.is_empty() && self.table.capacity() > KEPT {
            // An idle link holds no buffers.
            self.table = HashMap::default();
        }
        Some(waiter)
    }

    /// The table is far smaller than the number space, so a free number is near.
    fn next_id(&mut self) -> u32 {
        loop {
            self.next = self.next.wrapping_add(1);
            let next = self.next;
            if !self.table.contains_key(&next) && self.place_of(next).is_none() {
                return next;
            }
        }
    }

    fn place(&self, place: u32) -> Option<usize> {
        self.places.iter().position(|(of, _)| *of == place)
    }

    fn place_of(&self, id: u32) -> Option<usize> {
        self.places.iter().position(|(_, place)| place.asked().is_some_and(|asked| asked.id == id))
    }

    /// Takes a place's request out; who is next there, to be told outside the lock.
    fn free(&mut self, at: usize) -> (u32, Place, Option<oneshot::Sender<()>>) {
        let (number, mut place) = self.places.swap_remove(at);
        let mut next = None;
        if let Place::Asked { queue, .. } | Place::Open { queue } = &mut place {
            next = queue.pop_front();
            if next.is_some() {
                self.places.push((number, Place::Open { queue: std::mem::take(queue) }));
            }
        }
        if self.places.is_empty() {
            // An idle link holds no buffers.
            self.places = Vec::new();
        }
        (number, place, next)
    }

    /// The place for a request: taken now, or its turn awaited.
    fn take_place(
        &mut self,
        place: u32,
        asked: (u16, &Bytes),
        its_turn: bool,
        queue_max: usize,
        gone: &mut Queue,
    ) -> Result<(u32, Answer), NoPlace> {
        let at = self.place(place);
        match at.map(|at| &mut self.places[at].1) {
            Some(Place::Late(_)) => return Err(NoPlace::Late),
            Some(Place::Open { .. }) if its_turn => {}
            Some(Place::Asked { queue, .. } | Place::Open { queue }) => {
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
            Some(Place::Open { queue }) => queue,
            _ => Queue::new(),
        };
        let (kind, payload) = asked;
        let id = self.next_id();
        let asked = Asked { id, kind, payload: payload.clone() };
        let (waiter, receiver) = oneshot::channel();
        self.places.push((place, Place::Asked { asked, waiter, queue }));
        Ok((id, receiver))
    }
}

/// Requests of ours.
impl Link {
    /// A waiter for the answer to a request, and the request's number. `its_turn` where the request was told so.
    pub(in crate::link) fn add_waiter(
        &self,
        kind: u16,
        payload: &Bytes,
        its_turn: bool,
    ) -> Result<(u32, Answer), NoPlace> {
        let most = self.common.config.waiters;
        // Dropped after the lock is given back: who has gone left a waker in there.
        let mut gone = Queue::new();
        let mut waiters = self.waiters.lock();
        if !self.is_open() {
            return Err(NoPlace::Closed);
        }
        if waiters.len() >= most && !its_turn {
            return Err(NoPlace::TooMany);
        }
        if let Some(correlator) = &self.common.correlator {
            let place = correlator.awaits(kind).ok_or(NoPlace::NoQuestion)?;
            return waiters.take_place(place, (kind, payload), its_turn, most, &mut gone);
        }
        let (sender, receiver) = oneshot::channel();
        Ok((waiters.insert(Waiter::One(sender)), receiver))
    }

    /// A place for one request of a pipeline in the table, and the request's number. Not in a dialect without ids.
    pub(in crate::link) fn add_ticket(&self, ticket: Ticket) -> Result<u32, NoPlace> {
        if self.common.correlator.is_some() {
            return Err(NoPlace::NoQuestion);
        }
        let mut waiters = self.waiters.lock();
        if !self.is_open() {
            return Err(NoPlace::Closed);
        }
        if waiters.len() >= self.common.config.waiters {
            return Err(NoPlace::TooMany);
        }
        Ok(waiters.insert(Waiter::Ticket(ticket.arm())))
    }

    /// An answer arrived. `false` if nobody waits for it: late, or never asked.
    pub(in crate::link) fn answered(&self, id: u32, status: Status, payload: Response) -> bool {
        if self.common.correlator.is_some() {
            return self.declined_in_place(id, Declined { status, detail: payload });
        }
        let waiter = self.waiters.look(|waiters| waiters.remove(id)).flatten();
        let Some(waiter) = waiter else { return false };
        waiter.answer(if status == Status::Ok {
            Ok(payload)
        } else {
            Err(Declined { status, detail: payload })
        })
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
            let open = waiters.place(place).and_then(|at| waiters.places[at].1.asked());
            let Some(Asked { id, kind, payload: asked }) = open else { return Some(payload) };
            (*id, *kind, asked.clone())
        };
        // No parser runs under the lock; the request may be given up meanwhile, or answered.
        if !correlator.answers(asked_kind, &asked, kind, &payload) {
            return Some(payload);
        }
        let (number, freed, next) = {
            let mut waiters = self.waiters.lock();
            let Some(at) = waiters.place_of(id) else { return Some(payload) };
            waiters.free(at)
        };
        let unanswered = match freed {
            Place::Asked { waiter, .. } => {
                let unwanted = waiter.send(Ok(payload.into_bytes())).err();
                // Whoever asked has gone this very moment; its answer answers nothing any more.
                unwanted.and_then(Result::ok).map(Payload::Owned)
            }
            Place::Open { .. } | Place::Late(_) => Some(payload),
        };
        self.call(number, next);
        unanswered
    }

    /// The request at a place has no answer: whoever asked hears it, and if that was given up the place is free again.
    fn declined_in_place(&self, place: u32, declined: Declined) -> bool {
        let (number, freed, next) = {
            let mut waiters = self.waiters.lock();
            let Some(at) = waiters.place(place) else { return false };
            if waiters.places[at].1.asked().is_none() {
                return false;
            }
            waiters.free(at)
        };
        let heard = match freed {
            Place::Asked { waiter, .. } => waiter.send(Err(declined)).is_ok(),
            Place::Open { .. } | Place::Late(_) => false,
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
    pub(in crate::link) fn pass_on(&self, place: u32) {
        loop {
            let next = {
                let mut waiters = self.waiters.lock();
                let open = waiters.place(place);
                let Some(at) = open.filter(|at| matches!(waiters.places[*at].1, Place::Open { .. })) else {
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

    /// Nobody waits for this answer any more: the request is taken back if it was not sent. Where it was, the peer is told by a
    /// cancel; in a dialect without ids its place stays closed until the answer came.
    pub(in crate::link) fn give_up(&self, lane: Lane, id: u32) {
        if self.common.correlator.is_some() {
            return self.give_up_place(lane, id);
        }
        let waiter = self.waiters.look(|waiters| waiters.remove(id)).flatten();
        if waiter.is_none() {
            return;
        }
        let retracted = self.retract(lane, id);
        if retracted.is_none() {
            let cancel = Outgoing { head: Head::Cancel { id }, payload: Response::new() };
            // A closed link needs no cancel.
            let _ = self.queue(lane, cancel, true);
        }
    }

    fn retract(&self, lane: Lane, id: u32) -> Option<Outgoing> {
        let retracted = self.outbox.look(|outbox| {
            let retracted = outbox.retract(lane, id);
            if outbox.is_empty(lane) {
                self.queued.fetch_and(!(1 << lane.index()), Ordering::Relaxed);
            }
            retracted
        });
        retracted.flatten()
    }

    fn give_up_place(&self, lane: Lane, id: u32) {
        let mut queue = Queue::new();
        {
            let mut waiters = self.waiters.lock();
            // Answered: the place is free, or another request's.
            let Some(at) = waiters.place_of(id) else { return };
            let (number, place) = waiters.places.swap_remove(at);
            let late = match place {
                Place::Asked { asked, queue: waiting, .. } => {
                    queue = waiting;
                    Place::Late(asked)
                }
                other => other,
            };
            waiters.places.push((number, late));
        }
        if self.retract(lane, id).is_some() {
            // Never sent, so nothing can come of it.
            self.free_unsent(id, queue);
        }
        // Dropping the queue tells those in it that no turn of theirs will come.
    }

    /// The request was not even queued, so nothing can come of it.
    pub(in crate::link) fn unask(&self, id: u32) {
        let waiter = self.waiters.look(|waiters| waiters.remove(id)).flatten();
        if let Some(Waiter::Ticket(ticket)) = waiter {
            return ticket.disarm();
        }
        self.free_unsent(id, Queue::new());
    }

    /// Frees the place of a request that was never sent, for those who wait for it.
    fn free_unsent(&self, id: u32, queue: Queue) {
        let (number, place, next) = {
            let mut waiters = self.waiters.lock();
            let Some(at) = waiters.place_of(id) else { return };
            if let (Place::Late(_), false) = (&waiters.places[at].1, queue.is_empty()) {
                waiters.places[at].1 = Place::Open { queue };
            }
            waiters.free(at)
        };
        drop(place);
        self.call(number, next);
    }
}

/// Entries that an empty table keeps room for.
const KEPT: usize = 32;

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_was_full_once_gives_its_memory_back() {
        let mut waiters = Waiters::default();
        let ids: Vec<u32> = (0..1_000).map(|_| waiters.insert(Waiter::One(oneshot::channel().0))).collect();
        assert!(waiters.table.capacity() >= 1_000);
        assert!(ids.into_iter().all(|id| waiters.remove(id).is_some()));
        assert!(waiters.table.capacity() <= KEPT);
    }
}
