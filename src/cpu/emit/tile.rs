//! The contraction tile in 128-bit CLIF: the form for every target, and the check of the assembled one.
//!
//! The tile is cut into blocks of at most eight vectors of C. Each block runs the whole sum with its vectors in registers. Compiled in program
//! order: the mid-end would sink the multiplications behind all loads and spill.

use cranelift::codegen::Context;
use cranelift::codegen::ir::BlockArg;
use cranelift::prelude::types::I64;
use cranelift::prelude::{
    FunctionBuilder, FunctionBuilderContext, InstBuilder, IntCC, MemFlagsData, Signature, Type, Value,
};
use cranelift_module::ModuleError;
use netloom_ir::DType;
use target_lexicon::Architecture;

use super::compile::{self, Compiled};
use super::prim::{clif_type, emit_const};
use crate::cpu::isa::{Cpu, Effort, Place};
use crate::cpu::tile::Tile;

/// Rows and vectors of a block: 8 accumulators and 2 vectors of B leave room for the element of A in 16 registers.
const BLOCK: (usize, usize) = (4, 2);

/// Compiles `fn(a, b, c)` for a tile.
pub fn compile(tile: &Tile, signature: Signature, cpu: &Cpu, home: Place) -> Result<Compiled, ModuleError> {
    // The module's own flags were accepted when it was made, and these differ in effort alone.
    let isa = cpu
        .isa(Effort::Order, home)
        .expect("the module has a description like this");
    let mut context = Context::new();
    context.func.signature = signature;
    let mut functions = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut context.func, &mut functions);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);
    let &[a, b, c] = builder.block_params(entry) else {
        unreachable!("a tile has three parameters")
    };
    let vector = vector_type(tile.dtype, cpu);
    for row in (0..tile.rows).step_by(BLOCK.0) {
        let mut column = 0;
        while column < tile.columns {
            let width = vector.lane_count() as usize;
            let block = Block {
                tile,
                vector,
                row,
                rows: BLOCK.0.min(tile.rows - row),
                vectors: BLOCK.1.min((tile.columns - column) / width),
            };
            let size = tile.dtype.size_bytes();
            let b = offset(&mut builder, b, column * size);
            let c = offset(&mut builder, c, (row * tile.c_across + column) * size);
            block.emit(&mut builder, a, b, c);
            column += block.vectors * width;
        }
    }
    builder.ins().return_(&[]);
    builder.finalize(isa.frontend_config());
    compile::compile(&mut context, &*isa)
}

/// 128 bits of a type; a single element where Cranelift would need an extension we do not ask for.
pub fn vector_type(dtype: DType, cpu: &Cpu) -> Type {
    let element = clif_type(dtype);
    match cpu.triple.architecture {
        Architecture::Riscv64(_) => element,
        _ => element.by(128 / element.bits()).expect("128 bits is a vector"),
    }
}

fn offset(builder: &mut FunctionBuilder, address: Value, bytes: usize) -> Value {
    if bytes == 0 {
        return address;
    }
    let bytes = builder.ins().iconst(I64, bytes as i64);
    builder.ins().iadd(address, bytes)
}

/// A few rows and vectors of C.
struct Block<'t> {
    tile: &'t Tile,
    vector: Type,
    /// The first row.
    row: usize,
    rows: usize,
    vectors: usize,
}

impl Block<'_> {
    fn emit(&self, builder: &mut FunctionBuilder, a: Value, b: Value, c: Value) {
        let mut sums: Vec<Value> = Vec::new();
        for row in 0..self.rows {
            for vector in 0..self.vectors {
                sums.push(if self.tile.accumulate {
                    builder.ins().load(self.vector, memory(), c, self.c_offset(row, vector))
                } else {
                    let zero = emit_const(builder, self.tile.dtype, 0);
                    self.splat(builder, zero)
                });
            }
        }
        let sums = self.emit_sum(builder, 0, a, b, sums);
        for (at, sum) in sums.into_iter().enumerate() {
            let offset = self.c_offset(at / self.vectors, at % self.vectors);
            builder.ins().store(memory(), sum, c, offset);
        }
    }

    /// The loops of the sum from `depth` inwards.
    fn emit_sum(
        &self,
        builder: &mut FunctionBuilder,
        depth: usize,
        a: Value,
        b: Value,
        sums: Vec<Value>,
    ) -> Vec<Value> {
        let Some(&extent) = self.tile.k.get(depth) else {
            return self.emit_products(builder, a, b, sums);
        };
        match extent {
            0 => return sums,
            1 => return self.emit_sum(builder, depth + 1, a, b, sums),
            _ => {}
        }
        let block = builder.create_block();
        let exit = builder.create_block();
        let first = builder.ins().iconst(I64, extent as i64);
        let arguments: Vec<BlockArg> = [first, a, b].into_iter().chain(sums).map(BlockArg::Value).collect();
        builder.ins().jump(block, &arguments);
        for _ in 0..3 {
            builder.append_block_param(block, I64);
        }
        for _ in 0..self.rows * self.vectors {
            builder.append_block_param(block, self.vector);
        }
        builder.switch_to_block(block);
        let parameters = builder.block_params(block).to_vec();
        let (left, a, b) = (parameters[0], parameters[1], parameters[2]);
        let sums = self.emit_sum(builder, depth + 1, a, b, parameters[3..].to_vec());
        let size = self.tile.dtype.size_bytes();
        let a = offset(builder, a, self.tile.a_along[depth] * size);
        let b = offset(builder, b, self.tile.b_along[depth] * size);
        let one = builder.ins().iconst(I64, 1);
        let left = builder.ins().isub(left, one);
        let zero = builder.ins().iconst(I64, 0);
        let more = builder.ins().icmp(IntCC::NotEqual, left, zero);
        let arguments: Vec<BlockArg> = [left, a, b]
            .into_iter()
            .chain(sums.iter().copied())
            .map(BlockArg::Value)
            .collect();
        builder.ins().brif(more, block, &arguments, exit, &[]);
        builder.seal_block(block);
        builder.switch_to_block(exit);
        builder.seal_block(exit);
        sums
    }

    /// One term of the sum for each element.
    fn emit_products(&self, builder: &mut FunctionBuilder, a: Value, b: Value, mut sums: Vec<Value>) -> Vec<Value> {
        let bytes = self.vector.bytes() as usize;
        let size = self.tile.dtype.size_bytes();
        let columns: Vec<Value> = (0..self.vectors)
            .map(|vector| builder.ins().load(self.vector, memory(), b, (vector * bytes) as i32))
            .collect();
        for row in 0..self.rows {
            let at = (self.tile.a_rows[self.row + row] * size) as i32;
            let element = builder.ins().load(clif_type(self.tile.dtype), memory(), a, at);
            let element = self.splat(builder, element);
            for (vector, &column) in columns.iter().enumerate() {
                let sum = &mut sums[row * self.vectors + vector];
                *sum = builder.ins().fma(element, column, *sum);
            }
        }
        sums
    }

    fn c_offset(&self, row: usize, vector: usize) -> i32 {
        let size = self.tile.dtype.size_bytes();
        (row * self.tile.c_across * size + vector * self.vector.bytes() as usize) as i32
    }

    fn splat(&self, builder: &mut FunctionBuilder, element: Value) -> Value {
        if self.vector.is_vector() {
            builder.ins().splat(self.vector, element)
        } else {
            element
        }
    }
}

fn memory() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}
