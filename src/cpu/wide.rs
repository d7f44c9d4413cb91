//! The innermost body of a vector loop as AVX2+FMA or AVX-512 machine code.
//!
//! In: a [`Body`], straight-line code over one lane variable. Out: the bytes of a System V function
//! `fn(slots: *const u64, count: u64)` that runs the body for lanes `0 .. count`. A slot is the address of a stream, or the bits of a
//! scalar in its low end. The bits of the results are those of [`netloom_ir::kernel::nest`]'s semantics, whatever the width.

use netloom_ir::DType;
use netloom_ir::kernel::{Combine, Prim};

use super::isa::Level;

/// A value in a [`Body`]: a position in `values`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Straight-line vector code; values come before their users.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Body {
    /// What is computed in each lane.
    pub values: Vec<Value>,
    /// What is done with it, in order.
    pub sinks: Vec<Sink>,
    /// The number of slots.
    pub slots: usize,
}

/// A value in each lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// The same bits in every lane.
    Const(DType, u64),
    /// The scalar in a slot, the same in every lane.
    Scalar(DType, usize),
    /// The lane's number, an `I32`: 0, 1, 2 … over the whole loop.
    Lane,
    /// Element `lane` of the stream whose address is in a slot: contiguous.
    Load(DType, usize),
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
    /// Combines into virtual lane `lane % 16` of the 16 elements at the address in a slot, which hold the state before and after.
    Accumulate(DType, usize, Combine, ValueId),
}

/// The function's bytes, or what in the body this level has no code for (the caller then uses CLIF).
pub fn assemble(body: &Body, level: Level) -> Result<Vec<u8>, String> {
    let _ = (body, level);
    todo!()
}
