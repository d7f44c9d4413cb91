//! Loops of random bodies: their gradients are those of the steps written out, and what the passes make of them has the same bits. And what
//! the passes are for: nothing is left in a loop that need not be there.

use netloom_ir::ops::compound::Steps;
use netloom_ir::ops::{Op, Scan};
use netloom_ir::target::TargetKind;
use netloom_ir::{Builder, DType, Graph, Target, Tensor, Val, autodiff, oracle, passes, sample};
use proptest::prelude::*;

const TARGET: Target = Target {
    kind: TargetKind::Cpu,
    vector_lanes: 8,
    vector_registers: 16,
    invocations: 1,
    share_from: Target::SHARE_FROM,
    product_bytes: 0,
    workgroups: false,
    winograd: false,
    f16: false,
    pieces: false,
    matrices: None,
    tuned: netloom_ir::decisions::Tuned::NOTHING,
};

const ROWS: usize = 2;
const COLUMNS: usize = 3;

/// One op of a body on values made before, chosen by numbers.
#[derive(Clone, Copy, Debug)]
struct Choice {
    op: u8,
    left: u8,
    right: u8,
}

/// What a step computes: the next carried values, of `[ROWS, COLUMNS]`, and what is stacked.
fn step<'b>(choices: &[Choice], carried: &[Val<'b>], entry: Val<'b>, constants: &[Val<'b>]) -> [Vec<Val<'b>>; 2] {
    let (weight, bias) = (constants[0], constants[1]);
    let mut values = vec![carried[0], carried[1], entry];
    for choice in choices {
        let [a, b] = [choice.left, choice.right].map(|at| values[usize::from(at) % values.len()]);
        values.push(match choice.op % 12 {
            0 => a.tanh(),
            1 => a + b,
            2 => a * b,
            3 => a.matmul(weight),
            4 => a.matmul(weight.transpose()),
            5 => a.matmul((weight * 0.5).tanh()) + bias,
            6 => a * bias.tanh() - b,
            7 => Val::concat(&[a.slice(1, 1, COLUMNS), b.slice(1, 0, 1)], 1),
            8 => a.sum([0]).broadcast([ROWS, COLUMNS]) * b,
            9 => a.gt(b).select(a, b * 0.5),
            10 => a.slice(1, 0, 1).broadcast([ROWS, COLUMNS]) + b,
            _ => a.matmul(weight).tanh().matmul(weight) * 0.5,
        });
    }
    let last = values.len() - 1;
    let next = vec![values[last].tanh(), values[last / 2] * 0.5];
    let stacked = vec![values[last - 1], values[last / 3 + 1].matmul(weight) + bias, carried[0]];
    [next, stacked]
}

/// The results of a loop of so many steps and the gradients of a sum of them; `unrolled`: without a loop.
fn graph(choices: &[Choice], length: usize, reverse: bool, dtype: DType, unrolled: bool) -> Graph {
    let b = Builder::new();
    let carried = ["h", "c"].map(|name| b.input(name, dtype, [ROWS, COLUMNS])).to_vec();
    let entries = b.input("xs", dtype, [length, ROWS, COLUMNS]);
    let constants = vec![b.input("w", dtype, [COLUMNS, COLUMNS]), b.input("b", dtype, [COLUMNS])];
    let wrt = [&carried[..], &[entries], &constants].concat();
    let (last, stacked) = if unrolled {
        let mut carried = carried;
        let mut rows = vec![Vec::new(); 3];
        let mut order: Vec<usize> = (0..length).collect();
        if reverse {
            order.reverse();
        }
        for at in order {
            let entry = entries.slice(0, at, at + 1).squeeze([0]);
            let [next, stacked] = step(choices, &carried, entry, &constants);
            carried = next;
            rows.iter_mut().zip(stacked).for_each(|(row, val)| row.push(val));
        }
        if reverse {
            rows.iter_mut().for_each(|row| row.reverse());
        }
        let stacked: Vec<Val<'_>> = rows.iter().map(|row| Val::stack(row, 0)).collect();
        (carried, stacked)
    } else {
        let steps = Steps {
            length,
            carried,
            sliced: vec![entries],
            constants,
            reverse,
        };
        b.scan(steps, |_, given| {
            let [next, stacked] = step(choices, &given.carried, given.sliced[0], &given.constants);
            (next, stacked)
        })
    };
    let results = [&last[..], &stacked].concat();
    let loss = results
        .iter()
        .map(|x| (*x * *x).sum_all())
        .reduce(|a, b| a + b)
        .unwrap();
    let gradients = autodiff::grad(loss, &wrt);
    let outputs = results.into_iter().chain(gradients).enumerate();
    b.finish(outputs.map(|(place, val)| (format!("y{place}"), val)))
        .unwrap()
}

fn outputs(graph: &Graph) -> Vec<Tensor> {
    let inputs = sample::inputs(graph, 3);
    let named: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    let outputs = oracle::run(graph, &named).unwrap();
    outputs.into_iter().map(|(_, value)| value).collect()
}

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let choice = (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(op, left, right)| Choice { op, left, right });
    prop::collection::vec(choice, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn gradients_are_those_of_the_steps_written_out(choices in choices(), length in 1usize..4, reverse in any::<bool>()) {
        let [loops, steps] = [false, true].map(|unrolled| outputs(&graph(&choices, length, reverse, DType::F64, unrolled)));
        for (number, (a, b)) in loops.iter().zip(&steps).enumerate() {
            let greatest = b.scalars().map(|x| x.as_f64().abs()).fold(1.0, f64::max);
            for (x, y) in a.scalars().zip(b.scalars()) {
                let difference = (x.as_f64() - y.as_f64()).abs();
                let is_greater = difference.partial_cmp(&(1e-11 * greatest)) == Some(std::cmp::Ordering::Greater);
                prop_assert!(!is_greater, "result {number}: {x:?} and {y:?}");
            }
        }
    }

    #[test]
    fn passes_keep_every_bit(choices in choices(), length in 1usize..4, reverse in any::<bool>()) {
        let graph = graph(&choices, length, reverse, DType::F32, false);
        let improved = passes::run(&graph, &TARGET, &mut |_| {});
        for (number, (a, b)) in outputs(&graph).iter().zip(&outputs(&improved)).enumerate() {
            for (x, y) in a.scalars().zip(b.scalars()) {
                let (x, y) = (x.as_f64(), y.as_f64());
                prop_assert!(x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(), "result {number}: {x} and {y}");
            }
        }
    }
}

/// The contractions within each scan of a graph.
fn contractions_within(graph: &Graph) -> Vec<usize> {
    let within = |body: &Graph| {
        body.nodes()
            .filter(|(_, node)| matches!(node.op, Op::Einsum(_)))
            .count()
    };
    let scans = graph.nodes().filter_map(|(_, node)| match &node.op {
        Op::Scan(scan) => Some(within(&scan.body)),
        _ => None,
    });
    scans.collect()
}

#[test]
fn only_the_recurrence_stays_in_the_loops_of_a_recurrent_net() {
    let b = Builder::new();
    let xs = b.input("xs", DType::F32, [6, 4, 3]);
    let [w, u, v] = [("w", 3), ("u", 5), ("v", 5)].map(|(name, rows)| b.input(name, DType::F32, [rows, 5]));
    let bias = b.input("b", DType::F32, [5]);
    let steps = Steps {
        length: 6,
        carried: vec![b.full(DType::F32, [4, 5], 0.0)],
        sliced: vec![xs],
        constants: vec![w, u, v, bias, b.full(DType::F32, [5], 2.0)],
        reverse: false,
    };
    let (_, stacked) = b.scan(steps, |_, step| {
        let &[w, u, v, bias, two] = step.constants.as_slice() else {
            unreachable!()
        };
        let h = (step.sliced[0].matmul(w) + step.carried[0].matmul(u) + bias.tanh() * two).tanh();
        (vec![h], vec![h.matmul(v) + bias])
    });
    let loss = (stacked[0] * stacked[0]).sum_all();
    let gradients = autodiff::grad(loss, &[w, u, v, bias, xs]);
    let named = ["w", "u", "v", "b", "xs"].into_iter().zip(gradients);
    let graph = b.finish(named.chain([("loss", loss)])).unwrap();
    let improved = passes::run(&graph, &TARGET, &mut |_| {});
    let text = improved.to_string();
    // `h u` forwards, its transpose backwards.
    assert_eq!(contractions_within(&improved), [1, 1], "{text}");
    // The projections of x and h; back through v and w; the gradients of w, u and v.
    assert_eq!(text.matches("einsum").count(), 2 + 7, "{text}");
}

/// What takes long to compute is saved by the loop forwards, and nothing that is then not needed.
#[test]
fn activations_are_saved_for_the_way_back() {
    let b = Builder::new();
    let xs = b.input("xs", DType::F32, [6, 4, 5]);
    let w = b.input("w", DType::F32, [5, 10]);
    let zero = b.full(DType::F32, [4, 5], 0.0);
    let steps = Steps {
        length: 6,
        carried: vec![zero, zero],
        sliced: vec![xs],
        constants: vec![w],
        reverse: false,
    };
    let (last, _) = b.scan(steps, |_, step| {
        let gates = step.carried[0].matmul(step.constants[0]);
        let keep = gates.slice(1, 0, 5).sigmoid();
        let inner = keep * step.carried[1] + (gates.slice(1, 5, 10) + step.sliced[0]).tanh();
        (vec![inner.tanh(), inner], vec![])
    });
    let graph = b.finish([("w", autodiff::grad(last[0].sum_all(), &[w])[0])]).unwrap();
    let improved = passes::run(&graph, &TARGET, &mut |_| {});
    let scans: Vec<&Scan> = (improved.nodes())
        .filter_map(|(_, node)| match &node.op {
            Op::Scan(scan) => Some(scan),
            _ => None,
        })
        .collect();
    let [forwards, backwards] = scans[..] else {
        panic!("a loop each way: {improved}")
    };
    let activations = |scan: &Scan| {
        let text = scan.body.to_string();
        text.matches("sigmoid").count() + text.matches("tanh").count()
    };
    assert_eq!(activations(forwards), 3, "{improved}");
    assert_eq!(activations(backwards), 0, "{improved}");
    // The two that are carried, as they enter, and the three activations; not the contraction.
    assert_eq!(forwards.body.outputs.len() - forwards.carried, 5, "{improved}");
}
