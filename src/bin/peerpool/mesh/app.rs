//! The application of each node: it passes on what is new, answers block requests, and keeps exact count.

use std::collections::HashMap;
use std::sync::Arc;

use peerpool::address_book::{Outcome, Source, WallTime};
use peerpool::base::{ConnId, Lane};
use peerpool::node::{Context, Event, Handled, Handler, Message, NodeRef, RelayOutcome, Request, Responder};
use peerpool::sync::Mutex;
use peerpool::sync::atomic::{AtomicU64, Ordering};
use peerpool::wire::Status;

use super::clock::{Epoch, Micros};
use super::codec::{Codec, Decoded, peer_list};
use super::graph::Incarnation;
use super::ledger::Ledger;

/// What one incarnation received. Its handler.
#[derive(Debug)]
pub(super) struct MeshApp {
    pub(super) codec: Codec,
    of: Incarnation,
    epoch: Epoch,
    ledger: Arc<Ledger>,
    got: Mutex<Got>,
    tips: Mutex<HashMap<ConnId, Tip>>,
    /// Its own newest tip.
    tip: Mutex<u64>,
    pub(super) delivered: AtomicU64,
    pub(super) duplicates: AtomicU64,
    /// Copies that came again over the wire and were not handed over.
    pub(super) redundant: AtomicU64,
    /// New messages that the relay refused to remember.
    pub(super) unremembered: AtomicU64,
    /// Messages that are not what was sent.
    pub(super) corrupt: AtomicU64,
    /// Tips older than one that came before on the same link.
    pub(super) tips_back: AtomicU64,
}

#[derive(Debug, Default)]
struct Got {
    /// One bit a message.
    bits: Vec<u64>,
    /// Microseconds from send to hand-over.
    latencies: Vec<u32>,
}

impl Got {
    /// `false` if it was set already.
    fn set(&mut self, message: u64) -> bool {
        let (word, bit) = ((message / 64) as usize, 1u64 << (message % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let first = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        first
    }
}

/// The newest tip that came over one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    pub(super) of: Incarnation,
    pub(super) version: u64,
}

impl MeshApp {
    pub(super) fn new(codec: Codec, of: Incarnation, epoch: Epoch, ledger: Arc<Ledger>) -> Self {
        Self {
            codec,
            of,
            epoch,
            ledger,
            got: Mutex::default(),
            tips: Mutex::default(),
            tip: Mutex::new(0),
            delivered: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            redundant: AtomicU64::new(0),
            unremembered: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
            tips_back: AtomicU64::new(0),
        }
    }

    /// Its own message: were it ever handed over here, that would be a duplicate.
    pub(super) fn sent(&self, message: u64) {
        self.got.lock().set(message);
    }

    /// Whether each of the first `count` messages was handed over here, and how long each took.
    pub(super) fn take(&self) -> (Vec<u64>, Vec<u32>) {
        let got = self.got.lock();
        (got.bits.clone(), got.latencies.clone())
    }

    /// Sets the next version of its own tip.
    pub(super) fn announce(&self, node: &NodeRef) {
        // Under the lock, so that a later version is never set before an earlier one.
        let mut version = self.tip.lock();
        *version += 1;
        let (kind, value) = self.codec.tip(self.of, *version);
        if node.set_state(kind, b"", value).is_err() {
            add(&self.corrupt);
        }
    }

    /// The newest version of its own tip.
    pub(super) fn newest_tip(&self) -> u64 {
        *self.tip.lock()
    }

    /// The newest tip that came over a connection.
    pub(super) fn tip_over(&self, conn: ConnId) -> Option<Tip> {
        self.tips.lock().get(&conn).copied()
    }

    fn handed_over(&self, message: u64, sent: Micros) {
        let took = self.epoch.now().saturating_sub(sent);
        let first = {
            let mut got = self.got.lock();
            let first = got.set(message);
            if first {
                got.latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
            }
            first
        };
        if first {
            add(&self.delivered);
            self.ledger.count_delivered();
        } else {
            add(&self.duplicates);
        }
    }

    fn tip_came(&self, conn: ConnId, tip: Tip) {
        let before = self.tips.lock().insert(conn, tip);
        if before.is_some_and(|before| before.of != tip.of || before.version > tip.version) {
            add(&self.tips_back);
        }
    }
}

impl Handler for MeshApp {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        let conn = cx.peer().id();
        let (number, sent) = match self.codec.read(event.kind, &event.payload) {
            Decoded::Gossip { number, at } => (number, at),
            Decoded::Tip { of, version } => {
                self.tip_came(conn, Tip { of, version });
                return Handled::Done;
            }
            Decoded::Block { .. } | Decoded::Peers | Decoded::Corrupt => {
                add(&self.corrupt);
                return Handled::Done;
            }
        };
        let lane = self.codec.lane(event.kind, event.payload.len(), event.lane);
        let message = Message { lane, kind: event.kind, payload: event.payload.into_bytes() };
        match cx.node().relay(&message, Some(conn)) {
            Ok(RelayOutcome::New) => self.handed_over(number, sent),
            Ok(RelayOutcome::Duplicate) => add(&self.redundant),
            Ok(RelayOutcome::Full) | Err(_) => add(&self.unremembered),
        }
        Handled::Done
    }

    fn request(&self, cx: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        // What does not reach the asker any more has failed there with a reason of its own.
        let _ = match self.codec.read(request.kind, &request.payload) {
            Decoded::Block { height } => responder.on(Lane::Bulk).answer(self.codec.block(height)),
            Decoded::Peers => {
                let known = cx.node().book().sample(WallTime::now(), MOST_PEERS);
                responder.answer(peer_list(known.into_iter()))
            }
            _ => responder.decline(Status::UnknownKind, ""),
        };
        Handled::Done
    }

    fn connected(&self, cx: Context<'_>) {
        if self.codec.peers_request().is_none() {
            return;
        }
        // Where the wire has no way to ask who listens there, what an inbound peer says has to do.
        if let Some(listen) = cx.peer().read_info(|info| info.listen) {
            let (book, now) = (cx.node().book(), WallTime::now());
            // A full or picky book is no reason to do anything else.
            let _ = book.add(listen, Source::Peer(listen.ip()), now);
            book.record(&listen, Outcome::Connected, now);
        }
    }
}

/// Addresses in one answer.
const MOST_PEERS: usize = 100;

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_second_hand_over_is_a_duplicate_also_of_ones_own() {
        let app = MeshApp::new(Codec::Native, 0, Epoch::new(), Arc::default());
        app.handed_over(70, 0);
        app.handed_over(70, 0);
        app.sent(3);
        app.handed_over(3, 0);
        assert_eq!(app.delivered.load(Ordering::Relaxed), 1);
        assert_eq!(app.duplicates.load(Ordering::Relaxed), 2);
        assert_eq!(app.take().1.len(), 1);
    }

    #[test]
    fn a_tip_that_goes_back_on_one_link_is_noticed() {
        let app = MeshApp::new(Codec::Native, 0, Epoch::new(), Arc::default());
        let (one, other) = (ConnId::new(1).unwrap(), ConnId::new(2).unwrap());
        app.tip_came(one, Tip { of: 4, version: 2 });
        app.tip_came(one, Tip { of: 4, version: 3 });
        app.tip_came(other, Tip { of: 4, version: 1 });
        assert_eq!(app.tips_back.load(Ordering::Relaxed), 0);
        app.tip_came(one, Tip { of: 4, version: 2 });
        assert_eq!(app.tips_back.load(Ordering::Relaxed), 1);
        assert_eq!(app.tip_over(other), Some(Tip { of: 4, version: 1 }));
    }
}
