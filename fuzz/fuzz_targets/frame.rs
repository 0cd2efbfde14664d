//! The native decoder over arbitrary streams and read sizes: no panic, progress at every step,
//! memory within the limits and within twice the received bytes, and the same outcome for all read
//! sizes.
#![no_main]

use arbitrary::Arbitrary;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use peerpool::Lane;
use peerpool::wire::{Control, DecodeStep, Decoder, MessageHeader, Native, Protocol, WireError, WireLimits};

/// A piece of the stream: raw bytes, or a valid frame, so that the fuzzer gets past the header
/// checks.
#[derive(Arbitrary, Debug)]
enum Piece<'a> {
    Raw(&'a [u8]),
    Frame { flags: u8, len: u16, fill: u8, fields: [u8; 6] },
    Event { lane: u8, kind: u16, len: u16 },
    Ping(u64),
    Abort(u8),
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    pieces: Vec<Piece<'a>>,
    reads: Vec<u16>,
}

fuzz_target!(|input: Input| {
    let limits =
        WireLimits { urgent: 2_000, normal: 40_000, bulk: 100_000, peers: 16, ..WireLimits::default() };
    let native = Native::new(limits);
    let stream = stream(&native, &input.pieces);
    let whole = run(&native, &stream, &[u16::MAX]);
    let split = run(&native, &stream, &input.reads);
    assert_eq!(whole, split, "the read sizes changed the outcome");
});

fn stream(native: &Native, pieces: &[Piece]) -> BytesMut {
    let mut out = BytesMut::new();
    for piece in pieces {
        match *piece {
            Piece::Raw(bytes) => out.extend_from_slice(bytes),
            Piece::Frame { flags, len, fill, fields } => {
                let len = usize::from(len) % 16_500;
                out.extend_from_slice(&(len as u32 | u32::from(flags) << 24).to_le_bytes());
                let at = out.len();
                out.resize(at + len, fill);
                let shown = len.min(fields.len());
                out[at..at + shown].copy_from_slice(&fields[..shown]);
            }
            Piece::Event { lane, kind, len } => {
                let lane = Lane::ALL[usize::from(lane) % 4];
                let payload = vec![kind as u8; usize::from(len)];
                let _ = native.encode(lane, &MessageHeader::Event { kind }, &payload, &mut out);
            }
            Piece::Ping(token) => {
                let _ = native.encode_control(&Control::Ping { token }, &mut out);
            }
            Piece::Abort(lane) => {
                let lane = Lane::ALL[usize::from(lane) % 4];
                let _ = native.encode_control(&Control::Abort { lane }, &mut out);
            }
        }
    }
    out
}

/// The decoded messages, and the error at the end.
type Outcome = (Vec<(Lane, MessageHeader, Vec<u8>)>, Vec<Control>, Option<WireError>);

fn run(native: &Native, stream: &[u8], reads: &[u16]) -> Outcome {
    let limits = native.limits();
    let mut decoder = native.decoder();
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
                    assert!(payload.len() <= limits.message(lane));
                    messages.push((lane, header, payload.to_vec()));
                }
                DecodeStep::Control { control, .. } => controls.push(control),
                DecodeStep::Chunk { .. } | DecodeStep::PartialFrame { .. } => {}
            }
            assert!(used > 0 && used <= end - at, "no progress");
            at += used;
            assert!(decoder.buffered() <= limits.reassembly());
            assert!(decoder.buffered() <= 2 * at + 3 * 4096, "more memory than twice the received bytes");
        }
    }
    (messages, controls, None)
}
