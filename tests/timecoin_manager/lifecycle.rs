//! What goes on by itself, where first addresses come from, wallets, and the end.

use super::*;
use std::error::Error;

use peerpool::address_book::{AddressBook, AddressBookConfig};
use peerpool::timecoin::wire::UtxoInfo;
use peerpool::timecoin::{
    ConnectionError, ManagerStartError, PeerListener, ReaperConfig, ReconnectConfig, SeedError, SeedProvider,
    SubscribeRefused, Subscribed,
};
use peerpool::transport::BoxFuture;

#[tokio::test]
async fn shutdown_ends_every_task() {
    let (one, other, _chain) = pair().await;
    one.spawn_reaper();
    one.spawn_reconnection_task();
    one.spawn_reconnection_task();
    let left = one.shutdown(Duration::from_secs(5)).await;
    assert!(left.is_clean(), "{left:?}");
    until("the other end notices", || other.connections().is_empty()).await;
    assert!(one.connect_to_peer(info_of(&other)).await.is_err());
}

#[tokio::test]
async fn dropping_the_last_manager_ends_everything() {
    let (one, other, chain_of_other) = pair().await;
    let weak = one.node().downgrade();
    let clone = one.clone();
    drop(one);
    assert!(weak.upgrade().is_some());
    drop(clone);
    until("the other end notices", || other.connections().is_empty()).await;
    until("nothing is left of it", || weak.upgrade().is_none()).await;
    drop(other);
    until("its chain is given back", || Arc::strong_count(&chain_of_other) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn pending_dials_do_not_keep_a_manager_alive() {
    let net = MemoryNet::new(21);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let dead: Vec<_> = (0..200u8).map(|last| std::net::IpAddr::from([10, 9, 9, last])).collect();
    dead.iter().for_each(|ip| net.set_black_hole(*ip, true));
    let infos = dead.iter().map(|ip| PeerInfo::new((*ip, 24_100).into(), NetworkType::Testnet)).collect();
    let begun = tokio::time::Instant::now();
    one.connect_to_peers(infos).await;
    assert!(begun.elapsed() < Duration::from_secs(11), "a batch is waited for 10 s");
    let weak = one.node().downgrade();
    drop(one);
    // All of them would have taken 100 s, ten at a time for 5 s each.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(weak.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_reaped_after_300_seconds() {
    let net = MemoryNet::new(1);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let other = manager_in(&net, 2, config(), chain("b")).await;
    connect(&one, &other).await;
    net.partition(&[ip_of(&one)], &[ip_of(&other)]);
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(one.active_peer_count().await, 1);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(one.active_peer_count().await, 0);
}

#[tokio::test(start_paused = true)]
async fn reaper_times_apply_to_live_connections() {
    let net = MemoryNet::new(2);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let other = manager_in(&net, 2, config(), chain("b")).await;
    connect(&one, &other).await;
    one.spawn_reaper_with(ReaperConfig {
        stale_after: Duration::from_secs(20),
        ping_every: Duration::from_secs(5),
    });
    net.partition(&[ip_of(&one)], &[ip_of(&other)]);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(one.active_peer_count().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_is_never_reaped() {
    let net = MemoryNet::new(9);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let other = manager_in(&net, 2, config(), chain("b")).await;
    connect(&one, &other).await;
    let reaper = ReaperConfig { stale_after: Duration::from_secs(20), ping_every: Duration::from_secs(5) };
    one.spawn_reaper_with(reaper);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((one.active_peer_count().await, one.stats().reaped, one.stats().dials), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_redialled_once_after_30_seconds() {
    let net = MemoryNet::new(3);
    let one = manager_in(&net, 1, config(), chain("a")).await;
    let other = manager_in(&net, 2, config(), chain("b")).await;
    connect(&one, &other).await;
    assert!(one.remove_dead_connection(ip_of(&other)).await);
    assert!(!one.remove_dead_connection(ip_of(&other)).await);
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(one.active_peer_count().await, 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(one.active_peer_count().await, 1);
    let dials = one.stats().dials;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(one.stats().dials, dials);
    // Once also where it is not there any more.
    one.remove_dead_connection(ip_of(&other)).await;
    net.set_black_hole(ip_of(&other), true);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!((one.stats().dials, one.active_peer_count().await), (dials + 1, 0));
}

/// A manager in memory that speaks the native protocol too, and where it listens for it.
async fn bilingual(net: &MemoryNet, host: u8) -> (PeerManager, SocketAddr) {
    let addr = in_memory(host);
    let native = SocketAddr::new(addr.ip(), 7_000);
    let builder = PeerManager::builder(TESTNET, addr, addr).config(config()).chain(chain("both"));
    (builder.transport(net.host(addr.ip())).native(native).start().await.unwrap(), native)
}

#[tokio::test(start_paused = true)]
async fn a_native_peer_is_redialled_in_its_own_protocol() {
    let net = MemoryNet::new(27);
    let ((one, _), (other, native)) = (bilingual(&net, 1).await, bilingual(&net, 2).await);
    one.node().connect_in("native", native).await.unwrap();
    let protocols = || {
        let connections = one.connections();
        connections.iter().map(|connection| connection.peer().connection().protocol()).collect::<Vec<_>>()
    };
    assert!(one.remove_dead_connection(ip_of(&other)).await);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(protocols(), ["native"]);
    // Nor if the application dials a learnt address.
    let known = one.get_connected_peers().await;
    one.remove_connected_peer(&ip_of(&other)).await;
    until("it is gone", || other.connections().is_empty()).await;
    one.connect_to_peer(known[0].clone()).await.unwrap();
    assert_eq!((protocols(), known[0].address), (vec!["native"], native));
    // An address of unknown protocol is dialled in this network's.
    let third = manager_in(&net, 3, config(), chain("c")).await;
    one.connect_to_peer(info_of(&third)).await.unwrap();
}

#[tokio::test]
async fn concurrent_setting_changes_all_apply() {
    let one = manager(chain("a")).await;
    let turns = std::sync::Barrier::new(2);
    for round in 1..500 {
        let (wanted, every) = (round, Duration::from_secs(round as u64));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                turns.wait();
                one.keep_alive(every);
            });
            turns.wait();
            one.spawn_reconnection_task_with(ReconnectConfig { target_peers: wanted, ..config().reconnect });
        });
        let runtime = one.node().runtime_config();
        assert_eq!((runtime.target_outbound, runtime.ping_interval), (wanted, every));
    }
}

#[tokio::test(start_paused = true)]
async fn a_discovery_disabled_for_ever_can_be_restarted() {
    let net = MemoryNet::new(29);
    let seed = manager_in(&net, 1, config(), chain("seed")).await;
    let mut never = config();
    never.reconnect = ReconnectConfig {
        initial_delay: Duration::MAX,
        interval: Duration::MAX,
        ..ReconnectConfig::default()
    };
    never.seeds.addresses = vec![seed.listen_addr()];
    let one = manager_in(&net, 2, never, chain("one")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(one.active_peer_count().await, 0);
    one.spawn_reconnection_task();
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(one.active_peer_count().await, 1);
}

struct Listed(Vec<SocketAddr>);

impl SeedProvider for Listed {
    fn seeds(&self, _: NetworkType) -> BoxFuture<'_, Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

struct Failing;

impl SeedProvider for Failing {
    fn seeds(&self, _: NetworkType) -> BoxFuture<'_, Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>>> {
        Box::pin(async { Err("out of order".into()) })
    }
}

#[tokio::test(start_paused = true)]
async fn seeds_are_used_while_peers_are_few() {
    let net = MemoryNet::new(4);
    let seed = manager_in(&net, 1, config(), chain("seed")).await;
    let third = manager_in(&net, 3, config(), chain("third")).await;
    connect(&third, &seed).await;
    let mut looking = config();
    looking.reconnect = ReconnectConfig::default();
    looking.seeds.provider = Some(Arc::new(Listed(vec![seed.listen_addr()])));
    let one = manager_in(&net, 2, looking, chain("one")).await;
    assert_eq!(one.active_peer_count().await, 0);
    // First at 10 s; the seed tells of the third.
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(one.active_peer_count().await, 2);
    let best = one.get_best_peers(10).await;
    assert_eq!(best.len(), 2);
    assert!(best.iter().all(|record| record.latency_ms.is_none() || record.successful_connections > 0));
}

/// Panics at its first query.
struct Stumbling(AtomicU32, SocketAddr);

impl SeedProvider for Stumbling {
    fn seeds(&self, _: NetworkType) -> BoxFuture<'_, Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>>> {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "not the first time");
        Box::pin(async { Ok(vec![self.1]) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_seed_provider_is_queried_again() {
    let net = MemoryNet::new(28);
    let seed = manager_in(&net, 1, config(), chain("seed")).await;
    let mut looking = config();
    looking.reconnect = ReconnectConfig::default();
    looking.seeds.provider = Some(Arc::new(Stumbling(AtomicU32::new(0), seed.listen_addr())));
    let one = manager_in(&net, 2, looking, chain("one")).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(one.active_peer_count().await, 0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(one.active_peer_count().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_seed_is_dialled_at_its_configured_port() {
    let net = MemoryNet::new(24);
    let at = SocketAddr::from(([10, 0, 0, 1], 50_000));
    let builder = PeerManager::builder(TESTNET, at, at).config(config()).chain(chain("seed"));
    let seed = builder.transport(net.host(at.ip())).start().await.unwrap();
    let mut looking = config();
    looking.reconnect = ReconnectConfig::default();
    looking.seeds.addresses = vec![at];
    let one = manager_in(&net, 2, looking, chain("one")).await;
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!((one.active_peer_count().await, seed.active_peer_count().await), (1, 1));
    // Asked for once more, it is not taken for one that listens elsewhere.
    one.connect_to_seed_nodes().await.unwrap();
    assert!(one.node().book().get(&SocketAddr::new(at.ip(), TESTNET.port())).is_none());
    assert!(one.node().book().get(&at).is_some());
}

#[tokio::test(start_paused = true)]
async fn failed_dials_count_against_an_address_and_inbound_connections_do_not_count_for_it() {
    let net = MemoryNet::new(25);
    let mut looking = config();
    looking.reconnect = ReconnectConfig::default();
    let one = manager_in(&net, 1, looking, chain("a")).await;
    let dialler = manager_in(&net, 2, config(), chain("b")).await;
    connect(&dialler, &one).await;
    let dead = in_memory(9);
    net.set_black_hole(dead.ip(), true);
    one.add_discovered_peer(dead.ip(), dead.port(), "v".into()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let known = one.get_best_peers(10).await;
    let of = |ip: IpAddr| known.iter().find(|record| record.address == ip);
    assert!(of(dead.ip()).is_none(), "nothing that failed each time is among the best");
    let dialled_us = of(ip_of(&dialler)).unwrap();
    assert_eq!((dialled_us.successful_connections, dialled_us.failed_connections), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_longest_messages_can_be_broadcast() {
    let net = MemoryNet::new(26);
    let config = ManagerConfig { reconnect: config().reconnect, ..ManagerConfig::new(TESTNET) };
    let one = manager_in(&net, 1, config, chain("a")).await;
    let around = NetworkMessage::GenesisBlock(String::new()).to_bytes().unwrap().len();
    let longest = peerpool::timecoin::wire::TimeCoin::MAX_MESSAGE - around;
    one.broadcast(&NetworkMessage::GenesisBlock("x".repeat(longest))).unwrap();
    assert!(one.broadcast(&NetworkMessage::GenesisBlock("x".repeat(longest + 1))).is_err());
}

#[tokio::test]
async fn without_sources_there_are_no_seeds() {
    let mut alone = config();
    alone.seeds.provider = Some(Arc::new(Failing));
    let one = manager_with(alone, chain("a")).await;
    assert_eq!(one.connect_to_seed_nodes().await, Err(SeedError::NoneFound));
    let other = manager(chain("b")).await;
    let mut known = config();
    // Ourselves among them is no reason to fail.
    known.seeds.addresses = vec![other.listen_addr()];
    let two = manager_with(known, chain("c")).await;
    two.connect_to_seed_nodes().await.unwrap();
    assert_eq!(two.get_peer_ips().await, [ip_of(&other).to_string()]);
}

#[tokio::test]
async fn a_legacy_peers_json_is_imported_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.json");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let record = |ip: &str, latency: &str| {
        format!(
            r#""{ip}":{{"address":"{ip}","port":24100,"last_seen":{now},"latency_ms":{latency},"version":"0.6.4","successful_connections":3,"failed_connections":1}}"#
        )
    };
    std::fs::write(&path, format!("{{{},{}}}", record("192.0.2.1", "80"), record("192.0.2.2", "20")))
        .unwrap();
    let mut with_file = config();
    with_file.peers_json = Some(path);
    let book = Arc::new(AddressBook::in_memory(AddressBookConfig::default()));
    let addr = address();
    let one =
        PeerManager::builder(TESTNET, addr, addr).config(with_file).book(Arc::clone(&book)).build().unwrap();
    assert_eq!((one.known_peer_count().await, book.len()), (2, 2));
    let best: Vec<_> =
        one.get_best_peers(5).await.into_iter().map(|record| record.address.to_string()).collect();
    assert_eq!(best, ["192.0.2.2", "192.0.2.1"]);
    one.add_discovered_peer("192.0.2.3", 60_000, "v".into()).await.unwrap();
    assert!(one.add_discovered_peer("nobody", 1, "v".into()).await.is_err());
    assert!(book.get(&"192.0.2.3:24100".parse().unwrap()).is_some());
    assert!(one.record_peer_success("192.0.2.3").await);
    assert!(one.record_peer_failure("192.0.2.3").await);
    assert!(!one.record_peer_failure("192.0.2.9").await);
}

#[tokio::test]
async fn wallets_are_notified_at_their_addresses_of_their_transactions_only() {
    let (connected, elsewhere, stranger) = (chain("connected"), chain("elsewhere"), chain("stranger"));
    let one = manager(chain("one")).await;
    let pooled = manager(Arc::clone(&connected) as _).await;
    connect(&pooled, &one).await;
    let listening = manager(Arc::clone(&elsewhere) as _).await;
    let other_wallet = manager(Arc::clone(&stranger) as _).await;
    assert_eq!(one.subscribe_wallet("x", ip_of(&pooled)).await, Ok(Subscribed::New));
    assert_eq!(one.subscribe_wallet("x", ip_of(&pooled)).await, Ok(Subscribed::Known));
    one.subscribe_wallet("x", ip_of(&listening)).await.unwrap();
    one.subscribe_wallet("y", ip_of(&other_wallet)).await.unwrap();
    assert_eq!(one.subscribe_wallet("", ip_of(&pooled)).await, Err(SubscribeRefused::Empty));
    let notified = one.notify_wallet_transaction(wallet_transaction(), &["x".into()]).await;
    assert_eq!((notified.sent, notified.failed), (2, 0));
    for chain in [&connected, &elsewhere] {
        until("the wallet hears of it", || !heard(chain, Kind::NewTransactionNotification).is_empty()).await;
        assert_eq!(
            heard(chain, Kind::NewTransactionNotification),
            [NetworkMessage::NewTransactionNotification { transaction: wallet_transaction() }]
        );
    }
    assert!(heard(&stranger, Kind::NewTransactionNotification).is_empty());
    assert_eq!(one.unsubscribe_wallet(ip_of(&pooled)).await, 1);
    let notified = one.notify_wallet_transaction(wallet_transaction(), &["x".into()]).await;
    assert_eq!((notified.sent, notified.failed), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn unreachable_wallets_delay_nobody_and_expire() {
    let net = MemoryNet::new(22);
    let hour = Duration::from_secs(3600);
    let mut settings = ManagerConfig { max_one_shots: 4, ..config() };
    settings.wallets.expire_after = hour;
    let one = manager_in(&net, 1, settings, chain("a")).await;
    let listening = chain("b");
    let wallet = manager_in(&net, 2, config(), Arc::clone(&listening) as _).await;
    one.subscribe_wallet("x", ip_of(&wallet)).await.unwrap();
    let dead: Vec<_> = (0..20u8).map(|last| IpAddr::from([10, 9, 9, last])).collect();
    for ip in &dead {
        net.set_black_hole(*ip, true);
        one.subscribe_wallet("x", *ip).await.unwrap();
    }
    let notify = || one.notify_wallet_transaction(wallet_transaction(), &[]);
    let begun = tokio::time::Instant::now();
    let other_message = async {
        // All places of the wallets are taken by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        one.send_message_to_peer(wallet.listen_addr(), NetworkMessage::GetPeerList).await.unwrap();
        begun.elapsed()
    };
    let (notified, sent_after) = tokio::join!(notify(), other_message);
    assert!(sent_after < Duration::from_secs(2), "{sent_after:?}");
    assert_eq!((notified.sent, notified.failed), (1, 20));
    // Two at a time, five seconds each.
    assert!(begun.elapsed() >= Duration::from_secs(50), "{:?}", begun.elapsed());
    let again = tokio::time::Instant::now();
    let notified = notify().await;
    assert_eq!((notified.sent, notified.failed), (1, 20));
    assert!(
        again.elapsed() < Duration::from_secs(1),
        "those who rest are not dialled: {:?}",
        again.elapsed()
    );
    tokio::time::sleep(hour).await;
    assert_eq!(notify().await.failed, 20);
    let notified = notify().await;
    assert_eq!((notified.sent, notified.failed), (1, 0), "only who was reached is remembered");
    until("the wallet heard each", || heard(&listening, Kind::NewTransactionNotification).len() == 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_lack_of_one_shot_slots_is_not_a_wallets_failure() {
    let net = MemoryNet::new(23);
    let one = manager_in(&net, 1, ManagerConfig { max_one_shots: 1, ..config() }, chain("a")).await;
    let wallet = manager_in(&net, 2, config(), chain("b")).await;
    one.subscribe_wallet("x", ip_of(&wallet)).await.unwrap();
    let mut others = tokio::task::JoinSet::new();
    // Together they take the place for longer than anybody waits for it.
    for last in 0..10 {
        let dead = IpAddr::from([10, 9, 9, last]);
        net.set_black_hole(dead, true);
        let one = one.clone();
        let at = SocketAddr::new(dead, TESTNET.port());
        others.spawn(async move { one.send_message_to_peer(at, NetworkMessage::Ping).await.is_err() });
        // Not all of them give up waiting at once.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(one.notify_wallet_transaction(wallet_transaction(), &[]).await.failed, 1);
    assert_eq!(others.join_all().await, [true; 10]);
    assert_eq!(one.notify_wallet_transaction(wallet_transaction(), &[]).await.sent, 1);
}

#[tokio::test]
async fn registering_a_wallet_subscribes_it_and_sends_its_outputs() {
    let heard_by_one = chain("a");
    let chain_of_other = chain("b");
    let output = UtxoInfo {
        txid: "ab".into(),
        vout: 1,
        address: "xpub".into(),
        amount: 3,
        block_height: None,
        confirmations: 0,
    };
    chain_of_other.unspent.lock().unwrap().insert(OutPoint { txid: "ab".into(), vout: 1 }, output.clone());
    let (one, other) = (manager(Arc::clone(&heard_by_one) as _).await, manager(chain_of_other as _).await);
    connect(&one, &other).await;
    let register = |xpub: &str| NetworkMessage::RegisterXpub { xpub: xpub.into() };
    let answer = one.request(other.listen_addr(), register("xpub"), WAIT).await.unwrap();
    assert!(matches!(answer, NetworkMessage::XpubRegistered { success: true, .. }), "{answer:?}");
    until("what it can spend is told", || !heard(&heard_by_one, Kind::UtxoUpdate).is_empty()).await;
    let update = NetworkMessage::UtxoUpdate { xpub: "xpub".into(), utxos: vec![output] };
    assert_eq!(heard(&heard_by_one, Kind::UtxoUpdate), [update]);
    let answer = one.request(other.listen_addr(), register(&"x".repeat(300)), WAIT).await.unwrap();
    assert!(matches!(answer, NetworkMessage::XpubRegistered { success: false, .. }), "{answer:?}");
    let notified = other.notify_wallet_transaction(wallet_transaction(), &[]).await;
    assert_eq!((notified.sent, notified.failed), (1, 0));
}

#[tokio::test]
async fn a_listener_reports_a_failed_connection_and_continues() {
    use tokio::io::AsyncWriteExt;
    let addr = address();
    let mut listener = PeerListener::bind(addr, TESTNET, addr, None).await.unwrap();
    let mut wrong = tokio::net::TcpStream::connect(listener.local_addr()).await.unwrap();
    wrong.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let refused = listener.accept().await;
    assert!(matches!(refused, Err(ConnectionError::Connect(_))), "{refused:?}");
    let one = manager(chain("a")).await;
    let (dialled, accepted) =
        tokio::join!(one.connect_to_peer(PeerInfo::new(addr, TESTNET)), listener.accept());
    dialled.unwrap();
    assert_eq!(accepted.unwrap().peer_info().await.address, one.listen_addr());
}

#[tokio::test]
async fn a_peers_json_that_cannot_be_read_is_an_error_of_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.json");
    std::fs::write(&path, "not JSON").unwrap();
    let mut with_file = config();
    with_file.peers_json = Some(path);
    let addr = address();
    let Err(error) = PeerManager::builder(TESTNET, addr, addr).config(with_file).start().await else {
        panic!("it started")
    };
    assert!(matches!(error, ManagerStartError::PeersJson(_)), "{error}");
    assert!(error.to_string().contains("peers.json is not a peer list"), "{error}");
    // Nothing is bound.
    manager_with(config(), chain("a")).await;
}
