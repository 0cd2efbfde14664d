//! Questions are answered, by the right answer, or fail for a reason that says which.

use super::*;
use peerpool::RequestError;
use peerpool::timecoin::wire::{MasternodeInfo, UTXOState, UtxoInfo};
use peerpool::timecoin::{
    FetchError, Finality, PeerConnection, PeerRequestError, PingError, Reply, StateSnapshot, VoteError,
    WalletHistory,
};
use peerpool::wire::Status;

/// Two connected managers; the second one has a chain.
async fn with_chain(height: u64) -> (PeerManager, PeerManager, Arc<MemoryChain>) {
    let (one, other, chain) = pair().await;
    *chain.blocks.lock().unwrap() = (0..=height).map(block).collect();
    (one, other, chain)
}

#[tokio::test]
async fn tip_genesis_and_blocks_are_served() {
    let (one, other, _chain) = with_chain(30).await;
    let at = other.listen_addr();
    assert_eq!(one.request_blockchain_info(at).await.unwrap(), Some(30));
    assert_eq!(one.request_genesis_block(at).await.unwrap(), block(0));
    assert_eq!(one.get_genesis_from_peer(at.to_string()).await.unwrap()["hash"], block(0).hash);
    assert_eq!(one.request_block_by_height(at.ip(), 17).await.unwrap(), block(17));
    assert!(matches!(one.get_block_from_peer(at, 31).await, Err(FetchError::NoSuchBlock(31))));
    let ask = |question| one.request(at, question, WAIT);
    assert_eq!(ask(NetworkMessage::GetBlockchainHeight).await.unwrap(), NetworkMessage::BlockchainHeight(30));
    assert_eq!(
        ask(NetworkMessage::HeightRequest).await.unwrap(),
        NetworkMessage::HeightResponse { height: 30, best_block_hash: block(30).hash }
    );
    assert_eq!(
        ask(NetworkMessage::BlockRequest { height: 99 }).await.unwrap(),
        NetworkMessage::BlockResponse { block: None }
    );
    let NetworkMessage::ChainResponse { blocks, complete } =
        ask(NetworkMessage::ChainRequest { from_height: 20 }).await.unwrap()
    else {
        panic!("the chain answers with a chain");
    };
    assert!(complete && blocks.len() == 11);
}

#[tokio::test]
async fn sync_downloads_in_batches_and_stops_at_the_tip() {
    let (one, other, _chain) = with_chain(249).await;
    let at = other.listen_addr();
    let blocks = one.sync_recent_blocks(at, 5, 1_000).await.unwrap();
    assert!(blocks.iter().map(|block| block.header.block_number).eq(5..=249));
    let some = one.sync_recent_blocks(at, 0, 100).await.unwrap();
    assert_eq!(some.len(), 101);
    for (from, to) in [(9, 8), (0, 10_000)] {
        let refused = one.sync_recent_blocks(at, from, to).await;
        assert!(matches!(refused, Err(FetchError::BadRange { most: 10_000, .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn blocks_too_large_for_one_frame_are_split() {
    let (one, other, chain) = with_chain(0).await;
    let large = |number| Block { hash: "x".repeat(150_000), ..block(number) };
    *chain.blocks.lock().unwrap() = (0..100).map(large).collect();
    let at = other.listen_addr();
    let blocks = one.sync_recent_blocks(at, 0, 99).await.unwrap();
    assert!(blocks.iter().map(|block| block.header.block_number).eq(0..100));
    let answer = one.request(at, NetworkMessage::ChainRequest { from_height: 0 }, WAIT).await.unwrap();
    let NetworkMessage::ChainResponse { blocks, complete } = answer else { panic!("no chain") };
    assert!(!complete && (60..100).contains(&blocks.len()), "{complete} {}", blocks.len());
    // One that fits into none is declined.
    *chain.blocks.lock().unwrap() = vec![Block { hash: "x".repeat(11_000_000), ..block(0) }];
    let refused = one.request_blocks(at, 0, 0).await;
    let Err(FetchError::Request(PeerRequestError::Request(RequestError::Declined { status, .. }))) = refused
    else {
        panic!("not declined: {refused:?}")
    };
    assert_eq!(status, Status::TooLarge);
}

/// Has a block of the largest height there is.
struct Last;

impl ChainSource for Last {
    fn blocks(&self, heights: std::ops::RangeInclusive<u64>) -> Reply<Vec<Block>> {
        Reply::Now(heights.take(1).map(block).collect())
    }
}

#[tokio::test]
async fn sync_handles_the_largest_heights() {
    let one = manager(chain("a")).await;
    let other = manager(Arc::new(Last)).await;
    connect(&one, &other).await;
    let at = other.listen_addr();
    let syncing = one.sync_recent_blocks(at, u64::MAX - 2, u64::MAX);
    let blocks = tokio::time::timeout(WAIT, syncing).await.unwrap().unwrap();
    assert!(blocks.iter().map(|block| block.header.block_number).eq(u64::MAX - 2..=u64::MAX));
    assert_eq!(one.request_block_by_height(at, u64::MAX).await.unwrap(), block(u64::MAX));
}

/// Sends two blocks where one was requested.
struct Generous;

impl ChainSource for Generous {
    fn blocks(&self, heights: std::ops::RangeInclusive<u64>) -> Reply<Vec<Block>> {
        let first = *heights.start();
        Reply::Now(vec![block(first), block(first + 1)])
    }
}

#[tokio::test]
async fn more_blocks_than_requested_are_refused() {
    let one = manager(chain("a")).await;
    let other = manager(Arc::new(Generous)).await;
    connect(&one, &other).await;
    let refused = one.request_blocks(other.listen_addr(), 3, 3).await;
    assert!(matches!(refused, Err(FetchError::TooMany { requested: 1, received: 2 })), "{refused:?}");
    assert!(one.connection(ip_of(&other)).unwrap().health_score() < 100);
}

#[tokio::test]
async fn transactions_masternodes_and_output_states_are_served() {
    let (one, other, chain) = with_chain(1).await;
    let at = other.listen_addr();
    *chain.mempool.lock().unwrap() = vec![transaction(1), transaction(2)];
    *chain.finalized.lock().unwrap() = vec![(transaction(3), 100), (transaction(4), 200)];
    assert_eq!(one.request_mempool(at).await.unwrap(), [transaction(1), transaction(2)]);
    assert_eq!(one.get_mempool_from_peer(at).await.unwrap().len(), 2);
    assert_eq!(one.request_finalized_transactions(at, 150).await.unwrap(), [(transaction(4), 200)]);
    let question = NetworkMessage::RequestMissingTransactions {
        txids: vec![transaction(2).txid, "unknown".into()],
        requester: "a".into(),
        block_height: 9,
    };
    assert_eq!(
        one.request(at, question, WAIT).await.unwrap(),
        NetworkMessage::MissingTransactionsResponse { transactions: vec![transaction(2)], block_height: 9 }
    );
    let masternode = MasternodeInfo {
        node_id: "m".into(),
        wallet_address: "TIME1m".into(),
        tier: "Free".into(),
        is_active: true,
        registered_at: 1,
    };
    *chain.masternodes.lock().unwrap() = vec![masternode.clone()];
    assert_eq!(
        one.request(at, NetworkMessage::GetMasternodeList, WAIT).await.unwrap(),
        NetworkMessage::MasternodeList { masternodes: vec![masternode] }
    );
    let outpoint = OutPoint { txid: "ab".into(), vout: 1 };
    let unspent = UtxoInfo {
        txid: "ab".into(),
        vout: 1,
        address: "TIME1c".into(),
        amount: 3,
        block_height: None,
        confirmations: 0,
    };
    chain.unspent.lock().unwrap().insert(outpoint.clone(), unspent);
    let question =
        NetworkMessage::UTXOStateQuery { outpoints: vec![serde_json::to_string(&outpoint).unwrap()] };
    let NetworkMessage::UTXOStateResponse { states } = one.request(at, question, WAIT).await.unwrap() else {
        panic!("states answer a question for states");
    };
    let states: Vec<(OutPoint, UTXOState)> = serde_json::from_str(&states).unwrap();
    assert_eq!(states, [(outpoint, UTXOState::Unspent)]);
}

#[tokio::test]
async fn the_time_is_served_without_a_chain() {
    let (one, other) = (manager(Arc::new(())).await, manager(Arc::new(())).await);
    connect(&one, &other).await;
    let question = NetworkMessage::TimeRequest { request_time_ms: 77 };
    match one.request(other.listen_addr(), question, WAIT).await.unwrap() {
        NetworkMessage::TimeResponse { request_time_ms: 77, peer_time_ms } => assert!(peer_time_ms > 77),
        other => panic!("not the time: {other:?}"),
    }
}

#[tokio::test]
async fn two_kinds_of_reply_to_one_request_are_distinguished() {
    let (one, other, _chain) = pair().await;
    let good = transaction(1);
    let bad = Transaction { txid: "wrong".into(), ..transaction(1) };
    let ask = |transaction| {
        one.request(other.listen_addr(), NetworkMessage::InstantFinalityRequest(transaction), WAIT)
    };
    assert_eq!(ask(good).await.unwrap().kind(), Kind::TransactionApproved);
    assert_eq!(ask(bad).await.unwrap().kind(), Kind::TransactionRejected);
}

/// Judges no transaction but the good ones, and says nothing of the others.
struct Picky(String);

impl ChainSource for Picky {
    fn finality(&self, _: &peerpool::timecoin::Sender, transaction: Transaction) -> Reply<Finality> {
        let good = transaction.txid == self.0;
        good.then(|| Finality::Approved { approver: "b".into() }).into()
    }
}

#[tokio::test]
async fn an_unanswered_finality_request_does_not_block_the_next() {
    let one = manager_with(ManagerConfig { max_one_shots: 0, ..config() }, chain("a")).await;
    let other = manager(Arc::new(Picky(transaction(2).txid))).await;
    connect(&one, &other).await;
    let ask = |transaction, within| {
        one.request(other.listen_addr(), NetworkMessage::InstantFinalityRequest(transaction), within)
    };
    let short = Duration::from_millis(50);
    let unjudged = ask(transaction(1), short).await;
    assert!(matches!(unjudged, Err(PeerRequestError::Request(RequestError::Timeout))), "{unjudged:?}");
    let again = ask(transaction(1), short).await;
    assert!(matches!(again, Err(PeerRequestError::Request(RequestError::ReplyOutstanding(_)))), "{again:?}");
    assert_eq!(ask(transaction(2), WAIT).await.unwrap().kind(), Kind::TransactionApproved);
    // And over a connection that is read by scripted.
    let mut connection = PeerConnection::connect(&info_of(&other), TESTNET, address(), None).await.unwrap();
    let question = |transaction| NetworkMessage::InstantFinalityRequest(transaction);
    connection.request_response(question(transaction(1)), short).await.unwrap_err();
    let judged = connection.request_response(question(transaction(2)), WAIT).await.unwrap();
    assert_eq!(judged.kind(), Kind::TransactionApproved);
}

#[tokio::test]
async fn a_snapshot_is_of_the_tip_and_summed_by_address() {
    let (one, other, chain) = with_chain(4).await;
    // bincode of one output of 9 for "c", and a total supply.
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let state_data = [
        &1u64.to_le_bytes()[..],
        &text("ab"),
        &0u32.to_le_bytes(),
        &9u64.to_le_bytes(),
        &text("c"),
        &9u64.to_le_bytes(),
    ]
    .concat();
    let state =
        StateSnapshot { height: 4, utxo_merkle_root: "root".into(), state_data, ..Default::default() };
    *chain.snapshot.lock().unwrap() = Some(state.clone());
    let snapshot = one.request_snapshot(other.listen_addr()).await.unwrap();
    assert_eq!((snapshot.height, snapshot.state_hash.as_str(), snapshot.balances["c"]), (4, "root", 9));
    let raw = one.request_state_snapshot(other.listen_addr(), 4).await.unwrap();
    assert_eq!(raw.kind(), Kind::StateSnapshotResponse);
    assert_eq!(one.request_state(other.listen_addr(), 4).await.unwrap(), state);
}

#[tokio::test]
async fn a_vote_succeeds_only_if_this_vote_is_acknowledged() {
    let (one, other, _chain) = pair().await;
    let ip = ip_of(&other);
    let vote = |hash: &str| NetworkMessage::ConsensusBlockVote(format!(r#"{{"block_hash":"{hash}"}}"#));
    one.send_vote_with_ack(ip, vote("ab"), "ab".into()).await.unwrap();
    match one.send_vote_with_ack(ip, vote("ab"), "cd".into()).await {
        Err(VoteError::WrongBlock { expected, got }) => {
            assert_eq!((expected.as_str(), got.as_str()), ("cd", "ab"))
        }
        other => panic!("the wrong block was acknowledged: {other:?}"),
    }
    let no_vote = NetworkMessage::BlockchainHeight(1);
    assert!(matches!(
        one.send_vote_with_ack(ip, no_vote.clone(), "ab".into()).await,
        Err(VoteError::NoVote(back)) if *back == no_vote
    ));
    let nobody = "127.0.0.250".parse().unwrap();
    assert!(matches!(
        one.send_vote_with_ack(nobody, vote("ab"), "ab".into()).await,
        Err(VoteError::Request(PeerRequestError::NotConnected(_)))
    ));
}

/// Takes votes and acknowledges none.
#[derive(Default)]
struct Silent(std::sync::Mutex<Vec<String>>);

impl ChainSource for Silent {
    fn block_vote(&self, _: &peerpool::timecoin::Sender, vote: &str) -> Reply<peerpool::timecoin::VoteAck> {
        self.0.lock().unwrap().push(vote.to_owned());
        Reply::None
    }
}

#[tokio::test]
async fn an_unacknowledged_vote_does_not_block_the_next() {
    let one = manager(chain("a")).await;
    let silent = Arc::<Silent>::default();
    let other = manager(Arc::clone(&silent) as _).await;
    connect(&one, &other).await;
    let votes = || silent.0.lock().unwrap().len();
    let vote = |hash: &str| NetworkMessage::ConsensusBlockVote(format!(r#"{{"block_hash":"{hash}"}}"#));
    let first = one.send_vote_with_ack(ip_of(&other), vote("ab"), "ab".into());
    tokio::select! {
        acknowledged = first => panic!("{acknowledged:?}"),
        () = until("the first vote arrives", || votes() == 1) => {}
    }
    for sent in 2..5 {
        let next = one.send_vote_with_ack(ip_of(&other), vote("ab"), "ab".into()).await;
        assert!(
            matches!(
                next,
                Err(VoteError::Request(PeerRequestError::Request(RequestError::ReplyOutstanding(_))))
            ),
            "{next:?}"
        );
        until("the next vote arrives", || votes() == sent).await;
    }
}

#[tokio::test]
async fn a_ping_returns_the_round_trip_time() {
    let (one, other, _chain) = pair().await;
    let rtt = one.send_ping(ip_of(&other)).await.unwrap();
    assert!(!rtt.is_zero() && rtt < WAIT);
    let nobody = "127.0.0.250".parse().unwrap();
    assert_eq!(one.send_ping(nobody).await, Err(PingError::NotConnected(nobody)));
    let known = &one.get_connected_peers().await[0];
    assert_eq!((known.address, known.network), (other.listen_addr(), TESTNET));
}

#[tokio::test]
async fn wallet_transactions_are_returned() {
    let (one, other, chain) = pair().await;
    let history = vec![wallet_transaction(), WalletTransaction { amount: 6, ..wallet_transaction() }];
    chain.wallets.lock().unwrap().insert("xpub1".into(), history.clone());
    assert_eq!(one.request_wallet_transactions("xpub1".into()).await.unwrap(), history);
    assert_eq!(one.request_wallet_transactions("xpub2".into()).await.unwrap(), []);
    // Whoever asks is subscribed.
    let notified = other.notify_wallet_transaction(wallet_transaction(), &["xpub1".into()]).await;
    assert_eq!((notified.sent, notified.failed), (1, 0));
    let alone = manager(chain_without_replies()).await;
    assert!(matches!(
        alone.request_wallet_transactions("xpub1".into()).await,
        Err(PeerRequestError::NotConnected(_))
    ));
}

fn chain_without_replies() -> Arc<dyn ChainSource> {
    Arc::new(())
}

#[tokio::test]
async fn a_request_to_an_unconnected_peer_uses_a_one_shot_connection() {
    let heard_by_other = chain("b");
    *heard_by_other.blocks.lock().unwrap() = vec![block(0)];
    let (one, other) = (manager(chain("a")).await, manager(Arc::clone(&heard_by_other) as _).await);
    assert_eq!(one.request_blockchain_info(other.listen_addr()).await.unwrap(), Some(0));
    assert_eq!(one.active_peer_count().await, 0);
    let question = NetworkMessage::GetBlockchainInfo;
    let answer = one.send_message_to_peer_with_response(other.listen_addr(), question, 10).await.unwrap();
    assert_eq!(answer.unwrap().kind(), Kind::BlockchainInfo);
}

#[tokio::test]
async fn invalid_requests_and_addresses_fail_at_once() {
    let one = manager(chain("a")).await;
    let refused = one.request(address(), NetworkMessage::Pong, WAIT).await;
    assert!(matches!(refused, Err(PeerRequestError::NotARequest(Kind::Pong))), "{refused:?}");
    for text in ["", "localhost", "127.0.0.1:", "127.0.0.1:99999", "::1:::", "[::1"] {
        let refused = one.request_genesis(text).await;
        assert!(matches!(refused, Err(PeerRequestError::Address(_))), "{text}: {refused:?}");
    }
}

/// Replies to a request for its tip only when triggered.
struct Late(Arc<tokio::sync::Notify>);

impl ChainSource for Late {
    fn tip(&self) -> Reply<peerpool::timecoin::ChainTip> {
        let told = Arc::clone(&self.0);
        Reply::later(async move {
            told.notified().await;
            Some(peerpool::timecoin::ChainTip { height: Some(1), hash: "late".into() })
        })
    }

    fn wallet_history(&self, _: &str) -> Reply<WalletHistory> {
        Reply::None
    }
}

#[tokio::test]
async fn an_unanswered_request_costs_health_and_its_late_reply_matches_no_other() {
    let told = Arc::new(tokio::sync::Notify::new());
    let heard_by_one = chain("a");
    let mut config = config();
    // No connection of its own, so that the place it waited in is seen to be closed.
    config.max_one_shots = 0;
    let one = manager_with(config, Arc::clone(&heard_by_one) as _).await;
    let other = manager(Arc::new(Late(Arc::clone(&told)))).await;
    connect(&one, &other).await;
    let peer = one.connection(ip_of(&other)).unwrap();
    let before = peer.health_score();
    let at = other.listen_addr();
    let ask = |within| one.request(at, NetworkMessage::GetBlockchainInfo, within);
    let timed_out = ask(Duration::from_millis(100)).await;
    assert!(matches!(timed_out, Err(PeerRequestError::Request(RequestError::Timeout))), "{timed_out:?}");
    assert!(peer.health_score() < before);
    let closed = ask(WAIT).await;
    assert!(
        matches!(closed, Err(PeerRequestError::Request(RequestError::ReplyOutstanding(_)))),
        "{closed:?}"
    );
    told.notify_one();
    until("the late answer comes to the hook", || !heard(&heard_by_one, Kind::BlockchainInfo).is_empty())
        .await;
    told.notify_one();
    assert_eq!(ask(WAIT).await.unwrap().kind(), Kind::BlockchainInfo);
    assert_eq!(heard(&heard_by_one, Kind::BlockchainInfo).len(), 1);
}

#[tokio::test]
async fn a_request_without_a_reply_is_refused_at_once() {
    let (one, other, _chain) = with_chain(30).await;
    let ask = |start_height| {
        let question = NetworkMessage::GetBlocks { start_height, end_height: start_height };
        one.request(other.listen_addr(), question, WAIT)
    };
    let begun = tokio::time::Instant::now();
    for _ in 0..3 {
        let far = ask(2_000).await;
        let Err(PeerRequestError::Request(RequestError::Declined { status, .. })) = far else {
            panic!("not declined: {far:?}")
        };
        assert_eq!(status, Status::NoReply);
        assert_eq!(ask(17).await.unwrap(), NetworkMessage::Blocks { blocks: vec![block(17)] });
    }
    assert!(begun.elapsed() < WAIT / 2);
    assert_eq!(one.connection(ip_of(&other)).unwrap().health_score(), 100);
}

#[tokio::test]
async fn peers_learn_of_each_others_peers() {
    let (one, other, _chain) = pair().await;
    let third = manager(chain("c")).await;
    connect(&third, &other).await;
    let told = one.request_peer_list(other.listen_addr()).await.unwrap();
    assert!(told.iter().any(|peer| peer.ip == ip_of(&third).to_string() && peer.port == TESTNET.port()));
    assert!(
        !told.iter().any(|peer| peer.ip == ip_of(&one).to_string()),
        "whoever asks is not told of itself"
    );
    assert!(one.node().book().get(&third.listen_addr()).is_some());
    assert!(one.known_peer_count().await >= 2);
    // Nothing new the second time.
    assert_eq!(one.discover_peers_from_masternodes().await, 0);
    match other.handle_get_peer_list().await {
        NetworkMessage::PeerList(peers) => assert_eq!(peers.len(), 2),
        other => panic!("not a list: {other:?}"),
    }
}

#[tokio::test]
async fn requests_above_an_enforced_rate_limit_are_refused() {
    let heard_by_other = chain("b");
    let mut strict = config();
    strict.enforce_rate_limit = true;
    strict.rate_limit.burst_size = 3;
    strict.rate_limit.window = Duration::from_secs(3600);
    strict.rate_limit.max_requests = 3;
    let other = manager_with(strict, Arc::clone(&heard_by_other) as _).await;
    let mut quick = config();
    quick.max_one_shots = 0;
    let one = manager_with(quick, chain("a")).await;
    connect(&one, &other).await;
    // The list of peers that a dialler asks for is the first.
    let begun = tokio::time::Instant::now();
    let limiter = other.rate_limiter();
    while limiter.get_request_count(ip_of(&one)).await == 0 {
        assert!(begun.elapsed() < WAIT, "never asked for");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut answered = 0;
    for kind in 0..5 {
        let question = NetworkMessage::TimeRequest { request_time_ms: kind };
        match one.request(other.listen_addr(), question, WAIT).await {
            Ok(_) => answered += 1,
            Err(PeerRequestError::Request(RequestError::Declined { status: Status::Busy, .. })) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(answered, 2);
    assert!(other.check_rate_limit(ip_of(&one), 1).await.is_err());
}
