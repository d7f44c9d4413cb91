//! netloom: a compiler and runtime for neural networks.
//!
//! | stage | function | in → out |
//! |---|---|---|
//! | read | [`ir::text::parse`], [`nn`] builders | text / Rust → `Graph` |
//! | differentiate | [`ir::autodiff::grad`] | graph, loss, wrt → graph |
//! | improve | [`ir::passes::run`] | `Graph` → `Graph` |
//! | cut | [`ir::fuse::regions`] | `&Graph` → `Vec<Region>` |
//! | loops | [`ir::kernel::build`] | region → `Kernel` |
//! | decide | [`schedule::choose`] | kernel, `&Target` → `Nest` |
//! | emit | [`cpu::emit`], [`gpu::emit`] | `&Nest` → machine code, SPIR-V |
//! | link | [`plan`] | codes → `Executable` |
//! | run | [`session::Session::run`] | tensors → tensors |

pub mod ahead;
pub mod buffers;
pub mod check;
pub mod compile;
mod cores;
pub mod cpu;
pub mod device;
pub mod dump;
pub mod eager;
pub mod error;
pub mod formats;
#[cfg(feature = "vulkan")]
pub mod gpu;
pub mod hoist;
pub mod layout;
pub mod memory;
pub mod nn;
pub mod page;
pub mod place;
pub mod plan;
pub mod profile;
pub mod roofline;
pub mod schedule;
pub mod session;
pub mod train;
pub mod tune;
pub mod weights;

pub use compile::{Executable, compile};
pub use cpu::isa::Cpu;
pub use device::Device;
pub use error::Error;
pub use netloom_ir as ir;
pub use session::Session;
