//! Matrix products and convolutions.

use netloom_ir::Val;
use netloom_ir::ops::Conv;
use netloom_ir::ops::conv::ConvTranspose;

use super::Row;
use crate::formats::onnx::node::{Cx, Done};
use crate::formats::onnx::tensors;

pub static TABLE: &[Row] = &[
    Row("MatMul", |cx| Ok(vec![cx.arg(0)?.matmul(cx.arg(1)?)])),
    Row("Gemm", gemm),
    Row("Einsum", einsum),
    Row("Conv", |cx| {
        Ok(vec![with_bias(
            convolution(cx, cx.arg(0)?, cx.arg(1)?)?,
            cx.optional(2),
        )])
    }),
    Row("ConvTranspose", conv_transpose),
];

fn gemm<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let turned = |val: Val<'g>, name: &str| if cx.flag(name, false) { val.transpose() } else { val };
    let (a, b) = (turned(cx.arg(0)?, "transA"), turned(cx.arg(1)?, "transB"));
    cx.expect(a.rank() == 2 && b.rank() == 2, "an operand that is no matrix")?;
    let scaled = |val: Val<'g>, name: &str| match cx.float(name, 1.0) {
        1.0 => val,
        factor => val * factor,
    };
    let product = scaled(a.matmul(b), "alpha");
    Ok(vec![match cx.optional(2) {
        Some(c) => product + scaled(c, "beta"),
        None => product,
    }])
}

fn einsum<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let spec: String = cx.text("equation", "").split_whitespace().collect();
    let operands = cx.all()?;
    let spec = match spec.contains("...") {
        true => without_dots(&spec, &operands)?,
        false => spec,
    };
    Ok(vec![Val::einsum(&spec, &operands)])
}

/// The specification with letters for the axes that `...` stands for; all operands with dots have equally many.
fn without_dots(spec: &str, operands: &[Val<'_>]) -> Result<String, String> {
    let (left, out) = match spec.split_once("->") {
        Some((left, out)) => (left, Some(out.to_owned())),
        None => (spec, None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != operands.len() {
        return Err(format!(
            "`{spec}` is for {} operands, found {}",
            terms.len(),
            operands.len()
        ));
    }
    let mut dots = None;
    for (term, operand) in terms.iter().zip(operands).filter(|(term, _)| term.contains("...")) {
        let count = (operand.rank() + 3).checked_sub(term.len());
        let count = count.ok_or_else(|| format!("`{term}` names more axes than {} has", operand.ty()))?;
        if dots.is_some_and(|known| known != count) {
            return Err("`...` that stands for different numbers of axes is not supported".to_owned());
        }
        dots = Some(count);
    }
    let free = ('A'..='Z').filter(|letter| !spec.contains(*letter));
    let letters: String = free.take(dots.unwrap_or(0)).collect();
    let out = out.unwrap_or_else(|| {
        let mut once: Vec<char> = left.chars().filter(|letter| letter.is_alphabetic()).collect();
        once.sort_unstable();
        let counted = once.clone();
        once.retain(|letter| counted.iter().filter(|other| *other == letter).count() == 1);
        format!("...{}", once.into_iter().collect::<String>())
    });
    Ok(format!("{left}->{out}").replace("...", &letters))
}

/// How far windows reach along each spatial axis.
pub struct Reach {
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    pub low: Vec<i64>,
    pub high: Vec<i64>,
}

impl Reach {
    /// What the attributes say, for these spatial extents and kernel.
    pub fn of(cx: &Cx<'_, '_>, sizes: &[usize], kernel: Vec<usize>) -> Result<Reach, String> {
        let rank = sizes.len();
        let each = |name: &str| -> Result<Vec<usize>, String> {
            let given = cx.sizes(name)?.unwrap_or_else(|| vec![1; rank]);
            match given.len() == rank && !given.contains(&0) {
                true => Ok(given),
                false => Err(format!("`{name}` must be {rank} numbers from 1, found {given:?}")),
            }
        };
        if kernel.len() != rank {
            return Err(format!(
                "the kernel has {} spatial axes, the operand {rank}",
                kernel.len()
            ));
        }
        let (stride, dilation) = (each("strides")?, each("dilations")?);
        let pads = cx.ints("pads").unwrap_or_else(|| vec![0; 2 * rank]);
        if pads.len() != 2 * rank {
            return Err(format!("`pads` must be {} numbers, found {}", 2 * rank, pads.len()));
        }
        let (mut low, mut high) = (pads[..rank].to_vec(), pads[rank..].to_vec());
        let auto = cx.text("auto_pad", "NOTSET");
        for axis in 0..rank {
            match auto.as_str() {
                "" | "NOTSET" => {}
                "VALID" => (low[axis], high[axis]) = (0, 0),
                "SAME_UPPER" | "SAME_LOWER" => {
                    let windows = sizes[axis].div_ceil(stride[axis]);
                    let reach = (kernel[axis].max(1) - 1) * dilation[axis] + 1;
                    let total = (windows.max(1) - 1) * stride[axis] + reach;
                    let missing = total.saturating_sub(sizes[axis]) as i64;
                    let (less, more) = (missing / 2, missing - missing / 2);
                    (low[axis], high[axis]) = if auto == "SAME_UPPER" {
                        (less, more)
                    } else {
                        (more, less)
                    };
                }
                other => return Err(format!("`auto_pad` {other} is not supported")),
            }
        }
        Ok(Reach {
            kernel,
            stride,
            dilation,
            low,
            high,
        })
    }
}

/// The spatial extents of a batch `[N, C, S…]`.
pub fn spatial(x: Val<'_>) -> Result<Vec<usize>, String> {
    match x.shape().get(2..) {
        Some(sizes) => Ok(sizes.to_vec()),
        None => Err(format!("{} has no batch and channels", x.ty())),
    }
}

/// The convolution that the attributes describe.
pub fn convolution<'g>(cx: &Cx<'_, 'g>, x: Val<'g>, kernel: Val<'g>) -> Result<Val<'g>, String> {
    let reach = Reach::of(cx, &spatial(x)?, spatial(kernel)?)?;
    let groups = usize::try_from(cx.int("group", 1)).map_err(|_| "`group` is negative")?;
    let conv = Conv {
        stride: reach.stride,
        pad_low: reach.low,
        pad_high: reach.high,
        kernel_dilation: reach.dilation,
        groups,
        ..Conv::unit(reach.kernel.len())
    };
    Ok(x.conv(kernel, conv))
}

/// With a number added to each channel.
pub fn with_bias<'g>(x: Val<'g>, bias: Option<Val<'g>>) -> Val<'g> {
    match bias {
        Some(bias) if !x.is_poison() && bias.rank() == 1 => {
            x + bias.reshape([bias.shape(), vec![1; x.rank() - 2]].concat())
        }
        Some(bias) => x + bias,
        None => x,
    }
}

fn conv_transpose<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, kernel) = (cx.arg(0)?, cx.arg(1)?);
    let sizes = spatial(x)?;
    let rank = sizes.len();
    let each = |name: &str, default: usize| -> Result<Vec<usize>, String> {
        let given = cx.sizes(name)?.unwrap_or_else(|| vec![default; rank]);
        match given.len() == rank {
            true => Ok(given),
            false => Err(format!("`{name}` must be {rank} numbers")),
        }
    };
    let (stride, dilation) = (each("strides", 1)?, each("dilations", 1)?);
    let mut out_pad = each("output_padding", 0)?;
    let taps = spatial(kernel)?;
    cx.expect(
        taps.len() == rank && !stride.contains(&0) && !taps.contains(&0),
        "a kernel of another rank",
    )?;
    let pads = cx.ints("pads").unwrap_or_else(|| vec![0; 2 * rank]);
    cx.expect(pads.len() == 2 * rank, "padding of another rank")?;
    let (mut low, mut high) = (pads[..rank].to_vec(), pads[rank..].to_vec());
    let auto = cx.text("auto_pad", "NOTSET");
    let same = matches!(auto.as_str(), "SAME_UPPER" | "SAME_LOWER");
    let wanted = match cx.sizes("output_shape")? {
        Some(shape) => Some(shape[shape.len().saturating_sub(rank)..].to_vec()),
        None if same => Some(sizes.iter().zip(&stride).map(|(size, stride)| size * stride).collect()),
        None => None,
    };
    if let Some(wanted) = wanted {
        cx.expect(wanted.len() == rank, "an output shape of another rank")?;
        for axis in 0..rank {
            let full = (sizes[axis].max(1) - 1) * stride[axis] + (taps[axis] - 1) * dilation[axis] + 1 + out_pad[axis];
            let cut = full as i64 - wanted[axis] as i64;
            if cut < 0 {
                out_pad[axis] += cut.unsigned_abs() as usize;
            }
            let cut = cut.max(0);
            let (less, more) = (cut / 2, cut - cut / 2);
            (low[axis], high[axis]) = if auto == "SAME_UPPER" {
                (less, more)
            } else {
                (more, less)
            };
        }
    }
    let transpose = ConvTranspose {
        stride,
        pad_low: low,
        pad_high: high,
        out_pad,
        dilation,
        groups: tensors::extents(&[cx.int("group", 1)])?[0],
    };
    Ok(vec![with_bias(x.conv_transpose(kernel, transpose), cx.optional(2))])
}
