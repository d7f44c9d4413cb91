//! Decisions that replace those of cost models: each changes the nests that it is about and no more of the results than it may, code in this
//! process and ahead of time is the same under them, and files of them are checked.

mod support;

use std::time::Duration;

use netloom::ahead::run::Running;
use netloom::ahead::{self, Artefact, Emit, States};
use netloom::compile::lower;
use netloom::ir::builder::Builder;
use netloom::ir::decisions::{Decision, Decisions, Tuned};
use netloom::ir::ops::Conv;
use netloom::ir::{DType, Entry, Init, Program, State, Tensor, Type, sample};
use netloom::tune::{Outcome, Tuning, tune};
use netloom::{Cpu, Session, compile, dump};
use support::{cpus, different_bits};

/// A few convolutions and products: some by Winograd's algorithm, some with several lines of an image in a tile, one with far columns.
fn program() -> Program {
    let b = Builder::new();
    let conv = || Conv {
        pad_low: vec![1; 2],
        pad_high: vec![1; 2],
        ..Conv::unit(2)
    };
    let x = b.input("x", DType::F32, [1, 32, 23, 14]);
    let w = b.input("w", DType::F32, [64, 32, 3, 3]);
    let v = b.input("v", DType::F32, [64, 64, 3, 3]);
    let u = b.input("u", DType::F32, [16, 64, 3, 3]);
    let image = x.conv(w, conv()).relu();
    let image = (image.conv(v, conv()) + image).tanh().conv(u, conv());
    let p = b.input("p", DType::F32, [72, 300]);
    let q = b.input("q", DType::F32, [300, 480]);
    let graph = b
        .finish([("image", image), ("product", p.matmul(q).relu())])
        .expect("a valid graph");
    // Filters that are states lie in blocks of channels.
    let state = |name: &str| {
        let ty = graph.ty(graph.input(name).expect("an input")).clone();
        State {
            name: name.to_owned(),
            init: Init::Tensor(sample::tensor(&ty, &mut 9).into()),
            ty,
        }
    };
    Program {
        states: vec![state("w"), state("v"), state("u")],
        entries: vec![Entry {
            name: "run".to_owned(),
            graph,
        }],
    }
}

/// Its arguments by name.
fn arguments(program: &Program) -> Vec<(String, Tensor)> {
    let graph = &program.entries[0].graph;
    let argument = |(name, mut seed): (&str, u64)| {
        let id = graph.input(name).expect("an input");
        (name.to_owned(), sample::tensor(graph.ty(id), &mut seed))
    };
    [("x", 1), ("p", 2), ("q", 3)].into_iter().map(argument).collect()
}

/// The same decision for every kernel of a program.
fn everywhere(program: &Program, cpu: &Cpu, decision: Decision, value: usize) -> Cpu {
    let lowered = lower(program, &cpu.target()).expect("it lowers");
    let mut tuned = Tuned::default();
    for id in lowered.kernels.ids() {
        let decisions = Decisions::default().with(decision, value);
        tuned.set(lowered.kernels.kernel(id).key(), decisions);
    }
    Cpu { tuned, ..cpu.clone() }
}

fn run(program: &Program, cpu: &Cpu, threads: usize, arguments: &[(String, Tensor)]) -> Vec<Tensor> {
    let executable = compile(program, cpu).expect("it compiles");
    let mut session = Session::new(executable.into(), threads, 0).expect("memory");
    let mut results = session.results("run").expect("an entry");
    let arguments: Vec<&Tensor> = arguments.iter().map(|(_, tensor)| tensor).collect();
    session.run("run", &arguments, &mut results).expect("tensors that fit");
    results
}

#[test]
fn decisions_change_nests_and_few_change_bits() {
    let program = program();
    let arguments = arguments(&program);
    for cpu in cpus() {
        let nests = |cpu: &Cpu| dump::nests(&lower(&program, &cpu.target()).expect("it lowers"));
        let (usual, nest) = (run(&program, &cpu, 1, &arguments), nests(&cpu));
        for (decision, name, values) in Decision::ALL {
            let mut changed = 0;
            for &value in values {
                let decided = everywhere(&program, &cpu, decision, value);
                changed += usize::from(nests(&decided) != nest);
                for threads in [1, 3] {
                    let results = run(&program, &decided, threads, &arguments);
                    for (result, usual) in results.iter().zip(&usual) {
                        let what = format!("{name} {value} on {} with {threads} threads", cpu.name());
                        if !matches!(decision, Decision::Winograd | Decision::Matrix) {
                            assert_eq!(different_bits(result, usual), None, "{what}");
                        }
                        let greatest = usual.scalars().map(|x| x.as_f64().abs()).fold(0.0, f64::max);
                        let pairs = result.scalars().zip(usual.scalars());
                        let off = pairs.map(|(a, b)| (a.as_f64() - b.as_f64()).abs()).fold(0.0, f64::max);
                        assert!(off <= 1e-4 * greatest, "{what}: {off} of {greatest}");
                    }
                }
            }
            // Few registers hold tiles of one size.
            let target = cpu.target();
            let has_choice = match decision {
                Decision::Columns => target.vector_registers >= 32,
                Decision::Rows => target.vector_lanes >= 8,
                Decision::Matrix => target.pieces,
                _ => true,
            };
            assert_eq!(changed > 0, has_choice, "{name} on {}", cpu.name());
        }
    }
}

#[test]
fn code_ahead_of_time_follows_the_same_decisions() {
    let program = program();
    let arguments = arguments(&program);
    let native = Cpu::native();
    let results = |size: usize| {
        run(
            &program,
            &everywhere(&program, &native, Decision::Winograd, size),
            2,
            &arguments,
        )
    };
    assert_ne!(results(2), results(4), "sizes of squares round differently");
    for size in [2, 4] {
        let cpu = everywhere(&program, &native, Decision::Winograd, size);
        let session = Session::new(compile(&program, &native).expect("it compiles").into(), 1, 0).expect("memory");
        let (_, exports) = ahead::merged(vec![(0, program.clone())], &["run"]).expect("an entry");
        let folder = tempfile::tempdir().expect("a folder");
        let artefact = Artefact {
            name: "tuned",
            program: &program,
            entries: &exports,
            cpus: std::slice::from_ref(&cpu),
            session: &session,
            states: States::Within,
            emit: Emit::Sharedlib,
            linker: None,
            rust: false,
        };
        ahead::write(&artefact, folder.path()).expect("it is written");
        let mut running = Running::open(folder.path(), 2, 0).expect("it opens");
        let found = running.call("run", &arguments).expect("it runs");
        let found: Vec<Tensor> = found.into_iter().map(|(_, result)| result).collect();
        assert_eq!(found, results(size), "squares of {size}");
    }
}

#[test]
fn what_is_found_is_read_back_and_used() {
    let program = program();
    let arguments = arguments(&program);
    let arguments: Vec<&Tensor> = arguments.iter().map(|(_, tensor)| tensor).collect();
    let session = Session::new(compile(&program, Cpu::native()).expect("it compiles").into(), 1, 0).expect("memory");
    let limit = Duration::from_millis(500);
    let Outcome { tuning, whole } = tune(&program, "run", &session, &arguments, limit).expect("a CPU");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("net.tune.json");
    tuning.save(&path).expect("it is written");
    assert_eq!(Tuning::load(&path).expect("it is read"), tuning);
    let cpu = Cpu {
        tuned: tuning.tuned(),
        ..Cpu::native()
    };
    let executable = compile(&program, cpu).expect("it compiles");
    assert_eq!(executable.tuned_count, tuning.decided().count());
    for kernel in &tuning.kernels {
        let is_faster = kernel.tuned_us < kernel.usual_us;
        assert_eq!(is_faster, !kernel.decisions.is_empty(), "{kernel:?}");
    }
    // What is faster kernel by kernel is kept if it is as a whole.
    let is_faster = whole.is_some_and(|[usual, tuned]| tuned < usual);
    assert_eq!(tuning.decided().count() > 0, is_faster, "{whole:?}");
}

/// A step that changes its states leaves those of the session alone, and what was found before is found anew.
#[test]
fn tuning_takes_states_as_they_are() {
    let b = Builder::new();
    let (x, w) = (
        b.input("x", DType::F32, [64, 256]),
        b.input("w", DType::F32, [256, 256]),
    );
    let graph = b
        .finish([("w", w + x.transpose().matmul(x) * 0.5)])
        .expect("a valid graph");
    let mut program = Program::pure("step", graph);
    let ty = Type::new(DType::F32, [256, 256]);
    program.states.push(State {
        name: "w".to_owned(),
        init: Init::Tensor(sample::tensor(&ty, &mut 1).into()),
        ty,
    });
    let session = Session::new(compile(&program, Cpu::native()).expect("it compiles").into(), 2, 0).expect("memory");
    let (before, x) = (
        session.state("w").expect("a state"),
        sample::tensor(&Type::new(DType::F32, [64, 256]), &mut 2),
    );
    let limit = Duration::from_millis(200);
    let first = tune(&program, "step", &session, &[&x], limit).expect("a CPU").tuning;
    assert_eq!(session.state("w").expect("a state"), before);
    assert!(!first.kernels.is_empty());
    let second = tune(&program, "step", &session, &[&x], limit).expect("a CPU").tuning;
    assert_eq!(second.clone().and(first), second);
}

#[test]
fn wrong_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("net.tune.json");
    let kernel = |key: &str, decisions: &str| {
        format!(
            r#"{{"format":1,"kernels":[{{"key":"{key}","name":"k1","entry":"run","cpu":"x86-64-v3","threads":1,"decisions":{decisions},"usual_us":2.0,"tuned_us":1.0}}]}}"#
        )
    };
    for (text, says) in [
        ("{\"format\":1,\"ker".to_owned(), "EOF while parsing"),
        ("[]".to_owned(), "invalid length 0"),
        ("{\"format\":2,\"kernels\":[]}".to_owned(), "is of format 2, not 1"),
        (kernel("12g", "{}"), "kernel `k1`: `12g` is no key"),
        (kernel("12", r#"{"speed":1}"#), "there is no decision `speed`"),
        (
            kernel("12", r#"{"rows":1000000}"#),
            "`rows` is 1000000, which is none of [4, ",
        ),
        (kernel("12", r#"{"rows":-1}"#), "invalid value: integer `-1`"),
    ] {
        std::fs::write(&path, &text).expect("a file");
        let error = Tuning::load(&path).expect_err("it is wrong").to_string();
        assert!(error.contains(says), "{text}: {error}");
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert!(error.ends_with("tune again, or remove the file"), "{error}");
    }
    std::fs::write(&path, kernel("12", r#"{"rows":8,"winograd":0}"#)).expect("a file");
    let tuned = Tuning::load(&path).expect("a right one").tuned();
    let decisions = tuned.get(0x12).expect("the kernel");
    assert_eq!(decisions.get(Decision::Rows), Some(8));
}
