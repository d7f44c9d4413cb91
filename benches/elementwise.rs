//! Elementwise programs through the public API, against the machine: memory-bound ones against `memcpy`, transcendental functions against
//! scalar libm. Every figure is the least of many runs, alternating with what it is compared with.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netloom::ir::builder::Val;
use netloom::ir::program::Program;
use netloom::ir::{Builder, DType, Tensor};
use netloom::{Cpu, Executable, Session, compile};

fn main() {
    for threads in [1, 2] {
        bandwidth("x·a + b", threads, 1, |args| args[0] * 1.5 + 0.25);
        bandwidth("x + y", threads, 2, |args| args[0] + args[1]);
    }
    for function in FUNCTIONS {
        for cpu in [Cpu::native(), Cpu::named("x86-64-v3").expect("a known processor")] {
            if cpu.check_host().is_ok() {
                transcendental(function, &cpu);
            }
        }
    }
}

/// An executable of one function of some `f32` vectors.
fn executable(
    cpu: &Cpu,
    count: usize,
    arity: usize,
    function: impl for<'g> Fn(&[Val<'g>]) -> Val<'g>,
) -> Arc<Executable> {
    let b = Builder::new();
    let args: Vec<Val> = (0..arity)
        .map(|at| b.input(&format!("x{at}"), DType::F32, [count]))
        .collect();
    let graph = b.finish([("y", function(&args))]).expect("a valid graph");
    Arc::new(compile(&Program::pure("main", graph), cpu).expect("a valid program"))
}

/// The shortest times of two alternatives that take turns for a second.
fn least(mut a: impl FnMut(), mut b: impl FnMut()) -> [f64; 2] {
    let (mut least, start) = ([Duration::MAX; 2], Instant::now());
    while least[1] == Duration::MAX || start.elapsed() < Duration::from_secs(1) {
        for (least, run) in least.iter_mut().zip([&mut a as &mut dyn FnMut(), &mut b]) {
            let begin = Instant::now();
            run();
            *least = begin.elapsed().min(*least);
        }
    }
    least.map(|least| least.as_secs_f64())
}

/// Bytes a second of a program on 64 MiB vectors, against a copy of as much by as many threads.
fn bandwidth(name: &str, threads: usize, arity: usize, function: impl for<'g> Fn(&[Val<'g>]) -> Val<'g>) {
    const COUNT: usize = 16 << 20;
    let executable = executable(&Cpu::native(), COUNT, arity, function);
    let mut session = Session::new(executable, threads, 0).expect("memory");
    let inputs: Vec<Tensor> = (0..arity)
        .map(|at| Tensor::from_f32([COUNT], &vec![at as f32; COUNT]))
        .collect();
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let mut outputs = [Tensor::from_f32([COUNT], &vec![1.0; COUNT])];
    let (from, mut to) = (vec![1u8; 4 * COUNT], vec![2u8; 4 * COUNT]);
    let [ours, copy] = least(
        || session.run("main", &inputs, &mut outputs).expect("the tensors fit"),
        || {
            let share = from.len() / threads;
            std::thread::scope(|scope| {
                let mut shares = from.chunks(share).zip(to.chunks_mut(share));
                let (from, to) = shares.next().expect("at least one share");
                shares.for_each(|(from, to)| drop(scope.spawn(|| to.copy_from_slice(from))));
                to.copy_from_slice(black_box(from));
            });
        },
    );
    let rate = |streams: usize, seconds: f64| (streams * 4 * COUNT) as f64 / seconds / 1e9;
    let (ours, copy) = (rate(arity + 1, ours), rate(2, copy));
    println!(
        "{name:>8}, {threads} threads: {ours:6.2} GB/s; memcpy {copy:6.2} GB/s; {:.2} of it",
        ours / copy
    );
}

/// A function, its scalar form, a range that its inputs lie in, and the most ulps it may be wrong.
struct Function {
    name: &'static str,
    graph: for<'g> fn(Val<'g>) -> Val<'g>,
    scalar: fn(f32) -> f32,
    exact: fn(f64) -> f64,
    range: (f32, f32),
    ulps: f64,
}

static FUNCTIONS: &[Function] = &[
    Function {
        name: "exp",
        graph: |x| x.exp(),
        scalar: f32::exp,
        exact: f64::exp,
        range: (-87.0, 88.0),
        ulps: 2.0,
    },
    Function {
        name: "log",
        graph: |x| x.log(),
        scalar: f32::ln,
        exact: f64::ln,
        range: (1e-38, 3e38),
        ulps: 2.0,
    },
    Function {
        name: "tanh",
        graph: |x| x.tanh(),
        scalar: f32::tanh,
        exact: f64::tanh,
        range: (-20.0, 20.0),
        ulps: 4.0,
    },
    Function {
        name: "sigmoid",
        graph: |x| x.sigmoid(),
        scalar: |x| 1.0 / (1.0 + (-x).exp()),
        exact: |x| 1.0 / (1.0 + (-x).exp()),
        range: (-87.0, 88.0),
        ulps: 4.0,
    },
    Function {
        name: "erf",
        graph: |x| x.erf(),
        scalar: |x| erff(x),
        exact: |x| erf(x),
        range: (-10.0, 10.0),
        ulps: 4.0,
    },
    Function {
        name: "sin",
        graph: |x| x.sin(),
        scalar: f32::sin,
        exact: f64::sin,
        range: (-100.0, 100.0),
        ulps: 4.0,
    },
];

unsafe extern "C" {
    safe fn erff(x: f32) -> f32;
    safe fn erf(x: f64) -> f64;
}

/// Nanoseconds an element over a million, one thread, against scalar libm; and the greatest error over every 257th `f32` of the range.
fn transcendental(function: &Function, cpu: &Cpu) {
    const COUNT: usize = 1 << 20;
    let graph = function.graph;
    let mut session = Session::new(executable(cpu, COUNT, 1, |args| graph(args[0])), 1, 0).expect("memory");
    let (low, high) = function.range;
    let narrow = |at: usize| (at as f32 / COUNT as f32 - 0.5) * high.min(20.0);
    let xs: Vec<f32> = (0..COUNT)
        .map(|at| if low < 0.0 { narrow(at) } else { narrow(at).abs() + 1e-3 })
        .collect();
    let x = Tensor::from_f32([COUNT], &xs);
    let mut outputs = [Tensor::zeros(DType::F32, [COUNT])];
    let mut ys = vec![0f32; COUNT];
    let [ours, libm] = least(
        || session.run("main", &[&x], &mut outputs).expect("the tensors fit"),
        || {
            for (y, x) in ys.iter_mut().zip(black_box(&xs)) {
                *y = (function.scalar)(*x);
            }
        },
    );
    let mut worst = (0f64, 0f32);
    let samples: Vec<f32> = (0..=u32::MAX / 257)
        .map(|at| f32::from_bits(at * 257))
        .filter(|x| (low..=high).contains(x) && x.is_normal())
        .collect();
    for samples in samples.chunks(COUNT) {
        let mut xs = samples.to_vec();
        xs.resize(COUNT, 1.0);
        session
            .run("main", &[&Tensor::from_f32([COUNT], &xs)], &mut outputs)
            .expect("the tensors fit");
        for (&x, found) in samples.iter().zip(outputs[0].to_f32()) {
            let exact = (function.exact)(f64::from(x));
            let unit = f64::from((exact as f32).abs().max(f32::MIN_POSITIVE));
            let unit = 2f64.powi(unit.log2().floor() as i32 - 23);
            let error = (f64::from(found) - exact).abs() / unit;
            if error > worst.0 || error.is_nan() {
                worst = (error, x);
            }
        }
    }
    let each = |seconds: f64| seconds * 1e9 / COUNT as f64;
    println!(
        "{:>8} {:?}: {:6.3} ns an element; libm {:6.3}, {:5.1} times as long; at most {:.2} ulp (at {:e}; allowed {})",
        function.name,
        cpu.level,
        each(ours),
        each(libm),
        libm / ours,
        worst.0,
        worst.1,
        function.ulps
    );
}
