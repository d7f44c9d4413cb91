//! Contractions in pieces as machine code for AMX, the matrix unit of x86-64: see [`netloom_ir::kernel::pieces`].
//!
//! In: [`Tiles`], from a `Contract` of a nest. Out: the bytes of a function that [`super::emit`] defines once for each distinct one, and those of the two
//! that a kernel with such contractions calls first and last.
//!
//! The unit has eight registers, here of 16 rows of 64 bytes: a tile of C, or the block of a sum of 16 rows of A or of 16 columns of B.
//! C is in the first four; a side's next pieces are loaded as its turn comes (Intel SDM 1, chapter 18).

use iced_x86::code_asm::{CodeAssembler, eax, rax, rbp, rbx, rcx, rsp};
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, Register};
use netloom_ir::DType;
use netloom_ir::kernel::pieces::{DEPTH, PAIRS, PIECES, SIDE};
use netloom_ir::kernel::{Contract, Nest};

use super::loops::{COUNTERS, Loop, Sum, at, merged, rows_at};

/// One, two or four tiles of C with everything known: a [`Contract`] in pieces without the places.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// Tiles of C one below the other.
    rows: usize,
    /// Tiles of C beside each other.
    columns: usize,
    /// The nested loops of the sum, outermost first, in blocks.
    k: Vec<usize>,
    a: Side,
    b: Side,
    /// The stride between rows of C, in elements.
    c_across: usize,
    /// Whether the sum starts from C's contents.
    accumulate: bool,
    /// How many bytes ahead B is fetched; 0 if it is near.
    ahead: usize,
}

/// What is multiplied; all strides are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Side {
    /// From row to row of A, from block of columns to block of columns of B.
    across: usize,
    /// From piece to piece.
    pieces: usize,
    /// Along each loop of `k`.
    along: Vec<usize>,
}

impl Tiles {
    /// What a contraction of this nest has to be computed.
    ///
    /// # Panics
    /// If it is not in pieces.
    pub fn of(contract: &Contract, nest: &Nest) -> Tiles {
        let [a, b] = [&contract.a, &contract.b].map(|side| {
            let bytes = nest.buffers[side.buffer.at()].ty.dtype.size_bytes();
            Side {
                across: side.across * bytes,
                pieces: side.pieces.expect("a contraction in pieces") * bytes,
                along: side.along.iter().map(|stride| stride * bytes).collect(),
            }
        });
        Tiles {
            rows: contract.rows / SIDE,
            columns: contract.columns / SIDE,
            k: contract.k.clone(),
            a,
            b,
            c_across: contract.c.across,
            accumulate: contract.accumulate,
            ahead: contract.ahead * nest.buffers[contract.b.buffer.at()].ty.dtype.size_bytes(),
        }
    }

    /// The bytes of a System V function `fn(a: *const bf16, b: *const bf16, c: *mut f32)`, for a thread whose unit has been configured; `None` where the
    /// sum has more loops than there are registers to count in, or reaches further than instructions do.
    pub fn assemble(&self) -> Option<Vec<u8>> {
        let loops = merged(&self.k, (&self.a.along, 1), (&self.b.along, 1));
        let reach = |side: &Side, count: usize| {
            let along: usize = self.k.iter().zip(&side.along).map(|(k, along)| k * along).sum();
            count * side.across + PIECES * side.pieces + along
        };
        let reaches = [
            reach(&self.a, self.rows * SIDE),
            reach(&self.b, self.columns) + self.ahead,
            self.rows * SIDE * self.c_across * SUM,
        ];
        let is_near = reaches.iter().all(|&bytes| i32::try_from(bytes).is_ok());
        (loops.len() <= COUNTERS.len() && is_near).then(|| {
            let asm = CodeAssembler::new(64).expect("64 is a bitness");
            let mut code = Emitter { asm, tiles: self };
            code.function(&loops).expect("instructions of tiles encode");
            code.asm.assemble(0).expect("instructions of tiles encode")
        })
    }
}

/// Bytes of an element of C.
const SUM: usize = DType::F32.size_bytes();
/// Bytes of a row of a tile.
const ROW: usize = DEPTH * DType::BF16.size_bytes();
/// Where the tiles of C, of A and of B begin.
const C: Register = Register::TMM0;
const A: Register = Register::TMM4;
const B: Register = Register::TMM6;

/// The bytes of a System V function `fn()` that makes the unit's registers what the others expect: palette 1, 16 rows of 64 bytes each.
pub fn configure() -> Vec<u8> {
    let code = |asm: &mut CodeAssembler| {
        // The 64 bytes from their end: rows of the eight registers, their bytes in a row as 16-bit numbers, the palette.
        asm.xor(eax, eax)?;
        asm.push(rax)?;
        asm.mov(rcx, 0x0101_0101_0101_0101 * SIDE as u64)?;
        asm.push(rcx)?;
        asm.push(rax)?;
        asm.push(rax)?;
        asm.mov(rcx, 0x0001_0001_0001_0001 * ROW as u64)?;
        asm.push(rcx)?;
        asm.push(rcx)?;
        asm.push(rax)?;
        asm.push(1)?;
        let configuration = MemoryOperand::with_base(Register::RSP);
        asm.add_instruction(Instruction::with1(Code::VEX_Ldtilecfg_m512, configuration)?)?;
        asm.add(rsp, 64)?;
        asm.ret()
    };
    assembled(code)
}

/// The bytes of a System V function `fn()` that empties the registers, so that the system has nothing to keep any more.
pub fn release() -> Vec<u8> {
    assembled(|asm| {
        asm.add_instruction(Instruction::with(Code::VEX_Tilerelease))?;
        asm.ret()
    })
}

fn assembled(code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut asm = CodeAssembler::new(64).expect("64 is a bitness");
    code(&mut asm).expect("the instructions encode");
    asm.assemble(0).expect("the instructions encode")
}

struct Emitter<'t> {
    asm: CodeAssembler,
    tiles: &'t Tiles,
}

impl Emitter<'_> {
    fn function(&mut self, loops: &[Loop]) -> Result<(), IcedError> {
        let tiles = self.tiles;
        // Every counter may be taken, so strides are in registers that are the caller's.
        self.asm.push(rbx)?;
        self.asm.push(rbp)?;
        let row_of_c = (tiles.c_across * SUM) as u64;
        self.asm.mov(rbx, row_of_c)?;
        for (at, sum) in self.sums() {
            match tiles.accumulate {
                true => self.load(sum, at)?,
                false => self
                    .asm
                    .add_instruction(Instruction::with1(Code::VEX_Tilezero_tmm, sum)?)?,
            }
        }
        self.asm.mov(rbx, tiles.a.across as u64)?;
        self.asm.mov(rbp, ROW as u64)?;
        self.sum(loops)?;
        self.asm.mov(rbx, row_of_c)?;
        for (at, sum) in self.sums() {
            let store = Instruction::with2(Code::VEX_Tilestored_sibmem_tmm, at, sum)?;
            self.asm.add_instruction(store)?;
        }
        self.asm.pop(rbp)?;
        self.asm.pop(rbx)?;
        self.asm.ret()
    }

    /// Where each tile of C lies, with the bytes of a row in `rbx`, and the register that sums it.
    fn sums(&self) -> Vec<(MemoryOperand, Register)> {
        let place = |(row, column): (usize, usize)| {
            let element = (row * self.tiles.c_across + column) * SIDE;
            (
                rows_at(Register::RDX, Register::RBX, (element * SUM) as i64),
                self.c(row, column),
            )
        };
        self.places().map(place).collect()
    }

    /// Rows and columns of tiles.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (rows, columns) = (self.tiles.rows, self.tiles.columns);
        (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
    }

    fn c(&self, row: usize, column: usize) -> Register {
        C + (row * self.tiles.columns + column) as u32
    }

    /// A block of terms.
    fn block(&mut self) -> Result<(), IcedError> {
        let Tiles {
            rows, columns, a, b, ..
        } = self.tiles;
        let mut held = [None; 2];
        let mut fetched = self.fetched().into_iter();
        let each = fetched.len().div_ceil(PAIRS.len() * rows * columns);
        for (left, right) in PAIRS {
            if held[0] != Some(left) {
                for row in 0..*rows {
                    let bytes = left * a.pieces + row * SIDE * a.across;
                    let place = rows_at(Register::RDI, Register::RBX, bytes as i64);
                    self.load(A + row as u32, place)?;
                }
            }
            if held[1] != Some(right) {
                for column in 0..*columns {
                    let bytes = right * b.pieces + column * b.across;
                    let place = rows_at(Register::RSI, Register::RBP, bytes as i64);
                    self.load(B + column as u32, place)?;
                }
            }
            held = [Some(left), Some(right)];
            for (row, column) in self.places() {
                let product = Instruction::with3(
                    Code::VEX_Tdpbf16ps_tmm_tmm_tmm,
                    self.c(row, column),
                    A + row as u32,
                    B + column as u32,
                )?;
                self.asm.add_instruction(product)?;
                for line in fetched.by_ref().take(each) {
                    self.asm
                        .add_instruction(Instruction::with1(Code::Prefetcht0_m8, line)?)?;
                }
            }
        }
        Ok(())
    }

    /// The lines of B that are fetched ahead with a block.
    fn fetched(&self) -> Vec<MemoryOperand> {
        let Tiles { columns, b, ahead, .. } = self.tiles;
        if *ahead == 0 {
            return Vec::new();
        }
        let blocks =
            (0..PIECES).flat_map(|piece| (0..*columns).map(move |column| piece * b.pieces + column * b.across));
        let lines = blocks.flat_map(|block| (0..SIDE).map(move |line| block + line * ROW + ahead));
        lines.map(|bytes| at(Register::RSI, bytes as i64)).collect()
    }

    fn load(&mut self, tile: Register, place: MemoryOperand) -> Result<(), IcedError> {
        let load = Instruction::with2(Code::VEX_Tileloadd_tmm_sibmem, tile, place)?;
        self.asm.add_instruction(load)
    }
}

impl Sum for Emitter<'_> {
    fn asm(&mut self) -> &mut CodeAssembler {
        &mut self.asm
    }

    fn innermost(&mut self, this: Loop) -> Result<(), IcedError> {
        if this.extent == 1 {
            self.block()?;
            return self.advance(this.a, this.b);
        }
        let start = self.begin(0, this.extent)?;
        self.block()?;
        self.advance(this.a, this.b)?;
        self.end(0, start)
    }
}
