//! Neural networks: layers, losses and optimisers that build graph, and models that train.
//!
//! A [`Layer`] is a function from a value to a value that may ask its [`Scope`] for parameters, states and random numbers; so a
//! network is an ordinary Rust function, [`Sequential`] strings layers together, and nothing here knows about kernels. [`training`] turns
//! a network, a loss and an optimiser into a [`Program`](netloom_ir::Program) with the entries `train_step`, `evaluate` and `predict` over one
//! list of states; [`Model`](crate::train::Model) compiles and runs it, as Keras does.
//!
//! Reading order: [`scope`], [`init`], [`layers`], [`losses`], [`optimisers`], [`training`], [`mod@resident`], [`zoo`].

pub mod init;
pub mod layers;
pub mod losses;
pub mod optimisers;
pub mod resident;
pub mod scope;
pub mod training;
pub mod zoo;

pub use init::Initialiser;
pub use layers::{Function, Layer, Sequential};
pub use losses::Loss;
pub use optimisers::{Optimiser, Rate};
pub use resident::resident;
pub use scope::{Mode, Scope};
pub use training::{Training, program};
