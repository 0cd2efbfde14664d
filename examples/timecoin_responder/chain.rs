//! A chain in memory that answers everything the network asks.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use peerpool::timecoin::wire::{
    Block, MasternodeInfo, OutPoint, Transaction, UTXOState, UtxoInfo, WalletTransaction,
};
use peerpool::timecoin::{
    ChainSource, ChainTip, Finality, Incoming, NetworkMessage, Reply, Sender, StateSnapshot, VoteAck,
    WalletHistory,
};

/// What a node knows. All of it is in memory, so every answer is there at once.
#[derive(Default)]
pub(crate) struct MemoryChain {
    pub(crate) name: String,
    pub(crate) blocks: Mutex<Vec<Block>>,
    pub(crate) mempool: Mutex<Vec<Transaction>>,
    pub(crate) finalized: Mutex<Vec<(Transaction, i64)>>,
    pub(crate) wallets: Mutex<HashMap<String, Vec<WalletTransaction>>>,
    pub(crate) unspent: Mutex<HashMap<OutPoint, UtxoInfo>>,
    pub(crate) snapshot: Mutex<Option<StateSnapshot>>,
    pub(crate) masternodes: Mutex<Vec<MasternodeInfo>>,
    /// What arrived that was no request of the kinds below.
    pub(crate) heard: Mutex<Vec<Incoming>>,
}

impl ChainSource for MemoryChain {
    fn tip(&self) -> Reply<ChainTip> {
        let blocks = self.blocks.lock().unwrap();
        Reply::Now(blocks.last().map_or_else(ChainTip::none, |block| ChainTip {
            height: Some(block.header.block_number),
            hash: block.hash.clone(),
        }))
    }

    fn blocks(&self, heights: RangeInclusive<u64>) -> Reply<Vec<Block>> {
        let blocks = self.blocks.lock().unwrap();
        let wanted = blocks.iter().filter(|block| heights.contains(&block.header.block_number));
        Reply::Now(wanted.cloned().collect())
    }

    fn mempool(&self) -> Reply<Vec<Transaction>> {
        Reply::Now(self.mempool.lock().unwrap().clone())
    }

    fn transactions(&self, txids: Vec<String>) -> Reply<Vec<Transaction>> {
        let mempool = self.mempool.lock().unwrap();
        Reply::Now(mempool.iter().filter(|known| txids.contains(&known.txid)).cloned().collect())
    }

    fn finalized(&self, since: i64) -> Reply<Vec<(Transaction, i64)>> {
        let finalized = self.finalized.lock().unwrap();
        Reply::Now(finalized.iter().filter(|(_, at)| *at >= since).cloned().collect())
    }

    fn wallet_history(&self, xpub: &str) -> Reply<WalletHistory> {
        let transactions = self.wallets.lock().unwrap().get(xpub).cloned().unwrap_or_default();
        let last_synced_height = self.blocks.lock().unwrap().len().saturating_sub(1) as u64;
        Reply::Now(WalletHistory { transactions, last_synced_height })
    }

    fn wallet_utxos(&self, xpub: &str) -> Reply<Vec<UtxoInfo>> {
        let unspent = self.unspent.lock().unwrap();
        Reply::Now(unspent.values().filter(|output| output.address == xpub).cloned().collect())
    }

    fn concerns(&self, xpub: &str, addresses: &[String]) -> bool {
        // A real node derives a wallet's addresses from its key; here a key is the only address of
        // its wallet.
        addresses.iter().any(|address| address == xpub)
    }

    fn state_snapshot(&self, height: u64) -> Reply<StateSnapshot> {
        self.snapshot.lock().unwrap().clone().filter(|snapshot| snapshot.height == height).into()
    }

    fn masternodes(&self) -> Reply<Vec<MasternodeInfo>> {
        Reply::Now(self.masternodes.lock().unwrap().clone())
    }

    fn utxo_states(&self, outpoints: Vec<OutPoint>) -> Reply<Vec<(OutPoint, UTXOState)>> {
        let unspent = self.unspent.lock().unwrap();
        let known = outpoints.into_iter().filter(|outpoint| unspent.contains_key(outpoint));
        Reply::Now(known.map(|outpoint| (outpoint, UTXOState::Unspent)).collect())
    }

    fn block_vote(&self, _: &Sender, vote: &str) -> Reply<VoteAck> {
        let vote: Option<serde_json::Value> = serde_json::from_str(vote).ok();
        let block_hash = vote.and_then(|vote| vote["block_hash"].as_str().map(str::to_owned));
        block_hash.map(|block_hash| VoteAck { block_hash, voter: self.name.clone() }).into()
    }

    fn finality(&self, _: &Sender, transaction: Transaction) -> Reply<Finality> {
        let name = self.name.clone();
        Reply::Now(if transaction.computed_txid() == transaction.txid {
            Finality::Approved { approver: name }
        } else {
            Finality::Rejected { rejector: name, reason: "wrong_txid".into() }
        })
    }

    fn on_message(&self, _: &Sender, message: Incoming) -> Reply<NetworkMessage> {
        self.heard.lock().unwrap().push(message);
        Reply::None
    }
}
