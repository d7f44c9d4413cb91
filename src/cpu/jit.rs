//! Code in this process: a module whose functions can be called at once.

use std::ffi::c_void;

use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Module, default_libcall_names};
use netloom_ir::kernel::Nest;

use super::Error;
use super::emit::Emitter;
use super::isa::{Cpu, Effort, Place};

/// A kernel's entry point; see [`super`] for what it expects.
pub type KernelFn = unsafe extern "C" fn(buffers: *const *mut u8, call: *const c_void, worker: u64, workers: u64);

/// Address space reserved for code: aarch64's calls reach 128 MiB. Untouched pages cost nothing.
const RESERVED_BYTES: usize = 120 << 20;

/// A module in this process. Dropping it frees the code.
pub struct Jit {
    /// `None` only while it is dropped.
    module: Option<JITModule>,
    emitter: Emitter,
}

impl Jit {
    /// An empty module, if this machine can run code for that CPU.
    pub fn new(cpu: &Cpu) -> Result<Jit, Error> {
        cpu.check_host()?;
        let mut builder = JITBuilder::with_isa(cpu.isa(Effort::Speed, Place::Jit)?, default_libcall_names());
        // Only an x86-64 without FMA calls these.
        builder.symbol("fmaf", fmaf as *const u8);
        builder.symbol("fma", fma as *const u8);
        // Windows commits what it reserves, so there the pages are taken one by one.
        if cfg!(unix) {
            let arena =
                cranelift_jit::ArenaMemoryProvider::new_with_size(RESERVED_BYTES).map_err(|reason| Error::Memory {
                    bytes: RESERVED_BYTES,
                    reason: reason.to_string(),
                })?;
            builder.memory_provider(Box::new(arena));
        }
        Ok(Jit {
            module: Some(JITModule::new(builder)),
            emitter: Emitter::new(cpu, Place::Jit)?,
        })
    }

    /// Defines kernels.
    pub fn emit(&mut self, nests: &[Nest]) -> Result<Vec<FuncId>, Error> {
        let (module, emitter) = self.parts();
        emitter.emit(module, nests)
    }

    /// The module and what emits into it, for functions around the kernels.
    pub fn parts(&mut self) -> (&mut dyn Module, &mut Emitter) {
        let module = self.module.as_mut().expect("the module lives until drop");
        (module, &mut self.emitter)
    }

    /// Makes everything defined so far callable. More may be defined afterwards.
    pub fn finish(&mut self) -> Result<(), Error> {
        let module = self.module.as_mut().expect("the module lives until drop");
        module.finalize_definitions().map_err(Error::module)
    }

    /// The address of a function defined and finished; it is valid as long as `self`.
    ///
    /// # Panics
    /// If [`Jit::finish`] has not run since it was defined.
    pub fn address(&self, function: FuncId) -> *const u8 {
        let module = self.module.as_ref().expect("the module lives until drop");
        module.get_finalized_function(function)
    }
}

impl Drop for Jit {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: whoever calls an address guarantees that `self` outlives the call, as `address` demands.
            unsafe { module.free_memory() };
        }
    }
}

extern "C" fn fmaf(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

extern "C" fn fma(a: f64, b: f64, c: f64) -> f64 {
    a.mul_add(b, c)
}
