//! The receipt of a broadcast.

use crate::base::{ConnId, Lane, PeerId};
use crate::broadcast::{Appended, CursorView, Receipt};
use crate::node::protocol::ProtocolId;
use crate::node::protocol::protocol_set::{AppendPositions, first_position};

use super::handle::NodeRef;

/// The peers that were live at a broadcast, and what became of it for each.
#[derive(Debug)]
#[must_use = "a receipt only answers questions"]
pub struct BroadcastReceipt {
    positions: AppendPositions,
    recipients: Vec<Recipient>,
}

/// A peer that was live.
#[derive(Debug)]
pub(crate) struct Recipient {
    key: PeerId,
    conn: ConnId,
    protocol: ProtocolId,
    view: CursorView,
}

impl Recipient {
    /// All live peers, with their positions in this lane.
    pub(crate) fn all(node: &NodeRef, lane: Lane) -> Vec<Self> {
        let peers = node.roster();
        let recipients = peers.iter().filter_map(|peer| {
            let connection = peer.connection();
            let view = connection.handle().cursor_view(lane)?;
            Some(Self { key: *peer.key(), conn: peer.id(), protocol: connection.protocol_id(), view })
        });
        recipients.collect()
    }
}

impl BroadcastReceipt {
    pub(crate) const fn new(positions: AppendPositions, recipients: Vec<Recipient>) -> Self {
        Self { positions, recipients }
    }

    /// The present status for each peer that was live at the broadcast. Written means handed to the
    /// stream.
    pub fn statuses(&self) -> impl Iterator<Item = (PeerId, ConnId, Receipt)> + '_ {
        self.recipients.iter().filter_map(|recipient| {
            // A peer whose protocol cannot express the message is no recipient.
            let appended = Appended { seq: self.position_for(recipient)?, origin: None };
            Some((recipient.key, recipient.conn, recipient.view.status_of(&appended)))
        })
    }

    /// The position in the log; with several protocols, in the log of the first that can express
    /// the message.
    pub fn appended(&self) -> Appended {
        Appended { seq: first_position(&self.positions), origin: None }
    }

    /// How many peers are recipients.
    pub fn peers(&self) -> usize {
        self.recipients.iter().filter(|recipient| self.position_for(recipient).is_some()).count()
    }

    /// How many recipients it has been written to.
    pub fn written(&self) -> usize {
        self.statuses().filter(|(_, _, receipt)| *receipt == Receipt::Written).count()
    }

    fn position_for(&self, recipient: &Recipient) -> Option<u64> {
        self.positions[recipient.protocol.index()]
    }
}
