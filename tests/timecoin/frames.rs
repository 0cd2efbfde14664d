//! Frames: captured bytes, and what was tried on the network's own node.

use crate::conformance::{Reader, WireMessage};
use bytes::{Bytes, BytesMut};
use peerpool::Lane;
use peerpool::timecoin::wire::{Kind, NetworkMessage, Software, TimeCoin, UNKNOWN};
use peerpool::wire::{
    Control, DecodeStep, Decoder, EncodeError, FrameKind, MessageHeader, Payload, Protocol, Status, WireError,
};

const CAP: usize = 10_485_760;
const PING: WireMessage = WireMessage::Control(Control::Ping { token: 0 });
const PONG: WireMessage = WireMessage::Control(Control::Pong { token: 0 });

fn testnet() -> TimeCoin {
    TimeCoin::testnet(Software::default())
}

fn frame(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

fn event(kind: Kind, text: &str) -> WireMessage {
    said(MessageHeader::Event { kind: kind.code() }, text.as_bytes())
}

fn unknown(text: &[u8]) -> WireMessage {
    said(MessageHeader::Event { kind: UNKNOWN }, text)
}

fn said(header: MessageHeader, text: &[u8]) -> WireMessage {
    WireMessage::Message { lane: Lane::Normal, header, payload: Bytes::copy_from_slice(text) }
}

fn heard(bytes: &[u8]) -> Vec<WireMessage> {
    Reader::new(&testnet()).feed(bytes).unwrap()
}

/// Bytes out of a dump of 16 a line, as far as they go before the second column.
pub(crate) fn dump(text: &str) -> Vec<u8> {
    let bytes = text.lines().flat_map(|line| line.split('|').next().unwrap().split_whitespace().skip(1));
    bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// The frames that were captured from the network's own node: dumps of 16 bytes a line.
const CAPTURED: &str = include_str!("../golden/timecoin_frames.txt");

#[test]
fn captured_frames_round_trip_byte_for_byte() {
    let mut dumps = CAPTURED.split("# ").skip(1).map(|part| dump(part.split_once('\n').unwrap().1));
    let mut next = || dumps.next().unwrap();
    let protocol = testnet();
    let hash = "cd".repeat(32);
    let tip = NetworkMessage::UpdateTip { height: 42, hash };
    let request = NetworkMessage::BlockRequest { height: 42 };
    let response = NetworkMessage::BlockResponse { block: None };
    let text = |message: &NetworkMessage| message.to_bytes().unwrap();
    let place = Kind::BlockRequest.request_slot().unwrap();

    let (mut ping, mut pong) = (BytesMut::new(), BytesMut::new());
    assert!(protocol.encode_control(&Control::Ping { token: 9 }, &mut ping).unwrap());
    assert!(protocol.encode_control(&Control::Pong { token: 9 }, &mut pong).unwrap());
    let captured = next();
    assert_eq!((&ping[..], heard(&captured)), (&captured[..], vec![PING]));
    let captured = next();
    assert_eq!((&pong[..], heard(&captured)), (&captured[..], vec![PONG]));

    let mut out = BytesMut::new();
    protocol
        .encode(Lane::Normal, &MessageHeader::Event { kind: Kind::UpdateTip.code() }, &text(&tip), &mut out)
        .unwrap();
    let asks = MessageHeader::Request { id: place, kind: Kind::BlockRequest.code() };
    protocol.encode(Lane::Normal, &asks, &text(&request), &mut out).unwrap();
    let captured = next();
    assert_eq!(&out[..], &captured[..]);
    let want = [
        said(MessageHeader::Event { kind: Kind::UpdateTip.code() }, &text(&tip)),
        said(asks, &text(&request)),
    ];
    assert_eq!(heard(&captured), want);

    let mut out = BytesMut::new();
    let answers = MessageHeader::Response { id: place, status: Status::Ok };
    protocol.encode(Lane::Normal, &answers, &text(&response), &mut out).unwrap();
    let captured = next();
    assert_eq!(&out[..], &captured[..]);
    assert_eq!(
        heard(&captured),
        [said(MessageHeader::Event { kind: Kind::BlockResponse.code() }, &text(&response))]
    );
    assert!(dumps.next().is_none());
}

#[test]
fn decoding_does_not_depend_on_read_boundaries() {
    let texts =
        [r#""Ping""#, r#"{"UpdateTip":{"height":1,"hash":"a"}}"#, r#""Pong""#, r#"{"BlockchainHeight":7}"#];
    let bytes: Vec<u8> = texts.iter().flat_map(|text| frame(text.as_bytes())).collect();
    let want = [PING, event(Kind::UpdateTip, texts[1]), PONG, event(Kind::BlockchainHeight, texts[3])];
    assert_eq!(heard(&bytes), want);
    let protocol = testnet();
    let mut reader = Reader::new(&protocol);
    let one_by_one: Vec<WireMessage> = bytes.chunks(1).flat_map(|byte| reader.feed(byte).unwrap()).collect();
    assert_eq!(one_by_one, want);
}

#[test]
fn unknown_frames_keep_the_stream_in_step_and_their_bytes() {
    let strange: [&[u8]; 14] = [
        br#""Nope""#,
        br#"{"Nope":{"a":1}}"#,
        b"",
        b" ",
        b"[1,2]",
        b"7",
        b"{",
        b"{}",
        b"\"Ping",
        br#""Ping" x"#,
        br#"{"Ping":{}}"#,
        br#"{"UpdateTip" 1}"#,
        b"\xef\xbb\xbf\"Ping\"",
        &[0xff; 300],
    ];
    for text in strange {
        let bytes = [frame(text), frame(br#""Ping""#)].concat();
        assert_eq!(heard(&bytes), [unknown(text), PING], "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn names_are_found_despite_whitespace_and_escapes() {
    let forms = [
        r#"{"UpdateTip":[1,"a"]}"#,
        " \t\r\n{ \"UpdateTip\" : [1,\"a\"]}\n",
        r#"{"\u0055pdateTip":[1,"a"]}"#,
    ];
    for text in forms {
        assert_eq!(heard(&frame(text.as_bytes())), [event(Kind::UpdateTip, text)], "{text}");
    }
    let forms = [
        " \n \"Ping\" \n",
        r#"{"Ping":null}"#,
        r#"{ "Ping" : null } "#,
        r#""\u0050ing""#,
        r#"{"P\u0069ng":null}"#,
    ];
    for text in forms {
        assert_eq!(heard(&frame(text.as_bytes())), [PING], "{text}");
    }
    let all_escaped: String = "TransactionRejectedByNetwork".bytes().map(|b| format!("\\u{b:04x}")).collect();
    let text = format!(r#"{{"{all_escaped}":1}}"#);
    assert_eq!(heard(&frame(text.as_bytes())), [event(Kind::TransactionRejectedByNetwork, &text)]);
    let text = format!(r#"{{"{}\u0041":1}}"#, "A".repeat(5000));
    assert_eq!(heard(&frame(text.as_bytes())), [unknown(text.as_bytes())]);
}

#[test]
fn an_invalid_body_arrives_under_its_kind() {
    let text = r#"{"UpdateTip":{"height":-1}}"#;
    assert_eq!(heard(&frame(text.as_bytes())), [event(Kind::UpdateTip, text)]);
    let text = r#"{"BlockRequest":7}"#;
    let place = Kind::BlockRequest.request_slot().unwrap();
    let asks = MessageHeader::Request { id: place, kind: Kind::BlockRequest.code() };
    assert_eq!(heard(&frame(text.as_bytes())), [said(asks, text.as_bytes())]);
}

#[test]
fn the_limit_is_inclusive_and_checked_on_the_length() {
    let protocol = testnet();
    let over = WireError::FrameTooLarge { size: CAP + 1, cap: CAP };
    assert_eq!(Reader::new(&protocol).feed(&(CAP as u32 + 1).to_be_bytes()), Err(over));
    let over = WireError::FrameTooLarge { size: u32::MAX as usize, cap: CAP };
    assert_eq!(Reader::new(&protocol).feed(&[0xff; 4]), Err(over));

    // A ping in as many blanks as fit is a ping.
    let mut text = vec![b' '; CAP];
    text[CAP - 6..].copy_from_slice(br#""Ping""#);
    assert_eq!(heard(&frame(&text)), [PING]);

    let header = MessageHeader::Event { kind: Kind::GenesisBlock.code() };
    let mut out = BytesMut::from(&b"before"[..]);
    let payload = Bytes::from(vec![b' '; CAP + 1]);
    let refused = Err(EncodeError::TooLarge { lane: Lane::Urgent, size: CAP + 1, cap: CAP });
    assert_eq!(protocol.encode(Lane::Urgent, &header, &payload, &mut out), refused);
    assert_eq!(protocol.chunks(Lane::Urgent, header, payload.clone()).map(|_| ()), refused);
    assert_eq!(&out[..], b"before");
    assert_eq!(protocol.encode(Lane::Urgent, &header, &payload[..CAP], &mut out), Ok(()));
}

#[test]
fn a_magic_in_place_of_a_frame_is_refused() {
    let size = u32::from_be_bytes(*b"TIME") as usize;
    let protocol = testnet();
    assert_eq!(Reader::new(&protocol).feed(b"TIME"), Err(WireError::FrameTooLarge { size, cap: CAP }));
}

#[test]
fn a_long_frame_allocates_as_it_arrives_and_frees_when_done() {
    let protocol = testnet();
    let mut decoder = protocol.decoder();
    // The length alone buys nothing.
    let announced = (CAP as u32).to_be_bytes();
    assert_eq!(decoder.step(&announced).unwrap(), DecodeStep::PartialFrame { used: 4 });
    assert_eq!((decoder.buffered(), decoder.step(&[]).unwrap()), (0, DecodeStep::NeedMore));
    let piece = vec![b' '; 10_000];
    let mut came = 0;
    while came + piece.len() < CAP {
        assert_eq!(decoder.step(&piece).unwrap(), DecodeStep::PartialFrame { used: piece.len() });
        came += piece.len();
        let most = (2 * came + 4096).min(CAP);
        assert!((came..=most).contains(&decoder.buffered()), "{} held for {came}", decoder.buffered());
    }
    let DecodeStep::Message { used, payload: Payload::Owned(payload), .. } = decoder.step(&piece).unwrap()
    else {
        panic!("not complete")
    };
    assert_eq!((used, payload.len(), decoder.buffered()), (CAP - came, CAP, 0));
    assert_eq!(Vec::from(payload).capacity(), CAP);
    assert!(size_of_val(&decoder) <= 32);
}

#[test]
fn a_short_frame_is_borrowed_from_the_read_buffer() {
    let text = format!(r#"{{"GenesisBlock":"{}"}}"#, "x".repeat(16_000));
    let bytes = frame(text.as_bytes());
    let step = testnet().decoder().step(&bytes).map(|step| format!("{step:?}").contains("Borrowed"));
    assert_eq!(step, Ok(true));
}

#[test]
fn cancels_and_refusals_of_non_requests_are_not_sent() {
    let protocol = testnet();
    let silent = [
        MessageHeader::Response { id: 71, status: Status::NoReply },
        MessageHeader::Response { id: u32::MAX, status: Status::Busy },
        MessageHeader::Response { id: Kind::GetBlocks.code().into(), status: Status::Busy },
        // Votes are broadcast: no caller waits for a reply to each.
        MessageHeader::Response {
            id: Kind::ConsensusBlockVote.request_slot().unwrap(),
            status: Status::NoReply,
        },
        MessageHeader::Cancel { id: 1 },
    ];
    for header in silent {
        let mut out = BytesMut::new();
        assert_eq!(protocol.encode(Lane::Normal, &header, b"", &mut out), Ok(()));
        assert!(out.is_empty());
        let chunks: Vec<_> = protocol.chunks(Lane::Normal, header, Bytes::new()).unwrap().collect();
        assert_eq!((chunks.len(), chunks[0].wire_len(), chunks[0].last), (1, 0, true));
    }
    let mut out = BytesMut::new();
    let cancel = protocol.encode(Lane::Normal, &MessageHeader::Cancel { id: 1 }, b"x", &mut out);
    assert_eq!(cancel, Err(EncodeError::CancelPayload { size: 1 }));
}

#[test]
fn a_refusal_is_a_frame_for_peerpool_nodes_only() {
    let protocol = testnet();
    let place = Kind::GetBlocks.request_slot().unwrap();
    for (status, code) in [(Status::NoReply, 1), (Status::Busy, 3), (Status::Other(200), 200)] {
        let header = MessageHeader::Response { id: place, status };
        let text = format!(r#"{{"Declined":{{"answer":"Blocks","status":{code}}}}}"#);
        // Which is the first of the two kinds that answer.
        let text = text.replace("Blocks", Kind::from_code(place as u16).unwrap().name());
        let mut out = BytesMut::new();
        // Why, in words, is left out.
        assert_eq!(protocol.encode(Lane::Normal, &header, b"because", &mut out), Ok(()));
        assert_eq!(&out[..], &frame(text.as_bytes())[..]);
        assert_eq!(heard(&out), [said(header, b"")]);
        let mut chunks = protocol.chunks(Lane::Normal, header, Bytes::from_static(b"because")).unwrap();
        let chunk = chunks.next().unwrap();
        assert_eq!([&chunk.header[..], &chunk.payload[..]].concat(), out);
        assert!(chunks.next().is_none());
    }
    // Whatever differs is a message without a name of ours, and so what says that there is an
    // answer.
    for text in [
        r#"{"Declined":{"answer":"Ping","status":1}}"#,
        r#"{"Declined":{"answer":"Nope","status":1}}"#,
        r#"{"Declined":{"answer":"ConsensusVoteAck","status":1}}"#,
        r#"{"Declined":{"answer":"PeerList","status":0}}"#,
        r#"{"Declined":{"answer":"PeerList","status":256}}"#,
        r#"{"Declined":{"answer":"PeerList"}}"#,
        r#"{"Declined":{"answer":"PeerList","status":1},"a":1}"#,
        r#"{"Declined":"#,
        r#"{ "Declined":{"answer":"PeerList","status":1}}"#,
    ] {
        assert_eq!(
            heard(&frame(text.as_bytes())),
            [said(MessageHeader::Event { kind: UNKNOWN }, text.as_bytes())]
        );
    }
}

#[test]
fn unknown_kinds_cannot_be_sent() {
    let protocol = testnet();
    for kind in [71, 1000, UNKNOWN] {
        for header in [MessageHeader::Event { kind }, MessageHeader::Request { id: 1, kind }] {
            let mut out = BytesMut::new();
            let refused = protocol.encode(Lane::Normal, &header, br#""Ping""#, &mut out);
            assert_eq!(refused, Err(EncodeError::Unsupported { what: "message of this kind" }));
            assert!(out.is_empty());
        }
    }
    let reserved =
        protocol.encode(Lane::Control, &MessageHeader::Event { kind: 2 }, b"", &mut BytesMut::new());
    assert_eq!(reserved, Err(EncodeError::ControlLaneReserved { kind: FrameKind::Event }));
}
