//! Connections that others open to us.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::base::{Direction, PeerId, Source, Tick};
use crate::node::api::events::NodeEvent;
use crate::node::error::{ConnectError, StartError};
use crate::node::protocol::ProtocolId;
use crate::node::runtime::log_budget::LogKind;
use crate::node::runtime::shared::{Shared, count};
use crate::node::runtime::tasks::TaskGuard;
use crate::node::session::peer::NodeConnection;
use crate::node::session::task::PeerTask;
use crate::pool::{AdmitError, Permit, SlotClass};
use crate::transport::{BoxListener, BoxStream};

use super::establish::{Establisher, Failure, NewStream, Opening};
use super::goodbye::refuse;
use super::pending_inbound::PendingGuard;
use super::probe::Prober;
use super::reservation::Reservation;
use super::source_slots::{SlotLimits, SourceSlot};

/// Handshakes that give way to one newcomer at most: others may take the freed slots first.
const MAX_EVICTIONS: usize = 4;
/// How long accepting waits for a handshake that gives way.
const EVICTION_TIMEOUT: Duration = Duration::from_millis(100);

/// Listens, and makes accepted streams peers.
#[derive(Clone)]
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    establisher: Establisher,
}

impl Acceptor {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), establisher: Establisher::new(shared) }
    }

    /// Binds an address and accepts from it. Returns the bound address.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound.
    pub(crate) async fn listen(
        &self,
        protocol: ProtocolId,
        addr: SocketAddr,
    ) -> Result<SocketAddr, StartError> {
        let listener = self.shared.transport.listen(addr).await;
        let listener = listener.map_err(|cause| StartError::Listen { addr, cause })?;
        if self.shared.is_stopping() {
            return Err(StartError::Shutdown);
        }
        Ok(self.accept_from(protocol, listener))
    }

    /// Accepts from a bound listener until the node stops. Returns the bound address.
    pub(crate) fn accept_from(&self, protocol: ProtocolId, listener: BoxListener) -> SocketAddr {
        let addr = listener.local_addr();
        self.shared.connecting.listeners.lock().push((protocol, addr));
        tracing::info!(%addr, protocol = self.shared.protocols.get(protocol).name(), "listening");
        self.shared.tasks.spawn(self.clone().accept_loop(protocol, listener));
        addr
    }

    /// Each handshake runs in a task of its own under its permit's deadline, so that a slow peer
    /// does not delay the next.
    async fn accept_loop(self, protocol: ProtocolId, mut listener: BoxListener) {
        let mut stopped = pin!(self.shared.stopped());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => self.on_accepted(protocol, stream, from).await,
                // The listener itself waits before it tries again.
                Err(error) => tracing::warn!(%error, "accepting failed"),
            }
        }
    }

    /// Reserves a slot before anything is read, and spawns the handshake. Waits for a slot only
    /// while all of them are taken and one is being freed; meanwhile newcomers are in the backlog.
    async fn on_accepted(&self, protocol: ProtocolId, stream: BoxStream, from: SocketAddr) {
        count(&self.shared.counters.accepted);
        let handshake_timeout = self.shared.runtime_config().handshake_timeout;
        let trusted = self.trusted_entry(from.ip());
        let stranger = self.shared.stranger_class(from.ip());
        let class = if trusted.is_some() { SlotClass::Reserved } else { stranger };
        let since = self.shared.now();
        match self.reserve_or_evict(from, class, since.after(handshake_timeout)).await {
            Ok(permit) => {
                let new = NewStream { stream, protocol, proven_key: None, since };
                let counted = self.shared.tasks.guard();
                let pending = match trusted {
                    Some(entry) => PendingClass::Trusted { _entry: entry },
                    None => {
                        let pending = &self.shared.connecting.pending_inbound;
                        PendingClass::Ordinary(pending.register(Source::of(from.ip())))
                    }
                };
                let handshake = self.clone().handshake(permit, new, handshake_timeout, pending, counted);
                self.shared.tasks.spawn_peer(PeerTask::new(handshake));
            }
            // Above its share a source costs nothing: no task, and not a byte.
            Err(error @ ConnectError::Admission(AdmitError::PerSource | AdmitError::PerSubnet)) => {
                self.record_rejection(from, error);
            }
            Err(error) => self.reject(protocol, stream, from, error),
        }
    }

    /// The entry of a trusted address at this IP address that nobody stands for yet. Without keys
    /// any process of that host may be the one; but only one of them gets the entry's reserved slot.
    fn trusted_entry(&self, ip: IpAddr) -> Option<SourceSlot> {
        let trusted = self.shared.names.trusted();
        let entries = trusted.iter().filter(|addr| addr.ip() == ip).count();
        if entries == 0 {
            return None;
        }
        let peers = self.shared.pool.by_ip(ip);
        let taken = peers.iter().filter(|peer| peer.slot_class() == SlotClass::Reserved).count();
        let free = entries.saturating_sub(taken);
        let limits = SlotLimits { per_source: free, ..SlotLimits::NONE };
        self.shared.connecting.trusted_pending.begin(ip, limits)
    }

    /// Reserves a slot. If handshakes take all of them, one gives way.
    async fn reserve_or_evict(
        &self,
        from: SocketAddr,
        class: SlotClass,
        deadline: Tick,
    ) -> Result<Permit<PeerId, NodeConnection>, ConnectError> {
        let pending = &self.shared.connecting.pending_inbound;
        let mut evictions = 0;
        loop {
            let result = self.establisher.reserve(from, Direction::Inbound, class, deadline);
            let is_held_up = match &result {
                Err(ConnectError::Admission(AdmitError::TooManyPending(_))) => true,
                Err(ConnectError::Admission(AdmitError::Full(_))) => !self.is_full_of_live_peers(class),
                _ => false,
            };
            if !is_held_up || evictions == MAX_EVICTIONS || !pending.evict_and_wait(EVICTION_TIMEOUT).await {
                return result;
            }
            evictions += 1;
            count(&self.shared.counters.evicted_handshakes);
        }
    }

    /// Whether all slots of this class are taken by live peers, so that no handshake is in the way.
    fn is_full_of_live_peers(&self, class: SlotClass) -> bool {
        let limits = self.shared.pool.limits();
        let kept = if class == SlotClass::Reserved { 0 } else { limits.reserved_inbound };
        self.shared.pool.admission().live_inbound >= limits.max_inbound.saturating_sub(kept)
    }

    /// The handshake of an accepted stream. Returns the session as the next part of the task.
    ///
    /// Counts as a task of its own until stream and permit are dropped, or the session counts
    /// itself.
    async fn handshake(
        self,
        permit: Permit<PeerId, NodeConnection>,
        new: NewStream,
        handshake_timeout: Duration,
        pending: PendingClass,
        _counted: TaskGuard,
    ) -> Option<PeerTask> {
        let from = permit.addr();
        let protocol = new.protocol;
        // The future is made where it is awaited: moving it would take its size twice.
        let outcome = tokio::select! {
            biased;
            () = self.shared.stopped() => return None,
            () = pending.evicted() => return None,
            outcome = timeout(
                handshake_timeout,
                self.establisher.establish(Reservation::Permit(permit), new, Opening::Respond),
            ) => outcome,
        };
        match outcome {
            Ok(Ok(established)) => {
                drop(pending);
                Prober::new(&self.shared).verify_listen_addr(&established.peer);
                return Some(established.task);
            }
            // A probe has its answer.
            Ok(Err(Failure { error: ConnectError::Probe, .. })) => {}
            Ok(Err(Failure { error, stream: Some(stream) })) => self.reject(protocol, stream, from, error),
            Ok(Err(Failure { error, stream: None })) => self.record_rejection(from, error),
            Err(_) => self.record_rejection(from, ConnectError::Timeout),
        }
        None
    }

    /// Tells the far end why it is refused, and records it. Does not delay the caller.
    fn reject(&self, protocol: ProtocolId, stream: BoxStream, from: SocketAddr, error: ConnectError) {
        refuse(&self.shared, protocol, stream, from, &error);
        self.record_rejection(from, error);
    }

    fn record_rejection(&self, from: SocketAddr, error: ConnectError) {
        let counters = &self.shared.counters;
        count(if error.is_collision() { &counters.collisions } else { &counters.refused });
        match &error {
            ConnectError::SelfDial => tracing::debug!(%from, "we dialled ourselves"),
            error if error.is_collision() => tracing::debug!(%from, reason = %error, "inbound gave way"),
            error if self.shared.may_log(LogKind::Refused, from.ip()) => {
                tracing::info!(%from, reason = %error, "inbound refused");
            }
            _ => {}
        }
        if self.shared.events.has_subscribers() {
            self.shared.events.send(NodeEvent::Refused { addr: from, cause: Arc::new(error) });
        }
    }
}

/// The handshake of an accepted stream, by the slot that it has.
enum PendingClass {
    /// A stranger's: it may have to give way.
    Ordinary(PendingGuard),
    /// It stands for a trusted address.
    Trusted { _entry: SourceSlot },
}

impl PendingClass {
    /// Resolves when the handshake has to give way; never for a trusted peer's.
    async fn evicted(&self) {
        match self {
            Self::Ordinary(pending) => pending.evicted().await,
            Self::Trusted { .. } => std::future::pending().await,
        }
    }
}
