//! Objects compiled ahead of time: a C program that links one gives what this process gives, to the bit.
#![cfg(unix)]

mod support;

use std::path::Path;
use std::process::Command;

use netloom::ir::{Program, Tensor, sample};
use netloom::nn::training::{PREDICT, TRAIN_STEP, program};
use netloom::nn::zoo;
use netloom::{Cpu, Session, ahead};
use support::session;

/// Reads the states, arguments and results' sizes; runs the entry three times with the given number of threads; writes results and states.
const MAIN: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static netloom_call call;
static uint64_t workers;
static pthread_barrier_t all;

static void *work(void *number) {
    for (int run = 0; run < 3; run++) {
        NAME_ENTRY(&call, (uint64_t)(size_t)number, workers);
        /* One run at a time: none begins before all workers have left the last. */
        pthread_barrier_wait(&all);
    }
    return 0;
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    workers = strtoull(arguments[1], 0, 10);
    const void *inputs[] = {INPUTS};
    void *outputs[] = {OUTPUTS};
    size_t bytes[] = {BYTES};
    call.inputs = inputs;
    call.outputs = outputs;
    call.states = read_file("NAME.states", UPPER_STATE_BYTES);
    call.constants = NAME_constants;
    call.arena = block(UPPER_BIG_ARENA_BYTES(workers));
    pthread_t threads[16];
    pthread_barrier_init(&all, 0, workers);
    for (uint64_t number = 1; number < workers; number++) pthread_create(&threads[number], 0, work, (void *)(size_t)number);
    work(0);
    for (uint64_t number = 1; number < workers; number++) pthread_join(threads[number], 0);
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

fn check(net: &str, entry: &str) {
    const BATCH: usize = 8;
    let net = zoo::find(net).expect("a network");
    let whole = program(
        &(net.layers)(),
        &net.input(BATCH),
        &net.target(BATCH),
        &(net.training)(),
    )
    .expect("a valid network");
    let program: Program = whole.only(entry);
    let cpu = Cpu {
        share_from: 0,
        ..Cpu::native()
    };
    let mut session = session(&program, &cpu, 1);
    let x = sample::tensor(&net.input(BATCH), &mut 1);
    let y = sample::tensor(&net.target(BATCH), &mut 2);
    let inputs: Vec<&Tensor> = if entry == TRAIN_STEP { vec![&x, &y] } else { vec![&x] };

    let folder = tempfile::tempdir().expect("a folder");
    let files = ahead::write(&program, &session, &cpu, net.name, folder.path()).expect("it is written");
    let again = tempfile::tempdir().expect("a folder");
    for (file, same) in files
        .iter()
        .zip(ahead::write(&program, &session, &cpu, net.name, again.path()).expect("again"))
    {
        let read = |path: &Path| std::fs::read(path).expect("the file was written");
        assert!(
            read(file) == read(&same),
            "{} differs when it is written again",
            file.display()
        );
    }

    // Compiled code may call what every C library and libgcc has for freestanding code, and nothing else.
    let symbols = run(
        folder.path(),
        "nm",
        &["--undefined-only", "--format=posix", &format!("{}.o", net.name)],
    );
    let undefined: Vec<&str> = symbols
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let known = ["memcpy", "memmove", "memset", "fma", "fmaf", "_GLOBAL_OFFSET_TABLE_"];
    let strange: Vec<_> = undefined.iter().filter(|name| !known.contains(name)).collect();
    assert!(strange.is_empty(), "the object needs {strange:?}");

    let mut outputs = session.results(entry).expect("an entry");
    write_main(folder.path(), net.name, entry, &inputs, &outputs);
    let object = format!("{}.o", net.name);
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
    run(folder.path(), "cc", &flags);

    for _ in 0..3 {
        session.run(entry, &inputs, &mut outputs).expect("the tensors fit");
    }
    let upper = net.name.to_uppercase();
    let header = std::fs::read_to_string(&files[1]).expect("the header was written");
    for workers in ["1", "2"] {
        run(folder.path(), "./main", &[workers]);
        let read = |name: &str| std::fs::read(folder.path().join(name)).expect("the program wrote it");
        for (place, output) in outputs.iter().enumerate() {
            let found = Tensor::from_bytes(output.dtype(), output.shape(), read(&format!("output{place}")));
            assert!(
                found == *output,
                "result {place} with {workers} workers: {found:?}, here {output:?}"
            );
        }
        let after = read("after.states");
        for (name, value) in session.states() {
            let symbol = format!("#define {upper}_STATE_{} ", name.replace('.', "_").to_uppercase());
            let line = header
                .lines()
                .find_map(|line| line.strip_prefix(&symbol))
                .expect("a line for each state");
            let offset: usize = line
                .split(' ')
                .next()
                .and_then(|offset| offset.parse().ok())
                .expect("an offset");
            assert!(
                after[offset..][..value.bytes().len()] == *value.bytes(),
                "state `{name}` with {workers} workers"
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

/// A program and a session of it, for a network of the zoo.
fn lenet(entry: &str, batch: usize) -> (&'static zoo::Net, Program, Session) {
    let net = zoo::find("lenet").expect("a network");
    let whole = program(
        &(net.layers)(),
        &net.input(batch),
        &net.target(batch),
        &(net.training)(),
    )
    .expect("a valid network");
    let program = whole.only(entry);
    let session = session(&program, &Cpu::native(), 1);
    (net, program, session)
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
            let files = ahead::write(&program, &session, &cpu, net.name, folder.path()).expect("it is written");
            let bytes = std::fs::read(&files[0]).expect("the object was written");
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
            for wanted in [format!("lenet_{entry}"), "lenet_constants".to_owned()] {
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
fn check_emulated(triple: &str, emulator: &str, compiler: &str) {
    let missing: Vec<&str> = [emulator, compiler]
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
        let (net, program, mut session) = lenet(entry, 8);
        let cpu = Cpu::for_triple(triple, None).expect("a known target");
        let folder = tempfile::tempdir().expect("a folder");
        ahead::write(&program, &session, &cpu, net.name, folder.path()).expect("it is written");
        let (x, y) = (
            sample::tensor(&net.input(8), &mut 1),
            sample::tensor(&net.target(8), &mut 2),
        );
        let inputs: Vec<&Tensor> = if entry == TRAIN_STEP { vec![&x, &y] } else { vec![&x] };
        let mut outputs = session.results(entry).expect("an entry");
        write_main(folder.path(), net.name, entry, &inputs, &outputs);
        let flags = ["-static", "-O1", "-o", "main", "main.c", "lenet.o", "-lpthread", "-lm"];
        run(folder.path(), compiler, &flags);
        for _ in 0..3 {
            session.run(entry, &inputs, &mut outputs).expect("the tensors fit");
        }
        run(folder.path(), emulator, &["./main", "2"]);
        for (place, output) in outputs.iter().enumerate() {
            let bytes = std::fs::read(folder.path().join(format!("output{place}"))).expect("the program wrote it");
            let found = Tensor::from_bytes(output.dtype(), output.shape(), bytes);
            assert!(
                found == *output,
                "{triple}: result {place} is {found:?}, here {output:?}"
            );
        }
    }
}

#[test]
fn aarch64_gives_the_same_bits() {
    check_emulated("aarch64-unknown-linux-gnu", "qemu-aarch64", "aarch64-linux-gnu-gcc");
}

#[test]
fn riscv64_gives_the_same_bits() {
    check_emulated("riscv64gc-unknown-linux-gnu", "qemu-riscv64", "riscv64-linux-gnu-gcc");
}
