//! The CPU backend: nests to machine code.
//!
//! [`emit`] spells a nest in Cranelift's CLIF, on every target. On x86-64 the bodies of `Lanes` loops ([`lanes`] takes them apart,
//! [`wide`] assembles AVX2+FMA or AVX-512) and contraction tiles ([`tile`]) are machine code of our own, defined in the
//! same module: Cranelift has no vector wider than 128 bits. [`jit`] and [`object`] hold the module. All code is free of
//! absolute addresses.
//!
//! # The kernel's ABI
//! `extern "C" fn(buffers: *const *mut u8, call: *const Call, worker: u64, workers: u64)`: `buffers` has one address for each
//! buffer of the nest, in order (a worker's own copy of worker scratch); `call` is passed on to the barrier function. Every buffer is
//! aligned to 64 bytes except the caller's inputs and outputs, which have their element's alignment.

pub mod emit;
pub mod isa;
pub mod jit;
pub mod lanes;
#[cfg(test)]
mod machine;
pub mod object;
pub mod threads;
pub mod tile;
pub mod wide;
