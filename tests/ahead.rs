//! Objects compiled ahead of time: a C program that links one gives what this process gives, to the bit.
#![cfg(unix)]

mod support;

use std::path::Path;
use std::process::Command;

use netloom::ir::{Program, Tensor, sample};
use netloom::nn::training::{PREDICT, TRAIN_STEP, program};
use netloom::nn::zoo;
use netloom::{Cpu, ahead};
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
    for (place, input) in inputs.iter().enumerate() {
        std::fs::write(folder.path().join(format!("input{place}")), input.bytes()).expect("a file");
    }
    let list = |texts: Vec<String>| texts.join(", ");
    let sizes: Vec<usize> = outputs.iter().map(|output| output.bytes().len()).collect();
    let read = |(place, input): (usize, &&Tensor)| format!("read_file(\"input{place}\", {})", input.bytes().len());
    let upper = net.name.to_uppercase();
    let source = MAIN
        .replace("NAME_ENTRY", &format!("{}_{entry}", net.name))
        .replace("UPPER_BIG", &format!("{upper}_{}", entry.to_uppercase()))
        .replace("UPPER", &upper)
        .replace("NAME", net.name)
        .replace("INPUTS", &list(inputs.iter().enumerate().map(read).collect()))
        .replace(
            "OUTPUTS",
            &list(sizes.iter().map(|size| format!("block({size})")).collect()),
        )
        .replace(
            "BYTES}",
            &format!("{}}}", list(sizes.iter().map(usize::to_string).collect())),
        );
    std::fs::write(folder.path().join("main.c"), source).expect("a file");
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
