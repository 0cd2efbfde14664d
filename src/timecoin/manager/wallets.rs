//! Notifying wallets of their transactions.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::timecoin::connection::ConnectionError;
use crate::timecoin::wallets::{SubscribeRefused, Subscribed};
use crate::timecoin::wire::{NetworkMessage, WalletTransaction};

use super::broadcast::{enqueue, send_one_shot, to_message};
use super::error::PeerSendError;
use super::{Notified, PeerManager};

/// Maximum number of concurrent notifications of one call.
const MAX_NOTICES_PER_CALL: usize = 64;

/// Wallets.
impl PeerManager {
    /// Subscribes the peer at this IP address to a wallet's transactions. It is notified over its
    /// connection, or at its known listening address.
    ///
    /// # Errors
    /// See [`SubscribeRefused`].
    pub async fn subscribe_wallet(
        &self,
        xpub: &str,
        peer_ip: IpAddr,
    ) -> Result<Subscribed, SubscribeRefused> {
        let addr = self.last_known_addr(peer_ip);
        self.state().wallets.lock().subscribe(xpub, addr, self.node().now())
    }

    /// Ends all subscriptions of the peer at this IP address and returns how many there were.
    pub async fn unsubscribe_wallet(&self, peer_ip: IpAddr) -> usize {
        self.state().wallets.lock().unsubscribe(peer_ip)
    }

    /// Notifies the subscribers of the wallets that own these addresses of a transaction. Without
    /// addresses, all subscribers are notified.
    ///
    /// A subscriber is notified over its connection, or over a one-shot connection within 5 s. All
    /// concurrent calls use at most half of [`max_one_shots`](super::ManagerConfig::max_one_shots).
    /// An unreachable subscriber is not dialled again for a while and counts as failed; after a day
    /// it is removed ([`WalletConfig`](crate::timecoin::WalletConfig)).
    ///
    /// [`ChainSource::concerns`](crate::timecoin::ChainSource::concerns) decides which addresses
    /// belong to a wallet; by default all do.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the remaining subscribers without the notification.
    pub async fn notify_wallet_transaction(
        &self,
        transaction: WalletTransaction,
        addresses: &[String],
    ) -> Notified {
        let state = self.state();
        // Called without the lock: it is application code.
        let keys = state.wallets.lock().keys();
        let concerned: HashSet<String> = keys
            .into_iter()
            .filter(|key| addresses.is_empty() || state.chain.concerns(key, addresses))
            .collect();
        let peers = state.wallets.lock().interested_addrs(|key| concerned.contains(key));
        let message = NetworkMessage::NewTransactionNotification { transaction };
        let mut notified = Notified::default();
        let mut unconnected = Vec::new();
        for addr in peers {
            let Some(peer) = state.peer_by_addr(self.node(), addr) else {
                unconnected.push(addr);
                continue;
            };
            let sent = to_message(&message).map(|text| enqueue(self.node(), &peer, text));
            let sent = matches!(sent, Ok(Ok(())));
            if sent {
                state.wallets.lock().record_reached(addr.ip(), self.node().now());
            }
            notified.count(sent);
        }
        self.notify_unconnected(unconnected, &message, &mut notified).await;
        notified
    }

    /// Notifies subscribers without a connection, some at a time.
    async fn notify_unconnected(
        &self,
        addrs: Vec<SocketAddr>,
        message: &NetworkMessage,
        notified: &mut Notified,
    ) {
        let state = self.state();
        let mut sends = JoinSet::new();
        let mut addrs = addrs.into_iter();
        loop {
            // One that failed in a concurrent call meanwhile is not dialled again.
            let next = (sends.len() < MAX_NOTICES_PER_CALL).then(|| addrs.next()).flatten();
            if let Some(addr) = next {
                if state.wallets.lock().is_backing_off(addr.ip(), self.node().now()) {
                    notified.count(false);
                    continue;
                }
                let (state, message) = (Arc::clone(state), message.clone());
                sends.spawn(async move {
                    // The semaphore is never closed.
                    let _slot = state.notices.acquire().await;
                    (addr, send_one_shot(&state, addr, message).await)
                });
                continue;
            }
            match sends.join_next().await {
                None => return,
                Some(Ok((addr, sent))) => {
                    notified.count(sent.is_ok());
                    self.record_notification(addr, sent);
                }
                Some(Err(_)) => notified.count(false),
            }
        }
    }

    fn record_notification(&self, addr: SocketAddr, sent: Result<(), PeerSendError>) {
        let now = self.node().now();
        let mut wallets = self.state().wallets.lock();
        match sent {
            Ok(()) => wallets.record_reached(addr.ip(), now),
            Err(error) => {
                // A lack of slots on our side is not the subscriber's failure.
                let ended = if is_unreachable(&error) { wallets.record_failure(addr.ip(), now) } else { 0 };
                tracing::debug!(%addr, %error, ended, "wallet not notified");
            }
        }
    }
}

/// Whether the message was not sent because the wallet could not be reached.
fn is_unreachable(error: &PeerSendError) -> bool {
    let PeerSendError::Connection(error) = error else { return false };
    match error {
        ConnectionError::Connect(error) => error.is_address_fault(),
        ConnectionError::Io(_) | ConnectionError::Eof | ConnectionError::WriteTimeout(_) => true,
        _ => false,
    }
}
