//! Improving a graph: functions from graph to graph, in an order that is data.
//!
//! The driver, [`run`], verifies the graph after each pass, times it, shows it to an observer, and names the culprit if it is broken; a
//! pass does none of these. Bodies of scan, if and while are improved by a pass of their own, which runs all passes on each. What passes change is exact: the
//! outputs have the same bits before and after, where a NaN counts as any other.

pub mod fold;
pub mod motion;
pub mod scan;
pub mod simplify;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dtype::{DType, Scalar};
use crate::graph::{Graph, NodeId, Rebuild};
use crate::ops::{Op, View};
use crate::target::Target;
use crate::tensor::Tensor;
use crate::verify::{has_bodies, verify};

/// A pass, and why it stands where it does.
pub struct Pass {
    /// The name in dumps and messages.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Graph, &Target) -> Graph,
    /// Whether it changes loops and branches alone: graphs without them are not shown to it.
    pub bodies_only: bool,
    /// The passes it comes after, each with the reason.
    pub after: &'static [(&'static str, &'static str)],
}

/// Every pass, in order. The list is run again while it changes something, [`MAX_ROUNDS`] times at most.
pub static PASSES: &[Pass] = &[
    Pass {
        name: "merge",
        run: scan::merge::merge,
        bodies_only: true,
        after: &[],
    },
    Pass {
        name: "bodies",
        run: improve_bodies,
        bodies_only: true,
        after: &[("merge", "a body that gives more results is improved as one")],
    },
    Pass {
        name: "hoist",
        run: scan::hoist::hoist,
        bodies_only: true,
        after: &[(
            "bodies",
            "views stand where they cost nothing, and contractions have absorbed theirs",
        )],
    },
    Pass {
        name: "sink",
        run: scan::sink::sink,
        bodies_only: true,
        after: &[(
            "hoist",
            "what depends on the entries of a step alone has moved in front already",
        )],
    },
    Pass {
        name: "trim",
        run: scan::trim::trim,
        bodies_only: true,
        after: &[(
            "sink",
            "what has moved out leaves operands that nothing reads and results that nothing uses",
        )],
    },
    Pass {
        name: "motion",
        run: motion::move_views,
        bodies_only: false,
        after: &[],
    },
    Pass {
        name: "fold",
        run: fold::fold_constants,
        bodies_only: false,
        after: &[(
            "motion",
            "an op on broadcasts of scalars has become a broadcast of an op on scalars, which is small enough to fold",
        )],
    },
    Pass {
        name: "simplify",
        run: simplify::simplify,
        bodies_only: false,
        after: &[(
            "fold",
            "the constant that an equation asks for may be the result of other ops",
        )],
    },
];

/// Each round is linear in the nodes, and what a second one finds is rarely more than a view that an equation laid bare; more rounds
/// would not pay.
pub const MAX_ROUNDS: usize = 3;

/// One run of one pass, for an observer.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The pass.
    pub pass: &'static str,
    /// How often the list had been run before.
    pub round: usize,
    /// The graph after it.
    pub graph: &'a Graph,
    /// How long it took, without verification.
    pub took: Duration,
}

/// The graph after all passes. One that says how it is cut is past them.
///
/// # Panics
/// If a pass fails or leaves a broken graph; the message names it and says what is wrong.
pub fn run(graph: &Graph, target: &Target, observer: &mut dyn FnMut(Step<'_>)) -> Graph {
    run_list(PASSES, graph, target, observer)
}

/// The same with other passes than [`PASSES`].
///
/// # Panics
/// As [`run`].
pub fn run_list(passes: &[Pass], graph: &Graph, target: &Target, observer: &mut dyn FnMut(Step<'_>)) -> Graph {
    let mut improved = graph.clone();
    if graph.is_cut() {
        return improved;
    }
    for round in 0..MAX_ROUNDS {
        let mut graph = Cow::Borrowed(&improved);
        for pass in passes {
            if let Some(changed) = run_pass(pass, &graph, target, round, observer) {
                graph = Cow::Owned(changed);
            }
        }
        let is_done = *graph == improved;
        improved = graph.into_owned();
        if is_done {
            break;
        }
    }
    improved
}

/// The graph after a pass; `None` if the pass does not look at such graphs.
fn run_pass(
    pass: &Pass,
    graph: &Graph,
    target: &Target,
    round: usize,
    observer: &mut dyn FnMut(Step<'_>),
) -> Option<Graph> {
    if pass.bodies_only && !graph.nodes().any(|(_, node)| has_bodies(&node.op)) {
        observer(Step {
            pass: pass.name,
            round,
            graph,
            took: Duration::ZERO,
        });
        return None;
    }
    let start = Instant::now();
    // A pass does not change its graph, so what a failed one leaves behind is not seen.
    let result = catch_unwind(AssertUnwindSafe(|| (pass.run)(graph, target)));
    let took = start.elapsed();
    let graph = result.unwrap_or_else(|failure| {
        let message = match (failure.downcast_ref::<String>(), failure.downcast_ref::<&str>()) {
            (Some(text), _) => text,
            (None, Some(text)) => *text,
            (None, None) => "it failed without a message",
        };
        panic!("in pass `{}`: {message}", pass.name)
    });
    if let Err(problems) = verify(&graph) {
        panic!("after pass `{}`: {problems}", pass.name);
    }
    observer(Step {
        pass: pass.name,
        round,
        graph: &graph,
        took,
    });
    Some(graph)
}

/// Improves the bodies of loops and branches, by all passes.
fn improve_bodies(graph: &Graph, target: &Target) -> Graph {
    graph.with_bodies(|body| run(body, target, &mut |_| {}))
}

/// The scalar constant that a node is everywhere: a scalar constant, or a broadcast of one.
fn splat(graph: &Graph, id: NodeId) -> Option<&Arc<Tensor>> {
    let node = graph.node(id);
    match &node.op {
        Op::Const(tensor) if tensor.shape().is_empty() => Some(tensor),
        Op::View(View::Broadcast(_)) => match &graph.node(node.args[0]).op {
            Op::Const(tensor) if tensor.shape().is_empty() => Some(tensor),
            _ => None,
        },
        _ => None,
    }
}

/// A scalar constant repeated to a shape.
fn push_splat(to: &mut Rebuild, scalar: Arc<Tensor>, shape: &[usize]) -> NodeId {
    let scalar = to.push(Op::Const(scalar), &[]);
    match shape {
        [] => scalar,
        _ => to.push(Op::View(View::Broadcast(shape.to_vec())), &[scalar]),
    }
}

/// The same with a number.
fn push_number(to: &mut Rebuild, dtype: DType, value: f64, shape: &[usize]) -> NodeId {
    push_splat(
        to,
        Arc::new(Tensor::scalar(dtype, Scalar::from_f64(value, dtype))),
        shape,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::TargetKind;
    use crate::{Builder, DType, Loc};

    const TARGET: Target = Target {
        kind: TargetKind::Cpu,
        vector_lanes: 8,
        vector_registers: 16,
        invocations: 1,
        share_from: Target::SHARE_FROM,
        product_bytes: 0,
        workgroups: false,
        winograd: false,
        f16: false,
        pieces: false,
        matrices: None,
        tuned: crate::decisions::Tuned::NOTHING,
    };

    fn small() -> Graph {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [4]);
        b.finish([("y", x * 1.0)]).unwrap()
    }

    #[test]
    fn the_order_keeps_its_reasons() {
        for (place, pass) in PASSES.iter().enumerate() {
            for (earlier, reason) in pass.after {
                assert!(
                    PASSES[..place].iter().any(|other| other.name == *earlier),
                    "{}: {reason}",
                    pass.name
                );
            }
        }
    }

    #[test]
    fn every_step_is_shown() {
        let mut seen = Vec::new();
        run(&small(), &TARGET, &mut |step| {
            seen.push((step.round, step.pass, step.graph.len()))
        });
        let expected = [
            (0, "motion", 4),
            (0, "fold", 4),
            (0, "simplify", 3),
            (1, "merge", 3),
            (1, "bodies", 3),
        ];
        // The equation leaves the constant behind, and passes for bodies are not run.
        assert_eq!(seen[5..10], expected);
    }

    #[test]
    fn a_broken_pass_is_named() {
        let message = |run: fn(&Graph, &Target) -> Graph| {
            let pass = Pass {
                name: "broken",
                run,
                bodies_only: false,
                after: &[],
            };
            let failure = catch_unwind(|| run_list(&[pass], &small(), &TARGET, &mut |_| {})).unwrap_err();
            failure.downcast_ref::<String>().unwrap().clone()
        };
        let dangling = message(|graph, _| {
            let mut graph = graph.clone();
            graph.outputs[0].1 = NodeId(99);
            graph
        });
        assert_eq!(
            dangling,
            "after pass `broken`: the output `y` is %99, which does not exist"
        );
        let failed = message(|graph, _| {
            let mut graph = graph.clone();
            let no_operand = graph.push(Op::View(View::Flip(vec![])), vec![], Loc::None);
            no_operand.map(|_| graph).expect("this cannot work")
        });
        assert!(failed.starts_with("in pass `broken`: this cannot work"), "{failed}");
    }
}
