//! Symbolic reverse-mode gradients: graph in, graph out.
//!
//! A reverse walk over the nodes; what each op contributes is its class's [`Rules::grad`](crate::ops::Rules::grad), so no op's
//! name appears here. Rules are written with the builder, in the same ops, so gradients of gradients work.

#[cfg(test)]
pub(crate) mod check;

use crate::builder::{Builder, Val};
use crate::graph::{Node, NodeId};
use crate::ops::Op;
use crate::ops::view::joined;

/// What a gradient rule is given: the node, its operands and results as values, and the gradients that arrive at its results.
pub struct Vjp<'a, 'g> {
    /// The graph being extended.
    pub to: &'g Builder,
    /// The node differentiated.
    pub node: &'a Node,
    /// Its operands.
    pub args: Vec<Val<'g>>,
    /// The node itself; for a node with several results take them with [`Val::part`].
    pub out: Val<'g>,
    /// The gradient of the single result. For a node with several, that of the first that has one.
    pub seed: Val<'g>,
    /// The gradient of each result; `None` where none arrives.
    pub seeds: Vec<Option<Val<'g>>>,
    /// For each operand, whether its gradient is wanted; a rule may give others too, they are dropped.
    pub wanted: Vec<bool>,
}

/// Adds to the graph the gradient of the scalar `loss` with respect to each of `wrt`, and gives the gradients. Where `loss` does
/// not depend on a value its gradient is zeros.
#[track_caller]
pub fn grad<'g>(loss: Val<'g>, wrt: &[Val<'g>]) -> Vec<Val<'g>> {
    let ty = loss.ty();
    let is_float_scalar = ty.dtype.is_float() && ty.rank() == 0;
    if !loss.is_poison() && !is_float_scalar {
        let message = format!("grad: the loss must be a float scalar, found {loss}; sum it, or use `grad_from`");
        return vec![loss.builder().problem(message); wrt.len()];
    }
    grad_from(&[(loss, loss.lit(1.0))], wrt)
}

/// As [`grad`], from any number of values with the gradient that arrives at each.
#[track_caller]
pub fn grad_from<'g>(seeds: &[(Val<'g>, Val<'g>)], wrt: &[Val<'g>]) -> Vec<Val<'g>> {
    let Some(to) = wrt.first().map(|val| val.builder()) else {
        return Vec::new();
    };
    let given = seeds.iter().flat_map(|&(val, seed)| [val, seed]);
    if let Some(poison) = given.chain(wrt.iter().copied()).find(|val| val.is_poison()) {
        return vec![poison; wrt.len()];
    }
    // Loops, not closures, which would lose the caller's place.
    let mut wrong = None;
    for (val, seed) in seeds {
        if val.ty() != seed.ty() {
            let message = format!("grad: the gradient that arrives at {val} must have its type, found {seed}");
            wrong = Some(to.problem(message));
        }
    }
    for val in wrt {
        if !val.dtype().is_float() {
            let message = format!("grad: only a float has a gradient, found {val}; convert it and use the result");
            wrong = Some(to.problem(message));
        }
    }
    if let Some(poison) = wrong {
        return vec![poison; wrt.len()];
    }

    // A rule pushes nodes behind those walked, so the walk's end is fixed here.
    let end = seeds.iter().map(|(val, _)| val.id().at() + 1).max().unwrap_or(0);
    let wanted = depends_on(to, wrt, end);
    let mut arrived = Arrived {
        seeds: vec![Vec::new(); end],
    };
    for &(val, seed) in seeds {
        arrived.add(val.id(), 0, 1, seed);
    }
    for at in (0..end).rev() {
        if wanted[at] && arrived.seeds[at].iter().any(|shares| !shares.is_empty()) {
            walk(to, NodeId(at as u32), &wanted, &mut arrived);
        }
    }
    let gradient = |val: &Val<'g>| {
        let arrived = arrived.seeds.get(val.id().at()).and_then(|seeds| total(seeds.first()?));
        arrived.unwrap_or_else(|| to.full(val.dtype(), val.shape(), 0.0))
    };
    wrt.iter().map(gradient).collect()
}

/// What has arrived so far at each result of each node; its gradient is the sum.
struct Arrived<'g> {
    seeds: Vec<Vec<Vec<Val<'g>>>>,
}

impl<'g> Arrived<'g> {
    /// Adds a contribution to result `part` of the `count` results of a node.
    fn add(&mut self, id: NodeId, part: usize, count: usize, seed: Val<'g>) {
        let seeds = &mut self.seeds[id.at()];
        seeds.resize(count, Vec::new());
        seeds[part].push(seed);
    }
}

/// The sum of what has arrived. Where a value was cut into parts, their gradients stand side by side.
fn total<'g>(shares: &[Val<'g>]) -> Option<Val<'g>> {
    let shares = joined(shares);
    shares.into_iter().reduce(|sum, share| sum + share)
}

/// For each of the first `end` nodes, whether a gradient through it reaches one of `wrt`: it is one, or an operand reaches and
/// a result is a float.
fn depends_on(to: &Builder, wrt: &[Val<'_>], end: usize) -> Vec<bool> {
    let mut depends = vec![false; end];
    for val in wrt {
        if let Some(depends) = depends.get_mut(val.id().at()) {
            *depends = true;
        }
    }
    let first = depends.iter().position(|&depends| depends).unwrap_or(end);
    for at in first..end {
        if !depends[at] {
            let node = to.node(NodeId(at as u32));
            let reaches = node.args.iter().any(|arg| depends[arg.at()]);
            depends[at] = reaches && node.types.iter().any(|ty| ty.dtype.is_float());
        }
    }
    depends
}

/// Passes what has arrived at a node on to its operands. What its rule adds to the graph has the node's own place.
fn walk<'g>(to: &'g Builder, id: NodeId, wanted: &[bool], arrived: &mut Arrived<'g>) {
    let node = to.node(id);
    let place = to.set_place(Some(node.loc.clone()));
    let seeds: Vec<Option<Val<'g>>> = arrived.seeds[id.at()].iter().map(|shares| total(shares)).collect();
    let seed = seeds.iter().flatten().next().copied().expect("a gradient has arrived");
    if let Op::Part(part) = node.op {
        let whole = node.args[0];
        arrived.add(whole, part, to.node(whole).types.len(), seed);
    } else if node.args.iter().any(|arg| wanted[arg.at()]) {
        let vjp = Vjp {
            to,
            node: &node,
            args: node.args.iter().map(|&arg| to.val(arg)).collect(),
            out: to.val(id),
            seed,
            seeds,
            wanted: node.args.iter().map(|arg| wanted[arg.at()]).collect(),
        };
        let shares = node.op.rules().grad(&vjp);
        assert_eq!(
            shares.len(),
            node.args.len(),
            "gradients that `{}` gives its operands",
            node.op.name()
        );
        for ((&arg, share), val) in node.args.iter().zip(shares).zip(&vjp.args) {
            let Some(share) = share.filter(|_| wanted[arg.at()]) else {
                continue;
            };
            if !share.is_poison() {
                assert_eq!(
                    share.ty(),
                    val.ty(),
                    "type of the gradient that `{}` gives {arg}",
                    node.op.name()
                );
            }
            arrived.add(arg, 0, 1, share);
        }
    }
    to.set_place(place);
}
