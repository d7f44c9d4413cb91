//! `netloom train`: trains a network and writes what it learnt.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use netloom::nn::layers::{Dropout, summary};
use netloom::nn::zoo::{self, Net};
use netloom::nn::{Optimiser, Rate, Sequential, Training};
use netloom::train::metrics::{Confusion, Scores};
use netloom::train::model::ModelOptions;
use netloom::train::page::Page;
use netloom::train::report::{Picture, Series, curves, gallery};
use netloom::train::{
    Augmentation, Callback, Checkpoint, CsvLog, Dataset, EarlyStopping, Epoch, EventLog, FitOptions, Flow, Health,
    History, JsonLog, Model,
};
use netloom::{Error, Session};

#[derive(Args)]
pub struct Options {
    /// The name of a network
    net: String,
    /// A folder with MNIST-style IDX files; without it the digits in this program
    #[arg(long)]
    data: Option<PathBuf>,
    /// Times that every example is seen, in all: those before `--resume` too
    #[arg(long, default_value_t = 5)]
    epochs: usize,
    /// Examples in a batch; by default the network's usual one
    #[arg(long)]
    batch: Option<usize>,
    /// The learning rate at first; it falls to 0 along half a cosine [default: 0.001]
    #[arg(long)]
    rate: Option<f64>,
    /// What weights, dropout and the order of examples are drawn from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Go on from a checkpoint, with the same options: the result is as if there had been no interruption
    #[arg(long)]
    resume: Option<PathBuf>,
    /// Stop when the validation loss has not improved for so many epochs; the best epoch counts
    #[arg(long)]
    patience: Option<usize>,
    /// Let the epoch with the least validation loss count instead of the last
    #[arg(long)]
    best: bool,
    /// Train so many times, from this seed and the next ones, each into a folder of its own
    #[arg(long, default_value = "1", conflicts_with = "resume")]
    seeds: NonZeroU64,
    /// Drop this share of what the last layer is given
    #[arg(long, value_name = "SHARE")]
    dropout: Option<f64>,
    /// The greatest distance in pixels that pictures are moved
    #[arg(long, value_name = "PIXELS", default_value_t = SHIFT)]
    shift: usize,
    /// The greatest angle by which pictures are turned
    #[arg(long, value_name = "DEGREES", default_value_t = 0.0)]
    turn: f64,
    /// The greatest share by which pictures grow or shrink
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    zoom: f64,
    /// Show every second picture mirrored
    #[arg(long)]
    flip: bool,
    /// Show parts of pictures, enlarged, of at least this share of each side
    #[arg(long, value_name = "SHARE")]
    crop: Option<f64>,
    /// Let all classes count the same, rare or not
    #[arg(long)]
    balance: bool,
    /// Where weights, logs and pictures go
    #[arg(long, default_value = "out")]
    out: PathBuf,
    /// Stop at the first NaN or infinity in the loss or a weight, and name the operation that made it; steps take longer
    #[arg(long)]
    nan: bool,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: super::Machine,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let net = zoo::find(&options.net)?.for_training();
    let changes = options.flip || options.crop.is_some() || options.turn > 0.0 || options.zoom > 0.0;
    if changes && net.example.len() != 3 {
        return Err(Error::Usage(format!(
            "`{}` takes no pictures, so that there is nothing to mirror, cut, turn or zoom; leave `--flip`, `--crop`, `--turn` and `--zoom` out",
            net.name
        )));
    }
    let machine = options.machine.with_stored(&options.net)?;
    let trained = |seed: u64, out: &Path| {
        let data = Data::read(net, options.data.as_deref(), seed)?;
        let plan = Fit {
            net,
            rate: options.rate.unwrap_or(RATE),
            batch: options.batch.unwrap_or(net.batch),
            epochs: options.epochs,
            seed,
            resume: options.resume.as_deref(),
            patience: options.patience.or(options.best.then_some(usize::MAX)),
            dropout: options.dropout,
            augment: Augmentation {
                flip: options.flip,
                crop: options.crop.unwrap_or(1.0),
                turn: options.turn,
                zoom: options.zoom,
                ..Augmentation::shift(options.shift, seed)
            },
            balance: options.balance,
            out,
            nan: options.nan,
            machine: &machine,
        };
        Ok::<Report, Error>(fit(&plan, &data)?.1)
    };
    let json = |report: &Report| report.json(net.name, options.machine.threads());
    if options.seeds == NonZeroU64::MIN {
        let report = trained(options.seed, &options.out)?;
        if options.json {
            super::print_json(&json(&report));
        }
        return Ok(());
    }
    let seeds = options.seed..=options.seed.saturating_add(options.seeds.get() - 1);
    let reports = seeds
        .map(|seed| {
            eprintln!("seed {seed}");
            trained(seed, &options.out.join(format!("seed-{seed}")))
        })
        .collect::<Result<Vec<Report>, Error>>()?;
    let accuracies: Option<Vec<f64>> = reports.iter().map(|report| report.test_accuracy).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let losses: Vec<f64> = reports.iter().map(|report| report.test_loss).collect();
    eprint!("{} seeds: mean test loss {:.4}", reports.len(), mean(&losses));
    if let Some(accuracies) = &accuracies {
        let [least, greatest] = [f64::min, f64::max]
            .map(|pick: fn(f64, f64) -> f64| accuracies.iter().copied().reduce(pick).unwrap_or(0.0));
        let [mean, least, greatest] = [mean(accuracies), least, greatest].map(|share| 100.0 * share);
        eprint!(", accuracy {mean:.2} %, from {least:.2} to {greatest:.2}");
    }
    eprintln!();
    if options.json {
        super::print_json(&serde_json::json!({
            "net": net.name,
            "test_loss": mean(&losses),
            "test_accuracy": accuracies.as_deref().map(mean),
            "seeds": reports.iter().map(json).collect::<Vec<_>>(),
        }));
    }
    Ok(())
}

/// Data to train on, to choose by, and to test on.
pub struct Data {
    pub train: Dataset,
    pub validation: Dataset,
    pub test: Dataset,
}

/// The share of the training data that is held back for validation.
const VALIDATION_SHARE: f64 = 0.1;

impl Data {
    /// The data that suit a network: IDX files from a folder, or the embedded digits.
    pub fn read(net: &Net, folder: Option<&Path>, seed: u64) -> Result<Data, Error> {
        let (train, test) = match folder {
            Some(folder) => {
                let classes = classes(net)?;
                let pair = |part: &str| {
                    let file = |what: &str| idx_file(folder, part, what);
                    let (images, labels) = (file("images-idx3-ubyte")?, file("labels-idx1-ubyte")?);
                    let data = Dataset::from_idx(&images, &labels)?;
                    match classes.and_then(|classes| data.label_beyond(classes)) {
                        None => Ok(data),
                        Some((at, label)) => Err(Error::file(
                            labels,
                            format!(
                                "byte {} is the label {label}, but `{}` tells only {} classes apart",
                                LABELS_START + at,
                                net.name,
                                classes.unwrap_or(0)
                            ),
                        )),
                    }
                };
                let is_there = |part: &&str| idx_file(folder, part, "images-idx3-ubyte").is_ok();
                let test = ["test", "t10k"].into_iter().find(is_there).unwrap_or("test");
                (pair("train")?, pair(test)?)
            }
            None => embedded()?,
        };
        let suit = |data: Dataset| {
            let data = if net.example.len() == 1 { data.flattened() } else { data };
            if data.inputs.shape()[1..] != *net.example {
                let found = &data.inputs.shape()[1..];
                return Err(Error::Usage(format!(
                    "`{}` takes examples of {:?}, the pictures are {found:?}",
                    net.name, net.example
                )));
            }
            if net.target == Some(net.example) {
                Dataset::new(data.inputs.clone(), data.inputs)
            } else {
                Ok(data)
            }
        };
        let (train, validation) = suit(train)?.split(VALIDATION_SHARE, seed)?;
        Ok(Data {
            train,
            validation,
            test: suit(test)?,
        })
    }
}

#[cfg(feature = "demo")]
fn embedded() -> Result<(Dataset, Dataset), Error> {
    Dataset::digits()
}

#[cfg(not(feature = "demo"))]
fn embedded() -> Result<(Dataset, Dataset), Error> {
    Err(Error::Usage(
        "this program was built without data; give a folder with `--data`".to_owned(),
    ))
}

/// Where labels begin in an IDX file: behind four bytes of format and their number.
const LABELS_START: usize = 8;

/// How many classes a network tells apart, if that is its task.
fn classes(net: &Net) -> Result<Option<usize>, Error> {
    if net.target.is_some() {
        return Ok(None);
    }
    let rows = summary(&(net.layers)(), &net.input(1))?;
    Ok(rows.last().and_then(|row| row.output.shape.last().copied()))
}

/// The file of a part of the data, gzip or not. The part may have a number behind it, as in `train10000-images-idx3-ubyte`.
fn idx_file(folder: &Path, part: &str, what: &str) -> Result<PathBuf, Error> {
    let plain = folder.join(format!("{part}-{what}"));
    let listed = std::fs::read_dir(folder).map_err(|reason| Error::file(&plain, reason))?;
    let is_meant = |name: &str| {
        let rest = name
            .strip_prefix(part)
            .and_then(|rest| rest.trim_end_matches(".gz").strip_suffix(what));
        rest.and_then(|rest| rest.strip_suffix('-'))
            .is_some_and(|count| count.chars().all(|c| c.is_ascii_digit()))
    };
    let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut meant: Vec<String> = names.filter(|name| is_meant(name)).collect();
    // `train-…` before `train10000-…`, plain before gzip.
    meant.sort_by_key(|name| (name.len(), name.clone()));
    match meant.first() {
        Some(name) => Ok(folder.join(name)),
        None => Err(Error::file(plain, "neither this file nor the same with .gz is there")),
    }
}

/// A training as the commands `train` and `demo` run it.
pub struct Fit<'a> {
    pub net: &'static Net,
    pub rate: f64,
    pub batch: usize,
    pub epochs: usize,
    pub seed: u64,
    pub resume: Option<&'a Path>,
    pub patience: Option<usize>,
    /// The share of what the last layer is given that is dropped in training.
    pub dropout: Option<f64>,
    /// What happens to pictures before a step.
    pub augment: Augmentation,
    /// Whether all classes count the same.
    pub balance: bool,
    pub out: &'a Path,
    pub nan: bool,
    pub machine: &'a super::Machine,
}

/// The greatest learning rate where none is given.
pub const RATE: f64 = 1e-3;

/// The greatest distance in pixels that pictures are moved in training where none is given.
pub const SHIFT: usize = 1;

impl Fit<'_> {
    /// The network, with dropout if there is to be some.
    pub fn layers(&self) -> Sequential {
        let layers = (self.net.layers)();
        match self.dropout {
            Some(share) => layers.before_last(Dropout(share)),
            None => layers,
        }
    }

    /// The network's loss, made small by Adam with a rate that falls to zero over the whole training. This suits every network; the zoo's own
    /// training is for comparing systems.
    pub fn training(&self, data: &Data) -> Training {
        let steps = (data.train.len() / self.batch.max(1) * self.epochs) as u64;
        let rate = Rate::Cosine {
            start: self.rate,
            end: 0.0,
            steps,
            warm_up: 0,
        };
        Training {
            optimiser: Optimiser::adam(),
            rate,
            class_weights: self.balance.then(|| data.train.class_weights()),
            health: true,
            ..(self.net.training)()
        }
    }
}

/// What a training brought.
pub struct Report {
    pub history: History,
    pub test_loss: f64,
    pub test_accuracy: Option<f64>,
    pub files: Vec<String>,
    pub device: String,
    /// Why the CPU stood in for the device, if it did.
    pub fell_back: Vec<String>,
}

impl Report {
    /// As `--json` prints it.
    pub fn json(&self, net: &str, threads: usize) -> serde_json::Value {
        let last = self.history.epochs.last();
        serde_json::json!({
            "net": net,
            "device": self.device,
            "fell_back": self.fell_back,
            "threads": threads,
            "epochs": self.history.epochs.len(),
            "steps": self.history.steps,
            "step_ms": last.map(|epoch| epoch.step_ms),
            "train_loss": last.map(|epoch| epoch.objective),
            "validation_loss": last.and_then(|epoch| epoch.validation).map(|scores| scores.loss),
            "validation_accuracy": last.and_then(|epoch| epoch.validation).and_then(|scores| scores.accuracy),
            "test_loss": self.test_loss,
            "test_accuracy": self.test_accuracy,
            "files": self.files,
        })
    }
}

/// The log that a resumed training reads what came before from.
const JSON_LOG: &str = "log.jsonl";

/// Trains with a progress bar, and writes checkpoint, log, curves and pictures.
pub fn fit(plan: &Fit<'_>, data: &Data) -> Result<(Model, Report), Error> {
    std::fs::create_dir_all(plan.out).map_err(|reason| Error::file(plan.out, reason))?;
    let compiled = if plan.nan {
        Model::compile_watched
    } else {
        Model::compile
    };
    let mut choice = plan.machine.choice()?;
    let mut model = choice.make(|device| {
        let options = ModelOptions {
            batch: plan.batch,
            threads: plan.machine.threads(),
            seed: plan.seed,
            device: device.clone(),
        };
        compiled(plan.layers(), &plan.training(data), &data.train, options)
    })?;
    super::say_fallback(&choice);
    plan.machine.say_stored(model.executable());
    eprint!("{}", model.summary()?);
    let augment = (plan.net.example.len() == 3).then_some(plan.augment);
    if let Some(reason) = model.brings_batches(&data.train, augment.as_ref()) {
        eprintln!("each batch is brought to the device, not all data once: {reason}");
    }
    let steps = data.train.len() / plan.batch;
    let (mut steps_done, mut earlier) = (0, Vec::new());
    if let Some(path) = plan.resume {
        model.load(path)?;
        let done = model.session().state(netloom::nn::scope::STEP)?.get(0).as_i128();
        steps_done = usize::try_from(done).unwrap_or(0);
        if steps_done >= steps * plan.epochs {
            let epochs = steps_done / steps.max(1);
            return Err(Error::Usage(format!(
                "{} has {epochs} epochs behind it; ask for more with `--epochs`",
                path.display()
            )));
        }
        earlier = JsonLog::read(&path.with_file_name(JSON_LOG))?;
        earlier.retain(|epoch| epoch.number <= steps_done / steps.max(1));
        eprintln!("resumed from {} after {steps_done} steps", path.display());
    }

    let bar = ProgressBar::new(steps as u64).with_style(
        ProgressStyle::with_template("epoch {prefix} {bar:32} {pos}/{len} steps, {eta} left, objective {msg}")
            .expect("the template is valid"),
    );
    let mut on_step = |step: usize, loss: f64| {
        bar.set_position(step as u64);
        if step.is_multiple_of(8) {
            bar.set_message(format!("{loss:.4}"));
        }
    };
    let mut show = Show {
        bar: &bar,
        last: plan.epochs,
    };
    bar.set_prefix(format!("{}/{}", steps_done / steps.max(1) + 1, plan.epochs));
    let mut log = CsvLog::new(plan.out.join("log.csv"));
    let mut lines = JsonLog::new(plan.out.join(JSON_LOG));
    let mut events = EventLog::create(&plan.out.join("tensorboard"))?;
    let best = plan.out.join("best.safetensors");
    let mut best = if plan.resume.is_some() {
        Checkpoint::resumed(best)?
    } else {
        // A new training begins a new log.
        for log in ["log.csv", JSON_LOG] {
            let _ = std::fs::remove_file(plan.out.join(log));
        }
        Checkpoint::new(best)
    };
    let mut early = plan.patience.map(EarlyStopping::new);
    let mut callbacks: Vec<&mut dyn Callback> = vec![&mut show, &mut log, &mut lines, &mut events, &mut best];
    callbacks.extend(early.as_mut().map(|early| early as &mut dyn Callback));
    let fitted = model.fit(
        &data.train,
        FitOptions {
            epochs: plan.epochs,
            steps_done,
            validation: Some(&data.validation),
            augment,
            callbacks,
            on_step: Some(&mut on_step),
            interrupt: Some(interrupted()),
            ..FitOptions::default()
        },
    );
    bar.finish_and_clear();
    let history = fitted?;
    let weights = plan.out.join("weights.safetensors");
    model.save(&weights)?;
    if history.interrupted {
        return Err(Error::Training(format!(
            "interrupted after {} steps; the checkpoint is {}, go on with `--resume {}`",
            steps_done + history.steps,
            weights.display(),
            weights.display()
        )));
    }
    let scores = model.evaluate(&data.test)?;
    match scores.accuracy {
        Some(accuracy) => eprintln!("test: loss {:.4}, accuracy {:.2} %", scores.loss, 100.0 * accuracy),
        None => eprintln!("test: loss {:.4}", scores.loss),
    }
    let mut files = vec![
        "weights.safetensors".to_owned(),
        "best.safetensors".to_owned(),
        "log.csv".to_owned(),
        JSON_LOG.to_owned(),
        "tensorboard".to_owned(),
    ];
    // The curves begin where the training did, before it was resumed.
    let told = History {
        epochs: [&earlier[..], &history.epochs].concat(),
        ..history.clone()
    };
    files.extend(pictures(plan, data, &mut model, &told)?);
    files.push(page(plan, data, &mut model, &told, &scores, &files)?);
    let device = model.executable().device.name();
    Ok((
        model,
        Report {
            history,
            test_loss: scores.loss,
            test_accuracy: scores.accuracy,
            files,
            device,
            fell_back: choice.fell_back,
        },
    ))
}

/// The whole training on one page.
fn page(
    plan: &Fit<'_>,
    data: &Data,
    model: &mut Model,
    history: &History,
    scores: &Scores,
    files: &[String],
) -> Result<String, Error> {
    const NAME: &str = "report.html";
    let mut page = Page::new(&format!("Training {}", plan.net.name));
    let accuracy = scores.accuracy.map_or(String::new(), |accuracy| {
        format!(", accuracy {:.2} %", 100.0 * accuracy)
    });
    page.text(&format!(
        "{} examples, {} epochs of batches of {}, seed {}. On {} test examples: loss {:.4}{accuracy}.",
        data.train.len(),
        plan.epochs,
        plan.batch,
        plan.seed,
        data.test.len(),
        scores.loss
    ));
    page.section("Layers");
    page.lines(&model.summary()?);
    page.section("Health of the last step");
    let verdicts = history.health.last().map_or(Vec::new(), Health::verdicts);
    match verdicts.as_slice() {
        [] => page.text("Nothing vanishes, explodes, dies or saturates."),
        found => page.lines(&found.join("\n")),
    }
    page.section("Pictures");
    for file in files.iter().filter(|file| file.ends_with(".svg")) {
        page.picture(&plan.out.join(file))?;
    }
    if plan.net.target.is_none() {
        page.section("True classes and answers");
        let answers = netloom::train::metrics::best_classes(&model.predict(&data.test.inputs)?);
        let labels: Vec<usize> = data
            .test
            .targets
            .to_i64()
            .into_iter()
            .map(|label| label as usize)
            .collect();
        page.confusion(&Confusion::new(data.test.classes(), &labels, &answers));
    }
    page.save(&plan.out.join(NAME))?;
    Ok(NAME.to_owned())
}

/// Set by Ctrl-C.
fn interrupted() -> &'static AtomicBool {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&flag);
        // Without a handler Ctrl-C ends the program at once, as it does anyway where signals are not to be had.
        let _ = ctrlc::set_handler(move || set.store(true, std::sync::atomic::Ordering::Relaxed));
        flag
    })
}

/// Prints a line for each epoch above the bar.
struct Show<'a> {
    bar: &'a ProgressBar,
    last: usize,
}

impl Callback for Show<'_> {
    fn after_epoch(&mut self, epoch: &Epoch, _: &mut Session) -> Result<Flow, Error> {
        let mut line = format!(
            "epoch {:>2}/{}: objective {:.4}",
            epoch.number, self.last, epoch.objective
        );
        if let Some(scores) = epoch.validation {
            line += &format!(", validation loss {:.4}", scores.loss);
            if let Some(accuracy) = scores.accuracy {
                line += &format!(", accuracy {:.2} %", 100.0 * accuracy);
            }
        }
        line += &format!(", {:.2} ms a step", epoch.step_ms);
        if self.bar.is_hidden() {
            eprintln!("{line}")
        } else {
            self.bar.println(line)
        }
        self.bar
            .set_prefix(format!("{}/{}", (epoch.number + 1).min(self.last), self.last));
        self.bar.reset();
        Ok(Flow::Continue)
    }
}

/// Curves of the training, the filters of a first convolution, and digits taken for others.
fn pictures(plan: &Fit<'_>, data: &Data, model: &mut Model, history: &History) -> Result<Vec<String>, Error> {
    let out = |name: &str| plan.out.join(name);
    let epochs = &history.epochs;
    let mut files = vec!["loss.svg".to_owned()];
    let series = |name: &str, of: &dyn Fn(&Epoch) -> Option<f64>| {
        let points = epochs
            .iter()
            .filter_map(|epoch| Some((epoch.number as f64, of(epoch)?)));
        Series::line(name, points.collect())
    };
    let losses = [
        series("training", &|epoch| Some(epoch.training?.loss)),
        series("validation", &|epoch| Some(epoch.validation?.loss)),
    ];
    curves(
        &out("loss.svg"),
        &format!("Loss of {}", plan.net.name),
        "epoch",
        "loss",
        &losses,
    )?;
    if plan.net.target.is_none() {
        let accuracies = [
            series("training", &|epoch| epoch.training?.accuracy),
            series("validation", &|epoch| epoch.validation?.accuracy),
        ];
        let title = format!("Accuracy of {}", plan.net.name);
        curves(&out("accuracy.svg"), &title, "epoch", "accuracy", &accuracies)?;
        files.push("accuracy.svg".to_owned());
        let wrong = mistakes(model, &data.test)?;
        gallery(
            &out("mistakes.svg"),
            "Test digits taken for others: truth → answer",
            8,
            &wrong,
        )?;
        files.push("mistakes.svg".to_owned());
    }
    if let Ok(filters) = model.session().state("0.weight")
        && let &[count, channels, height, width] = filters.shape()
    {
        let values = filters.to_f32();
        let tiles: Vec<Picture> = values
            .chunks_exact(channels * height * width)
            .take(count)
            .map(|filter| Picture::stretched(height, width, &filter[..height * width], String::new()))
            .collect();
        gallery(&out("filters.svg"), "Filters of the first layer", 10, &tiles)?;
        files.push("filters.svg".to_owned());
    }
    Ok(files)
}

/// The most pictures in the gallery of mistakes.
const MISTAKES: usize = 40;

fn mistakes(model: &mut Model, test: &Dataset) -> Result<Vec<Picture>, Error> {
    let answers = netloom::train::metrics::best_classes(&model.predict(&test.inputs)?);
    let labels = test.targets.to_i64();
    let side = (test.inputs.count() / test.len().max(1)).isqrt();
    let values = test.inputs.to_f32();
    let wrong = (0..test.len())
        .filter(|&at| labels[at] != answers[at] as i64)
        .take(MISTAKES);
    Ok(wrong
        .map(|at| Picture {
            height: side,
            width: side,
            pixels: values[at * side * side..][..side * side].to_vec(),
            caption: format!("{} → {}", labels[at], answers[at]),
        })
        .collect())
}
