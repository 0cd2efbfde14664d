//! One dialect of a node with its type left out, so that a node may speak several; and what is said in all of them at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::base::{ConnId, Lane, Nonce, Tick};
use crate::broadcast::{Log, WakeSet};
use crate::connection::{Connection, ConnectionBuilder, InitialIo, Message, ResumePoints};
use crate::sync::Mutex;
use crate::transport::BoxStream;
use crate::wire::{Control, EncodeError, Features, FirstFrame, Goodbye, Hello, Protocol, WireError};

use crate::node::config::RuntimeConfig;
use crate::node::protocol::config::{PeerCapabilities, PeerPolicy};
use crate::node::session::callbacks::PeerSession;
use crate::node::session::task::{PeerTask, RunConnection};
use crate::node::protocol::broadcaster::StateError;

/// One dialect, whichever it is.
pub(crate) trait DynProtocol: Send + Sync {
    fn name(&self) -> &'static str;

    fn version(&self) -> u32;

    fn features(&self) -> Features;

    fn policy(&self) -> &dyn PeerPolicy;

    fn advertise(&self) -> Option<SocketAddr>;

    fn hub(&self) -> &Arc<WakeSet>;

    fn log(&self, lane: Lane) -> Option<&Arc<Log>>;

    /// Whether [`DynProtocol::append`] would take this. Copies nothing.
    fn check(&self, message: &Message) -> Result<(), EncodeError>;

    /// Encodes once and appends; the message's number in its lane's log. Cost: one encoding, one memcpy under a short lock;
    /// payloads from 16 KiB up are not copied.
    fn append(&self, message: &Message, origin: Option<ConnId>) -> Result<u64, EncodeError>;

    /// Whether [`DynProtocol::set_state`] would take this now.
    fn check_state(&self, kind: u16, id: &[u8], value: &Bytes) -> Result<(), StateError>;

    fn set_state(&self, kind: u16, id: &[u8], value: Bytes) -> Result<u64, StateError>;

    fn clear_state(&self, kind: u16, id: &[u8]) -> bool;

    fn reconfigure(&self, runtime: &RuntimeConfig);

    fn tick(&self, now: Tick);

    /// Bytes that logs and state hold.
    fn bytes(&self) -> usize;

    fn hello_cap(&self) -> usize;

    fn encode_hello(&self, hello: &Hello) -> Result<BytesMut, EncodeError>;

    /// The bytes that refuse a connection; `None` where the dialect refuses by closing.
    fn encode_goodbye(&self, goodbye: &Goodbye) -> Option<BytesMut>;

    /// The bytes of a control message; `None` where the dialect has no word for it.
    fn encode_control(&self, control: &Control) -> Option<BytesMut>;

    fn decode_first_frame(&self, buf: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError>;

    /// A link with its places in the logs, to be taken before its key goes live. Given the places of a connection whose
    /// place it takes, it starts there. It is sent the state that there is, or only what is set from now on.
    fn prepare(
        &self,
        id: ConnId,
        heir_of: Option<ResumePoints>,
        capabilities: PeerCapabilities,
    ) -> Box<dyn ReadyConnection>;
}

/// A link that waits for its stream.
pub(crate) trait ReadyConnection: Send {
    fn link(&self) -> &Arc<Connection>;

    fn start(self: Box<Self>, stream: BoxStream, host: PeerSession, opening: InitialIo<'_>) -> PeerTask;
}

impl<D: Protocol> ReadyConnection for ConnectionBuilder<D> {
    fn link(&self) -> &Arc<Connection> {
        ConnectionBuilder::connection(self)
    }

    fn start(self: Box<Self>, stream: BoxStream, host: PeerSession, opening: InitialIo<'_>) -> PeerTask {
        PeerTask::new(RunConnection::new((*self).start(stream, host, opening)))
    }
}

/// All dialects of a node, the first one first. Never empty.
pub(crate) struct ProtocolSet {
    all: SmallVec<[Arc<dyn DynProtocol>; 2]>,
    /// Our instance in each: its own, or the node's.
    instances: SmallVec<[Nonce; 2]>,
    /// The dialects of addresses that were learnt in one; empty where there is but one dialect. A hint: the rules decide on
    /// those that are not in it.
    learnt: Mutex<HashMap<SocketAddr, usize>>,
}

/// Addresses whose dialect is remembered.
const MOST_LEARNT: usize = 65_536;

/// Where a message went: its number in each dialect's log, and none where the dialect has no word for it.
pub(crate) type AppendPositions = SmallVec<[Option<u64>; 2]>;

/// The number in the first dialect's log that took it: one did, or there was an error.
pub(crate) fn first(said: &AppendPositions) -> u64 {
    said.iter().flatten().next().copied().unwrap_or_default()
}

impl ProtocolSet {
    pub(crate) fn new(all: SmallVec<[Arc<dyn DynProtocol>; 2]>, node: Nonce) -> Self {
        let instances = all.iter().map(|tongue| tongue.policy().instance().unwrap_or(node)).collect();
        Self { all, instances, learnt: Mutex::default() }
    }

    pub(crate) fn get(&self, at: usize) -> &Arc<dyn DynProtocol> {
        &self.all[at]
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<dyn DynProtocol>> {
        self.all.iter()
    }

    /// Whether every dialect's log of this lane has room: a producer need not wait.
    pub(crate) fn has_room(&self, lane: Lane) -> bool {
        // Reading the clock would cost more than the broadcast.
        self.all.iter().all(|tongue| tongue.log(lane).is_none_or(|log| log.has_room()))
    }

    /// Our own instance, as this dialect's peers know it.
    pub(crate) fn instance(&self, at: usize) -> Nonce {
        self.instances[at]
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|tongue| tongue.name() == name)
    }

    /// An address was learnt from a peer of this dialect, or given for it.
    pub(crate) fn learn(&self, addr: SocketAddr, tongue: usize) {
        if self.all.len() < 2 {
            return;
        }
        let mut learnt = self.learnt.lock();
        if learnt.len() >= MOST_LEARNT && !learnt.contains_key(&addr) {
            // Which one goes does not matter: the rules decide on it then.
            let some = learnt.keys().next().copied();
            some.map(|some| learnt.remove(&some));
        }
        learnt.insert(addr, tongue);
    }

    /// Whoever listens at this address did not understand the dialect. Where that was only told, the rules decide again.
    pub(crate) fn doubt(&self, addr: SocketAddr, tongue: usize, is_proven: impl FnOnce() -> bool) {
        if self.all.len() < 2 || is_proven() {
            return;
        }
        let mut learnt = self.learnt.lock();
        if learnt.get(&addr) == Some(&tongue) {
            learnt.remove(&addr);
        }
    }

    /// The dialect to dial an address in.
    pub(crate) fn at(&self, addr: SocketAddr) -> usize {
        if self.all.len() < 2 {
            return 0;
        }
        let learnt = self.learnt.lock().get(&addr).copied();
        learnt.unwrap_or_else(|| self.by_rules(addr))
    }

    fn by_rules(&self, addr: SocketAddr) -> usize {
        self.all.iter().position(|tongue| tongue.policy().matches_addr(addr)).unwrap_or(0)
    }

    /// Whether all dialects, or those that have a word for it, would take this; an error if none has one.
    pub(crate) fn check(&self, message: &Message) -> Result<(), EncodeError> {
        let mut unsaid = None;
        let mut said = false;
        for tongue in &self.all {
            match tongue.check(message) {
                Ok(()) => said = true,
                Err(error @ EncodeError::Unsupported { .. }) => unsaid = Some(error),
                Err(error) => return Err(error),
            }
        }
        unsaid.filter(|_| !said).map_or(Ok(()), Err)
    }

    /// Appends to every dialect's log, each encoded once; to all that have a word for it, or to none. Its number in the log of
    /// the first that has one.
    #[inline]
    pub(crate) fn append(&self, message: &Message, origin: Option<ConnId>) -> Result<u64, EncodeError> {
        if self.all.len() > 1 {
            self.check(message)?;
        }
        self.append_checked(message, origin)
    }

    /// As [`ProtocolSet::append`], of what [`ProtocolSet::check`] has taken, or where there is but one dialect.
    #[inline]
    pub(crate) fn append_checked(
        &self,
        message: &Message,
        origin: Option<ConnId>,
    ) -> Result<u64, EncodeError> {
        match &self.all[..] {
            [only] => only.append(message, origin),
            _ => Ok(first(&self.append_each(message, origin))),
        }
    }

    /// As [`ProtocolSet::append`]; where it went in each.
    pub(crate) fn append_said(&self, message: &Message) -> Result<AppendPositions, EncodeError> {
        if let [only] = &self.all[..] {
            return only.append(message, None).map(|seq| AppendPositions::from_iter([Some(seq)]));
        }
        self.check(message)?;
        Ok(self.append_each(message, None))
    }

    fn append_each(&self, message: &Message, origin: Option<ConnId>) -> AppendPositions {
        self.all.iter().map(|tongue| tongue.append(message, origin).ok()).collect()
    }

    /// Sets a value in the table of every dialect that has a word for it, or in none; the version in the first one. Only who sets two
    /// values at once may have the second fill a table between look and step.
    pub(crate) fn set_state(&self, kind: u16, id: &[u8], value: Bytes) -> Result<u64, StateError> {
        let is_unsaid =
            |error: &StateError| matches!(error, StateError::Encode(EncodeError::Unsupported { .. }, _));
        if self.all.len() > 1 {
            let refused = |tongue: &Arc<dyn DynProtocol>| tongue.check_state(kind, id, &value).err();
            if let Some(error) = self.all.iter().filter_map(refused).find(|error| !is_unsaid(error)) {
                return Err(error);
            }
        }
        let mut version = None;
        let mut unsaid = None;
        for tongue in &self.all {
            match tongue.set_state(kind, id, value.clone()) {
                Ok(set) => version = version.or(Some(set)),
                Err(error) if is_unsaid(&error) => unsaid = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (version, unsaid) {
            (None, Some(error)) => Err(error),
            (version, _) => Ok(version.unwrap_or_default()),
        }
    }

    pub(crate) fn clear_state(&self, kind: u16, id: &[u8]) -> bool {
        // All of them, not just up to the first.
        self.all.iter().filter(|tongue| tongue.clear_state(kind, id)).count() > 0
    }

    /// Bytes that logs and state hold.
    pub(crate) fn bytes(&self) -> usize {
        self.all.iter().map(|tongue| tongue.bytes()).sum()
    }
}
