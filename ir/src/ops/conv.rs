//! Convolution in any number of dimensions, closed under differentiation: both its gradients are convolutions.

use std::ops::Range;

use super::einsum::{add_product, check_factors, sum_of_products};
use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::Scalar;
use crate::kernel::ExprId;
use crate::kernel::build::{KernelCx, X};
use crate::ops::{Attr, Attrs, Op, Rules, View};
use crate::tensor::{Tensor, Type, unravel};

/// `y[n, o, p…] = Σ_{c, t…} x[n, c, q…] · w[o, c, t…]` (cross-correlation, as in every framework), where along each spatial
/// axis the *dilated* input, with `input_dilation - 1` zeros between neighbours, is read at
/// `p * stride + t * kernel_dilation - pad_low`, outside of which it is zero.
///
/// Shapes: x `[N, C, S…]`, w `[O, C / groups, K…]`, y `[N, O, P…]` with
/// `P = ((S - 1) * input_dilation + 1 + pad_low + pad_high - ((K - 1) * kernel_dilation + 1)) / stride + 1`.
/// Output channels are in `groups` equal runs, each seeing its run of input channels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// The distance between windows along each spatial axis.
    pub stride: Vec<usize>,
    /// Zeros before the first element; negative crops.
    pub pad_low: Vec<i64>,
    /// Zeros after the last element; negative crops.
    pub pad_high: Vec<i64>,
    /// 1 + the number of zeros between input neighbours.
    pub input_dilation: Vec<usize>,
    /// The distance between kernel elements on the input.
    pub kernel_dilation: Vec<usize>,
    /// The number of channel groups.
    pub groups: usize,
}

/// Reads `conv`.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    (name == "conv").then(|| {
        Ok(Op::Conv(Conv {
            stride: attrs.sizes("stride")?,
            pad_low: attrs.ints("pad_low")?,
            pad_high: attrs.ints("pad_high")?,
            input_dilation: attrs.sizes("input_dilation")?,
            kernel_dilation: attrs.sizes("kernel_dilation")?,
            groups: attrs.size("groups")?,
        }))
    })
}

/// The most phases that a gradient is computed in: each is a convolution of its own. A guess.
const MOST_PHASES: usize = 16;

impl Conv {
    /// Stride 1, no padding, no dilation, one group, along `rank` spatial axes.
    pub fn unit(rank: usize) -> Conv {
        Conv {
            stride: vec![1; rank],
            pad_low: vec![0; rank],
            pad_high: vec![0; rank],
            input_dilation: vec![1; rank],
            kernel_dilation: vec![1; rank],
            groups: 1,
        }
    }

    /// The number of spatial axes.
    pub fn rank(&self) -> usize {
        self.stride.len()
    }

    /// The extent of the dilated input along a spatial axis of extent `size`, without padding.
    fn dilated(&self, axis: usize, size: usize) -> i64 {
        spread(size, self.input_dilation[axis])
    }

    /// The number of windows along a spatial axis, or what does not fit.
    fn window_count(&self, axis: usize, size: usize, kernel: usize) -> Result<usize, String> {
        let padded = self.dilated(axis, size) + self.pad_low[axis] + self.pad_high[axis];
        let window = spread(kernel, self.kernel_dilation[axis]);
        if kernel == 0 {
            return Err(format!("the kernel is empty along spatial axis {axis}"));
        }
        if padded < window {
            return Err(format!(
                "along spatial axis {axis} the kernel spans {window}, more than the padded input's {padded}"
            ));
        }
        Ok((padded - window) as usize / self.stride[axis] + 1)
    }

    /// The place on the dilated input that tap `tap` of window `window` reads.
    fn place(&self, axis: usize, window: usize, tap: usize) -> i64 {
        (window * self.stride[axis] + tap * self.kernel_dilation[axis]) as i64 - self.pad_low[axis]
    }

    /// The input element at a place on the dilated input, if one is there.
    fn element(&self, axis: usize, place: i64, size: usize) -> Option<usize> {
        let at = usize::try_from(place).ok()?;
        let dilation = self.input_dilation[axis];
        (at.is_multiple_of(dilation) && at / dilation < size).then_some(at / dilation)
    }

    /// The gradient with respect to the input: the seed, spread by the stride, under the kernel turned around.
    fn grad_input<'g>(&self, seed: Val<'g>, kernel: Val<'g>, input: &[usize]) -> Val<'g> {
        if self.has_phases() {
            return self.grad_phases(seed, kernel, input, &mut Vec::new());
        }
        let taps = &kernel.shape()[2..];
        let windows = &seed.shape()[2..];
        let mut back = Conv {
            stride: self.input_dilation.clone(),
            input_dilation: self.stride.clone(),
            ..self.clone()
        };
        for axis in 0..self.rank() {
            back.pad_low[axis] = spread(taps[axis], self.kernel_dilation[axis]) - 1 - self.pad_low[axis];
            back.pad_high[axis] = back.pad_high_for(axis, windows[axis], taps[axis], input[2 + axis]);
        }
        seed.builder()
            .push(Op::Conv(back), &[seed, turn_around(kernel, self.groups)])
    }

    /// Whether the gradient with respect to the input is better computed phase by phase than from a seed spread by inserted zeros.
    fn has_phases(&self) -> bool {
        let is_plain =
            |axis: usize| self.input_dilation[axis] == 1 && (self.stride[axis] == 1 || self.kernel_dilation[axis] == 1);
        let phases: usize = self.stride.iter().product();
        (2..=MOST_PHASES).contains(&phases) && (0..self.rank()).all(is_plain)
    }

    /// The gradient with respect to the input, of the phases chosen along the first axes and all along the others. The elements
    /// `s · q + r` of an axis with stride `s` are one phase, `r`: they have met every `s`-th tap, from one on, so their gradient is the seed
    /// under those taps turned around, and no zero is inserted.
    fn grad_phases<'g>(&self, seed: Val<'g>, kernel: Val<'g>, input: &[usize], chosen: &mut Vec<usize>) -> Val<'g> {
        let axis = chosen.len();
        if axis == self.rank() {
            return self.grad_phase(seed, kernel, input, chosen);
        }
        let stride = self.stride[axis];
        let phases: Vec<Val<'g>> = (0..stride)
            .map(|phase| {
                chosen.push(phase);
                let part = self.grad_phases(seed, kernel, input, chosen);
                chosen.pop();
                part
            })
            .collect();
        // [.., q, r, ..] in order is the axis, with what is over at its end.
        let parts = Val::stack(&phases, axis + 3);
        let mut shape = parts.shape();
        shape.splice(axis + 2..=axis + 3, [shape[axis + 2] * stride]);
        parts.reshape(shape).slice(axis + 2, 0, input[axis + 2])
    }

    /// One phase along every axis, of `⌈extent / stride⌉` elements each.
    fn grad_phase<'g>(&self, seed: Val<'g>, kernel: Val<'g>, input: &[usize], phases: &[usize]) -> Val<'g> {
        let (taps, windows) = (kernel.shape(), seed.shape());
        let count = |axis: usize| input[2 + axis].div_ceil(self.stride[axis]);
        let (mut start, mut step, mut kept) = (vec![0; taps.len()], vec![1; taps.len()], taps.clone());
        let mut back = Conv {
            stride: vec![1; self.rank()],
            ..self.clone()
        };
        for (axis, &phase) in phases.iter().enumerate() {
            let stride = self.stride[axis] as i64;
            let at = phase as i64 + self.pad_low[axis];
            let (first, from) = (at.rem_euclid(stride) as usize, at.div_euclid(stride));
            (start[2 + axis], step[2 + axis]) = (first, self.stride[axis]);
            kept[2 + axis] = taps[2 + axis].saturating_sub(first).div_ceil(self.stride[axis]);
            let reach = spread(kept[2 + axis].max(1), self.kernel_dilation[axis]) - 1;
            back.pad_low[axis] = reach - from;
            back.pad_high[axis] = count(axis) as i64 + reach - back.pad_low[axis] - windows[2 + axis] as i64;
        }
        if kept.contains(&0) {
            let shape: Vec<usize> = input[..2].iter().copied().chain((0..self.rank()).map(count)).collect();
            return seed.builder().full(seed.dtype(), shape, 0.0);
        }
        let kernel = turn_around(kernel.slice_steps(start, step, kept), self.groups);
        seed.builder().push(Op::Conv(back), &[seed, kernel])
    }

    /// The gradient with respect to the kernel: the input under the seed, with stride and kernel dilation exchanged. Batch and
    /// channels change places, so that the sum over the batch becomes the sum over channels.
    fn grad_kernel<'g>(&self, seed: Val<'g>, input: Val<'g>, kernel: &[usize]) -> Val<'g> {
        let shape = input.shape();
        let (batch, channels, sizes) = (shape[0], shape[1] / self.groups, &shape[2..]);
        let windows = &seed.shape()[2..];
        let mut back = Conv {
            stride: self.kernel_dilation.clone(),
            kernel_dilation: self.stride.clone(),
            ..self.clone()
        };
        for axis in 0..self.rank() {
            back.pad_high[axis] = back.pad_high_for(axis, sizes[axis], windows[axis], kernel[2 + axis]);
        }
        // [N, g * C/g, S] becomes [C/g, g * N, S]: group g of the new channels is the batch of the old group g.
        let spatial = |first: usize| first..first + self.rank();
        let exchange: Vec<usize> = [1, 0].into_iter().chain(spatial(2)).collect();
        let input = match self.groups {
            1 => input.permute(exchange.clone()),
            groups => {
                let with = |outer: &[usize]| -> Vec<usize> { outer.iter().chain(sizes).copied().collect() };
                let order: Vec<usize> = [2, 1, 0].into_iter().chain(spatial(3)).collect();
                let grouped = input.reshape(with(&[batch, groups, channels]));
                grouped.permute(order).reshape(with(&[channels, groups * batch]))
            }
        };
        let seed = seed.permute(exchange.clone());
        seed.builder().push(Op::Conv(back), &[input, seed]).permute(exchange)
    }

    /// The padding after, with which there are exactly `windows` windows.
    fn pad_high_for(&self, axis: usize, size: usize, kernel: usize, windows: usize) -> i64 {
        let covered = spread(windows, self.stride[axis]) - 1 + spread(kernel, self.kernel_dilation[axis]);
        covered - self.dilated(axis, size) - self.pad_low[axis]
    }
}

impl Rules for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        vec![
            ("stride", Attr::sizes(&self.stride)),
            ("pad_low", Attr::Ints(self.pad_low.clone())),
            ("pad_high", Attr::Ints(self.pad_high.clone())),
            ("input_dilation", Attr::sizes(&self.input_dilation)),
            ("kernel_dilation", Attr::sizes(&self.kernel_dilation)),
            ("groups", Attr::size(self.groups)),
        ]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [input, kernel] = args else {
            return Err(format!("takes an input and a kernel, found {} operands", args.len()));
        };
        check_factors(input, kernel)?;
        let rank = self.rank();
        for (name, found) in [
            ("pad_low", self.pad_low.len()),
            ("pad_high", self.pad_high.len()),
            ("input_dilation", self.input_dilation.len()),
            ("kernel_dilation", self.kernel_dilation.len()),
        ] {
            if found != rank {
                return Err(format!("`stride` is for {rank} spatial axes, `{name}` for {found}"));
            }
        }
        for (name, values) in [
            ("stride", &self.stride),
            ("input_dilation", &self.input_dilation),
            ("kernel_dilation", &self.kernel_dilation),
        ] {
            if values.contains(&0) {
                return Err(format!("`{name}` must be at least 1 along each axis"));
            }
        }
        for (name, ty) in [("input", input), ("kernel", kernel)] {
            if ty.rank() != rank + 2 {
                return Err(format!(
                    "for {rank} spatial axes the {name} must have {} axes, found {ty}",
                    rank + 2
                ));
            }
        }
        let (channels, seen, outputs) = (input.shape[1], kernel.shape[1], kernel.shape[0]);
        if self.groups == 0 || !outputs.is_multiple_of(self.groups) {
            return Err(format!(
                "{outputs} output channels cannot be in {} equal groups",
                self.groups
            ));
        }
        if seen * self.groups != channels {
            let groups = self.groups;
            return Err(format!(
                "the kernel sees {seen} channels in each of {groups} groups, the input has {channels}"
            ));
        }
        let windows = (0..rank).map(|axis| self.window_count(axis, input.shape[2 + axis], kernel.shape[2 + axis]));
        let mut shape = vec![input.shape[0], outputs];
        shape.extend(windows.collect::<Result<Vec<usize>, String>>()?);
        Ok(vec![Type::new(input.dtype, shape)])
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let [input, kernel] = [args[0], args[1]];
        let ty = self
            .infer(&[&input.ty(), &kernel.ty()])
            .expect("operands that fit, as the graph was inferred")
            .remove(0);
        let (sizes, taps) = (&input.shape()[2..], &kernel.shape()[2..]);
        let (channels, seen) = (input.shape()[1], kernel.shape()[1]);
        let group_outputs = kernel.shape()[0] / self.groups;
        let (tap_count, size_count) = (taps.iter().product::<usize>(), sizes.iter().product::<usize>());
        let elements: Vec<Scalar> = (0..ty.count())
            .map(|position| {
                let index = unravel(&ty.shape, position);
                let (batch, output, window) = (index[0], index[1], &index[2..]);
                let mut sum = Scalar::zero(ty.dtype);
                for tap in 0..tap_count {
                    let element = self.position(window, &unravel(taps, tap), sizes);
                    for channel in 0..seen {
                        let input_channel = output / group_outputs * seen + channel;
                        let x = match element {
                            Some(element) => input.get((batch * channels + input_channel) * size_count + element),
                            None => Scalar::zero(ty.dtype),
                        };
                        sum = add_product(sum, x, kernel.get((output * seen + channel) * tap_count + tap));
                    }
                }
                sum
            })
            .collect();
        vec![Tensor::from_scalars(ty.dtype, ty.shape, elements)]
    }

    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        let [input, kernel] = [vjp.args[0], vjp.args[1]];
        // With nothing to sum there need not be a convolution of the right shape.
        let empty = [input, kernel, vjp.seed].iter().any(|val| val.ty().count() == 0);
        let zeros = |val: Val<'g>| vjp.to.full(val.dtype(), val.shape(), 0.0);
        vec![
            vjp.wanted[0].then(|| match empty {
                true => zeros(input),
                false => self.grad_input(vjp.seed, kernel, &input.shape()),
            }),
            vjp.wanted[1].then(|| match empty {
                true => zeros(kernel),
                false => self.grad_kernel(vjp.seed, input, &kernel.shape()),
            }),
        ]
    }

    fn kernel(&self, cx: &mut KernelCx<'_>) -> Option<ExprId> {
        let (input, kernel) = (cx.arg_type(0).clone(), cx.arg_type(1).clone());
        let out_index = cx.index().to_vec();
        let group_outputs = kernel.shape[0] / self.groups;
        let channel_axis = cx.fold_axis(kernel.shape[1]);
        let tap_axes: Vec<_> = kernel.shape[2..].iter().map(|&extent| cx.fold_axis(extent)).collect();

        let channel = cx.axis(channel_axis);
        let input_channel = match self.groups {
            1 => channel,
            _ => {
                let group = cx.x(out_index[1]) / cx.int(group_outputs as i64);
                group * cx.int(kernel.shape[1] as i64) + channel
            }
        };
        let mut input_index = vec![out_index[0], input_channel.id()];
        let mut kernel_index = vec![out_index[1], channel.id()];
        let mut within = true;
        let mut on_element: Option<X<'_>> = None;
        for axis in 0..self.rank() {
            let tap = cx.axis(tap_axes[axis]);
            let window = cx.x(out_index[2 + axis]) * cx.int(self.stride[axis] as i64);
            let place = window + tap * cx.int(self.kernel_dilation[axis] as i64) - cx.int(self.pad_low[axis]);
            let dilation = cx.int(self.input_dilation[axis] as i64);
            let element = match self.input_dilation[axis] {
                1 => place,
                _ => {
                    let on_axis = place.rem(dilation).eq(cx.int(0));
                    on_element = Some(on_element.map_or(on_axis, |others| others.and(on_axis)));
                    place / dilation
                }
            };
            let windows = cx.out_type().shape[2 + axis];
            within &= self.stays_within(axis, windows, kernel.shape[2 + axis], input.shape[2 + axis]);
            input_index.push(element.id());
            kernel_index.push(tap.id());
        }
        let loaded = if within {
            cx.arg(0, input_index)
        } else {
            cx.arg_or_zero(0, input_index)
        };
        let left = match on_element {
            Some(on_element) => on_element
                .select(cx.x(loaded), cx.constant(input.dtype, Scalar::zero(input.dtype)))
                .id(),
            None => loaded,
        };
        let right = cx.arg(1, kernel_index);
        let axes = std::iter::once(channel_axis).chain(tap_axes).collect();
        Some(sum_of_products(cx, left, right, axes))
    }
}

impl Conv {
    /// The row-major position of the element that a tap of a window reads, if it is not padding.
    fn position(&self, window: &[usize], tap: &[usize], sizes: &[usize]) -> Option<usize> {
        (0..self.rank()).try_fold(0, |position, axis| {
            let place = self.place(axis, window[axis], tap[axis]);
            Some(position * sizes[axis] + self.element(axis, place, sizes[axis])?)
        })
    }

    /// Whether no tap of any window reads before the first element or after the last.
    fn stays_within(&self, axis: usize, windows: usize, taps: usize, size: usize) -> bool {
        if windows == 0 || taps == 0 {
            return true;
        }
        // The place divided by the dilation is truncated towards zero, as in the kernel.
        let dilation = self.input_dilation[axis] as i64;
        let reached: Range<i64> =
            self.place(axis, 0, 0) / dilation..self.place(axis, windows - 1, taps - 1) / dilation + 1;
        reached.start >= 0 && reached.end <= size as i64
    }
}

/// The extent of `count` elements with a distance of `step` between neighbours.
fn spread(count: usize, step: usize) -> i64 {
    match count {
        0 => 0,
        _ => ((count - 1) * step + 1) as i64,
    }
}

/// The kernel `[O, C/g, K…]` as that of the transposed convolution, `[C, O/g, K…]` with the taps in reverse.
fn turn_around(kernel: Val<'_>, groups: usize) -> Val<'_> {
    let shape = kernel.shape();
    let (outputs, seen, taps) = (shape[0] / groups, shape[1], &shape[2..]);
    let with = |outer: &[usize]| -> Vec<usize> { outer.iter().chain(taps).copied().collect() };
    let order = |outer: &[usize]| -> Vec<usize> {
        outer
            .iter()
            .copied()
            .chain(outer.len()..outer.len() + taps.len())
            .collect()
    };
    let exchanged = match groups {
        1 => kernel.permute(order(&[1, 0])),
        _ => {
            let grouped = kernel.reshape(with(&[groups, outputs, seen]));
            grouped
                .permute(order(&[0, 2, 1]))
                .reshape(with(&[groups * seen, outputs]))
        }
    };
    // Along an axis of one tap there is nothing to reverse.
    let long = (0..taps.len()).filter(|&axis| taps[axis] > 1);
    let axes: Vec<usize> = long.map(|axis| axis + 2).collect();
    match axes.is_empty() {
        true => exchanged,
        false => kernel.builder().push(Op::View(View::Flip(axes)), &[exchanged]),
    }
}

/// A transposed convolution: what the gradient with respect to the input of a convolution computes.
///
/// Shapes: x `[N, C, S…]`, w `[C, O / groups, K…]`, result `[N, O, P…]` with
/// `P = (S - 1) * stride + (K - 1) * dilation + 1 + out_pad - pad_low - pad_high`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvTranspose {
    /// The distance at which input elements spread on the result.
    pub stride: Vec<usize>,
    /// Elements cut off before.
    pub pad_low: Vec<i64>,
    /// Elements cut off after.
    pub pad_high: Vec<i64>,
    /// Elements added after: the places a strided convolution had skipped.
    pub out_pad: Vec<usize>,
    /// The distance between kernel elements.
    pub dilation: Vec<usize>,
    /// The number of channel groups.
    pub groups: usize,
}

impl ConvTranspose {
    /// Stride 1, no padding, no dilation, one group, along `rank` spatial axes.
    pub fn unit(rank: usize) -> ConvTranspose {
        ConvTranspose {
            stride: vec![1; rank],
            pad_low: vec![0; rank],
            pad_high: vec![0; rank],
            out_pad: vec![0; rank],
            dilation: vec![1; rank],
            groups: 1,
        }
    }
}

impl<'g> Val<'g> {
    /// The convolution of this, `[N, C, S…]`, with a kernel `[O, C / groups, K…]`.
    ///
    /// ```
    /// # use netloom_ir::{Builder, DType, ops::Conv};
    /// let b = Builder::new();
    /// let image = b.input("image", DType::F32, [1, 3, 32, 32]);
    /// let kernel = b.input("kernel", DType::F32, [8, 3, 3, 3]);
    /// let y = image.conv(kernel, Conv { stride: vec![2, 2], ..Conv::unit(2) });
    /// assert_eq!(y.shape(), [1, 8, 15, 15]);
    /// ```
    #[track_caller]
    pub fn conv(self, kernel: Val<'g>, conv: Conv) -> Val<'g> {
        self.builder().push(Op::Conv(conv), &[self, kernel])
    }

    /// The transposed convolution of this, `[N, C, S…]`, with a kernel `[C, O / groups, K…]`.
    #[track_caller]
    pub fn conv_transpose(self, kernel: Val<'g>, transpose: ConvTranspose) -> Val<'g> {
        let to = self.builder();
        if self.is_poison() || kernel.is_poison() {
            return if self.is_poison() { self } else { kernel };
        }
        let (rank, groups) = (transpose.stride.len(), transpose.groups);
        let shape = kernel.shape();
        let lengths = [
            transpose.pad_low.len(),
            transpose.pad_high.len(),
            transpose.out_pad.len(),
            transpose.dilation.len(),
        ];
        if shape.len() != rank + 2 || lengths != [rank; 4] {
            return to.problem(format!("conv_transpose: the parameters and the kernel {kernel} are not for the same number of spatial axes, {rank}"));
        }
        if groups == 0 || !shape[0].is_multiple_of(groups) {
            return to.problem(format!(
                "conv_transpose: {} input channels of {kernel} cannot be in {groups} equal groups",
                shape[0]
            ));
        }
        let reach = |axis: usize| spread(shape[2 + axis], transpose.dilation[axis]) - 1;
        let conv = Conv {
            stride: vec![1; rank],
            pad_low: (0..rank).map(|axis| reach(axis) - transpose.pad_low[axis]).collect(),
            pad_high: (0..rank)
                .map(|axis| reach(axis) - transpose.pad_high[axis] + transpose.out_pad[axis] as i64)
                .collect(),
            input_dilation: transpose.stride,
            kernel_dilation: transpose.dilation,
            groups,
        };
        self.conv(turn_around(kernel, groups), conv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::ops::parse;

    fn run(conv: &Conv, input: (&[usize], &[f32]), kernel: (&[usize], &[f32])) -> Vec<f32> {
        let (input, kernel) = (Tensor::from_f32(input.0, input.1), Tensor::from_f32(kernel.0, kernel.1));
        conv.eval(&[&input, &kernel])[0].to_f32()
    }

    #[test]
    fn values_by_hand() {
        let input: (&[usize], &[f32]) = (&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
        let kernel: (&[usize], &[f32]) = (&[1, 1, 2], &[10.0, 1.0]);
        let unit = Conv::unit(1);
        assert_eq!(run(&unit, input, kernel), [12.0, 23.0, 34.0]);
        let padded = Conv {
            pad_low: vec![1],
            pad_high: vec![1],
            stride: vec![2],
            ..unit.clone()
        };
        assert_eq!(run(&padded, input, kernel), [1.0, 23.0, 40.0]);
        let cropped = Conv {
            pad_low: vec![-1],
            ..unit.clone()
        };
        assert_eq!(run(&cropped, input, kernel), [23.0, 34.0]);
        let dilated = Conv {
            input_dilation: vec![2],
            ..unit.clone()
        };
        assert_eq!(run(&dilated, input, kernel), [10.0, 2.0, 20.0, 3.0, 30.0, 4.0]);
        let spread = Conv {
            kernel_dilation: vec![3],
            ..unit.clone()
        };
        assert_eq!(run(&spread, input, kernel), [14.0]);
        let grouped = Conv { groups: 2, ..unit };
        assert_eq!(
            run(
                &grouped,
                (&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]),
                (&[2, 1, 1], &[1.0, 10.0])
            ),
            [1.0, 2.0, 30.0, 40.0]
        );
    }

    #[test]
    fn padding_is_a_zero_like_any_other() {
        let padded = Conv {
            pad_low: vec![1],
            ..Conv::unit(1)
        };
        let result = run(&padded, (&[1, 1, 1], &[1.0]), (&[1, 1, 1], &[f32::INFINITY]));
        assert!(result[0].is_nan());
        assert_eq!(result[1], f32::INFINITY);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let input = Type::new(DType::F32, [1, 4, 5]);
        let kernel = |shape: [usize; 3]| Type::new(DType::F32, shape);
        let error = |conv: Conv, kernel: Type| conv.infer(&[&input, &kernel]).expect_err("it does not fit");
        let cases = [
            (
                error(Conv::unit(1), kernel([2, 3, 3])),
                "the kernel sees 3 channels in each of 1 groups, the input has 4",
            ),
            (
                error(
                    Conv {
                        groups: 3,
                        ..Conv::unit(1)
                    },
                    kernel([4, 2, 3]),
                ),
                "4 output channels cannot be in 3 equal groups",
            ),
            (
                error(
                    Conv {
                        kernel_dilation: vec![3],
                        ..Conv::unit(1)
                    },
                    kernel([2, 4, 3]),
                ),
                "along spatial axis 0 the kernel spans 7, more than the padded input's 5",
            ),
            (
                error(Conv::unit(2), kernel([2, 4, 3])),
                "for 2 spatial axes the input must have 4 axes, found f32[1,4,5]",
            ),
            (
                error(
                    Conv {
                        stride: vec![0],
                        ..Conv::unit(1)
                    },
                    kernel([2, 4, 3]),
                ),
                "`stride` must be at least 1 along each axis",
            ),
            (
                error(
                    Conv {
                        pad_low: vec![],
                        ..Conv::unit(1)
                    },
                    kernel([2, 4, 3]),
                ),
                "`stride` is for 1 spatial axes, `pad_low` for 0",
            ),
            (
                error(Conv::unit(1), kernel([2, 4, 0])),
                "the kernel is empty along spatial axis 0",
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn text_round_trips() {
        let op = Op::Conv(Conv {
            pad_low: vec![1, -2],
            stride: vec![2, 1],
            groups: 3,
            ..Conv::unit(2)
        });
        assert_eq!(parse(op.name(), &op.rules().attrs().into_iter().collect()), Ok(op));
    }
}
