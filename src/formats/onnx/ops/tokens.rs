//! Counting of n-grams.

use netloom_ir::{DType, Scalar, Tensor, Val};

use super::Row;
use crate::formats::onnx::node::{Cx, Done};
use crate::formats::onnx::tensors;

pub static TABLE: &[Row] = &[Row("TfIdfVectorizer", vectorise)];

/// Entries of the result, so that a file cannot ask for more than it holds.
const MOST_ENTRIES: usize = 1 << 16;

/// For each n-gram of a pool, how often it occurs in each row of tokens, its members up to so many tokens apart.
fn vectorise<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    cx.expect(!cx.has("pool_strings"), "a pool of strings")?;
    let need = |name: &str| cx.ints(name).ok_or_else(|| format!("`{name}` is missing"));
    let pool = need("pool_int64s")?;
    let starts = tensors::extents(&need("ngram_counts")?)?;
    let entries = tensors::extents(&need("ngram_indexes")?)?;
    let (least, most) = (cx.int("min_gram_length", 1), cx.int("max_gram_length", 1));
    let skips = cx.int("max_skip_count", 0);
    cx.expect(
        (0..=16).contains(&skips) && (1..=16).contains(&most),
        "n-grams of this reach",
    )?;
    let width = entries.iter().max().map_or(0, |&entry| entry + 1);
    cx.expect(width <= MOST_ENTRIES, "so large a result")?;
    let rows = if x.rank() == 1 { x.unsqueeze([0]) } else { x };
    cx.expect(rows.rank() == 2, "tokens of this rank")?;
    let (count, length) = (rows.shape()[0], rows.shape()[1]);
    let mut columns: Vec<Option<Val<'g>>> = vec![None; width];
    let mut entry = entries.iter();
    for (place, &start) in starts.iter().enumerate() {
        let gram = place + 1;
        let end = starts.get(place + 1).copied().unwrap_or(pool.len());
        let part = pool.get(start..end).ok_or("`ngram_counts` does not fit the pool")?;
        for tokens in part.chunks_exact(gram) {
            let &column = entry.next().ok_or("`ngram_indexes` does not fit the pool")?;
            if !(least..=most).contains(&(gram as i64)) {
                continue;
            }
            // A single token has no distance to skip.
            let distances = if gram == 1 { 1..=1 } else { 1..=skips as usize + 1 };
            for distance in distances {
                let reach = (gram - 1) * distance;
                if reach >= length {
                    continue;
                }
                let equal = tokens.iter().enumerate().map(|(at, &token)| {
                    let token = cx.b.constant(Tensor::scalar(rows.dtype(), Scalar::Int(token.into())));
                    rows.slice(1, at * distance, length - reach + at * distance).eq(token)
                });
                let hits = equal.reduce(|all, one| all & one).expect("an n-gram has a token");
                let found = hits.cast(DType::F32).sum([1]);
                columns[column] = Some(columns[column].map_or(found, |known| known + found));
            }
        }
    }
    let weights = cx.floats("weights");
    let mode = cx.text("mode", "");
    let columns: Vec<Val<'g>> = (columns.into_iter().enumerate())
        .map(|(column, found)| {
            let found = found.unwrap_or_else(|| cx.b.full(DType::F32, [count], 0.0));
            let pool_place = entries.iter().position(|&entry| entry == column);
            let weight = weights
                .as_ref()
                .and_then(|weights| weights.get(pool_place?).copied())
                .unwrap_or(1.0);
            let present = found.gt(0.0).cast(DType::F32);
            match mode.as_str() {
                "TF" => Ok(found),
                "IDF" => Ok(present * weight),
                "TFIDF" => Ok(found * weight),
                other => Err(format!("the mode `{other}` is not supported")),
            }
        })
        .collect::<Result<_, String>>()?;
    cx.expect(!columns.is_empty(), "an empty pool")?;
    let whole = Val::stack(&columns, 1);
    Ok(vec![if x.rank() == 1 { whole.squeeze([0]) } else { whole }])
}
