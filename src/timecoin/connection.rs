//! One connection of the old network outside of the pool: for a single message, or for a program that dials and accepts by itself
//! and [hands connections over](super::PeerManager::add_connected_peer_with_connection) when they are ready.

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

/// Bytes before a frame's text.
const LENGTH_BYTES: usize = 4;
/// Read at a time.
const READ_BYTES: usize = 16 * 1024;
/// With so much in hand a look whether the connection lives does not read more.
const MAX_ALIVE_CHECK_BYTES: usize = 64 * 1024;
/// Frames kept that nobody asked for.
const MAX_UNREAD_FRAMES: usize = 64;
/// How long a message is waited for.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the answer to a ping is waited for.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection is pinged.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the other end has for closing.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// What the other end may send meanwhile, in bytes.
const MAX_LINGER_BYTES: usize = 1024 * 1024;

/// A connection whose handshake is done.
///
/// Reads are cancel-safe: dropping a future that reads loses nothing. A write that is dropped or times out halfway closes the
/// connection, since the far end could not tell where the next frame begins.
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
    /// The node has it now.
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
    /// Read and not yet taken: the next frames, the last one perhaps incomplete.
    buffer: BytesMut,
    /// Frames that a question did not wait for.
    unread: VecDeque<Bytes>,
    /// Questions whose answers may still come, one a place at the most.
    requests: Vec<OpenRequest>,
    hello: Hello,
}

/// What a connection is handed over with.
pub(super) struct ConnectionParts {
    pub(super) stream: BoxStream,
    pub(super) hello: Hello,
    pub(super) rest: Vec<u8>,
    /// What may still be answered.
    pub(super) open_requests: Vec<OpenRequest>,
    pub(super) direction: Direction,
    pub(super) addr: SocketAddr,
}

impl PeerConnection {
    /// Dials a peer over TCP and exchanges handshakes; ours says that we listen at `listen`. Takes 5 s at the longest.
    ///
    /// # Errors
    /// [`ConnectionError::Connect`].
    ///
    /// # Cancel safety
    /// Dropping the future closes peek_frame was opened.
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

    /// The far end's address: as dialled, or as observed.
    ///
    /// # Errors
    /// None any more; the old signature is kept.
    pub fn peer_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.addr)
    }

    /// Who opened it.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether the connection is still there, as far as our end knows: one that the other end has closed is not.
    pub async fn is_alive(&mut self) -> bool {
        let State::Open(open) = &mut self.state else {
            return matches!(&self.state, State::Pooled(peer) if peer.is_live());
        };
        if open.buffer.len() > MAX_ALIVE_CHECK_BYTES {
            return true;
        }
        // What is there already is read, nothing is waited for.
        match timeout(Duration::ZERO, open.stream.read_buf(&mut open.buffer)).await {
            Err(_) => true,
            Ok(Ok(count)) if count > 0 => true,
            Ok(_) => {
                self.state = State::Closed;
                false
            }
        }
    }

    /// Sends a message; 5 s at the longest.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    ///
    /// # Cancel safety
    /// Dropping the future before it is done closes the connection.
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
        // Taken out while it is written: if this future is dropped halfway, so is the stream.
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

    /// Receives the next message; 60 s at the longest.
    ///
    /// # Errors
    /// See [`ConnectionError`]. After [`ConnectionError::ReadTimeout`] and [`ConnectionError::Unreadable`] the connection is as
    /// good as before.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn receive_message(&mut self) -> Result<NetworkMessage, ConnectionError> {
        self.receive_within(RECEIVE_TIMEOUT).await
    }

    /// As [`PeerConnection::receive_message`], with a deadline of one's own.
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

    /// Pings the peer and waits for its answer, 10 s at the longest; how long it took. What else comes is kept for
    /// [`PeerConnection::receive_message`].
    ///
    /// # Errors
    /// See [`ConnectionError`].
    ///
    /// # Cancel safety
    /// As [`PeerConnection::request_response`].
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

    /// Pings the peer every 30 s until that fails once, and says how.
    pub async fn keep_alive(mut self) -> ConnectionError {
        loop {
            tokio::time::sleep(KEEP_ALIVE_INTERVAL).await;
            if let Err(error) = self.ping().await {
                return error;
            }
        }
    }

    /// Closes the connection so that peek_frame was sent arrives: says that nothing more comes, and waits a moment for the other end.
    pub(super) async fn close_gracefully(mut self) {
        let State::Open(open) = &mut self.state else { return };
        let parting = async {
            if open.stream.shutdown().await.is_err() {
                return;
            }
            // What is unread when a socket closes turns the close into a reset, which may overtake the message.
            let mut scrap = [0u8; 1024];
            let mut left = MAX_LINGER_BYTES;
            while left > 0 {
                match open.stream.read(&mut scrap).await {
                    Ok(count) if count > 0 => left = left.saturating_sub(count),
                    _ => return,
                }
            }
        };
        // However it ends, the connection is over.
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

    /// Says which peer it has become.
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

    /// The text of the next frame. Memory grows with peek_frame comes, not with peek_frame is announced.
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
