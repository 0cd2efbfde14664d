//! The connection that owns each remote process: an index by instance nonce and source, derived
//! from the pool and tagged with connection ids.
//!
//! Without proven keys, two connections of one process come under two keys (two addresses). This
//! index finds the second one.
//!
//! Invariant: `copied_claim_gives_no_power`.
//! - Statement: a nonce that another host brings, and anybody can learn a nonce by asking, neither
//!   ends nor keeps out a connection of its owner, nor makes an address its alias.
//! - Enforced by: the same nonce from two sources is two processes here.
//! - Breaks if: a process is looked up by its nonce alone.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::{ConnId, Nonce, PeerId, Source, Tick};
use crate::node::protocol::ProtocolId;
use crate::node::session::peer::Peer;
use crate::sync::{Change, ShardMap};

use super::tie_break::Candidate;

const SHARDS: usize = 16;

/// A remote process: its nonce, in one protocol and at one source. A hash under a secret key of the
/// index, so that nobody can choose two processes with one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProcessId(u64);

/// The connection that owns a process.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) conn: ConnId,
    pub(crate) key: PeerId,
    pub(crate) candidate: Candidate,
    /// `None` during the handshake.
    pub(crate) peer: Option<Arc<Peer>>,
}

/// An owner as the index stores it. Nearly all are live, and those take two words: the peer has the
/// rest.
#[derive(Debug)]
enum Entry {
    Pending(Box<Owner>),
    Live { since: Tick, peer: Arc<Peer> },
}

impl Entry {
    fn conn(&self) -> ConnId {
        match self {
            Self::Pending(owner) => owner.conn,
            Self::Live { peer, .. } => peer.id(),
        }
    }

    fn owner(&self) -> Owner {
        match self {
            Self::Pending(owner) => (**owner).clone(),
            Self::Live { since, peer } => Owner {
                conn: peer.id(),
                key: *peer.key(),
                candidate: Candidate {
                    direction: peer.direction(),
                    since: *since,
                    authenticated: peer.connection().is_authenticated(),
                    // Asked of the new connection only.
                    by_address: false,
                    ip: peer.ip(),
                },
                peer: Some(Arc::clone(peer)),
            },
        }
    }

    fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::Pending(_) => None,
            Self::Live { peer, .. } => Some(peer),
        }
    }
}

/// Invariant: `one_authority_for_connected`.
/// - Statement: this index is derived from the pool; an entry is removed only by the connection it
///   names.
/// - Enforced by: every removal compares the connection id in the same step.
/// - Breaks if: the index is asked whether a peer is connected. Only the pool knows.
#[derive(Debug)]
pub(crate) struct ProcessIndex {
    secret: RandomState,
    map: ShardMap<ProcessId, Entry>,
}

impl ProcessIndex {
    pub(crate) fn new() -> Self {
        Self { secret: RandomState::new(), map: ShardMap::with_shards(SHARDS) }
    }

    /// The process that this nonce stands for at this host. All loopback addresses are one host.
    pub(crate) fn process(&self, protocol: ProtocolId, nonce: Nonce, ip: IpAddr) -> ProcessId {
        let source = (!ip.is_loopback()).then(|| Source::of(ip));
        ProcessId(self.secret.hash_one((protocol, nonce, source)))
    }

    /// Makes `owner` the owner of a process that has none, or whose owner is `instead_of`.
    ///
    /// # Errors
    /// The present owner, if it is another one.
    pub(crate) fn claim(
        &self,
        process: ProcessId,
        owner: Owner,
        instead_of: Option<ConnId>,
    ) -> Result<Pending<'_>, Owner> {
        let conn = owner.conn;
        let entry = Entry::Pending(Box::new(owner));
        let (result, previous) = self.map.update(process, |present| match present {
            Some(present) if Some(present.conn()) != instead_of => (Change::Keep, Err(present.owner())),
            _ => (Change::Put(entry), Ok(())),
        });
        result.map(|()| Pending { index: self, process, conn, previous, is_live: false })
    }

    /// Notes that the owner's handshake is over. `false` if it no longer is the owner.
    fn set_live(&self, process: ProcessId, peer: &Arc<Peer>) -> bool {
        let peer = Arc::clone(peer);
        let (is_owner, displaced) = self.map.update(process, |present| match present {
            Some(Entry::Pending(owner)) if owner.conn == peer.id() => {
                (Change::Put(Entry::Live { since: owner.candidate.since, peer }), true)
            }
            _ => (Change::Keep, false),
        });
        // Outside the shard's lock.
        drop(displaced);
        is_owner
    }

    /// The live peer that owns a process.
    pub(crate) fn live_peer(&self, process: ProcessId) -> Option<Arc<Peer>> {
        let found = self.map.read(&process, |entry| entry.peer().cloned()).flatten();
        found.filter(|peer| peer.is_live())
    }

    /// Removes the entry of a process if this connection owns it.
    pub(crate) fn remove(&self, process: ProcessId, conn: ConnId) {
        drop(self.map.remove_if(&process, |present| present.conn() == conn));
    }

    /// Returns the process to the live peer it was taken from, unless a third connection owns it by
    /// now.
    fn give_back(&self, process: ProcessId, conn: ConnId, entry: Entry, peer: &Peer) {
        let ((), displaced) = self.map.update(process, |present| match present {
            Some(present) if present.conn() == conn => (Change::Put(entry), ()),
            _ => (Change::Keep, ()),
        });
        // Outside the shard's lock.
        drop(displaced);
        if !peer.is_live() {
            // It may have departed before its entry was there to be removed.
            self.remove(process, peer.id());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }
}

/// The ownership of a process by a connection in its handshake. Dropped, the process goes back to
/// its previous live owner, or is released.
#[must_use = "dropped, the process is released"]
pub(crate) struct Pending<'a> {
    index: &'a ProcessIndex,
    process: ProcessId,
    conn: ConnId,
    previous: Option<Entry>,
    is_live: bool,
}

impl Pending<'_> {
    /// The connection is live: from now on its session releases the process. `false` if another
    /// connection has taken it.
    pub(crate) fn go_live(mut self, peer: &Arc<Peer>) -> bool {
        self.is_live = true;
        self.index.set_live(self.process, peer)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.is_live {
            return;
        }
        match self.previous.take() {
            Some(Entry::Live { since, peer }) if peer.is_live() => {
                let entry = Entry::Live { since, peer: Arc::clone(&peer) };
                self.index.give_back(self.process, self.conn, entry, &peer);
            }
            _ => self.index.remove(self.process, self.conn),
        }
    }
}
