//! JSON, for other programs.
//!
//! ```json
//! {
//!   "netloom": 1,
//!   "nodes": [
//!     {"op": "input", "args": [], "types": ["f32[8,4]"], "attrs": {"": "x", "type": {"type": "f32[8,4]"}}},
//!     {"op": "sum", "args": [0], "types": ["f32[4]"], "attrs": {"axes": [0]}}
//!   ],
//!   "outputs": [{"name": "y", "node": 1}]
//! }
//! ```
//!
//! `netloom` is the version of this form: it grows when a reader of the old form would misread the new one. Nodes stand in order,
//! operands and outputs name them by position. Attributes have the names that the text form gives them, the one without a
//! name `""`. A number, a list of numbers, a boolean and a string are themselves; the others are `{"word": "max"}`, `{"dtype":
//! "f32"}`, `{"type": "f32[8,4]"}`, a constant `{"type": "f32[2]", "bytes": "0000803f00000040"}` (little-endian), and a body
//! `{"nodes": .., "outputs": ..}`. A graph that is cut has `regions` too, in order: `{"outputs": [7], "nodes": [4, 5, 7], "without": [{"node": 3,
//! "reason": "2 regions need it, and it is not computed twice"}]}`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::parse::{bytes_of, check_numbers, parse_type};
use crate::dtype::DType;
use crate::error::{Loc, Problem, Problems};
use crate::fuse::{self, Region};
use crate::graph::{Graph, NodeId};
use crate::ops::{self, Attr, Attrs};
use crate::tensor::{Tensor, Type};

/// The version of the form.
pub const VERSION: u64 = 1;

/// The graph as JSON, on one line.
pub fn to_json(graph: &Graph) -> String {
    let mut value = graph_value(graph);
    value["netloom"] = json!(VERSION);
    value.to_string()
}

/// The graph that a JSON text holds.
///
/// # Errors
/// The first thing that is wrong with the form, or what is wrong with the graph.
pub fn from_json(text: &str) -> Result<Graph, Problems> {
    let wrong = |message: String| Problems::from(Problem::new(format!("json: {message}"), Loc::None));
    let value: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    match value["netloom"].as_u64() {
        Some(VERSION) => {}
        Some(other) => return Err(wrong(format!("the form has version {other}, known is {VERSION}"))),
        None => return Err(wrong("`netloom`, the version of the form, is missing".to_owned())),
    }
    graph_of(&value).map_err(wrong)
}

fn graph_value(graph: &Graph) -> Value {
    let nodes = graph.nodes().map(|(_, node)| {
        let attrs: Map<String, Value> = node
            .op
            .rules()
            .attrs()
            .into_iter()
            .map(|(name, attr)| (name.to_owned(), attr_value(&attr)))
            .collect();
        json!({
            "op": node.op.name(),
            "args": node.args.iter().map(|arg| arg.0).collect::<Vec<_>>(),
            "types": node.types.iter().map(Type::to_string).collect::<Vec<_>>(),
            "attrs": attrs,
        })
    });
    let outputs = graph
        .outputs
        .iter()
        .map(|(name, id)| json!({"name": name, "node": id.0}));
    let mut value = json!({"nodes": nodes.collect::<Vec<_>>(), "outputs": outputs.collect::<Vec<_>>()});
    if graph.is_cut() {
        value["regions"] = graph.regions().iter().map(region_value).collect();
    }
    value
}

fn region_value(region: &Region) -> Value {
    let numbers = |ids: &[NodeId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let stopped = region.stopped.iter();
    json!({
        "outputs": numbers(&region.outputs),
        "nodes": numbers(&region.nodes),
        "without": stopped.map(|(id, reason)| json!({"node": id.0, "reason": reason})).collect::<Vec<_>>(),
    })
}

fn attr_value(attr: &Attr) -> Value {
    match attr {
        Attr::Int(value) => json!(value),
        Attr::Ints(values) => json!(values),
        Attr::Bool(value) => json!(value),
        Attr::Text(value) => json!(value),
        Attr::Word(value) => json!({"word": value}),
        Attr::DType(value) => json!({"dtype": value.name()}),
        Attr::Type(value) => json!({"type": value.to_string()}),
        Attr::Tensor(value) => {
            let bytes: String = value.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            json!({"type": value.ty().to_string(), "bytes": bytes})
        }
        Attr::Graph(body) => graph_value(body),
    }
}

fn graph_of(value: &Value) -> Result<Graph, String> {
    let mut graph = Graph::new();
    for (place, node) in list(value, "nodes")?.iter().enumerate() {
        let at = |message: String| format!("node {place}: {message}");
        let name = text(node, "op").map_err(at)?;
        let attrs = node["attrs"]
            .as_object()
            .ok_or_else(|| at("`attrs` is missing".to_owned()))?;
        let attrs = attrs.iter().map(|(name, value)| Ok((name.as_str(), attr_of(value)?)));
        let attrs: Attrs = attrs
            .collect::<Result<Vec<_>, String>>()
            .map_err(at)?
            .into_iter()
            .collect();
        let op = ops::parse(name, &attrs).map_err(at)?;
        let args = list(node, "args").map_err(at)?.iter();
        let args: Vec<NodeId> = args
            .map(|arg| node_of(arg, &graph))
            .collect::<Result<_, _>>()
            .map_err(at)?;
        let id = graph
            .push(op, args, Loc::None)
            .map_err(|problem| at(problem.to_string()))?;
        if id.at() != place {
            return Err(at(format!("equals node {}", id.0)));
        }
        let types: Vec<Option<&str>> = list(node, "types").map_err(at)?.iter().map(Value::as_str).collect();
        let found: Vec<String> = graph.node(id).types.iter().map(Type::to_string).collect();
        if !types.iter().copied().eq(found.iter().map(|ty| Some(ty.as_str()))) {
            return Err(at(format!("the result is {}", found.join(", "))));
        }
    }
    for output in list(value, "outputs")? {
        let name = text(output, "name")?;
        let id = node_of(&output["node"], &graph)?;
        if graph.outputs.iter().any(|(known, _)| known == name) {
            return Err(format!("there are two outputs `{name}`"));
        }
        if graph.node(id).types.len() != 1 {
            return Err(format!("the output `{name}` has several results"));
        }
        graph.outputs.push((name.to_owned(), id));
    }
    if value["regions"].is_null() {
        return Ok(graph);
    }
    let regions = list(value, "regions")?.iter().map(|region| region_of(region, &graph));
    let regions = regions.collect::<Result<Vec<_>, _>>()?;
    match fuse::check(&graph, &regions).map_err(|mut wrong| wrong.swap_remove(0)) {
        Ok(()) => Ok(graph.with_regions(regions)),
        Err(fuse::Wrong { region, message, .. }) => Err(match region {
            Some(number) => format!("region {number}: {message}"),
            None => message,
        }),
    }
}

fn region_of(value: &Value, graph: &Graph) -> Result<Region, String> {
    let nodes = |name| {
        list(value, name)?
            .iter()
            .map(|id| node_of(id, graph))
            .collect::<Result<Vec<_>, _>>()
    };
    let stopped = list(value, "without")?.iter();
    let stopped = stopped.map(|stop| Ok((node_of(&stop["node"], graph)?, text(stop, "reason")?.to_owned())));
    let stopped = stopped.collect::<Result<_, String>>()?;
    Ok(Region::new(graph, nodes("nodes")?, nodes("outputs")?, stopped))
}

fn attr_of(value: &Value) -> Result<Attr, String> {
    match value {
        Value::Bool(value) => Ok(Attr::Bool(*value)),
        Value::String(value) => Ok(Attr::Text(value.clone())),
        Value::Number(_) => number_of(value).map(Attr::Int),
        Value::Array(values) => {
            let numbers: Vec<i64> = values.iter().map(number_of).collect::<Result<_, _>>()?;
            check_numbers(&numbers)?;
            Ok(Attr::Ints(numbers))
        }
        Value::Object(fields) if fields.contains_key("nodes") => {
            graph_of(value).map(|body| Attr::Graph(Arc::new(body)))
        }
        Value::Object(fields) if fields.contains_key("word") => Ok(Attr::Word(text(value, "word")?.to_owned())),
        Value::Object(fields) if fields.contains_key("dtype") => {
            let name = text(value, "dtype")?;
            DType::from_name(name)
                .map(Attr::DType)
                .ok_or_else(|| format!("there is no element type `{name}`"))
        }
        Value::Object(fields) if fields.contains_key("type") => {
            let ty = parse_type(text(value, "type")?)?;
            if !fields.contains_key("bytes") {
                return Ok(Attr::Type(ty));
            }
            let bytes = bytes_of(&ty, text(value, "bytes")?)?;
            Ok(Attr::Tensor(Arc::new(Tensor::from_bytes(ty.dtype, ty.shape, bytes))))
        }
        Value::Null | Value::Object(_) => Err(format!("{value} is no attribute")),
    }
}

fn number_of(value: &Value) -> Result<i64, String> {
    let number = value.as_i64().ok_or_else(|| format!("{value} is no whole number"))?;
    check_numbers(&[number]).map(|()| number)
}

fn node_of(value: &Value, graph: &Graph) -> Result<NodeId, String> {
    let place = value.as_u64().filter(|place| *place < graph.len() as u64);
    let place = place.ok_or_else(|| format!("{value} is no node before this"))?;
    Ok(NodeId(u32::try_from(place).expect("less than the number of nodes")))
}

fn list<'v>(value: &'v Value, name: &str) -> Result<&'v Vec<Value>, String> {
    value[name]
        .as_array()
        .ok_or_else(|| format!("the list `{name}` is missing"))
}

fn text<'v>(value: &'v Value, name: &str) -> Result<&'v str, String> {
    value[name]
        .as_str()
        .ok_or_else(|| format!("the string `{name}` is missing"))
}
