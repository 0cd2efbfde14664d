//! A node of the TIME Coin test network whose chain is in memory, and another one that asks it everything.
//!
//! `cargo run --features timecoin --example timecoin_responder`

mod chain;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chain::MemoryChain;
use peerpool::timecoin::wire::{Block, BlockHeader, BlockTime, MasternodeCounts, TransactionMessage};
use peerpool::timecoin::{ManagerConfig, NetworkType, PeerInfo, PeerManager};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let chain = Arc::new(MemoryChain { name: "responder".into(), ..MemoryChain::default() });
    *chain.blocks.lock().unwrap() = (0..250).map(block).collect::<Result<_, _>>()?;
    let responder = start("127.0.0.71:24100", Arc::clone(&chain)).await?;
    let asker = start("127.0.0.72:24100", Arc::new(MemoryChain::default())).await?;

    let at = responder.listen_addr();
    asker.connect_to_peer(PeerInfo::new(at, NetworkType::Testnet)).await?;
    println!("round trip: {:?}", asker.send_ping(at.ip()).await?);
    println!("height: {:?}", asker.request_blockchain_info(at).await?);
    println!("block 7: {}", asker.request_block_by_height(at, 7).await?.hash);
    println!("synced: {} blocks", asker.sync_recent_blocks(at, 0, 249).await?.len());

    let vote = peerpool::timecoin::NetworkMessage::ConsensusBlockVote(r#"{"block_hash":"ab"}"#.into());
    asker.send_vote_with_ack(at.ip(), vote, "ab".into()).await?;
    println!("the vote has arrived");

    let payment = TransactionMessage {
        txid: "ab".into(),
        from: "TIME1a".into(),
        to: "TIME1b".into(),
        amount: 1,
        fee: 0,
        timestamp: 0,
        signature: String::new(),
        nonce: 0,
    };
    println!("broadcast to {} peers", asker.broadcast_transaction(payment).await?);
    while chain.heard.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("heard: {:?}", chain.heard.lock().unwrap());

    for manager in [asker, responder] {
        let left = manager.shutdown(Duration::from_secs(5)).await;
        println!("ended clean: {}", left.is_clean());
    }
    Ok(())
}

async fn start(addr: &str, chain: Arc<MemoryChain>) -> Result<PeerManager, Box<dyn Error>> {
    let addr: SocketAddr = addr.parse()?;
    let config = ManagerConfig::local(NetworkType::Testnet);
    Ok(PeerManager::builder(NetworkType::Testnet, addr, addr).config(config).chain(chain).start().await?)
}

fn block(number: u64) -> Result<Block, Box<dyn Error>> {
    let header = BlockHeader {
        block_number: number,
        timestamp: BlockTime::from_seconds(1_765_000_000 + number as i64 * 600)?,
        previous_hash: "00".into(),
        merkle_root: "00".into(),
        validator_signature: String::new(),
        validator_address: "TIME1validator".into(),
        masternode_counts: MasternodeCounts::default(),
        proof_of_time: None,
        checkpoints: Vec::new(),
    };
    let hash = header.computed_hash();
    Ok(Block { header, transactions: Vec::new(), hash })
}
