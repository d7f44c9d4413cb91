//! The functional form: a block with a way around it, as a closure. `cargo run --release --example residual`.

use netloom::nn::layers::{BatchNorm, Conv, Dense, Function, GlobalPool, Pool, PoolOf};
use netloom::nn::{Layer, Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::model::ModelOptions;
use netloom::train::{Dataset, FitOptions, Model};
use netloom::{Cpu, Error};

/// `relu(x + norm(conv(relu(norm(conv(x))))))`; each part has its own scope, so its parameters have names of their own.
fn residual(channels: usize) -> impl Layer {
    Function::new("Residual", move |scope, x| {
        let conv = Conv::d2(channels, 3).padding(1).without_bias();
        let inner = conv.build(&scope.enter("conv1"), x);
        let inner = BatchNorm::default().build(&scope.enter("norm1"), inner).relu();
        let inner = conv.build(&scope.enter("conv2"), inner);
        (x + BatchNorm::default().build(&scope.enter("norm2"), inner)).relu()
    })
}

fn main() -> Result<(), Error> {
    let (train, test) = Dataset::digits()?;
    let net = Sequential::new()
        .then(Conv::d2(8, 5).stride(2))
        .then(Pool::max2(2))
        .then(residual(8))
        .then(GlobalPool(PoolOf::Max))
        .then(Dense::new(10));
    let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(1e-2));
    let options = ModelOptions {
        batch: 50,
        threads: 1,
        seed: 0,
        device: Cpu::native().into(),
    };
    let mut model = Model::compile(net, &training, &train, options)?;
    print!("{}", model.summary()?);
    model.fit(
        &train,
        FitOptions {
            epochs: 1,
            ..FitOptions::default()
        },
    )?;
    let scores = model.evaluate(&test)?;
    println!("{scores:?}");
    assert!(scores.accuracy.is_some_and(|accuracy| accuracy > 0.6));
    Ok(())
}

#[test]
fn it_learns() {
    main().unwrap();
}
