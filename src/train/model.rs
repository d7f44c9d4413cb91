//! Models: a network with its training, compiled; `fit`, `evaluate`, `predict`, as in Keras.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netloom_ir::watch::{Culprit, Watched};
use netloom_ir::{DType, Program, Tensor, Type};

use super::augment::Augmentation;
use super::callbacks::{Callback, Epoch, Flow};
use super::dataset::{Dataset, batch_shape, copy_rows, shuffled};
use super::feed::{Feed, Room};
use super::health::Health;
use super::metrics::{Scores, best_classes};
use crate::compile::{Executable, compile};
use crate::cpu::isa::Cpu;
use crate::device::Device;
use crate::error::Error;
use crate::formats::safetensors;
use crate::nn::layers::{CARRIED, summary, summary_table};
use crate::nn::training::{EVALUATE, HEALTH, Observed, PREDICT, TRAIN_STEP, WATCHED_STEP, watched_program};
use crate::nn::{Layer, Sequential, Training};
use crate::session::Session;

/// How a model is compiled.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Examples in a batch.
    pub batch: usize,
    /// Worker threads.
    pub threads: usize,
    /// What initial weights and dropout are drawn from.
    pub seed: u64,
    /// What it is compiled for.
    pub device: Device,
}

impl ModelOptions {
    /// One worker of this CPU, numbers drawn from 0.
    pub fn new(batch: usize) -> ModelOptions {
        ModelOptions {
            batch,
            threads: 1,
            seed: 0,
            device: Cpu::native().into(),
        }
    }
}

/// A network with its training, compiled for batches of one size.
///
/// ```
/// use netloom::ir::Tensor;
/// use netloom::nn::layers::{Activation, Dense};
/// use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
/// use netloom::train::model::ModelOptions;
/// use netloom::train::{Dataset, FitOptions, Model};
/// # fn main() -> Result<(), netloom::Error> {
/// let points = Tensor::from_f32([4, 2], &[0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
/// let data = Dataset::new(points, Tensor::from_i64([4], &[0, 1, 1, 0]))?;
///
/// let net = Sequential::new().then(Dense::new(16)).then(Activation::Tanh).then(Dense::new(2));
/// let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(0.05));
/// let options = ModelOptions { batch: 4, threads: 1, seed: 0, device: netloom::Cpu::native().into() };
/// let mut model = Model::compile(net, &training, &data, options)?;
/// println!("{}", model.summary()?);
///
/// model.fit(&data, FitOptions { epochs: 200, ..FitOptions::default() })?;
/// assert_eq!(model.evaluate(&data)?.accuracy, Some(1.0));
/// assert_eq!(model.predict(&data.inputs)?.shape(), [4, 2]);
/// # Ok(())
/// # }
/// ```
pub struct Model {
    net: Sequential,
    input: Type,
    target: Type,
    session: Session,
    observed: Observed,
    options: ModelOptions,
    /// The place for data, where training steps gather their batches.
    room: Option<Room>,
    /// The training steps that are watched for NaN and infinity, by entry.
    watched: Vec<(String, Watched)>,
}

/// How long and on what a model is trained.
#[derive(Default)]
pub struct FitOptions<'a> {
    /// Times that every example is seen, those of `steps_done` among them.
    pub epochs: usize,
    /// Steps that a resumed training has behind it, in this epoch and earlier ones; the rest is as if it had not been interrupted.
    pub steps_done: usize,
    /// Data to measure on after each epoch.
    pub validation: Option<&'a Dataset>,
    /// How the pictures of a batch are changed before a step, if at all.
    pub augment: Option<Augmentation>,
    /// Whether batch follows batch in the order of the data, for networks that carry something from one to the next: it is reset before
    /// each epoch.
    pub in_order: bool,
    /// The training has failed if the mean objective of an epoch is this many times that of the first step.
    pub diverged_at: Option<f64>,
    /// Called after each epoch, in order.
    pub callbacks: Vec<&'a mut dyn Callback>,
    /// Called after each step with the number of steps done in the epoch, and the loss.
    pub on_step: Option<&'a mut dyn FnMut(usize, f64)>,
    /// Set by someone else to end the training after the present step.
    pub interrupt: Option<&'a AtomicBool>,
}

/// What a training brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// One entry for each epoch that was finished.
    pub epochs: Vec<Epoch>,
    /// Steps made.
    pub steps: usize,
    /// Whether [`FitOptions::interrupt`] ended it.
    pub interrupted: bool,
    /// The measures of each epoch's last step, if the training takes them.
    pub health: Vec<Health>,
}

impl Model {
    /// Compiles a network for examples and targets like those of `data`. A device with memory of its own gets room for all of them, if they fit, and
    /// training steps gather their batches there.
    ///
    /// # Errors
    /// If the layers, the data and the loss do not fit each other, or the device cannot run it.
    pub fn compile(
        net: Sequential,
        training: &Training,
        data: &Dataset,
        options: ModelOptions,
    ) -> Result<Model, Error> {
        Model::new(net, training, data, options, |_| Vec::new())
    }

    /// The same, with a training step that finds the first NaN or infinity in its results and the operation that made it: [`Model::fit`] then
    /// stops and names it.
    ///
    /// # Errors
    /// As [`Model::compile`].
    pub fn compile_watched(
        net: Sequential,
        training: &Training,
        data: &Dataset,
        options: ModelOptions,
    ) -> Result<Model, Error> {
        Model::new(net, training, data, options, |program| {
            let steps = program.entries.iter_mut();
            let steps = steps.filter(|entry| [TRAIN_STEP, WATCHED_STEP].contains(&entry.name.as_str()));
            let watch = |entry: &mut netloom_ir::Entry| {
                let watched = Watched::new(&entry.graph);
                entry.graph = watched.graph.clone();
                (entry.name.clone(), watched)
            };
            steps.map(watch).collect()
        })
    }

    fn new(
        net: Sequential,
        training: &Training,
        data: &Dataset,
        options: ModelOptions,
        watch: impl FnOnce(&mut Program) -> Vec<(String, Watched)>,
    ) -> Result<Model, Error> {
        if options.batch == 0 {
            return Err(Error::Usage("a batch has at least one example".to_owned()));
        }
        let typed = |tensor: &Tensor| Type::new(tensor.dtype(), batch_shape(tensor, options.batch));
        let (input, target) = (typed(&data.inputs), typed(&data.targets));
        let (mut program, observed) = watched_program(&net, &input, &target, training)?;
        let watched = watch(&mut program);
        let (program, room) = Room::make(program, data, options.batch, &options.device)?;
        let executable = compile(&program, &options.device)?;
        let session = Session::new(Arc::new(executable), options.threads, options.seed)?;
        Ok(Model {
            net,
            input,
            target,
            session,
            observed,
            options,
            room,
            watched,
        })
    }

    /// Why [`Model::fit`] brings each batch of these data to a device that has memory of its own, instead of all of them once; `None` where
    /// it does not.
    pub fn brings_batches(&self, data: &Dataset, augment: Option<&Augmentation>) -> Option<String> {
        let most = self.options.device.data_bytes()?;
        match self.room {
            Some(room) => room.refuses(data, augment),
            None => Some(format!(
                "the device is trusted with {} MiB of data, and there are more",
                most >> 20
            )),
        }
    }

    /// What made the first NaN or infinity in a step's results, if it was watched and there is one.
    fn culprit(&self, entry: &str, results: &[Tensor]) -> Option<Culprit> {
        let (_, watched) = self.watched.iter().find(|(name, _)| name == entry)?;
        let ports = &self.session.executable().plan(entry)?.outputs;
        watched.culprit(|name| {
            let at = ports.iter().position(|port| port.name == name)?;
            Some(results[at].get(0).as_f64())
        })
    }

    /// The compiled program.
    pub fn executable(&self) -> &Executable {
        self.session.executable()
    }

    /// The states and entries.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// How it was compiled.
    pub fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// The network.
    pub fn net(&self) -> &dyn Layer {
        &self.net
    }

    /// The layers with their output types, numbers of parameters, and millions of floating-point operations of prediction, as a table; below
    /// it the share of those in contractions.
    ///
    /// # Errors
    /// None for a model that compiled.
    pub fn summary(&self) -> Result<String, Error> {
        Ok(summary_table(&summary(&self.net, &self.input)?))
    }

    /// Trains. The order of examples in epoch `e` depends on the seed and `e` alone; a last batch that is not full is left out.
    ///
    /// # Errors
    /// If the data do not fit, fewer examples than a batch are given, the loss is no number, or a callback fails.
    pub fn fit(&mut self, data: &Dataset, mut options: FitOptions<'_>) -> Result<History, Error> {
        self.check(data)?;
        options.augment.map_or(Ok(()), |augment| augment.check(&self.input))?;
        let batch_size = self.options.batch;
        let steps = data.len() / batch_size;
        if steps == 0 {
            return Err(Error::Usage(format!(
                "{} examples are less than a batch of {batch_size}",
                data.len()
            )));
        }
        let mut feed = Feed::new(data, options.augment, batch_size, self.room, &mut self.session)?;
        let mut loss = self.session.results(TRAIN_STEP)?;
        let is_watched = self.session.executable().plan(WATCHED_STEP).is_some();
        let mut watched = is_watched.then(|| self.session.results(WATCHED_STEP)).transpose()?;
        let mut history = History::default();
        let mut start = None;
        let sample = options
            .validation
            .map(|held| data.select(&(0..held.len().min(data.len())).collect::<Vec<_>>()));
        for number in options.steps_done / steps + 1..=options.epochs {
            let first = options.steps_done.saturating_sub((number - 1) * steps);
            let order = if options.in_order {
                self.forget()?;
                (0..data.len()).collect()
            } else {
                shuffled(data.len(), self.options.seed.wrapping_add(number as u64))
            };
            let mut total = 0.0;
            let mut times = Vec::with_capacity(steps);
            for (step, positions) in order.chunks_exact(batch_size).enumerate().skip(first) {
                feed.load(positions, ((number - 1) * steps + step) as u64, &mut self.session)?;
                // Health is looked at once an epoch, so only the last step measures it.
                let (entry, results) = match &mut watched {
                    Some(watched) if step + 1 == steps => (WATCHED_STEP, watched),
                    _ => (TRAIN_STEP, &mut loss),
                };
                let clock = Instant::now();
                self.session.run(entry, &feed.arguments(), results)?;
                times.push(clock.elapsed());
                let value = results[0].get(0).as_f64();
                if let Some(culprit) = self.culprit(entry, results) {
                    return Err(Error::Training(format!(
                        "the training diverges at step {} of epoch {number}: {culprit}; lower the learning rate or clip the gradient",
                        step + 1
                    )));
                }
                if !value.is_finite() {
                    return Err(Error::Training(format!(
                        "the training diverges: the loss is {value} at step {} of epoch {number}; lower the learning rate, clip the gradient, or \
                         look for the first bad value with `--nan`",
                        step + 1
                    )));
                }
                total += value;
                start = start.or(Some(value));
                history.steps += 1;
                if let Some(on_step) = &mut options.on_step {
                    on_step(step + 1, value);
                }
                if options
                    .interrupt
                    .is_some_and(|interrupt| interrupt.load(Ordering::Relaxed))
                {
                    history.interrupted = true;
                    return Ok(history);
                }
            }
            let objective = total / (steps - first) as f64;
            if options
                .diverged_at
                .is_some_and(|factor| objective > factor * start.unwrap_or(objective))
            {
                return Err(Error::Training(format!(
                    "the training diverges: the objective rose from {:.3} at the first step to {objective:.3} in the mean of epoch \
                     {number}; lower the learning rate",
                    start.unwrap_or(objective)
                )));
            }
            if let Some([_, measures @ ..]) = watched.as_deref() {
                let measures: &[Tensor; HEALTH.len()] = measures.first_chunk().expect("the entry has these results");
                history.health.push(Health::new(&self.observed, measures));
            }
            let epoch = Epoch {
                number,
                objective,
                validation: options.validation.map(|held| self.evaluate(held)).transpose()?,
                training: sample.as_ref().map(|sample| self.evaluate(sample)).transpose()?,
                step_ms: median(&mut times).as_secs_f64() * 1e3,
            };
            history.epochs.push(epoch);
            let mut flow = Flow::Continue;
            for callback in &mut options.callbacks {
                if callback.after_epoch(&epoch, &mut self.session)? == Flow::Stop {
                    flow = Flow::Stop;
                }
            }
            if flow == Flow::Stop {
                break;
            }
        }
        options
            .callbacks
            .iter_mut()
            .try_for_each(|callback| callback.after_training(&mut self.session))?;
        Ok(history)
    }

    /// The mean loss, and for classes the accuracy, over all of the data.
    ///
    /// # Errors
    /// If the data do not fit or are none.
    pub fn evaluate(&mut self, data: &Dataset) -> Result<Scores, Error> {
        self.check(data)?;
        if data.is_empty() {
            return Err(Error::Usage("there are no examples to evaluate on".to_owned()));
        }
        let mut total = 0.0;
        let mut right = 0;
        let classes = self.has_classes();
        let labels = data.targets.to_i64();
        let mut batch = data.select(&vec![0; self.options.batch]);
        let mut results = self.session.results(EVALUATE)?;
        let all: Vec<usize> = (0..data.len()).collect();
        for positions in all.chunks(self.options.batch) {
            data.copy_into(positions, &mut batch);
            self.session
                .run(EVALUATE, &[&batch.inputs, &batch.targets], &mut results)?;
            total += results[0]
                .scalars()
                .take(positions.len())
                .map(|loss| loss.as_f64())
                .sum::<f64>();
            if classes {
                let best = best_classes(&results[1]);
                right += positions
                    .iter()
                    .zip(best)
                    .filter(|&(&at, best)| labels[at] == best as i64)
                    .count();
            }
        }
        let count = data.len() as f64;
        Ok(Scores {
            loss: total / count,
            accuracy: classes.then(|| right as f64 / count),
        })
    }

    /// The network's results for every example of `inputs`, in order.
    ///
    /// # Errors
    /// If the inputs do not fit.
    pub fn predict(&mut self, inputs: &Tensor) -> Result<Tensor, Error> {
        let count = inputs.shape().first().copied().unwrap_or(0);
        let data = Dataset {
            inputs: inputs.clone(),
            targets: Tensor::zeros(self.target.dtype, batch_shape_of(&self.target, count)),
        };
        self.check(&data)?;
        in_batches(&mut self.session, PREDICT, self.options.batch, &data.inputs)
    }

    /// Sets to zero what recurrent layers carry from run to run.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn forget(&mut self) -> Result<(), Error> {
        let is_carried = |name: &str| {
            let mut parts = name.rsplit('.');
            let mode = parts.next();
            matches!(mode, Some("training" | "inference")) && parts.next().is_some_and(|name| CARRIED.contains(&name))
        };
        let slots = self
            .session
            .executable()
            .states
            .iter()
            .filter(|slot| is_carried(&slot.name));
        let zeros: Vec<(String, Tensor)> = slots
            .map(|slot| (slot.name.clone(), Tensor::zeros(slot.ty.dtype, slot.ty.shape.clone())))
            .collect();
        zeros
            .iter()
            .try_for_each(|(name, zeros)| self.session.set_state(name, zeros))
    }

    /// Takes over from another model every state of the same name and type: of a model of the same network, compiled for batches of
    /// another size, or of a part of it. Gives how many they were.
    ///
    /// # Errors
    /// If a device is lost.
    pub fn adopt(&mut self, other: &Model) -> Result<usize, Error> {
        let ours = self.session.states();
        let fits =
            |(name, value): &&(String, Tensor)| ours.iter().any(|(known, own)| known == name && own.ty() == value.ty());
        let states = other.session.states();
        let adopted: Vec<&(String, Tensor)> = states.iter().filter(fits).collect();
        adopted
            .iter()
            .try_for_each(|(name, value)| self.session.set_state(name, value))?;
        Ok(adopted.len())
    }

    /// Saves every state, the optimiser's included, as safetensors.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        safetensors::save(path, &self.session.states())
    }

    /// Loads every state that [`Model::save`] wrote.
    ///
    /// # Errors
    /// If the file cannot be read, or lacks a state, or holds one of another type or name; then no state is changed.
    pub fn load(&mut self, path: &Path) -> Result<(), Error> {
        let found = safetensors::load(path)?;
        let mut problems = Vec::new();
        for slot in self.session.executable().states.iter().filter(|slot| slot.is_saved) {
            match found.iter().find(|(name, _)| *name == slot.name) {
                None => problems.push(format!("`{}` is missing", slot.name)),
                Some((_, tensor)) if tensor.ty() != slot.ty.dense() => {
                    problems.push(format!(
                        "`{}` is {}, the model has {}",
                        slot.name,
                        tensor.ty(),
                        slot.ty.dense()
                    ));
                }
                Some(_) => {}
            }
        }
        let known = |name: &String| self.session.executable().states.iter().any(|slot| slot.name == *name);
        problems.extend(
            found
                .iter()
                .filter(|(name, _)| !known(name))
                .map(|(name, _)| format!("`{name}` is unknown to the model")),
        );
        if !problems.is_empty() {
            return Err(Error::file(
                path,
                format!("these are not the weights of this model: {}", problems.join("; ")),
            ));
        }
        found
            .iter()
            .try_for_each(|(name, tensor)| self.session.set_state(name, tensor))
    }

    fn check(&self, data: &Dataset) -> Result<(), Error> {
        let fits =
            |tensor: &Tensor, ty: &Type| tensor.dtype() == ty.dtype && tensor.shape().get(1..) == ty.shape.get(1..);
        if !fits(&data.inputs, &self.input) || !fits(&data.targets, &self.target) {
            return Err(Error::Usage(format!(
                "the model takes batches of {} with targets {}, found {} and {}",
                self.input,
                self.target,
                data.inputs.ty(),
                data.targets.ty()
            )));
        }
        if self.target.dtype != DType::I64 {
            return Ok(());
        }
        let classes = self.session.results(PREDICT)?[0].shape().last().copied().unwrap_or(0);
        data.label_beyond(classes).map_or(Ok(()), |(at, label)| {
            Err(Error::Usage(format!(
                "the model tells {classes} classes apart, but label {at} (counted from 0) is {label}"
            )))
        })
    }

    /// Whether targets are labels of classes.
    fn has_classes(&self) -> bool {
        self.target.dtype == DType::I64 && self.target.rank() == 1
    }
}

/// The results of an entry with one argument and one result, both of `batch` examples, for any number of examples, in order.
pub(super) fn in_batches(session: &mut Session, entry: &str, batch: usize, inputs: &Tensor) -> Result<Tensor, Error> {
    let count = inputs.shape().first().copied().unwrap_or(0);
    let mut results = session.results(entry)?;
    let row = results[0].bytes().len() / batch;
    let mut bytes = Vec::with_capacity(row * count);
    let mut part = Tensor::zeros(inputs.dtype(), batch_shape(inputs, batch));
    let all: Vec<usize> = (0..count).collect();
    for positions in all.chunks(batch) {
        copy_rows(inputs, positions, &mut part);
        session.run(entry, &[&part], &mut results)?;
        bytes.extend_from_slice(&results[0].bytes()[..row * positions.len()]);
    }
    let shape = batch_shape(&results[0], count);
    Ok(Tensor::from_bytes(results[0].dtype(), shape, bytes))
}

fn batch_shape_of(ty: &Type, count: usize) -> Vec<usize> {
    std::iter::once(count).chain(ty.shape.iter().skip(1).copied()).collect()
}

/// The middle one; zero of none.
pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::layers::{Activation, Dense, Dropout};
    use crate::nn::{Loss, Optimiser, Rate};

    /// The step that measures trains as the one that does not, and an epoch of a training that measures has but one of them.
    #[test]
    fn measuring_changes_nothing() {
        let values: Vec<f32> = (0..240).map(|at| (at * 37 % 23) as f32 / 23.0).collect();
        let labels: Vec<i64> = (0..40).map(|at| at % 3).collect();
        let data = Dataset::new(Tensor::from_f32([40, 6], &values), Tensor::from_i64([40], &labels)).unwrap();
        let fitted = |health: bool, batch: usize| {
            let net = Sequential::new().then(Dense::new(33)).then(Activation::Relu);
            let net = net.then(Dropout(0.3)).then(Dense::new(3));
            let training = Training {
                health,
                ..Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(0.01))
            };
            let mut model = Model::compile(net, &training, &data, ModelOptions::new(batch)).unwrap();
            let options = FitOptions {
                epochs: 3,
                ..FitOptions::default()
            };
            let history = model.fit(&data, options).unwrap();
            (model.session().states(), history.health)
        };
        // With one step an epoch every step measures, with five every fifth.
        for batch in [40, 8] {
            let (plain, none) = fitted(false, batch);
            let (watched, health) = fitted(true, batch);
            assert!(plain == watched, "other states with batches of {batch}");
            assert_eq!((none.len(), health.len()), (0, 3));
            for health in health {
                assert_eq!(health.weights.len(), 2);
                let weight = &health.weights[0];
                assert!(weight.gradient > 0.0 && weight.update > 0.0 && health.activations[0].quiet < 1.0);
            }
        }
    }
}
