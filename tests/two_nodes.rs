//! Two nodes over real TCP on loopback: the verbs, end to end.
#![cfg(all(feature = "node", not(peerpool_loom)))]

use std::sync::Arc;
use std::time::Duration;

use peerpool::{
    ConnectError, Context, Event, Handled, Handler, Lane, Message, Node, NodeConfig, PeerId, Receipt,
    RelayOutcome, Request, RequestAnyOptions, Responder,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

const WAIT: Duration = Duration::from_secs(10);

struct Echo {
    heard: mpsc::UnboundedSender<(u16, Vec<u8>)>,
}

impl Handler for Echo {
    fn event(&self, _: Context<'_>, event: Event<'_>) -> Handled {
        let _ = self.heard.send((event.kind, event.payload.to_vec()));
        Handled::Done
    }

    fn request(&self, _: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        let answer = request.payload.into_bytes();
        Handled::later(async move {
            responder.on(Lane::Bulk).respond(answer).expect("the asker waits");
        })
    }
}

async fn node() -> (Node, mpsc::UnboundedReceiver<(u16, Vec<u8>)>) {
    let (heard, hears) = mpsc::unbounded_channel();
    let mut config = NodeConfig::local();
    config.runtime.target_outbound = 0;
    config.listen.push("127.0.0.1:0".parse().unwrap());
    let node = Node::builder().config(config).handler(Echo { heard }).start().await.unwrap();
    (node, hears)
}

async fn pair()
-> (Node, mpsc::UnboundedReceiver<(u16, Vec<u8>)>, Node, mpsc::UnboundedReceiver<(u16, Vec<u8>)>) {
    let (a, hears_a) = node().await;
    let (b, hears_b) = node().await;
    a.connect(b.local_addrs()[0]).await.unwrap();
    until(|| b.roster().iter().count() == 1).await;
    (a, hears_a, b, hears_b)
}

async fn until(mut holds: impl FnMut() -> bool) {
    timeout(WAIT, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("in time");
}

#[tokio::test]
async fn everything_sent_arrives_in_order_per_lane() {
    let (a, _, b, mut hears) = pair().await;
    let key = *a.roster().iter().next().unwrap().key();
    for n in 0..1_000u32 {
        a.send(&key, Message::new(1, n.to_le_bytes().to_vec())).unwrap();
        a.broadcast(&Message::new(2, n.to_le_bytes().to_vec())).unwrap();
    }
    let (mut sent, mut told) = (0u32, 0u32);
    while sent + told < 2_000 {
        let (kind, payload) = timeout(WAIT, hears.recv()).await.unwrap().unwrap();
        let next = if kind == 1 { &mut sent } else { &mut told };
        assert_eq!(payload, next.to_le_bytes());
        *next += 1;
    }
    assert!(a.shutdown(WAIT).await.is_clean());
    assert!(b.shutdown(WAIT).await.is_clean());
}

#[tokio::test]
async fn large_messages_pass_whole_through_every_lane() {
    let (a, _, _b, mut hears) = pair().await;
    let key = *a.roster().iter().next().unwrap().key();
    let block: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    a.send(&key, Message::new(1, block.clone()).bulk()).unwrap();
    a.broadcast(&Message::new(2, block.clone()).bulk()).unwrap();
    a.broadcast(&Message::new(3, block.clone())).unwrap();
    a.send(&key, Message::new(4, block.clone()).urgent()).unwrap();
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let (kind, payload) = timeout(WAIT, hears.recv()).await.unwrap().unwrap();
        assert!(payload == block, "kind {kind}");
        kinds.push(kind);
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_request_is_answered_by_one_peer_and_by_any() {
    let (a, _, b, _) = pair().await;
    let key = *a.roster().iter().next().unwrap().key();
    let block = vec![7u8; 256 * 1024];
    let answer = a.request(&key, Message::new(1, block.clone()), WAIT).await.unwrap();
    assert_eq!(answer, block);
    let (from, answer) = b.request_any(Message::new(1, "who?"), &RequestAnyOptions::default()).await.unwrap();
    assert_eq!(answer, "who?");
    assert_eq!(Some(from), b.roster().iter().next().map(|peer| *peer.key()));
}

#[tokio::test]
async fn a_new_peer_gets_only_the_newest_state() {
    let (a, _) = node().await;
    let (b, mut hears) = node().await;
    for height in 0..100u32 {
        a.set_state(9, b"tip", height.to_le_bytes().to_vec()).unwrap();
    }
    b.connect(a.local_addrs()[0]).await.unwrap();
    let (kind, payload) = timeout(WAIT, hears.recv()).await.unwrap().unwrap();
    assert_eq!((kind, payload), (9, 99u32.to_le_bytes().to_vec()));
    a.set_state(9, b"tip", "new").unwrap();
    let (_, payload) = timeout(WAIT, hears.recv()).await.unwrap().unwrap();
    assert_eq!(payload, b"new");
}

#[tokio::test]
async fn a_receipt_says_written_once_the_stream_took_it() {
    let (a, _, _b, mut hears) = pair().await;
    let receipt = a.broadcast_with_receipt(&Message::new(5, "vote").urgent()).unwrap();
    assert_eq!(receipt.peers(), 1);
    timeout(WAIT, hears.recv()).await.unwrap().unwrap();
    until(|| receipt.statuses().all(|(_, _, status)| status == Receipt::Written)).await;
}

#[tokio::test]
async fn a_relay_skips_its_origin_and_what_was_seen() {
    let (a, mut hears, b, _) = pair().await;
    let origin = b.roster().iter().next().unwrap().clone();
    let message = Message::new(1, "from a");
    assert_eq!(b.relay(&message, Some(&origin)).unwrap(), RelayOutcome::New);
    assert_eq!(b.relay(&message, None).unwrap(), RelayOutcome::Duplicate);
    assert!(b.contains(1, b"from a"));
    assert_eq!(b.relay(&Message::new(1, "from b"), None).unwrap(), RelayOutcome::New);
    let (_, payload) = timeout(WAIT, hears.recv()).await.unwrap().unwrap();
    assert_eq!(payload, b"from b", "its own message did not come back first");
    drop(a);
}

#[tokio::test]
async fn a_self_dial_is_no_failure_between_real_nodes() {
    let (a, _) = node().await;
    let error = a.connect(a.local_addrs()[0]).await.unwrap_err();
    assert!(matches!(error, ConnectError::SelfDial | ConnectError::Refused(_)), "{error}");
    until(|| a.stats().pool.total_connections == 0 && a.stats().pool.pending_inbound == 0).await;
    assert_eq!(a.stats().self_dials, 1);
}

#[tokio::test]
async fn a_second_dial_finds_the_first_peer() {
    let (a, _, b, _) = pair().await;
    let error = a.connect(b.local_addrs()[0]).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::AlreadyConnected(key) if key == PeerId::from_addr(b.local_addrs()[0]))
    );
    assert!(error.is_collision());
}

#[tokio::test]
async fn dropping_the_last_handle_ends_everything() {
    let (a, _, b, _) = pair().await;
    let weak = a.downgrade();
    drop(a);
    until(|| b.roster().iter().count() == 0).await;
    until(|| weak.upgrade().is_none_or(|node| node.shutdown_report().is_clean())).await;
}

#[tokio::test]
async fn a_panicking_handler_loses_that_one_call() {
    struct Panics;
    impl Handler for Panics {
        fn event(&self, _: Context<'_>, _: Event<'_>) -> Handled {
            panic!("a bug in the application")
        }

        fn request(&self, _: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
            let _ = responder.respond(request.payload.into_bytes());
            Handled::Done
        }
    }
    let mut config = NodeConfig::local();
    config.runtime.target_outbound = 0;
    config.listen.push("127.0.0.1:0".parse().unwrap());
    let a = Node::builder().config(config).handler(Arc::new(Panics)).start().await.unwrap();
    let (b, _) = node().await;
    let peer = b.connect(a.local_addrs()[0]).await.unwrap();
    b.broadcast(&Message::new(1, "boom")).unwrap();
    until(|| a.stats().panics == 1).await;
    // The same connection goes on.
    assert_eq!(b.request(peer.key(), Message::new(1, "after it"), WAIT).await.unwrap(), "after it");
    assert!(peer.is_live());
}

#[tokio::test]
async fn an_answer_that_takes_time_needs_no_other_traffic_to_go_out() {
    let (a, _, _b, _) = pair().await;
    let key = *a.roster().iter().next().unwrap().key();
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        a.request(&key, Message::new(1, "quick"), WAIT).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_millis(1_500), "only pings moved it: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_node_accepts_on_each_address_it_listens_on() {
    let mut config = NodeConfig::local();
    config.runtime.target_outbound = 0;
    config.listen = vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
    let a = Node::builder().config(config).start().await.unwrap();
    let listening = a.local_addrs();
    assert_eq!(listening.len(), 2);
    assert!(listening.iter().all(|addr| addr.port() != 0), "{listening:?}");
    let (b, _) = node().await;
    let (c, _) = node().await;
    b.connect(listening[0]).await.unwrap();
    c.connect(listening[1]).await.unwrap();
    until(|| a.roster().iter().count() == 2).await;
    assert!(a.shutdown(WAIT).await.is_clean());
}
