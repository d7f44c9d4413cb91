//! Functions over the builder: what can be written with the ops of the other files, and so is no op.

pub mod draws;
pub mod elementwise;
pub mod parts;
pub mod rows;
pub mod shapes;
