//! Programs: several entries over one list of states.

use crate::error::Problems;
use crate::graph::Graph;
use crate::tensor::{Tensor, Type};

/// A value that lives between runs: a parameter, an optimiser's moment, a running statistic, a step counter.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The name, distinct in the program; the entries that read it have an input of this name and type.
    pub name: String,
    /// Its type; the layout is its home in every entry.
    pub ty: Type,
    /// How it starts.
    pub init: Init,
}

/// How a state starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// With given elements.
    Tensor(std::sync::Arc<Tensor>),
    /// With the only output of this graph, whose single input, if any, is `seed`, a `u64` scalar.
    Graph(std::sync::Arc<Graph>),
}

/// One way to run the program, e.g. `train_step` or `predict`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The name, distinct in the program.
    pub name: String,
    /// The graph. An input named like a state reads it, an output named like a state is its next value; the other inputs are
    /// arguments, the other outputs results. Every read of a state sees the value from before the run.
    pub graph: Graph,
}

/// Several entries over one list of states.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// What lives between runs.
    pub states: Vec<State>,
    /// The ways to run it.
    pub entries: Vec<Entry>,
}

impl Program {
    /// The state of that name.
    pub fn state(&self, name: &str) -> Option<&State> {
        self.states.iter().find(|state| state.name == name)
    }

    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// A program without state: one entry of that name.
    pub fn pure(name: &str, graph: Graph) -> Program {
        Program {
            states: Vec::new(),
            entries: vec![Entry {
                name: name.to_owned(),
                graph,
            }],
        }
    }

    /// Checks that names are distinct, that each entry's graph is valid, and that states, inputs and updates agree in type.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn verify(&self) -> Result<(), Problems> {
        todo!()
    }
}
