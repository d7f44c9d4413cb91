//! The contraction tile as machine code: `C (+)= Σ_k A_k ⊗ B_k`, C in registers.
//!
//! In: a [`Tile`], from a `Contract` of a nest. Out: the bytes of a function that [`super::emit`] defines once for each distinct tile.
//!
//! Every stride is a constant, so rows and unrolled steps are displacements from two pointers that move along `k`. Each element of C
//! is one chain of FMAs in the order of `k`; the chains of a tile, `rows` × vectors of them, hide the FMA's latency. What a step holds
//! in registers besides C is a row of B and one broadcast of A, or a column of A and one vector of B, whichever is less.

use iced_x86::code_asm::CodeAssembler;
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, Register};
use netloom_ir::DType;

use super::isa::Level;
use super::loops::{self, COUNTERS, Loop, Sum, at};

/// A tile with everything known: [`netloom_ir::kernel::Contract`] without the places.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// `F32` or `F64`.
    pub dtype: DType,
    /// Rows of C; at most [`max_rows`].
    pub rows: usize,
    /// Columns of C, a multiple of 16.
    pub columns: usize,
    /// The nested loops of the sum, outermost first.
    pub k: Vec<usize>,
    /// Where each row of A starts, in elements.
    pub a_rows: Vec<usize>,
    /// The stride of A along each loop of `k`, in elements.
    pub a_along: Vec<usize>,
    /// The stride of B along each loop of `k`, in elements; along columns it is 1.
    pub b_along: Vec<usize>,
    /// The stride between rows of C, in elements.
    pub c_across: usize,
    /// Whether the sum starts from C's contents.
    pub accumulate: bool,
    /// How many elements past what is read of B are brought into the second cache; 0 for none.
    pub ahead: usize,
}

/// The most rows that a tile of so many columns may have; 0 if not even one row fits the registers.
///
/// # Panics
/// If the level is `Portable`.
pub fn max_rows(level: Level, columns: usize, dtype: DType) -> usize {
    let isa = Isa::of(level, dtype);
    let vectors = columns / isa.lanes;
    (0..=isa.registers)
        .rev()
        .find(|&rows| Registers::divide(&isa, rows, vectors).is_some())
        .unwrap_or(0)
}

/// Whether a tile can be assembled: schedules make no other, but a text may ask for one.
pub fn is_assembled(tile: &Tile, level: Level) -> bool {
    let has_code = level > Level::Portable;
    has_code && tile.rows <= max_rows(level, tile.columns, tile.dtype) && merged_loops(tile).len() <= COUNTERS.len()
}

/// The bytes of a System V function `fn(a: *const T, b: *const T, c: *mut T)`.
///
/// # Panics
/// If the tile is none that [`is_assembled`].
pub fn assemble(tile: &Tile, level: Level) -> Vec<u8> {
    let mut code = Emitter::new(tile, level);
    code.function(tile).expect("instructions of a tile encode");
    code.asm.assemble(0).expect("instructions of a tile encode")
}

/// A stream whose rows are read when a tile is summed, one for each of the tile's.
pub struct Fetched {
    /// The slot of its address.
    pub slot: usize,
    /// Bytes from there to the first row.
    pub start: i64,
    /// Bytes of a row.
    pub bytes: usize,
    /// Bytes from row to row.
    pub stride: i64,
}

/// The beginning of a function that is called with the starts of A and B, and the address of slots: it leaves the sums of a tile that starts from zero
/// in the first vector registers, row by row, all others free, and its third parameter where it was. Meanwhile it brings streams closer.
pub fn sums(tile: &Tile, level: Level, fetched: &[Fetched]) -> Result<CodeAssembler, IcedError> {
    let mut code = Emitter::new(tile, level);
    code.fetch_from(fetched)?;
    code.sums(tile)?;
    Ok(code.asm)
}

/// Steps of the innermost loop that are copied out: enough to make counting free, few enough for the micro-op cache.
const UNROLL: usize = 8;

/// Bytes of a line of the caches.
const LINE: usize = 64;

/// What the instructions of one level and element type are called.
struct Isa {
    bytes: usize,
    lanes: usize,
    registers: usize,
    first: Register,
    zero: Code,
    load: Code,
    store: Code,
    broadcast: Code,
    fma: Code,
    /// Whether an FMA may broadcast its operand from memory.
    embeds: bool,
}

impl Isa {
    fn of(level: Level, dtype: DType) -> Isa {
        let bytes = dtype.size_bytes();
        let double = match dtype {
            DType::F32 => false,
            DType::F64 => true,
            _ => panic!("a tile of {dtype}"),
        };
        let pick = |single: Code, wide: Code| if double { wide } else { single };
        match level {
            Level::Portable => panic!("assembled tiles need AVX2"),
            Level::Avx2 => Isa {
                bytes,
                lanes: 32 / bytes,
                registers: 16,
                first: Register::YMM0,
                zero: Code::VEX_Vxorps_ymm_ymm_ymmm256,
                load: Code::VEX_Vmovups_ymm_ymmm256,
                store: Code::VEX_Vmovups_ymmm256_ymm,
                broadcast: pick(Code::VEX_Vbroadcastss_ymm_m32, Code::VEX_Vbroadcastsd_ymm_m64),
                fma: pick(
                    Code::VEX_Vfmadd231ps_ymm_ymm_ymmm256,
                    Code::VEX_Vfmadd231pd_ymm_ymm_ymmm256,
                ),
                embeds: false,
            },
            Level::Avx512 => Isa {
                bytes,
                lanes: 64 / bytes,
                registers: 32,
                first: Register::ZMM0,
                zero: Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32,
                load: Code::EVEX_Vmovups_zmm_k1z_zmmm512,
                store: Code::EVEX_Vmovups_zmmm512_k1z_zmm,
                broadcast: pick(
                    Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32,
                    Code::EVEX_Vbroadcastsd_zmm_k1z_xmmm64,
                ),
                fma: pick(
                    Code::EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er,
                    Code::EVEX_Vfmadd231pd_zmm_k1z_zmm_zmmm512b64_er,
                ),
                embeds: true,
            },
        }
    }
}

/// How the vector registers are shared out: C first, then what `Holding` says.
struct Registers {
    c: usize,
    holding: Holding,
}

/// What a step along `k` keeps in registers besides C.
enum Holding {
    /// A row of B, and one element of A at a time.
    B,
    /// A row of B; the FMA itself reads A.
    OnlyB,
    /// A column of A, and one vector of B at a time; of a single row the FMA itself reads B.
    A,
}

impl Registers {
    fn divide(isa: &Isa, rows: usize, vectors: usize) -> Option<Registers> {
        let c = rows * vectors;
        let spare = isa.registers.checked_sub(c)?;
        let holding = match (rows, vectors) {
            (0, _) | (_, 0) => return None,
            (1, _) if spare >= 1 => Holding::A,
            // One vector uses each element of A once: nothing is gained by a register.
            (_, 1) if isa.embeds && spare >= 1 => Holding::OnlyB,
            _ if vectors <= rows && spare > vectors => Holding::B,
            _ if isa.embeds && vectors <= rows && spare == vectors => Holding::OnlyB,
            _ if rows < vectors && spare > rows => Holding::A,
            _ => return None,
        };
        Some(Registers { c, holding })
    }
}

/// How often a loop of so many steps turns, and the steps of a turn.
fn turns(steps: usize) -> (usize, usize) {
    let unroll = if steps <= 2 * UNROLL { steps.max(1) } else { UNROLL };
    (steps / unroll, unroll)
}

fn merged_loops(tile: &Tile) -> Vec<Loop> {
    let bytes = tile.dtype.size_bytes();
    loops::merged(&tile.k, (&tile.a_along, bytes), (&tile.b_along, bytes))
}

struct Emitter {
    asm: CodeAssembler,
    isa: Isa,
    registers: Registers,
    rows: usize,
    vectors: usize,
    a_rows: Vec<usize>,
    /// In bytes.
    ahead: i64,
    /// The loops of the sum, outermost first.
    loops: Vec<Loop>,
    /// What is fetched by each turn of the innermost loop, relative to pointers.
    fetched: Vec<(Register, i64)>,
    /// How far each of these pointers moves from turn to turn.
    moved: Vec<(Register, i64)>,
}

impl Emitter {
    fn new(tile: &Tile, level: Level) -> Emitter {
        let isa = Isa::of(level, tile.dtype);
        assert_eq!(tile.columns % 16, 0, "columns of a tile");
        let vectors = tile.columns / isa.lanes;
        let registers = Registers::divide(&isa, tile.rows, vectors)
            .unwrap_or_else(|| panic!("a tile of {}×{} {} for {level:?}", tile.rows, tile.columns, tile.dtype));
        Emitter {
            asm: CodeAssembler::new(64).expect("64 is a bitness"),
            isa,
            registers,
            rows: tile.rows,
            vectors,
            a_rows: tile.a_rows.clone(),
            ahead: (tile.ahead * tile.dtype.size_bytes()) as i64,
            loops: merged_loops(tile),
            fetched: Vec::new(),
            moved: Vec::new(),
        }
    }

    /// Gets the addresses of streams whose rows are fetched, some by each turn of the innermost loop. A sum with many more turns than rows would fetch far
    /// too much, and takes so long that what it waits for at its end does not count.
    fn fetch_from(&mut self, streams: &[Fetched]) -> Result<(), IcedError> {
        let (outer, inner) = self.loops.split_at(self.loops.len() - 1);
        let turns = outer.iter().map(|each| each.extent).product::<usize>() * turns(inner[0].extent).0;
        if turns == 0 || turns > 2 * self.rows {
            return Ok(());
        }
        let each = self.rows.div_ceil(turns) as i64;
        for (stream, &pointer) in streams.iter().zip(&COUNTERS[self.loops.len()..]) {
            let slot = at(Register::RDX, 8 * stream.slot as i64);
            self.asm
                .add_instruction(Instruction::with2(Code::Mov_r64_rm64, pointer, slot)?)?;
            for row in 0..each {
                let line = |line: usize| (pointer, stream.start + row * stream.stride + line as i64);
                self.fetched.extend((0..stream.bytes).step_by(LINE).map(line));
            }
            self.moved.push((pointer, each * stream.stride));
        }
        Ok(())
    }

    /// Fetches what that step of so many has to.
    fn fetch(&mut self, step: usize, steps: usize) -> Result<(), IcedError> {
        let part = |step: usize| self.fetched.len() * step / steps;
        for place in part(step)..part(step + 1) {
            let (pointer, bytes) = self.fetched[place];
            let fetch = Instruction::with1(Code::Prefetcht0_m8, at(pointer, bytes))?;
            self.asm.add_instruction(fetch)?;
        }
        Ok(())
    }

    fn function(&mut self, tile: &Tile) -> Result<(), IcedError> {
        self.sums(tile)?;
        for (at, sum) in self.all_sums(tile) {
            self.asm.add_instruction(Instruction::with2(self.isa.store, at, sum)?)?;
        }
        self.asm.vzeroupper()?;
        self.asm.ret()
    }

    fn sums(&mut self, tile: &Tile) -> Result<(), IcedError> {
        let loops = std::mem::take(&mut self.loops);
        for (at, sum) in self.all_sums(tile) {
            self.asm.add_instruction(if tile.accumulate {
                Instruction::with2(self.isa.load, sum, at)?
            } else {
                Instruction::with3(self.isa.zero, sum, sum, sum)?
            })?;
        }
        self.sum(&loops)
    }

    /// Where each vector of C lies, and the register that sums it.
    fn all_sums(&self, tile: &Tile) -> Vec<(MemoryOperand, Register)> {
        let vectors = (0..self.rows).flat_map(|row| (0..self.vectors).map(move |vector| (row, vector)));
        let place = |(row, vector)| {
            let element = row * tile.c_across + vector * self.isa.lanes;
            (
                at(Register::RDX, (element * self.isa.bytes) as i64),
                self.c(row, vector),
            )
        };
        vectors.map(place).collect()
    }

    /// One step along `k`, `a` and `b` bytes beyond the pointers.
    fn step(&mut self, a: i64, b: i64) -> Result<(), IcedError> {
        let (load, broadcast, fma) = (self.isa.load, self.isa.broadcast, self.isa.fma);
        let vector_bytes = (self.isa.lanes * self.isa.bytes) as i64;
        let rows: Vec<i64> = self.a_rows.iter().map(|row| (row * self.isa.bytes) as i64).collect();
        let a_at = |row: usize| at(Register::RDI, a + rows[row]);
        let b_at = |vector: usize| at(Register::RSI, b + vector as i64 * vector_bytes);
        if self.ahead > 0 {
            for line in (0..self.vectors as i64 * vector_bytes).step_by(LINE) {
                let wanted = at(Register::RSI, b + self.ahead + line);
                let prefetch = Instruction::with1(Code::Prefetcht1_m8, wanted)?;
                self.asm.add_instruction(prefetch)?;
            }
        }
        match self.registers.holding {
            Holding::B | Holding::OnlyB => {
                for vector in 0..self.vectors {
                    let held = self.spare(vector);
                    self.asm
                        .add_instruction(Instruction::with2(load, held, b_at(vector))?)?;
                }
                for row in 0..self.rows {
                    let element = self.spare(self.vectors);
                    let only_b = matches!(self.registers.holding, Holding::OnlyB);
                    if !only_b {
                        self.asm
                            .add_instruction(Instruction::with2(broadcast, element, a_at(row))?)?;
                    }
                    for vector in 0..self.vectors {
                        let (sum, held) = (self.c(row, vector), self.spare(vector));
                        let instruction = if only_b {
                            let mut element = a_at(row);
                            element.is_broadcast = true;
                            Instruction::with3(fma, sum, held, element)?
                        } else {
                            Instruction::with3(fma, sum, held, element)?
                        };
                        self.asm.add_instruction(instruction)?;
                    }
                }
            }
            Holding::A => {
                for row in 0..self.rows {
                    let held = self.spare(row);
                    self.asm
                        .add_instruction(Instruction::with2(broadcast, held, a_at(row))?)?;
                }
                for vector in 0..self.vectors {
                    if self.rows == 1 {
                        let (sum, held) = (self.c(0, vector), self.spare(0));
                        self.asm
                            .add_instruction(Instruction::with3(fma, sum, held, b_at(vector))?)?;
                        continue;
                    }
                    let passing = self.spare(self.rows);
                    self.asm
                        .add_instruction(Instruction::with2(load, passing, b_at(vector))?)?;
                    for row in 0..self.rows {
                        let (sum, held) = (self.c(row, vector), self.spare(row));
                        self.asm.add_instruction(Instruction::with3(fma, sum, held, passing)?)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn c(&self, row: usize, vector: usize) -> Register {
        self.isa.first + (row * self.vectors + vector) as u32
    }

    /// A register beyond those of C.
    fn spare(&self, number: usize) -> Register {
        self.isa.first + (self.registers.c + number) as u32
    }
}

impl Sum for Emitter {
    fn asm(&mut self) -> &mut CodeAssembler {
        &mut self.asm
    }

    fn innermost(&mut self, this: Loop) -> Result<(), IcedError> {
        let (turns, unroll) = turns(this.extent);
        let rest = this.extent % unroll;
        let steps = |code: &mut Emitter, count: usize, fetches: bool| -> Result<(), IcedError> {
            for step in 0..count {
                if fetches {
                    code.fetch(step, count)?;
                }
                code.step(step as i64 * this.a, step as i64 * this.b)?;
            }
            for (pointer, bytes) in code.moved.clone().into_iter().filter(|_| fetches) {
                code.move_by(pointer, bytes)?;
            }
            code.advance(count as i64 * this.a, count as i64 * this.b)
        };
        if turns == 1 {
            steps(self, unroll, true)?;
        } else {
            let start = self.begin(0, turns)?;
            steps(self, unroll, true)?;
            self.end(0, start)?;
        }
        if rest > 0 {
            steps(self, rest, false)?;
        }
        Ok(())
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use proptest::prelude::*;

    use super::super::machine::{Machine, levels};
    use super::*;

    fn rows_that_fit(level: Level, columns: usize, dtype: DType) -> Vec<usize> {
        let most = max_rows(level, columns, dtype);
        [1, 2, 3, most / 2, most.saturating_sub(1), most]
            .into_iter()
            .filter(|&rows| (1..=most).contains(&rows))
            .collect()
    }

    #[test]
    fn the_known_shapes_fit() {
        assert_eq!(max_rows(Level::Avx512, 32, DType::F32), 15);
        assert_eq!(max_rows(Level::Avx512, 48, DType::F32), 9);
        assert_eq!(max_rows(Level::Avx512, 64, DType::F32), 7);
        assert_eq!(max_rows(Level::Avx512, 16, DType::F64), 15);
        assert_eq!(max_rows(Level::Avx2, 16, DType::F32), 6);
        assert_eq!(max_rows(Level::Avx2, 16, DType::F64), 3);
        assert_eq!(max_rows(Level::Avx2, 256, DType::F32), 0);
    }

    /// Numbers of several magnitudes, so that a wrong order of summation shows.
    fn numbers(count: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let unit = (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5;
                f64::from((unit * f64::from(1u32 << ((state >> 33) % 12))) as f32)
            })
            .collect()
    }

    /// Runs a tile on the machine and by definition; both give C with what lies between its rows.
    fn both(tile: &Tile, level: Level, seed: u64) -> (Vec<u64>, Vec<u64>) {
        let span = |along: &[usize]| -> usize {
            tile.k
                .iter()
                .zip(along)
                .map(|(&extent, &stride)| extent.saturating_sub(1) * stride)
                .sum()
        };
        let a = numbers(tile.a_rows[tile.rows - 1] + span(&tile.a_along) + 1, seed);
        let b = numbers(span(&tile.b_along) + tile.columns, seed + 1);
        let c = numbers((tile.rows - 1) * tile.c_across + tile.columns, seed + 2);

        let mut places = vec![(0, 0)];
        for (&extent, (&a, &b)) in tile.k.iter().zip(tile.a_along.iter().zip(&tile.b_along)) {
            places = places
                .iter()
                .flat_map(|&(x, y)| (0..extent).map(move |i| (x + i * a, y + i * b)))
                .collect();
        }
        let code = Machine::new(&assemble(tile, level));
        let mut expected = c.clone();
        for row in 0..tile.rows {
            for column in 0..tile.columns {
                let sum = &mut expected[row * tile.c_across + column];
                let start = if tile.accumulate { *sum } else { 0.0 };
                *sum = places.iter().fold(start, |sum, &(x, y)| {
                    let (a, b) = (a[tile.a_rows[row] + x], b[y + column]);
                    match tile.dtype {
                        DType::F32 => f64::from((a as f32).mul_add(b as f32, sum as f32)),
                        _ => a.mul_add(b, sum),
                    }
                });
            }
        }
        // SAFETY: the buffers are as long as the tile reaches.
        let found: Vec<f64> = unsafe {
            match tile.dtype {
                DType::F32 => {
                    let narrow = |wide: &[f64]| wide.iter().map(|&x| x as f32).collect::<Vec<_>>();
                    let (a, b, mut c) = (narrow(&a), narrow(&b), narrow(&c));
                    code.tile()(a.as_ptr().cast(), b.as_ptr().cast(), c.as_mut_ptr().cast());
                    c.iter().map(|&x| f64::from(x)).collect()
                }
                _ => {
                    let mut c = c.clone();
                    code.tile()(a.as_ptr().cast(), b.as_ptr().cast(), c.as_mut_ptr().cast());
                    c
                }
            }
        };
        let bits = |values: &[f64]| values.iter().map(|x| x.to_bits()).collect();
        (bits(&found), bits(&expected))
    }

    #[test]
    fn every_shape_sums_in_order() {
        for level in levels() {
            for dtype in [DType::F32, DType::F64] {
                for columns in (16..=128).step_by(16) {
                    for rows in rows_that_fit(level, columns, dtype) {
                        let tile = Tile {
                            dtype,
                            rows,
                            columns,
                            k: vec![2, 19],
                            a_rows: (0..rows).map(|row| row * 41).collect(),
                            a_along: vec![20, 1],
                            b_along: vec![20 * columns, columns],
                            c_across: columns + 3,
                            accumulate: rows % 2 == 0,
                            ahead: rows % 3 * 1000,
                        };
                        let (found, expected) = both(&tile, level, rows as u64);
                        assert_eq!(found, expected, "{level:?} {tile:?}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nested_sums_run_in_order(
            k in proptest::collection::vec((0usize..22, 0usize..40, 0usize..40), 0..4),
            rows in 1usize..=6,
            double: bool,
            accumulate: bool,
            across in 1usize..30,
            seed: u64,
        ) {
            for level in levels() {
                let dtype = if double { DType::F64 } else { DType::F32 };
                let tile = Tile {
                    dtype,
                    rows: rows.min(max_rows(level, 16, dtype)),
                    columns: 16,
                    k: k.iter().map(|loops| loops.0).collect(),
                    a_rows: (0..rows).map(|row| row * across).collect(),
                    a_along: k.iter().map(|loops| loops.1).collect(),
                    b_along: k.iter().map(|loops| loops.2).collect(),
                    c_across: 16 + across,
                    accumulate,
                    ahead: 0,
                };
                let (found, expected) = both(&tile, level, seed);
                prop_assert_eq!(found, expected, "{:?}", level);
            }
        }
    }
}
