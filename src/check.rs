//! Checking: the oracle, the interpreter, and what devices run, on the same inputs, stage by stage.
//!
//! A graph is improved and cut as [`compile`](crate::compile()) does. Each region becomes an entry of its own, a *piece*, so that its results can
//! be seen; every engine runs the pieces in order on its own values, and each result is compared with what the oracle makes of the very
//! values that entered the piece, within the bound that [`bound`] derives. So a difference is found where it arises, not where it shows.
//! At the end the entry is run as a whole, which must give the same bits as its pieces.
//!
//! To bisect is to go on and name what is to blame: the first pass whose graph gives other bits; or the first of the kernel, its
//! schedule and the emitted code whose result leaves the bound.

mod bound;
mod engine;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use netloom_ir::fuse::{self, Region, RegionKind};
use netloom_ir::graph::{Graph, NodeId};
use netloom_ir::kernel::eval;
use netloom_ir::layout::Layout;
use netloom_ir::ops::source::Input;
use netloom_ir::passes::{self, Pass};
use netloom_ir::{Init, Loc, Op, Program, Scalar, Target, Tensor, Type, oracle};

use crate::compile::{Lowered, plan_graphs};
use crate::device::Floats;
use crate::error::Error;
use crate::layout::Layouts;
use crate::plan::KernelId;
use crate::plan::kernels::Makers;
use bound::Judgement;
use engine::interpreted;
pub use engine::{Compiled, Engine, Interpreter};

/// What makes an entry's kernels, and how far a difference is followed.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The passes; [`passes::PASSES`] but in tests.
    pub passes: &'a [Pass],
    /// What makes kernels and nests; [`Makers::USUAL`] but in tests.
    pub makers: Makers,
    /// Whether to name the pass or stage to blame.
    pub bisect: bool,
}

/// What an engine gives, compared.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The engine's name.
    pub engine: String,
    /// How many pieces it ran.
    pub pieces: usize,
    /// The greatest difference as a share of its bound; above 1 there is a [`Outcome::difference`].
    pub share: f64,
    /// The first difference greater than its bound.
    pub difference: Option<Difference>,
}

/// A result that is not what it should be.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What differs: a node with its op and type, or an output.
    pub what: String,
    /// Where it came from.
    pub loc: Loc,
    /// The kernel that computes it, if it is one's.
    pub kernel: Option<String>,
    /// The position of the worst element.
    pub element: usize,
    /// What it is.
    pub found: Scalar,
    /// What it should be.
    pub expected: Scalar,
    /// How far the two may be apart.
    pub allowed: f64,
    /// The pass or stage to blame, if it was sought and found.
    pub blame: Option<String>,
}

/// Checks an entry of a program on values of all inputs of its graph, states included: an outcome for each engine.
///
/// # Errors
/// If there is no such entry, an input is missing or of another type, or a device refuses.
pub fn check(
    program: &Program,
    entry: &str,
    inputs: &[(String, Tensor)],
    engines: &mut [Box<dyn Engine>],
    options: Options<'_>,
) -> Result<Vec<Outcome>, Error> {
    program.verify()?;
    let Some(found) = program.entry(entry) else {
        return Err(Error::Unknown(format!("there is no entry `{entry}`")));
    };
    let named: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
    let mut checker = Checker {
        source: &found.graph,
        wanted: oracle::run(&found.graph, &named)?,
        inputs: named,
        options,
        improved: Vec::new(),
        judged: HashMap::new(),
    };
    let mut outcomes = Vec::new();
    for engine in engines {
        let mut outcome = Outcome {
            engine: engine.name(),
            pieces: 0,
            share: 0.0,
            difference: None,
        };
        let (graph, difference) = checker.improve(&engine.target())?;
        outcome.difference = difference;
        if outcome.difference.is_none() {
            let states = &program.with_entries(&[entry]).states;
            let named = [(entry.to_owned(), graph)];
            let layouts = Layouts::choose(&named, states, &engine.target()).entry(entry);
            let [(_, graph)] = named;
            let values = checker.pieces(&graph, &layouts, engine.as_mut(), &mut outcome)?;
            if outcome.difference.is_none() {
                let given = with_values(program, entry, inputs);
                outcome.difference = differs_as_a_whole(engine.as_mut(), &given, entry, inputs, &graph, &values)?;
            }
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// What engines share in a check.
struct Checker<'a> {
    source: &'a Graph,
    inputs: Vec<(&'a str, Tensor)>,
    /// What the oracle makes of the source.
    wanted: Vec<(String, Tensor)>,
    options: Options<'a>,
    /// Graphs after the passes, with what the passes changed: most targets have the same.
    improved: Vec<(Graph, Option<Difference>)>,
    /// What the oracle says about a piece on some inputs.
    judged: HashMap<u64, Arc<Judgement>>,
}

impl Checker<'_> {
    /// The graph after the passes, and the first output that they change.
    fn improve(&mut self, target: &Target) -> Result<(Graph, Option<Difference>), Error> {
        let graph = passes::run_list(self.options.passes, self.source, target, &mut |_| {});
        if let Some(known) = self.improved.iter().find(|(known, _)| *known == graph) {
            return Ok(known.clone());
        }
        let mut difference = self.changed(&graph)?;
        if self.options.bisect
            && let Some(difference) = &mut difference
        {
            let mut culprit = None;
            passes::run_list(self.options.passes, self.source, target, &mut |step| {
                if culprit.is_none() && !matches!(self.changed(step.graph), Ok(None)) {
                    culprit = Some(format!("pass `{}`, round {}", step.pass, step.round + 1));
                }
            });
            difference.blame = culprit;
        }
        self.improved.push((graph.clone(), difference.clone()));
        Ok((graph, difference))
    }

    /// The first output of a graph that has other bits than the source's: passes are exact.
    fn changed(&self, graph: &Graph) -> Result<Option<Difference>, Error> {
        let found = oracle::run(graph, &self.inputs)?;
        let pairs = found.iter().zip(&self.wanted);
        let all = pairs.map(|((name, found), (_, wanted))| other_bits(name, found, wanted));
        Ok(all.flatten().next())
    }

    /// Runs every region of a graph as an entry of its own, and compares; the values of all nodes that were written.
    fn pieces(
        &mut self,
        graph: &Graph,
        layouts: &HashMap<NodeId, Layout>,
        engine: &mut dyn Engine,
        outcome: &mut Outcome,
    ) -> Result<HashMap<NodeId, Tensor>, Error> {
        let regions = fuse::regions(graph);
        let pieces: Vec<Graph> = regions.iter().map(|region| piece(graph, region)).collect();
        let borders: Vec<Border> = regions
            .iter()
            .map(|region| Border::of(graph, region, layouts))
            .collect();
        let name = |number: usize| format!("piece{number}");
        let named = pieces.iter().enumerate();
        let named = named.map(|(number, piece)| (name(number), piece.clone()));
        let laid_out = pieces.iter().zip(&borders).enumerate();
        let laid_out = laid_out.map(|(number, (piece, border))| (name(number), border.layouts(piece)));
        let lowered = plan_graphs(
            &[],
            named.collect(),
            &Layouts::given(laid_out.collect()),
            fuse::regions,
            &engine.target(),
            self.options.makers,
        )?;
        engine.load(&lowered)?;
        let mut values: HashMap<NodeId, Tensor> = HashMap::new();
        for (id, node) in graph.nodes() {
            match &node.op {
                Op::Input(input) => {
                    let given = self.inputs.iter().find(|(name, _)| *name == input.name);
                    values.insert(id, given.expect("the oracle has checked the inputs").1.clone());
                }
                Op::Const(tensor) => drop(values.insert(id, Tensor::clone(tensor))),
                _ => {}
            }
        }
        for (number, ((region, piece), border)) in regions.iter().zip(&pieces).zip(&borders).enumerate() {
            let inputs: Vec<Tensor> = region.inputs.iter().map(|id| values[id].clone()).collect();
            let judgement = self.judge(piece, &inputs);
            let results = engine.run(number, &border.arranged(&inputs))?;
            let results = results.map_or_else(|| judgement.results(), |results| border.restored(results));
            outcome.pieces += 1;
            for (output, &id) in region.outputs.iter().enumerate() {
                let floats = engine.floats(results[output].dtype());
                let worst = judgement.compare(output, &results[output], floats);
                outcome.share = outcome.share.max(worst.share);
                if worst.share > 1.0 && outcome.difference.is_none() {
                    let kernel = only_kernel(&lowered, number);
                    let node = graph.node(id);
                    outcome.difference = Some(Difference {
                        what: format!("{id} = {} ({})", node.op.name(), node.types[0]),
                        loc: node.loc.clone(),
                        kernel: kernel.map(|id| lowered.kernels.nest(id).name.clone()),
                        element: worst.element,
                        found: results[output].get(worst.element),
                        expected: judgement.wanted(output).get(worst.element),
                        allowed: worst.allowed,
                        blame: match (self.options.bisect, kernel) {
                            (true, Some(id)) => Some(blame(&lowered, id, border, &inputs, &judgement, engine)),
                            _ => None,
                        },
                    });
                }
            }
            if outcome.difference.is_some() {
                break;
            }
            values.extend(region.outputs.iter().copied().zip(results));
        }
        Ok(values)
    }

    /// What a piece should give, the same work done once for all engines that agree so far.
    fn judge(&mut self, piece: &Graph, inputs: &[Tensor]) -> Arc<Judgement> {
        let mut hasher = DefaultHasher::new();
        piece.hash(&mut hasher);
        inputs.iter().for_each(|input| input.content_hash().hash(&mut hasher));
        let known = self.judged.entry(hasher.finish());
        Arc::clone(known.or_insert_with(|| Arc::new(Judgement::of(piece, inputs))))
    }
}

/// Which of the stages that make a kernel's code is the first to leave the bound.
fn blame(
    lowered: &Lowered,
    id: KernelId,
    border: &Border,
    inputs: &[Tensor],
    judgement: &Judgement,
    engine: &dyn Engine,
) -> String {
    let holds = |results: Vec<Tensor>| {
        let mut outputs = results.iter().enumerate();
        outputs.all(|(output, result)| judgement.compare(output, result, Floats::IEEE).share <= 1.0)
    };
    if !holds(eval::run(lowered.kernels.kernel(id), inputs)) {
        "kernel: the region is not what its nodes are (fuse, kernel::build)".to_owned()
    } else if !holds(border.restored(interpreted(lowered.kernels.nest(id), &border.arranged(inputs), 1))) {
        "schedule: the nest is not what its kernel is".to_owned()
    } else {
        format!("emitter of {}: its code is not what the nest is", engine.name())
    }
}

/// The kernel of a piece, if it is one.
fn only_kernel(lowered: &Lowered, piece: usize) -> Option<KernelId> {
    match &lowered.plans[piece].steps[..] {
        [crate::plan::Step::Kernel { kernel, .. }] => Some(*kernel),
        _ => None,
    }
}

/// The types, with layouts, of what a region reads and writes.
struct Border {
    inputs: Vec<Type>,
    outputs: Vec<Type>,
}

impl Border {
    fn of(graph: &Graph, region: &Region, layouts: &HashMap<NodeId, Layout>) -> Border {
        // What a scan, if or while reads and writes is dense.
        let types = |ids: &[NodeId]| {
            let ids = ids.iter();
            ids.map(|id| Type {
                layout: layouts.get(id).cloned().unwrap_or_default(),
                ..graph.ty(*id).clone()
            })
            .collect()
        };
        Border {
            inputs: types(&region.inputs),
            outputs: types(&region.outputs),
        }
    }

    /// The layouts of the region's piece.
    fn layouts(&self, piece: &Graph) -> HashMap<NodeId, Layout> {
        let inputs = piece.inputs().iter().copied().zip(&self.inputs);
        let outputs = piece.outputs.iter().map(|(_, id)| *id).zip(&self.outputs);
        inputs.chain(outputs).map(|(id, ty)| (id, ty.layout.clone())).collect()
    }

    /// The inputs with their elements where the code expects them.
    fn arranged(&self, inputs: &[Tensor]) -> Vec<Tensor> {
        let inputs = self.inputs.iter().zip(inputs);
        inputs
            .map(|(ty, x)| Tensor::from_bytes(ty.dtype, ty.shape.clone(), ty.arranged(x).into_owned()))
            .collect()
    }

    /// The outputs that the code has left so.
    fn restored(&self, outputs: Vec<Tensor>) -> Vec<Tensor> {
        let outputs = self.outputs.iter().zip(outputs);
        outputs.map(|(ty, y)| ty.restored(y.bytes().to_vec())).collect()
    }
}

/// A region as a graph of its own; its inputs are called by their numbers.
fn piece(graph: &Graph, region: &Region) -> Graph {
    let mut to = Graph::new();
    let mut new: HashMap<NodeId, NodeId> = HashMap::new();
    let push = |to: &mut Graph, op: Op, args: Vec<NodeId>, loc: &Loc| {
        to.push(op, args, loc.clone())
            .expect("it was valid where it comes from")
    };
    for (number, &id) in region.inputs.iter().enumerate() {
        let input = Input {
            name: number.to_string(),
            ty: graph.ty(id).clone(),
        };
        new.insert(id, push(&mut to, Op::Input(input), Vec::new(), &graph.node(id).loc));
    }
    let mut needed = vec![false; graph.len()];
    region.outputs.iter().for_each(|id| needed[id.at()] = true);
    for (id, node) in graph.nodes().rev() {
        if needed[id.at()] && !region.inputs.contains(&id) {
            node.args.iter().for_each(|arg| needed[arg.at()] = true);
        }
    }
    for (id, node) in graph.nodes().filter(|(id, _)| needed[id.at()]) {
        if !new.contains_key(&id) {
            let args = node.args.iter().map(|arg| new[arg]).collect();
            new.insert(id, push(&mut to, node.op.clone(), args, &node.loc));
        }
    }
    let outputs = region.outputs.iter().enumerate();
    to.outputs = outputs.map(|(number, id)| (number.to_string(), new[id])).collect();
    if region.kind == RegionKind::Compound {
        return to;
    }
    let nodes = to.nodes().filter(|(_, node)| !matches!(node.op, Op::Input(_)));
    let own = Region {
        kind: RegionKind::Kernel,
        nodes: nodes.map(|(id, _)| id).collect(),
        inputs: to.inputs().to_vec(),
        outputs: to.outputs.iter().map(|(_, id)| *id).collect(),
        stopped: Vec::new(),
        given: region.given.clone(),
    };
    to.with_regions(vec![own])
}

/// The entry alone, its states starting from these values.
fn with_values(program: &Program, entry: &str, inputs: &[(String, Tensor)]) -> Program {
    let mut program = program.with_entries(&[entry]);
    for state in &mut program.states {
        if let Some((_, value)) = inputs.iter().find(|(name, _)| *name == state.name) {
            state.init = Init::Tensor(Arc::new(value.clone()));
        }
    }
    program
}

/// The first result of the entry as a whole that has other bits than the pieces gave: then the plan is to blame.
fn differs_as_a_whole(
    engine: &mut dyn Engine,
    program: &Program,
    entry: &str,
    inputs: &[(String, Tensor)],
    graph: &Graph,
    values: &HashMap<NodeId, Tensor>,
) -> Result<Option<Difference>, Error> {
    let Some(found) = engine.run_whole(program, entry, inputs)? else {
        return Ok(None);
    };
    let differences = graph.outputs.iter().map(|(name, id)| {
        let (_, found) = found.iter().find(|(known, _)| known == name).expect("every output");
        let mut difference = other_bits(name, found, &values[id])?;
        difference.blame = Some("plan: the entry as a whole is not what its pieces are".to_owned());
        Some(difference)
    });
    Ok(differences.flatten().next())
}

/// The first element of an output that has other bits than it should; a NaN counts as any other.
fn other_bits(name: &str, found: &Tensor, expected: &Tensor) -> Option<Difference> {
    let same = |x: Scalar, y: Scalar| {
        x.to_bits(found.dtype()) == y.to_bits(found.dtype()) || x.as_f64().is_nan() && y.as_f64().is_nan()
    };
    let element = (0..found.count()).find(|&at| !same(found.get(at), expected.get(at)))?;
    Some(Difference {
        what: format!("output `{name}` ({})", found.ty()),
        loc: Loc::None,
        kernel: None,
        element,
        found: found.get(element),
        expected: expected.get(element),
        allowed: 0.0,
        blame: None,
    })
}
