//! Arithmetic of halves as such, for devices that do it and were asked to.
//!
//! In: a kernel, which computes `f16` in `f32` and rounds each result. Out: the same kernel with sums, differences and products of halves computed
//! as halves. No value changes: `f32` has more than twice the digits of `f16`, so that rounding to one and then the other is rounding once
//! (S. Figueroa, "When is double rounding innocuous?", 1995). Quotients and roots would keep theirs too, but Vulkan does not round them
//! correctly; folds go on in `f32`.

use std::collections::HashMap;

use netloom_ir::DType;
use netloom_ir::kernel::index::substitute;
use netloom_ir::kernel::{Expr, ExprId, Exprs, Kernel, Prim};

/// The kernel with arithmetic of halves.
pub fn narrowed(kernel: &Kernel) -> Kernel {
    let from = &kernel.exprs;
    let mut to = Exprs::default();
    for axis in &kernel.axes {
        to.add_axis(axis.extent);
    }
    let (mut known, mut halves) = (HashMap::new(), HashMap::new());
    for id in from.ids() {
        let rounded = match from.get(id) {
            Expr::Prim(Prim::Cast, DType::F16, args) => as_half(from, &mut to, &halves, args[0]),
            Expr::Prim(prim @ (Prim::Eq | Prim::Lt | Prim::Le), dtype, args) => {
                all(&halves, args).map(|args| to.prim(*prim, *dtype, &args))
            }
            _ => None,
        };
        if let Some(rounded) = rounded {
            known.insert(id, rounded);
        }
        substitute(from, &mut to, &mut known, id);
        if let Some(half) = same_half(from, &mut to, (&known, &halves), id) {
            halves.insert(id, half);
        }
    }
    let work = kernel.work.with_roots(|id| known[&id]);
    Kernel {
        exprs: to,
        work,
        ..kernel.clone()
    }
}

/// An `f32` rounded to a half, if it is computed from halves and rounds to the same when computed as one.
fn as_half(from: &Exprs, to: &mut Exprs, halves: &HashMap<ExprId, ExprId>, id: ExprId) -> Option<ExprId> {
    let rounded = match from.get(id) {
        Expr::Prim(prim @ (Prim::Add | Prim::Sub | Prim::Mul), DType::F32, args) => {
            all(halves, args).map(|args| to.prim(*prim, DType::F16, &args))
        }
        _ => None,
    };
    rounded.or_else(|| halves.get(&id).copied())
}

/// The half that an `f32` is, as an expression, if it is one whatever is read.
fn same_half(
    from: &Exprs,
    to: &mut Exprs,
    (known, halves): (&HashMap<ExprId, ExprId>, &HashMap<ExprId, ExprId>),
    id: ExprId,
) -> Option<ExprId> {
    match from.get(id) {
        Expr::Const(DType::F32, _) => {
            let value = from.as_const(id)?;
            let same = value.round(DType::F16).as_f64() == value.as_f64();
            same.then(|| to.constant(DType::F16, value))
        }
        Expr::Prim(Prim::Cast, DType::F32, args) if from.dtype(args[0]) == DType::F16 => Some(known[&args[0]]),
        Expr::Prim(prim @ (Prim::Neg | Prim::Abs | Prim::Max | Prim::Min), DType::F32, args) => {
            let args = all(halves, args)?;
            Some(to.prim(*prim, DType::F16, &args))
        }
        Expr::Prim(Prim::Select, DType::F32, args) => {
            let choices = all(halves, &args[1..])?;
            Some(to.prim(Prim::Select, DType::F16, &[known[&args[0]], choices[0], choices[1]]))
        }
        _ => None,
    }
}

/// The halves that all of these are.
fn all(halves: &HashMap<ExprId, ExprId>, ids: &[ExprId]) -> Option<Vec<ExprId>> {
    ids.iter().map(|id| halves.get(id).copied()).collect()
}

#[cfg(test)]
mod tests {
    use netloom_ir::builder::Builder;
    use netloom_ir::kernel::{Work, build, eval};
    use netloom_ir::{Scalar, Tensor, fuse, oracle};

    use super::*;

    /// Every half with halves of every magnitude: the bits are those of the graph, which rounds what it computes in `f32`.
    #[test]
    fn no_value_changes() {
        let b = Builder::new();
        let count = 1 << 16;
        let [x, y] = ["x", "y"].map(|name| b.input(name, DType::F16, [count]));
        let results = [
            ("sum", x + y),
            ("difference", x - y),
            ("product", x * y),
            ("rectified", (x * y + 0.5).relu()),
            ("least", (-x).abs().min(y)),
        ];
        let graph = b.finish(results).expect("a graph");
        let half = |bits: usize| Scalar::from_bits(bits as u64 & 0xffff, DType::F16);
        let given = [1, 40503].map(|step| {
            let elements = (0..count).map(|at| half(at * step + step));
            Tensor::from_scalars(DType::F16, [count], elements)
        });
        let named = [("x", given[0].clone()), ("y", given[1].clone())];
        let wanted = oracle::run_all(&graph, &named).expect("the oracle runs it");
        let computes = |kernel: &Kernel, dtype: DType| {
            let Work::Stores(stores) = &kernel.work else {
                return false;
            };
            let mut open: Vec<ExprId> = stores.iter().map(|store| store.value).collect();
            while let Some(id) = open.pop() {
                if kernel.exprs.dtype(id) == dtype {
                    return true;
                }
                open.extend(kernel.exprs.operands(id));
            }
            false
        };
        for region in fuse::regions(&graph) {
            let kernel = build::build(&graph, &region);
            let narrow = narrowed(&kernel);
            assert!(computes(&kernel, DType::F32));
            assert!(!computes(&narrow, DType::F32));
            for (id, found) in region.outputs.iter().zip(eval::run(&narrow, &given)) {
                let wanted = &wanted[id.at()][0];
                for at in 0..count {
                    let [wanted, found] = [wanted.get(at), found.get(at)];
                    let same = wanted.as_f64().is_nan() && found.as_f64().is_nan() || wanted == found;
                    assert!(same, "{id} [{at}] is {found:?}, not {wanted:?}");
                }
            }
        }
    }
}
