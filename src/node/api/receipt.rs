//! What became of a broadcast.

use crate::base::{ConnId, Lane, PeerId};
use crate::broadcast::{Appended, CursorView, Receipt};

use crate::node::api::handle::NodeRef;
use crate::node::protocol::set::{AppendPositions, first};

/// Who was there at a broadcast, and what became of it for each.
#[derive(Debug)]
pub struct BroadcastReceipt {
    said: AppendPositions,
    views: Vec<Recipient>,
}

/// A peer that was there.
#[derive(Debug)]
pub(crate) struct Recipient {
    key: PeerId,
    conn: ConnId,
    tongue: usize,
    view: CursorView,
}

impl Recipient {
    /// Everybody who is there now, for messages of this lane.
    pub(crate) fn all(node: &NodeRef, lane: Lane) -> Vec<Self> {
        let peers = node.roster();
        let recipients = peers.iter().filter_map(|peer| {
            let conn = peer.connection();
            let view = conn.handle().cursor_view(lane)?;
            Some(Self { key: *peer.key(), conn: peer.id(), tongue: conn.tongue(), view })
        });
        recipients.collect()
    }
}

impl BroadcastReceipt {
    pub(crate) const fn new(said: AppendPositions, views: Vec<Recipient>) -> Self {
        Self { said, views }
    }

    /// What became of the broadcast for each peer of the roster at the call, as of now. Written means handed to the stream.
    pub fn statuses(&self) -> impl Iterator<Item = (PeerId, ConnId, Receipt)> + '_ {
        self.views.iter().filter_map(|one| {
            // A peer whose dialect has no word for it was not there for it.
            let appended = Appended { seq: self.said[one.tongue]?, origin: None };
            Some((one.key, one.conn, one.view.status_of(&appended)))
        })
    }

    /// The place in the log; of several dialects, in the first one's that has a word for it.
    pub fn appended(&self) -> Appended {
        Appended { seq: first(&self.said), origin: None }
    }

    /// How many peers were there.
    pub fn peers(&self) -> usize {
        self.views.iter().filter(|one| self.said[one.tongue].is_some()).count()
    }

    /// How many of them it is written to now.
    pub fn written(&self) -> usize {
        self.statuses().filter(|(_, _, receipt)| *receipt == Receipt::Written).count()
    }
}
