//! From a model to a graph: inputs, initialisers, nodes in order.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use netloom_ir::{Builder, Graph, Loc, NodeId, Op, Tensor, Val};

use super::node::Cx;
use super::proto::type_proto;
use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, ValueInfoProto};
use super::proto::{tensor_shape_proto, type_proto::Tensor as TensorType};
use super::{Binding, Model, Refusal, ops, refusal, tensors};

/// The domain of ONNX's own operators, which the empty name means too.
const OWN_DOMAIN: &str = "ai.onnx";

/// Elements of all values that are computed while importing.
const MOST_HOST_ELEMENTS: usize = 1 << 24;

/// Nodes built for one model, unrolled loops and inlined functions included.
const MOST_NODES: usize = 1 << 20;

/// How deep functions and bodies may nest.
const MOST_DEPTH: usize = 32;

/// The graph of a model.
pub(super) fn import(model: &Model, binding: Binding<'_>) -> Result<Graph, Refusal> {
    let Model {
        proto: model,
        initialisers,
    } = model;
    let graph = model
        .graph
        .as_ref()
        .ok_or_else(|| refusal("the model has no graph".to_owned()))?;
    let b = Builder::new();
    let importer = Importer {
        b: &b,
        binding,
        opsets: opsets(&model.opset_import),
        functions: (model.functions.iter())
            .map(|function| ((own(function.domain()), function.name()), function))
            .collect(),
        hosts: RefCell::default(),
        host_elements: Cell::new(0),
        inputs: RefCell::default(),
        nodes: Cell::new(0),
        depth: Cell::new(0),
    };
    let outputs = importer.whole(graph, initialisers);
    let inputs = importer.inputs.take();
    b.finish(outputs).map_err(|problems| Refusal { problems, inputs })
}

fn own(domain: &str) -> &str {
    if domain.is_empty() { OWN_DOMAIN } else { domain }
}

fn opsets(imports: &[super::proto::OperatorSetIdProto]) -> HashMap<String, i64> {
    let row = |import: &super::proto::OperatorSetIdProto| (own(import.domain()).to_owned(), import.version());
    imports.iter().map(row).collect()
}

/// A model on its way into a builder.
pub(super) struct Importer<'m, 'g> {
    pub b: &'g Builder,
    pub binding: Binding<'m>,
    opsets: HashMap<String, i64>,
    functions: HashMap<(&'m str, &'m str), &'m FunctionProto>,
    /// Values computed while importing.
    hosts: RefCell<HashMap<NodeId, Vec<Arc<Tensor>>>>,
    host_elements: Cell<usize>,
    /// Inputs whose values were wanted.
    inputs: RefCell<BTreeSet<String>>,
    nodes: Cell<usize>,
    depth: Cell<usize>,
}

/// Values by name, those of the graphs around a body included.
pub(super) struct Scope<'s, 'g> {
    outer: Option<&'s Scope<'s, 'g>>,
    values: RefCell<HashMap<String, Val<'g>>>,
}

impl<'s, 'g> Scope<'s, 'g> {
    pub fn inside(outer: Option<&'s Scope<'s, 'g>>) -> Scope<'s, 'g> {
        Scope {
            outer,
            values: RefCell::default(),
        }
    }

    pub fn get(&self, name: &str) -> Option<Val<'g>> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            if let Some(&val) = here.values.borrow().get(name) {
                return Some(val);
            }
            scope = here.outer;
        }
        None
    }

    pub fn set(&self, name: &str, val: Val<'g>) -> Result<(), String> {
        match self.values.borrow_mut().insert(name.to_owned(), val) {
            None => Ok(()),
            Some(_) => Err(format!("there are two values `{name}`")),
        }
    }
}

impl<'m, 'g> Importer<'m, 'g> {
    /// The main graph: its outputs by name.
    fn whole(&self, graph: &'m GraphProto, initialisers: &[Result<Arc<Tensor>, String>]) -> Vec<(String, Val<'g>)> {
        let scope = Scope::inside(None);
        self.initialisers(graph, initialisers.iter().cloned(), &scope);
        for info in &graph.input {
            if scope.get(info.name()).is_none() {
                self.at(info.name().to_owned(), |importer| {
                    let val = importer.input(info).unwrap_or_else(|reason| {
                        let message = format!("input `{}`: {reason}", info.name());
                        importer.b.problem(message)
                    });
                    importer.define(&scope, info.name(), val);
                });
            }
        }
        self.nodes(&graph.node, &scope);
        let mut seen = BTreeSet::new();
        let mut outputs = Vec::new();
        for info in &graph.output {
            let name = info.name();
            let val = match scope.get(name) {
                Some(_) if !seen.insert(name) => self.b.problem(format!("there are two outputs `{name}`")),
                Some(val) => val,
                None => self.b.problem(format!("nothing makes the output `{name}`")),
            };
            outputs.push((name.to_owned(), val));
        }
        outputs
    }

    /// Runs with a place for what is built.
    fn at<T>(&self, place: String, run: impl FnOnce(&Self) -> T) -> T {
        let before = self.b.set_place(Some(Loc::Import(place.into())));
        let result = run(self);
        self.b.set_place(before);
        result
    }

    fn define(&self, scope: &Scope<'_, 'g>, name: &str, val: Val<'g>) {
        if let Err(reason) = scope.set(name, val) {
            self.b.problem(reason);
        }
    }

    fn initialisers(
        &self,
        graph: &GraphProto,
        tensors: impl Iterator<Item = Result<Arc<Tensor>, String>>,
        scope: &Scope<'_, 'g>,
    ) {
        for (proto, tensor) in graph.initializer.iter().zip(tensors) {
            self.at(proto.name().to_owned(), |importer| {
                let val = match tensor {
                    Ok(tensor) => importer.b.constant(tensor),
                    Err(reason) => importer.b.problem(format!("initializer `{}`: {reason}", proto.name())),
                };
                importer.define(scope, proto.name(), val);
            });
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |values| values.name());
            self.b
                .problem(format!("initializer `{name}` is sparse, which is not supported"));
        }
    }

    /// An input: an argument of the graph, or the constant it is bound to.
    fn input(&self, info: &ValueInfoProto) -> Result<Val<'g>, String> {
        let name = info.name();
        let bound = self.binding.values.iter().find(|(known, _)| known == name);
        let ty = info.r#type.as_ref().and_then(|ty| ty.value.as_ref());
        use type_proto::Value;
        let kind = match ty {
            Some(Value::TensorType(TensorType { elem_type, shape })) => Ok((elem_type, shape)),
            Some(Value::SequenceType(_)) => Err("a sequence"),
            Some(Value::MapType(_)) => Err("a map"),
            Some(Value::OptionalType(_)) => Err("an optional"),
            Some(Value::SparseTensorType(_)) => Err("a sparse tensor"),
            Some(Value::OpaqueType(_)) => Err("opaque"),
            None => Err("of no type"),
        };
        let (elem_type, shape) = kind.map_err(|kind| format!("it is {kind}, which is not supported"))?;
        let dtype = tensors::dtype(elem_type.unwrap_or(0))?;
        if let Some((_, tensor)) = bound {
            if tensor.dtype() != dtype {
                return Err(format!("it is {dtype}, bound to {}", tensor.ty()));
            }
            return Ok(self.b.constant(tensor.clone()));
        }
        let shape = shape.as_ref().ok_or("its shape is not given")?;
        let extents = (shape.dim.iter().enumerate()).map(|(axis, dim)| self.extent(name, axis, dim));
        let extents: Vec<usize> = extents.collect::<Result<_, String>>()?;
        Ok(self.b.input(name, dtype, extents))
    }

    fn extent(&self, input: &str, axis: usize, dim: &tensor_shape_proto::Dimension) -> Result<usize, String> {
        use tensor_shape_proto::dimension::Value;
        let place = format!("{input}.{axis}");
        let find = |wanted: &str| {
            let row = self.binding.extents.iter().find(|(name, _)| name == wanted);
            row.map(|(_, extent)| *extent)
        };
        match &dim.value {
            // Some write -1 for an extent that is open.
            Some(Value::DimValue(extent)) if *extent != -1 => {
                usize::try_from(*extent).map_err(|_| format!("the extent {extent} is negative"))
            }
            Some(Value::DimParam(name)) if !name.is_empty() => find(&place).or_else(|| find(name)).ok_or_else(|| {
                format!("its extent `{name}` along axis {axis} is open; bind it, as in `--shape {name}=1`")
            }),
            _ => find(&place)
                .ok_or_else(|| format!("its extent along axis {axis} is open; bind it, as in `--shape {place}=1`")),
        }
    }

    /// Every node in order.
    fn nodes(&self, nodes: &[NodeProto], scope: &Scope<'_, 'g>) {
        for node in nodes {
            let op = node.op_type();
            let name = match (node.name(), node.output.iter().find(|name| !name.is_empty())) {
                ("", Some(output)) => format!("{op} that makes {output}"),
                ("", None) => op.to_owned(),
                (name, _) => format!("{name} ({op})"),
            };
            self.at(name, |importer| importer.node(node, scope));
        }
    }

    fn node(&self, node: &NodeProto, scope: &Scope<'_, 'g>) {
        let results = match self.results(node, scope) {
            Ok(results) => results,
            Err(reason) => vec![self.b.problem(format!("{}: {reason}", node.op_type()))],
        };
        // What a failed node should have made is poison, so that only the first of a chain is reported.
        let poison = results.iter().copied().find(|val| val.is_poison());
        for (place, name) in node.output.iter().enumerate() {
            if name.is_empty() {
                continue;
            }
            let val = match (results.get(place), poison) {
                (Some(&val), _) => val,
                (None, Some(poison)) => poison,
                (None, None) => self
                    .b
                    .problem(format!("{}: the result `{name}` is not supported", node.op_type())),
            };
            self.define(scope, name, val);
        }
    }

    fn results(&self, node: &NodeProto, scope: &Scope<'_, 'g>) -> Result<Vec<Val<'g>>, String> {
        self.nodes.set(self.nodes.get() + 1);
        if self.nodes.get() > MOST_NODES {
            return Err("the model unrolls to too many nodes".to_owned());
        }
        let mut args = Vec::new();
        for name in &node.input {
            args.push(match name.as_str() {
                "" => None,
                name => Some(
                    scope
                        .get(name)
                        .ok_or_else(|| format!("nothing before it makes its operand `{name}`"))?,
                ),
            });
        }
        if let Some(poison) = args.iter().flatten().find(|val| val.is_poison()) {
            return Ok(vec![*poison]);
        }
        let domain = own(node.domain());
        if let Some(function) = self.functions.get(&(domain, node.op_type())) {
            return self.function(node, function, &args);
        }
        let opset = self.opsets.get(domain).copied();
        let row = ops::find(domain, node.op_type());
        let Some(row) = row else {
            let of = match opset {
                Some(opset) => format!("of `{domain}` {opset}"),
                None => format!("of `{domain}`, which the model does not import,"),
            };
            return Err(format!("this operator {of} is not supported"));
        };
        let cx = Cx {
            b: self.b,
            opset: opset.unwrap_or(1),
            node,
            args,
            importer: self,
            scope,
        };
        (row.1)(&cx)
    }

    /// The body of a function in the place of a node that calls it.
    fn function(
        &self,
        node: &NodeProto,
        function: &FunctionProto,
        args: &[Option<Val<'g>>],
    ) -> Result<Vec<Val<'g>>, String> {
        let depth = self.deeper()?;
        let scope = Scope::inside(None);
        for (name, val) in function.input.iter().zip(args) {
            if let Some(val) = val {
                scope.set(name, *val)?;
            }
        }
        let defaults = function.attribute_proto.iter();
        let find = |name: &str| -> Option<AttributeProto> {
            let given = node.attribute.iter().chain(defaults.clone());
            given.into_iter().find(|attribute| attribute.name() == name).cloned()
        };
        let body: Vec<NodeProto> = (function.node.iter())
            .map(|node| {
                let mut node = node.clone();
                let attributes = std::mem::take(&mut node.attribute);
                node.attribute = (attributes.into_iter())
                    .filter_map(|attribute| match attribute.ref_attr_name() {
                        "" => Some(attribute),
                        wanted => find(wanted).map(|found| AttributeProto {
                            name: attribute.name.clone(),
                            ..found
                        }),
                    })
                    .collect();
                node
            })
            .collect();
        self.nodes(&body, &scope);
        self.depth.set(depth);
        let outputs = (function.output.iter()).map(|name| {
            let val = scope.get(name);
            val.ok_or_else(|| format!("nothing in the function makes `{name}`"))
        });
        outputs.collect()
    }

    /// The results of a body on values for its inputs.
    pub fn body(&self, graph: &GraphProto, outer: &Scope<'_, 'g>, args: &[Val<'g>]) -> Result<Vec<Val<'g>>, String> {
        let depth = self.deeper()?;
        let scope = Scope::inside(Some(outer));
        if graph.input.len() != args.len() {
            return Err(format!(
                "the body takes {} values, there are {}",
                graph.input.len(),
                args.len()
            ));
        }
        for (info, val) in graph.input.iter().zip(args) {
            scope.set(info.name(), *val)?;
        }
        let tensors = graph.initializer.iter();
        let tensors = tensors.map(|proto| tensors::tensor(proto, self.binding.folder).map(Arc::new));
        self.initialisers(graph, tensors, &scope);
        self.nodes(&graph.node, &scope);
        self.depth.set(depth);
        let outputs = (graph.output.iter()).map(|info| {
            let val = scope.get(info.name());
            val.ok_or_else(|| format!("nothing in the body makes `{}`", info.name()))
        });
        outputs.collect()
    }

    /// Enters a body or function; gives the depth to go back to.
    fn deeper(&self) -> Result<usize, String> {
        let depth = self.depth.get();
        if depth >= MOST_DEPTH {
            return Err(format!("bodies and functions nest deeper than {MOST_DEPTH}"));
        }
        self.depth.set(depth + 1);
        Ok(depth)
    }

    /// The elements of a value, if they do not depend on the graph's arguments.
    pub fn known(&self, val: Val<'g>) -> Result<Arc<Tensor>, String> {
        let (node, part) = match self.b.node(val.id()).op {
            Op::Part(part) => (self.b.node(val.id()).args[0], part),
            _ => (val.id(), 0),
        };
        self.evaluate(node)?;
        Ok(self.hosts.borrow()[&node][part].clone())
    }

    fn evaluate(&self, id: NodeId) -> Result<(), String> {
        let mut missing = BTreeSet::new();
        let mut visited = BTreeSet::new();
        let mut stack = vec![id];
        while let Some(&id) = stack.last() {
            if self.hosts.borrow().contains_key(&id) {
                stack.pop();
                continue;
            }
            let node = self.b.node(id);
            if visited.insert(id) {
                let open: Vec<NodeId> = (node.args.iter().copied())
                    .filter(|arg| !self.hosts.borrow().contains_key(arg) && !visited.contains(arg))
                    .collect();
                if !open.is_empty() {
                    stack.extend(open);
                    continue;
                }
            }
            stack.pop();
            let results = match &node.op {
                Op::Const(tensor) => vec![tensor.clone()],
                Op::Input(input) => {
                    missing.insert(input.name.clone());
                    continue;
                }
                _ if !missing.is_empty() => continue,
                op => {
                    for ty in &node.types {
                        self.host_elements
                            .set(self.host_elements.get().saturating_add(ty.count()));
                        if self.host_elements.get() > MOST_HOST_ELEMENTS {
                            return Err(format!(
                                "a value of type {ty} is too large to be computed while importing"
                            ));
                        }
                    }
                    let hosts = self.hosts.borrow();
                    match op {
                        Op::Part(part) => vec![hosts[&node.args[0]][*part].clone()],
                        op => {
                            let args: Vec<&Tensor> = node.args.iter().map(|arg| &*hosts[arg][0]).collect();
                            op.rules().eval(&args).into_iter().map(Arc::new).collect()
                        }
                    }
                }
            };
            self.hosts.borrow_mut().insert(id, results);
        }
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
        self.inputs.borrow_mut().extend(missing);
        Err(format!("it depends on the value of {}", names.join(", ")))
    }
}
