//! Who is connected, once each, and connections made elsewhere.

use super::*;
use legacy_node::{Handshake, Network, ScriptedPeer};
use peerpool::RequestError;
use peerpool::address_book::{AddressBook, AddressBookConfig};
use peerpool::timecoin::{
    AdoptError, ConnectionError, PeerConnectError, PeerConnection, PeerListener, PeerRequestError,
    QuarantineReason,
};
use peerpool::wire::Status;
use peerpool::{Backoff, ConnectError};
use tokio::sync::Mutex;

#[tokio::test]
async fn both_ends_identify_each_other_by_ip_address() {
    let (one, other, _chain) = pair().await;
    // Connected already, and ourselves: in order as they are.
    one.connect_to_peer(info_of(&other)).await.unwrap();
    one.connect_to_peer(info_of(&one)).await.unwrap();
    other.connect_to_peer(info_of(&one)).await.unwrap();
    assert_eq!((one.active_peer_count().await, other.peer_count().await), (1, 1));
    assert_eq!(one.get_peer_ips().await, [ip_of(&other).to_string()]);
    assert_eq!(other.get_peer_ips().await, [ip_of(&one).to_string()]);
    // The dialler's port was borrowed; where it listens is what is known of it.
    assert_eq!(other.get_peers().await[0].address, one.listen_addr());
    assert_eq!(one.get_node_id().await, Some(one.get_public_ip().await));
    let stats = one.get_pool_stats().await;
    assert_eq!((stats.total_connections, stats.healthy_connections, stats.stale_connections), (1, 1, 0));
    assert!(stats.avg_health_score > 99.0 && stats.oldest_connection_secs < 60);
}

#[tokio::test]
async fn simultaneous_dials_keep_one_connection() {
    let (one, other) = (manager(chain("a")).await, manager(chain("b")).await);
    let (dialled, accepted) =
        tokio::join!(one.connect_to_peer(info_of(&other)), other.connect_to_peer(info_of(&one)));
    // Whichever gave way, what was wanted is so or is about to be.
    assert!(dialled.is_ok() || accepted.is_ok(), "{dialled:?} {accepted:?}");
    until("one connection is left", || one.connections().len() == 1 && other.connections().len() == 1).await;
    one.send_ping(ip_of(&other)).await.unwrap();
    other.send_ping(ip_of(&one)).await.unwrap();
}

#[tokio::test]
async fn a_quarantined_peer_is_neither_dialled_nor_accepted() {
    let (one, other) = (manager(chain("a")).await, manager(chain("b")).await);
    let reason = QuarantineReason::ConsensusViolation { reason: "two blocks".into() };
    one.quarantine_peer(ip_of(&other), reason.clone()).await;
    assert!(matches!(
        one.connect_to_peer(info_of(&other)).await,
        Err(PeerConnectError::Quarantined(ip)) if ip == ip_of(&other)
    ));
    assert!(one.quarantine().should_exclude_from_consensus(&ip_of(&other)).await);
    one.quarantine().release_peer(&ip_of(&other)).await;
    connect(&one, &other).await;
    one.quarantine_peer(ip_of(&other), reason).await;
    until("its connection ends", || one.connections().is_empty() && other.connections().is_empty()).await;
    let refused = other.connect_to_peer(info_of(&one)).await;
    assert!(matches!(refused, Err(PeerConnectError::Connect(_))), "{refused:?}");
}

#[tokio::test]
async fn a_quarantined_address_is_not_dialled_by_the_node() {
    let mut eager = config();
    eager.reconnect.target_peers = 8;
    let backoff = Backoff { base: Duration::from_millis(10), cap: Duration::from_millis(50) };
    let book = AddressBook::in_memory(AddressBookConfig { backoff, ..AddressBookConfig::default() });
    let addr = address();
    let one = PeerManager::builder(TESTNET, addr, addr).config(eager).chain(chain("a")).book(book);
    let one = one.start().await.unwrap();
    let other = manager(chain("b")).await;
    one.connect_to_peer(info_of(&other)).await.unwrap();
    let reason = QuarantineReason::ConsensusViolation { reason: "two blocks".into() };
    one.quarantine_peer(ip_of(&other), reason).await;
    until("its connection ends", || one.connections().is_empty() && other.connections().is_empty()).await;
    let dials = one.node().stats().dials;
    // Its end makes the node look for another one at once, and again at each tick.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(one.node().stats().dials, dials);
}

#[tokio::test]
async fn another_network_is_refused_by_either_end() {
    let one = manager(chain("a")).await;
    let addr = address();
    let main = PeerManager::builder(NetworkType::Mainnet, addr, addr)
        .config(ManagerConfig::local(NetworkType::Mainnet))
        .build()
        .unwrap();
    let refused = main.connect_to_peer(info_of(&one)).await;
    assert!(
        matches!(refused, Err(PeerConnectError::Connect(ConnectError::Eof | ConnectError::Io(_)))),
        "{refused:?}"
    );
    assert_eq!(one.active_peer_count().await, 0);
}

#[tokio::test]
async fn many_peers_are_connected_in_one_call() {
    let one = manager(chain("a")).await;
    let mut others = Vec::new();
    for _ in 0..12 {
        others.push(manager(chain("b")).await);
    }
    one.connect_to_peers(others.iter().map(info_of).collect()).await;
    assert_eq!(one.active_peer_count().await, 12);
}

#[tokio::test]
async fn an_adopted_connection_becomes_a_peer() {
    let addr = address();
    let acceptor =
        PeerManager::builder(TESTNET, addr, addr).config(config()).chain(chain("b")).build().unwrap();
    let mut listener = PeerListener::bind(addr, TESTNET, addr, None).await.unwrap();
    let heard_by_dialler = chain("a");
    let dialler = manager(Arc::clone(&heard_by_dialler) as _).await;
    // One that says nothing first: it must not delay the next.
    let _silent = tokio::net::TcpStream::connect(addr).await.unwrap();
    let (dialled, accepted) = tokio::join!(dialler.connect_to_peer(info_of(&acceptor)), listener.accept());
    dialled.unwrap();
    let connection = Arc::new(Mutex::new(accepted.unwrap()));
    let info = connection.lock().await.peer_info().await;
    assert_eq!(info.address, dialler.listen_addr());
    acceptor.add_connected_peer_with_connection_arc(info, Arc::clone(&connection)).await.unwrap();
    assert_eq!(acceptor.get_peer_ips().await, [ip_of(&dialler).to_string()]);
    // Frames read before are not lost, and the holder can go on sending through the pool.
    acceptor.send_ping(ip_of(&dialler)).await.unwrap();
    let mut connection = connection.lock().await;
    assert!(connection.is_alive().await);
    connection.send_message(NetworkMessage::Transaction(payment(1))).await.unwrap();
    until("it arrives", || !heard(&heard_by_dialler, Kind::Transaction).is_empty()).await;
    let time = NetworkMessage::TimeRequest { request_time_ms: 5 };
    assert_eq!(connection.request_response(time, WAIT).await.unwrap().kind(), Kind::TimeResponse);
    assert!(matches!(connection.receive_message().await, Err(ConnectionError::HandedOver)));
    acceptor.remove_connected_peer(&ip_of(&dialler)).await;
    assert!(!connection.is_alive().await);
}

#[tokio::test]
async fn a_stand_alone_connection_requests_replies_pings_and_keeps_other_frames() {
    let chain_of_other = chain("b");
    *chain_of_other.blocks.lock().unwrap() = vec![block(0)];
    let other = manager(Arc::clone(&chain_of_other) as _).await;
    let ours = address();
    let mut connection = PeerConnection::connect(&info_of(&other), TESTNET, ours, None).await.unwrap();
    assert!(connection.is_alive().await);
    assert!(!connection.ping().await.unwrap().is_zero());
    until("it is a peer", || other.connections().len() == 1).await;
    other.broadcast_transaction(payment(9)).await.unwrap();
    // A request after it: the payment comes first and is kept.
    let answer = connection.request_response(NetworkMessage::GetBlockchainInfo, WAIT).await.unwrap();
    assert_eq!(answer.kind(), Kind::BlockchainInfo);
    let mut got = connection.receive_within(WAIT).await.unwrap();
    if got.kind() == Kind::PeerList {
        got = connection.receive_within(WAIT).await.unwrap();
    }
    assert_eq!(got, NetworkMessage::Transaction(payment(9)));
    let nothing = connection.receive_within(Duration::from_millis(50)).await;
    assert!(matches!(nothing, Err(ConnectionError::ReadTimeout(_))), "{nothing:?}");
    other.remove_peer_connection(ours.ip()).await;
    assert!(matches!(
        connection.receive_within(WAIT).await,
        Err(ConnectionError::Eof | ConnectionError::Io(_))
    ));
    assert!(!connection.is_alive().await);
    let gone = other.add_connected_peer_with_connection(PeerInfo::new(ours, TESTNET), connection).await;
    assert!(matches!(gone, Err(AdoptError::NotOpen)), "{gone:?}");
}

#[tokio::test]
async fn a_request_over_a_stand_alone_connection_is_refused_at_once() {
    let (one, other) = (manager(chain("a")).await, manager(Arc::new(())).await);
    let begun = tokio::time::Instant::now();
    let refused = one.request(other.listen_addr(), NetworkMessage::GetMempool, WAIT).await;
    let Err(PeerRequestError::Connection(ConnectionError::Declined(status))) = refused else {
        panic!("not declined: {refused:?}")
    };
    assert_eq!(status, Status::NoReply);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // A holder that reads by itself receives no refusal as a message.
    let mut connection = PeerConnection::connect(&info_of(&other), TESTNET, address(), None).await.unwrap();
    connection.send_message(NetworkMessage::GetMempool).await.unwrap();
    let mut got = connection.receive_within(Duration::from_millis(500)).await;
    if matches!(got, Ok(NetworkMessage::PeerList(_))) {
        got = connection.receive_within(Duration::from_millis(500)).await;
    }
    assert!(matches!(got, Err(ConnectionError::ReadTimeout(_))), "{got:?}");
    let declined = connection.request_response(NetworkMessage::GetGenesis, WAIT).await;
    assert!(matches!(declined, Err(ConnectionError::Declined(Status::NoReply))), "{declined:?}");
    connection.send_message(NetworkMessage::GetMempool).await.unwrap();
    connection.ping().await.unwrap();
    let nothing = connection.receive_within(Duration::from_millis(50)).await;
    assert!(matches!(nothing, Err(ConnectionError::ReadTimeout(_))), "{nothing:?}");
}

/// A connection to a scripted, and the scripted.
async fn to_a_scripted_peer() -> (PeerConnection, ScriptedPeer) {
    let at = address();
    let listener = tokio::net::TcpListener::bind(at).await.unwrap();
    let peer = PeerInfo::new(at, TESTNET);
    let welcoming = async {
        let mut scripted = ScriptedPeer::new(listener.accept().await.unwrap().0);
        scripted.welcome(&Handshake::new(Network::Testnet, "0.6.4", at), Network::Testnet).await.unwrap();
        scripted
    };
    let (connection, scripted) =
        tokio::join!(PeerConnection::connect(&peer, TESTNET, address(), None), welcoming);
    (connection.unwrap(), scripted)
}

/// Too short a time for an answer that only comes afterwards.
const SHORT: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_late_reply_is_not_returned_for_the_next_request() {
    let (mut connection, mut scripted) = to_a_scripted_peer().await;
    let question = |xpub: &str| NetworkMessage::RequestWalletTransactions { xpub: xpub.into() };
    let answer = |height| NetworkMessage::WalletTransactionsResponse {
        transactions: Vec::new(),
        last_synced_height: height,
    };
    let said = |height| {
        format!(r#"{{"WalletTransactionsResponse":{{"transactions":[],"last_synced_height":{height}}}}}"#)
    };
    let late = connection.request_response(question("a"), SHORT).await;
    assert!(matches!(late, Err(ConnectionError::ReadTimeout(_))), "{late:?}");
    let answering = async {
        assert!(scripted.receive().await.unwrap().text.contains(r#""a""#));
        scripted.send(&said(1)).await;
        assert!(scripted.receive().await.unwrap().text.contains(r#""b""#));
        scripted.send(&said(2)).await;
    };
    let (answered, ()) = tokio::join!(connection.request_response(question("b"), WAIT), answering);
    assert_eq!(answered.unwrap(), answer(2));
    assert_eq!(connection.receive_within(WAIT).await.unwrap(), answer(1));
    // While one is open no other is sent; one that is received is open no more.
    connection.request_response(question("c"), SHORT).await.unwrap_err();
    let open = connection.request_response(question("d"), SHORT).await;
    assert!(
        matches!(open, Err(ConnectionError::ReplyOutstanding(Kind::RequestWalletTransactions))),
        "{open:?}"
    );
    assert!(scripted.receive().await.unwrap().text.contains(r#""c""#));
    scripted.send(&said(3)).await;
    assert_eq!(connection.receive_within(WAIT).await.unwrap(), answer(3));
    let answering = async {
        assert!(scripted.receive().await.unwrap().text.contains(r#""e""#));
        scripted.send(&said(5)).await;
    };
    let (answered, ()) = tokio::join!(connection.request_response(question("e"), WAIT), answering);
    assert_eq!(answered.unwrap(), answer(5));
}

#[tokio::test]
async fn an_adopted_connection_keeps_its_open_requests() {
    let (mut connection, mut scripted) = to_a_scripted_peer().await;
    let heard_by_one = chain("a");
    let one =
        manager_with(ManagerConfig { max_one_shots: 0, ..config() }, Arc::clone(&heard_by_one) as _).await;
    connection.request_response(NetworkMessage::GetBlockchainInfo, SHORT).await.unwrap_err();
    assert_eq!(scripted.receive().await.unwrap().variant, "GetBlockchainInfo");
    let info = connection.peer_info().await;
    let at = info.address;
    one.add_connected_peer_with_connection(info, connection).await.unwrap();
    let open = one.request(at, NetworkMessage::GetBlockchainInfo, WAIT).await;
    assert!(matches!(open, Err(PeerRequestError::Request(RequestError::ReplyOutstanding(_)))), "{open:?}");
    let info = |height| format!(r#"{{"BlockchainInfo":{{"height":{height},"best_block_hash":"ab"}}}}"#);
    scripted.send(&info(1)).await;
    until("the late answer comes to the hook", || !heard(&heard_by_one, Kind::BlockchainInfo).is_empty())
        .await;
    let answering = async {
        while scripted.receive().await.unwrap().variant != "GetBlockchainInfo" {}
        scripted.send(&info(2)).await;
    };
    let (height, ()) = tokio::join!(one.request_blockchain_info(at), answering);
    assert_eq!(height.unwrap(), Some(2));
}

#[tokio::test]
async fn frames_kept_before_a_request_are_not_its_reply_after_adoption() {
    let (mut connection, mut scripted) = to_a_scripted_peer().await;
    let one = manager_with(ManagerConfig { max_one_shots: 0, ..config() }, chain("a")).await;
    let info = |height| format!(r#"{{"BlockchainInfo":{{"height":{height},"best_block_hash":"ab"}}}}"#);
    connection.request_response(NetworkMessage::GetBlockchainInfo, SHORT).await.unwrap_err();
    scripted.send(&info(1)).await;
    // The first reply is read and kept; the second request is never answered.
    let late =
        connection.request_response(NetworkMessage::GetBlockchainInfo, Duration::from_millis(500)).await;
    assert!(matches!(late, Err(ConnectionError::ReadTimeout(_))), "{late:?}");
    for _ in 0..2 {
        assert_eq!(scripted.receive().await.unwrap().variant, "GetBlockchainInfo");
    }
    let entry = connection.peer_info().await;
    let at = entry.address;
    one.add_connected_peer_with_connection(entry, connection).await.unwrap();
    // What was kept is read before this.
    scripted.send(r#""Ping""#).await;
    while scripted.receive().await.unwrap().variant != "Pong" {}
    let open = one.request(at, NetworkMessage::GetBlockchainInfo, WAIT).await;
    assert!(matches!(open, Err(PeerRequestError::Request(RequestError::ReplyOutstanding(_)))), "{open:?}");
}

#[tokio::test]
async fn the_pool_entry_shows_liveness_and_health() {
    let (one, other, _chain) = pair().await;
    let entry = one.connection(ip_of(&other)).unwrap();
    assert!(entry.is_healthy() && entry.mark_seen() && !entry.is_stale(Duration::from_secs(300)));
    assert_eq!((entry.health_score(), entry.ip()), (100, ip_of(&other)));
    entry.penalize_health(50);
    entry.penalize_health(30);
    assert_eq!(entry.health_score(), 30);
    assert!(!entry.is_healthy());
    entry.reward_health(5);
    assert!(entry.is_healthy());
    assert_eq!(*entry.info().version, *one.node().roster().iter().next().unwrap().info().agent);
    assert!(one.peer_seen(ip_of(&other)).await);
    assert!(one.remove_connected_peer(&ip_of(&other)).await);
    assert!(!one.remove_connected_peer(&ip_of(&other)).await);
    assert!(!entry.is_connected() && !entry.is_healthy() && !entry.mark_seen());
    assert!(!one.peer_seen(ip_of(&other)).await);
}
