//! Dumps that are written to a file are programs: every command goes on from them, and gives what it gives for the model.

mod support;

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use netloom::compile::{Executable, Lowered, compile, lower};
use netloom::formats::npz;
use netloom::ir::builder::Builder;
use netloom::ir::ops::Conv;
use netloom::ir::{DType, Entry, Op, Program, Scalar, Tensor, Type, fuse, passes, sample, text};
use netloom::nn::{training, zoo};
use netloom::{Cpu, Device, Session, dump};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

fn netloom(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_netloom"))
        .args(arguments)
        .current_dir(folder)
        .output();
    let output = output.expect("the command runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {message}");
    message
}

/// Runs a model or an artefact on a made-up picture.
fn results(folder: &Path, model: &str) -> Vec<(String, netloom::ir::Tensor)> {
    netloom(
        folder,
        &["run", model, "--input", "x.npz", "--output", "y.npz", "--threads", "1"],
    );
    npz::load(&folder.join("y.npz")).expect("it was written")
}

#[test]
fn every_stage_of_graphs_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let ty: Type = zoo::find("lenet").expect("a network").input(1);
    let x = ("x".to_owned(), sample::tensor(&ty, &mut 1));
    npz::save(&folder.join("x.npz"), &[x]).expect("it is written");
    netloom(folder, &["export", "lenet", "-o", "lenet.onnx"]);
    // A network's states are made from a seed; those of a file are in it.
    for model in ["lenet", "lenet.onnx"] {
        let expected = results(folder, model);
        for stage in ["graph", "optimized", "simplify", "regions", "kernel", "nest"] {
            netloom(folder, &["dump", model, "--stage", stage, "-o", "stage.nl"]);
            assert_eq!(results(folder, "stage.nl"), expected, "{model} from {stage}");
            let written = std::fs::read_to_string(folder.join("stage.nl")).expect("it was written");
            netloom(folder, &["dump", "stage.nl", "--stage", stage, "-o", "again.nl"]);
            let again = std::fs::read_to_string(folder.join("again.nl")).expect("it was written");
            assert_eq!(again, written, "{model} at {stage} again");
            netloom(folder, &["compile", "stage.nl", "-o", "artefact"]);
            assert_eq!(results(folder, "artefact"), expected, "{model} compiled from {stage}");
        }
    }
    let text = std::fs::read_to_string(folder.join("stage.nl")).expect("it was written");
    assert!(text.len() < 20_000, "the text has {} bytes", text.len());
    // Another file of that name is not taken for it.
    let message = |folder: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_netloom"))
            .args(["dump", "stage.nl"])
            .current_dir(folder)
            .output();
        let output = output.expect("the command runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let mut tensors = netloom::formats::safetensors::load(&folder.join("stage.safetensors")).expect("it is there");
    let last = tensors.len() - 1;
    let (taken, other) = (tensors[last].1.clone(), tensors[0].0.clone());
    tensors[0] = (other, taken);
    netloom::formats::safetensors::save(&folder.join("stage.safetensors"), &tensors).expect("it is written");
    assert!(message(folder).contains("is not the one meant"), "{}", message(folder));
    std::fs::remove_file(folder.join("stage.safetensors")).expect("it was there");
    assert!(message(folder).contains("beside the text"), "{}", message(folder));
}

/// Scales of a batch normalisation are folded into weights by an entry of its own, which the text of a stage holds and an artefact does without.
#[test]
fn prepared_states_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let ty: Type = zoo::find("convnet").expect("a network").input(1);
    let x = ("x".to_owned(), sample::tensor(&ty, &mut 1));
    npz::save(&folder.join("x.npz"), &[x]).expect("it is written");
    let expected = results(folder, "convnet");
    netloom(folder, &["compile", "convnet", "-o", "artefact"]);
    assert_eq!(results(folder, "artefact"), expected, "compiled");
    for stage in ["optimized", "kernel", "nest"] {
        netloom(folder, &["dump", "convnet", "--stage", stage, "-o", "stage.nl"]);
        assert_eq!(results(folder, "stage.nl"), expected, "from {stage}");
        netloom(folder, &["compile", "stage.nl", "-o", "artefact"]);
        assert_eq!(results(folder, "artefact"), expected, "compiled from {stage}");
    }
}

/// What only shows a stage says so when it is taken for a model, whatever the command.
#[test]
fn listings_are_no_models() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let stages = [("plan", "without the graph"), ("clif", "is final"), ("asm", "is final")];
    for (stage, reason) in stages {
        netloom(folder, &["dump", "lenet", "--stage", stage, "-o", "listing.nl"]);
        for command in [&["bench"][..], &["dump"], &["compile", "-o", "artefact"]] {
            let output = Command::new(env!("CARGO_BIN_EXE_netloom"))
                .args(command)
                .arg("listing.nl")
                .current_dir(folder)
                .output();
            let output = output.expect("the command runs");
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success());
            assert!(
                message.contains(stage) && message.contains(reason),
                "{command:?} {stage}: {message}"
            );
            assert!(message.contains("--stage nest -o FILE.nl"), "{message}");
        }
    }
}

/// What is read of a program's text and the constants beside it: the same program.
fn read_back(program: &Program) -> Program {
    let stored: HashMap<String, Arc<Tensor>> = text::stored(program).into_iter().collect();
    let again = text::parse_program_with("stage", &format!("{program:#}"), &|name| stored.get(name).cloned());
    let again = again.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(again, *program);
    assert!(again.entries.iter().all(|entry| entry.graph.is_cut()));
    again
}

fn lowered(program: &Program) -> Lowered {
    lower(program, &Cpu::native().target()).unwrap_or_else(|error| panic!("{error}"))
}

/// A program with the kernels of its regions, from which come the schedules that come from the program.
fn from_kernels(program: &Program) -> Program {
    let direct = lowered(program);
    let again = read_back(&dump::built(program, &direct));
    let indirect = lowered(&again);
    assert_eq!(dump::kernels(&indirect), dump::kernels(&direct));
    assert_eq!(dump::nests(&indirect), dump::nests(&direct));
    assert_eq!(indirect.plans, direct.plans);
    again
}

/// A program with the nests of its regions.
fn from_nests(program: &Program) -> Program {
    read_back(&dump::scheduled(program, &lowered(program)))
}

/// A program cut into regions.
fn from_regions(program: &Program) -> Program {
    let target = Cpu::native().target();
    let cut = |entry: &Entry| Entry {
        graph: fuse::cut(&passes::run(&entry.graph, &target, &mut |_| {})),
        ..entry.clone()
    };
    read_back(&Program {
        entries: program.entries.iter().map(cut).collect(),
        ..program.clone()
    })
}

/// The results of two runs of an entry on made-up arguments, and the states after them.
fn two_runs(program: &Program, entry: &str) -> Vec<(String, Tensor)> {
    let executable = compile(program, Cpu::native()).unwrap_or_else(|error| panic!("{error}"));
    two_runs_of(executable, program, entry)
}

fn two_runs_of(executable: Executable, program: &Program, entry: &str) -> Vec<(String, Tensor)> {
    let mut session = Session::new(executable.into(), 2, 7).expect("memory");
    let graph = &program.entry(entry).expect("an entry").graph;
    let arguments: Vec<(String, Tensor)> = graph
        .inputs()
        .iter()
        .filter_map(|&id| match &graph.node(id).op {
            Op::Input(input) if program.state(&input.name).is_none() => {
                Some((input.name.clone(), sample::tensor(&input.ty, &mut u64::from(id.0))))
            }
            _ => None,
        })
        .collect();
    let arguments: Vec<(&str, &Tensor)> = arguments.iter().map(|(name, x)| (name.as_str(), x)).collect();
    let mut results = Vec::new();
    for _ in 0..2 {
        results.extend(
            session
                .call(entry, &arguments)
                .unwrap_or_else(|error| panic!("{error}")),
        );
    }
    results.extend(session.states());
    results
}

#[test]
fn training_goes_on_from_every_stage() {
    let net = zoo::find("lenet").expect("a network");
    let program = training::program(&(net.layers)(), &net.input(8), &net.target(8), &(net.training)());
    let program = program.expect("a program");
    let expected = two_runs(&program, training::TRAIN_STEP);
    assert_eq!(two_runs(&from_regions(&program), training::TRAIN_STEP), expected);
    assert_eq!(two_runs(&from_kernels(&program), training::TRAIN_STEP), expected);
    assert_eq!(two_runs(&from_nests(&program), training::TRAIN_STEP), expected);
}

#[test]
fn loops_and_branches_go_on_from_every_stage() {
    let source = "graph(h: f32[32], xs: f32[10,32], w: f32[32,32], n: f32[]) {
        steps = scan h, xs, w length=10 carried=1 sliced=1 body=graph(h: f32[32], x: f32[32], w: f32[32,32]) {
            product = einsum \"k,kn->n\" h, w
            next = tanh product
            sum = add next, x
            return sum, next
        }
        last = part 0 steps
        all = part 1 steps
        grows = while last, n carried=1 condition=graph(h: f32[32], n: f32[]) {
            total = sum h axes=[0]
            more = lt total, n
            return more
        } body=graph(h: f32[32], n: f32[]) {
            more = add h, 1.0
            return more
        }
        grown = part 0 grows
        zero = const 0.0
        is_positive = lt zero, n
        chosen = if is_positive, grown then=graph(x: f32[32]) {
            y = exp x
            return y
        } otherwise=graph(x: f32[32]) {
            return x
        }
        result = part 0 chosen
        total = sum all axes=[0]
        both = add result, total
        return both, all
    }";
    let program = text::parse_program("loops", source).unwrap_or_else(|problems| panic!("{problems}"));
    let expected = two_runs(&program, "main");
    assert_eq!(two_runs(&from_regions(&program), "main"), expected);
    assert_eq!(two_runs(&from_kernels(&program), "main"), expected);
    assert_eq!(two_runs(&from_nests(&program), "main"), expected);
}

#[test]
fn stages_of_every_network_read_back() {
    for net in zoo::NETS {
        let program = training::predictor(&(net.layers)(), &net.input(1)).expect("a program");
        let program = program.prepared();
        from_regions(&program);
        from_kernels(&program);
        from_nests(&program);
    }
}

/// A nest written by hand, with tiles of other sizes than the compiler's, computes what the graph says; a tile that no registers hold does too.
#[test]
fn nests_by_hand_are_compiled() {
    let source = include_str!("../ir/tests/golden/text/nest.txt")
        .split("----")
        .next()
        .expect("a part");
    let hand = text::parse_program("nest", source).unwrap_or_else(|problems| panic!("{problems}"));
    let (before, after) = source.split_once("    nest").expect("a nest");
    let plain = before.to_owned() + &after[after.find("  return").expect("outputs")..];
    let plain = text::parse_program("plain", &plain).unwrap_or_else(|problems| panic!("{problems}"));
    let expected = two_runs(&plain, "main");
    assert_eq!(two_runs(&hand, "main"), expected);
    let all_rows = source.replace("2 by 32", "32 by 64");
    let refused = text::parse_program("nest", &all_rows)
        .expect_err("a tile beyond its buffers")
        .to_string();
    assert!(refused.contains("may lie outside its buffer"), "{refused}");
    let large = source
        .replace("block < 16", "block < 1")
        .replace("row < 2", "row < 32")
        .replace("2 by 32", "32 by 32")
        .replace("tile: f32[2,32]", "tile: f32[32,32]");
    let large = text::parse_program("nest", &large).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(two_runs(&large, "main"), expected);
}

/// One change to a text: of its pieces, words, numbers and marks, or of its lines.
#[derive(Clone, Debug)]
enum Change {
    /// A number becomes another.
    Number(Index, u8),
    /// A word or mark becomes another of the text.
    Piece(Index, Index),
    /// A line is left out.
    Drop(Index),
    /// Two lines change places.
    Swap(Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let sizes = prop::sample::select(vec![0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 32, 33, 64]);
    prop_oneof![
        4 => (at(), sizes).prop_map(|(at, size)| Change::Number(at, size)),
        3 => (at(), at()).prop_map(|(at, other)| Change::Piece(at, other)),
        1 => at().prop_map(Change::Drop),
        2 => (at(), at()).prop_map(|(at, other)| Change::Swap(at, other)),
    ]
}

fn changed(text: &str, change: &Change) -> String {
    let is_digits = |piece: &str| piece.bytes().all(|byte| byte.is_ascii_digit());
    let mut lines: Vec<&str> = text.lines().collect();
    let mut pieces: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_part =
            |c: char| c.is_alphanumeric() == first.is_alphanumeric() && c.is_whitespace() == first.is_whitespace();
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        pieces.push(&rest[..end]);
        rest = &rest[end..];
    }
    let pick = |accept: &dyn Fn(&str) -> bool, at: &Index| {
        let places: Vec<usize> = (0..pieces.len()).filter(|&place| accept(pieces[place])).collect();
        places[at.index(places.len())]
    };
    let number;
    match change {
        Change::Number(at, size) => {
            let at = pick(&is_digits, at);
            number = size.to_string();
            pieces[at] = &number;
        }
        Change::Piece(at, other) => {
            let accept = |piece: &str| !piece.trim().is_empty();
            let [at, other] = [at, other].map(|at| pick(&accept, at));
            pieces[at] = pieces[other];
        }
        Change::Drop(at) => {
            lines.remove(at.index(lines.len()));
            return lines.join("\n");
        }
        Change::Swap(at, other) => {
            let [at, other] = [at, other].map(|at| at.index(lines.len()));
            lines.swap(at, other);
            return lines.join("\n");
        }
    }
    pieces.concat()
}

/// Products, images, sums, orders and a table: nests of every form.
fn forms() -> Program {
    let b = Builder::new();
    let input = |name: &str, shape: &[usize]| b.input(name, DType::F32, shape);
    let (x, w) = (input("x", &[6, 17]), input("w", &[17, 32]));
    let picture = input("image", &[1, 16, 6, 6]).conv(input("filter", &[16, 16, 3, 3]), Conv::unit(2));
    let rows = b.input("at", DType::I64, [5]);
    let graph = b.finish([
        ("product", x.matmul(w).relu()),
        ("chances", x.softmax(1)),
        ("picture", picture),
        ("order", x.argsort(1, false)),
        ("running", x.cumsum(1)),
        ("rows", x.gather(rows, 0)),
        ("scattered", x.scatter_add(rows, input("updates", &[5, 17]), 0)),
    ]);
    Program::pure("main", graph.expect("a graph"))
}

/// Whoever edits a kernel or a schedule gets code or a message, whatever the edit.
fn edits_are_refused_or_run(source: &str) {
    let cases = std::env::var("NETLOOM_FUZZ_CASES")
        .ok()
        .and_then(|count| count.parse().ok());
    let config = ProptestConfig {
        cases: cases.unwrap_or(256),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let accepted = Cell::new(0);
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let tried = runner.run(&prop::collection::vec(change(), 1..3), |changes| {
        let edited = changes
            .iter()
            .fold(source.to_owned(), |text, change| changed(&text, change));
        if let Ok(edited) = text::parse_program("edited", &edited)
            && let Ok(executable) = compile(&edited, Cpu::native())
        {
            two_runs_of(executable, &edited, &edited.entries[0].name);
            accepted.set(accepted.get() + 1);
        }
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
    assert!(accepted.get() > 0, "no edit was taken");
}

#[test]
fn edited_kernels_are_refused_or_run() {
    edits_are_refused_or_run(&from_kernels(&forms()).to_string());
}

#[test]
fn edited_nests_are_refused_or_run() {
    edits_are_refused_or_run(&from_nests(&forms()).to_string());
}

/// An edited kernel is what is computed, on every device; `check` says that it is not what its nodes are.
#[test]
fn edited_kernels_are_kept() {
    let source = "graph(x: f32[100]) {
        y = max x, 0.0
        return y
    }";
    let program = text::parse_program("relu", source).unwrap_or_else(|problems| panic!("{problems}"));
    let source = from_kernels(&program).to_string();
    let edited = source.replace("max(0.0, x[i0])", "abs(x[99 - i0])");
    assert_ne!(edited, source);
    let program = text::parse_program("edited", &edited).unwrap_or_else(|problems| panic!("{problems}"));
    let graph = &program.entries[0].graph;
    let x = sample::tensor(graph.ty(graph.inputs()[0]), &mut 1);
    let expected = Tensor::from_scalars(
        DType::F32,
        [100],
        (0..100).map(|at| Scalar::Float(x.get(99 - at).as_f64().abs())),
    );
    let mut devices = vec![Device::from(Cpu::native())];
    #[cfg(feature = "vulkan")]
    devices.extend(support::vulkan().map(Device::from));
    for device in devices {
        let executable = compile(&program, device.clone()).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(executable.into(), 1, 0).expect("memory");
        let results = session.call("main", &[("x", &x)]).expect("it runs");
        assert_eq!(results[0].1, expected, "on {device}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("edited.nl"), &edited).expect("it is written");
    let output = Command::new(env!("CARGO_BIN_EXE_netloom"))
        .args(["check", "edited.nl", "--bisect"])
        .current_dir(folder.path())
        .output();
    let output = output.expect("the command runs");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("kernel: the region is not what its nodes are"), "{said}");
}

/// A kernel of which no schedule can be proved to be safe is refused, where it is compiled at the latest.
#[test]
fn kernels_without_a_schedule_are_errors() {
    let source = "graph(x: f32[10000]) {
        y = exp x
        region y = y
            kernel {
                in x: f32[10000]
                out y: f32[10000]
                parallel i0 < 10000
                y[i0] = x[(i0 * i0) / 9999]
            }
        return y
    }";
    let program = text::parse_program("squares", source).unwrap_or_else(|problems| panic!("{problems}"));
    let refused = lower(&program, &Cpu::native().target())
        .expect_err("its schedule")
        .to_string();
    assert!(refused.contains("the schedule of `k0_exp`"), "{refused}");
    assert!(refused.contains("squares:2"), "{refused}");
    assert!(refused.contains("y["), "{refused}");
    let guarded = source.replace("9999]", "9999]?");
    let program = text::parse_program("squares", &guarded).unwrap_or_else(|problems| panic!("{problems}"));
    let x = Tensor::from_scalars(DType::F32, [10000], (0..10000).map(|at| Scalar::Float(f64::from(at))));
    let executable = compile(&program, Cpu::native()).unwrap_or_else(|error| panic!("{error}"));
    let mut session = Session::new(executable.into(), 1, 0).expect("memory");
    let results = session.call("main", &[("x", &x)]).expect("it runs");
    let expected = (0..10000_u32).map(|at| f64::from(at * at / 9999));
    assert!(results[0].1.scalars().map(Scalar::as_f64).eq(expected));
}
