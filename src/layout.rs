//! Which tensors lie in blocks of channels, and which in panels.
//!
//! In: the improved graphs of a program. Out: [`Layouts`], a layout for every value and state that convolutions read or write.
//!
//! Of an image `[N, C, …]` blocks of 16 channels lie together, so that the columns of a contraction's tile are channels, however narrow the
//! image is; of a filter `[O, C, …]` blocks of 16 × 16, as the tile of the forward convolution walks them. The weights of a dense layer, `[K, N]`, lie
//! in panels of 32 columns, each a line of memory that a tile reads from its beginning to its end. Whatever elementwise functions
//! tie together lies alike: a weight, its gradient and its momentum; the two sides of a residual sum. What is passed in or out by the caller,
//! or read by an operation to which channels are nothing special, is dense, and so is everything tied to it; the kernels at such a border
//! read one layout and write the other. The choice depends on shapes alone.

use std::collections::{HashMap, HashSet};

use netloom_ir::graph::{Graph, Node, NodeId};
use netloom_ir::kernel::pieces::{DEPTH, PIECES, SIDE};
use netloom_ir::layout::{Digit, Layout};
use netloom_ir::ops::{Op, View};
use netloom_ir::pieces;
use netloom_ir::prepare::PREPARE;
use netloom_ir::target::TargetKind;
use netloom_ir::{State, Target, Type};
use petgraph::unionfind::UnionFind;

/// Channels of a block: a vector of the widest machine, two or four of others.
const BLOCK: usize = 16;
/// Columns of a panel: those of the widest tile.
const PANEL: usize = 32;
/// What keeps blocks and panels from GPUs: measured in blocks of 4 and 16 channels, and panels of 4 and 32 columns (BENCHMARKS.md, Vulkan). A kernel there
/// reads by gathers or as many neighbours as it has invocations, which are as long along a line of the image as along channels.
const DENSE_ON_GPU: &str =
    "blocks of channels and panels of columns made no net faster on Vulkan, where it was measured, and some slower";

/// The layouts of a program's values; what is missing is dense.
#[derive(Clone, Debug, Default)]
pub struct Layouts {
    states: HashMap<String, Layout>,
    entries: HashMap<String, HashMap<NodeId, Layout>>,
    /// Why values that a convolution, a pooling or a product reads or writes are dense all the same.
    dense: HashMap<String, HashMap<NodeId, &'static str>>,
    /// Why no value at all lies otherwise.
    all_dense: Option<&'static str>,
}

impl Layouts {
    /// Everything dense.
    pub fn dense() -> Layouts {
        Layouts::default()
    }

    /// The layouts for a program with these states, of which these are all entries, improved. On a GPU everything is dense.
    pub fn choose(entries: &[(String, Graph)], states: &[State], target: &Target) -> Layouts {
        if target.kind != TargetKind::Cpu {
            return Layouts {
                all_dense: Some(DENSE_ON_GPU),
                ..Layouts::default()
            };
        }
        let classes = Classes::of(entries, states);
        let mut layouts = Layouts::default();
        for (number, (entry, graph)) in entries.iter().enumerate() {
            let (mut chosen, mut dense) = (HashMap::new(), HashMap::new());
            for (id, node) in graph.nodes() {
                let [ty] = &node.types[..] else { continue };
                match classes.layout(number, id, ty) {
                    Ok(layout) => {
                        chosen.insert(id, layout.clone());
                        if let Op::Input(input) = &node.op {
                            layouts.states.insert(input.name.clone(), layout);
                        }
                    }
                    Err(Some(reason)) => {
                        dense.insert(id, reason);
                    }
                    Err(None) => {}
                }
            }
            layouts.dense.insert(entry.clone(), dense);
            // There are states that no entry reads.
            for (name, id) in &graph.outputs {
                if let Some(layout) = chosen.get(id) {
                    layouts.states.insert(name.clone(), layout.clone());
                }
            }
            layouts.entries.insert(entry.clone(), chosen);
        }
        layouts
    }

    /// The layouts of entries without states.
    pub fn given(entries: HashMap<String, HashMap<NodeId, Layout>>) -> Layouts {
        Layouts {
            entries,
            ..Layouts::default()
        }
    }

    /// The layout of a state.
    pub fn state(&self, name: &str) -> Layout {
        self.states.get(name).cloned().unwrap_or_default()
    }

    /// Why a value that a convolution, a pooling or a product reads or writes is dense all the same.
    pub fn why_dense(&self, entry: &str, id: NodeId) -> Option<&'static str> {
        self.dense.get(entry)?.get(&id).copied()
    }

    /// Why every value is dense, if that was chosen.
    pub fn why_all_dense(&self) -> Option<&'static str> {
        self.all_dense
    }

    /// Gives the values of an entry other layouts.
    pub fn set_entry(&mut self, name: &str, layouts: HashMap<NodeId, Layout>) {
        self.entries.insert(name.to_owned(), layouts);
    }

    /// The layouts of an entry's values that are not dense.
    pub fn entry(&self, name: &str) -> HashMap<NodeId, Layout> {
        self.entries.get(name).cloned().unwrap_or_default()
    }
}

/// The layout of an image in blocks of channels.
fn image(shape: &[usize]) -> Option<Layout> {
    let &[batch, channels, ref extents @ ..] = shape else {
        return None;
    };
    let is_blocked = !extents.is_empty() && channels > 0 && channels.is_multiple_of(BLOCK);
    is_blocked.then(|| {
        let whole = |(axis, &extent): (usize, &usize)| digit(axis, 1, extent);
        let ends = [digit(0, 1, batch), digit(1, BLOCK, channels / BLOCK)];
        let inner = extents
            .iter()
            .enumerate()
            .map(|(place, extent)| whole((place + 2, extent)));
        Layout::Digits(ends.into_iter().chain(inner).chain([digit(1, 1, BLOCK)]).collect())
    })
}

/// The layout of a filter in blocks of output channels, and of input channels if these fill any.
fn filter(shape: &[usize]) -> Option<Layout> {
    let &[outputs, channels, ref extents @ ..] = shape else {
        return None;
    };
    let is_blocked = !extents.is_empty() && outputs > 0 && outputs.is_multiple_of(BLOCK) && channels > 0;
    is_blocked.then(|| {
        let seen = if channels.is_multiple_of(BLOCK) { BLOCK } else { 1 };
        let mut digits = vec![digit(0, BLOCK, outputs / BLOCK), digit(1, seen, channels / seen)];
        digits.extend(
            extents
                .iter()
                .enumerate()
                .map(|(place, &extent)| digit(place + 2, 1, extent)),
        );
        digits.extend((seen > 1).then(|| digit(1, 1, seen)));
        digits.push(digit(0, 1, BLOCK));
        Layout::Digits(digits)
    })
}

/// The layout of a filter in pieces `[3, O, C, …]`, as a matrix unit reads it, see [`netloom_ir::kernel::pieces`]: a block of the sum is one tap of 32 channels,
/// its terms `2 · i` and `2 · i + 1` channels `i` and `16 + i`.
fn in_pieces(shape: &[usize]) -> Layout {
    let taps = shape
        .iter()
        .enumerate()
        .skip(3)
        .map(|(axis, &extent)| digit(axis, 1, extent));
    let blocks = [digit(1, SIDE, shape[1] / SIDE), digit(2, DEPTH, shape[2] / DEPTH)];
    let within = [
        digit(0, 1, PIECES),
        digit(2, 1, SIDE),
        digit(1, 1, SIDE),
        digit(2, SIDE, DEPTH / SIDE),
    ];
    Layout::Digits(blocks.into_iter().chain(taps).chain(within).collect())
}

/// The layout of a matrix in panels of columns, which are along this axis.
fn panels(shape: &[usize], columns: usize) -> Option<Layout> {
    let &[rows_extent, columns_extent] = match columns {
        0 => &[shape[1], shape[0]],
        _ => &[shape[0], shape[1]],
    };
    let fills = columns_extent > PANEL && columns_extent.is_multiple_of(PANEL) && rows_extent > 0;
    fills.then(|| {
        let panels = digit(columns, PANEL, columns_extent / PANEL);
        Layout::Digits(vec![
            panels,
            digit(1 - columns, 1, rows_extent),
            digit(columns, 1, PANEL),
        ])
    })
}

fn digit(axis: usize, step: usize, extent: usize) -> Digit {
    Digit { axis, step, extent }
}

/// Values that lie alike.
struct Classes {
    sets: UnionFind<usize>,
    /// The number of the first value of each entry.
    first: Vec<usize>,
    /// Of each value, then of each class by its root.
    marks: Vec<Marks>,
}

/// What is known of a value.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    /// A convolution or a pooling reads or writes it.
    is_convolved: bool,
    /// The axis that is the columns of a product of matrices which reads it, of the first such.
    columns: Option<usize>,
    /// Why it must be dense, if it must.
    dense: Option<&'static str>,
    /// It is a state.
    is_state: bool,
    /// It is a filter in pieces.
    is_in_pieces: bool,
}

impl Marks {
    fn add(&mut self, other: Marks) {
        self.is_convolved |= other.is_convolved;
        self.columns = other.columns.or(self.columns);
        self.dense = self.dense.or(other.dense);
        self.is_state |= other.is_state;
        self.is_in_pieces |= other.is_in_pieces;
    }
}

impl Classes {
    fn of(entries: &[(String, Graph)], states: &[State]) -> Classes {
        let mut first = vec![0];
        for (_, graph) in entries {
            first.push(first[first.len() - 1] + graph.len());
        }
        let count = first[entries.len()];
        let mut classes = Classes {
            sets: UnionFind::new(count),
            first,
            marks: vec![Marks::default(); count],
        };
        classes.tie_states(entries, states);
        for (entry, (name, graph)) in entries.iter().enumerate() {
            // What `prepare` is passed is read once: it lies as the caller has it, and what is made of it as it is wanted.
            let at_border = |id: NodeId| name == PREPARE && matches!(graph.node(id).op, Op::Input(_));
            // Users first, so that what is read through views is marked as if it were read itself.
            for (id, node) in graph.nodes().rev() {
                classes.visit(classes.first[entry], graph, id, node, &at_border);
            }
        }
        for value in 0..count {
            let root = classes.sets.find_mut(value);
            let marks = classes.marks[value];
            classes.marks[root].add(marks);
        }
        classes
    }

    /// All reading and writing of a state is of one value. What is passed in or out by the caller is dense.
    fn tie_states(&mut self, entries: &[(String, Graph)], states: &[State]) {
        let states: HashSet<&str> = states.iter().map(|state| state.name.as_str()).collect();
        let mut homes: HashMap<&str, usize> = HashMap::new();
        for (entry, (_, graph)) in entries.iter().enumerate() {
            let inputs = graph.inputs().iter().filter_map(|&id| match &graph.node(id).op {
                Op::Input(input) => Some((input.name.as_str(), id)),
                _ => None,
            });
            let outputs = graph.outputs.iter().map(|(name, id)| (name.as_str(), *id));
            for (name, id) in inputs.chain(outputs) {
                let value = self.first[entry] + id.at();
                let is_state = states.contains(name);
                self.marks[value].is_state |= is_state;
                if !is_state {
                    self.marks[value].dense = Some("what the caller passes or gets is dense");
                }
                if is_state {
                    self.sets.union(*homes.entry(name).or_insert(value), value);
                }
            }
        }
    }

    /// Ties what a node reads and writes together, but for operands at a border.
    fn visit(&mut self, first: usize, graph: &Graph, id: NodeId, node: &Node, at_border: &dyn Fn(NodeId) -> bool) {
        let own = first + id.at();
        let mark = |classes: &mut Classes, marks: Marks, with_own: bool| {
            let args = node.args.iter().map(|arg| first + arg.at());
            args.chain(with_own.then_some(own))
                .for_each(|value| classes.marks[value].add(marks));
        };
        let convolved = Marks {
            is_convolved: true,
            ..Marks::default()
        };
        let dense = |reason| Marks {
            dense: Some(reason),
            ..Marks::default()
        };
        match &node.op {
            Op::Map(_) => {
                for &arg in &node.args {
                    if self.marks[first + arg.at()].is_state || !at_border(arg) {
                        self.sets.union(own, first + arg.at());
                    }
                }
            }
            Op::Conv(_) | Op::Pool(_) => {
                mark(self, convolved, true);
                if let Some(pieces) = node.args.get(1).and_then(|&filter| pieces::joined(graph, filter)) {
                    self.marks[first + pieces.at()].is_in_pieces = true;
                }
            }
            Op::Einsum(einsum) if node.args.iter().all(|&arg| graph.ty(arg).rank() <= 2) => {
                for (&arg, letters) in node.args.iter().zip([&einsum.left, &einsum.right]) {
                    let columns = letters.iter().position(|letter| einsum.out.last() == Some(letter));
                    self.marks[first + arg.at()].add(match columns {
                        Some(axis) if letters.len() == 2 => Marks {
                            columns: Some(axis),
                            ..Marks::default()
                        },
                        _ => dense("it is the rows of a product"),
                    });
                }
            }
            Op::View(view) => {
                let marks = Marks {
                    is_state: false,
                    is_in_pieces: false,
                    columns: None,
                    ..self.marks[own]
                };
                mark(self, marks, false);
                if let View::Reshape(shape) = view
                    && !keeps_channels(&graph.ty(node.args[0]).shape, shape)
                {
                    mark(self, dense("a reshape goes across its channels"), false);
                }
            }
            Op::Const(_)
            | Op::Part(_)
            | Op::Einsum(_)
            | Op::Gather(_)
            | Op::Scatter(_)
            | Op::Sort(_)
            | Op::Prefix(_)
            | Op::Scan(_)
            | Op::If(_)
            | Op::While(_) => mark(
                self,
                dense("an operation to which channels are nothing special reads or writes it"),
                true,
            ),
            Op::Input(_) | Op::Iota(_) | Op::Fold(_) | Op::Random(_) => {}
        }
    }

    /// The layout in blocks or panels of a value that convolutions or products want so, or why it has none after all.
    fn layout(&self, entry: usize, id: NodeId, ty: &Type) -> Result<Layout, Option<&'static str>> {
        let marks = self.marks[self.sets.find(self.first[entry] + id.at())];
        let (laid_out, dense) = match marks {
            Marks { is_in_pieces: true, .. } => return Ok(in_pieces(&ty.shape)),
            Marks {
                is_convolved: true,
                is_state: true,
                ..
            } => (filter(&ty.shape), "its channels do not fill blocks"),
            Marks { is_convolved: true, .. } => (image(&ty.shape), "its channels do not fill blocks"),
            Marks {
                is_state: true,
                columns: Some(columns),
                ..
            } => (panels(&ty.shape, columns), "its columns do not fill panels"),
            _ => return Err(None),
        };
        match marks.dense {
            Some(reason) => Err(Some(reason)),
            None => laid_out.ok_or(Some(dense)),
        }
    }
}

/// Whether a reshape leaves the two outermost axes as they are.
fn keeps_channels(from: &[usize], to: &[usize]) -> bool {
    from.len() >= 2 && to.len() >= 2 && from[..2] == to[..2]
}

#[cfg(test)]
mod tests {
    use netloom_ir::ops::Conv;
    use netloom_ir::{Builder, DType, Init, Program, Tensor, Val};

    use super::*;
    use crate::compile::lower;
    use crate::{Cpu, dump};

    /// `conv → relu → conv → flatten`, the first filter a state, the second passed in.
    #[test]
    fn images_and_filters_are_blocked_up_to_the_borders() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [2, 3, 8, 8]);
        let first = b.input("first", DType::F32, [32, 3, 3, 3]);
        let second = b.input("second", DType::F32, [16, 32, 3, 3]);
        let hidden = x.conv(first, Conv::unit(2)).relu();
        let y = hidden.conv(second, Conv::unit(2));
        let graph = b.finish([("y", y.reshape([2, 256])), ("first", first * 0.5)]).unwrap();
        let state = State {
            name: "first".into(),
            ty: Type::new(DType::F32, [32, 3, 3, 3]),
            init: Init::Tensor(Tensor::zeros(DType::F32, [32, 3, 3, 3]).into()),
        };
        let layouts = Layouts::choose(&[("run".into(), graph.clone())], &[state], &Cpu::native().target());
        let entry = layouts.entry("run");
        let text: Vec<String> = (graph.nodes())
            .filter_map(|(id, node)| Some(format!("{} {}", node.op.name(), entry.get(&id)?)))
            .collect();
        insta::assert_snapshot!(text.join("\n"), @r"
        input {0/16:2 1/1:3 2/1:3 3/1:3 0/1:16}
        conv {0/1:2 1/16:2 2/1:6 3/1:6 1/1:16}
        broadcast {0/1:2 1/16:2 2/1:6 3/1:6 1/1:16}
        max {0/1:2 1/16:2 2/1:6 3/1:6 1/1:16}
        broadcast {0/16:2 1/1:3 2/1:3 3/1:3 0/1:16}
        mul {0/16:2 1/1:3 2/1:3 3/1:3 0/1:16}
        ");
        insta::assert_snapshot!(layouts.state("first"), @"{0/16:2 1/1:3 2/1:3 3/1:3 0/1:16}");
        assert_eq!(layouts.state("second"), Layout::Dense);
    }

    /// `relu(x · w) · v · u`, and the step of `w`: what fills panels lies in them, with its gradient, as the first product reads it.
    #[test]
    fn weights_of_dense_layers_lie_in_panels() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [8, 48]);
        let shapes = [("w", [48, 64]), ("v", [96, 64]), ("u", [96, 10])];
        let [w, v, u] = shapes.map(|(name, shape)| b.input(name, DType::F32, shape));
        let u_id = u.id();
        let hidden = x.matmul(w).relu();
        let y = hidden.matmul(v.permute([1, 0]));
        let step = w - hidden.sum([0]).reshape([1, 64]) * 0.1;
        let tied = Val::einsum("mn,kn->mk", &[hidden, w]);
        let outputs = [("y", y.matmul(u)), ("tied", tied), ("w", step)];
        let graph = b.finish(outputs).unwrap();
        let states = shapes.map(|(name, shape)| State {
            name: name.into(),
            ty: Type::new(DType::F32, shape),
            init: Init::Tensor(Tensor::zeros(DType::F32, shape).into()),
        });
        let layouts = Layouts::choose(&[("run".into(), graph.clone())], &states, &Cpu::native().target());
        insta::assert_snapshot!(layouts.state("w"), @"{1/32:2 0/1:48 1/1:32}");
        assert_eq!(layouts.state("v"), Layout::Dense);
        assert_eq!(layouts.state("u"), Layout::Dense);
        let why = layouts.why_dense("run", u_id);
        assert_eq!(why, Some("its columns do not fill panels"));
    }

    #[test]
    fn plans_for_a_gpu_say_why_everything_is_dense() {
        let b = Builder::new();
        let (x, w) = (
            b.input("x", DType::F32, [2, 16, 8, 8]),
            b.input("w", DType::F32, [32, 16, 3, 3]),
        );
        let program = Program::pure("run", b.finish([("y", x.conv(w, Conv::unit(2)))]).unwrap());
        let gpu = Target {
            kind: TargetKind::Vulkan,
            ..Cpu::native().target()
        };
        let plans = dump::plans(&lower(&program, &gpu).unwrap());
        assert!(
            plans.starts_with(&format!("; every tensor is dense: {DENSE_ON_GPU}\n")),
            "{plans}"
        );
    }

    /// A filter that is scaled once lies in blocks, although what it is made of is passed in.
    #[test]
    fn what_is_prepared_lies_as_it_is_read() {
        let b = Builder::new();
        let given = b.input("given", DType::F32, [32, 16, 3, 3]);
        let scale = b.input("scale", DType::F32, [32, 1, 1, 1]);
        let prepare = b.finish([("filter", given * scale)]).unwrap();
        let b = Builder::new();
        let x = b.input("x", DType::F32, [2, 16, 8, 8]);
        let filter = b.input("filter", DType::F32, [32, 16, 3, 3]);
        let predict = b.finish([("y", x.conv(filter, Conv::unit(2)))]).unwrap();
        let state = State {
            name: "filter".into(),
            ty: Type::new(DType::F32, [32, 16, 3, 3]),
            init: Init::Prepared,
        };
        let entries = [("predict".into(), predict), (PREPARE.into(), prepare)];
        let layouts = Layouts::choose(&entries, &[state], &Cpu::native().target());
        insta::assert_snapshot!(layouts.state("filter"), @"{0/16:2 1/16:1 2/1:3 3/1:3 1/1:16 0/1:16}");
        let given = entries[1].1.inputs()[0];
        assert!(!layouts.entry(PREPARE).contains_key(&given));
    }
}
