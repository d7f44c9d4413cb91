//! Random numbers of common distributions, from the bits of [`Random`](crate::ops::Random).
//!
//! `key` is the program's seed and `step` its counter of runs; each call draws bits of its own.

use std::f64::consts::TAU;

use crate::builder::{Builder, Val};
use crate::dtype::DType;

/// The distance between the 2^24 uniform numbers, all of which `f32` holds exactly.
const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// Counters are drawn by the cache line of the smallest results, bytes, so that the four parts of a tensor lie aligned.
const COUNTERS: usize = 64;

impl Builder {
    /// Random `u32` bits: the first words of all counters, then the second ones, and so on.
    #[track_caller]
    pub fn random_bits<'g>(&'g self, key: Val<'g>, step: Val<'g>, shape: impl Into<Vec<usize>>) -> Val<'g> {
        self.drawn(key, step, shape.into(), |words| words)
    }

    /// `f32` numbers of `[0, 1)`: the upper 24 bits of each word, over 2^24.
    #[track_caller]
    pub fn uniform<'g>(&'g self, key: Val<'g>, step: Val<'g>, shape: impl Into<Vec<usize>>) -> Val<'g> {
        self.drawn(key, step, shape.into(), |words| words.map(|word| whole(word) * UNIT))
    }

    /// `f32` numbers of the normal distribution with mean 0 and variance 1: `sqrt(-2 ln u) cos(2 π v)` and `sqrt(-2 ln u) sin(2 π v)` of two
    /// independent uniforms, `u` of `(0, 1]` and `v` of `[0, 1)`.
    ///
    /// G. Box, M. Muller, "A note on the generation of random normal deviates", 1958.
    #[track_caller]
    pub fn normal<'g>(&'g self, key: Val<'g>, step: Val<'g>, shape: impl Into<Vec<usize>>) -> Val<'g> {
        let pair = |u: Val<'g>, v: Val<'g>| {
            let radius = (((whole(u) + 1.0) * UNIT).log() * -2.0).sqrt();
            let angle = whole(v) * (UNIT * TAU);
            [radius * angle.cos(), radius * angle.sin()]
        };
        self.drawn(key, step, shape.into(), |[a, b, c, d]| {
            let ([first, second], [third, fourth]) = (pair(a, b), pair(c, d));
            [first, second, third, fourth]
        })
    }

    /// `bool`s that are true with `probability`, to within 2^-24.
    #[track_caller]
    pub fn bernoulli<'g>(
        &'g self,
        key: Val<'g>,
        step: Val<'g>,
        shape: impl Into<Vec<usize>>,
        probability: f64,
    ) -> Val<'g> {
        self.drawn(key, step, shape.into(), |words| {
            words.map(|word| (whole(word) * UNIT).lt(probability))
        })
    }

    /// A tensor of what is made of the words of enough counters.
    #[track_caller]
    fn drawn<'g>(
        &'g self,
        key: Val<'g>,
        step: Val<'g>,
        shape: Vec<usize>,
        make: impl FnOnce([Val<'g>; 4]) -> [Val<'g>; 4],
    ) -> Val<'g> {
        let count: usize = shape.iter().product();
        let counters = count.div_ceil(4).next_multiple_of(COUNTERS);
        let parts = make(self.random_words(key, step, counters));
        Val::concat(&parts, 0).slice(0, 0, count).reshape(shape)
    }
}

/// Whole `f32` numbers of `[0, 2^24)`.
#[track_caller]
fn whole(word: Val<'_>) -> Val<'_> {
    (word >> word.lit(8.0)).cast(DType::F32)
}

#[cfg(test)]
mod tests {
    use crate::Builder;
    use crate::dtype::{DType, Scalar};
    use crate::oracle;
    use crate::tensor::Tensor;

    /// Sample moments of 4096 draws lie within five standard errors of the distribution's.
    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        const COUNT: usize = 4096;
        let b = Builder::new();
        let (key, step) = (b.scalar(DType::U64, 17.0), b.scalar(DType::U64, 3.0));
        let outputs = [
            ("uniform", b.uniform(key, step, [COUNT])),
            ("normal", b.normal(key, step, [COUNT])),
            ("bernoulli", b.bernoulli(key, step, [COUNT], 0.25).cast(DType::F32)),
        ];
        let graph = b.finish(outputs).expect("a graph");
        let outputs = oracle::run(&graph, &[]).expect("no inputs");
        // Mean, variance and fourth central moment.
        let expected = [(0.5, 1.0 / 12.0, 1.0 / 80.0), (0.0, 1.0, 3.0), (0.25, 0.1875, 0.0820)];
        for ((name, draws), (mean, variance, fourth)) in outputs.iter().zip(expected) {
            let moment = |power: i32| {
                let sum: f64 = draws.scalars().map(|x| (x.as_f64() - mean).powi(power)).sum();
                sum / COUNT as f64
            };
            let error = |variance: f64| 5.0 * (variance / COUNT as f64).sqrt();
            assert!(moment(1).abs() < error(variance), "mean of {name}");
            let distance = (moment(2) - variance).abs();
            assert!(distance < error(fourth - variance * variance), "variance of {name}");
        }
        assert!(outputs[0].1.scalars().all(|x| (0.0..1.0).contains(&x.as_f64())));
        assert!(outputs[1].1.scalars().all(|x| x.as_f64().is_finite()));
    }

    #[test]
    fn each_draw_and_each_step_differs() {
        let b = Builder::new();
        let key = b.scalar(DType::U64, 1.0);
        let step = b.input("step", DType::U64, []);
        let outputs = [("a", b.uniform(key, step, [8])), ("b", b.uniform(key, step, [8]))];
        let graph = b.finish(outputs).expect("a graph");
        let run = |step| {
            let step = Tensor::scalar(DType::U64, Scalar::Int(step));
            let outputs = oracle::run(&graph, &[("step", step)]).expect("inputs fit");
            outputs.into_iter().map(|(_, value)| value.to_f32()).collect::<Vec<_>>()
        };
        let (first, second) = (run(0), run(1));
        assert_ne!(first[0], first[1]);
        assert_ne!(first[0], second[0]);
        assert_eq!(first, run(0));
    }
}
