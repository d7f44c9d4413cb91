//! How far code may be from the definition.
//!
//! What one node may add is derived: an elementwise function its row's bound; a sum of `n` terms `min(n, 8 √n)` roundings of the sum of
//! their magnitudes (N. Higham, T. Mary, "A new approach to probabilistic rounding error analysis", 2019: beyond 8 √n the odds are below
//! 10⁻¹²); all else nothing. A device that does not promise to keep subnormals may take them for zero, one that does not promise to keep
//! infinities and NaN may give anything instead. What reaches the end of a piece from its earlier nodes is estimated: the oracle runs the piece again with each
//! node's results moved by all that it may add, up or down by lot, and the greatest effect on an output counts twice.

use std::sync::Arc;

use netloom_ir::graph::{Graph, Node};
use netloom_ir::kernel::Combine;
use netloom_ir::ops::pool::PoolKind;
use netloom_ir::sample::SplitMix;
use netloom_ir::{DType, Op, Scalar, Tensor, cost, oracle};

use crate::device::Floats;

/// How often the lots are drawn.
const TRIALS: u64 = 4;

/// What a piece should give on some inputs.
pub struct Judgement {
    outputs: Vec<(Arc<Tensor>, Vec<f64>)>,
}

/// How an output compares.
pub struct Worst {
    /// The greatest difference as a share of what is allowed.
    pub share: f64,
    /// Where it is.
    pub element: usize,
    /// What is allowed there.
    pub allowed: f64,
}

impl Judgement {
    /// Runs the oracle.
    ///
    /// # Panics
    /// If the inputs, which are called by their numbers, do not fit.
    pub fn of(piece: &Graph, inputs: &[Tensor]) -> Judgement {
        let names: Vec<String> = (0..inputs.len()).map(|number| number.to_string()).collect();
        let named: Vec<(&str, Tensor)> = names.iter().map(String::as_str).zip(inputs.iter().cloned()).collect();
        let exact = oracle::run_all(piece, &named).expect("a piece takes what it is given");
        let added: Vec<Vec<f64>> = piece.nodes().map(|(_, node)| added(piece, node, &exact)).collect();
        let mut reaching = vec![Vec::new(); piece.outputs.len()];
        for trial in 0..TRIALS {
            shaken(piece, &exact, &added, SplitMix(trial), &mut reaching);
        }
        let outputs = piece.outputs.iter().zip(reaching).map(|((_, id), reaching)| {
            let value = &exact[id.at()][0];
            let own = added[id.at()].iter().copied().chain(std::iter::repeat(0.0));
            let allowed = match value.dtype().is_float() {
                true => {
                    let most = reaching.iter().copied().fold(0.0, f64::max);
                    own.take(value.count()).map(|own| own + 2.0 * most).collect()
                }
                // An integer that rounding can change, as a comparison's result, may be anything.
                false if reaching.is_empty() => vec![0.0; value.count()],
                false => reaching
                    .iter()
                    .map(|moved| if *moved > 0.0 { f64::INFINITY } else { 0.0 })
                    .collect(),
            };
            (Arc::clone(value), allowed)
        });
        Judgement {
            outputs: outputs.collect(),
        }
    }

    /// What an output should be.
    pub fn wanted(&self, output: usize) -> &Tensor {
        &self.outputs[output].0
    }

    /// What all outputs should be.
    pub fn results(&self) -> Vec<Tensor> {
        self.outputs.iter().map(|(value, _)| Tensor::clone(value)).collect()
    }

    /// The worst element of what was found by something that promises so much of floats.
    pub fn compare(&self, output: usize, found: &Tensor, floats: Floats) -> Worst {
        let (wanted, allowed) = &self.outputs[output];
        let mut worst = Worst {
            share: 0.0,
            element: 0,
            allowed: 0.0,
        };
        for element in 0..wanted.count() {
            let (x, y) = (found.get(element).as_f64(), wanted.get(element).as_f64());
            let allowed = allowed[element] + floats.least;
            let share = match (x - y).abs() {
                _ if x == y || x.is_nan() && y.is_nan() || allowed == f64::INFINITY => 0.0,
                _ if !floats.specials && !y.is_finite() => 0.0,
                far if far.is_nan() || allowed == 0.0 => f64::INFINITY,
                far => far / allowed,
            };
            if share > worst.share {
                worst = Worst {
                    share,
                    element,
                    allowed,
                };
            }
        }
        worst
    }
}

/// How far code's first result of a node may be from the oracle's, element by element; empty if not at all.
fn added(graph: &Graph, node: &Node, exact: &[Vec<Arc<Tensor>>]) -> Vec<f64> {
    let dtype = node.types[0].dtype;
    if !dtype.is_float() {
        return Vec::new();
    }
    let id_of = |number: usize| node.args[number].at();
    let result = || {
        let args: Vec<&Tensor> = node.args.iter().map(|arg| &*exact[arg.at()][0]).collect();
        node.op.rules().eval(&args).swap_remove(0)
    };
    let sum = |terms: f64| {
        let magnitudes: Vec<Tensor> = (0..node.args.len())
            .map(|arg| magnitude(&exact[id_of(arg)][0]))
            .collect();
        let total = node
            .op
            .rules()
            .eval(&magnitudes.iter().collect::<Vec<_>>())
            .swap_remove(0);
        // The oracle's own sums are in f64.
        let roundings = terms.min(8.0 * terms.sqrt()) + if dtype == DType::F64 { terms } else { 1.0 };
        let each = |total: Scalar| roundings * epsilon(dtype) * total.as_f64();
        total.scalars().map(each).collect()
    };
    match &node.op {
        Op::Map(map) if map.0.ulps == 0 => Vec::new(),
        Op::Map(map) => {
            let places = match dtype {
                // A result within a few last places of f32 rounds to the same half or its neighbour.
                DType::F16 | DType::BF16 => 1.0,
                DType::F64 => f64::from(map.0.ulps) + 1.0,
                _ => f64::from(map.0.ulps),
            };
            result()
                .scalars()
                .map(|x| places * spacing(x.as_f64(), dtype))
                .collect()
        }
        Op::Fold(fold) if fold.with == Combine::Sum => sum(terms(graph, node)),
        Op::Fold(fold) if fold.with == Combine::Product => {
            let each = |x: Scalar| terms(graph, node) * epsilon(dtype) * x.as_f64().abs();
            result().scalars().map(each).collect()
        }
        Op::Prefix(prefix) if matches!(prefix.with, Combine::Sum | Combine::Product) => {
            sum(graph.ty(node.args[0]).shape[prefix.axis] as f64)
        }
        Op::Pool(pool) if pool.kind == PoolKind::Sum => sum(terms(graph, node)),
        Op::Scatter(scatter) if scatter.with == Some(Combine::Sum) => sum(graph.ty(node.args[1]).count() as f64 + 1.0),
        Op::Einsum(_) | Op::Conv(_) => sum(terms(graph, node) / 2.0 + 1.0),
        // The rounding inside bodies, as if it came from the operands; see `shaken`.
        _ => Vec::new(),
    }
}

/// The terms of each result, a product and its sum counting twice.
fn terms(graph: &Graph, node: &Node) -> f64 {
    cost::flops(graph, node).all / (node.types[0].count() as f64).max(1.0)
}

fn magnitude(tensor: &Tensor) -> Tensor {
    if !tensor.dtype().is_float() {
        return tensor.clone();
    }
    let elements = tensor.scalars().map(|x| Scalar::Float(x.as_f64().abs()));
    Tensor::from_scalars(tensor.dtype(), tensor.shape(), elements)
}

/// Half the distance from 1 to the next number: what one rounding may do.
fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON / 2.0,
        DType::F16 => f64::powi(2.0, -11),
        DType::BF16 => f64::powi(2.0, -8),
        _ => f64::from(f32::EPSILON) / 2.0,
    }
}

/// The distance from a number to the next greater one in magnitude.
fn spacing(x: f64, dtype: DType) -> f64 {
    let least = match dtype {
        DType::F64 => f64::from_bits(1),
        DType::F16 => f64::powi(2.0, -24),
        DType::BF16 => f64::powi(2.0, -133),
        _ => f64::from(f32::from_bits(1)),
    };
    match x.abs().is_finite() {
        true => (x.abs().log2().floor().exp2() * 2.0 * epsilon(dtype)).max(least),
        false => 0.0,
    }
}

/// Runs a piece with every node's result moved by what it may add, up or down by lot, and notes how far each output's elements move by
/// that of nodes before it; of outputs that do not, nothing.
fn shaken(piece: &Graph, exact: &[Vec<Arc<Tensor>>], added: &[Vec<f64>], mut lot: SplitMix, reaching: &mut [Vec<f64>]) {
    let mut moved: Vec<Option<Vec<Arc<Tensor>>>> = vec![None; piece.len()];
    let mut before: Vec<bool> = vec![false; piece.len()];
    let mut unmoved: Vec<Option<Arc<Tensor>>> = vec![None; piece.len()];
    for (id, node) in piece.nodes() {
        let touched = node.args.iter().any(|arg| moved[arg.at()].is_some());
        let is_compound = matches!(node.op, Op::Scan(_) | Op::If(_) | Op::While(_));
        let arg = |number: usize| {
            let at = node.args[number].at();
            Arc::clone(&moved[at].as_ref().unwrap_or(&exact[at])[0])
        };
        let results: Vec<Arc<Tensor>> = match &node.op {
            Op::Part(part) => match &moved[node.args[0].at()] {
                Some(results) => vec![Arc::clone(&results[*part])],
                None => continue,
            },
            _ if touched || is_compound => {
                let mut args: Vec<Arc<Tensor>> = (0..node.args.len()).map(arg).collect();
                if is_compound {
                    // Each step of a loop may do to its operands what a few roundings do.
                    let steps = match &node.op {
                        Op::Scan(scan) => 8.0 * (scan.length as f64 + 1.0),
                        _ => 8.0,
                    };
                    for arg in &mut args {
                        let by = |x: Scalar| steps * epsilon(arg.dtype()) * x.as_f64().abs();
                        let by: Vec<f64> = arg.scalars().map(by).collect();
                        *arg = shake(arg, &by, &mut lot);
                    }
                }
                let args: Vec<&Tensor> = args.iter().map(|arg| &**arg).collect();
                node.op.rules().eval(&args).into_iter().map(Arc::new).collect()
            }
            _ if added[id.at()].is_empty() => continue,
            _ => exact[id.at()].clone(),
        };
        before[id.at()] = touched || matches!(node.op, Op::Part(_));
        unmoved[id.at()] = Some(Arc::clone(&results[0]));
        moved[id.at()] = Some(match added[id.at()].is_empty() {
            true => results,
            false => vec![shake(&results[0], &added[id.at()], &mut lot)],
        });
    }
    for ((_, id), reaching) in piece.outputs.iter().zip(reaching) {
        if let (true, Some(now)) = (before[id.at()], &unmoved[id.at()]) {
            let pairs = now.scalars().zip(exact[id.at()][0].scalars());
            reaching.resize(now.count(), 0.0);
            for (most, (x, y)) in reaching.iter_mut().zip(pairs) {
                let far = (x.as_f64() - y.as_f64()).abs();
                if far.is_finite() {
                    *most = most.max(far);
                }
            }
        }
    }
}

/// Each element moved up or down by lot.
fn shake(tensor: &Tensor, by: &[f64], lot: &mut SplitMix) -> Arc<Tensor> {
    if !tensor.dtype().is_float() {
        return Arc::new(tensor.clone());
    }
    let elements = tensor.scalars().zip(by).map(|(x, by)| {
        let by = if lot.bits() & 1 == 0 { *by } else { -by };
        Scalar::Float(x.as_f64() + by).round(tensor.dtype())
    });
    Arc::new(Tensor::from_scalars(
        tensor.dtype(),
        tensor.shape(),
        elements.collect::<Vec<_>>(),
    ))
}

#[cfg(test)]
mod tests {
    use netloom_ir::builder::Builder;

    use super::*;

    /// What is right depends on what is promised: a subnormal taken for zero, an infinity that became something else.
    #[test]
    fn less_is_allowed_where_more_is_promised() {
        let b = Builder::new();
        let x = b.input("0", DType::F32, [3]);
        let graph = b.finish([("y", x * 2.0)]).unwrap();
        let judgement = Judgement::of(&graph, &[Tensor::from_f32([3], &[1e-40, f32::INFINITY, 1.0])]);
        let [right, flushed, lost, wrong] = [
            [2.0 * 1e-40, f32::INFINITY, 2.0],
            [0.0, f32::INFINITY, 2.0],
            [2.0 * 1e-40, 7.0, 2.0],
            [2.0 * 1e-40, f32::INFINITY, 2.1],
        ]
        .map(|values| Tensor::from_f32([3], &values));
        let promised = |subnormals, specials| Floats {
            least: if subnormals { 0.0 } else { f32::MIN_POSITIVE.into() },
            specials,
            ..Floats::IEEE
        };
        let is_right = |found: &Tensor, floats| judgement.compare(0, found, floats).share <= 1.0;
        for (subnormals, specials) in [(true, true), (false, true), (true, false), (false, false)] {
            let floats = promised(subnormals, specials);
            assert!(is_right(&right, floats));
            assert_eq!(is_right(&flushed, floats), !subnormals);
            assert_eq!(is_right(&lost, floats), !specials);
            assert!(!is_right(&wrong, floats));
        }
    }
}
