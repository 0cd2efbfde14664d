//! Several protocols, one pool: the native protocol and a toy one, whose policy identifies peers.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;
#[path = "common/toy.rs"]
mod toy;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use harness::*;
use peerpool::transport::{MemoryNet, Transport as _};
use peerpool::wire::{
    Chunks, Control, EncodeError, Features, FirstFrame, Hello, MessageHeader, Protocol, Refusal, WireError,
    WireLimits,
};
use peerpool::{
    BroadcastError, ConnectError, Direction, Identity, Lane, Message, Node, NodeConfig, Nonce, PeerId,
    PeerPolicy, ProtocolConfig, Receipt, RequestError, SendError, StartError, StateError,
};
use toy::{Toy, ToyDecoder};

/// The listen address of the toy protocol.
const TOY_PORT: u16 = 7001;

fn toy_at(last: u8) -> SocketAddr {
    SocketAddr::new(ip(last), TOY_PORT)
}

fn key_of(ip: IpAddr) -> PeerId {
    PeerId::from_addr(SocketAddr::new(ip, 0))
}

/// One connection per IP address; the toy protocol has its own port.
struct ByIp(IpAddr);

fn instance_of(ip: IpAddr) -> Nonce {
    Nonce(match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    })
}

impl PeerPolicy for ByIp {
    fn instance(&self) -> Option<Nonce> {
        Some(instance_of(self.0))
    }

    fn identify(&self, _: &Hello, addr: SocketAddr, _: Direction) -> Identity {
        Identity { key: self.key_at(addr), instance: Some(instance_of(addr.ip())) }
    }

    fn key_at(&self, addr: SocketAddr) -> Option<PeerId> {
        Some(key_of(addr.ip()))
    }

    fn matches_addr(&self, addr: SocketAddr) -> bool {
        addr.port() == TOY_PORT
    }

    fn ping_after(&self) -> Duration {
        Duration::from_secs(6)
    }
}

fn builder(net: &MemoryNet, last: u8, config: NodeConfig, handler: Rec) -> peerpool::NodeBuilder {
    Node::builder().config(config).transport(net.host(ip(last))).handler(handler).book(hasty_book())
}

fn toy_rules(last: u8) -> ProtocolConfig<Toy> {
    ProtocolConfig::new(Toy::new()).listen(toy_at(last)).policy(ByIp(ip(last)))
}

/// Speaks both.
async fn both(net: &MemoryNet, last: u8, handler: Rec) -> Node {
    builder(net, last, quiet(), handler).listen(at(last)).protocol(toy_rules(last)).start().await.unwrap()
}

/// Speaks the toy protocol only.
async fn toy_only(net: &MemoryNet, last: u8, config: NodeConfig, handler: Rec) -> Node {
    builder(net, last, config, handler).first_protocol(toy_rules(last)).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_and_initial_state_reach_the_peers_of_every_protocol() {
    let net = MemoryNet::new(1);
    let (hears_native, hears_toy) = (Rec::new(), Rec::new());
    let node = both(&net, 1, Rec::new()).await;
    node.set_state(9, b"tip", &b"42"[..]).unwrap();
    let native = start(&net, 2, quiet(), hears_native.clone()).await;
    let toy = toy_only(&net, 3, quiet(), hears_toy.clone()).await;
    native.connect(at(1)).await.unwrap();
    toy.connect(toy_at(1)).await.unwrap();
    until(|| peers(&node) == 2).await;
    let mut spoken: Vec<_> = node.roster().iter().map(|peer| peer.connection().protocol()).collect();
    spoken.sort_unstable();
    assert_eq!(spoken, ["native", "toy"]);

    let receipt = node.broadcast_with_receipt(&message(1, b"to all")).unwrap();
    assert_eq!(receipt.peers(), 2);
    let want = vec![(9, b"42".to_vec()), (1, b"to all".to_vec())];
    for hears in [&hears_native, &hears_toy] {
        until(|| hears.events().len() == 2).await;
        // State and log have no order between them.
        let mut events = hears.events();
        events.sort_by_key(|(kind, _)| std::cmp::Reverse(*kind));
        assert_eq!(events, want);
    }
    until(|| receipt.written() == 2).await;
    assert!(receipt.statuses().all(|(_, _, status)| status == Receipt::Written));
    for node in [node, native, toy] {
        end(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn state_that_one_protocol_has_no_room_for_is_set_in_none() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    // Ten bytes fit the native protocol's table. The toy's longer encoding does not fit its own.
    config.max_state_bytes = 256 + 18;
    let node =
        builder(&net, 1, config, Rec::new()).listen(at(1)).protocol(toy_rules(1)).start().await.unwrap();
    node.set_state(9, b"tip", &b"1"[..]).unwrap();
    let refused = node.set_state(9, b"tip", &b"0123456789"[..]);
    assert!(matches!(refused, Err(StateError::Full(value)) if value == "0123456789"));
    let hears = [Rec::new(), Rec::new()];
    let native = start(&net, 2, quiet(), hears[0].clone()).await;
    let toy = toy_only(&net, 3, quiet(), hears[1].clone()).await;
    native.connect(at(1)).await.unwrap();
    toy.connect(toy_at(1)).await.unwrap();
    for hears in &hears {
        until(|| !hears.events().is_empty()).await;
        assert_eq!(hears.events(), [(9, b"1".to_vec())]);
    }
    for node in [node, native, toy] {
        end(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_relayed_message_reaches_all_protocols_but_not_its_origin() {
    let net = MemoryNet::new(2);
    let relaying = Rec::new().on_event(|cx, kind, body| {
        let message = Message::new(kind, body.to_vec());
        cx.node().relay(&message, Some(cx.peer())).unwrap();
        peerpool::Handled::Done
    });
    let (hears_native, hears_toy) = (Rec::new(), Rec::new());
    let node = both(&net, 1, relaying.clone()).await;
    let native = start(&net, 2, quiet(), hears_native.clone()).await;
    let toy = toy_only(&net, 3, quiet(), hears_toy.clone()).await;
    native.connect(at(1)).await.unwrap();
    let to_node = toy.connect(toy_at(1)).await.unwrap();
    until(|| peers(&node) == 2).await;
    toy.send(to_node.key(), message(5, b"gossip")).unwrap();
    until(|| hears_native.events().len() == 1).await;
    secs(1).await;
    assert_eq!(hears_native.events(), [(5, b"gossip".to_vec())]);
    assert_eq!(hears_toy.events(), []);
    for node in [node, native, toy] {
        end(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_protocol_that_cannot_express_a_message_returns_it_and_sends_nothing() {
    let net = MemoryNet::new(3);
    let hears = Rec::new();
    let node = both(&net, 1, Rec::new()).await;
    let native = start(&net, 2, quiet(), hears.clone()).await;
    let toy = toy_only(&net, 3, quiet(), Rec::new()).await;
    native.connect(at(1)).await.unwrap();
    let peer = toy.connect(toy_at(1)).await.unwrap();
    until(|| peers(&node) == 2).await;
    // The native protocol can express it; then only one half of the peers would get it.
    let large = message(1, &[0; 40_000]);
    assert!(matches!(node.broadcast(&large), Err(BroadcastError::Encode(EncodeError::TooLarge { .. }))));
    let asked = toy.request(peer.key(), message(1, b"?"), Duration::from_secs(1)).await;
    let Err(peerpool::PeerRequestError::Request(RequestError::NotSent(SendError::Refused {
        message, ..
    }))) = asked
    else {
        panic!("{asked:?}");
    };
    assert_eq!(&message.payload[..], b"?");
    secs(1).await;
    assert_eq!(hears.events(), []);
    for node in [node, native, toy] {
        end(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_address_has_one_connection_however_it_was_opened() {
    for seed in 0..12 {
        let net = MemoryNet::new(seed);
        let a = toy_only(&net, 1, quiet(), Rec::new()).await;
        let b = toy_only(&net, 2, quiet(), Rec::new()).await;
        let later = Duration::from_millis(seed % 4);
        let late = async {
            tokio::time::sleep(later).await;
            b.connect(toy_at(1)).await
        };
        let (_, _) = tokio::join!(a.connect(toy_at(2)), late);
        until(|| peers(&a) == 1 && peers(&b) == 1).await;
        secs(2).await;
        let (of_a, of_b) = (only(&a), only(&b));
        assert_ne!(of_a.direction(), of_b.direction(), "seed {seed}: each kept one of its own");
        assert_eq!((*of_a.key(), *of_b.key()), (key_of(ip(2)), key_of(ip(1))));
        assert_eq!(net.connections().len(), 1, "seed {seed}");
        end(a).await;
        end(b).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dial_to_our_own_instance_is_known_as_ours() {
    let net = MemoryNet::new(4);
    let node = toy_only(&net, 1, quiet(), Rec::new()).await;
    let refused = node.connect(toy_at(1)).await;
    assert!(
        matches!(refused, Err(ConnectError::SelfDial | ConnectError::Refused(_))),
        "{:?}",
        refused.map(|peer| *peer.key())
    );
    assert_eq!(node.stats().self_dials, 1);
    assert!(node.book().is_self(&toy_at(1), peerpool::address_book::WallTime::now()));
    end(node).await;
}

/// Knows everybody by the key of one address.
struct Impostor;

impl PeerPolicy for Impostor {
    fn identify(&self, _: &Hello, addr: SocketAddr, _: Direction) -> Identity {
        Identity { key: Some(PeerId::from_addr(at(2))), instance: Some(instance_of(addr.ip())) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_held_in_one_protocol_is_not_taken_in_another() {
    let net = MemoryNet::new(5);
    let protocol = ProtocolConfig::new(Toy::new()).listen(toy_at(1)).policy(Impostor);
    let node = builder(&net, 1, quiet(), Rec::new()).protocol(protocol).start().await.unwrap();
    let native = start(&net, 2, quiet(), Rec::new()).await;
    let peer = node.connect(at(2)).await.unwrap();
    let toy = toy_only(&net, 3, quiet(), Rec::new()).await;
    assert!(matches!(toy.connect_in("toy", toy_at(1)).await, Err(ConnectError::Refused(_))));
    assert!(peer.is_live());
    assert_eq!(only(&node).id(), peer.id());
    for node in [node, native, toy] {
        end(node).await;
    }
}

/// The toy protocol first, and the native one at port 7,000.
async fn toy_first(net: &MemoryNet, last: u8, config: NodeConfig) -> Node {
    let native = ProtocolConfig::new(peerpool::wire::Native::default()).listen(at(last));
    let builder = builder(net, last, config, Rec::new()).first_protocol(toy_rules(last)).protocol(native);
    builder.start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_probed_and_dialled_again_in_its_own_protocol() {
    let net = MemoryNet::new(9);
    let mut config = quiet();
    config.runtime.target_outbound = 1;
    let node = toy_first(&net, 1, config).await;
    let native = start(&net, 2, quiet(), Rec::new()).await;
    native.connect(at(1)).await.unwrap();
    // It says that it listens at its port, and the same process answers there.
    until(|| peers(&node) == 1 && only(&node).read_info(|info| info.listen_verified)).await;
    let first = only(&node).id();
    native.disconnect(only(&native).key());
    until(|| peers(&node) == 1 && only(&node).id() != first).await;
    let again = only(&node);
    assert_eq!((again.connection().protocol(), again.direction()), ("native", Direction::Outbound));
    end(node).await;
    end(native).await;
}

#[tokio::test(start_paused = true)]
async fn a_nonce_of_another_protocols_peer_takes_nothing_from_it() {
    let net = MemoryNet::new(10);
    let mut patient = quiet();
    patient.runtime.liveness.stale_after = Duration::from_secs(300);
    let node = builder(&net, 1, patient.clone(), Rec::new()).listen(at(1)).protocol(toy_rules(1));
    let node = node.start().await.unwrap();
    let toy = toy_only(&net, 3, patient, Rec::new()).await;
    toy.connect(toy_at(1)).await.unwrap();
    until(|| peers(&node) == 1).await;
    let victim = only(&node);
    // Old enough that a ping would decide, and mute from now on.
    secs(11).await;
    net.set_latency(peerpool::transport::Latency::from(Duration::from_secs(4)..=Duration::from_secs(4)));
    let mut thief = ByHand::dial(&net, 7, at(1)).await;
    let mut hello = hello(0);
    hello.nonce = Some(instance_of(ip(3)));
    thief.say(&hello).await;
    secs(20).await;
    assert!(victim.is_live());
    assert_eq!(peers(&node), 2, "the thief came in, as himself");
    end(node).await;
    end(toy).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_is_not_pinged_if_the_policy_says_so() {
    let net = MemoryNet::new(6);
    let node = toy_only(&net, 1, quiet(), Rec::new()).await;
    let chatty = toy_only(&net, 2, quiet(), Rec::new()).await;
    let peer = chatty.connect(toy_at(1)).await.unwrap();
    until(|| peers(&node) == 1).await;
    for _ in 0..20 {
        secs(1).await;
        chatty.send(peer.key(), message(1, b"here")).unwrap();
        node.broadcast(&message(1, b"here too")).unwrap();
    }
    // A ping would have been answered, and the answer timed. Of two that fall silent together the
    // first to ping spares the other one the ping.
    let timed = || only(&node).rtt().or(only(&chatty).rtt()).is_some();
    assert!(!timed());
    until(timed).await;
    end(node).await;
    end(chatty).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_without_listeners_can_listen_later() {
    let net = MemoryNet::new(7);
    let node = builder(&net, 1, quiet(), Rec::new())
        .protocol(ProtocolConfig::new(Toy::new()).policy(ByIp(ip(1))))
        .start_without_listening()
        .unwrap();
    assert_eq!(node.local_addrs(), []);
    let toy = toy_only(&net, 2, quiet(), Rec::new()).await;
    assert!(matches!(toy.connect(toy_at(1)).await, Err(ConnectError::Io(_))));
    assert_eq!(node.listen("toy", toy_at(1)).await.unwrap(), toy_at(1));
    assert!(matches!(node.listen("klingon", at(1)).await, Err(StartError::UnknownProtocol)));
    toy.connect(toy_at(1)).await.unwrap();
    end(node).await;
    end(toy).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_start_says_why_and_leaves_nothing_bound() {
    let net = MemoryNet::new(8);
    let twice = ProtocolConfig::new(Toy::new()).listen(toy_at(1));
    let again = ProtocolConfig::new(Toy::new());
    let error =
        builder(&net, 1, quiet(), Rec::new()).protocol(twice).protocol(again).start().await.unwrap_err();
    assert_eq!(error.to_string(), "configuration: protocol: two protocols named toy");
    let error = builder(&net, 1, quiet(), Rec::new()).listen(at(1)).start_without_listening().unwrap_err();
    assert!(matches!(error, StartError::Config(_)), "{error}");
    let node = both(&net, 1, Rec::new()).await;
    let free = SocketAddr::new(ip(1), 7009);
    let taken = builder(&net, 1, quiet(), Rec::new()).listen(free).protocol(toy_rules(1)).start().await;
    let Err(StartError::Listen { addr, cause }) = taken else { panic!("it started") };
    assert_eq!((addr, cause.kind()), (toy_at(1), std::io::ErrorKind::AddrInUse));
    // The one that was bound before it is free again.
    net.host(ip(1)).listen(free).await.unwrap();
    end(node).await;
}

/// What does not compile here could not be spawned.
#[tokio::test(start_paused = true)]
async fn every_way_to_a_peer_can_be_spawned() {
    fn spawnable<F: Future + Send + 'static>(_: F) {}
    let net = MemoryNet::new(11);
    let node = toy_only(&net, 1, quiet(), Rec::new()).await;
    let (near, far) = net.pair(ip(1), ip(2));
    let (one, two, three, four) = (node.clone(), node.clone(), node.clone(), node.clone());
    spawnable(async move { one.connect(toy_at(2)).await });
    spawnable(async move { two.adopt(near, Direction::Inbound, toy_at(2), None).await });
    let said = (hello(1), Vec::new());
    spawnable(async move { three.adopt_handshaken("toy", far, Direction::Inbound, toy_at(2), said).await });
    spawnable(async move { four.listen("toy", toy_at(1)).await });
    end(node).await;
}

/// The toy protocol, with counters of encoded messages and of messages cut into chunks.
struct Counting(Toy, Arc<Encoded>);

#[derive(Default)]
struct Encoded {
    whole: AtomicUsize,
    chunked: AtomicUsize,
}

impl Protocol for Counting {
    type Decoder = ToyDecoder;

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn version(&self) -> u32 {
        self.0.version()
    }

    fn features(&self) -> Features {
        self.0.features()
    }

    fn limits(&self) -> &WireLimits {
        self.0.limits()
    }

    fn decoder(&self) -> ToyDecoder {
        self.0.decoder()
    }

    fn encode(
        &self,
        lane: Lane,
        head: &MessageHeader,
        payload: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        self.1.whole.fetch_add(1, Ordering::Relaxed);
        self.0.encode(lane, head, payload, out)
    }

    fn chunks(&self, lane: Lane, head: MessageHeader, payload: Bytes) -> Result<Chunks, EncodeError> {
        self.1.chunked.fetch_add(1, Ordering::Relaxed);
        self.0.chunks(lane, head, payload)
    }

    fn encode_control(&self, control: &Control, out: &mut BytesMut) -> Result<bool, EncodeError> {
        self.0.encode_control(control, out)
    }

    fn encode_hello(&self, hello: &Hello, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.0.encode_hello(hello, out)
    }

    fn encode_refusal(&self, refusal: &Refusal, out: &mut BytesMut) -> Result<bool, EncodeError> {
        self.0.encode_refusal(refusal, out)
    }

    fn decode_first_frame(&self, buf: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError> {
        self.0.decode_first_frame(buf)
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_to_all_is_encoded_once_whatever_the_number_of_peers() {
    let mut large = Vec::new();
    for others in [1u8, 7] {
        let (net, encoded) = (MemoryNet::new(12), Arc::<Encoded>::default());
        let counting = Counting(Toy::new(), Arc::clone(&encoded));
        let protocol = ProtocolConfig::new(counting).listen(toy_at(1)).policy(ByIp(ip(1)));
        let node = builder(&net, 1, quiet(), Rec::new()).first_protocol(protocol).start().await.unwrap();
        let mut far = Vec::new();
        for last in 2..2 + others {
            let hears = Rec::new();
            let toy = toy_only(&net, last, quiet(), hears.clone()).await;
            toy.connect(toy_at(1)).await.unwrap();
            far.push((toy, hears));
        }
        until(|| peers(&node) == usize::from(others)).await;
        let took = async |events: usize| {
            until(|| far.iter().all(|(_, hears)| hears.events().len() == events)).await;
            [&encoded.whole, &encoded.chunked].map(|count| count.swap(0, Ordering::Relaxed))
        };
        node.set_state(9, b"tip", &b"42"[..]).unwrap();
        assert_eq!(took(1).await, [1, 0], "a value of state");
        node.broadcast(&message(1, b"small")).unwrap();
        assert_eq!(took(2).await[0], 1, "a broadcast");
        let _ = node.broadcast_with_receipt(&message(1, b"small")).unwrap();
        assert_eq!(took(3).await[0], 1, "one with a receipt");
        node.relay(&message(1, b"new to all"), None).unwrap();
        assert_eq!(took(4).await[0], 1, "a relayed message");
        // Its bytes are not encoded at all, but referred to.
        node.broadcast(&message(1, &[7; 20_000])).unwrap();
        let [whole, chunked] = took(5).await;
        assert_eq!(whole, 0);
        large.push(chunked);
        end(node).await;
        for (toy, _) in far {
            end(toy).await;
        }
    }
    assert_eq!(large[0], large[1], "as often for one peer as for seven");
}
