//! Drawings for Graphviz, written by petgraph.

use petgraph::dot::{Config, Dot};

use super::print::operand;
use crate::graph::Graph;
use crate::ops::{Attr, Op};

/// The graph in Graphviz's language: inputs as boxes, outputs with a double line, edges labelled with the place of the
/// operand where a node has several. Bodies are named, not drawn.
pub fn dot(graph: &Graph) -> String {
    let edge = |graph: &Graph, edge: <&Graph as petgraph::visit::IntoEdgeReferences>::EdgeRef| {
        use petgraph::visit::EdgeRef;
        match graph.node(edge.target()).args.len() {
            1 => String::new(),
            _ => format!("label = \"{}\"", edge.weight()),
        }
    };
    let mut outputs = vec![Vec::new(); graph.len()];
    for (name, id) in &graph.outputs {
        outputs[id.at()].push(name.as_str());
    }
    let node = |graph: &Graph, (id, node): (crate::NodeId, &crate::Node)| {
        let mut lines = vec![format!("{} = {}", operand(graph, id), node.op.name())];
        if !matches!(node.op, Op::Input(_)) {
            for (name, attr) in node.op.rules().attrs() {
                let shown = match (&attr, name) {
                    (Attr::Tensor(tensor), _) => format!("{tensor:?}"),
                    (_, "") => attr.to_string(),
                    (_, name) => format!("{name}={attr}"),
                };
                lines.push(shown);
            }
        }
        lines.extend(node.types.iter().map(ToString::to_string));
        lines.extend(outputs[id.at()].iter().map(|name| format!("→ {name}")));
        let label = lines
            .join("\n")
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let shape = if matches!(node.op, Op::Input(_)) {
            ", shape = box"
        } else {
            ""
        };
        let border = if outputs[id.at()].is_empty() {
            ""
        } else {
            ", peripheries = 2"
        };
        format!("label = \"{label}\"{shape}{border}")
    };
    let config = [Config::NodeNoLabel, Config::EdgeNoLabel];
    format!("{:?}", Dot::with_attr_getters(graph, &config, &edge, &node))
}
