//! Restricted Boltzmann machines, and stacks of them.
//!
//! G. Hinton, "Training products of experts by minimizing contrastive divergence", 2002; T. Tieleman, "Training restricted
//! Boltzmann machines using approximations to the likelihood gradient", 2008; G. Hinton, S. Osindero, Y.-W. Teh, "A fast learning algorithm for
//! deep belief nets", 2006. A step (sampling, statistics, update, measures) is one compiled entry on any device; its random numbers
//! are the graph's own.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use netloom_ir::builder::{Builder, Val};
use netloom_ir::{DType, Entry, Program, Tensor};

use super::{as_rows, rows};
use crate::compile::compile;
use crate::device::Device;
use crate::error::Error;
use crate::nn::scope::{STEP, States};
use crate::nn::{Initialiser, Mode, Scope};
use crate::session::Session;
use crate::train::dataset::{Dataset, shuffled};
use crate::train::model::in_batches;

/// What the visible units are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    /// 0 or 1, each with a probability; data lie in [0, 1].
    Bernoulli,
    /// Real numbers with variance 1; data have mean 0 and variance 1.
    Gaussian,
}

/// Where the samples come from that the data are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chains {
    /// From the data, so many steps of Gibbs sampling on: contrastive divergence, CD-k.
    FromData(usize),
    /// From where the last training step left them, so many steps on: persistent contrastive divergence.
    Persistent(usize),
}

/// How a machine is built and trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RbmOptions {
    /// The number of hidden units.
    pub hidden: usize,
    /// The kind of the visible ones.
    pub visible: Visible,
    /// The negative samples.
    pub chains: Chains,
    /// The learning rate.
    pub rate: f64,
    /// The share of the last change in the next.
    pub momentum: f64,
    /// The weight of half the sum of squared weights in the objective.
    pub decay: f64,
    /// Examples in a step.
    pub batch: usize,
    /// What weights and samples are drawn from.
    pub seed: u64,
}

/// What an epoch brought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RbmEpoch {
    /// The mean squared difference between the data and what one step of sampling makes of them.
    pub error: f64,
    /// The pseudo-likelihood: the logarithm of the probability of each value given all others, summed, its mean over the data, estimated
    /// from one value of each. `None` for Gaussian units.
    pub pseudo_likelihood: Option<f64>,
    /// How long it took.
    pub took: Duration,
}

/// A machine with compiled entries for training and for use.
pub struct Rbm {
    session: Session,
    options: RbmOptions,
    width: usize,
}

const TRAIN: &str = "train";
const HIDDEN: &str = "hidden";
const VISIBLE: &str = "visible";

impl Rbm {
    /// Compiles a machine for examples of `width` values. Weights start normal with deviation 0.01, biases at 0.
    ///
    /// # Errors
    /// If a size is zero, or the device fails.
    pub fn compile(width: usize, options: RbmOptions, device: &Device, threads: usize) -> Result<Rbm, Error> {
        let RbmOptions { hidden, batch, .. } = options;
        if width == 0 || hidden == 0 || batch == 0 {
            return Err(Error::Usage(format!(
                "a machine has visible and hidden units and a batch examples, found {width}, {hidden} and {batch}"
            )));
        }
        let states = Rc::new(RefCell::new(States::default()));
        let machine = Machine { width, options };
        let entries = vec![
            entry(TRAIN, [batch, width], &states, |scope, x| machine.train(scope, x))?,
            entry(HIDDEN, [batch, width], &states, |scope, x| {
                vec![("h", machine.hidden(scope, x))]
            })?,
            entry(VISIBLE, [batch, hidden], &states, |scope, h| {
                vec![("v", machine.visible(scope, h))]
            })?,
        ];
        let states = states.borrow().states().to_vec();
        let executable = compile(&Program { states, entries }, device)?;
        let session = Session::new(executable.into(), threads, options.seed)?;
        Ok(Rbm {
            session,
            options,
            width,
        })
    }

    /// Trains on `[n, …]`, whose order in each epoch is drawn from the seed; a last batch that is not full is left out.
    ///
    /// # Errors
    /// If the data do not fit or are fewer than a batch, or the machine diverges.
    pub fn fit(&mut self, data: &Tensor, epochs: usize) -> Result<Vec<RbmEpoch>, Error> {
        let (count, batch) = (self.checked(data, self.width)?, self.options.batch);
        if count < batch {
            return Err(Error::Usage(format!(
                "{count} examples are less than a batch of {batch}"
            )));
        }
        let data = Dataset::new(as_rows(data, count, self.width), Tensor::zeros(DType::F32, [count]))?;
        let mut part = data.select(&vec![0; batch]);
        let mut results = self.session.results(TRAIN)?;
        let mut history = Vec::new();
        for number in 1..=epochs {
            let order = shuffled(count, self.options.seed.wrapping_add(number as u64));
            let (start, mut error, mut likelihood) = (Instant::now(), 0.0, 0.0);
            for positions in order.chunks_exact(batch) {
                data.copy_into(positions, &mut part);
                self.session.run(TRAIN, &[&part.inputs], &mut results)?;
                error += results[0].get(0).as_f64();
                likelihood += results.get(1).map_or(0.0, |value| value.get(0).as_f64());
            }
            let steps = (count / batch) as f64;
            if !error.is_finite() {
                return Err(Error::Training(format!(
                    "the machine diverges: the error of epoch {number} is {error}; lower the rate"
                )));
            }
            history.push(RbmEpoch {
                error: error / steps,
                pseudo_likelihood: (results.len() > 1).then_some(likelihood / steps),
                took: start.elapsed(),
            });
        }
        Ok(history)
    }

    /// The probabilities of the hidden units given examples `[n, …]`: `[n, hidden]`.
    ///
    /// # Errors
    /// If the examples do not fit.
    pub fn hidden(&mut self, data: &Tensor) -> Result<Tensor, Error> {
        let count = self.checked(data, self.width)?;
        in_batches(
            &mut self.session,
            HIDDEN,
            self.options.batch,
            &as_rows(data, count, self.width),
        )
    }

    /// The means of the visible units given hidden ones: `[n, width]`.
    ///
    /// # Errors
    /// If there are not as many.
    pub fn visible(&mut self, hidden: &Tensor) -> Result<Tensor, Error> {
        let count = self.checked(hidden, self.options.hidden)?;
        in_batches(
            &mut self.session,
            VISIBLE,
            self.options.batch,
            &as_rows(hidden, count, self.options.hidden),
        )
    }

    /// The weights `[visible, hidden]`, the biases of the visible and of the hidden units: what a [`Dense`](crate::nn::layers::Dense) layer that
    /// goes up or down may start from.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn weights(&self) -> Result<[Tensor; 3], Error> {
        Ok([
            self.session.state("weight")?,
            self.session.state("visible_bias")?,
            self.session.state("hidden_bias")?,
        ])
    }

    /// A stack of machines, each trained on what the one below makes of the data: a deep belief net.
    ///
    /// # Errors
    /// As [`Rbm::compile`] and [`Rbm::fit`].
    pub fn stack(
        data: &Tensor,
        layers: &[RbmOptions],
        epochs: usize,
        device: &Device,
        threads: usize,
    ) -> Result<Vec<Rbm>, Error> {
        let (count, width) = rows(data)?;
        let mut below = as_rows(data, count, width);
        let mut stack: Vec<Rbm> = Vec::new();
        for &options in layers {
            let mut machine = Rbm::compile(below.shape()[1], options, device, threads)?;
            machine.fit(&below, epochs)?;
            below = machine.hidden(&below)?;
            stack.push(machine);
        }
        Ok(stack)
    }

    fn checked(&self, data: &Tensor, wanted: usize) -> Result<usize, Error> {
        match rows(data)? {
            (count, width) if width == wanted => Ok(count),
            _ => Err(Error::Usage(format!(
                "a machine with {} visible and {} hidden units takes rows of {wanted} here, found {}",
                self.width,
                self.options.hidden,
                data.ty()
            ))),
        }
    }
}

/// An entry with one argument, whose results are followed by the updates it asks for.
fn entry(
    name: &str,
    shape: [usize; 2],
    states: &Rc<RefCell<States>>,
    build: impl for<'g> FnOnce(&Scope<'g>, Val<'g>) -> Vec<(&'static str, Val<'g>)>,
) -> Result<Entry, Error> {
    let b = Builder::new();
    let scope = Scope::new(&b, Mode::Training, Rc::clone(states));
    let results = build(&scope, b.input("x", DType::F32, shape));
    let named = results.into_iter().map(|(name, val)| (name.to_owned(), val));
    let graph = b.finish(named.chain(scope.updates()))?;
    Ok(Entry {
        name: name.to_owned(),
        graph,
    })
}

/// The graphs of a machine.
#[derive(Clone, Copy)]
struct Machine {
    width: usize,
    options: RbmOptions,
}

impl Machine {
    fn weight<'g>(self, scope: &Scope<'g>) -> Val<'g> {
        scope.parameter(
            "weight",
            [self.width, self.options.hidden],
            &Initialiser::Gaussian(0.01),
        )
    }

    fn visible_bias<'g>(self, scope: &Scope<'g>) -> Val<'g> {
        scope.parameter("visible_bias", [self.width], &Initialiser::Zeros)
    }

    fn hidden_bias<'g>(self, scope: &Scope<'g>) -> Val<'g> {
        scope.parameter("hidden_bias", [self.options.hidden], &Initialiser::Zeros)
    }

    fn hidden<'g>(self, scope: &Scope<'g>, v: Val<'g>) -> Val<'g> {
        (v.matmul(self.weight(scope)) + self.hidden_bias(scope)).sigmoid()
    }

    fn visible<'g>(self, scope: &Scope<'g>, h: Val<'g>) -> Val<'g> {
        let mean = h.matmul(self.weight(scope).transpose()) + self.visible_bias(scope);
        match self.options.visible {
            Visible::Bernoulli => mean.sigmoid(),
            Visible::Gaussian => mean,
        }
    }

    /// Units that are on with these probabilities.
    fn drawn<'g>(scope: &Scope<'g>, probability: Val<'g>) -> Val<'g> {
        scope.uniform(probability.shape()).lt(probability).cast(DType::F32)
    }

    fn visible_drawn<'g>(self, scope: &Scope<'g>, mean: Val<'g>) -> Val<'g> {
        match self.options.visible {
            Visible::Bernoulli => Machine::drawn(scope, mean),
            Visible::Gaussian => {
                let (key, step) = scope.random_key();
                mean + scope.builder().normal(key, step, mean.shape())
            }
        }
    }

    /// One training step: the positive statistics of the data against the negative ones of the chains.
    fn train<'g>(self, scope: &Scope<'g>, x: Val<'g>) -> Vec<(&'static str, Val<'g>)> {
        let RbmOptions { hidden, batch, .. } = self.options;
        let h = self.hidden(scope, x);
        // Chains that start from the data share their first step with the reconstruction.
        let drawn = Machine::drawn(scope, h);
        let once = self.visible(scope, drawn);
        let (mut samples, steps) = match self.options.chains {
            Chains::FromData(steps) => (drawn, steps),
            Chains::Persistent(steps) => (scope.state("chains", Tensor::zeros(DType::F32, [batch, hidden])), steps),
        };
        let (mut v, mut probability) = (x, h);
        for _ in 0..steps.max(1) {
            v = self.visible_drawn(scope, self.visible(scope, samples));
            probability = self.hidden(scope, v);
            samples = Machine::drawn(scope, probability);
        }
        if let Chains::Persistent(_) = self.options.chains {
            scope.update("chains", samples);
        }
        let scale = 1.0 / batch as f64;
        let weight = self.weight(scope);
        let statistics = (x.transpose().matmul(h) - v.transpose().matmul(probability)) * scale;
        let direction = match self.options.decay {
            0.0 => statistics,
            decay => statistics - weight * decay,
        };
        self.follow(scope, "weight", weight, direction);
        self.follow(scope, "visible_bias", self.visible_bias(scope), (x - v).mean([0]));
        self.follow(
            scope,
            "hidden_bias",
            self.hidden_bias(scope),
            (h - probability).mean([0]),
        );
        let step = scope.step();
        scope.update(STEP, step + step.lit(1.0));
        let error = ("error", (x - once).square().mean([0, 1]));
        match self.options.visible {
            Visible::Bernoulli => vec![error, ("pseudo_likelihood", self.pseudo_likelihood(scope, x))],
            Visible::Gaussian => vec![error],
        }
    }

    fn follow<'g>(self, scope: &Scope<'g>, name: &str, parameter: Val<'g>, direction: Val<'g>) {
        let mut change = direction * self.options.rate;
        if self.options.momentum != 0.0 {
            let momentum = format!("{name}.momentum");
            let last = scope.state(&momentum, Tensor::zeros(DType::F32, parameter.shape()));
            change = last * self.options.momentum + change;
            scope.update(&momentum, change);
        }
        scope.update(name, parameter + change);
    }

    /// One value of every example, drawn anew, is turned over; the free energy says how much less likely that is.
    fn pseudo_likelihood<'g>(self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        let width = self.width as f64;
        let at = (scope.uniform([self.options.batch]) * width).cast(DType::I64);
        let value = x.take_along_axis(at.unsqueeze([1]), 1).squeeze([1]);
        let change = 1.0 - value * 2.0;
        let field = x.matmul(self.weight(scope)) + self.hidden_bias(scope);
        let turned = field + change.unsqueeze([1]) * self.weight(scope).gather(at, 0);
        let visible = change * self.visible_bias(scope).gather(at, 0);
        // F(x) - F(turned), where F(v) = - v · bias - Σ softplus(field of v).
        let rise = visible + turned.softplus().sum([1]) - field.softplus().sum([1]);
        (-rise).log_sigmoid().mean([0]) * width
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;

    const OPTIONS: RbmOptions = RbmOptions {
        hidden: 8,
        visible: Visible::Bernoulli,
        chains: Chains::FromData(1),
        rate: 0.1,
        momentum: 0.5,
        decay: 0.0,
        batch: 20,
        seed: 5,
    };

    /// Two patterns of twelve values, opposite to each other.
    fn patterns() -> Tensor {
        let row = |at: usize| (0..12).map(move |place| f32::from(u8::from((place < 6) == at.is_multiple_of(2))));
        Tensor::from_f32([200, 12], &(0..200).flat_map(row).collect::<Vec<f32>>())
    }

    #[test]
    fn machines_learn_patterns() {
        let device = Cpu::native().into();
        for chains in [Chains::FromData(1), Chains::FromData(3), Chains::Persistent(1)] {
            let mut machine = Rbm::compile(12, RbmOptions { chains, ..OPTIONS }, &device, 1).unwrap();
            let history = machine.fit(&patterns(), 60).unwrap();
            let (first, last) = (history[0], history[59]);
            assert!(last.error < 0.2 * first.error, "{chains:?}: {first:?} {last:?}");
            // Untrained, each of 12 values has the probability 1/2.
            assert!(first.pseudo_likelihood.unwrap() < -5.0, "{chains:?}: {first:?}");
            assert!(last.pseudo_likelihood.unwrap() > -3.0, "{chains:?}: {last:?}");
        }
    }

    /// Half of the values are always 0 and the others coins: the estimate must see both kinds in every epoch.
    #[test]
    fn the_pseudo_likelihood_looks_at_all_values() {
        let mut draws = netloom_ir::sample::SplitMix(3);
        let values: Vec<f32> = (0..200 * 40)
            .map(|at| if at % 40 < 20 { 0.0 } else { draws.below(2) as f32 })
            .collect();
        let options = RbmOptions {
            hidden: 4,
            rate: 0.05,
            ..OPTIONS
        };
        let mut machine = Rbm::compile(40, options, &Cpu::native().into(), 1).unwrap();
        let history = machine.fit(&Tensor::from_f32([200, 40], &values), 40).unwrap();
        // Twenty coins: 20 ln 2 = 13.9; an estimate from 200 values of 40, each 0 or ln 2, deviates by 1.
        for epoch in &history[30..] {
            let likelihood = epoch.pseudo_likelihood.unwrap();
            assert!((-19.0..-9.0).contains(&likelihood), "{likelihood}");
        }
    }

    #[test]
    fn gaussian_units_learn_means_that_go_together() {
        let values: Vec<f32> = patterns().to_f32().iter().map(|x| 2.0 * x - 1.0).collect();
        let data = Tensor::from_f32([200, 12], &values);
        let options = RbmOptions {
            visible: Visible::Gaussian,
            rate: 0.01,
            ..OPTIONS
        };
        let mut machine = Rbm::compile(12, options, &Cpu::native().into(), 1).unwrap();
        let history = machine.fit(&data, 60).unwrap();
        assert!(history[59].error < 0.2 * history[0].error, "{history:?}");
        assert_eq!(history[0].pseudo_likelihood, None);
    }

    #[test]
    fn stacks_learn_from_below() {
        let above = RbmOptions { hidden: 3, ..OPTIONS };
        let mut stack = Rbm::stack(&patterns(), &[OPTIONS, above], 20, &Cpu::native().into(), 1).unwrap();
        let below = stack[0].hidden(&patterns()).unwrap();
        assert_eq!(stack[1].hidden(&below).unwrap().shape(), [200, 3]);
        let message = stack[1].fit(&patterns(), 1).unwrap_err().to_string();
        assert!(
            message.contains("8 visible and 3 hidden units takes rows of 8"),
            "{message}"
        );
    }
}
