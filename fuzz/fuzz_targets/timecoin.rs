//! The TIME Coin network's frames, handshake and messages over arbitrary streams in arbitrary
//! reads: no panic, progress at every step, memory within twice what came, the same outcome
//! whatever the reads; and what parses means the same when written and read again.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use peerpool::Lane;
use peerpool::timecoin::wire::{HandshakeMessage, Kind, NetworkMessage, Software, TimeCoin, UNKNOWN};
use peerpool::wire::{Control, DecodeStep, Decoder, FirstFrame, MessageHeader, Protocol, WireError};

const SAMPLES: &str = include_str!("../../tests/golden/timecoin_messages.jsonl");
const GREETING: &[u8] = br#"{"version":"0.6.4","commit_date":null,"commit_count":null,"protocol_version":1,"network":"Testnet","listen_addr":"127.0.0.3:24100","timestamp":1,"capabilities":["sync"],"wallet_address":null,"genesis_hash":null}"#;

static DIALECT: LazyLock<TimeCoin> = LazyLock::new(|| TimeCoin::testnet(Software::default()).clock(|| 1));

/// A piece of the stream: raw bytes, or a frame, so that the fuzzer gets behind the length.
#[derive(Arbitrary, Debug)]
enum Piece<'a> {
    Raw(&'a [u8]),
    Frame(&'a [u8]),
    /// A captured message with some of its bytes replaced.
    Sample {
        which: u8,
        at: u16,
        with: &'a [u8],
    },
    /// The same after enough blanks that it arrives in parts.
    Padded {
        which: u8,
        blanks: u16,
    },
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    pieces: Vec<Piece<'a>>,
    reads: Vec<u16>,
    /// Replaces bytes of a handshake.
    greeting: (u16, &'a [u8]),
    /// A request and its answer, each a place among the pieces.
    pair: (u8, u8),
}

fuzz_target!(|input: Input| {
    let texts: Vec<Vec<u8>> = input.pieces.iter().map(text_of).collect();
    let mut stream = Vec::new();
    for (piece, text) in input.pieces.iter().zip(&texts) {
        if !matches!(piece, Piece::Raw(_)) {
            stream.extend_from_slice(&(text.len() as u32).to_be_bytes());
        }
        stream.extend_from_slice(text);
    }
    let whole = run(&stream, &[u16::MAX]);
    let split = run(&stream, &input.reads);
    assert_eq!(whole, split, "the reads made a difference");
    for text in &texts {
        message(text);
    }
    greeting(&replaced(GREETING, input.greeting.0, input.greeting.1));
    let pick = |at: u8| texts.get(usize::from(at)).map_or(&[][..], |text| text);
    pairs(pick(input.pair.0), pick(input.pair.1));
});

fn sample(which: u8) -> &'static [u8] {
    SAMPLES.lines().nth(usize::from(which) % 71).unwrap_or_default().as_bytes()
}

fn replaced(text: &[u8], at: u16, with: &[u8]) -> Vec<u8> {
    let at = usize::from(at) % (text.len() + 1);
    let end = text.len().min(at + with.len());
    [&text[..at], with, &text[end..]].concat()
}

fn text_of(piece: &Piece) -> Vec<u8> {
    match *piece {
        Piece::Raw(bytes) | Piece::Frame(bytes) => bytes.to_vec(),
        Piece::Sample { which, at, with } => replaced(sample(which), at, with),
        Piece::Padded { which, blanks } => [&vec![b' '; usize::from(blanks)], sample(which)].concat(),
    }
}

/// What was heard, and how it ended.
type Outcome = (Vec<(Lane, MessageHeader, Vec<u8>)>, Vec<Control>, Option<WireError>);

fn run(stream: &[u8], reads: &[u16]) -> Outcome {
    let limits = DIALECT.limits();
    let mut decoder = DIALECT.decoder();
    let (mut messages, mut controls) = (Vec::new(), Vec::new());
    let (mut at, mut end) = (0, 0);
    let mut reads = reads.iter().copied().chain(std::iter::repeat(u16::MAX));
    while end < stream.len() {
        end = stream.len().min(end + usize::from(reads.next().unwrap_or(u16::MAX)).max(1));
        loop {
            let step = match decoder.step(&stream[at..end]) {
                Ok(step) => step,
                Err(error) => return (messages, controls, Some(error)),
            };
            let used = step.used();
            match step {
                DecodeStep::NeedMore => {
                    assert!(end - at < limits.window, "needs more than its window");
                    break;
                }
                DecodeStep::Message { lane, header, payload, .. } => {
                    assert_eq!(lane, Lane::Normal);
                    heard(header, &payload);
                    messages.push((lane, header, payload.to_vec()));
                }
                DecodeStep::Control { control, .. } => controls.push(control),
                DecodeStep::Chunk { .. } => panic!("this dialect has no chunks"),
                DecodeStep::PartialFrame { .. } => {}
            }
            assert!(used > 0 && used <= end - at, "no progress");
            at += used;
            assert!(decoder.buffered() <= limits.reassembly());
            assert!(decoder.buffered() <= 2 * at + 4096, "more memory than twice what came");
        }
    }
    (messages, controls, None)
}

/// What the scan of a frame's start says agrees with the full parse, where that succeeds.
fn heard(header: MessageHeader, text: &[u8]) {
    let (kind, id) = match header {
        MessageHeader::Event { kind } => (kind, None),
        MessageHeader::Request { id, kind } => (kind, Some(id)),
        other => panic!("{other:?}"),
    };
    assert_eq!(Kind::from_code(kind).and_then(Kind::request_slot), id);
    if let Ok(message) = NetworkMessage::decode(text) {
        assert_eq!(message.kind().code(), kind);
        assert!(!matches!(message, NetworkMessage::Ping | NetworkMessage::Pong), "a ping as a message");
        assert_ne!(kind, UNKNOWN);
    }
}

/// What parses means the same when written and read again.
fn message(text: &[u8]) {
    match NetworkMessage::decode(text) {
        Ok(message) => {
            let written = message.to_bytes().expect("was read");
            let again = NetworkMessage::decode(&written).expect("was written");
            assert_eq!(again, message);
            assert_eq!(again.to_bytes().expect("was read"), written);
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.is_empty() && said.len() <= 303 && !said.chars().any(char::is_control));
        }
    }
}

fn greeting(text: &[u8]) {
    let whole = [b"TIME", &(text.len() as u32).to_be_bytes()[..], text].concat();
    let judged = DIALECT.decode_first_frame(&whole);
    for cut in 0..whole.len() {
        assert_eq!(DIALECT.decode_first_frame(&whole[..cut]), Ok(None), "judged after {cut} bytes");
    }
    assert_eq!(HandshakeMessage::decode(text).is_ok(), judged.is_ok());
    if let Ok(Some((FirstFrame::Hello(hello), used))) = judged {
        assert_eq!(used, whole.len());
        let mut again = BytesMut::new();
        // The other network's handshake is read, so that it can be refused by name, and cannot be
        // written.
        if hello.network != DIALECT.network().id() {
            assert!(DIALECT.encode_hello(&hello, &mut again).is_err() && again.is_empty());
            return;
        }
        DIALECT.encode_hello(&hello, &mut again).expect("was accepted");
        let Ok(Some((FirstFrame::Hello(same), _))) = DIALECT.decode_first_frame(&again) else {
            panic!("was written")
        };
        // The software it names is ours then.
        assert_eq!(peerpool::wire::Hello { app: hello.app.clone(), ..same }, hello);
    }
}

/// Comparing any request with any answer ends in a verdict.
fn pairs(asked: &[u8], reply: &[u8]) {
    let Some(pairs) = DIALECT.reply_matcher() else { return };
    for kind in Kind::ALL {
        for reply_kind in Kind::ALL.iter().filter(|reply| reply.reply_slot().is_some()) {
            let fits = pairs.is_reply_to(kind.code(), asked, reply_kind.code(), reply);
            assert!(!fits || kind.request_slot() == reply_kind.reply_slot());
        }
    }
}
