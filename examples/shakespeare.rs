//! Shakespeare, letter by letter, and who speaks: `cargo run --release --example shakespeare [OUT]` draws `OUT/shakespeare.svg` and prints what the net writes.
//!
//! A recurrent net learns to foretell the next character of nine tenths of eight plays and the sonnets; what it carries goes on from batch to batch
//! (truncated backpropagation through time). Another, with an embedding, tells which of the works twenty lines come from, against naive Bayes.

use std::io::Read;
use std::path::{Path, PathBuf};

use netloom::Error;
use netloom::ir::sample::SplitMix;
use netloom::ir::{DType, Tensor};
use netloom::nn::layers::{Dense, Embedding, Function, Recurrent};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::classic::NaiveBayes;
use netloom::train::metrics::best_classes;
use netloom::train::model::ModelOptions;
use netloom::train::report::{Chart, Series, charts};
use netloom::train::{Dataset, FitOptions, Model};

/// The text, and the characters in it, each with a number.
fn text() -> Result<(Vec<usize>, Vec<char>, String), Error> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/text/shakespeare.txt.gz");
    let fail = |reason: std::io::Error| Error::file(&path, reason);
    let mut text = String::new();
    let packed = std::fs::read(&path).map_err(fail)?;
    flate2::read::GzDecoder::new(packed.as_slice())
        .read_to_string(&mut text)
        .map_err(fail)?;
    let mut alphabet: Vec<char> = text.chars().collect();
    alphabet.sort_unstable();
    alphabet.dedup();
    let number = |c: char| alphabet.binary_search(&c).expect("every character is in the alphabet");
    Ok((text.chars().map(number).collect(), alphabet, text))
}

const BATCH: usize = 32;
const STEPS: usize = 32;

/// The text in as many stripes as a batch has rows: batch follows batch along them, and the target of each character is the next.
fn stripes(text: &[usize]) -> Result<Dataset, Error> {
    let stripe = (text.len() - 1) / BATCH / STEPS * STEPS;
    let part = |shift: usize| {
        let row = |at: usize| {
            let (batch, row) = (at / BATCH, at % BATCH);
            text[row * stripe + batch * STEPS + shift..][..STEPS]
                .iter()
                .map(|&c| c as i64)
        };
        let values: Vec<i64> = (0..stripe / STEPS * BATCH).flat_map(row).collect();
        Tensor::from_i64([values.len() / STEPS, STEPS], &values)
    };
    Dataset::new(part(0), part(1))
}

fn net(alphabet: usize, units: usize) -> Sequential {
    let lstm = Recurrent::lstm(units).sequences().stateful();
    Sequential::new()
        .then(Embedding::new(alphabet, 32))
        .then(lstm)
        .then(Dense::new(alphabet))
}

fn training(start: f64, steps: usize) -> Training {
    let rate = Rate::Cosine {
        start,
        end: 0.0,
        steps: steps as u64,
        warm_up: 0,
    };
    Training {
        clip_norm: Some(1.0),
        ..Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), rate)
    }
}

/// Bits per character on the held tenth after each epoch, and what the net writes.
fn characters(share: usize, units: usize, epochs: usize) -> Result<(Vec<f64>, String), Error> {
    let (text, alphabet, _) = text()?;
    let (learnt, held) = text.split_at(text.len() / 10 * 9);
    let (train, held) = (
        stripes(&learnt[..learnt.len() / share])?,
        stripes(&held[..held.len() / share])?,
    );
    let training = training(4e-3, train.len() / BATCH * epochs);
    let mut model = Model::compile(net(alphabet.len(), units), &training, &train, ModelOptions::new(BATCH))?;
    let options = FitOptions {
        epochs,
        in_order: true,
        validation: Some(&held),
        ..FitOptions::default()
    };
    let history = model.fit(&train, options)?;
    let bits = history
        .epochs
        .iter()
        .filter_map(|epoch| Some(epoch.validation?.loss / std::f64::consts::LN_2));

    // One character at a time, the carried values kept between calls.
    let one = Dataset::new(Tensor::from_i64([1, 1], &[0]), Tensor::from_i64([1, 1], &[0]))?;
    let mut writer = Model::compile(net(alphabet.len(), units), &training, &one, ModelOptions::new(1))?;
    writer.adopt(&model)?;
    let mut draws = SplitMix(1);
    let (mut last, mut written) = (alphabet.binary_search(&'\n').unwrap_or(0), String::new());
    for _ in 0..400 {
        let scores = writer.predict(&Tensor::from_i64([1, 1], &[last as i64]))?.to_f32();
        let most = scores.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f64> = scores
            .iter()
            .map(|score| (f64::from(score - most) / 0.7).exp())
            .collect();
        let mut left = draws.unit() * weights.iter().sum::<f64>();
        last = weights
            .iter()
            .position(|weight| {
                left -= weight;
                left <= 0.0
            })
            .unwrap_or(0);
        written.push(alphabet[last]);
    }
    Ok((bits.collect(), written))
}

/// Twenty lines of a work as words, and which work it is; every fifth act or part is held back.
type Passage = (Vec<usize>, usize);

/// Passages to learn from and passages held back, and the number of words. Titles and the names of those who speak are removed.
fn passages() -> Result<([Vec<Passage>; 2], usize), Error> {
    const LINES: usize = 20;
    let (_, _, text) = text()?;
    let works: Vec<&str> = text.split("by William Shakespeare").skip(1).collect();
    let mut vocabulary: Vec<String> = Vec::new();
    let mut found = [Vec::new(), Vec::new()];
    for (work, whole) in works.iter().enumerate() {
        // A speaker stands alone in a line that ends with a full stop, a direction in brackets; the next title ends the work.
        let speaks = |line: &&str| {
            let is_name = line.split_whitespace().count() <= 3 && line.ends_with('.');
            !line.is_empty() && !is_name && !line.starts_with('[') && line.chars().any(char::is_lowercase)
        };
        let body = whole.rsplit_once("\n\n").map_or(*whole, |(body, _)| body);
        let acts: Vec<&str> = body.split("\nACT ").collect();
        // What has no acts is cut into five.
        let lines: Vec<Vec<&str>> = match acts.as_slice() {
            [only] => {
                let lines: Vec<&str> = only.lines().map(str::trim).filter(speaks).collect();
                lines
                    .chunks(lines.len().div_ceil(5).max(1))
                    .map(<[&str]>::to_vec)
                    .collect()
            }
            [_, acts @ ..] => acts
                .iter()
                .map(|act| act.lines().map(str::trim).filter(speaks).collect())
                .collect(),
            [] => Vec::new(),
        };
        for (act, lines) in lines.iter().enumerate() {
            for passage in lines.chunks_exact(LINES) {
                let words = passage
                    .iter()
                    .flat_map(|line| line.split(|c: char| !c.is_alphabetic() && c != '\''));
                let words = words.filter(|word| !word.is_empty()).map(str::to_lowercase);
                found[usize::from(act % 5 == 3)].push((words.collect::<Vec<String>>(), work));
            }
        }
    }
    for (words, _) in &found[0] {
        vocabulary.extend_from_slice(words);
    }
    vocabulary.sort_unstable();
    vocabulary.dedup();
    // 0 is for words that no passage to learn from has.
    let number = |word: &String| vocabulary.binary_search(word).map_or(0, |at| at + 1);
    let numbered = |part: &Vec<(Vec<String>, usize)>| -> Vec<Passage> {
        part.iter()
            .map(|(words, work)| (words.iter().map(number).collect(), *work))
            .collect()
    };
    Ok((found.each_ref().map(numbered), vocabulary.len() + 1))
}

/// Accuracies on the held acts: of a net with an embedding, and of naive Bayes.
fn works(epochs: usize) -> Result<[f64; 2], Error> {
    const WORDS: usize = 160;
    let ([learnt, held], vocabulary) = passages()?;
    let classes = 1 + learnt.iter().map(|(_, work)| *work).max().unwrap_or(0);
    let data = |part: &[Passage]| {
        let row = |(words, _): &Passage| {
            (0..WORDS)
                .map(|at| words.get(at).map_or(-1, |&word| word as i64))
                .collect::<Vec<i64>>()
        };
        let labels: Vec<i64> = part.iter().map(|(_, work)| *work as i64).collect();
        let words: Vec<i64> = part.iter().flat_map(row).collect();
        Dataset::new(
            Tensor::from_i64([part.len(), WORDS], &words),
            Tensor::from_i64([part.len()], &labels),
        )
    };
    let (train, test) = (data(&learnt)?, data(&held)?);
    // The mean of the embedded words; -1 stands for no word.
    let mean = Function::new("MeanEmbedding", move |scope, x| {
        let there = x.ge(0.0).cast(DType::F32);
        let init = netloom::nn::Initialiser::Gaussian(0.1);
        let words = scope.parameter("weight", [vocabulary, 64], &init).gather(x.max(0.0), 0);
        (words * there.unsqueeze([2])).sum([1]) / there.sum([1]).max(1.0).unsqueeze([1])
    });
    let net = Sequential::new().then(mean).then(Dense::new(classes));
    let mut model = Model::compile(
        net,
        &training(0.02, train.len() / 16 * epochs),
        &train,
        ModelOptions::new(16),
    )?;
    model.fit(
        &train,
        FitOptions {
            epochs,
            ..FitOptions::default()
        },
    )?;
    let share = |found: Vec<usize>| {
        let right = found
            .iter()
            .zip(&held)
            .filter(|(found, (_, work))| *found == work)
            .count();
        right as f64 / held.len() as f64
    };
    let by_net = share(best_classes(&model.predict(&test.inputs)?));
    let texts = learnt.iter().map(|(words, work)| (words.as_slice(), *work));
    let bayes = NaiveBayes::fit(texts, vocabulary, classes);
    Ok([
        by_net,
        share(held.iter().map(|(words, _)| bayes.predict(words)).collect()),
    ])
}

fn main() -> Result<(), Error> {
    let out = std::env::args().nth(1).map_or("out".into(), PathBuf::from);
    let (bits, written) = characters(1, 128, 3)?;
    println!("bits per character on the held tenth: {bits:.3?}\n{written}\n");
    let chart = Chart::new(
        "Shakespeare, the held tenth",
        "epoch",
        "bits per character",
        vec![Series::counted("LSTM(128)", bits)],
    );
    charts(&out.join("shakespeare.svg"), 1, &[chart])?;
    let [net, bayes] = works(20)?;
    println!(
        "which of nine works: net {:.1} %, naive Bayes {:.1} %",
        100.0 * net,
        100.0 * bayes
    );
    Ok(())
}

#[test]
fn it_learns_letters() {
    let (bits, written) = characters(6, 48, 3).unwrap();
    // Characters drawn by their frequency alone need 4.8 bits.
    assert!(bits[2] < bits[0] && bits[2] < 3.9, "{bits:?}");
    assert_eq!(written.chars().count(), 400);
}

#[test]
fn it_tells_works_apart() {
    let [net, bayes] = works(6).unwrap();
    assert!(net > 0.4 && bayes > 0.4, "{net} {bayes}");
}
