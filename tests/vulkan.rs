//! Vulkan beside the CPU: whole trainings, the modules themselves, what is kept on disk, what is refused. Ops and programs run on it in
//! `engines.rs` and `programs.rs`.

#![cfg(feature = "vulkan")]

mod support;

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;

use netloom::check::{Compiled, Engine, Options as Checking, check};
use netloom::compile::lower;
use netloom::device::Choice;
use netloom::eager::Eager;
use netloom::formats::npz;
use netloom::gpu::device::{Device, Options, Pretend, Traits};
use netloom::gpu::{emit, spirv};
use netloom::ir::builder::{Builder, Val};
use netloom::ir::kernel::{Combine, Nest, Stmt};
use netloom::ir::ops::Conv;
use netloom::ir::passes::PASSES;
use netloom::ir::prepare::PREPARE;
use netloom::ir::sample::SplitMix;
use netloom::ir::target::Matrices;
use netloom::ir::{
    DType, Entry, Graph, Init, Node, Op, Program, Scalar, State, Target, Tensor, Type, autodiff, oracle, sample, text,
};
use netloom::nn::layers::{Bidirectional, Cell, Dense, Dropout, Recurrent};
use netloom::nn::training::{self, PREDICT, TRAIN_STEP, program};
use netloom::nn::zoo::{self, Width, resnet};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::plan::kernels::Makers;
use netloom::train::classic::{Chains, Rbm, RbmOptions, Visible};
use netloom::train::{Augmentation, Dataset, FitOptions, Model, ModelOptions};
use netloom::{Cpu, Session, compile, dump};
use rspirv::dr::{Instruction, Module, Operand};
use rspirv::spirv::{Capability, Op as Opcode};
use vulkano::query::{QueryPool, QueryPoolCreateInfo, QueryType};

/// Values in [0, 1), or classes.
fn data(ty: &Type) -> Tensor {
    drawn(ty, 0)
}

/// Data of a draw: others for each number.
fn drawn(ty: &Type, number: usize) -> Tensor {
    let element = |at: usize| {
        let spread = ((number * ty.count() + at) as u32).wrapping_mul(2_654_435_769) >> 8;
        match ty.dtype.is_float() {
            true => Scalar::Float(f64::from(spread) / f64::from(1 << 24)),
            false => Scalar::Int(i128::from(spread % 10)),
        }
    };
    Tensor::from_scalars(ty.dtype, ty.shape.clone(), (0..ty.count()).map(element))
}

fn training(net: &str, batch: usize) -> (Program, [Tensor; 2]) {
    let net = zoo::find(net).expect("a network");
    let (input, target) = (net.input(batch), net.target(batch));
    let program = program(&(net.layers)(), &input, &target, &(net.training)()).expect("a program");
    (program.only(TRAIN_STEP), [data(&input), data(&target)])
}

/// The losses of some steps.
fn losses(session: &mut Session, inputs: &[Tensor; 2], steps: usize) -> Vec<f64> {
    let mut loss = session.results(TRAIN_STEP).expect("an entry");
    let step = |_| {
        session
            .run(TRAIN_STEP, &[&inputs[0], &inputs[1]], &mut loss)
            .unwrap_or_else(|error| panic!("{error}"));
        loss[0].get(0).as_f64()
    };
    (0..steps).map(step).collect()
}

fn training_follows_the_cpu(net: &str, batch: usize) {
    let Some(device) = support::vulkan() else { return };
    let (program, inputs) = training(net, batch);
    let on_cpu = compile(&program, Cpu::native()).expect("code");
    let on_gpu = compile(&program, Arc::clone(&device)).unwrap_or_else(|error| panic!("{error}"));
    let [cpu, gpu] = [on_cpu, on_gpu].map(|executable| {
        let mut session = Session::new(executable.into(), 2, 7).expect("memory");
        losses(&mut session, &inputs, 50)
    });
    for (step, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
        assert!(
            (cpu - gpu).abs() <= 1e-3 * cpu.abs(),
            "{net}, step {step}: {gpu}, on the CPU {cpu}"
        );
    }
    assert!(gpu[49] < gpu[0], "{net} learns: {gpu:?}");
    assert_eq!(device.messages(), [""; 0]);
}

#[test]
fn an_mlp_trains_as_on_the_cpu() {
    training_follows_the_cpu("mlp", 8);
}

#[test]
fn lenet_trains_as_on_the_cpu() {
    training_follows_the_cpu("lenet", 4);
}

#[test]
fn an_autoencoder_trains_as_on_the_cpu() {
    training_follows_the_cpu("autoencoder", 8);
}

/// A machine's random numbers are the graph's own, so its errors are the CPU's but for the order of sums.
#[test]
fn boltzmann_machines_learn_as_on_the_cpu() {
    let Some(device) = support::vulkan() else { return };
    let digits = data(&Type::new(DType::F32, [40, 24]));
    for (chains, visible) in [
        (Chains::FromData(2), Visible::Bernoulli),
        (Chains::Persistent(1), Visible::Bernoulli),
        (Chains::FromData(1), Visible::Gaussian),
    ] {
        let options = RbmOptions {
            hidden: 12,
            visible,
            chains,
            rate: 0.05,
            momentum: 0.5,
            decay: 1e-4,
            batch: 10,
            seed: 3,
        };
        let [cpu, gpu] = [Cpu::native().into(), Arc::clone(&device).into()].map(|device: netloom::Device| {
            let mut machine = Rbm::compile(24, options, &device, 1).unwrap_or_else(|error| panic!("{error}"));
            machine.fit(&digits, 3).expect("it learns")
        });
        for (cpu, gpu) in cpu.iter().zip(&gpu) {
            assert!(
                (cpu.error - gpu.error).abs() < 1e-2 * cpu.error,
                "{chains:?}, {visible:?}: {gpu:?}, on the CPU {cpu:?}"
            );
        }
    }
    assert_eq!(device.messages(), [""; 0]);
}

/// A recurrent net with padding, both ways through time.
#[test]
fn recurrent_nets_train_as_on_the_cpu() {
    let Some(device) = support::vulkan() else { return };
    let (input, target) = (Type::new(DType::F32, [4, 6, 3]), Type::new(DType::I64, [4]));
    let net = Sequential::new()
        .then(Bidirectional(Recurrent::lstm(5).sequences()))
        .then(Recurrent::new(Cell::Gru, 6).padding(0.0))
        .then(Dense::new(10));
    let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(0.02));
    let program = program(&net, &input, &target, &training)
        .expect("a program")
        .only(TRAIN_STEP);
    let inputs = [data(&input), data(&target)];
    let cpu = compile(&program, Cpu::native()).expect("code");
    let gpu = compile(&program, Arc::clone(&device)).unwrap_or_else(|error| panic!("{error}"));
    let [cpu, gpu] = [cpu, gpu].map(|executable| {
        let mut session = Session::new(executable.into(), 1, 7).expect("memory");
        losses(&mut session, &inputs, 10)
    });
    assert!(
        cpu.iter().zip(&gpu).all(|(a, b)| (a - b).abs() < 1e-3 * a.abs()),
        "{gpu:?}, on the CPU {cpu:?}"
    );
    assert!(gpu[9] < gpu[0], "{gpu:?}");
    assert_eq!(device.messages(), [""; 0]);
}

/// `fit` keeps the data on the device, which gathers and moves each batch: the losses follow the CPU's. Where the host puts the batches together, for a
/// stated reason, the device's states have the same bits.
#[test]
fn data_live_on_the_device() {
    let Some(device) = support::vulkan() else { return };
    let pretend: Pretend = |traits| traits.data_bytes = 100;
    let options = Options {
        validate: true,
        pretend: Some(pretend),
        ..Options::default()
    };
    let small = Device::open(&options).expect("it was opened before");
    let net = zoo::find("lenet").expect("a network");
    let set = |examples| Dataset::new(data(&net.input(examples)), data(&net.target(examples))).expect("as many");
    let moves = Augmentation {
        flip: true,
        ..Augmentation::shift(2, 5)
    };
    let warps = Augmentation { zoom: 0.1, ..moves };
    let training = (net.training)();
    let fit = |device: netloom::Device, data: &Dataset, augment: Augmentation| {
        let options = ModelOptions {
            device,
            ..ModelOptions::new(8)
        };
        let layers = (net.layers)().before_last(Dropout(0.3));
        let mut model = Model::compile(layers, &training, &set(40), options).unwrap_or_else(|error| panic!("{error}"));
        let why = model.brings_batches(data, Some(&augment));
        let options = FitOptions {
            epochs: 2,
            augment: Some(augment),
            ..FitOptions::default()
        };
        let history = model.fit(data, options).unwrap_or_else(|error| panic!("{error}"));
        let losses: Vec<f64> = history.epochs.iter().map(|epoch| epoch.objective).collect();
        let states = model.session().states();
        assert!(states.iter().all(|(name, _)| !name.starts_with("data.")));
        (why, losses, states)
    };
    for (examples, augment, reason) in [
        (40, moves, None),
        (48, moves, Some("room for 40 examples, not for 48")),
        (32, warps, Some("zooms pictures")),
    ] {
        let data = set(examples);
        let (none, expected, _) = fit(Cpu::native().into(), &data, augment);
        let (why, losses, states) = fit(Arc::clone(&device).into(), &data, augment);
        let (why_small, _, same) = fit(Arc::clone(&small).into(), &data, augment);
        assert_eq!(none, None);
        assert_eq!(why.is_some(), reason.is_some(), "{why:?}");
        assert!(why.unwrap_or_default().contains(reason.unwrap_or_default()));
        assert!(why_small.is_some_and(|why| why.contains("0 MiB of data")));
        assert!(
            states == same,
            "other bits with batches from the host, {examples} examples"
        );
        for (found, expected) in losses.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 1e-3 * expected,
                "{losses:?}, on the CPU {expected:?}"
            );
        }
    }
    assert_eq!(device.messages(), [""; 0]);
    assert_eq!(small.messages(), [""; 0]);
}

/// Operation by operation, training takes the same way as compiled for the CPU; loops, which the host goes through, as well.
#[test]
fn eager_training_follows_the_cpu() {
    let Some(device) = support::vulkan() else { return };
    for (net, batch) in [("mlp", 8), ("lenet", 4), ("lstm", 2)] {
        let (program, inputs) = training(net, batch);
        let cpu = compile(&program, Cpu::native()).expect("code");
        let mut session = Session::new(cpu.into(), 2, 7).expect("memory");
        let mut eager = Eager::new(&program, Arc::clone(&device), 1, &session).expect("kernels");
        let mut loss = session.results(TRAIN_STEP).expect("an entry");
        for (step, expected) in losses(&mut session, &inputs, 6).into_iter().enumerate() {
            eager
                .run(TRAIN_STEP, &[&inputs[0], &inputs[1]], &mut loss)
                .unwrap_or_else(|error| panic!("{net}: {error}"));
            let found = loss[0].get(0).as_f64();
            assert!(
                (found - expected).abs() <= 1e-3 * expected.abs(),
                "{net}, step {step}: {found}, compiled for the CPU {expected}"
            );
        }
        let plan = session.executable().plan(TRAIN_STEP).expect("an entry");
        assert!(eager.kernel_runs(TRAIN_STEP) > plan.kernel_runs(), "{net}");
        assert!(eager.allocations(TRAIN_STEP) > 0 && eager.peak_bytes() > 0, "{net}");
    }
    assert_eq!(device.messages(), [""; 0]);
}

/// Operands of `x · y + z` that show each rounding: any bits at all; sums that nearly cancel, at every magnitude; results about the least
/// numbers.
fn awkward(random: &mut SplitMix, dtype: DType) -> [Scalar; 3] {
    let wide = dtype == DType::F64;
    let any = |random: &mut SplitMix| match wide {
        true => Scalar::from_bits(random.bits(), dtype),
        false => Scalar::from_bits(random.bits() >> 32, dtype),
    };
    let (mut x, mut y) = (any(random), any(random));
    match random.below(4) {
        0 => return [x, y, any(random)],
        1 => {
            let exponent = if wide { -537 } else { -74 } + random.below(8) as i32 - 4;
            let sized = |x: Scalar| Scalar::Float((x.as_f64() % 1.0 + 1.0) * f64::powi(2.0, exponent));
            (x, y) = (sized(x).round(dtype), sized(y).round(dtype));
        }
        _ => {}
    }
    // The product with the other sign, a few places off.
    let product = Scalar::Float(-x.as_f64() * y.as_f64()).round(dtype);
    let bits = product
        .to_bits(dtype)
        .wrapping_add(random.below(5) as u64)
        .wrapping_sub(2);
    [
        x,
        y,
        Scalar::from_bits(if wide { bits } else { bits & 0xffff_ffff }, dtype),
    ]
}

/// Whatever a device does: in its own way, in a wider type, in integers.
#[test]
fn a_product_and_a_sum_round_once() {
    if support::vulkan().is_none() {
        return;
    }
    let devices: [(DType, Pretend); 4] = [
        (DType::F32, |_| {}),
        (DType::F32, |traits| traits.fuses32 = false),
        (DType::F32, |traits| (traits.fuses32, traits.float64) = (false, false)),
        (DType::F64, |traits| traits.fuses64 = false),
    ];
    const COUNT: usize = 20_000;
    for (way, (dtype, pretend)) in devices.into_iter().enumerate() {
        let options = Options {
            validate: true,
            pretend: Some(pretend),
            ..Options::default()
        };
        let device = Device::open(&options).expect("it was opened before");
        let least = netloom::Device::from(Arc::clone(&device)).floats(dtype).least;
        let b = Builder::new();
        let [x, y, z] = ["x", "y", "z"].map(|name| b.input(name, dtype, [COUNT]));
        let program = Program::pure("run", b.finish([("w", x.fma(y, z))]).expect("a graph"));
        let executable = compile(&program, Arc::clone(&device)).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(executable.into(), 1, 0).expect("memory");
        let mut random = SplitMix(17);
        let operands: Vec<[Scalar; 3]> = (0..COUNT).map(|_| awkward(&mut random, dtype)).collect();
        let inputs = [0, 1, 2].map(|place| {
            let elements = operands.iter().map(|operands| operands[place]);
            Tensor::from_scalars(dtype, [COUNT], elements.collect::<Vec<_>>())
        });
        let mut found = session.results("run").expect("an entry");
        session
            .run("run", &[&inputs[0], &inputs[1], &inputs[2]], &mut found)
            .expect("a run");
        for (at, operands) in operands.iter().enumerate() {
            let [x, y, z] = operands.map(Scalar::as_f64);
            let expected = match dtype {
                DType::F64 => x.mul_add(y, z),
                _ => f64::from((x as f32).mul_add(y as f32, z as f32)),
            };
            let found = found[0].get(at).as_f64();
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            // What a device does not promise it may drop, as the lavapipe of Mesa 26.2 does with subnormals.
            let may_be_dropped = [x, y, z, expected].iter().any(|value| value.abs() < least);
            assert!(
                same || may_be_dropped,
                "way {way}: {x:e} · {y:e} + {z:e} is {found:e}, should be {expected:e}"
            );
        }
        assert_eq!(device.messages(), [""; 0]);
    }
}

/// What a command says, and its report, which must be of the device that was asked for.
fn report(arguments: &[&str], device: &str) -> (String, serde_json::Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_netloom"));
    command.args(arguments).args(["--json", "--device", device]);
    let output = command.arg("--out").arg(folder.path()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let name = report["device"].as_str().expect("a name");
    assert!(name.starts_with(device), "{report}");
    assert_eq!(report["fell_back"], serde_json::json!([]));
    (said, report)
}

/// A convolution that Vulkan computes by Winograd's algorithm, with filters that `prepare` transforms: what the device runs is what is shown of it,
/// what is checked, and what an artefact does.
#[test]
fn what_is_shown_checked_and_compiled_is_what_the_device_runs() {
    if support::vulkan().is_none() {
        return;
    }
    let b = Builder::new();
    let same = Conv {
        pad_low: vec![1; 2],
        pad_high: vec![1; 2],
        ..Conv::unit(2)
    };
    let shape = [64, 64, 3, 3];
    let x = b.input("x", DType::F32, [1, 64, 28, 28]);
    let y = x.conv(b.input("filter", DType::F32, shape), same).relu();
    let mut program = Program::pure(PREDICT, b.finish([("y", y)]).expect("a graph"));
    program.states.push(State {
        name: "filter".to_owned(),
        ty: Type::new(DType::F32, shape),
        init: Init::Tensor(Arc::new(sample::tensor(&Type::new(DType::F32, shape), &mut 1))),
    });
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("conv.nl"), program.to_string()).expect("a file");
    let netloom = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netloom"));
        let output = command
            .current_dir(folder.path())
            .args(arguments)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    let shown = |device| netloom(&["dump", "conv.nl", "--stage", "nest", "--device", device]);
    let (cpu, gpu) = (shown("cpu"), shown("vulkan"));
    let by_winograd = "product 36 of";
    assert!(!cpu.contains(by_winograd) && gpu.contains(by_winograd), "{gpu}");
    let checked = netloom(&["check", "conv.nl", "--quick", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&checked).expect("it is JSON");
    let entries = report["entries"].as_array().expect("a list");
    let names: Vec<&str> = entries.iter().filter_map(|entry| entry["entry"].as_str()).collect();
    assert_eq!(names, [PREDICT, PREPARE]);
    let checked = |is_on_vulkan: bool| -> usize {
        let engines = entries
            .iter()
            .flat_map(|entry| entry["engines"].as_array().expect("a list"));
        let named = |row: &&serde_json::Value| row["engine"].as_str().expect("a name").starts_with("vulkan");
        let own = engines.filter(|row| named(row) == is_on_vulkan);
        own.map(|row| row["kernels"].as_u64().expect("a count") as usize).sum()
    };
    let kernels = |nests: &str| nests.lines().filter(|line| line.starts_with("nest ")).count();
    assert_eq!(checked(true), kernels(&gpu), "{report}");
    assert_eq!(checked(false), kernels(&cpu), "{report}");

    let x = sample::tensor(&Type::new(DType::F32, [1, 64, 28, 28]), &mut 2);
    npz::save(&folder.path().join("x.npz"), &[("x".to_owned(), x)]).expect("a file");
    let results = [("artefact", &[][..]), ("direct", &["--direct"])].map(|(artefact, options)| {
        let compile = ["compile", "conv.nl", "--device", "vulkan", "-o", artefact];
        netloom(&[&compile[..], options].concat());
        let run = |model: &str, options: &[&str]| {
            let run = [
                "run", model, "--input", "x.npz", "--output", "y.npz", "--device", "vulkan",
            ];
            netloom(&[&run[..], options].concat());
            npz::load(&folder.path().join("y.npz")).expect("the results")
        };
        let (played, here) = (run(artefact, &[]), run("conv.nl", options));
        assert_eq!(played, here, "{artefact}");
        played
    });
    // Winograd's algorithm rounds otherwise, and so shows.
    assert_ne!(results[0], results[1]);
}

/// A nest that a text gives is what runs, though it computes something else than its region; one for CPUs is refused, and `auto` leaves the device.
#[test]
fn nests_that_a_text_gives_are_run() {
    let Some(device) = support::vulkan() else { return };
    let text = |on: &str| {
        format!(
            "graph(x: f32[10]) {{
                y = mul x, x
                region y = y
                    nest by_hand {on} {{
                        in x: f32[10]
                        out y: f32[10]
                        for i < 5 workers {{
                            for half < 2 unroll {{
                                y[(i * 2) + half] = x[(i * 2) + half] + 1.0
                            }}
                        }}
                    }}
                return y
            }}"
        )
    };
    let [gpus, cpus] = ["on vulkan", ""].map(|on| text::parse_program("model.nl", &text(on)).expect("a program"));
    let x = Tensor::from_f32([10], &[3.0; 10]);
    let result = |program: &Program, device: netloom::Device| {
        let mut session = Session::new(compile(program, device)?.into(), 1, 0).expect("memory");
        Ok::<_, netloom::Error>(session.call("main", &[("x", &x)]).expect("a run")[0].1.to_f32())
    };
    let (gpu, cpu) = (netloom::Device::from(device), netloom::Device::from(Cpu::native()));
    for (program, own, other) in [(&gpus, &gpu, &cpu), (&cpus, &cpu, &gpu)] {
        assert_eq!(result(program, own.clone()).expect("its own machine"), [4.0; 10]);
        let refused = result(program, other.clone()).expect_err("another machine").to_string();
        let said = ["the nest `by_hand` is for", "model.nl:2", "leave the nest out"];
        assert!(said.iter().all(|said| refused.contains(said)), "{refused}");
    }
    // A check takes the nest on its own machine, where it is found to be wrong, and the compiler's on the other.
    let folder = tempfile::tempdir().expect("a folder");
    for (on, own) in [("on vulkan", "vulkan:"), ("", "cpu")] {
        std::fs::write(folder.path().join("model.nl"), text(on)).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_netloom"));
        command
            .current_dir(folder.path())
            .args(["check", "model.nl", "--quick", "--json"]);
        let output = command.output().expect("it runs");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        let engines = report["entries"][0]["engines"].as_array().expect("a list");
        assert_eq!(engines.len(), 2, "{report}");
        for row in engines {
            let is_own = row["engine"].as_str().expect("a name").starts_with(own);
            assert_eq!(row["difference"].is_null(), !is_own, "{report}");
        }
    }
    let mut choice = Choice::or_cpu(gpu, Cpu::native());
    assert_eq!(
        choice.make(|device| result(&cpus, device.clone())).expect("the CPU"),
        [4.0; 10]
    );
    assert!(choice.fell_back[0].contains("is for cpu"), "{:?}", choice.fell_back);
}

/// The loops that a device runs, written down, are a program that gives what the model gives: with scales and filters that `prepare` makes, products by
/// the shader, loops of which bodies have nests.
#[test]
fn nests_of_the_device_go_on() {
    let Some(device) = support::vulkan() else { return };
    let read_back = |program: &Program| {
        let lowered = lower(program, &device.target()).unwrap_or_else(|error| panic!("{error}"));
        let scheduled = dump::scheduled(program, &lowered);
        let stored: HashMap<String, Arc<Tensor>> = text::stored(&scheduled).into_iter().collect();
        let text = format!("{scheduled:#}");
        assert!(text.contains(" on vulkan {"), "{text}");
        let again = text::parse_program_with("stage", &text, &|name| stored.get(name).cloned());
        let again = again.unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(again, scheduled);
        let lowered = lower(&again, &device.target()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(dump::scheduled(&again, &lowered), again);
        again
    };
    let results = |program: &Program, entry: &str, inputs: &[(String, Tensor)]| {
        let executable = compile(program, Arc::clone(&device)).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(executable.into(), 1, 7).expect("memory");
        let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x)).collect();
        let results = session.call(entry, &inputs).unwrap_or_else(|error| panic!("{error}"));
        (results, session.states())
    };
    let (lenet, inputs) = training("lenet", 4);
    let inputs: Vec<(String, Tensor)> = ["x", "y"].map(str::to_owned).into_iter().zip(inputs).collect();
    let convnet = zoo::find("convnet").expect("a network");
    let predictor = training::predictor(&(convnet.layers)(), &convnet.input(2)).expect("a program");
    let pictures = [("x".to_owned(), sample::tensor(&convnet.input(2), &mut 1))];
    let recurrent = zoo::find("lstm").expect("a network");
    let sequences = [("x".to_owned(), sample::tensor(&recurrent.input(2), &mut 1))];
    let loops = training::predictor(&(recurrent.layers)(), &recurrent.input(2)).expect("a program");
    for (program, entry, inputs) in [
        (&lenet, TRAIN_STEP, &inputs[..]),
        (&predictor.prepared_for(&device.target()), PREDICT, &pictures),
        (&loops, PREDICT, &sequences),
    ] {
        assert_eq!(
            results(&read_back(program), entry, inputs),
            results(program, entry, inputs)
        );
    }
    assert_eq!(device.messages(), [""; 0]);
}

/// Where kernels' time goes on the device, in sum and as a trace.
#[test]
fn the_command_bench_times_kernels_on_the_device() {
    if support::vulkan().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let bench = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netloom"));
        command.args([
            "bench",
            "mlp",
            "--train",
            "--device",
            "vulkan",
            "--seconds",
            "0",
            "--json",
        ]);
        let output = command.current_dir(folder.path()).args(more).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let report: serde_json::Value = serde_json::from_slice(&bench(&["--kernels"])).expect("it is JSON");
    bench(&["--profile", "trace.json"]);
    let costs = report["kernels"].as_array().expect("a list");
    let trace = std::fs::read(folder.path().join("trace.json")).expect("it was written");
    let trace: serde_json::Value = serde_json::from_slice(&trace).expect("it is JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let kernels: Vec<&serde_json::Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    let runs: u64 = costs.iter().filter_map(|cost| cost["runs"].as_u64()).sum();
    assert!(kernels.len() as u64 == runs && runs > 5, "{report}");
    assert!(
        kernels
            .iter()
            .all(|event| event["dur"].as_f64().is_some_and(|took| took > 0.0))
    );
}

/// The command that users know: the same numbers on the device.
#[test]
fn the_command_train_learns_as_on_the_cpu() {
    if support::vulkan().is_none() {
        return;
    }
    let train = ["train", "mlp", "--epochs", "1", "--batch", "512"];
    let [(_, cpu), (_, gpu)] = ["cpu", "vulkan"].map(|device| report(&train, device));
    for number in ["train_loss", "validation_loss", "test_loss"] {
        let [cpu, gpu] = [&cpu, &gpu].map(|report| report[number].as_f64().expect("a number"));
        assert!(
            (cpu - gpu).abs() <= 1e-3 * cpu.abs(),
            "{number}: {gpu}, on the CPU {cpu}"
        );
    }
}

/// The tour, without its first and longest part.
#[test]
fn the_command_demo_runs_on_the_device() {
    if support::vulkan().is_some() {
        let (said, report) = report(&["demo", "--epochs", "0"], "vulkan");
        let name = report["device"].as_str().expect("a name");
        assert!(said.contains(&format!("both on {name}")), "{said}");
        assert!(said.contains("the same answers"), "{said}");
    }
}

/// The program with what enters each of its rectifiers among its results, and how many those are.
fn showing_rectified(program: &Program) -> (Program, usize) {
    let mut program = program.clone();
    let graph = &mut program.entries[0].graph;
    let is_rectifier = |op: &Op| matches!(op, Op::Map(map) if map.0.name == "max");
    let rectifiers = graph.nodes().filter(|(_, node)| is_rectifier(&node.op));
    let entering: Vec<_> = rectifiers.map(|(_, node)| node.args[0]).collect();
    let named = entering.iter().enumerate();
    graph
        .outputs
        .extend(named.map(|(number, &id)| (format!("rectified{number}"), id)));
    (program, entering.len())
}

/// The greatest difference over the greatest magnitude.
fn far(found: &Tensor, expected: &Tensor) -> f64 {
    let pairs = found.scalars().zip(expected.scalars());
    let apart = pairs.map(|(a, b)| (a.as_f64() - b.as_f64()).abs()).fold(0.0, f64::max);
    let scale = expected.scalars().map(|b| b.as_f64().abs()).fold(0.0, f64::max);
    if apart == 0.0 { 0.0 } else { apart / scale }
}

/// How many operands of rectifiers lie on different sides of zero, where all differ by rounding alone.
fn on_other_sides(found: &[Tensor], expected: &[Tensor]) -> usize {
    let mut count = 0;
    for (depth, (found, expected)) in (1..).zip(found.iter().zip(expected)) {
        // Their sums have up to 4608 terms, which one side adds up with fused products: some `sqrt(4608)` roundings of 6e-8 for each of the
        // layers one after the other, which add up like steps of a random walk.
        let (far, bound) = (far(found, expected), (4608.0 * f64::from(depth)).sqrt() * 6e-8);
        assert!(
            far <= bound,
            "what is rectified in layer {depth} differs by {far:e}, more than {bound:e}"
        );
        let pairs = found.scalars().zip(expected.scalars());
        count += pairs.filter(|(a, b)| (a.as_f64() > 0.0) != (b.as_f64() > 0.0)).count();
    }
    count
}

/// Ten steps of a residual net, each from the CPU's states and with a batch of its own, after each of which every state is the CPU's within 1e-4.
/// Both compute convolutions directly. The gradient jumps where a rectifier's operand passes zero, so nothing can be asked of a batch for which one
/// of the hundreds of thousands lies within rounding of it, on another side than the CPU's: such a batch, known by these operands alone, is drawn again.
fn steps_are_as_on_the_cpu(net: &Sequential, batch: usize) {
    let Some(device) = support::vulkan() else { return };
    let (input, target) = (
        Type::new(DType::F32, [batch, 3, 32, 32]),
        Type::new(DType::I64, [batch]),
    );
    let training = (zoo::find("resnet18_cifar").expect("a network").training)();
    let step = program(net, &input, &target, &training)
        .expect("a program")
        .only(TRAIN_STEP);
    let (step, rectifiers) = showing_rectified(&step);
    let direct = Cpu {
        winograd: false,
        ..Cpu::native()
    };
    let on_cpu = compile(&step, direct).expect("code");
    let on_gpu = compile(&step, Arc::clone(&device)).unwrap_or_else(|error| panic!("{error}"));
    let [mut cpu, mut gpu] = [on_cpu, on_gpu].map(|code| Session::new(code.into(), 2, 7).expect("memory"));
    let mut results = [0, 1].map(|_| cpu.results(TRAIN_STEP).expect("an entry"));
    let (mut proved, mut draw) = (0, 0);
    while proved < 10 {
        assert!(draw < 20, "{proved} of {draw} batches have no rectifier at zero");
        let inputs = [drawn(&input, draw), drawn(&target, draw)];
        draw += 1;
        let before = cpu.states();
        for (name, value) in &before {
            gpu.set_state(name, value).expect("a state");
        }
        for (session, results) in [&mut cpu, &mut gpu].into_iter().zip(&mut results) {
            session
                .run(TRAIN_STEP, &[&inputs[0], &inputs[1]], results)
                .unwrap_or_else(|error| panic!("{error}"));
        }
        let [on_cpu, on_gpu] = &results;
        let operands = on_cpu.len() - rectifiers;
        let flips = on_other_sides(&on_gpu[operands..], &on_cpu[operands..]);
        if flips > 0 {
            eprintln!("batch {draw}: {flips} operands of rectifiers lie within rounding of zero");
            for (name, value) in &before {
                cpu.set_state(name, value).expect("a state");
            }
            continue;
        }
        proved += 1;
        for ((name, expected), (_, found)) in cpu.states().iter().zip(gpu.states()) {
            let far = far(&found, expected);
            assert!(far <= 1e-4, "batch {draw}: `{name}` differs by {far:e}");
        }
    }
    assert_eq!(device.messages(), [""; 0]);
}

/// The parts of ResNet-18 once each: the driver that runs on a CPU takes minutes to compile them all.
#[test]
fn steps_of_a_residual_net_are_as_on_the_cpu() {
    let blocks = match std::env::var_os("NETLOOM_ALL") {
        Some(_) => [2, 2, 2, 2],
        None => [1, 1, 1, 1],
    };
    steps_are_as_on_the_cpu(&resnet::resnet_small(resnet::Kind::Basic, blocks, Width::FULL, 10), 2);
}

/// The layers must be awake, or their silence means nothing.
#[test]
fn the_validation_layers_speak_when_provoked() {
    if support::vulkan().is_none() {
        return;
    }
    let options = Options {
        validate: true,
        ..Options::default()
    };
    let device = Device::open(&options).expect("it was opened before");
    assert_eq!(device.messages(), [""; 0]);
    let info = QueryPoolCreateInfo {
        query_count: 0,
        ..QueryPoolCreateInfo::query_type(QueryType::Timestamp)
    };
    // SAFETY: a pool of no queries is against the specification, which the layer says; nothing is done with it.
    let pool = unsafe { QueryPool::new_unchecked(Arc::clone(device.handle()), info) };
    drop(pool);
    let messages = device.messages();
    assert!(
        messages
            .iter()
            .any(|message| message.contains("VUID-VkQueryPoolCreateInfo-queryCount")),
        "{messages:?}"
    );
}

/// `spirv-val` on the modules of networks and of every kind of kernel.
#[test]
fn modules_are_valid() {
    let Some(device) = support::vulkan() else { return };
    let b = Builder::new();
    let (x, i) = (b.input("x", DType::F32, [17, 5]), b.input("i", DType::I64, [17]));
    let half = b.input("half", DType::F16, [33]);
    let graph = b
        .finish([
            ("order", x.argsort(1, true)),
            ("sums", x.prefix(Combine::Sum, 0, false)),
            ("gathered", x.gather(i, 0)),
            ("scattered", x.scatter(i, x, 0, Some(Combine::Sum))),
            ("half", half.tanh() * half),
            ("wide", x.cast(DType::F64).exp()),
        ])
        .expect("a graph");
    let (x, w) = (
        b.input("left", DType::F32, [64, 64]),
        b.input("right", DType::F32, [64, 128]),
    );
    let product = b
        .finish([("product", Val::einsum("mk,kn->mn", &[x, w]))])
        .expect("a graph");
    let halves = product_of(DType::F16, "bmk,bkn->bmn", [2, 32, 48], [2, 48, 64]);
    let programs = [
        Program::pure("run", graph),
        Program::pure("run", product),
        Program::pure("run", halves),
        training("lenet", 4).0,
    ];
    let mut checked = 0;
    let devices = [Some(device), support::vulkan_with_f16()];
    for (device, program) in devices
        .iter()
        .flatten()
        .flat_map(|device| programs.iter().map(move |program| (device, program)))
    {
        let lowered = lower(program, &device.target()).expect("it lowers");
        for nest in lowered.kernels.nests() {
            for phase in emit::emit(nest, &device.traits).expect("the device has what it needs") {
                if !support::validates(&nest.name, &phase.module) {
                    return;
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "{checked} modules");
}

/// Halves are computed with as such only where that was asked for: then modules say so. The bits are the same.
#[test]
fn halves_are_computed_with_only_when_asked() {
    let (Some(usual), Some(asked)) = (support::vulkan(), support::vulkan_with_f16()) else {
        return;
    };
    let b = Builder::new();
    let [x, y] = ["x", "y"].map(|name| b.input(name, DType::F16, [300]));
    let product = x.reshape([20, 15]).matmul(y.reshape([15, 20]));
    let graph = b
        .finish([("z", (x * y + 0.5).relu() / y), ("product", product * 0.5)])
        .expect("a graph");
    let inputs = sample::inputs(&graph, 3);
    let program = Program::pure("run", graph);
    let results = [(&usual, false), (&asked, true)].map(|(device, is_asked)| {
        let lowered = lower(&program, &device.target()).expect("it lowers");
        let nests = lowered.kernels.nests().iter();
        let phases = nests.flat_map(|nest| emit::emit(nest, &device.traits).expect("modules"));
        let f16 = Operand::Capability(Capability::Float16);
        let modules: Vec<Module> = phases.map(|phase| phase.module).collect();
        assert!(modules.len() > 1);
        let computes = |module: &Module| module.capabilities.iter().any(|of| of.operands[0] == f16);
        assert!(modules.iter().all(|module| computes(module) == is_asked));
        let executable = compile(&program, Arc::clone(device)).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(executable.into(), 1, 0).expect("memory");
        let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x)).collect();
        let results = session.call("run", &given).expect("a run");
        assert_eq!(device.messages(), [""; 0]);
        results
    });
    let [usual, asked] = &results;
    for ((name, usual), (_, asked)) in usual.iter().zip(asked) {
        assert_eq!(support::different_bits(usual, asked), None, "{name}");
    }
}

/// What the shader computes, as shows in the nests: sums of so many products of numbers below 1, right within rounding.
fn right_by_the_shader(device: &Arc<Device>, name: &str, terms: usize, build: impl for<'g> Fn(&'g Builder) -> Val<'g>) {
    let b = Builder::new();
    let program = Program::pure("run", b.finish([("y", build(&b))]).expect("a graph"));
    let lowered = lower(&program, &device.target()).expect("it lowers");
    let is_product = |stmt: &Stmt| matches!(stmt, Stmt::Product(_));
    let nests = lowered.kernels.nests().iter();
    let is_used = device.target().product_bytes > 0;
    assert_eq!(nests.flat_map(|nest| &nest.body).any(is_product), is_used, "{name}");

    let graph = &program.entries[0].graph;
    let inputs = sample::inputs(graph, 7);
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
    let expected = oracle::run(graph, &inputs).expect("the oracle runs it");
    let executable = compile(&program, Arc::clone(device)).unwrap_or_else(|error| panic!("{error}"));
    let mut session = Session::new(executable.into(), 1, 0).expect("memory");
    let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, x)| (*name, x)).collect();
    let found = session.call("run", &given).expect("a run");
    // Every partial sum may be rounded, and none is larger than the number of its terms.
    let bound = (terms * terms) as f32 * f32::EPSILON / 2.0;
    let [found, expected] = [&found, &expected].map(|results| results[0].1.to_f32());
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!(
            (found - expected).abs() <= bound,
            "{name}: [{at}] is {found}, not {expected}"
        );
    }
}

/// Products: each layout, edges, a batch, extents that are no multiples of four, and with more to compute from them.
#[test]
fn products_are_right_by_the_shader() {
    let Some(device) = support::vulkan() else { return };
    for (spec, x, w, goes_on) in [
        ("bmk,bkn->bmn", [3, 36, 64], [3, 64, 44], false),
        ("bkm,bnk->bnm", [3, 64, 36], [3, 44, 64], false),
        ("bmk,bnk->mbn", [3, 37, 64], [3, 45, 64], false),
        ("bkm,bkn->bmn", [3, 64, 40], [3, 64, 52], false),
        ("bmk,bnk->bmn", [40, 4, 64], [40, 96, 64], false),
        ("bmk,bkn->bmn", [1, 160, 256], [1, 256, 160], true),
        ("bmk,bkn->bmn", [3, 48, 96], [3, 96, 125], false),
        ("bmk,bkn->bmn", [3, 47, 203], [3, 203, 127], false),
        ("bkm,bnk->bnm", [5, 203, 47], [5, 127, 203], false),
    ] {
        right_by_the_shader(&device, &format!("{spec} of {x:?} and {w:?}"), x[1].max(x[2]), |b| {
            let [x, w] = [("x", x), ("w", w)].map(|(name, shape)| b.input(name, DType::F32, shape));
            let product = Val::einsum(spec, &[x, w]);
            if goes_on { (product * 0.5 + 1.0).relu() } else { product }
        });
    }
    assert_eq!(device.messages(), [""; 0]);
}

/// An einsum of halves.
fn product_of(dtype: DType, spec: &str, x: [usize; 3], w: [usize; 3]) -> Graph {
    let b = Builder::new();
    let [x, w] = [("x", x), ("w", w)].map(|(name, shape)| b.input(name, dtype, shape));
    b.finish([("y", Val::einsum(spec, &[x, w]))]).expect("a graph")
}

/// The module of a product by matrices, whether or not this device has them: it reads back as it was written, says what it needs, and multiplies matrices
/// of the shape that it was told.
#[test]
fn modules_declare_the_matrices_that_they_multiply() {
    let Some(device) = support::vulkan_with_f16() else {
        return;
    };
    let traits = Traits {
        matrices: Some(Matrices {
            rows: 16,
            columns: 8,
            depth: 4,
            bytes: 1 << 20,
        }),
        ..device.traits.clone()
    };
    let target = Target {
        matrices: traits.matrices,
        ..device.target()
    };
    let program = Program::pure("run", product_of(DType::F16, "bmk,bkn->bmn", [2, 32, 48], [2, 48, 64]));
    let lowered = lower(&program, &target).expect("it lowers");
    let [nest] = lowered.kernels.nests() else {
        panic!("one kernel")
    };
    let phases = emit::emit(nest, &traits).expect("modules");
    assert_eq!(phases[0].invocations, 2 * 2 * 8 * u64::from(traits.subgroup));
    let words = spirv::words(&phases[0].module);
    let module = rspirv::dr::load_words(&words).expect("it reads back");
    assert_eq!(spirv::words(&module), words);
    let mut named = module.capabilities.iter().map(|of| of.operands[0].clone());
    assert!(named.any(|of| of == Operand::Capability(Capability::CooperativeMatrixKHR)));
    let constant = |id: &Operand| {
        let mut globals = module.types_global_values.iter();
        let found = globals.find(|global| global.result_id == id.id_ref_any());
        match found.expect("a constant").operands[0] {
            Operand::LiteralBit32(value) => value,
            ref other => panic!("{other:?}"),
        }
    };
    let is_shape = |global: &&Instruction| global.class.opcode == Opcode::TypeCooperativeMatrixKHR;
    let shapes = module.types_global_values.iter().filter(is_shape);
    let shapes: Vec<[u32; 3]> = shapes
        .map(|ty| [2, 3, 4].map(|at| constant(&ty.operands[at])))
        .collect();
    assert_eq!(shapes, [[16, 4, 0], [4, 8, 1], [16, 8, 2]]);
}

/// Products of halves, by cooperative matrices on a device that has them: as large as these, with edges, a batch, and in each layout.
#[test]
fn products_of_halves_are_right() {
    let Some(device) = support::vulkan_with_f16() else {
        return;
    };
    let Matrices {
        rows, columns, depth, ..
    } = device.traits.matrices.unwrap_or(Matrices {
        rows: 16,
        columns: 16,
        depth: 16,
        bytes: 0,
    });
    let (m, n, k) = (3 * rows, 5 * columns, 4 * depth);
    for (spec, x, w, is_whole) in [
        ("bmk,bkn->bmn", [1, m, k], [1, k, n], true),
        ("bmk,bnk->bmn", [3, m, k], [3, n, k], true),
        ("bkm,bkn->bmn", [3, k, m], [3, k, n], true),
        ("bkm,bnk->bnm", [2, k, m], [2, n, k], true),
        ("bmk,bkn->bmn", [1, m + 1, k], [1, k, n], false),
    ] {
        let graph = product_of(DType::F16, spec, x, w);
        let inputs = sample::inputs(&graph, 5);
        let named: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
        let expected = oracle::run(&graph, &named)
            .expect("the oracle runs it")
            .swap_remove(0)
            .1;
        let program = Program::pure("run", graph);
        let lowered = lower(&program, &device.target()).expect("it lowers");
        let mut stmts = lowered.kernels.nests().iter().flat_map(|nest| &nest.body);
        let is_product = stmts.any(|stmt| matches!(stmt, Stmt::Product(_)));
        assert_eq!(is_product, is_whole && device.traits.matrices.is_some(), "{spec}");
        let executable = compile(&program, Arc::clone(&device)).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(executable.into(), 1, 0).expect("memory");
        let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x)).collect();
        let found = session.call("run", &given).expect("a run").swap_remove(0).1;
        for (at, (found, expected)) in found.scalars().zip(expected.scalars()).enumerate() {
            let (found, expected) = (found.as_f64(), expected.as_f64());
            // Sums of `k` numbers below 1 in f32, in any order, and the rounding of both to a half.
            let bound = (k * k) as f64 * f64::from(f32::EPSILON) / 2.0 + expected.abs() * f64::powi(2.0, -10);
            assert!(
                (found - expected).abs() <= bound,
                "{spec}: [{at}] is {found}, not {expected}"
            );
        }
    }
    assert_eq!(device.messages(), [""; 0]);
}

/// No device can be asked for matrices of `bf16` (`gpu::matrices` says why): products of them are computed in `f32`, with the same bits whether halves
/// were asked for or not.
#[test]
fn products_of_bf16_are_computed_in_f32() {
    let (Some(usual), Some(asked)) = (support::vulkan(), support::vulkan_with_f16()) else {
        return;
    };
    let graph = product_of(DType::BF16, "bmk,bkn->bmn", [2, 32, 48], [2, 48, 64]);
    let inputs = sample::inputs(&graph, 5);
    let named: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
    let expected = oracle::run(&graph, &named)
        .expect("the oracle runs it")
        .swap_remove(0)
        .1;
    let program = Program::pure("run", graph);
    let matrices = Some(Matrices {
        rows: 16,
        columns: 16,
        depth: 16,
        bytes: 1 << 20,
    });
    let target = Target {
        matrices,
        ..asked.target()
    };
    let lowered = lower(&program, &target).expect("it lowers");
    assert!(!lowered.kernels.nests().iter().any(Nest::has_products));
    let [usual, asked] = [usual, asked].map(|device| {
        let executable = compile(&program, Arc::clone(&device)).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(executable.into(), 1, 0).expect("memory");
        let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x)).collect();
        let found = session.call("run", &given).expect("a run").swap_remove(0).1;
        assert_eq!(device.messages(), [""; 0]);
        found
    });
    assert_eq!(support::different_bits(&usual, &asked), None);
    for (at, (found, expected)) in asked.scalars().zip(expected.scalars()).enumerate() {
        let (found, expected) = (found.as_f64(), expected.as_f64());
        // Sums of 48 numbers below 1 in f32, in any order, and the rounding of both to eight digits.
        let bound = f64::from(48 * 48) * f64::from(f32::EPSILON) / 2.0 + expected.abs() * f64::powi(2.0, -7);
        assert!((found - expected).abs() <= bound, "[{at}] is {found}, not {expected}");
    }
}

/// Convolutions of one tap over images whose size is no multiple of four, and gradients of filters, gathered from images with zeros around them.
#[test]
fn convolutions_are_right_by_the_shader() {
    let Some(device) = support::vulkan() else { return };
    right_by_the_shader(&device, "1x1", 128, |b| {
        let x = b.input("x", DType::F32, [1, 128, 11, 11]);
        x.conv(b.input("w", DType::F32, [48, 128, 1, 1]), Conv::unit(2))
    });
    for (stride, pad) in [(1, 1), (2, 1)] {
        let name = format!("gradient of filters, stride {stride}, padded by {pad}");
        right_by_the_shader(&device, &name, 8 * 17 * 18, |b| {
            let x = b.input("x", DType::F32, [8, 32, 17 * stride, 18 * stride]);
            let w = b.input("w", DType::F32, [32, 32, 3, 3]);
            let conv = Conv {
                stride: vec![stride; 2],
                pad_low: vec![pad; 2],
                pad_high: vec![pad; 2],
                ..Conv::unit(2)
            };
            let y = x.conv(w, conv);
            autodiff::grad((y * b.input("seed", DType::F32, y.shape())).sum_all(), &[w])[0]
        });
    }
    assert_eq!(device.messages(), [""; 0]);
}

/// Tensors that a device cannot bind at once, here all above 5000 bytes, are bound in windows.
#[test]
fn tensors_beyond_the_range_of_a_binding_are_bound_in_windows() {
    if support::vulkan().is_none() {
        return;
    }
    let options = Options {
        validate: true,
        pretend: Some(|traits| traits.tensor_bytes = 5000),
        ..Options::default()
    };
    let device = Device::open(&options).expect("it was opened before");
    let b = Builder::new();
    let x = b.input("x", DType::F32, [2, 3, 21, 23]);
    let conv = Conv {
        pad_low: vec![1; 2],
        ..Conv::unit(2)
    };
    let h = x.conv(b.input("w", DType::F32, [5, 3, 3, 3]), conv);
    let sorted = x.reshape([18, 161]).argsort(1, false);
    let rows = h.reshape([50, 88]).matmul(b.input("v", DType::F32, [88, 37]));
    let wide = (x * 3.0).cast(DType::F64).prefix(Combine::Sum, 3, false);
    let graph = b
        .finish([("h", h), ("sorted", sorted), ("rows", rows), ("wide", wide)])
        .expect("a graph");
    let inputs = sample::inputs(&graph, 9);
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Compiled::on(Arc::clone(&device), 1))];
    let options = Checking {
        passes: PASSES,
        makers: Makers::USUAL,
        bisect: true,
    };
    let outcomes = check(&Program::pure("run", graph), "run", &inputs, &mut engines, options);
    let outcomes = outcomes.unwrap_or_else(|error| panic!("{error}"));
    assert!(outcomes[0].difference.is_none(), "{outcomes:?}");
    assert_eq!(device.messages(), [""; 0]);
}

/// Reads through storage buffers alone, as on a GPU, and Winograd's algorithm, whose constants are small: a net of both kinds of
/// convolutions, prepared, on devices with texels and without.
#[test]
fn convolutions_are_right_with_texels_and_without_directly_and_by_squares() {
    if support::vulkan().is_none() {
        return;
    }
    let b = Builder::new();
    let x = b.input("x", DType::F32, [1, 64, 8, 7]);
    let w = b.input("w", DType::F32, [64, 64, 3, 3]);
    let v = b.input("v", DType::F32, [8, 64, 3, 3]);
    let conv = Conv {
        pad_low: vec![1; 2],
        pad_high: vec![1; 2],
        ..Conv::unit(2)
    };
    let strided = Conv {
        stride: vec![2; 2],
        ..conv.clone()
    };
    let scale = b
        .input("scale", DType::F32, [64])
        .reshape([64, 1, 1])
        .broadcast([1, 64, 8, 7]);
    let h = (x.conv(w, conv) * scale + x).relu();
    let graph = b.finish([("y", h.conv(v, strided))]).expect("a graph");
    let inputs = sample::inputs(&graph, 5);
    let states = ["w", "v", "scale"].map(|name| {
        let (_, tensor) = inputs.iter().find(|(known, _)| known == name).expect("an input");
        State {
            name: name.to_owned(),
            ty: tensor.ty(),
            init: Init::Tensor(Arc::new(tensor.clone())),
        }
    });
    let program = Program {
        states: states.to_vec(),
        entries: vec![Entry {
            name: "run".to_owned(),
            graph: graph.clone(),
        }],
    };
    let expected = oracle::run(
        &graph,
        &inputs
            .iter()
            .map(|(name, x)| (name.as_str(), x.clone()))
            .collect::<Vec<_>>(),
    );
    let expected = expected.expect("the oracle runs it")[0].1.to_f32();
    let greatest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let without: Pretend = |traits| (traits.texels, traits.product_bytes) = (0, 0);
    for (pretend, texels) in [(None, "with"), (Some(without), "without")] {
        let options = Options {
            validate: true,
            pretend,
            ..Options::default()
        };
        let device = Device::open(&options).expect("it was opened before");
        let target = device.target();
        let direct = Target {
            winograd: false,
            ..target.clone()
        };
        for (target, is_spelled) in [(target, true), (direct, false)] {
            let prepared = program.prepared_for(&target);
            let products = prepared.entry("run").expect("an entry").graph.nodes();
            let is_einsum = |node: &Node| matches!(node.op, Op::Einsum(_));
            assert_eq!(products.filter(|(_, node)| is_einsum(node)).count() > 0, is_spelled);
            let executable = compile(&prepared, Arc::clone(&device)).unwrap_or_else(|error| panic!("{error}"));
            let mut session = Session::new(executable.into(), 1, 0).expect("memory");
            let found = session.call("run", &[("x", &inputs[0].1)]).expect("a run")[0]
                .1
                .to_f32();
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert!(
                    (found - expected).abs() <= 1e-5 * greatest,
                    "{texels} texels, by squares {is_spelled}: [{at}] is {found}, not {expected}"
                );
            }
        }
        assert_eq!(device.messages(), [""; 0]);
    }
}
