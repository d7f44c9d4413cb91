//! Workgroups that work together, on a device that pretends to be a GPU: folds with and without subgroups, what follows from them, and what is
//! refused. Their loops are compared with the oracle in `schedule.rs`.

#![cfg(feature = "vulkan")]

mod support;

use std::sync::Arc;

use netloom::compile::lower;
use netloom::gpu::device::{Device, Options, Pretend};
use netloom::gpu::emit;
use netloom::ir::builder::{Builder, Val};
use netloom::ir::kernel::{Bind, Nest, Stmt, interp};
use netloom::ir::ops::Conv;
use netloom::ir::{DType, Graph, Program, Tensor, oracle, sample, text};
use netloom::{Session, compile, dump};
use rspirv::spirv::Op as Opcode;

/// Devices whose workgroups work together: by subgroups, and through memory alone.
fn devices() -> Option<[Arc<Device>; 2]> {
    support::vulkan()?;
    let by_subgroups: Pretend = |traits| (traits.workgroups, traits.product_bytes) = (true, 0);
    let through_memory: Pretend = |traits| {
        (traits.workgroups, traits.product_bytes, traits.shuffles) = (true, 0, false);
    };
    Some([by_subgroups, through_memory].map(|pretend| {
        let options = Options {
            validate: true,
            pretend: Some(pretend),
            ..Options::default()
        };
        Device::open(&options).expect("it was opened before")
    }))
}

fn has_group(nest: &Nest) -> bool {
    let is_group = |stmt: &Stmt| matches!(stmt, Stmt::Loop { bind: Bind::Group, .. });
    nest.body.iter().any(is_group)
}

/// What a graph gives on both devices, which has the same bits, and its nests, which read back as they were.
fn run(devices: &[Arc<Device>; 2], graph: &Graph, inputs: &[(String, Tensor)]) -> (Vec<Tensor>, Vec<Nest>) {
    let program = Program::pure("run", graph.clone());
    let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x)).collect();
    let [(one, nests), (other, _)] = devices.each_ref().map(|device| {
        let lowered = lower(&program, &device.target()).expect("it lowers");
        let scheduled = dump::scheduled(&program, &lowered);
        let again = text::parse_program("stage", &format!("{scheduled:#}"));
        assert_eq!(again.unwrap_or_else(|problems| panic!("{problems}")), scheduled);
        let executable = compile(&program, Arc::clone(device)).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(executable.into(), 1, 0).expect("memory");
        let results = session.call("run", &given).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(device.messages(), [""; 0]);
        let results: Vec<Tensor> = results.into_iter().map(|(_, tensor)| tensor).collect();
        (results, lowered.kernels.nests().to_vec())
    });
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(support::different_bits(one, other), None, "with subgroups and without");
    }
    (one, nests)
}

type Build = for<'g> fn(&'g Builder) -> Val<'g>;

/// Folds of every kind and shape, and what networks make of them; copies against the grain; contractions.
const FOLDS: [(&str, f64, Build); 19] = [
    ("all", 1e-5, |b| b.input("x", DType::F32, [3, 5003]).sum_all()),
    ("in pieces", 1e-5, |b| b.input("x", DType::F32, [70_001]).sum_all()),
    ("rows", 1e-6, |b| b.input("x", DType::F32, [7, 33]).max_over([1])),
    ("product", 1e-5, |b| b.input("x", DType::F32, [3, 50]).prod([1])),
    ("columns", 1e-5, |b| b.input("x", DType::F32, [300, 37]).sum([0])),
    ("channels", 1e-5, |b| {
        b.input("x", DType::F32, [4, 3, 9, 11]).sum([0, 2, 3])
    }),
    ("i64", 0.0, |b| b.input("x", DType::I64, [4, 500]).sum([1])),
    ("f64", 1e-12, |b| b.input("x", DType::F64, [4, 500]).sum([1])),
    ("f16", 2e-2, |b| b.input("x", DType::F16, [2, 200]).max_over([1])),
    ("bool", 0.0, |b| b.input("x", DType::F32, [5, 400]).is_finite().all([1])),
    ("softmax", 1e-6, |b| b.input("x", DType::F32, [6, 1000]).softmax(1)),
    ("normalised", 1e-5, |b| {
        let x = b.input("x", DType::F32, [6, 300]);
        let centred = x - x.mean([1]).spread(&[1], &[6, 300]);
        centred / (centred.square().mean([1]) + 1e-5).sqrt().spread(&[1], &[6, 300])
    }),
    ("gradient of a bias", 1e-5, |b| {
        let (x, y) = (b.input("x", DType::F32, [64, 40]), b.input("y", DType::F32, [64, 40]));
        (x.relu() * y).sum([0]) * 0.5
    }),
    ("turned", 0.0, |b| {
        b.input("x", DType::F32, [3, 70, 64]).permute([0, 2, 1])
    }),
    ("turned and added", 0.0, |b| {
        b.input("x", DType::F32, [50, 33]).transpose() + b.input("y", DType::F32, [33, 50])
    }),
    ("turned halves", 0.0, |b| b.input("x", DType::F16, [40, 32]).transpose()),
    ("product", 1e-5, |b| {
        Val::einsum(
            "mk,kn->mn",
            &[b.input("x", DType::F32, [400, 65]), b.input("w", DType::F32, [65, 333])],
        )
    }),
    ("products", 1e-5, |b| {
        Val::einsum(
            "bkm,bnk->bmn",
            &[
                b.input("x", DType::F32, [8, 32, 128]),
                b.input("w", DType::F32, [8, 130, 32]),
            ],
        )
    }),
    ("convolution", 1e-5, |b| {
        let conv = Conv {
            pad_low: vec![1; 2],
            pad_high: vec![1; 2],
            ..Conv::unit(2)
        };
        let (x, w) = (
            b.input("x", DType::F32, [4, 5, 24, 24]),
            b.input("w", DType::F32, [70, 5, 3, 3]),
        );
        (x.conv(w, conv) + 0.5).relu()
    }),
];

#[test]
fn folds_have_the_same_bits_with_subgroups_and_without() {
    let Some(devices) = devices() else { return };
    for (name, tolerance, build) in FOLDS {
        let b = Builder::new();
        let graph = b
            .finish([("y", build(&b))])
            .unwrap_or_else(|problems| panic!("{name}: {problems}"));
        let inputs = sample::inputs(&graph, 7);
        let (found, nests) = run(&devices, &graph, &inputs);
        assert!(nests.iter().any(has_group), "{name}: {}", nests[0]);
        let given: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
        let expected = oracle::run(&graph, &given).expect("the oracle runs it");
        for (found, (_, expected)) in found.iter().zip(&expected) {
            let greatest = expected.scalars().map(|x| x.as_f64().abs()).fold(1.0, f64::max);
            for (at, (found, expected)) in found.scalars().zip(expected.scalars()).enumerate() {
                let (found, expected) = (found.as_f64(), expected.as_f64());
                let is_near = found == expected || (found - expected).abs() <= tolerance * greatest;
                assert!(is_near, "{name}: [{at}] is {found}, not {expected}");
            }
        }
        // Where nothing but additions rounds, the device does what the nest says, bit for bit.
        let [nest] = &nests[..] else { continue };
        if [
            "all",
            "in pieces",
            "rows",
            "columns",
            "channels",
            "f64",
            "turned",
            "turned and added",
        ]
        .contains(&name)
        {
            let given: Vec<Tensor> = inputs.iter().map(|(_, x)| x.clone()).collect();
            let meant = interp::run(nest, &given, 1);
            // A nest may see a tensor in another shape.
            assert!(found[0].bytes() == meant[0].bytes(), "{name}: {nest}");
        }
    }
}

/// Modules have shuffles where the device has them, and are valid either way.
#[test]
fn modules_of_workgroups_are_valid() {
    let Some(devices) = devices() else { return };
    for (device, has_shuffles) in devices.iter().zip([true, false]) {
        let mut found = false;
        for (name, _, build) in FOLDS {
            let b = Builder::new();
            let program = Program::pure("run", b.finish([("y", build(&b))]).expect("a graph"));
            let lowered = lower(&program, &device.target()).expect("it lowers");
            for nest in lowered.kernels.nests() {
                for phase in emit::emit(nest, &device.traits).expect("the device has what it needs") {
                    let is_shuffle = |opcode| opcode == Opcode::GroupNonUniformShuffleXor;
                    found |= phase.module.all_inst_iter().any(|it| is_shuffle(it.class.opcode));
                    if !support::validates(&format!("{name}, {nest}"), &phase.module) {
                        return;
                    }
                }
            }
        }
        assert_eq!(found, has_shuffles);
    }
}
