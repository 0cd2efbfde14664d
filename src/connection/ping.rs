//! Pings: of the keep-alive, and of whoever must know now whether a peer answers.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::handle::Connection;
use crate::sync::atomic::Ordering;

#[derive(Debug, Default)]
pub(in crate::connection) struct Pings {
    /// To be sent by the task.
    due: Option<u64>,
    /// Sent, not answered.
    sent: Vec<(u64, Instant)>,
    /// Wakes whoever awaits an answer to decide between two connections.
    probes: Vec<(u64, oneshot::Sender<Duration>)>,
}

impl Pings {
    pub(super) fn is_idle(&self) -> bool {
        self.due.is_none() && self.sent.is_empty() && self.probes.is_empty()
    }
}

/// Pings.
impl Connection {
    /// Asks the task to send a ping. The answer sets the peer's round-trip time.
    pub fn ping(&self) {
        let mut rare = self.rare.lock();
        let pings = &mut rare.pings;
        pings.due.get_or_insert_with(|| self.next_token());
        self.wants.fetch_or(PING, Ordering::Release);
        drop(rare);
        self.calls.call();
    }

    /// Sends a ping and waits for its answer; `None` if the connection ends first.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the answer, nothing else.
    pub async fn probe(&self) -> Option<Duration> {
        let (sender, receiver) = oneshot::channel();
        let gone: Vec<_> = {
            let mut rare = self.rare.lock();
            let pings = &mut rare.pings;
            if !self.is_open() {
                return None;
            }
            let token = *pings.due.get_or_insert_with(|| self.next_token());
            self.wants.fetch_or(PING, Ordering::Release);
            let gone = pings.probes.extract_if(.., |(_, waiting)| waiting.is_closed()).collect();
            pings.probes.push((token, sender));
            gone
        };
        // Outside the lock: what they hold of a task may be the last of it.
        drop(gone);
        self.calls.call();
        receiver.await.ok()
    }

    /// Under the lock of the pings. Not kept there, since no token may come twice.
    fn next_token(&self) -> u64 {
        u64::from(self.pinged.fetch_add(1, Ordering::Relaxed))
    }

    /// Asks the peer for addresses; what it says reaches [`ConnectionHandler::on_peers`](crate::connection::ConnectionHandler::on_peers).
    pub fn request_peers(&self) {
        self.wants.fetch_or(PEERS, Ordering::Release);
        self.calls.call();
    }

    /// Whether this was asked for since the last call.
    fn take_wanted(&self, what: u8) -> bool {
        self.wants.load(Ordering::Acquire) & what != 0
            && self.wants.fetch_and(!what, Ordering::Acquire) & what != 0
    }

    pub(in crate::connection) fn take_peers_wanted(&self) -> bool {
        self.take_wanted(PEERS)
    }

    /// The token of the ping to send now, which counts as sent.
    pub(in crate::connection) fn take_ping(&self) -> Option<u64> {
        if !self.take_wanted(PING) {
            return None;
        }
        let mut rare = self.rare.lock();
        let pings = &mut rare.pings;
        let token = pings.due.take()?;
        if !self.shared.features.ping_tokens {
            // One that got lost must not pass its place on to every later one.
            pings.sent.retain(|(_, at)| at.elapsed() < LOST);
        }
        if pings.sent.len() >= MAX_PINGS {
            // The last one's, not the oldest's: that one's answer may be about to come, and would count for nothing.
            pings.sent.pop();
        }
        pings.sent.push((token, Instant::now()));
        Some(token)
    }

    /// A pong arrived: the round-trip time, if it answers a ping of ours. Token zero answers the oldest where the
    /// protocol's pings have no tokens.
    pub(in crate::connection) fn pong(&self, token: u64, tokens: bool) -> Option<Duration> {
        let (rtt, waiting) = {
            let mut rare = self.rare.lock();
            let pings = &mut rare.pings;
            let newest = pings.sent.last()?.0;
            let (at, answered) = if tokens {
                // Whoever answers one has read those before it, which it need not have answered. None came after the newest.
                let before = |(sent, _): &(u64, Instant)| *sent <= token && token <= newest;
                (pings.sent.iter().rposition(before)?, token)
            } else {
                (0, pings.sent[0].0)
            };
            let (_, sent) = pings.sent.remove(at);
            pings.sent.retain(|(token, _)| *token > answered);
            let (done, open) =
                std::mem::take(&mut pings.probes).into_iter().partition(|(token, _)| *token <= answered);
            pings.probes = open;
            let waiting: Vec<_> = done;
            (sent.elapsed(), waiting)
        };
        for (_, probe) in waiting {
            // A prober that gave up needs no answer.
            let _ = probe.send(rtt);
        }
        Some(rtt)
    }

    /// Whether a ping is unanswered.
    pub fn has_unanswered_ping(&self) -> bool {
        let open = self.rare.look(|rare| rare.pings.due.is_some() || !rare.pings.sent.is_empty());
        open.unwrap_or_default()
    }

    /// Whether a ping waits to be sent.
    pub(super) fn wants_ping(&self) -> bool {
        self.wants.load(Ordering::Acquire) & PING != 0
    }
}

/// A pong without a token that took longer is not told from the next one's.
const LOST: Duration = Duration::from_secs(30);
/// Pings whose answers are known: the oldest ones that are unanswered, and the last one.
const MAX_PINGS: usize = 4;
/// A ping is due.
const PING: u8 = 1;
/// The peer is to be asked for addresses.
const PEERS: u8 = 2;
