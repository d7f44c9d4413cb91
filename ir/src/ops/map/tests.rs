//! Sweeps over the table: what holds for every row is tested for every row.

use std::cell::RefCell;
use std::collections::HashMap;

use super::*;
use crate::builder::Builder;
use crate::graph::{Graph, NodeId};
use crate::kernel::expr::{Expr, Exprs, LocalId};
use crate::ops::Op;
use crate::sample::{SplitMix, is_claimed, operand_types, special_operands};

/// Random samples of each row and type, beside the special values.
const SAMPLES: usize = 400;

fn rows() -> impl Iterator<Item = &'static MapDef> {
    TABLE.iter().copied().flatten().copied()
}

/// Operands for a row: every combination of special values, values within the domain, and random bits.
fn samples(def: &MapDef, dtypes: &[DType], count: usize) -> Vec<Vec<Scalar>> {
    let mut random = SplitMix(0x5eed);
    let mut all = special_operands(dtypes);
    for _ in 0..count {
        let inside = |(&dtype, &range): (&DType, &(f64, f64))| Scalar::from_f64(random.between(range), dtype);
        all.push(dtypes.iter().zip(def.domain).map(inside).collect());
        let anywhere = |&dtype: &DType| match dtype {
            DType::Bool => Scalar::Bool(random.bits() & 1 == 1),
            _ => Scalar::from_bits(random.bits() >> (64 - 8 * dtype.size_bytes()), dtype),
        };
        all.push(dtypes.iter().map(anywhere).collect());
    }
    all
}

/// A row's body as a function of scalars.
struct Compiled {
    exprs: Exprs,
    result: ExprId,
}

impl Compiled {
    fn new(def: &MapDef, dtypes: &[DType]) -> Compiled {
        let exprs = RefCell::new(Exprs::default());
        let arg = |(place, &dtype)| exprs.borrow_mut().local(LocalId(place), dtype);
        let args: Vec<ExprId> = (0..).zip(dtypes).map(arg).collect();
        let args: Vec<X<'_>> = args.into_iter().map(|id| X::new(&exprs, id)).collect();
        let dtype = def.types.result(dtypes).expect("operands that fit");
        let result = def.apply(&args, dtype).id();
        assert_eq!(exprs.borrow().dtype(result), dtype, "{}", def.name);
        Compiled {
            exprs: exprs.into_inner(),
            result,
        }
    }

    fn run(&self, operands: &[Scalar]) -> Scalar {
        let mut values: Vec<Scalar> = Vec::with_capacity(self.exprs.len());
        for id in self.exprs.ids() {
            let value = match self.exprs.get(id) {
                Expr::Const(dtype, bits) => Scalar::from_bits(*bits, *dtype),
                Expr::Local(local, _) => operands[local.at()],
                Expr::Prim(prim, dtype, args) => {
                    let from = self.exprs.dtype(args[0]);
                    let args: Vec<Scalar> = args.iter().map(|arg| values[arg.at()]).collect();
                    prim.eval(*dtype, from, &args)
                }
                other => unreachable!("{other:?} in a body"),
            };
            values.push(value);
        }
        values[self.result.at()]
    }
}

/// How many values of `dtype` lie between two; NaN equals NaN, and 0 equals -0.
fn distance(a: Scalar, b: Scalar, dtype: DType) -> u64 {
    let (Scalar::Float(x), Scalar::Float(y)) = (a, b) else {
        return if a == b { 0 } else { u64::MAX };
    };
    if x.is_nan() || y.is_nan() {
        return if x.is_nan() && y.is_nan() { 0 } else { u64::MAX };
    }
    let place = |value: f64| {
        let magnitude = Scalar::Float(value.abs()).to_bits(dtype) as i128;
        if value < 0.0 { -magnitude } else { magnitude }
    };
    u64::try_from((place(x) - place(y)).unsigned_abs()).unwrap_or(u64::MAX)
}

fn same_bits(a: Scalar, b: Scalar, dtype: DType) -> bool {
    distance(a, b, dtype) == 0 && (a.as_f64().is_nan() || a.to_bits(dtype) == b.to_bits(dtype))
}

/// How far the body may be from the definition for operands of this type.
fn tolerance(def: &MapDef, dtype: DType) -> u64 {
    match (def.ulps, dtype) {
        (0, _) => 0,
        // A result within a few last places of f32 rounds to the same half or its neighbour.
        (_, DType::F16 | DType::BF16) => 1,
        // The definition is itself evaluated in f64, to within one.
        (ulps, DType::F64) => u64::from(ulps) + 1,
        (ulps, _) => u64::from(ulps),
    }
}

#[test]
fn bodies_follow_their_definitions() {
    let mut wrong = Vec::new();
    for def in rows() {
        for dtypes in operand_types(def) {
            let result = def.types.result(&dtypes).expect("operands that fit");
            let compiled = Compiled::new(def, &dtypes);
            let tolerance = tolerance(def, result);
            let mut worst = (0, vec![], Scalar::Bool(false), Scalar::Bool(false));
            for operands in samples(def, &dtypes, SAMPLES) {
                if !is_claimed(def, &operands) {
                    continue;
                }
                let expected = (def.eval)(&operands, dtypes[0]).round(result);
                let found = compiled.run(&operands);
                let mut apart = distance(expected, found, result);
                let zeros = expected.as_f64() == 0.0 && !matches!(def.name, "max" | "min");
                if apart == 0 && zeros && !same_bits(expected, found, result) {
                    apart = u64::MAX;
                }
                if apart > worst.0 {
                    worst = (apart, operands, expected, found);
                }
            }
            if worst.0 > tolerance {
                let (apart, operands, expected, found) = worst;
                wrong.push(format!(
                    "{} of {}: {operands:?} gives {found:?}, should be {expected:?}: {apart} places off, {tolerance} allowed",
                    def.name, dtypes[0]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_are_distinct() {
    let mut seen = std::collections::HashSet::new();
    for def in rows() {
        assert!(seen.insert(def.name), "two rows are named `{}`", def.name);
        assert_eq!(Map::named(def.name), Some(Map(def)));
        assert_eq!(
            def.domain.len(),
            def.arity,
            "`{}` has a domain for each operand",
            def.name
        );
        assert!(!operand_types(def).is_empty(), "`{}` takes some type", def.name);
    }
}

/// A way to compute a row.
type Way<'a> = &'a dyn Fn(&[Scalar]) -> Scalar;

#[test]
fn laws_hold_to_the_bit() {
    for def in rows() {
        for dtypes in operand_types(def) {
            let (dtype, result) = (dtypes[0], def.types.result(&dtypes).expect("operands that fit"));
            let compiled = Compiled::new(def, &dtypes);
            let by_definition = |operands: &[Scalar]| (def.eval)(operands, dtype).round(result);
            let by_body = |operands: &[Scalar]| compiled.run(operands);
            // A body that approximates keeps a law as closely as it keeps the definition, which is tested above.
            let ways: &[Way<'_>] = match def.ulps {
                0 => &[&by_definition, &by_body],
                _ => &[&by_definition],
            };
            for (law, f) in def.laws.iter().flat_map(|law| ways.iter().map(move |f| (law, f))) {
                for operands in samples(def, &dtypes, SAMPLES) {
                    let a = operands[0];
                    let (left, right) = match *law {
                        Law::Commutative => (f(&operands), f(&[operands[1], a])),
                        Law::RightIdentity(c) => (f(&[a, Scalar::from_f64(c, dtype)]), a),
                        Law::RightZero(c) => (f(&[a, Scalar::from_f64(c, dtype)]), Scalar::from_f64(c, dtype)),
                        Law::Involution => (f(&[f(&[a])]), a),
                        Law::Idempotent => (f(&[f(&[a])]), f(&[a])),
                    };
                    assert!(
                        same_bits(left, right, result),
                        "{} {law:?} of {operands:?} as {dtype}: {left:?} and {right:?}",
                        def.name
                    );
                }
            }
        }
    }
}

/// The values of a graph's nodes, each from its op's definition.
fn evaluate(graph: &Graph, inputs: &[f64]) -> Vec<f64> {
    let mut values: HashMap<NodeId, Tensor> = HashMap::new();
    let mut inputs = inputs.iter();
    for (id, node) in graph.nodes() {
        let value = match &node.op {
            Op::Input(input) => {
                let value = *inputs.next().expect("a value for each input");
                Tensor::scalar(input.ty.dtype, Scalar::from_f64(value, input.ty.dtype))
            }
            Op::Const(tensor) => Tensor::clone(tensor),
            op => {
                let args: Vec<&Tensor> = node.args.iter().map(|arg| &values[arg]).collect();
                op.rules().eval(&args).remove(0)
            }
        };
        values.insert(id, value);
    }
    graph.outputs.iter().map(|(_, id)| values[id].get(0).as_f64()).collect()
}

/// The gradients of `loss` by the inputs, as far as there are any: a reverse walk over the builder's nodes.
fn gradients<'g>(to: &'g Builder, loss: Val<'g>, inputs: &[Val<'g>]) -> Vec<Option<Val<'g>>> {
    let graph = to.finish([("loss", loss)]).expect("a valid graph");
    let mut arriving: HashMap<NodeId, Val<'g>> = HashMap::from([(loss.id(), loss.lit(1.0))]);
    for (id, node) in graph.nodes().rev() {
        let (Some(&seed), Op::Map(map)) = (arriving.get(&id), &node.op) else {
            continue;
        };
        let vjp = Vjp {
            to,
            node,
            args: node.args.iter().map(|&arg| to.val(arg)).collect(),
            out: to.val(id),
            seed,
            seeds: vec![Some(seed)],
            wanted: vec![true; node.args.len()],
        };
        for (&arg, share) in node.args.iter().zip(map.grad(&vjp)) {
            let Some(share) = share else { continue };
            let total = arriving.get(&arg).map_or(share, |&known| known + share);
            arriving.insert(arg, total);
        }
    }
    inputs.iter().map(|input| arriving.get(&input.id()).copied()).collect()
}

/// The derivative by one operand, from differences of the definition (Richardson's extrapolation of two central ones).
fn difference(f: impl Fn(&[f64]) -> f64, at: &[f64], operand: usize) -> f64 {
    let central = |step: f64| {
        let moved = |by: f64| {
            let mut at = at.to_vec();
            at[operand] += by;
            f(&at)
        };
        (moved(step) - moved(-step)) / (2.0 * step)
    };
    let step = 1e-3 * at[operand].abs().max(0.1);
    (4.0 * central(step / 2.0) - central(step)) / 3.0
}

/// Rows whose derivative jumps within their domain; a sample beside a jump says nothing.
fn is_beside_jump(def: &MapDef, at: &[f64]) -> bool {
    let near_whole = |value: f64| (value - value.round()).abs() < 0.02;
    match def.name {
        "floor" | "ceil" | "trunc" => near_whole(at[0]),
        "round" => near_whole(at[0] + 0.5),
        "abs" | "sign" => at[0].abs() < 0.02,
        "max" | "min" => (at[0] - at[1]).abs() < 0.02,
        "rem" | "mod" => (-0.1..0.1).contains(&((at[0] / at[1]) - (at[0] / at[1]).round())),
        _ => false,
    }
}

#[test]
fn gradients_are_what_differences_show() {
    for def in rows() {
        let takes_floats = vec![DType::F64; def.arity];
        let bitwise = matches!(def.types, Types::BitsTo(_));
        if bitwise || def.types.result(&takes_floats) != Ok(DType::F64) {
            continue;
        }
        let to = Builder::new();
        let inputs: Vec<Val<'_>> = (0..def.arity)
            .map(|place| to.input(&format!("x{place}"), DType::F64, []))
            .collect();
        let value = Val::map(def, &inputs);
        let first = gradients(&to, value, &inputs);
        let mut random = SplitMix(7);
        for (by, gradient) in first.iter().enumerate() {
            let second = gradient.map(|gradient| gradients(&to, gradient, &inputs));
            for _ in 0..20 {
                let at: Vec<f64> = def.domain.iter().map(|&range| random.between(range)).collect();
                if is_beside_jump(def, &at) {
                    continue;
                }
                let run = |val: Val<'_>, at: &[f64]| {
                    let graph = to.finish([("value", val)]).expect("a valid graph");
                    evaluate(&graph, at)[0]
                };
                let check = |order: usize, found: f64, expected: f64| {
                    let scale = expected.abs().max(1.0);
                    assert!(
                        (found - expected).abs() < 1e-6 * scale,
                        "{}: order {order} by operand {by} at {at:?} is {found}, differences show {expected}",
                        def.name
                    );
                };
                check(
                    1,
                    gradient.map_or(0.0, |gradient| run(gradient, &at)),
                    difference(|at| run(value, at), &at, by),
                );
                let (Some(gradient), Some(second)) = (gradient, &second) else {
                    continue;
                };
                for (other, second) in second.iter().enumerate() {
                    let found = second.map_or(0.0, |second| run(second, &at));
                    check(2, found, difference(|at| run(*gradient, at), &at, other));
                }
            }
        }
    }
}
