//! The played legacy node behaves as the legacy node was measured to.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/legacy_node.rs"]
mod legacy_node;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use legacy_node::{ConnectionSetup, Timing, What, sample};
use legacy_node::{
    FrameFate, Handshake, LegacyNode, MAX_MESSAGE, Message, Network, NodeKind, SAMPLES, ScriptedPeer,
};
use tokio::io::{DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

const PING: &str = r#""Ping""#;
const TIP: &str = r#"{"UpdateTip":{"height":42,"hash":"cd"}}"#;
/// Bounds every wait on the wall's clock.
const WAIT: Duration = Duration::from_secs(30);
/// 300 ms of the 15 s, 600 ms between two pings.
const FASTER: u32 = 50;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ip(host: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, host])
}

fn at(host: u8) -> SocketAddr {
    SocketAddr::new(ip(host), 24_100)
}

fn handshake(host: u8) -> Handshake {
    Handshake::new(Network::Testnet, "0.6.4-ec2a412", at(host))
}

fn pipe() -> (DuplexStream, DuplexStream) {
    duplex(256 * 1024)
}

/// A node that does not listen, on its real durations, for paused time.
async fn paused(host: u8, kind: NodeKind) -> LegacyNode {
    let setup = ConnectionSetup { kind, ..ConnectionSetup::new(host, Timing::real()) };
    LegacyNode::start(setup.only_dials(at(host))).await
}

/// `node` has dialled us; we are 127.0.0.`host`.
async fn dialled_by(node: &LegacyNode, host: u8) -> ScriptedPeer {
    let (ours, theirs) = pipe();
    let mut scripted = ScriptedPeer::new(ours);
    let ours = handshake(host);
    let (connected, greeted) =
        tokio::join!(node.connect_over(theirs, at(host)), scripted.welcome(&ours, Network::Testnet));
    connected.unwrap();
    greeted.unwrap();
    scripted
}

/// We have dialled `node`; we are 127.0.0.`host`, and so the socket says.
async fn dial(node: &LegacyNode, host: u8) -> ScriptedPeer {
    let (ours, theirs) = pipe();
    let mut scripted = ScriptedPeer::new(ours);
    let ours = handshake(host);
    let from = SocketAddr::new(ip(host), 50_000);
    let (accepted, greeted) =
        tokio::join!(node.accept_over(theirs, from), scripted.greet(&ours, Network::Testnet));
    accepted.unwrap();
    greeted.unwrap();
    scripted
}

#[test]
fn the_handshake_has_the_captured_bytes() {
    let mut ours = handshake(3);
    ours.timestamp = 1_795_348_544;
    let bytes = ours.bytes();
    assert_eq!(bytes.len(), 274);
    assert_eq!(bytes[..8], [0x54, 0x49, 0x4d, 0x45, 0, 0, 1, 0x0a]);
    let json = concat!(
        r#"{"version":"0.6.4-ec2a412","commit_date":"2026-04-11T15:10:01-07:00","commit_count":"2059","#,
        r#""protocol_version":1,"network":"Testnet","listen_addr":"127.0.0.3:24100","timestamp":1795348544,"#,
        r#""capabilities":["masternode","sync"],"wallet_address":null,"genesis_hash":null}"#
    );
    assert_eq!(std::str::from_utf8(&bytes[8..]), Ok(json));
}

#[test]
fn messages_are_accepted_as_by_the_measured_node() {
    assert_eq!(SAMPLES.lines().count(), 71);
    for line in SAMPLES.lines() {
        assert_eq!(Message::parse(line.as_bytes()).map(|message| message.text).as_deref(), Ok(line));
    }
    let good = [
        r#"{"Ping":null}"#,
        " \n \"Ping\" \n",
        r#"{"UpdateTip":{"height":1,"hash":"a","zzz":[1,2]}}"#,
        r#"{"BlockchainInfo":{"best_block_hash":"a"}}"#,
        r#"{"BlockResponse":{}}"#,
        r#"{"UtxoCommit":{"txid":"a","status":"b","ack_count":1,"total_weight":2,"timestamp":1}}"#,
        r#"{"UpdateTip":[1,"a"]}"#,
        r#"{"BlockchainHeight":18446744073709551615}"#,
    ];
    for json in good {
        assert!(Message::parse(json.as_bytes()).is_ok(), "{json}");
    }
    let bad = [
        "",
        r#"{"Ping":{}}"#,
        r#""Ping" x"#,
        r#""Nope""#,
        r#""ping""#,
        r#"{"BlockchainHeight":1,"Ping":null}"#,
        r#"{"UpdateTip":{"height":1}}"#,
        r#"{"UpdateTip":[1]}"#,
        r#""UpdateTip""#,
        r#"{"BlockchainHeight":1.0}"#,
        r#"{"BlockchainHeight":"1"}"#,
        r#"{"BlockProposal":[256]}"#,
        r#"{"BlockProposal":"AQI="}"#,
        r#"{"Notification":{"message":"Ping"}}"#,
    ];
    for json in bad {
        assert!(Message::parse(json.as_bytes()).is_err(), "{json}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_send_after_a_dial_waits_for_the_read_pause() {
    let node = paused(3, NodeKind::Layer).await;
    let mut scripted = dialled_by(&node, 2).await;
    assert_eq!(scripted.receive().await.unwrap().variant, "GetPeerList");
    sleep(Duration::from_millis(200)).await;
    let since = Instant::now();
    node.send_to_peer_tcp(ip(2), TIP).await.unwrap();
    let waited = since.elapsed().as_millis();
    assert!((14_795..=14_805).contains(&waited), "{waited} ms");
    assert_eq!(scripted.receive().await.unwrap().variant, "UpdateTip");
}

#[tokio::test(start_paused = true)]
async fn during_the_read_pause_it_answers_pings_and_discards_the_rest() {
    let node = paused(3, NodeKind::Layer).await;
    let mut scripted = dialled_by(&node, 2).await;
    assert_eq!(scripted.receive().await.unwrap().variant, "GetPeerList");
    scripted.send(sample("PeerList")).await;
    scripted.send(PING).await;
    scripted.send(TIP).await;
    assert_eq!(scripted.receive_within(seconds(1)).await.as_deref(), Some(r#""Pong""#));
    sleep(seconds(16)).await;
    let got: Vec<_> =
        node.record().got(ip(2)).into_iter().map(|(message, fate)| (message.variant, fate)).collect();
    let expected = [
        ("PeerList", FrameFate::Discarded),
        ("Ping", FrameFate::Answered),
        ("UpdateTip", FrameFate::Discarded),
    ];
    assert_eq!(got, expected.map(|(variant, fate)| (variant.to_owned(), fate)));
    let mute = node.record().of(ip(2)).into_iter().find(|what| matches!(what, What::Unanswered(_)));
    assert!(mute.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_unrequested_frame_fails_one_ping() {
    let node = paused(3, NodeKind::Layer).await;
    let mut scripted = dialled_by(&node, 2).await;
    scripted.answer_pings(seconds(20)).await;
    scripted.send(TIP).await;
    scripted.send(TIP).await;
    // Pings at 30, 60, 90, 120 s: two take a tip for their answer, the later ones the Pongs of the
    // first two.
    scripted.answer_pings(seconds(105)).await;
    let counts = node.counts(ip(2));
    assert_eq!((counts.pings_sent, counts.pings_failed, counts.pings_ok, counts.lost), (4, 2, 2, 2));
    assert_eq!(counts.got, ["UpdateTip", "UpdateTip", "Pong", "Pong"]);
    let error = What::PingFailed("Protocol error: expected Pong, got UpdateTip".to_owned());
    assert_eq!(node.record().of(ip(2)).into_iter().filter(|what| *what == error).count(), 2);
}

/// So many tips each 30 s, ten times: until 316 s after the dial.
async fn tips(scripted: &mut ScriptedPeer, each: usize) {
    scripted.answer_pings(seconds(16)).await;
    for _ in 0..10 {
        for _ in 0..each {
            scripted.send(TIP).await;
        }
        scripted.answer_pings(seconds(30)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_every_30_s_fails_every_other_ping_and_a_dozen_reap_the_peer() {
    let node = paused(3, NodeKind::Layer).await;
    let mut scripted = dialled_by(&node, 2).await;
    tips(&mut scripted, 1).await;
    // A tip is lost, then the Pong that its ping left behind is taken, and so on: it is seen every
    // minute.
    let counts = node.counts(ip(2));
    assert_eq!((counts.pings_ok, counts.pings_failed), (5, 5));
    assert_eq!(node.peers().await.len(), 1);

    let node = paused(3, NodeKind::Layer).await;
    let mut scripted = dialled_by(&node, 2).await;
    tips(&mut scripted, 12).await;
    assert_eq!(node.counts(ip(2)).pings_ok, 0);
    let reaped = node.record().when(|what| *what == What::Removed("stale")).unwrap();
    assert!(reaped > seconds(300) && reaped <= seconds(340), "{reaped:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_stays() {
    let node = paused(3, NodeKind::Layer).await;
    let mut scripted = dialled_by(&node, 2).await;
    assert_eq!(scripted.answer_pings(seconds(1000)).await, ["GetPeerList"]);
    let counts = node.counts(ip(2));
    assert_eq!((counts.pings_sent, counts.pings_ok, counts.lost), (33, 33, 0));
    assert_eq!(node.peers().await, [(ip(2), at(2))]);
}

#[tokio::test(start_paused = true)]
async fn only_some_replies_are_recognised() {
    let node = paused(3, NodeKind::Layer).await;
    let mut scripted = dialled_by(&node, 2).await;
    sleep(seconds(16)).await;
    assert_eq!(scripted.receive().await.unwrap().variant, "GetPeerList");
    let answer = async {
        assert_eq!(scripted.receive().await.unwrap().variant, "GetBlockchainInfo");
        scripted.send(TIP).await;
        scripted.send(sample("BlockchainInfo")).await;
    };
    let (reply, ()) = tokio::join!(node.request(ip(2), r#""GetBlockchainInfo""#, seconds(10)), answer);
    assert_eq!(reply.unwrap().variant, "BlockchainInfo");
    let answer = async {
        assert_eq!(scripted.receive().await.unwrap().variant, "MempoolQuery");
        scripted.send(sample("MempoolResponse")).await;
    };
    let (reply, ()) = tokio::join!(node.request(ip(2), r#""MempoolQuery""#, seconds(10)), answer);
    assert_eq!(reply, Err("Request timeout after 10s".to_owned()));
    assert_eq!(node.counts(ip(2)).discarded, 2);
    assert!(node.peers().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_broken_frame_leaves_the_layer_in_step_and_ends_the_full_node() {
    let layer = paused(3, NodeKind::Layer).await;
    let mut scripted = dialled_by(&layer, 2).await;
    scripted.answer_pings(seconds(20)).await;
    scripted.send(r#""Nope""#).await;
    scripted.answer_pings(seconds(50)).await;
    let counts = layer.counts(ip(2));
    assert_eq!((counts.pings_failed, counts.pings_ok, counts.unreadable), (1, 1, 1));

    let full = paused(4, NodeKind::Full).await;
    let mut scripted = dial(&full, 5).await;
    scripted.send(PING).await;
    assert_eq!(scripted.receive().await.unwrap().variant, "Pong");
    scripted.send(r#""Nope""#).await;
    scripted.send(PING).await;
    assert_eq!(scripted.rest().await, b"");
    full.record()
        .until(WAIT, |record| record.when(|what| matches!(what, What::LoopEnded(_))).is_some())
        .await;
    assert_eq!(full.counts(ip(5)).got, ["Ping"]);
    assert!(full.peers().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_node_answers_as_measured() {
    let node = paused(4, NodeKind::Full).await;
    let mut scripted = dial(&node, 5).await;
    let answered = [
        (PING, "Pong"),
        (r#""GetPeerList""#, "PeerList"),
        (r#""GetBlockchainInfo""#, "BlockchainInfo"),
        (r#""GetMempool""#, "MempoolResponse"),
        (r#""GetMasternodeList""#, "MasternodeList"),
        (sample("RequestWalletTransactions"), "WalletTransactionsResponse"),
        (sample("RequestFinalizedTransactions"), "FinalizedTransactionsResponse"),
        (sample("GetBlocks"), "Blocks"),
        (sample("ConsensusBlockVote"), "ConsensusVoteAck"),
        (sample("InstantFinalityRequest"), "TransactionApproved"),
    ];
    for (ask, reply) in answered {
        scripted.send(ask).await;
        let heard = scripted.receive().await.unwrap();
        assert_eq!(heard.variant, reply);
        if reply == "Blocks" {
            let numbers: Vec<_> =
                (0..10).map(|n| heard.body["blocks"][n]["header"]["block_number"].as_u64()).collect();
            assert_eq!(numbers, (1..=10).map(Some).collect::<Vec<_>>());
        }
    }
    for ask in ["GetGenesis", "HeightRequest", "BlockRequest", "ChainRequest", "MempoolQuery", "TimeRequest"]
    {
        scripted.send(sample(ask)).await;
    }
    assert_eq!(scripted.receive_within(seconds(5)).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_full_nodes_own_sends_wait_for_the_peer_to_speak() {
    let node = paused(4, NodeKind::Full).await;
    let mut scripted = dial(&node, 5).await;
    sleep(seconds(1)).await;
    let since = Instant::now();
    let speak = async {
        sleep(seconds(20)).await;
        scripted.send(TIP).await;
    };
    let (sent, ()) = tokio::join!(node.send_to_peer_tcp(ip(5), TIP), speak);
    sent.unwrap();
    assert_eq!(since.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn one_address_has_one_connection_and_the_smaller_address_keeps_the_first() {
    let small = paused(2, NodeKind::Layer).await;
    let first = dial(&small, 3).await;
    let mut second = dial(&small, 3).await;
    assert_eq!(second.rest().await, b"");
    drop(first);

    let great = paused(9, NodeKind::Layer).await;
    let mut first = dial(&great, 3).await;
    let _second = dial(&great, 3).await;
    assert_eq!(first.rest().await, b"");
    assert!(great.record().of(ip(3)).contains(&What::Replaced));
    assert_eq!(great.peers().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_peer_is_announced_once() {
    let node = paused(9, NodeKind::Layer).await;
    let mut first = dial(&node, 3).await;
    let _second = dial(&node, 4).await;
    let told = first.receive().await.unwrap();
    assert_eq!(told.text, r#"{"PeerList":[{"ip":"127.0.0.4","port":24100,"version":"0.6.4-ec2a412"}]}"#);
    node.remove_connected_peer(ip(4)).await;
    let _again = dial(&node, 4).await;
    assert_eq!(first.receive_within(seconds(20)).await, None);
}

#[tokio::test]
async fn a_legacy_dialler_and_acceptor_show_the_measured_stall() {
    let acceptor = LegacyNode::start(ConnectionSetup::full(2, Timing::faster(FASTER))).await;
    let dialler =
        LegacyNode::start(ConnectionSetup::new(3, Timing::faster(FASTER)).dials_from_itself()).await;
    dialler.connect_to_peer(acceptor.addr()).await.unwrap();
    // Nothing to do the second time, nor for its own address.
    dialler.connect_to_peer(acceptor.addr()).await.unwrap();
    dialler.connect_to_peer(dialler.addr()).await.unwrap();
    let record = dialler.record();
    record.until(WAIT, |record| record.when(|what| matches!(what, What::Asked(_))).is_some()).await;
    dialler.send_to_peer_tcp(ip(2), TIP).await.unwrap();
    let asked = record.when(|what| matches!(what, What::Asked(_))).unwrap();
    let sent = record.when(|what| *what == What::Sent("UpdateTip".to_owned())).unwrap();
    assert!(sent - asked >= Timing::faster(FASTER).mute, "{asked:?} {sent:?}");
    // The acceptor answered what the dialler threw away, under the address that the dialler bound.
    acceptor.record().until(WAIT, |record| record.counts(ip(3)).got.len() >= 2).await;
    assert_eq!(acceptor.counts(ip(3)).got[..2], ["GetPeerList", "UpdateTip"]);
    assert_eq!(acceptor.counts(ip(3)).sent[0], "PeerList");
    assert_eq!(dialler.counts(ip(2)).discarded, 1);
    assert_eq!(acceptor.peers().await, [(ip(3), at(3))]);
    dialler.record().until(WAIT, |record| record.counts(ip(2)).pings_ok > 0).await;
    dialler.stop().await;
    acceptor
        .record()
        .until(WAIT, |record| record.when(|what| matches!(what, What::LoopEnded(_))).is_some())
        .await;
    acceptor.stop().await;
}

#[tokio::test]
async fn a_dialler_that_binds_nothing_is_seen_as_127_0_0_1() {
    let full = LegacyNode::start(ConnectionSetup::full(2, Timing::faster(FASTER))).await;
    let layer = LegacyNode::start(ConnectionSetup::new(4, Timing::faster(FASTER))).await;
    let dialler = LegacyNode::start(ConnectionSetup::new(3, Timing::faster(FASTER))).await;
    dialler.connect_to_peer(full.addr()).await.unwrap();
    dialler.connect_to_peer(layer.addr()).await.unwrap();
    let pooled = |what: &What| *what == What::Pooled;
    full.record().until(WAIT, |record| record.when(pooled).is_some()).await;
    layer.record().until(WAIT, |record| record.when(pooled).is_some()).await;
    // The full node goes by the socket, the layer by what the handshake says.
    assert_eq!(full.peers().await, [(ip(1), at(1))]);
    assert_eq!(layer.peers().await, [(ip(3), dialler.addr())]);
}

#[tokio::test]
async fn a_silent_client_keeps_the_next_one_waiting() {
    let node = LegacyNode::start(ConnectionSetup::new(2, Timing::faster(FASTER))).await;
    let silent = TcpStream::connect(node.addr()).await.unwrap();
    let mut second = ScriptedPeer::new(TcpStream::connect(node.addr()).await.unwrap());
    second.raw(&handshake(3).bytes()).await;
    let early = tokio::time::timeout(Duration::from_millis(400), second.greeting(Network::Testnet)).await;
    assert!(early.is_err(), "{early:?}");
    drop(silent);
    assert_eq!(second.greeting(Network::Testnet).await.unwrap().listen_addr, node.addr());
}

#[tokio::test]
async fn a_refusal_is_a_closed_socket_without_a_message() {
    let node = LegacyNode::start(ConnectionSetup::new(2, Timing::faster(FASTER))).await;
    let wrong = |change: &dyn Fn(&mut Handshake)| {
        let mut ours = handshake(3);
        change(&mut ours);
        ours.bytes()
    };
    let frame = |length: u32, json: &[u8]| [b"TIME", &length.to_be_bytes()[..], json].concat();
    let refused = [
        wrong(&|ours| ours.magic = Network::Mainnet.magic()),
        wrong(&|ours| ours.magic = [0x7e, 0x57, 0x7e, 0x4d]),
        handshake(3).bytes()[4..].to_vec(),
        wrong(&|ours| ours.network = "Mainnet".to_owned()),
        wrong(&|ours| ours.network = "testnet".to_owned()),
        wrong(&|ours| ours.protocol_version = 2),
        frame(1_048_577, b""),
        frame(0, b""),
        frame(5, b"hello"),
    ];
    for bytes in &refused {
        let mut scripted = ScriptedPeer::new(TcpStream::connect(node.addr()).await.unwrap());
        scripted.raw(bytes).await;
        assert_eq!(scripted.rest().await, b"", "{bytes:?}");
    }
    let record = node.record();
    let count = || record.of(ip(1)).iter().filter(|what| matches!(what, What::Refused(_))).count();
    assert_eq!(count(), refused.len());
    // Exactly 1 MiB is accepted.
    let json = handshake(3).json();
    let padded = [json.as_bytes(), &vec![b' '; 1_048_576 - json.len()]].concat();
    let mut scripted = ScriptedPeer::new(TcpStream::connect(node.addr()).await.unwrap());
    scripted.raw(&frame(1_048_576, &padded)).await;
    scripted.greeting(Network::Testnet).await.unwrap();
}

#[tokio::test]
async fn a_dialler_closes_a_mismatching_connection() {
    let mainnet =
        ConnectionSetup { network: Network::Mainnet, ..ConnectionSetup::new(2, Timing::faster(FASTER)) };
    let mainnet = LegacyNode::start(mainnet).await;
    let dialler = LegacyNode::start(ConnectionSetup::new(3, Timing::faster(FASTER))).await;
    let error = dialler.connect_to_peer(mainnet.addr()).await.unwrap_err();
    assert!(error.contains("Failed to read magic") || error.contains("reset"), "{error}");
    assert!(dialler.peers().await.is_empty());

    let (ours, theirs) = pipe();
    let mut scripted = ScriptedPeer::new(ours);
    let genesis = |byte: &str| Some(byte.repeat(32));
    let setup = ConnectionSetup {
        genesis: genesis("ab"),
        ..ConnectionSetup::new(4, Timing::real()).only_dials(at(4))
    };
    let dialler = LegacyNode::start(setup).await;
    let ours = Handshake { genesis_hash: genesis("cd"), ..handshake(2) };
    let (connected, greeted) =
        tokio::join!(dialler.connect_over(theirs, at(2)), scripted.welcome(&ours, Network::Testnet));
    assert_eq!(greeted.unwrap().genesis_hash, genesis("ab"));
    let error = "Genesis block mismatch: expected abababababababab..., got cdcdcdcdcdcdcdcd...";
    assert_eq!(connected.unwrap_err(), error);
    assert_eq!(scripted.rest().await, b"");
}

#[tokio::test]
async fn a_message_over_the_cap_ends_a_full_nodes_loop_and_one_at_the_cap_is_read() {
    let node = LegacyNode::start(ConnectionSetup::full(2, Timing::real())).await;
    let mut scripted = ScriptedPeer::new(TcpStream::connect(node.addr()).await.unwrap());
    scripted.greet(&handshake(3), Network::Testnet).await.unwrap();
    let mut padded = PING.as_bytes().to_vec();
    padded.resize(MAX_MESSAGE as usize, b' ');
    scripted.raw(&MAX_MESSAGE.to_be_bytes()).await;
    scripted.raw(&padded).await;
    assert_eq!(scripted.receive().await.unwrap().variant, "Pong");
    scripted.raw(&(MAX_MESSAGE + 1).to_be_bytes()).await;
    assert_eq!(scripted.rest().await, b"");
}

#[tokio::test]
async fn a_dead_connection_is_redialled_once_at_the_standard_port() {
    let acceptor = LegacyNode::start(ConnectionSetup::full(2, Timing::faster(FASTER))).await;
    let mut setup = ConnectionSetup::new(3, Timing::faster(FASTER));
    setup.standard_port = acceptor.addr().port();
    let dialler = LegacyNode::start(setup).await;
    dialler.connect_to_peer(acceptor.addr()).await.unwrap();
    dialler.remove_dead_connection(ip(2)).await;
    assert!(dialler.peers().await.is_empty());
    let dialled =
        |record: &legacy_node::Record| record.of(ip(2)).iter().filter(|what| **what == What::Dialled).count();
    dialler.record().until(WAIT, |record| dialled(record) == 2).await;
}
