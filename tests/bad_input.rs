//! What users get wrong: a clear message and a status, never a panic or half a file.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use netloom::formats::{npz, safetensors};
use netloom::ir::{Builder, DType, Program, Tensor};
use netloom::train::Dataset;
use netloom::{Cpu, Error, compile};
use support::session;

fn netloom(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netloom"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program starts")
}

/// Asserts the status and that the message has all these parts.
fn refuses(folder: &Path, arguments: &[&str], status: i32, parts: &[&str]) {
    let output = netloom(folder, arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{arguments:?} should say `{part}`: {message}");
    }
    assert_eq!(leftovers(folder), Vec::<String>::new(), "{arguments:?}");
}

/// Files that were begun and not finished.
fn leftovers(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "partial") {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file");
}

/// MNIST-style files of `count` pictures of stripes, one direction for each of ten classes.
fn stripes(folder: &Path, count: usize) {
    for part in ["train", "test"] {
        let pixel = |picture: usize, at: usize| match (at / 28 + picture * (at % 28)) % 10 {
            0..5 => 255,
            _ => 0,
        };
        let [a, b] = (count as u16).to_be_bytes();
        let mut pictures = vec![0, 0, 8, 3, 0, 0, a, b, 0, 0, 0, 28, 0, 0, 0, 28];
        pictures.extend((0..count * 784).map(|at| pixel(at / 784 % 10, at % 784)));
        let mut labels = vec![0, 0, 8, 1, 0, 0, a, b];
        labels.extend((0..count).map(|picture| (picture % 10) as u8));
        write(&folder.join(format!("{part}-images-idx3-ubyte")), &pictures);
        write(&folder.join(format!("{part}-labels-idx1-ubyte")), &labels);
    }
}

#[test]
fn names_that_are_not_there() {
    let folder = folder();
    refuses(
        folder.path(),
        &["train", "lnet"],
        2,
        &["no network `lnet`", "did you mean lenet"],
    );
    refuses(folder.path(), &["dump", "mpl"], 2, &["no network `mpl`", "mlp"]);
    refuses(folder.path(), &["tarin", "mlp"], 2, &["train"]);
    refuses(
        folder.path(),
        &["compile", "mlp", "--entry", "predcit", "--out", "x"],
        2,
        &["predcit", "predict"],
    );
    refuses(
        folder.path(),
        &["train", "mlp", "--cpu", "pentium"],
        2,
        &["unknown cpu `pentium`", "x86-64-v3"],
    );
    refuses(folder.path(), &["bench", "mlp", "--threads", "0"], 2, &["--threads"]);
    refuses(
        folder.path(),
        &["run", "missing.txt", "--input", "missing.npz", "--output", "y.npz"],
        1,
        &["missing.npz"],
    );
    refuses(folder.path(), &["dump", "missing.txt"], 1, &["missing.txt"]);
}

#[test]
fn machines_that_are_not_this_one() {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [4]);
    let program = Program::pure("run", b.finish([("y", x + 1.0)]).expect("a graph"));
    let triple = if cfg!(target_arch = "x86_64") {
        "aarch64-unknown-linux-gnu"
    } else {
        "x86_64-unknown-linux-gnu"
    };
    let other = Cpu::for_triple(triple, None).expect("a known triple");
    let message = compile(&program, &other)
        .err()
        .expect("another architecture")
        .to_string();
    assert!(message.contains("architecture"), "{message}");
    for name in ["x86-64", "x86-64-v3", "x86-64-v4", "x86-64-v4-amx"] {
        let Ok(cpu) = Cpu::named(name) else { continue };
        assert_eq!(compile(&program, &cpu).is_ok(), cpu.check_host().is_ok(), "{name}");
    }
}

#[test]
fn shapes_that_do_not_fit() {
    let folder = folder();
    let wrong = [("x".to_owned(), Tensor::from_f32([2, 3], &[0.0; 6]))];
    npz::save(&folder.path().join("wrong.npz"), &wrong).expect("a file");
    let output = folder.path().join("y.npz");
    refuses(
        folder.path(),
        &["run", "mlp", "--input", "wrong.npz", "--output", "y.npz"],
        1,
        &["f32[2,3]", "f32[2,784]"],
    );
    assert!(!output.exists());
    safetensors::save(&folder.path().join("wrong.safetensors"), &wrong).expect("a file");
    refuses(
        folder.path(),
        &["bench", "mlp", "--batch", "2", "--weights", "wrong.safetensors"],
        1,
        &["`x` is unknown", "`0.weight` is missing"],
    );

    let b = Builder::new();
    let x = b.input("x", DType::F32, [4]);
    let program = Program::pure("run", b.finish([("y", x + 1.0)]).expect("a graph"));
    let mut session = session(&program, &Cpu::native(), 1);
    let (good, bad) = (Tensor::from_f32([4], &[0.0; 4]), Tensor::from_i64([4], &[0; 4]));
    for arguments in [&[("x", &bad)][..], &[], &[("x", &good), ("z", &good)]] {
        let error = session.call("run", arguments).expect_err("wrong arguments");
        assert!(matches!(error, Error::Usage(_)), "{error}");
        assert!(error.to_string().contains("`x`: f32[4]"), "{error}");
    }
    assert!(
        session
            .call("rum", &[("x", &good)])
            .expect_err("no such entry")
            .to_string()
            .contains("`run`")
    );
    assert!(session.run("run", &[&good], &mut []).is_err());
    assert!(session.set_state("w", &good).is_err());
    assert!(session.state("w").is_err());
}

#[test]
fn more_than_the_memory_there_is() {
    let folder = folder();
    refuses(
        folder.path(),
        &["bench", "mlp", "--batch", "500000000"],
        1,
        &["1907.35 GiB of memory are needed", "smaller batch"],
    );
    let x = [("x".to_owned(), Tensor::zeros(DType::F32, [1024]))];
    npz::save(&folder.path().join("x.npz"), &x).expect("a file");
    let b = Builder::new();
    let rows = b.input("x", DType::F32, [1024]).broadcast([1 << 31, 1024]);
    for (name, y) in [("result", rows), ("intermediate", rows.cumsum(0).max_over([0]))] {
        let graph = b.finish([("y", y)]).expect("a graph");
        write(&folder.path().join("model.nl"), graph.to_string().as_bytes());
        refuses(
            folder.path(),
            &["run", "model.nl", "--input", "x.npz", "--output", "y.npz"],
            1,
            &["819", "GiB of memory are needed"],
        );
        assert!(!folder.path().join("y.npz").exists(), "{name}");
    }
}

#[test]
fn graphs_that_are_wrong_are_shown_at_their_line() {
    let folder = folder();
    write(
        &folder.path().join("model.txt"),
        b"graph(x: f32[4]) {\n  %0: f32[4] = nonsense x\n  return %0\n}\n",
    );
    refuses(folder.path(), &["dump", "model.txt"], 1, &["model.txt:2", "nonsense"]);
    write(&folder.path().join("bytes.txt"), &[0xff, 0xfe, 0x00]);
    refuses(folder.path(), &["dump", "bytes.txt"], 1, &["bytes.txt"]);
}

#[test]
fn options_that_artefacts_do_not_have() {
    let folder = folder();
    let x = [("x".to_owned(), Tensor::zeros(DType::F32, [1, 2]))];
    npz::save(&folder.path().join("x.npz"), &x).expect("a file");
    assert!(
        netloom(folder.path(), &["compile", "tiny", "--out", "artefact"])
            .status
            .success()
    );
    let run = ["run", "artefact", "--input", "x.npz", "--output", "y.npz"];
    for (option, message) in [
        (&["--nan"][..], "holds no checks for NaN"),
        (&["--weights", "x.safetensors"], "has its weights already"),
    ] {
        refuses(folder.path(), &[&run, option].concat(), 1, &[message]);
    }
}

#[test]
fn files_in_the_way_of_folders() {
    let folder = folder();
    stripes(folder.path(), 40);
    write(&folder.path().join("taken"), b"a file");
    let data = ["--data", "."];
    refuses(
        folder.path(),
        &[&["train", "mlp", "--out", "taken"], &data[..]].concat(),
        1,
        &["taken"],
    );
    refuses(folder.path(), &["compile", "mlp", "--out", "taken"], 1, &["taken"]);
    assert_eq!(
        std::fs::read(folder.path().join("taken")).expect("it is still there"),
        b"a file"
    );
    for arguments in [
        &["dump", "mlp", "-o", "taken/mlp.txt"][..],
        &["export", "mlp", "-o", "taken/mlp.onnx"],
        &["bench", "tiny", "--profile", "taken/trace.json"],
        &["demo", "--epochs", "1", "--out", "taken"],
        &["run", "mlp", "--input", "x.npz", "--output", "taken/y.npz"],
    ] {
        let x = [("x".to_owned(), Tensor::zeros(DType::F32, [1, 784]))];
        npz::save(&folder.path().join("x.npz"), &x).expect("a file");
        refuses(folder.path(), arguments, 1, &["taken"]);
    }
    // A folder where a file should go.
    std::fs::create_dir_all(folder.path().join("object/mlp.o/inside")).expect("a folder");
    refuses(folder.path(), &["compile", "mlp", "--out", "object"], 1, &["mlp.o"]);
    refuses(
        folder.path(),
        &["train", "mlp", "--data", "nowhere"],
        1,
        &["nowhere", "train-images-idx3-ubyte"],
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_written_to_not_replaced() {
    let folder = folder();
    let link = folder.path().join("full");
    std::os::unix::fs::symlink("/dev/full", &link).expect("a link");
    refuses(
        folder.path(),
        &["dump", "tiny", "-o", "full"],
        1,
        &["full: ", "No space"],
    );
    assert!(std::fs::symlink_metadata(&link).expect("it is there").is_symlink());
}

#[test]
fn data_that_are_wrong_are_named_and_leave_nothing_behind() {
    let (images, labels) = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte");
    let (test_images, test_labels) = ("test-images-idx3-ubyte", "test-labels-idx1-ubyte");
    for (file, at, byte, part) in [
        (images, 2, 9, "it starts with 00 00 09 03"),
        (
            images,
            7,
            41,
            "the header says [41, 28, 28], but 31360 bytes of data follow",
        ),
        (labels, 7, 39, "the header says [39], but 40 bytes"),
        (
            labels,
            11,
            12,
            "byte 11 is the label 12, but `mlp` tells only 10 classes apart",
        ),
        (test_images, 2, 0, "it starts with 00 00 00 03"),
        (test_labels, 20, 255, "byte 20 is the label 255"),
    ] {
        let folder = folder();
        stripes(folder.path(), 40);
        let path = folder.path().join(file);
        let mut bytes = std::fs::read(&path).expect("it was written");
        bytes[at] = byte;
        write(&path, &bytes);
        let arguments = ["train", "mlp", "--data", ".", "--batch", "8", "--out", "out"];
        refuses(folder.path(), &arguments, 1, &[file, part]);
        assert!(!folder.path().join("out").exists(), "{part}");
    }
}

#[test]
fn arrays_with_values_that_are_no_numbers() {
    let folder = folder();
    let path = folder.path().join("data.npz");
    let arrays = [
        ("x".to_owned(), Tensor::from_f32([2, 2], &[1.0, 2.0, f32::NAN, 4.0])),
        ("y".to_owned(), Tensor::from_i64([2], &[0, 1])),
    ];
    npz::save(&path, &arrays).expect("a file");
    let message = Dataset::from_npz(&path, "x", "y").expect_err("one is NaN").to_string();
    assert!(
        message.ends_with("data.npz: array `x`, f32[2,2]: element 2 is NaN"),
        "{message}"
    );
    let message = Dataset::from_npz(&path, "x", "z")
        .expect_err("there is none")
        .to_string();
    assert!(
        message.contains("there is no array `z`; the arrays are x, y"),
        "{message}"
    );
}

#[test]
fn a_loss_that_is_no_number_ends_the_training() {
    let folder = folder();
    stripes(folder.path(), 40);
    let arguments = [
        "train", "mlp", "--data", ".", "--batch", "8", "--epochs", "4", "--rate", "1e30", "--out", "out",
    ];
    refuses(
        folder.path(),
        &arguments,
        1,
        &["the loss is", "step", "lower the learning rate"],
    );
    let named = [&arguments[..], &["--nan"]].concat();
    refuses(
        folder.path(),
        &named,
        1,
        &["at step", "the first ", " comes from `", " at src/"],
    );
}

/// `run --nan` watches the entry as it runs, on any device; without a bad value the results are those without it.
#[test]
fn the_operation_that_made_a_nan_is_named() {
    let folder = folder();
    let model = "graph(x: f32[3]) {\n  %1: f32[3] = sqrt x\n  %2: f32[3] = mul %1, 2.0\n  return y = %2\n}\n";
    std::fs::write(folder.path().join("root.nl"), model).expect("a file");
    let save = |name: &str, x: [f32; 3]| {
        let arrays = [("x".to_owned(), Tensor::from_f32([3], &x))];
        npz::save(&folder.path().join(name), &arrays).expect("a file");
    };
    save("good.npz", [1.0, 4.0, 9.0]);
    save("bad.npz", [1.0, -4.0, 9.0]);
    let with = |input, output| {
        [
            "run", "root.nl", "--entry", "main", "--nan", "--input", input, "--output", output,
        ]
    };
    succeeds(folder.path(), &with("good.npz", "y.npz"));
    let results = npz::load(&folder.path().join("y.npz")).expect("it was written");
    assert_eq!(results, [("y".to_owned(), Tensor::from_f32([3], &[2.0, 4.0, 6.0]))]);
    let expected = "the first NaN comes from `sqrt` (%1, f32[3]) at root.nl:2";
    refuses(folder.path(), &with("bad.npz", "z.npz"), 1, &[expected]);
}

/// The command that trains on the stripes of a folder.
fn train<'a>(out: &'a str, epochs: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = [
        "train",
        "mlp",
        "--data",
        ".",
        "--batch",
        "8",
        "--threads",
        "2",
        "--out",
        out,
        "--epochs",
        epochs,
    ];
    [&fixed, more].concat()
}

fn succeeds(folder: &Path, arguments: &[&str]) {
    let output = netloom(folder, arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn weights(folder: &Path, out: &str) -> Vec<(String, Tensor)> {
    safetensors::load(&folder.join(out).join("weights.safetensors")).expect("weights were saved")
}

#[test]
fn several_seeds_train_apart_and_their_mean_is_told() {
    let folder = folder();
    stripes(folder.path(), 80);
    let more = ["--seeds", "2", "--seed", "5", "--dropout", "0.3", "--best", "--json"];
    let output = netloom(folder.path(), &train("out", "3", &more));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("an object");
    let loss = |report: &serde_json::Value| report["test_loss"].as_f64().expect("a number");
    let each: Vec<f64> = report["seeds"].as_array().expect("two").iter().map(loss).collect();
    assert!(each.len() == 2 && each[0] != each[1], "{report}");
    assert!((loss(&report) - (each[0] + each[1]) / 2.0).abs() < 1e-12, "{report}");
    for seed in ["out/seed-5", "out/seed-6"] {
        // What is kept is the best epoch, and names do not depend on dropout.
        let best = safetensors::load(&folder.path().join(seed).join("best.safetensors")).expect("it was saved");
        assert!(best == weights(folder.path(), seed), "{seed}");
        assert!(best.iter().any(|(name, _)| name == "4.weight"), "{seed}");
    }
    for (more, status, part) in [
        (&["--turn", "5"][..], 1, "`mlp` takes no pictures"),
        (&["--dropout", "1.5"], 1, "found 1.5"),
        (
            &["--seeds", "2", "--resume", "out/seed-5/best.safetensors"],
            2,
            "cannot be used with '--resume",
        ),
    ] {
        refuses(folder.path(), &train("other", "3", more), status, &[part]);
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_saves_and_says_where() {
    use std::io::Read;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    // Some seconds of training, of which the first few milliseconds are seen.
    const EPOCHS: &str = "60";
    let folder = folder();
    stripes(folder.path(), 240);
    let mut child = Command::new(env!("CARGO_BIN_EXE_netloom"))
        .args(train("cut", EPOCHS, &[]))
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // The log's first line says that training runs.
    let start = Instant::now();
    while !folder.path().join("cut/log.csv").exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "training does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("`kill` runs");
    assert!(sent.success());
    let mut message = String::new();
    child
        .stderr
        .take()
        .expect("it was piped")
        .read_to_string(&mut message)
        .expect("text");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(1), "{message}");
    assert!(message.contains("interrupted after"), "{message}");
    assert!(message.contains("--resume cut/weights.safetensors"), "{message}");
    assert_eq!(leftovers(folder.path()), Vec::<String>::new());

    // Gone on from, it ends where an uninterrupted training does.
    succeeds(
        folder.path(),
        &train("resumed", EPOCHS, &["--resume", "cut/weights.safetensors"]),
    );
    succeeds(folder.path(), &train("whole", EPOCHS, &[]));
    assert!(
        weights(folder.path(), "whole") == weights(folder.path(), "resumed"),
        "other weights after resuming"
    );
    let curves = |out: &str| std::fs::read_to_string(folder.path().join(out).join("loss.svg")).expect("it was drawn");
    assert!(
        curves("whole") == curves("resumed"),
        "the curves do not begin where the training did"
    );
}

/// A folder that is called as a network, such as what `compile -o` wrote, hides it from no command.
#[test]
fn a_folder_hides_no_network() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("tiny")).expect("a folder");
    let output = netloom(folder.path(), &["dump", "tiny"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::create_dir(folder.path().join("other")).expect("a folder");
    refuses(folder.path(), &["dump", "other"], 1, &["other: Is a directory"]);
}
