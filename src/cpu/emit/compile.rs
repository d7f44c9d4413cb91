//! From CLIF to machine code, several functions at once.

use std::sync::mpsc::{self, TrySendError};
use std::sync::{Mutex, PoisonError};

use cranelift::codegen::Context;
use cranelift::codegen::isa::TargetIsa;
use cranelift_module::{FuncId, Module, ModuleError, ModuleReloc};

use super::Error;
use crate::cores;

/// A function that is declared, spelled or assembled, or machine code.
pub struct Draft<T> {
    pub name: String,
    pub id: FuncId,
    /// What there is of it so far.
    pub code: T,
}

/// What machine code is made from.
pub enum Source {
    /// A function in Cranelift's language.
    Spelled(Box<Context>),
    /// What assembles it.
    Assembled(Box<dyn FnOnce() -> Vec<u8> + Send>),
}

/// Machine code with what is to be filled in.
pub struct Compiled {
    alignment: u64,
    pub code: Vec<u8>,
    relocations: Vec<ModuleReloc>,
}

/// Where assembled functions start: a line of the instruction cache.
const LINE: u64 = 64;

/// So many functions that are spelled wait at most: they take more memory than code.
const MOST_WAITING: usize = 32;

/// Compiles and assembles functions, by as many threads as there are cores, or so many: the others begin as this one spells, and it helps when there is nothing more to
/// spell, or too much is waiting. Gives them in their order.
pub fn compile_all(
    drafts: impl Iterator<Item = Result<Draft<Source>, Error>>,
    most_threads: usize,
    isa: &dyn TargetIsa,
) -> Result<Vec<Draft<Compiled>>, Error> {
    let compiled = |Draft { name, id, code }: Draft<Source>| {
        let code = match code {
            Source::Spelled(mut context) => compile(id, &mut context, isa),
            Source::Assembled(assemble) => Ok(Compiled {
                alignment: LINE,
                code: assemble(),
                relocations: Vec::new(),
            }),
        };
        match code {
            Ok(code) => Ok(Draft { name, id, code }),
            Err(source) => Err(Error::kernel(&name, source)),
        }
    };
    let (sender, waiting) = mpsc::sync_channel(MOST_WAITING);
    let waiting = Mutex::new(waiting);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    let work = || {
        let mut done = Vec::new();
        while let Some((number, draft)) = next() {
            done.push((number, compiled(draft)));
        }
        done
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..cores::count().min(most_threads))
            .map(|_| scope.spawn(work))
            .collect();
        let mut done = Vec::new();
        for (number, draft) in drafts.enumerate() {
            match draft.map(|draft| sender.try_send((number, draft))) {
                Err(wrong) => done.push((number, Err(wrong))),
                Ok(Err(TrySendError::Full((_, draft)) | TrySendError::Disconnected((_, draft)))) => {
                    done.push((number, compiled(draft)));
                }
                Ok(Ok(())) => {}
            }
        }
        drop(sender);
        done.extend(work());
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
