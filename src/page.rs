//! One HTML page that shows what the compiler made of an entry, offline: the graph, folded where blocks recur, and behind every region its nodes with
//! their source lines, its kernel's loops and code, what it costs, and where its results lie in the arena.
//!
//! The page is `page/page.html` with its style, its script and the data in place; the data is JSON, long texts compressed.

pub mod diff;
mod fold;

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use netloom_ir::cost;
use netloom_ir::error::Loc;
use netloom_ir::fuse::{self, Region, RegionKind};
use netloom_ir::graph::{Graph, NodeId};
use netloom_ir::kernel::Role;
use netloom_ir::ops::{Attr, Op};
use netloom_ir::text::op_summary;
use serde_json::{Value, json};

use crate::compile::Lowered;
use crate::device::Device;
use crate::dump;
use crate::error::Error;
use crate::layout::Layouts;
use crate::plan::{Base, KernelId, Plan, Step};
use crate::profile::KernelCost;
use fold::Item;
use netloom_ir::plan::walk;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The page of one entry of a lowered program; `costs` are what its kernels were measured to take, if they were.
///
/// # Errors
/// If there is no such entry, or no code for the device.
pub fn html(
    title: &str,
    entry: &str,
    lowered: &Lowered,
    device: &Device,
    costs: Option<&[KernelCost]>,
) -> Result<String, Error> {
    let found = (lowered.graphs.iter().zip(&lowered.plans)).find(|((name, _), _)| name == entry);
    let ((_, graph), plan) = found.ok_or_else(|| Error::Unknown(format!("there is no entry `{entry}`")))?;
    let regions = fuse::regions(graph);
    let runs = kernel_runs(plan, &regions);
    let used: HashSet<KernelId> = runs.iter().flatten().copied().collect();
    let kernels = kernels(lowered, &used, device, costs)?;
    let shown: Vec<Value> = (regions.iter().zip(&runs))
        .map(|(region, kernels)| {
            let mut value = region_value(graph, region, kernels);
            value["relayouts"] = relayouts(graph, region, entry, &lowered.layouts);
            value
        })
        .collect();
    let data = json!({
        "title": title,
        "entry": entry,
        "target": target_name(device),
        "nodes": graph.nodes().map(|(id, _)| node_value(graph, id)).collect::<Vec<_>>(),
        "regions": shown,
        "tree": tree(&fold::fold(&regions.iter().map(|region| look(graph, region)).collect::<Vec<_>>())),
        "arguments": plan.inputs.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(),
        "results": graph.outputs.iter().map(|(name, id)| json!([name, id.at()])).collect::<Vec<_>>(),
        "kernels": kernels,
        "memory": memory(plan, lowered),
    });
    // A `<` within a script could end it.
    let data = data.to_string().replace('<', "\\u003c");
    Ok(fill(
        PAGE,
        &[
            ("{{title}}", &escaped(title)),
            ("{{style}}", STYLE),
            ("{{data}}", &data),
            ("{{script}}", SCRIPT),
        ],
    ))
}

/// A template with each mark replaced once, so that what is put in is never looked into.
fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let mut rest = template;
    let mut filled = String::new();
    for (mark, part) in parts {
        let (before, after) = rest.split_once(mark).expect("the template has each mark, in order");
        filled += before;
        filled += part;
        rest = after;
    }
    filled + rest
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn target_name(device: &Device) -> String {
    match device {
        Device::Cpu(cpu) => format!("{}, {}", cpu.triple, cpu.name()),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(_) => device.name(),
    }
}

/// `[op with attributes, types, operands, place]`.
fn node_value(graph: &Graph, id: NodeId) -> Value {
    let node = graph.node(id);
    let op = match &node.op {
        Op::Input(input) => input.name.clone(),
        op => op_summary(op),
    };
    let types: Vec<String> = node.types.iter().map(ToString::to_string).collect();
    let args: Vec<usize> = node.args.iter().map(|arg| arg.at()).collect();
    let place = match &node.loc {
        Loc::None => String::new(),
        loc => loc.to_string(),
    };
    json!([op, types.join(", "), args, place, matches!(node.op, Op::Input(_))])
}

fn region_value(graph: &Graph, region: &Region, kernels: &[KernelId]) -> Value {
    let at = |ids: &[NodeId]| ids.iter().map(|id| id.at()).collect::<Vec<_>>();
    let flops: cost::Flops = (region.nodes.iter())
        .map(|&id| cost::flops(graph, graph.node(id)))
        .sum();
    let bytes: usize = (region.inputs.iter().chain(&region.outputs))
        .flat_map(|&id| &graph.node(id).types)
        .map(|ty| ty.len_bytes())
        .sum();
    let stopped: Vec<Value> = (region.stopped.iter())
        .map(|(id, reason)| json!([id.at(), reason]))
        .collect();
    json!({
        "nodes": at(&region.nodes),
        "inputs": at(&region.inputs),
        "outputs": at(&region.outputs),
        "stopped": stopped,
        "flops": flops.all,
        "bytes": bytes,
        "class": class(graph, region),
        "kernels": kernels.iter().map(|id| id.0).collect::<Vec<_>>(),
        "bodies": bodies(graph, region),
    })
}

/// Where a region reads one layout and writes another: `[value, whether it is written, its layout, why]` for each value that lies in blocks of channels,
/// and each that would if something did not keep it from it. Nothing where all lie alike.
fn relayouts(graph: &Graph, region: &Region, entry: &str, layouts: &Layouts) -> Value {
    let blocked = layouts.entry(entry);
    let read = region.inputs.iter().map(|id| (*id, false));
    let values: Vec<(NodeId, bool)> = read.chain(region.outputs.iter().map(|id| (*id, true))).collect();
    let is_image = |id: &NodeId| !matches!(graph.node(*id).op, Op::Const(_)) && graph.node(*id).types[0].rank() > 2;
    let is_border = |of: &dyn Fn(&NodeId) -> bool| values.iter().any(|(id, _)| is_image(id) && of(id));
    if !(is_border(&|id| blocked.contains_key(id)) && is_border(&|id| layouts.why_dense(entry, *id).is_some())) {
        return json!([]);
    }
    let told = values
        .iter()
        .filter(|(id, _)| is_image(id))
        .filter_map(|(id, written)| {
            let layout = blocked.get(id).map(ToString::to_string);
            let why = layouts.why_dense(entry, *id);
            (layout.is_some() || why.is_some()).then(|| {
                json!([
                    id.at(),
                    written,
                    layout.unwrap_or_else(|| "dense".to_owned()),
                    why.unwrap_or_default()
                ])
            })
        });
    told.collect()
}

/// The bodies of a loop or branch, as text.
fn bodies(graph: &Graph, region: &Region) -> Vec<Value> {
    let attrs = region.nodes.iter().flat_map(|&id| graph.node(id).op.rules().attrs());
    let texts = attrs.filter_map(|(name, attr)| match attr {
        Attr::Graph(body) => Some((name, body.to_string())),
        _ => None,
    });
    texts
        .map(|(name, text)| json!([name, text.len(), compressed(&text)]))
        .collect()
}

/// What a region mostly is: it gives the colour.
fn class(graph: &Graph, region: &Region) -> &'static str {
    let rank = |op: &Op| match op {
        Op::Scan(_) | Op::If(_) | Op::While(_) => (0, "control"),
        Op::Einsum(_) | Op::Conv(_) => (1, "contraction"),
        Op::Pool(_) => (2, "pool"),
        Op::Sort(_) | Op::Prefix(_) | Op::Scatter(_) => (3, "order"),
        Op::Fold(_) => (4, "fold"),
        Op::Random(_) => (5, "random"),
        Op::Map(_) => (6, "map"),
        Op::View(_) | Op::Gather(_) | Op::Iota(_) => (7, "view"),
        Op::Input(_) | Op::Const(_) | Op::Part(_) => (8, "view"),
    };
    let classes = region.nodes.iter().map(|&id| rank(&graph.node(id).op));
    classes.min().map_or("view", |(_, name)| name)
}

/// What a region looks like whatever its shapes: the operations and how they hang together.
fn look(graph: &Graph, region: &Region) -> u64 {
    let mut hasher = DefaultHasher::new();
    let places: HashMap<NodeId, usize> = region.nodes.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    for &id in &region.nodes {
        let node = graph.node(id);
        node.op.name().hash(&mut hasher);
        for arg in &node.args {
            places.get(arg).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// Regions by number; a repeat is a list of rounds.
fn tree(items: &[Item]) -> Value {
    let one = |item: &Item| match item {
        Item::One(at) => json!(at),
        Item::Repeat(rounds) => json!({ "rounds": rounds.iter().map(|round| tree(round)).collect::<Vec<_>>() }),
    };
    items.iter().map(one).collect()
}

/// For each region the kernels that its steps run: one, or those of its bodies.
fn kernel_runs(plan: &Plan, regions: &[Region]) -> Vec<Vec<KernelId>> {
    let mut of_nodes: HashMap<&[NodeId], Vec<KernelId>> = HashMap::new();
    let mut inner = Vec::new();
    for step in &plan.steps {
        match step {
            Step::Kernel { kernel, nodes, .. } => of_nodes.entry(nodes).or_default().push(*kernel),
            Step::Repeat { .. } | Step::Branch { .. } | Step::While { .. } => {
                let mut kernels = Vec::new();
                walk(std::slice::from_ref(step), &mut |step| {
                    if let Step::Kernel { kernel, .. } = step {
                        kernels.push(*kernel);
                    }
                });
                inner.push(kernels);
            }
            Step::Copy { .. } | Step::Count { .. } | Step::Barrier => {}
        }
    }
    let mut inner = inner.into_iter();
    let of_region = regions.iter().map(|region| match region.kind {
        RegionKind::Kernel => of_nodes.get(&region.nodes[..]).cloned().unwrap_or_default(),
        RegionKind::Compound => inner.next().unwrap_or_default(),
    });
    of_region.collect()
}

/// Each kernel's name, cost, loops and code; nothing for those of other entries.
fn kernels(
    lowered: &Lowered,
    used: &HashSet<KernelId>,
    device: &Device,
    costs: Option<&[KernelCost]>,
) -> Result<Vec<Value>, Error> {
    let each = lowered.kernels.ids().map(|id| {
        if !used.contains(&id) {
            return Ok(Value::Null);
        }
        let nest = lowered.kernels.nest(id);
        let kernel = lowered.kernels.kernel(id);
        let mut code = vec![("kernel", kernel.to_string()), ("nest", nest.to_string())];
        code.extend(dump::kernel_code(nest, device)?);
        let packed: Vec<Value> = code
            .iter()
            .map(|(stage, text)| json!([stage, text.len(), compressed(text)]))
            .collect();
        let cost = costs.and_then(|costs| costs.iter().find(|cost| cost.algorithm == code[0].1));
        let mut value = json!({ "name": nest.name, "code": packed });
        if let Some(cost) = cost {
            value["ms"] = json!(cost.time.as_secs_f64() * 1e3 / cost.runs.max(1) as f64);
        }
        Ok(value)
    });
    each.collect()
}

/// A text as gzip in base64, which a browser unpacks itself.
fn compressed(text: &str) -> String {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let packed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    STANDARD.encode(packed.expect("memory can be written to"))
}

/// What lies where in the arena at which step: `[offset, bytes, first step, last step, kernel]`.
fn memory(plan: &Plan, lowered: &Lowered) -> Value {
    let mut blocks: Vec<(usize, usize, usize, usize, usize)> = Vec::new();
    let mut names = Vec::new();
    walk(&plan.steps, &mut |step| {
        let Step::Kernel { kernel, buffers, .. } = step else {
            return;
        };
        let now = names.len();
        names.push(kernel.0);
        let roles = lowered.kernels.nest(*kernel).buffers.iter().map(|buffer| buffer.role);
        for (place, role) in buffers.iter().zip(roles).filter(|(place, _)| place.base == Base::Arena) {
            let overlaps = |block: &&mut (usize, usize, usize, usize, usize)| {
                block.0 < place.offset + place.bytes && place.offset < block.0 + block.1
            };
            match role {
                Role::Input => {
                    if let Some(block) = blocks.iter_mut().rev().find(overlaps) {
                        block.3 = now;
                    }
                }
                Role::Output | Role::SharedScratch | Role::WorkerScratch | Role::GroupScratch => {
                    blocks.push((place.offset, place.bytes, now, now, kernel.0));
                }
            }
        }
    });
    json!({ "bytes": plan.shared_bytes, "steps": names, "blocks": blocks })
}
