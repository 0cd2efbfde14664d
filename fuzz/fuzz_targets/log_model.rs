//! Operation sequences on the broadcast log against a plain list of messages.
#![no_main]

#[path = "../../tests/common/log_model.rs"]
mod log_model;

libfuzzer_sys::fuzz_target!(|data: &[u8]| log_model::run(data));
