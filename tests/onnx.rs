//! ONNX's own tests of operators and models: each on the oracle, on the CPU and on Vulkan, within the tolerance of ONNX's runner.
//!
//! `tests/data/onnx` holds half of the suite, packed. What passes and what is refused stands in a table that is compared with the one
//! checked in; a wrong result is never accepted. An operand that a shape depends on is bound to its value as the model is read.
//! Another table says how many tests of each operator pass by engine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use netloom::formats::onnx;
use netloom::ir::{DType, Graph, Program, Tensor, oracle};
use netloom::{Cpu, Device, Session, compile};

mod support;

/// ONNX's runner allows these.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-7;

/// A large net sums in another order than the reference.
const ABSOLUTE_OF_NETS: f64 = 1e-4;

/// Tests whose expected results contradict the operator's own definition, and why; ONNX Runtime fails them too.
const DISPUTED: &[(&str, &str)] = &[
    (
        "node/test_qlinearmatmul_2D_int8_float16",
        "the definition saturates, the expected result wraps around",
    ),
    (
        "node/test_qlinearmatmul_2D_int8_float32",
        "the definition saturates, the expected result wraps around",
    ),
    (
        "node/test_qlinearmatmul_3D_int8_float32",
        "the definition saturates, the expected result wraps around",
    ),
    (
        "node/test_cast_FLOAT_to_BFLOAT16",
        "the definition rounds, the expected result is cut off",
    ),
    (
        "node/test_castlike_FLOAT_to_BFLOAT16",
        "the definition rounds, the expected result is cut off",
    ),
    (
        "node/test_castlike_FLOAT_to_BFLOAT16_expanded",
        "the definition rounds, the expected result is cut off",
    ),
    (
        "node/test_averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True",
        "the definition counts padding that is asked for, the expected result what completes the last window too",
    ),
];

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Refused(String),
    Wrong(String),
}

/// A test: the files of its folder by name.
struct Case {
    name: String,
    files: BTreeMap<String, Vec<u8>>,
}

/// The tests in the archive.
fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnx/onnx-open.tar.gz");
    let file = std::fs::File::open(path).expect("the archive is in the repository");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file)
        .read_to_end(&mut bytes)
        .expect("it is a gzip file");
    let mut folders: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for (path, content) in untar(&bytes) {
        let parts: Vec<&str> = path.splitn(4, '/').collect();
        if let &[_, kind, test, file] = parts.as_slice() {
            folders
                .entry(format!("{kind}/{test}"))
                .or_default()
                .insert(file.to_owned(), content.to_owned());
        }
    }
    folders.into_iter().map(|(name, files)| Case { name, files }).collect()
}

/// The files of a tar archive: blocks of 512 bytes, a header and then the content (POSIX ustar, with its and GNU's long names).
fn untar(archive: &[u8]) -> Vec<(String, &[u8])> {
    let text = |bytes: &[u8]| -> String {
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    let mut files = Vec::new();
    let (mut at, mut long_name) = (0, None);
    while at + 512 <= archive.len() && archive[at] != 0 {
        let header = &archive[at..at + 512];
        let size = usize::from_str_radix(text(&header[124..136]).trim(), 8).expect("a size in octal");
        let content = &archive[at + 512..][..size];
        let short = match text(&header[345..500]) {
            prefix if prefix.is_empty() || &header[257..263] != b"ustar\0" => text(&header[..100]),
            prefix => format!("{prefix}/{}", text(&header[..100])),
        };
        match header[156] {
            b'x' => {
                let records = String::from_utf8_lossy(content).into_owned();
                let path = records
                    .lines()
                    .find_map(|line| line.split_once(" path="))
                    .map(|(_, path)| path.to_owned());
                long_name = path.or(long_name);
            }
            b'L' => long_name = Some(text(content)),
            b'0' | 0 => files.push((long_name.take().unwrap_or(short), content)),
            _ => long_name = None,
        }
        at += 512 + size.div_ceil(512) * 512;
    }
    files
}

/// The tensors `input_0.pb`, `input_1.pb` … of a data set.
fn tensors(case: &Case, set: usize, kind: &str) -> Result<Vec<Tensor>, String> {
    let names = (0..).map(|place| format!("test_data_set_{set}/{kind}_{place}.pb"));
    let files = names.map_while(|name| case.files.get(&name));
    files
        .map(|bytes| onnx::parse_tensor(bytes).map(|(_, tensor)| tensor))
        .collect()
}

/// What runs a test.
#[derive(Clone)]
enum Engine {
    /// The oracle, unless the test is of a whole net, and the CPU.
    OracleAndCpu,
    /// A device alone.
    Only(Device),
}

fn run(case: &Case, engine: &Engine) -> Outcome {
    let bytes = &case.files["model.onnx"];
    let names = match onnx::names(bytes) {
        Ok(names) => names,
        Err(reason) => return Outcome::Refused(reason),
    };
    for set in 0.. {
        let (inputs, outputs) = match (tensors(case, set, "input"), tensors(case, set, "output")) {
            (Ok(inputs), Ok(outputs)) if inputs.is_empty() && outputs.is_empty() => break,
            (Ok(inputs), Ok(outputs)) => (inputs, outputs),
            // What is given is no tensor, so the model takes none; it says so itself.
            (Err(reason), _) | (_, Err(reason)) => {
                let refusal = onnx::parse_for(bytes, &[], &[], None).err();
                return Outcome::Refused(refusal.map_or(reason, |refusal| refusal.problems.to_string()));
            }
        };
        let inputs: Vec<(String, Tensor)> = names.iter().cloned().zip(inputs).collect();
        let graph = match onnx::parse_for(bytes, &[], &inputs, None) {
            Ok(graph) => graph,
            Err(refusal) => return Outcome::Refused(refusal.problems.to_string()),
        };
        let mut arguments: Vec<(String, Tensor)> = (inputs.into_iter())
            .map(|(name, tensor)| {
                let declared = graph.input(&name).map(|id| graph.ty(id).dtype);
                (name, unwrapped(tensor, declared))
            })
            .collect();
        arguments.retain(|(name, _)| graph.input(name).is_some());
        let is_small = case.name.starts_with("node");
        let absolute = if is_small { ABSOLUTE } else { ABSOLUTE_OF_NETS };
        let checked = match engine {
            Engine::OracleAndCpu if is_small => on_oracle(&graph, &arguments, &outputs),
            _ => Ok(()),
        };
        let checked = checked.and_then(|()| {
            let device = match engine {
                Engine::OracleAndCpu => Cpu::native().into(),
                Engine::Only(device) => device.clone(),
            };
            on_device(&device, &graph, &arguments, &outputs, absolute)
        });
        if let Err(outcome) = checked {
            return outcome;
        }
    }
    Outcome::Passed
}

/// The archive holds `bf16` as the `u16` of the same bits.
fn unwrapped(tensor: Tensor, declared: Option<DType>) -> Tensor {
    match (tensor.dtype(), declared) {
        (DType::U16, Some(DType::BF16)) => {
            Tensor::from_bytes(DType::BF16, tensor.shape().to_vec(), tensor.bytes().to_vec())
        }
        _ => tensor,
    }
}

fn on_oracle(graph: &Graph, inputs: &[(String, Tensor)], expected: &[Tensor]) -> Result<(), Outcome> {
    let named: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
    let found = oracle::run(graph, &named).map_err(|problems| Outcome::Wrong(problems.to_string()))?;
    same("oracle", &found, expected, ABSOLUTE).map_err(Outcome::Wrong)
}

fn on_device(
    device: &Device,
    graph: &Graph,
    inputs: &[(String, Tensor)],
    expected: &[Tensor],
    absolute: f64,
) -> Result<(), Outcome> {
    let wrong = |error: netloom::Error| Outcome::Wrong(error.to_string());
    let program = Program::pure("predict", graph.clone());
    let executable = compile(&program, device).map_err(|error| match device {
        // A device may lack a type; the CPU lacks nothing.
        Device::Cpu(_) => wrong(error),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(_) => Outcome::Refused(error.to_string()),
    })?;
    let mut session = Session::new(Arc::new(executable), 2, 0).map_err(wrong)?;
    let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x)).collect();
    let found = session.call("predict", &named).map_err(wrong)?;
    same(&device.name(), &found, expected, absolute).map_err(Outcome::Wrong)
}

fn same(engine: &str, found: &[(String, Tensor)], expected: &[Tensor], absolute: f64) -> Result<(), String> {
    if found.len() < expected.len() {
        return Err(format!(
            "{engine}: {} results instead of {}",
            found.len(),
            expected.len()
        ));
    }
    for ((name, found), expected) in found.iter().zip(expected) {
        let expected = &unwrapped(expected.clone(), Some(found.dtype()));
        if found.ty() != expected.ty() {
            return Err(format!(
                "{engine}: `{name}` is {}, should be {}",
                found.ty(),
                expected.ty()
            ));
        }
        // References in f32 err by the rounding of their greatest elements.
        let finite = expected.scalars().map(|x| x.as_f64().abs()).filter(|x| x.is_finite());
        let absolute = absolute * finite.fold(1.0, f64::max);
        let pairs = found.scalars().zip(expected.scalars());
        for (at, (x, y)) in pairs.map(|(x, y)| (x.as_f64(), y.as_f64())).enumerate() {
            let close = x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= absolute + RELATIVE * y.abs();
            if !close {
                return Err(format!("{engine}: `{name}`[{at}] is {x}, should be {y}"));
            }
        }
    }
    Ok(())
}

/// Runs every case, each on its own, so that a panic is a wrong result and not the end.
fn run_all(cases: &[Case], engine: &Engine) -> BTreeMap<String, Outcome> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results = std::sync::Mutex::new(BTreeMap::new());
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let outcome = catch_unwind(AssertUnwindSafe(|| run(case, engine))).unwrap_or_else(|panic| {
                let message = panic.downcast_ref::<String>().cloned();
                let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Outcome::Wrong(format!("panic: {}", message.unwrap_or_default()))
            });
            results
                .lock()
                .expect("no test panics with it")
                .insert(case.name.clone(), outcome);
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|_| {
            std::thread::Builder::new()
                .stack_size(64 << 20)
                .spawn_scoped(scope, work)
                .expect("a thread");
        });
    });
    results.into_inner().expect("no test panics with it")
}

/// Names a part of the tests' names: only these are run.
const ONLY: &str = "NETLOOM_ONNX_ONLY";

/// The tests that were asked for: all, if nothing else is said.
fn chosen() -> Vec<Case> {
    let mut cases = cases();
    if let Ok(only) = std::env::var(ONLY) {
        cases.retain(|case| case.name.contains(&only));
    }
    cases
}

/// What becomes of them on the oracle and the CPU.
fn on_cpu() -> &'static BTreeMap<String, Outcome> {
    static RESULTS: OnceLock<BTreeMap<String, Outcome>> = OnceLock::new();
    RESULTS.get_or_init(|| run_all(&chosen(), &Engine::OracleAndCpu))
}

#[test]
fn the_open_half_of_onnx_s_tests() {
    let results = on_cpu();
    let mut table = String::new();
    let count = |is: fn(&Outcome) -> bool| results.values().filter(|outcome| is(outcome)).count();
    let _ = writeln!(
        table,
        "passed {}, refused {}, wrong or disputed {}",
        count(|outcome| *outcome == Outcome::Passed),
        count(|outcome| matches!(outcome, Outcome::Refused(_))),
        count(|outcome| matches!(outcome, Outcome::Wrong(_)))
    );
    for (name, outcome) in results {
        let (kind, reason) = match outcome {
            Outcome::Passed => continue,
            Outcome::Refused(reason) => ("refused", reason),
            Outcome::Wrong(reason) => match DISPUTED.iter().find(|(test, _)| test == name) {
                Some((_, why)) => ("disputed", &(*why).to_owned()),
                None => ("WRONG", reason),
            },
        };
        let first = reason.lines().next().unwrap_or_default();
        let _ = writeln!(table, "{kind} {name}: {first}");
    }
    println!("{table}");
    assert!(!table.contains("\nWRONG"), "wrong results:\n{table}");
    if std::env::var_os(ONLY).is_none() {
        insta::assert_snapshot!("onnx", table);
    }
}

impl Engine {
    fn name(&self) -> String {
        match self {
            Engine::OracleAndCpu => "cpu".to_owned(),
            Engine::Only(device) => device.name(),
        }
    }
}

/// The CPU, and Vulkan where there is one.
fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::OracleAndCpu];
    #[cfg(feature = "vulkan")]
    engines.extend(support::vulkan().map(|device| Engine::Only(device.into())));
    engines
}

/// The operators of a model, without repeats.
fn operators(case: &Case) -> Vec<String> {
    use prost::Message;
    let model = onnx::proto::ModelProto::decode(&case.files["model.onnx"][..]).unwrap_or_default();
    let nodes = model.graph.unwrap_or_default().node;
    let mut names: Vec<String> = nodes.iter().map(|node| node.op_type().to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

/// On Vulkan at least 97 % of the tests pass that pass on the CPU, the others are refused by name, and none is wrong.
#[cfg(feature = "vulkan")]
#[test]
fn the_open_half_of_onnx_s_tests_on_vulkan() {
    let Some(device) = support::vulkan() else { return };
    let mut cases = chosen();
    cases.retain(|case| on_cpu()[&case.name] == Outcome::Passed);
    let on_vulkan = run_all(&cases, &Engine::Only(device.clone().into()));
    // For each operator, the tests that pass on the CPU and of these on Vulkan.
    let mut table: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for case in &cases {
        for operator in operators(case) {
            let row = table.entry(operator).or_default();
            row[0] += 1;
            row[1] += usize::from(on_vulkan[&case.name] == Outcome::Passed);
        }
    }
    println!("{:32} {:>6} {:>6}", "operator", "cpu", "vulkan");
    for (operator, [cpu, vulkan]) in table {
        println!("{operator:32} {cpu:6} {vulkan:6}");
    }
    let passed = on_vulkan
        .values()
        .filter(|outcome| **outcome == Outcome::Passed)
        .count();
    println!(
        "passed on the CPU {}, of these on {} {passed}",
        cases.len(),
        Device::from(device.clone()).name()
    );
    let wrong: Vec<String> = (on_vulkan.iter())
        .filter_map(|(name, outcome)| match outcome {
            Outcome::Passed => None,
            Outcome::Refused(reason) => {
                println!("refused {name}: {}", reason.lines().next().unwrap_or_default());
                None
            }
            Outcome::Wrong(reason) => Some(format!("{name}: {reason}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        device.messages(),
        Vec::<String>::new(),
        "the validation layers have nothing to say"
    );
    assert!(100 * passed >= 97 * cases.len(), "{passed} of {}", cases.len());
}

/// Real models with ONNX Runtime's answers: those in `tests/data/models`, and larger ones in a folder that `NETLOOM_MODELS` names.
#[test]
fn real_models_give_their_references() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models");
    let roots = [Some(kept), std::env::var_os("NETLOOM_MODELS").map(PathBuf::from)];
    let folders = roots.into_iter().flatten().flat_map(|root| {
        let listed = std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        listed.flatten().map(|entry| entry.path())
    });
    let mut wrong = Vec::new();
    for folder in folders {
        let Ok(model) = std::fs::read(folder.join("model.onnx")) else {
            continue;
        };
        let mut files = BTreeMap::from([("model.onnx".to_owned(), model)]);
        for set in 0..100 {
            for (kind, place) in [
                ("input", 0),
                ("input", 1),
                ("input", 2),
                ("output", 0),
                ("output", 1),
                ("output", 2),
            ] {
                let name = format!("test_data_set_{set}/{kind}_{place}.pb");
                if let Ok(bytes) = std::fs::read(folder.join(&name)) {
                    files.insert(name, bytes);
                }
            }
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let case = Case {
            name: name.clone(),
            files,
        };
        for engine in engines() {
            let outcome = run(&case, &engine);
            println!("{name} on {}: {outcome:?}", engine.name());
            if outcome != Outcome::Passed {
                wrong.push(format!("{name} on {}", engine.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Mutated models are read or refused: nothing panics, and nothing is allocated that the file does not hold.
#[test]
fn mutated_models_are_refused() {
    use proptest::prelude::*;
    let mut cases = cases();
    cases.retain(|case| case.files["model.onnx"].len() < 20_000);
    let strategy = (
        0..cases.len(),
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        any::<Option<prop::sample::Index>>(),
    );
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&strategy, |(case, changes, cut)| {
        let mut bytes = cases[case].files["model.onnx"].clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            let length = cut.index(bytes.len());
            bytes.truncate(length);
        }
        let names = onnx::names(&bytes).unwrap_or_default();
        let inputs = tensors(&cases[case], 0, "input").unwrap_or_default();
        let inputs: Vec<(String, Tensor)> = names.into_iter().zip(inputs).collect();
        let _ = onnx::parse_for(&bytes, &[], &inputs, None);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// What is written gives the same when it is read again: LeNet, and random graphs as far as ONNX has operators for them.
#[test]
fn exported_graphs_give_the_same_when_read() {
    use netloom::ir::sample;
    use netloom::nn::{training, zoo};
    let same_when_read = |graph: &Graph, name: &str| {
        let bytes = match onnx::export::to_bytes(graph, &[]) {
            Ok(bytes) => bytes,
            Err(_) => return false,
        };
        let again = onnx::parse(&bytes, onnx::Binding::default())
            .unwrap_or_else(|refusal| panic!("{name}: {refusal}\n{graph}"));
        let inputs = sample::inputs(graph, 1);
        let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
        let results =
            |graph: &Graph| oracle::run(graph, &inputs).unwrap_or_else(|problems| panic!("{name}: {problems}"));
        let (before, after) = (results(graph), results(&again));
        let expected: Vec<Tensor> = before.into_iter().map(|(_, tensor)| tensor).collect();
        same("read again", &after, &expected, ABSOLUTE).unwrap_or_else(|reason| panic!("{name}: {reason}\n{graph}"));
        true
    };
    let mut draws = sample::SplitMix(5);
    let graphs = (0..200).map(|number| {
        let choices: Vec<u8> = (0..24).map(|_| draws.bits() as u8).collect();
        same_when_read(&sample::graph(&choices, DType::F32), &format!("random graph {number}"))
    });
    let written = graphs.filter(|&written| written).count();
    assert!(written >= 100, "only {written} of 200 graphs can be written");
    let net = zoo::find("lenet").expect("a network");
    let whole = training::program(&(net.layers)(), &net.input(2), &net.target(2), &(net.training)());
    let predict = whole.expect("a valid network").only(training::PREDICT);
    assert!(
        same_when_read(&predict.entries[0].graph, "lenet"),
        "LeNet can be written"
    );
}

#[test]
fn everything_that_is_not_supported_is_said_at_once() {
    use onnx::proto::tensor_shape_proto::{Dimension, dimension::Value};
    use onnx::proto::type_proto;
    use onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
    use onnx::proto::{TensorShapeProto, TypeProto, ValueInfoProto};
    use prost::Message;

    let info = |name: &str, dims: &[Value]| ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(1),
                shape: Some(TensorShapeProto {
                    dim: (dims.iter().cloned())
                        .map(|value| Dimension {
                            value: Some(value),
                            ..Dimension::default()
                        })
                        .collect(),
                }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    };
    let node = |name: &str, op: &str, input: &str, output: &str| NodeProto {
        name: Some(name.to_owned()),
        op_type: Some(op.to_owned()),
        input: vec![input.to_owned()],
        output: vec![output.to_owned()],
        ..NodeProto::default()
    };
    let model = |nodes: Vec<NodeProto>| ModelProto {
        opset_import: vec![OperatorSetIdProto {
            domain: None,
            version: Some(13),
        }],
        graph: Some(GraphProto {
            node: nodes,
            input: vec![info("x", &[Value::DimParam("batch".to_owned()), Value::DimValue(3)])],
            output: vec![info("y", &[])],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    let extents = [("batch".to_owned(), 2)];
    let bound = onnx::Binding {
        extents: &extents,
        ..onnx::Binding::default()
    };
    let refused = |nodes: Vec<NodeProto>, binding: onnx::Binding<'_>| {
        onnx::parse(&model(nodes).encode_to_vec(), binding).map_err(|refusal| refusal.to_string())
    };
    let whole = refused(vec![node("a", "Relu", "x", "y")], bound).expect("a valid model");
    assert_eq!(whole.ty(whole.outputs[0].1).to_string(), "f32[2,3]");
    let two = vec![
        node("a", "Invented", "x", "h"),
        node("b", "Relu", "h", "i"),
        node("c", "Unheard", "x", "y"),
    ];
    let expected = "Invented: this operator of `ai.onnx` 13 is not supported\n  --> node `a (Invented)`\n\
        error: Unheard: this operator of `ai.onnx` 13 is not supported\n  --> node `c (Unheard)`";
    assert_eq!(refused(two, bound), Err(expected.to_owned()));
    let open = refused(vec![node("a", "Relu", "x", "y")], onnx::Binding::default()).expect_err("an open extent");
    assert!(
        open.contains("its extent `batch` along axis 0 is open; bind it, as in `--shape batch=1`"),
        "{open}"
    );
    let cyclic = refused(vec![node("a", "Relu", "y", "y")], bound).expect_err("a cycle");
    assert!(cyclic.contains("nothing before it makes its operand `y`"), "{cyclic}");
    let twice = vec![node("a", "Relu", "x", "y"), node("b", "Relu", "x", "y")];
    let twice = refused(twice, bound).expect_err("a name used twice");
    assert!(twice.contains("there are two values `y`"), "{twice}");
}

/// Ops that ONNX spells with several operators, or with bodies.
#[test]
fn ordered_and_looping_ops_are_written() {
    use netloom::ir::autodiff::grad;
    use netloom::ir::kernel::Combine;
    use netloom::ir::ops::Conv;
    use netloom::ir::ops::compound::Steps;
    use netloom::ir::ops::pool::Window;
    use netloom::ir::{Builder, sample};
    let mut written = Vec::new();
    let mut check = |name: String, build: &dyn for<'g> Fn(&'g Builder) -> Vec<netloom::ir::Val<'g>>| {
        let b = Builder::new();
        let results = build(&b).into_iter().enumerate();
        let graph = b
            .finish(results.map(|(at, val)| (format!("y{at}"), val)))
            .expect("a valid graph");
        let bytes = onnx::export::to_bytes(&graph, &[]).unwrap_or_else(|problems| panic!("{name}: {problems}"));
        let again = onnx::parse(&bytes, onnx::Binding::default()).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let inputs = sample::inputs(&graph, 3);
        let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
        let run = |graph: &Graph| oracle::run(graph, &inputs).unwrap_or_else(|problems| panic!("{name}: {problems}"));
        let expected: Vec<Tensor> = run(&graph).into_iter().map(|(_, tensor)| tensor).collect();
        same("read again", &run(&again), &expected, ABSOLUTE)
            .unwrap_or_else(|reason| panic!("{name}: {reason}\n{graph}"));
        written.push((
            name,
            bytes,
            inputs
                .iter()
                .map(|(name, x)| ((*name).to_owned(), x.clone()))
                .collect::<Vec<_>>(),
            expected,
        ));
    };
    for axis in [0, 1] {
        for descending in [false, true] {
            check(format!("sort {axis} {descending}"), &|b| {
                vec![b.input("x", DType::F32, [4, 5]).argsort(axis, descending)]
            });
        }
        for with in [None].into_iter().chain(Combine::ALL.map(Some)) {
            let dtype = if matches!(with, Some(Combine::Any | Combine::All)) {
                DType::Bool
            } else {
                DType::F32
            };
            check(format!("scatter {axis} {with:?}"), &|b| {
                // Some lie outside, one comes twice.
                let at = b.constant(Tensor::from_i64([2, 2], &[-1, 3, 0, 3])) + b.input("zero", DType::I64, []) * 0.0;
                let updates = if axis == 0 { [2, 2, 5, 3] } else { [4, 2, 2, 3] };
                vec![
                    b.input("x", dtype, [4, 5, 3])
                        .scatter(at, b.input("u", dtype, updates), axis, with),
                ]
            });
        }
        for with in Combine::ALL {
            for exclusive in [false, true] {
                let dtype = if matches!(with, Combine::Any | Combine::All) {
                    DType::Bool
                } else {
                    DType::F32
                };
                check(format!("prefix {axis} {with:?} {exclusive}"), &|b| {
                    vec![b.input("x", dtype, [5, 6]).prefix(with, axis, exclusive)]
                });
            }
        }
    }
    check("argmax_pool".to_owned(), &|b| {
        let x = b.input("x", DType::F32, [2, 3, 7, 6]);
        let window = Window {
            stride: vec![2, 1],
            pad_low: vec![1, 0],
            pad_high: vec![0, 1],
            ..Window::sliding([3, 2])
        };
        grad(x.max_pool(window).sum_all(), &[x])
    });
    // Bits of several rows of blocks, a last one that is not full, and what is made of them.
    check("random".to_owned(), &|b| {
        let (key, step) = (b.input("key", DType::U64, []), b.input("step", DType::U64, []));
        let dropped = b.bernoulli(key, step, [7, 11], 0.3).cast(DType::F32);
        vec![
            b.random_bits(key, step, [2, 70]),
            b.uniform(key, step, [3, 50]),
            dropped,
            b.normal(key, step, [5]),
        ]
    });
    check("dilated and cropped convolution".to_owned(), &|b| {
        let (x, w) = (
            b.input("x", DType::F32, [2, 3, 9, 8]),
            b.input("w", DType::F32, [4, 3, 3, 3]),
        );
        let conv = Conv {
            pad_low: vec![-1, 2],
            pad_high: vec![3, -2],
            input_dilation: vec![2, 1],
            ..Conv::unit(2)
        };
        let y = x.conv(w, conv);
        [vec![y], grad((y * y).sum_all(), &[x, w])].concat()
    });
    for reverse in [false, true] {
        check(format!("scan {reverse}"), &|b| {
            let (xs, decay) = (b.input("xs", DType::F32, [5, 3]), b.input("decay", DType::F32, []));
            let steps = Steps {
                length: 5,
                carried: vec![b.full(DType::F32, [3], 0.0)],
                sliced: vec![xs],
                constants: vec![decay],
                reverse,
            };
            let (last, stacked) = b.scan(steps, |_, step| {
                let next = step.carried[0] * step.constants[0] + step.sliced[0];
                (vec![next], vec![next * step.entry.cast(DType::F32), step.carried[0]])
            });
            [last, stacked].concat()
        });
    }
    check("if".to_owned(), &|b| {
        let x = b.input("x", DType::F32, [3]);
        b.if_(
            b.input("c", DType::Bool, []),
            &[x],
            |_, x| vec![x[0].exp(), x[0]],
            |_, x| vec![-x[0], x[0] * 2.0],
        )
    });
    check("while".to_owned(), &|b| {
        let (x, count) = (b.input("x", DType::F32, [3]), b.scalar(DType::F32, 0.0));
        let five = b.scalar(DType::F32, 5.0);
        b.while_(
            &[count, x],
            &[five],
            |_, carried, limit| carried[0].lt(limit[0]),
            |_, carried, _| vec![carried[0] + 2.0, carried[1] * 2.0],
        )
    });
    // For those who have ONNX Runtime: `python3 benches/peers/onnx_export.py FOLDER` runs what lies there.
    if let Some(folder) = std::env::var_os("KEEP_EXPORTED") {
        let folder = Path::new(&folder);
        for (name, bytes, inputs, expected) in written {
            let stem = name.replace(' ', "_");
            std::fs::write(folder.join(format!("{stem}.onnx")), bytes).expect("a file");
            let outputs = expected
                .into_iter()
                .enumerate()
                .map(|(at, tensor)| (format!("out:y{at}"), tensor));
            let arrays: Vec<(String, Tensor)> = inputs.into_iter().chain(outputs).collect();
            netloom::formats::npz::save(&folder.join(format!("{stem}.npz")), &arrays).expect("a file");
        }
    }
}

/// A training step is written with its states as initialisers and their next values as outputs.
#[test]
fn a_training_step_is_written() {
    use netloom::ir::sample;
    use netloom::nn::{training, zoo};
    let net = zoo::find("lenet").expect("a network");
    let whole =
        training::program(&(net.layers)(), &net.input(2), &net.target(2), &(net.training)()).expect("a valid network");
    let graph = &whole.entry(training::TRAIN_STEP).expect("an entry").graph;
    let states: Vec<(String, Tensor)> = (whole.states.iter())
        .map(|state| (state.name.clone(), sample::tensor(&state.ty, &mut 1)))
        .collect();
    let bytes = onnx::export::to_bytes(graph, &states).unwrap_or_else(|problems| panic!("{problems}"));
    let given = onnx::names(&bytes).expect("a model");
    assert_eq!(given, ["x", "y"]);
    let program = onnx::program_for("train", &bytes, &[], &[], None).unwrap_or_else(|refusal| panic!("{refusal}"));
    let (x, y) = (
        sample::tensor(&net.input(2), &mut 1),
        sample::tensor(&net.target(2), &mut 2),
    );
    let with_states = |graph: &Graph, known: &dyn Fn(&str) -> Tensor| {
        let inputs = graph.inputs().iter().map(|&id| match &graph.node(id).op {
            netloom::ir::Op::Input(input) => (input.name.clone(), known(&input.name)),
            _ => unreachable!("inputs are inputs"),
        });
        let inputs: Vec<(String, Tensor)> = inputs.collect();
        let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
        oracle::run(graph, &inputs).unwrap_or_else(|problems| panic!("{problems}"))
    };
    let known = |name: &str| match name {
        "x" => x.clone(),
        "y" => y.clone(),
        name => states
            .iter()
            .find(|(state, _)| state == name)
            .expect("a state")
            .1
            .clone(),
    };
    let expected: Vec<Tensor> = with_states(graph, &known)
        .into_iter()
        .map(|(_, tensor)| tensor)
        .collect();
    let found = with_states(&program.entries[0].graph, &known);
    same("read again", &found, &expected, ABSOLUTE).unwrap_or_else(|reason| panic!("{reason}"));
    // Weights are states again, so that what depends on them alone can be computed once.
    assert!(
        program.states.iter().any(|state| state.name == "0.weight"),
        "{:?}",
        program.states.len()
    );
}

#[test]
fn one_executable_is_kept_for_each_binding() {
    use netloom::formats::onnx::bound::Model;
    use netloom::ir::Builder;
    use netloom::{Cpu, Session};
    use onnx::proto::{tensor_shape_proto::dimension::Value, type_proto};
    use prost::Message;
    use std::sync::Arc;
    let b = Builder::new();
    let graph = b
        .finish([("y", b.input("x", DType::F32, [2, 3]).exp())])
        .expect("a valid graph");
    let mut model = onnx::proto::ModelProto::decode(&*onnx::export::to_bytes(&graph, &[]).expect("it is written"))
        .expect("a model");
    let input = &mut model.graph.as_mut().expect("a graph").input[0];
    let Some(type_proto::Value::TensorType(ty)) = input.r#type.as_mut().and_then(|ty| ty.value.as_mut()) else {
        panic!("an input is a tensor");
    };
    ty.shape.as_mut().expect("a shape").dim[0].value = Some(Value::DimParam("batch".to_owned()));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("open.onnx");
    std::fs::write(&path, model.encode_to_vec()).expect("a file");
    let mut model = Model::open(&path, "predict", Cpu::native().into(), 2).expect("a model");
    let mut bound = |batch: usize| model.executable(&[("batch".to_owned(), batch)]).expect("it compiles");
    let (two, four) = (bound(2), bound(4));
    assert!(Arc::ptr_eq(&two, &bound(2)) && Arc::ptr_eq(&four, &bound(4)));
    // Four was used last, so that a third binding takes the place of two.
    bound(8);
    assert!(Arc::ptr_eq(&four, &bound(4)));
    assert!(!Arc::ptr_eq(&two, &bound(2)));
    let mut session = Session::new(four, 1, 0).expect("memory");
    let results = session
        .call("predict", &[("x", &Tensor::zeros(DType::F32, [4, 3]))])
        .expect("it runs");
    assert_eq!(results[0].1.to_f32(), [1.0; 12]);
    let open = model
        .executable(&[])
        .map(|_| ())
        .expect_err("the extent is open")
        .to_string();
    assert!(open.contains("`--shape batch=1`"), "{open}");
}
