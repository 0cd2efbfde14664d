//! What every dialect must do, as one harness generic over `D: Protocol`; and a reader that feeds a decoder the way a
//! link does and checks the decoder's promises at every step.
#![allow(dead_code)]

use bytes::{Bytes, BytesMut};
use peerpool::base::{Lane, Nonce, canonical};
use peerpool::wire::{
    Control, DecodeStep, Decoder, EncodeError, FirstFrame, Goodbye, GoodbyeReason, Hello, MessageHeader,
    Protocol, Status, WireError,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::net::SocketAddr;
use std::time::Duration;

/// One thing that was said, or heard at the far end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Message { lane: Lane, header: MessageHeader, payload: Bytes },
    Control(Control),
}

/// Feeds a decoder from a buffer, as a link does.
pub(crate) struct Reader<'d, D: Protocol> {
    dialect: &'d D,
    decoder: D::Decoder,
    buf: Vec<u8>,
    /// Complete frames seen.
    pub(crate) frames: usize,
}

impl<'d, D: Protocol> Reader<'d, D> {
    pub(crate) fn new(dialect: &'d D) -> Self {
        Self { dialect, decoder: dialect.decoder(), buf: Vec::new(), frames: 0 }
    }

    /// What the decoder hears with these bytes more.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Said>, WireError> {
        self.buf.extend_from_slice(bytes);
        let (mut heard, mut at) = (Vec::new(), 0);
        loop {
            let left = &self.buf[at..];
            let step = self.decoder.step(left)?;
            let used = step.used();
            assert!(used <= left.len(), "a step used {used} of {} bytes", left.len());
            match step {
                DecodeStep::NeedMore => {
                    let window = self.dialect.limits().window;
                    assert!(left.len() < window, "needs more than its window of {window}");
                    break;
                }
                DecodeStep::PartialFrame { .. } => {}
                DecodeStep::Chunk { .. } => self.frames += 1,
                DecodeStep::Message { lane, header, payload, .. } => {
                    self.frames += 1;
                    heard.push(Said::Message { lane, header, payload: payload.into_bytes() });
                }
                DecodeStep::Control { control, .. } => {
                    self.frames += 1;
                    heard.push(Said::Control(control));
                }
            }
            assert!(used > 0, "a step made no progress");
            at += used;
            let (buffered, cap) = (self.decoder.buffered(), self.dialect.limits().reassembly());
            assert!(buffered <= cap, "reassembly of {buffered} bytes, {cap} are allowed");
        }
        self.buf.drain(..at);
        Ok(heard)
    }

    /// Bytes the decoder holds.
    pub(crate) fn buffered(&self) -> usize {
        self.decoder.buffered()
    }

    /// Bytes received and not used.
    pub(crate) fn unread(&self) -> usize {
        self.buf.len()
    }
}

/// What a dialect makes of what is said in it. The default: it hears what was said.
pub(crate) trait Manner {
    /// Something this dialect has words for, out of anything.
    fn message(&self, header: MessageHeader, payload: Bytes) -> (MessageHeader, Bytes) {
        (header, payload)
    }

    /// What the far end hears of a message that comes on this lane; `None` for what is said by silence.
    fn heard(&self, lane: Lane, header: MessageHeader, payload: &Bytes) -> Option<Said> {
        Some(Said::Message { lane, header, payload: payload.clone() })
    }

    /// A hello that can be sent, out of any, and what is heard of it.
    fn hello(&self, hello: Hello) -> (Hello, Hello) {
        let heard = Hello { listen: hello.listen.map(canonical), ..hello.clone() };
        (hello, heard)
    }
}

/// The manner of a dialect that carries anything as it is.
struct Plain;

impl Manner for Plain {}

/// Everything a dialect must do. Panics with a minimal counter-example where it does not.
pub(crate) fn conforms<D: Protocol>(dialect: &D) {
    conforms_in(dialect, &Plain);
}

/// Everything a dialect of this manner must do.
pub(crate) fn conforms_in<D: Protocol>(dialect: &D, manner: &impl Manner) {
    let stream = || stream(manner);
    run(stream(), |said| any_split_of_the_stream_gives_the_same_messages(dialect, manner, &said));
    run(stream(), |said| chunks_make_the_same_bytes_as_encode(dialect, &said.0));
    run(stream(), |said| interleaved_lanes_give_whole_messages(dialect, manner, &said));
    run((hello(), vec(any::<u8>(), 0..40)), |(hello, tail)| {
        greetings_round_trip(dialect, manner, hello, &tail)
    });
    run((vec(any::<u8>(), 0..2000), vec(1usize..300, 1..20)), |(bytes, cuts)| {
        noise_is_refused_in_words(dialect, &bytes, &cuts)
    });
    run((stream(), any::<prop::sample::Index>(), any::<u8>()), |(said, at, byte)| {
        damage_is_survived(dialect, manner, &said, at, byte)
    });
    what_is_too_large_is_refused_on_the_sending_side(dialect, manner);
    abilities_are_what_the_encoder_does(dialect, manner);
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

type Stream = (Vec<Said>, Vec<usize>, u64);

fn any_split_of_the_stream_gives_the_same_messages<D: Protocol>(
    dialect: &D,
    manner: &impl Manner,
    (said, cuts, _): &Stream,
) {
    let (bytes, sent) = encode_all(dialect, manner, said);
    let mut reader = Reader::new(dialect);
    let mut heard = Vec::new();
    let (mut left, mut cuts) = (&bytes[..], cuts.iter().cycle());
    while !left.is_empty() {
        let (read, rest) = left.split_at(left.len().min(*cuts.next().expect("never empty")));
        heard.extend(reader.feed(read).expect("own bytes"));
        left = rest;
    }
    assert_eq!(heard, sent);
    assert_eq!((reader.unread(), reader.buffered()), (0, 0), "something is left over");
}

fn chunks_make_the_same_bytes_as_encode<D: Protocol>(dialect: &D, said: &[Said]) {
    for what in said {
        let Said::Message { lane, header, payload } = what else { continue };
        let mut whole = BytesMut::new();
        let encoded = dialect.encode(*lane, header, payload, &mut whole);
        let chunks = match dialect.chunks(*lane, *header, payload.clone()) {
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
        let glued: Vec<u8> =
            chunks.iter().flat_map(|chunk| [&chunk.header[..], &chunk.payload[..]].concat()).collect();
        assert_eq!(glued, whole, "chunks and whole message differ");
        assert_eq!(chunks.iter().map(peerpool::wire::Chunk::wire_len).sum::<usize>(), whole.len());
        let marks: Vec<bool> = chunks.iter().map(|chunk| chunk.last).collect();
        assert!(marks.split_last().is_some_and(|(last, others)| *last && !others.contains(&true)));
        let shared = payload.as_ptr_range();
        for body in chunks.iter().map(|chunk| &chunk.payload).filter(|body| !body.is_empty()) {
            assert!(shared.contains(&body.as_ptr()), "a chunk's payload was copied");
        }
    }
}

/// Sends the messages of each lane in order, the lanes' chunks in any interleaving.
fn interleaved_lanes_give_whole_messages<D: Protocol>(
    dialect: &D,
    manner: &impl Manner,
    (said, cuts, seed): &Stream,
) {
    let mut lanes: [std::collections::VecDeque<_>; 4] = Default::default();
    for what in said {
        match what {
            Said::Message { lane, header, payload } => {
                let Ok(chunks) = dialect.chunks(*lane, *header, payload.clone()) else { continue };
                let arrival = if dialect.features().lanes { *lane } else { Lane::Normal };
                let heard = manner.heard(arrival, *header, payload);
                for chunk in chunks {
                    let end = if chunk.last { heard.clone() } else { None };
                    lanes[lane.index()].push_back(([&chunk.header[..], &chunk.payload[..]].concat(), end));
                }
            }
            Said::Control(control) => {
                let mut bytes = BytesMut::new();
                if let Ok(true) = dialect.encode_control(control, &mut bytes) {
                    let end = Some(Said::Control(as_heard(dialect, control)));
                    lanes[0].push_back((bytes.to_vec(), end));
                }
            }
        }
    }
    let (mut reader, mut heard, mut sent) = (Reader::new(dialect), Vec::new(), Vec::new());
    let (mut random, mut cuts) = (*seed, cuts.iter().cycle());
    while lanes.iter().any(|lane| !lane.is_empty()) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let Some((bytes, end)) = lanes[(random >> 62) as usize].pop_front() else { continue };
        sent.extend(end);
        for piece in bytes.chunks(*cuts.next().expect("never empty")) {
            heard.extend(reader.feed(piece).expect("own bytes"));
        }
    }
    assert_eq!(heard, sent);
    assert_eq!((reader.unread(), reader.buffered()), (0, 0), "something is left over");
}

fn greetings_round_trip<D: Protocol>(dialect: &D, manner: &impl Manner, hello: Hello, tail: &[u8]) {
    let (mut hello, _) = manner.hello(hello);
    hello.version = dialect.version();
    if dialect.encode_hello(&hello, &mut BytesMut::new()).is_err() {
        (hello.genesis, hello.app) = (None, Bytes::new());
    }
    let mut bytes = BytesMut::new();
    dialect.encode_hello(&hello, &mut bytes).expect("a plain hello");
    let (_, heard) = manner.hello(hello);
    check_greeting(dialect, &bytes, tail, &FirstFrame::Hello(heard));

    let goodbye = Goodbye::new(GoodbyeReason::Full).retry_after(Duration::from_millis(1500));
    let mut bytes = BytesMut::new();
    let has = dialect.encode_goodbye(&goodbye, &mut bytes).expect("a goodbye");
    assert_eq!(has, dialect.features().goodbye);
    if has {
        check_greeting(dialect, &bytes, tail, &FirstFrame::Goodbye(goodbye));
    } else {
        assert!(bytes.is_empty());
    }
}

fn check_greeting<D: Protocol>(dialect: &D, bytes: &[u8], tail: &[u8], want: &FirstFrame) {
    assert!(bytes.len() <= dialect.limits().hello);
    for cut in 0..bytes.len() {
        assert_eq!(dialect.decode_first_frame(&bytes[..cut]), Ok(None), "cut at {cut} of {}", bytes.len());
    }
    let followed = [bytes, tail].concat();
    assert_eq!(dialect.decode_first_frame(&followed), Ok(Some((want.clone(), bytes.len()))));
}

/// The reader's own assertions are the claim: no panic, progress, bounded memory.
fn noise_is_refused_in_words<D: Protocol>(dialect: &D, bytes: &[u8], cuts: &[usize]) {
    let full = vec![0xff; dialect.limits().hello];
    assert!(!matches!(dialect.decode_first_frame(&full), Ok(None)), "waits beyond its cap");
    let _ = dialect.decode_first_frame(bytes);
    let (mut reader, mut left, mut cuts) = (Reader::new(dialect), bytes, cuts.iter().cycle());
    while !left.is_empty() {
        let (read, rest) = left.split_at(left.len().min(*cuts.next().expect("never empty")));
        if let Err(error) = reader.feed(read) {
            assert!(!error.to_string().is_empty());
            return;
        }
        left = rest;
    }
}

fn damage_is_survived<D: Protocol>(
    dialect: &D,
    manner: &impl Manner,
    stream: &Stream,
    at: prop::sample::Index,
    byte: u8,
) {
    let (mut bytes, _) = encode_all(dialect, manner, &stream.0);
    if bytes.is_empty() {
        return;
    }
    let at = at.index(bytes.len());
    bytes[at] = byte;
    noise_is_refused_in_words(dialect, &bytes, &stream.1);
}

fn what_is_too_large_is_refused_on_the_sending_side<D: Protocol>(dialect: &D, manner: &impl Manner) {
    let header = MessageHeader::Event { kind: 1 };
    for lane in [Lane::Urgent, Lane::Normal, Lane::Bulk] {
        let cap = dialect.limits().message(lane);
        let payload = Bytes::from(vec![7; cap + 1]);
        let mut out = BytesMut::from(&b"before"[..]);
        let refused = Err(EncodeError::TooLarge { lane, size: cap + 1, cap });
        assert_eq!(dialect.encode(lane, &header, &payload, &mut out), refused);
        assert_eq!(&out[..], b"before", "a refused message left bytes behind");
        assert_eq!(dialect.chunks(lane, header, payload.clone()).map(|_| ()), refused);

        let mut out = BytesMut::new();
        dialect.encode(lane, &header, &payload[..cap], &mut out).expect("the cap itself is allowed");
        let heard = Reader::new(dialect).feed(&out).expect("and accepted");
        let arrival = if dialect.features().lanes { lane } else { Lane::Normal };
        assert_eq!(heard.len(), 1);
        assert_eq!(heard.first(), manner.heard(arrival, header, &payload.slice(..cap)).as_ref());
    }
    let reserved = EncodeError::ControlLaneReserved { kind: header.frame_kind() };
    assert_eq!(dialect.encode(Lane::Control, &header, b"", &mut BytesMut::new()), Err(reserved));
}

fn abilities_are_what_the_encoder_does<D: Protocol>(dialect: &D, manner: &impl Manner) {
    let can = dialect.features();
    let heads = [
        MessageHeader::Request { id: 1, kind: 2 },
        MessageHeader::Response { id: 1, status: Status::Ok },
        MessageHeader::Cancel { id: 1 },
    ];
    for header in heads {
        let mut out = BytesMut::new();
        match dialect.encode(Lane::Normal, &header, b"", &mut out) {
            Ok(()) => {
                assert!(can.requests);
                let is_silence = manner.heard(Lane::Normal, header, &Bytes::new()).is_none();
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
        let said = dialect.encode(Lane::Normal, &header, b"", &mut out);
        assert_eq!(said.is_ok(), has, "kind {kind}");
        assert_eq!(said, can.check(&header));
        assert_eq!(dialect.chunks(Lane::Normal, header, Bytes::new()).map(|_| ()), said);
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
        assert_eq!(dialect.encode_control(&control, &mut out), Ok(has), "{control:?}");
        assert_eq!(out.is_empty(), !has);
    }
}

/// The bytes of all that the dialect can say, and what should be heard.
fn encode_all<D: Protocol>(dialect: &D, manner: &impl Manner, said: &[Said]) -> (Vec<u8>, Vec<Said>) {
    let (mut out, mut sent) = (BytesMut::new(), Vec::new());
    for what in said {
        match what {
            Said::Message { lane, header, payload } => {
                if dialect.encode(*lane, header, payload, &mut out).is_ok() {
                    let lane = if dialect.features().lanes { *lane } else { Lane::Normal };
                    sent.extend(manner.heard(lane, *header, payload));
                }
            }
            Said::Control(control) => {
                if let Ok(true) = dialect.encode_control(control, &mut out) {
                    sent.push(Said::Control(as_heard(dialect, control)));
                }
            }
        }
    }
    (out.to_vec(), sent)
}

fn as_heard<D: Protocol>(dialect: &D, control: &Control) -> Control {
    match control {
        Control::Ping { .. } if !dialect.features().ping_tokens => Control::Ping { token: 0 },
        Control::Pong { .. } if !dialect.features().ping_tokens => Control::Pong { token: 0 },
        Control::Peers(peers) => Control::Peers(peers.iter().copied().map(canonical).collect()),
        other => other.clone(),
    }
}

fn stream(manner: &impl Manner) -> impl Strategy<Value = Stream> {
    let cuts = prop_oneof![vec(1usize..40, 1..8), vec(1usize..20_000, 1..8)];
    (vec(said(manner), 0..12), cuts, any::<u64>())
}

fn said(manner: &impl Manner) -> impl Strategy<Value = Said> {
    let lane = prop::sample::select(vec![Lane::Urgent, Lane::Normal, Lane::Bulk]);
    let message = (lane, header(), payload()).prop_map(|(lane, header, payload)| {
        let (header, payload) = manner.message(header, payload);
        let payload = if matches!(header, MessageHeader::Cancel { .. }) { Bytes::new() } else { payload };
        Said::Message { lane, header, payload }
    });
    prop_oneof![4 => message, 1 => control().prop_map(Said::Control)]
}

fn header() -> impl Strategy<Value = MessageHeader> {
    prop_oneof![
        4 => any::<u16>().prop_map(|kind| MessageHeader::Event { kind }),
        1 => any::<(u32, u16)>().prop_map(|(id, kind)| MessageHeader::Request { id, kind }),
        1 => any::<(u32, u8)>().prop_map(|(id, code)| MessageHeader::Response { id, status: Status::from_code(code) }),
        1 => any::<u32>().prop_map(|id| MessageHeader::Cancel { id }),
    ]
}

/// Mostly small; sometimes a few chunks, with a sprinkle around the edges of one.
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
