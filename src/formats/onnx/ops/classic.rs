//! Classical machine learning: the domain `ai.onnx.ml`.

use super::{Row, trees};

/// Its operators.
pub static TABLES: &[&[Row]] = &[&[
    Row("Binarizer", |cx| {
        let x = cx.arg(0)?;
        Ok(vec![x.gt(cx.float("threshold", 0.0)).cast(x.dtype())])
    }),
    Row("TreeEnsemble", trees::ensemble),
    Row("Scaler", |cx| {
        let x = cx.arg(0)?;
        let row = |name: &str, default: f64| {
            let values = cx.floats(name).unwrap_or_else(|| vec![default]);
            let elements = values.iter().map(|&value| netloom_ir::Scalar::Float(value));
            let tensor = netloom_ir::Tensor::from_scalars(netloom_ir::DType::F32, [values.len()], elements);
            cx.b.constant(tensor)
        };
        Ok(vec![
            (x.cast(netloom_ir::DType::F32) - row("offset", 0.0)) * row("scale", 1.0),
        ])
    }),
]];
