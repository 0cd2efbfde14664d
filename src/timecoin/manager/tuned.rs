//! The old network's address rules with a ping time that follows the reaper's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::{Direction, Nonce, PeerId};
use crate::node::{Identity, Rules};
use crate::timecoin::rules::AddressRules;
use crate::wire::Hello;

/// How long a peer must be silent before it is pinged; shared by the rules and whoever changes it. Relaxed: a hint.
#[derive(Clone, Debug)]
pub(super) struct PingAfter(Arc<AtomicU64>);

impl PingAfter {
    pub(super) fn new(stale_after: Duration) -> Self {
        let after = Self(Arc::default());
        after.follow(stale_after);
        after
    }

    /// 60 s, as these rules have it, but soon enough for an answer before the peer is stale.
    pub(super) fn follow(&self, stale_after: Duration) {
        let millis = USUAL.min(stale_after / 4).as_millis() as u64;
        self.0.store(millis, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// The address rules, but for the ping time.
pub(super) struct Tuned {
    pub(super) rules: AddressRules,
    pub(super) ping_after: PingAfter,
}

impl Rules for Tuned {
    fn instance(&self) -> Option<Nonce> {
        self.rules.instance()
    }

    fn identify(&self, hello: &Hello, addr: SocketAddr, direction: Direction) -> Identity {
        self.rules.identify(hello, addr, direction)
    }

    fn key_at(&self, addr: SocketAddr) -> Option<PeerId> {
        self.rules.key_at(addr)
    }

    fn speaks_at(&self, addr: SocketAddr) -> bool {
        self.rules.speaks_at(addr)
    }

    fn ping_after(&self) -> Duration {
        self.ping_after.get()
    }

    fn write_stall(&self) -> Option<Duration> {
        Rules::write_stall(&self.rules)
    }
}

/// An old node pings every 30 s, which shows that it lives, and takes a ping that it did not expect for the answer to its own.
const USUAL: Duration = Duration::from_secs(60);
