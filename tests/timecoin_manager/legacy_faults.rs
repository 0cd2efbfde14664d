//! What goes wrong between old nodes and new ones where each waits for the other.

use super::legacy::{dial_in, full};
use super::*;
use legacy_node::{Handshake, Network, ScriptedPeer, What};
use peerpool::DiscoveryConfig;
use peerpool::timecoin::ReconnectConfig;
use peerpool::transport::Transport as _;

fn handshake(host: u8) -> Handshake {
    Handshake::new(Network::Testnet, "0.6.4", in_memory(host))
}

async fn scripted(net: &MemoryNet, host: u8, one: &PeerManager) -> ScriptedPeer {
    let mut scripted = ScriptedPeer::new(dial_in(net, host, one).await);
    scripted.greet(&handshake(host), Network::Testnet).await.unwrap();
    scripted
}

#[tokio::test(start_paused = true)]
async fn a_legacy_acceptor_hears_from_us_before_it_goes_deaf() {
    let net = MemoryNet::new(31);
    let old = full(&net, 2, 12).await;
    let one = manager_in(&net, 1, config(), chain("a")).await;
    one.connect_to_peer(PeerInfo::new(in_memory(2), TESTNET)).await.unwrap();
    // Nobody has anything to say for ten minutes, but for its pings.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let ended = old.record().when(|what| matches!(what, What::LoopEnded(_)));
    assert_eq!(ended, None, "it reads as long as it hears something every minute");
    one.broadcast_tip_update(13, "cd".into()).await.unwrap();
    let at = ip_of(&one);
    old.record().until(WAIT, |record| record.got(at).iter().any(|(got, _)| got.variant == "UpdateTip")).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_chain_answers_a_question_for_it_at_once() {
    let net = MemoryNet::new(32);
    let addr = in_memory(1);
    let builder = PeerManager::builder(TESTNET, addr, addr).config(config());
    let one = builder.transport(net.host(addr.ip())).start().await.unwrap();
    let mut old = scripted(&net, 2, &one).await;
    let begun = tokio::time::Instant::now();
    old.send(r#""GetBlockchainInfo""#).await;
    let answer = old.receive().await.unwrap();
    assert_eq!(answer.text, r#"{"BlockchainInfo":{"height":null,"best_block_hash":"no_genesis"}}"#);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_of_a_legacy_node_takes_the_place_of_a_young_one() {
    let net = MemoryNet::new(33);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let _first = scripted(&net, 2, &one).await;
    until("the first is live", || one.connections().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = tokio::time::Instant::now();
    let mut second = scripted(&net, 2, &one).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "its handshake is answered");
    second.send(r#""GetBlockchainInfo""#).await;
    assert_eq!(second.receive().await.unwrap().variant, "BlockchainInfo");
    assert_eq!(one.connections().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_legacy_dialler_is_dialled_where_it_said_that_it_listens() {
    let net = MemoryNet::new(34);
    let mut looking = config();
    looking.reconnect = ReconnectConfig { seed_below: 0, ..ReconnectConfig::default() };
    let one = manager_in(&net, 1, looking, chain("a")).await;
    let old = scripted(&net, 2, &one).await;
    until("it is live", || one.connections().len() == 1).await;
    let mut listener = net.host(in_memory(2).ip()).listen(in_memory(2)).await.unwrap();
    drop(old);
    until("it is gone", || one.connections().is_empty()).await;
    // It is back, and dials nobody itself.
    let dialled = tokio::time::timeout(Duration::from_secs(30), listener.accept()).await;
    assert_eq!(dialled.expect("it is dialled").unwrap().1.ip(), ip_of(&one));
}

#[tokio::test(start_paused = true)]
async fn what_a_legacy_peer_tells_is_believed_by_scope_and_by_source() {
    let net = MemoryNet::new(35);
    let mut strict = config();
    let private_networks = vec!["10.0.0.0/8".parse().unwrap()];
    strict.node.runtime.discovery = DiscoveryConfig { private_networks, ..DiscoveryConfig::default() };
    let one = manager_in(&net, 1, strict, chain("a")).await;
    let mut old = scripted(&net, 2, &one).await;
    let listed = |ip: &str, port: u16| format!(r#"{{"ip":"{ip}","port":{port},"version":"0.6.4"}}"#);
    let mut list: Vec<_> =
        ["192.168.0.5", "127.0.0.1", "169.254.0.1", "192.0.2.1", "fe80::1", "10.0.0.7", "9.9.9.9"]
            .map(|ip| listed(ip, 24100))
            .to_vec();
    list.extend((1..40).map(|port| listed("8.8.8.8", port)));
    old.send(&format!(r#"{{"PeerList":[{}]}}"#, list.join(","))).await;
    until("the list is learnt", || one.node().book().len() >= 6).await;
    let known: std::collections::BTreeSet<_> =
        one.node().book().addresses().into_iter().map(|known| known.addr.ip().to_string()).collect();
    let known: Vec<_> = known.iter().map(String::as_str).filter(|ip| *ip != "10.0.0.2").collect();
    assert_eq!(known, ["10.0.0.7", "8.8.8.8", "9.9.9.9"]);
    assert_eq!(one.node().book().len(), 6, "four ports of one host");
}
