//! What a layer may ask for while it builds graph: parameters, states, random numbers.

use std::cell::RefCell;
use std::rc::Rc;

use netloom_ir::builder::{Builder, Val};
use netloom_ir::program::{Init, SEED, State};
use netloom_ir::{DType, Graph, Tensor, Type};

use super::init::Initialiser;

/// What a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A training step: dropout drops, batch norm uses the batch's statistics and updates its own.
    Training,
    /// Evaluation and prediction.
    Inference,
}

/// The state that random numbers of training are made from, a `u64` scalar that starts as the seed. No state may itself be called `seed`: that
/// is the argument of what states start from.
pub const KEY: &str = "key";
/// The state that counts training steps, a `u64` scalar.
pub const STEP: &str = "step";

/// The states of a program under construction: one list, however many entries are built over it.
#[derive(Debug, Default)]
pub struct States {
    states: Vec<State>,
    trainable: Vec<String>,
    transposed_in_torch: Vec<String>,
}

impl States {
    /// Every state, in the order in which they were first asked for.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// The names of the parameters, in that order.
    pub fn trainable(&self) -> &[String] {
        &self.trainable
    }

    /// The number of trained elements.
    pub fn parameter_count(&self) -> usize {
        let is_trainable = |state: &&State| self.trainable.contains(&state.name);
        self.states
            .iter()
            .filter(is_trainable)
            .map(|state| state.ty.count())
            .sum()
    }

    /// Whether PyTorch stores this parameter with its two axes exchanged.
    pub fn is_transposed_in_torch(&self, name: &str) -> bool {
        self.transposed_in_torch.iter().any(|known| known == name)
    }

    fn declare(&mut self, name: &str, ty: Type, init: impl FnOnce(u32) -> Init) -> Result<(), String> {
        match self.states.iter().find(|state| state.name == name) {
            Some(known) if known.ty == ty => Ok(()),
            Some(known) => Err(format!("state `{name}` is {} and is asked for again as {ty}", known.ty)),
            None => {
                // The number of the state is the stream of its initial random numbers, so no two states share bits.
                let init = init(self.states.len() as u32);
                self.states.push(State {
                    name: name.to_owned(),
                    ty,
                    init,
                });
                Ok(())
            }
        }
    }
}

/// A place in a network: the graph, the mode, and a prefix for names.
#[derive(Clone)]
pub struct Scope<'g> {
    builder: &'g Builder,
    mode: Mode,
    prefix: String,
    states: Rc<RefCell<States>>,
    updates: Rc<RefCell<Vec<(String, Val<'g>)>>>,
    penalties: Rc<RefCell<Vec<Val<'g>>>>,
    further_scores: Rc<RefCell<Vec<(Val<'g>, f64)>>>,
    observations: Rc<RefCell<Vec<Observation<'g>>>>,
}

/// The scope and the kind of an activation, and the share of it that passes no gradient on.
type Observation<'g> = (String, String, Val<'g>);

impl<'g> Scope<'g> {
    /// The outermost scope of one entry.
    pub fn new(builder: &'g Builder, mode: Mode, states: Rc<RefCell<States>>) -> Scope<'g> {
        Scope {
            builder,
            mode,
            prefix: String::new(),
            states,
            updates: Rc::default(),
            penalties: Rc::default(),
            further_scores: Rc::default(),
            observations: Rc::default(),
        }
    }

    /// The scope of a part: names asked for there are `PART.NAME`.
    pub fn enter(&self, part: impl std::fmt::Display) -> Scope<'g> {
        Scope {
            prefix: self.full_name(&part.to_string()),
            ..self.clone()
        }
    }

    /// The graph.
    pub fn builder(&self) -> &'g Builder {
        self.builder
    }

    /// What the graph is built for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether this is a training step.
    pub fn is_training(&self) -> bool {
        self.mode == Mode::Training
    }

    /// A trained `f32` value.
    #[track_caller]
    pub fn parameter(&self, name: &str, shape: impl Into<Vec<usize>>, init: &Initialiser) -> Val<'g> {
        let (name, shape) = (self.full_name(name), shape.into());
        let ty = Type::new(DType::F32, shape.clone());
        let declared = {
            let mut states = self.states.borrow_mut();
            if !states.trainable.contains(&name) {
                states.trainable.push(name.clone());
            }
            states.declare(&name, ty, |stream| init.graph(&shape, stream))
        };
        self.read(&name, DType::F32, shape, declared)
    }

    /// A trained `f32` matrix `[in, out]`, which PyTorch stores as `[out, in]`.
    #[track_caller]
    pub fn matrix(&self, name: &str, shape: [usize; 2], init: &Initialiser) -> Val<'g> {
        let full_name = self.full_name(name);
        let mut states = self.states.borrow_mut();
        if !states.is_transposed_in_torch(&full_name) {
            states.transposed_in_torch.push(full_name);
        }
        drop(states);
        self.parameter(name, shape, init)
    }

    /// A value that lives between runs and is not trained, starting with given elements.
    #[track_caller]
    pub fn state(&self, name: &str, start: Tensor) -> Val<'g> {
        let name = self.full_name(name);
        let (dtype, shape) = (start.dtype(), start.shape().to_vec());
        let declared = self
            .states
            .borrow_mut()
            .declare(&name, start.ty(), |_| Init::Tensor(start.into()));
        self.read(&name, dtype, shape, declared)
    }

    #[track_caller]
    fn read(&self, name: &str, dtype: DType, shape: Vec<usize>, declared: Result<(), String>) -> Val<'g> {
        match declared {
            Ok(()) => self.builder.input(name, dtype, shape),
            Err(message) => self.builder.problem(message),
        }
    }

    /// Gives a state its next value; the last one given counts.
    pub fn update(&self, name: &str, next: Val<'g>) {
        let name = self.full_name(name);
        let mut updates = self.updates.borrow_mut();
        match updates.iter_mut().find(|(known, _)| *known == name) {
            Some((_, value)) => *value = next,
            None => updates.push((name, next)),
        }
    }

    /// Adds a scalar to the objective, e.g. a weight penalty.
    pub fn penalise(&self, penalty: Val<'g>) {
        self.penalties.borrow_mut().push(penalty);
    }

    /// The key and the step that random numbers of this run are made from.
    pub fn random_key(&self) -> (Val<'g>, Val<'g>) {
        let root = Scope {
            prefix: String::new(),
            ..self.clone()
        };
        let key = {
            let mut states = self.states.borrow_mut();
            states.declare(KEY, Type::new(DType::U64, []), |_| {
                let b = Builder::new();
                let seed = b.input(SEED, DType::U64, []);
                Init::Graph(b.finish([(KEY, seed)]).expect("an input alone is valid").into())
            })
        };
        (root.read(KEY, DType::U64, vec![], key), root.step())
    }

    /// The number of training steps done before this run, a `u64` scalar.
    pub fn step(&self) -> Val<'g> {
        let root = Scope {
            prefix: String::new(),
            ..self.clone()
        };
        root.state(STEP, Tensor::zeros(DType::U64, []))
    }

    /// Independent random numbers, uniform in [0, 1), new at each run.
    #[track_caller]
    pub fn uniform(&self, shape: impl Into<Vec<usize>>) -> Val<'g> {
        let (key, step) = self.random_key();
        self.builder.uniform(key, step, shape)
    }

    /// Adds the loss of further scores to the objective, times a weight.
    pub fn score_also(&self, scores: Val<'g>, weight: f64) {
        self.further_scores.borrow_mut().push((scores, weight));
    }

    /// Remembers the share, between 0 and 1, of an activation of this kind that passes no gradient on: for a training step that measures its
    /// health. What nobody asks for is not computed.
    pub fn observe(&self, kind: impl Into<String>, share: Val<'g>) {
        self.observations
            .borrow_mut()
            .push((self.prefix.clone(), kind.into(), share));
    }

    /// What was observed so far.
    pub fn observations(&self) -> Vec<Observation<'g>> {
        self.observations.borrow().clone()
    }

    /// The updates so far.
    pub fn updates(&self) -> Vec<(String, Val<'g>)> {
        self.updates.borrow().clone()
    }

    /// The penalties so far.
    pub fn penalties(&self) -> Vec<Val<'g>> {
        self.penalties.borrow().clone()
    }

    /// The further scores so far, each with the weight of its loss.
    pub fn further_scores(&self) -> Vec<(Val<'g>, f64)> {
        self.further_scores.borrow().clone()
    }

    /// The list of states.
    pub fn states(&self) -> Rc<RefCell<States>> {
        Rc::clone(&self.states)
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }
}

/// A graph with no input but `seed`, for [`Init::Graph`].
pub(super) fn init_graph(make: impl for<'g> FnOnce(&'g Builder, Val<'g>) -> Val<'g>) -> Graph {
    let b = Builder::new();
    let seed = b.input(SEED, DType::U64, []);
    let value = make(&b, seed);
    b.finish([("value", value)]).expect("initialisers make valid graphs")
}
