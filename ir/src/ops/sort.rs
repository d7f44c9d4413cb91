//! Sorting, as the order that sorts.

use std::cmp::Ordering;

use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::{DType, Scalar};
use crate::kernel::ExprId;
use crate::kernel::build::KernelCx;
use crate::ops::{Attr, Attrs, Op, Rules, check_axis, operands};
use crate::tensor::{Tensor, Type, unravel};

/// `i64` positions such that gathering along `axis` by them gives the axis in order; stable; NaN last.
///
/// Sorting values, top-k and the median are composites: sort, slice, gather.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sort {
    /// The axis sorted.
    pub axis: usize,
    /// Largest first.
    pub descending: bool,
}

/// The op of that name, if it is of this class.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let sort = || {
        let axis = attrs.size("axis")?;
        let descending = attrs.flag("descending")?;
        Ok(Op::Sort(Sort { axis, descending }))
    };
    (name == "sort").then(sort)
}

impl Rules for Sort {
    fn name(&self) -> &'static str {
        "sort"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        let mut attrs = vec![("axis", Attr::size(self.axis))];
        if self.descending {
            attrs.push(("descending", Attr::Bool(true)));
        }
        attrs
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [x] = operands(args)?;
        check_axis(x, self.axis)?;
        Ok(vec![Type::new(DType::I64, x.shape.clone())])
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let x = args[0];
        let mut order = Tensor::zeros(DType::I64, x.shape());
        let stride: usize = x.shape()[self.axis + 1..].iter().product();
        let starts = (0..x.count()).filter(|&position| unravel(x.shape(), position)[self.axis] == 0);
        for start in starts {
            let mut row: Vec<usize> = (0..x.shape()[self.axis]).collect();
            row.sort_by(|&a, &b| self.compare(x.get(start + a * stride), x.get(start + b * stride)));
            for (place, from) in row.into_iter().enumerate() {
                order.set(start + place * stride, Scalar::Int(from as i128));
            }
        }
        vec![order]
    }

    fn grad<'g>(&self, _vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        vec![None]
    }

    fn kernel(&self, _cx: &mut KernelCx<'_>) -> Option<ExprId> {
        None
    }
}

impl Sort {
    fn compare(&self, a: Scalar, b: Scalar) -> Ordering {
        let ascending = match (a, b) {
            (Scalar::Float(a), Scalar::Float(b)) => match a.partial_cmp(&b) {
                Some(order) => order,
                // NaN is last in either direction.
                None => return a.is_nan().cmp(&b.is_nan()),
            },
            _ => a.as_i128().cmp(&b.as_i128()),
        };
        if self.descending {
            ascending.reverse()
        } else {
            ascending
        }
    }
}

impl<'g> Val<'g> {
    /// The places along `axis` in the order of their elements; equal ones stay in order, NaN is last.
    #[track_caller]
    pub fn argsort(self, axis: usize, descending: bool) -> Val<'g> {
        self.builder().push(Op::Sort(Sort { axis, descending }), &[self])
    }

    /// The elements in order along `axis`, NaN last.
    #[track_caller]
    pub fn sort(self, axis: usize, descending: bool) -> Val<'g> {
        self.take_along_axis(self.argsort(axis, descending), axis)
    }

    /// The `count` greatest elements along `axis`, greatest first, and their places.
    #[track_caller]
    pub fn top_k(self, count: usize, axis: usize) -> (Val<'g>, Val<'g>) {
        let places = self.argsort(axis, true).slice(axis, 0, count);
        (self.take_along_axis(places, axis), places)
    }

    /// The middle element along `axis`, which vanishes; the mean of the middle two of an even number. NaN counts as greatest.
    #[track_caller]
    pub fn median(self, axis: usize) -> Val<'g> {
        let sorted = self.sort(axis, false);
        if sorted.is_poison() {
            return sorted;
        }
        let extent = self.shape()[axis];
        if extent == 0 {
            return self
                .builder()
                .problem(format!("median: axis {axis} of {self} has no elements"));
        }
        let upper = sorted.slice(axis, extent / 2, extent / 2 + 1).squeeze([axis]);
        if extent % 2 == 1 {
            return upper;
        }
        let lower = sorted.slice(axis, extent / 2 - 1, extent / 2).squeeze([axis]);
        (lower + upper) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;
    use crate::autodiff::check::{check_gradients, sample};
    use crate::ops::{assert_round_trip, infer_error};
    use crate::oracle;

    #[test]
    fn sorts_stably_with_nan_last() {
        let nan = f32::NAN;
        let x = Tensor::from_f32([2, 5], &[2.0, nan, -1.0, 2.0, 0.0, 1.0, -0.0, 0.0, nan, nan]);
        let sort = |axis, descending| Sort { axis, descending }.eval(&[&x]).remove(0).to_i64();
        assert_eq!(sort(1, false), [2, 4, 0, 3, 1, 1, 2, 0, 3, 4]);
        assert_eq!(sort(1, true), [0, 3, 4, 2, 1, 0, 1, 2, 3, 4]);
        assert_eq!(sort(0, false), [1, 1, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(
            Sort {
                axis: 0,
                descending: false
            }
            .eval(&[&Tensor::zeros(DType::F32, [0])])[0]
                .count(),
            0
        );
    }

    #[test]
    fn composites_by_hand() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [2, 4]);
        let (values, places) = x.top_k(2, 1);
        let outputs = [
            ("values", values),
            ("places", places),
            ("sorted", x.sort(0, false)),
            ("even", x.median(1)),
            ("odd", x.slice(1, 0, 3).median(1)),
        ];
        let graph = b.finish(outputs).expect("a graph");
        let x = Tensor::from_f32([2, 4], &[3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0]);
        let outputs: Vec<Vec<f32>> = oracle::run(&graph, &[("x", x)])
            .expect("inputs fit")
            .iter()
            .map(|(_, value)| value.to_f32())
            .collect();
        assert_eq!(outputs[0], [4.0, 3.0, 9.0, 6.0]);
        assert_eq!(outputs[1], [2.0, 0.0, 0.0, 2.0]);
        assert_eq!(outputs[2], [3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0]);
        assert_eq!(outputs[3], [2.25, 5.5]);
        assert_eq!(outputs[4], [3.0, 6.0]);
    }

    #[test]
    fn gradients_go_through_the_order() {
        let x = [sample(&[3, 4])];
        check_gradients("sort", &x, |x| x[0].sort(0, true) * x[0]);
        check_gradients("top_k", &x, |x| {
            let values = x[0].top_k(2, 1).0;
            values * values
        });
        check_gradients("median", &x, |x| x[0].median(1) * x[0].median(1));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let sort = Op::Sort(Sort {
            axis: 1,
            descending: false,
        });
        let ty = Type::new(DType::F32, [3]);
        assert_eq!(
            infer_error(&sort, &[&ty]),
            "there is no axis 1 in f32[3], which has 1 axis"
        );
    }

    #[test]
    fn text_attributes_round_trip() {
        for descending in [false, true] {
            assert_round_trip(Op::Sort(Sort { axis: 2, descending }));
        }
    }
}
