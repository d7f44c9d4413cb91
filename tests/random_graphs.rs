//! Random graphs: compiled code gives what the oracle gives, and the same bits on every level with any number of workers.

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use netloom::compile::lower;
use netloom::ir::builder::{Builder, Val};
use netloom::ir::kernel::Combine;
use netloom::ir::ops::Fold;
use netloom::ir::{
    DType, Entry, Graph, Init, Op, Program, State, Tensor, Type, autodiff, fuse, oracle, passes, sample, text,
};
use netloom::{Session, compile, dump};
use proptest::prelude::*;
use support::{THREADS, cpus, different_bits};

/// The graph with the gradient of the sum of squares of its outputs by each input.
fn with_gradients(graph: &Graph, dtype: DType) -> Graph {
    let b = Builder::from_graph(graph.clone());
    let wrt: Vec<Val<'_>> = graph.inputs().iter().map(|&id| b.val(id)).collect();
    let total = |val: Val<'_>| -> netloom::ir::NodeId {
        let axes: Vec<usize> = (0..val.rank()).collect();
        let square = val * val;
        if axes.is_empty() {
            square.id()
        } else {
            b.push(
                Op::Fold(Fold {
                    with: Combine::Sum,
                    axes,
                }),
                &[square],
            )
            .id()
        }
    };
    let loss = graph
        .outputs
        .iter()
        .fold(b.scalar(dtype, 0.0), |sum, &(_, id)| sum + b.val(total(b.val(id))));
    let gradients = autodiff::grad(loss, &wrt);
    let outputs = graph.outputs.iter().map(|(name, id)| (name.clone(), b.val(*id)));
    let gradients = gradients
        .into_iter()
        .enumerate()
        .map(|(place, val)| (format!("d{}_{place}", graph.outputs.len()), val));
    b.finish(outputs.chain(gradients))
        .unwrap_or_else(|problems| panic!("{problems}"))
}

fn run_oracle(graph: &Graph, inputs: &[(String, Tensor)]) -> Vec<Tensor> {
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
    oracle::run(graph, &inputs)
        .unwrap_or_else(|problems| panic!("{problems}"))
        .into_iter()
        .map(|(_, x)| x)
        .collect()
}

fn as_type(inputs: &[(String, Tensor)], dtype: DType) -> Vec<(String, Tensor)> {
    inputs
        .iter()
        .map(|(name, x)| (name.clone(), Tensor::from_scalars(dtype, x.shape(), x.scalars())))
        .collect()
}

/// What rounding does to a graph: for each output, how far the oracle in f32 lies from the oracle in f64. Code that rounds elsewhere
/// (it fuses, it sums in another order) is expected to lie within a few times that, and a few dozen last places.
fn tolerances(exact: &[Tensor], rounded: &[Tensor]) -> Vec<f64> {
    let tolerance = |(exact, rounded): (&Tensor, &Tensor)| {
        let pairs = || {
            exact
                .scalars()
                .zip(rounded.scalars())
                .map(|(x, y)| (x.as_f64(), y.as_f64()))
        };
        let noise = pairs()
            .map(|(x, y)| (x - y).abs())
            .filter(|x| x.is_finite())
            .fold(0.0, f64::max);
        let greatest = pairs()
            .map(|(x, _)| x.abs())
            .filter(|x| x.is_finite())
            .fold(1.0, f64::max);
        32.0 * noise + 256.0 * f64::from(f32::EPSILON) * greatest
    };
    exact.iter().zip(rounded).map(tolerance).collect()
}

fn assert_near(found: &[Tensor], expected: &[Tensor], tolerances: &[f64], what: &str, graph: &Graph) {
    for (output, ((found, expected), tolerance)) in found.iter().zip(expected).zip(tolerances).enumerate() {
        for (at, (x, y)) in found.scalars().zip(expected.scalars()).enumerate() {
            let (x, y) = (x.as_f64(), y.as_f64());
            let equal = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= *tolerance;
            assert!(
                equal,
                "{what}: output {output}[{at}] is {x}, the oracle gives {y}, allowed {tolerance:e}\n{graph}"
            );
        }
    }
}

/// Compiles a graph for each level, runs it with each number of workers, and gives the common bits.
fn run_everywhere(program: &Program, inputs: &[(String, Tensor)], runs: usize) -> Vec<Tensor> {
    let mut first: Option<Vec<Tensor>> = None;
    for cpu in cpus() {
        let executable = Arc::new(compile(program, &cpu).unwrap_or_else(|error| panic!("{error}")));
        for threads in THREADS {
            let mut session = Session::new(Arc::clone(&executable), threads, 0).expect("memory");
            let mut results = session.results("run").expect("an entry");
            let ports: Vec<String> = executable
                .plan("run")
                .expect("an entry")
                .inputs
                .iter()
                .map(|port| port.name.clone())
                .collect();
            let named: HashMap<&str, &Tensor> = inputs.iter().map(|(name, x)| (name.as_str(), x)).collect();
            let arguments: Vec<&Tensor> = ports.iter().map(|name| named[name.as_str()]).collect();
            for _ in 0..runs {
                session
                    .run("run", &arguments, &mut results)
                    .unwrap_or_else(|error| panic!("{error}"));
            }
            let all: Vec<Tensor> = results
                .into_iter()
                .chain(session.states().into_iter().map(|(_, x)| x))
                .collect();
            let Some(first) = &first else {
                first = Some(all);
                continue;
            };
            for (output, (found, known)) in all.iter().zip(first).enumerate() {
                let at = different_bits(found, known);
                let graph = &program.entries[0].graph;
                assert_eq!(
                    at,
                    None,
                    "output {output} on {} with {threads} workers has other bits\n{graph}",
                    cpu.name()
                );
            }
        }
    }
    first.expect("this machine runs some level")
}

/// The program cut into regions, with their kernels, and with their nests, as `netloom dump` writes it.
fn later_stages(program: &Program) -> [Program; 3] {
    let target = cpus()[0].target();
    let cut = |entry: &Entry| Entry {
        graph: fuse::cut(&passes::run(&entry.graph, &target, &mut |_| {})),
        ..entry.clone()
    };
    let regions = Program {
        entries: program.entries.iter().map(cut).collect(),
        ..program.clone()
    };
    let lowered = lower(program, &target).unwrap_or_else(|error| panic!("{error}"));
    [
        regions,
        dump::built(program, &lowered),
        dump::scheduled(program, &lowered),
    ]
}

/// The same on Vulkan, where there is one, without and with workgroups that work together; the layers have nothing to say.
#[cfg(feature = "vulkan")]
fn run_on_vulkan(program: &Program, inputs: &[(String, Tensor)]) -> Vec<Vec<Tensor>> {
    let devices = [support::vulkan(), support::vulkan_with_workgroups()]
        .into_iter()
        .flatten();
    let run = |device: Arc<netloom::gpu::device::Device>| {
        let executable = compile(program, Arc::clone(&device)).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(Arc::new(executable), 1, 0).expect("memory");
        let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x)).collect();
        let results = session.call("run", &named).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(device.messages(), [""; 0]);
        results.into_iter().map(|(_, x)| x).collect()
    };
    devices.map(run).collect()
}

#[cfg(not(feature = "vulkan"))]
fn run_on_vulkan(_program: &Program, _inputs: &[(String, Tensor)]) -> Vec<Vec<Tensor>> {
    Vec::new()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gradients_of_gradients_on_vulkan(choices in prop::collection::vec(any::<u8>(), 0..24), seed in any::<u64>()) {
        let twice = |dtype| with_gradients(&with_gradients(&sample::graph(&choices, dtype), dtype), dtype);
        let (graph, wide) = (twice(DType::F32), twice(DType::F64));
        let inputs = sample::inputs(&graph, seed);
        let exact = run_oracle(&wide, &as_type(&inputs, DType::F64));
        let rounded = run_oracle(&graph, &inputs);
        for found in run_on_vulkan(&Program::pure("run", graph.clone()), &inputs) {
            assert_near(&found, &exact, &tolerances(&exact, &rounded), "Vulkan", &graph);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_and_gradients(choices in prop::collection::vec(any::<u8>(), 0..40), seed in any::<u64>()) {
        let graph = with_gradients(&sample::graph(&choices, DType::F32), DType::F32);
        let wide = with_gradients(&sample::graph(&choices, DType::F64), DType::F64);
        let inputs = sample::inputs(&graph, seed);
        let exact = run_oracle(&wide, &as_type(&inputs, DType::F64));
        let rounded = run_oracle(&graph, &inputs);
        let program = Program::pure("run", graph.clone());
        let found = run_everywhere(&program, &inputs, 1);
        assert_near(&found, &exact, &tolerances(&exact, &rounded), "f32", &graph);
        for stage in later_stages(&program) {
            let again = text::parse_program("stage", &stage.to_string());
            assert_eq!(again.as_ref(), Ok(&stage));
            let continued = run_everywhere(&stage, &inputs, 1);
            assert!(found.iter().zip(&continued).all(|(a, b)| different_bits(a, b).is_none()), "{stage}");
        }
        for found in run_on_vulkan(&program, &inputs) {
            assert_near(&found, &exact, &tolerances(&exact, &rounded), "Vulkan", &graph);
        }
    }

    #[test]
    fn values_in_f64(choices in prop::collection::vec(any::<u8>(), 0..40), seed in any::<u64>()) {
        let graph = sample::graph(&choices, DType::F64);
        let inputs = sample::inputs(&graph, seed);
        let expected = run_oracle(&graph, &inputs);
        let found = run_everywhere(&Program::pure("run", graph.clone()), &inputs, 1);
        let tolerances: Vec<f64> = expected
            .iter()
            .map(|x| x.scalars().map(|x| x.as_f64().abs()).filter(|x| x.is_finite()).fold(1.0, f64::max) * 1e-11)
            .collect();
        assert_near(&found, &expected, &tolerances, "f64", &graph);
    }

    /// Every input of an output's type that the choices pick becomes a state, which that output updates.
    #[test]
    fn states_updated_in_place(choices in prop::collection::vec(any::<u8>(), 0..30), seed in any::<u64>(), pick in any::<usize>()) {
        let graph = sample::graph(&choices, DType::F64);
        let inputs = sample::inputs(&graph, seed);
        // The update: an output reduced to one number, mixed into an input, which other outputs read as it was.
        let b = Builder::from_graph(graph.clone());
        let (state, start) = &inputs[pick % inputs.len()];
        let output = b.val(graph.outputs[pick % graph.outputs.len()].1);
        let total = if output.rank() == 0 { output } else { output.sum((0..output.rank()).collect::<Vec<_>>()) };
        let old = b.find_input(state).expect("an input");
        let next = old * 0.5 + total.tanh();
        let outputs = graph.outputs.iter().map(|(name, id)| (name.clone(), b.val(*id))).chain([(state.clone(), next)]);
        let graph = b.finish(outputs).unwrap_or_else(|problems| panic!("{problems}"));

        let mut now = inputs.clone();
        let mut expected = Vec::new();
        for _ in 0..3 {
            expected = run_oracle(&graph, &now);
            let place = now.iter().position(|(name, _)| name == state).expect("an input");
            now[place].1 = expected.last().expect("the state's next value").clone();
        }
        let ty: Type = start.ty();
        let program = Program {
            states: vec![State { name: state.clone(), ty, init: Init::Tensor(Arc::new(start.clone())) }],
            entries: vec![Entry { name: "run".to_owned(), graph: graph.clone() }],
        };
        let found = run_everywhere(&program, &inputs, 3);
        let tolerances: Vec<f64> = expected
            .iter()
            .map(|x| x.scalars().map(|x| x.as_f64().abs()).filter(|x| x.is_finite()).fold(1.0, f64::max) * 1e-11)
            .collect();
        assert_near(&found, &expected, &tolerances, "states", &graph);
    }
}
