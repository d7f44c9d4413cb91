//! Vulkan beside the CPU: whole trainings, the modules themselves, what is kept on disk, what is refused. Ops and programs run on it in
//! `engines.rs` and `programs.rs`.

#![cfg(feature = "vulkan")]

mod support;

use std::process::Command;
use std::sync::Arc;

use netloom::check::{Compiled, Engine, Options as Checking, check};
use netloom::compile::lower;
use netloom::gpu::device::{Device, Options};
use netloom::gpu::{emit, spirv};
use netloom::ir::builder::Builder;
use netloom::ir::kernel::Combine;
use netloom::ir::ops::Conv;
use netloom::ir::passes::PASSES;
use netloom::ir::{DType, Program, Scalar, Tensor, Type, sample};
use netloom::nn::layers::{Bidirectional, Cell, Dense, Recurrent};
use netloom::nn::training::{TRAIN_STEP, program};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training, zoo};
use netloom::plan::kernels::Makers;
use netloom::train::classic::{Chains, Rbm, RbmOptions, Visible};
use netloom::{Cpu, Session, compile};
use vulkano::query::{QueryPool, QueryPoolCreateInfo, QueryType};

/// Values in [0, 1), or classes.
fn data(ty: &Type) -> Tensor {
    let element = |at: usize| {
        let spread = (at as u32).wrapping_mul(2_654_435_769) >> 8;
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

/// The layers must be awake, or their silence means nothing.
/// A machine's random numbers are the graph's own, so its errors are the CPU's but for the order of sums.
#[test]
fn boltzmann_machines_learn_as_on_the_cpu() {
    let Some(device) = support::vulkan() else { return };
    let digits = data(&Type::new(DType::F32, [40, 24]));
    for chains in [Chains::FromData(2), Chains::Persistent(1)] {
        let options = RbmOptions {
            hidden: 12,
            visible: Visible::Bernoulli,
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
                "{chains:?}: {gpu:?}, on the CPU {cpu:?}"
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
            ("half", half.tanh()),
            ("wide", x.cast(DType::F64).exp()),
        ])
        .expect("a graph");
    let programs = [Program::pure("run", graph), training("lenet", 4).0];
    let folder = tempfile::tempdir().expect("a folder");
    let mut checked = 0;
    for program in &programs {
        let lowered = lower(program, &device.target()).expect("it lowers");
        for nest in lowered.kernels.nests() {
            for phase in emit::emit(nest, &device.traits).expect("the device has what it needs") {
                let path = folder.path().join("module.spv");
                let words = spirv::words(&phase.module);
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                std::fs::write(&path, bytes).expect("a file");
                let output = Command::new("spirv-val")
                    .args(["--target-env", "vulkan1.2"])
                    .arg(&path)
                    .output();
                let output = match output {
                    Ok(output) => output,
                    Err(error) => {
                        assert!(
                            std::env::var_os("CI").is_none(),
                            "spirv-val must be there in CI: {error}"
                        );
                        eprintln!("skipped: spirv-val: {error}");
                        return;
                    }
                };
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "`{}`: {said}", nest.name);
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "{checked} modules");
}

#[test]
fn pipelines_are_kept_on_disk_and_damage_is_noticed() {
    if support::vulkan().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options {
        cache: Some(folder.path().to_owned()),
        ..Options::default()
    };
    let run = || {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [3]);
        let program = Program::pure("run", b.finish([("y", x * x + 1.0)]).expect("a graph"));
        let device = Device::open(&options).unwrap_or_else(|error| panic!("{error}"));
        let executable = compile(&program, device).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(executable.into(), 1, 0).expect("memory");
        let x = Tensor::from_f32([3], &[1.0, 2.0, 3.0]);
        let results = session.call("run", &[("x", &x)]).expect("a run");
        assert_eq!(results[0].1.to_f32(), [2.0, 5.0, 10.0]);
    };
    run();
    let files = || -> Vec<_> {
        let entries = std::fs::read_dir(folder.path()).expect("a folder");
        entries.map(|entry| entry.expect("a file").path()).collect()
    };
    let kept = files();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let whole = std::fs::read(&kept[0]).expect("a file");
    for damaged in [&whole[..whole.len() / 2], b"", b"something else"] {
        std::fs::write(&kept[0], damaged).expect("a file");
        run();
        assert_eq!(files(), kept);
        assert_eq!(
            std::fs::read(&kept[0]).expect("a file").len(),
            whole.len(),
            "it is written anew"
        );
    }
}

/// Tensors that a device cannot bind at once, here all above 5000 bytes, are bound in windows.
#[test]
fn tensors_beyond_the_range_of_a_binding_are_bound_in_windows() {
    if support::vulkan().is_none() {
        return;
    }
    let options = Options {
        validate: true,
        tensor_bytes: Some(5000),
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

/// What `netloom bench` says, and whether it succeeds, with changes to its environment.
fn bench(device: &str, environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netloom"));
    command.args(["bench", "mlp", "--seconds", "0", "--device", device]);
    command.envs(environment.iter().copied());
    let output = command.output().expect("the program runs");
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn without_a_driver_or_a_loader_the_cpu_is_offered_and_taken() {
    if support::vulkan().is_none() {
        return;
    }
    let no_driver = [("VK_DRIVER_FILES", "/nowhere"), ("VK_ICD_FILENAMES", "/nowhere")];
    // A file of the loader's name that is none.
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("libvulkan.so.1"), "no library").expect("a file");
    let path = folder.path().to_str().expect("a path in UTF-8");
    let no_loader = [("LD_LIBRARY_PATH", path)];
    for (environment, said) in [(&no_driver[..], "no driver"), (&no_loader[..], "no Vulkan loader")] {
        let (succeeded, message) = bench("vulkan", environment);
        assert!(!succeeded, "{message}");
        assert!(message.contains(said), "{message}");
        assert!(message.contains("--device cpu"), "{message}");
        let (succeeded, message) = bench("auto", environment);
        assert!(succeeded, "{message}");
        assert!(
            message.contains("running on the CPU") && message.contains(said),
            "{message}"
        );
    }
}

/// 3 GiB that must be stored at once, where one block may have 2.
#[test]
fn too_little_memory_is_said_with_the_bytes_asked_for() {
    let Some(device) = support::vulkan() else { return };
    let b = Builder::new();
    let first = b.iota(DType::F32, [1 << 14, 1 << 14], 1).prefix(Combine::Sum, 1, false);
    let second = first.prefix(Combine::Max, 0, false);
    let third = second.prefix(Combine::Min, 1, false);
    let graph = b.finish([("y", (first * third).sum_all())]).expect("a graph");
    let executable = compile(&Program::pure("run", graph), Arc::clone(&device));
    let executable = executable.unwrap_or_else(|error| panic!("{error}"));
    let Err(error) = Session::new(executable.into(), 1, 0) else {
        // A device with that much memory has nothing to say.
        return;
    };
    let message = error.to_string();
    assert!(
        message.contains("bytes of device memory") && message.contains("--device cpu"),
        "{message}"
    );
}

#[test]
fn what_there_is_not_is_said() {
    let options = Options {
        number: Some(1000),
        ..Options::default()
    };
    let Err(error) = Device::open(&options) else {
        panic!("there is no device 1000")
    };
    assert!(
        error.to_string().contains("--device cpu") || error.to_string().contains("netloom devices"),
        "{error}"
    );
}
