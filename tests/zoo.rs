//! The networks of the zoo: sizes, and results against torchvision's on the same weights.

mod support;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use netloom::formats::npz;
use netloom::ir::{Builder, DType, Program, Tensor};
use netloom::nn::layers::summary;
use netloom::nn::scope::States;
use netloom::nn::training::{PREDICT, TRAIN_STEP, predictor};
use netloom::nn::zoo::{self, NETS, Net, Width, alexnet, densenet, googlenet, mobilenet, resnet, squeezenet, vgg};
use netloom::nn::{Layer, Loss, Mode, Optimiser, Rate, Scope, Sequential, Training, program};
use netloom::weights::Weights;
use netloom::{Cpu, Device, Session, compile};

/// Parameters and the shape of the scores of one example. The counts are torchvision's; of `alexnet_2012` and `googlenet_2014`, the
/// papers' networks as Caffe has them.
const SIZES: [(&str, usize, &[usize]); 21] = [
    ("tiny", 105, &[1, 1]),
    ("mlp", 669_706, &[1, 10]),
    ("autoencoder", 437_664, &[1, 784]),
    ("lenet", 431_080, &[1, 10]),
    ("convnet", 104_426, &[1, 10]),
    ("lstm", 100_106, &[1, 10]),
    ("alexnet", 61_100_840, &[1, 1000]),
    ("alexnet_2012", 60_965_224, &[1, 1000]),
    ("vgg16", 138_357_544, &[1, 1000]),
    ("vgg19", 143_667_240, &[1, 1000]),
    ("resnet18", 11_689_512, &[1, 1000]),
    ("resnet18_cifar", 11_173_962, &[1, 10]),
    ("resnet18_imagenet", 11_689_512, &[1, 1000]),
    ("resnet34", 21_797_672, &[1, 1000]),
    ("resnet50", 25_557_032, &[1, 1000]),
    ("squeezenet", 1_235_496, &[1, 1000]),
    ("squeezenet_1_0", 1_248_424, &[1, 1000]),
    ("googlenet", 6_624_904, &[1, 1000]),
    ("googlenet_2014", 6_998_552, &[1, 1000]),
    ("mobilenet_v2", 3_504_872, &[1, 1000]),
    ("densenet121", 7_978_856, &[1, 1000]),
];

#[test]
fn parameters_and_shapes_are_the_papers() {
    let names: Vec<&str> = NETS.iter().map(|net| net.name).collect();
    assert_eq!(names, SIZES.map(|(name, ..)| name));
    for (name, parameters, shape) in SIZES {
        let net = zoo::find(name).unwrap();
        let rows = summary(&(net.layers)(), &net.input(1)).unwrap();
        assert_eq!(
            rows.iter().map(|row| row.parameters).sum::<usize>(),
            parameters,
            "{name}"
        );
        assert_eq!(rows.last().unwrap().output.shape, shape, "{name}");
    }
}

#[test]
fn operations_of_the_convolutional_networks_are_the_known_ones() {
    // Multiplications and additions of contractions as torchvision's table of weights has them (GFLOPS there counts a pair as one).
    let known = [
        ("alexnet", 0.71),
        ("vgg16", 15.47),
        ("resnet18", 1.81),
        ("resnet50", 4.09),
        ("squeezenet", 0.35),
        ("googlenet", 1.5),
        ("mobilenet_v2", 0.3),
        ("densenet121", 2.83),
    ];
    for (name, giga) in known {
        let net = zoo::find(name).unwrap();
        let rows = summary(&(net.layers)(), &net.input(1)).unwrap();
        let found = rows.iter().map(|row| row.flops.contractions).sum::<f64>() / 2e9;
        assert!((found - giga).abs() < 0.0101, "{name}: {found} G, expected {giga}");
    }
}

/// The states of a network, as an entry of that mode asks for them.
fn states(net: &Net, mode: Mode) -> States {
    let builder = Builder::new();
    let states = Rc::new(RefCell::new(States::default()));
    let scope = Scope::new(&builder, mode, Rc::clone(&states));
    (net.layers)().build(&scope, builder.input("x", DType::F32, net.input(2).shape));
    states.take()
}

/// The number of trained elements when a network is built for training.
fn trained(name: &str) -> usize {
    states(zoo::find(name).unwrap(), Mode::Training).parameter_count()
}

#[test]
fn further_classifiers_are_there_in_training() {
    assert_eq!(trained("googlenet"), 13_004_888);
    assert_eq!(trained("googlenet_2014"), 13_378_280);
    assert_eq!(trained("resnet18"), 11_689_512);
}

/// Numbers in [-1, 1), the same on every machine; `benches/peers/zoo_reference.py` has the same function.
fn made_up(name: &str, shape: &[usize]) -> Vec<f32> {
    let count: u64 = shape.iter().product::<usize>() as u64;
    (0..count)
        .map(|place| {
            let mut at = place;
            for byte in name.bytes() {
                at = at.wrapping_add(u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                at ^= at >> 29;
            }
            at = at.wrapping_mul(0xBF58_476D_1CE4_E5B9);
            ((at >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
        })
        .collect()
}

/// Made-up weights as PyTorch stores them, spread as `weights` of the script spreads them.
fn weights(net: &Net) -> Weights {
    let states = states(net, Mode::Inference);
    let tensors = states.states().iter().map(|state| {
        let name = &state.name;
        let mut shape = state.ty.shape.clone();
        if states.is_transposed_in_torch(name) {
            shape.reverse();
        }
        let mut elements = made_up(name, &shape);
        if shape.len() > 1 {
            let spread = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32;
            elements.iter_mut().for_each(|u| *u *= spread);
        } else if name.ends_with("bias") || name.ends_with("mean") {
            elements.iter_mut().for_each(|u| *u *= 0.1);
        } else {
            elements.iter_mut().for_each(|u| *u = 1.0 + *u * 0.5);
        }
        (name.clone(), Tensor::from_f32(shape, &elements))
    });
    zoo::from_torch(net, tensors.collect()).unwrap()
}

fn session(program: &Program, net: &Net, device: impl Into<Device>) -> Session {
    let mut session = Session::new(compile(program, device).unwrap().into(), 1, 0).unwrap();
    weights(net).put(program, &mut session).unwrap();
    session
}

fn reference(name: &str) -> Tensor {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/zoo.npz");
    let arrays = npz::load(&path).unwrap();
    arrays.into_iter().find(|(known, _)| known == name).unwrap().1
}

/// The greatest difference, as a share of the greatest magnitude.
#[track_caller]
fn assert_near(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let greatest = |numbers: &mut dyn Iterator<Item = f64>| numbers.fold(0.0, |a: f64, b| if b <= a { a } else { b });
    let pairs = found.scalars().zip(expected.scalars());
    let error = greatest(&mut pairs.map(|(a, b)| (a.as_f64() - b.as_f64()).abs()));
    let scale = greatest(&mut expected.scalars().map(|b| b.as_f64().abs()));
    assert!(
        error <= tolerance * scale,
        "{what}: {:e} of the greatest magnitude",
        error / scale
    );
}

/// The networks of the script, for pictures of that many rows and columns.
fn small(name: &str) -> Net {
    let (layers, example): (fn() -> _, &[usize]) = match name {
        "alexnet" => (|| alexnet::alexnet(Width::FULL, 32, 10), &[3, 96, 96]),
        "alexnet_2012" => (|| alexnet::alexnet_2012(Width::FULL, 32, 10), &[3, 99, 99]),
        "vgg" => (|| vgg::vgg(&[(1, 8), (2, 16)], 32, 10), &[3, 40, 40]),
        "resnet_basic" => (
            || resnet::resnet(resnet::Kind::Basic, [1, 2, 1, 1], Width::FULL, 10),
            &[3, 50, 50],
        ),
        "resnet_bottleneck" => (
            || resnet::resnet(resnet::Kind::Bottleneck, [1, 2, 1, 1], Width::FULL, 10),
            &[3, 50, 50],
        ),
        "squeezenet" => (|| squeezenet::squeezenet(Width::FULL, 10), &[3, 64, 64]),
        "squeezenet_1_0" => (|| squeezenet::squeezenet_1_0(Width::FULL, 10), &[3, 64, 64]),
        "googlenet" => (|| googlenet::googlenet(Width::FULL, 10), &[3, 64, 64]),
        "googlenet_2014" => (|| googlenet::googlenet_2014(Width::FULL, 10), &[3, 64, 64]),
        "mobilenet_v2" => (|| mobilenet::mobilenet_v2(10), &[3, 50, 50]),
        "densenet" => (|| densenet::densenet(8, &[2, 3], 10), &[3, 50, 50]),
        "train" => (
            || resnet::resnet_small(resnet::Kind::Basic, [1, 1, 1, 1], Width::FULL, 10),
            &[3, 16, 16],
        ),
        _ => unreachable!("a name of the script"),
    };
    Net {
        name: "small",
        layers,
        example,
        ..*zoo::find("resnet18").unwrap()
    }
}

/// The network that is predicted on Vulkan too, with folded batch normalisation: drivers take seconds to compile each.
#[cfg(feature = "vulkan")]
const VULKAN: &str = "resnet_basic";

/// Prediction as torchvision predicts, and the same when what depends on weights alone is computed beforehand.
fn check(name: &str) {
    let net = small(name);
    let x = Tensor::from_f32(net.input(2).shape, &made_up("x", &net.input(2).shape));
    let program = predictor(&(net.layers)(), &net.input(2)).unwrap();
    let predict = |program: &Program| {
        let results = session(program, &net, Cpu::native())
            .call(PREDICT, &[("x", &x)])
            .unwrap();
        results[0].1.clone()
    };
    let plain = predict(&program);
    assert_near(name, &plain, &reference(name), 1e-4);
    let prepared = program.prepared();
    // Up to 53 layers, each rounded differently by some 2^-23.
    assert_near(name, &predict(&prepared), &plain, 3e-5);
    #[cfg(feature = "vulkan")]
    if name == VULKAN
        && let Some(device) = support::vulkan()
    {
        let mut session = session(&prepared, &net, std::sync::Arc::clone(&device));
        let results = session.call(PREDICT, &[("x", &x)]).unwrap();
        assert_near(name, &results[0].1, &plain, 3e-5);
        assert_eq!(device.messages(), [""; 0]);
    }
    assert_eq!(
        prepared.entries.len() > 1,
        prepared.states.iter().any(|state| state.name.contains("prepared"))
    );
}

macro_rules! networks {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })+
    };
}

networks! {
    alexnet alexnet_2012 vgg resnet_basic resnet_bottleneck squeezenet squeezenet_1_0 googlenet googlenet_2014 mobilenet_v2 densenet
}

#[test]
fn a_residual_network_trains_as_pytorch_trains_it() {
    let net = small("train");
    let training = Training::new(
        Loss::CategoricalCrossEntropy,
        Optimiser::Momentum(0.9),
        Rate::Constant(0.001),
    );
    let program = program(&(net.layers)(), &net.input(4), &net.target(4), &training).unwrap();
    let mut session = session(&program.only(TRAIN_STEP), &net, Cpu::native());
    let x = Tensor::from_f32(net.input(4).shape, &made_up("x", &net.input(4).shape));
    let y = Tensor::from_i64([4], &[3, 1, 4, 1]);
    let losses: Vec<f32> = (0..3)
        .map(|_| session.call(TRAIN_STEP, &[("x", &x), ("y", &y)]).unwrap()[0].1.to_f32()[0])
        .collect();
    assert_near(
        "losses",
        &Tensor::from_f32([3], &losses),
        &reference("train.losses"),
        1e-4,
    );
    for name in [
        "bn1.running_mean",
        "bn1.running_var",
        "layer4.0.bn2.running_mean",
        "layer4.0.bn2.running_var",
        "fc.bias",
    ] {
        let expected = reference(&format!("train.{name}"));
        assert_near(name, &session.state(name).unwrap(), &expected, 1e-4);
    }
}

/// What the trainings tell apart: zeros, ones and twos.
#[cfg(feature = "demo")]
const CLASSES: usize = 3;

/// Batches of digits: each pixel four times, with a margin, in three equal planes of 64×64, about mean 0 and variance 1.
#[cfg(feature = "demo")]
fn digits(batches: usize, batch: usize) -> Vec<[Tensor; 2]> {
    let (train, _) = netloom::train::Dataset::digits().unwrap();
    let (pixels, labels) = (train.inputs.to_f32(), train.targets.to_i64());
    let value = |digit: usize, row: usize, column: usize| match (row.checked_sub(4), column.checked_sub(4)) {
        (Some(row @ 0..56), Some(column @ 0..56)) => pixels[digit * 784 + row / 2 * 28 + column / 2],
        _ => 0.0,
    };
    let enlarged = |digit: &usize| {
        let plane = (0..64 * 64).map(|at| (value(*digit, at / 64, at % 64) - 0.1) / 0.3);
        plane.collect::<Vec<f32>>().repeat(3)
    };
    let known: Vec<usize> = (0..train.len()).filter(|&at| labels[at] < CLASSES as i64).collect();
    let one = |digits: &[usize]| {
        let pictures: Vec<f32> = digits.iter().flat_map(enlarged).collect();
        let classes: Vec<i64> = digits.iter().map(|&digit| labels[digit]).collect();
        [
            Tensor::from_f32([batch, 3, 64, 64], &pictures),
            Tensor::from_i64([batch], &classes),
        ]
    };
    known.chunks_exact(batch).take(batches).map(one).collect()
}

/// Fifty steps over three batches halve the training loss, on the CPU and on Vulkan.
#[cfg(feature = "demo")]
fn learns(layers: fn() -> Sequential, rate: f64) {
    const STEPS: usize = 50;
    const BATCHES: usize = 3;
    const BATCH: usize = 6;
    let net = Net {
        name: "narrow",
        layers,
        example: &[3, 64, 64],
        ..*zoo::find("resnet18").unwrap()
    };
    let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(rate));
    let program = program(&layers(), &net.input(BATCH), &net.target(BATCH), &training).unwrap();
    let program = program.only(TRAIN_STEP);
    let batches = digits(BATCHES, BATCH);
    let first_loss = |device: Device| {
        let name = device.name();
        let mut session = Session::new(compile(&program, device).unwrap().into(), 2, 0).unwrap();
        let mut loss = session.results(TRAIN_STEP).unwrap();
        let step = |[x, y]: &[Tensor; 2]| {
            session.run(TRAIN_STEP, &[x, y], &mut loss).unwrap();
            loss[0].get(0).as_f64()
        };
        let losses: Vec<f64> = batches.iter().cycle().take(STEPS).map(step).collect();
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / BATCHES as f64;
        let (first, last) = (mean(&losses[..BATCHES]), mean(&losses[STEPS - BATCHES..]));
        // A net that starts badly halves its loss by knowing nothing; that is not meant.
        let ignorant = (CLASSES as f64).ln();
        assert!(
            last < 0.5 * first.min(ignorant),
            "{name}: from {first} to {last}: {losses:?}"
        );
        losses[0]
    };
    let on_cpu = first_loss(Cpu::native().into());
    #[cfg(feature = "vulkan")]
    if let Some(device) = support::vulkan() {
        let found = first_loss(std::sync::Arc::clone(&device).into());
        assert!((found - on_cpu).abs() < 1e-4 * on_cpu, "{found}, on the CPU {on_cpu}");
        assert_eq!(device.messages(), [""; 0]);
    }
}

macro_rules! trainings {
    ($($name:ident, $rate:expr, $net:expr;)+) => {
        #[cfg(feature = "demo")]
        mod learns_digits {
            use super::*;
            $(#[test]
            fn $name() {
                learns(|| $net, $rate);
            })+
        }
    };
}

trainings! {
    alexnet, 1e-3, alexnet::alexnet(Width(0.25), 256, CLASSES);
    vgg16, 5e-4, vgg::vgg(&[(2, 4), (2, 8), (3, 16), (3, 32), (3, 32)], 256, CLASSES);
    resnet18, 1e-3, resnet::resnet(resnet::Kind::Basic, [2, 2, 2, 2], Width(0.125), CLASSES);
    squeezenet, 1e-3, squeezenet::squeezenet(Width(0.25), CLASSES);
    googlenet, 1e-3, googlenet::googlenet(Width(0.125), CLASSES);
}
