//! Filters in pieces: convolutions that a matrix unit computes, with what it multiplies made ready once.
//!
//! The unit takes each `f32` as three `bf16`, see [`crate::kernel::pieces`]. A filter that does not change between runs is split by the entry `prepare`: `[O, C, …]` becomes
//! `bf16[3, O, C, …]`, with zeros for filters and channels that are missing in blocks of the unit. A run puts the pieces together again, which is exact, and a convolution that reads the sum
//! is one that the unit computes: it never forms it.

use crate::dtype::DType;
use crate::graph::{Graph, NodeId};
use crate::kernel::pieces::{DEPTH, PIECES, SIDE};
use crate::ops::map::{arith, convert};
use crate::ops::{Conv, Map, Op, View};
use crate::target::Target;
use crate::tensor::Type;
use crate::winograd::{self, Choice, inline};
use crate::{Builder, Val};

/// The same graph with filters that do not change between runs in pieces, where the unit computes a convolution faster than vectors.
///
/// It rounds differently, so it is no pass.
pub(crate) fn spelled(graph: &Graph, target: &Target, changes: impl Fn(NodeId) -> bool) -> Graph {
    graph.rebuild(|to, node, args| {
        let [image, filter] = node.args[..] else {
            return to.push(node.op.clone(), args);
        };
        match &node.op {
            Op::Conv(conv)
                if !changes(filter) && pays(conv, graph.ty(image), graph.ty(filter), node.ty(), target.winograd) =>
            {
                let b = Builder::new();
                let ty = graph.ty(filter);
                let by_pieces = by_pieces(b.input("filter", ty.dtype, ty.shape.clone()));
                let body = b.finish([("by_pieces", by_pieces)]).expect("a graph of valid nodes");
                let filter = inline(to, &body, &args[1..]);
                to.push(node.op.clone(), &[args[0], filter])
            }
            _ => to.push(node.op.clone(), args),
        }
    })
}

/// If a node is the sum of a filter's pieces, these.
pub fn joined(graph: &Graph, id: NodeId) -> Option<NodeId> {
    let mut open = vec![id];
    let mut found: Vec<NodeId> = Vec::new();
    while let Some(id) = open.pop() {
        let node = graph.node(id);
        match &node.op {
            Op::Map(map) if *map == Map(&arith::ADD) && open.len() + found.len() < PIECES => open.extend(&node.args),
            Op::Map(map) if *map == Map(convert::to(DType::F32)) => {
                let mut piece = node.args[0];
                while let Op::View(View::Slice { .. } | View::Reshape(_)) = graph.node(piece).op {
                    piece = graph.node(piece).args[0];
                }
                found.push(piece);
            }
            _ => return None,
        }
    }
    let ty = graph.ty(*found.first()?);
    let is_split = ty.dtype == DType::BF16
        && matches!(ty.shape[..], [PIECES, filters, channels, ..] if filters.is_multiple_of(SIDE) && channels.is_multiple_of(DEPTH));
    (is_split && found.len() == PIECES && found.iter().all(|piece| *piece == found[0])).then(|| found[0])
}

/// A filter `[O, C, …]` as the sum of its pieces: a convolution by it is one that a matrix unit computes, if the machine has one.
#[must_use]
pub fn by_pieces(filter: Val<'_>) -> Val<'_> {
    let shape = filter.shape().to_vec();
    let rank = shape.len();
    let mut fill = vec![0; rank];
    fill[0] = filled(shape[0]) - shape[0];
    fill[1] = shape[1].next_multiple_of(DEPTH) - shape[1];
    let mut rest = filter.pad(vec![0; rank], fill, 0.0);
    let mut pieces: Vec<Val<'_>> = Vec::new();
    for _ in 0..PIECES {
        let piece = rest.cast(DType::BF16);
        rest = rest - piece.cast(DType::F32);
        pieces.push(piece);
    }
    let split = Val::stack(&pieces, 0);
    let piece = |number: usize| {
        let mut start = vec![0; rank + 1];
        start[0] = number;
        let count = [&[1], &shape[..]].concat();
        let piece = split.slice_steps(start, vec![1; rank + 1], count);
        piece.reshape(shape.clone()).cast(DType::F32)
    };
    piece(0) + piece(1) + piece(2)
}

/// So many filters filled up to what the unit takes at once, one or two blocks.
fn filled(filters: usize) -> usize {
    if filters > SIDE {
        filters.next_multiple_of(2 * SIDE)
    } else {
        SIDE
    }
}

/// Whether the unit computes a convolution faster than vectors do, directly or by squares: by a model fitted to 60 layers of AlexNet, VGG-16, ResNet-18,
/// SqueezeNet and GoogLeNet.
fn pays(conv: &Conv, image: &Type, filter: &Type, result: &Type, by_squares: bool) -> bool {
    // Multiplications and additions in a nanosecond of one core, by the unit and by vectors.
    const UNIT: f64 = 160.0;
    const VECTORS: f64 = 78.0;
    // Nanoseconds to put an element of the image in pieces, and to finish one of the result.
    const SPLIT: f64 = 0.31;
    const FINISH: f64 = 0.23;
    // Vectors are kept where little is gained.
    const GAIN: f64 = 0.9;
    let (&[filters, channels, down, along], &[images, _, height, width]) = (&filter.shape[..], &result.shape[..])
    else {
        return false;
    };
    let is_dilated = conv.input_dilation.iter().any(|&dilation| dilation > 1);
    let is_whole = channels.is_multiple_of(SIDE) && result.dtype == DType::F32;
    // A column of taps moves along lines and columns as one: no window.
    let is_column = down > 1 && along == 1;
    if conv.groups != 1 || is_dilated || is_column || !is_whole || result.count() == 0 {
        return false;
    }
    let taps = down * along;
    let direct = (result.count() * channels * taps) as f64 / VECTORS;
    let squares = (by_squares && winograd::applies(conv, filter) && filters.is_multiple_of(SIDE))
        .then(|| Choice::best([images, height, width], channels, filters, (None, None)))
        .flatten();
    let by_vectors = squares.map_or(direct, |choice| choice.time.min(direct));
    // Rows run on over the zeros between lines, and end with a whole tile.
    let line = width + (along - 1) / conv.stride[1];
    let rows = images * (height * line).next_multiple_of(2 * SIDE);
    let products = rows * filled(filters) * channels.next_multiple_of(DEPTH) * taps;
    let read = if taps > 1 {
        image.count()
    } else {
        images * channels * height * width
    };
    let by_unit = products as f64 / UNIT + read as f64 * SPLIT + result.count() as f64 * FINISH;
    by_unit < GAIN * by_vectors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::Tuned;
    use crate::target::TargetKind;
    use crate::{Tensor, oracle, sample, text};

    const TARGET: Target = Target {
        kind: TargetKind::Cpu,
        vector_lanes: 16,
        vector_registers: 32,
        invocations: 1,
        share_from: Target::SHARE_FROM,
        product_bytes: 0,
        workgroups: false,
        winograd: true,
        f16: false,
        pieces: true,
        matrices: None,
        tuned: Tuned::NOTHING,
    };

    /// The program of a convolution of an image of these channels, height and width by a filter of that shape.
    fn convolution(image: [usize; 3], filter: [usize; 4], options: &str) -> String {
        let [channels, height, width] = image;
        let filter = filter.map(|extent| extent.to_string()).join(",");
        format!(
            "state w: f32[{filter}] = graph(seed: u64[]) {{\n  %0 = broadcast [{filter}] 0.5\n  return %0\n}}
entry predict = graph(x: f32[1,{channels},{height},{width}], w: f32[{filter}]) {{\n  %0 = conv x, w {options} groups=1\n  return y = %0\n}}\n"
        )
    }

    const UNIT: &str = "stride=[1,1] pad_low=[0,0] pad_high=[0,0] input_dilation=[1,1] kernel_dilation=[1,1]";
    const SAME: &str = "stride=[1,1] pad_low=[1,1] pad_high=[1,1] input_dilation=[1,1] kernel_dilation=[1,1]";
    const HALF: &str = "stride=[2,2] pad_low=[1,1] pad_high=[1,1] input_dilation=[1,1] kernel_dilation=[1,1]";

    #[test]
    fn filters_are_put_in_pieces_once() {
        let program = text::parse_program("p", &convolution([256, 13, 13], [120, 256, 1, 1], UNIT)).expect("a program");
        insta::assert_snapshot!(program.prepared_for(&TARGET), @r"
        state w: f32[120,256,1,1] = graph(seed: u64[]) {
          %2: f32[120,256,1,1] = broadcast [120,256,1,1] 0.5
          return %2
        }
        state prepared.0: bf16[3,128,256,1,1] = prepared
        entry predict = graph(x: f32[1,256,13,13], prepared.0: bf16[3,128,256,1,1]) {
          %2: bf16[1,120,256,1,1] = slice prepared.0 start=[0,0,0,0,0] step=[1,1,1,1,1] count=[1,120,256,1,1]
          %3: bf16[120,256,1,1] = reshape [120,256,1,1] %2
          %4: f32[120,256,1,1] = to_f32 %3
          %5: bf16[1,120,256,1,1] = slice prepared.0 start=[1,0,0,0,0] step=[1,1,1,1,1] count=[1,120,256,1,1]
          %6: bf16[120,256,1,1] = reshape [120,256,1,1] %5
          %7: f32[120,256,1,1] = to_f32 %6
          %8: f32[120,256,1,1] = add %4, %7
          %9: bf16[1,120,256,1,1] = slice prepared.0 start=[2,0,0,0,0] step=[1,1,1,1,1] count=[1,120,256,1,1]
          %10: bf16[120,256,1,1] = reshape [120,256,1,1] %9
          %11: f32[120,256,1,1] = to_f32 %10
          %12: f32[120,256,1,1] = add %8, %11
          %13: f32[1,120,13,13] = conv x, %12 stride=[1,1] pad_low=[0,0] pad_high=[0,0] input_dilation=[1,1] kernel_dilation=[1,1] groups=1
          return y = %13
        }
        entry prepare = graph(w: f32[120,256,1,1]) {
          %1: f32[128,256,1,1] = pad w low=[0,0,0,0] high=[8,0,0,0] inner=[0,0,0,0] fill=0.0
          %2: bf16[128,256,1,1] = to_bf16 %1
          %3: f32[128,256,1,1] = to_f32 %2
          %4: f32[128,256,1,1] = sub %1, %3
          %5: bf16[128,256,1,1] = to_bf16 %4
          %6: f32[128,256,1,1] = to_f32 %5
          %7: f32[128,256,1,1] = sub %4, %6
          %8: bf16[128,256,1,1] = to_bf16 %7
          %9: bf16[1,128,256,1,1] = reshape [1,128,256,1,1] %2
          %10: bf16[1,128,256,1,1] = reshape [1,128,256,1,1] %5
          %11: bf16[1,128,256,1,1] = reshape [1,128,256,1,1] %8
          %12: bf16[3,128,256,1,1] = concat %9, %10, %11 axis=0
          return prepared.0 = %12
        }
        ");
    }

    #[test]
    fn what_pays() {
        let pays = |image, filter, options| {
            let program = text::parse_program("p", &convolution(image, filter, options)).expect("a program");
            program.prepared_for(&TARGET).to_string().contains("bf16")
        };
        assert!(pays([480, 14, 14], [192, 480, 1, 1], UNIT));
        assert!(pays([160, 7, 7], [320, 160, 3, 3], SAME));
        assert!(pays([128, 28, 28], [256, 128, 3, 3], HALF));
        // Splitting the image takes longer than what is gained.
        assert!(!pays([480, 14, 14], [16, 480, 1, 1], UNIT));
        // By squares vectors are faster.
        assert!(!pays([64, 56, 56], [64, 64, 3, 3], SAME));
        // Channels do not fill blocks.
        assert!(!pays([3, 224, 224], [64, 3, 3, 3], HALF));
        // The filter is not the same in every run.
        let source = convolution([480, 14, 14], [192, 480, 1, 1], UNIT)
            .replace("return y = %0", "%1 = mul w, 0.5\n  return y = %0, w = %1");
        let program = text::parse_program("p", &source).expect("a program");
        assert_eq!(program.prepared_for(&TARGET), program);
    }

    /// The pieces of a finite number are that number, but for those near the ends of the range.
    #[test]
    fn sums_of_pieces_are_exact() {
        let b = Builder::new();
        let w = b.input("w", DType::F32, [5, 7, 3, 3]);
        let graph = b.finish([("y", by_pieces(w))]).expect("a graph");
        let mut inputs = sample::inputs(&graph, 5);
        for scale in [1.0f32, 1e-30, 1e30] {
            let scaled = inputs[0]
                .1
                .scalars()
                .map(|x| crate::Scalar::Float(f64::from(x.as_f64() as f32 * scale)));
            inputs[0].1 = Tensor::from_scalars(DType::F32, [5, 7, 3, 3], scaled.collect::<Vec<_>>());
            let given: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (&name[..], x.clone())).collect();
            let outputs = oracle::run(&graph, &given).expect("it runs");
            assert_eq!(outputs[0].1, inputs[0].1, "{scale}");
        }
    }
}
