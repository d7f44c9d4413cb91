//! Programs: several entries over one list of states.

use std::collections::{HashMap, HashSet};

use crate::dtype::DType;
use crate::error::{Loc, Problem, Problems};
use crate::graph::Graph;
use crate::ops::Op;
use crate::prepare::PREPARE;
use crate::tensor::{Tensor, Type};
use crate::verify::verify;

/// What the only argument of a graph that a state starts from is called: a `u64` scalar. No state has this name.
pub const SEED: &str = "seed";

/// A value that lives between runs: a parameter, an optimiser's moment, a running statistic, a step counter.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The name, distinct in the program; the entries that read it have an input of this name and type.
    pub name: String,
    /// Its type. Where its elements lie in memory, the same in every entry, is for the compiler to choose.
    pub ty: Type,
    /// How it starts.
    pub init: Init,
}

/// How a state starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// With given elements.
    Tensor(std::sync::Arc<Tensor>),
    /// With the only output of this graph, whose single input, if any, is [`SEED`].
    Graph(std::sync::Arc<Graph>),
    /// By the entry [`PREPARE`], from other states.
    Prepared,
    /// With elements that are given to whoever runs the program, as those of a file with weights are.
    Given,
    /// With zeros, until whoever runs the program puts examples there; they are not saved with what has been learnt.
    Data,
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

    /// The program with only the entry of that name, if there is one, what prepares states for it, and the states that these touch.
    #[must_use]
    pub fn only(&self, entry: &str) -> Program {
        let own = self.with_entries(&[entry]);
        match own.states.iter().any(|state| state.init == Init::Prepared) {
            true => self.with_entries(&[entry, PREPARE]),
            false => own,
        }
    }

    /// The program with only those of its entries that have one of these names, and the states that they touch.
    #[must_use]
    pub fn with_entries(&self, names: &[&str]) -> Program {
        let entries: Vec<Entry> = self
            .entries
            .iter()
            .filter(|known| names.contains(&known.name.as_str()))
            .cloned()
            .collect();
        let touches = |graph: &Graph, name: &str| {
            graph.input(name).is_some() || graph.outputs.iter().any(|(output, _)| output == name)
        };
        let touched = |state: &&State| entries.iter().any(|entry| touches(&entry.graph, &state.name));
        let states = self.states.iter().filter(touched).cloned().collect();
        Program { states, entries }
    }

    /// Whether no entry updates a state, but for the one that prepares states.
    pub fn is_inference(&self) -> bool {
        let running = self.entries.iter().filter(|entry| entry.name != PREPARE);
        let mut outputs = running.flat_map(|entry| &entry.graph.outputs);
        !outputs.any(|(name, _)| self.state(name).is_some())
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

    /// Checks that names are distinct, that each graph is valid, and that states, their beginnings, inputs and updates agree in type.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn verify(&self) -> Result<(), Problems> {
        let mut problems = Vec::new();
        for (place, graph) in self.graphs() {
            if let Err(Problems(found)) = verify(graph) {
                problems.extend(found.into_iter().map(|mut problem| {
                    problem.notes.push(format!("in {place}"));
                    problem
                }));
            }
        }
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        let mut wrong = |message: String, loc: &Loc| problems.push(Problem::new(message, loc.clone()));
        let mut states: HashMap<&str, &Type> = HashMap::new();
        for State { name, ty, init } in &self.states {
            if states.insert(name, ty).is_some() {
                wrong(format!("there are two states `{name}`"), &Loc::None);
            }
            if name == SEED {
                let message =
                    format!("a state may not be named `{SEED}`: it would hide the argument that states start from");
                wrong(message, &Loc::None);
            }
            if let Err(message) = ty.check() {
                wrong(format!("state `{name}`: {message}"), &Loc::None);
            }
            let logical = Type::new(ty.dtype, ty.shape.clone());
            match init {
                Init::Tensor(tensor) if tensor.ty() != logical => {
                    wrong(
                        format!("state `{name}` is {ty} and starts as {}", tensor.ty()),
                        &Loc::None,
                    );
                }
                Init::Tensor(_) | Init::Given | Init::Data => {}
                Init::Graph(graph) => check_init(name, &logical, graph, &mut wrong),
                Init::Prepared => {
                    let outputs = self.entry(PREPARE).map_or(&[][..], |entry| &entry.graph.outputs);
                    if !outputs.iter().any(|(output, _)| output == name) {
                        wrong(
                            format!("state `{name}` is not a result of the entry `{PREPARE}`"),
                            &Loc::None,
                        );
                    }
                }
            }
        }
        let mut entries: HashSet<&str> = HashSet::new();
        for Entry { name, graph } in &self.entries {
            if !entries.insert(name) {
                wrong(format!("there are two entries `{name}`"), &Loc::None);
            }
            for &id in graph.inputs() {
                let node = graph.node(id);
                let Op::Input(input) = &node.op else { continue };
                if let Some(ty) = states.get(input.name.as_str()).filter(|ty| ***ty != input.ty) {
                    let message = format!(
                        "entry `{name}` reads state `{}` as {}, it is {ty}",
                        input.name, input.ty
                    );
                    wrong(message, &node.loc);
                }
            }
            for (output, id) in &graph.outputs {
                let node = graph.node(*id);
                if let Some(ty) = states.get(output.as_str()).filter(|ty| node.types != [(**ty).clone()]) {
                    let message = format!(
                        "entry `{name}` gives state `{output}` the type {}, it is {ty}",
                        node.ty()
                    );
                    wrong(message, &node.loc);
                }
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Problems(problems))
        }
    }

    fn graphs(&self) -> impl Iterator<Item = (String, &Graph)> {
        let inits = self.states.iter().filter_map(|state| match &state.init {
            Init::Graph(graph) => Some((format!("state `{}`", state.name), &**graph)),
            Init::Tensor(_) | Init::Prepared | Init::Given | Init::Data => None,
        });
        let entries = self
            .entries
            .iter()
            .map(|entry| (format!("entry `{}`", entry.name), &entry.graph));
        inits.chain(entries)
    }
}

/// Checks the shape of the graph that a state starts with.
fn check_init(name: &str, ty: &Type, graph: &Graph, wrong: &mut impl FnMut(String, &Loc)) {
    match graph.outputs.as_slice() {
        [(_, id)] if graph.ty(*id) == ty => {}
        [(_, id)] => wrong(
            format!("state `{name}` is {ty} and starts as {}", graph.ty(*id)),
            &graph.node(*id).loc,
        ),
        outputs => wrong(
            format!("state `{name}` starts with {} values", outputs.len()),
            &Loc::None,
        ),
    }
    for &id in graph.inputs() {
        let node = graph.node(id);
        let is_seed =
            matches!(&node.op, Op::Input(input) if input.name == SEED && input.ty == Type::new(DType::U64, []));
        if !is_seed {
            let message = format!("state `{name}` starts with a graph that may have one input only, `seed: u64[]`");
            wrong(message, &node.loc);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::text;

    /// The problems of a program, one a line.
    fn check(source: &str) -> String {
        match text::parse_program("p", source) {
            Ok(_) => "fine".to_owned(),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn states_inputs_and_updates_agree() {
        let program = |init: &str, read: &str, written: &str| {
            check(&format!(
                "state w: f32[2] = {init}\nentry step = graph(w: f32[{read}], g: f32[{written}]) {{\nreturn w = g\n}}\n"
            ))
        };
        assert_eq!(program("f32[2] [1.0,2.0]", "2", "2"), "fine");
        let seeded = "graph(seed: u64[]) {\n%0 = broadcast [2] 1.0\nreturn %0\n}";
        assert_eq!(program(seeded, "2", "2"), "fine");
        let expected = "state `w` is f32[2] and starts as f32[3]";
        assert_eq!(program("f32[3] [1.0,2.0,3.0]", "2", "2"), expected);
        let expected = "entry `step` reads state `w` as f32[3], it is f32[2]\n  --> p:2";
        assert_eq!(program("f32[2] [1.0,2.0]", "3", "2"), expected);
        let expected = "entry `step` gives state `w` the type f32[3], it is f32[2]\n  --> p:2";
        assert_eq!(program("f32[2] [1.0,2.0]", "2", "3"), expected);
        let unseeded = "graph(x: f32[2]) {\nreturn x\n}";
        let expected = "state `w` starts with a graph that may have one input only, `seed: u64[]`\n  --> p:1";
        assert_eq!(program(unseeded, "2", "2"), expected);
    }

    #[test]
    fn prepared_states_are_made_by_the_entry_for_them() {
        let prepare = "entry prepare = graph(w: f32[2]) {\n%0 = neg w\nreturn p = %0\n}\n";
        let states = "state w: f32[2] = f32[2] [1.0,2.0]\nstate p: f32[2] = prepared\n";
        assert_eq!(check(&format!("{states}{prepare}")), "fine");
        assert_eq!(check(states), "state `p` is not a result of the entry `prepare`");
    }

    #[test]
    fn names_are_distinct() {
        let entry = "entry a = graph() {\nreturn\n}\n";
        assert_eq!(check(&format!("{entry}{entry}")), "there are two entries `a`");
        let state = "state s: f32[] = 1.0\n";
        assert_eq!(check(&format!("{state}{state}")), "there are two states `s`");
        let expected = "a state may not be named `seed`: it would hide the argument that states start from";
        assert_eq!(check("state seed: f32[] = 1.0\n"), expected);
    }
}
