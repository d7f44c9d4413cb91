//! Random bits: ONNX's own draws are other numbers on every engine, so ours are computed as their definition says.

use netloom_ir::ops::random::{INCREMENTS, MULTIPLIERS, ROUNDS, Random};
use netloom_ir::{DType, Scalar, Tensor};

use super::{Value, Writer};

impl Writer {
    /// Philox 4x32-10 over all counters at once, each word in 64 bits.
    pub(super) fn random(&mut self, random: &Random, key: &str, step: &str) -> String {
        let count: usize = random.shape.iter().product();
        let numbers = (0..count).map(|element| Scalar::Int(element as i128));
        let element = self.constant(&Tensor::from_scalars(DType::U64, random.shape.clone(), numbers));
        let stream = self.word(random.stream);
        let ([step_low, step_high], mut key) = (self.halves(step), self.halves(key));
        let mut counter = [element, stream, step_low, step_high];
        for _ in 0..ROUNDS {
            let [first, second] = [(0, 0), (2, 1)].map(|(word, which)| {
                let product = self.signed("Mul", &counter[word], MULTIPLIERS[which]);
                self.halves(&product)
            });
            let ([first_low, first_high], [second_low, second_high]) = (first, second);
            let mixed = [(second_high, &counter[1], &key[0]), (first_high, &counter[3], &key[1])];
            let [zero, two] = mixed.map(|(high, word, key)| {
                let both = self.push("BitwiseXor", &[&high, word], vec![]);
                self.push("BitwiseXor", &[&both, key], vec![])
            });
            counter = [zero, second_low, two, first_low];
            key = [0, 1].map(|which| {
                let next = self.signed("Add", &key[which], INCREMENTS[which]);
                self.low(&next)
            });
        }
        self.cast(&counter[random.word], DType::U32)
    }

    fn word(&mut self, value: u32) -> String {
        self.constant(&Tensor::scalar(DType::U64, Scalar::Int(value.into())))
    }

    /// The lower and the upper 32 bits.
    fn halves(&mut self, x: &str) -> [String; 2] {
        let bits = self.word(32);
        let high = self.push("BitShift", &[x, &bits], vec![("direction", Value::Text("RIGHT"))]);
        [self.low(x), high]
    }

    fn low(&mut self, x: &str) -> String {
        let mask = self.word(u32::MAX);
        self.push("BitwiseAnd", &[x, &mask], vec![])
    }

    /// Arithmetic on 64 bits, in signed numbers, for which ONNX Runtime has it; the bits are the same.
    fn signed(&mut self, op: &str, x: &str, y: u32) -> String {
        let x = self.cast(x, DType::I64);
        let y = self.constant(&Tensor::scalar(DType::I64, Scalar::Int(y.into())));
        let result = self.push(op, &[&x, &y], vec![]);
        self.cast(&result, DType::U64)
    }
}
