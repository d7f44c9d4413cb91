//! Rows that are columns elsewhere: squares of 32-bit elements, read line by line, turned in registers, and written line by line.
//!
//! What is left over at the ends is copied one by one.

use iced_x86::code_asm::{CodeAssembler, dword_ptr, qword_ptr};
use iced_x86::code_asm::{r8, r9, r10, r11, r12, r12d, r13, rax, rbx, rcx, rdi, rdx, rsi};
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, Register};

use super::{Body, Level, Origin, Sink, Value};

/// A body that only stores columns.
pub struct Columns {
    from: Origin,
    to: Origin,
    /// Bytes between neighbours of a column.
    pitch: i32,
    /// The number of slots.
    slots: usize,
}

impl Columns {
    /// What the body stores, if it is that.
    pub fn of(body: &Body) -> Option<Columns> {
        let (&[Value::Column(_, from, pitch)], &[Sink::Store(_, to, _)]) = (&body.values[..], &body.sinks[..]) else {
            return None;
        };
        Some(Columns {
            from: body.origins[from],
            to: body.origins[to],
            pitch: 4 * pitch,
            slots: body.slots(),
        })
    }

    /// The function of the body, as of every body.
    pub fn assemble(&self, level: Level) -> Result<Vec<u8>, IcedError> {
        let sides: &[i32] = if level == Level::Avx512 { &[16, 8] } else { &[8] };
        let mut asm = CodeAssembler::new(64)?;
        for saved in [rbx, r12, r13] {
            asm.push(saved)?;
        }
        // From, to, and the stride of `to`.
        asm.mov(r8, qword_ptr(rdi + 8 * self.from.slot as i32))?;
        asm.add(r8, self.from.bytes)?;
        asm.mov(r9, qword_ptr(rdi + 8 * self.to.slot as i32))?;
        asm.add(r9, self.to.bytes)?;
        asm.mov(r10, qword_ptr(rdi + 8 * (self.slots + self.to.slot) as i32))?;
        for &side in sides {
            self.rows(&mut asm, side)?;
        }
        self.rows(&mut asm, 1)?;
        asm.vzeroupper()?;
        for saved in [r13, r12, rbx] {
            asm.pop(saved)?;
        }
        asm.ret()?;
        asm.assemble(0)
    }

    /// So many rows together, as often as there are so many.
    fn rows(&self, asm: &mut CodeAssembler, side: i32) -> Result<(), IcedError> {
        let [mut next, mut squares, mut lanes, mut end, mut done] = [(); 5].map(|()| asm.create_label());
        asm.set_label(&mut next)?;
        asm.cmp(rdx, side)?;
        asm.jb(done)?;
        for (at, start) in [(r11, r8), (rcx, r9), (rax, rsi)] {
            asm.mov(at, start)?;
        }
        if side > 1 {
            asm.set_label(&mut squares)?;
            asm.cmp(rax, side)?;
            asm.jb(lanes)?;
            self.square(asm, side as usize)?;
            asm.add(r11, side * self.pitch)?;
            asm.add(rcx, 4 * side)?;
            asm.sub(rax, side)?;
            asm.jmp(squares)?;
        }
        asm.set_label(&mut lanes)?;
        asm.test(rax, rax)?;
        asm.je(end)?;
        asm.mov(rbx, rcx)?;
        for place in 0..side {
            asm.mov(r12d, dword_ptr(r11 + 4 * place))?;
            asm.mov(dword_ptr(rbx), r12d)?;
            asm.add(rbx, r10)?;
        }
        asm.add(r11, self.pitch)?;
        asm.add(rcx, 4)?;
        asm.dec(rax)?;
        asm.jmp(lanes)?;
        asm.set_label(&mut end)?;
        asm.add(r8, 4 * side)?;
        asm.mov(r13, r10)?;
        asm.shl(r13, side.trailing_zeros())?;
        asm.add(r9, r13)?;
        asm.sub(rdx, side)?;
        asm.jmp(next)?;
        asm.set_label(&mut done)?;
        asm.zero_bytes()
    }

    /// The square at `r11` to `rcx`.
    fn square(&self, asm: &mut CodeAssembler, side: usize) -> Result<(), IcedError> {
        let wide = side == 16;
        let first = if wide { Register::ZMM0 } else { Register::YMM0 };
        let pick = |avx2: Code, avx512: Code| if wide { avx512 } else { avx2 };
        let register = |number: usize| first + number as u32;
        let load = pick(Code::VEX_Vmovups_ymm_ymmm256, Code::EVEX_Vmovups_zmm_k1z_zmmm512);
        let store = pick(Code::VEX_Vmovups_ymmm256_ymm, Code::EVEX_Vmovups_zmmm512_k1z_zmm);
        let at =
            |base: Register, offset: i64| MemoryOperand::with_base_displ_size(base, offset, u32::from(offset != 0));
        for line in 0..side {
            let source = at(Register::R11, line as i64 * i64::from(self.pitch));
            asm.add_instruction(Instruction::with2(load, register(line), source)?)?;
        }
        // The lines, then what each stage makes of pairs of them, in two halves of the registers by turns.
        let mut held: Vec<usize> = (0..side).collect();
        let mut spare: Vec<usize> = (side..2 * side).collect();
        let [low_singles, high_singles, low_doubles, high_doubles] = match wide {
            true => [
                Code::EVEX_Vunpcklps_zmm_k1z_zmm_zmmm512b32,
                Code::EVEX_Vunpckhps_zmm_k1z_zmm_zmmm512b32,
                Code::EVEX_Vunpcklpd_zmm_k1z_zmm_zmmm512b64,
                Code::EVEX_Vunpckhpd_zmm_k1z_zmm_zmmm512b64,
            ],
            false => [
                Code::VEX_Vunpcklps_ymm_ymm_ymmm256,
                Code::VEX_Vunpckhps_ymm_ymm_ymmm256,
                Code::VEX_Vunpcklpd_ymm_ymm_ymmm256,
                Code::VEX_Vunpckhpd_ymm_ymm_ymmm256,
            ],
        };
        let quarters = [0x88, 0xdd].map(|by| (Code::EVEX_Vshuff32x4_zmm_k1z_zmm_zmmm512b32_imm8, Some(by)));
        let halves = [0x20, 0x31].map(|by| (Code::VEX_Vperm2f128_ymm_ymm_ymmm256_imm8, Some(by)));
        let mut stages = vec![
            (1, [(low_singles, None), (high_singles, None)]),
            (2, [(low_doubles, None), (high_doubles, None)]),
        ];
        match wide {
            true => stages.extend([(4, quarters), (8, quarters)]),
            false => stages.push((4, halves)),
        }
        for (apart, made) in stages {
            for low in (0..side).filter(|line| line & apart == 0) {
                for (half, (code, by)) in made.into_iter().enumerate() {
                    let (to, a, b) = (spare[low + half * apart], held[low], held[low + apart]);
                    let [to, a, b] = [to, a, b].map(register);
                    asm.add_instruction(match by {
                        None => Instruction::with3(code, to, a, b)?,
                        Some(by) => Instruction::with4(code, to, a, b, by)?,
                    })?;
                }
            }
            std::mem::swap(&mut held, &mut spare);
        }
        // The first two stages leave the second and third of every four exchanged.
        asm.mov(rbx, rcx)?;
        for column in 0..side {
            let place = column & !3 | (column & 1) << 1 | column >> 1 & 1;
            asm.add_instruction(Instruction::with2(store, at(Register::RBX, 0), register(held[place]))?)?;
            asm.add(rbx, r10)?;
        }
        Ok(())
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use netloom_ir::DType;

    use super::super::super::machine::{Machine, levels};
    use super::super::{ValueId, lower};
    use super::*;

    #[test]
    fn rows_are_columns_and_nothing_else_is_written() {
        const UNTOUCHED: u32 = u32::MAX;
        for level in levels() {
            for (rows, count, pitch, stride) in [
                (16, 16, 16, 16),
                (32, 48, 40, 50),
                (7, 5, 9, 5),
                (35, 21, 37, 24),
                (20, 33, 64, 40),
                (13, 24, 30, 33),
                (0, 9, 4, 9),
                (3, 0, 4, 1),
            ] {
                let from: Vec<u32> = (0..(count * pitch + rows + 2) as u32).collect();
                let mut to = vec![UNTOUCHED; rows * stride + 4];
                let [first, second] = [0, 1].map(|slot| Origin { slot, bytes: 4 });
                let body = Body {
                    values: vec![Value::Column(DType::F32, 0, pitch as i32)],
                    sinks: vec![Sink::Store(DType::F32, 1, ValueId(0))],
                    origins: vec![first, second],
                };
                let code = Machine::new(&lower(&body, level).expect("columns have code").assemble(level));
                let mut slots = [from.as_ptr() as u64, to.as_mut_ptr() as u64, 4, 4 * stride as u64];
                // SAFETY: both arrays reach one element beyond what the function reads and writes.
                unsafe { code.wide()(slots.as_mut_ptr(), count as u64, rows as u64) };
                for (at, &found) in to.iter().enumerate() {
                    let (row, lane) = match at.checked_sub(1) {
                        Some(at) => (at / stride, at % stride),
                        None => (rows, 0),
                    };
                    let expected = match row < rows && lane < count {
                        true => (1 + lane * pitch + row) as u32,
                        false => UNTOUCHED,
                    };
                    assert_eq!(
                        found, expected,
                        "{level:?}: {rows} rows of {count}, row {row}, lane {lane}"
                    );
                }
            }
        }
    }
}
