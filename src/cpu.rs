//! The CPU backend: nests to machine code.
//!
//! [`emit`] spells a nest in Cranelift's CLIF, on every target. On x86-64 the bodies of `Lanes` loops ([`lanes`] takes them apart,
//! [`wide`] assembles AVX2+FMA or AVX-512) and contraction tiles ([`tile`], in pieces [`matrix`]) are machine code of our own, defined in the
//! same module: Cranelift has no vector wider than 128 bits. [`jit`] and [`object`] hold the module. All code is free of
//! absolute addresses.
//!
//! # The kernel's ABI
//! `extern "C" fn(buffers: *const *mut u8, call: *const Call, worker: u64, workers: u64)`: `buffers` has one address for each
//! buffer of the nest, in order (a worker's own copy of worker scratch); `call` is passed on to the barrier function. Every buffer is
//! aligned to 64 bytes except the caller's inputs and outputs, which have their element's alignment. A buffer that no element is read from
//! or written to may have any address.
//!
//! A nest with a barrier calls [`emit::BARRIER`], `extern "C" fn(call: *const Call, worker: u64, workers: u64)`, which whoever owns the
//! module defines.

use cranelift_module::ModuleError;

pub mod dispatch;
pub mod emit;
pub mod entry;
pub mod export;
pub mod isa;
pub mod jit;
pub mod lanes;
pub mod library;
mod loops;
#[cfg(all(test, target_arch = "x86_64"))]
mod machine;
pub mod mapped;
pub mod matrix;
pub mod memory;
pub mod object;
pub mod peak;
pub mod runner;
pub mod threads;
pub mod tile;
pub mod wide;

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--cpu` is not one we know.
    #[error("unknown cpu `{name}` for {architecture}; known: {known}")]
    UnknownCpu {
        /// What was asked for.
        name: String,
        /// Of which architecture.
        architecture: String,
        /// What could have been.
        known: String,
    },
    /// `--target` is not one we know.
    #[error("unknown target `{triple}`: {reason}")]
    UnknownTriple {
        /// What was asked for.
        triple: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The code would not run here.
    #[error("this machine cannot run code for {cpu}: it lacks {lacks}")]
    NotHost {
        /// What was asked for.
        cpu: String,
        /// What is missing.
        lacks: String,
    },
    /// There is no code for it.
    #[error("no code for {triple}: {reason}")]
    Unsupported {
        /// The target.
        triple: String,
        /// Why, where it is Cranelift's in its words.
        reason: String,
    },
    /// No room for states or intermediate values.
    #[error("{0}")]
    TooLittle(#[from] crate::memory::TooLittle),
    /// Fewer threads than asked for.
    #[error("starting thread {number} of {workers}: {reason}; ask for fewer threads")]
    Thread {
        /// Which.
        number: usize,
        /// How many there were to be.
        workers: usize,
        /// The system's words.
        reason: String,
    },
    /// No room for code.
    #[error("reserving {bytes} bytes of address space for code: {reason}")]
    Memory {
        /// Asked for.
        bytes: usize,
        /// The system's words.
        reason: String,
    },
    /// Cranelift would not compile a kernel.
    #[error("compiling kernel `{kernel}`: {source}")]
    Kernel {
        /// The nest's name.
        kernel: String,
        /// Why.
        source: Box<ModuleError>,
    },
    /// The module refused.
    #[error("linking code: {0}")]
    Module(Box<ModuleError>),
    /// A library could not be opened, or lacks what it should have.
    #[error("opening a library: {0}")]
    Library(String),
    /// A compiled entry refused to run.
    #[error("`{symbol}` did not run: {reason}")]
    Refused {
        /// The entry.
        symbol: String,
        /// What its status means.
        reason: String,
    },
    /// The object file could not be made.
    #[error("writing an object file: {0}")]
    ObjectFile(String),
}

impl Error {
    /// A refusal to compile a kernel.
    pub fn kernel(name: &str, source: ModuleError) -> Error {
        Error::Kernel {
            kernel: name.to_owned(),
            source: Box::new(source),
        }
    }

    /// A module's refusal.
    pub fn module(source: ModuleError) -> Error {
        Error::Module(Box::new(source))
    }
}
