//! netloom's language: what is computed, without how or where.
//!
//! A model is a [`Graph`]: typed nodes in order, operands before users. [`autodiff`] adds the gradient as more graph,
//! [`passes`] improve it, [`fuse`] cuts it into regions, and [`kernel`] turns each region into loops: first a [`kernel::Kernel`], the
//! algorithm, then a [`kernel::Nest`], every decision made. The crate `netloom` makes those decisions and emits code. This crate has no
//! I/O, no threads, no `unsafe` and no backend.
//!
//! Three meanings must agree, and the tests compare them: [`oracle`] runs a graph (exact scalars, obvious loops),
//! [`kernel::interp`] runs a nest, a device runs code.
//!
//! # Words
//! *node* an operation in a graph · *region* nodes that share a kernel · *kernel* a region as loops without order · *nest* a
//! kernel with every decision made · *axis* a dimension of a tensor, or a loop variable · *index* a place along the axes · *extent* a size along an
//! axis · *state* a value that lives between runs · *entry* one way to run a program · *seed* the gradient that enters a
//! node's rule · *lane* one of 16 virtual vector elements · *worker* a thread of a run · *tile* the block of a contraction held in
//! registers.
//!
//! # Reading order
//! [`dtype`], [`layout`], [`tensor`], [`error`], [`graph`], [`ops`], [`builder`], [`text`], [`verify`], [`program`], [`oracle`],
//! [`autodiff`], [`watch`], [`cost`], [`prepare`], [`passes`], [`fuse`], [`kernel`], [`plan`], [`decisions`], [`target`].
#![deny(unsafe_code)]

// Tests within the crate share what measures graphs with those outside.
#[cfg(test)]
extern crate self as netloom_ir;

pub mod autodiff;
pub mod builder;
pub mod cost;
pub mod decisions;
pub mod diff;
pub mod dtype;
pub mod error;
pub mod fuse;
pub mod graph;
pub mod kernel;
pub mod layout;
pub mod ops;
pub mod oracle;
pub mod passes;
pub mod pieces;
pub mod plan;
pub mod prepare;
pub mod program;
#[doc(hidden)]
pub mod sample;
pub mod target;
pub mod tensor;
pub mod text;
pub mod verify;
pub mod watch;
pub mod winograd;

pub use builder::{Builder, Val};
pub use dtype::{DType, Scalar};
pub use error::{Loc, Problem, Problems};
pub use graph::{Graph, Node, NodeId};
pub use ops::Op;
pub use program::{Entry, Init, Program, State};
pub use target::Target;
pub use tensor::{Tensor, Type};
