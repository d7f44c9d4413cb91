//! Random graphs: their gradients agree with finite differences.

mod support;

use netloom_ir::{DType, sample};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn gradients_agree_with_differences(choices in prop::collection::vec(any::<u8>(), 8..80), seed in any::<u64>()) {
        let graph = sample::graph(&choices, DType::F64);
        support::check_gradients("random graph", &graph, seed, 1);
    }
}

#[test]
fn choices_reach_every_class() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200u64 {
        let mut state = seed;
        let noise = sample::tensor(&netloom_ir::Type::new(DType::F64, [60]), &mut state);
        let choices: Vec<u8> = noise.scalars().map(|x| (x.as_f64() * 127.0 + 128.0) as u8).collect();
        let graph = sample::graph(&choices, DType::F32);
        seen.extend(graph.nodes().map(|(_, node)| node.op.name()));
    }
    for name in [
        "add", "mul", "tanh", "sum", "fold_max", "reshape", "pad", "windows", "concat", "einsum", "conv", "max_pool",
        "gather",
    ] {
        assert!(seen.contains(name), "no graph has `{name}`, only {seen:?}");
    }
}
