//! Messages that wait to be sent to one peer: a bounded queue for each lane.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::base::Lane;
use crate::connection::budget::{MemoryAccount, MemoryReservation};
use crate::connection::config::ConnectionConfig;
use crate::wire::{EncodeError, MessageHeader};

/// Messages that are taken under one lock; they fit the stack.
const MAX_TAKEN: usize = 16;
/// Bytes that a queued message costs beside its payload.
const MESSAGE_OVERHEAD: usize = std::mem::size_of::<Outgoing>();

/// One message that waits to be sent.
#[derive(Debug)]
pub(in crate::connection) struct Outgoing {
    pub(in crate::connection) header: MessageHeader,
    pub(in crate::connection) payload: Bytes,
}

/// Messages taken out of a lane together.
pub(in crate::connection) type TakenMessages = SmallVec<[Outgoing; MAX_TAKEN]>;

/// The queues of a connection, one for each lane of the application.
#[derive(Debug)]
pub(in crate::connection) struct Outbox {
    lanes: [VecDeque<Outgoing>; 3],
    bytes: [usize; 3],
    reservation: MemoryReservation,
    is_flooded: bool,
}

/// Which bound a message is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connection) enum QueueBound {
    /// The configured number of messages and bytes, and the memory ceiling.
    Normal,
    /// For responses and cancels without a payload: the normal bound plus twice the requests that
    /// an honest peer may have in flight. A peer that exceeds it sends requests and does not read;
    /// see [`Outbox::is_flooded`].
    Extended,
}

/// Why a message was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::connection) enum Rejected {
    Full,
    Closed,
    Refused(EncodeError),
}

impl Outbox {
    pub(in crate::connection) fn new(account: &Arc<MemoryAccount>) -> Self {
        Self {
            lanes: Default::default(),
            bytes: [0; 3],
            reservation: MemoryReservation::empty(account),
            is_flooded: false,
        }
    }

    /// Queues a message, or hands it back.
    pub(in crate::connection) fn push(
        &mut self,
        lane: Lane,
        outgoing: Outgoing,
        config: &ConnectionConfig,
        bound: QueueBound,
    ) -> Result<(), (Rejected, Outgoing)> {
        let index = index_of(lane);
        let cost = outgoing.payload.len() + MESSAGE_OVERHEAD;
        let (queued, reserved) = (self.lanes[index].len(), self.reservation.bytes() + cost);
        match bound {
            QueueBound::Normal => {
                let fits = queued < config.outbox_messages
                    && (self.bytes[index] == 0 || self.bytes[index] + cost <= config.outbox_bytes);
                if !fits || !self.reservation.resize_to_send(reserved) {
                    return Err((Rejected::Full, outgoing));
                }
            }
            QueueBound::Extended => {
                let extra = config.max_outbound_requests.saturating_mul(2);
                if queued >= config.outbox_messages.saturating_add(extra) {
                    self.is_flooded = true;
                    return Err((Rejected::Full, outgoing));
                }
                // Where the ceiling refuses, the header goes uncounted. Later releases never exceed
                // what is reserved.
                self.reservation.resize_to_send(reserved);
            }
        }
        self.bytes[index] += cost;
        self.lanes[index].push_back(outgoing);
        Ok(())
    }

    /// Hands out the oldest messages of a lane, at most [`MAX_TAKEN`]: until `max_bytes` are
    /// reached, or up to and with the first of at least `small_bytes`. What covers them moves to
    /// `reservation` until they are written.
    pub(in crate::connection) fn take(
        &mut self,
        lane: Lane,
        max_bytes: usize,
        small_bytes: usize,
        reservation: &mut MemoryReservation,
    ) -> TakenMessages {
        let index = index_of(lane);
        let mut taken = TakenMessages::new();
        let mut bytes = 0;
        while taken.len() < MAX_TAKEN
            && bytes < max_bytes
            && let Some(outgoing) = self.lanes[index].pop_front()
        {
            let cost = outgoing.payload.len() + MESSAGE_OVERHEAD;
            self.reservation.give(cost, reservation);
            self.bytes[index] = self.bytes[index].saturating_sub(cost);
            bytes += outgoing.payload.len();
            let is_large = outgoing.payload.len() >= small_bytes;
            taken.push(outgoing);
            if is_large {
                break;
            }
        }
        self.shrink(index);
        taken
    }

    /// Takes back a request that has not begun to be sent.
    pub(in crate::connection) fn retract(&mut self, lane: Lane, request: u32) -> Option<Outgoing> {
        let index = index_of(lane);
        let position = self.lanes[index]
            .iter()
            .position(|out| matches!(out.header, MessageHeader::Request { id, .. } if id == request))?;
        let outgoing = self.lanes[index].remove(position)?;
        self.bytes[index] = self.bytes[index].saturating_sub(outgoing.payload.len() + MESSAGE_OVERHEAD);
        self.shrink(index);
        Some(outgoing)
    }

    pub(in crate::connection) fn is_empty(&self, lane: Lane) -> bool {
        self.lanes[index_of(lane)].is_empty()
    }

    /// Whether a response without a payload had to be dropped: the peer sends requests and does not
    /// read.
    pub(in crate::connection) fn is_flooded(&self) -> bool {
        self.is_flooded
    }

    /// Queued messages and bytes of all lanes.
    pub(in crate::connection) fn totals(&self) -> (usize, usize) {
        (self.lanes.iter().map(VecDeque::len).sum(), self.bytes.iter().sum())
    }

    /// Hands out everything, to be dropped outside the lock.
    pub(in crate::connection) fn clear(&mut self) -> [VecDeque<Outgoing>; 3] {
        self.bytes = [0; 3];
        self.reservation.resize(0);
        std::mem::take(&mut self.lanes)
    }

    /// Gives memory back after something has left this lane.
    fn shrink(&mut self, index: usize) {
        let queued: usize = self.bytes.iter().sum();
        self.reservation.resize(queued.min(self.reservation.bytes()));
        if self.lanes[index].is_empty() {
            // An idle connection holds no buffers.
            self.lanes[index] = VecDeque::new();
        }
    }
}

fn index_of(lane: Lane) -> usize {
    lane.index().saturating_sub(1)
}
