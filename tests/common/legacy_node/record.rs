//! What a legacy node did and received, in order.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::message::Message;

/// The fate of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameFate {
    /// A ping took it for its reply, and it was one.
    Pong,
    /// A ping took it for its reply, and it was not: the ping failed and the frame is lost.
    LostToPing,
    /// The reply to the running request, which recognised it.
    Reply,
    /// A ping during a request: answered.
    Answered,
    /// Discarded during a request.
    Discarded,
    /// Taken by the read loop of a full node.
    Read,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// The handshake is done, as the dialler.
    Dialled,
    DialFailed(String),
    /// The handshake is done, as the acceptor.
    Accepted,
    /// The socket was closed without a word.
    Refused(String),
    Pooled,
    /// Another connection of that address was in the pool and gave way.
    Replaced,
    /// Connected but not pooled, and so closed.
    NotPooled(&'static str),
    /// Out of the pool, and why.
    Removed(&'static str),
    /// A frame was written: its variant.
    Sent(String),
    SendFailed(String),
    /// A frame was read and understood.
    Got(Message, FrameFate),
    /// What was read was not understood, or nothing could be read.
    ReadFailed(String),
    PingSent,
    PingOk,
    PingFailed(String),
    /// A request began: its variant. The connection's mutex is held from here to the next of the
    /// two below.
    Asked(String),
    Replied(String),
    Unanswered(String),
    /// The read loop of a full node ended.
    LoopEnded(String),
}

/// One event with its time and peer.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Since the node started.
    pub(crate) at: Duration,
    /// The peer by the address it is pooled under (while it is not: the socket's).
    pub(crate) ip: IpAddr,
    pub(crate) what: What,
}

/// Counts of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerCounts {
    pub(crate) pings_sent: usize,
    pub(crate) pings_ok: usize,
    pub(crate) pings_failed: usize,
    /// Frames that pings took for their answer.
    pub(crate) lost: usize,
    /// Frames that requests threw away.
    pub(crate) discarded: usize,
    /// Frames that were not understood, and failed reads.
    pub(crate) unreadable: usize,
    /// All frames that were understood: variants, in order.
    pub(crate) got: Vec<String>,
    /// All frames that were written: variants, in order.
    pub(crate) sent: Vec<String>,
}

/// Clones are the same record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    since: Instant,
    entries: Arc<Mutex<Vec<Entry>>>,
    count: watch::Sender<usize>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), entries: Arc::default(), count: watch::Sender::new(0) }
    }

    pub(super) fn add(&self, ip: IpAddr, what: What) {
        let mut entries = self.entries.lock().unwrap();
        entries.push(Entry { at: self.since.elapsed(), ip, what });
        let count = entries.len();
        self.count.send_replace(count);
    }

    /// All there is.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }

    /// What happened with one peer.
    pub(crate) fn of(&self, ip: IpAddr) -> Vec<What> {
        self.entries().into_iter().filter(|entry| entry.ip == ip).map(|entry| entry.what).collect()
    }

    /// When something first happened that `is` it.
    pub(crate) fn when(&self, is: impl Fn(&What) -> bool) -> Option<Duration> {
        self.entries().iter().find(|entry| is(&entry.what)).map(|entry| entry.at)
    }

    /// Messages of one peer in order, with what became of each.
    pub(crate) fn got(&self, ip: IpAddr) -> Vec<(Message, FrameFate)> {
        let got = |what| if let What::Got(message, fate) = what { Some((message, fate)) } else { None };
        self.of(ip).into_iter().filter_map(got).collect()
    }

    pub(crate) fn counts(&self, ip: IpAddr) -> PeerCounts {
        let mut counts = PeerCounts::default();
        for what in self.of(ip) {
            match what {
                What::PingSent => counts.pings_sent += 1,
                What::PingOk => counts.pings_ok += 1,
                What::PingFailed(_) => counts.pings_failed += 1,
                What::ReadFailed(_) => counts.unreadable += 1,
                What::Sent(variant) => counts.sent.push(variant),
                What::Got(message, fate) => {
                    counts.lost += usize::from(fate == FrameFate::LostToPing);
                    counts.discarded += usize::from(fate == FrameFate::Discarded);
                    counts.got.push(message.variant);
                }
                _ => {}
            }
        }
        counts
    }

    /// Waits until `there` says so of the record.
    ///
    /// # Panics
    /// After `within`, with the record.
    pub(crate) async fn until(&self, within: Duration, there: impl Fn(&Self) -> bool) {
        let mut count = self.count.subscribe();
        let wait = async {
            while !there(self) {
                // The record keeps its sender.
                let _ = count.changed().await;
            }
        };
        if timeout(within, wait).await.is_err() {
            panic!("did not happen within {within:?}: {:#?}", self.entries());
        }
    }
}
