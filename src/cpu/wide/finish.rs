//! Tiles that are finished while their sums are in registers.
//!
//! In: a [`Finish`], a tile and the body of the rows of vectors that are computed from it. Out: the bytes of a System V function
//! `fn(a: *const T, b: *const T, slots: *const u64)` that does both; the tile never lies in memory.

use netloom_ir::DType;

use super::super::tile::{Tile, is_assembled};
use super::lower::{Program, lower_finish};
use super::registers;
use super::{Body, Level, Sink, Value};

/// A tile that starts from zero, and what is computed from its sums.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Finish {
    /// The tile; where its C would lie does not matter.
    pub tile: Tile,
    /// What is done in each row of it, for as many lanes as there are columns.
    pub body: Body,
    /// The slot of the stream that stands for the sums. If only a part of the rows is finished, it holds the number of the first of them, and the slot
    /// behind all others that of the first that is not.
    pub sums: usize,
    /// For each slot, the bytes by which an address moves from row to row; the slots hold those of the tile's first row.
    pub strides: Vec<i64>,
    /// Whether only a part of the rows is finished.
    pub part: bool,
}

/// The most operations on a vector of sums: more take as long as the way through memory, and their code much room.
const MOST_VALUES: usize = 16;

/// How far from its first row a tile's last may lie, in bytes: half of what an instruction can add to an address.
const FARTHEST: u64 = 1 << 30;

/// A tile and its body of which a level has code, before it is assembled.
pub struct Lowered {
    finish: Finish,
    program: Program,
}

impl Finish {
    /// The instructions, or what has none: then the tile is written and read again.
    pub fn lower(self, level: Level) -> Result<Lowered, String> {
        let Body { values, sinks, .. } = &self.body;
        let is_plain = |value: &Value| {
            matches!(
                value,
                Value::Const(..) | Value::Scalar(..) | Value::Spread(..) | Value::Load(..) | Value::Prim(..)
            )
        };
        // Rows are displacements from one address.
        let is_near = |stride: &i64| stride.unsigned_abs().saturating_mul(self.tile.rows as u64) < FARTHEST;
        let is_store = |sink: &Sink| matches!(sink, Sink::Store(..) | Sink::Prefetch(..));
        let fits = values.len() <= MOST_VALUES
            && values.iter().all(is_plain)
            && sinks.iter().all(is_store)
            && self.strides.iter().all(is_near)
            && self.body.unlikely().is_empty()
            && self.tile.dtype == DType::F32
            && !self.tile.accumulate
            && is_assembled(&self.tile, level);
        if !fits {
            return Err("more than can be done with sums in registers".to_string());
        }
        let program = lower_finish(&self, level)?;
        Ok(Lowered { finish: self, program })
    }
}

impl Lowered {
    /// The function's bytes, for the level that it was lowered for.
    pub fn assemble(&self, level: Level) -> Vec<u8> {
        registers::finish(&self.program, &self.finish, level).expect("instructions of a tile and a body encode")
    }
}
