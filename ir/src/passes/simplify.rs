//! Algebra: equations that hold bit for bit, read from left to right.
//!
//! Half of them are the laws of the elementwise rows, so a new row with laws is improved without a change here. The others are
//! [`RULES`], each an equation with a name and an example; the test evaluates every example before and after on values that
//! include NaN, infinities and -0. So `x + 0 = x` is not here (it loses the sign of -0), but `x + -0 = x` is; nor is `x * 0 = 0`, or
//! `x - x = 0`.

use std::sync::Arc;

use super::{push_number, push_splat, splat};
use crate::dtype::{DType, Scalar};
use crate::graph::{Graph, NodeId, Rebuild};
use crate::kernel::Combine;
use crate::ops::map::{Law, Types, arith, bits};
use crate::ops::{Map, Op};
use crate::target::Target;
use crate::tensor::Tensor;

const ADD: Map = Map(&arith::ADD);
const SUB: Map = Map(&arith::SUB);
const MUL: Map = Map(&arith::MUL);
const DIV: Map = Map(&arith::DIV);
const NEG: Map = Map(&arith::NEG);
const NOT: Map = Map(&bits::NOT);

/// An equation.
pub struct Rule {
    /// What it says.
    pub equation: &'static str,
    /// Statements that it changes: `z` of `x` and `y`, which are `f32`, and `c`, a `bool`.
    pub example: &'static str,
    /// The right side, for an op and operands that match the left.
    apply: fn(&mut Rebuild, Map, &[NodeId]) -> Option<NodeId>,
}

/// The equations beyond the rows' laws.
pub static RULES: &[Rule] = &[
    Rule {
        equation: "f(c, x) = f(x, c) where f commutes",
        example: "z = mul 3.0, x",
        apply: |to, map, args| {
            let commutes = map.0.laws.contains(&Law::Commutative);
            let is_reversed = commutes && is_constant(&to.graph, args[0]) && !is_constant(&to.graph, args[1]);
            is_reversed.then(|| to.push(Op::Map(map), &[args[1], args[0]]))
        },
    },
    Rule {
        equation: "x * -1 = -x",
        example: "z = mul x, -1.0",
        apply: |to, map, args| {
            let is_match = map == MUL && is_number(&to.graph, args[1], -1.0) && to.graph.ty(args[0]).dtype.is_signed();
            is_match.then(|| to.push(Op::Map(NEG), &args[..1]))
        },
    },
    Rule {
        equation: "x + -y = x - y",
        example: "%0 = neg y\n z = add x, %0",
        apply: |to, map, args| {
            let negated = if map == ADD {
                operand_of(&to.graph, args[1], NEG)
            } else {
                None
            };
            negated.map(|y| to.push(Op::Map(SUB), &[args[0], y]))
        },
    },
    Rule {
        equation: "-x + y = y - x",
        example: "%0 = neg x\n z = add %0, y",
        apply: |to, map, args| {
            let negated = if map == ADD {
                operand_of(&to.graph, args[0], NEG)
            } else {
                None
            };
            negated.map(|x| to.push(Op::Map(SUB), &[args[1], x]))
        },
    },
    Rule {
        equation: "x - -y = x + y",
        example: "%0 = neg y\n z = sub x, %0",
        apply: |to, map, args| {
            let negated = if map == SUB {
                operand_of(&to.graph, args[1], NEG)
            } else {
                None
            };
            negated.map(|y| to.push(Op::Map(ADD), &[args[0], y]))
        },
    },
    Rule {
        equation: "-x * -y = x * y, and the same for division",
        example: "%0 = neg x\n %1 = neg y\n z = mul %0, %1",
        apply: |to, map, args| {
            if map != MUL && map != DIV {
                return None;
            }
            let x = operand_of(&to.graph, args[0], NEG)?;
            let y = operand_of(&to.graph, args[1], NEG)?;
            // The least integer is its own negative, and divides otherwise than it seems.
            let is_exact = map == MUL || to.graph.ty(x).dtype.is_float();
            is_exact.then(|| to.push(Op::Map(map), &[x, y]))
        },
    },
    Rule {
        equation: "x / c = x * (1 / c) where c is a power of two",
        example: "z = div x, 8.0",
        apply: |to, map, args| {
            let dtype = to.graph.ty(args[0]).dtype;
            if map != DIV || !matches!(dtype, DType::F32 | DType::F64) {
                return None;
            }
            let divisor = splat(&to.graph, args[1])?.get(0).as_f64();
            let mantissa = divisor.to_bits() & ((1 << 52) - 1);
            // Within these bounds both the power and its inverse are normal numbers of either type.
            let is_power = mantissa == 0 && (2f64.powi(-120)..2f64.powi(120)).contains(&divisor.abs());
            if !is_power || divisor.abs() == 1.0 {
                return None;
            }
            let shape = to.graph.ty(args[1]).shape.clone();
            let inverse = push_number(to, dtype, 1.0 / divisor, &shape);
            Some(to.push(Op::Map(MUL), &[args[0], inverse]))
        },
    },
    Rule {
        equation: "select(true, x, y) = x, select(false, x, y) = y",
        example: "z = select true, x, y",
        apply: |to, map, args| {
            let [condition, yes, no] = *args else { return None };
            if !matches!(map.0.types, Types::Select) {
                return None;
            }
            let condition = splat(&to.graph, condition)?.get(0).is_nonzero();
            Some(if condition { yes } else { no })
        },
    },
    Rule {
        equation: "select(c, x, x) = x",
        example: "z = select c, x, x",
        apply: |_, map, args| match *args {
            [_, yes, no] if matches!(map.0.types, Types::Select) && yes == no => Some(yes),
            _ => None,
        },
    },
    Rule {
        equation: "select(not c, x, y) = select(c, y, x)",
        example: "%0 = not c\n z = select %0, x, y",
        apply: |to, map, args| {
            let [condition, yes, no] = *args else { return None };
            if !matches!(map.0.types, Types::Select) {
                return None;
            }
            let condition = operand_of(&to.graph, condition, NOT)?;
            Some(to.push(Op::Map(map), &[condition, no, yes]))
        },
    },
    Rule {
        equation: "to_t(x) = x where x is a t",
        example: "z = to_f32 x",
        apply: |to, map, args| match map.0.types {
            Types::To(dtype) if to.graph.ty(args[0]).dtype == dtype => Some(args[0]),
            _ => None,
        },
    },
    Rule {
        equation: "to_t(to_u(x)) = to_t(x) where u holds every x",
        example: "%0 = to_f64 x\n z = to_f32 %0",
        apply: |to, map, args| {
            let Types::To(_) = map.0.types else { return None };
            let inner = to.graph.node(args[0]);
            let Op::Map(Map(between)) = inner.op else { return None };
            let Types::To(between) = between.types else { return None };
            let x = inner.args[0];
            holds(between, to.graph.ty(x).dtype).then(|| to.push(Op::Map(map), &[x]))
        },
    },
];

/// Applies the rows' laws and [`RULES`] to each node, and again to what they make of it.
pub fn simplify(graph: &Graph, _target: &Target) -> Graph {
    graph.rebuild(|to, node, args| match &node.op {
        Op::Map(map) => simplify_map(to, *map, args),
        Op::Fold(fold) => {
            let whole = splat(&to.graph, args[0]).cloned();
            let count: usize = fold.axes.iter().map(|&axis| to.graph.ty(args[0]).shape[axis]).product();
            match whole.and_then(|scalar| fold_of_splat(fold.with, &scalar, count)) {
                Some(scalar) => push_splat(to, scalar, &node.ty().shape),
                None => to.push(node.op.clone(), args),
            }
        }
        _ => to.push(node.op.clone(), args),
    })
}

/// A rule makes at most one new op on top, so a few are enough; the bound keeps two rules that undo each other from running for ever.
const MAX_STEPS: usize = 8;

fn simplify_map(to: &mut Rebuild, map: Map, args: &[NodeId]) -> NodeId {
    let (mut map, mut args) = (map, args.to_vec());
    for _ in 0..MAX_STEPS {
        let made = by_law(&to.graph, map, &args).or_else(|| RULES.iter().find_map(|rule| (rule.apply)(to, map, &args)));
        let Some(made) = made else { break };
        let node = to.graph.node(made);
        let Op::Map(next) = node.op else { return made };
        (map, args) = (next, node.args.clone());
    }
    to.push(Op::Map(map), &args)
}

/// The value of an elementwise op by a law of its row.
fn by_law(graph: &Graph, map: Map, args: &[NodeId]) -> Option<NodeId> {
    let is_same_row = |id: NodeId| graph.node(id).op == Op::Map(map);
    map.0.laws.iter().find_map(|law| match *law {
        Law::Commutative => None,
        Law::RightIdentity(c) => is_number(graph, args[1], c).then_some(args[0]),
        Law::RightZero(c) => is_number(graph, args[1], c).then_some(args[1]),
        Law::Involution => is_same_row(args[0]).then(|| graph.node(args[0]).args[0]),
        Law::Idempotent => is_same_row(args[0]).then_some(args[0]),
    })
}

/// What `count` equal scalars fold to, if that is exact in any order.
fn fold_of_splat(with: Combine, scalar: &Arc<Tensor>, count: usize) -> Option<Arc<Tensor>> {
    let dtype = scalar.dtype();
    let value = scalar.get(0);
    let make = |value: Scalar| Some(Arc::new(Tensor::scalar(dtype, value)));
    if count == 0 {
        return make(with.identity(dtype));
    }
    match (with, value) {
        (Combine::Max | Combine::Min | Combine::Any | Combine::All, _) => Some(scalar.clone()),
        (Combine::Sum, Scalar::Int(value)) => make(Scalar::Int(value.checked_mul(count as i128)?)),
        // Every partial sum is a whole number that the type holds.
        (Combine::Sum, Scalar::Float(value))
            if value.fract() == 0.0 && value.abs() * count as f64 <= whole_limit(dtype) =>
        {
            make(Scalar::Float(value * count as f64 + 0.0))
        }
        (Combine::Product, Scalar::Float(1.0) | Scalar::Int(1)) => Some(scalar.clone()),
        (Combine::Sum | Combine::Product, _) => None,
    }
}

/// Whole numbers up to this are exact.
fn whole_limit(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 2f64.powi(53),
        DType::F32 => 2f64.powi(24),
        DType::F16 => 2f64.powi(11),
        _ => 2f64.powi(8),
    }
}

fn is_constant(graph: &Graph, id: NodeId) -> bool {
    splat(graph, id).is_some() || matches!(graph.node(id).op, Op::Const(_))
}

/// Whether a node is this number everywhere, its sign of zero included.
fn is_number(graph: &Graph, id: NodeId, value: f64) -> bool {
    splat(graph, id).is_some_and(|scalar| {
        let dtype = scalar.dtype();
        let wanted = Scalar::from_f64(value, dtype);
        let is_held = wanted.as_f64() == value || value.is_nan();
        is_held && scalar.get(0).to_bits(dtype) == wanted.to_bits(dtype)
    })
}

/// The operand of a node that is this row of one operand.
fn operand_of(graph: &Graph, id: NodeId, map: Map) -> Option<NodeId> {
    let node = graph.node(id);
    (node.op == Op::Map(map)).then(|| node.args[0])
}

/// Whether every value of `dtype` is one of `wide`, of the same kind, so that converting on from there is the same.
fn holds(wide: DType, dtype: DType) -> bool {
    match (dtype.int_range(), wide.int_range()) {
        (Some((low, high)), Some((wide_low, wide_high))) => wide_low <= low && high <= wide_high,
        _ if dtype == wide => true,
        _ => matches!(
            (dtype, wide),
            (DType::F16 | DType::BF16 | DType::F32, DType::F64) | (DType::F16 | DType::BF16, DType::F32)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::map::{MapDef, TABLE};
    use crate::target::TargetKind;
    use crate::{Builder, Val, oracle, text};

    const TARGET: Target = Target {
        kind: TargetKind::Cpu,
        vector_lanes: 8,
        vector_registers: 16,
        invocations: 1,
        share_from: Target::SHARE_FROM,
        product_bytes: 0,
        workgroups: false,
        winograd: false,
        f16: false,
        pieces: false,
        matrices: None,
        tuned: crate::decisions::Tuned::NOTHING,
    };

    /// Values at which equations fail if they can: NaN, infinities, both zeros, denormals, the ends of each type.
    fn samples(dtype: DType) -> Vec<Scalar> {
        if let Some((low, high)) = dtype.int_range() {
            return [low, low + 1, high, high - 1, 0, 1, 2, 3, 7, 100]
                .map(Scalar::Int)
                .to_vec();
        }
        if dtype == DType::Bool {
            return vec![Scalar::Bool(false), Scalar::Bool(true)];
        }
        let finite = [0.0, 1.0, 2.0, 0.5, 3.25, 1e-40, 6e-8, 1.1e38, 65504.0, 0.1];
        let mut samples: Vec<Scalar> = finite.iter().flat_map(|&x| [x, -x]).map(Scalar::Float).collect();
        samples.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(Scalar::Float));
        samples
    }

    /// Every pair of samples: the first of each, or the second.
    fn tensor(dtype: DType, first: bool) -> Tensor {
        let samples = samples(dtype);
        let elements = samples
            .iter()
            .flat_map(|a| samples.iter().map(move |b| if first { *a } else { *b }));
        Tensor::from_scalars(dtype, [samples.len().pow(2)], elements)
    }

    fn value(graph: &Graph) -> Tensor {
        let inputs: Vec<(&str, Tensor)> = graph
            .inputs()
            .iter()
            .map(|&id| {
                let Op::Input(input) = &graph.node(id).op else {
                    unreachable!("an input")
                };
                let mut tensor = tensor(input.ty.dtype, input.name != "y");
                if tensor.ty() != input.ty {
                    // The condition: as many as the numbers, both values.
                    let elements = (0..input.ty.count()).map(|place| Scalar::Bool(place % 3 == 0));
                    tensor = Tensor::from_scalars(input.ty.dtype, input.ty.shape.clone(), elements);
                }
                (input.name.as_str(), tensor)
            })
            .collect();
        oracle::run(graph, &inputs).unwrap().remove(0).1
    }

    #[track_caller]
    fn assert_same(what: &str, left: &Tensor, right: &Tensor) {
        assert_eq!(left.ty(), right.ty(), "{what}");
        let bits_of = left.dtype();
        for (place, (left, right)) in left.scalars().zip(right.scalars()).enumerate() {
            let is_nan = |scalar: Scalar| matches!(scalar, Scalar::Float(value) if value.is_nan());
            let same = left.to_bits(bits_of) == right.to_bits(bits_of) || (is_nan(left) && is_nan(right));
            assert!(same, "{what}: element {place} is {left:?} before, {right:?} after");
        }
    }

    #[test]
    fn every_rule_changes_its_example_and_keeps_its_value() {
        let count = samples(DType::F32).len().pow(2);
        for rule in RULES {
            let head = format!("graph(x: f32[{count}], y: f32[{count}], c: bool[{count}])");
            let source = format!("{head} {{\n{}\nreturn z\n}}", rule.example);
            let graph = match text::parse(rule.equation, &source) {
                Ok(graph) => graph,
                Err(problems) => panic!("{problems}"),
            };
            let applied = graph.rebuild(|to, node, args| match node.op {
                Op::Map(map) => (rule.apply)(to, map, args).unwrap_or_else(|| to.push(node.op.clone(), args)),
                _ => to.push(node.op.clone(), args),
            });
            assert!(applied != graph, "{} does nothing to its example", rule.equation);
            assert_same(rule.equation, &value(&graph), &value(&applied));
            let simplified = simplify(&graph, &TARGET);
            assert_same(rule.equation, &value(&graph), &value(&simplified));
        }
    }

    #[test]
    fn every_law_of_every_row_holds_bit_for_bit() {
        let rows: Vec<&'static MapDef> = TABLE.iter().flat_map(|rows| rows.iter().copied()).collect();
        let mut checked = 0;
        for def in rows {
            for dtype in DType::ALL {
                for law in def.laws {
                    let b = Builder::new();
                    let count = samples(dtype).len().pow(2);
                    let x = b.input("x", dtype, [count]);
                    let y = b.input("y", dtype, [count]);
                    let constant = |c: f64| b.full(dtype, [count], c);
                    let holds_constant = |c: f64| Scalar::from_f64(c, dtype).as_f64() == c;
                    let (left, right) = match *law {
                        Law::Commutative => (Val::map(def, &[x, y]), Val::map(def, &[y, x])),
                        Law::RightIdentity(c) if holds_constant(c) => (Val::map(def, &[x, constant(c)]), x),
                        Law::RightZero(c) if holds_constant(c) => (Val::map(def, &[x, constant(c)]), constant(c)),
                        Law::RightIdentity(_) | Law::RightZero(_) => continue,
                        Law::Involution => (Val::map(def, &[Val::map(def, &[x])]), x),
                        Law::Idempotent => (Val::map(def, &[Val::map(def, &[x])]), Val::map(def, &[x])),
                    };
                    // A row refuses the types that it does not take.
                    let Ok(before) = b.finish([("z", left)]) else { continue };
                    let after = b.finish([("z", right)]).unwrap();
                    let what = format!("{law:?} of `{}` on {dtype}", def.name);
                    assert_same(&what, &value(&before), &value(&after));
                    assert_same(&what, &value(&before), &value(&simplify(&before, &TARGET)));
                    checked += 1;
                }
            }
        }
        assert!(checked > 20, "only {checked} laws were checked");
    }

    #[test]
    fn equations_that_lose_a_sign_or_a_nan_are_not_used() {
        for kept in [
            "add x, 0.0",
            "mul x, 0.0",
            "sub x, x",
            "div x, x",
            "div x, 3.0",
            "sub 0.0, x",
        ] {
            let graph = text::parse("kept", &format!("graph(x: f32[4]) {{\nz = {kept}\nreturn z\n}}")).unwrap();
            assert_eq!(simplify(&graph, &TARGET), graph, "{kept}");
        }
    }
}
