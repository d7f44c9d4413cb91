//! Random graphs: text and JSON give them back, passes keep their values. Random files: they do no harm.

use std::sync::Arc;

use netloom_ir::kernel::Combine;
use netloom_ir::ops::{self, Einsum, Fold, Input, Op, View, map};
use netloom_ir::{DType, Graph, Loc, NodeId, Scalar, Tensor, Type, oracle, passes, text};
use proptest::prelude::*;

/// A graph made from arbitrary numbers: each tries to add a node, and what its rule refuses is left out. So every op takes part as soon
/// as it exists, without a generator of its own.
fn graph_from(choices: &[u16]) -> Graph {
    let mut graph = Graph::new();
    let mut choices = choices.iter().copied().map(usize::from).cycle().take(choices.len() * 4);
    let rows: Vec<&'static map::MapDef> = map::TABLE.iter().flat_map(|rows| rows.iter().copied()).collect();
    while let Some(choice) = choices.next() {
        let mut next = |below: usize| choices.next().unwrap_or(0) % below;
        let dtype = DType::ALL[next(DType::ALL.len())];
        let shape: Vec<usize> = (0..next(3)).map(|axis| [2, 3, 1, 0][(choice + axis) % 4]).collect();
        let op = match choice % 12 {
            0 => {
                let names = ["x", "a b", "f32", "layer.0/w`", "line\nend", "\\", "input", ""];
                let name = format!("{}{}", names[next(names.len())], if next(2) == 0 { "" } else { "1" });
                Op::Input(Input {
                    name,
                    ty: Type::new(dtype, shape),
                })
            }
            1 => Op::Const(Arc::new(constant(dtype, &shape, next(60000)))),
            2 => Op::View(View::Broadcast(shape)),
            3 => Op::View(View::Reshape(shape)),
            4 => Op::View(View::Permute((0..shape.len()).rev().collect())),
            5 => Op::View(View::Flip((0..shape.len()).collect())),
            6 => Op::View(View::Slice {
                start: shape.iter().map(|_| next(2)).collect(),
                step: shape.iter().map(|_| 1 + next(2)).collect(),
                count: shape.iter().map(|_| next(3)).collect(),
            }),
            7 => Op::View(View::Concat(next(2))),
            8 => Op::Fold(Fold {
                with: Combine::ALL[next(Combine::ALL.len())],
                axes: [vec![0], vec![1], vec![0, 1], vec![]][next(4)].clone(),
            }),
            9 => Op::Einsum(Einsum {
                left: vec!['i', 'j'],
                right: vec!['j', 'k'],
                out: [vec!['i', 'k'], vec!['k', 'i']][next(2)].clone(),
            }),
            _ => Op::Map(ops::Map(rows[next(rows.len())])),
        };
        let arg_count = match &op {
            Op::Map(map) => map.0.arity,
            Op::View(View::Concat(_)) => 1 + next(3),
            Op::View(_) | Op::Fold(_) => 1,
            Op::Einsum(_) => 2,
            _ => 0,
        };
        if let Op::Input(input) = &op
            && graph.input(&input.name).is_some()
        {
            continue;
        }
        if arg_count > 0 && graph.is_empty() {
            continue;
        }
        let args: Vec<NodeId> = (0..arg_count).map(|_| NodeId(next(graph.len()) as u32)).collect();
        // A refusal leaves the graph as it was.
        let _ = graph.push(op, args, Loc::None);
    }
    for id in graph.ids().rev().take(3) {
        let name = if id.0 % 2 == 0 {
            graph.outputs.len().to_string()
        } else {
            format!("out {id}")
        };
        graph.outputs.push((name, id));
    }
    graph
}

/// A constant of arbitrary bits, NaN payloads among them.
fn constant(dtype: DType, shape: &[usize], seed: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let bits = |place: usize| match dtype {
        DType::Bool => ((seed + place) % 2) as u64,
        _ if seed.is_multiple_of(2) => ((seed + place) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        // Bits that are NaN, infinite or -0 in some float type.
        _ => [
            0x7fc0_0001,
            0xff80_0000,
            0x8000_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x7e01,
            0x8000,
            0x3ff0_0000_0000_0000,
        ][seed % 7],
    };
    let bytes = (0..count)
        .flat_map(|place| bits(place).to_le_bytes().into_iter().take(dtype.size_bytes()))
        .collect();
    Tensor::from_bytes(dtype, shape, bytes)
}

/// What can be done with a text without harm: it is refused, or what it says is printed and read again.
fn survives(source: &str) {
    if let Ok(program) = text::parse_program("mutated", source) {
        let printed = program.to_string();
        assert_eq!(
            text::parse_program("printed", &printed).as_ref(),
            Ok(&program),
            "{printed}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn graphs_read_back(choices in prop::collection::vec(any::<u16>(), 0..120)) {
        let graph = graph_from(&choices);
        let printed = graph.to_string();
        let parsed = text::parse("printed", &printed);
        prop_assert_eq!(parsed.as_ref(), Ok(&graph), "{}", printed);
        prop_assert_eq!(parsed.unwrap().to_string(), printed);
        prop_assert_eq!(text::from_json(&text::to_json(&graph)), Ok(graph));
    }

    #[test]
    fn passes_keep_every_bit(choices in prop::collection::vec(any::<u16>(), 0..120)) {
        let graph = graph_from(&choices);
        // The driver verifies after each pass.
        let improved = passes::run(&graph, &target(), &mut |_| {});
        let (before, after) = (values(&graph), values(&improved));
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            prop_assert_eq!(before.ty(), after.ty());
            for (left, right) in before.scalars().zip(after.scalars()) {
                let is_nan = |scalar: Scalar| matches!(scalar, Scalar::Float(value) if value.is_nan());
                let same = left.to_bits(before.dtype()) == right.to_bits(before.dtype()) || is_nan(left) && is_nan(right);
                prop_assert!(same, "{name}: {left:?} before, {right:?} after\n{graph}{improved}");
            }
        }
    }

    #[test]
    fn mutated_files_do_no_harm(file in 0..usize::MAX, edits in prop::collection::vec((any::<u32>(), any::<u32>(), 0..6_u8), 1..8)) {
        let mut text = golden_sources()[file % golden_sources().len()].clone();
        for (from, to, kind) in edits {
            let mut places = [from as usize % (text.len() + 1), to as usize % (text.len() + 1)];
            places.iter_mut().for_each(|place| while !text.is_char_boundary(*place) { *place -= 1 });
            places.sort_unstable();
            let [low, high] = places;
            let high_near = text.floor_char_boundary(high.min(low + 40));
            match kind {
                0 => text.replace_range(low..high_near, ""),
                1 => {
                    let copied = text[low..high_near].to_owned();
                    text.insert_str(high, &copied);
                }
                2 => text.insert_str(low, ["{", "}", "(", "[", "%", "\n", "return", "\"", "`", "graph(", "é", "= "][high % 12]),
                3 => text.insert_str(low, ["0", "9223372036854775807", "-1", "0x", "2147483648", "1e999", "nan"][high % 7]),
                4 => text.truncate(high),
                _ => text = text.replacen("f32", ["bool", "u8", "f64", "q"][high % 4], 1 + low % 3),
            }
        }
        survives(&text);
    }
}

/// The outputs for inputs of arbitrary bits.
fn values(graph: &Graph) -> Vec<(String, Tensor)> {
    let inputs = graph.inputs().iter().map(|&id| {
        let Op::Input(input) = &graph.node(id).op else {
            unreachable!("an input")
        };
        (
            input.name.as_str(),
            constant(input.ty.dtype, &input.ty.shape, input.name.len()),
        )
    });
    oracle::run(graph, &inputs.collect::<Vec<_>>()).unwrap()
}

fn target() -> netloom_ir::Target {
    netloom_ir::Target {
        kind: netloom_ir::target::TargetKind::Cpu,
        vector_lanes: 8,
        vector_registers: 16,
        invocations: 1,
        share_from: netloom_ir::Target::SHARE_FROM,
        product_bytes: 0,
        workgroups: false,
        winograd: false,
        f16: false,
        pieces: false,
        matrices: None,
        tuned: netloom_ir::decisions::Tuned::NOTHING,
    }
}

fn golden_sources() -> &'static [String] {
    static SOURCES: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    SOURCES.get_or_init(|| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/text");
        let mut paths: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        let read = |path: &std::path::PathBuf| std::fs::read_to_string(path).unwrap();
        paths
            .iter()
            .map(|path| read(path).split("---- ").next().unwrap().to_owned())
            .collect()
    })
}

#[test]
fn deep_nesting_is_refused_not_overflowed() {
    let source = "graph() {\n%0 = scan body=".repeat(100_000);
    let problems = text::parse("deep", &source).unwrap_err();
    assert!(problems.to_string().contains("bodies nest deeper than"), "{problems}");
    let _ = text::parse("open", &"(".repeat(100_000)).unwrap_err();
    let _ = text::parse("open", &"[".repeat(100_000)).unwrap_err();
    let _ = text::parse("closed", &"graph(){}".repeat(100_000)).unwrap_err();
}

#[test]
fn large_constants_are_one_string() {
    let mut graph = Graph::new();
    let tensor = constant(DType::F64, &[10, 10], 4);
    let id = graph.push(Op::Const(Arc::new(tensor)), vec![], Loc::None).unwrap();
    graph.outputs = vec![("y".to_owned(), id)];
    let printed = graph.to_string();
    assert_eq!(printed.lines().count(), 4);
    assert_eq!(text::parse("printed", &printed), Ok(graph));
}

#[test]
fn an_attribute_that_is_a_number_is_no_constant() {
    // `fill=0` would be a number: the printer says the type of a constant among attributes.
    let fill = |dtype: DType| Arc::new(Tensor::zeros(dtype, []));
    for dtype in DType::ALL {
        let mut graph = Graph::new();
        let input = Op::Input(Input {
            name: "x".to_owned(),
            ty: Type::new(dtype, [2]),
        });
        let x = graph.push(input, vec![], Loc::None).unwrap();
        let view = View::Pad {
            low: vec![1],
            high: vec![0],
            inner: vec![0],
            fill: fill(dtype),
        };
        let y = graph.push(Op::View(view), vec![x], Loc::None).unwrap();
        graph.outputs = vec![("y".to_owned(), y)];
        let printed = graph.to_string();
        assert_eq!(text::parse("printed", &printed), Ok(graph), "{printed}");
    }
}
