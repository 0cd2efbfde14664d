//! What waits to be sent to one peer alone: a bounded queue a lane.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::base::Lane;
use crate::wire::{EncodeError, MessageHeader};

use crate::connection::budget::{MemoryBudget, MemoryReservation};
use crate::connection::config::ConnectionConfig;

/// One message that waits to be sent.
#[derive(Debug)]
pub(in crate::connection) struct Outgoing {
    pub(in crate::connection) head: MessageHeader,
    pub(in crate::connection) payload: Bytes,
}

/// The queues of a connection, one for each lane of the application.
#[derive(Debug)]
pub(in crate::connection) struct Outbox {
    lanes: [VecDeque<Outgoing>; 3],
    bytes: [usize; 3],
    held: MemoryReservation,
    flooded: bool,
}

/// Why a message was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::connection) enum Rejected {
    Full,
    Closed,
    Refused(EncodeError),
}

impl Outbox {
    pub(in crate::connection) fn new(budget: &Arc<MemoryBudget>) -> Self {
        Self {
            lanes: Default::default(),
            bytes: [0; 3],
            held: MemoryReservation::empty(budget),
            flooded: false,
        }
    }

    /// Queues a message. Answers without a payload (`unbounded`) fit beyond the bounds, up to as many again as an honest
    /// peer may await; one that asks on without reading them is flooding, see [`Outbox::is_flooded`].
    pub(in crate::connection) fn push(
        &mut self,
        lane: Lane,
        outgoing: Outgoing,
        config: &ConnectionConfig,
        unbounded: bool,
    ) -> Result<(), (Rejected, Outgoing)> {
        let at = slot(lane);
        let cost = outgoing.payload.len() + OVERHEAD;
        let fits = self.lanes[at].len() < config.outbox_messages
            && (self.bytes[at] == 0 || self.bytes[at] + cost <= config.outbox_bytes);
        if unbounded
            && self.lanes[at].len()
                >= config.outbox_messages.saturating_add(config.max_outbound_requests.saturating_mul(2))
        {
            self.flooded = true;
            return Err((Rejected::Full, outgoing));
        }
        if !(unbounded || fits && self.held.resize(self.held.bytes() + cost)) {
            return Err((Rejected::Full, outgoing));
        }
        if unbounded {
            // Where the ceiling refuses, the head goes uncounted; giving back never gives more than is held.
            self.held.resize(self.held.bytes() + cost);
        }
        self.bytes[at] += cost;
        self.lanes[at].push_back(outgoing);
        Ok(())
    }

    /// Hands out the oldest messages of a lane, at most [`TAKEN_MAX`]: until `most` bytes are there, or one that is not smaller
    /// than `small`. What covers them goes to `cover`, until they are written.
    pub(in crate::connection) fn take(
        &mut self,
        lane: Lane,
        most: usize,
        small: usize,
        cover: &mut MemoryReservation,
    ) -> Taken {
        let at = slot(lane);
        let mut taken = Taken::new();
        let mut bytes = 0;
        while taken.len() < TAKEN_MAX
            && bytes < most
            && let Some(outgoing) = self.lanes[at].pop_front()
        {
            let cost = outgoing.payload.len() + OVERHEAD;
            self.held.give(cost, cover);
            self.bytes[at] = self.bytes[at].saturating_sub(cost);
            bytes += outgoing.payload.len();
            let last = outgoing.payload.len() >= small;
            taken.push(outgoing);
            if last {
                break;
            }
        }
        self.settle(at);
        taken
    }

    /// Takes a request back that has not begun to be sent.
    pub(in crate::connection) fn retract(&mut self, lane: Lane, request: u32) -> Option<Outgoing> {
        let at = slot(lane);
        let place = self.lanes[at]
            .iter()
            .position(|out| matches!(out.head, MessageHeader::Request { id, .. } if id == request))?;
        let outgoing = self.lanes[at].remove(place)?;
        self.bytes[at] = self.bytes[at].saturating_sub(outgoing.payload.len() + OVERHEAD);
        self.settle(at);
        Some(outgoing)
    }

    pub(in crate::connection) fn is_empty(&self, lane: Lane) -> bool {
        self.lanes[slot(lane)].is_empty()
    }

    /// Whether answers had to be dropped because the peer asks and does not read.
    pub(in crate::connection) fn is_flooded(&self) -> bool {
        self.flooded
    }

    /// Messages and bytes that wait, over all lanes.
    pub(in crate::connection) fn waiting(&self) -> (usize, usize) {
        (self.lanes.iter().map(VecDeque::len).sum(), self.bytes.iter().sum())
    }

    /// Hands out what waited, to be dropped outside the lock.
    pub(in crate::connection) fn clear(&mut self) -> [VecDeque<Outgoing>; 3] {
        self.bytes = [0; 3];
        self.held.resize(0);
        std::mem::take(&mut self.lanes)
    }

    /// Something has left this lane.
    fn settle(&mut self, at: usize) {
        let rest: usize = self.bytes.iter().sum();
        self.held.resize(rest.min(self.held.bytes()));
        if self.lanes[at].is_empty() {
            // An idle connection holds no buffers.
            self.lanes[at] = VecDeque::new();
        }
    }
}

fn slot(lane: Lane) -> usize {
    lane.index().saturating_sub(1)
}

/// Messages taken out of a lane together.
pub(in crate::connection) type Taken = SmallVec<[Outgoing; TAKEN_MAX]>;

/// So many share one lock, and fit the stack.
const TAKEN_MAX: usize = 16;
/// What a queued message costs beside its payload.
const OVERHEAD: usize = std::mem::size_of::<Outgoing>();
