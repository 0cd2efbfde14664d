//! The application of each node: it relays new broadcasts, answers block requests, and counts
//! everything it receives.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use peerpool::address_book::{DialOutcome, ReportedBy, WallTime};
use peerpool::wire::Status;
use peerpool::{
    ConnId, Context, Event, Handled, Handler, Lane, Message, NodeRef, RelayOutcome, Request, Responder,
};

use super::clock::{Epoch, Micros};
use super::codec::{Codec, Decoded, encode_peer_list};
use super::graph::Incarnation;
use super::ledger::Ledger;
use super::{increment, lock};

/// Addresses in the answer to one request.
const MAX_ADDRS_ANSWERED: usize = 100;

/// The handler of one incarnation, and what it received.
#[derive(Debug)]
pub(super) struct MeshApp {
    pub(super) codec: Codec,
    incarnation: Incarnation,
    epoch: Epoch,
    ledger: Arc<Ledger>,
    received: Mutex<Received>,
    /// The newest tip that arrived over each connection.
    peer_tips: Mutex<HashMap<ConnId, Tip>>,
    /// The newest version of the node's own tip.
    own_tip: Mutex<u64>,
    /// First deliveries.
    pub(super) delivered: AtomicU64,
    /// Second deliveries of a message.
    pub(super) duplicates: AtomicU64,
    /// Copies that the relay recognised and did not deliver.
    pub(super) redundant: AtomicU64,
    /// New messages that were not relayed because the relay's memory was full.
    pub(super) not_relayed: AtomicU64,
    /// Messages that differ from what was sent.
    pub(super) corrupt: AtomicU64,
    /// Tips that are older than an earlier one on the same connection.
    pub(super) tips_reordered: AtomicU64,
}

/// The broadcasts that were delivered to one incarnation.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    /// One bit per message number.
    bits: Vec<u64>,
    /// Microseconds from the send to the delivery.
    pub(super) latencies_us: Vec<u32>,
}

impl Received {
    /// Sets the bit of a message. Returns `false` if it was already set.
    fn insert(&mut self, message: u64) -> bool {
        let (word, bit) = ((message / 64) as usize, 1u64 << (message % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let is_new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        is_new
    }

    pub(super) fn contains(&self, message: u64) -> bool {
        let word = self.bits.get((message / 64) as usize);
        word.is_some_and(|word| word >> (message % 64) & 1 == 1)
    }
}

/// A version of a node's tip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    pub(super) incarnation: Incarnation,
    pub(super) version: u64,
}

impl MeshApp {
    pub(super) fn new(codec: Codec, incarnation: Incarnation, epoch: Epoch, ledger: Arc<Ledger>) -> Self {
        Self {
            codec,
            incarnation,
            epoch,
            ledger,
            received: Mutex::default(),
            peer_tips: Mutex::default(),
            own_tip: Mutex::default(),
            delivered: AtomicU64::default(),
            duplicates: AtomicU64::default(),
            redundant: AtomicU64::default(),
            not_relayed: AtomicU64::default(),
            corrupt: AtomicU64::default(),
            tips_reordered: AtomicU64::default(),
        }
    }

    /// Marks a message as sent by this node: a delivery of it here counts as a duplicate.
    pub(super) fn mark_own(&self, message: u64) {
        lock(&self.received).insert(message);
    }

    /// A copy of what was received so far.
    pub(super) fn received(&self) -> Received {
        lock(&self.received).clone()
    }

    /// Publishes the next version of the node's own tip.
    pub(super) fn publish_tip(&self, node: &NodeRef) {
        // The lock is held during the call, so that versions are published in order.
        let mut version = lock(&self.own_tip);
        *version += 1;
        let (kind, value) = self.codec.encode_tip(self.incarnation, *version);
        if node.set_state(kind, b"", value).is_err() {
            increment(&self.corrupt);
        }
    }

    /// The newest version of the node's own tip.
    pub(super) fn newest_tip(&self) -> u64 {
        *lock(&self.own_tip)
    }

    /// The newest tip that arrived over a connection.
    pub(super) fn tip_over(&self, conn: ConnId) -> Option<Tip> {
        lock(&self.peer_tips).get(&conn).copied()
    }

    fn on_delivered(&self, message: u64, sent_at: Micros) {
        let latency = self.epoch.now().saturating_sub(sent_at);
        let is_new = {
            let mut received = lock(&self.received);
            let is_new = received.insert(message);
            if is_new {
                received.latencies_us.push(u32::try_from(latency).unwrap_or(u32::MAX));
            }
            is_new
        };
        if is_new {
            increment(&self.delivered);
            self.ledger.count_delivered();
        } else {
            increment(&self.duplicates);
        }
    }

    fn on_tip(&self, conn: ConnId, tip: Tip) {
        let previous = lock(&self.peer_tips).insert(conn, tip);
        if previous.is_some_and(|it| it.incarnation != tip.incarnation || it.version > tip.version) {
            increment(&self.tips_reordered);
        }
    }
}

impl Handler for MeshApp {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        let conn = cx.peer().id();
        let (number, sent_at) = match self.codec.decode(event.kind, &event.payload) {
            Decoded::Broadcast { number, sent_at } => (number, sent_at),
            Decoded::Tip { incarnation, version } => {
                self.on_tip(conn, Tip { incarnation, version });
                return Handled::Done;
            }
            Decoded::BlockRequest { .. } | Decoded::PeersRequest | Decoded::Corrupt => {
                increment(&self.corrupt);
                return Handled::Done;
            }
        };
        let lane = self.codec.relay_lane(event.kind, event.payload.len(), event.lane);
        let message = Message { lane, kind: event.kind, payload: event.payload.into_bytes() };
        match cx.node().relay(&message, Some(cx.peer())) {
            Ok(RelayOutcome::New) => self.on_delivered(number, sent_at),
            Ok(RelayOutcome::Duplicate) => increment(&self.redundant),
            Ok(RelayOutcome::Full) | Err(_) => increment(&self.not_relayed),
        }
        Handled::Done
    }

    fn request(&self, cx: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        // If the answer cannot be sent, the request fails at the requester with its own reason.
        let _ = match self.codec.decode(request.kind, &request.payload) {
            Decoded::BlockRequest { height } => {
                responder.on(Lane::Bulk).respond(self.codec.encode_block(height))
            }
            Decoded::PeersRequest => {
                let known = cx.node().book().sample(WallTime::now(), MAX_ADDRS_ANSWERED);
                responder.respond(encode_peer_list(known.into_iter()))
            }
            _ => responder.decline(Status::UnknownKind, ""),
        };
        Handled::Done
    }

    fn connected(&self, cx: Context<'_>) {
        if self.codec.encode_peers_request().is_none() {
            return;
        }
        // The TIME Coin protocol cannot verify a listen address, so the claim of the peer is used.
        if let Some(listen) = cx.peer().read_info(|info| info.listen) {
            let (book, now) = (cx.node().book(), WallTime::now());
            // The book may be full or refuse the address; the connection works without it.
            let _ = book.add(listen, ReportedBy::Peer(listen.ip()), now);
            book.record(&listen, DialOutcome::Connected, now);
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::super::read;
    use super::*;

    #[test]
    fn a_second_delivery_and_the_delivery_of_an_own_message_are_duplicates() {
        let app = MeshApp::new(Codec::Native, 0, Epoch::new(), Arc::default());
        app.on_delivered(70, 0);
        app.on_delivered(70, 0);
        app.mark_own(3);
        app.on_delivered(3, 0);
        assert_eq!(read(&app.delivered), 1);
        assert_eq!(read(&app.duplicates), 2);
        let received = app.received();
        assert_eq!(received.latencies_us.len(), 1);
        assert!(received.contains(70) && received.contains(3) && !received.contains(4));
    }

    #[test]
    fn an_older_tip_on_the_same_connection_is_noticed() {
        let app = MeshApp::new(Codec::Native, 0, Epoch::new(), Arc::default());
        let (one, other) = (ConnId::new(1).unwrap(), ConnId::new(2).unwrap());
        app.on_tip(one, Tip { incarnation: 4, version: 2 });
        app.on_tip(one, Tip { incarnation: 4, version: 3 });
        app.on_tip(other, Tip { incarnation: 4, version: 1 });
        assert_eq!(read(&app.tips_reordered), 0);
        app.on_tip(one, Tip { incarnation: 4, version: 2 });
        assert_eq!(read(&app.tips_reordered), 1);
        assert_eq!(app.tip_over(other), Some(Tip { incarnation: 4, version: 1 }));
    }
}
