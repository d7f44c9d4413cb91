//! Convolutions by filters in pieces: the interpreter runs what is scheduled for a matrix unit, the machine too if it has one.

use netloom::Cpu;
use netloom::check::{Compiled, Engine, Interpreter, Options, check};
use netloom::compile::lower;
use netloom::cpu::isa::Level;
use netloom::ir::builder::Builder;
use netloom::ir::ops::{Conv, Window};
use netloom::ir::pieces::by_pieces;
use netloom::ir::{DType, Graph, Program, Target, passes, sample};
use netloom::plan::kernels::Makers;

/// Where the image comes from: in blocks of channels from an op before, or as it is given.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Image {
    Blocked,
    Given,
}

/// A convolution: images, channels, height and width; filters; their height and width; strides; zeros before and after; distances between taps.
type Shape = ([usize; 4], usize, [usize; 2], [usize; 2], [i64; 2], [usize; 2]);

/// Whole and partial tiles, one and several groups of them, padded channels and filters, windows that overlap and that do not, copies of several images.
const SHAPES: [Shape; 21] = [
    ([1, 32, 5, 5], 16, [1, 1], [1, 1], [0, 0], [1, 1]),
    ([1, 48, 7, 9], 40, [1, 1], [1, 1], [0, 0], [1, 1]),
    ([2, 32, 9, 9], 64, [1, 1], [1, 1], [0, 0], [1, 1]),
    ([3, 32, 7, 7], 32, [1, 1], [1, 1], [0, 0], [1, 1]),
    ([1, 32, 2, 1], 64, [1, 1], [1, 1], [0, 0], [1, 1]),
    ([1, 64, 20, 19], 33, [1, 1], [1, 1], [0, 0], [1, 1]),
    ([1, 32, 30, 30], 64, [1, 1], [2, 2], [0, 0], [1, 1]),
    ([2, 16, 9, 9], 24, [3, 3], [1, 1], [1, 1], [1, 1]),
    ([1, 16, 25, 17], 16, [3, 3], [1, 1], [1, 1], [1, 1]),
    ([1, 32, 9, 9], 32, [3, 3], [1, 1], [5, 0], [1, 1]),
    ([1, 64, 12, 12], 48, [3, 3], [2, 2], [1, 1], [1, 1]),
    ([1, 32, 13, 11], 32, [3, 3], [2, 2], [0, 1], [1, 1]),
    ([1, 32, 20, 20], 32, [3, 3], [3, 3], [1, 1], [1, 1]),
    ([3, 32, 9, 9], 32, [3, 3], [1, 1], [2, 2], [2, 2]),
    ([1, 32, 20, 20], 32, [3, 3], [2, 2], [1, 1], [2, 3]),
    ([1, 32, 9, 9], 33, [1, 3], [1, 1], [0, 0], [1, 1]),
    ([1, 32, 9, 9], 32, [3, 3], [1, 2], [1, 1], [1, 1]),
    ([1, 32, 9, 9], 32, [3, 3], [2, 1], [1, 1], [1, 1]),
    ([5, 32, 7, 7], 64, [2, 2], [2, 2], [0, 0], [1, 1]),
    ([4, 16, 9, 9], 16, [7, 7], [1, 1], [0, 0], [1, 1]),
    ([1, 512, 3, 4], 352, [1, 1], [1, 1], [0, 0], [1, 1]),
];

fn convolution((image, filters, taps, stride, [low, high], dilation): Shape, from: Image) -> Graph {
    let b = Builder::new();
    let w = b.input("w", DType::F32, [filters, image[1], taps[0], taps[1]]);
    let x = b.input("x", DType::F32, image);
    let x = match from {
        Image::Given => x,
        Image::Blocked => x.max_pool(Window::sliding([1, 1])),
    };
    let conv = Conv {
        stride: stride.to_vec(),
        pad_low: vec![low; 2],
        pad_high: vec![high; 2],
        kernel_dilation: dilation.to_vec(),
        ..Conv::unit(2)
    };
    let y = x.conv(by_pieces(w), conv).relu();
    let y = match from {
        Image::Given => y,
        // Its result too is in blocks then.
        Image::Blocked => y.max_pool(Window::sliding([1, 1])),
    };
    b.finish([("y", y)]).unwrap_or_else(|problems| panic!("{problems}"))
}

const USUAL: Options<'static> = Options {
    passes: passes::PASSES,
    makers: Makers::USUAL,
    bisect: false,
};

fn with_unit() -> Cpu {
    Cpu {
        level: Level::Avx512,
        has_fma: true,
        has_amx: true,
        ..Cpu::native()
    }
}

/// Contractions in pieces among the kernels of a program.
fn in_pieces(program: &Program, target: &Target) -> usize {
    let lowered = lower(program, target).unwrap_or_else(|error| panic!("{error}"));
    lowered
        .kernels
        .ids()
        .filter(|&id| lowered.kernels.nest(id).has_pieces())
        .count()
}

fn check_all(from: Image) {
    let cpu = with_unit();
    let target = Target {
        share_from: 0,
        ..cpu.target()
    };
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Interpreter::of(target.clone()))];
    match cpu.check_host() {
        Ok(()) => engines.extend([1, 3].map(|threads| Box::new(Compiled::on(cpu.clone(), threads)) as Box<dyn Engine>)),
        Err(error) => eprintln!("interpreted only: {error}"),
    }
    for shape in SHAPES {
        let program = Program::pure("run", convolution(shape, from));
        let name = format!("{shape:?}, {from:?}");
        assert_eq!(in_pieces(&program, &target), 1, "{name}");
        let inputs = sample::inputs(&program.entries[0].graph, 3);
        let outcomes = check(&program, "run", &inputs, &mut engines, USUAL);
        for outcome in outcomes.unwrap_or_else(|error| panic!("{name}: {error}")) {
            assert!(outcome.difference.is_none(), "{name}: {outcome:?}");
        }
    }
}

#[test]
fn convolutions_between_blocks() {
    check_all(Image::Blocked);
}

#[test]
fn convolutions_of_what_is_given() {
    check_all(Image::Given);
}
