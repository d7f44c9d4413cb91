//! The loops of a sum in assembled code: around the steps of a tile's, whatever these do.
//!
//! Every stride is a constant: a pointer to each side moves along. Read by [`super::tile`] and [`super::matrix`].

use iced_x86::code_asm::registers::gpr64::get_gpr64;
use iced_x86::code_asm::{CodeAssembler, CodeLabel};
use iced_x86::{IcedError, MemoryOperand, Register};

/// Where the loops of `k` count, outermost last; all are the callee's to change.
pub const COUNTERS: [Register; 6] = [
    Register::RAX,
    Register::RCX,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
];

/// One loop of the sum: its length, and the bytes each pointer moves a step.
#[derive(Clone, Copy)]
pub struct Loop {
    /// Steps.
    pub extent: usize,
    /// Bytes from step to step of A.
    pub a: i64,
    /// Bytes from step to step of B.
    pub b: i64,
}

/// The loops of `k`, outermost first, without those of one iteration, neighbours merged where both pointers run on evenly. Of each side the
/// strides, in elements of so many bytes.
pub fn merged(k: &[usize], (a_along, a_bytes): (&[usize], usize), (b_along, b_bytes): (&[usize], usize)) -> Vec<Loop> {
    assert_eq!(a_along.len(), k.len(), "strides of A");
    assert_eq!(b_along.len(), k.len(), "strides of B");
    let mut loops: Vec<Loop> = Vec::new();
    for (at, &extent) in k.iter().enumerate().filter(|&(_, &extent)| extent != 1) {
        let (a, b) = ((a_along[at] * a_bytes) as i64, (b_along[at] * b_bytes) as i64);
        let inner = Loop { extent, a, b };
        match loops.last_mut() {
            Some(outer) if outer.a == extent as i64 * a && outer.b == extent as i64 * b => {
                *outer = Loop {
                    extent: outer.extent * extent,
                    ..inner
                };
            }
            _ => loops.push(inner),
        }
    }
    if loops.is_empty() {
        loops.push(Loop { extent: 1, a: 0, b: 0 });
    }
    loops
}

/// Code of a sum, with A in `rdi` and B in `rsi`.
pub trait Sum {
    /// Where instructions go.
    fn asm(&mut self) -> &mut CodeAssembler;

    /// The innermost loop; it leaves the pointers where its last step left them, `extent` strides on.
    fn innermost(&mut self, this: Loop) -> Result<(), IcedError>;

    /// The loops, the first of them outermost; each leaves the pointers where its last step left them. Nothing where one has no iteration.
    ///
    /// # Panics
    /// If there are more of them than [`COUNTERS`], or none.
    fn sum(&mut self, loops: &[Loop]) -> Result<(), IcedError> {
        let count = loops.len();
        assert!(count <= COUNTERS.len(), "{count} loops in the sum of a tile");
        match loops.iter().all(|each| each.extent > 0) {
            true => self.turn(loops),
            false => Ok(()),
        }
    }

    /// The same where all have iterations.
    fn turn(&mut self, loops: &[Loop]) -> Result<(), IcedError> {
        let (this, inner) = loops.split_first().expect("a loop");
        let Some(next) = inner.first() else {
            return self.innermost(*this);
        };
        let start = self.begin(loops.len() - 1, this.extent)?;
        self.turn(inner)?;
        let extent = next.extent as i64;
        self.advance(this.a - extent * next.a, this.b - extent * next.b)?;
        self.end(loops.len() - 1, start)
    }

    /// Begins a loop that counts in that register.
    fn begin(&mut self, counter: usize, extent: usize) -> Result<CodeLabel, IcedError> {
        let counter = get_gpr64(COUNTERS[counter]).expect("a counter");
        let asm = self.asm();
        asm.mov(counter, extent as u64)?;
        let mut start = asm.create_label();
        asm.set_label(&mut start)?;
        Ok(start)
    }

    /// Ends it.
    fn end(&mut self, counter: usize, start: CodeLabel) -> Result<(), IcedError> {
        let counter = get_gpr64(COUNTERS[counter]).expect("a counter");
        self.asm().dec(counter)?;
        self.asm().jne(start)
    }

    /// Moves the pointers by some bytes.
    fn advance(&mut self, a: i64, b: i64) -> Result<(), IcedError> {
        self.move_by(Register::RDI, a)?;
        self.move_by(Register::RSI, b)
    }

    /// Moves one pointer.
    fn move_by(&mut self, pointer: Register, bytes: i64) -> Result<(), IcedError> {
        let pointer = get_gpr64(pointer).expect("a pointer");
        match bytes {
            0 => Ok(()),
            _ => self.asm().add(pointer, displacement(bytes) as i32),
        }
    }
}

/// So many bytes from where a register points.
pub fn at(base: Register, bytes: i64) -> MemoryOperand {
    let bytes = displacement(bytes);
    MemoryOperand::with_base_displ_size(base, bytes, u32::from(bytes != 0))
}

/// The same, for what takes one row after the other: their stride is in another register.
pub fn rows_at(base: Register, stride: Register, bytes: i64) -> MemoryOperand {
    let bytes = displacement(bytes);
    MemoryOperand::new(base, stride, 1, bytes, u32::from(bytes != 0), false, Register::None)
}

fn displacement(bytes: i64) -> i64 {
    assert!(i32::try_from(bytes).is_ok(), "a tile spans {bytes} bytes");
    bytes
}
