//! The elements that the states of a program start from, where they come from a file.
//!
//! They stay in the file until a session copies them where it wants them, one tensor after the other, so that a large model is in memory once.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netloom_ir::layout::{Digit, Layout};
use netloom_ir::{Init, Program, State, Tensor, Type};

use crate::error::Error;
use crate::formats::safetensors;
use crate::nn::scope::{KEY, STEP};
use crate::nn::zoo::{self, Net};
use crate::session::Session;

/// The elements of one state.
#[derive(Clone, Debug)]
pub struct Weight {
    tensor: Arc<Tensor>,
    /// Whether rows and columns are exchanged.
    is_transposed: bool,
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Weight {
        Arc::new(tensor).into()
    }
}

impl From<Arc<Tensor>> for Weight {
    fn from(tensor: Arc<Tensor>) -> Weight {
        Weight {
            tensor,
            is_transposed: false,
        }
    }
}

impl Weight {
    /// The elements of a matrix with rows and columns exchanged; other tensors as they are.
    pub fn transposed(tensor: Tensor) -> Weight {
        Weight {
            is_transposed: tensor.shape().len() == 2,
            tensor: Arc::new(tensor),
        }
    }

    /// The type.
    pub fn ty(&self) -> Type {
        let mut ty = self.tensor.ty();
        if self.is_transposed {
            ty.shape.reverse();
        }
        ty
    }

    /// Where they lie in memory, or would if they were read.
    pub fn address(&self) -> usize {
        self.tensor.bytes().as_ptr().addr()
    }

    /// The elements.
    pub fn tensor(&self) -> Arc<Tensor> {
        if !self.is_transposed {
            return Arc::clone(&self.tensor);
        }
        let mut tensor = Tensor::zeros(self.tensor.dtype(), self.ty().shape);
        self.transpose(tensor.bytes_mut());
        Arc::new(tensor)
    }

    /// Writes the elements where they lie in a tensor of this type.
    pub fn write(&self, ty: &Type, to: &mut [u8]) {
        match (self.is_transposed, &ty.layout) {
            (true, Layout::Dense) => self.transpose(to),
            (true, Layout::Digits(digits)) => {
                let exchanged = digits.iter().map(|digit| Digit {
                    axis: 1 - digit.axis,
                    ..*digit
                });
                self.arrange(Layout::Digits(exchanged.collect()), to);
            }
            (false, layout) => self.arrange(layout.clone(), to),
        }
    }

    /// Writes the elements as they are read, in a layout: block by block, if these are along the outermost axis and fill it, so that what has been read
    /// may go meanwhile.
    fn arrange(&self, layout: Layout, to: &mut [u8]) {
        let (from, ty) = (self.tensor.bytes(), self.tensor.ty());
        let blocks = match &layout {
            Layout::Digits(digits) => digits.split_first(),
            Layout::Dense => None,
        };
        let fills = |block: &Digit| block.axis == 0 && block.extent > 0 && block.step * block.extent == ty.shape[0];
        let Some((block, inner)) = blocks.filter(|(block, _)| fills(block)) else {
            return Type { layout, ..ty }.arrange(from, to);
        };
        let part = Type {
            shape: [&[block.step], &ty.shape[1..]].concat(),
            layout: Layout::Digits(inner.to_vec()),
            ..ty
        };
        let (read, written) = (from.len() / block.extent, to.len() / block.extent);
        let mut left = 0;
        for number in 0..block.extent {
            let to = &mut to[number * written..][..written];
            part.arrange(&from[number * read..][..read], to);
            self.leave(&mut left, (number + 1) * read);
        }
    }

    /// Writes the elements of a matrix, columns as rows.
    fn transpose(&self, to: &mut [u8]) {
        let from = self.tensor.bytes();
        let &[rows, columns] = self.tensor.shape() else {
            unreachable!("only matrices are transposed")
        };
        let size = self.tensor.dtype().size_bytes();
        let mut left = 0;
        // By squares, so that both sides stay in the first cache: VGG's first dense layer has 100 million elements.
        const SIDE: usize = 32;
        for row in (0..rows).step_by(SIDE) {
            for column in (0..columns).step_by(SIDE) {
                for r in row..rows.min(row + SIDE) {
                    for c in column..columns.min(column + SIDE) {
                        to[(c * rows + r) * size..][..size].copy_from_slice(&from[(r * columns + c) * size..][..size]);
                    }
                }
            }
            self.leave(&mut left, row * columns * size);
        }
    }

    /// Lets what has been read go, from where the rest was left up to here, if it is much.
    fn leave(&self, left: &mut usize, read: usize) {
        if read - *left >= MOST_READ_BYTES {
            self.tensor.leave(*left..read);
            *left = read;
        }
    }
}

/// So much of a tensor is in memory at most while it is written elsewhere, if it lies in a file.
const MOST_READ_BYTES: usize = 16 << 20;

/// Elements by the names of the states.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    by_name: HashMap<String, Weight>,
    /// Where they come from.
    path: PathBuf,
}

impl FromIterator<(String, Weight)> for Weights {
    fn from_iter<T: IntoIterator<Item = (String, Weight)>>(weights: T) -> Weights {
        Weights {
            by_name: weights.into_iter().collect(),
            path: PathBuf::new(),
        }
    }
}

impl Weights {
    /// The weights in a safetensors file: netloom's own, or for a network of the zoo under PyTorch's names.
    ///
    /// # Errors
    /// If the file cannot be read, or is not of that network.
    pub fn open(path: &Path, net: Option<&Net>) -> Result<Weights, Error> {
        let tensors = safetensors::load(path)?;
        let is_own = tensors.iter().any(|(name, _)| name == STEP);
        let weights = match net {
            Some(net) if !is_own => zoo::from_torch(net, tensors)?,
            _ => tensors
                .into_iter()
                .map(|(name, tensor)| (name, tensor.into()))
                .collect(),
        };
        Ok(Weights {
            path: path.to_owned(),
            ..weights
        })
    }

    /// Whether there are elements for a state of that name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The elements for a state of that name, taken out.
    pub fn take(&mut self, name: &str) -> Option<Weight> {
        self.by_name.remove(name)
    }

    /// Every name with its elements.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Weight)> {
        self.by_name.iter().map(|(name, weight)| (name.as_str(), weight))
    }

    /// The program whose states start from these elements, [`Program::given`] by [`Session::with_weights`]. Elements that other states start
    /// with join them.
    #[must_use]
    pub fn begin(&mut self, program: Program) -> Program {
        for State { name, init, .. } in &program.states {
            if let Init::Tensor(tensor) = init {
                let entry = self.by_name.entry(name.clone());
                entry.or_insert_with(|| Arc::clone(tensor).into());
            }
        }
        program.given(|state| self.has(&state.name))
    }

    /// Whether they are of this program: for each of its states elements of its type, and none for others.
    ///
    /// # Errors
    /// Everything that does not fit.
    pub fn check(&self, program: &Program) -> Result<(), Error> {
        // Networks are used with other optimisers than they were trained with, or none: moments, `PARAMETER.NAME`, may be too many or missing.
        let is_moment = |name: &str| name.rsplit_once('.').is_some_and(|(parameter, _)| self.has(parameter));
        let may_differ = |name: &str| name == STEP || name == KEY || is_moment(name);
        let mut problems = Vec::new();
        let mut known = HashSet::new();
        for State { name, ty, init } in program.states.iter().filter(|state| state.init != Init::Prepared) {
            known.insert(name.as_str());
            match self.by_name.get(name) {
                Some(weight) if weight.ty() != ty.dense() => {
                    problems.push(format!("`{name}` is {}, the model has {}", weight.ty(), ty.dense()));
                }
                None if !may_differ(name) && matches!(init, Init::Tensor(_) | Init::Graph(_)) => {
                    problems.push(format!("`{name}` is missing"));
                }
                _ => {}
            }
        }
        let others = self.by_name.keys().filter(|name| !known.contains(name.as_str()));
        let unknown = others.filter(|name| !may_differ(name));
        problems.extend(unknown.map(|name| format!("`{name}` is unknown to the model")));
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort();
        let problems = problems.join("; ");
        let message = format!("these are not the weights of this model: {problems}");
        Err(Error::file(&self.path, message))
    }

    /// Gives them to a session that runs this program.
    ///
    /// # Errors
    /// As [`Weights::check`]; then no state is changed.
    pub fn put(&self, program: &Program, session: &mut Session) -> Result<(), Error> {
        self.check(program)?;
        let of_program = self.iter().filter(|(name, _)| program.state(name).is_some());
        of_program
            .into_iter()
            .try_for_each(|(name, weight)| session.set_state(name, &weight.tensor()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_transposed_whatever_its_size() {
        for (rows, columns) in [(0, 3), (1, 1), (3, 2), (33, 64), (65, 31)] {
            let elements: Vec<f32> = (0..rows * columns).map(|at| at as f32).collect();
            let weight = Weight::transposed(Tensor::from_f32([rows, columns], &elements));
            let found = weight.tensor();
            assert_eq!(found.ty(), weight.ty());
            assert_eq!(found.shape(), [columns, rows]);
            for at in 0..rows * columns {
                let expected = (at % rows * columns + at / rows) as f64;
                assert_eq!(found.get(at).as_f64(), expected, "{rows}×{columns} at {at}");
            }
        }
    }

    /// Whichever axis blocks are along, and whether they fill the tensor or not.
    #[test]
    fn weights_are_written_in_any_layout() {
        let digit = |axis, step, extent| Digit { axis, step, extent };
        let [rows, columns] = [96, 33];
        let elements: Vec<f32> = (0..rows * columns).map(|at| at as f32).collect();
        let tensor = Tensor::from_f32([rows, columns], &elements);
        for weight in [Weight::from(tensor.clone()), Weight::transposed(tensor)] {
            let along = weight.ty().shape.clone();
            for (axis, block) in [(0, 32), (0, 3), (0, 7), (1, 32), (1, 3), (1, 1)] {
                let digits = vec![
                    digit(axis, block, along[axis].div_ceil(block)),
                    digit(1 - axis, 1, along[1 - axis]),
                    digit(axis, 1, block),
                ];
                let ty = Type {
                    layout: Layout::Digits(digits),
                    ..weight.ty()
                };
                let mut written = vec![0; ty.len_bytes()];
                weight.write(&ty, &mut written);
                assert_eq!(
                    written,
                    *ty.arranged(&weight.tensor()),
                    "blocks of {block} along {axis} of {along:?}"
                );
            }
        }
    }
}
