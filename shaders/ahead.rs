//! Each hand-written shader beside the generated kernel whose place it takes: the same program through the public engine, in turn, on one device.
//! Fails where a shader is behind, so that none outlives its use.
//!
//! `cargo bench -p netloom-shaders -- [DEVICE]`

use std::sync::Arc;
use std::time::Instant;

use netloom::gpu::device::{Device, Options, Pretend};
use netloom::{Session, compile};
use netloom_ir::builder::{Builder, Val};
use netloom_ir::ops::Conv;
use netloom_ir::{DType, Init, Program, State, Tensor, autodiff, sample};

/// What is measured.
enum Work {
    /// An einsum, with the shapes of both operands.
    Product(&'static str, &'static [usize], &'static [usize]),
    /// A convolution: pictures, channels in, channels out, the side of the image and of the filter, the stride, and zeros around.
    Convolution([usize; 7], Part),
}

/// What is computed of a convolution.
#[derive(Clone, Copy)]
enum Part {
    Forward,
    /// The gradient of the filters, from the result's.
    Filters,
}

const WORKS: &[(&str, Work)] = &[
    ("512 cubed", Work::Product("mk,kn->mn", &[512, 512], &[512, 512])),
    ("1024 cubed", Work::Product("mk,kn->mn", &[1024, 1024], &[1024, 1024])),
    (
        "layer, backwards to its input",
        Work::Product("mk,nk->mn", &[64, 512], &[784, 512]),
    ),
    (
        "layer, backwards to its weights",
        Work::Product("km,kn->mn", &[64, 784], &[64, 512]),
    ),
    (
        "3x3 convolution of 56x56, by squares",
        Work::Product("bkm,bnk->bnm", &[36, 64, 196], &[36, 64, 64]),
    ),
    (
        "3x3 convolution of 28x28, by squares",
        Work::Product("bkm,bnk->bnm", &[36, 128, 56], &[36, 128, 128]),
    ),
    (
        "3x3 convolution of 14x14, by squares",
        Work::Product("bkm,bnk->bnm", &[36, 256, 16], &[36, 256, 256]),
    ),
    (
        "3x3 convolution of 7x7, by squares",
        Work::Product("bkm,bnk->bnm", &[36, 512, 4], &[36, 512, 512]),
    ),
    (
        "1x1 convolution of 55x55",
        Work::Convolution([1, 128, 16, 55, 1, 1, 0], Part::Forward),
    ),
    (
        "1x1 convolution of 27x27",
        Work::Convolution([1, 256, 32, 27, 1, 1, 0], Part::Forward),
    ),
    (
        "1x1 convolution of 13x13",
        Work::Convolution([1, 512, 64, 13, 1, 1, 0], Part::Forward),
    ),
    (
        "1x1 convolution of 13x13, 1000 classes",
        Work::Convolution([1, 512, 1000, 13, 1, 1, 0], Part::Forward),
    ),
    (
        "3x3 over 32x32, 8 pictures: gradient of the filters",
        Work::Convolution([8, 64, 64, 32, 3, 1, 1], Part::Filters),
    ),
    (
        "the same with stride 2: gradient of the filters",
        Work::Convolution([8, 64, 128, 32, 3, 2, 1], Part::Filters),
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
    for (name, work) in WORKS {
        let [mut shader, mut kernel] = [&with, &without].map(|device| Run::new(device, work));
        let mut least = [f64::INFINITY; 2];
        for _ in 0..ROUNDS {
            for (least, run) in least.iter_mut().zip([&mut shader, &mut kernel]) {
                *least = least.min(run.milliseconds());
            }
        }
        let [shader, kernel] = least;
        println!(
            "{name:>42}: shader {shader:.3} ms, generated {kernel:.3} ms, {:.2} times as fast",
            kernel / shader
        );
        if shader > kernel {
            behind.push(name);
        }
    }
    assert!(
        behind.is_empty(),
        "the shader is behind the generated kernel: {behind:?}"
    );
}

/// A product ready to be run. The operands are states, so that a run does not copy them.
struct Run {
    session: Session,
    results: Vec<Tensor>,
}

impl Run {
    fn new(device: &Arc<Device>, work: &Work) -> Run {
        let b = Builder::new();
        let input = |name: &str, shape: &[usize]| b.input(name, DType::F32, shape);
        let result = match *work {
            Work::Product(spec, x, y) => Val::einsum(spec, &[input("x", x), input("y", y)]),
            Work::Convolution([pictures, from, to, side, filter, stride, pad], part) => {
                let image = input("image", &[pictures, from, side, side]);
                let filters = input("filters", &[to, from, filter, filter]);
                let conv = Conv {
                    stride: vec![stride; 2],
                    pad_low: vec![pad as i64; 2],
                    pad_high: vec![pad as i64; 2],
                    ..Conv::unit(2)
                };
                let result = image.conv(filters, conv);
                let seeded = (result * input("gradient", &result.shape())).sum_all();
                match part {
                    Part::Forward => result,
                    Part::Filters => autodiff::grad(seeded, &[filters])[0],
                }
            }
        };
        let graph = b.finish([("z", result)]).expect("a graph");
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
