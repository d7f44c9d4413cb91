//! A restricted Boltzmann machine learns digits: `cargo run --release --example rbm [OUT] [EPOCHS] [THREADS]` draws `OUT/rbm.svg` (what its units look for) and
//! `OUT/rbm_likelihood.svg` (the pseudo-likelihood, by contrastive divergence and by chains that go on), and prints how long an epoch takes.
//!
//! 784 pixels, 500 hidden units, batches of 100: the machine of `benches/peers/rbm.py`.

use std::path::{Path, PathBuf};

use netloom::ir::Tensor;
use netloom::train::Dataset;
use netloom::train::classic::{Chains, Rbm, RbmEpoch, RbmOptions, Visible};
use netloom::train::report::{Chart, Picture, Series, charts, gallery};
use netloom::{Cpu, Error};

/// What each kind of chain came to, epoch by epoch.
fn run(out: &Path, data: &Tensor, hidden: usize, epochs: usize, threads: usize) -> Result<[Vec<RbmEpoch>; 2], Error> {
    let learn = |chains: Chains| {
        let options = RbmOptions {
            hidden,
            visible: Visible::Bernoulli,
            chains,
            rate: 0.1,
            momentum: 0.5,
            decay: 1e-4,
            batch: 100,
            seed: 0,
        };
        let mut machine = Rbm::compile(784, options, &Cpu::native().into(), threads)?;
        let history = machine.fit(data, epochs)?;
        Ok::<_, Error>((machine, history))
    };
    let (machine, divergence) = learn(Chains::FromData(1))?;
    let (_, persistent) = learn(Chains::Persistent(1))?;
    let weights = machine.weights()?[0].to_f32();
    let filter = |unit: usize| {
        let values: Vec<f32> = weights.iter().skip(unit).step_by(hidden).copied().collect();
        Picture::stretched(28, 28, &values, String::new())
    };
    let filters: Vec<Picture> = (0..hidden.min(40)).map(filter).collect();
    gallery(&out.join("rbm.svg"), "What 40 hidden units look for", 10, &filters)?;
    let curve = |name: &str, history: &[RbmEpoch]| {
        Series::counted(name, history.iter().filter_map(|epoch| epoch.pseudo_likelihood))
    };
    let series = vec![curve("CD-1", &divergence), curve("persistent CD-1", &persistent)];
    let title = "How probable a machine of 500 units finds the digits it learns";
    let chart = Chart::new(title, "epoch", "log pseudo-likelihood", series);
    charts(&out.join("rbm_likelihood.svg"), 1, &[chart])?;
    Ok([divergence, persistent])
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().map_or("out".into(), PathBuf::from);
    let mut number = |otherwise: usize| arguments.next().and_then(|word| word.parse().ok()).unwrap_or(otherwise);
    let (epochs, threads) = (number(15), number(1));
    let (train, _) = Dataset::digits()?;
    let histories = run(&out, &train.flattened().inputs, 500, epochs, threads)?;
    for (name, history) in ["contrastive divergence", "persistent chains"]
        .into_iter()
        .zip(&histories)
    {
        let mut seconds: Vec<f64> = history.iter().map(|epoch| epoch.took.as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        if let [.., last] = history.as_slice() {
            println!(
                "{name}: an epoch takes {:.3} s at least, {:.3} s in the median; in the last the squared error is {:.4}, the pseudo-likelihood {:.1}",
                seconds[0],
                seconds[seconds.len() / 2],
                last.error,
                last.pseudo_likelihood.unwrap_or(f64::NAN)
            );
        }
    }
    Ok(())
}

#[test]
fn digits_become_more_probable() {
    let out = tempfile::tempdir().unwrap();
    let (train, _) = Dataset::digits().unwrap();
    let some = train.select(&(0..2000).collect::<Vec<_>>()).flattened();
    for history in run(out.path(), &some.inputs, 60, 20, 1).unwrap() {
        let [first, .., last] = history.as_slice() else {
            panic!("twenty epochs")
        };
        let likelihood = |epoch: &RbmEpoch| epoch.pseudo_likelihood.unwrap();
        // Of 784 pixels each as likely as not it is -543.
        assert!(
            likelihood(last) > 0.7 * likelihood(first) && likelihood(last) > -200.0,
            "{history:?}"
        );
        assert!(last.error < first.error, "{history:?}");
    }
}
