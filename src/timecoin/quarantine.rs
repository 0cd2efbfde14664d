//! Quarantine: which peers are kept out, for how long and why.
//!
//! [`Quarantine`] is the policy alone and takes `now`. [`PeerQuarantine`] adds a lock and a clock,
//! and has the method names of the legacy crate.

mod reason;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Clock, Source, Tick, canonical_ip};
use crate::sync::Mutex;

use reason::backoff_duration;
pub use reason::{QuarantineReason, QuarantineSeverity};

const SECS_PER_DAY: u64 = 24 * 60 * 60;
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// A quarantined peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineEntry {
    /// The address of the latest offence, canonical. All of its source is quarantined: an IPv4
    /// address, or an IPv6 /64.
    pub peer_ip: IpAddr,
    /// The latest reason.
    pub reason: QuarantineReason,
    /// When the quarantine began, on the owner's clock.
    pub quarantined_at: Tick,
    /// Number of offences of all kinds that are still remembered.
    pub attempts: u32,
    /// When the quarantine ends, on the owner's clock.
    pub expires_at: Tick,
}

/// Limits and durations of a quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineConfig {
    /// Maximum number of sources remembered. Default 10,000. When full, an expired entry is
    /// replaced. Without one the new source is not taken: no quarantine ends early because of
    /// other offenders.
    pub max_quarantine_size: usize,
    /// Duration for a first offence if severity does not decide. Default one hour.
    pub default_duration: Duration,
    /// Whether the severity of the reason decides the duration. Default `true`.
    pub use_severity_based_durations: bool,
    /// How long an expired address is remembered, so that its next offence lasts longer. Default
    /// one day.
    pub memory: Duration,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self {
            max_quarantine_size: 10_000,
            default_duration: Duration::from_secs(3600),
            use_severity_based_durations: true,
            memory: Duration::from_secs(SECS_PER_DAY),
        }
    }
}

/// The result of recording an offence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quarantined {
    /// The peer is quarantined until then.
    Until(Tick),
    /// The peer is on the whitelist.
    Whitelisted,
    /// There is no room. Cure: raise `max_quarantine_size`.
    Full,
}

/// Number of quarantined peers by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuarantineStats {
    /// All of them.
    pub total_quarantined: usize,
    /// Because of a different genesis block.
    pub genesis_mismatch: usize,
    /// Because of a fork.
    pub fork_detected: usize,
    /// Because of an impossible height.
    pub suspicious_height: usize,
    /// Because of a consensus violation.
    pub consensus_violation: usize,
    /// Because of an invalid block.
    pub invalid_block: usize,
    /// Because of an invalid transaction.
    pub invalid_transaction: usize,
    /// Because of a different protocol version.
    pub protocol_mismatch: usize,
    /// Because of failing connections.
    pub connection_failures: usize,
    /// Because of too many requests.
    pub rate_limit_exceeded: usize,
    /// Because of missing replies.
    pub excessive_timeouts: usize,
}

/// The policy alone: no lock, no clock.
#[derive(Clone, Debug)]
pub struct Quarantine {
    config: QuarantineConfig,
    /// By source, so that an IPv6 host has no other address to come from.
    entries: HashMap<Source, QuarantineEntry>,
    /// Ordered by expiry, so that expired entries are found without a scan.
    by_expiry: BTreeSet<(Tick, Source)>,
    whitelist: HashSet<IpAddr>,
}

impl Quarantine {
    /// An empty quarantine.
    pub fn new(config: QuarantineConfig) -> Self {
        Self { config, entries: HashMap::new(), by_expiry: BTreeSet::new(), whitelist: HashSet::new() }
    }

    /// Records an offence.
    pub fn insert(&mut self, ip: IpAddr, reason: QuarantineReason, now: Tick) -> Quarantined {
        let (ip, source) = (canonical_ip(ip), Source::of(ip));
        if self.whitelist.contains(&ip) {
            return Quarantined::Whitelisted;
        }
        self.remove_expired(now);
        let before = self.entries.get(&source).map(|known| known.attempts);
        let attempts = match before {
            Some(before) => before.saturating_add(1),
            None if self.make_room(now) => 1,
            None => return Quarantined::Full,
        };
        let lasts = if self.config.use_severity_based_durations {
            reason.severity().duration_with_backoff(attempts)
        } else {
            backoff_duration(self.config.default_duration, attempts)
        };
        self.remove(&source);
        let expires_at = now.after(lasts);
        let entry = QuarantineEntry { peer_ip: ip, reason, quarantined_at: now, attempts, expires_at };
        self.by_expiry.insert((expires_at, source));
        self.entries.insert(source, entry);
        Quarantined::Until(expires_at)
    }

    /// The entry of a peer that is quarantined at `now`.
    pub fn get(&self, ip: &IpAddr, now: Tick) -> Option<&QuarantineEntry> {
        if self.is_whitelisted(ip) {
            return None;
        }
        self.entries.get(&Source::of(*ip)).filter(|entry| entry.expires_at > now)
    }

    /// Whether a peer is quarantined at `now`.
    pub fn contains(&self, ip: &IpAddr, now: Tick) -> bool {
        self.get(ip, now).is_some()
    }

    /// Whether a peer is excluded from consensus at `now`.
    pub fn excludes_from_consensus(&self, ip: &IpAddr, now: Tick) -> bool {
        self.get(ip, now).is_some_and(|entry| entry.reason.excludes_from_consensus())
    }

    /// Ends a peer's quarantine and forgets its offences. Returns `false` if it was not
    /// quarantined.
    pub fn release(&mut self, ip: &IpAddr, now: Tick) -> bool {
        self.remove(&Source::of(*ip)).is_some_and(|entry| entry.expires_at > now)
    }

    /// Adds a peer to the whitelist and ends its quarantine, but not that of another host in its
    /// IPv6 /64.
    pub fn whitelist(&mut self, ip: IpAddr) {
        let (ip, source) = (canonical_ip(ip), Source::of(ip));
        if self.entries.get(&source).is_some_and(|entry| entry.peer_ip == ip) {
            self.remove(&source);
        }
        self.whitelist.insert(ip);
    }

    /// Removes a peer from the whitelist. Returns `false` if it was not on it.
    pub fn unwhitelist(&mut self, ip: &IpAddr) -> bool {
        self.whitelist.remove(&canonical_ip(*ip))
    }

    /// Whether a peer is on the whitelist.
    pub fn is_whitelisted(&self, ip: &IpAddr) -> bool {
        self.whitelist.contains(&canonical_ip(*ip))
    }

    /// Ends all quarantines and forgets all offences.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_expiry.clear();
    }

    /// The peers quarantined at `now`. Cost: O(n).
    pub fn active(&self, now: Tick) -> impl Iterator<Item = &QuarantineEntry> {
        self.entries.values().filter(move |entry| entry.expires_at > now)
    }

    /// Number of sources remembered, expired ones included.
    pub fn tracked(&self) -> usize {
        self.entries.len()
    }

    /// Forgets the sources that expired at least [`QuarantineConfig::memory`] ago and returns how
    /// many. Cost: O(log n) each.
    pub fn remove_expired(&mut self, now: Tick) -> usize {
        let mut gone = 0;
        while let Some((end, source)) = self.by_expiry.first().copied() {
            // An entry that ends at `now` counts as expired, so a `memory` of zero remembers
            // nothing.
            if end > now || now.since(end) < self.config.memory {
                break;
            }
            self.remove(&source);
            gone += 1;
        }
        gone
    }

    fn make_room(&mut self, now: Tick) -> bool {
        if self.entries.len() < self.config.max_quarantine_size {
            return true;
        }
        match self.by_expiry.first().copied() {
            Some((end, source)) if end <= now => self.remove(&source).is_some(),
            _ => false,
        }
    }

    fn remove(&mut self, source: &Source) -> Option<QuarantineEntry> {
        let entry = self.entries.remove(source)?;
        self.by_expiry.remove(&(entry.expires_at, *source));
        Some(entry)
    }
}

/// A quarantine to share. Every call takes one short lock. Methods are `async` only where the
/// legacy ones were.
#[derive(Debug)]
pub struct PeerQuarantine {
    state: Mutex<Quarantine>,
    warnings: Mutex<Warnings>,
    clock: Clock,
}

impl PeerQuarantine {
    /// An empty quarantine with the default configuration.
    pub fn new() -> Self {
        Self::with_config(QuarantineConfig::default())
    }

    /// An empty quarantine.
    pub fn with_config(config: QuarantineConfig) -> Self {
        Self { state: Mutex::new(Quarantine::new(config)), warnings: Mutex::default(), clock: Clock::new() }
    }

    /// An empty quarantine in which every first offence lasts `duration`.
    pub fn with_duration(duration: Duration) -> Self {
        let config = QuarantineConfig { default_duration: duration, ..QuarantineConfig::default() };
        Self::with_config(QuarantineConfig { use_severity_based_durations: false, ..config })
    }

    /// Records an offence.
    pub async fn quarantine_peer(&self, peer_ip: IpAddr, reason: QuarantineReason) -> Quarantined {
        let became = self.state.lock().insert(peer_ip, reason.clone(), self.clock.now());
        let not_logged = match became {
            Quarantined::Whitelisted => None,
            _ => self.warnings.lock().next(self.clock.now()),
        };
        match (became, not_logged) {
            (Quarantined::Until(_), Some(not_logged)) => {
                tracing::warn!(peer = %peer_ip, %reason, not_logged, "quarantined");
            }
            (Quarantined::Full, Some(not_logged)) => {
                tracing::warn!(peer = %peer_ip, %reason, not_logged, "not quarantined: no room");
            }
            (outcome, _) => tracing::debug!(peer = %peer_ip, %reason, ?outcome, "offence"),
        }
        became
    }

    /// Whether a peer is quarantined now.
    pub async fn is_quarantined(&self, peer_ip: &IpAddr) -> bool {
        self.contains(peer_ip)
    }

    /// [`PeerQuarantine::is_quarantined`] for synchronous callers, such as the check of a
    /// handshake.
    pub fn contains(&self, peer_ip: &IpAddr) -> bool {
        self.state.lock().contains(peer_ip, self.clock.now())
    }

    /// Whether a peer is excluded from consensus now.
    pub async fn should_exclude_from_consensus(&self, peer_ip: &IpAddr) -> bool {
        self.state.lock().excludes_from_consensus(peer_ip, self.clock.now())
    }

    /// The reason of a peer's current quarantine.
    pub async fn get_reason(&self, peer_ip: &IpAddr) -> Option<QuarantineReason> {
        self.get_entry(peer_ip).await.map(|entry| entry.reason)
    }

    /// The entry of a peer that is quarantined now.
    pub async fn get_entry(&self, peer_ip: &IpAddr) -> Option<QuarantineEntry> {
        self.state.lock().get(peer_ip, self.clock.now()).cloned()
    }

    /// Ends a peer's quarantine and forgets its offences. Returns `false` if it was not
    /// quarantined.
    pub async fn release_peer(&self, peer_ip: &IpAddr) -> bool {
        self.state.lock().release(peer_ip, self.clock.now())
    }

    /// Adds a peer to the whitelist and ends its quarantine.
    pub async fn add_to_whitelist(&self, peer_ip: IpAddr) {
        self.state.lock().whitelist(peer_ip);
    }

    /// Removes a peer from the whitelist. Returns `false` if it was not on it.
    pub async fn remove_from_whitelist(&self, peer_ip: &IpAddr) -> bool {
        self.state.lock().unwhitelist(peer_ip)
    }

    /// Whether a peer is on the whitelist.
    pub async fn is_whitelisted(&self, peer_ip: &IpAddr) -> bool {
        self.state.lock().is_whitelisted(peer_ip)
    }

    /// Ends all quarantines and forgets all offences.
    pub async fn clear_all(&self) {
        self.state.lock().clear();
    }

    /// The peers that are quarantined now. Cost: O(n).
    pub async fn get_quarantined_peers(&self) -> Vec<QuarantineEntry> {
        self.state.lock().active(self.clock.now()).cloned().collect()
    }

    /// Number of peers that are quarantined now. Cost: O(n).
    pub async fn count(&self) -> usize {
        self.state.lock().active(self.clock.now()).count()
    }

    /// Number of peers that are quarantined now, by reason. Cost: O(n).
    pub async fn get_stats(&self) -> QuarantineStats {
        let state = self.state.lock();
        let mut stats = QuarantineStats::default();
        for entry in state.active(self.clock.now()) {
            stats.total_quarantined += 1;
            *stats.counter_for(&entry.reason) += 1;
        }
        stats
    }

    /// Forgets the sources that expired at least [`QuarantineConfig::memory`] ago and returns how
    /// many. Every new offence does the same, so calling this only frees memory sooner.
    pub async fn cleanup_expired(&self) -> usize {
        self.state.lock().remove_expired(self.clock.now())
    }

    /// Runs [`PeerQuarantine::cleanup_expired`] every 300 s, in a task that ends when the last
    /// other owner is dropped.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_cleanup_task(self: Arc<Self>) {
        let weak = Arc::downgrade(&self);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(300));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let Some(quarantine) = weak.upgrade() else { return };
                quarantine.cleanup_expired().await;
            }
        });
    }
}

/// How many warnings strangers can cause: one a second, with the number of those left out.
///
/// Invariant: `output_never_hurts_the_node`.
#[derive(Debug, Default)]
struct Warnings {
    last: Option<Tick>,
    left_out: u64,
}

impl Warnings {
    /// How many were left out before this one; `None` if it is left out too.
    fn next(&mut self, now: Tick) -> Option<u64> {
        if self.last.is_some_and(|last| now.since(last) < WARNING_INTERVAL) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Default for PeerQuarantine {
    fn default() -> Self {
        Self::new()
    }
}

impl QuarantineStats {
    fn counter_for(&mut self, reason: &QuarantineReason) -> &mut usize {
        match reason {
            QuarantineReason::GenesisMismatch { .. } => &mut self.genesis_mismatch,
            QuarantineReason::ForkDetected { .. } => &mut self.fork_detected,
            QuarantineReason::SuspiciousHeight { .. } => &mut self.suspicious_height,
            QuarantineReason::ConsensusViolation { .. } => &mut self.consensus_violation,
            QuarantineReason::InvalidBlock { .. } => &mut self.invalid_block,
            QuarantineReason::InvalidTransaction { .. } => &mut self.invalid_transaction,
            QuarantineReason::ProtocolMismatch { .. } => &mut self.protocol_mismatch,
            QuarantineReason::ConnectionFailures { .. } => &mut self.connection_failures,
            QuarantineReason::RateLimitExceeded { .. } => &mut self.rate_limit_exceeded,
            QuarantineReason::ExcessiveTimeouts { .. } => &mut self.excessive_timeouts,
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests;
