//! Downloading blocks and state from one peer.

use std::net::SocketAddr;
use std::time::Duration;

use crate::address_book::WallTime;
use crate::pool::Misbehavior;
use crate::timecoin::ConnectionError;
use crate::timecoin::chain::{MAX_BLOCKS, StateSnapshot};
use crate::timecoin::exchange::seconds;
use crate::timecoin::wire::{Block, Kind, NetworkMessage};

use super::PeerManager;
use super::error::{FetchError, PeerRequestError, SnapshotError};
use super::request::ToPeerAddr;
use super::snapshot::{Snapshot, balances_of};

/// Time limit for a batch of blocks.
const BLOCKS_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for a snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(300);

impl PeerManager {
    /// Requests the block of a height. Time limit: 10 s. The returned block has that height.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn request_block_by_height(
        &self,
        peer_addr: impl ToPeerAddr,
        height: u64,
    ) -> Result<Block, FetchError> {
        let blocks = self.request_blocks(peer_addr, height, height).await?;
        blocks.into_iter().next().ok_or(FetchError::NoSuchBlock(height))
    }

    /// An alias of [`PeerManager::request_block_by_height`].
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn get_block_from_peer(
        &self,
        peer_addr: impl ToPeerAddr,
        height: u64,
    ) -> Result<Block, FetchError> {
        self.request_block_by_height(peer_addr, height).await
    }

    /// Requests at most 100 blocks in one message. Time limit: 10 s. The returned blocks are
    /// consecutive from `from` on. There are fewer than requested if the peer's chain ends, or if
    /// it sends fewer at a time.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn request_blocks(
        &self,
        peer_addr: impl ToPeerAddr,
        from: u64,
        to: u64,
    ) -> Result<Vec<Block>, FetchError> {
        if to < from || to - from >= MAX_BLOCKS {
            return Err(FetchError::BadRange { from, to, most: MAX_BLOCKS });
        }
        let request = NetworkMessage::GetBlocks { start_height: from, end_height: to };
        let blocks = match self.request(&peer_addr, request, BLOCKS_TIMEOUT).await? {
            NetworkMessage::Blocks { blocks } => blocks,
            other => return Err(Self::unexpected_reply(Kind::GetBlocks, &other).into()),
        };
        if blocks.len() as u64 > to - from + 1 {
            self.penalize_addr(&peer_addr, Misbehavior::BadData);
            return Err(FetchError::TooMany { requested: to - from + 1, received: blocks.len() });
        }
        for (requested, block) in (from..=to).zip(&blocks) {
            let received = block.header.block_number;
            if received != requested {
                self.penalize_addr(&peer_addr, Misbehavior::BadData);
                return Err(FetchError::WrongHeight { requested, received });
            }
        }
        Ok(blocks)
    }

    /// Downloads blocks in batches of at most 100, one batch at a time. They are consecutive from
    /// `from_height` on, and fewer than requested if the peer's chain ends.
    ///
    /// # Errors
    /// See [`FetchError`]. A range longer than
    /// [`ManagerConfig::max_sync_blocks`](super::ManagerConfig::max_sync_blocks) is refused. An
    /// error discards the batches received so far; to keep them, call
    /// [`PeerManager::request_blocks`].
    ///
    /// # Cost
    /// Memory for all returned blocks.
    pub async fn sync_recent_blocks(
        &self,
        peer_addr: impl ToPeerAddr,
        from_height: u64,
        to_height: u64,
    ) -> Result<Vec<Block>, FetchError> {
        let max_blocks = self.state().config.max_sync_blocks;
        if to_height < from_height || to_height - from_height >= max_blocks {
            return Err(FetchError::BadRange { from: from_height, to: to_height, most: max_blocks });
        }
        let mut all: Vec<Block> = Vec::new();
        let mut next = from_height;
        loop {
            let last = to_height.min(next.saturating_add(MAX_BLOCKS - 1));
            let batch = self.request_blocks(&peer_addr, next, last).await?;
            let received = batch.len() as u64;
            all.extend(batch);
            match next.checked_add(received) {
                // An empty batch: the peer's chain ends here.
                Some(following) if received > 0 && following <= to_height => next = following,
                _ => return Ok(all),
            }
        }
    }

    /// Requests all unspent outputs after a block, and returns the message as received. Time limit:
    /// 300 s.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    pub async fn request_state_snapshot(
        &self,
        peer_addr: SocketAddr,
        height: u64,
    ) -> Result<NetworkMessage, PeerRequestError> {
        self.request(peer_addr, NetworkMessage::StateSnapshotRequest { height }, SNAPSHOT_TIMEOUT).await
    }

    /// [`PeerManager::request_state_snapshot`], typed. The returned state has that height.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn request_state(
        &self,
        peer_addr: impl ToPeerAddr,
        height: u64,
    ) -> Result<StateSnapshot, SnapshotError> {
        let request = NetworkMessage::StateSnapshotRequest { height };
        let reply = self.request(&peer_addr, request, SNAPSHOT_TIMEOUT).await?;
        let NetworkMessage::StateSnapshotResponse {
            height: received,
            utxo_merkle_root,
            state_data,
            compressed,
            snapshot_size_bytes,
        } = reply
        else {
            return Err(Self::unexpected_reply(Kind::StateSnapshotRequest, &reply).into());
        };
        if received != height {
            self.penalize_addr(&peer_addr, Misbehavior::BadData);
            return Err(SnapshotError::WrongHeight { requested: height, received });
        }
        Ok(StateSnapshot { height, utxo_merkle_root, state_data, compressed, snapshot_size_bytes })
    }

    /// Downloads the state at the peer's tip: its height, all unspent outputs summed by address,
    /// and the masternodes it knows, if it sends them.
    ///
    /// The hash is the peer's statement: this network has no rule by which it could be verified.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn request_snapshot(&self, peer_addr: impl ToPeerAddr) -> Result<Snapshot, SnapshotError> {
        let height = self.request_blockchain_info(&peer_addr).await?.ok_or(SnapshotError::NoChain)?;
        let state = self.request_state(&peer_addr, height).await?;
        let max_bytes = self.state().config.max_snapshot_bytes;
        let root = state.utxo_merkle_root.clone();
        // Decompression takes long enough to block the other tasks of a thread.
        let unpacked = tokio::task::spawn_blocking(move || balances_of(&state, max_bytes)).await;
        let balances = match unpacked {
            Ok(Ok(balances)) => balances,
            // The runtime shuts down.
            Err(_) => return Err(PeerRequestError::from(ConnectionError::Closed).into()),
            Ok(Err(fault)) => {
                self.penalize_addr(&peer_addr, Misbehavior::BadData);
                return Err(fault.into());
            }
        };
        // Not every node with a chain sends its masternodes.
        let masternodes =
            match self.request(&peer_addr, NetworkMessage::GetMasternodeList, BLOCKS_TIMEOUT).await {
                Ok(NetworkMessage::MasternodeList { masternodes }) => {
                    masternodes.into_iter().map(|masternode| masternode.node_id).collect()
                }
                Ok(_) | Err(_) => Vec::new(),
            };
        let timestamp = seconds(WallTime::now());
        Ok(Snapshot { height, state_hash: root, balances, masternodes, timestamp })
    }
}
