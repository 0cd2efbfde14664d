//! The bytes that all contenders but JSON put on the line.

use bytes::{Bytes, BytesMut};
use peerpool::base::{Lane, Nonce};
use peerpool::wire::{FirstFrame, Hello, MessageHeader, Native, Protocol, WireLimits};

/// The kind of the message that is sent.
pub(crate) const KIND: u16 = 7;

/// A payload.
pub(crate) fn payload(size: usize) -> Bytes {
    (0..size).map(|at| b'a' + (at % 26) as u8).collect::<Vec<u8>>().into()
}

/// One message, encoded.
pub(crate) fn frame(size: usize) -> Bytes {
    let mut out = BytesMut::new();
    let head = MessageHeader::Event { kind: KIND };
    let dialect = Native::new(WireLimits::default());
    dialect.encode(Lane::Normal, &head, &payload(size), &mut out).expect("a legal message");
    out.freeze()
}

/// The hello of a receiver; `number` makes its nonce.
pub(crate) fn hello(number: u64) -> Vec<u8> {
    let mut nonce = [0u8; 16];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    let hello = Hello::new(Native::VERSION, 0, Nonce(nonce));
    let mut out = BytesMut::new();
    Native::new(WireLimits::default()).encode_hello(&hello, &mut out).expect("a legal hello");
    out.to_vec()
}

/// How many bytes of `buf` are the answer to a hello, once it is whole.
///
/// # Panics
/// If it is a refusal.
pub(crate) fn answer(buf: &[u8]) -> Option<usize> {
    let greeting = Native::new(WireLimits::default()).decode_first_frame(buf).expect("a greeting");
    greeting.map(|(greeting, used)| match greeting {
        FirstFrame::Hello(_) => used,
        FirstFrame::Goodbye(goodbye) => panic!("refused: {goodbye:?}"),
    })
}
