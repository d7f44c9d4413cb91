//! Data that live where the program runs: a step is told which examples make its batch, instead of being given them.

use std::sync::Arc;

use netloom_ir::builder::{Builder, Val};
use netloom_ir::program::{Entry, Init, Program, State};
use netloom_ir::{DType, Op, Tensor};

use crate::error::Error;

/// The argument that says which examples: `i64`, one for each of the batch.
pub const POSITIONS: &str = "positions";

/// The program in which some arguments of an entry are gathered from whole sets of examples at [`POSITIONS`]. The set of an argument `x`
/// is a state `data.x`, uploaded once; a run uploads the positions alone.
///
/// # Errors
/// If there is no such entry or argument, or a set holds no examples like the argument's.
pub fn resident(program: &Program, entry: &str, sets: &[(&str, Tensor)]) -> Result<Program, Error> {
    let unknown = |what: String| Error::Unknown(format!("there is no {what}"));
    let mut program = program.clone();
    let found = program.entries.iter().position(|known| known.name == entry);
    let found = found.ok_or_else(|| unknown(format!("entry `{entry}`")))?;
    let graph = program.entries[found].graph.clone();

    let b = Builder::new();
    let mut positions: Option<Val<'_>> = None;
    let mut gathered: Vec<(&str, Val<'_>)> = Vec::new();
    for (name, set) in sets {
        let argument = graph.input(name).filter(|_| program.state(name).is_none());
        let argument = argument.ok_or_else(|| unknown(format!("argument `{name}` of `{entry}`")))?;
        let ty = graph.ty(argument);
        let batch = ty.shape.first().copied().unwrap_or(0);
        if set.dtype() != ty.dtype || ty.rank() == 0 || set.shape().get(1..) != ty.shape.get(1..) {
            return Err(Error::Usage(format!(
                "`{entry}` takes `{name}`: {ty}, which no examples of {} make",
                set.ty()
            )));
        }
        let positions = *positions.get_or_insert_with(|| b.input(POSITIONS, DType::I64, [batch]));
        if positions.shape() != [batch] {
            return Err(Error::Usage(format!(
                "`{name}` of `{entry}` has {batch} examples, another argument {:?}",
                positions.shape()
            )));
        }
        let state = format!("data.{name}");
        let whole = b.input(&state, set.dtype(), set.shape());
        gathered.push((name, whole.gather(positions, 0)));
        program.states.push(State {
            name: state,
            ty: set.ty(),
            init: Init::Tensor(Arc::new(set.clone())),
        });
    }
    let arguments: Vec<Val<'_>> = (graph.inputs().iter())
        .map(|&id| {
            let Op::Input(input) = &graph.node(id).op else {
                unreachable!("`inputs` lists inputs")
            };
            match gathered.iter().find(|(name, _)| *name == input.name) {
                Some((_, rows)) => *rows,
                None => b.input(&input.name, input.ty.dtype, input.ty.shape.clone()),
            }
        })
        .collect();
    let results = b.inline(&graph, &arguments);
    let names = graph.outputs.iter().map(|(name, _)| name.clone());
    program.entries[found] = Entry {
        name: entry.to_owned(),
        graph: b.finish(names.zip(results))?,
    };
    Ok(program)
}
