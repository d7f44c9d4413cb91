//! A neuron, a network and a recurrent net from raw operations, without `nn`: `cargo run --release --example from_ops [OUT]` draws
//! `OUT/from_ops.svg`, the loss of each.
//!
//! Each is a graph of the loss, its symbolic gradient, and a program whose states follow it.

use std::path::{Path, PathBuf};

use netloom::ir::ops::compound::Steps;
use netloom::ir::{Builder, DType, Entry, Init, Program, State, Tensor, Val, autodiff};
use netloom::train::report::{Chart, Series, charts};
use netloom::{Cpu, Error, Session, compile};

/// The program that makes the loss of `x` and `y` small by gradient descent on weights that start so, run on one batch; and its losses.
fn descend(
    weights: &[(&str, Tensor)],
    [x, y]: [&Tensor; 2],
    (rate, steps): (f64, usize),
    loss: impl for<'g> FnOnce(&'g Builder, &[Val<'g>], Val<'g>, Val<'g>) -> Val<'g>,
) -> Result<(Session, Vec<f64>), Error> {
    let b = Builder::new();
    let inputs: Vec<Val<'_>> = weights
        .iter()
        .map(|(name, start)| b.input(name, DType::F32, start.shape()))
        .collect();
    let loss = loss(
        &b,
        &inputs,
        b.input("x", DType::F32, x.shape()),
        b.input("y", DType::F32, y.shape()),
    );
    let gradients = autodiff::grad(loss, &inputs);
    let next = inputs.iter().zip(gradients).map(|(&w, gradient)| w - gradient * rate);
    let outputs = weights.iter().map(|(name, _)| *name).zip(next).chain([("loss", loss)]);
    let entry = Entry {
        name: "step".into(),
        graph: b.finish(outputs)?,
    };
    let state = |(name, start): &(&str, Tensor)| State {
        name: (*name).into(),
        ty: start.ty(),
        init: Init::Tensor(start.clone().into()),
    };
    let program = Program {
        states: weights.iter().map(state).collect(),
        entries: vec![entry],
    };
    let mut session = Session::new(compile(&program, Cpu::native())?.into(), 1, 0)?;
    let mut result = session.results("step")?;
    let mut losses = Vec::with_capacity(steps);
    for _ in 0..steps {
        session.run("step", &[x, y], &mut result)?;
        losses.push(result[0].get(0).as_f64());
    }
    Ok((session, losses))
}

/// One neuron finds the line `y = 2 x - 1`; gives its weight and bias, and the losses on the way.
fn neuron() -> Result<([f32; 2], Vec<f64>), Error> {
    let x = Tensor::from_f32([5], &[-2.0, -1.0, 0.0, 1.0, 2.0]);
    let y = Tensor::from_f32([5], &[-5.0, -3.0, -1.0, 1.0, 3.0]);
    let start = [
        ("w", Tensor::zeros(DType::F32, [])),
        ("b", Tensor::zeros(DType::F32, [])),
    ];
    let (session, losses) = descend(&start, [&x, &y], (0.1, 200), |_, weights, x, y| {
        (x * weights[0] + weights[1] - y).square().mean([0])
    })?;
    let found = [session.state("w")?.to_f32()[0], session.state("b")?.to_f32()[0]];
    Ok((found, losses))
}

/// Two layers learn the exclusive or; gives the losses.
fn network() -> Result<Vec<f64>, Error> {
    let x = Tensor::from_f32([4, 2], &[0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
    let y = Tensor::from_f32([4, 1], &[0.0, 1.0, 1.0, 0.0]);
    let start = [
        ("w1", Tensor::from_f32([2, 3], &[0.9, -0.7, 0.4, -0.5, 1.1, 0.8])),
        ("b1", Tensor::zeros(DType::F32, [3])),
        ("w2", Tensor::from_f32([3, 1], &[0.6, 0.8, -0.9])),
        ("b2", Tensor::zeros(DType::F32, [1])),
    ];
    let (_, losses) = descend(&start, [&x, &y], (0.5, 2000), |_, weights, x, y| {
        let hidden = (x.matmul(weights[0]) + weights[1]).tanh();
        ((hidden.matmul(weights[2]) + weights[3]).sigmoid() - y)
            .square()
            .mean([0, 1])
    })?;
    Ok(losses)
}

/// A recurrent net sums what it sees, one number at a time: the loop is a scan, its gradient another one backwards. Gives the losses.
fn recurrent_net() -> Result<Vec<f64>, Error> {
    const STEPS: usize = 6;
    let x = Tensor::from_f32(
        [STEPS, 2, 1],
        &[0.1, -0.2, 0.3, 0.1, -0.1, 0.2, 0.2, 0.0, 0.1, -0.3, 0.0, 0.4],
    );
    let y = Tensor::from_f32([2, 1], &[0.6, 0.2]);
    let start = [
        ("w", Tensor::from_f32([1, 3], &[0.5, -0.3, 0.2])),
        (
            "u",
            Tensor::from_f32([3, 3], &[0.4, 0.1, 0.0, -0.2, 0.3, 0.1, 0.0, 0.2, 0.5]),
        ),
        ("v", Tensor::from_f32([3, 1], &[0.3, -0.5, 0.4])),
    ];
    let (_, losses) = descend(&start, [&x, &y], (0.2, 1000), |b, weights, x, y| {
        let steps = Steps {
            length: STEPS,
            carried: vec![b.full(DType::F32, [2, 3], 0.0)],
            sliced: vec![x],
            constants: vec![weights[0], weights[1]],
            reverse: false,
        };
        let (last, _) = b.scan(steps, |_, step| {
            let (x, w, u) = (step.sliced[0], step.constants[0], step.constants[1]);
            (vec![(x.matmul(w) + step.carried[0].matmul(u)).tanh()], Vec::new())
        });
        (last[0].matmul(weights[2]) - y).square().mean([0, 1])
    })?;
    Ok(losses)
}

/// What the neuron found, and the last losses of all three.
fn run(out: &Path) -> Result<([f32; 2], [f64; 3]), Error> {
    let (found, neuron) = neuron()?;
    let all = [neuron, network()?, recurrent_net()?];
    let last = all.each_ref().map(|losses| losses[losses.len() - 1]);
    let names = ["a neuron", "a network", "a recurrent net"];
    let series = names
        .into_iter()
        .zip(all)
        .map(|(name, losses)| Series::counted(name, losses));
    let chart = Chart::new("Without layers", "step", "loss", series.collect()).logarithmic();
    charts(&out.join("from_ops.svg"), 1, &[chart])?;
    Ok((found, last))
}

fn main() -> Result<(), Error> {
    let ([w, b], [neuron, network, recurrent]) = run(&std::env::args().nth(1).map_or("out".into(), PathBuf::from))?;
    println!("y = {w} x + {b}\nlast losses: neuron {neuron:.1e}, network {network:.1e}, recurrent net {recurrent:.1e}");
    Ok(())
}

#[test]
fn they_learn() {
    let out = tempfile::tempdir().unwrap();
    let ([w, b], [_, network, recurrent]) = run(out.path()).unwrap();
    assert!((w - 2.0).abs() < 1e-4 && (b + 1.0).abs() < 1e-4, "{w} {b}");
    assert!(network < 0.01, "{network}");
    assert!(recurrent < 1e-4, "{recurrent}");
}
