//! A connection of this network that is not in the pool.
//!
//! Used for single messages, and by programs that dial and accept themselves and then [hand the
//! connection over](super::PeerManager::add_connected_peer_with_connection). The holder reads the
//! connection: nothing is received unless a method here is awaited.
//!
//! Flow: `Connector` dials or accepts and exchanges handshakes; `send_message` writes a frame;
//! `next_frame` reads one; `classify` decides whether it is a ping, a reply to an open request, or
//! something else.

mod connector;
mod error;
mod request;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use crate::base::{Direction, Lane};
use crate::connection::Message;
use crate::node::Peer;
use crate::transport::BoxStream;
use crate::wire::{Hello, MessageHeader, Protocol};

use super::wire::{NetworkMessage, TimeCoin};
use super::{NetworkType, PeerInfo};

pub(super) use connector::Connector;
pub use error::ConnectionError;
pub(super) use request::OpenRequest;
use request::{FrameRole, UnmatchedFrames};

/// Length prefix of a frame, in bytes.
const LENGTH_BYTES: usize = 4;
/// Minimum room in the buffer for each read, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// With more unread bytes than this, `is_alive` does not read further.
const MAX_ALIVE_CHECK_BYTES: usize = 64 * 1024;
/// Maximum number of frames kept that no request waited for.
const MAX_UNREAD_FRAMES: usize = 64;
/// Default time limit for receiving a message.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for the reply to a ping.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of the pings of `keep_alive`.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long `close_gracefully` waits for the far end to close.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of bytes that `close_gracefully` reads and discards.
const MAX_LINGER_BYTES: usize = 1024 * 1024;

/// A connection whose handshake is complete.
///
/// Reads are cancel-safe: dropping a reading future loses nothing. A write that is dropped or times
/// out halfway closes the connection, because the far end could not find the start of the next
/// frame.
#[derive(Debug)]
pub struct PeerConnection {
    state: State,
    info: PeerInfo,
    addr: SocketAddr,
    direction: Direction,
    protocol: Arc<TimeCoin>,
    time_limit: Duration,
}

enum State {
    Open(Box<OpenStream>),
    /// Handed over to the node; requests and messages go through the pool entry.
    Pooled(Arc<Peer>),
    Closed,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open(_) => "Open",
            Self::Pooled(_) => "Pooled",
            Self::Closed => "Closed",
        })
    }
}

struct OpenStream {
    stream: BoxStream,
    /// Bytes that were read and not consumed: the next frames, of which the last may be incomplete.
    buffer: BytesMut,
    /// Complete frames that no request waited for.
    unread: VecDeque<Bytes>,
    /// Requests that may still be answered, at most one for each reply slot unless their replies
    /// are distinguishable.
    requests: Vec<OpenRequest>,
    hello: Hello,
}

/// The parts of a connection that is handed over to the node.
pub(super) struct ConnectionParts {
    pub(super) stream: BoxStream,
    pub(super) hello: Hello,
    pub(super) rest: Vec<u8>,
    /// Requests that may still be answered.
    pub(super) open_requests: Vec<OpenRequest>,
    pub(super) direction: Direction,
    pub(super) addr: SocketAddr,
}

impl PeerConnection {
    /// Dials a peer over TCP and exchanges handshakes. Our handshake announces `listen`. Time
    /// limit: 5 s.
    ///
    /// # Errors
    /// [`ConnectionError::Connect`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub async fn connect(
        peer: &PeerInfo,
        network: NetworkType,
        listen: SocketAddr,
        genesis: Option<[u8; 32]>,
    ) -> Result<Self, ConnectionError> {
        super::listener::connector(network, listen, genesis).dial(peer.address).await
    }

    /// What is known of the peer, as of the handshake.
    pub async fn peer_info(&self) -> PeerInfo {
        self.info.clone()
    }

    /// The remote address: the one dialled, or the one observed.
    ///
    /// # Errors
    /// None; the legacy signature is kept.
    pub fn peer_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.addr)
    }

    /// Which end dialled.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether the connection is open, as far as this end knows. A connection that the far end has
    /// closed is not.
    pub async fn is_alive(&mut self) -> bool {
        let State::Open(open) = &mut self.state else {
            return matches!(&self.state, State::Pooled(peer) if peer.is_live());
        };
        if open.buffer.len() > MAX_ALIVE_CHECK_BYTES {
            return true;
        }
        // A zero timeout reads what the socket already holds and waits for nothing.
        match timeout(Duration::ZERO, open.stream.read_buf(&mut open.buffer)).await {
            Err(_) => true,
            Ok(Ok(count)) if count > 0 => true,
            Ok(_) => {
                self.state = State::Closed;
                false
            }
        }
    }

    /// Sends a message. Time limit: 5 s.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    ///
    /// # Cancel safety
    /// Dropping the future before it completes closes the connection.
    pub async fn send_message(&mut self, message: NetworkMessage) -> Result<(), ConnectionError> {
        let text = message.to_bytes()?;
        let kind = message.kind();
        if let State::Pooled(peer) = &self.state {
            let lane = kind.lane_for(text.len());
            return Ok(peer.connection().handle().send(Message {
                lane,
                kind: kind.code(),
                payload: text,
            })?);
        }
        let mut frame = BytesMut::new();
        self.protocol.encode(Lane::Normal, &MessageHeader::Event { kind: kind.code() }, &text, &mut frame)?;
        // Moved out while it is written: a future that is dropped halfway drops the stream.
        let State::Open(mut open) = std::mem::replace(&mut self.state, State::Closed) else {
            return Err(ConnectionError::Closed);
        };
        let writing = async {
            open.stream.write_all(&frame).await?;
            open.stream.flush().await
        };
        match timeout(self.time_limit, writing).await {
            Err(_) => return Err(ConnectionError::WriteTimeout(self.time_limit)),
            Ok(written) => written?,
        }
        self.state = State::Open(open);
        Ok(())
    }

    /// Receives the next message. Time limit: 60 s.
    ///
    /// # Errors
    /// See [`ConnectionError`]. After [`ConnectionError::ReadTimeout`] and
    /// [`ConnectionError::Unreadable`] the connection can still be used.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn receive_message(&mut self) -> Result<NetworkMessage, ConnectionError> {
        self.receive_within(RECEIVE_TIMEOUT).await
    }

    /// [`PeerConnection::receive_message`] with another time limit.
    ///
    /// # Errors
    /// See [`PeerConnection::receive_message`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn receive_within(&mut self, time_limit: Duration) -> Result<NetworkMessage, ConnectionError> {
        if let State::Open(open) = &mut self.state
            && let Some(frame) = open.unread.pop_front()
        {
            return Ok(NetworkMessage::decode(&frame)?);
        }
        let receiving = async {
            loop {
                let frame = self.next_frame().await?;
                if !matches!(self.classify(&frame), FrameRole::Declined(..)) {
                    return Ok::<_, ConnectionError>(frame);
                }
            }
        };
        match timeout(time_limit, receiving).await {
            Err(_) => Err(ConnectionError::ReadTimeout(time_limit)),
            Ok(frame) => Ok(NetworkMessage::decode(&frame?)?),
        }
    }

    /// Pings the peer, waits at most 10 s for the pong and returns the round-trip time. Other
    /// frames are kept for [`PeerConnection::receive_message`].
    ///
    /// # Errors
    /// See [`ConnectionError`].
    ///
    /// # Cancel safety
    /// As for [`PeerConnection::request_response`].
    pub async fn ping(&mut self) -> Result<Duration, ConnectionError> {
        if let State::Pooled(peer) = &self.state {
            let probe = timeout(PONG_TIMEOUT, peer.connection().handle().probe()).await;
            return probe
                .map_err(|_| ConnectionError::ReadTimeout(PONG_TIMEOUT))?
                .ok_or(ConnectionError::Closed);
        }
        let begun = Instant::now();
        self.send_message(NetworkMessage::Ping).await?;
        loop {
            let frame = timeout_at(begun + PONG_TIMEOUT, self.next_frame()).await;
            let frame = frame.map_err(|_| ConnectionError::ReadTimeout(PONG_TIMEOUT))??;
            match self.classify(&frame) {
                FrameRole::Pong => return Ok(begun.elapsed()),
                sorted => self.handle_unmatched(sorted, frame, UnmatchedFrames::Keep).await?,
            }
        }
    }

    /// Pings the peer every 30 s until a ping fails, and returns the error.
    pub async fn keep_alive(mut self) -> ConnectionError {
        loop {
            tokio::time::sleep(KEEP_ALIVE_INTERVAL).await;
            if let Err(error) = self.ping().await {
                return error;
            }
        }
    }

    /// Closes the connection so that everything sent arrives: shuts down the write half and waits
    /// briefly for the far end.
    pub(super) async fn close_gracefully(mut self) {
        let State::Open(open) = &mut self.state else { return };
        let parting = async {
            if open.stream.shutdown().await.is_err() {
                return;
            }
            // Closing a socket with unread data sends a reset, which may overtake the message.
            let mut scrap = [0u8; 1024];
            let mut left = MAX_LINGER_BYTES;
            while left > 0 {
                match open.stream.read(&mut scrap).await {
                    Ok(count) if count > 0 => left = left.saturating_sub(count),
                    _ => return,
                }
            }
        };
        // Whatever the outcome, the connection is closed.
        let _ = timeout(LINGER_TIMEOUT, parting).await;
    }

    /// Takes the connection apart for the pool.
    pub(super) fn take_parts(&mut self) -> Option<ConnectionParts> {
        self.drop_stale_replies();
        let State::Open(open) = std::mem::replace(&mut self.state, State::Closed) else { return None };
        let OpenStream { stream, buffer, unread, requests, hello } = *open;
        let mut rest = Vec::with_capacity(buffer.len());
        for frame in unread {
            rest.extend_from_slice(&(frame.len() as u32).to_be_bytes());
            rest.extend_from_slice(&frame);
        }
        rest.extend_from_slice(&buffer);
        Some(ConnectionParts {
            stream,
            hello,
            rest,
            open_requests: requests,
            direction: self.direction,
            addr: self.addr,
        })
    }

    /// Sets the pool entry that the connection has become.
    pub(super) fn set_pooled(&mut self, peer: Arc<Peer>) {
        self.state = State::Pooled(peer);
    }

    fn keep_unread(&mut self, frame: Bytes) -> Result<(), ConnectionError> {
        let State::Open(open) = &mut self.state else { return Err(ConnectionError::Closed) };
        let held: usize = open.unread.iter().map(Bytes::len).sum();
        if open.unread.len() >= MAX_UNREAD_FRAMES
            || held.saturating_add(frame.len()) > self.protocol.limits().normal
        {
            self.state = State::Closed;
            return Err(ConnectionError::Flooded);
        }
        open.unread.push_back(frame);
        Ok(())
    }

    /// Reads the next frame and returns its text. Memory grows with the received bytes, not with
    /// the announced length.
    async fn next_frame(&mut self) -> Result<Bytes, ConnectionError> {
        let cap = self.protocol.limits().normal;
        loop {
            let open = match &mut self.state {
                State::Open(open) => open,
                State::Pooled(_) => return Err(ConnectionError::HandedOver),
                State::Closed => return Err(ConnectionError::Closed),
            };
            if let Some(length) = open.buffer.first_chunk() {
                let size = u32::from_be_bytes(*length) as usize;
                if size > cap {
                    self.state = State::Closed;
                    return Err(ConnectionError::TooLarge { size, cap });
                }
                if open.buffer.len() >= size + LENGTH_BYTES {
                    let mut frame = open.buffer.split_to(size + LENGTH_BYTES);
                    return Ok(frame.split_off(LENGTH_BYTES).freeze());
                }
            }
            open.buffer.reserve(READ_BYTES);
            let count = match open.stream.read_buf(&mut open.buffer).await {
                Ok(count) => count,
                Err(error) => {
                    self.state = State::Closed;
                    return Err(error.into());
                }
            };
            if count == 0 {
                self.state = State::Closed;
                return Err(ConnectionError::Eof);
            }
        }
    }
}
