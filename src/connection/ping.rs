//! Pings: for keep-alive, and for callers that must know now whether a peer answers.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::sync::atomic::Ordering;

use super::handle::Connection;
use super::write::MARK_BIT;

/// Without tokens, a pong that took longer than this cannot be told from the next ping's.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// Pings whose pongs are recognised: the oldest unanswered ones, and the newest.
const MAX_OPEN_PINGS: usize = 4;
/// Bit of `Connection::wanted_control`: a ping is due.
const PING: u8 = 1;
/// Bit of `Connection::wanted_control`: the peer is to be asked for addresses.
const PEERS: u8 = 2;

/// The pings of one connection.
#[derive(Debug, Default)]
pub(super) struct Pings {
    /// The token of a ping that the task is to send.
    due: Option<u64>,
    /// Sent and unanswered: token and time.
    sent: Vec<(u64, Instant)>,
    /// Callers of [`Connection::probe`], by the token that they wait for.
    probes: Vec<(u64, oneshot::Sender<Duration>)>,
}

impl Pings {
    pub(super) fn is_idle(&self) -> bool {
        self.due.is_none() && self.sent.is_empty() && self.probes.is_empty()
    }
}

impl Connection {
    /// Makes the task send a ping. The pong sets the peer's round-trip time.
    pub fn ping(&self) {
        let mut rare = self.rare.lock();
        rare.pings.due.get_or_insert_with(|| self.next_token());
        self.wanted_control.fetch_or(PING, Ordering::Release);
        drop(rare);
        self.wake.notify();
    }

    /// Sends a ping and waits for its pong; `None` if the connection ends first.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the pong, nothing else.
    pub async fn probe(&self) -> Option<Duration> {
        let (sender, receiver) = oneshot::channel();
        let abandoned: Vec<_> = {
            let mut rare = self.rare.lock();
            let pings = &mut rare.pings;
            if !self.is_open() {
                return None;
            }
            let token = *pings.due.get_or_insert_with(|| self.next_token());
            self.wanted_control.fetch_or(PING, Ordering::Release);
            let abandoned = pings.probes.extract_if(.., |(_, probe)| probe.is_closed()).collect();
            pings.probes.push((token, sender));
            abandoned
        };
        // Outside the lock: a waker in there may hold the last reference to a task.
        drop(abandoned);
        self.wake.notify();
        receiver.await.ok()
    }

    /// Called under the lock of the pings. The count is not kept there, since no token may be used
    /// twice.
    ///
    /// Invariant: `measured_cannot_fake_the_measurement`.
    /// - Statement: a peer cannot answer a ping that it has not received, and so cannot choose its
    ///   round-trip time.
    /// - Enforced by: half of the token is a keyed hash of the connection and the count.
    /// - Breaks if: a token can be computed from earlier ones.
    fn next_token(&self) -> u64 {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let count = self.ping_count.fetch_add(1, Ordering::Relaxed);
        // Later tokens are larger, because a pong answers the pings before it too.
        let random = KEY.hash_one((self.id(), count)) as u32;
        (u64::from(count) << 32 | u64::from(random)) & !MARK_BIT
    }

    /// Asks the peer for addresses; they reach
    /// [`ConnectionHandler::on_peers`](super::ConnectionHandler::on_peers).
    pub fn request_peers(&self) {
        self.wanted_control.fetch_or(PEERS, Ordering::Release);
        self.wake.notify();
    }

    /// Whether this was asked for since the last call.
    fn take_wanted(&self, bit: u8) -> bool {
        self.wanted_control.load(Ordering::Acquire) & bit != 0
            && self.wanted_control.fetch_and(!bit, Ordering::Acquire) & bit != 0
    }

    pub(super) fn take_peers_wanted(&self) -> bool {
        self.take_wanted(PEERS)
    }

    /// Whether a ping waits to be sent.
    pub(super) fn wants_ping(&self) -> bool {
        self.wanted_control.load(Ordering::Acquire) & PING != 0
    }

    /// The token of the ping to send now, which counts as sent.
    pub(super) fn take_ping(&self) -> Option<u64> {
        if !self.take_wanted(PING) {
            return None;
        }
        let mut rare = self.rare.lock();
        let pings = &mut rare.pings;
        let token = pings.due.take()?;
        if !self.shared.features.ping_tokens {
            // A lost pong must not shift all later ones.
            pings.sent.retain(|(_, at)| at.elapsed() < LOST_AFTER);
        }
        if pings.sent.len() >= MAX_OPEN_PINGS {
            // The newest goes, not the oldest: the oldest one's pong may be about to arrive.
            pings.sent.pop();
        }
        pings.sent.push((token, Instant::now()));
        Some(token)
    }

    /// A pong arrived. Returns the round-trip time if it answers a ping of ours. Where the
    /// protocol's pings have no tokens (`has_token` is `false`), it answers the oldest.
    pub(super) fn pong(&self, token: u64, has_token: bool) -> Option<Duration> {
        let (rtt, answered_probes) = {
            let mut rare = self.rare.lock();
            let pings = &mut rare.pings;
            let newest = pings.sent.last()?.0;
            let (at, answered) = if has_token {
                // A pong also answers the pings before it, which the peer need not have answered.
                // None is newer than the newest.
                let is_answered = |(sent, _): &(u64, Instant)| *sent <= token && token <= newest;
                (pings.sent.iter().rposition(is_answered)?, token)
            } else {
                (0, pings.sent[0].0)
            };
            let (_, sent_at) = pings.sent.remove(at);
            pings.sent.retain(|(token, _)| *token > answered);
            let probes = std::mem::take(&mut pings.probes).into_iter();
            let (done, open): (Vec<_>, _) = probes.partition(|(token, _)| *token <= answered);
            pings.probes = open;
            (sent_at.elapsed(), done)
        };
        for (_, probe) in answered_probes {
            // A caller that gave up needs no answer.
            let _ = probe.send(rtt);
        }
        Some(rtt)
    }

    /// Whether a ping is unanswered.
    pub fn has_unanswered_ping(&self) -> bool {
        let open = self.rare.with(|rare| rare.pings.due.is_some() || !rare.pings.sent.is_empty());
        open.unwrap_or_default()
    }
}
