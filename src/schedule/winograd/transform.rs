//! Products with the matrices of a Winograd convolution as straight-line code.

use netloom_ir::kernel::{ExprId, Exprs, Prim};
use netloom_ir::{DType, Scalar};

/// The product of a matrix with a vector of `f32` values.
///
/// Of two rows, or two columns, that are equal but for signs, what is common is computed once.
pub fn product(exprs: &mut Exprs, matrix: &[Vec<f64>], vector: &[ExprId]) -> Vec<ExprId> {
    let (mut rows, mut vector) = (matrix.to_vec(), vector.to_vec());
    // Two columns become their values' sum and difference.
    let mut paired = vec![false; vector.len()];
    for a in 0..vector.len() {
        let twin =
            (a + 1..vector.len()).find(|&b| !paired[a] && !paired[b] && alike(rows.iter().map(|row| (row[a], row[b]))));
        let Some(b) = twin else { continue };
        (paired[a], paired[b]) = (true, true);
        let pair = [vector[a], vector[b]];
        vector[a] = exprs.prim(Prim::Add, DType::F32, &pair);
        vector[b] = exprs.prim(Prim::Sub, DType::F32, &pair);
        for row in &mut rows {
            let is_sum = row[a] == row[b];
            let factor = std::mem::take(&mut row[a]);
            (row[a], row[b]) = if is_sum { (factor, 0.0) } else { (0.0, factor) };
        }
    }
    let mut results: Vec<Option<ExprId>> = vec![None; rows.len()];
    for a in 0..rows.len() {
        if results[a].is_some() {
            continue;
        }
        let twin = (a + 1..rows.len())
            .find(|&b| results[b].is_none() && alike(rows[a].iter().copied().zip(rows[b].iter().copied())));
        let Some(b) = twin else {
            results[a] = Some(sum(exprs, &rows[a], &vector, |_| true));
            continue;
        };
        let (first, second) = (&rows[a], &rows[b]);
        let equal = sum(exprs, first, &vector, |at| first[at] == second[at]);
        let opposite = sum(exprs, first, &vector, |at| first[at] != second[at]);
        results[a] = Some(exprs.prim(Prim::Add, DType::F32, &[equal, opposite]));
        results[b] = Some(exprs.prim(Prim::Sub, DType::F32, &[equal, opposite]));
    }
    results
        .into_iter()
        .map(|result| result.expect("each row has its result"))
        .collect()
}

/// Whether numbers are equal in pairs but for signs, some with the same sign and some with the other.
fn alike(pairs: impl Iterator<Item = (f64, f64)>) -> bool {
    let pairs: Vec<(f64, f64)> = pairs.filter(|&pair| pair != (0.0, 0.0)).collect();
    pairs.iter().all(|(a, b)| a.abs() == b.abs())
        && pairs.iter().any(|(a, b)| a == b)
        && pairs.iter().any(|(a, b)| a != b)
}

/// The sum of some of the products of two vectors.
fn sum(exprs: &mut Exprs, factors: &[f64], vector: &[ExprId], which: impl Fn(usize) -> bool) -> ExprId {
    let mut terms: Vec<(f64, ExprId)> = (factors.iter().copied().zip(vector.iter().copied()).enumerate())
        .filter(|&(at, (factor, _))| factor != 0.0 && which(at))
        .map(|(_, term)| term)
        .collect();
    // What needs no multiplication comes first: it is what products are added to.
    terms.sort_by_key(|&(factor, _)| (factor.abs() != 1.0, factor < 0.0));
    let mut total: Option<ExprId> = None;
    for (factor, value) in terms {
        let constant = |exprs: &mut Exprs| exprs.constant(DType::F32, Scalar::from_f64(factor, DType::F32));
        total = Some(match total {
            None if factor == 1.0 => value,
            None => {
                let factor = constant(exprs);
                exprs.prim(Prim::Mul, DType::F32, &[value, factor])
            }
            Some(total) if factor == 1.0 => exprs.prim(Prim::Add, DType::F32, &[total, value]),
            Some(total) if factor == -1.0 => exprs.prim(Prim::Sub, DType::F32, &[total, value]),
            Some(total) => {
                let factor = constant(exprs);
                exprs.prim(Prim::Fma, DType::F32, &[value, factor, total])
            }
        });
    }
    total.unwrap_or_else(|| exprs.constant(DType::F32, Scalar::zero(DType::F32)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloom_ir::winograd::Transforms;

    #[test]
    fn straight_line_products_share_their_halves() {
        for m in [2, 4, 6] {
            let Transforms { output, filter, input } = Transforms::of(m);
            for matrix in [output, filter, input] {
                let mut exprs = Exprs::default();
                let numbers: Vec<f64> = (0..matrix[0].len()).map(|at| (3 * at % 5) as f64 - 1.25).collect();
                let vector: Vec<ExprId> = (numbers.iter())
                    .map(|&x| exprs.constant(DType::F32, Scalar::from_f64(x, DType::F32)))
                    .collect();
                // Constants fold, so the results are numbers.
                let results = product(&mut exprs, &matrix, &vector);
                for (row, result) in matrix.iter().zip(results) {
                    let expected: f64 = row.iter().zip(&numbers).map(|(a, b)| a * b).sum();
                    let found = exprs.as_const(result).expect("a constant").as_f64();
                    assert!((found - expected).abs() < 1e-4, "F({m}, 3): {found}, not {expected}");
                }
            }
        }
    }
}
