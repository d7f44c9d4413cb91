//! `x · y + z` with one rounding, in integers, for devices that round twice: exact for every operand, the subnormal and the greatest too.
//!
//! A float is `m · 2^(e - bias - (p - 1))` with a mantissa of `p` bits and an exponent of at least 1. The product of two mantissas has `2 p`
//! bits; it and the mantissa of `z` are aligned in a frame of two words, with what falls out at the right kept as a last bit that is set
//! ("jammed", as in J. Hauser's SoftFloat), and added. The sum is shifted to `p` bits and two more, which say how to round; fewer bits where the
//! result is subnormal.

use rspirv::spirv::{GlslStd450Op, Op, Word};

use crate::gpu::spirv::{Kind, Writer};

/// Emits it for a kind of float.
pub fn emit_fma(w: &mut Writer, float: Kind, [x, y, z]: [Word; 3]) -> Word {
    let format = match float {
        Kind::F64 => Format {
            float,
            word: Kind::U64,
            width: 64,
            precision: 53,
            bias: 1023,
        },
        _ => Format {
            float,
            word: Kind::U32,
            width: 32,
            precision: 24,
            bias: 127,
        },
    };
    Fma { w, format }.emit(x, y, z)
}

/// A format of floats, and the integers it is computed in.
#[derive(Clone, Copy)]
struct Format {
    float: Kind,
    word: Kind,
    /// Bits of a word.
    width: u32,
    /// Bits of a mantissa, the implicit one among them.
    precision: u32,
    bias: i32,
}

impl Format {
    /// The exponent of infinity and NaN.
    fn special(self) -> i32 {
        2 * self.bias + 1
    }
}

/// A float in parts.
struct Parts {
    /// The sign, at its place in the float.
    sign: Word,
    /// At least 1; a 32-bit integer, as all exponents and distances.
    exponent: Word,
    mantissa: Word,
    /// Whether it is infinite or no number.
    is_special: Word,
}

/// An unsigned integer of two words.
#[derive(Clone, Copy)]
struct Pair {
    high: Word,
    low: Word,
}

struct Fma<'a> {
    w: &'a mut Writer,
    format: Format,
}

impl Fma<'_> {
    fn emit(&mut self, x: Word, y: Word, z: Word) -> Word {
        let Format {
            float,
            width,
            precision,
            bias,
            ..
        } = self.format;
        // Left of a product, and of a mantissa, there is room for its shift and for the carry of the sum.
        let room_of_product = (2 * width - 2 * precision - 1) as i32;
        let room_of_mantissa = (2 * width - precision - 1) as i32;
        let [a, b, c] = [x, y, z].map(|value| self.parts(value));

        // How far z is shifted to the left so that it fits the product, which is shifted by all its room; the product gives way where z has
        // no room left.
        let product = self.product(a.mantissa, b.mantissa);
        let sum = self.int(Op::IAdd, a.exponent, b.exponent);
        let offset = self.constant(bias + precision as i32 - 1);
        let exponent = self.int(Op::ISub, sum, offset);
        let room = self.constant(room_of_product);
        let wanted = self.int(Op::ISub, c.exponent, exponent);
        let wanted = self.int(Op::IAdd, wanted, room);
        let most = self.constant(room_of_mantissa);
        let shift = self.signed(GlslStd450Op::SMin, wanted, most);
        let yields = self.int(Op::ISub, wanted, shift);
        let product = self.shift_left(product, room);
        let product = self.shift_right(product, yields);
        let zero = self.constant(0);
        let (left, right) = self.both_ways(shift, zero);
        let low = Pair {
            high: self.word(0),
            low: c.mantissa,
        };
        let addend = self.shift_left(low, left);
        let addend = self.shift_right(addend, right);
        // The exponent of the frame's last bit.
        let frame = self.int(Op::ISub, c.exponent, shift);

        let sign = self.op(Op::BitwiseXor, a.sign, b.sign);
        let are_alike = self.is(Op::IEqual, sign, c.sign);
        let is_less = self.is_less(product, addend);
        let (greater, less) = (
            self.choose(is_less, addend, product),
            self.choose(is_less, product, addend),
        );
        let (together, apart) = (self.add(greater, less), self.subtract(greater, less));
        let total = self.choose(are_alike, together, apart);
        let sign = self.w.select(self.format.word, is_less, c.sign, sign);
        let rounded = self.rounded(total, frame);
        let nothing = self.word(0);
        let any = self.op(Op::BitwiseOr, total.high, total.low);
        let is_nothing = self.is(Op::IEqual, any, nothing);
        let result = self.op(Op::BitwiseOr, rounded, sign);
        let result = self.w.select(self.format.word, is_nothing, nothing, result);
        let result = self.w.bitcast(float, result);

        // Where x or y is zero, infinite or no number, so is their product, exactly. Otherwise such a z is the result.
        let plain = self.w.exact(Op::FMul, float, &[x, y]);
        let plain = self.w.exact(Op::FAdd, float, &[plain, z]);
        let result = self.w.select(float, c.is_special, z, result);
        let plainly = [a.mantissa, b.mantissa].map(|mantissa| self.is(Op::IEqual, mantissa, nothing));
        let plainly = [plainly[0], plainly[1], a.is_special, b.is_special]
            .into_iter()
            .reduce(|one, other| self.w.op(Op::LogicalOr, Kind::Bool, &[one, other]))
            .expect("four conditions");
        self.w.select(float, plainly, plain, result)
    }

    fn parts(&mut self, value: Word) -> Parts {
        let Format {
            word, width, precision, ..
        } = self.format;
        let bits = self.w.bitcast(word, value);
        let sign_bit = self.word(1 << (width - 1));
        let sign = self.op(Op::BitwiseAnd, bits, sign_bit);
        let magnitude = self.op(Op::BitwiseXor, bits, sign);
        let places = self.constant(precision as i32 - 1);
        let exponent = self.op(Op::ShiftRightLogical, magnitude, places);
        let exponent = self.narrow(exponent);
        let fraction = self.word((1 << (precision - 1)) - 1);
        let fraction = self.op(Op::BitwiseAnd, magnitude, fraction);
        let [zero, one, special] = [0, 1, self.format.special()].map(|value| self.constant(value));
        let is_subnormal = self.is(Op::IEqual, exponent, zero);
        let implicit = self.word(1 << (precision - 1));
        let normal = self.op(Op::BitwiseOr, fraction, implicit);
        Parts {
            sign,
            exponent: self.w.select(Kind::U32, is_subnormal, one, exponent),
            mantissa: self.w.select(word, is_subnormal, fraction, normal),
            is_special: self.is(Op::IEqual, exponent, special),
        }
    }

    /// The float of a magnitude whose last bit has the exponent `frame`, rounded to nearest even.
    fn rounded(&mut self, total: Pair, frame: Word) -> Word {
        let precision = self.format.precision;
        let top = self.top_bit(total);
        let places = self.constant(precision as i32 - 1);
        let one = self.constant(1);
        let from_total = self.int(Op::ISub, top, places);
        let to_least = self.int(Op::ISub, one, frame);
        let shift = self.signed(GlslStd450Op::SMax, from_total, to_least);
        let two = self.constant(2);
        let by = self.int(Op::ISub, shift, two);
        let zero = self.constant(0);
        let minus = self.int(Op::ISub, zero, by);
        let (left, right) = self.both_ways(minus, zero);
        let shifted = self.shift_left(total, left);
        let Pair { low: kept, .. } = self.shift_right(shifted, right);
        let quotient = self.op(Op::ShiftRightLogical, kept, two);
        // Two more bits and whether the quotient is odd: up from 3, and from 2 if it is.
        let seven = self.word(7);
        let end = self.op(Op::BitwiseAnd, kept, seven);
        let ups = [3, 6, 7].map(|value| {
            let value = self.word(value);
            self.is(Op::IEqual, end, value)
        });
        let up = self.w.op(Op::LogicalOr, Kind::Bool, &[ups[0], ups[1]]);
        let up = self.w.op(Op::LogicalOr, Kind::Bool, &[up, ups[2]]);
        let up = self.number_of(up);
        let quotient = self.op(Op::IAdd, quotient, up);
        // The implicit bit adds one to the exponent, a carry another.
        let exponent = self.int(Op::IAdd, frame, shift);
        let field = self.int(Op::ISub, exponent, one);
        let field = self.widen(field);
        let field = self.op(Op::ShiftLeftLogical, field, places);
        let bits = self.op(Op::IAdd, field, quotient);
        let special = self.constant(self.format.special());
        let overflows = self.w.op(Op::SGreaterThanEqual, Kind::Bool, &[exponent, special]);
        let infinity = self.word((self.format.special() as u64) << (precision - 1));
        self.w.select(self.format.word, overflows, infinity, bits)
    }

    /// A distance as one to the left and one to the right, of which at least one is zero.
    fn both_ways(&mut self, left: Word, zero: Word) -> (Word, Word) {
        let minus = self.int(Op::ISub, zero, left);
        (
            self.signed(GlslStd450Op::SMax, left, zero),
            self.signed(GlslStd450Op::SMax, minus, zero),
        )
    }

    // Words.

    fn word(&mut self, value: u64) -> Word {
        self.w.constant(self.format.word, value)
    }

    fn op(&mut self, op: Op, a: Word, b: Word) -> Word {
        self.w.op(op, self.format.word, &[a, b])
    }

    fn is(&mut self, op: Op, a: Word, b: Word) -> Word {
        self.w.op(op, Kind::Bool, &[a, b])
    }

    fn number_of(&mut self, condition: Word) -> Word {
        let [zero, one] = [0, 1].map(|value| self.word(value));
        self.w.select(self.format.word, condition, one, zero)
    }

    fn narrow(&mut self, word: Word) -> Word {
        match self.format.word {
            Kind::U64 => self.w.op(Op::UConvert, Kind::U32, &[word]),
            _ => word,
        }
    }

    fn widen(&mut self, int: Word) -> Word {
        match self.format.word {
            Kind::U64 => self.w.op(Op::UConvert, Kind::U64, &[int]),
            _ => int,
        }
    }

    // 32-bit integers.

    fn constant(&mut self, value: i32) -> Word {
        self.w.u32(value as u32)
    }

    fn int(&mut self, op: Op, a: Word, b: Word) -> Word {
        self.w.op(op, Kind::U32, &[a, b])
    }

    fn signed(&mut self, op: GlslStd450Op, a: Word, b: Word) -> Word {
        self.w.arithmetic(op, Kind::U32, &[a, b])
    }

    // Pairs.

    fn choose(&mut self, condition: Word, yes: Pair, no: Pair) -> Pair {
        Pair {
            high: self.w.select(self.format.word, condition, yes.high, no.high),
            low: self.w.select(self.format.word, condition, yes.low, no.low),
        }
    }

    /// The product of two mantissas, by halves of words.
    fn product(&mut self, x: Word, y: Word) -> Pair {
        let half = self.constant(self.format.width as i32 / 2);
        let mask = self.word((1 << (self.format.width / 2)) - 1);
        let [(x_high, x_low), (y_high, y_low)] = [x, y].map(|value| {
            (
                self.op(Op::ShiftRightLogical, value, half),
                self.op(Op::BitwiseAnd, value, mask),
            )
        });
        let low = self.op(Op::IMul, x_low, y_low);
        let high = self.op(Op::IMul, x_high, y_high);
        let crossed = [(x_low, y_high), (x_high, y_low)].map(|(a, b)| self.op(Op::IMul, a, b));
        let middle = self.op(Op::IAdd, crossed[0], crossed[1]);
        let carried = self.op(Op::ShiftRightLogical, low, half);
        let middle = self.op(Op::IAdd, middle, carried);
        let over = self.op(Op::ShiftRightLogical, middle, half);
        let under = self.op(Op::ShiftLeftLogical, middle, half);
        let rest = self.op(Op::BitwiseAnd, low, mask);
        Pair {
            high: self.op(Op::IAdd, high, over),
            low: self.op(Op::BitwiseOr, under, rest),
        }
    }

    fn add(&mut self, a: Pair, b: Pair) -> Pair {
        let low = self.op(Op::IAdd, a.low, b.low);
        let carries = self.is(Op::ULessThan, low, a.low);
        let carry = self.number_of(carries);
        let high = self.op(Op::IAdd, a.high, b.high);
        Pair {
            high: self.op(Op::IAdd, high, carry),
            low,
        }
    }

    /// The lesser from the greater.
    fn subtract(&mut self, a: Pair, b: Pair) -> Pair {
        let borrows = self.is(Op::ULessThan, a.low, b.low);
        let borrow = self.number_of(borrows);
        let high = self.op(Op::ISub, a.high, b.high);
        Pair {
            high: self.op(Op::ISub, high, borrow),
            low: self.op(Op::ISub, a.low, b.low),
        }
    }

    fn is_less(&mut self, a: Pair, b: Pair) -> Word {
        let high = self.is(Op::ULessThan, a.high, b.high);
        let alike = self.is(Op::IEqual, a.high, b.high);
        let low = self.is(Op::ULessThan, a.low, b.low);
        let low = self.w.op(Op::LogicalAnd, Kind::Bool, &[alike, low]);
        self.w.op(Op::LogicalOr, Kind::Bool, &[high, low])
    }

    /// A distance within a word, its complement but one, and whether it goes beyond one; distances of two words and more count as the
    /// greatest below.
    fn distance(&mut self, by: Word) -> (Word, Word, Word) {
        let width = self.format.width as i32;
        let [most, mask, width] = [2 * width - 1, width - 1, width].map(|value| self.constant(value));
        let by = self.signed(GlslStd450Op::SMin, by, most);
        let within = self.int(Op::BitwiseAnd, by, mask);
        let rest = self.int(Op::ISub, mask, within);
        let beyond = self.w.op(Op::SGreaterThanEqual, Kind::Bool, &[by, width]);
        (within, rest, beyond)
    }

    fn shift_left(&mut self, pair: Pair, by: Word) -> Pair {
        let (within, rest, beyond) = self.distance(by);
        let [zero, one] = [0, 1].map(|value| self.word(value));
        let low = self.op(Op::ShiftLeftLogical, pair.low, within);
        let high = self.op(Op::ShiftLeftLogical, pair.high, within);
        // No shift may be as wide as the word.
        let over = self.op(Op::ShiftRightLogical, pair.low, one);
        let over = self.op(Op::ShiftRightLogical, over, rest);
        let high = self.op(Op::BitwiseOr, high, over);
        let (far, near) = (Pair { high: low, low: zero }, Pair { high, low });
        self.choose(beyond, far, near)
    }

    /// Sets the last bit if any that was set is lost.
    fn shift_right(&mut self, pair: Pair, by: Word) -> Pair {
        let (within, rest, beyond) = self.distance(by);
        let [zero, one] = [0, 1].map(|value| self.word(value));
        let high = self.op(Op::ShiftRightLogical, pair.high, within);
        let low = self.op(Op::ShiftRightLogical, pair.low, within);
        let over = self.op(Op::ShiftLeftLogical, pair.high, one);
        let over = self.op(Op::ShiftLeftLogical, over, rest);
        let low = self.op(Op::BitwiseOr, low, over);
        let (far, near) = (Pair { high: zero, low: high }, Pair { high, low });
        let shifted = self.choose(beyond, far, near);
        let back = self.shift_left(shifted, by);
        let high = self.op(Op::BitwiseXor, back.high, pair.high);
        let low = self.op(Op::BitwiseXor, back.low, pair.low);
        let lost = self.op(Op::BitwiseOr, high, low);
        let is_lost = self.is(Op::INotEqual, lost, zero);
        let jam = self.number_of(is_lost);
        Pair {
            low: self.op(Op::BitwiseOr, shifted.low, jam),
            ..shifted
        }
    }

    /// The place of the first bit that is set, counted from the last; -1 if none is.
    fn top_bit(&mut self, pair: Pair) -> Word {
        let Pair { high, low } = pair;
        let words = match self.format.word {
            Kind::U64 => {
                let half = self.constant(32);
                let upper = [high, low].map(|word| self.op(Op::ShiftRightLogical, word, half));
                vec![upper[0], high, upper[1], low]
            }
            _ => vec![high, low],
        };
        let zero = self.constant(0);
        let mut found = self.constant(-1);
        for (place, word) in (0..).step_by(32).zip(words.into_iter().rev()) {
            let word = self.narrow(word);
            let within = self.w.arithmetic(GlslStd450Op::FindUMsb, Kind::U32, &[word]);
            let place = self.constant(place);
            let here = self.int(Op::IAdd, within, place);
            let any = self.is(Op::INotEqual, word, zero);
            found = self.w.select(Kind::U32, any, here, found);
        }
        found
    }
}
