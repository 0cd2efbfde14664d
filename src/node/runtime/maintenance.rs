//! The one maintenance loop. It only starts work: no step awaits a dial, a disk, a handler or a peer.

use std::cell::LazyCell;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::address_book::{DialOutcome, WallTime};
use crate::base::{Direction, PeerId, Tick, canonical};
use crate::pool::{DisconnectReason, Misbehavior};
use crate::sync::atomic::Ordering;

use crate::node::config::RuntimeConfig;
use crate::node::session::info::Peer;
use crate::node::runtime::shared::{Shared, count};

/// What the loop remembers from one tick to the next.
struct Maintenance {
    next_cell: usize,
    asked_at: Option<Tick>,
    flushed_at: Tick,
    expired_at: Tick,
    flushing: Arc<std::sync::atomic::AtomicBool>,
}

impl Shared {
    /// Invariant 31. Statement: the loop runs until the node stops, whatever a step does. Enforced by: steps are
    /// synchronous and short, a panic in one is caught and counted, missed ticks are skipped. Breaks if: a step awaits.
    pub(crate) async fn maintain(self: Arc<Self>) {
        let mut state = Maintenance {
            next_cell: 0,
            asked_at: None,
            flushed_at: self.now(),
            expired_at: self.now(),
            flushing: Arc::default(),
        };
        let mut period = self.runtime_config().maintenance_interval;
        let mut ticks = ticking(period);
        loop {
            let kicked = tokio::select! {
                biased;
                // Whoever ends the node, and even if nobody waits for it, the book is written.
                () = self.stopped() => return self.flush_at_the_end(),
                _ = ticks.tick() => false,
                // Somebody left or addresses came: look at once, but never spin.
                () = self.kick.notified() => true,
            };
            let runtime = self.runtime_config();
            if kicked {
                self.guarded(|| self.connect_more(&mut state));
            } else {
                self.guarded(|| self.sweep(&mut state, &runtime));
                self.guarded(|| self.connect_more(&mut state));
                self.guarded(|| self.housekeeping(&mut state, &runtime));
            }
            if runtime.maintenance_interval != period {
                period = runtime.maintenance_interval;
                ticks = ticking(period);
            }
        }
    }

    fn guarded(&self, step: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(step)).is_err() {
            count(&self.counters.panics);
            tracing::error!("a maintenance step panicked");
        }
    }

    /// Walks as many cells as it takes to see all of them within a second, at least one.
    fn sweep(self: &Arc<Self>, state: &mut Maintenance, runtime: &RuntimeConfig) {
        let now = self.now();
        let cells = self.pool.roster_shard_count();
        let ticks_a_second = (1000 / runtime.maintenance_interval.as_millis().max(1)).max(1) as usize;
        for _ in 0..cells.div_ceil(ticks_a_second).max(1) {
            let at = state.next_cell % cells.max(1);
            state.next_cell = at + 1;
            let swept = self.pool.sweep_shard(at, now);
            self.counters.reaped.fetch_add(swept.removed.len() as u64, Ordering::Relaxed);
            for peer in &swept.removed {
                tracing::info!(peer = %peer.key(), conn = %peer.id(), "reaped: silent for too long");
            }
            for id in &swept.revoked {
                tracing::debug!(conn = %id, "handshake ran out of time");
            }
            for few in self.pool.roster_shard(at).all().chunks(AT_ONCE) {
                if may_need_care(few, runtime, now) {
                    few.iter()
                        .filter(|peer| peer.is_live())
                        .for_each(|peer| self.look_after(peer, runtime, now));
                }
            }
        }
        for peer in self.pool.trim(now) {
            tracing::info!(peer = %peer.key(), "let go: over a lowered limit");
        }
        self.tongues.iter().for_each(|tongue| tongue.tick(now));
    }

    fn look_after(self: &Arc<Self>, peer: &Arc<Peer>, runtime: &RuntimeConfig, now: Tick) {
        let conn = peer.connection();
        let rules = self.tongues.get(conn.tongue()).policy();
        if conn.handle().stalled_for(now) > rules.write_stall_timeout().unwrap_or(runtime.write_stall_timeout) {
            tracing::info!(peer = %peer.key(), "closed: takes no data");
            self.pool.remove(peer.key(), peer.id(), DisconnectReason::Overloaded);
            return;
        }
        let silent = now.since(peer.last_seen());
        let pings = silent >= rules.ping_after()
            && now.since(conn.pinged_at()) >= ping_interval(peer, runtime.ping_interval);
        if pings {
            // Whatever else it sends: the last ping has had a whole interval. One that we do not read from cannot answer (38).
            if conn.handle().has_unanswered_ping()
                && self.tongues.get(conn.tongue()).features().ping_tokens
                && !peer.is_paused()
            {
                peer.penalize(Misbehavior::Unresponsive, now);
            }
            conn.set_pinged(now);
            conn.handle().ping();
        }
        if peer.uptime(now) >= runtime.stable_after && conn.turns_stable() {
            peer.reward(now);
            if peer.direction() == Direction::Outbound {
                self.book.record(&peer.addr(), DialOutcome::Stable, WallTime::now());
            }
        }
        if peer.direction() == Direction::Inbound
            && (pings || !conn.was_verified_in_vain())
            && !peer.read_info(|info| info.listen_verified)
        {
            self.verify_listen(peer);
        }
    }

    /// Dials trusted peers always, and others while there are too few.
    fn connect_more(self: &Arc<Self>, state: &mut Maintenance) {
        if self.is_stopping() {
            return;
        }
        let runtime = self.runtime_config();
        let wall = WallTime::now();
        let live = self.pool.len();
        let wanted = runtime.target_peers.saturating_sub(live + self.dials.under_way());
        if wanted == 0 && self.config.trusted.is_empty() {
            return;
        }
        // A walk over everybody, for what no look-up has answered: who trusts a few peers has them, most of the time.
        let connected = LazyCell::new(|| {
            let mut connected = HashSet::new();
            for peer in self.pool.roster().iter() {
                connected.insert(peer.addr());
                peer.read_info(|info| connected.extend(info.listen));
            }
            connected
        });
        // An address under way is not offered again, or a slow dial would be tried in a loop.
        let busy = |addr: &SocketAddr| {
            let tongue = self.tongues.at(*addr);
            !self.tongues.get(tongue).policy().may_dial(*addr)
                || self.connected_at(tongue, *addr).is_some()
                || self.pool.watch_claim(&PeerId::from_addr(*addr)).is_some()
                || connected.contains(addr)
        };
        let mut begun = Vec::new();
        for addr in self.config.trusted.iter().map(|addr| canonical(*addr)) {
            if self.is_among_few(addr) {
                continue;
            }
            let Some(known) = self.book.get(&addr) else {
                // Somebody had the book forget it; the operator trusts it all the same.
                let _ = self.book.set_trusted(addr, true, wall);
                continue;
            };
            let is_alias = known.alias_of.is_some_and(|of| connected.contains(&of));
            if self.book.is_due(&addr, wall) && !is_alias && !busy(&addr) {
                begun.push(addr);
                self.dial_in_background(addr, runtime.max_concurrent_dials);
            }
        }
        if wanted == 0 {
            return;
        }
        let listening: Vec<_> = self.listening.lock().iter().map(|(_, addr)| *addr).collect();
        // It would find no room, and take the place of one that does.
        let crowded =
            |addr: &SocketAddr| self.pool.count_by_ip(addr.ip()) >= runtime.limits.max_per_ip as usize;
        let skip = |addr: &SocketAddr| {
            busy(addr) || begun.contains(addr) || listening.contains(addr) || crowded(addr)
        };
        let candidates = self.book.candidates(wall, wanted, &skip);
        let short = candidates.len() < wanted;
        for addr in candidates {
            if !self.dial_in_background(addr, runtime.max_concurrent_dials) {
                break;
            }
        }
        if short {
            self.discover(state, &runtime);
        }
    }

    /// Whether one of the peers of this IP address, if they are few, is at this address or listens there: one that dialled us is
    /// not found under the address that we would dial.
    fn is_among_few(&self, addr: SocketAddr) -> bool {
        self.of_few(addr, |peer| peer.addr() == addr || peer.read_info(|info| info.listen == Some(addr)))
            .is_some()
    }

    /// The peer that dialled us and was proven to listen at this address, if its IP address has few.
    pub(crate) fn listens_at(&self, addr: SocketAddr) -> Option<Arc<Peer>> {
        self.of_few(addr, |peer| peer.read_info(|info| info.listen_verified && info.listen == Some(addr)))
    }

    fn of_few(&self, addr: SocketAddr, is_it: impl Fn(&Peer) -> bool) -> Option<Arc<Peer>> {
        if self.pool.count_by_ip(addr.ip()) > FEW {
            return None;
        }
        self.pool.by_ip(addr.ip()).into_iter().find(|peer| is_it(peer))
    }

    /// Asks some peer which others it knows: now and then, and more often while too few are known.
    fn discover(&self, state: &mut Maintenance, runtime: &RuntimeConfig) {
        let now = self.now();
        // A node that has just started and was told too little by one asks another at once.
        let young = now.since(Tick::ZERO) < YOUNG && self.pool.len() < runtime.target_peers;
        let most = if young { runtime.maintenance_interval } else { Duration::from_secs(1) };
        let pause = runtime.discovery_interval.min(most).max(runtime.maintenance_interval);
        if state.asked_at.is_some_and(|asked| now.since(asked) < pause) {
            return;
        }
        let roster = self.pool.roster();
        let Some(peer) = roster.choose(|below| fastrand::usize(..below), Peer::is_live) else { return };
        state.asked_at = Some(now);
        peer.connection().handle().request_peers();
    }

    fn housekeeping(self: &Arc<Self>, state: &mut Maintenance, runtime: &RuntimeConfig) {
        let now = self.now();
        if now.since(state.flushed_at) >= runtime.flush_interval {
            state.flushed_at = now;
            self.flush_book(&state.flushing);
        }
        if now.since(state.expired_at) >= Duration::from_secs(5) {
            state.expired_at = now;
            self.seen.expire(self.config.relay.retention, now);
            self.book.expire(WallTime::now());
        }
        let stale = state.asked_at.is_none_or(|asked| now.since(asked) >= runtime.discovery_interval);
        if stale && runtime.target_peers > 0 {
            self.discover(state, runtime);
        }
    }

    /// The book orders flushes itself: this one comes after any that is under way.
    fn flush_at_the_end(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        self.spawn_blocking(move || {
            if let Err(error) = shared.book.flush() {
                tracing::error!(%error, "the book could not be written at the end");
            }
        });
    }

    /// Writes the book where blocking is allowed; never two at a time.
    fn flush_book(self: &Arc<Self>, flushing: &Arc<std::sync::atomic::AtomicBool>) {
        if flushing.swap(true, std::sync::atomic::Ordering::AcqRel) {
            return;
        }
        let (shared, flushing) = (Arc::clone(self), Arc::clone(flushing));
        self.spawn_blocking(move || {
            if let Err(error) = shared.book.flush() {
                tracing::error!(%error, "the book could not be written; it is tried again");
            }
            flushing.store(false, std::sync::atomic::Ordering::Release);
        });
    }
}

/// Whether there may be something to do for one of these; [`Shared::look_after`] knows.
///
/// One thing after the other, and nothing to decide before it was asked of all: the walk over idle peers is bound by how many of
/// them can be on their way from memory together.
fn may_need_care(few: &[Arc<Peer>], runtime: &RuntimeConfig, now: Tick) -> bool {
    let any = |is_so: &dyn Fn(&Peer) -> bool| few.iter().fold(false, |any, peer| any | is_so(peer));
    let waits = any(&|peer| peer.connection().handle().is_stalled());
    let due = any(&|peer| now.since(peer.connection().pinged_at()) >= soonest(runtime.ping_interval));
    let proven = any(&|peer| !peer.connection().is_stable() & (peer.uptime(now) >= runtime.stable_after));
    let claims = any(&|peer| {
        peer.direction() == Direction::Inbound
            && peer.read_info(|info| info.listen.is_some() & !info.listen_verified)
    });
    waits | due | proven | claims
}

/// The interval of this peer's pings: spread by a sixteenth either way, so that peers that came together are not pinged
/// together for ever.
fn ping_interval(peer: &Peer, every: Duration) -> Duration {
    let spread = every / 8;
    soonest(every).saturating_add(spread.mul_f64((peer.id().get() % 16) as f64 / 16.0))
}

/// The shortest of these intervals.
fn soonest(every: Duration) -> Duration {
    every - every / 16
}

/// Peers of one IP address that are looked at one by one.
const FEW: usize = 64;
/// Peers that are looked at together.
const AT_ONCE: usize = 16;
/// For so long a node is in a hurry to be told addresses.
const YOUNG: Duration = Duration::from_secs(10);

fn ticking(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}
