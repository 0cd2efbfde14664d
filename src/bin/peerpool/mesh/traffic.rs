//! The load: the message mix of a blockchain node, at a steady rate for the whole mesh.
//!
//! | share | message | sent as |
//! |---|---|---|
//! | 48 % | vote, 120 to 200 B | urgent broadcast |
//! | 2 % | block proposal, 2 to 48 KB | urgent broadcast |
//! | 40 % | transaction, 180 to 700 B | normal broadcast |
//! | 7 % | tip | state |
//! | 3 % | block request | request, answered on the bulk lane |

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use peerpool::{PeerRequestError, RelayOutcome, RequestAnyOptions, RequestError};

use super::cluster::Cluster;
use super::codec::MessageClass;
use super::ledger::SentMessage;
use super::member::Member;
use super::{StopFlag, increment, lock, stopped};

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often messages that are due are sent.
const SEND_INTERVAL: Duration = Duration::from_millis(2);

/// How much traffic to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) messages_per_second: u64,
    pub(super) duration: Duration,
}

/// The traffic sent so far.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) broadcasts: AtomicU64,
    pub(super) tips: AtomicU64,
    pub(super) requests_sent: AtomicU64,
    pub(super) requests_answered: AtomicU64,
    /// Answers that are not the requested block.
    pub(super) wrong_answers: AtomicU64,
    /// Broadcasts that the sending node refused.
    pub(super) refused_broadcasts: AtomicU64,
    pub(super) requests: Mutex<RequestStats>,
    /// How long traffic was sent.
    pub(super) duration: Mutex<Duration>,
}

/// The outcomes of requests.
#[derive(Debug, Default)]
pub(super) struct RequestStats {
    pub(super) round_trips_us: Vec<u32>,
    /// Number of failures by reason.
    pub(super) failures: BTreeMap<String, u64>,
}

/// Sends the load from random nodes, until its end or until the stop flag is set. Returns when
/// every request has been answered or has failed.
pub(super) async fn drive(
    cluster: &Cluster,
    traffic: &Arc<Traffic>,
    load: Load,
    mut rng: fastrand::Rng,
    mut stop: StopFlag,
) {
    let started = Instant::now();
    let mut requests = JoinSet::new();
    let mut sent = 0u64;
    loop {
        let elapsed = started.elapsed().min(load.duration);
        let due = (elapsed.as_secs_f64() * load.messages_per_second as f64) as u64;
        if sent < due {
            let alive = cluster.alive();
            while sent < due && !alive.is_empty() {
                let sender = &alive[rng.usize(..alive.len())];
                send_one(cluster, traffic, sender, &mut rng, &mut requests);
                sent += 1;
            }
        }
        while requests.try_join_next().is_some() {}
        *lock(&traffic.duration) = elapsed;
        if elapsed >= load.duration {
            break;
        }
        tokio::select! {
            () = sleep(SEND_INTERVAL) => {}
            () = stopped(&mut stop) => break,
        }
    }
    // Each request has its own timeout, so this ends.
    while requests.join_next().await.is_some() {}
}

/// Sends one message of the mix from `sender`.
fn send_one(
    cluster: &Cluster,
    traffic: &Arc<Traffic>,
    sender: &Arc<Member>,
    rng: &mut fastrand::Rng,
    requests: &mut JoinSet<()>,
) {
    match rng.u32(..100) {
        0..48 => broadcast(cluster, traffic, sender, MessageClass::Vote, rng.usize(120..200)),
        48..50 => broadcast(cluster, traffic, sender, MessageClass::Proposal, rng.usize(2_000..48_000)),
        50..90 => broadcast(cluster, traffic, sender, MessageClass::Transaction, rng.usize(180..700)),
        90..97 => {
            sender.publish_tip();
            increment(&traffic.tips);
        }
        _ => request_block(cluster, traffic, sender, rng, requests),
    }
}

/// Broadcasts a new message of about `size` bytes and records it in the ledger.
fn broadcast(cluster: &Cluster, traffic: &Traffic, sender: &Member, class: MessageClass, size: usize) {
    let sent_at = cluster.epoch.now();
    let number = cluster.ledger.record(SentMessage { sender: sender.incarnation, sent_at });
    sender.app.mark_own(number);
    let message = sender.app.codec.encode_broadcast(class, number, sent_at, size);
    increment(&traffic.broadcasts);
    if !matches!(sender.node.relay(&message, None), Ok(RelayOutcome::New)) {
        increment(&traffic.refused_broadcasts);
    }
}

/// Requests a block, either from a given peer or from any peer.
fn request_block(
    cluster: &Cluster,
    traffic: &Arc<Traffic>,
    sender: &Arc<Member>,
    rng: &mut fastrand::Rng,
    requests: &mut JoinSet<()>,
) {
    let height = rng.u64(..);
    let from_any = rng.bool();
    let peers: Vec<_> = sender.node.roster().iter().map(|peer| *peer.key()).collect();
    let peer = if peers.is_empty() { None } else { Some(peers[rng.usize(..peers.len())]) };
    let (node, traffic, epoch) = (sender.node.clone(), Arc::clone(traffic), cluster.epoch);
    let codec = sender.app.codec;
    let request = codec.encode_block_request(height);
    increment(&traffic.requests_sent);
    requests.spawn(async move {
        let started = epoch.now();
        let answer = match peer {
            Some(key) if !from_any => node.request(&key, request, REQUEST_TIMEOUT).await,
            _ => {
                let options = RequestAnyOptions { timeout: REQUEST_TIMEOUT, ..RequestAnyOptions::default() };
                node.request_any(request, &options).await.map(|(_, answer)| answer)
            }
        };
        match answer {
            Ok(block) => {
                increment(&traffic.requests_answered);
                if !codec.is_block(height, &block) {
                    increment(&traffic.wrong_answers);
                }
                let round_trip = u32::try_from(epoch.now() - started).unwrap_or(u32::MAX);
                lock(&traffic.requests).round_trips_us.push(round_trip);
            }
            Err(error) => {
                *lock(&traffic.requests).failures.entry(failure_reason(&error)).or_default() += 1;
            }
        }
    });
}

/// The reason of a failure, without the parts that differ between peers.
fn failure_reason(error: &PeerRequestError) -> String {
    match error {
        PeerRequestError::NotConnected(_) => "no longer connected".into(),
        PeerRequestError::Request(RequestError::Declined { status, .. }) => format!("declined: {status:?}"),
        other => other.to_string(),
    }
}
