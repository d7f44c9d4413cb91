//! Dumps that are written to a file are programs: every command goes on from them, and gives what it gives for the model.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use netloom::formats::npz;
use netloom::ir::{Entry, Op, Program, Tensor, Type, fuse, passes, sample, text};
use netloom::nn::{training, zoo};
use netloom::{Cpu, Session, compile};

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
        for stage in ["graph", "optimized", "simplify", "regions"] {
            netloom(folder, &["dump", model, "--stage", stage, "-o", "stage.nl"]);
            assert_eq!(results(folder, "stage.nl"), expected, "{model} from {stage}");
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

/// A program cut into regions, from its text and the constants beside it.
fn from_regions(program: &Program) -> Program {
    let target = Cpu::native().target();
    let cut = |entry: &Entry| Entry {
        graph: fuse::cut(&passes::run(&entry.graph, &target, &mut |_| {})),
        ..entry.clone()
    };
    let cut = Program {
        entries: program.entries.iter().map(cut).collect(),
        ..program.clone()
    };
    let stored: HashMap<String, Arc<Tensor>> = text::stored(&cut).into_iter().collect();
    let again = text::parse_program_with("regions", &format!("{cut:#}"), &|name| stored.get(name).cloned());
    let again = again.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(again, cut);
    assert!(again.entries.iter().all(|entry| entry.graph.is_cut()));
    again
}

/// The results of two runs of an entry on made-up arguments, and the states after them.
fn two_runs(program: &Program, entry: &str) -> Vec<(String, Tensor)> {
    let executable = compile(program, Cpu::native()).unwrap_or_else(|error| panic!("{error}"));
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
fn training_goes_on_from_regions() {
    let net = zoo::find("lenet").expect("a network");
    let program = training::program(&(net.layers)(), &net.input(8), &net.target(8), &(net.training)());
    let program = program.expect("a program");
    assert_eq!(
        two_runs(&from_regions(&program), training::TRAIN_STEP),
        two_runs(&program, training::TRAIN_STEP)
    );
}

#[test]
fn loops_and_branches_go_on_from_regions() {
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
    assert_eq!(two_runs(&from_regions(&program), "main"), two_runs(&program, "main"));
}

#[test]
fn regions_of_every_network_read_back() {
    for net in zoo::NETS {
        let program = training::predictor(&(net.layers)(), &net.input(1)).expect("a program");
        from_regions(&program.prepared());
    }
}
