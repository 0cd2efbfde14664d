//! Asking one peer, over its connection or over one opened for the question.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::base::{canonical, canonical_ip};
use crate::link::RequestError;
use crate::node::Peer;
use crate::pool::Cause;
use crate::timecoin::connection::ConnectionError;
use crate::timecoin::find::DIALECT;
use crate::timecoin::wire::{Block, Kind, NetworkMessage, PeerAddress, Transaction, WalletTransaction};

use super::PeerManager;
use super::error::{BadAddress, PeerRequestError, PingError, VoteError};
use super::say::{note_one_shot, text_of};

/// What names a peer: a socket address, an IP address (its port is then the standard one), or either as text, IPv6 with a port in
/// brackets.
pub trait PeerAt {
    /// The address, with `port` where there is none.
    ///
    /// # Errors
    /// [`BadAddress`].
    fn addr(&self, port: u16) -> Result<SocketAddr, BadAddress>;
}

impl PeerAt for SocketAddr {
    fn addr(&self, _: u16) -> Result<SocketAddr, BadAddress> {
        Ok(canonical(*self))
    }
}

impl PeerAt for IpAddr {
    fn addr(&self, port: u16) -> Result<SocketAddr, BadAddress> {
        Ok(SocketAddr::new(canonical_ip(*self), port))
    }
}

impl PeerAt for &str {
    fn addr(&self, port: u16) -> Result<SocketAddr, BadAddress> {
        if let Ok(addr) = self.parse::<SocketAddr>() {
            return addr.addr(port);
        }
        let ip = self.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(self);
        ip.parse::<IpAddr>().map_err(|_| BadAddress { text: shortened(self) })?.addr(port)
    }
}

impl PeerAt for String {
    fn addr(&self, port: u16) -> Result<SocketAddr, BadAddress> {
        self.as_str().addr(port)
    }
}

impl<T: PeerAt> PeerAt for &T {
    fn addr(&self, port: u16) -> Result<SocketAddr, BadAddress> {
        (**self).addr(port)
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Asks over a peer's connection. Its health is the caller's affair.
pub(super) async fn ask_link(
    peer: &Peer,
    question: &NetworkMessage,
    within: Duration,
) -> Result<NetworkMessage, PeerRequestError> {
    let answer = peer.connection().link().request(text_of(question)?, within).await?;
    Ok(NetworkMessage::decode(&answer)?)
}

/// Questions.
impl PeerManager {
    /// Sends a question and waits for its answer, so many seconds at the longest. Over the peer's connection; where there is none,
    /// or it cannot take the question now, over one opened for this question alone, with deadlines. `None` never comes: no
    /// answer is an error.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the question up; a late answer reaches [`ChainSource::on_message`].
    ///
    /// [`ChainSource::on_message`]: crate::timecoin::ChainSource::on_message
    pub async fn send_message_to_peer_with_response(
        &self,
        peer_addr: SocketAddr,
        message: NetworkMessage,
        timeout_secs: u64,
    ) -> Result<Option<NetworkMessage>, PeerRequestError> {
        self.ask(peer_addr, message, Duration::from_secs(timeout_secs)).await.map(Some)
    }

    /// As [`PeerManager::send_message_to_peer_with_response`], with an address in any form and a duration.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    ///
    /// # Cancel safety
    /// As [`PeerManager::send_message_to_peer_with_response`].
    pub async fn ask(
        &self,
        peer_addr: impl PeerAt,
        question: NetworkMessage,
        within: Duration,
    ) -> Result<NetworkMessage, PeerRequestError> {
        let asked = question.kind();
        if asked.awaits().is_none() {
            return Err(PeerRequestError::NoQuestion(asked));
        }
        let addr = peer_addr.addr(self.network.port())?;
        let begun = Instant::now();
        let left = || within.saturating_sub(begun.elapsed());
        let one_shots = self.state().config.one_shots > 0;
        let refused = match self.state().peer_at(self.node(), addr) {
            Some(peer) => match self.ask_pooled(&peer, &question, within).await {
                // Another dialect's peers have ids, and no need for it; an old node takes a question on any connection.
                Err(error)
                    if one_shots && error.wants_another_way() && peer.connection().dialect() == DIALECT =>
                {
                    tracing::debug!(%addr, %asked, %error, "asked over a connection of its own");
                    // It may have dialled us: where it listens is another port.
                    return self.ask_once(self.last_known_at(addr, &peer), question, left()).await;
                }
                answered => return answered,
            },
            None => PeerRequestError::NotConnected(addr),
        };
        if !one_shots {
            return Err(refused);
        }
        self.ask_once(addr, question, left()).await
    }

    /// Asks over the peer's connection, waits while it is mute, and lets its health know how it went.
    async fn ask_pooled(
        &self,
        peer: &Arc<Peer>,
        question: &NetworkMessage,
        within: Duration,
    ) -> Result<NetworkMessage, PeerRequestError> {
        let begun = Instant::now();
        while let Some(mute) = self.state().mute_for(peer, self.node().now()) {
            if mute >= within.saturating_sub(begun.elapsed()) {
                return Err(PeerRequestError::Mute { left: mute });
            }
            // It may turn out to be longer meanwhile.
            tokio::time::sleep(mute).await;
        }
        let answer = ask_link(peer, question, within.saturating_sub(begun.elapsed())).await;
        let now = self.node().now();
        match &answer {
            Ok(answer) => return self.checked(question.kind(), answer, Some(peer)).map(|()| answer.clone()),
            Err(PeerRequestError::Request(RequestError::Timeout)) => drop(peer.penalize(Cause::Timeout, now)),
            Err(PeerRequestError::Unreadable(_)) => drop(peer.penalize(Cause::Malformed, now)),
            Err(_) => {}
        }
        answer
    }

    /// Opens a connection for one question.
    async fn ask_once(
        &self,
        addr: SocketAddr,
        question: NetworkMessage,
        within: Duration,
    ) -> Result<NetworkMessage, PeerRequestError> {
        let state = self.state();
        if state.quarantine.holds(&addr.ip()) {
            return Err(PeerRequestError::Quarantined(addr.ip()));
        }
        let asked = question.kind();
        let begun = Instant::now();
        let asking = async {
            // The semaphore is never closed.
            let _place = state.one_shots.acquire().await.map_err(|_| ConnectionError::Closed)?;
            let dialled = state.maker.dial(addr).await;
            note_one_shot(state, addr, &dialled);
            let mut connection = dialled?;
            let answer =
                connection.request_response(question, within.saturating_sub(begun.elapsed())).await?;
            connection.finish().await;
            Ok::<_, PeerRequestError>(answer)
        };
        let late = || PeerRequestError::Connection(ConnectionError::ReadTimeout(within));
        let answer = timeout(within, asking).await.map_err(|_| late())??;
        self.checked(asked, &answer, None)?;
        Ok(answer)
    }

    /// Whether this kind of message answers that kind of question; health follows.
    fn checked(
        &self,
        asked: Kind,
        answer: &NetworkMessage,
        peer: Option<&Peer>,
    ) -> Result<(), PeerRequestError> {
        let got = answer.kind();
        if asked.awaits() == got.fills() {
            peer.map(|peer| peer.reward(self.node().now()));
            return Ok(());
        }
        peer.map(|peer| peer.penalize(Cause::BadData, self.node().now()));
        Err(PeerRequestError::WrongAnswer { asked, got })
    }

    /// What came was not what this kind of answer holds: health follows, where the peer is pooled.
    pub(super) fn blame(&self, peer_addr: &impl PeerAt, cause: Cause) {
        if let Ok(addr) = peer_addr.addr(self.network.port())
            && let Some(peer) = self.state().peer_at(self.node(), addr)
        {
            peer.penalize(cause, self.node().now());
        }
    }

    /// An answer of another variant than the one wanted, although it answers the question: two answers share a place.
    pub(super) fn unexpected(asked: Kind, got: &NetworkMessage) -> PeerRequestError {
        PeerRequestError::WrongAnswer { asked, got: got.kind() }
    }
}

/// Questions of a kind. Where the old method had a deadline of its own, so has this one.
impl PeerManager {
    /// Pings the peer at this IP address and waits for its answer, 10 s at the longest; the round-trip time.
    ///
    /// # Errors
    /// See [`PingError`].
    ///
    /// # Cancel safety
    /// Dropping the future forgets the answer, nothing else.
    pub async fn send_ping(&self, peer_ip: IpAddr) -> Result<Duration, PingError> {
        let Some(peer) = self.state().peer_of(self.node(), peer_ip) else {
            return Err(PingError::NotConnected(peer_ip));
        };
        match timeout(PONG, peer.connection().link().probe()).await {
            Ok(Some(rtt)) => {
                peer.reward(self.node().now());
                Ok(rtt)
            }
            Ok(None) => Err(PingError::Closed),
            Err(_) => {
                peer.penalize(Cause::Unresponsive, self.node().now());
                Err(PingError::Timeout)
            }
        }
    }

    /// Sends a vote on a block to the peer at this IP address and waits until it says that the vote on this block arrived, 5 s at
    /// the longest.
    ///
    /// # Errors
    /// See [`VoteError`].
    pub async fn send_vote_with_ack(
        &self,
        peer_ip: IpAddr,
        message: NetworkMessage,
        expected_block_hash: String,
    ) -> Result<(), VoteError> {
        let asked = message.kind();
        if asked != Kind::ConsensusBlockVote {
            return Err(VoteError::NoVote(Box::new(message)));
        }
        let Some(peer) = self.state().peer_of(self.node(), peer_ip) else {
            let addr = SocketAddr::new(peer_ip, self.network.port());
            return Err(PeerRequestError::NotConnected(addr).into());
        };
        match self.ask_pooled(&peer, &message, VOTE).await? {
            NetworkMessage::ConsensusVoteAck { block_hash, .. } if block_hash == expected_block_hash => {
                Ok(())
            }
            NetworkMessage::ConsensusVoteAck { block_hash: got, .. } => {
                peer.penalize(Cause::BadData, self.node().now());
                Err(VoteError::WrongBlock { expected: expected_block_hash, got })
            }
            other => Err(Self::unexpected(asked, &other).into()),
        }
    }

    /// Asks a peer for the first block, 10 s at the longest; as JSON.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_genesis(
        &self,
        peer_addr: impl PeerAt,
    ) -> Result<serde_json::Value, PeerRequestError> {
        match self.ask(&peer_addr, NetworkMessage::GetGenesis, GENESIS).await? {
            NetworkMessage::GenesisBlock(text) => serde_json::from_str(&text)
                .inspect_err(|_| self.blame(&peer_addr, Cause::BadData))
                .map_err(Into::into),
            other => Err(Self::unexpected(Kind::GetGenesis, &other)),
        }
    }

    /// The same as [`PeerManager::request_genesis`].
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn get_genesis_from_peer(
        &self,
        peer_addr: impl PeerAt,
    ) -> Result<serde_json::Value, PeerRequestError> {
        self.request_genesis(peer_addr).await
    }

    /// As [`PeerManager::request_genesis`], typed.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_genesis_block(&self, peer_addr: impl PeerAt) -> Result<Block, PeerRequestError> {
        let block = self.request_genesis(&peer_addr).await?;
        serde_json::from_value(block)
            .inspect_err(|_| self.blame(&peer_addr, Cause::BadData))
            .map_err(Into::into)
    }

    /// Asks a peer for its mempool, 30 s at the longest.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_mempool(
        &self,
        peer_addr: impl PeerAt,
    ) -> Result<Vec<Transaction>, PeerRequestError> {
        match self.ask(peer_addr, NetworkMessage::GetMempool, MEMPOOL).await? {
            NetworkMessage::MempoolResponse(transactions) => Ok(transactions),
            other => Err(Self::unexpected(Kind::GetMempool, &other)),
        }
    }

    /// The same as [`PeerManager::request_mempool`].
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn get_mempool_from_peer(
        &self,
        peer_addr: impl PeerAt,
    ) -> Result<Vec<Transaction>, PeerRequestError> {
        self.request_mempool(peer_addr).await
    }

    /// Asks a peer for the transactions finalized since a time, in seconds, and when each was; 30 s at the longest.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_finalized_transactions(
        &self,
        peer_addr: impl PeerAt,
        since_timestamp: i64,
    ) -> Result<Vec<(Transaction, i64)>, PeerRequestError> {
        let question = NetworkMessage::RequestFinalizedTransactions { since_timestamp };
        match self.ask(peer_addr, question, MEMPOOL).await? {
            NetworkMessage::FinalizedTransactionsResponse { transactions, finalized_at } => {
                Ok(transactions.into_iter().zip(finalized_at).collect())
            }
            other => Err(Self::unexpected(Kind::RequestFinalizedTransactions, &other)),
        }
    }

    /// Asks a peer how high its chain is, 15 s at the longest; `None` if it has no first block.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_blockchain_info(
        &self,
        peer_addr: impl PeerAt,
    ) -> Result<Option<u64>, PeerRequestError> {
        match self.ask(peer_addr, NetworkMessage::GetBlockchainInfo, INFO).await? {
            NetworkMessage::BlockchainInfo { height, .. } => Ok(height),
            other => Err(Self::unexpected(Kind::GetBlockchainInfo, &other)),
        }
    }

    /// Asks a peer for the peers it knows, 15 s at the longest, and remembers them.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_peer_list(
        &self,
        peer_addr: impl PeerAt,
    ) -> Result<Vec<PeerAddress>, PeerRequestError> {
        match self.ask(&peer_addr, NetworkMessage::GetPeerList, PEER_LIST).await? {
            NetworkMessage::PeerList(peers) => {
                let from = peer_addr.addr(self.network.port())?.ip();
                self.state().learn(&peers, from);
                Ok(peers)
            }
            other => Err(Self::unexpected(Kind::GetPeerList, &other)),
        }
    }

    /// Asks the peers, one after another, for a wallet's transactions, until one answers; 15 s at the longest each, three peers
    /// at the most. Those that answered quickly before are asked first.
    ///
    /// # Errors
    /// The last peer's [`PeerRequestError`].
    pub async fn request_wallet_transactions(
        &self,
        xpub: String,
    ) -> Result<Vec<WalletTransaction>, PeerRequestError> {
        let nobody = SocketAddr::new(self.state().public.ip(), self.network.port());
        let mut last = PeerRequestError::NotConnected(nobody);
        for peer in self.askable().into_iter().take(TRIES) {
            let question = NetworkMessage::RequestWalletTransactions { xpub: xpub.clone() };
            match self.ask_pooled(&peer, &question, INFO).await {
                Ok(NetworkMessage::WalletTransactionsResponse { transactions, .. }) => {
                    return Ok(transactions);
                }
                Ok(other) => last = Self::unexpected(Kind::RequestWalletTransactions, &other),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// How long a list of peers is waited for.
pub(super) const PEER_LIST: Duration = Duration::from_secs(15);
const PONG: Duration = Duration::from_secs(10);
const VOTE: Duration = Duration::from_secs(5);
const GENESIS: Duration = Duration::from_secs(10);
const MEMPOOL: Duration = Duration::from_secs(30);
const INFO: Duration = Duration::from_secs(15);
/// Peers asked the same at the most.
const TRIES: usize = 3;
