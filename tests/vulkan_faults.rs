//! What goes wrong with Vulkan: every fault says what it is and what to do, and the CPU stands in where it may. Drivers and devices that fail
//! are made by a layer, `support/faults.c`, between the loader and the driver.

#![cfg(feature = "vulkan")]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use netloom::device::Choice;
use netloom::gpu::device::{Device, Options, Pretend};
use netloom::ir::builder::Builder;
use netloom::ir::kernel::Combine;
use netloom::ir::{DType, Program, Tensor};
use netloom::{Cpu, Session, compile};

/// What `netloom bench` says, and whether it succeeds, with further options and changes to its environment.
fn bench(device: &str, options: &[&str], environment: &[(&str, &str)]) -> (bool, String, serde_json::Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netloom"));
    command.args(["bench", "mlp", "--seconds", "0", "--json", "--device", device]);
    command.args(options);
    command.envs(environment.iter().copied());
    let output = command.output().expect("the program runs");
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
        serde_json::from_slice(&output.stdout).unwrap_or_default(),
    )
}

/// On Vulkan it fails, with words that name the fault and offer the CPU; `auto` takes the CPU, and says why.
fn is_said_and_survived(options: &[&str], environment: &[(&str, &str)], said: &str) {
    let (succeeded, message, _) = bench("vulkan", options, environment);
    assert!(!succeeded, "{message}");
    assert!(message.starts_with("error: ") && message.contains(said), "{message}");
    assert!(message.contains("--device cpu"), "{message}");
    let (succeeded, message, report) = bench("auto", options, environment);
    assert!(succeeded, "{message}");
    assert!(
        message.contains("running on the CPU") && message.contains(said),
        "{message}"
    );
    assert_eq!(report["device"], "cpu");
    let reason = report["fell_back"][0].as_str().expect("a reason");
    assert!(reason.contains(said), "{reason}");
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
    is_said_and_survived(&[], &no_driver, "no driver");
    is_said_and_survived(&[], &no_loader, "no Vulkan loader");
}

/// The environment in which the device has a fault; `None` where there is no C compiler to make the layer with, nor has to be.
fn faulty(fault: &'static str) -> Option<Vec<(&'static str, &'static str)>> {
    static LAYER: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    let folder = LAYER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/faults.c");
        let library = folder.path().join("libfaults.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]);
        match compiler.arg(&library).arg(&source).status() {
            Ok(done) => assert!(done.success(), "the layer does not compile"),
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "cc must be there in CI: {error}");
                eprintln!("skipped: cc: {error}");
                return None;
            }
        }
        let manifest = serde_json::json!({
            "file_format_version": "1.1.2",
            "layer": {
                "name": "VK_LAYER_netloom_faults",
                "type": "GLOBAL",
                "library_path": library,
                "api_version": "1.3.0",
                "implementation_version": "1",
                "description": "a device that fails",
            },
        });
        std::fs::write(folder.path().join("faults.json"), manifest.to_string()).expect("a file");
        Some(folder)
    });
    let path = folder.as_ref()?.path().to_str().expect("a path in UTF-8");
    Some(vec![
        ("VK_LAYER_PATH", path),
        ("VK_INSTANCE_LAYERS", "VK_LAYER_netloom_faults"),
        ("NETLOOM_FAULT", fault),
        // Mesa's layer that chooses devices fails where there is none.
        ("NODEVICE_SELECT", "1"),
    ])
}

#[test]
fn without_a_device_the_cpu_is_offered_and_taken() {
    if support::vulkan().is_some()
        && let Some(environment) = faulty("device")
    {
        is_said_and_survived(&[], &environment, "no device that can compute");
    }
}

#[test]
fn without_a_compute_queue_the_cpu_is_offered_and_taken() {
    if support::vulkan().is_some()
        && let Some(environment) = faulty("queue")
    {
        is_said_and_survived(&[], &environment, "no device that can compute");
    }
}

#[test]
fn without_device_memory_the_cpu_is_offered_and_taken() {
    if support::vulkan().is_some()
        && let Some(environment) = faulty("memory")
    {
        is_said_and_survived(&[], &environment, "bytes of device memory");
    }
}

#[test]
fn without_a_pipeline_the_cpu_is_offered_and_taken() {
    if support::vulkan().is_some()
        && let Some(environment) = faulty("pipeline")
    {
        is_said_and_survived(&[], &environment, "compiling a kernel: ");
    }
}

/// A device without 16-bit floats computes halves in `f32`, and refuses to do otherwise; so does code for CPUs.
#[test]
fn f16_arithmetic_that_is_not_there_is_said() {
    if support::vulkan().is_none() {
        return;
    }
    let Some(environment) = faulty("f16") else { return };
    let asked = ["--f16-arithmetic"];
    is_said_and_survived(
        &asked,
        &environment,
        "lacks 16-bit floats (shaderFloat16), which f16 arithmetic needs",
    );
    let (succeeded, message, _) = bench("vulkan", &[], &environment);
    assert!(succeeded, "{message}");
    let (succeeded, message, _) = bench("cpu", &asked, &[]);
    assert!(!succeeded && message.contains("--device vulkan"), "{message}");
}

/// Lost at once, and in the middle of a run: what is on the device is gone, so nothing stands in.
#[test]
fn a_lost_device_is_said() {
    if support::vulkan().is_none() {
        return;
    }
    for after in ["0", "3", "8"] {
        let Some(mut environment) = faulty("lost") else { return };
        environment.push(("NETLOOM_FAULT_AFTER", after));
        let (succeeded, message, _) = bench("vulkan", &[], &environment);
        assert!(!succeeded, "{message}");
        assert!(message.contains("device was lost"), "{message}");
        assert!(message.contains("--device cpu"), "{message}");
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
fn what_there_is_not_is_said_of_the_tests_device() {
    if support::vulkan().is_none() {
        return;
    }
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

/// A device like that of the tests, but for what it is taken to do and to allow.
fn pretending(pretend: Pretend) -> Option<Arc<Device>> {
    support::vulkan()?;
    let options = Options {
        pretend: Some(pretend),
        ..Options::default()
    };
    Some(Device::open(&options).expect("it was opened before"))
}

/// A program that a device cannot run is refused, with the reason, the limit and the CPU; the CPU stands in if it may.
#[test]
fn what_a_device_lacks_and_what_is_beyond_its_limits_is_said() {
    struct Refused {
        pretend: Pretend,
        dtype: DType,
        said: &'static [&'static str],
    }
    let refused = |pretend, dtype, said| Refused { pretend, dtype, said };
    let cases = [
        refused(|traits| traits.float64 = false, DType::F64, &["shaderFloat64"]),
        refused(|traits| traits.int64 = false, DType::I64, &["shaderInt64"]),
        refused(
            |traits| traits.storage16 = false,
            DType::F16,
            &["storageBuffer16BitAccess"],
        ),
        refused(
            |traits| traits.storage8 = false,
            DType::U8,
            &["storageBuffer8BitAccess"],
        ),
        refused(
            |traits| traits.bindings = 1,
            DType::F32,
            &["number of tensors", "is 2", "allows 1"],
        ),
        refused(
            |traits| (traits.tensor_bytes, traits.bindings) = (1024, 4),
            DType::F32,
            &[
                "number of bindings",
                "each 1024 bytes",
                "maxStorageBufferRange",
                "allows 4",
            ],
        ),
        refused(|traits| traits.push_bytes = 4, DType::F32, &["maxPushConstantsSize"]),
        refused(
            |traits| traits.groups = [2, 3, 1],
            DType::F32,
            &["maxComputeWorkGroupCount", "is 1000"],
        ),
    ];
    for Refused { pretend, dtype, said } in cases {
        let b = Builder::new();
        let twice = b.input("x", dtype, [1000]) * 2.0;
        let program = Program::pure("run", b.finish([("y", twice)]).expect("a graph"));
        let Some(device) = pretending(pretend) else { return };
        let Err(error) = compile(&program, Arc::clone(&device)) else {
            panic!("{said:?}: it was accepted")
        };
        let message = error.to_string();
        assert!(said.iter().all(|said| message.contains(said)), "{message}");
        assert!(message.contains("--device cpu"), "{message}");

        let mut choice = Choice::or_cpu(device.into(), Cpu::native());
        let executable = choice
            .make(|device| compile(&program, device))
            .expect("the CPU stands in");
        assert!(matches!(executable.device, netloom::Device::Cpu(_)));
        assert_eq!(choice.fell_back, [message]);
        let mut session = Session::new(executable.into(), 1, 0).expect("memory");
        let x = Tensor::zeros(dtype, [1000]);
        assert_eq!(session.call("run", &[("x", &x)]).expect("a run")[0].1, x);
    }
}

/// Every kernel that a device refuses is named, with its reason; kernels that it takes are not.
#[test]
fn every_kernel_that_fell_back_is_named() {
    let Some(device) = pretending(|traits| (traits.float64, traits.int64) = (false, false)) else {
        return;
    };
    let b = Builder::new();
    let [x, i, f] =
        [("x", DType::F64), ("i", DType::I64), ("f", DType::F32)].map(|(name, ty)| b.input(name, ty, [300]));
    let results = [("sums", x.cumsum(0)), ("whole", i * i), ("half", f.exp())];
    let program = Program::pure("run", b.finish(results).expect("a graph"));
    let mut choice = Choice::or_cpu(device.into(), Cpu::native());
    choice
        .make(|device| compile(&program, device))
        .expect("the CPU stands in");
    let [sums, whole] = &choice.fell_back[..] else {
        panic!("{:?}", choice.fell_back)
    };
    assert!(sums.contains("cumsum") && sums.contains("shaderFloat64"), "{sums}");
    assert!(whole.contains("mul") && whole.contains("shaderInt64"), "{whole}");
}

/// A test that finds no Vulkan passes, and says that it was skipped; with `CI` set it fails.
#[test]
fn skipping_is_said_and_in_ci_a_failure() {
    if support::vulkan().is_none() {
        return;
    }
    let outcome = |ci: Option<&str>| {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args([
            "--exact",
            "what_there_is_not_is_said_of_the_tests_device",
            "--nocapture",
        ]);
        command.envs([("VK_DRIVER_FILES", "/nowhere"), ("VK_ICD_FILENAMES", "/nowhere")]);
        match ci {
            Some(value) => command.env("CI", value),
            None => command.env_remove("CI"),
        };
        let output = command.output().expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let (passed, text) = outcome(None);
    assert!(
        passed && text.contains("skipped on Vulkan") && text.contains("1 passed"),
        "{text}"
    );
    let (passed, text) = outcome(Some("1"));
    assert!(!passed && text.contains("must not be skipped in CI"), "{text}");
}

/// Pipelines that are damaged on disk are named, and made anew without a word the next time.
#[test]
fn damaged_pipelines_are_said_once() {
    if support::vulkan().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let environment = [("NETLOOM_CACHE", folder.path().to_str().expect("a path in UTF-8"))];
    let said = || {
        let (succeeded, message, _) = bench("vulkan", &[], &environment);
        assert!(succeeded, "{message}");
        message.contains("which is damaged; it will be written anew")
    };
    assert!(!said());
    let mut files = std::fs::read_dir(folder.path()).expect("a folder");
    let path = files.next().expect("a file").expect("a file").path();
    std::fs::write(path, "something else").expect("a file");
    assert_eq!([said(), said()], [true, false]);
}

/// That pipelines cannot be kept is said once, although they are kept after each program.
#[test]
fn a_folder_that_cannot_be_written_is_named_once() {
    if support::vulkan().is_none() {
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let below = file.path().join("below");
    let environment = [("NETLOOM_CACHE", below.to_str().expect("a path in UTF-8"))];
    let (succeeded, message, _) = bench("vulkan", &[], &environment);
    assert!(succeeded, "{message}");
    let said = message.matches("compiled pipelines were not kept").count();
    assert_eq!(said, 1, "{message}");
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
