//! A table classified: wines of three cultivars by thirteen measures. `cargo run --release --example table`.

use std::path::Path;

use netloom::Error;
use netloom::nn::layers::{Activation, Dense};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::metrics::{Confusion, best_classes};
use netloom::train::model::ModelOptions;
use netloom::train::table::{Header, Scaling, Table, Target};
use netloom::train::{EarlyStopping, FitOptions, Model};

fn main() -> Result<(), Error> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/tables/wine.csv");
    let data = Table::read(&path, Header::Ignored, b',')?.dataset("13", Target::Class)?;
    let (rest, test) = data.split(0.25, 1)?;
    let (train, validation) = rest.split(0.2, 2)?;
    // The spans are those of the training data: the others are unseen.
    let scaling = Scaling::of(&train.inputs);
    let [train, validation, test] = [train, validation, test].map(|part| scaling.apply(part));

    let net = Sequential::new()
        .then(Dense::new(16))
        .then(Activation::Tanh)
        .then(Dense::new(3));
    let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(0.01));
    let mut model = Model::compile(net, &training, &train, ModelOptions::new(16))?;
    let mut stop = EarlyStopping::new(20);
    model.fit(
        &train,
        FitOptions {
            epochs: 200,
            validation: Some(&validation),
            callbacks: vec![&mut stop],
            ..FitOptions::default()
        },
    )?;

    let labels: Vec<usize> = test.targets.to_i64().into_iter().map(|label| label as usize).collect();
    let confusion = Confusion::new(3, &labels, &best_classes(&model.predict(&test.inputs)?));
    println!("{confusion}accuracy {:.1} %", 100.0 * confusion.accuracy());
    assert!(confusion.accuracy() > 0.9);
    Ok(())
}

#[test]
fn it_tells_wines_apart() {
    main().unwrap();
}
