//! Tiles that never lie in memory: where only the rows of vectors directly after a tile read it, one function sums and finishes it.

use std::rc::Rc;

use cranelift_module::ModuleError;
use netloom_ir::DType;
use netloom_ir::kernel::index::Linear;
use netloom_ir::kernel::{Bind, BufferId, Contract, ExprId, Prim, Role, Stmt};

use super::lanes::{Code, Vector};
use super::{Cx, tile_of};
use crate::cpu::isa::Level;
use crate::cpu::lanes::{Lanes, Slot, analyse};
use crate::cpu::wide::{Finish, Value};
use crate::hoist::{Hoist, Writes};

impl Cx<'_> {
    /// Finds these tiles below `body`, which is part of `whole`, and declares their functions. Statements stay where they are from now on.
    pub(super) fn join_tiles(&mut self, body: &[Stmt], whole: &[Stmt]) -> Result<(), ModuleError> {
        if self.shared.cpu.level == Level::Portable {
            return Ok(());
        }
        for (at, stmt) in body.iter().enumerate() {
            match stmt {
                Stmt::Loop { body, .. } => self.join_tiles(body, whole)?,
                Stmt::If { then, otherwise, .. } => {
                    self.join_tiles(then, whole)?;
                    self.join_tiles(otherwise, whole)?;
                }
                _ => {}
            }
            if let (Some(contract), Some(next)) = (self.only_tile(stmt), body.get(at + 1)) {
                self.join_tile(contract, next, whole)?;
            }
        }
        Ok(())
    }

    /// The tile that is all there is in a statement.
    fn only_tile<'b>(&self, mut stmt: &'b Stmt) -> Option<&'b Contract> {
        loop {
            match stmt {
                Stmt::Contract(contract) => return Some(contract),
                Stmt::Loop { extent, body, .. } if self.nest.exprs.as_int(*extent) == Some(1) && body.len() == 1 => {
                    stmt = &body[0];
                }
                _ => return None,
            }
        }
    }

    fn join_tile(&mut self, contract: &Contract, next: &Stmt, whole: &[Stmt]) -> Result<(), ModuleError> {
        let &Stmt::Loop {
            axis: row,
            extent: rows,
            bind: Bind::Serial,
            body: ref line,
        } = next
        else {
            return Ok(());
        };
        let &[
            Stmt::Loop {
                axis: lane,
                extent: lanes,
                bind: Bind::Lanes,
                ref body,
            },
        ] = &line[..]
        else {
            return Ok(());
        };
        let (c, exprs) = (&contract.c, &self.nest.exprs);
        let is_whole = exprs.as_int(lanes) == Some(contract.columns as i64)
            && c.across == contract.columns
            && exprs.range(c.start) == Some((0, 0))
            && self.nest.buffers[c.buffer.at()].role == Role::WorkerScratch;
        if !is_whole || self.readers(whole, c.buffer) != self.readers(line, c.buffer) || writers(whole, c.buffer) != 1 {
            return Ok(());
        }
        let Some(lanes) = analyse(&mut self.nest, Some(row), lane, body) else {
            return Ok(());
        };
        let Some((finish, slots)) = self.finish(contract, rows, lanes) else {
            return Ok(());
        };
        let strides = Vec::new();
        if let Some(function) = self.shared.finish(self.module, finish)? {
            let code = Code::Finished(function);
            let vector = Rc::new(Vector { slots, strides, code });
            self.vectors.insert((Some(row), body.as_ptr().addr()), Some(vector));
            self.joined.insert(std::ptr::from_ref(contract).addr());
        }
        Ok(())
    }

    /// A tile with what is done in each of so many rows of vectors, and what the slots of that hold, if the rows are the tile's.
    fn finish(&mut self, contract: &Contract, rows: ExprId, lanes: Lanes) -> Option<(Finish, Vec<Slot>)> {
        let Lanes {
            body,
            mut slots,
            strides,
        } = lanes;
        let size = |cx: &Self, buffer: BufferId| cx.nest.buffers[buffer.at()].ty.dtype.size_bytes() as i64;
        let is_sum = |slot: &Slot| matches!(slot, Slot::Address(buffer, _) if *buffer == contract.c.buffer);
        let sums = slots.iter().position(is_sum)?;
        let Slot::Address(buffer, start) = slots[sums] else {
            unreachable!("an address")
        };
        let columns = contract.columns as i64;
        let mut first = Linear::of(&self.nest.exprs, start);
        let factors = first.terms.iter().map(|&(_, factor)| factor).chain([first.constant]);
        let is_row = factors.into_iter().all(|factor| factor % columns == 0);
        let of_sums = |origin: usize| body.origins[origin].slot == sums;
        let is_alone = slots.iter().filter(|slot| is_sum(slot)).count() == 1
            && (body.origins.iter()).all(|origin| origin.slot != sums || origin.bytes == 0)
            && !(body.values.iter()).any(|value| matches!(*value, Value::Spread(_, origin) if of_sums(origin)));
        if !is_row || !is_alone || strides[sums] != columns * size(self, buffer) {
            return None;
        }
        first.constant /= columns;
        first.terms.iter_mut().for_each(|(_, factor)| *factor /= columns);
        // Addresses are those of the tile's first row, whichever is the first that counts.
        for (slot, stride) in slots.iter_mut().zip(&strides) {
            if let Slot::Address(buffer, at) = slot {
                let mut start = Linear::of(&self.nest.exprs, *at);
                start.add(&first, -stride / size(self, *buffer));
                *at = start.build(&mut self.nest.exprs);
            }
        }
        let first = first.build(&mut self.nest.exprs);
        let end = self.nest.exprs.prim(Prim::Add, DType::I64, &[first, rows]);
        let part = [first, end].map(|at| self.nest.exprs.as_int(at)) != [Some(0), Some(contract.rows as i64)];
        slots[sums] = Slot::Scalar(first);
        slots.push(Slot::Scalar(end));
        let tile = tile_of(contract);
        let finish = Finish {
            tile,
            body,
            sums,
            strides,
            part,
        };
        Some((finish, slots))
    }

    /// How many statements below these read a tensor.
    fn readers(&mut self, body: &[Stmt], buffer: BufferId) -> usize {
        let mut count = 0;
        for stmt in body {
            let values = match stmt {
                Stmt::Loop { extent, body, .. } => {
                    count += self.readers(body, buffer);
                    vec![*extent]
                }
                Stmt::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    count += self.readers(then, buffer) + self.readers(otherwise, buffer);
                    vec![*condition]
                }
                Stmt::Set { value, .. } | Stmt::Accumulate { value, .. } => vec![*value],
                Stmt::Store { index, value, .. } => index.iter().chain([value]).copied().collect(),
                Stmt::Contract(contract) => {
                    count += usize::from([&contract.a, &contract.b].iter().any(|side| side.buffer == buffer));
                    vec![contract.a.start, contract.b.start, contract.c.start]
                }
                Stmt::Prefetch { .. } | Stmt::Product(_) | Stmt::Barrier => Vec::new(),
            };
            count += usize::from(
                values
                    .into_iter()
                    .any(|value| self.facts(value).buffers.contains(&buffer)),
            );
        }
        count
    }
}

/// How many statements below these write a tensor.
fn writers(body: &[Stmt], buffer: BufferId) -> usize {
    let below = |stmt: &Stmt| match stmt {
        Stmt::Loop { body, .. } => writers(body, buffer),
        Stmt::If { then, otherwise, .. } => writers(then, buffer) + writers(otherwise, buffer),
        other => usize::from(Writes::of(std::slice::from_ref(other)).buffers.contains(&buffer)),
    };
    body.iter().map(below).sum()
}
