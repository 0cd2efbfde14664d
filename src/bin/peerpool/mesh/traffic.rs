//! The mix that a node of a chain lives with, at a steady rate for the whole mesh.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use peerpool::node::{PeerRequestError, RelayOutcome, RequestAnyOptions, RequestError};
use peerpool::sync::Mutex;
use peerpool::sync::atomic::{AtomicU64, Ordering};

use super::cluster::Cluster;
use super::codec::Class;
use super::ledger::Sent;
use super::member::Member;
use super::{StopSignal, stopped};

/// What the traffic came to so far.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Messages to everybody.
    pub(super) broadcasts: AtomicU64,
    pub(super) tips: AtomicU64,
    pub(super) asked: AtomicU64,
    pub(super) answered: AtomicU64,
    /// Answers that are not the block that was asked for.
    pub(super) wrong: AtomicU64,
    /// Own messages that the node did not take.
    pub(super) refused: AtomicU64,
    pub(super) asks: Mutex<RequestStats>,
    /// How long it was sent.
    pub(super) lasted: Mutex<Duration>,
}

/// Outcomes of requests.
#[derive(Debug, Default)]
pub(super) struct RequestStats {
    /// Round trips in microseconds.
    pub(super) took: Vec<u32>,
    /// Failures by reason.
    pub(super) failed: BTreeMap<String, u64>,
}

impl RequestStats {
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// Sends at `rate` messages a second for `lasting`, or less where that is stop, then waits for the requests still open.
pub(super) async fn drive(
    cluster: &Cluster,
    traffic: &Arc<Traffic>,
    (rate, lasting): (u64, Duration),
    mut rng: fastrand::Rng,
    mut stop: StopSignal,
) {
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    let mut sent = 0u64;
    loop {
        let passed = begun.elapsed().min(lasting);
        let due = (passed.as_secs_f64() * rate as f64) as u64;
        if sent < due {
            let alive = cluster.alive();
            while sent < due && !alive.is_empty() {
                one(cluster, traffic, &alive[rng.usize(..alive.len())], &mut rng, &mut asking);
                sent += 1;
            }
        }
        while asking.try_join_next().is_some() {}
        *traffic.lasted.lock() = passed;
        if passed >= lasting {
            break;
        }
        tokio::select! {
            () = sleep(Duration::from_millis(2)) => {}
            () = stopped(&mut stop) => break,
        }
    }
    // Each has a deadline of its own.
    while asking.join_next().await.is_some() {}
}

/// One new message of a kind drawn from the mix, from this node.
fn one(
    cluster: &Cluster,
    traffic: &Arc<Traffic>,
    member: &Arc<Member>,
    rng: &mut fastrand::Rng,
    asking: &mut JoinSet<()>,
) {
    match rng.u32(..100) {
        0..48 => tell(cluster, traffic, member, Class::Vote, rng.usize(120..200)),
        48..50 => tell(cluster, traffic, member, Class::Proposal, rng.usize(2_000..48_000)),
        50..90 => tell(cluster, traffic, member, Class::Transaction, rng.usize(180..700)),
        90..97 => {
            member.announce();
            traffic.tips.fetch_add(1, Ordering::Relaxed);
        }
        _ => ask(cluster, traffic, member, rng, asking),
    }
}

/// Tells everybody something new.
fn tell(cluster: &Cluster, traffic: &Traffic, member: &Member, class: Class, size: usize) {
    let at = cluster.epoch.now();
    let number = cluster.ledger.enter(Sent { by: member.of, at });
    member.app.sent(number);
    let message = member.app.codec.gossip(class, number, at, size);
    traffic.broadcasts.fetch_add(1, Ordering::Relaxed);
    if !matches!(member.node.relay(&message, None), Ok(RelayOutcome::New)) {
        traffic.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// RequestStats for a block: any peer, or one that is named.
fn ask(
    cluster: &Cluster,
    traffic: &Arc<Traffic>,
    member: &Arc<Member>,
    rng: &mut fastrand::Rng,
    asking: &mut JoinSet<()>,
) {
    let height = rng.u64(..);
    let any = rng.bool();
    let peers: Vec<_> = member.node.roster().iter().map(|peer| *peer.key()).collect();
    let named = if peers.is_empty() { None } else { Some(peers[rng.usize(..peers.len())]) };
    let (node, traffic, epoch) = (member.node.clone(), Arc::clone(traffic), cluster.epoch);
    let codec = member.app.codec;
    let message = codec.block_request(height);
    traffic.asked.fetch_add(1, Ordering::Relaxed);
    asking.spawn(async move {
        let begun = epoch.now();
        let answer = match named {
            Some(key) if !any => node.request(&key, message, ANSWER).await,
            _ => {
                let how = RequestAnyOptions { timeout: ANSWER, ..RequestAnyOptions::default() };
                node.request_any(message, &how).await.map(|(_, answer)| answer)
            }
        };
        match answer {
            Ok(block) => {
                traffic.answered.fetch_add(1, Ordering::Relaxed);
                if !codec.is_block(height, &block) {
                    traffic.wrong.fetch_add(1, Ordering::Relaxed);
                }
                let took = epoch.now() - begun;
                traffic.asks.lock().took.push(u32::try_from(took).unwrap_or(u32::MAX));
            }
            Err(error) => *traffic.asks.lock().failed.entry(reason(&error)).or_default() += 1,
        }
    });
}

/// The reason without what differs from peer to peer.
fn reason(error: &PeerRequestError) -> String {
    match error {
        PeerRequestError::NotConnected(_) => "no longer connected".into(),
        PeerRequestError::Request(RequestError::Declined { status, .. }) => format!("declined: {status:?}"),
        other => other.to_string(),
    }
}

/// How long a request may take in all.
const ANSWER: Duration = Duration::from_secs(10);
