//! Opens connections: dialling and handshakes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::address_book::WallTime;
use crate::base::{Direction, canonical};
use crate::node::{ConnectError, check_network, read_first_frame};
use crate::timecoin::peer_info::{peer_info_from_hello, unix_seconds};
use crate::timecoin::wire::TimeCoin;
use crate::transport::{BoxStream, Transport};
use crate::wire::{FirstFrame, Hello, Protocol};

use super::{ConnectionError, OpenStream, PeerConnection, State};

/// Opens connections over one transport with one handshake.
#[derive(Clone)]
pub(in crate::timecoin) struct Connector {
    pub(in crate::timecoin) transport: Arc<dyn Transport>,
    pub(in crate::timecoin) protocol: Arc<TimeCoin>,
    /// What our handshake announces.
    pub(in crate::timecoin) hello: Hello,
    /// Time limit for dialling plus handshake, and for each write.
    pub(in crate::timecoin) time_limit: Duration,
}

impl Connector {
    /// Dials and exchanges handshakes.
    pub(in crate::timecoin) async fn dial(
        &self,
        addr: SocketAddr,
    ) -> Result<PeerConnection, ConnectionError> {
        let addr = canonical(addr);
        let dialling = async {
            let mut stream = self.transport.dial(addr).await.map_err(ConnectError::from)?;
            self.send_handshake(&mut stream).await?;
            let (hello, rest) = self.receive_handshake(&mut stream).await?;
            Ok(self.connection(stream, Direction::Outbound, addr, hello, rest))
        };
        timeout(self.time_limit, dialling).await.unwrap_or(Err(ConnectError::Timeout.into()))
    }

    /// Exchanges handshakes on an accepted stream.
    pub(in crate::timecoin) async fn accept(
        &self,
        mut stream: BoxStream,
        from: SocketAddr,
    ) -> Result<PeerConnection, ConnectionError> {
        let accepting = async {
            let (hello, rest) = self.receive_handshake(&mut stream).await?;
            self.send_handshake(&mut stream).await?;
            Ok(self.connection(stream, Direction::Inbound, canonical(from), hello, rest))
        };
        timeout(self.time_limit, accepting).await.unwrap_or(Err(ConnectError::Timeout.into()))
    }

    async fn send_handshake(&self, stream: &mut BoxStream) -> Result<(), ConnectionError> {
        let mut out = BytesMut::new();
        self.protocol.encode_hello(&self.hello, &mut out)?;
        stream.write_all(&out).await.map_err(ConnectError::from)?;
        stream.flush().await.map_err(ConnectError::from)?;
        Ok(())
    }

    async fn receive_handshake(&self, stream: &mut BoxStream) -> Result<(Hello, Vec<u8>), ConnectionError> {
        let decode = |bytes: &[u8]| self.protocol.decode_first_frame(bytes);
        let (greeting, rest) = read_first_frame(stream, self.protocol.limits().hello, decode, None).await?;
        let hello = match greeting {
            FirstFrame::Hello(hello) => hello,
            FirstFrame::Refusal(refusal) => return Err(ConnectError::Refused(refusal.goodbye()).into()),
        };
        let ours = &self.hello;
        check_network(&hello, ours.version, ours.network, ours.genesis.as_ref())?;
        Ok((hello, rest))
    }

    fn connection(
        &self,
        stream: BoxStream,
        direction: Direction,
        addr: SocketAddr,
        hello: Hello,
        rest: Vec<u8>,
    ) -> PeerConnection {
        let network = self.protocol.network();
        let address = match (direction, hello.listen) {
            // Legacy nodes identify an inbound peer by the address that it announces.
            (Direction::Inbound, Some(listen)) => listen,
            _ => addr,
        };
        let info = peer_info_from_hello(network, address, &hello, unix_seconds(WallTime::now()));
        let (unread, requests) = (VecDeque::new(), Vec::new());
        let open = OpenStream { stream, buffer: BytesMut::from(&rest[..]), unread, requests, hello };
        PeerConnection {
            state: State::Open(Box::new(open)),
            info,
            addr,
            direction,
            protocol: Arc::clone(&self.protocol),
            time_limit: self.time_limit,
        }
    }
}
