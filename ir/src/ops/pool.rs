//! Pooling: a reduction over sliding windows of the trailing (spatial) axes.

use std::sync::Arc;

use super::einsum::widened;
use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::{DType, Scalar};
use crate::kernel::build::{KernelCx, X};
use crate::kernel::{AxisId, Combine, ExprId};
use crate::ops::map::{arith, compare};
use crate::ops::{Attr, Attrs, Fold, Op, Rules, View};
use crate::tensor::{Shape, Tensor, Type, unravel};

/// What a pool computes of each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// The greatest element; padding never wins. NaN propagates.
    Max,
    /// The place in the window, in row-major order, of the first greatest element, as `u8`: a window has at most 256 places.
    /// The first NaN counts as greatest. The gradient of `Max` compares with it.
    ArgMax,
    /// The sum; padding counts zero. The average is this divided by a constant.
    Sum,
}

impl PoolKind {
    const ALL: [PoolKind; 3] = [PoolKind::Max, PoolKind::ArgMax, PoolKind::Sum];

    fn name(self) -> &'static str {
        match self {
            PoolKind::Max => "max_pool",
            PoolKind::ArgMax => "argmax_pool",
            PoolKind::Sum => "sum_pool",
        }
    }
}

/// Slides a window along the last `window.size.len()` axes: output `p` covers inputs `p * stride + t * dilation - pad_low`.
///
/// Every window holds at least one element that is not padding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// What is computed.
    pub kind: PoolKind,
    /// What slides.
    pub window: Window,
}

/// A window that slides along spatial axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Its extent along each spatial axis.
    pub size: Vec<usize>,
    /// The distance between windows.
    pub stride: Vec<usize>,
    /// Padding before.
    pub pad_low: Vec<usize>,
    /// Padding after.
    pub pad_high: Vec<usize>,
    /// The distance between elements of a window.
    pub dilation: Vec<usize>,
}

/// Reads `max_pool`, `argmax_pool`, `sum_pool`.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let kind = PoolKind::ALL.into_iter().find(|kind| kind.name() == name)?;
    Some(parse_window(attrs).map(|window| Op::Pool(Pool { kind, window })))
}

fn parse_window(attrs: &Attrs) -> Result<Window, String> {
    Ok(Window {
        size: attrs.sizes("size")?,
        stride: attrs.sizes("stride")?,
        pad_low: attrs.sizes("pad_low")?,
        pad_high: attrs.sizes("pad_high")?,
        dilation: attrs.sizes("dilation")?,
    })
}

impl Window {
    /// Whether windows lie side by side, without padding: no element is in two.
    fn is_tiling(&self) -> bool {
        let is_zero = |values: &[usize]| values.iter().all(|&value| value == 0);
        self.stride == self.size
            && is_zero(&self.pad_low)
            && is_zero(&self.pad_high)
            && self.dilation.iter().all(|&dilation| dilation == 1)
    }

    /// The number of places.
    fn places(&self) -> usize {
        self.size.iter().product()
    }

    /// Windows side by side: the stride is the size.
    pub fn tiling(size: impl Into<Vec<usize>>) -> Window {
        let size = size.into();
        Window {
            stride: size.clone(),
            ..Window::sliding(size)
        }
    }

    /// A window at every place: stride 1, no padding, no dilation.
    pub fn sliding(size: impl Into<Vec<usize>>) -> Window {
        let size = size.into();
        Window {
            stride: vec![1; size.len()],
            pad_low: vec![0; size.len()],
            pad_high: vec![0; size.len()],
            dilation: vec![1; size.len()],
            size,
        }
    }

    /// The number of spatial axes.
    pub fn rank(&self) -> usize {
        self.size.len()
    }

    /// The place that a tap of a window covers, which may be padding.
    fn place(&self, axis: usize, window: usize, tap: usize) -> i64 {
        (window * self.stride[axis] + tap * self.dilation[axis]) as i64 - self.pad_low[axis] as i64
    }

    /// The same, if it is an element of an axis of extent `size`.
    fn element(&self, axis: usize, window: usize, tap: usize, size: usize) -> Option<usize> {
        let place = usize::try_from(self.place(axis, window, tap)).ok()?;
        (place < size).then_some(place)
    }

    /// The row-major position of the element that a tap covers, if it is not padding.
    fn position(&self, window: &[usize], tap: &[usize], sizes: &[usize]) -> Option<usize> {
        (0..self.rank()).try_fold(0, |position, axis| {
            let element = self.element(axis, window[axis], tap[axis], sizes[axis])?;
            Some(position * sizes[axis] + element)
        })
    }

    /// The number of windows along an axis of extent `size`, or what does not fit.
    fn count(&self, axis: usize, size: usize) -> Result<usize, String> {
        let padded = self.pad_low[axis] + size + self.pad_high[axis];
        let span = (self.size[axis] - 1) * self.dilation[axis] + 1;
        if padded < span {
            return Err(format!(
                "along spatial axis {axis} the window spans {span}, more than the padded input's {padded}"
            ));
        }
        let count = (padded - span) / self.stride[axis] + 1;
        let is_padding =
            |window: &usize| (0..self.size[axis]).all(|tap| self.element(axis, *window, tap, size).is_none());
        match (0..count).find(is_padding) {
            Some(window) => Err(format!("along spatial axis {axis} window {window} holds padding only")),
            None => Ok(count),
        }
    }

    /// How many elements each window holds that are not padding, as f64 scalars over the windows of `sizes`.
    fn element_counts(&self, dtype: DType, sizes: &[usize], counts: &[usize]) -> Tensor {
        let held = |axis: usize, window: usize| {
            let taps = 0..self.size[axis];
            taps.filter(|&tap| self.element(axis, window, tap, sizes[axis]).is_some())
                .count()
        };
        let elements = (0..counts.iter().product()).map(|position| {
            let window = unravel(counts, position);
            let product: usize = (0..self.rank()).map(|axis| held(axis, window[axis])).product();
            Scalar::Float(product as f64)
        });
        let elements: Vec<Scalar> = elements.collect();
        Tensor::from_scalars(dtype, counts, elements)
    }
}

impl Rules for Pool {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        let window = &self.window;
        vec![
            ("size", Attr::sizes(&window.size)),
            ("stride", Attr::sizes(&window.stride)),
            ("pad_low", Attr::sizes(&window.pad_low)),
            ("pad_high", Attr::sizes(&window.pad_high)),
            ("dilation", Attr::sizes(&window.dilation)),
        ]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [input] = args else {
            return Err(format!("takes one operand, found {}", args.len()));
        };
        let (window, rank) = (&self.window, self.window.rank());
        for (name, values) in [
            ("stride", &window.stride),
            ("pad_low", &window.pad_low),
            ("pad_high", &window.pad_high),
            ("dilation", &window.dilation),
        ] {
            if values.len() != rank {
                return Err(format!(
                    "`size` is for {rank} spatial axes, `{name}` for {}",
                    values.len()
                ));
            }
        }
        for (name, values) in [
            ("size", &window.size),
            ("stride", &window.stride),
            ("dilation", &window.dilation),
        ] {
            if values.contains(&0) {
                return Err(format!("`{name}` must be at least 1 along each axis"));
            }
        }
        if input.dtype == DType::Bool {
            return Err("takes numbers, found bool".to_owned());
        }
        if input.rank() < rank {
            return Err(format!("the window has {rank} axes, more than {input}"));
        }
        let places: usize = window.size.iter().product();
        if self.kind == PoolKind::ArgMax && places > 256 {
            return Err(format!("a window of {places} places is too large: `u8` counts 256"));
        }
        let first = input.rank() - rank;
        let mut shape = input.shape.clone();
        for axis in 0..rank {
            shape[first + axis] = window.count(axis, input.shape[first + axis])?;
        }
        let dtype = match self.kind {
            PoolKind::ArgMax => DType::U8,
            PoolKind::Max | PoolKind::Sum => input.dtype,
        };
        Ok(vec![Type::new(dtype, shape)])
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let input = args[0];
        let ty = self
            .infer(&[&input.ty()])
            .expect("an operand that fits, as the graph was inferred")
            .remove(0);
        let window = &self.window;
        let first = ty.rank() - window.rank();
        let sizes = &input.shape()[first..];
        let (tap_count, size_count) = (window.size.iter().product::<usize>(), sizes.iter().product::<usize>());
        let elements: Vec<Scalar> = (0..ty.count())
            .map(|position| {
                let index = unravel(&ty.shape, position);
                let outer = index[..first]
                    .iter()
                    .zip(&ty.shape)
                    .fold(0, |outer, (at, extent)| outer * extent + at);
                let covered = (0..tap_count).filter_map(|tap| {
                    let element = window.position(&index[first..], &unravel(&window.size, tap), sizes)?;
                    Some((tap, input.get(outer * size_count + element)))
                });
                match self.kind {
                    PoolKind::Max => greatest(covered).1,
                    PoolKind::ArgMax => Scalar::Int(greatest(covered).0 as i128),
                    PoolKind::Sum => covered.fold(Scalar::zero(ty.dtype), |sum, (_, element)| match (sum, element) {
                        (Scalar::Float(sum), Scalar::Float(element)) => Scalar::Float(sum + element),
                        _ => Scalar::Int(sum.as_i128().wrapping_add(element.as_i128())),
                    }),
                }
            })
            .collect();
        vec![Tensor::from_scalars(ty.dtype, ty.shape, elements)]
    }

    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        let shape = vjp.args[0].shape();
        vec![match self.kind {
            PoolKind::Max => Some(self.grad_max(vjp, &shape)),
            PoolKind::ArgMax => None,
            PoolKind::Sum => Some(self.grad_sum(vjp.seed, &shape)),
        }]
    }

    fn kernel(&self, cx: &mut KernelCx<'_>) -> Option<ExprId> {
        let dtype = cx.out_type().dtype;
        if self.is_small() {
            return Some(self.kernel_small(cx).cast(dtype).id());
        }
        let value = match self.kind {
            PoolKind::Sum => {
                let (taps, tap) = self.any_tap(cx);
                let sum = cx.fold(Combine::Sum, taps, tap.value.id());
                cx.x(sum)
            }
            PoolKind::Max => self.kernel_max(cx),
            PoolKind::ArgMax => {
                let greatest = self.kernel_max(cx);
                let (taps, tap) = self.any_tap(cx);
                let equal = tap.value.eq(greatest);
                let is_greatest = if tap.value.dtype().is_float() {
                    equal.or(tap.value.is_nan())
                } else {
                    equal
                };
                let wins = tap
                    .on_element
                    .map_or(is_greatest, |on_element| on_element.and(is_greatest));
                // 256 is beyond every place, and some place always wins. Vectors have 32-bit integers.
                let place = wins.select(tap.number.cast(DType::I32), cx.int(256).cast(DType::I32));
                let first = cx.fold(Combine::Min, taps, place.id());
                cx.x(first)
            }
        };
        Some(value.cast(dtype).id())
    }
}

/// What one tap of the window at hand covers, in a kernel.
struct Tap<'a> {
    /// The tap's place in the window, in row-major order.
    number: X<'a>,
    /// The element, or zero in the padding; halves as `f32`.
    value: X<'a>,
    /// Whether it is an element; `None` if it is one for certain.
    on_element: Option<X<'a>>,
}

/// The most places of a window whose taps stand one by one in the kernel; of larger ones they are a loop.
const MOST_UNROLLED: usize = 9;

impl Pool {
    /// Whether the taps of a window stand one by one in the kernel, as do the operands of an elementwise function.
    pub(crate) fn is_small(&self) -> bool {
        self.window.places() <= MOST_UNROLLED
    }

    /// The gradient of a maximum: the seed of each window goes to the element that won it.
    fn grad_max<'g>(&self, vjp: &Vjp<'_, 'g>, shape: &[usize]) -> Val<'g> {
        let window = &self.window;
        let places = window.places();
        if places > 256 {
            return vjp.to.problem(format!(
                "max_pool: a window of {places} places has no gradient, the most is 256; pool in two steps"
            ));
        }
        let argmax = Pool {
            kind: PoolKind::ArgMax,
            window: window.clone(),
        };
        let winner = vjp.to.push(Op::Pool(argmax), &[vjp.args[0]]);
        let first = shape.len() - window.rank();
        if window.is_tiling() {
            return self.grad_max_tiling(vjp.seed, winner, shape);
        }
        // Each tap hands the seeds of the windows that it won back to the elements it covers.
        let shares = (0..places).filter_map(|place| {
            let tap = unravel(&window.size, place);
            let won = Val::map(&compare::EQ, &[winner, winner.lit(place as f64)]);
            let share = Val::map(&compare::SELECT, &[won, vjp.seed, vjp.seed.lit(0.0)]);
            let spatial = 0..window.rank();
            spatial.into_iter().try_fold(share, |share, axis| {
                self.hand_back(share, axis, tap[axis], shape[first + axis])
            })
        });
        shares
            .reduce(|sum, share| sum + share)
            .unwrap_or_else(|| vjp.to.full(vjp.seed.dtype(), shape, 0.0))
    }

    /// Where windows tile the input, each element compares its place in its window with the winner's.
    fn grad_max_tiling<'g>(&self, seed: Val<'g>, winner: Val<'g>, shape: &[usize]) -> Val<'g> {
        let (size, counts) = (&self.window.size, seed.shape());
        let (outer, windows) = counts.split_at(shape.len() - size.len());
        // A window axis and, after it, the axis of its taps.
        let apart = |outer: &[usize], windows: &[usize], taps: &[usize]| -> Vec<usize> {
            let spatial = windows.iter().zip(taps).flat_map(|(&window, &tap)| [window, tap]);
            outer.iter().copied().chain(spatial).collect()
        };
        let ones = vec![1; size.len()];
        let each = apart(outer, windows, size);
        let covered = windows.iter().zip(size).map(|(windows, size)| windows * size);
        let covered: Vec<usize> = outer.iter().copied().chain(covered).collect();
        let spread =
            |value: Val<'g>, shape: Vec<usize>| value.reshape(shape).broadcast(each.clone()).reshape(covered.clone());
        let place = seed.builder().iota(DType::U8, [self.window.places()], 0);
        let place = spread(place, apart(&[], &ones, size));
        let [winner, seed] = [winner, seed].map(|value| spread(value, apart(outer, windows, &ones)));
        let won = Val::map(&compare::EQ, &[winner, place]);
        let share = Val::map(&compare::SELECT, &[won, seed, seed.lit(0.0)]);
        // What is left of an axis that windows do not fill is in none.
        let rest: Vec<usize> = covered
            .iter()
            .zip(shape)
            .map(|(covered, extent)| extent - covered)
            .collect();
        share.pad(vec![0; shape.len()], rest, 0.0)
    }

    /// The gradient of a sum, one axis after the other, as each axis is summed by itself.
    fn grad_sum<'g>(&self, seed: Val<'g>, shape: &[usize]) -> Val<'g> {
        let window = &self.window;
        let first = shape.len() - window.rank();
        (0..window.rank()).fold(seed, |seed, axis| {
            let size = shape[first + axis];
            let shares = (0..window.size[axis]).filter_map(|tap| self.hand_back(seed, axis, tap, size));
            shares
                .reduce(|sum, share| sum + share)
                .expect("every window holds an element")
        })
    }

    /// Puts what each window along an axis has for the element under `tap` at that element's place on an axis of extent `size`, with
    /// zeros elsewhere; `None` if the tap is over padding in every window.
    fn hand_back<'g>(&self, seed: Val<'g>, axis: usize, tap: usize, size: usize) -> Option<Val<'g>> {
        let shape = seed.shape();
        let at = shape.len() - self.window.rank() + axis;
        let stride = self.window.stride[axis];
        let covers = |window: &usize| self.window.element(axis, *window, tap, size);
        let from = (0..shape[at]).find(|window| covers(window).is_some())?;
        let to = (from..shape[at]).rev().find(|window| covers(window).is_some())? + 1;
        let low = covers(&from)?;
        let last = covers(&(to - 1))?;
        let along = |value: usize| -> Vec<usize> {
            (0..shape.len())
                .map(|other| if other == at { value } else { 0 })
                .collect()
        };
        let mut kept = shape.clone();
        kept[at] = to - from;
        let slice = View::Slice {
            start: along(from),
            step: vec![1; shape.len()],
            count: kept.clone(),
        };
        let pad = View::Pad {
            low: along(low),
            high: along(size - 1 - last),
            inner: along(stride - 1),
            fill: Arc::new(Tensor::scalar(seed.dtype(), Scalar::zero(seed.dtype()))),
        };
        let to = seed.builder();
        let seed = if kept == shape {
            seed
        } else {
            to.push(Op::View(slice), &[seed])
        };
        let padded = size != kept[at];
        Some(if padded { to.push(Op::View(pad), &[seed]) } else { seed })
    }

    /// The taps one after the other. `max_pool` and `argmax_pool` of one operand make the same comparisons, so in one kernel they share
    /// them.
    fn kernel_small<'a>(&self, cx: &mut KernelCx<'a>) -> X<'a> {
        let places = self.window.places();
        let mut taps = (0..places).map(|place| {
            let at: Vec<X<'a>> = unravel(&self.window.size, place)
                .into_iter()
                .map(|at| cx.int(at as i64))
                .collect();
            self.tap(cx, &at)
        });
        let first = taps.next().expect("a window has a place");
        let rest: Vec<Tap<'a>> = taps.collect();
        let place = |place: usize| cx.int(place as i64).cast(DType::I32);
        if self.kind == PoolKind::Sum {
            return rest.into_iter().fold(first.value, |sum, tap| sum + tap.value);
        }
        let mut best = self.or_least(cx, &first);
        let mut winner = place(0);
        let mut is_found = first.on_element;
        for (tap, number) in rest.into_iter().zip(1..) {
            let value = self.or_least(cx, &tap);
            let greater = cx.combine(Combine::Max, best, value);
            if self.kind == PoolKind::ArgMax {
                let is_greater = match value.dtype().is_float() {
                    true => value.le(best).not().and(best.eq(best)),
                    false => best.lt(value),
                };
                // What is least of all still wins against padding.
                let wins = is_found.map_or(is_greater, |is_found| is_greater.or(is_found.not()));
                let wins = tap.on_element.map_or(wins, |on_element| on_element.and(wins));
                winner = wins.select(place(number), winner);
                is_found = is_found.zip(tap.on_element).map(|(found, here)| found.or(here));
            }
            best = greater;
        }
        match self.kind {
            PoolKind::ArgMax => winner,
            _ => best,
        }
    }

    /// The value under a tap; over padding what no element is less than.
    fn or_least<'a>(&self, cx: &KernelCx<'a>, tap: &Tap<'a>) -> X<'a> {
        let dtype = tap.value.dtype();
        match tap.on_element {
            Some(on_element) => on_element.select(tap.value, cx.constant(dtype, Combine::Max.identity(dtype))),
            None => tap.value,
        }
    }

    fn kernel_max<'a>(&self, cx: &mut KernelCx<'a>) -> X<'a> {
        let (taps, tap) = self.any_tap(cx);
        let value = self.or_least(cx, &tap);
        let greatest = cx.fold(Combine::Max, taps, value.id());
        cx.x(greatest)
    }

    /// Any tap of the window at the kernel's index, with new axes that range over the taps.
    fn any_tap<'a>(&self, cx: &mut KernelCx<'a>) -> (Vec<AxisId>, Tap<'a>) {
        let taps: Vec<AxisId> = self.window.size.iter().map(|&extent| cx.fold_axis(extent)).collect();
        let at: Vec<X<'a>> = taps.iter().map(|&tap| cx.axis(tap)).collect();
        let tap = self.tap(cx, &at);
        (taps, tap)
    }

    /// The tap of the window at the kernel's index that is at this place in the window.
    fn tap<'a>(&self, cx: &mut KernelCx<'a>, at: &[X<'a>]) -> Tap<'a> {
        let window = &self.window;
        let (input, out_shape) = (cx.arg_type(0).clone(), cx.out_type().shape.clone());
        let first = input.rank() - window.rank();
        let mut index = cx.index().to_vec();
        let mut number = cx.int(0);
        let mut on_element: Option<X<'a>> = None;
        for axis in 0..window.rank() {
            let (size, windows) = (input.shape[first + axis], out_shape[first + axis]);
            let tap = at[axis];
            let start = cx.x(index[first + axis]) * cx.int(window.stride[axis] as i64);
            let place = start + tap * cx.int(window.dilation[axis] as i64) - cx.int(window.pad_low[axis] as i64);
            number = number * cx.int(window.size[axis] as i64) + tap;
            let last = windows.saturating_sub(1);
            let mut needs = Vec::new();
            if window.place(axis, 0, 0) < 0 {
                needs.push(cx.int(0).le(place));
            }
            if window.place(axis, last, window.size[axis] - 1) >= size as i64 {
                needs.push(place.lt(cx.int(size as i64)));
            }
            for need in needs
                .into_iter()
                .filter(|need| need.as_const() != Some(Scalar::Bool(true)))
            {
                on_element = Some(on_element.map_or(need, |others| others.and(need)));
            }
            index[first + axis] = place.id();
        }
        let loaded = if on_element.is_some() {
            cx.arg_or_zero(0, index)
        } else {
            cx.arg(0, index)
        };
        Tap {
            number,
            value: widened(cx.x(loaded)),
            on_element,
        }
    }
}

/// The first greatest of what a window covers, NaN above all, with its place.
fn greatest(covered: impl Iterator<Item = (usize, Scalar)>) -> (usize, Scalar) {
    let is_greater = |one: Scalar, other: Scalar| match (one, other) {
        (Scalar::Float(one), Scalar::Float(other)) => one > other || (one.is_nan() && !other.is_nan()),
        _ => one.as_i128() > other.as_i128(),
    };
    let first_greatest = covered.reduce(|best, next| if is_greater(next.1, best.1) { next } else { best });
    first_greatest.expect("a window holds an element")
}

impl<'g> Val<'g> {
    /// The greatest element of each window along the last axes.
    #[track_caller]
    pub fn max_pool(self, window: Window) -> Val<'g> {
        // What is at least a number somewhere in the window is so at the greatest element, and there are fewer windows than elements.
        match self.at_least().filter(|_| window.stride.iter().product::<usize>() > 1) {
            Some((x, least)) => x.max_pool(window).max(least),
            None => self.pool(PoolKind::Max, window),
        }
    }

    /// `x` and `c`, if this is `max(x, c)` with a constant scalar.
    fn at_least(self) -> Option<(Val<'g>, Val<'g>)> {
        if self.is_poison() {
            return None;
        }
        let to = self.builder();
        let node = to.node(self.id());
        let is_max = matches!(&node.op, Op::Map(map) if std::ptr::eq(map.0, &arith::MAX));
        let &[x, least] = node.args.as_slice() else { return None };
        let least = match to.node(least) {
            of if matches!(of.op, Op::View(View::Broadcast(_))) => of.args[0],
            _ => least,
        };
        let is_number = matches!(&to.node(least).op, Op::Const(tensor) if tensor.shape().is_empty());
        (is_max && is_number).then(|| (to.val(x), to.val(least)))
    }

    /// The sum of each window along the last axes; padding counts zero.
    #[track_caller]
    pub fn sum_pool(self, window: Window) -> Val<'g> {
        self.pool(PoolKind::Sum, window)
    }

    /// The mean of each window along the last axes, padding not counted.
    #[track_caller]
    pub fn avg_pool(self, window: Window) -> Val<'g> {
        let sum = self.sum_pool(window.clone());
        if sum.is_poison() {
            return sum;
        }
        let first = self.rank() - window.rank();
        let counts = window.element_counts(self.dtype(), &self.shape()[first..], &sum.shape()[first..]);
        self.divided(sum, sum.builder().constant(counts))
    }

    /// The mean of each window along the last axes, padding counted as zeros.
    #[track_caller]
    pub fn avg_pool_with_padding(self, window: Window) -> Val<'g> {
        let places: usize = window.size.iter().product();
        let sum = self.sum_pool(window);
        self.divided(sum, sum.lit(places as f64))
    }

    /// The greatest element over all spatial axes of `[N, C, S…]`, as `[N, C, 1…]`.
    #[track_caller]
    pub fn global_max_pool(self) -> Val<'g> {
        self.global_pool(Combine::Max)
    }

    /// The mean over all spatial axes of `[N, C, S…]`, as `[N, C, 1…]`.
    #[track_caller]
    pub fn global_avg_pool(self) -> Val<'g> {
        let count: usize = self.shape().iter().skip(2).product();
        let sum = self.global_pool(Combine::Sum);
        self.divided(sum, sum.lit(count as f64))
    }

    #[track_caller]
    fn pool(self, kind: PoolKind, window: Window) -> Val<'g> {
        self.builder().push(Op::Pool(Pool { kind, window }), &[self])
    }

    #[track_caller]
    fn global_pool(self, with: Combine) -> Val<'g> {
        if self.is_poison() {
            return self;
        }
        let shape = self.shape();
        if shape.len() < 3 {
            let found = Shape(&shape).to_string();
            return self
                .builder()
                .problem(format!("global pool: takes [N,C,S…], found {found}"));
        }
        let axes = (2..shape.len()).collect();
        let folded = self.builder().push(Op::Fold(Fold { with, axes }), &[self]);
        let kept: Vec<usize> = shape[..2].iter().copied().chain(shape[2..].iter().map(|_| 1)).collect();
        folded.reshape(kept)
    }

    /// A sum of this value's elements divided by their number, for a mean.
    #[track_caller]
    fn divided(self, sum: Val<'g>, count: Val<'g>) -> Val<'g> {
        if !sum.is_poison() && !self.dtype().is_float() {
            return self
                .builder()
                .problem(format!("mean pool: takes floats, found {self}; convert it first"));
        }
        sum / count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::parse;
    use crate::{Builder, oracle};

    fn run(kind: PoolKind, window: Window, elements: &[f32]) -> Vec<f32> {
        let pool = Pool { kind, window };
        pool.eval(&[&Tensor::from_f32([elements.len()], elements)])[0].to_f32()
    }

    #[test]
    fn the_first_greatest_wins_and_nan_is_above_all() {
        let cases: [(&[f32], f32, f32); 5] = [
            (&[1.0, 3.0, 3.0], 3.0, 1.0),
            (&[f32::NEG_INFINITY; 3], f32::NEG_INFINITY, 0.0),
            (&[1.0, f32::NAN, f32::INFINITY], f32::NAN, 1.0),
            (&[f32::NAN, 1.0, f32::NAN], f32::NAN, 0.0),
            (&[-0.0, 0.0, -1.0], 0.0, 0.0),
        ];
        for (elements, greatest, place) in cases {
            let found = run(PoolKind::Max, Window::tiling([3]), elements)[0];
            assert!(
                found == greatest || found.is_nan() && greatest.is_nan(),
                "{elements:?}: {found}"
            );
            assert_eq!(
                run(PoolKind::ArgMax, Window::tiling([3]), elements),
                [place],
                "{elements:?}"
            );
        }
    }

    #[test]
    fn padding_never_wins_and_counts_places() {
        let window = Window {
            pad_low: vec![1],
            pad_high: vec![1],
            ..Window::sliding([3])
        };
        let elements = [-5.0, -7.0, -6.0];
        assert_eq!(run(PoolKind::Max, window.clone(), &elements), [-5.0, -5.0, -6.0]);
        assert_eq!(run(PoolKind::ArgMax, window.clone(), &elements), [1.0, 0.0, 1.0]);
        assert_eq!(run(PoolKind::Sum, window, &elements), [-12.0, -18.0, -13.0]);
    }

    #[test]
    fn averages_count_padding_or_not() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [2]);
        let window = Window {
            pad_low: vec![1],
            ..Window::sliding([2])
        };
        let (without, with) = (x.avg_pool(window.clone()), x.avg_pool_with_padding(window));
        let graph = b.finish([("without", without), ("with", with)]).expect("a graph");
        let outputs = oracle::run(&graph, &[("x", Tensor::from_f32([2], &[4.0, 6.0]))]).expect("inputs fit");
        assert_eq!(outputs[0].1.to_f32(), [4.0, 5.0]);
        assert_eq!(outputs[1].1.to_f32(), [2.0, 5.0]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let input = Type::new(DType::F32, [1, 4]);
        let error =
            |kind: PoolKind, window: Window| Pool { kind, window }.infer(&[&input]).expect_err("it does not fit");
        let max = |window: Window| error(PoolKind::Max, window);
        let cases = [
            (
                max(Window::tiling([5])),
                "along spatial axis 0 the window spans 5, more than the padded input's 4",
            ),
            (
                max(Window {
                    pad_low: vec![2],
                    ..Window::tiling([2])
                }),
                "along spatial axis 0 window 0 holds padding only",
            ),
            (
                max(Window::tiling([1, 1, 1])),
                "the window has 3 axes, more than f32[1,4]",
            ),
            (
                max(Window {
                    stride: vec![0],
                    ..Window::tiling([1])
                }),
                "`stride` must be at least 1 along each axis",
            ),
            (
                error(
                    PoolKind::ArgMax,
                    Window {
                        pad_low: vec![150],
                        pad_high: vec![150],
                        ..Window::sliding([300])
                    },
                ),
                "a window of 300 places is too large: `u8` counts 256",
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn text_round_trips() {
        for kind in PoolKind::ALL {
            let window = Window {
                pad_high: vec![0, 1],
                ..Window::tiling([2, 3])
            };
            let op = Op::Pool(Pool { kind, window });
            assert_eq!(parse(op.name(), &op.rules().attrs().into_iter().collect()), Ok(op));
        }
    }
}
