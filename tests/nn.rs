//! Layers, losses and optimisers against their definitions, and models from fit to file.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use netloom::ir::{Builder, DType, Entry, Program, Tensor, Type, Val, autodiff};
use netloom::nn::layers::{
    Activation, BatchNorm, Bidirectional, Cell, Conv, Dense, Dropout, Embedding, Flatten, Function, GlobalPool,
    LayerNorm, Pool, PoolOf, Recurrent,
};
use netloom::nn::scope::{STEP, States};
use netloom::nn::training::TRAIN_STEP;
use netloom::nn::{Initialiser, Layer, Loss, Mode, Optimiser, Rate, Scope, Sequential, Training, program};
use netloom::train::model::ModelOptions;
use netloom::train::{Callback, Checkpoint, CsvLog, Dataset, EarlyStopping, Epoch, FitOptions, Flow, JsonLog, Model};
use netloom::{Cpu, Session, compile};

/// A layer compiled for inputs like `x`: the entry `apply` has the argument `x`, the result `y`, and updates states.
fn session(layer: &dyn Layer, mode: Mode, x: &Tensor, seed: u64) -> Session {
    let builder = Builder::new();
    let states = Rc::new(RefCell::new(States::default()));
    let scope = Scope::new(&builder, mode, Rc::clone(&states));
    let y = layer.build(&scope, builder.input("x", x.dtype(), x.shape()));
    let outputs = std::iter::once(("y".to_owned(), y)).chain(scope.updates());
    let graph = builder.finish(outputs).unwrap();
    let states = states.borrow().states().to_vec();
    run_of(
        &Program {
            states,
            entries: vec![Entry {
                name: "apply".to_owned(),
                graph,
            }],
        },
        seed,
    )
}

fn run_of(program: &Program, seed: u64) -> Session {
    Session::new(compile(program, Cpu::native()).unwrap().into(), 1, seed).unwrap()
}

fn apply(session: &mut Session, x: &Tensor) -> Vec<f32> {
    session.call("apply", &[("x", x)]).unwrap()[0].1.to_f32()
}

fn inferred(layer: &dyn Layer, x: &Tensor) -> Vec<f32> {
    apply(&mut session(layer, Mode::Inference, x, 1), x)
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let near = (f64::from(found) - expected).abs() <= tolerance * expected.abs().max(1.0);
        assert!(near, "element {at}: {found}, expected {expected}");
    }
}

/// A network that says its weights, whatever it is asked.
fn weights(start: &'static [f32]) -> impl Layer {
    Function::new("Weights", |scope, x| {
        x * 0.0
            + scope.parameter(
                "w",
                [1, start.len()],
                &Initialiser::Tensor(Tensor::from_f32([1, start.len()], start)),
            )
    })
}

const START: &[f32] = &[1.0, -2.0, 0.5];

/// The weights after each of three steps towards 0.5, -1 and 2 by the mean squared error.
fn three_steps(training: &Training) -> Vec<Vec<f32>> {
    let ty = Type::new(DType::F32, [1, 3]);
    let mut session = run_of(
        &program(&weights(START), &ty, &ty, training).unwrap().only(TRAIN_STEP),
        0,
    );
    let (x, y) = (
        Tensor::zeros(DType::F32, [1, 3]),
        Tensor::from_f32([1, 3], &[0.5, -1.0, 2.0]),
    );
    (0..3)
        .map(|_| {
            session.call(TRAIN_STEP, &[("x", &x), ("y", &y)]).unwrap();
            session.state("w").unwrap().to_f32()
        })
        .collect()
}

/// PyTorch's values, in f64: `w = tensor(START)`, loss `((w - [0.5, -1, 2])**2).mean()`, `torch.optim.SGD(lr=.1)`, the same with
/// `momentum=.9`, with `nesterov=True`, `RMSprop(lr=.1, alpha=.9, eps=1e-6)`, `Adagrad(lr=.1, eps=1e-8)`, `Adam(lr=.1)`,
/// `AdamW(lr=.1, weight_decay=.05)`.
#[test]
fn optimisers_step_as_pytorchs() {
    let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
    let table: [(Optimiser, [[f64; 3]; 3]); 7] = [
        (
            Optimiser::Sgd,
            [
                [0.966666667, -1.933333333, 0.6],
                [0.935555556, -1.871111111, 0.693333333],
                [0.906518519, -1.813037037, 0.780444444],
            ],
        ),
        (
            Optimiser::Momentum(0.9),
            [
                [0.966666667, -1.933333333, 0.6],
                [0.905555556, -1.811111111, 0.783333333],
                [0.823518519, -1.647037037, 1.029444444],
            ],
        ),
        (
            Optimiser::Nesterov(0.9),
            [
                [0.936666667, -1.873333333, 0.69],
                [0.854355556, -1.708711111, 0.936933333],
                [0.761590519, -1.523181037, 1.215228444],
            ],
        ),
        (
            Optimiser::RmsProp {
                decay: 0.9,
                epsilon: 1e-6,
            },
            [
                [0.683775234, -1.683773734, 0.816226766],
                [0.569533925, -1.49887259, 1.018460454],
                [0.524436719, -1.369182694, 1.172749265],
            ],
        ),
        (
            Optimiser::Adagrad { epsilon: 1e-8 },
            [
                [0.900000003, -1.900000002, 0.599999999],
                [0.837530499, -1.833103529, 0.668231824],
                [0.790899182, -1.780456184, 0.722675459],
            ],
        ),
        (
            Optimiser::Adam { beta1, beta2, epsilon },
            [
                [0.900000003, -1.900000002, 0.599999999],
                [0.801187426, -1.800412231, 0.699760936],
                [0.704871259, -1.701586276, 0.799097127],
            ],
        ),
        (
            Optimiser::AdamW {
                beta1,
                beta2,
                epsilon,
                decay: 0.05,
            },
            [
                [0.895000003, -1.890000002, 0.597499999],
                [0.791813708, -1.781021858, 0.694281101],
                [0.691872809, -1.673466849, 0.790170082],
            ],
        ),
    ];
    for (optimiser, expected) in table {
        let found = three_steps(&Training::new(Loss::MeanSquaredError, optimiser, Rate::Constant(0.1)));
        for (found, expected) in found.iter().zip(&expected) {
            assert_near(found, expected, 2e-6);
        }
    }
}

#[test]
fn penalties_and_clipping_change_the_gradient_as_documented() {
    let plain = Training::new(Loss::MeanSquaredError, Optimiser::Sgd, Rate::Constant(0.1));
    // The gradient of the loss at the start is 2 (w - y) / 3.
    let gradient = [1.0 / 3.0, -2.0 / 3.0, -1.0];
    let one_step = |training: Training, gradient: [f64; 3]| {
        let expected: Vec<f64> = START
            .iter()
            .zip(gradient)
            .map(|(&w, g)| f64::from(w) - 0.1 * g)
            .collect();
        assert_near(&three_steps(&training)[0], &expected, 1e-6);
    };
    one_step(
        Training {
            l1: 0.3,
            ..plain.clone()
        },
        [gradient[0] + 0.3, gradient[1] - 0.3, gradient[2] + 0.3],
    );
    one_step(
        Training {
            l2: 0.3,
            ..plain.clone()
        },
        [gradient[0] + 0.3, gradient[1] - 0.6, gradient[2] + 0.15],
    );
    let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    one_step(
        Training {
            clip_norm: Some(0.5),
            ..plain.clone()
        },
        gradient.map(|g| g * 0.5 / norm),
    );
    one_step(
        Training {
            clip_norm: Some(5.0),
            ..plain
        },
        gradient,
    );
}

#[test]
fn rates_follow_their_formulas() {
    let rate_at = |rate: Rate, step: u64| {
        let layer = Function::new("Rate", move |scope, x| rate.now(scope).broadcast([1]) + x * 0.0);
        let x = Tensor::zeros(DType::F32, [1]);
        let mut session = session(&layer, Mode::Training, &x, 0);
        if rate != Rate::Constant(0.25) {
            let step = Tensor::from_bytes(DType::U64, [], step.to_le_bytes().to_vec());
            session.set_state(STEP, &step).unwrap();
        }
        f64::from(apply(&mut session, &x)[0])
    };
    let cosine = Rate::Cosine {
        start: 0.4,
        end: 0.1,
        steps: 100,
        warm_up: 10,
    };
    let half = 0.1 + 0.3 * 0.5;
    for (rate, step, expected) in [
        (Rate::Constant(0.25), 7, 0.25),
        (
            Rate::Steps {
                start: 0.4,
                factor: 0.5,
                every: 10,
            },
            9,
            0.4,
        ),
        (
            Rate::Steps {
                start: 0.4,
                factor: 0.5,
                every: 10,
            },
            25,
            0.1,
        ),
        (
            Rate::Exponential {
                start: 0.4,
                factor: 0.5,
                every: 10,
            },
            5,
            0.4 * 0.5f64.sqrt(),
        ),
        (cosine, 0, 0.04),
        (cosine, 10, 0.4),
        (cosine, 60, half),
        (cosine, 110, 0.1),
        (cosine, 500, 0.1),
    ] {
        let found = rate_at(rate, step);
        assert!(
            (found - expected).abs() < 1e-6,
            "{rate:?} at {step}: {found}, expected {expected}"
        );
    }
}

/// `torch.nn.BatchNorm1d(2)` on [[1, 2], [3, -1], [0, 5], [2, 2]], in training and then in evaluation.
#[test]
fn batch_norm_keeps_statistics_as_pytorchs() {
    let x = Tensor::from_f32([4, 2], &[1.0, 2.0, 3.0, -1.0, 0.0, 5.0, 2.0, 2.0]);
    let layer = BatchNorm::default();
    let mut training = session(&layer, Mode::Training, &x, 0);
    let expected = [
        -0.44721186,
        0.0,
        1.34163535,
        -1.41421199,
        -1.34163537,
        1.41421199,
        0.44721174,
        0.0,
    ];
    assert_near(&apply(&mut training, &x), &expected, 2e-6);
    let (mean, variance) = (
        training.state("running_mean").unwrap(),
        training.state("running_var").unwrap(),
    );
    assert_near(&mean.to_f32(), &[0.15, 0.2], 1e-6);
    assert_near(&variance.to_f32(), &[1.06666666, 1.5], 1e-6);
    let mut evaluation = session(&layer, Mode::Inference, &x, 0);
    evaluation.set_state("running_mean", &mean).unwrap();
    evaluation.set_state("running_var", &variance).unwrap();
    let expected = [
        0.8230052,
        1.46968901,
        2.75948787,
        -0.97979265,
        -0.14523621,
        3.91917062,
        1.79124653,
        1.46968901,
    ];
    assert_near(&apply(&mut evaluation, &x), &expected, 2e-6);
}

/// `torch.nn.LayerNorm(4)` on [[1, 2, 4, -3]].
#[test]
fn layer_norm_normalises_the_last_axis() {
    let x = Tensor::from_f32([1, 4], &[1.0, 2.0, 4.0, -3.0]);
    let expected = [0.0, 0.39223197, 1.17669594, -1.56892788];
    assert_near(&inferred(&LayerNorm::default(), &x), &expected, 2e-6);
}

#[test]
fn dropout_keeps_the_mean_in_training_only() {
    let x = Tensor::from_f32([64, 64], &[1.0; 4096]);
    let layer = Function::new("Dropped", |scope, x| {
        scope.update(STEP, scope.step() + scope.step().lit(1.0));
        Dropout(0.25).build(scope, x)
    });
    let run = |seed: u64| {
        let mut session = session(&layer, Mode::Training, &x, seed);
        [apply(&mut session, &x), apply(&mut session, &x)]
    };
    let [first, second] = run(3);
    assert!(first.iter().all(|&y| y == 0.0 || (y - 4.0 / 3.0).abs() < 1e-6));
    let mean = first.iter().map(|&y| f64::from(y)).sum::<f64>() / 4096.0;
    // The deviation of the mean is √(p / (1 - p) / n) = 0.009; five of them.
    assert!((mean - 1.0).abs() < 0.045, "{mean}");
    assert!(first != second, "each step drops others");
    assert!(run(3) == [first.clone(), second], "a seed gives the same bits again");
    assert!(run(4)[0] != first, "another seed drops others");
    assert_eq!(inferred(&Dropout(0.25), &x), x.to_f32());
}

#[test]
fn layers_give_what_their_definitions_say() {
    let rows = Initialiser::Tensor(Tensor::from_f32([3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let embedding = Embedding {
        init: rows.clone(),
        ..Embedding::new(3, 2)
    };
    assert_eq!(
        inferred(&embedding, &Tensor::from_i64([1, 3], &[2, 0, 2])),
        [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]
    );
    let dense = Dense {
        bias_init: Initialiser::Constant(10.0),
        ..Dense::new(2).init(rows)
    };
    assert_eq!(
        inferred(&dense, &Tensor::from_f32([1, 3], &[1.0, 0.0, -1.0])),
        [6.0, 6.0]
    );
    let line = Tensor::from_f32([1, 1, 5], &[1.0, 2.0, 4.0, 8.0, 16.0]);
    let kernel = Initialiser::Tensor(Tensor::from_f32([1, 1, 2], &[-1.0, 1.0]));
    assert_eq!(
        inferred(&Conv::d1(1, 2).init(kernel.clone()), &line),
        [1.0, 2.0, 4.0, 8.0]
    );
    let padded = Conv::d1(1, 2).init(kernel).stride(2).padding(1).without_bias();
    assert_eq!(inferred(&padded, &line), [1.0, 2.0, 8.0]);
    assert_eq!(inferred(&Pool::new(PoolOf::Max, &[2]), &line), [2.0, 8.0]);
    assert_eq!(inferred(&Pool::new(PoolOf::Average, &[2]), &line), [1.5, 6.0]);
    let image = Tensor::from_f32([1, 2, 2, 2], &[1.0, 2.0, 3.0, 4.0, -1.0, -2.0, -3.0, -4.0]);
    let kernel = Initialiser::Tensor(Tensor::from_f32(
        [1, 2, 2, 2],
        &[1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0],
    ));
    assert_eq!(inferred(&Conv::d2(1, 2).init(kernel), &image), [3.0]);
    assert_eq!(inferred(&Pool::max2(2), &image), [4.0, -1.0]);
    assert_eq!(inferred(&Pool::average2(2), &image), [2.5, -2.5]);
    assert_eq!(inferred(&GlobalPool(PoolOf::Max), &image), [4.0, -1.0]);
    assert_eq!(inferred(&GlobalPool(PoolOf::Average), &image), [2.5, -2.5]);
    assert_eq!(inferred(&Flatten, &image), image.to_f32());
    let x = Tensor::from_f32([1, 3], &[-1.0, 0.0, 2.0]);
    let sum = (-1f64).exp() + 1.0 + 2f64.exp();
    for (activation, expected) in [
        (Activation::Step, [0.0, 0.0, 1.0]),
        (Activation::Tanh, [-0.761594156, 0.0, 0.964027580]),
        (Activation::Sigmoid, [0.268941421, 0.5, 0.880797078]),
        (Activation::Relu, [0.0, 0.0, 2.0]),
        (Activation::LeakyRelu(0.1), [-0.1, 0.0, 2.0]),
        (Activation::Gelu, [-0.158655254, 0.0, 1.954499736]),
        (Activation::Silu, [-0.268941421, 0.0, 1.761594156]),
        (Activation::Softplus, [0.313261688, std::f64::consts::LN_2, 2.126928011]),
        (Activation::Softmax, [(-1f64).exp() / sum, 1.0 / sum, 2f64.exp() / sum]),
    ] {
        assert_near(&inferred(&activation, &x), &expected, 2e-6);
    }
}

/// The loss of one score and one target.
fn loss_of(loss: Loss, score: f32, target: f32) -> f64 {
    let layer = Function::new("Loss", move |scope, x| {
        let target = scope.builder().full(DType::F32, [1, 1], f64::from(target));
        loss.each(x, target)
    });
    f64::from(inferred(&layer, &Tensor::from_f32([1, 1], &[score]))[0])
}

#[test]
fn losses_agree_with_their_definitions() {
    let far = 1.5f64 * (3.0 - 0.75);
    for (loss, score, target, expected) in [
        (Loss::MeanSquaredError, 3.0, 1.0, 4.0),
        (Loss::MeanAbsoluteError, -3.0, 1.0, 4.0),
        (Loss::Huber(1.5), 2.0, 1.0, 0.5),
        (Loss::Huber(1.5), 4.0, 1.0, far),
        (Loss::Hinge, 0.25, 1.0, 0.75),
        (Loss::Hinge, 0.25, -1.0, 1.25),
        (Loss::Hinge, 2.0, 1.0, 0.0),
        (Loss::BinaryCrossEntropy, 0.0, 1.0, std::f64::consts::LN_2),
        (Loss::BinaryCrossEntropy, 2.0, 0.25, 2.0 - 0.5 + (-2f64).exp().ln_1p()),
        (Loss::BinaryCrossEntropy, 100.0, 0.0, 100.0),
        (Loss::BinaryCrossEntropy, 100.0, 1.0, 0.0),
        (Loss::BinaryCrossEntropy, -100.0, 1.0, 100.0),
        (Loss::BinaryCrossEntropy, -100.0, 0.0, 0.0),
    ] {
        let found = loss_of(loss, score, target);
        assert!(
            (found - expected).abs() <= 1e-6 * expected.max(1.0),
            "{loss:?} of {score}: {found}, expected {expected}"
        );
    }
}

#[test]
fn the_gradient_of_the_scores_is_probability_less_truth() {
    let (scores, labels) = ([2.0f32, -1.0, 0.5, 100.0, 0.0, -100.0], [2i64, 0]);
    let b = Builder::new();
    let x = b.input("x", DType::F32, [2, 3]);
    let loss = Loss::CategoricalCrossEntropy.of(x, b.input("y", DType::I64, [2]));
    let gradient: Vec<Val<'_>> = autodiff::grad(loss, &[x]);
    let graph = b.finish([("gradient", gradient[0]), ("loss", loss)]).unwrap();
    let mut session = run_of(&Program::pure("apply", graph), 0);
    let arguments = [
        ("x", &Tensor::from_f32([2, 3], &scores)),
        ("y", &Tensor::from_i64([2], &labels)),
    ];
    let found = session.call("apply", &arguments).unwrap();
    let (mut expected, mut total) = (Vec::new(), 0.0);
    for (row, &label) in scores.chunks_exact(3).zip(&labels) {
        let greatest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
        let exps: Vec<f64> = row.iter().map(|&score| (f64::from(score) - greatest).exp()).collect();
        let sum: f64 = exps.iter().sum();
        total -= f64::from(row[label as usize]) - greatest - sum.ln();
        let truth = |class: usize| if class as i64 == label { 1.0 } else { 0.0 };
        expected.extend(exps.iter().enumerate().map(|(class, e)| (e / sum - truth(class)) / 2.0));
    }
    assert_near(&found[0].1.to_f32(), &expected, 1e-6);
    assert_near(&found[1].1.to_f32(), &[total / 2.0], 1e-6);
}

/// The first elements of a parameter.
fn drawn(init: &Initialiser, shape: &[usize]) -> Vec<f64> {
    let (init, owned) = (init.clone(), shape.to_vec());
    let layer = Function::new("Drawn", move |scope, x| {
        scope.parameter("w", owned.clone(), &init) + x.sum_all() * 0.0
    });
    let session = session(&layer, Mode::Inference, &Tensor::zeros(DType::F32, [1]), 5);
    session
        .state("w")
        .unwrap()
        .to_f32()
        .into_iter()
        .map(f64::from)
        .collect()
}

#[test]
fn initial_weights_have_the_documented_spread() {
    let (dense, conv): (&[usize], &[usize]) = (&[200, 100], &[40, 20, 5, 5]);
    // (fan in, fan out): 200 and 100; 20·25 and 40·25.
    for (init, shape, bound) in [
        (Initialiser::Uniform(0.3), dense, 0.3),
        (Initialiser::XavierUniform, dense, (6.0f64 / 300.0).sqrt()),
        (Initialiser::XavierUniform, conv, (6.0f64 / 1500.0).sqrt()),
        (Initialiser::HeUniform, dense, (6.0f64 / 200.0).sqrt()),
        (Initialiser::HeUniform, conv, (6.0f64 / 500.0).sqrt()),
        (Initialiser::FanInUniform, dense, (1.0f64 / 200.0).sqrt()),
    ] {
        let greatest = drawn(&init, shape)
            .iter()
            .fold(0.0f64, |greatest, w| greatest.max(w.abs()));
        assert!(
            greatest <= bound * (1.0 + 1e-6),
            "{init:?}: {greatest} is beyond {bound}"
        );
        assert!(greatest >= 0.999 * bound, "{init:?}: {greatest} does not reach {bound}");
    }
    for (init, shape, deviation) in [
        (Initialiser::Gaussian(0.2), dense, 0.2),
        (Initialiser::XavierNormal, dense, (2.0f64 / 300.0).sqrt()),
        (Initialiser::HeNormal, dense, 0.1),
        (Initialiser::HeNormal, conv, (2.0f64 / 500.0).sqrt()),
    ] {
        let drawn = drawn(&init, shape);
        let count = drawn.len() as f64;
        let mean = drawn.iter().sum::<f64>() / count;
        let found = (drawn.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / count).sqrt();
        // 20,000 draws: the mean deviates by 0.7 %, the deviation by 0.5 %; five times that.
        assert!(mean.abs() < 0.036 * deviation, "{init:?}: mean {mean}");
        assert!(
            (found / deviation - 1.0).abs() < 0.025,
            "{init:?}: deviation {found}, expected {deviation}"
        );
    }
    assert!(drawn(&Initialiser::Zeros, dense).iter().all(|&w| w == 0.0));
    assert!(drawn(&Initialiser::Constant(0.5), dense).iter().all(|&w| w == 0.5));
}

#[test]
fn orthogonal_matrices_are_orthogonal() {
    for (rows, columns) in [(1, 1), (7, 3), (3, 7), (32, 32)] {
        let w = drawn(&Initialiser::Orthogonal(2.0), &[rows, columns]);
        let at = |row: usize, column: usize| w[row * columns + column];
        let few = rows.min(columns);
        for a in 0..few {
            for b in 0..few {
                let product: f64 = if rows >= columns {
                    (0..rows).map(|row| at(row, a) * at(row, b)).sum()
                } else {
                    (0..columns).map(|column| at(a, column) * at(b, column)).sum()
                };
                let expected = if a == b { 4.0 } else { 0.0 };
                assert!(
                    (product - expected).abs() < 4e-3,
                    "{rows}×{columns} at {a}, {b}: {product}"
                );
            }
        }
    }
}

/// Points in two classes, inside and outside a circle.
fn circle() -> Dataset {
    let points: Vec<[f32; 2]> = (0..200)
        .map(|k| [(k as f32 * 0.618).fract() * 2.0 - 1.0, k as f32 / 100.0 - 1.0])
        .collect();
    let labels: Vec<i64> = points.iter().map(|[x, y]| i64::from(x * x + y * y < 0.5)).collect();
    Dataset::new(
        Tensor::from_f32([200, 2], &points.concat()),
        Tensor::from_i64([200], &labels),
    )
    .unwrap()
}

fn small(hidden: usize) -> Model {
    let net = Sequential::new()
        .then(Dense::new(hidden))
        .then(Activation::Tanh)
        .then(Dropout(0.1))
        .then(Dense::new(2));
    let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(0.02));
    let options = ModelOptions {
        batch: 20,
        threads: 1,
        seed: 2,
        device: Cpu::native().into(),
    };
    Model::compile(net, &training, &circle(), options).unwrap()
}

fn fit(model: &mut Model, epochs: usize, steps_done: usize) {
    model
        .fit(
            &circle(),
            FitOptions {
                epochs,
                steps_done,
                ..FitOptions::default()
            },
        )
        .unwrap();
}

#[test]
fn models_learn_evaluate_predict_and_summarise() {
    let (data, mut model) = (circle(), small(16));
    let before = model.evaluate(&data).unwrap();
    fit(&mut model, 80, 0);
    let after = model.evaluate(&data).unwrap();
    assert!(after.loss < 0.5 * before.loss, "{before:?} became {after:?}");
    assert!(after.accuracy.unwrap() > 0.9, "{after:?}");
    // 7 examples are no whole batch.
    let some = data.select(&[3, 1, 4, 15, 92, 65, 35]);
    let (all, few) = (
        model.predict(&data.inputs).unwrap(),
        model.predict(&some.inputs).unwrap(),
    );
    assert_eq!(few.shape(), [7, 2]);
    assert_eq!(few.to_f32()[..2], all.to_f32()[6..8]);
    let expected = "\
layer                      output                       parameters      Mflop
Dense(16)                  f32[20,16]                           48       0.00
Tanh                       f32[20,16]                            0       0.00
Dropout(0.1)               f32[20,16]                            0       0.00
Dense(2)                   f32[20,2]                            34       0.00
total                                                           82       0.00
79.0 % of the operations are in contractions
";
    assert_eq!(model.summary().unwrap(), expected);
    let wrong = Dataset::new(Tensor::zeros(DType::F32, [20, 3]), Tensor::zeros(DType::I64, [20])).unwrap();
    let message = model.evaluate(&wrong).unwrap_err().to_string();
    assert!(
        message.contains("f32[20,2]") && message.contains("f32[20,3]"),
        "{message}"
    );
    let wrong = Dataset::new(Tensor::zeros(DType::F32, [1, 2]), Tensor::from_i64([1], &[2])).unwrap();
    let message = model.evaluate(&wrong).unwrap_err().to_string();
    assert_eq!(
        message,
        "the model tells 2 classes apart, but label 0 (counted from 0) is 2"
    );
}

fn saved(model: &Model, folder: &Path) -> Vec<u8> {
    let path = folder.join("weights.safetensors");
    model.save(&path).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn equal_trainings_save_equal_files_and_resumed_ones_too() {
    let folder = tempfile::tempdir().unwrap();
    let (mut whole, mut again, mut stopped, mut resumed) = (small(8), small(8), small(8), small(8));
    fit(&mut whole, 3, 0);
    fit(&mut again, 3, 0);
    let bytes = saved(&whole, folder.path());
    assert!(
        bytes == saved(&again, folder.path()),
        "equal trainings save other bytes"
    );
    // Stopped in the middle of the second of three epochs of ten steps.
    let mut steps = 0;
    let interrupt = std::sync::atomic::AtomicBool::new(false);
    let mut count = |_: usize, _: f64| {
        steps += 1;
        interrupt.store(steps == 14, std::sync::atomic::Ordering::Relaxed);
    };
    let options = FitOptions {
        epochs: 3,
        on_step: Some(&mut count),
        interrupt: Some(&interrupt),
        ..FitOptions::default()
    };
    let history = stopped.fit(&circle(), options).unwrap();
    assert!(history.interrupted);
    assert_eq!(history.steps, 14);
    saved(&stopped, folder.path());
    resumed.load(&folder.path().join("weights.safetensors")).unwrap();
    fit(&mut resumed, 3, 14);
    assert!(
        bytes == saved(&resumed, folder.path()),
        "the resumed training went another way"
    );
}

#[test]
fn weights_of_another_model_are_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (other, mut model) = (small(4), small(8));
    saved(&other, folder.path());
    let before = model.session().states();
    let message = model
        .load(&folder.path().join("weights.safetensors"))
        .unwrap_err()
        .to_string();
    for problem in [
        "`0.weight` is f32[2,4], the model has f32[2,8]",
        "`0.bias` is",
        "`3.weight` is",
        "`0.weight.first` is",
    ] {
        assert!(message.contains(problem), "{message}");
    }
    assert_eq!(model.session().states(), before);
}

/// Notes the states after each epoch and pretends that the second was the best.
#[derive(Default)]
struct Spy(Vec<Vec<(String, Tensor)>>);

impl Callback for Spy {
    fn after_epoch(&mut self, _: &Epoch, session: &mut Session) -> Result<Flow, netloom::Error> {
        self.0.push(session.states());
        Ok(Flow::Continue)
    }
}

#[test]
fn callbacks_stop_save_and_log() {
    let folder = tempfile::tempdir().unwrap();
    let (data, mut model) = (circle(), small(8));
    let (best_path, log_path) = (folder.path().join("best.safetensors"), folder.path().join("log.csv"));
    let (mut spy, mut early) = (Spy::default(), EarlyStopping::new(2));
    let (mut best, mut log) = (Checkpoint::new(&best_path), CsvLog::new(&log_path));
    let lines_path = folder.path().join("log.jsonl");
    let mut lines = JsonLog::new(&lines_path);
    // A validation set whose labels are turned around gets worse from the first epoch on.
    let turned: Vec<i64> = data.targets.to_i64().into_iter().map(|label| 1 - label).collect();
    let turned = Dataset::new(data.inputs.clone(), Tensor::from_i64([200], &turned)).unwrap();
    let callbacks: Vec<&mut dyn Callback> = vec![&mut spy, &mut best, &mut log, &mut lines, &mut early];
    let options = FitOptions {
        epochs: 50,
        validation: Some(&turned),
        callbacks,
        ..FitOptions::default()
    };
    let history = model.fit(&data, options).unwrap();
    let loss = |epoch: &Epoch| epoch.validation.unwrap().loss;
    let best_at = (0..history.epochs.len())
        .min_by(|&a, &b| loss(&history.epochs[a]).total_cmp(&loss(&history.epochs[b])))
        .unwrap();
    assert_eq!(history.epochs.len(), best_at + 3, "two more epochs than the best");
    assert_eq!(JsonLog::read(&lines_path).unwrap(), history.epochs);
    std::fs::write(&lines_path, "{\"epoch\":1}\n").unwrap();
    let message = JsonLog::read(&lines_path).unwrap_err().to_string();
    assert!(message.contains("log.jsonl: line 1"), "{message}");
    assert_eq!(model.session().states(), spy.0[best_at], "the best states are back");
    let mut best = small(8);
    best.load(&best_path).unwrap();
    assert_eq!(best.session().states(), spy.0[best_at]);
    // A resumed training goes on comparing: what is worse than the best of before does not replace it.
    let mut resumed = Checkpoint::resumed(&best_path).unwrap();
    let best_bytes = std::fs::read(&best_path).unwrap();
    for (place, replaces) in [(best_at + 1, false), (best_at, false)] {
        resumed.after_epoch(&history.epochs[place], model.session()).unwrap();
        assert_eq!(
            std::fs::read(&best_path).unwrap() != best_bytes,
            replaces,
            "epoch {place}"
        );
    }
    let better = Epoch {
        validation: None,
        objective: loss(&history.epochs[best_at]) - 0.001,
        ..history.epochs[0]
    };
    resumed.after_epoch(&better, small(8).session()).unwrap();
    assert!(
        std::fs::read(&best_path).unwrap() != best_bytes,
        "a better epoch is saved"
    );
    model.save(&folder.path().join("plain.safetensors")).unwrap();
    let message = Checkpoint::resumed(folder.path().join("plain.safetensors"))
        .unwrap_err()
        .to_string();
    assert!(message.contains("no checkpoint wrote it"), "{message}");
    let log = std::fs::read_to_string(&log_path).unwrap();
    assert_eq!(log.lines().count(), 1 + history.epochs.len());
    let header = "epoch,objective,training_loss,training_accuracy,validation_loss,validation_accuracy,step_ms";
    assert_eq!(log.lines().next(), Some(header));
}

/// What enters the last layer is `(p - y) / batch`, for the softmax as for the sigmoid; also where `exp` of the scores overflows.
#[test]
fn the_gradient_of_cross_entropy_is_the_error_of_the_probabilities() {
    for scale in [1.0, 100.0] {
        let scores = [0.5, -1.0, 2.0, 0.0, 3.0, -2.0].map(|score: f32| score * scale);
        let softmax: Vec<f64> = scores
            .chunks(3)
            .flat_map(|row| {
                let most = row.iter().copied().fold(f32::MIN, f32::max);
                let powers: Vec<f64> = row.iter().map(|&score| f64::from(score - most).exp()).collect();
                let sum: f64 = powers.iter().sum();
                powers.into_iter().map(move |power| power / sum)
            })
            .collect();
        let sigmoid: Vec<f64> = scores
            .iter()
            .map(|&score| 1.0 / (1.0 + f64::from(-score).exp()))
            .collect();
        let hot = [0.0, 0.0, 1.0, 0.0, 1.0, 0.0];
        let cases = [
            (
                Loss::CategoricalCrossEntropy,
                Tensor::from_i64([2], &[2, 1]),
                softmax,
                2.0,
            ),
            // The mean is over the elements here.
            (
                Loss::BinaryCrossEntropy,
                Tensor::from_f32([2, 3], &hot.map(|y| y as f32)),
                sigmoid,
                6.0,
            ),
        ];
        for (loss, target, probabilities, count) in cases {
            let b = Builder::new();
            let x = b.input("x", DType::F32, [2, 3]);
            let y = b.input("y", target.dtype(), target.shape());
            let gradient = autodiff::grad(loss.of(x, y), &[x])[0];
            let graph = b.finish([("gradient", gradient)]).unwrap();
            let mut session = run_of(&Program::pure("grad", graph), 0);
            let found = session
                .call("grad", &[("x", &Tensor::from_f32([2, 3], &scores)), ("y", &target)])
                .unwrap();
            let wanted: Vec<f64> = probabilities.iter().zip(hot).map(|(p, y)| (p - y) / count).collect();
            assert_near(&found[0].1.to_f32(), &wanted, 1e-6);
        }
    }
}

/// Recurrent layers against their definitions, step by step; padded steps change nothing, and backwards is the order reversed.
#[test]
fn recurrent_layers_are_what_they_say() {
    let (batch, length, features, units) = (2, 5, 3, 4);
    let mut draw = 1u64;
    let x = netloom::ir::sample::tensor(&Type::new(DType::F32, [batch, length, features]), &mut draw);
    for cell in [Cell::Simple, Cell::Gru, Cell::Lstm] {
        let layer = Recurrent::new(cell, units).sequences();
        let mut run = session(&layer, Mode::Inference, &x, 3);
        let found = apply(&mut run, &x);
        let matrix = |name: &str| {
            run.state(name)
                .unwrap()
                .to_f32()
                .into_iter()
                .map(f64::from)
                .collect::<Vec<f64>>()
        };
        let (w, u, bias) = (matrix("weight_ih"), matrix("weight_hh"), matrix("bias_ih"));
        let width = bias.len();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let values = x.to_f32();
        let mut expected = Vec::new();
        for example in 0..batch {
            let (mut h, mut c) = (vec![0.0; units], vec![0.0; units]);
            for step in 0..length {
                let row = &values[(example * length + step) * features..][..features];
                let sum = |at: usize| {
                    bias[at]
                        + (0..features)
                            .map(|k| f64::from(row[k]) * w[k * width + at])
                            .sum::<f64>()
                };
                let hidden = |at: usize| (0..units).map(|k| h[k] * u[k * width + at]).sum::<f64>();
                let both = |gate: usize, unit: usize| sum(gate * units + unit) + hidden(gate * units + unit);
                let next: Vec<(f64, f64)> = (0..units)
                    .map(|unit| match cell {
                        Cell::Simple => (both(0, unit).tanh(), 0.0),
                        Cell::Gru => {
                            let at = 2 * units + unit;
                            let candidate = (sum(at) + sigmoid(both(0, unit)) * hidden(at)).tanh();
                            let keep = sigmoid(both(1, unit));
                            ((1.0 - keep) * candidate + keep * h[unit], 0.0)
                        }
                        Cell::Lstm => {
                            let c = sigmoid(both(1, unit)) * c[unit] + sigmoid(both(0, unit)) * both(2, unit).tanh();
                            (sigmoid(both(3, unit)) * c.tanh(), c)
                        }
                    })
                    .collect();
                (h, c) = next.into_iter().unzip();
                expected.extend(&h);
            }
        }
        assert_near(&found, &expected, 1e-5);

        let last: Vec<f64> = expected
            .chunks(units)
            .skip(length - 1)
            .step_by(length)
            .flatten()
            .copied()
            .collect();
        let layer = Recurrent::new(cell, units).padding(0.0);
        assert_near(&apply(&mut session(&layer, Mode::Inference, &x, 3), &x), &last, 1e-5);
        let padded: Vec<f32> = values
            .chunks(length * features)
            .flat_map(|row| row.iter().copied().chain([0.0; 6]))
            .collect();
        let padded = Tensor::from_f32([batch, length + 2, features], &padded);
        assert_near(
            &apply(&mut session(&layer, Mode::Inference, &padded, 3), &padded),
            &last,
            1e-5,
        );

        let reversed: Vec<f32> = values
            .chunks(length * features)
            .flat_map(|example| example.chunks(features).rev().flatten().copied().collect::<Vec<f32>>())
            .collect();
        let reversed = Tensor::from_f32([batch, length, features], &reversed);
        let backwards = Recurrent {
            reverse: true,
            ..Recurrent::new(cell, units)
        };
        assert_near(
            &apply(&mut session(&backwards, Mode::Inference, &reversed, 3), &reversed),
            &last,
            1e-5,
        );
        let both = apply(
            &mut session(&Bidirectional(Recurrent::new(cell, units)), Mode::Inference, &x, 3),
            &x,
        );
        assert_eq!(both.len(), 2 * batch * units);

        // Handed on, two halves are the whole.
        let halves = Recurrent::new(cell, units).stateful();
        let part = |from: usize, to: usize| {
            let rows = values
                .chunks(length * features)
                .flat_map(|row| row[from * features..to * features].to_vec());
            Tensor::from_f32([batch, to - from, features], &rows.collect::<Vec<f32>>())
        };
        let whole = part(0, 4);
        let once = apply(
            &mut session(&Recurrent::new(cell, units), Mode::Inference, &whole, 3),
            &whole,
        );
        let mut kept = session(&halves, Mode::Inference, &part(0, 2), 3);
        for name in ["weight_ih", "weight_hh", "bias_ih", "bias_hh"] {
            if let Ok(value) = run.state(name) {
                kept.set_state(name, &value).unwrap();
            }
        }
        apply(&mut kept, &part(0, 2));
        let twice = apply(&mut kept, &part(2, 4));
        assert_near(&twice, &once.into_iter().map(f64::from).collect::<Vec<f64>>(), 1e-5);
    }
}

/// Frozen parameters stay, and the step that trains the others has fewer kernels; factors scale the rate.
#[test]
fn frozen_parameters_stay_and_cost_no_gradient() {
    let net = Sequential::new()
        .then(Dense::new(16))
        .then(Activation::Relu)
        .then(Dense::new(3));
    let (x, y) = (Type::new(DType::F32, [4, 8]), Type::new(DType::I64, [4]));
    let plain = Training::new(Loss::CategoricalCrossEntropy, Optimiser::Sgd, Rate::Constant(0.1));
    let step = |rate_factors: Vec<(String, f64)>| {
        let training = Training {
            rate_factors,
            ..plain.clone()
        };
        let mut session = run_of(&program(&net, &x, &y, &training).unwrap().only(TRAIN_STEP), 1);
        let before = [session.state("0.weight").unwrap(), session.state("2.weight").unwrap()].map(|w| w.to_f32());
        let data = netloom::ir::sample::tensor(&x, &mut 5);
        session
            .call(
                TRAIN_STEP,
                &[("x", &data), ("y", &Tensor::from_i64([4], &[0, 1, 2, 1]))],
            )
            .unwrap();
        let after = [session.state("0.weight").unwrap(), session.state("2.weight").unwrap()].map(|w| w.to_f32());
        let change = |at: usize| {
            before[at]
                .iter()
                .zip(&after[at])
                .map(|(a, b)| f64::from(b - a))
                .collect::<Vec<f64>>()
        };
        let flops = session.executable().plan(TRAIN_STEP).unwrap().steps.len();
        ([change(0), change(1)], flops)
    };
    let (whole, all_steps) = step(Vec::new());
    let (frozen, fewer_steps) = step(vec![("0.".to_owned(), 0.0)]);
    let (slow, _) = step(vec![("0.".to_owned(), 0.25)]);
    assert!(frozen[0].iter().all(|change| *change == 0.0));
    assert!(fewer_steps < all_steps, "{fewer_steps} {all_steps}");
    let quarter: Vec<f64> = whole[0].iter().map(|change| change / 4.0).collect();
    assert_near(&slow[0].iter().map(|&x| x as f32).collect::<Vec<f32>>(), &quarter, 1e-6);
    assert!(whole[1].iter().zip(&slow[1]).all(|(a, b)| a == b));
}

/// With the weight of one class zero, its examples do not count.
#[test]
fn class_weights_weigh_examples() {
    let net = || Sequential::new().then(Dense::new(2));
    let data = Dataset::new(
        netloom::ir::sample::tensor(&Type::new(DType::F32, [4, 3]), &mut 9),
        Tensor::from_i64([4], &[0, 1, 0, 1]),
    )
    .unwrap();
    let plain = Training::new(Loss::CategoricalCrossEntropy, Optimiser::Sgd, Rate::Constant(0.1));
    let objective = |training: &Training, data: &Dataset| {
        let mut model = Model::compile(net(), training, data, ModelOptions::new(data.len())).unwrap();
        let history = model
            .fit(
                data,
                FitOptions {
                    epochs: 1,
                    ..FitOptions::default()
                },
            )
            .unwrap();
        history.epochs[0].objective
    };
    let class_weights = Some(vec![2.0, 0.0]);
    let weighted = objective(
        &Training {
            class_weights,
            ..plain.clone()
        },
        &data,
    );
    let zeros_alone = objective(&plain, &data.select(&[0, 2]));
    assert!((weighted - zeros_alone).abs() < 1e-6, "{weighted} {zeros_alone}");
}
