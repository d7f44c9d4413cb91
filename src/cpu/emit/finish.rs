//! Tiles that never lie in memory: where only the rows of vectors directly after a tile read it, one function sums and finishes it.

use std::rc::Rc;

use cranelift::prelude::{InstBuilder, IntCC, Value};
use netloom_ir::DType;
use netloom_ir::kernel::index::Linear;
use netloom_ir::kernel::{Bind, BufferId, Contract, ExprId, Prim, Role, Stmt};

use super::callees::Callee;
use super::lanes::{Code, Rows, Vector};
use super::{Cx, tile_of};
use crate::cpu::isa::Level;
use crate::cpu::lanes::{Lanes, Slot, analyse};
use crate::cpu::wide::{self, Finish};
use crate::hoist::{Hoist, Writes};

/// How a tile is summed and finished.
pub(super) struct Finished {
    /// A function `fn(a, b, slots)` for a whole tile.
    function: u32,
    /// What is equal where the lanes are all columns of the tile.
    whole: Vec<(ExprId, ExprId)>,
    /// The tile's own function and that of its rows, for where they are not.
    apart: Option<(u32, Rc<Vector>)>,
}

impl Cx<'_> {
    /// Finds these tiles below `body`, which is part of `whole`, and declares their functions. Statements stay where they are from now on.
    pub(super) fn join_tiles(&mut self, body: &[Stmt], whole: &[Stmt]) {
        if self.callees.cpu.level == Level::Portable {
            return;
        }
        for (at, stmt) in body.iter().enumerate() {
            match stmt {
                Stmt::Loop { body, .. } => self.join_tiles(body, whole),
                Stmt::If { then, otherwise, .. } => {
                    self.join_tiles(then, whole);
                    self.join_tiles(otherwise, whole);
                }
                _ => {}
            }
            if let (Stmt::Contract(contract), Some(next)) = (stmt, body.get(at + 1))
                && !contract.is_in_pieces()
            {
                self.join_tile(contract, next, whole);
            }
        }
    }

    fn join_tile(&mut self, contract: &Contract, next: &Stmt, whole: &[Stmt]) {
        let &Stmt::Loop {
            axis: row,
            extent: rows,
            bind: Bind::Serial,
            body: ref line,
        } = next
        else {
            return;
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
            return;
        };
        let (c, scratch) = (&contract.c, &self.nest.buffers[contract.c.buffer.at()]);
        let is_whole = self.nest.axes[lane.at()].extent == contract.columns
            && c.across == contract.columns
            && self.nest.exprs.as_int(c.start) == Some(0)
            && scratch.role == Role::WorkerScratch
            && scratch.ty.count() == contract.rows * contract.columns;
        if !is_whole || self.readers(whole, c.buffer) != self.readers(line, c.buffer) || writers(whole, c.buffer) != 1 {
            return;
        }
        let Some(analysed) = analyse(&mut self.nest, Some(row), lane, body) else {
            return;
        };
        let Some((finish, slots, shift)) = self.finish(contract, rows, analysed) else {
            return;
        };
        let [none, columns] = [0, contract.columns as i64].map(|value| self.nest.exprs.int(value));
        let mut whole = vec![(shift, none), (lanes, columns)];
        whole.retain(|(found, wanted)| found != wanted);
        if whole.iter().any(|&(found, _)| self.nest.exprs.as_int(found).is_some()) {
            return;
        }
        let key = (Some(row), body.as_ptr().addr());
        let apart = match &whole[..] {
            [] => None,
            _ => match self.vector_of(Some(row), lane, body) {
                Some(rows) => Some((
                    self.callee(Callee::Tile(tile_of(contract)))
                        .expect("every tile has code"),
                    rows,
                )),
                None => return,
            },
        };
        if let Some(function) = self.callee(Callee::Finished(finish)) {
            let code = Code::Finished(Finished { function, whole, apart });
            let strides = Vec::new();
            let vector = Rc::new(Vector { slots, strides, code });
            self.vectors.insert(key, Some(vector));
            self.joined.insert(std::ptr::from_ref(contract).addr());
        }
    }

    /// A tile with what is done in each of so many rows of vectors, what the slots of that hold, and the column of the tile where the lanes begin.
    fn finish(&mut self, contract: &Contract, rows: ExprId, lanes: Lanes) -> Option<(Finish, Vec<Slot>, ExprId)> {
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
        // Rows, and how far the lanes are shifted in them.
        let (first, shift) = Linear::of(&self.nest.exprs, start).split(columns);
        let of_sums = |origin: usize| body.origins[origin].slot == sums;
        let is_alone = slots.iter().filter(|slot| is_sum(slot)).count() == 1
            && (body.origins.iter()).all(|origin| origin.slot != sums || origin.bytes == 0)
            && !(body.values.iter()).any(|value| matches!(*value, wide::Value::Spread(_, origin) if of_sums(origin)));
        if !is_alone || strides[sums] != columns * size(self, buffer) {
            return None;
        }
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
        let shift = shift.build(&mut self.nest.exprs);
        let tile = tile_of(contract);
        let finish = Finish {
            tile,
            body,
            sums,
            strides,
            part,
        };
        Some((finish, slots, shift))
    }

    /// All rows of a tile whose operands were found before.
    pub(super) fn emit_finished(&mut self, extent: ExprId, rows: &Rows, slots: &[Slot], finished: &Finished) {
        let [a, b, c] = self.operands.take().expect("a tile stands before what finishes it");
        let together = |cx: &mut Self| {
            let slots = cx.emit_slots(slots, &[]);
            let slots = cx.emit_words(&slots, &[]);
            cx.emit_call(finished.function, &[a, b, slots]);
        };
        let Some((tile, vector)) = &finished.apart else {
            return together(self);
        };
        let is_whole = finished.whole.iter().map(|&(found, wanted)| {
            let (found, wanted) = (self.value(found), self.value(wanted));
            self.builder.ins().icmp(IntCC::Equal, found, wanted)
        });
        let is_whole: Vec<Value> = is_whole.collect();
        let is_whole = (is_whole.into_iter())
            .reduce(|all, next| self.builder.ins().band(all, next))
            .expect("a condition");
        self.emit_either(is_whole, together, |cx| {
            cx.emit_call(*tile, &[a, b, c]);
            cx.emit_rows(extent, rows, vector)
        })
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
