//! Compile time against the number of nodes: a chain, siblings of one input, a ladder of diamonds. It must grow linearly. And that of the training step of
//! the zoo's LSTM against the number of time steps, with which it must not grow.
//!
//! The last column is what matters: microseconds a node, of the fastest of the runs that fit in a second.

use std::time::{Duration, Instant};

use netloom::compile::Stages;
use netloom::ir::program::Program;
use netloom::ir::{Builder, DType, Graph, Type};
use netloom::nn::training::TRAIN_STEP;
use netloom::nn::{program, zoo};
use netloom::{Cpu, compile};

fn main() {
    let most = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(100_000);
    for (name, make) in [
        ("chain", chain as fn(usize) -> Graph),
        ("siblings", siblings),
        ("ladder", ladder),
    ] {
        for nodes in [1_000, 10_000, 100_000].into_iter().filter(|&nodes| nodes <= most) {
            let graph = make(nodes);
            let count = graph.len();
            let program = Program::pure("main", graph);
            let (least, stages) = fastest(&program);
            let each = |took: Duration| took.as_secs_f64() * 1e6 / count as f64;
            let stages: Vec<String> = stages
                .0
                .iter()
                .map(|(name, took)| format!("{name} {:.1}", each(*took)))
                .collect();
            println!(
                "{name:>8} {count:>7} nodes {:>8.1} ms   {}   all {:.1} µs a node",
                least.as_secs_f64() * 1e3,
                stages.join("  "),
                each(least)
            );
        }
    }
    for length in [32, 256, 2048] {
        let (least, _) = fastest(&lstm(length));
        println!("{:>8} {length:>7} steps {:>8.1} ms", "lstm", least.as_secs_f64() * 1e3);
    }
}

/// The fastest of the compilations that fit in a second.
fn fastest(program: &Program) -> (Duration, Stages) {
    let (mut least, mut stages, start) = (Duration::MAX, Stages::default(), Instant::now());
    while least == Duration::MAX || start.elapsed() < Duration::from_secs(1) {
        let begin = Instant::now();
        let executable = compile(program, Cpu::native()).expect("a valid program");
        let took = begin.elapsed();
        if took < least {
            (least, stages) = (took, executable.stages.clone());
        }
    }
    (least, stages)
}

/// The training step of an LSTM over so many time steps.
fn lstm(length: usize) -> Program {
    let net = zoo::find("lstm").expect("a network of the zoo");
    let (x, y) = (Type::new(DType::F32, [32, length, 64]), net.target(32));
    let program = program(&(net.layers)(), &x, &y, &(net.training)()).expect("a valid network");
    program.only(TRAIN_STEP)
}

/// Each node needs the one before.
fn chain(nodes: usize) -> Graph {
    let b = Builder::new();
    let [mut x, y, z] = ["x", "y", "z"].map(|name| b.input(name, DType::F32, [64]));
    for _ in 0..nodes / 2 {
        x = x * y + z;
    }
    b.finish([("x", x)]).expect("a valid graph")
}

/// Every product needs the same input and a number of its own, which is a constant and its broadcast, and is a result.
fn siblings(nodes: usize) -> Graph {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [64]);
    let results: Vec<(String, _)> = (0..nodes / 3)
        .map(|at| (format!("y{at}"), x * (at as f64 + 0.5)))
        .collect();
    b.finish(results.iter().map(|(name, y)| (name.as_str(), *y)))
        .expect("a valid graph")
}

/// Two nodes that both need the two before them.
fn ladder(nodes: usize) -> Graph {
    let b = Builder::new();
    let [mut x, mut y] = ["x", "y"].map(|name| b.input(name, DType::F32, [64]));
    for _ in 0..nodes / 2 {
        (x, y) = (x + y, x * y);
    }
    b.finish([("x", x), ("y", y)]).expect("a valid graph")
}
