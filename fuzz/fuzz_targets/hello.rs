//! The native first frame over arbitrary bytes: no panic, waits within the limit only, more bytes
//! never change the result, and an accepted frame means the same when it is encoded again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use peerpool::wire::{FirstFrame, Native, Protocol};

fuzz_target!(|input: (bool, &[u8])| {
    let (prefixed, bytes) = input;
    let native = Native::default();
    // Half of the inputs begin with the magic, so that the fuzzer gets past it.
    let buf = if prefixed { [&Native::MAGIC[..], bytes].concat() } else { bytes.to_vec() };
    let whole = native.decode_first_frame(&buf);
    if buf.len() >= native.limits().hello {
        assert!(!matches!(whole, Ok(None)), "waits beyond its limit");
    }
    // A result for a prefix is the result for all bytes. Sampled, since every prefix is decoded
    // anew.
    let step = (buf.len() / 64).max(1);
    for cut in (0..buf.len()).step_by(step) {
        match native.decode_first_frame(&buf[..cut]) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "another result after {cut} bytes"),
        }
    }
    if let Ok(Some((frame, used))) = whole {
        assert!(used <= buf.len() && used <= native.limits().hello);
        let mut again = BytesMut::new();
        match &frame {
            FirstFrame::Hello(hello) => native.encode_hello(hello, &mut again).expect("was accepted"),
            FirstFrame::Refusal(refusal) => {
                assert!(native.encode_refusal(refusal, &mut again).expect("was accepted"));
            }
        }
        // A first frame of a later version may have unknown fields, which its copy lacks.
        assert_eq!(native.decode_first_frame(&again), Ok(Some((frame, again.len()))));
    }
});
