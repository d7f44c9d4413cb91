//! Shared libraries compiled ahead of time, in this process.

use std::ffi::{CStr, CString, c_void};
use std::path::Path;

use super::Error;
use super::export::{ExportCall, ExportFn, Status, Task};
use super::memory::Block;
use super::threads::{Pool, yield_to_others};
use netloom_ir::Tensor;

/// An open library.
pub struct Library {
    handle: *mut c_void,
}

// SAFETY: a handle may be used by any thread.
unsafe impl Send for Library {}

impl Library {
    /// Opens a library that [`crate::ahead`] wrote; its code becomes part of this process.
    #[cfg(unix)]
    pub fn open(path: &Path) -> Result<Library, Error> {
        use std::os::unix::ffi::OsStrExt;
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|reason| Error::Library(reason.to_string()))?;
        // SAFETY: the name ends in a zero; the library has no code that runs when it is opened.
        let handle = unsafe { nix::libc::dlopen(name.as_ptr(), nix::libc::RTLD_NOW | nix::libc::RTLD_LOCAL) };
        if handle.is_null() {
            Err(last_error())
        } else {
            Ok(Library { handle })
        }
    }

    /// Opens a library.
    #[cfg(not(unix))]
    pub fn open(path: &Path) -> Result<Library, Error> {
        Err(Error::Library(format!(
            "{}: artefacts are run on Unix alone; link it with a C program",
            path.display()
        )))
    }

    /// An exported entry.
    #[cfg(unix)]
    fn entry(&self, symbol: &str) -> Result<ExportFn, Error> {
        let name = CString::new(symbol).map_err(|reason| Error::Library(reason.to_string()))?;
        // SAFETY: the handle is open and the name ends in a zero.
        let address = unsafe { nix::libc::dlsym(self.handle, name.as_ptr()) };
        if address.is_null() {
            return Err(last_error());
        }
        // SAFETY: whoever wrote the library with this manifest emitted the symbol as `emit_export` does.
        Ok(unsafe { std::mem::transmute::<*mut c_void, ExportFn>(address) })
    }

    #[cfg(not(unix))]
    fn entry(&self, symbol: &str) -> Result<ExportFn, Error> {
        Err(Error::Library(symbol.to_owned()))
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: opened once in `open`, closed only here; nothing of the library is used afterwards.
        #[cfg(unix)]
        unsafe {
            nix::libc::dlclose(self.handle);
        }
    }
}

/// What the system says about the last failure.
#[cfg(unix)]
fn last_error() -> Error {
    // SAFETY: `dlerror` gives null or a text that lives until the next call of this thread.
    let text = unsafe {
        let text = nix::libc::dlerror();
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    };
    Error::Library(text.unwrap_or_else(|| "the system does not say why".to_owned()))
}

/// The memory and threads that a library's entries are called with.
pub struct Caller {
    library: Library,
    /// The block of states; empty if they are within the library.
    pub states: Block,
    arena: Block,
    pool: Pool,
}

impl Caller {
    /// An arena of that size, and so many workers.
    pub fn new(library: Library, states: Block, arena_bytes: usize, workers: usize) -> Result<Caller, Error> {
        Ok(Caller {
            library,
            states,
            arena: Block::zeroed(arena_bytes)?,
            pool: Pool::new(workers)?,
        })
    }

    /// Calls an entry. The tensors are of the types, and the blocks of the sizes, that the manifest gives for it.
    pub fn call(&mut self, symbol: &str, batch: u64, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<(), Error> {
        let entry = self.library.entry(symbol)?;
        let inputs: Vec<*const u8> = inputs.iter().map(|input| input.bytes().as_ptr()).collect();
        let outputs: Vec<*mut u8> = (outputs.iter_mut())
            .map(|output| output.bytes_mut().as_mut_ptr())
            .collect();
        let call = ExportCall {
            inputs: inputs.as_ptr(),
            outputs: outputs.as_ptr(),
            states: match self.states.bytes().is_empty() {
                true => std::ptr::null_mut(),
                false => self.states.address(),
            },
            arena: self.arena.address(),
            batch,
            workers: self.pool.workers() as u64,
            parallel: Some(run_on_pool),
            context: (&raw mut self.pool).cast(),
            wait: Some(yield_to_others),
        };
        // SAFETY: as this function's text demands of its caller; the pool outlives the call and nobody else uses it meanwhile.
        let status = unsafe { entry(&call) };
        let reason = match Status::from_code(status) {
            Some(Status::Ok) => return Ok(()),
            Some(Status::Cpu) => "this CPU lacks instructions that it was compiled for".to_owned(),
            Some(Status::Block) => "its memory is missing or not aligned".to_owned(),
            Some(Status::Batch) => format!("it has no code for batches of {batch}"),
            None => format!("it gave the unknown status {status}"),
        };
        Err(Error::Refused {
            symbol: symbol.to_owned(),
            reason,
        })
    }
}

/// The callback that runs a task on the workers of a [`Pool`].
unsafe extern "C" fn run_on_pool(context: *mut c_void, task: Task, argument: *const c_void, workers: u64) {
    /// What all workers are given.
    struct Argument(*const c_void);
    // SAFETY: workers only read it; what it points to they share as the plan's barriers allow.
    unsafe impl Sync for Argument {}
    impl Argument {
        fn address(&self) -> *const c_void {
            self.0
        }
    }
    // SAFETY: `Caller::call` passes its pool, which it borrows mutably.
    let pool = unsafe { &mut *context.cast::<Pool>() };
    let argument = Argument(argument);
    // SAFETY: the entry hands over a task of this type, for as many workers as the pool has.
    pool.run(&|worker| unsafe { task(argument.address(), worker as u64, workers) });
}
