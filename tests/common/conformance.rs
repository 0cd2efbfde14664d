//! The conformance suite of every [`Protocol`], generic over `D: Protocol`, and a reader that feeds
//! a decoder like a connection does and checks the decoder's guarantees at every step.
#![allow(dead_code)]

use bytes::{Bytes, BytesMut};
use peerpool::wire::{
    Control, DecodeStep, Decoder, EncodeError, FirstFrame, Goodbye, GoodbyeReason, Hello, MessageHeader,
    Protocol, Refusal, Status, WireError,
};
use peerpool::{Lane, Nonce, canonical};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::net::SocketAddr;
use std::time::Duration;

/// One message, as sent or as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WireMessage {
    Message { lane: Lane, header: MessageHeader, payload: Bytes },
    Control(Control),
}

/// Feeds a decoder from a buffer, like a connection does.
pub(crate) struct Reader<'d, D: Protocol> {
    protocol: &'d D,
    decoder: D::Decoder,
    buf: Vec<u8>,
    /// Complete frames seen.
    pub(crate) frames: usize,
}

impl<'d, D: Protocol> Reader<'d, D> {
    pub(crate) fn new(protocol: &'d D) -> Self {
        Self { protocol, decoder: protocol.decoder(), buf: Vec::new(), frames: 0 }
    }

    /// Appends bytes and returns the messages that are complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<WireMessage>, WireError> {
        self.buf.extend_from_slice(bytes);
        let (mut received, mut at) = (Vec::new(), 0);
        loop {
            let left = &self.buf[at..];
            let step = self.decoder.step(left)?;
            let used = step.used();
            assert!(used <= left.len(), "a step used {used} of {} bytes", left.len());
            match step {
                DecodeStep::NeedMore => {
                    let window = self.protocol.limits().window;
                    assert!(left.len() < window, "needs more than its window of {window}");
                    break;
                }
                DecodeStep::PartialFrame { .. } => {}
                DecodeStep::Chunk { .. } => self.frames += 1,
                DecodeStep::Message { lane, header, payload, .. } => {
                    self.frames += 1;
                    received.push(WireMessage::Message { lane, header, payload: payload.into_bytes() });
                }
                DecodeStep::Control { control, .. } => {
                    self.frames += 1;
                    received.push(WireMessage::Control(control));
                }
            }
            assert!(used > 0, "a step made no progress");
            at += used;
            let (buffered, cap) = (self.decoder.buffered(), self.protocol.limits().reassembly());
            assert!(buffered <= cap, "reassembly of {buffered} bytes, {cap} are allowed");
        }
        self.buf.drain(..at);
        Ok(received)
    }

    /// Bytes of memory that the decoder holds.
    pub(crate) fn buffered(&self) -> usize {
        self.decoder.buffered()
    }

    /// Bytes received and not yet used.
    pub(crate) fn unread(&self) -> usize {
        self.buf.len()
    }
}

/// How a protocol changes messages on their way. Default: not at all.
pub(crate) trait Expectations {
    /// Turns any message into one that the protocol can express.
    fn message(&self, header: MessageHeader, payload: Bytes) -> (MessageHeader, Bytes) {
        (header, payload)
    }

    /// What the receiver gets for a message on this lane; `None` if the protocol expresses it by
    /// silence.
    fn received(&self, lane: Lane, header: MessageHeader, payload: &Bytes) -> Option<WireMessage> {
        Some(WireMessage::Message { lane, header, payload: payload.clone() })
    }

    /// Turns any hello into one that can be sent, and returns what the receiver gets.
    fn hello(&self, hello: Hello) -> (Hello, Hello) {
        let received = Hello { listen: hello.listen.map(canonical), ..hello.clone() };
        (hello, received)
    }
}

/// The expectations of a protocol that carries every message unchanged.
struct Unchanged;

impl Expectations for Unchanged {}

/// Checks everything that a protocol must do. Panics with a minimal counter-example.
pub(crate) fn conforms<D: Protocol>(protocol: &D) {
    conforms_with(protocol, &Unchanged);
}

/// Checks everything that a protocol with these expectations must do.
pub(crate) fn conforms_with<D: Protocol>(protocol: &D, expectations: &impl Expectations) {
    let stream = || stream(expectations);
    run(stream(), |messages| {
        any_split_of_the_stream_gives_the_same_messages(protocol, expectations, &messages)
    });
    run(stream(), |messages| chunks_make_the_same_bytes_as_encode(protocol, &messages.0));
    run(stream(), |messages| interleaved_lanes_give_whole_messages(protocol, expectations, &messages));
    run((hello(), vec(any::<u8>(), 0..40)), |(hello, tail)| {
        first_frames_round_trip(protocol, expectations, hello, &tail)
    });
    run((vec(any::<u8>(), 0..2000), vec(1usize..300, 1..20)), |(bytes, read_sizes)| {
        noise_is_refused_with_an_error(protocol, &bytes, &read_sizes)
    });
    run((stream(), any::<prop::sample::Index>(), any::<u8>()), |(messages, at, byte)| {
        damage_is_survived(protocol, expectations, &messages, at, byte)
    });
    oversized_messages_are_refused_by_the_sender(protocol, expectations);
    features_match_the_encoder(protocol, expectations);
}

fn run<S: Strategy>(strategy: S, claim: impl Fn(S::Value)) {
    let config = Config { cases: 96, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&strategy, |value| {
            claim(value);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

type TestStream = (Vec<WireMessage>, Vec<usize>, u64);

fn any_split_of_the_stream_gives_the_same_messages<D: Protocol>(
    protocol: &D,
    expectations: &impl Expectations,
    (messages, read_sizes, _): &TestStream,
) {
    let (bytes, sent) = encode_all(protocol, expectations, messages);
    let mut reader = Reader::new(protocol);
    let mut received = Vec::new();
    let (mut left, mut read_sizes) = (&bytes[..], read_sizes.iter().cycle());
    while !left.is_empty() {
        let (read, rest) = left.split_at(left.len().min(*read_sizes.next().expect("never empty")));
        received.extend(reader.feed(read).expect("own bytes"));
        left = rest;
    }
    assert_eq!(received, sent);
    assert_eq!((reader.unread(), reader.buffered()), (0, 0), "bytes remain");
}

fn chunks_make_the_same_bytes_as_encode<D: Protocol>(protocol: &D, messages: &[WireMessage]) {
    for what in messages {
        let WireMessage::Message { lane, header, payload } = what else { continue };
        let mut whole = BytesMut::new();
        let encoded = protocol.encode(*lane, header, payload, &mut whole);
        let chunks = match protocol.chunks(*lane, *header, payload.clone()) {
            Ok(chunks) => chunks,
            Err(error) => {
                assert_eq!((encoded, whole.len()), (Err(error), 0));
                continue;
            }
        };
        assert_eq!(encoded, Ok(()));
        let count = chunks.len();
        let chunks: Vec<_> = chunks.collect();
        assert_eq!(chunks.len(), count, "the announced number of chunks");
        let joined: Vec<u8> =
            chunks.iter().flat_map(|chunk| [&chunk.header[..], &chunk.payload[..]].concat()).collect();
        assert_eq!(joined, whole, "chunks and whole message differ");
        assert_eq!(chunks.iter().map(peerpool::wire::Chunk::wire_len).sum::<usize>(), whole.len());
        let last_flags: Vec<bool> = chunks.iter().map(|chunk| chunk.last).collect();
        assert!(last_flags.split_last().is_some_and(|(last, others)| *last && !others.contains(&true)));
        let shared = payload.as_ptr_range();
        for body in chunks.iter().map(|chunk| &chunk.payload).filter(|body| !body.is_empty()) {
            assert!(shared.contains(&body.as_ptr()), "a chunk's payload was copied");
        }
    }
}

/// Sends the messages of each lane in order, the lanes' chunks in any interleaving.
fn interleaved_lanes_give_whole_messages<D: Protocol>(
    protocol: &D,
    expectations: &impl Expectations,
    (messages, read_sizes, seed): &TestStream,
) {
    let mut lanes: [std::collections::VecDeque<_>; 4] = Default::default();
    for what in messages {
        match what {
            WireMessage::Message { lane, header, payload } => {
                let Ok(chunks) = protocol.chunks(*lane, *header, payload.clone()) else { continue };
                let arrival = if protocol.features().lanes { *lane } else { Lane::Normal };
                let received = expectations.received(arrival, *header, payload);
                for chunk in chunks {
                    let end = if chunk.last { received.clone() } else { None };
                    lanes[lane.index()].push_back(([&chunk.header[..], &chunk.payload[..]].concat(), end));
                }
            }
            WireMessage::Control(control) => {
                let mut bytes = BytesMut::new();
                if let Ok(true) = protocol.encode_control(control, &mut bytes) {
                    let end = Some(WireMessage::Control(as_received(protocol, control)));
                    lanes[0].push_back((bytes.to_vec(), end));
                }
            }
        }
    }
    let (mut reader, mut received, mut sent) = (Reader::new(protocol), Vec::new(), Vec::new());
    let (mut random, mut read_sizes) = (*seed, read_sizes.iter().cycle());
    while lanes.iter().any(|lane| !lane.is_empty()) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let Some((bytes, end)) = lanes[(random >> 62) as usize].pop_front() else { continue };
        sent.extend(end);
        for piece in bytes.chunks(*read_sizes.next().expect("never empty")) {
            received.extend(reader.feed(piece).expect("own bytes"));
        }
    }
    assert_eq!(received, sent);
    assert_eq!((reader.unread(), reader.buffered()), (0, 0), "bytes remain");
}

fn first_frames_round_trip<D: Protocol>(
    protocol: &D,
    expectations: &impl Expectations,
    hello: Hello,
    tail: &[u8],
) {
    let (mut hello, _) = expectations.hello(hello);
    hello.version = protocol.version();
    if protocol.encode_hello(&hello, &mut BytesMut::new()).is_err() {
        (hello.genesis, hello.app) = (None, Bytes::new());
    }
    let mut bytes = BytesMut::new();
    protocol.encode_hello(&hello, &mut bytes).expect("a plain hello");
    let (_, received) = expectations.hello(hello);
    check_first_frame(protocol, &bytes, tail, &FirstFrame::Hello(received));

    let goodbye = Goodbye::new(GoodbyeReason::Full).retry_after(Duration::from_millis(1500));
    let addrs = vec!["192.0.2.1:9".parse().expect("an address"), "[2001:db8::1]:9".parse().expect("one")];
    let refusal = Refusal { addrs, ..Refusal::new(goodbye, protocol.version(), 7) };
    let mut bytes = BytesMut::new();
    let has = protocol.encode_refusal(&refusal, &mut bytes).expect("a refusal");
    assert_eq!(has, protocol.features().goodbye);
    if has {
        check_first_frame(protocol, &bytes, tail, &FirstFrame::Refusal(refusal));
    } else {
        assert!(bytes.is_empty());
    }
}

fn check_first_frame<D: Protocol>(protocol: &D, bytes: &[u8], tail: &[u8], want: &FirstFrame) {
    assert!(bytes.len() <= protocol.limits().hello);
    for cut in 0..bytes.len() {
        assert_eq!(protocol.decode_first_frame(&bytes[..cut]), Ok(None), "cut at {cut} of {}", bytes.len());
    }
    let followed = [bytes, tail].concat();
    assert_eq!(protocol.decode_first_frame(&followed), Ok(Some((want.clone(), bytes.len()))));
}

/// The reader's own assertions are what is tested: no panic, progress, bounded memory.
fn noise_is_refused_with_an_error<D: Protocol>(protocol: &D, bytes: &[u8], read_sizes: &[usize]) {
    let full = vec![0xff; protocol.limits().hello];
    assert!(!matches!(protocol.decode_first_frame(&full), Ok(None)), "waits beyond its limit");
    let _ = protocol.decode_first_frame(bytes);
    let (mut reader, mut left, mut read_sizes) = (Reader::new(protocol), bytes, read_sizes.iter().cycle());
    while !left.is_empty() {
        let (read, rest) = left.split_at(left.len().min(*read_sizes.next().expect("never empty")));
        if let Err(error) = reader.feed(read) {
            assert!(!error.to_string().is_empty());
            return;
        }
        left = rest;
    }
}

fn damage_is_survived<D: Protocol>(
    protocol: &D,
    expectations: &impl Expectations,
    stream: &TestStream,
    at: prop::sample::Index,
    byte: u8,
) {
    let (mut bytes, _) = encode_all(protocol, expectations, &stream.0);
    if bytes.is_empty() {
        return;
    }
    let at = at.index(bytes.len());
    bytes[at] = byte;
    noise_is_refused_with_an_error(protocol, &bytes, &stream.1);
}

fn oversized_messages_are_refused_by_the_sender<D: Protocol>(protocol: &D, expectations: &impl Expectations) {
    let header = MessageHeader::Event { kind: 1 };
    for lane in [Lane::Urgent, Lane::Normal, Lane::Bulk] {
        let cap = protocol.limits().message(lane);
        let payload = Bytes::from(vec![7; cap + 1]);
        let mut out = BytesMut::from(&b"before"[..]);
        let refused = Err(EncodeError::TooLarge { lane, size: cap + 1, cap });
        assert_eq!(protocol.encode(lane, &header, &payload, &mut out), refused);
        assert_eq!(&out[..], b"before", "a refused message left bytes behind");
        assert_eq!(protocol.chunks(lane, header, payload.clone()).map(|_| ()), refused);

        let mut out = BytesMut::new();
        protocol.encode(lane, &header, &payload[..cap], &mut out).expect("the cap itself is allowed");
        let received = Reader::new(protocol).feed(&out).expect("and accepted");
        let arrival = if protocol.features().lanes { lane } else { Lane::Normal };
        assert_eq!(received.len(), 1);
        assert_eq!(received.first(), expectations.received(arrival, header, &payload.slice(..cap)).as_ref());
    }
    let reserved = EncodeError::ControlLaneReserved { kind: header.frame_kind() };
    assert_eq!(protocol.encode(Lane::Control, &header, b"", &mut BytesMut::new()), Err(reserved));
}

fn features_match_the_encoder<D: Protocol>(protocol: &D, expectations: &impl Expectations) {
    let can = protocol.features();
    let headers = [
        MessageHeader::Request { id: 1, kind: 2 },
        MessageHeader::Response { id: 1, status: Status::Ok },
        MessageHeader::Cancel { id: 1 },
    ];
    for header in headers {
        let mut out = BytesMut::new();
        match protocol.encode(Lane::Normal, &header, b"", &mut out) {
            Ok(()) => {
                assert!(can.requests);
                let is_silence = expectations.received(Lane::Normal, header, &Bytes::new()).is_none();
                assert_eq!(out.is_empty(), is_silence, "{header:?}");
            }
            Err(EncodeError::Unsupported { .. }) => assert!(!can.requests && out.is_empty()),
            Err(other) => panic!("{other}"),
        }
    }
    let last = u16::try_from(can.kinds - 1).expect("no more than there are");
    let kinds = [(Some(last), true), (last.checked_add(1), false), (Some(u16::MAX), can.kinds > 0xffff)];
    for (kind, has) in kinds {
        let Some(kind) = kind else { continue };
        let (header, mut out) = (MessageHeader::Event { kind }, BytesMut::new());
        let messages = protocol.encode(Lane::Normal, &header, b"", &mut out);
        assert_eq!(messages.is_ok(), has, "kind {kind}");
        assert_eq!(messages, can.check(&header));
        assert_eq!(protocol.chunks(Lane::Normal, header, Bytes::new()).map(|_| ()), messages);
    }
    let controls = [
        (Control::Ping { token: 9 }, true),
        (Control::Pong { token: 9 }, true),
        (Control::Goodbye(Goodbye::new(GoodbyeReason::Closed)), can.goodbye),
        (Control::Abort { lane: Lane::Bulk }, can.chunks),
        (Control::GetPeers { max: 1 }, can.peers),
        (Control::Peers(Vec::new()), can.peers),
    ];
    for (control, has) in controls {
        let mut out = BytesMut::new();
        assert_eq!(protocol.encode_control(&control, &mut out), Ok(has), "{control:?}");
        assert_eq!(out.is_empty(), !has);
    }
}

/// The bytes of all that the protocol can say, and what should be received.
fn encode_all<D: Protocol>(
    protocol: &D,
    expectations: &impl Expectations,
    messages: &[WireMessage],
) -> (Vec<u8>, Vec<WireMessage>) {
    let (mut out, mut sent) = (BytesMut::new(), Vec::new());
    for what in messages {
        match what {
            WireMessage::Message { lane, header, payload } => {
                if protocol.encode(*lane, header, payload, &mut out).is_ok() {
                    let lane = if protocol.features().lanes { *lane } else { Lane::Normal };
                    sent.extend(expectations.received(lane, *header, payload));
                }
            }
            WireMessage::Control(control) => {
                if let Ok(true) = protocol.encode_control(control, &mut out) {
                    sent.push(WireMessage::Control(as_received(protocol, control)));
                }
            }
        }
    }
    (out.to_vec(), sent)
}

fn as_received<D: Protocol>(protocol: &D, control: &Control) -> Control {
    match control {
        Control::Ping { .. } if !protocol.features().ping_tokens => Control::Ping { token: 0 },
        Control::Pong { .. } if !protocol.features().ping_tokens => Control::Pong { token: 0 },
        Control::Peers(peers) => Control::Peers(peers.iter().copied().map(canonical).collect()),
        other => other.clone(),
    }
}

fn stream(expectations: &impl Expectations) -> impl Strategy<Value = TestStream> {
    let read_sizes = prop_oneof![vec(1usize..40, 1..8), vec(1usize..20_000, 1..8)];
    (vec(message(expectations), 0..12), read_sizes, any::<u64>())
}

fn message(expectations: &impl Expectations) -> impl Strategy<Value = WireMessage> {
    let lane = prop::sample::select(vec![Lane::Urgent, Lane::Normal, Lane::Bulk]);
    let message = (lane, header(), payload()).prop_map(|(lane, header, payload)| {
        let (header, payload) = expectations.message(header, payload);
        let payload = if matches!(header, MessageHeader::Cancel { .. }) { Bytes::new() } else { payload };
        WireMessage::Message { lane, header, payload }
    });
    prop_oneof![4 => message, 1 => control().prop_map(WireMessage::Control)]
}

fn header() -> impl Strategy<Value = MessageHeader> {
    prop_oneof![
        4 => any::<u16>().prop_map(|kind| MessageHeader::Event { kind }),
        1 => any::<(u32, u16)>().prop_map(|(id, kind)| MessageHeader::Request { id, kind }),
        1 => any::<(u32, u8)>().prop_map(|(id, code)| MessageHeader::Response { id, status: Status::from_code(code) }),
        1 => any::<u32>().prop_map(|id| MessageHeader::Cancel { id }),
    ]
}

/// Mostly small; sometimes a few chunks, and often close to the size of one chunk.
fn payload() -> impl Strategy<Value = Bytes> {
    let size =
        prop_oneof![6 => 0usize..200, 2 => 16_370usize..16_390, 1 => 0usize..100_000, 1 => Just(32_766)];
    (size, any::<u8>())
        .prop_map(|(size, first)| (0..size).map(|at| first.wrapping_add((at / 7) as u8)).collect())
}

fn control() -> impl Strategy<Value = Control> {
    let wait = prop::option::of((0u64..u64::from(u32::MAX)).prop_map(Duration::from_millis));
    prop_oneof![
        any::<u64>().prop_map(|token| Control::Ping { token }),
        any::<u64>().prop_map(|token| Control::Pong { token }),
        (any::<u16>(), wait).prop_map(|(code, retry_after)| {
            Control::Goodbye(Goodbye { reason: GoodbyeReason::from_code(code), retry_after })
        }),
        any::<u16>().prop_map(|max| Control::GetPeers { max }),
        any::<u64>().prop_map(|count| Control::Missed { lane: Lane::Normal, count }),
        vec(addr(), 0..20).prop_map(Control::Peers),
    ]
}

fn addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 16], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 4], u16)>().prop_map(|(ip, port)| {
            SocketAddr::from((std::net::Ipv4Addr::from(ip).to_ipv6_mapped(), port))
        }),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    let agent = "[a-zA-Z0-9/. ()äöü]{0,60}";
    let app = vec(any::<u8>(), 0..=Hello::MAX_APP).prop_map(Bytes::from);
    let genesis = prop::option::of(any::<[u8; 32]>());
    (any::<(u64, u64, [u8; 16])>(), prop::option::of(addr()), agent, genesis, app).prop_map(
        |((network, features, nonce), listen, agent, genesis, app)| Hello {
            version: 0,
            network,
            nonce: Some(Nonce(nonce)),
            features,
            listen,
            agent,
            genesis,
            app,
        },
    )
}
