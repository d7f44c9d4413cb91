//! Kernels against the oracle, each on the oracle's inputs to it.

use netloom_ir::fuse::{Region, RegionKind};
use netloom_ir::kernel::{build, eval};
use netloom_ir::{Graph, Tensor, oracle};

/// Compares what each region's kernel means with the oracle.
///
/// The same sum in another order and type differs by rounding: `tolerance` is relative to the greatest element.
pub fn check_kernels(name: &str, graph: &Graph, regions: &[Region], inputs: &[(String, Tensor)], tolerance: f64) {
    let inputs: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    let values = oracle::run_all(graph, &inputs).unwrap_or_else(|problems| panic!("{name}: {problems}"));
    for region in regions.iter().filter(|region| region.kind == RegionKind::Kernel) {
        let arguments: Vec<Tensor> = region
            .inputs
            .iter()
            .map(|id| Tensor::clone(&values[id.at()][0]))
            .collect();
        let outputs = eval::run(&build::build(graph, region), &arguments);
        for (id, found) in region.outputs.iter().zip(outputs) {
            let expected = &values[id.at()][0];
            assert_eq!(found.ty(), expected.ty(), "{name}: type of {id} in its kernel");
            let magnitudes = expected.scalars().map(|x| x.as_f64().abs());
            let scale = magnitudes.filter(|x| x.is_finite()).fold(1.0, f64::max);
            for (position, (found, expected)) in found.scalars().zip(expected.scalars()).enumerate() {
                let (found, expected) = (found.as_f64(), expected.as_f64());
                let equal = found == expected || (found.is_nan() && expected.is_nan());
                assert!(
                    equal || (found - expected).abs() <= tolerance * scale,
                    "{name}: {id} = {} at {position} is {found} in its kernel and {expected} by its definition",
                    graph.node(*id).op.name()
                );
            }
        }
    }
}
