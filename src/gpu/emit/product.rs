//! The shader of matrix products, told what to multiply.
//!
//! `shaders/product.comp` is GLSL; its SPIR-V is checked in. Here its specialization constants get their values, and its variables the
//! bindings and push constants of the nest, so that it is a module like those that are generated.

use std::ops::Range;

use netloom_ir::kernel::Product;
use rspirv::dr::{self, Instruction, Module, Operand};
use rspirv::spirv::{Decoration, Op, StorageClass, Word};

use super::super::device::Traits;
use super::super::spirv::{self, Kind};
use super::{Phase, Views};

const SHADER: &[u8] = include_bytes!("../../../shaders/product.spv");
/// The columns of a tile, and the invocations that compute it.
const COLUMNS: usize = 32;
const GROUP: u32 = 8;

/// The phase that is a product.
pub fn emit(product: &Product, bindings: &[Range<u32>], views: &[Views], traits: &Traits) -> Phase {
    let Product {
        batch,
        rows,
        columns,
        depth,
        tile_rows,
        ref a,
        ref b,
        ref c,
    } = *product;
    let mut module = dr::load_bytes(SHADER).expect("the shader is checked in whole");
    // In the order of their numbers in the shader.
    let constants = [
        rows, columns, depth, tile_rows, a.batch, a.first, a.second, b.batch, b.first, b.second, c.batch, c.first,
        c.second, batch,
    ];
    let quads = |side: usize| views[side].four.expect("operands of products have such views");
    let new_bindings = [
        quads(a.buffer.at()),
        quads(b.buffer.at()),
        bindings[c.buffer.at()].start,
    ];
    let base = bases(&module);
    let mut specialized = Vec::new();
    for annotation in &mut module.annotations {
        match &mut annotation.operands[..] {
            [
                Operand::IdRef(id),
                Operand::Decoration(Decoration::SpecId),
                Operand::LiteralBit32(number),
            ] => {
                specialized.push((*id, constants[*number as usize]));
            }
            [
                _,
                Operand::Decoration(Decoration::Binding),
                Operand::LiteralBit32(binding),
            ] => {
                *binding = new_bindings[*binding as usize];
            }
            [
                Operand::IdRef(id),
                Operand::LiteralBit32(member),
                Operand::Decoration(Decoration::Offset),
                Operand::LiteralBit32(offset),
            ] if *id == base => *offset = 4 * [a, b, c][*member as usize].buffer.0,
            _ => {}
        }
    }
    for (id, value) in specialized {
        let constant = module
            .types_global_values
            .iter_mut()
            .find(|global| global.result_id == Some(id));
        let constant = constant.expect("what is decorated is there");
        constant.operands = vec![Operand::LiteralBit32(
            u32::try_from(value).expect("strides within a binding"),
        )];
    }
    let modes = super::modes(traits.floats(Kind::F32)).map(|(mode, capability)| (mode, capability, 32));
    spirv::demand(&mut module, &modes.collect::<Vec<_>>());
    let tiles = batch * rows.div_ceil(tile_rows) * columns.div_ceil(COLUMNS);
    Phase {
        module,
        invocations: tiles as u64 * u64::from(GROUP),
        group: GROUP,
        touched: vec![(a.buffer.at(), false), (b.buffer.at(), false), (c.buffer.at(), true)],
    }
}

/// The type of the push constants.
fn bases(module: &Module) -> Word {
    let is_pushed = |global: &&Instruction| {
        global.class.opcode == Op::TypePointer
            && matches!(global.operands[0], Operand::StorageClass(StorageClass::PushConstant))
    };
    let pointers = module.types_global_values.iter().filter(is_pushed);
    let mut structures = pointers.filter_map(|pointer| match pointer.operands[1] {
        Operand::IdRef(id) if is_structure(module, id) => Some(id),
        _ => None,
    });
    structures.next().expect("the shader has push constants")
}

fn is_structure(module: &Module, id: Word) -> bool {
    let mut globals = module.types_global_values.iter();
    globals.any(|global| global.result_id == Some(id) && global.class.opcode == Op::TypeStruct)
}
