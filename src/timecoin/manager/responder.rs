//! Replies to requests: from the manager if it knows the answer, otherwise from the
//! [`ChainSource`].

use std::net::SocketAddr;
use std::sync::Arc;

use crate::address_book::WallTime;
use crate::base::Tick;
use crate::node::NodeRef;
use crate::timecoin::chain::{ChainSource, ChainTip, Finality, Incoming, MAX_BLOCKS, Sender};
use crate::timecoin::exchange::seconds;
use crate::timecoin::peer_lookup::{PROTOCOL_NAME, dial_addr, is_legacy_inbound};
use crate::timecoin::wire::{NetworkMessage, OutPoint, PeerAddress, Transaction};

use super::state::State;

/// The hash that a legacy node without a chain names.
const NO_GENESIS: &str = "no_genesis";
/// Maximum number of peers in one list.
const MAX_LISTED_PEERS: usize = 1_000;
/// A block range that begins further beyond the chain's tip than this gets no reply.
const MAX_HEIGHT_AHEAD: u64 = 1_000;

/// The reply to a request; `None` for no reply.
pub(super) async fn reply_to(
    state: &Arc<State>,
    node: &NodeRef,
    from: &Sender,
    message: NetworkMessage,
) -> Option<NetworkMessage> {
    match message {
        NetworkMessage::GetPeerList => Some(peer_list(state, node, Some(from))),
        NetworkMessage::RegisterXpub { xpub } => Some(register_xpub(state, from, &xpub, node.now())),
        NetworkMessage::RequestWalletTransactions { xpub } => {
            let history = state.chain.wallet_history(&xpub).get().await;
            if history.is_some() {
                subscribe(state, from, &xpub, node.now());
            }
            match history {
                Some(history) => Some(NetworkMessage::WalletTransactionsResponse {
                    transactions: history.transactions,
                    last_synced_height: history.last_synced_height,
                }),
                None => {
                    unhandled(&*state.chain, from, NetworkMessage::RequestWalletTransactions { xpub }).await
                }
            }
        }
        message => chain_reply(&*state.chain, from, message).await,
    }
}

/// The reply of a chain alone, to requests that concern neither peers nor subscriptions.
pub(super) async fn chain_reply(
    chain: &dyn ChainSource,
    from: &Sender,
    message: NetworkMessage,
) -> Option<NetworkMessage> {
    use NetworkMessage as M;
    let known = match &message {
        M::TimeRequest { request_time_ms } => Some(M::TimeResponse {
            request_time_ms: *request_time_ms,
            peer_time_ms: i64::try_from(WallTime::now().as_millis()).unwrap_or(i64::MAX),
        }),
        M::GetBlockchainHeight => chain.tip().get().await.and_then(|tip| tip.height).map(M::BlockchainHeight),
        M::GetBlockchainInfo => {
            let tip = chain.tip().get().await;
            tip.map(|ChainTip { height, hash }| M::BlockchainInfo { height, best_block_hash: hash })
        }
        M::HeightRequest => {
            let tip = chain.tip().get().await;
            let with_height = |tip: ChainTip| tip.height.map(|height| (height, tip.hash));
            tip.and_then(with_height)
                .map(|(height, best_block_hash)| M::HeightResponse { height, best_block_hash })
        }
        M::GetBlocks { .. } | M::BlockRequest { .. } | M::ChainRequest { .. } | M::GetGenesis => {
            blocks_reply(chain, &message).await
        }
        M::GetMempool | M::MempoolQuery => chain.mempool().get().await.map(M::MempoolResponse),
        M::RequestMissingTransactions { txids, block_height, .. } => {
            let found = chain.transactions(txids.clone()).get().await;
            let block_height = *block_height;
            found.map(|transactions| M::MissingTransactionsResponse { transactions, block_height })
        }
        M::RequestFinalizedTransactions { since_timestamp } => {
            let found = chain.finalized(*since_timestamp).get().await;
            found.map(|found| {
                let (transactions, finalized_at) = found.into_iter().unzip();
                M::FinalizedTransactionsResponse { transactions, finalized_at }
            })
        }
        M::StateSnapshotRequest { height } => {
            let found = chain.state_snapshot(*height).get().await;
            found.map(|found| M::StateSnapshotResponse {
                height: found.height,
                utxo_merkle_root: found.utxo_merkle_root,
                state_data: found.state_data,
                compressed: found.compressed,
                snapshot_size_bytes: found.snapshot_size_bytes,
            })
        }
        M::GetMasternodeList => {
            chain.masternodes().get().await.map(|masternodes| M::MasternodeList { masternodes })
        }
        M::GetMasternodeHash => chain.masternode_hash().get().await.map(|hash| M::MasternodeHash { hash }),
        M::UTXOStateQuery { outpoints } => utxo_states(chain, outpoints).await,
        M::ConsensusBlockVote(vote) => {
            let ack = chain.block_vote(from, vote).get().await;
            ack.map(|ack| M::ConsensusVoteAck {
                block_hash: ack.block_hash,
                voter: ack.voter,
                received_at: crate::timecoin::peer_info::unix_seconds(WallTime::now()),
            })
        }
        M::InstantFinalityRequest(transaction) => finality_reply(chain, from, transaction).await,
        _ => None,
    };
    if known.is_some() {
        return known;
    }
    let asks_for_info = matches!(message, M::GetBlockchainInfo);
    let reply = unhandled(chain, from, message).await;
    // Legacy nodes wait long for this one, and answer it at once without a chain.
    reply.or_else(|| {
        asks_for_info.then(|| M::BlockchainInfo { height: None, best_block_hash: NO_GENESIS.into() })
    })
}

async fn unhandled(
    chain: &dyn ChainSource,
    from: &Sender,
    message: NetworkMessage,
) -> Option<NetworkMessage> {
    chain.on_message(from, Incoming::Message(message)).get().await
}

/// Ranges are cut to the maximum of one reply. A range far beyond the tip gets no reply, as from
/// legacy nodes.
async fn blocks_reply(chain: &dyn ChainSource, message: &NetworkMessage) -> Option<NetworkMessage> {
    use NetworkMessage as M;
    match *message {
        M::GetBlocks { start_height, end_height } => {
            if end_height < start_height {
                return None;
            }
            if let Some(tip) = chain.tip().get().await.and_then(|tip| tip.height)
                && start_height > tip.saturating_add(MAX_HEIGHT_AHEAD)
            {
                return None;
            }
            let last = end_height.min(start_height.saturating_add(MAX_BLOCKS - 1));
            let blocks = chain.blocks(start_height..=last).get().await?;
            Some(M::Blocks { blocks })
        }
        M::BlockRequest { height } => {
            let blocks = chain.blocks(height..=height).get().await?;
            Some(M::BlockResponse {
                block: blocks.into_iter().find(|block| block.header.block_number == height),
            })
        }
        M::ChainRequest { from_height } => {
            let last = from_height.saturating_add(MAX_BLOCKS - 1);
            let blocks = chain.blocks(from_height..=last).get().await?;
            let tip = chain.tip().get().await.and_then(|tip| tip.height);
            let reached = blocks.last().map(|block| block.header.block_number);
            let complete = tip.is_none_or(|tip| reached.is_some_and(|last| last >= tip) || from_height > tip);
            Some(M::ChainResponse { blocks, complete })
        }
        M::GetGenesis => {
            let block = chain.genesis().get().await?;
            serde_json::to_string(&block).ok().map(M::GenesisBlock)
        }
        _ => None,
    }
}

async fn utxo_states(chain: &dyn ChainSource, outpoints: &[String]) -> Option<NetworkMessage> {
    let parsed = outpoints.iter().filter_map(|text| serde_json::from_str::<OutPoint>(text).ok()).collect();
    let states = chain.utxo_states(parsed).get().await?;
    let states = serde_json::to_string(&states).ok()?;
    Some(NetworkMessage::UTXOStateResponse { states })
}

async fn finality_reply(
    chain: &dyn ChainSource,
    from: &Sender,
    transaction: &Transaction,
) -> Option<NetworkMessage> {
    let txid = transaction.txid.clone();
    let timestamp = seconds(WallTime::now());
    Some(match chain.finality(from, transaction.clone()).get().await? {
        Finality::Approved { approver } => NetworkMessage::TransactionApproved { txid, approver, timestamp },
        Finality::Rejected { rejector, reason } => {
            NetworkMessage::TransactionRejected { txid, rejector, reason, timestamp }
        }
    })
}

/// The peers that others can dial in this network's protocol, without the requester.
pub(super) fn peer_list(state: &State, node: &NodeRef, asker: Option<&Sender>) -> NetworkMessage {
    let roster = node.roster();
    let others = roster.iter().filter(|peer| peer.is_live() && peer.connection().protocol() == PROTOCOL_NAME);
    let others = others.filter(|peer| asker.is_none_or(|asker| asker.peer().id() != peer.id()));
    let discovery = &state.config.node.runtime.discovery;
    let may_tell =
        |addr: &SocketAddr| asker.is_none_or(|asker| discovery.may_tell(asker.peer().ip(), addr.ip()));
    let told = others
        .map(|peer| (dial_addr(peer, state.network), peer))
        .filter(|(addr, _)| may_tell(addr))
        .take(MAX_LISTED_PEERS);
    let addresses = told.map(|(addr, peer)| PeerAddress {
        ip: addr.ip().to_string(),
        port: addr.port(),
        version: peer.read_info(|info| info.agent.to_string()),
    });
    NetworkMessage::PeerList(addresses.collect())
}

fn register_xpub(state: &State, from: &Sender, xpub: &str, now: Tick) -> NetworkMessage {
    match state.wallets.lock().subscribe(xpub, from.addr(), now) {
        Ok(_) => NetworkMessage::XpubRegistered { success: true, message: "registered".into() },
        Err(why) => NetworkMessage::XpubRegistered { success: false, message: why.to_string() },
    }
}

/// What follows the reply to a registration: the wallet's unspent outputs. Not sent to a legacy
/// node that dialled us, which takes an unexpected frame for the reply to its next ping.
pub(super) async fn follow_up(state: &State, from: &Sender, xpub: String) -> Option<NetworkMessage> {
    if is_legacy_inbound(from.peer()) {
        return None;
    }
    let utxos = state.chain.wallet_utxos(&xpub).get().await?;
    Some(NetworkMessage::UtxoUpdate { xpub, utxos })
}

fn subscribe(state: &State, from: &Sender, xpub: &str, now: Tick) {
    if let Err(why) = state.wallets.lock().subscribe(xpub, from.addr(), now) {
        tracing::debug!(peer = %from.ip(), %why, "not subscribed");
    }
}
