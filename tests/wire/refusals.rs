//! Each refusal, with its exact typed error, from bytes made by hand.

use crate::conformance::{Reader, WireMessage};
use bytes::{Bytes, BytesMut};
use peerpool::wire::{
    AgentError, Control, EncodeError, FirstFrame, FrameKind, Goodbye, GoodbyeReason, Hello, MessageHeader,
    Native, Protocol, Refusal, WireError, WireLimits,
};
use peerpool::{Lane, Nonce};
use std::time::Duration;

const MORE: u8 = 0x20;
const CONTINUES: u8 = 0x40;
const EVENT: u8 = 0;
const REQUEST: u8 = 1;
const CANCEL: u8 = 3;
const CONTROL: u8 = 4;
const NORMAL: u8 = 2 << 3;
const BULK: u8 = 3 << 3;

fn header(len: usize, flags: u8) -> [u8; 4] {
    (len as u32 | u32::from(flags) << 24).to_le_bytes()
}

fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    [&header(body.len(), flags)[..], body].concat()
}

fn small() -> Native {
    Native::new(WireLimits { urgent: 100, normal: 10_000, bulk: 30_000, peers: 2, ..WireLimits::default() })
}

/// What a fresh decoder makes of these bytes.
fn refusal(bytes: &[u8]) -> WireError {
    Reader::new(&small()).feed(bytes).expect_err("should be refused")
}

#[test]
fn a_header_alone_is_enough_to_refuse() {
    let event = FrameKind::Event;
    let cases = [
        (header(16_385, EVENT | NORMAL), WireError::FrameTooLarge { size: 16_385, cap: 16_384 }),
        (header(0xff_ffff, CONTROL), WireError::FrameTooLarge { size: 0xff_ffff, cap: 16_384 }),
        (header(10, 0x80), WireError::ReservedBits { byte: 0x80 }),
        (header(10, 5), WireError::UnknownKind { code: 5 }),
        (header(10, 7 | NORMAL), WireError::UnknownKind { code: 7 }),
        (header(10, CONTROL | BULK), WireError::ControlOffLane { lane: Lane::Bulk }),
        (header(10, EVENT), WireError::ControlLaneReserved { kind: event }),
        (header(2, EVENT), WireError::ControlLaneReserved { kind: event }),
        (header(10, REQUEST), WireError::ControlLaneReserved { kind: FrameKind::Request }),
        (header(4, CANCEL | MORE | NORMAL), WireError::NotChunkable { kind: FrameKind::Cancel }),
        (header(2000, CONTROL | MORE), WireError::NotChunkable { kind: FrameKind::Control }),
        (header(9, CONTROL | CONTINUES), WireError::NotChunkable { kind: FrameKind::Control }),
        (header(0, CONTROL), WireError::FrameTooShort { kind: FrameKind::Control, size: 0, need: 1 }),
        (header(1, EVENT | NORMAL), WireError::FrameTooShort { kind: event, size: 1, need: 2 }),
        (
            header(5, REQUEST | NORMAL),
            WireError::FrameTooShort { kind: FrameKind::Request, size: 5, need: 6 },
        ),
        (header(4, 2 | NORMAL), WireError::FrameTooShort { kind: FrameKind::Response, size: 4, need: 5 }),
        (header(3, CANCEL | NORMAL), WireError::FrameTooShort { kind: FrameKind::Cancel, size: 3, need: 4 }),
        (header(5, CANCEL | NORMAL), WireError::CancelPayload { size: 1 }),
        (header(2, EVENT | NORMAL | MORE), WireError::ChunkTooSmall { size: 2, min: 1024 }),
        (header(1023, EVENT | NORMAL | MORE), WireError::ChunkTooSmall { size: 1023, min: 1024 }),
        (header(0, EVENT | NORMAL | CONTINUES), WireError::NothingToContinue { lane: Lane::Normal }),
        (header(103, EVENT | 1 << 3), WireError::MessageTooLarge { lane: Lane::Urgent, size: 101, cap: 100 }),
    ];
    for (header, want) in cases {
        assert_eq!(refusal(&header), want, "{header:02x?}");
        // And with all that it announces in hand, so that no short cut skips a check.
        let whole = [&header[..], &[1; 17_000]].concat();
        assert_eq!(refusal(&whole), want, "{header:02x?} with a body");
        assert!(!want.to_string().is_empty());
    }
}

#[test]
fn zeros_are_refused_at_once() {
    assert_eq!(refusal(&[0; 4]), WireError::ControlLaneReserved { kind: FrameKind::Event });
}

#[test]
fn a_lanes_cap_is_checked_cumulatively_and_on_the_header() {
    let native = small();
    let mut reader = Reader::new(&native);
    reader.feed(&frame(EVENT | BULK | MORE, &[1; 16_384])).unwrap();
    let want = WireError::MessageTooLarge { lane: Lane::Bulk, size: 16_382 + 13_619, cap: 30_000 };
    assert_eq!(reader.feed(&header(13_619, EVENT | BULK | CONTINUES)).unwrap_err(), want);
}

#[test]
fn an_open_message_is_continued_by_its_own_kind_and_id_only() {
    let (lane, id) = (Lane::Normal, 77u32);
    let open = |kind| {
        let mut body = vec![0; 2000];
        body[..4].copy_from_slice(&id.to_le_bytes());
        frame(kind | NORMAL | MORE, &body)
    };
    let after = |kind, next: &[u8]| refusal(&[&open(kind)[..], next].concat());
    let (event, request) = (FrameKind::Event, FrameKind::Request);

    // The same kind again, without the continues bit, is a new message: never glued to the open
    // one.
    let interrupted = WireError::Interrupted { lane, open: event, got: event };
    assert_eq!(after(EVENT, &frame(EVENT | NORMAL, b"kk next")), interrupted);
    let interrupted = WireError::Interrupted { lane, open: event, got: FrameKind::Cancel };
    assert_eq!(after(EVENT, &frame(CANCEL | NORMAL, &[0; 4])), interrupted);
    let wrong = WireError::WrongContinuation { lane, open: request, got: event };
    assert_eq!(after(REQUEST, &header(50, EVENT | NORMAL | CONTINUES)), wrong);
    // The id is judged as soon as its four bytes are there.
    let mut start = header(2000, REQUEST | NORMAL | CONTINUES | MORE).to_vec();
    start.extend_from_slice(&78u32.to_le_bytes());
    assert_eq!(after(REQUEST, &start), WireError::WrongId { lane, open: id, got: 78 });
}

#[test]
fn an_open_message_leaves_the_other_lanes_alone() {
    let native = small();
    let mut reader = Reader::new(&native);
    reader.feed(&frame(EVENT | BULK | MORE, &[1; 16_384])).unwrap();
    let heard = reader.feed(&frame(EVENT | NORMAL, b"kkhello")).unwrap();
    let header = MessageHeader::Event { kind: u16::from_le_bytes(*b"kk") };
    let payload = Bytes::from_static(b"hello");
    assert_eq!(heard, [WireMessage::Message { lane: Lane::Normal, header, payload }]);
    let cancel = reader.feed(&frame(CANCEL, &9u32.to_le_bytes())).unwrap();
    let header = MessageHeader::Cancel { id: 9 };
    assert_eq!(cancel, [WireMessage::Message { lane: Lane::Control, header, payload: Bytes::new() }]);
}

#[test]
fn an_abort_drops_the_open_message_and_only_that() {
    let native = small();
    let mut reader = Reader::new(&native);
    reader.feed(&frame(EVENT | BULK | MORE, &[1; 16_384])).unwrap();
    reader.feed(&frame(EVENT | NORMAL | MORE, &[2; 1024])).unwrap();
    let both = reader.buffered();
    assert!(both >= 16_382 + 1022);
    let heard = reader.feed(&frame(CONTROL, &[4, 3])).unwrap();
    assert_eq!(heard, [WireMessage::Control(Control::Abort { lane: Lane::Bulk })]);
    let one = reader.buffered();
    assert!((1022..=both - 16_382).contains(&one), "{one} of {both} bytes are left");
    // The lane is free again, and what was dropped cannot be continued.
    assert_eq!(reader.feed(&frame(EVENT | BULK, b"kk")).unwrap().len(), 1);
    let continued = reader.feed(&frame(EVENT | BULK | CONTINUES, b"rest")).unwrap_err();
    assert_eq!(continued, WireError::NothingToContinue { lane: Lane::Bulk });
}

#[test]
fn control_messages_are_exact() {
    let cases = [
        (vec![0], WireError::UnknownControl { code: 0 }),
        (vec![8, 1, 2], WireError::UnknownControl { code: 8 }),
        (vec![1; 8], WireError::ControlLength { control: "ping", size: 7, need: 8 }),
        (vec![2; 10], WireError::ControlLength { control: "pong", size: 9, need: 8 }),
        (vec![3; 6], WireError::ControlLength { control: "goodbye", size: 5, need: 6 }),
        (vec![4], WireError::ControlLength { control: "abort", size: 0, need: 1 }),
        (vec![4, 0], WireError::BadLane { code: 0 }),
        (vec![4, 4], WireError::BadLane { code: 4 }),
        (vec![4, 3], WireError::NothingToAbort { lane: Lane::Bulk }),
        (vec![5, 1, 2, 3], WireError::ControlLength { control: "get_peers", size: 3, need: 2 }),
        (vec![6, 3, 0], WireError::TooManyPeers { count: 3, cap: 2 }),
        (vec![6, 255, 255], WireError::TooManyPeers { count: 65_535, cap: 2 }),
        (vec![6, 1, 0, 4, 1, 2, 3, 4], WireError::ControlLength { control: "peers", size: 7, need: 9 }),
        (
            [&[6, 1, 0, 6][..], &[0; 17]].concat(),
            WireError::ControlLength { control: "peers", size: 20, need: 21 },
        ),
        (vec![6, 1, 0, 0, 1, 2, 3, 4, 5, 6], WireError::AddressFamily { code: 0 }),
        (vec![6, 1, 0, 9, 1, 2, 3, 4, 5, 6], WireError::AddressFamily { code: 9 }),
        (vec![6, 0, 0, 1], WireError::ControlLength { control: "peers", size: 3, need: 2 }),
        (vec![7, 1, 2], WireError::ControlLength { control: "missed", size: 2, need: 9 }),
        (vec![7, 0, 1, 0, 0, 0, 0, 0, 0, 0], WireError::BadLane { code: 0 }),
    ];
    for (body, want) in cases {
        assert_eq!(refusal(&frame(CONTROL, &body)), want, "{body:02x?}");
    }
}

#[test]
fn mapped_addresses_arrive_canonical() {
    let mut body = vec![6, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    body.extend_from_slice(&[192, 0, 2, 7, 0x34, 0x12]);
    let heard = Reader::new(&small()).feed(&frame(CONTROL, &body)).unwrap();
    let peer = "192.0.2.7:4660".parse().unwrap();
    assert_eq!(heard, [WireMessage::Control(Control::Peers(vec![peer]))]);
}

/// A hello's bytes with some replaced, from this offset on.
fn damaged(at: usize, with: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut hello = Hello::new(1, 2, Nonce([3; 16]));
    hello.agent = "agent".into();
    Native::default().encode_hello(&hello, &mut out).expect("a plain hello");
    out[at..at + with.len()].copy_from_slice(with);
    out.to_vec()
}

/// Offsets in the hello that [`damaged`] makes.
const VERSION: usize = 7;
const LISTEN: usize = 7 + 4 + 8 + 16 + 8;
const GENESIS: usize = LISTEN + 1;
const AGENT: usize = GENESIS + 1;
const APP: usize = AGENT + 1 + 5;

#[test]
fn greetings_are_refused_with_the_exact_reason() {
    let agent = WireError::Agent;
    let cases = [
        (vec![0x16], WireError::BadMagic),
        (vec![0x9d, b'P', b'P', b'M'], WireError::BadMagic),
        (damaged(4, &[3])[..5].to_vec(), WireError::UnknownFirstFrame { code: 3 }),
        (damaged(5, &[0xfa, 0x0f])[..7].to_vec(), WireError::FirstFrameTooLarge { size: 4097, cap: 4096 }),
        (damaged(5, &[3, 0]), WireError::FirstFrameTruncated { field: "version" }),
        (damaged(5, &[30, 0]), WireError::FirstFrameTruncated { field: "features" }),
        (damaged(LISTEN, &[6]), WireError::FirstFrameTruncated { field: "listen address" }),
        (damaged(LISTEN, &[5]), WireError::AddressFamily { code: 5 }),
        (damaged(GENESIS, &[1]), WireError::FirstFrameTruncated { field: "genesis" }),
        (damaged(GENESIS, &[2]), WireError::BadOptionTag { field: "genesis", code: 2 }),
        (damaged(AGENT, &[129]), agent(AgentError::TooLong { size: 129 })),
        (damaged(AGENT, &[8]), WireError::FirstFrameTruncated { field: "agent" }),
        (damaged(AGENT + 2, b"\n"), agent(AgentError::ControlCharacter)),
        (damaged(AGENT + 2, &[0x1b]), agent(AgentError::ControlCharacter)),
        (damaged(AGENT + 2, &[0xc2, 0x9b]), agent(AgentError::ControlCharacter)),
        (damaged(AGENT + 2, &[0xff]), agent(AgentError::NotUtf8)),
        (damaged(APP, &[1, 4]), WireError::AppTooLarge { size: 1025, cap: 1024 }),
        (damaged(APP, &[1, 0]), WireError::FirstFrameTruncated { field: "application bytes" }),
        (damaged(AGENT, &[4]), WireError::FirstFrameTruncated { field: "application bytes" }),
    ];
    let native = Native::default();
    for (bytes, want) in cases {
        assert_eq!(native.decode_first_frame(&bytes).unwrap_err(), want, "{bytes:02x?}");
        assert!(!want.to_string().is_empty());
    }
}

#[test]
fn a_later_versions_hello_decodes_as_far_as_we_know_it() {
    let mut bytes = damaged(VERSION, &[3]);
    bytes.extend_from_slice(b"later");
    bytes[5] += 5;
    let (greeting, used) = Native::default().decode_first_frame(&bytes).unwrap().unwrap();
    assert!(matches!(greeting, FirstFrame::Hello(hello) if hello.version == 3 && hello.agent == "agent"));
    assert_eq!(used, bytes.len());
    // Ours ends where it ends.
    bytes[VERSION] = 2;
    assert_eq!(
        Native::default().decode_first_frame(&bytes),
        Err(WireError::FirstFrameTrailingBytes { count: 5 })
    );
}

#[test]
fn an_incomplete_greeting_waits_only_within_the_cap() {
    let native = Native::default();
    let bytes = damaged(5, &[0xf9, 0x0f]);
    assert_eq!(native.decode_first_frame(&bytes), Ok(None));
    let full = [&bytes[..], &[0; 4096]].concat();
    let judged = native.decode_first_frame(&full[..4096]);
    assert!(matches!(judged, Err(WireError::FirstFrameTrailingBytes { .. })), "{judged:?}");
}

#[test]
fn refusals_are_exact() {
    let native = Native::default();
    let bytes = |version, addrs: usize| {
        let addrs = vec!["192.0.2.7:4660".parse().unwrap(); addrs];
        let full = Goodbye::new(GoodbyeReason::Full);
        let mut out = BytesMut::new();
        let encoded = native.encode_refusal(&Refusal { addrs, ..Refusal::new(full, version, 5) }, &mut out);
        encoded.map(|_| out.to_vec())
    };
    assert_eq!(bytes(2, 9), Err(EncodeError::TooManyPeers { count: 9, cap: 8 }));
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bytes = bytes(2, 8).unwrap();
        change(&mut bytes);
        native.decode_first_frame(&bytes).unwrap_err()
    };
    const COUNT: usize = 7 + 6 + 4 + 8;
    let truncated = |field| WireError::FirstFrameTruncated { field };
    let cut = |size: u8| {
        let mut bytes = bytes(2, 8).unwrap();
        bytes[5] = size;
        native.decode_first_frame(&bytes).unwrap_err()
    };
    assert_eq!(cut(5), truncated("reason"));
    assert_eq!(cut(9), truncated("version"));
    assert_eq!(cut(17), truncated("network"));
    assert_eq!(cut(18), truncated("addresses"));
    assert_eq!(cut(30), truncated("addresses"));
    assert_eq!(with(|bytes| bytes[COUNT] = 9), WireError::TooManyPeers { count: 9, cap: 8 });
    assert_eq!(with(|bytes| bytes[COUNT] = 7), WireError::FirstFrameTrailingBytes { count: 7 });
    assert_eq!(with(|bytes| bytes[COUNT + 1] = 9), WireError::AddressFamily { code: 9 });
    // What a later version adds is skipped: its number tells the dialler why it is refused.
    let mut later = bytes(3, 8).unwrap();
    later.push(0);
    later[5] += 1;
    let decoded = native.decode_first_frame(&later).unwrap().unwrap();
    assert!(matches!(decoded, (FirstFrame::Refusal(refusal), _) if refusal.version == 3));
}

#[test]
fn what_cannot_be_sent_is_said_with_sizes_and_leaves_no_bytes() {
    let native = small();
    let hello = Hello::new(1, 2, Nonce([3; 16]));
    let with = |change: fn(&mut Hello)| {
        let mut hello = hello.clone();
        change(&mut hello);
        let mut out = BytesMut::new();
        let result = native.encode_hello(&hello, &mut out);
        assert!(result.is_ok() || out.is_empty());
        result
    };
    let too_long = EncodeError::Agent(AgentError::TooLong { size: 129 });
    assert_eq!(with(|hello| hello.agent = "a".repeat(128)), Ok(()));
    assert_eq!(with(|hello| hello.agent = "a".repeat(129)), Err(too_long));
    let control = EncodeError::Agent(AgentError::ControlCharacter);
    assert_eq!(with(|hello| hello.agent = "a\tb".into()), Err(control));
    assert_eq!(with(|hello| hello.app = vec![0; 1024].into()), Ok(()));
    let app = EncodeError::AppTooLarge { size: 1025, cap: 1024 };
    assert_eq!(with(|hello| hello.app = vec![0; 1025].into()), Err(app));
    assert_eq!(with(|hello| hello.nonce = None), Err(EncodeError::Missing { field: "nonce" }));

    let mut out = BytesMut::new();
    let peers = Control::Peers(vec!["192.0.2.1:1".parse().unwrap(); 3]);
    let refused = Err(EncodeError::TooManyPeers { count: 3, cap: 2 });
    assert_eq!(native.encode_control(&peers, &mut out), refused);
    let abort = Control::Abort { lane: Lane::Control };
    assert_eq!(native.encode_control(&abort, &mut out), Err(EncodeError::BadLane));
    let cancel = native.encode(Lane::Normal, &MessageHeader::Cancel { id: 1 }, b"x", &mut out);
    assert_eq!(cancel, Err(EncodeError::CancelPayload { size: 1 }));
    assert!(out.is_empty());
}

#[test]
fn a_wait_is_rounded_up_and_ends_before_the_mark_of_none() {
    let native = Native::default();
    let heard = |wait| {
        let mut out = BytesMut::new();
        let goodbye = Goodbye::new(GoodbyeReason::Stale).retry_after(wait);
        native.encode_refusal(&Refusal::new(goodbye, Native::VERSION, 0), &mut out).unwrap();
        match native.decode_first_frame(&out).unwrap().unwrap().0 {
            FirstFrame::Refusal(refusal) => refusal.retry_after.unwrap(),
            FirstFrame::Hello(_) => panic!("a goodbye was sent"),
        }
    };
    assert_eq!(heard(Duration::ZERO), Duration::ZERO);
    assert_eq!(heard(Duration::from_micros(1)), Duration::from_millis(1));
    assert_eq!(heard(Duration::MAX), Duration::from_millis(u64::from(u32::MAX) - 1));
}
