//! Objects compiled ahead of time: a C program that links one gives what this process gives, to the bit.
#![cfg(unix)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
#[cfg(feature = "vulkan")]
use std::sync::Arc;

use netloom::ahead::manifest::Manifest;
use netloom::ahead::run::Running;
use netloom::ahead::{self, Artefact, Emit, States};
use netloom::compile::Export;
use netloom::ir::ops::compound::Steps;
use netloom::ir::{Builder, DType, Entry, Program, Tensor, Type, sample, text};
use netloom::nn::training::{PREDICT, TRAIN_STEP, predictor, program};
use netloom::nn::zoo;
use netloom::{Cpu, Session, gpu};
use support::session;
use tempfile::TempDir;

/// Reads the states, arguments and results' sizes; runs the entry three times with the given number of threads; writes results and states.
const MAIN: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <malloc.h>
#define aligned_alloc(alignment, bytes) _aligned_malloc(bytes, alignment)
#endif
#include "NAME.h"

static void *block(size_t bytes) {
    void *start = aligned_alloc(64, (bytes / 64 + 1) * 64);
    if (!start) { fputs("out of memory\n", stderr); exit(1); }
    memset(start, 0, (bytes / 64 + 1) * 64);
    return start;
}

static void *read_file(const char *path, size_t bytes) {
    void *start = block(bytes);
    FILE *file = fopen(path, "rb");
    if (!file || fread(start, 1, bytes, file) != bytes) { fprintf(stderr, "cannot read %s\n", path); exit(1); }
    fclose(file);
    return start;
}

static void write_file(const char *path, const void *start, size_t bytes) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(start, 1, bytes, file) != bytes) { fprintf(stderr, "cannot write %s\n", path); exit(1); }
    fclose(file);
}

struct share { netloom_task *task; const void *argument; uint64_t worker, workers; };

static void *work(void *start) {
    struct share *share = start;
    share->task(share->argument, share->worker, share->workers);
    return 0;
}

/* The callback: a thread for each worker but the first. */
static void parallel(void *context, netloom_task *task, const void *argument, uint64_t workers) {
    struct share shares[16];
    pthread_t threads[16];
    for (uint64_t worker = 0; worker < workers; worker++) {
        shares[worker] = (struct share){task, argument, worker, workers};
        if (worker) pthread_create(&threads[worker], 0, work, &shares[worker]);
    }
    work(&shares[0]);
    for (uint64_t worker = 1; worker < workers; worker++) pthread_join(threads[worker], 0);
    ++*(int *)context;
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    int parallel_runs = 0;
    const void *inputs[] = {INPUTS};
    void *outputs[] = {OUTPUTS};
    size_t bytes[] = {BYTES};
    netloom_call call = {0};
    call.inputs = inputs;
    call.outputs = outputs;
    call.states = read_file("NAME.states", UPPER_STATE_BYTES);
    call.workers = strtoull(arguments[1], 0, 10);
    call.arena = block(UPPER_BIG_ARENA_BYTES(call.workers));
    call.parallel = parallel;
    call.context = &parallel_runs;
    if (NAME_check() != NETLOOM_OK) return 3;
    for (int run = 0; run < 3; run++) {
        int32_t status = NAME_ENTRY(&call);
        if (status != NETLOOM_OK) { fprintf(stderr, "status %d\n", (int)status); return 4; }
    }
    /* The callback was called, unless there is one worker or nothing to share. */
    if (parallel_runs != (call.workers > 1 ? 3 : 0)) { fprintf(stderr, "%d parallel runs\n", parallel_runs); return 5; }
    netloom_call wrong = call;
    wrong.arena = (char *)call.arena + 8;
    if (NAME_ENTRY(&wrong) != NETLOOM_BLOCK) return 6;
    wrong.arena = 0;
    if (NAME_ENTRY(&wrong) != NETLOOM_BLOCK) return 7;
    wrong = call;
    wrong.states = 0;
    if (NAME_ENTRY(&wrong) != NETLOOM_BLOCK) return 8;
    for (size_t output = 0; output < sizeof bytes / sizeof *bytes; output++) {
        char path[32];
        snprintf(path, sizeof path, "output%zu", output);
        write_file(path, outputs[output], bytes[output]);
    }
    write_file("after.states", call.states, UPPER_STATE_BYTES);
    return 0;
}
"#;

/// Runs a command in a folder; what is missing is said.
fn run(folder: &Path, command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).current_dir(folder).output().unwrap_or_else(|reason| {
        panic!("`{command}` cannot be run ({reason}); this test links a C program: install a C compiler and binutils (Debian: gcc, binutils)")
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command} {arguments:?}: {}\n{text}",
        output.status
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes the C program that runs an entry, and the files of its inputs.
fn write_main(folder: &Path, name: &str, entry: &str, inputs: &[&Tensor], outputs: &[Tensor]) {
    for (place, input) in inputs.iter().enumerate() {
        std::fs::write(folder.join(format!("input{place}")), input.bytes()).expect("a file");
    }
    let list = |texts: Vec<String>| texts.join(", ");
    let sizes: Vec<usize> = outputs.iter().map(|output| output.bytes().len()).collect();
    let read = |(place, input): (usize, &&Tensor)| format!("read_file(\"input{place}\", {})", input.bytes().len());
    let upper = name.to_uppercase();
    let source = MAIN
        .replace("NAME_ENTRY", &format!("{name}_{entry}"))
        .replace("UPPER_BIG", &format!("{upper}_{}", entry.to_uppercase()))
        .replace("UPPER", &upper)
        .replace("NAME", name)
        .replace("INPUTS", &list(inputs.iter().enumerate().map(read).collect()))
        .replace(
            "OUTPUTS",
            &list(sizes.iter().map(|size| format!("block({size})")).collect()),
        )
        .replace(
            "BYTES}",
            &format!("{}}}", list(sizes.iter().map(usize::to_string).collect())),
        );
    std::fs::write(folder.join("main.c"), source).expect("a file");
}

/// Compiles a program whose states lie in a file.
fn write(program: &Program, session: &Session, cpu: &Cpu, name: &str, folder: &Path) {
    let entries = exports(program);
    let artefact = artefact(name, program, &entries, cpu, session);
    ahead::write(&artefact, folder).expect("it is written");
}

/// Every entry under its own name.
fn exports(program: &Program) -> Vec<Export> {
    let one = |entry: &Entry| Export {
        name: entry.name.clone(),
        variants: vec![(None, entry.name.clone())],
    };
    program.entries.iter().map(one).collect()
}

/// An object with its states in a file; tests change what they are about.
fn artefact<'a>(
    name: &'a str,
    program: &'a Program,
    entries: &'a [Export],
    cpu: &'a Cpu,
    session: &'a Session,
) -> Artefact<'a> {
    Artefact {
        name,
        program,
        entries,
        cpus: std::slice::from_ref(cpu),
        session,
        states: States::File,
        emit: Emit::Obj,
        linker: None,
        rust: false,
    }
}

/// Compiled code may call what every C library and libgcc has for freestanding code, and nothing else.
fn needs_no_more_than_libc(folder: &Path, file: &str) {
    let symbols = run(folder, "nm", &["--undefined-only", "--format=posix", file]);
    let undefined = symbols.lines().filter(|line| !line.ends_with(':'));
    let undefined = undefined.filter_map(|line| line.split_whitespace().next());
    // Shared libraries have these of the C compiler's startup files.
    let weak = [
        "_ITM_deregisterTMCloneTable",
        "_ITM_registerTMCloneTable",
        "__cxa_finalize",
        "__gmon_start__",
    ];
    let known = ["memcpy", "memmove", "memset", "fma", "fmaf", "_GLOBAL_OFFSET_TABLE_"];
    let strange: Vec<&str> = (undefined)
        .map(|name| name.split('@').next().unwrap_or(name))
        .filter(|name| !(known.contains(name) || file.ends_with(".so") && weak.contains(name)))
        .collect();
    assert!(strange.is_empty(), "{file} needs {strange:?}");
}

/// A network of the zoo, with one of its entries.
fn network(name: &str, entry: &str, batch: usize) -> (&'static zoo::Net, Program) {
    let net = zoo::find(name).expect("a network");
    let whole = program(
        &(net.layers)(),
        &net.input(batch),
        &net.target(batch),
        &(net.training)(),
    );
    (net, whole.expect("a valid network").only(entry))
}

/// LeNet, and a session of it.
fn lenet(entry: &str, batch: usize) -> (&'static zoo::Net, Program, Session) {
    let (net, program) = network("lenet", entry, batch);
    let session = session(&program, &Cpu::native(), 1);
    (net, program, session)
}

/// A folder with a network compiled for a CPU and the C program that runs it three times; a session that has done so here, and its results.
fn compiled(name: &str, entry: &str, here: &Cpu, cpu: &Cpu) -> (TempDir, Session, Vec<Tensor>) {
    const BATCH: usize = 8;
    let (net, program) = network(name, entry, BATCH);
    let mut session = session(&program, here, 1);
    let folder = tempfile::tempdir().expect("a folder");
    write(&program, &session, cpu, name, folder.path());
    let x = sample::tensor(&net.input(BATCH), &mut 1);
    let y = sample::tensor(&net.target(BATCH), &mut 2);
    let inputs: Vec<&Tensor> = if entry == TRAIN_STEP { vec![&x, &y] } else { vec![&x] };
    let mut outputs = session.results(entry).expect("an entry");
    write_main(folder.path(), name, entry, &inputs, &outputs);
    for _ in 0..3 {
        session.run(entry, &inputs, &mut outputs).expect("the tensors fit");
    }
    (folder, session, outputs)
}

/// The results that the C program has written are these.
fn same_results(folder: &Path, expected: &[Tensor], how: &str) {
    for (place, output) in expected.iter().enumerate() {
        let bytes = std::fs::read(folder.join(format!("output{place}"))).expect("the program wrote it");
        let found = Tensor::from_bytes(output.dtype(), output.shape(), bytes);
        assert!(found == *output, "{how}: result {place} is {found:?}, here {output:?}");
    }
}

fn check(net: &str, entry: &str) {
    let cpu = Cpu {
        share_from: 0,
        ..Cpu::native()
    };
    let (folder, session, outputs) = compiled(net, entry, &cpu, &cpu);
    let folder = folder.path();
    let object = format!("{net}.o");
    needs_no_more_than_libc(folder, &object);
    let flags = [
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        "main",
        "main.c",
        &object,
        "-lpthread",
        "-lm",
    ];
    run(folder, "cc", &flags);
    let manifest = Manifest::load(folder).expect("it was written");
    let header = std::fs::read_to_string(folder.join(&manifest.header)).expect("the header was written");
    for row in &manifest.states {
        let name = format!("{net}_STATE_{}", row.name.replace('.', "_")).to_uppercase();
        let line = format!("#define {name} {} ", row.offset);
        assert!(header.contains(&line), "`{line}` is missing");
    }
    for workers in ["1", "2"] {
        run(folder, "./main", &[workers]);
        same_results(folder, &outputs, &format!("with {workers} workers"));
        let after = std::fs::read(folder.join("after.states")).expect("the program wrote it");
        for row in &manifest.states {
            let value = session.state(&row.name).expect("a state");
            let slot = session.executable().states.iter().find(|slot| slot.name == row.name);
            let value = slot.expect("a state").ty.arranged(&value);
            assert!(
                after[row.offset..][..row.bytes] == *value,
                "state `{}` with {workers} workers",
                row.name
            );
        }
    }
}

#[test]
fn mlp_predicts() {
    check("mlp", PREDICT);
}

#[test]
fn mlp_learns() {
    check("mlp", TRAIN_STEP);
}

#[test]
fn lenet_predicts() {
    check("lenet", PREDICT);
}

#[test]
fn lenet_learns() {
    check("lenet", TRAIN_STEP);
}

#[test]
fn every_target_has_objects() {
    use object::{Architecture, BinaryFormat, Object, ObjectSymbol};
    let targets = [
        (
            "x86_64-unknown-linux-gnu",
            None,
            Architecture::X86_64,
            BinaryFormat::Elf,
        ),
        (
            "x86_64-unknown-linux-gnu",
            Some("x86-64-v4"),
            Architecture::X86_64,
            BinaryFormat::Elf,
        ),
        (
            "x86_64-unknown-linux-gnu",
            Some("x86-64-v4-amx"),
            Architecture::X86_64,
            BinaryFormat::Elf,
        ),
        (
            "aarch64-unknown-linux-gnu",
            None,
            Architecture::Aarch64,
            BinaryFormat::Elf,
        ),
        (
            "riscv64gc-unknown-linux-gnu",
            None,
            Architecture::Riscv64,
            BinaryFormat::Elf,
        ),
        (
            "x86_64-apple-darwin",
            Some("x86-64-v3"),
            Architecture::X86_64,
            BinaryFormat::MachO,
        ),
        ("aarch64-apple-darwin", None, Architecture::Aarch64, BinaryFormat::MachO),
        (
            "x86_64-pc-windows-msvc",
            Some("x86-64-v3"),
            Architecture::X86_64,
            BinaryFormat::Coff,
        ),
    ];
    for entry in [PREDICT, TRAIN_STEP] {
        let (net, program, session) = lenet(entry, 4);
        for (triple, name, architecture, format) in targets {
            let cpu = Cpu::for_triple(triple, name).expect("a known target");
            let folder = tempfile::tempdir().expect("a folder");
            write(&program, &session, &cpu, net.name, folder.path());
            let bytes = std::fs::read(folder.path().join("lenet.o")).expect("the object was written");
            let file = object::File::parse(&*bytes).unwrap_or_else(|reason| panic!("{triple}: {reason}"));
            assert_eq!((file.architecture(), file.format()), (architecture, format), "{triple}");
            // Mach-O puts an underscore before the names of C.
            let plain = |name: &str| {
                name.strip_prefix('_')
                    .filter(|_| format == BinaryFormat::MachO)
                    .unwrap_or(name)
                    .to_owned()
            };
            let exported: Vec<String> = (file.symbols())
                .filter(|symbol| symbol.is_global() && !symbol.is_undefined())
                .map(|symbol| plain(symbol.name().expect("a name")))
                .collect();
            for wanted in [format!("lenet_{entry}"), "lenet_check".to_owned()] {
                assert!(
                    exported.contains(&wanted),
                    "{triple}: {wanted} is not among {exported:?}"
                );
            }
            let needed: Vec<String> = (file.symbols())
                .filter(|symbol| symbol.is_undefined())
                .map(|symbol| plain(symbol.name().expect("a name")))
                .collect();
            let known = [
                "",
                "memcpy",
                "memmove",
                "memset",
                "fma",
                "fmaf",
                "_GLOBAL_OFFSET_TABLE_",
            ];
            let strange: Vec<&String> = needed.iter().filter(|name| !known.contains(&name.as_str())).collect();
            assert!(strange.is_empty(), "{triple}: the object needs {strange:?}");
            // Only an x86-64 without the instruction calls a function for it.
            let calls = needed.iter().any(|name| name.starts_with("fma"));
            assert!(
                !calls || architecture == Architecture::X86_64 && name.is_none(),
                "{triple}: {needed:?}"
            );
        }
    }
}

/// Runs LeNet compiled for another machine in an emulator, and compares with what this machine gives, bit for bit.
fn check_emulated(triple: &str, cpu: Option<&str>, emulator: &[&str], compiler: &str) {
    let missing: Vec<&str> = [emulator[emulator.len() - 1], compiler]
        .into_iter()
        .filter(|command| Command::new(command).arg("--version").output().is_err())
        .collect();
    if !missing.is_empty() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{triple} cannot be tested without {missing:?}"
        );
        eprintln!("skipped: {triple} is not run, as {} cannot be", missing.join(" and "));
        return;
    }
    for entry in [PREDICT, TRAIN_STEP] {
        let cpu = Cpu::for_triple(triple, cpu).expect("a known target");
        let (folder, _, outputs) = compiled("lenet", entry, &Cpu::native(), &cpu);
        // Windows looks for programs that end so, and nobody else minds.
        let flags = [
            "-static",
            "-O1",
            "-o",
            "main.exe",
            "main.c",
            "lenet.o",
            "-lpthread",
            "-lm",
        ];
        run(folder.path(), compiler, &flags);
        run(
            folder.path(),
            emulator[0],
            &[&emulator[1..], &["./main.exe", "2"]].concat(),
        );
        same_results(folder.path(), &outputs, triple);
    }
}

#[test]
fn aarch64_gives_the_same_bits() {
    check_emulated(
        "aarch64-unknown-linux-gnu",
        None,
        &["qemu-aarch64"],
        "aarch64-linux-gnu-gcc",
    );
}

#[test]
fn riscv64_gives_the_same_bits() {
    check_emulated(
        "riscv64gc-unknown-linux-gnu",
        None,
        &["qemu-riscv64"],
        "riscv64-linux-gnu-gcc",
    );
}

/// The assembled bodies use xmm6 to xmm15, which on Windows are the caller's: MinGW's code around them shows that they come back.
#[test]
#[cfg(target_arch = "x86_64")]
fn windows_gives_the_same_bits() {
    let prefix = format!("WINEPREFIX={}/wine", env!("CARGO_TARGET_TMPDIR"));
    let emulator = ["env", "WINEDEBUG=-all", &prefix, "wine"];
    check_emulated(
        "x86_64-pc-windows-gnu",
        Some("x86-64-v3"),
        &emulator,
        "x86_64-w64-mingw32-gcc",
    );
}

/// Files of a folder and those below it, by path.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for file in std::fs::read_dir(next).expect("a folder") {
            let path = file.expect("a file").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("it lies below").display().to_string();
                found.insert(name, std::fs::read(path).expect("a file"));
            }
        }
    }
    found
}

/// Builds the example as its first lines say, and runs it; gives what it prints.
fn run_example(folder: &Path) -> String {
    let source = std::fs::read_to_string(folder.join("example.c")).expect("the example was written");
    let line = source
        .lines()
        .nth(1)
        .expect("a second line")
        .trim()
        .trim_end_matches(" */");
    let (compiler, flags) = line.split_once(' ').expect("a command");
    let strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
    let flags: Vec<&str> = strict.into_iter().chain(flags.split(' ')).collect();
    run(folder, compiler, &flags);
    run(folder, "./example", &[])
}

#[test]
fn every_form_of_code_gives_the_same() {
    let (net, program, mut session) = lenet(PREDICT, 3);
    let x = sample::tensor(&net.input(3), &mut 1);
    let mut expected = session.results(PREDICT).expect("an entry");
    session.run(PREDICT, &[&x], &mut expected).expect("the tensor fits");
    let (entries, cpu) = (exports(&program), Cpu::native());
    let mut printed = Vec::new();
    for emit in [Emit::Obj, Emit::Staticlib, Emit::Sharedlib] {
        for states in [States::File, States::Within] {
            let artefact = Artefact {
                emit,
                states,
                rust: emit == Emit::Staticlib,
                ..artefact(net.name, &program, &entries, &cpu, &session)
            };
            let [folder, again] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
            ahead::write(&artefact, folder.path()).expect("it is written");
            ahead::write(&artefact, again.path()).expect("it is written again");
            let (first, second) = (files(folder.path()), files(again.path()));
            for (name, bytes) in &first {
                assert!(
                    second.get(name) == Some(bytes),
                    "{name} differs when it is written again"
                );
            }
            assert_eq!(first.contains_key("lenet.states"), states == States::File);
            let mut running = Running::open(folder.path(), 2, 0).expect("it opens");
            needs_no_more_than_libc(folder.path(), &running.manifest.library);
            let found = running.call(PREDICT, &[("x".to_owned(), x.clone())]).expect("it runs");
            assert_eq!(
                found,
                [("scores".to_owned(), expected[0].clone())],
                "{emit:?} {states:?}"
            );
            printed.push(run_example(folder.path()));
            if emit == Emit::Staticlib {
                check_crate(folder.path(), &x, &expected[0]);
            }
        }
    }
    assert!(printed[0].starts_with("lenet_predict.scores "), "{}", printed[0]);
    assert!(printed.iter().all(|text| *text == printed[0]), "{printed:?}");
}

/// Uses the crate from a program of its own.
fn check_crate(folder: &Path, x: &Tensor, expected: &Tensor) {
    std::fs::write(folder.join("x"), x.bytes()).expect("a file");
    let crate_folder = folder.join("rust");
    std::fs::create_dir_all(crate_folder.join("src/bin")).expect("a folder");
    let program = "fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bytes = std::fs::read(\"../x\")?;
    let x: Vec<f32> = bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
    let mut scores = [0.0; 30];
    let mut model = lenet::Model::new()?;
    model.predict(x.as_slice().try_into()?, &mut scores)?;
    let bytes: Vec<u8> = scores.iter().flat_map(|score: &f32| score.to_le_bytes()).collect();
    std::fs::write(\"../scores\", bytes)?;
    Ok(())
}
";
    std::fs::write(crate_folder.join("src/bin/use.rs"), program).expect("a file");
    let target = crate_folder.join("target").display().to_string();
    run(
        &crate_folder,
        "cargo",
        &["run", "--quiet", "--offline", "--target-dir", &target],
    );
    let scores = std::fs::read(folder.join("scores")).expect("the program wrote it");
    assert!(scores == expected.bytes(), "the crate gives other scores");
}

#[test]
fn one_artefact_serves_several_batches_and_says_when_it_cannot() {
    let net = zoo::find("lenet").expect("a network");
    let predictor = |batch: usize| predictor(&(net.layers)(), &net.input(batch)).expect("a valid network");
    let programs = [1, 16].map(|batch| (batch as u64, predictor(batch))).to_vec();
    let (whole, entries) = ahead::merged(programs, &[PREDICT]).expect("the states agree");
    let program = whole.prepared();
    let cpu = Cpu::native();
    let mut session = session(&program, &cpu, 1);
    session.prepare().expect("it runs");
    let names: Vec<&str> = whole.entries.iter().map(|entry| entry.name.as_str()).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let program = program.with_entries(&names);
    ahead::write(&artefact(net.name, &program, &entries, &cpu, &session), folder.path()).expect("it is written");
    let mut running = Running::open(folder.path(), 1, 0).expect("it opens");
    for batch in [1, 16] {
        let x = sample::tensor(&net.input(batch), &mut 1);
        let expected = session
            .call(&format!("predict_b{batch}"), &[("x", &x)])
            .expect("it runs");
        let found = running
            .call(PREDICT, &[("x".to_owned(), x)])
            .expect("there is code for the batch");
        assert_eq!(found, expected);
    }
    let x = sample::tensor(&net.input(2), &mut 1);
    let refused = running
        .call(PREDICT, &[("x".to_owned(), x)])
        .expect_err("there is no code for two");
    assert_eq!(
        refused.to_string(),
        "`predict` takes `x`: f32[1,1,28,28], or `x`: f32[16,1,28,28]; found `x`: f32[2,1,28,28]"
    );
    assert_eq!(run_example(folder.path()).lines().count(), 2);
    let source = std::fs::read_to_string(folder.path().join("example.c")).expect("the example was written");
    let wrong = source.replace("lenet_predict_run(16,", "lenet_predict_run(2,");
    std::fs::write(folder.path().join("wrong.c"), wrong).expect("a file");
    run(folder.path(), "cc", &["-o", "wrong", "wrong.c", "lenet.o", "-lm"]);
    let status = Command::new("./wrong")
        .current_dir(folder.path())
        .status()
        .expect("it runs");
    assert_eq!(status.code(), Some(3), "NETLOOM_BATCH");
}

#[test]
fn a_training_step_starts_from_a_seed() {
    let (net, program, mut session) = lenet(TRAIN_STEP, 4);
    let (entries, cpu) = (exports(&program), Cpu::native());
    let artefact = Artefact {
        states: States::Init,
        emit: Emit::Sharedlib,
        ..artefact(net.name, &program, &entries, &cpu, &session)
    };
    let folder = tempfile::tempdir().expect("a folder");
    ahead::write(&artefact, folder.path()).expect("it is written");
    let mut running = Running::open(folder.path(), 2, 7).expect("it opens");
    session.reset(7).expect("it starts again");
    let same_states = |running: &Running, session: &Session| {
        for row in &running.manifest.states {
            let value = session.state(&row.name).expect("a state");
            assert!(
                running.states()[row.offset..][..row.bytes] == *value.bytes(),
                "state `{}`",
                row.name
            );
        }
    };
    same_states(&running, &session);
    let arguments = [("x", net.input(4)), ("y", net.target(4))].map(|(name, ty)| (name, sample::tensor(&ty, &mut 1)));
    let borrowed: Vec<(&str, &Tensor)> = arguments.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let owned: Vec<(String, Tensor)> = borrowed
        .iter()
        .map(|(name, tensor)| (name.to_string(), (*tensor).clone()))
        .collect();
    for _ in 0..3 {
        let expected = session.call(TRAIN_STEP, &borrowed).expect("it runs");
        assert_eq!(running.call(TRAIN_STEP, &owned).expect("it runs"), expected);
    }
    same_states(&running, &session);
    assert!(run_example(folder.path()).starts_with("lenet_train_step.loss "));
}

#[test]
fn code_is_small() {
    use object::{Object, ObjectSection, SectionKind};
    for (entry, most) in [(PREDICT, 64 << 10), (TRAIN_STEP, 256 << 10)] {
        for cpu in support::cpus() {
            let (net, program, session) = lenet(entry, 1);
            let folder = tempfile::tempdir().expect("a folder");
            let entries = exports(&program);
            let states = if entry == PREDICT { States::File } else { States::Init };
            let artefact = Artefact {
                states,
                ..artefact(net.name, &program, &entries, &cpu, &session)
            };
            ahead::write(&artefact, folder.path()).expect("it is written");
            let bytes = std::fs::read(folder.path().join("lenet.o")).expect("the object was written");
            let file = object::File::parse(&*bytes).expect("an object");
            let code = file
                .sections()
                .filter(|section| section.kind() != SectionKind::Metadata);
            let size: u64 = code.map(|section| section.size()).sum();
            eprintln!("{entry} for {}: {size} bytes", cpu.name());
            assert!(size <= most, "{entry} for {} takes {size} bytes", cpu.name());
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_cpu_that_lacks_instructions_gets_a_status() {
    let emulator = "qemu-x86_64";
    if Command::new(emulator).arg("--version").output().is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "another CPU cannot be tested without {emulator}"
        );
        eprintln!("skipped: no other CPU is tried, as {emulator} cannot be run");
        return;
    }
    let (net, program, session) = lenet(PREDICT, 1);
    for (name, emulated, expected) in [
        ("x86-64-v2", "Nehalem", Some(0)),
        ("x86-64-v3", "Nehalem", Some(1)),
        ("x86-64-v4", "Haswell", Some(1)),
        ("x86-64-v4-amx", "Haswell", Some(1)),
    ] {
        let cpu = Cpu::named(name).expect("a known name");
        let folder = tempfile::tempdir().expect("a folder");
        write(&program, &session, &cpu, net.name, folder.path());
        let source = std::fs::read_to_string(folder.path().join("example.c")).expect("the example was written");
        // Without asking first, the entry itself must say it.
        let source = source.replace("lenet_check() != NETLOOM_OK", "0");
        std::fs::write(folder.path().join("example.c"), source).expect("a file");
        run(
            folder.path(),
            "cc",
            &["-o", "example", "-static", "example.c", "lenet.o", "-lm"],
        );
        let output = Command::new(emulator)
            .args(["-cpu", emulated, "./example"])
            .current_dir(folder.path())
            .output();
        let output = output.expect("the emulator runs");
        assert_eq!(output.status.code(), expected, "{name} on {emulated}: {output:?}");
    }
}

/// One object for all levels of x86-64: on each CPU the best that it has is run, and the results are those of that level's own object.
#[test]
#[cfg(target_arch = "x86_64")]
fn one_object_serves_all_levels() {
    let emulator = "qemu-x86_64";
    if Command::new(emulator).arg("--version").output().is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "another CPU cannot be tested without {emulator}"
        );
        eprintln!("skipped: no other CPU is tried, as {emulator} cannot be run");
        return;
    }
    let (net, program, session) = lenet(PREDICT, 1);
    let entries = exports(&program);
    let levels = ["x86-64-v2", "x86-64-v4", "x86-64-v3", "x86-64-v4-amx"];
    let levels = levels.map(|name| Cpu::named(name).expect("a known name"));
    // What the example prints with the code for some levels, and the number of the level that it has chosen.
    let run_on = |cpus: &[Cpu], emulated: Option<&str>| {
        let folder = tempfile::tempdir().expect("a folder");
        let artefact = Artefact {
            cpus,
            ..artefact(net.name, &program, &entries, &cpus[0], &session)
        };
        ahead::write(&artefact, folder.path()).expect("it is written");
        needs_no_more_than_libc(folder.path(), "lenet.o");
        let source = std::fs::read_to_string(folder.path().join("example.c")).expect("the example was written");
        let told = "printf(\"level %d\\n\", (int)((uint64_t *)arena)[1]);\n    free(arena);";
        std::fs::write(folder.path().join("example.c"), source.replace("free(arena);", told)).expect("a file");
        run(
            folder.path(),
            "cc",
            &["-o", "example", "-static", "example.c", "lenet.o", "-lm"],
        );
        match emulated {
            Some(emulated) => run(folder.path(), emulator, &["-cpu", emulated, "./example"]),
            None => run(folder.path(), "./example", &[]),
        }
    };
    let level = |number: usize, text: String| {
        let (scores, chosen) = text.split_once("level ").expect("the program tells");
        assert_eq!(chosen.trim(), number.to_string(), "{text}");
        scores.to_owned()
    };
    let own = |cpu: &Cpu, emulated| level(1, run_on(std::slice::from_ref(cpu), emulated));
    let [least, wide, middle, most] = &levels;
    assert_eq!(level(4, run_on(&levels, Some("Nehalem"))), own(least, Some("Nehalem")));
    assert_eq!(level(3, run_on(&levels, Some("Haswell"))), own(middle, Some("Haswell")));
    match [most, wide].map(|cpu| cpu.check_host().is_ok()) {
        [true, _] => assert_eq!(level(1, run_on(&levels, None)), own(most, None)),
        [_, true] => assert_eq!(level(2, run_on(&levels, None)), own(wide, None)),
        _ => {}
    }
}

/// A nest by hand for a matrix unit: the object itself asks Linux for it.
#[test]
fn objects_ask_for_the_matrix_unit() {
    let cpu = Cpu::named("x86-64-v4-amx").ok();
    let Some(cpu) = cpu.filter(|cpu| cpu.check_host().is_ok()) else {
        eprintln!("skipped: no matrix unit is asked for, as this machine has no AMX");
        return;
    };
    let source = include_str!("../ir/tests/golden/text/pieces.txt");
    let (source, _) = source.split_once("----").expect("a part");
    let program = text::parse_program("pieces", source).unwrap_or_else(|problems| panic!("{problems}"));
    let mut session = session(&program, &cpu, 1);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write(&program, &session, &cpu, "pieces", folder);
    needs_no_more_than_libc(folder, "pieces.o");
    // In a process that nobody else has asked for.
    run_example(folder);
    let a = sample::tensor(&Type::new(DType::BF16, [3, 16, 64]), &mut 1);
    let a = Tensor::from_bytes(DType::U16, [3, 16, 64], a.bytes().to_vec());
    let b = sample::tensor(&Type::new(DType::BF16, [3, 2, 16, 16, 2]), &mut 2);
    let b = Tensor::from_bytes(DType::U32, [3, 2, 16, 16], b.bytes().to_vec());
    let expected = session.call("main", &[("a", &a), ("b", &b)]).expect("it runs");
    let mut running = Running::open(folder, 1, 0).expect("it opens");
    let arguments = [("a", a), ("b", b)].map(|(name, tensor)| (name.to_owned(), tensor));
    assert_eq!(running.call("main", &arguments).expect("it runs"), expected);
}

/// A folder with an artefact for Vulkan of a program of one entry, and the host built.
#[cfg(feature = "vulkan")]
fn for_vulkan(name: &str, program: &Program, session: &Session, device: &gpu::device::Device) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let (entries, cpu) = (exports(program), Cpu::native());
    let artefact = artefact(name, program, &entries, &cpu, session);
    let files = ahead::vulkan::write(&artefact, device, folder.path());
    assert!(files.expect("it is written").len() >= 3);
    let warn = ["-O1", "-Wall", "-Wextra", "-Werror"];
    run(
        folder.path(),
        "cc",
        &[&warn[..], &["-o", "host", "vulkan_host.c", "-lvulkan"]].concat(),
    );
    folder
}

/// The C host and `netloom run` give what a session on the same device gives, to the bit, and the states after it: as the device is, and as one whose
/// workgroups work together.
#[cfg(feature = "vulkan")]
fn plays(name: &str, program: &Program, session: &Session, inputs: &[(String, Tensor)]) {
    for device in [support::vulkan(), support::vulkan_with_workgroups()] {
        let Some(device) = device else { return };
        plays_on(&device, name, program, session, inputs);
    }
}

#[cfg(feature = "vulkan")]
fn plays_on(
    device: &Arc<gpu::device::Device>,
    name: &str,
    program: &Program,
    session: &Session,
    inputs: &[(String, Tensor)],
) {
    let entry = &program.entries[0].name;
    let folder = for_vulkan(name, program, session, device);
    let executable = netloom::compile(program, Arc::clone(device)).expect("it compiles");
    let mut here = Session::new(executable.into(), 1, 0).expect("memory");
    for (name, value) in session.states() {
        here.set_state(&name, &value).expect("the same states");
    }
    for (name, input) in inputs {
        std::fs::write(folder.path().join(format!("{name}.in")), input.bytes()).expect("a file");
    }
    let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, input)| (name.as_str(), input)).collect();
    let expected = here.call(entry, &borrowed).expect("it runs");
    run(folder.path(), "./host", &[".", entry, "."]);
    for (name, output) in &expected {
        let found = std::fs::read(folder.path().join(format!("{name}.out"))).expect("the host wrote it");
        assert_eq!(found, output.bytes(), "{entry}: {name}");
    }
    let mut playing = ahead::vulkan::Playing::open(folder.path(), device).expect("it opens");
    assert_eq!(playing.call(entry, inputs).expect("it runs"), expected);
    let after = playing.states().expect("the device is there");
    if !after.is_empty() {
        assert!(std::fs::read(folder.path().join("states.out")).expect("the host wrote it") == after);
    }
    for slot in &here.executable().states {
        let value = here.state(&slot.name).expect("a state");
        assert_eq!(
            &after[slot.offset..][..slot.ty.len_bytes()],
            value.bytes(),
            "{entry}: {}",
            slot.name
        );
    }
    assert_eq!(device.messages(), [""; 0]);
}

#[test]
#[cfg(feature = "vulkan")]
fn artefacts_for_vulkan_give_the_same_bits() {
    for entry in [PREDICT, TRAIN_STEP] {
        let (net, program, session) = lenet(entry, 4);
        let x = ("x".to_owned(), sample::tensor(&net.input(4), &mut 1));
        let y = ("y".to_owned(), sample::tensor(&net.target(4), &mut 2));
        let inputs = if entry == TRAIN_STEP { vec![x, y] } else { vec![x] };
        plays(net.name, &program, &session, &inputs);
    }
}

/// A loop of known length, in it one that ends by a condition, after it a branch: what is counted and decided is the host's to do.
#[test]
#[cfg(feature = "vulkan")]
fn artefacts_for_vulkan_decide_as_sessions_do() {
    let b = Builder::new();
    let (x, limit) = (b.input("x", DType::F32, [3, 5]), b.input("limit", DType::F32, []));
    let (last, stacked) = b.scan(
        Steps {
            length: 3,
            carried: vec![b.scalar(DType::F32, 0.0).broadcast([5])],
            sliced: vec![x],
            constants: vec![limit],
            reverse: true,
        },
        |b, step| {
            let grown = b.while_(
                &[step.sliced[0], step.carried[0]],
                &[step.constants[0]],
                |_, carried, constants| (carried[0] * carried[0]).sum_all().lt(constants[0]),
                |_, carried, _| vec![carried[0] * 1.5, carried[1] + 1.0],
            );
            (vec![grown[1]], vec![grown[0]])
        },
    );
    let chosen = b.if_(
        last[0].sum_all().gt(limit),
        &[stacked[0]],
        |_, values| vec![values[0] * 2.0],
        |_, values| vec![values[0] - 1.0],
    );
    let graph = b
        .finish([("count", last[0]), ("grown", stacked[0]), ("chosen", chosen[0])])
        .expect("a graph");
    let program = Program {
        states: Vec::new(),
        entries: vec![Entry {
            name: "count".to_owned(),
            graph,
        }],
    };
    let session = session(&program, &Cpu::native(), 1);
    let x = sample::tensor(&Type::new(DType::F32, [3, 5]), &mut 1);
    // Not once and either side of the branch; a few times; many times.
    for limit in [-100.0, 0.0, 10.0, 1e6] {
        let limit = Tensor::from_f32([], &[limit]);
        let inputs = [("x".to_owned(), x.clone()), ("limit".to_owned(), limit)];
        plays("count", &program, &session, &inputs);
    }
}

/// A softmax along rows by workgroups: memory that they share and, where the device has them, shuffles.
#[cfg(feature = "vulkan")]
fn rows() -> (Program, Session) {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [6, 1000]);
    let program = Program::pure("rows", b.finish([("y", x.softmax(1))]).expect("a graph"));
    let session = session(&program, &Cpu::native(), 1);
    (program, session)
}

#[test]
#[cfg(feature = "vulkan")]
fn artefacts_for_vulkan_whose_workgroups_share_memory_give_the_same_bits() {
    let (program, session) = rows();
    let x = sample::tensor(&Type::new(DType::F32, [6, 1000]), &mut 1);
    plays("rows", &program, &session, &[("x".to_owned(), x)]);
}

/// What a device must have is in the plan, under Vulkan's names; a device that lacks it is refused, and what it lacks is said.
#[test]
#[cfg(feature = "vulkan")]
fn what_an_artefact_for_vulkan_needs_is_listed_and_asked_for() {
    let Some(device) = support::vulkan_with_workgroups() else {
        return;
    };
    let (program, session) = rows();
    let folder = for_vulkan("rows", &program, &session, &device);
    let path = folder.path().join(ahead::vulkan::PLAN);
    let plan = std::fs::read_to_string(&path).expect("the plan was written");
    let needs = |name: &str| {
        let mut lines = plan.lines();
        lines.find_map(|line| {
            line.strip_prefix("need ")?
                .strip_prefix(name)?
                .strip_prefix(' ')?
                .parse()
                .ok()
        })
    };
    // Two folds by 128 invocations a row, each through an array of `f32`.
    let listed = [
        ("VK_SUBGROUP_FEATURE_SHUFFLE_BIT", Some(1)),
        ("subgroupSize", Some(8)),
        ("maxComputeWorkGroupInvocations", Some(128)),
        ("maxComputeWorkGroupSize[0]", Some(128)),
        ("maxComputeSharedMemorySize", Some(1024)),
        ("maxComputeWorkGroupCount[0]", Some(6)),
        ("maxPerStageDescriptorStorageBuffers", Some(2)),
        ("maxPushConstantsSize", Some(8)),
        ("maxStorageBufferRange", Some(24000)),
        ("shaderFloat16", None),
    ];
    assert_eq!(listed.map(|(name, _)| (name, needs(name))), listed, "{plan}");

    let x = sample::tensor(&Type::new(DType::F32, [6, 1000]), &mut 1);
    std::fs::write(folder.path().join("x.in"), x.bytes()).expect("a file");
    let host = || {
        let mut host = Command::new("./host");
        let output = host.args([".", "rows", "."]).current_dir(folder.path()).output();
        let output = output.expect("the host runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(host().0, Some(0));
    let less: gpu::device::Pretend = |traits| (traits.shared_bytes, traits.shuffles) = (512, false);
    let options = gpu::device::Options {
        pretend: Some(less),
        ..gpu::device::Options::default()
    };
    let lesser = gpu::device::Device::open(&options).expect("it was opened before");
    let open = |device| ahead::vulkan::Playing::open(folder.path(), device).err();
    let refused = open(&lesser).expect("the device lacks something").to_string();
    let lacks = "this device lacks VK_SUBGROUP_FEATURE_SHUFFLE_BIT; maxComputeSharedMemorySize of 1024, it has 512";
    assert!(refused.contains(lacks), "{refused}");
    assert!(open(&device).is_none());

    let (shared, unknown) = ("need maxComputeSharedMemorySize 1024", "need nothing 1");
    std::fs::write(
        &path,
        plan.replace(shared, "need maxComputeSharedMemorySize 4000000000"),
    )
    .expect("a file");
    let (code, said) = host();
    assert_eq!(code, Some(1));
    assert!(
        said.contains("lacks maxComputeSharedMemorySize: the plan needs 4000000000, it has ")
            && said.contains("error: no device has what the plan needs"),
        "{said}"
    );
    std::fs::write(&path, plan.replace(shared, unknown)).expect("a file");
    let (code, said) = host();
    assert_eq!(code, Some(1));
    assert!(
        said.contains("error: the plan needs what this host does not know: nothing"),
        "{said}"
    );
    let refused = open(&device).expect("there is no such need").to_string();
    assert!(
        refused.contains("this netloom knows no feature or limit `nothing`"),
        "{refused}"
    );
}

/// What is no plan, or one that was tampered with, is said, with the line; and so is an entry that is not there.
#[test]
#[cfg(feature = "vulkan")]
fn broken_artefacts_for_vulkan_are_refused() {
    let Some(device) = support::vulkan() else { return };
    let (net, program, session) = lenet(PREDICT, 1);
    let folder = for_vulkan(net.name, &program, &session, &device);
    let open = || ahead::vulkan::Playing::open(folder.path(), &device);
    let refused = open().expect("it opens").call("nothing", &[]);
    assert_eq!(
        refused.expect_err("there is none").to_string(),
        "there is no entry `nothing`; the artefact has predict"
    );
    let host = |entry: &str| {
        let mut host = Command::new("./host");
        let output = host.args([".", entry, "."]).current_dir(folder.path()).output();
        let output = output.expect("the host runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let x = sample::tensor(&net.input(1), &mut 1);
    std::fs::write(folder.path().join("x.in"), x.bytes()).expect("a file");
    assert!(host("nothing").contains("there is no such entry: nothing"));
    let path = folder.path().join(ahead::vulkan::PLAN);
    let whole = std::fs::read_to_string(&path).expect("the plan was written");
    let first = whole
        .lines()
        .find(|line| line.starts_with("dispatch"))
        .expect("a command");
    let changed = |from: &str, to: &str| whole.replacen(from, to, 1);
    for (text, why) in [
        (String::new(), "it ends too early"),
        (changed("netloom-vulkan 3", "netloom-vulkan 1"), "it is of version 1"),
        (whole[..whole.len() / 2].to_owned(), "line "),
        (changed("area ", "area 9"), "their file"),
        (
            changed("kernels/0.spv", "../0.spv"),
            "`../0.spv` is outside of the folder",
        ),
        (changed("f32 ", "f31 "), "there is no such type"),
        (changed("dispatch 0 ", "dispatch 99999 "), "there is no such module"),
        (changed(first, &format!("{first} 1")), "`1` is too much"),
        (changed(first, "jump 1"), "there is no command `jump`"),
        (changed(first, "copy 0 0 4 9 0 4"), "there is no such area"),
        (changed(first, "copy 5 0 2 4 0 2"), "that is outside of its area"),
        (
            changed(first, "copy 4 0 4 4 2 4"),
            "bytes are copied to as many elsewhere",
        ),
        (changed(first, "write 4 2 8 7"), "a number has eight bytes"),
        (
            changed(first, &"while\n".repeat(100_000)),
            "too much stands within something else",
        ),
    ] {
        std::fs::write(&path, text).expect("a file");
        let refused = open().err().unwrap_or_else(|| panic!("{why}")).to_string();
        assert!(refused.contains(why), "{refused}: not {why}");
        assert!(refused.contains(ahead::vulkan::PLAN), "{refused}");
    }
    assert!(host(PREDICT).contains("too much stands within something else"));
}

#[test]
fn a_missing_compiler_is_named_and_nothing_is_written() {
    let (net, program, session) = lenet(PREDICT, 1);
    let (entries, cpu) = (exports(&program), Cpu::native());
    let artefact = Artefact {
        emit: Emit::Sharedlib,
        linker: Some("no-such-compiler"),
        ..artefact(net.name, &program, &entries, &cpu, &session)
    };
    let folder = tempfile::tempdir().expect("a folder");
    let refused = ahead::write(&artefact, folder.path()).expect_err("there is no such compiler");
    assert!(
        refused.to_string().starts_with("`no-such-compiler` cannot be run ("),
        "{refused}"
    );
    assert!(files(folder.path()).is_empty());
}

/// The block of states is its file, mapped: a training step changes what this process sees of it, and not the file.
#[test]
fn a_training_step_leaves_the_file_of_its_states() {
    let (net, program, _) = lenet(TRAIN_STEP, 4);
    let mut session = session(&program, &Cpu::native(), 1);
    let folder = tempfile::tempdir().expect("a folder");
    write(&program, &session, &Cpu::native(), net.name, folder.path());
    let before = std::fs::read(folder.path().join("lenet.states")).expect("the states were written");
    let mut running = Running::open(folder.path(), 2, 0).expect("it opens");
    assert!(running.states() == before);
    let arguments = [("x", net.input(4)), ("y", net.target(4))];
    let arguments = arguments.map(|(name, ty)| (name.to_owned(), sample::tensor(&ty, &mut 1)));
    let borrowed: Vec<(&str, &Tensor)> = arguments.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let expected = session.call(TRAIN_STEP, &borrowed).expect("it runs");
    assert_eq!(running.call(TRAIN_STEP, &arguments).expect("it runs"), expected);
    assert!(running.states() != before);
    let after = std::fs::read(folder.path().join("lenet.states")).expect("the states are there");
    assert!(after == before);
}

#[test]
fn manifests_of_another_version_are_refused() {
    let (net, program, session) = lenet(PREDICT, 1);
    let folder = tempfile::tempdir().expect("a folder");
    write(&program, &session, &Cpu::native(), net.name, folder.path());
    let path = folder.path().join("manifest.json");
    let text = std::fs::read_to_string(&path).expect("the manifest was written");
    let open = || {
        Running::open(folder.path(), 1, 0)
            .map(|_| ())
            .expect_err("it is refused")
            .to_string()
    };
    std::fs::write(&path, text.replace("\"abi\": 1", "\"abi\": 2")).expect("a file");
    assert!(open().contains("functions of version 2"), "{}", open());
    std::fs::write(&path, text.replace("\"name\": \"lenet\",", "")).expect("a file");
    assert!(open().contains("missing field `name`"), "{}", open());
    std::fs::write(&path, &text).expect("a file");
    std::fs::write(folder.path().join("lenet.states"), "short").expect("a file");
    assert!(open().contains("holds 5 bytes"), "{}", open());
}
