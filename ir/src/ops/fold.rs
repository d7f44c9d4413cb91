//! Reductions, whole (`fold`) and cumulative (`prefix`).

use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::{DType, Scalar};
use crate::kernel::build::KernelCx;
use crate::kernel::{Combine, ExprId};
use crate::layout::Layout;
use crate::ops::view::inverse;
use crate::ops::{Attr, Attrs, Op, Rules, check_axes, check_axis, operands};
use crate::tensor::{Tensor, Type, unravel};

/// Combines all elements along some axes, which vanish from the shape: `sum`, `prod`, `fold_max`, `fold_min`, `any`, `all` in the
/// text form (`max` and `min` are the maps of two operands).
///
/// The exact value of a float sum or product is computed in f64 and rounded once. Max and min of floats are NaN if any element is.
/// Integers wrap. A fold over nothing gives the identity: 0, 1, the least, the greatest value, false, true.
///
/// The mean, argmax and argmin are composites.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fold {
    /// How elements combine.
    pub with: Combine,
    /// The axes folded, ascending and distinct.
    pub axes: Vec<usize>,
}

/// Combines each element with those before it along an axis: `cumsum`, `cumprod`, `cummax`, `cummin`, `cumany`, `cumall` in the
/// text form. Each result is exact and rounded once, as a fold's.
///
/// From the end instead: flip before and after.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// How elements combine.
    pub with: Combine,
    /// The axis.
    pub axis: usize,
    /// Whether an element's own value is left out; the first result is then the identity.
    pub exclusive: bool,
}

/// The op of that name, if it is of this class.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let fold = |with: Combine| {
        let axes = attrs.sizes("axes")?;
        Ok(Op::Fold(Fold { with, axes }))
    };
    let prefix = |with: Combine| {
        let axis = attrs.size("axis")?;
        let exclusive = attrs.flag("exclusive")?;
        Ok(Op::Prefix(Prefix { with, axis, exclusive }))
    };
    let find = |names: fn(Combine) -> &'static str| Combine::ALL.into_iter().find(|&with| names(with) == name);
    find(fold_name).map(fold).or_else(|| find(prefix_name).map(prefix))
}

fn fold_name(with: Combine) -> &'static str {
    match with {
        Combine::Sum => "sum",
        Combine::Product => "prod",
        Combine::Max => "fold_max",
        Combine::Min => "fold_min",
        Combine::Any => "any",
        Combine::All => "all",
    }
}

fn prefix_name(with: Combine) -> &'static str {
    match with {
        Combine::Sum => "cumsum",
        Combine::Product => "cumprod",
        Combine::Max => "cummax",
        Combine::Min => "cummin",
        Combine::Any => "cumany",
        Combine::All => "cumall",
    }
}

impl Rules for Fold {
    fn name(&self) -> &'static str {
        fold_name(self.with)
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        vec![("axes", Attr::sizes(&self.axes))]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [x] = operands(args)?;
        check_combines(self.with, x.dtype)?;
        check_axes(x, &self.axes)?;
        let kept = (0..x.rank()).filter(|axis| !self.axes.contains(axis));
        let shape: Vec<usize> = kept.map(|axis| x.shape[axis]).collect();
        Ok(vec![Type::new(x.dtype, shape)])
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let x = args[0];
        let kept: Vec<usize> = (0..x.shape().len()).filter(|axis| !self.axes.contains(axis)).collect();
        let shape: Vec<usize> = kept.iter().map(|&axis| x.shape()[axis]).collect();
        let mut states = vec![self.with.identity(x.dtype()); shape.iter().product()];
        for (position, value) in x.scalars().enumerate() {
            let index = unravel(x.shape(), position);
            let to: Vec<usize> = kept.iter().map(|&axis| index[axis]).collect();
            let state = &mut states[Layout::Dense.offset(&shape, &to)];
            *state = combine(self.with, *state, value, x.dtype());
        }
        vec![Tensor::from_scalars(x.dtype(), shape, states)]
    }

    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        let (x, seed) = (vjp.args[0], vjp.seed);
        if !x.dtype().is_float() {
            return vec![None];
        }
        let shape = x.shape();
        let grad = match self.with {
            Combine::Sum => seed.spread(&self.axes, &shape),
            Combine::Product => seed.spread(&self.axes, &shape) * product_of_others(x, &self.axes),
            Combine::Max | Combine::Min => {
                let chosen = x.eq(vjp.out.spread(&self.axes, &shape));
                let ties = chosen.cast(x.dtype()).sum(&*self.axes);
                let share = (seed / ties).spread(&self.axes, &shape);
                chosen.select(share, 0.0)
            }
            Combine::Any | Combine::All => unreachable!("folds of booleans only"),
        };
        vec![Some(grad)]
    }

    fn kernel(&self, cx: &mut KernelCx<'_>) -> Option<ExprId> {
        let ty = cx.arg_type(0).clone();
        let mut kept = cx.index().to_vec().into_iter();
        let mut over = Vec::new();
        let mut index = Vec::new();
        for (axis, &extent) in ty.shape.iter().enumerate() {
            if self.axes.contains(&axis) {
                let fold_axis = cx.fold_axis(extent);
                over.push(fold_axis);
                index.push(cx.axis(fold_axis).id());
            } else {
                index.push(kept.next().expect("an index for each axis that is kept"));
            }
        }
        let value = cx.arg(0, index);
        let value = cx.x(value);
        // Halves are combined in f32 and rounded once.
        let wide = match ty.dtype {
            DType::F16 | DType::BF16 => DType::F32,
            dtype => dtype,
        };
        let folded = cx.fold(self.with, over, value.cast(wide).id());
        Some(cx.x(folded).cast(ty.dtype).id())
    }
}

impl Rules for Prefix {
    fn name(&self) -> &'static str {
        prefix_name(self.with)
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        let mut attrs = vec![("axis", Attr::size(self.axis))];
        if self.exclusive {
            attrs.push(("exclusive", Attr::Bool(true)));
        }
        attrs
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [x] = operands(args)?;
        check_combines(self.with, x.dtype)?;
        check_axis(x, self.axis)?;
        Ok(vec![Type::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let x = args[0];
        let dtype = x.dtype();
        let mut row_shape = x.shape().to_vec();
        row_shape[self.axis] = 1;
        let mut states = vec![self.with.identity(dtype); row_shape.iter().product()];
        // Row-major order visits each row from its start.
        let element = |index: &[usize]| {
            let mut row = index.to_vec();
            row[self.axis] = 0;
            let state = &mut states[Layout::Dense.offset(&row_shape, &row)];
            let before = *state;
            *state = combine(self.with, before, x.at(index), dtype);
            if self.exclusive { before } else { *state }
        };
        vec![Tensor::from_fn(dtype, x.shape(), element)]
    }

    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        let (x, axis) = (vjp.args[0], self.axis);
        if !x.dtype().is_float() {
            return vec![None];
        }
        // An exclusive result is the inclusive one, a place later.
        let seed = if self.exclusive {
            vjp.seed.earlier(axis, 1)
        } else {
            vjp.seed
        };
        let grad = match self.with {
            Combine::Sum => seed.flip([axis]).cumsum(axis).flip([axis]),
            Combine::Product => x.prefix(Combine::Product, axis, true) * decayed_sum(seed, x.earlier(axis, 1), axis),
            Combine::Max | Combine::Min => to_records(self.with, x, seed, axis),
            Combine::Any | Combine::All => unreachable!("prefixes of booleans only"),
        };
        vec![Some(grad)]
    }

    fn kernel(&self, _cx: &mut KernelCx<'_>) -> Option<ExprId> {
        None
    }
}

/// Whether elements of that type combine so: numbers add, multiply and compare; booleans have `any` and `all`.
pub(crate) fn check_combines(with: Combine, dtype: DType) -> Result<(), String> {
    let logic = matches!(with, Combine::Any | Combine::All);
    match (logic, dtype) {
        (true, DType::Bool) => Ok(()),
        (true, _) => Err(format!("takes bool, found {dtype}")),
        (false, DType::Bool) => Err("takes numbers, found bool; use `any` or `all`, or convert first".to_owned()),
        (false, _) => Ok(()),
    }
}

/// One more value enters; floats stay f64 until the result is stored, integers wrap at each step.
pub(crate) fn combine(with: Combine, state: Scalar, value: Scalar, dtype: DType) -> Scalar {
    match (state, value) {
        (Scalar::Float(a), Scalar::Float(b)) => Scalar::Float(match with {
            Combine::Sum => a + b,
            Combine::Product => a * b,
            Combine::Max if a > b || a.is_nan() => a,
            Combine::Min if a < b || a.is_nan() => a,
            _ => b,
        }),
        (Scalar::Bool(a), Scalar::Bool(b)) => Scalar::Bool(match with {
            Combine::Any => a || b,
            _ => a && b,
        }),
        _ => {
            let (a, b) = (state.as_i128(), value.as_i128());
            let combined = match with {
                Combine::Sum => a + b,
                // Two u64 may exceed i128, whose wrapping keeps the low bits that count.
                Combine::Product => a.wrapping_mul(b),
                Combine::Max => a.max(b),
                _ => a.min(b),
            };
            Scalar::Int(combined).round(dtype)
        }
    }
}

/// At each element, the product of all the others along `axes`: right, unlike a quotient, where some are zero.
fn product_of_others<'g>(x: Val<'g>, axes: &[usize]) -> Val<'g> {
    let shape = x.shape();
    let kept = (0..shape.len()).filter(|axis| !axes.contains(axis));
    let order: Vec<usize> = kept.chain(axes.iter().copied()).collect();
    let moved = x.permute(order.clone());
    let row = order.len() - axes.len();
    let mut row_shape = moved.shape()[..row].to_vec();
    row_shape.push(axes.iter().map(|&axis| shape[axis]).product());
    let rows = moved.reshape(row_shape);
    let before = rows.prefix(Combine::Product, row, true);
    let after = rows.flip([row]).prefix(Combine::Product, row, true).flip([row]);
    (before * after).reshape(moved.shape()).permute(inverse(&order))
}

/// `s[i] = value[i] + decay[i] * s[i + 1]` along `axis`, by doubling: after each step `s` spans twice as many terms
/// (Hillis and Steele, "Data parallel algorithms", 1986).
fn decayed_sum<'g>(value: Val<'g>, decay: Val<'g>, axis: usize) -> Val<'g> {
    let extent = value.shape().get(axis).copied().unwrap_or(0);
    let (mut sum, mut decay) = (value, decay);
    let mut span = 1;
    while span < extent {
        sum = sum + decay * sum.earlier(axis, span);
        decay = decay * decay.earlier(axis, span);
        span *= 2;
    }
    sum
}

/// The sum of the seeds of each stretch of a running maximum (minimum), at the element that began it.
fn to_records<'g>(with: Combine, x: Val<'g>, seed: Val<'g>, axis: usize) -> Val<'g> {
    let shape = x.shape();
    let before = x.prefix(with, axis, true);
    let record = match with {
        Combine::Max => before.lt(x),
        _ => x.lt(before),
    };
    let place = x.builder().iota(DType::I64, shape, axis);
    let began = record.select(place, 0.0).prefix(Combine::Max, axis, false);
    seed.scatter_add_along_axis(began, axis)
}

impl<'g> Val<'g> {
    /// Combines the elements along axes, which vanish; the value itself if there is no axis.
    #[track_caller]
    pub fn fold(self, with: Combine, axes: impl Into<Vec<usize>>) -> Val<'g> {
        let mut axes = axes.into();
        axes.sort_unstable();
        if self.is_poison() || axes.is_empty() {
            return self;
        }
        self.builder().push(Op::Fold(Fold { with, axes }), &[self])
    }

    /// Combines each element with those before it along `axis`, itself included unless `exclusive`.
    #[track_caller]
    pub fn prefix(self, with: Combine, axis: usize, exclusive: bool) -> Val<'g> {
        self.builder()
            .push(Op::Prefix(Prefix { with, axis, exclusive }), &[self])
    }

    /// The sum along axes, which vanish.
    #[track_caller]
    pub fn sum(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        self.fold(Combine::Sum, axes)
    }

    /// The sum of all elements.
    #[track_caller]
    pub fn sum_all(self) -> Val<'g> {
        self.sum((0..self.rank()).collect::<Vec<usize>>())
    }

    /// The product along axes, which vanish.
    #[track_caller]
    pub fn prod(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        self.fold(Combine::Product, axes)
    }

    /// The greatest element along axes, which vanish; NaN if there is one. Equal greatest elements share the gradient.
    #[track_caller]
    pub fn max_over(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        self.fold(Combine::Max, axes)
    }

    /// The least element along axes, which vanish; NaN if there is one. Equal least elements share the gradient.
    #[track_caller]
    pub fn min_over(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        self.fold(Combine::Min, axes)
    }

    /// Whether any element along axes is true.
    #[track_caller]
    pub fn any(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        self.fold(Combine::Any, axes)
    }

    /// Whether all elements along axes are true.
    #[track_caller]
    pub fn all(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        self.fold(Combine::All, axes)
    }

    /// The sum of the elements up to each along `axis`.
    #[track_caller]
    pub fn cumsum(self, axis: usize) -> Val<'g> {
        self.prefix(Combine::Sum, axis, false)
    }

    /// The product of the elements up to each along `axis`.
    #[track_caller]
    pub fn cumprod(self, axis: usize) -> Val<'g> {
        self.prefix(Combine::Product, axis, false)
    }

    /// The greatest of the elements up to each along `axis`; the first of equals has the gradient.
    #[track_caller]
    pub fn cummax(self, axis: usize) -> Val<'g> {
        self.prefix(Combine::Max, axis, false)
    }

    /// The least of the elements up to each along `axis`; the first of equals has the gradient.
    #[track_caller]
    pub fn cummin(self, axis: usize) -> Val<'g> {
        self.prefix(Combine::Min, axis, false)
    }

    /// The place along `axis` of the first greatest element, `i64`; of the first NaN, if there is one.
    #[track_caller]
    pub fn argmax(self, axis: usize) -> Val<'g> {
        self.place_of(Combine::Max, axis)
    }

    /// The place along `axis` of the first least element, `i64`; of the first NaN, if there is one.
    #[track_caller]
    pub fn argmin(self, axis: usize) -> Val<'g> {
        self.place_of(Combine::Min, axis)
    }

    #[track_caller]
    fn place_of(self, with: Combine, axis: usize) -> Val<'g> {
        let shape = self.shape();
        let best = self.fold(with, [axis]);
        if best.is_poison() {
            return best;
        }
        if shape[axis] == 0 {
            return self
                .builder()
                .problem(format!("axis {axis} of {self} has no elements to choose from"));
        }
        let best = best.spread(&[axis], &shape);
        let mut chosen = self.eq(best);
        if self.dtype().is_float() {
            // A fold that met a NaN is NaN, which equals nothing, so the NaN is looked for by itself.
            chosen = chosen | self.is_nan();
        }
        let place = self.builder().iota(DType::I64, shape.clone(), axis);
        chosen.select(place, place.lit(shape[axis] as f64)).min_over([axis])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;
    use crate::autodiff::check::{check_gradients, sample};
    use crate::ops::{assert_round_trip, infer_error};
    use crate::oracle;

    fn fold(with: Combine, axes: &[usize], x: &Tensor) -> Tensor {
        let fold = Fold {
            with,
            axes: axes.to_vec(),
        };
        let types = fold.infer(&[&x.ty()]).expect("the fold fits");
        let result = fold.eval(&[x]).remove(0);
        assert_eq!([result.ty()], *types);
        result
    }

    fn prefix(with: Combine, exclusive: bool, axis: usize, x: &Tensor) -> Tensor {
        let prefix = Prefix { with, axis, exclusive };
        assert_eq!(prefix.infer(&[&x.ty()]), Ok(vec![x.ty()]));
        prefix.eval(&[x]).remove(0)
    }

    #[test]
    fn folds_by_hand() {
        let x = Tensor::from_f32([2, 3], &[1.0, 5.0, 3.0, -4.0, 0.5, 2.0]);
        for (with, axes, expected) in [
            (Combine::Sum, &[1][..], vec![9.0, -1.5]),
            (Combine::Sum, &[0], vec![-3.0, 5.5, 5.0]),
            (Combine::Sum, &[0, 1], vec![7.5]),
            (Combine::Sum, &[], vec![1.0, 5.0, 3.0, -4.0, 0.5, 2.0]),
            (Combine::Product, &[1], vec![15.0, -4.0]),
            (Combine::Max, &[1], vec![5.0, 2.0]),
            (Combine::Min, &[0], vec![-4.0, 0.5, 2.0]),
        ] {
            assert_eq!(fold(with, axes, &x).to_f32(), expected, "{with:?} over {axes:?}");
        }
        let flags = Tensor::from_scalars(DType::Bool, [2, 2], [false, true, true, true].map(Scalar::Bool));
        assert_eq!(fold(Combine::All, &[1], &flags).to_i64(), [0, 1]);
        assert_eq!(fold(Combine::Any, &[1], &flags).to_i64(), [1, 1]);
    }

    #[test]
    fn folds_over_nothing_give_the_identity() {
        let x = Tensor::zeros(DType::F32, [2, 0]);
        let infinity = f32::INFINITY;
        for (with, expected) in [
            (Combine::Sum, 0.0),
            (Combine::Product, 1.0),
            (Combine::Max, -infinity),
            (Combine::Min, infinity),
        ] {
            assert_eq!(fold(with, &[1], &x).to_f32(), [expected; 2], "{with:?}");
            assert_eq!(fold(with, &[0], &x).count(), 0);
        }
    }

    #[test]
    fn max_and_min_keep_nan_and_sums_round_once() {
        let x = Tensor::from_f32([3], &[1.0, f32::NAN, 2.0]);
        for with in [Combine::Max, Combine::Min] {
            assert!(fold(with, &[0], &x).to_f32()[0].is_nan(), "{with:?}");
            let running = prefix(with, false, 0, &x).to_f32();
            assert_eq!(
                running.iter().map(|x| x.is_nan()).collect::<Vec<_>>(),
                [false, true, true]
            );
        }
        // Added in f32 one by one, the small terms would all be lost.
        let mut elements = vec![1.0; 1001];
        elements[0] = 16_777_216.0;
        assert_eq!(
            fold(Combine::Sum, &[0], &Tensor::from_f32([1001], &elements)).to_f32(),
            [16_778_216.0]
        );
    }

    #[test]
    fn integers_wrap() {
        let elements = [200, 100, 3].map(Scalar::Int);
        let x = Tensor::from_scalars(DType::U8, [3], elements);
        assert_eq!(fold(Combine::Sum, &[0], &x).to_i64(), [47]);
        assert_eq!(fold(Combine::Product, &[0], &x).to_i64(), [60_000 % 256]);
        let x = Tensor::from_scalars(DType::U64, [3], [Scalar::Int(i128::from(u64::MAX)); 3]);
        assert_eq!(
            fold(Combine::Product, &[0], &x).get(0),
            Scalar::Int(i128::from(u64::MAX))
        );
    }

    #[test]
    fn prefixes_by_hand() {
        let x = Tensor::from_f32([2, 3], &[1.0, 5.0, 3.0, -4.0, 0.5, 2.0]);
        let low = f32::NEG_INFINITY;
        for (with, exclusive, axis, expected) in [
            (Combine::Sum, false, 1, [1.0, 6.0, 9.0, -4.0, -3.5, -1.5]),
            (Combine::Sum, true, 1, [0.0, 1.0, 6.0, 0.0, -4.0, -3.5]),
            (Combine::Sum, false, 0, [1.0, 5.0, 3.0, -3.0, 5.5, 5.0]),
            (Combine::Product, true, 1, [1.0, 1.0, 5.0, 1.0, -4.0, -2.0]),
            (Combine::Max, false, 1, [1.0, 5.0, 5.0, -4.0, 0.5, 2.0]),
            (Combine::Max, true, 1, [low, 1.0, 5.0, low, -4.0, 0.5]),
            (Combine::Min, false, 0, [1.0, 5.0, 3.0, -4.0, 0.5, 2.0]),
        ] {
            let found = prefix(with, exclusive, axis, &x).to_f32();
            assert_eq!(found, expected, "{with:?}, exclusive: {exclusive}, axis {axis}");
        }
        assert_eq!(
            prefix(Combine::Sum, false, 1, &Tensor::zeros(DType::F32, [2, 0])).count(),
            0
        );
    }

    #[test]
    fn argmax_takes_the_first_and_nan_wins() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [4, 3]);
        let graph = b.finish([("max", x.argmax(1)), ("min", x.argmin(1))]).expect("a graph");
        let nan = f32::NAN;
        let elements = [1.0, 3.0, 3.0, 2.0, 2.0, 1.0, 5.0, nan, nan, f32::NEG_INFINITY, 0.0, 0.0];
        let outputs = oracle::run(&graph, &[("x", Tensor::from_f32([4, 3], &elements))]).expect("inputs fit");
        assert_eq!(outputs[0].1.to_i64(), [1, 0, 1, 1]);
        assert_eq!(outputs[1].1.to_i64(), [0, 2, 1, 0]);
    }

    #[test]
    fn gradients() {
        let x = sample(&[2, 3, 2]);
        let axes_sets = [vec![0], vec![1], vec![0, 2], vec![0, 1, 2]];
        for (with, axes) in [Combine::Sum, Combine::Product, Combine::Max, Combine::Min]
            .into_iter()
            .flat_map(|with| axes_sets.iter().map(move |axes| (with, axes)))
        {
            let name = format!("{} over {axes:?}", fold_name(with));
            check_gradients(&name, std::slice::from_ref(&x), |x| {
                let y = x[0].fold(with, axes.clone());
                y * y
            });
        }
        for with in [Combine::Sum, Combine::Product, Combine::Max, Combine::Min] {
            for (axis, exclusive) in [(0, false), (1, false), (1, true), (2, true)] {
                let name = format!("{} along {axis}, exclusive: {exclusive}", prefix_name(with));
                check_gradients(&name, std::slice::from_ref(&x), |x| {
                    let y = x[0].prefix(with, axis, exclusive);
                    // The exclusive extrema start at an infinity, which has no square to weigh.
                    let y = if exclusive {
                        y.slice(axis, 1, y.shape()[axis])
                    } else {
                        y
                    };
                    y * y
                });
            }
        }
    }

    #[test]
    fn gradients_of_products_with_zeros() {
        let elements = |zeros: &[usize]| {
            let mut x = sample(&[5]);
            zeros.iter().for_each(|&place| x.set(place, Scalar::Float(0.0)));
            x
        };
        for zeros in [&[1][..], &[1, 3], &[0, 1, 4]] {
            check_gradients(&format!("prod, zeros at {zeros:?}"), &[elements(zeros)], |x| {
                x[0].prod([0])
            });
            check_gradients(&format!("cumprod, zeros at {zeros:?}"), &[elements(zeros)], |x| {
                x[0].cumprod(0)
            });
        }
    }

    #[test]
    fn ties_share_the_gradient() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [4]);
        let gradient = crate::autodiff::grad(x.max_over([0]), &[x])[0];
        let graph = b.finish([("gradient", gradient)]).expect("a graph");
        let outputs = oracle::run(&graph, &[("x", Tensor::from_f32([4], &[3.0, 1.0, 3.0, 2.0]))]).expect("inputs fit");
        assert_eq!(outputs[0].1.to_f32(), [0.5, 0.0, 0.5, 0.0]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let fold = |with, axes: &[usize]| {
            Op::Fold(Fold {
                with,
                axes: axes.to_vec(),
            })
        };
        let floats = Type::new(DType::F32, [2, 3]);
        let flags = Type::new(DType::Bool, [2]);
        for (op, args, expected) in [
            (
                fold(Combine::Sum, &[2]),
                vec![&floats],
                "there is no axis 2 in f32[2,3], which has 2 axes",
            ),
            (
                fold(Combine::Sum, &[1, 0]),
                vec![&floats],
                "axes must be ascending and distinct, found [1,0]",
            ),
            (
                fold(Combine::Sum, &[0, 0]),
                vec![&floats],
                "axes must be ascending and distinct, found [0,0]",
            ),
            (
                fold(Combine::Sum, &[0]),
                vec![&floats, &floats],
                "takes 1 operand, found 2",
            ),
            (fold(Combine::All, &[0]), vec![&floats], "takes bool, found f32"),
            (
                fold(Combine::Max, &[0]),
                vec![&flags],
                "takes numbers, found bool; use `any` or `all`, or convert first",
            ),
        ] {
            assert_eq!(infer_error(&op, &args), expected);
        }
        let prefix = Op::Prefix(Prefix {
            with: Combine::Sum,
            axis: 0,
            exclusive: false,
        });
        let scalar = Type::new(DType::F32, []);
        assert_eq!(
            infer_error(&prefix, &[&scalar]),
            "there is no axis 0 in f32[], which has 0 axes"
        );
    }

    #[test]
    fn text_attributes_round_trip() {
        for with in Combine::ALL {
            assert_round_trip(Op::Fold(Fold { with, axes: vec![0, 2] }));
            assert_round_trip(Op::Fold(Fold { with, axes: vec![] }));
            for exclusive in [false, true] {
                assert_round_trip(Op::Prefix(Prefix {
                    with,
                    axis: 1,
                    exclusive,
                }));
            }
        }
    }
}
