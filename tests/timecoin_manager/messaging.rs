//! Broadcasts and messages to one peer arrive in order, and only sent ones are counted.

use super::*;
use peerpool::timecoin::wire::PeerAddress;
use peerpool::timecoin::{Announced, ConnectionError, PeerSendError, QuarantineReason};
use peerpool::transport::{BoxFuture, BoxListener, BoxStream, Transport};
use peerpool::{Node, NodeConfig};

#[tokio::test]
async fn a_broadcast_transaction_arrives() {
    let (one, _other, chain) = pair().await;
    assert_eq!(one.broadcast_transaction(payment(7)).await.unwrap(), 1);
    until("the payment arrives", || !heard(&chain, Kind::Transaction).is_empty()).await;
    assert_eq!(heard(&chain, Kind::Transaction), [NetworkMessage::Transaction(payment(7))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broadcasts_stay_in_order() {
    let (one, _other, chain) = pair().await;
    for nonce in 0..2_000 {
        one.broadcast_message(NetworkMessage::Transaction(payment(nonce))).await.unwrap();
    }
    until("all have arrived", || heard(&chain, Kind::Transaction).len() == 2_000).await;
    let nonces = heard(&chain, Kind::Transaction).into_iter().map(|message| match message {
        NetworkMessage::Transaction(payment) => payment.nonce,
        other => panic!("not sent: {other:?}"),
    });
    assert!(nonces.eq(0..2_000));
}

#[tokio::test]
async fn a_late_peer_gets_the_newest_tip() {
    let one = manager(chain("a")).await;
    for height in 1..=5 {
        one.broadcast_tip_update(height, format!("hash {height}")).await.unwrap();
    }
    let heard_by_late = chain("b");
    let late = manager(Arc::clone(&heard_by_late) as _).await;
    connect(&late, &one).await;
    until("a tip arrives", || !heard(&heard_by_late, Kind::UpdateTip).is_empty()).await;
    let newest = NetworkMessage::UpdateTip { height: 5, hash: "hash 5".into() };
    assert_eq!(heard(&heard_by_late, Kind::UpdateTip), [newest]);
}

#[tokio::test]
async fn proposals_votes_and_output_states_arrive_as_text() {
    use peerpool::timecoin::wire::{UTXOState, UTXOStateNotification};
    let (one, _other, chain) = pair().await;
    one.broadcast_block_proposal(serde_json::json!({ "block_height": 3 })).await.unwrap();
    // Without a hash it cannot be acknowledged, so it reaches `on_message`.
    one.broadcast_vote(serde_json::json!({ "approve": true })).await.unwrap();
    let notification = UTXOStateNotification {
        outpoint: OutPoint { txid: "ab".into(), vout: 1 },
        old_state: UTXOState::Unspent,
        new_state: UTXOState::Unspent,
        timestamp: 1,
        originator: "x".into(),
    };
    one.broadcast_utxo_notification(&notification).await.unwrap();
    until("all arrive", || chain.heard.lock().unwrap().len() >= 3).await;
    assert_eq!(
        heard(&chain, Kind::ConsensusBlockProposal),
        [NetworkMessage::ConsensusBlockProposal(r#"{"block_height":3}"#.into())]
    );
    assert_eq!(
        heard(&chain, Kind::ConsensusBlockVote),
        [NetworkMessage::ConsensusBlockVote(r#"{"approve":true}"#.into())]
    );
    let [NetworkMessage::UTXOStateNotification { notification: text }] =
        &heard(&chain, Kind::UTXOStateNotification)[..]
    else {
        panic!("one notification was sent");
    };
    assert_eq!(serde_json::from_str::<UTXOStateNotification>(text).unwrap(), notification);
}

#[tokio::test]
async fn a_message_to_an_unknown_peer_is_returned() {
    let one = manager(chain("a")).await;
    let message = NetworkMessage::BlockchainHeight(3);
    match one.send_to_peer_tcp("127.0.0.250".parse().unwrap(), message.clone()).await {
        Err(PeerSendError::NotConnected(ip, back)) => {
            assert_eq!((ip.to_string().as_str(), *back), ("127.0.0.250", message));
        }
        other => panic!("sent to nobody: {other:?}"),
    }
}

#[tokio::test]
async fn a_message_to_an_unconnected_peer_uses_a_one_shot_connection() {
    let heard_by_other = chain("b");
    let (one, other) = (manager(chain("a")).await, manager(Arc::clone(&heard_by_other) as _).await);
    one.send_message_to_peer(other.listen_addr(), NetworkMessage::Transaction(payment(1))).await.unwrap();
    until("it arrives", || !heard(&heard_by_other, Kind::Transaction).is_empty()).await;
    assert_eq!(one.active_peer_count().await, 0);
    until("the connection is gone", || other.connections().is_empty()).await;
}

#[tokio::test]
async fn a_one_shot_connection_to_a_silent_peer_times_out() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap();
    let mut config = config();
    config.one_shot_timeout = Duration::from_millis(200);
    let one = manager_with(config, chain("a")).await;
    let begun = tokio::time::Instant::now();
    let sent = one.send_message_to_peer(addr, NetworkMessage::Ping).await;
    assert!(matches!(sent, Err(PeerSendError::Connection(_))), "{sent:?}");
    // As configured, and not the usual 5 s.
    assert!(begun.elapsed() < Duration::from_secs(4));
}

/// Out of file descriptors.
struct Exhausted;

impl Transport for Exhausted {
    fn dial(&self, _: SocketAddr) -> BoxFuture<'_, std::io::Result<BoxStream>> {
        Box::pin(async { Err(std::io::Error::from_raw_os_error(24)) })
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, std::io::Result<BoxListener>> {
        Box::pin(async { Err(std::io::Error::from_raw_os_error(24)) })
    }
}

#[tokio::test]
async fn a_lack_of_one_shot_slots_does_not_count_against_the_address() {
    let addr = address();
    let builder = PeerManager::builder(TESTNET, addr, addr).config(config()).transport(Exhausted);
    let one = builder.build().unwrap();
    let other = address();
    one.add_discovered_peer(other.ip(), other.port(), "v".into()).await.unwrap();
    let sent = one.send_message_to_peer(other, NetworkMessage::Ping).await;
    assert!(matches!(sent, Err(PeerSendError::Connection(ConnectionError::Connect(_)))), "{sent:?}");
    let known = one.get_best_peers(1).await;
    assert_eq!(known.iter().map(|known| known.failed_connections).collect::<Vec<_>>(), [0]);
}

#[tokio::test]
async fn a_new_peer_is_announced_to_the_others_once() {
    let heard_by_first = chain("b");
    let (one, first) = (manager(chain("a")).await, manager(Arc::clone(&heard_by_first) as _).await);
    connect(&one, &first).await;
    let second = manager(chain("c")).await;
    connect(&second, &one).await;
    let names = |chain: &MemoryChain, who: SocketAddr| {
        let lists = heard(chain, Kind::PeerList);
        lists.iter().filter(|list| format!("{list:?}").contains(&who.ip().to_string())).count()
    };
    until("the first hears of the second", || names(&heard_by_first, second.listen_addr()) == 1).await;
    let again = one.broadcast_new_peer(&info_of(&second)).await.unwrap();
    assert_eq!(again, Announced::Recent);
    // A message sent after all announcements arrives after them.
    one.broadcast_message(NetworkMessage::Transaction(payment(1))).await.unwrap();
    until("the marker", || !heard(&heard_by_first, Kind::Transaction).is_empty()).await;
    assert_eq!(names(&heard_by_first, second.listen_addr()), 1);
    until("it is remembered", || first.node().book().get(&second.listen_addr()).is_some()).await;
}

#[tokio::test]
async fn without_other_peers_nothing_counts_as_announced() {
    let one = manager(chain("a")).await;
    let stranger = PeerInfo::new("9.9.9.9:24100".parse().unwrap(), TESTNET);
    assert_eq!(one.broadcast_new_peer(&stranger).await.unwrap(), Announced::NoPeers);
    let other = manager(chain("b")).await;
    connect(&one, &other).await;
    assert_eq!(one.broadcast_new_peer(&stranger).await.unwrap(), Announced::Sent);
    assert_eq!(one.broadcast_new_peer(&stranger).await.unwrap(), Announced::Recent);
}

#[tokio::test]
async fn legacy_and_native_peers_get_one_broadcast() {
    let addr = address();
    let native = SocketAddr::new(addr.ip(), 0);
    let one = PeerManager::builder(TESTNET, addr, addr).config(config()).chain(chain("a")).native(native);
    let one = one.start().await.unwrap();
    let (old, new) = (chain("old"), chain("new"));
    let old_peer = manager(Arc::clone(&old) as _).await;
    connect(&old_peer, &one).await;
    let at = address();
    let new_peer = PeerManager::builder(TESTNET, at, at).config(config()).chain(Arc::clone(&new) as _);
    let new_peer = new_peer.native(SocketAddr::new(at.ip(), 0)).start().await.unwrap();
    let port = one.node().local_addrs().into_iter().find(|listening| *listening != addr).unwrap();
    new_peer.node().connect_in("native", port).await.unwrap();
    until("both are there", || one.connections().len() == 2).await;
    assert_eq!(one.broadcast_transaction(payment(3)).await.unwrap(), 2);
    for chain in [&old, &new] {
        until("it arrives", || heard(chain, Kind::Transaction) == [NetworkMessage::Transaction(payment(3))])
            .await;
    }
    // A legacy node could not dial the native peer, so it is not announced.
    let connections = one.connections();
    let native = connections.iter().find(|one| one.peer().connection().protocol() == "native").unwrap();
    assert_eq!(one.broadcast_new_peer(&native.info()).await.unwrap(), Announced::NotDialable);
    assert_eq!(heard(&old, Kind::PeerList), []);
    assert_eq!(one.handle_get_peer_list().await, peer_list_of(&old_peer));
    // And a request over the new protocol, which has ids.
    assert_eq!(new_peer.request_blockchain_info(port).await.unwrap(), None);
}

#[tokio::test]
async fn native_peers_get_the_advertised_address() {
    let both = |config: ManagerConfig| async move {
        let addr = address();
        let builder = PeerManager::builder(TESTNET, addr, addr).config(config).chain(chain("both"));
        builder.native(SocketAddr::new(addr.ip(), 0)).start().await.unwrap()
    };
    let mut mapped = config();
    mapped.node.advertise = Some(SocketAddr::from(([127, 0, 0, 1], 7_007)));
    let (one, other) = (both(mapped).await, both(config()).await);
    let listens = other.listen_addr();
    let port = other.node().local_addrs().into_iter().find(|listening| *listening != listens).unwrap();
    one.node().connect_in("native", port).await.unwrap();
    until("it is there", || other.connections().len() == 1).await;
    let told = other.connections()[0].peer().read_info(|info| info.listen);
    assert_eq!(told.map(|told| told.port()), Some(7_007));
}

/// The list of this one peer.
fn peer_list_of(peer: &PeerManager) -> NetworkMessage {
    let addr = peer.listen_addr();
    let version = concat!("peerpool/", env!("CARGO_PKG_VERSION")).into();
    NetworkMessage::PeerList(vec![PeerAddress { ip: addr.ip().to_string(), port: addr.port(), version }])
}

#[tokio::test]
async fn a_quarantine_ends_every_connection_of_an_address() {
    let addr = address();
    let builder = PeerManager::builder(TESTNET, addr, addr).config(config()).chain(chain("a"));
    let one = builder.native(SocketAddr::new(addr.ip(), 0)).start().await.unwrap();
    let port = one.node().local_addrs().into_iter().find(|listening| *listening != addr).unwrap();
    let mut others = Vec::new();
    for _ in 0..3 {
        let config = NodeConfig { network: TESTNET.id(), ..NodeConfig::local() };
        let node = Node::builder().config(config).start().await.unwrap();
        node.connect(port).await.unwrap();
        others.push(node);
    }
    until("all are there", || one.connections().len() == 3).await;
    let from = one.connections()[0].peer().ip();
    one.quarantine_peer(from, QuarantineReason::RateLimitExceeded { requests_per_second: 1_000 }).await;
    assert!(one.connections().is_empty(), "{:?}", one.connections().len());
}
