//! From CLIF to machine code.

use cranelift::codegen::Context;
use cranelift::codegen::ir::{ExtFuncData, ExternalName, FuncRef, Function, UserExternalName};
use cranelift::codegen::isa::TargetIsa;
use cranelift::prelude::Signature;
use cranelift_module::{FuncId, Module, ModuleError, ModuleReloc, ModuleRelocTarget};

/// Machine code with what is to be filled in.
pub struct Compiled {
    alignment: u64,
    pub code: Vec<u8>,
    relocations: Vec<ModuleReloc>,
}

/// Where assembled functions start: a line of the instruction cache.
const LINE: u64 = 64;

impl Compiled {
    /// Code that calls nothing.
    pub fn assembled(code: Vec<u8>) -> Compiled {
        Compiled {
            alignment: LINE,
            code,
            relocations: Vec::new(),
        }
    }
}

/// Declares to a function of no module yet what it calls, by its number in a list; whether both will be in one module.
pub fn import(function: &mut Function, number: u32, signature: Signature, colocated: bool) -> FuncRef {
    let signature = function.import_signature(signature);
    let name = function.declare_imported_user_function(UserExternalName::new(0, number));
    function.import_function(ExtFuncData {
        name: ExternalName::user(name),
        signature,
        colocated,
        patchable: false,
    })
}

/// Compiles one function, of no module yet: what it calls are numbers in a list.
pub fn compile(context: &mut Context, isa: &dyn TargetIsa) -> Result<Compiled, ModuleError> {
    let compiled = context.compile(isa, &mut Default::default())?;
    let alignment = u64::from(compiled.buffer.alignment);
    let code = compiled.code_buffer().to_vec();
    let relocations: Vec<_> = compiled.buffer.relocs().to_vec();
    // Whoever defines the function says which it is.
    let itself = FuncId::from_u32(0);
    let relocations = relocations
        .iter()
        .map(|relocation| ModuleReloc::from_mach_reloc(relocation, &context.func, itself))
        .collect();
    Ok(Compiled {
        alignment,
        code,
        relocations,
    })
}

/// Defines a compiled function in a module, where what it calls are these.
pub fn define(
    module: &mut dyn Module,
    function: FuncId,
    compiled: &mut Compiled,
    callees: &[Option<FuncId>],
) -> Result<(), ModuleError> {
    for relocation in &mut compiled.relocations {
        match &mut relocation.name {
            ModuleRelocTarget::User { index, .. } => {
                let callee = callees[*index as usize].expect("what is called has code");
                relocation.name = callee.into();
            }
            ModuleRelocTarget::FunctionOffset(itself, _) => *itself = function,
            ModuleRelocTarget::LibCall(_) | ModuleRelocTarget::KnownSymbol(_) => {}
        }
    }
    module.define_function_bytes(function, compiled.alignment, &compiled.code, &compiled.relocations)
}
