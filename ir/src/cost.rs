//! What a node costs: floating-point operations as the graph is written, before any kernel is made.

use std::iter::Sum;
use std::ops::Add;

use crate::graph::{Graph, Node};
use crate::ops::Op;

/// Floating-point operations; a multiplication and the addition of its product are two.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flops {
    /// All of them.
    pub all: f64,
    /// Those of contractions: einsum and convolution.
    pub contractions: f64,
}

impl Add for Flops {
    type Output = Flops;

    fn add(self, other: Flops) -> Flops {
        Flops {
            all: self.all + other.all,
            contractions: self.contractions + other.contractions,
        }
    }
}

impl Sum for Flops {
    fn sum<I: Iterator<Item = Flops>>(each: I) -> Flops {
        each.fold(Flops::default(), Flops::add)
    }
}

/// The floating-point operations of a graph's live nodes.
pub fn total(graph: &Graph) -> Flops {
    let live = graph.live();
    let nodes = graph.nodes().filter(|(id, _)| live[id.at()]);
    nodes.map(|(_, node)| flops(graph, node)).sum()
}

/// The floating-point operations of one node of `graph`: one for each element of an elementwise function, whatever it is; one for each
/// element that a reduction takes in; of a branch the dearer side, of a loop without a fixed length one round.
pub fn flops(graph: &Graph, node: &Node) -> Flops {
    let is_float = node.types.iter().any(|ty| ty.dtype.is_float());
    let results = node.types.first().map_or(0, |ty| ty.count()) as f64;
    let operands: usize = node
        .args
        .iter()
        .filter_map(|arg| graph.node(*arg).types.first())
        .map(|ty| ty.count())
        .sum();
    let shape = |operand: usize| &graph.ty(node.args[operand]).shape;
    let simple = |all: f64| Flops {
        all: if is_float { all } else { 0.0 },
        contractions: 0.0,
    };
    let contraction = |all: f64| Flops { all, contractions: all };
    match &node.op {
        Op::Map(_) => simple(results),
        Op::Fold(_) | Op::Prefix(_) => simple(operands as f64),
        Op::Pool(pool) => simple(results * pool.window.size.iter().product::<usize>() as f64),
        Op::Scatter(_) => simple(graph.node(node.args[node.args.len() - 1]).types[0].count() as f64),
        Op::Einsum(einsum) => {
            let named = |names: &[char], operand: usize| -> Vec<(char, usize)> {
                names.iter().copied().zip(shape(operand).iter().copied()).collect()
            };
            let mut extents = [named(&einsum.left, 0), named(&einsum.right, 1)].concat();
            extents.sort_unstable();
            extents.dedup();
            contraction(2.0 * extents.iter().map(|(_, extent)| *extent as f64).product::<f64>())
        }
        // A dilated operand holds zeros between its elements, which nobody multiplies.
        Op::Conv(conv) => {
            let taps: f64 = shape(1)[1..].iter().map(|extent| *extent as f64).product();
            let gaps: f64 = conv.input_dilation.iter().map(|gap| *gap as f64).product();
            contraction(2.0 * results * taps / gaps)
        }
        Op::Scan(scan) => {
            let each = total(&scan.body);
            let steps = scan.length as f64;
            Flops {
                all: each.all * steps,
                contractions: each.contractions * steps,
            }
        }
        Op::If(branch) => {
            let (then, otherwise) = (total(&branch.then), total(&branch.otherwise));
            if then.all >= otherwise.all { then } else { otherwise }
        }
        Op::While(repeat) => total(&repeat.condition) + total(&repeat.body),
        Op::Input(_)
        | Op::Const(_)
        | Op::Iota(_)
        | Op::View(_)
        | Op::Gather(_)
        | Op::Random(_)
        | Op::Sort(_)
        | Op::Part(_) => Flops::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    fn of(source: &str) -> (f64, f64) {
        let program = text::parse_program("p", source).expect("a program");
        let flops = total(&program.entries[0].graph);
        (flops.all, flops.contractions)
    }

    #[test]
    fn operations_by_hand() {
        let dense =
            "graph(x: f32[8,64], w: f32[64,16]) {\n%0 = einsum \"mk,kn->mn\" x, w\n%1 = max %0, 0.0\nreturn %1\n}";
        assert_eq!(
            of(dense),
            (2.0 * 8.0 * 64.0 * 16.0 + 8.0 * 16.0, 2.0 * 8.0 * 64.0 * 16.0)
        );
        let dead = "graph(x: f32[8]) {\n%0 = exp x\n%1 = sum %0 axes=[0]\n%2 = neg x\nreturn %1\n}";
        assert_eq!(of(dead), (8.0 + 8.0, 0.0));
        let integers = "graph(x: i64[8]) {\n%0 = add x, x\nreturn %0\n}";
        assert_eq!(of(integers), (0.0, 0.0));
    }

    #[test]
    fn convolutions_count_the_kernel_of_each_result_and_no_inserted_zero() {
        use crate::ops::Conv;
        use crate::{Builder, DType};
        let count = |conv: Conv| {
            let b = Builder::new();
            let (x, w) = (b.input("x", DType::F32, [1, 4, 9]), b.input("w", DType::F32, [6, 2, 3]));
            total(&b.finish([("y", x.conv(w, conv))]).expect("a graph")).all
        };
        let grouped = Conv {
            groups: 2,
            ..Conv::unit(1)
        };
        assert_eq!(count(grouped.clone()), 2.0 * (6.0 * 7.0) * (2.0 * 3.0));
        let spread = Conv {
            input_dilation: vec![2],
            ..grouped
        };
        assert_eq!(count(spread), 2.0 * (6.0 * 15.0) * (2.0 * 3.0) / 2.0);
    }
}
