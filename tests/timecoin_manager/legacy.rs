//! A manager and the legacy node as it was measured: its mute seconds, its pings, what it reads and
//! what not.

use super::*;
use legacy_node::{ConnectionSetup, Handshake, LegacyNode, Network, ScriptedPeer, Timing};
use peerpool::RequestError;
use peerpool::timecoin::{ConnectionError, PeerRequestError, QuarantineReason};

/// A stream from a legacy node's own host to a manager in memory.
pub(super) async fn dial_in(net: &MemoryNet, host: u8, to: &PeerManager) -> peerpool::transport::BoxStream {
    use peerpool::transport::Transport;
    net.host(in_memory(host).ip()).dial(to.listen_addr()).await.unwrap()
}

/// A legacy node that listens nowhere and says that it does on its host in memory.
pub(super) async fn old(host: u8) -> LegacyNode {
    LegacyNode::start(ConnectionSetup::new(host, Timing::real()).only_dials(in_memory(host))).await
}

/// The last full node on this host in memory, listening, with a chain of this height.
pub(super) async fn full(net: &MemoryNet, host: u8, height: u64) -> Arc<LegacyNode> {
    // Its listener, in memory: a peer that comes is handed to the legacy node.
    use peerpool::transport::Transport;
    let mut listener = net.host(in_memory(host).ip()).listen(in_memory(host)).await.unwrap();
    let mut setup = ConnectionSetup::full(host, Timing::real());
    setup.public = Some(in_memory(host));
    setup.height = Some(height);
    let old = Arc::new(LegacyNode::start(setup).await);
    let accepting = Arc::clone(&old);
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            let old = Arc::clone(&accepting);
            tokio::spawn(async move { old.accept_over(stream, from).await });
        }
    });
    old
}

/// A manager at this address, and a legacy node at the second one that listens, has dialled it and
/// has a chain of twelve.
async fn with_a_legacy_dialler(at: u8) -> (PeerManager, Arc<LegacyNode>) {
    let net = MemoryNet::new(11);
    let one = manager_in(&net, at, config(), chain("a")).await;
    let old = full(&net, 2, 12).await;
    old.connect_over(dial_in(&net, 2, &one).await, one.listen_addr()).await.unwrap();
    until("it is there", || one.connection(in_memory(2).ip()).is_some()).await;
    (one, old)
}

#[tokio::test(start_paused = true)]
async fn a_legacy_dialler_is_asked_at_its_listening_address() {
    // Of the two addresses that of the legacy node is the larger: it takes a second connection.
    let (one, _old) = with_a_legacy_dialler(1).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(one.request_blockchain_info(in_memory(2)).await.unwrap(), Some(12));
    assert!(one.request_wallet_transactions("xpub".into()).await.is_ok());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_legacy_dialler_answers_concurrent_requests() {
    let (one, _old) = with_a_legacy_dialler(1).await;
    let begun = tokio::time::Instant::now();
    // It replies on the newest connection of an address, whichever carried the request.
    let (height, history, again) = tokio::join!(
        one.request_blockchain_info(in_memory(2)),
        one.request_wallet_transactions("xpub".into()),
        one.request_blockchain_info(in_memory(2)),
    );
    assert_eq!((height.unwrap(), again.unwrap()), (Some(12), Some(12)));
    assert!(history.is_ok());
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_legacy_dialler_without_a_second_connection_fails_a_request_at_once() {
    let (one, old) = with_a_legacy_dialler(3).await;
    let begun = tokio::time::Instant::now();
    let dropped = one.request_blockchain_info(in_memory(2)).await;
    let Err(PeerRequestError::Connection(ConnectionError::Eof | ConnectionError::Io(_))) = dropped else {
        panic!("it was not dropped: {dropped:?}")
    };
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(one.active_peer_count().await, 1);
    // Nothing that it did not ask for stood before its pings' answers.
    assert_eq!(old.counts(ip_of(&one)).pings_failed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_until_a_legacy_dialler_reads() {
    let net = MemoryNet::new(5);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let mut scripted = ScriptedPeer::new(dial_in(&net, 2, &one).await);
    scripted.greet(&Handshake::new(Network::Testnet, "0.6.4", in_memory(2)), Network::Testnet).await.unwrap();
    let begun = tokio::time::Instant::now();
    scripted.send(r#""GetPeerList""#).await;
    // The answer to its own request comes at once, and nothing else does for its fifteen seconds.
    assert_eq!(scripted.receive().await.unwrap().variant, "PeerList");
    let asking = one.request(in_memory(2), NetworkMessage::GetBlockchainInfo, Duration::from_secs(60));
    let answering = async {
        let asked = scripted.receive().await.unwrap();
        assert_eq!(asked.variant, "GetBlockchainInfo");
        assert!(begun.elapsed() >= Duration::from_secs(15), "asked after {:?}", begun.elapsed());
        scripted.send(r#"{"BlockchainInfo":{"height":5,"best_block_hash":"ab"}}"#).await;
    };
    let (answer, ()) = tokio::join!(asking, answering);
    assert!(matches!(answer.unwrap(), NetworkMessage::BlockchainInfo { height: Some(5), .. }));
    // From now on at once.
    let before = tokio::time::Instant::now();
    let asking = one.request(in_memory(2), NetworkMessage::GetBlockchainInfo, Duration::from_secs(60));
    let answering = async {
        scripted.receive().await.unwrap();
        scripted.send(r#"{"BlockchainInfo":{"height":null,"best_block_hash":""}}"#).await;
    };
    tokio::join!(asking, answering).0.unwrap();
    assert!(before.elapsed() < Duration::from_secs(1));
}

/// A scripted for each connection to this address in memory, once its handshake is done.
async fn hands(net: &MemoryNet, at: SocketAddr) -> tokio::sync::mpsc::UnboundedReceiver<ScriptedPeer> {
    use peerpool::transport::Transport;
    let mut listener = net.host(at.ip()).listen(at).await.unwrap();
    let (send, hands) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut scripted = ScriptedPeer::new(stream);
            let ours = Handshake::new(Network::Testnet, "0.6.4", at);
            if scripted.welcome(&ours, Network::Testnet).await.is_ok() && send.send(scripted).is_err() {
                return;
            }
        }
    });
    hands
}

#[tokio::test(start_paused = true)]
async fn a_retry_uses_the_dialled_port() {
    let net = MemoryNet::new(14);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let at = SocketAddr::new(in_memory(2).ip(), 30_000);
    let mut hands = hands(&net, at).await;
    one.connect_to_peer(PeerInfo::new(at, TESTNET)).await.unwrap();
    // It never says a word.
    let _silent = hands.recv().await.unwrap();
    let ask = || one.request(at.ip(), NetworkMessage::GetBlockchainInfo, Duration::from_secs(5));
    let timed_out = ask().await;
    assert!(matches!(timed_out, Err(PeerRequestError::Request(RequestError::Timeout))), "{timed_out:?}");
    let answering = async {
        let mut scripted = hands.recv().await.unwrap();
        assert_eq!(scripted.receive().await.unwrap().variant, "GetBlockchainInfo");
        scripted.send(r#"{"BlockchainInfo":{"height":7,"best_block_hash":"ab"}}"#).await;
        scripted
    };
    let asking = async { tokio::time::timeout(WAIT, answering).await.is_ok() };
    let (answered, was_dialled) = tokio::join!(ask(), asking);
    assert!(was_dialled, "{answered:?}");
    assert_eq!(answered.unwrap().kind(), Kind::BlockchainInfo);
}

#[tokio::test(start_paused = true)]
async fn unrelated_frames_do_not_displace_a_one_shot_reply() {
    let net = MemoryNet::new(13);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let mut hands = hands(&net, in_memory(2)).await;
    let answering = async {
        let mut scripted = hands.recv().await.unwrap();
        assert_eq!(scripted.receive().await.unwrap().variant, "GetBlockchainInfo");
        // A legacy node pools every dialler and sends it its announcements.
        for height in 0..65 {
            scripted.send(&format!(r#"{{"UpdateTip":{{"height":{height},"hash":"ab"}}}}"#)).await;
        }
        scripted.send(r#"{"BlockchainInfo":{"height":7,"best_block_hash":"ab"}}"#).await;
        scripted
    };
    let (height, _hand) = tokio::join!(one.request_blockchain_info(in_memory(2)), answering);
    assert_eq!(height.unwrap(), Some(7));
}

#[tokio::test(start_paused = true)]
async fn a_legacy_node_that_dials_for_one_request_gets_its_reply_first() {
    let net = MemoryNet::new(9);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    one.broadcast_tip_update(7, "ab".into()).await.unwrap();
    let mut scripted = ScriptedPeer::new(dial_in(&net, 2, &one).await);
    scripted.greet(&Handshake::new(Network::Testnet, "0.6.4", in_memory(2)), Network::Testnet).await.unwrap();
    // Long enough for whatever the node would say by itself.
    tokio::time::sleep(Duration::from_secs(5)).await;
    scripted.send(r#""GetBlockchainInfo""#).await;
    assert_eq!(scripted.receive().await.unwrap().variant, "BlockchainInfo");
    // It hears of what is new.
    one.broadcast_tip_update(8, "cd".into()).await.unwrap();
    assert_eq!(scripted.receive().await.unwrap().variant, "UpdateTip");
    // And of no refusal: the reply to the next request is the next frame.
    scripted.send(r#"{"GetBlocks":{"start_height":5,"end_height":1}}"#).await;
    scripted.send(r#""GetPeerList""#).await;
    assert_eq!(scripted.receive().await.unwrap().variant, "PeerList");
}

#[tokio::test(start_paused = true)]
async fn a_quarantine_during_a_handshake_ends_the_connection() {
    let net = MemoryNet::new(10);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let greeting = Handshake::new(Network::Testnet, "0.6.4", in_memory(2));
    let mut first = ScriptedPeer::new(dial_in(&net, 2, &one).await);
    first.greet(&greeting, Network::Testnet).await.unwrap();
    until("the first is live", || one.connections().len() == 1).await;
    // Silent for long enough to be pinged, which it does not answer.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut second = ScriptedPeer::new(dial_in(&net, 2, &one).await);
    let greeted = second.greet(&greeting, Network::Testnet);
    let kept_out = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(one.connections().len(), 1);
        let reason =
            QuarantineReason::ForkDetected { height: 1, our_hash: "a".into(), their_hash: "b".into() };
        one.quarantine_peer(in_memory(2).ip(), reason).await;
    };
    let (greeted, ()) = tokio::join!(greeted, kept_out);
    assert!(greeted.is_ok(), "it was in its handshake, and became a peer: {greeted:?}");
    until("it is let go", || one.connections().is_empty()).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(one.connections().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_shorter_than_the_read_pause_fails_at_once_without_penalty() {
    let net = MemoryNet::new(6);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let old = old(2).await;
    let stream = dial_in(&net, 2, &one).await;
    old.connect_over(stream, one.listen_addr()).await.unwrap();
    until("its first question came", || one.connection(in_memory(2).ip()).is_some()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = tokio::time::Instant::now();
    let mute = one.request(in_memory(2), NetworkMessage::GetMempool, Duration::from_secs(10)).await;
    let Err(PeerRequestError::ReadPaused { left }) = mute else { panic!("it was asked: {mute:?}") };
    assert!(left > Duration::from_secs(10) && begun.elapsed() < Duration::from_secs(1));
    assert_eq!(one.connection(in_memory(2).ip()).unwrap().health_score(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_legacy_dialler_stays_connected_for_an_hour() {
    let net = MemoryNet::new(7);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let old = old(2).await;
    old.connect_over(dial_in(&net, 2, &one).await, one.listen_addr()).await.unwrap();
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(3600) {
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(one.get_peer_ips().await, ["10.0.0.2"]);
    }
    let counts = old.counts(ip_of(&one));
    assert!(counts.pings_ok > 100 && counts.pings_failed == 0, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_legacy_acceptor_is_asked_over_its_connection() {
    let net = MemoryNet::new(8);
    let old = full(&net, 2, 12).await;
    let one = manager_in(&net, 1, config(), chain("a")).await;
    one.connect_to_peer(PeerInfo::new(in_memory(2), TESTNET)).await.unwrap();
    assert_eq!(one.request_blockchain_info(in_memory(2)).await.unwrap(), Some(12));
    assert!(!one.request_peer_list("10.0.0.2").await.unwrap().is_empty());
    one.broadcast_tip_update(13, "cd".into()).await.unwrap();
    let at = ip_of(&one);
    old.record().until(WAIT, |record| record.got(at).iter().any(|(got, _)| got.variant == "UpdateTip")).await;
    assert_eq!(old.counts(at).unreadable, 0);
    assert!(one.send_ping(in_memory(2).ip()).await.is_ok());
}

#[tokio::test]
async fn a_legacy_node_dials_and_is_dialled_over_real_sockets() {
    let mut setup = ConnectionSetup::full(77, Timing::faster(10));
    setup.height = Some(3);
    let accepting = LegacyNode::start(setup).await;
    let one = manager(chain("a")).await;
    one.connect_to_peer(PeerInfo::new(accepting.addr(), TESTNET)).await.unwrap();
    assert_eq!(one.request_blockchain_info(accepting.addr()).await.unwrap(), Some(3));

    let dialling = LegacyNode::start(ConnectionSetup::new(78, Timing::faster(10))).await;
    let mut quick = config();
    quick.legacy_read_pause = Timing::faster(10).mute;
    let two = manager_with(quick, chain("b")).await;
    dialling.connect_to_peer(two.listen_addr()).await.unwrap();
    until("it is known where it listens", || {
        two.connections().first().is_some_and(|peer| peer.info().address == dialling.addr())
    })
    .await;
    let at = ip_of(&two);
    dialling.record().until(WAIT, |record| record.counts(at).pings_ok > 0).await;
    // It reads a frame when it expects a pong, and not before.
    two.broadcast_transaction(payment(1)).await.unwrap();
    dialling.record().until(WAIT, |record| record.counts(at).lost == 1).await;
    assert_eq!((dialling.counts(at).unreadable, two.active_peer_count().await), (0, 1));
}

#[tokio::test]
async fn unknown_and_unrequested_frames_reach_on_message() {
    let heard_by_one = chain("a");
    let one = manager(Arc::clone(&heard_by_one) as _).await;
    let stream = tokio::net::TcpStream::connect(one.listen_addr()).await.unwrap();
    let mut scripted = ScriptedPeer::new(stream);
    let from = address();
    scripted.greet(&Handshake::new(Network::Testnet, "0.6.4", from), Network::Testnet).await.unwrap();
    for json in [r#"{"Nope":{"a":1}}"#, "", r#"{"BlockchainHeight":7}"#, r#"{"BlockchainHeight":"7"}"#] {
        scripted.send(json).await;
    }
    until("all reach the hook", || heard_by_one.heard.lock().unwrap().len() == 4).await;
    let heard = heard_by_one.heard.lock().unwrap().clone();
    assert_eq!(
        heard,
        [
            Incoming::Unreadable(r#"{"Nope":{"a":1}}"#.into()),
            Incoming::Unreadable("".into()),
            Incoming::Message(NetworkMessage::BlockchainHeight(7)),
            Incoming::Unreadable(r#"{"BlockchainHeight":"7"}"#.into()),
        ]
    );
    // Only what is ours and wrong costs health.
    assert_eq!(one.connection(from.ip()).unwrap().health_score(), 60);
    scripted.send(r#""GetBlockchainInfo""#).await;
    assert_eq!(scripted.receive().await.unwrap().variant, "BlockchainInfo");
}
