//! Elementwise operators.

use netloom_ir::ops::map::arith;
use netloom_ir::{DType, Val};

use super::Row;
use crate::formats::onnx::node::{Cx, Done};
use crate::formats::onnx::tensors;

pub static TABLE: &[Row] = &[
    Row("Abs", |cx| cx.signed(Val::abs, |x| x)),
    Row("Neg", |cx| cx.unary(|x| -x)),
    Row("Sign", |cx| cx.signed(Val::sign, |x| x.min(1.0))),
    Row("Sqrt", |cx| cx.unary(Val::sqrt)),
    Row("Reciprocal", |cx| cx.unary(Val::reciprocal)),
    Row("Exp", |cx| cx.unary(Val::exp)),
    Row("Log", |cx| cx.unary(Val::log)),
    Row("Erf", |cx| cx.unary(Val::erf)),
    Row("Floor", |cx| cx.unary(Val::floor)),
    Row("Ceil", |cx| cx.unary(Val::ceil)),
    Row("Round", |cx| cx.unary(Val::round)),
    Row("Sin", |cx| cx.unary(Val::sin)),
    Row("Cos", |cx| cx.unary(Val::cos)),
    Row("Tan", |cx| cx.unary(Val::tan)),
    Row("Asin", |cx| cx.unary(Val::asin)),
    Row("Acos", |cx| cx.unary(Val::acos)),
    Row("Atan", |cx| cx.unary(Val::atan)),
    Row("Sinh", |cx| cx.unary(Val::sinh)),
    Row("Cosh", |cx| cx.unary(Val::cosh)),
    Row("Tanh", |cx| cx.unary(Val::tanh)),
    Row("Asinh", |cx| cx.unary(Val::asinh)),
    Row("Acosh", |cx| cx.unary(Val::acosh)),
    Row("Atanh", |cx| cx.unary(Val::atanh)),
    Row("Sigmoid", |cx| cx.unary(Val::sigmoid)),
    Row("Relu", |cx| cx.unary(Val::relu)),
    Row("Softplus", |cx| cx.unary(Val::softplus)),
    Row("Softsign", |cx| cx.unary(Val::softsign)),
    Row("Mish", |cx| cx.unary(Val::mish)),
    Row("HardSwish", |cx| cx.unary(Val::hard_swish)),
    Row("Swish", |cx| {
        let x = cx.arg(0)?;
        Ok(vec![x * (x * cx.float("alpha", 1.0)).sigmoid()])
    }),
    Row("Elu", |cx| Ok(vec![cx.arg(0)?.elu(cx.float("alpha", 1.0))])),
    Row("Celu", |cx| Ok(vec![cx.arg(0)?.celu(cx.float("alpha", 1.0))])),
    Row("Selu", selu),
    Row("LeakyRelu", |cx| {
        Ok(vec![cx.arg(0)?.leaky_relu(cx.float("alpha", 0.01))])
    }),
    Row("ThresholdedRelu", |cx| {
        Ok(vec![cx.arg(0)?.thresholded_relu(cx.float("alpha", 1.0))])
    }),
    Row("HardSigmoid", |cx| {
        Ok(vec![
            cx.arg(0)?.hard_sigmoid(cx.float("alpha", 0.2), cx.float("beta", 0.5)),
        ])
    }),
    Row("Shrink", shrink),
    Row("Gelu", gelu),
    Row("PRelu", prelu),
    Row("Not", |cx| cx.unary(|x| !x)),
    Row("BitwiseNot", |cx| cx.unary(|x| !x)),
    Row("IsNaN", |cx| cx.unary(Val::is_nan)),
    Row("IsInf", is_inf),
    Row("Add", |cx| cx.binary(|x, y| x + y)),
    Row("Sub", |cx| cx.binary(|x, y| x - y)),
    Row("Mul", |cx| cx.binary(|x, y| x * y)),
    Row("Div", |cx| cx.binary(|x, y| x / y)),
    Row("Mod", modulo),
    Row("Pow", pow),
    Row("BitShift", bit_shift),
    Row("And", |cx| cx.binary(|x, y| x & y)),
    Row("Or", |cx| cx.binary(|x, y| x | y)),
    Row("Xor", |cx| cx.binary(|x, y| x ^ y)),
    Row("BitwiseAnd", |cx| cx.binary(|x, y| x & y)),
    Row("BitwiseOr", |cx| cx.binary(|x, y| x | y)),
    Row("BitwiseXor", |cx| cx.binary(|x, y| x ^ y)),
    Row("Equal", |cx| cx.binary(|x, y| x.eq(y))),
    Row("Less", |cx| cx.binary(|x, y| x.lt(y))),
    Row("LessOrEqual", |cx| cx.binary(|x, y| x.le(y))),
    Row("Greater", |cx| cx.binary(|x, y| x.gt(y))),
    Row("GreaterOrEqual", |cx| cx.binary(|x, y| x.ge(y))),
    Row("Sum", |cx| cx.chain(|x, y| x + y)),
    Row("Max", |cx| cx.chain(|x, y| x.max(y))),
    Row("Min", |cx| cx.chain(|x, y| x.min(y))),
    Row("Mean", |cx| {
        let count = cx.all()?.len() as f64;
        Ok(vec![cx.chain(|x, y| x + y)?[0] / count])
    }),
    Row("Clip", clip),
    Row("Where", |cx| Ok(vec![cx.arg(0)?.select(cx.arg(1)?, cx.arg(2)?)])),
    Row("Cast", |cx| cast(cx, cx.int("to", 0) as i32)),
    Row("CastLike", |cx| Ok(vec![cx.arg(0)?.cast(cx.arg(1)?.dtype())])),
    Row("BitCast", |cx| {
        Ok(vec![cx.arg(0)?.bitcast(tensors::dtype(cx.int("to", 0) as i32)?)])
    }),
];

impl<'g> Cx<'_, 'g> {
    fn unary(&self, apply: fn(Val<'g>) -> Val<'g>) -> Done<'g> {
        Ok(vec![apply(self.arg(0)?)])
    }

    /// One function for types with a sign, another for those without.
    fn signed(&self, signed: fn(Val<'g>) -> Val<'g>, unsigned: fn(Val<'g>) -> Val<'g>) -> Done<'g> {
        let x = self.arg(0)?;
        let has_sign = x.dtype().is_float() || x.dtype().is_signed();
        Ok(vec![if has_sign { signed(x) } else { unsigned(x) }])
    }

    fn binary(&self, apply: fn(Val<'g>, Val<'g>) -> Val<'g>) -> Done<'g> {
        let (x, y) = self.pair()?;
        Ok(vec![apply(x, y)])
    }

    /// Two operands. Before opset 7 the second one's axes began at `axis` of the first.
    fn pair(&self) -> Result<(Val<'g>, Val<'g>), String> {
        let (x, y) = (self.arg(0)?, self.arg(1)?);
        if self.opset >= 7 || !self.flag("broadcast", false) || !self.has("axis") {
            return Ok((x, y));
        }
        let axis = self.axis("axis", 0, x.rank())?;
        let mut shape = y.shape();
        shape.resize((x.rank() - axis).max(shape.len()), 1);
        Ok((x, y.reshape(shape)))
    }

    fn chain(&self, apply: fn(Val<'g>, Val<'g>) -> Val<'g>) -> Done<'g> {
        let all = self.all()?;
        Ok(all.into_iter().reduce(apply).into_iter().collect())
    }
}

fn selu<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let alpha = cx.float("alpha", 1.673_263_242_354_377_2);
    let gamma = cx.float("gamma", 1.050_700_987_355_480_5);
    Ok(vec![cx.arg(0)?.elu(alpha) * gamma])
}

fn shrink<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, threshold, bias) = (cx.arg(0)?, cx.float("lambd", 0.5), cx.float("bias", 0.0));
    Ok(vec![x.shrink(threshold, bias)])
}

fn gelu<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    match cx.text("approximate", "none").as_str() {
        "none" => Ok(vec![x.gelu()]),
        "tanh" => Ok(vec![x.gelu_tanh()]),
        other => Err(format!("the approximation `{other}` is not supported")),
    }
}

fn prelu<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, slope) = (cx.arg(0)?, cx.arg(1)?);
    // Before opset 7 slopes were one a channel.
    let channels = slope.rank() == 1 && x.rank() > 2 && cx.opset < 7;
    let slope = match channels {
        true => slope.reshape([slope.shape(), vec![1; x.rank() - 2]].concat()),
        false => slope,
    };
    let zero = x.lit(0.0);
    Ok(vec![x.lt(zero).select(x * slope, x)])
}

fn is_inf<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let infinite = x.is_inf();
    Ok(vec![
        match (cx.flag("detect_positive", true), cx.flag("detect_negative", true)) {
            (true, true) => infinite,
            (true, false) => infinite & x.gt(0.0),
            (false, true) => infinite & x.lt(0.0),
            (false, false) => cx.b.full(DType::Bool, x.shape(), 0.0),
        },
    ])
}

fn modulo<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, y) = cx.pair()?;
    // With `fmod` the result has the sign of the dividend, without it that of the divisor.
    Ok(vec![match cx.flag("fmod", false) {
        true => x % y,
        false => x.modulo(y),
    }])
}

fn pow<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, y) = cx.pair()?;
    let dtype = x.dtype();
    if dtype.is_float() {
        return Ok(vec![x.pow(y.cast(dtype))]);
    }
    // Whole numbers up to 2^53 are exact on the way.
    Ok(vec![x.cast(DType::F64).pow(y.cast(DType::F64)).cast(dtype)])
}

fn bit_shift<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, y) = cx.pair()?;
    match cx.text("direction", "").as_str() {
        "LEFT" => Ok(vec![x << y]),
        "RIGHT" => Ok(vec![x >> y]),
        other => Err(format!("the direction must be LEFT or RIGHT, found `{other}`")),
    }
}

fn clip<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    if cx.opset < 11 {
        let limit = |name: &str| cx.has(name).then(|| x.lit(cx.float(name, 0.0)));
        return Ok(vec![clamp(x, limit("min"), limit("max"))]);
    }
    Ok(vec![clamp(x, cx.optional(1), cx.optional(2))])
}

fn clamp<'g>(x: Val<'g>, low: Option<Val<'g>>, high: Option<Val<'g>>) -> Val<'g> {
    let raised = low.map_or(x, |low| Val::map(&arith::MAX, &[x, low]));
    high.map_or(raised, |high| Val::map(&arith::MIN, &[raised, high]))
}

fn cast<'g>(cx: &Cx<'_, 'g>, to: i32) -> Done<'g> {
    Ok(vec![cx.arg(0)?.cast(tensors::dtype(to)?)])
}
