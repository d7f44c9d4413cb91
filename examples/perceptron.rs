//! The perceptron, what it can learn and what it cannot: `cargo run --release --example perceptron [OUT]` draws `OUT/perceptron.svg`.
//!
//! One unit, `y = step(x · w + b)`, learns to tell two kinds of iris apart by Rosenblatt's rule, and by gradient where the step is
//! replaced by a sigmoid. No line divides the exclusive or, so neither learns it; two layers do.

use std::path::{Path, PathBuf};

use netloom::ir::{Builder, DType, Entry, Init, Program, State, Tensor};
use netloom::nn::layers::{Activation, Dense};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::model::ModelOptions;
use netloom::train::report::{Chart, Ground, Series, charts};
use netloom::train::table::{Header, Scaling, Table, Target};
use netloom::train::{Dataset, FitOptions, Model};
use netloom::{Cpu, Error, Session, compile};

/// A function of points in the plane: above 1/2 it says the second class.
type Judge = Box<dyn FnMut(&Tensor) -> Result<Vec<f32>, Error>>;

/// One unit from raw operations: the rule `w += x (t - y)` changes nothing where the answer is right. Every run shows it all points at once.
fn by_rule(data: &Dataset) -> Result<Judge, Error> {
    let state = |name: &str, shape: &[usize]| {
        let start = Tensor::zeros(DType::F32, shape);
        State {
            name: name.into(),
            ty: start.ty(),
            init: Init::Tensor(start.into()),
        }
    };
    let (points, rate) = (data.len(), 0.1);
    let b = Builder::new();
    let (w, bias) = (b.input("w", DType::F32, [2]), b.input("b", DType::F32, []));
    let (x, t) = (
        b.input("x", DType::F32, [points, 2]),
        b.input("t", DType::F32, [points, 1]),
    );
    let error = t.reshape([points]) - (x.matmul(w) + bias).step();
    let learn = b.finish([("w", w + error.matmul(x) * rate), ("b", bias + error.sum([0]) * rate)])?;
    let entry = |name: &str, graph| Entry {
        name: name.into(),
        graph,
    };
    let program = Program {
        states: vec![state("w", &[2]), state("b", &[])],
        entries: vec![entry("learn", learn)],
    };
    let mut session = Session::new(compile(&program, Cpu::native())?.into(), 1, 0)?;
    for _ in 0..1000 {
        session.run("learn", &[&data.inputs, &data.targets], &mut [])?;
    }
    let (w, bias) = (session.state("w")?.to_f32(), session.state("b")?.to_f32()[0]);
    let judge = move |x: &[f32]| f32::from(u8::from(w[0] * x[0] + w[1] * x[1] + bias > 0.0));
    Ok(Box::new(move |x| {
        Ok(x.to_f32().chunks_exact(2).map(judge.clone()).collect())
    }))
}

/// The same by gradient descent: a network whose scores become probabilities by the sigmoid.
fn by_gradient(net: Sequential, data: &Dataset) -> Result<Judge, Error> {
    let training = Training::new(Loss::BinaryCrossEntropy, Optimiser::adam(), Rate::Constant(0.05));
    let mut model = Model::compile(net, &training, data, ModelOptions::new(data.len()))?;
    model.fit(
        data,
        FitOptions {
            epochs: 400,
            ..FitOptions::default()
        },
    )?;
    Ok(Box::new(move |x| {
        Ok(model
            .predict(x)?
            .to_f32()
            .into_iter()
            .map(|score| 1.0 / (1.0 + (-score).exp()))
            .collect())
    }))
}

fn unit() -> Sequential {
    Sequential::new().then(Dense::new(1))
}

fn two_layers() -> Sequential {
    Sequential::new()
        .then(Dense::new(4))
        .then(Activation::Tanh)
        .then(Dense::new(1))
}

/// Length and width of the petals of *Iris setosa* and *versicolor*, scaled to [0, 1]; the target is 1 for the latter.
fn irises() -> Result<Dataset, Error> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/tables/iris.csv");
    let data = Table::read(&path, Header::Ignored, b',')?.dataset("4", Target::Value)?;
    let rows: Vec<f32> = data
        .inputs
        .to_f32()
        .chunks_exact(4)
        .take(100)
        .flat_map(|row| [row[2], row[3]])
        .collect();
    let inputs = Tensor::from_f32([100, 2], &rows);
    let targets = Tensor::from_f32([100, 1], &data.targets.to_f32()[..100]);
    Ok(Scaling::of(&inputs).apply(Dataset::new(inputs, targets)?))
}

fn exclusive_or() -> Result<Dataset, Error> {
    let corners = Tensor::from_f32([4, 2], &[0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
    Dataset::new(corners, Tensor::from_f32([4, 1], &[0.0, 0.0, 1.0, 1.0]))
}

/// The share of points judged right, and a chart of the plane as it is judged.
fn shown(title: &str, data: &Dataset, mut judge: Judge) -> Result<(f64, Chart), Error> {
    const SIDE: usize = 60;
    let answers = judge(&data.inputs)?;
    let truth = data.targets.to_f32();
    let right = answers
        .iter()
        .zip(&truth)
        .filter(|(answer, truth)| (**answer > 0.5) == (**truth > 0.5))
        .count();
    let range = (-0.25, 1.25);
    let grid: Vec<f32> = Ground::points(range, range, SIDE)
        .into_iter()
        .flat_map(|(x, y)| [x as f32, y as f32])
        .collect();
    let values = judge(&Tensor::from_f32([SIDE * SIDE, 2], &grid))?
        .into_iter()
        .map(f64::from)
        .collect();
    let points = data.inputs.to_f32();
    let class = |class: bool| {
        let own = points
            .chunks_exact(2)
            .zip(&truth)
            .filter(move |(_, truth)| (**truth > 0.5) == class);
        own.map(|(x, _)| (f64::from(x[0]), f64::from(x[1]))).collect()
    };
    let series = vec![Series::dots("0", class(false)), Series::dots("1", class(true))];
    let ground = Ground {
        across: range,
        up: range,
        side: SIDE,
        values,
    };
    let share = right as f64 / data.len() as f64;
    Ok((
        share,
        Chart::new(format!("{title}: {:.0} %", 100.0 * share), "x₁", "x₂", series).over(ground),
    ))
}

/// The shares of points judged right: irises by rule and by gradient, then the exclusive or by one unit either way and by two layers.
fn run(out: &Path) -> Result<[f64; 5], Error> {
    let (irises, xor) = (irises()?, exclusive_or()?);
    let trials = [
        shown("irises, perceptron rule", &irises, by_rule(&irises)?)?,
        shown("irises, gradient", &irises, by_gradient(unit(), &irises)?)?,
        shown("XOR, perceptron rule", &xor, by_rule(&xor)?)?,
        shown("XOR, gradient", &xor, by_gradient(unit(), &xor)?)?,
        shown("XOR, two layers", &xor, by_gradient(two_layers(), &xor)?)?,
    ];
    let (shares, pictures): (Vec<f64>, Vec<Chart>) = trials.into_iter().unzip();
    charts(&out.join("perceptron.svg"), 3, &pictures)?;
    Ok([0, 1, 2, 3, 4].map(|at| shares[at]))
}

fn main() -> Result<(), Error> {
    let out = std::env::args().nth(1).map_or("out".into(), PathBuf::from);
    println!("right: {:?}", run(&out)?);
    Ok(())
}

#[test]
fn a_line_divides_irises_and_not_the_exclusive_or() {
    let out = tempfile::tempdir().unwrap();
    let [rule, gradient, xor_rule, xor_gradient, xor_layers] = run(out.path()).unwrap();
    assert_eq!([rule, gradient, xor_layers], [1.0; 3]);
    assert!(xor_rule < 1.0 && xor_gradient < 1.0);
    assert!(out.path().join("perceptron.svg").exists());
}
