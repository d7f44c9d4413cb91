//! From CLIF to machine code, several functions at once.

use std::sync::{Mutex, PoisonError};

use cranelift::codegen::Context;
use cranelift::codegen::isa::TargetIsa;
use cranelift_module::{FuncId, Module, ModuleError, ModuleReloc};

use super::Error;

/// A function that is declared, spelled or compiled.
pub struct Draft<T> {
    pub name: String,
    pub id: FuncId,
    /// What there is of it so far.
    pub code: T,
}

/// Machine code with what is to be filled in.
pub struct Compiled {
    alignment: u64,
    pub code: Vec<u8>,
    relocations: Vec<ModuleReloc>,
}

/// Compiles functions, in order, by as many threads as there are cores.
pub fn compile_all(drafts: Vec<Draft<Context>>, isa: &dyn TargetIsa) -> Result<Vec<Draft<Compiled>>, Error> {
    let count = drafts.len();
    let waiting = Mutex::new(drafts.into_iter().enumerate());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = Vec::new();
        while let Some((number, mut draft)) = next() {
            let compiled = compile(draft.id, &mut draft.code, isa);
            let Draft { name, id, .. } = draft;
            let compiled = compiled.map_err(|source| Error::kernel(&name, source));
            done.push((number, compiled.map(|code| Draft { name, id, code })));
        }
        done
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..cores.min(count)).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, compiled)| compiled).collect()
}

/// Compiles one function.
pub fn compile(function: FuncId, context: &mut Context, isa: &dyn TargetIsa) -> Result<Compiled, ModuleError> {
    let compiled = context.compile(isa, &mut Default::default())?;
    let alignment = u64::from(compiled.buffer.alignment);
    let code = compiled.code_buffer().to_vec();
    let relocations: Vec<_> = compiled.buffer.relocs().to_vec();
    let relocations = relocations
        .iter()
        .map(|relocation| ModuleReloc::from_mach_reloc(relocation, &context.func, function))
        .collect();
    Ok(Compiled {
        alignment,
        code,
        relocations,
    })
}

/// Defines a compiled function in a module.
pub fn define(module: &mut dyn Module, function: FuncId, compiled: &Compiled) -> Result<(), ModuleError> {
    let Compiled {
        alignment,
        code,
        relocations,
    } = compiled;
    module.define_function_bytes(function, *alignment, code, relocations)
}
