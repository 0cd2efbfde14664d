//! The broadcast side of one protocol: three logs and a state table that all its connections read
//! from.
//!
//! Every message is encoded once, here. Payloads below [`ZERO_COPY_BYTES`] are encoded into a
//! thread-local buffer and copied into the log; larger ones are appended as their own segments.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::base::{ConnId, Lane, Tick};
use crate::broadcast::state::{StateConfig, StateKey, StateTable};
use crate::broadcast::{Log, LogChunk, LogConfig, LogSet, WakeSet};
use crate::node::error::BroadcastError;
use crate::connection::{MemoryBudget, MemoryOrigin, ConnectionBuilder, ConnectionSetup, ConnectionShared, Message, ResumePoints};
use crate::node::config::{NodeConfig, RuntimeConfig};
use crate::wire::{
    Control, EncodeError, Features, FirstFrame, Hello, MessageHeader, Protocol, Refusal, WireError,
};

use super::config::ProtocolSettings;
use super::erased::{DynProtocol, ReadyConnection};
use super::policy::{PeerCapabilities, PeerPolicy};

/// Payloads of at least this size go into the log without a copy.
const ZERO_COPY_BYTES: usize = 16 * 1024;
/// The largest value of state: with its header it fits one chunk.
pub(crate) const MAX_STATE_VALUE_BYTES: usize = 16 * 1024 - 64;

thread_local! {
    static ENCODE_BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(2 * ZERO_COPY_BYTES));
}

/// The codec, the logs and the state table of one protocol, and what its connections share.
pub(crate) struct Broadcaster<P> {
    codec: Arc<P>,
    settings: ProtocolSettings,
    logs: LogSet,
    state: Arc<StateTable>,
    wake_set: Arc<WakeSet>,
    connection_shared: Arc<ConnectionShared>,
}

/// Why a value of state was not accepted. The value comes back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The protocol cannot express the value.
    #[error("{0}")]
    Encode(#[source] EncodeError, Bytes),
    /// The key is longer than 32 bytes.
    #[error("a state key of {size} bytes, at most 32 are allowed")]
    Key {
        /// Length of the key in bytes.
        size: usize,
        /// The value.
        value: Bytes,
    },
    /// The value does not fit one chunk: a value is sent whole, so that it does not delay votes.
    #[error("a state value of {} bytes, at most {cap} are allowed; broadcast larger ones", .value.len())]
    TooLarge {
        /// The limit, in bytes.
        cap: usize,
        /// The value.
        value: Bytes,
    },
    /// The table is full.
    #[error("the state table is full: `max_state_keys` or `max_state_bytes` is reached")]
    Full(Bytes),
    /// The node shuts down, or has.
    #[error("the node shuts down")]
    Shutdown(Bytes),
}

impl<P: Protocol> Broadcaster<P> {
    pub(crate) fn new(codec: P, settings: ProtocolSettings, config: &NodeConfig, budget: Arc<MemoryBudget>) -> Self {
        let wake_set = WakeSet::new();
        let runtime = &config.runtime;
        let lag = settings.lag.unwrap_or([runtime.urgent_lag, runtime.normal_lag, runtime.bulk_lag]);
        let configs =
            lag.map(|lag| LogConfig { ring_bytes: config.log_ring_bytes, lag, ..LogConfig::recommended() });
        let logs = LogSet::new(configs, &wake_set);
        let state = StateConfig { max_keys: config.max_state_keys, max_bytes: config.max_state_bytes };
        let connection_shared = ConnectionShared {
            config: settings.connection.clone().unwrap_or_else(|| config.connection.clone()),
            budget,
            limits: codec.limits().clone(),
            features: codec.features(),
            reply_matcher: codec.reply_matcher(),
            protocol: codec.name(),
        };
        Self {
            codec: Arc::new(codec),
            settings,
            logs,
            state: StateTable::new(state, Arc::clone(&wake_set)),
            wake_set,
            connection_shared: Arc::new(connection_shared),
        }
    }

    fn encode_state(&self, kind: u16, id: &[u8], value: &Bytes) -> Result<(StateKey, Bytes), StateError> {
        let Some(key) = StateKey::new(kind, id) else {
            return Err(StateError::Key { size: id.len(), value: value.clone() });
        };
        let refused = |cause| StateError::Encode(cause, value.clone());
        if value.len() > MAX_STATE_VALUE_BYTES {
            return Err(StateError::TooLarge { cap: MAX_STATE_VALUE_BYTES, value: value.clone() });
        }
        let mut encoded = BytesMut::with_capacity(value.len() + 16);
        let header = MessageHeader::Event { kind };
        self.codec.encode(Lane::Urgent, &header, value, &mut encoded).map_err(refused)?;
        Ok((key, encoded.freeze()))
    }
}

impl<P: Protocol> DynProtocol for Broadcaster<P> {
    fn name(&self) -> &'static str {
        self.codec.name()
    }

    fn version(&self) -> u32 {
        self.codec.version()
    }

    fn max_message(&self) -> usize {
        self.codec.limits().max_message()
    }

    fn features(&self) -> Features {
        self.connection_shared.features
    }

    fn policy(&self) -> &dyn PeerPolicy {
        &*self.settings.policy
    }

    fn advertised_addr(&self) -> Option<SocketAddr> {
        self.settings.advertised_addr
    }

    fn wake_set(&self) -> &Arc<WakeSet> {
        &self.wake_set
    }

    fn max_hello_bytes(&self) -> usize {
        self.connection_shared.limits.hello
    }

    fn encode_hello(&self, hello: &Hello) -> Result<BytesMut, EncodeError> {
        let mut out = BytesMut::new();
        self.codec.encode_hello(hello, &mut out).map(|()| out)
    }

    fn encode_refusal(&self, refusal: &Refusal) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        matches!(self.codec.encode_refusal(refusal, &mut out), Ok(true)).then_some(out)
    }

    fn encode_control(&self, control: &Control) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        matches!(self.codec.encode_control(control, &mut out), Ok(true)).then_some(out)
    }

    fn decode_first_frame(&self, buf: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError> {
        self.codec.decode_first_frame(buf)
    }

    fn prepare(
        &self,
        id: ConnId,
        origin: MemoryOrigin,
        resume: Option<ResumePoints>,
        capabilities: PeerCapabilities,
    ) -> Box<dyn ReadyConnection> {
        Box::new(ConnectionBuilder::new(ConnectionSetup {
            id,
            protocol: Arc::clone(&self.codec),
            shared: Arc::clone(&self.connection_shared),
            origin,
            positions: self.logs.join(id, resume),
            state: if capabilities.initial_state { self.state.cursor() } else { self.state.cursor_at_end() },
            parker: self.wake_set.parker(),
        }))
    }

    fn log(&self, lane: Lane) -> Option<&Arc<Log>> {
        self.logs.logs().get(lane.index().checked_sub(1)?)
    }

    fn check(&self, message: &Message) -> Result<(), BroadcastError> {
        let Message { lane, kind, payload } = message;
        let header = MessageHeader::Event { kind: *kind };
        let Some(log) = self.log(*lane) else {
            return Err(EncodeError::ControlLaneReserved { kind: header.frame_kind() }.into());
        };
        // Checks what the protocol can express; copies nothing.
        let chunks = self.codec.chunks(*lane, header, payload.clone())?;
        // The exact size matters only near the cap of the log.
        let (size, ring) = (payload.len(), log.ring_bytes());
        if size > ring / 4 {
            let encoded: usize = chunks.map(|chunk| chunk.wire_len()).sum();
            if encoded > ring / 2 {
                return Err(BroadcastError::TooLargeForLog { lane: *lane, size, cap: ring / 2 });
            }
        }
        Ok(())
    }

    fn append(&self, message: &Message, origin: Option<ConnId>) -> Result<u64, BroadcastError> {
        let Message { lane, kind, payload } = message;
        let header = MessageHeader::Event { kind: *kind };
        let Some(log) = self.log(*lane) else {
            return Err(EncodeError::ControlLaneReserved { kind: header.frame_kind() }.into());
        };
        let too_large = |size, cap| BroadcastError::TooLargeForLog { lane: *lane, size, cap };
        if payload.len() >= ZERO_COPY_BYTES {
            let chunks = self.codec.chunks(*lane, header, payload.clone())?;
            let chunks = chunks.map(|chunk| LogChunk::new(&chunk.header, chunk.payload));
            let appended = log.append_chunks(chunks, origin);
            return appended
                .map(|appended| appended.seq)
                .map_err(|_| too_large(payload.len(), log.ring_bytes() / 2));
        }
        ENCODE_BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            self.codec.encode(*lane, &header, payload, buffer)?;
            let appended = log.append(buffer, origin);
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
