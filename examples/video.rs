//! A film of a digit that moves past a slit: `cargo run --release --example video [OUT]` draws `OUT/video.svg` (frames) and `OUT/video_accuracy.svg`.
//!
//! No frame shows more than a strip. A convolutional net turns each frame into features, an LSTM follows them; a net that is given the best single
//! frame is what it must beat.

use std::path::{Path, PathBuf};

use netloom::Error;
use netloom::ir::Tensor;
use netloom::nn::layers::{Activation, Conv, Dense, Flatten, Pool, Recurrent, TimeDistributed};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::model::ModelOptions;
use netloom::train::report::{Chart, Picture, Series, charts, gallery};
use netloom::train::{Dataset, FitOptions, Model};

const FRAMES: usize = 6;
const SLIT: usize = 8;

/// Films `[n, frames, 1, 28, slit]`: the digit moves four pixels a frame.
fn films(digits: &Dataset) -> Result<Dataset, Error> {
    let pixels = digits.inputs.to_f32();
    let strip = |picture: &[f32], frame: usize| -> Vec<f32> {
        picture
            .chunks_exact(28)
            .flat_map(|row| row[4 * frame..][..SLIT].to_vec())
            .collect()
    };
    let film = |picture: &[f32]| {
        (0..FRAMES)
            .flat_map(|frame| strip(picture, frame))
            .collect::<Vec<f32>>()
    };
    let values: Vec<f32> = pixels.chunks_exact(784).flat_map(film).collect();
    Dataset::new(
        Tensor::from_f32([digits.len(), FRAMES, 1, 28, SLIT], &values),
        digits.targets.clone(),
    )
}

/// The middle frame of each film.
fn single(films: &Dataset) -> Result<Dataset, Error> {
    let frame = 28 * SLIT;
    let values: Vec<f32> = films
        .inputs
        .to_f32()
        .chunks_exact(FRAMES * frame)
        .flat_map(|film| film[FRAMES / 2 * frame..][..frame].to_vec())
        .collect();
    Dataset::new(
        Tensor::from_f32([films.len(), 1, 28, SLIT], &values),
        films.targets.clone(),
    )
}

/// A frame to 32 features.
fn features() -> Sequential {
    Sequential::new()
        .then(Conv::d2(8, 5))
        .then(Activation::Relu)
        .then(Pool::max2(2))
        .then(Flatten)
        .then(Dense::new(32))
        .then(Activation::Relu)
}

fn accuracies(net: Sequential, train: &Dataset, test: &Dataset, epochs: usize) -> Result<Vec<f64>, Error> {
    let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(2e-3));
    let mut model = Model::compile(net, &training, train, ModelOptions::new(50))?;
    let history = model.fit(
        train,
        FitOptions {
            epochs,
            validation: Some(test),
            ..FitOptions::default()
        },
    )?;
    Ok(history
        .epochs
        .iter()
        .filter_map(|epoch| epoch.validation?.accuracy)
        .collect())
}

/// Accuracies of the net that sees the film, and of that which sees a frame.
fn run(out: &Path, examples: usize, epochs: usize) -> Result<[f64; 2], Error> {
    let (train, test) = Dataset::digits()?;
    let (train, test) = (films(&train.select(&(0..examples).collect::<Vec<_>>()))?, films(&test)?);
    let frames = test.inputs.to_f32();
    let tile = |(at, frame): (usize, &[f32])| Picture {
        height: 28,
        width: SLIT,
        pixels: frame.to_vec(),
        caption: format!("{}", at % FRAMES + 1),
    };
    let tiles: Vec<Picture> = frames
        .chunks_exact(28 * SLIT)
        .take(3 * FRAMES)
        .enumerate()
        .map(tile)
        .collect();
    gallery(
        &out.join("video.svg"),
        "Three films of digits behind a slit",
        FRAMES,
        &tiles,
    )?;

    let film = Sequential::new()
        .then(TimeDistributed::new(features()))
        .then(Recurrent::lstm(32))
        .then(Dense::new(10));
    let film = accuracies(film, &train, &test, epochs)?;
    let frame = accuracies(
        features().then(Dense::new(10)),
        &single(&train)?,
        &single(&test)?,
        epochs,
    )?;
    let last = [&film, &frame].map(|found| found.last().copied().unwrap_or(0.0));
    let series = vec![
        Series::counted("film, LSTM", film),
        Series::counted("the middle frame", frame),
    ];
    charts(
        &out.join("video_accuracy.svg"),
        1,
        &[Chart::new("Digits behind a slit", "epoch", "test accuracy", series)],
    )?;
    Ok(last)
}

fn main() -> Result<(), Error> {
    let [film, frame] = run(&std::env::args().nth(1).map_or("out".into(), PathBuf::from), 8000, 6)?;
    println!("film {:.1} %, a single frame {:.1} %", 100.0 * film, 100.0 * frame);
    Ok(())
}

#[test]
fn films_say_more_than_frames() {
    let out = tempfile::tempdir().unwrap();
    let [film, frame] = run(out.path(), 2000, 3).unwrap();
    assert!(film > frame + 0.05, "{film} {frame}");
}
