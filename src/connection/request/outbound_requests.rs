//! Our requests that await a response.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::base::Lane;
use crate::connection::budget::MemoryReservation;
use crate::connection::handle::Connection;
use crate::connection::message::Response;
use crate::connection::write::outbox::{Outgoing, QueueBound};
use crate::wire::{MessageHeader, Status};

use super::pending_by_kind::{PendingByKind, TurnQueue};
use super::pipeline::PipelineEntry;
use super::{Delivery, RequestDeclined, RequestResult, ResponseReceiver};

/// Entries that an empty table keeps room for.
const MAX_IDLE_CAPACITY: usize = 32;

/// Our requests that await a response.
#[derive(Debug, Default)]
pub(in crate::connection) struct OutboundRequests {
    last_id: u32,
    by_id: HashMap<u32, Waiter, foldhash::fast::RandomState>,
    /// Entries of `by_id` that belong to a pipeline.
    pipelined: usize,
    /// Requests of a protocol without ids.
    pub(super) by_kind: PendingByKind,
    /// Wakes requests that wait because too many await a response. `None` until one does.
    pub(super) ended: Option<Arc<Notify>>,
}

impl Drop for OutboundRequests {
    fn drop(&mut self) {
        // The connection is closed: those that wait for room find that out.
        if let Some(ended) = &self.ended {
            ended.notify_waiters();
        }
    }
}

/// What waits for a response.
#[derive(Debug)]
enum Waiter {
    /// The future of one request.
    Single(oneshot::Sender<RequestResult>),
    /// A request of a pipeline.
    Pipelined(PipelineEntry),
}

/// Why a request was not registered.
#[derive(Debug)]
pub(super) enum RegisterError {
    /// The connection is closed.
    Closed,
    /// The bound on waiting requests is reached. `ended` is notified when one has ended; `None` in a
    /// protocol without ids, where a response may never come.
    TooMany { ended: Option<Arc<Notify>> },
    /// The protocol has no such request.
    Unsupported,
    /// The response to an abandoned request would be taken for this one's.
    ReplyOutstanding,
    /// Another request waits in the slot. `turn` resolves when it is this one's turn; a caller that
    /// gives up calls [`Connection::pass_turn`].
    SlotTaken { slot: u32, turn: oneshot::Receiver<()> },
}

impl Waiter {
    fn complete(self, result: RequestResult) {
        match self {
            // The requester may have gone at this very moment.
            Self::Single(sender) => drop(sender.send(result)),
            Self::Pipelined(entry) => entry.complete(result),
        }
    }
}

impl OutboundRequests {
    pub(in crate::connection) fn len(&self) -> usize {
        self.by_id.len() + self.by_kind.len()
    }

    /// Requests that a task of its own awaits, each.
    pub(in crate::connection) fn single_requests(&self) -> usize {
        self.len() - self.pipelined
    }

    fn insert(&mut self, waiter: Waiter) -> u32 {
        let id = self.next_id();
        self.pipelined += usize::from(matches!(waiter, Waiter::Pipelined(_)));
        self.by_id.insert(id, waiter);
        id
    }

    /// The error of a request for which there is no room.
    fn too_many(&mut self) -> RegisterError {
        RegisterError::TooMany { ended: Some(Arc::clone(self.ended.get_or_insert_default())) }
    }

    fn remove(&mut self, id: u32) -> Option<Waiter> {
        let waiter = self.by_id.remove(&id)?;
        if let Some(ended) = &self.ended {
            ended.notify_one();
        }
        self.pipelined -= usize::from(matches!(waiter, Waiter::Pipelined(_)));
        if self.by_id.is_empty() && self.by_id.capacity() > MAX_IDLE_CAPACITY {
            // An idle connection holds no buffers.
            self.by_id = HashMap::default();
        }
        Some(waiter)
    }

    /// An id that no waiting request has. The table is far smaller than the id space, so one is
    /// near.
    pub(super) fn next_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let id = self.last_id;
            if !self.by_id.contains_key(&id) && self.by_kind.position_of_id(id).is_none() {
                return id;
            }
        }
    }
}

impl Connection {
    /// Registers a request and returns its id. `has_turn` if the request was given its slot's turn.
    pub(super) fn register_request(
        &self,
        kind: u16,
        payload: &Bytes,
        has_turn: bool,
    ) -> Result<(u32, ResponseReceiver), RegisterError> {
        let max = self.shared.config.max_outbound_requests;
        // Dropped after the lock is released: an abandoned entry holds a waker.
        let mut abandoned = TurnQueue::new();
        let mut outbound = self.outbound.lock();
        if !self.is_open() {
            return Err(RegisterError::Closed);
        }
        if outbound.len() >= max && !has_turn {
            let has_ids = self.shared.reply_matcher.is_none();
            return Err(if has_ids { outbound.too_many() } else { RegisterError::TooMany { ended: None } });
        }
        if let Some(matcher) = &self.shared.reply_matcher {
            let slot = matcher.request_slot(kind).ok_or(RegisterError::Unsupported)?;
            if let Some(turn) = outbound.by_kind.wait_for_turn(slot, has_turn, max, &mut abandoned)? {
                return Err(RegisterError::SlotTaken { slot, turn });
            }
            let id = outbound.next_id();
            return Ok((id, outbound.by_kind.occupy(slot, id, kind, payload)));
        }
        let (sender, receiver) = oneshot::channel();
        Ok((outbound.insert(Waiter::Single(sender)), receiver))
    }

    /// Registers a request of a pipeline and returns its id. Not in a protocol without ids.
    pub(super) fn register_pipelined(&self, entry: PipelineEntry) -> Result<u32, RegisterError> {
        if self.shared.reply_matcher.is_some() {
            return Err(RegisterError::Unsupported);
        }
        let mut outbound = self.outbound.lock();
        if !self.is_open() {
            return Err(RegisterError::Closed);
        }
        if outbound.len() >= self.shared.config.max_outbound_requests {
            return Err(outbound.too_many());
        }
        Ok(outbound.insert(Waiter::Pipelined(entry.arm())))
    }

    /// A response arrived. A late one, or one that was never asked for, is dropped.
    ///
    /// `counted` covers a response that was reassembled.
    pub(in crate::connection) fn complete_request(
        &self,
        id: u32,
        status: Status,
        payload: Response,
        counted: Option<MemoryReservation>,
    ) {
        if self.shared.reply_matcher.is_some() {
            return self.decline_in_slot(id, RequestDeclined { status, detail: payload });
        }
        let waiter = self.outbound.with(|outbound| outbound.remove(id)).flatten();
        let Some(waiter) = waiter else { return };
        waiter.complete(if status == Status::Ok {
            Ok(Delivery { response: payload, _counted: counted })
        } else {
            Err(RequestDeclined { status, detail: payload })
        });
    }

    /// Nobody waits for this response any more. A request that was not sent is taken back. For one
    /// that was sent, the peer gets a cancel; in a protocol without ids its slot stays closed until
    /// the response came.
    pub(super) fn abandon_request(&self, lane: Lane, id: u32) {
        if self.shared.reply_matcher.is_some() {
            return self.abandon_slot(lane, id);
        }
        let waiter = self.outbound.with(|outbound| outbound.remove(id)).flatten();
        if waiter.is_none() {
            return;
        }
        if self.retract(lane, id).is_none() {
            let cancel = Outgoing { header: MessageHeader::Cancel { id }, payload: Response::new() };
            // A closed connection needs no cancel.
            let _ = self.enqueue(lane, cancel, QueueBound::Extended);
        }
    }

    /// Removes a request that was not even queued.
    pub(super) fn unregister(&self, id: u32) {
        let waiter = self.outbound.with(|outbound| outbound.remove(id)).flatten();
        if let Some(Waiter::Pipelined(entry)) = waiter {
            return entry.disarm();
        }
        self.free_unsent_slot(id);
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_was_full_once_gives_its_memory_back() {
        let mut outbound = OutboundRequests::default();
        let ids: Vec<u32> =
            (0..1_000).map(|_| outbound.insert(Waiter::Single(oneshot::channel().0))).collect();
        assert!(outbound.by_id.capacity() >= 1_000);
        assert!(ids.into_iter().all(|id| outbound.remove(id).is_some()));
        assert!(outbound.by_id.capacity() <= MAX_IDLE_CAPACITY);
    }
}
