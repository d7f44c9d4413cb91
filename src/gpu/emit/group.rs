//! Workgroups: invocations that take the iterations of `Item` loops, memory that they share, and accumulations of all of them.
//!
//! Values meet in that memory, where each is written by its invocation, and one barrier further on they combine pairwise, as [`netloom_ir::kernel::nest`]
//! says: `i` with `i + n/2`, then `+ n/4`, to `+ 1`. Where a subgroup's invocations can hand each other values, each of `s` reads those at
//! its number and every `s` further on, combines them in its registers, and the last steps are shuffles. All subgroups do the same, so none waits for
//! another. Otherwise eight invocations combine so many, and after one more barrier all combine the eight. Both ways have the same tree.

use netloom_ir::DType;
use netloom_ir::kernel::{AxisId, Bind, BufferId, Combine, LocalId, Nest, Stmt};
use rspirv::spirv::{BuiltIn, Capability, Op, Scope, Word};

use super::prim::register;
use super::{Cx, Declared};
use crate::gpu::spirv::{Kind, Writer};
use crate::hoist::Writes;

/// So few values every invocation combines by itself.
const FEW: u32 = 8;

/// The invocations of a workgroup.
pub struct Items {
    /// How many along each dimension.
    extents: [u32; 3],
    /// The invocation's number, and along each dimension.
    number: Word,
    at: [Word; 3],
    /// The number of the workgroup.
    group: Word,
    /// The dimensions whose loops are around us; none outside a `Group` loop.
    open: Option<[bool; 3]>,
    /// Whether what is here may run again within its `Group` loop.
    is_again: bool,
}

/// How many invocations the `Item` loops within statements have along each dimension; 1 where there is no loop.
pub fn extents(nest: &Nest, body: &[Stmt]) -> [u32; 3] {
    let mut extents = [1; 3];
    let mut open: Vec<&Stmt> = body.iter().collect();
    while let Some(stmt) = open.pop() {
        match stmt {
            Stmt::Loop { axis, bind, body, .. } => {
                if let Bind::Item(dimension) = *bind {
                    extents[usize::from(dimension)] = nest.axes[axis.at()].extent as u32;
                }
                open.extend(body);
            }
            Stmt::If { then, otherwise, .. } => open.extend(then.iter().chain(otherwise)),
            _ => {}
        }
    }
    extents
}

fn has_group(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::Loop { bind, body, .. } => *bind == Bind::Group || body.iter().any(has_group),
        Stmt::If { then, otherwise, .. } => then.iter().chain(otherwise).any(has_group),
        _ => false,
    }
}

impl Items {
    /// Those of a phase, if it has workgroups.
    pub fn of(nest: &Nest, body: &[Stmt], w: &mut Writer) -> Option<Items> {
        if !body.iter().any(has_group) {
            return None;
        }
        let extents = extents(nest, body);
        let number = w.input(BuiltIn::LocalInvocationId, 0);
        let mut rest = number;
        let at = extents.map(|extent| {
            let extent = w.u32(extent);
            let at = w.op(Op::UMod, Kind::U32, &[rest, extent]);
            rest = w.op(Op::UDiv, Kind::U32, &[rest, extent]);
            at
        });
        Some(Items {
            extents,
            number,
            at,
            group: w.group_number(),
            open: None,
            is_again: false,
        })
    }

    /// How many make a workgroup.
    pub fn size(&self) -> u32 {
        self.extents.iter().product()
    }
}

/// An accumulation of all iterations of an `Item` loop.
struct Sum {
    local: LocalId,
    with: Combine,
    dtype: DType,
    value: Word,
}

impl Cx<'_> {
    fn items(&mut self) -> &mut Items {
        self.items.as_mut().expect("a phase with `Group` loops")
    }

    /// The array of a buffer that a workgroup shares.
    pub(super) fn declare_shared(&mut self, buffer: BufferId) {
        let ty = self.nest.buffers[buffer.at()].ty.clone();
        let array = self.group_array(register(ty.dtype, self.traits), ty.count().max(1) as u32);
        self.buffers[buffer.at()] = Some(Declared {
            shared: Some(array),
            texels: None,
            fours: None,
            windows: Vec::new(),
            base: self.w.u32(0),
        });
    }

    fn group_array(&mut self, kind: Kind, count: u32) -> Word {
        let bytes = match kind {
            Kind::U64 | Kind::F64 => 8,
            _ => 4,
        };
        self.shared_bytes += bytes * u64::from(count);
        self.w.group_array(kind, count)
    }

    /// The address of an element of a buffer that a workgroup shares, if it does.
    pub(super) fn shared_element(&mut self, buffer: BufferId, index: Word) -> Option<Word> {
        let array = self.declared(buffer).shared?;
        let kind = register(self.nest.buffers[buffer.at()].ty.dtype, self.traits);
        Some(self.w.group_element(array, kind, index))
    }

    /// Whether this is the one invocation that writes what several would; nothing if each writes its own.
    pub(super) fn is_first(&mut self) -> Option<Word> {
        let Items { extents, at, open, .. } = self.items.as_ref()?;
        let (open, extents, at) = ((*open)?, *extents, *at);
        let mut is_first = None;
        for dimension in (0..3).filter(|&dimension| !open[dimension] && extents[dimension] > 1) {
            let zero = self.w.u32(0);
            let is_here = self.w.op(Op::IEqual, Kind::Bool, &[at[dimension], zero]);
            is_first = Some(match is_first {
                Some(others) => self.w.op(Op::LogicalAnd, Kind::Bool, &[others, is_here]),
                None => is_here,
            });
        }
        is_first
    }

    pub(super) fn emit_barrier(&mut self) {
        self.w.group_barrier();
        self.forget(&Writes {
            barrier: true,
            ..Writes::default()
        });
    }

    /// Notes that what follows may run several times; gives what was known of that.
    pub(super) fn enter_again(&mut self) -> bool {
        let items = self.items.as_mut();
        items.is_some_and(|items| std::mem::replace(&mut items.is_again, true))
    }

    pub(super) fn leave_again(&mut self, again: bool) {
        if let Some(items) = &mut self.items {
            items.is_again = again;
        }
    }

    /// A workgroup for each iteration.
    pub(super) fn emit_group(&mut self, axis: AxisId, body: &[Stmt]) {
        let group = self.items().group;
        let count = self.w.u32(self.nest.axes[axis.at()].extent as u32);
        let has_one = self.w.op(Op::ULessThan, Kind::Bool, &[group, count]);
        self.emit_choice(
            has_one,
            |cx| {
                cx.items().open = Some([false; 3]);
                cx.emit_iteration(axis, group, |cx| cx.emit_body(body));
                cx.items().open = None;
            },
            |_| {},
        );
    }

    /// An invocation for each iteration.
    pub(super) fn emit_item(&mut self, axis: AxisId, dimension: u8, body: &[Stmt], writes: &Writes) {
        self.hoist(body, writes, true);
        let dimension = usize::from(dimension);
        let at = self.items().at[dimension];
        let outside = self.items().open;
        let mut open = outside.expect("an `Item` loop stands in a `Group` loop");
        open[dimension] = true;
        self.items().open = Some(open);
        let mut sums = Vec::new();
        self.emit_iteration(axis, at, |cx| {
            let is_sum = |stmt: &Stmt| matches!(stmt, Stmt::Accumulate { .. });
            for part in body.chunk_by(|a, b| is_sum(a) == is_sum(b)) {
                for stmt in part {
                    if let Stmt::Accumulate { local, with, value } = *stmt {
                        let dtype = cx.nest.locals[local.at()].dtype;
                        let value = cx.full(value);
                        sums.push(Sum {
                            local,
                            with,
                            dtype,
                            value,
                        });
                    }
                }
                if !is_sum(&part[0]) {
                    cx.emit_body(part);
                }
            }
            cx.emit_sums(dimension, &sums);
        });
        self.items().open = outside;
    }

    /// What all invocations along a dimension have, combined, for each of them.
    fn emit_sums(&mut self, dimension: usize, sums: &[Sum]) {
        if sums.is_empty() {
            return;
        }
        let Items {
            extents,
            number,
            is_again,
            ..
        } = *self.items();
        let size: u32 = extents.iter().product();
        if is_again {
            // The last time's values have been read.
            self.w.group_barrier();
        }
        let mut arrays = Vec::new();
        for sum in sums {
            let kind = register(sum.dtype, self.traits);
            let array = self.group_array(kind, size);
            let address = self.w.group_element(array, kind, number);
            self.w.store(address, sum.value);
            arrays.push(array);
        }
        self.w.group_barrier();
        let (count, subgroup) = (extents[dimension], self.traits.subgroup);
        let are_shuffled = |sum: &Sum| matches!(register(sum.dtype, self.traits), Kind::U32 | Kind::F32);
        let may_shuffle = self.traits.shuffles
            && count == size
            && count > FEW
            && subgroup > 1
            && count.is_multiple_of(subgroup)
            && sums.iter().all(are_shuffled);
        let results: Vec<Word> = (sums.iter())
            .map(|sum| self.w.local(register(sum.dtype, self.traits)))
            .collect();
        let all: Vec<(&Sum, Word, Word)> = (sums.iter().zip(arrays).zip(results))
            .map(|((sum, array), result)| (sum, array, result))
            .collect();
        if may_shuffle {
            // Vulkan lets a device fill subgroups in part; then no number of an invocation stands for all.
            self.w.capability(Capability::GroupNonUniform);
            let [found, groups] =
                [BuiltIn::SubgroupSize, BuiltIn::NumSubgroups].map(|input| self.w.scalar_input(input));
            let [wanted, whole] = [subgroup, size / subgroup].map(|value| self.w.u32(value));
            let is_size = self.w.op(Op::IEqual, Kind::Bool, &[found, wanted]);
            let is_whole = self.w.op(Op::IEqual, Kind::Bool, &[groups, whole]);
            let are_full = self.w.op(Op::LogicalAnd, Kind::Bool, &[is_size, is_whole]);
            self.emit_choice(
                are_full,
                |cx| cx.emit_shuffled(count, &all),
                |cx| cx.emit_through_memory(dimension, &all),
            );
        } else {
            self.emit_through_memory(dimension, &all);
        }
        for (sum, _, result) in all {
            let combined = self.w.load(register(sum.dtype, self.traits), result);
            let address = self.local(sum.local);
            self.combine_at(address, sum.with, sum.dtype, combined);
        }
    }

    /// Values at `first` and every `step` further on, pairwise.
    fn emit_pairwise(&mut self, sum: &Sum, array: Word, first: Word, step: u32, count: u32) -> Word {
        let kind = register(sum.dtype, self.traits);
        let mut values: Vec<Word> = (0..count)
            .map(|number| {
                let further = self.w.u32(number * step);
                let at = self.w.op(Op::IAdd, Kind::U32, &[first, further]);
                let address = self.w.group_element(array, kind, at);
                self.w.load(kind, address)
            })
            .collect();
        while values.len() > 1 {
            let upper = values.split_off(values.len() / 2);
            for (value, other) in values.iter_mut().zip(upper) {
                *value = self.prims().emit_combine(sum.with, sum.dtype, *value, other);
            }
        }
        values[0]
    }

    /// The last steps within each subgroup.
    fn emit_shuffled(&mut self, count: u32, all: &[(&Sum, Word, Word)]) {
        self.w.capability(Capability::GroupNonUniformShuffle);
        let subgroup = self.traits.subgroup;
        let lane = self.w.scalar_input(BuiltIn::SubgroupLocalInvocationId);
        let scope = self.w.u32(Scope::Subgroup as u32);
        for &(sum, array, result) in all {
            let kind = register(sum.dtype, self.traits);
            let mut value = self.emit_pairwise(sum, array, lane, subgroup, count / subgroup);
            let mut half = subgroup / 2;
            while half > 0 {
                // Right for the first `half`; nobody asks the others.
                let by = self.w.u32(half);
                let other = self.w.op(Op::GroupNonUniformShuffleXor, kind, &[scope, value, by]);
                value = self.prims().emit_combine(sum.with, sum.dtype, value, other);
                half /= 2;
            }
            let first = self.w.u32(0);
            let value = self.w.op(Op::GroupNonUniformShuffle, kind, &[scope, value, first]);
            self.w.store(result, value);
        }
    }

    /// All steps through the memory that the workgroup shares.
    fn emit_through_memory(&mut self, dimension: usize, all: &[(&Sum, Word, Word)]) {
        let Items {
            extents, number, at, ..
        } = *self.items();
        let step: u32 = extents[..dimension].iter().product();
        let count = extents[dimension];
        let by = self.w.u32(step);
        let own = self.w.op(Op::IMul, Kind::U32, &[at[dimension], by]);
        let first = self.w.op(Op::ISub, Kind::U32, &[number, own]);
        if count > FEW {
            let few = self.w.u32(FEW);
            let is_one = self.w.op(Op::ULessThan, Kind::Bool, &[at[dimension], few]);
            self.emit_choice(
                is_one,
                |cx| {
                    for &(sum, array, _) in all {
                        let value = cx.emit_pairwise(sum, array, number, FEW * step, count / FEW);
                        let address = cx.w.group_element(array, register(sum.dtype, cx.traits), number);
                        cx.w.store(address, value);
                    }
                },
                |_| {},
            );
            self.w.group_barrier();
        }
        for &(sum, array, result) in all {
            let value = self.emit_pairwise(sum, array, first, step, count.min(FEW));
            self.w.store(result, value);
        }
    }
}
