//! Functions of whole rows: softmax and its kin, moments, normalisation, cross entropy.

use crate::builder::Val;
use crate::dtype::DType;

impl<'g> Val<'g> {
    /// The same value, through which no gradient flows: a round trip through the bits, which are integers.
    #[track_caller]
    pub fn stop_gradient(self) -> Val<'g> {
        let dtype = self.dtype();
        let bits = match dtype.size_bytes() {
            _ if !dtype.is_float() => return self,
            2 => DType::U16,
            4 => DType::U32,
            _ => DType::U64,
        };
        self.bitcast(bits).bitcast(dtype)
    }

    /// `e^x / Σ e^x` along `axis`; the maximum is subtracted first, so that `exp` cannot overflow.
    #[track_caller]
    pub fn softmax(self, axis: usize) -> Val<'g> {
        let e = self.less_max(axis).exp();
        e / e.sum([axis]).spread(&[axis], &self.shape())
    }

    /// `x - ln Σ e^x` along `axis`: the logarithm of softmax, accurate where that is tiny.
    #[track_caller]
    pub fn log_softmax(self, axis: usize) -> Val<'g> {
        let shifted = self.less_max(axis);
        shifted - shifted.exp().sum([axis]).log().spread(&[axis], &self.shape())
    }

    /// `ln Σ e^x` along `axis`, which vanishes.
    #[track_caller]
    pub fn logsumexp(self, axis: usize) -> Val<'g> {
        let max = self.max_over([axis]).stop_gradient();
        // A row of infinities is not shifted, as ∞ - ∞ is NaN.
        let shift = max.is_finite().select(max, 0.0);
        let shifted = self - shift.spread(&[axis], &self.shape());
        shifted.exp().sum([axis]).log() + shift
    }

    /// The gradient of a shift cancels in all that this is used for, so it is not built.
    #[track_caller]
    fn less_max(self, axis: usize) -> Val<'g> {
        self - self.max_over([axis]).stop_gradient().spread(&[axis], &self.shape())
    }

    /// The mean along axes, which vanish.
    #[track_caller]
    pub fn mean(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        let axes = axes.into();
        let count = self.extent_over(&axes);
        self.sum(axes) / count
    }

    /// The square root of [`Val::variance`].
    #[track_caller]
    pub fn deviation(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        self.variance(axes).sqrt()
    }

    /// The Euclidean norm along axes, which vanish.
    #[track_caller]
    pub fn norm(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        self.square().sum(axes).sqrt()
    }

    /// The distance of the greatest element from the least along axes, which vanish.
    #[track_caller]
    pub fn extent(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        let axes = axes.into();
        self.max_over(axes.clone()) - self.min_over(axes)
    }

    /// How many elements are not 0 along axes, which vanish; an `i64`.
    #[track_caller]
    pub fn count_nonzero(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        self.cast(DType::Bool).cast(DType::I64).sum(axes)
    }

    /// The mean of the squared distances from the mean along axes, which vanish.
    #[track_caller]
    pub fn variance(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        let axes = axes.into();
        let distance = self - self.mean(axes.clone()).spread(&axes, &self.shape());
        (distance * distance).mean(axes)
    }

    /// As [`Val::variance`], divided by one less than the count: an estimate without bias from a sample.
    #[track_caller]
    pub fn sample_variance(self, axes: impl Into<Vec<usize>>) -> Val<'g> {
        let axes = axes.into();
        let count = self.extent_over(&axes);
        self.variance(axes) * (count / (count - 1.0))
    }

    /// `(x - mean) / sqrt(variance + epsilon)` along axes, which stay.
    #[track_caller]
    pub fn standardise(self, axes: impl Into<Vec<usize>>, epsilon: f64) -> Val<'g> {
        let (axes, shape) = (axes.into(), self.shape());
        let distance = self - self.mean(axes.clone()).spread(&axes, &shape);
        let variance = (distance * distance).mean(axes.clone());
        distance / (variance + epsilon).sqrt().spread(&axes, &shape)
    }

    /// Layer normalisation: standardised along axes, times `scale`, plus `shift`, both broadcast.
    #[track_caller]
    pub fn layer_norm(self, axes: impl Into<Vec<usize>>, scale: Val<'g>, shift: Val<'g>, epsilon: f64) -> Val<'g> {
        self.standardise(axes, epsilon) * scale + shift
    }

    /// For logits whose last axis counts classes, `-ln softmax` of each row at its integer label. A label that is no class gives 0,
    /// and no gradient.
    #[track_caller]
    pub fn cross_entropy(self, labels: Val<'g>) -> Val<'g> {
        let shape = self.shape();
        let Some((&classes, rows)) = shape.split_last() else {
            return self.without_classes();
        };
        if !self.is_poison() && !labels.is_poison() && labels.shape() != rows {
            let message = format!("cross_entropy: there must be one label a row, found {labels} for {self}");
            return self.builder().problem(message);
        }
        let chosen = labels.one_hot(classes, DType::Bool);
        -chosen.select(self.log_softmax(rows.len()), 0.0).sum([rows.len()])
    }

    /// For logits whose last axis counts classes, `-Σ p ln softmax` of each row with its probabilities.
    #[track_caller]
    pub fn cross_entropy_with(self, probabilities: Val<'g>) -> Val<'g> {
        match self.rank().checked_sub(1) {
            Some(axis) => -(probabilities * self.log_softmax(axis)).sum([axis]),
            None => self.without_classes(),
        }
    }

    #[track_caller]
    fn without_classes(self) -> Val<'g> {
        if self.is_poison() {
            return self;
        }
        self.builder()
            .problem(format!("cross_entropy: {self} has no axis of classes"))
    }

    /// The number of elements that a fold over `axes` combines; 1 for axes that are wrong, which the fold reports.
    fn extent_over(self, axes: &[usize]) -> f64 {
        let shape = self.shape();
        axes.iter()
            .map(|&axis| shape.get(axis).copied().unwrap_or(1) as f64)
            .product()
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::check::{check_gradients, sample};
    use crate::builder::{Builder, Val};
    use crate::dtype::{DType, Scalar};
    use crate::oracle;
    use crate::tensor::Tensor;

    fn row_function<const N: usize>(row: &[f64], build: impl for<'g> Fn(Val<'g>) -> [Val<'g>; N]) -> [Vec<f64>; N] {
        let b = Builder::new();
        let x = b.input("x", DType::F64, [row.len()]);
        let outputs = build(x)
            .into_iter()
            .enumerate()
            .map(|(place, val)| (place.to_string(), val));
        let graph = b.finish(outputs).expect("a graph");
        let x = Tensor::from_scalars(DType::F64, [row.len()], row.iter().copied().map(Scalar::Float));
        let outputs = oracle::run(&graph, &[("x", x)]).expect("inputs fit");
        let elements = |(_, value): (String, Tensor)| value.scalars().map(Scalar::as_f64).collect();
        let outputs: Vec<Vec<f64>> = outputs.into_iter().map(elements).collect();
        outputs.try_into().expect("as many outputs as built")
    }

    #[test]
    fn extreme_rows_neither_overflow_nor_vanish() {
        let [softmax, log_softmax, logsumexp] =
            row_function(&[1000.0, 0.0], |x| [x.softmax(0), x.log_softmax(0), x.logsumexp(0)]);
        assert_eq!(
            (softmax, log_softmax, logsumexp),
            (vec![1.0, 0.0], vec![0.0, -1000.0], vec![1000.0])
        );
        let low = f64::NEG_INFINITY;
        assert_eq!(row_function(&[low, low], |x| [x.logsumexp(0)]), [[low]]);
        assert_eq!(
            row_function(&[f64::INFINITY, 0.0], |x| [x.logsumexp(0)]),
            [[f64::INFINITY]]
        );
    }

    #[test]
    fn moments_by_hand() {
        let [mean, variance, sample_variance, standard] = row_function(&[1.0, 3.0, 1.0, 3.0], |x| {
            [
                x.mean([0]),
                x.variance([0]),
                x.sample_variance([0]),
                x.standardise([0], 0.0),
            ]
        });
        assert_eq!((mean, variance), (vec![2.0], vec![1.0]));
        assert!((sample_variance[0] - 4.0 / 3.0).abs() < 1e-15);
        assert_eq!(standard, [-1.0, 1.0, -1.0, 1.0]);
        let found = row_function(&[3.0, 0.0, -4.0, 0.0], |x| {
            [
                x.norm([0]),
                x.extent([0]),
                x.count_nonzero([0]).cast(DType::F64),
                x.deviation([0]),
            ]
        });
        assert_eq!(found[..3], [[5.0], [7.0], [2.0]]);
        assert!((found[3][0] - 6.1875f64.sqrt()).abs() < 1e-15);
    }

    #[test]
    fn a_label_that_is_no_class_counts_nothing() {
        let b = Builder::new();
        let x = b.input("x", DType::F64, [3, 2]);
        let labels = b.constant(Tensor::from_i64([3], &[0, 2, -1]));
        let loss = x.cross_entropy(labels);
        let gradient = crate::autodiff::grad(loss.sum_all(), &[x])[0];
        let graph = b.finish([("loss", loss), ("gradient", gradient)]).expect("a graph");
        let outputs = oracle::run(&graph, &[("x", Tensor::zeros(DType::F64, [3, 2]))]).expect("inputs fit");
        assert_eq!(outputs[0].1.to_f32(), [std::f32::consts::LN_2, 0.0, 0.0]);
        assert_eq!(outputs[1].1.to_f32(), [-0.5, 0.5, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn gradients() {
        let x = [sample(&[3, 4])];
        check_gradients("softmax", &x, |x| x[0].softmax(1));
        check_gradients("softmax along the first axis", &x, |x| x[0].softmax(0));
        check_gradients("log_softmax", &x, |x| x[0].log_softmax(1));
        check_gradients("logsumexp", &x, |x| x[0].logsumexp(1));
        check_gradients("variance", &x, |x| x[0].variance([1]));
        check_gradients("deviation", &x, |x| x[0].deviation([0]));
        check_gradients("norm", &x, |x| x[0].norm([1]));
        check_gradients("extent", &x, |x| x[0].extent([1]));
        check_gradients("sample_variance", &x, |x| x[0].sample_variance([0, 1]));
        check_gradients("standardise", &x, |x| x[0].standardise([1], 1e-3));
        check_gradients("layer_norm", &[sample(&[3, 4]), sample(&[4]), sample(&[4])], |x| {
            x[0].layer_norm([1], x[1], x[2], 1e-3)
        });
        check_gradients("cross_entropy", &x, |x| {
            let labels = x[0].builder().constant(Tensor::from_i64([3], &[2, 0, 3]));
            x[0].cross_entropy(labels)
        });
        check_gradients("cross_entropy_with", &[sample(&[3, 4]), sample(&[3, 4])], |x| {
            x[0].cross_entropy_with(x[1])
        });
    }

    #[test]
    fn shapes_that_do_not_fit_are_said() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [3, 4]);
        let labels = b.input("labels", DType::I64, [4]);
        x.cross_entropy(labels);
        x.sum_all().cross_entropy(labels);
        let messages: Vec<String> = b.problems().into_iter().map(|problem| problem.message).collect();
        assert_eq!(
            messages,
            [
                "cross_entropy: there must be one label a row, found %1: i64[4] for %0: f32[3,4]",
                "cross_entropy: %2: f32[] has no axis of classes",
            ]
        );
    }
}
