//! What each ONNX operator is in terms of our builder: one row an operator, by family.
//!
//! A row holds for every version of its operator from opset 7 on; where versions differ, it asks [`Cx::opset`], or which attributes and
//! operands are there.

mod classic;
mod control;
mod elementwise;
mod index;
mod linear;
mod loss;
mod normalise;
mod quantise;
mod recurrent;
mod reduce;
mod resample;
mod shape;
mod signal;
mod tokens;
mod training;
mod trees;
mod window;

use super::node::{Cx, Done};

/// An operator: its name in ONNX, and what it builds.
pub struct Row(pub &'static str, pub Import);

/// Builds what a node is in terms of our ops.
pub type Import = for<'a, 'g> fn(&Cx<'a, 'g>) -> Done<'g>;

/// ONNX's own operators, by family.
pub static TABLE: &[&[Row]] = &[
    elementwise::TABLE,
    reduce::TABLE,
    shape::TABLE,
    index::TABLE,
    linear::TABLE,
    window::TABLE,
    normalise::TABLE,
    loss::TABLE,
    quantise::TABLE,
    recurrent::TABLE,
    resample::TABLE,
    signal::TABLE,
    control::TABLE,
    tokens::TABLE,
];

/// The row of an operator.
pub(super) fn find(domain: &str, name: &str) -> Option<&'static Row> {
    let tables = match domain {
        "ai.onnx" => TABLE,
        "ai.onnx.ml" => classic::TABLES,
        "ai.onnx.preview.training" => training::TABLES,
        _ => &[],
    };
    tables.iter().copied().flatten().find(|row| row.0 == name)
}
