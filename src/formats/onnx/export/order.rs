//! Ops about places: sort, scatter, prefix, the place of the greatest in a window.

use netloom_ir::kernel::Combine;
use netloom_ir::ops::pool::Window;
use netloom_ir::ops::{Prefix, Scatter, Sort};
use netloom_ir::{DType, Scalar, Tensor, Type};

use super::{Value, Writer, sizes};
use crate::formats::onnx::tensors;

impl Writer {
    /// `TopK` of all: the places, ties in order.
    pub(super) fn sort(&mut self, sort: &Sort, x: &str, ty: &Type) -> String {
        let count = self.ints(&[ty.shape[sort.axis] as i64]);
        let attributes = vec![
            ("axis", Value::Int(sort.axis as i64)),
            ("largest", Value::Int(i64::from(sort.descending))),
        ];
        let x = if ty.dtype == DType::Bool {
            self.cast(x, DType::I32)
        } else {
            x.to_owned()
        };
        self.push_many("TopK", &[&x, &count], attributes, 2).remove(1)
    }

    /// `ScatterND` with the axis in front; what lies outside goes to one more slice, which is cut off.
    pub(super) fn scatter(&mut self, scatter: &Scatter, args: &[&str], types: &[&Type]) -> String {
        let (axis, rank, indices) = (scatter.axis, types[0].shape.len(), types[1].shape.len());
        let extent = types[0].shape[axis] as i64;
        let is_bool = types[0].dtype == DType::Bool;
        let wide = |writer: &mut Writer, x: &str| {
            if is_bool {
                writer.cast(x, DType::U8)
            } else {
                x.to_owned()
            }
        };
        let (x, updates) = (wide(self, args[0]), wide(self, args[2]));
        let to_front: Vec<usize> = std::iter::once(axis)
            .chain((0..rank).filter(|&other| other != axis))
            .collect();
        let x = self.push("Transpose", &[&x], vec![("perm", sizes(&to_front))]);
        let spare = self.push_pad(&x, rank, 0, 1);
        let places = self.places(args[1], extent, extent);
        let last = self.ints(&[-1]);
        let places = self.push("Unsqueeze", &[&places, &last], vec![]);
        let named = axis..axis + indices;
        let order: Vec<usize> = named
            .clone()
            .chain((0..rank - 1 + indices).filter(|at| !named.contains(at)))
            .collect();
        let updates = self.push("Transpose", &[&updates], vec![("perm", sizes(&order))]);
        let how = match scatter.with {
            None => "none",
            Some(Combine::Sum) => "add",
            Some(Combine::Product) => "mul",
            Some(Combine::Max | Combine::Any) => "max",
            Some(Combine::Min | Combine::All) => "min",
        };
        let result = self.push(
            "ScatterND",
            &[&spare, &places, &updates],
            vec![("reduction", Value::Text(how))],
        );
        let result = self.cut(&result, 0, 0, extent);
        let mut back: Vec<usize> = (1..=axis).collect();
        back.push(0);
        back.extend(axis + 1..rank);
        let result = self.push("Transpose", &[&result], vec![("perm", sizes(&back))]);
        if is_bool {
            self.cast(&result, DType::Bool)
        } else {
            result
        }
    }

    /// Indices as `i64`: those below 0 become `low`, those beyond the extent become `extent`.
    fn places(&mut self, indices: &str, extent: i64, low: i64) -> String {
        let indices = self.cast(indices, DType::I64);
        let [zero, last, low] = [0, extent, low].map(|value| self.constant(&Tensor::from_i64([], &[value])));
        let is_low = self.push("Less", &[&indices, &zero], vec![]);
        let capped = self.push("Min", &[&indices, &last], vec![]);
        self.push("Where", &[&is_low, &low, &capped], vec![])
    }

    /// Indices as `gather` reads them: the nearest inside.
    pub(super) fn nearest(&mut self, indices: &str, extent: usize) -> String {
        let last = (extent as i64 - 1).max(0);
        self.places(indices, last, 0)
    }

    /// `CumSum`, or for what else combines a step for each power of two.
    pub(super) fn prefix(&mut self, prefix: &Prefix, x: &str, ty: &Type) -> String {
        let (axis, extent) = (prefix.axis, ty.shape[prefix.axis]);
        if prefix.with == Combine::Sum && ty.dtype != DType::Bool {
            let axis = self.constant(&Tensor::from_i64([], &[axis as i64]));
            let attributes = vec![("exclusive", Value::Int(i64::from(prefix.exclusive)))];
            return self.push("CumSum", &[x, &axis], attributes);
        }
        let is_bool = ty.dtype == DType::Bool;
        let dtype = if is_bool { DType::I32 } else { ty.dtype };
        let op = match prefix.with {
            Combine::Sum => "Add",
            Combine::Product => "Mul",
            Combine::Max | Combine::Any => "Max",
            Combine::Min | Combine::All => "Min",
        };
        let identity = match prefix.with.identity(ty.dtype) {
            Scalar::Bool(value) => Scalar::Int(i128::from(value)),
            other => other,
        };
        let fill = self.constant(&Tensor::scalar(dtype, identity));
        let mut whole = if is_bool { self.cast(x, dtype) } else { x.to_owned() };
        let later = |writer: &mut Writer, x: &str, by: usize| {
            let kept = writer.cut(x, axis, 0, (extent - by) as i64);
            let mut pads = vec![0; 2 * ty.shape.len()];
            pads[axis] = by as i64;
            let pads = writer.ints(&pads);
            writer.push("Pad", &[&kept, &pads, &fill], vec![("mode", Value::Text("constant"))])
        };
        if prefix.exclusive && extent > 0 {
            whole = later(self, &whole, 1);
        }
        let mut by = 1;
        while by < extent {
            let earlier = later(self, &whole, by);
            whole = self.push(op, &[&earlier, &whole], vec![]);
            by *= 2;
        }
        if is_bool { self.cast(&whole, DType::Bool) } else { whole }
    }

    /// The place in its window of each greatest element: from where `MaxPool` found it in the tensor.
    pub(super) fn argmax_pool(&mut self, window: &Window, x: &str, ty: &Type, out: &Type) -> String {
        let Window {
            size,
            stride,
            pad_low,
            pad_high,
            dilation,
        } = window;
        let pads = pad_low.iter().chain(pad_high).map(|&pad| pad as i64);
        let attributes = vec![
            ("kernel_shape", sizes(size)),
            ("strides", sizes(stride)),
            ("pads", Value::Ints(pads.collect())),
            ("dilations", sizes(dilation)),
        ];
        let found = self.push_many("MaxPool", &[x], attributes, 2).remove(1);
        let first = ty.shape.len() - size.len();
        let number = |writer: &mut Writer, value: usize| writer.constant(&Tensor::from_i64([], &[value as i64]));
        let mut tap: Option<String> = None;
        for axis in 0..size.len() {
            let inner: usize = ty.shape[first + axis + 1..].iter().product();
            let (inner, extent) = (number(self, inner), number(self, ty.shape[first + axis]));
            let along = self.push("Div", &[&found, &inner], vec![]);
            let along = self.push("Mod", &[&along, &extent], vec![]);
            let mut beside = vec![1; out.shape.len()];
            beside[first + axis] = out.shape[first + axis];
            let start = Tensor::from_fn(DType::I64, beside, |index| {
                Scalar::Int((index[first + axis] * stride[axis]) as i128 - pad_low[axis] as i128)
            });
            let start = self.constant(&start);
            let by = number(self, dilation[axis]);
            let within = self.push("Sub", &[&along, &start], vec![]);
            let within = self.push("Div", &[&within, &by], vec![]);
            tap = Some(match tap {
                None => within,
                Some(outer) => {
                    let size = number(self, size[axis]);
                    let outer = self.push("Mul", &[&outer, &size], vec![]);
                    self.push("Add", &[&outer, &within], vec![])
                }
            });
        }
        self.cast(&tap.unwrap_or(found), out.dtype)
    }

    pub(super) fn cast(&mut self, x: &str, dtype: DType) -> String {
        self.push("Cast", &[x], vec![("to", Value::Int(tensors::number(dtype).into()))])
    }

    /// So many elements of an axis from `start` on.
    pub(super) fn cut(&mut self, x: &str, axis: usize, start: i64, end: i64) -> String {
        let [start, end, axis] = [start, end, axis as i64].map(|value| self.ints(&[value]));
        self.push("Slice", &[x, &start, &end, &axis], vec![])
    }

    /// So many elements `fill` between each two neighbours along an axis: a new axis after it is padded and then merged.
    pub(super) fn spread(&mut self, x: &str, shape: &mut [i64], axis: usize, between: i64, fill: &Tensor) -> String {
        let after = self.ints(&[axis as i64 + 1]);
        let x = self.push("Unsqueeze", &[x, &after], vec![]);
        let mut pads = vec![0; 2 * (shape.len() + 1)];
        pads[shape.len() + 1 + axis + 1] = between;
        let (pads, fill) = (self.ints(&pads), self.constant(fill));
        let x = self.push("Pad", &[&x, &pads, &fill], vec![("mode", Value::Text("constant"))]);
        shape[axis] *= between + 1;
        let whole = self.ints(shape);
        let x = self.push("Reshape", &[&x, &whole], vec![("allowzero", Value::Int(1))]);
        shape[axis] = (shape[axis] - between).max(0);
        self.cut(&x, axis, 0, shape[axis])
    }

    /// Zeros after the end of an axis.
    fn push_pad(&mut self, x: &str, rank: usize, axis: usize, count: i64) -> String {
        let mut pads = vec![0; 2 * rank];
        pads[rank + axis] = count;
        let pads = self.ints(&pads);
        self.push("Pad", &[x, &pads], vec![("mode", Value::Text("constant"))])
    }
}
