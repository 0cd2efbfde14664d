//! Operation sequences on the broadcast log against a plain list of messages, with the driver of
//! the integration tests.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/common/log_model.rs"]
mod log_model;

fuzz_target!(|data: &[u8]| log_model::run(data));
