//! Views: the same elements at other places. They cost nothing where they fuse, a copy where they do not.

use std::sync::Arc;

use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::{DType, Scalar};
use crate::kernel::ExprId;
use crate::kernel::build::{KernelCx, X};
use crate::layout::Layout;
use crate::ops::{Attr, Attrs, Op, Rules, check_axes, check_axis, check_len, operands};
use crate::tensor::{Shape, Tensor, Type, unravel};

/// A rearrangement of elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// The same elements in row-major order under another shape.
    Reshape(Vec<usize>),
    /// Axis `k` of the result is axis `order[k]` of the operand.
    Permute(Vec<usize>),
    /// Repeats to a shape, by NumPy's rule: shapes align at the last axis, an extent of 1 repeats, missing axes are 1.
    Broadcast(Vec<usize>),
    /// For each axis `start, start + step, …`, `count` elements; all within the operand. Steps are at least 1.
    Slice {
        /// The first element along each axis.
        start: Vec<usize>,
        /// The distance between elements along each axis.
        step: Vec<usize>,
        /// The number of elements along each axis.
        count: Vec<usize>,
    },
    /// Puts `low` elements before, `high` after, and `inner` between neighbours, along each axis, all of value `fill`.
    Pad {
        /// Elements added before the first.
        low: Vec<usize>,
        /// Elements added after the last.
        high: Vec<usize>,
        /// Elements added between each two neighbours.
        inner: Vec<usize>,
        /// A scalar of the operand's type.
        fill: Arc<Tensor>,
    },
    /// Reverses the order along some axes.
    Flip(Vec<usize>),
    /// One operand after the other along an axis; one or more operands.
    Concat(usize),
    /// Sliding windows: each of some axes becomes two, the window's number there, and, appended after all axes in the same order,
    /// the place within the window: `y[.., o, .., t] = x[.., o * stride + t * dilation, ..]`.
    Windows {
        /// The axes slid along, ascending and distinct.
        axes: Vec<usize>,
        /// The window's size along each.
        size: Vec<usize>,
        /// The distance between windows along each.
        stride: Vec<usize>,
        /// The distance between elements of a window along each.
        dilation: Vec<usize>,
    },
}

/// The op of that name, if it is of this class.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let slice = || {
        Ok(View::Slice {
            start: attrs.sizes("start")?,
            step: attrs.sizes("step")?,
            count: attrs.sizes("count")?,
        })
    };
    let pad = || {
        Ok(View::Pad {
            low: attrs.sizes("low")?,
            high: attrs.sizes("high")?,
            inner: attrs.sizes("inner")?,
            fill: attrs.tensor("fill")?,
        })
    };
    let windows = || {
        Ok(View::Windows {
            axes: attrs.sizes("axes")?,
            size: attrs.sizes("size")?,
            stride: attrs.sizes("stride")?,
            dilation: attrs.sizes("dilation")?,
        })
    };
    let view = match name {
        "reshape" => attrs.sizes("").map(View::Reshape),
        "permute" => attrs.sizes("").map(View::Permute),
        "broadcast" => attrs.sizes("").map(View::Broadcast),
        "slice" => slice(),
        "pad" => pad(),
        "flip" => attrs.sizes("").map(View::Flip),
        "concat" => attrs.size("axis").map(View::Concat),
        "windows" => windows(),
        _ => return None,
    };
    Some(view.map(Op::View))
}

impl Rules for View {
    fn name(&self) -> &'static str {
        match self {
            View::Reshape(_) => "reshape",
            View::Permute(_) => "permute",
            View::Broadcast(_) => "broadcast",
            View::Slice { .. } => "slice",
            View::Pad { .. } => "pad",
            View::Flip(_) => "flip",
            View::Concat(_) => "concat",
            View::Windows { .. } => "windows",
        }
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        match self {
            View::Reshape(values) | View::Permute(values) | View::Broadcast(values) | View::Flip(values) => {
                vec![("", Attr::sizes(values))]
            }
            View::Slice { start, step, count } => vec![
                ("start", Attr::sizes(start)),
                ("step", Attr::sizes(step)),
                ("count", Attr::sizes(count)),
            ],
            View::Pad { low, high, inner, fill } => vec![
                ("low", Attr::sizes(low)),
                ("high", Attr::sizes(high)),
                ("inner", Attr::sizes(inner)),
                ("fill", Attr::Tensor(fill.clone())),
            ],
            View::Concat(axis) => vec![("axis", Attr::size(*axis))],
            View::Windows {
                axes,
                size,
                stride,
                dilation,
            } => vec![
                ("axes", Attr::sizes(axes)),
                ("size", Attr::sizes(size)),
                ("stride", Attr::sizes(stride)),
                ("dilation", Attr::sizes(dilation)),
            ],
        }
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let (dtype, shape) = match self {
            View::Concat(axis) => concat_shape(args, *axis)?,
            _ => {
                let [x] = operands(args)?;
                (x.dtype, self.shape_of(x)?)
            }
        };
        let ty = Type::new(dtype, shape);
        ty.check()?;
        Ok(vec![ty])
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let types: Vec<Type> = args.iter().map(|arg| arg.ty()).collect();
        let types: Vec<&Type> = types.iter().collect();
        let results = self
            .infer(&types)
            .expect("operands that fit, as the graph was inferred");
        let Type { dtype, shape, .. } = results.into_iter().next().expect("a view has one result");
        let element = |index: &[usize]| match (self, self.source(index, args, &shape)) {
            (_, Some((arg, index))) => args[arg].at(&index),
            (View::Pad { fill, .. }, None) => fill.get(0),
            (_, None) => unreachable!("only padding has elements of its own"),
        };
        vec![Tensor::from_fn(dtype, shape.clone(), element)]
    }

    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        let (x, seed) = (vjp.args[0], vjp.seed);
        if !x.dtype().is_float() {
            return vec![None; vjp.args.len()];
        }
        let shape = x.shape();
        let grad = match self {
            View::Reshape(_) => seed.reshape(shape),
            View::Permute(order) => seed.permute(inverse(order)),
            View::Broadcast(to) => {
                let missing = to.len() - shape.len();
                let repeated = |&axis: &usize| axis < missing || (shape[axis - missing] == 1 && to[axis] != 1);
                let axes: Vec<usize> = (0..to.len()).filter(repeated).collect();
                seed.sum(axes).reshape(shape)
            }
            View::Slice { start, step, .. } => seed.unslice(start, step, &shape),
            View::Pad { low, inner, .. } => {
                let step: Vec<usize> = inner.iter().map(|inner| inner + 1).collect();
                // Along an axis without elements the padding alone is left, and the slice may start anywhere within.
                seed.slice_steps(low.clone(), step, shape)
            }
            View::Flip(axes) => seed.flip(axes.clone()),
            View::Windows { .. } => self.sum_taps(seed, &shape),
            View::Concat(axis) => {
                let mut from = 0;
                let part = |arg: &Val<'g>| {
                    let extent = arg.shape()[*axis];
                    from += extent;
                    Some(seed.slice(*axis, from - extent, from))
                };
                return vjp.args.iter().map(part).collect();
            }
        };
        vec![Some(grad)]
    }

    fn kernel(&self, cx: &mut KernelCx<'_>) -> Option<ExprId> {
        let out: Vec<X<'_>> = cx.index().iter().map(|&id| cx.x(id)).collect();
        if cx.out_type().count() == 0 {
            let dtype = cx.out_type().dtype;
            return Some(cx.constant(dtype, Scalar::zero(dtype)).id());
        }
        let from = cx.arg_type(0).shape.clone();
        let index = match self {
            View::Reshape(to) => reshape_index(cx, &from, to, &out),
            View::Permute(order) => inverse(order).into_iter().map(|axis| out[axis]).collect(),
            View::Broadcast(to) => {
                let aligned = from.iter().zip(&out[to.len() - from.len()..]);
                aligned
                    .map(|(&extent, &at)| if extent == 1 { cx.int(0) } else { at })
                    .collect()
            }
            View::Slice { start, step, .. } => {
                let along = |axis: usize| plus(cx, times(cx, out[axis], step[axis]), start[axis]);
                (0..from.len()).map(along).collect()
            }
            View::Flip(axes) => {
                let along = |axis: usize| match axes.contains(&axis) {
                    true => cx.int(from[axis] as i64 - 1) - out[axis],
                    false => out[axis],
                };
                (0..from.len()).map(along).collect()
            }
            View::Windows {
                axes, stride, dilation, ..
            } => {
                let mut index = out[..from.len()].to_vec();
                for (place, &axis) in axes.iter().enumerate() {
                    let tap = times(cx, out[from.len() + place], dilation[place]);
                    index[axis] = times(cx, out[axis], stride[place]) + tap;
                }
                index
            }
            View::Pad { low, high, inner, fill } => return Some(pad_kernel(cx, [low, high, inner], fill, &out)),
            View::Concat(axis) => return Some(concat_kernel(cx, *axis, &out)),
        };
        Some(cx.arg(0, index.into_iter().map(X::id).collect()))
    }
}

impl View {
    /// The shape that a view of one operand gives.
    fn shape_of(&self, x: &Type) -> Result<Vec<usize>, String> {
        let rank = x.rank();
        match self {
            View::Reshape(to) => {
                let ty = Type::new(x.dtype, to.clone());
                ty.check()?;
                match ty.count() == x.count() {
                    true => Ok(to.clone()),
                    false => Err(format!(
                        "{x} has {} elements, {} has {}",
                        x.count(),
                        Shape(to),
                        ty.count()
                    )),
                }
            }
            View::Permute(order) => {
                let mut sorted = order.clone();
                sorted.sort_unstable();
                match sorted.into_iter().eq(0..rank) {
                    true => Ok(order.iter().map(|&axis| x.shape[axis]).collect()),
                    false => Err(format!(
                        "the order must name each of the {rank} axes once, found {}",
                        Shape(order)
                    )),
                }
            }
            View::Broadcast(to) => {
                let aligned = to.iter().rev().zip(x.shape.iter().rev());
                let fits = to.len() >= rank && aligned.into_iter().all(|(&to, &from)| from == to || from == 1);
                match fits {
                    true => Ok(to.clone()),
                    false => Err(format!(
                        "{x} does not repeat to {}: each extent must be 1 or equal",
                        Shape(to)
                    )),
                }
            }
            View::Slice { start, step, count } => {
                for (name, values) in [("start", start), ("step", step), ("count", count)] {
                    check_len(name, values, rank)?;
                }
                for axis in 0..rank {
                    let (start, step, count) = (start[axis], step[axis], count[axis]);
                    if step == 0 {
                        return Err(format!("the step along axis {axis} must be at least 1"));
                    }
                    let extent = x.shape[axis];
                    if start > extent {
                        return Err(format!("starts at {start} of axis {axis}, which has {extent}"));
                    }
                    let last = start.saturating_add(count.saturating_sub(1).saturating_mul(step));
                    if count > 0 && last >= extent {
                        return Err(format!(
                            "takes elements {start} to {last} of axis {axis}, which has {extent}"
                        ));
                    }
                }
                Ok(count.clone())
            }
            View::Pad { low, high, inner, fill } => {
                for (name, values) in [("low", low), ("high", high), ("inner", inner)] {
                    check_len(name, values, rank)?;
                }
                if fill.ty() != Type::new(x.dtype, []) {
                    return Err(format!("the fill must be {}[], found {}", x.dtype, fill.ty()));
                }
                let along = |axis: usize| {
                    let gaps = x.shape[axis].saturating_sub(1).saturating_mul(inner[axis]);
                    let inside = x.shape[axis].saturating_add(gaps);
                    inside.saturating_add(low[axis]).saturating_add(high[axis])
                };
                Ok((0..rank).map(along).collect())
            }
            View::Flip(axes) => {
                check_axes(x, axes)?;
                Ok(x.shape.clone())
            }
            View::Windows {
                axes,
                size,
                stride,
                dilation,
            } => {
                check_axes(x, axes)?;
                let mut shape = x.shape.clone();
                for (name, values) in [("size", size), ("stride", stride), ("dilation", dilation)] {
                    check_len(name, values, axes.len())?;
                    if values.contains(&0) {
                        return Err(format!("`{name}` must be at least 1, found {}", Shape(values)));
                    }
                }
                for (place, &axis) in axes.iter().enumerate() {
                    let covered = (size[place] - 1).saturating_mul(dilation[place]).saturating_add(1);
                    let Some(room) = x.shape[axis].checked_sub(covered) else {
                        return Err(format!(
                            "a window covers {covered} elements of axis {axis}, which has {}",
                            x.shape[axis]
                        ));
                    };
                    shape[axis] = room / stride[place] + 1;
                }
                shape.extend(size);
                Ok(shape)
            }
            View::Concat(_) => unreachable!("a view of several operands"),
        }
    }

    /// The operand and the index in it of the element at `index` of the result; `None` for padding.
    fn source(&self, index: &[usize], args: &[&Tensor], shape: &[usize]) -> Option<(usize, Vec<usize>)> {
        let from = args[0].shape();
        let source = match self {
            View::Reshape(_) => unravel(from, Layout::Dense.offset(shape, index)),
            View::Permute(order) => inverse(order).into_iter().map(|axis| index[axis]).collect(),
            View::Broadcast(_) => {
                let aligned = from.iter().zip(&index[index.len() - from.len()..]);
                aligned.map(|(&extent, &at)| if extent == 1 { 0 } else { at }).collect()
            }
            View::Slice { start, step, .. } => (0..from.len()).map(|k| start[k] + index[k] * step[k]).collect(),
            View::Pad { low, inner, .. } => {
                let along = |axis: usize| {
                    let after = index[axis].checked_sub(low[axis])?;
                    let (at, gap) = (after / (inner[axis] + 1), after % (inner[axis] + 1));
                    (gap == 0 && at < from[axis]).then_some(at)
                };
                (0..from.len()).map(along).collect::<Option<Vec<usize>>>()?
            }
            View::Flip(axes) => {
                let along = |axis: usize| match axes.contains(&axis) {
                    true => from[axis] - 1 - index[axis],
                    false => index[axis],
                };
                (0..from.len()).map(along).collect()
            }
            View::Concat(axis) => {
                let mut source = index.to_vec();
                for (arg, tensor) in args.iter().enumerate() {
                    match source[*axis].checked_sub(tensor.shape()[*axis]) {
                        Some(rest) => source[*axis] = rest,
                        None => return Some((arg, source)),
                    }
                }
                unreachable!("the index is within the result")
            }
            View::Windows {
                axes, stride, dilation, ..
            } => {
                let (windows, taps) = index.split_at(from.len());
                let mut source = windows.to_vec();
                for (place, &axis) in axes.iter().enumerate() {
                    source[axis] = windows[axis] * stride[place] + taps[place] * dilation[place];
                }
                source
            }
        };
        Some((0, source))
    }

    /// The transpose of windows: each tap's part of the seed, put back where that tap read.
    fn sum_taps<'g>(&self, seed: Val<'g>, shape: &[usize]) -> Val<'g> {
        let View::Windows {
            axes,
            size,
            stride,
            dilation,
        } = self
        else {
            unreachable!("the gradient of windows")
        };
        let rank = shape.len();
        let seed_shape = seed.shape();
        let windows = &seed_shape[..rank];
        let taps = (0..size.iter().product()).map(|tap| unravel(size, tap)).map(|tap| {
            let begin = [vec![0; rank], tap.clone()].concat();
            let count = [windows, &vec![1; size.len()]].concat();
            let part = seed.slice_steps(begin, vec![1; count.len()], count).reshape(windows);
            let (mut start, mut step) = (vec![0; rank], vec![1; rank]);
            for (place, &axis) in axes.iter().enumerate() {
                (start[axis], step[axis]) = (tap[place] * dilation[place], stride[place]);
            }
            part.unslice(&start, &step, shape)
        });
        let sum = taps.reduce(|sum, tap| sum + tap);
        sum.expect("a window has at least one tap")
    }
}

/// The order that undoes a permutation.
pub(crate) fn inverse(order: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; order.len()];
    for (to, &from) in order.iter().enumerate() {
        inverse[from] = to;
    }
    inverse
}

fn concat_shape(args: &[&Type], axis: usize) -> Result<(DType, Vec<usize>), String> {
    let Some((first, rest)) = args.split_first() else {
        return Err("takes one operand at least, found 0".to_owned());
    };
    check_axis(first, axis)?;
    let mut shape = first.shape.clone();
    for other in rest {
        let elsewhere = |ty: &Type| {
            ty.shape
                .iter()
                .enumerate()
                .filter(|(k, _)| *k != axis)
                .map(|(_, n)| *n)
                .collect::<Vec<_>>()
        };
        let fits = other.dtype == first.dtype && other.rank() == first.rank() && elsewhere(other) == elsewhere(first);
        if !fits {
            return Err(format!(
                "operands must agree but along axis {axis}, found {first} and {other}"
            ));
        }
        shape[axis] = shape[axis].saturating_add(other.shape[axis]);
    }
    Ok((first.dtype, shape))
}

fn times<'k>(cx: &KernelCx<'k>, x: X<'k>, by: usize) -> X<'k> {
    if by == 1 { x } else { x * cx.int(by as i64) }
}

fn plus<'k>(cx: &KernelCx<'k>, x: X<'k>, by: usize) -> X<'k> {
    if by == 0 { x } else { x + cx.int(by as i64) }
}

/// The index before a reshape. Runs of axes with equal products are converted each by itself, so that an axis which does not
/// change is used as it is, and a split or merge touches only its own axes.
fn reshape_index<'k>(cx: &KernelCx<'k>, from: &[usize], to: &[usize], out: &[X<'k>]) -> Vec<X<'k>> {
    let mut index = vec![cx.int(0); from.len()];
    // Axes of one element stay at index 0 and take no part.
    let mut from_axes = (0..from.len()).filter(|&axis| from[axis] != 1).peekable();
    let mut to_axes = (0..to.len()).filter(|&axis| to[axis] != 1);
    while from_axes.peek().is_some() {
        let (mut froms, mut tos) = (Vec::new(), Vec::new());
        let (mut from_count, mut to_count) = (1, 1);
        while froms.is_empty() || from_count != to_count {
            if from_count <= to_count {
                let axis = from_axes.next().expect("the shapes have equal counts");
                from_count *= from[axis];
                froms.push(axis);
            } else {
                let axis = to_axes.next().expect("the shapes have equal counts");
                to_count *= to[axis];
                tos.push(axis);
            }
        }
        let mut flat = out[tos[0]];
        for &axis in &tos[1..] {
            flat = times(cx, flat, to[axis]) + out[axis];
        }
        let mut stride = from_count;
        for (place, &axis) in froms.iter().enumerate() {
            stride /= from[axis];
            let above = if stride == 1 {
                flat
            } else {
                flat / cx.int(stride as i64)
            };
            // Nothing of the run lies above its first axis.
            index[axis] = if place == 0 {
                above
            } else {
                above.rem(cx.int(from[axis] as i64))
            };
        }
    }
    index
}

fn pad_kernel(cx: &mut KernelCx<'_>, [low, high, inner]: [&[usize]; 3], fill: &Tensor, out: &[X<'_>]) -> ExprId {
    let from = cx.arg_type(0).shape.clone();
    let fill_x = cx.constant(fill.dtype(), fill.get(0));
    if from.contains(&0) {
        return fill_x.id();
    }
    let zero_fill = fill.get(0).to_bits(fill.dtype()) == 0;
    let mut index = Vec::new();
    let mut within: Vec<X<'_>> = Vec::new();
    for (axis, &at) in out.iter().enumerate() {
        let after = if low[axis] == 0 {
            at
        } else {
            at - cx.int(low[axis] as i64)
        };
        let step = cx.int(inner[axis] as i64 + 1);
        if inner[axis] == 0 {
            index.push(after.id());
        } else {
            // Before the first element the remainder is negative or the quotient is; either way this is outside.
            within.push(after.rem(step).eq(cx.int(0)));
            index.push((after / step).id());
        }
        // A read outside gives zero by itself; another fill must know where outside is.
        if !zero_fill && low[axis] > 0 {
            within.push(cx.int(0).le(after));
        }
        if !zero_fill && high[axis] > 0 {
            let end = low[axis] + (from[axis] - 1) * (inner[axis] + 1);
            within.push(at.le(cx.int(end as i64)));
        }
    }
    let padded = low.iter().chain(high).any(|&count| count > 0);
    let value = match padded {
        true => cx.arg_or_zero(0, index),
        false => cx.arg(0, index),
    };
    match within.into_iter().reduce(|a, b| a.and(b)) {
        Some(within) => within.select(cx.x(value), fill_x).id(),
        None => value,
    }
}

fn concat_kernel(cx: &mut KernelCx<'_>, axis: usize, out: &[X<'_>]) -> ExprId {
    let mut parts = Vec::new();
    let mut begin = 0;
    for arg in 0..cx.arg_count() {
        let extent = cx.arg_type(arg).shape[axis];
        if extent > 0 {
            parts.push((arg, begin));
        }
        begin += extent;
    }
    let mut index: Vec<ExprId> = out.iter().map(|x| x.id()).collect();
    if let [(arg, _)] = parts[..] {
        return cx.arg(arg, index);
    }
    let mut later: Option<(X<'_>, usize)> = None;
    for (arg, begin) in parts.into_iter().rev() {
        let here = if begin == 0 {
            out[axis]
        } else {
            out[axis] - cx.int(begin as i64)
        };
        index[axis] = here.id();
        let value = cx.arg_or_zero(arg, index.clone());
        let value = cx.x(value);
        let chosen = match later {
            Some((rest, end)) => out[axis].lt(cx.int(end as i64)).select(value, rest),
            None => value,
        };
        later = Some((chosen, begin));
    }
    let (value, _) = later.expect("a result with elements has an operand with elements");
    value.id()
}

/// Values to be added up, where those that are zeros around parts which make up a whole along an axis have become the parts side by side.
pub(crate) fn joined<'g>(values: &[Val<'g>]) -> Vec<Val<'g>> {
    let mut parts: Vec<Part<'g>> = values.iter().filter_map(|&value| padded_part(value)).collect();
    parts.sort_by_key(|part| part.start);
    let Some(first) = parts.first().filter(|_| parts.len() > 1) else {
        return values.to_vec();
    };
    let (axis, extent) = (first.axis, first.whole.shape()[first.axis]);
    let mut end = 0;
    for part in &parts {
        if part.axis != axis || part.start != end {
            return values.to_vec();
        }
        end += part.inner.shape()[axis];
    }
    if end != extent {
        return values.to_vec();
    }
    let inner: Vec<Val<'g>> = parts.iter().map(|part| part.inner).collect();
    let is_part = |value: &&Val<'g>| parts.iter().any(|part| part.whole.id() == value.id());
    let others = values.iter().filter(|value| !is_part(value)).copied();
    std::iter::once(Val::concat(&inner, axis)).chain(others).collect()
}

/// A value that is zero but for a part.
struct Part<'g> {
    whole: Val<'g>,
    axis: usize,
    start: usize,
    inner: Val<'g>,
}

fn padded_part(whole: Val<'_>) -> Option<Part<'_>> {
    if whole.is_poison() {
        return None;
    }
    let node = whole.builder().node(whole.id());
    let Op::View(View::Pad { low, high, inner, fill }) = &node.op else {
        return None;
    };
    let mut axes = (0..low.len()).filter(|&axis| low[axis] + high[axis] > 0);
    let (axis, others) = (axes.next()?, axes.next());
    let is_part = others.is_none() && inner.iter().all(|&gap| gap == 0) && !fill.get(0).is_nonzero();
    is_part.then(|| Part {
        whole,
        axis,
        start: low[axis],
        inner: whole.builder().val(node.args[0]),
    })
}

impl<'g> Val<'g> {
    #[track_caller]
    fn view(self, view: View) -> Val<'g> {
        self.builder().push(Op::View(view), &[self])
    }

    /// Swaps the last two axes.
    #[track_caller]
    pub fn transpose(self) -> Val<'g> {
        let rank = self.rank();
        if rank < 2 && !self.is_poison() {
            return self
                .builder()
                .problem(format!("transpose: {self} has fewer than two axes"));
        }
        let mut order: Vec<usize> = (0..rank).collect();
        order.reverse();
        order.rotate_left(2.min(rank));
        order[..rank.saturating_sub(2)].sort_unstable();
        self.permute(order)
    }

    /// The elements `start..end` along one axis.
    #[track_caller]
    pub fn slice(self, axis: usize, start: usize, end: usize) -> Val<'g> {
        let (mut starts, mut count) = (vec![0; self.rank()], self.shape());
        if self.is_poison() {
            return self;
        }
        if axis >= self.rank() || start > end {
            return self
                .builder()
                .problem(format!("slice: {start}..{end} along axis {axis} is not part of {self}"));
        }
        (starts[axis], count[axis]) = (start, end - start);
        let step = vec![1; self.rank()];
        self.slice_steps(starts, step, count)
    }

    /// Along each axis `start, start + step, …`, `count` elements; the value itself if that is all of it.
    #[track_caller]
    pub fn slice_steps(
        self,
        start: impl Into<Vec<usize>>,
        step: impl Into<Vec<usize>>,
        count: impl Into<Vec<usize>>,
    ) -> Val<'g> {
        let (start, mut step, count) = (start.into(), step.into(), count.into());
        if self.is_poison() {
            return self;
        }
        // The step between fewer than two elements says nothing; 1 makes equal slices equal nodes.
        for (step, &count) in step.iter_mut().zip(&count) {
            *step = if count < 2 { 1 } else { *step };
        }
        if count == self.shape() && start.iter().all(|&start| start == 0) && step.iter().all(|&step| step == 1) {
            return self;
        }
        self.view(View::Slice { start, step, count })
    }

    /// The transpose of [`Val::slice_steps`]: the tensor of that shape with these elements there and zeros elsewhere.
    #[track_caller]
    pub fn unslice(self, start: &[usize], step: &[usize], shape: &[usize]) -> Val<'g> {
        let count = self.shape();
        if self.is_poison() || count.contains(&0) {
            return self.builder().full(self.dtype(), shape, 0.0);
        }
        let end = |axis: usize| start[axis] + (count[axis] - 1) * step[axis] + 1;
        let high: Vec<usize> = (0..shape.len()).map(|axis| shape[axis] - end(axis)).collect();
        let inner: Vec<usize> = (0..shape.len())
            .map(|axis| if count[axis] < 2 { 0 } else { step[axis] - 1 })
            .collect();
        self.pad_inner(start, high, inner, 0.0)
    }

    /// Puts `low` elements before and `high` after, along each axis, all equal to `fill`.
    #[track_caller]
    pub fn pad(self, low: impl Into<Vec<usize>>, high: impl Into<Vec<usize>>, fill: f64) -> Val<'g> {
        let inner = vec![0; self.rank()];
        self.pad_inner(low, high, inner, fill)
    }

    /// As [`Val::pad`], with `inner` more between each two neighbours; the value itself if nothing is added.
    #[track_caller]
    pub fn pad_inner(
        self,
        low: impl Into<Vec<usize>>,
        high: impl Into<Vec<usize>>,
        inner: impl Into<Vec<usize>>,
        fill: f64,
    ) -> Val<'g> {
        let (low, high, inner) = (low.into(), high.into(), inner.into());
        if self.is_poison() || [&low, &high, &inner].into_iter().flatten().all(|&count| count == 0) {
            return self;
        }
        let fill = Tensor::scalar(self.dtype(), Scalar::from_f64(fill, self.dtype()));
        self.view(View::Pad {
            low,
            high,
            inner,
            fill: Arc::new(fill),
        })
    }

    /// Reverses the order along axes.
    #[track_caller]
    pub fn flip(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        let mut axes = axes.into();
        axes.sort_unstable();
        if self.is_poison() || axes.is_empty() {
            return self;
        }
        self.view(View::Flip(axes))
    }

    /// These values one after the other along `axis`.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn concat(parts: &[Val<'g>], axis: usize) -> Val<'g> {
        match parts {
            [] => panic!("concat of no values"),
            [one] => *one,
            _ => parts[0].builder().push(Op::View(View::Concat(axis)), parts),
        }
    }

    /// These values of one shape along a new axis.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn stack(parts: &[Val<'g>], axis: usize) -> Val<'g> {
        let parts: Vec<Val<'g>> = parts.iter().map(|part| part.unsqueeze([axis])).collect();
        Val::concat(&parts, axis)
    }

    /// Parts of these extents, one after the other along `axis`.
    #[track_caller]
    pub fn split(self, axis: usize, extents: &[usize]) -> Vec<Val<'g>> {
        let found = self.shape().get(axis).copied();
        if !self.is_poison() && found != Some(extents.iter().sum()) {
            let message = format!("split: {} are not the parts of axis {axis} of {self}", Shape(extents));
            return vec![self.builder().problem(message); extents.len()];
        }
        let mut end = 0;
        let part = |&extent: &usize| {
            end += extent;
            self.slice(axis, end - extent, end)
        };
        extents.iter().map(part).collect()
    }

    /// Sliding windows along `axes`: each axis counts windows, and a new last axis for each is the place within the window.
    #[track_caller]
    pub fn windows(self, axes: &[usize], size: &[usize], stride: &[usize], dilation: &[usize]) -> Val<'g> {
        if self.is_poison() {
            return self;
        }
        self.view(View::Windows {
            axes: axes.to_vec(),
            size: size.to_vec(),
            stride: stride.to_vec(),
            dilation: dilation.to_vec(),
        })
    }

    /// Removes axes of one element.
    #[track_caller]
    pub fn squeeze(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        let (axes, shape) = (axes.into(), self.shape());
        if self.is_poison() {
            return self;
        }
        if let Some(axis) = axes.iter().find(|&&axis| shape.get(axis) != Some(&1)) {
            return self
                .builder()
                .problem(format!("squeeze: axis {axis} of {self} has not one element"));
        }
        let kept = (0..shape.len()).filter(|axis| !axes.contains(axis));
        self.reshape(kept.map(|axis| shape[axis]).collect::<Vec<usize>>())
    }

    /// Adds axes of one element; `axes` are their places in the result.
    #[track_caller]
    pub fn unsqueeze(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        let (mut axes, mut shape) = (axes.into(), self.shape());
        if self.is_poison() {
            return self;
        }
        axes.sort_unstable();
        for axis in axes {
            if axis > shape.len() {
                return self
                    .builder()
                    .problem(format!("unsqueeze: there is no place {axis} for an axis of {self}"));
            }
            shape.insert(axis, 1);
        }
        self.reshape(shape)
    }

    /// Puts back axes that a fold has removed from `shape`, repeating along them.
    #[track_caller]
    pub fn spread(self, axes: &[usize], shape: &[usize]) -> Val<'g> {
        self.unsqueeze(axes).broadcast(shape)
    }

    /// Each element is the one `by` places later along `axis`; zeros follow the last.
    #[track_caller]
    pub fn earlier(self, axis: usize, by: usize) -> Val<'g> {
        let shape = self.shape();
        if self.is_poison() || axis >= shape.len() {
            return self;
        }
        let by = by.min(shape[axis]);
        let mut high = vec![0; shape.len()];
        high[axis] = by;
        self.slice(axis, by, shape[axis]).pad(vec![0; shape.len()], high, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::check::{check_gradients, sample};
    use crate::ops::{assert_round_trip, infer_error};

    /// `0, 1, 2, …` in a shape.
    fn counted(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>() as i64;
        Tensor::from_i64(shape, &(0..count).collect::<Vec<i64>>())
    }

    fn pad(low: &[usize], high: &[usize], inner: &[usize], fill: i64) -> View {
        let fill = Arc::new(Tensor::from_i64([], &[fill]));
        View::Pad {
            low: low.to_vec(),
            high: high.to_vec(),
            inner: inner.to_vec(),
            fill,
        }
    }

    fn slice(start: &[usize], step: &[usize], count: &[usize]) -> View {
        View::Slice {
            start: start.to_vec(),
            step: step.to_vec(),
            count: count.to_vec(),
        }
    }

    fn windows(axes: &[usize], size: &[usize], stride: &[usize], dilation: &[usize]) -> View {
        View::Windows {
            axes: axes.to_vec(),
            size: size.to_vec(),
            stride: stride.to_vec(),
            dilation: dilation.to_vec(),
        }
    }

    #[test]
    fn views_by_hand() {
        let (scalar, six, empty) = (counted(&[]), counted(&[2, 3]), counted(&[0, 3]));
        for (view, args, shape, expected) in [
            (
                View::Reshape(vec![3, 2]),
                vec![&six],
                &[3, 2][..],
                vec![0, 1, 2, 3, 4, 5],
            ),
            (View::Reshape(vec![1, 1]), vec![&scalar], &[1, 1], vec![0]),
            (View::Reshape(vec![5, 0]), vec![&empty], &[5, 0], vec![]),
            (View::Permute(vec![1, 0]), vec![&six], &[3, 2], vec![0, 3, 1, 4, 2, 5]),
            (View::Permute(vec![]), vec![&scalar], &[], vec![0]),
            (View::Broadcast(vec![2, 2]), vec![&scalar], &[2, 2], vec![0; 4]),
            (View::Broadcast(vec![2, 0, 3]), vec![&empty], &[2, 0, 3], vec![]),
            (
                View::Broadcast(vec![2, 2, 3]),
                vec![&six],
                &[2, 2, 3],
                vec![0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5],
            ),
            (slice(&[0, 1], &[1, 1], &[2, 2]), vec![&six], &[2, 2], vec![1, 2, 4, 5]),
            (slice(&[1, 0], &[1, 2], &[1, 2]), vec![&six], &[1, 2], vec![3, 5]),
            (slice(&[2, 0], &[1, 1], &[0, 3]), vec![&six], &[0, 3], vec![]),
            (
                pad(&[1], &[2], &[1], 9),
                vec![&counted(&[3])],
                &[8],
                vec![9, 0, 9, 1, 9, 2, 9, 9],
            ),
            (pad(&[1, 0], &[1, 0], &[0, 0], 7), vec![&empty], &[2, 3], vec![7; 6]),
            (pad(&[], &[], &[], 7), vec![&scalar], &[], vec![0]),
            (View::Flip(vec![1]), vec![&six], &[2, 3], vec![2, 1, 0, 5, 4, 3]),
            (View::Flip(vec![0, 1]), vec![&six], &[2, 3], vec![5, 4, 3, 2, 1, 0]),
            (
                View::Concat(0),
                vec![&empty, &six, &empty],
                &[2, 3],
                vec![0, 1, 2, 3, 4, 5],
            ),
            (
                View::Concat(1),
                vec![&six, &counted(&[2, 1])],
                &[2, 4],
                vec![0, 1, 2, 0, 3, 4, 5, 1],
            ),
            (
                windows(&[0], &[3], &[2], &[1]),
                vec![&counted(&[6])],
                &[2, 3],
                vec![0, 1, 2, 2, 3, 4],
            ),
            (
                windows(&[0], &[2], &[1], &[3]),
                vec![&counted(&[5])],
                &[2, 2],
                vec![0, 3, 1, 4],
            ),
            (
                windows(&[1], &[2], &[1], &[1]),
                vec![&six],
                &[2, 2, 2],
                vec![0, 1, 1, 2, 3, 4, 4, 5],
            ),
        ] {
            let result = view.eval(&args).remove(0);
            assert_eq!(result.shape(), shape, "{view:?}");
            assert_eq!(result.to_i64(), expected, "{view:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let (six, three) = (Type::new(DType::I64, [2, 3]), Type::new(DType::I64, [3]));
        let huge = usize::MAX;
        let float_fill = View::Pad {
            low: vec![0],
            high: vec![1],
            inner: vec![0],
            fill: Arc::new(Tensor::from_f32([], &[0.0])),
        };
        for (view, args, expected) in [
            (View::Reshape(vec![4]), vec![&six], "i64[2,3] has 6 elements, [4] has 4"),
            (
                View::Permute(vec![0, 0]),
                vec![&six],
                "the order must name each of the 2 axes once, found [0,0]",
            ),
            (
                View::Permute(vec![0]),
                vec![&six],
                "the order must name each of the 2 axes once, found [0]",
            ),
            (
                View::Broadcast(vec![2, 4]),
                vec![&six],
                "i64[2,3] does not repeat to [2,4]: each extent must be 1 or equal",
            ),
            (
                View::Broadcast(vec![3]),
                vec![&six],
                "i64[2,3] does not repeat to [3]: each extent must be 1 or equal",
            ),
            (
                slice(&[0], &[1], &[1]),
                vec![&six],
                "`start` must have 2 values, one an axis, found [0]",
            ),
            (
                slice(&[1], &[2], &[2]),
                vec![&three],
                "takes elements 1 to 3 of axis 0, which has 3",
            ),
            (
                slice(&[0], &[0], &[2]),
                vec![&three],
                "the step along axis 0 must be at least 1",
            ),
            (
                slice(&[4], &[1], &[0]),
                vec![&three],
                "starts at 4 of axis 0, which has 3",
            ),
            (
                pad(&[0], &[0], &[0], 0),
                vec![&six],
                "`low` must have 2 values, one an axis, found [0]",
            ),
            (float_fill, vec![&three], "the fill must be i64[], found f32[]"),
            (
                pad(&[huge], &[huge], &[huge], 0),
                vec![&three],
                "the extent 18446744073709551615 exceeds 2^31",
            ),
            (
                View::Flip(vec![1, 0]),
                vec![&six],
                "axes must be ascending and distinct, found [1,0]",
            ),
            (View::Concat(0), vec![], "takes one operand at least, found 0"),
            (
                View::Concat(1),
                vec![&three],
                "there is no axis 1 in i64[3], which has 1 axis",
            ),
            (
                View::Concat(0),
                vec![&three, &six],
                "operands must agree but along axis 0, found i64[3] and i64[2,3]",
            ),
            (
                windows(&[0], &[3], &[1], &[2]),
                vec![&three],
                "a window covers 5 elements of axis 0, which has 3",
            ),
            (
                windows(&[0], &[0], &[1], &[1]),
                vec![&three],
                "`size` must be at least 1, found [0]",
            ),
            (
                windows(&[0], &[huge], &[1], &[huge]),
                vec![&three],
                "a window covers 18446744073709551615 elements of axis 0, which has 3",
            ),
        ] {
            assert_eq!(infer_error(&Op::View(view), &args), expected);
        }
    }

    #[test]
    fn gradients() {
        let x = [sample(&[2, 3, 4])];
        let fill = Arc::new(Tensor::scalar(DType::F64, Scalar::Float(1.5)));
        let views = [
            View::Reshape(vec![4, 6]),
            View::Permute(vec![2, 0, 1]),
            View::Broadcast(vec![3, 2, 3, 4]),
            slice(&[0, 1, 0], &[1, 1, 3], &[1, 2, 2]),
            slice(&[0, 3, 0], &[1, 1, 1], &[1, 0, 2]),
            View::Pad {
                low: vec![1, 0, 2],
                high: vec![0, 2, 1],
                inner: vec![0, 2, 1],
                fill,
            },
            View::Flip(vec![0, 2]),
            windows(&[1, 2], &[2, 2], &[1, 1], &[1, 2]),
            windows(&[2], &[2], &[2], &[1]),
        ];
        for view in views {
            check_gradients(&format!("{view:?}"), &x, |x| {
                let y = x[0].view(view.clone());
                y * y
            });
        }
        let row = [sample(&[1, 3])];
        check_gradients("broadcast of a row", &row, |x| {
            let y = x[0].broadcast([2, 3]);
            y * y * y
        });
        let parts = [sample(&[2, 1]), sample(&[2, 3]), sample(&[2, 0])];
        check_gradients("concat", &parts, |x| {
            let y = Val::concat(x, 1);
            y * y
        });
    }

    #[test]
    fn builders_give_the_shapes_they_say() {
        let b = crate::Builder::new();
        let x = b.input("x", DType::F32, [2, 3, 4]);
        for (val, shape) in [
            (x.transpose(), &[2, 4, 3][..]),
            (x.slice(1, 1, 3), &[2, 2, 4]),
            (x.unsqueeze([0, 2]), &[1, 2, 1, 3, 4]),
            (x.unsqueeze([3]).squeeze([3]), &[2, 3, 4]),
            (Val::stack(&[x, x], 1), &[2, 2, 3, 4]),
            (x.split(2, &[1, 3])[1], &[2, 3, 3]),
            (x.sum([0, 2]).spread(&[0, 2], &[2, 3, 4]), &[2, 3, 4]),
            (x.earlier(2, 3), &[2, 3, 4]),
            (x.earlier(2, 9), &[2, 3, 4]),
        ] {
            assert_eq!(val.shape(), shape);
        }
        assert_eq!(x.transpose().id(), x.permute([0, 2, 1]).id());
        assert!(b.problems().is_empty());
        for wrong in [
            x.sum([0, 1]).transpose(),
            x.slice(3, 0, 1),
            x.squeeze([0]),
            x.split(0, &[1])[0],
        ] {
            assert!(wrong.is_poison());
        }
        assert_eq!(b.problems().len(), 4);
    }

    #[test]
    fn text_attributes_round_trip() {
        for view in [
            View::Reshape(vec![]),
            View::Permute(vec![1, 0]),
            View::Broadcast(vec![2, 0]),
            slice(&[0, 1], &[1, 2], &[3, 4]),
            pad(&[0, 1], &[2, 3], &[0, 4], -1),
            View::Flip(vec![0]),
            View::Concat(2),
            windows(&[0, 1], &[2, 3], &[1, 2], &[1, 1]),
        ] {
            assert_round_trip(Op::View(view));
        }
    }
}
