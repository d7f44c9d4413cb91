//! Gather and scatter: slices along one axis chosen by an index tensor. Each is the other's transpose.
//!
//! Choosing along several axes at once (`gather_nd`), or element by element (`take_along_axis`), is a composite: a
//! reshape that merges the axes and arithmetic on the indices.

use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::{DType, Scalar};
use crate::kernel::build::KernelCx;
use crate::kernel::{Combine, ExprId};
use crate::layout::Layout;
use crate::ops::{Attr, Attrs, Op, Rules, check_axis, fold, operands};
use crate::tensor::{Tensor, Type, unravel};

/// Operands `x`, `indices` (an integer type). The result has shape
/// `x.shape[..axis] ++ indices.shape ++ x.shape[axis + 1..]`; an index outside the axis reads as the nearest inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gather {
    /// The axis of `x` that is indexed.
    pub axis: usize,
}

/// Operands `x`, `indices`, `updates`, the last of gather's result shape. The result is `x` with each update combined into the
/// slice it names, in row-major order of `indices`; an index outside the axis is dropped.
///
/// In the text form `scatter` replaces, `scatter_sum`, `scatter_prod`, `scatter_max`, `scatter_min`, `scatter_any`,
/// `scatter_all` combine. Replacing sends the gradient to the last update of a slice, max and min share it equally among ties;
/// a product has no gradient, and asking for it is reported.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scatter {
    /// The axis of `x` that is indexed.
    pub axis: usize,
    /// How an update enters; `None` replaces.
    pub with: Option<Combine>,
}

/// The op of that name, if it is of this class.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let gather = || {
        Ok(Op::Gather(Gather {
            axis: attrs.size("axis")?,
        }))
    };
    let scatter = |with: Option<Combine>| {
        let axis = attrs.size("axis")?;
        Ok(Op::Scatter(Scatter { axis, with }))
    };
    if name == "gather" {
        return Some(gather());
    }
    let combines = std::iter::once(None).chain(Combine::ALL.into_iter().map(Some));
    let with = combines.into_iter().find(|&with| scatter_name(with) == name)?;
    Some(scatter(with))
}

fn scatter_name(with: Option<Combine>) -> &'static str {
    match with {
        None => "scatter",
        Some(Combine::Sum) => "scatter_sum",
        Some(Combine::Product) => "scatter_prod",
        Some(Combine::Max) => "scatter_max",
        Some(Combine::Min) => "scatter_min",
        Some(Combine::Any) => "scatter_any",
        Some(Combine::All) => "scatter_all",
    }
}

impl Rules for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        vec![("axis", Attr::size(self.axis))]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [x, indices] = operands(args)?;
        check_indices(x, self.axis, indices)?;
        let ty = Type::new(x.dtype, slices_shape(&x.shape, self.axis, &indices.shape));
        ty.check()?;
        if x.shape[self.axis] == 0 && ty.count() > 0 {
            return Err(format!("axis {} of {x} has no element to choose", self.axis));
        }
        Ok(vec![ty])
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let [x, indices] = [args[0], args[1]];
        let shape = slices_shape(x.shape(), self.axis, indices.shape());
        let last = x.shape()[self.axis] as i128 - 1;
        let element = |index: &[usize]| {
            let (mut place, which) = split_index(index, self.axis, indices.shape().len(), 0);
            place[self.axis] = indices.at(&which).as_i128().clamp(0, last) as usize;
            x.at(&place)
        };
        vec![Tensor::from_fn(x.dtype(), shape, element)]
    }

    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        let [x, indices] = [vjp.args[0], vjp.args[1]];
        if !x.dtype().is_float() || x.ty().count() == 0 {
            return vec![None, None];
        }
        // Scatter drops what lies outside where gather takes the nearest; reading a counter takes the nearest here too.
        let extent = x.shape()[self.axis];
        let nearest = vjp.to.iota(DType::I64, [extent], 0).gather(indices, 0);
        let zeros = vjp.to.full(x.dtype(), x.shape(), 0.0);
        vec![Some(zeros.scatter_add(nearest, vjp.seed, self.axis)), None]
    }

    fn kernel(&self, cx: &mut KernelCx<'_>) -> Option<ExprId> {
        let (x, indices) = (cx.arg_type(0).clone(), cx.arg_type(1).clone());
        if cx.out_type().count() == 0 {
            return Some(cx.constant(x.dtype, Scalar::zero(x.dtype)).id());
        }
        let (mut place, which) = split_index(cx.index(), self.axis, indices.rank(), cx.int(0).id());
        let chosen = cx.arg(1, which);
        let last = x.shape[self.axis] as i64 - 1;
        let chosen = cx.x(chosen);
        // The upper half of u64 would turn negative, so it is cut off before it is converted.
        let chosen = match indices.dtype {
            DType::U64 => chosen.min(chosen.int(i128::from(last))).cast(DType::I64),
            _ => chosen.cast(DType::I64).min(cx.int(last)),
        };
        let chosen = if indices.dtype.is_signed() {
            chosen.max(cx.int(0))
        } else {
            chosen
        };
        place[self.axis] = chosen.id();
        Some(cx.arg(0, place))
    }
}

impl Rules for Scatter {
    fn name(&self) -> &'static str {
        scatter_name(self.with)
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        vec![("axis", Attr::size(self.axis))]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [x, indices, updates] = operands(args)?;
        check_indices(x, self.axis, indices)?;
        if let Some(with) = self.with {
            fold::check_combines(with, x.dtype)?;
        }
        let wanted = Type::new(x.dtype, slices_shape(&x.shape, self.axis, &indices.shape));
        if (updates.dtype, &updates.shape) != (wanted.dtype, &wanted.shape) {
            return Err(format!("the updates must be {wanted}, found {updates}"));
        }
        Ok(vec![Type::new(x.dtype, x.shape.clone())])
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let [x, indices, updates] = [args[0], args[1], args[2]];
        let extent = x.shape()[self.axis] as i128;
        let mut elements: Vec<Scalar> = x.scalars().collect();
        for (position, update) in updates.scalars().enumerate() {
            let index = unravel(updates.shape(), position);
            let (mut place, which) = split_index(&index, self.axis, indices.shape().len(), 0);
            let chosen = indices.at(&which).as_i128();
            if !(0..extent).contains(&chosen) {
                continue;
            }
            place[self.axis] = chosen as usize;
            let element = &mut elements[Layout::Dense.offset(x.shape(), &place)];
            *element = match self.with {
                Some(with) => fold::combine(with, *element, update, x.dtype()),
                None => update,
            };
        }
        vec![Tensor::from_scalars(x.dtype(), x.shape(), elements)]
    }

    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        let [x, indices, updates] = [vjp.args[0], vjp.args[1], vjp.args[2]];
        let (seed, axis) = (vjp.seed, self.axis);
        if !x.dtype().is_float() {
            return vec![None; 3];
        }
        if updates.ty().count() == 0 || x.ty().count() == 0 {
            return vec![Some(seed), None, None];
        }
        let (for_x, for_updates) = match self.with {
            Some(Combine::Sum) => (seed, seed.gather_or_zero(indices, axis)),
            None => {
                let zeros = vjp.to.full(updates.dtype(), updates.shape(), 0.0);
                let kept = seed.scatter(indices, zeros, axis, None);
                let wins = lands_last(indices, x.shape()[axis]);
                let wins = along_slices(wins, axis, &updates.shape());
                (kept, wins.select(seed.gather_or_zero(indices, axis), zeros))
            }
            Some(Combine::Max | Combine::Min) => {
                // All that equal the result share the gradient equally, as in a fold.
                let x_chosen = x.eq(vjp.out);
                let updates_chosen = updates.eq(vjp.out.gather_or_zero(indices, axis));
                let ties = x_chosen
                    .cast(x.dtype())
                    .scatter_add(indices, updates_chosen.cast(x.dtype()), axis);
                let share = seed / ties;
                let for_updates = updates_chosen.select(share.gather_or_zero(indices, axis), 0.0);
                (x_chosen.select(share, 0.0), for_updates)
            }
            Some(Combine::Product) => {
                let problem = vjp
                    .to
                    .problem("scatter_prod: has no gradient; gather the factors and multiply them");
                (problem, problem)
            }
            Some(Combine::Any | Combine::All) => unreachable!("combinations of booleans only"),
        };
        vec![Some(for_x), None, Some(for_updates)]
    }

    fn kernel(&self, _cx: &mut KernelCx<'_>) -> Option<ExprId> {
        None
    }
}

fn check_indices(x: &Type, axis: usize, indices: &Type) -> Result<(), String> {
    check_axis(x, axis)?;
    match indices.dtype.is_int() {
        true => Ok(()),
        false => Err(format!("the indices must be integers, found {indices}")),
    }
}

/// The shape of the slices of a tensor that indices of a shape name.
fn slices_shape(x: &[usize], axis: usize, indices: &[usize]) -> Vec<usize> {
    [&x[..axis], indices, &x[axis + 1..]].concat()
}

/// Splits an index of the slices into one of the tensor, whose entry at `axis` is to be replaced, and one of the indices.
fn split_index<T: Copy>(index: &[T], axis: usize, rank: usize, blank: T) -> (Vec<T>, Vec<T>) {
    let (before, rest) = index.split_at(axis);
    let (which, after) = rest.split_at(rank);
    ([before, &[blank], after].concat(), which.to_vec())
}

/// For each index, whether it is within an axis of `extent` and no later one equals it.
fn lands_last<'g>(indices: Val<'g>, extent: usize) -> Val<'g> {
    let shape = indices.shape();
    let count = indices.ty().count();
    let number = indices.builder().iota(DType::I64, [count], 0).reshape(shape);
    let none = indices.builder().full(DType::I64, [extent], -1.0);
    let last = none.scatter(indices, number, 0, Some(Combine::Max));
    // Outside the axis the gather gives 0, which is the number of the first index alone, so all count from 1.
    (last + 1.0).gather_or_zero(indices, 0).eq(number + 1.0)
}

/// A value for each index, repeated over the slices.
fn along_slices<'g>(value: Val<'g>, axis: usize, shape: &[usize]) -> Val<'g> {
    let mut aligned = value.shape();
    aligned.resize(shape.len() - axis, 1);
    value.reshape(aligned).broadcast(shape)
}

impl<'g> Val<'g> {
    /// The slices along `axis` that integer `indices` name, in the place of that axis; an index outside takes the nearest.
    #[track_caller]
    pub fn gather(self, indices: Val<'g>, axis: usize) -> Val<'g> {
        self.builder().push(Op::Gather(Gather { axis }), &[self, indices])
    }

    /// As [`Val::gather`], but an index outside gives zeros.
    #[track_caller]
    pub fn gather_or_zero(self, indices: Val<'g>, axis: usize) -> Val<'g> {
        let mut around = vec![0; self.rank()];
        if let Some(around) = around.get_mut(axis) {
            *around = 1;
        }
        // The axis gets a zero at either end. What wraps, i64::MAX and the upper half of u64, ends at one of them too.
        let places = indices.cast(DType::I64) + 1.0;
        self.pad(around.clone(), around, 0.0).gather(places, axis)
    }

    /// This with each update combined into the slice along `axis` that its index names, in order; an index outside is dropped.
    /// `None` replaces.
    #[track_caller]
    pub fn scatter(self, indices: Val<'g>, updates: Val<'g>, axis: usize, with: Option<Combine>) -> Val<'g> {
        self.builder()
            .push(Op::Scatter(Scatter { axis, with }), &[self, indices, updates])
    }

    /// This with each update added to the slice along `axis` that its index names; an index outside is dropped.
    #[track_caller]
    pub fn scatter_add(self, indices: Val<'g>, updates: Val<'g>, axis: usize) -> Val<'g> {
        self.scatter(indices, updates, axis, Some(Combine::Sum))
    }

    /// Element by element along `axis`: `y[.., i, ..] = x[.., indices[.., i, ..], ..]`, where shapes agree but along
    /// `axis`; an index outside takes the nearest.
    #[track_caller]
    pub fn take_along_axis(self, indices: Val<'g>, axis: usize) -> Val<'g> {
        match self.flat_places(indices, axis) {
            Ok(places) => self.reshape([self.ty().count()]).gather(places, 0),
            Err(poison) => poison,
        }
    }

    /// The transpose of [`Val::take_along_axis`] from a tensor of this shape: zeros, with each element added where its
    /// index says.
    #[track_caller]
    pub fn scatter_add_along_axis(self, indices: Val<'g>, axis: usize) -> Val<'g> {
        let shape = self.shape();
        let count = self.ty().count();
        match self.flat_places(indices, axis) {
            Ok(places) => {
                let zeros = self.builder().full(self.dtype(), [count], 0.0);
                zeros
                    .scatter_add(places.reshape([count]), self.reshape([count]), 0)
                    .reshape(shape)
            }
            Err(poison) => poison,
        }
    }

    /// For each index along `axis` of this, the row-major position of the element that it names.
    #[track_caller]
    fn flat_places(self, indices: Val<'g>, axis: usize) -> Result<Val<'g>, Val<'g>> {
        let to = self.builder();
        if let Some(poison) = [self, indices].into_iter().find(|val| val.is_poison()) {
            return Err(poison);
        }
        let (shape, index_shape) = (self.shape(), indices.shape());
        let elsewhere = |shape: &[usize]| -> Vec<usize> {
            (0..shape.len())
                .filter(|&other| other != axis)
                .map(|other| shape[other])
                .collect()
        };
        let agree = index_shape.len() == shape.len() && elsewhere(&shape) == elsewhere(&index_shape);
        if axis >= shape.len() || !agree {
            let message = format!("along axis {axis}: {self} and the indices {indices} must agree but along the axis");
            return Err(to.problem(message));
        }
        // Reading a counter takes the nearest place for an index outside.
        let mut places = to.iota(DType::I64, [shape[axis]], 0).gather(indices, 0);
        let mut stride = 1.0;
        let mut axis_stride = 1.0;
        let mut others = Vec::new();
        for other in (0..shape.len()).rev() {
            if other == axis {
                axis_stride = stride;
            } else if shape[other] != 1 {
                others.push(to.iota(DType::I64, index_shape.clone(), other) * stride);
            }
            stride *= shape[other] as f64;
        }
        if axis_stride != 1.0 {
            places = places * axis_stride;
        }
        Ok(others.into_iter().fold(places, |places, other| places + other))
    }

    /// Ones where a new last axis of `depth` equals the index, zeros elsewhere.
    #[track_caller]
    pub fn one_hot(self, depth: usize, dtype: DType) -> Val<'g> {
        let mut shape = self.shape();
        let axis = shape.len();
        shape.push(depth);
        let place = self.builder().iota(DType::I64, shape.clone(), axis);
        self.cast(DType::I64).spread(&[axis], &shape).eq(place).cast(dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::check::{check_gradients, sample};
    use crate::ops::{assert_round_trip, infer_error};
    use crate::{Builder, oracle};

    fn counted(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>() as i64;
        Tensor::from_i64(shape, &(0..count).collect::<Vec<i64>>())
    }

    #[test]
    fn gathers_slices_and_clamps() {
        let x = counted(&[2, 3]);
        for (axis, shape, indices, expected_shape, expected) in [
            (0, &[][..], &[1][..], &[3][..], &[3, 4, 5][..]),
            (1, &[2], &[2, 0], &[2, 2], &[2, 0, 5, 3]),
            (1, &[1, 2], &[-7, 99], &[2, 1, 2], &[0, 2, 3, 5]),
            (0, &[0], &[], &[0, 3], &[]),
        ] {
            let gather = Gather { axis };
            let indices = Tensor::from_i64(shape, indices);
            let result = gather.eval(&[&x, &indices]).remove(0);
            assert_eq!(gather.infer(&[&x.ty(), &indices.ty()]), Ok(vec![result.ty()]));
            assert_eq!((result.shape(), &*result.to_i64()), (expected_shape, expected));
        }
    }

    #[test]
    fn scatters_in_order_and_drops() {
        let x = Tensor::from_i64([4], &[10, 20, 30, 40]);
        let indices = Tensor::from_i64([5], &[1, 3, 1, -1, 4]);
        let updates = Tensor::from_i64([5], &[2, 3, 25, 100, 100]);
        for (with, expected) in [
            (None, [10, 25, 30, 3]),
            (Some(Combine::Sum), [10, 47, 30, 43]),
            (Some(Combine::Product), [10, 1000, 30, 120]),
            (Some(Combine::Max), [10, 25, 30, 40]),
            (Some(Combine::Min), [10, 2, 30, 3]),
        ] {
            let scatter = Scatter { axis: 0, with };
            let result = scatter.eval(&[&x, &indices, &updates]).remove(0);
            assert_eq!(result.to_i64(), expected, "{with:?}");
        }
        let rows = Scatter {
            axis: 1,
            with: Some(Combine::Sum),
        };
        let updates = counted(&[2, 2]);
        let result = rows
            .eval(&[&counted(&[2, 3]), &Tensor::from_i64([2], &[2, 2]), &updates])
            .remove(0);
        assert_eq!(result.to_i64(), [0, 1, 3, 3, 4, 10]);
    }

    #[test]
    fn composites_by_hand() {
        let b = Builder::new();
        let x = b.input("x", DType::I64, [2, 3]);
        let along = b.input("along", DType::I64, [2, 2]);
        let which = b.input("which", DType::U8, [3]);
        let outputs = [
            ("taken", x.take_along_axis(along, 1)),
            ("zeros", x.gather_or_zero(which, 1)),
            ("one_hot", which.one_hot(3, DType::I64)),
            ("placed", x.scatter_add_along_axis(b.input("to", DType::I64, [2, 3]), 1)),
        ];
        let graph = b.finish(outputs).expect("a graph");
        let which = Tensor::from_scalars(DType::U8, [3], [2, 0, 255].map(Scalar::Int));
        let inputs = [
            ("x", counted(&[2, 3])),
            ("along", Tensor::from_i64([2, 2], &[2, 0, 1, 9])),
            ("which", which),
            ("to", Tensor::from_i64([2, 3], &[0, 0, 2, 1, 1, 1])),
        ];
        let outputs: Vec<Vec<i64>> = oracle::run(&graph, &inputs)
            .expect("inputs fit")
            .iter()
            .map(|(_, value)| value.to_i64())
            .collect();
        assert_eq!(outputs[0], [2, 0, 4, 5]);
        assert_eq!(outputs[1], [2, 0, 0, 5, 3, 0]);
        assert_eq!(outputs[2], [0, 0, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(outputs[3], [1, 0, 2, 0, 12, 0]);
    }

    #[test]
    fn gradients() {
        let indices = [3, 0, -5, 1, 0, 7];
        for axis in [0, 1] {
            let indices = |b: &Builder| b.constant(Tensor::from_i64([2, 3], &indices)).id();
            let shape: &[usize] = if axis == 0 { &[4, 2] } else { &[2, 4] };
            let slices = slices_shape(shape, axis, &[2, 3]);
            check_gradients(&format!("gather along {axis}"), &[sample(shape)], |x| {
                let b = x[0].builder();
                let y = x[0].gather(b.val(indices(b)), axis);
                y * y
            });
            for with in [None, Some(Combine::Sum), Some(Combine::Max), Some(Combine::Min)] {
                // Samples of one sequence: the second is turned, so that updates and elements do not tie.
                let updates: Vec<Scalar> = sample(&slices)
                    .scalars()
                    .map(|x| Scalar::Float(0.9 * x.as_f64()))
                    .collect();
                let inputs = [sample(shape), Tensor::from_scalars(DType::F64, slices.clone(), updates)];
                check_gradients(&format!("{} along {axis}", scatter_name(with)), &inputs, |x| {
                    let b = x[0].builder();
                    let y = x[0].scatter(b.val(indices(b)), x[1], axis, with);
                    y * y
                });
            }
        }
    }

    #[test]
    fn the_gradient_of_a_scattered_product_is_refused() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [3]);
        let indices = b.input("indices", DType::I32, [3]);
        let y = x.scatter(indices, x, 0, Some(Combine::Product)).sum_all();
        crate::autodiff::grad(y, &[x]);
        let problems = b.problems();
        let expected = "scatter_prod: has no gradient; gather the factors and multiply them";
        assert_eq!(problems.first().map(|problem| problem.message.as_str()), Some(expected));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let (x, floats) = (Type::new(DType::F32, [4, 2]), Type::new(DType::F32, [3]));
        let indices = Type::new(DType::I32, [3]);
        let empty = Type::new(DType::F32, [0, 2]);
        let gather = |axis| Op::Gather(Gather { axis });
        let scatter = |with| Op::Scatter(Scatter { axis: 0, with });
        for (op, args, expected) in [
            (
                gather(2),
                vec![&x, &indices],
                "there is no axis 2 in f32[4,2], which has 2 axes",
            ),
            (
                gather(0),
                vec![&x, &floats],
                "the indices must be integers, found f32[3]",
            ),
            (
                gather(0),
                vec![&empty, &indices],
                "axis 0 of f32[0,2] has no element to choose",
            ),
            (
                scatter(None),
                vec![&x, &indices, &x],
                "the updates must be f32[3,2], found f32[4,2]",
            ),
            (
                scatter(Some(Combine::Any)),
                vec![&x, &indices, &x],
                "takes bool, found f32",
            ),
        ] {
            assert_eq!(infer_error(&op, &args), expected);
        }
    }

    #[test]
    fn text_attributes_round_trip() {
        assert_round_trip(Op::Gather(Gather { axis: 1 }));
        for with in [None].into_iter().chain(Combine::ALL.map(Some)) {
            assert_round_trip(Op::Scatter(Scatter { axis: 2, with }));
        }
    }
}
