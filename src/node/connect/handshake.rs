//! Greetings: the dialler speaks first, the acceptor's hello is its acceptance.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::base::{Direction, PeerId};
use crate::connection::{MemoryBudget, MemoryReservation};
use crate::transport::Stream;
use crate::wire::{FirstFrame, Goodbye, Hello, WireError};

use crate::node::protocol::config::Identity;
use crate::node::error::ConnectError;
use crate::node::api::handler::PeerDecision;
use crate::node::runtime::shared::{Shared, count};
use crate::node::protocol::set::DynProtocol;

/// In the highest bit of a hello's features: the dialler only asks who listens here, and closes after the answer.
pub(crate) const PROBE_BIT: u64 = 1 << 63;

/// Writes a hello and reads the answer; also what was read behind it.
pub(crate) async fn greet<S: Stream>(
    stream: &mut S,
    tongue: &dyn DynProtocol,
    budget: &Arc<MemoryBudget>,
    ours: &[u8],
) -> Result<(Hello, Vec<u8>), ConnectError> {
    stream.write_all(ours).await?;
    stream.flush().await?;
    read_hello(stream, tongue, budget).await
}

/// Reads the hello that a dialler begins with, or an acceptor answers with; also what was read behind it.
pub(crate) async fn read_hello<S: Stream>(
    stream: &mut S,
    tongue: &dyn DynProtocol,
    budget: &Arc<MemoryBudget>,
) -> Result<(Hello, Vec<u8>), ConnectError> {
    let decode = |buf: &[u8]| tongue.decode_first_frame(buf);
    match read_greeting(stream, tongue.hello_cap(), decode, Some(budget)).await? {
        (FirstFrame::Hello(hello), rest) => Ok((hello, rest)),
        (FirstFrame::Goodbye(goodbye), _) => Err(ConnectError::Refused(goodbye)),
    }
}

/// Reads a greeting of at most `cap` bytes. Memory grows with what comes; what a large one takes counts against the ceiling.
pub(crate) async fn read_greeting<S: Stream>(
    stream: &mut S,
    cap: usize,
    decode: impl Fn(&[u8]) -> Result<Option<(FirstFrame, usize)>, WireError>,
    budget: Option<&Arc<MemoryBudget>>,
) -> Result<(FirstFrame, Vec<u8>), ConnectError> {
    let mut buffer = Vec::with_capacity(256);
    let mut held = budget.map(MemoryReservation::empty);
    loop {
        if let Some((greeting, used)) = decode(&buffer)? {
            buffer.drain(..used);
            // What a large greeting took does not stay.
            buffer.shrink_to_fit();
            return Ok((greeting, buffer));
        }
        let room = cap.saturating_sub(buffer.len());
        if room == 0 {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        if buffer.len() >= UNCOUNTED
            && let Some(held) = &mut held
            && !held.resize(buffer.capacity())
        {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory).into());
        }
        let step = if buffer.len() < UNCOUNTED { 1024 } else { LARGE_STEP };
        let count = (&mut *stream).take(room.min(step) as u64).read_buf(&mut buffer).await?;
        if count == 0 {
            return Err(ConnectError::Eof);
        }
    }
}

/// Whether who says this is of our network, speaks our version and began where we did.
pub(crate) fn check_kin(
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

/// Greetings up to here are bounded by the number of handshakes.
const UNCOUNTED: usize = 4096;
/// What is read at a time of a larger one.
const LARGE_STEP: usize = 16 * 1024;

/// Tells the other end why not, and closes. Errors do not matter any more.
pub(crate) async fn refuse<S: Stream>(stream: &mut S, tongue: &dyn DynProtocol, goodbye: Goodbye) {
    if let Some(out) = tongue.encode_goodbye(&goodbye) {
        let _ = stream.write_all(&out).await;
    }
    let _ = stream.shutdown().await;
    // What is unread when a socket closes turns the close into a reset, which may overtake the goodbye.
    let mut scrap = [0u8; 512];
    let mut left = tongue.hello_cap();
    while left > 0 {
        match stream.read(&mut scrap).await {
            Ok(count) if count > 0 => left = left.saturating_sub(count),
            _ => break,
        }
    }
}

impl Shared {
    /// Whom a greeted connection belongs to by its dialect's rules: notes the instance in the hello and hands out the key, if
    /// the rules have one.
    pub(crate) fn identify(
        &self,
        tongue: usize,
        hello: &mut Hello,
        addr: SocketAddr,
        direction: Direction,
    ) -> Option<PeerId> {
        let Identity { key, instance } = self.tongues.get(tongue).policy().identify(hello, addr, direction);
        hello.nonce = instance;
        key
    }

    /// Whether a peer with this hello belongs here at all.
    pub(crate) fn check_hello(
        &self,
        tongue: usize,
        hello: &Hello,
        from: SocketAddr,
    ) -> Result<(), ConnectError> {
        let version = self.tongues.get(tongue).version();
        check_kin(hello, version, self.config.network, self.config.genesis.as_ref())?;
        if hello.nonce == Some(self.tongues.instance(tongue)) {
            return Err(ConnectError::SelfDial);
        }
        if hello.features & PROBE_BIT == 0 {
            let ask = std::panic::AssertUnwindSafe(|| self.handler.accept_peer(hello, from));
            // Without a decision nobody comes in, and whoever dials is not taken down.
            let decision = std::panic::catch_unwind(ask).unwrap_or_else(|_| {
                count(&self.counters.panics);
                tracing::error!(%from, "a handler panicked");
                PeerDecision::Reject
            });
            if decision == PeerDecision::Reject {
                return Err(ConnectError::Rejected);
            }
        }
        Ok(())
    }

    /// Our hello, encoded.
    pub(crate) fn hello(&self, tongue: usize, probe: bool) -> Result<BytesMut, ConnectError> {
        let features = self.config.features | if probe { PROBE_BIT } else { 0 };
        let listen = if probe { None } else { self.advertised(tongue) };
        let speaks = self.tongues.get(tongue);
        let hello = Hello {
            version: speaks.version(),
            network: self.config.network,
            nonce: Some(self.tongues.instance(tongue)),
            features,
            listen,
            agent: self.config.agent.clone(),
            genesis: self.config.genesis,
            app: self.config.app.clone(),
        };
        let encoded = speaks.encode_hello(&hello);
        Ok(encoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?)
    }
}
