//! Memory of received messages: reassembly follows the received bytes, and single frames are not
//! copied.

use crate::conformance::{Reader, WireMessage};
use bytes::{Bytes, BytesMut};
use peerpool::Lane;
use peerpool::wire::{DecodeStep, Decoder, MessageHeader, Native, Payload, Protocol};

#[test]
fn reassembly_grows_with_the_received_bytes_and_never_beyond_the_limit() {
    let native = Native::default();
    let cap = native.limits().message(Lane::Normal);
    let payload = Bytes::from(vec![5; cap]);
    let mut reader = Reader::new(&native);
    let mut received = 0;
    for chunk in native.chunks(Lane::Normal, MessageHeader::Event { kind: 1 }, payload).unwrap() {
        received += chunk.payload.len();
        let messages = reader.feed(&[&chunk.header[..], &chunk.payload[..]].concat()).unwrap();
        assert_eq!(messages.len(), usize::from(chunk.last));
        let held = if chunk.last { 0..=0 } else { received..=(2 * received + 4096).min(cap) };
        assert!(held.contains(&reader.buffered()), "{} held for {received} bytes", reader.buffered());
    }
    assert_eq!(reader.frames, (cap + 2).div_ceil(16 * 1024));
}

#[test]
fn a_message_in_one_frame_is_borrowed_from_the_read_buffer() {
    let native = Native::default();
    let headers = [
        MessageHeader::Event { kind: 1 },
        MessageHeader::Request { id: 1, kind: 1 },
        MessageHeader::Response { id: 1, status: peerpool::wire::Status::Ok },
    ];
    for header in headers {
        let mut buf = BytesMut::new();
        native.encode(Lane::Normal, &header, &[9; 16_000], &mut buf).unwrap();
        let step = native.decoder().step(&buf).unwrap();
        let DecodeStep::Message { payload: Payload::Borrowed(payload), .. } = step else {
            panic!("copied: {step:?}")
        };
        assert!(buf.as_ptr_range().contains(&payload.as_ptr()));
    }
}

#[test]
fn a_kept_payload_pins_its_own_bytes_only() {
    let buf = vec![1u8; 100];
    let kept = Payload::Borrowed(&buf).into_bytes();
    assert!(!buf.as_ptr_range().contains(&kept.as_ptr()));
    let owned = Bytes::from(buf);
    assert_eq!(Payload::Owned(owned.clone()).into_bytes().as_ptr(), owned.as_ptr());

    // A reassembled payload has returned its unused capacity.
    let native = Native::default();
    let mut buf = BytesMut::new();
    native.encode(Lane::Bulk, &MessageHeader::Event { kind: 1 }, &[1; 50_000], &mut buf).unwrap();
    let Some(WireMessage::Message { payload, .. }) = Reader::new(&native).feed(&buf).unwrap().pop() else {
        panic!("one message")
    };
    assert_eq!(Vec::from(payload).capacity(), 50_000);
}

#[test]
fn a_decoder_without_partial_messages_is_small() {
    assert!(size_of::<<Native as Protocol>::Decoder>() <= 128);
}
