//! Products of halves by cooperative matrices, of which a subgroup multiplies two at once.
//!
//! A workgroup is one subgroup and computes one matrix of the result, summed in `f32` in whatever order the device likes within a step of the depth.

use std::ops::Range;

use netloom_ir::kernel::{Matrix, Nest, Product};
use rspirv::spirv::{CooperativeMatrixLayout, CooperativeMatrixUse, Op, Scope, Word};

use super::Phase;
use crate::gpu::device::Traits;
use crate::gpu::spirv::{Kind, Writer};

/// The phase that is a product of halves.
pub fn emit(nest: &Nest, product: &Product, bindings: &[Range<u32>], traits: &Traits) -> Phase {
    let shape = traits
        .matrices
        .expect("schedules leave products to matrices where there are some");
    let [rows, columns, depth] = [shape.rows, shape.columns, shape.depth].map(|extent| extent as u32);
    let Product { a, b, c, .. } = product;
    let mut w = Writer::empty();
    w.declare_matrices();
    let push = w.push_constants(nest.buffers.len() as u32);
    let number = w.group_number();
    let [down, across, steps] = [
        product.rows as u32 / rows,
        product.columns[0] as u32 / columns,
        product.depth[0] as u32 / depth,
    ];
    let tiles = product.batch as u32 * down * across;
    let limit = w.u32(tiles);
    let is_tile = w.op(Op::ULessThan, Kind::Bool, &[number, limit]);
    let [then, end] = [w.id(), w.id()];
    w.merge(end);
    w.branch(is_tile, then, end);
    w.begin(then);

    let mut part = |number: Word, size: u32, among: u32| {
        let (size, among) = (w.u32(size), w.u32(among));
        let at = w.op(Op::UDiv, Kind::U32, &[number, size]);
        w.op(Op::UMod, Kind::U32, &[at, among])
    };
    let batch = part(number, down * across, product.batch as u32);
    let (row, column) = (part(number, across, down), part(number, 1, across));
    let mut tile = Tile {
        w: &mut w,
        bindings,
        push,
        batch,
    };
    let a_side = tile.side(a, Kind::F16, [rows, depth], CooperativeMatrixUse::MatrixAKHR);
    let b_side = tile.side(b, Kind::F16, [depth, columns], CooperativeMatrixUse::MatrixBKHR);
    let c_side = tile.side(
        c,
        Kind::F32,
        [rows, columns],
        CooperativeMatrixUse::MatrixAccumulatorKHR,
    );
    let (sum, zero) = (w.variable_of(c_side.ty), w.null(c_side.ty));
    w.store(sum, zero);
    let steps = w.u32(steps);
    let step = w.begin_loop(steps);
    let left = a_side.load(&mut w, [row, step.at]);
    let right = b_side.load(&mut w, [step.at, column]);
    let before = w.typed(Op::Load, c_side.ty, &[sum]);
    let after = w.typed(Op::CooperativeMatrixMulAddKHR, c_side.ty, &[left, right, before]);
    w.store(sum, after);
    w.end_loop(step);
    let sum = w.typed(Op::Load, c_side.ty, &[sum]);
    c_side.store(&mut w, [row, column], sum);
    w.jump(end);
    w.begin(end);
    Phase {
        module: w.finish(traits.subgroup, &[]),
        invocations: u64::from(tiles) * u64::from(traits.subgroup),
        group: traits.subgroup,
        touched: vec![(a.buffer.at(), false), (b.buffer.at(), false), (c.buffer.at(), true)],
    }
}

/// What the matrices of a tile have in common.
struct Tile<'a> {
    w: &'a mut Writer,
    bindings: &'a [Range<u32>],
    push: Word,
    batch: Word,
}

/// One operand of a tile, or its result.
struct Side {
    /// The type of its matrices.
    ty: Word,
    element: Kind,
    /// The variable of the tensor.
    tensor: Word,
    /// The index of the first matrix's first element.
    start: Word,
    /// From a matrix to the next, along each axis.
    strides: [u32; 2],
    /// How its elements lie, and from a line of them to the next.
    layout: Word,
    line: Word,
}

impl Tile<'_> {
    fn side(&mut self, matrix: &Matrix, element: Kind, extents: [u32; 2], used: CooperativeMatrixUse) -> Side {
        let w = &mut *self.w;
        let [first, second] = [matrix.place.first[0], matrix.place.second[0]].map(|stride| stride as u32);
        let (layout, line) = match second {
            1 => (CooperativeMatrixLayout::RowMajorKHR, first),
            _ => (CooperativeMatrixLayout::ColumnMajorKHR, second),
        };
        let scope = Scope::Subgroup as u32;
        let [scope, rows, columns, used, layout, line] =
            [scope, extents[0], extents[1], used as u32, layout as u32, line].map(|value| w.u32(value));
        let kind = w.kind(element);
        let ty = w.composite(Op::TypeCooperativeMatrixKHR, &[kind, scope, rows, columns, used]);
        let is_written = element == Kind::F32;
        let tensor = w.storage(self.bindings[matrix.buffer.at()].start, element, is_written);
        let base = w.push_constant(self.push, matrix.buffer.0);
        let [begin, stride] = [matrix.place.start, matrix.place.batch].map(|place| w.u32(place as u32));
        let of_batch = w.op(Op::IMul, Kind::U32, &[self.batch, stride]);
        let start = w.op(Op::IAdd, Kind::U32, &[base, begin]);
        Side {
            ty,
            element,
            tensor,
            start: w.op(Op::IAdd, Kind::U32, &[start, of_batch]),
            strides: [first * extents[0], second * extents[1]],
            layout,
            line,
        }
    }
}

impl Side {
    /// Where a matrix begins.
    fn address(&self, w: &mut Writer, numbers: [Word; 2]) -> Word {
        let mut at = self.start;
        for (number, stride) in numbers.into_iter().zip(self.strides) {
            let stride = w.u32(stride);
            let further = w.op(Op::IMul, Kind::U32, &[number, stride]);
            at = w.op(Op::IAdd, Kind::U32, &[at, further]);
        }
        w.element(self.tensor, self.element, at)
    }

    fn load(&self, w: &mut Writer, numbers: [Word; 2]) -> Word {
        let address = self.address(w, numbers);
        w.typed(
            Op::CooperativeMatrixLoadKHR,
            self.ty,
            &[address, self.layout, self.line],
        )
    }

    fn store(&self, w: &mut Writer, numbers: [Word; 2], matrix: Word) {
        let address = self.address(w, numbers);
        w.effect(
            Op::CooperativeMatrixStoreKHR,
            &[address, matrix, self.layout, self.line],
        );
    }
}
