//! Kernels against the oracle: the expressions of each region, evaluated at every index.

use std::collections::HashMap;

use netloom_ir::fuse::{Region, RegionKind};
use netloom_ir::kernel::{Expr, ExprId, Kernel, Store, Work, build};
use netloom_ir::tensor::unravel;
use netloom_ir::{Graph, Scalar, Tensor, oracle};

/// Compares the stores of each region's kernel, evaluated on the oracle's inputs to it, with the oracle. Gives the number of kernels
/// compared: prefixes, scatters and sorts have no stores of this kind.
///
/// The same sum in another order and type differs by rounding: `tolerance` is relative to the greatest element.
pub fn check_kernels(
    name: &str,
    graph: &Graph,
    regions: &[Region],
    inputs: &[(String, Tensor)],
    tolerance: f64,
) -> usize {
    let inputs: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    let values = oracle::run_all(graph, &inputs).unwrap_or_else(|problems| panic!("{name}: {problems}"));
    let mut compared = 0;
    for region in regions.iter().filter(|region| region.kind == RegionKind::Kernel) {
        let kernel = build::build(graph, region);
        let Work::Stores(stores) = &kernel.work else { continue };
        let arguments: Vec<&Tensor> = region.inputs.iter().map(|id| &*values[id.at()][0]).collect();
        let outputs: Vec<&Tensor> = region.outputs.iter().map(|id| &*values[id.at()][0]).collect();
        for store in stores {
            let output = store.buffer.at() - arguments.len();
            let expected = outputs[output];
            let found = run_store(&kernel, store, &arguments, expected);
            let scale = expected
                .scalars()
                .map(|x| x.as_f64().abs())
                .filter(|x| x.is_finite())
                .fold(1.0, f64::max);
            for (position, (found, expected)) in found.scalars().zip(expected.scalars()).enumerate() {
                let (found, expected) = (found.as_f64(), expected.as_f64());
                let equal = found == expected || (found.is_nan() && expected.is_nan());
                let id = region.outputs[output];
                assert!(
                    equal || (found - expected).abs() <= tolerance * scale,
                    "{name}: {id} = {} at {position} is {found} in its kernel and {expected} by its definition",
                    graph.node(id).op.name()
                );
            }
        }
        compared += 1;
    }
    compared
}

/// What one store writes; every element of `like`'s type must be written.
fn run_store(kernel: &Kernel, store: &Store, arguments: &[&Tensor], like: &Tensor) -> Tensor {
    let mut result = Tensor::zeros(like.dtype(), like.shape());
    let mut written = vec![false; like.count()];
    let extents: Vec<usize> = kernel.axes[..store.over].iter().map(|axis| axis.extent).collect();
    for point in 0..extents.iter().product() {
        let mut at = At {
            kernel,
            arguments,
            axes: vec![0; kernel.axes.len()],
            known: HashMap::new(),
        };
        at.axes[..store.over].copy_from_slice(&unravel(&extents, point));
        let index: Vec<usize> = store
            .index
            .iter()
            .map(|&place| at.value(place).as_i128() as usize)
            .collect();
        let position = index
            .iter()
            .zip(like.shape())
            .fold(0, |position, (at, extent)| position * extent + at);
        assert!(
            !std::mem::replace(&mut written[position], true),
            "an element is written twice"
        );
        result.set(position, at.value(store.value));
    }
    assert!(written.iter().all(|&written| written), "an element is not written");
    result
}

/// A place in the space of a kernel's axes, and the values known there.
struct At<'a> {
    kernel: &'a Kernel,
    arguments: &'a [&'a Tensor],
    axes: Vec<usize>,
    known: HashMap<ExprId, Scalar>,
}

impl At<'_> {
    fn value(&mut self, id: ExprId) -> Scalar {
        if let Some(&value) = self.known.get(&id) {
            return value;
        }
        let exprs = &self.kernel.exprs;
        let dtype = exprs.dtype(id);
        let value = match exprs.get(id) {
            Expr::Const(dtype, bits) => Scalar::from_bits(*bits, *dtype),
            Expr::Axis(axis) => Scalar::Int(self.axes[axis.at()] as i128),
            Expr::Load { buffer, index, guarded } => {
                let tensor = self.arguments[buffer.at()];
                let index: Vec<i128> = index.iter().map(|&place| self.value(place).as_i128()).collect();
                let inside = index
                    .iter()
                    .zip(tensor.shape())
                    .all(|(&at, &extent)| (0..extent as i128).contains(&at));
                assert!(inside || *guarded, "an unguarded load is inside its tensor");
                let position = index
                    .iter()
                    .zip(tensor.shape())
                    .fold(0, |position, (&at, &extent)| position * extent as i128 + at);
                if inside {
                    tensor.get(position as usize)
                } else {
                    Scalar::zero(dtype)
                }
            }
            Expr::Prim(prim, dtype, args) => {
                let from = exprs.dtype(args[0]);
                let args: Vec<Scalar> = args.iter().map(|&arg| self.value(arg)).collect();
                prim.eval(*dtype, from, &args)
            }
            Expr::Fold { with, over, value } => {
                let extents: Vec<usize> = over.iter().map(|axis| self.kernel.axes[axis.at()].extent).collect();
                let mut state = with.identity(dtype);
                for point in 0..extents.iter().product() {
                    let mut inner = At {
                        axes: self.axes.clone(),
                        known: HashMap::new(),
                        ..*self
                    };
                    for (axis, at) in over.iter().zip(unravel(&extents, point)) {
                        inner.axes[axis.at()] = at;
                    }
                    state = combine(*with, dtype, state, inner.value(*value));
                }
                state
            }
            Expr::Local(..) => unreachable!("a kernel has no registers"),
        };
        self.known.insert(id, value);
        value
    }
}

fn combine(with: netloom_ir::kernel::Combine, dtype: netloom_ir::DType, state: Scalar, value: Scalar) -> Scalar {
    let mut exprs = netloom_ir::kernel::Exprs::default();
    let (state, value) = (exprs.constant(dtype, state), exprs.constant(dtype, value));
    let combined = with.apply(&mut exprs, state, value);
    exprs.as_const(combined).expect("constants fold")
}
