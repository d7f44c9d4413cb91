//! Why convolution, and what a convolutional net sees: `cargo run --release --example convolution [OUT]` draws `OUT/convolution.svg` (accuracy of nets that share
//! their weights or not), `OUT/activations_cnn.svg` (filters, the activations of every layer for one digit) and `OUT/saliency.svg`.

use std::path::{Path, PathBuf};

use netloom::Error;
use netloom::ir::Tensor;
use netloom::nn::layers::{Activation, Conv, Dense, Flatten, LocallyConnected, Pool, summary};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::insight::{activations, saliency};
use netloom::train::model::ModelOptions;
use netloom::train::report::{Chart, Picture, Series, charts, gallery};
use netloom::train::{Dataset, FitOptions, Model};

/// The same number of results in the middle, by weights for every pair of pixels, for every place, or for all places alike; and with pooling.
fn nets() -> [(&'static str, Sequential); 4] {
    let finish = |net: Sequential| net.then(Activation::Relu).then(Flatten).then(Dense::new(10));
    let conv = || {
        Sequential::new().then(Conv {
            stride: vec![2, 2],
            ..Conv::d2(8, 5)
        })
    };
    let dense = Sequential::new().then(Flatten).then(Dense::new(8 * 12 * 12));
    let local = Sequential::new().then(LocallyConnected {
        filters: 8,
        kernel: 5,
        stride: 2,
    });
    let deeper = Sequential::new()
        .then(Conv::d2(8, 5))
        .then(Activation::Relu)
        .then(Pool::max2(2));
    [
        ("dense", finish(dense)),
        ("locally connected", finish(local)),
        ("convolution", finish(conv())),
        (
            "convolution, pooling",
            finish(deeper.then(Conv::d2(16, 5)).then(Pool::max2(2))),
        ),
    ]
}

/// What one net came to.
struct Row {
    name: &'static str,
    parameters: usize,
    contractions: f64,
    step_ms: f64,
    accuracy: f64,
}

fn run(out: &Path, examples: usize, epochs: usize) -> Result<Vec<Row>, Error> {
    let (train, test) = Dataset::digits()?;
    let train = train.select(&(0..examples).collect::<Vec<_>>());
    let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(1e-3));
    let (mut rows, mut series, mut last) = (Vec::new(), Vec::new(), None);
    for (name, net) in nets() {
        let mut model = Model::compile(net, &training, &train, ModelOptions::new(50))?;
        let options = FitOptions {
            epochs,
            validation: Some(&test),
            ..FitOptions::default()
        };
        let history = model.fit(&train, options)?;
        let layers = summary(
            model.net(),
            &netloom::ir::Type::new(train.inputs.dtype(), [50, 1, 28, 28]),
        )?;
        let flops = layers.iter().map(|row| row.flops).sum::<netloom::ir::cost::Flops>();
        let accuracies = history
            .epochs
            .iter()
            .map(|epoch| epoch.validation.and_then(|scores| scores.accuracy).unwrap_or(0.0));
        rows.push(Row {
            name,
            parameters: layers.iter().map(|row| row.parameters).sum(),
            contractions: flops.contractions / flops.all,
            step_ms: history
                .epochs
                .iter()
                .map(|epoch| epoch.step_ms)
                .fold(f64::INFINITY, f64::min),
            accuracy: accuracies.clone().next_back().unwrap_or(0.0),
        });
        series.push(Series::counted(name, accuracies));
        last = Some(model);
    }
    let chart = Chart::new("Shared weights, and shared by neighbours", "epoch", "accuracy", series);
    charts(&out.join("convolution.svg"), 1, &[chart])?;
    let mut model = last.expect("there are nets");
    pictures(out, &mut model, &test)?;
    Ok(rows)
}

/// What the layers of the last net make of one digit, and what its answers to ten hang on.
fn pictures(out: &Path, model: &mut Model, test: &Dataset) -> Result<(), Error> {
    let filters = model.session().state("0.weight")?.to_f32();
    let mut tiles: Vec<Picture> = filters
        .chunks_exact(25)
        .map(|filter| Picture::stretched(5, 5, filter, "filter".to_owned()))
        .collect();
    for (kind, result) in activations(model, &test.select(&[3]).inputs)? {
        // Planes as they are, at most eight; the values of a flat layer in rows as near to a square as divide them.
        let [height, width] = match *result.shape() {
            [_, _, height, width] => [height, width],
            _ => {
                let count = result.count();
                let height = (1..=count.isqrt()).rev().find(|rows| count.is_multiple_of(*rows));
                [height.unwrap_or(1), count / height.unwrap_or(1)]
            }
        };
        let caption = kind.split('(').next().unwrap_or("");
        let values = result.to_f32();
        let planes = values.chunks_exact(height * width).take(8);
        tiles.extend(planes.map(|plane| Picture::stretched(height, width, plane, caption.to_owned())));
    }
    gallery(
        &out.join("activations_cnn.svg"),
        "Filters, and the activations of each layer for one digit",
        8,
        &tiles,
    )?;
    let digits = test.select(&(0..10).collect::<Vec<_>>()).inputs;
    let looks = saliency(model, &digits)?;
    let row = |of: &Tensor, caption: &str| {
        let values = of.to_f32();
        let tile = |plane: &[f32]| Picture::stretched(28, 28, plane, caption.to_owned());
        values.chunks_exact(784).map(tile).collect::<Vec<Picture>>()
    };
    let tiles = [row(&digits, ""), row(&looks, "saliency")].concat();
    gallery(&out.join("saliency.svg"), "What the answers hang on", 10, &tiles)
}

fn main() -> Result<(), Error> {
    let rows = run(&std::env::args().nth(1).map_or("out".into(), PathBuf::from), 4000, 8)?;
    println!(
        "{:<22} {:>10} {:>16} {:>8} {:>9}",
        "middle", "parameters", "in contractions", "ms/step", "accuracy"
    );
    for Row {
        name,
        parameters,
        contractions,
        step_ms,
        accuracy,
    } in rows
    {
        println!(
            "{name:<22} {parameters:>10} {:>14.1} % {step_ms:>8.2} {:>7.2} %",
            100.0 * contractions,
            100.0 * accuracy
        );
    }
    Ok(())
}

#[test]
fn sharing_weights_saves_most_of_them_and_loses_nothing() {
    let out = tempfile::tempdir().unwrap();
    let rows = run(out.path(), 1000, 8).unwrap();
    let [dense, local, conv, pooled] = rows.as_slice() else {
        panic!("four nets")
    };
    assert!(dense.parameters > 10 * local.parameters.max(conv.parameters));
    assert!(local.parameters > conv.parameters);
    assert!(pooled.parameters < dense.parameters / 20);
    assert!(
        pooled.accuracy > conv.accuracy - 0.02 && pooled.accuracy > 0.85,
        "{}",
        pooled.accuracy
    );
    assert!(
        rows.iter().all(|row| row.contractions > 0.9),
        "the share of contractions"
    );
}
