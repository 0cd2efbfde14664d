//! The frozen bytes of the native protocol: see `tests/golden/README.md`.

use crate::conformance::{Reader, WireMessage};
use bytes::{Bytes, BytesMut};
use peerpool::wire::{
    Control, FirstFrame, Goodbye, GoodbyeReason, Hello, MessageHeader, Native, Protocol, Refusal, Status,
};
use peerpool::{Lane, Nonce};
use std::collections::HashMap;
use std::time::Duration;

const CHUNKS: &[u8] = include_bytes!("../golden/native_chunks.bin");

#[test]
fn every_frame_kind_has_its_frozen_bytes() {
    let message = |lane, header, payload: &'static [u8]| WireMessage::Message {
        lane,
        header,
        payload: Bytes::from_static(payload),
    };
    let id = 0xdead_beef;
    let retry = Goodbye::new(GoodbyeReason::Full).retry_after(Duration::from_secs(30));
    let peers = vec!["192.0.2.1:24100".parse().unwrap(), "[2001:db8::1]:9".parse().unwrap()];
    let token = 0x0102_0304_0506_0708;
    let messages = [
        ("event_urgent", message(Lane::Urgent, MessageHeader::Event { kind: 0x1234 }, b"vote")),
        ("event_normal_empty", message(Lane::Normal, MessageHeader::Event { kind: 7 }, b"")),
        ("request_normal", message(Lane::Normal, MessageHeader::Request { id, kind: 3 }, b"height?")),
        (
            "response_normal_ok",
            message(Lane::Normal, MessageHeader::Response { id, status: Status::Ok }, b"42"),
        ),
        (
            "response_bulk_other",
            message(Lane::Bulk, MessageHeader::Response { id: 1, status: Status::Other(200) }, b""),
        ),
        ("cancel_control", message(Lane::Control, MessageHeader::Cancel { id }, b"")),
        ("cancel_bulk", message(Lane::Bulk, MessageHeader::Cancel { id: 1 }, b"")),
        ("ping", WireMessage::Control(Control::Ping { token })),
        ("pong", WireMessage::Control(Control::Pong { token })),
        ("goodbye_full_retry", WireMessage::Control(Control::Goodbye(retry))),
        ("goodbye_other", WireMessage::Control(Control::Goodbye(Goodbye::new(GoodbyeReason::Other(999))))),
        ("abort_bulk", WireMessage::Control(Control::Abort { lane: Lane::Bulk })),
        ("get_peers", WireMessage::Control(Control::GetPeers { max: 32 })),
        ("peers", WireMessage::Control(Control::Peers(peers))),
        ("missed_bulk", WireMessage::Control(Control::Missed { lane: Lane::Bulk, count: 258 })),
    ];
    let mut golden = vectors(include_str!("../golden/native_frames.hex"));
    let native = Native::default();
    for (name, message) in messages {
        let want = golden.remove(name).unwrap_or_else(|| panic!("no vector {name}"));
        let mut out = BytesMut::new();
        match &message {
            WireMessage::Message { lane, header, payload } => {
                native.encode(*lane, header, payload, &mut out).unwrap()
            }
            WireMessage::Control(control) => assert!(native.encode_control(control, &mut out).unwrap()),
        }
        assert_eq!(hex(&out), hex(&want), "{name}");
        let mut reader = Reader::new(&native);
        if let WireMessage::Control(Control::Abort { lane }) = message {
            start_message(&native, &mut reader, lane);
        }
        assert_eq!(reader.feed(&want).unwrap(), [message], "{name}");
    }
    assert!(golden.is_empty(), "unused vectors: {golden:?}");
}

#[test]
fn every_first_frame_has_its_frozen_bytes() {
    let least = Hello::new(2, 0x454d_4954, Nonce(std::array::from_fn(|at| at as u8)));
    let ipv4 = Hello {
        features: 5,
        listen: Some("192.0.2.1:24100".parse().unwrap()),
        agent: "peerpool/0.1.0".into(),
        ..least.clone()
    };
    let full = Hello {
        features: 5,
        listen: Some("[2001:db8::1]:9".parse().unwrap()),
        genesis: Some([0xab; 32]),
        agent: "knöt/1".into(),
        app: Bytes::from_static(b"app bytes"),
        ..least.clone()
    };
    let banned = Refusal::new(Goodbye::new(GoodbyeReason::Banned), 2, 0x454d_4954);
    let retry = Goodbye::new(GoodbyeReason::Full).retry_after(Duration::from_secs(30));
    let addrs = vec!["192.0.2.1:24100".parse().unwrap(), "[2001:db8::1]:9".parse().unwrap()];
    let full_house = Refusal { addrs, ..Refusal::new(retry, 2, 0x454d_4954) };
    let frames = [
        ("hello_least", FirstFrame::Hello(least)),
        ("hello_ipv4", FirstFrame::Hello(ipv4)),
        ("hello_full", FirstFrame::Hello(full)),
        ("refusal_banned", FirstFrame::Refusal(banned)),
        ("refusal_full", FirstFrame::Refusal(full_house)),
    ];
    let mut golden = vectors(include_str!("../golden/native_greetings.hex"));
    let native = Native::default();
    for (name, frame) in frames {
        let want = golden.remove(name).unwrap_or_else(|| panic!("no vector {name}"));
        let mut out = BytesMut::new();
        match &frame {
            FirstFrame::Hello(hello) => native.encode_hello(hello, &mut out).unwrap(),
            FirstFrame::Refusal(refusal) => assert!(native.encode_refusal(refusal, &mut out).unwrap()),
        }
        assert_eq!(hex(&out), hex(&want), "{name}");
        assert_eq!(native.decode_first_frame(&want), Ok(Some((frame, want.len()))), "{name}");
    }
    assert!(golden.is_empty(), "unused vectors: {golden:?}");
}

#[test]
fn interleaved_chunks_have_their_frozen_bytes() {
    let body: Bytes = (0..20_000usize).map(|at| (at * 31 + at / 256) as u8).collect();
    let event = MessageHeader::Event { kind: 5 };
    let request = MessageHeader::Request { id: 8, kind: 1 };
    let response = MessageHeader::Response { id: 8, status: Status::Ok };

    let native = Native::default();
    let mut chunks = native.chunks(Lane::Bulk, event, body.clone()).unwrap();
    let mut out = BytesMut::new();
    let first = chunks.next().unwrap();
    out.extend_from_slice(&first.header);
    out.extend_from_slice(&first.payload);
    native.encode(Lane::Urgent, &request, b"now", &mut out).unwrap();
    native.encode_control(&Control::Ping { token: 1 }, &mut out).unwrap();
    let second = chunks.next().unwrap();
    out.extend_from_slice(&second.header);
    out.extend_from_slice(&second.payload);
    native.encode(Lane::Normal, &response, &body, &mut out).unwrap();
    assert!(out == CHUNKS, "chunked bytes differ");

    let received = Reader::new(&native).feed(CHUNKS).unwrap();
    let now = Bytes::from_static(b"now");
    let want = [
        WireMessage::Message { lane: Lane::Urgent, header: request, payload: now },
        WireMessage::Control(Control::Ping { token: 1 }),
        WireMessage::Message { lane: Lane::Bulk, header: event, payload: body.clone() },
        WireMessage::Message { lane: Lane::Normal, header: response, payload: body },
    ];
    assert_eq!(received, want);
}

/// Starts a message, since an abort is legal only on a lane with a partial message.
fn start_message(native: &Native, reader: &mut Reader<'_, Native>, lane: Lane) {
    let body = Bytes::from(vec![1; 20_000]);
    let first = native
        .chunks(lane, MessageHeader::Event { kind: 1 }, body)
        .expect("fits")
        .next()
        .expect("has chunks");
    assert_eq!(reader.feed(&[&first.header[..], &first.payload[..]].concat()).expect("own bytes"), []);
}

fn vectors(text: &str) -> HashMap<&str, Vec<u8>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').map(|(name, hex)| (name, unhex(hex))).expect("name and hex"))
        .collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
