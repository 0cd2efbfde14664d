//! Greetings: the dialler speaks first, the acceptor's hello is its acceptance.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::transport::Stream;
use crate::wire::{Dialect, Goodbye, Greeting, Hello};

use super::error::ConnectError;
use super::handler::Verdict;
use super::shared::{Shared, count};

/// In the highest bit of a hello's features: the dialler only asks who listens here, and closes after the answer.
pub(super) const PROBE_BIT: u64 = 1 << 63;

/// Writes a hello and reads the answer; also what was read behind it.
pub(super) async fn greet<D: Dialect, S: Stream>(
    stream: &mut S,
    dialect: &D,
    ours: &[u8],
) -> Result<(Hello, Vec<u8>), ConnectError> {
    stream.write_all(ours).await?;
    stream.flush().await?;
    match read_greeting(stream, dialect).await? {
        (Greeting::Hello(hello), rest) => Ok((hello, rest)),
        (Greeting::Goodbye(goodbye), _) => Err(ConnectError::Refused(goodbye)),
    }
}

/// Reads the hello that a dialler begins with.
pub(super) async fn read_hello<D: Dialect, S: Stream>(
    stream: &mut S,
    dialect: &D,
) -> Result<(Hello, Vec<u8>), ConnectError> {
    match read_greeting(stream, dialect).await? {
        (Greeting::Hello(hello), rest) => Ok((hello, rest)),
        (Greeting::Goodbye(goodbye), _) => Err(ConnectError::Refused(goodbye)),
    }
}

async fn read_greeting<D: Dialect, S: Stream>(
    stream: &mut S,
    dialect: &D,
) -> Result<(Greeting, Vec<u8>), ConnectError> {
    // Grows with what comes, up to the cap: with that much in hand a greeting is complete or refused.
    let cap = dialect.limits().hello;
    let mut buffer = Vec::with_capacity(256);
    loop {
        if let Some((greeting, used)) = dialect.decode_greeting(&buffer)? {
            buffer.drain(..used);
            return Ok((greeting, buffer));
        }
        let room = cap.saturating_sub(buffer.len());
        if room == 0 {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        let count = (&mut *stream).take(room.min(1024) as u64).read_buf(&mut buffer).await?;
        if count == 0 {
            return Err(ConnectError::Eof);
        }
    }
}

/// Tells the other end why not, and closes. Errors do not matter any more.
pub(super) async fn refuse<D: Dialect, S: Stream>(stream: &mut S, dialect: &D, goodbye: Goodbye) {
    let mut out = BytesMut::new();
    if dialect.encode_goodbye(&goodbye, &mut out).is_ok() {
        let _ = stream.write_all(&out).await;
    }
    let _ = stream.shutdown().await;
    // What is unread when a socket closes turns the close into a reset, which may overtake the goodbye.
    let mut scrap = [0u8; 512];
    let mut left = dialect.limits().hello;
    while left > 0 {
        match stream.read(&mut scrap).await {
            Ok(count) if count > 0 => left = left.saturating_sub(count),
            _ => break,
        }
    }
}

impl Shared {
    /// Whether a peer with this hello belongs here at all.
    pub(super) fn check_hello(&self, hello: &Hello, from: SocketAddr) -> Result<(), ConnectError> {
        let ours = self.voice.dialect.version();
        if hello.version != ours {
            return Err(ConnectError::WrongVersion { ours, theirs: hello.version });
        }
        if hello.network != self.config.network {
            return Err(ConnectError::WrongNetwork { ours: self.config.network, theirs: hello.network });
        }
        if hello.nonce == Some(self.nonce) {
            return Err(ConnectError::SelfDial);
        }
        if let (Some(ours), Some(theirs)) = (&self.config.genesis, &hello.genesis)
            && ours != theirs
        {
            return Err(ConnectError::WrongGenesis);
        }
        if hello.features & PROBE_BIT == 0 {
            let ask = std::panic::AssertUnwindSafe(|| self.handler.verdict(hello, from));
            // Without a verdict nobody comes in, and whoever dials is not taken down.
            let verdict = std::panic::catch_unwind(ask).unwrap_or_else(|_| {
                count(&self.counters.panics);
                tracing::error!(%from, "a handler panicked");
                Verdict::Reject
            });
            if verdict == Verdict::Reject {
                return Err(ConnectError::Rejected);
            }
        }
        Ok(())
    }

    /// Our hello, encoded.
    pub(super) fn hello(&self, probe: bool) -> Result<BytesMut, ConnectError> {
        use crate::wire::Dialect as _;
        let features = self.config.features | if probe { PROBE_BIT } else { 0 };
        let listen = if probe { None } else { self.advertised() };
        let hello = Hello {
            version: self.voice.dialect.version(),
            network: self.config.network,
            nonce: Some(self.nonce),
            features,
            listen,
            agent: self.config.agent.clone(),
            genesis: self.config.genesis,
            app: self.config.app.clone(),
        };
        let mut out = BytesMut::new();
        self.voice
            .dialect
            .encode_hello(&hello, &mut out)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(out)
    }
}
