//! The text form of graphs and programs: printing and parsing it, drawings for Graphviz, and JSON.
//!
//! ```text
//! graph(x: f32[8,64], w: f32[64,16], b: f32[16]) {
//!   %3: f32[8,16] = einsum "mk,kn->mn" x, w
//!   %4: f32[8,16] = broadcast [8,16] b
//!   %5: f32[8,16] = add %3, %4
//!   %8: f32[8,16] = max %5, 0.0
//!   return y = %8
//! }
//! ```
//!
//! A statement is `label: types = op attribute operands name=attribute …`: at most one attribute without a name, before the
//! operands; those with names after them, bodies among them. The types are checked and may be left out. A label is any number; the
//! printer writes the node's id. A number among the operands is a constant: `0.5` an `f32`, `7` an `i64`, `true` a `bool`, others with
//! their type (`0.5:f64`, `7:u64`), and bits as `0x7fc00001:f32`; an elementwise op repeats it to its shape. Larger constants are `const
//! f32[2] [1.0,2.0]`, or one string of little-endian hexadecimal bytes, or `stored "name"`, whose elements lie beside the text ([`stored()`]).
//! The inputs declared before any other node are the graph's head; a later one is a line `w: f32[64,16] = input`. An output without a name is
//! called by its position. `#` starts a comment. A name that is no plain word stands between backticks.
//!
//! Before `return`, a graph may say how it is cut: `region results = nodes`, and for each region what its elements are, `kernel {..}`, or its loops
//! with every decision made, `nest name {..}`, as [`Kernel`](crate::kernel::Kernel) and [`Nest`](crate::kernel::Nest) print themselves.
//!
//! A program is a list of `state name: type = constant or graph` and `entry name = graph(..) {..}`.
//!
//! `parse(print(g)) == g`, node for node, bit for bit. Printing is `Display`, of [`Graph`](crate::Graph) and
//! [`Program`](crate::Program).

mod dot;
mod json;
mod lex;
mod parse;
mod print;
mod stored;

pub use dot::dot;
pub use json::{VERSION, from_json, to_json};
pub use parse::{parse, parse_program, parse_program_with};
pub(crate) use print::{Name, literal_text};
pub use print::{op_summary, summary};
pub use stored::{reference, stored};

use crate::dtype::DType;

/// The most elements of a constant that are written as numbers; more are written as one string of hexadecimal bytes, or stored beside the text.
const MAX_NUMBERS: usize = 64;

/// Words that a name between backticks only may use.
fn is_reserved(word: &str) -> bool {
    let words = ["graph", "return", "inf", "nan", "true", "false"];
    words.contains(&word) || DType::from_name(word).is_some()
}
