//! Random bits: Philox 4x32-10, counter-based, the same on every backend.
//!
//! J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

/// A tensor of independent random `u32`, a pure function of its operands and attributes.
///
/// Operands: `key` (`u64` scalar, the seed) and `step` (`u64` scalar, which the program increments at each run). Element `e` in
/// row-major order is one word of Philox4x32-10 with key `(key_low, key_high)` and counter `(e, stream, step_low, step_high)`. The four words
/// of a counter are four tensors, which one kernel makes at once; [`Builder::random_bits`](crate::Builder::random_bits) joins them.
///
/// Uniforms, normals and Bernoulli masks are composites over the words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Random {
    /// The shape of the result.
    pub shape: Vec<usize>,
    /// Which of a counter's four words, from 0.
    pub word: usize,
    /// A number that the builder makes distinct for each draw of a program, so that two dropouts never share bits.
    pub stream: u32,
}

use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::{DType, Scalar};
use crate::kernel::build::{KernelCx, X};
use crate::kernel::{ExprId, Prim};
use crate::ops::{Attr, Attrs, Op, Rules, operands};
use crate::tensor::{Tensor, Type};

/// The op of that name, if it is of this class.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let random = || {
        let shape = attrs.sizes("")?;
        let within = |name: &str, most: u32| {
            let value = attrs.int(name)?;
            let fits = u32::try_from(value).ok().filter(|&value| value <= most);
            fits.ok_or_else(|| format!("attribute `{name}` must be from 0 to {most}, found {value}"))
        };
        let word = within("word", 3)? as usize;
        let stream = within("stream", u32::MAX)?;
        Ok(Op::Random(Random { shape, word, stream }))
    };
    (name == "random").then(random)
}

/// The multipliers of Philox 4x32.
pub const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What is added to the two words of the key after each round.
pub const INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// The number of rounds.
pub const ROUNDS: usize = 10;

/// Philox4x32-10: four random words from a counter and a key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [first, second] = [(0, 0), (2, 1)].map(|(word, which)| {
            let product = u64::from(counter[word]) * u64::from(MULTIPLIERS[which]);
            ((product >> 32) as u32, product as u32)
        });
        counter = [
            second.0 ^ counter[1] ^ key[0],
            second.1,
            first.0 ^ counter[3] ^ key[1],
            first.1,
        ];
        key = [key[0].wrapping_add(INCREMENTS[0]), key[1].wrapping_add(INCREMENTS[1])];
    }
    counter
}

/// The same as kernel expressions, all of type `u32`.
fn philox_body<'k>(mut counter: [X<'k>; 4], mut key: [X<'k>; 2]) -> [X<'k>; 4] {
    for _ in 0..ROUNDS {
        let [first, second] = [(0, 0), (2, 1)].map(|(word, which)| {
            let multiplier = counter[word].int(i128::from(MULTIPLIERS[which]));
            let high = counter[word].prim(Prim::MulHi, DType::U32, &[multiplier]);
            (high, counter[word] * multiplier)
        });
        counter = [
            second.0.xor(counter[1]).xor(key[0]),
            second.1,
            first.0.xor(counter[3]).xor(key[1]),
            first.1,
        ];
        let next = |which: usize| key[which] + key[which].int(i128::from(INCREMENTS[which]));
        key = [next(0), next(1)];
    }
    counter
}

impl Rules for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        vec![
            ("", Attr::sizes(&self.shape)),
            ("word", Attr::Int(self.word as i64)),
            ("stream", Attr::Int(i64::from(self.stream))),
        ]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [key, step] = operands(args)?;
        for (name, ty) in [("key", key), ("step", step)] {
            if ty.dtype != DType::U64 || ty.rank() != 0 {
                return Err(format!("the {name} must be u64[], found {ty}"));
            }
        }
        let ty = Type::new(DType::U32, self.shape.clone());
        ty.check()?;
        // They are numbered by the counter's first word.
        if ty.count() > 1 << 32 {
            return Err(format!("draws 2^32 elements at most, found {ty}"));
        }
        Ok(vec![ty])
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let [key, step] = [args[0], args[1]].map(|arg| arg.get(0).as_i128() as u64);
        let halves = |value: u64| [value as u32, (value >> 32) as u32];
        let [step_low, step_high] = halves(step);
        let word = |element: usize| {
            let words = philox([element as u32, self.stream, step_low, step_high], halves(key));
            Scalar::Int(i128::from(words[self.word]))
        };
        let count = self.shape.iter().product();
        vec![Tensor::from_scalars(
            DType::U32,
            self.shape.clone(),
            (0..count).map(word),
        )]
    }

    fn grad<'g>(&self, _vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        vec![None, None]
    }

    fn kernel(&self, cx: &mut KernelCx<'_>) -> Option<ExprId> {
        let mut element = cx.int(0);
        for (&at, &extent) in cx.index().iter().zip(&self.shape) {
            element = element * cx.int(extent as i64) + cx.x(at);
        }
        let (key, step) = (cx.arg(0, Vec::new()), cx.arg(1, Vec::new()));
        let halves = |x: X<'_>| [x, x.shr(x.int(32))].map(|half| half.cast(DType::U32).id());
        let ([key_low, key_high], [step_low, step_high]) = (halves(cx.x(key)), halves(cx.x(step)));
        let stream = cx.constant(DType::U32, Scalar::Int(i128::from(self.stream)));
        let counter = [element.cast(DType::U32), stream, cx.x(step_low), cx.x(step_high)];
        let words = philox_body(counter, [cx.x(key_low), cx.x(key_high)]);
        Some(words[self.word].id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{assert_round_trip, infer_error};

    /// The known answers published with the generator (`kat_vectors` of Random123).
    #[test]
    fn philox_gives_the_published_answers() {
        let ones = u32::MAX;
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (
                [ones; 4],
                [ones; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn the_kernel_computes_the_same_words() {
        let exprs = std::cell::RefCell::new(crate::kernel::Exprs::default());
        let constant = |value: u32| {
            let id = exprs.borrow_mut().constant(DType::U32, Scalar::Int(i128::from(value)));
            X::new(&exprs, id)
        };
        let (counter, key) = ([7, u32::MAX, 3, 0x1234_5678], [0x9abc_def0, 11]);
        let words = philox_body(counter.map(constant), key.map(constant));
        let words = words.map(|word| exprs.borrow().as_const(word.id()).expect("constants fold"));
        assert_eq!(words, philox(counter, key).map(|word| Scalar::Int(i128::from(word))));
    }

    #[test]
    fn elements_are_words_of_their_counters() {
        let random = Random {
            shape: vec![3, 50],
            word: 2,
            stream: 9,
        };
        let scalar = |value: u64| Tensor::scalar(DType::U64, Scalar::Int(i128::from(value)));
        let (key, step) = (0x0123_4567_89ab_cdef, (5 << 32) + 6);
        let found = random.eval(&[&scalar(key), &scalar(step)]).remove(0);
        for element in [0, 1, 50, 149] {
            let expected = philox([element as u32, 9, 6, 5], [0x89ab_cdef, 0x0123_4567])[2];
            assert_eq!(
                found.get(element),
                Scalar::Int(i128::from(expected)),
                "element {element}"
            );
        }
        for other in [
            Random {
                stream: 10,
                ..random.clone()
            },
            Random { word: 3, ..random },
        ] {
            assert_ne!(other.eval(&[&scalar(key), &scalar(step)])[0], found);
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let random = |shape: &[usize]| {
            Op::Random(Random {
                shape: shape.to_vec(),
                word: 0,
                stream: 0,
            })
        };
        let (scalar, wrong) = (Type::new(DType::U64, []), Type::new(DType::U32, []));
        for (op, args, expected) in [
            (
                random(&[2]),
                vec![&scalar, &wrong],
                "the step must be u64[], found u32[]",
            ),
            (random(&[2]), vec![&scalar], "takes 2 operands, found 1"),
            (
                random(&[1 << 20, 1 << 20]),
                vec![&scalar, &scalar],
                "draws 2^32 elements at most, found u32[1048576,1048576]",
            ),
        ] {
            assert_eq!(infer_error(&op, &args), expected);
        }
    }

    #[test]
    fn text_attributes_round_trip() {
        assert_round_trip(Op::Random(Random {
            shape: vec![],
            word: 3,
            stream: u32::MAX,
        }));
        assert_round_trip(Op::Random(Random {
            shape: vec![3, 0],
            word: 0,
            stream: 0,
        }));
    }
}
