//! What the playground teaches: points of two classes in a square, a small net, and how far it has come.

use netloom::compile::lower;
use netloom::ir::sample::SplitMix;
use netloom::ir::{DType, Program, Tensor, Type, fuse};
use netloom::nn::layers::{Activation, Dense};
use netloom::nn::training::TRAIN_STEP;
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training, program};
use netloom::train::model::ModelOptions;
use netloom::train::{Dataset, FitOptions, Model};
use netloom::{Device, Error, dump};
use serde::{Deserialize, Serialize};

/// Points to train on, and half as many to validate on.
const TRAINED: usize = 200;
/// Examples in a batch.
const BATCH: usize = 20;
/// Fields of the square along each side for which the net is asked.
pub const SIDE: usize = 40;
/// The most hidden layers, and units of one.
const MOST: [usize; 2] = [6, 64];
/// The most epochs.
const MOST_EPOCHS: usize = 10_000;

/// How the points lie.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Pattern {
    /// Two clouds, which a line divides.
    Clouds,
    /// A disc within a ring.
    Circle,
    /// Opposite quarters belong together: the exclusive or.
    Xor,
    /// Two arms around each other.
    Spirals,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Function {
    Tanh,
    Relu,
    Sigmoid,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Rule {
    Sgd,
    Momentum,
    Adam,
}

/// What is chosen on the page.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings {
    data: Pattern,
    /// How far points stray, as a share of the square's half side.
    noise: f64,
    /// The units of each hidden layer, between commas.
    hidden: String,
    activation: Function,
    optimiser: Rule,
    rate: f64,
    seed: u32,
    /// Times that every point is seen.
    pub epochs: usize,
}

impl Settings {
    /// Whether a lesson can begin with them.
    ///
    /// # Errors
    /// What makes no sense, and what would.
    pub fn check(&self) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&self.noise) {
            let noise = self.noise;
            return Err(Error::Usage(format!("noise is a share from 0 to 1, found {noise}")));
        }
        if !(1..=MOST_EPOCHS).contains(&self.epochs) {
            let epochs = self.epochs;
            return Err(Error::Usage(format!(
                "there are 1 to {MOST_EPOCHS} epochs, found {epochs}"
            )));
        }
        self.program().map(|_| ())
    }

    /// The units of each hidden layer.
    fn widths(&self) -> Result<Vec<usize>, Error> {
        let [layers, units] = MOST;
        let words = self.hidden.split(',').map(str::trim).filter(|word| !word.is_empty());
        let width = |word: &str| word.parse().ok().filter(|width| (1..=units).contains(width));
        let widths: Option<Vec<usize>> = words.map(width).collect();
        widths.filter(|widths| widths.len() <= layers).ok_or_else(|| {
            let found = &self.hidden;
            Error::Usage(format!(
                "hidden layers are up to {layers} numbers from 1 to {units} between commas, found `{found}`"
            ))
        })
    }

    fn net(&self) -> Result<Sequential, Error> {
        let activation = match self.activation {
            Function::Tanh => Activation::Tanh,
            Function::Relu => Activation::Relu,
            Function::Sigmoid => Activation::Sigmoid,
        };
        let hidden = self.widths()?.into_iter();
        let net = hidden.fold(Sequential::new(), |net, units| {
            net.then(Dense::new(units)).then(activation)
        });
        Ok(net.then(Dense::new(2)))
    }

    fn training(&self) -> Result<Training, Error> {
        if !(self.rate > 0.0 && self.rate <= 100.0) {
            let rate = self.rate;
            return Err(Error::Usage(format!(
                "the learning rate is above 0 and at most 100, found {rate}"
            )));
        }
        let optimiser = match self.optimiser {
            Rule::Sgd => Optimiser::Sgd,
            Rule::Momentum => Optimiser::Momentum(0.9),
            Rule::Adam => Optimiser::adam(),
        };
        Ok(Training::new(
            Loss::CategoricalCrossEntropy,
            optimiser,
            Rate::Constant(self.rate),
        ))
    }

    /// So many points in the square from -1 to 1, their classes in turn.
    fn points(&self, count: usize, draws: &mut SplitMix) -> Result<Dataset, Error> {
        let labels: Vec<i64> = (0..count).map(|at| (at % 2) as i64).collect();
        let mut places = Vec::with_capacity(2 * count);
        for &label in &labels {
            for place in self.data.place(label == 1, draws) {
                places.push((place + self.noise * draws.between((-0.5, 0.5))) as f32);
            }
        }
        Dataset::new(
            Tensor::from_f32([count, 2], &places),
            Tensor::from_i64([count], &labels),
        )
    }

    /// The training step that is compiled.
    pub fn program(&self) -> Result<Program, Error> {
        let input = Type::new(DType::F32, [BATCH, 2]);
        let target = Type::new(DType::I64, [BATCH]);
        Ok(program(&self.net()?, &input, &target, &self.training()?)?.only(TRAIN_STEP))
    }
}

impl Pattern {
    /// A point of the second class, or of the first.
    fn place(self, second: bool, draws: &mut SplitMix) -> [f64; 2] {
        let sign = if second { 1.0 } else { -1.0 };
        let turn = |radius: f64, angle: f64| [radius * angle.cos(), radius * angle.sin()];
        match self {
            Pattern::Clouds => {
                let angle = draws.between((0.0, std::f64::consts::TAU));
                turn(0.4 * draws.unit(), angle).map(|at| at + 0.45 * sign)
            }
            Pattern::Circle => {
                let radius = draws.between(if second { (0.65, 0.95) } else { (0.0, 0.45) });
                turn(radius, draws.between((0.0, std::f64::consts::TAU)))
            }
            Pattern::Xor => {
                let x = draws.between((0.05, 0.95)) * if draws.below(2) == 0 { 1.0 } else { -1.0 };
                [x, sign * x.signum() * draws.between((0.05, 0.95))]
            }
            Pattern::Spirals => {
                let along = draws.between((0.05, 1.0));
                let half = if second { std::f64::consts::PI } else { 0.0 };
                turn(0.95 * along, 4.5 * along + half)
            }
        }
    }
}

/// What the compiler made of the training step, and what is trained on.
#[derive(Debug, Serialize)]
pub struct Compiled {
    nodes: usize,
    regions: usize,
    kernels: usize,
    arena_bytes: usize,
    compile_ms: f64,
    /// The stages, as text.
    stages: Vec<(&'static str, String)>,
    /// Places and classes, and whether it is for validation.
    points: Vec<(f32, f32, i64, bool)>,
    side: usize,
}

/// How far the net has come.
#[derive(Debug, Serialize)]
pub struct Frame {
    epoch: usize,
    training: f64,
    validation: f64,
    accuracy: f64,
    step_us: f64,
    /// The probability of the second class in each field of the square, in 255ths; rows from the lowest up.
    ground: Vec<u8>,
}

/// A net that is being trained.
pub struct Lesson {
    settings: Settings,
    model: Model,
    train: Dataset,
    validation: Dataset,
    fields: Tensor,
    epochs: usize,
}

impl Lesson {
    /// Draws the points and compiles the net.
    ///
    /// # Errors
    /// If the settings make no sense: [`Settings::check`] says so sooner.
    pub fn begin(settings: Settings, device: &Device) -> Result<Lesson, Error> {
        let mut draws = SplitMix(u64::from(settings.seed));
        let train = settings.points(TRAINED, &mut draws)?;
        let validation = settings.points(TRAINED / 2, &mut draws)?;
        let options = ModelOptions {
            seed: settings.seed.into(),
            device: device.clone(),
            ..ModelOptions::new(BATCH)
        };
        let model = Model::compile(settings.net()?, &settings.training()?, &train, options)?;
        let middle = |at: usize| (2.0 * (at as f32 + 0.5) / SIDE as f32) - 1.0;
        let fields: Vec<f32> = (0..SIDE * SIDE)
            .flat_map(|at| [middle(at % SIDE), middle(at / SIDE)])
            .collect();
        Ok(Lesson {
            settings,
            model,
            train,
            validation,
            fields: Tensor::from_f32([SIDE * SIDE, 2], &fields),
            epochs: 0,
        })
    }

    /// What was compiled.
    ///
    /// # Errors
    /// If the device cannot show its code.
    pub fn compiled(&self) -> Result<Compiled, Error> {
        let program = self.settings.program()?;
        let executable = self.model.executable();
        let lowered = lower(&program, &executable.device.target())?;
        let (_, improved) = &lowered.graphs[0];
        let regions = fuse::regions(improved);
        let listed = regions.iter().enumerate();
        let mut stages = vec![
            ("the graph, differentiated", program.entries[0].graph.to_string()),
            ("after the passes", improved.to_string()),
            (
                "regions: what shares a kernel",
                listed
                    .map(|(number, region)| format!("region {number}: {region}\n"))
                    .collect(),
            ),
            ("loops, every decision made", dump::nests(&lowered)),
            ("the plan", dump::plans(&lowered)),
        ];
        if let Device::Cpu(cpu) = &executable.device {
            stages.push(("machine code", dump::assembly(&lowered, cpu)?));
        }
        let plan = executable.plan(TRAIN_STEP).expect("a model has a training step");
        let points = [(&self.train, false), (&self.validation, true)];
        let points = points.into_iter().flat_map(|(data, held)| {
            let (places, labels) = (data.inputs.to_f32(), data.targets.to_i64());
            let point = move |(at, label): (usize, i64)| (places[2 * at], places[2 * at + 1], label, held);
            labels.into_iter().enumerate().map(point)
        });
        Ok(Compiled {
            nodes: program.entries[0].graph.len(),
            regions: regions.len(),
            kernels: plan.kernel_runs(),
            arena_bytes: plan.shared_bytes,
            compile_ms: executable.stages.total().as_secs_f64() * 1e3,
            stages,
            points: points.collect(),
            side: SIDE,
        })
    }

    /// Trains for some epochs, and looks at where the net draws the line.
    ///
    /// # Errors
    /// If the training diverges.
    pub fn go_on(&mut self, epochs: usize) -> Result<Frame, Error> {
        let steps = TRAINED / BATCH;
        let history = self.model.fit(
            &self.train,
            FitOptions {
                epochs: self.epochs + epochs,
                steps_done: self.epochs * steps,
                validation: Some(&self.validation),
                ..FitOptions::default()
            },
        )?;
        self.epochs += epochs;
        let last = history.epochs.last();
        let training = last.and_then(|epoch| epoch.training);
        let validation = last.and_then(|epoch| epoch.validation);
        let loss = |scores: Option<netloom::train::metrics::Scores>| scores.map_or(0.0, |scores| scores.loss);
        let scores = self.model.predict(&self.fields)?.to_f32();
        let share = |scores: &[f32]| (255.0 / (1.0 + (scores[0] - scores[1]).exp())).round() as u8;
        Ok(Frame {
            epoch: self.epochs,
            training: loss(training),
            validation: loss(validation),
            accuracy: validation.and_then(|scores| scores.accuracy).unwrap_or(0.0),
            step_us: last.map_or(0.0, |epoch| 1e3 * epoch.step_ms),
            ground: scores.chunks_exact(2).map(share).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use netloom::Cpu;

    use super::*;

    fn settings(data: Pattern, hidden: &str) -> Settings {
        Settings {
            data,
            noise: 0.1,
            hidden: hidden.to_owned(),
            activation: Function::Tanh,
            optimiser: Rule::Adam,
            rate: 0.02,
            seed: 1,
            epochs: 200,
        }
    }

    /// A line divides clouds; a disc and a ring, and opposite quarters, need a hidden layer.
    #[test]
    fn what_a_net_can_learn() {
        let device = Device::from(Cpu::native());
        for (data, hidden, learns) in [
            (Pattern::Clouds, "", true),
            (Pattern::Circle, "", false),
            (Pattern::Circle, "8", true),
            (Pattern::Xor, "", false),
            (Pattern::Xor, "8", true),
            (Pattern::Spirals, "16, 16", true),
        ] {
            let mut lesson = Lesson::begin(settings(data, hidden), &device).unwrap();
            let first = lesson.go_on(1).unwrap();
            let last = lesson.go_on(199).unwrap();
            assert_eq!((first.epoch, last.epoch), (1, 200));
            assert_eq!(
                last.accuracy > 0.95,
                learns,
                "{data:?} by `{hidden}`: {}",
                last.accuracy
            );
            assert_eq!(last.ground.len(), SIDE * SIDE);
            if data == Pattern::Clouds {
                // The second cloud is above and to the right.
                assert!(last.ground[0] < 20 && last.ground[SIDE * SIDE - 1] > 235);
            }
        }
    }

    #[test]
    fn what_was_compiled_is_shown() {
        let lesson = Lesson::begin(settings(Pattern::Xor, "4,3"), &Cpu::native().into()).unwrap();
        let compiled = lesson.compiled().unwrap();
        assert!(
            compiled.nodes > compiled.regions && compiled.regions > 0,
            "{compiled:?}"
        );
        assert_eq!(compiled.points.len(), TRAINED + TRAINED / 2);
        for (stage, text) in &compiled.stages {
            assert!(!text.is_empty(), "{stage}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let good = settings(Pattern::Xor, "4");
        for (bad, said) in [
            (
                Settings {
                    hidden: "4,x".to_owned(),
                    ..good.clone()
                },
                "found `4,x`",
            ),
            (
                Settings {
                    hidden: "65".to_owned(),
                    ..good.clone()
                },
                "from 1 to 64",
            ),
            (
                Settings {
                    hidden: "1,1,1,1,1,1,1".to_owned(),
                    ..good.clone()
                },
                "up to 6",
            ),
            (
                Settings {
                    rate: 0.0,
                    ..good.clone()
                },
                "found 0",
            ),
            (
                Settings {
                    rate: f64::NAN,
                    ..good.clone()
                },
                "found NaN",
            ),
            (
                Settings {
                    noise: 2.0,
                    ..good.clone()
                },
                "found 2",
            ),
            (
                Settings {
                    epochs: 0,
                    ..good.clone()
                },
                "1 to 10000 epochs, found 0",
            ),
        ] {
            let message = bad.check().unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
    }
}
