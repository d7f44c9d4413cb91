//! Dumps that are written to a file are programs: every command goes on from them, and gives what it gives for the model.

use std::path::Path;
use std::process::Command;

use netloom::formats::npz;
use netloom::ir::{Type, sample};
use netloom::nn::zoo;

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
        for stage in ["graph", "optimized", "simplify"] {
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
