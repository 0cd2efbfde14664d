//! Handshakes: captured bytes, and what was tried on the network's own node.

use crate::frames::dump;
use bytes::{Bytes, BytesMut};
use peerpool::Nonce;
use peerpool::timecoin::wire::{HandshakeMessage, NetworkType, PeerSoftware, Software, TimeCoin};
use peerpool::wire::{
    AgentError, EncodeError, FirstFrame, Goodbye, GoodbyeReason, Hello, Protocol, Refusal, WireError,
};

const CAPTURED: &str = include_str!("../golden/timecoin_handshake.txt");
const MAX: usize = HandshakeMessage::MAX_SIZE;

/// The protocol of the node whose bytes were captured.
fn captured_protocol() -> TimeCoin {
    let mut software = Software::default();
    software.version = Some("0.6.4-ec2a412".into());
    software.commit_date = Some("2026-04-11T15:10:01-07:00".into());
    software.commit_count = Some("2059".into());
    software.capabilities = vec!["masternode".into(), "sync".into()];
    TimeCoin::testnet(software).clock(|| 1_795_348_544)
}

fn captured_hello() -> Hello {
    let app = concat!(
        r#"{"commit_date":"2026-04-11T15:10:01-07:00","commit_count":"2059","#,
        r#""wallet_address":null,"capabilities":["masternode","sync"]}"#
    );
    Hello {
        version: 1,
        network: 0x5449_4d45,
        nonce: None,
        features: 0,
        listen: Some("127.0.0.3:24100".parse().unwrap()),
        agent: "0.6.4-ec2a412".into(),
        genesis: None,
        app: Bytes::from_static(app.as_bytes()),
    }
}

fn decode(bytes: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError> {
    captured_protocol().decode_first_frame(bytes)
}

fn hello_of(bytes: &[u8]) -> Hello {
    match decode(bytes) {
        Ok(Some((FirstFrame::Hello(hello), used))) if used == bytes.len() => hello,
        other => panic!("{other:?}"),
    }
}

fn framed(magic: &[u8], text: &str) -> Vec<u8> {
    [magic, &(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

/// The captured handshake's text with a part of it replaced.
fn with(what: &str, by: &str) -> String {
    let bytes = dump(CAPTURED);
    let text = std::str::from_utf8(&bytes[8..]).unwrap();
    assert!(text.contains(what), "nothing to replace");
    text.replace(what, by)
}

#[test]
fn the_captured_handshake_round_trips_byte_for_byte() {
    let bytes = dump(CAPTURED);
    assert_eq!(bytes.len(), 274);
    assert_eq!(hello_of(&bytes), captured_hello());
    let mut out = BytesMut::new();
    captured_protocol().encode_hello(&captured_hello(), &mut out).unwrap();
    assert_eq!(&out[..], &bytes[..]);
}

#[test]
fn frames_after_a_handshake_stay_in_the_buffer() {
    let mut bytes = dump(CAPTURED);
    bytes.extend_from_slice(b"\0\0\0\x06\"Ping\"");
    assert_eq!(decode(&bytes), Ok(Some((FirstFrame::Hello(captured_hello()), 274))));
    for cut in 0..274 {
        assert_eq!(decode(&bytes[..cut]), Ok(None), "{cut}");
    }
}

#[test]
fn a_wrong_magic_is_refused_at_its_first_wrong_byte() {
    let others: [&[u8]; 5] = [b"\xc0", b"T\x49\x4d\x46", b"\x7e\x57\x7e\x4d", b"\0\0\0\x81", b"TA"];
    for magic in others {
        assert_eq!(decode(magic), Err(WireError::BadMagic), "{magic:02x?}");
    }
    let mainnet = TimeCoin::mainnet(Software::default());
    assert_eq!(mainnet.decode_first_frame(b"T"), Err(WireError::BadMagic));
    let text = with(r#""Testnet""#, r#""Mainnet""#);
    let bytes = framed(&[0xc0, 0x1d, 0x7e, 0x4d], &text);
    let Ok(Some((FirstFrame::Hello(hello), _))) = mainnet.decode_first_frame(&bytes) else {
        panic!("refused")
    };
    assert_eq!(hello.network, NetworkType::Mainnet.id());
}

#[test]
fn another_network_or_version_is_decoded_for_a_typed_refusal() {
    let hello = hello_of(&framed(b"TIME", &with(r#""Testnet""#, r#""Mainnet""#)));
    assert_eq!(hello.network, NetworkType::Mainnet.id());
    let hello = hello_of(&framed(b"TIME", &with(r#""protocol_version":1"#, r#""protocol_version":2"#)));
    assert_eq!(hello.version, 2);
}

#[test]
fn the_length_is_checked_before_the_payload() {
    let over = |size: usize| Err(WireError::FirstFrameTooLarge { size: size + 8, cap: MAX + 8 });
    assert_eq!(decode(b"TIME\x00\x10\x00\x01"), over(MAX + 1));
    assert_eq!(decode(b"TIME\xff\xff\xff\xff"), over(u32::MAX as usize));
    assert_eq!(decode(b"TIME\x00\x10\x00\x00"), Ok(None));
    let malformed = Err(WireError::Malformed { what: "handshake" });
    assert_eq!(decode(b"TIME\0\0\0\0"), malformed);
    assert_eq!(decode(&framed(b"TIME", "hello")), malformed);
    assert_eq!(decode(&framed(b"TIME", &with("2059\"", "2059\",\"commit_count\":null"))), malformed);

    let text = with("{\"version", "{    \"version");
    let padded = format!("{}{text}", " ".repeat(MAX - text.len()));
    assert_eq!(hello_of(&framed(b"TIME", &padded)), captured_hello());
    assert_eq!(captured_protocol().limits().hello, MAX + 8);
}

#[test]
fn texts_of_a_peer_are_truncated_and_sanitized() {
    let long = "é".repeat(500);
    let hello = hello_of(&framed(b"TIME", &with("0.6.4-ec2a412", &format!("a\\u001b[31m\\n{long}"))));
    assert!(hello.agent.starts_with("a [31m é") && hello.agent.len() <= Hello::MAX_AGENT);
    assert_eq!(Hello::validate_agent(hello.agent.as_bytes()), Ok(&*hello.agent));

    let many = vec![format!("\"{long}\""); 1000].join(",");
    let text = with(r#"["masternode","sync"]"#, &format!("[{many}]"))
        .replace(r#""wallet_address":null"#, &format!(r#""wallet_address":"{long}""#));
    let hello = hello_of(&framed(b"TIME", &text));
    let software = PeerSoftware::of(&hello.app).unwrap();
    assert_eq!(software.capabilities, vec!["é".repeat(128); 16]);
    assert_eq!(software.wallet_address, Some("é".repeat(128)));
    assert!(hello.app.len() < 8 * 1024);
    assert_eq!(PeerSoftware::of(b"\x01\x02"), None);
}

#[test]
fn an_invalid_genesis_equals_no_hash() {
    let genesis = |text: &str| {
        let text = with(r#""genesis_hash":null"#, &format!(r#""genesis_hash":"{text}""#));
        hello_of(&framed(b"TIME", &text)).genesis
    };
    assert_eq!(genesis(&"0a".repeat(32)), Some([0x0a; 32]));
    for strange in ["", "short", &"zz".repeat(32), &"ab".repeat(33), &"+a".repeat(32), &"é".repeat(32)] {
        assert_eq!(genesis(strange), Some([0xff; 32]), "{strange}");
    }
    // Ours goes out as 64 digits.
    let mut out = BytesMut::new();
    let hello = Hello { genesis: Some([0x0a; 32]), ..captured_hello() };
    captured_protocol().encode_hello(&hello, &mut out).unwrap();
    assert_eq!(hello_of(&out).genesis, Some([0x0a; 32]));
}

#[test]
fn addresses_are_canonical_in_both_directions() {
    let heard = |listen: Option<&str>| {
        let mut out = BytesMut::new();
        let hello = Hello { listen: listen.map(|addr| addr.parse().unwrap()), ..captured_hello() };
        captured_protocol().encode_hello(&hello, &mut out).unwrap();
        let text = String::from_utf8_lossy(&out[8..]).into_owned();
        (text, hello_of(&out).listen.map(|addr| addr.to_string()))
    };
    let (text, listen) = heard(None);
    assert!(text.contains(r#""listen_addr":"0.0.0.0:0""#) && listen.is_none(), "{text}");
    let (text, listen) = heard(Some("[::ffff:192.0.2.1]:24100"));
    assert!(text.contains(r#""listen_addr":"192.0.2.1:24100""#), "{text}");
    assert_eq!(listen.as_deref(), Some("192.0.2.1:24100"));
    assert_eq!(heard(Some("[2001:db8::1]:9")).1.as_deref(), Some("[2001:db8::1]:9"));
    let mapped = hello_of(&framed(b"TIME", &with("127.0.0.3:24100", "[::ffff:127.0.0.3]:24100")));
    assert_eq!(mapped.listen, captured_hello().listen);
    let unspecified = hello_of(&framed(b"TIME", &with("127.0.0.3:24100", "0.0.0.0:24100")));
    assert_eq!(unspecified.listen, Some("0.0.0.0:24100".parse().unwrap()));
}

#[test]
fn unsupported_hello_fields_are_omitted_or_refused() {
    let protocol = captured_protocol();
    let mut out = BytesMut::new();
    let full = Hello {
        nonce: Some(Nonce([7; 16])),
        features: u64::MAX,
        app: Bytes::from_static(b"another protocol's"),
        ..captured_hello()
    };
    protocol.encode_hello(&full, &mut out).unwrap();
    assert_eq!(&out[..], dump(CAPTURED));

    let mut out = BytesMut::new();
    let other = Hello { network: NetworkType::Mainnet.id(), ..captured_hello() };
    let refused = EncodeError::Unsupported { what: "network but its own" };
    assert_eq!(protocol.encode_hello(&other, &mut out), Err(refused));
    let agent = Hello { agent: "a\nb".into(), ..captured_hello() };
    let refused = EncodeError::Agent(AgentError::ControlCharacter);
    assert_eq!(protocol.encode_hello(&agent, &mut out), Err(refused));
    let mut software = Software::default();
    software.wallet_address = Some("x".repeat(MAX));
    let refused = TimeCoin::testnet(software).encode_hello(&captured_hello(), &mut out);
    assert!(matches!(refused, Err(EncodeError::FirstFrameTooLarge { cap, .. }) if cap == MAX + 8));
    let goodbye = Goodbye::new(GoodbyeReason::Full);
    assert_eq!(protocol.encode_refusal(&Refusal::new(goodbye, 1, 0), &mut out), Ok(false));
    assert!(out.is_empty());

    // Without a version of its own the agent stands for it, and the system's clock gives the time.
    TimeCoin::testnet(Software::default()).encode_hello(&captured_hello(), &mut out).unwrap();
    let message = HandshakeMessage::decode(&out[8..]).unwrap();
    assert_eq!(message.version, "0.6.4-ec2a412");
    assert!(message.timestamp > 1_600_000_000);
    assert_eq!(message.capabilities, ["masternode", "sync", "peerpool"]);
}
