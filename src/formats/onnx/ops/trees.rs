//! Ensembles of decision trees, without a walk: every comparison of every tree is made, and a leaf is reached where as many comparisons of its path
//! go its way as the path is long, which one product with the matrix of paths counts (Hummingbird's GEMM strategy: S. Nakandala et al., "A tensor
//! compiler for unified machine learning prediction serving", 2020).

use netloom_ir::kernel::Combine;
use netloom_ir::{DType, Scalar, Tensor, Val};

use crate::formats::onnx::node::{Cx, Done};

/// Entries of the matrix of paths.
const MOST_ENTRIES: usize = 1 << 24;

/// A way from a root to a leaf: nodes with the outcome that leads on.
struct Path {
    turns: Vec<(usize, bool)>,
    leaf: usize,
}

/// `TreeEnsemble` of `ai.onnx.ml` 5.
pub(super) fn ensemble<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let list = |name: &str| cx.ints(name).ok_or_else(|| format!("`{name}` is missing"));
    let tensor = |name: &str| cx.tensor(name)?.ok_or_else(|| format!("`{name}` is missing"));
    let (modes, splits, weights) = (
        tensor("nodes_modes")?.to_i64(),
        tensor("nodes_splits")?,
        tensor("leaf_weights")?,
    );
    let (features, targets) = (list("nodes_featureids")?, list("leaf_targetids")?);
    let target_count = usize::try_from(cx.int("n_targets", 1)).map_err(|_| "`n_targets` is negative")?;
    let paths = paths(cx, weights.count())?;
    let (node_count, path_count) = (features.len(), paths.len());
    cx.expect(x.rank() == 2 && x.dtype() == splits.dtype(), "an operand of this type")?;
    cx.expect(
        modes.len() == node_count && splits.count() == node_count,
        "lists of different lengths",
    )?;
    cx.expect(targets.len() == weights.count(), "lists of different lengths")?;
    cx.expect(
        targets.iter().all(|target| (0..target_count as i64).contains(target)),
        "a target out of range",
    )?;
    let inside = features
        .iter()
        .all(|feature| (0..x.shape()[1] as i64).contains(feature));
    cx.expect(inside, "a feature that the operand has not")?;
    cx.expect(
        node_count.saturating_mul(path_count) <= MOST_ENTRIES,
        "an ensemble of this size",
    )?;

    let goes = comparisons(cx, x, &features, &modes, &splits)?;
    // The comparisons that go a path's way: those that should hold and do, and those that should not, less those that do.
    let mut turns = Tensor::zeros(DType::F32, [node_count, path_count]);
    let mut wanted = Vec::with_capacity(path_count);
    for (column, path) in paths.iter().enumerate() {
        for &(node, outcome) in &path.turns {
            let entry = node * path_count + column;
            let sign = if outcome { 1.0 } else { -1.0 };
            turns.set(entry, Scalar::Float(turns.get(entry).as_f64() + sign));
        }
        wanted.push(path.turns.iter().filter(|(_, outcome)| *outcome).count() as f32);
    }
    let count = goes.cast(DType::F32).matmul(cx.b.constant(turns));
    let is_reached = count.eq(cx.b.constant(Tensor::from_f32([path_count], &wanted)));

    let dtype = weights.dtype();
    let by_path = |value: &dyn Fn(usize, usize) -> Scalar| {
        let shape = [path_count, target_count];
        cx.b.constant(Tensor::from_fn(dtype, shape, |at| value(paths[at[0]].leaf, at[1])))
    };
    let is_of = |leaf: usize, target: usize| targets[leaf] == target as i64;
    let weight = |leaf: usize, target: usize, other: f64| match is_of(leaf, target) {
        true => weights.get(leaf),
        false => Scalar::from_f64(other, dtype),
    };
    let aggregate = cx.int("aggregate_function", 1);
    let whole = match aggregate {
        0 | 1 => {
            let sum = is_reached
                .cast(dtype)
                .matmul(by_path(&|leaf, target| weight(leaf, target, 0.0)));
            let trees = list("tree_roots")?.len().max(1) as f64;
            if aggregate == 0 { sum / trees } else { sum }
        }
        2 | 3 => {
            let none = if aggregate == 2 {
                f64::INFINITY
            } else {
                f64::NEG_INFINITY
            };
            let reached = is_reached
                .unsqueeze([2])
                .select(by_path(&|leaf, target| weight(leaf, target, none)), none);
            if aggregate == 2 {
                reached.fold(Combine::Min, [1])
            } else {
                reached.fold(Combine::Max, [1])
            }
        }
        _ => return Err(format!("the aggregate function {aggregate} is not supported")),
    };
    match cx.int("post_transform", 0) {
        0 => Ok(vec![whole]),
        1 => Ok(vec![whole.softmax(1)]),
        2 => Ok(vec![whole.sigmoid()]),
        other => Err(format!("the post transform {other} is not supported")),
    }
}

/// For every example and node whether its comparison holds.
fn comparisons<'g>(
    cx: &Cx<'_, 'g>,
    x: Val<'g>,
    features: &[i64],
    modes: &[i64],
    splits: &Tensor,
) -> Result<Val<'g>, String> {
    let taken = x.gather(cx.b.constant(Tensor::from_i64([features.len()], features)), 1);
    let split = cx.b.constant(splits.clone());
    let mask = |holds: &dyn Fn(usize) -> bool| {
        let bits = Tensor::from_fn(DType::Bool, [modes.len()], |at| Scalar::Bool(holds(at[0])));
        cx.b.constant(bits)
    };
    let mut holds = taken.lt(taken);
    for mode in 0..=5 {
        if !modes.contains(&mode) {
            continue;
        }
        let this = match mode {
            0 => taken.le(split),
            1 => taken.lt(split),
            2 => taken.ge(split),
            3 => taken.gt(split),
            4 => taken.eq(split),
            _ => taken.ne(split),
        };
        holds = mask(&|node| modes[node] == mode).select(this, holds);
    }
    let members = cx.tensor("membership_values")?;
    let members: Vec<f64> = members
        .iter()
        .flat_map(|members| members.scalars())
        .map(Scalar::as_f64)
        .collect();
    let mut sets = members.split(|member| member.is_nan());
    for (node, _) in modes.iter().enumerate().filter(|(_, mode)| **mode == 6) {
        let set = sets.next().ok_or("a set of members is missing")?;
        let elements = set.iter().map(|&member| Scalar::from_f64(member, x.dtype()));
        let set = cx.b.constant(Tensor::from_scalars(x.dtype(), [set.len()], elements));
        let is_member = taken.slice(1, node, node + 1).eq(set).any([1]).unsqueeze([1]);
        holds = mask(&|other| other == node).select(is_member, holds);
    }
    cx.expect(
        modes.iter().all(|mode| (0..=6).contains(mode)),
        "a comparison of this mode",
    )?;
    let tracks = cx.ints("nodes_missing_value_tracks_true").unwrap_or_default();
    let follows = mask(&|node| tracks.get(node) == Some(&1));
    Ok(taken.is_nan().select(follows, holds))
}

/// Every way from a root to a leaf.
fn paths(cx: &Cx<'_, '_>, leaf_count: usize) -> Result<Vec<Path>, String> {
    let list = |name: &str| cx.ints(name).ok_or_else(|| format!("`{name}` is missing"));
    let sides = [
        (true, list("nodes_truenodeids")?, list("nodes_trueleafs")?),
        (false, list("nodes_falsenodeids")?, list("nodes_falseleafs")?),
    ];
    let node_count = sides[0].1.len();
    let mut open: Vec<(i64, Vec<(usize, bool)>)> = list("tree_roots")?.iter().map(|&root| (root, Vec::new())).collect();
    let mut found = Vec::new();
    while let Some((node, turns)) = open.pop() {
        let node = usize::try_from(node).ok().filter(|node| *node < node_count);
        let node = node.ok_or("a node that there is not")?;
        let size = (found.len() + open.len()).saturating_mul(node_count);
        cx.expect(
            turns.len() <= node_count && size <= MOST_ENTRIES,
            "an ensemble of this size, or with a cycle,",
        )?;
        for (outcome, next, is_leaf) in &sides {
            let next = *next.get(node).ok_or("lists of different lengths")?;
            let mut turns = turns.clone();
            turns.push((node, *outcome));
            if is_leaf.get(node) == Some(&1) {
                let leaf = usize::try_from(next).ok().filter(|leaf| *leaf < leaf_count);
                found.push(Path {
                    turns,
                    leaf: leaf.ok_or("a leaf that there is not")?,
                });
            } else {
                open.push((next, turns));
            }
        }
    }
    Ok(found)
}
