//! The innermost body of a vector loop as AVX2+FMA or AVX-512 machine code.
//!
//! In: a [`Body`], straight-line code over one lane variable. Out: the bytes of a System V function
//! `fn(slots: *mut u64, count: u64, rows: u64)` that runs the body for lanes `0 .. count`, again for each of `rows` rows. A slot is the
//! address of a stream, or the bits of a scalar in its low end. Streams that stay equally far apart share a slot. Behind the slots stand as many strides: the bytes by which each stream's
//! address moves from row to row; the function may leave the slots changed. Accumulators go on over the rows. The bits of the results are
//! those of [`netloom_ir::kernel::nest`]'s semantics, whatever the width.

mod columns;
mod encode;
mod finish;
mod lower;
mod operands;
mod registers;

use netloom_ir::DType;
use netloom_ir::kernel::{Combine, Prim};

use super::isa::Level;
use columns::Columns;
pub use finish::Finish;
use lower::Program;

/// A value in a [`Body`]: a position in `values`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Straight-line vector code; values come before their users.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Body {
    /// What is computed in each lane.
    pub values: Vec<Value>,
    /// What is done with it, in order; in each lane all that sinks need is read before any of them writes, so that what is written may
    /// lie over a stream that is read at the same lanes.
    pub sinks: Vec<Sink>,
    /// Where the addresses and scalars are that values and sinks name by their place here.
    pub origins: Vec<Origin>,
}

/// Where an address is found: in a slot, and so many bytes further on. Of a scalar, the slot alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The slot.
    pub slot: usize,
    /// What is added to the address in it.
    pub bytes: i32,
}

/// A value in each lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// The same bits in every lane.
    Const(DType, u64),
    /// The scalar in a slot, the same in every lane.
    Scalar(DType, usize),
    /// The element at the address in a slot, the same in every lane of a row: `F32`, `I32` or `U32`.
    Spread(DType, usize),
    /// The lane's number, an `I32`: 0, 1, 2 … over the whole loop.
    Lane,
    /// Element `lane` of the stream whose address is in a slot: contiguous.
    Load(DType, usize),
    /// The 32-bit element of a stream at so many times the lane, in elements, where rows lie one element apart: a column of what lies there. A
    /// body that reads one only stores it.
    Column(DType, usize, i32),
    /// As `Load`, where the mask (a `Bool` value) holds, otherwise zero without touching memory.
    MaskedLoad(DType, usize, ValueId),
    /// The element at an `I32` offset, in elements, from the address in a slot.
    Gather(DType, usize, ValueId),
    /// As `Gather`, where the mask holds, otherwise zero without touching memory.
    MaskedGather(DType, usize, ValueId, ValueId),
    /// A primitive with the type of its result.
    Prim(Prim, DType, Vec<ValueId>),
}

/// An effect in each lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sink {
    /// Writes element `lane` of the stream whose address is in a slot.
    Store(DType, usize, ValueId),
    /// The same for elements of 32 bits, past the caches if nothing is read at the same address. Not in a body that accumulates.
    Stream(DType, usize, ValueId),
    /// Brings element `lane` of a stream, which need not exist, into the second cache.
    Prefetch(DType, usize),
    /// Combines into virtual lane `lane % 16` of the 16 elements at the address in a slot, which hold the state before and after.
    Accumulate(DType, usize, Combine, ValueId),
}

/// A body of which a level has code, before it is assembled.
pub enum Lowered {
    /// Copies of columns.
    Columns(Columns),
    /// Anything else.
    Program(Box<Program>),
}

/// The body's instructions, or what in it this level has no code for (the caller then uses CLIF).
///
/// There is code for values of at most 32 bits; for accumulators (up to 6 with AVX2, 28 with AVX-512) of `F32`, `I32` and `U32`, and for
/// gathers of these and of single bytes; not for integer division, nor, with AVX2, for masked loads of narrow types.
pub fn lower(body: &Body, level: Level) -> Result<Lowered, String> {
    match (Columns::of(body), level) {
        (Some(columns), Level::Avx2 | Level::Avx512) => Ok(Lowered::Columns(columns)),
        _ => lower::lower(body, level).map(|program| Lowered::Program(Box::new(program))),
    }
}

impl Lowered {
    /// The function's bytes, for the level that it was lowered for.
    pub fn assemble(&self, level: Level) -> Vec<u8> {
        match self {
            Lowered::Columns(columns) => columns.assemble(level),
            Lowered::Program(program) => registers::assign(program, level),
        }
        .expect("instructions of a body encode")
    }
}

impl Body {
    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.origins.iter().map(|origin| origin.slot + 1).max().unwrap_or(0)
    }

    /// The slots that hold addresses of streams.
    pub fn streams(&self) -> Vec<usize> {
        let read = self.values.iter().filter_map(|value| match *value {
            Value::Load(_, slot)
            | Value::Column(_, slot, _)
            | Value::MaskedLoad(_, slot, _)
            | Value::Gather(_, slot, _)
            | Value::MaskedGather(_, slot, ..)
            | Value::Spread(_, slot) => Some(slot),
            Value::Const(..) | Value::Scalar(..) | Value::Lane | Value::Prim(..) => None,
        });
        let written = self.sinks.iter().filter_map(|sink| match *sink {
            Sink::Store(_, slot, _) | Sink::Stream(_, slot, _) | Sink::Prefetch(_, slot) => Some(slot),
            Sink::Accumulate(..) => None,
        });
        let mut streams: Vec<usize> = read.chain(written).map(|origin| self.origins[origin].slot).collect();
        streams.sort_unstable();
        streams.dedup();
        streams
    }

    /// The masks that hold for few elements.
    fn unlikely(&self) -> Vec<ValueId> {
        (0..self.values.len() as u32)
            .map(ValueId)
            .filter(|&id| self.is_unlikely(id))
            .collect()
    }

    fn is_unlikely(&self, id: ValueId) -> bool {
        matches!(self.values[id.0 as usize], Value::Prim(Prim::Unlikely, ..))
    }

    /// What a value is where no unlikely mask holds, if it is chosen by one.
    fn expected(&self, id: ValueId) -> Option<ValueId> {
        match &self.values[id.0 as usize] {
            Value::Prim(Prim::Select, _, args) if self.is_unlikely(args[0]) => Some(args[2]),
            _ => None,
        }
    }

    /// The type of a value.
    pub fn dtype(&self, id: ValueId) -> DType {
        match self.values[id.0 as usize] {
            Value::Lane => DType::I32,
            Value::Const(dtype, _)
            | Value::Scalar(dtype, _)
            | Value::Spread(dtype, _)
            | Value::Load(dtype, _)
            | Value::Column(dtype, ..)
            | Value::MaskedLoad(dtype, ..)
            | Value::Gather(dtype, ..)
            | Value::MaskedGather(dtype, ..)
            | Value::Prim(_, dtype, _) => dtype,
        }
    }
}

impl Value {
    /// Whether this is an element of a stream.
    pub fn reads_memory(&self) -> bool {
        match self {
            Value::Load(..)
            | Value::Column(..)
            | Value::MaskedLoad(..)
            | Value::Gather(..)
            | Value::MaskedGather(..)
            | Value::Spread(..) => true,
            Value::Const(..) | Value::Scalar(..) | Value::Lane | Value::Prim(..) => false,
        }
    }

    /// The values that this one is made from.
    pub fn operands(&self) -> impl Iterator<Item = ValueId> {
        let (named, args): ([Option<ValueId>; 2], &[ValueId]) = match self {
            Value::Const(..)
            | Value::Scalar(..)
            | Value::Spread(..)
            | Value::Lane
            | Value::Load(..)
            | Value::Column(..) => ([None; 2], &[]),
            &Value::MaskedLoad(_, _, mask) => ([Some(mask), None], &[]),
            &Value::Gather(_, _, offset) => ([Some(offset), None], &[]),
            &Value::MaskedGather(_, _, offset, mask) => ([Some(offset), Some(mask)], &[]),
            Value::Prim(_, _, args) => ([None; 2], args),
        };
        named.into_iter().flatten().chain(args.iter().copied())
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use netloom_ir::dtype::Scalar;
    use netloom_ir::kernel::Exprs;
    use proptest::prelude::*;

    use super::super::machine::{Machine, levels};
    use super::super::tile::{Tile, assemble};
    use super::*;

    const TYPES: [DType; 10] = {
        use DType::*;
        [F32, I32, U32, Bool, U8, I8, U16, I16, F16, BF16]
    };

    /// A generator of test data (an LCG); the seed is proptest's.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((self.0 >> 33) as usize) % sides
        }

        fn pick<T: Copy>(&mut self, from: &[T]) -> T {
            from[self.roll(from.len())]
        }

        /// An element's bits: edges of the type, small numbers, or anything.
        fn bits(&mut self, dtype: DType) -> u64 {
            let mask = u64::MAX >> (64 - 8 * dtype.size_bytes());
            let any = (self.roll(1 << 16) << 16 | self.roll(1 << 16)) as u64 & mask;
            let small = [0.0, 1.0, -1.0, 2.5, 0.5, -3.5, 7.0, 31.0, 32.0, 100.25, 255.0, 256.0];
            let edges = [
                f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                -0.0,
                1e-40,
                2147483648.0,
                -2147483648.0,
                4294967296.0,
            ];
            match (dtype, self.roll(4)) {
                (DType::Bool, _) => any & 1,
                (_, 0) => any,
                (_, 1) => Scalar::from_f64(self.pick(&edges), dtype).to_bits(dtype),
                _ => Scalar::from_f64(self.pick(&small), dtype).to_bits(dtype),
            }
        }
    }

    /// What a slot stands for in a test: a scalar, or elements followed by a margin that nobody may write.
    #[derive(Clone)]
    enum Slot {
        Scalar(u64),
        Stream(Vec<u8>),
    }

    const MARGIN: usize = 64;

    impl Slot {
        fn stream(dtype: DType, count: usize, dice: &mut Dice) -> Slot {
            let mut slot = Slot::Stream(vec![0xa5; count * dtype.size_bytes() + MARGIN]);
            (0..count).for_each(|at| {
                let bits = dice.bits(dtype);
                slot.set(dtype, at, bits);
            });
            slot
        }

        fn get(&self, dtype: DType, at: usize) -> u64 {
            let Slot::Stream(bytes) = self else { panic!("a stream") };
            let mut bits = [0; 8];
            let size = dtype.size_bytes();
            bits[..size].copy_from_slice(&bytes[at * size..][..size]);
            u64::from_le_bytes(bits)
        }

        fn set(&mut self, dtype: DType, at: usize, bits: u64) {
            let Slot::Stream(bytes) = self else { panic!("a stream") };
            let size = dtype.size_bytes();
            bytes[at * size..][..size].copy_from_slice(&bits.to_le_bytes()[..size]);
        }
    }

    /// Runs a row of a body by definition, its streams so many elements further on.
    fn interpret(body: &Body, slots: &mut [Slot], count: usize, row: usize) {
        for lane in 0..count {
            let mut values: Vec<Scalar> = Vec::new();
            for value in &body.values {
                let of = |id: &ValueId| values[id.0 as usize];
                let read =
                    |dtype: DType, slot: usize, at: usize| Scalar::from_bits(slots[slot].get(dtype, row + at), dtype);
                let holds = |mask: &ValueId| of(mask).is_nonzero();
                values.push(match value {
                    Value::Const(dtype, bits) => Scalar::from_bits(*bits, *dtype),
                    Value::Scalar(dtype, slot) => match slots[*slot] {
                        Slot::Scalar(bits) => {
                            Scalar::from_bits(bits & u64::MAX >> (64 - 8 * dtype.size_bytes()), *dtype)
                        }
                        Slot::Stream(_) => panic!("a scalar"),
                    },
                    Value::Lane => Scalar::Int(lane as i128),
                    Value::Spread(dtype, slot) => read(*dtype, *slot, 0),
                    Value::Load(dtype, slot) => read(*dtype, *slot, lane),
                    Value::Column(dtype, slot, pitch) => read(*dtype, *slot, lane * *pitch as usize),
                    Value::MaskedLoad(dtype, slot, mask) if holds(mask) => read(*dtype, *slot, lane),
                    Value::Gather(dtype, slot, offset) => read(*dtype, *slot, of(offset).as_i128() as usize),
                    Value::MaskedGather(dtype, slot, offset, mask) if holds(mask) => {
                        read(*dtype, *slot, of(offset).as_i128() as usize)
                    }
                    Value::MaskedLoad(dtype, ..) | Value::MaskedGather(dtype, ..) => Scalar::zero(*dtype),
                    Value::Prim(prim, dtype, args) => {
                        let operands: Vec<Scalar> = args.iter().map(of).collect();
                        prim.eval(*dtype, body.dtype(args[0]), &operands)
                    }
                });
            }
            for sink in &body.sinks {
                match *sink {
                    Sink::Store(dtype, slot, id) | Sink::Stream(dtype, slot, id) => {
                        slots[slot].set(dtype, row + lane, values[id.0 as usize].to_bits(dtype));
                    }
                    Sink::Prefetch(..) => {}
                    Sink::Accumulate(dtype, slot, with, id) => {
                        let mut exprs = Exprs::default();
                        let state = Scalar::from_bits(slots[slot].get(dtype, lane % 16), dtype);
                        let state = exprs.constant(dtype, state);
                        let value = exprs.constant(dtype, values[id.0 as usize]);
                        let combined = with.apply(&mut exprs, state, value);
                        let combined = exprs.as_const(combined).expect("constants fold");
                        slots[slot].set(dtype, lane % 16, combined.to_bits(dtype));
                    }
                }
            }
        }
    }

    /// Runs a body on the machine; its streams move by so many elements from row to row.
    fn execute(
        code: &Machine,
        (body, types): (&Body, &[Option<DType>]),
        slots: &mut [Slot],
        count: usize,
        (rows, stride): (usize, usize),
    ) {
        let streams = body.streams();
        let bytes = |slot: usize| match (streams.contains(&slot), types[slot]) {
            (true, Some(dtype)) => (stride * dtype.size_bytes()) as u64,
            _ => 0,
        };
        let strides: Vec<u64> = (0..slots.len()).map(bytes).collect();
        let mut slots: Vec<u64> = slots
            .iter_mut()
            .map(|slot| match slot {
                // What is above the scalar's own bits means nothing.
                Slot::Scalar(bits) => *bits,
                Slot::Stream(bytes) => bytes.as_mut_ptr() as u64,
            })
            .chain(strides)
            .collect();
        // SAFETY: the streams are as long as the body reaches in all rows, and strides stand behind the slots.
        unsafe { code.wide()(slots.as_mut_ptr(), count as u64, rows as u64) };
    }

    /// Runs a body both ways over several lengths and compares all of memory, a NaN equal to any other.
    fn check(body: &Body, types: &[Option<DType>], dice: &mut Dice, counts: &[usize]) {
        for level in levels() {
            let code = match lower(body, level) {
                Ok(lowered) => Machine::new(&lowered.assemble(level)),
                Err(message) => panic!("{level:?}: {message}"),
            };
            for (turn, &count) in counts.iter().enumerate() {
                let (rows, stride) = ([1, 3, 2, 0][turn % 4], count.max(16) + 5);
                let slots: Vec<Slot> = types
                    .iter()
                    .map(|dtype| match dtype {
                        Some(dtype) => Slot::stream(*dtype, stride * rows.max(1), dice),
                        None => Slot::Scalar((dice.roll(1 << 20) as u64) << 40),
                    })
                    .collect();
                let slots = scalars(body, slots, dice);
                let (mut expected, mut found) = (slots.clone(), slots);
                for row in 0..rows {
                    interpret(body, &mut expected, count, row * stride);
                }
                execute(&code, (body, types), &mut found, count, (rows, stride));
                compare(types, &expected, &found, &|| {
                    format!("{level:?}, {rows} rows of {count} lanes\n{body:#?}")
                });
            }
        }
    }

    /// Compares all of memory, a NaN equal to any other.
    fn compare(types: &[Option<DType>], expected: &[Slot], found: &[Slot], context: &dyn Fn() -> String) {
        for (slot, (expected, found)) in expected.iter().zip(found).enumerate() {
            let (Some(dtype), Slot::Stream(a), Slot::Stream(b)) = (types[slot], expected, found) else {
                continue;
            };
            for at in 0..a.len() / dtype.size_bytes() {
                let (a, b) = (expected.get(dtype, at), found.get(dtype, at));
                let nan = |bits| Scalar::from_bits(bits, dtype).as_f64().is_nan() && dtype.is_float();
                assert!(
                    a == b || nan(a) && nan(b),
                    "slot {slot}[{at}]: {b:#x}, not {a:#x}: {}",
                    context()
                );
            }
            assert_eq!(a[a.len() - MARGIN..], b[b.len() - MARGIN..], "beyond slot {slot}");
        }
    }

    /// Gives the slots of scalars bits of their types, and leaves noise above them.
    fn scalars(body: &Body, mut slots: Vec<Slot>, dice: &mut Dice) -> Vec<Slot> {
        for value in &body.values {
            if let Value::Scalar(dtype, slot) = *value
                && let Slot::Scalar(bits) = &mut slots[slot]
            {
                *bits |= dice.bits(dtype);
            }
        }
        slots
    }

    /// A body under construction, with the type of each slot's stream, or `None` for a scalar.
    #[derive(Default)]
    struct Build {
        body: Body,
        types: Vec<Option<DType>>,
    }

    impl Build {
        fn value(&mut self, value: Value) -> ValueId {
            self.body.values.push(value);
            ValueId(self.body.values.len() as u32 - 1)
        }

        fn slot(&mut self, dtype: Option<DType>) -> usize {
            self.types.push(dtype);
            let slot = self.types.len() - 1;
            self.body.origins.push(Origin { slot, bytes: 0 });
            slot
        }

        fn load(&mut self, dtype: DType) -> ValueId {
            let slot = self.slot(Some(dtype));
            self.value(Value::Load(dtype, slot))
        }

        fn store(&mut self, id: ValueId) {
            let dtype = self.body.dtype(id);
            let slot = self.slot(Some(dtype));
            self.body.sinks.push(Sink::Store(dtype, slot, id));
        }

        fn prim(&mut self, prim: Prim, dtype: DType, args: &[ValueId]) -> ValueId {
            self.value(Value::Prim(prim, dtype, args.to_vec()))
        }
    }

    /// Whether a primitive is defined on operands of a type, and has code.
    fn applies(prim: Prim, dtype: DType) -> bool {
        match prim {
            Prim::Fma | Prim::Sqrt | Prim::Floor | Prim::Ceil | Prim::Trunc | Prim::Nearest => dtype.is_float(),
            Prim::Div => dtype.is_float(),
            Prim::Rem => false,
            Prim::And | Prim::Or | Prim::Xor => !dtype.is_float(),
            Prim::Shl | Prim::Shr => dtype.is_int(),
            Prim::MulHi => dtype == DType::U32,
            Prim::Add | Prim::Sub | Prim::Mul | Prim::Neg | Prim::Abs => dtype != DType::Bool,
            Prim::Max | Prim::Min | Prim::Eq | Prim::Lt | Prim::Le | Prim::Select | Prim::Cast => true,
            // The payload of a NaN may differ, so only integers are looked at as something else.
            Prim::Bitcast => dtype.is_int(),
            Prim::Unlikely => dtype == DType::Bool,
        }
    }

    /// A random body of so many primitives.
    fn random(seed: u64, size: usize) -> Build {
        let mut dice = Dice(seed);
        let mut build = Build::default();
        let types: Vec<DType> = match dice.roll(3) {
            0 => TYPES.to_vec(),
            1 => vec![DType::F32, DType::Bool, DType::I32],
            _ => vec![DType::F32],
        };
        let of_type = |build: &mut Build, dice: &mut Dice, dtype: DType| -> ValueId {
            let known: Vec<u32> = (0..build.body.values.len() as u32)
                .filter(|&at| build.body.dtype(ValueId(at)) == dtype)
                .collect();
            if !known.is_empty() && dice.roll(8) > 0 {
                return ValueId(dice.pick(&known));
            }
            match dice.roll(5) {
                4 if matches!(dtype, DType::F32 | DType::I32 | DType::U32) => {
                    let slot = build.slot(Some(dtype));
                    build.value(Value::Spread(dtype, slot))
                }
                0 => {
                    let bits = dice.bits(dtype);
                    build.value(Value::Const(dtype, bits))
                }
                1 => {
                    let slot = build.slot(None);
                    build.value(Value::Scalar(dtype, slot))
                }
                2 if dtype == DType::I32 => build.value(Value::Lane),
                _ => build.load(dtype),
            }
        };
        for _ in 0..size {
            let from = dice.pick(&types);
            let prim = dice.pick(&Prim::ALL);
            if !applies(prim, from) {
                continue;
            }
            let (dtype, operands) = match prim {
                Prim::Eq | Prim::Lt | Prim::Le => (DType::Bool, vec![from; 2]),
                Prim::Select => (from, vec![DType::Bool, from, from]),
                Prim::Cast => {
                    let to = dice.pick(&types);
                    if to == DType::BF16 && from.is_int() {
                        continue;
                    }
                    (to, vec![from])
                }
                Prim::Bitcast => {
                    let same: Vec<DType> = (TYPES.into_iter())
                        .filter(|to| to.size_bytes() == from.size_bytes() && (to.is_int() || from.size_bytes() == 4))
                        .collect();
                    (dice.pick(&same), vec![from])
                }
                _ => (from, vec![from; prim.arity()]),
            };
            let args: Vec<ValueId> = operands
                .iter()
                .map(|&dtype| of_type(&mut build, &mut dice, dtype))
                .collect();
            build.prim(prim, dtype, &args);
        }
        let count = build.body.values.len();
        for at in 0..count {
            if at + 3 >= count || dice.roll(6) == 0 {
                build.store(ValueId(at as u32));
            }
        }
        for dtype in [DType::F32, DType::I32, DType::U32] {
            let id = of_type(&mut build, &mut dice, dtype);
            let with = dice.pick(&if dtype.is_float() {
                vec![Combine::Sum, Combine::Product, Combine::Max, Combine::Min]
            } else {
                Combine::ALL.to_vec()
            });
            let slot = build.slot(Some(dtype));
            build.body.sinks.push(Sink::Accumulate(dtype, slot, with, id));
        }
        build
    }

    proptest! {
        #[test]
        fn random_bodies_compute_what_prim_eval_says(seed: u64, size in 0usize..60, count in 0usize..40) {
            let build = random(seed, size);
            check(&build.body, &build.types, &mut Dice(seed + 1), &[count, count + 17]);
        }
    }

    #[test]
    fn every_primitive_on_every_type_and_length() {
        for from in TYPES {
            for prim in Prim::ALL.into_iter().filter(|&prim| applies(prim, from)) {
                for to in TYPES {
                    let dtype = match prim {
                        Prim::Cast if to == DType::BF16 && from.is_int() => continue,
                        Prim::Cast => to,
                        Prim::Bitcast if to.size_bytes() == from.size_bytes() && to.is_int() => to,
                        Prim::Eq | Prim::Lt | Prim::Le if to == DType::Bool => to,
                        Prim::Eq | Prim::Lt | Prim::Le | Prim::Bitcast => continue,
                        _ if to == from => to,
                        _ => continue,
                    };
                    let mut build = Build::default();
                    let args: Vec<ValueId> = (0..prim.arity())
                        .map(|at| {
                            build.load(if prim == Prim::Select && at == 0 {
                                DType::Bool
                            } else {
                                from
                            })
                        })
                        .collect();
                    let result = build.prim(prim, dtype, &args);
                    build.store(result);
                    let counts: Vec<usize> = (0..=40).chain([300]).collect();
                    check(&build.body, &build.types, &mut Dice(prim as u64), &counts);
                }
            }
        }
    }

    #[test]
    fn masked_loads_and_gathers_touch_only_what_holds() {
        for dtype in [DType::F32, DType::I32, DType::U32, DType::U8, DType::I8, DType::Bool] {
            let mut build = Build::default();
            let mask = build.load(DType::Bool);
            let lane = build.value(Value::Lane);
            let last = build.value(Value::Const(DType::I32, 15));
            let offset = build.prim(Prim::And, DType::I32, &[lane, last]);
            // Far away where the mask does not hold.
            let far = build.value(Value::Const(DType::I32, 0x7fff_0000));
            let wild = build.prim(Prim::Select, DType::I32, &[mask, offset, far]);
            let slot = build.slot(Some(dtype));
            let load = (dtype.size_bytes() == 4).then_some(Value::MaskedLoad(dtype, slot, mask));
            let gathers = [
                Value::Gather(dtype, slot, offset),
                Value::MaskedGather(dtype, slot, wild, mask),
            ];
            for value in load.into_iter().chain(gathers) {
                let id = build.value(value);
                build.store(id);
            }
            check(&build.body, &build.types, &mut Dice(7), &(0..=40).collect::<Vec<_>>());
        }
    }

    #[test]
    fn blocks_are_done_in_full_where_something_unlikely_holds() {
        let mut build = Build::default();
        let x = build.load(DType::F32);
        // About every second block has such a number.
        let rare = build.value(Value::Const(DType::F32, u64::from(255f32.to_bits())));
        let mask = build.prim(Prim::Eq, DType::Bool, &[x, rare]);
        let unlikely = build.prim(Prim::Unlikely, DType::Bool, &[mask]);
        let (square, double) = (
            build.prim(Prim::Mul, DType::F32, &[x, x]),
            build.prim(Prim::Add, DType::F32, &[x, x]),
        );
        let chosen = build.prim(Prim::Select, DType::F32, &[unlikely, square, double]);
        let sum = build.slot(Some(DType::F32));
        build
            .body
            .sinks
            .push(Sink::Accumulate(DType::F32, sum, Combine::Max, chosen));
        // Over what is read: a block that leaves must not have written.
        let Value::Load(_, slot) = build.body.values[x.0 as usize] else {
            panic!("a load")
        };
        build.body.sinks.push(Sink::Store(DType::F32, slot, chosen));
        for seed in 0..20 {
            check(&build.body, &build.types, &mut Dice(seed), &[16, 31, 32, 160, 333]);
        }
    }

    #[test]
    fn what_is_written_past_the_caches_begins_anywhere_or_lies_over_what_is_read() {
        for over in [false, true] {
            let mut build = Build::default();
            let x = build.load(DType::F32);
            let one = build.value(Value::Const(DType::F32, u64::from(1f32.to_bits())));
            let sum = build.prim(Prim::Add, DType::F32, &[x, one]);
            let rare = build.prim(Prim::Lt, DType::Bool, &[x, one]);
            let unlikely = build.prim(Prim::Unlikely, DType::Bool, &[rare]);
            let chosen = build.prim(Prim::Select, DType::F32, &[unlikely, x, sum]);
            let slot = match build.body.values[x.0 as usize] {
                Value::Load(_, slot) if over => slot,
                _ => build.slot(Some(DType::F32)),
            };
            build.body.sinks.push(Sink::Stream(DType::F32, slot, chosen));
            // Memory is where the allocator puts it; rows begin anywhere.
            for seed in 0..20 {
                check(
                    &build.body,
                    &build.types,
                    &mut Dice(seed),
                    &[16, 32, 48, 161, 333, 4096],
                );
            }
        }
    }

    #[test]
    fn more_values_than_registers_live_at_once() {
        let mut build = Build::default();
        let values: Vec<ValueId> = (0..50).map(|_| build.load(DType::F32)).collect();
        let masks: Vec<ValueId> = values
            .iter()
            .map(|&x| build.prim(Prim::Le, DType::Bool, &[x, values[0]]))
            .collect();
        // The last values are wanted first, so all are live when the last is loaded.
        let mut sum = values[49];
        for at in (0..49).rev() {
            let product = build.prim(Prim::Fma, DType::F32, &[values[at], values[at + 1], sum]);
            sum = build.prim(Prim::Select, DType::F32, &[masks[at], product, values[at]]);
        }
        build.store(sum);
        check(&build.body, &build.types, &mut Dice(3), &[0, 1, 15, 16, 17, 40]);
    }

    #[test]
    fn accumulators_keep_their_registers_up_to_the_limit() {
        for (level, most) in [(Level::Avx2, 6), (Level::Avx512, 28)] {
            let mut build = Build::default();
            let (x, mask) = (build.load(DType::F32), build.load(DType::Bool));
            let y = build.load(DType::F32);
            for at in 0..most {
                let product = build.prim(Prim::Fma, DType::F32, &[x, y, x]);
                let chosen = build.prim(Prim::Select, DType::F32, &[mask, product, y]);
                let slot = build.slot(Some(DType::F32));
                let with = [Combine::Sum, Combine::Max, Combine::Min][at % 3];
                build.body.sinks.push(Sink::Accumulate(DType::F32, slot, with, chosen));
            }
            if level == Level::Avx2 {
                check(&build.body, &build.types, &mut Dice(5), &[0, 3, 16, 29, 40]);
            }
            assert!(lower(&build.body, level).is_ok());
            build.body.sinks.push(build.body.sinks[most - 1].clone());
            assert!(lower(&build.body, level).is_err());
        }
    }

    /// A body of so many random operations on sums, with the slot of the sums.
    fn random_finish(seed: u64, size: usize) -> (Build, usize) {
        let mut dice = Dice(seed);
        let mut build = Build::default();
        let sums = build.slot(Some(DType::F32));
        let sum = build.value(Value::Load(DType::F32, sums));
        let scalar = build.slot(None);
        let spread = build.slot(Some(DType::F32));
        let constant = dice.bits(DType::F32);
        let mut known = vec![
            sum,
            build.load(DType::F32),
            build.value(Value::Scalar(DType::F32, scalar)),
        ];
        known.push(build.value(Value::Spread(DType::F32, spread)));
        known.push(build.value(Value::Const(DType::F32, constant)));
        let prims = [Prim::Add, Prim::Mul, Prim::Max, Prim::Fma, Prim::Select, Prim::Sqrt];
        for _ in 0..size {
            let prim = dice.pick(&prims);
            let mut args: Vec<ValueId> = (0..prim.arity()).map(|_| dice.pick(&known)).collect();
            if prim == Prim::Select {
                args[0] = build.prim(Prim::Lt, DType::Bool, &[args[0], args[1]]);
            }
            known.push(build.prim(prim, DType::F32, &args));
        }
        build.store(known[known.len() - 1]);
        let narrow = build.prim(Prim::Cast, DType::F16, &[known[known.len() / 2]]);
        build.store(narrow);
        (build, sums)
    }

    proptest! {
        /// Against the tile and the rows of the body one after the other.
        #[test]
        fn tiles_are_finished_as_if_they_lay_in_memory(
            seed: u64,
            size in 0usize..6,
            most_rows in 1usize..28,
            columns in 1usize..4,
            k in 0usize..70,
            part: bool,
        ) {
            for level in levels() {
                let mut dice = Dice(seed);
                let columns = 16 * columns;
                let most = if level == Level::Avx512 { 28 * 16 } else { 12 * 8 } / columns;
                let rows = most_rows.min(most).max(1);
                let a = Slot::stream(DType::F32, rows * k + 1, &mut dice);
                let b = Slot::stream(DType::F32, k * columns + columns, &mut dice);
                let tile = Tile {
                    dtype: DType::F32,
                    rows,
                    columns,
                    k: vec![k],
                    a_rows: (0..rows).map(|row| row * k).collect(),
                    a_along: vec![1],
                    b_along: vec![columns],
                    c_across: columns,
                    accumulate: false,
                    ahead: 0,
                };
                let (build, sums) = random_finish(seed, size);
                let stride = columns + 3;
                let strides = build.types.iter().enumerate().map(|(slot, dtype)| match dtype {
                    Some(_) if slot == sums => 4 * columns as i64,
                    Some(dtype) => (stride * dtype.size_bytes()) as i64,
                    None => 0,
                });
                let strides: Vec<i64> = strides.collect();
                let finish = Finish { tile: tile.clone(), body: build.body.clone(), sums, strides: strides.clone(), part };
                let Ok(lowered) = finish.lower(level) else {
                    // Only where there are too many sums.
                    prop_assert!(level == Level::Avx2 && rows * columns / 8 > 12, "{rows} by {columns}");
                    continue;
                };
                let (first, end) = match part {
                    true => (dice.roll(rows + 1), dice.roll(rows + 1)),
                    false => (0, rows),
                };
                let slots = build.types.iter().map(|dtype| match dtype {
                    Some(dtype) => Slot::stream(*dtype, stride * rows, &mut dice),
                    None => Slot::Scalar((dice.roll(1 << 20) as u64) << 40),
                });
                let slots = slots.collect();
                let slots = scalars(&build.body, slots, &mut dice);
                let bytes = |slot: &Slot| match slot {
                    Slot::Stream(bytes) => bytes.clone(),
                    Slot::Scalar(_) => unreachable!("a stream"),
                };
                let (a, b) = (bytes(&a), bytes(&b));
                let words = |slots: &mut [Slot], from: usize| -> Vec<u64> {
                    let words = slots.iter_mut().zip(&strides).map(|(slot, stride)| match slot {
                        Slot::Scalar(bits) => *bits,
                        Slot::Stream(bytes) => (bytes.as_mut_ptr() as u64).wrapping_add_signed(stride * from as i64),
                    });
                    words.collect()
                };
                let (mut expected, mut found) = (slots.clone(), slots);
                let mut sum = vec![0u8; 4 * rows * columns];
                let apart = (Machine::new(&assemble(&tile, level)), lower(&build.body, level).expect("code"));
                let mut expected_words = words(&mut expected, first);
                expected_words[sums] = sum[4 * columns * first..].as_mut_ptr() as u64;
                expected_words.extend(strides.iter().map(|&stride| stride as u64));
                // SAFETY: the buffers are as long as the tile and its rows reach, and strides stand behind the slots.
                unsafe {
                    (apart.0.tile())(a.as_ptr(), b.as_ptr(), sum.as_mut_ptr());
                    let code = Machine::new(&apart.1.assemble(level));
                    (code.wide())(expected_words.as_mut_ptr(), columns as u64, end.saturating_sub(first) as u64);
                }
                let mut found_words = words(&mut found, 0);
                found_words[sums] = first as u64;
                found_words.push(end as u64);
                let together = Machine::new(&lowered.assemble(level));
                // SAFETY: as above; the slots hold what the function expects.
                unsafe { (together.tile())(a.as_ptr(), b.as_ptr(), found_words.as_mut_ptr().cast()) };
                compare(&build.types, &expected, &found, &|| format!("{level:?} {tile:?} {:#?}", build.body));
            }
        }
    }

    #[test]
    fn what_has_no_code_is_refused() {
        let mut build = Build::default();
        let a = build.load(DType::I32);
        let quotient = build.prim(Prim::Div, DType::I32, &[a, a]);
        build.store(quotient);
        for level in [Level::Avx2, Level::Avx512] {
            assert_eq!(lower(&build.body, level).err(), Some("`div` of i32".to_string()));
        }
        assert!(lower(&Body::default(), Level::Portable).is_err());
    }

    #[test]
    fn rows_too_far_apart_are_not_finished_in_registers() {
        let (build, sums) = random_finish(1, 2);
        for (stride, fits) in [(1 << 20, true), (1 << 30, false), (-(1 << 30), false)] {
            let finish = Finish {
                tile: Tile {
                    dtype: DType::F32,
                    rows: 4,
                    columns: 16,
                    k: vec![3],
                    a_rows: vec![0, 3, 6, 9],
                    a_along: vec![1],
                    b_along: vec![16],
                    c_across: 16,
                    accumulate: false,
                    ahead: 0,
                },
                body: build.body.clone(),
                sums,
                strides: vec![stride; build.types.len()],
                part: false,
            };
            assert_eq!(finish.lower(Level::Avx512).is_ok(), fits, "{stride}");
        }
    }
}
