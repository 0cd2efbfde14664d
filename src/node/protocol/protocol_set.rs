//! All protocols of a node, and the operations that reach all of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::base::{ConnId, Lane, Nonce};
use crate::node::error::BroadcastError;
use crate::connection::Message;
use crate::sync::Mutex;
use crate::wire::EncodeError;

use super::ProtocolId;
use super::broadcaster::StateError;
use super::erased::DynProtocol;

/// Addresses whose protocol is remembered.
const MAX_HINTS: usize = 65_536;

/// The sequence number of a message in the log of each protocol; `None` where the protocol cannot
/// express the message.
pub(crate) type AppendPositions = SmallVec<[Option<u64>; 2]>;

/// The sequence number in the log of the first protocol that took the message. At least one did, or
/// the append failed.
pub(crate) fn first_position(positions: &AppendPositions) -> u64 {
    positions.iter().flatten().next().copied().unwrap_or_default()
}

/// All protocols of a node, in configured order. Never empty.
pub(crate) struct ProtocolSet {
    all: SmallVec<[Arc<dyn DynProtocol>; 2]>,
    /// Our instance nonce in each protocol: the policy's, or the node's.
    nonces: SmallVec<[Nonce; 2]>,
    /// The protocol in which an address was learnt; empty in a node with one protocol. A hint: the
    /// policies decide on the addresses that are not in it.
    hints: Mutex<HashMap<SocketAddr, ProtocolId>>,
}

impl std::fmt::Debug for ProtocolSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all.iter().map(|protocol| protocol.name())).finish()
    }
}

impl ProtocolSet {
    pub(crate) fn new(all: SmallVec<[Arc<dyn DynProtocol>; 2]>, node: Nonce) -> Self {
        let nonces = all.iter().map(|protocol| protocol.policy().instance().unwrap_or(node)).collect();
        Self { all, nonces, hints: Mutex::default() }
    }

    pub(crate) fn get(&self, id: ProtocolId) -> &Arc<dyn DynProtocol> {
        &self.all[id.index()]
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<dyn DynProtocol>> {
        self.all.iter()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<ProtocolId> {
        self.all.iter().position(|protocol| protocol.name() == name).map(ProtocolId::new)
    }

    /// Our own instance nonce, as peers of this protocol know it.
    pub(crate) fn local_nonce(&self, id: ProtocolId) -> Nonce {
        self.nonces[id.index()]
    }

    /// The protocol to dial an address in: the hint if there is one, else the first whose policy
    /// matches, else the first.
    pub(crate) fn for_addr(&self, addr: SocketAddr) -> ProtocolId {
        if self.all.len() < 2 {
            return ProtocolId::FIRST;
        }
        let hint = self.hints.lock().get(&addr).copied();
        hint.unwrap_or_else(|| {
            let matching = self.all.iter().position(|protocol| protocol.policy().matches_addr(addr));
            matching.map_or(ProtocolId::FIRST, ProtocolId::new)
        })
    }

    /// Notes that an address was learnt from a peer of this protocol, or configured for it.
    pub(crate) fn remember_hint(&self, addr: SocketAddr, id: ProtocolId) {
        if self.all.len() < 2 {
            return;
        }
        let mut hints = self.hints.lock();
        if hints.len() >= MAX_HINTS && !hints.contains_key(&addr) {
            // Any one will do: the policies decide on a forgotten address.
            let evicted = hints.keys().next().copied();
            evicted.map(|evicted| hints.remove(&evicted));
        }
        hints.insert(addr, id);
    }

    /// Drops the hint after the listener did not understand the protocol, unless the address was
    /// reached in it before (`is_proven`). The policies decide from then on.
    pub(crate) fn forget_hint(&self, addr: SocketAddr, id: ProtocolId, is_proven: impl FnOnce() -> bool) {
        if self.all.len() < 2 || is_proven() {
            return;
        }
        let mut hints = self.hints.lock();
        if hints.get(&addr) == Some(&id) {
            hints.remove(&addr);
        }
    }

    /// Whether the lane's log has room in every protocol, so that a producer need not wait.
    pub(crate) fn has_room(&self, lane: Lane) -> bool {
        // Reading the clock would cost more than the broadcast.
        self.all.iter().all(|protocol| protocol.log(lane).is_none_or(|log| log.has_room()))
    }

    /// Whether every protocol that can express the message accepts it.
    ///
    /// # Errors
    /// The first refusal; or [`EncodeError::Unsupported`] if no protocol can express the message.
    pub(crate) fn check(&self, message: &Message) -> Result<(), BroadcastError> {
        let mut unsupported = None;
        let mut accepted = false;
        for protocol in &self.all {
            match protocol.check(message) {
                Ok(()) => accepted = true,
                Err(error) if error.is_unsupported() => unsupported = Some(error),
                Err(error) => return Err(error),
            }
        }
        unsupported.filter(|_| !accepted).map_or(Ok(()), Err)
    }

    /// Appends to the log of every protocol that can express the message, or to none. Encodes once
    /// a protocol. Returns the sequence number in the first of these logs.
    #[inline]
    pub(crate) fn append(&self, message: &Message, origin: Option<ConnId>) -> Result<u64, BroadcastError> {
        if self.all.len() > 1 {
            self.check(message)?;
        }
        self.append_checked(message, origin)
    }

    /// As [`ProtocolSet::append`], for a message that [`ProtocolSet::check`] has accepted, or in a
    /// node with one protocol.
    #[inline]
    pub(crate) fn append_checked(
        &self,
        message: &Message,
        origin: Option<ConnId>,
    ) -> Result<u64, BroadcastError> {
        match &self.all[..] {
            [only] => only.append(message, origin),
            _ => Ok(first_position(&self.append_to_each(message, origin))),
        }
    }

    /// As [`ProtocolSet::append`]; returns the sequence number in each log.
    pub(crate) fn append_with_positions(&self, message: &Message) -> Result<AppendPositions, BroadcastError> {
        if let [only] = &self.all[..] {
            return only.append(message, None).map(|seq| AppendPositions::from_iter([Some(seq)]));
        }
        self.check(message)?;
        Ok(self.append_to_each(message, None))
    }

    fn append_to_each(&self, message: &Message, origin: Option<ConnId>) -> AppendPositions {
        self.all.iter().map(|protocol| protocol.append(message, origin).ok()).collect()
    }

    /// Sets a value in the state table of every protocol that can express it, or in none. Returns
    /// the version in the first of these tables.
    ///
    /// All tables are checked before one is changed. Two concurrent calls may still fill a table
    /// between check and change; the later one then fails halfway.
    pub(crate) fn set_state(&self, kind: u16, id: &[u8], value: Bytes) -> Result<u64, StateError> {
        let is_unsupported =
            |error: &StateError| matches!(error, StateError::Encode(EncodeError::Unsupported { .. }, _));
        if self.all.len() > 1 {
            let refusal = |protocol: &Arc<dyn DynProtocol>| protocol.check_state(kind, id, &value).err();
            if let Some(error) = self.all.iter().filter_map(refusal).find(|error| !is_unsupported(error)) {
                return Err(error);
            }
        }
        let mut version = None;
        let mut unsupported = None;
        for protocol in &self.all {
            match protocol.set_state(kind, id, value.clone()) {
                Ok(set) => version = version.or(Some(set)),
                Err(error) if is_unsupported(&error) => unsupported = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (version, unsupported) {
            (None, Some(error)) => Err(error),
            (version, _) => Ok(version.unwrap_or_default()),
        }
    }

    /// Removes a value from every state table; whether there was one.
    pub(crate) fn clear_state(&self, kind: u16, id: &[u8]) -> bool {
        // `any` would stop at the first table.
        self.all.iter().filter(|protocol| protocol.clear_state(kind, id)).count() > 0
    }

    /// Bytes held by logs and state tables.
    pub(crate) fn bytes(&self) -> usize {
        self.all.iter().map(|protocol| protocol.bytes()).sum()
    }
}
