//! Data that live where the program runs: a step is told which examples make its batch, instead of being given them.

use netloom_ir::builder::{Builder, Val};
use netloom_ir::program::{Entry, Init, Program, State};
use netloom_ir::{DType, Op, Type};

use crate::error::Error;

/// The argument that says which examples: `i64`, one for each of the batch.
pub const POSITIONS: &str = "positions";
/// The argument that says how pictures are moved on their way: `i64` `[batch, 3]`, so many rows down and columns to the right, what moves in is
/// 0; before that they are mirrored left to right if the last is 1.
pub const MOVES: &str = "moves";

/// A set of examples from which an argument is gathered.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    /// The argument.
    pub argument: &'a str,
    /// How many examples there are.
    pub examples: usize,
    /// Whether they are pictures `[channels, height, width]` that are moved as [`MOVES`] says.
    pub is_moved: bool,
}

/// The state in which the examples of an argument lie.
pub fn set_name(argument: &str) -> String {
    format!("data.{argument}")
}

/// The program in which some arguments of an entry are gathered from whole sets of examples at [`POSITIONS`]. The set of an argument is the state
/// [`set_name`], which is filled once, by [`crate::Session::set_rows`]; a run is given the positions alone.
///
/// # Errors
/// If there is no such entry or argument, or the arguments do not have as many examples.
pub fn resident(program: &Program, entry: &str, sets: &[Set<'_>]) -> Result<Program, Error> {
    let unknown = |what: String| Error::Unknown(format!("there is no {what}"));
    let mut program = program.clone();
    let found = program.entries.iter().position(|known| known.name == entry);
    let found = found.ok_or_else(|| unknown(format!("entry `{entry}`")))?;
    let graph = program.entries[found].graph.clone();

    let b = Builder::new();
    let mut positions: Option<Val<'_>> = None;
    let mut gathered: Vec<(&str, Val<'_>)> = Vec::new();
    for set in sets {
        let name = set.argument;
        let argument = graph.input(name).filter(|_| program.state(name).is_none());
        let argument = argument.ok_or_else(|| unknown(format!("argument `{name}` of `{entry}`")))?;
        let ty = graph.ty(argument);
        let [batch, example @ ..] = ty.shape.as_slice() else {
            return Err(Error::Usage(format!(
                "`{entry}` takes `{name}`: {ty}, which is no batch"
            )));
        };
        if set.is_moved && ty.rank() != 4 {
            return Err(Error::Usage(format!("only pictures can be moved, not {ty}")));
        }
        let positions = *positions.get_or_insert_with(|| b.input(POSITIONS, DType::I64, [*batch]));
        if positions.shape() != [*batch] {
            return Err(Error::Usage(format!(
                "`{name}` of `{entry}` has {batch} examples, another argument {:?}",
                positions.shape()
            )));
        }
        let shape: Vec<usize> = [&[set.examples], example].concat();
        let state = State {
            name: set_name(name),
            ty: Type::new(ty.dtype, shape.clone()),
            init: Init::Data,
        };
        let whole = b.input(&state.name, ty.dtype, shape);
        let rows = match set.is_moved {
            true => moved(whole, positions, b.input(MOVES, DType::I64, [*batch, 3])),
            false => whole.gather(positions, 0),
        };
        gathered.push((name, rows));
        // Several entries read one set.
        if program.state(&state.name).is_none() {
            program.states.push(state);
        }
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

/// The pictures at these positions, moved: each pixel is looked up where it comes from.
fn moved<'g>(pictures: Val<'g>, positions: Val<'g>, moves: Val<'g>) -> Val<'g> {
    let b = pictures.builder();
    let &[count, channels, height, width] = pictures.shape().as_slice() else {
        unreachable!("pictures have four axes")
    };
    let batch = positions.shape()[0];
    let shape = [batch, channels, height, width];
    let of_each = |value: Val<'g>| value.reshape([batch, 1, 1, 1]).broadcast(shape);
    let [down, right, mirrored] = [0, 1, 2].map(|at| of_each(moves.slice(1, at, at + 1)));
    let along = |axis: usize| b.iota(DType::I64, shape, axis);
    let (row, column) = (along(2) - down, along(3) - right);
    let inside = |at: Val<'g>, extent: usize| at.ge(0.0) & at.lt(extent as f64);
    let is_inside = inside(row, height) & inside(column, width);
    let column = mirrored.ne(0.0).select(column.lit((width - 1) as f64) - column, column);
    let line = (of_each(positions) * channels as f64 + along(1)) * height as f64 + row;
    let place = is_inside.select(line * width as f64 + column, -1.0);
    let pixels = pictures.reshape([count * channels * height * width]);
    pixels.gather_or_zero(place, 0)
}

#[cfg(test)]
mod tests {
    use netloom_ir::text::parse_program;
    use netloom_ir::{Tensor, sample};

    use super::*;
    use crate::train::{Augmentation, Dataset};
    use crate::{Cpu, Session, compile};

    /// An entry that gives its argument back, as program whose argument is gathered from so many examples.
    fn gathering(ty: &Type, examples: usize, is_moved: bool) -> Result<Program, Error> {
        let b = Builder::new();
        let x = b.input("x", ty.dtype, ty.shape.clone());
        let program = Program::pure("run", b.finish([("y", x + 0.0)])?);
        let set = Set {
            argument: "x",
            examples,
            is_moved,
        };
        resident(&program, "run", &[set])
    }

    #[test]
    fn batches_are_those_that_the_host_puts_together() {
        let augment = Augmentation {
            flip: true,
            ..Augmentation::shift(2, 11)
        };
        for (example, is_moved) in [(&[7][..], false), (&[2, 3, 5], false), (&[2, 3, 5], true)] {
            let ty = |count: usize| Type::new(DType::F32, [&[count], example].concat());
            let program = gathering(&ty(6), 20, is_moved).unwrap();
            assert_eq!(parse_program("again", &program.to_string()).as_ref(), Ok(&program));
            let mut session = Session::new(compile(&program, Cpu::native()).unwrap().into(), 1, 0).unwrap();
            // Fewer than there is room for.
            let all = sample::tensor(&ty(17), &mut 3);
            session.set_rows(&set_name("x"), &all).unwrap();
            assert_eq!(session.states(), []);
            for step in 0..5 {
                let positions = [16, 0, 3 + step as usize, 3, 9, 9];
                let data = Dataset::new(all.clone(), all.clone()).unwrap();
                let mut expected = data.select(&positions).inputs;
                let moves = augment.moves(step, positions.len());
                if is_moved {
                    augment.apply(step, &mut expected);
                }
                let positions = Tensor::from_i64([6], &positions.map(|at| at as i64));
                let arguments = [(POSITIONS, &positions), (MOVES, &moves)];
                let arguments = if is_moved { &arguments[..] } else { &arguments[..1] };
                let found = session.call("run", arguments).unwrap();
                assert_eq!(found, [("y".to_owned(), expected)], "{example:?}, step {step}");
            }
        }
    }

    #[test]
    fn what_is_no_batch_is_named() {
        let says = |problem: Result<Program, Error>, wanted: &str| {
            let message = problem.unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        };
        says(
            gathering(&Type::new(DType::F32, []), 3, false),
            "f32[], which is no batch",
        );
        says(
            gathering(&Type::new(DType::F32, [3, 4]), 3, true),
            "only pictures can be moved, not f32[3,4]",
        );
        let program = gathering(&Type::new(DType::F32, [3, 4]), 9, false).unwrap();
        says(resident(&program, "walk", &[]), "no entry `walk`");
        let mut session = Session::new(compile(&program, Cpu::native()).unwrap().into(), 1, 0).unwrap();
        let says = |problem: Result<(), Error>, wanted: &str| {
            let message = problem.unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        };
        for shape in [[10, 4], [9, 3]] {
            says(
                session.set_rows("data.x", &Tensor::zeros(DType::F32, shape)),
                "which does not begin with",
            );
        }
    }
}
