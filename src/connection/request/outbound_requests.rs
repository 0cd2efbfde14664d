//! Requests of ours that await an answer.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::base::Lane;
use crate::connection::message::Response;
use crate::connection::request::pipeline::Ticket;
use crate::connection::write::outbox::Outgoing;
use crate::sync::atomic::Ordering;
use crate::wire::{MessageHeader, Status};

use super::pending_by_kind::{Queue, ReplySlot};
use super::{Answer, Answered, RequestDeclined};
use crate::connection::handle::Connection;

/// Who awaits an answer.
#[derive(Debug)]
pub(in crate::connection) enum Waiter {
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
pub(in crate::connection) struct Waiters {
    next: u32,
    /// By id.
    pub(super) table: HashMap<u32, Waiter, foldhash::fast::RandomState>,
    /// Those in the table that are a pipeline's.
    tickets: usize,
    /// By place, where the protocol has no ids. A handful at the most.
    pub(super) places: Vec<(u32, ReplySlot)>,
}

/// Why a request got no place to wait in.
#[derive(Debug)]
pub(in crate::connection) enum NoPlace {
    /// The connection is closed.
    Closed,
    /// As many requests as may wait do.
    TooMany,
    /// The protocol knows no answer to this kind.
    NoQuestion,
    /// An answer that was given up would be taken for this one's.
    LazyBox,
    /// Another request waits there. Resolves when it is this one's turn; whoever no longer wants it calls
    /// [`Connection::pass_on`].
    Taken { place: u32, turn: oneshot::Receiver<()> },
}

impl Waiters {
    pub(in crate::connection) fn len(&self) -> usize {
        self.table.len() + self.places.len()
    }

    /// Requests that a task of its own awaits, each.
    pub(in crate::connection) fn alone(&self) -> usize {
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
            // An idle connection holds no buffers.
            self.table = HashMap::default();
        }
        Some(waiter)
    }

    /// The table is far smaller than the number space, so a free number is near.
    pub(super) fn next_id(&mut self) -> u32 {
        loop {
            self.next = self.next.wrapping_add(1);
            let next = self.next;
            if !self.table.contains_key(&next) && self.place_of(next).is_none() {
                return next;
            }
        }
    }
}

/// Requests of ours.
impl Connection {
    /// A waiter for the answer to a request, and the request's number. `its_turn` where the request was told so.
    pub(in crate::connection) fn add_waiter(
        &self,
        kind: u16,
        payload: &Bytes,
        its_turn: bool,
    ) -> Result<(u32, Answer), NoPlace> {
        let most = self.shared.config.max_outbound_requests;
        // Dropped after the lock is given back: who has gone left a waker in there.
        let mut gone = Queue::new();
        let mut waiters = self.waiters.lock();
        if !self.is_open() {
            return Err(NoPlace::Closed);
        }
        if waiters.len() >= most && !its_turn {
            return Err(NoPlace::TooMany);
        }
        if let Some(reply_matcher) = &self.shared.reply_matcher {
            let place = reply_matcher.request_slot(kind).ok_or(NoPlace::NoQuestion)?;
            return waiters.take_place(place, (kind, payload), its_turn, most, &mut gone);
        }
        let (sender, receiver) = oneshot::channel();
        Ok((waiters.insert(Waiter::One(sender)), receiver))
    }

    /// A place for one request of a pipeline in the table, and the request's number. Not in a protocol without ids.
    pub(in crate::connection) fn add_ticket(&self, ticket: Ticket) -> Result<u32, NoPlace> {
        if self.shared.reply_matcher.is_some() {
            return Err(NoPlace::NoQuestion);
        }
        let mut waiters = self.waiters.lock();
        if !self.is_open() {
            return Err(NoPlace::Closed);
        }
        if waiters.len() >= self.shared.config.max_outbound_requests {
            return Err(NoPlace::TooMany);
        }
        Ok(waiters.insert(Waiter::Ticket(ticket.arm())))
    }

    /// An answer arrived. `false` if nobody waits for it: late, or never asked.
    pub(in crate::connection) fn answered(&self, id: u32, status: Status, payload: Response) -> bool {
        if self.shared.reply_matcher.is_some() {
            return self.declined_in_place(id, RequestDeclined { status, detail: payload });
        }
        let waiter = self.waiters.look(|waiters| waiters.remove(id)).flatten();
        let Some(waiter) = waiter else { return false };
        waiter.answer(if status == Status::Ok {
            Ok(payload)
        } else {
            Err(RequestDeclined { status, detail: payload })
        })
    }

    /// Nobody waits for this answer any more: the request is taken back if it was not sent. Where it was, the peer is told by a
    /// cancel; in a protocol without ids its place stays closed until the answer came.
    pub(in crate::connection) fn give_up(&self, lane: Lane, id: u32) {
        if self.shared.reply_matcher.is_some() {
            return self.give_up_place(lane, id);
        }
        let waiter = self.waiters.look(|waiters| waiters.remove(id)).flatten();
        if waiter.is_none() {
            return;
        }
        let retracted = self.retract(lane, id);
        if retracted.is_none() {
            let cancel = Outgoing { head: MessageHeader::Cancel { id }, payload: Response::new() };
            // A closed connection needs no cancel.
            let _ = self.queue(lane, cancel, true);
        }
    }

    pub(super) fn retract(&self, lane: Lane, id: u32) -> Option<Outgoing> {
        let retracted = self.outbox.look(|outbox| {
            let retracted = outbox.retract(lane, id);
            if outbox.is_empty(lane) {
                self.queued.fetch_and(!(1 << lane.index()), Ordering::Relaxed);
            }
            retracted
        });
        retracted.flatten()
    }

    /// The request was not even queued, so nothing can come of it.
    pub(in crate::connection) fn unask(&self, id: u32) {
        let waiter = self.waiters.look(|waiters| waiters.remove(id)).flatten();
        if let Some(Waiter::Ticket(ticket)) = waiter {
            return ticket.disarm();
        }
        self.free_unsent(id);
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
