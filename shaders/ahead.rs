//! Each hand-written shader beside the generated kernel whose place it takes: the same program through the public engine, in turn, on one device.
//! Fails where a shader is behind, so that none outlives its use.
//!
//! `cargo bench -p netloom-shaders -- [DEVICE]`

use std::sync::Arc;
use std::time::Instant;

use netloom::gpu::device::{Device, Options, Pretend};
use netloom::{Session, compile};
use netloom_ir::builder::{Builder, Val};
use netloom_ir::{DType, Init, Program, State, Tensor, sample};

/// Products as einsums, with the shapes of both operands.
const PRODUCTS: [(&str, &str, &[usize], &[usize]); 8] = [
    ("512 cubed", "mk,kn->mn", &[512, 512], &[512, 512]),
    ("1024 cubed", "mk,kn->mn", &[1024, 1024], &[1024, 1024]),
    ("layer, backwards to its input", "mk,nk->mn", &[64, 512], &[784, 512]),
    ("layer, backwards to its weights", "km,kn->mn", &[64, 784], &[64, 512]),
    (
        "3x3 convolution of 56x56, by squares",
        "bkm,bnk->bnm",
        &[36, 64, 196],
        &[36, 64, 64],
    ),
    (
        "3x3 convolution of 28x28, by squares",
        "bkm,bnk->bnm",
        &[36, 128, 56],
        &[36, 128, 128],
    ),
    (
        "3x3 convolution of 14x14, by squares",
        "bkm,bnk->bnm",
        &[36, 256, 16],
        &[36, 256, 256],
    ),
    (
        "3x3 convolution of 7x7, by squares",
        "bkm,bnk->bnm",
        &[36, 512, 4],
        &[36, 512, 512],
    ),
];
const ROUNDS: usize = 10;

fn main() {
    let number = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let generated: Pretend = |traits| traits.product_bytes = 0;
    let open = |pretend| {
        Device::open(&Options {
            pretend,
            ..Options::usual(number)
        })
    };
    let (with, without) = match (open(None), open(Some(generated))) {
        (Ok(with), Ok(without)) => (with, without),
        (Err(error), _) | (_, Err(error)) => return println!("{error}"),
    };
    println!("{with:?}");
    if with.traits.product_bytes == 0 {
        return println!("hand-written shaders are not used on this device");
    }
    let mut behind = Vec::new();
    for (name, spec, x, y) in PRODUCTS {
        let [mut shader, mut kernel] = [&with, &without].map(|device| Run::new(device, spec, x, y));
        let mut least = [f64::INFINITY; 2];
        for _ in 0..ROUNDS {
            for (least, run) in least.iter_mut().zip([&mut shader, &mut kernel]) {
                *least = least.min(run.milliseconds());
            }
        }
        let [shader, kernel] = least;
        println!(
            "{name:>38} {spec:>14}: shader {shader:.3} ms, generated {kernel:.3} ms, {:.2} times as fast",
            kernel / shader
        );
        if shader > kernel {
            behind.push(name);
        }
    }
    assert!(
        behind.is_empty(),
        "the shader of products is behind the generated kernel: {behind:?}"
    );
}

/// A product ready to be run. The operands are states, so that a run does not copy them.
struct Run {
    session: Session,
    results: Vec<Tensor>,
}

impl Run {
    fn new(device: &Arc<Device>, spec: &str, x: &[usize], y: &[usize]) -> Run {
        let b = Builder::new();
        let [x, y] = [("x", x), ("y", y)].map(|(name, shape)| b.input(name, DType::F32, shape.to_vec()));
        let product = Val::einsum(spec, &[x, y]);
        let graph = b.finish([("z", product)]).expect("a graph");
        let states = sample::inputs(&graph, 1).into_iter().map(|(name, tensor)| State {
            name,
            ty: tensor.ty(),
            init: Init::Tensor(Arc::new(tensor)),
        });
        let program = Program {
            states: states.collect(),
            ..Program::pure("run", graph)
        };
        let executable = compile(&program, Arc::clone(device)).expect("a valid program");
        let session = Session::new(executable.into(), 1, 0).expect("memory");
        let results = session.results("run").expect("an entry");
        Run { session, results }
    }

    fn milliseconds(&mut self) -> f64 {
        let start = Instant::now();
        self.session.run("run", &[], &mut self.results).expect("a run");
        start.elapsed().as_secs_f64() * 1e3
    }
}
