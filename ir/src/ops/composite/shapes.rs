//! Functions that move elements: NumPy's beside the views.

use crate::builder::Val;
use crate::dtype::DType;

impl<'g> Val<'g> {
    /// The whole repeated so many times along each axis; `times` has one for each.
    #[track_caller]
    pub fn tile(self, times: &[usize]) -> Val<'g> {
        let (shape, rank) = (self.shape(), self.rank());
        if self.is_poison() || times.len() != rank {
            return self.misfit(&format!("tile: {} factors for the axes", times.len()));
        }
        // A new axis in front of each axis, along which nothing changes.
        let places: Vec<usize> = (0..rank).map(|axis| 2 * axis).collect();
        let pairs = times.iter().zip(&shape);
        let spread: Vec<usize> = pairs.flat_map(|(&times, &extent)| [times, extent]).collect();
        let whole: Vec<usize> = (0..rank).map(|axis| times[axis] * shape[axis]).collect();
        self.unsqueeze(places).broadcast(spread).reshape(whole)
    }

    /// Each element so many times in a row along `axis`.
    #[track_caller]
    pub fn repeat(self, axis: usize, times: usize) -> Val<'g> {
        let mut shape = self.shape();
        if self.is_poison() || axis >= shape.len() {
            return self.misfit(&format!("repeat: no axis {axis}"));
        }
        let mut spread = shape.clone();
        spread.insert(axis + 1, times);
        shape[axis] *= times;
        self.unsqueeze([axis + 1]).broadcast(spread).reshape(shape)
    }

    /// Each element `by` places further along `axis`, those at the end at the start again.
    #[track_caller]
    pub fn roll(self, axis: usize, by: i64) -> Val<'g> {
        let Some(&extent) = self.shape().get(axis) else {
            return self.misfit(&format!("roll: no axis {axis}"));
        };
        if self.is_poison() || extent == 0 {
            return self;
        }
        let by = by.rem_euclid(extent as i64) as usize;
        if by == 0 {
            return self;
        }
        let (first, last) = (self.slice(axis, 0, extent - by), self.slice(axis, extent - by, extent));
        Val::concat(&[last, first], axis)
    }

    /// The axis `from` as axis `to`, the others in their order.
    #[track_caller]
    pub fn move_axis(self, from: usize, to: usize) -> Val<'g> {
        let mut order: Vec<usize> = (0..self.rank()).collect();
        if self.is_poison() || from.max(to) >= order.len() {
            return self.misfit(&format!("move_axis: no axis {}", from.max(to)));
        }
        let axis = order.remove(from);
        order.insert(to, axis);
        self.permute(order)
    }

    /// The differences of neighbours along `axis`, one fewer than there are elements.
    #[track_caller]
    pub fn diff(self, axis: usize) -> Val<'g> {
        match self.shape().get(axis).copied() {
            _ if self.is_poison() => self,
            Some(extent) if extent > 0 => self.slice(axis, 1, extent) - self.slice(axis, 0, extent - 1),
            _ => self.misfit(&format!("diff: no elements along axis {axis}")),
        }
    }

    /// The elements at equal places along the last two axes, as a last axis.
    #[track_caller]
    pub fn diagonal(self) -> Val<'g> {
        match self.shape().as_slice() {
            [.., rows, columns] if rows == columns => {
                let on_diagonal = self.kept("diagonal", |row, column| row.eq(column));
                on_diagonal.sum([self.rank() - 1])
            }
            _ => self.misfit("diagonal: no square matrices"),
        }
    }

    /// The sum of [`Val::diagonal`].
    #[track_caller]
    pub fn trace(self) -> Val<'g> {
        let diagonal = self.diagonal();
        diagonal.sum([diagonal.rank().saturating_sub(1)])
    }

    /// The lower triangles of the matrices along the last two axes, zeros above the diagonal moved right by `diagonal`.
    #[track_caller]
    pub fn lower_triangle(self, diagonal: i64) -> Val<'g> {
        self.kept("lower_triangle", |row, column| {
            column.le(row + row.lit(diagonal as f64))
        })
    }

    /// The upper triangles of the matrices along the last two axes, zeros below the diagonal moved right by `diagonal`.
    #[track_caller]
    pub fn upper_triangle(self, diagonal: i64) -> Val<'g> {
        self.kept("upper_triangle", |row, column| {
            column.ge(row + row.lit(diagonal as f64))
        })
    }

    /// The matrices along the last two axes, and zeros where `is_kept` does not hold of the numbers of row and column.
    #[track_caller]
    fn kept(self, name: &str, is_kept: impl FnOnce(Val<'g>, Val<'g>) -> Val<'g>) -> Val<'g> {
        let (b, shape, rank) = (self.builder(), self.shape(), self.rank());
        if self.is_poison() || rank < 2 {
            return self.misfit(&format!("{name}: no matrices"));
        }
        let [row, column] = [rank - 2, rank - 1].map(|axis| b.iota(DType::I64, shape.clone(), axis));
        is_kept(row, column).select(self, 0.0)
    }

    /// Reports what this value does not fit, unless that has been reported already.
    #[track_caller]
    fn misfit(self, what: &str) -> Val<'g> {
        if self.is_poison() {
            return self;
        }
        self.builder().problem(format!("{what} of {self}"))
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::check::{check_gradients, sample};
    use crate::builder::{Builder, Val};
    use crate::dtype::DType;
    use crate::oracle;
    use crate::tensor::Tensor;

    type Function = for<'g> fn(Val<'g>) -> Val<'g>;

    /// A function, the shape it is given, and the shape and elements of what it makes of the numbers from 0.
    type Case = (&'static str, [usize; 2], Function, &'static [usize], &'static [i64]);

    static CASES: &[Case] = &[
        (
            "tile",
            [2, 3],
            |x| x.tile(&[1, 2]),
            &[2, 6],
            &[0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5],
        ),
        (
            "repeat",
            [2, 3],
            |x| x.repeat(0, 2),
            &[4, 3],
            &[0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5],
        ),
        ("repeat", [1, 3], |x| x.repeat(1, 2), &[1, 6], &[0, 0, 1, 1, 2, 2]),
        ("roll", [2, 3], |x| x.roll(1, 1), &[2, 3], &[2, 0, 1, 5, 3, 4]),
        ("roll", [2, 3], |x| x.roll(1, -4), &[2, 3], &[1, 2, 0, 4, 5, 3]),
        ("roll", [2, 3], |x| x.roll(0, 2), &[2, 3], &[0, 1, 2, 3, 4, 5]),
        ("move_axis", [2, 3], |x| x.move_axis(0, 1), &[3, 2], &[0, 3, 1, 4, 2, 5]),
        ("diff", [2, 3], |x| (x * x).diff(1), &[2, 2], &[1, 3, 7, 9]),
        ("diagonal", [3, 3], |x| x.diagonal(), &[3], &[0, 4, 8]),
        ("trace", [3, 3], |x| x.trace(), &[], &[12]),
        (
            "lower_triangle",
            [3, 3],
            |x| x.lower_triangle(0),
            &[3, 3],
            &[0, 0, 0, 3, 4, 0, 6, 7, 8],
        ),
        (
            "lower_triangle",
            [2, 3],
            |x| x.lower_triangle(-1),
            &[2, 3],
            &[0, 0, 0, 3, 0, 0],
        ),
        (
            "upper_triangle",
            [2, 3],
            |x| x.upper_triangle(1),
            &[2, 3],
            &[0, 1, 2, 0, 0, 5],
        ),
    ];

    #[test]
    fn elements_go_where_numpy_puts_them() {
        for &(name, shape, function, expected, elements) in CASES {
            let b = Builder::new();
            let x = b.input("x", DType::I64, shape);
            let graph = b.finish([("y", function(x))]).expect("a graph");
            let count = (shape[0] * shape[1]) as i64;
            let counted = Tensor::from_i64(shape, &(0..count).collect::<Vec<_>>());
            let found = &oracle::run(&graph, &[("x", counted)]).expect("inputs fit")[0].1;
            assert_eq!(
                (found.shape(), found.to_i64().as_slice()),
                (expected, elements),
                "{name}"
            );
        }
    }

    #[test]
    fn gradients_go_back() {
        for &(name, shape, function, ..) in CASES {
            check_gradients(name, &[sample(&shape)], |x| function(x[0]).square());
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [2, 3]);
        let wrong = [
            x.tile(&[2]),
            x.repeat(2, 2),
            x.roll(7, 1),
            x.move_axis(0, 2),
            x.diff(2),
            x.trace(),
        ];
        assert!(wrong.iter().all(|y| y.is_poison()));
        let messages: Vec<String> = b.problems().into_iter().map(|problem| problem.message).collect();
        let expected = [
            "tile: 1 factors for the axes of %0: f32[2,3]",
            "repeat: no axis 2 of %0: f32[2,3]",
            "roll: no axis 7 of %0: f32[2,3]",
            "move_axis: no axis 2 of %0: f32[2,3]",
            "diff: no elements along axis 2 of %0: f32[2,3]",
            "diagonal: no square matrices of %0: f32[2,3]",
        ];
        assert_eq!(messages, expected);
    }
}
