//! Streams that the application connected, and hands over.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::{Direction, canonical};
use crate::node::error::ConnectError;
use crate::node::protocol::ProtocolId;
use crate::node::runtime::shared::Shared;
use crate::node::session::peer::Peer;
use crate::transport::BoxStream;

use super::establish::{Establisher, NewStream, Opening};
use super::goodbye::{refuse, send_goodbye};
use super::probe::Prober;
use super::reservation::{CompletedHandshake, Reservation};

/// Makes given streams peers.
pub(crate) struct Adopter {
    shared: Arc<Shared>,
    establisher: Establisher,
}

/// A stream to adopt.
pub(crate) struct GivenStream {
    pub(crate) stream: BoxStream,
    pub(crate) direction: Direction,
    /// The address dialled or observed.
    pub(crate) addr: SocketAddr,
    pub(crate) protocol: ProtocolId,
    /// The key that the transport proved, if it proves one.
    pub(crate) proven_key: Option<[u8; 32]>,
}

impl Adopter {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), establisher: Establisher::new(shared) }
    }

    /// Adopts a stream, with the handshake if the caller has done it. Runs under the handshake
    /// timeout.
    ///
    /// # Cancel safety
    /// Dropping the future closes the stream and gives everything back.
    pub(crate) async fn adopt(
        &self,
        given: GivenStream,
        completed: Option<CompletedHandshake>,
    ) -> Result<Arc<Peer>, ConnectError> {
        let handshake_timeout = self.shared.runtime_config().handshake_timeout;
        let since = self.shared.now();
        let GivenStream { stream, direction, addr, protocol, proven_key } = given;
        let deadline = since.after(handshake_timeout);
        let class = self.shared.stranger_class(addr.ip());
        let permit = self.establisher.reserve(canonical(addr), direction, class, deadline)?;
        let opening = match (completed, direction) {
            (Some(completed), _) => Opening::Completed(Box::new(completed)),
            (None, Direction::Outbound) => Opening::Initiate,
            (None, Direction::Inbound) => Opening::Respond,
        };
        let new = NewStream { stream, protocol, proven_key, since };
        let attempt = self.attempt(Reservation::Permit(permit), new, opening);
        self.shared.until_stopped_or(handshake_timeout, attempt).await
    }

    async fn attempt(
        &self,
        reservation: Reservation,
        new: NewStream,
        opening: Opening,
    ) -> Result<Arc<Peer>, ConnectError> {
        let (protocol, addr) = (new.protocol, reservation.addr());
        let is_responding = matches!(opening, Opening::Respond);
        match self.establisher.establish(reservation, new, opening).await {
            Ok(established) => {
                if is_responding {
                    Prober::new(&self.shared).verify_listen_addr(&established.peer);
                }
                Ok(established.spawn(&self.shared))
            }
            Err(failure) => {
                // Our hello is out, unless we were to answer.
                if let Some(stream) = failure.stream {
                    let tell = if is_responding { refuse } else { send_goodbye };
                    tell(&self.shared, protocol, stream, addr, &failure.error);
                }
                Err(failure.error)
            }
        }
    }
}
