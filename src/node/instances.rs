//! Which connection speaks for which process: an index by instance nonce, derived from the pool and tagged with
//! connection ids.

use std::sync::Arc;

use crate::base::sync::{Change, ShardMap};
use crate::base::{ConnId, Nonce, PeerId};

use super::duel::Contender;
use super::info::Peer;

/// A process, as the peers of one dialect know it: what it calls itself in one says nothing about another.
pub(super) type Instance = (usize, Nonce);

/// The connection that speaks for a process.
#[derive(Clone, Debug)]
pub(super) struct Speaker {
    pub(super) conn: ConnId,
    pub(super) key: PeerId,
    pub(super) contender: Contender,
    /// `None` while its handshake goes on.
    pub(super) peer: Option<Arc<Peer>>,
}

/// Invariant 3. Statement: an entry is taken out only by the connection it names. Enforced by: every removal compares the
/// connection id inside the entry's one step. Breaks if: it is asked "is this peer connected": only the pool knows.
#[derive(Debug)]
pub(super) struct Instances {
    map: ShardMap<Instance, Speaker>,
}

impl Instances {
    pub(super) fn new() -> Self {
        Self { map: ShardMap::with_shards(16) }
    }

    /// Enters as the process' speaker if it has none, or if the present one is `instead_of`; otherwise says who it is.
    pub(super) fn enter(
        &self,
        nonce: Instance,
        speaker: Speaker,
        instead_of: Option<ConnId>,
    ) -> Result<(), Speaker> {
        let (result, displaced) = self.map.update(nonce, |present| match present {
            Some(present) if Some(present.conn) != instead_of => (Change::Keep, Err(present.clone())),
            _ => (Change::Put(speaker), Ok(())),
        });
        // Dropped here, outside the shard's lock.
        drop(displaced);
        result
    }

    /// The speaker's handshake is over. `false` if it is no longer the speaker.
    pub(super) fn live(&self, nonce: Instance, peer: &Arc<Peer>) -> bool {
        let (is_speaker, _) = self.map.update(nonce, |present| {
            let present = present.filter(|present| present.conn == peer.id());
            let is_speaker = present.is_some();
            if let Some(present) = present {
                present.peer = Some(Arc::clone(peer));
            }
            (Change::Keep, is_speaker)
        });
        is_speaker
    }

    /// The live peer that speaks for a process.
    pub(super) fn peer(&self, nonce: Instance) -> Option<Arc<Peer>> {
        let found = self.map.read(&nonce, |speaker| speaker.peer.clone()).flatten();
        found.filter(|peer| peer.is_live())
    }

    pub(super) fn leave(&self, nonce: Instance, conn: ConnId) {
        drop(self.map.remove_if(&nonce, |present| present.conn == conn));
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }
}

/// A place among the instances that is given up unless the connection goes live.
pub(super) struct Entered<'a> {
    instances: &'a Instances,
    nonce: Instance,
    conn: ConnId,
    kept: bool,
}

impl<'a> Entered<'a> {
    pub(super) fn new(instances: &'a Instances, nonce: Instance, conn: ConnId) -> Self {
        Self { instances, nonce, conn, kept: false }
    }

    /// The connection is live: the place is now its task's to give up. `false` if another one has taken it meanwhile.
    pub(super) fn keep(mut self, peer: &Arc<Peer>) -> bool {
        self.kept = true;
        self.instances.live(self.nonce, peer)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.instances.leave(self.nonce, self.conn);
        }
    }
}
