//! The gradient of a scan: a scan the other way, whose body is the gradient of the body.
//!
//! A step backwards needs values of the step forwards. Contractions, what loops within gave, and functions like `tanh` are saved: a scan like the
//! first one stacks them and what is carried into each step (the pass `merge` makes one scan of the two). The rest is computed again from
//! those, since it fuses. What is carried backwards are the gradients of the carried values. The gradient of a constant is a sum over all steps: where it is
//! one of contractions, their operands are stacked and one contraction over all steps stands behind the loop; where not, the sum is carried.

use std::collections::HashSet;
use std::sync::Arc;

use super::remake::Remake;
use super::{Scan, body_input_types, output_types};
use crate::autodiff::{Vjp, grad_from};
use crate::builder::{Builder, Val};
use crate::dtype::DType;
use crate::error::Problems;
use crate::fuse::map_cost;
use crate::graph::{Graph, NodeId};
use crate::kernel::Combine;
use crate::ops::map::arith;
use crate::ops::{Einsum, Fold, Map, Op, View};
use crate::tensor::Type;

/// A function of this weight is saved rather than computed again: `exp` and what is made of it, which take longer than a value takes to be
/// written and read. (An LSTM's activations took 0.3 ms of a training step of 4.3.)
const DEAR: u32 = 12;

pub(super) fn grad<'g>(scan: &Scan, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
    let mut gradients = vec![None; vjp.args.len()];
    let draft = match Draft::new(scan, vjp) {
        Ok(draft) => draft,
        Err(problems) => {
            vjp.to.report(problems);
            return gradients;
        }
    };
    let saved = draft.saved(scan);
    let (entering, saved_stacks) = saving(scan, vjp, &saved);
    let named = scan.carried + scan.sliced;
    let body_types = body_input_types(&scan.body);

    // What of the draft is an operand, not computed by the step.
    let mut stacks = Stacks {
        known: vec![None; draft.graph.len()],
        new: Vec::new(),
    };
    for (place, id) in draft.x.iter().enumerate().take(vjp.args.len()) {
        stacks.known[id.at()] = Some(match place {
            _ if place < scan.carried => Stack::Outside(entering[place]),
            _ if place < named => Stack::Outside(vjp.args[place]),
            _ => Stack::Constant(vjp.args[place]),
        });
    }
    for (&(result, id), seed) in draft.stacked_seeds.iter().zip(&draft.stacked_seed_vals) {
        debug_assert!(vjp.seeds[result].is_some());
        stacks.known[id.at()] = Some(Stack::Outside(*seed));
    }
    for (save, &stack) in saved.iter().zip(&saved_stacks) {
        stacks.known[save.draft.at()] = Some(Stack::Outside(stack));
    }
    for (_, id) in &draft.sliced_gradients {
        stacks.of(*id);
    }
    let mut summed = HashSet::new();
    for (_, id) in &draft.constant_gradients {
        draft.contracted(*id, &mut stacks, &mut summed);
    }
    let mut carried_sums = Vec::new();
    let mut totals = Vec::new();
    for (_, id) in &draft.constant_gradients {
        let total = draft.total(*id, &summed, &mut carried_sums);
        totals.push(total.unwrap_or_else(|| carry(*id, &mut carried_sums)));
    }

    let mut body = Remake::new(&draft.graph);
    for (_, id) in &draft.carried_seeds {
        body.keep(*id);
    }
    let sum_inputs: Vec<NodeId> = (carried_sums.iter().enumerate())
        .map(|(place, &id)| body.input(&format!("sum{place}"), draft.graph.ty(id), &[]))
        .collect();
    for &id in &draft.x[..named] {
        body.keep(id);
    }
    for (place, save) in saved.iter().enumerate() {
        body.input(&format!("saved{place}"), draft.graph.ty(save.draft), &[save.draft]);
    }
    for (_, id) in &draft.stacked_seeds {
        body.keep(*id);
    }
    for &id in &draft.x[named..] {
        body.keep(id);
    }
    let mut outputs: Vec<NodeId> = (draft.carried_gradients.iter()).map(|&id| body.copy(id)).collect();
    for (&id, &sum) in carried_sums.iter().zip(&sum_inputs) {
        let share = body.copy(id);
        outputs.push(body.push(Op::Map(Map(&arith::ADD)), vec![sum, share]));
    }
    outputs.extend(stacks.new.iter().map(|&id| body.copy(id)));

    let zeros = |ty: &Type| vjp.to.full(ty.dtype, ty.shape.clone(), 0.0);
    let mut args: Vec<Val<'g>> = Vec::new();
    let seed = |&(result, id): &(usize, NodeId)| vjp.seeds[result].unwrap_or_else(|| zeros(draft.graph.ty(id)));
    args.extend(draft.carried_seeds.iter().map(seed));
    args.extend(carried_sums.iter().map(|&id| zeros(draft.graph.ty(id))));
    let carried = args.len();
    args.extend(&entering);
    args.extend(&vjp.args[scan.carried..named]);
    args.extend(&saved_stacks);
    args.extend(&draft.stacked_seed_vals);
    let sliced = args.len() - carried;
    args.extend(&vjp.args[named..]);
    if outputs.is_empty() {
        return gradients;
    }
    let whole = vjp.to.push(
        Op::Scan(Scan {
            body: body.finish(&outputs),
            length: scan.length,
            carried,
            sliced,
            counted: scan.counted,
            reverse: !scan.reverse,
        }),
        &args,
    );

    let results = Results {
        whole,
        stacks: &stacks,
        first_sum: draft.carried_seeds.len(),
        first_stack: carried,
    };
    for (number, (place, _)) in draft.carried_seeds.iter().enumerate() {
        gradients[*place] = Some(whole.part(number));
    }
    for (place, id) in &draft.sliced_gradients {
        let (Some(stack), _) = results.stack(*id) else {
            unreachable!("the gradient of an entry is stacked")
        };
        gradients[*place] = Some(match stack.ty() == vjp.args[*place].ty() {
            true => stack,
            // The same in every step.
            false => stack.broadcast([&[scan.length], body_types[*place].shape.as_slice()].concat()),
        });
    }
    for ((place, _), total) in draft.constant_gradients.iter().zip(&totals) {
        gradients[*place] = Some(results.total(total));
    }
    gradients
}

/// One step backwards, with all of the step forwards in it.
struct Draft<'g> {
    graph: Graph,
    /// The node that each node of the body has become.
    forward: Vec<Option<NodeId>>,
    /// The inputs of the body.
    x: Vec<NodeId>,
    /// The gradient that arrives, by the carried value.
    carried_seeds: Vec<(usize, NodeId)>,
    /// The gradient that arrives, by the result stacked.
    stacked_seeds: Vec<(usize, NodeId)>,
    stacked_seed_vals: Vec<Val<'g>>,
    carried_gradients: Vec<NodeId>,
    /// The gradients of those sliced operands and constants for which they are wanted.
    sliced_gradients: Vec<(usize, NodeId)>,
    constant_gradients: Vec<(usize, NodeId)>,
}

impl<'g> Draft<'g> {
    fn new(scan: &Scan, vjp: &Vjp<'_, 'g>) -> Result<Draft<'g>, Problems> {
        let named = scan.carried + scan.sliced;
        let body_outputs = output_types(&scan.body);
        let carried: Vec<usize> = (0..scan.carried)
            .filter(|&result| body_outputs[result].dtype.is_float())
            .collect();
        let stacked: Vec<(usize, Val<'g>)> = (scan.carried..body_outputs.len())
            .filter_map(|result| Some((result, vjp.seeds[result]?)))
            .collect();
        let wanted_sliced: Vec<usize> = (scan.carried..named).filter(|&place| vjp.wanted[place]).collect();
        let wanted_constants: Vec<usize> = (named..vjp.args.len()).filter(|&place| vjp.wanted[place]).collect();

        let back = Builder::for_body(vjp.to);
        let declare =
            |name: &str, place: usize, ty: &Type| back.input(&format!("{name}{place}"), ty.dtype, ty.shape.clone());
        let types = body_input_types(&scan.body);
        let x: Vec<Val<'_>> = types
            .iter()
            .enumerate()
            .map(|(place, ty)| declare("x", place, ty))
            .collect();
        let seed = |name: &str, result: usize| declare(name, result, &body_outputs[result]);
        let carried_seeds: Vec<Val<'_>> = carried.iter().map(|&result| seed("carried_seed", result)).collect();
        let stacked_seeds: Vec<Val<'_>> = stacked
            .iter()
            .map(|&(result, _)| seed("stacked_seed", result))
            .collect();
        let forward = back.inline_all(&scan.body, &x);
        let outputs: Vec<Val<'_>> = scan.body.outputs.iter().map(|(_, id)| forward[id.at()]).collect();
        let results = carried.iter().copied().chain(stacked.iter().map(|(result, _)| *result));
        let seeds: Vec<(Val<'_>, Val<'_>)> = results
            .zip(carried_seeds.iter().chain(&stacked_seeds))
            .map(|(result, &seed)| (outputs[result], seed))
            .collect();
        let wrt: Vec<Val<'_>> = [&carried, &wanted_sliced, &wanted_constants]
            .into_iter()
            .flatten()
            .map(|&place| x[place])
            .collect();
        let gradients = grad_from(&seeds, &wrt);
        let named_gradients = gradients
            .iter()
            .enumerate()
            .map(|(place, &val)| (format!("y{place}"), val));
        let graph = back.finish(named_gradients)?;
        let ids = |vals: &[Val<'_>]| -> Vec<NodeId> { vals.iter().map(|val| val.id()).collect() };
        let mut gradients = ids(&gradients).into_iter();
        let carried_gradients: Vec<NodeId> = gradients.by_ref().take(carried.len()).collect();
        let forward = forward.iter().map(|val| (!val.is_poison()).then(|| val.id())).collect();
        Ok(Draft {
            graph,
            forward,
            x: ids(&x),
            carried_seeds: carried.into_iter().zip(ids(&carried_seeds)).collect(),
            stacked_seeds: stacked
                .iter()
                .map(|(result, _)| *result)
                .zip(ids(&stacked_seeds))
                .collect(),
            stacked_seed_vals: stacked.iter().map(|(_, val)| *val).collect(),
            carried_gradients,
            sliced_gradients: wanted_sliced.into_iter().zip(gradients.by_ref()).collect(),
            constant_gradients: wanted_constants.into_iter().zip(gradients).collect(),
        })
    }

    /// What to save of the step forwards: from the end, every contraction and dear function that is still needed, or, as it takes no more
    /// memory, the last function or part of it alone that nothing else comes between.
    fn saved(&self, scan: &Scan) -> Vec<Save> {
        let is_forward: HashSet<NodeId> = self.forward.iter().flatten().copied().collect();
        let mut moves = vec![false; scan.body.len()];
        scan.body.inputs()[..scan.carried]
            .iter()
            .for_each(|id| moves[id.at()] = true);
        for (id, node) in scan.body.nodes() {
            moves[id.at()] |= node.args.iter().any(|arg| moves[arg.at()]);
        }
        let mut cuts: HashSet<NodeId> = HashSet::new();
        let mut saved = Vec::new();
        for (id, node) in scan.body.nodes().rev() {
            let is_dear = match &node.op {
                // One that does not depend on the step before is computed for all steps at once.
                Op::Einsum(_) => moves[id.at()],
                Op::Map(map) => {
                    let dtypes: Vec<DType> = node.args.iter().map(|&arg| scan.body.ty(arg).dtype).collect();
                    moves[id.at()] && map_cost(map.0, &dtypes, node.ty().dtype).weight >= DEAR
                }
                Op::Conv(_) | Op::Part(_) => true,
                _ => false,
            };
            let Some(start) = self.forward[id.at()].filter(|_| is_dear) else {
                continue;
            };
            let users = self.live_users(&cuts);
            if users[start.at()].is_empty() && !self.graph.outputs.iter().any(|(_, output)| *output == start) {
                continue;
            }
            let mut cut = start;
            while let [user] = users[cut.at()][..]
                && is_forward.contains(&user)
                && matches!(
                    self.graph.node(user).op,
                    Op::Map(_) | Op::View(View::Slice { .. } | View::Reshape(_))
                )
                && self.graph.ty(user).len_bytes() <= self.graph.ty(cut).len_bytes()
                && !self.graph.outputs.iter().any(|(_, output)| *output == cut)
            {
                cut = user;
            }
            if cuts.insert(cut) {
                let body = self
                    .forward
                    .iter()
                    .position(|&at| at == Some(cut))
                    .expect("a node of the body");
                saved.push(Save {
                    body: NodeId(body as u32),
                    draft: cut,
                });
            }
        }
        saved
    }

    /// For each node, the nodes that use it and are needed where the cuts are given.
    fn live_users(&self, cuts: &HashSet<NodeId>) -> Vec<Vec<NodeId>> {
        let mut users: Vec<Vec<NodeId>> = vec![Vec::new(); self.graph.len()];
        let mut live = vec![false; self.graph.len()];
        self.graph.outputs.iter().for_each(|(_, id)| live[id.at()] = true);
        for (id, node) in self.graph.nodes().rev() {
            if live[id.at()] && !cuts.contains(&id) {
                for arg in &node.args {
                    live[arg.at()] = true;
                    if users[arg.at()].last() != Some(&id) {
                        users[arg.at()].push(id);
                    }
                }
            }
        }
        users
    }

    /// Stacks what the contractions that a sum is made of read, and notes what a plain sum may then read too.
    fn contracted(&self, id: NodeId, stacks: &mut Stacks<'g>, summed: &mut HashSet<NodeId>) {
        let node = self.graph.node(id);
        match &node.op {
            Op::Einsum(_) => {
                let kinds: Vec<bool> = node.args.iter().map(|&arg| stacks.is_constant(arg)).collect();
                if kinds != [true, true] {
                    node.args.iter().for_each(|&arg| stacks.of(arg));
                    summed.insert(id);
                }
            }
            Op::Map(map) if *map == Map(&arith::ADD) => {
                node.args.iter().for_each(|&arg| self.contracted(arg, stacks, summed));
            }
            Op::View(view) if is_linear(view) => self.contracted(node.args[0], stacks, summed),
            Op::Fold(fold) if fold.with == Combine::Sum && stacks.is_stacked(node.args[0]) => {
                summed.insert(id);
            }
            _ => {}
        }
    }

    /// How the sum of a value over all steps is found; `None` if only by adding step by step.
    fn total(&self, id: NodeId, summed: &HashSet<NodeId>, carried: &mut Vec<NodeId>) -> Option<Total> {
        let node = self.graph.node(id);
        match &node.op {
            Op::Einsum(einsum) if summed.contains(&id) => {
                Some(Total::Einsum(einsum.clone(), [node.args[0], node.args[1]]))
            }
            Op::Fold(fold) if summed.contains(&id) => Some(Total::Fold(fold.clone(), node.args[0])),
            Op::Map(map) if *map == Map(&arith::ADD) => {
                let [a, b] = [0, 1].map(|place| self.total(node.args[place], summed, carried));
                if a.is_none() && b.is_none() {
                    return None;
                }
                let [a, b] = [(a, 0), (b, 1)].map(|(total, place)| {
                    let total = total.unwrap_or_else(|| carry(node.args[place], carried));
                    Box::new(total)
                });
                Some(Total::Add(a, b))
            }
            Op::View(view) if is_linear(view) => {
                let inner = self.total(node.args[0], summed, carried)?;
                Some(Total::View(view.clone(), Box::new(inner)))
            }
            _ => None,
        }
    }
}

/// A value that is saved, in the body and in the draft.
struct Save {
    body: NodeId,
    draft: NodeId,
}

/// How the sum of a value over all steps is found.
enum Total {
    /// One contraction over the stacks of these, or one of them constant.
    Einsum(Einsum, [NodeId; 2]),
    /// The sum of a stack.
    Fold(Fold, NodeId),
    /// A view of a sum.
    View(View, Box<Total>),
    /// Two sums.
    Add(Box<Total>, Box<Total>),
    /// The loop's own sum of that number.
    Carried(usize),
}

fn carry(id: NodeId, carried: &mut Vec<NodeId>) -> Total {
    let known = carried.iter().position(|&other| other == id);
    Total::Carried(known.unwrap_or_else(|| {
        carried.push(id);
        carried.len() - 1
    }))
}

/// Whether a view of a sum is the sum of views.
fn is_linear(view: &View) -> bool {
    match view {
        View::Reshape(_) | View::Permute(_) | View::Broadcast(_) | View::Slice { .. } | View::Flip(_) => true,
        View::Windows { .. } => true,
        View::Pad { fill, .. } => !fill.get(0).is_nonzero(),
        View::Concat(_) => false,
    }
}

/// Where the values of all steps of a node of the draft are.
#[derive(Clone, Copy)]
enum Stack<'g> {
    /// The node is one entry of this.
    Outside(Val<'g>),
    /// The node is this in every step.
    Constant(Val<'g>),
    /// The loop stacks it, as what is stacked of that number.
    New(usize),
}

struct Stacks<'g> {
    /// By node of the draft.
    known: Vec<Option<Stack<'g>>>,
    /// What the loop stacks.
    new: Vec<NodeId>,
}

impl Stacks<'_> {
    /// Makes sure that there is a stack.
    fn of(&mut self, id: NodeId) {
        if self.known[id.at()].is_none() {
            self.known[id.at()] = Some(Stack::New(self.new.len()));
            self.new.push(id);
        }
    }

    fn is_constant(&self, id: NodeId) -> bool {
        matches!(self.known[id.at()], Some(Stack::Constant(_)))
    }

    fn is_stacked(&self, id: NodeId) -> bool {
        matches!(self.known[id.at()], Some(Stack::Outside(_) | Stack::New(_)))
    }
}

/// The results of the scan backwards.
struct Results<'a, 'g> {
    whole: Val<'g>,
    stacks: &'a Stacks<'g>,
    first_sum: usize,
    first_stack: usize,
}

impl<'g> Results<'_, 'g> {
    /// The stack of a node, or its constant value, and whether it is a stack.
    fn stack(&self, id: NodeId) -> (Option<Val<'g>>, bool) {
        match self.stacks.known[id.at()] {
            Some(Stack::Outside(val)) => (Some(val), true),
            Some(Stack::Constant(val)) => (Some(val), false),
            Some(Stack::New(number)) => (Some(self.whole.part(self.first_stack + number)), true),
            None => (None, false),
        }
    }

    fn total(&self, total: &Total) -> Val<'g> {
        let to = self.whole.builder();
        match total {
            Total::Carried(number) => self.whole.part(self.first_sum + number),
            Total::Add(a, b) => self.total(a) + self.total(b),
            Total::View(view, inner) => to.push(Op::View(view.clone()), &[self.total(inner)]),
            Total::Fold(fold, id) => {
                let axes = std::iter::once(0)
                    .chain(fold.axes.iter().map(|axis| axis + 1))
                    .collect();
                let fold = Fold { axes, ..fold.clone() };
                let (stack, _) = self.stack(*id);
                to.push(Op::Fold(fold), &[stack.expect("what is summed is stacked")])
            }
            Total::Einsum(einsum, ids) => {
                let time = einsum.free_letter();
                let [left, right] = ids.map(|id| self.stack(id));
                let letters = |letters: &[char], is_stack: bool| -> Vec<char> {
                    is_stack
                        .then_some(time)
                        .into_iter()
                        .chain(letters.iter().copied())
                        .collect()
                };
                let einsum = Einsum {
                    left: letters(&einsum.left, left.1),
                    right: letters(&einsum.right, right.1),
                    out: einsum.out.clone(),
                };
                let operand = |(val, _): (Option<Val<'g>>, bool)| val.expect("what is contracted is stacked");
                to.push(Op::Einsum(einsum), &[operand(left), operand(right)])
            }
        }
    }
}

/// What is carried into each step, and what is saved of it, stacked by a scan that is otherwise the first one.
fn saving<'g>(scan: &Scan, vjp: &Vjp<'_, 'g>, saved: &[Save]) -> (Vec<Val<'g>>, Vec<Val<'g>>) {
    if scan.carried + saved.len() == 0 {
        return (Vec::new(), Vec::new());
    }
    let mut body = Graph::clone(&scan.body);
    let next = body.outputs[..scan.carried].iter().map(|(_, id)| *id);
    let entering = body.inputs()[..scan.carried].iter().copied();
    let all: Vec<NodeId> = next.chain(entering).chain(saved.iter().map(|save| save.body)).collect();
    body.outputs = all
        .iter()
        .enumerate()
        .map(|(place, &id)| (format!("y{place}"), id))
        .collect();
    let scan = Scan {
        body: Arc::new(body),
        ..scan.clone()
    };
    let whole = vjp.to.push(Op::Scan(scan.clone()), &vjp.args);
    let stack = |result: usize| whole.part(result);
    let first_saved = 2 * scan.carried;
    let entering = (scan.carried..first_saved).map(stack).collect();
    (entering, (first_saved..first_saved + saved.len()).map(stack).collect())
}
