//! Plans to text.
//!
//! ```text
//! plan predict {
//!   arena 69120 bytes, 4096 for each worker
//!   argument0 x: f32[1,32,64]
//!   result0 scores: f32[1,10]
//!   state w: f32[64,512] at 0
//!   constant f32[2] [1.0,2.0] at 64
//!   k0_einsum(states+0:131072, argument0+0:8192, arena+0:65536, worker+0:4096) of %6 %7
//!   copy arena+67584:512 -> arena+68096:512
//!   barrier
//!   repeat 32 {
//!     k1_add(arena+68096:512, arena+0:2048 by [2048], arena+65536:2048) of %2
//!     barrier
//!   }
//! }
//! ```
//!
//! A place is `base + offset : length`, in bytes, and `by` how many it moves on with each iteration of the repeats around it, outermost first. Kernels
//! are named as the nests of the entry's regions are, with the nodes of the region; the rest of the language is in `text::parse::plan`.

use std::fmt::{self, Formatter};

use super::{Base, Given, Place, Port, Step};
use crate::text::{Name, print_tensor};

/// The plan of an entry of that name, as text.
pub(crate) struct Named<'a>(pub &'a str, pub &'a Given);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Named(name, plan) = self;
        writeln!(f, "plan {} {{", Name(name))?;
        let (shared, worker) = (plan.shared_bytes, plan.worker_bytes);
        writeln!(f, "  arena {shared} bytes, {worker} for each worker")?;
        for (kind, ports) in [("argument", &plan.inputs), ("result", &plan.outputs)] {
            for (number, Port { name, ty }) in ports.iter().enumerate() {
                writeln!(f, "  {kind}{number} {}: {ty}", Name(name))?;
            }
        }
        for (Port { name, ty }, offset) in &plan.states {
            writeln!(f, "  state {}: {ty} at {offset}", Name(name))?;
        }
        for (tensor, offset) in &plan.constants {
            f.write_str("  constant ")?;
            print_tensor(f, tensor)?;
            writeln!(f, " at {offset}")?;
        }
        steps(f, plan, &plan.steps, 1)?;
        writeln!(f, "}}")
    }
}

fn steps(f: &mut Formatter<'_>, plan: &Given, list: &[Step], depth: usize) -> fmt::Result {
    let margin = "  ".repeat(depth);
    for step in list {
        f.write_str(&margin)?;
        match step {
            Step::Kernel { kernel, buffers, nodes } => {
                write!(f, "{}(", Name(&plan.kernels[kernel.0]))?;
                for (at, place) in buffers.iter().enumerate() {
                    write!(f, "{}{place}", if at == 0 { "" } else { ", " })?;
                }
                f.write_str(") of")?;
                nodes.iter().try_for_each(|id| write!(f, " {id}"))?;
            }
            Step::Copy { from, to } => write!(f, "copy {from} -> {to}")?,
            Step::Count { to, from_end: None } => write!(f, "count -> {to}")?,
            Step::Count {
                to,
                from_end: Some(times),
            } => write!(f, "count -> {to} from_end {times}")?,
            Step::Barrier => f.write_str("barrier")?,
            Step::Repeat { times, body } => {
                writeln!(f, "repeat {times} {{")?;
                steps(f, plan, body, depth + 1)?;
                write!(f, "{margin}}}")?;
            }
            Step::Branch {
                condition,
                then,
                otherwise,
            } => {
                writeln!(f, "if {condition} {{")?;
                steps(f, plan, then, depth + 1)?;
                writeln!(f, "{margin}}} else {{")?;
                steps(f, plan, otherwise, depth + 1)?;
                write!(f, "{margin}}}")?;
            }
            Step::While { condition, go_on, body } => {
                writeln!(f, "while {{")?;
                steps(f, plan, condition, depth + 1)?;
                writeln!(f, "{margin}}} {go_on} {{")?;
                steps(f, plan, body, depth + 1)?;
                write!(f, "{margin}}}")?;
            }
        }
        f.write_str("\n")?;
    }
    Ok(())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.base {
            Base::Input(number) => write!(f, "argument{number}")?,
            Base::Output(number) => write!(f, "result{number}")?,
            Base::States => f.write_str("states")?,
            Base::Constants => f.write_str("constants")?,
            Base::Arena => f.write_str("arena")?,
            Base::Worker => f.write_str("worker")?,
            Base::Temp(temp) => write!(f, "temp{}", temp.0)?,
        }
        write!(f, "+{}:{}", self.offset, self.bytes)?;
        if self.strides.is_empty() {
            return Ok(());
        }
        let strides: Vec<String> = self.strides.iter().map(isize::to_string).collect();
        write!(f, " by [{}]", strides.join(","))
    }
}
