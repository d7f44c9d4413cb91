//! Activations and their slopes, both computed by compiled graphs: `cargo run --release --example activations [OUT]` draws
//! `OUT/activations.svg`.

use std::path::{Path, PathBuf};

use netloom::ir::{Builder, DType, Program, Tensor, autodiff};
use netloom::nn::layers::{Activation, Layer};
use netloom::train::report::{Chart, Series, charts};
use netloom::{Cpu, Error, Session, compile};

const POINTS: usize = 201;

/// The values of a function and of its symbolic gradient at -5 to 5.
fn plotted(function: Activation) -> Result<[Vec<(f64, f64)>; 2], Error> {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [POINTS]);
    let y = function.of(x);
    let slope = autodiff::grad(y.sum_all(), &[x])[0];
    let program = Program::pure("plot", b.finish([("y", y), ("slope", slope)])?);
    let at: Vec<f32> = (0..POINTS).map(|place| place as f32 / 20.0 - 5.0).collect();
    let mut session = Session::new(compile(&program, Cpu::native())?.into(), 1, 0)?;
    let results = session.call("plot", &[("x", &Tensor::from_f32([POINTS], &at))])?;
    let points = |values: Vec<f32>| {
        at.iter()
            .zip(values)
            .map(|(x, y)| (f64::from(*x), f64::from(y)))
            .collect()
    };
    Ok([points(results[0].1.to_f32()), points(results[1].1.to_f32())])
}

fn run(out: &Path) -> Result<(), Error> {
    let functions = [
        Activation::Step,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Relu,
        Activation::LeakyRelu(0.1),
        Activation::Gelu,
    ];
    let chart = |function: Activation| {
        let [values, slopes] = plotted(function)?;
        let series = vec![Series::line("value", values), Series::dashed("slope", slopes)];
        Ok::<Chart, Error>(Chart::new(function.describe(), "x", "", series))
    };
    let drawn = functions
        .into_iter()
        .map(chart)
        .collect::<Result<Vec<Chart>, Error>>()?;
    charts(&out.join("activations.svg"), 3, &drawn)
}

fn main() -> Result<(), Error> {
    run(&std::env::args().nth(1).map_or("out".into(), PathBuf::from))
}

#[test]
fn slopes_are_those_of_the_curves() {
    let out = tempfile::tempdir().unwrap();
    run(out.path()).unwrap();
    for function in [Activation::Sigmoid, Activation::Tanh, Activation::Relu] {
        let [values, slopes] = plotted(function).unwrap();
        for at in (1..POINTS - 1).filter(|at| *at != POINTS / 2) {
            let measured = (values[at + 1].1 - values[at - 1].1) / 0.1;
            assert!(
                (measured - slopes[at].1).abs() < 2e-3,
                "{function:?} at {:?}",
                values[at]
            );
        }
    }
    assert!(
        plotted(Activation::Step).unwrap()[1]
            .iter()
            .all(|(_, slope)| *slope == 0.0)
    );
}
