//! Frames and handshakes of the legacy network. A message is chosen by the size of its frame: see
//! [`Kind`].

use bytes::Bytes;

use crate::common::native::WireFormat;
use crate::messages::Kind;

/// The TIME Coin protocol.
pub(crate) const TIMECOIN: WireFormat = WireFormat { frame, hello, answer_len };

/// A frame.
fn frame(size: usize) -> Bytes {
    let json = serde_json::to_vec(&Kind::of(size).message(0)).expect("a message");
    let length = u32::try_from(json.len()).expect("a short message");
    [&length.to_be_bytes()[..], &json].concat().into()
}

/// The handshake of a receiver. The number becomes the address that it advertises.
fn hello(number: u64) -> Vec<u8> {
    let [.., high, low] = number.to_be_bytes();
    let json = format!(
        concat!(
            r#"{{"version":"0.6.4-ec2a412","commit_date":null,"commit_count":"2059","protocol_version":1,"#,
            r#""network":"Testnet","listen_addr":"127.1.{}.{}:24100","timestamp":1795348544,"#,
            r#""capabilities":["masternode","sync"],"wallet_address":null,"genesis_hash":null}}"#
        ),
        high, low
    );
    let length = u32::try_from(json.len()).expect("a short handshake");
    [b"TIME", &length.to_be_bytes()[..], json.as_bytes()].concat()
}

/// The length of the answer to a handshake, once all of it is there.
fn answer_len(buf: &[u8]) -> Option<usize> {
    let length: [u8; 4] = buf.get(4..8)?.try_into().ok()?;
    assert_eq!(buf[..4], *b"TIME", "no handshake");
    let whole = 8 + u32::from_be_bytes(length) as usize;
    (buf.len() >= whole).then_some(whole)
}
