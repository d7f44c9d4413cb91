//! From instructions on virtual registers to machine code.
//!
//! The code is straight-line, so registers are assigned in one walk: when none is free, the value whose next use is furthest away
//! makes room (Belady), and is stored first unless it can be read again from its source. Constants and scalars are read once before
//! the loop if that leaves the rest enough registers; with AVX2 an instruction reads a constant that is in none from memory.

use iced_x86::code_asm::{CodeAssembler, CodeLabel, ptr, r11, rbp, rcx, rdi, rsi, rsp};
use iced_x86::code_asm::{byte_ptr, dword_ptr, qword_ptr, word_ptr};
use iced_x86::code_asm::{dl, eax, edx, r10, rax, rdx, xmm0};
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, OpKind, Register};
use netloom_ir::DType;

use super::encode::encode;
use super::finish::Finish;
use super::lower::{Do, File, Program, Source, Step, Stream, Virtual};
use super::operands;
use super::{Level, Origin};
use crate::cpu::tile::{self, Fetched};

/// The function of a program.
///
/// Which constants and scalars get registers for the whole loop is tried: the most used ones, as many as give the shortest block. Where
/// a block moves nothing between registers and memory, none is shorter.
pub fn assign(program: &Program, level: Level) -> Result<Vec<u8>, IcedError> {
    let candidates = hoistable(program);
    let fixed = program.registers.iter().filter(|register| register.kept).count();
    let most = registers_of(level, File::Vector);
    // The instructions of a block, and the function.
    let mut best: Option<(usize, Assigner)> = None;
    for count in (0..=candidates.len().min(most.saturating_sub(fixed + RESERVE))).rev() {
        let mut assigner = Assigner::new(program, level, &candidates[..count], CodeAssembler::new(64)?)?;
        let cost = assigner.function()?;
        if best.as_ref().is_none_or(|(least, _)| cost.instructions < *least) {
            best = Some((cost.instructions, assigner));
        }
        if cost.moves == 0 {
            break;
        }
    }
    let (_, best) = best.expect("hoisting nothing is tried last");
    let (hoisted, frame) = (best.hoisted.clone(), best.most);
    with_pool(best, || {
        let mut again = Assigner::new(program, level, &hoisted, CodeAssembler::new(64)?)?;
        again.frame = frame;
        again.function()?;
        Ok(again)
    })
}

/// The function that finishes a tile; the sums of a row free their registers for those after it.
pub fn finish(program: &Program, finish: &Finish, level: Level) -> Result<Vec<u8>, IcedError> {
    // A row's own sums can make room.
    let free = registers_of(level, File::Vector) - program.sums + program.sums / program.rows.len();
    let mut hoisted = hoistable(program);
    hoisted.truncate(free - RESERVE);
    let fetched = fetched(program, finish);
    let begin = || {
        let begun = tile::sums(&finish.tile, level, &fetched)?;
        Assigner::new(program, level, &hoisted, begun)
    };
    let mut first = begin()?;
    first.finish(finish)?;
    let frame = first.most;
    with_pool(first, || {
        let mut again = begin()?;
        again.frame = frame;
        again.finish(finish)?;
        Ok(again)
    })
}

/// The streams that move with a tile's rows, at least a line of the cache from one to the next.
fn fetched(program: &Program, finish: &Finish) -> Vec<Fetched> {
    let first = program.rows.first().into_iter().flatten();
    let streams = first.filter_map(|step| match step.what {
        Do::Load(_, stream) if stream.half == 0 => Some(stream),
        _ => None,
    });
    let moving = streams.map(|stream| {
        let Origin { slot, bytes } = program.origins[stream.origin];
        Fetched {
            slot,
            start: bytes.into(),
            bytes: stream.bytes * finish.tile.columns,
            stride: finish.strides[slot],
        }
    });
    moving.filter(|stream| stream.stride.unsigned_abs() >= 64).collect()
}

/// The code of a function with its constants, each of which lies in one line of the cache where instructions read whole vectors of them. The function
/// is written again where its frame turned out larger than it was taken for.
fn with_pool<'p>(
    first: Assigner<'p>,
    again: impl FnOnce() -> Result<Assigner<'p>, IcedError>,
) -> Result<Vec<u8>, IcedError> {
    let assigner = match first.most == first.frame {
        true => first,
        false => again()?,
    };
    let alignment = if assigner.level < Level::Avx512 { 32 } else { 1 };
    encode(assigner.asm.instructions(), &assigner.constants(), alignment)
}

/// Vector registers that accumulators and hoisting leave: an instruction has up to three operands and a result.
pub const RESERVE: usize = 4;

/// Where addresses of streams are kept; of further streams they are read from the slot at each use.
const POINTERS: [Register; 7] = [
    Register::R8,
    Register::R9,
    Register::RBX,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// Those that a function need not give back as they were.
const FREE_POINTERS: [Register; 2] = [Register::R8, Register::R9];

/// Bytes of the frame for parts of narrow vectors.
const BOUNCE: i64 = 64;
/// Where the frame keeps the number of lanes of a row, and that of rows left.
const COUNT: i64 = BOUNCE;
const ROWS: i64 = COUNT + 8;
/// Where the frame keeps the number of lanes before the first line.
const PEELED: i64 = ROWS + 8;
/// Where the frame keeps scalars that were converted.
const CONVERTED: i64 = PEELED + 8;

/// The registers of a file.
pub fn registers_of(level: Level, file: File) -> usize {
    match (file, level) {
        (File::Mask, _) => 8,
        (File::Vector, Level::Avx512) => 32,
        (File::Vector, _) => 16,
    }
}

/// The constants and scalars that vectors hold, the most used in a block first.
fn hoistable(program: &Program) -> Vec<Virtual> {
    let mut uses = vec![0usize; program.registers.len()];
    for step in program.repeated() {
        step.from.iter().for_each(|from| uses[from.0 as usize] += 1);
    }
    let mut found: Vec<Virtual> = (0..program.registers.len() as u32)
        .map(Virtual)
        .filter(|at| {
            let register = &program.registers[at.0 as usize];
            register.source.is_some() && register.file == File::Vector && uses[at.0 as usize] > 0
        })
        .collect();
    found.sort_by_key(|at| std::cmp::Reverse(uses[at.0 as usize]));
    found
}

/// Where a value is while the code runs.
#[derive(Clone, Copy, Default)]
struct Place {
    register: Option<usize>,
    /// The offset in the frame, once stored.
    spilled: Option<i64>,
    /// Keeps its register.
    pinned: bool,
}

/// Where straight-line code uses values from some step on.
struct Uses {
    /// For each value, the place in `all` of its next use.
    next: Vec<Option<usize>>,
    /// Steps, each with the place of the next use of the same value.
    all: Vec<(usize, Option<usize>)>,
}

impl Uses {
    /// All uses, of so many values.
    fn of(steps: &[Step], values: usize) -> Uses {
        let (mut next, mut all) = (vec![None; values], Vec::new());
        for (at, step) in steps.iter().enumerate().rev() {
            for from in &step.from {
                let later = next[from.0 as usize].replace(all.len());
                all.push((at, later));
            }
        }
        Uses { next, all }
    }

    /// The step that uses a value next.
    fn next(&self, at: Virtual) -> Option<usize> {
        self.next[at.0 as usize].map(|place| self.all[place].0)
    }

    /// Goes on behind a step.
    fn pass(&mut self, at: Virtual, step: usize) {
        while let Some(place) = self.next[at.0 as usize]
            && self.all[place].0 == step
        {
            self.next[at.0 as usize] = self.all[place].1;
        }
    }
}

/// What a block takes.
struct Cost {
    instructions: usize,
    /// How often a value is stored for later or read again.
    moves: usize,
}

/// Where blocks leave a loop to be done in full, and where they come back.
struct Left {
    full: CodeLabel,
    next: CodeLabel,
    past: bool,
}

struct Assigner<'p> {
    program: &'p Program,
    level: Level,
    asm: CodeAssembler,
    places: Vec<Place>,
    /// What each register of each file holds.
    held: [Vec<Option<Virtual>>; 2],
    pointers: Vec<usize>,
    hoisted: Vec<Virtual>,
    /// Bytes of the frame in use.
    used: i64,
    /// The most that were ever in use.
    most: i64,
    /// The bytes that it has: those in use before anything is spilled, until that has been seen.
    frame: i64,
    /// How often a value was stored for later or read again so far.
    moves: usize,
    pool: CodeLabel,
    /// Where a block leaves to be done in full.
    full: CodeLabel,
    /// Whether what may be written past the caches is.
    past: bool,
}

impl<'p> Assigner<'p> {
    fn new(
        program: &'p Program,
        level: Level,
        hoisted: &[Virtual],
        mut asm: CodeAssembler,
    ) -> Result<Assigner<'p>, IcedError> {
        let (pool, full) = (asm.create_label(), asm.create_label());
        let mut pointers: Vec<usize> = Vec::new();
        for step in program.repeated().chain(&program.row) {
            let origin = match step.what {
                Do::Load(_, stream) | Do::Store(_, _, stream) | Do::StorePast(stream) | Do::Prefetch(stream) => {
                    stream.origin
                }
                Do::Gather(origin, _) => origin,
                _ => continue,
            };
            let slot = program.origins[origin].slot;
            if !pointers.contains(&slot) && pointers.len() < POINTERS.len() {
                pointers.push(slot);
            }
        }
        let used = CONVERTED + 4 * program.converted.len() as i64;
        Ok(Assigner {
            program,
            level,
            asm,
            places: vec![Place::default(); program.registers.len()],
            held: [File::Vector, File::Mask].map(|file| vec![None; registers_of(level, file)]),
            pointers,
            hoisted: hoisted.to_vec(),
            used,
            most: used,
            frame: used,
            moves: 0,
            pool,
            full,
            past: false,
        })
    }

    /// Everything; gives what a block takes.
    fn function(&mut self) -> Result<Cost, IcedError> {
        let program = self.program;
        self.enter()?;
        self.asm.mov(qword_ptr(rsp + COUNT as i32), rsi)?;
        self.asm.mov(qword_ptr(rsp + ROWS as i32), rdx)?;
        for at in 0..program.converted.len() {
            self.convert(at)?;
        }
        self.keep(|at| program.registers[at.0 as usize].kept)?;
        self.run(&program.open)?;

        let mut row = self.asm.create_label();
        let mut close = self.asm.create_label();
        self.asm.cmp(qword_ptr(rsp + ROWS as i32), 0)?;
        self.asm.je(close)?;
        self.asm.set_label(&mut row)?;
        let mut tail = self.asm.create_label();
        let mut done = self.asm.create_label();
        if !program.row.is_empty() {
            // A row without lanes need not exist.
            self.asm.test(rsi, rsi)?;
            self.asm.je(done)?;
            self.run(&program.row)?;
        }
        self.asm.xor(rcx, rcx)?;
        self.asm.sub(rsi, 16)?;
        self.asm.jb(tail)?;
        let mut left = Vec::new();
        let past = program.block.iter().any(|step| matches!(step.what, Do::StorePast(_)));
        if past {
            let mut through = self.asm.create_label();
            self.begin_line(through, tail)?;
            self.past = true;
            self.blocks(&mut left)?;
            self.asm.jmp(tail)?;
            self.past = false;
            self.asm.set_label(&mut through)?;
            self.asm.zero_bytes()?;
        }
        let cost = self.blocks(&mut left)?;

        self.asm.set_label(&mut tail)?;
        self.asm.add(rsi, 16)?;
        self.asm.je(done)?;
        self.part_of_block(done)?;
        self.asm.set_label(&mut done)?;
        self.asm.dec(qword_ptr(rsp + ROWS as i32))?;
        self.asm.je(close)?;
        self.next_row()?;
        self.asm.mov(rsi, qword_ptr(rsp + COUNT as i32))?;
        self.asm.jmp(row)?;

        self.asm.set_label(&mut close)?;
        self.asm.nop()?;
        self.run(&program.close)?;
        if past {
            // Others may read what this core wrote past its caches.
            self.asm.sfence()?;
        }
        self.leave()?;
        for mut left in left {
            self.past = left.past;
            self.asm.set_label(&mut left.full)?;
            self.run(&program.full)?;
            self.asm.jmp(left.next)?;
        }
        Ok(cost)
    }

    /// Finishes the rows of a tile, whose sums are in the first registers.
    fn finish(&mut self, finish: &Finish) -> Result<(), IcedError> {
        let program = self.program;
        let vectors = program.sums / program.rows.len();
        self.asm.mov(rdi, rdx)?;
        self.enter()?;
        self.keep(|at| (at.0 as usize) < program.sums)?;
        if finish.part {
            self.asm.mov(rsi, qword_ptr(rdi + 8 * finish.sums as i32))?;
            self.asm.mov(rcx, qword_ptr(rdi + 8 * finish.strides.len() as i32))?;
        }
        for (row, steps) in program.rows.iter().enumerate() {
            let mut next = self.asm.create_label();
            if finish.part {
                self.asm.cmp(rsi, row as i32)?;
                self.asm.jg(next)?;
                self.asm.cmp(rcx, row as i32)?;
                self.asm.jle(next)?;
            }
            for own in &mut self.places[row * vectors..][..vectors] {
                own.pinned = false;
            }
            self.run(steps)?;
            if finish.part {
                self.asm.set_label(&mut next)?;
            }
        }
        self.leave()
    }

    /// Makes room on the stack, and gets the addresses of streams and of the pool.
    fn enter(&mut self) -> Result<(), IcedError> {
        for saved in self.saved() {
            self.add(Instruction::with1(Code::Push_r64, saved)?)?;
        }
        self.asm.mov(rbp, rsp)?;
        self.asm
            .sub(rsp, i32::try_from(self.frame).expect("a frame is small"))?;
        self.asm.and(rsp, -64)?;
        self.asm.lea(r11, ptr(self.pool))?;
        for (at, slot) in self.pointers.clone().into_iter().enumerate() {
            let from = MemoryOperand::with_base_displ(Register::RDI, 8 * slot as i64);
            self.add(Instruction::with2(Code::Mov_r64_rm64, POINTERS[at], from)?)?;
        }
        Ok(())
    }

    /// Gives back what [`Assigner::enter`] took, and returns.
    fn leave(&mut self) -> Result<(), IcedError> {
        self.asm.mov(rsp, rbp)?;
        for saved in self.saved().into_iter().rev() {
            self.add(Instruction::with1(Code::Pop_r64, saved)?)?;
        }
        self.asm.vzeroupper()?;
        self.asm.ret()
    }

    /// The registers in use that belong to the caller.
    fn saved(&self) -> Vec<Register> {
        let pointers = &POINTERS[..self.pointers.len()];
        let own = pointers.iter().filter(|pointer| !FREE_POINTERS.contains(pointer));
        [Register::RBP].into_iter().chain(own.copied()).collect()
    }

    /// Gives registers for the whole function to these values, and reads what is hoisted.
    fn keep(&mut self, is_kept: impl Fn(Virtual) -> bool) -> Result<(), IcedError> {
        let mut next = 0;
        for at in (0..self.program.registers.len() as u32).map(Virtual) {
            if is_kept(at) {
                self.pin(at, &mut next);
            }
        }
        for hoisted in self.hoisted.clone() {
            self.pin(hoisted, &mut next);
            self.read(hoisted)?;
        }
        Ok(())
    }

    /// What follows the code: the numbers of the lanes, and the constants.
    fn constants(&self) -> Vec<u8> {
        let constants = self.program.constants.iter();
        let constants = constants.flat_map(|&constant| std::iter::repeat_n(constant, self.copies()));
        (0..16).chain(constants).flat_map(u32::to_le_bytes).collect()
    }

    /// All whole blocks of a row.
    fn blocks(&mut self, left: &mut Vec<Left>) -> Result<Cost, IcedError> {
        let program = self.program;
        let (mut top, mut next) = (self.asm.create_label(), self.asm.create_label());
        self.full = self.asm.create_label();
        self.asm.set_label(&mut top)?;
        let (start, moves) = (self.asm.instructions().len(), self.moves);
        self.run(&program.block)?;
        let cost = Cost {
            instructions: self.asm.instructions().len() - start,
            moves: self.moves - moves,
        };
        self.asm.set_label(&mut next)?;
        self.asm.add(rcx, 16)?;
        self.asm.sub(rsi, 16)?;
        self.asm.jae(top)?;
        if !program.full.is_empty() {
            left.push(Left {
                full: self.full,
                next,
                past: self.past,
            });
        }
        Ok(cost)
    }

    /// Does lanes until what is written past the caches begins on a line, and takes a block from those that remain. Goes to `through` instead if no
    /// lane begins lines everywhere, or if something is read there: that would be in the caches.
    fn begin_line(&mut self, through: CodeLabel, tail: CodeLabel) -> Result<(), IcedError> {
        let program = self.program;
        let (mut read, mut written) = (Vec::new(), Vec::new());
        for step in &program.block {
            match step.what {
                Do::Load(_, stream) if stream.half == 0 => read.push(stream.origin),
                Do::StorePast(stream) if stream.half == 0 => written.push(stream.origin),
                _ => {}
            }
        }
        for &to in &written {
            self.address_of(Register::R10, to)?;
            for &from in &read {
                self.address_of(Register::RAX, from)?;
                self.asm.cmp(rax, r10)?;
                self.asm.je(through)?;
            }
            self.address_of(Register::RAX, written[0])?;
            self.asm.xor(rax, r10)?;
            self.asm.test(eax, 63)?;
            self.asm.jne(through)?;
        }
        let peeled = qword_ptr(rsp + PEELED as i32);
        let mut begun = self.asm.create_label();
        self.asm.test(r10, 3)?;
        self.asm.jne(through)?;
        self.asm.neg(r10)?;
        self.asm.and(r10, 63)?;
        self.asm.je(begun)?;
        self.asm.shr(r10, 2)?;
        self.asm.mov(peeled, r10)?;
        self.asm.mov(rsi, r10)?;
        let mut done = self.asm.create_label();
        self.part_of_block(done)?;
        self.asm.set_label(&mut done)?;
        self.asm.mov(rcx, peeled)?;
        self.asm.mov(rsi, qword_ptr(rsp + COUNT as i32))?;
        self.asm.sub(rsi, rcx)?;
        self.asm.sub(rsi, 16)?;
        self.asm.jb(tail)?;
        self.asm.set_label(&mut begun)?;
        self.asm.zero_bytes()
    }

    fn address_of(&mut self, to: Register, origin: usize) -> Result<(), IcedError> {
        let (base, bytes) = self.pointer(origin)?;
        self.add(Instruction::with2(Code::Lea_r64_m, to, memory(base, bytes))?)
    }

    /// As many lanes as `rsi` says, from one to sixteen; goes to a label if the first vector was all.
    fn part_of_block(&mut self, done: CodeLabel) -> Result<(), IcedError> {
        let program = self.program;
        for (half, steps) in program.tails.iter().enumerate() {
            if half > 0 {
                self.asm.cmp(rsi, 8 * half as i32)?;
                self.asm.jbe(done)?;
            }
            self.run(steps)?;
        }
        Ok(())
    }

    /// Moves the addresses of streams by their strides.
    fn next_row(&mut self) -> Result<(), IcedError> {
        let program = self.program;
        for &slot in &program.streams {
            let stride = memory(Register::RDI, 8 * (program.slots + slot) as i64);
            match self.pointers.iter().position(|&kept| kept == slot) {
                Some(at) => self.add(Instruction::with2(Code::Add_r64_rm64, POINTERS[at], stride)?)?,
                None => {
                    let address = memory(Register::RDI, 8 * slot as i64);
                    self.add(Instruction::with2(Code::Mov_r64_rm64, Register::RAX, stride)?)?;
                    self.add(Instruction::with2(Code::Add_rm64_r64, address, Register::RAX)?)?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, instruction: Instruction) -> Result<(), IcedError> {
        self.asm.add_instruction(instruction)
    }

    /// Brings a scalar into the form that it has in registers.
    fn convert(&mut self, at: usize) -> Result<(), IcedError> {
        let (dtype, origin) = self.program.converted[at];
        let from = rdi + 8 * self.program.origins[origin].slot as i32;
        match dtype {
            DType::Bool | DType::U8 => self.asm.movzx(eax, byte_ptr(from))?,
            DType::I8 => self.asm.movsx(eax, byte_ptr(from))?,
            DType::I16 => self.asm.movsx(eax, word_ptr(from))?,
            _ => self.asm.movzx(eax, word_ptr(from))?,
        }
        match dtype {
            DType::Bool => self.asm.neg(eax)?,
            DType::BF16 => self.asm.shl(eax, 16)?,
            DType::F16 => {
                self.asm.vmovd(xmm0, eax)?;
                self.asm.vcvtph2ps(xmm0, xmm0)?;
                self.asm.vmovd(eax, xmm0)?;
            }
            _ => {}
        }
        self.asm.mov(dword_ptr(rsp + (CONVERTED as i32 + 4 * at as i32)), eax)
    }

    /// Gives a value a register for good.
    fn pin(&mut self, at: Virtual, next: &mut usize) {
        self.places[at.0 as usize] = Place {
            register: Some(*next),
            spilled: None,
            pinned: true,
        };
        self.held[0][*next] = Some(at);
        *next += 1;
    }

    fn file(&self, at: Virtual) -> File {
        self.program.registers[at.0 as usize].file
    }

    /// The whole register that a value is in.
    fn whole(&self, at: Virtual) -> Register {
        let number = self.places[at.0 as usize].register.expect("an operand in its register") as u32;
        match (self.file(at), self.level) {
            (File::Mask, _) => Register::K0 + number,
            (File::Vector, Level::Avx512) => Register::ZMM0 + number,
            (File::Vector, _) => Register::YMM0 + number,
        }
    }

    /// The register that a value is in, as that operand of an instruction names it; the first is what it writes.
    fn named(&self, at: Virtual, code: Code, operand: usize) -> Register {
        let number = self.places[at.0 as usize].register.expect("an operand in its register") as u32;
        let (written, read) = operands::parts(code);
        let part = if operand == 0 { written } else { read };
        let register = part.map_or_else(|| self.whole(at), |lowest| lowest + number);
        debug_assert!(
            operands::is_so(code, operand, register),
            "{code:?}: operand {operand} is {register:?}"
        );
        register
    }

    /// Loads a value from where it is kept into its register.
    fn read(&mut self, at: Virtual) -> Result<(), IcedError> {
        self.moves += 1;
        let register = self.whole(at);
        let place = self.places[at.0 as usize];
        let is_mask = self.file(at) == File::Mask;
        let wide = self.level == Level::Avx512;
        if let Some(offset) = place.spilled {
            let code = match (is_mask, wide) {
                (true, _) => Code::VEX_Kmovw_kr_km16,
                (_, true) => Code::EVEX_Vmovups_zmm_k1z_zmmm512,
                _ => Code::VEX_Vmovups_ymm_ymmm256,
            };
            return self.add(Instruction::with2(code, register, memory(Register::RSP, offset))?);
        }
        let source = self.program.registers[at.0 as usize]
            .source
            .expect("a value is kept somewhere");
        let from = match source {
            Source::Constant(place) => memory(Register::R11, self.constant_at(place)),
            Source::Slot(origin) => memory(Register::RDI, 8 * self.program.origins[origin].slot as i64),
            Source::Converted(place) => memory(Register::RSP, CONVERTED + 4 * place as i64),
        };
        let code = match (is_mask, wide) {
            (true, _) => Code::VEX_Kmovw_kr_km16,
            (_, true) => Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32,
            _ => Code::VEX_Vbroadcastss_ymm_m32,
        };
        self.add(Instruction::with2(code, register, from)?)
    }

    /// Runs straight-line code; nothing but what is pinned survives it.
    fn run(&mut self, steps: &[Step]) -> Result<(), IcedError> {
        let used = self.used;
        let mut uses = Uses::of(steps, self.places.len());
        for (at, step) in steps.iter().enumerate() {
            let constant = self.constant_in_memory(step);
            for &from in &step.from {
                if self.places[from.0 as usize].register.is_none() && Some(from) != constant {
                    self.take(from, &step.from, &uses)?;
                    self.read(from)?;
                }
            }
            step.from.iter().for_each(|&from| uses.pass(from, at));
            // A gather writes its result while it reads its operands; an FMA writes over one of them.
            let apart = matches!(step.what, Do::Gather(..));
            if !apart {
                self.release(&step.from, &uses);
            }
            if let Do::Fma = step.what {
                self.fma(step, constant, &uses)?;
            } else {
                if let Some(to) = step.to
                    && self.places[to.0 as usize].register.is_none()
                {
                    self.take(to, &step.from, &uses)?;
                }
                self.emit(step, constant)?;
            }
            if apart {
                self.release(&step.from, &uses);
            }
            self.release(step.to.as_slice(), &uses);
            self.forget(&step.from, &uses);
        }
        self.used = used;
        for place in self.places.iter_mut().filter(|place| !place.pinned) {
            *place = Place::default();
        }
        for file in &mut self.held {
            for held in file {
                if held.is_some_and(|at| !self.places[at.0 as usize].pinned) {
                    *held = None;
                }
            }
        }
        Ok(())
    }

    /// Frees the registers of values that are not used again; what they hold is still there for the instruction at hand.
    fn release(&mut self, values: &[Virtual], uses: &Uses) {
        for &at in values {
            let place = self.places[at.0 as usize];
            if let Some(register) = place.register
                && !place.pinned
                && uses.next(at).is_none()
            {
                let file = self.file(at) as usize;
                if self.held[file][register] == Some(at) {
                    self.held[file][register] = None;
                }
            }
        }
    }

    /// Values that are not used again are in no register any more.
    fn forget(&mut self, values: &[Virtual], uses: &Uses) {
        for &at in values {
            let place = &mut self.places[at.0 as usize];
            if !place.pinned && uses.next(at).is_none() {
                place.register = None;
            }
        }
    }

    /// Finds a register for a value: a free one, or that of the value not in `locked` whose next use is furthest away.
    fn take(&mut self, at: Virtual, locked: &[Virtual], uses: &Uses) -> Result<(), IcedError> {
        let file = self.file(at);
        let free = self.held[file as usize].iter().enumerate().position(|(number, held)| {
            // `k0` as a write mask means no mask.
            held.is_none() && (file == File::Vector || number > 0)
        });
        let register = match free {
            Some(free) => free,
            None => {
                let (register, evicted) = self.held[file as usize]
                    .iter()
                    .enumerate()
                    .filter_map(|(register, held)| held.map(|held| (register, held)))
                    .filter(|(_, held)| !self.places[held.0 as usize].pinned && !locked.contains(held))
                    .max_by_key(|(_, held)| uses.next(*held).unwrap_or(usize::MAX))
                    .expect("an instruction has fewer operands than there are registers");
                self.spill(evicted)?;
                self.places[evicted.0 as usize].register = None;
                register
            }
        };
        self.held[file as usize][register] = Some(at);
        self.places[at.0 as usize].register = Some(register);
        Ok(())
    }

    /// Makes sure that a value can be read back.
    fn spill(&mut self, at: Virtual) -> Result<(), IcedError> {
        if self.places[at.0 as usize].spilled.is_some() || self.program.registers[at.0 as usize].source.is_some() {
            return Ok(());
        }
        self.moves += 1;
        self.used = (self.used + 63) & !63;
        let offset = self.used;
        self.used += 64;
        self.most = self.most.max(self.used);
        self.places[at.0 as usize].spilled = Some(offset);
        let code = match (self.file(at), self.level) {
            (File::Mask, _) => Code::VEX_Kmovw_m16_kr,
            (_, Level::Avx512) => Code::EVEX_Vmovups_zmmm512_k1z_zmm,
            _ => Code::VEX_Vmovups_ymmm256_ymm,
        };
        let register = self.whole(at);
        self.add(Instruction::with2(code, memory(Register::RSP, offset), register)?)
    }

    /// The operand that an instruction reads from the pool: a constant in no register, with AVX2, whose registers are few.
    fn constant_in_memory(&self, step: &Step) -> Option<Virtual> {
        let is_free = |at: &Virtual| {
            let (place, register) = (self.places[at.0 as usize], &self.program.registers[at.0 as usize]);
            let is_constant = matches!(register.source, Some(Source::Constant(_)));
            let is_single = step.from.iter().filter(|other| *other == at).count() == 1;
            place.register.is_none() && is_constant && is_single
        };
        match step.what {
            _ if self.level == Level::Avx512 => None,
            Do::Plain(code, _) => operands::in_memory(code, step.from.len())
                .map(|at| step.from[at])
                .filter(is_free),
            Do::Fma => step.from.iter().rfind(|from| is_free(from)).copied(),
            _ => None,
        }
    }

    /// Makes an instruction read a constant from the pool where it names a register.
    fn read_pool(&self, instruction: &mut Instruction, operand: u32, at: Virtual) {
        let Some(Source::Constant(place)) = self.program.registers[at.0 as usize].source else {
            unreachable!("a constant")
        };
        instruction.set_op_kind(operand, OpKind::Memory);
        instruction.set_memory_base(Register::R11);
        instruction.set_memory_displ_size(1);
        instruction.set_memory_displacement64(self.constant_at(place) as u64);
    }

    /// Where a constant begins in the pool: with AVX2 it is there for every lane.
    fn constant_at(&self, place: usize) -> i64 {
        64 + 4 * (place * self.copies()) as i64
    }

    fn copies(&self) -> usize {
        if self.level == Level::Avx512 { 1 } else { 8 }
    }

    /// Writes over an operand that is not used again, whichever it is, or over a copy of one. A constant may be read from memory.
    fn fma(&mut self, step: &Step, constant: Option<Virtual>, uses: &Uses) -> Result<(), IcedError> {
        let wide = self.level == Level::Avx512;
        let pick = |narrow: Code, full: Code| if wide { full } else { narrow };
        let (to, [a, b, c]) = (step.to.expect("a result"), [step.from[0], step.from[1], step.from[2]]);
        let (a, b) = if constant == Some(a) { (b, a) } else { (a, b) };
        let dies =
            |at: &Virtual| Some(*at) != constant && uses.next(*at).is_none() && !self.places[at.0 as usize].pinned;
        let over = match [c, a, b].into_iter().find(dies) {
            Some(over) => {
                let register = self.places[over.0 as usize].register;
                self.places[to.0 as usize].register = register;
                self.held[0][register.expect("an operand in its register")] = Some(to);
                over
            }
            None => {
                let over = if constant == Some(c) { a } else { c };
                self.take(to, &step.from, uses)?;
                let copy = pick(Code::VEX_Vmovaps_ymm_ymmm256, Code::EVEX_Vmovaps_zmm_k1z_zmmm512);
                self.add(Instruction::with2(copy, self.whole(to), self.whole(over))?)?;
                over
            }
        };
        // The last operand may lie in memory.
        let (code, middle, last) = if over == c {
            let code = pick(
                Code::VEX_Vfmadd231ps_ymm_ymm_ymmm256,
                Code::EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er,
            );
            (code, a, b)
        } else if constant == Some(b) {
            (Code::VEX_Vfmadd132ps_ymm_ymm_ymmm256, c, b)
        } else {
            let code = pick(
                Code::VEX_Vfmadd213ps_ymm_ymm_ymmm256,
                Code::EVEX_Vfmadd213ps_zmm_k1z_zmm_zmmm512b32_er,
            );
            (code, if over == a { b } else { a }, c)
        };
        let result = self.whole(to);
        let named = if constant == Some(last) {
            result
        } else {
            self.whole(last)
        };
        let mut instruction = Instruction::with3(code, result, self.whole(middle), named)?;
        if constant == Some(last) {
            self.read_pool(&mut instruction, 2, last);
        }
        self.add(instruction)
    }

    fn emit(&mut self, step: &Step, constant: Option<Virtual>) -> Result<(), IcedError> {
        let from = &step.from;
        let to = step.to.map(|to| self.whole(to));
        let result = || to.expect("a result");
        let wide = self.level == Level::Avx512;
        match step.what {
            Do::Plain(code, immediate) => {
                // No instruction names more.
                let mut registers = [Register::None; 4];
                let named = step.to.iter().chain(from);
                let count = named.clone().count();
                for (operand, (register, &at)) in registers.iter_mut().zip(named).enumerate() {
                    *register = match Some(at) == constant {
                        true => Register::YMM0,
                        false => self.named(at, code, operand),
                    };
                }
                let mut instruction = match (&registers[..count], immediate) {
                    (&[r, a], None) => Instruction::with2(code, r, a)?,
                    (&[r, a, b], None) => Instruction::with3(code, r, a, b)?,
                    (&[r, a, b, c], None) => Instruction::with4(code, r, a, b, c)?,
                    (&[r, a], Some(by)) => Instruction::with3(code, r, a, by)?,
                    (&[r, a, b], Some(by)) => Instruction::with4(code, r, a, b, by)?,
                    _ => unreachable!("{code:?} of {count} registers"),
                };
                if let Some(at) = constant {
                    let operand = from.iter().position(|&from| from == at).expect("an operand");
                    self.read_pool(&mut instruction, operand as u32 + step.to.iter().len() as u32, at);
                }
                self.add(instruction)
            }
            Do::Masked(code, zeroing) => {
                let mut instruction = match *from.as_slice() {
                    [_, a] => Instruction::with2(code, result(), self.whole(a))?,
                    [_, a, b] => Instruction::with3(code, result(), self.whole(a), self.whole(b))?,
                    _ => unreachable!("{code:?} of {} registers", from.len()),
                };
                instruction.set_op_mask(self.whole(from[0]));
                instruction.set_zeroing_masking(zeroing);
                self.add(instruction)
            }
            Do::Fma => unreachable!("emitted by itself"),
            Do::Ones => {
                let code = match self.file(step.to.expect("a result")) {
                    File::Mask => Code::VEX_Kxnorw_kr_kr_kr,
                    File::Vector => Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256,
                };
                self.add(Instruction::with3(code, result(), result(), result())?)
            }
            Do::Lane(half) => {
                let iota = memory(Register::R11, 32 * half as i64);
                if wide {
                    self.add(Instruction::with2(
                        Code::EVEX_Vpbroadcastd_zmm_k1z_r32,
                        result(),
                        Register::ECX,
                    )?)?;
                    let code = Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32;
                    return self.add(Instruction::with3(code, result(), result(), iota)?);
                }
                self.broadcast(Register::ECX, result())?;
                self.add(Instruction::with3(
                    Code::VEX_Vpaddd_ymm_ymm_ymmm256,
                    result(),
                    result(),
                    iota,
                )?)
            }
            Do::Tail(half) => {
                if wide {
                    self.asm.mov(eax, -1i32)?;
                    self.add(Instruction::with3(
                        Code::VEX_Bzhi_r32_rm32_r32,
                        Register::EAX,
                        Register::EAX,
                        Register::ESI,
                    )?)?;
                    return self.add(Instruction::with2(Code::VEX_Kmovw_kr_r32, result(), Register::EAX)?);
                }
                self.broadcast(Register::ESI, result())?;
                let iota = memory(Register::R11, 32 * half as i64);
                self.add(Instruction::with3(
                    Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256,
                    result(),
                    result(),
                    iota,
                )?)
            }
            Do::Load(code, stream) => {
                let source = self.address(stream)?;
                let instruction = match from.first() {
                    None => Instruction::with2(code, result(), source)?,
                    Some(&mask) if wide => {
                        let mut instruction = Instruction::with2(code, result(), source)?;
                        instruction.set_op_mask(self.whole(mask));
                        instruction.set_zeroing_masking(true);
                        instruction
                    }
                    Some(&mask) => {
                        Instruction::with3(Code::VEX_Vmaskmovps_ymm_ymm_m256, result(), self.whole(mask), source)?
                    }
                };
                self.add(instruction)
            }
            Do::Store(code, immediate, stream) => {
                let target = self.address(stream)?;
                let value = self.named(from[0], code, 1);
                let mut instruction = match (from.get(1), immediate) {
                    (Some(&mask), None) if !wide => {
                        Instruction::with3(Code::VEX_Vmaskmovps_m256_ymm_ymm, target, self.whole(mask), value)?
                    }
                    (_, None) => Instruction::with2(code, target, value)?,
                    (_, Some(by)) => Instruction::with3(code, target, value, by)?,
                };
                if wide && let Some(&mask) = from.get(1) {
                    instruction.set_op_mask(self.whole(mask));
                }
                self.add(instruction)
            }
            Do::StorePast(stream) => {
                let target = self.address(stream)?;
                let code = match (self.past, wide) {
                    (true, true) => Code::EVEX_Vmovntps_m512_zmm,
                    (true, false) => Code::VEX_Vmovntps_m256_ymm,
                    (false, true) => Code::EVEX_Vmovups_zmmm512_k1z_zmm,
                    (false, false) => Code::VEX_Vmovups_ymmm256_ymm,
                };
                self.add(Instruction::with2(code, target, self.whole(from[0]))?)
            }
            Do::Prefetch(stream) => {
                let source = self.address(stream)?;
                self.add(Instruction::with1(Code::Prefetcht1_m8, source)?)
            }
            Do::LoadPart(code, stream) => {
                self.asm.mov(qword_ptr(rsp), 0i32)?;
                self.asm.mov(qword_ptr(rsp + 8), 0i32)?;
                self.part(stream, true)?;
                self.add(Instruction::with2(code, result(), memory(Register::RSP, 0))?)
            }
            Do::StorePart(code, immediate, stream) => {
                let value = self.named(from[0], code, 1);
                let bounce = memory(Register::RSP, 0);
                self.add(match immediate {
                    None => Instruction::with2(code, bounce, value)?,
                    Some(by) => Instruction::with3(code, bounce, value, by)?,
                })?;
                self.part(stream, false)
            }
            Do::Leave => {
                match self.file(from[0]) {
                    File::Mask => {
                        let mask = self.whole(from[0]);
                        self.add(Instruction::with2(Code::VEX_Kortestw_kr_kr, mask, mask)?)?;
                    }
                    File::Vector => {
                        let mask = self.whole(from[0]);
                        self.add(Instruction::with2(Code::VEX_Vmovmskps_r32_ymm, Register::EAX, mask)?)?;
                        self.asm.test(eax, eax)?;
                    }
                }
                self.asm.jne(self.full)
            }
            Do::Gather(origin, scale) => {
                let (base, bytes) = self.pointer(origin)?;
                let (offset, mask) = (self.whole(from[0]), self.whole(from[1]));
                let size = u32::from(bytes != 0);
                let source = MemoryOperand::new(base, offset, scale, bytes, size, false, Register::None);
                let zero = if wide {
                    Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32
                } else {
                    Code::VEX_Vpxor_ymm_ymm_ymmm256
                };
                self.add(Instruction::with3(zero, result(), result(), result())?)?;
                if wide {
                    let mut gather = Instruction::with2(Code::EVEX_Vpgatherdd_zmm_k1_vm32z, result(), source)?;
                    gather.set_op_mask(mask);
                    return self.add(gather);
                }
                self.add(Instruction::with3(
                    Code::VEX_Vpgatherdd_ymm_vm32y_ymm,
                    result(),
                    source,
                    mask,
                )?)
            }
        }
    }

    /// A 32-bit register into every lane, with AVX2.
    fn broadcast(&mut self, from: Register, to: Register) -> Result<(), IcedError> {
        let low = Register::XMM0 + (to as u32 - Register::YMM0 as u32);
        self.add(Instruction::with2(Code::VEX_Vmovd_xmm_rm32, low, from)?)?;
        self.add(Instruction::with2(Code::VEX_Vpbroadcastd_ymm_xmmm32, to, low)?)
    }

    /// Copies what the tail has of a vector of narrow elements between memory and the bounce buffer.
    fn part(&mut self, stream: Stream, inwards: bool) -> Result<(), IcedError> {
        let address = self.address(stream)?;
        self.add(Instruction::with2(Code::Lea_r64_m, Register::RAX, address)?)?;
        self.asm.mov(r10, rsi)?;
        if stream.half > 0 {
            self.asm.sub(r10, 8 * stream.half as i32)?;
        }
        self.asm.mov(edx, 8u32)?;
        self.asm.cmp(r10, rdx)?;
        self.asm.cmova(r10, rdx)?;
        if stream.bytes == 2 {
            self.asm.add(r10, r10)?;
        }
        let mut next = self.asm.create_label();
        self.asm.set_label(&mut next)?;
        let (outside, inside) = (byte_ptr(rax + r10 - 1), byte_ptr(rsp + r10 - 1));
        self.asm.mov(dl, if inwards { outside } else { inside })?;
        self.asm.mov(if inwards { inside } else { outside }, dl)?;
        self.asm.dec(r10)?;
        self.asm.jne(next)
    }

    /// A register, and how many bytes are added to what is in it.
    fn pointer(&mut self, origin: usize) -> Result<(Register, i64), IcedError> {
        let Origin { slot, bytes } = self.program.origins[origin];
        if let Some(at) = self.pointers.iter().position(|&kept| kept == slot) {
            return Ok((POINTERS[at], bytes.into()));
        }
        let from = memory(Register::RDI, 8 * slot as i64);
        self.add(Instruction::with2(Code::Mov_r64_rm64, Register::RAX, from)?)?;
        Ok((Register::RAX, bytes.into()))
    }

    fn address(&mut self, stream: Stream) -> Result<MemoryOperand, IcedError> {
        let (base, bytes) = self.pointer(stream.origin)?;
        let offset = bytes + stream.further + (8 * stream.half * stream.bytes) as i64;
        if !stream.moves {
            return Ok(memory(base, offset));
        }
        let size = u32::from(offset != 0);
        Ok(MemoryOperand::new(
            base,
            Register::RCX,
            stream.bytes as u32,
            offset,
            size,
            false,
            Register::None,
        ))
    }
}

fn memory(base: Register, offset: i64) -> MemoryOperand {
    MemoryOperand::with_base_displ_size(base, offset, u32::from(offset != 0))
}
