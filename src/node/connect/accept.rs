//! Connections that others open to us.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::address_book::{BanTarget, WallTime};
use crate::base::Direction;
use crate::pool::{Permit, SlotClass};
use crate::transport::{BoxListener, BoxStream};

use crate::node::error::ConnectError;
use crate::node::api::events::NodeEvent;
use crate::node::connect::handshake::{PROBE_BIT, read_hello, refuse};
use crate::node::session::info::NodeConnection;
use crate::node::connect::establish::Established;
use crate::node::session::task::PeerTask;
use crate::node::connect::reservation::{HandshakeInfo, HandshakenStream, Reservation};
use crate::node::runtime::shared::{Shared, TaskGuard, count};
use crate::base::PeerId;

impl Shared {
    /// Accepts until the node stops. Admission is asked before anything is read, each handshake runs in a task of its own
    /// under its permit's deadline, so nobody's slowness delays the next; the task then runs the link.
    pub(crate) async fn accept_loop(self: Arc<Self>, tongue: usize, mut listener: BoxListener) {
        let mut stopped = pin!(self.stopped());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => self.accepted(tongue, stream, from),
                // The listener itself waits before it tries again.
                Err(error) => tracing::warn!(%error, "accepting failed"),
            }
        }
    }

    fn accepted(self: &Arc<Self>, tongue: usize, stream: BoxStream, from: SocketAddr) {
        count(&self.counters.accepted);
        let runtime = self.runtime_config();
        if self.book.is_banned(&BanTarget::Ip(from.ip()), WallTime::now()) {
            return self.turn_away(tongue, stream, from, ConnectError::Banned);
        }
        let slot = if self.is_trusted_ip(from) { SlotClass::Reserved } else { SlotClass::Ordinary };
        let deadline = self.now().after(runtime.handshake_timeout);
        match self.pool.admit(from, Direction::Inbound, slot, deadline) {
            Ok(permit) => {
                let (shared, counted) = (Arc::clone(self), TaskGuard::new(self));
                self.spawn_course(PeerTask::new(shared.inbound(
                    tongue,
                    stream,
                    permit,
                    runtime.handshake_timeout,
                    counted,
                )));
            }
            Err(error) => self.turn_away(tongue, stream, from, error.into()),
        }
    }

    fn is_trusted_ip(&self, from: SocketAddr) -> bool {
        self.config.trusted.iter().any(|addr| crate::base::canonical(*addr).ip() == from.ip())
    }

    /// The handshake of one that was accepted, and what its task does then. Counts as a task until stream and
    /// permit are dropped, or a link that counts itself has come of them.
    async fn inbound(
        self: Arc<Self>,
        tongue: usize,
        stream: BoxStream,
        permit: Permit<PeerId, NodeConnection>,
        within: Duration,
        _counted: TaskGuard,
    ) -> Option<PeerTask> {
        let from = permit.addr();
        // Made where it is awaited: a future that is moved takes its room twice.
        let outcome = tokio::select! {
            biased;
            () = self.stopped() => return None,
            outcome = timeout(within, self.handshake_inbound(tongue, stream, permit, None)) => outcome,
        };
        match outcome {
            Ok(Ok(joined)) => return Some(joined.link),
            // A probe has its answer.
            Ok(Err((ConnectError::Probe, _))) => {}
            Ok(Err((error, Some(stream)))) => self.turn_away(tongue, stream, from, error),
            Ok(Err((error, None))) => self.note_refused(from, error),
            Err(_) => self.note_refused(from, ConnectError::Timeout),
        }
        None
    }

    /// Greets whoever has dialled, and makes a peer of it. On failure the stream comes back, so that it can be told.
    pub(crate) async fn handshake_inbound(
        self: &Arc<Self>,
        tongue: usize,
        mut stream: BoxStream,
        permit: Permit<PeerId, NodeConnection>,
        identity: Option<[u8; 32]>,
    ) -> Result<Established, (ConnectError, Option<BoxStream>)> {
        let since = self.now();
        let from = permit.addr();
        let speaks = &**self.tongues.get(tongue);
        let (mut hello, buffered) = match read_hello(&mut stream, speaks, &self.budget).await {
            Ok(greeted) => greeted,
            Err(error) => return Err((error, Some(stream))),
        };
        let key = self.identify(tongue, &mut hello, from, Direction::Inbound);
        let checked = self.check_hello(tongue, &hello, from).and_then(|()| self.hello(tongue, false));
        let greeting = match checked {
            Ok(greeting) => greeting.to_vec(),
            Err(error) => return Err((error, Some(stream))),
        };
        if hello.features & PROBE_BIT != 0 {
            use tokio::io::AsyncWriteExt;
            // A prober that does not wait for the answer does not need it.
            let _ = stream.write_all(&greeting).await;
            let _ = stream.shutdown().await;
            return Err((ConnectError::Probe, None));
        }
        let claimed = hello.listen;
        let local = stream.local_addr();
        let pending_requests = Vec::new();
        let about = HandshakeInfo {
            tongue,
            hello,
            buffered,
            pending_requests,
            key,
            identity,
            local,
            since,
            greeting,
        };
        let greeted = HandshakenStream { stream, about };
        match self.join(Reservation::Permit(permit), greeted).await {
            Ok(joined) => {
                if claimed.is_some() {
                    self.verify_listen(&joined.peer);
                }
                Ok(joined)
            }
            Err((error, stream)) => Err((error, Some(stream))),
        }
    }

    /// Tells the other end why not, without holding up anybody: in a task of its own while there are few, and by closing
    /// where there are many.
    ///
    /// Invariant 15. Statement: one source that is refused again and again costs a bounded number of sockets. Enforced by: the
    /// semaphore of refusals. Breaks if: a refusal is written in the accept loop.
    pub(crate) fn turn_away(
        self: &Arc<Self>,
        tongue: usize,
        stream: BoxStream,
        from: SocketAddr,
        error: ConnectError,
    ) {
        self.tell_refusal(tongue, stream, &error);
        self.note_refused(from, error);
    }

    pub(crate) fn tell_refusal(self: &Arc<Self>, tongue: usize, mut stream: BoxStream, error: &ConnectError) {
        let goodbye = error.goodbye(RETRY_AFTER);
        let Some(goodbye) = goodbye else { return };
        let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let speaks = Arc::clone(self.tongues.get(tongue));
        let shared = Arc::clone(self);
        self.spawn(async move {
            let told = timeout(REFUSAL, refuse(&mut stream, &*speaks, goodbye));
            // Told or not, it is over.
            tokio::select! {
                () = shared.stopped() => {}
                _ = told => {}
            }
            drop(place);
        });
    }

    pub(crate) fn note_refused(&self, from: SocketAddr, error: ConnectError) {
        count(if error.is_collision() { &self.counters.collisions } else { &self.counters.refused });
        match &error {
            ConnectError::SelfDial => tracing::debug!(%from, "we dialled ourselves"),
            error if error.is_collision() => tracing::debug!(%from, reason = %error, "inbound gave way"),
            error => tracing::info!(%from, reason = %error, "inbound refused"),
        }
        if self.events.is_heard() {
            self.events.send(NodeEvent::Refused { addr: from, cause: Arc::new(error) });
        }
    }
}

/// When a refused peer may come back.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// How long telling a refusal may take.
const REFUSAL: Duration = Duration::from_secs(2);
