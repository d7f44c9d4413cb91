//! Random graphs: their gradients agree with finite differences, their kernels with the oracle.

mod support;

use netloom_ir::{DType, fuse, sample};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn gradients_agree_with_differences(choices in prop::collection::vec(any::<u8>(), 8..80), seed in any::<u64>()) {
        let graph = sample::graph(&choices, DType::F64);
        support::differences::check_gradients("random graph", &graph, &sample::inputs(&graph, seed), 1);
    }

    #[test]
    fn kernels_agree_with_the_oracle(choices in prop::collection::vec(any::<u8>(), 8..60), seed in any::<u64>()) {
        let graph = sample::graph(&choices, DType::F64);
        let inputs = sample::inputs(&graph, seed);
        // Functions are bodies good to a few units in f32; what follows them may amplify that.
        let tolerance = 1e-4;
        support::kernels::check_kernels("one node each", &graph, &fuse::singletons(&graph), &inputs, tolerance);
        support::kernels::check_kernels("fused", &graph, &fuse::regions(&graph), &inputs, tolerance);
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
        "gather", "scan",
    ] {
        assert!(seen.contains(name), "no graph has `{name}`, only {seen:?}");
    }
}
