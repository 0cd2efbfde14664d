//! The application of each node: it passes on what is new, answers block requests, and keeps exact count.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::sync::Mutex;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::{ConnId, Lane};
use crate::node::{Context, Event, Fresh, Handled, Handler, Message, NodeRef, Request, Responder};
use crate::wire::Status;

use super::clock::{Epoch, Micros};
use super::graph::Incarnation;
use super::ledger::Ledger;

/// Kinds of messages.
pub(super) mod kind {
    /// State: how far a node is.
    pub(crate) const TIP: u16 = 1;
    /// Urgent and small.
    pub(crate) const VOTE: u16 = 2;
    /// Urgent and larger.
    pub(crate) const PROPOSAL: u16 = 3;
    /// The bulk of the gossip.
    pub(crate) const TRANSACTION: u16 = 4;
    /// A request for a block.
    pub(crate) const BLOCK: u16 = 5;
}

/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 256 * 1024;

/// What one incarnation received. Its handler.
#[derive(Debug)]
pub(super) struct Tally {
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

impl Tally {
    pub(super) fn new(of: Incarnation, epoch: Epoch, ledger: Arc<Ledger>) -> Self {
        Self {
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
        if node.set_state(kind::TIP, b"", tip(self.of, *version)).is_err() {
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

    fn tip_came(&self, conn: ConnId, payload: &[u8]) {
        let Some((of, version)) = read_tip(payload) else { return add(&self.corrupt) };
        let before = self.tips.lock().insert(conn, Tip { of, version });
        if before.is_some_and(|before| before.of != of || before.version > version) {
            add(&self.tips_back);
        }
    }
}

impl Handler for Tally {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        let conn = cx.peer().id();
        if event.kind == kind::TIP {
            self.tip_came(conn, &event.payload);
            return Handled::Done;
        }
        let message = Message { lane: event.lane, kind: event.kind, payload: event.payload.into_bytes() };
        let Some((number, sent)) = read_gossip(message.kind, &message.payload) else {
            add(&self.corrupt);
            return Handled::Done;
        };
        match cx.node().relay(&message, Some(conn)) {
            Ok(Fresh::New) => self.handed_over(number, sent),
            Ok(Fresh::Seen) => add(&self.redundant),
            Ok(Fresh::Full) | Err(_) => add(&self.unremembered),
        }
        Handled::Done
    }

    fn request(&self, _: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        // What does not reach the asker any more has failed there with a reason of its own.
        let _ = match read_number(&request.payload) {
            Some(height) if request.kind == kind::BLOCK => responder.on(Lane::Bulk).answer(block(height)),
            _ => responder.decline(Status::UnknownKind, ""),
        };
        Handled::Done
    }
}

/// A message to everybody: its number, when it was sent, and as much filling as makes `size` bytes.
pub(super) fn gossip(number: u64, at: Micros, size: usize) -> Bytes {
    let mut bytes = vec![number as u8; size.max(16)];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..16].copy_from_slice(&at.to_le_bytes());
    bytes.into()
}

fn read_gossip(kind: u16, payload: &[u8]) -> Option<(u64, Micros)> {
    let number = read_number(payload)?;
    let at = read_number(payload.get(8..)?)?;
    let known = matches!(kind, kind::VOTE | kind::PROPOSAL | kind::TRANSACTION);
    let whole = payload[16..].iter().all(|byte| *byte == number as u8);
    (known && whole).then_some((number, at))
}

/// A tip: whose it is, and its version.
pub(super) fn tip(of: Incarnation, version: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(12);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&of.to_le_bytes());
    bytes.into()
}

fn read_tip(payload: &[u8]) -> Option<(Incarnation, u64)> {
    let of = payload.get(8..12)?.try_into().ok()?;
    Some((Incarnation::from_le_bytes(of), read_number(payload)?))
}

/// The block of this height.
fn block(height: u64) -> Bytes {
    let mut bytes = vec![height as u8; BLOCK_BYTES];
    bytes[..8].copy_from_slice(&height.to_le_bytes());
    bytes.into()
}

/// Whether an answer is the block of this height, whole.
pub(super) fn is_block(height: u64, answer: &[u8]) -> bool {
    answer.len() == BLOCK_BYTES
        && read_number(answer) == Some(height)
        && answer[8..].iter().all(|byte| *byte == height as u8)
}

fn read_number(payload: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(payload.get(..8)?.try_into().ok()?))
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn gossip_reads_back_and_a_flipped_bit_is_noticed() {
        let bytes = gossip(300, 77, 40);
        assert_eq!(bytes.len(), 40);
        assert_eq!(read_gossip(kind::VOTE, &bytes), Some((300, 77)));
        let mut broken = bytes.to_vec();
        broken[39] ^= 1;
        assert_eq!(read_gossip(kind::VOTE, &broken), None);
        assert_eq!(read_gossip(kind::VOTE, &bytes[..15]), None);
        assert_eq!(read_gossip(99, &bytes), None);
    }

    #[test]
    fn a_block_is_known_by_its_height() {
        assert!(is_block(9, &block(9)));
        assert!(!is_block(9, &block(10)));
        assert!(!is_block(9, &block(9)[1..]));
    }

    #[test]
    fn a_second_hand_over_is_a_duplicate_also_of_ones_own() {
        let tally = Tally::new(0, Epoch::new(), Arc::default());
        tally.handed_over(70, 0);
        tally.handed_over(70, 0);
        tally.sent(3);
        tally.handed_over(3, 0);
        assert_eq!(tally.delivered.load(Ordering::Relaxed), 1);
        assert_eq!(tally.duplicates.load(Ordering::Relaxed), 2);
        assert_eq!(tally.take().1.len(), 1);
    }

    #[test]
    fn a_tip_that_goes_back_on_one_link_is_noticed() {
        let tally = Tally::new(0, Epoch::new(), Arc::default());
        let (one, other) = (ConnId::new(1).unwrap(), ConnId::new(2).unwrap());
        tally.tip_came(one, &tip(4, 2));
        tally.tip_came(one, &tip(4, 3));
        tally.tip_came(other, &tip(4, 1));
        assert_eq!(tally.tips_back.load(Ordering::Relaxed), 0);
        tally.tip_came(one, &tip(4, 2));
        assert_eq!(tally.tips_back.load(Ordering::Relaxed), 1);
        assert_eq!(tally.tip_over(other), Some(Tip { of: 4, version: 1 }));
    }
}
