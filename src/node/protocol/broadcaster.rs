//! What a node says to all its peers of one dialect: the three logs and the state table, each message encoded once.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::base::{ConnId, Lane, Tick};
use crate::broadcast::state::{StateConfig, StateKey, StateTable};
use crate::broadcast::{Log, LogChunk, LogConfig, LogSet, WakeSet};
use crate::connection::{
    ConnectionBuilder, ConnectionSetup, ConnectionShared, MemoryBudget, Message, ResumePoints,
};
use crate::wire::{
    Control, EncodeError, Features, FirstFrame, Goodbye, Hello, MessageHeader, Protocol, WireError,
};

use crate::node::config::{NodeConfig, RuntimeConfig};
use crate::node::protocol::config::{PeerCapabilities, PeerPolicy, Settings};
use crate::node::protocol::set::{DynProtocol, ReadyConnection};

/// One dialect's logs, state and what its links share.
pub(crate) struct Broadcaster<D> {
    dialect: Arc<D>,
    settings: Settings,
    logs: LogSet,
    state: Arc<StateTable>,
    hub: Arc<WakeSet>,
    common: Arc<ConnectionShared>,
}

/// Why a value of state was not taken. It comes back.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The dialect cannot say it, or it is larger than one chunk.
    #[error("{0}")]
    Encode(EncodeError, Bytes),
    /// The key is longer than 32 bytes.
    #[error("a state key of {size} bytes, at most 32 are allowed")]
    Key {
        /// Its bytes.
        size: usize,
        /// The value.
        value: Bytes,
    },
    /// The table is full.
    #[error("the state table is full")]
    Full(Bytes),
}

impl<D: Protocol> Broadcaster<D> {
    pub(crate) fn new(
        dialect: D,
        settings: Settings,
        config: &NodeConfig,
        budget: Arc<MemoryBudget>,
    ) -> Self {
        let hub = WakeSet::new();
        let runtime = &config.runtime;
        let lag = settings.lag.unwrap_or([runtime.urgent_lag, runtime.normal_lag, runtime.bulk_lag]);
        let configs =
            lag.map(|lag| LogConfig { ring_bytes: config.log_ring_bytes, lag, ..LogConfig::recommended() });
        let logs = LogSet::new(configs, &hub);
        let state = StateConfig { max_keys: config.max_state_keys, max_bytes: config.max_state_bytes };
        let common = ConnectionShared {
            config: settings.connection.clone().unwrap_or_else(|| config.connection.clone()),
            budget,
            limits: dialect.limits().clone(),
            features: dialect.features(),
            reply_matcher: dialect.reply_matcher(),
            protocol: dialect.name(),
        };
        Self {
            dialect: Arc::new(dialect),
            settings,
            logs,
            state: StateTable::new(state, Arc::clone(&hub)),
            hub,
            common: Arc::new(common),
        }
    }

    fn encode_state(&self, kind: u16, id: &[u8], value: &Bytes) -> Result<(StateKey, Bytes), StateError> {
        let Some(key) = StateKey::new(kind, id) else {
            return Err(StateError::Key { size: id.len(), value: value.clone() });
        };
        let refused = |cause| StateError::Encode(cause, value.clone());
        if value.len() > MAX_STATE {
            return Err(refused(EncodeError::TooLarge {
                lane: Lane::Urgent,
                size: value.len(),
                cap: MAX_STATE,
            }));
        }
        let mut encoded = BytesMut::with_capacity(value.len() + 16);
        let head = MessageHeader::Event { kind };
        self.dialect.encode(Lane::Urgent, &head, value, &mut encoded).map_err(refused)?;
        Ok((key, encoded.freeze()))
    }
}

impl<D: Protocol> DynProtocol for Broadcaster<D> {
    fn name(&self) -> &'static str {
        self.dialect.name()
    }

    fn version(&self) -> u32 {
        self.dialect.version()
    }

    fn features(&self) -> Features {
        self.common.features
    }

    fn policy(&self) -> &dyn PeerPolicy {
        &*self.settings.rules
    }

    fn advertise(&self) -> Option<SocketAddr> {
        self.settings.advertise
    }

    fn hub(&self) -> &Arc<WakeSet> {
        &self.hub
    }

    fn hello_cap(&self) -> usize {
        self.common.limits.hello
    }

    fn encode_hello(&self, hello: &Hello) -> Result<BytesMut, EncodeError> {
        let mut out = BytesMut::new();
        self.dialect.encode_hello(hello, &mut out).map(|()| out)
    }

    fn encode_goodbye(&self, goodbye: &Goodbye) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        matches!(self.dialect.encode_goodbye(goodbye, &mut out), Ok(true)).then_some(out)
    }

    fn encode_control(&self, control: &Control) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        matches!(self.dialect.encode_control(control, &mut out), Ok(true)).then_some(out)
    }

    fn decode_first_frame(&self, buf: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError> {
        self.dialect.decode_first_frame(buf)
    }

    fn prepare(
        &self,
        id: ConnId,
        heir_of: Option<ResumePoints>,
        capabilities: PeerCapabilities,
    ) -> Box<dyn ReadyConnection> {
        Box::new(ConnectionBuilder::new(ConnectionSetup {
            id,
            protocol: Arc::clone(&self.dialect),
            shared: Arc::clone(&self.common),
            positions: self.logs.join(id, heir_of),
            state: if capabilities.initial_state { self.state.cursor() } else { self.state.cursor_at_end() },
            parker: self.hub.parker(),
        }))
    }

    fn log(&self, lane: Lane) -> Option<&Arc<Log>> {
        self.logs.logs().get(lane.index().checked_sub(1)?)
    }

    fn check(&self, message: &Message) -> Result<(), EncodeError> {
        let Message { lane, kind, payload } = message;
        let head = MessageHeader::Event { kind: *kind };
        let Some(log) = self.log(*lane) else {
            return Err(EncodeError::ControlLaneReserved { kind: head.frame_kind() });
        };
        // Checks what the dialect can say, and copies nothing.
        let chunks = self.dialect.chunks(*lane, head, payload.clone())?;
        // Only of what comes near the log's own cap the exact size matters.
        let (size, ring) = (payload.len(), log.ring_bytes());
        if size > ring / 4 {
            let encoded: usize = chunks.map(|chunk| chunk.wire_len()).sum();
            if encoded > ring / 2 {
                return Err(EncodeError::TooLarge { lane: *lane, size, cap: ring / 2 });
            }
        }
        Ok(())
    }

    fn append(&self, message: &Message, origin: Option<ConnId>) -> Result<u64, EncodeError> {
        let Message { lane, kind, payload } = message;
        let head = MessageHeader::Event { kind: *kind };
        let Some(log) = self.log(*lane) else {
            return Err(EncodeError::ControlLaneReserved { kind: head.frame_kind() });
        };
        let too_large = |size, cap| EncodeError::TooLarge { lane: *lane, size, cap };
        if payload.len() >= LARGE {
            let chunks = self.dialect.chunks(*lane, head, payload.clone())?;
            let chunks = chunks.map(|chunk| LogChunk::new(&chunk.header, chunk.payload));
            let appended = log.append_chunks(chunks, origin);
            return appended
                .map(|appended| appended.seq)
                .map_err(|_| too_large(payload.len(), log.ring_bytes() / 2));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            self.dialect.encode(*lane, &head, payload, scratch)?;
            let appended = log.append(scratch, origin);
            appended.map(|appended| appended.seq).map_err(|_| too_large(payload.len(), log.ring_bytes() / 2))
        })
    }

    fn check_state(&self, kind: u16, id: &[u8], value: &Bytes) -> Result<(), StateError> {
        let (key, encoded) = self.encode_state(kind, id, value)?;
        self.state.check(&key, encoded.len()).map_err(|_| StateError::Full(value.clone()))
    }

    fn set_state(&self, kind: u16, id: &[u8], value: Bytes) -> Result<u64, StateError> {
        let (key, encoded) = self.encode_state(kind, id, &value)?;
        self.state.set(key, encoded).map_err(|_| StateError::Full(value))
    }

    fn clear_state(&self, kind: u16, id: &[u8]) -> bool {
        StateKey::new(kind, id).is_some_and(|key| self.state.remove(&key).is_some())
    }

    fn reconfigure(&self, runtime: &RuntimeConfig) {
        if self.settings.lag.is_some() {
            return;
        }
        for (log, lag) in
            self.logs.logs().iter().zip([runtime.urgent_lag, runtime.normal_lag, runtime.bulk_lag])
        {
            log.set_lag_policy(lag);
        }
    }

    fn tick(&self, now: Tick) {
        self.logs.logs().iter().for_each(|log| log.tick(now));
    }

    fn bytes(&self) -> usize {
        self.logs.logs().iter().map(|log| log.bytes()).sum::<usize>() + self.state.bytes()
    }
}

thread_local! {
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(2 * LARGE));
}

/// Payloads from here up go into the log uncopied.
const LARGE: usize = 16 * 1024;
/// Largest value of state: with its head it is one chunk.
pub(crate) const MAX_STATE: usize = 16 * 1024 - 64;
