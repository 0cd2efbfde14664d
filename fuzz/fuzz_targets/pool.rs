//! Operation sequences on the pool, compared with a plain `HashMap` by the tests' driver.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/common/pool_model.rs"]
mod pool_model;

fuzz_target!(|ops: Vec<[u8; 4]>| {
    pool_model::run(ops.into_iter().take(2_000).map(pool_model::Op::read));
});
