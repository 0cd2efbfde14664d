//! What the last full node answered. Anything else it left without a word.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::manager::Manager;
use super::message::{Message, sample};
use super::node::broadcast;

/// Blocks that one answer holds at most.
const BLOCKS: u64 = 100;

pub(super) async fn handle(manager: &Arc<Manager>, ip: IpAddr, message: &Message) {
    let own = manager.setup.answers.as_ref().and_then(|answers| answers(message));
    let answers = match own {
        Some(answers) => answers,
        None => built_in(manager, message).await,
    };
    for answer in answers {
        let _ = manager.send_message_to_peer(ip, &answer).await;
    }
    if message.variant == "MasternodeAnnouncement" {
        let new = {
            let mut passed_on = manager.passed_on.lock().unwrap();
            let new = !passed_on.contains(&message.text);
            passed_on.push(message.text.clone());
            new
        };
        if new {
            broadcast(manager, &message.text, Some(ip)).await;
        }
    }
}

async fn built_in(manager: &Arc<Manager>, message: &Message) -> Vec<String> {
    let us = manager.public().ip();
    let of_sample = |variant: &str| vec![sample(variant).to_owned()];
    match message.variant.as_str() {
        "Ping" => vec![r#""Pong""#.to_owned()],
        "GetPeerList" => vec![peer_list(manager).await],
        "RequestWalletTransactions" => of_sample("WalletTransactionsResponse"),
        "RegisterXpub" => [of_sample("XpubRegistered"), of_sample("UtxoUpdate")].concat(),
        "GetBlockchainInfo" => vec![match manager.setup.height {
            None => r#"{"BlockchainInfo":{"height":null,"best_block_hash":"no_genesis"}}"#.to_owned(),
            Some(height) => {
                format!(
                    r#"{{"BlockchainInfo":{{"height":{height},"best_block_hash":"{}"}}}}"#,
                    "cd".repeat(32)
                )
            }
        }],
        "GetMempool" => of_sample("MempoolResponse"),
        "RequestFinalizedTransactions" => of_sample("FinalizedTransactionsResponse"),
        "GetBlocks" => blocks(manager.setup.height.unwrap_or(0), &message.body),
        "ConsensusBlockVote" => vec![ack(message, us)],
        "GetMasternodeList" => of_sample("MasternodeList"),
        "InstantFinalityRequest" => {
            let txid = &message.body["txid"];
            vec![format!(
                r#"{{"TransactionApproved":{{"txid":{txid},"approver":"{us}","timestamp":1765000000}}}}"#
            )]
        }
        _ => Vec::new(),
    }
}

/// All pooled peers with the standard port, the requester included.
async fn peer_list(manager: &Manager) -> String {
    let pool = manager.pool.read().await;
    let port = manager.setup.standard_port;
    let peer = |(ip, version): (&IpAddr, &String)| {
        let version = Value::from(version.as_str());
        format!(r#"{{"ip":"{ip}","port":{port},"version":{version}}}"#)
    };
    let peers: Vec<String> = pool.iter().map(|(ip, entry)| peer((ip, &entry.version))).collect();
    format!(r#"{{"PeerList":[{}]}}"#, peers.join(","))
}

/// The captured block with the requested numbers (its hash is not recomputed), up to the tip.
fn blocks(tip: u64, asked: &Value) -> Vec<String> {
    let number = |field: &str| asked[field].as_u64().unwrap_or(0);
    let (start, end) = (number("start_height"), number("end_height"));
    if start > tip + 1000 {
        return Vec::new();
    }
    let like = sample("Blocks").strip_prefix(r#"{"Blocks":{"blocks":["#);
    let like = like.and_then(|rest| rest.strip_suffix("]}}")).unwrap();
    let block = |number: u64| like.replace(r#""block_number":1,"#, &format!(r#""block_number":{number},"#));
    let blocks: Vec<String> =
        (start..=end.min(tip)).take(usize::try_from(BLOCKS).unwrap()).map(block).collect();
    vec![format!(r#"{{"Blocks":{{"blocks":[{}]}}}}"#, blocks.join(","))]
}

/// Names the block that the vote's own JSON names.
fn ack(vote: &Message, us: IpAddr) -> String {
    let inner: Value =
        vote.body.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let hash = if inner["block_hash"].is_string() { inner["block_hash"].to_string() } else { r#""""#.into() };
    format!(r#"{{"ConsensusVoteAck":{{"block_hash":{hash},"voter":"{us}","received_at":1765000000}}}}"#)
}
