//! Simplification of expressions, and index arithmetic: sums in normal form, ranges, affine forms, addresses, substitution.
//!
//! [`Exprs::prim`] asks [`simplify`] before it adds anything, so every `i64` sum in an arena is in one normal form
//! (`Σ c·x + constant`, see [`Linear`]), and equal indices have equal ids. What a value can be ([`Exprs::range`]) is computed once, when
//! it is added; the rules for division by constants, comparisons and bounds rest on it.

use std::collections::HashMap;

use smallvec::{SmallVec, smallvec};

use super::{AxisId, Combine, Expr, ExprId, Exprs, Operands, Prim};
use crate::dtype::{DType, Scalar};
use crate::tensor::Type;

/// What a primitive of these operands simplifies to, if anything: constants fold, `i64` index arithmetic is normalised.
///
/// On floats only what changes no bit is done: constants fold, `x * 1`, `x / 1`, `x - 0`, `x + -0`, `-(-x)`, and a choice
/// between equals.
pub fn simplify(exprs: &mut Exprs, prim: Prim, dtype: DType, args: &[ExprId]) -> Option<ExprId> {
    // No primitive has more operands.
    let mut constants = [None; 3];
    for (constant, &arg) in constants.iter_mut().zip(args) {
        *constant = exprs.as_const(arg);
    }
    if let Some(values) = constants[..args.len()]
        .iter()
        .copied()
        .collect::<Option<SmallVec<[_; 3]>>>()
    {
        let from = exprs.dtype(args[0]);
        return Some(exprs.constant(dtype, prim.eval(dtype, from, &values)));
    }
    match (prim, args) {
        (Prim::Select, &[_, yes, no]) => match constants[0] {
            Some(condition) => Some(if condition.is_nonzero() { yes } else { no }),
            None => (yes == no).then_some(yes),
        },
        (Prim::Cast | Prim::Bitcast, &[a]) => (exprs.dtype(a) == dtype).then_some(a),
        (Prim::Neg, &[a]) if dtype != DType::I64 => match *exprs.get(a) {
            Expr::Prim(Prim::Neg, _, ref inner) => Some(inner[0]),
            _ => None,
        },
        (Prim::Eq | Prim::Lt | Prim::Le, &[a, b]) => compare(exprs, prim, a, b),
        (Prim::Max | Prim::Min, &[a, b]) => extreme(exprs, prim, a, b),
        (Prim::And | Prim::Or | Prim::Xor, &[a, b]) if dtype == DType::Bool => {
            logic(exprs, prim, [a, b], [constants[0], constants[1]])
        }
        _ if dtype == DType::I64 => integer(exprs, prim, args),
        _ => identity(prim, dtype, args, &constants),
    }
}

/// `a` where `prim(a, c)` is `a` for this constant `c`, bit for bit.
fn identity(prim: Prim, dtype: DType, args: &[ExprId], constants: &[Option<Scalar>]) -> Option<ExprId> {
    let &[a, b] = args else { return None };
    let is = |constant: Option<Scalar>, value: f64| {
        constant.is_some_and(|constant| constant.to_bits(dtype) == Scalar::from_f64(value, dtype).to_bits(dtype))
    };
    // Adding +0 would turn -0 into 0; adding -0 changes nothing.
    let zero = if dtype.is_float() { -0.0 } else { 0.0 };
    match prim {
        Prim::Mul if is(constants[1], 1.0) => Some(a),
        Prim::Mul if is(constants[0], 1.0) => Some(b),
        Prim::Div if is(constants[1], 1.0) => Some(a),
        Prim::Sub if is(constants[1], 0.0) => Some(a),
        Prim::Add if is(constants[1], zero) => Some(a),
        Prim::Add if is(constants[0], zero) => Some(b),
        _ => None,
    }
}

fn logic(exprs: &mut Exprs, prim: Prim, args: [ExprId; 2], constants: [Option<Scalar>; 2]) -> Option<ExprId> {
    let [a, b] = args;
    let (known, open) = match constants {
        [Some(known), None] => (known.is_nonzero(), b),
        [None, Some(known)] => (known.is_nonzero(), a),
        _ if a == b && prim != Prim::Xor => return Some(a),
        _ => return None,
    };
    match (prim, known) {
        (Prim::And, true) | (Prim::Or | Prim::Xor, false) => Some(open),
        (Prim::And, false) | (Prim::Or, true) => Some(exprs.constant(DType::Bool, Scalar::Bool(known))),
        // Negation: twice is nothing.
        _ => match exprs.get(open) {
            Expr::Prim(Prim::Xor, DType::Bool, inner) => {
                let inner = [inner[0], inner[1]];
                let truth = |id| exprs.as_const(id) == Some(Scalar::Bool(true));
                match inner {
                    [x, one] if truth(one) => Some(x),
                    [one, x] if truth(one) => Some(x),
                    _ => None,
                }
            }
            _ => None,
        },
    }
}

/// The range of `a - b`, if neither it nor they can wrap.
fn difference(exprs: &Exprs, a: ExprId, b: ExprId) -> Option<(i64, i64)> {
    let ((a_low, a_high), (b_low, b_high)) = (exprs.range(a)?, exprs.range(b)?);
    let apart = (a_low.checked_sub(b_high)?, a_high.checked_sub(b_low)?);
    if exprs.dtype(a) != DType::I64 {
        return Some(apart);
    }
    // What both have in common cancels.
    let mut linear = Linear::of(exprs, a);
    linear.add(&Linear::of(exprs, b), -1);
    Some(linear.range(exprs).unwrap_or(apart))
}

fn compare(exprs: &mut Exprs, prim: Prim, a: ExprId, b: ExprId) -> Option<ExprId> {
    if exprs.dtype(a).is_float() {
        return None;
    }
    let known = if a == b {
        Some(prim != Prim::Lt)
    } else {
        let (low, high) = difference(exprs, a, b)?;
        match prim {
            Prim::Eq if low == 0 && high == 0 => Some(true),
            Prim::Eq if low > 0 || high < 0 => Some(false),
            Prim::Lt if high < 0 => Some(true),
            Prim::Lt if low >= 0 => Some(false),
            Prim::Le if high <= 0 => Some(true),
            Prim::Le if low > 0 => Some(false),
            _ => None,
        }
    };
    known.map(|known| exprs.constant(DType::Bool, Scalar::Bool(known)))
}

fn extreme(exprs: &Exprs, prim: Prim, a: ExprId, b: ExprId) -> Option<ExprId> {
    if a == b {
        return Some(a);
    }
    // The range of a `u64` is known only where it fits an `i64`.
    if !exprs.dtype(a).is_int() || exprs.dtype(a) == DType::U64 {
        return None;
    }
    let unknown = (i64::MIN, i64::MAX);
    let (a_low, a_high) = exprs.range(a).unwrap_or(unknown);
    let (b_low, b_high) = exprs.range(b).unwrap_or(unknown);
    let (low, high) = difference(exprs, a, b).unwrap_or((
        if a_low >= b_high { 0 } else { -1 },
        if a_high <= b_low { 0 } else { 1 },
    ));
    match prim {
        Prim::Max if low >= 0 => Some(a),
        Prim::Max if high <= 0 => Some(b),
        Prim::Min if low >= 0 => Some(b),
        Prim::Min if high <= 0 => Some(a),
        _ => None,
    }
}

fn integer(exprs: &mut Exprs, prim: Prim, args: &[ExprId]) -> Option<ExprId> {
    match (prim, args) {
        (Prim::Add | Prim::Sub, &[a, b]) => {
            let mut sum = Linear::of(exprs, a);
            sum.add(&Linear::of(exprs, b), if prim == Prim::Add { 1 } else { -1 });
            Some(sum.build(exprs))
        }
        (Prim::Neg, &[a]) => {
            let mut sum = Linear::default();
            sum.add(&Linear::of(exprs, a), -1);
            Some(sum.build(exprs))
        }
        (Prim::Mul, &[a, b]) => {
            let (factor, other) = match (exprs.as_int(a), exprs.as_int(b)) {
                (Some(factor), _) => (factor, b),
                (_, Some(factor)) => (factor, a),
                _ => return None,
            };
            let mut sum = Linear::default();
            sum.add(&Linear::of(exprs, other), factor);
            Some(sum.build(exprs))
        }
        (Prim::Div, &[a, b]) => match exprs.as_int(b) {
            Some(by) if by > 0 => divide(exprs, a, by),
            _ => None,
        },
        (Prim::Rem, &[a, b]) => match exprs.as_int(b) {
            Some(by) if by > 0 => remainder(exprs, a, by),
            _ => None,
        },
        _ => None,
    }
}

/// `a / by`, for a positive constant.
fn divide(exprs: &mut Exprs, a: ExprId, by: i64) -> Option<ExprId> {
    if by == 1 {
        return Some(a);
    }
    let range = exprs.range(a)?;
    let linear = Linear::of(exprs, a);
    let (whole, rest) = linear.split(by);
    if rest == Linear::default() {
        return Some(whole.build(exprs));
    }
    // Division truncates: what follows is true of floors, hence of what is never negative.
    if range.0 < 0 {
        return None;
    }
    if rest.is_within(exprs, by) {
        return Some(whole.build(exprs));
    }
    if whole != Linear::default() && rest.range(exprs).is_some_and(|(low, _)| low >= 0) {
        let rest = rest.build(exprs);
        let by = exprs.int(by);
        let quotient = exprs.prim(Prim::Div, DType::I64, &[rest, by]);
        let whole = whole.build(exprs);
        return Some(exprs.prim(Prim::Add, DType::I64, &[whole, quotient]));
    }
    for step in linear.common_steps(by) {
        let (whole, rest) = linear.split(step);
        if rest.is_within(exprs, step) {
            // (step·w + r) / by = w / (by / step), because 0 <= r < step.
            let whole = whole.build(exprs);
            let by = exprs.int(by / step);
            return Some(exprs.prim(Prim::Div, DType::I64, &[whole, by]));
        }
    }
    let (x, inner) = quotient_by_constant(exprs, Prim::Div, a).or_else(|| quotient_by_constant(exprs, Prim::Rem, a))?;
    match *exprs.get(a) {
        Expr::Prim(Prim::Div, ..) => {
            let by = exprs.int(inner.checked_mul(by)?);
            Some(exprs.prim(Prim::Div, DType::I64, &[x, by]))
        }
        // (x % inner) / by = (x / by) % (inner / by), which meets x / inner and x % by again in a sum.
        _ if inner % by == 0 && exprs.range(x).is_some_and(|(low, _)| low >= 0) => {
            let (count, by) = (exprs.int(inner / by), exprs.int(by));
            let quotient = exprs.prim(Prim::Div, DType::I64, &[x, by]);
            Some(exprs.prim(Prim::Rem, DType::I64, &[quotient, count]))
        }
        _ => None,
    }
}

/// `a % by`, for a positive constant.
fn remainder(exprs: &mut Exprs, a: ExprId, by: i64) -> Option<ExprId> {
    if by == 1 {
        return Some(exprs.int(0));
    }
    let range = exprs.range(a)?;
    let linear = Linear::of(exprs, a);
    let (whole, rest) = linear.split(by);
    if rest == Linear::default() {
        return Some(exprs.int(0));
    }
    if range.0 < 0 {
        return None;
    }
    if rest.is_within(exprs, by) {
        return Some(rest.build(exprs));
    }
    if whole != Linear::default() && rest.range(exprs).is_some_and(|(low, _)| low >= 0) {
        let rest = rest.build(exprs);
        let by = exprs.int(by);
        return Some(exprs.prim(Prim::Rem, DType::I64, &[rest, by]));
    }
    for step in linear.common_steps(by) {
        let (whole, rest) = linear.split(step);
        if rest.is_within(exprs, step) {
            // (step·w + r) % by = step·(w % (by / step)) + r, because 0 <= r < step.
            let whole = whole.build(exprs);
            let count = exprs.int(by / step);
            let place = exprs.prim(Prim::Rem, DType::I64, &[whole, count]);
            let mut sum = rest;
            sum.add(&Linear::of(exprs, place), step);
            return Some(sum.build(exprs));
        }
    }
    match quotient_by_constant(exprs, Prim::Rem, a) {
        Some((x, inner)) if inner % by == 0 => {
            let by = exprs.int(by);
            Some(exprs.prim(Prim::Rem, DType::I64, &[x, by]))
        }
        _ => None,
    }
}

/// `x` and `c`, if `id` is `x / c` or `x % c`, as asked, for a positive constant `c`.
fn quotient_by_constant(exprs: &Exprs, prim: Prim, id: ExprId) -> Option<(ExprId, i64)> {
    match *exprs.get(id) {
        Expr::Prim(found, DType::I64, ref args) if found == prim => {
            let by = exprs.as_int(args[1]).filter(|&by| by > 0)?;
            Some((args[0], by))
        }
        _ => None,
    }
}

/// The normal form of an `i64` expression: `Σ c·x + constant`, modulo 2^64, where no `x` is itself a sum or a multiple.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Linear {
    /// Each `x` with its `c`, which is not 0; ascending in `x`, each once.
    pub terms: Terms,
    /// What is added.
    pub constant: i64,
}

/// What a [`Linear`] is the sum of but for its constant: few terms, so that most need no memory of their own.
pub type Terms = SmallVec<[(ExprId, i64); 4]>;

impl Linear {
    /// The normal form of an expression.
    pub fn of(exprs: &Exprs, id: ExprId) -> Linear {
        let mut linear = Linear::default();
        let mut open: Terms = smallvec![(id, 1)];
        while let Some((id, factor)) = open.pop() {
            if let Some(value) = exprs.as_int(id) {
                linear.constant = linear.constant.wrapping_add(value.wrapping_mul(factor));
                continue;
            }
            match *exprs.get(id) {
                Expr::Prim(Prim::Add, DType::I64, ref args) => open.extend([(args[0], factor), (args[1], factor)]),
                Expr::Prim(Prim::Sub, DType::I64, ref args) => {
                    open.extend([(args[0], factor), (args[1], factor.wrapping_neg())]);
                }
                Expr::Prim(Prim::Mul, DType::I64, ref args) => match exprs.as_int(args[1]) {
                    Some(value) => open.push((args[0], factor.wrapping_mul(value))),
                    None => linear.terms.push((id, factor)),
                },
                _ => linear.terms.push((id, factor)),
            }
        }
        linear.collect();
        linear
    }

    /// Adds `factor` times another.
    pub fn add(&mut self, other: &Linear, factor: i64) {
        self.constant = self.constant.wrapping_add(other.constant.wrapping_mul(factor));
        let scaled = other.terms.iter().map(|&(x, c)| (x, c.wrapping_mul(factor)));
        self.terms.extend(scaled);
        self.collect();
    }

    /// This and `factor` times another, if neither factors nor the constant wrap: an inequality between sums holds only then.
    pub fn plus(&self, other: &Linear, factor: i64) -> Option<Linear> {
        let mut sum = self.clone();
        sum.constant = sum.constant.checked_add(other.constant.checked_mul(factor)?)?;
        for &(x, c) in &other.terms {
            sum.terms.push((x, c.checked_mul(factor)?));
        }
        let cannot_wrap = sum.terms.iter().all(|&(_, c)| c.unsigned_abs() < 1 << 62);
        sum.collect();
        cannot_wrap.then_some(sum)
    }

    fn collect(&mut self) {
        self.terms.sort_unstable_by_key(|&(x, _)| x);
        self.terms.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.wrapping_add(next.1);
            }
            same
        });
        self.terms.retain(|&mut (_, c)| c != 0);
    }

    /// The least and greatest value it can take, if it cannot wrap.
    pub fn range(&self, exprs: &Exprs) -> Option<(i64, i64)> {
        self.terms
            .iter()
            .try_fold((self.constant, self.constant), |(low, high), &(x, c)| {
                let (x_low, x_high) = exprs.range(x)?;
                let (from, to) = (x_low.checked_mul(c)?, x_high.checked_mul(c)?);
                Some((low.checked_add(from.min(to))?, high.checked_add(from.max(to))?))
            })
    }

    /// Whether it always lies in `0..extent`.
    fn is_within(&self, exprs: &Exprs, extent: i64) -> bool {
        self.range(exprs).is_some_and(|(low, high)| low >= 0 && high < extent)
    }

    /// `w` and `r` with `self = by·w + r`: the terms whose factor `by` divides, and the rest; the rest's constant is in
    /// `0..by`.
    pub fn split(&self, by: i64) -> (Linear, Linear) {
        let mut whole = Linear {
            constant: self.constant.div_euclid(by),
            ..Linear::default()
        };
        let mut rest = Linear {
            constant: self.constant.rem_euclid(by),
            ..Linear::default()
        };
        for &(x, c) in &self.terms {
            match c % by {
                0 => whole.terms.push((x, c / by)),
                _ => rest.terms.push((x, c)),
            }
        }
        (whole, rest)
    }

    /// The common divisors of `by` and some factor, but 1 and `by`, greatest first.
    fn common_steps(&self, by: i64) -> Vec<i64> {
        let mut steps: Vec<i64> = self
            .terms
            .iter()
            .map(|&(_, c)| gcd(c.unsigned_abs(), by as u64) as i64)
            .collect();
        steps.retain(|&step| step > 1 && step < by);
        steps.sort_unstable_by(|a, b| b.cmp(a));
        steps.dedup();
        steps
    }

    /// `k·(x / k) + x % k` is `x`: puts such pairs together.
    fn recombine(&mut self, exprs: &Exprs) {
        let pair = |terms: &[(ExprId, i64)]| {
            terms.iter().find_map(|&(remainder, c)| {
                let (x, by) = quotient_by_constant(exprs, Prim::Rem, remainder)?;
                // The quotient of a quotient was added as one quotient.
                let quotient = match quotient_by_constant(exprs, Prim::Div, x) {
                    Some((x, inner)) => find_quotient(exprs, x, inner.checked_mul(by)?),
                    None => find_quotient(exprs, x, by),
                }?;
                let whole = (quotient, c.checked_mul(by)?);
                terms.contains(&whole).then_some((x, c, remainder, quotient))
            })
        };
        while let Some((x, c, remainder, quotient)) = pair(&self.terms) {
            self.terms
                .retain(|&mut (term, _)| term != remainder && term != quotient);
            self.add(&Linear::of(exprs, x), c);
        }
    }

    /// The expression in normal form: positive terms, then negative ones, then the constant.
    pub fn build(mut self, exprs: &mut Exprs) -> ExprId {
        self.recombine(exprs);
        let add =
            |exprs: &mut Exprs, prim, a, b| exprs.intern(Expr::Prim(prim, DType::I64, smallvec![a, b]), DType::I64);
        let times = |exprs: &mut Exprs, x, c| match c {
            1 => x,
            _ => {
                let c = exprs.int(c);
                exprs.intern(Expr::Prim(Prim::Mul, DType::I64, smallvec![x, c]), DType::I64)
            }
        };
        // The least `i64` has no positive counterpart and is added as it is.
        let is_added = |&&(_, c): &&(ExprId, i64)| c > 0 || c == i64::MIN;
        let mut sum = None;
        for &(x, c) in self.terms.iter().filter(is_added) {
            let term = times(exprs, x, c);
            sum = Some(sum.map_or(term, |sum| add(exprs, Prim::Add, sum, term)));
        }
        let constant_first = sum.is_none();
        let mut sum = sum.unwrap_or_else(|| exprs.int(self.constant));
        for &(x, c) in self.terms.iter().filter(|term| !is_added(term)) {
            let term = times(exprs, x, -c);
            sum = add(exprs, Prim::Sub, sum, term);
        }
        if self.constant != 0 && !constant_first {
            let constant = exprs.int(self.constant);
            sum = add(exprs, Prim::Add, sum, constant);
        }
        sum
    }
}

/// `x / by`, if the arena has it.
fn find_quotient(exprs: &Exprs, x: ExprId, by: i64) -> Option<ExprId> {
    let by = exprs.find(&Expr::Const(DType::I64, by as u64))?;
    exprs.find(&Expr::Prim(Prim::Div, DType::I64, smallvec![x, by]))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The least and greatest value an integer expression can take, from the ranges of what it is made of; `None` if nothing is
/// known or it may wrap. Computed by [`Exprs`] when it adds an expression; read it with [`Exprs::range`].
pub(super) fn range_of(exprs: &Exprs, expr: &Expr, dtype: DType) -> Option<(i64, i64)> {
    let fits = |range: (i64, i64)| {
        let (low, high) = dtype.int_range()?;
        (i128::from(range.0) >= low && i128::from(range.1) <= high).then_some(range)
    };
    // Every value of a narrow type is in its range; of a wide one nothing is known.
    let any = || {
        let (low, high) = dtype.int_range()?;
        (dtype.size_bytes() < 8).then_some((low as i64, high as i64))
    };
    if !dtype.is_int() {
        return None;
    }
    let range = match expr {
        Expr::Const(dtype, bits) => i64::try_from(Scalar::from_bits(*bits, *dtype).as_i128())
            .ok()
            .map(|x| (x, x)),
        Expr::Axis(axis) => exprs.extent(*axis).map(|extent| (0, (extent as i64 - 1).max(0))),
        Expr::Load { .. } | Expr::Local(..) => None,
        Expr::Prim(prim, _, args) => range_of_prim(exprs, *prim, args),
        Expr::Fold { with, over, value } => exprs.range(*value).and_then(|(low, high)| match with {
            Combine::Max | Combine::Min => {
                let filled = over
                    .iter()
                    .all(|&axis| exprs.extent(axis).is_some_and(|extent| extent > 0));
                filled.then_some((low, high))
            }
            Combine::Sum => over.iter().try_fold((low, high), |(low, high), &axis| {
                let extent = exprs.extent(axis)? as i64;
                Some((low.checked_mul(extent)?, high.checked_mul(extent)?))
            }),
            Combine::Product | Combine::Any | Combine::All => None,
        }),
    };
    range.and_then(fits).or_else(any)
}

fn range_of_prim(exprs: &Exprs, prim: Prim, args: &[ExprId]) -> Option<(i64, i64)> {
    let known = |at: usize| exprs.range(args[at]);
    let constant = |at: usize| known(at).filter(|(low, high)| low == high).map(|(low, _)| low);
    match prim {
        Prim::Add => {
            let (a, b) = (known(0)?, known(1)?);
            Some((a.0.checked_add(b.0)?, a.1.checked_add(b.1)?))
        }
        Prim::Sub => {
            let (a, b) = (known(0)?, known(1)?);
            Some((a.0.checked_sub(b.1)?, a.1.checked_sub(b.0)?))
        }
        Prim::Mul => {
            let (a, b) = (known(0)?, known(1)?);
            let corners = [
                a.0.checked_mul(b.0)?,
                a.0.checked_mul(b.1)?,
                a.1.checked_mul(b.0)?,
                a.1.checked_mul(b.1)?,
            ];
            Some((*corners.iter().min()?, *corners.iter().max()?))
        }
        Prim::Div => {
            let by = constant(1).filter(|&by| by > 0)?;
            known(0).map(|(low, high)| (low / by, high / by))
        }
        Prim::Rem => {
            let by = constant(1).filter(|&by| by > 0)?;
            let (low, high) = known(0).unwrap_or((i64::MIN, i64::MAX));
            let least = if low >= 0 { 0 } else { low.max(1 - by) };
            Some((least, if high <= 0 { 0 } else { high.min(by - 1) }))
        }
        // One side is enough to bound one end; the other end is as far as the type goes, which only a second bound makes useful.
        Prim::Max | Prim::Min if exprs.dtype(args[0]) != DType::U64 => {
            let (a, b) = match (known(0), known(1)) {
                (None, None) => return None,
                (a, b) => (a.unwrap_or((i64::MIN, i64::MAX)), b.unwrap_or((i64::MIN, i64::MAX))),
            };
            Some(match prim {
                Prim::Max => (a.0.max(b.0), a.1.max(b.1)),
                _ => (a.0.min(b.0), a.1.min(b.1)),
            })
        }
        Prim::Neg => known(0).and_then(|(low, high)| Some((high.checked_neg()?, low.checked_neg()?))),
        Prim::Abs => known(0).and_then(|(low, high)| {
            let (low, high) = (low.checked_abs()?, high.checked_abs()?);
            Some((0, low.max(high)))
        }),
        Prim::And => {
            let mask = constant(1).or_else(|| constant(0)).filter(|&mask| mask >= 0)?;
            Some((0, mask))
        }
        Prim::Shr => {
            let by = constant(1).filter(|by| (0..63).contains(by))?;
            known(0).map(|(low, high)| (low >> by, high >> by))
        }
        Prim::Select => {
            let (a, b) = (known(1)?, known(2)?);
            Some((a.0.min(b.0), a.1.max(b.1)))
        }
        Prim::Cast => match exprs.dtype(args[0]) {
            DType::Bool => Some((0, 1)),
            _ => known(0),
        },
        _ => None,
    }
}

/// An index as a sum of multiples of axes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affine {
    /// Each axis with its factor, which is not 0; ascending in the axis, each once.
    pub terms: Vec<(AxisId, i64)>,
    /// What is added.
    pub constant: i64,
}

impl Affine {
    /// The factor of an axis: 0 if it does not occur.
    pub fn factor(&self, axis: AxisId) -> i64 {
        self.terms
            .iter()
            .find(|&&(found, _)| found == axis)
            .map_or(0, |&(_, c)| c)
    }
}

/// The expression as a sum of multiples of axes, if it is one.
pub fn affine(exprs: &Exprs, id: ExprId) -> Option<Affine> {
    if exprs.dtype(id) != DType::I64 {
        return None;
    }
    let linear = Linear::of(exprs, id);
    let terms: Option<Vec<_>> = linear
        .terms
        .iter()
        .map(|&(x, c)| match *exprs.get(x) {
            Expr::Axis(axis) => Some((axis, c)),
            _ => None,
        })
        .collect();
    let mut terms = terms?;
    terms.sort_unstable();
    Some(Affine {
        terms,
        constant: linear.constant,
    })
}

/// Whether an index provably lies in `0..extent`.
pub fn is_within(exprs: &Exprs, index: ExprId, extent: usize) -> bool {
    exprs
        .range(index)
        .is_some_and(|(low, high)| low >= 0 && high < extent as i64)
}

/// The address, in elements, of the element at a logical index that lies within the type's shape.
pub fn offset(exprs: &mut Exprs, ty: &Type, index: &[ExprId]) -> ExprId {
    assert_eq!(index.len(), ty.rank(), "one index an axis of {ty}");
    let mut offset = exprs.int(0);
    for digit in ty.layout.digits(&ty.shape) {
        let mut value = index[digit.axis];
        if digit.step > 1 {
            let step = exprs.int(digit.step as i64);
            value = exprs.prim(Prim::Div, DType::I64, &[value, step]);
        }
        // The outermost digit of an axis needs no remainder, because the index is within the shape.
        if digit.step * digit.extent < ty.shape[digit.axis] {
            let extent = exprs.int(digit.extent as i64);
            value = exprs.prim(Prim::Rem, DType::I64, &[value, extent]);
        }
        let extent = exprs.int(digit.extent as i64);
        offset = exprs.prim(Prim::Mul, DType::I64, &[offset, extent]);
        offset = exprs.prim(Prim::Add, DType::I64, &[offset, value]);
    }
    offset
}

/// Copies an expression from one arena into another, simplifying again; whatever is in `known` is replaced by what stands
/// there, and what is copied is added to it, so that several expressions can be copied one after the other.
///
/// A schedule that splits an axis puts `axis → outer * tile + inner` into `known`, one that has computed a fold puts `fold → local`.
/// An axis that is not in `known` keeps its id; so do buffers and the axes that a fold is over.
pub fn substitute(from: &Exprs, to: &mut Exprs, known: &mut HashMap<ExprId, ExprId>, root: ExprId) -> ExprId {
    let mut open = vec![(root, false)];
    while let Some((id, operands_done)) = open.pop() {
        if known.contains_key(&id) {
            continue;
        }
        if !operands_done {
            open.push((id, true));
            open.extend(from.operands(id).iter().map(|&operand| (operand, false)));
            continue;
        }
        let new = |operands: &[ExprId]| -> Operands { operands.iter().map(|operand| known[operand]).collect() };
        let dtype = from.dtype(id);
        let copy = match from.get(id) {
            Expr::Const(..) | Expr::Local(..) | Expr::Axis(_) => to.intern(from.get(id).clone(), dtype),
            Expr::Load { buffer, index, guarded } => to.load(*buffer, dtype, new(index), *guarded),
            Expr::Prim(prim, _, args) => to.prim(*prim, dtype, &new(args)),
            Expr::Fold { with, over, value } => to.fold(*with, over.clone(), known[value]),
        };
        known.insert(id, copy);
    }
    known[&root]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layout::{Digit, Layout};

    const EXTENTS: [usize; 4] = [3, 4, 16, 5];

    fn arena() -> (Exprs, Vec<ExprId>) {
        let mut exprs = Exprs::default();
        let axes = EXTENTS.map(|extent| exprs.add_axis(extent));
        let values = axes.map(|axis| exprs.axis(axis)).to_vec();
        (exprs, values)
    }

    /// An index expression before any simplification.
    #[derive(Clone, Debug)]
    enum Tree {
        Axis(usize),
        Int(i64),
        Prim(Prim, Vec<Tree>),
    }

    fn trees() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![
            (0..EXTENTS.len()).prop_map(Tree::Axis),
            prop_oneof![-3_i64..20, Just(64), Just(i64::MAX), Just(i64::MIN)].prop_map(Tree::Int),
        ];
        leaf.prop_recursive(5, 24, 3, |inner| {
            let small = prop_oneof![
                Just(2_i64),
                Just(3),
                Just(4),
                Just(8),
                Just(12),
                Just(16),
                Just(0),
                Just(-2)
            ];
            let linear = prop_oneof![
                Just(Prim::Add),
                Just(Prim::Sub),
                Just(Prim::Add),
                Just(Prim::Max),
                Just(Prim::Min)
            ];
            let scaled = prop_oneof![Just(Prim::Mul), Just(Prim::Div), Just(Prim::Rem)];
            let compared = prop_oneof![Just(Prim::Lt), Just(Prim::Le), Just(Prim::Eq)];
            let pair = || (inner.clone(), inner.clone());
            prop_oneof![
                (linear, pair()).prop_map(|(prim, (a, b))| Tree::Prim(prim, vec![a, b])),
                (scaled, inner.clone(), small).prop_map(|(prim, a, b)| Tree::Prim(prim, vec![a, Tree::Int(b)])),
                (compared, pair(), pair()).prop_map(|(prim, (a, b), (yes, no))| {
                    Tree::Prim(Prim::Select, vec![Tree::Prim(prim, vec![a, b]), yes, no])
                }),
            ]
        })
    }

    fn dtype(tree: &Tree) -> DType {
        match tree {
            Tree::Prim(Prim::Lt | Prim::Le | Prim::Eq, _) => DType::Bool,
            _ => DType::I64,
        }
    }

    fn add(exprs: &mut Exprs, tree: &Tree) -> ExprId {
        match tree {
            Tree::Axis(axis) => exprs.axis(AxisId(*axis as u32)),
            Tree::Int(value) => exprs.int(*value),
            Tree::Prim(prim, args) => {
                let ids: Vec<ExprId> = args.iter().map(|arg| add(exprs, arg)).collect();
                exprs.prim(*prim, dtype(tree), &ids)
            }
        }
    }

    fn eval_tree(tree: &Tree, at: &[i64]) -> Scalar {
        match tree {
            Tree::Axis(axis) => Scalar::Int(i128::from(at[*axis])),
            Tree::Int(value) => Scalar::Int(i128::from(*value)),
            Tree::Prim(prim, args) => {
                let values: Vec<Scalar> = args.iter().map(|arg| eval_tree(arg, at)).collect();
                prim.eval(dtype(tree), dtype(&args[0]), &values)
            }
        }
    }

    fn eval(exprs: &Exprs, id: ExprId, at: &[i64]) -> Scalar {
        match exprs.get(id) {
            Expr::Const(dtype, bits) => Scalar::from_bits(*bits, *dtype),
            Expr::Axis(axis) => Scalar::Int(i128::from(at[axis.at()])),
            Expr::Prim(prim, dtype, args) => {
                let values: Vec<Scalar> = args.iter().map(|&arg| eval(exprs, arg, at)).collect();
                prim.eval(*dtype, exprs.dtype(args[0]), &values)
            }
            other => unreachable!("{other:?} in an index"),
        }
    }

    fn places() -> impl Iterator<Item = [i64; 4]> {
        (0..EXTENTS.iter().product::<usize>() as i64).map(|mut at| {
            EXTENTS.map(|extent| {
                let place = at % extent as i64;
                at /= extent as i64;
                place
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn simplification_keeps_the_value_and_ranges_hold(tree in trees()) {
            let (mut exprs, _) = arena();
            let id = add(&mut exprs, &tree);
            for at in places().step_by(7) {
                let wanted = eval_tree(&tree, &at);
                prop_assert_eq!(eval(&exprs, id, &at), wanted, "at {:?}", at);
                if let Some((low, high)) = exprs.range(id) {
                    prop_assert!((i128::from(low)..=i128::from(high)).contains(&wanted.as_i128()));
                }
            }
        }

        #[test]
        fn substitution_keeps_the_value(tree in trees()) {
            let (mut from, axes) = arena();
            let root = add(&mut from, &tree);
            // Axis 2 is split into 4 by 4, which are axes 4 and 5 of the new arena.
            let (mut to, _) = arena();
            let [outer, inner] = [4, 4].map(|extent| to.add_axis(extent)).map(|axis| to.axis(axis));
            let four = to.int(4);
            let base = to.prim(Prim::Mul, DType::I64, &[outer, four]);
            let split = to.prim(Prim::Add, DType::I64, &[base, inner]);
            let mut known = HashMap::from([(axes[2], split)]);
            let copy = substitute(&from, &mut to, &mut known, root);
            for at in places().step_by(11) {
                let split_at = [at[0], at[1], -1, at[3], at[2] / 4, at[2] % 4];
                prop_assert_eq!(eval(&to, copy, &split_at), eval(&from, root, &at));
            }
        }
    }

    #[test]
    fn a_flattened_index_comes_apart_again() {
        let (mut exprs, axes) = arena();
        let ty = Type::new(DType::F32, [3, 4, 16]);
        let flat = offset(&mut exprs, &ty, &axes[..3]);
        let (sixteen, four) = (exprs.int(16), exprs.int(4));
        let last = exprs.prim(Prim::Rem, DType::I64, &[flat, sixteen]);
        let rows = exprs.prim(Prim::Div, DType::I64, &[flat, sixteen]);
        let row = exprs.prim(Prim::Rem, DType::I64, &[rows, four]);
        let first = exprs.prim(Prim::Div, DType::I64, &[rows, four]);
        assert_eq!([first, row, last], [axes[0], axes[1], axes[2]]);
    }

    #[test]
    fn an_index_taken_apart_is_put_together_again() {
        let mut exprs = Exprs::default();
        let axis = exprs.add_axis(210);
        let x = exprs.axis(axis);
        let [thirty_five, seven, five] = [35, 7, 5].map(|value| exprs.int(value));
        let first = exprs.prim(Prim::Div, DType::I64, &[x, thirty_five]);
        let sevenths = exprs.prim(Prim::Div, DType::I64, &[x, seven]);
        let middle = exprs.prim(Prim::Rem, DType::I64, &[sevenths, five]);
        let last = exprs.prim(Prim::Rem, DType::I64, &[x, seven]);
        assert_eq!(
            offset(&mut exprs, &Type::new(DType::F32, [6, 5, 7]), &[first, middle, last]),
            x
        );
    }

    #[test]
    fn a_blocked_address_follows_its_layout() {
        let (mut exprs, axes) = arena();
        let digit = |axis, step, extent| Digit { axis, step, extent };
        let mut ty = Type::new(DType::F32, [3, 16, 5]);
        ty.layout = Layout::Digits(vec![digit(1, 8, 2), digit(0, 1, 4), digit(2, 1, 5), digit(1, 1, 8)]);
        let id = offset(&mut exprs, &ty, &[axes[0], axes[2], axes[3]]);
        for at in places() {
            let index = [at[0], at[2], at[3]].map(|place| place as usize);
            let wanted = ty.layout.offset(&ty.shape, &index);
            assert_eq!(eval(&exprs, id, &at), Scalar::Int(wanted as i128));
        }
    }

    #[test]
    fn affine_gives_the_factor_of_each_axis() {
        let (mut exprs, axes) = arena();
        let [two, seven] = [2, 7].map(|value| exprs.int(value));
        let double = exprs.prim(Prim::Mul, DType::I64, &[axes[1], two]);
        let shifted = exprs.prim(Prim::Sub, DType::I64, &[double, seven]);
        let sum = exprs.prim(Prim::Sub, DType::I64, &[shifted, axes[3]]);
        let form = affine(&exprs, sum).unwrap();
        assert_eq!(form.terms, [(AxisId(1), 2), (AxisId(3), -1)]);
        assert_eq!(
            (form.factor(AxisId(1)), form.factor(AxisId(0)), form.constant),
            (2, 0, -7)
        );
        assert_eq!(exprs.range(sum), Some((-11, -1)));
        let halved = exprs.prim(Prim::Div, DType::I64, &[sum, two]);
        assert_eq!(affine(&exprs, halved), None);
    }

    #[test]
    fn floats_keep_every_bit() {
        let mut exprs = Exprs::default();
        let x = exprs.load(super::super::BufferId(0), DType::F32, Vec::new(), false);
        let constant = |exprs: &mut Exprs, value| exprs.constant(DType::F32, Scalar::Float(value));
        let [zero, minus_zero, one] = [0.0, -0.0, 1.0].map(|value| constant(&mut exprs, value));
        let mut is_x = |prim, args: [ExprId; 2]| exprs.prim(prim, DType::F32, &args) == x;
        assert!(is_x(Prim::Mul, [x, one]));
        assert!(is_x(Prim::Div, [x, one]));
        assert!(is_x(Prim::Sub, [x, zero]));
        assert!(is_x(Prim::Add, [minus_zero, x]));
        assert!(!is_x(Prim::Add, [x, zero]));
        assert!(!is_x(Prim::Sub, [x, minus_zero]));
        assert!(!is_x(Prim::Div, [one, x]));
    }
}
