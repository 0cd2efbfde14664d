//! Hellos: the dialler sends its hello first, and the acceptor's hello is its acceptance.
//!
//! These functions read and write; what a hello means for the node is decided in
//! [`establish`](super::establish).

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connection::{MemoryAccount, MemoryReservation};
use crate::node::error::ConnectError;
use crate::node::protocol::ProtocolId;
use crate::node::protocol::erased::DynProtocol;
use crate::node::runtime::shared::Shared;
use crate::transport::Stream;
use crate::wire::{FirstFrame, GoodbyeReason, Hello, Refusal, WireError};

/// The highest bit of a hello's features: the dialler only asks who listens here, and closes after
/// the answer.
pub(crate) const PROBE_BIT: u64 = 1 << 63;

/// First frames up to this size are bounded by the number of handshakes; larger ones count against
/// the memory limit.
const UNCOUNTED_BYTES: usize = 4096;
/// Bytes per read of a first frame up to [`UNCOUNTED_BYTES`].
const SMALL_READ_BYTES: usize = 1024;
/// Bytes per read beyond [`UNCOUNTED_BYTES`].
const LARGE_READ_BYTES: usize = 16 * 1024;

/// Whether a hello is sent to connect, or only to ask who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HelloPurpose {
    Connect,
    Probe,
}

/// Our hello, encoded.
pub(crate) fn encode_hello(
    shared: &Shared,
    id: ProtocolId,
    purpose: HelloPurpose,
) -> Result<BytesMut, ConnectError> {
    let (probe_bit, listen) = match purpose {
        HelloPurpose::Connect => (0, shared.advertised_addr(id)),
        HelloPurpose::Probe => (PROBE_BIT, None),
    };
    let protocol = shared.protocols.get(id);
    let hello = Hello {
        version: protocol.version(),
        network: shared.config.network,
        nonce: Some(shared.protocols.local_nonce(id)),
        features: shared.config.features | probe_bit,
        listen,
        agent: shared.config.agent.clone(),
        genesis: shared.config.genesis,
        app: shared.config.app.clone(),
    };
    let encoded = protocol.encode_hello(&hello);
    Ok(encoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?)
}

/// Writes our hello and reads the answer. Also returns the bytes read after it.
pub(crate) async fn exchange_hello<S: Stream>(
    stream: &mut S,
    protocol: &dyn DynProtocol,
    account: &Arc<MemoryAccount>,
    our_hello: &[u8],
) -> Result<(FirstFrame, Vec<u8>), ConnectError> {
    stream.write_all(our_hello).await?;
    stream.flush().await?;
    let decode = |buf: &[u8]| protocol.decode_first_frame(buf);
    read_first_frame(stream, protocol.max_hello_bytes(), decode, Some(account)).await
}

/// Reads the first hello of a dialler. Also returns the bytes read after it.
///
/// # Errors
/// [`ConnectError::Refused`] if a refusal arrives instead.
pub(crate) async fn read_hello<S: Stream>(
    stream: &mut S,
    protocol: &dyn DynProtocol,
    account: &Arc<MemoryAccount>,
) -> Result<(Hello, Vec<u8>), ConnectError> {
    let decode = |buf: &[u8]| protocol.decode_first_frame(buf);
    match read_first_frame(stream, protocol.max_hello_bytes(), decode, Some(account)).await? {
        (FirstFrame::Hello(hello), buffered) => Ok((hello, buffered)),
        (FirstFrame::Refusal(refusal), _) => Err(ConnectError::Refused(refusal.goodbye())),
    }
}

/// What an acceptor's refusal means to the dialler: a mismatch has both values.
pub(crate) fn refused(refusal: &Refusal, version: u32, network: u64) -> ConnectError {
    match refusal.reason {
        GoodbyeReason::WrongNetwork if refusal.network != network => {
            ConnectError::WrongNetwork { ours: network, theirs: refusal.network }
        }
        GoodbyeReason::WrongVersion if refusal.version != version => {
            ConnectError::WrongVersion { ours: version, theirs: refusal.version }
        }
        GoodbyeReason::WrongGenesis => ConnectError::WrongGenesis,
        _ => ConnectError::Refused(refusal.goodbye()),
    }
}

/// Reads a first frame of at most `max_bytes`. Memory grows with what arrives. A large frame counts
/// against the memory limit. Also returns the bytes read after it.
pub(crate) async fn read_first_frame<S: Stream>(
    stream: &mut S,
    max_bytes: usize,
    decode: impl Fn(&[u8]) -> Result<Option<(FirstFrame, usize)>, WireError>,
    account: Option<&Arc<MemoryAccount>>,
) -> Result<(FirstFrame, Vec<u8>), ConnectError> {
    let mut buffer = Vec::with_capacity(256);
    let mut held = account.map(MemoryReservation::empty);
    loop {
        if let Some((frame, used)) = decode(&buffer)? {
            buffer.drain(..used);
            // Releases the memory that a large frame took.
            buffer.shrink_to_fit();
            return Ok((frame, buffer));
        }
        let room = max_bytes.saturating_sub(buffer.len());
        if room == 0 {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        if buffer.len() >= UNCOUNTED_BYTES
            && let Some(held) = &mut held
            && !held.resize(buffer.capacity())
        {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory).into());
        }
        let step = if buffer.len() < UNCOUNTED_BYTES { SMALL_READ_BYTES } else { LARGE_READ_BYTES };
        let count = (&mut *stream).take(room.min(step) as u64).read_buf(&mut buffer).await?;
        if count == 0 {
            return Err(ConnectError::Eof);
        }
    }
}

/// Checks that a hello is of our network, our protocol version and our genesis.
pub(crate) fn check_network(
    hello: &Hello,
    version: u32,
    network: u64,
    genesis: Option<&[u8; 32]>,
) -> Result<(), ConnectError> {
    if hello.network != network {
        return Err(ConnectError::WrongNetwork { ours: network, theirs: hello.network });
    }
    if hello.version != version {
        return Err(ConnectError::WrongVersion { ours: version, theirs: hello.version });
    }
    match (genesis, &hello.genesis) {
        (Some(ours), Some(theirs)) if ours != theirs => Err(ConnectError::WrongGenesis),
        _ => Ok(()),
    }
}

/// Writes a refusal in place of a hello and closes the stream. Errors are ignored: the connection
/// is refused either way.
pub(crate) async fn write_refusal<S: Stream>(stream: &mut S, protocol: &dyn DynProtocol, refusal: &Refusal) {
    if let Some(bytes) = protocol.encode_refusal(refusal) {
        let _ = stream.write_all(&bytes).await;
    }
    let _ = stream.shutdown().await;
    // Unread bytes turn the close of a socket into a reset, which may overtake the goodbye.
    let mut discarded = [0u8; 512];
    let mut left = protocol.max_hello_bytes();
    while left > 0 {
        match stream.read(&mut discarded).await {
            Ok(count) if count > 0 => left = left.saturating_sub(count),
            _ => break,
        }
    }
}
