//! What the commands print and write, from the program that users run.

use std::path::Path;
use std::process::Command;

use netloom::formats::onnx::proto;
use netloom::formats::{npz, safetensors};
use netloom::ir::{Builder, DType, Op, Scalar, Tensor, passes, text};
use netloom::nn::scope::STEP;
use netloom::nn::training::{self, PREDICT};
use netloom::nn::zoo;
use netloom::train::Dataset;
use netloom::{Cpu, Session, compile};
use prost::Message;
use serde_json::Value;

/// What a command prints on standard output; it must succeed.
fn netloom(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_netloom"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {message}");
    String::from_utf8(output.stdout).expect("text")
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&netloom(folder, arguments)).expect("one JSON object")
}

fn has_keys(object: &Value, keys: &str) {
    for key in keys.split_whitespace() {
        assert!(object.get(key).is_some(), "`{key}` is missing in {object}");
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn every_stage_is_shown() {
    let folder = folder();
    let dump = |entry: &str, stage: &str, more: &[&str]| {
        let arguments = ["dump", "lenet", "--entry", entry, "--stage", stage];
        netloom(folder.path(), &[&arguments, more].concat())
    };
    for entry in ["predict", "train_step"] {
        let passes = passes::PASSES.iter().map(|pass| pass.name);
        for stage in ["graph", "grad", "optimized", "regions"].into_iter().chain(passes) {
            let graph = dump(entry, stage, &[]);
            let parsed = text::parse(stage, &graph).unwrap_or_else(|problems| panic!("{stage}: {problems}"));
            assert_eq!(parsed.to_string(), graph, "{stage}");
            assert!(
                parsed.nodes().any(|(_, node)| matches!(node.op, Op::Conv(_))),
                "{stage}"
            );
        }
        for (stage, part) in [
            ("kernel", "kernel "),
            ("nest", "nest "),
            ("plan", "barrier"),
            ("clif", "function "),
            ("asm", "ret"),
        ] {
            assert!(dump(entry, stage, &[]).contains(part), "{stage} of {entry}");
        }
    }
    let json = dump("predict", "graph", &["--format", "json"]);
    let graph = text::from_json(&json).expect("a graph");
    assert_eq!(graph.to_string(), dump("predict", "graph", &[]));
    assert!(dump("predict", "graph", &["--format", "dot"]).starts_with("digraph"));
    // The differentiated graph is what is shown of `grad` where no entry is named.
    let grad = netloom(folder.path(), &["dump", "tiny", "--stage", "grad"]);
    assert!(grad.contains("loss"), "{grad}");
}

#[test]
fn a_graph_in_a_file_is_a_model() {
    let folder = folder();
    let b = Builder::new();
    let [x, w] = [b.input("x", DType::F32, [2, 3]), b.input("w", DType::F32, [3, 4])];
    let graph = b.finish([("y", x.matmul(w).relu())]).expect("a graph");
    std::fs::write(folder.path().join("layer.nl"), graph.to_string()).expect("a file");
    let ones = |shape: [usize; 2]| Tensor::from_f32(shape, &vec![1.0; shape[0] * shape[1]]);
    let arrays = [("x".to_owned(), ones([2, 3])), ("w".to_owned(), ones([3, 4]))];
    npz::save(&folder.path().join("arrays.npz"), &arrays).expect("a file");
    assert_eq!(netloom(folder.path(), &["dump", "layer.nl"]), graph.to_string());
    let arguments = ["--input", "arrays.npz", "--output", "y.npz"];
    for model in ["layer.nl", "layer.onnx", "artefact"] {
        netloom(folder.path(), &[&["run", model][..], &arguments].concat());
        let results = npz::load(&folder.path().join("y.npz")).expect("results");
        assert_eq!(results[0].0, "y");
        assert_eq!(results[0].1.to_f32(), [3.0; 8], "{model}");
        std::fs::remove_file(folder.path().join("y.npz")).expect("it was there");
        match model {
            "layer.nl" => netloom(folder.path(), &["export", "layer.nl", "-o", "layer.onnx"]),
            _ => netloom(
                folder.path(),
                &["compile", "layer.nl", "--emit", "sharedlib", "-o", "artefact"],
            ),
        };
    }
    let checked = netloom(folder.path(), &["check", "layer.nl"]);
    assert!(checked.contains("1 kernels as the oracle"), "{checked}");
}

#[test]
fn devices_are_listed() {
    let folder = folder();
    assert!(netloom(folder.path(), &["devices"]).starts_with("cpu "));
    let listed = json(folder.path(), &["devices", "--json"]);
    has_keys(
        &listed["devices"][0],
        "device triple level vector_lanes vector_registers threads",
    );
    for device in listed["devices"].as_array().expect("a list").iter().skip(1) {
        has_keys(
            device,
            "device name kind driver memory_bytes tensor_bytes subgroup features unused f32 usable",
        );
        // What is there is either used or not.
        let names = |key: &str| device[key].as_array().expect("names").clone();
        assert!(
            names("unused").iter().all(|name| !names("features").contains(name)),
            "{device}"
        );
    }
}

#[test]
fn benchmarks_say_what_they_measured() {
    let folder = folder();
    let keys = "model device threads mode batch median_ms min_ms runs compile_ms kernels arena_bytes peak_rss_bytes";
    let bench = |more: &[&str]| {
        let arguments = [
            "bench",
            "mlp",
            "--batch",
            "4",
            "--threads",
            "1",
            "--seconds",
            "0.01",
            "--json",
        ];
        json(folder.path(), &[&arguments, more].concat())
    };
    for train in [&[][..], &["--train"]] {
        let compiled = bench(train);
        has_keys(&compiled, keys);
        assert_eq!(compiled["mode"], "compiled");
        let eager = bench(&[train, &["--eager"]].concat());
        has_keys(&eager, keys);
        assert_eq!(eager["mode"], "eager");
        has_keys(
            &eager["compiled"],
            "median_ms kernels bytes_moved arena_bytes allocations",
        );
        // One kernel an operation, a buffer for each result.
        let number = |of: &Value, key: &str| of[key].as_u64().expect("a number");
        for (key, least) in [("kernels", 1), ("bytes_moved", 1), ("allocations", 1)] {
            let (eager, compiled) = (number(&eager, key), number(&eager["compiled"], key));
            assert!(eager >= compiled + least, "{key}: {eager} eager, {compiled} compiled");
        }
        let costs = bench(&[train, &["--kernels"]].concat());
        assert!(
            costs["kernels"].as_array().is_some_and(|kernels| !kernels.is_empty()),
            "{costs}"
        );
        let lost = |cost: &Value| cost["lost_ms"].as_f64().expect("a number");
        let kernels = costs["kernels"].as_array().expect("a list");
        assert!(
            kernels
                .iter()
                .all(|cost| lost(cost) <= cost["ms"].as_f64().expect("a number")),
            "{costs}"
        );
        assert!(kernels.is_sorted_by(|a, b| lost(a) >= lost(b)), "{costs}");
        assert!(costs["bandwidth_gb_s"].as_f64() > Some(0.0), "{costs}");
    }
    let replayed = bench(&["--train", "--replay", "3"]);
    has_keys(&replayed, "loss_first loss_replayed");
    assert_ne!(replayed["loss_first"], replayed["loss_replayed"]);
}

#[cfg(feature = "demo")]
#[test]
fn the_tour_trains_writes_and_compares() {
    let folder = folder();
    let report = json(folder.path(), &["demo", "--epochs", "1", "--out", "tour", "--json"]);
    has_keys(
        &report,
        "net device threads epochs steps step_ms train_loss validation_loss test_accuracy files",
    );
    assert_eq!(report["net"], "lenet");
    assert!(report["test_accuracy"].as_f64() > Some(0.9), "{report}");
    let files: Vec<&str> = report["files"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for file in &files {
        let length = std::fs::metadata(folder.path().join("tour").join(file))
            .expect(file)
            .len();
        assert!(length > 0, "{file}");
    }
    for file in [
        "weights.safetensors",
        "loss.svg",
        "accuracy.svg",
        "filters.svg",
        "mistakes.svg",
    ] {
        assert!(files.contains(&file), "{file} is not among {files:?}");
    }
    // Saved weights say nothing about when and where.
    let weights = std::fs::read(folder.path().join("tour/weights.safetensors")).expect("they were saved");
    let path = folder.path().display().to_string();
    assert!(!weights.windows(path.len()).any(|window| window == path.as_bytes()));
}

#[cfg(feature = "demo")]
#[test]
fn digits_lie_between_zero_and_one_and_apart() {
    let (train, test) = Dataset::digits().expect("they are embedded");
    assert_eq!((train.len(), test.len()), (8000, 1000));
    for data in [&train, &test] {
        assert!(data.inputs.to_f32().iter().all(|grey| (0.0..=1.0).contains(grey)));
        assert_eq!(data.classes(), 10);
    }
}

/// Weights of a network of the zoo, as netloom saves them, and what the network makes of an input with them.
fn saved_weights(net: &str, path: &Path, input: &Tensor) -> Tensor {
    let net = zoo::find(net).expect("a network");
    let program = training::predictor(&(net.layers)(), &net.input(1)).expect("it is valid");
    let executable = compile(&program.prepared(), Cpu::native()).expect("it compiles");
    let mut session = Session::new(executable.into(), 1, 3).expect("memory");
    let mut states = session.states();
    // No statistics are zero.
    for (name, tensor) in &mut states {
        if name.ends_with("running_mean") || name.ends_with("bias") {
            let count = tensor.count();
            (0..count).for_each(|at| tensor.set(at, Scalar::Float(at as f64 / count as f64)));
            session.set_state(name, tensor).expect("a state");
        }
    }
    states.push((STEP.to_owned(), Tensor::zeros(DType::I64, [])));
    safetensors::save(path, &states).expect("it can be written");
    let results = session.call(PREDICT, &[("x", input)]).expect("it runs");
    results[0].1.clone()
}

/// Writes an ONNX model again, with its larger tensors in a file beside it.
fn put_elements_beside(from: &Path, to: &Path) {
    let bytes = std::fs::read(from).expect("a model");
    let mut model = proto::ModelProto::decode(&*bytes).expect("a model");
    let name = "elements.bin";
    let mut beside = Vec::new();
    for tensor in &mut model.graph.as_mut().expect("a graph").initializer {
        let raw = tensor.raw_data.take_if(|raw| raw.len() >= 1024);
        let Some(raw) = raw else { continue };
        let places = [
            ("location", name.to_owned()),
            ("offset", beside.len().to_string()),
            ("length", raw.len().to_string()),
        ];
        let entry = |(key, value): (&str, String)| proto::StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value),
        };
        tensor.external_data = places.map(entry).to_vec();
        tensor.data_location = Some(proto::tensor_proto::DataLocation::External as i32);
        beside.extend_from_slice(&raw);
    }
    std::fs::write(to, model.encode_to_vec()).expect("it can be written");
    std::fs::write(to.with_file_name(name), beside).expect("it can be written");
}

#[test]
fn weights_from_a_file_are_in_memory_once_and_the_plan_says_how_much_that_is() {
    let folder = folder();
    for net in ["squeezenet", "mobilenet_v2", "resnet18"] {
        let shape = zoo::find(net).expect("a network").input(1).shape;
        let count: usize = shape.iter().product();
        let elements: Vec<f32> = (0..count).map(|at| (at % 17) as f32 / 17.0).collect();
        let input = Tensor::from_f32(shape, &elements);
        let expected = saved_weights(net, &folder.path().join("w.safetensors"), &input);
        npz::save(&folder.path().join("x.npz"), &[("x".to_owned(), input)]).expect("it can be written");
        netloom(
            folder.path(),
            &["export", net, "--weights", "w.safetensors", "-o", "w.onnx"],
        );
        put_elements_beside(&folder.path().join("w.onnx"), &folder.path().join("beside.onnx"));
        for model in [&[net, "--weights", "w.safetensors"][..], &["w.onnx"], &["beside.onnx"]] {
            netloom(
                folder.path(),
                &[&["run"], model, &["--input", "x.npz", "--output", "y.npz"]].concat(),
            );
            // The same bits, though what is prepared from them were states there and are read from the file here.
            let found = npz::load(&folder.path().join("y.npz")).expect("results");
            assert!(found[0].1 == expected, "{model:?}");

            let bench = ["--input", "x.npz", "--seconds", "0", "--json"];
            let report = json(folder.path(), &[&["bench"], model, &bench].concat());
            let (Some(planned), Some(peak)) = (report["planned_bytes"].as_f64(), report["peak_rss_bytes"].as_f64())
            else {
                println!("this system does not tell how much memory is used");
                return;
            };
            // 5 %; of a small model's, what the process itself has freed and uses again comes to more.
            let allowed = (0.05 * peak).max(3e6);
            assert!(
                (planned - peak).abs() < allowed,
                "{model:?}: planned {planned}, measured {peak}"
            );
        }
    }
}

#[test]
fn tuning_is_stored_beside_the_model_and_read_from_there() {
    let folder = folder();
    let error = |arguments: &[&str], status: i32| {
        let output = Command::new(env!("CARGO_BIN_EXE_netloom"))
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .expect("the program starts");
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let bench = ["bench", "lenet", "--seconds", "0"];
    let usual = json(folder.path(), &[&bench[..], &["--json"]].concat());
    assert_eq!(usual["tuned"], 0);
    let tuned = json(folder.path(), &[&bench[..], &["--json", "--tune", "0.3"]].concat());
    let path = folder.path().join("lenet.tune.json");
    let stored: Value = serde_json::from_slice(&std::fs::read(&path).expect("it is written")).expect("an object");
    let kernels = stored["kernels"].as_array().expect("a list").iter();
    let decided = kernels.filter(|kernel| kernel["decisions"].as_object().is_some_and(|found| !found.is_empty()));
    assert_eq!(tuned["tuned"], decided.count());
    // One whose weights are states, and one that is prepared from weights which are none.
    for net in ["lenet", "convnet"] {
        netloom(folder.path(), &["compile", net, "--tune", "0.3", "-o", "out"]);
    }

    // Decisions about another model's kernels change nothing, and that is said.
    let other = r#"{"format":1,"kernels":[{"key":"1","name":"k1","entry":"predict","cpu":"x86-64-v3","threads":1,
        "decisions":{"rows":8},"usual_us":2.0,"tuned_us":1.0}]}"#;
    std::fs::write(&path, other).expect("a file");
    let (compile, train) = (["compile", "lenet", "-o", "out"], ["train", "lenet", "--epochs", "1"]);
    for arguments in [&bench[..], &compile, &train] {
        let said = error(arguments, 0);
        assert!(
            said.contains("warning: lenet.tune.json decides about no kernel of this model"),
            "{said}"
        );
    }
    std::fs::write(&path, "{").expect("a file");
    let said = error(&bench, 1);
    assert!(
        said.contains("lenet.tune.json: EOF") && said.contains("tune again, or remove the file"),
        "{said}"
    );
    let said = error(&["bench", "lenet", "--tune=-1"], 2);
    assert!(said.contains("`-1` is no number of seconds"), "{said}");
}
