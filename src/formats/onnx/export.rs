//! Graphs as ONNX models, for ONNX Runtime, Netron and others.
//!
//! Each of our op classes is a few ONNX operators. What ONNX has no operator for is reported, all of it at once.

mod loops;
mod order;
mod random;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::Path;

use netloom_ir::kernel::Combine;
use netloom_ir::ops::pool::{Pool, PoolKind, Window};
use netloom_ir::ops::{Fold, Gather, Op, View};
use netloom_ir::{DType, Graph, Node, NodeId, Problem, Problems, Scalar, Tensor, Type};
use prost::Message;

use super::proto::attribute_proto::AttributeType;
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
    tensor_shape_proto, type_proto,
};
use super::tensors;
use crate::error::Error;
use crate::formats::write_whole;

/// The operator set written: the one that ONNX Runtime, PyTorch and netloom's own import all know.
const OPSET: i64 = 18;

/// The version of the file format that has this operator set.
const IR_VERSION: i64 = 8;

/// Writes a graph as an ONNX model.
///
/// # Errors
/// Every node that ONNX has no operator for; or the file cannot be written.
pub fn save(path: &Path, graph: &Graph, states: &[(String, Tensor)]) -> Result<(), Error> {
    let bytes = to_bytes(graph, states)?;
    write_whole(path, |file| file.write_all(&bytes))
}

/// A graph as the bytes of an ONNX model. Inputs that are `states` become initialisers, but for those with an output of the same name: a state that
/// changes stays an input, its next value is the output `NAME.next`, and its present one the initialiser that the input may be left out for.
///
/// # Errors
/// Every node that ONNX has no operator for.
pub fn to_bytes(graph: &Graph, states: &[(String, Tensor)]) -> Result<Vec<u8>, Problems> {
    let mut writer = Writer::default();
    let changing: HashSet<&str> = graph.outputs.iter().map(|(name, _)| name.as_str()).collect();
    let live = graph.live();
    let mut problems = Vec::new();
    for &id in graph.inputs() {
        let Op::Input(input) = &graph.node(id).op else { continue };
        let state = states.iter().find(|(name, _)| *name == input.name);
        if let Some((name, value)) = state.filter(|_| live[id.at()]) {
            writer.out.initializer.push(tensors::to_proto(name, value));
        }
        if state.is_none() || changing.contains(input.name.as_str()) {
            writer.out.input.push(value_info(&input.name, &input.ty));
        }
        writer.names.insert(id, input.name.clone());
    }
    writer.taken = writer
        .names
        .values()
        .cloned()
        .chain(graph.outputs.iter().map(|(name, _)| name.clone()))
        .collect();
    for (id, node) in graph.nodes().filter(|(id, _)| live[id.at()]) {
        if let Err(reason) = writer.node(graph, id, node) {
            problems.push(Problem::new(format!("{}: {reason}", node.op.name()), node.loc.clone()));
        }
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let mut out = writer.out;
    for (name, id) in &graph.outputs {
        let is_input = graph.input(name).is_some();
        let output = if is_input { format!("{name}.next") } else { name.clone() };
        out.output.push(value_info(&output, graph.ty(*id)));
        out.node.push(NodeProto {
            op_type: Some("Identity".to_owned()),
            input: vec![writer.names[id].clone()],
            output: vec![output],
            ..NodeProto::default()
        });
    }
    out.name = Some("netloom".to_owned());
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("netloom".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        opset_import: vec![OperatorSetIdProto {
            domain: None,
            version: Some(OPSET),
        }],
        graph: Some(out),
        ..ModelProto::default()
    };
    Ok(model.encode_to_vec())
}

fn value_info(name: &str, ty: &Type) -> ValueInfoProto {
    use tensor_shape_proto::dimension::Value;
    let dims = ty.shape.iter().map(|&extent| tensor_shape_proto::Dimension {
        value: Some(Value::DimValue(extent as i64)),
        ..Default::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: Some(tensors::number(ty.dtype)),
        shape: Some(TensorShapeProto { dim: dims.collect() }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

/// An attribute's value.
enum Value {
    Int(i64),
    Ints(Vec<i64>),
    Text(&'static str),
}

/// What becomes of a number whose bits are taken.
enum Undone {
    /// All that is done with the bits is to make the number of them again.
    By,
    /// This makes the number again.
    Undoes(NodeId),
    /// The bits are wanted.
    Not,
}

fn undone(graph: &Graph, id: NodeId) -> Undone {
    let source = |id: NodeId| match &graph.node(id).op {
        Op::Map(map) if map.0.name.starts_with("bits_to_") => Some(graph.node(id).args[0]),
        _ => None,
    };
    let original = source(id).and_then(source);
    if let Some(original) = original.filter(|original| graph.ty(*original) == graph.ty(id)) {
        return Undone::Undoes(original);
    }
    let back = |user: NodeId| source(user) == Some(id) && source(id).map(|x| graph.ty(x)) == Some(graph.ty(user));
    let mut users = graph.nodes().filter(|(_, node)| node.args.contains(&id));
    let is_output = graph.outputs.iter().any(|(_, output)| *output == id);
    match !is_output && users.all(|(user, _)| back(user)) {
        true => Undone::By,
        false => Undone::Not,
    }
}

fn sizes(values: &[usize]) -> Value {
    Value::Ints(values.iter().map(|&value| value as i64).collect())
}

#[derive(Default)]
struct Writer {
    out: GraphProto,
    /// What the nodes' first results are called.
    names: HashMap<NodeId, String>,
    /// What the results of nodes with several are called.
    parts: HashMap<NodeId, Vec<String>>,
    /// Names that the model has for its inputs and outputs.
    taken: HashSet<String>,
    made: usize,
}

impl Writer {
    fn fresh(&mut self) -> String {
        loop {
            self.made += 1;
            let name = format!("v{}", self.made);
            if !self.taken.contains(&name) {
                return name;
            }
        }
    }

    /// A node; gives the name of its result.
    fn push(&mut self, op: &str, inputs: &[&str], attributes: Vec<(&str, Value)>) -> String {
        self.push_many(op, inputs, attributes, 1).remove(0)
    }

    /// A node of so many results; gives their names.
    fn push_many(&mut self, op: &str, inputs: &[&str], attributes: Vec<(&str, Value)>, results: usize) -> Vec<String> {
        let outputs: Vec<String> = (0..results).map(|_| self.fresh()).collect();
        let attribute = |(name, value): (&str, Value)| {
            let mut attribute = AttributeProto {
                name: Some(name.to_owned()),
                ..AttributeProto::default()
            };
            let kind = match value {
                Value::Int(value) => {
                    attribute.i = Some(value);
                    AttributeType::Int
                }
                Value::Ints(values) => {
                    attribute.ints = values;
                    AttributeType::Ints
                }
                Value::Text(value) => {
                    attribute.s = Some(value.as_bytes().to_vec());
                    AttributeType::String
                }
            };
            attribute.r#type = Some(kind as i32);
            attribute
        };
        self.out.node.push(NodeProto {
            op_type: Some(op.to_owned()),
            name: outputs.first().cloned(),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: outputs.clone(),
            attribute: attributes.into_iter().map(attribute).collect(),
            ..NodeProto::default()
        });
        outputs
    }

    /// An initialiser; gives its name.
    fn constant(&mut self, tensor: &Tensor) -> String {
        let name = self.fresh();
        self.out.initializer.push(tensors::to_proto(&name, tensor));
        name
    }

    fn node(&mut self, graph: &Graph, id: NodeId, node: &Node) -> Result<(), String> {
        let args: Vec<String> = node
            .args
            .iter()
            .map(|arg| self.names.get(arg).cloned().unwrap_or_default())
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let types: Vec<&Type> = (node.args.iter()).map(|arg| &graph.node(*arg).types[0]).collect();
        let written = self.out.node.len();
        let name = match &node.op {
            // Named before.
            Op::Input(_) => return Ok(()),
            Op::Const(tensor) => self.constant(tensor),
            Op::Iota(iota) => {
                let along = Tensor::from_fn(iota.dtype, [iota.shape[iota.axis]], |index| {
                    Scalar::Int(index[0] as i128).cast(iota.dtype)
                });
                let mut beside = vec![1; iota.shape.len()];
                beside[iota.axis] = iota.shape[iota.axis];
                let along = self.constant(&along.reshaped(beside));
                let shape: Vec<i64> = iota.shape.iter().map(|&extent| extent as i64).collect();
                let shape = self.ints(&shape);
                self.push("Expand", &[&along, &shape], vec![])
            }
            Op::Map(map) if map.0.name.starts_with("bits_to_") => match undone(graph, id) {
                // Bits taken and given back: what keeps a value from being simplified changes nothing.
                Undone::By => return Ok(()),
                Undone::Undoes(original) => self.names[&original].clone(),
                Undone::Not => return Err("the bits of a number have no operator in ONNX".to_owned()),
            },
            Op::Map(map) => self.map(map.0.name, &args, node)?,
            Op::Fold(fold) => self.fold(fold, args[0], types[0])?,
            Op::View(view) => self.view(view, &args, types[0])?,
            Op::Einsum(einsum) => {
                let text = |letters: &[char]| letters.iter().collect::<String>();
                let equation = format!("{},{}->{}", text(&einsum.left), text(&einsum.right), text(&einsum.out));
                let name = self.push("Einsum", &args, vec![]);
                let last = self.out.node.last_mut().expect("it was pushed");
                last.attribute.push(AttributeProto {
                    name: Some("equation".to_owned()),
                    s: Some(equation.into_bytes()),
                    r#type: Some(AttributeType::String as i32),
                    ..AttributeProto::default()
                });
                name
            }
            Op::Conv(conv) => {
                let mut pads: Vec<i64> = conv.pad_low.iter().chain(&conv.pad_high).copied().collect();
                let mut x = args[0].to_owned();
                // `Conv` neither dilates nor crops its operand, which gradients do: then that comes first.
                if conv.input_dilation.iter().any(|&by| by != 1) || pads.iter().any(|&pad| pad < 0) {
                    let zero = Tensor::zeros(types[0].dtype, []);
                    let mut shape: Vec<i64> = types[0].shape.iter().map(|&extent| extent as i64).collect();
                    for (axis, &by) in conv.input_dilation.iter().enumerate().filter(|(_, by)| **by != 1) {
                        x = self.spread(&x, &mut shape, 2 + axis, by as i64 - 1, &zero);
                    }
                    let around = [&[0, 0], &conv.pad_low[..], &[0, 0], &conv.pad_high].concat();
                    let (around, zero) = (self.ints(&around), self.constant(&zero));
                    x = self.push("Pad", &[&x, &around, &zero], vec![("mode", Value::Text("constant"))]);
                    pads.fill(0);
                }
                let attributes = vec![
                    ("strides", sizes(&conv.stride)),
                    ("pads", Value::Ints(pads)),
                    ("dilations", sizes(&conv.kernel_dilation)),
                    ("group", Value::Int(conv.groups as i64)),
                ];
                self.push("Conv", &[&x, args[1]], attributes)
            }
            Op::Gather(Gather { axis }) => {
                // Ours reads the nearest where an index lies outside; ONNX refuses, or counts from the end.
                let extent = types[0].shape[*axis];
                let is_inside = match &graph.node(node.args[1]).op {
                    Op::Const(at) => at.scalars().all(|at| (0..extent as i128).contains(&at.as_i128())),
                    _ => false,
                };
                let at = if is_inside {
                    args[1].to_owned()
                } else {
                    self.nearest(args[1], extent)
                };
                self.push("Gather", &[args[0], &at], vec![("axis", Value::Int(*axis as i64))])
            }
            Op::Pool(pool) if pool.kind == PoolKind::ArgMax => {
                self.argmax_pool(&pool.window, args[0], types[0], node.ty())
            }
            Op::Pool(pool) => self.pool(pool, args[0], types[0].dtype)?,
            Op::Prefix(prefix) => self.prefix(prefix, args[0], types[0]),
            Op::Scatter(scatter) => self.scatter(scatter, &args, &types),
            Op::Sort(sort) => self.sort(sort, args[0], types[0]),
            Op::Part(part) => self.parts[&node.args[0]][*part].clone(),
            Op::Scan(scan) => {
                let results = self.scan(scan, &args, node)?;
                self.several(id, results)
            }
            Op::If(branch) => {
                let results = self.branch(branch, &args, node)?;
                self.several(id, results)
            }
            Op::While(whil) => {
                let results = self.while_loop(whil, &args, node)?;
                self.several(id, results)
            }
            Op::Random(random) => self.random(random, args[0], args[1]),
        };
        // Viewers show the shapes of what is between the operators only where the model says them.
        if self.out.node.len() > written {
            let results = self.parts.get(&id).map_or(std::slice::from_ref(&name), Vec::as_slice);
            let typed = results.iter().zip(&node.types).map(|(name, ty)| value_info(name, ty));
            self.out.value_info.extend(typed);
        }
        self.names.insert(id, name);
        Ok(())
    }

    /// Remembers the results of a node with several, and gives the first.
    fn several(&mut self, id: NodeId, results: Vec<String>) -> String {
        let first = results.first().cloned().unwrap_or_default();
        self.parts.insert(id, results);
        first
    }

    fn map(&mut self, map: &str, args: &[&str], node: &Node) -> Result<String, String> {
        /// Operators that are the same function.
        const SAME: &[(&str, &str)] = &[
            ("add", "Add"),
            ("sub", "Sub"),
            ("mul", "Mul"),
            ("div", "Div"),
            ("neg", "Neg"),
            ("abs", "Abs"),
            ("sign", "Sign"),
            ("sqrt", "Sqrt"),
            ("max", "Max"),
            ("min", "Min"),
            ("mod", "Mod"),
            ("pow", "Pow"),
            ("exp", "Exp"),
            ("log", "Log"),
            ("sigmoid", "Sigmoid"),
            ("softplus", "Softplus"),
            ("erf", "Erf"),
            ("floor", "Floor"),
            ("ceil", "Ceil"),
            ("round", "Round"),
            ("sin", "Sin"),
            ("cos", "Cos"),
            ("tan", "Tan"),
            ("asin", "Asin"),
            ("acos", "Acos"),
            ("atan", "Atan"),
            ("sinh", "Sinh"),
            ("cosh", "Cosh"),
            ("tanh", "Tanh"),
            ("asinh", "Asinh"),
            ("acosh", "Acosh"),
            ("atanh", "Atanh"),
            ("eq", "Equal"),
            ("lt", "Less"),
            ("le", "LessOrEqual"),
            ("gt", "Greater"),
            ("ge", "GreaterOrEqual"),
            ("select", "Where"),
            ("is_nan", "IsNaN"),
            ("is_inf", "IsInf"),
        ];
        let dtype = node.types[0].dtype;
        if let Some((_, op)) = SAME.iter().find(|(ours, _)| *ours == map) {
            return Ok(self.push(op, args, vec![]));
        }
        if map.starts_with("to_") {
            return Ok(self.push("Cast", args, vec![("to", Value::Int(tensors::number(dtype).into()))]));
        }
        let is_bool = dtype == DType::Bool;
        Ok(match map {
            "ne" => {
                let equal = self.push("Equal", args, vec![]);
                self.push("Not", &[&equal], vec![])
            }
            "fma" => {
                let product = self.push("Mul", &args[..2], vec![]);
                self.push("Add", &[&product, args[2]], vec![])
            }
            "rem" => self.push("Mod", args, vec![("fmod", Value::Int(1))]),
            "not" => self.push(if is_bool { "Not" } else { "BitwiseNot" }, args, vec![]),
            "and" => self.push(if is_bool { "And" } else { "BitwiseAnd" }, args, vec![]),
            "or" => self.push(if is_bool { "Or" } else { "BitwiseOr" }, args, vec![]),
            "xor" => self.push(if is_bool { "Xor" } else { "BitwiseXor" }, args, vec![]),
            // Signed ones have no operator.
            "shl" | "shr" if !dtype.is_signed() => {
                let direction = if map == "shl" { "LEFT" } else { "RIGHT" };
                self.push("BitShift", args, vec![("direction", Value::Text(direction))])
            }
            "expm1" | "log1p" | "exp2" | "log2" | "log10" | "trunc" => self.composed(map, args[0], dtype),
            _ => return Err("it has no operator in ONNX".to_owned()),
        })
    }

    /// Functions that ONNX has only in parts.
    fn composed(&mut self, map: &str, x: &str, dtype: DType) -> String {
        let mut number = |value: f64| self.constant(&Tensor::scalar(dtype, Scalar::from_f64(value, dtype)));
        match map {
            "expm1" => {
                let one = number(1.0);
                let e = self.push("Exp", &[x], vec![]);
                self.push("Sub", &[&e, &one], vec![])
            }
            "log1p" => {
                let one = number(1.0);
                let sum = self.push("Add", &[x, &one], vec![]);
                self.push("Log", &[&sum], vec![])
            }
            "exp2" => {
                let two = number(2.0);
                self.push("Pow", &[&two, x], vec![])
            }
            "log2" | "log10" => {
                let base = number(if map == "log2" {
                    std::f64::consts::LN_2
                } else {
                    std::f64::consts::LN_10
                });
                let log = self.push("Log", &[x], vec![]);
                self.push("Div", &[&log, &base], vec![])
            }
            _ => {
                let sign = self.push("Sign", &[x], vec![]);
                let size = self.push("Abs", &[x], vec![]);
                let whole = self.push("Floor", &[&size], vec![]);
                self.push("Mul", &[&sign, &whole], vec![])
            }
        }
    }

    fn fold(&mut self, fold: &Fold, x: &str, ty: &Type) -> Result<String, String> {
        let axes: Vec<i64> = fold.axes.iter().map(|&axis| axis as i64).collect();
        let op = match fold.with {
            Combine::Sum => "ReduceSum",
            Combine::Product => "ReduceProd",
            Combine::Max | Combine::Any => "ReduceMax",
            Combine::Min | Combine::All => "ReduceMin",
        };
        let is_bool = ty.dtype == DType::Bool;
        // Until opset 20 the greatest of booleans is that of their bytes.
        let to = |dtype: DType| vec![("to", Value::Int(tensors::number(dtype).into()))];
        let wide = if is_bool {
            self.push("Cast", &[x], to(DType::U8))
        } else {
            x.to_owned()
        };
        let keep = vec![("keepdims", Value::Int(0))];
        let axes = self.ints(&axes);
        let folded = self.push(op, &[&wide, &axes], keep);
        Ok(if is_bool {
            self.push("Cast", &[&folded], to(DType::Bool))
        } else {
            folded
        })
    }

    /// A pool over the last axes; ONNX wants a batch and channels before them.
    fn pool(&mut self, pool: &Pool, x: &str, dtype: DType) -> Result<String, String> {
        let Window {
            size,
            stride,
            pad_low,
            pad_high,
            dilation,
        } = &pool.window;
        let attributes = || {
            let pads = pad_low.iter().chain(pad_high).map(|&pad| pad as i64);
            vec![
                ("kernel_shape", sizes(size)),
                ("strides", sizes(stride)),
                ("pads", Value::Ints(pads.collect())),
            ]
        };
        match pool.kind {
            PoolKind::Max => {
                let attributes = attributes().into_iter().chain([("dilations", sizes(dilation))]);
                Ok(self.push("MaxPool", &[x], attributes.collect()))
            }
            // The mean, padding counted, times the number of elements.
            PoolKind::Sum if dilation.iter().all(|&by| by == 1) => {
                let attributes = attributes().into_iter().chain([("count_include_pad", Value::Int(1))]);
                let mean = self.push("AveragePool", &[x], attributes.collect());
                let count: usize = size.iter().product();
                let count = self.constant(&Tensor::scalar(dtype, Scalar::from_f64(count as f64, dtype)));
                Ok(self.push("Mul", &[&mean, &count], vec![]))
            }
            PoolKind::Sum => Err("a sum over dilated windows has no operator in ONNX".to_owned()),
            PoolKind::ArgMax => unreachable!("it is written by itself"),
        }
    }

    fn view(&mut self, view: &View, args: &[&str], ty: &Type) -> Result<String, String> {
        let signed = |values: &[usize]| -> Vec<i64> { values.iter().map(|&value| value as i64).collect() };
        Ok(match view {
            View::Reshape(shape) => {
                let shape = self.ints(&signed(shape));
                self.push("Reshape", &[args[0], &shape], vec![("allowzero", Value::Int(1))])
            }
            View::Permute(order) => self.push("Transpose", args, vec![("perm", sizes(order))]),
            View::Broadcast(shape) => {
                let shape = self.ints(&signed(shape));
                self.push("Expand", &[args[0], &shape], vec![])
            }
            View::Slice { start, step, count } => {
                let end: Vec<i64> = (0..start.len())
                    .map(|axis| {
                        (start[axis] + step[axis] * count[axis].max(1) - step[axis] + usize::from(count[axis] > 0))
                            as i64
                    })
                    .collect();
                let axes: Vec<i64> = (0..start.len() as i64).collect();
                let (start, end) = (self.ints(&signed(start)), self.ints(&end));
                let (axes, step) = (self.ints(&axes), self.ints(&signed(step)));
                self.push("Slice", &[args[0], &start, &end, &axes, &step], vec![])
            }
            View::Pad { low, high, inner, fill } => {
                let mut x = args[0].to_owned();
                let mut shape = signed(&ty.shape);
                for (axis, &between) in inner.iter().enumerate().filter(|(_, between)| **between > 0) {
                    x = self.spread(&x, &mut shape, axis, between as i64, fill);
                }
                let pads: Vec<i64> = low.iter().chain(high).map(|&pad| pad as i64).collect();
                let (pads, fill) = (self.ints(&pads), self.constant(fill));
                self.push("Pad", &[&x, &pads, &fill], vec![("mode", Value::Text("constant"))])
            }
            View::Flip(axes) => {
                let axes = signed(axes);
                let (start, end) = (vec![-1; axes.len()], vec![i64::MIN + 1; axes.len()]);
                let (start, end, step) = (self.ints(&start), self.ints(&end), self.ints(&vec![-1; axes.len()]));
                let axes = self.ints(&axes);
                self.push("Slice", &[args[0], &start, &end, &axes, &step], vec![])
            }
            View::Concat(axis) => self.push("Concat", args, vec![("axis", Value::Int(*axis as i64))]),
            View::Windows {
                axes,
                size,
                stride,
                dilation,
            } => {
                // Each window's elements are gathered by their places.
                let mut x = args[0].to_owned();
                let mut shape = ty.shape.clone();
                for (place, &axis) in axes.iter().enumerate() {
                    let windows =
                        (shape[axis].saturating_sub((size[place] - 1) * dilation[place] + 1)) / stride[place] + 1;
                    let at = Tensor::from_fn(DType::I64, [windows, size[place]], |index| {
                        Scalar::Int((index[0] * stride[place] + index[1] * dilation[place]) as i128)
                    });
                    let at = self.constant(&at);
                    let read = self.push("Gather", &[&x, &at], vec![("axis", Value::Int(axis as i64))]);
                    let rank = shape.len() + 1;
                    let mut order: Vec<usize> = (0..rank).filter(|&other| other != axis + 1).collect();
                    order.push(axis + 1);
                    x = self.push("Transpose", &[&read], vec![("perm", sizes(&order))]);
                    shape[axis] = windows;
                    shape.push(size[place]);
                }
                x
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use netloom_ir::text;

    use super::*;

    /// Of results that several operators make together, of each of several, and within bodies.
    #[test]
    fn what_is_between_operators_has_its_type() {
        let graph = text::parse(
            "typed",
            "graph(x: f32[4,8], h: f32[8]) {
               y = rem x, x
               sums = scan h, y length=4 carried=1 sliced=1 body=graph(h: f32[8], x: f32[8]) {
                 next = add h, x
                 product = mul next, x
                 return next, product
               }
               last = part 0 sums
               all = part 1 sums
               return last = last, all = all
             }",
        );
        let bytes = to_bytes(&graph.expect("a graph"), &[]).expect("a model");
        let model = ModelProto::decode(&bytes[..]).expect("what was encoded");
        let graph = model.graph.expect("its graph");
        let typed = |graph: &GraphProto| -> Vec<Vec<i64>> {
            let of = |value: &ValueInfoProto| match value.r#type.as_ref()?.value.as_ref()? {
                type_proto::Value::TensorType(tensor) => Some(tensor.shape.as_ref()?.dim.iter().map(extent).collect()),
                _ => None,
            };
            graph.value_info.iter().filter_map(of).collect()
        };
        assert_eq!(typed(&graph), [vec![4, 8], vec![8], vec![4, 8]]);
        let bodies = graph
            .node
            .iter()
            .flat_map(|node| &node.attribute)
            .filter_map(|attribute| attribute.g.as_ref());
        assert_eq!(bodies.map(typed).collect::<Vec<_>>(), [[vec![8], vec![8]]]);
    }

    fn extent(dimension: &tensor_shape_proto::Dimension) -> i64 {
        match dimension.value {
            Some(tensor_shape_proto::dimension::Value::DimValue(extent)) => extent,
            _ => -1,
        }
    }
}
