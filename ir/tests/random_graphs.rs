//! Random graphs: their gradients agree with finite differences, their kernels with the oracle.

mod support;

use netloom_ir::fuse::Region;
use netloom_ir::{DType, NodeId, fuse, sample, text};
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

    #[test]
    fn regions_read_back(choices in prop::collection::vec(any::<u8>(), 0..80)) {
        let cut = fuse::cut(&sample::graph(&choices, DType::F32));
        prop_assert_eq!(text::parse("cut", &cut.to_string()), Ok(cut.clone()), "{}", &cut);
        prop_assert_eq!(text::from_json(&text::to_json(&cut)), Ok(cut.clone()), "{}", &cut);
        prop_assert_eq!(cut.regions(), fuse::regions(&cut.rebuild(|to, node, args| to.push(node.op.clone(), args))));
    }

    /// Whichever nodes a text puts together, a kernel comes of it that computes what they do, or the text is refused.
    #[test]
    fn any_regions_are_kernels_or_refused(
        choices in prop::collection::vec(any::<u8>(), 8..40),
        joined in prop::collection::vec(any::<bool>(), 40),
        seed in any::<u64>(),
    ) {
        let graph = sample::graph(&choices, DType::F64).rebuild(|to, node, args| to.push(node.op.clone(), args));
        let mut regions: Vec<Region> = Vec::new();
        for (region, join) in fuse::singletons(&graph).into_iter().zip(joined) {
            let both = regions.last().filter(|_| join).map(|last| {
                let both = |a: &[NodeId], b: &[NodeId]| a.iter().chain(b).copied().collect::<Vec<_>>();
                let (nodes, outputs) = (both(&last.nodes, &region.nodes), both(&last.outputs, &region.outputs));
                Region::new(&graph, nodes, outputs, Vec::new())
            });
            let may_be_joined = |both: &Region| {
                let all: Vec<Region> = regions[..regions.len() - 1].iter().chain([both]).cloned().collect();
                // What later regions write is missing yet.
                fuse::check(&graph, &all).err().is_none_or(|wrong| wrong.iter().all(|wrong| wrong.region.is_none()))
            };
            match both.filter(may_be_joined) {
                Some(both) => *regions.last_mut().expect("the one that it is joined to") = both,
                None => regions.push(region),
            }
        }
        prop_assume!(fuse::check(&graph, &regions).is_ok());
        support::kernels::check_kernels("joined by chance", &graph, &regions, &sample::inputs(&graph, seed), 1e-4);
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
