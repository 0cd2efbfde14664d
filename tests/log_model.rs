//! The broadcast log against a plain list of messages, under random runs and under threads.
#![cfg(feature = "node")]

#[path = "common/log_model.rs"]
mod log_model;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_cursor_sees_what_it_was_promised(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
        log_model::run(&data);
    }
}
