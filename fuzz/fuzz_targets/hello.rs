//! The native greeting over arbitrary bytes: no panic, waits only within the cap, never changes its mind with more
//! bytes, and what it accepts means the same when sent again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use peerpool::wire::{FirstFrame, Native, Protocol};

fuzz_target!(|input: (bool, &[u8])| {
    let (prefixed, bytes) = input;
    let native = Native::default();
    // Half of the inputs begin well, so that the fuzzer gets behind the magic.
    let buf = if prefixed { [&Native::MAGIC[..], bytes].concat() } else { bytes.to_vec() };
    let whole = native.decode_first_frame(&buf);
    if buf.len() >= native.limits().hello {
        assert!(!matches!(whole, Ok(None)), "waits beyond its cap");
    }
    // A verdict on the first bytes is the verdict on all of them; sampled, since each cut decodes anew.
    let stride = (buf.len() / 64).max(1);
    for cut in (0..buf.len()).step_by(stride) {
        match native.decode_first_frame(&buf[..cut]) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "changed its mind after {cut} bytes"),
        }
    }
    if let Ok(Some((greeting, used))) = whole {
        assert!(used <= buf.len() && used <= native.limits().hello);
        let mut again = BytesMut::new();
        match &greeting {
            FirstFrame::Hello(hello) => native.encode_hello(hello, &mut again).expect("was accepted"),
            FirstFrame::Goodbye(goodbye) => {
                assert!(native.encode_goodbye(goodbye, &mut again).expect("was accepted"));
            }
        }
        // A later version's hello may carry fields we do not know: its copy says less, and no longer claims to be complete.
        assert_eq!(native.decode_first_frame(&again), Ok(Some((greeting, again.len()))));
    }
});
