//! What a net has learnt, used for something else: `cargo run --release --example transfer OUT NET MODEL.onnx PICTURES [descriptors]` draws `OUT/transfer.svg`. NET is `squeezenet`
//! (1.1 with Keras' inputs) or `efficientnet` (Lite0); PICTURES is a folder of folders, one a class (one a person, say), or an array `.npy` whose first half is of one class.
//!
//! The last layer is replaced, and either trained alone (the rest is frozen, so the step computes no gradient for it) or with all others at a tenth
//! of the rate; or the descriptors before it are given to nearest neighbours and support vector machines (graphs of netloom too). All against a
//! net from scratch; with `descriptors` nothing is trained but those. Without NET a net that knows MNIST's digits learns those of another set from 50 examples.

use std::path::Path;

use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma};
use netloom::formats::{npz, onnx};
use netloom::ir::passes::fold::fold_constants;
use netloom::ir::{DType, Tensor};
use netloom::nn::layers::{Activation, Conv, Dense, Flatten, GlobalPool, Imported, Pool, PoolOf};
use netloom::nn::training::TRAIN_STEP;
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::classic::{Kernel, Neighbours, Svm};
use netloom::train::model::ModelOptions;
use netloom::train::pictures::{Colours, read_folders};
use netloom::train::report::{Chart, Series, charts};
use netloom::train::table::{Header, Table, Target};
use netloom::train::{Dataset, FitOptions, Model};
use netloom::{Cpu, Error};

/// A net to transfer from and the task it goes to.
struct Task<'a> {
    /// The layers before the last one, fresh or with what they know.
    trunk: &'a dyn Fn(bool) -> Result<Sequential, Error>,
    /// A model that the trunk's weights are taken from, where its layers do not bring them.
    taught: Option<&'a Model>,
    train: Dataset,
    test: Dataset,
    batch: usize,
    rate: f64,
    epochs: usize,
}

/// The accuracy of one way, with the kernels and the time of a step where there are steps.
#[derive(Debug)]
struct Row {
    name: &'static str,
    accuracy: f64,
    step: Option<(usize, f64)>,
    /// The accuracy after each epoch of training, if there is any.
    epochs: Vec<f64>,
}

impl Task<'_> {
    fn classes(&self) -> usize {
        self.train.classes().max(self.test.classes())
    }

    /// A new last layer on the trunk, trained with this factor of the rate for the trunk.
    fn tuned(&self, name: &'static str, knows: bool, factor: f64) -> Result<Row, Error> {
        let net = Sequential::new()
            .named("trunk", (self.trunk)(knows)?)
            .named("head", Dense::new(self.classes()));
        let training = Training {
            rate_factors: vec![("trunk.".to_owned(), factor)],
            ..Training::new(
                Loss::CategoricalCrossEntropy,
                Optimiser::adam(),
                Rate::Constant(self.rate),
            )
        };
        let mut model = Model::compile(net, &training, &self.train, ModelOptions::new(self.batch))?;
        if let Some(taught) = self.taught.filter(|_| knows) {
            model.adopt(taught)?;
        }
        let history = model.fit(
            &self.train,
            FitOptions {
                epochs: self.epochs,
                validation: Some(&self.test),
                ..FitOptions::default()
            },
        )?;
        let kernels = model.executable().plan(TRAIN_STEP).map_or(0, |plan| plan.steps.len());
        let step_ms = history
            .epochs
            .iter()
            .map(|epoch| epoch.step_ms)
            .fold(f64::INFINITY, f64::min);
        let accuracy = model.evaluate(&self.test)?.accuracy.unwrap_or(0.0);
        Ok(Row {
            name,
            accuracy,
            step: Some((kernels, step_ms)),
            epochs: (history.epochs.iter())
                .filter_map(|epoch| epoch.validation?.accuracy)
                .collect(),
        })
    }

    /// What the trunk makes of the examples, each at length 1.
    fn descriptors(&self) -> Result<[Dataset; 2], Error> {
        let trunk = Sequential::new().named("trunk", (self.trunk)(true)?);
        let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::Sgd, Rate::Constant(0.0));
        let mut model = Model::compile(trunk, &training, &self.train, ModelOptions::new(self.batch))?;
        if let Some(taught) = self.taught {
            model.adopt(taught)?;
        }
        let mut of = |data: &Dataset| {
            let found = model.predict(&data.inputs)?;
            let width = found.shape()[1];
            let mut values = found.to_f32();
            for row in values.chunks_exact_mut(width) {
                let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
                row.iter_mut().for_each(|x| *x /= length);
            }
            Dataset::new(Tensor::from_f32(found.shape(), &values), data.targets.clone())
        };
        Ok([of(&self.train)?, of(&self.test)?])
    }

    /// All ways, the one from scratch first.
    fn run(&self) -> Result<Vec<Row>, Error> {
        let mut rows = vec![
            self.tuned("from scratch", false, 1.0)?,
            self.tuned("last layer, rest frozen", true, 0.0)?,
            self.tuned("fine-tuned", true, 0.1)?,
        ];
        rows.extend(self.described()?);
        Ok(rows)
    }

    /// Classifiers on the descriptors.
    fn described(&self) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        let (device, [train, test]) = (Cpu::native().into(), self.descriptors()?);
        let truth = test.targets.to_i64();
        let mut judge = |name: &'static str, found: Vec<usize>| {
            let right = found
                .iter()
                .zip(&truth)
                .filter(|(found, truth)| **found as i64 == **truth)
                .count();
            rows.push(Row {
                name,
                accuracy: right as f64 / truth.len() as f64,
                step: None,
                epochs: Vec::new(),
            });
        };
        judge(
            "3 nearest neighbours",
            Neighbours::fit(&train, 3, &device, 1)?.predict(&test.inputs)?,
        );
        judge(
            "linear SVM",
            Svm::fit(&train, Kernel::Linear, 10.0, &device, 1)?.predict(&test.inputs)?,
        );
        judge(
            "RBF SVM",
            Svm::fit(&train, Kernel::Rbf { gamma: 2.0 }, 10.0, &device, 1)?.predict(&test.inputs)?,
        );
        Ok(rows)
    }
}

/// A small net learns MNIST's digits; those that others wrote, scanned in other ways, follow from `examples` of them.
fn digits(examples: usize) -> Result<Vec<Row>, Error> {
    let trunk = |_| {
        let first = Sequential::new()
            .then(Conv::d2(8, 5))
            .then(Activation::Relu)
            .then(Pool::max2(2));
        let second = first.then(Conv::d2(16, 5)).then(Activation::Relu).then(Pool::max2(2));
        Ok(second.then(Flatten).then(Dense::new(64)).then(Activation::Relu))
    };
    let (known, _) = Dataset::digits()?;
    let net = Sequential::new()
        .named("trunk", trunk(false)?)
        .named("old", Dense::new(10));
    let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(1e-3));
    let mut teacher = Model::compile(net, &training, &known, ModelOptions::new(50))?;
    teacher.fit(
        &known,
        FitOptions {
            epochs: 3,
            ..FitOptions::default()
        },
    )?;
    let others = other_digits()?;
    let task = Task {
        trunk: &trunk,
        taught: Some(&teacher),
        train: others.select(&(0..examples).collect::<Vec<_>>()),
        test: others.select(&(500..others.len()).collect::<Vec<_>>()),
        batch: 10,
        rate: 3e-3,
        epochs: 40,
    };
    task.run()
}

/// Digits of 8×8 pixels, drawn 20×20 in the middle of 28×28 as MNIST's are.
fn other_digits() -> Result<Dataset, Error> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/digits8x8/digits.csv.gz");
    let data = Table::read(&path, Header::Absent, b',')?.dataset("64", Target::Class)?;
    let drawn = |digit: &[f32]| {
        // Between the nearest four pixels each value is interpolated.
        let at = |row: f32, column: f32| {
            let (above, left) = (row.floor().clamp(0.0, 6.0), column.floor().clamp(0.0, 6.0));
            let (down, right) = ((row - above).clamp(0.0, 1.0), (column - left).clamp(0.0, 1.0));
            let pixel = |dy: f32, dx: f32| digit[8 * (above + dy) as usize + (left + dx) as usize] / 16.0;
            let across = |dy: f32| pixel(dy, 0.0) * (1.0 - right) + pixel(dy, 1.0) * right;
            across(0.0) * (1.0 - down) + across(1.0) * down
        };
        let place = |at: usize| (at as f32 - 4.0 + 0.5) * 0.4 - 0.5;
        let inside = |at: usize| (4..24).contains(&at);
        let value = |(row, column)| {
            if inside(row) && inside(column) {
                at(place(row), place(column))
            } else {
                0.0
            }
        };
        (0..784).map(|at| value((at / 28, at % 28))).collect::<Vec<f32>>()
    };
    let values: Vec<f32> = data.inputs.to_f32().chunks_exact(64).flat_map(drawn).collect();
    Dataset::new(Tensor::from_f32([data.len(), 1, 28, 28], &values), data.targets)
}

/// A pretrained net in a file, and what it wants to be shown.
struct Pretrained {
    name: &'static str,
    /// The side of its pictures.
    side: usize,
    /// Three planes of red, green and blue in [0, 1] as it was trained on them.
    shown: fn(&[f32]) -> Vec<f32>,
    /// The zoo's net that is trained from scratch beside it.
    fresh: &'static str,
    /// Whether what comes before the last layer are still planes, of which the means are taken.
    has_planes: bool,
}

static PRETRAINED: [Pretrained; 2] = [
    Pretrained {
        name: "squeezenet",
        side: 227,
        shown: blue_first,
        fresh: "squeezenet",
        has_planes: true,
    },
    Pretrained {
        name: "efficientnet",
        side: 224,
        shown: |rgb| rgb.iter().map(|x| (x * 255.0 - 127.0) / 128.0).collect(),
        fresh: "mobilenet_v2",
        has_planes: false,
    },
];

/// What Keras' SqueezeNet was trained on: blue first, the mean of ImageNet subtracted.
fn blue_first(rgb: &[f32]) -> Vec<f32> {
    const MEANS: [f32; 3] = [103.939, 116.779, 123.68];
    let plane = rgb.len() / 3;
    let colour = |at: usize| {
        rgb[(2 - at) * plane..][..plane]
            .iter()
            .map(move |x| x * 255.0 - MEANS[at])
    };
    (0..3).flat_map(colour).collect()
}

impl Pretrained {
    fn named(name: &str) -> Result<&'static Pretrained, Error> {
        let found = PRETRAINED.iter().find(|known| known.name == name);
        found.ok_or_else(|| {
            Error::Usage(format!(
                "there is no net `{name}` here; there are squeezenet and efficientnet"
            ))
        })
    }

    /// On classes of pictures, a third of which is held back: trained in every way for so many epochs, or only described if that is none.
    fn run(&self, model: &Path, pictures: &Path, epochs: usize) -> Result<Vec<Row>, Error> {
        const BATCH: usize = 8;
        let side = self.side;
        let example = Tensor::zeros(DType::F32, [BATCH, 3, side, side]);
        let bytes = std::fs::read(model).map_err(|reason| Error::file(model, reason))?;
        let inputs = onnx::names(&bytes).map_err(|reason| Error::file(model, reason))?;
        let given: Vec<(String, Tensor)> = inputs.into_iter().map(|name| (name, example.clone())).collect();
        // What depends on constants alone becomes one: a variance under a root that were trained itself could become negative.
        let target = netloom::Device::from(Cpu::native()).target();
        let graph = fold_constants(&onnx::load_for(model, &[], &given)?, &target);
        let trunk = |knows: bool| {
            let known = || Ok::<_, Error>(Sequential::new().then(Imported::new(graph.clone())?.without_head()?));
            Ok(match (knows, self.has_planes) {
                (true, true) => known()?.then(GlobalPool(PoolOf::Average)),
                (true, false) => known()?,
                (false, _) => (netloom::nn::zoo::find(self.fresh)?.layers)(),
            })
        };
        let (data, names) = match pictures.extension() {
            Some(ending) if ending == "npy" => halves(pictures, side)?,
            _ => read_folders(pictures, [side, side], Colours::Rgb)?,
        };
        println!("{} pictures of {}", data.len(), names.join(", "));
        let values = data.inputs.to_f32();
        let shown: Vec<f32> = values.chunks_exact(3 * side * side).flat_map(self.shown).collect();
        let data = Dataset::new(Tensor::from_f32(data.inputs.shape(), &shown), data.targets)?;
        let (train, test) = data.split(1.0 / 3.0, 0)?;
        let task = Task {
            trunk: &trunk,
            taught: None,
            train,
            test,
            batch: BATCH,
            rate: 1e-3,
            epochs,
        };
        if epochs > 0 { task.run() } else { task.described() }
    }
}

/// Grey pictures `[n, h, w]` in an array, the first half of one class and the second of another, enlarged.
fn halves(path: &Path, side: usize) -> Result<(Dataset, Vec<String>), Error> {
    let array = npz::load_array(path)?;
    let &[count, height, width] = array.shape() else {
        let message = format!("pictures have the shape [n, height, width], found {}", array.ty());
        return Err(Error::file(path, message));
    };
    let values = array.to_f32();
    let picture = |grey: &[f32]| {
        let grey = ImageBuffer::<Luma<f32>, _>::from_raw(width as u32, height as u32, grey.to_vec())
            .expect("a picture has as many pixels as its shape");
        resize(&grey, side as u32, side as u32, FilterType::Triangle)
            .into_raw()
            .repeat(3)
    };
    let pixels: Vec<f32> = values.chunks_exact((height * width).max(1)).flat_map(picture).collect();
    let labels: Vec<i64> = (0..count).map(|at| i64::from(at >= count / 2)).collect();
    let inputs = Tensor::from_f32([count, 3, side, side], &pixels);
    let data = Dataset::new(inputs, Tensor::from_i64([count], &labels))?;
    Ok((data, ["the first half", "the second"].map(str::to_owned).into()))
}

/// The accuracies epoch by epoch, those that need no epochs as dashed lines.
fn draw(out: &Path, rows: &[Row]) -> Result<(), Error> {
    let last = rows.iter().map(|row| row.epochs.len()).max().unwrap_or(0).max(2);
    let series = rows.iter().map(|row| match row.step {
        Some(_) => Series::counted(row.name, row.epochs.iter().copied()),
        None => Series::dashed(row.name, vec![(1.0, row.accuracy), (last as f64, row.accuracy)]),
    });
    let title = "From a net that knows other pictures";
    let chart = Chart::new(title, "epoch", "test accuracy", series.collect());
    charts(&out.join("transfer.svg"), 1, &[chart])
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (out, words) = words
        .split_first()
        .map_or(("out", &[][..]), |(out, words)| (*out, words));
    let rows = match words {
        [] => digits(50)?,
        [net, model, pictures] => Pretrained::named(net)?.run(model.as_ref(), pictures.as_ref(), 6)?,
        [net, model, pictures, "descriptors"] => Pretrained::named(net)?.run(model.as_ref(), pictures.as_ref(), 0)?,
        _ => {
            let message = "what is needed: OUT NET MODEL.onnx PICTURES [descriptors]";
            return Err(Error::Usage(message.to_owned()));
        }
    };
    println!("{:<26} {:>8} {:>8} {:>9}", "", "accuracy", "kernels", "ms/step");
    for row in &rows {
        let step = (row.step).map_or(String::new(), |(kernels, ms)| format!("{kernels:>8} {ms:>9.2}"));
        println!("{:<26} {:>6.1} % {step}", row.name, 100.0 * row.accuracy);
    }
    draw(out.as_ref(), &rows)?;
    match useless(&rows) {
        useless if useless.is_empty() => Ok(()),
        useless => Err(Error::Training(format!(
            "no better than from scratch: {}",
            useless.join(", ")
        ))),
    }
}

/// The ways that are not more accurate than training from scratch, which is the first row if there is training at all.
fn useless(rows: &[Row]) -> Vec<&'static str> {
    let [scratch @ Row { step: Some(_), .. }, others @ ..] = rows else {
        return Vec::new();
    };
    let is_useless = |row: &&Row| row.accuracy <= scratch.accuracy;
    others.iter().filter(is_useless).map(|row| row.name).collect()
}

#[cfg(test)]
fn assert_use(rows: &[Row]) {
    assert_eq!(rows.len(), 6, "{rows:?}");
    assert_eq!(useless(rows), [""; 0], "{rows:?}");
    let kernels = |row: &Row| row.step.map_or(0, |(kernels, _)| kernels);
    assert!(2 * kernels(&rows[1]) < kernels(&rows[0]), "{rows:?}");
}

#[test]
fn what_was_learnt_helps() {
    let (rows, out) = (digits(50).unwrap(), tempfile::tempdir().unwrap());
    assert_use(&rows);
    draw(out.path(), &rows).unwrap();
    let drawn = std::fs::read_to_string(out.path().join("transfer.svg")).unwrap();
    assert!(rows.iter().all(|row| drawn.contains(row.name)), "{drawn}");
}

/// Photographs of nine kinds of things, and SqueezeNet; EfficientNet too if the folder that `NETLOOM_MODELS` names has it.
#[test]
fn what_was_learnt_from_photographs_helps() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let further = std::env::var_os("NETLOOM_MODELS").map(|root| Path::new(&root).join("efficientnet-lite0-imagenet"));
    let known = [
        ("squeezenet", Some(data.join("models/squeezenet1.1-imagenet"))),
        ("efficientnet", further),
    ];
    for (net, folder) in known {
        if let Some(folder) = folder {
            let net = Pretrained::named(net).unwrap();
            assert_use(&net.run(&folder.join("model.onnx"), &data.join("stamps"), 3).unwrap());
        }
    }
}
