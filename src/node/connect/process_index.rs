//! Which connection speaks for which process: an index by instance nonce, derived from the pool and tagged with
//! connection ids.

use std::sync::Arc;

use crate::base::{ConnId, Nonce, PeerId, Tick};
use crate::sync::{Change, ShardMap};

use crate::node::connect::tie_break::Candidate;
use crate::node::session::info::Peer;

/// A process, as the peers of one dialect know it: what it calls itself in one says nothing about another.
pub(crate) type Instance = (usize, Nonce);

/// The connection that speaks for a process.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) conn: ConnId,
    pub(crate) key: PeerId,
    pub(crate) contender: Candidate,
    /// `None` while its handshake goes on.
    pub(crate) peer: Option<Arc<Peer>>,
}

/// A process in the index; the number of its dialect is small.
type Name = (u16, Nonce);

/// A connection in the index. Nearly all are live, and those take two words: the peer knows the rest.
#[derive(Debug)]
enum Entry {
    Settling(Box<Owner>),
    Live { since: Tick, peer: Arc<Peer> },
}

impl Entry {
    fn conn(&self) -> ConnId {
        match self {
            Self::Settling(speaker) => speaker.conn,
            Self::Live { peer, .. } => peer.id(),
        }
    }

    fn speaker(&self) -> Owner {
        match self {
            Self::Settling(speaker) => (**speaker).clone(),
            Self::Live { since, peer } => Owner {
                conn: peer.id(),
                key: *peer.key(),
                contender: Candidate {
                    direction: peer.direction(),
                    since: *since,
                    authenticated: peer.connection().is_authenticated(),
                    ip: peer.ip(),
                },
                peer: Some(Arc::clone(peer)),
            },
        }
    }

    fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::Settling(_) => None,
            Self::Live { peer, .. } => Some(peer),
        }
    }
}

/// Invariant 3. Statement: an entry is taken out only by the connection it names. Enforced by: every removal compares the
/// connection id inside the entry's one step. Breaks if: it is asked "is this peer connected": only the pool knows.
#[derive(Debug)]
pub(crate) struct ProcessIndex {
    map: ShardMap<Name, Entry>,
}

impl ProcessIndex {
    pub(crate) fn new() -> Self {
        Self { map: ShardMap::with_shards(16) }
    }

    /// Enters as the process' speaker if it has none, or if the present one is `instead_of`; otherwise says who it is.
    pub(crate) fn enter(
        &self,
        nonce: Instance,
        speaker: Owner,
        instead_of: Option<ConnId>,
    ) -> Result<Pending<'_>, Owner> {
        let conn = speaker.conn;
        let entry = Entry::Settling(Box::new(speaker));
        let (result, before) = self.map.update(name(nonce), |present| match present {
            Some(present) if Some(present.conn()) != instead_of => (Change::Keep, Err(present.speaker())),
            _ => (Change::Put(entry), Ok(())),
        });
        result.map(|()| Pending { instances: self, nonce, conn, before, kept: false })
    }

    /// The speaker's handshake is over. `false` if it is no longer the speaker.
    pub(crate) fn live(&self, nonce: Instance, peer: &Arc<Peer>) -> bool {
        let peer = Arc::clone(peer);
        let (is_speaker, displaced) = self.map.update(name(nonce), |present| match present {
            Some(Entry::Settling(speaker)) if speaker.conn == peer.id() => {
                (Change::Put(Entry::Live { since: speaker.contender.since, peer }), true)
            }
            _ => (Change::Keep, false),
        });
        // Dropped here, outside the shard's lock.
        drop(displaced);
        is_speaker
    }

    /// The live peer that speaks for a process.
    pub(crate) fn peer(&self, nonce: Instance) -> Option<Arc<Peer>> {
        let found = self.map.read(&name(nonce), |entry| entry.peer().cloned()).flatten();
        found.filter(|peer| peer.is_live())
    }

    pub(crate) fn leave(&self, nonce: Instance, conn: ConnId) {
        drop(self.map.remove_if(&name(nonce), |present| present.conn() == conn));
    }

    /// The place of a connection that did not come to be is again that of the live peer it was taken from.
    fn give_back(&self, nonce: Instance, conn: ConnId, entry: Entry, peer: &Peer) {
        let ((), displaced) = self.map.update(name(nonce), |present| match present {
            Some(present) if present.conn() == conn => (Change::Put(entry), ()),
            _ => (Change::Keep, ()),
        });
        // Dropped here, outside the shard's lock.
        drop(displaced);
        if !peer.is_live() {
            // It may have left before it was there to be taken out.
            self.leave(nonce, peer.id());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }
}

fn name((tongue, nonce): Instance) -> Name {
    (u16::try_from(tongue).unwrap_or(u16::MAX), nonce)
}

/// A place among the instances that is given up, or back, unless the connection goes live.
pub(crate) struct Pending<'a> {
    instances: &'a ProcessIndex,
    nonce: Instance,
    conn: ConnId,
    /// Whom it was taken from.
    before: Option<Entry>,
    kept: bool,
}

impl Pending<'_> {
    /// The connection is live: the place is now its task's to give up. `false` if another one has taken it meanwhile.
    pub(crate) fn keep(mut self, peer: &Arc<Peer>) -> bool {
        self.kept = true;
        self.instances.live(self.nonce, peer)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        match self.before.take() {
            Some(Entry::Live { since, peer }) if peer.is_live() => {
                let entry = Entry::Live { since, peer: Arc::clone(&peer) };
                self.instances.give_back(self.nonce, self.conn, entry, &peer);
            }
            _ => self.instances.leave(self.nonce, self.conn),
        }
    }
}
