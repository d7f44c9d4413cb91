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
    std::fs::create_dir(folder.join("dumped")).expect("a folder");
    for model in ["lenet", "lenet.onnx"] {
        let expected = results(folder, model);
        for stage in ["graph", "optimized", "simplify", "regions", "kernel", "nest", "plan"] {
            netloom(folder, &["dump", model, "--stage", stage, "-o", "stage.nl"]);
            assert_eq!(results(folder, "stage.nl"), expected, "{model} from {stage}");
            let written = std::fs::read_to_string(folder.join("stage.nl")).expect("it was written");
            netloom(folder, &["dump", "stage.nl", "--stage", stage, "-o", "again.nl"]);
            let again = std::fs::read_to_string(folder.join("again.nl")).expect("it was written");
            assert_eq!(again, written, "{model} at {stage} again");
            netloom(folder, &["compile", "stage.nl", "-o", "artefact"]);
            assert_eq!(results(folder, "artefact"), expected, "{model} compiled from {stage}");
        }
        // The plan that is read is the one that is made: artefacts of the same name are the same to the byte.
        for stage in ["nest", "plan"] {
            netloom(folder, &["dump", model, "--stage", stage, "-o", "dumped/lenet.nl"]);
            netloom(folder, &["compile", "dumped/lenet.nl", "-o", stage]);
        }
        for file in std::fs::read_dir(folder.join("nest")).expect("a folder") {
            let file = file.expect("a file").file_name();
            let bytes = |stage: &str| std::fs::read(folder.join(stage).join(&file)).expect("it was written");
            assert!(bytes("nest") == bytes("plan"), "{model}: {}", file.display());
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
    for stage in ["optimized", "kernel", "nest", "plan"] {
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
    let stages = [("clif", "is final"), ("asm", "is final")];
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

/// A program with the plans of its entries.
fn from_plans(program: &Program) -> Program {
    let cpu = Cpu::native();
    let lowered = lower(program, &cpu.target()).unwrap_or_else(|error| panic!("{error}"));
    let planned = read_back(&dump::planned(program, &lowered));
    let again = lower(&planned, &cpu.target()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again.plans, lowered.plans);
    assert_eq!(dump::planned(&planned, &again), planned);
    planned
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
    assert_eq!(two_runs(&from_plans(&program), training::TRAIN_STEP), expected);
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
    assert_eq!(two_runs(&from_plans(&program), "main"), expected);
}

#[test]
fn stages_of_every_network_read_back() {
    for net in zoo::NETS {
        let program = training::predictor(&(net.layers)(), &net.input(1)).expect("a program");
        let program = program.prepared();
        from_regions(&program);
        from_kernels(&program);
        from_plans(&program);
    }
}

/// With a batch of two, what is joined lies in several lines.
#[test]
fn plans_of_every_training_read_back() {
    for net in zoo::NETS {
        let net = net.for_training();
        let program = training::program(&(net.layers)(), &net.input(2), &net.target(2), &(net.training)());
        from_plans(&program.expect("a program"));
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
    let none = source.replace("2 by 32", "2 by 0");
    let refused = text::parse_program("nest", &none)
        .expect_err("a tile of nothing")
        .to_string();
    assert!(refused.contains("a tile of 0 columns"), "{refused}");
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

/// What only a matrix unit computes is refused where there is none, and runs where there is.
#[test]
fn nests_in_pieces_are_for_a_matrix_unit() {
    let source = include_str!("../ir/tests/golden/text/pieces.txt");
    let (source, _) = source.split_once("----").expect("a part");
    let program = text::parse_program("pieces", source).unwrap_or_else(|problems| panic!("{problems}"));
    let with_unit = Cpu::named("x86-64-v4-amx").ok();
    match with_unit.filter(|cpu| cpu.check_host().is_ok()) {
        Some(cpu) => {
            let executable = compile(&program, cpu).unwrap_or_else(|error| panic!("{error}"));
            two_runs_of(executable, &program, "main");
        }
        None => eprintln!("skipped: nests in pieces are not run, as this machine has no AMX"),
    }
    let without = Cpu {
        has_amx: false,
        ..Cpu::native()
    };
    let error = compile(&program, without).err().expect("it is refused");
    insta::assert_snapshot!(error, @r"
    the nest `by_hand` has contractions in pieces, and the program is compiled for a CPU without a matrix unit
      --> pieces:4
       = leave the nest out, and one is chosen; or take `--cpu x86-64-v4-amx`, where the machine has it
    ");
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

/// Whoever edits a stage gets code or a message, whatever the edit of the second part of its text.
fn edits_are_refused_or_run(before: &str, source: &str, entry: &str) {
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
        if let Ok(edited) = text::parse_program("edited", &format!("{before}{edited}"))
            && let Ok(executable) = compile(&edited, Cpu::native())
        {
            two_runs_of(executable, &edited, entry);
            accepted.set(accepted.get() + 1);
        }
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
    assert!(accepted.get() > 0, "no edit was taken");
}

#[test]
fn edited_kernels_are_refused_or_run() {
    edits_are_refused_or_run("", &from_kernels(&forms()).to_string(), "main");
}

#[test]
fn edited_nests_are_refused_or_run() {
    edits_are_refused_or_run("", &from_nests(&forms()).to_string(), "main");
}

/// What lies in blocks of channels for a nest must still do so when its text is read again.
#[test]
fn nests_for_other_layouts_are_refused() {
    let source = "graph(x: f32[1,16,8,8], first: f32[16,16,1,1], second: f32[16,16,1,1]) {
        hidden = conv x, first stride=[1,1] pad_low=[0,0] pad_high=[0,0] input_dilation=[1,1] kernel_dilation=[1,1] groups=1
        y = conv hidden, second stride=[1,1] pad_low=[0,0] pad_high=[0,0] input_dilation=[1,1] kernel_dilation=[1,1] groups=1
        return y
    }";
    let program = text::parse_program("convolved", source).unwrap_or_else(|problems| panic!("{problems}"));
    let source = from_nests(&program).to_string();
    let read = |source: &str| text::parse_program("edited", source).unwrap_or_else(|problems| panic!("{problems}"));
    let again = compile(&read(&source), Cpu::native());
    again.unwrap_or_else(|error| panic!("{error}"));
    let blocked = " as {0/1:1 1/16:1 2/1:8 3/1:8 1/1:16}";
    let edited = source.replacen(blocked, "", 1);
    assert_ne!(edited, source);
    let error = compile(&read(&edited), Cpu::native()).err().expect("it is refused");
    insta::assert_snapshot!(error, @r"
    the nest `k0_conv` takes `%3` for a dense tensor, and it lies as {0/1:1 1/16:1 2/1:8 3/1:8 1/1:16}
      --> edited:2
       = the layouts follow from the whole graph, which has changed: leave this nest out, or dump the model again
    ");
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

/// A plan written by hand.
const PLAN: &str = include_str!("data/plan.nl");

/// Edits of the plan that break a rule.
const BROKEN: &[(&str, &str)] = &[
    ("arena 1024 bytes", "arena 1000 bytes"),
    ("arena 1024 bytes", "arena 999999999999999999 bytes"),
    ("argument1 y: f32[8,16]", "argument1 y: f32[16,8]"),
    ("argument1 y", "argument2 y"),
    ("result0 turned", "result0 other"),
    ("plan main", "plan other"),
    ("  barrier\n", ""),
    ("  barrier\n", "  jump\n"),
    ("  barrier\n", "  barrier\n  count -> arena+512:8\n"),
    ("  barrier\n", "  barrier\n  copy arena+0:512 -> arena+256:512\n"),
    ("  barrier\n", "  barrier\n  copy arena+0:512 -> constants+0:512\n"),
    ("  barrier\n", "  barrier\n  if arena+512:1 {\n  } else {\n  }\n"),
    (
        "  barrier\n",
        "  barrier\n  repeat 9 {\n    copy arena+0:64 -> arena+512:64 by [64]\n    barrier\n  }\n",
    ),
    ("  sum(", "  total("),
    ("nest turn", "nest sum"),
    ("sum(argument0+0:512, ", "sum("),
    ("sum(argument0+0:512, ", "sum(argument7+0:512, "),
    ("arena+0:512) of", "arena+768:512) of"),
    ("arena+0:512) of", "arena+2:512) of"),
    ("arena+0:512) of", "arena+0:256) of"),
    ("arena+0:512) of", "arena+0:512 by [64]) of"),
    ("arena+0:512) of", "argument0+0:512) of"),
    ("arena+0:512) of", "worker+0:512) of"),
    ("turn(arena+0:512", "turn(arena+64:512"),
    ("result0+0:512", "arena+0:512"),
    ("  turn(arena+0:512, result0+0:512) of %3\n", ""),
];

/// The problem of each broken plan, with its place.
#[test]
fn broken_plans_are_refused_in_place() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/broken_plans.txt");
    let mut found = String::new();
    for (from, to) in BROKEN {
        assert!(PLAN.contains(from), "{from}");
        let edited = PLAN.replacen(from, to, 1);
        let refused = text::parse_program("plan.nl", &edited)
            .map_err(netloom::Error::from)
            .and_then(|program| compile(&program, Cpu::native()));
        let message = refused
            .err()
            .map_or_else(|| "taken".to_owned(), |error| error.to_string());
        found += &format!("---- {from:?} becomes {to:?}\nerror: {message}\n");
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).expect("it is written");
    }
    let expected = std::fs::read_to_string(&path).expect("the problems");
    assert_eq!(found, expected, "UPDATE_GOLDEN=1 rewrites the file");
}

/// Plans may be changed: a value moved to where nothing lies, workers made to wait more often, a copy on the way.
#[test]
fn plans_by_hand_are_compiled() {
    let program = |source: &str| text::parse_program("plan.nl", source).unwrap_or_else(|problems| panic!("{problems}"));
    let (plain, _) = PLAN.split_once("plan main").expect("a plan");
    let expected = two_runs(&program(plain), "main");
    assert_eq!(program(PLAN).to_string(), PLAN, "it reads back");
    let edits = [
        ("", ""),
        ("arena+0:512", "arena+448:512"),
        ("  barrier\n", "  barrier\n  barrier\n"),
        (
            "  barrier\n  turn(arena+0:512",
            "  barrier\n  repeat 4 {\n    copy arena+384:128 by [-128] -> arena+896:128 by [-128]\n    barrier\n  }\n  turn(arena+512:512",
        ),
    ];
    for (from, to) in edits {
        assert_eq!(
            two_runs(&program(&PLAN.replace(from, to)), "main"),
            expected,
            "{from:?} becomes {to:?}"
        );
    }
}

/// Whoever edits a plan gets code or a message, whatever the edit.
#[test]
fn edited_plans_are_refused_or_run() {
    let training = || {
        let net = zoo::find("mlp").expect("a network");
        let program = training::program(&(net.layers)(), &net.input(2), &net.target(2), &(net.training)());
        (from_plans(&program.expect("a program")), training::TRAIN_STEP)
    };
    for (program, entry) in [(from_plans(&forms()), "main"), training()] {
        let source = program.to_string();
        let start = source.find("\nplan ").expect("a plan");
        edits_are_refused_or_run(&source[..start], &source[start..], entry);
    }
}
