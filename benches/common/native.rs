//! Frames and handshakes of the native protocol.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::{Bytes, BytesMut};
use peerpool::wire::{FirstFrame, Hello, MessageHeader, Native, Protocol};
use peerpool::{Lane, Nonce};

/// The kind of the messages that are sent.
pub(crate) const KIND: u16 = 7;

/// What a protocol puts on the wire, as far as receivers and raw writers need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WireFormat {
    /// One message with a payload of this many bytes, encoded.
    pub(crate) frame: fn(usize) -> Bytes,
    /// The hello of the receiver of this number.
    pub(crate) hello: fn(u64) -> Vec<u8>,
    /// The length of the answer to a hello, once all of it is there.
    pub(crate) answer_len: fn(&[u8]) -> Option<usize>,
}

/// The native protocol.
pub(crate) const NATIVE: WireFormat = WireFormat { frame, hello, answer_len };

/// A payload.
pub(crate) fn payload(size: usize) -> Bytes {
    (0..size).map(|at| b'a' + (at % 26) as u8).collect::<Vec<u8>>().into()
}

/// One message, encoded.
pub(crate) fn frame(size: usize) -> Bytes {
    let mut out = BytesMut::new();
    append_frame(&payload(size), &mut out);
    out.freeze()
}

/// Encodes one message.
pub(crate) fn append_frame(payload: &[u8], out: &mut BytesMut) {
    let header = MessageHeader::Event { kind: KIND };
    Native::default().encode(Lane::Normal, &header, payload, out).expect("a legal message");
}

/// The hello of the process and connection of this number.
pub(crate) fn hello(number: u64) -> Vec<u8> {
    hello_of_agent(number, "")
}

/// A hello that names the program, too.
pub(crate) fn hello_of_agent(number: u64, agent: &str) -> Vec<u8> {
    let mut nonce = [0u8; 16];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    let mut hello = Hello::new(Native::VERSION, 0, Nonce(nonce));
    hello.agent = agent.into();
    let mut out = BytesMut::new();
    Native::default().encode_hello(&hello, &mut out).expect("a legal hello");
    out.to_vec()
}

/// The length of the answer to a hello, once all of it is there.
///
/// # Panics
/// If it is a refusal.
pub(crate) fn answer_len(bytes: &[u8]) -> Option<usize> {
    let first = Native::default().decode_first_frame(bytes).expect("a first frame");
    first.map(|(first, used)| match first {
        FirstFrame::Hello(_) => used,
        FirstFrame::Refusal(refusal) => panic!("refused: {refusal:?}"),
    })
}

/// Connects, sends a hello and waits for the answer. Bytes after the answer stay unread.
pub(crate) fn connect(addr: SocketAddr, format: &WireFormat, number: u64) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("the bench listens");
    stream.set_nodelay(true).expect("a socket option");
    stream.write_all(&(format.hello)(number)).expect("the node reads");
    read_answer(&mut stream, format);
    stream
}

/// Reads the answer to a hello, and nothing that follows it.
pub(crate) fn read_answer(stream: &mut TcpStream, format: &WireFormat) {
    let (mut seen, mut some) = (Vec::new(), [0; 1024]);
    loop {
        let taken = seen.len();
        let count = stream.peek(&mut some).expect("an answer");
        assert!(count > 0, "the node closed the connection");
        seen.extend_from_slice(&some[..count]);
        let len = (format.answer_len)(&seen);
        stream.read_exact(&mut some[..len.unwrap_or(seen.len()) - taken]).expect("bytes that were seen");
        if len.is_some() {
            return;
        }
    }
}
