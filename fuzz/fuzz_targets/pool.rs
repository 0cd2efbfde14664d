//! Operation sequences on the pool against a plain `HashMap`: the driver is the tests' own.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/common/pool_model.rs"]
mod pool_model;

fuzz_target!(|ops: Vec<[u8; 4]>| {
    pool_model::run(ops.into_iter().take(2_000).map(pool_model::Op::read));
});
