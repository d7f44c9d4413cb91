//! The shader of matrix products, told what to multiply.
//!
//! `shaders/product.comp` is GLSL; its SPIR-V is checked in. Here its specialization constants get their values, and its variables the
//! bindings and push constants of the nest, so that it is a module like those that are generated.

use std::ops::Range;

use netloom_ir::kernel::{Along, Limit, Matrix, Product, Strides};
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
    let mut module = dr::load_bytes(SHADER).expect("the shader is checked in whole");
    let constants = constants(product);
    let Product { a, b, c, .. } = product;
    let view = |side: &Matrix| {
        let views = views[side.buffer.at()];
        let view = if side.fours.is_some() { views.four } else { views.one };
        view.expect("operands of products have such views")
    };
    let new_bindings = [view(a), view(b), bindings[c.buffer.at()].start];
    let base = bases(&module);
    let mut specialized = Vec::new();
    for annotation in &mut module.annotations {
        match &mut annotation.operands[..] {
            [
                Operand::IdRef(id),
                Operand::Decoration(Decoration::SpecId),
                Operand::LiteralBit32(number),
            ] => specialized.push((*id, constants[*number as usize])),
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
        constant.operands = vec![Operand::LiteralBit32(value)];
    }
    let modes = super::modes(traits.floats(Kind::F32)).map(|(mode, capability)| (mode, capability, 32));
    spirv::demand(&mut module, &modes.collect::<Vec<_>>());
    let columns: usize = product.columns.iter().product();
    let tiles = product.batch * product.rows.div_ceil(product.tile_rows) * columns.div_ceil(COLUMNS);
    Phase {
        module,
        invocations: tiles as u64 * u64::from(GROUP),
        group: GROUP,
        touched: vec![(a.buffer.at(), false), (b.buffer.at(), false), (c.buffer.at(), true)],
    }
}

/// The specialization constants, in the order of their numbers in the shader. Places are sums that wrap.
fn constants(product: &Product) -> Vec<u32> {
    let count = |extent: usize| u32::try_from(extent).expect("extents within a binding");
    let wrapped = |stride: i64| stride as u32;
    // Of fewer axes than the shader has the outermost have one value.
    let three = |values: &[u32], missing: u32| {
        let mut all = vec![missing; 3 - values.len()];
        all.extend(values);
        all
    };
    let extents = |extents: &[usize]| three(&extents.iter().map(|&extent| count(extent)).collect::<Vec<_>>(), 1);
    let strides = |strides: &[i64]| three(&strides.iter().map(|&stride| wrapped(stride)).collect::<Vec<_>>(), 0);
    let start = |place: &Strides| [place.start, place.batch].map(wrapped);
    let read = |side: &Matrix| match side.fours {
        None => 0,
        Some(Along::First) => 1,
        Some(Along::Second) => 2,
    };
    let Product { a, b, c, .. } = product;
    let mut all = vec![count(product.batch), count(product.rows)];
    all.extend(extents(&product.columns));
    all.extend(extents(&product.depth));
    all.extend([count(product.tile_rows), read(a), read(b)]);
    all.extend(start(&a.place));
    all.push(wrapped(a.place.first[0]));
    all.extend(strides(&a.place.second));
    all.extend(start(&b.place));
    all.extend(strides(&b.place.first));
    all.extend(strides(&b.place.second));
    all.extend(start(&c.place));
    all.push(wrapped(c.place.first[0]));
    all.extend(strides(&c.place.second));
    all.push(product.limits.len() as u32);
    for number in 0..2 {
        let none = Limit {
            extent: 1,
            stride: 0,
            place: Strides::default(),
        };
        let limit = product.limits.get(number).unwrap_or(&none);
        all.push(count(limit.extent));
        all.extend(start(&limit.place));
        all.extend(strides(&limit.place.first));
        all.extend(strides(&limit.place.second));
    }
    all
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
