//! From a [`Body`] to instructions on virtual registers: how each primitive is spelled at each level.
//!
//! In registers every 8- and 16-bit integer is extended to 32 bits, every `F16` and `BF16` is the `F32` of the same value, and a
//! `Bool` is a mask: a `k` register with AVX-512, all ones or zeros in each lane with AVX2.

use std::collections::BTreeMap;

use iced_x86::Code;
use netloom_ir::DType;
use netloom_ir::kernel::{Combine, Prim};

use super::finish::Finish;
use super::registers::{RESERVE, registers_of};
use super::{Body, Level, Origin, Sink, Value, ValueId};

/// A virtual register: a position in [`Program::registers`]. All but accumulators are written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Virtual(pub u32);

/// The file a virtual register belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// `ymm` or `zmm`.
    Vector,
    /// `k`.
    Mask,
}

/// Where a value that no instruction of the loop computes can be read from, four bytes that stand for every lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// That constant of [`Program::constants`].
    Constant(usize),
    /// The low half of that slot.
    Slot(usize),
    /// That scalar of [`Program::converted`].
    Converted(usize),
}

/// What is known about a virtual register before registers are assigned.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Its file.
    pub file: File,
    /// Where it is read from, if nothing computes it.
    pub source: Option<Source>,
    /// Whether it keeps its register over the whole function: accumulators, and what a row reads once.
    pub kept: bool,
}

/// A stream in memory, as one vector of a block of 16 lanes sees it.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Where the address is.
    pub origin: usize,
    /// Bytes of an element.
    pub bytes: usize,
    /// Which vector of the block.
    pub half: usize,
    /// Whether it moves with the lanes; an accumulator's and what is the same in every lane do not.
    pub moves: bool,
    /// How many bytes further on it lies: in a tile's row, those of the rows before.
    pub further: i64,
}

/// What an instruction does; its result and operands stand in [`Step`].
#[derive(Clone, Copy, Debug)]
pub enum Do {
    /// The machine's instruction on registers, with an immediate.
    Plain(Code, Option<u32>),
    /// The same under the mask that is the first operand; other lanes become zero if the flag says so, otherwise the instruction decides.
    Masked(Code, bool),
    /// `a * b + c`.
    Fma,
    /// All ones.
    Ones,
    /// The number of each lane.
    Lane(usize),
    /// The mask of the lanes that the tail has.
    Tail(usize),
    /// Reads a vector; a second operand masks it.
    Load(Code, Stream),
    /// Reads what the tail has of a vector of narrow elements, byte by byte.
    LoadPart(Code, Stream),
    /// Brings a line closer.
    Prefetch(Stream),
    /// Writes a vector; a second operand masks it.
    Store(Code, Option<u32>, Stream),
    /// Writes a vector, past the caches if that is known to be right for the row.
    StorePast(Stream),
    /// Writes what the tail has of a vector of narrow elements, byte by byte.
    StorePart(Code, Option<u32>, Stream),
    /// Reads 32 bits at offsets, the first operand, from the address in a slot, where the mask, the second operand, holds;
    /// it destroys the mask. The offsets count so many bytes.
    Gather(usize, u32),
    /// Goes on in [`Program::full`] if the mask, the operand, holds in any lane.
    Leave,
}

/// One instruction on virtual registers.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is done.
    pub what: Do,
    /// The register written.
    pub to: Option<Virtual>,
    /// The registers read.
    pub from: Vec<Virtual>,
}

/// A body in instructions.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Every virtual register.
    pub registers: Vec<Described>,
    /// 32-bit constants.
    pub constants: Vec<u32>,
    /// The number of slots.
    pub slots: usize,
    /// See [`Body::origins`].
    pub origins: Vec<Origin>,
    /// The slots whose addresses move from row to row.
    pub streams: Vec<usize>,
    /// Scalars whose form in a register is not their form in the slot.
    pub converted: Vec<(DType, usize)>,
    /// Before the loop: reads accumulators.
    pub open: Vec<Step>,
    /// Before each row: reads what is the same in all of its lanes.
    pub row: Vec<Step>,
    /// Sixteen lanes.
    pub block: Vec<Step>,
    /// The same for all that the lanes may hold, where `block` leaves; empty if it never does.
    pub full: Vec<Step>,
    /// What remains, a list for each vector of a block.
    pub tails: Vec<Vec<Step>>,
    /// After the loop: writes accumulators.
    pub close: Vec<Step>,
    /// Of a tile: the number of vectors that sum it, which are the first virtual registers.
    pub sums: usize,
    /// What is done with each row of them.
    pub rows: Vec<Vec<Step>>,
}

impl Program {
    /// What is done again and again.
    pub fn repeated(&self) -> impl Iterator<Item = &Step> {
        self.block.iter().chain(self.rows.iter().flatten())
    }
}

/// The vectors of sixteen lanes.
fn halves_of(level: Level) -> Result<usize, String> {
    match level {
        Level::Portable => Err("assembled bodies need AVX2".to_string()),
        Level::Avx2 => Ok(2),
        Level::Avx512 => Ok(1),
    }
}

/// The instructions of a body, or what in it has none.
pub fn lower(body: &Body, level: Level) -> Result<Program, String> {
    let halves = halves_of(level)?;
    let mut lowering = Lowering::new(body, level);
    let sums = body
        .sinks
        .iter()
        .filter(|sink| matches!(sink, Sink::Accumulate(..)))
        .count();
    if sums * halves + RESERVE > registers_of(level, File::Vector) {
        return Err(format!("{sums} accumulations at once"));
    }
    let mut accumulators = Vec::new();
    for sink in &body.sinks {
        let mut states = Vec::new();
        if let Sink::Accumulate(dtype, slot, ..) = *sink {
            if !matches!(dtype, DType::F32 | DType::I32 | DType::U32) {
                return Err(format!("an accumulation of {dtype}"));
            }
            for half in 0..halves {
                let state = lowering.register(File::Vector, None, true);
                let stream = Stream {
                    origin: slot,
                    bytes: 4,
                    half,
                    moves: false,
                    further: 0,
                };
                let load = lowering.pick(Code::VEX_Vmovups_ymm_ymmm256, Code::EVEX_Vmovups_zmm_k1z_zmmm512);
                let store = lowering.pick(Code::VEX_Vmovups_ymmm256_ymm, Code::EVEX_Vmovups_zmmm512_k1z_zmm);
                lowering.program.open.push(Step {
                    what: Do::Load(load, stream),
                    to: Some(state),
                    from: Vec::new(),
                });
                lowering.program.close.push(Step {
                    what: Do::Store(store, None, stream),
                    to: None,
                    from: vec![state],
                });
                states.push(state);
            }
        }
        accumulators.push(states);
    }
    for half in 0..halves {
        lowering.half(half, false, &accumulators)?;
    }
    lowering.program.block = std::mem::take(&mut lowering.steps);
    let unlikely = body.unlikely();
    if !unlikely.is_empty() {
        lowering.expected(&unlikely, halves, &accumulators)?;
        let block = std::mem::take(&mut lowering.steps);
        lowering.program.full = std::mem::replace(&mut lowering.program.block, block);
    }
    for half in 0..halves {
        lowering.half(half, true, &accumulators)?;
        let steps = std::mem::take(&mut lowering.steps);
        lowering.program.tails.push(steps);
    }
    Ok(lowering.program)
}

/// The instructions that finish the rows of a tile, or what has none.
pub fn lower_finish(finish: &Finish, level: Level) -> Result<Program, String> {
    let body = &finish.body;
    let halves = halves_of(level)?;
    let vectors = finish.tile.columns / 16 * halves;
    let sums = finish.tile.rows * vectors;
    if sums + RESERVE > registers_of(level, File::Vector) {
        return Err(format!("{sums} sums at once"));
    }
    let mut lowering = Lowering::new(body, level);
    lowering.program.sums = sums;
    for _ in 0..sums {
        lowering.register(File::Vector, None, false);
    }
    let unused = vec![Vec::new(); body.sinks.len()];
    for row in 0..finish.tile.rows {
        lowering.spread.clear();
        for vector in 0..vectors {
            lowering.begin(vector * 2 / halves, vec![None; body.values.len()]);
            let sum = Virtual((row * vectors + vector) as u32);
            lowering.place = Some(InTile { finish, row, sum });
            lowering.sinks(&unused)?;
        }
        let steps = std::mem::take(&mut lowering.steps);
        lowering.program.rows.push(steps);
    }
    if !lowering.program.converted.is_empty() {
        return Err("scalars of other forms beside sums".to_string());
    }
    Ok(lowering.program)
}

/// Which of a tile's vectors is finished.
#[derive(Clone, Copy)]
struct InTile<'b> {
    finish: &'b Finish,
    row: usize,
    sum: Virtual,
}

struct Lowering<'b> {
    body: &'b Body,
    level: Level,
    program: Program,
    steps: Vec<Step>,
    constants: BTreeMap<u32, Virtual>,
    scalars: BTreeMap<(DType, usize), Virtual>,
    /// Elements that a row reads once, by where they are.
    spread: BTreeMap<usize, Virtual>,
    /// The upper half of every 64 bits, once it was asked for in this vector.
    upper: Option<Virtual>,
    /// What the body's values are in this vector.
    known: Vec<Option<Virtual>>,
    /// Whether all that the sinks need has been read in this vector.
    has_read: bool,
    half: usize,
    tail: Option<Virtual>,
    /// Whether unlikely masks hold nowhere.
    is_expected: bool,
    /// Where in a tile this vector is, if it is in one.
    place: Option<InTile<'b>>,
}

impl<'b> Lowering<'b> {
    fn new(body: &'b Body, level: Level) -> Lowering<'b> {
        Lowering {
            body,
            level,
            program: Program {
                slots: body.slots(),
                origins: body.origins.clone(),
                streams: body.streams(),
                ..Program::default()
            },
            steps: Vec::new(),
            constants: BTreeMap::new(),
            scalars: BTreeMap::new(),
            spread: BTreeMap::new(),
            upper: None,
            known: Vec::new(),
            has_read: false,
            half: 0,
            tail: None,
            is_expected: false,
            place: None,
        }
    }

    fn half(&mut self, half: usize, is_tail: bool, accumulators: &[Vec<Virtual>]) -> Result<(), String> {
        self.begin(half, vec![None; self.body.values.len()]);
        self.tail = is_tail.then(|| self.mask(Do::Tail(half), &[]));
        self.sinks(accumulators)
    }

    /// Sixteen lanes in which no unlikely mask holds; finds out whether that is so before it writes anything.
    fn expected(&mut self, masks: &[ValueId], halves: usize, accumulators: &[Vec<Virtual>]) -> Result<(), String> {
        self.is_expected = true;
        let mut any: Option<Virtual> = None;
        let mut known = Vec::new();
        for half in 0..halves {
            self.begin(half, vec![None; self.body.values.len()]);
            for &mask in masks {
                let holds = self.value(mask)?;
                any = Some(match any {
                    Some(any) => self.logic(Prim::Or, &[any, holds]),
                    None => holds,
                });
            }
            known.push(std::mem::take(&mut self.known));
        }
        self.step(Do::Leave, None, any.as_slice());
        for (half, known) in known.into_iter().enumerate() {
            self.begin(half, known);
            self.sinks(accumulators)?;
        }
        self.is_expected = false;
        Ok(())
    }

    fn begin(&mut self, half: usize, known: Vec<Option<Virtual>>) {
        self.known = known;
        self.has_read = false;
        self.upper = None;
        self.half = half;
    }

    fn sinks(&mut self, accumulators: &[Vec<Virtual>]) -> Result<(), String> {
        (accumulators.iter().enumerate()).try_for_each(|(at, states)| self.sink(at, states))
    }

    /// What a value is where no unlikely mask holds, if that is asked for and it is chosen by one.
    fn chosen(&self, at: usize) -> Option<ValueId> {
        self.is_expected.then(|| self.body.expected(ValueId(at as u32)))?
    }

    /// Marks what a value is made from.
    fn want_operands(&self, at: usize, wanted: &mut [bool]) {
        match self.chosen(at) {
            Some(chosen) => wanted[chosen.0 as usize] = true,
            None => (self.body.values[at].operands()).for_each(|operand| wanted[operand.0 as usize] = true),
        }
    }

    /// Reads all that the sinks after that one need, before it writes: what it writes may lie over what they read.
    fn read_ahead(&mut self, sink: usize) -> Result<(), String> {
        // The first sink of a vector that writes has read for all.
        if std::mem::replace(&mut self.has_read, true) {
            return Ok(());
        }
        let body = self.body;
        let mut wanted = vec![false; body.values.len()];
        for later in &body.sinks[sink + 1..] {
            if let Sink::Store(_, _, id) | Sink::Stream(_, _, id) | Sink::Accumulate(_, _, _, id) = *later {
                wanted[id.0 as usize] = true;
            }
        }
        // Users come after their operands.
        for at in (0..wanted.len()).rev().filter(|&at| self.known[at].is_none()) {
            if wanted[at] {
                self.want_operands(at, &mut wanted);
            }
        }
        for (at, value) in body.values.iter().enumerate() {
            if wanted[at] && value.reads_memory() {
                self.value(ValueId(at as u32))?;
            }
        }
        Ok(())
    }

    fn wide(&self) -> bool {
        self.level == Level::Avx512
    }

    /// The instruction's name at this level.
    fn pick(&self, avx2: Code, avx512: Code) -> Code {
        if self.wide() { avx512 } else { avx2 }
    }

    fn register(&mut self, file: File, source: Option<Source>, kept: bool) -> Virtual {
        self.program.registers.push(Described { file, source, kept });
        Virtual(self.program.registers.len() as u32 - 1)
    }

    fn step(&mut self, what: Do, to: Option<Virtual>, from: &[Virtual]) {
        self.steps.push(Step {
            what,
            to,
            from: from.to_vec(),
        });
    }

    fn vector(&mut self, what: Do, from: &[Virtual]) -> Virtual {
        let to = self.register(File::Vector, None, false);
        self.step(what, Some(to), from);
        to
    }

    fn mask(&mut self, what: Do, from: &[Virtual]) -> Virtual {
        let file = if self.wide() { File::Mask } else { File::Vector };
        let to = self.register(file, None, false);
        self.step(what, Some(to), from);
        to
    }

    fn op(&mut self, avx2: Code, avx512: Code, from: &[Virtual]) -> Virtual {
        self.vector(Do::Plain(self.pick(avx2, avx512), None), from)
    }

    fn op_by(&mut self, avx2: Code, avx512: Code, immediate: u32, from: &[Virtual]) -> Virtual {
        self.vector(Do::Plain(self.pick(avx2, avx512), Some(immediate)), from)
    }

    fn constant(&mut self, bits: u32) -> Virtual {
        if let Some(&known) = self.constants.get(&bits) {
            return known;
        }
        let place = self.program.constants.len();
        self.program.constants.push(bits);
        let constant = self.register(File::Vector, Some(Source::Constant(place)), false);
        self.constants.insert(bits, constant);
        constant
    }

    fn scalar(&mut self, dtype: DType, slot: usize) -> Result<Virtual, String> {
        supported(dtype)?;
        if let Some(&known) = self.scalars.get(&(dtype, slot)) {
            return Ok(known);
        }
        let source = match dtype {
            DType::F32 | DType::I32 | DType::U32 => Source::Slot(slot),
            _ => {
                self.program.converted.push((dtype, slot));
                Source::Converted(self.program.converted.len() - 1)
            }
        };
        let file = if dtype == DType::Bool && self.wide() {
            File::Mask
        } else {
            File::Vector
        };
        let scalar = self.register(file, Some(source), false);
        self.scalars.insert((dtype, slot), scalar);
        Ok(scalar)
    }

    fn value(&mut self, id: ValueId) -> Result<Virtual, String> {
        if let Some(known) = self.known[id.0 as usize] {
            return Ok(known);
        }
        // Values come before their users, so what is wanted is found by one walk, without recursion.
        let mut wanted = vec![false; id.0 as usize + 1];
        wanted[id.0 as usize] = true;
        for at in (0..wanted.len()).rev() {
            if wanted[at] && self.known[at].is_none() {
                self.want_operands(at, &mut wanted);
            }
        }
        for (at, _) in wanted.iter().enumerate().filter(|&(_, &wanted)| wanted) {
            if self.known[at].is_none() {
                self.known[at] = Some(self.compute(at)?);
            }
        }
        Ok(self.known[id.0 as usize].expect("just computed"))
    }

    fn of(&self, id: ValueId) -> Virtual {
        self.known[id.0 as usize].expect("operands come first")
    }

    fn dtype(&self, id: ValueId) -> DType {
        self.body.dtype(id)
    }

    fn stream(&self, dtype: DType, origin: usize) -> Stream {
        Stream {
            origin,
            bytes: dtype.size_bytes(),
            half: self.half,
            moves: self.place.is_none(),
            further: self.further(origin),
        }
    }

    /// How far a stream has moved from a tile's first row to this one.
    fn further(&self, origin: usize) -> i64 {
        let slot = self.body.origins[origin].slot;
        self.place
            .map_or(0, |place| place.row as i64 * place.finish.strides[slot])
    }

    /// The lanes where both hold; the tail's alone if there is no other mask.
    fn within_tail(&mut self, mask: Option<Virtual>) -> Option<Virtual> {
        match (mask, self.tail) {
            (Some(mask), Some(tail)) => Some(self.and(mask, tail)),
            (mask, tail) => mask.or(tail),
        }
    }

    fn and(&mut self, a: Virtual, b: Virtual) -> Virtual {
        self.mask(
            Do::Plain(
                self.pick(Code::VEX_Vpand_ymm_ymm_ymmm256, Code::VEX_Kandw_kr_kr_kr),
                None,
            ),
            &[a, b],
        )
    }

    fn compute(&mut self, at: usize) -> Result<Virtual, String> {
        let body = self.body;
        if let Some(chosen) = self.chosen(at) {
            return Ok(self.of(chosen));
        }
        match &body.values[at] {
            &Value::Const(dtype, bits) => self.constant_of(dtype, bits),
            &Value::Scalar(dtype, slot) => self.scalar(dtype, slot),
            &Value::Spread(dtype, slot) => self.spread(dtype, slot),
            Value::Lane => Ok(self.vector(Do::Lane(self.half), &[])),
            &Value::Load(dtype, origin) => match self.place {
                Some(place) if body.origins[origin].slot == place.finish.sums => Ok(place.sum),
                _ => self.load(dtype, origin, None),
            },
            Value::Column(..) => Err("a column that is not only stored".to_string()),
            &Value::MaskedLoad(dtype, slot, mask) => self.load(dtype, slot, Some(self.of(mask))),
            &Value::Gather(dtype, slot, offset) => self.gather(dtype, slot, self.of(offset), None),
            &Value::MaskedGather(dtype, slot, offset, mask) => {
                self.gather(dtype, slot, self.of(offset), Some(self.of(mask)))
            }
            Value::Prim(prim, dtype, args) => {
                let from = self.dtype(args[0]);
                let args: Vec<Virtual> = args.iter().map(|&arg| self.of(arg)).collect();
                self.prim(*prim, *dtype, from, &args)
            }
        }
    }

    fn constant_of(&mut self, dtype: DType, bits: u64) -> Result<Virtual, String> {
        supported(dtype)?;
        let value = netloom_ir::dtype::Scalar::from_bits(bits, dtype);
        Ok(match dtype {
            DType::Bool if self.wide() && bits != 0 => self.mask(Do::Ones, &[]),
            DType::Bool if self.wide() => {
                let ones = self.mask(Do::Ones, &[]);
                self.mask(Do::Plain(Code::VEX_Knotw_kr_kr, None), &[ones])
            }
            DType::Bool => self.constant(if bits != 0 { u32::MAX } else { 0 }),
            DType::F32 | DType::I32 | DType::U32 => self.constant(bits as u32),
            DType::F16 | DType::BF16 => self.constant((value.as_f64() as f32).to_bits()),
            _ => self.constant(value.as_i128() as u32),
        })
    }

    /// One element in every lane: read once a row, as long as that takes no more than a quarter of the registers.
    fn spread(&mut self, dtype: DType, slot: usize) -> Result<Virtual, String> {
        if !matches!(dtype, DType::F32 | DType::I32 | DType::U32) {
            return Err(format!("one {dtype} in every lane"));
        }
        if let Some(&known) = self.spread.get(&slot) {
            return Ok(known);
        }
        let code = self.pick(Code::VEX_Vbroadcastss_ymm_m32, Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32);
        let stream = Stream {
            origin: slot,
            bytes: 4,
            half: 0,
            moves: false,
            further: self.further(slot),
        };
        if self.place.is_some() {
            let to = self.vector(Do::Load(code, stream), &[]);
            self.spread.insert(slot, to);
            return Ok(to);
        }
        let kept = self.program.registers.iter().filter(|register| register.kept).count();
        if 4 * kept >= registers_of(self.level, File::Vector) {
            return Ok(self.vector(Do::Load(code, stream), &[]));
        }
        let to = self.register(File::Vector, None, true);
        self.spread.insert(slot, to);
        self.program.row.push(Step {
            what: Do::Load(code, stream),
            to: Some(to),
            from: Vec::new(),
        });
        Ok(to)
    }

    fn load(&mut self, dtype: DType, slot: usize, mask: Option<Virtual>) -> Result<Virtual, String> {
        supported(dtype)?;
        let stream = self.stream(dtype, slot);
        let code = match dtype {
            DType::F32 | DType::I32 | DType::U32 => {
                self.pick(Code::VEX_Vmovups_ymm_ymmm256, Code::EVEX_Vmovups_zmm_k1z_zmmm512)
            }
            DType::Bool | DType::U8 => self.pick(Code::VEX_Vpmovzxbd_ymm_xmmm64, Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128),
            DType::I8 => self.pick(Code::VEX_Vpmovsxbd_ymm_xmmm64, Code::EVEX_Vpmovsxbd_zmm_k1z_xmmm128),
            DType::U16 | DType::BF16 => {
                self.pick(Code::VEX_Vpmovzxwd_ymm_xmmm128, Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256)
            }
            DType::I16 => self.pick(Code::VEX_Vpmovsxwd_ymm_xmmm128, Code::EVEX_Vpmovsxwd_zmm_k1z_ymmm256),
            DType::F16 => self.pick(
                Code::VEX_Vcvtph2ps_ymm_xmmm128,
                Code::EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae,
            ),
            DType::U64 | DType::I64 | DType::F64 => unreachable!("refused above"),
        };
        let narrow = dtype.size_bytes() < 4 && !self.wide();
        let loaded = match mask {
            Some(_) if narrow => return Err(format!("a masked load of {dtype} with AVX2")),
            None if narrow && self.tail.is_some() => self.vector(Do::LoadPart(code, stream), &[]),
            _ => match self.within_tail(mask) {
                Some(mask) => self.vector(Do::Load(code, stream), &[mask]),
                None => self.vector(Do::Load(code, stream), &[]),
            },
        };
        Ok(match dtype {
            DType::Bool => self.is_nonzero(DType::I32, loaded),
            DType::BF16 => self.shift_left(loaded, 16),
            _ => loaded,
        })
    }

    fn gather(&mut self, dtype: DType, slot: usize, offset: Virtual, mask: Option<Virtual>) -> Result<Virtual, String> {
        if !matches!(dtype.size_bytes(), 1 | 4) {
            return Err(format!("a gather of {dtype}"));
        }
        let mask = match self.within_tail(mask) {
            // The gather destroys its mask.
            Some(mask) => self.and(mask, mask),
            None => self.mask(Do::Ones, &[]),
        };
        if dtype.size_bytes() == 4 {
            return Ok(self.vector(Do::Gather(slot, 4), &[offset, mask]));
        }
        // A byte comes out of the aligned 32 bits around it, which are in memory where it is: a page is aligned too.
        let (address, three) = (self.scalar(DType::U32, slot)?, self.constant(3));
        let low = self.and_bits(address, three);
        let place = self.add_int(offset, low);
        let within = self.and_bits(place, three);
        let ahead = self.add_int(within, low);
        let start = self.prim(Prim::Sub, DType::I32, DType::I32, &[place, ahead])?;
        let word = self.vector(Do::Gather(slot, 1), &[start, mask]);
        let shift = self.shift_left(within, 3);
        let shifted = self.prim(Prim::Shr, DType::U32, DType::U32, &[word, shift])?;
        Ok(match dtype {
            DType::Bool => {
                let byte = self.wrapped(DType::U8, shifted);
                self.is_nonzero(DType::I32, byte)
            }
            _ => self.wrapped(dtype, shifted),
        })
    }

    fn sink(&mut self, at: usize, states: &[Virtual]) -> Result<(), String> {
        match self.body.sinks[at] {
            Sink::Store(dtype, slot, id) | Sink::Stream(dtype, slot, id) => {
                let value = self.value(id)?;
                self.read_ahead(at)?;
                match self.body.sinks[at] {
                    Sink::Stream(..) if self.tail.is_none() => {
                        let stream = self.stream(dtype, slot);
                        self.step(Do::StorePast(stream), None, &[value]);
                        Ok(())
                    }
                    _ => self.store(dtype, slot, value),
                }
            }
            // The two vectors of a block share a line.
            Sink::Prefetch(dtype, slot) => {
                if self.half.is_multiple_of(2) {
                    let stream = self.stream(dtype, slot);
                    self.step(Do::Prefetch(stream), None, &[]);
                }
                Ok(())
            }
            Sink::Accumulate(dtype, _, with, id) => {
                let value = self.value(id)?;
                let state = states[self.half];
                let prim = match with {
                    Combine::Sum => Prim::Add,
                    Combine::Product => Prim::Mul,
                    Combine::Max => Prim::Max,
                    Combine::Min => Prim::Min,
                    Combine::Any => Prim::Or,
                    Combine::All => Prim::And,
                };
                let mut combined = self.prim(prim, dtype, dtype, &[state, value])?;
                if dtype.is_float() && matches!(with, Combine::Max | Combine::Min) {
                    let is_number = self.compare_floats(0, state, state);
                    combined = self.blend(is_number, combined, state);
                }
                if let Some(tail) = self.tail {
                    combined = self.blend(tail, combined, state);
                }
                let copy = self.pick(Code::VEX_Vmovaps_ymm_ymmm256, Code::EVEX_Vmovaps_zmm_k1z_zmmm512);
                self.step(Do::Plain(copy, None), Some(state), &[combined]);
                Ok(())
            }
        }
    }

    fn store(&mut self, dtype: DType, slot: usize, value: Virtual) -> Result<(), String> {
        supported(dtype)?;
        let stream = self.stream(dtype, slot);
        let value = match dtype {
            DType::Bool => self.mask_to(value, 1),
            DType::BF16 => self.shift_right(value, 16),
            _ => value,
        };
        let wide = self.wide();
        let (code, immediate, value) = match dtype {
            DType::F32 | DType::I32 | DType::U32 => (
                self.pick(Code::VEX_Vmovups_ymmm256_ymm, Code::EVEX_Vmovups_zmmm512_k1z_zmm),
                None,
                value,
            ),
            DType::F16 => (
                self.pick(
                    Code::VEX_Vcvtps2ph_xmmm128_ymm_imm8,
                    Code::EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae,
                ),
                Some(0),
                value,
            ),
            DType::Bool | DType::U8 | DType::I8 if wide => (Code::EVEX_Vpmovdb_xmmm128_k1z_zmm, None, value),
            DType::U16 | DType::I16 | DType::BF16 if wide => (Code::EVEX_Vpmovdw_ymmm256_k1z_zmm, None, value),
            _ => {
                // The values fit the narrow type, so the saturation of packing changes none.
                let high = self.vector(Do::Plain(Code::VEX_Vextracti128_xmmm128_ymm_imm8, Some(1)), &[value]);
                let (words, bytes) = if dtype.is_signed() && dtype != DType::BF16 {
                    (Code::VEX_Vpackssdw_xmm_xmm_xmmm128, Code::VEX_Vpacksswb_xmm_xmm_xmmm128)
                } else {
                    (Code::VEX_Vpackusdw_xmm_xmm_xmmm128, Code::VEX_Vpackuswb_xmm_xmm_xmmm128)
                };
                let packed = self.vector(Do::Plain(words, None), &[value, high]);
                if dtype.size_bytes() == 2 {
                    (Code::VEX_Vmovups_xmmm128_xmm, None, packed)
                } else {
                    let packed = self.vector(Do::Plain(bytes, None), &[packed, packed]);
                    (Code::VEX_Vmovq_xmmm64_xmm, None, packed)
                }
            }
        };
        match self.tail {
            None => self.step(Do::Store(code, immediate, stream), None, &[value]),
            Some(_) if dtype.size_bytes() < 4 && !wide => {
                self.step(Do::StorePart(code, immediate, stream), None, &[value]);
            }
            Some(tail) => self.step(Do::Store(code, immediate, stream), None, &[value, tail]),
        }
        Ok(())
    }

    fn prim(&mut self, prim: Prim, dtype: DType, from: DType, args: &[Virtual]) -> Result<Virtual, String> {
        supported(dtype)?;
        supported(from)?;
        if matches!(prim, Prim::Cast) {
            return self.cast(dtype, from, args[0]);
        }
        if let Prim::Unlikely = prim {
            return Ok(args[0]);
        }
        if from == DType::Bool && !matches!(prim, Prim::Select | Prim::Bitcast) {
            return Ok(self.logic(prim, args));
        }
        let refused = || Err(format!("`{}` of {from}", prim.name()));
        let float = from.is_float();
        let unsigned = from == DType::U32;
        let result = match prim {
            Prim::Eq => return Ok(self.compare(from, 0, args[0], args[1])),
            Prim::Lt => return Ok(self.compare(from, 1, args[0], args[1])),
            Prim::Le => return Ok(self.compare(from, 2, args[0], args[1])),
            Prim::Select if dtype == DType::Bool => return Ok(self.choose(args[0], args[1], args[2])),
            Prim::Select => return Ok(self.blend(args[0], args[1], args[2])),
            Prim::Bitcast => {
                return match (from.size_bytes(), dtype.size_bytes()) {
                    (4, 4) => Ok(args[0]),
                    (1 | 2, 1 | 2) if from.is_int() && dtype.is_int() => Ok(self.wrapped(dtype, args[0])),
                    _ => refused(),
                };
            }
            Prim::Add if float => self.op(
                Code::VEX_Vaddps_ymm_ymm_ymmm256,
                Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er,
                args,
            ),
            Prim::Sub if float => self.op(
                Code::VEX_Vsubps_ymm_ymm_ymmm256,
                Code::EVEX_Vsubps_zmm_k1z_zmm_zmmm512b32_er,
                args,
            ),
            Prim::Mul if float => self.op(
                Code::VEX_Vmulps_ymm_ymm_ymmm256,
                Code::EVEX_Vmulps_zmm_k1z_zmm_zmmm512b32_er,
                args,
            ),
            Prim::Div if float => self.op(
                Code::VEX_Vdivps_ymm_ymm_ymmm256,
                Code::EVEX_Vdivps_zmm_k1z_zmm_zmmm512b32_er,
                args,
            ),
            Prim::Max if float => self.op(
                Code::VEX_Vmaxps_ymm_ymm_ymmm256,
                Code::EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae,
                args,
            ),
            Prim::Min if float => self.op(
                Code::VEX_Vminps_ymm_ymm_ymmm256,
                Code::EVEX_Vminps_zmm_k1z_zmm_zmmm512b32_sae,
                args,
            ),
            Prim::Sqrt => self.op(
                Code::VEX_Vsqrtps_ymm_ymmm256,
                Code::EVEX_Vsqrtps_zmm_k1z_zmmm512b32_er,
                args,
            ),
            Prim::Fma => self.vector(Do::Fma, args),
            Prim::Neg if float => {
                let sign = self.constant(0x8000_0000);
                self.xor(args[0], sign)
            }
            Prim::Abs if float => {
                let rest = self.constant(0x7fff_ffff);
                self.and_bits(args[0], rest)
            }
            Prim::Nearest => self.round(args[0], 0),
            Prim::Floor => self.round(args[0], 1),
            Prim::Ceil => self.round(args[0], 2),
            Prim::Trunc => self.round(args[0], 3),
            Prim::Add => self.op(
                Code::VEX_Vpaddd_ymm_ymm_ymmm256,
                Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32,
                args,
            ),
            Prim::Sub => self.op(
                Code::VEX_Vpsubd_ymm_ymm_ymmm256,
                Code::EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32,
                args,
            ),
            Prim::Mul => self.op(
                Code::VEX_Vpmulld_ymm_ymm_ymmm256,
                Code::EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32,
                args,
            ),
            Prim::Max if unsigned => self.op(
                Code::VEX_Vpmaxud_ymm_ymm_ymmm256,
                Code::EVEX_Vpmaxud_zmm_k1z_zmm_zmmm512b32,
                args,
            ),
            Prim::Min if unsigned => self.op(
                Code::VEX_Vpminud_ymm_ymm_ymmm256,
                Code::EVEX_Vpminud_zmm_k1z_zmm_zmmm512b32,
                args,
            ),
            Prim::Max => self.max_int(args[0], args[1]),
            Prim::Min => self.min_int(args[0], args[1]),
            Prim::Neg => {
                let zero = self.constant(0);
                self.op(
                    Code::VEX_Vpsubd_ymm_ymm_ymmm256,
                    Code::EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32,
                    &[zero, args[0]],
                )
            }
            Prim::Abs if !from.is_signed() => args[0],
            Prim::Abs => self.op(Code::VEX_Vpabsd_ymm_ymmm256, Code::EVEX_Vpabsd_zmm_k1z_zmmm512b32, args),
            Prim::And => self.and_bits(args[0], args[1]),
            Prim::Or => self.or_bits(args[0], args[1]),
            Prim::Xor => self.xor(args[0], args[1]),
            Prim::Shl => self.op(
                Code::VEX_Vpsllvd_ymm_ymm_ymmm256,
                Code::EVEX_Vpsllvd_zmm_k1z_zmm_zmmm512b32,
                args,
            ),
            Prim::Shr if from.is_signed() => self.op(
                Code::VEX_Vpsravd_ymm_ymm_ymmm256,
                Code::EVEX_Vpsravd_zmm_k1z_zmm_zmmm512b32,
                args,
            ),
            Prim::Shr => self.op(
                Code::VEX_Vpsrlvd_ymm_ymm_ymmm256,
                Code::EVEX_Vpsrlvd_zmm_k1z_zmm_zmmm512b32,
                args,
            ),
            Prim::MulHi if unsigned => self.high_product(args[0], args[1]),
            Prim::Div | Prim::Rem | Prim::MulHi => return refused(),
            Prim::Unlikely | Prim::Cast => unreachable!("done above"),
        };
        Ok(self.wrapped(dtype, result))
    }

    /// Brings a result back into the form of its type: narrow integers wrap, narrow floats round.
    fn wrapped(&mut self, dtype: DType, value: Virtual) -> Virtual {
        let bits = 32 - 8 * dtype.size_bytes() as u32 % 32;
        match dtype {
            DType::U8 | DType::U16 => {
                let low = self.constant(u32::MAX >> bits);
                self.and_bits(value, low)
            }
            DType::I8 | DType::I16 => {
                let high = self.shift_left(value, bits);
                self.op_by(
                    Code::VEX_Vpsrad_ymm_ymm_imm8,
                    Code::EVEX_Vpsrad_zmm_k1z_zmmm512b32_imm8,
                    bits,
                    &[high],
                )
            }
            DType::F16 => {
                let half = self.op_by(
                    Code::VEX_Vcvtps2ph_xmmm128_ymm_imm8,
                    Code::EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae,
                    0,
                    &[value],
                );
                self.op(
                    Code::VEX_Vcvtph2ps_ymm_xmmm128,
                    Code::EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae,
                    &[half],
                )
            }
            DType::BF16 => self.brain(value),
            _ => value,
        }
    }

    /// Rounds to the nearest `BF16`: adds half a unit, or one less if the last bit is even, and drops the low half.
    fn brain(&mut self, value: Virtual) -> Virtual {
        let (one, half, high, quiet) = (
            self.constant(1),
            self.constant(0x7fff),
            self.constant(0xffff_0000),
            self.constant(0x7fc0_0000),
        );
        let last = self.shift_right(value, 16);
        let odd = self.and_bits(last, one);
        let sum = self.add_int(value, half);
        let sum = self.add_int(sum, odd);
        let rounded = self.and_bits(sum, high);
        let is_number = self.compare_floats(0, value, value);
        self.blend(is_number, rounded, quiet)
    }

    fn logic(&mut self, prim: Prim, args: &[Virtual]) -> Virtual {
        let (a, b) = (args[0], args[1]);
        let and = self.pick(Code::VEX_Vpand_ymm_ymm_ymmm256, Code::VEX_Kandw_kr_kr_kr);
        let or = self.pick(Code::VEX_Vpor_ymm_ymm_ymmm256, Code::VEX_Korw_kr_kr_kr);
        let xor = self.pick(Code::VEX_Vpxor_ymm_ymm_ymmm256, Code::VEX_Kxorw_kr_kr_kr);
        let and_not = self.pick(Code::VEX_Vpandn_ymm_ymm_ymmm256, Code::VEX_Kandnw_kr_kr_kr);
        match prim {
            Prim::And | Prim::Min => self.mask(Do::Plain(and, None), &[a, b]),
            Prim::Or | Prim::Max => self.mask(Do::Plain(or, None), &[a, b]),
            Prim::Xor => self.mask(Do::Plain(xor, None), &[a, b]),
            Prim::Lt => self.mask(Do::Plain(and_not, None), &[a, b]),
            Prim::Eq => {
                let differ = self.mask(Do::Plain(xor, None), &[a, b]);
                self.not(differ)
            }
            Prim::Le => {
                let greater = self.mask(Do::Plain(and_not, None), &[b, a]);
                self.not(greater)
            }
            _ => unreachable!("`{}` of booleans", prim.name()),
        }
    }

    fn not(&mut self, mask: Virtual) -> Virtual {
        if self.wide() {
            return self.mask(Do::Plain(Code::VEX_Knotw_kr_kr, None), &[mask]);
        }
        let ones = self.constant(u32::MAX);
        self.xor(mask, ones)
    }

    /// `mask ? yes : no` of vectors.
    fn blend(&mut self, mask: Virtual, yes: Virtual, no: Virtual) -> Virtual {
        if self.wide() {
            self.vector(
                Do::Masked(Code::EVEX_Vpblendmd_zmm_k1z_zmm_zmmm512b32, false),
                &[mask, no, yes],
            )
        } else if self.constants.get(&0) == Some(&no) {
            // A blend is up to three instructions inside the machine.
            match self.constants.get(&u32::MAX) == Some(&yes) {
                true => mask,
                false => self.and_bits(mask, yes),
            }
        } else if self.constants.get(&0) == Some(&yes) {
            self.vector(Do::Plain(Code::VEX_Vpandn_ymm_ymm_ymmm256, None), &[mask, no])
        } else {
            self.vector(
                Do::Plain(Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm, None),
                &[no, yes, mask],
            )
        }
    }

    /// `mask ? yes : no` of masks.
    fn choose(&mut self, mask: Virtual, yes: Virtual, no: Virtual) -> Virtual {
        if !self.wide() {
            return self.blend(mask, yes, no);
        }
        let yes = self.mask(Do::Plain(Code::VEX_Kandw_kr_kr_kr, None), &[mask, yes]);
        let no = self.mask(Do::Plain(Code::VEX_Kandnw_kr_kr_kr, None), &[mask, no]);
        self.mask(Do::Plain(Code::VEX_Korw_kr_kr_kr, None), &[yes, no])
    }

    /// Those bits where the mask holds, otherwise zero.
    fn mask_to(&mut self, mask: Virtual, bits: u32) -> Virtual {
        let bits = self.constant(bits);
        if self.wide() {
            self.vector(Do::Masked(Code::EVEX_Vmovdqa32_zmm_k1z_zmmm512, true), &[mask, bits])
        } else {
            self.and_bits(mask, bits)
        }
    }

    /// `relation` is 0 for equal, 1 for less, 2 for less or equal.
    fn compare(&mut self, from: DType, relation: u32, a: Virtual, b: Virtual) -> Virtual {
        if from.is_float() {
            // Ordered and quiet: false on NaN.
            return self.compare_floats([0, 0x11, 0x12][relation as usize], a, b);
        }
        if self.wide() {
            let code = match from {
                DType::U32 => Code::EVEX_Vpcmpud_kr_k1_zmm_zmmm512b32_imm8,
                _ => Code::EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8,
            };
            return self.mask(Do::Plain(code, Some(relation)), &[a, b]);
        }
        let (mut a, mut b) = (a, b);
        if from == DType::U32 && relation != 0 {
            let sign = self.constant(0x8000_0000);
            (a, b) = (self.xor(a, sign), self.xor(b, sign));
        }
        match relation {
            0 => self.mask(Do::Plain(Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256, None), &[a, b]),
            1 => self.mask(Do::Plain(Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, None), &[b, a]),
            _ => {
                let greater = self.mask(Do::Plain(Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, None), &[a, b]);
                self.not(greater)
            }
        }
    }

    fn compare_floats(&mut self, predicate: u32, a: Virtual, b: Virtual) -> Virtual {
        let code = self.pick(
            Code::VEX_Vcmpps_ymm_ymm_ymmm256_imm8,
            Code::EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae,
        );
        self.mask(Do::Plain(code, Some(predicate)), &[a, b])
    }

    fn is_nonzero(&mut self, from: DType, value: Virtual) -> Virtual {
        if !from.is_float() && self.wide() {
            return self.mask(
                Do::Plain(Code::EVEX_Vptestmd_kr_k1_zmm_zmmm512b32, None),
                &[value, value],
            );
        }
        let zero = self.constant(0);
        if from.is_float() {
            // Not equal or unordered.
            return self.compare_floats(4, value, zero);
        }
        let is_zero = self.compare(DType::I32, 0, value, zero);
        self.not(is_zero)
    }

    fn cast(&mut self, dtype: DType, from: DType, value: Virtual) -> Result<Virtual, String> {
        let narrow = dtype.size_bytes() < 4;
        if from == DType::Bool {
            return Ok(match dtype {
                DType::Bool => value,
                DType::F32 | DType::F16 | DType::BF16 => self.mask_to(value, 1.0f32.to_bits()),
                _ => self.mask_to(value, 1),
            });
        }
        if dtype == DType::Bool {
            return Ok(self.is_nonzero(from, value));
        }
        Ok(match (from.is_float(), dtype.is_float()) {
            (true, true) => self.wrapped(dtype, value),
            (false, false) => self.wrapped(dtype, value),
            (false, true) => {
                // Through F32, which rounds a second time only values that overflow an F16.
                if dtype == DType::BF16 && from.size_bytes() > 2 {
                    return Err(format!("a cast from {from} to {dtype}"));
                }
                let float = match from {
                    DType::U32 => self.float_of_unsigned(value),
                    _ => self.op(
                        Code::VEX_Vcvtdq2ps_ymm_ymmm256,
                        Code::EVEX_Vcvtdq2ps_zmm_k1z_zmmm512b32_er,
                        &[value],
                    ),
                };
                self.wrapped(dtype, float)
            }
            (true, false) if dtype == DType::U32 => self.unsigned_of_float(value),
            (true, false) => {
                let whole = self.signed_of_float(value);
                match dtype.int_range() {
                    Some((low, high)) if narrow => {
                        let (low, high) = (self.constant(low as u32), self.constant(high as u32));
                        let above = self.max_int(whole, low);
                        self.min_int(above, high)
                    }
                    _ => whole,
                }
            }
        })
    }

    /// Truncates, saturates, and makes NaN 0. The machine gives `i32::MIN` for all that does not fit.
    fn signed_of_float(&mut self, value: Virtual) -> Virtual {
        let whole = self.op(
            Code::VEX_Vcvttps2dq_ymm_ymmm256,
            Code::EVEX_Vcvttps2dq_zmm_k1z_zmmm512b32_sae,
            &[value],
        );
        let (limit, most) = (self.constant(0x4f00_0000), self.constant(0x7fff_ffff));
        let zero = self.constant(0);
        let fits = self.compare_floats(1, value, limit);
        let whole = self.blend(fits, whole, most);
        let is_number = self.compare_floats(0, value, value);
        self.blend(is_number, whole, zero)
    }

    fn unsigned_of_float(&mut self, value: Virtual) -> Virtual {
        let zero = self.constant(0);
        // `max` gives its second operand for NaN.
        let value = self.op(
            Code::VEX_Vmaxps_ymm_ymm_ymmm256,
            Code::EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae,
            &[value, zero],
        );
        if self.wide() {
            return self.vector(Do::Plain(Code::EVEX_Vcvttps2udq_zmm_k1z_zmmm512b32_sae, None), &[value]);
        }
        let (middle, limit) = (self.constant(0x4f00_0000), self.constant(0x4f80_0000));
        let (sign, most) = (self.constant(0x8000_0000), self.constant(u32::MAX));
        let low = self.compare_floats(1, value, middle);
        let rest = self.vector(Do::Plain(Code::VEX_Vsubps_ymm_ymm_ymmm256, None), &[value, middle]);
        let rest = self.blend(low, value, rest);
        let whole = self.vector(Do::Plain(Code::VEX_Vcvttps2dq_ymm_ymmm256, None), &[rest]);
        let raised = self.xor(whole, sign);
        let whole = self.blend(low, whole, raised);
        let fits = self.compare_floats(1, value, limit);
        self.blend(fits, whole, most)
    }

    fn float_of_unsigned(&mut self, value: Virtual) -> Virtual {
        if self.wide() {
            return self.vector(Do::Plain(Code::EVEX_Vcvtudq2ps_zmm_k1z_zmmm512b32_er, None), &[value]);
        }
        // Both halves are exact, so the FMA rounds once.
        let (low, scale) = (self.constant(0xffff), self.constant(65536.0f32.to_bits()));
        let high = self.shift_right(value, 16);
        let high = self.vector(Do::Plain(Code::VEX_Vcvtdq2ps_ymm_ymmm256, None), &[high]);
        let low = self.and_bits(value, low);
        let low = self.vector(Do::Plain(Code::VEX_Vcvtdq2ps_ymm_ymmm256, None), &[low]);
        self.vector(Do::Fma, &[high, scale, low])
    }

    /// The high halves of 64-bit products, which the machine makes of every other lane.
    fn high_product(&mut self, a: Virtual, b: Virtual) -> Virtual {
        let (multiply, right, left) = (
            (
                Code::VEX_Vpmuludq_ymm_ymm_ymmm256,
                Code::EVEX_Vpmuludq_zmm_k1z_zmm_zmmm512b64,
            ),
            (Code::VEX_Vpsrlq_ymm_ymm_imm8, Code::EVEX_Vpsrlq_zmm_k1z_zmmm512b64_imm8),
            (Code::VEX_Vpsllq_ymm_ymm_imm8, Code::EVEX_Vpsllq_zmm_k1z_zmmm512b64_imm8),
        );
        let even = self.op(multiply.0, multiply.1, &[a, b]);
        let [a, b] = [a, b].map(|side| self.odd_to_even(side));
        let odd = self.op(multiply.0, multiply.1, &[a, b]);
        let even = self.op_by(right.0, right.1, 32, &[even]);
        let upper = match self.upper {
            Some(upper) => upper,
            None => {
                let ones = self.constant(u32::MAX);
                self.op_by(left.0, left.1, 32, &[ones])
            }
        };
        self.upper = Some(upper);
        let odd = self.and_bits(odd, upper);
        self.or_bits(even, odd)
    }

    /// Brings the odd lanes to the even ones before them: a shuffle, since shifts go through one port of a processor with AVX-512 and the products
    /// of random numbers have many. What is the same in all lanes is there already.
    fn odd_to_even(&mut self, value: Virtual) -> Virtual {
        match self.program.registers[value.0 as usize].source {
            Some(_) => value,
            None => self.op(
                Code::VEX_Vmovshdup_ymm_ymmm256,
                Code::EVEX_Vmovshdup_zmm_k1z_zmmm512,
                &[value],
            ),
        }
    }

    fn round(&mut self, value: Virtual, mode: u32) -> Virtual {
        self.op_by(
            Code::VEX_Vroundps_ymm_ymmm256_imm8,
            Code::EVEX_Vrndscaleps_zmm_k1z_zmmm512b32_imm8_sae,
            8 | mode,
            &[value],
        )
    }

    fn shift_left(&mut self, value: Virtual, bits: u32) -> Virtual {
        self.op_by(
            Code::VEX_Vpslld_ymm_ymm_imm8,
            Code::EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8,
            bits,
            &[value],
        )
    }

    fn shift_right(&mut self, value: Virtual, bits: u32) -> Virtual {
        self.op_by(
            Code::VEX_Vpsrld_ymm_ymm_imm8,
            Code::EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8,
            bits,
            &[value],
        )
    }

    fn and_bits(&mut self, a: Virtual, b: Virtual) -> Virtual {
        self.op(
            Code::VEX_Vpand_ymm_ymm_ymmm256,
            Code::EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32,
            &[a, b],
        )
    }

    fn or_bits(&mut self, a: Virtual, b: Virtual) -> Virtual {
        self.op(
            Code::VEX_Vpor_ymm_ymm_ymmm256,
            Code::EVEX_Vpord_zmm_k1z_zmm_zmmm512b32,
            &[a, b],
        )
    }

    fn xor(&mut self, a: Virtual, b: Virtual) -> Virtual {
        self.op(
            Code::VEX_Vpxor_ymm_ymm_ymmm256,
            Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32,
            &[a, b],
        )
    }

    fn add_int(&mut self, a: Virtual, b: Virtual) -> Virtual {
        self.op(
            Code::VEX_Vpaddd_ymm_ymm_ymmm256,
            Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32,
            &[a, b],
        )
    }

    fn max_int(&mut self, a: Virtual, b: Virtual) -> Virtual {
        self.op(
            Code::VEX_Vpmaxsd_ymm_ymm_ymmm256,
            Code::EVEX_Vpmaxsd_zmm_k1z_zmm_zmmm512b32,
            &[a, b],
        )
    }

    fn min_int(&mut self, a: Virtual, b: Virtual) -> Virtual {
        self.op(
            Code::VEX_Vpminsd_ymm_ymm_ymmm256,
            Code::EVEX_Vpminsd_zmm_k1z_zmm_zmmm512b32,
            &[a, b],
        )
    }
}

fn supported(dtype: DType) -> Result<(), String> {
    match dtype {
        DType::U64 | DType::I64 | DType::F64 => Err(format!("a value of {dtype}")),
        _ => Ok(()),
    }
}
