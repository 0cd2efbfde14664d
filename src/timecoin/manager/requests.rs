//! Requests by kind: one method for each, with the time limit of the legacy crate.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::timeout;

use crate::connection::RequestError;
use crate::pool::Misbehavior;
use crate::timecoin::peer_lookup::is_legacy_inbound;
use crate::timecoin::wire::{Block, Kind, NetworkMessage, PeerAddress, Transaction, WalletTransaction};

use super::PeerManager;
use super::broadcast::{enqueue, to_message};
use super::error::{PeerRequestError, PingError, VoteError};
use super::request::ToPeerAddr;

/// Time limit for a peer list.
pub(super) const PEER_LIST_TIMEOUT: Duration = Duration::from_secs(15);
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
const VOTE_ACK_TIMEOUT: Duration = Duration::from_secs(5);
const GENESIS_TIMEOUT: Duration = Duration::from_secs(10);
const MEMPOOL_TIMEOUT: Duration = Duration::from_secs(30);
const INFO_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum number of peers asked for a wallet's transactions.
const MAX_WALLET_PEERS: usize = 3;

/// Requests by kind.
impl PeerManager {
    /// Pings the peer at this IP address and waits at most 10 s for the pong. Returns the
    /// round-trip time.
    ///
    /// # Errors
    /// See [`PingError`].
    ///
    /// # Cancel safety
    /// Dropping the future discards the pong, nothing else.
    pub async fn send_ping(&self, peer_ip: IpAddr) -> Result<Duration, PingError> {
        let Some(peer) = self.state().peer_by_ip(self.node(), peer_ip) else {
            return Err(PingError::NotConnected(peer_ip));
        };
        match timeout(PONG_TIMEOUT, peer.connection().handle().probe()).await {
            Ok(Some(rtt)) => {
                peer.reward(self.node().now());
                Ok(rtt)
            }
            Ok(None) => Err(PingError::Closed),
            Err(_) => {
                // A legacy node that dialled us takes a ping for the reply to its own, one in 30 s.
                if !is_legacy_inbound(&peer) {
                    peer.penalize(Misbehavior::Unresponsive, self.node().now());
                }
                Err(PingError::Timeout)
            }
        }
    }

    /// Sends a vote on a block to the peer at this IP address and waits, at most 5 s, for the
    /// acknowledgement of this block. If no acknowledgement can be awaited, because the last one is
    /// outstanding or the peer's reading is paused, the vote is sent all the same and the error
    /// says so.
    ///
    /// # Errors
    /// See [`VoteError`].
    pub async fn send_vote_with_ack(
        &self,
        peer_ip: IpAddr,
        message: NetworkMessage,
        expected_block_hash: String,
    ) -> Result<(), VoteError> {
        let kind = message.kind();
        if kind != Kind::ConsensusBlockVote {
            return Err(VoteError::NoVote(Box::new(message)));
        }
        let Some(peer) = self.state().peer_by_ip(self.node(), peer_ip) else {
            let addr = SocketAddr::new(peer_ip, self.network.port());
            return Err(PeerRequestError::NotConnected(addr).into());
        };
        let acknowledgement = self.request_pooled(&peer, &message, VOTE_ACK_TIMEOUT).await;
        if let Err(
            PeerRequestError::ReadPaused { .. }
            | PeerRequestError::Request(RequestError::ReplyOutstanding(_) | RequestError::TooMany(_)),
        ) = &acknowledgement
        {
            // If it cannot be queued either, the error stays the same.
            let _ = enqueue(self.node(), &peer, to_message(&message).map_err(PeerRequestError::from)?);
        }
        match acknowledgement? {
            NetworkMessage::ConsensusVoteAck { block_hash, .. } if block_hash == expected_block_hash => {
                Ok(())
            }
            NetworkMessage::ConsensusVoteAck { block_hash: got, .. } => {
                peer.penalize(Misbehavior::BadData, self.node().now());
                Err(VoteError::WrongBlock { expected: expected_block_hash, got })
            }
            reply => Err(Self::unexpected_reply(kind, &reply).into()),
        }
    }

    /// Requests the genesis block as JSON. Time limit: 10 s.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_genesis(
        &self,
        peer_addr: impl ToPeerAddr,
    ) -> Result<serde_json::Value, PeerRequestError> {
        match self.request(&peer_addr, NetworkMessage::GetGenesis, GENESIS_TIMEOUT).await? {
            NetworkMessage::GenesisBlock(text) => serde_json::from_str(&text)
                .inspect_err(|_| self.penalize_addr(&peer_addr, Misbehavior::BadData))
                .map_err(Into::into),
            reply => Err(Self::unexpected_reply(Kind::GetGenesis, &reply)),
        }
    }

    /// An alias of [`PeerManager::request_genesis`].
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn get_genesis_from_peer(
        &self,
        peer_addr: impl ToPeerAddr,
    ) -> Result<serde_json::Value, PeerRequestError> {
        self.request_genesis(peer_addr).await
    }

    /// [`PeerManager::request_genesis`], typed.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_genesis_block(&self, peer_addr: impl ToPeerAddr) -> Result<Block, PeerRequestError> {
        let block = self.request_genesis(&peer_addr).await?;
        serde_json::from_value(block)
            .inspect_err(|_| self.penalize_addr(&peer_addr, Misbehavior::BadData))
            .map_err(Into::into)
    }

    /// Requests the mempool. Time limit: 30 s.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_mempool(
        &self,
        peer_addr: impl ToPeerAddr,
    ) -> Result<Vec<Transaction>, PeerRequestError> {
        match self.request(peer_addr, NetworkMessage::GetMempool, MEMPOOL_TIMEOUT).await? {
            NetworkMessage::MempoolResponse(transactions) => Ok(transactions),
            reply => Err(Self::unexpected_reply(Kind::GetMempool, &reply)),
        }
    }

    /// An alias of [`PeerManager::request_mempool`].
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn get_mempool_from_peer(
        &self,
        peer_addr: impl ToPeerAddr,
    ) -> Result<Vec<Transaction>, PeerRequestError> {
        self.request_mempool(peer_addr).await
    }

    /// Requests the transactions finalized since a time, each with its finalization time. Times are
    /// in seconds since 1970. Time limit: 30 s.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_finalized_transactions(
        &self,
        peer_addr: impl ToPeerAddr,
        since_timestamp: i64,
    ) -> Result<Vec<(Transaction, i64)>, PeerRequestError> {
        let request = NetworkMessage::RequestFinalizedTransactions { since_timestamp };
        match self.request(peer_addr, request, MEMPOOL_TIMEOUT).await? {
            NetworkMessage::FinalizedTransactionsResponse { transactions, finalized_at } => {
                Ok(transactions.into_iter().zip(finalized_at).collect())
            }
            reply => Err(Self::unexpected_reply(Kind::RequestFinalizedTransactions, &reply)),
        }
    }

    /// Requests the height of the peer's chain; `None` without a genesis block. Time limit: 15 s.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_blockchain_info(
        &self,
        peer_addr: impl ToPeerAddr,
    ) -> Result<Option<u64>, PeerRequestError> {
        match self.request(peer_addr, NetworkMessage::GetBlockchainInfo, INFO_TIMEOUT).await? {
            NetworkMessage::BlockchainInfo { height, .. } => Ok(height),
            reply => Err(Self::unexpected_reply(Kind::GetBlockchainInfo, &reply)),
        }
    }

    /// Requests the peers that a peer knows, and remembers them. Time limit: 15 s.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_peer_list(
        &self,
        peer_addr: impl ToPeerAddr,
    ) -> Result<Vec<PeerAddress>, PeerRequestError> {
        match self.request(&peer_addr, NetworkMessage::GetPeerList, PEER_LIST_TIMEOUT).await? {
            NetworkMessage::PeerList(peers) => {
                let from = peer_addr.to_peer_addr(self.network.port())?.ip();
                self.state().learn_peers(&peers, from);
                Ok(peers)
            }
            reply => Err(Self::unexpected_reply(Kind::GetPeerList, &reply)),
        }
    }

    /// Requests a wallet's transactions from one peer after another until one replies: at most
    /// three peers, 15 s each, quick ones first.
    ///
    /// # Errors
    /// The [`PeerRequestError`] of the last peer.
    pub async fn request_wallet_transactions(
        &self,
        xpub: String,
    ) -> Result<Vec<WalletTransaction>, PeerRequestError> {
        let nobody = SocketAddr::new(self.state().public.ip(), self.network.port());
        let mut last = PeerRequestError::NotConnected(nobody);
        for peer in self.peers_by_preference().into_iter().take(MAX_WALLET_PEERS) {
            let request = NetworkMessage::RequestWalletTransactions { xpub: xpub.clone() };
            match self.request_from_peer(&peer, request, INFO_TIMEOUT).await {
                Ok(NetworkMessage::WalletTransactionsResponse { transactions, .. }) => {
                    return Ok(transactions);
                }
                Ok(reply) => last = Self::unexpected_reply(Kind::RequestWalletTransactions, &reply),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
