//! The engines that this machine runs, and how what they give is compared.

#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;
#[cfg(feature = "vulkan")]
use std::sync::OnceLock;

use netloom::cpu::isa::Level;
use netloom::eager::Eager;
#[cfg(feature = "vulkan")]
use netloom::gpu::device as gpu;
use netloom::ir::{DType, Entry, Graph, Program, Scalar, Tensor, oracle};
use netloom::nn::training::{TRAIN_STEP, program};
use netloom::nn::zoo::Net;
use netloom::{Cpu, Executable, Session, compile};

/// Numbers of workers that must not change a bit.
pub const THREADS: [usize; 4] = [1, 2, 3, 7];

/// Every level that this machine runs, with workers sharing every kernel, however small.
pub fn cpus() -> Vec<Cpu> {
    let native = Cpu {
        share_from: 0,
        ..Cpu::native()
    };
    let cpus: Vec<Cpu> = [Level::Portable, Level::Avx2, Level::Avx512]
        .map(|level| Cpu {
            level,
            has_amx: false,
            ..native.clone()
        })
        .into_iter()
        .chain([
            Cpu {
                level: Level::Portable,
                has_fma: false,
                has_amx: false,
                ..native.clone()
            },
            Cpu {
                level: Level::Avx512,
                has_amx: true,
                ..native.clone()
            },
        ])
        .filter(|cpu| cpu.check_host().is_ok())
        .collect();
    let names: Vec<String> = cpus
        .iter()
        .map(|cpu| format!("{} (fma: {})", cpu.name(), cpu.has_fma))
        .collect();
    eprintln!("engines: oracle, eager, {}", names.join(", "));
    cpus
}

/// How far a result may lie from the oracle's.
#[derive(Clone, Copy, Debug)]
pub enum Allowed {
    /// So many values of the type lie between; with 0, zeros have the same sign.
    Places(u64),
    /// This times the greatest finite magnitude in the result, at least 1.
    Relative(f64),
}

/// A graph on inputs.
pub struct Case {
    pub name: String,
    pub graph: Graph,
    pub inputs: Vec<(String, Tensor)>,
    pub allowed: Allowed,
}

impl Case {
    fn expected(&self) -> Vec<Tensor> {
        let inputs: Vec<(&str, Tensor)> = self.inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
        let outputs = oracle::run(&self.graph, &inputs).unwrap_or_else(|problems| panic!("{}: {problems}", self.name));
        outputs.into_iter().map(|(_, tensor)| tensor).collect()
    }
}

/// Runs every case on every engine: what compiled code gives is what the oracle gives within what is allowed, and the same bits on every
/// level with each number of workers; what eager gives is within what is allowed too.
pub fn check(cpus: &[Cpu], threads: &[usize], cases: &[Case]) {
    let entries = cases
        .iter()
        .map(|case| Entry {
            name: case.name.clone(),
            graph: case.graph.clone(),
        })
        .collect();
    let program = Program {
        states: Vec::new(),
        entries,
    };
    let expected: Vec<Vec<Tensor>> = cases.iter().map(Case::expected).collect();
    let mut first: Vec<Vec<Tensor>> = Vec::new();
    let mut wrong = Vec::new();
    for cpu in cpus {
        let executable = Arc::new(compile(&program, cpu).unwrap_or_else(|error| panic!("{}: {error}", cases[0].name)));
        for &threads in threads {
            let mut session = Session::new(Arc::clone(&executable), threads, 0).expect("memory for a session");
            let engine = format!("{} (fma: {}) with {threads} workers", cpu.name(), cpu.has_fma);
            for (number, case) in cases.iter().enumerate() {
                let mut outputs = session.results(&case.name).expect("an entry");
                let inputs: Vec<&Tensor> = case.inputs.iter().map(|(_, x)| x).collect();
                session
                    .run(&case.name, &inputs, &mut outputs)
                    .unwrap_or_else(|error| panic!("{}: {error}", case.name));
                let Some(known) = first.get(number) else {
                    wrong.extend(differences(case, &engine, &executable, &outputs, &expected[number]));
                    first.push(outputs);
                    continue;
                };
                for (found, known) in outputs.iter().zip(known) {
                    if let Some(at) = different_bits(found, known) {
                        let (found, known) = (found.get(at), known.get(at));
                        wrong.push(format!(
                            "{} on {engine}: [{at}] is {found:?}, on the first engine {known:?}",
                            case.name
                        ));
                    }
                }
            }
        }
    }
    wrong.extend(check_vulkan(&program, cases, &expected));
    let native = cpus.last().expect("this machine runs some level");
    let session = Session::new(Arc::new(compile(&program, native).expect("it compiled above")), 1, 0).expect("memory");
    let mut eager =
        Eager::new(&program, native, 2, &session).unwrap_or_else(|error| panic!("{}: {error}", cases[0].name));
    for (case, expected) in cases.iter().zip(&expected) {
        let mut outputs = session.results(&case.name).expect("an entry");
        let inputs: Vec<&Tensor> = case.inputs.iter().map(|(_, x)| x).collect();
        eager
            .run(&case.name, &inputs, &mut outputs)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        wrong.extend(differences(case, "eager", session.executable(), &outputs, expected));
    }
    assert!(
        wrong.is_empty(),
        "{} differences:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
}

/// The worst difference of a case's results from what is expected, if one is greater than allowed.
fn differences(
    case: &Case,
    engine: &str,
    executable: &Executable,
    found: &[Tensor],
    expected: &[Tensor],
) -> Option<String> {
    found
        .iter()
        .zip(expected)
        .enumerate()
        .find_map(|(output, (found, expected))| {
            assert_eq!(found.ty(), expected.ty(), "{}", case.name);
            let finite = expected.scalars().map(|x| x.as_f64().abs()).filter(|x| x.is_finite());
            let greatest = finite.fold(1.0, f64::max);
            let operands = || (case.inputs.iter()).filter(|(_, x)| x.shape() == found.shape());
            let is_promised = |x: &Tensor, at: usize| is_promised(x.get(at), x.dtype(), executable);
            let at = (0..found.count()).find(|&at| {
                !is_allowed(found.get(at), expected.get(at), found.dtype(), case.allowed, greatest)
                    && is_promised(expected, at)
                    && operands().all(|(_, x)| is_promised(x, at))
            })?;
            let operands: Vec<String> = operands()
                .map(|(name, x)| format!("{name} = {:?}", x.get(at)))
                .collect();
            let (found, expected) = (found.get(at), expected.get(at));
            Some(format!(
                "{} on {engine}: output {output}[{at}] is {found:?}, should be {expected:?} within {:?}; {}",
                case.name,
                case.allowed,
                operands.join(", ")
            ))
        })
}

fn is_allowed(found: Scalar, expected: Scalar, dtype: DType, allowed: Allowed, greatest: f64) -> bool {
    let (Scalar::Float(x), Scalar::Float(y)) = (found, expected) else {
        return found == expected;
    };
    if x.is_nan() || y.is_nan() {
        return x.is_nan() && y.is_nan();
    }
    match allowed {
        Allowed::Places(0) => x == y && x.is_sign_negative() == y.is_sign_negative(),
        Allowed::Places(places) => distance(x, y, dtype) <= places,
        Allowed::Relative(tolerance) => x == y || (x - y).abs() <= tolerance * greatest,
    }
}

/// Whether a device says that it keeps such a number: Vulkan lets it take subnormals for zero, and infinities and NaN for anything.
fn is_promised(x: Scalar, dtype: DType, executable: &Executable) -> bool {
    let (Scalar::Float(x), floats) = (x, executable.device.floats(dtype)) else {
        return true;
    };
    // What rounds to the least number that is kept was less before.
    let may_be_zero = x != 0.0 && x.abs() <= floats.least;
    (floats.specials || x.is_finite()) && !may_be_zero
}

/// How many values of `dtype` lie between two; 0 equals -0.
fn distance(x: f64, y: f64, dtype: DType) -> u64 {
    let place = |value: f64| {
        let magnitude = i128::from(Scalar::Float(value.abs()).to_bits(dtype));
        if value < 0.0 { -magnitude } else { magnitude }
    };
    u64::try_from((place(x) - place(y)).unsigned_abs()).unwrap_or(u64::MAX)
}

/// The first position at which two tensors differ in bits; NaNs are alike, since nothing is promised about their payload.
pub fn different_bits(a: &Tensor, b: &Tensor) -> Option<usize> {
    assert_eq!(a.ty(), b.ty());
    if a == b {
        return None;
    }
    let is_nan = |x: Scalar| x.as_f64().is_nan();
    let bits = |x: Scalar| x.to_bits(a.dtype());
    (0..a.count()).find(|&at| bits(a.get(at)) != bits(b.get(at)) && !(is_nan(a.get(at)) && is_nan(b.get(at))))
}

/// A session of a program on a CPU.
pub fn session(program: &Program, cpu: &Cpu, threads: usize) -> Session {
    let executable: Executable = compile(program, cpu).unwrap_or_else(|error| panic!("{error}"));
    Session::new(Arc::new(executable), threads, 0).expect("memory for a session")
}

/// The training step of a network of the zoo, compiled so that workers share every kernel, the smallest too.
pub fn shared_step(net: &Net, batch: usize) -> Arc<Executable> {
    let whole = program(
        &(net.layers)(),
        &net.input(batch),
        &net.target(batch),
        &(net.training)(),
    );
    let step = whole.expect("a valid network").only(TRAIN_STEP);
    let cpu = Cpu {
        share_from: 0,
        ..Cpu::native()
    };
    Arc::new(compile(&step, &cpu).expect("it compiles"))
}

/// The Vulkan device that tests run on, with the validation layers watching; `None`, with the reason printed, where there is none. With
/// `CI` set there must be one.
#[cfg(feature = "vulkan")]
pub fn vulkan() -> Option<Arc<gpu::Device>> {
    static OPENED: OnceLock<Option<Arc<gpu::Device>>> = OnceLock::new();
    OPENED.get_or_init(|| opened(false, None)).clone()
}

/// The same device, as if it were a GPU whose workgroups work together.
#[cfg(feature = "vulkan")]
pub fn vulkan_with_workgroups() -> Option<Arc<gpu::Device>> {
    static OPENED: OnceLock<Option<Arc<gpu::Device>>> = OnceLock::new();
    OPENED
        .get_or_init(|| opened(false, Some(|traits| traits.workgroups = true)))
        .clone()
}

/// The same device, which was asked for f16 arithmetic.
#[cfg(feature = "vulkan")]
pub fn vulkan_with_f16() -> Option<Arc<gpu::Device>> {
    static OPENED: OnceLock<Option<Arc<gpu::Device>>> = OnceLock::new();
    OPENED.get_or_init(|| opened(true, None)).clone()
}

#[cfg(feature = "vulkan")]
fn opened(f16_arithmetic: bool, pretend: Option<gpu::Pretend>) -> Option<Arc<gpu::Device>> {
    let options = gpu::Options {
        validate: true,
        f16_arithmetic,
        pretend,
        ..gpu::Options::default()
    };
    match gpu::Device::open(&options) {
        Ok(device) => {
            eprintln!("Vulkan: {device:?}");
            Some(device)
        }
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "Vulkan tests must not be skipped in CI: {error}"
            );
            eprintln!("skipped on Vulkan: {error}");
            None
        }
    }
}

/// Runs the cases on Vulkan, compiled and eager, also with workgroups that work together, those with halves also where f16 arithmetic was asked for, and gives the differences from what is
/// expected and what the validation layers say.
#[cfg(feature = "vulkan")]
fn check_vulkan(program: &Program, cases: &[Case], expected: &[Vec<Tensor>]) -> Vec<String> {
    let Some(device) = vulkan() else { return Vec::new() };
    let mut wrong = check_on(&device, program, cases, expected);
    if let Some(device) = vulkan_with_workgroups() {
        wrong.extend(check_on(&device, program, cases, expected));
    }
    let is_half = |graph: &Graph| graph.nodes().any(|(_, node)| node.types[0].dtype == DType::F16);
    if program.entries.iter().any(|entry| is_half(&entry.graph))
        && let Some(device) = vulkan_with_f16()
    {
        wrong.extend(check_on(&device, program, cases, expected));
    }
    wrong
}

#[cfg(feature = "vulkan")]
fn check_on(device: &Arc<gpu::Device>, program: &Program, cases: &[Case], expected: &[Vec<Tensor>]) -> Vec<String> {
    let executable = compile(program, Arc::clone(device)).unwrap_or_else(|error| panic!("{}: {error}", cases[0].name));
    let mut session = Session::new(Arc::new(executable), 1, 0).expect("memory");
    let mut eager = Eager::new(program, Arc::clone(device), 1, &session).expect("what was compiled");
    let mut wrong = Vec::new();
    for (case, expected) in cases.iter().zip(expected) {
        let mut outputs = session.results(&case.name).expect("an entry");
        let inputs: Vec<&Tensor> = case.inputs.iter().map(|(_, x)| x).collect();
        session
            .run(&case.name, &inputs, &mut outputs)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        wrong.extend(differences(case, "Vulkan", session.executable(), &outputs, expected));
        eager
            .run(&case.name, &inputs, &mut outputs)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        wrong.extend(differences(
            case,
            "Vulkan, eager",
            session.executable(),
            &outputs,
            expected,
        ));
    }
    wrong.extend(device.messages());
    wrong
}

#[cfg(not(feature = "vulkan"))]
fn check_vulkan(_program: &Program, _cases: &[Case], _expected: &[Vec<Tensor>]) -> Vec<String> {
    Vec::new()
}

/// Fails unless `spirv-val` finds a module valid. False where there is none, which outside CI is said and let pass.
#[cfg(feature = "vulkan")]
#[must_use]
pub fn validates(what: &str, module: &rspirv::dr::Module) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("module.spv");
    let bytes: Vec<u8> = (netloom::gpu::spirv::words(module).iter())
        .flat_map(|word| word.to_le_bytes())
        .collect();
    std::fs::write(&path, bytes).expect("a file");
    let output = std::process::Command::new("spirv-val")
        .args(["--target-env", "vulkan1.2"])
        .arg(&path)
        .output();
    match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{what}: {said}");
            true
        }
        Err(error) => {
            let in_ci = std::env::var_os("CI").is_some();
            assert!(!in_ci, "spirv-val must be there in CI: {error}");
            eprintln!("skipped: spirv-val: {error}");
            false
        }
    }
}
