//! The one maintenance loop: it sweeps, dials, discovers and flushes.
//!
//! It only starts work. No step awaits a dial, a disk, a handler or a peer.

use std::cell::{LazyCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::address_book::{MAX_OUTAGE_WAIT, WallTime};
use crate::base::{Direction, PeerId, Tick};
use crate::node::config::RuntimeConfig;
use crate::node::connect::dial::Dialer;
use crate::node::connect::probe::Prober;
use crate::node::connect::source_slots::SlotLimits;
use crate::node::session::peer::Peer;
use crate::pool::DisconnectReason;
use crate::sync::atomic::Ordering;

use super::log_budget::LogKind;
use super::outbound_spread::OutboundSpread;
use super::peer_care::PeerCare;
use super::shared::{Shared, count};
use super::stall::StallMeter;

/// Peers that are examined together in a sweep.
const SWEEP_BATCH: usize = 16;
/// A young node is in a hurry to learn addresses.
const YOUNG_NODE: Duration = Duration::from_secs(10);
/// The shortest pause between two requests for addresses, once the node is no longer young.
const MIN_DISCOVERY_PAUSE: Duration = Duration::from_secs(1);
/// Without a peer and without a dial that reached anybody for this long, no address waits longer
/// than [`MAX_OUTAGE_WAIT`].
const OUTAGE_AFTER: Duration = Duration::from_secs(60);
/// How long connections wait for memory before one that holds much departs.
const MAX_MEMORY_WAIT: Duration = Duration::from_secs(2);
/// How long a trusted address that the book has no room for waits between two dials.
const UNRECORDED_WAIT: Duration = Duration::from_secs(30);
/// How often the addresses of connected peers are dated to the present, so that the book does not
/// take them for old.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(3600);
/// How often relayed ids and expired bans are dropped.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(5);

/// The maintenance loop and what it remembers between ticks.
pub(crate) struct Maintenance {
    shared: Arc<Shared>,
    dialer: Dialer,
    prober: Prober,
    next_cell: usize,
    asked_at: Option<Tick>,
    stalls: StallMeter,
    waits_shortened_at: Option<Tick>,
    /// When trusted addresses without a record in the book were dialled; at most those that the
    /// configuration lists.
    unrecorded_dials: HashMap<SocketAddr, Tick>,
    confirmed_at: Tick,
    pressure: Option<Pressure>,
    flushed_at: Tick,
    expired_at: Tick,
    is_flushing: Arc<AtomicBool>,
}

/// Connections wait for memory.
#[derive(Clone, Copy, Debug)]
struct Pressure {
    since: Tick,
    /// How many had gone on by then.
    resumed: u64,
}

impl Maintenance {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            dialer: Dialer::new(shared),
            prober: Prober::new(shared),
            next_cell: 0,
            asked_at: None,
            stalls: StallMeter::new(shared.now()),
            waits_shortened_at: None,
            unrecorded_dials: HashMap::new(),
            confirmed_at: shared.now(),
            pressure: None,
            flushed_at: shared.now(),
            expired_at: shared.now(),
            is_flushing: Arc::default(),
        }
    }

    /// Runs until the node stops.
    ///
    /// Invariant: `timers_skip_missed_ticks`.
    /// - Statement: the loop runs until the node stops, whatever a step does, and never catches up
    ///   on missed ticks.
    /// - Enforced by: steps are synchronous and short, a panic in one is caught and counted, missed
    ///   ticks are skipped.
    /// - Breaks if: a step awaits.
    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut period = shared.runtime_config().maintenance_interval;
        let mut ticks = ticks_every(period);
        loop {
            let is_tick = tokio::select! {
                biased;
                // However the node ends, and even if nobody waits for it, the address book is
                // written.
                () = shared.stopped() => return shared.spawn_last_flush(),
                _ = ticks.tick() => true,
                // A peer departed, or addresses came: look for peers at once, but not more often
                // than that.
                () = shared.maintenance_woken() => false,
            };
            let config = shared.runtime_config();
            if is_tick {
                shared.names.look_up_due(&shared, shared.now());
                if let Some(late) = self.stalls.tick(period, shared.now()) {
                    count(&shared.counters.stalls);
                    tracing::warn!(?late, "this process stood still; deadlines of peers are extended");
                }
                self.guarded(|this| this.sweep(&config));
            }
            self.guarded(|this| this.connect_more(&config));
            if is_tick {
                self.guarded(|this| this.housekeeping(&config));
            }
            if config.maintenance_interval != period {
                period = config.maintenance_interval;
                ticks = ticks_every(period);
            }
        }
    }

    fn guarded(&mut self, step: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| step(self))).is_err() {
            count(&self.shared.counters.panics);
            tracing::error!("a maintenance step panicked");
        }
    }

    /// Visits as many roster shards as it takes to visit all of them within a second, at least one.
    fn sweep(&mut self, config: &RuntimeConfig) {
        let shared = &self.shared;
        let now = shared.now();
        let stalls = &self.stalls;
        let care = PeerCare::new(shared, &self.prober, config, stalls);
        let judged_at = now.before(stalls.within(config.liveness.stale_after, now));
        let cells = shared.pool.roster_shard_count();
        let ticks_per_second = (1000 / config.maintenance_interval.as_millis().max(1)).max(1) as usize;
        for _ in 0..cells.div_ceil(ticks_per_second).max(1) {
            let at = self.next_cell % cells.max(1);
            self.next_cell = at + 1;
            let swept = shared.pool.sweep_shard(at, judged_at);
            shared.counters.reaped.fetch_add(swept.removed.len() as u64, Ordering::Relaxed);
            for peer in &swept.removed {
                if shared.may_log(LogKind::PeerDown, peer.ip()) {
                    tracing::info!(peer = %peer.key(), conn = %peer.id(), "reaped: silent for too long");
                }
            }
            for id in &swept.revoked {
                tracing::debug!(conn = %id, "handshake timed out");
            }
            for batch in shared.pool.roster_shard(at).all().chunks(SWEEP_BATCH) {
                if care.any_may_need_care(batch) {
                    batch.iter().filter(|peer| peer.is_live()).for_each(|peer| care.attend(peer));
                }
            }
        }
        self.relieve_memory(now);
        let shared = &self.shared;
        for peer in shared.pool.trim(now) {
            tracing::info!(peer = %peer.key(), "disconnected: over a lowered limit");
        }
        shared.protocols.iter().for_each(|protocol| protocol.tick(now));
    }

    /// Dials trusted addresses always, and others while there are fewer dialled peers than
    /// [`RuntimeConfig::target_outbound`].
    ///
    /// Invariant: `inbound_never_satisfies_outbound`.
    /// - Statement: the node dials until it has peers of its own choice, however many dialled it.
    /// - Enforced by: only outbound connections and dials count here. An address that is connected
    ///   in either direction is no candidate, so that too few candidates make no dial loop.
    /// - Breaks if: all live peers are counted.
    fn connect_more(&mut self, config: &RuntimeConfig) {
        let shared = Arc::clone(&self.shared);
        if shared.is_stopping() {
            return;
        }
        let in_flight = shared.connecting.dials.count();
        let wanted = config.target_outbound.saturating_sub(shared.live_outbound() + in_flight);
        if wanted == 0 && shared.config.trusted.is_empty() {
            return;
        }
        // A walk over all peers, made only if the look-ups leave a question open.
        let connected = LazyCell::new(|| {
            let mut connected = HashSet::new();
            for peer in shared.pool.roster().iter() {
                connected.insert(peer.addr());
                peer.read_info(|info| connected.extend(info.listen));
            }
            connected
        });
        // Includes addresses that are being dialled: a slow dial would be repeated in a loop.
        let dialer = self.dialer.clone();
        let is_busy = |addr: &SocketAddr| {
            let protocol = shared.protocols.for_addr(*addr);
            !shared.protocols.get(protocol).policy().may_dial(*addr)
                || dialer.connected_at(protocol, *addr).is_some()
                || shared.pool.watch_claim(&PeerId::from_addr(*addr)).is_some()
                || connected.contains(addr)
        };
        let dialled = self.dial_trusted(config, &connected, is_busy);
        if wanted == 0 {
            return;
        }
        let local_addrs = shared.connecting.local_addrs();
        // Such an address would get no slot, and take the place of one that does.
        let max_per_source = config.limits.max_per_source as usize;
        let is_ip_full = |addr: &SocketAddr| shared.pool.count_by_ip(addr.ip()) >= max_per_source;
        let spread = RefCell::new(OutboundSpread::new(&shared, config));
        let skip = |addr: &SocketAddr| {
            is_busy(addr)
                || dialled.contains(addr)
                || local_addrs.contains(addr)
                || is_ip_full(addr)
                // Last: it counts the address as chosen.
                || !spread.borrow_mut().choose(addr)
        };
        let candidates = shared.book.candidates(WallTime::now(), wanted, &skip);
        let is_short = candidates.len() < wanted;
        for addr in candidates {
            if !self.dialer.dial_in_background(addr, any_source(config)) {
                break;
            }
        }
        if is_short {
            self.discover(config);
        }
    }

    /// Dials the trusted addresses that are due and not connected. Returns those whose dial was
    /// begun.
    fn dial_trusted<F: FnOnce() -> HashSet<SocketAddr>>(
        &mut self,
        config: &RuntimeConfig,
        connected: &LazyCell<HashSet<SocketAddr>, F>,
        is_busy: impl Fn(&SocketAddr) -> bool,
    ) -> Vec<SocketAddr> {
        let shared = Arc::clone(&self.shared);
        let now = WallTime::now();
        let mut dialled = Vec::new();
        for addr in shared.names.trusted().iter().copied() {
            if self.dialer.is_connected_or_listening_at(addr) {
                continue;
            }
            let Some(known) = shared.book.get(&addr) else {
                // It was removed from the book; the operator trusts it all the same.
                let is_kept = shared.book.set_trusted(addr, true, now).is_ok();
                if !is_kept && self.may_dial_unrecorded(addr) && !is_busy(&addr) {
                    dialled.push(addr);
                    self.dialer.dial_in_background(addr, any_source(config));
                }
                continue;
            };
            let is_alias = known.alias_of.is_some_and(|of| connected.contains(&of));
            if shared.book.is_due(&addr, now) && !is_alias && !is_busy(&addr) {
                dialled.push(addr);
                self.dialer.dial_in_background(addr, any_source(config));
            }
        }
        dialled
    }

    /// Whether a trusted address that the book has no room for may be dialled now; remembered then.
    ///
    /// Invariant: `trusted_peer_does_not_need_the_book`.
    /// - Statement: a trusted address is dialled whatever the book holds, and its peer takes a
    ///   reserved slot before an ordinary one.
    /// - Enforced by: the configuration has the list. Without a record the waits are kept here.
    /// - Breaks if: an address is dialled only as a candidate of the book.
    fn may_dial_unrecorded(&mut self, addr: SocketAddr) -> bool {
        let now = self.shared.now();
        let is_banned = self.shared.is_addr_banned(addr);
        let is_due = self.unrecorded_dials.get(&addr).is_none_or(|at| now.since(*at) >= UNRECORDED_WAIT);
        if !is_banned && is_due {
            self.unrecorded_dials.insert(addr, now);
        }
        !is_banned && is_due
    }

    /// Asks a random peer for addresses, unless one was asked shortly before.
    fn discover(&mut self, config: &RuntimeConfig) {
        let shared = &self.shared;
        let now = shared.now();
        let is_young =
            now.since(Tick::ZERO) < YOUNG_NODE && shared.live_outbound() < config.target_outbound;
        let longest = if is_young { config.maintenance_interval } else { MIN_DISCOVERY_PAUSE };
        let pause = config.discovery_interval.min(longest).max(config.maintenance_interval);
        if self.asked_at.is_some_and(|asked| now.since(asked) < pause) {
            return;
        }
        let roster = shared.pool.roster();
        let Some(peer) = roster.choose(|below| fastrand::usize(..below), Peer::is_live) else { return };
        self.asked_at = Some(now);
        peer.connection().handle().request_peers();
    }

    /// Flushes the address book, drops expired entries, and discovers, each at its own interval.
    fn housekeeping(&mut self, config: &RuntimeConfig) {
        let now = self.shared.now();
        if now.since(self.flushed_at) >= config.flush_interval {
            self.flushed_at = now;
            self.flush_book();
        }
        if now.since(self.expired_at) >= EXPIRY_INTERVAL {
            self.expired_at = now;
            self.shared.seen.expire(self.shared.config.relay.retention, now);
            self.shared.book.expire(WallTime::now());
        }
        if now.since(self.confirmed_at) >= CONFIRM_INTERVAL {
            self.confirmed_at = now;
            self.confirm_addresses();
        }
        self.check_outage(now);
        for summary in self.shared.take_log_summaries() {
            tracing::info!("{summary}");
        }
        let is_due = self.asked_at.is_none_or(|asked| now.since(asked) >= config.discovery_interval);
        if is_due && config.target_outbound > 0 {
            self.discover(config);
        }
    }

    /// If connections have waited for memory for some time, and none of them could go on, one
    /// departs: of those whose source holds more than its share, the one that makes the least
    /// progress for what it holds.
    ///
    /// Invariant: `held_memory_is_counted_until_released`.
    /// - Statement: at the ceiling the largest holders wait, and then one of them goes. A source
    ///   below its share never does.
    /// - Enforced by: only accounts above the share of their source are compared.
    /// - Breaks if: the peer that asks for memory last is disconnected.
    fn relieve_memory(&mut self, now: Tick) {
        let shared = &self.shared;
        let resumed = shared.budget.resumed();
        if shared.budget.waiting() == 0 {
            self.pressure = None;
            return;
        }
        let pressure = self.pressure.filter(|pressure| pressure.resumed == resumed);
        let pressure = *self.pressure.insert(pressure.unwrap_or(Pressure { since: now, resumed }));
        if now.since(pressure.since) < MAX_MEMORY_WAIT {
            return;
        }
        self.pressure = Some(Pressure { since: now, resumed });
        let roster = shared.pool.roster();
        let progress = |peer: &&Arc<Peer>| {
            let account = peer.connection().handle().held_memory()?;
            account.is_above_share().then(|| account.progress_per_byte())
        };
        let candidates = roster.iter().filter_map(|peer| Some((progress(&peer)?, peer)));
        let Some((_, peer)) = candidates.min_by(|(one, _), (other, _)| one.total_cmp(other)) else { return };
        if shared.may_log(LogKind::PeerDown, peer.ip()) {
            tracing::info!(peer = %peer.key(), "closed: others wait for the memory that it holds");
        }
        shared.pool.remove(peer.key(), peer.id(), DisconnectReason::Overloaded);
    }

    fn confirm_addresses(&self) {
        let roster = self.shared.pool.roster();
        let addr_of = |peer: &Arc<Peer>| match peer.direction() {
            Direction::Outbound => Some(peer.addr()),
            Direction::Inbound => peer.read_info(|info| info.listen.filter(|_| info.listen_verified)),
        };
        let addrs: Vec<_> = roster.iter().filter_map(addr_of).collect();
        self.shared.book.confirm(&addrs, WallTime::now());
    }

    /// While this node reaches nobody, no address waits for long.
    ///
    /// Invariant: `busy_is_not_failed`.
    /// - Statement: a peer without a free slot, and an outage of our own network, age no address.
    /// - Enforced by: neither counts as a failure in the book, and during an outage waits that grew
    ///   before it are shortened.
    /// - Breaks if: every failed dial counts against its address.
    fn check_outage(&mut self, now: Tick) {
        let is_outage = self.shared.pool.is_empty() && self.shared.reaches_nobody_for(OUTAGE_AFTER);
        if is_outage && self.waits_shortened_at.is_none_or(|at| now.since(at) >= OUTAGE_AFTER) {
            self.waits_shortened_at = Some(now);
            self.shared.book.shorten_waits(MAX_OUTAGE_WAIT, WallTime::now());
        }
    }

    /// Writes the address book where blocking is allowed, never twice at a time.
    fn flush_book(&self) {
        use std::sync::atomic::Ordering::{AcqRel, Release};
        if self.is_flushing.swap(true, AcqRel) {
            return;
        }
        let (shared, is_flushing) = (Arc::clone(&self.shared), Arc::clone(&self.is_flushing));
        self.shared.tasks.spawn_blocking(move || {
            if let Err(error) = shared.book.flush() {
                tracing::error!(%error, "the address book could not be written; it is tried again");
            }
            is_flushing.store(false, Release);
        });
    }
}

/// The bound of all dials of the node's own accord. Sources are bounded by the choice.
fn any_source(config: &RuntimeConfig) -> SlotLimits {
    SlotLimits { total: config.max_concurrent_dials, per_source: usize::MAX, per_subnet: usize::MAX }
}

fn ticks_every(period: Duration) -> Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}
