//! The carbon dioxide above Mauna Loa, foretold: `cargo run --release --example forecast [OUT]` draws `OUT/forecast.svg`.
//!
//! An LSTM reads three years, month by month, and says the next twelve. It has seen nothing of the last five years; each of them is foretold
//! from the years before it. Foretelling last year's value of the same month (seasonal naive) is what it must beat.

use std::ops::Range;
use std::path::{Path, PathBuf};

use netloom::Error;
use netloom::ir::Tensor;
use netloom::nn::layers::{Dense, Recurrent};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::model::ModelOptions;
use netloom::train::report::{Chart, Series, charts};
use netloom::train::table::{Header, Table};
use netloom::train::{Dataset, FitOptions, Model};

const YEAR: usize = 12;
const READ: usize = 3 * YEAR;
const HELD: usize = 5 * YEAR;
/// Parts per million to numbers near 1.
const SCALE: f32 = 3.0;

/// Means of the months that have any measurement, in order; a month without one lies between its neighbours.
fn months() -> Result<(f64, Vec<f32>), Error> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/series/co2.csv");
    let table = Table::read(&path, Header::Names, b',')?;
    let (dates, values) = (table.numbers("date")?, table.numbers_with_gaps("co2")?);
    let month = |date: f32| (date / 1e4) as usize * YEAR + (date / 1e2) as usize % 100 - 1;
    let first = month(dates[0]);
    let mut sums = vec![(0.0f32, 0.0f32); month(dates[dates.len() - 1]) - first + 1];
    for (date, value) in dates.iter().zip(values) {
        let (sum, count) = &mut sums[month(*date) - first];
        *sum += value.unwrap_or(0.0);
        *count += f32::from(u8::from(value.is_some()));
    }
    let known = |at: &usize| sums[*at].1 > 0.0;
    let mean = |at: usize| sums[at].0 / sums[at].1;
    let filled = (0..sums.len()).map(|at| {
        let before = (0..=at).rev().find(known).unwrap_or(at);
        let after = (at..sums.len()).find(known).unwrap_or(before);
        let share = (at - before) as f32 / (after - before).max(1) as f32;
        mean(before) + share * (mean(after) - mean(before))
    });
    Ok((first as f64 / YEAR as f64, filled.collect()))
}

/// These months, relative to the last value before month `at`.
fn relative(series: &[f32], months: Range<usize>, at: usize) -> impl Iterator<Item = f32> + '_ {
    series[months].iter().map(move |value| (value - series[at - 1]) / SCALE)
}

/// Mean absolute errors in parts per million, of the forecast and of the seasonal naive one.
fn run(out: &Path, epochs: usize) -> Result<[f64; 2], Error> {
    let (start, series) = months()?;
    let past = series.len() - HELD;
    let places: Vec<usize> = (READ..=past - YEAR).collect();
    let inputs: Vec<f32> = places
        .iter()
        .flat_map(|&at| relative(&series, at - READ..at, at))
        .collect();
    let targets: Vec<f32> = places
        .iter()
        .flat_map(|&at| relative(&series, at..at + YEAR, at))
        .collect();
    let train = Dataset::new(
        Tensor::from_f32([places.len(), READ, 1], &inputs),
        Tensor::from_f32([places.len(), YEAR], &targets),
    )?;
    let net = Sequential::new().then(Recurrent::lstm(24)).then(Dense::new(YEAR));
    let steps = (train.len() / 32 * epochs) as u64;
    let rate = Rate::Cosine {
        start: 0.01,
        end: 0.0,
        steps,
        warm_up: 0,
    };
    let training = Training {
        clip_norm: Some(1.0),
        ..Training::new(Loss::MeanSquaredError, Optimiser::adam(), rate)
    };
    let mut model = Model::compile(net, &training, &train, ModelOptions::new(32))?;
    model.fit(
        &train,
        FitOptions {
            epochs,
            ..FitOptions::default()
        },
    )?;

    let origins: Vec<usize> = (past..series.len()).step_by(YEAR).collect();
    let read: Vec<f32> = origins
        .iter()
        .flat_map(|&at| relative(&series, at - READ..at, at))
        .collect();
    let changes = model
        .predict(&Tensor::from_f32([origins.len(), READ, 1], &read))?
        .to_f32();
    let foretold: Vec<f32> = changes
        .chunks_exact(YEAR)
        .zip(&origins)
        .flat_map(|(year, &at)| {
            year.iter()
                .map(|change| series[at - 1] + change * SCALE)
                .collect::<Vec<f32>>()
        })
        .collect();
    let naive = &series[past - YEAR..series.len() - YEAR];
    let error = |found: &[f32]| {
        let sum: f64 = found
            .iter()
            .zip(&series[past..])
            .map(|(a, b)| f64::from((a - b).abs()))
            .sum();
        sum / HELD as f64
    };
    let timed = |from: usize, values: &[f32]| -> Vec<(f64, f64)> {
        let point = |(at, value): (usize, &f32)| (start + (from + at) as f64 / YEAR as f64, f64::from(*value));
        values.iter().enumerate().map(point).collect()
    };
    let drawn = vec![
        Series::line("measured", timed(past - YEAR, &series[past - YEAR..])),
        Series::line("LSTM, a year ahead", timed(past, &foretold)),
        Series::dashed("seasonal naive", timed(past, naive)),
    ];
    charts(
        &out.join("forecast.svg"),
        1,
        &[Chart::new("CO₂ at Mauna Loa", "year", "ppm", drawn)],
    )?;
    Ok([error(&foretold), error(naive)])
}

fn main() -> Result<(), Error> {
    let [lstm, naive] = run(&std::env::args().nth(1).map_or("out".into(), PathBuf::from), 60)?;
    println!("mean absolute error of five years foretold: LSTM {lstm:.2} ppm, seasonal naive {naive:.2} ppm");
    Ok(())
}

#[test]
fn it_beats_last_year() {
    let out = tempfile::tempdir().unwrap();
    let [lstm, naive] = run(out.path(), 20).unwrap();
    assert!(lstm < 0.75 * naive, "{lstm} {naive}");
}
