//! Watching for NaN and infinity: a graph that also tells which of its values hold one, and who made the first.
//!
//! Made from a graph before it is improved, so that operations are the user's own; compiled and run in place of it, on any device. Each value
//! gets a *level* as a further result: 0 if all its elements are finite, 1 if there are infinities, 2 if there are NaN. Afterwards
//! [`Watched::culprit`] goes back from a result that is not finite to operands that are not, as far as there are any: an infinity that never
//! reaches a result, as in `1 / (1 + exp(1000))`, is nobody's fault. Within a loop the levels of one step are not those of the next, so there each
//! operation whose level is above those of its operands is remembered instead.

use std::collections::HashMap;
use std::fmt;

use crate::builder::{Builder, Val};
use crate::dtype::{DType, Scalar};
use crate::error::Loc;
use crate::graph::{Graph, Node, NodeId};
use crate::ops::{Op, Scan, View};

/// A graph with the levels of its values as further results.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Computes what `of` does; what [`Watched::culprit`] asks for comes after its results.
    pub graph: Graph,
    /// The graph watched.
    of: Graph,
    /// For the loops of `of`, the operations of their bodies that may be to blame.
    loops: HashMap<NodeId, Vec<NodeId>>,
}

/// Who made the first NaN or infinity.
#[derive(Clone, Debug, PartialEq)]
pub struct Culprit {
    /// What was made.
    pub kind: Kind,
    /// The operation, as the text form writes it, or the argument or state that held it before.
    pub what: String,
    /// Where it came from.
    pub loc: Loc,
}

/// What is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A NaN.
    Nan,
    /// An infinity.
    Infinity,
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Nan => "NaN",
            Kind::Infinity => "infinity",
        };
        write!(f, "the first {kind} comes from {} at {}", self.what, self.loc)
    }
}

impl Watched {
    /// Watches a graph.
    ///
    /// # Panics
    /// If the graph is not valid.
    pub fn new(graph: &Graph) -> Watched {
        let builder = Builder::new();
        let mut vals: Vec<Option<Val<'_>>> = vec![None; graph.len()];
        let mut loops: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
        let live = graph.live();
        let is_input = |id: &NodeId| matches!(graph.node(*id).op, Op::Input(_));
        let inputs = graph.inputs().iter().copied();
        for id in inputs.chain(graph.ids().filter(|id| live[id.at()] && !is_input(id))) {
            let node = graph.node(id);
            let args: Vec<Val<'_>> = node.args.iter().filter_map(|arg| vals[arg.at()]).collect();
            builder.set_place(Some(node.loc.clone()));
            vals[id.at()] = Some(match &node.op {
                Op::Scan(scan) => {
                    let suspects = suspects(&scan.body);
                    let zero = builder.scalar(DType::F32, 0.0);
                    let (carried, rest) = args.split_at(scan.carried);
                    let args = [carried, &vec![zero; suspects.len()], rest].concat();
                    let watched = Op::Scan(watched_loop(scan, &suspects));
                    loops.insert(id, suspects);
                    builder.push(watched, &args)
                }
                Op::Part(part) => {
                    let further = match (&graph.node(node.args[0]).op, loops.get(&node.args[0])) {
                        (Op::Scan(scan), Some(suspects)) if *part >= scan.carried => suspects.len(),
                        _ => 0,
                    };
                    args[0].part(part + further)
                }
                op => builder.push(op.clone(), &args),
            });
        }
        let mut outputs: Vec<(String, Val<'_>)> = Vec::new();
        for (name, id) in &graph.outputs {
            outputs.push((name.clone(), vals[id.at()].expect("a result is live")));
        }
        for (id, val) in graph.ids().filter_map(|id| Some((id, vals[id.at()]?))) {
            builder.set_place(Some(graph.node(id).loc.clone()));
            if let Some(suspects) = loops.get(&id) {
                let Op::Scan(scan) = &graph.node(id).op else {
                    unreachable!("only a scan is a loop")
                };
                let made = (0..suspects.len()).map(|number| val.part(scan.carried + number));
                outputs.extend(suspects.iter().zip(made).map(|(at, made)| (name_within(id, *at), made)));
            } else if has_level(graph.node(id)) {
                outputs.push((name(id), level(val)));
            }
        }
        let watched = builder.finish(outputs);
        Watched {
            graph: watched.unwrap_or_else(|problems| panic!("watching a valid graph: {problems}")),
            of: graph.clone(),
            loops,
        }
    }

    /// Who made the first NaN or infinity that reached a result or a state, if one did; `result` gives the scalar result of that name.
    pub fn culprit(&self, result: impl Fn(&str) -> Option<f64>) -> Option<Culprit> {
        let level = |id: NodeId| match &self.of.node(id).op {
            Op::Const(_) => 0.0,
            _ => result(&name(id)).unwrap_or(0.0),
        };
        let mut outputs = self.of.outputs.iter().map(|(_, id)| *id);
        let mut id = outputs.find(|&id| level(id) > 0.0)?;
        let kind = |level: f64| if level > 1.0 { Kind::Nan } else { Kind::Infinity };
        loop {
            let node = self.of.node(id);
            // A part is made by what its loop or branch is given.
            let maker = match node.op {
                Op::Part(_) => node.args[0],
                _ => id,
            };
            let operands = &self.of.node(maker).args;
            let worst = operands.iter().copied().filter(|&arg| level(arg) > 0.0);
            // Of operands equally bad the first.
            if let Some(worst) = worst.rev().max_by(|&a, &b| level(a).total_cmp(&level(b))) {
                id = worst;
                continue;
            }
            if let (Op::Scan(scan), Some(suspects)) = (&self.of.node(maker).op, self.loops.get(&maker)) {
                let made = |at: &NodeId| result(&name_within(maker, *at)).unwrap_or(0.0);
                if let Some(&at) = suspects.iter().find(|at| made(at) > 0.0) {
                    return Some(Culprit {
                        kind: kind(made(&at)),
                        what: format!("{} in the loop {maker}", what(&scan.body, at)),
                        loc: scan.body.node(at).loc.clone(),
                    });
                }
            }
            return Some(Culprit {
                kind: kind(level(id)),
                what: what(&self.of, maker),
                loc: self.of.node(maker).loc.clone(),
            });
        }
    }
}

/// What the result with a value's level is called.
fn name(id: NodeId) -> String {
    format!("level_{}", id.0)
}

/// What the result is called that remembers what a node within a loop made.
fn name_within(outer: NodeId, id: NodeId) -> String {
    format!("level_{}_{}", outer.0, id.0)
}

fn what(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let types: Vec<String> = node.types.iter().map(ToString::to_string).collect();
    match &node.op {
        Op::Input(input) => format!("`{}`, given as {}", input.name, types.join(", ")),
        op => format!("`{}` ({id}, {})", op.name(), types.join(", ")),
    }
}

/// Whether a node's value can hold a NaN or an infinity; constants hold what the user wrote.
fn has_level(node: &Node) -> bool {
    !matches!(node.op, Op::Const(_)) && matches!(&node.types[..], [ty] if ty.dtype.is_float())
}

/// The nodes of a body that may make a NaN or an infinity of finite operands.
fn suspects(body: &Graph) -> Vec<NodeId> {
    let live = body.live();
    let may = |id: &NodeId| {
        let node = body.node(*id);
        live[id.at()] && has_level(node) && !matches!(node.op, Op::Input(_) | Op::View(_))
    };
    body.ids().filter(may).collect()
}

/// The loop with further carried values: for each suspect, the worst that it has made so far.
fn watched_loop(scan: &Scan, suspects: &[NodeId]) -> Scan {
    let body = &scan.body;
    let builder = Builder::new();
    let declare = |id: &NodeId| {
        let Op::Input(input) = &body.node(*id).op else {
            unreachable!("`inputs` lists inputs")
        };
        builder.input(&input.name, input.ty.dtype, input.ty.shape.clone())
    };
    let (carried, rest) = body.inputs().split_at(scan.carried);
    let mut inputs: Vec<Val<'_>> = carried.iter().map(declare).collect();
    let names = suspects.iter().map(|id| name(*id));
    let worst: Vec<Val<'_>> = names.map(|name| builder.input(&name, DType::F32, [])).collect();
    inputs.extend(rest.iter().map(declare));
    let vals = builder.inline_all(body, &inputs);
    let made = suspects.iter().zip(worst).map(|(id, worst)| {
        let own = level(vals[id.at()]);
        let operands = body.node(*id).args.iter();
        let levels = operands.filter(|arg| matches!(&body.node(**arg).types[..], [ty] if ty.dtype.is_float()));
        let before = levels.map(|arg| level(vals[arg.at()])).reduce(|a, b| a.max(b));
        let made = match before {
            Some(before) => own.gt(before).select(own, 0.0),
            None => own,
        };
        worst.max(made)
    });
    let made: Vec<Val<'_>> = made.collect();
    let outputs: Vec<Val<'_>> = body.outputs.iter().map(|(_, id)| vals[id.at()]).collect();
    let (next, stacked) = outputs.split_at(scan.carried);
    let outputs = next.iter().chain(&made).chain(stacked).copied().enumerate();
    let graph = builder.finish(outputs.map(|(place, val)| (format!("y{place}"), val)));
    Scan {
        body: graph
            .unwrap_or_else(|problems| panic!("watching a valid loop: {problems}"))
            .into(),
        carried: scan.carried + suspects.len(),
        ..scan.clone()
    }
}

/// 2 if a value holds a NaN, 1 if only infinities, otherwise 0.
fn level(val: Val<'_>) -> Val<'_> {
    let node = val.builder().node(val.id());
    match &node.op {
        Op::Const(tensor) => {
            let worst = tensor.scalars().map(|scalar| match scalar {
                Scalar::Float(x) if x.is_nan() => 2.0,
                Scalar::Float(x) if x.is_infinite() => 1.0,
                _ => 0.0,
            });
            val.builder().scalar(DType::F32, worst.fold(0.0, f64::max))
        }
        // The same elements elsewhere.
        Op::View(View::Reshape(_) | View::Permute(_) | View::Flip(_)) => level(val.builder().val(node.args[0])),
        _ => {
            let number = |level: f64| val.builder().scalar(DType::F32, level);
            let each = val.is_nan().select(number(2.0), val.is_inf().select(number(1.0), 0.0));
            let axes: Vec<usize> = (0..val.rank()).collect();
            // The greatest of nothing is minus infinity.
            each.max_over(axes).max(0.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::compound::Steps;
    use crate::oracle;
    use crate::tensor::Tensor;

    /// Runs a graph of `x: f32[3]` watched, and says who is to blame; its own results must be as without.
    fn blamed(graph: &Graph, x: [f32; 3]) -> String {
        let inputs = [("x", Tensor::from_f32([3], &x))];
        let watched = Watched::new(graph);
        let results = oracle::run(&watched.graph, &inputs).expect("inputs fit");
        let plain = oracle::run(graph, &inputs).expect("inputs fit");
        for ((name, found), (_, expected)) in results.iter().zip(&plain) {
            let bits = |tensor: &Tensor| tensor.to_f32().iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(found), bits(expected), "{name}");
        }
        let level = |wanted: &str| {
            let (_, value) = results.iter().find(|(name, _)| name == wanted)?;
            Some(value.get(0).as_f64())
        };
        watched
            .culprit(level)
            .map_or("nobody".to_owned(), |culprit| culprit.to_string())
    }

    /// The same for what a function makes of `x`.
    fn blamed_in(make: impl for<'g> Fn(Val<'g>) -> Val<'g>, x: [f32; 3]) -> String {
        let builder = Builder::new();
        let x_val = builder.input("x", DType::F32, [3]);
        let graph = builder.finish([("y", make(x_val))]).expect("a graph");
        blamed(&graph, x)
    }

    #[test]
    fn the_operation_that_made_the_first_is_named_with_its_line() {
        let line = line!() + 1;
        let found = blamed_in(|x| ((x + 1.0).sqrt() * 2.0).sum_all(), [0.0, -2.0, 1.0]);
        assert_eq!(
            found,
            format!("the first NaN comes from `sqrt` (%4, f32[3]) at {}:{line}", file!())
        );
    }

    #[test]
    fn an_infinity_is_to_blame_for_the_nan_that_follows() {
        let found = blamed_in(
            |x| {
                let e = x.exp();
                e - e * 2.0
            },
            [0.0, 100.0, 1.0],
        );
        assert!(found.starts_with("the first infinity comes from `exp` ("), "{found}");
    }

    #[test]
    fn an_infinity_that_reaches_no_result_is_nobody_s_fault() {
        let found = blamed_in(|x| 1.0 / ((-x).exp() + 1.0), [0.0, -1000.0, 1.0]);
        assert_eq!(found, "nobody");
    }

    #[test]
    fn what_the_caller_gives_is_named_as_such() {
        let found = blamed_in(|x| x.reshape([3, 1]) + 1.0, [0.0, f32::NAN, 1.0]);
        assert!(
            found.starts_with("the first NaN comes from `x`, given as f32[3] at "),
            "{found}"
        );
    }

    #[test]
    fn constants_may_be_infinite() {
        fn masked(x: Val<'_>) -> Val<'_> {
            x.gt(0.0).select(x, f64::NEG_INFINITY).softmax(0)
        }
        assert_eq!(blamed_in(masked, [1.0, -1.0, 2.0]), "nobody");
        let found = blamed_in(masked, [-1.0, -1.0, -2.0]);
        assert!(found.starts_with("the first "), "{found}");
    }

    #[test]
    fn operations_within_loops_are_named() {
        let builder = Builder::new();
        let x = builder.input("x", DType::F32, [3]);
        let steps = Steps {
            length: 3,
            carried: vec![builder.scalar(DType::F32, 1.0)],
            sliced: vec![x],
            constants: vec![],
            reverse: false,
        };
        let (last, stacked) = builder.scan(steps, |_, step| {
            let next = (step.carried[0] - step.sliced[0]).log();
            (vec![next], vec![next * 2.0])
        });
        let graph = builder
            .finish([("last", last[0]), ("all", stacked[0])])
            .expect("a graph");
        // ln(1 - 0.5), then the logarithm of something negative, whose NaN the third step only passes on.
        let found = blamed(&graph, [0.5, 0.25, 0.25]);
        assert!(found.starts_with("the first NaN comes from `log` (%"), "{found}");
        assert!(found.contains(", f32[]) in the loop %"), "{found}");
        assert_eq!(blamed(&graph, [0.0, -1.0, -1.0]), "nobody");
    }
}
