//! Graphs and programs to text.
//!
//! A label is the node's id, so that dumps, problems and panics speak of the same `%7`. Scalar constants, and in elementwise ops their
//! broadcasts, stand where they are used (`max %2, 0.0`); their ids are missing from the labels. So that parsing gives every node its id again,
//! this is done only where the parser would make the same nodes in the same order; elsewhere they have lines of their own.

use std::fmt::{self, Write};

use super::{MAX_NUMBERS, lex, stored};
use crate::dtype::{DType, Scalar};
use crate::fuse::Region;
use crate::graph::{Graph, Node, NodeId};
use crate::ops::{Attr, Op, View};
use crate::program::{Init, Program};
use crate::tensor::Tensor;

impl fmt::Display for Graph {
    /// The text form; `{:#}` names large constants instead of writing them, see [`super::stored()`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_graph(f, self, 0)?;
        f.write_char('\n')
    }
}

impl fmt::Display for Program {
    /// The text form; `{:#}` names large constants instead of writing them, see [`super::stored()`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for state in &self.states {
            write!(f, "state {}: {} = ", Name(&state.name), state.ty)?;
            match &state.init {
                Init::Tensor(tensor) => print_tensor(f, tensor)?,
                Init::Graph(graph) => print_graph(f, graph, 0)?,
                Init::Prepared => f.write_str("prepared")?,
                Init::Given => f.write_str("given")?,
                Init::Data => f.write_str("data")?,
            }
            f.write_char('\n')?;
        }
        for entry in &self.entries {
            write!(f, "entry {} = ", Name(&entry.name))?;
            print_graph(f, &entry.graph, 0)?;
            f.write_char('\n')?;
        }
        Ok(())
    }
}

/// A graph without the last line's end; `depth` is that of the line it starts on.
fn print_graph(f: &mut fmt::Formatter<'_>, graph: &Graph, depth: usize) -> fmt::Result {
    let is_input = |id: &NodeId| matches!(graph.node(*id).op, Op::Input(_));
    let header: Vec<String> = graph
        .ids()
        .take_while(is_input)
        .map(|id| format!("{}: {}", operand(graph, id), graph.ty(id)))
        .collect();
    writeln!(f, "graph({}) {{", header.join(", "))?;
    let mut body = Body {
        f,
        graph,
        depth: depth + 1,
        labelled: labelled(graph),
        made: vec![false; graph.len()],
        waiting: Vec::new(),
    };
    for id in graph.ids().skip(header.len()) {
        body.node(id)?;
    }
    body.flush()?;
    graph.regions().iter().try_for_each(|region| body.region(region))?;
    body.indent()?;
    f.write_str("return")?;
    for (place, (name, id)) in graph.outputs.iter().enumerate() {
        f.write_str(if place == 0 { " " } else { ", " })?;
        if *name != place.to_string() {
            write!(f, "{} = ", Name(name))?;
        }
        f.write_str(&operand(graph, *id))?;
    }
    write!(f, "\n{:1$}}}", "", 2 * depth)
}

/// How an operand or result is named: an input by its name, any other node by its label.
pub(super) fn operand(graph: &Graph, id: NodeId) -> String {
    match &graph.node(id).op {
        Op::Input(input) => Name(&input.name).to_string(),
        _ => id.to_string(),
    }
}

/// An op with its attributes, constants shortened and bodies left out: `sum axes=[0]`.
pub fn op_summary(op: &Op) -> String {
    if let Op::Input(input) = op {
        return format!("input {}", Name(&input.name));
    }
    let mut text = op.name().to_owned();
    for (name, attr) in op.rules().attrs() {
        match (&attr, name) {
            (Attr::Graph(_), _) => {}
            (Attr::Tensor(tensor), _) => text += &format!(" {tensor:?}"),
            (_, "") => text += &format!(" {attr}"),
            (_, name) => text += &format!(" {name}={attr}"),
        }
    }
    text
}

/// A node on one line, constants shortened and bodies left out: `%4: f32[] = sum %3 axes=[0]`.
pub fn summary(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let types: Vec<String> = node.types.iter().map(ToString::to_string).collect();
    let args: Vec<String> = node.args.iter().map(|&arg| operand(graph, arg)).collect();
    let op = op_summary(&node.op);
    let (name, attrs) = op
        .split_once(' ')
        .map_or((&op[..], String::new()), |(name, attrs)| (name, format!(" {attrs}")));
    match node.op {
        Op::Input(_) => format!("{id}: {} = {op}", types.join(", ")),
        _ if args.is_empty() => format!("{id}: {} = {op}", types.join(", ")),
        _ => format!("{id}: {} = {name} {}{attrs}", types.join(", "), args.join(", ")),
    }
}

/// The lines of a graph being written.
struct Body<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    graph: &'a Graph,
    depth: usize,
    /// For each node, whether it is named by its label somewhere.
    labelled: Vec<bool>,
    /// For each node, whether a parser that has read this far has made it.
    made: Vec<bool>,
    /// Constants that may be written where they are used, and have not been yet, in order.
    waiting: Vec<NodeId>,
}

impl Body<'_, '_> {
    fn node(&mut self, id: NodeId) -> fmt::Result {
        let graph = self.graph;
        let node = graph.node(id);
        if literal(graph, id).is_some() && !self.labelled[id.at()] {
            self.waiting.push(id);
            return Ok(());
        }
        // A parser makes the constants that an operand stands for when it meets them.
        let mut makes: Vec<NodeId> = Vec::new();
        for &arg in &node.args {
            if !is_inline(graph, node, arg) {
                continue;
            }
            for &part in graph.node(arg).args.iter().chain([&arg]) {
                if !self.made[part.at()] && !makes.contains(&part) {
                    makes.push(part);
                }
            }
        }
        if makes != self.waiting {
            self.flush()?;
        }
        for made in self.waiting.drain(..) {
            self.made[made.at()] = true;
        }
        self.line(id)
    }

    /// Gives every waiting constant a line of its own; a broadcast's line takes in the scalar right before it.
    fn flush(&mut self) -> fmt::Result {
        let waiting = std::mem::take(&mut self.waiting);
        for (place, &id) in waiting.iter().enumerate() {
            let taken_in = waiting
                .get(place + 1)
                .is_some_and(|next| self.graph.node(*next).args == [id]);
            if !taken_in {
                self.line(id)?;
            }
            self.made[id.at()] = true;
        }
        Ok(())
    }

    /// `%4: f32[8,16] = einsum "mk,kn->mn" %2, %3`
    fn line(&mut self, id: NodeId) -> fmt::Result {
        let graph = self.graph;
        let node = graph.node(id);
        self.made[id.at()] = true;
        self.indent()?;
        let types: Vec<String> = node.types.iter().map(ToString::to_string).collect();
        write!(
            self.f,
            "{}: {} = {}",
            operand(graph, id),
            types.join(", "),
            node.op.name()
        )?;
        if matches!(node.op, Op::Input(_)) {
            return self.f.write_char('\n');
        }
        let attrs = node.op.rules().attrs();
        for (_, value) in attrs.iter().filter(|(name, _)| name.is_empty()) {
            self.f.write_char(' ')?;
            self.attr(value)?;
        }
        for (place, &arg) in node.args.iter().enumerate() {
            self.f.write_str(if place == 0 { " " } else { ", " })?;
            match literal(graph, arg) {
                Some(scalar) if is_inline(graph, node, arg) => self.f.write_str(&literal_text(scalar))?,
                _ => self.f.write_str(&operand(graph, arg))?,
            }
        }
        for (name, value) in attrs.iter().filter(|(name, _)| !name.is_empty()) {
            write!(self.f, " {name}=")?;
            self.attr(value)?;
        }
        self.f.write_char('\n')
    }

    /// `region %7 = %4, %5, %7  # reads x, %3`, then why it holds no more, a line each.
    fn region(&mut self, region: &Region) -> fmt::Result {
        let graph = self.graph;
        let list = |ids: &[NodeId]| ids.iter().map(|&id| operand(graph, id)).collect::<Vec<_>>().join(", ");
        let (outputs, nodes, inputs) = (list(&region.outputs), list(&region.nodes), list(&region.inputs));
        self.indent()?;
        writeln!(self.f, "region {outputs} = {nodes}  # reads {inputs}")?;
        for (id, reason) in &region.stopped {
            self.indent()?;
            writeln!(self.f, "  without {} \"{reason}\"", operand(graph, *id))?;
        }
        let given = region.given.as_ref().map(ToString::to_string);
        for line in given.iter().flat_map(|given| given.lines()) {
            self.indent()?;
            writeln!(self.f, "  {line}")?;
        }
        Ok(())
    }

    fn attr(&mut self, attr: &Attr) -> fmt::Result {
        match attr {
            Attr::Tensor(tensor) => print_tensor(self.f, tensor),
            Attr::Graph(body) => print_graph(self.f, body, self.depth),
            Attr::Text(text) => write!(self.f, "\"{text}\""),
            Attr::Int(_) | Attr::Ints(_) | Attr::Bool(_) | Attr::Word(_) | Attr::DType(_) | Attr::Type(_) => {
                write!(self.f, "{attr}")
            }
        }
    }

    fn indent(&mut self) -> fmt::Result {
        write!(self.f, "{:1$}", "", 2 * self.depth)
    }
}

fn labelled(graph: &Graph) -> Vec<bool> {
    let mut labelled = vec![false; graph.len()];
    for (_, id) in &graph.outputs {
        labelled[id.at()] = true;
    }
    for (_, node) in graph.nodes() {
        for &arg in node.args.iter().filter(|&&arg| !is_inline(graph, node, arg)) {
            labelled[arg.at()] = true;
        }
    }
    for region in graph.regions() {
        region.nodes.iter().for_each(|id| labelled[id.at()] = true);
    }
    labelled
}

/// The scalar that a scalar constant, or a broadcast of one, is everywhere.
fn literal(graph: &Graph, id: NodeId) -> Option<&Tensor> {
    let node = graph.node(id);
    match &node.op {
        Op::Const(tensor) if tensor.shape().is_empty() => Some(tensor),
        Op::View(View::Broadcast(_)) => match &graph.node(node.args[0]).op {
            Op::Const(tensor) if tensor.shape().is_empty() => Some(tensor),
            _ => None,
        },
        _ => None,
    }
}

/// Whether `node` can name its operand by its value: the parser broadcasts the scalars of an elementwise op, and no others.
fn is_inline(graph: &Graph, node: &Node, arg: NodeId) -> bool {
    let wanted: &[usize] = match node.op {
        Op::Map(_) => &node.types[0].shape,
        _ => &[],
    };
    let is_scalar = graph.node(arg).args.is_empty();
    // `broadcast []` of a scalar is a node that nobody writes but the text must not lose.
    literal(graph, arg).is_some() && graph.ty(arg).shape == wanted && is_scalar == wanted.is_empty()
}

/// A constant: a literal with its type if it is a scalar, else `f32[2,3] [1.0,2.0,…]`.
fn print_tensor(f: &mut fmt::Formatter<'_>, tensor: &Tensor) -> fmt::Result {
    if tensor.shape().is_empty() {
        let text = literal_text(tensor);
        let is_plain = tensor.dtype() == DType::F32 && text.contains(|c: char| c.is_ascii_digit());
        // Among attributes a bare `7` is a number and a bare `true` a choice, so a constant says its type.
        let is_typed = is_plain || text.contains(':');
        return if is_typed {
            f.write_str(&text)
        } else {
            write!(f, "{text}:{}", tensor.dtype())
        };
    }
    write!(f, "{} ", tensor.ty())?;
    if tensor.count() > MAX_NUMBERS && f.alternate() {
        return write!(f, "stored \"{}\"", stored::reference(tensor));
    }
    if tensor.count() > MAX_NUMBERS {
        f.write_char('"')?;
        for byte in tensor.bytes() {
            write!(f, "{byte:02x}")?;
        }
        return f.write_char('"');
    }
    let elements: Vec<String> = (0..tensor.count()).map(|place| element_text(tensor, place)).collect();
    write!(f, "[{}]", elements.join(","))
}

/// A scalar constant as operand: `f32`, `i64` and `bool` bare, the others with their type: `0.5:f64`.
pub(crate) fn literal_text(scalar: &Tensor) -> String {
    let text = element_text(scalar, 0);
    let is_bits = text.starts_with("0x");
    match scalar.dtype() {
        DType::F32 | DType::I64 | DType::Bool if !is_bits => text,
        dtype => format!("{text}:{dtype}"),
    }
}

/// An element in the fewest digits that give its bits back; a NaN other than the usual one as its bits.
fn element_text(tensor: &Tensor, place: usize) -> String {
    let dtype = tensor.dtype();
    let size = dtype.size_bytes();
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&tensor.bytes()[place * size..][..size]);
    let bits = u64::from_le_bytes(bytes);
    let scalar = Scalar::from_bits(bits, dtype);
    if scalar.to_bits(dtype) != bits || scalar_is_odd_nan(scalar, bits, dtype) {
        return format!("{bits:#x}");
    }
    match scalar {
        Scalar::Float(value) if value.is_nan() => "nan".to_owned(),
        Scalar::Float(value) if dtype == DType::F64 => format!("{value:?}"),
        Scalar::Float(value) => format!("{:?}", value as f32),
        Scalar::Int(value) => value.to_string(),
        Scalar::Bool(value) => value.to_string(),
    }
}

fn scalar_is_odd_nan(scalar: Scalar, bits: u64, dtype: DType) -> bool {
    let is_nan = matches!(scalar, Scalar::Float(value) if value.is_nan());
    is_nan && bits != Scalar::Float(f64::NAN).to_bits(dtype)
}

/// A name: bare if it reads as a word that means nothing else, otherwise between backticks.
pub(crate) struct Name<'a>(pub &'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if lex::is_word(self.0) && !super::is_reserved(self.0) {
            return f.write_str(self.0);
        }
        f.write_char('`')?;
        for c in self.0.chars() {
            match c {
                '`' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                _ => f.write_char(c)?,
            }
        }
        f.write_char('`')
    }
}
