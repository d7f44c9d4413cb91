//! Regions and kernels of whole graphs: their text, and their values against the oracle.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use netloom_ir::fuse::{Region, RegionKind, regions, singletons};
use netloom_ir::kernel::{self, Combine};
use netloom_ir::ops::{
    Conv, Einsum, Fold, Gather, MapDef, Pool, Prefix, Scatter, Sort, map, pool::PoolKind, pool::Window,
};
use netloom_ir::{Builder, DType, Graph, NodeId, Op, Scalar, Tensor, Val, autodiff, oracle};
use proptest::prelude::*;

fn einsum<'g>(spec: &str, a: Val<'g>, b: Val<'g>) -> Val<'g> {
    let (operands, out) = spec.split_once("->").expect("an arrow");
    let (left, right) = operands.split_once(',').expect("a comma");
    let [left, right, out] = [left, right, out].map(|letters| letters.chars().collect());
    a.builder().push(Op::Einsum(Einsum { left, right, out }), &[a, b])
}

fn fold<'g>(x: Val<'g>, with: Combine, axis: usize) -> Val<'g> {
    x.builder().push(Op::Fold(Fold { with, axes: vec![axis] }), &[x])
}

/// A fold whose axis stays, with extent 1.
fn kept<'g>(x: Val<'g>, with: Combine, axis: usize) -> Val<'g> {
    let mut shape = x.shape();
    shape[axis] = 1;
    fold(x, with, axis).reshape(shape)
}

fn unary<'g>(name: &str, x: Val<'g>) -> Val<'g> {
    Val::map(row(name), &[x])
}

fn binary<'g>(name: &str, a: Val<'g>, b: Val<'g>) -> Val<'g> {
    Val::map(row(name), &[a, b])
}

fn row(name: &str) -> &'static MapDef {
    map::Map::named(name).unwrap_or_else(|| panic!("no row `{name}`")).0
}

fn relu(x: Val<'_>) -> Val<'_> {
    binary("max", x, x.lit(0.0))
}

fn softmax(x: Val<'_>) -> Val<'_> {
    let axis = x.rank() - 1;
    let e = unary("exp", x - kept(x, Combine::Max, axis));
    e / kept(e, Combine::Sum, axis)
}

/// A number in -1..1 for each element, the same at each run.
fn sample(graph: &Graph) -> Vec<(&str, Tensor)> {
    let tensor = |id: NodeId, salt: usize| {
        let ty = graph.ty(id);
        let value = |at: usize| {
            let x = ((at * 7919 + salt * 104_729 + 13) % 2003) as f64 / 1001.5 - 1.0;
            if ty.dtype.is_float() {
                x
            } else {
                (x * 4.0).abs().floor()
            }
        };
        Tensor::from_scalars(
            ty.dtype,
            ty.shape.clone(),
            (0..ty.count()).map(|at| Scalar::from_f64(value(at), ty.dtype)),
        )
    };
    let named = graph
        .inputs()
        .iter()
        .enumerate()
        .map(|(salt, &id)| match &graph.node(id).op {
            Op::Input(input) => (input.name.as_str(), tensor(id, salt)),
            op => unreachable!("`{}` among the inputs", op.name()),
        });
    named.collect()
}

/// Each output is written once, and nothing is read before it is written.
fn check_order(graph: &Graph, regions: &[Region]) {
    let mut is_ready: Vec<bool> = graph
        .nodes()
        .map(|(_, node)| matches!(node.op, Op::Input(_) | Op::Const(_)))
        .collect();
    for region in regions {
        for input in &region.inputs {
            assert!(is_ready[input.at()], "{region} reads {input}, which is not written yet");
        }
        for output in &region.outputs {
            assert!(
                !std::mem::replace(&mut is_ready[output.at()], true),
                "{output} is written twice"
            );
        }
    }
    for (name, id) in &graph.outputs {
        assert!(is_ready[id.at()], "`{name}` is not written");
    }
}

/// Runs each region on the oracle's values of what it reads, and compares what it writes.
fn check_values(graph: &Graph, regions: &[Region]) -> Result<(), TestCaseError> {
    let values = oracle::run_all(graph, &sample(graph)).expect("valid inputs");
    for region in regions.iter().filter(|region| region.kind == RegionKind::Kernel) {
        let kernel = kernel::build::build(graph, region);
        let inputs: Vec<Tensor> = region.inputs.iter().map(|id| (*values[id.at()][0]).clone()).collect();
        let results = kernel::eval::run(&kernel, &inputs);
        for (id, found) in region.outputs.iter().zip(results) {
            let wanted: &Arc<Tensor> = &values[id.at()][0];
            prop_assert_eq!(found.ty(), wanted.ty());
            for (at, (found, wanted)) in found.scalars().zip(wanted.scalars()).enumerate() {
                let (a, b) = (found.as_f64(), wanted.as_f64());
                // Regions round as the oracle does but for the bodies of maps, a few ulps each.
                let is_close =
                    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 2e-5 * (1.0 + a.abs().max(b.abs()));
                prop_assert!(
                    is_close,
                    "{} at {}: {} instead of {}\n{}\n{}",
                    id,
                    at,
                    a,
                    b,
                    region,
                    kernel
                );
            }
        }
    }
    Ok(())
}

/// Checks a graph fused and not, and gives the text of its regions and their kernels.
fn text(graph: &Graph) -> String {
    for regions in [regions(graph), singletons(graph)] {
        check_order(graph, &regions);
        check_values(graph, &regions).unwrap();
    }
    let mut text = format!("{graph}----\n");
    for region in regions(graph) {
        writeln!(text, "{region}").unwrap();
        if region.kind == RegionKind::Kernel {
            write!(text, "{}", kernel::build::build(graph, &region)).unwrap();
        }
    }
    text
}

fn mlp_step() -> Graph {
    let b = Builder::new();
    let f32 = |name, shape: &[usize]| b.input(name, DType::F32, shape);
    let (x, y) = (f32("x", &[8, 12]), f32("y", &[8, 10]));
    let (w1, b1) = (f32("w1", &[12, 16]), f32("b1", &[16]));
    let (w2, b2) = (f32("w2", &[16, 10]), f32("b2", &[10]));
    let h = relu(einsum("mk,kn->mn", x, w1) + b1);
    let logits = einsum("mk,kn->mn", h, w2) + b2;
    let shifted = logits - kept(logits, Combine::Max, 1);
    let log_sum = unary("log", fold(unary("exp", shifted), Combine::Sum, 1));
    let loss = fold(log_sum - fold(shifted * y, Combine::Sum, 1), Combine::Sum, 0) * 0.125;
    let params = [("w1", w1), ("b1", b1), ("w2", w2), ("b2", b2)];
    let grads = autodiff::grad(loss, &params.map(|(_, param)| param));
    let next = params
        .iter()
        .zip(grads)
        .map(|(&(name, param), grad)| (name, param - grad * 0.1));
    b.finish(next.chain([("loss", loss)]).collect::<Vec<_>>()).unwrap()
}

fn softmax_rows() -> Graph {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [4, 40]);
    b.finish([("y", softmax(x))]).unwrap()
}

fn layer_norm() -> Graph {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [6, 24]);
    let (gain, bias) = (b.input("gain", DType::F32, [24]), b.input("bias", DType::F32, [24]));
    let mean = kept(x, Combine::Sum, 1) / 24.0;
    let centred = x - mean;
    let variance = kept(centred * centred, Combine::Sum, 1) / 24.0;
    let y = centred / unary("sqrt", variance + 1e-5) * gain + bias;
    b.finish([("y", y), ("mean", mean)]).unwrap()
}

fn conv_relu_pool() -> Graph {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [2, 3, 8, 8]);
    let w = b.input("w", DType::F32, [4, 3, 3, 3]);
    let bias = b.input("bias", DType::F32, [4]);
    let conv = Conv {
        stride: vec![1, 1],
        pad_low: vec![1, 1],
        pad_high: vec![1, 1],
        input_dilation: vec![1, 1],
        kernel_dilation: vec![1, 1],
        groups: 1,
    };
    let h = relu(b.push(Op::Conv(conv), &[x, w]) + bias.reshape([4, 1, 1]));
    let pool = Pool {
        kind: PoolKind::Max,
        window: Window {
            size: vec![2, 2],
            stride: vec![2, 2],
            pad_low: vec![0, 0],
            pad_high: vec![0, 0],
            dilation: vec![1, 1],
        },
    };
    let y = b.push(Op::Pool(pool), &[h]);
    b.finish([("y", y.reshape([2, 64]))]).unwrap()
}

/// A convolution's gradient that goes back through a max pool.
fn pool_step(window: Window) -> Graph {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [2, 3, 8, 8]);
    let w = b.input("w", DType::F32, [4, 3, 3, 3]);
    let unit = Conv {
        stride: vec![1, 1],
        pad_low: vec![0, 0],
        pad_high: vec![0, 0],
        input_dilation: vec![1, 1],
        kernel_dilation: vec![1, 1],
        groups: 1,
    };
    let y = relu(b.push(Op::Conv(unit), &[x, w])).max_pool(window);
    let v = b.input("v", DType::F32, [y.ty().count() / 2, 5]);
    let z = einsum("mk,kn->mn", y.reshape([2, y.ty().count() / 2]), v);
    let loss = fold(z.reshape([10]), Combine::Sum, 0);
    let grad = autodiff::grad(loss, &[w])[0];
    b.finish([("loss", loss), ("grad", grad)]).unwrap()
}

fn adam() -> Graph {
    let b = Builder::new();
    let f32 = |name, shape: &[usize]| b.input(name, DType::F32, shape);
    let (x, dy) = (f32("x", &[5, 6]), f32("dy", &[5, 7]));
    let [p, m, v] = ["p", "m", "v"].map(|name| f32(name, &[6, 7]));
    let g = einsum("bi,bo->io", x, dy);
    let next_m = m * 0.9 + g * 0.1;
    let next_v = unary("abs", v) * 0.999 + g * g * 0.001;
    let next_p = p - next_m / (unary("sqrt", next_v) + 1e-8) * 0.01;
    b.finish([("p", next_p), ("m", next_m), ("v", next_v)]).unwrap()
}

/// `A · x · Aᵀ` for a square of every channel, and what is added to it.
fn transforms() -> Graph {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [5, 4, 4]);
    let elements: Vec<f32> = (0..8).map(|at| (at % 3) as f32 - 1.0).collect();
    let a = b.constant(Tensor::from_f32([2, 4], &elements));
    let both = einsum("cij,lj->cil", einsum("ckj,ik->cij", x, a), a);
    b.finish([("y", relu(both + b.input("bias", DType::F32, [5, 1, 1])))])
        .unwrap()
}

fn other_forms() -> Graph {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [4, 6]);
    let indices = b.input("indices", DType::I32, [5]);
    let prefix = Prefix {
        with: Combine::Sum,
        axis: 0,
        exclusive: true,
    };
    let sums = b.push(Op::Prefix(prefix), &[x * x]);
    let sort = Sort {
        axis: 1,
        descending: true,
    };
    let order = b.push(Op::Sort(sort), &[-x]);
    let picked = b.push(Op::Gather(Gather { axis: 1 }), &[x + 1.0, indices]);
    let scatter = Scatter {
        axis: 1,
        with: Some(Combine::Sum),
    };
    let spread = b.push(Op::Scatter(scatter), &[x, indices, picked * 2.0]);
    b.finish([("sums", sums + 1.0), ("order", order), ("spread", spread)])
        .unwrap()
}

/// The joint norm of many gradients needs them all, and the update of each needs the norm; still no kernel has more tensors than a device binds.
#[test]
fn kernels_read_only_so_many_tensors() {
    let b = Builder::new();
    let xs: Vec<Val<'_>> = (0..60)
        .map(|at| b.input(&format!("x{at}"), DType::F32, [3 + at % 5, 4]))
        .collect();
    let squares = xs.iter().map(|&x| fold(fold(x * x, Combine::Sum, 1), Combine::Sum, 0));
    let norm = unary("sqrt", squares.reduce(|a, b| a + b).expect("sixty"));
    let scaled = xs.iter().enumerate().map(|(at, &x)| (format!("y{at}"), x / norm));
    let graph = b.finish(scaled).unwrap();
    let regions = regions(&graph);
    for region in &regions {
        assert!(region.inputs.len() + region.outputs.len() <= 32, "{region}");
    }
    check_order(&graph, &regions);
    check_values(&graph, &regions).unwrap();
}

#[test]
fn known_graphs_are_cut_as_before() {
    let graphs = [
        ("mlp_step", mlp_step()),
        ("softmax", softmax_rows()),
        ("layer_norm", layer_norm()),
        ("conv_relu_pool", conv_relu_pool()),
        ("pool_tiling", pool_step(Window::tiling([2, 2]))),
        (
            "pool_overlapping",
            pool_step(Window {
                stride: vec![2, 2],
                pad_low: vec![1, 1],
                ..Window::sliding([3, 3])
            }),
        ),
        ("adam", adam()),
        ("transforms", transforms()),
        ("other_forms", other_forms()),
    ];
    for (name, graph) in graphs {
        insta::assert_snapshot!(name, text(&graph));
    }
}

/// One step of a random graph: what to do, and to which of the values so far.
type Step = (u8, usize, usize);

fn random_graph(steps: &[Step], outputs: &[usize]) -> Graph {
    let b = Builder::new();
    let mut values = vec![
        b.input("a", DType::F32, [4, 6]),
        b.input("b", DType::F32, [6]),
        b.input("c", DType::F32, [6, 4]),
    ];
    for &(what, left, right) in steps {
        let x = values[left % values.len()];
        // The nearest value of a shape that fits.
        let fits = |wanted: &dyn Fn(Val<'_>) -> bool| {
            let start = right % values.len();
            values[start..]
                .iter()
                .chain(&values[..start])
                .copied()
                .find(|&y| wanted(y))
        };
        let same = |x: Val<'_>| {
            let shape = x.shape();
            move |y: Val<'_>| y.shape() == shape
        };
        let value = match what % 14 {
            0 => unary("tanh", x),
            1 => relu(x),
            2 => x + fits(&same(x)).expect("itself"),
            3 => x * fits(&same(x)).expect("itself") * 0.5,
            4 if x.rank() == 2 => fold(x, Combine::Sum, right % 2),
            5 if x.rank() > 0 => kept(x, Combine::Max, right % x.rank()).broadcast(x.shape()),
            6 if x.rank() == 2 => x.permute([1, 0]),
            7 if x.rank() == 2 => x
                .reshape([x.shape()[0] * x.shape()[1]])
                .reshape([x.shape()[1], x.shape()[0]]),
            8 if x.rank() == 2 => match fits(&|y| y.rank() == 2 && y.shape()[0] == x.shape()[1]) {
                Some(y) => einsum("mk,kn->mn", x, y) * 0.25,
                None => x,
            },
            9 if x.rank() == 1 => match fits(&|y| y.rank() == 2 && y.shape()[1] == x.shape()[0]) {
                Some(y) => x + y,
                None => x,
            },
            10 if x.rank() == 2 => softmax(x),
            11 if x.rank() > 0 => fold(x.reshape([x.ty().count()]), Combine::Sum, 0) * 0.1,
            12 if x.rank() == 0 => x + fits(&|y| y.rank() == 2).expect("`a`"),
            13 => unary("exp", -x * x),
            _ => x * 0.5,
        };
        values.push(value);
    }
    let last = values.len() - 1;
    let mut named: HashMap<NodeId, String> = HashMap::new();
    for &at in outputs.iter().chain([&last]) {
        let value = values[at % values.len()];
        named.insert(value.id(), format!("o{}", value.id().0));
    }
    let mut named: Vec<(String, Val<'_>)> = named.into_iter().map(|(id, name)| (name, b.val(id))).collect();
    named.sort_by_key(|(_, value)| value.id());
    b.finish(named).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn random_graphs_keep_their_values(
        steps in prop::collection::vec((0_u8..14, 0_usize..64, 0_usize..64), 1..24),
        outputs in prop::collection::vec(0_usize..64, 0..4),
    ) {
        let graph = random_graph(&steps, &outputs);
        for regions in [regions(&graph), singletons(&graph)] {
            check_order(&graph, &regions);
            check_values(&graph, &regions)?;
        }
    }
}
