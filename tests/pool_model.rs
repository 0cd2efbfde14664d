//! Random operation sequences on the pool, compared with a plain `HashMap`.

#[path = "common/pool_model.rs"]
mod pool_model;

use pool_model::Op;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_behaves_like_a_plain_map(ops in prop::collection::vec(any::<[u8; 4]>().prop_map(Op::read), 1..300)) {
        pool_model::run(ops);
    }
}
