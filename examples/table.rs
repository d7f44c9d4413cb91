//! A table classified: wines of three cultivars by thirteen measures. `cargo run --release --example table [OUT]` draws `OUT/table.svg` and prints which
//! wines are taken for which.

use std::path::{Path, PathBuf};

use netloom::Error;
use netloom::nn::layers::{Activation, Dense};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::metrics::{Confusion, best_classes};
use netloom::train::model::ModelOptions;
use netloom::train::report::{Chart, Series, charts};
use netloom::train::table::{Header, Scaling, Table, Target};
use netloom::train::{EarlyStopping, Epoch, FitOptions, Model};

fn run(out: &Path) -> Result<Confusion, Error> {
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
    let history = model.fit(
        &train,
        FitOptions {
            epochs: 200,
            validation: Some(&validation),
            callbacks: vec![&mut stop],
            ..FitOptions::default()
        },
    )?;

    let losses = |name: &str, of: &dyn Fn(&Epoch) -> f64| Series::counted(name, history.epochs.iter().map(of));
    let series = vec![
        losses("training", &|epoch| {
            epoch.training.map_or(f64::NAN, |scores| scores.loss)
        }),
        losses("validation", &|epoch| {
            epoch.validation.map_or(f64::NAN, |scores| scores.loss)
        }),
    ];
    let chart = Chart::new("Three kinds of wine", "epoch", "loss", series);
    charts(&out.join("table.svg"), 1, &[chart])?;

    let labels: Vec<usize> = test.targets.to_i64().into_iter().map(|label| label as usize).collect();
    Ok(Confusion::new(3, &labels, &best_classes(&model.predict(&test.inputs)?)))
}

fn main() -> Result<(), Error> {
    let confusion = run(&std::env::args().nth(1).map_or("out".into(), PathBuf::from))?;
    println!("{confusion}accuracy {:.1} %", 100.0 * confusion.accuracy());
    Ok(())
}

#[test]
fn it_tells_wines_apart() {
    let out = tempfile::tempdir().unwrap();
    let confusion = run(out.path()).unwrap();
    assert!(confusion.accuracy() > 0.9, "{confusion}");
}
