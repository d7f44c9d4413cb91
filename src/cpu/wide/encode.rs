//! From instructions to bytes.
//!
//! The assembler's library can do it too, but encodes each instruction twice, the first time for its length, and keeps a box for each. Here
//! only branches are encoded once their lengths are known. The bytes are the same.

use hashbrown::HashMap;
use iced_x86::{Encoder, IcedError, Instruction};

/// Bytes of a branch that reaches 127 of them.
const SHORT: usize = 2;

/// What stands between the code and its constants: breakpoints.
const BETWEEN: u8 = 0xcc;

/// The bytes of instructions whose addresses are labels, as `CodeAssembler` leaves them, and behind them those of constants, at a multiple
/// of so many bytes. What an instruction addresses from where it stands are the constants. Branches are short where that reaches.
pub fn encode(instructions: &[Instruction], constants: &[u8], alignment: usize) -> Result<Vec<u8>, IcedError> {
    let mut encoder = Encoder::new(64);
    let (mut lengths, mut labels) = (Vec::with_capacity(instructions.len()), HashMap::new());
    for (at, instruction) in instructions.iter().enumerate() {
        if instruction.ip() != 0 {
            labels.insert(instruction.ip(), at);
        }
        lengths.push(match instruction {
            jump if jump.is_jmp_short_or_near() => 5,
            jump if jump.is_jcc_short_or_near() => 6,
            plain => encoder.encode(plain, 0)?,
        });
    }
    let plain = encoder.take_buffer();
    let branches = instructions
        .iter()
        .enumerate()
        .filter(|(_, instruction)| is_branch(instruction));
    let branches: Vec<(usize, usize)> = branches
        .map(|(at, branch)| (at, labels[&branch.near_branch_target()]))
        .collect();
    let mut starts = starts_of(&lengths);
    // A branch that becomes short brings others nearer to where they go.
    loop {
        // As the library has it, a branch forwards is in its own way while it is long.
        let reaches = |&&(at, target): &&(usize, usize)| {
            i8::try_from(starts[target] as i64 - (starts[at] + SHORT) as i64).is_ok()
        };
        let long = branches.iter().filter(|(at, _)| lengths[*at] > SHORT);
        let short: Vec<usize> = long.filter(reaches).map(|(at, _)| *at).collect();
        if short.is_empty() {
            break;
        }
        short.into_iter().for_each(|at| lengths[at] = SHORT);
        starts = starts_of(&lengths);
    }
    let pool = starts[instructions.len()].next_multiple_of(alignment);
    let mut code = Vec::with_capacity(pool + constants.len());
    let (mut rest, mut branches) = (&plain[..], branches.into_iter());
    for (at, instruction) in instructions.iter().enumerate() {
        if is_branch(instruction) {
            let (_, target) = branches.next().expect("a target for each branch");
            let mut branch = *instruction;
            match lengths[at] {
                SHORT => branch.as_short_branch(),
                _ => branch.as_near_branch(),
            }
            branch.set_near_branch64(starts[target] as u64);
            encoder.encode(&branch, starts[at] as u64)?;
            code.extend(encoder.take_buffer());
            continue;
        }
        let (bytes, others) = rest.split_at(lengths[at]);
        code.extend(bytes);
        rest = others;
        if instruction.is_ip_rel_memory_operand() {
            let distance = i32::try_from(pool - starts[at + 1]).expect("a function is small");
            // Nothing stands behind the address in such an instruction.
            let address = code.len() - size_of::<i32>();
            code[address..].copy_from_slice(&distance.to_le_bytes());
        }
    }
    code.resize(pool, BETWEEN);
    code.extend(constants);
    Ok(code)
}

fn is_branch(instruction: &Instruction) -> bool {
    instruction.is_jcc_short_or_near() || instruction.is_jmp_short_or_near()
}

/// Where each instruction begins, and where the last one ends.
fn starts_of(lengths: &[usize]) -> Vec<usize> {
    let mut starts = vec![0];
    starts.extend(lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    }));
    starts
}

#[cfg(test)]
mod tests {
    use iced_x86::code_asm::{CodeAssembler, ptr, r11, rax, zmm1};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Branches from and to anywhere, among instructions of several lengths.
        #[test]
        fn the_bytes_are_those_of_the_library(
            plain in prop::collection::vec(0usize..4, 1..200),
            branches in prop::collection::vec((0usize..200, 0usize..200, any::<bool>()), 0..12),
        ) {
            let mut asm = CodeAssembler::new(64).unwrap();
            let mut pool = asm.create_label();
            let mut labels: Vec<_> = plain.iter().map(|_| asm.create_label()).collect();
            asm.lea(r11, ptr(pool)).unwrap();
            for (at, kind) in plain.iter().enumerate() {
                asm.set_label(&mut labels[at]).unwrap();
                asm.zero_bytes().unwrap();
                for &(_, target, always) in branches.iter().filter(|(from, ..)| *from == at) {
                    let target = labels[target % plain.len()];
                    if always { asm.jmp(target) } else { asm.jne(target) }.unwrap();
                }
                match kind {
                    0 => asm.add(rax, 1i32),
                    1 => asm.vmovups(zmm1, ptr(rax + 4096)),
                    2 => asm.vaddps(zmm1, zmm1, zmm1),
                    _ => asm.nop(),
                }
                .unwrap();
            }
            let found = encode(asm.instructions(), &[1, 2, 3, 4], 1).unwrap();
            asm.set_label(&mut pool).unwrap();
            asm.db(&[1, 2, 3, 4]).unwrap();
            prop_assert_eq!(found, asm.assemble(0).unwrap());
        }
    }

    #[test]
    fn constants_are_aligned() {
        let mut asm = CodeAssembler::new(64).unwrap();
        let pool = asm.create_label();
        asm.lea(r11, ptr(pool)).unwrap();
        asm.ret().unwrap();
        let expected = [&[0x4c, 0x8d, 0x1d, 9, 0, 0, 0, 0xc3][..], &[BETWEEN; 8], &[7]].concat();
        assert_eq!(encode(asm.instructions(), &[7], 16).unwrap(), expected);
    }
}
