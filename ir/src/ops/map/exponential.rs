//! The exponential rows of the elementwise table.

use super::MapDef;

/// The rows.
pub static TABLE: &[&MapDef] = &[];
